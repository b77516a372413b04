//! Online verify and its repair, on two resources.

use super::pair::*;
use crate::meta::DeviceFlags;
use crate::resource::*;

fn verify(start: Option<u64>, stop: Option<u64>, peer: u8) -> Command {
    Command::Verify { volume: 0, peer, start, stop }
}

/// Orders a verify on `n` and waits for its end.
fn verified(pair: &mut Pair, n: usize) -> LastVerify {
    let peer = u8::try_from(1 - n).unwrap();
    assert_eq!(pair.admin(n, verify(None, None, peer)), Ok(String::new()));
    pair.run(20_000);
    last(pair, n)
}

fn last(pair: &Pair, n: usize) -> LastVerify {
    assert!(side(pair, n).verify.is_none(), "{}", pair.nodes[n].log.join("\n"));
    side(pair, n).last_verify.expect("a verify has ended")
}

fn side(pair: &Pair, n: usize) -> PeerDeviceStatus {
    pair.status(n).connections[0].peer_devices[0].clone()
}

fn repair(from: u8, peer: u8) -> Command {
    Command::Repair { volume: 0, peer, from }
}

/// The bits that are durable on a disk.
fn durable_bits(pair: &Pair, n: usize) -> u32 {
    pair.nodes[n].disk.pages.values().flatten().map(|word| word.count_ones()).sum()
}

fn refused(result: AdminResult) -> i32 {
    result.expect_err("refused").code
}

#[test]
fn equal_disks_are_found_equal_from_either_side() {
    let mut pair = synced_pair();
    for n in 0..2 {
        let end = verified(&mut pair, n);
        assert_eq!((end.start, end.position, end.done), (0, SIZE, true));
        assert_eq!((end.found, end.skipped), (0, 0));
        let other = last(&pair, 1 - n);
        assert_eq!((other.position, other.done, other.found), (SIZE, true, 0));
        for n in 0..2 {
            let log = pair.nodes[n].log.join("\n");
            assert!(log.contains("Online verify done"), "{log}");
        }
    }
    let log = pair.nodes[0].log.join("\n");
    assert!(log.contains("repl( Established -> VerifyS )"), "{log}");
    assert!(log.contains("repl( VerifyT -> Established )"), "{log}");
    pair.synced();
}

#[test]
fn a_falsified_block_is_marked_on_both_nodes_and_repair_copies_it() {
    for n in 0..2 {
        let mut pair = synced_pair();
        pair.nodes[1].disk.blocks.insert(4321, 666);
        let end = verified(&mut pair, n);
        assert_eq!((end.found, end.done), (4096, true));
        assert_eq!(last(&pair, 1 - n).found, 4096);
        for n in 0..2 {
            assert_eq!(side(&pair, n).out_of_sync, 4096);
            assert_eq!(durable_bits(&pair, n), 1);
            let log = pair.nodes[n].log.join("\n");
            assert!(log.contains("Out of sync: start=34568, size=8 (sectors)"), "{log}");
            assert!(log.contains("Online verify found 1 4k block out of sync!"), "{log}");
        }
        assert_eq!(pair.nodes[1].disk.blocks.get(&4321), Some(&666), "nothing is overwritten");
        let before = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
        assert_eq!(pair.admin(n, repair(0, u8::try_from(1 - n).unwrap())), Ok(String::new()));
        pair.synced();
        assert_eq!(pair.nodes[1].disk.blocks.get(&4321).copied().unwrap_or(0), 0);
        let moved = pair.nodes[1].log.iter().filter(|line| line.contains("[1 bits set]")).count();
        assert_eq!(moved, 1, "one block was copied");
        let after = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
        assert_eq!(before, after, "the generation is the same");
    }
}

