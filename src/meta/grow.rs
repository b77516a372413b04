//! Metadata of a disk that has grown: where it comes to lie, and how it gets there.
//!
//! Invariants:
//! - At every instant a whole superblock stands at one of the places that [`locate`] looks at, and
//!   everything that it speaks of is whole. It never knows less than was durable before.
//! - Internal metadata moves to a place that does not overlap the old one. The old one is zeroed when
//!   the new one is durable, its superblocks last.
//! - External metadata stays at the head of its disk, where places shift: while pages of a bitmap are
//!   overwritten, their slot is "all set".

use super::geometry::{Geometry, Placement, SUPERBLOCK_BYTES};
use super::load::{Read, SuperblockRead, read_superblock};
use super::restore::{new_log_blocks, restore_pages, restore_stages, wipe_piece};
use super::stages::{Stage, stages};
use super::{BitmapState, Dumped, LoadedMeta, MetaError, MetaOp, Superblock};

/// What the sequence of the superblock may grow by in a move. Who holds a superblock in memory adds
/// this to it.
pub const MOVE_SEQUENCES: u64 = 4;
/// Bytes that are zeroed in one stage.
const PIECE: u64 = 1 << 20;

/// The layout on a disk that has grown. `None`: it has not.
///
/// # Errors
/// It has grown by too little to move internal metadata, or the disk for external metadata is too
/// small.
pub fn grown(old: &Geometry, placement: Placement) -> Result<Option<Geometry>, MetaError> {
    let (max_peers, device) = (old.max_peers, old.device_uuid);
    let new = match Geometry::new(placement, old.al_block_size, max_peers, device) {
        Ok(new) => new,
        // Not what it was made for any more: the old place is used as long as it can be read.
        Err(MetaError::TooSmall { .. }) if !old.external => return Ok(None),
        Err(error) => return Err(error),
    };
    if new.data_size <= old.data_size {
        return Ok(None);
    }
    let old_end = old.data_size + old.meta_bytes;
    if !old.external && new.data_size < old_end {
        return Err(MetaError::LittleGrowth { missing: old_end - new.data_size });
    }
    Ok(Some(new))
}

/// The stages of the move from `old` to `new` ([`grown`]), `meta` being what stands at `old`.
/// Afterwards the superblock is that of `meta` with the new `data_size`, and its sequence has grown by
/// [`MOVE_SEQUENCES`] at most.
pub fn move_stages(old: &Geometry, new: &Geometry, meta: LoadedMeta) -> Vec<Stage> {
    let mut superblock = meta.superblock.clone();
    superblock.data_size = new.data_size;
    superblock.sequence += MOVE_SEQUENCES;
    let moved = Dumped {
        superblock,
        external: new.external,
        number: meta.number,
        hot: meta.hot_extents.iter().map(|extent| (u64::from(*extent), 1)).collect(),
        slots: meta.slots,
    };
    if old.external {
        return relaid(old, new, &meta.superblock, &moved);
    }
    restore_stages(new, &moved).chain(zeroed(old)).collect()
}

/// External: in place.
fn relaid(old: &Geometry, new: &Geometry, before: &Superblock, moved: &Dumped) -> Vec<Stage> {
    let superblock = |sequence: u64, data_size: u64, pages: bool| {
        let mut superblock = Superblock { sequence, data_size, ..moved.superblock.clone() };
        for slot in &mut superblock.peers {
            if slot.bitmap_state == BitmapState::Pages && !pages {
                slot.bitmap_state = BitmapState::AllSet;
            }
        }
        stages(new, &MetaOp::Superblock(Box::new(superblock)))
    };
    let (first, last) = (before.sequence, moved.superblock.sequence);
    let mut all = superblock(first + 1, old.data_size, false);
    all.push(Stage { writes: new_log_blocks(new, old.al_blocks).collect() });
    all.extend(superblock(first + 2, new.data_size, false));
    all.extend(restore_pages(new, moved));
    all.extend(superblock(last, new.data_size, true));
    all
}

