//! Golden bytes, every bit flip, every torn write, and round trips.

use proptest::prelude::*;

use super::block::{decode_al, decode_page, decode_seen, encode_al, encode_page, encode_seen};
use super::*;
use crate::resource::DiskError;

mod grow;
mod limits;
mod restore;

const BOOT: [u8; 16] = [7; 16];
const MIB: u64 = 1 << 20;

fn internal(disk_size: u64) -> Placement {
    Placement::Internal { disk_size }
}

fn new_disk() -> NewDisk {
    NewDisk {
        resource: "r0".into(),
        volume: 0,
        node_id: 1,
        created_time: 1_795_549_964,
        found: "blank".into(),
        blank: true,
        preallocated: false,
        boot_id: BOOT,
    }
}

/// A disk in memory: writes of whole stages, reads with bounds.
struct Image {
    bytes: Vec<u8>,
    geometry: Geometry,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.geometry)
    }
}

impl Image {
    fn new(disk_size: u64, al_block_size: u32, max_peers: u8) -> (Self, Superblock) {
        let geometry =
            Geometry::new(internal(disk_size), al_block_size, max_peers, 0x7B6E_C735_A94E_2674)
                .unwrap();
        let (superblock, stages) = format_new(&geometry, &new_disk()).unwrap();
        let mut image = Self { bytes: vec![0; usize::try_from(disk_size).unwrap()], geometry };
        image.write(&stages);
        (image, superblock)
    }

