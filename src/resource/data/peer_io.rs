//! What the peer asks of the own disk: writes, zeroes, flushes, reads.
//!
//! Invariants:
//! - A write is acknowledged only when it is on the own disk and every rollback number that came
//!   before it is durable (model.md R14).
//! - A flush for the peer covers what was acknowledged before; it is never answered from a failed one.
//! - An answer goes only to the session that asked.
//! - While the peer has no disk, its writes set bits here and go through the own activity log (R15).

use crate::meta::COUNTER_BELIEVED;
use crate::resource::ids::blocks_of;
use crate::resource::peer::connection::{PeerWrite, Sent, SentKind, Stage};
use crate::resource::{
    Action, DiskError, DiskState, Payload, Pending, ReplicationState, Resource, Role, SocketId,
    VolumeNumber,
};
use crate::wire::{Packet, ZeroMode};

/// Reads, and writes, of a peer that may be under way at once: twice what its clients can have. What
/// carries payload is bounded by the receive window besides.
const PEER_REQUESTS_MAX: u32 = 2 * 128 * 256;

impl Resource {
    /// Packets of an open session. `false`: the peer must not send this now.
    pub(crate) fn session_packet(
        &mut self,
        c: usize,
        packet: Packet,
        payload: Option<Payload>,
    ) -> bool {
        let Some(socket) = self.connections[c].active else { return false };
        match packet {
            Packet::Data { volume, sequence, offset, length, fua } => {
                let write = (volume, sequence, offset, length, fua);
                self.peer_write(c, socket, write, payload, false)
            }
            Packet::Zeroes { volume, sequence, offset, length, mode, fua } => {
                let write = (volume, sequence, offset, length, fua);
                self.peer_write(c, socket, write, None, mode == ZeroMode::NoHole)
            }
            Packet::WriteAck { volume, sequence } => self.ack(c, volume, sequence, true),
            Packet::NegAck { volume, sequence } => {
                self.peer_disk_failed(c, volume);
                self.ack(c, volume, sequence, false)
            }
            Packet::NoSpace { volume, sequence } => self.peer_starves(c, volume, sequence),
            Packet::LetGo { volume, sequence } => {
                self.let_go(c, volume, sequence);
                true
            }
            Packet::TakeBack { volume, sequence } => {
                self.give_back(c, volume, sequence);
                true
            }
            Packet::TakenBack { volume, sequence } => self.taken_back(c, volume, sequence),
            Packet::Flush { volume, sequence } => {
                let peer = self.peer_device(c, volume);
                if peer.peer_flush_waiting.len() > 1024 {
                    return false;
                }
                peer.peer_flush_waiting.push(sequence);
                self.pump_peer_flush(c, socket, volume);
                true
            }
            Packet::FlushAck { volume, sequence, ok } => {
                let flush = |kind: &SentKind| matches!(kind, SentKind::Flush | SentKind::Parting);
                let Some(sent) = self.take_sent(c, volume, sequence, flush) else { return false };
                if !ok {
                    self.peer_disk_failed(c, volume);
                    // Where both fail in a flush, either may lack what the other one has.
                    self.peer_device(c, volume).was_whole = false;
                    self.device(volume).sync_failed = None;
                }
                if matches!(sent.kind, SentKind::Parting) {
                    self.parting_answered(volume, sequence, ok);
                } else {
                    self.peer_flush_done(c, volume, sent.epoch, ok);
                }
                true
            }
            Packet::ReadRequest { volume, sequence, offset, length } => {
                let end = offset + u64::from(length);
                if end > self.devices[&volume].size {
                    return false;
                }
                if self.devices[&volume].disk != DiskState::UpToDate {
                    self.send(c, Packet::ReadError { volume, sequence }, None);
                    return true;
                }
                let peer = self.peer_device(c, volume);
                if peer.peer_reads >= PEER_REQUESTS_MAX {
                    return false;
                }
                peer.peer_reads += 1;
                let tag = self.disk_tag(volume, Pending::PeerRead { c, socket, sequence });
                self.emit(Action::DiskRead { tag, volume, offset, length, find_zeroes: false });
                true
            }
            Packet::ReadReply { volume, sequence, length } => {
                let Some(sent) = self.take_sent(c, volume, sequence, is_read) else {
                    self.release(payload);
                    return false;
                };
                self.peer_device(c, volume).received += u64::from(length);
                if sent.length != u64::from(length) {
                    self.release(payload);
                    self.read_answered(sent.kind, None);
                    return false;
                }
                self.read_answered(sent.kind, payload);
                true
            }
            Packet::ReadError { volume, sequence } => {
                let Some(sent) = self.take_sent(c, volume, sequence, is_read) else { return false };
                self.read_answered(sent.kind, None);
                true
            }
            Packet::Number { volume, number } => {
                // What no disk reaches would not be read again.
                let number = number.min(COUNTER_BELIEVED);
                let peer = self.peer_device(c, volume);
                if peer.seen_number.is_none_or(|seen| seen < number) {
                    peer.seen_number = Some(number);
                }
                self.save_seen(c, volume);
                true
            }
            Packet::NewUuid { volume, uuid } => {
                // Only a Primary asks, and there is no other.
                let primary = self.role == Role::Primary;
                if self.peer_device(c, volume).storing_uuid || primary {
                    return false;
                }
                self.peer_uuid_wanted(c, volume, uuid);
                true
            }
            Packet::NewUuidAck { volume, uuid } => {
                self.new_uuid_acked(volume, uuid);
                true
            }
            sample @ (Packet::Sample { .. }
            | Packet::SampleAnswer { .. }
            | Packet::ClearBitmap { .. }) => self.sample_packet(c, socket, &sample),
            Packet::Resize { volume } => self.peer_resizes(c, socket, volume),
            Packet::ResizeAnswer { volume, size, code } => {
                self.resize_answered(c, volume, size, code)
            }
            verify @ (Packet::VerifyStart { .. }
            | Packet::VerifyAnswer { .. }
            | Packet::VerifyRequest { .. }
            | Packet::VerifyDigests { .. }
            | Packet::VerifyError { .. }
            | Packet::VerifyResult { .. }
            | Packet::VerifyEnd { .. }) => self.verify_packet(c, socket, verify),
            other => self.resync_packet(c, socket, other, payload),
        }
    }

