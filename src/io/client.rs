//! NBD clients in the transmission phase: bytes to requests, requests to pieces, pieces to replies.
//!
//! ```text
//!  socket -> staging 128 KiB -> header -> write:  pieces, each into its own buffer -> Request
//!                                      -> read:   pieces, each with its buffer reserved -> Request
//!                                      -> others: Request, or answered here
//!  Reply of a piece -> Request (of the client) -> reply or chunk -> outbox -> socket
//! ```
//!
//! Invariants:
//! - A piece reserves its buffer before its bytes are read (write) or it is given to the core
//!   (read), first come first served over all clients: what one client holds is bounded, and
//!   nobody waits behind a client that is behind himself. A client that holds nothing always gets
//!   one piece: all clients together hold at most [`CLIENT_BYTES`] and [`SESSIONS_MAX`] pieces.
//! - At most [`REQUESTS_MAX`] requests of a client are under way, and a client that does not take
//!   its replies is not served; then nothing more is received.
//! - Nobody holds a buffer for ever: no byte of a begun request for [`Limits::stall_ms`], or no
//!   progress of a send, closes the connection.
//! - A device has no request begun on a connection that it has left: before the first request of a
//!   connection that names its device, every other of that device ends, unread, but for the siblings
//!   that it names. What those had begun is with the core, and so ahead of what overlaps it.
//! - Nothing is begun of a client that has hung up while it was not being read: who sends a request
//!   again elsewhere has closed the connection before.
//! - The core hears `SessionClosed` exactly once for each `SessionOpened`, and no request after it.

mod devices;
mod held;
mod reading;
mod ready;
mod request;
mod under_way;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use nbd::reply::Extent;
use nbd::request::ReplyTo;
use nbd::{Errno, Replies, SessionParameters};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};

use crate::resource::{Event, Payload, ReplyError, RequestId, SessionId, Time, VolumeNumber};

use super::buffer::Part;
use super::context::{Context, Purpose};
use super::number_map::NumberMap;
use super::outbox::{Outbox, Sent};
use super::ring::{Descriptor, Memory};
use devices::{Known, Swept};
pub use held::HeldClient;
use reading::Reading;
use request::{Piece, Request};
use under_way::UnderWay;

/// Requests of one client that may be under way.
pub(crate) const REQUESTS_MAX: usize = 256;
/// Small replies that may wait for a client that does not take them, bytes.
const REPLIES_MAX: usize = 1 << 20;
/// Block status requests that are answered in one turn: each is many system calls.
pub(crate) const STATUS_MAX: usize = 8;
/// Clients of one resource; one more is closed at once.
pub(crate) const SESSIONS_MAX: usize = 128;
/// Buffers for all clients' pieces, bytes.
pub(crate) const CLIENT_BYTES: u64 = 32 << 20;

/// What clients may take; tests have smaller ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Buffers for all clients' pieces, bytes.
    pub(crate) bytes: u64,
    /// A request of which no byte arrives, or a reply of which none is taken, for so long ends the
    /// connection, ms.
    pub(crate) stall_ms: u64,
    /// The answer to an order that closes a disk waits so long for that, ms.
    pub(crate) close_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: CLIENT_BYTES, stall_ms: 30_000, close_ms: 30_000 }
    }
}

/// What is queued for a client that is told to go may take so long, ms.
const LEAVE_MS: u64 = 2_000;
/// Requests are received into this many bytes.
const STAGING: usize = 128 << 10;

/// Why a connection ends.
#[derive(Debug)]
pub(crate) enum End {
    /// NBD_CMD_DISC.
    Goodbye,
    /// It closed, broke, stalled, or did not speak NBD; a sentence.
    Lost(String),
}

/// A question that only the owner of the disks can answer: an NBD_CMD_BLOCK_STATUS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StatusAsked {
    /// Of this client.
    pub(crate) session: SessionId,
    /// On this volume.
    pub(crate) volume: VolumeNumber,
    /// From here, bytes.
    pub(crate) offset: u64,
    /// So far, bytes.
    pub(crate) length: u64,
    to: ReplyTo,
    one: bool,
}

/// What the clients share.
#[derive(Debug, Default)]
struct Desk {
    pieces: NumberMap<RequestId, Piece>,
    /// Clients that wait for buffers, in order.
    waiting: VecDeque<SessionId>,
    /// In this pass a read was put off that keeps no place among them.
    put_off: bool,
    asked: VecDeque<StatusAsked>,
    last_request: u64,
    /// No request is begun.
    held: bool,
}

