//! The engine over pairs of sockets: what it sends, and when it answers.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use fuser::{Config, Session};
use nbd::constants::{
    NBD_CMD_FLAG_FUA, NBD_FLAG_SEND_FLUSH, NBD_FLAG_SEND_FUA, NBD_SIMPLE_REPLY_MAGIC,
};
use nbd::request::Command;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::engine::{Engine, Request};
use super::file::{self, Volume};

type Outcome = Result<Vec<u8>, i32>;

struct Stage {
    engine: Arc<Engine>,
    bell: Arc<EventFd>,
}

/// The header of a request as a server reads it, without its flags: type, cookie, offset, length.
#[derive(Debug, PartialEq, Eq)]
struct Seen(u16, u64, u64, u32);

impl Stage {
    fn new() -> Self {
        let bell = Arc::new(EventFd::new().expect("an event descriptor"));
        Self { engine: Engine::start(bell.clone()).expect("threads"), bell }
    }

    /// The server's end of the next session.
    fn session(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        theirs.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
        self.engine.go_on(OwnedFd::from(ours));
        theirs
    }

    fn order(&self, command: Command, offset: u64, length: u64) -> Receiver<Outcome> {
        self.order_then(command, offset, length, false)
    }

    fn order_then(
        &self,
        command: Command,
        offset: u64,
        length: u64,
        then_flush: bool,
    ) -> Receiver<Outcome> {
        let (told, heard) = channel();
        let answer = Box::new(move |outcome| told.send(outcome).expect("somebody hears it"));
        let data = match command {
            Command::Write => vec![7; usize::try_from(length).expect("short")],
            _ => Vec::new(),
        };
        self.engine.submit(Request { command, flags: 0, offset, length, data, then_flush, answer });
        heard
    }

    fn wait_for_bell(&self) {
        let mut one = [PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut one, PollTimeout::from(60_000_u16)), Ok(1), "the session ends");
        self.bell.read().expect("it rang");
    }
}

fn read_request(server: &mut UnixStream) -> Seen {
    read_flagged(server).1
}

/// With its flags.
fn read_flagged(server: &mut UnixStream) -> (u16, Seen) {
    let mut head = [0; 28];
    server.read_exact(&mut head).expect("a request");
    let seen = Seen(
        u16::from_be_bytes(head[6..8].try_into().expect("2 bytes")),
        u64::from_be_bytes(head[8..16].try_into().expect("8 bytes")),
        u64::from_be_bytes(head[16..24].try_into().expect("8 bytes")),
        u32::from_be_bytes(head[24..28].try_into().expect("4 bytes")),
    );
    if seen.0 == Command::Write.code() {
        let mut data = vec![0; usize::try_from(seen.3).expect("short")];
        server.read_exact(&mut data).expect("its data");
        assert!(data.iter().all(|byte| *byte == 7));
    }
    (u16::from_be_bytes([head[4], head[5]]), seen)
}

fn reply(server: &mut UnixStream, cookie: u64, code: u32, data: &[u8]) {
    let mut bytes = NBD_SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(data);
    server.write_all(&bytes).expect("it is read");
}

fn heard(answer: &Receiver<Outcome>) -> Outcome {
    answer.recv_timeout(Duration::from_secs(60)).expect("an answer")
}

const WRITE: u16 = 1;
const FLUSH: u16 = 3;

#[test]
fn requests_without_a_server_wait_and_are_all_sent_in_their_order() {
    let stage = Stage::new();
    // Each wakes the thread that sends, and there is nobody to send it to.
    let answers: Vec<_> = (0..5)
        .map(|number| stage.order(Command::Write, number * 4096, 512))
        .inspect(|answer| {
            let early = answer.recv_timeout(Duration::from_millis(1));
            assert!(early.is_err(), "answered without a server: {early:?}");
        })
        .collect();
    let mut server = stage.session();
    for number in 0..5 {
        assert_eq!(read_request(&mut server), Seen(WRITE, number, number * 4096, 512));
        reply(&mut server, number, 0, &[]);
    }
    answers.iter().for_each(|answer| assert_eq!(heard(answer), Ok(Vec::new())));
}

#[test]
fn what_was_unanswered_is_sent_again_over_the_next_session() {
    let stage = Stage::new();
    let mut server = stage.session();
    let answers: Vec<_> =
        (0..3).map(|number| stage.order(Command::Write, number * 512, 512)).collect();
    for number in 0..3 {
        assert_eq!(read_request(&mut server).1, number);
    }
    reply(&mut server, 1, 0, &[]);
    assert_eq!(heard(&answers[1]), Ok(Vec::new()));
    drop(server);
    stage.wait_for_bell();
    assert!(!stage.engine.is_connected());
    let mut server = stage.session();
    for number in [0, 2] {
        assert_eq!(read_request(&mut server), Seen(WRITE, number, number * 512, 512));
        reply(&mut server, number, 0, &[]);
        assert_eq!(heard(&answers[usize::try_from(number).expect("small")]), Ok(Vec::new()));
    }
}

