//! What a disk says when it is attached, and what of that has to be durable before anything rests on it.

use super::pair::{Disk, Pair, superblock, synced_pair};
use crate::meta::{BitmapState, PeerSlot};
use crate::resource::*;

fn with(command: Command, change: impl FnOnce(&mut AttachedDisk)) -> Command {
    let Command::Attach { volume, mut disk } = command else { unreachable!("it is one") };
    change(&mut disk);
    Command::Attach { volume, disk }
}

fn detach(pair: &mut Pair, n: usize) {
    pair.admin(n, Command::Detach { volume: 0, force: false }).unwrap();
}

#[test]
fn what_was_written_behind_is_synced_in_full_also_after_a_crash_before_the_peer_is_met() {
    let mut pair = synced_pair();
    pair.write(0, 3, 33).unwrap();
    pair.synced();
    detach(&mut pair, 1);
    pair.lose_link();
    pair.nodes[1].disk.blocks.insert(9, 999);
    let command = with(pair.attach_command(1), |disk| disk.meta.written_behind = true);
    pair.admin(1, command).unwrap();
    // Nothing tells of it any more but what the attach has stored.
    pair.kill(1);
    pair.link = true;
    pair.up(1);
    pair.connect_both();
    pair.synced();
    assert_ne!(pair.nodes[1].disk.blocks.get(&9), Some(&999));
}

#[test]
fn who_is_none_of_the_configuration_is_synced_in_full_when_it_comes_back() {
    let mut pair = synced_pair();
    detach(&mut pair, 0);
    let other = PeerSlot {
        node_id: Some(9),
        bitmap_uuid: 0,
        bitmap_state: BitmapState::AllClear,
        bitmap_epoch: 4,
        seen_number: 0,
        device_uuid: 77,
    };
    pair.nodes[0].disk.superblock.as_mut().unwrap().peers.push(other);
    pair.attach(0).unwrap();
    pair.synced();
    let stored = |pair: &Pair| {
        let slot = &pair.nodes[0].disk.superblock.as_ref().unwrap().peers[1];
        (slot.node_id, slot.bitmap_state, slot.bitmap_epoch)
    };
    assert_eq!(stored(&pair), (Some(9), BitmapState::AllSet, 6));
    // Once is enough.
    detach(&mut pair, 0);
    pair.attach(0).unwrap();
    assert_eq!(stored(&pair), (Some(9), BitmapState::AllSet, 6));
}

#[test]
fn a_rollback_number_that_was_not_known_is_beyond_whatever_it_was() {
    let mut pair = synced_pair();
    pair.write(0, 5, 55).unwrap();
    pair.synced();
    let seen = pair.nodes[1].disk.seen[0].max(pair.nodes[1].disk.seen[1]);
    pair.kill(0);
    // A block of the log was torn, and the superblock has an older number.
    pair.nodes[0].disk.hot.clear();
    pair.nodes[0].core = Some(Resource::new(super::pair::config(0), 4711, pair.now, 0));
    let command = with(pair.attach_command(0), |disk| disk.meta.number = None);
    pair.admin(0, command).unwrap();
    pair.primary(0, true);
    pair.write(0, 6, 66).unwrap();
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    let stored = pair.nodes[0].disk.hot.values().map(|words| words[60]).max().unwrap();
    assert!(stored > seen + (1 << 31), "{stored}, seen {seen}");
}

#[test]
fn the_log_is_as_long_as_the_disk_whatever_size_the_configuration_had() {
    const GIB: u64 = 1 << 30;
    let mut pair = Pair::new();
    for n in 0..2 {
        pair.kill(n);
        let superblock = pair.nodes[n].disk.superblock.as_mut().unwrap();
        (superblock.data_size, superblock.effective_size) = (100 * GIB, 0);
        let id = u8::try_from(n).unwrap();
        pair.nodes[n].core =
            Some(Resource::new(super::pair::config(id), 7 + n as u64, pair.now, 0));
        let command = with(pair.attach_command(n), |disk| disk.data_size = 10 * GIB);
        pair.admin(n, command).unwrap();
        pair.admin(n, Command::SetSize { volume: 0, size: None }).unwrap();
    }
    pair.primary(0, true);
    let last = 99 * GIB / BLOCK_SIZE;
    assert_eq!(pair.write(0, last, 7), Ok(None));
}

#[test]
fn a_source_has_stored_that_all_may_differ_before_its_target_has_begun() {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.write(0, 5, 77).unwrap();
    pair.kill(1);
    pair.nodes[1].disk = Disk { superblock: Some(superblock(1)), ..Disk::default() };
    pair.link = true;
    pair.nodes[1].core = Some(Resource::new(super::pair::config(1), 4711, pair.now, 0));
    pair.attach(1).unwrap();
    // It never says that it has adopted.
    pair.nodes[1].stall = |action| matches!(action, Action::Meta { .. });
    pair.order(1, Command::Connect { peer: 0, discard_my_data: false, tentative: false });
    pair.run(3_000);
    let peer = &pair.status(0).connections[0].peer_devices[0];
    assert_eq!(peer.replication_state, ReplicationState::WFSyncUUID);
    let stored = &pair.nodes[0].disk.superblock.as_ref().unwrap().peers[0];
    assert_eq!(stored.bitmap_state, BitmapState::AllSet);
}

#[test]
fn no_extent_gets_cold_while_a_superblock_is_on_its_way() {
    let mut pair = synced_pair();
    pair.write(0, 5, 66).unwrap();
    pair.synced();
    let is_clean = |pair: &Pair| pair.core(0).clean_extents(0, true).is(0, 0);
    assert!(is_clean(&pair));
    pair.nodes[0].stall = |action| matches!(action, Action::Meta { .. });
    // As `slot_whole` has its caller do: what it has said counts as saved already.
    let core = pair.nodes[0].core.as_mut().unwrap();
    core.save_superblock(0, crate::resource::Then::Log);
    assert!(!is_clean(&pair));
    pair.event(0, Event::Timeout);
    pair.run(10);
    assert!(!is_clean(&pair));
    pair.nodes[0].unstall();
    pair.run(10);
    assert!(is_clean(&pair));
}
