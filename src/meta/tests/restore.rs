//! Dumps taken back, power cuts at every write, hostile texts.

use super::*;

/// A disk with random contents in everything that a dump tells.
fn arbitrary() -> impl Strategy<Value = Image> {
    let words = || proptest::collection::vec(prop_oneof![Just(0), any::<u64>()], PAGE_WORDS);
    let numbers = (any::<u32>(), any::<u32>(), 0u64..1000, 0u64..1000, 0u8..4, any::<u64>());
    (numbers, words(), 0u32..3, "[ -~\u{e9}\u{200b}]{1,40}", 0u32..1 << 10).prop_map(
        |((sequence, time, log, seen, damage, uuid), words, state, name, flags)| {
            let (mut image, mut superblock) = Image::new(MIB * 24, 512, 2);
            superblock.sequence = u64::from(sequence) + 2;
            superblock.generation_time = u64::from(time);
            superblock.resource = name.clone();
            superblock.created_found = name;
            superblock.flags = flags;
            superblock.current_uuid = uuid;
            superblock.history[5] = uuid.rotate_left(7);
            superblock.number = log / 2;
            superblock.effective_size = image.geometry.data_size / 2 / 4096 * 4096;
            superblock.clean_size = u64::from(time) * 4096;
            superblock.clean_digest = sequence;
            let slot = &mut superblock.peers[0];
            slot.node_id = Some(0);
            slot.bitmap_uuid = uuid.rotate_left(9);
            slot.device_uuid = uuid.rotate_left(20);
            slot.bitmap_epoch = time;
            slot.seen_number = seen / 3;
            slot.bitmap_state =
                [BitmapState::AllClear, BitmapState::AllSet, BitmapState::Pages][state as usize];
            let pages = vec![BitmapPage { index: 0, words: words.clone() }];
            image.apply(&MetaOp::Bitmap { slot: 0, epoch: time, pages });
            let words = words[..60].to_vec();
            let blocks = vec![AlBlock { index: 0, number: log, words }];
            image.apply(&MetaOp::ActivityLog { blocks });
            image.apply(&MetaOp::SeenNumber { slot: 0, copy: 0, number: seen });
            let number = if damage & 1 == 0 { seen.saturating_sub(1) } else { seen + 1 };
            image.apply(&MetaOp::SeenNumber { slot: 0, copy: 1, number });
            image.apply(&MetaOp::Superblock(Box::new(superblock)));
            if damage & 2 == 2 {
                for offset in [image.geometry.al_offset, image.geometry.bitmap_offset] {
                    image.flip(usize::try_from(offset).unwrap() * 8 + 3);
                }
            }
            image
        },
    )
}

/// The lines that a restore takes.
fn taken(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).collect()
}

/// Bytes of the metadata on an image with what a dump says.
fn restored(text: &str, mut image: Image) -> Image {
    let mut dumped = parse_dump(text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
    let size = image.bytes.len() as u64;
    image.geometry = dumped.place(internal(size), 512).unwrap();
    let stages: Vec<Stage> = restore_stages(&image.geometry, &dumped).collect();
    image.write(&stages);
    image
}

fn text_of(image: &Image) -> String {
    let mut meta = image.load().unwrap();
    // The loader puts the current boot in.
    let read = read_superblock(internal(image.bytes.len() as u64), &mut image.reader()).unwrap();
    meta.superblock.boot_id = read.superblock.boot_id;
    dump(&meta, &image.geometry)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_dump_that_is_restored_dumps_the_same(image in arbitrary()) {
        let before = image.load().unwrap();
        let text = text_of(&image);
        let size = image.bytes.len();
        let blank = Image { bytes: vec![0; size], geometry: image.geometry };
        for target in [blank, image] {
            let image = restored(&text, target);
            let mut after = image.load().unwrap();
            let again = text_of(&image);
            prop_assert_eq!(taken(&again), taken(&text));
            if before.notes.is_empty() {
                prop_assert_eq!(&again, &text);
            }
            after.notes.clone_from(&before.notes);
            for (one, other) in after.slots.iter_mut().zip(&before.slots) {
                one.damaged_pages = other.damaged_pages;
            }
            prop_assert_eq!(&after, &before);
        }
    }

    /// An edited text is refused, or what it says is within the limits of the layout.
    #[test]
    fn a_text_that_somebody_has_changed_never_panics(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..4),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let (image, _) = busy();
        let mut text: Vec<char> = text_of(&image).chars().collect();
        for (at, with) in edits {
            let at = at.index(text.len());
            text[at] = with;
        }
        if cuts {
            text.truncate(cut.index(text.len()));
        }
        let text: String = text.into_iter().collect();
        if let Ok(mut dumped) = parse_dump(&text)
            && let Ok(geometry) = dumped.place(internal(4 * MIB), 512)
        {
            let mut image = Image { bytes: vec![0; 4 << 20], geometry };
            let stages: Vec<Stage> = restore_stages(&geometry, &dumped).collect();
            image.write(&stages);
            prop_assert!(image.load().is_ok());
        }
    }
}

