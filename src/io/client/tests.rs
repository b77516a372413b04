//! Clients with a clock of the test: what stalls is ended in time, what only is slow is not.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nbd::constants::{
    NBD_CMD_CACHE, NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_WRITE, NBD_REQUEST_MAGIC,
};
use nbd::{BlockSizes, Device};

use super::*;
use crate::io::buffer::PAGE;
use crate::io::ring::Completion;
use crate::resource::Op;

struct Bench {
    io: Context,
    clients: Clients,
    theirs: UnixStream,
}

fn request(command: u16, length: u32) -> Vec<u8> {
    let mut bytes = NBD_REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(0u16.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend([0; 16]);
    bytes.extend(length.to_be_bytes());
    bytes
}

impl Bench {
    fn new() -> Self {
        let mut io = Context::alone(Time(0).after_ms(1));
        let mut clients = Clients::default();
        let theirs = Self::connect(&mut io, &mut clients, None);
        Self { io, clients, theirs }
    }

    /// One more client.
    fn connect(io: &mut Context, clients: &mut Clients, device: Option<Device>) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let parameters = SessionParameters {
            export: "r0".to_owned(),
            structured: false,
            extended: false,
            base_allocation: false,
            flags: nbd::constants::NBD_FLAG_HAS_FLAGS
                | nbd::constants::NBD_FLAG_SEND_CACHE
                | nbd::constants::NBD_FLAG_SEND_TRIM
                | nbd::constants::NBD_FLAG_SEND_FLUSH,
            size: 1 << 30,
            client_asked_block_size: false,
            block: BlockSizes::default(),
            device,
        };
        clients.open(io, ours.into(), 0, parameters, "test".to_owned());
        theirs
    }

    /// With a connection of a device for each of these: the token, the connection, its siblings.
    fn of_devices(devices: &[(u64, u64, &[u64])]) -> (Self, Vec<UnixStream>) {
        let mut bench = Self::new();
        let theirs = devices.iter().map(|device| bench.join(*device)).collect();
        (bench, theirs)
    }

    fn join(&mut self, (token, connection, siblings): (u64, u64, &[u64])) -> UnixStream {
        let device = Device { token, connection, siblings: siblings.to_vec() };
        Self::connect(&mut self.io, &mut self.clients, Some(device))
    }

    /// The connections that are open, and the requests of each that were begun.
    fn begun(&mut self) -> Vec<(u64, usize)> {
        let open = self.clients.sessions.values();
        let of = |one: &Client| {
            let begun = |event: &&Event| matches!(event, Event::Request { session, .. } if *session == one.id);
            let device = one.parameters.device.as_ref();
            let count = self.io.events.iter().filter(begun).count();
            (device.map_or(0, |device| device.connection), count)
        };
        open.map(of).collect()
    }

    /// The core has done all that it was given.
    fn answer_all(&mut self) {
        for event in std::mem::take(&mut self.io.events) {
            if let Event::Request { request, .. } = event {
                self.clients.reply(&mut self.io, request, Ok(None));
            }
        }
    }

    /// What has been sent is taken in and answered, until nothing moves; then so much time passes.
    fn pass(&mut self, ms: u64) {
        loop {
            self.clients.expire(&mut self.io);
            self.clients.resume(&mut self.io);
            self.clients.start(&mut self.io);
            self.io.ring.submit_and_wait(Duration::from_millis(20)).unwrap();
            let mut moved = false;
            while let Some(Completion { purpose, memory, result }) = self.io.ring.next_completion()
            {
                match purpose {
                    Purpose::ClientReceive(id) => {
                        moved = true;
                        self.clients.received(&mut self.io, id, memory, result);
                    }
                    Purpose::ClientSend(id) => {
                        moved = true;
                        self.clients.sent(&mut self.io, id, memory, result);
                    }
                    _ => {}
                }
            }
            if !moved {
                break;
            }
        }
        self.io.now = self.io.now.after_ms(ms);
    }

    fn is_connected(&self) -> bool {
        !self.clients.sessions.is_empty()
    }

    /// Seconds until the client is closed.
    fn seconds_to_live(&mut self) -> u64 {
        let start = self.io.now;
        while self.is_connected() && self.io.now.ms_since(start) < 200_000 {
            self.pass(1000);
        }
        self.io.now.ms_since(start) / 1000
    }
}

