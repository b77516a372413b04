//! What is refused, with DRBD's exit codes, and that nothing is lost by asking.

use std::fs::{self, File};
use std::process::Command;

use nbd::client::ClientError;
use nbd::constants::NBD_REP_ERR_POLICY;

use crate::pair::{DISK_SIZE, Pair, run, text};
use crate::plan::{Plan, disk_of};

#[test]
fn orders_in_the_wrong_state_are_refused_with_drbds_exit_codes() {
    let pair = Pair::connected();
    let said = pair.bob.refused(17, &["primary", "r0"]);
    assert!(said.contains("(-2) Need access to UpToDate data"), "{said}");

    pair.alice.ok(&["primary", "--force", "r0"]);
    pair.wait_synced();
    let said = pair.bob.refused(11, &["primary", "r0"]);
    assert!(said.contains("(-1) Multiple primaries not allowed by config"), "{said}");

    let client = pair.alice.client();
    let said = pair.alice.refused(11, &["secondary", "r0"]);
    assert!(said.contains("(-12)"), "{said}");
    client.disconnect().expect("a clean end of the client");
    pair.alice.ok(&["secondary", "r0"]);
    pair.alice.ok(&["up", "r0"]);
    pair.alice.ok(&["down", "r0"]);
    pair.alice.ok(&["down", "r0"]);
}

#[test]
fn a_secondary_sends_clients_away_and_names_the_primary() {
    let pair = Pair::in_sync();
    match pair.bob.try_client() {
        Err(ClientError::Refused { kind, message, .. }) => {
            assert_eq!(kind, NBD_REP_ERR_POLICY);
            assert!(message.contains("alice"), "{message}");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("a Secondary served"),
    }
}

#[test]
fn unknown_names_usage_and_a_silent_daemon_have_their_exit_codes() {
    let mut pair = Pair::blank();
    let said = pair.alice.refused(20, &["status"]);
    assert!(said.contains("control.sock"), "{said}");
    pair.alice.start();
    pair.alice.refused(10, &["up", "r7"]);
    pair.alice.refused(1, &["up"]);
    let said = pair.alice.refused(10, &["apply-al", "r0"]);
    assert!(said.contains("is not supported"), "{said}");
    pair.alice.refused(10, &["up", "r0"]);
}

#[test]
fn a_config_with_errors_is_refused_with_the_place() {
    let mut pair = Pair::blank();
    pair.alice.start();
    let path = pair.dir.path().join("tandem.conf");
    let good = fs::read_to_string(&path).expect("the config is there");
    fs::write(&path, good.replace("protocol C", "protokol C")).expect("it is written");
    let said = pair.alice.refused(10, &["up", "r0"]);
    assert!(said.contains(&format!("{}:2:", text(&path))), "{said}");
    assert!(said.contains("protokol"), "{said}");
}

#[test]
fn create_md_does_not_overwrite_what_looks_like_data() {
    let pair = Pair::blank();
    let disk = &pair.alice.disk;
    let made = run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-F", text(disk)]));
    assert_eq!(made.code, 0, "{made:?}");
    let before = fs::read(disk).expect("the disk is there");
    let said = pair.alice.refused(10, &["create-md", "r0"]);
    assert!(said.contains("ext4"), "{said}");
    assert!(said.contains("--force"), "{said}");
    assert!(fs::read(disk).expect("the disk is there") == before, "it was touched");
    pair.alice.ok(&["create-md", "--force", "r0"]);

    // Its own metadata is something, too.
    let said = pair.alice.refused(10, &["create-md", "r0"]);
    assert!(said.to_lowercase().contains("tandem"), "{said}");
}

#[test]
fn a_disk_in_use_is_neither_formatted_nor_attached_again() {
    let mut pair = Pair::connected();
    pair.alice.refused(10, &["create-md", "--force", "r0"]);
    pair.alice.kill();
    File::options().write(true).open(&pair.alice.disk).and_then(|f| f.set_len(4096)).expect("cut");
    pair.alice.start();
    let said = pair.alice.refused(10, &["up", "r0"]);
    assert!(said.contains("alice.img"), "{said}");
    assert_eq!(pair.alice.status()["devices"][0]["disk-state"], "Diskless");
}

/// attach is answered when the peer has been asked, and not before.
#[test]
fn a_disk_that_the_verdict_refuses_is_not_attached() {
    let mut pair = Pair::blank();
    let (bob, other) = (&mut pair.bob, pair.dir.path().join("other.img"));
    bob.start();
    bob.ok(&["create-md", "r0"]);
    bob.ok(&["up", "r0"]);
    // Data that alice has never seen.
    bob.ok(&["primary", "--force", "r0"]);
    bob.terminate();
    fs::copy(&bob.disk, &other).expect("a copy");
    File::create(&bob.disk).and_then(|file| file.set_len(DISK_SIZE)).expect("blank again");

    let pair = pair.bring_up().sync_from_alice();
    pair.bob.ok(&["detach", "r0"]);
    let own = pair.dir.path().join("own.img");
    fs::copy(&pair.bob.disk, &own).expect("a copy");
    fs::copy(&other, &pair.bob.disk).expect("another disk");
    let said = pair.bob.refused(11, &["attach", "r0"]);
    assert!(said.starts_with("r0/0: State change failed: (-10) "), "{said}");
    assert!(said.contains("attach refused"), "{said}");
    assert_eq!(pair.bob.dstate(), "Diskless/UpToDate");
    assert_eq!(pair.alice.ok(&["cstate", "r0"]), "Connected\n");
    // Nothing of the wrong disk is remembered: the right one is taken back.
    fs::copy(&own, &pair.bob.disk).expect("the right disk");
    pair.bob.ok(&["attach", "r0"]);
    assert_ne!(pair.bob.status()["devices"][0]["disk-state"], "Negotiating");
    pair.wait_synced();
}

#[test]
fn an_up_that_fails_names_the_volume_it_failed_at() {
    let mut pair = Plan::new().resources(&[("r0", 2)]).blank();
    pair.alice.start();
    pair.alice.ok(&["create-md", "r0"]);
    fs::remove_file(disk_of(&pair.alice, "r0", 1)).expect("it is there");
    let said = pair.alice.refused(10, &["up", "r0"]);
    assert!(said.contains("(104) Can not open backing device."), "{said}");
    assert!(said.contains("r0/1: "), "{said}");
    let why = pair.alice.ok(&["why", "r0"]);
    assert!(why.contains("attach failed: (104)"), "{why}");
}

#[test]
fn a_state_folder_that_is_none_is_named_with_the_cure() {
    let pair = Pair::blank();
    let file = pair.dir.path().join("no-folder");
    fs::write(&file, "x").expect("it is written");
    let words = ["--state-dir", text(&file), "create-md", "--force", "r0"];
    let said = pair.alice.refused(10, &words);
    assert!(said.contains("the state folder") && said.contains("--state-dir"), "{said}");
}
