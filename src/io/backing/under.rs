//! The file under a loop device: who has the one must not be met by who has the other.
//!
//! Invariants:
//! - Who has a loop device holds the part of the file that it shows: a shared flock, as other loop devices may show
//!   other parts of it, and an OFD lock over that part. Who has the file itself holds both whole ([`super::lock`]).
//! - What cannot be found out or locked is said and stands in nobody's way. A loop device over a device is not
//!   followed, and no device of the device mapper over a loop device. The path of the file is that of who made the loop
//!   device: where that was in another mount namespace, the file by that path here is taken for it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::device::device_number;
use super::lock::{Held, Reach, try_hold};

/// The part of a file that a loop device, or a partition of one, shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Under {
    path: PathBuf,
    /// Bytes; a length of 0: to its end.
    start: u64,
    length: u64,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is held.
    Held(Held),
    /// Somebody else has that part of the file, or all of it.
    Claimed(File),
    /// It cannot be locked.
    Unknown(String),
}

impl Under {
    /// `None`: the block device is no loop device over a file.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub(super) fn of(device: u64) -> Result<Option<Self>, String> {
        let folder = format!("/sys/dev/block/{}", device_number(device));
        let found = std::fs::canonicalize(&folder).map_err(|error| format!("{folder}: {error}"))?;
        Self::at(&found).map_err(|error| format!("{}: {error}", found.display()))
    }

    /// As sysfs has it; a partition lies in the folder of its disk.
    fn at(folder: &Path) -> io::Result<Option<Self>> {
        let number = |path: PathBuf| -> io::Result<u64> {
            let text = std::fs::read_to_string(path)?;
            text.trim().parse().map_err(io::Error::other)
        };
        let is_partition = folder.join("partition").exists();
        let disk = if is_partition { folder.parent().unwrap_or(folder) } else { folder };
        let mut path = match std::fs::read(disk.join("loop/backing_file")) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        path.truncate(path.strip_suffix(b"\n").unwrap_or(&path).len());
        let path = PathBuf::from(OsString::from_vec(path));
        let offset = number(disk.join("loop/offset")).unwrap_or(0);
        let (start, length) = match is_partition {
            // Of 512 bytes, whatever the blocks of the disk are.
            true => (512 * number(folder.join("start"))?, 512 * number(folder.join("size"))?),
            false => (0, number(disk.join("loop/sizelimit")).unwrap_or(0)),
        };
        let is_device = std::fs::metadata(&path).is_ok_and(|found| {
            found.file_type().is_block_device() || found.file_type().is_char_device()
        });
        Ok((!is_device).then_some(Self { path, start: offset + start, length }))
    }

    /// Takes the part of the file; `exclusive`: for one who writes, or as one who reads where it cannot be opened for
    /// writing here.
    pub(super) fn take(&self, exclusive: bool) -> Taken {
        // What is there in this namespace may be anything.
        let waits_for_nobody = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        let open = |write: bool| {
            let mut options = OpenOptions::new();
            options.read(true).write(write).custom_flags(waits_for_nobody).open(&self.path)
        };
        let opened = match open(exclusive) {
            Err(_) if exclusive => open(false).map(|file| (file, false)),
            opened => opened.map(|file| (file, exclusive)),
        };
        let reach = Reach::Part { start: self.start, length: self.length };
        let tried = opened.and_then(|(file, exclusive)| {
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is no file here"));
            }
            let held = try_hold(&file, reach, exclusive)?;
            Ok::<_, io::Error>(held.map_or(Taken::Claimed(file), Taken::Held))
        });
        tried.unwrap_or_else(|error| Taken::Unknown(format!("{}: {error}", self.path.display())))
    }

    /// For a message: who has it, and by what.
    pub(super) fn holder(&self, file: &File) -> String {
        let who = super::lock::holder(file).unwrap_or_else(|| "somebody else".to_owned());
        format!("{who}, who has {}: it is a loop device over that file", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysfs_says_which_part_of_which_file_a_loop_device_shows() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("loop0");
        let part = disk.join("loop0p1");
        std::fs::create_dir_all(&part).unwrap();
        assert_eq!(Under::at(&disk).unwrap(), None, "a disk of another kind");
        std::fs::create_dir(disk.join("loop")).unwrap();
        let put = |path: PathBuf, text: &str| std::fs::write(path, text).unwrap();
        put(disk.join("loop/backing_file"), "/images/with space \n");
        let path = PathBuf::from("/images/with space ");
        let under = |start, length| Some(Under { path: path.clone(), start, length });
        assert_eq!(Under::at(&disk).unwrap(), under(0, 0));
        put(disk.join("loop/offset"), "4096\n");
        put(disk.join("loop/sizelimit"), "1048576\n");
        assert_eq!(Under::at(&disk).unwrap(), under(4096, 1_048_576));
        put(part.join("partition"), "1\n");
        put(part.join("start"), "8\n");
        put(part.join("size"), "16\n");
        assert_eq!(Under::at(&part).unwrap(), under(4096 + 8 * 512, 16 * 512));
        let other = [&b"/images/\xFF"[..], b"\n"].concat();
        std::fs::write(disk.join("loop/backing_file"), other).unwrap();
        let found = Under::at(&part).unwrap().expect("a path is bytes");
        assert_eq!(found.path.as_os_str().as_encoded_bytes(), b"/images/\xFF");
        std::fs::remove_file(part.join("size")).unwrap();
        assert!(Under::at(&part).is_err(), "it is said");
        assert!(Under::of(u64::MAX).is_err(), "a device that is not in sysfs");
        put(disk.join("loop/backing_file"), "/dev/null\n");
        assert_eq!(Under::at(&disk).unwrap(), None, "over a device");
    }

    #[test]
    fn parts_of_a_file_are_several_disks_and_the_file_is_all_of_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let part = |start, length| Under { path: file.path().to_owned(), start, length }.take(true);
        let Taken::Held(first) = part(0, 4096) else { panic!("it is free") };
        let Taken::Held(second) = part(4096, 0) else { panic!("that part is free") };
        assert!(matches!(part(4095, 1), Taken::Claimed(_)));
        assert!(matches!(part(8192, 4096), Taken::Claimed(_)));
        let whole = || try_hold(file.as_file(), Reach::File, true).unwrap();
        assert!(whole().is_none());
        drop(first);
        assert!(whole().is_none());
        drop(second);
        let all = whole().expect("nobody has it");
        assert!(matches!(part(0, 4096), Taken::Claimed(_)));
        drop(all);
        // A program that runs cannot be opened for writing, by nobody.
        let path = std::env::current_exe().unwrap();
        let program = Under { path: path.clone(), start: 0, length: 0 };
        let Taken::Held(shared) = program.take(true) else { panic!("it can be read") };
        let open = File::open(&path).unwrap();
        assert!(try_hold(&open, Reach::File, false).unwrap().is_some(), "as one who reads");
        drop(shared);
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let pipe = Under { path: pipe, start: 0, length: 0 };
        assert!(matches!(pipe.take(false), Taken::Unknown(_)), "nobody is waited for");
        let gone = Under { path: "/nonexistent (deleted)".into(), start: 0, length: 0 };
        assert!(matches!(gone.take(true), Taken::Unknown(_)));
    }
}
