//! Backing disks of all kinds: several volumes and resources, block devices, disks that are
//! taken away, given back, absent or full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ledger::{Burst, Ledger, under_load};
use crate::load::Load;
use crate::namespace::skip;
use crate::pair::{DISK_SIZE, Node, Pair, assert_equal, run, text};
use crate::plan::{Plan, disk_of};
use crate::wait::until;

/// A loop device over a file of its own.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    /// `None`, said aloud, where this system or user has none.
    pub(crate) fn new(test: &str, file: &Path, sector_size: &str) -> Option<Self> {
        fs::File::create(file).and_then(|file| file.set_len(DISK_SIZE)).expect("a file");
        Self::over(test, file, sector_size)
    }

    /// Over a file that is there.
    fn over(test: &str, file: &Path, sector_size: &str) -> Option<Self> {
        let mut losetup = Command::new("losetup");
        losetup.args(["-f", "--show", "--sector-size", sector_size, text(file)]);
        let made = run(&mut losetup);
        if made.code != 0 {
            skip(test, &format!("no loop device: {}", made.stderr.trim()));
            return None;
        }
        Some(Self(PathBuf::from(made.stdout.trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run(Command::new("losetup").args(["-d", text(&self.0)]));
    }
}

/// A file system in memory, smaller than the disk in it.
pub(crate) struct SmallRoom(pub(crate) PathBuf);

impl SmallRoom {
    pub(crate) fn new(test: &str, folder: &Path, size: &str) -> Option<Self> {
        fs::create_dir(folder).expect("a folder");
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        let said = run(mount.args(["-t", "tmpfs", "-o", &options, "tmpfs", text(folder)]));
        if said.code != 0 {
            skip(test, &format!("no tmpfs: {}", said.stderr.trim()));
            return None;
        }
        Some(Self(folder.to_owned()))
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        let said = run(Command::new("mount").args(["-o", &options, text(&self.0)]));
        assert_eq!(said.code, 0, "{said:?}");
    }
}

impl Drop for SmallRoom {
    fn drop(&mut self) {
        // Lazily: a daemon of a failed test may still have the file.
        run(Command::new("umount").args(["-l", text(&self.0)]));
    }
}

fn wait_dstate(node: &Node, wanted: &str) {
    until(&format!("{} is {wanted}", node.name), || (node.dstate() == wanted).then_some(()));
}

#[test]
fn a_file_and_the_loop_device_over_it_are_one_disk() {
    let pair = Pair::in_sync();
    let test = "a_file_and_the_loop_device_over_it_are_one_disk";
    let Some(device) = Loop::over(test, &pair.bob.disk, "512") else { return };
    let (file, device) = (text(&pair.bob.disk).to_owned(), text(&device.0).to_owned());
    pair.edit(&format!("disk {file};"), &format!("disk {device};"));
    let over = format!("is in use by tandemd (pid {}), who has {file}", pair.bob.pid());
    let said = pair.bob.refused(10, &["create-md", "--force", "r0"]);
    assert!(said.contains("(114)") && said.contains(&over), "{said}");
    // In the place of the file, while it is in use, it is refused before anything is let go of.
    let said = pair.bob.refused(10, &["adjust", "r0"]);
    assert!(said.contains("(114)") && said.contains("The old disk stays attached."), "{said}");
    assert_eq!(pair.bob.dstate(), "UpToDate/UpToDate");
    // The other way round.
    pair.bob.ok(&["down", "r0"]);
    pair.bob.ok(&["up", "r0"]);
    pair.wait_synced();
    assert_eq!(pair.bob.status()["devices"][0]["backing-dev"], device.as_str());
    pair.edit(&format!("disk {device};"), &format!("disk {file};"));
    let said = pair.bob.refused(10, &["create-md", "--force", "r0"]);
    assert!(said.contains("(114)") && said.contains("is in use by tandemd"), "{said}");
    pair.bob.ok(&["down", "r0"]);
    pair.bob.ok(&["up", "r0"]);
    pair.wait_synced();
}

#[test]
fn volumes_and_resources_of_one_daemon_pair_fail_over_together() {
    let resources = [("r0", 2), ("mail", 1)];
    let mut pair = Plan::new().resources(&resources).in_sync();
    let exports = ["r0/0", "r0/1", "mail"];
    let mut ledgers = [30, 31, 32].map(Ledger::seeded);
    for (ledger, export) in ledgers.iter_mut().zip(exports) {
        assert!(ledger.write(&mut pair.alice.client_of(export), &Burst::Count(400)));
    }
    // One resource can be let go without the other.
    pair.alice.ok(&["secondary", "mail"]);
    pair.bob.ok(&["primary", "mail"]);
    assert!(ledgers[2].write(&mut pair.bob.client_of("mail"), &Burst::Count(200)));
    assert!(ledgers[1].write(&mut pair.alice.client_of("r0/1"), &Burst::Count(200)));

    pair.alice.kill();
    until("bob sees it", || {
        (pair.bob.connection()["connection-state"] == "Connecting").then_some(())
    });
    pair.bob.ok(&["primary", "r0"]);
    for (ledger, export) in ledgers.iter_mut().zip(exports) {
        let mut client = pair.bob.client_of(export);
        ledger.check(&mut client);
        assert!(ledger.write(&mut client, &Burst::Count(200)), "{export} alone");
    }
    pair.alice.start();
    pair.alice.ok(&["up", "all"]);
    pair.wait_connected();
    pair.wait_synced();
    for (ledger, export) in ledgers.iter_mut().zip(exports) {
        let mut client = pair.bob.client_of(export);
        ledger.check(&mut client);
        client.flush().expect("a flush of both");
    }
    for (resource, volumes) in resources {
        for volume in 0..volumes {
            let [one, other] = [&pair.alice, &pair.bob].map(|node| disk_of(node, resource, volume));
            assert_equal(&one, &other, pair.bob.export_size());
        }
    }
}

#[test]
fn block_devices_with_logical_blocks_of_512_and_4096_make_a_pair() {
    const TEST: &str = "block_devices_with_logical_blocks_of_512_and_4096";
    let dir = tempfile::tempdir().expect("a folder");
    let Some(small) = Loop::new(TEST, &dir.path().join("512"), "512") else { return };
    let Some(large) = Loop::new(TEST, &dir.path().join("4096"), "4096") else { return };
    let mut pair = Plan::new().disks(&small.0, &large.0).in_sync();
    let mut ledger = Ledger::seeded(33);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(500)));
    // Pieces that are no whole blocks of either.
    for (offset, length) in [(50_000_001, 777), (50_000_511, 513), (50_004_095, 4098)] {
        client.write(offset, &vec![0xA5; length], 0).expect("a write");
    }
    client.trim(40 << 20, 2 << 20, 0).expect("a trim");
    client.write_zeroes((42 << 20) + 5, 100_000, 0).expect("zeroes");
    client.flush().expect("a flush");
    pair.assert_equal_disks();

    pair.alice.kill();
    until("bob sees it", || {
        (pair.bob.connection()["connection-state"] == "Connecting").then_some(())
    });
    pair.bob.ok(&["primary", "r0"]);
    let mut client = pair.bob.client();
    let piece = client.read(50_000_001, 777).expect("a read");
    assert!(piece.iter().all(|byte| *byte == 0xA5));
    assert!(ledger.write(&mut client, &Burst::Count(300)));
    pair.alice.start_up();
    pair.wait_connected();
    pair.wait_synced();
    client.flush().expect("a flush of both");
    pair.assert_equal_disks();

    // Somebody else's device is not taken, nor is ours by another.
    pair.alice.ok(&["down", "r0"]);
    let other = Plan::new().disks(&small.0, &large.0).blank();
    let mut other = other.alice;
    other.start();
    let said = pair.bob.refused(10, &["create-md", "--force", "r0"]);
    assert!(said.contains("in use"), "{said}");
    other.refused(10, &["create-md", "r0"]);
}

