//! `wipe-md`, `restore-md` and `forget-peer`: the metadata of a disk that nobody has.
//!
//! All save what they overwrite. The first two write in the order of
//! [`crate::meta::restore_stages`]: first the superblock is gone, durably.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::create::{is_blank, look_overwritten, make_missing_meta_file, save_at};
use super::device::{Access, Device};
use super::error::{CreateError, OpenError};
use super::older::Older;
use super::open::{Disks, owner};
use super::preallocate::reserve;
use super::saved::{Save, SavedBefore};
use super::signatures::scan;
use super::{Identity, MetaDisk, record};
use crate::meta::{
    Dumped, Geometry, MetaError, MetaOp, Placement, SUPERBLOCK_BYTES, Superblock, read_superblock,
    repair, restore_stages, stages, wipe_piece, wipe_superblocks,
};
use crate::resource::NodeId;

/// Bytes that are cleared at once.
const PIECE: u64 = 1 << 20;

/// How to wipe or restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Overwrite what is found.
    pub force: bool,
    /// The dump is of the disk whose image this one holds: a fresh identity for it.
    pub seed: Option<u64>,
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
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The dump of what was overwritten, if it could be read.
    pub saved: Option<PathBuf>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Makes a disk forget that it has metadata: zeroes over the superblock, then over the rest. The
/// data stays. Without `force` it is refused, and says whose metadata it is. Blocks.
///
/// # Errors
/// The disk is in use or cannot be written, there is no metadata, or it cannot be saved.
pub fn wipe_md(
    path: &Path,
    meta_disk: &MetaDisk,
    who: &Identity,
    options: &RestoreOptions,
) -> Result<Restored, CreateError> {
    let disks = Disks::open(path, meta_disk, Access::Exclusive, options.lock_wait)?;
    let (device, placement) = (disks.meta(), disks.placement());
    let found = match disks.settled_superblock(&options.state_dir, who) {
        Ok(found) => Some(found.superblock),
        Err(OpenError::Metadata {
            error: MetaError::BothDamaged { .. } | MetaError::Version { .. },
            ..
        }) => None,
        Err(error) => return Err(error.into()),
    };
    let geometry = found.as_ref().and_then(|found| Geometry::of(placement, found).ok());
    if !options.force {
        let mut found = scan(device).map_err(|error| device.io_error("reading", error))?;
        found.retain(|found| !found.in_data);
        return Err(CreateError::Found { path: path.to_owned(), found, cut: false });
    }
    let mut older = Older::find(&disks, None, &options.state_dir, who);
    // What is not wiped counts then, by the note that is there.
    let stays = older.of_another(found.as_ref().map(|found| found.device_uuid));
    let save = save(options, SavedBefore::WipeMd);
    let (saved, mut warnings) = match stays {
        None => older.save(&disks, &save)?,
        Some(_) => (save_at(&disks, placement, &save)?, Vec::new()),
    };
    if saved.is_none() {
        warnings.push("the metadata is damaged: there was nothing whole to save".to_owned());
    }
    let keeps_note = match stays {
        None => {
            let exported = geometry.and(found).map_or(u64::MAX, |found| found.effective_size);
            let given_up = older.give_up(&disks, exported, &options.state_dir, who)?;
            warnings.extend(given_up.said);
            given_up.hangs_on_note
        }
        Some(disk_size) => {
            warnings.push(format!(
                "other metadata of this volume is at the old end of the disk, {disk_size} bytes, and stays: an attach \
                 takes it"
            ));
            true
        }
    };
    let mut gone = wipe_superblocks(placement).map_err(|error| disks.bad(error))?;
    let from = stays.unwrap_or(0) / SUPERBLOCK_BYTES * SUPERBLOCK_BYTES;
    gone.writes.retain(|(place, _)| *place >= from);
    device.write_stages(&[gone]).map_err(|error| device.io_error("wiping", error))?;
    if let Some(geometry) = geometry {
        clear_rest(device, placement, &geometry, from)?;
    }
    if !keeps_note {
        record::forget(&options.state_dir, who, path);
    }
    Ok(Restored { saved, warnings })
}

