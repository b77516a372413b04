//! A client's request: admission, its range, reads, replies.
//!
//! Invariants:
//! - No request is admitted while a handshake, a freeze or a drain is under way.
//! - A write holds its range alone, a read shares it, until it is answered: so a read never returns
//!   a value that a later failover takes back (promise 2).
//! - A request of a closed session that has not started is dropped.

use crate::resource::data::interval::{Kind, LockId};
use crate::resource::disk::device::{Loss, Progress, Request, RequestKind};
use crate::resource::peer::connection::{SentKind, Stage};
use crate::resource::{
    Action, BLOCK_SIZE, ConnectionState, DiskError, DiskState, Gap, LogLevel, Op, Payload, Pending,
    Reason, ReplyError, RequestId, Resource, Role, SessionId, Tag, VolumeNumber, ZEROES_MAX,
};
use crate::wire::Packet;

impl Resource {
    pub(crate) fn session_closed(&mut self, session: SessionId, disconnect: bool) {
        let Some(volume) = self.sessions.remove(&session) else { return };
        self.device(volume).clients.retain(|client| client.session != session);
        self.changed();
        if !disconnect {
            for key in self.requests.keys() {
                // A dropped request lets others go on: one of them may be answered by now.
                let Some(request) = self.requests.get(key) else { continue };
                if request.session == session && request.progress < Progress::Started {
                    self.drop_request(key);
                } else if request.session == session && request.progress == Progress::Alone {
                    let volume = request.volume;
                    self.device(volume).waiting_alone.retain(|waiting| *waiting != key);
                    // It waits again if it must.
                    self.request(key).progress = Progress::Started;
                    self.write_completed(key);
                }
            }
            if self.io_frozen() {
                self.volumes().into_iter().for_each(|volume| self.flush_completed(volume));
            }
        }
    }

    /// Takes back a request that has not started.
    pub(crate) fn drop_request(&mut self, key: u64) {
        let request = self.requests.get(key).expect("the caller has the key");
        let volume = request.volume;
        match request.progress {
            Progress::Held => {
                self.held.retain(|held| *held != key);
                let request = self.requests.remove(key).expect("still there");
                if request.begun {
                    self.dropped_begun(volume, request.hull());
                }
                self.release(request.payload);
                return;
            }
            Progress::Range => {
                self.device(volume).intervals.cancel(LockId(key));
                // Who waited behind it alone.
                self.grant_ranges(volume);
            }
            // An edge that is being read ends by itself; the request is answered like any other.
            Progress::Edges | Progress::Started | Progress::Alone => return,
            Progress::Log => {
                let device = self.device(volume);
                if let Some(backing) = &mut device.backing {
                    backing.activity_log.cancel(key);
                }
            }
            Progress::Window => self.window_waiting.retain(|waiting| *waiting != key),
        }
        self.answer(key, Err(ReplyError::Shutdown));
    }

    /// New requests may start.
    pub(crate) fn gate_is_open(&self) -> bool {
        self.gap == Gap::None
            && !self.draining
            && !self.suspended
            && !self.io_frozen()
            // Nothing overtakes a write of a lost peer that is still on its way to the disk.
            && self.devices.values().all(|device| {
                device.loss != Loss::Draining
                    && !device.unheard
                    && (!device.doubtful || !self.reads_in_doubt())
            })
            && self.connections.iter().all(|connection| {
                matches!(connection.stage, Stage::Down | Stage::Waiting | Stage::Open)
                    && connection.leaving.is_none()
            })
    }