#[test]
fn a_primary_whose_disk_is_detached_is_served_by_its_peer() {
    let pair = Pair::in_sync();
    let mut ledger = Ledger::seeded(34);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(500)));
    pair.alice.ok(&["detach", "r0"]);
    wait_dstate(&pair.alice, "Diskless/UpToDate");
    // Its lock is gone, too: the file may be renamed, copied, checked.
    ledger.check(&mut client);
    assert!(ledger.write(&mut client, &Burst::Count(500)), "no error reaches the client");
    client.flush().expect("a flush of the peer");
    ledger.check(&mut client);
    pair.alice.ok(&["attach", "r0"]);
    assert!(ledger.write(&mut client, &Burst::Count(200)));
    pair.wait_synced();
    ledger.check(&mut client);

    pair.bob.ok(&["detach", "r0"]);
    wait_dstate(&pair.alice, "UpToDate/Diskless");
    assert!(ledger.write(&mut client, &Burst::Count(500)), "alone");
    let written = ledger.blocks() * 4;
    let before = pair.bob.peer_kib("received");
    pair.bob.ok(&["attach", "r0"]);
    pair.wait_synced();
    let moved = pair.bob.peer_kib("received") - before;
    assert!(moved <= 2 * written, "{moved} KiB moved: a quick resync");
    client.flush().expect("a flush of both");
    ledger.check(&mut client);
    pair.assert_equal_disks();
}

