//! Rules of the model (docs/TESTING.md, "The rules of the model"), one by one: each story shows what
//! is lost without a part of one, or at least that nothing is said before it is durable.

use std::collections::VecDeque;

use super::crossing::{is_flush, is_seen};
use super::hand_over::is_superblock;
use super::pair::{Pair, SIZE, synced_pair};
use crate::meta::{DeviceFlags, MetaOp};
use crate::resource::*;

fn is_read(action: &Action) -> bool {
    matches!(action, Action::DiskRead { .. })
}

fn leave(peer: u8) -> Command {
    Command::Disconnect { peer, force: false, for_ms: None }
}

impl Pair {
    pub(super) fn has(&self, n: usize, flag: u32) -> bool {
        self.nodes[n].disk.superblock.as_ref().unwrap().flags & flag != 0
    }

    pub(super) fn block(&self, n: usize, block: u64) -> u64 {
        self.nodes[n].disk.blocks.get(&block).copied().unwrap_or(0)
    }

    pub(super) fn told(&self, n: usize) -> String {
        self.nodes[n].log.join("\n")
    }

    /// Whether a request has its answer, and it is no error.
    fn is_done(&self, n: usize, id: u64) -> bool {
        matches!(self.nodes[n].replies.get(&id), Some(Ok(_)))
    }

    /// Both are started again, and meet.
    pub(super) fn both_return(&mut self) {
        for n in 0..2 {
            self.nodes[n].stall = |_| false;
            self.nodes[n].fail = |_| false;
            if self.nodes[n].core.is_none() {
                self.up(n);
            }
        }
        self.link = true;
        self.run(20_000);
    }
}

/// R2b. The model has found nothing that is lost without it: what a flush covers, the peer has as well.
#[test]
fn a_flush_that_loses_the_peer_is_answered_when_the_survivor_has_said_so() {
    let mut pair = synced_pair();
    assert_eq!(pair.write(0, 9, 99), Ok(None));
    pair.nodes[1].stall = is_flush;
    pair.request_later(0, 900, Op::Flush);
    pair.run(20);
    assert!(!pair.is_done(0, 900), "the peer has not flushed");
    for step in [is_flush, is_superblock] {
        pair.nodes[0].stall = step;
        if pair.link {
            pair.lose_link();
        } else {
            let flushed = std::mem::take(&mut pair.nodes[0].stalled);
            pair.nodes[0].done.extend(flushed);
        }
        pair.run(100);
        assert!(!pair.nodes[0].stalled.is_empty());
        assert!(!pair.is_done(0, 900), "the flush after the loss, then SURVIVED");
    }
    pair.nodes[0].unstall();
    pair.run(100);
    assert!(pair.is_done(0, 900) && pair.has(0, DeviceFlags::SURVIVED));
}

/// R3b. Its disk is the newest, and says so: after a power loss it serves without its peer.
#[test]
fn who_stays_when_a_secondary_leaves_is_promoted_alone_after_a_power_loss() {
    let mut pair = synced_pair();
    pair.write(0, 9, 99).unwrap();
    pair.admin(1, leave(0)).unwrap();
    assert!(pair.has(1, DeviceFlags::OUTDATED), "it is of no use until both have met");
    pair.lose_power(0);
    pair.link = false;
    pair.up(0);
    pair.primary(0, false);
    assert_eq!(pair.block(0, 9), 99);
}

/// R3b. The Primary dies before it has answered: it is a loss, and the leaver has the newest data.
#[test]
fn who_leaves_is_not_old_before_the_primary_has_answered() {
    let mut pair = synced_pair();
    pair.write(0, 9, 99).unwrap();
    pair.nodes[0].stall = is_superblock;
    let id = pair.order(1, leave(0));
    pair.run(100);
    assert_eq!(pair.nodes[1].admin.get(&id), None);
    pair.lose_power(0);
    pair.run(1_000);
    pair.primary(1, false);
    assert_eq!(pair.block(1, 9), 99);
}

