//! Stories of disks: the wrong one, an empty one, an old one, a full one.

use super::pair::{Disk, Pair, SIZE, superblock, synced_pair};
use super::source::primary_that_is_target;
use crate::meta::{COUNTER_BELIEVED, COUNTER_MAX};
use crate::resource::*;

#[test]
fn a_disk_of_another_node_volume_or_resource_is_refused_before_anything_is_done_with_it() {
    let mut pair = Pair::new();
    pair.run(2000);
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    let own = pair.nodes[1].disk.superblock.clone();
    let mut strangers = [superblock(0), superblock(1), superblock(1)];
    strangers[1].volume = 1;
    strangers[2].resource = "r1".into();
    for stranger in strangers {
        pair.nodes[1].disk.superblock = Some(stranger.clone());
        let refusal = pair.attach(1).expect_err("it is not ours");
        assert_eq!(refusal.code, 119, "{refusal:?}");
        assert_eq!(pair.disk(1), DiskState::Diskless);
        assert_eq!(pair.nodes[1].disk.superblock, Some(stranger), "nothing was written");
    }
    pair.nodes[1].disk.superblock = own;
    pair.attach(1).unwrap();
    pair.primary(0, true);
    pair.write(0, 5, 55).unwrap();
    pair.synced();
}

#[test]
fn pieces_of_nothing_but_zeroes_are_synced_without_a_payload_and_replace_what_the_target_had() {
    let mut pair = Pair::new();
    pair.run(2000);
    pair.nodes[0].disk.blocks.extend([(3, 33), (5000, 50)]);
    pair.nodes[1].disk.blocks.extend([(3, 1), (700, 70), (9000, 90)]);
    pair.primary(0, true);
    pair.synced();
    let received = pair.status(1).connections[0].peer_devices[0].received;
    assert!((8192..=2 << 20).contains(&received), "{received} bytes: two pieces have data");
    assert_eq!(pair.status(0).connections[0].peer_devices[0].sent, received);
    let zeroes = format!("{} KiB of them zeroes", (SIZE - received) >> 10);
    assert!(pair.nodes[1].log.iter().any(|line| line.contains(&zeroes)), "{zeroes}");
    // The target's disk has no room even for that: the blocks stay out of sync, as with data.
    pair.lose_link();
    pair.write(0, 5000, 0).unwrap();
    pair.nodes[1].fail =
        |action| matches!(action, Action::DiskZeroes { no_hole: false, written: true, .. });
    pair.link = true;
    pair.run(20_000);
    assert_eq!(pair.disk(1), DiskState::Diskless);
    assert_eq!(pair.nodes[1].disk.blocks.get(&5000), Some(&50));
}

/// The target is Primary: a client's write to blocks that are just being made zeroes comes after them.
#[test]
fn a_write_waits_for_the_zeroes_that_a_resync_makes_of_its_blocks() {
    let mut pair = synced_pair();
    pair.write(0, 700, 70).unwrap();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    pair.write(0, 700, 0).unwrap();
    pair.nodes[0].stall = |action| matches!(action, Action::DiskZeroes { .. });
    pair.attach_later(0);
    pair.run(1_000);
    let id = pair.start_write(0, 700, 7);
    pair.run(100);
    assert!(!pair.nodes[0].replies.contains_key(&id), "{}", pair.story());
    pair.nodes[0].unstall();
    pair.synced();
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    assert_eq!([0, 1].map(|n| pair.nodes[n].disk.blocks.get(&700).copied()), [Some(7); 2]);
}

#[test]
fn a_write_into_a_hole_that_is_asked_for_waits_until_the_target_has_made_it() {
    let mut pair = Pair::new();
    pair.run(2000);
    pair.nodes[1].disk.blocks.extend([(700, 70), (9000, 90)]);
    pair.nodes[0].stall = |action| matches!(action, Action::FindHole { .. });
    pair.primary(0, true);
    pair.run(100);
    let id = pair.start_write(0, 700, 7);
    pair.run(100);
    assert!(!pair.nodes[0].replies.contains_key(&id), "it is in the range of the question");
    pair.nodes[0].unstall();
    pair.synced();
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    assert_eq!(pair.nodes[1].disk.blocks.get(&700), Some(&7));
    assert_eq!(pair.nodes[1].disk.blocks.get(&9000), None);
}

