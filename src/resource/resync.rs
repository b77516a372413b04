//! Resync: the target asks for blocks, the source answers, bits go when both have flushed.
//!
//! Invariants (model.md R9, R10):
//! - A piece is asked for only with its range held on the target and read only with its range held
//!   on the source, until the target has written it: no write of a client runs in it meanwhile.
//! - The target clears a bit only after its own flush that covers the block, and then says InSync;
//!   the source clears it in memory on that, and its own copy was flushed before the resync began.
//! - The source ends: no bits and nothing under way. The target then flushes, is durably UpToDate,
//!   and answers.

use super::connection::{Piece, Save, SentKind, Stage, SyncSource, SyncTarget};
use super::interval::{Kind, LockId};
use super::resync_rate::ResyncRate;
use super::{
    Action, BLOCK_SIZE, DiskError, DiskState, LogLevel, PAYLOAD_MAX, Payload, Pending,
    ReplicationState, Resource, ResyncStatus, SocketId, Then, Time, VolumeNumber,
};
use crate::meta::{BitmapState, DeviceFlags};
use crate::wire::Packet;

/// Unflushed bytes after which the target flushes.
const UNFLUSHED_MAX: u64 = 32 << 20;
/// The target flushes at least this often while there is something to flush, ms.
const FLUSH_MS: u64 = 1000;
/// The target's bitmap is saved at least this often, ms.
const SAVE_MS: u64 = 3000;
/// Blocks that could not be copied are tried again after this pause, ms.
const RETRY_MS: u64 = 10_000;
/// Marks lock ids of resync among those of requests.
const RESYNC_LOCK: u64 = 1 << 62;

impl Resource {
    fn resync_lock(&mut self) -> u64 {
        self.next_lock += 1;
        RESYNC_LOCK | self.next_lock
    }

    pub(crate) fn start_source(&mut self, c: usize, volume: VolumeNumber) {
        let bits = self.peer_device(c, volume).bitmap.count();
        let started = self.now;
        let total = bits * BLOCK_SIZE;
        self.peer_device(c, volume).source =
            Some(SyncSource { total, started, ..SyncSource::default() });
        self.set_replication(c, volume, ReplicationState::SyncSource);
        let text = format!(
            "{}Began resync as SyncSource (will sync {} KB [{bits} bits set]).",
            self.of_both(volume, c),
            total / 1024
        );
        self.log(LogLevel::Info, text);
    }

    pub(crate) fn start_target(&mut self, c: usize, volume: VolumeNumber) {
        let now = self.now;
        let bits = self.peer_device(c, volume).bitmap.count();
        let total = bits * BLOCK_SIZE;
        let rate = ResyncRate::new(&self.config.disk_options(volume), now, total);
        self.peer_device(c, volume).target = Some(SyncTarget {
            rate,
            cursor: 0,
            pieces: Default::default(),
            in_flight: 0,
            unflushed: Vec::new(),
            unflushed_blocks: 0,
            flushing: false,
            last_flush: now,
            last_save: now,
            total,
            failed: 0,
            copied: false,
            retry_at: None,
            end_received: false,
            finishing: false,
        });
        self.set_peer_disk(c, volume, DiskState::UpToDate);
        self.set_replication(c, volume, ReplicationState::SyncTarget);
        let text = format!(
            "{}Began resync as SyncTarget (will sync {} KB [{bits} bits set]).",
            self.of_both(volume, c),
            total / 1024
        );
        self.log(LogLevel::Info, text);
    }

    /// Everything that a resync may do now, on both sides.
    pub(crate) fn pump_resync(&mut self) {
        for c in self.peers() {
            if !matches!(self.connections[c].stage, Stage::Open | Stage::Quiescing) {
                continue;
            }
            let mut next = self.volume_after(None);
            while let Some(volume) = next {
                self.pump_target(c, volume);
                self.pump_source(c, volume);
                next = self.volume_after(Some(volume));
            }
        }
    }

