//! A resync that compares blocks before it copies them.

use std::collections::BTreeMap;

use super::pair::*;
use crate::resource::*;

/// Blocks of an extent.
const EXTENT: u64 = EXTENT_SIZE / BLOCK_SIZE;

/// Every block of both disks has something of its own; node 0 is Primary.
fn full_pair() -> Pair {
    let mut pair = synced_pair();
    for n in 0..2 {
        pair.nodes[n].disk.blocks.extend((0..SIZE / BLOCK_SIZE).map(|block| (block, 1000 + block)));
    }
    pair
}

/// The Primary's process crashes with one hot extent, and the other one is promoted and writes.
fn crashed(pair: &mut Pair) {
    pair.write(0, 7, 77).unwrap();
    pair.kill(0);
    pair.run(2_000);
    pair.primary(1, false);
    pair.write(1, 8, 88).unwrap();
}

fn set(pair: &mut Pair, n: usize, csums_alg: CsumsAlg, csums_after_crash_only: bool) {
    let peer = u8::try_from(n).unwrap();
    let options = Options { csums_alg, csums_after_crash_only, ..config(peer).options };
    let set = Command::SetOptions { options: Box::new(options), volumes: BTreeMap::new() };
    pair.admin(n, set).unwrap();
}

fn side(pair: &Pair, n: usize) -> PeerDeviceStatus {
    pair.status(n).connections[0].peer_devices[0].clone()
}

/// Blocks that came as data, since `n` is up.
fn copied(pair: &Pair, n: usize) -> u64 {
    side(pair, n).received / BLOCK_SIZE
}

fn log(pair: &Pair, n: usize) -> String {
    pair.nodes[n].log.join("\n")
}

#[test]
fn after_a_crash_only_what_differs_is_copied() {
    let mut pair = full_pair();
    crashed(&mut pair);
    // Written here only, and on its way when the process died.
    pair.nodes[0].disk.blocks.insert(300, 666);
    pair.up(0);
    pair.synced();
    assert_eq!(copied(&pair, 0), 2, "{}", log(&pair, 0));
    assert_eq!(pair.nodes[0].disk.blocks[&300], 1300);
    let equal = (EXTENT - 2) * 4;
    assert!(log(&pair, 0).contains(&format!("{equal} KiB equal")), "{}", log(&pair, 0));
}

#[test]
fn a_small_disk_that_is_hot_all_over_is_compared_as_well() {
    let mut pair = full_pair();
    for extent in 0..SIZE / EXTENT_SIZE {
        pair.write(0, extent * EXTENT, 7).unwrap();
    }
    crashed(&mut pair);
    pair.up(0);
    assert_eq!(side(&pair, 0).out_of_sync, SIZE, "{}", log(&pair, 0));
    pair.synced();
    assert_eq!(copied(&pair, 0), 1, "{}", log(&pair, 0));
}

#[test]
fn the_source_may_be_the_one_that_crashed() {
    let mut pair = full_pair();
    pair.write(0, 7, 77).unwrap();
    // Both crash; the crashed Primary is the source of its hot extents.
    for n in 0..2 {
        pair.kill(n);
    }
    pair.nodes[0].disk.blocks.insert(300, 666);
    for n in 0..2 {
        pair.up(n);
    }
    pair.synced();
    assert!(log(&pair, 0).contains("rule=crashed-primary"), "{}", log(&pair, 0));
    assert_eq!((copied(&pair, 1), pair.nodes[1].disk.blocks[&300]), (1, 666));
}

