//! Backing disks: the core's disk actions as operations of the ring.
//!
//! Invariants:
//! - A completion is told only when everything that it promises is true: short reads and writes
//!   are finished, a durable write is durable.
//! - At most one data sync of a file runs and one waits; what comes later joins the waiting one. It
//!   covers what had completed when it was asked for, as it starts after that.
//! - A failed sync fails everything that waited for it, and is never repeated for them.
//! - A stage of a metadata update starts when the stage before it is durable.
//! - A disk is closed, and its locks are given back, when nothing of it is under way.

mod extents;
mod meta;
mod sync;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use crate::io::backing::{Growing, OpenDisk};
use crate::meta::{Geometry, Superblock};
use crate::resource::{DiskError, Event, Payload, Tag, Time, VolumeNumber};

use super::buffer::{Direction, Part, class_size, part_of};
use super::context::{Context, Purpose};
use super::number_map::NumberMap;
use super::ring::{Descriptor, Memory};
use meta::Update;
use sync::Syncs;
pub(crate) use write::ZeroesAsked;
use write::{Write, ZeroWays, Zeroes};

/// Which operation of a disk has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskStep {
    /// A part of a read.
    Read(Tag),
    /// A part of a write.
    Write(Tag),
    /// A part of making zeroes.
    Zeroes(Tag),
    /// A metadata write: which one of its stage.
    Meta(Tag, u32),
    /// A data sync of the data.
    SyncData,
    /// A data sync of external metadata.
    SyncMeta,
}

/// What durability means on this resource (disk-flushes, md-flushes).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flushes {
    /// Data is made durable.
    pub(crate) disk: bool,
    /// Metadata is made durable.
    pub(crate) meta: bool,
}

/// One of the files of an open disk, as a descriptor of the ring.
#[derive(Debug)]
struct DataFile(Rc<OpenDisk>);

impl AsFd for DataFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.data.as_fd()
    }
}

/// As [`DataFile`], for the metadata.
#[derive(Debug)]
struct MetaFile(Rc<OpenDisk>);

impl AsFd for MetaFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.meta_file().as_fd()
    }
}

struct Read {
    payload: Payload,
    offset: u64,
    done: u32,
    find_zeroes: bool,
    begun: Time,
}

/// What a sync was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiter {
    /// A flush of the core.
    Flush(Tag),
    /// A write whose durability is a sync of its own.
    Write(Tag),
    /// Zeroes that must be durable.
    Zeroes(Tag),
    /// A stage of a metadata update.
    Meta(Tag),
}

/// An attached disk.
struct Disk {
    volume: VolumeNumber,
    number: u64,
    open: Rc<OpenDisk>,
    data: Descriptor,
    meta: Descriptor,
    flushes: Flushes,
    zero_ways: ZeroWays,
    reads: NumberMap<Tag, Read>,
    writes: NumberMap<Tag, Write>,
    zeroes: NumberMap<Tag, Zeroes>,
    updates: NumberMap<Tag, Update>,
    data_syncs: Syncs,
    meta_syncs: Syncs,
    /// Operations of the ring that are under way.
    under_way: usize,
}

/// A disk that is to be closed: everything of it that holds a descriptor is inside.
pub(crate) struct Closing {
    /// Of this volume.
    pub(crate) volume: VolumeNumber,
    open: Rc<OpenDisk>,
    superblock: Option<Box<Superblock>>,
}

impl Closing {
    /// What [`close`] takes; the volume, if an operation still has the disk.
    pub(crate) fn into_parts(self) -> Result<(OpenDisk, Option<Box<Superblock>>), VolumeNumber> {
        let Closing { volume, open, superblock } = self;
        let open = Rc::try_unwrap(open).map_err(|_| volume)?;
        Ok((open, superblock))
    }
}

/// Closes a disk, in order if it is to be clean. Blocks.
///
/// # Errors
/// The superblock could not be written; the disk is closed all the same.
pub(crate) fn close(open: OpenDisk, superblock: Option<Box<Superblock>>) -> Result<(), DiskError> {
    match superblock {
        Some(superblock) => open.close_clean(*superblock),
        None => {
            open.close();
            Ok(())
        }
    }
}

struct WaitingRead {
    tag: Tag,
    volume: VolumeNumber,
    offset: u64,
    length: u32,
    find_zeroes: bool,
}

