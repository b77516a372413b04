//! Locks of a disk, and who holds one that is taken.
//!
//! A file is held by an OFD lock over all of it (which other virtualisation programs look at too)
//! and by flock; a block device by O_EXCL (see `device.rs`) and by a flock that is shared: udev puts
//! off what it has to do with a disk while an exclusive one is held, and ours is held for months. What a loop device
//! shows of a file is held as well (see `under.rs`).
//! All of them end with the open file, whatever kills the process.

use std::fs::File;
use std::io;
use std::os::linux::fs::MetadataExt as _;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};

/// A held lock. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Held {
    /// The same open file: the flock is given back when this is dropped, the OFD lock too.
    file: Flock<File>,
    ofd: Option<libc::flock>,
    /// Of the file under a loop device.
    under: Option<Box<Held>>,
}

/// What of it is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// A regular file that is a disk: all of it, also for those who look at OFD locks.
    File,
    /// A block device: a flock, which is shared.
    Device,
    /// This part of a regular file, bytes; a length of 0: to its end.
    Part { start: u64, length: u64 },
}

impl Held {
    /// With the lock of the file under it.
    pub(super) fn over(mut self, under: Option<Held>) -> Self {
        self.under = under.map(Box::new);
        self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(mut range) = self.ofd {
            range.l_type = libc::F_UNLCK as libc::c_short;
            // Best effort: the lock ends with the open file in any case.
            let _ = fcntl(&*self.file, FcntlArg::F_OFD_SETLK(&range));
        }
    }
}

/// Tries once. `Ok(None)`: somebody else holds it. `exclusive`: for one who writes.
pub(super) fn try_hold(file: &File, reach: Reach, exclusive: bool) -> io::Result<Option<Held>> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    let (flock, ofd) = match reach {
        Reach::File if exclusive => (FlockArg::LockExclusiveNonblock, Some(range(kind, 0, 0))),
        Reach::File => (FlockArg::LockSharedNonblock, Some(range(kind, 0, 0))),
        Reach::Device => (FlockArg::LockSharedNonblock, None),
        Reach::Part { start, length } => {
            (FlockArg::LockSharedNonblock, Some(range(kind, start, length)))
        }
    };
    let file = match Flock::lock(file.try_clone()?, flock) {
        Ok(file) => file,
        Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, errno)) => return Err(errno.into()),
    };
    if let Some(range) = ofd {
        match fcntl(&*file, FcntlArg::F_OFD_SETLK(&range)) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Some(Held { file, ofd, under: None }))
}

/// A length of 0: to the end of the file.
fn range(kind: i32, start: u64, length: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start.cast_signed(),
        l_len: length.cast_signed(),
        l_pid: 0,
    }
}

/// Who holds a lock on this file, as far as `/proc/locks` tells: `tandemd (pid 1234)`.
pub(super) fn holder(file: &File) -> Option<String> {
    let inode = file.metadata().ok()?.st_ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| flock_pid(line, inode))?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    Some(match name {
        Some(name) => format!("{} (pid {pid})", crate::meta::printable(name.trim(), 64)),
        None => format!("pid {pid}"),
    })
}

/// `1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF`: 1234, if the inode is 5678. OFD locks have no
/// process, which is why the flock is asked.
fn flock_pid(line: &str, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace().skip_while(|word| !word.contains("FLOCK"));
    let (_, _, _, pid, place) =
        (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    let at: u64 = place.rsplit(':').next()?.parse().ok()?;
    let pid: u32 = pid.parse().ok()?;
    (at == inode && pid != 0).then_some(pid)
}

/// What claims a block device: where it is mounted, or the device that is built on it.
pub(super) fn block_holder(device: u64) -> Option<String> {
    let number = super::device::device_number(device);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = mounts.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (_, _, at) = (words.next()?, words.next()?, words.next()?);
        (at == number).then(|| words.nth(1).map(str::to_owned))?
    });
    if let Some(place) = mounted {
        return Some(format!("the mount at {}", crate::meta::printable(&place, 256)));
    }
    let holders = std::fs::read_dir(format!("/sys/dev/block/{number}/holders")).ok()?;
    let name = holders.flatten().next()?.file_name();
    Some(format!("/dev/{}", name.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::flock_pid;

    #[test]
    fn holder_is_read_from_the_flock_line_of_the_inode() {
        let line = "3: FLOCK  ADVISORY  WRITE 4711 fd:01:1835010 0 EOF";
        assert_eq!(flock_pid(line, 1_835_010), Some(4711));
        assert_eq!(flock_pid(line, 7), None);
        assert_eq!(flock_pid("3: OFDLCK ADVISORY  WRITE -1 fd:01:7 0 EOF", 7), None);
        assert_eq!(flock_pid("3: FLOCK", 7), None);
    }
}
