//! Stories of disks that run full: no client sees an error, no good copy is let go of for it, and
//! what waits goes on by itself.

use super::pair::{Pair, config, synced_pair};
use crate::resource::*;

/// Only writes that need room: others go to blocks that the disk has.
fn new_blocks(action: &Action) -> bool {
    match action {
        Action::DiskWrite { offset, .. } => *offset >= 1000 * 4096,
        _ => false,
    }
}

/// Two disks never run full at the same write.
fn even(action: &Action) -> bool {
    new_blocks(action)
        && matches!(action, Action::DiskWrite { offset, .. } if offset / 4096 % 2 == 0)
}

fn odd(action: &Action) -> bool {
    new_blocks(action) && !even(action)
}

impl Pair {
    fn waits(&self, id: u64) -> bool {
        !self.nodes[0].replies.contains_key(&id)
    }

    fn done(&self, id: u64) -> bool {
        self.nodes[0].replies.get(&id) == Some(&Ok(None))
    }

    fn frozen(&self) -> [bool; 2] {
        [0, 1].map(|n| self.status(n).suspended_no_space)
    }

    fn room(&mut self, n: usize) {
        self.nodes[n].full = |_| false;
    }

    fn log(&self, n: usize) -> String {
        self.nodes[n].log.join("\n")
    }

    /// Both disks run full, each at another write, the own answer first or last; writes 1000 and
    /// 1001 wait.
    fn both_full(&mut self) -> [u64; 2] {
        self.nodes[0].full = even;
        self.nodes[1].full = odd;
        let ids = [self.start_write(0, 1000, 10), self.start_write(0, 1001, 11)];
        self.run(10_000);
        ids
    }
}

#[test]
fn two_disks_that_run_full_at_different_writes_wait_and_go_on_by_themselves() {
    // Which disk has room first, and whether the other one has soon enough.
    for (first, pause) in [(0, 500), (1, 500), (0, 5_000), (1, 5_000)] {
        let mut pair = synced_pair();
        let ids = pair.both_full();
        assert!(ids.iter().all(|id| pair.waits(*id)), "{}", pair.log(0));
        assert_eq!(pair.frozen(), [true, true]);
        assert_eq!((pair.disk(0), pair.disk(1)), (DiskState::UpToDate, DiskState::UpToDate));
        let link = pair.status(0).connections[0].connection_state;
        assert_eq!(link, ConnectionState::Connected);
        // What the disks have room for is served all the while.
        assert_eq!(pair.write(0, 5, 56), Ok(None));
        assert_eq!(pair.request(0, 7000, Op::Flush), Ok(None));
        pair.room(first);
        pair.run(pause);
        pair.room(1 - first);
        pair.run(5_000);
        assert!(ids.iter().all(|id| pair.done(*id)), "{}", pair.log(0));
        assert_eq!(pair.frozen(), [false, false]);
        if pause == 5_000 {
            // The other one was let go of meanwhile.
            assert_eq!(pair.disk(1 - first), DiskState::Diskless, "{}", pair.log(1 - first));
            assert_eq!(pair.disk(first), DiskState::UpToDate);
            pair.attach(1 - first).unwrap();
        }
        pair.synced();
        assert_eq!(pair.nodes[1].disk.blocks.get(&1001), Some(&11));
    }
}

#[test]
fn the_order_of_the_two_answers_does_not_matter() {
    for order in [[0, 1], [1, 0]] {
        let mut pair = synced_pair();
        for n in 0..2 {
            pair.nodes[n].stall = new_blocks;
            pair.nodes[n].full = new_blocks;
        }
        let ids = [1000, 1001].map(|block| pair.start_write(0, block, block));
        for n in order {
            pair.nodes[n].unstall();
            pair.run(100);
        }
        pair.run(120_000);
        assert!(ids.iter().all(|id| pair.waits(*id)), "{}", pair.log(0));
        assert_eq!((pair.disk(0), pair.disk(1)), (DiskState::UpToDate, DiskState::UpToDate));
        for n in 0..2 {
            pair.room(n);
        }
        pair.run(2_000);
        assert!(ids.iter().all(|id| pair.done(*id)));
        pair.synced();
    }
}

