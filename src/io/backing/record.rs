//! The last size of each disk, in the state folder: so that a disk which grew (its metadata is no
//! longer at its end) is told from a blank one. One small JSON file per node, resource, volume and
//! path; asked for a disk on which no metadata is found, and for one that has grown.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Identity;

/// A longer name leaves no room for what stands around it, bytes: 255 are a file name.
const FILE_NAME_MAX: usize = 160;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    resource: String,
    node_id: u8,
    volume: u16,
    path: PathBuf,
    /// Where the disk ended, with its metadata, in bytes.
    size: u64,
    /// Where it ended before; the metadata is there while it has not moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    older: Option<u64>,
    /// Where it ended before, with metadata that counts no more and is about to be zeroed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ended: Vec<u64>,
    /// An order over two disks' metadata is under way, or was cut off: nothing that stands on the disk counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    given_up: bool,
    /// What was exported of the volume when it was attached last, in bytes. It outlives the metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exported: Option<u64>,
}

/// Notes the size, in bytes, of a disk that has metadata; `older`: the metadata may still be where a
/// disk of this size ends; `exported`: of the volume, where it is known, in bytes. What was noted as exported and as
/// ended stays else. Durable.
pub(super) fn store(
    folder: &Path,
    who: &Identity,
    disk: &Path,
    (size, older): (u64, Option<u64>),
    exported: Option<u64>,
) -> io::Result<()> {
    change(folder, who, disk, |record| {
        (record.size, record.older) = (size, older);
        record.exported = exported.or(record.exported);
    })
}

/// Notes that metadata is, or comes to be, at the end of a disk of this size alone; `ended`: where else it stands, and
/// counts no more. Durable.
pub(super) fn store_alone(
    folder: &Path,
    who: &Identity,
    disk: &Path,
    size: u64,
    ended: Vec<u64>,
) -> io::Result<()> {
    change(folder, who, disk, |record| {
        (record.size, record.older, record.ended) = (size, None, ended);
        record.given_up = false;
    })
}

/// Notes that of the metadata at the end of a disk of this size, and of another disk's at an older one, neither counts
/// until [`store_alone`]. Durable.
pub(super) fn store_given_up(
    folder: &Path,
    who: &Identity,
    disk: &Path,
    (size, older): (u64, Option<u64>),
    ended: Vec<u64>,
) -> io::Result<()> {
    change(folder, who, disk, |record| {
        (record.size, record.older, record.ended) = (size, older, ended);
        record.given_up = true;
    })
}

