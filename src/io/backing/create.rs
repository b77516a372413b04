//! `create-md`: looks at what is there, saves old metadata, writes new.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::device::{Access, Device};
use super::error::{CreateError, OpenError, Part};
use super::older::Older;
use super::open::Disks;
use super::preallocate::{fill_holes, reserve};
use super::saved::{Save, SavedBefore};
use super::signatures::{Found, scan};
use super::{Identity, MetaDisk, inspect, record};
use crate::meta::{
    BLANK, Geometry, MetaError, NewDisk, Placement, Superblock, dump, format_new, load,
    read_superblock,
};

/// Bytes at either end of the data area that must be zero for it to count as blank.
const BLANK_SPAN: u64 = 1 << 20;
/// Bytes of the area to be overwritten that are looked at for data of no known kind.
const OVERWRITTEN_SPAN: u64 = 4 << 20;

/// Bytes that are not zero and that no signature explains.
const UNKNOWN_DATA: &str = "some data";

/// What is wanted.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Overwrite what is found.
    pub force: bool,
    /// Peer slots, 1 to 31. DRBD's `--max-peers`.
    pub max_peers: u8,
    /// Write the whole file once, and keep its blocks on trim and zeroes.
    pub preallocate: bool,
    /// From the system's random source: the identity of the new metadata.
    pub seed: u64,
    /// Wall clock, seconds.
    pub wall_clock: u64,
    /// Of this host, see [`super::host_boot_id`].
    pub boot_id: [u8; 16],
    /// Where old metadata is saved and the size of the disk is noted.
    pub state_dir: PathBuf,
    /// How long a lock that is taken is tried again.
    pub lock_wait: Duration,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Report {
    /// Where everything is.
    pub geometry: Geometry,
    /// What was written.
    pub superblock: Superblock,
    /// What was found and, where it was metadata, overwritten.
    pub found: Vec<Found>,
    /// The dump of the old metadata, if there was any that could be read.
    pub saved: Option<PathBuf>,
    /// What a person should know. Lines for standard error.
    pub warnings: Vec<String>,
}

/// Makes metadata for a disk. External metadata on a file that does not exist is created, of the
/// size that it needs. Data is never touched: only the metadata area is written, and with
/// `preallocate` zeroes where the file has holes. Blocks.
///
/// # Errors
/// See [`CreateError`]; the old metadata is still there then, unless writing itself failed.
pub fn create_md(
    path: &Path,
    meta_disk: &MetaDisk,
    who: &Identity,
    options: &CreateOptions,
) -> Result<Report, CreateError> {
    make_missing_meta_file(path, meta_disk, options.max_peers, options.lock_wait)?;
    let disks = Disks::open(path, meta_disk, Access::Exclusive, options.lock_wait)?;
    let device_uuid = if options.seed == 0 { 1 } else { options.seed };
    let block = disks.meta().logical_block_size;
    let geometry = Geometry::new(disks.placement(), block, options.max_peers, device_uuid)
        .map_err(|error| layout_error(&disks, error))?;
    let (mut found, blank) = look(&disks, &geometry)?;
    let old = disks.old_end(&options.state_dir, who);
    let mut older = Older::find(&disks, old, &options.state_dir, who);
    if old.is_some() {
        let is_known = |found: &Found| found.in_data && found.kind != UNKNOWN_DATA;
        found.retain(|found| is_known(found) || found.is_whole_metadata());
    }
    found.extend(older.found());
    let cut = !geometry.external
        && found.iter().any(|found| found.size.is_some_and(|size| size > geometry.data_size));
    if !found.is_empty() && !options.force {
        return Err(CreateError::Found { path: path.to_owned(), found, cut });
    }
    let new = NewDisk {
        resource: who.resource.clone(),
        volume: who.volume,
        node_id: who.node_id,
        created_time: options.wall_clock,
        found: describe(&found),
        blank,
        preallocated: options.preallocate,
        boot_id: options.boot_id,
    };
    let (superblock, stages) = format_new(&geometry, &new).map_err(CreateError::Layout)?;
    let save = Save {
        state_dir: &options.state_dir,
        verb: SavedBefore::CreateMd,
        wall_clock: options.wall_clock,
    };
    let (saved, mut warnings) = older.save(&disks, &save)?;
    warnings.extend(prepare(&disks, &geometry, options)?);
    if cut {
        warnings.push(
            "what was on the disk reaches behind the new end of the data area: it was cut off; \
             use an external meta-disk, or shrink it first"
                .to_owned(),
        );
    }
    // Of a new disk nothing was exported yet.
    warnings.extend(older.give_up(&disks, 0, &options.state_dir, who)?.said);
    let device = disks.meta();
    device.write_stages(&stages).map_err(|error| device.io_error("writing the metadata", error))?;
    if let Err(error) =
        record::store_alone(&options.state_dir, who, path, disks.data.size, Vec::new())
    {
        warnings.push(format!(
            "{}: the disk's size was not recorded: {error}",
            options.state_dir.display()
        ));
    }
    Ok(Report { geometry, superblock, found, saved, warnings })
}

/// A size that does not fit is the disk's fault, the rest is the caller's.
fn layout_error(disks: &Disks, error: MetaError) -> CreateError {
    match error {
        MetaError::TooSmall { .. } | MetaError::TooLarge { .. } => disks.bad(error).into(),
        error => CreateError::Layout(error),
    }
}

