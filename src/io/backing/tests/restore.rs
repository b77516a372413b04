//! Metadata wiped, restored and seeded on real files, with the power cut at every write.

use super::*;
use crate::meta::{Dumped, SetBlocks, Stage, parse_dump, restore_stages, wipe_superblocks};

impl Lab {
    fn restore_options(&self, force: bool) -> RestoreOptions {
        RestoreOptions {
            force,
            seed: None,
            wall_clock: 1_795_549_964,
            boot_id: BOOT,
            state_dir: self.path("state"),
            lock_wait: Duration::ZERO,
        }
    }

    pub(super) fn wipe(&self, path: &Path, force: bool) -> Result<Restored, CreateError> {
        wipe_md(path, &MetaDisk::Internal, &who(), &self.restore_options(force))
    }

    pub(super) fn restore(
        &self,
        path: &Path,
        text: &str,
        force: bool,
    ) -> Result<Restored, CreateError> {
        let options = self.restore_options(force);
        restore_md(path, &MetaDisk::Internal, &who(), dumped(text), &options)
    }

    /// A disk with everything in use.
    pub(super) fn busy(&self, name: &str) -> PathBuf {
        let disk = self.file(name, 16 * MIB);
        self.create(&disk).unwrap();
        let open = self.open(&disk).unwrap();
        let mut superblock = open.attached.meta.superblock.clone();
        superblock.sequence += 1;
        superblock.current_uuid = 0x5435_911C_ABE7_ED02;
        superblock.flags = DeviceFlags::CONSISTENT | DeviceFlags::WAS_UP_TO_DATE;
        superblock.effective_size = open.geometry().data_size;
        superblock.peers[0].node_id = Some(0);
        superblock.peers[0].bitmap_state = BitmapState::Pages;
        superblock.peers[0].bitmap_epoch = 3;
        let mut words = vec![0; crate::meta::PAGE_WORDS];
        words[2] = 0b111;
        let page = crate::meta::BitmapPage { index: 0, words };
        let pages = MetaOp::Bitmap { slot: 0, epoch: 3, pages: vec![page] };
        let op = MetaOp::Superblock(Box::new(superblock));
        for op in [pages, op] {
            open.write_stages(&stages(&open.geometry(), &op)).unwrap();
        }
        disk
    }
}

pub(super) fn text_of(disk: &Path) -> String {
    dump_md(disk, &MetaDisk::Internal, None, 1, true).unwrap()
}

/// The dump without its head.
pub(super) fn body(text: &str) -> &str {
    text.split_once("\n\n").unwrap().1
}

fn dumped(text: &str) -> Dumped {
    parse_dump(text).unwrap()
}

#[test]
fn wiped_metadata_is_gone_and_the_data_stays() {
    let lab = Lab::new();
    let disk = lab.busy("d");
    poke(&disk, 0, b"data");
    let before = std::fs::read(&disk).unwrap();
    let text = text_of(&disk);
    let error = lab.wipe(&disk, false).unwrap_err();
    assert!(error.to_string().contains("Tandem metadata of r0/0 of node 1"), "{error}");
    assert_eq!(std::fs::read(&disk).unwrap(), before);
    let open = lab.open(&disk).unwrap();
    let error = lab.wipe(&disk, true).unwrap_err();
    assert!(matches!(error, CreateError::Disk(OpenError::Claimed { .. })), "{error}");
    assert!(dump_md(&disk, &MetaDisk::Internal, None, 1, true).is_err());
    drop(open);
    let done = lab.wipe(&disk, true).unwrap();
    let saved = std::fs::read_to_string(done.saved.unwrap()).unwrap();
    assert_eq!(body(&saved), body(&text));
    assert_eq!(lab.open(&disk).unwrap_err().refusal().code, 119);
    let after = std::fs::read(&disk).unwrap();
    let data = dumped(&text).superblock.data_size as usize;
    assert_eq!(after[..data], before[..data]);
    assert!(after[data..].iter().all(|byte| *byte == 0));
    assert!(matches!(lab.wipe(&disk, true), Err(CreateError::Disk(OpenError::Metadata { .. }))));
    assert!(read_gi(&disk, &MetaDisk::Internal, 0).is_err());
    // What it has taken it gives back; a blank one can be made anew without force.
    lab.restore(&disk, &saved, false).unwrap();
    assert_eq!(std::fs::read(&disk).unwrap(), before);
    lab.wipe(&disk, true).unwrap();
    poke(&disk, 0, &[0; 4]);
    lab.create(&disk).unwrap();
}