#[test]
fn a_client_that_takes_no_byte_of_its_replies_is_closed_after_30_seconds() {
    let mut bench = Bench::new();
    let ask = request(NBD_CMD_CACHE, 4096).repeat(1000);
    // Until it is not served any more: its replies wait.
    while bench.theirs.write(&ask).is_ok_and(|count| count == ask.len()) {
        bench.pass(0);
    }
    // Some of the replies are taken, late: that is progress.
    for _ in 0..3 {
        for _ in 0..25 {
            bench.pass(1000);
        }
        assert!(bench.is_connected());
        let mut taken = 0;
        let mut buffer = [0; 4096];
        while taken < 64 << 10 {
            taken += bench.theirs.read(&mut buffer).unwrap();
        }
    }
    let seconds = bench.seconds_to_live();
    assert!((30..=35).contains(&seconds), "closed after {seconds} s");
}

#[test]
fn a_payload_may_come_slowly_but_not_stop_for_30_seconds() {
    let data: Vec<u8> = (0..MIB).map(|at| (at / 1000 % 251) as u8).collect();
    for (old_kernel, stops) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut bench = Bench::new();
        if old_kernel {
            bench.io.ring.is_inexact();
        }
        bench.theirs.write_all(&request(NBD_CMD_WRITE, 1 << 20)).unwrap();
        let (slow, mut left) = data.split_at(10_000);
        for part in slow.chunks(1000) {
            bench.theirs.write_all(part).unwrap();
            for _ in 0..25 {
                bench.pass(1000);
            }
            assert!(bench.is_connected());
        }
        if stops {
            let seconds = bench.seconds_to_live();
            assert!((2..=10).contains(&seconds), "closed after 25 s and {seconds} more");
            continue;
        }
        while !left.is_empty() {
            let sent = bench.theirs.write(&left[..left.len().min(100_000)]).unwrap_or(0);
            left = &left[sent..];
            bench.pass(0);
        }
        let [(_, Op::Write { payload, .. })] = bench.asked()[..] else { panic!("one write") };
        assert!(*bench.io.pool.bytes(payload).unwrap() == data[..], "{old_kernel}");
    }
}

#[test]
fn half_a_header_is_waited_for_30_seconds_and_between_requests_for_ever() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        bench.pass(1000);
    }
    assert!(bench.is_connected());
    bench.theirs.write_all(&request(NBD_CMD_WRITE, 1 << 20)[..9]).unwrap();
    let seconds = bench.seconds_to_live();
    assert!((30..=32).contains(&seconds), "closed after {seconds} s");
}

const MIB: u64 = 1 << 20;

fn ask(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = NBD_REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(0u16.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// Every page names its place.
fn page(offset: u64) -> Vec<u8> {
    (offset / PAGE as u64).to_be_bytes().repeat(PAGE / 8)
}

impl Bench {
    /// Requests that the core has got and not answered.
    fn asked(&mut self) -> Vec<(RequestId, Op)> {
        let asked = self.io.events.drain(..).filter_map(|event| match event {
            Event::Request { request, op, .. } => Some((request, op)),
            _ => None,
        });
        asked.collect()
    }

    /// What the core says to a request.
    fn answer(&mut self, request: RequestId, op: &Op) {
        let payload = match op {
            Op::Read { offset, length } => {
                let payload = self.io.pool.take(Part::Read, *length as usize);
                let bytes = self.io.pool.bytes_mut(payload).unwrap();
                for (at, into) in (*offset..).step_by(PAGE).zip(bytes.chunks_mut(PAGE)) {
                    into.copy_from_slice(&page(at));
                }
                Some(payload)
            }
            _ => None,
        };
        self.clients.reply(&mut self.io, request, Ok(payload));
        payload.into_iter().for_each(|payload| self.io.release(payload));
    }

    /// Replies as they come, by cookie; `sizes`: bytes of data that each has.
    fn replies(&mut self, sizes: &[(u64, usize)]) -> Vec<(u64, Vec<u8>)> {
        let mut bytes = Vec::new();
        let wanted: usize = sizes.iter().map(|(_, size)| 16 + size).sum();
        let mut buffer = vec![0; 1 << 20];
        for _ in 0..20 {
            self.pass(0);
            while let Ok(count) = self.theirs.read(&mut buffer) {
                bytes.extend_from_slice(&buffer[..count]);
            }
            if bytes.len() >= wanted {
                break;
            }
        }
        let mut replies = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (head, data) = rest.split_at(16);
            let magic = nbd::constants::NBD_SIMPLE_REPLY_MAGIC.to_be_bytes();
            assert_eq!(head[..8], [magic, [0; 4]].concat(), "no reply begins here");
            let cookie = u64::from_be_bytes(head[8..].try_into().unwrap());
            let (_, size) = *sizes.iter().find(|(known, _)| *known == cookie).expect("asked");
            replies.push((cookie, data[..size].to_vec()));
            rest = &data[size..];
        }
        replies
    }
}

/// All orders of the numbers below `count`.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let insert = |order: &Vec<usize>, at: usize| {
        let mut order = order.clone();
        order.insert(at, count - 1);
        order
    };
    let shorter = orders(count - 1);
    shorter.iter().flat_map(|order| (0..count).map(move |at| insert(order, at))).collect()
}

