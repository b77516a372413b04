//! Tasks of docs/OPERATIONS.md, run as they are printed there (`stage`); a test looks at what has
//! become of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nbd::client::Client;

use crate::hung::HangingDisk;
use crate::ledger::{Burst, Ledger};
use crate::namespace::skip;
use crate::pair::{DISK_SIZE, Node, Pair, run, text};
use crate::plan::{Plan, free_ports};
use crate::stage::Stage;
use crate::wait::until;

#[test]
fn a_new_disk_takes_the_place_of_one_that_died() {
    let mut stage = Stage::new(Plan::new().filled().in_sync());
    let mut ledger = Ledger::seeded(71);
    let mut client = stage.pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(300)));
    // bob's disk dies, and is replaced by a blank one.
    stage.pair.bob.ok(&["detach", "r0"]);
    fs::remove_file(&stage.pair.bob.disk).expect("it is there");
    File::create(&stage.pair.bob.disk).and_then(|file| file.set_len(DISK_SIZE)).expect("a disk");
    stage.pair.bob.refused(10, &["attach", "r0/0"]);
    stage.why(&stage.pair.bob, "the disk there has no metadata; where it is a new one");
    assert!(ledger.write(&mut client, &Burst::Count(100)), "alice goes on");
    stage.run("replace-disk");
    stage.pair.wait_synced();
    assert_eq!(stage.pair.bob.full_syncs(), 2, "of the first disk, and of this one");
    client.flush().expect("a flush of both");
    ledger.check(&mut client);
    stage.pair.assert_equal_disks();
}

#[test]
fn who_wrote_last_keeps_its_data_though_its_metadata_is_damaged() {
    let mut stage = Stage::new(Plan::new().in_sync());
    let mut ledger = Ledger::seeded(75);
    stage.pair.alice.ok(&["secondary", "r0"]);
    stage.pair.bob.ok(&["primary", "r0"]);
    let mut client = stage.pair.bob.client();
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    client.flush().expect("a flush of both");
    stage.pair.alice.kill();
    assert!(ledger.write(&mut client, &Burst::Count(100)), "bob goes on");
    client.flush().expect("of the own disk");
    stage.pair.bob.kill();
    let disk = File::options().write(true).open(&stage.pair.bob.disk).expect("a disk");
    for copy in [256 << 10, 4096] {
        disk.write_all_at(&[0x55; 512], DISK_SIZE - copy + 1024)
            .expect("a block of the superblock");
    }
    stage.pair.alice.start();
    stage.pair.alice.refused(17, &["primary", "r0"]);
    stage.pair.bob.start();
    stage.pair.bob.refused(10, &["attach", "r0/0"]);
    stage.why(&stage.pair.bob, "this is the only copy of that");
    stage.run("damaged-metadata");
    stage.pair.wait_synced();
    ledger.check(&mut stage.pair.bob.client());
    stage.pair.assert_equal_disks();
}

#[test]
fn the_same_disk_comes_back_with_a_quick_resync() {
    let mut stage = Stage::new(Pair::in_sync());
    let mut ledger = Ledger::seeded(72);
    let mut client = stage.pair.alice.client();
    let away = stage.pair.dir.path().join("away");
    stage.pair.bob.ok(&["detach", "r0"]);
    fs::rename(&stage.pair.bob.disk, &away).expect("it is there");
    stage.pair.bob.refused(10, &["attach", "r0/0"]);
    assert!(ledger.write(&mut client, &Burst::Count(100)), "alice goes on");
    stage.why(&stage.pair.bob, "disk there, cause gone");
    fs::rename(&away, &stage.pair.bob.disk).expect("it is there");
    let before = stage.pair.bob.peer_kib("received");
    stage.run("same-disk");
    stage.pair.wait_synced();
    let moved = stage.pair.bob.peer_kib("received") - before;
    assert!(moved <= 2 * 4 * ledger.blocks(), "{moved} KiB moved: a quick resync");
    client.flush().expect("a flush of both");
    stage.pair.assert_equal_disks();
}

#[test]
fn disks_are_made_larger_while_the_primary_serves() {
    let mut stage = Stage::new(Pair::in_sync());
    let mut ledger = Ledger::seeded(75);
    let mut client = stage.pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    let before = stage.pair.alice.export_size();
    stage.run("grow");
    assert!(ledger.write(&mut client, &Burst::Count(100)), "a client with the old size goes on");
    stage.pair.wait_synced();
    let after = stage.pair.alice.export_size();
    assert!(after - before > 60 << 20, "{before} {after}");
    let mut new = stage.pair.alice.client();
    new.write(after - 4096, &[7; 4096], 0).expect("the last block");
    client
        .write(after - 8192, &[6; 4096], 0)
        .expect("one that was connected before may use it too");
    ledger.check(&mut client);
    client.flush().expect("a flush of both");
    stage.pair.assert_equal_disks();
}

