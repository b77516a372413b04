//! What a client wrote and was told, in time, and what each disk must hold after a power loss.
//!
//! Every sector of 512 bytes is a register: its writes are one after the other. A disk that must
//! hold a write holds it, or one that came later and was sent before the power went.
//!
//! Which disk must hold a write *durably* follows from answers alone, by these rules:
//!
//! - A durable write, and a flush that covers a write answered before it was sent: the disk of the
//!   node that answered; and the other one too, if both were in sync and connected all the time
//!   (`together`).
//! - From the instant at which both are in sync again: both disks, if one of them had to.
//! - Not any longer, once a person has chosen the node's line as the victim (`void`).
//!
//! And what a node that may be promoted alone must hold is more: everything that was answered while
//! both were together, flushed or not, for it has flushed before it says that it survived.
//!
//! Invariants:
//! - Nothing here knows how Tandem works.
//! - What is not known for sure (the instants around a cut) obliges nobody.

use std::collections::BTreeMap;

use crate::common::Outcome;

/// Bytes of a register.
pub(crate) const SECTOR: usize = 512;

/// A write or zeroes.
#[derive(Clone, Debug)]
struct Write {
    first: u64,
    count: u64,
    zeroes: bool,
    fua: bool,
    node: usize,
    sent: u64,
    acked: Option<u64>,
    /// From then on it counts no more.
    void: Option<u64>,
    /// The node must hold it durably from then on.
    durable: [Option<u64>; 2],
}

#[derive(Clone, Debug)]
struct Flush {
    node: usize,
    sent: u64,
    acked: u64,
}

/// An instant: all that was answered before `from` was answered then, and nothing that was sent
/// after `to` had been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instant {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// What is asked of contents.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Duty {
    /// What this node's disk must hold durably.
    Disk(usize),
    /// What a pair that is in sync must hold.
    Pair,
    /// What a node must hold that is promoted without its peer and without force.
    Survivor,
    /// Everything that was answered.
    Answered,
}

/// The book of a recording.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    writes: Vec<Write>,
    flushes: Vec<Flush>,
    together: Vec<(u64, u64)>,
    /// There may be two lines of writes: a refusal is right.
    split: Vec<(u64, u64)>,
    sectors: BTreeMap<u64, Vec<usize>>,
}

/// What a sector holds after write number `stamp` (from 1).
fn content(sector: u64, stamp: u64) -> Vec<u8> {
    let mut line = sector.to_be_bytes().to_vec();
    line.extend_from_slice(&stamp.to_be_bytes());
    line.repeat(SECTOR / 16)
}

/// What a disk holds, sector by sector from this one on, where it was made longer and an earlier use
/// has left something.
pub(crate) fn stale(node: usize, first: u64, count: u64) -> Vec<u8> {
    let sectors = first..first + count;
    sectors.flat_map(|sector| content(sector, u64::MAX - node as u64)).collect()
}

impl Book {
    /// A write begins; its number, and what it writes.
    pub(crate) fn sends(
        &mut self,
        node: usize,
        (first, count): (u64, u64),
        (zeroes, fua): (bool, bool),
        at: u64,
    ) -> (usize, Vec<u8>) {
        let index = self.writes.len();
        for sector in first..first + count {
            self.sectors.entry(sector).or_default().push(index);
        }
        let (acked, void, durable) = (None, None, [None; 2]);
        let write = Write { first, count, zeroes, fua, node, sent: at, acked, void, durable };
        self.writes.push(write);
        if zeroes {
            return (index, Vec::new());
        }
        let stamp = index as u64 + 1;
        (index, (first..first + count).flat_map(|sector| content(sector, stamp)).collect())
    }

    /// It was answered.
    pub(crate) fn answered(&mut self, index: usize, at: u64) {
        self.writes[index].acked = Some(at);
    }

    /// A flush was answered.
    pub(crate) fn flushed(&mut self, node: usize, sent: u64, acked: u64) {
        self.flushes.push(Flush { node, sent, acked });
    }

