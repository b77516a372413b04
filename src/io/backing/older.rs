//! Metadata at older ends of a disk whose metadata is made or restored at its end of now: it must never count
//! again.
//!
//! Invariants:
//! - From the moment on at which the state folder says that the metadata is at the end of now, nothing at an older
//!   end is asked. Until then what counted counts. A note that cannot be written is an error.
//! - Copies of a superblock at older ends are zeroed, so that it does not hang on a note alone: whole blocks of this
//!   volume's metadata on this node only, never in what is exported, where the bytes are the volume's, and never
//!   before the note.

use std::path::Path;

use super::Identity;
use super::error::CreateError;
use super::open::{Disks, owner};
use super::record;
use crate::meta::{Placement, SUPERBLOCK_BYTES, Stage, decode_superblock, read_superblock};

/// Metadata that is about to lose its place at an older end of the disk.
#[derive(Debug)]
pub(super) struct Older {
    /// What counts until now is at an older end.
    counts: bool,
    /// The copies of a superblock at older ends.
    copies: Vec<u64>,
}

impl Older {
    /// What stands at older ends that are noted. `old`: [`Disks::old_end`].
    pub(super) fn find(disks: &Disks, old: Option<u64>, state_dir: &Path, who: &Identity) -> Self {
        let mut copies = Vec::new();
        let places = |disk_size| Placement::Internal { disk_size }.superblock_offsets().ok();
        let now = places(disks.data.size);
        let ends = match disks.external {
            None => disks.noted_ends(state_dir, who),
            Some(_) => Vec::new(),
        };
        for offsets in ends.into_iter().filter(|end| *end < disks.data.size).filter_map(places) {
            if Some(offsets) == now {
                continue;
            }
            for (copy, offset) in (0u8..).zip(offsets) {
                let block = disks.data.read(offset, SUPERBLOCK_BYTES as usize).ok();
                let found = block.and_then(|block| decode_superblock(&block, copy).ok());
                if found.is_some_and(|found| owner(&found) == *who) {
                    copies.push(offset);
                }
            }
        }
        Self { counts: old.is_some(), copies }
    }

    /// Takes its place from it. `exported`: what the new metadata says of its volume, bytes. What a person should
    /// know. Blocks.
    ///
    /// # Errors
    /// The place of the new metadata cannot be noted: what counted counts as before. Or writing failed.
    pub(super) fn give_up(
        &self,
        disks: &Disks,
        exported: u64,
        state_dir: &Path,
        who: &Identity,
    ) -> Result<Vec<String>, CreateError> {
        let data = &disks.data;
        if !self.counts && self.copies.is_empty() {
            return Ok(Vec::new());
        }
        let wiped = |stage: Stage| {
            data.write_stages(&[stage]).map_err(|error| data.io_error("wiping old metadata", error))
        };
        // What an earlier time has left at the end of now would count from the note on.
        let now = disks.placement();
        if self.counts
            && let Ok(places) = now.superblock_offsets()
            && !matches!(
                read_superblock(now, &mut data.reader()),
                Err(crate::meta::MetaError::NoMetadata)
            )
        {
            wiped(Stage::zeroes(&places))?;
        }
        record::store(state_dir, who, &data.path, data.size, None)
            .map_err(|error| CreateError::Note { folder: state_dir.to_owned(), error })?;
        let (kept, gone): (Vec<u64>, Vec<u64>) =
            self.copies.iter().partition(|offset| **offset < exported);
        let mut said = Vec::new();
        if !gone.is_empty() {
            wiped(Stage::zeroes(&gone))?;
            said.push(format!(
                "the superblocks of the metadata at the old end of the disk were zeroed: {SUPERBLOCK_BYTES} bytes \
                 each, at {}",
                listed(&gone)
            ));
        }
        if !kept.is_empty() {
            said.push(format!(
                "superblocks at the old end of the disk lie in the data of the volume and stay there (at {}): \
                 only the note in {} says that they do not count",
                listed(&kept),
                state_dir.display()
            ));
        }
        Ok(said)
    }
}

fn listed(offsets: &[u64]) -> String {
    offsets.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}
