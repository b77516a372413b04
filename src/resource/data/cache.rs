//! What the caches of the disks may hold of a volume, as far as its Primary knows: which flush has nothing
//! to do, and which write is about to be flushed.
//!
//! Invariants:
//! - A flush is answered at once only behind one of both disks that has ended well, with no write under way when
//!   it began, and if nothing but durable writes was started since, and no state has changed.
//! - A wrong guess makes a write durable though nobody flushes it. Its error is one of a durable write.

/// So many flushes in a row, each behind one write, make a habit.
const HABIT: u32 = 4;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    /// Writes that are not durable by themselves, as many as were started.
    volatile: u64,
    /// The last flush covers these, and was made in this state of the resource.
    flushed: Option<Covered>,
    /// Flushes in a row that had one write to cover.
    habit: u32,
    /// Writes since the last flush was asked for.
    writes: u32,
}

/// What a flush covers: writes that were started, and the state (`Resource::state_version`) in which it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    volatile: u64,
    state: u64,
}

impl Cache {
    /// A write is started that stays in a cache.
    pub(crate) fn keeps(&mut self) {
        self.volatile += 1;
    }

    /// What a flush covers that begins now, while no write is under way.
    pub(crate) fn covered_now(&self, state: u64) -> Covered {
        Covered { volatile: self.volatile, state }
    }

    /// A flush of every disk has ended well.
    pub(crate) fn flushed(&mut self, covered: Option<Covered>) {
        self.flushed = covered.or(self.flushed);
    }

    /// Everything that was answered is durable already.
    pub(crate) fn is_empty(&self, state: u64) -> bool {
        self.flushed == Some(self.covered_now(state))
    }

    /// A write is started: whether a flush is to be expected right behind it.
    pub(crate) fn write_begins(&mut self) -> bool {
        let expected = self.habit >= HABIT && self.writes == 0;
        self.writes = self.writes.saturating_add(1);
        if self.writes > 1 {
            self.habit = 0;
        }
        expected
    }

    /// A client asks for a flush.
    pub(crate) fn flush_begins(&mut self) {
        if self.writes > 0 {
            self.habit = if self.writes == 1 { self.habit.saturating_add(1) } else { 0 };
        }
        self.writes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_habit_is_one_write_before_each_of_four_flushes_and_ends_with_two_writes() {
        let mut cache = Cache::default();
        for _ in 0..HABIT {
            assert!(!cache.write_begins());
            cache.flush_begins();
            // One that comes twice is no sign of anything.
            cache.flush_begins();
        }
        assert!(cache.write_begins());
        assert!(!cache.write_begins(), "the second one");
        cache.flush_begins();
        assert!(!cache.write_begins(), "it has begun anew");
    }

    #[test]
    fn nothing_is_left_to_flush_until_a_cache_keeps_a_write_or_the_state_changes() {
        let mut cache = Cache::default();
        assert!(!cache.is_empty(1), "nobody has flushed yet");
        cache.flushed(Some(cache.covered_now(1)));
        assert!(cache.is_empty(1));
        assert!(!cache.is_empty(2), "another state");
        let covered = cache.covered_now(1);
        cache.keeps();
        cache.flushed(Some(covered));
        assert!(!cache.is_empty(1), "it was started behind the flush");
        cache.flushed(None);
        assert!(!cache.is_empty(1), "a write was under way when it began");
        cache.flushed(Some(cache.covered_now(1)));
        assert!(cache.is_empty(1));
    }
}
