//! The source of a resync.
//!
//! Invariants (model.md R8, R9):
//! - A piece is read only with its range held here, until the target has written it.
//! - What is nothing but zeroes goes without a payload.
//! - It ends when no bit is set and nothing is under way; its own copy was flushed before it began.

use crate::meta::BitmapState;
use crate::resource::data::interval::Kind;
use crate::resource::ids::blocks_of;
use crate::resource::orders::pause::PauseClock;
use crate::resource::peer::connection::{Save, SourcePiece, Stage, SyncSource};
use crate::resource::sync::resync::PIECES_MAX;
use crate::resource::sync::resync_target::SAVE_MS;
use crate::resource::{
    BLOCK_SIZE, DiskError, DiskState, LogLevel, Payload, Pending, ReplicationState, Resource,
    SocketId, Then, VerifyAlg, VolumeNumber,
};
use crate::wire::Packet;

impl Resource {
    pub(crate) fn start_source(&mut self, c: usize, volume: VolumeNumber) {
        let bits = self.peer_device(c, volume).bitmap.count();
        let started = self.now;
        let total = bits * BLOCK_SIZE;
        let peer = self.peer_device(c, volume);
        // The peer may owe acknowledgements of pieces of the one before: they are nobody's now.
        let owed = peer.source.take().map(|source| source.pieces).unwrap_or_default();
        for piece in owed.into_values() {
            self.unlock_resync(c, volume, piece.lock);
        }
        let peer = self.peer_device(c, volume);
        let pauses = PauseClock::new(peer.pause.any(), started);
        let last_save = started;
        peer.source = Some(SyncSource { total, started, last_save, pauses, ..Default::default() });
        self.peer_device(c, volume).metrics.resyncs += 1;
        let state = self.paused_or_not(c, volume, ReplicationState::SyncSource);
        self.set_replication(c, volume, state);
        let text = format!(
            "{}Began resync as SyncSource (will sync {} KB [{bits} bits set]).",
            self.of_both(volume, c),
            total / 1024
        );
        self.log(LogLevel::Info, text);
    }

    pub(in crate::resource) fn source_asked(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        sequence: u64,
        (offset, length): (u64, u32),
        digests: Option<VerifyAlg>,
    ) -> bool {
        let end = offset + u64::from(length);
        let fits = end <= self.devices[&volume].size;
        let lock = self.resync_lock();
        let Some(source) = self.peer_device(c, volume).source.as_mut() else {
            self.send(c, Packet::ResyncError { volume, sequence }, None);
            return fits;
        };
        if !fits || source.pieces.len() >= PIECES_MAX || source.pieces.contains_key(&sequence) {
            return false;
        }
        let (hole, held, sent_at) = (false, false, None);
        let piece = SourcePiece { offset, length, hole, digests, lock, held, sent_at };
        source.pieces.insert(sequence, piece);
        self.hold(c, volume, lock, offset..end, Kind::Exclusive);
        true
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
            let source = self.peer_device(c, volume).source.as_ref();
            let digests = source.and_then(|s| s.pieces.get(&sequence)).and_then(|p| p.digests);
            if let (Some(alg), Some(payload)) = (digests, payload) {
                let pending = Pending::SourceRead { c, socket, sequence };
                return self.take_digests(volume, pending, payload, alg);
            }
            match result {
                Ok(payload) => {
                    let length = payload.map_or(0, |payload| payload.length);
                    let now = self.now;
                    let peer = self.peer_device(c, volume);
                    peer.sent += u64::from(length);
                    let mut read = u64::from(length);
                    if let Some(piece) =
                        peer.source.as_mut().and_then(|source| source.pieces.get_mut(&sequence))
                    {
                        piece.sent_at = Some(now);
                        read = u64::from(piece.length);
                    }
                    self.device(volume).counters.read += read;
                    let packet = match payload {
                        Some(_) => Packet::ResyncData { volume, sequence, length },
                        None => Packet::ResyncZeroes { volume, sequence },
                    };
                    self.send(c, packet, payload);
                }
                Err(_) => {
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

    /// The target has this range durably.
    pub(in crate::resource) fn source_in_sync(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        offset: u64,
        length: u64,
    ) {
        let now = self.now;
        let (first, count) = blocks_of(offset, length);
        let peer = self.peer_device(c, volume);
        // Of a resync that has ended here meanwhile it says nothing.
        let Some(source) = peer.source.as_mut() else { return };
        let save = now.ms_since(source.last_save) >= SAVE_MS;
        if save {
            source.last_save = now;
        }
        peer.bitmap.clear(first, count);
        if save {
            self.save_bitmap(c, volume, Save::Stale, Then::Log);
        }
    }

    pub(in crate::resource) fn pump_source(&mut self, c: usize, volume: VolumeNumber) {
        let now = self.now;
        let open = self.connections[c].stage == Stage::Open;
        let peer = self.peer_device(c, volume);
        let left = peer.bitmap.count() * BLOCK_SIZE;
        let Some(source) = peer.source.as_mut() else { return };
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

    pub(in crate::resource) fn source_done(&mut self, c: usize, volume: VolumeNumber) {
        let peer = self.peer_device(c, volume);
        if peer.source.take().is_none() {
            return;
        }
        let empty = peer.bitmap.count() == 0;
        self.device(volume).hot_at_attach = false;
        self.set_peer_disk(c, volume, DiskState::UpToDate);
        self.set_replication(c, volume, ReplicationState::Established);
        if let Some(backing) = self.device(volume).backing.as_mut() {
            // From here on the other disk is as good, and may be the newer one.
            backing.superblock.stands_in_for_nobody();
        }
        if empty {
            self.slot_whole(c, volume, BitmapState::AllClear);
        }
        self.save_superblock(volume, Then::Log);
        self.fencing_synced(c);
    }
}
