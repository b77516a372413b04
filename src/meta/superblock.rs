//! The superblock's bytes: a header of 32 bytes, then the fields of [`Superblock`] in order,
//! big-endian and of fixed width, then zeroes up to 4096.
//!
//! ```text
//! 0          8         12        16        20        24        32
//! | TANDEMSB | version | length  | crc     | copy    | 0       | body (length bytes) | zeroes |
//! ```
//! The CRC-32 is of all 4096 bytes but its own four. `copy` is 0 for A and 1 for B, so that a write
//! that went to the wrong place is seen.

use bytes::Bytes;

use super::block::{AlignedBlock, checksum, u32_at};
use super::error::CopyDamage;
use super::geometry::{PEERS_MAX, SUPERBLOCK_BYTES};
use super::{COUNTER_BELIEVED, COUNTER_MAX, DeviceFlags, PeerSlot, Superblock};
use crate::resource::BLOCK_SIZE;

/// Version of the layout. A program refuses metadata of any other.
pub const VERSION: u32 = 3;
/// Bytes of a resource's name, at most.
pub const RESOURCE_NAME_MAX: usize = 127;
/// Bytes of `created_found`, at most.
pub(super) const FOUND_MAX: usize = 255;

const MAGIC: [u8; 8] = *b"TANDEMSB";
const BYTES: usize = SUPERBLOCK_BYTES as usize;
const HEADER: usize = 32;
const BODY_MAX: usize = BYTES - HEADER;
const CRC_AT: std::ops::Range<usize> = 16..20;
/// The largest node id (DRBD 9: 32 nodes).
const NODE_ID_MAX: u8 = 31;

fn layout() -> impl bincode::config::Config {
    bincode::config::standard().with_big_endian().with_fixed_int_encoding().with_limit::<BODY_MAX>()
}

/// One copy (0: A, 1: B) as 4096 bytes, in memory aligned to 4096.
///
/// # Panics
/// The superblock breaks a limit of the layout: it would be refused when it is read back. Names are
/// checked by [`super::format_new`]; nothing else in it comes from outside.
#[must_use]
pub fn encode_superblock(superblock: &Superblock, copy: u8) -> Bytes {
    assert_eq!(check(superblock), Ok(()), "superblock within the limits of its layout");
    assert!(copy < 2, "copy {copy} of the superblock");
    let mut block = AlignedBlock::new(BYTES);
    let body = &mut block.bytes_mut()[HEADER..];
    let length = bincode::encode_into_slice(superblock, body, layout())
        .expect("31 slots and both texts at their limits fit");
    let length = u32::try_from(length).expect("at most 4064");
    block.put(0, &MAGIC);
    block.put(8, &VERSION.to_be_bytes());
    block.put(12, &length.to_be_bytes());
    block.put(20, &u32::from(copy).to_be_bytes());
    block.sealed(CRC_AT)
}

/// The superblock in one copy's 4096 bytes.
///
/// # Errors
/// What is wrong with the copy.
pub fn decode_superblock(block: &[u8], copy: u8) -> Result<Superblock, CopyDamage> {
    if block.len() != BYTES || block[..8] != MAGIC {
        return Err(CopyDamage::Magic);
    }
    if u32_at(block, CRC_AT.start) != checksum(block, CRC_AT) {
        return Err(CopyDamage::Checksum);
    }
    let version = u32_at(block, 8);
    if version != VERSION {
        return Err(CopyDamage::Version(version));
    }
    if u32_at(block, 20) != u32::from(copy) {
        return Err(CopyDamage::Misplaced);
    }
    let length = u32_at(block, 12) as usize;
    let body = block[HEADER..].get(..length).ok_or(CopyDamage::Content("impossible length"))?;
    let (superblock, used) = bincode::decode_from_slice::<Superblock, _>(body, layout())
        .map_err(|_| CopyDamage::Content("fields that cannot be read"))?;
    if used != length {
        return Err(CopyDamage::Content("impossible length"));
    }
    check_read(&superblock).map_err(CopyDamage::Content)?;
    Ok(superblock)
}

/// The limits of what is read: it is counted on from there, and must be within the limits of what is written then.
pub(super) fn check_read(superblock: &Superblock) -> Result<(), &'static str> {
    check(superblock)?;
    // Not what a peer has said: that is only compared, and must not make the disk unreadable.
    if superblock.sequence.max(superblock.number) > COUNTER_BELIEVED {
        return Err("a counter that no disk reaches");
    }
    Ok(())
}

/// The limits of the layout, when it is written and when it is read.
pub(super) fn check(superblock: &Superblock) -> Result<(), &'static str> {
    let name = &superblock.resource;
    if name.is_empty() || name.len() > RESOURCE_NAME_MAX || name.chars().any(char::is_control) {
        return Err("the resource's name is not 1 to 127 printable bytes");
    }
    if superblock.created_found.len() > FOUND_MAX {
        return Err("the text of what was found is longer than 255 bytes");
    }
    if superblock.node_id > NODE_ID_MAX {
        return Err("the node id is not 0 to 31");
    }
    if !matches!(superblock.al_block_size, 512 | 4096) {
        return Err("the activity log block size is not 512 or 4096");
    }
    if superblock.data_size == 0 || !superblock.data_size.is_multiple_of(BLOCK_SIZE) {
        return Err("the size of the data area is not a multiple of 4096");
    }
    if superblock.effective_size > superblock.data_size
        || !superblock.effective_size.is_multiple_of(BLOCK_SIZE)
    {
        return Err("the effective size is not a multiple of 4096, or more than there is");
    }
    if !superblock.clean_size.is_multiple_of(BLOCK_SIZE) {
        return Err("the size at the last end in order is not a multiple of 4096");
    }
    if superblock.flags & !DeviceFlags::ALL != 0 {
        return Err("a flag that this layout does not have");
    }
    if superblock.device_uuid == 0 {
        return Err("the disk has no device uuid");
    }
    if superblock.peers.is_empty() || superblock.peers.len() > usize::from(PEERS_MAX) {
        return Err("the number of peer slots is not 1 to 31");
    }
    if superblock.sequence.max(superblock.number) > COUNTER_MAX {
        return Err("a counter that no disk reaches");
    }
    let bad = |peer: &PeerSlot| peer.node_id.is_some_and(|id| id > NODE_ID_MAX);
    if superblock.peers.iter().any(bad) {
        return Err("a peer's node id is not 0 to 31");
    }
    Ok(())
}
