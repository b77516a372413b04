//! Whether this system still has all that it took for a disk: a note in the run folder, made when
//! the disk has been attached.
//!
//! Invariants:
//! - The note is there only while the disk is attached, and from the end of a process that had it
//!   attached to the next attach. An operation that failed, a disk that hangs and an end in order
//!   withdraw it, before anyone hears of them: with a failed flush the system may have dropped what
//!   it had acknowledged, and the next flush does not tell.
//! - It is of this boot, of this metadata and of this instance of the disk: not of an image that was
//!   put in its place, nor of a disk that was unplugged. While the disk stands in for a Primary it
//!   follows the superblock, which is written within 10 s of the first write (`resource::number`); and
//!   once more, to the first one by which the disk stands in no longer.
//! - An attach takes it before it flushes. So it is used once: a disk whose flush fails then is not
//!   trusted at the next one.
//! - Where it is missing or cannot be read, nothing is trusted; nothing is flushed for it, for what
//!   ends a boot makes it void.

use std::fs::{File, Metadata};
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::device::device_number;
use super::{Identity, file_safe};

/// The folder in the run folder.
const FOLDER: &str = "trusted";

/// What a note is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Subject {
    boot_id: [u8; 16],
    /// Of the metadata.
    device_uuid: u64,
    /// File system, inode and device number of the file.
    file: [u64; 3],
    /// What Linux counts up for each disk that appears; empty: none.
    disk_sequence: String,
    /// Of a superblock that is on the disk.
    sequence: u64,
}

impl Subject {
    pub(super) fn new(
        boot_id: [u8; 16],
        device_uuid: u64,
        data: &File,
        sequence: u64,
    ) -> io::Result<Self> {
        let found = data.metadata()?;
        let file = [found.st_dev(), found.st_ino(), found.st_rdev()];
        Ok(Self { boot_id, device_uuid, file, disk_sequence: disk_sequence(&found), sequence })
    }

    /// With this sequence.
    pub(super) fn at(self, sequence: u64) -> Self {
        Self { sequence, ..self }
    }

    /// Whether a disk that is `found` is this one, and no older image of it.
    pub(super) fn holds_of(&self, found: &Self) -> bool {
        let same = Self { sequence: found.sequence, ..self.clone() };
        same == *found && self.sequence <= found.sequence
    }
}

/// `diskseq` of a block device, or of the disk that it is a partition of.
fn disk_sequence(found: &Metadata) -> String {
    if found.st_rdev() == 0 {
        return String::new();
    }
    let folder = format!("/sys/dev/block/{}", device_number(found.st_rdev()));
    let read = |path: String| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
    read(format!("{folder}/diskseq"))
        .or_else(|_| read(format!("{folder}/../diskseq")))
        .unwrap_or_default()
}

/// The note of one disk.
#[derive(Debug)]
pub(super) struct Trust {
    path: PathBuf,
    /// What the note says, while there is one of this process.
    given: Mutex<Option<Subject>>,
}

impl Trust {
    /// The note of `who`'s disk in this run folder.
    pub(super) fn new(run_dir: &Path, who: &Identity) -> Self {
        let resource = file_safe(&who.resource);
        let name = format!("{resource}-{}-node{}.json", who.volume, who.node_id);
        Self { path: run_dir.join(FOLDER).join(name), given: Mutex::new(None) }
    }

    /// Takes the note away: what it is about. Nothing, if it cannot be taken away.
    pub(super) fn take(&self) -> Option<Subject> {
        let found = std::fs::read(&self.path).ok();
        let found = found.and_then(|text| serde_json::from_slice(&text).ok());
        if self.withdraw() { found } else { None }
    }

    /// The disk is attached, and all is well.
    pub(super) fn give(&self, subject: Subject) -> io::Result<()> {
        self.write(&subject)?;
        *self.given() = Some(subject);
        Ok(())
    }

    /// A superblock with this sequence is durable; `false`: the note could not follow. One that was
    /// withdrawn stays so.
    pub(super) fn follow(&self, sequence: u64) -> bool {
        let Some(subject) = self.given().clone() else { return true };
        self.give(Subject { sequence, ..subject }).is_ok()
    }

    fn given(&self) -> MutexGuard<'_, Option<Subject>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, subject: &Subject) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(&self.path);
        std::fs::create_dir_all(folder)?;
        let part = self.path.with_extension("part");
        std::fs::write(&part, serde_json::to_vec(subject)?)?;
        std::fs::rename(&part, &self.path)
    }

    /// The disk is trusted no more. `false`: the note could not be taken away.
    pub(super) fn withdraw(&self) -> bool {
        *self.given() = None;
        match std::fs::remove_file(&self.path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            // What is left of it says nothing.
            Err(_) => {
                let _ = File::create(&self.path);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_used_once_and_only_for_what_it_is_about() {
        let dir = tempfile::tempdir().unwrap();
        let who = Identity { resource: "a/b".to_owned(), node_id: 1, volume: 3 };
        let [here, there] = ["here", "there"].map(|name| {
            let path = dir.path().join(name);
            std::fs::write(&path, name).unwrap();
            File::open(path).unwrap()
        });
        let subject = |boot, device, file| Subject::new([boot; 16], device, file, 5).unwrap();
        let (trust, ours) = (Trust::new(dir.path(), &who), subject(1, 7, &here));
        assert_eq!(trust.take(), None, "nobody has given it");
        trust.give(ours.clone()).unwrap();
        assert_eq!((trust.take(), trust.take()), (Some(subject(1, 7, &here)), None));
        for other in [subject(2, 7, &here), subject(1, 8, &here), subject(1, 7, &there)] {
            assert!(!ours.holds_of(&other), "{other:?}");
        }
        let at = |sequence| Subject { sequence, ..ours.clone() };
        assert!(ours.holds_of(&at(5)) && ours.holds_of(&at(6)) && !ours.holds_of(&at(4)));
        trust.give(ours.clone()).unwrap();
        assert!(trust.follow(9));
        assert_eq!(trust.take(), Some(at(9)));
        assert!(trust.follow(10), "it was withdrawn");
        assert_eq!(trust.take(), None);
        trust.give(ours.clone()).unwrap();
        assert!(trust.withdraw() && trust.withdraw());
        assert_eq!(trust.take(), None);
        trust.give(ours.clone()).unwrap();
        std::fs::write(&trust.path, b"{\"boot_id\":[1,").unwrap();
        assert_eq!(trust.take(), None);
        std::fs::create_dir(&trust.path).unwrap();
        assert!(trust.take().is_none() && !trust.withdraw() && trust.give(ours.clone()).is_err());
    }
}
