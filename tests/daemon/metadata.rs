//! wipe-md, restore-md, dump-md, forget-peer and the saved copies, in every wrong state.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use crate::operations::saved;
use crate::pair::{Node, Pair, text};
use crate::wait::until;

fn told(node: &Node) -> Vec<String> {
    let text = node.ok(&["dump-md", "r0"]);
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[test]
fn attached_disks_are_neither_wiped_nor_restored() {
    let pair = Pair::in_sync();
    let dump = pair.dir.path().join("dump.md");
    let said = pair.bob.ok(&["dump-md", "r0"]);
    assert!(said.contains("# Output might be stale"), "{said}");
    fs::write(&dump, &said).expect("it is written");
    let said = pair.bob.refused(10, &["dump-md", "--offline", "r0"]);
    assert!(said.contains("(114)") && said.contains("in use by tandemd"), "{said}");
    for words in [
        vec!["wipe-md", "--force", "r0"],
        vec!["restore-md", "--force", text(&dump), "r0"],
        vec!["create-md", "--force", "r0"],
    ] {
        let said = pair.bob.refused(10, &words);
        assert!(said.contains("(114)"), "{said}");
    }
    assert_eq!(pair.bob.dstate(), "UpToDate/UpToDate");
    pair.bob.refused(1, &["wipe-md", "r0:alice"]);
    pair.bob.refused(1, &["restore-md", "r0"]);
    assert!(saved(&pair.bob).is_empty());
}

#[test]
fn wiped_metadata_comes_back_from_its_saved_copy() {
    let pair = Pair::in_sync();
    pair.bob.ok(&["down", "r0"]);
    let before = told(&pair.bob);
    let said = pair.bob.refused(10, &["wipe-md", "r0"]);
    assert!(said.contains("Tandem metadata of r0/0 of node 1"), "{said}");
    let said = pair.bob.adm(&["wipe-md", "--force", "r0"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("is saved in"), "{said:?}");
    for words in [["wipe-md", "--force", "r0"].as_slice(), &["dump-md", "r0"], &["attach", "r0"]] {
        assert_eq!(pair.bob.adm(words).code, 10, "{words:?}");
    }
    let copies = saved(&pair.bob);
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert!(copies[0].starts_with("saved-r0-0-node1-wipe-md-"), "{copies:?}");
    let copy = pair.bob.run_dir.join("state").join(&copies[0]);
    // Not on the other node's disk, and not what is no dump.
    pair.alice.ok(&["secondary", "r0"]);
    pair.alice.ok(&["down", "r0"]);
    let said = pair.alice.refused(10, &["restore-md", "--force", text(&copy), "r0"]);
    assert!(said.contains("is the metadata of r0/0 of node 1, not of r0/0 of node 0"), "{said}");
    let said = pair.bob.refused(10, &["restore-md", text(&pair.bob.config), "r0"]);
    assert!(said.contains("no dump of metadata"), "{said}");
    pair.bob.refused(10, &["restore-md", "/nonexistent", "r0"]);
    pair.bob.ok(&["restore-md", text(&copy), "r0"]);
    assert_eq!(told(&pair.bob), before);
    let said = pair.bob.refused(10, &["restore-md", text(&copy), "r0"]);
    assert!(said.contains("--force"), "{said}");
    pair.alice.ok(&["up", "r0"]);
    pair.bob.ok(&["up", "r0"]);
    pair.wait_synced();
    pair.assert_equal_disks();
}

/// It is named with the order that puts it back, and with what it is not.
#[test]
fn a_disk_without_whole_metadata_is_told_of_its_newest_copy() {
    let pair = Pair::in_sync();
    pair.bob.ok(&["down", "r0"]);
    // An older one, and one of another disk of the name.
    let state = pair.bob.run_dir.join("state");
    for old in [
        "saved-r0-0-node1-wipe-md-20010101-000000.md",
        "saved-r0-0-node0-wipe-md-29990101-000000.md",
    ] {
        fs::write(state.join(old), "").expect("it is written");
    }
    pair.bob.ok(&["wipe-md", "--force", "r0"]);
    let mut copies = saved(&pair.bob);
    copies.retain(|name| name.starts_with("saved-r0-0-node1-wipe-md-2") && !name.contains("2001"));
    assert_eq!(copies.len(), 1, "{copies:?}");
    let copy = state.join(&copies[0]);
    let order = format!(
        "Only where it is the same disk and nothing was: `tandemadm restore-md {} r0/0`.",
        copy.display()
    );
    let is_told = |said: &str| {
        let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
        flat.contains(&order)
            && flat.contains("do not put it back, it would pass old data for good")
    };
    let said = pair.bob.refused(10, &["up", "r0"]);
    assert!(said.contains("(119)") && is_told(&said), "{said}");
    let said = pair.bob.ok(&["why", "r0"]);
    assert!(is_told(&said) && said.contains("`tandemadm create-md r0/0`"), "{said}");
    pair.bob.ok(&["down", "r0"]);
    pair.bob.ok(&["restore-md", text(&copy), "r0/0"]);
    // Whole metadata is saved before it is overwritten: nothing is to be said of an older copy.
    let said = pair.bob.refused(10, &["create-md", "r0"]);
    assert!(said.contains("Tandem metadata of r0/0") && !said.contains("restore-md"), "{said}");
    let disk = File::options().write(true).open(&pair.bob.disk).expect("the disk opens");
    let end = disk.metadata().expect("it has a size").len();
    for at in [end - 4096, end - (256 << 10)] {
        disk.write_all_at(&[7; 64], at + 100).expect("it is written");
    }
    let said = pair.bob.refused(10, &["create-md", "r0"]);
    assert!(said.contains("damaged Tandem metadata") && is_told(&said), "{said}");
    let said = pair.bob.refused(10, &["up", "r0"]);
    assert!(said.contains("Nothing tells how old it is") && is_told(&said), "{said}");
    let said = pair.bob.ok(&["why", "r0"]);
    assert!(is_told(&said) && said.contains("`tandemadm create-md --force r0/0`"), "{said}");
}

#[test]
fn an_old_dump_is_a_disk_that_was_set_back() {
    let pair = Pair::in_sync();
    let dump = pair.dir.path().join("dump.md");
    pair.bob.ok(&["down", "r0"]);
    fs::write(&dump, pair.bob.ok(&["dump-md", "--offline", "r0"])).expect("it is written");
    pair.bob.ok(&["up", "r0"]);
    pair.wait_synced();
    // The disk goes on, in a generation that the dump does not know.
    pair.alice.ok(&["secondary", "r0"]);
    pair.bob.ok(&["primary", "r0"]);
    pair.bob.client().write(0, &[7; 4096], 0).expect("a write");
    pair.alice.ok(&["disconnect", "r0"]);
    pair.bob.client().write(1 << 20, &[7; 4096], 0).expect("a write alone");
    pair.bob.ok(&["secondary", "r0"]);
    pair.alice.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    pair.bob.ok(&["down", "r0"]);
    let said = pair.bob.refused(10, &["restore-md", text(&dump), "r0"]);
    assert!(said.contains("newer than the dump"), "{said}");
    pair.bob.ok(&["restore-md", "--force", text(&dump), "r0"]);
    pair.bob.ok(&["up", "r0"]);
    pair.bob.wait_connection("StandAlone", "rolled-back");
}

#[test]
fn copies_are_saved_before_orders_that_throw_something_away() {
    let pair = Pair::in_sync();
    let copies = saved(&pair.alice);
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert!(copies[0].starts_with("saved-r0-0-node0-primary-"), "{copies:?}");
    // A refused order leaves none.
    pair.alice.refused(17, &["invalidate", "r0"]);
    assert_eq!(saved(&pair.alice).len(), 1);
    pair.bob.ok(&["invalidate", "r0"]);
    pair.wait_synced();
    let copies = saved(&pair.bob);
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert!(copies[0].starts_with("saved-r0-0-node1-invalidate-"), "{copies:?}");
    let text = fs::read_to_string(pair.bob.run_dir.join("state").join(&copies[0]));
    assert!(text.expect("a copy").contains("current-uuid 0x"));

    // A state folder that cannot be written: what is not urgent is refused, and nothing is changed.
    let state = pair.bob.run_dir.join("state");
    fs::remove_dir_all(&state).expect("it is there");
    File::create(&state).expect("a file in its place");
    let said = pair.bob.refused(10, &["invalidate", "r0"]);
    assert!(said.contains("could not be saved before, so nothing was done"), "{said}");
    assert_eq!(pair.bob.dstate(), "UpToDate/UpToDate");
    // A promotion by force ends an outage: it is done, and says so.
    pair.bob.ok(&["disconnect", "--force", "r0"]);
    pair.alice.ok(&["secondary", "r0"]);
    until("bob is alone", || {
        (pair.bob.connection()["connection-state"] == "StandAlone").then_some(())
    });
    let said = pair.bob.adm(&["primary", "--force", "r0"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("the metadata was not saved before"), "{said:?}");
}

#[test]
fn a_peer_is_forgotten_on_a_detached_disk_too_and_the_slot_is_free() {
    let pair = Pair::in_sync();
    let said = pair.alice.refused(10, &["forget-peer", "r0:bob"]);
    assert!(said.contains("(125)"), "{said}");
    let said = pair.alice.refused(10, &["forget-peer", "r0:carol"]);
    assert!(said.contains("node id"), "{said}");
    pair.alice.refused(10, &["forget-peer", "r0:0"]);
    pair.alice.ok(&["secondary", "r0"]);
    pair.alice.ok(&["down", "r0"]);
    pair.alice.ok(&["forget-peer", "r0:7"]);
    assert!(told(&pair.alice).contains(&"    node-id 1;".to_owned()));
    pair.alice.ok(&["forget-peer", "r0:1"]);
    let lines = told(&pair.alice);
    assert!(lines.contains(&"    free;".to_owned()), "{lines:?}");
    assert!(lines.contains(&"    bitmap-state all-set;".to_owned()), "{lines:?}");
    assert_eq!(saved(&pair.alice).len(), 2);
    // A node with another id takes the slot.
    let config = fs::read_to_string(&pair.alice.config).expect("the config");
    fs::write(&pair.alice.config, config.replace("node-id 1;", "node-id 2;")).expect("written");
    pair.alice.ok(&["up", "r0"]);
    pair.bob.ok(&["down", "r0"]);
    pair.bob.ok(&["create-md", "--force", "r0"]);
    pair.bob.ok(&["up", "r0"]);
    pair.wait_connected();
    pair.alice.ok(&["primary", "r0"]);
    pair.wait_synced();
    pair.assert_equal_disks();
}

#[test]
fn a_disk_that_grew_while_it_was_away_comes_back_at_the_size_in_use() {
    let pair = Pair::in_sync();
    pair.bob.ok(&["down", "r0"]);
    let resize = |size| {
        let file = fs::OpenOptions::new().write(true).open(&pair.bob.disk).expect("the disk");
        file.set_len(size).expect("a size");
    };
    resize(96 << 20);
    let said = pair.bob.refused(10, &["create-md", "r0"]);
    assert!(said.contains("at the old end"), "{said}");
    let said = pair.bob.refused(10, &["wipe-md", "--force", "r0"]);
    assert!(said.contains("Do not run create-md"), "{said}");
    let said = pair.bob.ok(&["check-resize", "r0"]);
    assert!(said.contains("the disk has grown from"), "{said}");
    let before = pair.alice.export_size();
    pair.bob.ok(&["up", "r0"]);
    pair.wait_synced();
    assert_eq!(pair.bob.export_size(), before, "until both have grown, and a resize");
    assert!(pair.bob.log_text().contains("`resize` makes use of it"));
    assert_eq!(pair.bob.ok(&["check-resize", "r0"]), "");
    assert!(pair.bob.peer_kib("received") < 1024, "no full sync");
    assert!(saved(&pair.bob).is_empty());
}
