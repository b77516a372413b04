//! A metadata operation as writes: what may run at once, and what must be durable before what.

use bytes::Bytes;

use super::block::{AlignedBlock, encode_al, encode_page, encode_seen};
use super::geometry::{Geometry, SUPERBLOCK_BYTES};
use super::superblock::encode_superblock;
use super::{MetaOp, Superblock};

/// Writes that may run at once, in any order. All of them must be durable (RWF_DSYNC, or a data
/// sync after them) before the next stage starts. An operation is done when its last stage is
/// durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Offset on the disk that holds the metadata, and the bytes. Offset and length are multiples
    /// of the activity log block size; the memory starts at a multiple of 4096.
    pub writes: Vec<(u64, Bytes)>,
}

impl Stage {
    /// Zeroes over whole copies of the superblock: what wipe-md writes.
    #[must_use]
    pub fn zeroes(offsets: &[u64]) -> Self {
        let block = || AlignedBlock::new(SUPERBLOCK_BYTES as usize).into_bytes();
        Self { writes: offsets.iter().map(|offset| (*offset, block())).collect() }
    }
}

/// The stages of an operation.
///
/// # Panics
/// The operation names a block, page or slot that the disk does not have.
#[must_use]
pub fn stages(geometry: &Geometry, op: &MetaOp) -> Vec<Stage> {
    match op {
        MetaOp::Superblock(superblock) => superblock_stages(geometry, superblock),
        MetaOp::ActivityLog { blocks } => one_stage(
            blocks
                .iter()
                .map(|block| (geometry.al_block_offset(block.index), encode_al(geometry, block))),
        ),
        MetaOp::Bitmap { slot, epoch, pages } => one_stage(pages.iter().map(|page| {
            let offset = geometry.bitmap_page_offset(*slot, page.index);
            (offset, encode_page(geometry, *slot, *epoch, page))
        })),
        MetaOp::SeenNumber { slot, copy, number } => {
            let offset = geometry.seen_offset(*slot, *copy);
            one_stage([(offset, encode_seen(geometry, *slot, *copy, *number))])
        }
    }
}

/// Copy A, then copy B: at every instant one of them is whole.
fn superblock_stages(geometry: &Geometry, superblock: &Superblock) -> Vec<Stage> {
    let stage = |copy: u8| {
        let offset = geometry.superblocks[usize::from(copy)];
        Stage { writes: vec![(offset, encode_superblock(superblock, copy))] }
    };
    vec![stage(0), stage(1)]
}

pub(super) fn one_stage(writes: impl IntoIterator<Item = (u64, Bytes)>) -> Vec<Stage> {
    vec![Stage { writes: writes.into_iter().collect() }]
}
