//! From the bytes of a disk to checked metadata. Damage never costs a set bit or a hot extent: what
//! cannot be read as written counts as "may differ".

use super::block::{decode_al, decode_page, decode_seen};
use super::error::{CopyDamage, MetaError};
use super::geometry::{Geometry, Placement, SUPERBLOCK_BYTES};
use super::stages::{Stage, one_stage};
use super::superblock::{VERSION, decode_superblock, encode_superblock};
use super::{
    BitmapState, COUNTER_BELIEVED, LoadedMeta, LoadedSlot, PAGE_BITS, PeerSlot, SetBlocks,
    Superblock,
};
use crate::resource::{BLOCK_SIZE, DiskError};

/// How the loader reads: offset and length in bytes, both multiples of the logical block; it
/// returns exactly that many bytes.
pub(super) type Read<'a> = dyn FnMut(u64, usize) -> Result<Vec<u8>, DiskError> + 'a;

/// Bitmap pages that are read at once.
const PAGES_AT_ONCE: u32 = 256;
/// Bytes of activity log that are read at once; a multiple of either block size.
const LOG_AT_ONCE: usize = 1 << 20;

/// The newest valid copy of the superblock, and how the copies stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuperblockRead {
    /// The newest valid copy.
    pub superblock: Superblock,
    /// Which copy it is, 0: A, 1: B.
    pub copy: u8,
    /// The other copy is damaged or older and must be rewritten before the next update.
    pub repair: bool,
    /// What was found damaged, for the log.
    pub notes: Vec<String>,
}

/// Both copies of the superblock, and the newest of them that is valid.
///
/// # Errors
/// No copy is valid, one is of a newer layout, or the disk is too small.
pub fn read_superblock(
    placement: Placement,
    read: &mut Read<'_>,
) -> Result<SuperblockRead, MetaError> {
    newest(placement.superblock_offsets()?, read)
}

fn newest(offsets: [u64; 2], read: &mut Read<'_>) -> Result<SuperblockRead, MetaError> {
    let mut one = |copy: u8| match read(offsets[usize::from(copy)], SUPERBLOCK_BYTES as usize) {
        Ok(block) => decode_superblock(&block, copy),
        Err(error) => Err(CopyDamage::Read(error)),
    };
    let copies = (one(0), one(1));
    for copy in [&copies.0, &copies.1] {
        if let Err(CopyDamage::Version(found)) = copy {
            return Err(MetaError::Version { found: *found, known: VERSION });
        }
    }
    let (superblock, copy, repair, note) = match copies {
        (Ok(a), Ok(b)) if a == b => (a, 0, false, None),
        (Ok(a), Ok(b)) => {
            let (a_sequence, b_sequence) = (a.sequence, b.sequence);
            let note = format!(
                "superblock copy A has sequence {a_sequence}, copy B {b_sequence}: an update was \
                 cut short, the newer one counts"
            );
            let (newer, copy) = if b_sequence > a_sequence { (b, 1) } else { (a, 0) };
            (newer, copy, true, Some(note))
        }
        (Ok(a), Err(damage)) => (a, 0, true, Some(one_damaged("B", damage, "A"))),
        (Err(damage), Ok(b)) => (b, 1, true, Some(one_damaged("A", damage, "B"))),
        (Err(CopyDamage::Magic), Err(CopyDamage::Magic)) => return Err(MetaError::NoMetadata),
        (Err(CopyDamage::Read(error)), Err(CopyDamage::Read(_))) => {
            return Err(MetaError::Read(error));
        }
        (Err(a), Err(b)) => return Err(MetaError::BothDamaged { a, b }),
    };
    Ok(SuperblockRead { superblock, copy, repair, notes: note.into_iter().collect() })
}

fn one_damaged(which: &str, damage: CopyDamage, other: &str) -> String {
    format!("superblock copy {which} is damaged ({damage}), copy {other} counts")
}