/// R5. A node that has survived the last loss opens a session, and its disk does not say so yet. What
/// was acknowledged then would be overwritten by a disk that lost it: it passes for the only survivor.
#[test]
fn a_session_is_not_open_before_the_disk_has_said_so() {
    for durable in [false, true] {
        let mut pair = synced_pair();
        assert_eq!(pair.request(0, 900, Op::Flush), Ok(None));
        pair.lose_link();
        pair.run(1_000);
        assert!(pair.has(0, DeviceFlags::SURVIVED) && pair.has(1, DeviceFlags::SURVIVED));
        if !durable {
            pair.nodes[1].stall = is_superblock;
        }
        pair.link = true;
        pair.run(3_000);
        let write = pair.start_write(0, 9, 99);
        pair.run(100);
        let answered = pair.is_done(0, write);
        // Bob's host loses power, then alice's daemon is killed.
        pair.nodes[0].stall = is_flush;
        pair.lose_power(1);
        pair.kill(0);
        pair.both_return();
        let there = [0, 1].map(|n| pair.block(n, 9));
        assert!(!answered || there == [99, 99], "{there:?}\n{}", pair.told(0));
        assert_eq!(answered, durable);
    }
}

/// R5. A crash counts until the next session: later the node that was Primary then decides, also where
/// the other one was it long ago.
#[test]
fn a_crash_as_primary_is_forgotten_when_the_next_session_opens() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.admin(0, Command::Primary { force: None }).unwrap();
    pair.kill(0);
    pair.up(0);
    pair.synced();
    pair.primary(1, false);
    // Both lose power. An extent of node 0 is hot: its log was about to say that it is cold.
    pair.lose_power(0);
    pair.lose_power(1);
    let mut words = vec![0; 61];
    words[0] = 1;
    words[60] = pair.nodes[0].disk.superblock.as_ref().unwrap().number;
    pair.nodes[0].disk.hot.insert(0, words);
    pair.both_return();
    let status = pair.status(1);
    let met = &status.connections[0].last_handshake[0];
    assert_eq!(met.rule, "crashed-primary");
    assert!(met.outcome.contains("source"), "{}", met.outcome);
}

/// R7. A target that loses power as it adopts is whole: it has not been sent anything yet. The Primary
/// is frozen when it loses it, so that no generation has begun and the target passes for UpToDate.
#[test]
fn nothing_is_copied_to_a_disk_that_does_not_say_durably_that_it_is_a_mix() {
    let mut pair = synced_pair();
    for node in &mut pair.nodes {
        node.core.as_mut().unwrap().config.options.fencing = Fencing::ResourceAndStonith;
    }
    pair.nodes[0].mute = true;
    pair.start_write(0, 9, 99);
    pair.start_write(0, 9_000, 98);
    pair.lose_link();
    (pair.nodes[0].mute, pair.nodes[0].air) = (false, VecDeque::new());
    pair.nodes[1].stall = |action| match action {
        Action::Meta { op: MetaOp::Superblock(superblock), .. } => {
            superblock.flags & DeviceFlags::CONSISTENT == 0
        }
        Action::DiskWrite { offset, .. } => *offset == 9_000 * 4096,
        _ => false,
    };
    pair.link = true;
    pair.run(5_000);
    assert!(!pair.nodes[1].stalled.is_empty(), "it adopts\n{}", pair.told(1));
    pair.kill(0);
    pair.lose_power(1);
    pair.nodes[1].stall = |_| false;
    pair.up(1);
    pair.primary(1, false);
    assert_eq!([9, 9_000].map(|block| pair.block(1, block)), [0, 0], "nobody was told of either");
}

/// R9. A write that rested on the source alone, in its cache, is copied; its bit goes, and its extent
/// has long been cold. Then the source loses power.
#[test]
fn a_source_that_loses_power_after_the_resync_has_what_it_has_sent() {
    let mut pair = Pair::new();
    for n in 0..2 {
        pair.kill(n);
        pair.nodes[n].disk.superblock.as_mut().unwrap().data_size = 8 * SIZE;
        pair.up(n);
    }
    pair.run(2_000);
    pair.primary(0, true);
    pair.synced();
    pair.lose_link();
    let extent = EXTENT_SIZE / 4096;
    for at in 0..120 {
        pair.write(0, at * extent + 9, 100 + at).unwrap();
    }
    assert!(pair.nodes[0].disk.hot.values().all(|words| words[0] & 1 == 0), "it is cold");
    pair.link = true;
    pair.synced();
    pair.lose_power(0);
    pair.both_return();
    pair.synced();
    assert_eq!(pair.block(0, 9), 100);
}