#[test]
fn the_last_good_disk_is_not_detached_under_a_primary() {
    let pair = Pair::in_sync();
    pair.alice.ok(&["disconnect", "r0"]);
    let mut client = pair.alice.client();
    client.write(0, &[7; 4096], 0).expect("a write alone");
    let said = pair.alice.refused(17, &["detach", "r0"]);
    assert!(said.contains("(-2)"), "{said}");
    assert_eq!(client.read(0, 4096).expect("a read"), [7; 4096]);
}

#[test]
fn a_primary_without_a_disk_of_its_own_serves_from_its_peer() {
    let mut pair = Pair::in_sync();
    let mut ledger = Ledger::within(3, 35);
    assert!(ledger.write(&mut pair.alice.client(), &Burst::Count(500)));
    pair.alice.ok(&["down", "r0"]);
    let away = pair.dir.path().join("away");
    fs::rename(&pair.alice.disk, &away).expect("it is there");
    let said = pair.alice.refused(10, &["up", "r0"]);
    assert!(said.contains("alice.img"), "{said}");
    pair.alice.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.alice.ok(&["primary", "r0"]);
    let mut client = pair.alice.client();
    ledger.check(&mut client);
    assert!(ledger.write(&mut client, &Burst::Count(500)), "through the peer's disk");
    client.flush().expect("a flush of the peer");

    // The one that has the data is started anew under a Primary without any.
    client.disconnect().expect("a clean end of the client");
    assert!(pair.bob.terminate().success());
    pair.bob.start_up();
    pair.wait_connected();
    wait_dstate(&pair.alice, "Diskless/UpToDate");
    ledger.check(&mut pair.alice.client());

    // Its daemon crashes under writes: they fail until it is back, and then all goes on.
    let mut other = pair.alice.client();
    let client = pair.alice.client();
    let mut ledger = under_load(ledger, client, 1000, || {
        pair.bob.kill();
        let error = other.write(0, &[1; 4096], 0).expect_err("there is no disk");
        assert_eq!(error.errno(), Some(nbd::Errno::EIO), "{error}");
        pair.bob.start_up();
        pair.wait_connected();
        wait_dstate(&pair.alice, "Diskless/UpToDate");
        let last = other.size() - 4096;
        other.write(last, &[3; 4096], 0).expect("nobody has ordered anything");
        assert_eq!(other.read(last, 4096).expect("a read"), [3; 4096]);
        pair.alice.ok(&["secondary", "--force", "r0"]);
    });
    pair.alice.ok(&["primary", "r0"]);
    ledger.check(&mut pair.alice.client());

    fs::rename(&away, &pair.alice.disk).expect("it is there");
    pair.alice.ok(&["attach", "r0"]);
    pair.wait_synced();
    let mut client = pair.alice.client();
    ledger.check(&mut client);
    client.flush().expect("a flush of both");
    pair.assert_equal_disks();
}

#[test]
fn a_full_disk_that_is_the_only_one_suspends_writes_until_there_is_room() {
    const TEST: &str = "a_full_disk_that_is_the_only_one";
    let dir = tempfile::tempdir().expect("a folder");
    let Some(room) = SmallRoom::new(TEST, &dir.path().join("room"), "24M") else { return };
    let disk = room.0.join("alice.img");
    let pair = Plan::new().disks(&disk, &dir.path().join("bob.img")).connected();
    pair.alice.ok(&["disconnect", "r0"]);
    pair.alice.ok(&["primary", "--force", "r0"]);
    let mut client = pair.alice.client();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let piece = vec![0x5A; 1 << 20];
            for number in 0..32 {
                client.write(number << 20, &piece, 0).expect("no error reaches the client");
            }
            client.flush().expect("a flush");
        });
        until("writes wait for room", || {
            let status = pair.alice.status();
            (status["suspended-no-space"] == true).then_some(())
        });
        assert!(pair.alice.ok(&["status", "r0"]).contains("suspended:no-space"));
        assert!(pair.alice.ok(&["why", "r0"]).contains("space"));
        assert!(!writer.is_finished());
        room.grow("80M");
        writer.join().expect("it goes on");
    });
    until("nothing waits", || (pair.alice.status()["suspended-no-space"] == false).then_some(()));
    pair.alice.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    pair.assert_equal_disks();
}