/// What must be durable before anything rests on the loaded metadata: the copy of the superblock
/// that is damaged or older becomes equal to the newest. Without it, the next update, which starts
/// with copy A, could tear the only good copy, or bring back a state that was loaded as past.
///
/// # Errors
/// As [`read_superblock`].
pub fn repair(geometry: &Geometry, read: &mut Read<'_>) -> Result<Vec<Stage>, MetaError> {
    let found = newest(geometry.superblocks, read)?;
    if !found.repair {
        return Ok(Vec::new());
    }
    let other = 1 - found.copy;
    let offset = geometry.superblocks[usize::from(other)];
    Ok(one_stage([(offset, encode_superblock(&found.superblock, other))]))
}

/// Everything that the metadata says. The superblock's boot id is `boot_id` afterwards; whether it
/// was already that is `same_boot`. `written_behind` is the caller's to find out.
///
/// # Errors
/// No copy of the superblock is valid, it is not of this geometry, or a block cannot be read.
pub fn load(
    geometry: &Geometry,
    read: &mut Read<'_>,
    boot_id: [u8; 16],
) -> Result<LoadedMeta, MetaError> {
    let SuperblockRead { mut superblock, mut notes, .. } = newest(geometry.superblocks, read)?;
    check_geometry(geometry, &superblock)?;
    let log = load_log(geometry, read, &mut notes)?;
    let effective = superblock.effective_size;
    let used = if effective == 0 { superblock.data_size } else { effective };
    let mut slots = Vec::with_capacity(superblock.peers.len());
    for (slot, peer) in (0u8..).zip(&superblock.peers) {
        slots.push(load_slot(geometry, read, (slot, peer), used, &mut notes)?);
    }
    let same_boot = superblock.boot_id == boot_id;
    let number = log.number.map(|highest| highest.max(superblock.number));
    superblock.boot_id = boot_id;
    Ok(LoadedMeta {
        superblock,
        hot_extents: log.hot_extents,
        number,
        slots,
        written_behind: false,
        same_boot,
        notes,
    })
}

fn check_geometry(geometry: &Geometry, superblock: &Superblock) -> Result<(), MetaError> {
    if superblock.data_size != geometry.data_size {
        let (recorded, actual) = (superblock.data_size, geometry.data_size);
        return Err(MetaError::DataSize { recorded, actual });
    }
    if superblock.al_block_size != geometry.al_block_size
        || superblock.peers.len() != usize::from(geometry.max_peers)
        || superblock.device_uuid != geometry.device_uuid
    {
        return Err(MetaError::Invalid("the superblock changed while it was read"));
    }
    Ok(())
}

struct Log {
    hot_extents: Vec<u32>,
    /// The highest number in the log; `None`: a block is damaged.
    number: Option<u64>,
    damaged: Vec<u32>,
}

fn load_log(
    geometry: &Geometry,
    read: &mut Read<'_>,
    notes: &mut Vec<String>,
) -> Result<Log, MetaError> {
    let block_size = geometry.al_block_size as usize;
    let at_once = u32::try_from(LOG_AT_ONCE / block_size).expect("at most 2048");
    let mut log = Log { hot_extents: Vec::new(), number: Some(0), damaged: Vec::new() };
    let mut first = 0;
    while first < geometry.al_blocks {
        let count = at_once.min(geometry.al_blocks - first);
        let length = count as usize * block_size;
        let bytes = exact(read, geometry.al_block_offset(first), length)?;
        for (index, block) in (first..).zip(bytes.chunks_exact(block_size)) {
            take_log_block(geometry, index, block, &mut log);
        }
        first += count;
    }
    if let Some(index) = log.damaged.first() {
        notes.push(format!(
            "activity log: {} of {} blocks are damaged, the first is block {index}: every extent \
             that they cover counts as hot",
            log.damaged.len(),
            geometry.al_blocks
        ));
    }
    Ok(log)
}

fn take_log_block(geometry: &Geometry, index: u32, block: &[u8], log: &mut Log) {
    let first = index * geometry.extents_per_block();
    let end = (first + geometry.extents_per_block()).min(geometry.extents());
    let Some(decoded) = decode_al(geometry, index, block) else {
        log.damaged.push(index);
        log.hot_extents.extend(first..end);
        log.number = None;
        return;
    };
    log.number = log.number.map(|number| number.max(decoded.number));
    for (word, base) in decoded.words.iter().zip((first..end).step_by(64)) {
        let extents = (base..end).take(64);
        log.hot_extents.extend(extents.filter(|extent| word >> (extent - base) & 1 == 1));
    }
}

