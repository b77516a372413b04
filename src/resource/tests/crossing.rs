//! Stories of an adversarial review: late answers, hung disks, and what crosses on the way.

use super::pair::{Disk, Pair, config, passing_pair, superblock, synced_pair};
use crate::meta::{MetaOp, Superblock};
use crate::resource::*;
use crate::wire::Packet;

pub(super) fn is_write(action: &Action) -> bool {
    matches!(action, Action::DiskWrite { .. })
}

pub(super) fn is_flush(action: &Action) -> bool {
    matches!(action, Action::DiskFlush { .. })
}

pub(super) fn is_log(action: &Action) -> bool {
    matches!(action, Action::Meta { op: MetaOp::ActivityLog { .. }, .. })
}

pub(super) fn is_bitmap(action: &Action) -> bool {
    matches!(action, Action::Meta { op: MetaOp::Bitmap { .. }, .. })
}

pub(super) fn is_seen(action: &Action) -> bool {
    matches!(action, Action::Meta { op: MetaOp::SeenNumber { .. }, .. })
}

impl Pair {
    /// The link is cut, and only this node hears of it: the other one is frozen.
    pub(super) fn loss_is_seen_by(&mut self, n: usize) {
        self.link = false;
        for socket in std::mem::take(&mut self.nodes[n].sockets).into_keys() {
            self.event(n, Event::SocketLost { socket, error: SocketError::Io(104) });
        }
    }

    /// The oldest stalled operation of node `n` ends with this error.
    fn end_stalled(&mut self, n: usize, error: DiskError) {
        let stalled = self.nodes[n].stalled.pop_front();
        let Some(Event::DiskDone { tag, .. }) = stalled else { panic!("{stalled:?}") };
        self.event(n, Event::DiskDone { tag, result: Err(error) });
    }

    fn stage(&self, n: usize) -> crate::resource::peer::connection::Stage {
        self.core(n).connections[0].stage
    }

    /// The flags that are durable.
    pub(super) fn flags(&self, n: usize) -> u32 {
        self.nodes[n].disk.superblock.as_ref().unwrap().flags
    }

    pub(super) fn story(&self) -> String {
        format!("0:\n{}\n1:\n{}", self.nodes[0].log.join("\n"), self.nodes[1].log.join("\n"))
    }
}

// ---- panics ----

#[test]
fn a_write_that_ends_without_space_on_a_disk_that_has_failed_meanwhile_panics_nobody() {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.write(0, 21, 1).unwrap();
    pair.nodes[0].stall = is_write;
    let first = pair.start_write(0, 21, 2);
    let second = pair.start_write(0, 22, 2);
    pair.end_stalled(0, DiskError::Io(5));
    pair.end_stalled(0, DiskError::NoSpace);
    pair.nodes[0].unstall();
    pair.run(5_000);
    for id in [first, second] {
        assert_eq!(pair.nodes[0].replies.get(&id), Some(&Err(ReplyError::Io)));
    }
    assert_eq!(pair.disk(0), DiskState::Diskless);
}

#[test]
fn a_promotion_behind_a_detach_that_was_given_up_counts_its_own_answers_only() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.nodes[0].stall = is_flush;
    let detach = pair.order(1, Command::Detach { volume: 0, force: true });
    pair.run(7_000);
    assert!(pair.nodes[1].admin.contains_key(&detach));
    // Its PromoteRequest is on its way while the peer's FlushAck comes.
    pair.nodes[1].mute = true;
    let promote = pair.order(1, Command::Primary { force: None });
    pair.nodes[0].unstall();
    pair.settle();
    pair.nodes[1].mute = false;
    let air = std::mem::take(&mut pair.nodes[1].air);
    pair.nodes[0].done.extend(air);
    pair.run(10_000);
    assert_eq!(pair.nodes[1].admin.get(&promote), Some(&Ok(String::new())), "{}", pair.story());
}

