//! The target of a resync.
//!
//! Invariants (model.md R9, R10):
//! - A piece is asked for only with its range held here, until it is on the disk.
//! - A bit is cleared only after a flush of the own disk that covers the block; then the source is
//!   told. What is unflushed when a session ends in order is flushed, and told, before.

use crate::meta::{BitmapState, DeviceFlags};
use crate::resource::data::interval::Kind;
use crate::resource::ids::blocks_of;
use crate::resource::orders::pause::PauseClock;
use crate::resource::peer::connection::{
    Connection, PeerDevice, Piece, Save, Side, Stage, SyncTarget,
};
use crate::resource::sync::csums::COMPARED_BLOCKS;
use crate::resource::sync::holes::{HOLE_BLOCKS, HOLE_CHARGE, PIECE_BLOCKS};
use crate::resource::sync::resync::PIECES_MAX;
use crate::resource::sync::resync_rate::{REQUEST, ResyncRate};
use crate::resource::{
    Action, BLOCK_SIZE, DiskState, Handler, LogLevel, PAYLOAD_MAX, Pending, ReplicationState,
    Resource, Role, SocketId, Then, VolumeNumber,
};
use crate::wire::Packet;

/// Pieces that are asked for at once. Scattered blocks are pieces of 4 KiB: what the window lets through may be more
/// than a slow disk answers in the time that the peer has for an answer.
const ASKED_MAX: usize = PIECES_MAX / 16;
/// Unflushed bytes after which the target flushes.
const UNFLUSHED_MAX: u64 = 32 << 20;
/// The target flushes at least this often while there is something to flush, ms.
pub(in crate::resource) const FLUSH_MS: u64 = 1000;
/// The bitmap of either side is saved at least this often while it loses bits, ms: a crash of
/// either costs the resync no more than that.
pub(in crate::resource) const SAVE_MS: u64 = 1000;
/// Blocks that could not be copied are tried again after this pause, ms.
const RETRY_MS: u64 = 10_000;

impl Resource {
    pub(crate) fn start_target(&mut self, c: usize, volume: VolumeNumber) {
        let now = self.now;
        let bits = self.peer_device(c, volume).bitmap.count();
        let total = bits * BLOCK_SIZE;
        let rate = ResyncRate::new(&self.config.disk_options(volume), now, total);
        let csums = self.csums(c, volume);
        let peer = self.peer_device(c, volume);
        peer.target_round += 1;
        peer.target = Some(SyncTarget {
            round: peer.target_round,
            rate,
            pauses: PauseClock::new(peer.pause.any(), now),
            cursor: 0,
            pieces: Default::default(),
            in_flight: 0,
            holes: Default::default(),
            csums,
            unflushed: Vec::new(),
            unflushed_blocks: 0,
            flushing: false,
            last_flush: now,
            last_save: now,
            total,
            zeroes: 0,
            failed: 0,
            copied: false,
            retry_at: None,
            end_received: false,
            finishing: false,
        });
        self.set_peer_disk(c, volume, DiskState::UpToDate);
        self.peer_device(c, volume).metrics.resyncs += 1;
        let state = self.paused_or_not(c, volume, ReplicationState::SyncTarget);
        self.set_replication(c, volume, state);
        let text = format!(
            "{}Began resync as SyncTarget (will sync {} KB [{bits} bits set]).",
            self.of_both(volume, c),
            total / 1024
        );
        self.log(LogLevel::Info, text);
    }