/// Zeroes over what is left of metadata without a superblock, so that nothing is found there; nothing before `from`,
/// where other metadata ends.
fn clear_rest(
    device: &Device,
    placement: Placement,
    geometry: &Geometry,
    from: u64,
) -> Result<(), CreateError> {
    let start = match placement {
        Placement::Internal { .. } => geometry.data_size,
        Placement::External { .. } => 0,
    };
    let (mut at, end) = (start.max(from), start + geometry.meta_bytes);
    while at < end {
        let length = usize::try_from(PIECE.min(end - at)).expect("1 MiB");
        let bytes = device.peek(at, length).map_err(|error| device.io_error("reading", error))?;
        if bytes.is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0)) {
            let stage = wipe_piece(at, length);
            device.write_stages(&[stage]).map_err(|error| device.io_error("wiping", error))?;
        }
        at += length as u64;
    }
    Ok(())
}

/// Puts metadata from a dump on a disk. Blocks.
///
/// # Errors
/// The disk is in use or cannot be written, the dump is not of this disk, something is there, or it
/// cannot be saved. Nothing was written then, unless writing itself failed.
pub fn restore_md(
    path: &Path,
    meta_disk: &MetaDisk,
    who: &Identity,
    mut dumped: Dumped,
    options: &RestoreOptions,
) -> Result<Restored, CreateError> {
    let source = dumped.superblock.device_uuid;
    // Where the image's own metadata is, if any came with it.
    let came_at = match options.seed.is_some() && !dumped.external {
        true => Geometry::disk_sizes_of(&dumped.superblock),
        false => Vec::new(),
    };
    if let Some(device_uuid) = options.seed {
        let device_uuid = device_uuid.max(1);
        dumped = dumped
            .seeded(who.node_id, device_uuid, options.wall_clock, options.boot_id)
            .map_err(|what| CreateError::Dump(what.to_owned()))?;
    }
    // Whom it stood in for was answered with the data of then.
    dumped.superblock.stands_in_for_nobody();
    let of = owner(&dumped.superblock);
    if of != *who {
        let text = format!("the dump is the metadata of {of}, not of {who}");
        return Err(CreateError::Dump(text));
    }
    let max_peers = u8::try_from(dumped.superblock.peers.len()).unwrap_or(u8::MAX);
    make_missing_meta_file(path, meta_disk, max_peers, options.lock_wait)?;
    let disks = Disks::open(path, meta_disk, Access::Exclusive, options.lock_wait)?;
    let device = disks.meta();
    let geometry = dumped
        .place(disks.placement(), device.logical_block_size)
        .map_err(|error| disks.bad(error))?;
    if options.seed.is_some() && !options.force && is_blank(&disks.data, geometry.data_size)? {
        let text = format!(
            "{} is blank at both ends: copy the image of the other node's disk to it first \
             (--force takes it as it is)",
            path.display()
        );
        return Err(CreateError::Dump(text));
    }
    let mut warnings = Vec::new();
    if options.seed.is_some() {
        match came_with_the_image(&disks, &came_at, source) {
            Some(old) if !dumped.starts_from(&old) => {
                let text = format!(
                    "the image on {}, or this dump, was copied before the order that cleared \
                     this node's slot (new-current-uuid --clear-bitmap): copy it anew",
                    path.display()
                );
                return Err(CreateError::Dump(text));
            }
            Some(_) => {}
            None => warnings.push(format!(
                "{} has no metadata that came with the image: that it was copied after the order that cleared \
                 this node's slot (new-current-uuid --clear-bitmap) is not checked",
                path.display()
            )),
        }
    }
    let (mut found, cut) = look_overwritten(&disks, &geometry)?;
    if let Ok(old) = read_superblock(disks.placement(), &mut device.reader()) {
        let (old, new) = (&old.superblock, &dumped.superblock);
        let ours = found.iter().position(|found| found.kind.starts_with("Tandem"));
        match ours {
            // It came with the image.
            Some(at) if options.seed.is_some() && old.device_uuid == source => {
                found.remove(at);
            }
            Some(at) if old.device_uuid == new.device_uuid && old.sequence > new.sequence => {
                let (old, new) = (old.sequence, new.sequence);
                let newer = format!(", newer than the dump (sequence {old} and {new})");
                found[at].kind.push_str(&newer);
            }
            _ => {}
        }
    }
    let old = disks.old_end(&options.state_dir, who);
    let mut older = Older::find(&disks, old, &options.state_dir, who);
    found.extend(older.found());
    if !found.is_empty() && !options.force {
        return Err(CreateError::Found { path: path.to_owned(), found, cut });
    }
    let (saved, others) = older.save(&disks, &save(options, SavedBefore::RestoreMd))?;
    warnings.extend(others);
    let start = if geometry.external { 0 } else { geometry.data_size };
    reserve(device, start, geometry.meta_bytes)
        .map_err(|error| device.io_error("reserving space for the metadata", error))?;
    let exported = dumped.superblock.effective_size;
    warnings.extend(older.give_up(&disks, exported, &options.state_dir, who)?.said);
    for stage in restore_stages(&geometry, &dumped) {
        let written = device.write_stages(&[stage]);
        written.map_err(|error| device.io_error("writing the metadata", error))?;
    }
    if let Err(error) =
        record::store_alone(&options.state_dir, who, path, disks.data.size, Vec::new())
    {
        let folder = options.state_dir.display();
        warnings.push(format!("{folder}: the disk's size was not recorded: {error}"));
    }
    Ok(Restored { saved, warnings })
}