#[test]
fn a_range_is_logged_as_one_and_stop_and_start_are_kept() {
    let mut pair = synced_pair();
    for block in 100..140 {
        pair.nodes[1].disk.blocks.insert(block, 1);
    }
    pair.nodes[1].disk.blocks.insert(2000, 1);
    let stop = Some(1000 * 4096);
    assert_eq!(pair.admin(0, verify(None, stop, 1)), Ok(String::new()));
    pair.run(5000);
    let end = last(&pair, 0);
    assert_eq!((end.position, end.done, end.found), (1000 * 4096, true, 40 * 4096));
    let log = pair.nodes[0].log.join("\n");
    assert!(log.contains("Out of sync: start=800, size=320 (sectors)"), "{log}");
    assert_eq!(pair.admin(0, verify(stop, None, 1)), Ok(String::new()));
    pair.run(20_000);
    let end = last(&pair, 0);
    assert_eq!((end.start, end.position, end.found), (1000 * 4096, SIZE, 4096));
    assert_eq!(side(&pair, 1).out_of_sync, 41 * 4096);
}

#[test]
fn a_write_under_way_is_compared_before_or_after_and_never_in_between() {
    for (n, from) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        // The write has reached one disk, and not the other, when the verify gets there.
        let mut pair = synced_pair();
        pair.nodes[from].stall = |action| matches!(action, Action::DiskWrite { .. });
        let id = pair.start_write(0, 50, 5);
        let peer = u8::try_from(1 - n).unwrap();
        assert_eq!(pair.admin(n, verify(None, None, peer)), Ok(String::new()));
        pair.run(1000);
        assert!(side(&pair, n).verify.is_some(), "it waits for the write");
        pair.nodes[from].unstall();
        pair.run(20_000);
        assert_eq!(pair.nodes[0].replies.remove(&id), Some(Ok(None)));
        assert_eq!((last(&pair, n).found, last(&pair, n).done), (0, true));
        // The verify has read one disk, and not the other, when the write comes.
        pair.nodes[from].stall = |action| matches!(action, Action::DiskRead { .. });
        pair.admin(n, verify(None, None, peer)).unwrap();
        let id = pair.start_write(0, 0, 6);
        assert_eq!(pair.nodes[0].replies.get(&id), None, "the write waits for the verify");
        pair.nodes[from].unstall();
        pair.run(20_000);
        assert_eq!(pair.nodes[0].replies.remove(&id), Some(Ok(None)));
        assert_eq!((last(&pair, n).found, last(&pair, n).done), (0, true));
        pair.synced();
    }
}

/// A verify on node `n` whose reads on the other node do not end.
fn held_verify(n: usize) -> Pair {
    let mut pair = synced_pair();
    pair.nodes[1 - n].stall = |action| matches!(action, Action::DiskRead { .. });
    pair.admin(n, verify(None, None, u8::try_from(1 - n).unwrap())).unwrap();
    pair.run(100);
    assert_eq!(side(&pair, n).replication_state, ReplicationState::VerifyS);
    assert_eq!(side(&pair, 1 - n).replication_state, ReplicationState::VerifyT);
    pair
}

#[test]
fn a_loss_a_disconnect_and_a_detach_end_it_and_say_where_it_was() {
    for n in 0..2 {
        let mut pair = held_verify(n);
        pair.lose_link();
        pair.run(100);
        let end = last(&pair, n);
        assert_eq!((end.position, end.done, end.found), (0, false, 0));
        assert!(!last(&pair, 1 - n).done);
        let log = pair.nodes[n].log.join("\n");
        assert!(log.contains("`tandemadm verify --start 0 r0/0` goes on there"), "{log}");
        pair.nodes[1 - n].unstall();
        pair.link = true;
        pair.synced();

        let mut pair = held_verify(n);
        let peer = u8::try_from(1 - n).unwrap();
        let id = pair.order(n, Command::Disconnect { peer, force: false, for_ms: None });
        pair.nodes[1 - n].unstall();
        pair.run(1000);
        assert_eq!(pair.nodes[n].admin.remove(&id), Some(Ok(String::new())));
        assert!(!last(&pair, n).done && !last(&pair, 1 - n).done);

        let mut pair = held_verify(n);
        let id = pair.order(1, Command::Detach { volume: 0, force: false });
        pair.nodes[1 - n].unstall();
        pair.run(1000);
        assert_eq!(pair.nodes[1].admin.remove(&id), Some(Ok(String::new())));
        assert!(!last(&pair, n).done && !last(&pair, 1 - n).done);
        assert_eq!(side(&pair, 0).replication_state, ReplicationState::Established);
        pair.attach(1).unwrap();
        pair.synced();
    }
}

