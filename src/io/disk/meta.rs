//! Updates of the metadata: stage after stage, each durable before the next one.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::meta::{MetaOp, Stage, stages};
use crate::resource::{DiskError, Event, Tag, Time, VolumeNumber};

use super::{Disk, DiskStep, Disks, Waiter, disk_error};
use crate::io::context::Context;
use crate::io::ring::Memory;

/// With more writes than this in one stage, one sync after all of them is cheaper than making each
/// of them durable.
const DURABLE_WRITES_MAX: usize = 2;
/// Writes of one update that are under way at once.
const PARALLEL: usize = 32;

/// An update that is under way.
pub(super) struct Update {
    stages: VecDeque<Stage>,
    /// The writes of the stage at hand: offset, bytes, bytes done.
    writes: Vec<(u64, Bytes, usize)>,
    next: usize,
    under_way: usize,
    /// Each write is durable by itself.
    durable: bool,
    failed: Option<DiskError>,
    /// Flags and sequence of the superblock, if it is one.
    superblock: Option<(u32, u64)>,
    begun: Time,
}

impl Update {
    pub(super) fn begun(&self) -> Time {
        self.begun
    }
}

impl Disks {
    /// `Action::Meta`.
    pub(crate) fn meta(&mut self, io: &mut Context, tag: Tag, volume: VolumeNumber, op: &MetaOp) {
        let Some(disk) = self.disks.get_mut(&volume) else {
            let result = Err(DiskError::Io(libc::ENODEV));
            io.events.push_back(Event::MetaDone { tag, result });
            return;
        };
        if disk.is_cut() {
            let result = Err(DiskError::Io(libc::EIO));
            io.events.push_back(Event::MetaDone { tag, result });
            return;
        }
        let superblock = match op {
            MetaOp::Superblock(superblock) => Some((superblock.flags, superblock.sequence)),
            _ => None,
        };
        let update = Update {
            superblock,
            stages: stages(&disk.open.geometry(), op).into(),
            writes: Vec::new(),
            next: 0,
            under_way: 0,
            durable: false,
            failed: None,
            begun: io.now,
        };
        disk.updates.insert(tag, update);
        disk.next_stage(io, tag);
    }
}

impl Disk {
    fn next_stage(&mut self, io: &mut Context, tag: Tag) {
        let dsync = self.open.dsync && self.flushes.meta;
        let Some(update) = self.updates.get_mut(&tag) else { return };
        let Some(stage) = update.stages.pop_front() else {
            return self.update_ended(io, tag, Ok(()));
        };
        update.durable = dsync && stage.writes.len() <= DURABLE_WRITES_MAX;
        update.writes = stage.writes.into_iter().map(|(at, bytes)| (at, bytes, 0)).collect();
        update.next = 0;
        self.continue_stage(io, tag);
    }

    /// Starts what fits of the stage; sees to its durability when its writes are done.
    fn continue_stage(&mut self, io: &mut Context, tag: Tag) {
        while let Some(update) = self.updates.get_mut(&tag) {
            let all_started = update.next == update.writes.len() || update.failed.is_some();
            if all_started && update.under_way == 0 {
                let (durable, failed) = (update.durable, update.failed);
                return match failed {
                    Some(error) => self.update_ended(io, tag, Err(error)),
                    None if durable || !self.flushes.meta => self.next_stage(io, tag),
                    None => self.sync_meta(io, Waiter::Meta(tag)),
                };
            }
            if all_started || update.under_way >= PARALLEL {
                return;
            }
            let index = update.next;
            update.next += 1;
            self.start_write(io, tag, index);
        }
    }

    fn start_write(&mut self, io: &mut Context, tag: Tag, index: usize) {
        let purpose = self.purpose(DiskStep::Meta(tag, index as u32));
        let Some(update) = self.updates.get_mut(&tag) else { return };
        let Some((offset, bytes, done)) = update.writes.get(index).cloned() else { return };
        update.under_way += 1;
        let durable = update.durable;
        io.ring.write(&self.meta, Memory::Bytes(bytes), done, offset, durable, purpose);
        self.under_way += 1;
    }

    pub(super) fn meta_done(
        &mut self,
        io: &mut Context,
        tag: Tag,
        index: u32,
        memory: Memory,
        result: i32,
    ) {
        drop(memory);
        let index = index as usize;
        let Some(update) = self.updates.get_mut(&tag) else { return };
        update.under_way -= 1;
        let Some((_, bytes, done)) = update.writes.get_mut(index) else { return };
        match result {
            n if n < 0 && matches!(-n, libc::EINTR | libc::EAGAIN) => {
                return self.start_write(io, tag, index);
            }
            n if n < 0 => {
                update.failed.get_or_insert(disk_error(-n));
            }
            0 => {
                update.failed.get_or_insert(DiskError::NoSpace);
            }
            n => {
                *done += n as usize;
                if *done < bytes.len() {
                    return self.start_write(io, tag, index);
                }
            }
        }
        self.continue_stage(io, tag);
    }

    /// The sync after a stage has ended.
    pub(super) fn stage_durable(
        &mut self,
        io: &mut Context,
        tag: Tag,
        result: Result<(), DiskError>,
    ) {
        match result {
            Ok(()) => self.next_stage(io, tag),
            Err(error) => self.update_ended(io, tag, Err(error)),
        }
    }

    fn update_ended(&mut self, io: &mut Context, tag: Tag, result: Result<(), DiskError>) {
        let update = self.updates.remove(&tag);
        if let (Ok(()), Some((flags, sequence))) = (result, update.and_then(|u| u.superblock)) {
            self.open.superblock_is_durable(flags, sequence);
        }
        io.events.push_back(Event::MetaDone { tag, result });
    }
}
