//! What clients did and saw, and what follows from it for the disks.
//!
//! Every sector is a register. Order is by *steps*: a counter that grows with each thing that a
//! client or a disk sees. A write is known to have ended (`finish`) when it was answered, or when a
//! read returned it, or when it can no longer start. A value *covers* a write if the write that made
//! the value did not end before the other one started.
//!
//! An *obligation* of a node says: this disk holds this write, or one that covers it. Obligations
//! come from answers, go over to a resync's target when the resync ends, and end only as model.md
//! section 1 allows:
//!
//! - (a) unflushed, answered alone or while the peer was a SyncTarget, and its cache died;
//! - (b) unflushed, and both nodes lost their caches before the flush that follows a loss;
//! - (c) on a victim that a person or a policy chose;
//! - (d) on a node that was forced.
//!
//! Invariants:
//! - Nothing here knows how the core works: it sees answers, disk contents and states.

use std::collections::BTreeMap;

use crate::resource::VolumeNumber;

use super::disk::{Sector, SimDisk};
use super::pool::Origin;

/// A write that has not ended.
const NEVER: u64 = u64::MAX;

/// Where an answer rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rests {
    /// The node that answered.
    pub on: usize,
    /// Nodes whose disk is usable and has it.
    pub disks: [bool; 2],
}

impl Rests {
    fn alone(self) -> bool {
        self.disks != [true, true]
    }
}

/// Why a target's obligations may be overwritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Excuse {
    /// A person or a policy chose this victim, or a person invalidated it.
    pub chosen: bool,
    /// A force was used in this run since both were last in sync.
    pub forced: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    value: Sector,
    start: u64,
    finish: u64,
    answered: bool,
    /// From when on it is known that it was cut off: its client is gone, or it was answered with an
    /// error. The flag: a later session is needed to know that it does not start any more.
    cut: Option<(u64, bool)>,
    session: u64,
}

#[derive(Clone, Copy, Debug)]
struct Obligation {
    value: Sector,
    start: u64,
    finish: u64,
    /// When it was answered or seen.
    since: u64,
    /// The other disk is not known to have it.
    alone: bool,
    /// It has survived a power loss unflushed, by luck.
    weak: bool,
    /// A flush that covers it was answered.
    flushed: bool,
}

#[derive(Clone, Debug, Default)]
struct Register {
    entries: Vec<Entry>,
    obligations: [Vec<Obligation>; 2],
}

impl Register {
    fn covers(&self, value: Sector, start: u64) -> bool {
        start == 0 || self.entries.iter().any(|e| e.value == value && e.finish >= start)
    }

    fn oblige(&mut self, node: usize, new: Obligation) {
        let list = &mut self.obligations[node];
        list.retain(|old| {
            let weaker = (new.flushed || !old.flushed)
                && (!new.alone || old.alone)
                && (!new.weak || old.weak);
            !(weaker
                && (old.finish < new.start || old.value == new.value && old.start == new.start))
        });
        list.push(new);
    }

    /// The latest start that a read beginning now must cover.
    fn floor(&self, node: usize) -> u64 {
        self.obligations[node].iter().map(|o| o.start).max().unwrap_or(0)
    }
}

/// A client's operation under way.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    /// Its volume.
    pub volume: VolumeNumber,
    /// First sector.
    pub start: u64,
    /// Sectors; 0 for a flush.
    pub count: u64,
    /// What a write writes.
    pub value: Sector,
    step: u64,
    session: u64,
    session_opened: u64,
    floors: Vec<u64>,
}

/// Counts of what was excused, for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Excused {
    /// (a) lone and unflushed.
    pub lone: u64,
    /// (b) both caches lost.
    pub both: u64,
    /// (c) on a victim.
    pub victim: u64,
    /// (d) forced.
    pub forced: u64,
}

