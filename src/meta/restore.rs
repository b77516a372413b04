//! Metadata from the text of a dump, as writes; and the way to nothing.
//!
//! Invariants:
//! - Both copies of the superblock are durably gone before anything else is written, and come back
//!   last, A before B. So at any power cut the disk holds the old metadata, none that is valid, or
//!   the new one, and never the bits of one with the identifiers of the other.
//! - What a dump calls unknown is unknown again, never 0.

use bytes::Bytes;

use super::block::{encode_al, encode_page, encode_seen};
use super::geometry::{Geometry, Placement, SUPERBLOCK_BYTES};
use super::parse::Dumped;
use super::set_blocks::fill;
use super::stages::{Stage, stages};
use super::{
    AlBlock, BitmapPage, BitmapState, DeviceFlags, LoadedSlot, MetaError, MetaOp, PeerSlot,
    SetBlocks, Superblock,
};
use crate::resource::NodeId;

/// Pages in one stage: 1 MiB.
const PAGES_AT_ONCE: u32 = 256;

impl Dumped {
    /// Where everything comes to lie on these disks. The superblock is made to fit: other sizes and
    /// larger blocks than those of the dump are taken where the exported size has room.
    ///
    /// # Errors
    /// The disks are too small.
    pub fn place(
        &mut self,
        placement: Placement,
        logical_block_size: u32,
    ) -> Result<Geometry, MetaError> {
        let superblock = &mut self.superblock;
        superblock.al_block_size = superblock.al_block_size.max(logical_block_size);
        let external = matches!(placement, Placement::External { .. });
        if external == self.external
            && let Ok(geometry) = Geometry::of(placement, superblock)
        {
            return Ok(geometry);
        }
        let max_peers = u8::try_from(superblock.peers.len()).unwrap_or(u8::MAX);
        let (block, device) = (superblock.al_block_size, superblock.device_uuid);
        let geometry = Geometry::new(placement, block, max_peers, device)?;
        let size = superblock.effective_size;
        if geometry.data_size != superblock.data_size && (size == 0 || geometry.data_size < size) {
            let (recorded, actual) = (superblock.data_size, geometry.data_size);
            return Err(MetaError::DataSize { recorded, actual });
        }
        superblock.data_size = geometry.data_size;
        self.external = external;
        Ok(geometry)
    }