/// The superblock of the disk that an image is of, where that disk ended, or where this one does.
fn came_with_the_image(disks: &Disks, came_at: &[u64], source: u64) -> Option<Superblock> {
    let there = came_at.iter().copied().filter(|size| *size <= disks.data.size);
    let there = there.map(|disk_size| (Placement::Internal { disk_size }, &disks.data));
    std::iter::once((disks.placement(), disks.meta())).chain(there).find_map(
        |(placement, device)| {
            let found = read_superblock(placement, &mut device.reader()).ok()?.superblock;
            (found.device_uuid == source).then_some(found)
        },
    )
}

/// Frees the slot of a peer on a disk that nobody has. `None`: it has none. Blocks.
///
/// # Errors
/// The disk is in use, cannot be written, has no metadata of `who`, or it cannot be saved.
pub fn forget_peer(
    path: &Path,
    meta_disk: &MetaDisk,
    who: &Identity,
    peer: NodeId,
    save: &Save<'_>,
    lock_wait: Duration,
) -> Result<Option<PathBuf>, CreateError> {
    let disks = Disks::open(path, meta_disk, Access::Exclusive, lock_wait)?;
    let device = disks.meta();
    let found = disks.settled_superblock(save.state_dir, who)?;
    let of = owner(&found.superblock);
    if of != *who {
        let (path, expected) = (device.path.clone(), who.clone());
        return Err(OpenError::Foreign { path, found: of, expected }.into());
    }
    let geometry = disks.geometry(&found.superblock)?;
    let mut superblock = found.superblock;
    let Some(slot) = superblock.peers.iter().position(|slot| slot.node_id == Some(peer)) else {
        return Ok(None);
    };
    let saved = save_at(&disks, disks.placement(), save)?;
    let fix = repair(&geometry, &mut device.reader()).map_err(|error| disks.bad(error))?;
    superblock.forget_slot(slot);
    superblock.sequence += 1;
    let update = stages(&geometry, &MetaOp::Superblock(Box::new(superblock)));
    for stages in [fix, update] {
        let written = device.write_stages(&stages);
        written.map_err(|error| device.io_error("writing the metadata", error))?;
    }
    Ok(saved)
}

fn save(options: &RestoreOptions, verb: SavedBefore) -> Save<'_> {
    Save { state_dir: &options.state_dir, verb, wall_clock: options.wall_clock }
}
