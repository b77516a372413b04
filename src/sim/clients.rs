//! NBD clients: each keeps a few requests under way, and goes to whichever node serves.
//!
//! Invariants:
//! - A request is answered at most once, and a payload of a read has the length that was asked for.
//! - What a client is told goes to the history at once.

use std::collections::BTreeMap;

use crate::resource::{
    ConnectionState, DiskState, Event, Op, Payload, ReplicationState, ReplyError, RequestId,
    SessionId, Time, VolumeNumber,
};

use super::cluster::{Cluster, Happening};
use super::history::{Operation, Rests};
use super::node::Input;
use super::prng::Prng;

/// The stream of chance for load around faults.
const BURSTS: u64 = 27;

/// Sectors of a MiB: no request crosses a multiple of it.
const MIB: u64 = 2048;

/// A client's connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    id: u64,
    node: usize,
    life: u64,
    /// Sectors that the export had when it connected: what it is told later it does not hear.
    sectors: u64,
}

/// A client.
#[derive(Clone, Debug)]
struct Worker {
    volume: VolumeNumber,
    session: Option<Session>,
    /// What it has asked for last was a write.
    wrote: bool,
    /// Writes that a lost session has not answered, to be sent again.
    kept: Vec<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
    Zeroes,
}

/// What [`Cluster::ask`] asks for. Blocks of 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Write { block: u64, fua: bool },
    Flush,
    Read { block: u64 },
}

/// A request under way.
#[derive(Clone, Debug)]
struct Request {
    kind: Kind,
    fua: bool,
    session: Session,
    operation: Operation,
    /// When it was sent.
    since: Time,
}

/// All clients.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    workers: Vec<Worker>,
    requests: BTreeMap<RequestId, Request>,
    next_session: u64,
    next_request: u64,
    /// Nobody sends anything new.
    pub stopped: bool,
    /// Requests that were answered.
    pub answered: u64,
    /// Of them, with an error.
    pub errors: u64,
}

impl Clients {
    /// Clients of these volumes in turn, not connected.
    #[must_use]
    pub(super) fn new(workers: usize, volumes: u16) -> Self {
        let worker = |n: usize| Worker {
            volume: u16::try_from(n).unwrap_or(0) % volumes,
            session: None,
            wrote: false,
            kept: Vec::new(),
        };
        Self {
            workers: (0..workers.max(usize::from(volumes))).map(worker).collect(),
            requests: BTreeMap::new(),
            next_session: 1,
            next_request: 1,
            stopped: false,
            answered: 0,
            errors: 0,
        }
    }

    /// How many clients there are.
    #[must_use]
    pub(super) fn count(&self) -> usize {
        self.workers.len()
    }

    /// Requests that are not answered.
    #[must_use]
    pub(super) fn pending(&self) -> usize {
        self.requests.len()
    }

    /// The request that waits longest: since when, which, and where.
    pub(super) fn oldest(&self) -> Option<(Time, RequestId, usize)> {
        let all = self.requests.iter();
        all.map(|(id, one)| (one.since, *id, one.session.node)).min_by_key(|one| one.0)
    }

    /// Requests of a volume that are not answered.
    #[must_use]
    pub(super) fn pending_of(&self, volume: VolumeNumber) -> usize {
        self.requests.values().filter(|r| r.operation.volume == volume).count()
    }

    /// This client is connected to this node.
    #[must_use]
    pub(super) fn is_connected(&self, worker: usize, node: usize) -> bool {
        self.workers[worker].session.is_some_and(|s| s.node == node)
    }

    /// A node has clients.
    #[must_use]
    pub(super) fn connected_to(&self, node: usize) -> bool {
        self.workers.iter().any(|w| w.session.is_some_and(|s| s.node == node))
    }
}

impl Cluster {
    /// A client's turn.
    pub(super) fn work(&mut self, worker: usize) {
        let (low, high) = if self.clients.answered > self.options.requests {
            (self.options.think_us, 1_000_000)
        } else {
            (50, self.options.think_us)
        };
        let pause = self.chance.clients.skewed(low, high) * 1000;
        self.after(pause, Happening::Worker(worker));
        if self.clients.stopped {
            return;
        }
        let Some(session) = self.clients.workers[worker].session else {
            return self.open_session(worker);
        };
        let mine = |r: &&Request| r.session.id == session.id;
        let pending = self.clients.requests.values().filter(mine).count();
        if pending < self.depth(worker) {
            self.issue(worker, session);
        }
    }

    /// It flushes each write before it does anything else.
    fn commits(&self, worker: usize) -> bool {
        self.options.commits && worker < usize::from(self.options.volumes)
    }

