//! Stories of disks that grow.

use super::pair::{Disk, Pair, SIZE, superblock, synced_pair};
use crate::meta::{DeviceFlags, MetaOp, Superblock};
use crate::resource::*;

const MORE: u64 = SIZE + (3 << 20);
const LAST: u64 = MORE / 4096 - 1;

fn resize(assume_clean: bool) -> Command {
    Command::Resize { volume: 0, size: None, assume_clean }
}

impl Pair {
    /// The administrators have made the disks larger; what is behind the old end differs.
    fn make_room(&mut self, rooms: [u64; 2]) {
        for (n, room) in rooms.into_iter().enumerate() {
            let was = self.nodes[n].disk.superblock.as_ref().unwrap().data_size;
            self.nodes[n].disk.room = room;
            let fill = 1000 + n as u64;
            self.nodes[n].disk.blocks.extend((was / 4096..room / 4096).map(|b| (b, fill)));
        }
    }

    fn one_event(&mut self) -> bool {
        let n = usize::from(self.nodes[0].done.is_empty());
        let Some(event) = self.nodes[n].done.pop_front() else { return false };
        self.event(n, event);
        true
    }

    fn size(&self, n: usize) -> u64 {
        self.status(n).devices[0].size
    }

    fn durable_size(&self, n: usize) -> u64 {
        self.nodes[n].disk.superblock.as_ref().unwrap().effective_size
    }
}

#[test]
fn a_volume_grows_with_both_disks_and_the_new_blocks_come_from_the_primary() {
    for by in [0, 1] {
        let mut pair = synced_pair();
        pair.make_room([MORE, MORE]);
        let text = pair.admin(by, resize(false)).unwrap();
        assert!(text.starts_with(&format!("{MORE} bytes")), "{text}");
        pair.synced();
        for n in 0..2 {
            assert_eq!((pair.size(n), pair.durable_size(n)), (MORE, MORE));
            assert_eq!(pair.nodes[n].disk.blocks[&LAST], 1000, "from the Primary");
        }
        let received = pair.status(1).connections[0].peer_devices[0].received;
        assert!(received <= SIZE + MORE - SIZE + 8192, "{received}");
        assert_eq!(pair.write(0, LAST, 7), Ok(None));
        assert_eq!(pair.write(0, LAST + 1, 7), Err(ReplyError::NoSpace));
        pair.synced();
        // It is there after both have crashed.
        for n in 0..2 {
            pair.kill(n);
        }
        pair.up(0);
        pair.up(1);
        pair.synced();
        assert_eq!([pair.size(0), pair.size(1)], [MORE; 2]);
        assert_eq!(pair.nodes[1].disk.blocks[&LAST], 7);
    }
}

#[test]
fn another_size_in_the_configuration_bounds_the_next_resize_and_nothing_shrinks() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    let half = SIZE + (1 << 20);
    let sized = |size| Command::SetSize { volume: 0, size };
    let refusal = pair.admin(1, sized(Some(SIZE - 4096))).unwrap_err();
    assert_eq!(refusal.code, 170, "{refusal:?}");
    assert_eq!(
        pair.admin(9 % 2, Command::SetSize { volume: 9, size: None }).unwrap_err().code,
        127
    );
    for n in 0..2 {
        pair.admin(n, sized(Some(half))).unwrap();
    }
    assert_eq!([pair.size(0), pair.size(1)], [SIZE; 2], "no order to grow was given");
    pair.admin(0, Command::Resize { volume: 0, size: Some(half), assume_clean: false }).unwrap();
    pair.synced();
    assert_eq!([pair.size(0), pair.size(1)], [half; 2]);
    // The room is there: `size` no longer stands in its way.
    for n in 0..2 {
        pair.admin(n, sized(Some(half))).unwrap();
    }
    let refusal =
        pair.admin(0, Command::Resize { volume: 0, size: Some(MORE), assume_clean: false });
    assert_eq!(refusal.unwrap_err().code, 111, "bob offers no more");
    pair.admin(1, sized(None)).unwrap();
    pair.admin(0, Command::Resize { volume: 0, size: Some(MORE), assume_clean: false }).unwrap();
    pair.synced();
    assert_eq!([pair.size(0), pair.size(1)], [MORE; 2]);
}

