//! One data sync running, one waiting.

use super::Waiter;

/// The syncs of one file.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    running: Option<Vec<Waiter>>,
    waiting: Vec<Waiter>,
    /// Room for those who wait next.
    spare: Vec<Waiter>,
}

impl Syncs {
    /// Joins the sync that has not started.
    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.waiting.push(waiter);
    }

    /// Whether a sync must be submitted now; it counts as running then.
    pub(super) fn start(&mut self) -> bool {
        if self.running.is_some() || self.waiting.is_empty() {
            return false;
        }
        let next = std::mem::take(&mut self.spare);
        self.running = Some(std::mem::replace(&mut self.waiting, next));
        true
    }

    /// The running sync has ended, for these.
    pub(super) fn done(&mut self) -> Vec<Waiter> {
        self.running.take().unwrap_or_default()
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
        assert!(!syncs.start());
        syncs.wait(flush(1));
        assert!(syncs.start());
        syncs.wait(flush(2));
        syncs.wait(flush(3));
        assert!(!syncs.start(), "one at a time");
        let done = syncs.done();
        assert_eq!(done, [flush(1)]);
        syncs.told(done);
        assert!(syncs.start());
        assert_eq!(syncs.done(), [flush(2), flush(3)]);
        assert!(!syncs.start());
    }
}
