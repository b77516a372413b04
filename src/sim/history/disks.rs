//! What happens to disks, and what they must hold then.

use crate::resource::VolumeNumber;

use super::super::disk::{POISON, Sector, SimDisk};
use super::super::pool::Origin;
use super::register::{Obligation, Register};
use super::{Excuse, Excused, History, Sectors};

impl History {
    /// The node is about to say that it survived: everything on its disk must be durable.
    ///
    /// # Errors
    /// Something is not.
    pub(in crate::sim) fn survives(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
    ) -> Result<(), String> {
        // What was acknowledged alone while the flush ran is under an identifier of its own.
        match self.find_volatile(node, volume, disk, |o| !o.alone, false) {
            Some(found) => Err(format!("SURVIVED was written, and {found}")),
            None => Ok(()),
        }
    }

    /// It is durable that the node survived: from here on its disk must keep what is durable on it.
    /// Without that word the other node may be the source, though this one has flushed.
    pub(in crate::sim) fn survived(&mut self, node: usize, volume: VolumeNumber, disk: &SimDisk) {
        let _ = self.find_volatile(node, volume, disk, |o| !o.alone, true);
    }

    /// A flush was answered.
    ///
    /// # Errors
    /// Something that it covers is not durable.
    pub(super) fn made_durable(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
        covered: impl Fn(&Obligation) -> bool,
    ) -> Result<(), String> {
        match self.find_volatile(node, volume, disk, covered, true) {
            Some(found) => Err(format!("a flush was answered, and {found}")),
            None => Ok(()),
        }
    }

    /// The first write that is covered but not durable; with `mark` the others must be kept now.
    fn find_volatile(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
        covered: impl Fn(&Obligation) -> bool,
        mark: bool,
    ) -> Option<String> {
        let Sectors { registers, unflushed, .. } = self.volume(volume);
        let unflushed = &mut unflushed[node];
        let (mut found, mut from) = (None, 0);
        while let Some(at) = unflushed.next(from) {
            from = at + 1;
            let (register, sector) = (&mut registers[at], at as u64);
            let mut list = std::mem::take(&mut register.obligations[node]);
            for obligation in list.iter_mut().filter(|o| covered(o) && !o.flushed && !o.spoiled) {
                let mut possible = disk.possible(sector);
                if !possible.all(|v| register.satisfies(v, obligation)) {
                    found.get_or_insert_with(|| {
                        let possible: Vec<_> = disk.possible(sector).collect();
                        format!(
                            "write {} of sector {sector} is not durable on node {node}: \
                             {possible:?}",
                            obligation.value()
                        )
                    });
                } else if mark {
                    obligation.flushed = true;
                    obligation.weak = false;
                }
            }
            if list.iter().all(|o| o.flushed || o.spoiled) {
                unflushed.clear(at);
            }
            register.obligations[node] = list;
        }
        found
    }

    /// The sectors that a node must hold something of.
    fn of_volume(&mut self, volume: VolumeNumber) -> impl Iterator<Item = (u64, &mut Register)> {
        let Sectors { registers, obliged, .. } = self.volume(volume);
        obliged.of(registers)
    }