    pub(crate) fn client_request(
        &mut self,
        session: SessionId,
        id: RequestId,
        volume: VolumeNumber,
        op: Op,
    ) {
        let (kind, offset, length, fua, payload) = match op {
            Op::Read { offset, length } => (RequestKind::Read, offset, length, false, None),
            Op::Write { offset, payload, fua } => {
                (RequestKind::Write, offset, payload.length, fua, Some(payload))
            }
            Op::Flush => (RequestKind::Flush, 0, 0, false, None),
            Op::Zeroes { offset, length, no_hole, fua } => {
                (RequestKind::Zeroes { no_hole }, offset, length, fua, None)
            }
        };
        let refusal = match self.devices.get(&volume) {
            None => Some(ReplyError::Shutdown),
            Some(_) if self.role != Role::Primary => Some(ReplyError::Shutdown),
            Some(_) if !self.sessions.contains_key(&session) => Some(ReplyError::Shutdown),
            Some(_) if kind == RequestKind::Flush => None,
            Some(_) if length == 0 || u64::from(length) > ZEROES_MAX => Some(ReplyError::Invalid),
            Some(device) => match offset.checked_add(u64::from(length)) {
                Some(end) if end <= device.size => None,
                _ if matches!(kind, RequestKind::Write | RequestKind::Zeroes { .. }) => {
                    Some(ReplyError::NoSpace)
                }
                _ => Some(ReplyError::Invalid),
            },
        };
        if let Some(error) = refusal {
            self.emit(Action::Reply { request: id, result: Err(error) });
            self.release(payload);
            return;
        }
        self.hand_over_hears();
        let key = self.requests.insert(Request {
            session,
            request: id,
            since: self.now,
            volume,
            kind,
            offset,
            length,
            fua,
            payload,
            progress: Progress::Held,
            locked: false,
            hot: false,
            local_pending: false,
            local_done: false,
            peers_pending: 0,
            peers_done: 0,
            edges_pending: 0,
            edge_lost: false,
            failed: false,
            taken_back: false,
            begun: false,
        });
        if self.held.is_empty() && self.gate_is_open() {
            self.admit(key);
        } else {
            self.held.push_back(key);
        }
    }

    pub(crate) fn admit_held(&mut self) {
        while !self.held.is_empty() && self.gate_is_open() {
            let key = self.held.pop_front().expect("just seen");
            self.admit(key);
        }
        if !self.held.is_empty() {
            self.end_doubt();
        }
    }

    fn request(&mut self, key: u64) -> &mut Request {
        self.requests.get_mut(key).expect("a key of a pending request")
    }

    fn admit(&mut self, key: u64) {
        self.admitted += 1;
        let request = self.request(key);
        let volume = request.volume;
        match request.kind {
            RequestKind::Flush => {
                request.progress = Progress::Started;
                self.flush_for(volume, Some(key), None);
            }
            kind => {
                let (start, length) = request.hull();
                request.progress = Progress::Range;
                let share = if kind == RequestKind::Read { Kind::Shared } else { Kind::Exclusive };
                let device = self.device(volume);
                if device.intervals.acquire(LockId(key), start, start + length, share) {
                    self.range_granted(key);
                }
            }
        }
    }

    /// The range belongs to the request now.
    pub(crate) fn range_granted(&mut self, key: u64) {
        let request = self.request(key);
        request.locked = true;
        match request.kind {
            RequestKind::Read => {
                request.progress = Progress::Started;
                self.start_read(key);
            }
            _ => self.read_edges(key),
        }
    }

    /// Ranges that became free go to those who wait.
    pub(crate) fn grant_ranges(&mut self, volume: VolumeNumber) {
        while let Some(LockId(id)) = self.device(volume).intervals.next_granted() {
            if self.requests.get(id).is_some() {
                self.range_granted(id);
            } else {
                self.resync_range_granted(volume, id);
            }
        }
    }

    /// The connection whose disk can serve a read of the volume.
    pub(crate) fn reading_peer(&self, volume: VolumeNumber) -> Option<usize> {
        self.peers().find(|c| {
            let connection = &self.connections[*c];
            // While requests drain before a new handshake the peer serves on.
            connection.stage.goes_on()
                && connection.peer_devices[&volume].peer_disk == DiskState::UpToDate
                // It gives its disk up for the own one just now, or has done so.
                && connection.peer_devices[&volume].promised.is_none()
        })
    }