#[test]
fn texts_that_cannot_be_are_refused_with_their_line() {
    let (image, _) = busy();
    let text = text_of(&image);
    for (from, to, line, what) in [
        ("version \"tandem-", "version \"drbd-", 1, "this program takes"),
        ("node-id 1;", "node-id 32;", 0, "node id"),
        ("node-id 1;", "node-id -1;", 0, "no number"),
        ("max-peers 2;", "max-peers 0;", 0, "1 to 31"),
        ("max-peers 2;", "max-peers 3;", 0, "expected"),
        ("meta-disk internal;", "meta-disk elsewhere;", 0, "meta-disk"),
        ("sequence 2;", "", 0, "\"sequence\" is expected"),
        ("sequence 2;", "sequence 99999999999999999999;", 0, "too large"),
        ("sequence 2;", "sequence 18446744073709551615;", 0, "a counter that no disk reaches"),
        ("number-with-log 41;", "number-with-log 18446744073709551615;", 0, "a disk reaches"),
        ("number-with-log 41;", "number-with-log 2305843009213693953;", 0, "a disk reaches"),
        ("sequence 2;", "\u{3000}sequence 2;", 0, "\"sequence\" is expected"),
        ("al-block-size 512;", "al-block-size 513;", 0, "512 or 4096"),
        ("flags 0x", "flags 0xF", 0, "flags"),
        ("bm-byte-per-bit 4096;", "bm-byte-per-bit 512;", 0, "bm-byte-per-bit"),
        ("    192 64;", "    3 64;", 0, "run"),
        ("    192 64;", "    192 99999999;", 0, "run"),
        ("    192 64;", "    192 0;", 0, "run"),
        ("    3 1;", "    2 1;", 0, "run"),
        ("    0 2;", "    0 4;", 0, "run"),
        ("    192 64;", "    18446744073709551615 1;", 0, "run"),
        ("    free;", "    node-id 0;", 0, "two slots"),
        ("    free;", "    node-id 1;", 0, "own node"),
        ("bitmap-state pages;", "bitmap-state all-clear;", 0, "as its bitmap-state says"),
        ("number-with-log 41;", "number-with-log soon;", 0, "number"),
        ("created-found \"blank\";", "created-found \"\\q\";", 0, "escape"),
        ("created-found \"blank\";", "created-found \"\\u{1b}\";", 0, "control"),
        ("created-found \"blank\";", "created-found \"blank;", 0, "without an end"),
        ("# extents-hot 1;", "activity-log", 0, "the end is expected"),
        ("data-size ", "data-size 2251799813685248; # ", 0, "sizes that no disk has"),
        ("data-size ", "data-size 1125899906842624; # ", 0, "the bitmap is not as"),
        ("effective-size 0;", "effective-size 8388608;", 0, "sizes that no disk has"),
        ("effective-size 0;", "effective-size 4097;", 0, "sizes that no disk has"),
        ("\nnumber 0;", "\nnumber 42;", 0, "less than number"),
        ("node-id 1;", "node-id +1;", 0, "no number"),
        ("sequence 2;", "sequence +99999999999999999999;", 0, "no number"),
        ("clean-digest 0x00000000;", "clean-digest 0x+1;", 0, "like 0x1F"),
        ("boot-id 0707", "boot-id 07", 0, "32 digits"),
        ("seen-block 1;", "seen-block 2;", 0, "seen numbers"),
        ("seen-number 0;", "seen-number 7;", 0, "seen numbers"),
    ] {
        assert!(text.contains(from), "{from} in\n{text}");
        let error = parse_dump(&text.replacen(from, to, 1)).unwrap_err();
        assert!(error.what.contains(what), "{from} -> {to}: {error}");
        assert!(line == 0 || error.line == line, "{error}");
    }
    for (from, to) in [
        ("number-with-log 41;", "number-with-log 0;"),
        ("number-with-log 41;", "number-with-log 2305843009213693952;"),
        ("created-found \"blank\";", "created-found \"a \\\"b\\\" \\\\ c\";"),
    ] {
        assert!(text.contains(from) && parse_dump(&text.replacen(from, to, 1)).is_ok(), "{to}");
    }
    let (largest, _) = Image::new(MIB, 512, PEERS_MAX);
    assert_eq!(parse_dump(&text_of(&largest)).unwrap().slots.len(), 31, "all but one of them free");
    assert_eq!(parse_dump("").unwrap_err().line, 1);
    assert_eq!(parse_dump("# nothing\n\nelse").unwrap_err().line, 3);
}