#[test]
fn a_new_handshake_and_a_resync_end_it() {
    for n in 0..2 {
        let mut pair = held_verify(n);
        let id = pair.order(1, Command::Invalidate { volume: 0 });
        for n in 0..2 {
            assert!(!last(&pair, n).done);
        }
        pair.nodes[1 - n].unstall();
        pair.run(1000);
        assert_eq!(pair.nodes[1].admin.remove(&id), Some(Ok(String::new())));
        pair.synced();
    }
}

#[test]
fn a_stop_ends_a_running_verify_and_anything_else_is_refused_meanwhile() {
    let mut pair = held_verify(0);
    let at = side(&pair, 0).verify.unwrap();
    assert_eq!((at.start, at.stop, at.position), (0, SIZE, 0));
    assert_eq!(refused(pair.admin(0, verify(None, None, 1))), -8);
    assert_eq!(refused(pair.admin(1, verify(None, None, 0))), -8);
    assert_eq!(refused(pair.admin(0, repair(0, 1))), -8);
    // An end that no disk has is the one there is.
    assert_eq!(pair.admin(0, verify(None, Some(u64::MAX), 1)), Ok(String::new()));
    assert_eq!(pair.admin(0, verify(None, Some(0), 1)), Ok(String::new()));
    pair.nodes[1].unstall();
    pair.run(1000);
    let end = last(&pair, 0);
    assert!(end.done && end.position < SIZE, "{end:?}");
    assert_eq!(last(&pair, 1).position, end.position);
    pair.synced();
}

#[test]
fn a_demotion_and_a_promotion_do_not_end_it() {
    let mut pair = held_verify(1);
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
    let id = pair.order(0, Command::Secondary { force: false, wait_ms: 0 });
    pair.run(100);
    assert_eq!(pair.nodes[0].admin.remove(&id), Some(Ok(String::new())));
    pair.primary(1, false);
    let id = pair.start_write(1, 0, 9);
    pair.nodes[0].unstall();
    pair.run(20_000);
    assert_eq!(pair.nodes[1].replies.remove(&id), Some(Ok(None)));
    assert_eq!((last(&pair, 1).found, last(&pair, 1).done), (0, true));
    pair.synced();
}

#[test]
fn a_disk_that_cannot_be_read_is_skipped_where_errors_are_passed_on() {
    for bad in 0..2 {
        let mut pair = passing_pair();
        let fails = |action: &Action| matches!(action, Action::DiskRead { offset: 131_072, .. });
        pair.nodes[bad].fail = fails;
        pair.nodes[1].disk.blocks.insert(5000, 1);
        let end = verified(&mut pair, 0);
        assert_eq!((end.found, end.skipped, end.done), (4096, 131_072, true));
        assert_eq!(last(&pair, 1).skipped, 131_072);
    }
    let mut pair = synced_pair();
    pair.nodes[1].fail = |action| matches!(action, Action::DiskRead { offset: 131_072, .. });
    pair.admin(0, verify(None, None, 1)).unwrap();
    pair.run(1000);
    assert_eq!(pair.disk(1), DiskState::Diskless);
    assert!(!last(&pair, 0).done && !last(&pair, 1).done);
}

