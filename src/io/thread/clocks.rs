//! The two clocks of a data thread: one that decides, and one that is shown.
//!
//! Invariants:
//! - Every time-out and every order of events is CLOCK_BOOTTIME's, which nobody can set.
//! - The wall clock is only shown: since when a node is alone, when a client came, when a verify
//!   ended. A core gets it once, and anew when somebody has set it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::resource::{Event, Time};

/// How often it is looked at, ms.
const LOOK_MS: u64 = 1_000;
/// A clock that is slewed drifts so far before it counts as set, ms.
const DRIFT_MS: u64 = 1_000;

/// CLOCK_BOOTTIME: it goes on during suspend.
pub(super) fn clock() -> Time {
    // The clock exists since Linux 2.6.39; a failure would be a kernel without it.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    Time(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// The wall clock, ms since 1970: in whole seconds a write would be shown before it was made.
pub(super) fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The wall clock as the core has it.
#[derive(Debug)]
pub(super) struct WallClock {
    /// What it showed at `at`, ms since 1970.
    ms: u64,
    at: Time,
    look_at: Time,
}

impl WallClock {
    pub(super) fn new(at: Time, ms: u64) -> Self {
        Self { ms, at, look_at: at.after_ms(LOOK_MS) }
    }

    /// What the core has to hear, where the clock was set since it heard of it. Looks once a second.
    pub(super) fn was_set(&mut self, now: Time, clock: impl Fn() -> u64) -> Option<Event> {
        if now < self.look_at {
            return None;
        }
        self.look_at = now.after_ms(LOOK_MS);
        let (ms, expected) = (clock(), self.ms.saturating_add(now.ms_since(self.at)));
        if ms.abs_diff(expected) <= DRIFT_MS {
            return None;
        }
        (self.ms, self.at) = (ms, now);
        Some(Event::WallClock { ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_told_once_and_one_that_runs_is_not() {
        let begun = Time(5_000_000_000);
        let after = |ms: u64| begun.after_ms(ms);
        let mut clock = WallClock::new(begun, 1_000_000);
        assert_eq!(clock.was_set(after(10), || 9_000_000), None, "not looked at yet");
        assert_eq!(clock.was_set(after(2_000), || 1_002_900), None, "it drifts");
        for (at, shown) in [(4_000, 9_000_000), (8_000, 7), (12_000, 0)] {
            let set = clock.was_set(after(at), || shown);
            assert_eq!(set, Some(Event::WallClock { ms: shown }));
            assert_eq!(clock.was_set(after(at + 1_500), || shown + 1_500), None);
        }
    }
}