#[test]
fn scattered_blocks_between_holes_take_little_room_on_the_target() {
    let mut pair = Pair::new();
    pair.run(2000);
    pair.nodes[0].disk.blocks.extend((0..6).map(|i| (700 + i * 2500, i + 1)));
    pair.primary(0, true);
    pair.synced();
    let received = pair.status(1).connections[0].peer_devices[0].received;
    assert!(received <= 6 * (16 << 10), "{received} bytes for six blocks");
}

#[test]
fn an_empty_disk_is_synced_with_a_few_questions() {
    let mut pair = Pair::new();
    pair.run(2000);
    pair.nodes[1].disk.blocks.extend([(700, 70), (9000, 90)]);
    // What is read would be read in pieces of 1 MiB.
    pair.nodes[0].fail = |action| matches!(action, Action::DiskRead { .. });
    pair.primary(0, true);
    pair.synced();
    assert_eq!(pair.disk(0), DiskState::UpToDate, "nothing was read");
}

/// Both have written alone and have met: node 1 is to lose its data.
fn split_pair() -> Pair {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.primary(1, false);
    pair.write(0, 1, 1).unwrap();
    pair.write(1, 2, 2).unwrap();
    pair.link = true;
    pair.run(20_000);
    for n in 0..2 {
        assert_eq!(pair.status(n).connections[0].reason, Reason::SplitBrain);
    }
    pair.event(1, Event::SessionClosed { session: SessionId(2), disconnect: true });
    pair.admin(1, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    pair
}

#[test]
fn an_order_to_discard_is_for_the_generations_that_were_found() {
    let discard = Command::Connect { peer: 0, discard_my_data: true, tentative: false };
    let connect = Command::Connect { peer: 1, discard_my_data: false, tentative: false };
    let mut pair = split_pair();
    pair.admin(1, discard.clone()).unwrap();
    assert!(pair.status(1).connections[0].discard_my_data_pending);
    pair.admin(0, Command::NewCurrentUuid { volume: 0, clear_bitmap: false }).unwrap();
    pair.admin(0, connect.clone()).unwrap();
    pair.run(20_000);
    let log = pair.nodes[1].log.join("\n");
    assert_eq!(pair.status(1).connections[0].reason, Reason::SplitBrain, "{log}");
    assert!(log.contains("--discard-my-data has lapsed"), "{log}");
    assert!(!pair.status(1).connections[0].discard_my_data_pending);
    assert_eq!(pair.nodes[1].disk.blocks.get(&2), Some(&2), "nothing is overwritten");
    // Ordered anew, for what is known now.
    pair.admin(1, discard).unwrap();
    pair.admin(0, connect).unwrap();
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&2), Some(&0));
}

#[test]
fn an_order_to_discard_outlives_a_session_that_ends_before_its_volumes_are_open() {
    let mut pair = split_pair();
    // The verdict is known, its first update of the metadata is not durable.
    pair.nodes[1].stall = |action| matches!(action, Action::Meta { .. });
    let discard = Command::Connect { peer: 0, discard_my_data: true, tentative: false };
    pair.admin(1, discard).unwrap();
    pair.order(0, Command::Connect { peer: 1, discard_my_data: false, tentative: false });
    pair.run(20);
    assert_eq!(pair.status(1).connections[0].last_handshake[0].rule, "bitmap-both");
    assert!(pair.status(1).connections[0].discard_my_data_pending);
    pair.lose_link();
    pair.nodes[1].unstall();
    pair.link = true;
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&2), Some(&0), "what was discarded is gone");
    assert!(!pair.status(1).connections[0].discard_my_data_pending);
}