/// The history of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    step: u64,
    next_value: Sector,
    registers: BTreeMap<(VolumeNumber, u64), Register>,
    sessions: BTreeMap<u64, u64>,
    /// When each node last lost power.
    lost_power: [u64; 2],
    /// What was excused.
    pub excused: Excused,
}

impl History {
    /// A session was opened.
    pub(super) fn session_opened(&mut self, session: u64) {
        self.step += 1;
        self.sessions.insert(session, self.step);
    }

    /// A session ended: what of it was not answered may be done or not.
    pub(super) fn session_closed(&mut self, session: u64) {
        self.step += 1;
        self.sessions.remove(&session);
        let step = self.step;
        for register in self.registers.values_mut() {
            for entry in &mut register.entries {
                if entry.session == session && entry.finish == NEVER && entry.cut.is_none() {
                    entry.cut = Some((step, true));
                }
            }
        }
    }

    /// A client sends a write or zeroes. The operation says what to write.
    pub(super) fn write_starts(
        &mut self,
        session: u64,
        volume: VolumeNumber,
        range: (u64, u64),
        zeroes: bool,
    ) -> Operation {
        self.step += 1;
        self.next_value += u64::from(!zeroes);
        let value = if zeroes { 0 } else { self.next_value };
        let entry =
            Entry { value, start: self.step, finish: NEVER, answered: false, cut: None, session };
        for sector in range.0..range.0 + range.1 {
            self.registers.entry((volume, sector)).or_default().entries.push(entry);
        }
        self.operation(session, volume, range, value, Vec::new())
    }

    /// A client sends a read to a node; the data that it may return is that of these disks.
    pub(super) fn read_starts(
        &mut self,
        session: u64,
        volume: VolumeNumber,
        range: (u64, u64),
        rests: Rests,
    ) -> Operation {
        self.step += 1;
        let node = if rests.disks[rests.on] { rests.on } else { 1 - rests.on };
        let floors = (range.0..range.0 + range.1)
            .map(|sector| self.registers.get(&(volume, sector)).map_or(0, |r| r.floor(node)))
            .collect();
        self.operation(session, volume, range, 0, floors)
    }

    /// A client sends a flush.
    pub(super) fn flush_starts(&mut self, session: u64, volume: VolumeNumber) -> Operation {
        self.step += 1;
        self.operation(session, volume, (0, 0), 0, Vec::new())
    }

    fn operation(
        &self,
        session: u64,
        volume: VolumeNumber,
        (start, count): (u64, u64),
        value: Sector,
        floors: Vec<u64>,
    ) -> Operation {
        let session_opened = self.sessions.get(&session).copied().unwrap_or(self.step);
        Operation { volume, start, count, value, step: self.step, session, session_opened, floors }
    }

    /// An operation of this session was answered: what a dead session left on the same sectors and
    /// has not done by now, it never does.
    fn bound_the_dead(&mut self, op: &Operation) {
        let step = self.step;
        for sector in op.start..op.start + op.count {
            let Some(register) = self.registers.get_mut(&(op.volume, sector)) else { continue };
            for entry in register.entries.iter_mut().filter(|e| e.finish == NEVER) {
                if let Some((cut, by_session)) = entry.cut {
                    let later = if by_session { op.session_opened } else { op.step };
                    if later > cut && entry.session <= op.session {
                        entry.finish = step;
                    }
                }
            }
        }
    }

    /// A write or zeroes was answered with an error.
    pub(super) fn write_failed(&mut self, op: &Operation) {
        self.step += 1;
        let step = self.step;
        for sector in op.start..op.start + op.count {
            let register = self.registers.entry((op.volume, sector)).or_default();
            for entry in register.entries.iter_mut().filter(|e| e.start == op.step) {
                entry.cut = entry.cut.or(Some((step, false)));
            }
        }
    }

