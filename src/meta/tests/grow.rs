//! Disks that grow: power cuts at every write of a move.

use super::restore::{cut, torn};
use super::*;

const OLD: u64 = 4 * MIB;
const NEW: u64 = 5 * MIB;

/// What a superblock says, but for how often it was written and where.
fn said(meta: &LoadedMeta) -> LoadedMeta {
    let mut meta = meta.clone();
    (meta.superblock.sequence, meta.superblock.data_size) = (0, 0);
    meta.notes.clear();
    for (slot, peer) in meta.slots.iter_mut().zip(&meta.superblock.peers) {
        if peer.bitmap_state == BitmapState::AllSet {
            // Of however many there are.
            slot.set = SetBlocks::new();
        }
    }
    meta
}

/// A disk in use that the administrator has made longer; the data area is filled.
fn grown_disk() -> (Image, LoadedMeta) {
    let (mut image, mut superblock) = busy();
    superblock.effective_size = image.geometry.data_size;
    superblock.flags |= DeviceFlags::SIZE_USED;
    superblock.sequence = 3;
    image.apply(&MetaOp::Superblock(Box::new(superblock)));
    let data = usize::try_from(image.geometry.data_size).unwrap();
    image.bytes[..data].fill(0xDA);
    let meta = image.load().unwrap();
    image.bytes.resize(usize::try_from(NEW).unwrap(), 0);
    (image, meta)
}

#[test]
fn a_power_cut_in_a_move_leaves_the_old_place_or_the_new_one_and_all_of_the_data() {
    let (image, before) = grown_disk();
    let old = image.geometry;
    let new = grown(&old, internal(NEW)).unwrap().unwrap();
    let stages = move_stages(&old, &new, before.clone());
    let (mut was, mut is, mut left_over) = (0, 0, 0);
    let whole = image.bytes.clone();
    let zeroes = vec![0; usize::try_from(NEW).unwrap()];
    cut(&image, &stages, |image, number| {
        let data = usize::try_from(old.data_size).unwrap();
        assert!(image.bytes[..data] == whole[..data], "stage {number}");
        let found = locate(NEW, &[OLD], false, &mut image.reader()).unwrap();
        let geometry = Geometry::of(found.placement, &found.found.superblock).unwrap();
        let meta = load(&geometry, &mut image.reader(), BOOT).unwrap();
        assert_eq!(said(&meta), said(&before), "stage {number}");
        if geometry == old {
            was += 1;
            assert_eq!(found.left, None);
            return;
        }
        is += 1;
        assert_eq!(geometry, new);
        // What an attach does then.
        let mut image = Image { bytes: image.bytes.clone(), geometry };
        match found.left {
            Some(Left::Metadata(geometry)) => {
                image.write(&zeroed(&geometry).collect::<Vec<_>>());
                left_over += 1;
            }
            Some(Left::Superblocks(places)) => image.write(&[zeroed_end(places)]),
            None => {}
        }
        let again = locate(NEW, &[OLD], false, &mut image.reader()).unwrap();
        assert_eq!(again.left, None);
        let range = usize::try_from(old.data_size).unwrap()..usize::try_from(OLD).unwrap();
        assert!(image.bytes[range.clone()] == zeroes[range], "stage {number}");
    });
    assert!(was > 0 && is > 0 && left_over > 0, "{was} {is} {left_over}");
    let mut done = Image { bytes: whole, geometry: old };
    done.write(&stages);
    let range = usize::try_from(old.data_size).unwrap()..usize::try_from(OLD).unwrap();
    assert!(done.bytes[range.clone()] == zeroes[range], "the move itself leaves nothing");
}