    /// A disk that holds the data can be reached: the own one, if it is not the mix of old and new
    /// that a resync has left behind and somebody has said that it is the newest, or the peer's.
    pub(crate) fn data_is_reachable(&self, volume: VolumeNumber) -> bool {
        self.devices[&volume].disk == DiskState::UpToDate || self.reading_peer(volume).is_some()
    }

    /// The own disk has the newest data of the blocks.
    pub(crate) fn readable_here(&self, volume: VolumeNumber, start: u64, length: u64) -> bool {
        let device = &self.devices[&volume];
        if !device.writable() {
            return false;
        }
        match device.disk {
            DiskState::UpToDate => true,
            DiskState::Inconsistent => self.peers().any(|c| {
                let peer = &self.connections[c].peer_devices[&volume];
                peer.target.is_some() && !peer.bitmap.any(start / BLOCK_SIZE, length / BLOCK_SIZE)
            }),
            _ => false,
        }
    }

    fn start_read(&mut self, key: u64) {
        let request = self.request(key);
        let (volume, failed) = (request.volume, request.failed);
        let (start, length) = request.hull();
        let short = u32::try_from(length).expect("a read of at most 1 MiB and its edges");
        if !failed && self.readable_here(volume, start, length) {
            let tag = self.disk_tag(volume, Pending::Read { key });
            self.emit(Action::DiskRead {
                tag,
                volume,
                offset: start,
                length: short,
                find_zeroes: false,
            });
            return;
        }
        match self.reading_peer(volume) {
            Some(c) => {
                self.request(key).peers_pending = 1 << c;
                let sequence = self.track(c, volume, SentKind::Read { key }, start, length, 0, 0);
                let packet = Packet::ReadRequest { volume, sequence, offset: start, length: short };
                self.send(c, packet, None);
            }
            None => self.answer(key, Err(ReplyError::Io)),
        }
    }

    /// A read of the own disk ended.
    pub(crate) fn read_done(&mut self, key: u64, result: Result<Option<Payload>, DiskError>) {
        match result {
            Ok(Some(payload)) => {
                let request = self.request(key);
                let (start, _) = request.hull();
                let head = u32::try_from(request.offset - start).expect("less than a block");
                let part =
                    Payload { offset: payload.offset + head, length: request.length, ..payload };
                let (volume, length) = (request.volume, u64::from(request.length));
                self.device(volume).counters.read += length;
                self.request(key).payload = Some(payload);
                self.answer(key, Ok(Some(part)));
            }
            Ok(None) => self.answer(key, Err(ReplyError::Io)),
            Err(_) => {
                self.request(key).failed = true;
                self.start_read(key);
            }
        }
    }

    /// A read asked of the peer came back, failed there, or the peer is lost.
    pub(crate) fn peer_read_done(&mut self, key: u64, payload: Option<Payload>) {
        let Some(request) = self.requests.get_mut(key) else {
            self.release(payload);
            return;
        };
        request.peers_pending = 0;
        match payload {
            Some(_) => self.read_done(key, Ok(payload)),
            None => {
                let (start, length) = self.request(key).hull();
                let volume = self.request(key).volume;
                if self.readable_here(volume, start, length) && !self.request(key).failed {
                    self.start_read(key);
                } else {
                    self.answer(key, Err(ReplyError::Io));
                }
            }
        }
    }