impl Desk {
    /// A reservation of `bytes`, or a place in the queue. Who holds nothing (`first`) does not
    /// wait: clients that never read their replies cannot stop the others.
    fn reserve(&mut self, io: &Context, session: SessionId, bytes: u64, first: bool) -> bool {
        if first {
            self.waiting.retain(|waiting| *waiting != session);
            return true;
        }
        let used = io.pool.charged(Part::Client) + io.reads_reserved;
        let its_turn = self.waiting.front().is_none_or(|first| *first == session);
        if its_turn && (used == 0 || used + bytes <= io.limits.bytes) {
            self.waiting.pop_front();
            return true;
        }
        if !self.waiting.contains(&session) {
            self.waiting.push_back(session);
        }
        false
    }

    /// As [`Desk::reserve`], for a read. Who has some already never has more than is free behind it, and keeps no place:
    /// one that takes its replies slowly leaves room to all others, however many of its kind there are.
    fn reserve_read(
        &mut self,
        io: &Context,
        client: (SessionId, u64),
        bytes: u64,
        first: bool,
    ) -> bool {
        let (session, own) = client;
        let used = io.pool.charged(Part::Client) + io.reads_reserved;
        if own > 0 && own + used + 2 * bytes > io.limits.bytes {
            self.waiting.retain(|waiting| *waiting != session);
            self.put_off = true;
            return false;
        }
        self.reserve(io, session, bytes, first)
    }

    fn number(&mut self, piece: Piece) -> RequestId {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        self.pieces.insert(request, piece);
        request
    }
}

/// A client that is on its way out: nothing is received any more.
#[derive(Debug)]
struct Leaving {
    /// Its requests are done and answered first (after DISC).
    answer_all: bool,
    until: Option<Time>,
}

#[derive(Debug)]
struct Client {
    id: SessionId,
    volume: VolumeNumber,
    description: String,
    fd: Descriptor,
    parameters: SessionParameters,
    replies: Replies,
    staging: Payload,
    start: usize,
    end: usize,
    reading: Reading,
    peek: bool,
    receiving: Option<UnderWay>,
    /// When the last byte came, or was first waited for.
    heard: Time,
    /// The receive that was asked how far it is had brought nothing.
    mute: bool,
    outbox: Outbox,
    /// The read whose reply has begun and is to be followed by the rest of its data: everything else
    /// goes behind it.
    begun: Option<u64>,
    /// Reads that have data which may not go out yet.
    waiting_reads: usize,
    /// Bytes that are reserved for its reads, until their data has been sent.
    reserved: u64,
    sending: Option<UnderWay>,
    /// Since when no byte of a reply was taken, while one is being sent.
    deaf_since: Option<Time>,
    requests: NumberMap<u64, Request>,
    last_key: u64,
    /// Block status requests that are not answered.
    asked: usize,
    /// A request has waited to be begun: it may have been given up meanwhile.
    paused: bool,
    /// It has begun no request: with the first one the older connections of its device end.
    is_fresh: bool,
    /// From a restart: it is older than those that are new.
    has_come_back: bool,
    leaving: Option<Leaving>,
}

/// All clients of one resource.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    sessions: BTreeMap<SessionId, Client>,
    desk: Desk,
    last_session: u64,
    swept: Swept,
    known: Known,
}

/// Closes both directions; a receive that is under way returns 0. It may be closed already.
pub(crate) fn shut_down(fd: &Descriptor) {
    let _ = shutdown(fd.as_fd().as_raw_fd(), Shutdown::Both);
}

/// The ring waits by itself; on a descriptor that does not block it would not.
fn prepare(fd: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    // Not a TCP socket: nothing to set.
    let _ = setsockopt(fd, sockopt::TcpNoDelay, &true);
    Ok(())
}

impl Clients {
    /// A client whose negotiation is over.
    pub(crate) fn open(
        &mut self,
        io: &mut Context,
        fd: OwnedFd,
        volume: VolumeNumber,
        parameters: SessionParameters,
        description: String,
    ) {
        if self.sessions.len() >= SESSIONS_MAX {
            tracing::warn!(target: "tandem", resource = %io.name,
                "client {description} is refused: {SESSIONS_MAX} clients are connected");
            return;
        }
        if let Err(error) = prepare(&fd) {
            tracing::warn!(target: "tandem", resource = %io.name,
                "client {description}: its descriptor is not usable: {error}");
            return;
        }
        self.last_session += 1;
        let id = SessionId(self.last_session);
        let client = Client {
            id,
            volume,
            description: description.clone(),
            fd: Rc::new(fd),
            replies: Replies::for_session(&parameters),
            parameters,
            staging: io.pool.take(Part::Shell, STAGING),
            start: 0,
            end: 0,
            reading: Reading::Header,
            peek: false,
            receiving: None,
            heard: io.now,
            mute: false,
            outbox: Outbox::default(),
            begun: None,
            waiting_reads: 0,
            reserved: 0,
            sending: None,
            deaf_since: None,
            requests: NumberMap::default(),
            last_key: 0,
            asked: 0,
            paused: false,
            is_fresh: true,
            has_come_back: false,
            leaving: None,
        };
        self.remember(&client);
        self.sessions.insert(id, client);
        io.events.push_back(Event::SessionOpened { session: id, volume, client: description });
    }