#[test]
fn of_two_orders_at_once_one_has_its_way_wherever_they_meet() {
    for ahead in 0..60 {
        let mut pair = synced_pair();
        pair.make_room([MORE, MORE]);
        let mut ids = [0; 2];
        for n in [ahead % 2, 1 - ahead % 2] {
            let command = resize(false);
            ids[n] = pair.next;
            pair.next += 1;
            pair.event(n, Event::Admin { id: ids[n], command });
            for _ in 0..ahead / 2 {
                pair.one_event();
            }
        }
        pair.run(10_000);
        let done = (0..2).filter(|n| pair.nodes[*n].admin[&ids[*n]].is_ok()).count();
        assert!(done > 0, "{ahead}: {:?} {:?}", pair.nodes[0].admin, pair.nodes[1].admin);
        pair.synced();
        assert_eq!([pair.size(0), pair.size(1)], [MORE; 2], "{ahead}");
    }
}

#[test]
fn of_two_secondaries_the_one_with_the_order_is_the_source() {
    let mut pair = synced_pair();
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
    pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    pair.make_room([MORE, MORE]);
    pair.admin(1, resize(false)).unwrap();
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks[&LAST], 1001);
}

#[test]
fn the_smaller_disk_decides_and_a_second_order_takes_the_rest() {
    let mut pair = synced_pair();
    pair.make_room([MORE, SIZE]);
    let text = pair.admin(0, resize(false)).unwrap();
    assert!(text.contains("the disk of bob has no more room"), "{text}");
    assert_eq!(pair.size(0), SIZE);
    pair.make_room([MORE, MORE - 4096]);
    pair.admin(1, resize(false)).unwrap();
    pair.synced();
    assert_eq!([pair.size(0), pair.size(1)], [MORE - 4096; 2]);
    pair.make_room([MORE, MORE]);
    let exact = Command::Resize { volume: 0, size: Some(MORE + 1), assume_clean: false };
    pair.admin(0, exact).unwrap();
    pair.synced();
    assert_eq!([pair.size(0), pair.size(1)], [MORE; 2]);
}

#[test]
fn what_cannot_be_is_refused_with_drbds_number() {
    let mut pair = synced_pair();
    let to = |size| Command::Resize { volume: 0, size: Some(size), assume_clean: false };
    let code = |result: AdminResult| result.unwrap_err().code;
    assert_eq!(
        code(pair.admin(0, Command::Resize { volume: 9, size: None, assume_clean: false })),
        127
    );
    assert_eq!(code(pair.admin(0, to(SIZE - 4096))), 170);
    assert_eq!(code(pair.admin(0, to(MORE))), 111, "no room here");
    pair.make_room([MORE, SIZE]);
    assert_eq!(code(pair.admin(0, to(MORE))), 111, "no room there");
    // Blocks that a verify has marked would be copied with the rest.
    pair.nodes[1].disk.blocks.insert(9, 4711);
    let verify = Command::Verify { volume: 0, peer: 1, start: None, stop: None };
    pair.admin(0, verify).unwrap();
    pair.run(10_000);
    assert_eq!(code(pair.admin(0, resize(false))), 130);
    assert_eq!(code(pair.admin(1, resize(false))), 130);
    pair.lose_link();
    assert_eq!(code(pair.admin(0, resize(false))), -15);
    pair.admin(0, Command::Detach { volume: 0, force: true }).unwrap();
    assert_eq!(pair.size(0), SIZE);
}

#[test]
fn assume_clean_compares_what_both_gain_and_syncs_nothing() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    let refusal = pair.admin(0, resize(true)).unwrap_err();
    assert_eq!(refusal.code, 162, "{refusal}");
    assert!(refusal.hint.contains("without --assume-clean"), "{refusal}");
    assert_eq!([pair.size(0), pair.size(1)], [SIZE; 2]);
    for n in 0..2 {
        pair.nodes[n].disk.blocks.retain(|block, _| *block < SIZE / 4096);
    }
    let before = pair.status(1).connections[0].peer_devices[0].received;
    pair.admin(0, resize(true)).unwrap();
    pair.synced();
    assert_eq!([pair.size(0), pair.size(1)], [MORE; 2]);
    let after = pair.status(1).connections[0].peer_devices[0].received;
    assert_eq!(after, before);
    assert_eq!(pair.write(0, LAST, 7), Ok(None));
    pair.synced();
}

