//! One disk, opened: a block device or a regular file, its size, its blocks, and how a write on it
//! becomes durable.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};
use nix::sys::statfs::fstatfs;

use super::error::{OpenError, Part, disk_error};
use super::lock::{Held, Reach, block_holder, holder, try_hold};
use super::under::{Taken, Under};
use crate::meta::Stage;
use crate::resource::DiskError;

/// How often a lock that is taken is tried again.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// The memory alignment that O_DIRECT takes everywhere.
const ALIGN: usize = 4096;

/// File systems where RWF_DSYNC is lost or cannot be relied on: a durable write there is a write
/// and a data sync (measured on FUSE). `statfs(2)`.
const NO_DSYNC: [(i64, &str); 8] = [
    (0x6573_5546, "FUSE"),
    (0x6969, "NFS"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x517B, "SMB"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "Ceph"),
    (0x5346_414F, "AFS"),
];

/// File systems whose holes are believed in: ext4, XFS, Btrfs, F2FS, tmpfs (`statfs(2)`). Others
/// have called data a hole that was just written, or ask a network.
const KNOWS_HOLES: [u32; 5] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0x0102_1994];

/// What it is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// To be attached or made: read, write, alone.
    Exclusive,
    /// To be looked at: read only, whoever else has it.
    ReadOnly,
    /// The same without a lock of its own, which an attach at that moment would run into.
    Glance,
}

/// A disk, opened and (for exclusive access) locked.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) part: Part,
    /// Bytes.
    pub(super) size: u64,
    /// A block device; otherwise a regular file.
    pub(super) block: bool,
    /// O_DIRECT is on.
    pub(super) direct: bool,
    /// RWF_DSYNC is durable here.
    pub(super) dsync: bool,
    /// 512 or 4096.
    pub(super) logical_block_size: u32,
    /// For the log.
    pub(super) notes: Vec<String>,
    /// `None`: read only, and somebody else holds it; or only glanced at.
    pub(super) held: Option<Held>,
}

