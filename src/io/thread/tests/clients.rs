//! NBD clients against the data thread and a real disk.

use super::*;
use nbd::Errno;
use nbd::constants::*;
use nbd::request::Command as Nbd;

const MODES: [Mode; 3] = [Mode::Simple, Mode::Structured, Mode::Extended];

fn closed(node: &Node) -> bool {
    node.wait_event("the session closes", |event| match event {
        Event::SessionClosed { disconnect, .. } => Some(*disconnect),
        _ => None,
    })
}

#[test]
fn what_is_written_is_read_back_in_every_mode_at_every_alignment() {
    for mode in MODES {
        let node = Node::with_disk(Limits::default());
        let mut client = node.client(mode);
        let mut image = vec![0u8; 6 << 20];
        let spans = [
            (0u64, 4096usize),
            (4096, 1),
            (5000, 100),
            (8191, 2),
            ((1 << 20) - 3, 70_000),
            ((1 << 20) - 4096, 8192),
            (123_457, (3 << 20) + 1001),
            (2 << 20, 2 << 20),
        ];
        for (number, (offset, length)) in spans.into_iter().enumerate() {
            let data = pattern(number as u64, length);
            let flags = if number % 2 == 0 { NBD_CMD_FLAG_FUA } else { 0 };
            client.write(offset, &data, flags).unwrap();
            image[offset as usize..offset as usize + length].copy_from_slice(&data);
        }
        client.flush().unwrap();
        for (offset, length) in spans {
            let data = client.read(offset, length as u32).unwrap();
            assert!(data == image[offset as usize..offset as usize + length], "{mode:?} {offset}");
        }
        assert!(client.read(0, 6 << 20).unwrap() == image, "{mode:?}");
        client.disconnect().unwrap();
        assert!(closed(&node));
        let disk = std::fs::read(node.path()).unwrap();
        assert!(disk[..6 << 20] == image, "{mode:?}");
        node.stop();
    }
}

#[test]
fn a_large_write_is_cut_at_multiples_of_a_mebibyte() {
    let node = Node::with_disk(Limits::default());
    let mut client = node.client(Mode::Simple);
    client.write(1000, &pattern(5, 32 << 20), 0).unwrap();
    assert!(client.read(1000, 32 << 20).unwrap() == pattern(5, 32 << 20));
    let script = node.script.0.lock().unwrap();
    let mut total = 0;
    for event in &script.events {
        if let Event::Request { op: Op::Write { offset, payload, .. }, .. } = event {
            let last = offset + u64::from(payload.length) - 1;
            assert_eq!(offset >> 20, last >> 20);
            assert_eq!(u64::from(payload.offset), offset % 4096);
            total += payload.length;
        }
    }
    assert_eq!(total, 32 << 20);
    drop(script);
    node.stop();
}

#[test]
fn many_requests_are_under_way_and_answered_each_once() {
    let node = Node::with_disk(Limits::default());
    let mut client = node.client(Mode::Structured);
    node.script.0.lock().unwrap().hold = true;
    let count = 300u64;
    let mut cookies = std::collections::BTreeSet::new();
    for number in 0..count {
        let data = pattern(number, 4096);
        let cookie = client.send_request(Nbd::Write, 0, number * 4096, 4096, &data).unwrap();
        cookies.insert(cookie);
    }
    // The rest waits in the socket.
    node.wait("256 requests", |script| (script.held.len() == 256).then_some(()));
    node.release();
    for _ in 0..count {
        let reply = client.read_reply().unwrap().ok().unwrap();
        assert!(cookies.remove(&reply.cookie));
    }
    for number in 0..count {
        assert_eq!(client.read(number * 4096, 4096).unwrap(), pattern(number, 4096));
    }
    node.stop();
}

#[test]
fn a_stream_cut_at_every_byte_is_the_same_stream() {
    let node = Node::with_disk(Limits::default());
    let mut client = node.client(Mode::Simple);
    let data = pattern(3, 300);
    let mut stream = Vec::new();
    for number in 0..3u64 {
        stream.extend_from_slice(&NBD_REQUEST_MAGIC.to_be_bytes());
        stream.extend_from_slice(&0u16.to_be_bytes());
        stream.extend_from_slice(&NBD_CMD_WRITE.to_be_bytes());
        stream.extend_from_slice(&number.to_be_bytes());
        stream.extend_from_slice(&(number * 10_000 + 77).to_be_bytes());
        stream.extend_from_slice(&300u32.to_be_bytes());
        stream.extend_from_slice(&data);
    }
    for byte in stream.chunks(1) {
        client.send_raw(byte).unwrap();
    }
    let mut cookies = Vec::new();
    for _ in 0..3 {
        let reply = client.read_raw(16).unwrap();
        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
        cookies.push(reply[15]);
    }
    cookies.sort_unstable();
    assert_eq!(cookies, [0, 1, 2]);
    for number in 0..3u64 {
        assert_eq!(client.read(number * 10_000 + 77, 300).unwrap(), data);
    }
    node.stop();
}

