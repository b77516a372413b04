//! Disks that are not as they were left: damaged metadata, data written behind Tandem, disks
//! exchanged, and one disk under two names.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::ledger::{Burst, Ledger};
use crate::pair::{DISK_SIZE, Node, Pair, assert_equal, run, text};
use crate::plan::{Plan, disk_of};
use crate::stage::Stage;
use crate::wait::until;

/// Rounds of random damage.
const ROUNDS: u64 = 20;

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Damages the metadata at the end of the file, from `start` on; what was done.
fn damage(disk: &Path, start: u64, round: u64, dice: &mut Dice) -> String {
    let file = File::options().read(true).write(true).open(disk).expect("the disk is there");
    let write = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).expect("it is written");
    let copies = [DISK_SIZE - 4096, DISK_SIZE - (256 << 10)];
    let flip = |at: u64, dice: &mut Dice| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("it is there");
        byte[0] ^= 1 << dice.below(8);
        write(at, &byte);
    };
    match round % 7 {
        0 => {
            let places: Vec<u64> =
                (0..1 + dice.below(12)).map(|_| start + dice.below(DISK_SIZE - start)).collect();
            places.iter().for_each(|at| flip(*at, dice));
            format!("bits flipped at {places:?}")
        }
        1 => {
            let at = start + dice.below((DISK_SIZE - start) / 512) * 512;
            let length = (512 << dice.below(9)).min(DISK_SIZE - at);
            write(at, &vec![0; usize::try_from(length).expect("it fits")]);
            format!("{length} zeroes at {at}")
        }
        2 => {
            let copy = copies[usize::from(dice.below(2) == 1)];
            let at = copy + dice.below(1800);
            flip(at, dice);
            format!("a bit of a superblock at {at}")
        }
        3 => {
            let places = copies.map(|copy| copy + dice.below(1800));
            places.iter().for_each(|at| flip(*at, dice));
            format!("a bit of both superblocks at {places:?}")
        }
        4 => {
            write(start, &vec![0; usize::try_from(DISK_SIZE - start).expect("it fits")]);
            "all metadata zeroed".to_owned()
        }
        5 => {
            let size = DISK_SIZE - 1 - dice.below(2 * (DISK_SIZE - start));
            file.set_len(size).expect("it is cut");
            format!("truncated to {size}")
        }
        _ => {
            // The activity log and the bitmap are between the data and the second superblock.
            let at = start + dice.below((copies[1] - start) / 512) * 512;
            let noise: Vec<u8> = (0..512).map(|_| dice.below(256) as u8).collect();
            write(at, &noise);
            format!("512 random bytes at {at}")
        }
    }
}

/// Takes the resource up with a damaged disk; whether it became a synced pair.
fn meets(pair: &Pair, damaged: &Node, what: &str) -> bool {
    for node in [&pair.alice, &pair.bob] {
        let said = node.adm(&["up", "r0"]);
        if said.code != 0 {
            assert_eq!(node.name, damaged.name, "{what}: {said:?}");
            assert_eq!(said.code, 10, "{what}: {said:?}");
            assert!(said.stderr.contains(".img"), "{what}: no disk is named: {said:?}");
            assert_eq!(node.status()["devices"][0]["disk-state"], "Diskless", "{what}");
            node.ok(&["why", "r0"]);
            return false;
        }
    }
    until(&format!("{what}: both agree on something"), || {
        let states = [&pair.alice, &pair.bob].map(|node| node.connection());
        if states.iter().any(|state| state["connection-state"] == "StandAlone") {
            return Some(false);
        }
        let in_sync = |node: &Node| node.dstate() == "UpToDate/UpToDate";
        (in_sync(&pair.alice) && in_sync(&pair.bob)).then_some(true)
    })
}