#[test]
fn a_full_disk_in_the_middle_of_a_resync_is_let_go_of_where_the_peer_has_the_data() {
    let mut pair = primary_that_is_target();
    pair.nodes[0].full = |action| matches!(action, Action::DiskWrite { .. });
    let id = pair.start_write(0, 5000, 9);
    pair.run(4_000);
    let log = pair.nodes[0].log.join("\n");
    assert_eq!(pair.disk(0), DiskState::Diskless, "{log}");
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)), "{log}");
    assert_eq!(pair.nodes[1].disk.blocks.get(&5000), Some(&9));
    pair.nodes[0].full = |_| false;
    pair.nodes[1].unstall();
    pair.attach(0).unwrap();
    pair.synced();
}

#[test]
fn an_image_from_the_middle_of_a_session_is_noticed_when_writes_went_on_for_a_while() {
    for old in 0..2 {
        let mut pair = synced_pair();
        pair.write(0, 5, 1).unwrap();
        let image = pair.nodes[old].disk.clone();
        for second in 0..12 {
            // No extent becomes hot.
            pair.write(0, 5, second).unwrap();
            pair.run(1_000);
        }
        pair.kill(old);
        pair.nodes[old].disk = image;
        pair.up(old);
        pair.run(20_000);
        let connection = &pair.status(0).connections[0];
        assert_eq!(connection.reason, Reason::RolledBack, "{}", pair.nodes[0].log.join("\n"));
    }
}

#[test]
fn a_disk_that_nobody_writes_to_keeps_its_number() {
    let mut pair = synced_pair();
    pair.write(0, 5, 1).unwrap();
    pair.run(15_000);
    let numbers = |pair: &Pair| {
        [0, 1].map(|n| pair.nodes[n].disk.superblock.as_ref().map(|s| (s.number, s.sequence)))
    };
    let before = numbers(&pair);
    pair.run(60_000);
    assert_eq!(numbers(&pair), before);
    pair.write(0, 5, 2).unwrap();
    pair.run(15_000);
    assert!(numbers(&pair).iter().zip(&before).all(|(new, old)| new > old));
    pair.lose_link();
    let before = numbers(&pair)[1];
    pair.write(0, 5, 3).unwrap();
    pair.run(1_000);
    let alone = numbers(&pair)[0].map(|(number, _)| number);
    pair.run(30_000);
    assert_eq!(numbers(&pair)[0].map(|(number, _)| number), alone, "no peer would be shown it");
    assert!(numbers(&pair)[1] >= before);
}

/// Power fails on node 0 while its metadata is on its way to the disk: none of that is there.
fn power_loss_before(pair: &mut Pair, image: Disk) {
    let blocks = pair.nodes[0].disk.blocks.clone();
    pair.kill(0);
    pair.nodes[0].stall = |_| false;
    pair.nodes[0].disk = Disk { blocks, ..image };
    pair.up(0);
    pair.synced();
    for n in 0..2 {
        assert!(!pair.nodes[n].log.iter().any(|line| line.contains("rolled-back")));
    }
}

#[test]
fn a_number_that_grows_with_time_is_shown_only_when_it_is_durable() {
    let mut pair = synced_pair();
    pair.write(0, 5, 1).unwrap();
    pair.run(15_000);
    pair.write(0, 5, 2).unwrap();
    let image = pair.nodes[0].disk.clone();
    pair.nodes[0].stall = |action| matches!(action, Action::Meta { .. });
    pair.run(12_000);
    assert!(!pair.nodes[0].stalled.is_empty(), "the number grows just now");
    power_loss_before(&mut pair, image);
}