    /// Requests that a client has under way at most.
    fn depth(&self, worker: usize) -> usize {
        if self.commits(worker) { 1 } else { self.options.depth }
    }

    /// Around a third of the faults there is load, whatever a client has done by then: else most would strike
    /// nodes on which nothing is under way.
    pub(super) fn load_around_faults(&mut self, start: Time) {
        let mut p = Prng::new(self.options.seed, BURSTS);
        for planned in &self.options.plan.clone() {
            if !p.one_in(3) {
                continue;
            }
            let before_us = p.skewed(100, 5_000);
            let at = start.after_ms(planned.at_ms).0.saturating_sub(before_us * 1000);
            for worker in 0..self.clients.count() {
                let left = 3 + u32::try_from(p.below(12)).expect("a few");
                self.at(Time(at.max(start.0)), Happening::Burst { worker, left });
            }
        }
    }

    pub(super) fn burst(&mut self, worker: usize, left: u32) {
        let session = self.clients.workers[worker].session;
        let idle = self.clients.answered > self.options.requests;
        if let Some(session) = session.filter(|_| idle && !self.clients.stopped && left > 0) {
            let pending = self.clients.requests.values().filter(|r| r.session.id == session.id);
            if pending.count() < self.depth(worker) {
                self.issue(worker, session);
            }
            let pause = self.chance.clients.skewed(20, 800) * 1000;
            self.after(pause, Happening::Burst { worker, left: left - 1 });
        }
    }

    fn open_session(&mut self, worker: usize) {
        let first = self.chance.clients.index(2);
        for node in [first, 1 - first] {
            if self.open_session_at(worker, node) {
                return;
            }
        }
    }

    /// A client knocks at a node. Returns whether it need not try another one.
    fn open_session_at(&mut self, worker: usize, node: usize) -> bool {
        let volume = self.clients.workers[worker].volume;
        if !self.nodes[node].is_awake() {
            return false;
        }
        let served = self.nodes[node].resource.as_ref().map(|r| r.export(volume));
        let Some(Ok(size)) = served else { return false };
        let expected = self.options.sizes[0].min(self.options.sizes[1]);
        let grown = self.nodes.iter().any(|n| n.volumes.iter().any(|v| v.grown));
        let known = size == expected || size == self.options.sizes[node];
        if !(known || grown && size > expected) {
            self.violate(format!("the export has {size} bytes, not {expected}"));
            return true;
        }
        if let Some(sector) = self.history.beyond(node, volume, size / 512) {
            let name = self.nodes[node].name;
            self.violate(format!(
                "{name} exports {size} bytes, and must hold a write of sector {sector}"
            ));
            return true;
        }
        let id = self.clients.next_session;
        self.clients.next_session += 1;
        let session = Session { id, node, life: self.nodes[node].life, sectors: size / 512 };
        self.clients.workers[worker].session = Some(session);
        self.history.session_opened(id);
        let client = format!("client {worker}");
        let session = SessionId(id);
        self.event(node, Event::SessionOpened { session, volume, client });
        self.send_again(worker, id);
        true
    }

    /// What the session before has not answered, on this one.
    fn send_again(&mut self, worker: usize, id: u64) {
        for kept in std::mem::take(&mut self.clients.workers[worker].kept) {
            let session = self.clients.workers[worker].session;
            let Some(session) = session.filter(|session| session.id == id) else { return };
            let mut entry = Request { session, since: self.now, ..kept };
            self.history.sent_again(&mut entry.operation, id);
            let request = RequestId(self.clients.next_request);
            self.clients.next_request += 1;
            let op = &entry.operation;
            let count = usize::try_from(op.count).unwrap_or(0);
            let (volume, start, contents) = (op.volume, op.start, vec![op.value; count]);
            let (session, fua) = (SessionId(id), entry.fua);
            let input = Input::Write { session, request, volume, start, contents, fua };
            let node = entry.session.node;
            self.clients.requests.insert(request, entry);
            self.input(node, input);
        }
    }

    /// A client of this node, which takes it, asks for one thing: the blocks are whole.
    pub(super) fn ask(&mut self, node: usize, asked: Asked) {
        let worker = 0;
        if self.clients.workers[worker].session.is_none_or(|session| session.node != node) {
            self.hang_up_now(worker);
            self.open_session_at(worker, node);
        }
        let Some(session) = self.clients.workers[worker].session else { return };
        let (kind, range, fua) = match asked {
            Asked::Write { block, fua } => (Kind::Write, (block * 8, 8), fua),
            Asked::Flush => (Kind::Flush, (0, 0), false),
            Asked::Read { block } => (Kind::Read, (block * 8, 8), false),
        };
        self.send_request(session, self.clients.workers[worker].volume, kind, range, fua);
    }

