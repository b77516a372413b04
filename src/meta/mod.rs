//! The metadata of a disk: superblock, activity log, bitmap. Layout only, no I/O.
//!
//! Invariants:
//! - Bytes from the disk become [`LoadedMeta`] (checked) before anyone uses them.
//! - An update of the superblock writes copy A durably, then copy B durably; only then may anything
//!   rest on it. So one damaged copy never costs a completed update.
//! - A damaged activity log block means: every extent that it covers is hot. A damaged bitmap page
//!   means: every bit that it covers is set. A zeroed page is damage.

use serde::{Deserialize, Serialize};

use crate::resource::{NodeId, VolumeNumber};

mod block;
mod dump;
mod error;
mod format;
mod geometry;
mod grow;
mod load;
mod parse;
mod restore;
mod set_blocks;
mod stages;
mod superblock;

pub use dump::{dump, get_gi, show_gi};
pub use error::{CopyDamage, MetaError};
pub use format::{NewDisk, format_new, printable};
pub use geometry::{Geometry, PEERS_MAX, Placement, SUPERBLOCK_BYTES};
pub use grow::{Left, Located, MOVE_SEQUENCES, grown, locate, move_stages, zeroed, zeroed_end};
pub use load::{SuperblockRead, load, read_superblock, repair};
pub use parse::{DumpError, Dumped, parse_dump};
pub use restore::{restore_stages, wipe_piece, wipe_superblocks};
pub(crate) use set_blocks::Piece;
pub use set_blocks::SetBlocks;
pub use stages::{Stage, stages};
pub use superblock::{RESOURCE_NAME_MAX, VERSION, decode_superblock, encode_superblock};

#[cfg(test)]
mod tests;

/// Identifier of a disk that create-md has just made (DRBD's UUID_JUST_CREATED).
pub const JUST_CREATED: u64 = 4;
/// What create-md records where it has found nothing (`created_found`).
pub const BLANK: &str = "blank";
/// History entries.
pub const HISTORY: usize = 32;
/// The highest count that is written, of a sequence or of a rollback number.
pub const COUNTER_MAX: u64 = 1 << 62;
/// The highest one that is believed of a disk or a dump, and remembered of a peer: a thousand a second for seventy
/// million years. What was read is counted on from there, and does not come to [`COUNTER_MAX`].
pub const COUNTER_BELIEVED: u64 = 1 << 61;
/// 64-bit words of bitmap in one bitmap page (4096 bytes less 32 of header).
pub const PAGE_WORDS: usize = 508;
/// Bits in one bitmap page.
pub const PAGE_BITS: u64 = 64 * PAGE_WORDS as u64;

/// Flags of the device, durable.
pub struct DeviceFlags;
#[allow(missing_docs)]
impl DeviceFlags {
    /// The data is consistent (not in mid-resync).
    pub const CONSISTENT: u32 = 1 << 0;
    /// Was UpToDate.
    pub const WAS_UP_TO_DATE: u32 = 1 << 1;
    /// Was Primary (on a restart: crashed Primary).
    pub const PRIMARY_IND: u32 = 1 << 2;
    /// Was Established or SyncSource, lost its peer or stopped cleanly, and has flushed.
    pub const SURVIVED: u32 = 1 << 3;
    /// Known Outdated.
    pub const OUTDATED: u32 = 1 << 4;
    /// Ended in order: nothing unflushed, activity log empty.
    pub const CLEAN: u32 = 1 << 5;
    /// Blocks are kept on trim and zeroes (`create-md --preallocate`).
    pub const PREALLOCATED: u32 = 1 << 6;
    /// create-md found the data area blank.
    pub const CREATED_BLANK: u32 = 1 << 7;
    /// The effective size was exported or synced once: it never shrinks by a handshake.
    pub const SIZE_USED: u32 = 1 << 8;
    /// Invalidated since the last rollback verdict: a full target is accepted.
    pub const INVALIDATED: u32 = 1 << 9;
    /// An online verify has set bits, or is about to.
    pub const VERIFY_MARKS: u32 = 1 << 10;
    /// With VERIFY_MARKS: bits that no verify has set are among them.
    pub const LOSS_BITS: u32 = 1 << 11;
    /// It stores writes in the place of a Primary that has no disk: all that such a Primary was
    /// answered is here, flushed or in the system's cache. With IN_DOUBT: it is the source of a resync, and
    /// all that anybody was answered is here; its target, once it is whole, may have gone on.
    pub const STANDS_IN: u32 = 1 << 12;
    /// With SURVIVED: the node did not run for a while, as a Secondary, and its Primary may have gone on;
    /// or it was demoted while it lost its peer, which may have gone on since. It has all that was
    /// acknowledged by both, and is not promoted alone without force.
    pub const IN_DOUBT: u32 = 1 << 13;
    /// It was promoted by force with nothing on it before a peer's disk was met: it is no source for
    /// a new disk on which create-md has found something.
    pub const FORCED_BLANK: u32 = 1 << 14;
    /// Every flag of this layout. One more is another layout version: who does not know it would drop
    /// it, or do what it forbids.
    pub const ALL: u32 = Self::FORCED_BLANK | (Self::FORCED_BLANK - 1);
}

