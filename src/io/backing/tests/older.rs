//! Metadata made or restored on a disk that has grown: what is at the old end never counts again, whatever becomes
//! of the note in the state folder.

use super::restore::{body, text_of};
use super::*;
use crate::meta::parse_dump;

const OLD: u64 = 16 * MIB;
const NEW: u64 = 32 * MIB;
/// Where the copies of a superblock are at the old end.
const COPIES: [u64; 2] = [OLD - 4096, OLD - (256 << 10)];

/// The dump of a disk that was longer while it was attached last, and the disk.
fn longer(lab: &Lab) -> (PathBuf, String) {
    let disk = lab.busy("d");
    drop(lab.open(&disk).unwrap());
    let text = text_of(&disk);
    resize(&disk, NEW);
    (disk, text)
}

/// The state folder is that of the time before again.
fn set_note_back(lab: &Lab, disk: &Path) {
    record::store(&lab.path("state"), &who(), disk, (OLD, None), None).unwrap();
}

/// Copies can be saved there, and no note can be written.
fn spoil_notes(lab: &Lab) -> Vec<PathBuf> {
    let notes = std::fs::read_dir(lab.path("state")).unwrap().map(|entry| entry.unwrap().path());
    let notes = notes.filter(|path| path.extension().is_some_and(|end| end == "json"));
    let parts = notes.map(|note| format!("{}.{}.part", note.display(), std::process::id()));
    let parts: Vec<PathBuf> = parts.map(PathBuf::from).collect();
    assert_eq!(parts.len(), 1);
    parts.iter().for_each(|part| std::fs::create_dir(part).unwrap());
    parts
}

fn copies_at_the_old_end(disk: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(disk).unwrap();
    COPIES.map(|at| bytes[at as usize..at as usize + 4096].to_vec()).to_vec()
}

fn set_sequence(disk: &OpenDisk, sequence: u64) {
    let superblock = Superblock { sequence, ..disk.attached.meta.superblock.clone() };
    let op = MetaOp::Superblock(Box::new(superblock));
    disk.write_stages(&stages(&disk.geometry(), &op)).unwrap();
}

#[test]
fn made_metadata_counts_also_by_the_note_of_the_time_before() {
    let lab = Lab::new();
    let (disk, _) = longer(&lab);
    let made = lab.force(&disk);
    assert!(made.warnings.iter().any(|text| text.contains("were zeroed")), "{:?}", made.warnings);
    assert!(copies_at_the_old_end(&disk) == [[0; 4096], [0; 4096]]);
    set_note_back(&lab, &disk);
    let open = lab.open(&disk).unwrap();
    assert_eq!(open.attached.meta.superblock, made.superblock);
    drop(open);
    // It grows once more, and nothing is noted but the old end.
    resize(&disk, NEW + 4 * MIB);
    set_note_back(&lab, &disk);
    assert_eq!(lab.open(&disk).unwrap_err().refusal().code, 119);
}

#[test]
fn restored_metadata_counts_also_by_the_note_of_the_time_before() {
    let lab = Lab::new();
    let disk = lab.busy("d");
    let text = text_of(&disk);
    // What is at the old end has gone on since the dump.
    let open = lab.open(&disk).unwrap();
    set_sequence(&open, 40);
    drop(open);
    resize(&disk, NEW);
    lab.restore(&disk, &text, true).unwrap();
    set_note_back(&lab, &disk);
    let open = lab.open(&disk).unwrap();
    assert_eq!(open.attached.meta.superblock.sequence, 2, "that of the dump");
    assert!(open.attached.data_size > OLD);
}

#[test]
fn a_note_that_cannot_be_written_leaves_the_metadata_at_the_old_end_in_force() {
    let lab = Lab::new();
    let (disk, text) = longer(&lab);
    let parts = spoil_notes(&lab);
    let before = std::fs::read(&disk).unwrap();
    let error = lab.restore(&disk, &text, true).unwrap_err();
    assert!(matches!(error, CreateError::Note { .. }), "{error}");
    let options = CreateOptions { force: true, ..lab.options() };
    let error = create_md(&disk, &MetaDisk::Internal, &who(), &options).unwrap_err();
    assert!(matches!(error, CreateError::Note { .. }), "{error}");
    assert!(std::fs::read(&disk).unwrap() == before, "nothing was written");
    parts.iter().for_each(|part| std::fs::remove_dir(part).unwrap());
    let open = lab.open(&disk).unwrap();
    assert_eq!(open.attached.meta.superblock.current_uuid, 0x5435_911C_ABE7_ED02);
}

