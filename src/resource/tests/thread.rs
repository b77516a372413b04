//! The thin thread: a write, a loss, a failover, a resync, on perfect disks.

use super::pair::{Pair, frozen_pair, synced_pair};
use crate::resource::*;

#[test]
fn a_fresh_pair_is_forced_synced_and_replicates() {
    let mut pair = synced_pair();
    assert_eq!(pair.write(0, 7, 77), Ok(None));
    assert_eq!(pair.nodes[1].disk.blocks.get(&7), Some(&77));
    assert_eq!(pair.request(0, 1000, Op::Read { offset: 7 * 4096, length: 4096 }), Ok(Some(77)));
    assert_eq!(pair.request(0, 1001, Op::Flush), Ok(None));
    pair.synced();
}

#[test]
fn a_lone_write_makes_a_new_uuid_and_a_quick_resync() {
    let mut pair = synced_pair();
    assert_eq!(pair.request(0, 1001, Op::Flush), Ok(None));
    pair.link = false;
    pair.cut();
    let before = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
    assert_eq!(pair.write(0, 9, 99), Ok(None));
    let after = pair.nodes[0].disk.superblock.clone().unwrap();
    assert_ne!(before, after.current_uuid);
    assert_eq!(after.peers[0].bitmap_uuid, before);
    assert_eq!(pair.status(0).connections[0].peer_devices[0].out_of_sync, 4096);
    let moved = pair.status(1).connections[0].peer_devices[0].received;
    pair.link = true;
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&9), Some(&99));
    assert_eq!(pair.status(1).connections[0].peer_devices[0].received - moved, 4096);
}

#[test]
fn a_killed_primary_is_replaced_and_comes_back_as_target() {
    let mut pair = synced_pair();
    for round in 0..4u64 {
        let (old, new) = ((round % 2) as usize, 1 - (round % 2) as usize);
        assert_eq!(pair.write(old, 20 + round, round), Ok(None));
        pair.kill(old);
        pair.run(1000);
        pair.primary(new, false);
        assert_eq!(pair.write(new, 40 + round, 4 + round), Ok(None));
        pair.up(old);
        pair.synced();
    }
}

#[test]
fn a_partition_with_both_promoted_is_a_split_brain_that_discard_resolves() {
    let mut pair = synced_pair();
    pair.link = false;
    pair.cut();
    pair.run(1000);
    pair.primary(1, false);
    assert_eq!(pair.write(0, 1, 1), Ok(None));
    assert_eq!(pair.write(1, 2, 2), Ok(None));
    pair.link = true;
    pair.run(20_000);
    for n in 0..2 {
        let connection = &pair.status(n).connections[0];
        assert_eq!(connection.connection_state, ConnectionState::StandAlone);
        assert_eq!(connection.reason, Reason::SplitBrain);
    }
    assert_ne!(pair.nodes[0].disk.blocks.get(&2), Some(&2), "nothing is overwritten");
    pair.event(1, Event::SessionClosed { session: SessionId(2), disconnect: true });
    pair.admin(1, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    let discard =
        |peer, discard_my_data| Command::Connect { peer, discard_my_data, tentative: false };
    pair.admin(1, discard(0, true)).unwrap();
    pair.admin(0, discard(1, false)).unwrap();
    pair.synced();
    assert_ne!(pair.nodes[1].disk.blocks.get(&2), Some(&2));
}

#[test]
fn both_killed_and_restarted_need_only_the_activity_log() {
    let mut pair = synced_pair();
    assert_eq!(pair.write(0, 3, 33), Ok(None));
    pair.kill(0);
    pair.kill(1);
    pair.up(0);
    pair.up(1);
    pair.synced();
    assert!(pair.status(0).connections[0].peer_devices[0].sent <= 8 << 20);
}

#[test]
fn an_orderly_disconnect_adds_no_bits_and_outdates_the_secondary() {
    let mut pair = synced_pair();
    assert_eq!(pair.write(0, 3, 33), Ok(None));
    pair.admin(1, Command::Disconnect { peer: 0, force: false, for_ms: None }).unwrap();
    assert_eq!(pair.status(1).devices[0].disk_state, DiskState::Outdated);
    assert_eq!(pair.status(1).connections[0].peer_devices[0].out_of_sync, 0);
    assert_eq!(pair.status(0).connections[0].peer_devices[0].out_of_sync, 0);
    let refusal = pair.admin(1, Command::Primary { force: None }).unwrap_err();
    assert_eq!(refusal.exit_code(), 17);
    // The other one goes on dialling, and who hangs up has not been lost.
    pair.run(30_000);
    let connection = &pair.status(0).connections[0];
    assert_eq!(connection.connection_state, ConnectionState::Connecting);
    assert_eq!(connection.reason, Reason::StoppedByAdmin, "{}", connection.detail);
    pair.admin(1, Command::Connect { peer: 0, discard_my_data: false, tentative: false }).unwrap();
    pair.synced();
}

#[test]
fn down_and_up_needs_no_resync() {
    let mut pair = synced_pair();
    assert_eq!(pair.write(0, 3, 33), Ok(None));
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
    pair.admin(0, Command::Down { shutdown: false }).unwrap();
    pair.admin(1, Command::Down { shutdown: false }).unwrap();
    assert_eq!(pair.status(0).devices[0].disk_state, DiskState::Diskless);
    pair.nodes[0].core = None;
    pair.nodes[1].core = None;
    pair.up(0);
    pair.up(1);
    pair.synced();
    assert_eq!(pair.status(0).connections[0].peer_devices[0].sent, 0);
    pair.primary(1, false);
    assert_eq!(pair.write(1, 3, 34), Ok(None));
    pair.synced();
}

#[test]
fn a_detached_primary_is_served_by_the_peer_and_catches_up() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(pair.status(0).devices[0].disk_state, DiskState::Diskless);
    assert_eq!(pair.write(0, 3, 33), Ok(None));
    assert_eq!(pair.request(0, 1000, Op::Read { offset: 3 * 4096, length: 4096 }), Ok(Some(33)));
    let superblock = pair.nodes[1].disk.superblock.clone().unwrap();
    assert_ne!(superblock.peers[0].bitmap_uuid, 0, "the peer keeps the new UUID");
    assert_eq!(pair.status(1).connections[0].peer_devices[0].out_of_sync, 4096);
    pair.attach(0).unwrap();
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks.get(&3), Some(&33));
    assert_eq!(pair.write(0, 3, 34), Ok(None));
    pair.synced();
}