    fn pump_target(&mut self, c: usize, volume: VolumeNumber) {
        let now = self.now;
        let window = (self.window_for_resync()).max(u64::from(PAYLOAD_MAX));
        let active = self.admitted > 0 || self.peer_writes.len() > 0;
        let open = self.connections[c].stage == Stage::Open;
        loop {
            let peer = self.peer_device(c, volume);
            let Some(target) = peer.target.as_mut() else { return };
            if target.finishing || !open || target.in_flight >= window {
                break;
            }
            if target.retry_at.is_some_and(|at| now < at) {
                break;
            }
            let allowance = target.rate.allowance(now, active);
            if allowance == 0 {
                break;
            }
            let most = (allowance / BLOCK_SIZE).clamp(1, u64::from(PAYLOAD_MAX) / BLOCK_SIZE);
            let Some((first, count)) = peer.bitmap.next_run(target.cursor, most) else { break };
            target.cursor = first + count;
            let length = u32::try_from(count * BLOCK_SIZE).expect("at most 1 MiB");
            target.in_flight += u64::from(length);
            target.rate.requested(u64::from(length));
            let offset = first * BLOCK_SIZE;
            let piece = Piece { offset, length, sequence: 0, requested: None };
            let id = self.resync_lock();
            let target = self.peer_device(c, volume).target.as_mut().expect("seen above");
            target.pieces.insert(id, piece);
            self.hold(c, volume, id, offset, offset + u64::from(length));
        }
        self.maybe_flush_target(c, volume);
    }

    /// Bytes of resync under way at once: a quarter of the own receive window.
    fn window_for_resync(&self) -> u64 {
        u64::from(self.config.options.max_buffers) * 4096 / 4
    }

    /// A range of resync is held now: the target asks, the source reads.
    pub(crate) fn resync_range_granted(&mut self, volume: VolumeNumber, id: u64) {
        let now = self.now;
        for c in self.peers() {
            let peer = self.peer_device(c, volume);
            if let Some(held) = peer.resync_locks.get_mut(&id) {
                *held = true;
            }
            let piece = peer.target.as_ref().and_then(|target| target.pieces.get(&id)).copied();
            if let Some(piece) = piece {
                let (offset, length) = (piece.offset, piece.length);
                let kind = SentKind::Resync;
                let sequence = self.track(c, volume, kind, offset, u64::from(length), 0, id);
                let target = self.peer_device(c, volume).target.as_mut().expect("just seen");
                let piece = target.pieces.get_mut(&id).expect("just seen");
                piece.requested = Some(now);
                piece.sequence = sequence;
                self.send(c, Packet::ResyncRequest { volume, sequence, offset, length }, None);
                return;
            }
            let found = peer.source.as_mut().and_then(|source| {
                source.pieces.iter_mut().find(|(_, piece)| piece.lock == id && !piece.held)
            });
            if let Some((sequence, piece)) = found {
                piece.held = true;
                let (sequence, offset, length) = (*sequence, piece.offset, piece.length);
                let socket = self.connections[c].active.expect("a source has a session");
                let tag = self.disk_tag(volume, Pending::SourceRead { c, socket, sequence });
                self.emit(Action::DiskRead { tag, volume, offset, length });
                return;
            }
        }
        // Nobody's any more.
        self.device(volume).intervals.release(LockId(id));
    }

    /// Lets go of every range that a resync holds or waits for.
    pub(crate) fn drop_resync_locks(&mut self, c: usize, volume: VolumeNumber) {
        let peer = self.peer_device(c, volume);
        let locks = std::mem::take(&mut peer.resync_locks);
        for (id, held) in locks {
            if self.peer_device(c, volume).target_writes.contains(&id) {
                // The disk is still writing there.
                self.peer_device(c, volume).resync_locks.insert(id, held);
                continue;
            }
            let intervals = &mut self.device(volume).intervals;
            if held || !intervals.cancel(LockId(id)) {
                intervals.release(LockId(id));
            }
        }
        self.grant_ranges(volume);
    }

