//! Stories in which a node leaves while the other one lets go of its disk, loses it or is promoted without one: the
//! Primary has a copy in reach afterwards.

use super::pair::{Pair, synced_pair};
use crate::meta::{DeviceFlags, MetaOp};
use crate::resource::*;

impl Pair {
    /// Gives an order to each node, the second so many events after the first; their numbers.
    fn crossing(&mut self, orders: [Command; 2], first: usize, events: usize) -> [u64; 2] {
        let mut ids = [0, 0];
        ids[first] = self.begin(first, orders[first].clone());
        self.steps(events);
        ids[1 - first] = self.begin(1 - first, orders[1 - first].clone());
        ids
    }

    /// As [`Pair::order`], and nothing happens yet.
    fn begin(&mut self, n: usize, command: Command) -> u64 {
        let id = self.next;
        self.next += 1;
        self.event(n, Event::Admin { id, command });
        id
    }

    /// So many events, of the two in turn.
    fn steps(&mut self, events: usize) {
        for n in (0..events).map(|event| event % 2) {
            if let Some(event) = self.nodes[n].done.pop_front() {
                self.event(n, event);
            }
        }
    }
}

/// The Primary detaches while its peer leaves, at every step of either: one of the two is refused, and the Primary
/// has a good copy in reach.
#[test]
fn a_detach_and_a_leave_at_once_leave_the_primary_a_copy() {
    let leaves = [
        Command::Disconnect { peer: 0, force: false, for_ms: None },
        Command::Down { shutdown: false },
    ];
    let (mut refused, mut done) = ([0, 0], 0);
    // What of the Primary's disk is slow: nothing, flushes, or its metadata.
    let slow: [fn(&Action) -> bool; 3] = [
        |_| false,
        |action| matches!(action, Action::DiskFlush { .. }),
        |action| matches!(action, Action::Meta { .. }),
    ];
    for (leave, slow) in leaves.iter().flat_map(|leave| slow.map(|slow| (leave, slow))) {
        for first in 0..2 {
            for steps in 0..16 {
                let mut pair = synced_pair();
                pair.nodes[0].stall = slow;
                let detach = Command::Detach { volume: 0, force: false };
                let ids = pair.crossing([detach, leave.clone()], first, steps);
                // One after the other, so that the other node has said everything in between.
                for _ in 0..20 {
                    pair.settle();
                    let one = pair.nodes[0].stalled.pop_front();
                    pair.nodes[0].done.extend(one);
                }
                pair.nodes[0].unstall();
                pair.run(20_000);
                let story = pair.story();
                for n in 0..2 {
                    match pair.nodes[n].admin.remove(&ids[n]).expect("answered") {
                        Ok(_) => done += 1,
                        Err(refusal) => {
                            assert_eq!(refusal.code, -2, "{story}");
                            refused[n] += 1;
                        }
                    }
                }
                let value = steps as u64 + 1;
                assert_eq!(pair.write(0, 9, value), Ok(None), "{leave:?} {first} {steps} {story}");
            }
        }
    }
    assert!(refused[0] > 0 && refused[1] > 0 && done > 0, "{refused:?} {done}");
}

/// What it had asked for before is still answered, and that is no error: or its leave would be a loss.
#[test]
fn a_leave_that_meets_a_new_handshake_of_the_peer_is_in_order() {
    for steps in 0..24 {
        let mut pair = synced_pair();
        assert_eq!(pair.request(0, 7_000, Op::Flush), Ok(None));
        pair.begin(1, Command::Disconnect { peer: 0, force: false, for_ms: None });
        pair.steps(steps);
        pair.nodes[0].core.as_mut().unwrap().renegotiate();
        pair.event(0, Event::Timeout);
        pair.run(20_000);
        let story = pair.story();
        assert!(!story.contains("does not fit the state"), "{steps} {story}");
        assert_eq!(pair.status(1).connections[0].connection_state, ConnectionState::StandAlone);
        assert_eq!(pair.disk(1), DiskState::Outdated, "{steps} {story}");
    }
}