    /// Both were connected and in sync all this time.
    pub(crate) fn together(&mut self, from: u64, to: u64) {
        self.together.push((from, to));
    }

    /// Both may have gone on by themselves.
    pub(crate) fn split(&mut self, from: u64, to: u64) {
        self.split.push((from, to));
    }

    /// The writes of this node that were sent in this time count no more from its end on.
    pub(crate) fn void(&mut self, node: usize, from: u64, to: u64) {
        for write in &mut self.writes {
            if write.node == node && (from..to).contains(&write.sent) {
                write.void = Some(to);
            }
        }
    }

    /// Writes that were answered.
    pub(crate) fn acknowledged(&self) -> usize {
        self.writes.iter().filter(|write| write.acked.is_some()).count()
    }

    /// Works out who must hold what, when all has been written down.
    pub(crate) fn close(&mut self) {
        let inside = |at: u64| self.together.iter().any(|(from, to)| (*from..*to).contains(&at));
        for write in &mut self.writes {
            let Some(acked) = write.acked else { continue };
            let mut proofs = Vec::new();
            if write.fua {
                proofs.push((acked, write.node));
            }
            for flush in self.flushes.iter().filter(|flush| flush.sent > acked) {
                // Of the other node: only what it had from both being together before.
                let has = flush.node == write.node
                    || inside(acked)
                    || self.together.iter().any(|(from, _)| acked < *from && *from < flush.sent);
                if has {
                    proofs.push((flush.acked, flush.node));
                }
            }
            for (proof, node) in proofs {
                let nodes = if inside(proof) { vec![0, 1] } else { vec![node] };
                for node in nodes {
                    let known = write.durable[node].unwrap_or(u64::MAX);
                    write.durable[node] = Some(known.min(proof));
                }
            }
            for (from, _) in &self.together {
                if write.durable.iter().flatten().any(|at| at <= from) {
                    for known in &mut write.durable {
                        *known = Some(known.unwrap_or(u64::MAX).min(*from));
                    }
                }
            }
        }
    }

    /// Whether both may have gone on by themselves.
    pub(crate) fn is_split(&self, cut: Instant) -> bool {
        self.split.iter().any(|(from, to)| *from < cut.to && cut.from < *to)
    }

    /// When the nodes lost each other.
    pub(crate) fn ends(&self) -> impl Iterator<Item = u64> {
        self.together.iter().map(|(_, to)| *to)
    }

    fn owed(&self, write: &Write, duty: Duty, cut: Instant) -> bool {
        if write.void.is_some_and(|at| at < cut.to) {
            return false;
        }
        let passed = |at: Option<u64>| at.is_some_and(|at| at < cut.from);
        match duty {
            Duty::Disk(node) => passed(write.durable[node]),
            Duty::Pair => write.durable.iter().any(|at| passed(*at)),
            Duty::Answered => passed(write.acked),
            Duty::Survivor => {
                passed(write.acked)
                    && write.acked.is_some_and(|acked| {
                        let was = |(from, to): &(u64, u64)| acked < *to && *from < cut.from;
                        self.together.iter().any(was)
                    })
            }
        }
    }

    /// Holds the contents of sectors to what is owed at this instant.
    ///
    /// # Errors
    /// A sector is older than a write that it must hold, torn inside, or was never written.
    pub(crate) fn check(
        &self,
        first: u64,
        bytes: &[u8],
        (duty, cut): (Duty, Instant),
    ) -> Outcome<u64> {
        let mut owed = 0;
        for (sector, bytes) in (first..).zip(bytes.chunks(SECTOR)) {
            let Some(list) = self.sectors.get(&sector) else { continue };
            let must = list.iter().rposition(|at| self.owed(&self.writes[*at], duty, cut));
            owed += u64::from(must.is_some());
            let fits = |index: usize| {
                let write = &self.writes[index];
                if write.sent >= cut.to {
                    return false;
                }
                if write.zeroes {
                    return bytes.iter().all(|byte| *byte == 0);
                }
                content(sector, index as u64 + 1) == bytes
            };
            let left = |node: usize| content(sector, u64::MAX - node as u64) == bytes;
            let unused = bytes.iter().all(|byte| *byte == 0) || left(0) || left(1);
            let blank = must.is_none() && unused;
            if blank || list[must.unwrap_or(0)..].iter().any(|index| fits(*index)) {
                continue;
            }
            return Err(self.wrong(sector, bytes, must.map(|at| list[at]), (duty, cut)));
        }
        Ok(owed)
    }

