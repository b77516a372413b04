//! What is said on a socket that has no session yet, or not the one of this moment, and how long a session has to open.

use super::pair::{Pair, synced_pair};
use crate::resource::peer::connection::Stage;
use crate::resource::*;
use crate::wire::{Features, Packet, Refused, VERSIONS};

fn state(pair: &Pair, n: usize) -> ConnectionState {
    pair.status(n).connections[0].connection_state
}

/// What bob says first to alice, whom he has dialled.
pub(super) fn hello(primary: bool) -> Packet {
    Packet::Features(Features {
        version_min: *VERSIONS.start(),
        version_max: *VERSIONS.end(),
        features: 0,
        node_id: 1,
        peer_node_id: 0,
        resource: "r0".into(),
        dialled: true,
        primary,
        system: [0; 16],
    })
}

/// Bob at his address, who has proved who he is and has said no handshake.
fn greeted(pair: &mut Pair, socket: SocketId) {
    pair.event(0, Event::Accepted { peer: 1, socket });
    pair.event(0, Event::Packet { socket, packet: hello(false), payload: None });
    pair.event(0, Event::Authenticated { socket });
    pair.settle();
}

fn says(pair: &mut Pair, n: usize, socket: SocketId, packet: Packet) {
    pair.event(n, Event::Packet { socket, packet, payload: None });
    pair.settle();
}

/// Alice as Primary, alone.
fn alone() -> Pair {
    let mut pair = synced_pair();
    pair.kill(1);
    pair.run(30_000);
    pair
}

#[test]
fn before_a_handshake_nobody_changes_what_is_known_of_a_disk() {
    let socket = SocketId(3001);
    for packet in [
        Packet::Number { volume: 0, number: 1 << 40 },
        Packet::NewUuid { volume: 0, uuid: 0x1234_5678_0000_0002 },
        Packet::NegAck { volume: 0, sequence: 1 },
    ] {
        let mut pair = alone();
        // A Secondary says its handshake at once.
        pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
        greeted(&mut pair, socket);
        pair.event(0, Event::Timeout);
        pair.settle();
        assert_eq!(pair.core(0).connections[0].stage, Stage::Handshake, "{}", pair.story());
        assert_eq!(pair.core(0).connections[0].active, Some(socket));
        let disk = |pair: &Pair| (pair.nodes[0].disk.seen, pair.nodes[0].disk.superblock.clone());
        let before = disk(&pair);
        says(&mut pair, 0, socket, packet);
        assert_eq!(disk(&pair), before);
        assert!(pair.core(0).connections[0].active.is_none(), "it is hung up on");
        pair.up(1);
        pair.synced();
    }
}

#[test]
fn a_refusal_is_believed_from_who_has_said_what_he_goes_by() {
    let mut pair = alone();
    let socket = SocketId(3001);
    greeted(&mut pair, socket);
    let refused = Refused {
        reason: Reason::SplitBrain,
        rule: "bitmap-both".to_owned(),
        text: "No policy chooses the victim.".to_owned(),
    };
    says(&mut pair, 0, socket, Packet::Refused(Box::new(refused)));
    assert_eq!(state(&pair, 0), ConnectionState::Connecting);
    pair.up(1);
    pair.synced();
}

/// Alice, Primary, has been frozen; nobody has been asked yet.
#[test]
fn what_was_begun_before_a_freeze_is_no_attempt_that_has_failed() {
    let mut pair = synced_pair();
    let socket = SocketId(3001);
    pair.event(0, Event::Accepted { peer: 1, socket });
    pair.now = pair.now.after_ms(60_000);
    pair.event(0, Event::ClockGap { gap_ms: 60_000 });
    assert!(pair.core(0).export(0).is_err(), "the peer is asked first");
    assert!(!pair.core(0).connections[0].sockets.contains_key(&socket));
    pair.synced();
    assert!(pair.core(0).export(0).is_ok());
}

/// Its own, too: that the peer was silent while nothing ran here says nothing.
#[test]
fn what_was_dialled_before_a_freeze_is_no_attempt_that_has_failed() {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.nodes[1].mute = true;
    pair.link = true;
    let dialled = |pair: &Pair| {
        let mut sockets = pair.core(0).connections[0].sockets.values();
        sockets.any(|socket| socket.dialled && socket.connected)
    };
    while !dialled(&pair) {
        pair.run(100);
    }
    pair.now = pair.now.after_ms(60_000);
    pair.event(0, Event::ClockGap { gap_ms: 60_000 });
    assert!(pair.core(0).export(0).is_err(), "the peer is asked first");
    assert!(!dialled(&pair), "{}", pair.story());
}

