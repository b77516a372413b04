//! The beat of this process: for how long none of its threads ran.
//!
//! A resource that serves somebody looks at the clock often enough itself ([`super::clocks`]). Hundreds of Primaries
//! without a client would wake the processor for nothing: one thread looks for all of them.
//!
//! Invariants:
//! - A freeze of the process (a stop, a suspend, a host that does not schedule it) is seen by the first that looks
//!   after it, whether the beat has gone on by then or not; none is told for shorter than it was, nor twice.
//! - It is remembered for longer than any wait of a resource that serves nobody: [`KEPT`] freezes, of [`NOTED_MS`]
//!   or more each.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::clocks::{IDLE_MS, clock};
use crate::resource::Time;

/// Between two beats, ms.
const BEAT_MS: u64 = 100;
/// A shorter silence is no freeze, ms.
const NOTED_MS: u64 = 2 * BEAT_MS;
/// In the longest wait there are fewer.
const KEPT: usize = (IDLE_MS / NOTED_MS) as usize + 2;
/// A resource with a shorter ping-timeout looks itself, ms.
pub(super) const SHORTEST_MS: u64 = 2 * NOTED_MS;

/// When the process ran.
#[derive(Debug)]
pub(super) struct Beat {
    /// The last beat, ns.
    last: AtomicU64,
    /// When it stood still, oldest first.
    freezes: Mutex<VecDeque<(Time, Time)>>,
}

impl Beat {
    /// The one of this process, which begins with the first that asks; `None`: no thread could be started for it.
    pub(super) fn of_process() -> Option<&'static Self> {
        static BEAT: OnceLock<Beat> = OnceLock::new();
        static RUNS: OnceLock<bool> = OnceLock::new();
        let beat = BEAT.get_or_init(|| Self::new(clock()));
        let beats = || loop {
            std::thread::sleep(Duration::from_millis(BEAT_MS));
            beat.beats(clock());
        };
        let runs = || std::thread::Builder::new().name("beat".to_owned()).spawn(beats).is_ok();
        RUNS.get_or_init(runs).then_some(beat)
    }

    fn new(now: Time) -> Self {
        Self { last: AtomicU64::new(now.0), freezes: Mutex::default() }
    }

    fn freezes(&self) -> MutexGuard<'_, VecDeque<(Time, Time)>> {
        self.freezes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beats(&self, now: Time) {
        let last = Time(self.last.load(Ordering::Acquire));
        if now.ms_since(last) >= NOTED_MS {
            let mut freezes = self.freezes();
            if freezes.len() == KEPT {
                freezes.pop_front();
            }
            freezes.push_back((last, now));
        }
        // Behind the note: who sees this beat sees the freeze.
        self.last.store(now.0, Ordering::Release);
    }

    /// For how long nothing ran, ms, in the longest freeze of those that were not over by `since` and began after
    /// `told`. At `now` the beat may be late itself.
    pub(super) fn longest_ms(&self, since: Time, told: Time, now: Time) -> u64 {
        // Before the list: what is noted meanwhile is then in it.
        let last = Time(self.last.load(Ordering::Acquire));
        let freezes = self.freezes();
        let noted = freezes.iter().filter(|(_, end)| *end > since).copied();
        let new = noted.chain([(last, now)]).filter(|(start, _)| *start > told);
        new.map(|(start, end)| end.ms_since(start)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(1_000_000_000_000).after_ms(ms)
    }

    fn longest_ms(beat: &Beat, since: u64, now: u64) -> u64 {
        beat.longest_ms(at(since), Time(0), at(now))
    }

    #[test]
    fn a_freeze_is_seen_once_by_who_has_waited_through_it() {
        let beat = Beat::new(at(0));
        for ms in [100, 200, 300] {
            beat.beats(at(ms));
        }
        assert_eq!(longest_ms(&beat, 0, 350), 50);
        // From 350 on nothing runs. Who looks first sees it, before the beat and after it.
        assert_eq!(longest_ms(&beat, 50, 1_350), 1_050);
        beat.beats(at(1_351));
        assert_eq!(longest_ms(&beat, 50, 1_352), 1_051);
        assert_eq!(longest_ms(&beat, 1_351, 1_400), 49, "it was over when the wait began");
        // It was not, by a hair; and it was told.
        assert_eq!(longest_ms(&beat, 1_350, 1_360), 1_051);
        assert_eq!(beat.longest_ms(at(1_350), at(1_350), at(1_360)), 9);
    }

    #[test]
    fn the_longest_of_several_is_told() {
        let beat = Beat::new(at(0));
        for ms in [700, 1_000, 1_100, 2_000, 2_100] {
            beat.beats(at(ms));
        }
        assert_eq!(longest_ms(&beat, 0, 2_100), 900);
        assert_eq!(longest_ms(&beat, 2_050, 2_100), 0);
        for turn in 0..100 {
            beat.beats(at(3_000 + turn * 300));
        }
        assert_eq!(beat.freezes().len(), KEPT);
    }

    #[test]
    fn the_process_has_one_that_beats() {
        let beat = Beat::of_process().expect("a thread");
        let begun = beat.last.load(Ordering::Acquire);
        let limit = std::time::Instant::now() + Duration::from_secs(20);
        while beat.last.load(Ordering::Acquire) == begun {
            assert!(std::time::Instant::now() < limit, "it does not beat");
            std::thread::yield_now();
        }
    }
}
