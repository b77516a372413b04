//! One data sync running, one waiting.

use super::Waiter;
use crate::resource::Time;

/// The syncs of one file.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    running: Option<Vec<Waiter>>,
    /// When the last one was started.
    started: Time,
    waiting: Vec<Waiter>,
    /// Room for those who wait next.
    spare: Vec<Waiter>,
    /// One has failed: what it was to make durable may be gone, and no later one brings it back.
    failed: Option<i32>,
}

impl Syncs {
    /// Joins the sync that has not started.
    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.waiting.push(waiter);
    }

    /// Whether a sync must be submitted now; it counts as running then.
    pub(super) fn start(&mut self, now: Time) -> bool {
        if self.running.is_some() || self.waiting.is_empty() {
            return false;
        }
        self.started = now;
        let next = std::mem::take(&mut self.spare);
        self.running = Some(std::mem::replace(&mut self.waiting, next));
        true
    }

    /// When the one that runs was started.
    pub(super) fn begun(&self) -> Option<Time> {
        self.running.as_ref().map(|_| self.started)
    }

    /// The running sync has ended like this (an errno below 0), and how it counts: for these, and after a
    /// failure also for those that have waited for the next one.
    pub(super) fn done(&mut self, result: i32) -> (Vec<Waiter>, i32) {
        let mut waiters = self.running.take().unwrap_or_default();
        if result < 0 {
            self.failed.get_or_insert(result);
        }
        let Some(failed) = self.failed else { return (waiters, result) };
        waiters.append(&mut self.waiting);
        (waiters, failed)
    }

    /// They have been told: their list is used again.
    pub(super) fn told(&mut self, mut waiters: Vec<Waiter>) {
        waiters.clear();
        self.spare = waiters;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Tag;

    #[test]
    fn one_runs_one_waits_and_later_ones_join_the_waiting_one() {
        let flush = |n| Waiter::Flush(Tag(n));
        let mut syncs = Syncs::default();
        assert!(!syncs.start(Time(0)));
        syncs.wait(flush(1));
        assert!(syncs.start(Time(0)));
        syncs.wait(flush(2));
        syncs.wait(flush(3));
        assert!(!syncs.start(Time(0)), "one at a time");
        let (done, result) = syncs.done(0);
        assert_eq!((&done[..], result), (&[flush(1)][..], 0));
        syncs.told(done);
        assert!(syncs.start(Time(0)));
        assert_eq!(syncs.done(0), (vec![flush(2), flush(3)], 0));
        assert!(!syncs.start(Time(0)));
    }

    #[test]
    fn after_one_that_has_failed_none_succeeds() {
        let flush = |n| Waiter::Flush(Tag(n));
        let mut syncs = Syncs::default();
        syncs.wait(flush(1));
        assert!(syncs.start(Time(0)));
        syncs.wait(flush(2));
        assert_eq!(syncs.done(-5), (vec![flush(1), flush(2)], -5));
        assert!(!syncs.start(Time(0)), "nobody waits");
        syncs.wait(flush(3));
        assert!(syncs.start(Time(0)));
        assert_eq!(syncs.done(0), (vec![flush(3)], -5));
    }
}
