//! What stands at the edge of a range, and what the words say.

use std::collections::BTreeMap;

use super::*;

#[test]
fn an_identifier_stands_in_the_history_once() {
    let (_, mut superblock) = Image::new(MIB, 512, 1);
    for uuid in [0, 1, JUST_CREATED, JUST_CREATED | 1] {
        superblock.remember(uuid);
    }
    assert_eq!(superblock.history, [0; HISTORY], "none of them names data");
    for uuid in [0x10, 0x20, 0x30] {
        superblock.remember(uuid);
    }
    assert_eq!(superblock.history[..4], [0x30, 0x20, 0x10, 0]);
    superblock.remember(0x21);
    assert_eq!(superblock.history[..4], [0x21, 0x30, 0x10, 0], "moved; the lowest bit is a remark");
    for uuid in 0x100..0x140 {
        superblock.remember(uuid * 2);
    }
    assert_eq!((superblock.history[0], superblock.history[31]), (0x27E, 0x240));
}

#[test]
fn a_slot_that_is_forgotten_is_free_and_its_base_is_in_the_history() {
    let (_, mut superblock) = Image::new(MIB, 512, 2);
    superblock.peers[0] = PeerSlot {
        node_id: Some(0),
        bitmap_uuid: 0x20,
        bitmap_state: BitmapState::Pages,
        bitmap_epoch: u32::MAX,
        seen_number: 7,
        device_uuid: 9,
    };
    superblock.forget_slot(2);
    assert_eq!(superblock.history[0], 0, "there is no such slot");
    superblock.forget_slot(0);
    let free = PeerSlot { bitmap_epoch: 1, seen_number: 7, ..PeerSlot::free() };
    assert_eq!((&superblock.peers[0], superblock.history[0]), (&free, 0x20));
}

#[test]
fn a_block_of_one_kind_is_not_taken_for_another() {
    let (image, _) = busy();
    let geometry = &image.geometry;
    let seen = encode_seen(geometry, 0, 0, 5);
    assert_eq!(decode_seen(geometry, 0, 0, &seen), Some(5));
    assert_eq!(decode_al(geometry, 0, &seen), None, "place and CRC are right");
}

#[test]
fn hot_extents_are_told_as_runs() {
    let (image, _) = busy();
    let mut meta = image.load().unwrap();
    meta.hot_extents = vec![3, 4, 5, 9];
    let text = dump(&meta, &image.geometry);
    assert!(text.contains("activity-log {\n    3 3;\n    9 1;\n}\n# extents-hot 4;"), "{text}");
    assert!(!text.contains("damaged-pages"));
    meta.slots[0].damaged_pages = 1;
    assert!(dump(&meta, &image.geometry).contains("    # damaged-pages 1\n"));
}

#[test]
fn show_gi_says_what_the_flags_mean() {
    use DeviceFlags as F;
    let (image, _) = busy();
    let mut meta = image.load().unwrap();
    let up = F::CONSISTENT | F::WAS_UP_TO_DATE | F::SURVIVED;
    for (flags, crashed, words) in [
        (0, 0, "Secondary, Inconsistent"),
        (F::WAS_UP_TO_DATE | F::SURVIVED, 0, "Secondary, Inconsistent"),
        (F::CONSISTENT, 0, "Secondary, Consistent"),
        (F::CONSISTENT | F::OUTDATED, 0, "Secondary, Outdated"),
        (F::CONSISTENT | F::SURVIVED, 0, "Secondary, Consistent"),
        (F::CONSISTENT | F::WAS_UP_TO_DATE, 0, "Secondary, Consistent"),
        (up, 0, "Secondary, UpToDate"),
        (up | F::IN_DOUBT, 0, "Secondary, Consistent"),
        (up | F::PRIMARY_IND | F::CLEAN, 0, "Primary, UpToDate"),
        (up | F::PRIMARY_IND, 1, "Primary, UpToDate"),
        (up | F::CLEAN, 0, "Secondary, UpToDate"),
    ] {
        meta.superblock.flags = flags;
        assert!(get_gi(&meta, 0).ends_with(&format!(":{crashed}")), "{flags:X}");
        let shown = show_gi(&meta, 0);
        let clean = if flags & F::CLEAN != 0 { "clean" } else { "need apply-al" };
        let expected = format!("flags: {words}, just created\nmeta-data: {clean}\nzero size");
        assert!(shown.contains(&expected), "{flags:X} {shown}");
    }
    (meta.superblock.effective_size, meta.superblock.current_uuid) = (8192, 0x10);
    let shown = show_gi(&meta, 0);
    assert!(shown.contains("UpToDate\nmeta-data: clean\nlast agreed size: 8192 bytes"), "{shown}");
}