#[test]
fn of_two_places_the_newest_superblock_counts_wherever_it_stands() {
    let (image, before) = grown_disk();
    let old = image.geometry;
    let new = grown(&old, internal(NEW)).unwrap().unwrap();
    let mut superblock = before.superblock.clone();
    let mut disk = Image { bytes: image.bytes.clone(), geometry: old };
    disk.write(&move_stages(&old, &new, before));
    // The disk was cut back, its metadata restored and used there; now it has grown again.
    let range = usize::try_from(old.data_size).unwrap()..usize::try_from(OLD).unwrap();
    disk.bytes[range.clone()].copy_from_slice(&image.bytes[range]);
    superblock.sequence += 10;
    disk.apply(&MetaOp::Superblock(Box::new(superblock)));
    let found = locate(NEW, &[OLD], false, &mut disk.reader()).unwrap();
    assert_eq!((found.placement, found.left), (internal(OLD), None));
}

#[test]
fn what_was_served_from_an_old_place_is_never_zeroed() {
    let (mut image, before) = grown_disk();
    let old = image.geometry;
    let new = grown(&old, internal(NEW)).unwrap().unwrap();
    let stale = image.bytes.clone();
    let mut superblock = before.superblock.clone();
    image.write(&move_stages(&old, &new, before));
    image.geometry = new;
    superblock.sequence += 10;
    (superblock.data_size, superblock.effective_size) = (new.data_size, new.data_size);
    image.apply(&MetaOp::Superblock(Box::new(superblock)));
    // A client has written the image of a disk, or the pieces of one.
    let range = usize::try_from(old.data_size).unwrap()..usize::try_from(OLD).unwrap();
    for damaged in [false, true] {
        image.bytes[range.clone()].copy_from_slice(&stale[range.clone()]);
        if damaged {
            for at in old.superblocks {
                image.flip(usize::try_from(at).unwrap() * 8 + 160);
            }
        }
        let found = locate(NEW, &[OLD], false, &mut image.reader()).unwrap();
        assert_eq!((found.placement, found.left), (internal(NEW), None));
    }
}

#[test]
fn external_metadata_is_laid_out_anew_at_every_power_cut() {
    let old_disk = Placement::External { disk_size: 16 << 30, meta_size: 8 * MIB };
    let new_disk_size = 144u64 << 30;
    let bytes = Geometry::external_bytes(new_disk_size, 512, 2).unwrap();
    let new_disk = Placement::External { disk_size: new_disk_size, meta_size: bytes };
    let old = Geometry::new(old_disk, 512, 2, 77).unwrap();
    let (mut superblock, stages) = format_new(&old, &super::new_disk()).unwrap();
    let mut image = Image { bytes: vec![0; usize::try_from(bytes).unwrap()], geometry: old };
    image.write(&stages);
    superblock.sequence = 2;
    superblock.effective_size = 16 << 30;
    superblock.flags |= DeviceFlags::SIZE_USED;
    for (index, node) in [(0, 0), (1, 4)] {
        superblock.peers[index].node_id = Some(node);
        superblock.peers[index].bitmap_epoch = 3;
        superblock.peers[index].bitmap_state = BitmapState::Pages;
        let pages = (0..old.bitmap_pages).map(|page| {
            let mut words = vec![0; PAGE_WORDS];
            words[0] = u64::from(page) + 5 + u64::from(node);
            BitmapPage { index: page, words }
        });
        let (slot, pages) = (u8::try_from(index).unwrap(), pages.collect());
        image.apply(&MetaOp::Bitmap { slot, epoch: 3, pages });
    }
    let mut words = vec![0; 60];
    words[1] = 2;
    image.apply(&MetaOp::ActivityLog { blocks: vec![AlBlock { index: 0, number: 9, words }] });
    image.apply(&MetaOp::Superblock(Box::new(superblock)));
    let before = image.load().unwrap();
    let new = grown(&old, new_disk).unwrap().unwrap();
    assert!(new.bitmap_offset > old.bitmap_offset, "everything shifts");
    let stages = move_stages(&old, &new, before.clone());
    let (mut all_set, mut is) = (0, 0);
    let judge = |image: &Image, number: usize| {
        let found = read_superblock(new_disk, &mut image.reader()).unwrap();
        let geometry = Geometry::of(new_disk, &found.superblock).unwrap();
        let meta = load(&geometry, &mut image.reader(), BOOT).unwrap();
        assert_eq!(meta.hot_extents, before.hot_extents);
        assert_eq!(meta.number, before.number);
        for (slot, was) in meta.slots.iter().zip(&before.slots) {
            assert_eq!(slot.damaged_pages, 0, "stage {number}");
            assert_eq!(slot.seen_number, was.seen_number);
            if slot.set == was.set {
                is += 1;
            } else {
                all_set += 1;
                assert_eq!(
                    (slot.set.runs().count(), slot.set.runs().next().unwrap().0),
                    (1, 0),
                    "stage {number}"
                );
            }
        }
        (said(&meta), meta.superblock.data_size)
    };
    // The bitmaps are large here: of each stage all, the first write torn, the last one missing.
    let mut judge = judge;
    for (number, stage) in stages.iter().enumerate() {
        let (offset, bytes) = &stage.writes[0];
        let at = usize::try_from(*offset).unwrap();
        let old = image.bytes[at..at + bytes.len()].to_vec();
        for piece in torn(&old, bytes) {
            image.bytes[at..at + piece.len()].copy_from_slice(&piece);
            judge(&image, number);
        }
        image.write(std::slice::from_ref(stage));
        let after = judge(&image, number);
        if number + 1 == stages.len() {
            assert_eq!(after, (said(&before), new_disk_size));
        }
    }
    assert!(all_set > 0 && is > 0, "{all_set} {is}");
}