#[test]
fn a_refused_write_leaves_the_stream_in_step() {
    let node = Node::with_disk(Limits::default());
    for mode in MODES {
        let mut client = node.client(mode);
        let data = pattern(1, 200_000);
        let error = client.write(node.size - 4096, &data, 0).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENOSPC));
        assert_eq!(client.read(node.size, 1).unwrap_err().errno(), Some(Errno::EINVAL));
        client.write(0, b"still here", 0).unwrap();
        assert_eq!(client.read(0, 10).unwrap(), b"still here");
    }
    node.stop();
}

#[test]
fn a_failed_piece_fails_the_request_and_structured_sessions_go_on() {
    for mode in MODES {
        let node = Node::with_disk(Limits::default());
        let mut client = node.client(mode);
        node.script.0.lock().unwrap().fail_at = Some(5 << 20);
        let data = pattern(1, 3 << 20);
        assert_eq!(client.write(3 << 20, &data, 0).unwrap_err().errno(), Some(Errno::EIO));
        let read = client.read(3 << 20, 3 << 20);
        if mode == Mode::Simple {
            // Its reply had begun, perhaps: then only the end of the connection tells.
            assert!(read.is_err());
        } else {
            assert_eq!(read.unwrap_err().errno(), Some(Errno::EIO));
            assert!(client.read(3 << 20, 2 << 20).unwrap() == data[..2 << 20]);
        }
        node.stop();
    }
}

#[test]
fn trim_and_zeroes_punch_holes_and_block_status_shows_them() {
    let node = Node::with_disk(Limits::default());
    let mut client = node.client(Mode::Structured);
    client.write(0, &pattern(1, 8 << 20), 0).unwrap();
    client.trim(1 << 20, 2 << 20, NBD_CMD_FLAG_FUA).unwrap();
    client.write_zeroes(4 << 20, 1 << 20, NBD_CMD_FLAG_FAST_ZERO).unwrap();
    client.write_zeroes(6 << 20, 1 << 20, NBD_CMD_FLAG_NO_HOLE).unwrap();
    client.cache(0, 4096).unwrap();
    let data = client.read(0, 8 << 20).unwrap();
    let mut expected = pattern(1, 8 << 20);
    expected[1 << 20..3 << 20].fill(0);
    expected[4 << 20..5 << 20].fill(0);
    expected[6 << 20..7 << 20].fill(0);
    assert!(data == expected);
    let extents = client.block_status(0, 5 << 20, 0).unwrap();
    let hole = NBD_STATE_HOLE | NBD_STATE_ZERO;
    let seen: Vec<_> = extents.iter().map(|e| (e.length >> 20, e.flags)).collect();
    assert_eq!(seen, [(1, 0), (2, hole), (1, 0), (1, hole)]);
    // The whole volume in one request: pieces of at most 64 MiB, a few at a time.
    client.trim(0, node.size, 0).unwrap();
    assert!(client.read(0, 8 << 20).unwrap().iter().all(|byte| *byte == 0));
    node.stop();
}

/// Those beyond the requests that may be under way were received already, and nothing more comes.
#[test]
fn more_questions_than_may_be_under_way_are_answered_when_they_were_sent_at_once() {
    let node = Node::with_disk(Limits::default());
    let mut client = node.client(Mode::Structured);
    client.block_status(0, 4096, 0).unwrap();
    let count = 300u64;
    let mut stream = Vec::new();
    for cookie in 1..=count {
        stream.extend_from_slice(&NBD_REQUEST_MAGIC.to_be_bytes());
        stream.extend_from_slice(&0u16.to_be_bytes());
        stream.extend_from_slice(&NBD_CMD_BLOCK_STATUS.to_be_bytes());
        stream.extend_from_slice(&cookie.to_be_bytes());
        stream.extend_from_slice(&0u64.to_be_bytes());
        stream.extend_from_slice(&4096u32.to_be_bytes());
    }
    client.send_raw(&stream).unwrap();
    // A chunk each: its header, the context, and one extent.
    for _ in 0..count {
        let chunk = client.read_raw(20 + 4 + 8).unwrap();
        assert_eq!(chunk[4..8], [0, 1, 0, 5], "done, and a block status");
    }
    node.stop();
}

