//! Metadata at older ends of a disk whose metadata is made, restored or wiped at its end of now: it must never count
//! again, or go on to be there.
//!
//! Invariants:
//! - From the moment on at which the state folder says that the metadata is at the end of now, nothing at an older
//!   end is asked. Until then what counted counts. A note that cannot be written is an error.
//! - Where two disks' metadata stand, and nobody knows which counts, neither does from before the first of them is
//!   touched until the new one is noted: a power cut decides nothing.
//! - Copies of a superblock at older ends are zeroed, so that it does not hang on a note alone: whole blocks of this
//!   volume's metadata on this node only, of which a copy was saved, never in what is exported, where the bytes are
//!   the volume's, and never before the note.

use std::path::{Path, PathBuf};

use super::Identity;
use super::create::save_at;
use super::error::CreateError;
use super::open::{Disks, owner};
use super::record;
use super::saved::{Save, SavedBefore};
use super::signatures::Found;
use crate::meta::{
    MetaError, Placement, SUPERBLOCK_BYTES, Stage, Superblock, decode_superblock, read_superblock,
};

/// Metadata that is about to lose its place at older ends of the disk.
#[derive(Debug)]
pub(super) struct Older {
    /// What counts until now is where a disk of this size ends; or it may, as it is another one's than that at the
    /// end of now.
    counts: Option<u64>,
    /// That is known.
    is_known: bool,
    /// It may also be that at the end of now, or an order has given both up and was cut off.
    is_undecided: bool,
    /// What that at the end of now exports then, bytes: it may be what counted.
    exported: u64,
    ends: Vec<End>,
    /// The copies that were saved.
    copies: Vec<PathBuf>,
}

/// What was given up.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    /// What a person should know.
    pub(super) said: Vec<String>,
    /// Superblocks that the note alone keeps from counting are still there.
    pub(super) hangs_on_note: bool,
}

/// Where the disk ended once, and whole metadata stands.
#[derive(Debug)]
struct End {
    disk_size: u64,
    device_uuid: u64,
    /// It may count: no order has ended it.
    is_noted: bool,
    /// The copies of its superblock.
    copies: Vec<u64>,
    /// A copy of it is in the state folder.
    is_saved: bool,
}

impl Older {
    /// What stands at older ends that are noted. `old`: [`Disks::old_end`].
    pub(super) fn find(disks: &Disks, old: Option<u64>, state_dir: &Path, who: &Identity) -> Self {
        let (noted, ended) = match disks.external {
            None => {
                let ended = record::ended(state_dir, who, &disks.data.path);
                (disks.ends(state_dir, who), ended)
            }
            Some(_) => Default::default(),
        };
        let mut ends: Vec<End> = Vec::new();
        let given_up = noted.given_up;
        let noted = noted.sizes.into_iter().map(|end| (end, true));
        for (disk_size, is_noted) in noted.chain(ended.into_iter().map(|end| (end, false))) {
            if ends.iter().all(|end| end.disk_size != disk_size) {
                ends.extend(End::at(disks, disk_size, who, is_noted));
            }
        }
        let found = at(disks, disks.data.size);
        let now = found.as_ref().map(|found| found.device_uuid);
        let others = ends.iter().filter(|end| end.is_noted && Some(end.device_uuid) != now);
        let counts = old.or_else(|| others.map(|end| end.disk_size).max());
        let is_known = old.is_some();
        let is_undecided = given_up || (!is_known && counts.is_some());
        let exported = match found.filter(|_| is_undecided) {
            Some(found) => found.effective_size,
            // The order that was cut off has zeroed it.
            None if given_up => u64::MAX,
            None => 0,
        };
        Self { counts, is_known, is_undecided, exported, ends, copies: Vec::new() }
    }

    /// For a message: what loses its place.
    pub(super) fn found(&self) -> impl Iterator<Item = Found> {
        let more =
            self.counts.filter(|counts| self.ends.iter().all(|end| end.disk_size != *counts));
        self.ends.iter().map(|end| end.disk_size).chain(more).map(|disk_size| {
            let kind = format!("Tandem metadata at the old end of the disk, {disk_size} bytes");
            Found { in_data: false, ..Found::new(kind) }
        })
    }

