//! Orders that throw data away, or declare what it is: what each does, and with which of DRBD's
//! numbers and which next step it is refused.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use crate::disks::SmallRoom;
use crate::pair::{DISK_SIZE, Node, Pair, run, text};
use crate::plan::Plan;
use crate::wait::until;

/// A refusal with the number, the text and the next step.
fn refused(node: &Node, code: i32, words: &[&str], parts: [&str; 2]) {
    let said = node.refused(code, words);
    for part in parts {
        assert!(said.contains(part), "{}# tandemadm {words:?}: {said}", node.name);
    }
    assert!(said.trim().lines().count() > 1, "no next step: {said}");
}

/// alice is Primary, and bob is being synced, slowly.
fn slow() -> Pair {
    let pair = Plan::new().calm().sections("disk { c-max-rate 2M; }").filled().connected();
    pair.alice.ok(&["primary", "--force", "r0"]);
    until("the resync runs", || {
        let state = pair.bob.connection()["peer_devices"][0]["replication-state"].clone();
        (state == "SyncTarget").then_some(())
    });
    pair
}

fn hurry(pair: &Pair) {
    for node in [&pair.alice, &pair.bob] {
        node.ok(&["disk-options", "--c-max-rate=1000M", "r0"]);
    }
}

/// What `get-gi` prints: current, bitmap, history, flags.
fn identifiers(node: &Node) -> Vec<String> {
    let text = node.ok(&["get-gi", "r0"]);
    text.trim().split(':').map(str::to_owned).collect()
}

fn write(node: &Node, byte: u8) {
    let mut client = node.client();
    client.write(0, &[byte; 8192], 0).expect("it is written");
    client.flush().expect("a flush");
    client.disconnect().expect("a clean end of the client");
}

#[test]
fn orders_that_need_another_state_say_which() {
    let pair = Plan::new().calm().connected();
    let bob = &pair.bob;
    refused(
        bob,
        11,
        &["invalidate", "r0"],
        ["(-5) Can not resync without remote disk", "UpToDate"],
    );
    refused(bob, 5, &["outdate", "r0"], ["(-16) Disk state is lower than outdated", "connect"]);
    refused(
        bob,
        10,
        &["attach", "r0"],
        ["(124) Device is attached to a disk", "tandemadm detach r0/0"],
    );
    let discard: &[&str] = &["connect", "--discard-my-data", "r0"];
    refused(bob, 10, discard, ["(125) Device has a net-config", "nothing to discard"]);
    let pair = pair.sync_from_alice();
    let (alice, bob) = (&pair.alice, &pair.bob);
    refused(
        bob,
        11,
        &["outdate", "r0"],
        ["(-6) Refusing to be Outdated while Connected", "Disconnect"],
    );
    refused(alice, 17, &["invalidate", "r0"], ["(-2) ", "tandemadm secondary r0"]);
    refused(bob, 11, &["invalidate-remote", "r0"], ["(-10) ", "demote it first"]);
    alice.ok(&["disconnect", "r0"]);
    let remote: &[&str] = &["invalidate-remote", "r0"];
    refused(alice, 11, remote, ["(-15) State change requires a connection", "Connect the peer"]);
    refused(
        alice,
        10,
        discard,
        ["(123) --discard-my-data not allowed when primary", "secondary r0"],
    );
    // Nothing of it was done.
    assert_eq!(alice.dstate(), "UpToDate/Outdated");
    bob.ok(&["detach", "r0"]);
    refused(bob, 16, &["invalidate", "r0"], ["(-4) Can not resync without local disk", "Attach"]);
    refused(bob, 5, &["outdate", "r0"], ["(-16) ", "tandemadm attach r0/0"]);
    for verb in ["apply-al", "sh-list-config-file", "hidden-commands", "set-gi"] {
        let said = alice.refused(10, &[verb, "r0"]);
        assert!(said.contains(&format!("'{verb}' is not supported")), "{said}");
    }
}