#[test]
fn without_a_crash_everything_is_copied_unless_csums_alg_says_otherwise() {
    for (alg, after_crash_only, expected) in [
        (CsumsAlg::Default, false, 65),
        (CsumsAlg::None, false, 65),
        (CsumsAlg::Digest(VerifyAlg::Sha512), true, 65),
        (CsumsAlg::Digest(VerifyAlg::Sha512), false, 1),
    ] {
        let mut pair = full_pair();
        set(&mut pair, 1, alg, after_crash_only);
        let before = copied(&pair, 1);
        pair.lose_link();
        // Written again with what was there, but for one. Block 5 was not flushed when the link was lost.
        for block in 500..564 {
            let value = if block == 510 { 5 } else { 1000 + block };
            pair.write(0, block, value).unwrap();
        }
        pair.link = true;
        pair.synced();
        assert_eq!(copied(&pair, 1) - before, expected, "{alg:?} {after_crash_only}");
    }
}

#[test]
fn none_copies_all_after_a_crash_as_well() {
    let mut pair = full_pair();
    pair.nodes[0].disk.blocks.insert(300, 666);
    crashed(&mut pair);
    pair.link = false;
    pair.up(0);
    set(&mut pair, 0, CsumsAlg::None, false);
    pair.link = true;
    pair.synced();
    assert_eq!(copied(&pair, 0), EXTENT, "{}", log(&pair, 0));
}

#[test]
fn a_peer_that_gives_no_digests_is_copied_from() {
    let mut pair = full_pair();
    crashed(&mut pair);
    // It stops before the target begins.
    pair.nodes[1].stall = |action| matches!(action, Action::Meta { .. });
    pair.up(0);
    pair.run(15_000);
    let socket = pair.core(0).connections[0].active.expect("a session opens");
    let core = pair.nodes[0].core.as_mut().unwrap();
    core.connections[0].sockets.get_mut(&socket).unwrap().gives_digests = false;
    pair.nodes[1].unstall();
    pair.synced();
    assert_eq!(copied(&pair, 0), EXTENT, "{}", log(&pair, 0));
}

/// What the target cannot read is written, which mends it; the disk is not given up for it.
#[test]
fn what_cannot_be_compared_is_copied() {
    let mut pair = full_pair();
    crashed(&mut pair);
    pair.nodes[0].fail =
        |action| matches!(action, Action::DiskRead { offset, .. } if *offset < 64 * BLOCK_SIZE);
    pair.up(0);
    pair.synced();
    // Where most differs, or seems to, what follows is copied without a look.
    assert!((64..300).contains(&copied(&pair, 0)), "{}\n{}", copied(&pair, 0), log(&pair, 0));
    assert!(log(&pair, 0).contains("cannot be read here to be compared"), "{}", log(&pair, 0));
}

/// A block that is equal may be in a cache: its bit goes after the flush, and not before.
#[test]
fn a_bit_of_an_equal_block_is_cleared_after_a_flush() {
    let mut pair = full_pair();
    crashed(&mut pair);
    pair.link = false;
    pair.up(0);
    pair.nodes[0].stall = |action| matches!(action, Action::DiskFlush { .. });
    pair.link = true;
    pair.run(15_000);
    assert!(log(&pair, 0).contains("Began resync as SyncTarget"), "{}", log(&pair, 0));
    for n in 0..2 {
        assert_eq!(side(&pair, n).out_of_sync, EXTENT * BLOCK_SIZE, "{}", log(&pair, n));
    }
    pair.nodes[0].unstall();
    pair.synced();
}

/// Nobody writes a block between the two looks at it.
#[test]
fn a_write_waits_for_the_comparison() {
    let mut pair = full_pair();
    crashed(&mut pair);
    pair.nodes[0].stall = |action| matches!(action, Action::DiskRead { .. });
    pair.up(0);
    pair.run(10_000);
    assert!(log(&pair, 0).contains("Began resync as SyncTarget"), "{}", log(&pair, 0));
    let id = pair.write_later(1, 20, 2020);
    pair.run(100);
    assert!(!pair.nodes[1].replies.contains_key(&id), "its range is held");
    assert_eq!(pair.nodes[1].disk.blocks[&20], 1020);
    pair.nodes[0].unstall();
    pair.synced();
    assert_eq!(pair.nodes[1].replies.remove(&id), Some(Ok(None)));
    assert_eq!(pair.nodes[0].disk.blocks[&20], 2020);
}