#[test]
fn replies_of_several_pieces_do_not_interrupt_each_other_in_any_order() {
    let page_size = PAGE as u32;
    let reads = [(1, MIB - PAGE as u64, 2 * page_size), (2, 2 * MIB - PAGE as u64, 3 * page_size)];
    let small = (3, 8 * MIB, page_size);
    for mut order in orders(4) {
        // Between the pieces: a reply of one piece, and one without data.
        order.insert(1, 4);
        order.insert(4, 5);
        let mut bench = Bench::new();
        let mut sizes = Vec::new();
        for (cookie, offset, length) in reads.into_iter().chain([small]) {
            bench.theirs.write_all(&ask(NBD_CMD_READ, cookie, offset, length)).unwrap();
            sizes.push((cookie, length as usize));
        }
        bench.theirs.write_all(&ask(NBD_CMD_FLUSH, 4, 0, 0)).unwrap();
        sizes.push((4, 0));
        bench.pass(0);
        let asked = bench.asked();
        assert_eq!(asked.len(), 6);
        for at in &order {
            let (request, op) = &asked[*at];
            bench.answer(*request, op);
        }
        let mut replies = bench.replies(&sizes);
        replies.sort();
        assert_eq!(replies.len(), 4, "{order:?}");
        for (cookie, offset, length) in reads.into_iter().chain([small]) {
            let (_, data) = replies.iter().find(|(found, _)| *found == cookie).unwrap();
            let pages = (offset..offset + u64::from(length)).step_by(PAGE).map(page);
            assert_eq!(*data, pages.collect::<Vec<_>>().concat(), "{order:?}");
        }
        let client = bench.clients.sessions.values().next().expect("connected");
        assert!(client.requests.is_empty() && client.outbox.is_empty(), "{order:?}");
        assert_eq!((client.begun, client.waiting_reads), (None, 0), "{order:?}");
        assert_eq!(bench.io.reads_reserved, 0, "{order:?}");
    }
}

#[test]
fn reads_larger_than_all_buffers_are_answered_piece_by_piece() {
    let mut bench = Bench::new();
    bench.io.limits.bytes = 3 * MIB;
    let sizes = [(1, 8 << 20), (2, 5 << 20), (3, 4096)];
    for (cookie, length) in sizes {
        let offset = cookie * 16 * MIB + PAGE as u64;
        bench.theirs.write_all(&ask(NBD_CMD_READ, cookie, offset, length as u32)).unwrap();
    }
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    let wanted: usize = sizes.iter().map(|(_, size)| 16 + size).sum();
    let mut dice = 7u64;
    for _ in 0..400 {
        bench.pass(0);
        let mut asked = bench.asked();
        while !asked.is_empty() {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (request, op) = asked.swap_remove((dice >> 33) as usize % asked.len());
            bench.answer(request, &op);
        }
        while let Ok(count) = bench.theirs.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..count]);
        }
        if bytes.len() == wanted {
            break;
        }
    }
    assert_eq!(bytes.len(), wanted);
    assert_eq!(bench.io.reads_reserved, 0);
}