impl Device {
    /// Opens and locks. A lock that is taken is tried again for `wait`.
    pub(super) fn open(
        path: &Path,
        part: Part,
        access: Access,
        wait: Duration,
    ) -> Result<Self, OpenError> {
        let at = || path.to_owned();
        let failed = |error: io::Error| OpenError::Open { path: at(), part, error };
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        let block = kind.is_block_device();
        if !block && !kind.is_file() {
            return Err(OpenError::NotADisk { path: at(), part });
        }
        let deadline = Instant::now() + wait;
        let (mut file, direct) = loop {
            match open_file(path, block, access) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    if Instant::now() >= deadline {
                        let device = std::fs::metadata(path).map_err(failed)?.st_rdev();
                        let holder = block_holder(device);
                        return Err(OpenError::Claimed { path: at(), part, holder });
                    }
                    std::thread::sleep(LOCK_POLL);
                }
                opened => break opened.map_err(failed)?,
            }
        };
        // What was opened counts, not what the path was a moment ago.
        let opened = file.metadata().map_err(failed)?;
        if opened.file_type().is_block_device() != block || (!block && !opened.is_file()) {
            return Err(OpenError::NotADisk { path: at(), part });
        }
        // It was for what is no disk. A disk whose driver takes no NOWAIT would answer the ring with EAGAIN for ever.
        let flags = OFlag::from_bits_retain(
            fcntl(file.as_fd(), FcntlArg::F_GETFL).map_err(|e| failed(e.into()))?,
        );
        fcntl(file.as_fd(), FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))
            .map_err(|e| failed(e.into()))?;
        let mut notes = Vec::new();
        let under = match block && access != Access::Glance {
            true => Under::of(opened.st_rdev()),
            false => Ok(None),
        };
        let under = under.unwrap_or_else(|why| {
            notes.push(format!(
                "{}: whether this is a loop device over a file cannot be told, and who has that is not seen: {why}",
                path.display()
            ));
            None
        });
        let taken = take_under(under.as_ref(), path, part, access, deadline, &mut notes)?;
        let held = hold(&file, path, part, block, access, deadline)?;
        let held = match taken {
            Ok(taken) => held.map(|held| held.over(taken)),
            Err(()) => None,
        };
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let rdev = opened.st_rdev();
        let mut device = Self {
            file,
            path: at(),
            part,
            size,
            block,
            direct,
            dsync: true,
            logical_block_size: 512,
            notes,
            held,
        };
        device.find_block_size(rdev).map_err(failed)?;
        device.find_durability().map_err(failed)?;
        Ok(device)
    }

    /// The same open file once more, without the lock, which is on both.
    pub(super) fn again(&self) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            path: self.path.clone(),
            part: self.part,
            size: self.size,
            block: self.block,
            direct: self.direct,
            dsync: self.dsync,
            logical_block_size: self.logical_block_size,
            notes: Vec::new(),
            held: None,
        })
    }

    /// A block device says it itself. On a file, the smallest direct read that works decides: a
    /// file system on a disk with blocks of 4096 bytes refuses less.
    fn find_block_size(&mut self, rdev: u64) -> io::Result<()> {
        if self.block
            && let Some(size) = sysfs_block_size(rdev)
        {
            self.logical_block_size = if size <= 512 { 512 } else { 4096 };
            if size > 4096 {
                return Err(io::Error::other(format!(
                    "logical blocks of {size} bytes, 4096 is the limit"
                )));
            }
        }
        if self.direct && self.size >= ALIGN as u64 {
            let refused = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
            if self.read(0, self.logical_block_size as usize).is_err_and(|e| refused(&e)) {
                self.logical_block_size = 4096;
            }
            if self.read(0, ALIGN).is_err_and(|e| refused(&e)) {
                let flags = OFlag::from_bits_retain(fcntl(self.file.as_fd(), FcntlArg::F_GETFL)?);
                fcntl(self.file.as_fd(), FcntlArg::F_SETFL(flags - OFlag::O_DIRECT))?;
                self.direct = false;
            }
        }
        if !self.direct {
            self.notes.push(format!(
                "{}: no direct I/O here, going through the page cache",
                self.path.display()
            ));
        }
        Ok(())
    }

    fn find_durability(&mut self) -> io::Result<()> {
        if self.block {
            return Ok(());
        }
        let kind = fstatfs(&self.file)?.filesystem_type();
        let name = NO_DSYNC.iter().find(|(magic, _)| *magic as u32 == kind.0 as u32);
        if let Some((_, name)) = name {
            self.dsync = false;
            self.notes.push(format!(
                "{}: on {name}: a durable write is a write and a data sync",
                self.path.display()
            ));
        }
        Ok(())
    }

    /// Its file system can be asked for holes.
    pub(super) fn knows_holes(&self) -> bool {
        let kind = fstatfs(&self.file).map(|fs| fs.filesystem_type().0 as u32);
        kind.is_ok_and(|kind| KNOWS_HOLES.contains(&kind))
    }

    /// Clean pages leave the page cache, so that the next read is of the disk.
    pub(super) fn drop_cache(&self) -> io::Result<()> {
        let whole = 0;
        Ok(posix_fadvise(&self.file, 0, whole, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
    }

    /// Exactly `length` bytes. With direct I/O, offset and length must be multiples of the block.
    pub(super) fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        read_aligned(&self.file, offset, length)
    }

    /// Any range that lies on the disk; `None` if it does not.
    pub(super) fn peek(&self, offset: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
        let Some(end) = offset.checked_add(length as u64).filter(|end| *end <= self.size) else {
            return Ok(None);
        };
        let block = u64::from(self.logical_block_size);
        let first = offset / block * block;
        // The end may lie in a last piece of a file that is no whole block: read what is there.
        let wanted =
            usize::try_from(end.div_ceil(block) * block - first).map_err(io::Error::other)?;
        let mut memory = vec![0u8; wanted + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        let skip = usize::try_from(offset - first).map_err(io::Error::other)?;
        let mut done = 0;
        while done < skip + length {
            match self
                .file
                .read_at(&mut memory[start + done..start + wanted], first + done as u64)?
            {
                0 => return Ok(None),
                count => done += count,
            }
        }
        Ok(Some(memory[start + skip..start + skip + length].to_vec()))
    }

    /// For the loader.
    pub(super) fn reader(&self) -> impl FnMut(u64, usize) -> Result<Vec<u8>, DiskError> + '_ {
        |offset, length| self.read(offset, length).map_err(|error| disk_error(&error))
    }

    /// The stages, each durable before the next one starts.
    pub(super) fn write_stages(&self, stages: &[Stage]) -> io::Result<()> {
        for stage in stages {
            for (offset, bytes) in &stage.writes {
                self.file.write_all_at(bytes, *offset)?;
            }
            self.file.sync_data()?;
        }
        Ok(())
    }

    pub(super) fn io_error(&self, what: &'static str, error: io::Error) -> OpenError {
        OpenError::Io { path: self.path.clone(), what, error }
    }
}

