//! Where every block of the metadata lies: arithmetic on sizes, nothing else.
//!
//! ```text
//! internal:  [ data area | bitmap of slot 0 .. n-1 | activity log | B | seen numbers | A ] end
//! external:  [ A | seen numbers | B | activity log | bitmap of slot 0 .. n-1 ]
//! A, B: copies of the superblock, 4096 bytes each, 248 KiB apart.
//! ```
//!
//! Invariants:
//! - A and B are found from the size of the disk alone (internal) or lie at fixed places
//!   (external): everything else is found from what the superblock says.
//! - Every region starts at a multiple of 4096 and no two overlap.

use crate::meta::{MetaError, PAGE_BITS, Superblock};
use crate::resource::{BLOCK_SIZE, EXTENT_SIZE};

/// Bytes of one copy of the superblock, of one bitmap page, and of the place of a seen number.
pub const SUPERBLOCK_BYTES: u64 = 4096;
/// The largest number of peer slots (DRBD 9: 32 nodes).
pub const PEERS_MAX: u8 = 31;
/// A, B, and two blocks of seen number for each of 31 slots: 64 blocks, whatever `max_peers` is.
const FIXED_BYTES: u64 = (2 + 2 * PEERS_MAX as u64) * SUPERBLOCK_BYTES;
/// 1 PiB, DRBD's limit too.
const DISK_MAX: u64 = 1 << 50;
/// Bytes of header in a block of the activity log.
pub(super) const AL_HEADER: u32 = 32;

const _: () = assert!(FIXED_BYTES == 256 << 10);

/// Where the metadata is, and how large the disks are, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The tail of the backing disk.
    Internal {
        /// Size of the disk.
        disk_size: u64,
    },
    /// The head of a file or device of its own.
    External {
        /// Size of the disk that holds the data.
        disk_size: u64,
        /// Size of the file or device that holds the metadata.
        meta_size: u64,
    },
}

impl Placement {
    /// Offsets of copies A and B of the superblock on the disk that holds the metadata.
    ///
    /// # Errors
    /// The disk is too small for them, or larger than 1 PiB.
    pub fn superblock_offsets(self) -> Result<[u64; 2], MetaError> {
        let (Self::Internal { disk_size } | Self::External { disk_size, .. }) = self;
        if disk_size > DISK_MAX {
            return Err(MetaError::TooLarge { have: disk_size, max: DISK_MAX });
        }
        let have = self.meta_bytes();
        if have < FIXED_BYTES {
            return Err(MetaError::TooSmall { have, need: FIXED_BYTES });
        }
        Ok(match self {
            Self::Internal { .. } => {
                let end = round_down(have);
                [end - SUPERBLOCK_BYTES, end - FIXED_BYTES]
            }
            Self::External { .. } => [0, FIXED_BYTES - SUPERBLOCK_BYTES],
        })
    }

    /// Size of the disk that holds the metadata.
    fn meta_bytes(self) -> u64 {
        match self {
            Self::Internal { disk_size } => disk_size,
            Self::External { meta_size, .. } => meta_size,
        }
    }
}

/// The place of everything on one disk. Offsets and sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the data area, a multiple of 4096. It starts at 0.
    pub data_size: u64,
    /// The metadata is on a disk of its own; otherwise its offsets are on the backing disk.
    pub external: bool,
    /// Peer slots, 1 to 31.
    pub max_peers: u8,
    /// Bytes of an activity log block: 512 or 4096.
    pub al_block_size: u32,
    /// Identity of this metadata; its low 32 bits are in every block, so that a block that an
    /// earlier create-md left is not taken for one of this one.
    pub device_uuid: u64,
    /// Copies A and B of the superblock.
    pub superblocks: [u64; 2],
    /// Where the activity log starts.
    pub al_offset: u64,
    /// Blocks of the activity log that cover the data area.
    pub al_blocks: u32,
    /// Where the first slot's bitmap starts.
    pub bitmap_offset: u64,
    /// Bytes that one slot's bitmap takes.
    pub bitmap_bytes: u64,
    /// Pages of one slot's bitmap that cover the data area.
    pub bitmap_pages: u32,
    /// Everything that the metadata takes: on the backing disk if internal, from 0 if external.
    pub meta_bytes: u64,
}

