//! Stories of slots by order: a seed, and a peer that is forgotten.

use super::crossing::{is_flush, is_write};
use super::pair::{Disk, Pair, superblock, synced_pair};
use crate::meta::{BitmapState, Dumped, LoadedSlot, SetBlocks, Superblock};
use crate::resource::*;

const CLEAR: Command = Command::NewCurrentUuid { volume: 0, clear_bitmap: true };
const PLAIN: Command = Command::NewCurrentUuid { volume: 0, clear_bitmap: false };

/// alice is Primary of a new disk and has written; bob was never there.
fn alone() -> Pair {
    let mut pair = Pair::new();
    pair.link = false;
    for n in 0..2 {
        pair.kill(n);
        let id = u8::try_from(n).unwrap();
        pair.nodes[n].disk = Disk { superblock: Some(superblock(id)), ..Disk::default() };
    }
    pair.up(0);
    pair.primary(0, true);
    for block in 0..20 {
        pair.write(0, block, 100 + block).unwrap();
    }
    pair
}

fn out_of_sync(pair: &Pair, n: usize) -> u64 {
    pair.status(n).connections[0].peer_devices[0].out_of_sync / 4096
}

/// What `restore-md --seed` makes of the metadata of node 0.
fn seed_of(from: &Superblock) -> Superblock {
    let slot =
        LoadedSlot { set: SetBlocks::new(), damaged_pages: 0, seen_number: Some(0), seen_copy: 0 };
    let mut superblock = from.clone();
    superblock.peers[0].bitmap_state = BitmapState::AllClear;
    let dumped = Dumped {
        superblock,
        external: false,
        number: Some(from.number),
        hot: Vec::new(),
        slots: vec![slot],
    };
    dumped.seeded(1, 777, 0, [0; 16]).unwrap().superblock
}

/// bob's disk is an image of alice's as it was, with one block changed: one that is not copied
/// tells itself.
fn ship(pair: &mut Pair, image: &Disk, metadata: &Superblock, marked: u64) {
    let mut blocks = image.blocks.clone();
    blocks.insert(marked, 999);
    let superblock = Some(seed_of(metadata));
    pair.nodes[1].disk = Disk { blocks, superblock, ..Disk::default() };
    pair.link = true;
    pair.up(1);
    pair.run(30_000);
}

fn assert_quick(pair: &mut Pair, marked: u64) {
    assert_eq!(pair.disk(1), DiskState::UpToDate, "{:#?}", pair.nodes[1].log);
    assert_eq!(pair.nodes[1].disk.blocks.get(&marked), Some(&999), "it was a full sync");
    let true_one = pair.nodes[0].disk.blocks[&marked];
    pair.nodes[1].disk.blocks.insert(marked, true_one);
    pair.synced();
}

#[test]
fn a_seed_is_brought_up_to_date_by_what_was_written_since() {
    for (plain, late_dump, power_loss) in
        [(true, false, false), (true, true, false), (false, true, true), (false, false, true)]
    {
        let mut pair = alone();
        assert_eq!(out_of_sync(&pair, 0), 64 * 256, "a new disk may differ anywhere");
        pair.admin(0, CLEAR).unwrap();
        assert_eq!(out_of_sync(&pair, 0), 0);
        let (image, early) = (pair.nodes[0].disk.clone(), pair.nodes[0].disk.clone());
        for block in 3..8 {
            pair.write(0, block, 200 + block).unwrap();
        }
        assert_eq!(out_of_sync(&pair, 0), 5);
        if plain {
            pair.admin(0, PLAIN).unwrap();
        }
        pair.write(0, 9, 300).unwrap();
        assert_eq!(out_of_sync(&pair, 0), 6);
        let dump = if late_dump { pair.nodes[0].disk.clone() } else { early };
        // In a hot extent more is copied after a crash: the mark is far away.
        let marked = if power_loss { 8000 } else { 12 };
        if power_loss {
            pair.nodes[0].disk.blocks.insert(marked, 1);
            pair.kill(0);
            pair.up(0);
            pair.primary(0, false);
            pair.write(0, 15, 400).unwrap();
        }
        ship(&mut pair, &image, &dump.superblock.unwrap(), marked);
        assert_quick(&mut pair, marked);
    }
}