#[test]
fn a_disk_that_fails_between_the_own_handshake_and_the_verdict_is_no_target() {
    let mut pair = Pair::new();
    pair.run(2_000);
    pair.primary(0, true);
    pair.synced();
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    let fresh = Superblock { device_uuid: 300, ..superblock(1) };
    pair.nodes[1].disk = Disk { superblock: Some(fresh), ..Disk::default() };
    // Node 1 sends its handshake; what node 0 answers is on its way.
    pair.nodes[0].mute = true;
    pair.attach_later(1);
    pair.settle();
    assert_eq!(
        pair.stage(1),
        crate::resource::peer::connection::Stage::Handshake,
        "{}",
        pair.story()
    );
    assert_eq!(pair.disk(1), DiskState::Negotiating);
    // A number comes, and cannot be stored.
    pair.nodes[1].fail = is_seen;
    let socket = pair.core(1).connections[0].active.unwrap();
    let packet = Packet::Number { volume: 0, number: 1 << 40 };
    pair.event(1, Event::Packet { socket, packet, payload: None });
    pair.settle();
    pair.nodes[0].mute = false;
    let air = std::mem::take(&mut pair.nodes[0].air);
    pair.nodes[1].done.extend(air);
    pair.run(100);
    assert_eq!(pair.disk(1), DiskState::Diskless, "{}", pair.story());
}

// ---- data ----

#[test]
fn a_write_for_a_peer_without_a_disk_that_waits_for_the_log_is_remembered_by_a_detach() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    pair.write(0, 5, 56).unwrap();
    // The log of the only disk is slow.
    pair.nodes[1].stall = is_log;
    let id = pair.start_write(0, 5000, 9);
    let detach = pair.order(1, Command::Detach { volume: 0, force: true });
    pair.run(1_000);
    pair.nodes[1].unstall();
    pair.run(1_000);
    assert!(pair.nodes[1].admin.contains_key(&detach), "{}", pair.story());
    let landed = pair.nodes[1].disk.blocks.get(&5000).copied();
    println!("reply {:?} landed {landed:?}", pair.nodes[0].replies.get(&id));
    pair.attach(1).unwrap();
    pair.run(5_000);
    pair.attach(0).unwrap();
    pair.synced();
}

#[test]
fn a_secondary_that_refused_a_write_is_not_promoted_over_those_that_came_after_it() {
    let mut pair = passing_pair();
    pair.nodes[1].fail = is_write;
    assert_eq!(pair.write(0, 20, 1), Ok(None));
    pair.nodes[1].fail = |_| false;
    // These rest on node 0 alone: node 1 gets none of them.
    assert_eq!(pair.write(0, 21, 2), Ok(None));
    assert_ne!(pair.nodes[1].disk.blocks.get(&21), Some(&2));
    pair.kill(0);
    pair.run(1_000);
    let answer = pair.admin(1, Command::Primary { force: None });
    assert!(answer.is_err(), "it lacks an answered write\n{}", pair.story());
}

#[test]
fn what_invalidate_has_promised_outlives_a_bitmap_write_that_ends_after_it() {
    let mut pair = synced_pair();
    pair.write(0, 7, 77).unwrap();
    assert_eq!(pair.request(0, 5000, Op::Flush), Ok(None));
    pair.lose_link();
    pair.write(0, 21, 1).unwrap();
    // The target's bits are being written when the link is lost again.
    pair.nodes[1].stall = is_bitmap;
    pair.link = true;
    pair.run(5_000);
    assert!(!pair.nodes[1].stalled.is_empty(), "{}", pair.story());
    pair.lose_link();
    pair.admin(1, Command::Invalidate { volume: 0 }).unwrap();
    let slot = |pair: &Pair| pair.nodes[1].disk.superblock.as_ref().unwrap().peers[0].bitmap_state;
    assert_eq!(slot(&pair), crate::meta::BitmapState::AllSet);
    pair.nodes[1].unstall();
    pair.run(100);
    println!("on the disk after the bitmap write: {:?}", slot(&pair));
    pair.kill(1);
    // The disk was bad, as the administrator has said.
    pair.nodes[1].disk.blocks.insert(7, 1);
    pair.up(1);
    pair.link = true;
    pair.synced();
}