#[test]
fn what_cannot_be_verified_is_refused_with_drbds_numbers() {
    let mut pair = synced_pair();
    assert_eq!(refused(pair.admin(0, verify(None, None, 7))), 127);
    let wrong = Command::Verify { volume: 3, peer: 1, start: None, stop: None };
    assert_eq!(refused(pair.admin(0, wrong)), 127);
    assert_eq!(refused(pair.admin(0, verify(Some(SIZE), None, 1))), 162);
    for (start, stop, says) in [
        (None, 0, "No verify that was ordered here runs."),
        (Some(8192), 4096, "The stop has to be behind the start."),
    ] {
        let refusal = pair.admin(0, verify(start, Some(stop), 1)).expect_err("nothing lies there");
        assert_eq!((refusal.code, refusal.hint.as_str()), (162, says));
    }
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(refused(pair.admin(0, verify(None, None, 1))), -5);
    assert_eq!(refused(pair.admin(1, verify(None, None, 0))), -4);
    pair.lose_link();
    assert_eq!(refused(pair.admin(0, verify(None, None, 1))), -15);
}

#[test]
fn repair_goes_away_from_a_primary_only_and_names_a_node() {
    let mut pair = synced_pair();
    assert_eq!(pair.admin(0, repair(0, 1)), Ok("nothing is out of sync".to_owned()));
    pair.nodes[1].disk.blocks.insert(9, 1);
    verified(&mut pair, 0);
    assert_eq!(refused(pair.admin(0, repair(1, 1))), -2);
    assert_eq!(refused(pair.admin(1, repair(1, 0))), -10);
    assert_eq!(refused(pair.admin(0, repair(5, 1))), 171);
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
    pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    // Of two Secondaries the one that is named has the good data.
    assert_eq!(pair.admin(0, repair(1, 1)), Ok(String::new()));
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks.get(&9), Some(&1));
}

#[test]
fn marks_outlive_a_loss_and_the_primary_is_the_source() {
    let mut pair = synced_pair();
    pair.nodes[1].disk.blocks.insert(9, 1);
    verified(&mut pair, 1);
    assert_eq!(pair.request(0, 1001, Op::Flush), Ok(None));
    pair.lose_link();
    assert_eq!(side(&pair, 0).out_of_sync, 4096);
    pair.kill(1);
    pair.up(1);
    pair.link = true;
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&9).copied().unwrap_or(0), 0);
}

#[test]
fn two_orders_at_once_make_one_verify() {
    let mut pair = synced_pair();
    let (first, second) = (pair.next, pair.next + 1);
    pair.next += 2;
    pair.event(0, Event::Admin { id: first, command: verify(None, None, 1) });
    pair.event(1, Event::Admin { id: second, command: verify(None, None, 0) });
    pair.run(20_000);
    assert_eq!(pair.nodes[0].admin.remove(&first), Some(Ok(String::new())));
    assert_eq!(refused(pair.nodes[1].admin.remove(&second).unwrap()), -8);
    assert!(last(&pair, 0).done && last(&pair, 1).done);
}

/// A synced pair without a Primary, one block of node 1 falsified and found by a verify on `n`.
fn marked_pair(n: usize) -> Pair {
    let mut pair = synced_pair();
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
    pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    pair.nodes[1].disk.blocks.insert(4321, 666);
    assert_eq!(verified(&mut pair, n).found, 4096);
    pair
}

/// Both Established, the block still differs, and both say so.
fn marks_stand(pair: &mut Pair) {
    pair.link = true;
    pair.run(30_000);
    for n in 0..2 {
        let log = pair.nodes[n].log.join("\n");
        assert_eq!(side(pair, n).replication_state, ReplicationState::Established, "{log}");
        assert_eq!(pair.disk(n), DiskState::UpToDate);
        assert_eq!(side(pair, n).out_of_sync, 4096, "{log}");
        assert!(log.contains("rule=verify-marks"), "{log}");
    }
    assert_eq!(pair.nodes[1].disk.blocks.get(&4321), Some(&666), "nothing is overwritten");
    assert_eq!(pair.nodes[0].disk.blocks.get(&4321), None, "nothing is overwritten");
}