    /// A write or zeroes was answered.
    ///
    /// # Errors
    /// A disk that the answer rests on does not have it, or not durably though it was FUA.
    pub(super) fn write_answered(
        &mut self,
        op: &Operation,
        rests: Rests,
        fua: bool,
        disks: [&SimDisk; 2],
    ) -> Result<(), String> {
        self.step += 1;
        let step = self.step;
        for sector in op.start..op.start + op.count {
            let register = self.registers.entry((op.volume, sector)).or_default();
            for entry in register.entries.iter_mut().filter(|e| e.start == op.step) {
                entry.finish = entry.finish.min(step);
                entry.answered = true;
            }
            for node in (0..2).filter(|n| rests.disks[*n]) {
                let held = disks[node].read(sector, 1)[0];
                let lost = self.lost_power[node] > op.step;
                if !register.covers(held, op.step) {
                    if lost && node != rests.on {
                        continue;
                    }
                    return Err(format!(
                        "acknowledged write {} of sector {sector} is not on disk of node {node}: {held}",
                        op.value
                    ));
                }
                let durable = disks[node].possible(sector);
                if fua && !durable.iter().all(|v| register.covers(*v, op.step)) {
                    return Err(format!(
                        "FUA write {} of sector {sector} is not durable on node {node}: {durable:?}",
                        op.value
                    ));
                }
                register.oblige(
                    node,
                    Obligation {
                        value: op.value,
                        start: op.step,
                        finish: step,
                        since: step,
                        alone: rests.alone(),
                        weak: false,
                        flushed: fua,
                    },
                );
            }
        }
        self.bound_the_dead(op);
        Ok(())
    }

    /// A read was answered with these contents.
    ///
    /// # Errors
    /// A sector is older than what was acknowledged or read before, or was never written.
    pub(super) fn read_answered(
        &mut self,
        op: &Operation,
        values: &[Sector],
        rests: Rests,
    ) -> Result<(), String> {
        self.step += 1;
        let step = self.step;
        for ((sector, value), floor) in (op.start..).zip(values).zip(&op.floors) {
            let Some(register) = self.registers.get_mut(&(op.volume, sector)) else {
                if *value != 0 {
                    return Err(format!("read of sector {sector} returned {value}, never written"));
                }
                continue;
            };
            if !register.covers(*value, *floor) {
                return Err(format!(
                    "read of sector {sector} returned {value}, older than what was acknowledged \
                     or read before: {:?}",
                    register.entries.iter().rfind(|e| e.start == *floor).map(|e| e.value)
                ));
            }
            let known = register.entries.iter_mut().filter(|e| e.value == *value);
            let Some(entry) = known.last() else {
                if *value != 0 {
                    return Err(format!("read of sector {sector} returned {value}, never written"));
                }
                continue;
            };
            if *value == 0 || entry.answered || entry.finish != NEVER {
                continue;
            }
            entry.finish = step;
            let seen = Obligation {
                value: *value,
                start: entry.start,
                finish: step,
                since: step,
                alone: rests.alone(),
                weak: false,
                flushed: false,
            };
            for node in (0..2).filter(|n| rests.disks[*n]) {
                register.oblige(node, seen);
            }
        }
        self.bound_the_dead(op);
        Ok(())
    }

    /// A flush was answered.
    ///
    /// # Errors
    /// Something answered before it started is not durable on a disk that it rests on.
    pub(super) fn flush_answered(
        &mut self,
        op: &Operation,
        rests: Rests,
        disks: [&SimDisk; 2],
    ) -> Result<(), String> {
        self.step += 1;
        for node in (0..2).filter(|n| rests.disks[*n]) {
            let covered = |o: &Obligation| o.since < op.step && !(o.alone && node != rests.on);
            self.made_durable(node, op.volume, disks[node], "a flush was answered", covered)?;
        }
        Ok(())
    }

    /// The node says durably that it survived: everything on its disk must be durable.
    ///
    /// # Errors
    /// Something is not.
    pub(super) fn survived(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
    ) -> Result<(), String> {
        self.made_durable(node, volume, disk, "SURVIVED was written", |_| true)
    }

