//! An NBD client: a few requests under way at whichever node serves, overlapping those of the other
//! clients, through a Unix socket, or over TCP from the third host. It tells the book what it sends
//! and what it is told.
//!
//! Invariants:
//! - The book knows of a write before it is sent, and of an answer only after it came.
//! - When the connection ends, a write is sent again later as the same write, or given up for good.
//! - A connection over TCP that the client gives up is reset: the system sends nothing of it later.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nbd::Command;
use nbd::client::{Address, Client, ClientError, Mode as Replies};
use nbd::constants::{NBD_CMD_FLAG_FUA, NBD_CMD_FLAG_NO_HOLE};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use tandem::sim::{Operation, Prng};

use crate::book::{Counts, FIRST_FAR, Mode, SECTOR, World, fill, value_of};
use crate::tally::Kind as Counted;

/// Sectors that are used: twelve extents of the activity log.
pub(crate) const SPAN: u64 = 12 * 8192;
/// Blocks that all clients like best.
const HOT: u64 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Zeroes { hole: bool },
    Trim,
    Flush,
}

/// A request under way.
#[derive(Clone, Debug)]
struct Request {
    kind: Kind,
    fua: bool,
    operation: Operation,
    /// It was sent when no fault was about.
    calm: bool,
}

impl Request {
    fn changes(&self) -> bool {
        !matches!(self.kind, Kind::Read | Kind::Flush)
    }
}

/// An open connection.
struct Session {
    client: Client,
    id: u64,
    pending: HashMap<u64, Request>,
}

/// One of them.
pub(crate) struct Worker {
    index: usize,
    world: Arc<World>,
    /// Where the nodes listen.
    addresses: [Address; 2],
    /// The node of the session before.
    last: Option<usize>,
    chance: Prng,
    session: Option<Session>,
    again: Vec<Request>,
    depth: usize,
}

impl Worker {
    pub(crate) fn new(index: usize, world: Arc<World>, addresses: [Address; 2], seed: u64) -> Self {
        let mut chance = Prng::new(seed, 20 + index as u64);
        let depth = *chance.choose(&[1, 4, 16]);
        let (session, last, again) = (None, None, Vec::new());
        Self { index, world, addresses, last, chance, session, again, depth }
    }

    fn is_far(&self) -> bool {
        self.index >= FIRST_FAR
    }