#[test]
fn what_a_verify_has_marked_is_not_overwritten_when_two_secondaries_meet_again() {
    for n in 0..2 {
        // The link, three times: no lot is drawn.
        let mut pair = marked_pair(n);
        for _ in 0..3 {
            pair.lose_link();
            pair.run(100);
            marks_stand(&mut pair);
        }
        // One process crashes, the other, both; and a stop in order.
        for killed in [vec![0], vec![1], vec![0, 1]] {
            for &victim in &killed {
                pair.kill(victim);
            }
            pair.run(1000);
            for victim in killed {
                pair.up(victim);
            }
            marks_stand(&mut pair);
        }
        let id = pair.order(1, Command::Down { shutdown: false });
        pair.run(2000);
        assert_eq!(pair.nodes[1].admin.remove(&id), Some(Ok(String::new())));
        pair.kill(1);
        pair.up(1);
        marks_stand(&mut pair);
        // It is settled by order, and then there are no marks.
        assert_eq!(pair.admin(0, repair(1, 1)), Ok(String::new()));
        pair.synced();
        assert_eq!(pair.nodes[0].disk.blocks.get(&4321), Some(&666));
        for n in 0..2 {
            let flags = pair.nodes[n].disk.superblock.as_ref().unwrap().flags;
            let marks = DeviceFlags::VERIFY_MARKS | DeviceFlags::LOSS_BITS;
            assert_eq!(flags & marks, 0);
        }
    }
}

#[test]
fn a_loss_beside_the_marks_has_its_source() {
    // The Primary's process crashes with a hot extent: what it may have written goes to the other.
    let mut pair = marked_pair(0);
    pair.primary(0, false);
    pair.write(0, 7, 77).unwrap();
    pair.kill(0);
    pair.kill(1);
    pair.up(0);
    pair.up(1);
    pair.synced();
    let log = pair.nodes[0].log.join("\n");
    assert!(log.contains("rule=crashed-primary"), "{log}");
    // A Primary that goes on alone is the source of everything.
    let mut pair = marked_pair(1);
    pair.primary(1, false);
    pair.lose_link();
    pair.write(1, 8, 88).unwrap();
    pair.link = true;
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks.get(&4321), Some(&666));
}

#[test]
fn a_mark_that_only_one_node_has_gives_no_direction() {
    for n in 0..2 {
        let mut pair = synced_pair();
        pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
        pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
        pair.nodes[1].disk.blocks.insert(4321, 666);
        pair.nodes[n].stall = |action| {
            let Action::DiskRead { offset, length, .. } = action else { return false };
            (*offset..offset + u64::from(*length)).contains(&(4321 * 4096))
        };
        let peer = u8::try_from(1 - n).unwrap();
        assert_eq!(pair.admin(n, verify(None, None, peer)), Ok(String::new()));
        pair.run(5000);
        // It compares; what it has found does not arrive.
        pair.nodes[n].mute = true;
        pair.nodes[n].unstall();
        pair.settle();
        assert_eq!((side(&pair, n).out_of_sync, side(&pair, 1 - n).out_of_sync), (4096, 0));
        pair.lose_link();
        (pair.nodes[n].mute, pair.link) = (false, true);
        pair.nodes[n].air.clear();
        pair.kill(0);
        pair.kill(1);
        pair.up(0);
        pair.up(1);
        pair.run(30_000);
        for n in 0..2 {
            assert_eq!(side(&pair, n).replication_state, ReplicationState::Established);
            assert_eq!(side(&pair, n).out_of_sync, 4096, "both know it");
        }
        assert_eq!(pair.nodes[1].disk.blocks.get(&4321), Some(&666), "nothing is overwritten");
        assert_eq!(pair.nodes[0].disk.blocks.get(&4321), None, "nothing is overwritten");
        assert_eq!(pair.admin(1 - n, repair(0, peer_of(1 - n))), Ok(String::new()));
        pair.synced();
    }
}