    /// The metadata of a disk that holds an image of the disk that the dump is of, for another node:
    /// the slot of `node_id` becomes the slot of the node that was dumped. The disk is Inconsistent
    /// until it has been a target: an image of a disk in use is none of one instant.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn seeded(
        mut self,
        node_id: NodeId,
        device_uuid: u64,
        wall_clock: u64,
        boot_id: [u8; 16],
    ) -> Result<Self, &'static str> {
        let old = &self.superblock;
        if old.node_id == node_id {
            return Err("the dump is of this node's own disk; a seed is of the other node's");
        }
        if old.flags & DeviceFlags::CONSISTENT == 0 || old.effective_size == 0 {
            return Err("the dump is of a disk that is no source: it is Inconsistent, or new");
        }
        let own = |peer: &PeerSlot| peer.node_id == Some(node_id);
        let Some(at) = old.peers.iter().position(own) else {
            return Err("the dump has no slot for this node");
        };
        let (source, slot) = (old.peers[at].clone(), &self.slots[at]);
        let peer = PeerSlot {
            node_id: Some(old.node_id),
            bitmap_uuid: 0,
            device_uuid: old.device_uuid,
            seen_number: 0,
            ..source.clone()
        };
        // What the image holds is the generation that the slot began with, or, where none has begun
        // since, the current one.
        let current = if source.bitmap_uuid == 0 { old.current_uuid } else { source.bitmap_uuid };
        let free = PeerSlot::free();
        let blocks = old.data_size / crate::resource::BLOCK_SIZE;
        let empty = |set| LoadedSlot { set, damaged_pages: 0, seen_number: Some(0), seen_copy: 0 };
        let mirrored = empty(slot.set.clone());
        // A disk of this node was seen there before it was forgotten: this one is not older.
        let number = slot.seen_number.unwrap_or(0);
        let superblock = &mut self.superblock;
        superblock.created_found = format!("seed of node {}", superblock.node_id);
        let kept = DeviceFlags::SIZE_USED;
        superblock.flags &= kept;
        superblock.sequence = 1;
        superblock.device_uuid = device_uuid;
        superblock.node_id = node_id;
        superblock.current_uuid = current & !1;
        superblock.number = number;
        superblock.created_time = wall_clock;
        superblock.boot_id = boot_id;
        (superblock.clean_size, superblock.clean_digest) = (0, 0);
        for (index, (one, loaded)) in superblock.peers.iter_mut().zip(&mut self.slots).enumerate() {
            let (new, bits) = match index == at {
                true => (peer.clone(), mirrored.clone()),
                false => (free.clone(), empty(SetBlocks::run(0, blocks))),
            };
            (*one, *loaded) = (new, bits);
        }
        self.number = Some(number);
        self.hot.clear();
        Ok(self)
    }

    /// Of a seed: whether the metadata that came with an image is of the generation that the seed
    /// starts from, or of a later one. An older image lacks writes that nobody remembers.
    #[must_use]
    pub fn starts_from(&self, image: &Superblock) -> bool {
        let (own, start) = (self.superblock.node_id, self.superblock.current_uuid & !1);
        let slot = image.peers.iter().find(|slot| slot.node_id == Some(own));
        let base = slot.map_or(0, |slot| slot.bitmap_uuid & !1);
        start != 0 && (image.current_uuid & !1 == start || base == start)
    }
}

/// The stages that put a dump on the disk. `geometry`: of [`Dumped::place`].
pub fn restore_stages<'a>(
    geometry: &'a Geometry,
    dumped: &'a Dumped,
) -> impl Iterator<Item = Stage> + 'a {
    let gone = Stage::zeroes(&geometry.superblocks);
    let small = Stage { writes: log(geometry, dumped).chain(seen(geometry, dumped)).collect() };
    let pages = restore_pages(geometry, dumped);
    let op = MetaOp::Superblock(Box::new(dumped.superblock.clone()));
    [gone, small].into_iter().chain(pages).chain(stages(geometry, &op))
}

/// The bitmaps of a dump.
pub(super) fn restore_pages<'a>(
    geometry: &'a Geometry,
    dumped: &'a Dumped,
) -> impl Iterator<Item = Stage> + 'a {
    (0u8..).zip(&dumped.slots).flat_map(move |(slot, loaded)| {
        let peer = &dumped.superblock.peers[usize::from(slot)];
        bitmap(geometry, slot, peer, loaded)
    })
}

/// Blocks of the activity log from `first` on, all cold, with no say about the number.
pub(super) fn new_log_blocks(
    geometry: &Geometry,
    first: u32,
) -> impl Iterator<Item = (u64, Bytes)> + '_ {
    let words = vec![0; usize::try_from(geometry.extents_per_block() / 64).expect("at most 508")];
    (first..geometry.al_blocks).map(move |index| {
        let block = AlBlock { index, number: 0, words: words.clone() };
        (geometry.al_block_offset(index), encode_al(geometry, &block))
    })
}

