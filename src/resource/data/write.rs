//! The path of a write, from its range to its reply.
//!
//! Invariants:
//! - A write starts only with its extents durably hot, and then goes to every disk at once.
//! - A write that starts alone sets its bits first; its extents cover them until they are durable.
//! - Overlapping writes never run together: both disks apply them in the same order.

use crate::resource::data::interval::LockId;
use crate::resource::disk::device::{Loss, Progress, RequestKind};
use crate::resource::peer::connection::{Sent, SentKind, Stage};
use crate::resource::{
    Action, BLOCK_SIZE, ConnectionState, DiskError, DiskState, Gap, OnIoError, Payload, Pending,
    Reason, ReplyError, Resource, VolumeNumber,
};
use crate::wire::{Packet, ZeroMode};

impl Resource {
    /// Reads the blocks at the edges of an unaligned write, so that whole blocks are written.
    pub(crate) fn read_edges(&mut self, key: u64) {
        let request = self.requests.get_mut(key).expect("a pending request");
        let (offset, end) = (request.offset, request.offset + u64::from(request.length));
        let head = offset % BLOCK_SIZE != 0;
        let tail = end % BLOCK_SIZE != 0;
        if !head && !tail {
            return self.heat(key);
        }
        if request.kind != RequestKind::Write {
            return self.shrink_zeroes(key);
        }
        request.progress = Progress::Edges;
        request.edges_pending = u8::from(head) + u8::from(tail);
        if head {
            self.read_edge(key, true);
        }
        if tail {
            self.read_edge(key, false);
        }
    }

    /// The shell zeroes unaligned edges by writes; what reaches the core covers whole blocks, or
    /// is a hint (trim) whose edges are left alone.
    fn shrink_zeroes(&mut self, key: u64) {
        let request = self.requests.get_mut(key).expect("a pending request");
        let start = request.offset.next_multiple_of(BLOCK_SIZE);
        let end = (request.offset + u64::from(request.length)) / BLOCK_SIZE * BLOCK_SIZE;
        if start >= end {
            return self.answer(key, Ok(None));
        }
        // The locked range stays the hull: `locked` is released by key, not by range.
        request.offset = start;
        request.length = u32::try_from(end - start).expect("smaller than before");
        self.heat(key);
    }

    fn edge_block(&self, key: u64, head: bool) -> u64 {
        let request = self.requests.get(key).expect("a pending request");
        let at = if head { request.offset } else { request.offset + u64::from(request.length) - 1 };
        at / BLOCK_SIZE * BLOCK_SIZE
    }

    fn read_edge(&mut self, key: u64, head: bool) {
        let start = self.edge_block(key, head);
        let request = self.requests.get(key).expect("a pending request");
        let (volume, failed) = (request.volume, request.failed);
        let length = u32::try_from(BLOCK_SIZE).expect("4096");
        if !failed && self.readable_here(volume, start, BLOCK_SIZE) {
            let tag = self.disk_tag(volume, Pending::Edge { key, head });
            self.emit(Action::DiskRead { tag, volume, offset: start, length, find_zeroes: false });
        } else if let Some(c) = self.reading_peer(volume) {
            let kind = SentKind::Edge { key, head };
            let sequence = self.track(c, volume, kind, start, BLOCK_SIZE, 0, 0);
            self.send(c, Packet::ReadRequest { volume, sequence, offset: start, length }, None);
        } else {
            self.edge_failed(key);
        }
    }

    /// A block at an edge came, from the own disk or the peer.
    pub(crate) fn edge_done(
        &mut self,
        key: u64,
        head: bool,
        result: Result<Option<Payload>, DiskError>,
    ) {
        match result {
            Ok(Some(from)) => {
                let request = self.requests.get_mut(key).expect("its edges are pending");
                request.edges_pending -= 1;
                let into = request.payload.expect("only writes have edges");
                let (left, lost) = (request.edges_pending, request.edge_lost);
                self.emit(Action::Merge { into, from, head });
                self.release(Some(from));
                match (left, lost) {
                    (0, false) => self.heat(key),
                    (0, true) => self.answer(key, Err(ReplyError::Io)),
                    _ => {}
                }
            }
            Ok(None) => self.edge_failed(key),
            Err(_) => {
                // The own disk failed: the peer may have the block.
                self.requests.get_mut(key).expect("its edges are pending").failed = true;
                self.read_edge(key, head);
            }
        }
    }