/// The disks of one resource.
#[derive(Default)]
pub(crate) struct Disks {
    disks: BTreeMap<VolumeNumber, Disk>,
    /// Reads that wait for buffers, in order.
    waiting: VecDeque<WaitingRead>,
    closing: Vec<(Disk, Option<Box<Superblock>>)>,
    last_number: u64,
    zeroes: Option<bytes::Bytes>,
}

/// Nothing but zeroes; ends at the first page that is not.
fn is_zero(bytes: &[u8]) -> bool {
    static ZEROES: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROES.len()).all(|page| *page == ZEROES[..page.len()])
}

/// The error for the core.
fn disk_error(errno: i32) -> DiskError {
    match errno {
        libc::ENOSPC | libc::EDQUOT => DiskError::NoSpace,
        errno => DiskError::Io(errno),
    }
}

/// Whether an operation's end puts in doubt what the disk has acknowledged. A full disk alone does
/// not: it has not taken what it refuses.
fn is_failure(step: DiskStep, result: i32) -> bool {
    let sync = matches!(step, DiskStep::SyncData | DiskStep::SyncMeta);
    let again = [libc::EINTR, libc::EAGAIN, libc::ENOSPC, libc::EDQUOT].contains(&-result);
    // Another way to make zeroes is tried.
    let another = matches!(step, DiskStep::Zeroes(_)) && write::unsupported(-result);
    let read_nothing = result == 0 && matches!(step, DiskStep::Read(_));
    read_nothing || result < 0 && (sync || !again && !another)
}

impl Disks {
    /// The disk of a volume hangs.
    pub(crate) fn distrust(&self, volume: VolumeNumber) {
        if let Some(disk) = self.disks.get(&volume) {
            disk.open.distrust();
        }
    }

    /// What durability means on a volume has changed.
    pub(crate) fn set_flushes(&mut self, volume: VolumeNumber, flushes: Flushes) {
        if let Some(disk) = self.disks.get_mut(&volume) {
            disk.flushes = flushes;
        }
    }

    /// Takes an open disk in.
    ///
    /// # Errors
    /// The volume has a disk already; the new one is given back.
    pub(crate) fn attach(
        &mut self,
        io: &mut Context,
        volume: VolumeNumber,
        open: Box<OpenDisk>,
        flushes: Flushes,
    ) -> Result<(), Box<OpenDisk>> {
        if self.disks.contains_key(&volume) {
            return Err(open);
        }
        self.last_number += 1;
        let zero_ways = ZeroWays { punch: !open.preallocated, keep: true };
        if zero_ways.punch {
            io.fast_zeroes.extend([(volume, false), (volume, true)]);
        }
        let open = Rc::new(*open);
        let disk = Disk {
            volume,
            number: self.last_number,
            data: Rc::new(DataFile(Rc::clone(&open))),
            meta: Rc::new(MetaFile(Rc::clone(&open))),
            open,
            flushes,
            zero_ways,
            reads: NumberMap::default(),
            writes: NumberMap::default(),
            zeroes: NumberMap::default(),
            updates: NumberMap::default(),
            data_syncs: Syncs::default(),
            meta_syncs: Syncs::default(),
            under_way: 0,
        };
        self.disks.insert(volume, disk);
        Ok(())
    }

    fn disk(&mut self, io: &mut Context, tag: Tag, volume: VolumeNumber) -> Option<&mut Disk> {
        let disk = self.disks.get_mut(&volume);
        if disk.is_none() {
            let result = Err(DiskError::Io(libc::ENODEV));
            io.events.push_back(Event::DiskDone { tag, result });
        }
        disk
    }

    /// A read waits for a buffer.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// `Action::DiskRead`.
    pub(crate) fn read(
        &mut self,
        io: &mut Context,
        tag: Tag,
        volume: VolumeNumber,
        (offset, length): (u64, u32),
        find_zeroes: bool,
    ) {
        self.waiting.push_back(WaitingRead { tag, volume, offset, length, find_zeroes });
        self.resume(io);
    }

    /// Starts the reads that there are buffers for. What clients have reserved for their reads is
    /// there beside what the core may read for itself, so neither waits for the other for ever.
    pub(crate) fn resume(&mut self, io: &mut Context) {
        while let Some(next) = self.waiting.front() {
            let taken = io.pool.charged(Part::Read);
            let bytes = class_size(next.length as usize) as u64;
            if taken > 0 && taken + bytes > io.window + io.reads_reserved {
                return;
            }
            let Some(next) = self.waiting.pop_front() else { return };
            let WaitingRead { tag, volume, offset, length, find_zeroes } = next;
            let Some(disk) = self.disk(io, tag, volume) else { continue };
            let payload = io.pool.take(Part::Read, length as usize);
            disk.reads.insert(tag, Read { payload, offset, done: 0, find_zeroes, begun: io.now });
            disk.continue_read(io, tag);
        }
    }

