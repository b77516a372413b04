//! Initial sync and quick resync.

use std::os::unix::fs::FileExt;

use crate::ledger::{Burst, Ledger};
use crate::pair::Pair;

#[test]
fn a_fresh_pair_is_synced_after_a_forced_promotion_and_replicates() {
    let pair = Pair::connected();
    assert_eq!(pair.alice.dstate(), "Inconsistent/Inconsistent");
    pair.alice.ok(&["primary", "--force", "r0"]);
    let mut ledger = Ledger::seeded(1);
    // Writes go on while the initial sync runs.
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(500)));
    pair.wait_synced();
    assert!(ledger.write(&mut client, &Burst::Count(2000)));
    client.flush().expect("a flush");
    ledger.check(&mut client);
    pair.assert_equal_disks();
    for node in [&pair.alice, &pair.bob] {
        assert_eq!(node.peer_kib("out-of-sync"), 0);
    }
}

#[test]
fn what_is_nothing_but_zeroes_is_a_hole_on_the_target_and_sends_no_payload() {
    let pair = Pair::connected();
    // The source has data in three of its 64 MiB; the target has old bytes where it has none.
    let write = |path: &std::path::Path, bytes: &[u8], at: u64| {
        let disk = std::fs::OpenOptions::new().write(true).open(path).expect("a disk");
        disk.write_all_at(bytes, at).expect("bytes");
        disk.sync_all().expect("a sync");
    };
    let mib = vec![7; 1 << 20];
    for at in [0, 9, 40] {
        write(&pair.alice.disk, &mib, at << 20);
    }
    write(&pair.bob.disk, &mib, 20 << 20);
    pair.alice.ok(&["primary", "--force", "r0"]);
    pair.wait_synced();
    pair.assert_equal_disks();
    let blocks = |path: &std::path::Path| {
        std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).expect("a disk")) / 2
    };
    let (source, target) = (blocks(&pair.alice.disk), blocks(&pair.bob.disk));
    assert!(target <= source + 64, "{target} KiB are allocated for {source} KiB");
    let received = pair.bob.peer_kib("received");
    assert_eq!(received, 3 << 10, "KiB of payload");
}

#[test]
fn writes_alone_are_counted_and_a_quick_resync_moves_little_more() {
    let pair = Pair::in_sync();
    pair.alice.ok(&["disconnect", "r0"]);
    pair.alice.wait_connection("StandAlone", "stopped-by-admin");
    assert_eq!(pair.bob.dstate(), "Outdated/DUnknown", "it left a Primary, and knows");

    let mut ledger = Ledger::seeded(2);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(4000)));
    client.flush().expect("a flush");
    let written = ledger.blocks() * 4;
    let out_of_sync = pair.alice.peer_kib("out-of-sync");
    assert!(out_of_sync >= written, "{written} KiB were written, {out_of_sync} are counted");
    let limit = written * 105 / 100 + 64;
    assert!(out_of_sync <= limit, "{written} KiB were written, {out_of_sync} are counted");

    let before = pair.bob.peer_kib("received");
    pair.alice.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    let moved = pair.bob.peer_kib("received") - before;
    assert!(moved >= written, "{moved} KiB moved, {written} KiB differed");
    assert!(moved <= 2 * out_of_sync, "{moved} KiB moved for {out_of_sync} KiB");
    ledger.check(&mut client);
    pair.assert_equal_disks();
}

#[test]
fn fresh_disks_with_the_same_bytes_skip_the_initial_sync_and_others_do_not() {
    let pair = Pair::connected();
    let size = pair.alice.export_size();
    pair.alice.ok(&["new-current-uuid", "--clear-bitmap", "r0"]);
    pair.wait_synced();
    assert_eq!(pair.bob.peer_kib("received"), 0, "nothing was copied");
    pair.alice.ok(&["primary", "r0"]);
    let mut client = pair.alice.client();
    let mut ledger = Ledger::seeded(77);
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    client.flush().expect("a flush of both");
    pair.assert_equal_disks();
    pair.alice.refused(10, &["new-current-uuid", "--clear-bitmap", "r0"]);

    let other = Pair::connected();
    let disk = std::fs::OpenOptions::new().write(true).open(&other.bob.disk).expect("a disk");
    disk.write_all_at(&[1], size - 5000).expect("one byte in the last MiB");
    let text = other.alice.refused(10, &["new-current-uuid", "--clear-bitmap", "r0"]);
    assert!(text.contains("differ at byte"), "{text}");
    assert_eq!(other.alice.dstate(), "Inconsistent/Inconsistent");
}

#[test]
fn in_sync_is_not_said_of_a_disk_that_is_away_or_old() {
    let pair = Pair::in_sync();
    pair.bob.ok(&["detach", "r0"]);
    for (node, what) in [
        (&pair.bob, "the disk of volume 0 is Diskless"),
        (&pair.alice, "bob's disk of volume 0 is Diskless"),
    ] {
        node.ok(&["wait-connect", "--wfc-timeout", "5", "r0"]);
        let said = node.refused(5, &["wait-sync", "--wfc-timeout", "1", "r0"]);
        assert!(said.contains(what), "{said}");
    }
    pair.bob.ok(&["disconnect", "r0"]);
    pair.bob.ok(&["attach", "r0"]);
    assert_eq!(pair.bob.dstate(), "Outdated/DUnknown");
    let said = pair.bob.refused(5, &["wait-sync", "--wfc-timeout", "1", "r0"]);
    assert!(said.contains("alice is StandAlone (stopped-by-admin)"), "{said}");
    let why = pair.bob.ok(&["why", "r0"]);
    assert!(!why.contains("may be promoted"), "{why}");
    pair.bob.ok(&["connect", "r0"]);
    pair.alice.ok(&["connect", "r0"]);
    pair.wait_synced();
}