#[test]
fn a_write_is_not_answered_before_the_new_uuid_of_an_order_is_durable() {
    let mut pair = synced_pair();
    assert_eq!(pair.request(0, 5000, Op::Flush), Ok(None));
    pair.lose_link();
    pair.run(100);
    let before = pair.nodes[0].disk.superblock.clone();
    pair.nodes[0].stall = |action| matches!(action, Action::Meta { op: MetaOp::Superblock(_), .. });
    pair.order(0, Command::NewCurrentUuid { volume: 0, clear_bitmap: false });
    let id = pair.start_write(0, 5, 9);
    pair.request_later(0, 5001, Op::Flush);
    pair.settle();
    let answered = pair.nodes[0].replies.get(&id).cloned();
    let flushed = pair.nodes[0].replies.get(&5001).cloned();
    // The node dies before its superblock is written.
    pair.kill(0);
    pair.nodes[0].stall = |_| false;
    pair.nodes[0].disk.superblock = before;
    pair.primary(1, false);
    pair.write(1, 6, 1).unwrap();
    pair.up(0);
    pair.link = true;
    pair.run(30_000);
    let lost = pair.nodes[0].disk.blocks.get(&5) != Some(&9);
    let said = [answered, flushed];
    assert!(said == [None, None] || !lost, "answered {said:?}, and overwritten\n{}", pair.story());
}

#[test]
fn a_new_uuid_by_order_is_not_stored_before_the_loss_flush() {
    let mut pair = synced_pair();
    let before = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
    assert_eq!(pair.write(0, 5, 9), Ok(None));
    // Both have the write; node 0 has not flushed it when the link is lost.
    pair.nodes[0].stall = is_flush;
    pair.lose_link();
    let order = Command::NewCurrentUuid { volume: 0, clear_bitmap: false };
    pair.order(0, order);
    pair.run(100);
    let after = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
    let too_early = before != after;
    // Node 0 loses its power: the write was in its cache.
    pair.kill(0);
    pair.nodes[0].stall = |_| false;
    pair.nodes[0].disk.blocks.insert(5, 55);
    pair.up(0);
    pair.link = true;
    pair.synced();
    let kept = pair.nodes[1].disk.blocks.get(&5) == Some(&9);
    assert!(kept, "UUID before the flush: {too_early}; node 1 had the write\n{}", pair.story());
}

// ---- what hangs ----

#[test]
fn a_detach_that_hangs_is_ended_by_force() {
    let mut pair = synced_pair();
    // Nothing is under way: the disk hangs in the flush of the detach.
    pair.nodes[0].stall = |_| true;
    let first = pair.order(0, Command::Detach { volume: 0, force: false });
    pair.run(1_000);
    let second = pair.order(0, Command::Detach { volume: 0, force: true });
    let write = pair.start_write(0, 22, 9);
    pair.run(120_000);
    let answers = [first, second].map(|id| pair.nodes[0].admin.get(&id).cloned());
    let reply = pair.nodes[0].replies.get(&write).cloned();
    assert_eq!(reply, Some(Ok(None)), "the peer has everything; {answers:?}");
}

#[test]
fn a_demotion_whose_flush_hangs_is_answered() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_flush;
    let order = pair.order(0, Command::Secondary { force: true, wait_ms: 0 });
    pair.run(1_000);
    let force = pair.order(0, Command::Detach { volume: 0, force: true });
    pair.run(300_000);
    let answers = [order, force].map(|id| pair.nodes[0].admin.get(&id).cloned());
    assert!(answers[0].is_some(), "{answers:?}\n{}", pair.story());
}

