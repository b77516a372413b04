//! The answering half of a client: pieces into one reply.
//!
//! Invariants:
//! - A reply in order (one header for all its data: simple replies, and structured ones with DF) is
//!   not interrupted: from its first byte to its last one everything else goes behind it.
//! - One begins only if nothing that comes after it is needed for its end: every piece has its
//!   buffer, or no older read has one.

use nbd::reply::ReadFailure;
use nbd::request::ReplyTo;
use nbd::{Errno, ReadReply};

use crate::resource::{Op, Payload, ReplyError, SessionId, ZEROES_MAX};

use super::ready::Ready;
use super::{Client, Desk, End};
use crate::io::buffer::Direction;
use crate::io::context::Context;

/// Pieces of one trim or zeroes that are under way at once: a client may trim the whole volume
/// with one request.
const ZEROES_PARALLEL: u32 = 4;

/// A piece that the core has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) session: SessionId,
    pub(super) key: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
    /// Bytes that are reserved for its data until they are sent; 0 for anything but a read.
    pub(super) reserved: u64,
}

/// What is left of a trim or zeroes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zeroes {
    pub(super) offset: u64,
    pub(super) left: u64,
    /// Its edges are not given out yet: it is not issued before.
    pub(super) edges: bool,
    pub(super) no_hole: bool,
    pub(super) fua: bool,
}

/// What a request of the client needs to be answered.
#[derive(Debug)]
pub(super) enum Kind {
    /// Its pieces done: a write, a flush.
    Plain,
    /// Further pieces.
    Zeroes(Zeroes),
    /// The data; in order where the reply has one piece only.
    Read {
        reply: ReadReply,
        ordered: bool,
        /// First byte that is not in the outbox yet, where it is in order.
        next: u64,
        /// Behind its last byte.
        end: u64,
        /// Pieces that are not in the outbox, with what is reserved for them.
        ready: Ready,
    },
}

/// A request of the client that is not answered.
#[derive(Debug)]
pub(super) struct Request {
    to: ReplyTo,
    pub(super) kind: Kind,
    pub(super) outstanding: u32,
    /// Every piece was given to the core.
    pub(super) issued: bool,
    /// The first error, and where.
    pub(super) failed: Option<(Errno, u64)>,
}

impl Request {
    pub(super) fn new(to: ReplyTo, kind: Kind) -> Self {
        Self { to, kind, outstanding: 0, issued: false, failed: None }
    }

    /// Nobody waits for the answer any more.
    pub(super) fn abandon(self, io: &mut Context) {
        if let Kind::Read { ready, .. } = self.kind {
            for (lease, reserved) in ready.into_data() {
                io.pool.end(lease);
                io.reads_reserved -= reserved;
            }
        }
    }
}

impl Request {
    /// A reply in order whose next piece is here.
    fn has_next(&self) -> bool {
        let Kind::Read { ordered: true, next, ready, .. } = &self.kind else { return false };
        ready.first() == Some(*next)
    }

    /// All that is missing of it is here, and it is in order.
    fn is_whole(&self) -> bool {
        let Kind::Read { next, end, ready, .. } = &self.kind else { return false };
        let mut at = *next;
        for (offset, (lease, _)) in ready.iter() {
            if offset != at {
                return false;
            }
            at += lease.length() as u64;
        }
        at == *end
    }
}

fn errno(error: ReplyError) -> Errno {
    match error {
        ReplyError::Io => Errno::EIO,
        ReplyError::Invalid => Errno::EINVAL,
        ReplyError::NoSpace => Errno::ENOSPC,
        ReplyError::Shutdown => Errno::ESHUTDOWN,
    }
}

fn sentence(errno: Errno) -> &'static str {
    match errno {
        Errno::EIO => "no copy of the data can be reached",
        Errno::ENOSPC => "no space is left",
        Errno::ESHUTDOWN => "this node does not serve the volume any more",
        _ => "the request is not valid here",
    }
}

