//! Many NBD connections and many requests at once: replies matched by cookie, data that all
//! connections agree on, status of many extents, a goodbye with writes under way.

use std::collections::HashMap;
use std::sync::Barrier;
use std::time::Duration;

use nbd::Command;
use nbd::client::{Client, Mode};
use nbd::constants::*;

use crate::ledger::{Burst, Ledger};
use crate::load::Load;
use crate::pair::{Node, Pair};

const MODES: [Mode; 3] = [Mode::Simple, Mode::Structured, Mode::Extended];
const CONNECTIONS: u64 = 8;
/// Requests in flight on each.
const DEPTH: u64 = 128;
/// The connections work from here on, the load below.
const START: u64 = 16 << 20;
const PIECE: u64 = 4096;

fn open(node: &Node, mode: Mode) -> Client {
    let address = node.nbd_address();
    Client::open(&address, "r0", mode, Duration::from_secs(30)).expect("it serves")
}

fn content(stamp: u64) -> Vec<u8> {
    stamp.to_be_bytes().repeat(usize::try_from(PIECE).expect("small") / 8)
}

/// Sends as many requests as there are pieces, reads all replies in whatever order they come, and
/// hands the data of each to `check`.
fn all_at_once(
    client: &mut Client,
    pieces: impl Iterator<Item = (Command, u16, u64, Vec<u8>)>,
    mut check: impl FnMut(u64, Vec<u8>),
) {
    let mut flying = HashMap::new();
    for (command, flags, offset, data) in pieces {
        let cookie = client.send_request(command, flags, offset, PIECE, &data).expect("sent");
        flying.insert(cookie, (command, offset));
    }
    assert_eq!(client.in_flight(), flying.len());
    while !flying.is_empty() {
        let reply = client.read_reply().expect("a reply").ok().expect("no error");
        let (command, offset) = flying.remove(&reply.cookie).expect("each once");
        if command == Command::Read {
            check(offset, reply.data);
        }
    }
}

/// Eight connections write 128 pieces each, all at once, and read those of their neighbour.
#[test]
fn eight_connections_with_128_requests_each_agree_on_every_byte() {
    let pair = Pair::in_sync();
    let load = Load::start(pair.alice.client(), Ledger::within(3, 52));
    let barrier = Barrier::new(usize::try_from(CONNECTIONS).expect("few"));
    let place = |number: u64, piece: u64| START + (piece * CONNECTIONS + number) * PIECE;
    std::thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let (pair, barrier) = (&pair, &barrier);
            scope.spawn(move || {
                let mode = MODES[usize::try_from(number).expect("few") % 3];
                let mut client = open(&pair.alice, mode);
                for round in 0..3 {
                    let stamp = |number: u64, piece: u64| (round << 32) | (number << 16) | piece;
                    barrier.wait();
                    let writes = (0..DEPTH).map(|piece| {
                        let flags = if piece % 16 == round { NBD_CMD_FLAG_FUA } else { 0 };
                        let data = content(stamp(number, piece));
                        (Command::Write, flags, place(number, piece), data)
                    });
                    all_at_once(&mut client, writes, |_, _| {});
                    // Every write of every connection is answered.
                    barrier.wait();
                    let neighbour = (number + 1) % CONNECTIONS;
                    let reads = (0..DEPTH)
                        .map(|piece| (Command::Read, 0, place(neighbour, piece), Vec::new()));
                    all_at_once(&mut client, reads, |offset, data| {
                        let piece = (offset - START) / PIECE / CONNECTIONS;
                        assert!(data == content(stamp(neighbour, piece)), "round {round}");
                    });
                    client.flush().expect("a flush");
                }
                client.disconnect().expect("a goodbye");
            });
        }
    });
    load.progress(64);
    let (mut ledger, mut client) = load.stop();
    client.flush().expect("a flush");
    ledger.check(&mut client);
    pair.assert_equal_disks();
    ledger.check_blocks(&pair.bob.read_disk(pair.bob.export_size()));
}