/// Makes a missing file for external metadata, of the size that it needs. Never under `/dev`,
/// where a missing device is a wrong path.
pub(super) fn make_missing_meta_file(
    data: &Path,
    meta_disk: &MetaDisk,
    max_peers: u8,
    lock_wait: Duration,
) -> Result<(), CreateError> {
    let MetaDisk::External(path) = meta_disk else { return Ok(()) };
    if path.exists() || path.starts_with("/dev") {
        return Ok(());
    }
    let data = Device::open(data, Part::Data, Access::Exclusive, lock_wait)?;
    // Blocks of 512 bytes take more headers: enough for either.
    let size = Geometry::external_bytes(data.size, 512, max_peers).map_err(CreateError::Layout)?;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.and_then(|file| file.set_len(size))
        .map_err(|error| OpenError::Open { path: path.clone(), part: Part::Meta, error }.into())
}

/// What is on the disks, and whether the data area is blank.
fn look(disks: &Disks, geometry: &Geometry) -> Result<(Vec<Found>, bool), OpenError> {
    let scanned = |device: &Device| scan(device).map_err(|error| device.io_error("reading", error));
    let zero = |device: &Device, offset: u64, length: u64| {
        is_zero(device, offset, length).map_err(|error| device.io_error("reading", error))
    };
    let data = &disks.data;
    let mut found = scanned(data)?;
    let blank = is_blank(data, geometry.data_size)? && !found.iter().any(|found| found.in_data);
    let start = if geometry.external { 0 } else { geometry.data_size };
    if let Some(meta) = &disks.external {
        found.extend(scanned(meta)?);
    }
    let overwritten = geometry.meta_bytes.min(OVERWRITTEN_SPAN);
    if found.is_empty() && !(blank && zero(disks.meta(), start, overwritten)?) {
        found.push(Found::new(UNKNOWN_DATA));
    }
    Ok((found, blank))
}

/// Whether either end of the data area holds anything.
pub(super) fn is_blank(data: &Device, data_size: u64) -> Result<bool, OpenError> {
    let span = BLANK_SPAN.min(data_size);
    let zero =
        |offset| is_zero(data, offset, span).map_err(|error| data.io_error("reading", error));
    Ok(zero(0)? && zero(data_size - span)?)
}

/// What is in the place that the metadata takes, or reaches into it from the data area.
pub(super) fn look_overwritten(
    disks: &Disks,
    geometry: &Geometry,
) -> Result<(Vec<Found>, bool), OpenError> {
    let scanned = |device: &Device| scan(device).map_err(|error| device.io_error("reading", error));
    let reaches = |found: &Found| {
        !geometry.external && found.size.is_some_and(|size| size > geometry.data_size)
    };
    let mut found = scanned(&disks.data)?;
    let cut = found.iter().any(reaches);
    found.retain(|found| reaches(found) || (!found.in_data && !geometry.external));
    if let Some(meta) = &disks.external {
        found.extend(scanned(meta)?);
    }
    let device = disks.meta();
    let start = if geometry.external { 0 } else { geometry.data_size };
    let overwritten = geometry.meta_bytes.min(OVERWRITTEN_SPAN);
    let zero = is_zero(device, start, overwritten);
    if found.is_empty() && !zero.map_err(|error| device.io_error("reading", error))? {
        found.push(Found::new(UNKNOWN_DATA));
    }
    Ok((found, cut))
}

fn is_zero(device: &Device, offset: u64, length: u64) -> io::Result<bool> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let bytes = device.peek(offset, length)?.unwrap_or_default();
    Ok(bytes.iter().all(|byte| *byte == 0))
}

fn describe(found: &[Found]) -> String {
    if found.is_empty() {
        return BLANK.to_owned();
    }
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The dump of the metadata at that place, into the state folder. `None`: there is none that is whole.
pub(super) fn save_at(
    disks: &Disks,
    placement: Placement,
    save: &Save<'_>,
) -> Result<Option<PathBuf>, CreateError> {
    let device = disks.meta();
    let Ok(old) = read_superblock(placement, &mut device.reader()) else { return Ok(None) };
    let Ok(geometry) = Geometry::of(placement, &old.superblock) else { return Ok(None) };
    // The boot id is that of the disk: it is restored with the rest.
    let boot_id = old.superblock.boot_id;
    let Ok(meta) = load(&geometry, &mut device.reader(), boot_id) else { return Ok(None) };
    let owner = super::open::owner(&meta.superblock);
    let text =
        format!("{}{}", inspect::header(&device.path, save.wall_clock), dump(&meta, &geometry));
    save.write(&owner, &text).map(|copy| Some(copy.keep()))
}

/// Space for the metadata always, for everything where it was asked for.
fn prepare(
    disks: &Disks,
    geometry: &Geometry,
    options: &CreateOptions,
) -> Result<Vec<String>, CreateError> {
    let mut warnings = Vec::new();
    let devices = std::iter::once(&disks.data).chain(&disks.external);
    if options.preallocate {
        for device in devices {
            fill_holes(device).map_err(|error| device.io_error("preallocating", error))?;
        }
        if disks.data.block {
            warnings.push(
                "--preallocate writes files only; on a block device it just keeps blocks on trim"
                    .to_owned(),
            );
        }
        return Ok(warnings);
    }
    let device = disks.meta();
    let start = if geometry.external { 0 } else { geometry.data_size };
    reserve(device, start, geometry.meta_bytes)
        .map_err(|error| device.io_error("reserving space for the metadata", error))?;
    if !disks.data.block {
        warnings
            .push("a fully written file flushes twice as fast: --preallocate writes it".to_owned());
    }
    Ok(warnings)
}