#[test]
fn metadata_that_is_due_while_a_disk_takes_its_room_is_written_after_it() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    for n in 0..2 {
        pair.nodes[n].stall = |action| matches!(action, Action::GrowDisk { .. });
    }
    let id = pair.order(0, resize(false));
    // Cold extents, here and later there.
    let writes: Vec<u64> = (0..3).map(|i| pair.start_write(0, 1024 * (i + 2), 9)).collect();
    assert!(writes.iter().all(|write| !pair.nodes[0].replies.contains_key(write)));
    pair.nodes[0].unstall();
    pair.run(50);
    assert_eq!(pair.size(0), SIZE, "bob's disk has its room first");
    pair.nodes[1].unstall();
    pair.run(50);
    assert!(writes.iter().all(|write| pair.nodes[0].replies.contains_key(write)));
    assert!(pair.nodes[0].admin[&id].is_ok());
    pair.synced();
    assert_eq!([pair.size(0), pair.size(1)], [MORE; 2]);
}

#[test]
fn a_superblock_that_waited_for_the_move_says_what_the_disk_is_then() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    pair.nodes[0].stall = |action| matches!(action, Action::GrowDisk { .. });
    let id = pair.order(0, resize(false));
    let moved = pair.nodes[0].disk.superblock.clone().unwrap();
    assert_eq!(moved.data_size, MORE);
    // That it has survived is due now.
    pair.kill(1);
    pair.run(50);
    assert_eq!(pair.nodes[0].disk.superblock.as_ref(), Some(&moved));
    pair.nodes[0].unstall();
    pair.run(50);
    assert!(pair.nodes[0].admin[&id].is_err());
    let after = pair.nodes[0].disk.superblock.as_ref().unwrap();
    assert_ne!(after.flags & DeviceFlags::SURVIVED, 0);
    assert_eq!(after.data_size, MORE, "not what it was when this was due");
    assert!(after.sequence > moved.sequence);
}

#[test]
fn a_disk_that_fails_in_its_move_ends_the_order_and_not_the_service() {
    for broken in 0..2 {
        let mut pair = synced_pair();
        pair.make_room([MORE, MORE]);
        pair.nodes[broken].fail = |action| matches!(action, Action::GrowDisk { .. });
        assert!(pair.admin(0, resize(false)).is_err());
        assert_eq!(pair.disk(broken), DiskState::Diskless);
        assert_eq!(pair.write(0, 3, 3), Ok(None));
        pair.nodes[broken].fail = |_| false;
        pair.attach(broken).unwrap();
        pair.run(20_000);
        assert_eq!([pair.size(0), pair.size(1)], [SIZE; 2]);
        pair.admin(0, resize(false)).unwrap();
        pair.synced();
        assert_eq!([pair.size(0), pair.size(1)], [MORE; 2]);
    }
}

#[test]
fn a_disk_that_takes_its_room_for_the_peer_does_not_begin_anew_for_an_order_here() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    pair.nodes[1].stall = |action| matches!(action, Action::GrowDisk { .. });
    let id = pair.order(0, resize(false));
    let refusal = pair.admin(1, resize(false)).unwrap_err();
    assert_eq!(refusal.code, -18, "{refusal}");
    pair.nodes[1].unstall();
    pair.run(50);
    assert!(pair.nodes[0].admin[&id].is_ok());
    pair.synced();
}

#[test]
fn two_orders_that_cross_end_and_one_after_the_other_is_done() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    let ids: Vec<u64> = (0..2)
        .map(|n| {
            let id = pair.next;
            pair.next += 1;
            pair.event(n, Event::Admin { id, command: resize(false) });
            id
        })
        .collect();
    pair.run(60_000);
    assert!((0..2).all(|n| pair.nodes[n].admin.contains_key(&ids[n])));
    pair.admin(1, resize(false)).unwrap();
    pair.synced();
    assert_eq!([pair.size(0), pair.size(1)], [MORE; 2]);
}