#[test]
fn wiping_wants_a_state_folder_and_takes_damaged_metadata_too() {
    let lab = Lab::new();
    let disk = lab.busy("d");
    let before = std::fs::read(&disk).unwrap();
    let options = RestoreOptions { state_dir: disk.join("no"), ..lab.restore_options(true) };
    let error = wipe_md(&disk, &MetaDisk::Internal, &who(), &options).unwrap_err();
    assert!(matches!(error, CreateError::Save { .. }), "{error}");
    let text = text_of(&disk);
    let error = restore_md(&disk, &MetaDisk::Internal, &who(), dumped(&text), &options);
    assert!(matches!(error, Err(CreateError::Save { .. })));
    assert_eq!(std::fs::read(&disk).unwrap(), before);
    for offset in [16 * MIB - 4096, 16 * MIB - (256 << 10)] {
        poke(&disk, offset + 600, &[1; 32]);
    }
    let done = lab.wipe(&disk, true).unwrap();
    assert!(done.saved.is_none() && done.warnings[0].contains("damaged"), "{done:?}");
    assert_eq!(lab.open(&disk).unwrap_err().refusal().code, 119);
}

#[test]
fn a_restore_refuses_what_is_there_what_is_in_use_and_another_disks_dump() {
    let lab = Lab::new();
    let disk = lab.busy("d");
    let text = text_of(&disk);
    let error = lab.restore(&disk, &text, false).unwrap_err().to_string();
    assert!(error.contains("Tandem metadata of r0/0 of node 1"), "{error}");
    let open = lab.open(&disk).unwrap();
    let error = lab.restore(&disk, &text, true).unwrap_err();
    assert!(matches!(error, CreateError::Disk(OpenError::Claimed { .. })), "{error}");
    let mut superblock = open.attached.meta.superblock.clone();
    superblock.sequence += 4;
    open.write_stages(&stages(&open.geometry(), &MetaOp::Superblock(Box::new(superblock))))
        .unwrap();
    drop(open);
    let error = lab.restore(&disk, &text, false).unwrap_err().to_string();
    assert!(error.contains("newer than the dump (sequence 6 and 2)"), "{error}");
    for other in ["resource \"r1\";", "volume 1;", "node-id 3;"] {
        let word = other.split_whitespace().next().unwrap();
        let line = text.lines().find(|line| line.starts_with(word)).unwrap();
        let error = lab.restore(&disk, &text.replacen(line, other, 1), true).unwrap_err();
        assert!(error.to_string().contains("not of r0/0 of node 1"), "{error}");
    }
    let done = lab.restore(&disk, &text, true).unwrap();
    assert!(done.saved.is_some());
    assert_eq!(body(&text_of(&disk)), body(&text));
    // Something else in its place: named, and overwritten by force only.
    let other = lab.file("other", 16 * MIB);
    poke(&other, 16 * MIB - 9000, b"the end of something");
    let error = lab.restore(&other, &text, false).unwrap_err().to_string();
    assert!(error.contains("some data"), "{error}");
    lab.restore(&other, &text, true).unwrap();
    // A disk that is too small for what was exported.
    let small = lab.file("small", 8 * MIB);
    let error = lab.restore(&small, &text, true).unwrap_err();
    assert!(matches!(error, CreateError::Disk(OpenError::Shrank { .. })), "{error}");
}

#[test]
fn a_dump_fits_a_larger_disk_and_external_metadata() {
    let lab = Lab::new();
    let text = text_of(&lab.busy("d"));
    let large = lab.file("large", 20 * MIB);
    lab.restore(&large, &text, false).unwrap();
    let open = lab.open(&large).unwrap();
    assert!(open.attached.data_size > 19 * MIB);
    assert_eq!(open.attached.meta.slots[0].set, SetBlocks::run(128, 3));
    let data = lab.file("data", 16 * MIB);
    let meta = MetaDisk::External(lab.path("meta"));
    let options = lab.restore_options(false);
    restore_md(&data, &meta, &who(), dumped(&text), &options).unwrap();
    let open = open_disk(&data, &meta, &who(), BOOT, &lab.open_options()).unwrap();
    assert_eq!(open.attached.meta.slots[0].set, SetBlocks::run(128, 3));
}

