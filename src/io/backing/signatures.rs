//! What is on a disk: file systems, partition tables, volume managers, metadata. Recognised by
//! their documented magic numbers, so that create-md can name what it would overwrite.

use std::io;

use super::device::Device;
use crate::meta::{Geometry, Placement, decode_superblock, printable};

/// Bytes at the head that are looked at: ZFS keeps its uberblocks up to 256 KiB.
const HEAD: usize = 256 << 10;
const TEXT_MAX: usize = 64;

/// Something that was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// For example `ext4`.
    pub kind: String,
    /// Its label or name, may be empty.
    pub label: String,
    /// Its UUID, may be empty.
    pub uuid: String,
    /// Bytes that it takes from the start of the disk, where that is easily known.
    pub size: Option<u64>,
    /// It is data (a file system, a volume): not just metadata at the tail.
    pub in_data: bool,
}

impl Found {
    pub(super) fn new(kind: impl Into<String>) -> Self {
        let (label, uuid) = (String::new(), String::new());
        Self { kind: kind.into(), label, uuid, size: None, in_data: true }
    }

    /// Metadata of Tandem that is saved before it is overwritten.
    #[must_use]
    pub fn is_whole_metadata(&self) -> bool {
        self.kind.starts_with("Tandem metadata")
    }

    fn label(mut self, bytes: &[u8]) -> Self {
        self.label = text(bytes);
        self
    }

    fn uuid(mut self, bytes: &[u8]) -> Self {
        self.uuid = uuid(bytes);
        self
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.kind)?;
        if !self.label.is_empty() {
            write!(f, " {:?}", self.label)?;
        }
        if !self.uuid.is_empty() {
            write!(f, " ({})", self.uuid)?;
        }
        Ok(())
    }
}

/// Everything that is recognised on the disk.
pub(super) fn scan(device: &Device) -> io::Result<Vec<Found>> {
    let length = HEAD.min(usize::try_from(device.size).unwrap_or(HEAD));
    let head = Head(device.peek(0, length)?.unwrap_or_default());
    let mut found: Vec<Found> = Vec::new();
    let tests: [fn(&Head) -> Option<Found>; 9] =
        [ext, xfs, btrfs, swap, luks, lvm, zfs, md_at_head, simple];
    found.extend(tests.iter().filter_map(|test| test(&head)));
    if let Some(table) = partitions(&head, device)? {
        // A FAT file system has a boot sector that looks like a partition table.
        if found.is_empty() || table.kind.starts_with("GPT") {
            found.push(table);
        }
    }
    found.extend(md_at_tail(device)?);
    found.extend(drbd(device)?);
    found.extend(tandem(device)?);
    Ok(found)
}

/// The first bytes of the disk. Out of range reads as nothing.
struct Head(Vec<u8>);

