//! `dump-md`, `get-gi`, `show-gi` of a disk, attached or not. No daemon, and no write: not even the
//! repair of a damaged copy of the superblock.

use std::path::Path;
use std::time::Duration;

use super::MetaDisk;
use super::device::{Access, Device};
use super::error::{OpenError, Part};
use super::host_boot_id;
use super::open::Disks;
use super::{Identity, record, signatures};
use crate::meta::{Geometry, LoadedMeta, dump, get_gi, load, printable, read_superblock};
use crate::resource::BLOCK_SIZE;

/// Metadata that was read without attaching.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What it says.
    pub meta: LoadedMeta,
    /// Where everything is.
    pub geometry: Geometry,
    /// Bytes of its data area when it is attached: a disk that has grown takes its room then.
    pub room: u64,
    /// Somebody holds the disk: what was read may be old.
    pub stale: bool,
}

/// Who knows where a disk ended when it was attached last: the state folder, and whose disk it is.
pub type Known<'a> = Option<(&'a Path, &'a Identity)>;

/// Reads the metadata of a disk without taking it, whoever has it. `known`: it is also found where the
/// disk ended before it grew.
///
/// # Errors
/// The disk cannot be read, or there is no metadata.
pub fn inspect(
    path: &Path,
    meta_disk: &MetaDisk,
    known: Known<'_>,
) -> Result<Inspected, OpenError> {
    let disks = Disks::open(path, meta_disk, Access::ReadOnly, Duration::ZERO)?;
    let device = disks.meta();
    let (placement, found) = match known {
        Some((state_dir, who)) => {
            let located = disks.locate(Some(state_dir), who)?;
            (located.placement, located.found)
        }
        None => {
            let found = read_superblock(disks.placement(), &mut device.reader());
            (disks.placement(), found.map_err(|error| disks.bad(error))?)
        }
    };
    let geometry = Geometry::of(placement, &found.superblock).map_err(|error| disks.bad(error))?;
    // What it has when it is attached; metadata that is at an old end moves then.
    let room = Geometry::of(disks.placement(), &found.superblock).map(|new| new.data_size);
    let room = room.unwrap_or(geometry.data_size).max(geometry.data_size);
    let boot_id = host_boot_id().unwrap_or_default();
    let mut meta = load(&geometry, &mut device.reader(), boot_id).map_err(|e| disks.bad(e))?;
    // The loader puts the current boot in for the attach; a dump shows what is on the disk.
    meta.superblock.boot_id = found.superblock.boot_id;
    let mut notes = found.notes;
    notes.append(&mut meta.notes);
    meta.notes = notes;
    let stale = disks.data.held.is_none() || device.held.is_none();
    Ok(Inspected { meta, geometry, room, stale })
}

/// Whether this device is one that Tandem would take, whoever has it: what `tandemadm probe` tells
/// udev. Metadata that is not of a device of this size is that of something on it: of a partition or
/// a volume that ends where it ends. Takes no lock.
///
/// # Errors
/// The device cannot be read.
pub fn probe(path: &Path) -> Result<bool, OpenError> {
    let device = Device::open(path, Part::Data, Access::Glance, Duration::ZERO)?;
    signatures::is_tandem(&device).map_err(|error| device.io_error("reading it", error))
}

/// The size of a disk in whole blocks, bytes, and that at its last attach, where it is known. Takes no
/// lock.
///
/// # Errors
/// The disk cannot be read.
pub fn sizes(
    path: &Path,
    who: &Identity,
    state_dir: &Path,
) -> Result<(u64, Option<u64>), OpenError> {
    let device = Device::open(path, Part::Data, Access::Glance, Duration::ZERO)?;
    let whole = |size: u64| size / BLOCK_SIZE * BLOCK_SIZE;
    let noted = record::last_size(state_dir, who, path);
    Ok((whole(device.size), noted.map(whole)))
}

/// The first lines of a dump.
pub(super) fn header(path: &Path, wall_clock: u64) -> String {
    let path = printable(&path.display().to_string(), 4096);
    format!("# Tandem meta data dump\n# at {wall_clock} of {path}\n#\n\n")
}

/// All of it as text, for `dump-md`. `wall_clock`: seconds. `offline`: only of a disk that nobody
/// has, so that nothing in it is old.
///
/// # Errors
/// As [`inspect`]; or it is in use.
pub fn dump_md(
    path: &Path,
    meta_disk: &MetaDisk,
    known: Known<'_>,
    wall_clock: u64,
    offline: bool,
) -> Result<String, OpenError> {
    let found = inspect(path, meta_disk, known)?;
    if offline && found.stale {
        let holder = std::fs::File::open(path).ok().and_then(|file| super::lock::holder(&file));
        return Err(OpenError::Claimed { path: path.to_owned(), part: Part::Data, holder });
    }
    Ok(text(path, &found, wall_clock))
}

/// What `dump-md` prints.
pub(super) fn text(path: &Path, found: &Inspected, wall_clock: u64) -> String {
    let Inspected { meta, geometry, stale, .. } = found;
    let warning = if *stale { "# Output might be stale, since the disk is attached\n" } else { "" };
    format!("{}{warning}{}", header(path, wall_clock), dump(meta, geometry))
}

/// The generation identifiers of one slot (from 0) as a line, for `get-gi`.
///
/// # Errors
/// As [`inspect`].
pub fn read_gi(path: &Path, meta_disk: &MetaDisk, slot: usize) -> Result<String, OpenError> {
    inspect(path, meta_disk, None).map(|found| get_gi(&found.meta, slot))
}
