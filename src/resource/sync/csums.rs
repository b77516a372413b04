//! A resync that compares before it copies (`csums-alg`): the target asks for a digest of each block of
//! a piece, reads its own, and what is equal needs no copy.
//!
//! After a crash all extents that were hot are out of sync, and nearly all of their blocks are equal:
//! then it is the default. It costs the write path nothing, and both disks a read.
//!
//! ```text
//!  target                                   source
//!  holds the range --DigestRequest--------> holds the range, reads
//!  reads, compares <----------DigestAnswer- (still holds it)
//!  lets go         --ResyncAck------------> lets go
//! ```
//!
//! Invariants (as for other pieces, model.md R9):
//! - Both disks are read while both nodes hold the range: no write of a client falls between the two.
//! - A block that is equal is treated as one that was written just now: its bit goes only after the
//!   next flush of the own disk, which may hold it in its cache. The source's copy was flushed before
//!   the resync began.
//! - What differs, or cannot be read here, keeps its bits, and a later pass copies it.
//! - Where most of what is compared differs, pieces are copied at once, and it is asked ever more rarely.

use std::collections::BTreeMap;

use crate::resource::disk::hung_disk::NEVER;
use crate::resource::ids::blocks_of;
use crate::resource::sync::resync::is_resync;
use crate::resource::{
    Action, BLOCK_SIZE, CsumsAlg, DiskError, LogLevel, Payload, Pending, Resource, SocketId, Tag,
    VerifyAlg, VolumeNumber,
};
use crate::wire::Packet;

/// Blocks of a piece that is compared: as in an online verify, what a write may have to wait for.
pub(in crate::resource) const COMPARED_BLOCKS: u64 = 32;
/// Pieces after which it is asked again, at most.
const PAUSE_MAX: u32 = 1024;

/// Whether the next piece is compared, and what is known of those that are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Csums {
    /// By which digest, if at all. What one pass over the bits has left is copied.
    alg: Option<VerifyAlg>,
    /// Pieces that are copied first.
    wait: u32,
    /// How many it was to wait for after the last one that differed.
    pause: u32,
    /// The digest of a block of zeroes.
    zeroes: Vec<u8>,
    /// The source's digests of pieces that are being read here, by piece.
    answers: BTreeMap<u64, Vec<u8>>,
    /// Bytes that were equal.
    pub(crate) equal: u64,
}

impl Csums {
    /// A resync compares by this digest.
    pub(crate) fn new(alg: Option<VerifyAlg>) -> Self {
        let zeroes = alg.map(|alg| alg.digests(&[0; BLOCK_SIZE as usize]));
        Self { alg, zeroes: zeroes.unwrap_or_default(), ..Self::default() }
    }

    /// The digest by which the next piece is compared, if it is.
    pub(in crate::resource) fn asks(&self) -> Option<VerifyAlg> {
        self.alg.filter(|_| self.wait == 0)
    }

    /// A piece is asked for, to be compared or to be copied.
    pub(in crate::resource) fn piece_asked(&mut self, compared: bool) {
        self.wait = self.wait.saturating_sub(u32::from(!compared));
    }

    /// The bits were gone through once: what is left differs.
    pub(in crate::resource) fn pass_over(&mut self) {
        self.alg = None;
    }

    /// Of `blocks` blocks so many were equal.
    fn found(&mut self, blocks: u64, equal: u64) {
        self.equal += equal * BLOCK_SIZE;
        if self.wait > 0 {
            // It was asked for before the first one that differed was heard.
            return;
        }
        if equal * 2 >= blocks {
            (self.wait, self.pause) = (0, 0);
        } else {
            self.pause = (2 * self.pause).clamp(1, PAUSE_MAX);
            self.wait = self.pause;
        }
    }
}

impl Resource {
    /// The digest by which a resync to this node compares, if it does.
    pub(in crate::resource) fn csums(&self, c: usize, volume: VolumeNumber) -> Csums {
        let connection = &self.connections[c];
        let socket = connection.active.and_then(|socket| connection.sockets.get(&socket));
        if !socket.is_some_and(|socket| socket.gives_digests) {
            return Csums::default();
        }
        let peer = &connection.peer_devices[&volume];
        let infos = [&peer.own_info, &peer.peer_info];
        let crashed = infos.into_iter().flatten().any(|info| info.crashed_primary);
        let crashed = crashed || self.devices[&volume].hot_at_attach;
        // A full sync is not for a crash. (Every bit may be set by one, where the disk is small.)
        let some = !peer.opening.full;
        let options = &self.config.options;
        let (alg, after_crash_only) = match options.csums_alg {
            CsumsAlg::Default => (Some(VerifyAlg::Sha256), true),
            CsumsAlg::None => (None, true),
            CsumsAlg::Digest(alg) => (Some(alg), options.csums_after_crash_only),
        };
        Csums::new(alg.filter(|_| crashed && some || !after_crash_only))
    }

    /// What was read is taken the digests of, and let go of; they come with `pending`.
    pub(in crate::resource) fn take_digests(
        &mut self,
        volume: VolumeNumber,
        pending: Pending,
        payload: Payload,
        alg: VerifyAlg,
    ) {
        let tag = Tag(self.tags.insert((volume, NEVER, pending)));
        self.emit(Action::BlockDigests { tag, payload, alg });
        self.release(Some(payload));
    }

