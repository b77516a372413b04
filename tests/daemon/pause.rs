//! What is held back by order: a resync that is paused, clients' I/O that is frozen.

use serde_json::Value;

use crate::ledger::{Burst, Ledger};
use crate::pair::{Node, Pair};
use crate::plan::Plan;
use crate::wait::until;

fn peer(node: &Node, key: &str) -> String {
    node.connection()["peer_devices"][0][key].as_str().expect("a word").to_owned()
}

fn wait_replication(node: &Node, state: &str) {
    until(&format!("{} is {state}", node.name), || {
        (peer(node, "replication-state") == state).then_some(())
    });
}

#[test]
fn a_paused_resync_stands_still_beside_writes_and_goes_on_when_it_is_resumed() {
    let pair = Pair::in_sync();
    pair.alice.ok(&["disconnect", "r0"]);
    let mut ledger = Ledger::seeded(31);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(2000)));
    pair.alice.ok(&["pause-sync", "r0:bob/0"]);
    let before = pair.bob.peer_kib("received");
    let said = pair.alice.refused(10, &["pause-sync", "r0"]);
    assert!(said.contains("Failure: (134) Sync-pause flag is already set"), "{said}");
    pair.alice.ok(&["connect", "r0"]);
    pair.wait_connected();
    wait_replication(&pair.alice, "PausedSyncS");
    wait_replication(&pair.bob, "PausedSyncT");
    assert_eq!(peer(&pair.alice, "resync-suspended"), "user");
    assert_eq!(peer(&pair.bob, "resync-suspended"), "peer");
    assert_eq!(pair.bob.dstate(), "Inconsistent/UpToDate");
    assert_eq!(pair.bob.peer_kib("received"), before, "nothing was copied");
    let status = pair.alice.ok(&["status", "r0"]);
    let line = status.lines().find(|line| line.contains("replication:PausedSyncS"));
    assert!(line.is_some() && status.contains(" resync-suspended:user"), "{status}");
    let why = pair.bob.ok(&["why", "r0"]);
    assert!(why.contains("paused (peer)"), "{why}");
    let said = pair.bob.refused(10, &["resume-sync", "r0"]);
    assert!(said.contains("(157)"), "{said}");
    // Clients go on, their writes reach both disks.
    assert!(ledger.write(&mut client, &Burst::Count(500)));
    client.flush().expect("a flush of both");
    ledger.check(&mut client);
    pair.bob.refused(11, &["primary", "r0"]);
    // The pause outlives the connection.
    pair.alice.ok(&["disconnect", "r0"]);
    pair.alice.ok(&["connect", "r0"]);
    pair.wait_connected();
    wait_replication(&pair.bob, "PausedSyncT");
    pair.alice.ok(&["resume-sync", "r0"]);
    pair.wait_synced();
    assert_eq!(peer(&pair.alice, "resync-suspended"), "no");
    let said = pair.alice.refused(10, &["resume-sync", "r0"]);
    assert!(said.contains("Failure: (135)"), "{said}");
    ledger.check(&mut client);
    pair.assert_equal_disks();
}

#[test]
fn frozen_clients_only_wait_through_a_loss_of_the_peer_and_all_are_answered() {
    let mut pair = Pair::in_sync();
    let mut client = pair.alice.client();
    client.write(0, &[1; 4096], 0).expect("a write");
    pair.alice.ok(&["suspend-io", "r0"]);
    let status = pair.alice.ok(&["status", "r0"]);
    assert!(status.starts_with("r0 role:Primary suspended:user\n"), "{status}");
    assert!(status.contains("disk:UpToDate open:yes blocked:upper"), "{status}");
    let waits = std::thread::spawn(move || {
        client.write(4096, &[2; 4096], 0).expect("a write that waited");
        client.flush().expect("a flush");
        client.read(0, 8192).expect("a read")
    });
    let pending = |node: &Node| node.status()["devices"][0]["upper-pending"].as_u64();
    until("the write is held", || (pending(&pair.alice) == Some(1)).then_some(()));
    pair.bob.kill();
    pair.alice.wait_connection("Connecting", "refused");
    assert_eq!(pending(&pair.alice), Some(1), "held, not failed");
    let said = pair.alice.refused(11, &["secondary", "r0"]);
    assert!(said.contains("(-12)"), "{said}");
    let why = pair.alice.ok(&["why", "r0"]);
    assert!(why.contains("tandemadm resume-io r0"), "{why}");
    let check = pair.alice.adm(&["check", "r0"]);
    assert_eq!(check.code, 2, "{check:?}");
    pair.alice.ok(&["resume-io", "r0"]);
    let read = waits.join().expect("the client ends well");
    assert!(read[..4096] == [1; 4096] && read[4096..] == [2; 4096]);
    pair.bob.start_up();
    pair.wait_synced();
    pair.assert_equal_disks();
}