impl Client {
    /// The core's answer to a piece.
    pub(super) fn answer(
        &mut self,
        io: &mut Context,
        desk: &mut Desk,
        piece: Piece,
        result: Result<Option<Payload>, ReplyError>,
    ) -> Result<(), End> {
        let Some(request) = self.requests.get_mut(&piece.key) else {
            self.give_back(io, piece.reserved);
            return Ok(());
        };
        request.outstanding -= 1;
        if matches!(result, Err(ReplyError::Shutdown)) && self.is_dismissed() {
            // It has not been done, and is asked again elsewhere: nobody is told that it failed.
            self.give_back(io, piece.reserved);
            if let Some(request) = self.requests.remove(&piece.key) {
                request.abandon(io);
            }
            return Ok(());
        }
        let delivered = match result {
            Err(error) => Err(errno(error)),
            Ok(payload) => self.deliver(io, &piece, payload),
        };
        if let Err(errno) = delivered {
            self.give_back(io, piece.reserved);
            if let Some(request) = self.requests.get_mut(&piece.key) {
                request.failed.get_or_insert((errno, piece.offset));
            }
        }
        self.issue_zeroes(io, desk, piece.key);
        self.release_if_failed(io, piece.key);
        self.finish_if_done(io, piece.key)
    }

    /// Queues the data of a piece of a read, or keeps it until its turn comes.
    fn deliver(
        &mut self,
        io: &mut Context,
        piece: &Piece,
        payload: Option<Payload>,
    ) -> Result<(), Errno> {
        let Some(request) = self.requests.get_mut(&piece.key) else { return Ok(()) };
        let failed = request.failed.is_some();
        let Kind::Read { ordered, ready, .. } = &mut request.kind else { return Ok(()) };
        if failed && *ordered {
            // The reply cannot be completed any more.
            return Err(Errno::EIO);
        }
        let lease = payload
            .filter(|payload| payload.length == piece.length)
            .and_then(|payload| io.pool.lease(payload, Direction::Source).ok());
        let Some(lease) = lease else {
            tracing::error!(target: "tandem", resource = %io.name,
                "defect: a read was answered with {payload:?} for {piece:?}");
            return Err(Errno::EIO);
        };
        let (ordered, waited) = (*ordered, !ready.is_empty());
        ready.insert(piece.offset, (lease, piece.reserved));
        if !ordered {
            self.push_ready(io, piece.key);
        } else {
            self.waiting_reads += usize::from(!waited);
            self.push_in_order(io, piece.key);
        }
        Ok(())
    }

