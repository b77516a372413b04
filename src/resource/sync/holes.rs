//! Holes: what the source has never written is told in long pieces, and neither read nor sent.
//!
//! The target asks how much of a long range is a hole of the source, from its start, and makes that
//! much one of its own. It asks at the start, goes on while whole ranges are holes, and begins again
//! when pieces come that are nothing but zeroes; where those are no holes it asks ever more rarely.
//! Behind a hole begins what somebody has written, perhaps a block, and all of a piece with any data
//! in it takes room on the target: so a small piece comes next, and the question again, and pieces
//! grow as long as there is no hole behind them.
//!
//! Invariants (as for other pieces, model.md R9):
//! - The range is held on both sides from the question until the target has made the hole: no write
//!   of a client falls between the look at the disk and the hole.
//! - What is not a hole keeps its bits: the pass goes on at the hole's end. Where more was asked
//!   beyond, the next pass has it.
//! - Nothing is asked for beyond a question, but for questions as long as whole ranges are holes.
//! - Where the target's disk writes zeroes for a hole, one is made at a time: more would keep it busy
//!   for longer than a disk may take to answer, and clients' writes with it.

use std::ops::Range;

use crate::resource::data::interval::{Kind, LockId};
use crate::resource::peer::connection::SourcePiece;
use crate::resource::sync::resync::{PIECES_MAX, is_resync};
use crate::resource::{
    BLOCK_SIZE, PAYLOAD_MAX, Pending, Resource, SocketId, VolumeNumber, ZEROES_MAX,
};
use crate::wire::Packet;

/// Blocks of one question.
pub(in crate::resource) const HOLE_BLOCKS: u64 = ZEROES_MAX / BLOCK_SIZE;
/// Blocks of a piece.
pub(in crate::resource) const PIECE_BLOCKS: u64 = PAYLOAD_MAX as u64 / BLOCK_SIZE;
/// Blocks of the first piece behind a hole; each that follows has so many times more.
const FIRST_BLOCKS: u64 = 4;
const GROWTH: u64 = 4;
/// A hole that is shorter is none, bytes: a question and a piece cost more than to read it.
const SHORTEST: u64 = 64 << 10;
/// What a question counts in what is in flight, and in what is unflushed, bytes.
pub(in crate::resource) const HOLE_CHARGE: u32 = 128 << 10;
/// A disk that makes a hole in so long does not write it, ms.
const QUICK_MS: u64 = 50;
/// Pieces of zeroes after which it is asked again, at most.
const PAUSE_MAX: u32 = 1024;

/// Whether a hole is asked for next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Holes {
    /// Pieces of nothing but zeroes that must come first.
    wait: u32,
    /// How many it was to wait for after the last question that found nothing.
    pause: u32,
    /// Questions that have not ended.
    under_way: u32,
    /// The last hole was made at once.
    quick: bool,
    /// All of the last range was a hole.
    whole: bool,
    /// Blocks of the one piece that comes before the next question.
    step: Option<u64>,
    /// The last such piece had so many blocks, and no hole was found since.
    stepped: Option<u64>,
}

impl Holes {
    /// The next long range is asked for as a hole.
    pub(crate) fn asks(self) -> bool {
        self.wait == 0 && self.step.is_none() && (self.under_way == 0 || self.goes_on())
    }

    /// What is next depends on the answer to a question.
    pub(in crate::resource) fn hears_first(self) -> bool {
        self.under_way > 0 && !self.goes_on()
    }

    /// Questions go out before others are answered.
    fn goes_on(self) -> bool {
        self.quick && self.whole
    }

    /// Blocks of the next piece that is no question.
    pub(in crate::resource) fn piece_blocks(self) -> u64 {
        self.step.unwrap_or(PIECE_BLOCKS)
    }

    /// Such a piece is asked for.
    pub(in crate::resource) fn piece_asked(&mut self) {
        self.stepped = self.step.take();
    }

    /// A question begins.
    pub(in crate::resource) fn asked(&mut self) {
        self.under_way += 1;
    }