#[test]
fn a_seed_is_no_source_and_is_not_promoted_before_it_was_a_target() {
    let mut pair = alone();
    pair.admin(0, CLEAR).unwrap();
    let image = pair.nodes[0].disk.clone();
    pair.kill(0);
    pair.nodes[1].disk =
        Disk { superblock: Some(seed_of(image.superblock.as_ref().unwrap())), ..image };
    pair.up(1);
    assert_eq!(pair.disk(1), DiskState::Inconsistent);
    let force = Some(Force::Plain);
    for force in [None, force] {
        assert_eq!(pair.admin(1, Command::Primary { force }).unwrap_err().code, -2);
    }
}

#[test]
fn a_seed_of_an_older_generation_is_synced_in_full() {
    let mut pair = alone();
    let old = pair.nodes[0].disk.clone();
    pair.admin(0, CLEAR).unwrap();
    ship(&mut pair, &old, old.superblock.as_ref().unwrap(), 12);
    pair.synced();
}

#[test]
fn a_seed_begins_only_where_no_disk_was_ever_met() {
    let mut pair = synced_pair();
    assert_eq!(pair.admin(0, CLEAR).unwrap_err().code, 162);
    pair.lose_link();
    pair.run(10_000);
    pair.write(0, 30, 1).unwrap();
    let before = out_of_sync(&pair, 0);
    let refusal = pair.admin(0, CLEAR).unwrap_err();
    assert!(refusal.hint.contains("forget-peer"), "{refusal}");
    assert_eq!(out_of_sync(&pair, 0), before, "nothing has changed");
    // What it was synced with comes back: its generation is one of the past.
    pair.admin(0, Command::ForgetPeer { peer: 1 }).unwrap();
    assert_eq!(out_of_sync(&pair, 0), 64 * 256);
    pair.admin(0, CLEAR).unwrap();
    assert_eq!(out_of_sync(&pair, 0), 0);
    pair.write(0, 31, 1).unwrap();
    pair.nodes[1].disk.blocks.insert(12, 999);
    pair.link = true;
    pair.run(30_000);
    pair.synced();
}

#[test]
fn a_seed_waits_for_writes_and_flushes_what_was_written() {
    let mut pair = alone();
    pair.nodes[0].stall = is_write;
    let write = pair.start_write(0, 40, 7);
    let order = pair.order(0, CLEAR);
    pair.run(100);
    assert!(!pair.nodes[0].admin.contains_key(&order), "a write is under way");
    pair.nodes[0].unstall();
    pair.nodes[0].stall = is_flush;
    pair.run(100);
    assert_eq!(pair.nodes[0].replies.remove(&write), Some(Ok(None)));
    assert!(!pair.nodes[0].admin.contains_key(&order), "what was written is not flushed");
    assert_eq!(out_of_sync(&pair, 0), 64 * 256);
    // Writes are held until the slot is clear, and are remembered after it.
    let late = pair.start_write(0, 41, 8);
    assert!(!pair.nodes[0].replies.contains_key(&late));
    pair.nodes[0].unstall();
    pair.run(100);
    assert_eq!(pair.nodes[0].admin.remove(&order), Some(Ok(String::new())));
    assert_eq!(pair.nodes[0].replies.remove(&late), Some(Ok(None)));
    assert_eq!(out_of_sync(&pair, 0), 1);
}

#[test]
fn a_peer_that_connects_while_a_seed_begins_is_synced_in_full() {
    let mut pair = alone();
    pair.nodes[0].stall = is_flush;
    let order = pair.order(0, CLEAR);
    pair.link = true;
    pair.up(1);
    pair.run(3_000);
    pair.nodes[0].unstall();
    pair.run(30_000);
    assert!(pair.nodes[0].admin.remove(&order).is_some());
    pair.synced();
}

