//! `create-md --preallocate`: every block of the file is written once, so that later writes change
//! no file system metadata (a flush is then half as long). Data is never touched: zeroes go into
//! holes and unwritten ranges only, which read as zeroes already.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::device::Device;

const CHUNK: usize = 1 << 20;
const ALIGN: usize = 4096;

/// Reserves blocks for a range of a file; what is there stays. A file system that cannot is left as
/// it is.
pub(super) fn reserve(device: &Device, offset: u64, length: u64) -> io::Result<()> {
    if device.block || length == 0 {
        return Ok(());
    }
    let (offset, length) = (signed(offset)?, signed(length)?);
    match fallocate(device.file.as_fd(), FallocateFlags::empty(), offset, length) {
        Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes zeroes into every hole and unwritten range of a regular file, and flushes. The caller has
/// the disk for itself. Returns the bytes written.
pub(super) fn fill_holes(device: &Device) -> io::Result<u64> {
    if device.block {
        return Ok(0);
    }
    // What waits in the page cache must count as data, and no space must be found missing half-way.
    device.file.sync_data()?;
    let end = device.size / ALIGN as u64 * ALIGN as u64;
    reserve(device, 0, end)?;
    let mut written = 0;
    let mut at = 0;
    while let Some((first, last)) = next_hole(device, at, end)? {
        written += write_zeroes(device, first, last)?;
        at = last;
    }
    device.file.sync_data()?;
    Ok(written)
}

/// The next hole at or behind `at`, to whole blocks inwards: a block that has any data is not one.
fn next_hole(device: &Device, mut at: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    while at < end {
        let hole = seek(device, at, Whence::SeekHole)?.unwrap_or(end);
        let data = seek(device, hole, Whence::SeekData)?.unwrap_or(end);
        let first = hole.div_ceil(ALIGN as u64) * ALIGN as u64;
        let last = data.min(end) / ALIGN as u64 * ALIGN as u64;
        if first < last {
            return Ok(Some((first, last)));
        }
        at = data.max(at + 1);
    }
    Ok(None)
}

/// `None`: nothing of the kind up to the end of the file.
fn seek(device: &Device, at: u64, whence: Whence) -> io::Result<Option<u64>> {
    match lseek(device.file.as_fd(), signed(at)?, whence) {
        Ok(found) => Ok(Some(u64::try_from(found).map_err(io::Error::other)?)),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn write_zeroes(device: &Device, first: u64, last: u64) -> io::Result<u64> {
    let memory = vec![0u8; CHUNK + ALIGN];
    let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
    let mut at = first;
    while at < last {
        let length = usize::try_from(last - at).unwrap_or(CHUNK).min(CHUNK);
        device.file.write_all_at(&memory[start..start + length], at)?;
        at += length as u64;
    }
    Ok(last - first)
}

fn signed(bytes: u64) -> io::Result<i64> {
    i64::try_from(bytes).map_err(io::Error::other)
}
