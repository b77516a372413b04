//! Devices (`device-attach auto`) whose flush does not end, as I/O is frozen.

use super::*;
use crate::io::control::fake::Flushing;

fn demotions() -> [Request; 2] {
    let (resource, wait_ms) = ("r0".to_owned(), 0);
    let secondary = Command::Secondary { force: false, wait_ms };
    [Request::Order { resource: resource.clone(), command: secondary }, Request::Down { resource }]
}

/// Both volumes' devices are there, and the node is Primary.
fn stays_primary(daemon: &Daemon, client: &mut Client) {
    let mut there = devices(daemon);
    there.sort();
    assert_eq!(there, [("r0/0".to_owned(), 0, true), ("r0/1".to_owned(), 1, true)]);
    assert_eq!(report(client).status.role, Role::Primary);
}

#[test]
fn a_demotion_while_io_is_frozen_is_refused_at_once_where_a_device_had_to_be_flushed() {
    let (daemon, mut client) = primary_with_devices();
    client.command("r0", Command::SuspendIo { suspend: true }).unwrap().unwrap();
    // Who tried would wait for ever.
    let (_never, ends) = mpsc::channel();
    let (told, tried) = mpsc::channel();
    *daemon.devices.flushing.lock().unwrap() = Some(Flushing { ends, told });
    for order in demotions() {
        let refused = client.order(&order).unwrap().unwrap_err();
        assert_eq!(refused.code, -23, "{refused:?}");
        for said in ["r0/0: ", "frozen by order", "resume-io", "secondary --force r0"] {
            assert!(refused.hint.contains(said), "{said}: {refused:?}");
        }
        stays_primary(&daemon, &mut client);
    }
    assert!(daemon.devices.flushing.lock().unwrap().is_some(), "it was tried");
    drop(tried);
    let force = Command::Secondary { force: true, wait_ms: 0 };
    *daemon.devices.flushing.lock().unwrap() = None;
    client.command("r0", force).unwrap().unwrap();
    assert_eq!(devices(&daemon), []);
}

#[test]
fn a_demotion_whose_flush_does_not_end_in_time_comes_to_nothing_also_when_it_ends_later() {
    let (daemon, mut client) = primary_with_devices();
    for order in demotions() {
        let (goes_on, ends) = mpsc::channel();
        let (told, outcome) = mpsc::channel();
        *daemon.devices.flushing.lock().unwrap() = Some(Flushing { ends, told });
        let refused = client.order(&order).unwrap().unwrap_err();
        assert_eq!(refused.code, -23, "{refused:?}");
        assert!(refused.hint.contains("is not flushed in"), "{refused:?}");
        stays_primary(&daemon, &mut client);
        goes_on.send(()).unwrap();
        let late = outcome.recv_timeout(PATIENCE).unwrap().unwrap_err();
        assert!(late.contains("given up"), "{late}");
        stays_primary(&daemon, &mut client);
    }
    // The next one has all its time.
    client.order(&demotions()[0]).unwrap().unwrap();
    assert_eq!(devices(&daemon), []);
}