    fn write(&mut self, stages: &[Stage]) {
        for (offset, bytes) in stages.iter().flat_map(|stage| &stage.writes) {
            let at = usize::try_from(*offset).unwrap();
            self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn apply(&mut self, op: &MetaOp) {
        let stages = stages(&self.geometry, op);
        self.write(&stages);
    }

    fn reader(&self) -> impl FnMut(u64, usize) -> Result<Vec<u8>, DiskError> + '_ {
        |offset, length| {
            let at = usize::try_from(offset).unwrap();
            self.bytes.get(at..at + length).map(<[u8]>::to_vec).ok_or(DiskError::Io(5))
        }
    }

    fn load(&self) -> Result<LoadedMeta, MetaError> {
        load(&self.geometry, &mut self.reader(), BOOT)
    }

    fn flip(&mut self, bit: usize) {
        self.bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

/// A disk with everything in use: pages in slot 0, hot extents, seen numbers.
fn busy() -> (Image, Superblock) {
    let (mut image, mut superblock) = Image::new(MIB * 4, 512, 2);
    let mut words = vec![0; PAGE_WORDS];
    words[0] = 0b1011;
    words[3] = u64::MAX;
    image.apply(&MetaOp::Bitmap { slot: 0, epoch: 9, pages: vec![BitmapPage { index: 0, words }] });
    let mut words = vec![0; 60];
    words[0] = 1;
    image.apply(&MetaOp::ActivityLog { blocks: vec![AlBlock { index: 0, number: 41, words }] });
    image.apply(&MetaOp::SeenNumber { slot: 0, copy: 0, number: 5 });
    image.apply(&MetaOp::SeenNumber { slot: 0, copy: 1, number: 6 });
    superblock.sequence = 2;
    superblock.peers[0].node_id = Some(0);
    superblock.peers[0].bitmap_state = BitmapState::Pages;
    superblock.peers[0].bitmap_epoch = 9;
    image.apply(&MetaOp::Superblock(Box::new(superblock.clone())));
    (image, superblock)
}

#[test]
fn what_was_written_comes_back() {
    let (image, superblock) = busy();
    let meta = image.load().unwrap();
    assert_eq!(meta.superblock, superblock);
    assert_eq!(meta.hot_extents, [0]);
    assert_eq!(meta.number, Some(41));
    assert!(meta.slots[0].set.runs().eq([(0, 2), (3, 1), (192, 64)]));
    assert_eq!((meta.slots[0].seen_number, meta.slots[0].seen_copy), (Some(6), 1));
    assert!(meta.slots[1].set.runs().eq([(0, image.geometry.blocks())]));
    assert!(meta.same_boot && !meta.written_behind && meta.notes.is_empty());
    let other = load(&image.geometry, &mut image.reader(), [8; 16]).unwrap();
    assert!(!other.same_boot);
    assert_eq!(other.superblock.boot_id, [8; 16]);
}

#[test]
fn a_fresh_disk_is_just_created_and_differs_everywhere() {
    let (image, superblock) = Image::new(MIB, 512, 1);
    let meta = image.load().unwrap();
    assert_eq!(meta.superblock, superblock);
    assert_eq!(superblock.current_uuid, JUST_CREATED);
    assert_eq!(superblock.flags, DeviceFlags::CLEAN | DeviceFlags::CREATED_BLANK);
    assert!(meta.slots[0].set.runs().eq([(0, image.geometry.blocks())]));
    assert_eq!((meta.number, meta.slots[0].seen_number), (Some(0), Some(0)));
    assert!(meta.hot_extents.is_empty());
}

/// No flipped bit of any block makes the loader panic, costs a set bit, a hot extent or a number,
/// or changes the superblock.
#[test]
fn every_flipped_bit_is_detected_or_harmless() {
    let (mut image, superblock) = busy();
    let whole = image.load().unwrap();
    let geometry = image.geometry;
    let blocks = [
        (geometry.superblocks[0], 4096),
        (geometry.superblocks[1], 4096),
        (geometry.al_block_offset(0), 512),
        (geometry.bitmap_page_offset(0, 0), 4096),
        (geometry.bitmap_page_offset(1, 0), 4096),
        (geometry.seen_offset(0, 0), 512),
        (geometry.seen_offset(0, 1), 512),
    ];
    for (offset, length) in blocks {
        let first = usize::try_from(offset).unwrap() * 8;
        // Every 61st here, every one in `no_flipped_bit_passes_a_decoder`.
        for bit in (first..first + length * 8).step_by(61) {
            image.flip(bit);
            let meta = image.load().unwrap();
            assert_eq!(meta.superblock, superblock, "bit {bit}");
            assert_eq!(meta.hot_extents, [0], "bit {bit}");
            for (slot, before) in meta.slots.iter().zip(&whole.slots) {
                let all = SetBlocks::run(0, geometry.blocks());
                assert!(slot.set == before.set || slot.set == all, "bit {bit}");
            }
            let damaged =
                meta.number.is_none() || meta.slots[0].damaged_pages == 1 || !meta.notes.is_empty();
            // Only slot 1's page is never looked at: its slot says that all bits are set.
            assert_eq!(damaged, offset != geometry.bitmap_page_offset(1, 0), "bit {bit}");
            assert!(matches!(meta.slots[0].seen_number, Some(5 | 6)), "bit {bit}");
            image.flip(bit);
        }
    }
    assert_eq!(image.load().unwrap(), whole);
}

#[test]
fn no_flipped_bit_passes_a_decoder() {
    fn flips(block: &[u8], passes: impl Fn(&[u8]) -> bool) {
        let mut block = block.to_vec();
        assert!(passes(&block));
        for bit in 0..block.len() * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(!passes(&block), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }
    let (image, superblock) = busy();
    let g = &image.geometry;
    flips(&encode_superblock(&superblock, 0), |block| decode_superblock(block, 0).is_ok());
    let page = BitmapPage { index: 0, words: vec![5; PAGE_WORDS] };
    flips(&encode_page(g, 1, 3, &page), |block| decode_page(g, 1, 3, 0, block).is_some());
    let log = AlBlock { index: 0, number: 9, words: vec![6; 60] };
    flips(&encode_al(g, &log), |block| decode_al(g, 0, block).is_some());
    flips(&encode_seen(g, 1, 1, 8), |block| decode_seen(g, 1, 1, block).is_some());
}

#[test]
fn a_torn_superblock_write_leaves_the_old_or_the_new_one() {
    let (mut image, old) = busy();
    let mut new = old.clone();
    new.sequence = 3;
    new.current_uuid = 0x5435_911C_ABE7_ED03;
    new.history[0] = old.current_uuid;
    let op = MetaOp::Superblock(Box::new(new.clone()));
    let before = image.bytes.clone();
    for stage in 0..2 {
        for boundary in 0..=8 {
            for reverse in [false, true] {
                image.bytes.clone_from(&before);
                let steps = stages(&image.geometry, &op);
                image.write(&steps[..stage]);
                let (offset, bytes) = &steps[stage].writes[0];
                let at = usize::try_from(*offset).unwrap();
                let torn = if reverse { boundary * 512..4096 } else { 0..boundary * 512 };
                image.bytes[at + torn.start..at + torn.end].copy_from_slice(&bytes[torn]);
                let meta = image.load().unwrap();
                if stage == 1 {
                    assert_eq!(meta.superblock, new, "completed in copy A, boundary {boundary}");
                } else {
                    assert!(meta.superblock == old || meta.superblock == new);
                }
                // What was loaded stays, whatever happens to the next write of copy A.
                let fix = repair(&image.geometry, &mut image.reader()).unwrap();
                image.write(&fix);
                image.bytes[usize::try_from(image.geometry.superblocks[0]).unwrap() + 700] ^= 1;
                assert_eq!(image.load().unwrap().superblock, meta.superblock);
            }
        }
    }
}

#[test]
fn two_whole_copies_need_no_repair() {
    let (image, _) = busy();
    assert_eq!(repair(&image.geometry, &mut image.reader()), Ok(Vec::new()));
}

#[test]
fn both_copies_damaged_is_refused_and_blank_is_told_from_damage() {
    let (mut image, _) = busy();
    for offset in image.geometry.superblocks {
        image.bytes[usize::try_from(offset).unwrap() + 100] ^= 1;
    }
    let checksum = CopyDamage::Checksum;
    assert_eq!(image.load(), Err(MetaError::BothDamaged { a: checksum, b: checksum }));
    image.write(&[Stage::zeroes(&image.geometry.superblocks)]);
    assert_eq!(image.load(), Err(MetaError::NoMetadata));
}

#[test]
fn an_unreadable_copy_is_survived_and_a_newer_layout_is_not() {
    let (mut image, superblock) = busy();
    let bad = image.geometry.superblocks[0];
    let meta = load(
        &image.geometry,
        &mut |offset, length| {
            if offset == bad { Err(DiskError::Io(5)) } else { image.reader()(offset, length) }
        },
        BOOT,
    );
    assert_eq!(meta.unwrap().superblock, superblock);
    let mut block = encode_superblock(&superblock, 0).to_vec();
    block[11] += 1;
    let crc = super::block::checksum(&block, 16..20).to_be_bytes();
    block[16..20].copy_from_slice(&crc);
    let at = usize::try_from(bad).unwrap();
    image.bytes[at..at + 4096].copy_from_slice(&block);
    assert_eq!(image.load(), Err(MetaError::Version { found: VERSION + 1, known: VERSION }));
}

#[test]
fn a_copy_in_the_wrong_place_is_damage() {
    let (_, superblock) = busy();
    let block = encode_superblock(&superblock, 0);
    assert_eq!(decode_superblock(&block, 1), Err(CopyDamage::Misplaced));
}

#[test]
fn a_zeroed_page_and_a_page_of_another_epoch_or_slot_count_as_all_set() {
    let (image, _) = busy();
    let geometry = image.geometry;
    let page = BitmapPage { index: 0, words: vec![0; PAGE_WORDS] };
    let block = encode_page(&geometry, 0, 9, &page);
    assert_eq!(decode_page(&geometry, 0, 9, 0, &block), Some(vec![0; PAGE_WORDS]));
    assert_eq!(decode_page(&geometry, 0, 8, 0, &block), None);
    assert_eq!(decode_page(&geometry, 1, 9, 0, &block), None);
    assert_eq!(decode_page(&geometry, 0, 9, 1, &block), None);
    assert_eq!(decode_page(&geometry, 0, 9, 0, &[0; 4096]), None);
    let other = Geometry { device_uuid: 1, ..geometry };
    assert_eq!(decode_page(&other, 0, 9, 0, &block), None);
    let (mut image, _) = busy();
    let at = usize::try_from(geometry.bitmap_page_offset(0, 0)).unwrap();
    image.bytes[at..at + 4096].fill(0);
    let slot = &image.load().unwrap().slots[0];
    assert_eq!((slot.damaged_pages, &slot.set), (1, &SetBlocks::run(0, geometry.blocks())));
}

#[test]
fn a_damaged_log_block_makes_its_extents_hot_and_the_number_unknown() {
    // 2 log blocks of 3,840 extents: 15 GiB each. Only the metadata is in memory.
    let geometry = Geometry::new(internal(20 << 30), 512, 1, 1).unwrap();
    let (_, stages) = format_new(&geometry, &new_disk()).unwrap();
    let blocks: std::collections::BTreeMap<u64, bytes::Bytes> =
        stages.into_iter().flat_map(|stage| stage.writes).collect();
    let damaged = geometry.al_block_offset(1);
    let mut read = |offset: u64, length: usize| {
        let mut out = Vec::new();
        while out.len() < length {
            let at = offset + out.len() as u64;
            let mut block = blocks[&at].to_vec();
            if at == damaged {
                block[40] ^= 1;
            }
            out.extend(block);
        }
        out.truncate(length);
        Ok(out)
    };
    let meta = load(&geometry, &mut read, BOOT).unwrap();
    assert_eq!(meta.number, None);
    assert_eq!(meta.hot_extents, (3840..geometry.extents()).collect::<Vec<_>>());
}

#[test]
fn seen_number_is_the_highest_that_is_whole() {
    let (mut image, mut superblock) = busy();
    let geometry = image.geometry;
    let damage = |image: &mut Image, copy: u8| {
        image.bytes[usize::try_from(geometry.seen_offset(0, copy)).unwrap() + 17] ^= 1;
    };
    damage(&mut image, 1);
    let meta = image.load().unwrap();
    // The next write goes to the other block: the damaged one.
    assert_eq!((meta.slots[0].seen_number, meta.slots[0].seen_copy), (Some(5), 0));
    let mut store = |image: &mut Image, number| {
        superblock.peers[0].seen_number = number;
        image.apply(&MetaOp::Superblock(Box::new(superblock.clone())));
    };
    store(&mut image, 77);
    assert_eq!(image.load().unwrap().slots[0].seen_number, Some(77));
    damage(&mut image, 0);
    // It is only ever raised: so much has been seen.
    assert_eq!(image.load().unwrap().slots[0].seen_number, Some(77));
    store(&mut image, 0);
    assert_eq!(image.load().unwrap().slots[0].seen_number, None);
}

#[test]
fn the_largest_superblock_fits() {
    let (_, mut superblock) = Image::new(MIB, 512, 31);
    superblock.resource = "r".repeat(RESOURCE_NAME_MAX);
    superblock.created_found = "f".repeat(255);
    superblock.peers.iter_mut().for_each(|peer| peer.node_id = Some(31));
    let block = encode_superblock(&superblock, 1);
    assert_eq!(decode_superblock(&block, 1).as_ref(), Ok(&superblock));
    assert_eq!(super::block::u32_at(&block, 12), 1820);
}

#[test]
fn hostile_contents_under_a_right_crc_are_errors() {
    let (_, superblock) = Image::new(MIB, 512, 1);
    let body = |at: usize, value: u8| {
        let mut block = encode_superblock(&superblock, 0).to_vec();
        block[at] = value;
        let crc = super::block::checksum(&block, 16..20).to_be_bytes();
        block[16..20].copy_from_slice(&crc);
        decode_superblock(&block, 0)
    };
    // A length beyond the block, a name of 2^63 bytes, a slot count of 2^56, a name of ESC.
    assert!(matches!(body(12, 0xFF), Err(CopyDamage::Content(_))));
    assert!(matches!(body(48, 0x80), Err(CopyDamage::Content(_))));
    assert!(matches!(body(56, 0x1B), Err(CopyDamage::Content(_))));
    for at in 32..4096 {
        for value in [0, 1, 0x7F, 0x80, 0xFF] {
            let _ = body(at, value);
        }
    }
    // What would be sent to a peer as it is: a size that is no number of blocks, one beyond the
    // data, a disk without a name. Each last byte stands where a copy with another value differs.
    let last_byte = |change: fn(&mut Superblock)| {
        let mut other = superblock.clone();
        change(&mut other);
        let (one, two) = (encode_superblock(&superblock, 0), encode_superblock(&other, 0));
        (32..4096).rev().find(|at| one[*at] != two[*at]).expect("they differ")
    };
    let size = last_byte(|superblock| superblock.effective_size ^= 4096);
    assert!(matches!(body(size + 1, 1), Err(CopyDamage::Content(text)) if text.contains("4096")));
    let size_above = size - 4;
    assert!(matches!(body(size_above, 1), Err(CopyDamage::Content(text)) if text.contains("more")));
    let name = last_byte(|superblock| superblock.device_uuid ^= 1);
    let nameless = Superblock { device_uuid: 1, ..superblock.clone() };
    let mut block = encode_superblock(&nameless, 0).to_vec();
    block[name] = 0;
    let crc = super::block::checksum(&block, 16..20).to_be_bytes();
    block[16..20].copy_from_slice(&crc);
    assert!(matches!(decode_superblock(&block, 0), Err(CopyDamage::Content(_))));
}

#[test]
fn internal_metadata_stays_within_its_promise() {
    for (disk, peers) in [(1 << 20, 1), (64 << 20, 1), (10 << 30, 1), (1 << 40, 1), (1 << 40, 7)] {
        for block in [512, 4096] {
            let geometry = Geometry::new(internal(disk), block, peers, 1).unwrap();
            let most = (1 << 20) + u64::from(peers) * ((1 << 19) + disk.div_ceil(32768));
            assert!(disk - geometry.data_size <= most, "{disk} {peers}: {}", geometry.meta_bytes);
            assert_eq!(geometry.data_size % 4096, 0);
        }
    }
    let one = Geometry::new(internal(1 << 40), 512, 1, 1).unwrap();
    assert!(one.meta_bytes <= (1 << 20) + (1 << 40) / 32768);
    let odd = Geometry::new(internal((64 << 20) + 1536), 512, 1, 1).unwrap();
    assert_eq!(odd.superblocks[0], (64 << 20) - 4096);
}

#[test]
fn a_disk_that_is_too_small_or_too_large_is_an_error() {
    for size in [0, 1, 4096, 256 << 10, (256 << 10) + 8192] {
        let error = Geometry::new(internal(size), 512, 1, 1);
        assert!(matches!(error, Err(MetaError::TooSmall { .. })), "{size}");
    }
    let least = (256 << 10) + 3 * 4096;
    assert_eq!(Geometry::new(internal(least), 512, 1, 1).unwrap().data_size, 4096);
    let error = Geometry::new(internal(u64::MAX), 512, 1, 1);
    assert!(matches!(error, Err(MetaError::TooLarge { .. })));
    assert!(Geometry::new(internal(MIB), 512, 0, 1).is_err());
    assert!(Geometry::new(internal(MIB), 512, 32, 1).is_err());
    assert!(Geometry::new(internal(MIB), 1024, 1, 1).is_err());
}

#[test]
fn a_name_that_does_not_fit_is_refused_at_create() {
    let geometry = Geometry::new(internal(MIB), 512, 1, 1).unwrap();
    for name in [String::new(), "n".repeat(128), "a\nb".to_owned()] {
        let new = NewDisk { resource: name, ..new_disk() };
        assert!(matches!(format_new(&geometry, &new), Err(MetaError::Invalid(_))));
    }
    let new = NewDisk { found: format!("ext4 \"{}\u{1b}[2J\"", "é".repeat(300)), ..new_disk() };
    let (superblock, _) = format_new(&geometry, &new).unwrap();
    assert!(superblock.created_found.len() <= 255);
}

#[test]
fn no_two_regions_overlap_and_writes_are_aligned_in_memory() {
    for external in [false, true] {
        let (disk_size, meta_size) = (40 << 30, 8 << 20);
        let placement = match external {
            true => Placement::External { disk_size, meta_size },
            false => internal(disk_size),
        };
        let geometry = Geometry::new(placement, 512, 3, 1).unwrap();
        let mut all: Vec<(u64, u64)> = geometry.superblocks.map(|at| (at, 4096)).to_vec();
        let (_, stages) = format_new(&geometry, &new_disk()).unwrap();
        for (offset, bytes) in &stages[0].writes {
            assert_eq!(bytes.as_ptr().align_offset(4096), 0);
            all.push((*offset, bytes.len() as u64));
        }
        for slot in 0..3 {
            for page in 0..geometry.bitmap_pages {
                all.push((geometry.bitmap_page_offset(slot, page), 4096));
            }
        }
        all.sort_unstable();
        let start = if external { 0 } else { geometry.data_size };
        assert_eq!(all[0].0, start);
        assert!(all.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0));
        let end = all.last().map(|(at, length)| at + length).unwrap();
        assert!(end <= start + geometry.meta_bytes);
        assert!(external || end == disk_size);
    }
}

#[test]
fn external_metadata_keeps_its_place_when_the_data_disk_grows() {
    let at = |disk_size| Placement::External { disk_size, meta_size: 64 * MIB };
    let geometry = Geometry::new(at(1 << 30), 512, 1, 5).unwrap();
    let (superblock, _) = format_new(&geometry, &new_disk()).unwrap();
    assert_eq!(Geometry::of(at(2 << 30), &superblock), Ok(geometry));
    let shrunk = Geometry::of(at(1 << 29), &superblock);
    assert_eq!(shrunk, Err(MetaError::DataSize { recorded: 1 << 30, actual: 1 << 29 }));
}

#[test]
fn dump_shows_every_field_and_get_gi_has_drbds_shape() {
    let (image, _) = busy();
    let mut meta = image.load().unwrap();
    let text = dump(&meta, &image.geometry);
    for line in [
        "resource \"r0\";",
        "current-uuid 0x0000000000000004;",
        "flags 0x000000A0; # clean created-blank",
        "created-time 1795549964;",
        "    0 2;",
        "    192 64;",
        "# bits-set 67;",
        "# extents-hot 1;",
        "    seen-number 0;",
        "boot-id 07070707070707070707070707070707;",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let first = "0000000000000004:0000000000000000:0000000000000000:0000000000000000";
    assert_eq!(get_gi(&meta, 0), format!("{first}:0:0:0:0:0:0:0"));
    assert_eq!(get_gi(&meta, 1), format!("{first}:0:0:0:0:1:0:0"));
    meta.superblock.flags = DeviceFlags::CONSISTENT
        | DeviceFlags::WAS_UP_TO_DATE
        | DeviceFlags::PRIMARY_IND
        | DeviceFlags::SURVIVED;
    assert_eq!(get_gi(&meta, 0), format!("{first}:1:1:1:1:0:0:1"));
    let shown = show_gi(&meta, 0);
    assert!(shown.contains(&format!("{first}:1:1:1:1:0:0:1\n")), "{shown}");
    assert!(shown.contains("flags: Primary, UpToDate, just created\nmeta-data: need apply-al\n"));
    let carets = shown.lines().find(|line| line.trim_start().starts_with('^')).unwrap();
    assert_eq!(carets.find('^'), Some(first.len() + 1), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bitmap_pages_round_trip(words in proptest::collection::vec(any::<u64>(), PAGE_WORDS)) {
        let (mut image, mut superblock) = Image::new(640 * MIB / 4, 4096, 1);
        let pages = vec![
            BitmapPage { index: 0, words: words.clone() },
            BitmapPage { index: 1, words: words.clone() },
        ];
        image.apply(&MetaOp::Bitmap { slot: 0, epoch: 3, pages });
        superblock.peers[0].bitmap_state = BitmapState::Pages;
        superblock.peers[0].bitmap_epoch = 3;
        image.apply(&MetaOp::Superblock(Box::new(superblock)));
        let mut set = Vec::new();
        for (first, count) in image.load().unwrap().slots[0].set.runs() {
            set.extend(first..first + count);
        }
        let bit = |block: u64| {
            let word = words[usize::try_from(block % PAGE_BITS / 64).unwrap()];
            word >> (block % 64) & 1 == 1
        };
        let expected: Vec<u64> = (0..image.geometry.blocks()).filter(|b| bit(*b)).collect();
        prop_assert_eq!(set, expected);
    }

    #[test]
    fn log_blocks_and_seen_numbers_round_trip(
        words in proptest::collection::vec(any::<u64>(), 60), number in 0..=COUNTER_BELIEVED,
    ) {
        let geometry = Geometry::new(internal(20 << 30), 512, 2, number).unwrap();
        let block = AlBlock { index: 1, number, words };
        prop_assert_eq!(decode_al(&geometry, 1, &encode_al(&geometry, &block)), Some(block));
        let seen = encode_seen(&geometry, 1, 0, number);
        prop_assert_eq!(decode_seen(&geometry, 1, 0, &seen), Some(number));
        prop_assert_eq!(decode_seen(&geometry, 1, 1, &seen), None);
        prop_assert_eq!(decode_seen(&geometry, 0, 0, &seen), None);
    }

    #[test]
    fn superblocks_round_trip(
        name in "[a-zA-Z0-9._-]{1,127}", found in "\\PC{0,60}", ids in any::<[u64; 9]>(),
        slots in 1usize..=31, flags in 0..=DeviceFlags::ALL, node in 0u8..32,
    ) {
        let (_, mut superblock) = Image::new(MIB, 512, 1);
        superblock.resource = name;
        superblock.created_found = printable(&found, 255);
        superblock.sequence = ids[0] >> 3;
        superblock.device_uuid = ids[1];
        superblock.current_uuid = ids[2];
        superblock.history[31] = ids[3];
        superblock.number = ids[4] >> 3;
        superblock.clean_size = ids[5] / 4096 * 4096;
        superblock.flags = flags;
        superblock.node_id = node;
        let peer = PeerSlot {
            node_id: Some(node),
            bitmap_uuid: ids[6],
            bitmap_state: BitmapState::Pages,
            bitmap_epoch: flags,
            seen_number: ids[7],
            device_uuid: ids[8],
        };
        superblock.peers = vec![peer; slots];
        for copy in 0..2 {
            let block = encode_superblock(&superblock, copy);
            let back = decode_superblock(&block, copy);
            prop_assert_eq!(back.as_ref(), Ok(&superblock));
        }
    }

    #[test]
    fn random_bytes_are_never_metadata_and_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 4096),
    ) {
        let geometry = Geometry::new(internal(20 << 30), 512, 2, 1).unwrap();
        prop_assert!(decode_superblock(&bytes, 0).is_err());
        prop_assert!(decode_al(&geometry, 0, &bytes[..512]).is_none());
        prop_assert!(decode_page(&geometry, 0, 0, 0, &bytes).is_none());
    }
}
