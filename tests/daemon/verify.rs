//! Online verify: a block that was falsified behind the daemon's back is found under load, and copied.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::pair::{Node, Pair};
use crate::plan::Plan;
use crate::wait::until;

/// Falsifies a block of a backing file.
fn falsify(node: &Node, block: u64) {
    let disk = std::fs::OpenOptions::new().write(true).open(&node.disk).expect("a disk");
    disk.write_all_at(&[0xa5; 100], block * 4096 + 1000).expect("100 bytes");
    disk.sync_all().expect("on the disk");
}

/// What stands under `last-verify`.
fn last(node: &Node, key: &str) -> serde_json::Value {
    node.connection()["peer_devices"][0]["last-verify"][key].clone()
}

fn wait_verified(pair: &Pair) {
    for node in [&pair.alice, &pair.bob] {
        until("the verify is over", || {
            let peer = node.connection()["peer_devices"][0].clone();
            (peer["has-online-verify-details"] == false && peer["last-verify"].is_object())
                .then_some(())
        });
    }
}

/// Ends the load.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_falsified_block_is_found_under_load_and_nothing_else_and_repair_mends_it() {
    let pair = Plan::new().filled().in_sync();
    let mut client = pair.alice.client();
    let size = pair.alice.export_size();
    // The load leaves this block alone.
    let bad = size / 4096 - 7;
    falsify(&pair.bob, bad);
    // A slow machine would take the load for a reason to go at c-min-rate.
    for node in [&pair.alice, &pair.bob] {
        node.ok(&["disk-options", "--c-min-rate=20M", "r0"]);
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also where an assertion fails.
        let _end = End(&done);
        let (done, blocks) = (&done, size / 4096 - 16);
        scope.spawn(move || {
            let mut at = 12345u64;
            while !done.load(Ordering::Relaxed) {
                at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let block = at >> 33;
                let data = vec![(block % 250) as u8 + 1; 4096 * (1 + (block % 8) as usize)];
                client.write(block % (blocks - 8) * 4096, &data, 0).expect("a write");
            }
            client.flush().expect("a flush");
        });
        for node in [&pair.alice, &pair.bob] {
            node.ok(&["verify", "r0"]);
            node.ok(&["wait-sync", "--wfc-timeout", "50", "r0"]);
        }
        wait_verified(&pair);
    });
    for node in [&pair.alice, &pair.bob] {
        assert_eq!(node.peer_kib("out-of-sync"), 4, "{}", node.log_text());
        assert_eq!((last(node, "done"), last(node, "out-of-sync")), (true.into(), 4.into()));
        assert_eq!(last(node, "position"), size / 512);
        let line = format!("Out of sync: start={}, size=8 (sectors)", bad * 8);
        let log = node.log_text();
        assert!(log.contains(&line), "{log}");
        assert_eq!(log.matches("Online verify found 1 4k block out of sync!").count(), 2, "{log}");
    }
    let verbose = pair.alice.ok(&["status", "--verbose", "r0"]);
    assert!(verbose.contains("last-verify:") && verbose.contains(" found:4"), "{verbose}");
    let before = pair.bob.peer_kib("received");
    pair.bob.ok(&["verify", "--repair", "r0"]);
    for node in [&pair.alice, &pair.bob] {
        until("the block is copied", || (node.peer_kib("out-of-sync") == 0).then_some(()));
    }
    pair.wait_synced();
    assert_eq!(pair.bob.peer_kib("received") - before, 4, "one block was copied");
    pair.assert_equal_disks();
}

#[test]
fn a_verify_is_refused_stopped_and_continued_as_with_drbd() {
    let pair = Pair::in_sync();
    falsify(&pair.bob, 3);
    falsify(&pair.alice, 3000);
    pair.bob.ok(&["verify", "--stop", "8000", "r0/0"]);
    wait_verified(&pair);
    assert_eq!(
        (last(&pair.bob, "position"), last(&pair.bob, "out-of-sync")),
        (8000.into(), 4.into())
    );
    pair.bob.ok(&["verify", "--start", "8000", "r0:alice"]);
    until("the rest was compared", || (last(&pair.bob, "start-sector") == 8000).then_some(()));
    assert_eq!(pair.alice.peer_kib("out-of-sync"), 8);

    // A slow one is stopped where it was ordered, and the connection stays.
    for node in [&pair.alice, &pair.bob] {
        node.ok(&["disk-options", "--c-max-rate=1M", "r0"]);
    }
    pair.alice.ok(&["verify", "r0"]);
    let status = pair.bob.ok(&["status", "r0"]);
    assert!(status.contains("replication:VerifyT peer-disk:UpToDate done:"), "{status}");
    let said = pair.bob.refused(11, &["verify", "r0"]);
    assert!(said.contains("(-8) Can not start OV/resync since it is already active"), "{said}");
    assert!(said.contains("stop it on alice"), "{said}");
    pair.alice.ok(&["verify", "--stop", "0", "r0"]);
    until("it was stopped", || {
        let peer = pair.alice.connection()["peer_devices"][0].clone();
        (peer["replication-state"] == "Established").then_some(())
    });

    // A connection that ends stops it as well.
    pair.alice.ok(&["verify", "r0"]);
    pair.bob.ok(&["disconnect", "r0"]);
    assert_eq!(last(&pair.alice, "done"), false);
    let said = pair.bob.refused(11, &["verify", "r0"]);
    assert!(said.contains("(-15) "), "{said}");
    pair.bob.ok(&["connect", "r0"]);
    pair.wait_synced();
    pair.assert_equal_disks();

    for node in [&pair.alice, &pair.bob] {
        node.ok(&["disk-options", "--c-max-rate=100M", "r0"]);
    }
    // With two Secondaries the good side has to be named.
    pair.alice.ok(&["secondary", "r0"]);
    falsify(&pair.alice, 77);
    pair.bob.ok(&["verify", "r0"]);
    until("it is found", || (pair.bob.peer_kib("out-of-sync") == 4).then_some(()));
    pair.bob.ok(&["wait-sync", "--wfc-timeout", "50", "r0"]);
    let said = pair.bob.refused(1, &["verify", "--repair", "r0"]);
    assert!(said.contains("--from bob or --from alice"), "{said}");
    pair.bob.ok(&["verify", "--repair", "--from", "bob", "r0"]);
    until("it is copied", || (pair.alice.peer_kib("out-of-sync") == 0).then_some(()));
    pair.wait_synced();
    pair.assert_equal_disks();
}