/// The peer that stayed leaves in order later: it is old then, durably, and both have it so.
#[test]
fn who_has_stayed_for_a_detach_leaves_in_order_later() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = |action| matches!(action, Action::DiskFlush { .. });
    let detach = pair.order(0, Command::Detach { volume: 0, force: false });
    for _ in 0..3 {
        pair.settle();
        let one = pair.nodes[0].stalled.pop_front();
        pair.nodes[0].done.extend(one);
        if pair.disk(0) == DiskState::Detaching {
            break;
        }
    }
    assert_eq!(pair.disk(0), DiskState::Detaching, "{}", pair.story());
    let leave = Command::Disconnect { peer: 0, force: false, for_ms: None };
    let met = |pair: &Pair| {
        pair.nodes[1].log.iter().filter(|line| line.contains("drbd_sync_handshake:")).count()
    };
    let before = met(&pair);
    let id = pair.order(1, leave.clone());
    pair.settle();
    pair.nodes[0].unstall();
    pair.run(1_000);
    // What a leave marks beforehand goes as a session opens.
    assert_eq!(met(&pair), before + 1, "{}", pair.story());
    assert_eq!(pair.nodes[0].admin.remove(&detach), Some(Ok(String::new())), "{}", pair.story());
    let refusal = pair.nodes[1].admin.remove(&id).expect("answered").expect_err("it stays");
    assert_eq!(refusal.code, -2);
    pair.attach(0).unwrap();
    pair.synced();
    pair.admin(1, leave).unwrap();
    assert_eq!(pair.disk(1), DiskState::Outdated, "{}", pair.story());
    assert_eq!(pair.status(0).connections[0].peer_devices[0].peer_disk_state, DiskState::Outdated);
}

/// The Primary's disk fails in the flush that the peer's leave needs: the peer stays.
#[test]
fn a_peer_stays_where_the_primarys_disk_fails_in_the_flush_of_its_leave() {
    let leaves = [
        Command::Disconnect { peer: 0, force: false, for_ms: None },
        Command::Down { shutdown: false },
        Command::Detach { volume: 0, force: false },
    ];
    for leave in leaves {
        let mut pair = synced_pair();
        pair.write(0, 9, 98).unwrap();
        pair.nodes[0].fail = |action| matches!(action, Action::DiskFlush { .. });
        let id = pair.order(1, leave.clone());
        pair.run(1_000);
        let answer = pair.nodes[1].admin.remove(&id).expect("answered at once");
        assert_eq!(answer.expect_err("it stays").code, -2, "{leave:?} {}", pair.story());
        assert_eq!(pair.disk(0), DiskState::Diskless);
        assert_eq!(pair.write(0, 9, 99), Ok(None), "{leave:?} {}", pair.story());
        assert_eq!(pair.nodes[1].disk.blocks.get(&9), Some(&99));
    }
}

/// The Primary's own disk fails in the flush of its own leave: it stays with the only copy.
#[test]
fn a_primary_whose_disk_fails_as_it_leaves_stays_with_the_other_copy() {
    let mut pair = synced_pair();
    pair.write(0, 9, 98).unwrap();
    pair.nodes[0].fail = |action| matches!(action, Action::DiskFlush { .. });
    let id = pair.order(0, Command::Disconnect { peer: 1, force: false, for_ms: None });
    pair.run(1_000);
    let answer = pair.nodes[0].admin.remove(&id).expect("answered at once");
    assert_eq!(answer.expect_err("it stays").code, -2, "{}", pair.story());
    assert_eq!(pair.disk(0), DiskState::Diskless);
    assert_eq!(pair.write(0, 9, 99), Ok(None), "{}", pair.story());
    assert_eq!(pair.nodes[1].disk.blocks.get(&9), Some(&99));
}