    /// `Action::GrowDisk`: what takes the room; no metadata is written before [`Disks::grown`].
    pub(crate) fn grow(&mut self, volume: VolumeNumber) -> Option<Growing> {
        let disk = self.disks.get_mut(&volume)?;
        // It is not closed meanwhile.
        disk.under_way += 1;
        Some(disk.open.growing())
    }

    /// The disk has its room, or not.
    pub(crate) fn grown(&mut self, volume: VolumeNumber, geometry: Option<Geometry>) {
        let closing = self.closing.iter_mut().map(|(disk, _)| disk);
        let mut all = self.disks.values_mut().chain(closing);
        let Some(disk) = all.find(|disk| disk.volume == volume) else { return };
        disk.under_way -= 1;
        if let Some(geometry) = geometry {
            disk.open.geometry.set(geometry);
        }
    }

    /// `Action::DiskFlush`.
    pub(crate) fn flush(&mut self, io: &mut Context, tag: Tag, volume: VolumeNumber) {
        let Some(disk) = self.disk(io, tag, volume) else { return };
        if !disk.flushes.disk {
            io.events.push_back(Event::DiskDone { tag, result: Ok(None) });
            return;
        }
        disk.sync_data(io, Waiter::Flush(tag));
    }

    /// `Action::CloseDisk`. The disk comes out of [`Disks::next_closed`] when nothing of it is
    /// under way.
    pub(crate) fn close(
        &mut self,
        io: &mut Context,
        volume: VolumeNumber,
        superblock: Option<Box<Superblock>>,
    ) {
        io.fast_zeroes.retain(|(one, _)| *one != volume);
        if let Some(disk) = self.disks.remove(&volume) {
            self.closing.push((disk, superblock));
        }
    }

    /// A disk that can be closed now.
    pub(crate) fn next_closed(&mut self) -> Option<Closing> {
        let index = self.closing.iter().position(|(disk, _)| disk.under_way == 0)?;
        let (disk, superblock) = self.closing.swap_remove(index);
        let Disk { volume, open, .. } = disk;
        Some(Closing { volume, open, superblock })
    }

    /// Disks that are to be closed but have something under way.
    pub(crate) fn is_closing(&self) -> bool {
        !self.closing.is_empty()
    }

    /// Whose disks those are.
    pub(crate) fn closing(&self) -> impl Iterator<Item = VolumeNumber> {
        self.closing.iter().map(|(disk, _)| disk.volume)
    }

    /// Everything is closed at once, without a word in the metadata (the end of the thread).
    pub(crate) fn close_all(&mut self, io: &mut Context) {
        let volumes: Vec<_> = self.disks.keys().copied().collect();
        volumes.into_iter().for_each(|volume| self.close(io, volume, None));
    }

    /// An operation of a disk has ended.
    pub(crate) fn completed(
        &mut self,
        io: &mut Context,
        number: u64,
        step: DiskStep,
        memory: Memory,
        result: i32,
    ) {
        let closing = self.closing.iter_mut().map(|(disk, _)| disk);
        let mut all = self.disks.values_mut().chain(closing);
        let Some(disk) = all.find(|disk| disk.number == number) else {
            return io.reclaim(memory);
        };
        disk.under_way -= 1;
        if is_failure(step, result) {
            // Before anyone hears of it, and also if this process ends now.
            disk.open.distrust();
        }
        match step {
            DiskStep::Read(tag) => {
                io.reclaim(memory);
                disk.read_done(io, tag, result);
            }
            DiskStep::Write(tag) => disk.write_done(io, tag, memory, result),
            DiskStep::Zeroes(tag) => disk.zeroes_done(io, tag, result),
            DiskStep::Meta(tag, index) => disk.meta_done(io, tag, index, memory, result),
            DiskStep::SyncData => disk.sync_done(io, false, result),
            DiskStep::SyncMeta => disk.sync_done(io, true, result),
        }
    }
}

impl Disk {
    fn purpose(&self, step: DiskStep) -> Purpose {
        Purpose::Disk(self.number, step)
    }