    /// No disk can read an edge.
    pub(crate) fn edge_failed(&mut self, key: u64) {
        let request = self.requests.get_mut(key).expect("its edges are pending");
        request.edges_pending -= 1;
        request.edge_lost = true;
        if request.edges_pending == 0 {
            self.answer(key, Err(ReplyError::Io));
        }
    }

    /// The extents of the write become hot, durably, before it starts. Without an own disk the peer
    /// keeps the log for us (model.md R15).
    fn heat(&mut self, key: u64) {
        let request = self.requests.get_mut(key).expect("a pending request");
        request.progress = Progress::Log;
        request.failed = false;
        let (volume, (offset, length)) = (request.volume, request.hull());
        let device = self.devices.get_mut(&volume).expect("a volume of this resource");
        if !device.writable() {
            return self.enter_window(key);
        }
        let backing = device.backing.as_mut().expect("a writable disk");
        let hot = backing.activity_log.acquire(key, offset, length);
        device.counters.metrics.al_hits += u64::from(hot);
        device.counters.metrics.al_misses += u64::from(!hot);
        if hot {
            self.requests.get_mut(key).expect("still pending").hot = true;
            self.enter_window(key);
        }
    }

    /// The extents are hot.
    pub(crate) fn log_ready(&mut self, key: u64) {
        if let Some(request) = self.requests.get_mut(key) {
            request.hot = true;
            self.enter_window(key);
        }
    }

    /// Payload waits for room in the peer's receive window, in order.
    pub(crate) fn enter_window(&mut self, key: u64) {
        self.requests.get_mut(key).expect("a pending request").progress = Progress::Window;
        // What has no payload fills no window: a trim may make the room that the others wait for.
        let bare = self.requests.get(key).is_some_and(|r| r.kind != RequestKind::Write);
        if (bare || self.window_waiting.is_empty()) && self.window_has_room(key) {
            self.start_write(key);
        } else {
            self.window_waiting.push_back(key);
        }
    }

    fn window_has_room(&self, key: u64) -> bool {
        let request = self.requests.get(key).expect("a pending request");
        if request.kind != RequestKind::Write {
            return true;
        }
        let (_, length) = request.hull();
        self.connections.iter().all(|connection| {
            !connection.peer_devices[&request.volume].replicates()
                || connection.in_flight == 0
                || connection.in_flight + length <= connection.client_window()
        })
    }

    pub(crate) fn pump_windows(&mut self) {
        while let Some(key) = self.window_waiting.front().copied() {
            if !self.window_has_room(key) {
                break;
            }
            self.window_waiting.pop_front();
            self.start_write(key);
        }
    }

    /// To every disk at once.
    fn start_write(&mut self, key: u64) {
        let request = self.requests.get_mut(key).expect("a pending request");
        request.progress = Progress::Started;
        let (volume, (offset, length)) = (request.volume, request.hull());
        let (first, count) = (offset / BLOCK_SIZE, length / BLOCK_SIZE);
        self.expect_flush(key);
        let local = self.devices[&volume].writable();
        for c in self.peers() {
            if self.connections[c].peer_devices[&volume].replicates() {
                self.send_write(key, c);
            } else {
                // The peer lacks it from now on; hot extents cover the bits until they are durable.
                self.peer_device(c, volume).bitmap.set(first, count);
                self.device(volume).alone_time = self.wall();
            }
        }
        if local {
            self.local_write(key);
        }
        let request = self.requests.get(key).expect("still pending");
        if !request.local_pending && request.peers_pending == 0 {
            self.answer(key, Err(ReplyError::Io));
        }
    }

