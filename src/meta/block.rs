//! The small blocks: activity log block, bitmap page, seen number. Each has a header of 32 bytes
//! with magic and CRC, and proves its own place.
//!
//! ```text
//!          0        4        8        12       16                24
//! log      | magic  | crc    | index  | device | number          | 0               | words ...
//! page     | magic  | crc    | index  | device | epoch  | slot   | 0               | words ...
//! seen     | magic  | crc    | slot   | device | number          | copy   | 0      | 0 ...
//! ```
//! Big-endian. `device`: the low 32 bits of the device identity. The CRC-32 is of every byte of the
//! block but the four of the CRC itself.

use bytes::Bytes;

use super::geometry::{AL_HEADER, Geometry, SUPERBLOCK_BYTES};
use super::{AlBlock, BitmapPage, COUNTER_BELIEVED, PAGE_WORDS};

const AL_MAGIC: [u8; 4] = *b"TdAL";
const PAGE_MAGIC: [u8; 4] = *b"TdBM";
const SEEN_MAGIC: [u8; 4] = *b"TdSN";
const HEADER: usize = AL_HEADER as usize;
const PAGE_BYTES: usize = SUPERBLOCK_BYTES as usize;
const CRC_AT: std::ops::Range<usize> = 4..8;

const _: () = assert!(HEADER + 8 * PAGE_WORDS == PAGE_BYTES);

/// Zeroes whose memory starts at a multiple of 4096, as O_DIRECT wants it.
pub(super) struct AlignedBlock {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBlock {
    pub(super) fn new(length: usize) -> Self {
        const ALIGN: usize = 4096;
        let memory = vec![0u8; length + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Self { memory, start, length }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }

    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Puts the CRC at `crc_at` and gives the block away. The memory does not move.
    pub(super) fn sealed(mut self, crc_at: std::ops::Range<usize>) -> Bytes {
        let crc = checksum(self.bytes_mut(), crc_at.clone());
        self.put(crc_at.start, &crc.to_be_bytes());
        self.into_bytes()
    }

    pub(super) fn into_bytes(self) -> Bytes {
        let range = self.start..self.start + self.length;
        Bytes::from(self.memory).slice(range)
    }
}

/// CRC-32 of a block but for the place of the CRC itself.
pub(super) fn checksum(block: &[u8], crc_at: std::ops::Range<usize>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&block[..crc_at.start]);
    hasher.update(&block[crc_at.end..]);
    hasher.finalize()
}

pub(super) fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(block[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(block: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(block[at..at + 8].try_into().expect("eight bytes"))
}

fn device_low(geometry: &Geometry) -> u32 {
    (geometry.device_uuid & 0xFFFF_FFFF) as u32
}

fn header(length: usize, magic: [u8; 4], place: u32, geometry: &Geometry) -> AlignedBlock {
    let mut block = AlignedBlock::new(length);
    block.put(0, &magic);
    block.put(8, &place.to_be_bytes());
    block.put(12, &device_low(geometry).to_be_bytes());
    block
}

/// Magic, CRC, place and device are right.
fn is_whole(block: &[u8], magic: [u8; 4], place: u32, geometry: &Geometry) -> bool {
    block.len() >= HEADER
        && block[..4] == magic
        && u32_at(block, CRC_AT.start) == checksum(block, CRC_AT)
        && u32_at(block, 8) == place
        && u32_at(block, 12) == device_low(geometry)
}

fn put_words(block: &mut AlignedBlock, words: &[u64]) {
    for (word, place) in words.iter().zip(block.bytes_mut()[HEADER..].chunks_exact_mut(8)) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}

fn words(block: &[u8]) -> Vec<u64> {
    block[HEADER..].chunks_exact(8).map(|word| u64_at(word, 0)).collect()
}

pub(super) fn encode_al(geometry: &Geometry, log: &AlBlock) -> Bytes {
    let length = geometry.al_block_size as usize;
    assert_eq!(log.words.len(), (length - HEADER) / 8, "words of activity log block");
    let mut block = header(length, AL_MAGIC, log.index, geometry);
    block.put(16, &log.number.to_be_bytes());
    put_words(&mut block, &log.words);
    block.sealed(CRC_AT)
}

/// `None`: damaged.
pub(super) fn decode_al(geometry: &Geometry, index: u32, block: &[u8]) -> Option<AlBlock> {
    let whole = block.len() == geometry.al_block_size as usize
        && is_whole(block, AL_MAGIC, index, geometry);
    let decoded = whole.then(|| AlBlock { index, number: u64_at(block, 16), words: words(block) });
    decoded.filter(|log| log.number <= COUNTER_BELIEVED)
}

pub(super) fn encode_page(geometry: &Geometry, slot: u8, epoch: u32, page: &BitmapPage) -> Bytes {
    assert_eq!(page.words.len(), PAGE_WORDS, "words of bitmap page");
    let mut block = header(PAGE_BYTES, PAGE_MAGIC, page.index, geometry);
    block.put(16, &epoch.to_be_bytes());
    block.put(20, &u32::from(slot).to_be_bytes());
    put_words(&mut block, &page.words);
    block.sealed(CRC_AT)
}

/// The words, or `None`: damaged, zero, of another slot or of another epoch.
pub(super) fn decode_page(
    geometry: &Geometry,
    slot: u8,
    epoch: u32,
    index: u32,
    block: &[u8],
) -> Option<Vec<u64>> {
    let whole = block.len() == PAGE_BYTES
        && is_whole(block, PAGE_MAGIC, index, geometry)
        && u32_at(block, 16) == epoch
        && u32_at(block, 20) == u32::from(slot);
    whole.then(|| words(block))
}

pub(super) fn encode_seen(geometry: &Geometry, slot: u8, copy: u8, number: u64) -> Bytes {
    let length = geometry.al_block_size as usize;
    let mut block = header(length, SEEN_MAGIC, u32::from(slot), geometry);
    block.put(16, &number.to_be_bytes());
    block.put(24, &u32::from(copy).to_be_bytes());
    block.sealed(CRC_AT)
}

/// `None`: damaged.
pub(super) fn decode_seen(geometry: &Geometry, slot: u8, copy: u8, block: &[u8]) -> Option<u64> {
    let whole = block.len() == geometry.al_block_size as usize
        && is_whole(block, SEEN_MAGIC, u32::from(slot), geometry)
        && u32_at(block, 24) == u32::from(copy);
    whole.then(|| u64_at(block, 16)).filter(|number| *number <= COUNTER_BELIEVED)
}
