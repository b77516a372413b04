//! Copies of the metadata in the state folder, made before an order that overwrites it or what it
//! says: `saved-RESOURCE-VOLUME-nodeN-VERB-TIME.md`, in the form of `dump-md`.
//!
//! Invariants:
//! - A copy is whole and durable before it has its name.
//! - Of each disk the last [`KEPT`] copies stay; the one just made is never the one that goes,
//!   whatever the clock says.
//! - No other file of the folder is touched.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::error::CreateError;
use super::{Identity, MetaDisk, inspect, record};

/// Copies that are kept of one disk.
const KEPT: usize = 20;
/// Copies of one second, at most.
const SAME_TIME: u32 = 1000;
/// Lines of a copy within which its sizes stand.
const HEAD_LINES: usize = 64;
/// How often a disk in use is read again because it changed meanwhile.
const TRIES: u32 = 5;

/// The orders before which a copy is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SavedBefore {
    /// `create-md --force`.
    CreateMd,
    /// `wipe-md`.
    WipeMd,
    /// `restore-md`.
    RestoreMd,
    /// `primary --force`.
    Primary,
    /// `invalidate`.
    Invalidate,
    /// `connect --discard-my-data`.
    Connect,
    /// `new-current-uuid --clear-bitmap`.
    NewCurrentUuid,
    /// `forget-peer`.
    ForgetPeer,
    /// Metadata moves to the end of a disk that has grown (`resize`, and at an attach), or is made there: what an
    /// earlier time has left there, which is older than its copy.
    Resize,
}

const ALL: [SavedBefore; 9] = [
    SavedBefore::CreateMd,
    SavedBefore::WipeMd,
    SavedBefore::RestoreMd,
    SavedBefore::Primary,
    SavedBefore::Invalidate,
    SavedBefore::Connect,
    SavedBefore::NewCurrentUuid,
    SavedBefore::ForgetPeer,
    SavedBefore::Resize,
];

impl SavedBefore {
    /// The verb.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::CreateMd => "create-md",
            Self::WipeMd => "wipe-md",
            Self::RestoreMd => "restore-md",
            Self::Primary => "primary",
            Self::Invalidate => "invalidate",
            Self::Connect => "connect",
            Self::NewCurrentUuid => "new-current-uuid",
            Self::ForgetPeer => "forget-peer",
            Self::Resize => "resize",
        }
    }
}

/// Where a copy goes, and why it is made.
#[derive(Clone, Copy, Debug)]
pub struct Save<'a> {
    /// The state folder.
    pub state_dir: &'a Path,
    /// The order.
    pub verb: SavedBefore,
    /// Wall clock, seconds.
    pub wall_clock: u64,
}

/// A copy that was made. It counts among those that are kept once its order was carried out.
#[derive(Clone, Debug)]
#[must_use]
pub struct SavedCopy {
    path: PathBuf,
    folder: PathBuf,
    prefix: String,
}

impl SavedCopy {
    /// The order was carried out: the oldest copies go. Where this one is.
    #[must_use]
    pub fn keep(self) -> PathBuf {
        prune(&self.folder, &self.prefix, &self.path);
        self.path
    }

    /// The order was refused: the copy is of no use, and must not push out one that is.
    pub fn discard(self) {
        // One that stays is one of twenty.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Save<'_> {
    /// Writes a copy. Blocks.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(super) fn write(&self, owner: &Identity, text: &str) -> Result<SavedCopy, CreateError> {
        let prefix = prefix(owner);
        let stamp = stamp(self.wall_clock);
        let base = format!("{prefix}{}-{stamp}", self.verb.verb());
        let failed = |error: io::Error| CreateError::Save {
            path: self.state_dir.join(format!("{base}.md")),
            error,
        };
        let path = self.put(&base, text).map_err(failed)?;
        Ok(SavedCopy { path, folder: self.state_dir.to_owned(), prefix })
    }