    /// Where the disk ended, the last time, with the metadata of another disk than this one's.
    pub(super) fn of_another(&self, device_uuid: Option<u64>) -> Option<u64> {
        let is_other = |end: &&End| end.is_noted && Some(end.device_uuid) != device_uuid;
        let others = self.ends.iter().filter(is_other);
        others.map(|end| end.disk_size).max()
    }

    /// Copies of all that is whole into the state folder, at the end of now and before: the one that is told, of what
    /// counts; and lines about the others. `None`: there is none that is whole.
    pub(super) fn save(
        &mut self,
        disks: &Disks,
        save: &Save<'_>,
    ) -> Result<(Option<PathBuf>, Vec<String>), CreateError> {
        // What does not count any more is of an earlier time than the order.
        let earlier = Save { verb: SavedBefore::Resize, ..*save };
        let at_end = if self.is_known { &earlier } else { save };
        let mut told = save_at(disks, disks.placement(), at_end)?;
        let mut others = Vec::new();
        let counts = self.counts;
        // The one that counts is the last one.
        self.ends.sort_by_key(|end| (Some(end.disk_size) == counts, end.disk_size));
        let mut sizes: Vec<u64> = self.ends.iter().map(|end| end.disk_size).collect();
        sizes.extend(counts.filter(|counts| !sizes.contains(counts)));
        for disk_size in sizes {
            let is_told = Some(disk_size) == counts;
            let as_what = if is_told { save } else { &earlier };
            let Some(path) = save_at(disks, Placement::Internal { disk_size }, as_what)? else {
                continue;
            };
            self.ends.iter_mut().filter(|end| end.disk_size == disk_size).for_each(End::saved);
            match is_told && self.is_known {
                true => others.extend(told.replace(path)),
                false => others.push(path),
            }
        }
        self.copies = told.iter().chain(&others).cloned().collect();
        let line =
            |path: PathBuf| format!("other metadata on the disk is saved in {}", path.display());
        Ok((told, others.into_iter().map(line).collect()))
    }

    /// Takes its place from it. `exported`: what the new metadata says of its volume, bytes. Blocks.
    ///
    /// # Errors
    /// The place of the new metadata cannot be noted: what counted counts as before. Or writing failed.
    pub(super) fn give_up(
        &self,
        disks: &Disks,
        exported: u64,
        state_dir: &Path,
        who: &Identity,
    ) -> Result<GivenUp, CreateError> {
        if !self.is_undecided && self.counts.is_none() && self.ends.is_empty() {
            return Ok(GivenUp::default());
        }
        if self.is_undecided {
            self.note_given_up(disks, state_dir, who)?;
        }
        self.clear_end(disks)?;
        self.note(disks, state_dir, who)?;
        self.zero(disks, exported.max(self.exported), state_dir)
    }

    /// From then on neither of two disks' metadata counts, whatever is left of them, until [`Self::note`].
    pub(super) fn note_given_up(
        &self,
        disks: &Disks,
        state_dir: &Path,
        who: &Identity,
    ) -> Result<(), CreateError> {
        let sizes = (disks.data.size, self.counts);
        record::store_given_up(state_dir, who, &disks.data.path, sizes, self.ended())
            .map_err(|error| CreateError::Note { folder: state_dir.to_owned(), error })
    }

    fn ended(&self) -> Vec<u64> {
        self.ends.iter().map(|end| end.disk_size).collect()
    }

    /// From then on nothing of it counts. Where it stands is noted until it is zeroed.
    pub(super) fn note(
        &self,
        disks: &Disks,
        state_dir: &Path,
        who: &Identity,
    ) -> Result<(), CreateError> {
        let folder = state_dir.to_owned();
        record::store_alone(state_dir, who, &disks.data.path, disks.data.size, self.ended())
            .map_err(|error| match self.is_undecided {
                false => CreateError::Note { folder, error },
                true => CreateError::GivenUp { folder, copies: self.copies.clone(), error },
            })
    }

