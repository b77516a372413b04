//! Ends and new starts, clean and not, without a promotion of the other.

use crate::ledger::{Burst, Ledger, under_load};
use crate::pair::Pair;

#[test]
fn a_killed_primary_that_comes_back_resyncs_no_more_than_its_activity_log() {
    let mut pair = Pair::in_sync();
    let client = pair.alice.client();
    let mut ledger = under_load(Ledger::within(3, 5), client, 1500, || pair.alice.kill());
    pair.alice.start();
    pair.alice.ok(&["up", "r0"]);
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
    for node in [&mut pair.bob, &mut pair.alice] {
        node.start();
        node.ok(&["up", "r0"]);
    }
    pair.wait_connected();
    pair.wait_synced();
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
        node.start();
        node.ok(&["up", "r0"]);
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
    pair.alice.start();
    pair.alice.ok(&["up", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    let (own, other) = (pair.alice.peer_kib("received"), pair.bob.peer_kib("received") - before);
    assert_eq!(own, 0, "the end was in order: nothing differs");
    assert!(other < 16 << 10, "bob received {other} KiB: more than was written");
    pair.alice.ok(&["primary", "r0"]);
    ledger.check(&mut pair.alice.client());
    pair.assert_equal_disks();
}