#[test]
fn a_seed_takes_an_image_and_no_blank_disk() {
    let lab = Lab::new();
    let source = lab.busy("source");
    poke(&source, 0, b"data");
    let text = text_of(&source);
    let bob = Identity { node_id: 0, ..who() };
    let seed = |disk: &Path, force| {
        let options = RestoreOptions { seed: Some(7), ..lab.restore_options(force) };
        restore_md(disk, &MetaDisk::Internal, &bob, dumped(&text), &options)
    };
    let blank = lab.file("blank", 16 * MIB);
    let error = seed(&blank, false).unwrap_err().to_string();
    assert!(error.contains("is blank at both ends"), "{error}");
    // The image has the metadata of the other node: that is expected.
    let image = lab.path("image");
    std::fs::copy(&source, &image).unwrap();
    seed(&image, false).unwrap();
    let open = open_disk(&image, &MetaDisk::Internal, &bob, BOOT, &lab.open_options()).unwrap();
    let superblock = &open.attached.meta.superblock;
    assert_eq!((superblock.node_id, superblock.device_uuid), (0, 7));
    assert_eq!(superblock.current_uuid, 0x5435_911C_ABE7_ED02);
    assert_eq!(superblock.flags & DeviceFlags::CONSISTENT, 0);
    drop(open);
    // A second time it is metadata of its own.
    assert!(matches!(seed(&image, false), Err(CreateError::Found { .. })));
    seed(&image, true).unwrap();
}

#[test]
fn a_disk_that_grew_is_neither_wiped_nor_restored_unseen() {
    let lab = Lab::new();
    let disk = lab.busy("d");
    let text = text_of(&disk);
    drop(lab.open(&disk).unwrap());
    resize(&disk, 32 * MIB);
    let before = std::fs::read(&disk).unwrap();
    let error = lab.wipe(&disk, true).unwrap_err();
    assert!(matches!(error, CreateError::Disk(OpenError::Grew { .. })), "{error}");
    let error = lab.restore(&disk, &text, false).unwrap_err().to_string();
    assert!(error.contains("at the old end of the disk, 16777216 bytes"), "{error}");
    let save = Save { state_dir: &lab.path("state"), verb: SavedBefore::ForgetPeer, wall_clock: 1 };
    let forgotten = forget_peer(&disk, &MetaDisk::Internal, &who(), 0, &save, Duration::ZERO);
    assert!(matches!(forgotten, Err(CreateError::Disk(OpenError::Grew { .. }))));
    assert_eq!(std::fs::read(&disk).unwrap(), before);
    resize(&disk, 16 * MIB);
    let saved = forget_peer(&disk, &MetaDisk::Internal, &who(), 0, &save, Duration::ZERO);
    assert!(saved.unwrap().is_some());
    let open = lab.open(&disk).unwrap();
    let slot = &open.attached.meta.superblock.peers[0];
    assert_eq!((slot.node_id, slot.bitmap_state), (None, BitmapState::AllSet));
    drop(open);
    let saved = forget_peer(&disk, &MetaDisk::Internal, &who(), 0, &save, Duration::ZERO);
    assert!(saved.unwrap().is_none());
}

