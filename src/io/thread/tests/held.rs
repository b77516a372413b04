//! Clients that are held, handed out, and come back: the stream goes on where it stood.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::io::HeldClient;
use nbd::constants::*;
use nbd::request::Command as Nbd;

impl Node {
    fn hold(&self) -> oneshot::Receiver<Vec<String>> {
        let (reply, quiet) = oneshot::channel();
        self.handle.send(Order::HoldClients { reply }).unwrap();
        // It is taken when the next one is answered.
        let (reply, taken) = oneshot::channel();
        self.handle.send(Order::Statistics { reply }).unwrap();
        taken.blocking_recv().unwrap();
        quiet
    }

    fn go_on(&self) {
        self.handle.send(Order::ReleaseClients).unwrap();
    }

    fn take_clients(&self) -> Vec<HeldClient> {
        let (reply, taken) = oneshot::channel();
        self.handle.send(Order::TakeClients { reply }).unwrap();
        taken.blocking_recv().unwrap()
    }

    /// Out and in again; how many bytes were read of clients and not begun.
    fn hand_round(&self) -> usize {
        assert_eq!(self.hold().blocking_recv().unwrap(), Vec::<String>::new());
        let taken = self.take_clients();
        let unread = taken.iter().map(|client| client.unread.len()).sum();
        self.handle.send(Order::ReturnClients(taken)).unwrap();
        unread
    }
}

/// Three writes of 300 bytes with simple headers, and how long each is.
fn stream() -> (Vec<u8>, usize) {
    let mut stream = Vec::new();
    for number in 0..3u64 {
        stream.extend_from_slice(&NBD_REQUEST_MAGIC.to_be_bytes());
        stream.extend_from_slice(&0u16.to_be_bytes());
        stream.extend_from_slice(&NBD_CMD_WRITE.to_be_bytes());
        stream.extend_from_slice(&number.to_be_bytes());
        stream.extend_from_slice(&(number * 10_000 + 77).to_be_bytes());
        stream.extend_from_slice(&300u32.to_be_bytes());
        stream.extend_from_slice(&pattern(number, 300));
    }
    let one = stream.len() / 3;
    (stream, one)
}

#[test]
fn a_stream_that_is_handed_over_at_any_byte_is_the_same_stream() {
    const HEADER: usize = 28;
    let (stream, one) = stream();
    let node = Node::with_disk(Limits::default());
    let mut client = node.client(Mode::Simple);
    let mut unread = 0;
    let spots = [0, 1, HEADER - 1, HEADER, HEADER + 1, one - 1, one, one + 1, one + HEADER];
    for cut in spots.into_iter().chain([one + HEADER + 7, 2 * one + 9, 3 * one]) {
        let before = node.count(|event| matches!(event, Event::Request { .. }));
        client.send_raw(&stream[..cut]).unwrap();
        // The whole ones are begun, whatever lies behind them.
        node.wait("requests", |script| {
            let requests = script.events.iter().filter(|e| matches!(e, Event::Request { .. }));
            (requests.count() >= before + cut / one).then_some(())
        });
        let quiet = node.hold();
        let begun = cut % one >= HEADER;
        if begun {
            // It may or may not have been read when they were held; its end is read either way.
            client.send_raw(&stream[cut..]).unwrap();
        }
        assert_eq!(quiet.blocking_recv().unwrap(), Vec::<String>::new(), "{cut}");
        let taken = node.take_clients();
        assert_eq!(taken.len(), 1, "{cut}");
        unread += taken[0].unread.len();
        node.handle.send(Order::ReturnClients(taken)).unwrap();
        if !begun {
            client.send_raw(&stream[cut..]).unwrap();
        }
        let mut cookies = Vec::new();
        for _ in 0..3 {
            let reply = client.read_raw(16).unwrap();
            assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "{cut}");
            cookies.push(reply[15]);
        }
        cookies.sort_unstable();
        assert_eq!(cookies, [0, 1, 2], "{cut}");
    }
    assert!(unread > 0, "nothing was ever read ahead: the test shows nothing");
    for number in 0..3u64 {
        let data = client.read(number * 10_000 + 77, 300).unwrap();
        assert_eq!(data, pattern(number, 300));
    }
    // Each session that was opened was closed, in order.
    let opened = node.count(|event| matches!(event, Event::SessionOpened { .. }));
    let closed = node.count(|event| matches!(event, Event::SessionClosed { disconnect: true, .. }));
    assert_eq!((opened, closed), (13, 12));
    client.disconnect().unwrap();
    node.stop();
}

