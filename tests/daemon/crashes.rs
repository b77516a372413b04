//! kill -9 in the middle of a resync, of either side, again and again; and of both under load.

use std::fs::{self, File};

use nbd::Errno;
use nbd::client::Client;

use crate::ledger::{Burst, Ledger, under_load};
use crate::load::Load;
use crate::namespace::{Namespace, skip};
use crate::pair::{Node, Pair};
use crate::plan::Plan;
use crate::wait::until;

const SLOW: &str = "disk { resync-rate 6M; c-max-rate 6M; c-min-rate 6M; }";

fn own_disk(node: &Node) -> String {
    node.status()["devices"][0]["disk-state"].as_str().expect("a word").to_owned()
}

/// KiB that the connection still has to copy.
fn out_of_sync(node: &Node) -> u64 {
    node.peer_kib("out-of-sync")
}

#[test]
fn kill_9_of_source_and_target_in_the_middle_of_a_resync_and_it_goes_on_where_it_was() {
    let mut pair = Plan::new().sections(SLOW).filled().connected();
    pair.alice.ok(&["primary", "--force", "r0"]);
    let whole = pair.bob.export_size() / 1024;
    let mut ledger = Ledger::within(2, 70);
    assert!(ledger.write(&mut pair.alice.client(), &Burst::Count(200)));
    let mut left = whole;
    for round in 0..4 {
        // Copied, flushed there, and told: about once a second.
        until("it goes on", || (out_of_sync(&pair.bob) + (4 << 10) <= left).then_some(()));
        assert_eq!(own_disk(&pair.bob), "Inconsistent");
        let before = out_of_sync(&pair.bob);
        // Writes while it copies, up to the blow.
        if round % 2 == 0 {
            let load = Load::start(pair.alice.client(), ledger);
            load.progress(64);
            pair.bob.kill();
            load.progress(64);
            (ledger, _) = load.stop();
            pair.bob.start();
        } else {
            let client = pair.alice.client();
            ledger = under_load(ledger, client, 64, || pair.alice.kill());
            until("bob sees it", || {
                (pair.bob.connection()["connection-state"] != "Connected").then_some(())
            });
            pair.bob.refused(17, &["primary", "r0"]);
            // Its counters begin again with `up`.
            pair.bob.ok(&["down", "r0"]);
            pair.alice.start_up();
        }
        pair.bob.ok(&["up", "r0"]);
        pair.wait_connected();
        pair.alice.ok(&["primary", "r0"]);
        assert_eq!(pair.alice.connection()["reason"], "none", "no split brain");
        // Never from the beginning: what was copied is behind it, but for the activity log and
        // what was copied since the bits were saved, a second ago, of what was flushed a second
        // before.
        let now = out_of_sync(&pair.bob);
        let bound = before + 2 * 4096 + 2 * 6144;
        assert!(now <= bound, "round {round}: {now} KiB to copy, {before} before the blow");
        left = now;
    }
    let load = Load::start(pair.alice.client(), ledger);
    load.progress(64);
    let (mut ledger, mut client) = load.stop();
    pair.alice.ok(&["disconnect", "r0"]);
    for node in [&pair.alice, &pair.bob] {
        std::fs::write(&node.config, fast(&node.config)).expect("the config is written");
        node.ok(&["adjust", "r0"]);
    }
    pair.alice.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    client.flush().expect("a flush of both");
    ledger.check(&mut client);
    pair.assert_equal_disks();
}

/// The config without the slow resync.
fn fast(config: &std::path::Path) -> String {
    std::fs::read_to_string(config).expect("it is there").replace(SLOW, "")
}

/// alice's disk goes away under its clients, and comes back as the target.
fn primary_as_target(pair: &Pair, ledger: &mut Ledger, piece: &[u8]) -> Client {
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(300)));
    pair.alice.ok(&["detach", "r0"]);
    assert!(ledger.write(&mut client, &Burst::Count(300)));
    for number in 16..56 {
        client.write(number << 20, piece, 0).expect("through the peer");
    }
    pair.alice.ok(&["attach", "r0"]);
    until("alice is the target", || (own_disk(&pair.alice) == "Inconsistent").then_some(()));
    assert_eq!(pair.alice.ok(&["role", "r0"]).trim(), "Primary");
    client
}

#[test]
fn a_primary_that_is_the_target_reads_the_newest_data_and_goes_on_after_a_lost_connection() {
    const TEST: &str = "a_primary_that_is_the_target";
    let namespace = match Namespace::new() {
        Ok(namespace) => namespace,
        Err(why) => return skip(TEST, &why),
    };
    let places = [(&namespace, "127.0.0.1"), (&namespace, "127.0.0.1")];
    let plan = Plan::new().within(places).impatient().sections(SLOW).filled();
    let pair = plan.connected().sync_skipped();
    let mut ledger = Ledger::within(3, 71);
    let piece = vec![0x77; 1 << 20];
    let mut client = primary_as_target(&pair, &mut ledger, &piece);
    // What is not copied yet is read from the peer; writes go on.
    ledger.check(&mut client);
    assert!(client.read(50 << 20, 1 << 20).expect("a read") == piece);
    let extents = client.block_status(50 << 20, 1 << 20, 0).expect("a status");
    assert!(extents.iter().all(|extent| extent.flags == 0), "the peer has data: {extents:?}");
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    assert_eq!(own_disk(&pair.alice), "Inconsistent", "all that was during the resync");

    // The link falls, and comes back.
    namespace.nft("add table inet cut");
    namespace.nft("add chain inet cut input { type filter hook input priority 0 ; policy drop ; }");
    let lost = |node: &Node| node.connection()["connection-state"] == "Connecting";
    until("alice misses it", || lost(&pair.alice).then_some(()));
    // Without the only good copy: an error, never old data.
    let error = client.read(55 << 20, 1 << 20).expect_err("no good copy");
    assert_eq!(error.errno(), Some(Errno::EIO), "{error}");
    let error = client.write(60 << 20, &[1; 4096], 0).expect_err("no good copy");
    assert_eq!(error.errno(), Some(Errno::EIO), "{error}");
    namespace.nft("delete table inet cut");
    pair.wait_connected();
    assert_eq!(own_disk(&pair.alice), "Inconsistent", "it goes on as the target");
    ledger.check(&mut client);
    assert!(client.read(55 << 20, 1 << 20).expect("a read") == piece);
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    pair.wait_synced();
    ledger.check(&mut client);
    client.flush().expect("a flush of both");
    pair.assert_equal_disks();
}