    /// It has ended, however that was.
    pub(in crate::resource) fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// The own disk has made a hole in so long.
    pub(in crate::resource) fn made(&mut self, ms: u64) {
        self.quick = ms <= QUICK_MS;
    }

    /// A piece came that is nothing but zeroes.
    pub(crate) fn zeroes_came(&mut self) {
        self.wait = self.wait.saturating_sub(1);
    }

    /// Somebody is in the range: first a piece as usual.
    pub(crate) fn busy(&mut self) {
        self.wait = self.wait.max(1);
    }

    /// Of `asked` bytes `found` are a hole.
    pub(crate) fn found(&mut self, asked: u64, found: u64) {
        self.whole = found == asked;
        let next = match self.stepped.take() {
            Some(blocks) if found < SHORTEST => blocks * GROWTH,
            _ => FIRST_BLOCKS,
        };
        if self.whole {
            (self.wait, self.pause) = (0, 0);
        } else if found >= SHORTEST {
            (self.wait, self.pause, self.step) = (0, 0, Some(FIRST_BLOCKS));
        } else if next < PIECE_BLOCKS {
            self.step = Some(next);
        } else {
            self.pause = (2 * self.pause).clamp(1, PAUSE_MAX);
            self.wait = self.pause;
        }
    }
}

impl Resource {
    /// `Packet::HoleRequest`. `false`: the peer must not ask this.
    pub(in crate::resource) fn source_asked_for_hole(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        sequence: u64,
        (offset, length): (u64, u32),
    ) -> bool {
        let end = offset + u64::from(length);
        let fits = end <= self.devices[&volume].size;
        let lock = self.resync_lock();
        let Some(source) = self.peer_device(c, volume).source.as_mut() else {
            self.send(c, Packet::HoleAnswer { volume, sequence, length: 0 }, None);
            return fits;
        };
        if !fits || source.pieces.len() >= PIECES_MAX || source.pieces.contains_key(&sequence) {
            return false;
        }
        let (hole, digests, held, sent_at) = (true, None, false, None);
        let piece = SourcePiece { offset, length, hole, digests, lock, held, sent_at };
        source.pieces.insert(sequence, piece);
        if !self.hold_now(c, volume, lock, offset..end) {
            self.peer_device(c, volume)
                .source
                .as_mut()
                .expect("just seen")
                .pieces
                .remove(&sequence);
            self.send(c, Packet::HoleAnswer { volume, sequence, length: 0 }, None);
        }
        true
    }

    /// Holds a long range if nobody else is in it: a question never waits for a write, which may be
    /// waiting for room.
    pub(in crate::resource) fn hold_now(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        lock: u64,
        range: Range<u64>,
    ) -> bool {
        let intervals = &mut self.device(volume).intervals;
        if !intervals.acquire(LockId(lock), range.start, range.end, Kind::Exclusive) {
            intervals.cancel(LockId(lock));
            self.grant_ranges(volume);
            return false;
        }
        self.peer_device(c, volume).resync_locks.insert(lock, false);
        self.resync_range_granted(volume, lock);
        true
    }

    /// The source's disk has said how much is a hole.
    pub(crate) fn source_hole_found(
        &mut self,
        c: usize,
        socket: SocketId,
        volume: VolumeNumber,
        sequence: u64,
        found: u32,
    ) {
        if !self.is_current(c, socket) {
            return;
        }
        let now = self.now;
        let source = self.peer_device(c, volume).source.as_mut();
        let Some(piece) = source.and_then(|source| source.pieces.get_mut(&sequence)) else {
            return;
        };
        let length = found.min(piece.length) / BLOCK_SIZE as u32 * BLOCK_SIZE as u32;
        piece.sent_at = Some(now);
        let lock = piece.lock;
        if length == 0 {
            let source = self.peer_device(c, volume).source.as_mut().expect("just seen");
            source.pieces.remove(&sequence);
            self.unlock_resync(c, volume, lock);
        }
        self.send(c, Packet::HoleAnswer { volume, sequence, length }, None);
    }

