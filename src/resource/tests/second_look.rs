//! Stories of a second look: what is acknowledged stays, and nobody waits longer than need be.

use super::pair::{Pair, passing_pair, synced_pair};
use crate::meta::MetaOp;
use crate::resource::peer::connection::Leaving;
use crate::resource::*;

impl Pair {
    /// Events one by one, until it is so.
    fn step_until(&mut self, so: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if so(self) {
                return;
            }
            for n in 0..2 {
                if let Some(event) = self.nodes[n].done.pop_front() {
                    self.event(n, event);
                    break;
                }
            }
        }
        panic!("it never is so: {:?}", self.nodes[1].log);
    }

    fn leaving(&self, n: usize) -> Option<Leaving> {
        self.nodes[n].core.as_ref().and_then(|core| core.connections[0].leaving)
    }
}

#[test]
fn a_node_that_goes_down_while_the_primary_dies_survives_with_the_last_write() {
    let mut pair = synced_pair();
    assert_eq!(pair.write(0, 7, 1), Ok(None));
    assert_eq!(pair.request(0, 5000, Op::Flush), Ok(None));
    pair.event(1, Event::Admin { id: 900, command: Command::Down { shutdown: false } });
    pair.step_until(|pair| matches!(pair.leaving(1), Some(Leaving::Asked { .. })));
    // Everything was flushed. One more write, and the Primary loses power before its flush.
    let flushed = pair.nodes[0].disk.blocks.clone();
    pair.nodes[0].stall = |action| matches!(action, Action::DiskFlush { .. });
    let id = pair.write_later(0, 7, 2);
    pair.settle();
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)), "acknowledged");
    pair.kill(0);
    pair.nodes[0].disk.blocks = flushed;
    pair.nodes[0].unstall();
    pair.run(1000);
    assert!(pair.nodes[1].admin.remove(&900).expect("answered").is_ok());
    assert_eq!(pair.nodes[1].disk.blocks.get(&7), Some(&2));
    pair.nodes[1].core = None;
    pair.up(0);
    pair.up(1);
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks.get(&7), Some(&2), "{:?}", pair.nodes[0].log);
}

#[test]
fn a_peer_that_comes_back_before_its_loss_was_seen_is_not_left_without_an_answer() {
    for survivor in 0..2 {
        let mut pair = synced_pair();
        let back = 1 - survivor;
        if survivor == 1 {
            pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
        }
        // It loses power: nobody closes its socket.
        pair.nodes[back].core = None;
        pair.nodes[back].done.clear();
        pair.nodes[0].sockets.clear();
        pair.nodes[1].sockets.clear();
        pair.up(back);
        pair.run(8_000);
        let connection = &pair.status(survivor).connections[0];
        let log = pair.nodes[survivor].log.join("\n");
        assert_eq!(connection.connection_state, ConnectionState::Connected, "{log}");
    }
}

#[test]
fn a_secondary_that_leaves_while_the_primary_leaves_is_outdated() {
    for primary_knows in [false, true] {
        let mut pair = synced_pair();
        let leave = |peer| {
            let command = Command::Disconnect { peer, force: false, for_ms: None };
            Event::Admin { id: 900, command }
        };
        pair.event(1, leave(0));
        pair.step_until(|pair| matches!(pair.leaving(1), Some(Leaving::Asked { .. })));
        if primary_knows {
            pair.nodes[0].stall = |action| matches!(action, Action::DiskFlush { .. });
            pair.step_until(|pair| pair.leaving(0) == Some(Leaving::PeerAsked));
        }
        pair.event(0, leave(1));
        pair.nodes[0].unstall();
        pair.run(1000);
        for n in 0..2 {
            assert!(pair.nodes[n].admin.remove(&900).expect("answered").is_ok());
        }
        let log = pair.nodes[1].log.join("\n");
        assert_eq!(pair.status(1).devices[0].disk_state, DiskState::Outdated, "{log}");
        assert_eq!(pair.status(0).devices[0].disk_state, DiskState::UpToDate);
    }
}

#[test]
fn a_write_that_the_failed_disk_had_is_not_answered_before_that_is_recorded() {
    let mut pair = synced_pair();
    let before = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
    pair.nodes[0].stall = |action| matches!(action, Action::DiskWrite { .. });
    let id = pair.write_later(0, 7, 2);
    pair.settle();
    // The peer has it; then its disk fails, and this disk has it, unflushed.
    pair.nodes[1].fail = |action| matches!(action, Action::Meta { .. });
    let disk = pair.nodes[1].core.as_mut().unwrap();
    disk.save_superblock(0, Then::Log);
    pair.event(1, Event::Timeout);
    pair.nodes[0].stall = |action| matches!(action, Action::DiskFlush { .. });
    let stalled = std::mem::take(&mut pair.nodes[0].stalled);
    pair.settle();
    assert_eq!(pair.status(0).connections[0].peer_devices[0].peer_disk_state, DiskState::Failed);
    pair.nodes[0].done.extend(stalled);
    pair.settle();
    assert_eq!(pair.nodes[0].replies.get(&id), None, "not before the flush");
    pair.nodes[0].unstall();
    pair.settle();
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    let after = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
    assert_ne!(before & !1, after & !1);
}

