//! One sector: the writes of it, and what each disk must hold of them.
//!
//! Invariants:
//! - Writes are in the order in which they began; one that is not of zeroes is known by its value,
//!   which is the step at which it began.

use smallvec::SmallVec;

use super::super::disk::Sector;

/// Writes of a sector that are kept before old ones are looked for, to be forgotten.
const ENTRIES: usize = 8;
/// A write that has not ended.
pub(super) const NEVER: u64 = u64::MAX;

/// A write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) start: u64,
    pub(super) finish: u64,
    /// From when on it is known that it was cut off: its client is gone, or it was answered with an
    /// error; or never.
    pub(super) cut: u64,
    pub(super) session: u64,
    /// A later session is needed to know that it does not start any more.
    pub(super) cut_by_session: bool,
    pub(super) answered: bool,
    /// Its client has kept it, and sends it again, or has: it may be done once more.
    pub(super) again: bool,
    zeroes: bool,
}

impl Entry {
    /// A write that begins now.
    pub(super) fn new(start: u64, zeroes: bool, session: u64) -> Self {
        let (finish, cut) = (NEVER, NEVER);
        let (cut_by_session, answered, again) = (false, false, false);
        Self { start, finish, cut, session, cut_by_session, answered, again, zeroes }
    }

    /// What it writes.
    pub(super) fn value(&self) -> Sector {
        if self.zeroes { 0 } else { self.start }
    }
}

/// A disk holds this write, or one that covers it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Obligation {
    pub(super) start: u64,
    pub(super) finish: u64,
    /// When it was answered or seen.
    pub(super) since: u64,
    /// It was of zeroes.
    pub(super) zeroes: bool,
    /// The other disk is not known to have it.
    pub(super) alone: bool,
    /// It has survived a power loss unflushed, by luck.
    pub(super) weak: bool,
    /// A flush that covers it was answered.
    pub(super) flushed: bool,
    /// A flush of the disk had failed when the disk was attached again: it can be read, and a power
    /// loss takes it.
    pub(super) spoiled: bool,
}

impl Obligation {
    /// What was written.
    pub(super) fn value(&self) -> Sector {
        if self.zeroes { 0 } else { self.start }
    }
}

/// What a disk must hold of a sector: mostly one write.
pub(super) type Duties = SmallVec<[Obligation; 1]>;

/// A sector.
#[derive(Clone, Debug, Default)]
pub(super) struct Register {
    entries: Vec<Entry>,
    /// How many entries there may be before old ones are looked for; 0 stands for [`ENTRIES`].
    room: usize,
    /// Values of writes that every disk has left behind.
    past: Vec<Sector>,
    /// A write that has not ended may have been cut off.
    any_cut: bool,
    pub(super) obligations: [Duties; 2],
}

impl Register {
    /// The value is that of a write that did not end before step `start`.
    pub(super) fn covers(&self, value: Sector, start: u64) -> bool {
        start == 0 || self.last_finish(value).is_some_and(|finish| finish >= start)
    }

    /// A disk that holds this value does what it must. What it must hold is remembered here, so that
    /// the same value needs no look at the writes.
    pub(super) fn satisfies(&self, value: Sector, duty: &Obligation) -> bool {
        value == duty.start || self.covers(value, duty.start)
    }

    /// When the last write of this value ended.
    pub(super) fn last_finish(&self, value: Sector) -> Option<u64> {
        if value == 0 {
            return self.entries.iter().filter(|e| e.zeroes).map(|e| e.finish).max();
        }
        self.find(value).map(|at| self.entries[at].finish)
    }

    /// Every write of this value had ended by this step, and none began after step `start`. Zeroes may be those
    /// of any of them.
    pub(super) fn is_over(&self, value: Sector, start: u64, step: u64) -> bool {
        if value != 0 {
            return start >= value && self.last_finish(value).is_some_and(|finish| finish < step);
        }
        let mut zeroes = self.entries.iter().filter(|entry| entry.zeroes);
        zeroes.all(|entry| entry.finish < step && entry.start <= start)
    }

    fn find(&self, start: u64) -> Option<usize> {
        // Mostly it is the last one.
        let last = self.entries.len().checked_sub(1)?;
        if self.entries[last].start == start {
            return Some(last);
        }
        self.entries.binary_search_by_key(&start, |e| e.start).ok()
    }

    /// The write that began at this step.
    pub(super) fn write_mut(&mut self, start: u64) -> Option<&mut Entry> {
        self.find(start).map(|at| &mut self.entries[at])
    }

    /// Somebody has written to it.
    pub(super) fn is_written(&self) -> bool {
        !self.entries.is_empty()
    }

    /// The value was written at some time, or is that of a fresh disk.
    pub(super) fn was_written(&self, value: Sector) -> bool {
        value == 0 || self.find(value).is_some() || self.past.contains(&value)
    }

    /// The write that began at step `start` was cut off, if it has not ended.
    pub(super) fn cut_off(&mut self, start: u64, step: u64, by_session: bool) {
        let Some(entry) = self.write_mut(start) else { return };
        if entry.finish == NEVER && entry.cut == NEVER {
            (entry.cut, entry.cut_by_session) = (step, by_session);
            self.any_cut = true;
        }
    }

    /// Writes that were cut off have ended by this step, where `known` says so.
    pub(super) fn bound_the_dead(&mut self, step: u64, known: impl Fn(&Entry) -> bool) {
        if !self.any_cut {
            return;
        }
        self.any_cut = false;
        for entry in self.entries.iter_mut().filter(|e| e.finish == NEVER && e.cut != NEVER) {
            if known(entry) {
                entry.finish = step;
            } else {
                self.any_cut = true;
            }
        }
    }

    /// The writes that are remembered, in the order in which they began.
    pub(super) fn writes(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds a write, and forgets those that ended before everything that any disk must hold, or that
    /// any request under way may see (they look back to step `open`).
    pub(super) fn push(&mut self, entry: Entry, open: u64) {
        if self.entries.len() >= self.room.max(ENTRIES) {
            let floors =
                self.obligations.iter().filter_map(|list| list.iter().map(|o| o.start).min());
            let floor = floors.min().unwrap_or(0).min(open);
            let past = &mut self.past;
            self.entries.retain(|e| {
                if e.finish < floor && !e.zeroes {
                    past.push(e.start);
                }
                e.finish >= floor
            });
            self.room = 2 * self.entries.len();
        }
        self.entries.push(entry);
    }

    /// A node must hold this from now on; what it covers need not be remembered.
    pub(super) fn oblige(&mut self, node: usize, new: Obligation) {
        let list = &mut self.obligations[node];
        list.retain(|old| {
            let weaker = (new.flushed || !old.flushed)
                && (!new.alone || old.alone)
                && (!new.weak || old.weak)
                && (!new.spoiled || old.spoiled);
            !(weaker && (old.finish < new.start || old.start == new.start))
        });
        list.push(new);
    }

    /// The latest start that a read beginning now must cover.
    pub(super) fn floor(&self, node: usize) -> u64 {
        self.obligations[node].iter().map(|o| o.start).max().unwrap_or(0)
    }
}