#[test]
fn a_number_that_grows_with_the_log_is_shown_only_when_it_is_durable() {
    let mut pair = synced_pair();
    pair.write(0, 5, 1).unwrap();
    pair.run(15_000);
    pair.write(0, 5, 2).unwrap();
    pair.nodes[0].stall = |action| {
        use crate::meta::MetaOp::{ActivityLog, Superblock};
        matches!(action, Action::Meta { op: Superblock(_) | ActivityLog { .. }, .. })
    };
    pair.run(12_000);
    // A number gets to the disk, and is shown. Before that another one is on its way.
    let image = pair.nodes[0].disk.clone();
    pair.start_write(0, 12_000, 3);
    assert_eq!(pair.nodes[0].stalled.len(), 2);
    let number = pair.nodes[0].stalled.pop_front().expect("just counted");
    pair.event(0, number);
    pair.run(20);
    power_loss_before(&mut pair, image);
}

#[test]
fn a_survivor_that_is_outdated_while_it_deals_with_the_loss_is_not_overwritten() {
    let mut pair = synced_pair();
    pair.write(0, 9, 99).unwrap();
    pair.nodes[1].stall = |action| matches!(action, Action::DiskFlush { .. });
    // The Primary loses power, and with it what it had not flushed.
    pair.lose_power(0);
    pair.nodes[0].disk.blocks.remove(&9);
    pair.run(100);
    let outdate = pair.order(1, Command::Outdate { volume: 0 });
    pair.run(1_000);
    assert_eq!(pair.nodes[1].admin.get(&outdate), None, "it waits for the flush");
    pair.nodes[1].unstall();
    pair.run(1_000);
    assert_eq!(pair.nodes[1].admin.remove(&outdate), Some(Ok(String::new())));
    assert_eq!(pair.disk(1), DiskState::Outdated);
    pair.up(0);
    pair.run(12_000);
    assert_eq!(pair.nodes[1].disk.blocks.get(&9), Some(&99), "refused, and asked");
    assert_eq!(pair.status(1).connections[0].reason, Reason::ResyncRefused);
}

#[test]
fn of_a_disk_that_a_session_refuses_nothing_is_remembered() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.admin(0, Command::Detach { volume: 0, force: true }).unwrap();
    // In its place comes one that was forced alone, with data of its own.
    let mut other = Pair::new();
    other.link = false;
    other.primary(0, true);
    pair.nodes[0].disk.superblock = other.nodes[0].disk.superblock.clone();
    let superblock = pair.nodes[0].disk.superblock.as_mut().unwrap();
    superblock.number = 7;
    // Both pairs draw the same one.
    superblock.current_uuid ^= 0x1000;
    let seen = pair.nodes[1].disk.seen;
    pair.attach(0).unwrap();
    pair.run(2_000);
    assert!(pair.nodes[0].log.iter().any(|line| line.contains("could only be the source")));
    assert_eq!(pair.disk(0), DiskState::Diskless);
    assert_eq!(pair.nodes[1].disk.seen, seen);
}

/// Alice's disk is an older image of itself, and bob, whose disk has seen a higher number of it, has none.
fn set_back_beside_diskless() -> Pair {
    let mut pair = synced_pair();
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    for n in [1, 0] {
        pair.admin(n, Command::Detach { volume: 0, force: n == 0 }).unwrap();
    }
    pair.nodes[0].disk.superblock.as_mut().unwrap().number = 0;
    pair.nodes[0].disk.hot.values_mut().for_each(|words| words[60] = 0);
    let seen = *pair.nodes[1].disk.seen.iter().max().unwrap();
    assert!(seen.max(pair.nodes[1].disk.superblock.as_ref().unwrap().peers[0].seen_number) > 0);
    pair.attach(0).unwrap();
    pair.run(2_000);
    pair
}

#[test]
fn a_disk_that_was_set_back_stays_noticed_when_a_session_has_refused_the_other_one() {
    let mut pair = set_back_beside_diskless();
    for _ in 0..5 {
        // Refused each time: alice's number must not grow past what bob has seen.
        pair.nodes[1].log.clear();
        let _ = pair.attach(1);
        pair.run(2_000);
        let refused = pair.nodes[1].log.iter().any(|line| line.contains("rule=rolled-back"));
        assert!(refused, "{:?}", pair.nodes[1].log);
    }
}