/// The later end is of a time when the disk was that long before: it must not count because it is noted now.
#[test]
fn what_an_earlier_time_has_left_at_the_new_end_is_gone_before_it_is_noted() {
    let lab = Lab::new();
    let stale = lab.busy("stale");
    let (disk, text) = longer(&lab);
    drop(lab.open(&stale).unwrap());
    resize(&stale, NEW);
    let open = lab.open(&stale).unwrap();
    set_sequence(&open, 99);
    drop(open);
    let bytes = std::fs::read(&stale).unwrap();
    poke(&disk, NEW - MIB, &bytes[(NEW - MIB) as usize..]);
    std::fs::remove_file(&stale).unwrap();
    record::forget(&lab.path("state"), &who(), &stale);
    let parts = spoil_notes(&lab);
    let error = lab.restore(&disk, &text, true).unwrap_err();
    assert!(matches!(error, CreateError::Note { .. }), "{error}");
    let saved: Vec<String> = saved_devices(&lab).into_iter().map(|(name, _)| name).collect();
    let stamp = "20261124-195244";
    assert_eq!(saved, [format!("resize-{stamp}"), format!("restore-md-{stamp}")]);
    let end = std::fs::read(&disk).unwrap();
    for at in [NEW - 4096, NEW - (256 << 10)] {
        assert!(end[at as usize..at as usize + 4096].iter().all(|byte| *byte == 0), "at {at}");
    }
    // The next instant would be a power cut behind the note.
    parts.iter().for_each(|part| std::fs::remove_dir(part).unwrap());
    let open = lab.open(&disk).unwrap();
    assert_eq!(open.attached.meta.superblock.current_uuid, 0x5435_911C_ABE7_ED02);
    assert!(open.attached.meta.superblock.sequence < 99);
}

/// What the restored metadata exports is the volume's, whatever it looks like.
#[test]
fn nothing_is_zeroed_in_what_is_exported() {
    let lab = Lab::new();
    let (disk, text) = longer(&lab);
    let before = copies_at_the_old_end(&disk);
    let room = NEW - 2 * MIB;
    let line = text.lines().find(|line| line.starts_with("effective-size")).unwrap();
    let data = text.lines().find(|line| line.starts_with("data-size")).unwrap();
    let larger = text.replacen(line, &format!("effective-size {room};"), 1).replacen(
        data,
        &format!("data-size {room};"),
        1,
    );
    let done = lab.restore(&disk, &larger, true).unwrap();
    assert!(done.warnings.iter().any(|text| text.contains("stay there")), "{:?}", done.warnings);
    assert!(copies_at_the_old_end(&disk) == before);
    let open = lab.open(&disk).unwrap();
    assert_eq!(open.attached.meta.superblock.effective_size, room);
    drop(open);
    assert!(copies_at_the_old_end(&disk) == before);
}

/// A move that a power cut has ended between its two ends: both are whole.
#[test]
fn of_a_move_that_was_cut_off_nothing_comes_back_either() {
    let lab = Lab::new();
    let (disk, text) = longer(&lab);
    let old = std::fs::read(&disk).unwrap();
    let cut_off = || {
        drop(lab.open(&disk).unwrap());
        poke(&disk, OLD - MIB, &old[(OLD - MIB) as usize..OLD as usize]);
        record::store(&lab.path("state"), &who(), &disk, (NEW, Some(OLD)), None).unwrap();
    };
    let noted_again =
        || record::store(&lab.path("state"), &who(), &disk, (NEW, Some(OLD)), None).unwrap();
    cut_off();
    lab.wipe(&disk, true).unwrap();
    noted_again();
    assert_eq!(lab.open(&disk).unwrap_err().refusal().code, 119);
    lab.restore(&disk, &text, false).unwrap();
    cut_off();
    let earlier = text.replacen("sequence 2;", "sequence 1;", 1);
    assert_ne!(text, earlier);
    lab.restore(&disk, &earlier, true).unwrap();
    noted_again();
    let open = lab.open(&disk).unwrap();
    assert_eq!(open.attached.meta.superblock.sequence, 1);
    drop(open);
    assert!(body(&text_of(&disk)).contains("sequence 1;"));
}

