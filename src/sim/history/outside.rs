//! The same history for who sees real nodes only from outside: answers to clients, the disks of
//! nodes that stand still, and what a node says of itself. Nobody tells it what a disk holds in
//! between, so that obligations go from one node to the other only where a promise says so.
//!
//! Invariants:
//! - A node must hold what it has answered. The other one must hold it, too, where both were seen in
//!   sync afterwards, or where both have the same current UUID when the first is dead (promise 3).
//! - An obligation ends by a newer one, or where a person has chosen the victim.
//! - What was cut off is bounded by later sessions of the same node; by those of the other node once
//!   the process that served it is gone.

use std::collections::{BTreeMap, BTreeSet};

use super::register::{NEVER, Obligation};
use super::{History, Operation};

/// The only volume.
const VOLUME: u16 = 0;

/// Where a session is: the node, and which of its processes.
#[derive(Clone, Copy, Debug)]
struct Place {
    node: usize,
    life: u64,
}

/// What clients of two nodes did and saw. Sectors of 512 bytes; a value is the step of its write.
#[derive(Debug, Default)]
pub struct Book {
    history: History,
    places: BTreeMap<u64, Place>,
    lives: [u64; 2],
    /// When the process of a node and life ended.
    ends: BTreeMap<(usize, u64), u64>,
    last_session: u64,
    /// Writes that are sent more than once: they are not over before an answer.
    twice: BTreeSet<u64>,
    /// When a node's obligations were given up.
    given_up: [u64; 2],
    /// Obligations that a person has given up.
    pub victims: u64,
}

impl Book {
    /// Now: what is answered later has a higher step.
    pub fn step(&mut self) -> u64 {
        self.history.step += 1;
        self.history.step
    }

    /// A client was let in by a node.
    pub fn session_opened(&mut self, node: usize) -> u64 {
        self.last_session += 1;
        let life = self.lives[node];
        self.places.insert(self.last_session, Place { node, life });
        self.history.session_opened(self.last_session);
        self.last_session
    }

    /// A connection is gone: what of it was not answered may be done or not. `kept`: writes that
    /// the client will send again.
    pub fn session_closed(&mut self, session: u64, kept: &[Operation]) {
        let keys: Vec<_> = kept.iter().map(|op| (session, op.step)).collect();
        let held: Vec<_> =
            keys.iter().filter_map(|key| self.history.open.remove_entry(key)).collect();
        self.history.session_closed(session);
        self.history.open.extend(held);
        for op in kept {
            self.twice.insert(op.step);
            for sector in op.start..op.start + op.count {
                // That it was seen does not end it: it comes once more.
                if let Some(entry) = self.history.register(VOLUME, sector).write_mut(op.step) {
                    entry.finish = NEVER;
                }
            }
        }
    }

    /// A write that was kept is sent once more, on this session.
    pub fn sent_again(&mut self, op: &mut Operation, session: u64) {
        self.history.sent_again(op, session);
    }

    /// The process of a node has ended; the next session is with another one.
    pub fn ended(&mut self, node: usize) {
        let step = self.step();
        self.ends.insert((node, self.lives[node]), step);
        self.lives[node] += 1;
    }

    /// A write or zeroes are sent, while the requests under way look back to step `open` ([`Operation::horizon`]).
    pub fn write_starts(
        &mut self,
        session: u64,
        range: (u64, u64),
        zeroes: bool,
        open: Option<u64>,
    ) -> Operation {
        self.history.write_starts(session, VOLUME, range, zeroes, open)
    }

    /// A read is sent.
    pub fn read_starts(&mut self, session: u64, range: (u64, u64)) -> Operation {
        let on = self.places.get(&session).map_or(0, |place| place.node);
        let mut disks = [false; 2];
        disks[on] = true;
        self.history.read_starts(session, VOLUME, range, super::Rests { on, disks })
    }

    /// A flush is sent.
    pub fn flush_starts(&mut self, session: u64) -> Operation {
        self.history.flush_starts(session, VOLUME)
    }

    /// A write or zeroes were answered with an error.
    pub fn write_failed(&mut self, op: &Operation) {
        self.history.write_failed(op);
    }

    /// A write or zeroes were answered.
    pub fn write_answered(&mut self, op: &Operation) {
        let step = self.step();
        self.history.open.remove(&(op.session, op.step));
        for sector in op.start..op.start + op.count {
            if let Some(entry) = self.history.register(VOLUME, sector).write_mut(op.step) {
                entry.finish = entry.finish.min(step);
                entry.answered = true;
            }
            self.oblige(op, sector, (op.value, op.step));
        }
        self.bound(op);
    }