    /// Packets of a resync. `false`: the peer must not send this now.
    pub(crate) fn resync_packet(
        &mut self,
        c: usize,
        socket: SocketId,
        packet: Packet,
        payload: Option<Payload>,
    ) -> bool {
        match packet {
            Packet::ResyncRequest { volume, sequence, offset, length } => {
                self.source_asked(c, volume, sequence, offset, length)
            }
            Packet::ResyncData { volume, sequence, length } => {
                let Some(sent) = self.take_sent(c, volume, sequence, is_resync) else {
                    self.release(payload);
                    return false;
                };
                self.peer_device(c, volume).received += u64::from(length);
                let fits = sent.length == u64::from(length);
                let piece = sent.epoch;
                let known = self
                    .peer_device(c, volume)
                    .target
                    .as_ref()
                    .is_some_and(|target| target.pieces.contains_key(&piece));
                if !fits || !known || !self.devices[&volume].writable() {
                    self.release(payload);
                    return fits;
                }
                let Some(data) = payload else { return false };
                let pending = Pending::TargetWrite { c, socket, piece, payload };
                self.target_write_starts(c, volume, piece);
                let tag = self.disk_tag(volume, pending);
                let (offset, fua) = (sent.offset, false);
                self.device(volume).counters.written += u64::from(length);
                self.emit(Action::DiskWrite { tag, volume, offset, payload: data, fua });
                true
            }
            Packet::ResyncZeroes { volume, sequence } => {
                let Some(sent) = self.take_sent(c, volume, sequence, is_resync) else {
                    return false;
                };
                let piece = sent.epoch;
                let target = self.peer_device(c, volume).target.as_ref();
                let known = target.is_some_and(|target| target.pieces.contains_key(&piece));
                if !known || !self.devices[&volume].writable() {
                    return true;
                }
                self.target_write_starts(c, volume, piece);
                let pending = Pending::TargetWrite { c, socket, piece, payload: None };
                let tag = self.disk_tag(volume, pending);
                let length = u32::try_from(sent.length).expect("at most 1 MiB");
                let (offset, no_hole, fua) = (sent.offset, false, false);
                self.emit(Action::DiskZeroes { tag, volume, offset, length, no_hole, fua });
                true
            }
            Packet::ResyncError { volume, sequence } => {
                let Some(sent) = self.take_sent(c, volume, sequence, is_resync) else {
                    return false;
                };
                let text = format!(
                    "{}the source cannot read {} bytes at {}: they stay out of sync",
                    self.of_both(volume, c),
                    sent.length,
                    sent.offset
                );
                self.log(LogLevel::Error, text);
                if let Some(target) = self.peer_device(c, volume).target.as_mut() {
                    target.failed += sent.length;
                    target.rate.failed(sent.length);
                }
                self.end_piece(c, volume, sent.epoch);
                true
            }
            Packet::ResyncAck { volume, sequence } => {
                let peer = self.peer_device(c, volume);
                let piece = peer.source.as_mut().and_then(|source| source.pieces.remove(&sequence));
                let Some(piece) = piece else { return peer.source.is_none() };
                self.unlock_resync(c, volume, piece.lock);
                true
            }
            Packet::InSync { volume, offset, length } => {
                let (first, count) = Self::blocks(offset, length);
                let peer = self.peer_device(c, volume);
                // Of a resync that has ended here meanwhile it says nothing.
                if peer.source.is_some() {
                    peer.bitmap.clear(first, count);
                }
                true
            }
            Packet::ResyncEnd { volume } => {
                if let Some(target) = self.peer_device(c, volume).target.as_mut() {
                    target.end_received = true;
                }
                self.maybe_flush_target(c, volume);
                true
            }
            Packet::ResyncDone { volume } => {
                let source = self.peer_device(c, volume).source.as_ref();
                if source.is_some_and(|source| !source.end_sent) {
                    return false;
                }
                self.source_done(c, volume);
                true
            }
            Packet::StartResync { volume, source } => self.peer_starts_resync(c, volume, source),
            _ => {
                self.release(payload);
                false
            }
        }
    }

    fn unlock_resync(&mut self, c: usize, volume: VolumeNumber, lock: u64) {
        if self.peer_device(c, volume).resync_locks.remove(&lock).is_some() {
            self.device(volume).intervals.release(LockId(lock));
            self.grant_ranges(volume);
        }
    }

    // ---- the source ----

    fn source_asked(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        sequence: u64,
        offset: u64,
        length: u32,
    ) -> bool {
        let end = offset + u64::from(length);
        let fits = end <= self.devices[&volume].size;
        let lock = self.resync_lock();
        let Some(source) = self.peer_device(c, volume).source.as_mut() else {
            self.send(c, Packet::ResyncError { volume, sequence }, None);
            return fits;
        };
        if !fits || source.pieces.len() >= 4096 || source.pieces.contains_key(&sequence) {
            return false;
        }
        let piece =
            super::connection::SourcePiece { offset, length, lock, held: false, sent_at: None };
        source.pieces.insert(sequence, piece);
        self.hold(c, volume, lock, offset, end);
        true
    }