    fn wrong(
        &self,
        sector: u64,
        bytes: &[u8],
        must: Option<usize>,
        (duty, cut): (Duty, Instant),
    ) -> String {
        let stamp = bytes.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        let held = stamp.and_then(|stamp| usize::try_from(stamp).ok()?.checked_sub(1));
        let one = |index: usize| {
            let Some(w) = self.writes.get(index) else { return "nothing known".to_owned() };
            format!(
                "write {} (node {}, {}{} sectors from {}, sent {}, answered {:?}, durable {:?}, \
                 void {:?})",
                index + 1,
                w.node,
                w.count,
                if w.zeroes { " zeroed" } else { "" },
                w.first,
                w.sent,
                w.acked,
                w.durable,
                w.void
            )
        };
        format!(
            "sector {sector} must hold {} or a later one ({duty:?} at {cut:?}), but holds {}",
            must.map_or("nothing".to_owned(), one),
            held.map_or("zeroes".to_owned(), one),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: (bool, bool) = (false, false);

    fn at(from: u64, to: u64) -> Instant {
        Instant { from, to }
    }

    #[test]
    fn a_flush_obliges_both_only_while_they_are_together() {
        let mut book = Book::default();
        let (one, bytes) = book.sends(0, (8, 1), WAY, 10);
        book.answered(one, 11);
        book.flushed(0, 12, 14);
        let (two, later) = book.sends(0, (8, 1), WAY, 30);
        book.answered(two, 31);
        book.flushed(0, 32, 34);
        book.together(5, 20);
        book.together(50, 60);
        book.close();
        let check = |bytes: &[u8], node, cut| book.check(8, bytes, (Duty::Disk(node), cut)).is_ok();
        assert!(check(&[0; 512], 1, at(13, 13)), "nobody had flushed");
        assert!(!check(&[0; 512], 1, at(15, 15)));
        assert!(check(&bytes, 1, at(40, 40)) && !check(&bytes, 0, at(40, 40)), "alone");
        assert!(check(&later, 1, at(40, 40)));
        assert!(!check(&later, 1, at(20, 30)), "it was not sent yet");
        assert!(!check(&bytes, 1, at(51, 51)), "in sync again");
        let mut torn = bytes.clone();
        torn[500] ^= 1;
        assert!(!check(&torn, 1, at(15, 15)));
    }

    #[test]
    fn a_survivor_holds_what_was_answered_together_and_a_victim_owes_nothing() {
        let mut book = Book::default();
        let (one, _) = book.sends(0, (8, 1), WAY, 10);
        book.answered(one, 11);
        let (two, _) = book.sends(1, (9, 1), (false, true), 30);
        book.answered(two, 31);
        book.together(5, 20);
        book.void(1, 25, 40);
        book.close();
        let zeroes = [0; 512];
        assert!(book.check(8, &zeroes, (Duty::Survivor, at(15, 15))).is_err());
        assert!(book.check(8, &zeroes, (Duty::Pair, at(15, 15))).is_ok(), "unflushed");
        assert!(book.check(9, &zeroes, (Duty::Disk(1), at(35, 35))).is_err());
        assert!(book.check(9, &zeroes, (Duty::Disk(1), at(41, 41))).is_ok());
    }
}