/// A disk without a note is asked for at all ends that are noted of the volume.
#[test]
fn a_wipe_keeps_the_note_that_alone_says_that_what_stays_does_not_count() {
    let lab = Lab::new();
    let (disk, _) = longer(&lab);
    let old = std::fs::read(&disk).unwrap();
    let open = lab.open(&disk).unwrap();
    let mut superblock = open.attached.meta.superblock.clone();
    superblock.sequence += 1;
    superblock.effective_size = open.geometry().data_size;
    let op = MetaOp::Superblock(Box::new(superblock));
    open.write_stages(&stages(&open.geometry(), &op)).unwrap();
    drop(open);
    poke(&disk, OLD - MIB, &old[(OLD - MIB) as usize..OLD as usize]);
    let state = lab.path("state");
    record::store(&state, &who(), &disk, (NEW, Some(OLD)), None).unwrap();
    record::store(&state, &who(), &lab.path("another"), (OLD, None), None).unwrap();
    let done = lab.wipe(&disk, true).unwrap();
    assert!(done.warnings.iter().any(|text| text.contains("stay there")), "{:?}", done.warnings);
    assert_eq!(record::ended(&state, &who(), &disk), [OLD]);
    assert_eq!(lab.open(&disk).unwrap_err().refusal().code, 119);
    // Made anew it says so, and the next one that is wiped leaves nothing.
    let error = lab.create(&disk).unwrap_err().to_string();
    assert!(error.contains("at the old end of the disk, 16777216 bytes"), "{error}");
    lab.force(&disk);
    assert!(copies_at_the_old_end(&disk) == [[0; 4096], [0; 4096]]);
    lab.wipe(&disk, true).unwrap();
    assert_eq!(record::last_size(&state, &who(), &disk), None);
}

const OTHER: u64 = 0x0BAD_CAFE_0BAD_CAFE;

fn create_other(lab: &Lab, disk: &Path) -> Report {
    let wall_clock = lab.options().wall_clock + 1000;
    let options = CreateOptions { seed: OTHER, force: true, wall_clock, ..lab.options() };
    create_md(disk, &MetaDisk::Internal, &who(), &options).unwrap()
}

/// A disk that was cut back, made anew and used, and has grown to where its first metadata is still whole.
fn of_two_disks(lab: &Lab, size: u64) -> PathBuf {
    of_two_disks_exported(lab, size, 0)
}

/// The same; so much is exported by the first metadata.
fn of_two_disks_exported(lab: &Lab, size: u64, effective_size: u64) -> PathBuf {
    let disk = lab.file("d", size);
    lab.create(&disk).unwrap();
    let open = lab.open(&disk).unwrap();
    let superblock = Superblock { effective_size, ..open.attached.meta.superblock.clone() };
    let op = MetaOp::Superblock(Box::new(superblock));
    open.write_stages(&stages(&open.geometry(), &op)).unwrap();
    drop(open);
    let first = std::fs::read(&disk).unwrap();
    resize(&disk, OLD);
    create_other(lab, &disk);
    drop(lab.open(&disk).unwrap());
    resize(&disk, size);
    poke(&disk, OLD, &first[OLD as usize..]);
    let error = lab.open(&disk).unwrap_err();
    let two = matches!(&error, OpenError::Metadata { error: MetaError::TwoDisks { .. }, .. });
    assert!(two, "{error}");
    disk
}

fn device_of(lab: &Lab, disk: &Path) -> u64 {
    lab.open(disk).unwrap().geometry().device_uuid
}

/// The `device_uuid` of each copy in the state folder, by its verb.
fn saved_devices(lab: &Lab) -> Vec<(String, u64)> {
    let files = std::fs::read_dir(lab.path("state")).unwrap().map(|entry| entry.unwrap().path());
    let mut saved: Vec<(String, u64)> = files
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let device = parse_dump(&std::fs::read_to_string(&path).unwrap()).unwrap();
            (name.replace("saved-r0-0-node1-", ""), device.superblock.device_uuid)
        })
        .collect();
    saved.sort();
    saved
}