    /// What an earlier time has left at the end of now would count from the note on. Where that place reaches over
    /// what counts, as the disk has hardly grown, this is not touched.
    pub(super) fn clear_end(&self, disks: &Disks) -> Result<(), CreateError> {
        let counts = self.counts.or(self.is_undecided.then_some(0));
        let (Some(counts), now) = (counts, disks.placement()) else { return Ok(()) };
        let Ok(places) = now.superblock_offsets() else { return Ok(()) };
        let found = read_superblock(now, &mut disks.data.reader());
        if matches!(found, Err(MetaError::NoMetadata)) {
            return Ok(());
        }
        let end = counts / SUPERBLOCK_BYTES * SUPERBLOCK_BYTES;
        let behind: Vec<u64> = places.into_iter().filter(|place| *place >= end).collect();
        wipe(disks, &behind)
    }

    /// Zeroes its superblocks.
    fn zero(&self, disks: &Disks, exported: u64, state_dir: &Path) -> Result<GivenUp, CreateError> {
        let (saved, unsaved): (Vec<&End>, Vec<&End>) =
            self.ends.iter().partition(|end| end.is_saved);
        let copies = |ends: Vec<&End>| -> Vec<u64> {
            ends.into_iter().flat_map(|end| end.copies.clone()).collect()
        };
        let (kept, gone): (Vec<u64>, Vec<u64>) =
            copies(saved).into_iter().partition(|offset| *offset < exported);
        let hangs_on_note = !kept.is_empty() || !unsaved.is_empty();
        let mut said = Vec::new();
        if !gone.is_empty() {
            wipe(disks, &gone)?;
            said.push(format!(
                "the superblocks of the metadata at the old end of the disk were zeroed: {SUPERBLOCK_BYTES} bytes \
                 each, at {}",
                listed(&gone)
            ));
        }
        let only = format!("only the note in {} says that they do not count", state_dir.display());
        if !kept.is_empty() {
            said.push(format!(
                "superblocks at the old end of the disk lie, or may lie, in the data of the volume and stay there \
                 (at {}): {only}",
                listed(&kept)
            ));
        }
        if !unsaved.is_empty() {
            said.push(format!(
                "of superblocks at the old end of the disk no copy could be made, and they stay there (at {}): {only}",
                listed(&copies(unsaved))
            ));
        }
        Ok(GivenUp { said, hangs_on_note })
    }
}

impl End {
    /// `None`: no whole metadata of `who` is there, or it is the end of now.
    fn at(disks: &Disks, disk_size: u64, who: &Identity, is_noted: bool) -> Option<Self> {
        let places = |disk_size| Placement::Internal { disk_size }.superblock_offsets().ok();
        let offsets = places(disk_size)?;
        if disk_size >= disks.data.size || Some(offsets) == places(disks.data.size) {
            return None;
        }
        let device_uuid = at(disks, disk_size).filter(|found| owner(found) == *who)?.device_uuid;
        let is_copy = |(copy, offset): &(u8, u64)| {
            let block = disks.data.read(*offset, SUPERBLOCK_BYTES as usize).ok();
            let found = block.and_then(|block| decode_superblock(&block, *copy).ok());
            found.is_some_and(|found| found.device_uuid == device_uuid && owner(&found) == *who)
        };
        let copies = (0u8..).zip(offsets).filter(is_copy).map(|(_, offset)| offset).collect();
        Some(Self { disk_size, device_uuid, is_noted, copies, is_saved: false })
    }

    fn saved(&mut self) {
        self.is_saved = true;
    }
}

/// The superblock where a disk of this size ends.
fn at(disks: &Disks, disk_size: u64) -> Option<Superblock> {
    let found = read_superblock(Placement::Internal { disk_size }, &mut disks.data.reader());
    found.ok().map(|found| found.superblock)
}

fn wipe(disks: &Disks, places: &[u64]) -> Result<(), CreateError> {
    let wiped = disks.data.write_stages(&[Stage::zeroes(places)]);
    wiped.map_err(|error| disks.data.io_error("wiping old metadata", error).into())
}

fn listed(offsets: &[u64]) -> String {
    offsets.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}