/// How the bitmap of a slot stands on the disk.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode,
)]
pub enum BitmapState {
    /// Every bit is clear; the pages are not looked at.
    AllClear,
    /// Every bit is set; the pages are not looked at.
    AllSet,
    /// Every page is valid with this slot's epoch; one that is not is damage.
    Pages,
}

/// What is remembered about one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct PeerSlot {
    /// Whose slot, `None`: free.
    pub node_id: Option<NodeId>,
    /// Bitmap UUID, 0: empty.
    pub bitmap_uuid: u64,
    /// How the bitmap stands.
    pub bitmap_state: BitmapState,
    /// Pages of another epoch are not this bitmap's.
    pub bitmap_epoch: u32,
    /// The highest number that this peer has shown (rollback), as of this superblock.
    pub seen_number: u64,
    /// The peer's device identity, 0: never met.
    pub device_uuid: u64,
}

impl PeerSlot {
    /// A slot that nobody has: whoever takes it is synced in full.
    pub(crate) fn free() -> Self {
        Self {
            node_id: None,
            bitmap_uuid: 0,
            bitmap_state: BitmapState::AllSet,
            bitmap_epoch: 0,
            seen_number: 0,
            device_uuid: 0,
        }
    }
}

/// The superblock, decoded and checked. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct Superblock {
    /// Grows by one with each update.
    pub sequence: u64,
    /// Random identity of this metadata, for clones.
    pub device_uuid: u64,
    /// The resource's name.
    pub resource: String,
    /// The volume's number.
    pub volume: VolumeNumber,
    /// This node's id.
    pub node_id: NodeId,
    /// Exported size; 0: never agreed.
    pub effective_size: u64,
    /// Bytes of one activity log block: 512 or 4096.
    pub al_block_size: u32,
    /// Size of the data area when the metadata was made or last moved.
    pub data_size: u64,
    /// Current UUID.
    pub current_uuid: u64,
    /// History UUIDs, newest first, 0: empty.
    pub history: [u64; HISTORY],
    /// [`DeviceFlags`].
    pub flags: u32,
    /// The rollback number as of this superblock; the log may hold a higher one.
    pub number: u64,
    /// Boot id of the host when this was written.
    pub boot_id: [u8; 16],
    /// When the current generation began, seconds of the wall clock (display only), and by whom.
    pub generation_time: u64,
    /// The node that began it.
    pub generation_node: NodeId,
    /// When create-md ran, seconds of the wall clock (display only).
    pub created_time: u64,
    /// What create-md found: [`BLANK`], or type and label.
    pub created_found: String,
    /// At a clean end: length and CRC-32 of the first and last MiB of the data area, 0: not recorded.
    pub clean_size: u64,
    /// See `clean_size`.
    pub clean_digest: u32,
    /// A slot per peer.
    pub peers: Vec<PeerSlot>,
}

