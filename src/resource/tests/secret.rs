//! Stories of the shared secret: who is let in, and what a wrong one may do.

use super::pair::{Pair, synced_pair};
use crate::resource::*;
use crate::secret::SecretError;

fn state(pair: &Pair, n: usize) -> (ConnectionState, Reason) {
    let connection = &pair.status(n).connections[0];
    (connection.connection_state, connection.reason)
}

#[test]
fn another_secret_ends_stand_alone_where_it_was_dialled_with() {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.nodes[0].secrets = vec![1];
    let losses = |pair: &Pair| pair.nodes[0].log.join("\n").matches("conn( Connected -> ").count();
    let before = losses(&pair);
    pair.link = true;
    pair.run(60_000);
    let states = [state(&pair, 0), state(&pair, 1)];
    assert!(states.iter().all(|(_, reason)| *reason == Reason::BadSecret), "{states:?}");
    let alone = states.iter().filter(|(state, _)| *state == ConnectionState::StandAlone).count();
    assert!(alone >= 1, "{states:?}");
    for n in 0..2 {
        let detail = &pair.status(n).connections[0].detail;
        assert!(detail.contains("alice") && detail.contains("bob"), "{detail}");
    }
    assert_eq!(losses(&pair), before);
    // The same again, and `connect`.
    pair.nodes[0].secrets = vec![1, 0];
    pair.connect_both();
    pair.synced();
}

#[test]
fn a_changed_secret_leaves_the_session_alone_and_a_stranger_cannot_end_it() {
    let mut pair = synced_pair();
    let lines = pair.nodes[1].log.len();
    pair.nodes[0].secrets = vec![1];
    for number in 0..20 {
        let socket = SocketId(2001 + 2 * number);
        pair.event(1, Event::Accepted { peer: 0, socket });
        let error = SocketError::Secret(SecretError::Wrong);
        pair.event(1, Event::SocketLost { socket, error });
        pair.run(100);
    }
    assert_eq!(state(&pair, 1), (ConnectionState::Connected, Reason::None));
    let said = pair.nodes[1].log[lines..].join("\n");
    assert_eq!(said.matches("bad-secret").count(), 1, "one line in ten seconds: {said}");
    assert_eq!(pair.write(0, 7, 1), Ok(None));
    assert_eq!(pair.nodes[1].disk.blocks.get(&7), Some(&1));
}

/// What comes before the proof is not listened to, and a proof before Features lets nobody in.
#[test]
fn nobody_is_listened_to_before_the_proof() {
    let mut pair = synced_pair();
    pair.kill(1);
    pair.run(30_000);
    let socket = SocketId(3001);
    pair.event(0, Event::Accepted { peer: 1, socket });
    pair.event(0, Event::Authenticated { socket });
    let leave = crate::wire::Packet::Leave { kind: 0 };
    pair.event(0, Event::Packet { socket, packet: leave, payload: None });
    pair.settle();
    assert_eq!(state(&pair, 0).0, ConnectionState::Connecting);
    assert!(pair.core(0).connections[0].active.is_none());
    assert!(pair.nodes[0].log.join("\n").contains("before it has said who it is"));
}

#[test]
fn who_has_no_secret_is_named() {
    for (error, text) in [
        (SecretError::NoneHere, "alice has a shared-secret for r0, bob has none"),
        (SecretError::NoneThere, "bob has a shared-secret for r0, alice has none"),
    ] {
        let mut pair = synced_pair();
        pair.kill(0);
        pair.run(30_000);
        let socket = SocketId(3001);
        pair.event(1, Event::Accepted { peer: 0, socket });
        pair.event(1, Event::SocketLost { socket, error: SocketError::Secret(error) });
        assert_eq!(state(&pair, 1), (ConnectionState::Connecting, Reason::BadSecret));
        let detail = pair.status(1).connections[0].detail.clone();
        assert_eq!(detail, format!("rule shared-secret: {text}"));
        // It goes on dialling, and a peer that is away meanwhile changes nothing of what is wrong.
        pair.run(30_000);
        assert_eq!(state(&pair, 1), (ConnectionState::Connecting, Reason::BadSecret));
    }
}
