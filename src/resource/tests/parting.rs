//! Stories of a disk that fails while the peer's goes on, and of what it says of that later.

use super::pair::{Pair, synced_pair};
use crate::meta::{DeviceFlags, MetaOp};
use crate::resource::disk::parting::Parting;
use crate::resource::*;

fn outdated(pair: &Pair, n: usize) -> bool {
    let superblock = pair.nodes[n].disk.superblock.as_ref().unwrap();
    superblock.flags & DeviceFlags::OUTDATED != 0
}

/// The disk of node `n` fails with a write of the Primary, node 0.
fn fails(pair: &mut Pair, n: usize) {
    pair.nodes[n].fail = |action| matches!(action, Action::DiskWrite { .. });
    assert_eq!(pair.write(0, 6, 60), Ok(None), "the peer has it");
}

#[test]
fn a_disk_that_failed_under_a_node_whose_peer_goes_on_is_not_promoted_alone() {
    for n in 0..2 {
        let mut pair = synced_pair();
        fails(&mut pair, n);
        pair.run(100);
        assert_eq!(pair.disk(n), DiskState::Diskless);
        assert!(outdated(&pair, n), "{n}\n{}", pair.nodes[n].log.join("\n"));
        assert!(!outdated(&pair, 1 - n), "the other one goes on");
        // Both lose power; only this one is there again.
        pair.lose_link();
        pair.kill(0);
        pair.kill(1);
        pair.nodes[n].fail = |_| false;
        pair.up(n);
        pair.run(5_000);
        assert_eq!(pair.disk(n), DiskState::Outdated);
        let refusal = pair.admin(n, Command::Primary { force: None }).unwrap_err();
        assert_eq!(refusal.code, -2, "{refusal}");
        pair.up(1 - n);
        pair.link = true;
        pair.run(30_000);
        pair.primary(1 - n, false);
        pair.synced();
        assert_eq!(pair.nodes[n].disk.blocks.get(&6), Some(&60));
    }
}

#[test]
fn a_disk_that_fails_as_the_last_one_is_not_marked() {
    // The peer is lost.
    let mut pair = synced_pair();
    pair.lose_link();
    pair.nodes[0].fail = |action| matches!(action, Action::DiskWrite { .. });
    let _ = pair.write(0, 6, 60);
    assert_eq!(pair.disk(0), DiskState::Diskless);
    assert!(!outdated(&pair, 0));
    // The peer has no disk.
    let mut pair = synced_pair();
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    fails_alone(&mut pair);
    assert!(!outdated(&pair, 0));
    assert!(outdated(&pair, 1), "it was left in order");
}

fn fails_alone(pair: &mut Pair) {
    pair.nodes[0].fail = |action| matches!(action, Action::DiskWrite { .. });
    assert!(pair.write(0, 6, 60).is_err());
    pair.run(100);
    assert_eq!(pair.disk(0), DiskState::Diskless);
}

#[test]
fn of_two_disks_that_fail_at_once_neither_is_marked() {
    let mut pair = synced_pair();
    for node in &mut pair.nodes {
        node.fail = |action| matches!(action, Action::DiskWrite { .. });
    }
    assert!(pair.write(0, 6, 60).is_err());
    pair.run(100);
    for n in 0..2 {
        assert_eq!(pair.disk(n), DiskState::Diskless);
        assert!(!outdated(&pair, n), "{n}\n{}", pair.nodes[n].log.join("\n"));
    }
}

#[test]
fn a_mark_that_fails_or_hangs_is_not_tried_again_and_holds_nobody_up() {
    let superblock =
        |action: &Action| matches!(action, Action::Meta { op: MetaOp::Superblock(_), .. });
    let mut pair = synced_pair();
    pair.nodes[0].fail = |action| matches!(action, Action::DiskWrite { .. } | Action::Meta { .. });
    assert_eq!(pair.write(0, 6, 60), Ok(None));
    pair.run(20_000);
    assert_eq!(pair.disk(0), DiskState::Diskless);
    assert!(!outdated(&pair, 0));
    let tried = pair.nodes[0].log.iter().filter(|line| line.contains("could not be marked"));
    assert_eq!(tried.count(), 1);

    let mut pair = synced_pair();
    pair.nodes[0].stall = superblock;
    pair.nodes[0].fail = |action| matches!(action, Action::DiskWrite { .. });
    assert_eq!(pair.write(0, 6, 60), Ok(None), "clients do not wait for it");
    assert_eq!(pair.nodes[0].stalled.len(), 1, "the mark");
    assert_eq!(pair.disk(0), DiskState::Failed);
    // A new handshake is not kept by it either.
    pair.lose_link();
    pair.link = true;
    pair.run(15_000);
    let connection = &pair.status(0).connections[0];
    assert_eq!(connection.connection_state, ConnectionState::Connected);
    assert_eq!(pair.write(0, 7, 70), Ok(None));
    pair.nodes[0].unstall();
    pair.run(100);
    assert_eq!(pair.disk(0), DiskState::Diskless);
}