    /// A write that a flush is expected behind, as behind each of those before it, is made durable by itself: one wait
    /// for disk and peer in place of two.
    fn expect_flush(&mut self, key: u64) {
        let request = self.requests.get(key).expect("a pending request");
        let (volume, kind) = (request.volume, request.kind);
        let expected = self.device(volume).cache.write_begins();
        let options = self.config.disk_options(volume);
        // An error that is passed on is that of the write alone.
        let may = options.disk_flushes && options.on_io_error != OnIoError::PassOn;
        if expected && may && kind == RequestKind::Write {
            self.requests.get_mut(key).expect("just seen").fua = true;
        }
    }

    /// The own disk's part.
    pub(crate) fn local_write(&mut self, key: u64) {
        let request = self.requests.get_mut(key).expect("a pending request");
        request.local_pending = true;
        let (volume, (offset, length), fua) = (request.volume, request.hull(), request.fua);
        let (kind, payload) = (request.kind, request.payload);
        let fua = fua && self.config.disk_options(volume).disk_flushes;
        if !fua {
            self.device(volume).cache.keeps();
        }
        let tag = self.disk_tag(volume, Pending::Write { key });
        let action = match (kind, payload) {
            (RequestKind::Zeroes { no_hole }, _) => {
                let length = u32::try_from(length).expect("at most 64 MiB");
                Action::DiskZeroes { tag, volume, offset, length, no_hole, written: false, fua }
            }
            (_, Some(payload)) => {
                Action::DiskWrite { tag, volume, offset, payload: whole_blocks(payload), fua }
            }
            (_, None) => unreachable!("a write has a payload"),
        };
        self.count_written(volume, length);
        self.emit(action);
    }

    /// A peer's part. The rollback number goes first if it has grown (model.md R14).
    fn send_write(&mut self, key: u64, c: usize) {
        let request = self.requests.get_mut(key).expect("a pending request");
        request.peers_pending |= 1 << c;
        let (volume, (offset, length), fua) = (request.volume, request.hull(), request.fua);
        let (kind, payload) = (request.kind, request.payload);
        if !fua {
            self.device(volume).cache.keeps();
        }
        self.send_number(c, volume);
        let short = u32::try_from(length).expect("at most 64 MiB");
        let bytes = if kind == RequestKind::Write { short } else { 0 };
        let epoch = self.devices[&volume].epoch;
        let sequence = self.track(c, volume, SentKind::Write { key }, offset, length, bytes, epoch);
        self.peer_device(c, volume).sent += u64::from(bytes);
        match kind {
            RequestKind::Zeroes { no_hole } => {
                let mode = if no_hole { ZeroMode::NoHole } else { ZeroMode::Hole };
                let packet = Packet::Zeroes { volume, sequence, offset, length: short, mode, fua };
                self.send(c, packet, None);
            }
            _ => {
                let packet = Packet::Data { volume, sequence, offset, length: short, fua };
                self.send(c, packet, payload.map(whole_blocks));
            }
        }
    }

    /// Shows the peer the own rollback number, if it has grown since it was shown last. One of a disk
    /// that this session has refused, or that has failed, is nothing to be remembered.
    pub(crate) fn send_number(&mut self, c: usize, volume: VolumeNumber) {
        if matches!(self.devices[&volume].disk, DiskState::Failed | DiskState::Diskless) {
            return;
        }
        let Some(number) = self.devices[&volume].number() else { return };
        if self.connections[c].peer_devices[&volume].sent_number < number {
            self.peer_device(c, volume).sent_number = number;
            self.send(c, Packet::Number { volume, number }, None);
        }
    }