/// The session is negotiated anew just then, for a disk has come back: the leave waits for what comes of it, and is an
/// orderly one, whoever leaves.
#[test]
fn a_leave_in_the_middle_of_a_negotiation_is_an_orderly_one() {
    for leaver in 0..2 {
        let mut negotiated = 0;
        for steps in 0..60 {
            let mut pair = synced_pair();
            pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
            pair.attach_later(1);
            for _ in 0..steps {
                let mut nodes = pair.nodes.iter_mut().enumerate();
                let Some((n, event)) =
                    nodes.find_map(|(n, node)| Some((n, node.done.pop_front()?)))
                else {
                    break;
                };
                pair.event(n, event);
            }
            if !pair.core(leaver).is_renegotiating(0) {
                continue;
            }
            negotiated += 1;
            let peer = u8::from(leaver == 0);
            let id = pair.order(leaver, Command::Disconnect { peer, force: false, for_ms: None });
            pair.run(2_000);
            let story = format!("{leaver} {steps} {}", pair.story());
            assert_eq!(pair.nodes[leaver].admin.remove(&id), Some(Ok(String::new())), "{story}");
            // Nor is one that the leave has caught at the end of its resync UpToDate.
            assert!(pair.disk(1) <= DiskState::Outdated, "{story}");
            let seen = pair.status(0).connections[0].peer_devices[0].peer_disk_state;
            assert_ne!(seen, DiskState::UpToDate, "{story}");
            let orderly = |line: &String| line.contains("conn( Disconnecting -> StandAlone )");
            assert!(pair.nodes[leaver].log.iter().any(orderly), "{story}");
        }
        assert!(negotiated > 3, "{leaver}");
    }
}

/// A node without a disk is promoted while the peer that has it leaves: one of the two is refused, at once.
#[test]
fn a_promotion_without_a_disk_and_a_leave_at_once_leave_the_primary_a_copy() {
    let (mut promoted, mut left) = (0, 0);
    for (first, slow) in [(0, true), (0, false), (1, true), (1, false)] {
        for steps in 0..12 {
            let mut pair = synced_pair();
            pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
            pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
            if slow {
                pair.nodes[1].stall = |action| matches!(action, Action::Meta { .. });
            }
            let leave = Command::Disconnect { peer: 0, force: false, for_ms: None };
            let ids = pair.crossing([Command::Primary { force: None }, leave], first, steps);
            pair.settle();
            pair.nodes[1].unstall();
            pair.run(2_000);
            let [primary, leaving] =
                [0, 1].map(|n| pair.nodes[n].admin.remove(&ids[n]).expect("answered at once"));
            assert!(primary.is_ok() != leaving.is_ok(), "{first} {steps} {}", pair.story());
            promoted += usize::from(primary.is_ok());
            left += usize::from(leaving.is_ok());
            if primary.is_ok() {
                pair.attach(0).unwrap();
                pair.synced();
            }
        }
    }
    assert!(promoted > 0 && left > 0, "{promoted} {left}");
}

/// It is a loss, and the order says so: the peer's disk does not know that it is old.
#[test]
fn a_leave_whose_peer_is_lost_before_it_answers_is_told_from_an_orderly_one() {
    let mut pair = synced_pair();
    pair.nodes[1].stall = |action| matches!(action, Action::DiskFlush { .. });
    let id = pair.order(0, Command::Disconnect { peer: 1, force: false, for_ms: None });
    pair.lose_link();
    pair.nodes[1].unstall();
    pair.run(1_000);
    let said = pair.nodes[0].admin.remove(&id).expect("answered").expect("it is done");
    assert!(said.starts_with("left without an answer"), "{said:?} {}", pair.story());
    pair.link = true;
    pair.connect_both();
    pair.synced();
    let orderly = Command::Disconnect { peer: 1, force: false, for_ms: None };
    assert_eq!(pair.admin(0, orderly), Ok(String::new()));
}