    fn issue(&mut self, worker: usize, session: Session) {
        let volume = self.clients.workers[worker].volume;
        let o = &self.options;
        let (writes, flushes, zeroes, fua) = (o.writes, o.flushes, o.zeroes, o.fua);
        let dice = self.chance.clients.below(100);
        let commits = self.commits(worker);
        let kind = if commits && self.clients.workers[worker].wrote {
            Kind::Flush
        } else if self.options.commits && !commits && dice < 98 {
            Kind::Read
        } else if dice < flushes {
            Kind::Flush
        } else if dice < flushes + zeroes {
            Kind::Zeroes
        } else if dice < flushes + zeroes + writes {
            Kind::Write
        } else {
            Kind::Read
        };
        let fua = matches!(kind, Kind::Write | Kind::Zeroes) && self.chance.clients.percent(fua);
        self.clients.workers[worker].wrote = kind == Kind::Write;
        let range = self.range(kind, volume, session.sectors);
        self.send_request(session, volume, kind, range, fua);
    }

    fn send_request(
        &mut self,
        session: Session,
        volume: VolumeNumber,
        kind: Kind,
        range: (u64, u64),
        fua: bool,
    ) {
        let request = RequestId(self.clients.next_request);
        self.clients.next_request += 1;
        let (operation, input) = self.request(kind, session, request, volume, range, fua);
        let entry = Request { kind, fua, session, operation, since: self.now };
        self.clients.requests.insert(request, entry);
        self.input(session.node, input);
    }

    fn request(
        &mut self,
        kind: Kind,
        session: Session,
        request: RequestId,
        volume: VolumeNumber,
        range: (u64, u64),
        fua: bool,
    ) -> (Operation, Input) {
        let id = SessionId(session.id);
        let (start, count) = range;
        let bytes = u32::try_from(count * 512).expect("at most a MiB");
        let event = |op| Input::Event(Event::Request { session: id, request, volume, op });
        let open = self.clients.requests.values().map(|r| r.operation.horizon).min();
        let h = &mut self.history;
        match kind {
            Kind::Flush => (h.flush_starts(session.id, volume), event(Op::Flush)),
            Kind::Zeroes => {
                let operation = h.write_starts(session.id, volume, range, true, open);
                let (offset, length, no_hole) = (start * 512, bytes, fua);
                (operation, event(Op::Zeroes { offset, length, no_hole, fua }))
            }
            Kind::Write => {
                let operation = h.write_starts(session.id, volume, range, false, open);
                let contents = vec![operation.value; usize::try_from(count).unwrap_or(0)];
                let input = Input::Write { session: id, request, volume, start, contents, fua };
                (operation, input)
            }
            Kind::Read => {
                let rests = self.rests(session.node, volume);
                let operation = self.history.read_starts(session.id, volume, range, rests);
                (operation, event(Op::Read { offset: start * 512, length: bytes }))
            }
        }
    }

    /// Where a request falls: sectors, within one MiB and within what the client knows of; where that
    /// has grown, in every other one near the start of what has come.
    fn range(&mut self, kind: Kind, volume: VolumeNumber, known: u64) -> (u64, u64) {
        let first = self.options.sizes[0].min(self.options.sizes[1]) / 512;
        let disks = self.nodes.iter().map(|n| n.volumes[usize::from(volume)].disk.sectors());
        let sectors = disks.min().map_or(first, |disks| known.min(disks)).max(first);
        let unaligned = self.options.unaligned;
        let c = &mut self.chance.clients;
        let block = if sectors > first && c.percent(50) {
            first / 8 + c.skewed(0, (sectors - first) / 8)
        } else if c.percent(95) {
            *c.choose(&self.options.hot)
        } else {
            c.below(first / 8)
        };
        let count = match c.below(20) {
            0 => c.range(1, 256),
            1..=5 => c.range(1, 8),
            _ => 1,
        };
        let (mut start, mut count) = (block * 8, count * 8);
        if kind != Kind::Zeroes && c.percent(unaligned) {
            start += c.below(8);
            count = count.saturating_sub(c.below(8)).max(1);
        }
        start = start.min(sectors - 8);
        let end = (start / MIB + 1) * MIB;
        (start, count.min(end.min(sectors) - start))
    }