fn peer_of(n: usize) -> u8 {
    u8::try_from(1 - n).unwrap()
}

#[test]
fn opposite_repairs_at_once_leave_a_good_disk() {
    for (first, second) in [((0, 0), (1, 1)), ((0, 1), (1, 0))] {
        let mut pair = marked_pair(0);
        let ids = [pair.next, pair.next + 1];
        pair.next += 2;
        for (id, (n, from)) in ids.into_iter().zip([first, second]) {
            pair.event(n, Event::Admin { id, command: repair(from, peer_of(n)) });
        }
        pair.synced();
        let done = ids.map(|id| pair.nodes.iter_mut().find_map(|node| node.admin.remove(&id)));
        assert_eq!(done[0], Some(Ok(String::new())), "of the lower node id");
        assert!(matches!(&done[1], Some(Err(refusal)) if refusal.code == -10), "{done:?}");
        let good = if first.1 == 0 { 0 } else { 666 };
        assert_eq!(pair.nodes[0].disk.blocks.get(&4321).copied().unwrap_or(0), good);
    }
}

#[test]
fn a_crash_in_the_middle_of_marking_never_lets_a_lot_decide() {
    type Kind = fn(&Action) -> bool;
    let superblock: Kind =
        |a| matches!(a, Action::Meta { op: crate::meta::MetaOp::Superblock(_), .. });
    let pages: Kind = |a| matches!(a, Action::Meta { op: crate::meta::MetaOp::Bitmap { .. }, .. });
    for case in 0..16 {
        let (n, victim, slow) = (case & 1, case >> 1 & 1, case >> 2 & 1);
        let kind = if case >> 3 == 0 { superblock } else { pages };
        let mut pair = synced_pair();
        pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
        pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
        pair.nodes[1].disk.blocks.insert(4321, 666);
        pair.nodes[slow].stall = kind;
        pair.order(n, verify(None, None, peer_of(n)));
        pair.run(5000);
        pair.kill(victim);
        pair.nodes[slow].unstall();
        pair.run(1000);
        pair.up(victim);
        pair.run(30_000);
        let context = pair.nodes[0].log.join("\n");
        for n in 0..2 {
            let state = side(&pair, n).replication_state;
            assert_eq!(state, ReplicationState::Established, "{case}\n{context}");
        }
        assert_eq!(side(&pair, 0).out_of_sync, side(&pair, 1).out_of_sync, "{case}\n{context}");
        assert_eq!(pair.nodes[1].disk.blocks.get(&4321), Some(&666), "{case}\n{context}");
        assert_eq!(pair.nodes[0].disk.blocks.get(&4321), None, "{case}\n{context}");
    }
}

#[test]
fn what_it_found_is_durable_on_both_nodes_before_done_is_said() {
    let mut pair = synced_pair();
    pair.nodes[1].disk.blocks.insert(9, 1);
    pair.nodes[0].stall =
        |action| matches!(action, Action::Meta { op: crate::meta::MetaOp::Bitmap { .. }, .. });
    let id = pair.order(0, verify(None, None, 1));
    pair.run(20_000);
    assert_eq!(pair.nodes[0].admin.remove(&id), Some(Ok(String::new())));
    assert!(side(&pair, 0).last_verify.is_none() && side(&pair, 1).last_verify.is_none());
    pair.nodes[0].stall = |_| false;
    pair.nodes[0].unstall();
    pair.run(1_000);
    assert!(last(&pair, 0).done && last(&pair, 1).done);
    for node in &pair.nodes {
        assert_eq!(node.disk.pages[&0][0] >> 9 & 1, 1, "{:?}", node.disk.pages.keys());
    }
}