#[test]
fn one_full_disk_is_let_go_of_after_a_while_and_nobody_sees_an_error() {
    for (full, on_io_error) in
        [(0, OnIoError::Detach), (1, OnIoError::Detach), (0, OnIoError::PassOn)]
    {
        let mut pair = synced_pair();
        pair.nodes[0].core.as_mut().unwrap().config.options.on_io_error = on_io_error;
        pair.nodes[full].full = new_blocks;
        let id = pair.start_write(0, 1000, 10);
        pair.run(1_500);
        assert!(pair.waits(id), "the other one may be as full");
        assert_eq!(pair.disk(full), DiskState::UpToDate);
        pair.run(2_000);
        assert!(pair.done(id), "{}", pair.log(0));
        assert_eq!(pair.disk(full), DiskState::Diskless);
        assert_eq!(pair.disk(1 - full), DiskState::UpToDate);
        // The last good copy, and it runs full as well.
        pair.nodes[1 - full].full = new_blocks;
        let id = pair.start_write(0, 1002, 12);
        pair.run(120_000);
        assert!(pair.waits(id), "{}", pair.log(0));
        assert_eq!(pair.disk(1 - full), DiskState::UpToDate);
        assert_eq!(pair.status(0).connections[0].connection_state, ConnectionState::Connected);
        assert!(pair.frozen()[0] && pair.frozen()[1 - full]);
        pair.room(0);
        pair.room(1);
        pair.run(1_500);
        assert!(pair.done(id));
        pair.attach(full).unwrap();
        pair.synced();
    }
}

#[test]
fn a_full_disk_that_has_room_again_in_time_is_kept() {
    for full in 0..2 {
        let mut pair = synced_pair();
        pair.nodes[full].full = new_blocks;
        let id = pair.start_write(0, 1000, 10);
        pair.run(1_500);
        pair.room(full);
        pair.run(1_500);
        assert!(pair.done(id));
        pair.run(10_000);
        pair.synced();
    }
}

#[test]
fn a_primary_without_a_disk_waits_for_room_at_the_peer() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(pair.write(0, 999, 9), Ok(None));
    pair.nodes[1].full = new_blocks;
    let id = pair.start_write(0, 1000, 10);
    pair.run(120_000);
    assert!(pair.waits(id), "{}", pair.log(0));
    assert_eq!(pair.frozen(), [true, true]);
    let status = pair.status(0);
    assert!(status.connections[0].peer_devices[0].no_space && !status.devices[0].no_space);
    // A trim is let through: it may be what makes the room.
    let trim = Op::Zeroes { offset: 999 * 4096, length: 4096, no_hole: false, fua: false };
    assert_eq!(pair.request(0, 7000, trim), Ok(None));
    pair.room(1);
    pair.run(1_500);
    assert!(pair.done(id));
    pair.attach(0).unwrap();
    pair.synced();
}

#[test]
fn a_write_for_a_primary_without_a_disk_that_waits_is_dropped_with_its_session() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(pair.write(0, 999, 9), Ok(None));
    pair.nodes[1].full = new_blocks;
    let id = pair.start_write(0, 1000, 10);
    pair.run(5_000);
    pair.lose_link();
    pair.run(5_000);
    // No copy can be reached: that is no matter of space.
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Err(ReplyError::Io)));
    assert_eq!(pair.frozen(), [false, false]);
    assert_eq!(pair.disk(1), DiskState::UpToDate, "{}", pair.log(1));
    pair.link = true;
    pair.room(1);
    pair.run(20_000);
    pair.attach(0).unwrap();
    pair.synced();
}

#[test]
fn a_write_that_waits_does_not_start_over_when_its_node_was_frozen_and_the_peer_went_on() {
    let mut pair = synced_pair();
    pair.nodes[0].full = new_blocks;
    let id = pair.start_write(0, 1000, 10);
    pair.run(100);
    assert!(pair.waits(id));
    // Node 0 is frozen: only node 1 sees the loss.
    pair.loss_is_seen_by(1);
    pair.settle();
    pair.primary(1, false);
    assert_eq!(pair.write(1, 2, 2), Ok(None));
    pair.link = true;
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: false });
    pair.event(0, Event::ClockGap { gap_ms: 3000 });
    pair.run(20_000);
    pair.room(0);
    pair.run(20_000);
    assert!(pair.nodes[0].values.is_empty(), "{}", pair.log(0));
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.connect_both();
    pair.synced();
}