    /// A receive has ended.
    pub(crate) fn received(
        &mut self,
        io: &mut Context,
        session: SessionId,
        memory: Memory,
        result: i32,
    ) {
        io.reclaim(memory);
        let Some(client) = self.sessions.get_mut(&session) else { return };
        let outcome = client.take_bytes(io, result);
        if client.is_fresh {
            return self.advance_fresh(io, session, outcome);
        }
        let outcome = outcome.and_then(|()| client.advance(io, &mut self.desk));
        self.settle(io, session, outcome);
    }

    /// Before the first request of a client the connections end that its device has left.
    fn advance_fresh(&mut self, io: &mut Context, session: SessionId, outcome: Result<(), End>) {
        let outcome = outcome.and_then(|()| {
            self.sweep(io, session);
            let client = self.sessions.get_mut(&session);
            client.map_or(Ok(()), |client| client.advance(io, &mut self.desk))
        });
        self.settle(io, session, outcome);
    }

    /// A send has ended.
    pub(crate) fn sent(
        &mut self,
        io: &mut Context,
        session: SessionId,
        memory: Memory,
        result: i32,
    ) {
        let Some(client) = self.sessions.get_mut(&session) else { return io.reclaim(memory) };
        let Memory::Message(message) = memory else { return };
        client.sending = None;
        match client.outbox.returned(message, result, &mut io.pool) {
            Sent::Some { note } => {
                client.give_back(io, note);
                client.deaf_since = None;
            }
            // No byte was taken, as it was asked how far it is, or there was no room: it goes on until
            // it expires.
            Sent::Failed(libc::ECANCELED | libc::EAGAIN) => {}
            Sent::Failed(errno) => {
                let why = std::io::Error::from_raw_os_error(errno).to_string();
                self.settle(io, session, Err(End::Lost(why)));
            }
        }
    }

    /// The core's answer to a piece. The client may be gone.
    pub(crate) fn reply(
        &mut self,
        io: &mut Context,
        request: RequestId,
        result: Result<Option<Payload>, ReplyError>,
    ) {
        let Some(piece) = self.desk.pieces.remove(&request) else { return };
        let session = piece.session;
        let Some(client) = self.sessions.get_mut(&session) else { return };
        let outcome = client.answer(io, &mut self.desk, piece, result);
        self.settle(io, session, outcome);
    }

    /// Goes on with clients that waited for buffers or for a place.
    pub(crate) fn resume(&mut self, io: &mut Context) {
        self.desk.put_off = false;
        while let Some(first) = self.desk.waiting.front().copied() {
            self.resume_one(io, first);
            if self.desk.waiting.front() == Some(&first) {
                break;
            }
        }
        let mut next = self.session_after(None);
        while let Some(session) = next {
            self.resume_one(io, session);
            next = self.session_after(Some(session));
        }
    }

    /// The clients one after the other, where a list would be allocated in each turn.
    fn session_after(&self, last: Option<SessionId>) -> Option<SessionId> {
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.sessions.range((start, Bound::Unbounded)).next().map(|(session, _)| *session)
    }

    fn resume_one(&mut self, io: &mut Context, session: SessionId) {
        let Some(client) = self.sessions.get_mut(&session) else {
            self.desk.waiting.retain(|waiting| *waiting != session);
            return;
        };
        if client.is_fresh {
            return self.advance_fresh(io, session, Ok(()));
        }
        let outcome = client.advance(io, &mut self.desk);
        self.settle(io, session, outcome);
    }

    /// A volume has this size now, bytes. Requests of clients that are connected may go as far, too:
    /// the kernel's driver can be told a new size while it is in use.
    pub(crate) fn grow(&mut self, volume: VolumeNumber, size: u64) {
        let of_volume = self.sessions.values_mut().filter(|client| client.volume == volume);
        of_volume.for_each(|client| {
            client.parameters.size = client.parameters.size.max(size);
        });
    }

