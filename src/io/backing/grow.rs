//! A disk takes the room that it has gained: at attach, and by order while it is in use.
//!
//! Invariants (docs/decisions/a-disk-grows-in-two-steps.md):
//! - Where internal metadata may be stands in the state folder, durably, before anything is written at
//!   the new end: a disk whose old end nobody knows would be lost by a power cut. Only what an earlier
//!   time has left there is zeroed before that.
//! - Nothing that counts was changed where it is refused; an error of a write is a failed disk.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::create::save_at;
use super::device::Device;
use super::error::disk_error;
use super::open::Disks;
use super::preallocate::reserve;
use super::saved::{Save, SavedBefore};
use super::{Identity, record};
use crate::meta::{
    Geometry, MetaError, Placement, SUPERBLOCK_BYTES, grown, load, move_stages, zeroed_end,
};
use crate::resource::{DiskError, Refusal};

/// DRBD's numbers and texts for a disk, and one for metadata, that is too small.
const TOO_SMALL: [(i32, &str); 2] =
    [(111, "Backing device too small."), (112, "Meta device too small.")];

/// What taking room needs to know of a disk beside where its metadata is.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    /// Where the ends of disks stand; `None`: nowhere.
    pub(super) state_dir: Option<PathBuf>,
    pub(super) who: Identity,
    /// The boot id that the metadata keeps.
    pub(super) boot_id: [u8; 16],
    pub(super) called: Called,
}

/// By which path the disk is known: that of its opening, until it is called otherwise.
#[derive(Clone, Debug)]
pub(super) struct Called(Arc<Mutex<PathBuf>>);

impl Called {
    pub(super) fn by(path: &Path) -> Self {
        Self(Arc::new(Mutex::new(path.to_owned())))
    }

    fn lock(&self) -> MutexGuard<'_, PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Home {
    /// The disk is called so from now on: its note goes along. Blocks.
    ///
    /// # Errors
    /// The note cannot be written: it stays under the path of before.
    pub(crate) fn call(&self, path: &Path) -> io::Result<()> {
        let mut called = self.called.lock();
        if let Some(folder) = &self.state_dir {
            record::rename(folder, &self.who, &called, path)?;
        }
        path.clone_into(&mut called);
        Ok(())
    }
}

/// Where the disk ends, as internal metadata has it.
pub(super) fn end_of(geometry: &Geometry) -> u64 {
    geometry.superblocks[0] + SUPERBLOCK_BYTES
}

/// Takes the room that the disks have gained since `geometry` was made. The metadata on them is not
/// written by anybody else meanwhile. Blocks.
///
/// # Errors
/// The disk has failed. Inside: why nothing was changed.
pub(super) fn take_room(
    disks: &Disks,
    home: &Home,
    geometry: &Geometry,
) -> Result<Result<Geometry, Refusal>, DiskError> {
    let planned = match plan(disks, geometry) {
        Err(refusal) => return Ok(Err(refusal)),
        Ok(None) => return Ok(Ok(*geometry)),
        Ok(Some(new)) => new,
    };
    let device = disks.meta();
    let meta = match load(geometry, &mut device.reader(), home.boot_id) {
        Ok(meta) => meta,
        Err(MetaError::Read(error)) => return Err(error),
        Err(_) => return Err(DiskError::Metadata),
    };
    if let Err(error) = reserve_end(device, &planned) {
        let what = format!("has no space for its metadata: {error}");
        return Ok(Err(refusal(0, device, &what)));
    }
    if !planned.external {
        // Metadata of a time when the disk was that large before would count from the note on. Where the state
        // folder is older than the disk, it is what counts: it goes, and must not be gone.
        if let Err(refusal) = save_stale(disks, home, &planned) {
            return Ok(Err(refusal));
        }
        let stale = device.write_stages(&[zeroed_end(planned.superblocks)]);
        stale.map_err(|error| disk_error(&error))?;
    }
    if let Err(refusal) = note_move(disks, home, geometry, &planned) {
        return Ok(Err(refusal));
    }
    let written = device.write_stages(&move_stages(geometry, &planned, meta));
    written.map_err(|error| disk_error(&error))?;
    // What stays of the older end is looked at, and nothing is found there.
    let _ = note_end(disks, home, &planned, None, None);
    Ok(Ok(planned))
}

