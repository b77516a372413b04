//! Stories in which something is lost, late, or wrong in the middle of a step.

use super::pair::{Pair, frozen_pair, synced_pair};
use crate::resource::*;
use crate::wire::Packet;

impl Pair {
    fn start(&mut self, n: usize, id: u64, op: Op) {
        self.request_later(n, id, op);
        self.settle();
    }

    /// A packet that the peer of `n` never sent.
    fn forge(&mut self, n: usize, packet: Packet) {
        let socket = self.core(n).connections[0].active.expect("a session");
        self.event(n, Event::Packet { socket, packet, payload: None });
        self.settle();
    }
}

// ---- one copy only ----

#[test]
fn a_write_whose_only_disk_failed_before_its_reply_is_an_error() {
    let mut pair = synced_pair();
    // The loss flush does not end; the write waits for it.
    pair.nodes[0].stall = |action| matches!(action, Action::DiskFlush { .. });
    pair.lose_link();
    let id = pair.start_write(0, 9, 99);
    assert_eq!(pair.nodes[0].replies.get(&id), None);
    let Some(Event::DiskDone { tag, .. }) = pair.nodes[0].stalled.pop_front() else {
        panic!("the loss flush")
    };
    pair.nodes[0].done.push_back(Event::DiskDone { tag, result: Err(DiskError::Io(5)) });
    pair.nodes[0].unstall();
    pair.run(100);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Err(ReplyError::Io)));
}

#[test]
fn a_primary_without_a_disk_whose_peer_is_lost_before_it_stored_the_uuid_goes_on() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    pair.nodes[1].stall = |action| matches!(action, Action::DiskFlush { .. });
    let id = pair.start_write(0, 9, 99);
    pair.run(100);
    assert_eq!(pair.nodes[0].replies.get(&id), None, "not before the peer has stored it");
    pair.kill(1);
    pair.run(1000);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Err(ReplyError::Io)));
    pair.nodes[1].stall = |_| false;
    pair.up(1);
    pair.run(20_000);
    let state = pair.status(0).connections[0].connection_state;
    assert_eq!(state, ConnectionState::Connected, "{}", pair.nodes[0].log.join("\n"));
    assert_eq!(pair.write(0, 9, 98), Ok(None));
}

#[test]
fn a_write_error_that_is_passed_on_is_an_error_and_no_hang() {
    let mut pair = Pair::new();
    pair.kill(0);
    pair.nodes[0].on_io_error = OnIoError::PassOn;
    pair.up(0);
    pair.run(20_000);
    pair.primary(0, true);
    pair.write(0, 5, 55).unwrap();
    pair.synced();
    pair.nodes[0].fail = |action| matches!(action, Action::DiskWrite { .. });
    let id = pair.start_write(0, 9, 99);
    pair.run(100);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Err(ReplyError::Io)));
    assert_eq!(pair.status(0).connections[0].peer_devices[0].out_of_sync, 4096);
    pair.nodes[0].fail = |_| false;
    assert_eq!(pair.write(0, 9, 98), Ok(None));
}

// ---- late writes ----

#[test]
fn a_late_write_of_a_dead_primary_is_not_overtaken() {
    let mut pair = synced_pair();
    pair.nodes[1].stall = |action| matches!(action, Action::DiskWrite { .. });
    pair.start_write(0, 9, 99);
    pair.kill(0);
    pair.settle();
    pair.primary(1, false);
    let id = pair.start_write(1, 9, 11);
    assert_eq!(pair.nodes[1].replies.get(&id), None, "the old write has not landed");
    pair.nodes[1].unstall();
    pair.run(100);
    assert_eq!(pair.nodes[1].replies.get(&id), Some(&Ok(None)));
    assert_eq!(pair.nodes[1].disk.blocks.get(&9), Some(&11));
}

#[test]
fn a_late_write_of_resync_is_not_overtaken() {
    let mut pair = synced_pair();
    pair.lose_link();
    assert_eq!(pair.write(0, 9, 99), Ok(None));
    pair.nodes[1].stall = |action| matches!(action, Action::DiskWrite { .. });
    pair.link = true;
    pair.run(20_000);
    assert!(!pair.nodes[1].stalled.is_empty(), "a piece is being written");
    pair.cut();
    pair.run(20_000);
    // A new session: neither resync nor replication may write there yet.
    let id = pair.start_write(0, 9, 98);
    pair.run(1000);
    pair.nodes[1].unstall();
    pair.synced();
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    assert_eq!(pair.nodes[1].disk.blocks.get(&9), Some(&98));
}