#[test]
fn a_resync_that_runs_is_not_begun_again_and_is_seen_everywhere() {
    let pair = slow();
    let (alice, bob) = (&pair.alice, &pair.bob);
    let running = "(-8) Can not start OV/resync since it is already active";
    refused(alice, 11, &["invalidate-remote", "r0"], [running, "tandemadm wait-sync"]);
    refused(bob, 11, &["invalidate", "r0"], [running, "tandemadm wait-sync"]);
    hurry(&pair);
    pair.wait_synced();
    // Now it is, from both sides; whatever is there is copied once more.
    let size = alice.export_size() / 1024 - (8 << 10);
    for (node, verb) in [(bob, "invalidate"), (alice, "invalidate-remote")] {
        let before = bob.peer_kib("received");
        node.ok(&[verb, "r0"]);
        until("all of it was copied", || (bob.peer_kib("received") - before >= size).then_some(()));
        pair.wait_synced();
    }
    pair.assert_equal_disks();
}

#[test]
fn an_outdated_disk_is_promoted_by_that_word_only() {
    let pair = Plan::new().calm().in_sync();
    let bob = &pair.bob;
    bob.ok(&["disconnect", "--force", "r0"]);
    assert_eq!(bob.dstate(), "UpToDate/DUnknown");
    bob.ok(&["outdate", "r0"]);
    bob.ok(&["outdate", "r0/0"]);
    assert_eq!(bob.dstate(), "Outdated/DUnknown");
    for words in [&["primary", "r0"][..], &["primary", "--force", "r0"]] {
        refused(bob, 17, words, ["(-2) ", "primary --force=outdated r0"]);
    }
    // It is durable, and a resync ends it.
    bob.ok(&["detach", "r0"]);
    bob.ok(&["attach", "r0"]);
    assert_eq!(bob.dstate(), "Outdated/DUnknown");
    bob.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
}

#[test]
fn a_target_in_mid_resync_is_promoted_by_that_word_only() {
    let mut pair = slow();
    pair.alice.kill();
    let bob = &pair.bob;
    until("bob is alone", || (bob.dstate() == "Inconsistent/DUnknown").then_some(()));
    for words in [
        &["primary", "r0"][..],
        &["primary", "--force", "r0"],
        &["primary", "--force=outdated", "r0"],
    ] {
        refused(bob, 17, words, ["(-2) ", "primary --force=inconsistent r0"]);
        assert_eq!(bob.dstate(), "Inconsistent/DUnknown");
    }
    bob.ok(&["primary", "--force=inconsistent", "r0"]);
    assert_eq!(bob.dstate(), "UpToDate/DUnknown");
    write(bob, 5);
    // The two have nothing in common any more: nobody is overwritten.
    pair.alice.start_up();
    pair.bob.wait_connection("StandAlone", "unrelated-data");
    assert_eq!(pair.bob.read_disk(1), [5]);
}

#[test]
fn a_blank_disk_is_forced_over_a_file_system_by_that_word_only() {
    let mut pair = Plan::new().calm().blank();
    let made = run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-F", text(&pair.bob.disk)]));
    assert_eq!(made.code, 0, "{made:?}");
    for node in [&mut pair.alice, &mut pair.bob] {
        node.start();
        node.ok(&["create-md", "--force", "r0"]);
        node.ok(&["up", "r0"]);
    }
    pair.wait_connected();
    for words in [&["primary", "--force", "r0"][..], &["primary", "--force=outdated", "r0"]] {
        refused(&pair.alice, 17, words, ["ext4", "primary --force=blank r0"]);
    }
    assert_ne!(pair.bob.read_disk(4096)[1024..], [0; 3072], "the file system is there");
    pair.alice.ok(&["primary", "--force=blank", "r0"]);
    pair.wait_synced();
    assert_eq!(pair.bob.read_disk(4096), [0; 4096]);
}

