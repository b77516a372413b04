//! Writes of data, and zeroes.

use crate::resource::{DiskError, Event, Payload, Tag, Time, VolumeNumber};

use super::{Disk, DiskStep, Disks, Waiter, disk_error};
use crate::io::buffer::{Direction, Lease};
use crate::io::context::Context;
use crate::io::ring::Memory;

/// Zeroes that are written are written in pieces of this size, bytes.
const ZERO_BUFFER: usize = 1 << 20;

/// A write that is under way.
pub(super) struct Write {
    offset: u64,
    length: u32,
    done: u32,
    fua: bool,
    /// Not in one operation with its sync: that has found no space.
    apart: Option<Apart>,
    begun: Time,
}

impl Write {
    pub(super) fn begun(&self) -> Time {
        self.begun
    }
}

/// What a write that was to be durable in one operation has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Apart {
    /// It was cut short.
    Short,
    /// No space, for the write or for what the disk had acknowledged before: the same write without the sync tells.
    NoSpace,
}

/// How zeroes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ZeroMode {
    /// A hole: the blocks are given back.
    Punch,
    /// The blocks are kept, and marked as zero.
    Keep,
    /// Zeroes are written.
    Written,
}

/// What the disk is known to do; each turns false when the disk says that it cannot.
#[derive(Clone, Copy, Debug)]
pub(super) struct ZeroWays {
    /// Holes are punched. Never on a disk whose blocks are kept.
    pub(super) punch: bool,
    /// Blocks can be marked as zero.
    pub(super) keep: bool,
}

impl ZeroWays {
    fn mode(self, asked: ZeroesAsked) -> ZeroMode {
        match (self.punch && !asked.no_hole, self.keep && !asked.written) {
            (true, _) => ZeroMode::Punch,
            (false, true) => ZeroMode::Keep,
            (false, false) => ZeroMode::Written,
        }
    }
}

/// What is asked of zeroes, as in `Action::DiskZeroes`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ZeroesAsked {
    /// No hole.
    pub(crate) no_hole: bool,
    /// A hole, or written.
    pub(crate) written: bool,
    /// Durable when they are done.
    pub(crate) fua: bool,
}

/// Zeroes that are under way.
pub(super) struct Zeroes {
    asked: ZeroesAsked,
    offset: u64,
    length: u32,
    done: u32,
    mode: ZeroMode,
    source: bytes::Bytes,
}

impl Disks {
    /// `Action::DiskWrite`.
    pub(crate) fn write(
        &mut self,
        io: &mut Context,
        tag: Tag,
        volume: VolumeNumber,
        offset: u64,
        payload: Payload,
        fua: bool,
    ) {
        let Some(disk) = self.disk(io, tag, volume) else { return };
        match io.pool.lease(payload, Direction::Source) {
            Ok(lease) => {
                let fua = fua && disk.flushes.disk;
                let (length, begun) = (payload.length, io.now);
                let write = Write { offset, length, done: 0, fua, apart: None, begun };
                disk.writes.insert(tag, write);
                disk.continue_write(io, tag, lease);
            }
            Err(error) => {
                tracing::error!(target: "tandem", resource = %io.name, "defect: {error}");
                let result = Err(DiskError::Io(libc::EFAULT));
                io.events.push_back(Event::DiskDone { tag, result });
            }
        }
    }

    /// `Action::DiskZeroes`.
    pub(crate) fn zero(
        &mut self,
        io: &mut Context,
        tag: Tag,
        volume: VolumeNumber,
        (offset, length): (u64, u32),
        mut asked: ZeroesAsked,
    ) {
        let source = self.zeroes.get_or_insert_with(|| aligned_zeroes(ZERO_BUFFER)).clone();
        let Some(disk) = self.disk(io, tag, volume) else { return };
        let mode = disk.zero_ways.mode(asked);
        asked.fua &= disk.flushes.disk;
        let zeroes = Zeroes { asked, offset, length, done: 0, mode, source };
        disk.zeroes.insert(tag, zeroes);
        disk.continue_zeroes(io, tag);
    }
}

/// Zeroes at a multiple of 4096, for O_DIRECT.
fn aligned_zeroes(length: usize) -> bytes::Bytes {
    let bytes = bytes::Bytes::from(vec![0u8; length + 4096]);
    let start = bytes.as_ptr().align_offset(4096);
    bytes.slice(start..start + length)
}

/// The file system or the device cannot do it, and another way is tried.
pub(super) fn unsupported(errno: i32) -> bool {
    matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV | libc::EPERM)
}

fn again(errno: i32) -> bool {
    matches!(errno, libc::EINTR | libc::EAGAIN)
}

impl Disk {
    fn continue_write(&mut self, io: &mut Context, tag: Tag, lease: Lease) {
        let Some(write) = self.writes.get(&tag) else { return io.pool.end(lease) };
        let durable = write.fua && self.open.dsync && write.apart.is_none();
        let (skip, offset) = (write.done as usize, write.offset);
        let purpose = self.purpose(DiskStep::Write(tag));
        io.ring.write(&self.data, Memory::Lease(lease), skip, offset, durable, purpose);
        self.under_way += 1;
    }

