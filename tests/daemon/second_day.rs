//! What an administrator orders on the second day: promotion by clients, waits, leaves for a while.

use crate::plan::Plan;
use crate::wait::until;

#[test]
fn a_node_that_a_client_promoted_is_demoted_when_the_last_client_has_closed() {
    let pair = Plan::new().sections("options { auto-promote yes; }").in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    let role = |role: &str| {
        until(&format!("alice is {role}"), || {
            (alice.ok(&["role", "r0"]).trim() == role).then_some(())
        });
    };
    // Promoted by order: it stays.
    let mut client = alice.client();
    client.write(0, &[1; 4096], 0).expect("a write");
    client.disconnect().expect("a goodbye");
    until("alice sees nobody", || alice.ok(&["status", "r0"]).contains("open:no").then_some(()));
    role("Primary");
    alice.ok(&["secondary", "r0"]);

    // Promoted by a client: it leaves with the last one, however that goes.
    for goodbye in [true, false] {
        let first = alice.client();
        let mut second = alice.client();
        role("Primary");
        first.disconnect().expect("a goodbye");
        second.write(4096, &[2; 4096], 0).expect("a write");
        if goodbye {
            second.disconnect().expect("a goodbye");
        } else {
            drop(second);
        }
        role("Secondary");
    }
    assert!(alice.log_text().contains("the last client has gone (auto-promote)"));

    // The other node is free at once, and a client that comes again and again is always served.
    bob.client().disconnect().expect("a goodbye");
    until("bob is Secondary", || (bob.ok(&["role", "r0"]).trim() == "Secondary").then_some(()));
    for round in 0..20u8 {
        let mut client = alice.client();
        client.write(u64::from(round) * 4096, &[round; 4096], 0).expect("a write");
        client.disconnect().expect("a goodbye");
    }
    role("Secondary");
    pair.wait_synced();
    pair.assert_equal_disks();
}