#[test]
fn a_new_generation_by_order_is_a_quick_resync_of_nothing() {
    let pair = Plan::new().calm().in_sync();
    let alice = &pair.alice;
    let order: &[&str] = &["new-current-uuid", "r0/0"];
    refused(alice, 10, order, ["(162) ", "nothing to tell apart"]);
    let before = identifiers(alice);
    assert_eq!(before[1], "0000000000000000", "{before:?}");
    alice.ok(&["disconnect", "--force", "r0"]);
    pair.bob.ok(&["disconnect", "r0"]);
    alice.ok(order);
    let after = identifiers(alice);
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1], before[0], "what they had in common");
    assert!(alice.ok(&["show-gi", "r0"]).contains(&after[0]));
    pair.bob.ok(&["connect", "r0"]);
    let received = pair.bob.peer_kib("received");
    // One more bit than none may be set by a write that was not flushed.
    alice.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    assert!(pair.bob.peer_kib("received") - received <= 64);
    assert_eq!(identifiers(&pair.bob)[0][..15], after[0][..15]);
}

#[test]
fn disks_are_declared_equal_only_where_the_samples_are() {
    let order: &[&str] = &["new-current-uuid", "--clear-bitmap", "r0/0"];
    let pair = Plan::new().calm().connected();
    let disk = File::options().write(true).open(&pair.bob.disk).expect("a disk");
    // A byte in the first MiB.
    disk.write_all_at(&[1], 700_000).expect("it is written");
    refused(&pair.alice, 10, order, ["(162) ", "differ at byte"]);
    disk.write_all_at(&[0], 700_000).expect("it is written");
    // Every third block of the middle: 4,096 samples of 16,000 blocks meet one.
    for block in (512..12_000).step_by(3) {
        disk.write_all_at(&[1], block * 4096 + 17).expect("it is written");
    }
    refused(&pair.alice, 10, order, ["(162) ", "differ at byte"]);
    for block in (512..12_000).step_by(3) {
        disk.write_all_at(&[0], block * 4096 + 17).expect("it is written");
    }
    assert_eq!(pair.alice.dstate(), "Inconsistent/Inconsistent");
    pair.alice.ok(order);
    pair.wait_synced();
}