    fn made_durable(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
        when: &str,
        covered: impl Fn(&Obligation) -> bool,
    ) -> Result<(), String> {
        for ((_, sector), register) in self.of_volume(volume) {
            let mut list = std::mem::take(&mut register.obligations[node]);
            for obligation in list.iter_mut().filter(|o| covered(o) && !o.flushed) {
                let possible = disk.possible(sector);
                if !possible.iter().all(|v| register.covers(*v, obligation.start)) {
                    return Err(format!(
                        "{when}, and write {} of sector {sector} is not durable on node {node}: \
                         {possible:?}",
                        obligation.value
                    ));
                }
                obligation.flushed = true;
                obligation.weak = false;
            }
            register.obligations[node] = list;
        }
        Ok(())
    }

    fn of_volume(
        &mut self,
        volume: VolumeNumber,
    ) -> impl Iterator<Item = ((VolumeNumber, u64), &mut Register)> {
        self.registers.range_mut((volume, 0)..=(volume, u64::MAX)).map(|(key, r)| (*key, r))
    }

    /// Contents land on a disk, in place of what was there before.
    ///
    /// # Errors
    /// A write landed over a newer one that this disk must hold.
    pub(super) fn landed(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        (start, values): (u64, &[Sector]),
        before: &[Sector],
        origin: Origin,
    ) -> Result<(), String> {
        self.step += 1;
        // What does not change is an edge that was read and written back.
        let changed = (start..).zip(values).zip(before).filter(|((_, v), b)| *v != *b);
        for ((sector, value), _) in changed {
            if *value == super::disk::POISON {
                return Err(format!("garbage was written to sector {sector} of node {node}"));
            }
            let Some(register) = self.registers.get(&(volume, sector)) else { continue };
            for o in &register.obligations[node] {
                if o.value == *value {
                    continue;
                }
                let late = origin != Origin::Resync && *value != 0 && {
                    let by = register.entries.iter().find(|e| e.value == *value);
                    by.is_some_and(|e| e.finish < self.step && o.finish >= e.start)
                };
                if late || !register.covers(*value, o.start) {
                    return Err(format!(
                        "{origin:?} write {value} landed on sector {sector} of node {node}, over \
                         the newer write {}",
                        o.value
                    ));
                }
            }
        }
        Ok(())
    }

    /// A node lost power; its disk holds what is left.
    ///
    /// # Errors
    /// A flushed write is gone.
    pub(super) fn power_lost(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
    ) -> Result<(), String> {
        self.step += 1;
        self.lost_power[node] = self.step;
        let mut lone = 0;
        for ((_, sector), register) in self.of_volume(volume) {
            let held = disk.read(sector, 1)[0];
            let mut list = std::mem::take(&mut register.obligations[node]);
            for o in list.iter_mut().filter(|o| o.flushed) {
                if !register.covers(held, o.start) {
                    return Err(format!(
                        "flushed write {} of sector {sector} is lost on node {node}: {held}",
                        o.value
                    ));
                }
            }
            list.retain_mut(|o| {
                o.weak |= !o.flushed;
                let kept = register.covers(held, o.start);
                lone += u64::from(!kept && o.alone);
                kept
            });
            register.obligations[node] = list;
        }
        self.excused.lone += lone;
        Ok(())
    }