    fn put(&self, base: &str, text: &str) -> io::Result<PathBuf> {
        std::fs::create_dir_all(self.state_dir)?;
        let part = self.state_dir.join(format!("{base}.{}.part", std::process::id()));
        let written = (|| {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&part)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            for number in 1..SAME_TIME {
                let name = match number {
                    1 => format!("{base}.md"),
                    number => format!("{base}-{number}.md"),
                };
                let path = self.state_dir.join(name);
                // A link never replaces a file, unlike a rename.
                match std::fs::hard_link(&part, &path) {
                    Ok(()) => return Ok(path),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                }
            }
            Err(io::Error::from(io::ErrorKind::AlreadyExists))
        })();
        // It is there under its name, or it is nothing.
        let _ = std::fs::remove_file(&part);
        let path = written?;
        File::open(self.state_dir)?.sync_all()?;
        Ok(path)
    }
}

/// Saves a copy of the metadata of a disk, which may be in use: then it is read as it is just now,
/// and again where it changed meanwhile. Blocks.
///
/// # Errors
/// The disk cannot be read, is another's, or the folder cannot be written.
pub fn save_copy(
    path: &Path,
    meta_disk: &MetaDisk,
    who: &Identity,
    save: &Save<'_>,
) -> Result<SavedCopy, CreateError> {
    let known = Some((save.state_dir, who));
    let mut found = inspect(path, meta_disk, known)?;
    for _ in 0..TRIES {
        let again = inspect(path, meta_disk, known)?;
        let same = again.meta == found.meta;
        found = again;
        if same {
            break;
        }
    }
    let owner = super::open::owner(&found.meta.superblock);
    if owner != *who {
        let (path, expected) = (path.to_owned(), who.clone());
        return Err(super::OpenError::Foreign { path, found: owner, expected }.into());
    }
    let text = inspect::text(path, &found, save.wall_clock);
    save.write(who, &text)
}

/// What is to be said of the newest copy of the metadata of a disk on which none is whole: where it is, what it is
/// not, and how it is put back. Empty: there is none.
#[must_use]
pub fn copy_advice(state_dir: &Path, who: &Identity) -> String {
    let (resource, volume) = (&who.resource, who.volume);
    let (stamp, copies) = newest(state_dir, who);
    let path = match copies.as_slice() {
        [] => return String::new(),
        [path] => path.display(),
        several => return several_copies(&stamp, several, who),
    };
    format!(
        " The newest copy of this volume's metadata is of {stamp} (UTC): {path}. It knows nothing of what was written \
         after that: where anything may have been, by a client, the peer, a resync or somebody else, or this is \
         another disk, do not put it back, it would pass old data for good. Only where it is the same disk and \
         nothing was: `tandemadm restore-md {path} {resource}/{volume}`."
    )
}

/// The same of copies of one second: an order over two disks' metadata saves both.
fn several_copies(stamp: &str, copies: &[PathBuf], who: &Identity) -> String {
    let paths: Vec<String> = copies.iter().map(|path| path.display().to_string()).collect();
    format!(
        " The newest copies of this volume's metadata are of {stamp} (UTC), and which of them is the newer one is not known: \
         {}. They know nothing of what was written after that: where anything may have been, by a client, the peer, a \
         resync or somebody else, or this is another disk, do not put one back, it would pass old data for good. Only \
         where it is the same disk, nothing was, and you know which one counted: `tandemadm restore-md` with that one \
         and {}/{}.",
        paths.join(", "),
        who.resource,
        who.volume
    )
}

/// What the volume was exported with before its metadata was made anew, as far as this node knows, in bytes: the most
/// that stands in a note or a copy. Blocks.
#[must_use]
pub fn size_before(state_dir: &Path, who: &Identity) -> Option<u64> {
    let copies = copies(state_dir, who);
    let exported = |path: &Path| {
        let file = std::io::BufReader::new(File::open(path).ok()?);
        let lines = file.lines().take(HEAD_LINES).map_while(Result::ok);
        let size = |line: String| {
            let size = line.trim().strip_prefix("effective-size ")?;
            size.split(';').next()?.trim().parse::<u64>().ok()
        };
        lines.filter_map(size).next()
    };
    let saved = copies.iter().filter_map(|(.., name)| exported(&state_dir.join(name))).max();
    saved.max(record::exported(state_dir, who)).filter(|size| *size != 0)
}

