//! Overlapping ranges in flight: who goes on, who waits, and for whom.
//!
//! Invariants:
//! - Two granted ranges that overlap are both shared.
//! - First come, first served: a request waits behind every earlier one that it conflicts with,
//!   granted or waiting, and behind nothing else. So nobody starves, and two overlapping writes are
//!   granted in the order of their arrival.
//! - Hence `blockers` of a waiting request is the number of earlier conflicting requests that are
//!   not finished; it only falls, and the request is granted when it is 0.
//!
//! ```text
//!  acquire --no blockers--> granted --release--> gone
//!     \--blockers--> waiting --last blocker gone--> granted (told by next_granted)
//!                       \--cancel--> gone
//! ```

use std::collections::{BTreeMap, VecDeque};

use crate::resource::ids::{PAYLOAD_MAX, ZEROES_MAX};
use crate::resource::sorted::Sorted;

/// The longest exclusive range, bytes: one piece of a trim or of write-zeroes.
pub(crate) const EXCLUSIVE_MAX: u64 = ZEROES_MAX;
/// The longest shared range, bytes: one payload.
pub(crate) const SHARED_MAX: u64 = PAYLOAD_MAX as u64;

/// One request for a range, chosen by the caller. Unique while it waits or is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LockId(pub(crate) u64);

/// What a range is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Reads: they do not mind each other.
    Shared,
    /// Writes: alone in their range.
    Exclusive,
}

/// A range of bytes and what it is wanted for.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: u64,
    end: u64,
    kind: Kind,
}

impl Range {
    /// A range that a caller may ask for: not empty, and as short as its kind demands.
    fn new(start: u64, end: u64, kind: Kind) -> Self {
        assert!(start < end, "the range {start}..{end} is empty");
        let limit = match kind {
            Kind::Shared => SHARED_MAX,
            Kind::Exclusive => EXCLUSIVE_MAX,
        };
        assert!(end - start <= limit, "the range {start}..{end} is longer than {limit} bytes");
        Self { start, end, kind }
    }

    fn conflicts(&self, other: &Self) -> bool {
        let exclusive = self.kind == Kind::Exclusive || other.kind == Kind::Exclusive;
        exclusive && self.start < other.end && other.start < self.end
    }
}

/// Where a request stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    Granted(Range),
    /// With its number in the queue.
    Waiting(u64),
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    id: LockId,
    range: Range,
    /// Earlier conflicting requests, granted or waiting. At least 1.
    blockers: usize,
}

/// The ranges of one volume.
#[derive(Clone, Debug, Default)]
pub(crate) struct Intervals {
    places: Sorted<LockId, Place>,
    /// Granted exclusive ranges, start to end: disjoint, so ends ascend as well.
    exclusive: Sorted<u64, u64>,
    /// Granted shared ranges, (start, id) to end.
    shared: Sorted<(u64, LockId), u64>,
    /// The longest shared range granted since there was none: how far before a range one must look.
    shared_longest: u64,
    /// In the order of their arrival.
    waiters: BTreeMap<u64, Waiter>,
    arrivals: u64,
    /// Granted after a wait, not told yet.
    fresh: VecDeque<LockId>,
}

impl Intervals {
    /// No range.
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Asks for the bytes `start..end`. True: granted now. False: it waits, and `next_granted`
    /// tells when it is granted. At most [`SHARED_MAX`] or [`EXCLUSIVE_MAX`] bytes.
    pub(crate) fn acquire(&mut self, id: LockId, start: u64, end: u64, kind: Kind) -> bool {
        let range = Range::new(start, end, kind);
        let blockers = self.granted_conflicts(&range) + self.waiting_conflicts(&range);
        let earlier = if blockers == 0 {
            self.grant(id, range)
        } else {
            self.arrivals += 1;
            self.waiters.insert(self.arrivals, Waiter { id, range, blockers });
            self.places.insert(id, Place::Waiting(self.arrivals))
        };
        assert!(earlier.is_none(), "{id:?} is in use: {earlier:?}");
        blockers == 0
    }

    /// As `acquire`, but where that would wait it does nothing and answers false.
    #[cfg(test)]
    pub(crate) fn try_acquire(&mut self, id: LockId, start: u64, end: u64, kind: Kind) -> bool {
        let range = Range::new(start, end, kind);
        let free = !self.is_granted_conflict(&range)
            && !self.waiters.values().any(|waiter| waiter.range.conflicts(&range));
        if free {
            let earlier = self.grant(id, range);
            assert!(earlier.is_none(), "{id:?} is in use: {earlier:?}");
        }
        free
    }