/// `used`: bytes that have bits. Pages behind them were perhaps never written.
fn load_slot(
    geometry: &Geometry,
    read: &mut Read<'_>,
    (slot, peer): (u8, &PeerSlot),
    used: u64,
    notes: &mut Vec<String>,
) -> Result<LoadedSlot, MetaError> {
    let (mut set, mut damaged_pages) = (SetBlocks::new(), 0);
    match peer.bitmap_state {
        BitmapState::AllClear => {}
        BitmapState::AllSet => set = SetBlocks::run(0, geometry.blocks()),
        BitmapState::Pages => {
            (set, damaged_pages) =
                load_pages(geometry, read, slot, peer.bitmap_epoch, used / BLOCK_SIZE)?;
        }
    }
    if damaged_pages > 0 {
        notes.push(format!(
            "bitmap of slot {slot}: {damaged_pages} of {} pages are damaged and count as all set",
            geometry.bitmap_pages
        ));
    }
    let (seen_number, seen_copy) = load_seen(geometry, read, slot, peer.seen_number, notes)?;
    Ok(LoadedSlot { set: set.closed(), damaged_pages, seen_number, seen_copy })
}

/// The blocks that are set before `end`, and how many pages were damaged.
fn load_pages(
    geometry: &Geometry,
    read: &mut Read<'_>,
    slot: u8,
    epoch: u32,
    end: u64,
) -> Result<(SetBlocks, u32), MetaError> {
    let page_bytes = SUPERBLOCK_BYTES as usize;
    let pages = u32::try_from(end.div_ceil(PAGE_BITS)).expect("at most 2^24");
    let pages = pages.min(geometry.bitmap_pages);
    let (mut set, mut damaged) = (SetBlocks::new(), 0);
    let mut first = 0;
    while first < pages {
        let count = PAGES_AT_ONCE.min(pages - first);
        let offset = geometry.bitmap_page_offset(slot, first);
        let bytes = exact(read, offset, count as usize * page_bytes)?;
        for (index, page) in (first..).zip(bytes.chunks_exact(page_bytes)) {
            let base = u64::from(index) * PAGE_BITS;
            match decode_page(geometry, slot, epoch, index, page) {
                Some(words) => set.push_words(base, &words, end),
                None => {
                    damaged += 1;
                    set.push(base, PAGE_BITS.min(end - base));
                }
            }
        }
        first += count;
    }
    Ok((set, damaged))
}

/// The highest of both blocks and the superblock. A torn write of one block was not durable, so the
/// other one is right; both damaged means unknown, and so does a number that no disk reaches.
fn load_seen(
    geometry: &Geometry,
    read: &mut Read<'_>,
    slot: u8,
    in_superblock: u64,
    notes: &mut Vec<String>,
) -> Result<(Option<u64>, u8), MetaError> {
    let length = geometry.al_block_size as usize;
    let mut one = |copy: u8| -> Result<Option<u64>, MetaError> {
        let block = exact(read, geometry.seen_offset(slot, copy), length)?;
        let seen = decode_seen(geometry, slot, copy, &block);
        if seen.is_none() {
            notes.push(format!("slot {slot}: seen number {copy} is damaged"));
        }
        Ok(seen)
    };
    let (first, second) = (one(0)?, one(1)?);
    // `None` is less than any `Some`: the valid one, or the higher one. It is only ever raised, so that what the
    // superblock has of it accuses no honest disk.
    let copy = u8::from(second > first);
    if in_superblock > COUNTER_BELIEVED {
        notes.push(format!("slot {slot}: the seen number is none that a disk reaches"));
        return Ok((None, copy));
    }
    let known = (in_superblock > 0).then_some(in_superblock);
    Ok((first.max(second).map(|number| number.max(in_superblock)).or(known), copy))
}

fn exact(read: &mut Read<'_>, offset: u64, length: usize) -> Result<Vec<u8>, MetaError> {
    let bytes = read(offset, length).map_err(MetaError::Read)?;
    if bytes.len() != length {
        return Err(MetaError::Read(DiskError::Metadata));
    }
    Ok(bytes)
}
