//! Ends and new starts, clean and not, without a promotion of the other.

use std::fs;

use crate::ledger::{Burst, Ledger, under_load};
use crate::pair::{Node, Pair};
use crate::plan::Plan;
use crate::wait::until;

#[test]
fn a_killed_primary_that_comes_back_resyncs_no_more_than_its_activity_log() {
    let mut pair = Pair::in_sync();
    let client = pair.alice.client();
    let mut ledger = under_load(Ledger::within(3, 5), client, 1500, || pair.alice.kill());
    pair.alice.start_up();
    pair.wait_connected();
    pair.wait_synced();
    assert_eq!(pair.alice.connection()["reason"], "none");
    pair.alice.ok(&["primary", "r0"]);
    ledger.check(&mut pair.alice.client());
    pair.assert_equal_disks();
}

#[test]
fn both_killed_and_started_again_are_one_pair_and_nothing_is_lost() {
    let mut pair = Pair::in_sync();
    let client = pair.alice.client();
    let mut ledger = under_load(Ledger::within(3, 6), client, 1500, || {
        pair.alice.kill();
        pair.bob.kill();
    });
    pair.start_again();
    pair.alice.ok(&["primary", "r0"]);
    let mut client = pair.alice.client();
    ledger.check(&mut client);
    assert!(ledger.write(&mut client, &Burst::Count(200)));
    client.flush().expect("a flush");
    pair.assert_equal_disks();
}

#[test]
fn a_clean_end_of_both_needs_no_resync() {
    let mut pair = Pair::in_sync();
    let mut ledger = Ledger::seeded(7);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(1000)));
    client.disconnect().expect("a clean end of the client");
    assert!(pair.bob.terminate().success());
    assert!(pair.alice.terminate().success());

    for node in [&mut pair.alice, &mut pair.bob] {
        node.start_up();
    }
    pair.wait_connected();
    pair.wait_synced();
    for node in [&pair.alice, &pair.bob] {
        assert_eq!(node.peer_kib("received"), 0, "{}: nothing differed", node.name);
    }
    pair.alice.ok(&["primary", "r0"]);
    ledger.check(&mut pair.alice.client());
}

#[test]
fn sigterm_under_load_ends_clean_and_the_rest_is_a_quick_resync() {
    let mut pair = Pair::in_sync();
    let before = pair.bob.peer_kib("received");
    let client = pair.alice.client();
    let mut ledger = under_load(Ledger::seeded(8), client, 1000, || {
        assert!(pair.alice.terminate().success());
    });
    pair.alice.start_up();
    pair.wait_connected();
    pair.wait_synced();
    let (own, other) = (pair.alice.peer_kib("received"), pair.bob.peer_kib("received") - before);
    assert_eq!(own, 0, "the end was in order: nothing differs");
    assert!(other < 16 << 10, "bob received {other} KiB: more than was written");
    pair.alice.ok(&["primary", "r0"]);
    ledger.check(&mut pair.alice.client());
    pair.assert_equal_disks();
}

/// Bytes that a node received so far in this life of its resource, KiB; waits for more of them.
fn wait_received(node: &Node, kib: u64) -> u64 {
    until(&format!("{} has received {kib} KiB", node.name), || {
        let received = node.peer_kib("received");
        (received >= kib).then_some(received)
    })
}

#[test]
fn sigterm_in_the_middle_of_a_resync_ends_clean_and_it_goes_on_where_it_was() {
    let slow = "disk { resync-rate 6M; c-max-rate 6M; c-min-rate 6M; }";
    let mut pair = Plan::new().sections(slow).filled().connected();
    pair.alice.ok(&["primary", "--force", "r0"]);
    let mut moved = 0;
    for round in 0..4 {
        let was = wait_received(&pair.bob, 6 << 10);
        assert_eq!(pair.bob.status()["devices"][0]["disk-state"], "Inconsistent");
        if round % 2 == 0 {
            moved += was;
            assert!(pair.bob.terminate().success(), "the target ends in order");
            pair.bob.start_up();
        } else {
            assert!(pair.alice.terminate().success(), "the source ends in order");
            pair.bob.refused(17, &["primary", "r0"]);
            moved += pair.bob.peer_kib("received");
            // Its counters begin again with `up`.
            pair.bob.ok(&["down", "r0"]);
            pair.bob.ok(&["up", "r0"]);
            pair.alice.start_up();
        }
        pair.wait_connected();
    }
    pair.alice.ok(&["primary", "r0"]);
    pair.wait_synced();
    moved += pair.bob.peer_kib("received");
    let whole = pair.bob.export_size() / 1024;
    // Every end was in order: what had been copied was flushed, and the source told.
    assert!(moved <= whole + 1024, "{moved} KiB moved in all, {whole} KiB there are");
    pair.assert_equal_disks();
}

#[test]
fn sigterm_at_any_moment_of_a_handshake_ends_clean() {
    let mut pair = Pair::in_sync();
    let mut ledger = Ledger::seeded(42);
    assert!(ledger.write(&mut pair.alice.client(), &Burst::Count(500)));
    for _ in 0..6 {
        assert!(pair.bob.terminate().success());
        pair.bob.start_up();
        // It dials now.
        assert!(pair.bob.terminate().success());
        pair.bob.start_up();
        until("a handshake begins", || {
            (pair.bob.connection()["connection-state"] != "Unconnected").then_some(())
        });
    }
    pair.wait_connected();
    pair.wait_synced();
    assert_eq!(pair.bob.peer_kib("received"), 0, "nothing differed");
    ledger.check(&mut pair.alice.client());
    pair.assert_equal_disks();
}