#[test]
fn every_flag_is_a_bit_of_its_own() {
    use DeviceFlags as F;
    let flags = [
        F::CONSISTENT,
        F::WAS_UP_TO_DATE,
        F::PRIMARY_IND,
        F::SURVIVED,
        F::OUTDATED,
        F::CLEAN,
        F::PREALLOCATED,
        F::CREATED_BLANK,
        F::SIZE_USED,
        F::INVALIDATED,
        F::VERIFY_MARKS,
        F::LOSS_BITS,
        F::STANDS_IN,
        F::IN_DOUBT,
        F::FORCED_BLANK,
    ];
    assert!(flags.iter().enumerate().all(|(bit, flag)| *flag == 1u32 << bit));
}

#[test]
fn a_text_that_was_found_is_cut_at_a_character() {
    assert_eq!(printable("ab\u{f6}\u{1b}c", 4), "ab\u{f6}");
    assert_eq!(printable("ab\u{f6}\u{1b}c", 6), "ab\u{f6}?c");
    let geometry = Geometry::new(internal(MIB), 512, 1, 7).unwrap();
    let disk = NewDisk { blank: false, preallocated: true, ..new_disk() };
    let (superblock, _) = format_new(&geometry, &disk).unwrap();
    assert_eq!(superblock.flags, DeviceFlags::CLEAN | DeviceFlags::PREALLOCATED);
}

#[test]
fn the_smallest_and_the_largest_disks_fit() {
    assert_eq!(internal(256 << 10).superblock_offsets(), Ok([252 << 10, 0]));
    assert!(internal(1 << 50).superblock_offsets().is_ok());
    assert!(internal((1 << 50) + 1).superblock_offsets().is_err());
    for disk_size in [4096, 64 * MIB] {
        let need = Geometry::external_bytes(disk_size, 512, 3).unwrap();
        let external = |meta_size| Placement::External { disk_size, meta_size };
        let geometry = Geometry::new(external(need), 512, 3, 7).unwrap();
        assert_eq!((geometry.meta_bytes, geometry.data_size), (need, disk_size));
        let have = need - 1;
        let small = Err(MetaError::TooSmall { have, need });
        assert_eq!(Geometry::new(external(have), 512, 3, 7), small);
        let (superblock, _) = format_new(&geometry, &new_disk()).unwrap();
        assert_eq!(Geometry::of(external(need), &superblock), Ok(geometry));
    }
    for disk_size in [0, 4095] {
        let placement = Placement::External { disk_size, meta_size: MIB };
        let small = Err(MetaError::TooSmall { have: 0, need: 4096 });
        assert_eq!(Geometry::new(placement, 512, 1, 7), small);
    }
}

#[test]
fn a_place_that_is_too_small_by_now_is_told_of_external_metadata_only() {
    let (image, _) = busy();
    assert_eq!(grown(&image.geometry, internal(256 << 10)), Ok(None));
    let placement = |disk_size| Placement::External { disk_size, meta_size: MIB };
    let old = Geometry::new(placement(MIB), 512, 1, 7).unwrap();
    assert!(matches!(grown(&old, placement(1 << 40)), Err(MetaError::TooSmall { .. })));
}

#[test]
fn the_newer_copy_counts_whichever_it_is_and_the_other_one_is_repaired() {
    let (image, superblock) = busy();
    for (newer, older) in [(0, 1), (1, 0)] {
        let mut image = Image { bytes: image.bytes.clone(), geometry: image.geometry };
        let next = Superblock { sequence: 9, ..superblock.clone() };
        let place = |copy: usize| usize::try_from(image.geometry.superblocks[copy]).unwrap();
        let (newer_at, older_at) = (place(newer), place(older));
        let bytes = encode_superblock(&next, u8::try_from(newer).unwrap());
        image.bytes[newer_at..newer_at + 4096].copy_from_slice(&bytes);
        let repair_and_read = |image: &mut Image| {
            assert_eq!(image.load().unwrap().superblock.sequence, 9);
            let stages = repair(&image.geometry, &mut image.reader()).unwrap();
            image.write(&stages);
            assert_eq!(repair(&image.geometry, &mut image.reader()), Ok(Vec::new()));
        };
        repair_and_read(&mut image);
        image.bytes[older_at] ^= 1;
        let notes = image.load().unwrap().notes;
        let (bad, good) = (["A", "B"][older], ["A", "B"][newer]);
        let start = format!("superblock copy {bad} is damaged (");
        assert!(notes[0].starts_with(&start), "{notes:?}");
        assert!(notes[0].ends_with(&format!("), copy {good} counts")), "{notes:?}");
        repair_and_read(&mut image);
    }
}

