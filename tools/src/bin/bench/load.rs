//! The client: keeps so many requests under way on each connection for the time of a slice.
//!
//! Connections stay open between slices. Each has a thread while a slice runs; what one receive
//! brought is answered with one send, as a busy client's kernel does it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nbd::client::{Address, Client, Mode};
use nbd::constants::{
    NBD_CMD_FLAG_FUA, NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_WRITE, NBD_REQUEST_MAGIC,
    NBD_SIMPLE_REPLY_MAGIC,
};

use crate::jobs::{Durable, Job, Order};

/// How long a server may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// What one receive takes at most, bytes.
const RECEIVE: usize = 256 << 10;
/// Bytes of a reply's header.
const HEADER: usize = 16;

/// What a slice has brought.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slice {
    /// Operations of each connection.
    pub(crate) operations: Vec<u64>,
    pub(crate) seconds: f64,
    /// How long each operation took, 0.1 us.
    pub(crate) latencies: Vec<u32>,
}

impl Slice {
    pub(crate) fn total(&self) -> u64 {
        self.operations.iter().sum()
    }

    pub(crate) fn rate(&self) -> f64 {
        self.total() as f64 / self.seconds
    }
}

/// The open connections to one export.
#[derive(Debug)]
pub(crate) struct Load {
    socket: PathBuf,
    export: &'static str,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    client: Client,
    seed: u64,
    cursor: u64,
    buffer: Vec<u8>,
    payload: Vec<u8>,
}

/// A part of an export, in requests.
#[derive(Clone, Copy, Debug)]
struct Area {
    first: u64,
    count: u64,
}

/// An operation that has not ended.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    since: Instant,
    read: bool,
    /// The flush behind it was sent.
    flushing: bool,
}

impl Load {
    pub(crate) fn new(socket: &Path, export: &'static str) -> Self {
        Self { socket: socket.to_owned(), export, connections: Vec::new() }
    }

    /// Runs the job for `length` on the first `span` bytes.
    pub(crate) fn run(&mut self, job: &Job, span: u64, length: Duration) -> Result<Slice, String> {
        while self.connections.len() < job.connections {
            let seed = 0x9e37_79b9 + self.connections.len() as u64;
            self.connections.push(Connection::open(&self.socket, self.export, seed)?);
        }
        let connections = &mut self.connections[..job.connections];
        let requests = span / job.size as u64;
        let parts = if job.is_parted() { job.connections as u64 } else { 1 };
        let begun = Instant::now();
        let done = std::thread::scope(|scope| {
            let threads: Vec<_> = connections
                .iter_mut()
                .enumerate()
                .map(|(index, connection)| {
                    let count = requests / parts;
                    let area = Area { first: index as u64 % parts * count, count };
                    scope.spawn(move || connection.run(job, area, begun + length))
                })
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|done| done.unwrap_or_else(|_| Err("the client panicked".to_owned())))
                .collect::<Result<Vec<_>, _>>()
        })?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut slice = Slice { seconds, ..Slice::default() };
        for latencies in done {
            slice.operations.push(latencies.len() as u64);
            slice.latencies.extend(latencies);
        }
        Ok(slice)
    }
}

impl Connection {
    fn open(socket: &Path, export: &str, seed: u64) -> Result<Self, String> {
        let address = Address::Unix(socket.to_owned());
        let client = Client::open(&address, export, Mode::Simple, PATIENCE);
        let client = client.map_err(|error| format!("{}: {error}", socket.display()))?;
        Ok(Self { client, seed, cursor: 0, buffer: vec![0; RECEIVE], payload: Vec::new() })
    }

