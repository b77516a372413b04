//! Ranges against a naive model.

use proptest::prelude::*;

use super::Kind::{Exclusive, Shared};
use super::*;

fn id(n: u64) -> LockId {
    LockId(n)
}

fn granted_now(intervals: &mut Intervals) -> Vec<u64> {
    std::iter::from_fn(|| intervals.next_granted()).map(|id| id.0).collect()
}

#[test]
fn ranges_that_only_touch_do_not_wait() {
    let mut intervals = Intervals::new();
    assert!(intervals.acquire(id(1), 0, 4096, Exclusive));
    assert!(intervals.acquire(id(2), 4096, 8192, Exclusive));
    assert!(intervals.acquire(id(3), 8192, 8193, Shared));
    assert_eq!((intervals.granted(), intervals.waiting()), (3, 0));
    assert!(intervals.overlaps(8192, 9000) && intervals.overlaps(0, u64::MAX));
    assert!(!intervals.overlaps(8193, 9000) && !intervals.overlaps(5, 5));
}

#[test]
fn overlapping_writes_are_granted_in_the_order_of_arrival() {
    let mut intervals = Intervals::new();
    assert!(intervals.acquire(id(1), 0, 100, Exclusive));
    assert!(!intervals.acquire(id(2), 50, 150, Exclusive));
    assert!(!intervals.acquire(id(3), 60, 70, Exclusive));
    // Free of what is granted, but not of what waits.
    assert!(!intervals.acquire(id(4), 140, 200, Exclusive));
    assert!(!intervals.try_acquire(id(5), 120, 130, Shared));
    intervals.release(id(1));
    assert_eq!(granted_now(&mut intervals), [2]);
    intervals.release(id(2));
    assert_eq!(granted_now(&mut intervals), [3, 4]);
    intervals.release(id(3));
    intervals.release(id(4));
    assert!(intervals.is_empty());
}

#[test]
fn reads_share_and_a_write_between_them_is_not_overtaken() {
    let mut intervals = Intervals::new();
    assert!(intervals.acquire(id(1), 0, 100, Shared));
    assert!(intervals.acquire(id(2), 0, 100, Shared));
    assert!(!intervals.acquire(id(3), 10, 20, Exclusive));
    assert!(!intervals.acquire(id(4), 0, 100, Shared));
    assert!(intervals.acquire(id(5), 30, 40, Shared));
    intervals.release(id(1));
    assert_eq!(granted_now(&mut intervals), [] as [u64; 0]);
    intervals.release(id(2));
    assert_eq!(granted_now(&mut intervals), [3]);
    intervals.release(id(3));
    assert_eq!(granted_now(&mut intervals), [4]);
}

#[test]
fn a_long_read_is_found_behind_many_short_ones() {
    let mut intervals = Intervals::new();
    assert!(intervals.acquire(id(1), 0, SHARED_MAX, Shared));
    for n in 2..50 {
        assert!(intervals.acquire(id(n), n * 4096, (n + 1) * 4096, Shared));
    }
    assert!(!intervals.try_acquire(id(99), SHARED_MAX - 1, SHARED_MAX, Exclusive));
    intervals.release(id(1));
    assert!(intervals.try_acquire(id(99), SHARED_MAX - 1, SHARED_MAX, Exclusive));
}

#[test]
fn taking_back_a_waiter_frees_those_behind_it() {
    let mut intervals = Intervals::new();
    assert!(intervals.acquire(id(1), 0, 10, Exclusive));
    assert!(!intervals.acquire(id(2), 0, 100, Exclusive));
    assert!(!intervals.acquire(id(3), 50, 60, Exclusive));
    assert!(!intervals.acquire(id(4), 5, 6, Exclusive));
    assert!(intervals.cancel(id(2)));
    assert_eq!(granted_now(&mut intervals), [3]);
    assert!(!intervals.cancel(id(2)) && !intervals.cancel(id(1)) && !intervals.cancel(id(3)));
    intervals.release(id(1));
    assert_eq!(granted_now(&mut intervals), [4]);
}

#[test]
fn a_grant_that_is_released_before_it_was_told_is_not_told() {
    let mut intervals = Intervals::new();
    assert!(intervals.acquire(id(1), 0, 10, Exclusive));
    assert!(!intervals.acquire(id(2), 0, 5, Exclusive));
    assert!(!intervals.acquire(id(3), 5, 10, Exclusive));
    intervals.release(id(1));
    intervals.release(id(2));
    assert_eq!(granted_now(&mut intervals), [3]);
    intervals.release(id(3));
    assert!(intervals.is_empty() && intervals.next_granted().is_none());
}

#[test]
fn the_end_of_the_address_space_is_a_range_too() {
    let mut intervals = Intervals::new();
    assert!(intervals.acquire(id(1), u64::MAX - 1, u64::MAX, Shared));
    assert!(!intervals.acquire(id(2), u64::MAX - EXCLUSIVE_MAX, u64::MAX, Exclusive));
}

#[test]
#[should_panic(expected = "is longer than")]
fn a_read_of_more_than_a_payload_is_a_bug() {
    Intervals::new().acquire(id(1), 0, SHARED_MAX + 1, Shared);
}

