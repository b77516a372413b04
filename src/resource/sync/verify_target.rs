//! The VerifyT: the node whose peer compares.
//!
//! Invariants:
//! - A piece is read only with its range held here, and held until the peer has compared it.
//! - No more is read at once than a quarter of the own receive window, whatever the peer asks for.

use crate::resource::data::interval::Kind;
use crate::resource::orders::order::Step;
use crate::resource::peer::connection::Stage;
use crate::resource::sync::verify::{Verify, VerifyPiece};
use crate::resource::{Action, Command, Pending, Refusal, Resource, VerifyAlg, VolumeNumber};
use crate::wire::Packet;

/// Pieces that the peer may have asked for at once.
const PIECES_MAX: usize = 4096;

impl Resource {
    /// The peer wants to verify.
    pub(in crate::resource) fn peer_verifies(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        offset: u64,
        length: u64,
        alg: VerifyAlg,
    ) -> bool {
        if offset.checked_add(length).is_none_or(|end| end > self.devices[&volume].size) {
            return false;
        }
        // Of two that ask at once the lower node id has its way.
        let asks = self.running.as_ref().is_some_and(|running| {
            running.step == Step::AskVerify
                && matches!(running.command, Command::Verify { volume: of, .. } if of == volume)
        });
        let contest = asks && self.config.node_id < self.connections[c].peer;
        let code = match self.may_verify(c, volume) {
            Err(Refusal { code, .. }) => code,
            Ok(()) if contest => -8,
            Ok(()) => 0,
        };
        // It speaks of its own disk and the peer's: here they are the other way round.
        let code = match code {
            -4 => -5,
            -5 => -4,
            code => code,
        };
        self.send(c, Packet::VerifyAnswer { volume, code }, None);
        if code == 0 {
            self.verify_begins(c, volume, false, (offset, length), alg);
        }
        true
    }

    pub(in crate::resource) fn verify_target_asked(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        sequence: u64,
        offset: u64,
        length: u32,
    ) -> bool {
        let end = offset + u64::from(length);
        let fits = end <= self.devices[&volume].size;
        let verify = self.peer_device(c, volume).verify.as_mut();
        let Some(verify) = verify.filter(|verify| !verify.source && fits) else {
            self.send(c, Packet::VerifyError { volume, sequence }, None);
            return fits;
        };
        if verify.pieces.len() >= PIECES_MAX || verify.pieces.contains_key(&sequence) {
            return false;
        }
        verify.cursor = verify.cursor.max(end.min(verify.stop));
        let piece =
            VerifyPiece { offset, length, lock: 0, sequence, sent_at: None, digests: Vec::new() };
        verify.pieces.insert(sequence, piece);
        verify.waiting.push_back(sequence);
        self.verify_target_reads(c, volume);
        true
    }

    /// Asks for the ranges of the next pieces, as far as there is room.
    pub(in crate::resource) fn verify_target_reads(&mut self, c: usize, volume: VolumeNumber) {
        let window = self.window_for_resync();
        loop {
            let verify = self.peer_device(c, volume).verify.as_mut();
            let room = |v: &&mut Verify| v.flagged && (v.in_flight == 0 || v.in_flight < window);
            let Some(verify) = verify.filter(room) else {
                return;
            };
            let Some(sequence) = verify.waiting.pop_front() else { return };
            let lock = self.resync_lock();
            let verify = self.peer_device(c, volume).verify.as_mut().expect("seen above");
            let Some(piece) = verify.pieces.get_mut(&sequence) else { continue };
            piece.lock = lock;
            let (offset, length) = (piece.offset, u64::from(piece.length));
            verify.in_flight += length;
            verify.rate.requested(length);
            self.hold(c, volume, lock, offset..offset + length, Kind::Shared);
        }
    }

    pub(in crate::resource) fn verify_target_granted(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        id: u64,
    ) -> bool {
        let Some(socket) = self.connections[c].active else { return false };
        let Some(verify) = self.peer_device(c, volume).verify.as_ref() else { return false };
        let Some((&key, piece)) = verify.pieces.iter().find(|(_, piece)| piece.lock == id) else {
            return false;
        };
        let (offset, length) = (piece.offset, piece.length);
        let tag = self.disk_tag(volume, Pending::VerifyRead { c, socket, key });
        self.emit(Action::DiskRead { tag, volume, offset, length, find_zeroes: false });
        true
    }

    /// The digests of a piece are known. The range stays held until the peer has compared.
    pub(in crate::resource) fn verify_target_answers(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        sequence: u64,
        digests: Vec<u8>,
    ) {
        let now = self.now;
        let Some(verify) = self.peer_device(c, volume).verify.as_mut() else { return };
        let Some(piece) = verify.pieces.get_mut(&sequence) else { return };
        piece.sent_at = Some(now);
        self.send(c, Packet::VerifyDigests { volume, sequence, digests }, None);
    }

    /// The peer has compared a piece.
    pub(in crate::resource) fn verify_target_told(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        sequence: u64,
        differing: &[u64],
    ) -> bool {
        let verify = self.peer_device(c, volume).verify.as_ref();
        let Some(verify) = verify.filter(|verify| !verify.source) else { return true };
        let Some(piece) = verify.pieces.get(&sequence) else { return true };
        if piece.sent_at.is_none() {
            // It cannot know them.
            return false;
        }
        self.verify_marks(c, volume, sequence, differing);
        self.verify_piece_ends(c, volume, sequence, false);
        if self.connections[c].stage == Stage::Open {
            self.verify_target_reads(c, volume);
        }
        true
    }
}