impl Head {
    fn at(&self, offset: usize, length: usize) -> &[u8] {
        self.0.get(offset..offset + length).unwrap_or_default()
    }
    fn has(&self, offset: usize, magic: &[u8]) -> bool {
        self.at(offset, magic.len()) == magic
    }
    fn le32(&self, offset: usize) -> u32 {
        self.at(offset, 4).try_into().map_or(0, u32::from_le_bytes)
    }
    fn be32(&self, offset: usize) -> u32 {
        self.at(offset, 4).try_into().map_or(0, u32::from_be_bytes)
    }
    fn be64(&self, offset: usize) -> u64 {
        self.at(offset, 8).try_into().map_or(0, u64::from_be_bytes)
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    printable(String::from_utf8_lossy(&bytes[..end]).trim(), TEXT_MAX)
}

fn uuid(bytes: &[u8]) -> String {
    if bytes.len() != 16 || bytes.iter().all(|byte| *byte == 0) {
        return String::new();
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn ext(head: &Head) -> Option<Found> {
    const AT: usize = 1024;
    const HAS_JOURNAL: u32 = 4;
    // extents, 64bit, flex_bg
    const EXT4_ONLY: u32 = 0x40 | 0x80 | 0x200;
    if !head.has(AT + 56, &[0x53, 0xEF]) {
        return None;
    }
    let (compatible, incompatible) = (head.le32(AT + 92), head.le32(AT + 96));
    let kind = match () {
        () if incompatible & EXT4_ONLY != 0 => "ext4",
        () if compatible & HAS_JOURNAL != 0 => "ext3",
        () => "ext2",
    };
    let high = if incompatible & 0x80 == 0 { 0 } else { u64::from(head.le32(AT + 336)) };
    let blocks = high << 32 | u64::from(head.le32(AT + 4));
    let size = 1024u64.checked_shl(head.le32(AT + 24)).and_then(|bytes| bytes.checked_mul(blocks));
    let found = Found::new(kind).label(head.at(AT + 120, 16)).uuid(head.at(AT + 104, 16));
    Some(Found { size, ..found })
}

fn xfs(head: &Head) -> Option<Found> {
    let found = Found::new("xfs").label(head.at(108, 12)).uuid(head.at(32, 16));
    let size = head.be64(8).checked_mul(u64::from(head.be32(4)));
    head.has(0, b"XFSB").then_some(Found { size, ..found })
}

fn btrfs(head: &Head) -> Option<Found> {
    const AT: usize = 65536;
    let found = Found::new("btrfs").label(head.at(AT + 0x12B, 256)).uuid(head.at(AT + 0x20, 16));
    head.has(AT + 64, b"_BHRfS_M").then_some(found)
}

fn swap(head: &Head) -> Option<Found> {
    let pages = [4096, 8192, 16384, 32768, 65536];
    let magic =
        |page: usize| head.has(page - 10, b"SWAPSPACE2") || head.has(page - 10, b"SWAP-SPACE");
    let found = Found::new("swap").label(head.at(1052, 16)).uuid(head.at(1036, 16));
    pages.into_iter().any(magic).then_some(found)
}

fn luks(head: &Head) -> Option<Found> {
    let found = Found::new("LUKS").label(if head.has(6, &[0, 2]) { head.at(24, 48) } else { &[] });
    let uuid = text(head.at(168, 40));
    head.has(0, b"LUKS\xBA\xBE").then_some(Found { uuid, ..found })
}

fn lvm(head: &Head) -> Option<Found> {
    let sector = (0..4).map(|sector| sector * 512).find(|at| head.has(*at, b"LABELONE"))?;
    let uuid = text(head.at(sector + 32, 32));
    Some(Found { uuid, ..Found::new("LVM2 physical volume") })
}

fn zfs(head: &Head) -> Option<Found> {
    const MAGIC: u64 = 0x00BA_B10C;
    let ring = (128 << 10..256 << 10).step_by(1024);
    let hit = |at: usize| head.has(at, &MAGIC.to_le_bytes()) || head.has(at, &MAGIC.to_be_bytes());
    ring.into_iter().any(hit).then(|| Found::new("ZFS"))
}

const MD_MAGIC: u32 = 0xA92B_4EFC;

fn md_at_head(head: &Head) -> Option<Found> {
    let (version, at) = [("1.1", 0), ("1.2", 4096)]
        .into_iter()
        .find(|(_, at)| head.has(*at, &MD_MAGIC.to_le_bytes()))?;
    let found = Found::new(format!("MD RAID {version}"));
    Some(found.label(head.at(at + 32, 32)).uuid(head.at(at + 16, 16)))
}

/// Version 1.0 lies 8 KiB before the end, aligned to 4 KiB; 0.90 in the last whole 64 KiB.
fn md_at_tail(device: &Device) -> io::Result<Option<Found>> {
    if let Some(at) = (device.size / 512).checked_sub(16).map(|sector| sector / 8 * 8 * 512)
        && let Some(block) = device.peek(at, 256)?
        && block.starts_with(&MD_MAGIC.to_le_bytes())
    {
        let found = Found::new("MD RAID 1.0").label(&block[32..64]).uuid(&block[16..32]);
        return Ok(Some(found));
    }
    if let Some(at) = (device.size / 65536 * 65536).checked_sub(65536)
        && let Some(block) = device.peek(at, 64)?
        && (block.starts_with(&MD_MAGIC.to_le_bytes())
            || block.starts_with(&MD_MAGIC.to_be_bytes()))
    {
        return Ok(Some(Found::new("MD RAID 0.90")));
    }
    Ok(None)
}

/// What needs no more than a magic at a place.
fn simple(head: &Head) -> Option<Found> {
    const TABLE: [(&str, usize, &[u8]); 14] = [
        ("NTFS", 3, b"NTFS    "),
        ("exFAT", 3, b"EXFAT   "),
        ("FAT", 54, b"FAT12   "),
        ("FAT", 54, b"FAT16   "),
        ("FAT", 82, b"FAT32   "),
        ("ISO 9660", 32769, b"CD001"),
        ("squashfs", 0, b"hsqs"),
        ("f2fs", 1024, &[0x10, 0x20, 0xF5, 0xF2]),
        ("bcache", 4120, &[0xC6, 0x85, 0x73, 0xF6, 0x4E, 0x1A, 0x45, 0xCA]),
        ("reiserfs", 65588, b"ReIsEr"),
        ("JFS", 32768, b"JFS1"),
        ("qcow2 image", 0, b"QFI\xFB"),
        ("VMDK image", 0, b"KDMV"),
        ("VHDX image", 0, b"vhdxfile"),
    ];
    let (kind, ..) = TABLE.iter().find(|(_, at, magic)| head.has(*at, magic))?;
    Some(Found::new(*kind))
}

fn partitions(head: &Head, device: &Device) -> io::Result<Option<Found>> {
    for block in [512usize, 4096] {
        if head.has(block, b"EFI PART") {
            return Ok(Some(Found::new("GPT partition table").uuid(head.at(block + 56, 16))));
        }
        let last = device.size.checked_sub(block as u64);
        if let Some(last) = last
            && device.peek(last, 8)?.is_some_and(|bytes| bytes == b"EFI PART")
        {
            return Ok(Some(Found::new("GPT partition table (its backup)")));
        }
    }
    let entry = |number: usize| head.at(446 + 16 * number, 16);
    let states_right = (0..4).all(|n| matches!(entry(n).first(), Some(0 | 0x80)));
    let used = (0..4).any(|n| entry(n).get(4).is_some_and(|kind| *kind != 0));
    let boot_sector = head.has(510, &[0x55, 0xAA]);
    Ok((boot_sector && states_right && used).then(|| Found::new("MBR partition table")))
}

/// DRBD's superblock (internal, flexible): the last 4 KiB, with its magic at 60. Versions 07 to 09
/// have magics close to each other.
fn drbd(device: &Device) -> io::Result<Option<Found>> {
    const MAGICS: std::ops::RangeInclusive<u32> = 0x8374_0267..=0x8374_0270;
    let tail = (device.size / 4096 * 4096).checked_sub(4096);
    for at in std::iter::once(0).chain(tail) {
        let Some(block) = device.peek(at, 64)? else { continue };
        let magic = block[60..64].try_into().map_or(0, u32::from_be_bytes);
        if MAGICS.contains(&magic) {
            return Ok(Some(Found { in_data: false, ..Found::new("DRBD metadata") }));
        }
    }
    Ok(None)
}

/// Metadata of Tandem, internal (by this disk's size) or external, whole or damaged.
pub(super) fn tandem(device: &Device) -> io::Result<Option<Found>> {
    let size = device.size;
    let internal = Placement::Internal { disk_size: size }.superblock_offsets();
    let external = Placement::External { disk_size: size, meta_size: size }.superblock_offsets();
    let mut damaged = None;
    for offsets in [internal, external].into_iter().flatten() {
        for (copy, offset) in (0u8..).zip(offsets) {
            let Some(block) = device.peek(offset, 4096)? else { continue };
            let new = |kind: String| Found { in_data: false, ..Found::new(kind) };
            match decode_superblock(&block, copy) {
                Ok(superblock) => {
                    let who = super::open::owner(&superblock);
                    let uuid = format!("device {:016X}", superblock.device_uuid);
                    return Ok(Some(Found { uuid, ..new(format!("Tandem metadata of {who}")) }));
                }
                Err(_) if block.starts_with(b"TANDEMSB") => {
                    damaged = Some(new("damaged Tandem metadata".to_owned()));
                }
                Err(_) => {}
            }
        }
    }
    Ok(damaged)
}

/// Whether there is whole metadata that fits this device: as a disk with its own, or as that of
/// another disk.
pub(super) fn is_tandem(device: &Device) -> io::Result<bool> {
    let size = device.size;
    // The disk of external metadata is elsewhere: it is as large as the superblock says.
    let internal = |_| Placement::Internal { disk_size: size };
    let external = |disk_size| Placement::External { disk_size, meta_size: size };
    let ways: [&dyn Fn(u64) -> Placement; 2] = [&internal, &external];
    for way in ways {
        for (copy, offset) in (0u8..).zip(way(size).superblock_offsets().into_iter().flatten()) {
            let Some(block) = device.peek(offset, 4096)? else { continue };
            if let Ok(superblock) = decode_superblock(&block, copy)
                && Geometry::of(way(superblock.data_size), &superblock).is_ok()
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