#[test]
fn damaged_metadata_is_refused_or_mended_and_is_never_in_sync_by_mistake() {
    let mut pair = Pair::in_sync();
    let mut ledger = Ledger::within(6, 40);
    assert!(ledger.write(&mut pair.alice.client(), &Burst::Count(500)));
    // alice goes on alone, and both end without a word: bits, hot extents, a newer generation.
    pair.bob.kill();
    assert!(ledger.write(&mut pair.alice.client(), &Burst::Count(500)));
    pair.alice.kill();
    let export = {
        pair.alice.start_up();
        let size = pair.alice.export_size();
        pair.alice.kill();
        size
    };
    let kept: Vec<PathBuf> = [&pair.alice, &pair.bob]
        .iter()
        .map(|node| {
            let copy = node.disk.with_extension("kept");
            fs::copy(&node.disk, &copy).expect("a copy");
            copy
        })
        .collect();
    pair.alice.start();
    pair.bob.start();

    let mut dice = Dice(0x5EED);
    let mut synced = 0;
    for round in 0..ROUNDS {
        let damaged = if dice.below(2) == 0 { &pair.alice } else { &pair.bob };
        let what = damage(&damaged.disk, export, round, &mut dice);
        let what = format!("round {round}, {}: {what}", damaged.name);
        if meets(&pair, damaged, &what) {
            synced += 1;
            for node in [&pair.alice, &pair.bob] {
                node.ok(&["down", "r0"]);
                ledger.check_blocks(&node.read_disk(export));
            }
            assert_equal(&pair.alice.disk, &pair.bob.disk, export);
        }
        for (node, copy) in [&pair.alice, &pair.bob].into_iter().zip(&kept) {
            node.ok(&["down", "r0"]);
            assert!(!node.log_text().contains("panicked"), "{what}:\n{}", node.log_text());
            fs::copy(copy, &node.disk).expect("a copy");
        }
    }
    assert!(synced > 2, "only {synced} rounds ended as a pair");
    assert!(synced < ROUNDS, "nothing was refused");
}

#[test]
fn a_disk_that_was_written_behind_is_outdated_and_synced_in_full() {
    let pair = Plan::new().filled().in_sync();
    let mut ledger = Ledger::seeded(41);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(300)));
    client.disconnect().expect("a clean end of the client");
    pair.bob.ok(&["disconnect", "r0"]);
    pair.bob.ok(&["detach", "r0"]);
    let disk = File::options().write(true).open(&pair.bob.disk).expect("it is there");
    disk.write_all_at(b"somebody mounted it", 70_000).expect("it is written");
    // What is written elsewhere cannot be seen; the full sync takes it along.
    disk.write_all_at(&[0xEE; 5000], 30 << 20).expect("it is written");
    pair.bob.ok(&["attach", "r0"]);
    assert_eq!(pair.bob.dstate(), "Outdated/DUnknown");
    assert!(pair.bob.log_text().contains("it was written while"), "{}", pair.bob.log_text());
    assert!(pair.bob.ok(&["why", "r0"]).contains("it was written while"));
    let before = pair.bob.full_syncs();
    pair.bob.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    assert_eq!(pair.bob.full_syncs(), before + 1);
    ledger.check(&mut pair.alice.client());
    pair.assert_equal_disks();
}

/// An image of the Secondary, put back while the Primary is down, is made the data.
fn set_back_on_purpose(refused_before: bool) {
    let mut pair = Pair::in_sync();
    let mut client = pair.alice.client();
    client.write(0, &[1; 4096], 0).expect("it is written");
    pair.bob.terminate();
    let image = pair.dir.path().join("bob.backup");
    fs::copy(&pair.bob.disk, &image).expect("the image is taken");
    pair.bob.start_up();
    pair.wait_synced();
    client.write(0, &[2; 4096], 0).expect("it is written");
    client.disconnect().expect("a clean end of the client");
    pair.bob.terminate();
    fs::copy(&image, &pair.bob.disk).expect("the image is put back");
    if !refused_before {
        pair.bob.start();
        let mut stage = Stage::new(pair);
        stage.run("set-back");
        return is_as_set_back(&stage.pair);
    }
    pair.alice.ok(&["secondary", "r0"]);
    pair.alice.ok(&["down", "r0"]);
    pair.bob.start_up();
    assert!(pair.bob.dstate().starts_with("Outdated/"), "{}", pair.bob.dstate());
    let (alice, bob) = (&pair.alice, &pair.bob);
    alice.ok(&["create-md", "--force", "r0"]);
    alice.ok(&["up", "r0"]);
    for node in [alice, bob] {
        node.wait_connection("StandAlone", "resync-refused");
        let why = node.ok(&["why", "r0"]);
        assert!(why.contains("Next:  the source is Outdated or Inconsistent"), "{why}");
    }
    bob.ok(&["primary", "--force=outdated", "r0"]);
    bob.ok(&["secondary", "r0"]);
    alice.ok(&["connect", "r0"]);
    bob.ok(&["connect", "r0"]);
    is_as_set_back(&pair);
}

/// Both disks are as the image was.
fn is_as_set_back(pair: &Pair) {
    pair.wait_synced();
    pair.assert_equal_disks();
    assert_eq!(pair.alice.read_disk(4096), [1; 4096]);
}

#[test]
fn a_disk_that_was_set_back_on_purpose_becomes_the_data_by_the_documented_steps() {
    set_back_on_purpose(false);
}