#[test]
fn too_little_growth_is_told_with_what_is_missing() {
    let (image, _) = busy();
    let old = image.geometry;
    assert_eq!(grown(&old, internal(OLD)), Ok(None));
    assert_eq!(grown(&old, internal(OLD / 2)), Ok(None));
    let Err(MetaError::LittleGrowth { missing }) = grown(&old, internal(OLD + 8192)) else {
        panic!("the places would overlap");
    };
    let new = grown(&old, internal(OLD + 8192 + missing)).unwrap().unwrap();
    assert_eq!(new.data_size, OLD);
    assert!(matches!(
        grown(&old, internal(OLD + 8192 + missing - 4096)),
        Err(MetaError::LittleGrowth { missing: 4096 })
    ));
}

#[test]
fn two_disks_on_one_are_not_told_apart_by_luck() {
    let (image, _) = grown_disk();
    let (other, _) = Image::new(NEW, 512, 1);
    let mut both = Image { bytes: other.bytes, geometry: other.geometry };
    let old = usize::try_from(OLD).unwrap();
    both.bytes[..old].copy_from_slice(&image.bytes[..old]);
    for at in both.geometry.superblocks {
        both.flip(usize::try_from(at).unwrap() * 8 + 160);
    }
    // Damaged at the end: the old one, as in a move whose first write was torn.
    let found = locate(NEW, &[OLD], false, &mut both.reader()).unwrap();
    assert_eq!(found.placement, internal(OLD));
    let (other, _) = Image::new(NEW, 512, 1);
    both.bytes[old..].copy_from_slice(&other.bytes[old..]);
    let mut superblock = read_superblock(internal(NEW), &mut both.reader()).unwrap().superblock;
    both.geometry = other.geometry;
    let found = locate(NEW, &[OLD], false, &mut both.reader());
    assert!(found.is_ok_and(|found| found.placement == internal(OLD)
        || superblock.device_uuid == image.geometry.device_uuid));
    superblock.device_uuid = 5;
    both.geometry.device_uuid = 5;
    both.apply(&MetaOp::Superblock(Box::new(superblock)));
    let found = locate(NEW, &[OLD], false, &mut both.reader());
    assert!(matches!(found, Err(MetaError::TwoDisks { older: OLD, .. })), "{found:?}");
}
