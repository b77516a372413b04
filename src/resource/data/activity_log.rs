//! The activity log: which extents of 4 MiB may hold blocks that differ after a crash.
//!
//! Invariants:
//! - An extent is *hot* here only once the log write that says so is durable.
//! - One log write at a time; everything that waits shares the next one.
//! - An extent leaves only with no write in it under way, and only when its owner (the device)
//!   says that it is clean (DESIGN 3; model.md R10b).
//! - `number` (the rollback number) grows with each update that makes an extent hot while a peer
//!   replicates, and never else: a disk that was set back would catch up with what a peer has seen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::meta::AlBlock;
use crate::resource::data::by_use::ByUse;
use crate::resource::ids::EXTENT_SIZE;

/// What one hot extent is remembered for.
#[derive(Clone, Copy, Debug, Default)]
struct Hot {
    extent: u32,
    /// Writes under way.
    references: u32,
    /// Flush epoch of the last write that completed in it.
    stamp: u64,
}

/// A write that waits for its extents.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    key: u64,
    first: u32,
    last: u32,
}

/// The activity log of one disk, in memory.
#[derive(Clone, Debug)]
pub(crate) struct ActivityLog {
    capacity: usize,
    words_per_block: usize,
    /// What the disk shall say: one bit per extent.
    words: Vec<u64>,
    /// Where each hot extent is in `places`.
    hot: BTreeMap<u32, usize>,
    places: Vec<Hot>,
    vacant: Vec<usize>,
    /// The places of the hot extents without references.
    by_use: ByUse,
    waiters: VecDeque<Waiter>,
    /// Extents of the update under way.
    writing: Option<Vec<u32>>,
    /// The rollback number that the update under way carries.
    writing_number: u64,
    /// The rollback number, as of the last update that was started.
    pub(crate) number: u64,
    /// The highest rollback number that is on the disk. Nobody is shown a higher one: a crash would
    /// take it back, and the disk would look like an older image of itself.
    durable_number: u64,
    /// Updates so far.
    pub(crate) updates: u64,
}

/// What to do next for those who wait.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    /// Nobody waits, or an update is under way.
    Nothing,
    /// These extents (cold soon) are wanted out and are not clean: make them clean, then ask again.
    Clean(Vec<u32>),
    /// Write these blocks durably, then call [`ActivityLog::written`].
    Write(Vec<AlBlock>),
    /// Every extent has writes under way: ask again when one completes.
    Full,
}

impl ActivityLog {
    /// A log for `size` bytes with room for `capacity` hot extents.
    pub(crate) fn new(size: u64, capacity: u32, block_size: u32, hot: &[u32], number: u64) -> Self {
        let extents = size.div_ceil(EXTENT_SIZE) as usize;
        let words_per_block = (block_size as usize - 32) / 8;
        let words = extents.div_ceil(64).div_ceil(words_per_block).max(1) * words_per_block;
        let mut log = Self {
            capacity: capacity as usize,
            words_per_block,
            words: vec![0; words],
            hot: BTreeMap::new(),
            places: Vec::new(),
            vacant: Vec::new(),
            by_use: ByUse::default(),
            waiters: VecDeque::new(),
            writing: None,
            writing_number: number,
            number,
            durable_number: number,
            updates: 0,
        };
        for extent in hot.iter().copied().filter(|extent| (*extent as usize) < extents) {
            log.words[extent as usize / 64] |= 1 << (extent % 64);
            log.heat(extent);
        }
        log
    }

    /// The disk has `size` bytes now, no fewer than before.
    pub(crate) fn grow(&mut self, size: u64) {
        let extents = size.div_ceil(EXTENT_SIZE) as usize;
        let per_block = self.words_per_block;
        let words = extents.div_ceil(64).div_ceil(per_block).max(1) * per_block;
        self.words.resize(words.max(self.words.len()), 0);
    }

