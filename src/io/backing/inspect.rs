//! `dump-md`, `get-gi`, `show-gi` of a disk, attached or not. No daemon, and no write: not even the
//! repair of a damaged copy of the superblock.

use std::path::Path;
use std::time::Duration;

use super::MetaDisk;
use super::device::{Access, Device};
use super::error::{OpenError, Part};
use super::host_boot_id;
use super::open::Disks;
use super::signatures;
use crate::meta::{Geometry, LoadedMeta, dump, get_gi, load, printable, read_superblock};

/// Metadata that was read without attaching.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What it says.
    pub meta: LoadedMeta,
    /// Where everything is.
    pub geometry: Geometry,
    /// Somebody holds the disk: what was read may be old.
    pub stale: bool,
}

/// Reads the metadata of a disk without taking it, whoever has it.
///
/// # Errors
/// The disk cannot be read, or there is no metadata.
pub fn inspect(path: &Path, meta_disk: &MetaDisk) -> Result<Inspected, OpenError> {
    let disks = Disks::open(path, meta_disk, Access::ReadOnly, Duration::ZERO)?;
    let device = disks.meta();
    let found = read_superblock(disks.placement(), &mut device.reader())
        .map_err(|error| disks.bad(error))?;
    let geometry =
        Geometry::of(disks.placement(), &found.superblock).map_err(|error| disks.bad(error))?;
    let boot_id = host_boot_id().unwrap_or_default();
    let mut meta = load(&geometry, &mut device.reader(), boot_id).map_err(|e| disks.bad(e))?;
    // The loader puts the current boot in for the attach; a dump shows what is on the disk.
    meta.superblock.boot_id = found.superblock.boot_id;
    let mut notes = found.notes;
    notes.append(&mut meta.notes);
    meta.notes = notes;
    let stale = disks.data.held.is_none() || device.held.is_none();
    Ok(Inspected { meta, geometry, stale })
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
    wall_clock: u64,
    offline: bool,
) -> Result<String, OpenError> {
    let found = inspect(path, meta_disk)?;
    if offline && found.stale {
        let holder = std::fs::File::open(path).ok().and_then(|file| super::lock::holder(&file));
        return Err(OpenError::Claimed { path: path.to_owned(), part: Part::Data, holder });
    }
    Ok(text(path, &found, wall_clock))
}

/// What `dump-md` prints.
pub(super) fn text(path: &Path, found: &Inspected, wall_clock: u64) -> String {
    let Inspected { meta, geometry, stale } = found;
    let warning = if *stale { "# Output might be stale, since the disk is attached\n" } else { "" };
    format!("{}{warning}{}", header(path, wall_clock), dump(meta, geometry))
}

/// The generation identifiers of one slot (from 0) as a line, for `get-gi`.
///
/// # Errors
/// As [`inspect`].
pub fn read_gi(path: &Path, meta_disk: &MetaDisk, slot: usize) -> Result<String, OpenError> {
    inspect(path, meta_disk).map(|found| get_gi(&found.meta, slot))
}
