//! The search: it finds what there is, breaks nothing, and does not depend on threads.

use super::{Alphabet, Explored, Limits, Start, base, explore};
use crate::resource::ConnectionState;

fn explored(limits: Limits, threads: usize) -> Explored {
    let on_all = |work: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    };
    explore(limits, on_all, |_, _| {})
}

#[test]
fn one_turn_with_one_blow_breaks_nothing_and_is_the_same_on_any_number_of_threads() {
    let limits = Limits {
        turns: 1,
        blows: 1,
        drastic: 1,
        states: usize::MAX,
        alphabet: Alphabet::Whole,
        heal: 1,
    };
    let (one, two) = (explored(limits, 1), explored(limits, 2));
    assert!(one.broken.is_none(), "{:?}", one.broken.map(|broken| (broken.history, broken.text)));
    assert!(one.states[1] > 200 && one.runs > 1_000, "{:?} {}", one.states, one.runs);
    assert_eq!((one.states, one.runs), (two.states, two.runs));
}

#[test]
fn two_nodes_that_dial_at_the_same_instant_are_connected_at_once() {
    // Packets take 20 us here, give or take none: each has its own handshake on its way when the other's
    // connection arrives.
    let cluster = base(Start::Fresh, 0).unwrap();
    for node in &cluster.nodes {
        let connection = node.connection().unwrap();
        assert_eq!(connection.connection_state, ConnectionState::Connected);
        assert_eq!(connection.sessions, 1);
    }
    assert!(cluster.now.0 < 1_100_000_000, "not after a ping-timeout, or another attempt");
}

#[test]
fn long_histories_of_the_metadata_break_nothing_and_are_the_same_on_any_number_of_threads() {
    let limits = Limits {
        turns: 2,
        blows: 0,
        drastic: 1,
        states: usize::MAX,
        alphabet: Alphabet::Metadata,
        heal: 16,
    };
    let (one, two) = (explored(limits, 1), explored(limits, 2));
    assert!(one.broken.is_none(), "{:?}", one.broken.map(|broken| (broken.history, broken.text)));
    assert!(
        one.different > 100 && one.pairs > 10 && !one.closed,
        "{} {}",
        one.different,
        one.pairs
    );
    assert_eq!((one.states, one.runs, one.pairs), (two.states, two.runs, two.pairs));
}