#[test]
fn an_attach_whose_disk_hangs_does_not_stand_in_the_way_of_a_session() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    pair.nodes[0].stall = |_| true;
    pair.attach_later(0);
    pair.settle();
    let force = pair.order(0, Command::Detach { volume: 0, force: true });
    pair.cut();
    pair.run(200_000);
    let answer = pair.nodes[0].admin.get(&force).cloned();
    assert_eq!(pair.write(0, 22, 9), Ok(None), "{answer:?}\n{}", pair.story());
}

#[test]
fn a_disk_that_was_given_up_does_not_stand_in_the_way_of_a_session() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = |_| true;
    let write = pair.start_write(0, 21, 9);
    pair.order(0, Command::Detach { volume: 0, force: true });
    pair.run(7_000);
    assert_eq!(pair.nodes[0].replies.get(&write), Some(&Ok(None)));
    assert_eq!(pair.disk(0), DiskState::Failed);
    assert_eq!(pair.write(0, 22, 9), Ok(None));
    // The link is lost for a moment.
    pair.cut();
    pair.run(100_000);
    assert_eq!(pair.write(0, 23, 9), Ok(None), "{:?}\n{}", pair.stage(0), pair.story());
}

#[test]
fn a_primary_that_was_frozen_as_a_target_serves_again_and_is_up_to_date_when_it_is_demoted() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(pair.write(0, 7, 1), Ok(None));
    // Frozen in the middle of the resync of its own disk, whose source has not gone on meanwhile.
    pair.nodes[0].stall = |action| matches!(action, Action::DiskWrite { .. });
    pair.attach_later(0);
    pair.run(1_000);
    pair.event(0, Event::ClockGap { gap_ms: 3_000 });
    pair.nodes[0].unstall();
    pair.run(30_000);
    assert!(!pair.status(0).suspended_gap, "{}", pair.story());
    assert_eq!([pair.disk(0), pair.disk(1)], [DiskState::UpToDate; 2], "{}", pair.story());
    let session = SessionId(1);
    pair.event(0, Event::SessionOpened { session, volume: 0, client: "test".into() });
    assert_eq!(pair.write(0, 9, 90), Ok(None), "{}", pair.story());
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    assert_eq!([pair.disk(0), pair.disk(1)], [DiskState::UpToDate; 2], "{}", pair.story());
    pair.primary(1, false);
    assert_eq!(pair.write(1, 8, 2), Ok(None));
}