#[test]
fn a_disk_that_was_set_back_does_not_catch_up_beside_a_peer_without_a_disk() {
    let mut pair = set_back_beside_diskless();
    pair.primary(0, false);
    for value in 1..6 {
        pair.write(0, 5, value).unwrap();
        pair.run(15_000);
    }
    pair.nodes[1].log.clear();
    let _ = pair.attach(1);
    pair.run(2_000);
    let refused = pair.nodes[1].log.iter().any(|line| line.contains("rule=rolled-back"));
    assert!(refused, "{:?}", pair.nodes[1].log);
    let note = &pair.status(1).devices[0].disk_note;
    assert!(note.contains("put the right one back") && !note.contains("connect"), "{note}");
}

/// The own number grows above what the peer says that it has seen; a peer that says nonsense must not make
/// it one with which nobody reads this disk again.
#[test]
fn a_number_that_no_disk_reaches_is_not_believed_of_a_peer() {
    let mut pair = Pair::new();
    pair.run(2000);
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    let slots = &mut pair.nodes[1].disk.superblock.as_mut().unwrap().peers;
    slots.iter_mut().for_each(|slot| slot.seen_number = COUNTER_MAX);
    pair.attach(1).unwrap();
    pair.primary(1, true);
    pair.write(1, 5, 55).unwrap();
    pair.synced();
    let number = pair.nodes[0].disk.superblock.as_ref().unwrap().number;
    assert!((1 << 32..COUNTER_BELIEVED).contains(&number), "{number}");
}

#[test]
fn a_target_that_writes_zeroes_for_holes_is_given_one_long_hole_at_a_time() {
    let mut pair = Pair::new();
    for n in 0..2 {
        pair.kill(n);
        pair.nodes[n].disk.superblock.as_mut().unwrap().data_size = 8 * SIZE;
        pair.up(n);
    }
    pair.run(2000);
    let holes = |pair: &Pair| {
        let lengths = pair.nodes[1].writing.iter().map(|(_, start, end)| end - start);
        lengths.filter(|length| *length > PAYLOAD_MAX.into()).count()
    };
    pair.nodes[1].stall = |action| matches!(action, Action::DiskZeroes { .. });
    pair.primary(0, true);
    pair.run(700);
    assert_eq!(holes(&pair), 1, "nobody knows yet what it takes");
    let done = pair.nodes[1].stalled.drain(..).collect::<Vec<_>>();
    pair.nodes[1].done.extend(done);
    pair.run(10);
    assert_eq!(holes(&pair), 1, "it has taken long");
    pair.nodes[1].unstall();
    pair.synced();
}

/// The peer goes on alone behind a detach: the disk must not come back as if it knew of nothing.
#[test]
fn a_detach_is_answered_when_its_mark_is_durable_and_refused_where_it_cannot_be() {
    use crate::meta::{DeviceFlags, MetaOp};
    let marks = |action: &Action| {
        matches!(action, Action::Meta { op: MetaOp::Superblock(s), .. }
            if s.flags & DeviceFlags::OUTDATED != 0)
    };
    for n in 0..2 {
        let mut pair = synced_pair();
        pair.nodes[n].stall = marks;
        let id = pair.order(n, Command::Detach { volume: 0, force: false });
        pair.run(100);
        assert_eq!(pair.nodes[n].admin.get(&id), None, "{}", pair.story());
        pair.nodes[n].unstall();
        pair.run(100);
        assert_eq!(pair.nodes[n].admin.get(&id), Some(&Ok(String::new())), "{}", pair.story());
        pair.attach(n).unwrap();
        pair.synced();

        pair.nodes[n].fail = marks;
        let detach = Command::Detach { volume: 0, force: false };
        let refusal = pair.admin(n, detach).expect_err("its mark is nowhere");
        assert_eq!(refusal.code, 118, "{refusal:?}");
    }
}
