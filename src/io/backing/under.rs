//! The file under a loop device: who has the one must not be met by who has the other.
//!
//! Invariants:
//! - Who has a loop device holds the part of the file that it shows: a shared flock, as other loop devices may show
//!   other parts of it, and an OFD lock over that part. Who has the file itself holds both whole ([`super::lock`]).
//! - What cannot be found out or locked is said and stands in nobody's way. A loop device over a device is not
//!   followed, and no device of the device mapper over a loop device.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

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
    pub(super) fn of(device: u64) -> Option<Self> {
        let folder = format!("/sys/dev/block/{}", device_number(device));
        Self::at(&std::fs::canonicalize(folder).ok()?)
    }

    /// As sysfs has it; a partition lies in the folder of its disk.
    fn at(folder: &Path) -> Option<Self> {
        let number = |path: PathBuf| -> Option<u64> {
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        let is_partition = folder.join("partition").exists();
        let disk = if is_partition { folder.parent()? } else { folder };
        let path = std::fs::read_to_string(disk.join("loop/backing_file")).ok()?;
        let path = PathBuf::from(path.strip_suffix('\n').unwrap_or(&path));
        let offset = number(disk.join("loop/offset")).unwrap_or(0);
        let (start, length) = match is_partition {
            // Of 512 bytes, whatever the blocks of the disk are.
            true => (512 * number(folder.join("start"))?, 512 * number(folder.join("size"))?),
            false => (0, number(disk.join("loop/sizelimit")).unwrap_or(0)),
        };
        let is_device = std::fs::metadata(&path).is_ok_and(|found| !found.is_file());
        (!is_device).then_some(Self { path, start: offset + start, length })
    }

    /// Takes the part of the file; `exclusive`: for one who writes.
    pub(super) fn take(&self, exclusive: bool) -> Taken {
        let opened = OpenOptions::new().read(true).write(exclusive).open(&self.path);
        let reach = Reach::Part { start: self.start, length: self.length };
        let tried = opened.and_then(|file| {
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
        assert_eq!(Under::at(&disk), None, "a disk of another kind");
        std::fs::create_dir(disk.join("loop")).unwrap();
        let put = |path: PathBuf, text: &str| std::fs::write(path, text).unwrap();
        put(disk.join("loop/backing_file"), "/images/with space \n");
        let path = PathBuf::from("/images/with space ");
        let under = |start, length| Some(Under { path: path.clone(), start, length });
        assert_eq!(Under::at(&disk), under(0, 0));
        put(disk.join("loop/offset"), "4096\n");
        put(disk.join("loop/sizelimit"), "1048576\n");
        assert_eq!(Under::at(&disk), under(4096, 1_048_576));
        put(part.join("partition"), "1\n");
        put(part.join("start"), "8\n");
        put(part.join("size"), "16\n");
        assert_eq!(Under::at(&part), under(4096 + 8 * 512, 16 * 512));
        put(disk.join("loop/backing_file"), "/dev/null\n");
        assert_eq!(Under::at(&disk), None, "over a device");
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
        let gone = Under { path: "/nonexistent (deleted)".into(), start: 0, length: 0 };
        assert!(matches!(gone.take(true), Taken::Unknown(_)));
    }
}