#[test]
fn a_full_disk_beside_a_good_one_is_given_up_and_the_client_goes_on() {
    const TEST: &str = "a_full_disk_beside_a_good_one";
    let dir = tempfile::tempdir().expect("a folder");
    let Some(room) = SmallRoom::new(TEST, &dir.path().join("room"), "24M") else { return };
    let disk = room.0.join("alice.img");
    let pair = Plan::new().disks(&disk, &dir.path().join("bob.img")).in_sync();
    let mut client = pair.alice.client();
    let piece = vec![0x5B; 1 << 20];
    for number in 0..32 {
        client.write(number << 20, &piece, 0).expect("no error reaches the client");
    }
    client.flush().expect("a flush of what is left");
    assert_eq!(pair.alice.dstate(), "Diskless/UpToDate");
    for number in 0..32 {
        let read = client.read(number << 20, 1 << 20).expect("a read of the peer");
        assert!(read == piece, "MiB {number}");
    }
    room.grow("80M");
    pair.alice.ok(&["attach", "r0"]);
    pair.wait_synced();
    client.flush().expect("a flush of both");
    pair.assert_equal_disks();
}

#[test]
fn two_disks_that_run_full_at_once_wait_for_room_and_are_equal_then() {
    const TEST: &str = "two_disks_that_run_full_at_once";
    let dir = tempfile::tempdir().expect("a folder");
    let Some(room) = SmallRoom::new(TEST, &dir.path().join("one"), "24M") else { return };
    let Some(other) = SmallRoom::new(TEST, &dir.path().join("two"), "24M") else { return };
    let disks = [room.0.join("alice.img"), other.0.join("bob.img")];
    let pair = Plan::new().disks(&disks[0], &disks[1]).in_sync();
    // Blocks that the disks have: they are written all the while.
    let mut ledger = Ledger::within(1, 71);
    let mut client = pair.alice.client();
    client.write(0, &vec![1; 4 << 20], 0).expect("there is room");
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    let load = Load::start(client, ledger);
    std::thread::scope(|scope| {
        // Four writes at a time, which reach each disk in an order of its own.
        let writers: Vec<_> = (0..4)
            .map(|writer: u64| {
                let mut client = pair.alice.client();
                scope.spawn(move || {
                    for number in 0..8 {
                        let piece = vec![0x60 + writer as u8; 1 << 20];
                        let offset = 8 + 4 * number + writer;
                        client.write(offset << 20, &piece, 0).expect("no error reaches it");
                    }
                    client.flush().expect("a flush");
                })
            })
            .collect();
        until("both disks are full", || {
            let said = pair.alice.ok(&["why", "r0"]);
            said.contains("the disks of alice and bob are full").then_some(())
        });
        assert!(pair.bob.ok(&["status", "r0"]).contains("suspended:no-space"));
        // Longer than one full disk beside a good one is waited for.
        let since = std::time::Instant::now();
        until("nothing is decided", || {
            load.progress(64);
            (since.elapsed().as_millis() > 3_500).then_some(())
        });
        assert!(!writers.iter().any(|writer| writer.is_finished()));
        assert_eq!(pair.alice.dstate(), "UpToDate/UpToDate");
        room.grow("80M");
        other.grow("80M");
        for writer in writers {
            writer.join().expect("it goes on");
        }
    });
    let (mut ledger, mut client) = load.stop();
    until("nothing waits", || (pair.alice.status()["suspended-no-space"] == false).then_some(()));
    assert_eq!(pair.alice.dstate(), "UpToDate/UpToDate");
    client.flush().expect("a flush of both");
    ledger.check(&mut client);
    pair.assert_equal_disks();
}
