//! Disks that do not fit together: clones of one disk, and one that is too small.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use tandem::meta::{decode_superblock, encode_superblock};

use crate::pair::{DISK_SIZE, Node};
use crate::plan::Plan;

/// Where the two superblocks of internal metadata are.
const SUPERBLOCKS: [u64; 2] = [DISK_SIZE - 4096, DISK_SIZE - (256 << 10)];

/// Makes a disk's metadata those of the other node: what a hand with a hex editor does.
fn give_to_bob(node: &Node) {
    let file = File::options().read(true).write(true).open(&node.disk).expect("it is there");
    for (copy, at) in (0u8..).zip(SUPERBLOCKS) {
        let mut block = vec![0; 4096];
        file.read_exact_at(&mut block, at).expect("a superblock");
        let mut superblock = decode_superblock(&block, copy).expect("a good superblock");
        superblock.node_id = 1;
        superblock.peers[0].node_id = Some(0);
        file.write_all_at(&encode_superblock(&superblock, copy), at).expect("it is written");
    }
}

#[test]
fn a_clone_of_the_other_disk_is_not_the_second_copy() {
    let pair = Plan::new().calm().in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    let own = pair.dir.path().join("own.img");
    alice.ok(&["secondary", "r0"]);
    for node in [alice, bob] {
        node.ok(&["down", "r0"]);
    }
    fs::copy(&bob.disk, &own).expect("a copy");
    fs::copy(&alice.disk, &bob.disk).expect("a clone");
    let said = bob.refused(10, &["up", "r0"]);
    assert!(said.contains("(119) No valid meta-data of this resource found."), "{said}");
    assert!(said.contains("of r0/0 of node 0, not of r0/0 of node 1"), "{said}");
    bob.ok(&["down", "r0"]);

    // With the right number on it, it is found out by its identity.
    give_to_bob(bob);
    alice.ok(&["up", "r0"]);
    bob.ok(&["up", "r0"]);
    for node in [alice, bob] {
        node.wait_connection("StandAlone", "wrong-node");
        let why = node.ok(&["why", "r0"]);
        assert!(why.contains("rule clone"), "{why}");
        assert!(why.contains("create-md"), "{why}");
    }
    // The right disk is taken back.
    bob.ok(&["down", "r0"]);
    fs::copy(&own, &bob.disk).expect("the right disk");
    bob.ok(&["up", "r0"]);
    alice.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
}

#[test]
fn a_disk_that_is_too_small_is_refused_with_both_sizes() {
    let pair = Plan::new().calm().in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    let size = alice.export_size();
    bob.ok(&["down", "r0"]);
    File::create(&bob.disk).and_then(|file| file.set_len(32 << 20)).expect("a small disk");
    bob.ok(&["create-md", "r0"]);
    bob.ok(&["up", "r0"]);
    for node in [alice, bob] {
        node.wait_connection("StandAlone", "resync-refused");
        let why = node.ok(&["why", "r0"]);
        let (cause, next) = why.split_once("  Next:  ").expect("a next step");
        assert!(cause.contains("rule size: the volume is in use with"), "{why}");
        assert!(cause.contains(&format!("{size} bytes")), "{why}");
        assert!(cause.contains("a disk is too small"), "{why}");
        assert!(next.starts_with("give bob a larger disk"), "{why}");
        assert!(!why.contains("would be overwritten"), "{why}");
        assert!(node.log_text().contains("(rule size)"), "{}", node.log_text());
    }
    // What it says to do, literally.
    bob.ok(&["down", "r0"]);
    File::options().write(true).open(&bob.disk).and_then(|f| f.set_len(80 << 20)).expect("grown");
    bob.ok(&["create-md", "--force", "r0"]);
    bob.ok(&["up", "r0"]);
    alice.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    assert_eq!(bob.export_size(), size);
    pair.assert_equal_disks();
}

#[test]
fn the_smaller_of_two_new_disks_gives_the_size() {
    let dir = tempfile::tempdir().expect("a folder");
    let paths = ["alice.img", "bob.img"].map(|name| dir.path().join(name));
    for (path, size) in paths.iter().zip([48u64, 32]) {
        File::create(path).and_then(|file| file.set_len(size << 20)).expect("a disk");
    }
    let pair = Plan::new().calm().disks(&paths[0], &paths[1]).in_sync();
    assert_eq!(pair.alice.export_size(), pair.bob.export_size());
    assert!(pair.alice.export_size() < 32 << 20);
}