    pub(super) fn write_done(&mut self, io: &mut Context, tag: Tag, memory: Memory, result: i32) {
        let (Some(write), Memory::Lease(lease)) = (self.writes.get_mut(&tag), memory) else {
            return;
        };
        let no_space = result < 0 && disk_error(-result) == DiskError::NoSpace;
        if (result == 0 || no_space) && write.fua && self.open.dsync && write.apart.is_none() {
            write.apart = Some(if no_space { Apart::NoSpace } else { Apart::Short });
            return self.continue_write(io, tag, lease);
        }
        let failed = match result {
            0 => Some(DiskError::NoSpace),
            n if n < 0 && again(-n) => return self.continue_write(io, tag, lease),
            n if n < 0 => Some(disk_error(-n)),
            n => {
                write.done += n as u32;
                if write.done < write.length {
                    return self.continue_write(io, tag, lease);
                }
                // There is space: it was the sync that had none. The kernel says that once, and the next sync,
                // which may be the one that others wait for, would end well.
                (write.apart == Some(Apart::NoSpace)).then_some(DiskError::Io(libc::ENOSPC))
            }
        };
        let sync = write.fua && (write.apart.is_some() || !self.open.dsync);
        io.pool.end(lease);
        match failed {
            None if sync => self.sync_data(io, Waiter::Write(tag)),
            None => self.write_synced(io, tag, Ok(())),
            Some(error) => self.write_synced(io, tag, Err(error)),
        }
    }

    pub(super) fn write_synced(
        &mut self,
        io: &mut Context,
        tag: Tag,
        result: Result<(), DiskError>,
    ) {
        self.writes.remove(&tag);
        let result = result.map(|()| None);
        io.events.push_back(Event::DiskDone { tag, result });
    }

    fn continue_zeroes(&mut self, io: &mut Context, tag: Tag) {
        let Some(zeroes) = self.zeroes.get(&tag) else { return };
        let purpose = self.purpose(DiskStep::Zeroes(tag));
        let (offset, length) = (zeroes.offset, u64::from(zeroes.length));
        match zeroes.mode {
            ZeroMode::Punch => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                io.ring.allocate(&self.data, mode, offset, length, purpose);
            }
            ZeroMode::Keep => {
                let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
                io.ring.allocate(&self.data, mode, offset, length, purpose);
            }
            ZeroMode::Written => {
                let left = (zeroes.length - zeroes.done) as usize;
                let source = zeroes.source.slice(..left.min(ZERO_BUFFER));
                let at = offset + u64::from(zeroes.done);
                io.ring.write(&self.data, Memory::Bytes(source), 0, at, false, purpose);
            }
        }
        self.under_way += 1;
    }

    pub(super) fn zeroes_done(&mut self, io: &mut Context, tag: Tag, result: i32) {
        let Some(zeroes) = self.zeroes.get_mut(&tag) else { return };
        let written = zeroes.mode == ZeroMode::Written;
        let failed = match result {
            n if n < 0 && again(-n) => return self.continue_zeroes(io, tag),
            n if n < 0 && !written && unsupported(-n) => {
                // Punching may be refused where marking works: one way after the other.
                let (mode, asked) = (zeroes.mode, zeroes.asked);
                self.lose_way(io, mode);
                let next = self.zero_ways.mode(asked);
                if let Some(zeroes) = self.zeroes.get_mut(&tag) {
                    zeroes.mode = next;
                }
                return self.continue_zeroes(io, tag);
            }
            n if n < 0 => Some(disk_error(-n)),
            0 if written => Some(DiskError::NoSpace),
            n if written => {
                zeroes.done += n as u32;
                if zeroes.done < zeroes.length {
                    return self.continue_zeroes(io, tag);
                }
                None
            }
            _ => None,
        };
        let sync = zeroes.asked.fua;
        match failed {
            None if sync => self.sync_data(io, Waiter::Zeroes(tag)),
            None => self.zeroes_synced(io, tag, Ok(())),
            Some(error) => self.zeroes_synced(io, tag, Err(error)),
        }
    }

    /// The disk cannot do it this way.
    fn lose_way(&mut self, io: &mut Context, mode: ZeroMode) {
        let what = match mode {
            ZeroMode::Punch => {
                self.zero_ways.punch = false;
                io.fast_zeroes.remove(&(self.volume, false));
                "punch holes"
            }
            ZeroMode::Keep => {
                self.zero_ways.keep = false;
                io.fast_zeroes.remove(&(self.volume, true));
                "mark blocks as zero"
            }
            ZeroMode::Written => return,
        };
        tracing::info!(target: "tandem", resource = %io.name, volume = self.volume,
            "{}: this disk cannot {what}", self.open.attached.path);
    }

    pub(super) fn zeroes_synced(
        &mut self,
        io: &mut Context,
        tag: Tag,
        result: Result<(), DiskError>,
    ) {
        self.zeroes.remove(&tag);
        let result = result.map(|()| None);
        io.events.push_back(Event::DiskDone { tag, result });
    }
}