/// When copies were made last, and those of that second.
fn newest(state_dir: &Path, who: &Identity) -> (String, Vec<PathBuf>) {
    let mut copies = copies(state_dir, who);
    let stamp = copies.iter().map(|(stamp, ..)| stamp.clone()).max().unwrap_or_default();
    copies.retain(|(one, ..)| *one == stamp);
    copies.sort();
    (stamp, copies.into_iter().map(|(.., name)| state_dir.join(name)).collect())
}

/// Time, number within it and name of each copy of what was so at that time: what an earlier time had left on the disk
/// is older than its copy.
fn copies(state_dir: &Path, who: &Identity) -> Vec<(String, u32, String)> {
    let prefix = prefix(who);
    let Ok(entries) = std::fs::read_dir(state_dir) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let copies = names.filter_map(|name| {
        let rest = name.strip_prefix(&prefix)?;
        let (stamp, number) = age(rest)?;
        let is_earlier = rest.starts_with(SavedBefore::Resize.verb());
        (!is_earlier).then(|| (stamp.to_owned(), number, name.clone()))
    });
    copies.collect()
}

fn prefix(owner: &Identity) -> String {
    let resource = record::file_safe(&owner.resource);
    format!("saved-{resource}-{}-node{}-", owner.volume, owner.node_id)
}

