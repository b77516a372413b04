//! A data thread that takes no order for a while, and clients that come back to it.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::Ordering;

use super::*;
use crate::control::DaemonOrder;

impl Daemon {
    fn finds_no_room(&self, orders: usize) {
        self.moods.full.store(orders, Ordering::SeqCst);
    }

    /// The next client that the data thread has.
    fn moved(&self) -> OwnedFd {
        loop {
            if let Seen::Client(fd, ..) = self.seen.recv_timeout(PATIENCE).unwrap() {
                return fd;
            }
        }
    }

    /// A restart that is refused: the resource does not go down.
    fn restart_in_vain(&self, client: &mut Client) -> String {
        // It can take over; executed all the same it would end the test as failed.
        let program = self.dir.path().join("tandemd");
        std::fs::write(
            &program,
            "#!/bin/sh\ncase \"$*\" in *--can-take-over*) exit 0;; esac; exit 1\n",
        )
        .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        self.moods.stays.store(true, Ordering::SeqCst);
        let order = DaemonOrder::Restart { timeout_ms: 10_000 };
        let refused = client.order(&Request::Daemon { order }).unwrap().unwrap_err();
        self.moods.stays.store(false, Ordering::SeqCst);
        refused.hint
    }
}

fn answers(moved: OwnedFd, stream: &mut UnixStream) {
    UnixStream::from(moved).write_all(b"reply").unwrap();
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"reply");
}

#[test]
fn a_thread_that_has_no_room_for_an_order_is_told_to_stop_all_the_same() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    daemon.finds_no_room(3);
    client.order(&Request::Down { resource: "r0".to_owned() }).unwrap().unwrap();
    let seen: Vec<_> = daemon.seen.try_iter().collect();
    assert!(matches!(seen.last(), Some(Seen::Stopped)));
}

#[test]
fn a_client_that_was_told_to_enter_is_handed_over_when_there_is_room() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    client.command("r0", Command::Primary { force: None }).unwrap().unwrap();
    daemon.finds_no_room(3);
    let mut stream = daemon.nbd();
    greet(&mut stream);
    assert_eq!(go(&mut stream, "r0").last().unwrap().0, 1);
    answers(daemon.moved(), &mut stream);
}

#[test]
fn after_a_restart_that_was_refused_clients_go_on_where_the_thread_had_no_room_for_them() {
    let daemon = Daemon::start();
    let mut client = daemon.up("");
    client.command("r0", Command::Primary { force: None }).unwrap().unwrap();
    let mut stream = daemon.nbd();
    greet(&mut stream);
    assert_eq!(go(&mut stream, "r0").last().unwrap().0, 1);
    drop(daemon.moved());
    daemon.finds_no_room(3);
    let hint = daemon.restart_in_vain(&mut client);
    assert!(hint.contains("as the test wishes"), "{hint}");
    answers(daemon.moved(), &mut stream);
}

#[test]
fn after_a_restart_that_was_refused_a_node_that_a_client_has_promoted_serves_it_again() {
    let daemon = Daemon::start();
    let mut client = daemon.up("auto-promote yes;");
    let mut stream = daemon.nbd();
    greet(&mut stream);
    assert_eq!(go(&mut stream, "r0").last().unwrap().0, 1);
    drop(daemon.moved());
    let hint = daemon.restart_in_vain(&mut client);
    assert!(hint.contains("as the test wishes"), "{hint}");
    answers(daemon.moved(), &mut stream);
    let status = report(&mut client).status;
    assert!(status.role == Role::Primary && status.auto_promoted, "{status:?}");
}