#[test]
fn a_server_that_leaves_has_not_answered() {
    let stage = Stage::new();
    let mut server = stage.session();
    let answer = stage.order(Command::Write, 0, 512);
    read_request(&mut server);
    // NBD_ESHUTDOWN.
    reply(&mut server, 0, 108, &[]);
    stage.wait_for_bell();
    let mut server = stage.session();
    assert_eq!(read_request(&mut server), Seen(WRITE, 0, 0, 512));
    reply(&mut server, 0, 0, &[]);
    assert_eq!(heard(&answer), Ok(Vec::new()));
}

#[test]
fn errors_are_linuxs_and_data_is_the_servers() {
    let stage = Stage::new();
    let mut server = stage.session();
    let codes = [(1, 1), (5, 5), (12, 12), (22, 22), (28, 28), (95, 95), (75, 5), (u32::MAX, 5)];
    for (cookie, (code, error)) in (0..).zip(codes) {
        let answer = stage.order(Command::Write, 0, 512);
        read_request(&mut server);
        reply(&mut server, cookie, code, &[]);
        assert_eq!(heard(&answer), Err(error), "code {code}");
    }
    let answer = stage.order(Command::Read, 0, 3);
    let Seen(_, cookie, ..) = read_request(&mut server);
    reply(&mut server, cookie, 0, b"abc");
    assert_eq!(heard(&answer), Ok(b"abc".to_vec()));
}

#[test]
fn a_long_range_is_zeroed_in_parts() {
    let stage = Stage::new();
    let mut server = stage.session();
    let answer = stage.order(Command::WriteZeroes, 4096, (128 << 20) + 512);
    let Seen(_, cookie, offset, length) = read_request(&mut server);
    assert_eq!((offset, length), (4096, 128 << 20));
    reply(&mut server, cookie, 0, &[]);
    let Seen(_, cookie, offset, length) = read_request(&mut server);
    assert_eq!((offset, length), (4096 + (128 << 20), 512));
    assert!(answer.try_recv().is_err(), "answered after its first part");
    reply(&mut server, cookie, 0, &[]);
    assert_eq!(heard(&answer), Ok(Vec::new()));
}

#[test]
fn malformed_replies_end_the_session_and_answer_nothing() {
    let stage = Stage::new();
    let answer = stage.order(Command::Read, 0, 512);
    // Nobody's cookie; no reply at all.
    for bad in [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9][..], &[0; 16]] {
        let mut server = stage.session();
        read_request(&mut server);
        server.write_all(bad).expect("it is read");
        stage.wait_for_bell();
        assert!(answer.try_recv().is_err());
    }
    let mut server = stage.session();
    read_request(&mut server);
    reply(&mut server, 0, 0, &[1; 512]);
    assert_eq!(heard(&answer), Ok(vec![1; 512]));
}

#[test]
fn without_a_server_for_too_long_all_fails_until_there_is_one() {
    let stage = Stage::new();
    let answer = stage.order(Command::Write, 0, 512);
    stage.engine.fail();
    assert_eq!(heard(&answer), Err(libc::EIO));
    assert_eq!(heard(&stage.order(Command::Flush, 0, 0)), Err(libc::EIO));
    let mut server = stage.session();
    let answer = stage.order(Command::Flush, 0, 0);
    let Seen(_, cookie, ..) = read_request(&mut server);
    reply(&mut server, cookie, 0, &[]);
    assert_eq!(heard(&answer), Ok(Vec::new()));
    // A server is there: nothing fails.
    let answer = stage.order(Command::Write, 0, 512);
    stage.engine.fail();
    let Seen(_, cookie, ..) = read_request(&mut server);
    reply(&mut server, cookie, 0, &[]);
    assert_eq!(heard(&answer), Ok(Vec::new()));
}

/// What its server has not read is in two buffers: that of the server, and its own behind it.
#[test]
fn what_a_session_has_not_sent_is_thrown_away_when_it_ends() {
    let stage = Stage::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let ours = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("there");
    let (mut theirs, _) = listener.accept().expect("a connection");
    stage.engine.go_on(OwnedFd::from(ours));
    let answers: Vec<_> =
        (0..64).map(|number| stage.order(Command::Write, number << 20, 1 << 20)).collect();
    // Nothing moves any more: both buffers are full.
    let waits = |stage: &Stage| stage.engine.is_late(Duration::from_millis(500));
    while !waits(&stage) {
        std::thread::yield_now();
    }
    stage.engine.close();
    stage.wait_for_bell();
    theirs.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
    let mut late = Vec::new();
    let end = theirs.read_to_end(&mut late).expect_err("it was aborted").kind();
    assert_eq!(end, std::io::ErrorKind::ConnectionReset, "after {} bytes", late.len());
    let mut next = stage.session();
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(read_request(&mut next).1, number as u64);
        reply(&mut next, number as u64, 0, &[]);
        assert_eq!(heard(answer), Ok(Vec::new()));
    }
}