#[test]
fn a_superblock_of_another_layout_is_not_loaded() {
    let (image, _) = busy();
    let load = |geometry: Geometry| load(&geometry, &mut image.reader(), BOOT);
    let same = image.geometry;
    assert!(load(same).is_ok());
    for other in [
        Geometry { al_block_size: 4096, ..same },
        Geometry { max_peers: 1, ..same },
        Geometry { device_uuid: 1, ..same },
    ] {
        assert!(matches!(load(other), Err(MetaError::Invalid(_))), "{other:?}");
    }
    let smaller = Geometry { data_size: same.data_size - 4096, ..same };
    assert!(matches!(load(smaller), Err(MetaError::DataSize { .. })));
}

/// A large disk: what was written is there, and elsewhere are zeroes.
#[derive(Default)]
struct Sparse(BTreeMap<u64, bytes::Bytes>);

impl Sparse {
    fn write(&mut self, stages: impl IntoIterator<Item = Stage>) {
        for (offset, bytes) in stages.into_iter().flat_map(|stage| stage.writes) {
            assert!(!bytes.is_empty() && bytes.len().is_multiple_of(512));
            self.0.insert(offset, bytes);
        }
    }

    /// What is loaded, and the most bytes that were read at once.
    fn load(&self, geometry: &Geometry) -> (LoadedMeta, usize) {
        let mut longest = 0;
        let mut read = |offset: u64, length: usize| {
            assert!(offset.is_multiple_of(512) && length.is_multiple_of(512));
            let end = geometry.data_size + geometry.meta_bytes;
            assert!(offset + length as u64 <= end, "{length} bytes at {offset}");
            longest = longest.max(length);
            let mut out = vec![0; length];
            for (at, bytes) in self.0.range(offset..offset + length as u64) {
                let at = usize::try_from(at - offset).unwrap();
                out[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Ok(out)
        };
        let meta = load(geometry, &mut read, BOOT).unwrap();
        (meta, longest)
    }
}

#[test]
fn a_large_bitmap_is_read_in_pieces_and_to_its_end() {
    let geometry = Geometry::new(internal(48 << 30), 512, 1, 7).unwrap();
    let (mut superblock, _) = format_new(&geometry, &new_disk()).unwrap();
    superblock.peers[0].bitmap_state = BitmapState::Pages;
    let epoch = superblock.peers[0].bitmap_epoch;
    let pages = (0..geometry.bitmap_pages).map(|index| {
        // Runs that go on over words and pages.
        let mut words = vec![0; PAGE_WORDS];
        (words[0], words[1], words[2]) = (u64::MAX, u64::MAX, 1);
        words[PAGE_WORDS - 1] = if index == 0 { 1 << 63 } else { 0 };
        BitmapPage { index, words }
    });
    let mut disk = Sparse::default();
    disk.write(stages(&geometry, &MetaOp::Bitmap { slot: 0, epoch, pages: pages.collect() }));
    disk.write(stages(&geometry, &MetaOp::Superblock(Box::new(superblock))));
    let (meta, longest) = disk.load(&geometry);
    let mut expected = vec![(0, 129), (PAGE_BITS - 1, 130)];
    expected.extend((2..u64::from(geometry.bitmap_pages)).map(|at| (at * PAGE_BITS, 129)));
    assert!(meta.slots[0].set.runs().eq(expected) && meta.slots[0].damaged_pages == 0);
    assert_eq!((longest, geometry.bitmap_pages), (1 << 20, 388), "a MiB at once, and the rest");
}

#[test]
fn a_large_log_is_read_in_pieces_and_to_its_end() {
    let geometry = Geometry::new(internal(40 << 40), 512, 1, 7).unwrap();
    let (mut superblock, _) = format_new(&geometry, &new_disk()).unwrap();
    superblock.peers[0].bitmap_state = BitmapState::AllClear;
    let (index, mut words) = (geometry.al_blocks - 1, vec![0; 60]);
    words[0] = 0b101;
    let blocks = vec![AlBlock { index, number: 1, words }];
    let mut disk = Sparse::default();
    disk.write(stages(&geometry, &MetaOp::ActivityLog { blocks }));
    disk.write(stages(&geometry, &MetaOp::Superblock(Box::new(superblock))));
    let (meta, longest) = disk.load(&geometry);
    assert!(longest == 1 << 20 && index > 2048, "a MiB at once, and the rest");
    let first = index * geometry.extents_per_block();
    // All of every other block, which are damaged.
    assert!(meta.hot_extents.into_iter().eq((0..first).chain([first, first + 2])));
}

#[test]
fn a_restore_puts_bits_and_extents_into_the_blocks_that_they_belong_to() {
    let geometry = Geometry::new(internal(16 << 30), 512, 1, 7).unwrap();
    let (mut superblock, _) = format_new(&geometry, &new_disk()).unwrap();
    superblock.peers[0].bitmap_state = BitmapState::Pages;
    let set = [(0, 1), (2 * PAGE_BITS + 5, 3)].into_iter().collect();
    let slot = LoadedSlot { set, damaged_pages: 0, seen_number: Some(4), seen_copy: 0 };
    let ascending = |runs: &[(u32, u32)]| -> Vec<u32> {
        runs.iter().flat_map(|(first, count)| *first..first + count).collect()
    };
    // Extents that were hot, the number, and what is hot then: a number that is not known is a block
    // that is damaged, the first one where none is hot as a whole. A block has 3840 extents.
    for (hot, number, expected) in [
        (vec![(5, 1), (3900, 2)], Some(9), ascending(&[(5, 1), (3900, 2)])),
        (vec![(5, 1), (3840, 256)], None, ascending(&[(5, 1), (3840, 256)])),
        (vec![(3000, 1000)], None, ascending(&[(0, 4000)])),
    ] {
        let (superblock, slots) = (superblock.clone(), vec![slot.clone()]);
        let dumped = Dumped { superblock, external: false, number, hot, slots };
        let mut disk = Sparse::default();
        disk.write(restore_stages(&geometry, &dumped));
        let (meta, _) = disk.load(&geometry);
        assert_eq!((meta.number, &meta.slots), (number, &dumped.slots));
        assert_eq!(meta.hot_extents, expected);
    }
}

#[test]
fn a_superblock_is_within_the_limits_of_its_layout() {
    use super::super::superblock::check;
    let (_, good) = Image::new(MIB, 512, 1);
    let allowed = |change: fn(&mut Superblock)| {
        let mut superblock = good.clone();
        change(&mut superblock);
        check(&superblock).is_ok()
    };
    assert!(allowed(|s| s.node_id = 31) && !allowed(|s| s.node_id = 32));
    assert!(allowed(|s| s.number = COUNTER_MAX) && !allowed(|s| s.number = COUNTER_MAX + 1));
    assert!(allowed(|s| s.clean_size = 8192) && !allowed(|s| s.clean_size = 8191));
    assert!(!allowed(|s| s.data_size = 0) && !allowed(|s| s.data_size += 1));
    assert!(allowed(|s| s.effective_size = s.data_size) && !allowed(|s| s.effective_size = 1));
    assert!(!allowed(|s| s.effective_size = s.data_size + 4096));
    assert!(!allowed(|s| s.peers.clear()) && !allowed(|s| s.peers.resize(32, PeerSlot::free())));
}

/// What is written next is one more: it must not be what the layout refuses.
#[test]
fn a_counter_that_is_read_can_be_counted_on() {
    let (_, good) = Image::new(MIB, 512, 1);
    let read = |sequence, number| {
        let block = encode_superblock(&Superblock { sequence, number, ..good.clone() }, 0);
        decode_superblock(&block, 0)
    };
    let refused = Err(CopyDamage::Content("a counter that no disk reaches"));
    let mut highest = read(COUNTER_BELIEVED, COUNTER_BELIEVED).unwrap();
    assert_eq!(read(COUNTER_BELIEVED + 1, 1), refused);
    assert_eq!(read(1, COUNTER_BELIEVED + 1), refused);
    (highest.sequence, highest.number) = (highest.sequence + 1, highest.number + 1);
    let _ = encode_superblock(&highest, 1);
    // In the blocks of their own, and in a dump.
    let (image, _) = busy();
    let geometry = &image.geometry;
    let log = |number| {
        let words = vec![0; (geometry.al_block_size as usize - 32) / 8];
        let block = encode_al(geometry, &AlBlock { index: 0, number, words });
        decode_al(geometry, 0, &block).map(|log| log.number)
    };
    assert_eq!((log(COUNTER_BELIEVED), log(COUNTER_BELIEVED + 1)), (Some(COUNTER_BELIEVED), None));
    let seen = |number| decode_seen(geometry, 0, 0, &encode_seen(geometry, 0, 0, number));
    assert_eq!(
        (seen(COUNTER_BELIEVED), seen(COUNTER_BELIEVED + 1)),
        (Some(COUNTER_BELIEVED), None)
    );
    let mut meta = image.load().unwrap();
    meta.superblock.peers[0].seen_number = COUNTER_BELIEVED + 1;
    meta.slots[0].seen_number = Some(COUNTER_BELIEVED + 1);
    assert!(parse_dump(&dump(&meta, geometry)).is_err());
}

/// Who holds the superblock in memory counts on it: an update with a sequence that the disk has had
/// would be lost.
#[test]
fn the_sequence_grows_with_every_superblock_of_a_move_and_by_no_more_than_is_said() {
    let external = |disk_size| Placement::External { disk_size, meta_size: MIB };
    let cases: [(Placement, Placement, &[u64]); 2] = [
        (internal(4 * MIB), internal(8 * MIB), &[13, 13]),
        (external(4 * MIB), external(8 * MIB), &[10, 10, 11, 11, 13, 13]),
    ];
    assert_eq!(MOVE_SEQUENCES, 4);
    for (before, after, expected) in cases {
        let old = Geometry::new(before, 512, 2, 7).unwrap();
        let (mut superblock, made) = format_new(&old, &new_disk()).unwrap();
        superblock.sequence = 9;
        let mut disk = Sparse::default();
        disk.write(made);
        disk.write(stages(&old, &MetaOp::Superblock(Box::new(superblock))));
        let new = grown(&old, after).unwrap().unwrap();
        let moves = move_stages(&old, &new, disk.load(&old).0);
        let written = moves.iter().flat_map(|stage| &stage.writes).filter_map(|(offset, bytes)| {
            let copy = new.superblocks.iter().position(|place| place == offset)?;
            decode_superblock(bytes, u8::try_from(copy).unwrap()).ok()
        });
        let sequences: Vec<u64> = written.map(|superblock| superblock.sequence).collect();
        assert_eq!(sequences, expected);
    }
}

/// What is zeroed at an older place is nothing that the newer metadata uses.
#[test]
fn an_older_place_that_the_newer_metadata_reaches_into_is_left_alone() {
    let (image, before) = busy();
    let old_end = image.bytes.len() as u64;
    for (reach, left) in [(0, true), (4096, false)] {
        let disk_size = old_end + image.geometry.meta_bytes - reach;
        let geometry =
            Geometry::new(internal(disk_size), 512, 2, image.geometry.device_uuid).unwrap();
        assert_eq!(geometry.data_size, old_end - reach);
        let (mut superblock, _) = format_new(&geometry, &new_disk()).unwrap();
        superblock.sequence = before.sequence + 1;
        let mut disk = Image { bytes: image.bytes.clone(), geometry };
        disk.bytes.resize(usize::try_from(disk_size).unwrap(), 0);
        disk.apply(&MetaOp::Superblock(Box::new(superblock)));
        let found = locate(disk_size, &[old_end], false, &mut disk.reader()).unwrap();
        assert_eq!(found.placement, internal(disk_size));
        assert_eq!(found.left, left.then_some(Left::Metadata(image.geometry)));
        // Of which the superblocks were being zeroed.
        for place in image.geometry.superblocks {
            disk.bytes[usize::try_from(place).unwrap() + 600] ^= 1;
        }
        let found = locate(disk_size, &[old_end], false, &mut disk.reader()).unwrap();
        assert_eq!(found.left, left.then_some(Left::Superblocks(image.geometry.superblocks)));
    }
}