    /// What the answer is to, if it is of the right volume and kind: otherwise it stays, and is
    /// settled when the session ends.
    pub(crate) fn take_sent(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        sequence: u64,
        fits: impl Fn(&SentKind) -> bool,
    ) -> Option<Sent> {
        let sent = &mut self.connections[c].sent;
        let right = sent.get(&sequence).is_some_and(|s| s.volume == volume && fits(&s.kind));
        if right { sent.remove(&sequence) } else { None }
    }

    fn read_answered(&mut self, kind: SentKind, payload: Option<Payload>) {
        match kind {
            SentKind::Read { key } => self.peer_read_done(key, payload),
            SentKind::Edge { key, head } => match payload {
                Some(_) => self.edge_done(key, head, Ok(payload)),
                None => self.edge_failed(key),
            },
            _ => self.release(payload),
        }
    }

    fn ack(&mut self, c: usize, volume: VolumeNumber, sequence: u64, ok: bool) -> bool {
        let write = |kind: &SentKind| matches!(kind, SentKind::Write { .. });
        let Some(sent) = self.take_sent(c, volume, sequence, write) else { return false };
        let connection = &mut self.connections[c];
        connection.in_flight -= u64::from(sent.bytes);
        self.peer_starves_no_more(c, volume, sequence);
        let SentKind::Write { key } = sent.kind else { return false };
        if ok {
            let now = self.now;
            self.peer_device(c, volume).metrics.write.note(sent.at, now);
        }
        self.write_acked(c, sent, key, ok);
        true
    }

    fn peer_write(
        &mut self,
        c: usize,
        socket: SocketId,
        (volume, sequence, offset, length, fua): (VolumeNumber, u64, u64, u32, bool),
        payload: Option<Payload>,
        no_hole: bool,
    ) -> bool {
        let replication = self.connections[c].peer_devices[&volume].replication;
        let allowed = matches!(
            replication,
            ReplicationState::Established
                | ReplicationState::SyncTarget
                | ReplicationState::SyncSource
                | ReplicationState::PausedSyncT
                | ReplicationState::PausedSyncS
                | ReplicationState::VerifyS
                | ReplicationState::VerifyT
        );
        let size = self.devices[&volume].size;
        let many = self.connections[c].peer_devices[&volume].peer_writes >= PEER_REQUESTS_MAX;
        if !allowed || many || offset.checked_add(u64::from(length)).is_none_or(|end| end > size) {
            self.release(payload);
            return false;
        }
        self.peer_device(c, volume).received += payload.map_or(0, |p| u64::from(p.length));
        if !self.devices[&volume].writable() {
            self.release(payload);
            self.send(c, Packet::NegAck { volume, sequence }, None);
            return true;
        }
        let number = self.connections[c].peer_devices[&volume].seen_number.unwrap_or(0);
        self.peer_device(c, volume).peer_writes += 1;
        let key = self.peer_writes.insert(PeerWrite {
            connection: c,
            socket,
            volume,
            sequence,
            offset,
            length,
            payload,
            no_hole,
            fua,
            number,
            disk_done: false,
            failed: false,
            hot: false,
            started: false,
            last_try: false,
            recalled: false,
        });
        let lone = !self.connections[c].peer_devices[&volume].replicates();
        if !lone {
            self.start_peer_write(key);
            return true;
        }
        let key = key | PEER_WRITE;
        let backing = self.device(volume).backing.as_mut().expect("a writable disk");
        if backing.activity_log.acquire(key, offset, u64::from(length)) {
            self.peer_write_ready(key);
        }
        true
    }