    /// A read was answered with these values.
    ///
    /// # Errors
    /// The sector, and why no register returns that.
    pub fn read_answered(&mut self, op: &Operation, values: &[u64]) -> Result<(), (u64, String)> {
        let step = self.step();
        for ((sector, value), floor) in (op.start..).zip(values).zip(&op.floors) {
            self.judge(sector, *value, *floor, "read")?;
            let on = self.places.get(&op.session).map_or(0, |place| place.node);
            let register = self.history.register(VOLUME, sector);
            let known = register.floor(on);
            let entry = if *value == 0 { None } else { register.write_mut(*value) };
            let Some(entry) = entry.filter(|e| e.start > known) else { continue };
            if entry.finish == NEVER && !self.twice.contains(&entry.start) {
                entry.finish = step;
            }
            let seen = (*value, entry.start);
            self.oblige(op, sector, seen);
        }
        self.bound(op);
        Ok(())
    }

    fn judge(
        &mut self,
        sector: u64,
        value: u64,
        floor: u64,
        how: &str,
    ) -> Result<(), (u64, String)> {
        let register = self.history.register(VOLUME, sector);
        if !register.was_written(value) {
            return Err((sector, format!("{how} of sector {sector}: {value} was never written")));
        }
        if !register.covers(value, floor) {
            let text = format!(
                "{how} of sector {sector}: {value} is older than {floor}, which was acknowledged \
                 or read before"
            );
            return Err((sector, text));
        }
        Ok(())
    }

    fn oblige(&mut self, op: &Operation, sector: u64, (value, start): (u64, u64)) {
        let Some(place) = self.places.get(&op.session) else { return };
        let new = obligation((value, start), self.history.step);
        self.history.oblige(place.node, VOLUME, sector, new);
    }

    /// An operation was answered: what was cut off before its session was opened, and has not been
    /// done by now, is never done.
    fn bound(&mut self, op: &Operation) {
        let Some(here) = self.places.get(&op.session).copied() else { return };
        let step = self.history.step;
        let (places, ends) = (&self.places, &self.ends);
        let registers = &mut self.history.volume(VOLUME).registers;
        for sector in op.start..op.start + op.count {
            let register = usize::try_from(sector).ok().and_then(|at| registers.get_mut(at));
            let Some(register) = register else { continue };
            register.bound_the_dead(step, |entry| {
                let Some(there) = places.get(&entry.session) else { return false };
                let same_node = there.node == here.node;
                let end = ends.get(&(there.node, there.life));
                let cut = match end {
                    _ if same_node => entry.cut,
                    Some(end) => entry.cut.max(*end),
                    None => return false,
                };
                let by_session = entry.cut_by_session || !same_node;
                let later = if by_session { op.session_opened } else { op.step };
                later > cut && entry.session <= op.session
            });
        }
    }

    /// Both disks hold what `from` must hold and had answered by step `until`.
    pub fn shared(&mut self, from: usize, until: u64) {
        let given_up = self.given_up[from];
        let places = &self.places;
        for register in &mut self.history.volume(VOLUME).registers {
            let floor = register.floor(1 - from);
            // The newest: it covers the others. What it was before a newer answer is not among the
            // obligations any more.
            let owed = register.obligations[from].iter().filter(|o| o.since <= until).copied();
            let answered = register.writes().iter().filter(|e| {
                let here = places.get(&e.session).is_some_and(|place| place.node == from);
                e.answered && here && e.finish <= until && e.finish > given_up
            });
            let answered = answered.map(|e| obligation((e.value(), e.start), e.finish));
            let newest = owed.chain(answered).max_by_key(|o| o.start);
            if let Some(newest) = newest.filter(|o| o.start > floor) {
                register.oblige(1 - from, newest);
            }
        }
    }

    /// A person gives up what a node has and the other one lacks.
    pub fn discarded(&mut self, node: usize) {
        let mut victims = 0;
        self.given_up[node] = self.step();
        for register in &mut self.history.volume(VOLUME).registers {
            let gone = std::mem::take(&mut register.obligations[node]);
            let other = &register.obligations[1 - node];
            let lone = |o: &&Obligation| other.iter().all(|there| there.start < o.start);
            victims += gone.iter().filter(lone).count() as u64;
        }
        self.victims += victims;
    }

    /// Compares the disk of a node that must hold everything that either node must hold.
    ///
    /// # Errors
    /// The first sector that does not, and why.
    pub fn disk_holds(&mut self, start: u64, values: &[u64]) -> Result<(), (u64, String)> {
        for (sector, value) in (start..).zip(values) {
            let register = self.history.register(VOLUME, sector);
            let floor = (0..2).map(|node| register.floor(node)).max().unwrap_or(0);
            self.judge(sector, *value, floor, "the disk's copy")?;
        }
        Ok(())
    }