#[test]
fn clients_that_write_as_fast_as_they_can_are_handed_over_and_lose_nothing() {
    const ROUNDS: u64 = 10;
    let node = Node::with_disk(Limits::default());
    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let clients = [Mode::Simple, Mode::Structured, Mode::Extended].map(|mode| node.client(mode));
    let mut unread = 0;
    std::thread::scope(|scope| {
        let (stop, answers) = (&stop, &answers);
        let writers: Vec<_> = (0..)
            .zip(clients)
            .map(|(area, mut client)| {
                scope.spawn(move || {
                    let (mut number, mut flying) = (0u64, VecDeque::new());
                    let base = area * (16 << 20);
                    while !stop.load(Ordering::Relaxed) || !flying.is_empty() {
                        while flying.len() < 16 && !stop.load(Ordering::Relaxed) {
                            number += 1;
                            let (at, length) = (number % 64, 1 + (number * 997) % 6_000);
                            let data = pattern(number, length as usize);
                            let at = base + at * 8192;
                            client.send_request(Nbd::Write, 0, at, length, &data).unwrap();
                            flying.push_back((at, length, number));
                        }
                        client.read_reply().unwrap().ok().unwrap();
                        answers.fetch_add(1, Ordering::Relaxed);
                        flying.pop_front();
                    }
                    // The last one of each place: sent one after the other, they are done so.
                    for number in number.saturating_sub(63).max(1)..=number {
                        let (at, length) = (number % 64, 1 + (number * 997) % 6_000);
                        let data = client.read(base + at * 8192, length as u32).unwrap();
                        assert!(data == pattern(number, length as usize), "{number}");
                    }
                })
            })
            .collect();
        for round in 0..ROUNDS {
            let wanted = answers.load(Ordering::Relaxed) + 100;
            let started = Instant::now();
            while answers.load(Ordering::Relaxed) < wanted {
                assert!(started.elapsed() < PATIENCE, "no answers in round {round}");
                std::thread::yield_now();
            }
            unread += node.hand_round();
        }
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
    println!("{unread} bytes were read ahead");
    node.stop();
}

#[test]
fn who_is_not_quiet_is_named_and_everybody_goes_on() {
    let node = Node::with_disk(Limits::default());
    let mut client = node.client(Mode::Simple);
    let (stream, one) = stream();
    // Half a write that does not come, and a request that is not answered.
    client.send_raw(&stream[..one - 1]).unwrap();
    let mut other = node.client(Mode::Structured);
    node.script.0.lock().unwrap().hold = true;
    other.send_request(Nbd::Write, 0, 4096, 4096, &pattern(9, 4096)).unwrap();
    node.wait("a request", |script| (script.held.len() == 1).then_some(()));
    let quiet = node.hold();
    // What is sent from now on is not begun.
    other.send_request(Nbd::Write, 0, 8192, 4096, &pattern(8, 4096)).unwrap();
    node.go_on();
    let busy = quiet.blocking_recv().unwrap();
    assert_eq!(busy.len(), 2, "{busy:?}");
    assert!(busy[0].ends_with("only a part of a request has come"), "{busy:?}");
    assert!(busy[1].ends_with("1 request is not answered"), "{busy:?}");
    node.wait("the next request", |script| (script.held.len() == 2).then_some(()));
    node.release();
    for _ in 0..2 {
        other.read_reply().unwrap().ok().unwrap();
    }
    client.send_raw(&stream[one - 1..]).unwrap();
    for _ in 0..3 {
        assert_eq!(client.read_raw(16).unwrap()[4..8], [0; 4]);
    }
    assert_eq!(node.hand_round(), 0);
    assert_eq!(other.read(4096, 4096).unwrap(), pattern(9, 4096));
    drop((client, other));
    node.stop();
}