#[test]
fn a_goodbye_lets_the_requests_be_done_first() {
    let node = Node::with_disk(Limits::default());
    let mut client = node.client(Mode::Simple);
    node.script.0.lock().unwrap().hold = true;
    client.send_request(Nbd::Write, 0, 0, 4096, &pattern(9, 4096)).unwrap();
    // Whatever flags it has: it has no reply that could refuse them.
    client.send_request(Nbd::Disconnect, NBD_CMD_FLAG_DF, 0, 0, &[]).unwrap();
    assert!(closed(&node), "the core hears of it at once");
    node.release();
    assert_eq!(client.read_reply().unwrap().code, 0);
    assert!(client.at_end().unwrap());
    assert_eq!(std::fs::read(node.path()).unwrap()[..4096], pattern(9, 4096));
    node.stop();
}

#[test]
fn a_client_that_hangs_up_gives_everything_back() {
    let limits = Limits { bytes: 2 << 20, ..Limits::default() };
    let node = Node::with_disk(limits);
    node.script.0.lock().unwrap().hold = true;
    let mut client = node.client(Mode::Simple);
    // A write and a read that the core has, and half of a write.
    client.send_request(Nbd::Write, 0, 0, 4096, &pattern(1, 4096)).unwrap();
    client.send_request(Nbd::Read, 0, 0, 1 << 20, &[]).unwrap();
    node.wait("both are there", |script| (script.held.len() == 2).then_some(()));
    drop(client);
    assert!(!closed(&node));
    // Late answers meet nobody; another client has all the room.
    node.release();
    let mut other = node.client(Mode::Simple);
    for round in 0..4 {
        other.write(0, &pattern(round, 2 << 20), 0).unwrap();
        assert!(other.read(0, 2 << 20).unwrap() == pattern(round, 2 << 20));
    }
    assert_eq!(node.count(|event| matches!(event, Event::SessionClosed { .. })), 1);
    node.stop();
}

#[test]
fn buffers_are_reserved_first_come_first_served() {
    let limits = Limits { bytes: 1 << 20, ..Limits::default() };
    let node = Node::with_disk(limits);
    node.script.0.lock().unwrap().hold = true;
    let [mut first, mut second, mut third, mut fourth] =
        [(); 4].map(|()| node.client(Mode::Simple));
    first.send_request(Nbd::Read, 0, 0, 1 << 20, &[]).unwrap();
    node.wait("the first has all", |script| (script.held.len() == 1).then_some(()));
    second.send_request(Nbd::Read, 0, 0, 1 << 20, &[]).unwrap();
    // Who holds nothing gets one piece at once: clients that never read do not stop the others.
    node.wait("one piece of the second", |script| (script.held.len() == 2).then_some(()));
    for (client, held) in [(&mut third, 3), (&mut fourth, 4)] {
        client.send_request(Nbd::Flush, 0, 0, 0, &[]).unwrap();
        // A flush needs no buffer: it passes by.
        node.wait("the flush", |script| (script.held.len() == held).then_some(()));
    }
    third.send_request(Nbd::Read, 0, 0, 1 << 20, &[]).unwrap();
    // Whatever was sent before this was seen.
    node.order(Command::Outdate { volume: 0 }).unwrap();
    fourth.send_request(Nbd::Write, 0, 0, 4096, &pattern(1, 4096)).unwrap();
    node.order(Command::Outdate { volume: 0 }).unwrap();
    assert_eq!(node.script.0.lock().unwrap().held.len(), 4, "the third and the fourth wait");
    // The flushes are not answered before the end: who holds nothing does not wait.
    let refuse = |number: usize| {
        let mut script = node.script.0.lock().unwrap();
        let request = script.held[number].0;
        script.held.remove(number);
        drop(script);
        node.inject([Action::Reply { request, result: Err(ReplyError::Io) }]);
    };
    refuse(0);
    assert_eq!(first.read_reply().unwrap().code, Errno::EIO.code());
    refuse(0);
    assert_eq!(second.read_reply().unwrap().code, Errno::EIO.code());
    let next = |script: &mut Script| script.held.get(2).map(|(.., op)| *op);
    let op = node.wait("the read of the third", next);
    assert!(matches!(op, Op::Read { .. }), "the small one does not overtake: {op:?}");
    refuse(2);
    let op = node.wait("the fourth", next);
    assert!(matches!(op, Op::Write { .. }), "{op:?}");
    node.release();
    assert_eq!(third.read_reply().unwrap().code, Errno::EIO.code());
    third.read_reply().unwrap().ok().unwrap();
    fourth.read_reply().unwrap().ok().unwrap();
    fourth.read_reply().unwrap().ok().unwrap();
    node.stop();
}

