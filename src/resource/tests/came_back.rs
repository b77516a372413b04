//! Stories of disks that were given up because they hung, and came back to the same process.

use super::pair::{Pair, synced_pair};
use crate::meta::DeviceFlags;
use crate::resource::*;

/// When the disk of the Secondary is given up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum GivenUp {
    /// In the session, of which nobody knows yet that it has ended.
    Silently,
    /// In the middle of the loss.
    InTheLoss,
}

/// What becomes of the operations that were under way on it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Late {
    Done,
    FlushFails,
    WriteFails,
}

fn is_disk(action: &Action) -> bool {
    matches!(action, Action::DiskWrite { .. } | Action::DiskFlush { .. } | Action::Meta { .. })
}

impl Pair {
    /// What was under way on the disk of node 1 ends.
    fn late(&mut self, late: Late) {
        let mut writes = 0;
        for event in &mut self.nodes[1].stalled {
            if let Event::DiskDone { result, .. } = event {
                writes += 1;
                if late != Late::Done {
                    *result = Err(DiskError::Io(5));
                }
            }
        }
        assert!(writes > 0, "{}", self.told(1));
        self.nodes[1].unstall();
        self.run(100);
        assert_eq!(self.disk(1), DiskState::Diskless);
    }

    fn stored(&self) -> [u64; 2] {
        [self.block(0, 9), self.block(1, 9)]
    }
}

/// Both have acknowledged block 9, and have not flushed it. The Secondary's disk hangs.
fn slow_pair() -> Pair {
    let mut pair = synced_pair();
    for n in [0, 1] {
        let timeout = if n == 1 { 3_000 } else { 0 };
        let options = Options {
            ko_count: 0,
            disk_timeout_ms: timeout,
            ..pair.core(n).config.options.clone()
        };
        let command =
            Command::SetOptions { options: Box::new(options), volumes: Default::default() };
        pair.admin(n, command).unwrap();
    }
    assert_eq!(pair.write(0, 9, 99), Ok(None));
    pair.nodes[1].stall = is_disk;
    pair
}

/// The Primary has lost its power, and with it what it had not flushed; the other node's disk hung then,
/// and was given up.
fn given_up(when: GivenUp, late: Late) -> Pair {
    let mut pair = slow_pair();
    if when == GivenUp::Silently || late == Late::WriteFails {
        pair.start_write(0, 10, 100);
    }
    pair.link = false;
    if when == GivenUp::Silently {
        pair.run(2_900);
        pair.nodes[1].sockets.clear();
        pair.lose_power(0);
        pair.run(200);
        let state = pair.status(1).connections[0].connection_state;
        assert_eq!((state, pair.disk(1)), (ConnectionState::Connected, DiskState::Failed));
        pair.event(
            1,
            Event::SocketLost {
                socket: pair.core(1).connections[0].active.unwrap(),
                error: SocketError::Io(110),
            },
        );
    } else {
        pair.lose_power(0);
    }
    pair.run(4_000);
    assert_eq!(pair.stored(), [0, 99], "one has lost its cache");
    assert_eq!(pair.disk(1), DiskState::Failed);
    pair.late(late);
    pair
}

#[test]
fn a_disk_that_only_hung_keeps_what_its_primary_lost_with_its_cache() {
    for when in [GivenUp::Silently, GivenUp::InTheLoss] {
        for attached_first in [true, false] {
            let mut pair = given_up(when, Late::Done);
            pair.link = true;
            if !attached_first {
                pair.up(0);
                pair.run(5_000);
            }
            pair.attach(1).unwrap();
            if attached_first {
                let state = pair.disk(1);
                let doubt = when == GivenUp::Silently;
                let shall = if doubt { DiskState::Consistent } else { DiskState::UpToDate };
                assert_eq!(state, shall, "{when:?}: the Primary may have gone on");
                pair.up(0);
            }
            pair.run(20_000);
            let story = format!("{when:?} {attached_first}\n{}", pair.told(1));
            assert_eq!(pair.stored(), [99, 99], "{story}");
            pair.synced();
            assert!(!pair.has(1, DeviceFlags::IN_DOUBT), "they have met");
        }
    }
}

#[test]
fn a_disk_on_which_an_operation_failed_late_vouches_for_nothing() {
    for late in [Late::FlushFails, Late::WriteFails] {
        let mut pair = given_up(GivenUp::InTheLoss, late);
        pair.attach(1).unwrap();
        assert_eq!(pair.disk(1), DiskState::Consistent, "{late:?}");
        assert!(!pair.has(1, DeviceFlags::SURVIVED), "{late:?}");
    }
}

