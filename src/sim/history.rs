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
//! - (b) unflushed, and both nodes failed before the flush that follows a loss, the source of the
//!   resync with its cache: what the other one has left of it, it has by luck (*weak*), until both
//!   are in sync again;
//! - (c) on a victim that a person or a policy chose;
//! - (d) on a node that was forced.
//!
//! Invariants:
//! - Nothing here knows how the core works: it sees answers, disk contents and states.

mod disks;
mod outside;
mod register;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::resource::VolumeNumber;

use super::disk::{Sector, SimDisk};
use super::marks::Marks;
pub use outside::Book;
use register::{Entry, NEVER, Obligation, Register};

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
    /// And it was chosen because it had changed nothing: what it alone has is not excused.
    pub unchanged: bool,
    /// What was answered until this step was put aside by a force or a handler's word, since both were last in
    /// sync; 0: nothing was.
    pub forced: u64,
    /// The source's disk was set back to an older image, or replaced, when its handshake was on its
    /// way: what the target has adopted never comes.
    pub set_back: bool,
}

/// A client's operation under way.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its volume.
    pub volume: VolumeNumber,
    /// First sector.
    pub start: u64,
    /// Sectors; 0 for a flush.
    pub count: u64,
    /// What a write writes.
    pub value: Sector,
    /// When it began.
    pub step: u64,
    /// The beginning of the oldest write that a read may still return: what ended before it, nobody
    /// asks for.
    pub horizon: u64,
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
    /// On disks that were replaced.
    pub replaced: u64,
    /// On disks that were set back to an older image.
    pub set_back: u64,
    /// Attaches that were refused, for both copies of the superblock were bad.
    pub refused: u64,
    /// Orders that waited for a stalled disk.
    pub waited: u64,
    /// Nodes that came back with an image of the other node's disks.
    pub seeded: u64,
    /// Blocks that a verify has compared: nothing is excused by it.
    pub compared: u64,
}

/// The sectors of a volume.
#[derive(Clone, Debug, Default)]
struct Sectors {
    registers: Vec<Register>,
    /// Those that a node must hold something of, or had to.
    obliged: Marks,
    /// Those that a node must hold and has not flushed, or had not a while ago.
    unflushed: [Marks; 2],
    /// When the disk of each node came back without what it alone had had.
    cut_off: [u64; 2],
    /// Sectors that a disk has gained, and what was in them: that is read until somebody writes there.
    gained: Vec<((u64, u64), Sector)>,
}

/// The history of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    step: u64,
    /// By volume number.
    volumes: Vec<Sectors>,
    sessions: BTreeMap<u64, u64>,
    /// Writes that are not answered, by session and start: their range.
    open: BTreeMap<(u64, u64), (VolumeNumber, u64, u64)>,
    /// When each node last lost power.
    lost_power: [u64; 2],
    /// When the daemon of a node died last, though not its host.
    crashed: [u64; 2],
    /// When the disk of a node was taken away, and another one put in its place.
    replaced: [u64; 2],
    /// What was excused.
    pub excused: Excused,
}

impl History {
    /// The first sectors of blocks that somebody has written to.
    pub(super) fn written(&self, volume: VolumeNumber) -> Vec<u64> {
        let registers = self.registers(volume);
        (0..).zip(registers).step_by(8).filter(|(_, r)| r.is_written()).map(|(at, _)| at).collect()
    }

    /// What a node must hold in a sector: values, with what is known of each.
    pub(super) fn duties(
        &self,
        volume: VolumeNumber,
        node: usize,
        sector: u64,
    ) -> impl Iterator<Item = (Sector, [bool; 4])> {
        let registers = self.registers(volume);
        let register = usize::try_from(sector).ok().and_then(|at| registers.get(at));
        let duties = register.into_iter().flat_map(move |r| &r.obligations[node]);
        duties.map(|o| (o.value(), [o.alone, o.weak, o.flushed, o.spoiled]))
    }

    /// The node has lost power since a write began.
    pub(super) fn lost_power_since(&self, node: usize, start: Sector) -> bool {
        self.lost_power[node] > start
    }

    /// The write of this value has ended: what began later is newer.
    pub(super) fn has_ended(&self, volume: VolumeNumber, sector: u64, value: Sector) -> bool {
        let at = usize::try_from(sector).ok();
        let register = at.and_then(|at| self.registers(volume).get(at));
        register.and_then(|r| r.last_finish(value)).is_some_and(|finish| finish != NEVER)
    }