// ---- answers that do not fit ----

#[test]
fn an_answer_of_the_wrong_kind_loses_no_request() {
    let sequence = |pair: &Pair| *pair.core(0).connections[0].sent.keys().next_back().unwrap();
    let forged: [fn(u64) -> Packet; 6] = [
        |sequence| Packet::FlushAck { volume: 0, sequence, ok: true },
        |sequence| Packet::ReadReply { volume: 0, sequence, length: 4096 },
        |sequence| Packet::ReadError { volume: 0, sequence },
        |sequence| Packet::ResyncZeroes { volume: 0, sequence },
        |sequence| Packet::HoleAnswer { volume: 0, sequence, length: 4096 },
        |sequence| Packet::PromoteAnswer { sequence, code: 0 },
    ];
    for packet in forged {
        let mut pair = synced_pair();
        pair.nodes[1].mute = true;
        let id = pair.start_write(0, 9, 99);
        let packet = packet(sequence(&pair));
        pair.link = false;
        pair.forge(0, packet);
        pair.cut();
        pair.run(1000);
        assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    }
}

#[test]
fn packets_of_an_opening_session_end_an_open_one() {
    let forged = [
        Packet::Adopted { volume: 0 },
        Packet::Opened { volume: 0 },
        Packet::BitmapEnd { volume: 0, bits: 0 },
        Packet::Bitmap { volume: 0, first_block: 0, words: vec![1] },
        Packet::ResyncDone { volume: 0 },
        Packet::ResyncEnd { volume: 0 },
        Packet::InSync { volume: 0, offset: 0, length: 4096 },
        Packet::ResyncAck { volume: 0, sequence: 1 },
        Packet::NewUuidAck { volume: 0, uuid: 7 },
        Packet::LeaveAnswer,
    ];
    for packet in forged {
        for n in 0..2 {
            let mut pair = synced_pair();
            pair.forge(n, packet.clone());
            pair.run(20_000);
            pair.synced();
            assert_eq!(pair.write(0, 9, 99), Ok(None), "{packet:?}");
            pair.synced();
        }
    }
}

// ---- orders ----

#[test]
fn a_forced_promotion_whose_disk_fails_is_refused() {
    for step in 0..2 {
        let mut pair = Pair::new();
        pair.run(2000);
        pair.kill(1);
        pair.run(100);
        pair.nodes[0].fail = match step {
            0 => |action| matches!(action, Action::DiskFlush { .. }),
            _ => |action| matches!(action, Action::Meta { .. }),
        };
        let refusal = pair.admin(0, Command::Primary { force: Some(Force::Plain) }).unwrap_err();
        assert_eq!(refusal.code, -2);
        assert_eq!(pair.status(0).role, Role::Secondary);
    }
}

#[test]
fn a_detach_whose_disk_fails_is_answered_and_leaves_it_dirty() {
    for step in 0..2 {
        let mut pair = synced_pair();
        assert_eq!(pair.write(0, 9, 99), Ok(None));
        pair.nodes[1].fail = match step {
            0 => |action| matches!(action, Action::DiskFlush { .. }),
            _ => |action| matches!(action, Action::Meta { .. }),
        };
        pair.admin(1, Command::Detach { volume: 0, force: false }).ok();
        assert_eq!(pair.disk(1), DiskState::Diskless);
        let flags = pair.nodes[1].disk.superblock.as_ref().unwrap().flags;
        if step == 0 {
            assert_eq!(flags & crate::meta::DeviceFlags::CLEAN, 0, "a failed disk is not clean");
        }
        pair.nodes[1].fail = |_| false;
        pair.attach(1).unwrap();
        pair.synced();
    }
}

#[test]
fn two_promotions_that_cross_do_not_both_succeed() {
    for first in 0..2 {
        let mut pair = synced_pair();
        pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
        pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
        // The first has its answer and saves its superblock when the second asks.
        pair.nodes[first].stall = |action| matches!(action, Action::Meta { .. });
        let a = pair.order(first, Command::Primary { force: None });
        let b = pair.order(1 - first, Command::Primary { force: None });
        pair.nodes[first].unstall();
        pair.run(100);
        let (a, b) = (&pair.nodes[first].admin[&a], &pair.nodes[1 - first].admin[&b]);
        assert!(a.is_ok() && b.is_err(), "{a:?} {b:?}");
    }
}