/// The new layout, with a file for external metadata made large enough.
fn plan(disks: &Disks, geometry: &Geometry) -> Result<Option<Geometry>, Refusal> {
    let disk_size = size_of(&disks.data)?;
    let placement = match &disks.external {
        None => Placement::Internal { disk_size },
        Some(meta) => {
            let (block, peers) = (geometry.al_block_size, geometry.max_peers);
            let need = Geometry::external_bytes(disk_size, block, peers);
            let mut meta_size = size_of(meta)?;
            if let Ok(need) = need.as_ref().copied()
                && need > meta_size
                && !meta.block
            {
                let longer = meta.file.set_len(need);
                longer.map_err(|error| {
                    refusal(1, meta, &format!("cannot be made longer: {error}"))
                })?;
                meta_size = need;
            }
            Placement::External { disk_size, meta_size }
        }
    };
    grown(geometry, placement).map_err(|error| match error {
        MetaError::LittleGrowth { missing } => refusal(
            0,
            &disks.data,
            &format!(
                "has grown by less than what its metadata needs to move: grow it by {missing} bytes \
                 more, at least"
            ),
        ),
        error => refusal(usize::from(geometry.external), disks.meta(), &format!("cannot grow: {error}")),
    })
}

fn reserve_end(device: &Device, new: &Geometry) -> io::Result<()> {
    let start = if new.external { 0 } else { new.data_size };
    reserve(device, start, new.meta_bytes)
}

/// A copy of the metadata at the new place, if there is any.
fn save_stale(disks: &Disks, home: &Home, new: &Geometry) -> Result<(), Refusal> {
    let Some(state_dir) = &home.state_dir else { return Ok(()) };
    let wall_clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let save = Save { state_dir, verb: SavedBefore::Resize, wall_clock };
    let saved = save_at(disks, Placement::Internal { disk_size: end_of(new) }, &save);
    saved.map(drop).map_err(|error| no_note(home, &format!("{error}")))
}

/// From here on the metadata may be at the new place.
fn note_move(disks: &Disks, home: &Home, old: &Geometry, new: &Geometry) -> Result<(), Refusal> {
    let older = (!new.external).then(|| end_of(old));
    let noted = note_end(disks, home, new, older, None);
    noted.map_err(|error| {
        no_note(home, &format!("where the metadata is could not be noted: {error}"))
    })
}

/// The state folder does not take what must stand in it.
fn no_note(home: &Home, what: &str) -> Refusal {
    let folder = home.state_dir.as_deref().map(|folder| folder.display().to_string());
    Refusal {
        code: 162,
        text: "Invalid configuration request".to_owned(),
        hint: format!("{}: {what}. Make room there first.", folder.unwrap_or_default()),
    }
}

/// Notes where the metadata is, or may be; and what is exported, where that is known.
pub(super) fn note_end(
    disks: &Disks,
    home: &Home,
    geometry: &Geometry,
    older: Option<u64>,
    exported: Option<u64>,
) -> io::Result<()> {
    let Some(folder) = &home.state_dir else { return Ok(()) };
    let end = if geometry.external { disks.data.size } else { end_of(geometry) };
    record::store(folder, &home.who, &home.called.lock(), (end, older), exported)
}

fn size_of(device: &Device) -> Result<u64, Refusal> {
    let mut file: &File = &device.file;
    file.seek(SeekFrom::End(0))
        .map_err(|error| refusal(0, device, &format!("does not tell its size: {error}")))
}

fn refusal(which: usize, device: &Device, what: &str) -> Refusal {
    let (code, text) = TOO_SMALL[which];
    Refusal { code, text: text.to_owned(), hint: format!("{} {what}.", device.path.display()) }
}