#[test]
fn a_detached_secondary_catches_up() {
    let mut pair = synced_pair();
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(pair.write(0, 3, 33), Ok(None));
    let superblock = pair.nodes[0].disk.superblock.clone().unwrap();
    assert_ne!(superblock.peers[0].bitmap_uuid, 0, "alone is recorded");
    pair.attach(1).unwrap();
    pair.synced();
}

#[test]
fn invalidate_copies_everything_again() {
    let mut pair = synced_pair();
    pair.admin(1, Command::Invalidate { volume: 0 }).unwrap();
    pair.synced();
    pair.admin(0, Command::InvalidateRemote { volume: 0, peer: 1 }).unwrap();
    pair.run(1);
    pair.synced();
}

#[test]
fn a_frozen_primary_whose_peer_went_on_is_demoted_by_order() {
    let mut pair = frozen_pair();
    pair.event(0, Event::ClockGap { gap_ms: 3000 });
    pair.link = true;
    pair.run(20_000);
    assert!(pair.core(0).export(0).is_err());
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.connect_both();
    pair.synced();
}

#[test]
fn fresh_disks_with_the_same_bytes_skip_the_initial_sync() {
    let mut pair = Pair::new();
    pair.run(2000);
    let clear = Command::NewCurrentUuid { volume: 0, clear_bitmap: true };
    pair.admin(0, clear.clone()).unwrap();
    pair.run(100);
    for n in 0..2 {
        let status = pair.status(n);
        assert_eq!(status.devices[0].disk_state, DiskState::UpToDate, "{:?}", pair.nodes[n].log);
        let peer = &status.connections[0].peer_devices[0];
        assert_eq!((peer.peer_disk_state, peer.out_of_sync), (DiskState::UpToDate, 0));
        assert_eq!(peer.received, 0, "nothing was copied");
    }
    let refusal = pair.admin(0, clear).expect_err("the disks are not fresh any more");
    assert_eq!(refusal.code, 162, "{refusal:?}");
    pair.primary(0, false);
    assert_eq!(pair.write(0, 5, 55), Ok(None));
    // A reconnect finds one generation.
    pair.cut();
    pair.synced();
}

#[test]
fn fresh_disks_with_other_bytes_are_not_declared_equal() {
    let mut pair = Pair::new();
    pair.run(2000);
    pair.nodes[1].disk.blocks.insert(3, 99);
    let clear = Command::NewCurrentUuid { volume: 0, clear_bitmap: true };
    let refusal = pair.admin(0, clear).expect_err("they differ");
    assert!(refusal.hint.contains("differ at byte"), "{refusal:?}");
    pair.run(1000);
    assert_eq!(pair.status(0).devices[0].disk_state, DiskState::Inconsistent);
    pair.primary(0, true);
    pair.synced();
}

#[test]
fn a_clear_bitmap_cut_off_between_the_nodes_ends_in_a_full_sync() {
    let mut pair = Pair::new();
    pair.run(2000);
    // Node 1 takes the UUID, and its answer is lost.
    pair.nodes[1].stall = |action| matches!(action, Action::Meta { .. });
    let id = pair.next;
    pair.next += 1;
    let clear = Command::NewCurrentUuid { volume: 0, clear_bitmap: true };
    pair.event(0, Event::Admin { id, command: clear });
    pair.run(50);
    assert_eq!(pair.nodes[0].admin.get(&id), None);
    pair.link = false;
    pair.cut();
    pair.nodes[1].unstall();
    pair.run(100);
    assert!(pair.nodes[0].admin.remove(&id).expect("answered").is_err());
    pair.link = true;
    pair.run(20_000);
    pair.primary(1, false);
    pair.synced();
}

#[test]
fn the_wall_clock_is_rounded_once() {
    let config = super::pair::config(0);
    let mut core = Resource::new(config, 1, Time(0), 5900);
    core.handle(Time(200_000_000), Event::Timeout);
    assert_eq!(core.wall(), 6, "a write is not shown before it was made");
    core.handle(Time(300_000_000), Event::WallClock { ms: 90_000 });
    assert_eq!(core.wall(), 90, "somebody has set it");
    core.handle(Time(1_300_000_000), Event::Timeout);
    assert_eq!(core.wall(), 91);
}