#[test]
fn a_node_is_replaced_while_the_primary_serves() {
    let mut stage = Stage::new(Pair::in_sync());
    let mut ledger = Ledger::seeded(73);
    let mut client = stage.pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(300)));
    // Another machine with the old name: a new address, a blank disk, nothing of the old one.
    stage.pair.bob.kill();
    until("alice sees it", || {
        (stage.pair.alice.connection()["connection-state"] == "Connecting").then_some(())
    });
    assert!(ledger.write(&mut client, &Burst::Count(100)), "alice goes on");
    fs::remove_file(&stage.pair.bob.disk).expect("it is there");
    File::create(&stage.pair.bob.disk).and_then(|file| file.set_len(DISK_SIZE)).expect("a disk");
    fs::remove_dir_all(&stage.pair.bob.run_dir).expect("it is there");
    fs::create_dir(&stage.pair.bob.run_dir).expect("a folder");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let new = port.local_addr().expect("bound").port();
    drop(port);
    let config = fs::read_to_string(&stage.pair.alice.config).expect("the config");
    let (old, new) = (format!("127.0.0.1:{}", stage.pair.bob.port), format!("127.0.0.1:{new}"));
    fs::write(&stage.pair.alice.config, config.replace(&old, &new)).expect("it is written");
    stage.pair.bob.start();
    stage.run_with("replace-node", |pair, _| {
        let mut client = pair.alice.client();
        client.write(0, &[1; 4096], 0).expect("alice serves after each step");
        client.disconnect().expect("a clean end");
    });
    stage.pair.wait_synced();
    client.flush().expect("a flush of both");
    stage.pair.assert_equal_disks();
    let saved = saved(&stage.pair.alice);
    assert_eq!(saved.len(), 2, "of the promotion too: {saved:?}");
    assert!(saved[0].starts_with("saved-r0-0-node0-forget-peer-"), "{saved:?}");
}

/// Names of the saved copies of a node.
pub(crate) fn saved(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.run_dir.join("state")).expect("the state folder");
    let names = entries.map(|one| one.expect("an entry").file_name().into_string().expect("text"));
    let mut names: Vec<String> = names.filter(|name| name.starts_with("saved-")).collect();
    names.sort();
    names
}

#[test]
fn a_node_is_seeded_with_an_image_and_only_what_was_written_since_is_copied() {
    let mut pair = Pair::blank();
    pair.alice.start();
    pair.alice.ok(&["create-md", "r0"]);
    pair.alice.ok(&["up", "r0"]);
    pair.alice.ok(&["primary", "--force", "r0"]);
    let mut ledger = Ledger::seeded(74);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(500)));
    // A whole MiB far away from what is written later, and one at each end.
    for offset in [0, 20 << 20] {
        client.write(offset, &vec![0x77; 1 << 20], 0).expect("a write");
    }
    client.flush().expect("a flush");
    pair.bob.start();
    let mut stage = Stage::new(pair);
    let image = stage.folder.join("truck/r0.img");
    let mut burst = 0;
    let mut late = Ledger::seeded(75);
    stage.run_with("seed", |pair, command| {
        // It is written after each step.
        burst += 1;
        assert!(late.write(&mut pair.alice.client(), &Burst::Count(40)), "{command}");
        if command.starts_with("cp") && image.exists() {
            // A block of the image that nobody writes on alice: were it copied, it would be right.
            let file = fs::OpenOptions::new().write(true).open(&image).expect("the image");
            file.write_all_at(&[0x55; 4096], (20 << 20) + 8192).expect("it is written");
        }
    });
    assert!(burst > 4);
    stage.pair.wait_connected();
    stage.pair.wait_synced();
    let moved = stage.pair.bob.peer_kib("received");
    let written = 4 * late.blocks();
    assert!(moved <= 2 * written + 64, "{moved} KiB moved of {written} that were written since");
    // The damaged block has not been copied; all others are equal.
    let mut other = [0; 4096];
    let file = fs::OpenOptions::new().read(true).write(true).open(&stage.pair.bob.disk);
    let file = file.expect("bob's disk");
    file.read_exact_at(&mut other, (20 << 20) + 8192).expect("a read");
    assert_eq!(other, [0x55; 4096], "it was a full sync");
    file.write_all_at(&[0x77; 4096], (20 << 20) + 8192).expect("as it was");
    let mut client = stage.pair.alice.client();
    client.flush().expect("a flush of both");
    stage.pair.assert_equal_disks();
    assert!(stage.pair.alice.status()["devices"][0]["disk-state"] == "UpToDate");
    assert_eq!(saved(&stage.pair.alice).len(), 2, "primary --force, new-current-uuid");
}