#[test]
fn a_frozen_primary_that_becomes_the_target_of_a_newer_generation_stays_closed() {
    let mut pair = synced_pair();
    for node in &mut pair.nodes {
        node.core.as_mut().unwrap().config.options.rr_conflict = RrConflict::Violently;
    }
    // Node 0 is frozen: only node 1 sees the loss, and goes on for a while.
    pair.loss_is_seen_by(1);
    pair.settle();
    pair.primary(1, false);
    assert_eq!(pair.write(1, 2, 2), Ok(None));
    pair.admin(1, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.link = true;
    pair.event(0, Event::ClockGap { gap_ms: 3_000 });
    pair.run(30_000);
    assert_eq!([pair.disk(0), pair.disk(1)], [DiskState::UpToDate; 2], "{}", pair.story());
    assert_eq!(pair.nodes[0].disk.blocks.get(&2), Some(&2), "the peer had gone on");
    assert!(pair.status(0).suspended_gap, "until somebody demotes it\n{}", pair.story());
}

#[test]
fn a_new_disk_whose_node_dies_before_its_number_is_stored_is_not_taken_for_an_old_image() {
    let mut pair = Pair::new();
    // Node 0 sees higher and higher numbers of a fresh disk, which is then replaced.
    for _ in 0..8 {
        pair.run(3_000);
        pair.cut();
    }
    pair.kill(1);
    let fresh = Superblock { device_uuid: 300, ..superblock(1) };
    pair.nodes[1].disk = Disk { superblock: Some(fresh), ..Disk::default() };
    pair.link = false;
    pair.up(1);
    pair.run(100);
    pair.primary(1, true);
    pair.write(1, 5, 55).unwrap();
    // Node 0 adopts; the source's flush takes long, and its node dies in it.
    pair.nodes[1].stall = is_flush;
    pair.link = true;
    pair.run(5_000);
    assert!(!pair.nodes[1].stalled.is_empty(), "{}", pair.story());
    pair.kill(1);
    pair.nodes[1].stall = |_| false;
    pair.up(1);
    pair.synced();
}

#[test]
fn a_new_uuid_that_meets_a_new_handshake_does_not_end_the_session() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    // The first write without a disk: the peer is asked to store a new current UUID.
    pair.nodes[0].mute = true;
    let id = pair.start_write(0, 20, 1);
    let air = std::mem::take(&mut pair.nodes[0].air);
    pair.nodes[1].done.extend(air);
    pair.settle();
    assert!(pair.core(0).devices[&0].bumping, "NewUuid is on its way");
    // As when another volume of the resource is attached on node 1.
    pair.nodes[1].core.as_mut().unwrap().renegotiate();
    pair.event(1, Event::Timeout);
    pair.settle();
    assert_eq!(pair.stage(1), crate::resource::peer::connection::Stage::Handshake);
    pair.nodes[0].mute = false;
    let air = std::mem::take(&mut pair.nodes[0].air);
    pair.nodes[1].done.extend(air);
    pair.run(1_000);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    assert_eq!(pair.write(0, 21, 1), Ok(None), "{}", pair.story());
}

#[test]
fn the_bitmaps_of_a_large_disk_do_not_wait_all_at_once_to_be_sent() {
    let mut pair = Pair::new();
    for n in 0..2 {
        pair.kill(n);
    }
    // 4 TiB, a first full sync.
    for n in 0..2 {
        let core = Resource::new(config(u8::try_from(n).unwrap()), 7 + n as u64, pair.now, 0);
        pair.nodes[n].core = Some(core);
        let mut command = pair.attach_command(n);
        if let Command::Attach { disk, .. } = &mut command {
            disk.data_size = 4 << 40;
            disk.meta.superblock.data_size = 4 << 40;
        }
        pair.admin(n, command).unwrap();
    }
    pair.connect_both();
    pair.run(2_000);
    pair.nodes[0].mute = true;
    pair.order(0, Command::Primary { force: Some(Force::Plain) });
    pair.settle();
    // Until node 0 has decided, and sends its bits in one drain.
    let ended =
        |event: &Event| matches!(event, Event::Packet { packet: Packet::BitmapEnd { .. }, .. });
    for _ in 0..20 {
        if pair.nodes[0].air.iter().any(ended) {
            break;
        }
        let air = std::mem::take(&mut pair.nodes[0].air);
        pair.nodes[1].done.extend(air);
        pair.settle();
    }
    let bytes: usize = pair.nodes[0]
        .air
        .iter()
        .map(|event| match event {
            Event::Packet { packet: Packet::Bitmap { words, .. }, .. } => 32 + 8 * words.len(),
            _ => 0,
        })
        .sum();
    // Less than that of io/peer.rs, above which a connection is dropped.
    let limit = 2 * (8 << 20) + 2 * (32 << 20);
    assert!(pair.nodes[0].air.iter().any(ended), "{}", pair.story());
    assert!(bytes <= limit, "{bytes} bytes at once, the shell drops the session at {limit}");
}