#[test]
fn who_dials_and_says_nothing_has_not_answered_after_a_freeze() {
    let mut pair = synced_pair();
    // Bob's disk has not ended what it does: he says no handshake.
    pair.nodes[1].stall = |action| matches!(action, Action::DiskWrite { .. });
    pair.start_write(0, 9, 9);
    pair.event(0, Event::ClockGap { gap_ms: 2_000 });
    pair.run(1_000);
    assert!(pair.core(0).connections[0].active.is_some());
    let socket = SocketId(3001);
    pair.event(0, Event::Accepted { peer: 1, socket });
    pair.run(8_000);
    assert!(!pair.core(0).connections[0].sockets.contains_key(&socket), "it was given up");
    assert!(pair.core(0).export(0).is_err(), "bob is still asked");
    pair.nodes[1].unstall();
    pair.synced();
}

/// A session is about to open, with alice as the source: what bob sends from now on is in the air.
fn opening() -> Pair {
    let mut pair = synced_pair();
    for node in &mut pair.nodes {
        let options = &mut node.core.as_mut().unwrap().config.options;
        (options.ping_int_ms, options.connect_int_ms) = (1_000_000, 100_000);
    }
    pair.lose_link();
    for block in [3, 7_000, 14_000] {
        assert_eq!(pair.write(0, block, 99), Ok(None));
    }
    pair.nodes[0].mute = true;
    pair.nodes[1].mute = true;
    pair.link = true;
    for n in [0, 1].into_iter().cycle().take(2_000) {
        if pair.core(0).connections[0].stage == Stage::Opening {
            break;
        }
        pair.run(5);
        // What one has sent the other one gets.
        while let Some(event) = pair.nodes[n].air.pop_front() {
            pair.event(1 - n, event);
        }
    }
    assert_eq!(pair.core(0).connections[0].stage, Stage::Opening);
    pair.settle();
    pair
}

fn drops(pair: &mut Pair, n: usize, packet: Packet) {
    let socket = pair.core(n).connections[0].active.expect("a session is being opened");
    says(pair, n, socket, packet);
    assert_ne!(pair.core(n).connections[0].active, Some(socket), "{}", pair.story());
}

#[test]
fn a_bitmap_that_came_in_other_numbers_or_twice_opens_no_session() {
    let end = |bits| Packet::BitmapEnd { volume: 0, bits };
    let words = |first_block| Packet::Bitmap { volume: 0, first_block, words: vec![1] };
    for (before, last) in [
        (vec![words(64)], end(2)),
        (vec![words(128)], words(64)),
        (vec![words(64)], words(64)),
        (vec![end(0)], words(64)),
    ] {
        let mut pair = opening();
        let socket = pair.core(0).connections[0].active.expect("a session is being opened");
        for packet in before {
            says(&mut pair, 0, socket, packet);
            assert_eq!(pair.core(0).connections[0].active, Some(socket), "{}", pair.story());
        }
        drops(&mut pair, 0, last);
    }
}

#[test]
fn a_volume_opens_once() {
    let mut pair = opening();
    let core = pair.nodes[0].core.as_mut().unwrap();
    core.peer_device(0, 0).opening.peer_open = true;
    drops(&mut pair, 0, Packet::Opened { volume: 0 });
}

/// On a slow link a large bitmap takes longer than any answer may: each packet of it has that time.
#[test]
fn a_session_has_as_long_to_open_as_the_peer_takes_packets_of_the_bitmap() {
    let mut pair = opening();
    // Bob says nothing by himself.
    pair.nodes[1].core = None;
    let patience = pair.core(0).patience_ms();
    let socket = pair.core(0).connections[0].active;
    let sent = pair.core(0).connections[0].bitmap_packets;
    assert!(sent > 0);
    for _ in 0..sent {
        pair.run(patience - 1_000);
        says(&mut pair, 0, socket.unwrap(), Packet::PingAck);
    }
    pair.run(patience - 1_000);
    assert_eq!(pair.core(0).connections[0].active, socket, "{}", pair.story());
    // It has taken all of them: what it does now has an end.
    says(&mut pair, 0, socket.unwrap(), Packet::PingAck);
    pair.run(2_000);
    assert_ne!(pair.core(0).connections[0].active, socket, "{}", pair.story());
}

#[test]
fn who_takes_a_bitmap_shows_that_it_lives() {
    let mut pair = opening();
    let bits = |event: &Event| {
        matches!(
            event,
            Event::Packet { packet: Packet::Bitmap { .. } | Packet::BitmapEnd { .. }, .. }
        )
    };
    let air = std::mem::take(&mut pair.nodes[0].air);
    let air: Vec<_> = air.into_iter().collect();
    assert!(air.iter().any(bits));
    for event in air {
        pair.event(1, event);
        pair.settle();
    }
    let answers = |event: &&Event| matches!(event, Event::Packet { packet: Packet::PingAck, .. });
    let sent = pair.core(0).connections[0].bitmap_packets;
    assert_eq!(pair.nodes[1].air.iter().filter(answers).count(), sent);
}
