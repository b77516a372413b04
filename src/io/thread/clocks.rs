//! The two clocks of a data thread: one that decides, and one that is shown; and what the first says
//! of a freeze.
//!
//! Invariants:
//! - A Primary, and whoever has a client, sees every freeze that is longer than ping-timeout; any
//!   other node every one that is longer than timeout. None is told for shorter than it was. A Primary without
//!   a client sleeps as long as a Secondary: that the whole process stood still the beat says ([`super::beat`]).
//! - Every time-out and every order of events is CLOCK_BOOTTIME's, which nobody can set.
//! - The wall clock is only shown: since when a node is alone, when a client came, when a verify
//!   ended. A core gets it once, and anew when somebody has set it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::resource::{Event, Options, Time};

/// The longest wait of a resource that serves nobody, ms: hundreds of them cost next to nothing.
pub(super) const IDLE_MS: u64 = 5_000;

/// It is not looked at more often, ms.
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

/// How long a resource may wait, so that no freeze that counts hides in a wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    /// A process that did not run for longer has to ask before it serves, ms.
    pub(super) ping_timeout_ms: u64,
    /// The peer goes on without a node that was silent for longer, ms.
    pub(super) timeout_ms: u64,
}

impl Watch {
    pub(super) fn new(options: &Options) -> Self {
        Self { ping_timeout_ms: options.ping_timeout_ms, timeout_ms: options.timeout_ms }
    }

    /// The longest wait where a freeze of `ping-timeout` must be seen, ms.
    fn watchful_ms(self) -> u64 {
        (self.ping_timeout_ms / 4).max(1)
    }

    /// The longest wait, ms. `idle`: it serves nobody, and only a freeze of `timeout` must be seen.
    pub(super) fn longest_ms(self, idle: bool) -> u64 {
        let watchful_ms = self.watchful_ms();
        if !idle {
            return watchful_ms;
        }
        let rest_ms = self.ping_timeout_ms.saturating_sub(watchful_ms);
        IDLE_MS.min(self.timeout_ms.saturating_sub(rest_ms)).max(watchful_ms)
    }

    /// Whether so long a wait is longer than one in which a freeze of `ping-timeout` must be seen.
    pub(super) fn is_long(self, wait_ms: u64) -> bool {
        wait_ms > self.watchful_ms()
    }

    /// For how long this process may not have run, if that counts: `elapsed_ms` after the start of a
    /// wait for `wait_ms`. Of a long wait so much was meant, but a freeze may have begun with it.
    pub(super) fn gap(self, wait_ms: u64, elapsed_ms: u64) -> Option<u64> {
        let meant_ms = wait_ms.saturating_sub(self.watchful_ms());
        (elapsed_ms.saturating_sub(meant_ms) > self.ping_timeout_ms).then_some(elapsed_ms)
    }
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

    /// What the core has to hear, where the clock was set since it heard of it. Looks once a second at most.
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

    #[test]
    fn no_freeze_hides_in_a_wait_and_none_is_told_for_shorter() {
        for (ping_timeout_ms, timeout_ms) in [(500, 6_000), (100, 1_000), (500, 1_000), (500, 500)]
        {
            let watch = Watch { ping_timeout_ms, timeout_ms };
            for (idle, counts) in [(false, ping_timeout_ms), (true, timeout_ms)] {
                let wait = watch.longest_ms(idle);
                for waited in [0, 1, wait / 2, wait] {
                    assert_eq!(watch.gap(wait, waited), None, "it has only waited");
                    for freeze in [counts + 1, counts + 40, 2 * counts, 8 * counts] {
                        // It ends the wait: a client, or the peer, has come meanwhile.
                        let told = watch.gap(wait, waited + freeze);
                        assert!(told.is_some_and(|told| told >= freeze), "{watch:?} {freeze}");
                    }
                }
            }
        }
        let watch = Watch { ping_timeout_ms: 500, timeout_ms: 6_000 };
        assert_eq!([true, false].map(|idle| watch.longest_ms(idle)), [5_000, 125]);
    }
}