    fn hold(&mut self, c: usize, volume: VolumeNumber, lock: u64, start: u64, end: u64) {
        self.peer_device(c, volume).resync_locks.insert(lock, false);
        let intervals = &mut self.device(volume).intervals;
        if intervals.acquire(LockId(lock), start, end, Kind::Exclusive) {
            self.resync_range_granted(volume, lock);
        }
    }

    pub(crate) fn source_read_done(
        &mut self,
        c: usize,
        socket: SocketId,
        volume: VolumeNumber,
        sequence: u64,
        result: Result<Option<Payload>, DiskError>,
    ) {
        let payload = result.ok().flatten();
        if self.is_current(c, socket) {
            match payload {
                Some(payload) => {
                    let length = payload.length;
                    self.device(volume).counters.read += u64::from(length);
                    self.peer_device(c, volume).sent += u64::from(length);
                    let now = self.now;
                    let source = self.peer_device(c, volume).source.as_mut();
                    if let Some(piece) = source.and_then(|s| s.pieces.get_mut(&sequence)) {
                        piece.sent_at = Some(now);
                    }
                    let packet = Packet::ResyncData { volume, sequence, length };
                    self.send(c, packet, Some(payload));
                }
                None => {
                    self.send(c, Packet::ResyncError { volume, sequence }, None);
                    let peer = self.peer_device(c, volume);
                    let piece =
                        peer.source.as_mut().and_then(|source| source.pieces.remove(&sequence));
                    if let Some(piece) = piece {
                        self.unlock_resync(c, volume, piece.lock);
                    }
                }
            }
        }
        self.release(payload);
    }

    fn pump_source(&mut self, c: usize, volume: VolumeNumber) {
        let now = self.now;
        let open = self.connections[c].stage == Stage::Open;
        let peer = self.peer_device(c, volume);
        let Some(source) = peer.source.as_mut() else { return };
        let left = peer.bitmap.count() * BLOCK_SIZE;
        let fresh = source.marks.back().is_some_and(|(at, _)| now.ms_since(*at) < 300);
        if !fresh {
            source.marks.push_back((now, left));
            if source.marks.len() > 12 {
                source.marks.pop_front();
            }
        }
        if open && left == 0 && source.pieces.is_empty() && !source.end_sent {
            source.end_sent = true;
            self.send(c, Packet::ResyncEnd { volume }, None);
        }
    }

    fn source_done(&mut self, c: usize, volume: VolumeNumber) {
        let peer = self.peer_device(c, volume);
        if peer.source.take().is_none() {
            return;
        }
        let empty = peer.bitmap.count() == 0;
        self.set_peer_disk(c, volume, DiskState::UpToDate);
        self.set_replication(c, volume, ReplicationState::Established);
        if empty {
            self.slot_whole(c, volume, BitmapState::AllClear);
            self.save_superblock(volume, Then::Log);
        }
    }

    // ---- the target ----

    pub(crate) fn target_write_done(
        &mut self,
        c: usize,
        socket: SocketId,
        volume: VolumeNumber,
        id: u64,
        ok: bool,
    ) {
        let peer = self.peer_device(c, volume);
        peer.target_writes.remove(&id);
        peer.peer_writes -= 1;
        let known = peer.target.as_ref().and_then(|target| target.pieces.get(&id)).copied();
        let Some(piece) = known.filter(|_| self.is_current(c, socket)) else {
            // Its session is over; its range was kept until now.
            self.unlock_resync(c, volume, id);
            return self.pump_loss(volume);
        };
        let now = self.now;
        let Some(target) = self.peer_device(c, volume).target.as_mut() else { return };
        if !ok {
            // on-io-error pass_on: the blocks stay out of sync, the source goes on.
            target.failed += u64::from(piece.length);
            target.rate.failed(u64::from(piece.length));
            let sequence = piece.sequence;
            self.send(c, Packet::ResyncAck { volume, sequence }, None);
            return self.end_piece(c, volume, id);
        }
        let latency = piece.requested.map_or(0, |at| now.ms_since(at));
        target.rate.completed(now, u64::from(piece.length), latency);
        target.copied = true;
        let sequence = piece.sequence;
        self.send(c, Packet::ResyncAck { volume, sequence }, None);
        self.end_piece(c, volume, id);
        let (first, count) = Self::blocks(piece.offset, u64::from(piece.length));
        self.target_wrote(c, volume, first, count);
    }

