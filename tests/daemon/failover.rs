//! kill -9 of the Primary under load, and the other goes on.

use crate::ledger::{Burst, Ledger, under_load};
use crate::pair::{Node, Pair};
use crate::wait::until;

/// The extents that are written to, 4 MiB each: what a resync after a crash may move.
const EXTENTS: u64 = 3;

/// kill -9 of `primary` under load, promotion of `other`, and the old one back as target.
fn round(ledger: Ledger, primary: &mut Node, other: &Node) -> Ledger {
    let client = primary.client();
    let mut ledger = under_load(ledger, client, 1500, || primary.kill());

    until("the loss is seen", || {
        (other.connection()["connection-state"] == "Connecting").then_some(())
    });
    other.ok(&["primary", "r0"]);
    let mut client = other.client();
    ledger.check(&mut client);
    assert!(ledger.write(&mut client, &Burst::Count(300)), "the other serves alone");

    primary.start_up();
    for node in [&*primary, other] {
        node.ok(&["wait-connect", "--wfc-timeout", "60", "r0"]);
        node.ok(&["wait-sync", "--wfc-timeout", "120", "r0"]);
        until("both disks are UpToDate", || (node.dstate() == "UpToDate/UpToDate").then_some(()));
    }
    let moved = primary.peer_kib("received");
    assert!(moved <= EXTENTS * 4096, "{moved} KiB: more than the activity log had");
    assert!(ledger.write(&mut client, &Burst::Count(300)), "the other serves both disks");
    client.flush().expect("a flush");
    ledger
}

#[test]
fn every_acknowledged_write_survives_the_death_of_the_primary_round_after_round() {
    let mut pair = Pair::in_sync();
    let mut ledger = Ledger::within(EXTENTS, 3);
    for _ in 0..3 {
        ledger = round(ledger, &mut pair.alice, &pair.bob);
        pair.assert_equal_disks();
        ledger = round(ledger, &mut pair.bob, &pair.alice);
        pair.assert_equal_disks();
    }
    ledger.check(&mut pair.alice.client());
}

#[test]
fn the_death_of_the_secondary_is_not_seen_by_the_client() {
    let mut pair = Pair::in_sync();
    let mut ledger = Ledger::seeded(4);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(500)));
    pair.bob.kill();
    assert!(ledger.write(&mut client, &Burst::Count(1000)), "no error reaches the client");
    client.flush().expect("a flush alone");
    pair.bob.start_up();
    pair.wait_connected();
    assert!(ledger.write(&mut client, &Burst::Count(500)));
    pair.wait_synced();
    client.flush().expect("a flush of both");
    ledger.check(&mut client);
    pair.assert_equal_disks();
}