    /// The source knows the digests of a piece. Its range stays held until the target has compared.
    pub(in crate::resource) fn source_digested(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        sequence: u64,
        digests: Vec<u8>,
    ) {
        let now = self.now;
        let source = self.peer_device(c, volume).source.as_mut();
        let Some(piece) = source.and_then(|source| source.pieces.get_mut(&sequence)) else {
            return;
        };
        piece.sent_at = Some(now);
        let read = u64::from(piece.length);
        self.device(volume).counters.read += read;
        self.send(c, Packet::DigestAnswer { volume, sequence, digests }, None);
    }

    /// `Packet::DigestAnswer`: the own blocks are read. `false`: it was not asked.
    pub(in crate::resource) fn target_hears_digests(
        &mut self,
        c: usize,
        socket: SocketId,
        volume: VolumeNumber,
        sequence: u64,
        digests: Vec<u8>,
    ) -> bool {
        let Some(sent) = self.take_sent(c, volume, sequence, is_resync) else { return false };
        let usable = self.devices[&volume].writable();
        let Some(target) = self.peer_device(c, volume).target.as_mut() else { return true };
        let Some(piece) = target.pieces.get(&sent.epoch) else { return true };
        let blocks = usize::try_from(sent.length / BLOCK_SIZE).expect("at most 256");
        if piece.digests.is_none_or(|alg| digests.len() != blocks * alg.size()) {
            return false;
        }
        if usable {
            let (offset, length) = (piece.offset, piece.length);
            target.csums.answers.insert(sent.epoch, digests);
            let tag = self.disk_tag(volume, Pending::TargetRead { c, socket, piece: sent.epoch });
            self.emit(Action::DiskRead { tag, volume, offset, length, find_zeroes: false });
        }
        true
    }

    /// The target has read its own blocks, or could not: those are copied, which mends what the disk
    /// cannot read.
    pub(crate) fn target_read_done(
        &mut self,
        c: usize,
        socket: SocketId,
        volume: VolumeNumber,
        piece: u64,
        result: Result<Option<Payload>, DiskError>,
    ) {
        let payload = result.ok().flatten();
        let current = self.is_current(c, socket);
        let target = self.peer_device(c, volume).target.as_ref().filter(|_| current);
        let known = target.and_then(|target| target.pieces.get(&piece)).copied();
        let Some((known, alg)) = known.and_then(|known| Some((known, known.digests?))) else {
            return self.release(payload);
        };
        let Some(payload) = payload else {
            let text = format!(
                "{}{} bytes at {} cannot be read here to be compared: they are copied",
                self.of_volume(volume),
                known.length,
                known.offset
            );
            self.log(LogLevel::Warning, text);
            return self.target_compared(c, volume, piece, None);
        };
        self.device(volume).counters.read += u64::from(payload.length);
        self.take_digests(volume, Pending::TargetRead { c, socket, piece }, payload, alg);
    }

    /// The digests of the own blocks of a piece; `None`: they could not be read.
    pub(in crate::resource) fn target_compared(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        id: u64,
        own: Option<Vec<u8>>,
    ) {
        let now = self.now;
        let Some(target) = self.peer_device(c, volume).target.as_mut() else { return };
        let Some(piece) = target.pieces.get(&id).copied() else { return };
        let Some(alg) = piece.digests else { return };
        let theirs = target.csums.answers.remove(&id).unwrap_or_default();
        let own = own.unwrap_or_default();
        let (first, blocks) = blocks_of(piece.offset, u64::from(piece.length));
        let pairs = theirs.chunks(alg.size()).zip(own.chunks(alg.size()));
        let mut equal: Vec<(u64, u64)> = Vec::new();
        for (block, _) in (first..).zip(pairs).filter(|(_, (theirs, own))| theirs == own) {
            match equal.last_mut() {
                Some(run) if run.0 + run.1 == block => run.1 += 1,
                _ => equal.push((block, 1)),
            }
        }
        let count: u64 = equal.iter().map(|run| run.1).sum();
        target.csums.found(blocks, count);
        if theirs.chunks(alg.size()).all(|digest| digest == target.csums.zeroes) {
            target.holes.zeroes_came();
        }
        target.copied |= count > 0;
        let latency = piece.requested.map_or(0, |at| now.ms_since(at));
        target.rate.carried_for(now, u64::from(piece.charge), count * BLOCK_SIZE, latency);
        self.send(c, Packet::ResyncAck { volume, sequence: piece.sequence }, None);
        self.end_piece(c, volume, id);
        for run in equal {
            // It counts for nothing in what the next flush has to write.
            self.target_wrote(c, volume, run, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_ever_more_rarely_where_most_differs_and_at_once_where_most_is_equal() {
        let mut csums = Csums::new(Some(VerifyAlg::Sha256));
        for pieces in [1, 2, 4, 8] {
            assert!(csums.asks().is_some());
            csums.piece_asked(true);
            csums.found(32, 15);
            for _ in 0..pieces {
                assert!(csums.asks().is_none(), "{pieces}");
                csums.piece_asked(false);
            }
        }
        // What was asked for before is no reason to wait longer.
        csums.found(32, 0);
        csums.found(32, 0);
        assert_eq!((csums.wait, csums.pause), (16, 16));
        for _ in 0..20 {
            csums.wait = 0;
            csums.found(32, 0);
        }
        assert_eq!(csums.wait, PAUSE_MAX);
        csums.wait = 0;
        csums.found(32, 16);
        assert_eq!((csums.asks(), csums.pause), (Some(VerifyAlg::Sha256), 0));
        assert_eq!(csums.equal, (4 * 15 + 16) * 4096);
        csums.pass_over();
        assert_eq!(csums.asks(), None);
        assert_eq!(Csums::new(None).asks(), None);
    }
}
