//! `dump-md`, `get-gi`, `show-gi`, `wipe-md` of a detached disk. No daemon, and (but for
//! `wipe-md`) no write: not even the repair of a damaged copy of the superblock.

use std::path::Path;
use std::time::Duration;

use super::MetaDisk;
use super::device::{Access, Device};
use super::error::{OpenError, Part};
use super::host_boot_id;
use super::open::Disks;
use super::signatures::{self, Found};
use crate::meta::{
    Geometry, LoadedMeta, MetaError, Stage, dump, get_gi, load, printable, read_superblock,
};

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

/// Metadata of Tandem on this device, whoever has it: what `tandemadm probe` tells udev.
///
/// # Errors
/// The device cannot be read.
pub fn probe(path: &Path) -> Result<Option<Found>, OpenError> {
    let device = Device::open(path, Part::Data, Access::ReadOnly, Duration::ZERO)?;
    signatures::tandem(&device).map_err(|error| device.io_error("reading it", error))
}

/// The first lines of a dump.
pub(super) fn header(path: &Path, wall_clock: u64) -> String {
    let path = printable(&path.display().to_string(), 4096);
    format!("# Tandem meta data dump\n# at {wall_clock} of {path}\n#\n\n")
}

/// All of it as text, for `dump-md`. `wall_clock`: seconds.
///
/// # Errors
/// As [`inspect`].
pub fn dump_md(path: &Path, meta_disk: &MetaDisk, wall_clock: u64) -> Result<String, OpenError> {
    let Inspected { meta, geometry, stale } = inspect(path, meta_disk)?;
    let warning = if stale { "# Output might be stale, since the disk is attached\n" } else { "" };
    Ok(format!("{}{warning}{}", header(path, wall_clock), dump(&meta, &geometry)))
}

/// The generation identifiers of one slot (from 0) as a line, for `get-gi`.
///
/// # Errors
/// As [`inspect`].
pub fn read_gi(path: &Path, meta_disk: &MetaDisk, slot: usize) -> Result<String, OpenError> {
    inspect(path, meta_disk).map(|found| get_gi(&found.meta, slot))
}

/// Makes a disk forget that it has metadata: zeroes over both copies of the superblock. The data
/// stays.
///
/// # Errors
/// The disk is in use or cannot be written, or there is no metadata.
pub fn wipe_md(path: &Path, meta_disk: &MetaDisk, lock_wait: Duration) -> Result<(), OpenError> {
    let disks = Disks::open(path, meta_disk, Access::Exclusive, lock_wait)?;
    let device = disks.meta();
    match read_superblock(disks.placement(), &mut device.reader()) {
        Ok(_) | Err(MetaError::BothDamaged { .. } | MetaError::Version { .. }) => {}
        Err(error) => return Err(disks.bad(error)),
    }
    let offsets = disks.placement().superblock_offsets().map_err(|error| disks.bad(error))?;
    device.write_stages(&[Stage::zeroes(&offsets)]).map_err(|e| device.io_error("wiping", e))
}
