//! One data sync running, one waiting.

use super::Waiter;

/// The syncs of one file.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    running: Option<Vec<Waiter>>,
    waiting: Vec<Waiter>,
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
        self.running = Some(std::mem::take(&mut self.waiting));
        true
    }

    /// The running sync has ended, for these.
    pub(super) fn done(&mut self) -> Vec<Waiter> {
        self.running.take().unwrap_or_default()
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
        assert_eq!(syncs.done(), [flush(1)]);
        assert!(syncs.start());
        assert_eq!(syncs.done(), [flush(2), flush(3)]);
        assert!(!syncs.start());
    }
}