impl Geometry {
    /// The layout that create-md makes.
    ///
    /// # Errors
    /// The disk is too small or too large, or `al_block_size` or `max_peers` is out of range.
    pub fn new(
        placement: Placement,
        al_block_size: u32,
        max_peers: u8,
        device_uuid: u64,
    ) -> Result<Self, MetaError> {
        let (Placement::Internal { disk_size } | Placement::External { disk_size, .. }) = placement;
        Self::with_covered(placement, round_down(disk_size), al_block_size, max_peers, device_uuid)
    }

    /// How large the disk may be, in whole blocks, whose internal metadata a superblock belongs to. Metadata is sized
    /// for the whole disk, itself included: where the larger disk needs pages more for its bitmaps, two sizes leave the
    /// same room.
    #[must_use]
    pub fn disk_sizes_of(superblock: &Superblock) -> Vec<u64> {
        let data_size = superblock.data_size;
        let meta_bytes = |disk_size| {
            let max_peers = u8::try_from(superblock.peers.len()).ok()?;
            let (block, device) = (superblock.al_block_size, superblock.device_uuid);
            // As much of it as internal metadata, and wherever there is room for it.
            let placement = Placement::External { disk_size, meta_size: DISK_MAX };
            Some(Self::new(placement, block, max_peers, device).ok()?.meta_bytes)
        };
        let Some(least) = meta_bytes(data_size) else { return Vec::new() };
        // From too little and from too much: either comes to the size next to it that fits.
        let near = |bytes: u64| {
            let mut size = data_size.checked_add(bytes)?;
            for _ in 0..8 {
                let next = data_size.checked_add(meta_bytes(size)?)?;
                if next == size {
                    return Some(size);
                }
                size = next;
            }
            None
        };
        let mut sizes: Vec<u64> = [near(least), near(2 * least)].into_iter().flatten().collect();
        sizes.dedup();
        sizes
    }

    /// The layout that a superblock describes, on disks of these sizes. An external layout keeps
    /// the recorded size when the data disk has grown.
    ///
    /// # Errors
    /// The disks do not fit the superblock.
    pub fn of(placement: Placement, superblock: &Superblock) -> Result<Self, MetaError> {
        let recorded = superblock.data_size;
        let covered = match placement {
            Placement::Internal { disk_size } => round_down(disk_size),
            Placement::External { disk_size, .. } if recorded > round_down(disk_size) => {
                let actual = round_down(disk_size);
                return Err(MetaError::DataSize { recorded, actual });
            }
            Placement::External { .. } => recorded,
        };
        let max_peers = u8::try_from(superblock.peers.len()).unwrap_or(u8::MAX);
        let (block, device) = (superblock.al_block_size, superblock.device_uuid);
        let geometry = Self::with_covered(placement, covered, block, max_peers, device)?;
        if geometry.data_size != recorded {
            return Err(MetaError::DataSize { recorded, actual: geometry.data_size });
        }
        Ok(geometry)
    }

    /// `covered`: the bytes that log and bitmap are sized for. Internal metadata is sized for the
    /// whole disk, itself included: a few bits are never used, and no equation has to be solved.
    fn with_covered(
        placement: Placement,
        covered: u64,
        al_block_size: u32,
        max_peers: u8,
        device_uuid: u64,
    ) -> Result<Self, MetaError> {
        if al_block_size != 512 && al_block_size != 4096 {
            return Err(MetaError::Invalid("the activity log block size is not 512 or 4096"));
        }
        if max_peers == 0 || max_peers > PEERS_MAX {
            return Err(MetaError::Invalid("the number of peer slots is not 1 to 31"));
        }
        let superblocks = placement.superblock_offsets()?;
        let al_bytes =
            round_up(u64::from(al_blocks(covered, al_block_size)) * u64::from(al_block_size));
        let bitmap_bytes = u64::from(bitmap_pages(covered)) * SUPERBLOCK_BYTES;
        let meta_bytes = FIXED_BYTES + al_bytes + u64::from(max_peers) * bitmap_bytes;
        let (data_size, al_offset, bitmap_offset) = match placement {
            Placement::Internal { .. } => {
                let need = meta_bytes + BLOCK_SIZE;
                if covered < need {
                    return Err(MetaError::TooSmall { have: covered, need });
                }
                let al_offset = superblocks[1] - al_bytes;
                (covered - meta_bytes, al_offset, covered - meta_bytes)
            }
            Placement::External { meta_size, .. } => {
                if meta_size < meta_bytes {
                    return Err(MetaError::TooSmall { have: meta_size, need: meta_bytes });
                }
                if covered < BLOCK_SIZE {
                    return Err(MetaError::TooSmall { have: covered, need: BLOCK_SIZE });
                }
                (covered, FIXED_BYTES, FIXED_BYTES + al_bytes)
            }
        };
        Ok(Self {
            data_size,
            external: matches!(placement, Placement::External { .. }),
            max_peers,
            al_block_size,
            device_uuid,
            superblocks,
            al_offset,
            al_blocks: al_blocks(data_size, al_block_size),
            bitmap_offset,
            bitmap_bytes,
            bitmap_pages: bitmap_pages(data_size),
            meta_bytes,
        })
    }