    /// The target has taken the source's identifiers: from here on its own data counts no more.
    ///
    /// # Errors
    /// It holds an acknowledged write that the source does not have.
    pub(super) fn adopted(
        &mut self,
        target: usize,
        volume: VolumeNumber,
        source: &SimDisk,
        excuse: Excuse,
    ) -> Result<(), String> {
        self.step += 1;
        let mut excused = Excused::default();
        for ((_, sector), register) in self.of_volume(volume) {
            let held = source.read(sector, 1)[0];
            for o in std::mem::take(&mut register.obligations[target]) {
                if !o.alone && register.covers(held, o.start) {
                    continue;
                }
                if excuse.chosen {
                    excused.victim += 1;
                } else if excuse.forced {
                    excused.forced += 1;
                } else if o.weak && !o.alone {
                    excused.both += 1;
                } else {
                    return Err(format!(
                        "a resync to node {target} overwrites acknowledged write {} of sector \
                         {sector} ({}, {}); the source has {held}",
                        o.value,
                        if o.alone { "acknowledged alone" } else { "acknowledged by both" },
                        if o.flushed { "flushed" } else { "unflushed" }
                    ));
                }
            }
        }
        self.excused.victim += excused.victim;
        self.excused.forced += excused.forced;
        self.excused.both += excused.both;
        Ok(())
    }

    /// Both disks are in sync: what one must hold, both must hold.
    ///
    /// # Errors
    /// One does not hold it.
    pub(super) fn in_sync(
        &mut self,
        volume: VolumeNumber,
        disks: [&SimDisk; 2],
    ) -> Result<(), String> {
        self.step += 1;
        for ((_, sector), register) in self.of_volume(volume) {
            let mut all: Vec<(usize, Obligation)> = Vec::new();
            for node in 0..2 {
                all.extend(register.obligations[node].iter().map(|o| (node, *o)));
                for o in &mut register.obligations[node] {
                    o.alone = false;
                }
            }
            for (from, obligation) in all {
                let node = 1 - from;
                let held = disks[node].read(sector, 1)[0];
                if !register.covers(held, obligation.start) {
                    return Err(format!(
                        "in sync, but node {node} does not hold write {} of sector {sector}: {held}",
                        obligation.value
                    ));
                }
                let known = register.obligations[node].iter().any(|o| o.start == obligation.start);
                if !known {
                    let copy = Obligation { alone: false, flushed: false, ..obligation };
                    register.oblige(node, copy);
                }
            }
        }
        Ok(())
    }

    /// A node became Primary without force, and its own disk is what it serves.
    ///
    /// # Errors
    /// It lacks a write that was acknowledged by both.
    pub(super) fn promoted(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
    ) -> Result<(), String> {
        self.step += 1;
        for ((_, sector), register) in self.of_volume(volume) {
            let held = disk.read(sector, 1)[0];
            let lacks = |o: &&Obligation| !o.alone && !o.weak && !register.covers(held, o.start);
            if let Some(o) = register.obligations[1 - node].iter().find(lacks) {
                return Err(format!(
                    "node {node} was promoted without write {} of sector {sector}, which was \
                     acknowledged by both; it has {held}",
                    o.value
                ));
            }
        }
        Ok(())
    }

    /// A node was forced: it answers for nothing but what it holds.
    pub(super) fn forced(&mut self, node: usize, volume: VolumeNumber, disk: &SimDisk) {
        self.step += 1;
        let mut dropped = 0;
        for ((_, sector), register) in self.of_volume(volume) {
            let held = disk.read(sector, 1)[0];
            let mut list = std::mem::take(&mut register.obligations[node]);
            let before = list.len();
            list.retain(|o| register.covers(held, o.start));
            dropped += (before - list.len()) as u64;
            register.obligations[node] = list;
        }
        self.excused.forced += dropped;
    }

    /// Every disk that must hold something does.
    ///
    /// # Errors
    /// One does not.
    pub(super) fn check(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
    ) -> Result<(), String> {
        for ((_, sector), register) in self.of_volume(volume) {
            let held = disk.read(sector, 1)[0];
            if let Some(o) =
                register.obligations[node].iter().find(|o| !register.covers(held, o.start))
            {
                return Err(format!(
                    "node {node} does not hold acknowledged write {} of sector {sector}: {held}",
                    o.value
                ));
            }
        }
        Ok(())
    }
}