/// The one at the old end may be the only good one.
#[test]
fn wiping_one_of_two_disks_leaves_the_other_one_which_counts_then() {
    // With 252 KiB more the second copy's place at the end is the first one's at the old end.
    for size in [NEW, OLD + (252 << 10)] {
        let lab = Lab::new();
        let disk = of_two_disks(&lab, size);
        let before = std::fs::read(&disk).unwrap();
        let done = lab.wipe(&disk, true).unwrap();
        let after = std::fs::read(&disk).unwrap();
        assert!(after[..OLD as usize] == before[..OLD as usize]);
        assert!(after[OLD as usize..].iter().all(|byte| *byte == 0));
        let said = "16777216 bytes, and stays: an attach takes it";
        assert!(done.warnings.iter().any(|text| text.contains(said)), "{:?}", done.warnings);
        let saved = ("wipe-md-20261124-195244".to_owned(), lab.options().seed);
        assert_eq!(saved_devices(&lab), [saved]);
        assert_eq!(device_of(&lab, &disk), OTHER);
    }
}

#[test]
fn made_over_two_disks_both_are_named_and_saved() {
    let lab = Lab::new();
    let disk = of_two_disks(&lab, NEW);
    let error = lab.create(&disk).unwrap_err().to_string();
    let old = "Tandem metadata at the old end of the disk, 16777216 bytes";
    assert!(error.contains("Tandem metadata of r0/0") && error.contains(old), "{error}");
    let before = std::fs::read(&disk).unwrap();
    let parts = spoil_notes(&lab);
    let options = CreateOptions { force: true, ..lab.options() };
    let error = create_md(&disk, &MetaDisk::Internal, &who(), &options).unwrap_err();
    assert!(matches!(error, CreateError::Note { .. }), "{error}");
    let first = lab.options().seed;
    let stamp = "create-md-20261124-195244";
    let both = [(stamp.to_owned(), first), (format!("{stamp}-2"), OTHER)];
    assert_eq!(saved_devices(&lab), both);
    parts.iter().for_each(|part| std::fs::remove_dir(part).unwrap());
    assert!(std::fs::read(&disk).unwrap() == before, "nothing was wiped");
    let error = lab.open(&disk).unwrap_err();
    let two = matches!(&error, OpenError::Metadata { error: MetaError::TwoDisks { .. }, .. });
    assert!(two, "neither counts yet: {error}");
    let again = lab.force(&disk);
    assert!(again.found.iter().any(|found| found.to_string().contains(old)), "{:?}", again.found);
    assert!(copies_at_the_old_end(&disk) == [[0; 4096], [0; 4096]]);
    assert_eq!(device_of(&lab, &disk), first);
}

/// Before the order neither counted.
#[test]
fn of_two_disks_neither_counts_after_a_power_cut_within_an_order_over_both() {
    for (is_wiped, size) in [(false, NEW), (true, NEW), (true, NEW + MIB)] {
        let lab = Lab::new();
        let disk = of_two_disks(&lab, NEW);
        let (state, before) = (lab.path("state"), copies_at_the_old_end(&disk));
        let (internal, access) = (MetaDisk::Internal, device::Access::Exclusive);
        let disks = open::Disks::open(&disk, &internal, access, Duration::ZERO).unwrap();
        let older = crate::io::backing::older::Older::find(&disks, None, &state, &who());
        older.note_given_up(&disks, &state, &who()).unwrap();
        if is_wiped {
            older.clear_end(&disks).unwrap();
        }
        drop(disks);
        resize(&disk, size);
        assert!(copies_at_the_old_end(&disk) == before, "that is still there");
        let refusal = lab.open(&disk).unwrap_err().refusal();
        assert!(refusal.code == 119 && refusal.hint.contains("was cut off"), "{refusal:?}");
        let error = lab.wipe(&disk, true).unwrap_err().to_string();
        assert!(error.contains("was cut off"), "{error}");
        // The order is given again.
        let error = lab.create(&disk).unwrap_err().to_string();
        assert!(error.contains("at the old end of the disk, 16777216 bytes"), "{error}");
        lab.force(&disk);
        // Of what was wiped it is not known what it exported.
        let is_zeroed = copies_at_the_old_end(&disk) == [[0; 4096], [0; 4096]];
        assert_eq!(is_zeroed, !is_wiped);
        assert_eq!(device_of(&lab, &disk), lab.options().seed);
    }
}