#[test]
fn metadata_is_dumped_wiped_and_restored() {
    let mut stage = Stage::new(Pair::in_sync());
    let mut client = stage.pair.alice.client();
    client.write(0, &[9; 4096], 0).expect("a write");
    client.flush().expect("a flush of both");
    stage.run_with("wipe-and-restore", |pair, command| {
        if command.contains("wipe-md") {
            pair.bob.refused(10, &["attach", "r0/0"]);
        }
    });
    stage.pair.wait_synced();
    assert!(stage.pair.bob.peer_kib("received") < 1024, "no full sync");
    stage.pair.assert_equal_disks();
}

#[test]
fn the_tasks_of_a_usual_day() {
    let mut stage = Stage::new(Pair::in_sync());
    stage.run("look");
    stage.run("options");
    stage.run("pause");
    // bob's disk loses a block.
    let disk = fs::OpenOptions::new().write(true).open(&stage.pair.bob.disk).expect("it is there");
    disk.write_all_at(&[0x55; 4096], 9 << 20).expect("it is written");
    stage.run_with("verify", |pair, command| {
        if command == "tandemadm wait-sync r0" {
            let said = pair.bob.adm(&["check", "r0"]);
            assert!([0, 1].contains(&said.code), "{said:?}");
        }
    });
    stage.pair.assert_equal_disks();

    let mut ledger = Ledger::seeded(76);
    let mut client = stage.pair.alice.client();
    stage.run_with("leave", |pair, command| {
        if command.contains("--for") {
            until("alice dials a peer that hangs up", || {
                let connection = pair.alice.connection();
                (connection["connection-state"] == "Connecting").then_some(())
            });
            assert!(ledger.write(&mut client, &Burst::Count(20)), "alice goes on");
        }
    });
    client.disconnect().expect("a clean end");
    stage.pair.assert_equal_disks();

    // bob's new address is another port here.
    let new = free_ports(1)[0];
    let places = [("10.0.0.2:7789", stage.pair.bob.port), ("10.0.0.3:7789", new)];
    stage.places = places.map(|(old, port)| (old.to_owned(), format!("127.0.0.1:{port}"))).into();
    let mut client = stage.pair.alice.client();
    stage.run_with("new-address", |_, command| {
        assert!(ledger.write(&mut client, &Burst::Count(20)), "alice goes on: {command}");
    });
    client.disconnect().expect("a clean end");
    stage.run("move");
    assert_eq!(stage.pair.bob.ok(&["role", "r0"]).trim(), "Primary");

    // Both are written alone; bob is the one to lose that.
    for node in [&stage.pair.alice, &stage.pair.bob] {
        node.ok(&["disconnect", "--force", "r0"]);
    }
    stage.pair.alice.ok(&["primary", "r0"]);
    assert!(ledger.write(&mut stage.pair.alice.client(), &Burst::Count(20)));
    stage.pair.bob.client().write(1 << 20, &[7; 4096], 0).expect("a write alone");
    for node in [&stage.pair.alice, &stage.pair.bob] {
        node.ok(&["connect", "r0"]);
    }
    stage.pair.bob.wait_connection("StandAlone", "split-brain");
    stage.run("split-brain");
    ledger.check(&mut stage.pair.alice.client());
    stage.pair.assert_equal_disks();
}

#[test]
fn a_disk_that_hangs_is_given_up_and_attached_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(disk) = HangingDisk::new("hung_task", dir.path()) else { return };
    let bob = dir.path().join("bob");
    File::create(&bob).and_then(|file| file.set_len(DISK_SIZE)).expect("a file");
    let patience = "ping-int 2; ping-timeout 15; timeout 15; connect-int 2;";
    let pair = Plan::new().disks(&disk.device, &bob).net(patience).in_sync();
    let mut stage = Stage::new(pair);
    let mut client = stage.pair.alice.client();
    let frozen = disk.freeze();
    let writer = std::thread::spawn(move || {
        client.write(0, &[2; 4096], 0).expect("bob has it");
    });
    let alice = &stage.pair.alice;
    until("alice's disk hangs", || alice.ok(&["status", "r0"]).contains("hung:yes").then_some(()));
    stage.run("hung-disk");
    writer.join().expect("it goes on without that disk");
    let said = stage.pair.alice.refused(10, &["attach", "r0/0"]);
    assert!(said.contains("(124)"), "{said}");
    drop(frozen);
    let alice = &stage.pair.alice;
    until("the system lets go", || (alice.dstate() == "Diskless/UpToDate").then_some(()));
    alice.ok(&["attach", "r0/0"]);
    stage.pair.wait_synced();
    stage.pair.assert_equal_disks();
}