    /// An answer, or a part of one: it does not interrupt a reply that has begun.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.begun.is_some() {
            self.outbox.push_behind(write, None, 0);
        } else {
            self.outbox.push(write, None, 0);
        }
    }

    /// The data of a reply in order that may go out goes to the outbox.
    fn push_in_order(&mut self, io: &Context, key: u64) {
        let Some(request) = self.requests.get(&key).filter(|request| request.has_next()) else {
            return;
        };
        let whole = request.is_whole();
        match self.begun {
            Some(begun) if begun == key => {
                self.begun = None;
                self.push_ready(io, key);
                if !whole {
                    self.begun = Some(key);
                    return;
                }
                self.outbox.release_behind();
                self.begin_waiting(io);
            }
            _ if whole => self.push_ready(io, key),
            None if request.issued || self.is_oldest_read(key) => {
                self.push_ready(io, key);
                self.begun = Some(key);
            }
            _ => {}
        }
    }

    /// Reads whose data had to wait begin, as far as they may now.
    pub(super) fn begin_waiting(&mut self, io: &Context) {
        while self.begun.is_none() && self.waiting_reads > 0 {
            let may = |key: u64, request: &Request| {
                request.has_next() && (request.issued || self.is_oldest_read(key))
            };
            let next = self.requests.iter().filter(|(key, request)| may(**key, request));
            let Some(key) = next.map(|(key, _)| *key).min() else { return };
            self.push_in_order(io, key);
        }
    }

    fn is_oldest_read(&self, key: u64) -> bool {
        let read = |request: &Request| matches!(request.kind, Kind::Read { .. });
        !self.requests.iter().any(|(other, request)| *other < key && read(request))
    }

    /// What is ready of a read goes to the outbox, as far as its turn has come.
    fn push_ready(&mut self, io: &Context, key: u64) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let Kind::Read { reply, ordered, next, ready, .. } = &mut request.kind else { return };
        while ready.first().is_some_and(|first| !*ordered || first == *next) {
            let Some((offset, (lease, reserved))) = ready.pop_first() else { return };
            let length = lease.length() as u32;
            *next = offset + u64::from(length);
            let mut fits = Ok(());
            let header = |out: &mut Vec<u8>| fits = reply.data(out, offset, length);
            if self.begun.is_some() {
                self.outbox.push_behind(header, Some(lease), reserved);
            } else {
                self.outbox.push(header, Some(lease), reserved);
            }
            if let Err(error) = fits {
                tracing::error!(target: "tandem", resource = %io.name, "defect: {error}");
            }
        }
        self.waiting_reads -= usize::from(*ordered && ready.is_empty());
    }

    /// Gives the next pieces of a trim or zeroes to the core.
    pub(super) fn issue_zeroes(&mut self, io: &mut Context, desk: &mut Desk, key: u64) {
        while let Some(request) = self.requests.get_mut(&key) {
            let Kind::Zeroes(zeroes) = &mut request.kind else { return };
            if zeroes.edges {
                return;
            }
            if zeroes.left == 0 || request.failed.is_some() {
                request.issued = true;
                return;
            }
            if request.outstanding >= ZEROES_PARALLEL {
                return;
            }
            let Zeroes { offset, no_hole, fua, .. } = *zeroes;
            let length = zeroes.left.min(ZEROES_MAX - offset % ZEROES_MAX);
            zeroes.offset += length;
            zeroes.left -= length;
            // At most ZEROES_MAX.
            let length = length as u32;
            let op = Op::Zeroes { offset, length, no_hole, fua };
            self.submit(io, desk, key, (offset, length, 0), op);
        }
    }

    /// A reply in order that has failed keeps no data.
    fn release_if_failed(&mut self, io: &mut Context, key: u64) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        if request.failed.is_none() {
            return;
        }
        if let Kind::Read { ordered, ready, .. } = &mut request.kind {
            self.waiting_reads -= usize::from(*ordered && !ready.is_empty());
            for (lease, reserved) in std::mem::take(ready).into_data() {
                io.pool.end(lease);
                self.give_back(io, reserved);
            }
        }
    }

    /// Answers the request if all its pieces are done.
    pub(super) fn finish_if_done(&mut self, io: &Context, key: u64) -> Result<(), End> {
        let done = |request: &Request| request.issued && request.outstanding == 0;
        if !self.requests.get(&key).is_some_and(done) {
            return Ok(());
        }
        let Some(request) = self.requests.remove(&key) else { return Ok(()) };
        let (to, replies) = (request.to, self.replies);
        match (request.kind, request.failed) {
            // It may have been what a younger read has waited for.
            (Kind::Read { .. }, None) => self.begin_waiting(io),
            (Kind::Read { mut reply, .. }, Some((errno, offset))) => {
                let mut outcome = ReadFailure::Replied;
                self.push(|out| outcome = reply.fail(out, errno, offset, sentence(errno)));
                if outcome == ReadFailure::Close {
                    let why = "a read failed in the middle of its reply";
                    return Err(End::Lost(why.to_owned()));
                }
                self.begin_waiting(io);
            }
            (Kind::Plain | Kind::Zeroes(_), None) => {
                self.push(|out| replies.ok(out, to));
            }
            (Kind::Plain | Kind::Zeroes(_), Some((errno, offset))) => {
                let why = sentence(errno);
                self.push(|out| replies.error_at(out, to, errno, offset, why));
            }
        }
        Ok(())
    }
}