    /// Where an answer of a node rests, by what it says of itself.
    pub(super) fn rests(&self, node: usize, volume: VolumeNumber) -> Rests {
        let mut disks = [false; 2];
        let n = &self.nodes[node];
        disks[node] = n.device(volume).is_some_and(|d| d.disk_state == DiskState::UpToDate);
        if let Some(peer) = n.peer_device(volume) {
            let synced = self.pairs[&volume].synced;
            let given_up = self.is_given_up(1 - node, volume);
            let connected = n.connection().map(|c| c.connection_state);
            let connected = connected == Some(ConnectionState::Connected);
            disks[1 - node] = match peer.replication_state {
                ReplicationState::Established
                | ReplicationState::VerifyS
                | ReplicationState::VerifyT => {
                    peer.peer_disk_state == DiskState::UpToDate && !given_up
                }
                ReplicationState::SyncTarget | ReplicationState::PausedSyncT => {
                    peer.peer_disk_state == DiskState::UpToDate
                }
                ReplicationState::SyncSource | ReplicationState::PausedSyncS => synced,
                // Both have grown: what was under way is answered before the verdict on the new bytes.
                // A disk that is just being attached has had no part in it.
                ReplicationState::WFBitMapS | ReplicationState::WFBitMapT => {
                    let theirs = self.nodes[1 - node].device(volume).map(|d| d.disk_state);
                    let attaching = theirs == Some(DiskState::Negotiating);
                    connected && !attaching && peer.peer_disk_state == DiskState::UpToDate
                }
                _ => false,
            };
        }
        Rests { on: node, disks }
    }

    /// `Action::Reply`.
    pub(super) fn replied(
        &mut self,
        node: usize,
        request: RequestId,
        result: Result<Option<Payload>, ReplyError>,
    ) {
        let contents = match result {
            Ok(Some(payload)) => match self.nodes[node].pool.read(payload) {
                Ok((_, contents)) => Some(contents),
                Err(text) => return self.violate(text),
            },
            _ => None,
        };
        let Some(entry) = self.clients.requests.remove(&request) else {
            // Its client is gone; a second answer of a request looks the same and does no harm.
            return;
        };
        if entry.session.node != node || entry.session.life != self.nodes[node].life {
            return self.violate(format!("{request:?} was answered by another node"));
        }
        self.clients.answered += 1;
        let volume = entry.operation.volume;
        let earlier = self.rested.as_ref().map(|rested| rested[usize::from(volume)]);
        let rests = earlier.unwrap_or_else(|| self.rests(node, volume));
        if let Err(error) = result {
            self.clients.errors += 1;
            return self.failed(node, &entry, error, rests);
        }
        // A read may end after its disk was lost: what it returns was there when it began.
        if rests.disks == [false, false] && entry.kind != Kind::Read {
            let name = self.nodes[node].name;
            return self.violate(format!("{name} answers {request:?} without a usable disk"));
        }
        self.succeeded(node, &entry, contents, rests);
    }

    fn succeeded(
        &mut self,
        node: usize,
        entry: &Request,
        contents: Option<Vec<u64>>,
        rests: Rests,
    ) {
        let op = &entry.operation;
        let index = usize::from(op.volume);
        let disks = [&self.nodes[0].volumes[index].disk, &self.nodes[1].volumes[index].disk];
        let result = match entry.kind {
            Kind::Read => match contents {
                Some(values) if values.len() as u64 == op.count => {
                    self.history.read_answered(op, &values, rests, disks)
                }
                other => Err(format!("a read of {} sectors was answered by {other:?}", op.count)),
            },
            Kind::Write | Kind::Zeroes => {
                let result = self.history.write_answered(op, rests, entry.fua, disks);
                result.and_then(|()| self.check_alone(node, op.volume, rests))
            }
            Kind::Flush => self.history.flush_answered(op, rests, disks),
        };
        self.judge(result);
    }

    /// A client was told an error: never while a good disk is at hand (promise 7).
    fn failed(&mut self, node: usize, entry: &Request, error: ReplyError, rests: Rests) {
        if matches!(entry.kind, Kind::Write | Kind::Zeroes) {
            self.history.write_failed(&entry.operation);
        }
        if error == ReplyError::Shutdown {
            self.watch_turned_away(node, &format!("answers {entry:?} as if it did not serve"));
        }
        let name = self.nodes[node].name;
        let good = (0..2).any(|n| {
            let faults = &self.nodes[n].volumes[usize::from(entry.operation.volume)].disk.faults;
            // What the other node says of its disk may come while a handshake is prepared, and is not
            // taken into account then: a disk that it has given up by itself is no good one.
            let given_up = self.nodes[n].device(entry.operation.volume).is_some_and(|device| {
                // Nor is one that a person is just taking away there.
                let leaves = n != node && device.disk_state == DiskState::Detaching;
                leaves || [DiskState::Failed, DiskState::Diskless].contains(&device.disk_state)
            });
            rests.disks[n] && !given_up && !faults.dead && faults.flaky == 0
        });
        if error == ReplyError::Io && (good || !self.disk_trouble()) {
            self.violate(format!("{name} answers {entry:?} with an error; it has {rests:?}"));
        }
        if matches!(error, ReplyError::Invalid | ReplyError::NoSpace) {
            self.violate(format!("{name} takes {entry:?} for invalid: {error:?}"));
        }
    }