#[test]
fn a_request_that_does_not_arrive_and_a_reply_that_is_not_taken_end_the_connection() {
    let limits = Limits { stall_ms: 1000, ..Limits::default() };
    let node = Node::with_disk(limits);
    let mut half = node.client(Mode::Simple);
    half.send_raw(&NBD_REQUEST_MAGIC.to_be_bytes()).unwrap();
    assert!(half.at_end().unwrap());
    let mut idle = node.client(Mode::Simple);
    let mut deaf = node.client(Mode::Simple);
    for _ in 0..8 {
        deaf.send_request(Nbd::Read, 0, 0, 4 << 20, &[]).unwrap();
    }
    node.wait("the deaf one is closed", |script| {
        let closed = |event: &&Event| matches!(event, Event::SessionClosed { .. });
        (script.events.iter().filter(closed).count() == 2).then_some(())
    });
    // Between requests a client may be silent for ever. A small one leaves in one piece: on a slow
    // box a large one could be taken for stalled.
    idle.write(0, &pattern(1, 4096), 0).unwrap();
    node.stop();
}

#[test]
fn clients_of_a_volume_are_closed_by_order_after_their_answers() {
    let node = Node::with_disk(Limits::default());
    let mut client = node.client(Mode::Simple);
    node.script.0.lock().unwrap().hold = true;
    client.send_request(Nbd::Flush, 0, 0, 0, &[]).unwrap();
    let request = node.wait("held", |script| script.held.first().map(|held| held.0));
    let result = Err(ReplyError::Shutdown);
    node.inject([
        Action::Reply { request, result },
        Action::CloseSessions { volume: 0, lost: false },
    ]);
    let reply = client.read_reply().unwrap();
    assert_eq!(reply.code, Errno::ESHUTDOWN.code());
    assert!(client.at_end().unwrap());
    assert!(!closed(&node));
    node.stop();
}

#[test]
fn a_client_that_takes_no_replies_is_not_served_for_ever() {
    let node = Node::with_disk(Limits::default());
    let mut client = node.client(Mode::Structured);
    client.set_timeout(Duration::from_millis(200)).unwrap();
    let mut sent = 0u64;
    // Each is answered at once, without the core: the replies alone must stop it.
    while client.send_request(Nbd::Cache, 0, 0, 4096, &[]).is_ok() {
        sent += 1;
        assert!(sent < 200_000, "the replies of {sent} requests wait somewhere");
    }
    node.stop();
}

#[test]
fn after_a_gap_what_waits_in_the_sockets_is_not_executed() {
    let mut config = config("r0", 0);
    // A slow box may stop a thread for a while; only what is longer is a gap.
    config.options.ping_timeout_ms = 2000;
    let mut node = Node::start(config, Vec::new());
    node.attach(&MetaDisk::Internal);
    let mut client = node.client(Mode::Simple);
    client.write(0, &pattern(1, 4096), 0).unwrap();
    node.script.0.lock().unwrap().freeze = Some(Duration::from_millis(3000));
    let (reply, _answer) = oneshot::channel();
    node.handle.send(Order::Admin { command: Command::Outdate { volume: 0 }, reply }).unwrap();
    node.wait("frozen", |script| script.freeze.is_none().then_some(()));
    client.send_request(Nbd::Write, 0, 0, 4096, &pattern(2, 4096)).unwrap();
    let gap_ms = node.wait_event("the gap", |event| match event {
        Event::ClockGap { gap_ms } => Some(*gap_ms),
        _ => None,
    });
    assert!(gap_ms >= 3000);
    assert!(client.read_reply().is_err());
    assert!(!closed(&node), "it did not disconnect");
    let events = node.script.0.lock().unwrap().events.clone();
    let at = |is: fn(&Event) -> bool| events.iter().position(is).expect("it came");
    let gap = at(|event| matches!(event, Event::ClockGap { .. }));
    let end = at(|event| matches!(event, Event::SessionClosed { .. }));
    assert!(gap < end, "peers and disks were silent for all that time: {events:?}");
    let mut client = node.client(Mode::Simple);
    assert_eq!(client.read(0, 4096).unwrap(), pattern(1, 4096));
    drop(client);
    node.stop();
}
