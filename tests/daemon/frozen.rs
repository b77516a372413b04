//! A node that stands still and wakes up again.

use std::time::{Duration, Instant};

use nbd::constants::NBD_CMD_FLAG_FUA;

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

/// It sleeps for longer than a freeze that counts: what the whole process has slept through is not taken for that.
#[test]
fn a_frozen_primary_without_a_client_is_told_of_it_before_its_first() {
    let pair = Pair::in_sync();
    let mut ledger = Ledger::seeded(16);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(20)));
    drop(client);
    until("nobody uses it", || {
        let open = pair.alice.status()["devices"][0]["open"].as_bool();
        (open == Some(false)).then_some(())
    });
    pair.alice.freeze();
    let begun = Instant::now();
    until("twice ping-timeout is over", || {
        (begun.elapsed() > Duration::from_secs(1)).then_some(())
    });
    pair.alice.wake();
    until("alice knows", || {
        pair.alice.log_text().contains("this process did not run").then_some(())
    });
    pair.wait_connected();
    ledger.check(&mut pair.alice.client());
}

/// The last row of the table of what the kernel's driver does with a server that was stopped and goes on: with FUA,
/// so that nothing of it is left to a cache.
#[test]
#[ignore = "it takes minutes; tools/nightly runs it"]
fn fifty_frozen_primaries_write_nothing_late() {
    const CLIENTS: u64 = 4;
    let pair = Pair::in_sync_and_impatient();
    let (mut old, mut new) = (&pair.alice, &pair.bob);
    for round in 1..=50_u8 {
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| old.client()).collect();
        for (at, client) in (0..).zip(&mut clients) {
            client.write(at * 4096, &[3 * round; 4096], NBD_CMD_FLAG_FUA).expect("both have it");
        }
        old.freeze();
        let late: Vec<_> = (0..)
            .zip(clients)
            .map(|(at, mut client)| {
                let data = [3 * round + 1; 4096];
                std::thread::spawn(move || client.write(at * 4096, &data, NBD_CMD_FLAG_FUA))
            })
            .collect();
        until("it is given up", || {
            (new.connection()["connection-state"] != "Connected").then_some(())
        });
        new.ok(&["primary", "r0"]);
        let mut served = new.client();
        for at in 0..CLIENTS {
            let held = served.read(at * 4096, 4096).expect("what was acknowledged");
            assert_eq!(held, vec![3 * round; 4096], "round {round}");
            served.write(at * 4096, &[3 * round + 2; 4096], NBD_CMD_FLAG_FUA).expect("alone");
        }
        old.wake();
        for one in late {
            assert!(one.join().expect("it ends").is_err(), "round {round}: acknowledged late");
        }
        old.ok(&["secondary", "--force", "r0"]);
        old.ok(&["connect", "r0"]);
        new.ok(&["connect", "r0"]);
        pair.wait_connected();
        pair.wait_synced();
        for at in 0..CLIENTS {
            let held = served.read(at * 4096, 4096).expect("what was written last");
            assert_eq!(held, vec![3 * round + 2; 4096], "round {round}: a late write has landed");
        }
        served.disconnect().expect("a goodbye");
        (old, new) = (new, old);
    }
    pair.assert_equal_disks();
}