    /// The extents of a range of bytes.
    pub(crate) fn extents(offset: u64, length: u64) -> (u32, u32) {
        let last = (offset + length - 1) / EXTENT_SIZE;
        let narrow = |extent| u32::try_from(extent).expect("a device of at most 16 PiB");
        (narrow(offset / EXTENT_SIZE), narrow(last))
    }

    /// Takes a reference on the extents if all are hot; otherwise the write waits, and `ready`
    /// returns its key later, with the references taken.
    pub(crate) fn acquire(&mut self, key: u64, offset: u64, length: u64) -> bool {
        let (first, last) = Self::extents(offset, length);
        if self.waiters.is_empty() && self.try_take(first, last) {
            return true;
        }
        self.waiters.push_back(Waiter { key, first, last });
        false
    }

    fn try_take(&mut self, first: u32, last: u32) -> bool {
        if !(first..=last).all(|extent| self.hot.contains_key(&extent)) {
            return false;
        }
        for extent in first..=last {
            let place = self.hot[&extent];
            let hot = &mut self.places[place];
            if hot.references == 0 {
                self.by_use.remove(place);
            }
            hot.references += 1;
        }
        true
    }

    /// The extent is hot, and nothing is under way in it. One that is hot already stays as it is.
    fn heat(&mut self, extent: u32) {
        if self.hot.contains_key(&extent) {
            return;
        }
        let hot = Hot { extent, ..Hot::default() };
        let place = self.vacant.pop().unwrap_or(self.places.len());
        match self.places.get_mut(place) {
            Some(vacant) => *vacant = hot,
            None => self.places.push(hot),
        }
        self.hot.insert(extent, place);
        self.by_use.push(place);
    }

    /// The hot extents without references, with their stamps, the one used longest ago first.
    fn idle(&self) -> impl Iterator<Item = (u32, u64)> {
        let idle = self.by_use.iter().map(|place| &self.places[place]);
        idle.map(|hot| (hot.extent, hot.stamp))
    }

    /// A write completed (or was dropped: no `stamp`); `stamp` is the flush epoch that it needs.
    pub(crate) fn release(&mut self, offset: u64, length: u64, stamp: Option<u64>) {
        let (first, last) = Self::extents(offset, length);
        for extent in first..=last {
            let place = *self.hot.get(&extent).expect("an extent with references is hot");
            let hot = &mut self.places[place];
            hot.references -= 1;
            if let Some(stamp) = stamp {
                hot.stamp = hot.stamp.max(stamp);
            }
            if hot.references == 0 {
                self.by_use.push(place);
            }
        }
    }

    /// Removes a write that still waits.
    pub(crate) fn cancel(&mut self, key: u64) -> bool {
        let before = self.waiters.len();
        self.waiters.retain(|waiter| waiter.key != key);
        before != self.waiters.len()
    }

    /// How many of those that wait are of this kind.
    pub(crate) fn waiting(&self, of: impl Fn(u64) -> bool) -> usize {
        self.waiters.iter().filter(|waiter| of(waiter.key)).count()
    }

    /// The next waiting write whose extents are all hot, in order; its references are taken.
    pub(crate) fn ready(&mut self) -> Option<u64> {
        let waiter = *self.waiters.front()?;
        if !self.try_take(waiter.first, waiter.last) {
            return None;
        }
        self.waiters.pop_front();
        Some(waiter.key)
    }