    /// What is known of a sector, a line for each write and for each obligation.
    #[must_use]
    pub fn account(&mut self, sector: u64) -> Vec<String> {
        let register = self.history.register(VOLUME, sector).clone();
        let mut lines = Vec::new();
        for e in register.writes() {
            let node = self.places.get(&e.session).map(|place| ["alice", "bob"][place.node & 1]);
            let how = match (e.finish, e.answered) {
                (NEVER, _) => "not answered".to_owned(),
                (finish, true) => format!("acknowledged at {finish}"),
                (finish, false) => format!("done by {finish}, seen or out of time"),
            };
            let (node, session) = (node.unwrap_or("?"), e.session);
            lines.push(format!(
                "write {} began at {} on {node} (session {session}): {how}{}",
                e.value(),
                e.start,
                if e.cut == NEVER { String::new() } else { format!(", cut off at {}", e.cut) }
            ));
        }
        for (name, list) in ["alice", "bob"].iter().zip(&register.obligations) {
            for o in list {
                lines.push(format!("{name} must hold {} (since {})", o.value(), o.since));
            }
        }
        lines
    }
}

/// A node must hold a write since a step. The cache of a process that dies stays, so that nothing
/// here waits for a flush.
fn obligation((value, start): (u64, u64), step: u64) -> Obligation {
    Obligation {
        start,
        finish: step,
        since: step,
        zeroes: value == 0,
        alone: false,
        weak: false,
        flushed: true,
        spoiled: false,
    }
}

#[cfg(test)]
mod tests {
    use super::Book;

    const ALICE: usize = 0;
    const BOB: usize = 1;

    /// A write of sector 5 that was answered.
    fn write(book: &mut Book, session: u64) -> u64 {
        let op = book.write_starts(session, (5, 1), false, None);
        book.write_answered(&op);
        op.value
    }

    fn read(book: &mut Book, session: u64, value: u64) -> bool {
        let op = book.read_starts(session, (5, 1));
        book.read_answered(&op, &[value]).is_ok()
    }

    #[test]
    fn the_other_node_must_hold_only_what_both_were_seen_with() {
        let mut book = Book::default();
        let alice = book.session_opened(ALICE);
        let first = write(&mut book, alice);
        let seen = book.step();
        let second = write(&mut book, alice);
        book.shared(ALICE, seen);
        let bob = book.session_opened(BOB);
        assert!(!read(&mut book, bob, 0), "the first is on both disks");
        assert!(read(&mut book, bob, first), "of the second nobody knows");
        assert!(read(&mut book, bob, second));
        assert!(!read(&mut book, bob, first), "bob has shown the second");
        assert!(!read(&mut book, alice, first), "alice has answered the second");
    }

    #[test]
    fn a_write_that_was_cut_off_comes_late_on_its_own_node_only_until_a_later_session() {
        let mut book = Book::default();
        let old = book.session_opened(ALICE);
        let late = book.write_starts(old, (5, 1), false, None);
        book.session_closed(old, &[]);
        let bob = book.session_opened(BOB);
        write(&mut book, bob);
        let alice = book.session_opened(ALICE);
        assert!(read(&mut book, alice, late.value), "what bob did says nothing of alice");
        let mut book = Book::default();
        let old = book.session_opened(ALICE);
        let late = book.write_starts(old, (5, 1), false, None);
        book.session_closed(old, &[]);
        book.ended(ALICE);
        let bob = book.session_opened(BOB);
        write(&mut book, bob);
        write(&mut book, bob);
        assert!(!read(&mut book, bob, late.value), "alice's process is gone");
    }

    #[test]
    fn a_write_that_is_sent_again_is_one_write() {
        let mut book = Book::default();
        let old = book.session_opened(ALICE);
        let mut op = book.write_starts(old, (5, 1), false, None);
        book.session_closed(old, &[op.clone()]);
        book.ended(ALICE);
        let bob = book.session_opened(BOB);
        let newer = write(&mut book, bob);
        book.sent_again(&mut op, bob);
        assert!(read(&mut book, bob, op.value), "it may have been done before");
        let newer = newer.max(write(&mut book, bob));
        assert!(read(&mut book, bob, newer));
        book.write_answered(&op);
        assert!(read(&mut book, bob, op.value), "the two overlapped");
    }

    #[test]
    fn a_victim_owes_nothing_and_is_counted() {
        let mut book = Book::default();
        let alice = book.session_opened(ALICE);
        let value = write(&mut book, alice);
        assert!(book.disk_holds(5, &[0]).is_err());
        assert!(book.disk_holds(5, &[value]).is_ok());
        book.discarded(ALICE);
        assert_eq!(book.victims, 1);
        assert!(book.disk_holds(5, &[0]).is_ok());
        assert!(!book.account(5).is_empty());
    }
}