#[test]
fn an_order_behind_a_stuck_one_is_refused_in_time() {
    let mut pair = synced_pair();
    pair.nodes[1].stall = |action| matches!(action, Action::DiskFlush { .. });
    let detach = pair.order(1, Command::Detach { volume: 0, force: false });
    let outdate = pair.order(1, Command::Outdate { volume: 0 });
    pair.run(29_000);
    assert_eq!(pair.nodes[1].admin.get(&detach), None);
    assert_eq!(pair.nodes[1].admin.get(&outdate), None);
    pair.run(2_000);
    // Both at once: the stuck one names its disk.
    assert_eq!(pair.nodes[1].admin[&detach].as_ref().unwrap_err().code, -23);
    assert_eq!(pair.nodes[1].admin[&outdate].as_ref().unwrap_err().code, -6);
    pair.nodes[1].unstall();
    pair.run(1000);
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
}

#[test]
fn a_leave_that_is_never_answered_ends() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = |action| matches!(action, Action::Meta { .. });
    let id = pair.order(1, Command::Disconnect { peer: 0, force: false, for_ms: None });
    pair.run(60_000);
    assert!(pair.nodes[1].admin.contains_key(&id));
    assert_eq!(pair.status(1).connections[0].connection_state, ConnectionState::StandAlone);
}

// ---- renegotiation ----

#[test]
fn a_disk_attached_during_a_handshake_is_not_believed() {
    let mut pair = synced_pair();
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(pair.write(0, 9, 99), Ok(None));
    pair.lose_link();
    pair.link = true;
    // The handshake goes on while the disk comes.
    pair.nodes[0].stall = |action| matches!(action, Action::Meta { .. });
    pair.run(20_000);
    pair.cut();
    pair.nodes[0].unstall();
    pair.nodes[0].mute = true;
    pair.run(2000);
    let mute_ends = |pair: &mut Pair| {
        pair.nodes[0].mute = false;
        let air = std::mem::take(&mut pair.nodes[0].air);
        pair.nodes[1].done.extend(air);
    };
    pair.attach_later(1);
    pair.settle();
    mute_ends(&mut pair);
    pair.synced();
}

#[test]
fn a_disk_that_fails_during_a_handshake_is_no_panic() {
    let mut pair = synced_pair();
    pair.lose_link();
    assert_eq!(pair.write(0, 9, 99), Ok(None));
    pair.run(100);
    pair.link = true;
    // The target cannot save the bitmap.
    pair.nodes[1].fail = |action| matches!(action, Action::Meta { .. });
    pair.run(20_000);
    assert_eq!(pair.disk(1), DiskState::Diskless);
    assert_eq!(pair.status(0).connections[0].connection_state, ConnectionState::Connected);
    assert_eq!(pair.write(0, 9, 98), Ok(None));
}

#[test]
fn an_order_that_waits_for_a_handshake_goes_on_when_that_is_refused() {
    let mut pair = frozen_pair();
    pair.nodes[0].stall = |action| matches!(action, Action::Meta { .. });
    pair.link = true;
    pair.run(5_000);
    pair.event(
        0,
        Event::Admin { id: 900, command: Command::Secondary { force: true, wait_ms: 0 } },
    );
    assert_eq!(pair.nodes[0].admin.get(&900), None, "a handshake is under way");
    pair.nodes[0].unstall();
    // Nothing more arrives that could move the order on.
    pair.link = false;
    pair.settle();
    assert_eq!(pair.nodes[0].admin.remove(&900), Some(Ok(String::new())), "no timer is needed");
}