#[test]
fn who_is_told_to_go_in_the_middle_of_a_long_request_hears_no_error() {
    let mut bench = Bench::new();
    let long = ask(nbd::constants::NBD_CMD_TRIM, 9, 0, 1 << 30);
    bench.theirs.write_all(&long).unwrap();
    bench.pass(0);
    let first = bench.asked();
    assert!(!first.is_empty());
    // It does not read, so that its last replies wait.
    let caches = request(NBD_CMD_CACHE, 4096).repeat(1000);
    while bench.theirs.write(&caches).is_ok_and(|count| count == caches.len()) {
        bench.pass(0);
    }
    // The core's order after a hand-over: replies, the end of the sessions, and what comes after it.
    for (request, op) in &first {
        bench.answer(*request, op);
    }
    let rest = bench.asked();
    assert!(!rest.is_empty(), "the next piece");
    bench.clients.dismiss(&mut bench.io, None);
    for (request, _) in rest {
        bench.clients.reply(&mut bench.io, request, Err(ReplyError::Shutdown));
    }
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    while bench.is_connected() {
        bench.pass(10);
        while let Ok(count @ 1..) = bench.theirs.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..count]);
        }
    }
    assert!(bytes.len() > 16 * 1000);
    let errors = bytes.chunks(16).filter(|reply| reply[4..8] != [0; 4]).count();
    assert_eq!(errors, 0);
}

#[test]
fn the_first_request_of_a_connection_ends_those_that_its_device_has_left() {
    let (mut bench, mut theirs) = Bench::of_devices(&[(7, 1, &[]), (7, 2, &[1]), (8, 1, &[])]);
    // The first two live together, though the first does not know the second.
    // More than is begun of one client: the rest is there, and unread.
    for one in &mut theirs {
        one.write_all(&request(NBD_CMD_FLUSH, 0).repeat(REQUESTS_MAX + 9)).unwrap();
    }
    bench.pass(0);
    let full = REQUESTS_MAX;
    assert_eq!(bench.begun(), [(0, 0), (1, full), (2, full), (1, full)]);
    // A new one that only looks ends nobody, nor does who knows not the token.
    let mut new = bench.join((7, 3, &[2]));
    let mut stranger = bench.join((9, 1, &[]));
    stranger.write_all(&request(NBD_CMD_FLUSH, 0)).unwrap();
    bench.pass(0);
    assert_eq!(bench.clients.sessions.len(), 6);
    new.write_all(&request(NBD_CMD_FLUSH, 0)).unwrap();
    bench.pass(0);
    assert_eq!(bench.begun(), [(0, 0), (2, full), (1, full), (3, 1), (1, 1)]);
    let begun = |event: &&Event| matches!(event, Event::Request { .. });
    let before = bench.io.events.iter().filter(begun).count();
    assert_eq!(before, 3 * full + 2, "what was unread of the old one is not begun");
    // Its own next requests end nobody.
    let _sibling = bench.join((7, 4, &[2, 3]));
    new.write_all(&request(NBD_CMD_FLUSH, 0)).unwrap();
    bench.pass(0);
    assert_eq!(bench.clients.sessions.len(), 6);
}

#[test]
fn a_client_that_comes_back_after_its_device_went_on_is_closed_unread() {
    let (mut bench, mut theirs) = Bench::of_devices(&[(7, 1, &[]), (7, 2, &[1])]);
    bench.clients.hold(&mut bench.io);
    bench.pass(0);
    theirs[0].write_all(&request(NBD_CMD_FLUSH, 0)).unwrap();
    let held = bench.clients.take_all(&mut bench.io);
    bench.clients.go_on();
    assert!(held[1].is_fresh);
    // The device has gone on with 3, and kept 2.
    let mut new = bench.join((7, 3, &[2]));
    new.write_all(&request(NBD_CMD_FLUSH, 0)).unwrap();
    bench.pass(0);
    for one in held {
        bench.clients.reopen(&mut bench.io, one);
    }
    bench.pass(0);
    let open: Vec<u64> = bench.begun().into_iter().map(|(one, _)| one).collect();
    assert_eq!(open, [3, 0, 2]);
    assert_eq!(bench.begun().into_iter().map(|(_, begun)| begun).sum::<usize>(), 1);
}

#[test]
fn nothing_is_begun_of_a_client_that_has_hung_up_while_it_was_not_read() {
    for hangs_up in [false, true] {
        let mut bench = Bench::new();
        bench.theirs.write_all(&request(NBD_CMD_FLUSH, 0).repeat(REQUESTS_MAX + 9)).unwrap();
        bench.pass(0);
        assert_eq!(bench.begun(), [(0, REQUESTS_MAX)]);
        if hangs_up {
            bench.theirs.shutdown(std::net::Shutdown::Write).unwrap();
        }
        bench.answer_all();
        bench.pass(0);
        let expected = if hangs_up { vec![] } else { vec![(0, 9)] };
        assert_eq!(bench.begun(), expected);
        let begun = |event: &Event| matches!(event, Event::Request { .. });
        assert_eq!(bench.io.events.iter().any(begun), !hangs_up);
    }
}