#[test]
fn a_peer_whose_flush_fails_does_not_go_on() {
    let mut pair = synced_pair();
    // Something is still under way on the disk as it fails, so that it is not closed at once.
    pair.nodes[0].stall = |action| matches!(action, Action::DiskWrite { .. });
    pair.write_later(0, 5, 50);
    pair.settle();
    pair.nodes[0].stall = |_| false;
    pair.nodes[0].fail = |action| matches!(action, Action::DiskWrite { .. });
    pair.nodes[1].fail = |action| matches!(action, Action::DiskFlush { .. });
    pair.write_later(0, 6, 60);
    pair.settle();
    let parting = |pair: &Pair| pair.core(0).devices[&0].backing.as_ref().map(|b| b.parting);
    assert_eq!(pair.nodes[0].stalled.len(), 1);
    assert_eq!(parting(&pair), Some(Parting::None), "{}", pair.nodes[0].log.join("\n"));
    pair.nodes[0].unstall();
    pair.settle();
    assert_eq!([pair.disk(0), pair.disk(1)], [DiskState::Diskless; 2], "both are closed");
    assert!(!outdated(&pair, 0) && !outdated(&pair, 1));
}

/// It waits somewhere with what its clients have read and sent, and must not go on over what another one wrote.
#[test]
fn who_writes_after_a_primary_without_a_disk_begins_a_generation() {
    for ended in [true, false] {
        for written in [true, false] {
            let mut pair = synced_pair();
            // Also where this node has gone on alone before: then the peer's slot has its bitmap UUID already.
            pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
            pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
            pair.primary(1, false);
            pair.write(1, 5, 55).unwrap();
            pair.admin(1, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
            pair.primary(0, false);
            if written {
                pair.write(0, 6, 66).unwrap();
            }
            let uuid =
                |pair: &Pair| pair.nodes[1].disk.superblock.as_ref().unwrap().current_uuid & !1;
            let read = uuid(&pair);
            if ended {
                pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
            }
            pair.kill(0);
            pair.run(1_000);
            pair.primary(1, false);
            assert_eq!(uuid(&pair), read, "nobody has written: {ended} {written}");
            pair.write(1, 7, 77).unwrap();
            assert_ne!(uuid(&pair), read, "{ended} {written}");
            let superblock = pair.nodes[1].disk.superblock.as_ref().unwrap();
            assert!(superblock.history.iter().any(|old| old & !1 == read), "{ended} {written}");
            // Once is enough.
            let own = uuid(&pair);
            pair.write(1, 8, 88).unwrap();
            assert_eq!(uuid(&pair), own);
        }
    }
}

/// It stays Primary and waits: its clients have read what was there before.
#[test]
fn a_primary_without_a_disk_does_not_go_on_over_what_another_node_wrote_meanwhile() {
    for restarted in [false, true] {
        for written in [false, true] {
            let mut pair = synced_pair();
            pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
            if written {
                pair.write(0, 6, 66).unwrap();
            }
            pair.lose_link();
            pair.run(1_000);
            if restarted {
                pair.kill(1);
                pair.up(1);
                pair.run(1_000);
            }
            pair.primary(1, false);
            pair.write(1, 7, 77).unwrap();
            pair.admin(1, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
            pair.link = true;
            pair.run(20_000);
            let connection = &pair.status(0).connections[0];
            assert_eq!(connection.connection_state, ConnectionState::StandAlone);
            assert!(connection.detail.contains("exposed-data"), "{}", connection.detail);
            assert_ne!(pair.write(0, 7, 70), Ok(None), "{restarted} {written}");
            // The way out that `why` tells.
            pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
            pair.connect_both();
            pair.run(2_000);
            pair.primary(0, false);
            let read = Op::Read { offset: 7 * 4096, length: 4096 };
            assert_eq!(pair.request(0, 1000, read), Ok(Some(77)));
        }
    }
}

/// Nobody else has written: its own generation, whether it knows that it was begun or not, is no other one.
#[test]
fn a_primary_without_a_disk_comes_back_to_the_disk_that_it_has_read() {
    for lost in [false, true] {
        let mut pair = synced_pair();
        pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
        if lost {
            // The peer has begun it, and its answer does not arrive.
            let uuid =
                |pair: &Pair| pair.nodes[1].disk.superblock.as_ref().unwrap().current_uuid & !1;
            let before = uuid(&pair);
            pair.nodes[1].stall =
                |action| matches!(action, Action::Meta { op: MetaOp::Superblock(_), .. });
            pair.start_write(0, 6, 66);
            pair.settle();
            pair.nodes[1].stall = |_| false;
            pair.nodes[1].mute = true;
            pair.nodes[1].unstall();
            pair.settle();
            assert_ne!(uuid(&pair), before);
        } else {
            pair.write(0, 6, 66).unwrap();
        }
        pair.lose_link();
        pair.nodes[1].mute = false;
        pair.run(1_000);
        pair.link = true;
        pair.run(20_000);
        assert_eq!(pair.status(0).connections[0].connection_state, ConnectionState::Connected);
        assert_eq!(pair.write(0, 7, 70), Ok(None));
        // Demoted and promoted in one session, it knows its generation still.
        pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
        pair.primary(0, false);
        pair.lose_link();
        pair.run(1_000);
        pair.link = true;
        pair.run(20_000);
        assert_eq!(pair.status(0).connections[0].connection_state, ConnectionState::Connected);
    }
}