/// `20261124-195244`, UTC.
fn stamp(wall_clock: u64) -> String {
    let text = crate::control::clock::iso(wall_clock);
    text.chars()
        .filter(|c| *c != '-' && *c != ':')
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Time and number within it of a copy's name behind the prefix; `None`: it is none.
fn age(name: &str) -> Option<(&str, u32)> {
    let name = name.strip_suffix(".md")?;
    let verbs = ALL.iter().map(|one| one.verb());
    let rest = verbs.filter_map(|verb| name.strip_prefix(verb)?.strip_prefix('-')).next()?;
    let stamp = rest.get(..15)?;
    let digits = stamp.bytes().enumerate().all(|(at, byte)| match at {
        8 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    let number = match rest[15..].strip_prefix('-') {
        Some(number) => number.parse().ok()?,
        None if rest.len() == 15 => 1,
        None => return None,
    };
    digits.then_some((stamp, number))
}

/// Removes what is too old. Best effort: a copy too many is no reason to refuse an order.
fn prune(folder: &Path, prefix: &str, new: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut old: Vec<(String, u32, PathBuf)> = names
        .filter_map(|name| {
            let (stamp, number) = age(name.strip_prefix(prefix)?)?;
            Some((stamp.to_owned(), number, folder.join(&name)))
        })
        .filter(|(.., path)| path != new)
        .collect();
    old.sort();
    let too_many = (old.len() + 1).saturating_sub(KEPT);
    for (.., path) in old.iter().take(too_many) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(resource: &str) -> Identity {
        Identity { resource: resource.to_owned(), node_id: 1, volume: 0 }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_last_twenty_of_each_disk_are_kept_and_nothing_else_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let save = |resource: &str, verb, wall_clock| {
            let save = Save { state_dir: folder.path(), verb, wall_clock };
            save.write(&who(resource), &format!("at {wall_clock}")).unwrap().keep()
        };
        // A name that begins like that of another disk.
        let other = save("r0-0-node1", SavedBefore::WipeMd, 1);
        for name in ["saved-r0-0-node1-notes.md", "saved-r0-0-node1-wipe-md-mine.md", "else"] {
            std::fs::write(folder.path().join(name), "keep").unwrap();
        }
        let first = save("r0", SavedBefore::CreateMd, 1_795_549_964);
        assert!(first.ends_with("saved-r0-0-node1-create-md-20261124-195244.md"), "{first:?}");
        assert_eq!(std::fs::read_to_string(&first).unwrap(), "at 1795549964");
        let twin = save("r0", SavedBefore::CreateMd, 1_795_549_964);
        assert!(twin.ends_with("saved-r0-0-node1-create-md-20261124-195244-2.md"), "{twin:?}");
        for second in 1..19 {
            save("r0", SavedBefore::Primary, 1_795_549_964 + second);
        }
        assert_eq!(names(folder.path()).len(), 20 + 4);
        // The clock was set back by years: the new one stays, the oldest of the others goes.
        let back = save("r0", SavedBefore::Invalidate, 7);
        assert!(back.exists() && !first.exists() && twin.exists());
        save("r0", SavedBefore::Connect, 1_795_560_000);
        assert!(!back.exists() && twin.exists());
        assert_eq!(names(folder.path()).len(), 20 + 4);
        // One of an order that was refused leaves nothing, and costs no other.
        let save = Save { state_dir: folder.path(), verb: SavedBefore::Connect, wall_clock: 8 };
        save.write(&who("r0"), "").unwrap().discard();
        assert_eq!(names(folder.path()).len(), 20 + 4);
        assert!(other.exists() && folder.path().join("saved-r0-0-node1-notes.md").exists());
    }

    #[test]
    fn what_was_exported_is_the_most_that_a_copy_or_a_note_says() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(size_before(folder.path(), &who("r0")), None);
        let save = |size: u64, wall_clock| {
            let verb = SavedBefore::CreateMd;
            let save = Save { state_dir: folder.path(), verb, wall_clock };
            let text = format!("# of a disk\n\n    effective-size {size}; # bytes\n");
            let _ = save.write(&who("r0"), &text).unwrap().keep();
        };
        save(0, 7);
        assert_eq!(size_before(folder.path(), &who("r0")), None, "it was never agreed");
        save(8192, 8);
        save(4096, 9);
        assert_eq!(size_before(folder.path(), &who("r0")), Some(8192));
        assert_eq!(size_before(folder.path(), &who("r1")), None);
        let note = |size: u64, exported| {
            let disk = Path::new("/dev/sdb");
            record::store(folder.path(), &who("r0"), disk, (size, None), exported).unwrap();
        };
        note(1 << 20, Some(12_288));
        // Metadata that is made anew says nothing of it.
        note(2 << 20, None);
        assert_eq!(size_before(folder.path(), &who("r0")), Some(12_288));
    }

    /// It is named for the time of its making: what it says is older.
    #[test]
    fn what_an_earlier_time_had_left_is_not_the_newest_copy() {
        let folder = tempfile::tempdir().unwrap();
        let save = |verb, wall_clock, size: u64| {
            let save = Save { state_dir: folder.path(), verb, wall_clock };
            save.write(&who("r0"), &format!("effective-size {size};\n")).unwrap().keep()
        };
        let earlier = save(SavedBefore::Resize, 1_795_549_965, 8192);
        assert_eq!(copy_advice(folder.path(), &who("r0")), "");
        assert_eq!(size_before(folder.path(), &who("r0")), None);
        let made = save(SavedBefore::CreateMd, 1_795_549_964, 4096);
        let advice = copy_advice(folder.path(), &who("r0"));
        assert!(advice.contains(&made.display().to_string()), "{advice}");
        assert!(!advice.contains(&earlier.display().to_string()), "{advice}");
        assert_eq!(size_before(folder.path(), &who("r0")), Some(4096));
    }

    /// Both are saved, and neither is the newer one by its name.
    #[test]
    fn of_copies_of_one_second_none_is_called_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let save = |wall_clock| {
            let save = Save { state_dir: folder.path(), verb: SavedBefore::CreateMd, wall_clock };
            save.write(&who("r0"), "").unwrap().keep().display().to_string()
        };
        let (first, second) = (save(1_795_549_964), save(1_795_549_964));
        let advice = copy_advice(folder.path(), &who("r0"));
        for part in [first.as_str(), &second, "which of them is the newer one is not known"] {
            assert!(advice.contains(part), "{advice}");
        }
        let later = save(1_795_549_965);
        let advice = copy_advice(folder.path(), &who("r0"));
        assert!(advice.contains(&later) && !advice.contains(&first), "{advice}");
        assert!(advice.contains("The newest copy of"), "{advice}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let save = Save { state_dir: &file, verb: SavedBefore::WipeMd, wall_clock: 7 };
        assert!(matches!(save.write(&who("r0"), ""), Err(CreateError::Save { .. })));
    }
}