/// What a power cut may leave of one write: nothing, the first sectors, the last ones, all of it.
pub(super) fn torn(old: &[u8], new: &[u8]) -> Vec<Vec<u8>> {
    let half = new.len() / 2 / 512 * 512;
    let mut all = vec![old.to_vec(), new.to_vec()];
    for at in [half, 512.min(new.len())] {
        all.push([&new[..at], &old[at..]].concat());
        all.push([&old[..at], &new[at..]].concat());
    }
    all
}

/// Every image that a power cut may leave while stages are written: all of the stages before, and
/// of the one that was cut each write torn alone, with the others there or not.
pub(super) fn cut(image: &Image, stages: &[Stage], mut judge: impl FnMut(&Image, usize)) {
    let mut done = Image { bytes: image.bytes.clone(), geometry: image.geometry };
    for (number, stage) in stages.iter().enumerate() {
        for (index, (offset, bytes)) in stage.writes.iter().enumerate() {
            let at = usize::try_from(*offset).unwrap();
            let range = at..at + bytes.len();
            for others in [false, true] {
                let mut one = Image { bytes: done.bytes.clone(), geometry: done.geometry };
                if others {
                    let mut rest = stage.clone();
                    rest.writes.remove(index);
                    one.write(&[rest]);
                }
                for piece in torn(&done.bytes[range.clone()], bytes) {
                    one.bytes[range.clone()].copy_from_slice(&piece);
                    judge(&one, number);
                }
            }
        }
        done.write(std::slice::from_ref(stage));
    }
    judge(&done, stages.len());
}

#[test]
fn a_power_cut_in_a_restore_leaves_the_old_the_new_or_none() {
    let (image, superblock) = busy();
    let text = text_of(&image);
    let old = image.load().unwrap();
    // The same disk, later: other bits, other identifiers, the same epoch.
    let mut later = Image { bytes: image.bytes.clone(), geometry: image.geometry };
    let mut newer = superblock.clone();
    newer.sequence = 9;
    newer.current_uuid = 0x1234_5678_9ABC_DEF0;
    later.apply(&MetaOp::Bitmap {
        slot: 0,
        epoch: 9,
        pages: vec![BitmapPage { index: 0, words: vec![0; PAGE_WORDS] }],
    });
    later.apply(&MetaOp::ActivityLog {
        blocks: vec![AlBlock { index: 0, number: 77, words: vec![0; 60] }],
    });
    later.apply(&MetaOp::Superblock(Box::new(newer)));
    let now = later.load().unwrap();
    let mut dumped = parse_dump(&text).unwrap();
    let geometry = dumped.place(internal(4 * MIB), 512).unwrap();
    assert_eq!(geometry, later.geometry);
    let stages: Vec<Stage> = restore_stages(&geometry, &dumped).collect();
    let (mut was, mut none, mut is) = (0, 0, 0);
    cut(&later, &stages, |image, number| match image.load() {
        Err(_) => none += 1,
        Ok(mut meta) => {
            meta.notes.clear();
            if meta == now {
                was += 1;
            } else {
                assert_eq!(meta, old, "stage {number}");
                is += 1;
            }
        }
    });
    assert!(was > 0 && none > 0 && is > 0, "{was} {none} {is}");
}

#[test]
fn a_power_cut_in_a_create_never_leaves_fewer_bits_under_old_identifiers() {
    let (image, _) = busy();
    let old = image.load().unwrap();
    let geometry = Geometry::new(internal(4 * MIB), 512, 2, 0x4711).unwrap();
    let (superblock, stages) = format_new(&geometry, &new_disk()).unwrap();
    cut(&image, &stages, |image, number| {
        let found = read_superblock(internal(4 * MIB), &mut image.reader());
        let Ok(found) = found else { return };
        let geometry = Geometry::of(internal(4 * MIB), &found.superblock).unwrap();
        let meta = load(&geometry, &mut image.reader(), BOOT).unwrap();
        if meta.superblock == superblock {
            assert_eq!(meta.slots[0].set, SetBlocks::run(0, geometry.blocks()));
            return;
        }
        assert_eq!(meta.superblock, old.superblock, "stage {number}");
        assert_eq!(meta.slots[0].set, old.slots[0].set, "stage {number}");
        assert!(old.hot_extents.iter().all(|hot| meta.hot_extents.contains(hot)), "{number}");
    });
}

