//! Stories in which a step of an earlier resync, save or comparison ends in the middle of a later one, or beside a
//! disk that has gone meanwhile.

use super::crossing::is_flush;
use super::give_up::idle_pair;
use super::pair::{Disk, Pair, passing_pair, superblock, synced_pair};
use crate::meta::{BitmapState, DeviceFlags, MetaOp, Superblock};
use crate::resource::peer::connection::Save;
use crate::resource::*;
use crate::wire::Packet;

const DETACH: Command = Command::Detach { volume: 0, force: true };

fn is_write(action: &Action) -> bool {
    matches!(action, Action::DiskWrite { .. } | Action::DiskZeroes { .. })
}

fn is_read(action: &Action) -> bool {
    matches!(action, Action::DiskRead { .. })
}

/// A bitmap of so many pages is saved in pieces, and the slot is declared clear between two of them.
#[test]
fn bits_that_are_set_after_a_slot_was_declared_clear_are_not_saved_by_a_save_from_before() {
    let mut pair = Pair::new();
    pair.kill(0);
    pair.kill(1);
    let large = Superblock { data_size: 40 << 30, ..superblock(0) };
    pair.nodes[0].disk = Disk { superblock: Some(large), ..Disk::default() };
    pair.up(0);
    pair.primary(0, true);
    let core = pair.nodes[0].core.as_mut().unwrap();
    core.slot_whole(0, 0, BitmapState::AllClear);
    core.peer_device(0, 0).bitmap.set(0, 1);
    core.save_superblock(0, Then::Log);
    core.save_bitmap(0, 0, Save::Unsaved, Then::Log);
    pair.nodes[0].stall = |action| matches!(action, Action::Meta { op: MetaOp::Bitmap { .. }, .. });
    pair.event(0, Event::Timeout);
    pair.settle();
    assert!(!pair.nodes[0].stalled.is_empty());
    let core = pair.nodes[0].core.as_mut().unwrap();
    core.slot_whole(0, 0, BitmapState::AllClear);
    let last = core.peer_device(0, 0).bitmap.blocks() - 1;
    core.peer_device(0, 0).bitmap.set(last, 1);
    core.save_superblock(0, Then::Log);
    pair.nodes[0].unstall();
    pair.run(100);
    let bitmap = &mut pair.nodes[0].core.as_mut().unwrap().peer_device(0, 0).bitmap;
    assert_eq!(bitmap.unsaved_pages().len(), 1, "what is on the disk says that it is clear");
}

/// So no flush of it can vouch for blocks of the next one.
#[test]
fn a_target_whose_source_loses_its_disk_flushes_before_the_next_resync_begins() {
    let mut pair = idle_pair();
    pair.nodes[1].stall = is_flush;
    pair.admin(1, Command::Invalidate { volume: 0 }).unwrap();
    pair.run(2_000);
    assert!(!pair.nodes[1].stalled.is_empty(), "{}", pair.story());
    // A read of it fails.
    pair.nodes[0].core.as_mut().unwrap().disk_failed(0, DiskError::Io(5), "READ");
    pair.event(0, Event::Timeout);
    pair.run(100);
    assert_eq!(pair.disk(0), DiskState::Diskless);
    pair.attach(0).unwrap();
    let began = |pair: &Pair| {
        let copies = |line: &&String| line.contains("Began resync as SyncTarget");
        pair.nodes[1].log.iter().filter(copies).count()
    };
    let before = began(&pair);
    // One flush at a time: the resync's comes first, and then that of what both had.
    for _ in 0..2 {
        pair.run(1_000);
        assert_eq!(began(&pair), before, "{}", pair.story());
        let flush = pair.nodes[1].stalled.pop_front().expect("a flush was begun");
        pair.event(1, flush);
    }
    pair.nodes[1].unstall();
    pair.synced();
    assert_eq!(began(&pair), before + 1);
}

#[test]
fn a_target_that_is_whole_is_so_where_the_source_has_lost_its_disk_by_then() {
    let mut pair = idle_pair();
    pair.nodes[1].stall = |action| match action {
        Action::Meta { op: MetaOp::Superblock(superblock), .. } => {
            superblock.flags & DeviceFlags::CONSISTENT != 0
        }
        _ => false,
    };
    pair.admin(1, Command::Invalidate { volume: 0 }).unwrap();
    pair.run(2_000);
    assert!(!pair.nodes[1].stalled.is_empty(), "{}", pair.story());
    pair.admin(0, DETACH).unwrap();
    assert_eq!(pair.disk(1), DiskState::Inconsistent);
    pair.nodes[1].unstall();
    pair.run(1_000);
    assert_eq!(pair.disk(1), DiskState::UpToDate, "{}", pair.story());
    pair.primary(1, false);
    assert_eq!(pair.write(1, 7, 77), Ok(None));
}