#[test]
fn a_peer_that_is_lost_while_both_are_full_leaves_one_disk_that_waits() {
    for dead in [false, true] {
        let mut pair = synced_pair();
        let ids = pair.both_full();
        pair.lose_link();
        if dead {
            pair.kill(1);
        }
        pair.run(5_000);
        assert!(pair.waits(ids[0]), "its own disk is full");
        assert!(pair.done(ids[1]), "its own disk has it");
        assert!(pair.frozen_here(0));
        pair.link = true;
        if dead {
            pair.up(1);
        }
        pair.run(20_000);
        assert!(pair.waits(ids[0]), "both are as full as before");
        assert_eq!(pair.disk(0), DiskState::UpToDate);
        pair.room(0);
        pair.room(1);
        pair.run(2_000);
        assert!(pair.done(ids[0]), "{}", pair.log(0));
        pair.synced();
    }
}

#[test]
fn a_primary_that_dies_while_both_are_full_leaves_a_peer_that_can_take_over() {
    for power in [false, true] {
        let mut pair = synced_pair();
        pair.both_full();
        if power {
            pair.lose_power(0);
        } else {
            pair.kill(0);
        }
        pair.run(5_000);
        assert!(!pair.frozen_here(1), "{}", pair.log(1));
        pair.primary(1, false);
        assert_eq!(pair.write(1, 1000, 77), Ok(None));
        pair.nodes[0].replies.clear();
        pair.room(0);
        pair.room(1);
        pair.up(0);
        pair.synced();
        assert_eq!(pair.nodes[0].disk.blocks.get(&1000), Some(&77));
    }
}

#[test]
fn orders_that_meet_two_full_disks_end() {
    let disconnect = |peer, force| Command::Disconnect { peer, force, for_ms: None };
    let detach = |force| Command::Detach { volume: 0, force };
    let orders = [
        (0, Command::Secondary { force: true, wait_ms: 0 }),
        (0, Command::Down { shutdown: true }),
        (0, disconnect(1, false)),
        (0, disconnect(1, true)),
        (0, detach(false)),
        (0, detach(true)),
        (1, Command::Down { shutdown: false }),
        (1, Command::Down { shutdown: true }),
        (1, disconnect(0, false)),
        (1, disconnect(0, true)),
        (1, detach(false)),
        (1, detach(true)),
    ];
    for (node, order) in orders {
        let mut pair = synced_pair();
        let ids = pair.both_full();
        let id = pair.order(node, order.clone());
        pair.run(1_000);
        if let Some(running) = pair.status(node).order.filter(|_| node == 0) {
            assert!(running.waits_for.contains("space on"), "{order:?}: {}", running.waits_for);
        }
        pair.run(59_000);
        let answer = pair.nodes[node].admin.remove(&id);
        let Some(answer) = answer else { panic!("{order:?} waits for ever") };
        if let Err(refusal) = &answer {
            assert!(refusal.hint.contains("space on the backing disk of r0/0"), "{refusal:?}");
        }
        pair.room(0);
        pair.room(1);
        pair.run(5_000);
        let lost = matches!(order, Command::Down { shutdown: true }) && node == 0;
        assert!(lost || ids.iter().all(|id| !pair.waits(*id)), "{order:?}: {}", pair.log(0));
        let forced = matches!(order, Command::Detach { force: true, .. }) && node == 0;
        assert!(lost || forced || ids.iter().all(|id| pair.done(*id)), "{order:?}");
    }
}

#[test]
fn a_resync_goes_on_when_its_target_has_room_again() {
    let mut pair = synced_pair();
    pair.lose_link();
    for block in 1000..1040 {
        pair.write(0, block, block).unwrap();
    }
    pair.nodes[1].full = new_blocks;
    pair.link = true;
    pair.run(30_000);
    assert_eq!(pair.disk(1), DiskState::Inconsistent, "{}", pair.log(1));
    assert_eq!(pair.bits_left(), 40);
    // Clients are not held up by it.
    assert_eq!(pair.write(0, 5, 57), Ok(None));
    pair.room(1);
    pair.synced();
}

