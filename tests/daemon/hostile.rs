//! Garbage on every socket, while replication goes on.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::ledger::{Ledger, under_load};
use crate::pair::{Node, Pair};

/// Bytes without meaning, the same in each run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// Sends bytes to the peer port and takes whatever comes; the server may close at any point.
fn disturb_peer_port(node: &Node, bytes: &[u8]) {
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", node.port)) else { return };
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.read(&mut [0; 256]);
}

/// Sends bytes to a Unix socket of the daemon.
fn disturb_unix_socket(node: &Node, socket: &str, bytes: &[u8]) {
    let mut socket = UnixStream::connect(node.run_dir.join(socket)).expect("it listens");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    socket.set_write_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.read(&mut [0; 256]);
}

fn disturb(node: &Node) {
    // Half-open: connected and silent to the end of the test's part.
    let silent: Vec<TcpStream> =
        (0..8).filter_map(|_| TcpStream::connect(("127.0.0.1", node.port)).ok()).collect();
    for round in 0..60 {
        disturb_peer_port(node, &noise(round, 1 + 97 * round as usize));
    }
    for round in 0..10 {
        disturb_unix_socket(node, "control.sock", &noise(round, 300));
        disturb_unix_socket(node, "nbd.sock", &noise(round, 300));
    }
    disturb_unix_socket(node, "control.sock", b"{\"verb\":\"down\"\n");
    disturb_unix_socket(node, "control.sock", "[".repeat(200_000).as_bytes());
    disturb_unix_socket(node, "control.sock", &b"x".repeat(3 << 20));
    drop(silent);
}

#[test]
fn garbage_on_every_socket_does_not_disturb_replication() {
    let pair = Pair::in_sync();
    let client = pair.alice.client();
    let mut ledger = under_load(Ledger::seeded(11), client, 200, || {
        disturb(&pair.alice);
        disturb(&pair.bob);
        for node in [&pair.alice, &pair.bob] {
            assert_eq!(node.connection()["connection-state"], "Connected");
            let losses = node.log_text().matches("conn( Connected -> ").count();
            assert_eq!(losses, 0, "{} lost its peer", node.name);
        }
        // Ends the load: the client's connection is closed.
        pair.alice.ok(&["secondary", "--force", "r0"]);
    });
    pair.alice.ok(&["primary", "r0"]);
    let mut client = pair.alice.client();
    ledger.check(&mut client);
    client.flush().expect("a flush");
    pair.wait_synced();
    pair.assert_equal_disks();
}

#[test]
fn thousands_of_garbage_connections_leave_the_established_one_alone() {
    let mut pair = Pair::blank();
    let nbd_port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|free| free.local_addr())
        .expect("a free port");
    pair.alice.arguments = vec!["--nbd-listen".to_owned(), nbd_port.to_string()];
    let pair = pair.bring_up().sync_from_alice();
    let mut client = pair.alice.client();
    let knock = |address: std::net::SocketAddr, round: u64| {
        let Ok(mut socket) = TcpStream::connect(address) else { return };
        let _ = socket.write_all(&noise(round, 1 + 40 * (round as usize % 8)));
        let _ = socket.shutdown(Shutdown::Both);
    };
    for round in 0..3000 {
        for port in [pair.alice.port, pair.bob.port] {
            knock((std::net::Ipv4Addr::LOCALHOST, port).into(), round);
        }
        knock(nbd_port, round);
        if round % 10 == 0 {
            disturb_unix_socket(&pair.alice, "control.sock", &noise(round, 50));
            disturb_unix_socket(&pair.alice, "nbd.sock", &noise(round, 50));
            client.write(round * 4096, &[round as u8; 4096], 0).expect("replication goes on");
        }
    }
    client.flush().expect("a flush of both");
    for node in [&pair.alice, &pair.bob] {
        assert_eq!(node.connection()["connection-state"], "Connected");
        let log = node.log_text();
        assert_eq!(log.matches("conn( Connected -> ").count(), 0, "{} lost its peer", node.name);
        assert!(log.lines().count() < 2000, "the log is limited: {} lines", log.lines().count());
        assert!(log.contains("127.0.0.1:"), "the sender is named");
    }
    pair.assert_equal_disks();
}