/// Both nodes compare; the disk of one fails while it reads for the other.
#[test]
fn a_comparison_ends_with_the_disk_that_it_reads() {
    let mut pair = Pair::new();
    pair.run(2_000);
    pair.nodes[1].mute = true;
    let clear = || Command::NewCurrentUuid { volume: 0, clear_bitmap: true };
    let id = pair.order(0, clear());
    pair.order(1, clear());
    pair.nodes[0].fail = is_read;
    let air = std::mem::take(&mut pair.nodes[1].air);
    pair.nodes[1].mute = false;
    let asks = |event: &Event| matches!(event, Event::Packet { packet: Packet::Sample { .. }, .. });
    let (asked, answered): (Vec<_>, Vec<_>) = air.into_iter().partition(asks);
    assert!(!asked.is_empty() && !answered.is_empty());
    for event in asked {
        pair.event(0, event);
    }
    pair.settle();
    assert_eq!(pair.disk(0), DiskState::Diskless);
    for event in answered {
        pair.event(0, event);
    }
    pair.run(1_000);
    assert_eq!(pair.nodes[0].admin.remove(&id).unwrap().unwrap_err().code, 118);
}

/// The peer has it, and goes by its own bits: it does not ask for the block, or says that it is in sync.
#[test]
fn a_write_that_failed_here_alone_in_the_middle_of_a_resync_is_resynced() {
    for block in [5, 9] {
        let mut pair = passing_pair();
        pair.lose_link();
        assert_eq!(pair.write(0, 9, 99), Ok(None));
        pair.nodes[0].stall = is_read;
        pair.link = true;
        pair.run(20_000);
        let state = pair.status(0).connections[0].peer_devices[0].replication_state;
        assert_eq!(state, ReplicationState::SyncSource, "{}", pair.story());
        pair.nodes[0].fail = is_write;
        let id = pair.start_write(0, block, 11);
        pair.nodes[0].unstall();
        pair.run(5);
        assert_eq!(pair.nodes[0].replies.get(&id), Some(&Err(ReplyError::Io)));
        pair.nodes[0].fail = |_| false;
        pair.run(20_000);
        pair.synced();
    }
}

/// Its bit is still set, and the target's flush, which comes later, clears it on both nodes.
#[test]
fn a_write_that_failed_here_alone_behind_the_copy_of_its_block_is_resynced() {
    let mut pair = passing_pair();
    pair.lose_link();
    assert_eq!(pair.write(0, 9, 99), Ok(None));
    pair.link = true;
    pair.nodes[1].stall = |action| matches!(action, Action::DiskWrite { offset: 36_864, .. });
    pair.run(20_000);
    pair.nodes[1].stall = is_flush;
    let copied = pair.nodes[1].stalled.pop_front().expect("block 9 is being copied");
    pair.event(1, copied);
    pair.run(5);
    assert!(!pair.nodes[1].stalled.is_empty(), "{}", pair.story());
    pair.nodes[0].fail = is_write;
    let id = pair.start_write(0, 9, 11);
    pair.run(5);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Err(ReplyError::Io)));
    pair.nodes[0].fail = |_| false;
    pair.nodes[1].unstall();
    pair.run(20_000);
    pair.synced();
}

/// It never ends, for a block of its target cannot be written; and no other request fails for it.
#[test]
fn a_bad_block_of_a_primary_in_the_middle_of_a_resync_fails_no_other_request() {
    let mut pair = passing_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(pair.write(0, 9, 99), Ok(None));
    pair.nodes[0].fail = |action| matches!(action, Action::DiskWrite { offset: 36_864, .. });
    pair.attach(0).unwrap();
    pair.run(20_000);
    assert_eq!(pair.disk(0), DiskState::Inconsistent, "{}", pair.story());
    let sessions = pair.status(0).connections[0].sessions;
    for round in 1..=3 {
        let read = Op::Read { offset: 5 * 4096, length: 4096 };
        pair.request_later(0, 7_000 + round, read);
        assert_eq!(pair.write(0, 9, 100 + round), Err(ReplyError::Io));
        pair.run(100);
        assert!(matches!(pair.nodes[0].replies.get(&(7_000 + round)), Some(Ok(Some(_)))));
        assert_eq!(pair.write(0, 20, round), Ok(None));
    }
    assert_eq!(pair.status(0).connections[0].sessions, sessions, "{}", pair.story());
    pair.nodes[0].fail = |_| false;
    pair.run(20_000);
    pair.synced();
}

#[test]
fn a_pause_that_is_over_while_the_target_flushes_is_no_timer_that_has_passed() {
    let mut pair = passing_pair();
    pair.lose_link();
    assert_eq!(pair.write(0, 9, 99), Ok(None));
    assert_eq!(pair.write(0, 20, 99), Ok(None));
    pair.nodes[1].fail = is_write;
    pair.link = true;
    pair.run(5_000);
    let fails_once_more =
        |action: &Action| matches!(action, Action::DiskWrite { offset, .. } if *offset == 9 * 4096);
    pair.nodes[1].fail = fails_once_more;
    pair.nodes[1].stall = is_flush;
    let id = pair.start_write(0, 20, 98);
    pair.run(2_000);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    assert!(!pair.nodes[1].stalled.is_empty(), "{}", pair.story());
    pair.now = pair.now.after_ms(15_000);
    pair.event(1, Event::Timeout);
    let next = pair.core(1).next_timeout();
    assert!(next.is_none_or(|at| at > pair.now), "{}", pair.story());
}