    /// Arms receives and starts sends; ends the clients that are done leaving.
    pub(crate) fn start(&mut self, io: &mut Context) {
        let mut done = Vec::new();
        for (id, client) in &mut self.sessions {
            if client.has_left() {
                done.push(*id);
                continue;
            }
            client.arm(io, self.desk.held);
            client.send(io);
        }
        for session in done {
            self.remove(io, session);
        }
    }

    /// Nobody is connected.
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Somebody waits for a buffer.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.desk.waiting.is_empty() || self.desk.put_off
    }

    /// What [`Clients::answer_status`] must be called for.
    pub(crate) fn next_asked(&mut self) -> Option<StatusAsked> {
        self.desk.asked.pop_front()
    }

    /// Answers a block status with these extents.
    pub(crate) fn answer_status(
        &mut self,
        asked: &StatusAsked,
        extents: impl IntoIterator<Item = Extent>,
    ) {
        let Some(client) = self.sessions.get_mut(&asked.session) else { return };
        client.asked -= 1;
        let replies = client.replies;
        client.push(|out| {
            let done = replies.block_status(out, asked.to, asked.length, asked.one, extents);
            if let Err(error) = done {
                replies.error(out, asked.to, Errno::EIO, &error.to_string());
            }
        });
    }

    /// Ends every client of a volume (`None`: of all), after what is queued for it was sent.
    pub(crate) fn dismiss(&mut self, io: &mut Context, volume: Option<VolumeNumber>) {
        for client in self.sessions.values_mut() {
            let meant = volume.is_none_or(|volume| volume == client.volume);
            if meant && client.leave(io, &mut self.desk, Some(io.now.after_ms(LEAVE_MS)), false) {
                client.send_last(io);
                let session = client.id;
                io.events.push_back(Event::SessionClosed { session, disconnect: false });
            }
        }
    }

    /// Closes every client at once, unread (after a gap, at a failure, at the end).
    pub(crate) fn drop_all(&mut self, io: &mut Context) {
        let all: Vec<_> = self.sessions.keys().copied().collect();
        for session in all {
            self.remove(io, session);
        }
    }

    /// Shuts the sockets down and touches nothing else: after a panic.
    pub(crate) fn shut_down_sockets(&self) {
        self.sessions.values().for_each(|client| shut_down(&client.fd));
    }

    /// Whether block status requests wait for the next turn.
    pub(crate) fn is_asking(&self) -> bool {
        !self.desk.asked.is_empty()
    }

    /// When something of a client expires.
    pub(crate) fn deadline(&self, io: &Context) -> Option<Time> {
        self.sessions.values().filter_map(|client| client.deadline(io.limits)).min()
    }

    /// Ends what has expired.
    pub(crate) fn expire(&mut self, io: &mut Context) {
        let late: Vec<_> = (self.sessions.iter())
            .filter(|(_, client)| {
                client.deadline(io.limits).is_some_and(|deadline| deadline <= io.now)
            })
            .map(|(id, _)| *id)
            .collect();
        for session in late {
            let Some(client) = self.sessions.get_mut(&session) else { continue };
            let outcome = client.expire(io);
            self.settle(io, session, outcome);
        }
    }

    fn settle(&mut self, io: &mut Context, session: SessionId, outcome: Result<(), End>) {
        let Some(client) = self.sessions.get_mut(&session) else { return };
        match outcome {
            Ok(()) => {}
            Err(End::Goodbye) => {
                if client.leave(io, &mut self.desk, None, true) {
                    io.events.push_back(Event::SessionClosed { session, disconnect: true });
                }
            }
            Err(End::Lost(why)) => {
                tracing::info!(target: "tandem", resource = %io.name, volume = client.volume,
                    "client {} is gone: {why}", client.description);
                self.remove(io, session);
            }
        }
    }

    /// Closes the socket and gives back what is the shell's. What the core or the kernel still has
    /// of it comes back by itself.
    fn remove(&mut self, io: &mut Context, session: SessionId) {
        let Some(mut client) = self.sessions.remove(&session) else { return };
        shut_down(&client.fd);
        if client.leave(io, &mut self.desk, None, false) {
            io.events.push_back(Event::SessionClosed { session, disconnect: false });
        }
        self.desk.pieces.retain(|_, piece| {
            if piece.session == session {
                io.reads_reserved -= piece.reserved;
            }
            piece.session != session
        });
        // Nor is anything looked up for it.
        self.desk.asked.retain(|one| one.session != session);
        client.requests.drain().for_each(|(_, request)| request.abandon(io));
        io.reads_reserved -= client.outbox.clear(&mut io.pool);
        io.release(client.staging);
    }
}