/// A file system whose files can be copied by sharing their blocks.
struct SharingFolder(std::path::PathBuf);

impl SharingFolder {
    /// `None`, said aloud, where this system or user cannot make one.
    fn new(dir: &Path) -> Option<Self> {
        let (image, folder) = (dir.join("image"), dir.join("folder"));
        File::create(&image).and_then(|file| file.set_len(512 << 20)).expect("a file");
        fs::create_dir(&folder).expect("a folder");
        for words in [
            &["mkfs.xfs", "-q", text(&image)][..],
            &["mount", "-o", "loop", text(&image), text(&folder)],
        ] {
            // By `env`, so that a program that is not there is an error of its own.
            let said = run(Command::new("env").args(words));
            if said.code != 0 {
                skip("backup", &format!("no XFS: {}", said.stderr.trim()));
                return None;
            }
        }
        Some(Self(folder))
    }
}

impl Drop for SharingFolder {
    fn drop(&mut self) {
        run(Command::new("umount").args(["-l", text(&self.0)]));
    }
}

/// Bytes of the file system that is backed up; a client writes behind it meanwhile.
const FILES: u64 = 32 << 20;

/// What a client does until it is told to end: one block, then another, each answered before the
/// next.
fn rewrites(mut client: Client, number: &AtomicU64, ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        let number = number.fetch_add(1, Ordering::Relaxed) + 1;
        for block in [0, 1 << 20] {
            let bytes: Vec<u8> = number.to_be_bytes().repeat(512);
            client.write(FILES + block, &bytes, 0).expect("it is served");
        }
    }
    client.disconnect().expect("a clean end");
}

/// A copy of a disk holds no answered write without the one before it.
fn is_of_one_instant(image: &Path) {
    let file = File::open(image).expect("the copy");
    let number = |at| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, FILES + at).expect("a read");
        u64::from_be_bytes(bytes)
    };
    let (first, second) = (number(0), number(1 << 20));
    assert!(first > 0 && (first == second || first == second + 1), "{first} {second}");
}

#[test]
fn a_backup_of_the_secondary_is_looked_into_and_restored_through_the_device() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(sharing) = SharingFolder::new(dir.path()) else { return };
    let disks = ["alice.img", "bob.img"].map(|name| sharing.0.join(name));
    for disk in &disks {
        File::create(disk).and_then(|file| file.set_len(DISK_SIZE)).expect("a disk");
    }
    let mut stage = Stage::new(Plan::new().disks(&disks[0], &disks[1]).in_sync());
    // What the users have: a file system.
    let files = dir.path().join("files");
    fs::create_dir(&files).expect("a folder");
    fs::write(files.join("letter"), "dear bob").expect("a file");
    let image = dir.path().join("files.img");
    File::create(&image).and_then(|file| file.set_len(FILES)).expect("a file");
    let made =
        run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d", text(&files), text(&image)]));
    assert_eq!(made.code, 0, "{made:?}");
    let bytes = fs::read(&image).expect("the file system");
    let mut client = stage.pair.alice.client();
    for (at, piece) in (0..).step_by(1 << 20).zip(bytes.chunks(1 << 20)) {
        client.write(at, piece, 0).expect("a write");
    }
    client.flush().expect("a flush");

    let copy = disks[1].with_file_name("r0-backup.img");
    let kept = stage.folder.join("backup/r0.img");
    let number = AtomicU64::new(0);
    for task in ["backup", "backup-copy"] {
        let ends = AtomicBool::new(false);
        let busy = stage.pair.alice.client();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| rewrites(busy, &number, &ends));
            let before = number.load(Ordering::Relaxed);
            until("it writes", || (number.load(Ordering::Relaxed) > before + 1).then_some(()));
            stage.run(task);
            ends.store(true, Ordering::Relaxed);
            writer.join().expect("it was served");
        });
        is_of_one_instant(if task == "backup" { &copy } else { &kept });
    }
    // The users lose it all, and get it back.
    client.write(0, &vec![0; 8 << 20], 0).expect("a write");
    stage.run("restore");
    client.flush().expect("a flush of both");
    stage.pair.assert_equal_disks();
    let mut there = vec![0; bytes.len()];
    File::open(&disks[1]).and_then(|file| file.read_exact_at(&mut there, 0)).expect("bob's disk");
    assert!(there == bytes, "the file system is back on both");
}