#[test]
fn what_a_peer_asks_without_end_is_refused_at_some_point() {
    let mut pair = synced_pair();
    pair.nodes[1].stall = |_| true;
    let socket = pair.core(1).connections[0].active.unwrap();
    for sequence in 0..100_000 {
        let packet = Packet::ReadRequest { volume: 0, sequence, offset: 0, length: 4096 };
        pair.event(1, Event::Packet { socket, packet, payload: None });
    }
    let reads = pair.core(1).tags.len();
    for sequence in 0..100_000 {
        let (mode, fua) = (crate::wire::ZeroMode::Hole, false);
        let packet = Packet::Zeroes { volume: 0, sequence, offset: 0, length: 4096, mode, fua };
        // The harness would find that they overlap.
        pair.nodes[1].writing.clear();
        pair.event(1, Event::Packet { socket, packet, payload: None });
    }
    let writes = pair.core(1).peer_writes.len();
    for n in 0..100_000 {
        let packet = Packet::NewUuid { volume: 0, uuid: 1000 + 2 * n };
        pair.event(1, Event::Packet { socket, packet, payload: None });
    }
    let uuids = pair.core(1).tags.len();
    assert!(
        reads < 70_000 && writes < 70_000 && uuids < 70_000,
        "{reads} reads, {writes} zeroes, {uuids} tags"
    );
}

#[test]
fn a_new_handshake_beside_a_disk_that_was_given_up_holds_no_request_for_ever() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = |_| true;
    pair.start_write(0, 21, 9);
    pair.order(0, Command::Detach { volume: 0, force: true });
    pair.run(7_000);
    assert_eq!(pair.disk(0), DiskState::Failed);
    assert_eq!(pair.write(0, 22, 9), Ok(None));
    // As when the disk of another volume is attached on node 0.
    pair.nodes[0].core.as_mut().unwrap().renegotiate();
    pair.event(0, Event::Timeout);
    let id = pair.start_write(0, 23, 9);
    pair.run(600_000);
    let reply = pair.nodes[0].replies.get(&id);
    assert_eq!(reply, Some(&Ok(None)), "{:?} for ten minutes", pair.stage(0));
}

/// Node 0 is Primary, and its disk has failed.
fn pair_with_one_disk() -> Pair {
    let mut pair = synced_pair();
    pair.nodes[0].fail = |action| matches!(action, Action::DiskRead { .. });
    pair.request(0, 5000, Op::Read { offset: 7 * 4096, length: 4096 }).unwrap();
    pair.run(100);
    assert_eq!(pair.disk(0), DiskState::Diskless);
    pair
}

#[test]
fn the_only_disk_of_a_primary_that_lost_its_cache_is_not_taken_for_the_newest() {
    let mut pair = pair_with_one_disk();
    assert_eq!(pair.disk(0), DiskState::Diskless);
    pair.write(0, 31, 2).unwrap();
    // The peer loses power, and with it what was not flushed: the clients have to know.
    pair.lose_power(1);
    pair.nodes[1].disk.blocks.remove(&31);
    pair.run(100);
    pair.up(1);
    pair.run(10_000);
    let read = pair.request(0, 5002, Op::Read { offset: 31 * 4096, length: 4096 });
    assert_eq!(read, Err(ReplyError::Io), "{}", pair.nodes[1].log.join("\n"));
    assert_eq!(pair.disk(1), DiskState::Consistent);
}

/// Its own disk is attached again, and the other one is the source: a flush must not be answered as if what the
/// other had in its cache were there.
#[test]
fn clients_of_a_copy_that_lost_its_cache_are_cut_off_before_it_is_read_again() {
    for there in [true, false] {
        let mut pair = pair_with_one_disk();
        pair.write(0, 31, 2).unwrap();
        pair.nodes[0].fail = |_| false;
        if there {
            pair.lose_power(1);
            pair.nodes[1].disk.blocks.remove(&31);
            pair.run(100);
            pair.up(1);
        } else {
            pair.kill(1);
            pair.up(1);
        }
        pair.run(10_000);
        pair.attach(0).unwrap();
        pair.run(10_000);
        assert_eq!([0, 1].map(|n| pair.disk(n)), [DiskState::UpToDate; 2], "{}", pair.story());
        let flush = pair.request(0, 5002, Op::Flush);
        assert_eq!(flush, if there { Err(ReplyError::Shutdown) } else { Ok(None) });
        assert_eq!(pair.nodes[0].lost_caches, usize::from(there), "{}", pair.story());
    }
}