    fn random(&mut self) -> u64 {
        // xorshift64*
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// The next request, behind those in `out`; whether it is a read.
    fn request(&mut self, job: &Job, area: Area, cookie: u64, out: &mut Vec<u8>) -> bool {
        let at = match job.order {
            Order::Random => self.random() % area.count,
            Order::Sequential => {
                self.cursor = (self.cursor + 1) % area.count;
                self.cursor
            }
        };
        let read = match job.reads {
            0 => false,
            100 => true,
            percent => self.random() % 100 < percent,
        };
        let fua = !read && job.durable == Durable::Fua;
        let kind = if read { NBD_CMD_READ } else { NBD_CMD_WRITE };
        let offset = (area.first + at) * job.size as u64;
        header(out, if fua { NBD_CMD_FLAG_FUA } else { 0 }, kind, cookie, offset, job.size as u32);
        if !read {
            out.extend_from_slice(&self.payload[..job.size]);
        }
        read
    }

    /// How long each operation took.
    fn run(&mut self, job: &Job, area: Area, until: Instant) -> Result<Vec<u32>, String> {
        while self.payload.len() < job.size {
            let word = self.random();
            self.payload.extend_from_slice(&word.to_be_bytes());
        }
        let mut latencies = Vec::new();
        let mut out = Vec::new();
        let mut under_way = HashMap::new();
        let since = Instant::now();
        for cookie in 0..job.depth as u64 {
            let read = self.request(job, area, cookie, &mut out);
            under_way.insert(cookie, UnderWay { since, read, flushing: false });
        }
        let mut next = job.depth as u64;
        let (mut start, mut end) = (0, 0);
        while !under_way.is_empty() {
            if !out.is_empty() {
                self.client.send_raw(&out).map_err(|error| error.to_string())?;
                out.clear();
            }
            if start == end {
                (start, end) = (0, 0);
            } else if self.buffer.len() - end < HEADER {
                self.buffer.copy_within(start..end, 0);
                (start, end) = (0, end - start);
            }
            let received = self.client.receive(&mut self.buffer[end..]);
            end += received.map_err(|error| error.to_string())?;
            let now = Instant::now();
            while end - start >= HEADER {
                let cookie = reply(&self.buffer[start..start + HEADER])?;
                start += HEADER;
                let Some(UnderWay { since, read, flushing }) = under_way.remove(&cookie) else {
                    return Err(format!("a reply to {cookie}, which is not under way"));
                };
                if read {
                    let here = (end - start).min(job.size);
                    start += here;
                    self.skip(job.size - here)?;
                }
                if !read && !flushing && job.durable == Durable::Flush {
                    header(&mut out, 0, NBD_CMD_FLUSH, next, 0, 0);
                    under_way.insert(next, UnderWay { since, read, flushing: true });
                    next += 1;
                    continue;
                }
                let took = now.duration_since(since).as_nanos() / 100;
                latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
                if now < until {
                    let read = self.request(job, area, next, &mut out);
                    under_way.insert(next, UnderWay { since: now, read, flushing: false });
                    next += 1;
                }
            }
        }
        Ok(latencies)
    }

    /// Receives so many bytes and forgets them: what is left of a read's data.
    fn skip(&mut self, mut bytes: usize) -> Result<(), String> {
        let mut into = [0; 64 << 10];
        while bytes > 0 {
            let most = bytes.min(into.len());
            let received = self.client.receive(&mut into[..most]);
            bytes -= received.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

fn header(out: &mut Vec<u8>, flags: u16, kind: u16, cookie: u64, offset: u64, length: u32) {
    out.extend_from_slice(&NBD_REQUEST_MAGIC.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
}

/// The cookie of a simple reply without error.
fn reply(bytes: &[u8]) -> Result<u64, String> {
    let number = |range: std::ops::Range<usize>| {
        bytes[range].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    if number(0..4) != u64::from(NBD_SIMPLE_REPLY_MAGIC) {
        return Err("a reply without its magic".to_owned());
    }
    match number(4..8) {
        0 => Ok(number(8..16)),
        code => Err(format!("the server answered error {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_names_its_request_or_its_error() {
        let mut bytes = NBD_SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(77_u64.to_be_bytes());
        assert_eq!(reply(&bytes), Ok(77));
        bytes[7] = 5;
        assert!(reply(&bytes).unwrap_err().contains("error 5"));
        bytes[0] = 0;
        assert!(reply(&bytes).unwrap_err().contains("magic"));
    }
}