/// After each event of a resize: the link is cut, or a node, or both, crash. They meet again, agree,
/// and hold the same.
#[test]
fn a_cut_after_any_step_leaves_one_size_and_equal_disks() {
    for assume_clean in [false, true] {
        let crashes = [&[][..], &[0], &[1], &[0, 1]];
        for crash in &crashes[if assume_clean { 3 } else { 0 }..] {
            let mut step = 0;
            let mut sizes = std::collections::BTreeSet::new();
            loop {
                let mut pair = synced_pair();
                pair.make_room([MORE, MORE]);
                if assume_clean {
                    for n in 0..2 {
                        pair.nodes[n].disk.blocks.retain(|block, _| *block < SIZE / 4096);
                    }
                }
                let id = pair.next;
                pair.next += 1;
                pair.event(0, Event::Admin { id, command: resize(assume_clean) });
                // The comparison changes nothing, and is long.
                while assume_clean && !pair.core(0).is_renegotiating(0) {
                    assert!(pair.one_event());
                }
                let ended = (0..step).any(|_| !pair.one_event());
                for n in *crash {
                    pair.kill(*n);
                }
                pair.cut();
                for n in *crash {
                    pair.up(*n);
                }
                pair.run(10_000);
                pair.synced();
                assert_eq!(pair.size(0), pair.size(1), "step {step} {crash:?}");
                assert_eq!(pair.durable_size(0), pair.durable_size(1), "step {step} {crash:?}");
                sizes.insert(pair.size(0));
                if pair.status(0).role == Role::Primary {
                    assert_eq!(pair.write(0, pair.size(0) / 4096 - 1, 8), Ok(None));
                }
                // Alone, it has the size that both had.
                let size = pair.size(0);
                pair.kill(0);
                pair.admin(1, Command::Primary { force: None }).unwrap();
                assert_eq!(pair.size(1), size);
                if ended {
                    break;
                }
                step += 1;
            }
            assert_eq!(sizes.len(), 2, "{step} steps, and the sizes {sizes:?}");
        }
    }
}

#[test]
fn the_target_takes_the_size_when_its_bits_are_durable_and_not_before() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    pair.nodes[1].stall = |action| matches!(action, Action::Meta { op: MetaOp::Bitmap { .. }, .. });
    pair.order(0, resize(false));
    assert_eq!([pair.durable_size(0), pair.durable_size(1)], [MORE, SIZE]);
    assert_eq!([pair.size(0), pair.size(1)], [MORE, SIZE]);
    pair.nodes[1].unstall();
    pair.synced();
    assert_eq!([pair.durable_size(0), pair.durable_size(1)], [MORE, MORE]);
}

fn moves(action: &Action) -> bool {
    matches!(action, Action::GrowDisk { .. })
}

fn set_options(pair: &mut Pair, n: usize, set: impl Fn(&mut Options)) {
    let mut options = super::pair::config(u8::try_from(n).unwrap()).options;
    set(&mut options);
    let volumes = std::collections::BTreeMap::new();
    pair.admin(n, Command::SetOptions { options: Box::new(options), volumes }).unwrap();
}

#[test]
fn a_disk_that_hangs_in_its_move_is_named_and_can_be_given_up() {
    for by in [0, 1] {
        let mut pair = synced_pair();
        pair.make_room([MORE, MORE]);
        pair.nodes[0].stall = moves;
        let id = pair.order(by, resize(false));
        pair.run(8_000);
        assert!(pair.status(0).devices[0].hung_ms.is_some(), "by {by}");
        let waits = pair.core(by).order_waits_for(pair.now);
        assert!(waits.contains(["the disk of", "the answer of the peer"][by]), "{waits}");
        let give_up = pair.order(0, Command::Detach { volume: 0, force: true });
        pair.run(60_000);
        assert!(pair.nodes[by].admin[&id].is_err(), "by {by}");
        assert!(pair.nodes[0].admin[&give_up].is_ok(), "by {by}");
        assert_eq!(pair.write(0, 3, 3), Ok(None));
        pair.nodes[0].unstall();
        pair.run(100);
        pair.attach(0).unwrap();
        pair.synced();
    }
}

#[test]
fn a_node_whose_disk_hangs_in_its_move_goes_down() {
    for (by, shutdown) in [(0, false), (0, true), (1, true)] {
        let mut pair = synced_pair();
        pair.make_room([MORE, MORE]);
        pair.nodes[1].stall = moves;
        let id = pair.order(by, resize(false));
        pair.run(1_000);
        let down = pair.order(1, Command::Down { shutdown });
        pair.run(100_000);
        assert!(pair.nodes[by].admin[&id].is_err(), "by {by} {shutdown}");
        assert!(pair.nodes[1].admin[&down].is_ok(), "by {by} {shutdown}");
    }
}