impl Client {
    /// Starts to leave; `false` if it was leaving already.
    fn leave(
        &mut self,
        io: &mut Context,
        desk: &mut Desk,
        until: Option<Time>,
        answer_all: bool,
    ) -> bool {
        desk.waiting.retain(|waiting| *waiting != self.id);
        if self.leaving.is_some() {
            return false;
        }
        if let Reading::Upload(upload) = std::mem::replace(&mut self.reading, Reading::Header)
            && let Some(payload) = upload.payload
        {
            io.release(payload);
        }
        self.leaving = Some(Leaving { answer_all, until });
        true
    }

    /// So many bytes are reserved for its reads no more.
    fn give_back(&mut self, io: &mut Context, bytes: u64) {
        io.reads_reserved -= bytes;
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// No buffer is on its account: nothing is under way, and no reply is queued.
    fn holds_nothing(&self) -> bool {
        self.outbox.is_empty() && self.requests.values().all(|request| request.outstanding == 0)
    }

    /// It was told to go, and gets what is queued for it.
    fn is_dismissed(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| !leaving.answer_all)
    }

    fn has_left(&self) -> bool {
        // A reply that nobody completes any more is in the way of all that is queued behind it.
        if self.is_dismissed() && self.begun.is_some() && self.outbox.is_stuck() {
            return true;
        }
        let answered = self.requests.is_empty() && self.asked == 0;
        self.leaving
            .as_ref()
            .is_some_and(|leaving| self.outbox.is_empty() && (answered || !leaving.answer_all))
    }

    /// No further request is taken up now.
    fn is_full(&self) -> bool {
        let small = self.outbox.bytes().saturating_sub(self.outbox.payload());
        self.requests.len() + self.asked >= REQUESTS_MAX || small >= REPLIES_MAX
    }

    fn send(&mut self, io: &mut Context) {
        let quiet = !io.buffers_awaited && self.leaving.is_none();
        if let Some(message) = self.outbox.next(quiet) {
            let operation = io.ring.send(&self.fd, message, Purpose::ClientSend(self.id));
            self.sending = Some(UnderWay::new(operation, false, io));
            self.deaf_since.get_or_insert(io.now);
        }
    }

    /// Offers what is queued to the socket, and ends it right behind: who goes on sending as answers
    /// come in has little time to send what nobody answers any more.
    fn send_last(&mut self, io: &mut Context) {
        // On this machine a request fails from here on, where it would be lost.
        let _ = shutdown(self.fd.as_fd().as_raw_fd(), Shutdown::Read);
        while let Some(mut message) = self.outbox.next(false) {
            let sent = message.send_now(&self.fd);
            match self.outbox.returned(message, sent, &mut io.pool) {
                Sent::Some { note } => self.give_back(io, note),
                // It goes out as any other does.
                Sent::Failed(_) => return,
            }
        }
        if self.outbox.is_empty() {
            shut_down(&self.fd);
        }
    }

    /// In the middle of a request: its bytes must come.
    fn has_begun(&self) -> bool {
        let begun = !matches!(self.reading, Reading::Header) || self.end > self.start;
        begun && self.receiving.is_some() && self.leaving.is_none()
    }

    /// When no byte of a request, or of a reply, has moved for too long.
    fn stalls(&self, limits: Limits) -> [Option<Time>; 2] {
        let heard = Some(self.heard).filter(|_| self.has_begun());
        [heard, self.deaf_since].map(|since| since.map(|since| since.after_ms(limits.stall_ms)))
    }

    fn deadline(&self, limits: Limits) -> Option<Time> {
        let leave = self.leaving.as_ref().and_then(|leaving| leaving.until);
        let whole = self.receiving.as_ref().filter(|receiving| receiving.direct);
        let looks = [
            whole.and_then(UnderWay::deadline),
            self.sending.as_ref().and_then(UnderWay::deadline),
        ];
        looks.into_iter().chain(self.stalls(limits)).chain([leave]).flatten().min()
    }

    fn expire(&mut self, io: &mut Context) -> Result<(), End> {
        let (now, stall_ms) = (io.now, io.limits.stall_ms);
        let late = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if late(self.leaving.as_ref().and_then(|leaving| leaving.until)) {
            return Err(End::Lost("it did not take its last replies in time".to_owned()));
        }
        let [mute, deaf] = self.stalls(io.limits);
        if late(deaf) {
            return Err(End::Lost(format!("it took no byte of a reply in {stall_ms} ms")));
        }
        if late(mute) {
            return Err(End::Lost(format!("no byte of a request in {stall_ms} ms")));
        }
        if let Some(receiving) = self.receiving.as_mut().filter(|receiving| receiving.direct) {
            receiving.look(io);
        }
        if let Some(sending) = &mut self.sending {
            sending.look(io);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
