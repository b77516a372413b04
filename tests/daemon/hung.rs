//! A disk that neither answers nor fails: a loop device over a file system that is frozen.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::namespace::skip;
use crate::pair::{DISK_SIZE, run, text};
use crate::plan::Plan;
use crate::qsd::Rig;
use crate::wait::until;

/// A loop device over a file in a file system of its own.
pub(crate) struct HangingDisk {
    folder: PathBuf,
    pub(crate) device: PathBuf,
}

/// While this lives nothing that is written to the disk ends.
pub(crate) struct Frozen<'a>(&'a HangingDisk);

impl HangingDisk {
    /// `None`, said aloud, where this system or user cannot make one.
    pub(crate) fn new(test: &str, dir: &Path) -> Option<Self> {
        let (image, folder) = (dir.join("image"), dir.join("folder"));
        let make = |path: &Path, size: u64| {
            std::fs::File::create(path).and_then(|file| file.set_len(size)).expect("a file");
        };
        make(&image, 4 * DISK_SIZE);
        std::fs::create_dir(&folder).expect("a folder");
        let tool = |words: &[&str]| run(Command::new(words[0]).args(&words[1..]));
        let made = tool(&["mkfs.ext4", "-q", text(&image)]);
        let mounted = tool(&["mount", "-o", "loop", text(&image), text(&folder)]);
        if made.code != 0 || mounted.code != 0 {
            skip(test, &format!("no file system: {made:?} {mounted:?}"));
            return None;
        }
        let file = folder.join("disk");
        make(&file, DISK_SIZE);
        let said = tool(&["losetup", "-f", "--show", text(&file)]);
        let disk = Self { folder, device: PathBuf::from(said.stdout.trim()) };
        if said.code != 0 {
            skip(test, &format!("no loop device: {}", said.stderr.trim()));
            return None;
        }
        Some(disk)
    }

    pub(crate) fn freeze(&self) -> Frozen<'_> {
        let said = run(Command::new("fsfreeze").args(["-f", text(&self.folder)]));
        assert_eq!(said.code, 0, "{said:?}");
        Frozen(self)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        run(Command::new("fsfreeze").args(["-u", text(&self.0.folder)]));
    }
}

impl Drop for HangingDisk {
    fn drop(&mut self) {
        run(Command::new("losetup").args(["-d", text(&self.device)]));
        run(Command::new("umount").args(["-l", text(&self.folder)]));
    }
}

#[test]
fn a_disk_that_hangs_longer_than_disk_timeout_is_given_up_and_clients_go_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(disk) = HangingDisk::new("disk_timeout", dir.path()) else { return };
    let bob = dir.path().join("bob");
    std::fs::File::create(&bob).and_then(|file| file.set_len(DISK_SIZE)).expect("a file");
    let plan = Plan::new().disks(&disk.device, &bob).sections("disk { disk-timeout 20; }");
    let pair = plan.in_sync();
    let alice = &pair.alice;
    let mut client = alice.client();
    client.write(0, &[1; 4096], 0).expect("a write");
    let frozen = disk.freeze();
    let begun = Instant::now();
    client.write(4096, &[2; 4096], 0).expect("bob has it");
    client.flush().expect("durable on bob");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(alice.dstate(), "Failed/UpToDate");
    assert!(alice.log_text().contains("did not answer for 2.0 s (disk-timeout)"));
    assert_eq!(client.read(4096, 4096).expect("from bob"), [2; 4096]);
    drop(frozen);
    until("the system lets go", || (alice.dstate() == "Diskless/UpToDate").then_some(()));
    alice.ok(&["attach", "r0"]);
    pair.wait_synced();
    pair.assert_equal_disks();
}

#[test]
fn a_disk_that_hangs_is_named_and_the_daemon_ends_without_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(disk) = HangingDisk::new("hung", dir.path()) else { return };
    let bob = dir.path().join("bob");
    std::fs::File::create(&bob).and_then(|file| file.set_len(DISK_SIZE)).expect("a file");
    let mut pair = Plan::new().disks(&disk.device, &bob).in_sync();
    pair.alice.ok(&["detach", "r0"]);

    // An attach is refused at last.
    let frozen = disk.freeze();
    let said = pair.alice.refused(10, &["attach", "r0"]);
    assert!(said.contains("(118)") && said.contains("does not answer"), "{said}");
    drop(frozen);
    until("the system lets go", || (pair.alice.dstate() == "Diskless/UpToDate").then_some(()));
    pair.alice.ok(&["attach", "r0"]);
    pair.wait_synced();

    let alice = &pair.alice;
    let mut client = alice.client();
    client.write(0, &[1; 4096], 0).expect("a write");
    client.flush().expect("a flush");
    assert_eq!(alice.adm(&["check"]).code, 0);
    let frozen = disk.freeze();
    let writer = std::thread::spawn(move || {
        // It is answered when the disk was given up; the daemon may end first.
        let _ = client.write(4096, &[2; 4096], 0);
    });
    until("alice's disk hangs", || alice.ok(&["status", "r0"]).contains("hung:yes").then_some(()));
    let said = alice.adm(&["check"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stdout.contains("disk does not answer"), "{said:?}");
    let why = alice.ok(&["why", "r0"]);
    assert!(why.contains("alice's disk does not answer"), "{why}");
    assert!(!why.contains("nothing is wrong"), "{why}");

    let begun = Instant::now();
    assert!(pair.alice.terminate().success());
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    writer.join().expect("it ends");
    drop(frozen);
    pair.alice.start_up();
    pair.wait_synced();
    pair.assert_equal_disks();
}

/// Whoever waits for it, and everybody else who wants something of its resource.
#[test]
fn a_disk_that_hangs_while_it_is_opened_holds_nobody_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(rig) = Rig::new("hangs_while_opened", dir.path(), "rig") else { return };
    let alice = dir.path().join("alice.img");
    let pair = Plan::new().disks(&alice, &rig.device).connected().sync_skipped();
    let bob = &pair.bob;
    bob.ok(&["detach", "r0"]);
    let still = rig.stand_still();
    let said = bob.refused(10, &["attach", "r0"]);
    assert!(said.contains("(118)") && said.contains("was not open after 30 s"), "{said}");
    let said = bob.refused(11, &["attach", "r0"]);
    assert!(said.contains("(-18)") && said.contains("is still being opened"), "{said}");
    bob.refused(11, &["adjust", "r0"]);
    assert!(bob.ok(&["why", "r0"]).contains("is still being opened"));
    bob.ok(&["disconnect", "r0"]);
    bob.ok(&["connect", "r0"]);
    pair.wait_connected();
    bob.ok(&["down", "r0"]);
    drop(still);
    until("it was closed again, and is attached", || {
        (bob.adm(&["up", "r0"]).code == 0).then_some(())
    });
    pair.wait_synced();
}