    /// The extents of a write for a peer without a disk are hot.
    pub(crate) fn peer_write_ready(&mut self, key: u64) {
        let key = key & !PEER_WRITE;
        let Some(write) = self.peer_writes.get_mut(key) else { return };
        write.hot = true;
        if !self.devices[&write.volume].writable() {
            return self.refuse_peer_write(key);
        }
        let (c, volume) = (write.connection, write.volume);
        let (first, count) = blocks_of(write.offset, u64::from(write.length));
        self.peer_device(c, volume).bitmap.set(first, count);
        self.start_peer_write(key);
    }

    /// Its range is the Primary's to keep, but for one case: a source that loses its disk lets go of
    /// what it has sent, and this disk may still be writing it.
    pub(crate) fn start_peer_write(&mut self, key: u64) {
        let write = self.peer_writes.get_mut(key).expect("one that has not started");
        let (start, end) = (write.offset, write.offset + u64::from(write.length));
        let connection = &mut self.connections[write.connection];
        let peer = connection.peer_devices.get_mut(&write.volume).expect("a volume of ours");
        let overlaps = |(first, bytes): &(u64, u64)| *first < end && start < first + bytes;
        write.started = !peer.target_writes.values().any(overlaps);
        if !write.started {
            return peer.behind_resync.push(key);
        }
        let (volume, offset, length, fua) = (write.volume, write.offset, write.length, write.fua);
        let (payload, no_hole) = (write.payload, write.no_hole);
        let fua = fua && self.config.disk_options(volume).disk_flushes;
        let tag = self.disk_tag(volume, Pending::PeerWrite { key });
        self.count_written(volume, u64::from(length));
        match payload {
            Some(payload) => {
                self.emit(Action::DiskWrite { tag, volume, offset, payload, fua });
            }
            None => {
                self.emit(Action::DiskZeroes {
                    tag,
                    volume,
                    offset,
                    length,
                    no_hole,
                    written: false,
                    fua,
                });
            }
        }
    }

    /// A piece of a resync is on the disk, or was given up: what waited for that goes on.
    pub(crate) fn start_what_was_behind_resync(&mut self, c: usize, volume: VolumeNumber) {
        for key in std::mem::take(&mut self.peer_device(c, volume).behind_resync) {
            if self.peer_writes.get(key).is_some_and(|write| !write.started && !write.disk_done) {
                self.start_peer_write(key);
            }
        }
    }

    pub(crate) fn peer_write_done(&mut self, key: u64, ok: bool) {
        let write = self.peer_writes.get_mut(key).expect("a peer's write under way");
        write.disk_done = true;
        write.failed = !ok;
        let payload = write.payload.take();
        let (c, volume) = (write.connection, write.volume);
        let (first, count) = blocks_of(write.offset, u64::from(write.length));
        self.starves_no_more(volume, key | PEER_WRITE, ok);
        self.release(payload);
        if ok {
            self.target_wrote(c, volume, (first, count), count);
        }
        self.finish_peer_write(key);
    }

    /// Acknowledges when the disk has it and the number before it is durable.
    fn finish_peer_write(&mut self, key: u64) {
        let write = self.peer_writes.get(key).expect("a peer's write under way");
        let (c, volume) = (write.connection, write.volume);
        let durable = self.connections[c].peer_devices[&volume].seen_durable;
        let disk = self.devices[&volume].writable();
        if !write.disk_done || (durable < write.number && !write.failed && disk) {
            return;
        }
        let write = self.peer_writes.remove(key).expect("just seen");
        if write.hot {
            let epoch = self.device(volume).epoch;
            if let Some(backing) = self.device(volume).backing.as_mut() {
                let length = u64::from(write.length);
                backing.activity_log.release(write.offset, length, Some(epoch));
            }
        }
        if self.is_current(c, write.socket) {
            let sequence = write.sequence;
            let failed = write.failed || !disk;
            let packet = if failed {
                Packet::NegAck { volume, sequence }
            } else {
                Packet::WriteAck { volume, sequence }
            };
            self.send(c, packet, None);
        }
        self.peer_device(c, volume).peer_writes -= 1;
        self.pump_loss(volume);
    }