/// Node 0 is Primary; its disk has failed and is attached again, and its resync does not get on.
fn primary_with_a_mix() -> Pair {
    let mut pair = synced_pair();
    pair.nodes[0].fail = |action| matches!(action, Action::DiskRead { .. });
    pair.request(0, 5000, Op::Read { offset: 7 * 4096, length: 4096 }).unwrap();
    pair.run(100);
    for block in 20..24 {
        pair.write(0, block, block).unwrap();
    }
    pair.nodes[0].fail = |_| false;
    pair.nodes[1].stall = |action| matches!(action, Action::DiskRead { .. });
    pair.attach(0).unwrap();
    pair.run(100);
    assert_eq!(pair.status(0).devices[0].disk_state, DiskState::Inconsistent);
    pair
}

#[test]
fn a_primary_whose_disk_is_a_mix_goes_on_as_the_target_when_the_link_is_back() {
    // The source has started anew meanwhile; it had flushed before that, and has survived.
    for (restarted, flushed) in [(false, true), (true, true), (true, false)] {
        let mut pair = primary_with_a_mix();
        assert_eq!(pair.write(0, 2000, 1), Ok(None), "the peer has it as well");
        pair.nodes[1].unstall();
        if !flushed {
            pair.nodes[1].stall = |action| matches!(action, Action::DiskFlush { .. });
        }
        pair.lose_link();
        pair.run(1000);
        assert_eq!(pair.write(0, 2001, 1), Err(ReplyError::Io), "no good copy");
        if restarted {
            pair.kill(1);
            pair.nodes[1].stall = |_| false;
            pair.nodes[1].power_lost = true;
            pair.up(1);
        }
        pair.link = true;
        pair.run(10_000);
        if !flushed {
            // What it may have lost the clients have to know.
            assert_eq!(pair.status(0).connections[0].reason, Reason::ResyncRefused);
            continue;
        }
        pair.synced();
        assert_eq!(pair.status(0).role, Role::Primary);
        assert_eq!(pair.nodes[0].disk.blocks.get(&2000), Some(&1));
        assert_eq!(pair.nodes[0].disk.blocks.get(&23), Some(&23));
        assert_eq!(pair.nodes[0].disk.blocks.get(&2001).copied().unwrap_or(0), 0);
    }
}

#[test]
fn a_primary_whose_disk_is_a_mix_answers_no_write_or_flush_without_its_peer() {
    let mut pair = primary_with_a_mix();
    assert_eq!(pair.write(0, 2000, 1), Ok(None), "the peer has it as well");
    let unflushed = pair.nodes[1].disk.clone();
    pair.link = false;
    pair.kill(1);
    pair.nodes[1].power_lost = true;
    assert_eq!(pair.request(0, 5001, Op::Flush), Err(ReplyError::Io));
    assert_eq!(pair.write(0, 2001, 1), Err(ReplyError::Io));
    pair.nodes[1].unstall();
    pair.nodes[1].disk = unflushed;
    pair.link = true;
    pair.up(1);
    pair.run(10_000);
    // Nothing is overwritten under clients.
    assert_eq!(pair.status(0).connections[0].reason, Reason::ResyncRefused);
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.connect_both();
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks.get(&2001).copied().unwrap_or(0), 0);
}

#[test]
fn a_write_that_waits_for_space_and_for_the_peer_is_held_after_the_peers_answer() {
    let mut pair = synced_pair();
    pair.link = false;
    pair.cut();
    for block in 20..24 {
        pair.write(0, block, block).unwrap();
    }
    pair.nodes[1].stall = |action| matches!(action, Action::DiskWrite { .. });
    pair.link = true;
    pair.run(3_000);
    pair.nodes[0].stall = |action| matches!(action, Action::DiskWrite { .. });
    let id = pair.write_later(0, 100, 9);
    pair.settle();
    let full = pair.nodes[0].stalled.pop_front();
    let Some(Event::DiskDone { tag, .. }) = full else { panic!("{full:?}") };
    pair.event(0, Event::DiskDone { tag, result: Err(DiskError::NoSpace) });
    pair.nodes[0].unstall();
    // As when a disk of another volume has been attached.
    pair.nodes[0].core.as_mut().unwrap().renegotiate();
    pair.event(0, Event::Timeout);
    pair.settle();
    pair.nodes[1].unstall();
    pair.run(3_000);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)), "{:?}", pair.nodes[0].log);
    pair.synced();
}

#[test]
fn a_durable_write_that_fails_is_a_failed_disk_whatever_on_io_error_says() {
    for (failing, primary_disk) in [(0, DiskState::Diskless), (1, DiskState::UpToDate)] {
        let mut pair = passing_pair();
        pair.nodes[failing].fail = |action| matches!(action, Action::DiskWrite { fua: true, .. });
        let payload = pair.nodes[0].payload(4096, vec![9]);
        let op = Op::Write { offset: 21 * 4096, payload, fua: true };
        assert_eq!(pair.request(0, 5000, op), Ok(None));
        let own = pair.status(failing).devices[0].disk_state;
        assert_eq!(own, DiskState::Diskless, "its sync has told of other writes as well");
        assert_eq!(pair.status(0).devices[0].disk_state, primary_disk);
    }
}

#[test]
fn an_order_ends_when_the_disk_that_it_waits_for_at_the_peer_fails() {
    let mut pair = Pair::new();
    pair.run(2_000);
    pair.nodes[1].fail = |action| matches!(action, Action::Meta { op: MetaOp::Superblock(_), .. });
    let command = Command::NewCurrentUuid { volume: 0, clear_bitmap: true };
    pair.event(0, Event::Admin { id: 900, command });
    pair.run(60_000);
    assert!(pair.nodes[0].admin.remove(&900).expect("answered").is_err());
    assert_eq!(pair.status(1).devices[0].disk_state, DiskState::Diskless);
}