    /// The reply: the request ends here.
    pub(crate) fn answer(&mut self, key: u64, result: Result<Option<Payload>, ReplyError>) {
        let request = self.requests.remove(key).expect("a request is answered once");
        let volume = request.volume;
        self.admitted -= 1;
        if result.is_ok() {
            let now = self.now;
            let metrics = &mut self.device(volume).counters.metrics;
            match request.kind {
                RequestKind::Read => {}
                RequestKind::Flush => metrics.flush.note(request.since, now),
                RequestKind::Write | RequestKind::Zeroes { .. } => {
                    metrics.write.note(request.since, now);
                }
            }
        }
        self.give_reply(volume, request.request, result, request.payload);
        if request.hot {
            let (offset, length) = request.hull();
            let durable = request.fua && result.is_ok();
            let epoch = self.device(volume).epoch;
            if let Some(backing) = &mut self.device(volume).backing {
                let stamp = (!durable).then_some(epoch);
                backing.activity_log.release(offset, length, stamp);
            }
        }
        if request.locked {
            self.device(volume).intervals.release(LockId(key));
            self.grant_ranges(volume);
        }
    }

    /// A tag for a disk or metadata action on the own disk.
    pub(crate) fn disk_tag(&mut self, volume: VolumeNumber, pending: Pending) -> Tag {
        let backing = self.device(volume).backing.as_mut().expect("an action needs a disk");
        backing.outstanding += 1;
        self.disk_is_asked();
        Tag(self.tags.insert((volume, self.now, pending)))
    }

    /// Every admitted request is answered and no flush runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.admitted == 0
            && self.devices.values().all(|device| {
                device.flush.is_none()
                    && device.next_flush.is_none()
                    && device.loss == Loss::None
                    && !device.bumping
            })
    }

    /// After a gap (DESIGN 7): the shell has closed the clients unread; every connection counts as
    /// lost, and nothing runs until a peer has answered or one attempt has failed.
    pub(crate) fn clock_gap(&mut self, gap_ms: u64) {
        // A Secondary serves nobody, and its peer waits for it for so long: to it this was a slow moment.
        let missed = gap_ms > self.config.options.timeout_ms;
        let breaks = self.role == Role::Primary || missed;
        let does = if breaks {
            "clients are disconnected and the peer is asked first"
        } else {
            "the connections stay, unless the peer has given them up"
        };
        let text = format!("{}: did not run for {gap_ms} ms; {does}", self.config.name);
        self.log(LogLevel::Warning, text);
        self.disks_start_anew();
        self.orders_start_anew();
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.session_closed(session, false);
        }
        let has_peer = self.connections.iter().any(|c| c.state != ConnectionState::StandAlone);
        if self.role == Role::Primary && has_peer && self.gap == Gap::None {
            self.gap = Gap::Asking;
        }
        self.changed();
        // A Secondary that slept so long may have been left alone: the peer may have gone on since.
        // If it has not, then because it died, and what both have acknowledged is here.
        let open = self.connections.iter().any(|c| c.stage > Stage::Waiting);
        if self.role == Role::Secondary && missed && open {
            for volume in self.volumes() {
                self.doubt(volume);
            }
        }
        if !breaks {
            return self.connections_start_anew();
        }
        for c in self.peers() {
            self.attempts_start_anew(c);
            if self.connections[c].active.is_some() {
                self.drop_connection(
                    c,
                    ConnectionState::NetworkFailure,
                    Reason::Lost,
                    format!("this node did not run for {gap_ms} ms"),
                );
            }
        }
    }

    /// The peer answered after a gap (or one attempt has failed): the exports open again, unless it
    /// is Primary or has a newer generation.
    pub(crate) fn gap_answered(&mut self, newer: bool) {
        if self.gap != Gap::Asking {
            return;
        }
        self.gap = if newer { Gap::Closed } else { Gap::None };
        let met = self.connections.iter().any(|c| c.stage >= Stage::Opening);
        if met {
            self.forget_unheard();
        } else if !newer {
            self.record_unheard();
        }
        if newer {
            let text = format!(
                "{}: the peer went on while this node was frozen; exports stay closed until \
                 `tandemadm secondary {}`",
                self.config.name, self.config.name
            );
            self.log(LogLevel::Error, text);
        }
        self.changed();
    }
}