/// The own disk has it, and the peer has not. A resync beside it may have cleared the bit meanwhile, when it told of
/// what the peer had there before.
#[test]
fn a_write_that_was_taken_back_and_is_dropped_leaves_its_bits() {
    let mut pair = synced_pair();
    assert_eq!(pair.write(0, 5, 51), Ok(None));
    pair.nodes[1].full = |action| matches!(action, Action::DiskWrite { offset: 36_864, .. });
    let id = pair.start_write(0, 9, 99);
    pair.nodes[1].stall = is_flush;
    pair.nodes[0].core.as_mut().unwrap().renegotiate();
    pair.event(0, Event::Timeout);
    pair.settle();
    let core = pair.nodes[0].core.as_mut().unwrap();
    assert_eq!(core.held.len(), 1, "the peer's flush is waited for");
    core.peer_device(0, 0).bitmap.clear(9, 1);
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: false });
    assert_ne!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    assert!(pair.nodes[0].core.as_mut().unwrap().peer_device(0, 0).bitmap.any(9, 1));
    pair.nodes[1].full = |_| false;
    pair.nodes[1].unstall();
    pair.run(1_000);
    pair.cut();
    pair.synced();
}

/// The log waits for the end of the loss, and the loss for what is on its way to the disk: not for what waits for
/// the log.
#[test]
fn a_loss_does_not_wait_for_writes_that_wait_for_the_log_which_waits_for_it() {
    let mut pair = Pair::new();
    for n in 0..2 {
        pair.kill(n);
        let node = u8::try_from(n).unwrap();
        let large = Superblock { data_size: 1 << 30, ..superblock(node) };
        pair.nodes[n].disk = Disk { superblock: Some(large), ..Disk::default() };
    }
    pair.up(0);
    pair.up(1);
    pair.run(20_000);
    pair.primary(0, true);
    pair.synced();
    pair.nodes[1].stall = is_write;
    pair.start_write(0, 5, 55);
    // The Primary's disk fails, and it goes on with the other one, over more extents than its log has room for.
    pair.nodes[0].core.as_mut().unwrap().disk_failed(0, DiskError::Io(5), "READ");
    pair.event(0, Event::Timeout);
    let writes: Vec<u64> = (1..=100).map(|n| pair.write_later(0, n * 1024, n)).collect();
    pair.run(500);
    pair.nodes[1].unstall();
    pair.run(5_000);
    for id in writes {
        assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)), "{}", pair.story());
    }
}

/// It has left in order by then: its disk is the older one, and it need not be fenced.
#[test]
fn a_peer_that_has_left_in_order_is_not_lost_by_an_own_order_to_leave() {
    let mut pair = synced_pair();
    pair.nodes[1].stall = |action| matches!(action, Action::Meta { .. });
    pair.order(1, Command::Disconnect { peer: 0, force: false, for_ms: None });
    pair.run(100);
    let id = pair.order(0, Command::Disconnect { peer: 1, force: false, for_ms: None });
    pair.nodes[1].unstall();
    pair.run(2_000);
    assert!(pair.nodes[0].admin.contains_key(&id), "{}", pair.story());
    let peer = &pair.status(0).connections[0];
    assert_eq!(peer.connection_state, ConnectionState::StandAlone);
    assert_eq!(peer.peer_devices[0].peer_disk_state, DiskState::Outdated, "{}", pair.story());
}

/// As above, where the node is demoted when the session is open again, before the write starts over.
#[test]
fn a_write_that_was_taken_back_and_ends_with_a_demotion_leaves_its_bits() {
    let mut pair = synced_pair();
    assert_eq!(pair.write(0, 5, 51), Ok(None));
    pair.nodes[1].full = |action| matches!(action, Action::DiskWrite { offset: 36_864, .. });
    pair.start_write(0, 9, 99);
    pair.nodes[1].stall = is_flush;
    pair.nodes[0].core.as_mut().unwrap().renegotiate();
    pair.event(0, Event::Timeout);
    pair.settle();
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
    let core = pair.nodes[0].core.as_mut().unwrap();
    assert_eq!(core.held.len(), 1, "the peer's flush is waited for");
    core.peer_device(0, 0).bitmap.clear(9, 1);
    let id = pair.order(0, Command::Secondary { force: false, wait_ms: 0 });
    pair.nodes[1].unstall();
    pair.run(1_000);
    assert_eq!(pair.nodes[0].admin.remove(&id), Some(Ok(String::new())), "{}", pair.story());
    assert!(pair.nodes[0].core.as_mut().unwrap().peer_device(0, 0).bitmap.any(9, 1));
}