/// Whatever the last word of the Primary meets: what it leaves behind knows by then that it is old.
#[test]
fn two_leaves_at_once_leave_nothing_behind_that_takes_itself_for_the_newest() {
    let (mut done, mut crossed) = (0, 0);
    let theirs = [
        Command::Disconnect { peer: 0, force: false, for_ms: None },
        Command::Down { shutdown: true },
    ];
    for n in 0..2 * 2 * 2 * 24 {
        let (their, first, slow, steps) = (&theirs[n % 2], n / 2 % 2, n / 4 % 2 == 1, n / 8);
        let mut pair = synced_pair();
        if slow {
            pair.nodes[1].stall = |action| matches!(action, Action::DiskFlush { .. });
        }
        let own = Command::Disconnect { peer: 1, force: false, for_ms: None };
        let ids = pair.crossing([own, their.clone()], first, steps);
        // The Primary is ahead: what its answer sets off on the other node has not happened yet.
        while !pair.nodes[0].admin.contains_key(&ids[0]) {
            // The Primary's flush of that disk is the later one, and ends before that disk's own.
            if pair.nodes.iter().all(|node| node.done.is_empty()) {
                let flushed = pair.nodes[1].stalled.pop_back();
                pair.nodes[1].done.extend(flushed);
            }
            let Some(n) = (0..2).find(|n| !pair.nodes[*n].done.is_empty()) else { break };
            let event = pair.nodes[n].done.pop_front().unwrap();
            pair.event(n, event);
        }
        pair.nodes[1].unstall();
        let answer = pair.nodes[0].admin.remove(&ids[0]);
        if answer == Some(Ok(String::new())) {
            done += 1;
            crossed += usize::from(!pair.nodes[1].admin.contains_key(&ids[1]));
            let old = pair.nodes[1].disk.superblock.as_ref().unwrap().flags;
            assert!(old & DeviceFlags::OUTDATED != 0, "{first} {steps} {}", pair.story());
        }
        pair.run(20_000);
        assert_eq!(
            pair.nodes[1].admin.remove(&ids[1]),
            Some(Ok(String::new())),
            "{}",
            pair.story()
        );
    }
    assert!(done > 40 && crossed > 10, "{done} {crossed}");
}

/// It was marked as a survivor of two Secondaries, and the other one is promoted before it answers: the process that
/// ends before it hears that comes back as no disk to promote unasked.
#[test]
fn who_leaves_a_node_that_is_promoted_meanwhile_is_no_survivor() {
    let mut met = 0;
    let mut pair = synced_pair();
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.nodes[1].stall = |action| {
        matches!(action, Action::Meta { op: MetaOp::Superblock(s), .. }
            if s.flags & DeviceFlags::SURVIVED != 0)
    };
    // The promotion has begun before.
    pair.nodes[0].stall = |action| matches!(action, Action::Meta { .. });
    let promotion = pair.order(0, Command::Primary { force: None });
    assert!(!pair.nodes[0].stalled.is_empty(), "{}", pair.story());
    let leave = pair.order(1, Command::Disconnect { peer: 0, force: false, for_ms: None });
    assert!(!pair.nodes[1].stalled.is_empty(), "{}", pair.story());
    pair.nodes[0].unstall();
    pair.settle();
    assert_eq!(pair.nodes[0].admin.remove(&promotion), Some(Ok(String::new())), "{}", pair.story());
    pair.nodes[1].unstall();
    for n in (0..400).map(|event| event % 2) {
        let Some(event) = pair.nodes[n].done.pop_front() else { continue };
        pair.event(n, event);
        if pair.core(0).connections[0].leave_step == u32::MAX {
            met += 1;
            let flags = pair.nodes[1].disk.superblock.as_ref().unwrap().flags;
            assert!(flags & DeviceFlags::SURVIVED == 0, "{}", pair.story());
        }
    }
    assert!(met > 0, "{}", pair.story());
    pair.run(20_000);
    assert_eq!(pair.nodes[1].admin.remove(&leave), Some(Ok(String::new())));
    assert_eq!(pair.disk(1), DiskState::Outdated);
}