    /// A number became durable: acknowledgements that waited for it.
    pub(crate) fn acks_after_number(&mut self, c: usize, volume: VolumeNumber) {
        for key in self.peer_writes.keys() {
            let write = self.peer_writes.get(key).expect("listed just now");
            if write.connection == c && write.volume == volume {
                self.finish_peer_write(key);
            }
        }
    }

    /// The disk is about to be let go of: peer writes that wait for its activity log never start.
    pub(crate) fn refuse_waiting_peer_writes(&mut self, volume: VolumeNumber) {
        for key in self.peer_writes.keys() {
            let write = self.peer_writes.get(key).expect("listed just now");
            if write.volume == volume && !write.started {
                if let Some(backing) = self.device(volume).backing.as_mut() {
                    backing.activity_log.cancel(key | PEER_WRITE);
                }
                self.refuse_peer_write(key);
            }
        }
    }

    /// A peer write that has not started, and will not.
    fn refuse_peer_write(&mut self, key: u64) {
        let write = self.peer_writes.get_mut(key).expect("the caller has seen it");
        write.disk_done = true;
        write.failed = true;
        let (payload, volume) = (write.payload.take(), write.volume);
        self.starves_no_more(volume, key | PEER_WRITE, false);
        self.release(payload);
        self.finish_peer_write(key);
    }

    /// The disk is gone: peer writes that have not reached it are refused.
    pub(crate) fn fail_waiting_peer_writes(&mut self, volume: VolumeNumber) {
        for key in self.peer_writes.keys() {
            let write = self.peer_writes.get_mut(key).expect("listed just now");
            if write.volume != volume {
                continue;
            }
            let waits_for_log = !write.started;
            write.hot = false;
            if waits_for_log {
                self.refuse_peer_write(key);
            } else {
                self.finish_peer_write(key);
            }
        }
    }

    /// The session is over: its writes that still wait, for the activity log or for space, never
    /// start. What one has written of its range the Primary covers, as of any that is not answered.
    pub(crate) fn drop_waiting_peer_writes(&mut self, c: usize, volume: VolumeNumber) {
        for key in self.peer_writes.keys() {
            let write = self.peer_writes.get(key).expect("listed just now");
            if write.connection != c || write.volume != volume || write.started {
                continue;
            }
            self.drop_peer_write(key, false);
        }
    }

    /// A write that is not under way on the disk goes, unanswered, or with `back` to its Primary.
    pub(crate) fn drop_peer_write(&mut self, key: u64, back: bool) {
        let Some(write) = self.peer_writes.remove(key) else { return };
        let (c, volume, sequence) = (write.connection, write.volume, write.sequence);
        self.starves_no_more(volume, key | PEER_WRITE, false);
        let epoch = self.device(volume).epoch;
        if let Some(backing) = self.device(volume).backing.as_mut() {
            if write.hot {
                let length = u64::from(write.length);
                backing.activity_log.release(write.offset, length, Some(epoch));
            } else {
                backing.activity_log.cancel(key | PEER_WRITE);
            }
        }
        self.release(write.payload);
        self.peer_device(c, volume).peer_writes -= 1;
        if back {
            self.send(c, Packet::TakenBack { volume, sequence }, None);
            self.pump_loss(volume);
        }
    }

    fn pump_peer_flush(&mut self, c: usize, socket: SocketId, volume: VolumeNumber) {
        let peer = self.peer_device(c, volume);
        if peer.peer_flush.is_some() || peer.peer_flush_waiting.is_empty() {
            return;
        }
        let last = *peer.peer_flush_waiting.last().expect("not empty");
        if !self.devices[&volume].writable() {
            return self.answer_peer_flushes(c, volume, last, false);
        }
        self.peer_device(c, volume).peer_flush = Some(last);
        if !self.config.disk_options(volume).disk_flushes {
            self.peer_device(c, volume).peer_flush = None;
            return self.answer_peer_flushes(c, volume, last, true);
        }
        let tag = self.disk_tag(volume, Pending::PeerFlush { c, socket });
        self.emit(Action::DiskFlush { tag, volume });
    }