#[test]
fn another_image_or_another_process_vouches_for_nothing() {
    for restarted in [false, true] {
        let mut pair = given_up(GivenUp::InTheLoss, Late::Done);
        if restarted {
            pair.kill(1);
            pair.up(1);
        } else {
            pair.nodes[1].disk.superblock.as_mut().unwrap().sequence -= 1;
            pair.attach(1).unwrap();
        }
        assert!(!pair.has(1, DeviceFlags::SURVIVED), "restarted: {restarted}");
    }
}

#[test]
fn a_disk_that_hung_while_the_primary_goes_on_is_in_doubt_and_then_overwritten() {
    for (met, first) in [(false, true), (true, true), (true, false)] {
        let mut pair = slow_pair();
        pair.lose_link();
        pair.run(4_000);
        assert_eq!(pair.disk(1), DiskState::Failed);
        if first {
            pair.late(Late::Done);
        }
        if met {
            pair.link = true;
            pair.run(5_000);
            assert_eq!(pair.write(0, 9, 77), Ok(None));
            pair.lose_link();
            pair.run(1_000);
        }
        if !first {
            // The session was there before the disk was closed.
            pair.late(Late::Done);
        }
        pair.attach(1).unwrap();
        let state = if met { DiskState::Consistent } else { DiskState::UpToDate };
        assert_eq!(pair.disk(1), state, "{}", pair.told(1));
        let promoted = pair.admin(1, Command::Primary { force: None });
        assert_eq!(promoted.is_ok(), !met, "{promoted:?}");
        if met {
            pair.link = true;
            pair.synced();
            assert_eq!(pair.stored(), [77, 77]);
        }
    }
}

/// Both disks fail at once: the Secondary's by a write, the Primary's by the flush that is asked of it then, which
/// takes what both had acknowledged from its cache. It is no source, though its node is the Primary.
#[test]
fn a_disk_whose_flush_failed_is_no_source_for_what_its_cache_has_lost() {
    let mut pair = synced_pair();
    assert_eq!(pair.write(0, 9, 99), Ok(None));
    pair.nodes[0].fail = |action| matches!(action, Action::DiskFlush { .. });
    pair.nodes[1].fail = |action| matches!(action, Action::DiskWrite { .. });
    pair.start_write(0, 10, 100);
    pair.run(100);
    for n in 0..2 {
        assert_eq!(pair.disk(n), DiskState::Diskless, "{}", pair.told(n));
        pair.nodes[n].fail = |_| false;
    }
    pair.nodes[0].cache_is_lost();
    assert_eq!(pair.stored(), [0, 99]);
    pair.attach(1).unwrap();
    // As a person does whom the message of a refused attach has told so.
    pair.admin(0, Command::Disconnect { peer: 1, force: true, for_ms: None }).unwrap();
    pair.attach(0).unwrap();
    assert_eq!(pair.disk(0), DiskState::Outdated, "{}", pair.told(0));
    let flags = pair.nodes[0].disk.superblock.as_ref().unwrap().flags;
    assert_ne!(flags & DeviceFlags::OUTDATED, 0, "durably");
    pair.connect_both();
    pair.run(20_000);
    assert_eq!(pair.stored(), [0, 99], "refused: it is Primary");
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.connect_both();
    pair.run(20_000);
    assert_eq!(pair.stored(), [99, 99], "{}", pair.told(0));
}

/// It was let go of because it was full, and the Primary, which had room, loses its power before its flush ends.
#[test]
fn a_disk_that_was_full_keeps_what_its_primary_lost_with_its_cache() {
    // It is attached while the Primary lives, and has not said yet what becomes of it; or when that has gone.
    for (beside, attached_first) in [(true, true), (false, true), (false, false)] {
        let mut pair = synced_pair();
        assert_eq!(pair.write(0, 9, 99), Ok(None));
        pair.nodes[1].full = |action| matches!(action, Action::DiskWrite { .. });
        pair.nodes[0].stall =
            |action| matches!(action, Action::DiskFlush { .. } | Action::Meta { .. });
        pair.start_write(0, 10, 100);
        pair.run(30_000);
        assert_eq!(pair.disk(1), DiskState::Diskless, "{}", pair.told(1));
        pair.nodes[1].full = |_| false;
        if beside {
            pair.attach_later(1);
            pair.run(100);
            assert_eq!(pair.disk(1), DiskState::Negotiating, "{}", pair.told(1));
        }
        pair.lose_power(0);
        pair.nodes[0].stall = |_| false;
        assert_eq!(pair.stored(), [0, 99], "one has lost its cache");
        if attached_first {
            pair.run(1_000);
            if !beside {
                pair.attach(1).unwrap();
            }
            assert_eq!(pair.disk(1), DiskState::Consistent, "the Primary may have gone on");
        }
        pair.up(0);
        pair.run(5_000);
        if !attached_first {
            pair.attach(1).unwrap();
        }
        pair.run(20_000);
        assert_eq!(pair.stored(), [99, 99], "{attached_first} {}", pair.told(1));
        pair.synced();
    }
}
