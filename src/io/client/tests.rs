//! Clients with a clock of the test: what stalls is ended in time, what only is slow is not.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nbd::BlockSizes;
use nbd::constants::{NBD_CMD_CACHE, NBD_CMD_WRITE, NBD_REQUEST_MAGIC};

use super::*;
use crate::io::ring::Completion;

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
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let parameters = SessionParameters {
            export: "r0".to_owned(),
            structured: false,
            extended: false,
            base_allocation: false,
            flags: nbd::constants::NBD_FLAG_HAS_FLAGS | nbd::constants::NBD_FLAG_SEND_CACHE,
            size: 1 << 30,
            client_asked_block_size: false,
            block: BlockSizes::default(),
        };
        let mut clients = Clients::default();
        clients.open(&mut io, ours.into(), 0, parameters, "test".to_owned());
        Self { io, clients, theirs }
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
    let mut bench = Bench::new();
    bench.theirs.write_all(&request(NBD_CMD_WRITE, 1 << 20)).unwrap();
    for _ in 0..10 {
        bench.theirs.write_all(&[7; 1000]).unwrap();
        for _ in 0..25 {
            bench.pass(1000);
        }
        assert!(bench.is_connected());
    }
    let seconds = bench.seconds_to_live();
    assert!((2..=10).contains(&seconds), "closed after 25 s and {seconds} more");
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