#[test]
#[should_panic(expected = "is in use")]
fn an_id_is_not_used_twice() {
    let mut intervals = Intervals::new();
    intervals.acquire(id(1), 0, 10, Exclusive);
    intervals.acquire(id(2), 0, 10, Exclusive);
    intervals.acquire(id(2), 100, 110, Exclusive);
}

#[test]
#[should_panic(expected = "not granted")]
fn releasing_a_waiter_is_a_bug() {
    let mut intervals = Intervals::new();
    intervals.acquire(id(1), 0, 10, Exclusive);
    intervals.acquire(id(2), 0, 10, Exclusive);
    intervals.release(id(2));
}

/// Every request that is not finished, in the order of arrival.
#[derive(Default)]
struct Model {
    requests: Vec<(LockId, Range, bool)>,
}

impl Model {
    fn is_free(&self, before: usize, range: &Range) -> bool {
        let granted = self.requests.iter().filter(|request| request.2);
        let earlier = self.requests[..before].iter();
        !granted.chain(earlier).any(|(_, other, _)| other.conflicts(range))
    }

    fn acquire(&mut self, id: LockId, range: Range) -> bool {
        let free = self.is_free(self.requests.len(), &range);
        self.requests.push((id, range, free));
        free
    }

    /// Grants whatever is free, in order, and names it.
    fn settle(&mut self) -> Vec<LockId> {
        let mut fresh = Vec::new();
        for at in 0..self.requests.len() {
            let (id, range, granted) = self.requests[at];
            if !granted && self.is_free(at, &range) {
                self.requests[at].2 = true;
                fresh.push(id);
            }
        }
        fresh
    }

    fn nth(&self, granted: bool, n: usize) -> Option<LockId> {
        let of_kind: Vec<_> = self.requests.iter().filter(|request| request.2 == granted).collect();
        (!of_kind.is_empty()).then(|| of_kind[n % of_kind.len()].0)
    }

    fn remove(&mut self, id: LockId) {
        self.requests.retain(|request| request.0 != id);
    }

    fn check(&self) {
        let granted: Vec<_> = self.requests.iter().filter(|request| request.2).collect();
        for (at, one) in granted.iter().enumerate() {
            assert!(!granted[at + 1..].iter().any(|other| other.1.conflicts(&one.1)));
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Acquire(u64, u64, bool, bool),
    Release(usize),
    Cancel(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let length = prop_oneof![6 => 1..40_u64, 1 => 1..900_u64, 1 => Just(SHARED_MAX)];
    prop_oneof![
        8 => (0..1000_u64, length, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(start, length, shared, attempt)| Op::Acquire(start, length, shared, attempt)),
        5 => (0..64_usize).prop_map(Op::Release),
        1 => (0..64_usize).prop_map(Op::Cancel),
    ]
}

fn apply(intervals: &mut Intervals, model: &mut Model, next_id: &mut u64, op: &Op) {
    match *op {
        Op::Acquire(start, length, shared, attempt) => {
            let kind = if shared { Shared } else { Exclusive };
            let range = Range::new(start, start + length, kind);
            *next_id += 1;
            let id = id(*next_id);
            if !attempt {
                let granted = intervals.acquire(id, range.start, range.end, kind);
                assert_eq!(granted, model.acquire(id, range));
            } else if model.is_free(model.requests.len(), &range) {
                assert!(intervals.try_acquire(id, range.start, range.end, kind));
                model.acquire(id, range);
            } else {
                assert!(!intervals.try_acquire(id, range.start, range.end, kind));
            }
        }
        Op::Release(n) => {
            if let Some(id) = model.nth(true, n) {
                intervals.release(id);
                model.remove(id);
            }
        }
        Op::Cancel(n) => {
            if let Some(id) = model.nth(false, n) {
                assert!(intervals.cancel(id));
                model.remove(id);
            }
        }
    }
    let told: Vec<_> = std::iter::from_fn(|| intervals.next_granted()).collect();
    assert_eq!(told, model.settle());
    model.check();
    let granted = model.requests.iter().filter(|request| request.2).count();
    assert_eq!(intervals.granted(), granted);
    assert_eq!(intervals.waiting(), model.requests.len() - granted);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn it_agrees_with_a_plain_queue_and_everything_is_granted_in_the_end(
        ops in prop::collection::vec(op(), 1..120),
        (start, length) in (0..1100_u64, 0..300_u64),
    ) {
        let (mut intervals, mut model, mut next_id) = (Intervals::new(), Model::default(), 0);
        for op in &ops {
            apply(&mut intervals, &mut model, &mut next_id, op);
        }
        let hit = |range: &Range| range.start < start + length && start < range.end;
        let expected = length > 0 && model.requests.iter().any(|(_, range, got)| *got && hit(range));
        prop_assert_eq!(intervals.overlaps(start, start + length), expected);
        // Nobody starves: releasing whatever is granted, one after the other, empties it.
        while !model.requests.is_empty() {
            prop_assert!(model.nth(true, 0).is_some(), "all wait: {:?}", intervals);
            apply(&mut intervals, &mut model, &mut next_id, &Op::Release(0));
        }
        prop_assert!(intervals.is_empty());
        prop_assert!(intervals.exclusive.is_empty() && intervals.shared.is_empty());
        prop_assert_eq!(intervals.shared_longest, 0);
    }
}