    /// Works until it is told to stop. `namespace`: where a client on the third host lives.
    pub(crate) fn run(mut self, namespace: &Path) {
        if self.is_far() {
            let entered =
                File::open(namespace).map_err(|error| error.to_string()).and_then(|file| {
                    setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| error.to_string())
                });
            if let Err(error) = entered {
                return self.world.violate(None, format!("no way into the third host: {error}"));
            }
        }
        loop {
            let mode = self.world.mode();
            let idle =
                self.again.is_empty() && self.session.as_ref().is_none_or(|s| s.pending.is_empty());
            self.world.resting[self.index].store(idle && mode == Mode::Rest, Ordering::SeqCst);
            match mode {
                Mode::Stop => return,
                Mode::Rest if idle => std::thread::sleep(Duration::from_millis(3)),
                _ if self.session.is_none() => self.open(),
                _ => self.turn(mode == Mode::Run),
            }
        }
    }

    fn open(&mut self) {
        let first = self.chance.index(2);
        for node in [first, 1 - first] {
            let address = self.addresses[node].clone();
            let patience = Duration::from_millis(self.chance.range(1500, 4000));
            let Ok(client) = Client::open(&address, "r0", Replies::Structured, patience) else {
                continue;
            };
            if self.is_far() {
                let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
                if setsockopt(&client, sockopt::Linger, &at_once).is_err() {
                    continue;
                }
            }
            Counts::add(&self.world.counts.sessions, 1);
            self.world.tally.add(if self.is_far() { Counted::Tcp } else { Counted::Unix }, 1, 0);
            if self.last.replace(node).is_some_and(|last| last != node) {
                self.world.tally.add(Counted::Followed, 1, self.again.len() as u64);
            }
            let id = self.world.book().session_opened(node);
            self.session = Some(Session { client, id, pending: HashMap::new() });
            for mut request in std::mem::take(&mut self.again) {
                self.world.book().sent_again(&mut request.operation, id);
                Counts::add(&self.world.counts.resent, 1);
                self.send(request);
            }
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }

    /// Sends what fits, and takes an answer.
    fn turn(&mut self, more: bool) {
        let burst = if more { 1 + self.chance.index(self.depth) } else { 0 };
        for _ in 0..burst {
            let Some(session) = &self.session else { return };
            if session.pending.len() >= self.depth {
                break;
            }
            let id = session.id;
            let request = self.request(id);
            self.send(request);
        }
        let told = self.world.vanish[self.index].swap(false, Ordering::SeqCst);
        if told || self.chance.one_in(1500) && more {
            // It vanishes, with whatever is under way.
            let under_way = self.session.as_ref().map_or(0, |session| session.pending.len() as u64);
            self.world.tally.add(Counted::Vanished, 1, under_way);
            return self.lost(0);
        }
        while let Some(session) = &mut self.session {
            let pending = session.pending.len();
            if pending == 0 || more && pending <= self.depth / 2 {
                break;
            }
            match session.client.read_reply() {
                Ok(reply) => {
                    let Some(request) = session.pending.remove(&reply.cookie) else { continue };
                    self.answered(&request, reply.code, &reply.data);
                }
                Err(error) => {
                    self.broken(&error);
                    break;
                }
            }
        }
        self.note_oldest();
        // Faults matter here, not speed.
        std::thread::sleep(Duration::from_millis(self.chance.below(8)));
    }

    fn note_oldest(&self) {
        let pending = self.session.iter().flat_map(|session| session.pending.values());
        let steps = pending.chain(&self.again).map(|request| request.operation.horizon);
        self.world.oldest[self.index].store(steps.min().unwrap_or(0), Ordering::SeqCst);
    }

    /// Draws a request, and tells the book.
    fn request(&mut self, session: u64) -> Request {
        let kind = match self.chance.below(100) {
            0..3 => Kind::Flush,
            3..6 => Kind::Trim,
            6..10 => Kind::Zeroes { hole: self.chance.percent(50) },
            10..65 => Kind::Write,
            _ => Kind::Read,
        };
        let fua = self.chance.percent(10) && !matches!(kind, Kind::Read | Kind::Flush);
        let range = self.range(kind);
        let open = self.world.open();
        let mut book = self.world.book();
        let operation = match kind {
            Kind::Flush => book.flush_starts(session),
            Kind::Read => book.read_starts(session, range),
            Kind::Write => book.write_starts(session, range, false, open),
            Kind::Zeroes { .. } | Kind::Trim => book.write_starts(session, range, true, open),
        };
        Request { kind, fua, operation, calm: false }
    }

    /// Where: sectors. Trims and zeroes are whole blocks, the rest sometimes is not.
    fn range(&mut self, kind: Kind) -> (u64, u64) {
        let blocks = SPAN / 8;
        let block = if self.chance.percent(70) {
            // Spread over all extents.
            self.chance.below(HOT) * (blocks / HOT)
        } else {
            self.chance.below(blocks)
        };
        let length = match self.chance.below(20) {
            0 => self.chance.range(8, 32),
            1..5 => self.chance.range(1, 4),
            _ => 1,
        };
        let (mut start, mut count) = (block * 8, length * 8);
        if matches!(kind, Kind::Read | Kind::Write) && self.chance.percent(15) {
            start += self.chance.below(8);
            count = count.saturating_sub(self.chance.below(8)).max(1);
        }
        (start, count.min(SPAN - start))
    }

    fn send(&mut self, mut request: Request) {
        request.calm = self.world.calm.load(Ordering::SeqCst);
        let Some(session) = &mut self.session else { return self.again.push(request) };
        let op = &request.operation;
        let mut payload = Vec::new();
        let mut flags = if request.fua { NBD_CMD_FLAG_FUA } else { 0 };
        let command = match request.kind {
            Kind::Read => Command::Read,
            Kind::Flush => Command::Flush,
            Kind::Trim => Command::Trim,
            Kind::Zeroes { hole } => {
                flags |= if hole { 0 } else { NBD_CMD_FLAG_NO_HOLE };
                Command::WriteZeroes
            }
            Kind::Write => {
                payload = vec![0; usize::try_from(op.count).unwrap_or(0) * SECTOR];
                for (sector, bytes) in (op.start..).zip(payload.chunks_exact_mut(SECTOR)) {
                    fill(bytes, sector, op.value);
                }
                Command::Write
            }
        };
        if request.changes() {
            self.world.sends(self.index, op);
        }
        let (offset, length) = (op.start * SECTOR as u64, op.count * SECTOR as u64);
        let sent = session.client.send_request(command, flags, offset, length, &payload);
        match sent {
            Ok(cookie) => {
                session.pending.insert(cookie, request);
            }
            Err(error) => {
                // Half a request may be a whole one for the server.
                session.pending.insert(u64::MAX, request);
                self.broken(&error);
            }
        }
        self.note_oldest();
    }

    fn answered(&mut self, request: &Request, code: u32, data: &[u8]) {
        let op = &request.operation;
        let world = &self.world;
        Counts::add(&world.counts.operations, 1);
        world.tally.add(if self.is_far() { Counted::Tcp } else { Counted::Unix }, 0, 1);
        world.sent(op);
        if code != 0 {
            Counts::add(&world.counts.errors, 1);
            if request.calm && world.calm.load(Ordering::SeqCst) {
                world.violate(None, format!("error {code} in calm times for {request:?}"));
            }
            if request.changes() {
                world.book().write_failed(op);
            }
            return;
        }
        match request.kind {
            Kind::Flush => {}
            Kind::Read => {
                let sectors = (op.start..).zip(data.chunks_exact(SECTOR));
                let values: Result<Vec<u64>, _> =
                    sectors.map(|(at, bytes)| value_of(bytes, at).map_err(|e| (at, e))).collect();
                let judged = values.and_then(|values| world.book().read_answered(op, &values));
                if let Err((sector, text)) = judged {
                    world.violate(Some(sector), format!("{text} (session {request:?})"));
                }
            }
            _ => world.book().write_answered(op),
        }
    }

    fn broken(&mut self, error: &ClientError) {
        if let ClientError::Protocol(what) = error {
            self.world.violate(None, format!("a client: the server broke the protocol: {what}"));
        }
        self.lost(80);
    }

    /// The connection is over: `percent` of the writes are sent again on the next one.
    fn lost(&mut self, percent: u64) {
        let Some(session) = self.session.take() else { return };
        let mut again: Vec<Request> = Vec::new();
        for request in session.pending.into_values() {
            self.world.sent(&request.operation);
            if request.changes() && self.chance.percent(percent) {
                again.push(request);
            }
        }
        again.sort_by_key(|request| request.operation.step);
        let kept: Vec<Operation> = again.iter().map(|request| request.operation.clone()).collect();
        // Closed before the book is told that it is.
        drop(session.client);
        self.world.book().session_closed(session.id, &kept);
        self.again.extend(again);
        self.note_oldest();
    }
}