/// R12. It stored the writes of a Primary without a disk when its process ended: the next one finds
/// them in the system's cache, and vouches for them.
#[test]
fn a_disk_that_stood_in_is_flushed_before_it_says_that_it_has_all() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    // It is flushed with the first that it stores; not with the second.
    pair.write(0, 8, 88).unwrap();
    pair.write(0, 9, 99).unwrap();
    pair.link = false;
    pair.kill(1);
    pair.kill(0);
    pair.up(1);
    assert_eq!(pair.disk(1), DiskState::UpToDate);
    pair.lose_power(1);
    pair.up(1);
    pair.primary(1, false);
    assert_eq!(pair.block(1, 9), 99, "{}", pair.told(1));
}

/// R13. A disk that was forced, and lacks what both have acknowledged, is no successor of the peer's.
#[test]
fn a_forced_disk_never_overwrites_what_the_peer_has() {
    let mut pair = synced_pair();
    pair.write(0, 9, 99).unwrap();
    pair.lose_power(0);
    assert_eq!(pair.block(0, 9), 0, "it was in its cache");
    pair.run(1_000);
    pair.link = false;
    pair.up(0);
    assert_eq!(pair.disk(0), DiskState::Consistent);
    pair.primary(0, true);
    pair.write(0, 10, 100).unwrap();
    pair.both_return();
    assert_eq!(pair.block(1, 9), 99, "{}", pair.told(1));
    let connection = &pair.status(1).connections[0];
    assert_ne!(connection.connection_state, ConnectionState::Connected);
}

/// R14. A disk that was set back to before a write is noticed by whoever has acknowledged it, also
/// after a loss of power.
#[test]
fn a_write_is_acknowledged_when_the_number_before_it_is_durable() {
    for durable in [false, true] {
        let mut pair = synced_pair();
        pair.write(0, 5, 1).unwrap();
        pair.run(15_000);
        let image = pair.nodes[0].disk.clone();
        if !durable {
            pair.nodes[1].stall = is_seen;
        }
        // The first write of its extent.
        let payload = pair.nodes[0].payload(4096, vec![3]);
        let op = Op::Write { offset: 12_000 * 4096, payload, fua: true };
        pair.request_later(0, 900, op);
        pair.run(100);
        let answered = pair.is_done(0, 900);
        pair.nodes[0].stall = is_flush;
        pair.lose_power(1);
        pair.kill(0);
        pair.nodes[0].disk = image;
        pair.both_return();
        let noticed = pair.status(1).connections[0].reason == Reason::RolledBack;
        assert!(!answered || noticed, "{}", pair.told(1));
        assert_eq!(answered, durable);
    }
}

/// R15. The Primary's disk fails; what both have acknowledged is in the cache of the other one, whose
/// disk goes on in its place and has an identifier of its own then.
#[test]
fn a_disk_that_stands_in_has_flushed_what_both_had() {
    let mut pair = synced_pair();
    pair.write(0, 9, 99).unwrap();
    pair.nodes[1].stall = is_flush;
    pair.nodes[0].fail = is_read;
    pair.request_later(0, 901, Op::Read { offset: 5 * 4096, length: 4096 });
    let write = pair.start_write(0, 10, 100);
    pair.run(100);
    assert!(matches!(pair.disk(0), DiskState::Failed | DiskState::Diskless));
    let answered = pair.is_done(0, write);
    pair.lose_power(1);
    pair.kill(0);
    pair.both_return();
    let there = [0, 1].map(|n| pair.block(n, 9));
    assert_eq!(there, [99, 99], "{}", pair.told(1));
    assert!(!answered, "not before the flush");
}

/// R15. A disk that was detached while the other one goes on is old, and says so.
#[test]
fn a_detached_disk_is_old_in_either_role() {
    for n in 0..2 {
        let mut pair = synced_pair();
        pair.admin(n, Command::Detach { volume: 0, force: false }).unwrap();
        pair.write(0, 9, 99).unwrap();
        pair.link = false;
        pair.kill(0);
        pair.kill(1);
        pair.up(n);
        assert_eq!(pair.disk(n), DiskState::Outdated);
        let refusal = pair.admin(n, Command::Primary { force: Some(Force::Plain) }).unwrap_err();
        assert_eq!(refusal.code, -2, "it lacks what was acknowledged: {refusal}");
    }
}