#[test]
fn a_full_disk_is_said_until_a_write_succeeds_also_while_it_is_tried_again() {
    let mut pair = synced_pair();
    pair.lose_link();
    assert_eq!(pair.write(0, 9, 98), Ok(None));
    pair.nodes[0].stall = |action| matches!(action, Action::DiskWrite { .. });
    pair.start_write(0, 9, 99);
    for _ in 0..3 {
        let Some(Event::DiskDone { tag, .. }) = pair.nodes[0].stalled.pop_front() else {
            panic!("the write is tried");
        };
        pair.event(0, Event::DiskDone { tag, result: Err(DiskError::NoSpace) });
        assert!(pair.status(0).suspended_no_space, "it waits");
        pair.run(1100);
        assert!(!pair.nodes[0].stalled.is_empty(), "it is tried again");
        assert!(pair.status(0).suspended_no_space, "it has not succeeded yet");
    }
    pair.nodes[0].unstall();
    pair.settle();
    assert!(!pair.status(0).suspended_no_space);
}

// ---- rollback ----

/// Its number is above what the source has seen as soon as it has adopted: a source that dies in the
/// middle of the resync, and remembers, does not refuse it again.
#[test]
fn a_rolled_back_disk_that_was_invalidated_is_refused_only_once() {
    let mut pair = synced_pair();
    let image = pair.nodes[1].disk.clone();
    for value in 100..104u64 {
        assert_eq!(pair.write(0, value, value), Ok(None));
        pair.kill(1);
        pair.up(1);
        pair.synced();
    }
    pair.kill(1);
    pair.nodes[1].disk = image;
    pair.up(1);
    pair.run(20_000);
    assert_eq!(pair.status(1).connections[0].reason, Reason::RolledBack);
    pair.admin(1, Command::Invalidate { volume: 0 }).unwrap();
    pair.nodes[1].stall = |action| matches!(action, Action::DiskWrite { .. });
    let connect = |peer| Command::Connect { peer, discard_my_data: false, tentative: false };
    pair.admin(1, connect(0)).unwrap();
    pair.admin(0, connect(1)).unwrap();
    pair.run(5000);
    let state = pair.status(1).connections[0].peer_devices[0].replication_state;
    assert_eq!(state, ReplicationState::SyncTarget);
    pair.nodes[1].unstall();
    pair.kill(0);
    pair.up(0);
    pair.synced();
}

#[test]
fn changed_options_act_at_once_or_say_when() {
    let mut pair = synced_pair();
    let mut options = pair.core(0).config.options.clone();
    options.timeout_ms = 3000;
    assert_eq!(
        pair.admin(
            0,
            Command::SetOptions { options: Box::new(options.clone()), volumes: BTreeMap::new() }
        ),
        Ok(String::new())
    );
    assert_eq!(pair.core(0).config.options.timeout_ms, 3000);
    options.after_sb_1pri = AfterSb1Pri::Consensus;
    options.al_extents = 99;
    let later = pair
        .admin(0, Command::SetOptions { options: Box::new(options), volumes: BTreeMap::new() })
        .unwrap();
    assert!(later.contains("after-sb-1pri takes effect at the next handshake"), "{later}");
    assert!(later.contains("al-extents takes effect when a disk is attached"), "{later}");
    // The session goes on; the next handshake compares.
    assert_eq!(pair.write(0, 9, 97), Ok(None));
    pair.lose_link();
    pair.link = true;
    pair.run(20_000);
    let status = pair.status(1);
    assert_eq!(status.connections[0].reason, Reason::ConfigDiffers);
    assert!(status.connections[0].detail.contains("after-sb-1pri"), "{:?}", status.connections);
}

// ---- what counts as a copy ----

/// The peer has acknowledged it and is lost; the own disk ends it after the loss flush. It rests on
/// this disk alone, and that is recorded first.
#[test]
fn a_write_that_ends_behind_the_loss_flush_rests_on_one_disk() {
    let mut pair = synced_pair();
    let before = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
    pair.nodes[0].stall = |action| matches!(action, Action::DiskWrite { .. });
    let id = pair.start_write(0, 9, 99);
    assert_eq!(pair.nodes[0].replies.get(&id), None);
    pair.lose_link();
    pair.run(100);
    pair.nodes[0].stall = |action| matches!(action, Action::Meta { .. });
    let write = pair.nodes[0].stalled.pop_front().expect("the write");
    pair.nodes[0].done.push_back(write);
    pair.settle();
    assert_eq!(pair.nodes[0].replies.get(&id), None, "not before the new UUID is durable");
    pair.nodes[0].unstall();
    pair.run(100);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    assert_ne!(pair.nodes[0].disk.superblock.clone().unwrap().current_uuid, before);
}