fn log<'a>(geometry: &'a Geometry, dumped: &'a Dumped) -> impl Iterator<Item = (u64, Bytes)> + 'a {
    let per_block = u64::from(geometry.extents_per_block());
    let extents = u64::from(geometry.extents());
    let range = move |index: u32| {
        let first = u64::from(index) * per_block;
        (first, (first + per_block).min(extents))
    };
    // An unknown number is a damaged block: one whose extents are all hot, or the first.
    let hot_whole = move |index: &u32| {
        let (first, end) = range(*index);
        dumped.hot.iter().any(|(start, count)| *start <= first && end <= start + count)
    };
    let damaged = match dumped.number {
        Some(_) => None,
        None => (0..geometry.al_blocks).find(hot_whole).or(Some(0)),
    };
    let number = dumped.number.unwrap_or(dumped.superblock.number);
    (0..geometry.al_blocks).map(move |index| {
        let (first, end) = range(index);
        let mut words = vec![0; usize::try_from(per_block / 64).expect("at most 508")];
        set_bits(&mut words, first, end, &dumped.hot);
        let offset = geometry.al_block_offset(index);
        let block = encode_al(geometry, &AlBlock { index, number, words });
        let damaged = damaged == Some(index);
        (offset, if damaged { zeroes(block.len()) } else { block })
    })
}

fn seen<'a>(geometry: &'a Geometry, dumped: &'a Dumped) -> impl Iterator<Item = (u64, Bytes)> + 'a {
    (0u8..).zip(&dumped.slots).flat_map(move |(slot, loaded)| {
        [0u8, 1].into_iter().map(move |copy| {
            let offset = geometry.seen_offset(slot, copy);
            let Some(number) = loaded.seen_number else {
                return (offset, zeroes(geometry.al_block_size as usize));
            };
            // The block that was written last holds the higher number.
            let older = loaded.seen_copy == 1 && copy == 0;
            let number = if older { number.saturating_sub(1) } else { number };
            (offset, encode_seen(geometry, slot, copy, number))
        })
    })
}

fn bitmap<'a>(
    geometry: &'a Geometry,
    slot: u8,
    peer: &'a PeerSlot,
    loaded: &'a LoadedSlot,
) -> impl Iterator<Item = Stage> + 'a {
    let pages = match peer.bitmap_state {
        BitmapState::Pages => geometry.bitmap_pages,
        BitmapState::AllClear | BitmapState::AllSet => 0,
    };
    (0..pages).step_by(PAGES_AT_ONCE as usize).map(move |first| {
        let end = pages.min(first + PAGES_AT_ONCE);
        let writes = (first..end).map(|index| {
            let page = BitmapPage { index, words: loaded.set.page(u64::from(index)).into_vec() };
            let offset = geometry.bitmap_page_offset(slot, index);
            (offset, encode_page(geometry, slot, peer.bitmap_epoch, &page))
        });
        Stage { writes: writes.collect() }
    })
}

/// Sets the bits `first..end` that ascending runs hold; bit 0 of word 0 is `first`.
fn set_bits(words: &mut [u64], first: u64, end: u64, runs: &[(u64, u64)]) {
    let end = end.min(first + 64 * words.len() as u64);
    let from = runs.partition_point(|(start, count)| start + count <= first);
    for (start, count) in runs[from..].iter().take_while(|(start, _)| *start < end) {
        let at = (*start).max(first);
        fill(words, at - first, (start + count).min(end) - at);
    }
}

fn zeroes(length: usize) -> Bytes {
    super::block::AlignedBlock::new(length).into_bytes()
}

/// Zeroes over both copies of the superblock: from then on there is no metadata. The first thing
/// that `wipe-md` writes; what is left of the rest is cleared after it.
///
/// # Errors
/// The disk is too small to have metadata.
pub fn wipe_superblocks(placement: Placement) -> Result<Stage, MetaError> {
    placement.superblock_offsets().map(|offsets| Stage::zeroes(&offsets))
}

/// Zeroes, `length` bytes, at an offset: the rest of a wipe, piece by piece.
#[must_use]
pub fn wipe_piece(offset: u64, length: usize) -> Stage {
    debug_assert!(offset.is_multiple_of(512) && length as u64 <= 256 * SUPERBLOCK_BYTES);
    Stage { writes: vec![(offset, zeroes(length))] }
}