/// It was the source of a resync when the link failed again, and says that it is UpToDate by then.
#[test]
fn a_copy_that_has_said_that_it_lost_its_cache_does_not_take_that_back() {
    let mut pair = pair_with_one_disk();
    pair.write(0, 31, 2).unwrap();
    pair.nodes[0].fail = |_| false;
    pair.lose_power(1);
    pair.nodes[1].disk.blocks.remove(&31);
    pair.run(100);
    pair.up(1);
    pair.run(10_000);
    pair.nodes[1].stall = is_flush;
    pair.attach_later(0);
    pair.run(500);
    assert_eq!(pair.disk(0), DiskState::Inconsistent, "{}", pair.story());
    // Its word that it is UpToDate does not arrive.
    pair.nodes[1].mute = true;
    pair.nodes[1].unstall();
    pair.run(100);
    assert_eq!(pair.disk(1), DiskState::UpToDate, "{}", pair.story());
    pair.nodes[1].air.clear();
    pair.nodes[1].mute = false;
    pair.cut();
    pair.run(10_000);
    assert_eq!(pair.request(0, 5002, Op::Flush), Err(ReplyError::Shutdown), "{}", pair.story());
}

#[test]
fn the_only_disk_of_a_primary_whose_node_merely_lost_its_process_goes_on() {
    let mut pair = pair_with_one_disk();
    for round in 1..=3 {
        pair.write(0, 31, round).unwrap();
        assert!(pair.flags(1) & crate::meta::DeviceFlags::SURVIVED == 0, "before it is flushed");
        pair.kill(1);
        // What the dead process was not asked for is answered at once, and never done.
        assert_eq!(pair.write(0, 32, round), Err(ReplyError::Io));
        pair.up(1);
        pair.run(10_000);
        assert_eq!(pair.disk(1), DiskState::UpToDate, "{}", pair.story());
        assert!(pair.flags(1) & crate::meta::DeviceFlags::SURVIVED != 0);
        let read = pair.request(0, 5000 + round, Op::Read { offset: 31 * 4096, length: 4096 });
        assert_eq!(read, Ok(Some(round)), "{}", pair.story());
    }
    // Twice in a row, without a write between them.
    pair.kill(1);
    pair.up(1);
    pair.run(10_000);
    pair.write(0, 33, 9).unwrap();
    // A power loss later is one, whatever came before.
    pair.kill(1);
    pair.nodes[1].power_lost = true;
    pair.up(1);
    pair.run(10_000);
    assert_eq!(pair.disk(1), DiskState::Consistent);
    // And what was given up then is not taken up by the next restart.
    pair.kill(1);
    pair.up(1);
    pair.run(10_000);
    assert_eq!(pair.disk(1), DiskState::Consistent);
}

#[test]
fn a_disk_that_stood_in_and_was_the_source_since_stands_in_no_more() {
    let mut pair = pair_with_one_disk();
    pair.write(0, 31, 1).unwrap();
    assert!(pair.flags(1) & crate::meta::DeviceFlags::STANDS_IN != 0);
    pair.nodes[0].fail = |_| false;
    pair.attach(0).unwrap();
    pair.run(10_000);
    assert_eq!(pair.disk(0), DiskState::UpToDate, "{}", pair.story());
    assert!(pair.flags(1) & crate::meta::DeviceFlags::STANDS_IN == 0);
    // The other goes on without it: its copy is old, whatever this system remembers.
    pair.write(0, 31, 2).unwrap();
    pair.kill(1);
    pair.write(0, 31, 3).unwrap();
    pair.nodes[1].core = None;
    pair.kill(0);
    pair.up(1);
    pair.run(10_000);
    assert_eq!(pair.disk(1), DiskState::Consistent);
}