#[test]
fn two_disks_that_run_full_during_a_resync_wait() {
    let mut pair = synced_pair();
    let slow = Options { c_max_rate: 200, ..config(0).options };
    for n in 0..2 {
        let options = Box::new(slow.clone());
        pair.admin(n, Command::SetOptions { options, volumes: BTreeMap::new() }).unwrap();
    }
    pair.lose_link();
    for block in 0..2000 {
        pair.write(0, 2000 + 2 * block, 7).unwrap();
    }
    pair.link = true;
    pair.run(4_000);
    assert_eq!(pair.disk(1), DiskState::Inconsistent);
    pair.nodes[0].full = |action| matches!(action, Action::DiskWrite { .. });
    pair.nodes[1].full = |action| matches!(action, Action::DiskWrite { .. });
    // One of them holds a range that the target wants to copy.
    let ids = [1000, 2001, 4444, 5555].map(|block| pair.start_write(0, block, block));
    pair.run(200_000);
    assert!(ids.iter().all(|id| pair.waits(*id)), "{}", pair.log(0));
    assert_eq!(pair.disk(0), DiskState::UpToDate, "the only good copy");
    assert_eq!(pair.disk(1), DiskState::Inconsistent);
    let sessions = pair.status(1).connections[0].sessions;
    assert_eq!(sessions, 2, "nobody takes the other one for silent: {}", pair.log(1));
    pair.room(0);
    pair.room(1);
    pair.run(200_000);
    assert!(ids.iter().all(|id| pair.done(*id)), "{}", pair.log(0));
    pair.synced();
}

#[test]
fn a_target_that_is_full_alone_is_let_go_of_and_its_source_never() {
    for full in 0..2 {
        let mut pair = synced_pair();
        pair.lose_link();
        pair.write(0, 900, 9).unwrap();
        // The resync waits.
        pair.nodes[0].stall = |action| matches!(action, Action::DiskRead { find_zeroes: true, .. });
        pair.link = true;
        pair.run(4_000);
        assert_eq!(pair.disk(1), DiskState::Inconsistent);
        pair.nodes[full].full = new_blocks;
        let id = pair.start_write(0, 1000, 10);
        pair.run(10_000);
        assert_eq!(pair.disk(0), DiskState::UpToDate);
        assert_eq!(pair.waits(id), full == 0, "{}", pair.log(0));
        let target = if full == 1 { DiskState::Diskless } else { DiskState::Inconsistent };
        assert_eq!(pair.disk(1), target, "{}", pair.log(1));
        pair.room(full);
        pair.nodes[0].unstall();
        pair.run(2_000);
        assert!(pair.done(id));
        if full == 1 {
            pair.attach(1).unwrap();
        }
        pair.synced();
    }
}

#[test]
fn a_peer_that_says_no_more_that_it_waits_is_a_silent_peer() {
    let mut pair = synced_pair();
    pair.nodes[1].full = new_blocks;
    pair.nodes[0].full = new_blocks;
    pair.start_write(0, 1000, 10);
    pair.run(60_000);
    assert_eq!(pair.status(0).connections[0].connection_state, ConnectionState::Connected);
    // The try that is under way does not end; pings are answered.
    pair.nodes[1].full = |_| false;
    pair.nodes[1].stall = new_blocks;
    let options = &pair.core(0).config.options;
    let patience = options.timeout_ms * u64::from(options.ko_count);
    pair.run(patience + 5_000);
    assert!(pair.log(0).contains("Timeout"), "{}", pair.log(0));
    pair.nodes[1].unstall();
    pair.room(0);
    pair.synced();
}

#[test]
fn a_disk_that_was_let_go_of_is_attached_while_the_other_one_is_full() {
    for first in 0..2 {
        let mut pair = synced_pair();
        pair.nodes[0].full = new_blocks;
        let one = pair.start_write(0, 1000, 10);
        pair.run(4_000);
        assert!(pair.done(one) && pair.disk(0) == DiskState::Diskless, "{}", pair.log(0));
        pair.nodes[1].full = new_blocks;
        let ids = [1001, 1002].map(|block| pair.start_write(0, block, block));
        pair.run(10_000);
        assert!(ids.iter().all(|id| pair.waits(*id)));
        // It copies what it lacks: its peer has that, full or not.
        pair.room(0);
        pair.attach(0).unwrap();
        if first == 1 {
            pair.room(1);
        }
        pair.run(10_000);
        assert!(ids.iter().all(|id| pair.done(*id)), "{}", pair.log(0));
        let end = if first == 0 { DiskState::Diskless } else { DiskState::UpToDate };
        assert_eq!((pair.disk(0), pair.disk(1)), (DiskState::UpToDate, end));
        if first == 0 {
            pair.room(1);
            pair.attach(1).unwrap();
        }
        pair.synced();
    }
}