    /// Errors are possible at all: a disk was hurt, or somebody took one away, or the connection to it
    /// was ended by a handler that allowed no resync, and has not come back. A lack of space alone is
    /// no reason for one: the disk that is let go of is missed only when the other one cannot be
    /// reached.
    fn disk_trouble(&self) -> bool {
        use super::faults::{Fault, Order};
        let forbidden = self.resync_was_forbidden();
        forbidden
            || self.options.disk_errors() && !self.only_space()
            || self.options.has(|fault| {
                let Fault::Order { order, .. } = fault else { return false };
                matches!(
                    order,
                    Order::Detach
                        | Order::DetachForce
                        | Order::Reattach
                        | Order::Down
                        | Order::Invalidate
                )
            })
    }

    /// `Action::CloseSessions`: the shell hangs up. `lost`: what was answered may be gone.
    pub(super) fn close_sessions(&mut self, node: usize, volume: VolumeNumber, lost: bool) {
        let of_it = |w: &Worker| w.volume == volume && w.session.is_some_and(|s| s.node == node);
        if !lost && self.clients.workers.iter().any(of_it) {
            self.watch_turned_away(node, "closes the connections of its clients");
        }
        for worker in 0..self.clients.workers.len() {
            let w = &self.clients.workers[worker];
            if w.volume == volume && w.session.is_some_and(|s| s.node == node) {
                self.hang_up(worker, false);
            }
        }
    }

    /// Every client of a node is cut off, and the node does not hear of it.
    pub(super) fn drop_sessions(&mut self, node: usize) {
        for worker in 0..self.clients.workers.len() {
            if self.clients.workers[worker].session.is_some_and(|s| s.node == node) {
                self.forget_session(worker, true);
            }
        }
    }

    /// A client closes its connection; the core hears of it a little later.
    pub(super) fn hang_up(&mut self, worker: usize, disconnect: bool) {
        if let Some(session) = self.forget_session(worker, !disconnect) {
            let id = SessionId(session.id);
            let event = Event::SessionClosed { session: id, disconnect };
            self.input_after(session.node, 1_000, Input::Event(event));
        }
    }

    /// The shell of a client's node closes its connection; the core hears of it at once.
    pub(super) fn hang_up_now(&mut self, worker: usize) {
        let closed = self.cut_off(worker);
        self.tell_of_end(closed);
    }

    /// The connection has ended for its client; the node is told by [`Self::tell_of_end`].
    pub(super) fn cut_off(&mut self, worker: usize) -> Option<Session> {
        self.forget_session(worker, true)
    }

    pub(super) fn tell_of_end(&mut self, session: Option<Session>) {
        let Some(session) = session else { return };
        let id = SessionId(session.id);
        let event = Event::SessionClosed { session: id, disconnect: false };
        self.input(session.node, Input::Event(event));
    }

    /// `lost`: the client has not gone by itself, and may send again what was not answered.
    fn forget_session(&mut self, worker: usize, lost: bool) -> Option<Session> {
        let session = self.clients.workers.get_mut(worker)?.session.take()?;
        if lost && self.options.resend {
            let writes = |r: &&Request| r.session.id == session.id && r.kind == Kind::Write;
            let kept: Vec<_> = self.clients.requests.values().filter(writes).cloned().collect();
            kept.iter().for_each(|request| self.history.kept(&request.operation));
            self.clients.workers[worker].kept.extend(kept);
        }
        self.history.session_closed(session.id);
        self.clients.requests.retain(|_, request| request.session.id != session.id);
        Some(session)
    }

    /// The volume has grown: some of its clients connect anew, and see it.
    pub(super) fn tell_clients(&mut self, volume: VolumeNumber) {
        for worker in 0..self.clients.workers.len() {
            if self.clients.workers[worker].volume == volume && self.chance.admin.percent(70) {
                self.hang_up(worker, true);
            }
        }
    }

    /// Every client of a node closes its connection.
    pub(super) fn hang_up_all(&mut self) {
        for worker in 0..self.clients.workers.len() {
            self.hang_up(worker, true);
        }
    }
}