    pub(in crate::resource) fn pump_target(&mut self, c: usize, volume: VolumeNumber) {
        let now = self.now;
        let window = (self.window_for_resync()).max(u64::from(PAYLOAD_MAX));
        let active = self.admitted > 0 || self.peer_writes.len() > 0;
        let open = self.connections[c].stage == Stage::Open && !self.ends_in_order(c);
        loop {
            let peer = self.peer_device(c, volume);
            let Some(target) = peer.target.as_mut() else { return };
            if peer.pause.any() || target.finishing || !open || target.in_flight >= window {
                break;
            }
            if target.pieces.len() >= ASKED_MAX {
                break;
            }
            if target.retry_at.is_some_and(|at| now < at) || target.holes.hears_first() {
                break;
            }
            let allowance = target.rate.allowance(now, active);
            if allowance == 0 {
                break;
            }
            let (from, bitmap) = (target.cursor, &peer.bitmap);
            let long = target.holes.asks().then(|| bitmap.next_long_run(from, HOLE_BLOCKS));
            let long = long.flatten().filter(|(_, count)| *count > PIECE_BLOCKS);
            let hole = long.is_some();
            let digests = target.csums.asks().filter(|_| !hole);
            let most = target.holes.piece_blocks();
            let most = if digests.is_some() { most.min(COMPARED_BLOCKS) } else { most };
            let run = long.or_else(|| bitmap.next_run(from, most));
            let Some((first, count)) = run else { break };
            let wanted = if hole { u64::from(HOLE_CHARGE) } else { count * BLOCK_SIZE };
            // No crumbs: what the rate allows a little later goes in one request.
            if allowance < wanted.min(REQUEST) {
                break;
            }
            let count = if hole { count } else { count.min(allowance / BLOCK_SIZE) };
            target.cursor = first + count;
            let length = u32::try_from(count * BLOCK_SIZE).expect("at most 64 MiB");
            let charge = if hole { HOLE_CHARGE } else { length };
            target.in_flight += u64::from(charge);
            target.rate.requested(u64::from(charge));
            let offset = first * BLOCK_SIZE;
            let (sequence, requested, making) = (0, None, None);
            let piece =
                Piece { offset, length, hole, digests, charge, sequence, requested, making };
            let id = self.resync_lock();
            let target = self.peer_device(c, volume).target.as_mut().expect("seen above");
            target.pieces.insert(id, piece);
            match hole {
                true => target.holes.asked(),
                false => {
                    target.holes.piece_asked();
                    target.csums.piece_asked(digests.is_some());
                }
            }
            let range = offset..offset + u64::from(length);
            if !hole {
                self.hold(c, volume, id, range, Kind::Exclusive);
            } else if !self.hold_now(c, volume, id, range) {
                let target = self.peer_device(c, volume).target.as_mut().expect("seen above");
                target.pieces.remove(&id);
                target.in_flight -= u64::from(charge);
                target.rate.returned(u64::from(charge));
                target.cursor = first;
                target.holes.ended();
                target.holes.busy();
            }
        }
        self.maybe_flush_target(c, volume);
    }