#[test]
fn a_connection_is_left_in_order_while_both_disks_are_full() {
    let leaves = [
        (0, Command::Disconnect { peer: 1, force: false, for_ms: None }),
        (1, Command::Disconnect { peer: 0, force: false, for_ms: None }),
        (1, Command::Down { shutdown: false }),
        (1, Command::Down { shutdown: true }),
    ];
    for (node, order) in leaves {
        let mut pair = synced_pair();
        let ids = pair.both_full();
        pair.admin(node, order).expect("at once");
        pair.run(2_000);
        assert!(pair.waits(ids[0]), "its own disk is full");
        assert!(pair.done(ids[1]), "its own disk has room for it: {}", pair.log(0));
        let flags = pair.nodes[1].disk.superblock.as_ref().unwrap().flags;
        assert_ne!(flags & crate::meta::DeviceFlags::OUTDATED, 0, "{}", pair.log(1));
        pair.room(0);
        pair.room(1);
        pair.run(2_000);
        assert!(pair.done(ids[0]));
        if pair.disk(1) == DiskState::Diskless {
            pair.kill(1);
            pair.up(1);
        }
        pair.connect_both();
        pair.synced();
    }
}

#[test]
fn a_write_that_is_taken_back_is_not_answered_by_the_own_disk_alone() {
    let mut pair = synced_pair();
    pair.nodes[1].full = new_blocks;
    pair.nodes[0].stall = new_blocks;
    let id = pair.start_write(0, 1000, 10);
    pair.run(100);
    pair.nodes[0].core.as_mut().unwrap().renegotiate();
    pair.event(0, Event::Timeout);
    pair.run(100);
    pair.nodes[0].unstall();
    pair.settle();
    assert!(pair.waits(id), "{}", pair.log(0));
    pair.run(1_000);
    assert!(pair.waits(id), "it has started over, and waits as before");
    pair.room(1);
    pair.run(2_000);
    assert!(pair.done(id), "{}", pair.log(0));
    pair.synced();
}

/// Writes for a Primary without a disk go through the peer's log, which is small.
#[test]
fn writes_that_wait_for_the_log_behind_writes_that_wait_for_space_are_not_silent() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    pair.nodes[1].full = |action| matches!(action, Action::DiskWrite { .. });
    pair.nodes[1].core.as_mut().unwrap().devices.get_mut(&0).unwrap();
    let ids: Vec<u64> = (0..16).map(|n| pair.start_write(0, n * 1024, n)).collect();
    pair.run(200_000);
    assert!(ids.iter().all(|id| pair.waits(*id)), "{}", pair.log(0));
    assert_eq!(pair.status(0).connections[0].sessions, 1);
    pair.room(1);
    pair.run(5_000);
    assert!(ids.iter().all(|id| pair.done(*id)), "{}", pair.log(0));
}

/// The peer is told to let go, and has room in the same moment; the own disk runs full meanwhile.
#[test]
fn a_peer_that_has_room_when_it_is_told_to_let_go_keeps_its_disk() {
    let mut pair = synced_pair();
    pair.nodes[1].full = new_blocks;
    let id = pair.start_write(0, 1000, 10);
    pair.run(1_900);
    pair.nodes[0].mute = true;
    pair.run(1_050);
    assert!(!pair.nodes[0].air.is_empty(), "it was told");
    pair.room(1);
    pair.run(1_050);
    assert!(pair.done(id), "{}", pair.log(0));
    pair.nodes[0].full = new_blocks;
    pair.nodes[1].full = new_blocks;
    pair.nodes[0].mute = false;
    let later = pair.start_write(0, 1001, 11);
    let air: Vec<Event> = pair.nodes[0].air.drain(..).collect();
    for event in air {
        pair.event(1, event);
    }
    pair.run(10_000);
    assert!(pair.waits(later));
    assert_eq!((pair.disk(0), pair.disk(1)), (DiskState::UpToDate, DiskState::UpToDate));
    pair.room(0);
    pair.room(1);
    pair.run(2_000);
    assert!(pair.done(later));
    pair.synced();
}

impl Pair {
    fn frozen_here(&self, n: usize) -> bool {
        self.status(n).suspended_no_space
    }

    fn bits_left(&self) -> u64 {
        self.core(0).connections[0].peer_devices[&0].bitmap.count()
    }
}