    /// What is to be done for those who wait. `grows`: a peer replicates and is shown the rollback
    /// number. `clean(extent, stamp)` tells whether an extent without references may leave.
    pub(crate) fn next(&mut self, grows: bool, clean: impl Fn(u32, u64) -> bool) -> Next {
        if self.writing.is_some() || self.waiters.is_empty() {
            return Next::Nothing;
        }
        let mut wanted: BTreeSet<u32> = BTreeSet::new();
        for waiter in &self.waiters {
            let cold = (waiter.first..=waiter.last)
                .filter(|extent| !self.hot.contains_key(extent) && !wanted.contains(extent))
                .collect::<Vec<_>>();
            if !wanted.is_empty() && wanted.len() + cold.len() > self.capacity {
                break;
            }
            wanted.extend(cold);
        }
        if wanted.is_empty() {
            return Next::Nothing;
        }
        let mut evict = Vec::new();
        if self.hot.len() + wanted.len() > self.capacity {
            // The waiters' own hot extents stay: evicting them would only bring them back.
            let kept: BTreeSet<u32> =
                self.waiters.iter().flat_map(|waiter| waiter.first..=waiter.last).collect();
            let over = self.hot.len() + wanted.len() - self.capacity;
            let batch = over.max(self.capacity / 8);
            let candidates: Vec<(u32, u64)> =
                self.idle().filter(|(extent, _)| !kept.contains(extent)).take(batch).collect();
            let ready = candidates.iter().filter(|(extent, stamp)| clean(*extent, *stamp));
            evict = ready.map(|(extent, _)| *extent).collect();
            if evict.len() < over {
                // A request larger than the log passes when nothing else is left to evict.
                let stuck = candidates.len() < over && self.hot.len() > self.by_use.len();
                if evict.len() < candidates.len() {
                    return Next::Clean(candidates.into_iter().map(|(extent, _)| extent).collect());
                }
                if stuck {
                    return Next::Full;
                }
            }
        }
        Next::Write(self.start(grows, wanted.into_iter().collect(), &evict))
    }

    /// Starts an update: `wanted` become hot when it is written, `evict` are cold at once.
    fn start(&mut self, grows: bool, wanted: Vec<u32>, evict: &[u32]) -> Vec<AlBlock> {
        let mut blocks = BTreeSet::new();
        for extent in evict {
            let place = self.hot.remove(extent).expect("evicted extents are hot");
            self.by_use.remove(place);
            self.vacant.push(place);
            self.words[*extent as usize / 64] &= !(1 << (extent % 64));
            blocks.insert(self.block_of(*extent));
        }
        for extent in &wanted {
            self.words[*extent as usize / 64] |= 1 << (extent % 64);
            blocks.insert(self.block_of(*extent));
        }
        if grows && !wanted.is_empty() {
            self.number += 1;
        }
        self.updates += 1;
        self.writing = Some(wanted);
        self.writing_number = self.number;
        blocks.into_iter().map(|index| self.block(index)).collect()
    }

    fn block_of(&self, extent: u32) -> u32 {
        extent / u32::try_from(self.words_per_block * 64).expect("a small block")
    }

    fn block(&self, index: u32) -> AlBlock {
        let start = index as usize * self.words_per_block;
        let words = self.words[start..start + self.words_per_block].to_vec();
        AlBlock { index, number: self.number, words }
    }

    /// The update under way is durable.
    pub(crate) fn written(&mut self) {
        self.number_is_durable(self.writing_number);
        for extent in self.writing.take().unwrap_or_default() {
            self.heat(extent);
        }
    }

    /// An update, or a superblock, with this rollback number is on the disk.
    pub(crate) fn number_is_durable(&mut self, number: u64) {
        self.durable_number = self.durable_number.max(number);
    }

    /// The highest rollback number that is on the disk.
    pub(crate) fn durable_number(&self) -> u64 {
        self.durable_number
    }

    /// Drops every extent without references for which `clean` holds, and returns the blocks to
    /// write; empty if there is nothing to write or an update is under way.
    pub(crate) fn evict_all(&mut self, clean: impl Fn(u32, u64) -> bool) -> Vec<AlBlock> {
        if self.writing.is_some() {
            return Vec::new();
        }
        let clean = self.idle().filter(|(extent, stamp)| clean(*extent, *stamp));
        let evict: Vec<u32> = clean.map(|(extent, _)| extent).collect();
        if evict.is_empty() { Vec::new() } else { self.start(false, Vec::new(), &evict) }
    }

    /// Writes wait for their extents.
    pub(crate) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Hot extents, ascending.
    pub(crate) fn hot_extents(&self) -> impl Iterator<Item = u32> {
        self.hot.keys().copied()
    }

