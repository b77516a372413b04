//! Initial sync and quick resync.

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
