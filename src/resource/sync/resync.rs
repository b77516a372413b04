//! Resync: the target asks for blocks, the source answers, bits go when both have flushed.
//!
//! Here is what both sides share; `resync_target` and `resync_source` are the two sides.
//!
//! Invariants (model.md R9, R10):
//! - A piece is asked for only with its range held on the target and read only with its range held
//!   on the source, until the target has written it: no write of a client runs in it meanwhile.
//! - The target clears a bit only after its own flush that covers the block, and then says InSync;
//!   the source clears it in memory on that, and its own copy was flushed before the resync began.
//! - The source ends: no bits and nothing under way. The target then flushes, is durably UpToDate,
//!   and answers.

use crate::resource::data::interval::{Kind, LockId};
use crate::resource::peer::connection::{SentKind, Stage};
use crate::resource::sync::resync_target::FLUSH_MS;
use crate::resource::{
    Action, BLOCK_SIZE, LogLevel, Payload, Pending, Resource, ResyncStatus, SocketId, Time,
    VolumeNumber,
};
use crate::wire::Packet;

/// Pieces that a target may have asked for at once.
pub(in crate::resource) const PIECES_MAX: usize = 4096;
/// Marks lock ids of resync among those of requests.
const RESYNC_LOCK: u64 = 1 << 62;

impl Resource {
    pub(in crate::resource) fn resync_lock(&mut self) -> u64 {
        self.next_lock += 1;
        RESYNC_LOCK | self.next_lock
    }

    /// Everything that a resync may do now, on both sides.
    pub(crate) fn pump_resync(&mut self) {
        for c in self.peers() {
            if !self.connections[c].stage.goes_on() {
                continue;
            }
            let mut next = self.volume_after(None);
            while let Some(volume) = next {
                self.pump_target(c, volume);
                self.pump_source(c, volume);
                self.pump_verify(c, volume);
                next = self.volume_after(Some(volume));
            }
        }
    }

    /// A range of resync is held now: the target asks, the source reads.
    pub(crate) fn resync_range_granted(&mut self, volume: VolumeNumber, id: u64) {
        let now = self.now;
        for c in self.peers() {
            let peer = self.peer_device(c, volume);
            if let Some(held) = peer.resync_locks.get_mut(&id) {
                *held = true;
            }
            if self.verify_range_granted(c, volume, id) {
                return;
            }
            let peer = self.peer_device(c, volume);
            let piece = peer.target.as_ref().and_then(|target| target.pieces.get(&id)).copied();
            if let Some(piece) = piece {
                let (offset, length) = (piece.offset, piece.length);
                let kind = SentKind::Resync;
                let sequence = self.track(c, volume, kind, offset, u64::from(length), 0, id);
                let target = self.peer_device(c, volume).target.as_mut().expect("just seen");
                let piece = target.pieces.get_mut(&id).expect("just seen");
                piece.requested = Some(now);
                piece.sequence = sequence;
                let packet = match piece.digests {
                    Some(alg) => Packet::DigestRequest { volume, sequence, offset, length, alg },
                    None if piece.hole => Packet::HoleRequest { volume, sequence, offset, length },
                    None => Packet::ResyncRequest { volume, sequence, offset, length },
                };
                self.send(c, packet, None);
                return;
            }
            let found = peer.source.as_mut().and_then(|source| {
                source.pieces.iter_mut().find(|(_, piece)| piece.lock == id && !piece.held)
            });
            if let Some((sequence, piece)) = found {
                piece.held = true;
                let (sequence, offset, length) = (*sequence, piece.offset, piece.length);
                let (hole, digests) = (piece.hole, piece.digests);
                let socket = self.connections[c].active.expect("a source has a session");
                if hole {
                    let tag = self.disk_tag(volume, Pending::SourceHole { c, socket, sequence });
                    return self.emit(Action::FindHole { tag, volume, offset, length });
                }
                let tag = self.disk_tag(volume, Pending::SourceRead { c, socket, sequence });
                let find_zeroes = digests.is_none();
                self.emit(Action::DiskRead { tag, volume, offset, length, find_zeroes });
                return;
            }
        }
        // Nobody's any more.
        for c in self.peers() {
            self.peer_device(c, volume).resync_locks.remove(&id);
        }
        self.device(volume).intervals.release(LockId(id));
    }

