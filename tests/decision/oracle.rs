//! The rules of docs/GENERATIONS.md, once more and on small numbers.

use tandem::resource::generation::Strategy;
use tandem::resource::{DiskState, Reason};

use crate::small::Small;

/// What the oracle answers, from node 0's side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    NoSync,
    Source(bool),
    Target(bool),
    SplitBrain { auto: bool, full: bool },
    Refuse(Reason),
}
use Answer::{NoSync, Refuse, Source, SplitBrain, Target};

/// The rules Dj and D0 to D8, on small numbers. `tie`: node 0 holds the tie bit.
pub(crate) fn oracle(a: &Small, b: &Small, tie: bool) -> Answer {
    let inconsistent = |s: &Small| s.disk == DiskState::Inconsistent;
    let given_up = |s: &Small| inconsistent(s) && s.invalidated;
    match (a.current, b.current) {
        (0, 0) => return NoSync,
        (0, _) => return Target(true),
        (_, 0) => return Source(true),
        _ => {}
    }
    let back = |s: &Small| !s.replaced && s.number.is_some_and(|n| n < 5);
    match (back(a), back(b)) {
        (true, other) if given_up(a) && !(other && given_up(b)) => return Target(true),
        (other, true) if given_up(b) && !(other && given_up(a)) => return Source(true),
        (false, false) => {}
        _ => return Refuse(Reason::RolledBack),
    }
    let full = a.replaced || b.replaced;
    if a.current != b.current {
        return different(a, b, full);
    }
    let repair =
        |s: &Small| inconsistent(s) && s.bits != 0 && s.marks == 2 && !s.primary && !s.replaced;
    if repair(a) && repair(b) {
        return NoSync;
    }
    if inconsistent(a) && inconsistent(b) {
        return Refuse(Reason::ResyncRefused);
    }
    if [a, b].iter().any(|s| s.replaced && !inconsistent(s)) {
        return Refuse(Reason::RolledBack);
    }
    if inconsistent(a) || inconsistent(b) {
        return if inconsistent(a) { Target(full) } else { Source(full) };
    }
    let outdated = |s: &Small| s.disk == DiskState::Outdated;
    let survivor = |s: &Small, other: &Small| s.survived && !other.survived;
    match (outdated(a), outdated(b)) {
        (true, true) => return Refuse(Reason::ResyncRefused),
        (true, _) if survivor(a, b) => return Refuse(Reason::ResyncRefused),
        (_, true) if survivor(b, a) => return Refuse(Reason::ResyncRefused),
        (true, _) => return Target(full),
        (_, true) => return Source(full),
        _ => {}
    }
    let by = |a_is_source: bool| if a_is_source { Source(full) } else { Target(full) };
    let loss = |s: &Small| s.bits != 0 && s.marks != 2;
    let marks = |s: &Small| s.bits != 0 && s.marks != 0;
    if a.bits == 0 && b.bits == 0 || !(loss(a) || loss(b) || a.primary || b.primary) {
        NoSync
    } else if a.survived != b.survived {
        by(a.survived)
    } else if a.primary && b.primary {
        SplitBrain { auto: false, full }
    } else if a.primary != b.primary {
        by(a.primary)
    } else if !a.survived && a.crashed != b.crashed {
        by(a.crashed)
    } else if loss(a) != loss(b) {
        by(loss(a))
    } else if marks(a) || marks(b) {
        Refuse(Reason::ResyncRefused)
    } else {
        by(tie)
    }
}

fn different(a: &Small, b: &Small, full: bool) -> Answer {
    let knows = |s: &Small, n: u8| s.history & 1 << n != 0;
    let past = |s: &Small| (s.history | 1 << s.bitmap) & !1;
    match (a.bitmap == b.current, b.bitmap == a.current) {
        (true, true) => return SplitBrain { auto: false, full: true },
        (true, false) => return Source(full),
        (false, true) => return Target(full),
        _ => {}
    }
    if a.bitmap == b.bitmap && a.bitmap != 0 {
        return SplitBrain { auto: true, full };
    }
    match (knows(a, b.current), knows(b, a.current)) {
        (true, false) => Source(true),
        (false, true) => Target(true),
        (true, true) => SplitBrain { auto: false, full: true },
        _ if past(a) & past(b) != 0 => SplitBrain { auto: false, full: true },
        _ => Refuse(Reason::UnrelatedData),
    }
}

pub(crate) fn answer(strategy: Strategy) -> Answer {
    match strategy {
        Strategy::NoSync => NoSync,
        Strategy::Diskless => panic!("both have disks"),
        Strategy::SourceUseBitmap => Source(false),
        Strategy::SourceSetBitmap => Source(true),
        Strategy::TargetUseBitmap => Target(false),
        Strategy::TargetSetBitmap => Target(true),
        Strategy::SplitBrain { auto, full } => SplitBrain { auto, full },
        Strategy::Refuse { reason } => Refuse(reason),
    }
}