    /// Bytes of resync under way at once: a quarter of the own receive window.
    pub(in crate::resource) fn window_for_resync(&self) -> u64 {
        u64::from(self.config.options.max_buffers) * 4096 / 4
    }

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
        self.start_what_was_behind_resync(c, volume);
        let peer = self.peer_device(c, volume);
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
            target.rate.failed(u64::from(piece.charge));
            let sequence = piece.sequence;
            self.send(c, Packet::ResyncAck { volume, sequence }, None);
            return self.end_piece(c, volume, id);
        }
        let latency = piece.requested.map_or(0, |at| now.ms_since(at));
        let (charge, length) = (u64::from(piece.charge), u64::from(piece.length));
        target.rate.carried_for(now, charge, length, latency);
        target.copied = true;
        if let Some(since) = piece.making {
            target.holes.made(now.ms_since(since));
        }
        let sequence = piece.sequence;
        self.send(c, Packet::ResyncAck { volume, sequence }, None);
        self.end_piece(c, volume, id);
        let (first, count) = blocks_of(piece.offset, u64::from(piece.length));
        self.target_wrote(c, volume, (first, count), charge / BLOCK_SIZE);
    }

    /// A piece goes to the disk: it counts as a write of the peer, and its range is kept until the
    /// disk has answered, whatever becomes of the session.
    pub(in crate::resource) fn target_write_starts(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        piece: u64,
        range: (u64, u64),
    ) {
        let peer = self.peer_device(c, volume);
        peer.target_writes.insert(piece, range);
        peer.peer_writes += 1;
    }

    pub(in crate::resource) fn end_piece(&mut self, c: usize, volume: VolumeNumber, id: u64) {
        if let Some(target) = self.peer_device(c, volume).target.as_mut()
            && let Some(piece) = target.pieces.remove(&id)
        {
            target.in_flight -= u64::from(piece.charge);
            if piece.hole {
                target.holes.ended();
            }
        }
        self.unlock_resync(c, volume, id);
    }

    /// A piece of zeroes is made on the own disk: a hole, as on the source; a disk that keeps its
    /// blocks keeps them written.
    pub(in crate::resource) fn target_zeroes(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        piece: u64,
        pending: Pending,
        (offset, length): (u64, u32),
    ) {
        self.target_write_starts(c, volume, piece, (offset, u64::from(length)));
        let tag = self.disk_tag(volume, pending);
        if let Some(target) = self.peer_device(c, volume).target.as_mut() {
            target.zeroes += u64::from(length);
        }
        let (no_hole, written, fua) = (false, true, false);
        self.count_written(volume, u64::from(length));
        self.emit(Action::DiskZeroes { tag, volume, offset, length, no_hole, written, fua });
    }

    /// Blocks are on the target's disk, unflushed: by resync, or by a replicated write. A flush is
    /// due after so many of `weight`.
    pub(crate) fn target_wrote(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        (first, count): (u64, u64),
        weight: u64,
    ) {
        let peer = self.peer_device(c, volume);
        let any = peer.bitmap.any(first, count);
        let Some(target) = peer.target.as_mut().filter(|_| any) else { return };
        target.unflushed_blocks += weight;
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
        let ends = self.ends_in_order(c);
        let leaves = self.connections[c].leaving.is_some();
        let peer = self.peer_device(c, volume);
        let target = peer.target.as_ref().expect("seen above");
        if target.unflushed.is_empty() {
            let left = peer.bitmap.count();
            let target = peer.target.as_mut().expect("seen above");
            if over && left > 0 {
                return self.next_pass(c, volume);
            } else if leaves {
                // Of a connection that is being left no disk becomes UpToDate: what the leave has marked on
                // those that were is not on this one, and it would pass for the newest.
            } else if left == 0 && target.end_received && target.pieces.is_empty() {
                target.finishing = true;
                let round = target.round;
                self.flush_disk(volume, Then::EndFlushed { c, socket, round });
            }
            return;
        }
        let due = over
            || ends
            || target.end_received
            || target.unflushed_blocks * BLOCK_SIZE >= UNFLUSHED_MAX
            || now.ms_since(target.last_flush) >= FLUSH_MS;
        if due {
            let count = target.unflushed.len();
            let target = peer.target.as_mut().expect("seen above");
            target.flushing = true;
            target.unflushed_blocks = 0;
            target.last_flush = now;
            let round = target.round;
            self.flush_disk(volume, Then::TargetFlushed { c, socket, round, count });
        }
    }

    /// The session is about to end in order, or to be negotiated anew.
    fn ends_in_order(&self, c: usize) -> bool {
        let connection = &self.connections[c];
        connection.leaving.is_some() || connection.stage == Stage::Quiescing
    }

    /// Nothing is being copied from the peer, and it has been told of everything that was. A
    /// resync starts over with the bits of both sides: what is not told is copied again.
    pub(crate) fn target_is_quiet(&self, c: usize) -> bool {
        self.connections[c].peer_devices.values().all(|peer| {
            peer.target.as_ref().is_none_or(|target| {
                let copied = target.pieces.is_empty() && target.unflushed.is_empty();
                copied && !target.flushing && !target.finishing
            })
        })
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
                target.csums.pass_over();
                target.cursor = 0;
                target.failed = 0;
                target.copied = false;
                // What is free again is asked for at once.
                self.changed();
            }
        }
    }

    /// `round`: of the resync that it was for. It ends with the source's disk; the next one of the session waits for
    /// the flush of that loss, and so for this one (`peer_disk_gone`).
    pub(crate) fn target_flushed(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        round: u64,
        count: usize,
    ) {
        let now = self.now;
        let target = self.peer_device(c, volume).target.as_mut();
        let Some(target) = target.filter(|target| target.round == round) else { return };
        target.flushing = false;
        let done: Vec<(u64, u64)> = target.unflushed.drain(..count).collect();
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

    pub(crate) fn target_end_flushed(&mut self, c: usize, volume: VolumeNumber, round: u64) {
        let socket = self.connections[c].active.expect("checked by the caller");
        let peer = self.peer_device(c, volume);
        let Some(target) = peer.target.as_mut().filter(|target| target.round == round) else {
            return;
        };
        if !peer.differing.is_empty() {
            // A write has ended on one disk only meanwhile: this one stays Inconsistent, the target of the
            // handshake that is due.
            target.finishing = false;
            return;
        }
        self.slot_whole(c, volume, BitmapState::AllClear);
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        backing.flags(
            DeviceFlags::CONSISTENT | DeviceFlags::WAS_UP_TO_DATE,
            DeviceFlags::OUTDATED | DeviceFlags::SURVIVED,
        );
        self.save_superblock(volume, Then::EndSaved { c, socket, round });
    }

    /// The session was lost meanwhile: the disk is whole all the same, durably, and says so before
    /// somebody takes it for one in mid-resync and overwrites what both have acknowledged.
    pub(crate) fn target_end_saved_alone(&mut self, volume: VolumeNumber) {
        let is_target = |c: &Connection| c.peer_devices[&volume].opening.side == Side::Target;
        let opens = self.connections.iter().any(is_target);
        if self.role == Role::Primary || opens || !self.is_whole_unsaid(volume) {
            return;
        }
        let device = self.device(volume);
        let Some(backing) = device.backing.as_ref() else { return };
        let survives = device.survives;
        let state = if survives { DiskState::UpToDate } else { backing.resting_state() };
        self.set_disk(volume, state);
    }

    pub(crate) fn target_end_saved(&mut self, c: usize, volume: VolumeNumber, round: u64) {
        let now = self.now;
        let target = self.peer_device(c, volume).target.take_if(|target| target.round == round);
        let Some(target) = target else {
            // The source's disk has gone meanwhile: this one is whole all the same, and says so durably.
            if self.is_whole_unsaid(volume) {
                self.set_disk(volume, DiskState::UpToDate);
                self.send_state(volume);
            }
            return;
        };
        let progress = target.rate.progress(now, 0);
        let paused_ms = target.pauses.total_ms(now);
        let ran_ms = progress.elapsed_ms.saturating_sub(paused_ms);
        let text = format!(
            "{}Resync done (total {} sec; paused {} sec; {} KiB/sec), {} KiB, {} KiB of them \
             zeroes, {} KiB equal, {} KiB failed",
            self.of_both(volume, c),
            progress.elapsed_ms / 1000,
            paused_ms / 1000,
            target.total / 1024 * 1000 / ran_ms.max(1),
            target.total / 1024,
            target.zeroes / 1024,
            target.csums.equal / 1024,
            target.failed / 1024
        );
        self.log(LogLevel::Info, text);
        self.device(volume).hot_at_attach = false;
        self.set_disk(volume, DiskState::UpToDate);
        self.set_replication(c, volume, ReplicationState::Established);
        self.send(c, Packet::ResyncDone { volume }, None);
        self.send_state(volume);
        self.empty_log(volume);
        self.tell(Handler::AfterResyncTarget, Some(volume), Some(c));
    }
}

fn target_failed_kib(peer: &PeerDevice) -> u64 {
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