/// docs/OPERATIONS, "Restore a backup".
#[test]
fn a_disk_that_was_set_back_on_purpose_is_the_source_after_create_md_on_the_other() {
    let pair = Pair::in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    let old = pair.dir.path().join("old.img");
    let both = |verb: &str| {
        alice.ok(&[verb, "r0"]);
        bob.ok(&[verb, "r0"]);
    };
    let write = |byte: u8| {
        let mut client = alice.client();
        client.write(0, &[byte; 4096], 0).expect("a write");
        client.flush().expect("a flush");
        client.disconnect().expect("a clean end of the client");
        alice.ok(&["secondary", "r0"]);
        both("down");
    };
    write(1);
    fs::copy(&alice.disk, &old).expect("an image");
    both("up");
    pair.wait_connected();
    alice.ok(&["primary", "r0"]);
    write(2);
    fs::copy(&old, &alice.disk).expect("set back");
    both("up");
    alice.wait_connection("StandAlone", "rolled-back");
    bob.wait_connection("StandAlone", "rolled-back");
    // It has been told that it is old.
    assert_eq!(alice.ok(&["dstate", "r0"]).trim(), "Outdated/DUnknown");
    alice.refused(17, &["primary", "r0"]);
    alice.ok(&["primary", "--force=outdated", "r0"]);
    alice.ok(&["secondary", "r0"]);

    bob.ok(&["down", "r0"]);
    bob.ok(&["create-md", "--force", "r0"]);
    bob.ok(&["up", "r0"]);
    both("connect");
    pair.wait_synced();
    pair.assert_equal_disks();
    assert_eq!(alice.read_disk(4096), [1; 4096]);
}

#[test]
fn a_daemon_that_crashed_brings_up_what_was_up_as_secondary_and_an_ordered_end_does_not() {
    let mut pair = Pair::in_sync();
    pair.alice.kill();
    pair.alice.start();
    pair.wait_connected();
    pair.wait_synced();
    assert_eq!(pair.alice.ok(&["role", "r0"]).trim(), "Secondary");
    // Already up, as configured.
    pair.alice.ok(&["up", "r0"]);

    assert!(pair.alice.terminate().success());
    pair.alice.start();
    assert_eq!(pair.alice.ok(&["status"]).trim(), "# No currently configured DRBD found.");

    // What was taken down stays down, also over a crash; so does what cannot be read.
    pair.alice.ok(&["up", "r0"]);
    let kept = pair.alice.run_dir.join("up/r0.json");
    let text = fs::read_to_string(&kept).expect("it is up");
    pair.alice.ok(&["down", "r0"]);
    assert!(!kept.exists());
    pair.alice.kill();
    let other = text.replacen("\"boot_id\":[", "\"boot_id\":[256,", 1);
    fs::write(&kept, other).expect("the run folder");
    pair.alice.start();
    assert!(!pair.alice.ok(&["status"]).contains("r0"));
    assert!(!kept.exists(), "what cannot be read is removed");
}

#[test]
fn a_disk_that_holds_up_an_attach_does_not_hold_up_the_end() {
    let mut pair = Pair::in_sync();
    pair.alice.kill();
    // The attach after the crash waits 5 s for whoever has the disk.
    let file = fs::File::open(&pair.alice.disk).expect("a disk");
    let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive);
    let lock = lock.expect("free");
    pair.alice.start();
    assert!(pair.alice.terminate().success());
    assert!(pair.alice.log_text().contains("ended without it"), "{}", pair.alice.log_text());
    drop(lock);
    pair.alice.start();
    pair.alice.ok(&["up", "r0"]);
    pair.wait_synced();
}

#[test]
fn adjust_beside_a_daemon_that_brings_up_what_was_up_is_no_failure() {
    let mut pair = Pair::in_sync();
    pair.alice.kill();
    // So the attach after the crash is not done at once, and adjust finds no disk.
    let file = fs::File::open(&pair.alice.disk).expect("a disk");
    let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive);
    let lock = lock.expect("free");
    pair.alice.start();
    std::thread::scope(|scope| {
        let adjust = scope.spawn(|| pair.alice.adm(&["adjust", "r0"]));
        until("adjust has found no disk", || {
            let status = pair.alice.adm(&["status", "r0"]).stdout;
            status.contains("disk:Diskless").then_some(())
        });
        drop(lock);
        let done = adjust.join().expect("it ends");
        assert_eq!(done.code, 0, "{}", done.stderr);
    });
    pair.wait_synced();
}

#[test]
fn a_peer_that_was_disconnected_by_order_stays_so_over_crashes_until_connect() {
    let mut pair = Pair::in_sync();
    pair.bob.ok(&["disconnect", "r0"]);
    let disk = pair.bob.read_disk(4096);
    let mut client = pair.alice.client();
    client.write(0, &[7; 4096], 0).expect("alice goes on alone");
    for _ in 0..2 {
        pair.bob.kill();
        pair.bob.start();
        until("it is up and not dialled", || {
            let said = pair.bob.adm(&["status", "r0"]).stdout;
            said.contains("connection:StandAlone reason:stopped-by-admin").then_some(())
        });
    }
    assert_eq!(pair.bob.read_disk(4096), disk, "the copy that was kept apart");
    pair.bob.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.bob.kill();
    pair.bob.start();
    pair.wait_connected();
    pair.wait_synced();
    assert_eq!(pair.bob.read_disk(4096), [7; 4096]);
}