    /// Bytes that external metadata takes for a data disk of this size.
    ///
    /// # Errors
    /// As [`Geometry::new`].
    pub fn external_bytes(
        disk_size: u64,
        al_block_size: u32,
        max_peers: u8,
    ) -> Result<u64, MetaError> {
        let placement = Placement::External { disk_size, meta_size: u64::MAX };
        Self::new(placement, al_block_size, max_peers, 0).map(|geometry| geometry.meta_bytes)
    }

    /// Extents of the data area.
    #[must_use]
    pub fn extents(&self) -> u32 {
        extents(self.data_size)
    }

    /// Extents that one activity log block covers: 3,840 or 32,512.
    #[must_use]
    pub fn extents_per_block(&self) -> u32 {
        extents_per_block(self.al_block_size)
    }

    /// Blocks (bits) of the data area.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.data_size / BLOCK_SIZE
    }

    /// Offset of an activity log block.
    #[must_use]
    pub fn al_block_offset(&self, index: u32) -> u64 {
        assert!(index < self.al_blocks, "activity log block {index} of {}", self.al_blocks);
        self.al_offset + u64::from(index) * u64::from(self.al_block_size)
    }

    /// Offset of a page of a slot's bitmap.
    #[must_use]
    pub fn bitmap_page_offset(&self, slot: u8, index: u32) -> u64 {
        assert!(slot < self.max_peers, "slot {slot} of {}", self.max_peers);
        assert!(index < self.bitmap_pages, "bitmap page {index} of {}", self.bitmap_pages);
        let slot_offset = u64::from(slot) * self.bitmap_bytes;
        self.bitmap_offset + slot_offset + u64::from(index) * SUPERBLOCK_BYTES
    }

    /// Offset of one of the two seen-number blocks of a slot.
    #[must_use]
    pub fn seen_offset(&self, slot: u8, copy: u8) -> u64 {
        assert!(slot < self.max_peers && copy < 2, "seen number {copy} of slot {slot}");
        let first = self.superblocks[0].min(self.superblocks[1]) + SUPERBLOCK_BYTES;
        first + (2 * u64::from(slot) + u64::from(copy)) * SUPERBLOCK_BYTES
    }
}

fn round_down(bytes: u64) -> u64 {
    bytes / BLOCK_SIZE * BLOCK_SIZE
}

fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_SIZE) * BLOCK_SIZE
}

// A disk has at most 2^50 bytes: 2^28 extents, 2^38 blocks, 2^23 pages.
fn extents(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(EXTENT_SIZE)).expect("a disk has at most 2^28 extents")
}

fn extents_per_block(al_block_size: u32) -> u32 {
    (al_block_size - AL_HEADER) * 8
}

fn al_blocks(bytes: u64, al_block_size: u32) -> u32 {
    extents(bytes).div_ceil(extents_per_block(al_block_size))
}

fn bitmap_pages(bytes: u64) -> u32 {
    let pages = bytes.div_ceil(BLOCK_SIZE).div_ceil(PAGE_BITS);
    u32::try_from(pages).expect("a bitmap has at most 2^24 pages")
}