    /// The step that was counted last.
    pub(super) fn now(&self) -> u64 {
        self.step
    }

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
        let mut ours = self.open.split_off(&(session, 0));
        self.open.append(&mut ours.split_off(&(session + 1, 0)));
        for ((_, start), (volume, first, count)) in ours {
            for sector in first..first + count {
                self.register(volume, sector).cut_off(start, step, true);
            }
        }
    }

    /// The client of a session that ends keeps this write, to send it again: it may be done before, and
    /// then once more.
    pub(super) fn kept(&mut self, op: &Operation) {
        self.open.remove(&(op.session, op.step));
        for sector in op.start..op.start + op.count {
            if let Some(entry) = self.register(op.volume, sector).write_mut(op.step) {
                (entry.finish, entry.again) = (NEVER, true);
            }
        }
    }

    /// A write that was kept is sent once more, on this session.
    pub(super) fn sent_again(&mut self, op: &mut Operation, session: u64) {
        self.open.remove(&(op.session, op.step));
        self.open.insert((session, op.step), (op.volume, op.start, op.count));
        op.session = session;
        op.session_opened = self.sessions.get(&session).copied().unwrap_or(op.step);
        for sector in op.start..op.start + op.count {
            if let Some(entry) = self.register(op.volume, sector).write_mut(op.step) {
                entry.session = session;
            }
        }
    }

    fn registers(&self, volume: VolumeNumber) -> &[Register] {
        self.volumes.get(usize::from(volume)).map_or(&[], |sectors| &sectors.registers)
    }

    fn volume(&mut self, volume: VolumeNumber) -> &mut Sectors {
        let index = usize::from(volume);
        if self.volumes.len() <= index {
            self.volumes.resize_with(index + 1, Sectors::default);
        }
        &mut self.volumes[index]
    }

    fn register(&mut self, volume: VolumeNumber, sector: u64) -> &mut Register {
        let registers = &mut self.volume(volume).registers;
        let index = index(sector);
        if registers.len() <= index {
            registers.resize_with(index + 1, Register::default);
        }
        &mut registers[index]
    }

    fn oblige(&mut self, node: usize, volume: VolumeNumber, sector: u64, new: Obligation) {
        let sectors = self.volume(volume);
        sectors.obliged.set(index(sector));
        if !new.flushed {
            sectors.unflushed[node].set(index(sector));
        }
        self.register(volume, sector).oblige(node, new);
    }

    /// A client sends a write or zeroes, while the requests under way look back to step `open`. The
    /// operation says what to write.
    pub(super) fn write_starts(
        &mut self,
        session: u64,
        volume: VolumeNumber,
        range: (u64, u64),
        zeroes: bool,
        open: Option<u64>,
    ) -> Operation {
        self.step += 1;
        let open = open.unwrap_or(self.step);
        let value = if zeroes { 0 } else { self.step };
        let entry = Entry::new(self.step, zeroes, session);
        for sector in range.0..range.0 + range.1 {
            self.register(volume, sector).push(entry, open);
        }
        self.open.insert((session, self.step), (volume, range.0, range.1));
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
        let floor = |register: &register::Register| match rests.disks {
            // It waits, and nobody knows for which of them.
            [false, false] => register.floor(0).min(register.floor(1)),
            disks if disks[rests.on] => register.floor(rests.on),
            _ => register.floor(1 - rests.on),
        };
        let floors = (range.0..range.0 + range.1)
            .map(|sector| floor(self.register(volume, sector)))
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
        let step = self.step;
        let horizon = floors.iter().copied().filter(|floor| *floor > 0).fold(step, u64::min);
        Operation { volume, start, count, value, step, horizon, session, session_opened, floors }
    }

    /// An operation of this session was answered: what a dead session left on the same sectors and
    /// has not done by now, it never does.
    fn bound_the_dead(&mut self, op: &Operation) {
        let step = self.step;
        for sector in op.start..op.start + op.count {
            let register = self.register(op.volume, sector);
            register.bound_the_dead(step, |entry| {
                let later = if entry.cut_by_session { op.session_opened } else { op.step };
                later > entry.cut && entry.session <= op.session
            });
        }
    }

    /// A write or zeroes was answered with an error.
    pub(super) fn write_failed(&mut self, op: &Operation) {
        self.step += 1;
        self.open.remove(&(op.session, op.step));
        let step = self.step;
        for sector in op.start..op.start + op.count {
            self.register(op.volume, sector).cut_off(op.step, step, false);
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
        self.open.remove(&(op.session, op.step));
        let step = self.step;
        for sector in op.start..op.start + op.count {
            if let Some(entry) = self.register(op.volume, sector).write_mut(op.step) {
                entry.finish = entry.finish.min(step);
                (entry.answered, entry.again) = (true, false);
            }
            for node in (0..2).filter(|n| rests.disks[*n]) {
                let held = disks[node].read(sector, 1)[0];
                let lost = self.lost_power[node] > op.step;
                // Or has crashed, which is a failure as well until the other node has dealt with it.
                let crashed = self.crashed[node] >= op.step;
                if self.replaced[node] > op.step {
                    // It was on the disk that was taken away while the answer was on its way; that the
                    // one in its place holds zeroes, too, is nothing to keep.
                    self.excused.replaced += 1;
                    continue;
                }
                let register = self.register(op.volume, sector);
                if !register.covers(held, op.step) {
                    if lost && node != rests.on {
                        continue;
                    }
                    return Err(format!(
                        "acknowledged write {} of sector {sector} is not on disk of node {node}: {held}",
                        op.value
                    ));
                }
                if fua && !disks[node].possible(sector).all(|v| register.covers(v, op.step)) {
                    let durable: Vec<_> = disks[node].possible(sector).collect();
                    return Err(format!(
                        "FUA write {} of sector {sector} is not durable on node {node}: {durable:?}",
                        op.value
                    ));
                }
                let new = Obligation {
                    zeroes: op.value == 0,
                    start: op.step,
                    finish: step,
                    since: step,
                    alone: rests.alone(),
                    // Acknowledged by a host that has lost power since, before it was known.
                    weak: (lost || crashed) && !fua,
                    flushed: fua,
                    spoiled: false,
                };
                self.oblige(node, op.volume, sector, new);
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
        disks: [&SimDisk; 2],
    ) -> Result<(), String> {
        self.step += 1;
        let step = self.step;
        for ((sector, value), floor) in (op.start..).zip(values).zip(&op.floors) {
            let found = self.was_found(op.volume, sector, *value);
            let register = self.register(op.volume, sector);
            if !register.was_written(*value) && !found {
                return Err(format!("read of sector {sector} returned {value}, never written"));
            }
            if !register.covers(*value, *floor) {
                return Err(format!(
                    "read of sector {sector} returned {value}, older than {floor}, which was \
                     acknowledged or read before"
                ));
            }
            if *value == 0 {
                continue;
            }
            let Some(entry) = register.write_mut(*value) else { continue };
            if entry.answered || entry.again || entry.finish != NEVER {
                continue;
            }
            entry.finish = step;
            let start = entry.start;
            let register = self.register(op.volume, sector);
            // No history of its own begins with what both have, and cannot lose.
            let both = |disk: &&SimDisk| disk.possible(sector).all(|v| register.covers(v, start));
            let alone = rests.alone() && !disks.iter().all(both);
            let seen = Obligation {
                zeroes: false,
                start,
                finish: step,
                since: step,
                alone,
                weak: false,
                flushed: false,
                spoiled: false,
            };
            for node in (0..2).filter(|n| rests.disks[*n]) {
                if self.replaced[node] > op.step {
                    let held = disks[node].read(sector, 1)[0];
                    if !self.register(op.volume, sector).covers(held, seen.start) {
                        // It was read from the disk that was taken away since.
                        self.excused.replaced += 1;
                        continue;
                    }
                }
                let crashed = self.crashed[node] >= op.step;
                let weak = self.lost_power[node] > op.step || crashed;
                // It may be what a failed flush has left in the cache.
                let spoiled = !disks[node].can_flush(sector);
                self.oblige(node, op.volume, sector, Obligation { weak, spoiled, ..seen });
            }
        }
        self.bound_the_dead(op);
        Ok(())
    }

    /// A flush was answered.
    ///
    /// # Errors
    /// Something answered before it started is not durable on a disk that it rests on, or gone.
    pub(super) fn flush_answered(
        &mut self,
        op: &Operation,
        rests: Rests,
        disks: [&SimDisk; 2],
    ) -> Result<(), String> {
        self.step += 1;
        if op.session_opened < self.volume(op.volume).cut_off[rests.on] {
            return Err(format!(
                "a flush was answered on node {}, and unflushed writes of that session may be gone",
                rests.on
            ));
        }
        for node in (0..2).filter(|n| rests.disks[*n]) {
            let covered = |o: &Obligation| o.since < op.step && !(o.alone && node != rests.on);
            self.made_durable(node, op.volume, disks[node], covered)?;
        }
        Ok(())
    }
}

fn index(sector: u64) -> usize {
    usize::try_from(sector).expect("a simulated disk is small")
}