/// Exactly `length` bytes, through memory that O_DIRECT takes.
pub(super) fn read_aligned(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut memory = vec![0u8; length + ALIGN];
    let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
    file.read_exact_at(&mut memory[start..start + length], offset)?;
    memory.copy_within(start..start + length, 0);
    memory.truncate(length);
    Ok(memory)
}

fn open_file(path: &Path, block: bool, access: Access) -> io::Result<(File, bool)> {
    let mut flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    if block && access == Access::Exclusive {
        flags |= OFlag::O_EXCL;
    }
    let open = |flags: OFlag| {
        let write = access == Access::Exclusive;
        OpenOptions::new().read(true).write(write).custom_flags(flags.bits()).open(path)
    };
    match open(flags | OFlag::O_DIRECT) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok((open(flags)?, false)),
        Err(error) => Err(error),
    }
}

/// Takes the file under a loop device. Inside: somebody else has it, which one who only looks is told.
fn take_under(
    under: Option<&Under>,
    path: &Path,
    part: Part,
    access: Access,
    deadline: Instant,
    notes: &mut Vec<String>,
) -> Result<Result<Option<Held>, ()>, OpenError> {
    let Some(under) = under else { return Ok(Ok(None)) };
    loop {
        match under.take(access == Access::Exclusive) {
            Taken::Held(held) => return Ok(Ok(Some(held))),
            Taken::Unknown(why) => {
                notes.push(format!(
                    "{}: the file under this loop device cannot be locked, and who else has it is not seen: {why}",
                    path.display()
                ));
                return Ok(Ok(None));
            }
            Taken::Claimed(_) if access == Access::ReadOnly => return Ok(Err(())),
            Taken::Claimed(file) if Instant::now() >= deadline => {
                let holder = Some(under.holder(&file));
                return Err(OpenError::Claimed { path: path.to_owned(), part, holder });
            }
            Taken::Claimed(_) => std::thread::sleep(LOCK_POLL),
        }
    }
}

fn hold(
    file: &File,
    path: &Path,
    part: Part,
    block: bool,
    access: Access,
    deadline: Instant,
) -> Result<Option<Held>, OpenError> {
    let failed = |error: io::Error| {
        let error = io::Error::new(error.kind(), format!("cannot lock it: {error}"));
        OpenError::Open { path: path.to_owned(), part, error }
    };
    match access {
        Access::Exclusive => {}
        Access::ReadOnly if block => return claim(file).map_err(failed),
        Access::ReadOnly => return try_hold(file, Reach::File, false).map_err(failed),
        Access::Glance => return Ok(None),
    }
    loop {
        let reach = if block { Reach::Device } else { Reach::File };
        if let Some(held) = try_hold(file, reach, true).map_err(failed)? {
            return Ok(Some(held));
        }
        if Instant::now() >= deadline {
            let holder = holder(file);
            return Err(OpenError::Claimed { path: path.to_owned(), part, holder });
        }
        std::thread::sleep(LOCK_POLL);
    }
}

/// Claims a block device that is open already, for as long as it is looked at. `None`: somebody
/// else has it.
fn claim(file: &File) -> io::Result<Option<Held>> {
    // The same device, whatever stands at its path by now.
    let same = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlag::O_EXCL | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    match OpenOptions::new().read(true).custom_flags(flags.bits()).open(same) {
        Ok(claimed) => try_hold(&claimed, Reach::Device, false),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `MAJOR:MINOR` of a device number, as sysfs and mountinfo write it.
pub(super) fn device_number(device: u64) -> String {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    format!("{major}:{minor}")
}

/// A partition has the queue of its disk, one folder up.
fn sysfs_block_size(device: u64) -> Option<u32> {
    let folder = format!("/sys/dev/block/{}", device_number(device));
    let folder = std::fs::canonicalize(folder).ok()?;
    let own = folder.join("queue/logical_block_size");
    let disk = folder.parent()?.join("queue/logical_block_size");
    let text = std::fs::read_to_string(own).or_else(|_| std::fs::read_to_string(disk)).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ring would be told EAGAIN for ever by a driver that takes no NOWAIT.
    #[test]
    fn what_is_opened_waits() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        for access in [Access::Exclusive, Access::ReadOnly, Access::Glance] {
            let device = Device::open(file.path(), Part::Data, access, Duration::ZERO).unwrap();
            let flags = fcntl(device.file.as_fd(), FcntlArg::F_GETFL).unwrap();
            assert!(!OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK), "{access:?}");
        }
    }
}