    /// Ends a granted request, told or not. Those that waited for nothing else are granted.
    pub(crate) fn release(&mut self, id: LockId) {
        let range = match self.places.remove(&id) {
            Some(Place::Granted(range)) => range,
            other => panic!("{id:?} is released but not granted: {other:?}"),
        };
        match range.kind {
            Kind::Exclusive => {
                self.exclusive.remove(&range.start);
            }
            Kind::Shared => {
                self.shared.remove(&(range.start, id));
                if self.shared.is_empty() {
                    self.shared_longest = 0;
                }
            }
        }
        if !self.fresh.is_empty() {
            self.fresh.retain(|&fresh| fresh != id);
        }
        // A waiter that came before it and conflicts with it would have kept it waiting: every one
        // that conflicts came later and has counted it.
        self.unblock(&range, 0);
    }

    /// Takes back a request that waits; what waited for it alone is granted. False: it does not
    /// wait (it is granted, or not known), and nothing changes.
    pub(crate) fn cancel(&mut self, id: LockId) -> bool {
        let Some(&Place::Waiting(number)) = self.places.get(&id) else {
            return false;
        };
        self.places.remove(&id);
        let waiter = self.waiters.remove(&number).expect("every waiting place has its waiter");
        self.unblock(&waiter.range, number);
        true
    }

    /// Those that wait, in the order of their arrival.
    pub(crate) fn waiters(&self) -> Vec<LockId> {
        self.waiters.values().map(|waiter| waiter.id).collect()
    }

    /// The next request that was granted after a wait, in the order of the grants.
    pub(crate) fn next_granted(&mut self) -> Option<LockId> {
        self.fresh.pop_front()
    }

    /// Whether nothing is granted and nothing waits.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many requests wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// How many requests are granted.
    #[cfg(test)]
    pub(crate) fn granted(&self) -> usize {
        self.places.len() - self.waiters.len()
    }

    /// Whether a granted range, of either kind, overlaps the bytes `start..end`, of any length.
    #[cfg(test)]
    pub(crate) fn overlaps(&self, start: u64, end: u64) -> bool {
        start < end && self.is_granted_conflict(&Range { start, end, kind: Kind::Exclusive })
    }

    /// Grants, and returns where `id` stood before.
    fn grant(&mut self, id: LockId, range: Range) -> Option<Place> {
        match range.kind {
            Kind::Exclusive => {
                self.exclusive.insert(range.start, range.end);
            }
            Kind::Shared => {
                self.shared.insert((range.start, id), range.end);
                self.shared_longest = self.shared_longest.max(range.end - range.start);
            }
        }
        self.places.insert(id, Place::Granted(range))
    }

    /// One blocker less for every waiter after `number` that conflicts with `range`.
    fn unblock(&mut self, range: &Range, number: u64) {
        if self.waiters.is_empty() {
            return;
        }
        let mut free = Vec::new();
        for (&number, waiter) in self.waiters.range_mut(number + 1..) {
            if waiter.range.conflicts(range) {
                waiter.blockers -= 1;
                if waiter.blockers == 0 {
                    free.push(number);
                }
            }
        }
        for number in free {
            let waiter = self.waiters.remove(&number).expect("it was found there");
            // Those behind it go on counting it: granted, it blocks them as it did waiting.
            self.grant(waiter.id, waiter.range);
            self.fresh.push_back(waiter.id);
        }
    }

    /// Granted shared ranges that overlap `range`.
    fn shared_overlaps(&self, range: &Range) -> impl Iterator<Item = u64> + '_ {
        let first = (range.start.saturating_sub(self.shared_longest), LockId(0));
        let (start, stop) = (range.start, (range.end, LockId(0)));
        self.shared.range(first..stop).map(|(_, &end)| end).filter(move |&end| end > start)
    }

    /// Granted exclusive ranges that overlap `range`: from its end backward, until one ends before.
    fn exclusive_overlaps(&self, range: &Range) -> impl Iterator<Item = u64> + '_ {
        let start = range.start;
        let before_end = self.exclusive.range(0..range.end).rev().map(|(_, &end)| end);
        before_end.take_while(move |&end| end > start)
    }

    #[cfg(test)]
    fn is_granted_conflict(&self, range: &Range) -> bool {
        self.exclusive_overlaps(range).next().is_some()
            || (range.kind == Kind::Exclusive && self.shared_overlaps(range).next().is_some())
    }

    fn granted_conflicts(&self, range: &Range) -> usize {
        let exclusive = self.exclusive_overlaps(range).count();
        match range.kind {
            Kind::Exclusive => exclusive + self.shared_overlaps(range).count(),
            Kind::Shared => exclusive,
        }
    }

    fn waiting_conflicts(&self, range: &Range) -> usize {
        if self.waiters.is_empty() {
            return 0;
        }
        self.waiters.values().filter(|waiter| waiter.range.conflicts(range)).count()
    }
}

#[cfg(test)]
#[path = "interval/tests.rs"] // Named, for benches/micro.rs takes this file in.
mod tests;