/// The system has what the dead process had taken: the clients stay, and find it.
#[test]
fn a_primary_that_is_the_target_goes_on_when_the_process_of_its_source_comes_back() {
    let mut pair = Plan::new().sections(SLOW).filled().connected().sync_skipped();
    let mut ledger = Ledger::within(3, 74);
    let piece = vec![0x79; 1 << 20];
    let mut client = primary_as_target(&pair, &mut ledger, &piece);
    pair.bob.kill();
    let error = client.read(55 << 20, 1 << 20).expect_err("no good copy");
    assert_eq!(error.errno(), Some(Errno::EIO), "{error}");
    pair.bob.start_up();
    pair.wait_connected();
    assert_eq!(own_disk(&pair.alice), "Inconsistent", "it goes on as the target");
    ledger.check(&mut client);
    assert!(client.read(55 << 20, 1 << 20).expect("a read") == piece);
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    pair.wait_synced();
    ledger.check(&mut client);
    client.flush().expect("a flush of both");
    pair.assert_equal_disks();
}

/// What a source that starts anew has lost nobody knows, unless its system vouches for it: clients are not led to
/// believe otherwise.
#[test]
fn a_primary_that_is_the_target_is_not_resynced_under_its_clients_by_a_source_that_crashed() {
    let mut pair = Plan::new().sections(SLOW).filled().connected().sync_skipped();
    let mut ledger = Ledger::within(3, 73);
    let mut client = primary_as_target(&pair, &mut ledger, &[0x78; 1 << 20]);
    pair.bob.kill();
    let error = client.read(55 << 20, 1 << 20).expect_err("no good copy");
    assert_eq!(error.errno(), Some(Errno::EIO), "{error}");
    // As after a loss of power.
    fs::remove_dir_all(pair.bob.run_dir.join("trusted")).expect("it is trusted");
    pair.bob.start_up();
    for node in [&pair.alice, &pair.bob] {
        node.wait_connection("StandAlone", "resync-refused");
    }
    assert!(pair.alice.ok(&["why", "r0"]).contains("demote"));
    // As it says: stop its users, demote it, connect.
    client.disconnect().expect("a goodbye");
    pair.alice.ok(&["secondary", "r0"]);
    pair.alice.ok(&["connect", "r0"]);
    pair.bob.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.bob.ok(&["primary", "r0"]);
    let mut client = pair.bob.client();
    ledger.check(&mut client);
    assert!(client.read(55 << 20, 1 << 20).expect("a read") == [0x78; 1 << 20]);
}

/// Fewer extents than the disk has: what a crash leaves to copy is bounded by the activity log.
#[test]
fn both_killed_under_writes_everywhere_copy_no_more_than_the_activity_log_holds() {
    const EXTENTS: u64 = 67;
    const EXTENT_KIB: u64 = 4096;
    let dir = tempfile::tempdir().expect("a folder");
    let files = ["alice.img", "bob.img"].map(|name| dir.path().join(name));
    for file in &files {
        File::create(file).and_then(|file| file.set_len(600 << 20)).expect("a sparse file");
    }
    let sections = format!("disk {{ al-extents {EXTENTS}; }}");
    let plan = Plan::new().disks(&files[0], &files[1]).sections(&sections);
    let mut pair = plan.connected().sync_skipped();
    let extents = pair.alice.export_size() / 1024 / EXTENT_KIB;
    assert!(extents > 2 * EXTENTS, "{extents} extents");
    let client = pair.alice.client();
    let mut ledger = under_load(Ledger::seeded(72), client, 1200, || {
        pair.alice.kill();
        pair.bob.kill();
    });
    pair.start_again();
    for node in [&pair.alice, &pair.bob] {
        let moved = node.peer_kib("received");
        assert!(moved <= EXTENTS * EXTENT_KIB, "{}: {moved} KiB moved", node.name);
        assert_eq!(node.connection()["reason"], "none", "no split brain");
    }
    // What the log covered was compared, and only what was under way is copied.
    let logs = [&pair.alice, &pair.bob].map(Node::log_text).join("\n");
    let equal =
        |line: &str| line.split(" KiB equal").next()?.rsplit(' ').next()?.parse::<u64>().ok();
    let equal = logs.lines().rfind(|line| line.contains("Resync done")).and_then(equal);
    assert!(equal.is_some_and(|kib| kib > EXTENT_KIB), "{logs}");
    let moved: u64 = [&pair.alice, &pair.bob].map(|node| node.peer_kib("received")).iter().sum();
    assert!(moved < 65_536, "{moved} KiB moved");
    pair.alice.ok(&["primary", "r0"]);
    let mut client = pair.alice.client();
    ledger.check(&mut client);
    client.flush().expect("a flush of both");
    let size = pair.alice.export_size();
    crate::pair::assert_equal(&pair.alice.disk, &pair.bob.disk, size);
}