#[test]
fn a_forgotten_peer_is_synced_in_full_and_a_connected_one_is_not_forgotten() {
    let mut pair = synced_pair();
    let forget = Command::ForgetPeer { peer: 1 };
    assert_eq!(pair.admin(0, forget.clone()).unwrap_err().code, 125);
    pair.admin(0, Command::Disconnect { peer: 1, force: false, for_ms: None }).unwrap();
    let before = pair.nodes[0].disk.superblock.clone().unwrap();
    assert_eq!(before.peers[0].node_id, Some(1));
    assert!(!pair.status(0).connections[0].last_handshake.is_empty());
    pair.admin(0, forget.clone()).unwrap();
    assert!(pair.status(0).connections[0].last_handshake.is_empty(), "it is of the forgotten one");
    let slot = pair.nodes[0].disk.superblock.clone().unwrap().peers[0].clone();
    assert_eq!((slot.node_id, slot.device_uuid, slot.bitmap_uuid), (None, 0, 0));
    assert_eq!(slot.bitmap_state, BitmapState::AllSet);
    assert!(pair.admin(0, forget).is_ok(), "twice is once");
    assert!(pair.admin(0, Command::ForgetPeer { peer: 9 }).is_ok());
    // The replaced node comes with a new disk, and takes the slot; alice has served all the time.
    pair.write(0, 50, 5).unwrap();
    pair.kill(1);
    let fresh = Superblock { device_uuid: 4711, ..superblock(1) };
    pair.nodes[1].disk = Disk { superblock: Some(fresh), ..Disk::default() };
    pair.up(1);
    pair.connect_both();
    pair.synced();
    let slot = pair.nodes[0].disk.superblock.clone().unwrap().peers[0].clone();
    assert_eq!((slot.node_id, slot.device_uuid), (Some(1), 4711));
    pair.lose_link();
    pair.run(10_000);
    pair.write(0, 51, 6).unwrap();
    assert_eq!(out_of_sync(&pair, 0), 1);
}

#[test]
fn the_disk_of_another_node_is_not_taken_though_a_slot_is_free() {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.run(10_000);
    pair.admin(0, Command::ForgetPeer { peer: 1 }).unwrap();
    pair.kill(0);
    pair.kill(1);
    pair.nodes[1].disk = pair.nodes[0].disk.clone();
    pair.nodes[1].core = Some(Resource::new(super::pair::config(1), 5, pair.now, 0));
    assert_eq!(pair.attach(1).unwrap_err().code, 119);
}

#[test]
fn the_old_disk_of_a_forgotten_peer_is_synced_in_full_too() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Disconnect { peer: 1, force: false, for_ms: None }).unwrap();
    pair.admin(0, Command::ForgetPeer { peer: 1 }).unwrap();
    pair.write(0, 50, 5).unwrap();
    pair.nodes[1].disk.blocks.insert(12, 999);
    pair.connect_both();
    pair.synced();
}

/// The bits of a slot tell what another disk has missed, and nothing of this one.
#[test]
fn a_seed_in_the_place_of_a_disk_that_was_met_is_synced_in_full_also_after_a_cut() {
    let mut pair = synced_pair();
    let image = pair.nodes[0].disk.clone();
    let metadata = image.superblock.clone().unwrap();
    pair.write(0, 5, 55).unwrap();
    pair.run(10_000);
    pair.link = false;
    pair.kill(1);
    let superblock = Some(seed_of(&metadata));
    pair.nodes[1].disk = Disk { blocks: image.blocks, superblock, ..Disk::default() };
    pair.up(1);
    pair.run(5_000);
    // The first meeting ends while the source writes what it knows of the disk.
    pair.nodes[0].stall =
        |action| matches!(action, Action::Meta { op: crate::meta::MetaOp::Superblock(_), .. });
    pair.link = true;
    pair.run(5_000);
    assert!(pair.nodes[0].log.iter().any(|line| line.contains("rule=inconsistent-peer")));
    pair.lose_link();
    pair.nodes[0].unstall();
    pair.run(5_000);
    pair.link = true;
    pair.run(30_000);
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&5), Some(&55));
}