fn change(
    folder: &Path,
    who: &Identity,
    disk: &Path,
    change: impl FnOnce(&mut Record),
) -> io::Result<()> {
    let mut record = read(folder, who, disk).unwrap_or_else(|| Record {
        resource: who.resource.clone(),
        node_id: who.node_id,
        volume: who.volume,
        path: disk.to_owned(),
        size: 0,
        older: None,
        ended: Vec::new(),
        given_up: false,
        exported: None,
    });
    change(&mut record);
    std::fs::create_dir_all(folder)?;
    let name = file_name(who, disk);
    let part = folder.join(format!("{name}.{}.part", std::process::id()));
    std::fs::write(&part, serde_json::to_vec(&record)?)?;
    File::open(&part)?.sync_all()?;
    std::fs::rename(&part, folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// The size that the disk had when it was attached last. `None`: not known.
pub(super) fn last_size(folder: &Path, who: &Identity, disk: &Path) -> Option<u64> {
    read(folder, who, disk).map(|record| record.size)
}

/// Where the disk ended before, with metadata that counts no more and may not be zeroed yet.
pub(super) fn ended(folder: &Path, who: &Identity, disk: &Path) -> Vec<u64> {
    read(folder, who, disk).map(|record| record.ended).unwrap_or_default()
}

/// What is known of where the metadata of a disk may be.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Every size that it may be at the end of, the last one first.
    pub(super) sizes: Vec<u64>,
    /// No move of it has begun.
    pub(super) settled: bool,
    /// Nothing is noted of the disk: it may have had another path, as another disk (it was copied to a longer one) or
    /// as the same one. These are all sizes that are noted of the volume's disks on this node.
    pub(super) of_others: bool,
    /// Nothing that stands at any of them counts.
    pub(super) given_up: bool,
}

/// Where the metadata of a disk may be.
pub(super) fn ends(folder: &Path, who: &Identity, disk: &Path) -> Ends {
    let sizes = |record: Record| [Some(record.size), record.older].into_iter().flatten();
    match read(folder, who, disk) {
        Some(record) => {
            let given_up = record.given_up;
            let sizes: Vec<u64> = sizes(record).collect();
            let settled = sizes.len() == 1;
            Ends { sizes, settled, of_others: false, given_up }
        }
        None => {
            let sizes = others(folder, who).into_iter().flat_map(sizes).collect();
            Ends { sizes, settled: false, of_others: true, given_up: false }
        }
    }
}

/// A disk is called otherwise from now on: what is noted of it, and nothing that was noted of another one by that name.
/// Durable.
pub(super) fn rename(folder: &Path, who: &Identity, old: &Path, new: &Path) -> io::Result<()> {
    if old == new {
        return Ok(());
    }
    let Some(noted) = read(folder, who, old) else {
        forget(folder, who, new);
        return Ok(());
    };
    change(folder, who, new, |record| *record = Record { path: new.to_owned(), ..noted })?;
    if file_name(who, old) != file_name(who, new) {
        forget(folder, who, old);
    }
    Ok(())
}

/// The most that was exported of the volume, as far as it is noted of any of its disks on this node, in bytes.
pub(super) fn exported(folder: &Path, who: &Identity) -> Option<u64> {
    others(folder, who).into_iter().filter_map(|record| record.exported).max()
}

/// What is noted of the volume's disks, whatever their paths.
fn others(folder: &Path, who: &Identity) -> Vec<Record> {
    let resource = file_safe(&who.resource);
    let prefix = format!("size-{resource}-{}-node{}-", who.volume, who.node_id);
    let Ok(notes) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<PathBuf> = notes.filter_map(|note| Some(note.ok()?.path())).collect();
    names.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&prefix) && name.ends_with(".json")
    });
    names.sort();
    let records = names.iter().filter_map(|path| {
        let record: Record = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        is_of(&record, who).then_some(record)
    });
    records.collect()
}

fn is_of(record: &Record, who: &Identity) -> bool {
    record.resource == who.resource && record.node_id == who.node_id && record.volume == who.volume
}

fn read(folder: &Path, who: &Identity, disk: &Path) -> Option<Record> {
    let text = std::fs::read(folder.join(file_name(who, disk))).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    (is_of(&record, who) && record.path == disk).then_some(record)
}

/// Nothing is known of the disk any more.
pub(super) fn forget(folder: &Path, who: &Identity, disk: &Path) {
    // Where it stays, a blank disk is compared with a size, and no more.
    let _ = std::fs::remove_file(folder.join(file_name(who, disk)))
        .and_then(|()| File::open(folder)?.sync_all());
}

pub(super) fn file_name(who: &Identity, disk: &Path) -> String {
    let path = crc32fast::hash(disk.as_os_str().as_encoded_bytes());
    let resource = file_safe(&who.resource);
    format!("size-{resource}-{}-node{}-{path:08x}.json", who.volume, who.node_id)
}

/// A name that is one component of a path: letters, digits, `-` and `_` stay. One that would be too long for that
/// ends with its checksum.
pub(crate) fn file_safe(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    if out.len() > FILE_NAME_MAX {
        out.truncate(FILE_NAME_MAX);
        out.push_str(&format!("-{:08x}", crc32fast::hash(name.as_bytes())));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_resource_makes_a_name_of_a_file_of_its_own() {
        assert_eq!(file_safe("r0-a_B"), "r0-a_B");
        assert_eq!(file_safe("r.0"), "r%2e0");
        let longest = "\u{44f}".repeat(63);
        let other = format!("{}\u{44e}", "\u{44f}".repeat(62));
        let file = |resource: &str| {
            let who = Identity { resource: resource.to_owned(), volume: u16::MAX, node_id: 31 };
            file_name(&who, Path::new("/dev/sdb"))
        };
        assert!(file(&longest).len() <= 255, "{}", file(&longest));
        assert_ne!(file(&longest), file(&other));
        assert_eq!(file_safe(&"r".repeat(127)), "r".repeat(127), "as ever");
    }
}