impl Superblock {
    /// The system has lost, or may have, what it took for whom this disk stands in.
    pub fn stands_in_for_nobody(&mut self) {
        let both = DeviceFlags::STANDS_IN | DeviceFlags::IN_DOUBT;
        if self.flags & DeviceFlags::STANDS_IN != 0 {
            self.flags &= !both;
        }
    }

    /// Puts an identifier in front of the history; 0 and what stands there already are left out.
    pub fn remember(&mut self, uuid: u64) {
        let bare = uuid & !1;
        if bare == 0 || bare == JUST_CREATED {
            return;
        }
        let history = &mut self.history;
        let place = history.iter().position(|old| old & !1 == bare).unwrap_or(history.len() - 1);
        history.copy_within(0..place, 1);
        history[0] = uuid;
    }

    /// Frees a slot: nothing is remembered of the peer, and every bit toward whoever takes it is set.
    /// The highest number that was shown stays, for it only grows (see docs/ON_DISK.md).
    pub fn forget_slot(&mut self, index: usize) {
        let Some(slot) = self.peers.get_mut(index) else { return };
        let base = std::mem::take(&mut slot.bitmap_uuid);
        slot.node_id = None;
        slot.device_uuid = 0;
        slot.bitmap_state = BitmapState::AllSet;
        slot.bitmap_epoch = slot.bitmap_epoch.wrapping_add(2);
        self.remember(base);
    }
}

/// One block of the activity log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlBlock {
    /// Which block, from 0.
    pub index: u32,
    /// The rollback number that this write carries.
    pub number: u64,
    /// One bit per extent, bit 0 of word 0 is extent `index * extents_per_block`.
    /// `(al_block_size - 32) / 8` words.
    pub words: Vec<u64>,
}

/// One page of a slot's bitmap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BitmapPage {
    /// Which page, from 0.
    pub index: u32,
    /// `PAGE_WORDS` words; bit 0 of word 0 is block `index * PAGE_BITS`.
    pub words: Vec<u64>,
}

/// A durable update of the metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaOp {
    /// Both copies, one after the other, each durable.
    Superblock(Box<Superblock>),
    /// Blocks of the activity log, durable together.
    ActivityLog {
        /// The blocks that changed.
        blocks: Vec<AlBlock>,
    },
    /// Pages of a slot's bitmap, durable together.
    Bitmap {
        /// The slot, from 0.
        slot: u8,
        /// The slot's epoch.
        epoch: u32,
        /// The pages.
        pages: Vec<BitmapPage>,
    },
    /// The highest number that a peer has shown, into one of two blocks in turn.
    SeenNumber {
        /// The slot, from 0.
        slot: u8,
        /// Which of the two blocks, 0 or 1.
        copy: u8,
        /// The number.
        number: u64,
    },
}

/// What was read from a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedSlot {
    /// The blocks whose bits are set; those of damaged pages count as set.
    pub set: SetBlocks,
    /// Pages that were damaged.
    pub damaged_pages: u32,
    /// The highest number that this peer has shown; `None`: both blocks damaged.
    pub seen_number: Option<u64>,
    /// The copy of the seen number that was written last, 0 or 1.
    pub seen_copy: u8,
}

/// The checked metadata of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedMeta {
    /// The newest valid copy.
    pub superblock: Superblock,
    /// Hot extents, ascending, those of damaged blocks included.
    pub hot_extents: Vec<u32>,
    /// The rollback number: the highest of superblock and log; `None`: a log block is damaged, unknown.
    pub number: Option<u64>,
    /// A slot per peer, in the superblock's order.
    pub slots: Vec<LoadedSlot>,
    /// Somebody wrote behind Tandem since the clean end.
    pub written_behind: bool,
    /// Only the process has ended since the disk was attached last: this boot of the host wrote it,
    /// and the shell knows of no operation on it that failed or hung. The system has lost nothing
    /// that it took.
    pub same_boot: bool,
    /// What was found damaged and how it was taken, for the log.
    pub notes: Vec<String>,
}