    /// Contents land on a disk, in place of what was there before.
    ///
    /// # Errors
    /// A write landed over a newer one that this disk must hold.
    pub(in crate::sim) fn landed(
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
        let step = self.step;
        for ((sector, value), _) in changed {
            if *value == POISON {
                return Err(format!("garbage was written to sector {sector} of node {node}"));
            }
            let register = self.register(volume, sector);
            let finish = register.last_finish(*value);
            for o in register.obligations[node].iter().filter(|o| o.value() != *value) {
                // Of two writes that overlapped in time, the one that began later was held back.
                let late = origin != Origin::Resync && register.is_over(*value, o.start, step);
                if late || o.start != 0 && finish.is_none_or(|finish| finish < o.start) {
                    return Err(format!(
                        "{origin:?} write {value} landed on sector {sector} of node {node}, over \
                         the newer write {}",
                        o.value()
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
    pub(in crate::sim) fn power_lost(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
    ) -> Result<(), String> {
        self.step += 1;
        self.lost_power[node] = self.step;
        let mut lone = 0;
        for (sector, register) in self.of_volume(volume) {
            let held = disk.read(sector, 1)[0];
            let mut list = std::mem::take(&mut register.obligations[node]);
            for o in list.iter_mut().filter(|o| o.flushed) {
                if !register.satisfies(held, o) {
                    return Err(format!(
                        "flushed write {} of sector {sector} is lost on node {node}: {held}",
                        o.value()
                    ));
                }
            }
            list.retain_mut(|o| {
                o.weak |= !o.flushed;
                let kept = register.satisfies(held, o);
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
    pub(in crate::sim) fn adopted(
        &mut self,
        target: usize,
        volume: VolumeNumber,
        source: &SimDisk,
        excuse: Excuse,
    ) -> Result<(), String> {
        self.step += 1;
        let mut excused = Excused::default();
        let source_lost = self.lost_power[1 - target];
        for (sector, register) in self.of_volume(volume) {
            let held = source.read(sector, 1)[0];
            for o in std::mem::take(&mut register.obligations[target]) {
                if !o.alone && register.satisfies(held, &o) {
                    continue;
                }
                let lost = o.alone && !register.satisfies(held, &o);
                if excuse.chosen && !(excuse.unchanged && lost) {
                    excused.victim += 1;
                } else if o.since <= excuse.forced {
                    excused.forced += 1;
                } else if excuse.set_back {
                    excused.set_back += 1;
                } else if o.weak && !o.alone && source_lost > o.start {
                    excused.both += 1;
                } else {
                    return Err(format!(
                        "a resync to node {target} overwrites acknowledged write {} of sector \
                         {sector} ({}, {}); the source has {held}",
                        o.value(),
                        if o.alone { "acknowledged alone" } else { "acknowledged by both" },
                        if o.flushed { "flushed" } else { "unflushed" }
                    ));
                }
            }
        }
        self.excused.victim += excused.victim;
        self.excused.forced += excused.forced;
        self.excused.set_back += excused.set_back;
        self.excused.both += excused.both;
        Ok(())
    }

    /// Both disks are in sync: what one must hold, both must hold.
    ///
    /// # Errors
    /// One does not hold it.
    pub(in crate::sim) fn in_sync(
        &mut self,
        volume: VolumeNumber,
        disks: [&SimDisk; 2],
    ) -> Result<(), String> {
        self.step += 1;
        let mut copies = Vec::new();
        let mut all: Vec<(usize, Obligation)> = Vec::new();
        for (sector, register) in self.of_volume(volume) {
            all.clear();
            for node in 0..2 {
                all.extend(register.obligations[node].iter().map(|o| (node, *o)));
                for o in &mut register.obligations[node] {
                    (o.alone, o.weak) = (false, false);
                }
            }
            for (from, obligation) in all.iter().copied() {
                let node = 1 - from;
                let held = disks[node].read(sector, 1)[0];
                if !register.satisfies(held, &obligation) {
                    return Err(format!(
                        "in sync, but node {node} does not hold write {} of sector {sector}: {held}",
                        obligation.value()
                    ));
                }
                if !obligation.spoiled {
                    // The resync has written it again.
                    for o in &mut register.obligations[node] {
                        o.spoiled &= o.start != obligation.start;
                    }
                }
                let known = register.obligations[node].iter().any(|o| o.start == obligation.start);
                if !known {
                    let copy =
                        Obligation { alone: false, weak: false, flushed: false, ..obligation };
                    copies.push((node, sector, copy));
                }
            }
        }
        for (node, sector, copy) in copies {
            self.oblige(node, volume, sector, copy);
        }
        Ok(())
    }

    /// The end of a resync is durable on its target, which has lost the source and does not know it: what
    /// both hold rests on both from here on.
    pub(in crate::sim) fn whole(&mut self, target: usize, volume: VolumeNumber, disk: &SimDisk) {
        self.step += 1;
        let mut copies = Vec::new();
        for (sector, register) in self.of_volume(volume) {
            let held = disk.read(sector, 1)[0];
            let mut theirs = std::mem::take(&mut register.obligations[1 - target]);
            for o in theirs.iter_mut().filter(|o| o.alone && register.satisfies(held, o)) {
                o.alone = false;
                if register.obligations[target].iter().all(|own| own.start != o.start) {
                    copies.push((sector, Obligation { weak: false, flushed: false, ..*o }));
                }
            }
            register.obligations[1 - target] = theirs;
        }
        for (sector, copy) in copies {
            self.oblige(target, volume, sector, copy);
        }
    }

    /// A node became Primary without force, and its own disk is what it serves; `behind`: that disk
    /// was set back, and the other node has not been met since. What the other one was answered for until step
    /// `aside` was put aside.
    ///
    /// # Errors
    /// It lacks a write that was acknowledged by both.
    pub(in crate::sim) fn promoted(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
        behind: bool,
        aside: u64,
    ) -> Result<(), String> {
        self.step += 1;
        let mut set_back = 0;
        for (sector, register) in self.of_volume(volume) {
            let held = disk.read(sector, 1)[0];
            let lacks = |o: &&Obligation| {
                !o.alone && !o.weak && o.since > aside && !register.satisfies(held, o)
            };
            if let Some(o) = register.obligations[1 - node].iter().find(lacks) {
                if behind {
                    set_back += 1;
                    continue;
                }
                return Err(format!(
                    "node {node} was promoted without write {} of sector {sector}, which was \
                     acknowledged by both; it has {held}",
                    o.value()
                ));
            }
        }
        self.excused.set_back += set_back;
        Ok(())
    }

    /// A node was forced: it answers for nothing but what it holds. The step of that.
    pub(in crate::sim) fn forced(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
    ) -> u64 {
        self.step += 1;
        self.excused.forced += self.answer_for_what_is_held(node, volume, disk, self.step);
        self.step
    }

    /// The disk of a node is attached again, after it had `failed` or not, and its cache was dropped:
    /// what a failed flush had left there is gone; and what the disk was to remember of a loss it may
    /// not have remembered.
    ///
    /// # Errors
    /// A flushed write is gone.
    pub(in crate::sim) fn attached(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
        failed: bool,
    ) -> Result<(), String> {
        self.step += 1;
        let (mut lone, mut gone) = (0, 0);
        for (sector, register) in self.of_volume(volume) {
            let held = disk.read(sector, 1)[0];
            let mut list = std::mem::take(&mut register.obligations[node]);
            for o in &mut list {
                // What is durable there, no flush that failed has taken away.
                o.weak |= failed && !o.flushed;
                if o.flushed && !register.satisfies(held, o) {
                    let value = o.value();
                    return Err(format!(
                        "flushed write {value} of sector {sector} is gone at an attach on node {node}"
                    ));
                }
            }
            list.retain(|o| {
                let kept = register.satisfies(held, o);
                gone += u64::from(!kept);
                lone += u64::from(!kept && o.alone);
                kept
            });
            register.obligations[node] = list;
        }
        self.excused.lone += lone;
        if gone > 0 {
            self.lost_power[node] = self.step;
        }
        if lone > 0 {
            let step = self.step;
            self.volume(volume).cut_off[node] = step;
        }
        Ok(())
    }

    /// The daemon of a node died, though not its host: before it has dealt with a loss of the peer,
    /// that is a second failure (model.md section 4).
    pub(in crate::sim) fn crashed(&mut self, node: usize, volume: VolumeNumber) {
        self.crashed[node] = self.step;
        for (_, register) in self.of_volume(volume) {
            for obligation in &mut register.obligations[node] {
                obligation.weak |= !obligation.flushed;
            }
        }
    }

    /// Every disk that must hold something does.
    ///
    /// # Errors
    /// One does not.
    pub(in crate::sim) fn check(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
    ) -> Result<(), String> {
        for (sector, register) in self.of_volume(volume) {
            let held = disk.read(sector, 1)[0];
            if let Some(o) =
                register.obligations[node].iter().find(|o| !register.satisfies(held, o))
            {
                return Err(format!(
                    "node {node} does not hold acknowledged write {} of sector {sector}: {held}",
                    o.value()
                ));
            }
        }
        Ok(())
    }

    /// A disk has gained sectors, and something was in them.
    pub(in crate::sim) fn grew(&mut self, volume: VolumeNumber, gained: (u64, u64), found: Sector) {
        self.volume(volume).gained.push((gained, found));
    }

    /// A sector that nobody has written may hold this: it was in it when a disk gained it.
    pub(super) fn was_found(&self, volume: VolumeNumber, sector: u64, value: Sector) -> bool {
        let gained = self.volumes.get(usize::from(volume)).map_or(&[][..], |v| &v.gained);
        gained.iter().any(|((from, to), found)| (*from..*to).contains(&sector) && *found == value)
    }

    /// A sector from here on that this node's disk must hold something of.
    pub(in crate::sim) fn beyond(
        &self,
        node: usize,
        volume: VolumeNumber,
        sectors: u64,
    ) -> Option<u64> {
        let after = usize::try_from(sectors).ok()?;
        let registers = self.registers(volume).get(after..)?.iter();
        (sectors..).zip(registers).find(|(_, r)| !r.obligations[node].is_empty()).map(|(at, _)| at)
    }

    /// A sector was changed behind the daemon's back: a flush does not bring it back, a repair does.
    pub(in crate::sim) fn falsified(&mut self, node: usize, volume: VolumeNumber, sector: u64) {
        for o in &mut self.register(volume, sector).obligations[node] {
            o.spoiled = true;
        }
    }

    /// The disk of a node was replaced: it answers for nothing.
    pub(in crate::sim) fn forgotten(&mut self, node: usize, volume: VolumeNumber) {
        self.step += 1;
        self.replaced[node] = self.step;
        let mut dropped = 0;
        for (_, register) in self.of_volume(volume) {
            dropped += register.obligations[node].len() as u64;
            register.obligations[node].clear();
        }
        self.excused.replaced += dropped;
    }

    /// The disk of a node was set back to an image that was `taken` at that step, and is durable: it
    /// answers for what that holds.
    pub(in crate::sim) fn rolled_back(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
        taken: u64,
    ) {
        self.excused.set_back += self.answer_for_what_is_held(node, volume, disk, taken);
    }

    /// A node answers for nothing but what its disk, as it was at step `then`, holds; how many writes
    /// that leaves out.
    ///
    /// What was answered later is not on an older disk, unless it is there itself. That another value
    /// covers it says nothing: zeroes of an earlier write look the same, and of a write that was cut
    /// off it is learned late that it has ended, so that it seems to be the newer one of the two.
    fn answer_for_what_is_held(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        disk: &SimDisk,
        then: u64,
    ) -> u64 {
        let mut dropped = 0;
        for (sector, register) in self.of_volume(volume) {
            let held = disk.read(sector, 1)[0];
            let mut list = std::mem::take(&mut register.obligations[node]);
            let before = list.len();
            list.retain(|o| (o.since <= then || held == o.start) && register.satisfies(held, o));
            dropped += (before - list.len()) as u64;
            register.obligations[node] = list;
        }
        dropped
    }
}