    /// Remembers a packet that wants an answer; its sequence.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn track(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        kind: SentKind,
        offset: u64,
        length: u64,
        bytes: u32,
        epoch: u64,
    ) -> u64 {
        let at = self.now;
        let connection = &mut self.connections[c];
        let sequence = connection.next_sequence;
        connection.next_sequence += 1;
        connection.in_flight += u64::from(bytes);
        let sent =
            Sent { kind, volume, offset, length, bytes, at, epoch, heard: None, recalled: false };
        connection.sent.insert(sequence, sent);
        sequence
    }

    /// The own disk has the write, or failed.
    pub(crate) fn write_done(&mut self, key: u64, ok: bool) {
        let request = self.requests.get_mut(key).expect("a write under way");
        request.local_pending = false;
        request.local_done = ok;
        request.failed |= !ok;
        let (volume, (offset, length)) = (request.volume, request.hull());
        self.starves_no_more(volume, key, ok);
        if ok {
            for c in self.peers() {
                let (first, count) = (offset / BLOCK_SIZE, length / BLOCK_SIZE);
                self.target_wrote(c, volume, (first, count), count);
            }
        }
        self.write_completed(key);
    }

    /// The peer has the write (`ok`), or its disk failed.
    pub(crate) fn write_acked(&mut self, c: usize, sent: Sent, key: u64, ok: bool) {
        let volume = sent.volume;
        let (first, count) = (sent.offset / BLOCK_SIZE, sent.length / BLOCK_SIZE);
        let request = self.requests.get_mut(key).expect("a write under way");
        request.peers_pending &= !(1 << c);
        if ok {
            request.peers_done |= 1 << c;
            if !request.fua {
                let epoch = self.devices[&volume].epoch;
                self.peer_device(c, volume).transfer_log.push(epoch, first, count);
            }
        } else {
            self.peer_device(c, volume).bitmap.set(first, count);
        }
        self.write_completed(key);
    }

    /// Every disk that was asked has answered: reply, or wait until a lone copy may be trusted.
    pub(crate) fn write_completed(&mut self, key: u64) {
        let request = self.requests.get(key).expect("a write under way");
        if request.local_pending || request.peers_pending != 0 {
            return;
        }
        let volume = request.volume;
        if request.taken_back {
            // The peer has not got it, and is there all the same.
            return self.hold_started(volume, key);
        }
        // A copy counts while its disk can be reached: what only a failed disk or a lost peer has
        // is not acknowledged, nor what only a disk in the middle of a resync has. With on-io-error
        // pass_on an error of the own disk is the client's.
        let here = self.devices[&volume].writable();
        let (local_done, peers_done) = (request.local_done, request.peers_done);
        let usable = if here { local_done } else { peers_done != 0 };
        if !usable || !self.data_is_reachable(volume) {
            if here && peers_done != 0 {
                self.peer_has_it_alone(key, false);
            }
            self.device(volume).doubtful = true;
            return self.answer(key, Err(ReplyError::Io));
        }
        // During a loss nothing is answered (model.md R2): who has acknowledged may be gone by now.
        let device = &self.devices[&volume];
        let settled = device.loss == Loss::None && !device.bumping && !self.io_frozen();
        if self.nobody_hears(key) && (!settled || self.rests_alone(key)) {
            // After a gap its client is gone: nothing is acknowledged, so nothing is recorded yet, and
            // this node stays on its peer's line of descent. The bits are set.
            let device = self.device(volume);
            (device.unheard, device.doubtful) = (true, true);
            return self.answer(key, Err(ReplyError::Shutdown));
        }
        if (!settled || self.rests_alone(key)) && !self.may_answer_alone(volume, key) {
            let request = self.requests.get_mut(key).expect("still pending");
            if request.progress != Progress::Alone {
                request.progress = Progress::Alone;
                self.device(volume).waiting_alone.push_back(key);
            }
            return;
        }
        self.answer(key, Ok(None));
        self.transfer_log_bound(volume);
    }

    /// The peer, or its disk, cannot be reached any more: what it has of writes that are not answered
    /// counts no longer. They rest on the own disk, where they may end after the loss flush, or
    /// never: until then the disks differ, also where the peer has flushed.
    pub(crate) fn forget_copies(&mut self, c: usize, volume: VolumeNumber) {
        for key in self.requests.keys() {
            let request = self.requests.get_mut(key).expect("listed just now");
            if request.volume != volume || request.peers_done & 1 << c == 0 {
                continue;
            }
            request.peers_done &= !(1 << c);
            let (differs, (offset, length)) = (!request.local_done, request.hull());
            if differs {
                let bitmap = &mut self.peer_device(c, volume).bitmap;
                bitmap.set(offset / BLOCK_SIZE, length / BLOCK_SIZE);
            }
        }
    }

    /// The connection that the request came on was closed by a gap, or while I/O is frozen, and nobody
    /// reads meanwhile.
    fn nobody_hears(&self, key: u64) -> bool {
        let request = self.requests.get(key).expect("still pending");
        (self.gap != Gap::None || self.io_frozen()) && !self.sessions.contains_key(&request.session)
    }

    /// Nobody has seen the writes that were not heard, or the peer gets them.
    pub(crate) fn forget_unheard(&mut self) {
        for device in self.devices.values_mut() {
            device.unheard = false;
        }
    }

    /// This node serves again, alone: what was not heard can be read from now on, and is recorded
    /// before that.
    pub(crate) fn record_unheard(&mut self) {
        for volume in self.volumes() {
            let device = self.device(volume);
            if !device.unheard {
                continue;
            }
            if device.loss != Loss::None {
                device.bump_due = true;
            } else if self.alone_is_recorded(volume) {
                self.device(volume).unheard = false;
            }
        }
    }

    /// The write is on one disk only.
    fn rests_alone(&self, key: u64) -> bool {
        let request = self.requests.get(key).expect("still pending");
        let here = request.local_done && self.devices[&request.volume].writable();
        let copies = u32::from(here) + request.peers_done.count_ones();
        copies < 1 + u32::try_from(self.connections.len()).expect("at most 31 peers")
    }

    /// Those who waited may be answered now.
    pub(crate) fn answer_alone(&mut self, volume: VolumeNumber) {
        for key in std::mem::take(&mut self.device(volume).waiting_alone) {
            if let Some(request) = self.requests.get_mut(key) {
                request.progress = Progress::Started;
                self.write_completed(key);
            }
        }
    }

    /// A peer may have the write, and the own disk has not: the blocks differ, for good or until it `starts_over`.
    fn peer_has_it_alone(&mut self, key: u64, starts_over: bool) {
        let request = self.requests.get(key).expect("a write under way");
        let (volume, peers, (offset, length)) =
            (request.volume, request.peers_done, request.hull());
        for c in self.peers().filter(|c| peers & 1 << c != 0) {
            if starts_over {
                let bitmap = &mut self.peer_device(c, volume).bitmap;
                bitmap.set(offset / BLOCK_SIZE, length / BLOCK_SIZE);
            } else {
                self.differs(c, volume, (offset, length));
            }
        }
    }

    /// Blocks differ from the peer's, and it cannot know: their bits are set. A resync under way goes by the bits of
    /// its target, and what that one has copied before, or tells of yet, would clear these: they are set once more
    /// when both have agreed anew on what differs. A handshake that has told of the bits begins anew at once.
    fn differs(&mut self, c: usize, volume: VolumeNumber, (offset, length): (u64, u64)) {
        let (first, count) = (offset / BLOCK_SIZE, length / BLOCK_SIZE);
        let peer = self.peer_device(c, volume);
        let before = peer.bitmap.count();
        peer.bitmap.set(first, count);
        let news = peer.bitmap.count() != before;
        let copies = peer.source.is_some() || peer.target.is_some();
        if copies && !peer.differing.contains(&(first, count)) {
            peer.differing.push((first, count));
        }
        let connection = &mut self.connections[c];
        match connection.stage {
            Stage::Open if copies => self.renegotiate_with(c),
            Stage::Handshake | Stage::Opening => connection.differs |= news || copies,
            _ => {}
        }
    }

    /// Sets again what a resync may have cleared since: nothing of it comes any more.
    pub(crate) fn set_differing(&mut self, c: usize, volume: VolumeNumber, for_good: bool) {
        let peer = self.peer_device(c, volume);
        for (first, count) in &peer.differing {
            peer.bitmap.set(*first, *count);
        }
        if for_good {
            peer.differing.clear();
        }
    }

    /// Handshakes that go by bits which are not those of both any more begin anew.
    pub(crate) fn pump_differing(&mut self) {
        for c in self.peers() {
            let differs = std::mem::take(&mut self.connections[c].differs);
            if differs && self.connections[c].active.is_some() {
                let detail =
                    "a write has ended on one disk only during the handshake: it begins anew";
                self.drop_connection(
                    c,
                    ConnectionState::NetworkFailure,
                    Reason::Lost,
                    detail.to_owned(),
                );
            }
        }
    }

    /// A write that was begun, taken back and held is dropped: this disk may have it, and a peer's.
    pub(crate) fn dropped_begun(&mut self, volume: VolumeNumber, hull: (u64, u64)) {
        self.device(volume).doubtful = true;
        for c in self.peers() {
            self.differs(c, volume, hull);
        }
    }

    /// Requests that wait for a range are held again, in the order of their arrival: what is held
    /// before them must stay before them.
    fn hold_waiters(&mut self, volume: VolumeNumber) {
        let waiters = self.device(volume).intervals.waiters();
        for LockId(key) in waiters.into_iter().rev() {
            let Some(request) = self.requests.get_mut(key) else { continue };
            request.progress = Progress::Held;
            self.admitted -= 1;
            self.held.push_front(key);
            // The last first: nobody who came before it waits for it.
            self.device(volume).intervals.cancel(LockId(key));
        }
    }

    /// A peer is back: writes that wait for space start over once its session is open, before
    /// those that came after them. Their bits stay set.
    pub(crate) fn hold_no_space(&mut self) {
        for volume in self.volumes() {
            // Not before the peer has answered, whose disk may still be writing.
            let answered =
                |key: &u64| self.requests.get(*key).is_some_and(|r| r.peers_pending == 0);
            let no_space = self.devices[&volume].no_space.iter().copied();
            let waiting: Vec<u64> = no_space.filter(answered).collect();
            for key in waiting.into_iter().rev() {
                self.hold_started(volume, key);
            }
        }
    }

    /// A write that is under way nowhere starts over, before those that wait for its range.
    pub(crate) fn hold_started(&mut self, volume: VolumeNumber, key: u64) {
        self.hold_waiters(volume);
        self.starves_no_more(volume, key, false);
        self.peer_has_it_alone(key, true);
        let epoch = self.device(volume).epoch;
        let request = self.requests.get_mut(key).expect("a write under way");
        request.progress = Progress::Held;
        request.begun = true;
        (request.failed, request.taken_back) = (false, false);
        (request.local_pending, request.local_done) = (false, false);
        (request.peers_pending, request.peers_done) = (0, 0);
        let (offset, length) = request.hull();
        let (locked, hot) = (request.locked, request.hot);
        (request.locked, request.hot) = (false, false);
        if let Some(backing) = self.device(volume).backing.as_mut().filter(|_| hot) {
            backing.activity_log.release(offset, length, Some(epoch));
        }
        if locked {
            self.device(volume).intervals.release(LockId(key));
            self.grant_ranges(volume);
        }
        self.admitted -= 1;
        self.held.push_front(key);
        self.changed();
        if self.nobody_hears(key) {
            // Nor does it start over: it would land behind what its client has done elsewhere since.
            self.drop_request(key);
        }
    }
}

/// The handle of the whole blocks around a client's data in its buffer.
pub(crate) fn whole_blocks(payload: Payload) -> Payload {
    let block = u32::try_from(BLOCK_SIZE).expect("4096");
    let start = payload.offset / block * block;
    let end = (payload.offset + payload.length).next_multiple_of(block);
    Payload { offset: start, length: end - start, ..payload }
}