    /// A piece goes to the disk: it counts as a write of the peer, and its range is kept until the
    /// disk has answered, whatever becomes of the session.
    fn target_write_starts(&mut self, c: usize, volume: VolumeNumber, piece: u64) {
        let peer = self.peer_device(c, volume);
        peer.target_writes.insert(piece);
        peer.peer_writes += 1;
    }

    fn end_piece(&mut self, c: usize, volume: VolumeNumber, id: u64) {
        if let Some(target) = self.peer_device(c, volume).target.as_mut()
            && let Some(piece) = target.pieces.remove(&id)
        {
            target.in_flight -= u64::from(piece.length);
        }
        self.unlock_resync(c, volume, id);
    }

    /// Blocks are on the target's disk, unflushed: by resync, or by a replicated write.
    pub(crate) fn target_wrote(&mut self, c: usize, volume: VolumeNumber, first: u64, count: u64) {
        let peer = self.peer_device(c, volume);
        let any = peer.bitmap.any(first, count);
        let Some(target) = peer.target.as_mut().filter(|_| any) else { return };
        target.unflushed_blocks += count;
        match target.unflushed.last_mut() {
            // Only entries that no flush under way counts may grow.
            Some(last) if last.0 + last.1 == first && !target.flushing => last.1 += count,
            _ => target.unflushed.push((first, count)),
        }
    }

    fn maybe_flush_target(&mut self, c: usize, volume: VolumeNumber) {
        let now = self.now;
        let Some(socket) = self.connections[c].active else { return };
        let peer = self.peer_device(c, volume);
        let pass_over = |target: &SyncTarget| {
            target.pieces.is_empty() && peer.bitmap.next_set(target.cursor).is_none()
        };
        let Some(target) = peer.target.as_ref() else { return };
        if target.flushing || target.finishing {
            return;
        }
        let over = pass_over(target);
        if target.unflushed.is_empty() {
            let left = peer.bitmap.count();
            let target = peer.target.as_mut().expect("seen above");
            if over && left > 0 {
                return self.next_pass(c, volume);
            } else if left == 0 && target.end_received && target.pieces.is_empty() {
                target.finishing = true;
                self.flush_disk(volume, Then::EndFlushed { c, socket });
            }
            return;
        }
        let due = over
            || target.end_received
            || target.unflushed_blocks * BLOCK_SIZE >= UNFLUSHED_MAX
            || now.ms_since(target.last_flush) >= FLUSH_MS;
        if due {
            let count = target.unflushed.len();
            let target = peer.target.as_mut().expect("seen above");
            target.flushing = true;
            target.last_flush = now;
            self.flush_disk(volume, Then::TargetFlushed { c, socket, count });
        }
    }

    /// The bitmap was gone through, and bits are left: blocks that were skipped, written over
    /// meanwhile, or not copied. When a whole pass has copied nothing, there is a pause.
    fn next_pass(&mut self, c: usize, volume: VolumeNumber) {
        let now = self.now;
        let target = self.peer_device(c, volume).target.as_mut().expect("the caller has seen it");
        let stuck = target.failed > 0 && !target.copied;
        match target.retry_at {
            None if stuck => {
                target.retry_at = Some(now.after_ms(RETRY_MS));
                let text = format!(
                    "{}{} KiB cannot be copied (the lines above name the disk) and stay out of \
                     sync; tried again every {} s",
                    self.of_both(volume, c),
                    target_failed_kib(&self.connections[c].peer_devices[&volume]),
                    RETRY_MS / 1000
                );
                self.log(LogLevel::Error, text);
                self.changed();
            }
            Some(at) if now < at => {}
            _ => {
                target.retry_at = None;
                target.cursor = 0;
                target.failed = 0;
                target.copied = false;
            }
        }
    }

    pub(crate) fn target_flushed(&mut self, c: usize, volume: VolumeNumber, count: usize) {
        let now = self.now;
        let Some(target) = self.peer_device(c, volume).target.as_mut() else { return };
        target.flushing = false;
        let done: Vec<(u64, u64)> = target.unflushed.drain(..count).collect();
        target.unflushed_blocks = target.unflushed.iter().map(|(_, count)| count).sum();
        let save = now.ms_since(target.last_save) >= SAVE_MS;
        if save {
            target.last_save = now;
        }
        for (first, count) in merged(done) {
            self.peer_device(c, volume).bitmap.clear(first, count);
            let (offset, length) = (first * BLOCK_SIZE, count * BLOCK_SIZE);
            self.send(c, Packet::InSync { volume, offset, length }, None);
        }
        if save {
            self.save_bitmap(c, volume, Save::Stale, Then::Log);
        }
        self.pump_target(c, volume);
    }