/// The copy of it may be put back next: then the bytes there are the volume's.
#[test]
fn made_over_two_disks_nothing_is_zeroed_in_what_the_one_at_the_end_exports() {
    let lab = Lab::new();
    let disk = of_two_disks_exported(&lab, NEW, NEW - 2 * MIB);
    let before = copies_at_the_old_end(&disk);
    let made = lab.force(&disk);
    assert!(made.warnings.iter().any(|text| text.contains("stay there")), "{:?}", made.warnings);
    assert!(copies_at_the_old_end(&disk) == before);
    assert_eq!(device_of(&lab, &disk), lab.options().seed);
    let copy = lab.path("state").join("saved-r0-0-node1-create-md-20261124-195244.md");
    lab.restore(&disk, &std::fs::read_to_string(copy).unwrap(), true).unwrap();
    assert!(copies_at_the_old_end(&disk) == before);
    assert_eq!(lab.open(&disk).unwrap().attached.meta.superblock.effective_size, NEW - 2 * MIB);
}

#[test]
fn restored_over_two_disks_both_are_saved() {
    let lab = Lab::new();
    let disk = of_two_disks(&lab, NEW);
    let text = text_of(&disk);
    let error = lab.restore(&disk, &text, false).unwrap_err().to_string();
    assert!(error.contains("at the old end of the disk, 16777216 bytes"), "{error}");
    let done = lab.restore(&disk, &text, true).unwrap();
    let said = done.warnings.join("\n");
    assert!(said.contains("is saved in") && said.contains("restore-md-20261124-195244"), "{said}");
    let saved: Vec<u64> = saved_devices(&lab).into_iter().map(|(_, device)| device).collect();
    assert_eq!(saved, [lab.options().seed, OTHER]);
    assert_eq!(device_of(&lab, &disk), lab.options().seed);
}

/// The new place of the second copy is the old one of the first.
#[test]
fn what_counts_is_not_zeroed_before_the_note_on_a_disk_that_has_grown_by_less_than_a_superblock() {
    for more in [4 << 10, 248 << 10, 252 << 10] {
        let lab = Lab::new();
        let disk = lab.busy("d");
        drop(lab.open(&disk).unwrap());
        let text = text_of(&disk);
        resize(&disk, OLD + more);
        poke(&disk, OLD + more - 4096, b"TANDEMSB");
        let before = copies_at_the_old_end(&disk);
        let parts = spoil_notes(&lab);
        let error = lab.restore(&disk, &text, true).unwrap_err();
        assert!(matches!(error, CreateError::Note { .. }), "{error}");
        assert!(copies_at_the_old_end(&disk) == before, "{more}");
        parts.iter().for_each(|part| std::fs::remove_dir(part).unwrap());
        lab.restore(&disk, &text, true).unwrap();
        assert_eq!(device_of(&lab, &disk), lab.options().seed);
    }
}

/// Which of them counts hangs on what was done to the disk: it is said, with when each was made.
#[test]
fn who_has_two_disks_is_told_when_each_was_made_and_what_to_do_for_either() {
    let lab = Lab::new();
    let disk = of_two_disks(&lab, NEW);
    let hint = lab.open(&disk).unwrap_err().refusal().hint;
    for part in [
        "at the end is of 2026-11-24 19:52:44",
        "at 16777216 bytes of 2026-11-24 20:09:24",
        "Only if the disk was cut back to 16777216 bytes and has grown again since",
        "Not if create-md ran after it had grown",
    ] {
        assert!(hint.contains(part), "{hint}");
    }
    // The way to what is at the end: both are saved, and that one is put back.
    lab.force(&disk);
    let name = "saved-r0-0-node1-create-md-20261124-195244.md";
    let text = std::fs::read_to_string(lab.path("state").join(name)).unwrap();
    lab.restore(&disk, &text, true).unwrap();
    assert_eq!(body(&text_of(&disk)), body(&text));
    drop(lab.open(&disk).unwrap());
    // The way to what is at the old end.
    let lab = Lab::new();
    let disk = of_two_disks(&lab, NEW);
    resize(&disk, NEW + MIB);
    assert_eq!(device_of(&lab, &disk), OTHER);
}