/// Its new end is noted beside the old one, where the metadata still is.
#[test]
fn a_growth_that_was_cut_off_is_seen_by_every_order() {
    let lab = Lab::new();
    let disk = lab.busy("d");
    let text = text_of(&disk);
    drop(lab.open(&disk).unwrap());
    resize(&disk, 32 * MIB);
    record::store(&lab.path("state"), &who(), &disk, (32 * MIB, Some(16 * MIB)), None).unwrap();
    let before = std::fs::read(&disk).unwrap();
    let there = "at the old end of the disk, 16777216 bytes";
    for error in [lab.restore(&disk, &text, false).unwrap_err(), lab.create(&disk).unwrap_err()] {
        assert!(error.to_string().contains(there), "{error}");
    }
    let error = lab.wipe(&disk, true).unwrap_err();
    assert!(matches!(error, CreateError::Disk(OpenError::Grew { .. })), "{error}");
    let save = Save { state_dir: &lab.path("state"), verb: SavedBefore::ForgetPeer, wall_clock: 1 };
    let forgotten = forget_peer(&disk, &MetaDisk::Internal, &who(), 0, &save, Duration::ZERO);
    assert!(matches!(forgotten, Err(CreateError::Disk(OpenError::Grew { .. }))));
    assert_eq!(std::fs::read(&disk).unwrap(), before);
    let saved = lab.restore(&disk, &text, true).unwrap().saved.unwrap();
    assert_eq!(body(&std::fs::read_to_string(saved).unwrap()), body(&text));
}

/// Copied to a longer disk, which has another path.
#[test]
fn a_longer_disk_with_another_path_has_its_metadata_where_it_ended_before() {
    let lab = Lab::new();
    let old = lab.busy("d");
    drop(lab.open(&old).unwrap());
    let disk = lab.path("longer");
    std::fs::rename(&old, &disk).unwrap();
    resize(&disk, 32 * MIB);
    let error = lab.create(&disk).unwrap_err();
    assert!(error.to_string().contains("at the old end of the disk, 16777216 bytes"), "{error}");
    let open = lab.open(&disk).unwrap();
    assert!(open.attached.meta.superblock.current_uuid != crate::meta::JUST_CREATED);
    drop(open);
    // Of another volume's disk nothing is taken.
    let blank = lab.file("blank", 32 * MIB);
    let error = lab.open(&blank).unwrap_err();
    assert!(error.to_string().contains("no valid metadata"), "{error}");
}