#[test]
fn the_peer_has_its_own_time_after_a_move_that_took_long() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    pair.nodes[0].stall = moves;
    pair.nodes[1].stall = moves;
    let id = pair.order(0, resize(false));
    pair.run(40_000);
    pair.nodes[0].unstall();
    pair.run(20_000);
    assert_eq!(pair.nodes[0].admin.get(&id), None);
    pair.nodes[1].unstall();
    pair.run(1_000);
    assert!(pair.nodes[0].admin[&id].is_ok());
    pair.synced();
}

#[test]
fn a_long_move_is_neither_a_failure_nor_the_fault_of_the_metadata_that_waits_for_it() {
    let mut pair = synced_pair();
    set_options(&mut pair, 0, |options| options.disk_timeout_ms = 3_000);
    pair.make_room([MORE, MORE]);
    pair.nodes[0].stall = moves;
    let id = pair.order(0, resize(false));
    let write = pair.start_write(0, 2048, 9);
    pair.run(20_000);
    assert_eq!(pair.disk(0), DiskState::UpToDate);
    // After it they have as long as any other.
    pair.nodes[0].stall = |action| matches!(action, Action::Meta { .. });
    pair.nodes[0].unstall();
    pair.run(1_000);
    assert_eq!(pair.nodes[0].replies[&write], Ok(None));
    assert!(pair.nodes[0].admin[&id].is_ok());
    pair.synced();
}

#[test]
fn a_resize_whose_handshake_does_not_begin_ends_with_the_session() {
    let mut pair = synced_pair();
    (0..2).for_each(|n| set_options(&mut pair, n, |options| options.ko_count = 0));
    pair.make_room([MORE, MORE]);
    pair.nodes[1].stall =
        |action| matches!(action, Action::DiskWrite { .. } | Action::DiskFlush { .. });
    let write = pair.start_write(0, 3, 9);
    let id = pair.order(0, resize(false));
    pair.run(60_000);
    assert_eq!(pair.nodes[0].admin[&id].as_ref().unwrap_err().code, -15);
    assert_eq!(pair.nodes[0].replies[&write], Ok(None));
    pair.nodes[1].unstall();
    pair.synced();
    assert_eq!(pair.size(0), pair.size(1));
}

/// An order in the midst of another one, on either node: both are answered, and the pair can be brought
/// back together. `stall`: disks of the second order's node hang from then on, and are freed at last.
fn crossing(
    first: &Command,
    primary: bool,
    (by, second): (usize, &Command),
    step: usize,
    stall: bool,
) -> bool {
    let mut pair = synced_pair();
    if !primary {
        pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
        pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    }
    pair.make_room([MORE, MORE]);
    let id = pair.next;
    pair.next += 2;
    pair.event(0, Event::Admin { id, command: first.clone() });
    let ended = (0..step).any(|_| !pair.one_event());
    let case = format!("{first:?} {primary}, {by} {second:?} at {step} {stall}");
    let other = |n: usize| 1 - u8::try_from(n).unwrap();
    let mut command = second.clone();
    if let Command::InvalidateRemote { peer, .. }
    | Command::Verify { peer, .. }
    | Command::Disconnect { peer, .. }
    | Command::PauseSync { peer, .. } = &mut command
    {
        *peer = other(by);
    }
    if stall {
        pair.nodes[by].stall = |action| {
            matches!(
                action,
                Action::DiskRead { .. }
                    | Action::DiskWrite { .. }
                    | Action::DiskZeroes { .. }
                    | Action::DiskFlush { .. }
                    | Action::GrowDisk { .. }
                    | Action::Meta { .. }
            )
        };
    }
    pair.event(by, Event::Admin { id: id + 1, command });
    let write = primary.then(|| pair.start_write(0, 2048, 9));
    pair.run(120_000);
    if stall {
        pair.nodes[by].unstall();
        assert!(pair.nodes[by].admin.contains_key(&(id + 1)), "{case}");
        pair.run(1_000);
    }
    assert!(pair.nodes[0].admin.contains_key(&id), "{case}");
    assert!(pair.nodes[by].admin.contains_key(&(id + 1)), "{case}");
    let down = matches!(second, Command::Down { .. }) && pair.nodes[by].admin[&(id + 1)].is_ok();
    if down {
        pair.kill(by);
        pair.up(by);
    }
    for n in 0..2 {
        let _ = pair.admin(n, Command::SuspendIo { suspend: false });
        let _ = pair.admin(n, Command::PauseSync { volume: 0, peer: other(n), pause: false });
    }
    // A disk that can only be the source is attached before they meet.
    for n in 0..2 {
        let leave = Command::Disconnect { peer: other(n), force: true, for_ms: None };
        let _ = pair.admin(n, leave);
        if pair.disk(n) == DiskState::Diskless {
            let _ = pair.attach(n);
        }
    }
    for n in 0..2 {
        let (peer, discard_my_data, tentative) = (other(n), false, false);
        let _ = pair.admin(n, Command::Connect { peer, discard_my_data, tentative });
    }
    pair.run(30_000);
    for n in 0..2 {
        if pair.disk(n) == DiskState::Diskless {
            let _ = pair.attach(n);
        }
    }
    pair.run(30_000);
    // What is held is dropped with the session that a demotion closes.
    let closed = down || matches!(second, Command::Secondary { .. });
    if let Some(write) = write.filter(|_| !closed) {
        assert!(pair.nodes[0].replies.contains_key(&write), "{case}");
    }
    ended
}