/// Of many writes of one block in flight at once one is the last, on both nodes the same.
#[test]
fn overlapping_writes_of_several_connections_end_the_same_on_both_nodes() {
    let pair = Pair::in_sync();
    std::thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let pair = &pair;
            scope.spawn(move || {
                let mut client =
                    open(&pair.alice, MODES[usize::try_from(number).expect("few") % 3]);
                for round in 0..4 {
                    let writes = (0..DEPTH).map(|piece| {
                        // Four places, half a piece apart.
                        let offset = START + piece % 4 * (PIECE / 2);
                        (Command::Write, 0, offset, content((round << 16) | (number << 8) | piece))
                    });
                    all_at_once(&mut client, writes, |_, _| {});
                }
                client.disconnect().expect("a goodbye");
            });
        }
    });
    let mut client = pair.alice.client();
    client.flush().expect("a flush");
    pair.assert_equal_disks();
}

#[test]
fn block_status_tells_many_extents_in_turn_and_one_if_asked() {
    let pair = Pair::in_sync();
    let load = Load::start(pair.alice.client(), Ledger::within(2, 53));
    let count = 700;
    let stride = 64 << 10;
    for mode in [Mode::Structured, Mode::Extended] {
        let mut client = open(&pair.alice, mode);
        client.trim(START, count * stride, 0).expect("a trim");
        let writes = (0..count).map(|n| (Command::Write, 0, START + n * stride, content(n)));
        let mut writes = writes.peekable();
        while writes.peek().is_some() {
            all_at_once(&mut client, writes.by_ref().take(100), |_, _| {});
        }
        client.flush().expect("a flush");
        let end = START + count * stride;
        let mut at = START;
        let (mut asked, mut holes) = (0, 0);
        while at < end {
            asked += 1;
            for extent in client.block_status(at, end - at, 0).expect("a status") {
                let hole = extent.flags == NBD_STATE_HOLE | NBD_STATE_ZERO;
                assert!(hole || extent.flags == 0, "{extent:?}");
                holes += u64::from(hole);
                // What was written is no hole; file systems may have more data than that.
                let inside = at.next_multiple_of(stride).max(at) < at + extent.length;
                assert!(!hole || !inside, "written data at {at} is told as {extent:?}");
                at += extent.length;
            }
            assert!(at <= end, "beyond what was asked");
        }
        assert!(asked < 20, "{asked} questions");
        assert!(holes > count / 2, "{holes} holes");
        let one = client.block_status(START, end - START, NBD_CMD_FLAG_REQ_ONE).expect("one");
        assert_eq!(one.len(), 1);
        let inside = client.block_status(START + 1, 2, 0).expect("two bytes");
        assert_eq!((inside.len(), inside[0].length, inside[0].flags), (1, 2, 0));
        client.disconnect().expect("a goodbye");
    }
    load.stop();
}

/// DISC: what was asked before it is done, and its replies may be sent; then the end.
#[test]
fn a_goodbye_with_writes_under_way_lets_them_be_done() {
    let pair = Pair::in_sync();
    for (round, mode) in MODES.into_iter().enumerate() {
        let round = u64::try_from(round).expect("few");
        let mut client = open(&pair.alice, mode);
        for piece in 0..DEPTH {
            let data = content((round << 8) | piece);
            let offset = START + piece * PIECE;
            client.send_request(Command::Write, 0, offset, PIECE, &data).expect("sent");
        }
        client.send_request(Command::Disconnect, 0, 0, 0, &[]).expect("sent");
        let mut answered = 0;
        while let Ok(reply) = client.read_reply() {
            reply.ok().expect("no error");
            answered += 1;
        }
        assert_eq!(answered, DEPTH, "{mode:?}: all were done before the end");
        let mut other = pair.alice.client();
        for piece in 0..DEPTH {
            let data = other.read(START + piece * PIECE, 4096).expect("a read");
            assert!(data == content((round << 8) | piece), "{mode:?}: piece {piece}");
        }
    }
    // A demotion is not held up by those who said goodbye.
    let mut ledger = Ledger::within(1, 54);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(50)));
    client.send_request(Command::Disconnect, 0, 0, 0, &[]).expect("sent");
    pair.alice.ok(&["secondary", "r0"]);
    pair.bob.ok(&["primary", "r0"]);
    ledger.check(&mut pair.bob.client());
}
