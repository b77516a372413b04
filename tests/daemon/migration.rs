//! From DRBD to Tandem and back, as docs/MIGRATION.md has it: nothing is copied, and DRBD finds its metadata
//! as it left them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::pair::Pair;

/// What DRBD serves of the disk; its metadata are behind it.
const SERVED: u64 = 7 << 20;
const DISK: u64 = 8 << 20;

/// A disk as a node of DRBD has it: data, and metadata whose last 4 KiB have the magic of version 09.
fn as_drbd_left_it() -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..DISK).map(|at| u8::try_from((at / 4096 + at) % 251).expect("small")).collect();
    let block = usize::try_from(DISK - 4096).expect("it fits");
    bytes[block + 60..block + 64].copy_from_slice(&0x8374_026d_u32.to_be_bytes());
    bytes
}

#[test]
fn a_pair_of_drbd_is_taken_over_without_a_copy_and_given_back_with_its_metadata() {
    let mut pair = Pair::blank();
    let before = as_drbd_left_it();
    let mut config = fs::read_to_string(&pair.alice.config).expect("the config");
    for node in [&pair.alice, &pair.bob] {
        fs::write(&node.disk, &before).expect("a disk");
        let outside = format!("meta-disk {}.md", node.disk.display());
        config = config.replacen("meta-disk internal", &outside, 1);
    }
    let size = format!("resource r0 {{\n    disk {{ size {}s; }}\n", SERVED / 512);
    config = config.replacen("resource r0 {\n", &size, 1);
    fs::write(&pair.alice.config, config).expect("the config");
    pair.alice.start();
    pair.bob.start();
    for node in [&pair.alice, &pair.bob] {
        let said = node.refused(10, &["create-md", "r0"]);
        assert!(said.contains("DRBD metadata"), "{said}");
        node.ok(&["create-md", "--force", "r0"]);
        node.ok(&["up", "r0"]);
    }
    pair.wait_connected();
    pair.alice.ok(&["new-current-uuid", "--clear-bitmap", "r0"]);
    assert_eq!(pair.alice.full_syncs() + pair.bob.full_syncs(), 0);
    pair.alice.ok(&["primary", "r0"]);
    assert_eq!(pair.alice.export_size(), SERVED);
    let mut client = pair.alice.client();
    client.write(SERVED - 4096, &[7; 4096], 0).expect("a write at the end");
    client.flush().expect("a flush");
    client.disconnect().expect("a goodbye");

    // And back.
    for node in [&pair.alice, &pair.bob] {
        node.ok(&["down", "r0"]);
    }
    let mut after = before;
    let (end, rest) = after.split_at_mut(usize::try_from(SERVED).expect("it fits"));
    let last = end.len() - 4096;
    end[last..].fill(7);
    assert_eq!(rest.len() as u64, DISK - SERVED);
    for node in [&pair.alice, &pair.bob] {
        let mut disk = vec![0; after.len()];
        let file = File::open(&node.disk).expect("the disk");
        file.read_exact_at(&mut disk, 0).expect("all of it");
        assert!(disk == after, "{}: other bytes than those that were written", node.name);
    }

    // Or for good: the whole disk.
    let config = fs::read_to_string(&pair.alice.config).expect("the config");
    fs::write(&pair.alice.config, config.replacen(&size, "resource r0 {\n", 1))
        .expect("the config");
    for node in [&pair.alice, &pair.bob] {
        node.ok(&["up", "r0"]);
    }
    pair.wait_connected();
    pair.alice.ok(&["primary", "r0"]);
    assert_eq!(pair.alice.export_size(), SERVED);
    pair.alice.ok(&["resize", "--assume-clean", "r0"]);
    assert_eq!(pair.alice.export_size(), DISK);
}
