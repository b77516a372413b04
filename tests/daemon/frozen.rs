//! A node that stands still and wakes up again.

use crate::ledger::{Burst, Ledger};
use crate::pair::Pair;

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