#[test]
fn a_device_that_was_there_when_its_volume_lost_its_cache_is_known() {
    let (mut bench, _theirs) = Bench::of_devices(&[(7, 1, &[])]);
    assert!(!bench.clients.has_lost(0, 7));
    bench.clients.lose_cache(1);
    assert!(!bench.clients.has_lost(0, 7), "another volume");
    bench.clients.drop_all(&mut bench.io);
    bench.clients.lose_cache(0);
    assert!(bench.clients.has_lost(0, 7), "it has no connection at the moment");
    bench.join((7, 2, &[]));
    bench.join((8, 1, &[]));
    assert!(bench.clients.has_lost(0, 7) && !bench.clients.has_lost(0, 8), "one that is new");
}

/// Its next request was received before, and is not looked at: it may have been sent again elsewhere.
#[test]
fn nothing_is_begun_behind_a_read_that_waited_while_its_client_hung_up() {
    for hangs_up in [false, true] {
        let mut bench = Bench::new();
        bench.io.limits.bytes = MIB;
        bench.theirs.write_all(&ask(NBD_CMD_READ, 1, 0, 1 << 20)).unwrap();
        bench.theirs.write_all(&ask(NBD_CMD_READ, 2, 4 * MIB, 4096)).unwrap();
        let write = [ask(NBD_CMD_WRITE, 3, 8 * MIB, 4096), vec![7; 4096]].concat();
        bench.theirs.write_all(&write).unwrap();
        bench.pass(0);
        let asked = bench.asked();
        assert_eq!(asked.len(), 1, "there is no buffer for the second one");
        if hangs_up {
            bench.theirs.shutdown(std::net::Shutdown::Write).unwrap();
        }
        bench.answer(asked[0].0, &asked[0].1);
        let mut begun = Vec::new();
        for _ in 0..20 {
            bench.pass(0);
            begun.extend(bench.asked());
            let _ = bench.theirs.read(&mut vec![0; 1 << 20]);
        }
        let writes = begun.iter().filter(|(_, op)| matches!(op, Op::Write { .. })).count();
        assert_eq!(writes, usize::from(!hangs_up));
        begun.iter().for_each(|(_, op)| {
            if let Op::Write { payload, .. } = op {
                bench.io.release(*payload);
            }
        });
    }
}

#[test]
fn a_client_that_takes_its_replies_slowly_leaves_room_to_the_others() {
    let mut bench = Bench::new();
    bench.io.limits.bytes = 8 * MIB;
    let reads = |count: u64, length: u32| -> Vec<u8> {
        (0..count).flat_map(|n| ask(NBD_CMD_READ, n, n * MIB, length)).collect()
    };
    // It takes none of them. The second one is of its kind.
    let mut slow = Bench::connect(&mut bench.io, &mut bench.clients, None);
    for theirs in [&mut bench.theirs, &mut slow] {
        theirs.write_all(&reads(16, 1 << 20)).unwrap();
    }
    loop {
        bench.pass(0);
        let asked = bench.asked();
        if asked.is_empty() {
            break;
        }
        asked.iter().for_each(|(request, op)| bench.answer(*request, op));
    }
    assert!(bench.io.reads_reserved >= 4 * MIB, "{}", bench.io.reads_reserved);
    // What is sent wakes this thread, as it makes room for them.
    assert!(bench.clients.is_waiting());
    let mut quick = Bench::connect(&mut bench.io, &mut bench.clients, None);
    quick.write_all(&reads(16, 4096)).unwrap();
    bench.pass(0);
    assert_eq!(bench.asked().len(), 16, "all at once");
}

/// The rest of it comes from another node, and what is queued behind it is of no use.
#[test]
fn who_is_told_to_go_in_the_middle_of_a_reply_goes_at_once() {
    let mut bench = Bench::new();
    bench.theirs.write_all(&ask(NBD_CMD_READ, 1, MIB - PAGE as u64, 2 * PAGE as u32)).unwrap();
    bench.theirs.write_all(&ask(NBD_CMD_FLUSH, 2, 0, 0)).unwrap();
    bench.pass(0);
    let asked = bench.asked();
    assert_eq!(asked.len(), 3);
    bench.answer(asked[0].0, &asked[0].1);
    bench.answer(asked[2].0, &asked[2].1);
    bench.pass(0);
    bench.clients.dismiss(&mut bench.io, None);
    bench.pass(0);
    bench.pass(0);
    assert!(!bench.is_connected());
}