    pub(crate) fn target_end_flushed(&mut self, c: usize, volume: VolumeNumber) {
        let socket = self.connections[c].active.expect("checked by the caller");
        if self.peer_device(c, volume).target.is_none() {
            return;
        }
        self.slot_whole(c, volume, BitmapState::AllClear);
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        backing.flags(
            DeviceFlags::CONSISTENT | DeviceFlags::WAS_UP_TO_DATE,
            DeviceFlags::OUTDATED | DeviceFlags::SURVIVED,
        );
        self.save_superblock(volume, Then::EndSaved { c, socket });
    }

    pub(crate) fn target_end_saved(&mut self, c: usize, volume: VolumeNumber) {
        let now = self.now;
        let Some(target) = self.peer_device(c, volume).target.take() else { return };
        let progress = target.rate.progress(now, 0);
        let text = format!(
            "{}Resync done (total {} sec; {} KiB/sec), {} KiB received, {} KiB failed",
            self.of_both(volume, c),
            progress.elapsed_ms / 1000,
            target.total / 1024 * 1000 / progress.elapsed_ms.max(1),
            target.total / 1024,
            target.failed / 1024
        );
        self.log(LogLevel::Info, text);
        self.set_disk(volume, DiskState::UpToDate);
        self.set_replication(c, volume, ReplicationState::Established);
        self.send(c, Packet::ResyncDone { volume }, None);
        self.send_state(volume);
        self.empty_log(volume);
    }

    /// When a resync has something to do.
    pub(crate) fn resync_timeouts(&self) -> Option<Time> {
        let mut next: Option<Time> = None;
        for connection in &self.connections {
            for peer in connection.peer_devices.values() {
                let Some(target) = &peer.target else { continue };
                let mut sooner = |at: Time| next = Some(next.map_or(at, |next| next.min(at)));
                if !target.unflushed.is_empty() && !target.flushing {
                    sooner(target.last_flush.after_ms(FLUSH_MS));
                }
                target
                    .retry_at
                    .filter(|_| connection.stage == Stage::Open)
                    .into_iter()
                    .for_each(&mut sooner);
                if peer.bitmap.next_set(target.cursor).is_some() && connection.stage == Stage::Open
                {
                    target.rate.next_time(self.now).into_iter().for_each(&mut sooner);
                }
            }
        }
        next
    }

    /// Progress of a resync, for people.
    pub(crate) fn resync_progress(&self, c: usize, volume: VolumeNumber) -> Option<ResyncStatus> {
        let peer = &self.connections[c].peer_devices[&volume];
        let left = peer.bitmap.count() * BLOCK_SIZE;
        if let Some(target) = &peer.target {
            let mut progress = target.rate.progress(self.now, left);
            progress.failed = target.failed;
            return Some(progress);
        }
        let source = peer.source.as_ref()?;
        let (at, before) = source.marks.front().copied().unwrap_or((source.started, source.total));
        let ms = self.now.ms_since(at).max(1);
        let rate = before.saturating_sub(left).saturating_mul(1000) / ms;
        let done = source.total.saturating_sub(left);
        let hundredths = done.saturating_mul(10_000) / source.total.max(1);
        Some(ResyncStatus {
            total: source.total,
            left,
            elapsed_ms: self.now.ms_since(source.started),
            rate,
            done_hundredths: u32::try_from(hundredths).unwrap_or(10_000),
            seconds_left: (rate > 0).then(|| left / rate),
            failed: 0,
        })
    }
}

fn is_resync(kind: &SentKind) -> bool {
    matches!(kind, SentKind::Resync)
}

fn target_failed_kib(peer: &super::connection::PeerDevice) -> u64 {
    peer.target.as_ref().map_or(0, |target| target.failed / 1024)
}

/// Runs in order, touching ones joined.
fn merged(mut runs: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    runs.sort_unstable();
    let mut result: Vec<(u64, u64)> = Vec::new();
    for (first, count) in runs {
        match result.last_mut() {
            Some(last) if first <= last.0 + last.1 => {
                last.1 = last.1.max(first + count - last.0);
            }
            _ => result.push((first, count)),
        }
    }
    result
}