    fn answer_peer_flushes(&mut self, c: usize, volume: VolumeNumber, last: u64, ok: bool) {
        let mut waiting = std::mem::take(&mut self.peer_device(c, volume).peer_flush_waiting);
        for sequence in waiting.iter().copied().filter(|sequence| *sequence <= last) {
            self.send(c, Packet::FlushAck { volume, sequence, ok }, None);
        }
        waiting.retain(|sequence| *sequence > last);
        self.peer_device(c, volume).peer_flush_waiting = waiting;
    }

    pub(crate) fn peer_flush_served(
        &mut self,
        c: usize,
        socket: SocketId,
        volume: VolumeNumber,
        ok: bool,
    ) {
        if !self.is_current(c, socket) {
            return;
        }
        let Some(last) = self.peer_device(c, volume).peer_flush.take() else { return };
        self.answer_peer_flushes(c, volume, last, ok);
        self.pump_peer_flush(c, socket, volume);
    }

    pub(crate) fn peer_read_served(
        &mut self,
        c: usize,
        socket: SocketId,
        volume: VolumeNumber,
        sequence: u64,
        result: Result<Option<Payload>, DiskError>,
    ) {
        let payload = result.ok().flatten();
        let peer = self.peer_device(c, volume);
        peer.peer_reads = peer.peer_reads.saturating_sub(1);
        if self.is_current(c, socket) {
            match payload {
                Some(payload) => {
                    let length = payload.length;
                    self.device(volume).counters.read += u64::from(length);
                    self.peer_device(c, volume).sent += u64::from(length);
                    let packet = Packet::ReadReply { volume, sequence, length };
                    self.send(c, packet, Some(payload));
                }
                None => self.send(c, Packet::ReadError { volume, sequence }, None),
            }
        }
        self.release(payload);
    }

    /// The peer told its role and disk.
    pub(crate) fn peer_state(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        role: Role,
        disk: DiskState,
    ) {
        self.set_peer_role(c, role);
        if self.connections[c].stage < Stage::Opening && !self.is_renegotiating(c) {
            return;
        }
        let old = self.connections[c].peer_devices[&volume].peer_disk;
        self.set_peer_disk(c, volume, disk);
        if old >= DiskState::Inconsistent && disk < DiskState::Inconsistent {
            self.peer_device(c, volume).promised = None;
            self.peer_disk_gone(c, volume);
        }
        self.stays_if_needed(c);
    }

    /// The peer answered that its disk failed, before it told its state.
    fn peer_disk_failed(&mut self, c: usize, volume: VolumeNumber) {
        if self.connections[c].peer_devices[&volume].peer_disk >= DiskState::Inconsistent {
            self.set_peer_disk(c, volume, DiskState::Failed);
            self.peer_disk_gone(c, volume);
        }
        self.stays_if_needed(c);
    }

    /// The peer's disk failed or was let go of in an open session: what it had acknowledged and not
    /// flushed becomes bits, and an answered write may rest on this disk alone now: the loss
    /// sequence runs, with a new current UUID if there is such a write.
    pub(crate) fn peer_disk_gone(&mut self, c: usize, volume: VolumeNumber) {
        self.forget_copies(c, volume);
        let runs = self.peer_device(c, volume).transfer_log.drain();
        let unflushed = !runs.is_empty();
        for (first, count) in runs {
            self.peer_device(c, volume).bitmap.set(first, count);
        }
        let source = self.peer_device(c, volume).source.take().is_some();
        let target = self.peer_device(c, volume).target.take().is_some();
        let verify = self.peer_device(c, volume).verify.is_some();
        self.verify_over(c, volume, Err("the peer's disk"));
        self.drop_resync_locks(c, volume);
        if self.connections[c].stage == Stage::Open && (source || target || verify) {
            self.set_replication(c, volume, ReplicationState::Established);
        }
        let primary = self.role == Role::Primary;
        let device = self.device(volume);
        if device.disk == DiskState::UpToDate {
            device.survives = true;
            device.bump_due |= unflushed && primary;
        }
        // Also of a target: what both had is on this disk alone, perhaps in its cache, and nobody flushes with it.
        if device.writable() {
            device.begin_loss();
            self.pump_loss(volume);
        }
        self.forget_peer_uuid(volume);
    }
}

fn is_read(kind: &SentKind) -> bool {
    matches!(kind, SentKind::Read { .. } | SentKind::Edge { .. })
}

/// Marks keys of peer writes among those that wait for the activity log: requests and peer writes
/// live in two tables.
pub(crate) const PEER_WRITE: u64 = 1 << 63;