/// The state folder came back from a time before the disk grew, and so did the old end: what stands at the
/// new end is the newer one.
#[test]
fn metadata_that_a_growth_writes_over_is_kept_as_a_copy() {
    let lab = Lab::new();
    let disk = lab.busy("d");
    drop(lab.open(&disk).unwrap());
    let old = std::fs::read(&disk).unwrap();
    resize(&disk, 32 * MIB);
    let open = lab.open(&disk).unwrap();
    let mut superblock = open.attached.meta.superblock.clone();
    superblock.sequence += 1;
    superblock.current_uuid = 0x1111_2222_3333_4444;
    let op = MetaOp::Superblock(Box::new(superblock));
    open.write_stages(&stages(&open.geometry(), &op)).unwrap();
    drop(open);
    let newer = text_of(&disk);
    poke(&disk, 15 * MIB, &old[15 * MIB as usize..]);
    record::store(&lab.path("state"), &who(), &disk, (16 * MIB, None), None).unwrap();
    let open = lab.open(&disk).unwrap();
    assert_eq!(open.attached.meta.superblock.current_uuid, 0x5435_911C_ABE7_ED02);
    let copies: Vec<String> = std::fs::read_dir(lab.path("state"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("-resize-"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    assert_eq!(copies.iter().map(|text| body(text)).collect::<Vec<_>>(), [body(&newer)]);
}

#[test]
fn an_image_from_before_the_seed_began_is_no_seed() {
    let lab = Lab::new();
    let source = lab.busy("source");
    poke(&source, 0, b"data");
    let image = lab.path("image");
    std::fs::copy(&source, &image).unwrap();
    // The order that clears the slot begins another generation.
    let open = lab.open(&source).unwrap();
    let mut superblock = open.attached.meta.superblock.clone();
    superblock.sequence += 1;
    superblock.current_uuid = 0x1111_2222_3333_4444;
    open.write_stages(&stages(&open.geometry(), &MetaOp::Superblock(Box::new(superblock))))
        .unwrap();
    drop(open);
    let bob = Identity { node_id: 0, ..who() };
    let options = RestoreOptions { seed: Some(7), ..lab.restore_options(true) };
    let dump = dumped(&text_of(&source));
    let error = restore_md(&image, &MetaDisk::Internal, &bob, dump, &options).unwrap_err();
    assert!(error.to_string().contains("copied before the order"), "{error}");
    // bob's disk is larger, so the image ends before it does; or his metadata has a place of its own.
    File::options().write(true).open(&image).unwrap().set_len(24 * MIB).unwrap();
    for meta_disk in [MetaDisk::Internal, MetaDisk::External(lab.path("bob.meta"))] {
        for force in [false, true] {
            let options = RestoreOptions { force, ..options.clone() };
            let dump = dumped(&text_of(&source));
            let error = restore_md(&image, &meta_disk, &bob, dump, &options).unwrap_err();
            assert!(error.to_string().contains("copied before the order"), "{error}");
        }
    }
    // An image that was begun after it is one, and one without metadata cannot be judged, which is said.
    for with_metadata in [true, false] {
        std::fs::copy(&source, &image).unwrap();
        let file = File::options().write(true).open(&image).unwrap();
        if !with_metadata {
            file.set_len(8 * MIB).unwrap();
        }
        file.set_len(24 * MIB).unwrap();
        let dump = dumped(&text_of(&source));
        let restored = restore_md(&image, &MetaDisk::Internal, &bob, dump, &options).unwrap();
        let warned = restored.warnings.iter().any(|text| text.contains("is not checked"));
        assert_eq!(warned, !with_metadata, "{:?}", restored.warnings);
    }
}

/// What is on a disk after a power cut.
fn after_cut(lab: &Lab, image: &[u8]) -> Option<String> {
    let disk = lab.path("cut");
    std::fs::write(&disk, image).unwrap();
    lab.open(&disk).ok()?;
    let text = dump_md(&disk, &MetaDisk::Internal, None, 1, true).unwrap();
    let told = body(&text).lines().filter(|line| !line.starts_with('#'));
    Some(told.collect::<Vec<_>>().join("\n"))
}

#[test]
fn after_a_power_cut_at_every_write_an_attach_finds_the_old_the_new_or_nothing() {
    let lab = Lab::new();
    let (disk, old_disk) = (lab.busy("d"), lab.busy("old"));
    // The disk has gone on since the dump: other identifiers, no bits.
    let text = text_of(&disk);
    let open = lab.open(&disk).unwrap();
    let mut superblock = open.attached.meta.superblock.clone();
    superblock.sequence += 4;
    superblock.current_uuid = 0x1111_2222_3333_4444;
    let page = crate::meta::BitmapPage { index: 0, words: vec![0; crate::meta::PAGE_WORDS] };
    let pages = MetaOp::Bitmap { slot: 0, epoch: 3, pages: vec![page] };
    for op in [pages, MetaOp::Superblock(Box::new(superblock))] {
        open.write_stages(&stages(&open.geometry(), &op)).unwrap();
    }
    drop(open);
    let image = std::fs::read(&disk).unwrap();
    let now = after_cut(&lab, &image).unwrap();
    let old = after_cut(&lab, &std::fs::read(&old_disk).unwrap()).unwrap();
    assert_ne!(now, old);
    let mut dump = dumped(&text);
    let size = image.len() as u64;
    let placement = crate::meta::Placement::Internal { disk_size: size };
    let geometry = dump.place(placement, 512).unwrap();
    let restore: Vec<Stage> = restore_stages(&geometry, &dump).collect();
    let wipe = vec![wipe_superblocks(placement).unwrap()];
    for (stages, end) in [(restore, Some(old.clone())), (wipe, None)] {
        let mut done = image.clone();
        let mut seen = Vec::new();
        for (offset, bytes) in stages.iter().flat_map(|stage| &stage.writes) {
            let at = usize::try_from(*offset).unwrap();
            // The write is torn after each of its first sectors, and done.
            for sectors in [0, 1, 4, bytes.len() / 512] {
                let length = (sectors * 512).min(bytes.len());
                let mut torn = done.clone();
                torn[at..at + length].copy_from_slice(&bytes[..length]);
                let found = after_cut(&lab, &torn);
                assert!(
                    found.is_none() || found.as_ref() == Some(&now) || found == end,
                    "at {offset}, {sectors} sectors: {found:?}"
                );
                seen.push(found);
            }
            done[at..at + bytes.len()].copy_from_slice(bytes);
        }
        assert_eq!(after_cut(&lab, &done), end);
        assert!(seen.contains(&None) && seen.contains(&Some(now.clone())));
    }
}