    /// How many extents are hot.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.hot.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(capacity: u32) -> ActivityLog {
        ActivityLog::new(64 * EXTENT_SIZE, capacity, 512, &[], 0)
    }

    #[test]
    fn a_cold_extent_waits_for_one_write_that_all_share() {
        let mut log = log(8);
        assert!(!log.acquire(1, 0, 4096));
        assert!(!log.acquire(2, EXTENT_SIZE, 4096));
        let Next::Write(blocks) = log.next(true, |_, _| true) else { panic!("a write is due") };
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0].words[0], 3);
        assert_eq!((blocks[0].number, log.durable_number()), (1, 0), "nobody is shown it yet");
        assert_eq!(log.ready(), None, "not hot before the write is durable");
        assert_eq!(log.next(true, |_, _| true), Next::Nothing);
        log.written();
        assert_eq!(log.durable_number(), 1);
        assert_eq!((log.ready(), log.ready(), log.ready()), (Some(1), Some(2), None));
        assert!(log.acquire(3, 8192, 4096), "hot now");
    }

    #[test]
    fn an_extent_with_a_write_under_way_is_never_evicted() {
        let mut log = log(1);
        assert!(!log.acquire(1, 0, 4096));
        assert!(matches!(log.next(true, |_, _| true), Next::Write(_)));
        log.written();
        assert_eq!(log.ready(), Some(1));
        assert!(!log.acquire(2, EXTENT_SIZE, 4096));
        assert_eq!(log.next(true, |_, _| true), Next::Full);
        log.release(0, 4096, Some(5));
        assert_eq!(log.next(true, |_, stamp| stamp < 5), Next::Clean(vec![0]));
        let Next::Write(blocks) = log.next(true, |_, stamp| stamp < 6) else {
            panic!("a write is due")
        };
        assert_eq!(blocks[0].words[0], 2, "the old one leaves in the same write");
        log.written();
        assert_eq!(log.ready(), Some(2));
    }

    #[test]
    fn a_request_larger_than_the_log_passes_when_it_is_alone() {
        let mut log = log(2);
        assert!(!log.acquire(1, 0, 4 * EXTENT_SIZE));
        assert!(matches!(log.next(true, |_, _| true), Next::Write(_)));
        log.written();
        assert_eq!(log.ready(), Some(1));
        log.release(0, 4 * EXTENT_SIZE, None);
        assert_eq!(log.evict_all(|_, _| true).len(), 1);
        assert_eq!(log.len(), 0);
    }

    /// A log whose idle extents are `hot`, the first one unused for the longest.
    fn idle(capacity: u32, hot: &[u32]) -> ActivityLog {
        let mut log = ActivityLog::new(256 * EXTENT_SIZE, capacity, 512, hot, 0);
        for extent in hot {
            assert!(log.acquire(0, u64::from(*extent) * EXTENT_SIZE, 4096));
            log.release(u64::from(*extent) * EXTENT_SIZE, 4096, None);
        }
        log
    }

    fn wait(log: &mut ActivityLog, extent: u64, extents: u64) {
        assert!(!log.acquire(extent, extent * EXTENT_SIZE, extents * EXTENT_SIZE));
    }

    /// The update, all being clean; the extents that are hot while it is under way.
    fn update(log: &mut ActivityLog) -> Vec<u32> {
        assert!(matches!(log.next(true, |_, _| true), Next::Write(_)), "an update is due");
        log.hot_extents().collect()
    }

    #[test]
    fn a_range_ends_in_the_extent_of_its_last_byte() {
        assert_eq!(ActivityLog::extents(0, EXTENT_SIZE), (0, 0));
        assert_eq!(ActivityLog::extents(EXTENT_SIZE - 4096, 8192), (0, 1));
    }

    #[test]
    fn extents_of_every_block_are_written_where_they_belong() {
        // A block of 512 bytes has 3840 extents.
        let mut log = log(8);
        log.grow((2 * 3840 + 71) * EXTENT_SIZE);
        wait(&mut log, 2 * 3840 + 70, 1);
        let Next::Write(blocks) = log.next(false, |_, _| true) else { panic!("a write is due") };
        assert_eq!((blocks.len(), blocks[0].index, blocks[0].words[1]), (1, 2, 1 << 6));
        log.written();
        assert_eq!(log.ready(), Some(2 * 3840 + 70));
        log.release((2 * 3840 + 70) * EXTENT_SIZE, 4096, None);
        let blocks = log.evict_all(|_, _| true);
        assert_eq!((blocks.len(), blocks[0].index), (1, 2));
        assert!(blocks[0].words.iter().all(|word| *word == 0), "cold again");
        assert_eq!(log.updates, 2);
    }

    #[test]
    fn the_number_grows_only_while_a_peer_replicates() {
        let mut log = log(8);
        wait(&mut log, 0, 1);
        assert!(matches!(log.next(false, |_, _| true), Next::Write(_)));
        assert_eq!(log.number, 0);
    }

    #[test]
    fn a_write_that_waits_can_be_taken_back() {
        let mut log = log(8);
        wait(&mut log, 1, 1);
        wait(&mut log, 2, 1);
        assert!(log.cancel(1) && !log.cancel(1));
        let Next::Write(blocks) = log.next(true, |_, _| true) else { panic!("one waits still") };
        assert_eq!(blocks[0].words[0], 0b100);
        assert!(log.has_waiters() && log.cancel(2) && !log.has_waiters());
    }

    #[test]
    fn an_update_takes_as_many_waiters_as_the_log_has_room_for() {
        let mut log = log(2);
        (0..3).for_each(|extent| wait(&mut log, extent, 1));
        let Next::Write(blocks) = log.next(true, |_, _| true) else { panic!("a write is due") };
        assert_eq!(blocks[0].words[0], 0b011);
    }

    #[test]
    fn nothing_leaves_while_there_is_room() {
        let mut log = idle(8, &[0, 1, 2, 3, 4, 5, 6]);
        wait(&mut log, 7, 1);
        assert_eq!(update(&mut log), [0, 1, 2, 3, 4, 5, 6]);
        // What is hot already needs none.
        let mut log = idle(3, &[0, 2]);
        wait(&mut log, 0, 2);
        assert_eq!(update(&mut log), [0, 2]);
    }

    #[test]
    fn those_unused_for_the_longest_leave_first_and_an_eighth_at_once() {
        let mut log = idle(8, &[3, 2, 1, 0, 4, 5, 6, 7]);
        wait(&mut log, 8, 2);
        assert_eq!(update(&mut log), [0, 1, 4, 5, 6, 7]);
        let hot: Vec<u32> = (0..16).rev().collect();
        let mut log = idle(16, &hot);
        wait(&mut log, 16, 1);
        assert_eq!(update(&mut log), (0..14).collect::<Vec<_>>());
        // One of the two is enough.
        let mut log = idle(16, &hot);
        wait(&mut log, 16, 1);
        assert!(matches!(log.next(true, |extent, _| extent != 15), Next::Write(_)));
        assert!(log.hot_extents().any(|extent| extent == 15));
    }

    #[test]
    fn an_extent_that_came_in_later_stays_while_it_is_written() {
        let mut log = idle(2, &[0]);
        wait(&mut log, 1, 1);
        update(&mut log);
        log.written();
        assert_eq!(log.ready(), Some(1));
        wait(&mut log, 2, 1);
        assert_eq!(update(&mut log), [1]);
        log.written();
        assert_eq!(log.ready(), Some(2));
        wait(&mut log, 3, 1);
        assert_eq!(log.next(true, |_, _| true), Next::Full);
    }

    #[test]
    fn a_request_larger_than_the_log_does_not_wait_for_what_is_clean() {
        let mut log = idle(2, &[9]);
        wait(&mut log, 0, 4);
        assert!(update(&mut log).is_empty());
    }
}