    /// Lets go of every range that a resync holds or waits for.
    pub(crate) fn drop_resync_locks(&mut self, c: usize, volume: VolumeNumber) {
        let peer = self.peer_device(c, volume);
        let locks = std::mem::take(&mut peer.resync_locks);
        for (id, held) in locks {
            if self.peer_device(c, volume).target_writes.contains_key(&id) {
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
                self.source_asked(c, volume, sequence, (offset, length), None)
            }
            Packet::DigestRequest { volume, sequence, offset, length, alg } => {
                self.source_asked(c, volume, sequence, (offset, length), Some(alg))
            }
            Packet::DigestAnswer { volume, sequence, digests } => {
                self.target_hears_digests(c, socket, volume, sequence, digests)
            }
            Packet::HoleRequest { volume, sequence, offset, length } => {
                self.source_asked_for_hole(c, volume, sequence, (offset, length))
            }
            Packet::HoleAnswer { volume, sequence, length } => {
                self.target_hears_of_hole(c, socket, volume, sequence, length)
            }
            Packet::ResyncData { volume, sequence, length } => {
                let Some(sent) = self.take_sent(c, volume, sequence, is_resync) else {
                    self.release(payload);
                    return false;
                };
                self.peer_device(c, volume).received += u64::from(length);
                let piece = sent.epoch;
                let target = self.peer_device(c, volume).target.as_ref();
                let asked = target.and_then(|target| target.pieces.get(&piece));
                let other = asked.is_some_and(|piece| piece.hole || piece.digests.is_some());
                let (known, fits) = (asked.is_some(), sent.length == u64::from(length) && !other);
                if !fits || !known || !self.devices[&volume].writable() {
                    self.release(payload);
                    return fits;
                }
                let Some(data) = payload else { return false };
                let pending = Pending::TargetWrite { c, socket, piece, payload };
                self.target_write_starts(c, volume, piece, (sent.offset, sent.length));
                let tag = self.disk_tag(volume, pending);
                let (offset, fua) = (sent.offset, false);
                self.count_written(volume, u64::from(length));
                self.emit(Action::DiskWrite { tag, volume, offset, payload: data, fua });
                true
            }
            Packet::ResyncZeroes { volume, sequence } => {
                let Some(sent) = self.take_sent(c, volume, sequence, is_resync) else {
                    return false;
                };
                let piece = sent.epoch;
                let usable = self.devices[&volume].writable();
                let Some(target) = self.peer_device(c, volume).target.as_mut() else { return true };
                match target.pieces.get(&piece) {
                    Some(piece) if piece.hole || piece.digests.is_some() => return false,
                    Some(_) if usable => target.holes.zeroes_came(),
                    _ => return true,
                }
                let length = u32::try_from(sent.length).expect("at most 1 MiB");
                let pending = Pending::TargetWrite { c, socket, piece, payload: None };
                self.target_zeroes(c, volume, piece, pending, (sent.offset, length));
                true
            }
            Packet::ResyncError { volume, sequence } => {
                let Some(sent) = self.take_sent(c, volume, sequence, is_resync) else {
                    return false;
                };
                // The first of a pass: how much it is in all, the end of the pass says.
                let target = self.peer_device(c, volume).target.as_ref();
                if target.is_some_and(|target| target.failed == 0) {
                    let text = format!(
                        "{}the source cannot read {} bytes at {}: they stay out of sync",
                        self.of_both(volume, c),
                        sent.length,
                        sent.offset
                    );
                    self.log(LogLevel::Error, text);
                }
                if let Some(target) = self.peer_device(c, volume).target.as_mut() {
                    if target.pieces.get(&sent.epoch).is_some_and(|piece| piece.hole) {
                        return false;
                    }
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
                self.source_in_sync(c, volume, offset, length);
                true
            }
            Packet::ResyncEnd { volume } => {
                if let Some(target) = self.peer_device(c, volume).target.as_mut() {
                    // Carried out by `pump_resync`, in the stages in which a resync goes on.
                    target.end_received = true;
                }
                true
            }
            Packet::ResyncDone { volume } => {
                let source = self.peer_device(c, volume).source.as_ref();
                // A target is done when it has acknowledged every piece.
                if source.is_some_and(|source| !source.end_sent || !source.pieces.is_empty()) {
                    return false;
                }
                self.source_done(c, volume);
                true
            }
            Packet::StartResync { volume, sequence, source, marked } => {
                self.resync_ordered(c, volume, sequence, (source, marked))
            }
            Packet::StartResyncAnswer { volume, sequence, code } => {
                self.resync_order_answered(c, volume, sequence, code)
            }
            _ => {
                self.release(payload);
                false
            }
        }
    }

    pub(in crate::resource) fn unlock_resync(&mut self, c: usize, volume: VolumeNumber, lock: u64) {
        if let Some(held) = self.peer_device(c, volume).resync_locks.remove(&lock) {
            let intervals = &mut self.device(volume).intervals;
            if held || !intervals.cancel(LockId(lock)) {
                intervals.release(LockId(lock));
            }
            self.grant_ranges(volume);
        }
    }

    pub(in crate::resource) fn hold(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        lock: u64,
        range: std::ops::Range<u64>,
        kind: Kind,
    ) {
        self.peer_device(c, volume).resync_locks.insert(lock, false);
        let intervals = &mut self.device(volume).intervals;
        if intervals.acquire(LockId(lock), range.start, range.end, kind) {
            self.resync_range_granted(volume, lock);
        }
    }

    /// When a resync or a verify has something to do.
    pub(crate) fn resync_timeouts(&self) -> Option<Time> {
        let mut next: Option<Time> = None;
        for c in self.peers() {
            let volumes = self.volume_numbers.iter();
            next = volumes.filter_map(|v| self.verify_timeout(c, *v)).chain(next).min();
        }
        for connection in &self.connections {
            for peer in connection.peer_devices.values() {
                let Some(target) = &peer.target else { continue };
                let mut sooner = |at: Time| next = Some(next.map_or(at, |next| next.min(at)));
                // In between it is neither told nor flushed: the handshake starts over with the bits.
                let told = connection.stage.goes_on();
                if !target.unflushed.is_empty() && !target.flushing && told {
                    sooner(target.last_flush.after_ms(FLUSH_MS));
                }
                target
                    .retry_at
                    // Until a flush under way has ended nothing is tried.
                    .filter(|_| connection.stage == Stage::Open)
                    .filter(|_| !target.flushing && !target.finishing)
                    // What a client has written meanwhile is not copied any more: the source has to say the end.
                    .filter(|_| peer.bitmap.count() > 0)
                    .into_iter()
                    .for_each(&mut sooner);
                if !peer.pause.any()
                    && connection.stage == Stage::Open
                    && peer.bitmap.next_set(target.cursor).is_some()
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
            progress.paused_ms = target.pauses.total_ms(self.now);
            if peer.pause.any() {
                progress.seconds_left = None;
            }
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
            paused_ms: source.pauses.total_ms(self.now),
            rate,
            done_hundredths: u32::try_from(hundredths).unwrap_or(10_000),
            seconds_left: (rate > 0 && !peer.pause.any()).then(|| left / rate),
            failed: 0,
        })
    }
}

pub(in crate::resource) fn is_resync(kind: &SentKind) -> bool {
    matches!(kind, SentKind::Resync)
}