#[test]
fn a_seed_is_the_mirror_image_and_inconsistent() {
    let (mut image, mut superblock) = busy();
    superblock.flags = DeviceFlags::CONSISTENT | DeviceFlags::WAS_UP_TO_DATE;
    superblock.effective_size = image.geometry.data_size;
    (superblock.current_uuid, superblock.peers[0].bitmap_uuid) = (0x31, 0x21);
    superblock.peers[0].seen_number = 3;
    image.apply(&MetaOp::Superblock(Box::new(superblock.clone())));
    let dumped = parse_dump(&text_of(&image)).unwrap();
    let seed = |node| dumped.clone().seeded(node, 0xF00D, 7, [9; 16]);
    assert!(seed(1).is_err() && seed(2).is_err());
    let seed = seed(0).unwrap();
    let made = &seed.superblock;
    assert_eq!((made.node_id, made.device_uuid), (0, 0xF00D));
    // The generation that the bits of the slot start from; the remark of the role is not copied.
    assert_eq!(made.current_uuid, 0x20);
    assert_eq!(made.flags, 0);
    assert_eq!(made.peers[0].node_id, Some(1));
    assert_eq!(made.peers[0].device_uuid, superblock.device_uuid);
    assert_eq!((made.peers[0].bitmap_uuid, made.peers[0].seen_number), (0, 0));
    assert_eq!(made.peers[1].node_id, None);
    assert_eq!(seed.slots[1].set, SetBlocks::run(0, superblock.data_size / 4096));
    assert!(seed.slots[0].set.runs().eq([(0, 2), (3, 1), (192, 64)]));
    let mut new = dumped.clone();
    new.superblock.flags = 0;
    assert!(new.seeded(0, 1, 7, [9; 16]).is_err(), "of a disk that is no source");
}

#[test]
fn an_image_is_of_the_generation_that_its_seed_starts_from_or_of_a_later_one() {
    let (image, _) = busy();
    let mut seed = parse_dump(&text_of(&image)).unwrap();
    for (start, current, node, base, expected) in [
        (0x10, 0x11, None, 0, true),
        (0x11, 0x10, None, 0, true),
        (0x10, 0x20, Some(1), 0x11, true),
        (0x10, 0x20, Some(1), 0x30, false),
        (0x10, 0x20, Some(2), 0x10, false),
        (0x10, 0x20, None, 0x10, false),
        (1, 0, None, 0, false),
    ] {
        (seed.superblock.node_id, seed.superblock.current_uuid) = (1, start);
        let mut taken = seed.superblock.clone();
        taken.current_uuid = current;
        (taken.peers[0].node_id, taken.peers[0].bitmap_uuid) = (node, base);
        taken.peers[1].node_id = None;
        assert_eq!(seed.starts_from(&taken), expected, "{start:X} {current:X} {node:?} {base:X}");
    }
}

#[test]
fn a_dump_is_placed_where_the_exported_size_has_room() {
    let (image, _) = busy();
    let dumped = parse_dump(&text_of(&image)).unwrap();
    let size = image.geometry.data_size;
    let external = |disk_size| Placement::External { disk_size, meta_size: MIB };
    let place = |placement, effective: u64| {
        let mut dumped = dumped.clone();
        dumped.superblock.effective_size = effective;
        dumped.place(placement, 512).map(|geometry| {
            assert_eq!(dumped.external, geometry.external);
            assert_eq!(dumped.superblock.data_size, geometry.data_size);
            geometry.data_size
        })
    };
    assert_eq!(place(internal(4 * MIB), 0), Ok(size));
    assert_eq!(place(external(size), 0), Ok(size), "as large as it was");
    assert_eq!(place(external(size + MIB), size), Ok(size + MIB));
    assert_eq!(place(external(size - 4096), size - 4096), Ok(size - 4096));
    let actual = size - 4096;
    let refused = Err(MetaError::DataSize { recorded: size, actual });
    assert_eq!(place(external(actual), size), refused, "too small for what was exported");
    assert_eq!(place(external(actual), 0), refused, "nobody knows how much was");
    // External metadata keeps its size where its disk has grown meanwhile.
    let mut outside = dumped;
    outside.place(external(size), 512).unwrap();
    assert_eq!(outside.place(external(size + MIB), 512).unwrap().data_size, size);
}

/// Also about the sizes at which the bitmaps, or the log, grow by what two disks then differ in.
#[test]
fn the_size_of_a_disk_is_found_from_its_superblock() {
    let page = PAGE_BITS * 4096;
    let mut twice = 0;
    for (block, peers) in [(512, 1), (512, 31), (4096, 3)] {
        for edge in [MIB, 8 * MIB, page, 2 * page, 120 * page, 1 << 40] {
            for blocks in 0..200 {
                let size = edge + (blocks + u64::from(peers) * 2) * 4096
                    - 100 * 4096 * u64::from(edge > MIB);
                let Ok(geometry) = Geometry::new(internal(size), block, peers, 1) else { continue };
                let (superblock, _) = format_new(&geometry, &new_disk()).unwrap();
                let found = Geometry::disk_sizes_of(&superblock);
                assert!(found.contains(&size), "{block} {peers} {size}: {found:?}");
                twice += u32::from(found.len() > 1);
            }
        }
    }
    assert!(twice > 0, "some are of two sizes");
}