#[test]
fn whatever_is_ordered_in_a_resize_both_orders_end() {
    const STRIDE: usize = 29;
    let for_ms = Some(5_000);
    let others = [
        Command::Invalidate { volume: 0 },
        Command::InvalidateRemote { volume: 0, peer: 9 },
        Command::Outdate { volume: 0 },
        Command::Verify { volume: 0, peer: 9, start: None, stop: None },
        Command::NewCurrentUuid { volume: 0, clear_bitmap: false },
        Command::NewCurrentUuid { volume: 0, clear_bitmap: true },
        Command::Detach { volume: 0, force: false },
        Command::Detach { volume: 0, force: true },
        Command::Disconnect { peer: 9, force: false, for_ms },
        Command::Disconnect { peer: 9, force: true, for_ms: None },
        Command::Primary { force: None },
        Command::AutoPromote,
        Command::Secondary { force: true, wait_ms: 5_000 },
        Command::SuspendIo { suspend: true },
        Command::PauseSync { volume: 0, peer: 9, pause: true },
        Command::Down { shutdown: false },
        Command::Down { shutdown: true },
        resize(false),
        resize(true),
    ];
    let first = resize(false);
    for (at, second) in others.iter().enumerate() {
        let hangs = matches!(second, Command::Down { .. } | Command::Detach { force: true, .. });
        for (by, primary) in [(0, true), (1, true), (0, false), (1, false)] {
            for stall in if hangs { &[false, true][..] } else { &[false] } {
                // A smaller stride finds no more, and takes its time.
                let mut step = at % STRIDE;
                while !crossing(&first, primary, (by, second), step, *stall) && step < 60 {
                    step += STRIDE;
                }
            }
        }
    }
}

#[test]
fn a_peer_that_gives_its_disk_up_before_the_handshake_of_a_growth_is_missed_by_the_next_write() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    pair.nodes[0].stall = |action| matches!(action, Action::DiskWrite { .. });
    let id = pair.start_write(0, 30, 3);
    pair.order(0, resize(false));
    pair.run(100);
    let before = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid & !1;
    pair.order(1, Command::Detach { volume: 0, force: true });
    pair.run(100);
    pair.nodes[0].unstall();
    pair.run(5_000);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    assert_eq!(pair.write(0, 31, 4), Ok(None));
    let after = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid & !1;
    assert_ne!(before, after, "it rests on one disk");
    pair.attach(1).unwrap();
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&31), Some(&4));
}

/// A new disk that is too small for the volume is told so at once, not that it could only be the source.
#[test]
fn a_disk_that_is_too_small_for_a_volume_in_use_is_refused_with_its_size() {
    let mut pair = synced_pair();
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    let small = SIZE - (1 << 20);
    let fresh = Superblock { device_uuid: 300, data_size: small, ..superblock(1) };
    pair.nodes[1].disk = Disk { superblock: Some(fresh), ..Disk::default() };
    let refusal = pair.attach(1).expect_err("it is too small");
    assert_eq!(refusal.code, 111, "{refusal:?}");
    assert!(refusal.hint.contains("at least 1048576 more"), "{refusal:?}");
    assert_eq!(pair.disk(1), DiskState::Diskless);
}
