//! A node that stands still and wakes up again.

use crate::ledger::{Burst, Ledger};
use crate::pair::Pair;
use crate::wait::until;

#[test]
fn a_frozen_secondary_is_given_up_and_comes_back_by_a_quick_resync() {
    let pair = Pair::in_sync_and_impatient();
    let mut ledger = Ledger::seeded(12);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(200)));
    pair.bob.freeze();
    assert!(ledger.write(&mut client, &Burst::Count(1000)), "no error reaches the client");
    client.flush().expect("a flush alone");
    assert_ne!(pair.alice.connection()["connection-state"], "Connected");
    pair.bob.wake();
    pair.wait_connected();
    pair.wait_synced();
    ledger.check(&mut client);
    client.flush().expect("a flush of both");
    pair.assert_equal_disks();
}

#[test]
fn a_frozen_primary_that_wakes_up_writes_nothing_over_its_successor() {
    let pair = Pair::in_sync_and_impatient();
    let mut ledger = Ledger::within(1, 13);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(500)));
    client.flush().expect("a flush");

    pair.alice.freeze();
    // These wait in alice's sockets, and must never land.
    let mut late = Ledger::within(1, 14);
    let stale = std::thread::spawn(move || {
        let whole = late.write(&mut client, &Burst::Count(8));
        (whole, late)
    });
    until("bob has given up alice", || {
        (pair.bob.connection()["connection-state"] != "Connected").then_some(())
    });
    pair.bob.ok(&["primary", "r0"]);
    let mut served = pair.bob.client();
    ledger.check(&mut served);
    assert!(ledger.write(&mut served, &Burst::Count(1000)));
    served.flush().expect("a flush alone");

    pair.alice.wake();
    let (whole, late) = stale.join().expect("the late client ends");
    assert!(!whole, "the late client is closed");
    assert_eq!(late.blocks(), 0, "no late write was acknowledged");
    assert!(pair.alice.try_client().is_err(), "alice does not serve beside bob");

    // alice is Primary and would have to be overwritten: a person demotes it.
    pair.alice.ok(&["secondary", "--force", "r0"]);
    pair.alice.ok(&["connect", "r0"]);
    pair.bob.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    ledger.check(&mut served);
    served.flush().expect("a flush of both");
    pair.assert_equal_disks();
}
