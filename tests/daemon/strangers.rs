//! Peers and clients that speak the protocol and are wrong, rude, or gone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nbd::Command;
use tandem::wire::{FEATURE_INQUIRY, Features, Packet, VERSIONS, encode_header};

use crate::ledger::{Burst, Ledger};
use crate::pair::{Node, Pair};
use crate::wait::until;

/// What bob says first when he dials alice.
fn features() -> Features {
    Features {
        version_min: *VERSIONS.start(),
        version_max: *VERSIONS.end(),
        features: 0,
        node_id: 1,
        peer_node_id: 0,
        resource: "r0".to_owned(),
        dialled: true,
        primary: false,
        system: [0; 16],
    }
}

/// Says this on the peer port; whether the connection was closed then.
fn is_sent_away(node: &Node, features: Features) -> bool {
    let mut bytes = Vec::new();
    encode_header(&Packet::Features(features), &mut bytes);
    ends(node, &bytes)
}

fn ends(node: &Node, bytes: &[u8]) -> bool {
    let mut socket = TcpStream::connect(("127.0.0.1", node.port)).expect("it listens");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    socket.write_all(bytes).expect("it is sent");
    let mut said = [0; 4096];
    loop {
        match socket.read(&mut said) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn a_stranger_that_speaks_the_peer_protocol_is_sent_away() {
    let pair = Pair::in_sync();
    let mut ledger = Ledger::seeded(50);
    let mut client = pair.alice.client();
    let right = features();
    let strangers = [
        ("version", Features { version_min: 200, version_max: 201, ..right.clone() }),
        ("resource", Features { resource: "r9".to_owned(), ..right.clone() }),
        ("node id", Features { node_id: 7, ..right.clone() }),
        ("addressee", Features { peer_node_id: 9, ..right.clone() }),
        ("a second connection", right),
    ];
    for (what, features) in strangers {
        assert!(is_sent_away(&pair.alice, features), "{what}");
        assert_eq!(pair.alice.connection()["connection-state"], "Connected", "{what}");
        assert!(ledger.write(&mut client, &Burst::Count(50)), "{what}");
    }
    client.flush().expect("a flush of both");
    for node in [&pair.alice, &pair.bob] {
        let losses = node.log_text().matches("conn( Connected -> ").count();
        assert_eq!(losses, 0, "{} lost its peer", node.name);
    }
    assert!(pair.alice.log_text().contains("127.0.0.1"), "the sender is named");
    ledger.check(&mut client);
    pair.assert_equal_disks();
}

#[test]
fn who_only_asks_is_given_no_buffer() {
    let pair = Pair::connected();
    let mut bytes = Vec::new();
    let asks = Features { features: FEATURE_INQUIRY, ..features() };
    encode_header(&Packet::Features(asks), &mut bytes);
    let data = Packet::ResyncData { volume: 0, sequence: 1, length: 4096 };
    encode_header(&data, &mut bytes);
    bytes.extend([7; 4096]);
    assert!(ends(&pair.alice, &bytes));
    until("it is told", || {
        pair.alice.log_text().contains("a packet that an inquiry does not have").then_some(())
    });
    assert_eq!(pair.alice.connection()["connection-state"], "Connected");
}

#[test]
fn clients_that_vanish_or_never_read_leave_the_others_alone() {
    let pair = Pair::in_sync();
    let mut ledger = Ledger::within(4, 51);
    let mut client = pair.alice.client();
    let piece = vec![0xC5; 64 << 10];
    let far = 32 << 20;
    for _ in 0..4 {
        // 128 writes under way, and gone.
        let mut rude = pair.alice.client();
        for number in 0..128 {
            let offset = far + number % 32 * (64 << 10);
            let sent = rude.send_request(Command::Write, 0, offset, 64 << 10, &piece);
            if sent.is_err() {
                break;
            }
        }
        drop(rude);
        assert!(ledger.write(&mut client, &Burst::Count(100)));
    }
    // Asks for 64 MiB and reads nothing of it.
    let mut deaf = pair.alice.client();
    for number in 0..64 {
        let sent = deaf.send_request(Command::Read, 0, (number % 16) << 20, 1 << 20, &[]);
        if sent.is_err() {
            break;
        }
    }
    assert!(ledger.write(&mut client, &Burst::Count(500)), "beside one that does not read");
    client.flush().expect("a flush of both");
    ledger.check(&mut client);
    drop(deaf);
    pair.wait_synced();
    client.flush().expect("a flush of both");
    pair.assert_equal_disks();
}