/// The own disk has it and fails, then the peer acknowledges: the peer keeps a new UUID first.
#[test]
fn a_write_whose_own_disk_failed_before_the_acknowledgement_rests_on_the_peer_alone() {
    let mut pair = synced_pair();
    pair.nodes[1].mute = true;
    let id = pair.start_write(0, 9, 99);
    pair.nodes[0].fail = |action| matches!(action, Action::DiskRead { .. });
    pair.start(0, 1000, Op::Read { offset: 5 * 4096, length: 4096 });
    assert_eq!(pair.disk(0), DiskState::Failed, "the peer has not said that its disk goes on");
    let uuid = |pair: &Pair| pair.nodes[1].disk.superblock.clone().unwrap().current_uuid;
    let before = uuid(&pair);
    pair.nodes[1].stall = |action| matches!(action, Action::Meta { .. });
    pair.nodes[1].mute = false;
    let air = std::mem::take(&mut pair.nodes[1].air);
    pair.nodes[0].done.extend(air);
    pair.settle();
    assert_eq!(pair.nodes[0].replies.get(&id), None, "not before the peer has stored the UUID");
    pair.nodes[1].unstall();
    pair.run(100);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    assert_ne!(uuid(&pair), before);
}

/// A Primary that is being resynced loses its source: nothing that only its own disk has is kept.
#[test]
fn a_disk_in_mid_resync_is_no_copy() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = |action| matches!(action, Action::DiskWrite { .. });
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(pair.write(0, 7, 77), Ok(None));
    pair.attach(0).unwrap();
    pair.run(1000);
    assert_eq!(pair.disk(0), DiskState::Inconsistent);
    let id = pair.start_write(0, 9, 99);
    pair.kill(1);
    pair.nodes[0].unstall();
    pair.run(1000);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Err(ReplyError::Io)));
    assert_eq!(pair.write(0, 10, 100), Err(ReplyError::Io));
    assert_eq!(pair.request(0, 1001, Op::Flush), Err(ReplyError::Io));
}

/// A Primary gets its disk back while the peer has none: nobody has said that it is the newest. It
/// is neither read nor written, and gets no identifier of its own.
#[test]
fn a_disk_that_nobody_has_vouched_for_takes_no_writes() {
    let mut pair = synced_pair();
    pair.nodes[0].fail = |action| matches!(action, Action::DiskRead { .. });
    assert_eq!(pair.request(0, 1000, Op::Read { offset: 4096, length: 4096 }), Ok(Some(0)));
    pair.nodes[0].fail = |_| false;
    pair.nodes[1].fail = |action| matches!(action, Action::DiskWrite { .. });
    assert_eq!(pair.write(0, 9, 99), Err(ReplyError::Io));
    assert_eq!((pair.disk(0), pair.disk(1)), (DiskState::Diskless, DiskState::Diskless));
    pair.attach(0).unwrap();
    pair.run(1000);
    assert_eq!(pair.disk(0), DiskState::Outdated, "the other one went on");
    let before = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
    assert_eq!(pair.request(0, 1001, Op::Read { offset: 4096, length: 4096 }), Err(ReplyError::Io));
    assert_eq!(pair.write(0, 9, 98), Err(ReplyError::Io));
    assert_eq!(pair.nodes[0].disk.superblock.clone().unwrap().current_uuid, before);
}

#[test]
fn an_attach_that_fails_while_the_peer_stores_a_generation_ends_no_session() {
    let mut pair = synced_pair();
    pair.nodes[0].fail = |action| matches!(action, Action::DiskRead { .. });
    assert_eq!(pair.request(0, 1000, Op::Read { offset: 4096, length: 4096 }), Ok(Some(0)));
    pair.nodes[0].fail = |action| matches!(action, Action::DiskFlush { .. });
    pair.nodes[1].stall = |action| matches!(action, Action::DiskFlush { .. });
    let id = pair.start_write(0, 9, 99);
    assert_eq!(pair.nodes[0].replies.get(&id), None);
    assert!(pair.attach(0).is_err());
    pair.nodes[1].unstall();
    pair.run(1_000);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)), "{}", pair.story());
    let lost = pair.nodes[0].log.iter().any(|line| line.contains("conn( Connected ->"));
    assert!(!lost, "{}", pair.story());
}
