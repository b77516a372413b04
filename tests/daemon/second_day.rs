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

#[test]
fn who_is_standalone_is_not_waited_for_unless_that_is_said() {
    let pair = Plan::new().in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    bob.ok(&["disconnect", "r0"]);
    for verb in ["wait-connect", "wait-sync"] {
        let said = bob.refused(5, &[verb, "r0"]);
        assert!(said.contains("alice is StandAlone (stopped-by-admin)"), "{said}");
        let said = bob.refused(5, &[verb, "--wfc-timeout", "1", "--wait-after-sb", "r0"]);
        assert!(said.contains("timed out"), "{said}");
        // alice goes on dialling, alone by now; her peer has left her in order.
        alice.refused(5, &[verb, "--wfc-timeout", "1", "r0"]);
    }
    bob.ok(&["connect", "r0"]);
    pair.wait_synced();
}

#[test]
fn peer_device_options_without_an_option_change_nothing() {
    let pair = Plan::new().in_sync();
    let alice = &pair.alice;
    alice.ok(&["disk-options", "--al-extents=333", "r0"]);
    let before = alice.ok(&["-d", "adjust", "r0"]);
    let said = alice.refused(1, &["peer-device-options", "r0"]);
    assert!(said.contains("c-max-rate"), "{said}");
    assert_eq!(alice.ok(&["-d", "adjust", "r0"]), before);
    alice.ok(&["peer-device-options", "--c-max-rate=50M", "r0"]);
    assert!(alice.ok(&["-d", "adjust", "r0"]).contains("--c-max-rate"));
}

#[test]
fn a_disconnect_for_a_while_comes_back_by_itself() {
    let pair = Plan::new().in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    bob.ok(&["disconnect", "--for", "3s", "r0"]);
    let status = bob.ok(&["status", "r0"]);
    assert!(status.contains("reason:stopped-by-admin back-in:"), "{status}");
    alice.client().write(0, &[7; 4096], 0).expect("a write alone");
    until("bob is back", || (bob.connection()["connection-state"] == "Connected").then_some(()));
    assert!(bob.connection()["back-in"].is_null());
    pair.wait_synced();
    alice.client().flush().expect("a flush of both");
    pair.assert_equal_disks();
}

#[test]
fn clients_are_given_time_to_leave_before_a_demotion() {
    let pair = Plan::new().in_sync();
    let alice = &pair.alice;
    let mut client = alice.client();
    let said = alice.refused(11, &["secondary", "--wait", "1", "r0"]);
    assert!(said.contains("(-12)"), "{said}");
    std::thread::scope(|scope| {
        let demotion = scope.spawn(|| alice.adm(&["secondary", "--wait", "50", "r0"]));
        until("new clients are refused", || alice.try_client().is_err().then_some(()));
        client.write(0, &[8; 4096], 0).expect("the old one is served");
        client.disconnect().expect("a goodbye");
        let said = demotion.join().expect("it ends");
        assert_eq!(said.code, 0, "{said:?}");
    });
    // The answer, and then what everybody sees.
    assert_eq!(alice.ok(&["role", "r0"]).trim(), "Secondary");
}