#[test]
fn the_promotion_of_a_disk_that_was_set_back_may_come_after_the_refusal() {
    set_back_on_purpose(true);
}

#[test]
fn exchanged_disks_are_refused_by_name() {
    let pair = Pair::in_sync();
    pair.alice.ok(&["down", "r0"]);
    pair.bob.ok(&["down", "r0"]);
    let aside = pair.dir.path().join("aside");
    fs::rename(&pair.alice.disk, &aside).expect("it is there");
    fs::rename(&pair.bob.disk, &pair.alice.disk).expect("it is there");
    fs::rename(&aside, &pair.bob.disk).expect("it is there");
    for node in [&pair.alice, &pair.bob] {
        let said = node.refused(10, &["up", "r0"]);
        assert!(said.contains("carries the metadata of"), "{said}");
        assert!(said.contains("Then put the disks back."), "{said}");
        assert!(said.contains("`tandemadm create-md --force r0/0`"), "{said}");
        assert_eq!(node.status()["devices"][0]["disk-state"], "Diskless");
        let why = node.ok(&["why", "r0"]);
        assert!(why.contains("attach failed: (119) No valid meta-data of this resource"), "{why}");
        let next = format!("`tandemadm up r0` on {}", node.name);
        assert!(why.contains(&next) && !why.contains("is r0 up on"), "{why}");
    }
    // The cure that it says.
    fs::rename(&pair.alice.disk, &aside).expect("it is there");
    fs::rename(&pair.bob.disk, &pair.alice.disk).expect("it is there");
    fs::rename(&aside, &pair.bob.disk).expect("it is there");
    for node in [&pair.alice, &pair.bob] {
        node.ok(&["up", "r0"]);
    }
    pair.wait_synced();
}

#[test]
fn a_disk_is_not_used_twice_through_any_name_of_it() {
    let mut pair = Plan::new().resources(&[("r0", 1), ("copy", 1)]).blank();
    let (own, name) = (pair.alice.disk.clone(), disk_of(&pair.alice, "copy", 0));
    fs::remove_file(&name).and_then(|()| fs::hard_link(&own, &name)).expect("a hard link");
    pair.alice.start();
    pair.alice.ok(&["create-md", "r0"]);
    pair.alice.ok(&["up", "r0"]);
    // A second resource of the same daemon.
    let said = pair.alice.refused(10, &["up", "copy"]);
    assert!(said.contains("in use"), "{said}");
    pair.alice.refused(10, &["create-md", "--force", "copy"]);
    // A second daemon.
    let link = pair.dir.path().join("link.img");
    std::os::unix::fs::symlink(&own, &link).expect("a link");
    let other = Plan::new().disks(&link, &pair.bob.disk).blank();
    let mut other = other.alice;
    other.start();
    let said = other.refused(10, &["up", "r0"]);
    assert!(said.contains("in use"), "{said}");
    other.refused(10, &["create-md", "--force", "r0"]);
    pair.alice.ok(&["down", "r0"]);
    other.ok(&["down", "r0"]);
    other.ok(&["up", "r0"]);
}

#[test]
fn create_md_names_what_it_found_of_each_kind() {
    // The documented magic numbers, at their places.
    let md = 0xA92B_4EFC_u32.to_le_bytes();
    let drbd = 0x8374_026D_u32.to_be_bytes();
    let kinds: [(&str, u64, &[u8]); 6] = [
        ("GPT", 512, b"EFI PART"),
        ("LVM", 512, b"LABELONE"),
        ("MD", 4096, &md),
        ("DRBD", DISK_SIZE - 4096 + 60, &drbd),
        ("swap", 4086, b"SWAPSPACE2"),
        ("LUKS", 0, b"LUKS\xBA\xBE\x00\x01"),
    ];
    let pair = Pair::blank();
    let disk = &pair.alice.disk;
    for (kind, at, magic) in kinds {
        let file = File::create(disk).expect("a disk");
        file.set_len(DISK_SIZE).and_then(|()| file.write_all_at(magic, at)).expect("a disk");
        let before = fs::read(disk).expect("it is there");
        let said = pair.alice.refused(10, &["create-md", "r0"]);
        assert!(said.contains(kind) && said.contains("--force"), "{kind}: {said}");
        assert!(fs::read(disk).expect("it is there") == before, "{kind}: it was touched");
        pair.alice.ok(&["create-md", "--force", "r0"]);
    }
    let made = run(std::process::Command::new("mke2fs").args(["-q", "-F", text(disk)]));
    assert_eq!(made.code, 0, "{made:?}");
    assert!(pair.alice.refused(10, &["create-md", "r0"]).contains("ext"));
}