    fn continue_read(&mut self, io: &mut Context, tag: Tag) {
        let Some(read) = self.reads.get(&tag) else { return };
        let Read { payload, offset, done, .. } = *read;
        let rest = part_of(payload, done as usize, (payload.length - done) as usize);
        match io.pool.lease(rest, Direction::Sink) {
            Ok(lease) => {
                let purpose = self.purpose(DiskStep::Read(tag));
                io.ring.read(&self.data, lease, offset + u64::from(done), purpose);
                self.under_way += 1;
            }
            Err(error) => {
                tracing::error!(target: "tandem", resource = %io.name, "defect: {error}");
                self.read_done(io, tag, -libc::EFAULT);
            }
        }
    }

    fn read_done(&mut self, io: &mut Context, tag: Tag, result: i32) {
        let Some(read) = self.reads.get_mut(&tag) else { return };
        let result = match result {
            // The data area lies inside the disk: an end here means that the disk was cut.
            0 => Err(disk_error(libc::EIO)),
            n if n < 0 && matches!(-n, libc::EINTR | libc::EAGAIN) => {
                return self.continue_read(io, tag);
            }
            n if n < 0 => Err(disk_error(-n)),
            n => {
                read.done += n as u32;
                if read.done < read.payload.length {
                    return self.continue_read(io, tag);
                }
                Ok(Some(read.payload))
            }
        };
        let (payload, find_zeroes) = (read.payload, read.find_zeroes);
        self.reads.remove(&tag);
        let zeroes = || find_zeroes && io.pool.bytes(payload).is_ok_and(is_zero);
        let result = result.map(|payload| payload.filter(|_| !zeroes()));
        if !matches!(result, Ok(Some(_))) {
            io.release(payload);
        }
        io.events.push_back(Event::DiskDone { tag, result });
    }

    fn sync_data(&mut self, io: &mut Context, waiter: Waiter) {
        self.data_syncs.wait(waiter);
        self.start_syncs(io);
    }

    fn sync_meta(&mut self, io: &mut Context, waiter: Waiter) {
        let external = self.open.meta.is_some();
        let syncs = if external { &mut self.meta_syncs } else { &mut self.data_syncs };
        syncs.wait(waiter);
        self.start_syncs(io);
    }

    fn start_syncs(&mut self, io: &mut Context) {
        if self.data_syncs.start(io.now) {
            if self.is_cut() {
                return self.sync_done(io, false, -libc::EIO);
            }
            io.ring.data_sync(&self.data, self.purpose(DiskStep::SyncData));
            self.under_way += 1;
        }
        if self.meta_syncs.start(io.now) {
            io.ring.data_sync(&self.meta, self.purpose(DiskStep::SyncMeta));
            self.under_way += 1;
        }
    }

    /// Nothing that may lie behind the end of a file that was made shorter is vouched for, or written there.
    fn is_cut(&self) -> bool {
        let cut = self.open.is_cut();
        if cut {
            self.open.distrust();
            let path = &self.open.attached.path;
            tracing::error!(target: "tandem", "{path} was made shorter while it was attached: it is let go of");
        }
        cut
    }

    fn sync_done(&mut self, io: &mut Context, meta: bool, result: i32) {
        let syncs = if meta { &mut self.meta_syncs } else { &mut self.data_syncs };
        let (waiters, result) = syncs.done(result);
        // EINTR and all others alike: a sync that did not succeed is a failed disk.
        // Never NoSpace, which is tried again: the next sync would not tell of it any more.
        let result = if result < 0 { Err(DiskError::Io(-result)) } else { Ok(()) };
        for waiter in &waiters {
            match *waiter {
                Waiter::Flush(tag) => {
                    let result = result.map(|()| None);
                    io.events.push_back(Event::DiskDone { tag, result });
                }
                Waiter::Write(tag) => self.write_synced(io, tag, result),
                Waiter::Zeroes(tag) => self.zeroes_synced(io, tag, result),
                Waiter::Meta(tag) => self.stage_durable(io, tag, result),
            }
        }
        let syncs = if meta { &mut self.meta_syncs } else { &mut self.data_syncs };
        syncs.told(waiters);
        self.start_syncs(io);
    }

    fn file(&self) -> &File {
        &self.open.data
    }
}

impl std::fmt::Debug for Disks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let volumes: Vec<_> = self.disks.keys().collect();
        f.debug_struct("Disks").field("volumes", &volumes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