/// The peer's volume 0 of a resource, as `status --json` tells it.
fn peer_device(node: &Node, resource: &str) -> Value {
    let text = node.ok(&["status", "--json", resource]);
    let mut all: Value = serde_json::from_str(&text).expect("JSON");
    all[0]["connections"][0]["peer_devices"][0].take()
}

fn wait_held(node: &Node, resource: &str, state: &str, held: &str) {
    until(&format!("{resource} is {state} with {held} on {}", node.name), || {
        let peer = peer_device(node, resource);
        (peer["replication-state"] == state && peer["resync-suspended"] == held).then_some(())
    });
}

/// Both resources differ between the nodes, and connect with their resyncs held back by bob.
fn two_to_sync(pair: &Pair) {
    for resource in ["r0", "r1"] {
        pair.alice.ok(&["disconnect", resource]);
        let mut client = pair.alice.client_of(resource);
        client.write(0, &[7; 1 << 20], 0).expect("a write");
        client.flush().expect("a flush");
        pair.bob.ok(&["pause-sync", resource]);
        pair.alice.ok(&["connect", resource]);
        wait_held(&pair.alice, resource, "PausedSyncS", "peer");
    }
}

#[test]
fn a_resync_goes_after_that_of_another_resource_as_long_as_it_is_told_to() {
    let pair = Plan::new().resources(&[("r0", 1), ("r1", 1)]).in_sync();
    pair.alice.ok(&["disk-options", "--resync-after=r1/0", "r0"]);
    let said = pair.alice.refused(10, &["disk-options", "--resync-after=r0", "r1"]);
    assert!(said.contains("(133)") && said.contains("r1/0 after r0/0 after r1/0"), "{said}");
    let said = pair.alice.refused(10, &["disk-options", "--resync-after=r7/0", "r1"]);
    assert!(said.contains("(132)"), "{said}");
    assert!(pair.alice.ok(&["status", "r0"]).contains("config:differs"));
    two_to_sync(&pair);
    pair.bob.ok(&["resume-sync", "r0"]);
    wait_held(&pair.alice, "r0", "PausedSyncS", "dependency");
    wait_held(&pair.bob, "r0", "PausedSyncT", "peer");
    // The other one goes first; then this one by itself.
    pair.bob.ok(&["resume-sync", "r1"]);
    pair.wait_synced();
    wait_held(&pair.alice, "r0", "Established", "no");
    // Told to wait no more, it goes on beside the other.
    two_to_sync(&pair);
    pair.bob.ok(&["resume-sync", "r0"]);
    wait_held(&pair.alice, "r0", "PausedSyncS", "dependency");
    pair.alice.ok(&["adjust", "r0"]);
    wait_held(&pair.alice, "r0", "Established", "no");
    wait_held(&pair.alice, "r1", "PausedSyncS", "peer");
    pair.bob.ok(&["resume-sync", "r1"]);
    pair.wait_synced();
}

#[test]
fn no_more_resyncs_run_at_once_than_the_daemon_was_told() {
    let mut pair = Plan::new().resources(&[("r0", 1), ("r1", 1), ("r2", 1)]).filled().blank();
    pair.alice.arguments = vec!["--max-parallel-resyncs".to_owned(), "1".to_owned()];
    let slow = "disk { resync-rate 2M; c-max-rate 2M; c-min-rate 0; }";
    let text = std::fs::read_to_string(&pair.alice.config).expect("a config");
    let text = text.replacen("resource r0 {", &format!("resource r0 {{\n    {slow}"), 1);
    std::fs::write(&pair.alice.config, text).expect("a config");
    let pair = pair.bring_up();
    pair.alice.ok(&["primary", "--force", "all"]);
    // The initial sync of r0 takes half a minute.
    for resource in ["r1", "r2"] {
        wait_held(&pair.alice, resource, "PausedSyncS", "dependency");
        wait_held(&pair.bob, resource, "PausedSyncT", "peer");
    }
    wait_held(&pair.alice, "r0", "SyncSource", "no");
    for node in [&pair.alice, &pair.bob] {
        node.ok(&["disk-options", "--c-max-rate=0", "r0"]);
    }
    pair.wait_synced();
}