#[test]
fn a_durable_write_to_a_server_without_fua_is_answered_after_its_flush() {
    let stage = Stage::new();
    let mut server = stage.session();
    let answer = stage.order_then(Command::Write, 4096, 512, true);
    assert_eq!(read_request(&mut server), Seen(WRITE, 0, 4096, 512));
    reply(&mut server, 0, 0, &[]);
    assert_eq!(read_request(&mut server), Seen(FLUSH, 0, 0, 0));
    assert!(answer.try_recv().is_err(), "answered before its flush");
    // What was written there and not flushed may be gone with that server.
    drop(server);
    stage.wait_for_bell();
    let mut server = stage.session();
    assert_eq!(read_request(&mut server), Seen(WRITE, 0, 4096, 512));
    reply(&mut server, 0, 0, &[]);
    assert_eq!(read_request(&mut server), Seen(FLUSH, 0, 0, 0));
    reply(&mut server, 0, 0, &[]);
    assert_eq!(heard(&answer), Ok(Vec::new()));
    // An error of either is the answer.
    for errors in [&[5][..], &[0, 28]] {
        let answer = stage.order_then(Command::Write, 0, 512, true);
        for code in errors {
            let Seen(_, cookie, ..) = read_request(&mut server);
            reply(&mut server, cookie, *code, &[]);
        }
        let last = errors.last().expect("one");
        assert_eq!(heard(&answer), Err(i32::try_from(*last).expect("small")));
    }
}

/// Waits for a request; `false`: there is none any more.
fn one_more(server: &UnixStream) -> bool {
    use nix::sys::socket::{MsgFlags, recv};
    let seen = recv(std::os::fd::AsRawFd::as_raw_fd(server), &mut [0], MsgFlags::MSG_PEEK);
    seen.is_ok_and(|bytes| bytes > 0)
}

/// Through the kernel: a file that is mounted, and the server's end of it.
#[test]
fn what_is_written_through_a_synced_file_is_durable_when_it_is_answered() {
    let test = "what_is_written_through_a_synced_file_is_durable_when_it_is_answered";
    if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
        let line = format!("\nSKIP {test}: /dev/fuse: {error}\n");
        // Past the harness, which keeps what a test prints while it goes well.
        return std::io::stderr().lock().write_all(line.as_bytes()).expect("standard error");
    }
    let both = NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA;
    const FUA: u16 = NBD_CMD_FLAG_FUA;
    for (flags, how, expected) in [
        (both, 0, &[(WRITE, 0)][..]),
        (both, libc::O_DSYNC, &[(WRITE, FUA)]),
        (both, libc::O_SYNC, &[(WRITE, FUA)]),
        (NBD_FLAG_SEND_FLUSH, 0, &[(WRITE, 0)]),
        (NBD_FLAG_SEND_FLUSH, libc::O_DSYNC, &[(WRITE, 0), (FLUSH, 0)]),
        // Nothing that could be flushed.
        (0, libc::O_DSYNC, &[(WRITE, 0)]),
    ] {
        let stage = Stage::new();
        let mut server = stage.session();
        let dir = tempfile::tempdir().expect("a folder");
        let size = Arc::new(AtomicU64::new(1 << 20));
        let volume = Volume { engine: stage.engine.clone(), size, flags };
        let session = Session::new(volume, dir.path(), &Config::default());
        let session = session.and_then(Session::spawn).expect("it is mounted");
        let path = dir.path().join(file::NAME);
        // A request that got no answer would keep this process for ever: all get one before anything is
        // compared.
        let serving = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while one_more(&server) {
                let (flags, Seen(command, cookie, ..)) = read_flagged(&mut server);
                seen.push((command, flags));
                reply(&mut server, cookie, 0, &[]);
            }
            seen
        });
        let file = File::options().write(true).custom_flags(how).open(path);
        let written = file.and_then(|file| file.write_at(&[7; 512], 1024));
        stage.engine.close();
        let seen = serving.join();
        session.umount_and_join().expect("it is unmounted");
        assert_eq!(written.expect("written"), 512);
        assert_eq!(seen.expect("it serves"), expected, "server {flags:#x}, file {how:#x}");
    }
}