    /// `Packet::HoleAnswer`. `false`: it was not asked.
    pub(in crate::resource) fn target_hears_of_hole(
        &mut self,
        c: usize,
        socket: SocketId,
        volume: VolumeNumber,
        sequence: u64,
        found: u32,
    ) -> bool {
        let Some(sent) = self.take_sent(c, volume, sequence, is_resync) else { return false };
        let id = sent.epoch;
        if u64::from(found) > sent.length {
            return false;
        }
        let (now, usable) = (self.now, self.devices[&volume].writable());
        let Some(target) = self.peer_device(c, volume).target.as_mut() else { return true };
        let Some(piece) = target.pieces.get_mut(&id) else { return true };
        if !piece.hole {
            return false;
        }
        piece.making = Some(now);
        target.holes.found(sent.length, u64::from(found));
        piece.length = found;
        let charge = u64::from(piece.charge);
        let (end, all) = (sent.offset + u64::from(found), sent.offset + sent.length);
        if target.cursor == all / BLOCK_SIZE {
            target.cursor = end / BLOCK_SIZE;
        }
        if found == 0 {
            target.rate.returned(charge);
            self.end_piece(c, volume, id);
            return true;
        }
        if usable {
            let pending = Pending::TargetWrite { c, socket, piece: id, payload: None };
            self.target_zeroes(c, volume, id, pending, (sent.offset, found));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_at_the_start_and_ever_more_rarely_where_zeroes_are_no_holes() {
        let mut holes = Holes::default();
        assert!(holes.asks());
        holes.found(100, 100);
        assert!(holes.asks());
        let nothing = |holes: &mut Holes| {
            for _ in 0..3 {
                holes.found(100, 0);
                assert!(!holes.asks());
                holes.piece_asked();
            }
            holes.found(100, 0);
        };
        for pieces in [1, 2, 4, 8] {
            nothing(&mut holes);
            for _ in 0..pieces {
                assert!(!holes.asks(), "{pieces}");
                holes.zeroes_came();
            }
            assert!(holes.asks(), "{pieces}");
        }
        for _ in 0..20 {
            nothing(&mut holes);
        }
        assert_eq!(holes.wait, PAUSE_MAX);
        holes.found(100, 100);
        assert_eq!((holes.wait, holes.pause), (0, 0));
    }

    #[test]
    fn behind_a_hole_pieces_grow_until_there_is_the_next_one() {
        let mut holes = Holes::default();
        assert_eq!(holes.piece_blocks(), PIECE_BLOCKS);
        for data in [4, 16, 64] {
            holes.found(2 * SHORTEST, SHORTEST);
            for blocks in [4, 16, 64] {
                assert!(!holes.asks());
                assert_eq!(holes.piece_blocks(), blocks);
                holes.piece_asked();
                assert!(holes.asks());
                if blocks == data {
                    break;
                }
                holes.found(2 * SHORTEST, SHORTEST - 4096);
            }
        }
        // It is dense here: as without holes.
        holes.found(2 * SHORTEST, 0);
        assert!(!holes.asks());
        assert_eq!(holes.piece_blocks(), PIECE_BLOCKS);
        holes.zeroes_came();
        assert!(holes.asks());
    }

    #[test]
    fn nothing_is_asked_beyond_a_question_but_questions_while_all_is_a_hole() {
        let mut holes = Holes::default();
        assert!(!holes.hears_first());
        holes.asked();
        assert!(holes.hears_first() && !holes.asks());
        holes.found(100, 100);
        holes.made(1);
        assert!(!holes.hears_first() && holes.asks());
        holes.asked();
        holes.found(100, 0);
        assert!(holes.hears_first() && !holes.asks());
    }

    #[test]
    fn a_disk_that_writes_its_holes_makes_one_at_a_time() {
        let mut holes = Holes::default();
        holes.asked();
        assert!(!holes.asks(), "nobody knows yet what it takes");
        holes.found(100, 100);
        holes.made(700);
        assert!(!holes.asks(), "not before it has ended");
        holes.ended();
        assert!(holes.asks());
        holes.made(3);
        for _ in 0..16 {
            holes.asked();
            assert!(holes.asks());
        }
        holes.made(700);
        assert!(!holes.asks(), "it does no more");
        for _ in 0..16 {
            holes.ended();
        }
        assert!(holes.asks());
    }
}