/// The note of an order that a power cut has ended behind it.
fn set_note_ended(lab: &Lab, disk: &Path, ended: &str) {
    let note = lab.path("state").join(record::file_name(&who(), disk));
    let path = disk.to_str().unwrap();
    let text = format!(
        r#"{{"resource":"r0","node_id":1,"volume":0,"path":{path:?},"size":{NEW},"exported":4096{ended}}}"#
    );
    std::fs::write(note, text).unwrap();
}

#[test]
fn what_a_power_cut_has_kept_from_being_zeroed_is_zeroed_by_the_next_order() {
    let lab = Lab::new();
    let (disk, text) = longer(&lab);
    set_note_ended(&lab, &disk, &format!(r#","ended":[{OLD}]"#));
    // It counts no more.
    assert_eq!(lab.open(&disk).unwrap_err().refusal().code, 119);
    let done = lab.restore(&disk, &text, true).unwrap();
    assert!(done.warnings.iter().any(|text| text.contains("were zeroed")), "{:?}", done.warnings);
    assert!(copies_at_the_old_end(&disk) == [[0; 4096], [0; 4096]]);
    assert_eq!(record::ended(&lab.path("state"), &who(), &disk), [0; 0]);
    // As what an attach has noted in between.
    let lab = Lab::new();
    let (disk, _) = longer(&lab);
    let old = copies_at_the_old_end(&disk);
    drop(lab.open(&disk).unwrap());
    for (at, copy) in COPIES.into_iter().zip(&old) {
        poke(&disk, at, copy);
    }
    set_note_ended(&lab, &disk, &format!(r#","ended":[{OLD}]"#));
    drop(lab.open(&disk).unwrap());
    lab.wipe(&disk, true).unwrap();
    assert!(copies_at_the_old_end(&disk) == [[0; 4096], [0; 4096]]);
    // A note of the time before has no such word.
    let (disk, _) = longer(&lab);
    set_note_ended(&lab, &disk, "");
    assert_eq!(record::last_size(&lab.path("state"), &who(), &disk), Some(NEW));
    assert_eq!(record::exported(&lab.path("state"), &who()), Some(4096));
}

/// Between the note and the zeroes.
#[test]
fn an_order_notes_what_it_is_going_to_zero() {
    let lab = Lab::new();
    let (disk, text) = longer(&lab);
    let state = lab.path("state");
    let disks =
        open::Disks::open(&disk, &MetaDisk::Internal, device::Access::Exclusive, Duration::ZERO)
            .unwrap();
    let old = disks.old_end(&state, &who());
    crate::io::backing::older::Older::find(&disks, old, &state, &who())
        .note(&disks, &state, &who())
        .unwrap();
    drop(disks);
    assert_eq!(record::ended(&state, &who(), &disk), [OLD]);
    assert_eq!(record::last_size(&state, &who(), &disk), Some(NEW));
    lab.restore(&disk, &text, true).unwrap();
    assert_eq!(record::ended(&state, &who(), &disk), [0; 0]);
}

/// It is one text for all three orders, and for a note that was written and not flushed.
#[test]
fn an_order_that_cannot_note_its_place_says_what_counts_then() {
    let lab = Lab::new();
    let (disk, _) = longer(&lab);
    let old = copies_at_the_old_end(&disk);
    drop(lab.open(&disk).unwrap());
    for (at, copy) in COPIES.into_iter().zip(&old) {
        poke(&disk, at, copy);
    }
    record::store(&lab.path("state"), &who(), &disk, (NEW, Some(OLD)), None).unwrap();
    let before = std::fs::read(&disk).unwrap();
    let parts = spoil_notes(&lab);
    let error = lab.wipe(&disk, true).unwrap_err();
    assert!(matches!(error, CreateError::Note { .. }), "{error}");
    assert!(std::fs::read(&disk).unwrap() == before, "nothing was wiped");
    let said = error.to_string();
    assert!(!said.contains("old end of the disk counts as before"), "{said}");
    for part in ["what counted counts as before", "unless", "give the order again"] {
        assert!(said.contains(part), "{said}");
    }
    parts.iter().for_each(|part| std::fs::remove_dir(part).unwrap());
    drop(lab.open(&disk).unwrap());
}

/// What stands at its end now may be of a time when the disk was that long before.
#[test]
fn without_a_note_of_its_own_a_disk_with_metadata_at_two_ends_is_refused() {
    let lab = Lab::new();
    let (disk, _) = longer(&lab);
    let old = std::fs::read(&disk).unwrap();
    drop(lab.open(&disk).unwrap());
    let later = std::fs::read(&disk).unwrap();
    // It was cut back, and its metadata restored: the note of the path says so.
    poke(&disk, OLD - MIB, &old[(OLD - MIB) as usize..OLD as usize]);
    record::store(&lab.path("state"), &who(), &disk, (OLD, None), None).unwrap();
    let moved = lab.path("moved");
    std::fs::rename(&disk, &moved).unwrap();
    let before = std::fs::read(&moved).unwrap();
    let refusal = lab.open(&moved).unwrap_err().refusal();
    assert_eq!(refusal.code, 119);
    let last = "by the path by which it was attached last";
    assert!(refusal.hint.contains("16777216") && refusal.hint.contains(last), "{refusal:?}");
    let error = lab.wipe(&moved, true).unwrap_err();
    assert!(error.to_string().contains("16777216 bytes"), "{error}");
    assert!(std::fs::read(&moved).unwrap() == before, "nothing was written");
    // By its old path it is known.
    std::os::unix::fs::symlink(&moved, &disk).unwrap();
    drop(lab.open(&disk).unwrap());
    let sequence = |bytes: &[u8]| {
        let mut read = |at: u64, length| Ok(bytes[at as usize..][..length].to_vec());
        let placement = Placement::Internal { disk_size: NEW };
        read_superblock(placement, &mut read).unwrap().superblock.sequence
    };
    assert_eq!(sequence(&std::fs::read(&moved).unwrap()), sequence(&later));
    // Two disks' metadata is seen without a note as well.
    let lab = Lab::new();
    let disk = of_two_disks(&lab, NEW);
    let moved = lab.path("moved");
    std::fs::rename(&disk, &moved).unwrap();
    let error = lab.open(&moved).unwrap_err();
    let two = matches!(&error, OpenError::Metadata { error: MetaError::TwoDisks { .. }, .. });
    assert!(two, "{error}");
    let hint = error.refusal().hint;
    assert!(hint.contains(last) && hint.contains("at the end is of 2026-11-24 19:52:44"), "{hint}");
    for wrong in ["that of this one", "another MiB"] {
        assert!(!hint.contains(wrong), "{hint}");
    }
}

#[test]
fn without_a_note_of_its_own_a_disk_that_is_damaged_at_its_end_is_known_by_that_of_before() {
    let lab = Lab::new();
    let (disk, _) = longer(&lab);
    let moved = lab.path("moved");
    std::fs::rename(&disk, &moved).unwrap();
    // The first write of a move was torn.
    poke(&moved, NEW - 4096, b"TANDEMSB");
    let open = lab.open(&moved).unwrap();
    assert_eq!(open.attached.meta.superblock.current_uuid, 0x5435_911C_ABE7_ED02);
}

/// While it is in use.
#[test]
fn a_disk_that_is_called_otherwise_takes_its_note_along_and_grows_by_that_name() {
    let lab = Lab::new();
    let disk = lab.busy("d");
    let state = lab.path("state");
    let size_of = |path: &Path| record::last_size(&state, &who(), path);
    let open = lab.open(&disk).unwrap();
    let moved = lab.path("moved");
    std::fs::rename(&disk, &moved).unwrap();
    open.home().call(&moved).unwrap();
    assert_eq!((size_of(&disk), size_of(&moved)), (None, Some(OLD)));
    let exported = open.geometry().data_size;
    assert_eq!(record::exported(&state, &who()), Some(exported));
    resize(&moved, NEW);
    open.growing().run().unwrap().unwrap();
    assert_eq!((size_of(&disk), size_of(&moved)), (None, Some(NEW)));
    drop(open);
    // Of a disk of which nothing is noted no note of an earlier one stays.
    record::forget(&state, &who(), &moved);
    record::store(&state, &who(), &disk, (OLD, None), None).unwrap();
    let open = lab.open(&moved).unwrap();
    record::forget(&state, &who(), &moved);
    open.home().call(&disk).unwrap();
    assert_eq!((size_of(&disk), size_of(&moved)), (None, None));
}