/// Zeroes over internal metadata that has moved away, its superblocks last: while one of them is
/// there, this is not finished.
pub fn zeroed(old: &Geometry) -> impl Iterator<Item = Stage> + use<> {
    let (start, end) = (old.data_size, old.superblocks[1]);
    let pieces = (start..end).step_by(PIECE as usize);
    let rest = pieces.map(move |at| (at, PIECE.min(end - at)));
    rest.map(|(at, length)| wipe_piece(at, usize::try_from(length).expect("1 MiB")))
        .chain([zeroed_end(old.superblocks)])
}

/// The end of [`zeroed`]: the superblocks, and the seen numbers between them.
#[must_use]
pub fn zeroed_end(superblocks: [u64; 2]) -> Stage {
    let [a, b] = superblocks;
    let length = usize::try_from(a + SUPERBLOCK_BYTES - b).expect("256 KiB");
    wipe_piece(b, length)
}

/// Where the metadata of a disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Its place.
    pub placement: Placement,
    /// The newest copy of the superblock there.
    pub found: SuperblockRead,
    /// What is left at a place before it, to be zeroed.
    pub left: Option<Left>,
}

/// What is left of metadata that has moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// All of it, or some, with its superblock.
    Metadata(Geometry),
    /// At these places of superblocks.
    Superblocks([u64; 2]),
}

/// Nothing of what the superblock speaks of is behind `from`, up to the end of metadata at the older
/// places.
fn is_unused(new: &Superblock, from: u64, older: [u64; 2]) -> bool {
    new.effective_size <= from && older[0] + SUPERBLOCK_BYTES <= new.data_size
}

/// Looks for internal metadata at the end of the disk and then at each older end: whichever superblock
/// of one disk is the newest counts, the later end where they are alike. `settled`: no move from the
/// older end has begun. Then what stands there counts: the later end is of a time when the disk was
/// larger, before it was cut back and its metadata restored from a dump, and may say a higher sequence.
///
/// # Errors
/// That of the end of the disk, where there is none; or two disks' metadata.
pub fn locate(
    disk_size: u64,
    older: &[u64],
    settled: bool,
    read: &mut Read<'_>,
) -> Result<Located, MetaError> {
    let placement = Placement::Internal { disk_size };
    let at_end = placement.superblock_offsets();
    let mut best = read_superblock(placement, read).map(|found| (placement, found));
    if let Err(MetaError::Version { .. } | MetaError::Read(_)) = &best {
        return best.map(|_| unreachable!("an error"));
    }
    let mut left = None;
    for disk_size in older.iter().copied().filter(|older| *older < disk_size) {
        let placement = Placement::Internal { disk_size };
        let Ok(places) = placement.superblock_offsets() else { continue };
        if at_end == Ok(places) {
            // Sizes that are no whole blocks.
            continue;
        }
        match (&best, read_superblock(placement, read)) {
            (Err(_), Ok(found)) => best = Ok((placement, found)),
            (Ok((_, new)), Ok(old)) => {
                let (new, old_block) = (&new.superblock, &old.superblock);
                if new.device_uuid != old_block.device_uuid {
                    let (created, older_created) = (new.created_time, old_block.created_time);
                    return Err(MetaError::TwoDisks {
                        older: disk_size,
                        created,
                        older_created,
                        is_noted: true,
                    });
                }
                if settled || old_block.sequence > new.sequence {
                    // The later end is of a time before the disk was cut back to this one.
                    best = Ok((placement, old));
                } else if is_unused(new, old_block.data_size, places)
                    && let Ok(geometry) = Geometry::of(placement, old_block)
                {
                    left = Some(Left::Metadata(geometry));
                }
            }
            (Ok((_, new)), Err(MetaError::BothDamaged { .. }))
                if is_unused(&new.superblock, places[1], places) =>
            {
                left = Some(Left::Superblocks(places));
            }
            _ => {}
        }
    }
    best.map(|(placement, found)| Located { placement, found, left })
}