#[test]
fn a_try_to_connect_tells_what_would_be_overwritten_and_begins_nothing() {
    let pair = Plan::new().calm().in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    assert_eq!(alice.ok(&["connect", "--tentative", "r0"]), "already connected to bob\n");
    alice.ok(&["disconnect", "--force", "r0"]);
    write(alice, 6);
    let said = alice.ok(&["connect", "--tentative", "r0"]);
    assert!(said.starts_with("r0/0: would become SyncSource: at most "), "{said}");
    assert!(said.contains("KiB of bob is overwritten (rule bitmap-self)"), "{said}");
    alice.wait_connection("StandAlone", "stopped-by-admin");
    assert_eq!(bob.connection()["connection-state"], "Connecting");
    assert!(bob.log_text().contains("the peer has tried to connect"), "{}", bob.log_text());
    assert_eq!(bob.read_disk(1), [0], "nothing was copied");
    // A split brain: nobody is refused for good, and a victim may be tried.
    bob.ok(&["disconnect", "--force", "r0"]);
    bob.ok(&["primary", "r0"]);
    write(bob, 7);
    bob.ok(&["connect", "r0"]);
    let said = alice.ok(&["connect", "--tentative", "r0"]);
    assert!(said.starts_with("r0 bob: would be refused: split-brain (rule bitmap-both)"), "{said}");
    assert_eq!(bob.connection()["connection-state"], "Connecting");
    alice.ok(&["secondary", "r0"]);
    let said = alice.ok(&["connect", "--tentative", "--discard-my-data", "r0"]);
    assert!(said.contains("would become SyncTarget"), "{said}");
    assert_eq!(alice.read_disk(1), [6]);
    alice.ok(&["connect", "--discard-my-data", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    assert_eq!(alice.read_disk(1), [7]);
}

#[test]
fn a_primary_takes_back_no_disk_that_is_older_than_what_its_clients_saw() {
    let mut pair = Plan::new().calm().in_sync();
    pair.alice.ok(&["detach", "r0"]);
    write(&pair.alice, 8);
    pair.bob.kill();
    let alice = &pair.alice;
    until("alice has seen it", || {
        (alice.connection()["connection-state"] != "Connected").then_some(())
    });
    let lost = "(150) Can only attach to the data we lost last";
    refused(alice, 10, &["attach", "r0"], [lost, "Connect the peer first"]);
    pair.bob.start_up();
    pair.wait_connected();
    pair.alice.ok(&["attach", "r0"]);
    pair.wait_synced();
    pair.assert_equal_disks();
}

/// The second superblock is damaged, and there is no room to mend it.
#[test]
fn a_disk_that_fails_while_it_is_attached_is_not_attached() {
    const TEST: &str = "a_disk_that_fails_while_it_is_attached";
    let dir = tempfile::tempdir().expect("a folder");
    let Some(room) = SmallRoom::new(TEST, &dir.path().join("room"), "8M") else { return };
    let disk = room.0.join("alice.img");
    let mut pair = Plan::new().calm().disks(&disk, &dir.path().join("bob.img")).blank();
    pair.alice.start();
    pair.alice.ok(&["create-md", "r0"]);
    let hole = format!("--offset={} --length=4096", DISK_SIZE - (256 << 10));
    let mut punch = Command::new("fallocate");
    let said = run(punch.arg("-p").args(hole.split(' ')).arg(text(&disk)));
    assert_eq!(said.code, 0, "{said:?}");
    let filler = room.0.join("filler");
    // Until it is full.
    let _ = fs::write(&filler, vec![1; 8 << 20]);
    let failed = "(118) IO error(s) occurred during initial access to meta-data";
    refused(
        &pair.alice,
        10,
        &["up", "r0"],
        [failed, "Make room under the backing file, then attach again."],
    );
    assert!(pair.alice.dstate().starts_with("Diskless/"));
    fs::remove_file(&filler).expect("it is there");
    pair.alice.ok(&["up", "r0"]);
    assert!(pair.alice.dstate().starts_with("Inconsistent/"));
}

#[test]
fn create_md_makes_room_for_peers_and_keeps_blocks_where_it_is_told() {
    let mut pair = Plan::new().calm().blank();
    for node in [&mut pair.alice, &mut pair.bob] {
        node.start();
        node.ok(&["create-md", "--max-peers", "3", "--preallocate", "r0"]);
        let dump = node.ok(&["dump-md", "r0"]);
        assert_eq!(dump.matches("peer[").count(), 3, "{dump}");
        node.ok(&["up", "r0"]);
    }
    pair.wait_connected();
    pair.alice.refused(1, &["create-md", "--max-peers", "32", "r0"]);
    let size = pair.alice.export_size();
    // At most 1 MiB and 1/32768 of the disk for each peer.
    assert!(size >= DISK_SIZE - (1 << 20) - 3 * (DISK_SIZE / 32768), "{size}");
    let pair = pair.sync_from_alice();
    let mut client = pair.alice.client();
    client.trim(0, 8 << 20, 0).expect("a trim");
    client.flush().expect("a flush");
    for node in [&pair.alice, &pair.bob] {
        let blocks = fs::metadata(&node.disk).expect("it is there").blocks() * 512;
        assert!(blocks >= size, "{}: {blocks} bytes are allocated", node.name);
    }
}

#[test]
fn a_client_that_comes_in_promotes_where_auto_promote_says_so() {
    let pair = Plan::new().calm().sections("options { auto-promote yes; }").in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    assert!(bob.try_client().is_err(), "alice is Primary");
    alice.ok(&["secondary", "r0"]);
    assert_eq!(alice.ok(&["role", "r0"]), "Secondary\n");
    let mut client = bob.client();
    client.write(0, &[3; 4096], 0).expect("it is written");
    assert_eq!(bob.ok(&["role", "r0"]), "Primary\n");
    assert!(alice.try_client().is_err(), "bob is Primary");
    client.flush().expect("a flush of both");
    pair.assert_equal_disks();
}
