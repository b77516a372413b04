//! `device attach --fuse`: a file system on a loop device goes on when the Primary's daemon is killed and
//! when the device is handed over; let go of by force, its I/O fails and the next attach starts anew.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::namespace::skip;
use crate::pair::{Pair, text};
use crate::wait::until;

fn order(words: &[&str]) -> Result<String, String> {
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.map_err(|error| format!("{words:?}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn synced_file(folder: &Path, number: usize) {
    let mut file = File::create(folder.join(number.to_string())).expect("a file");
    file.write_all(&vec![u8::try_from(number % 251).expect("small"); 20_000]).expect("written");
    file.sync_all().expect("synced");
}

/// Detaches whatever is left when the test fails.
struct Attached<'a>(&'a Pair, &'a Path);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        let _ = order(&["umount", "--lazy", text(self.1)]);
        let _ = self.0.alice.adm(&["device", "detach", "--force", "r0"]);
    }
}

/// Whether this machine can do it; if not, it says so.
pub(crate) fn is_possible(test: &str) -> bool {
    let lacks = |path: &&str| File::options().read(true).write(true).open(path).err();
    let missing = ["/dev/fuse", "/dev/loop-control"]
        .into_iter()
        .find_map(|path| lacks(&path).map(|error| skip(test, &format!("{path}: {error}"))));
    missing.is_none()
}

/// A folder to mount on, and both nodes as servers.
fn stage(pair: &Pair) -> (PathBuf, String) {
    let folder = pair.dir.path().join("mounted");
    fs::create_dir(&folder).expect("a folder");
    let servers = format!(
        "--servers=unix:{},unix:{}",
        pair.alice.run_dir.join("nbd.sock").display(),
        pair.bob.run_dir.join("nbd.sock").display()
    );
    (folder, servers)
}

#[test]
fn a_file_system_over_fuse_is_handed_over_and_let_go_of_by_force() {
    if !is_possible("a_file_system_over_fuse_is_handed_over_and_let_go_of_by_force") {
        return;
    }
    let pair = Pair::in_sync();
    let (folder, servers) = stage(&pair);
    let attach = ["device", "attach", "--fuse", &servers, "--timeout=5", "r0"];
    let said = pair.alice.ok(&attach);
    let node = said.split(' ').nth(2).expect("a device").to_owned();
    let attached = Attached(&pair, &folder);
    order(&["mkfs.ext4", "-q", &node]).unwrap();
    order(&["mount", &node, text(&folder)]).unwrap();
    synced_file(&folder, 1);

    // Writers that overlap, so that several requests are under way.
    let (told, heard) = std::sync::mpsc::channel();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (folder, stop, told) = (&folder, &stop, told.clone());
            scope.spawn(move || {
                for number in (100 * writer..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    synced_file(folder, 1000 + number % 100 + 100 * writer);
                    let _ = told.send(());
                }
            });
        }
        let goes_on = || (0..30).for_each(|_| heard.recv().expect("it goes on"));
        goes_on();
        pair.bob.ok(&["primary", "--hand-over", "r0"]);
        while heard.try_recv().is_ok() {}
        goes_on();
        stop.store(true, Ordering::Relaxed);
    });
    until("it is said who serves it now", || {
        pair.alice.ok(&["device", "status", "r0"]).contains(text(&pair.bob.run_dir)).then_some(())
    });

    // By force: the file system's I/O fails, nothing is left over after the unmount.
    pair.alice.refused(10, &["device", "detach", "--force", "r0"]);
    let failed = File::create(folder.join("late")).and_then(|file| file.sync_all());
    assert!(failed.is_err(), "a write went somewhere");
    let status = pair.alice.ok(&["device", "status", "r0"]);
    assert!(status.contains("guard: none"), "{status}");
    order(&["umount", text(&folder)]).unwrap();
    pair.alice.ok(&["device", "detach", "r0"]);
    let said = pair.alice.ok(&attach);
    let node = said.split(' ').nth(2).expect("a device").to_owned();
    order(&["mount", &node, text(&folder)]).unwrap();
    assert_eq!(fs::read(folder.join("1")).expect("a synced file"), vec![1; 20_000]);
    order(&["umount", text(&folder)]).unwrap();
    pair.alice.ok(&["device", "detach", "r0"]);
    drop(attached);
}

/// In front of the system's: refuses to have a device grow for as long as a file is there, and writes down
/// that it was asked.
const LOSETUP: &str = "#!/bin/sh
here=${0%/*}
if [ \"$1\" = -c ]; then
    echo \"$2\" >>\"$here/asked\"
    [ ! -e \"$here/refuse\" ] || { echo 'losetup: not now' >&2; exit 1; }
fi
PATH=${PATH#*:}
exec losetup \"$@\"
";

#[test]
fn a_device_over_fuse_has_grown_when_its_loop_device_has() {
    if !is_possible("a_device_over_fuse_has_grown_when_its_loop_device_has") {
        return;
    }
    let pair = Pair::in_sync();
    let (folder, servers) = stage(&pair);
    let programs = pair.dir.path().join("programs");
    fs::create_dir(&programs).expect("a folder");
    let losetup = programs.join("losetup");
    fs::write(&losetup, LOSETUP).expect("a program");
    order(&["chmod", "+x", text(&losetup)]).unwrap();
    fs::write(programs.join("refuse"), []).expect("a file");
    let path = std::env::var("PATH").unwrap_or_default();
    let attach = Command::new(env!("CARGO_BIN_EXE_tandemadm"))
        .args(["--run-dir", text(&pair.alice.run_dir), "device", "attach", "--fuse"])
        .args([&servers, "r0"])
        .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", text(&programs)))
        .output()
        .expect("tandemadm starts");
    let attached = Attached(&pair, &folder);
    let said = String::from_utf8_lossy(&attach.stdout).into_owned();
    let node = said.split(' ').nth(2).unwrap_or_else(|| panic!("{attach:?}")).to_owned();

    let before = pair.alice.export_size();
    for node in [&pair.alice, &pair.bob] {
        let disk = File::options().write(true).open(&node.disk).expect("a disk");
        let size = disk.metadata().expect("a disk").len();
        disk.set_len(size + (32 << 20)).expect("room");
    }
    pair.alice.ok(&["resize", "r0"]);
    let size = pair.alice.export_size();
    assert!(size > before, "{size} {before}");
    let said_size = || {
        let text = pair.alice.ok(&["device", "status", "--json", "r0"]);
        let mut all: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        all[0]["size"].take().as_u64().expect("a number")
    };
    let size_of = |node: &str| {
        let name = node.trim_start_matches("/dev/");
        let sectors = fs::read_to_string(format!("/sys/block/{name}/size")).expect("it is there");
        sectors.trim().parse::<u64>().expect("a number") * 512
    };
    until("it is tried again", || {
        let asked = fs::read_to_string(programs.join("asked")).unwrap_or_default();
        (asked.lines().count() >= 2).then_some(())
    });
    assert_eq!((said_size(), size_of(&node)), (before, before), "it was refused");
    fs::remove_file(programs.join("refuse")).expect("it is there");
    until("it is said that it has grown", || (said_size() == size).then_some(()));
    assert_eq!(size_of(&node), size);
    pair.alice.ok(&["device", "detach", "r0"]);
    drop(attached);
}

/// Its guard leaves the folder that it was started in, and the kernel names files by their real paths.
#[test]
fn a_run_folder_may_be_named_relatively_and_through_a_link() {
    if !is_possible("a_run_folder_may_be_named_relatively_and_through_a_link") {
        return;
    }
    let pair = Pair::in_sync();
    let (folder, servers) = stage(&pair);
    let dir = pair.dir.path();
    std::os::unix::fs::symlink(&pair.alice.run_dir, dir.join("link")).expect("a link");
    let attach = || {
        let attach = Command::new(env!("CARGO_BIN_EXE_tandemadm"))
            .args(["--run-dir", "link", "device", "attach", "--fuse", &servers, "r0"])
            .current_dir(dir)
            .output()
            .expect("tandemadm starts");
        let said = String::from_utf8_lossy(&attach.stdout).into_owned();
        said.split(' ').nth(2).unwrap_or_else(|| panic!("{attach:?}")).to_owned()
    };
    let is_looped = |node: &str| {
        Path::new(&format!("/sys/block/{}/loop", node.trim_start_matches("/dev/"))).exists()
    };
    let link = dir.join("link");
    for words in [&["device", "detach", "r0"][..], &["device", "detach", "--force", "r0"]] {
        let node = attach();
        let attached = Attached(&pair, &folder);
        assert!(pair.alice.ok(&["device", "status", "r0"]).contains(&node));
        assert!(is_looped(&node), "{node}");
        let mut all = vec!["--run-dir", text(&link)];
        all.extend(words);
        let said = Command::new(env!("CARGO_BIN_EXE_tandemadm")).args(all).output();
        let said = said.expect("tandemadm starts");
        assert!(said.status.success(), "{words:?}: {said:?}");
        until("the loop device is gone", || (!is_looped(&node)).then_some(()));
        drop(attached);
    }
}

/// Who may not look at a guard's lock cannot hold it either, and no process is killed that is not the guard.
#[test]
fn the_lock_of_a_guard_is_its_owners_and_names_whom_it_may_kill() {
    if !is_possible("the_lock_of_a_guard_is_its_owners_and_names_whom_it_may_kill") {
        return;
    }
    let pair = Pair::in_sync();
    let (folder, servers) = stage(&pair);
    let run_dir = &pair.alice.run_dir;
    let lock = run_dir.join("fuse-r0-0.guard");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    // Of an older version.
    fs::write(&lock, "1").expect("a file");
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).expect("it is ours");
    pair.alice.ok(&["device", "attach", "--fuse", "--no-loop", &servers, "r0"]);
    let attached = Attached(&pair, &folder);
    for name in ["fuse-r0-0.guard", "r0-0.attach", "fuse-r0-0.token", "lock"] {
        assert_eq!(mode(&run_dir.join(name)), 0o600, "{name}");
    }
    fs::set_permissions(pair.dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    // In a folder that anybody may enter. A process of its own copies it: none of the other tests' children
    // has it open.
    let program = pair.dir.path().join("tandemadm");
    order(&["cp", env!("CARGO_BIN_EXE_tandemadm"), text(&program)]).unwrap();
    let status = |words: &[&str]| {
        let mut all = vec!["setpriv", "--reuid=65534", "--clear-groups", text(&program)];
        all.extend(["--run-dir", text(run_dir), "device", "status", "r0"]);
        all.extend(words);
        order(&all).expect("anybody may ask")
    };
    let said = status(&[]);
    assert!(said.contains("guard: unknown; only root may know"), "{said}");
    let said: serde_json::Value = serde_json::from_str(&status(&["--json"])).expect("it is JSON");
    assert_eq!(said[0]["guard"], "unknown");

    let guard = fs::read_to_string(&lock).expect("a number");
    let mut other = Command::new("sleep").arg("600").spawn().expect("it starts");
    fs::write(&lock, other.id().to_string()).expect("it is ours");
    let said = pair.alice.adm(&["device", "detach", "--force", "r0"]);
    let ended = other.try_wait().expect("it is ours");
    other.kill().and_then(|()| other.wait()).expect("it is ours");
    // Also before anything is compared: it is detached when this fails.
    fs::write(&lock, guard).expect("it is ours");
    assert_eq!(ended, None, "it was killed");
    assert!(said.code == 10 && said.stderr.contains("nothing is killed"), "{said:?}");
    pair.alice.ok(&["device", "detach", "--force", "r0"]);
    drop(attached);
}

#[test]
fn a_file_system_over_fuse_goes_on_through_a_crash() {
    if !is_possible("a_file_system_over_fuse_goes_on_through_a_crash") {
        return;
    }
    let mut pair = Pair::in_sync();
    let (folder, servers) = stage(&pair);
    let attach = ["device", "attach", "--fuse", &servers, "--timeout=2", "r0"];
    let said = pair.alice.ok(&attach);
    let alice_run = pair.alice.run_dir.clone();
    let node = said.split(' ').nth(2).expect("a device").to_owned();
    assert!(node.starts_with("/dev/loop"), "{said}");
    pair.alice.refused(10, &attach);
    order(&["mkfs.ext4", "-q", &node]).unwrap();
    order(&["mount", &node, text(&folder)]).unwrap();
    pair.alice.refused(11, &["device", "detach", "r0"]);

    // Files are written and synced all the time.
    let (told, heard) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writer = {
        let folder = folder.clone();
        std::thread::spawn(move || {
            let mut number = 0;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                synced_file(&folder, number);
                let _ = told.send(number);
                number += 1;
            }
            number
        })
    };
    for _ in 0..20 {
        heard.recv().expect("it goes on");
    }
    pair.alice.kill();
    until("bob sees it", || {
        (pair.bob.connection()["connection-state"] == "Connecting").then_some(())
    });
    until("it is said that there is no server", || {
        pair.alice.ok(&["device", "status", "r0"]).contains("server: none for").then_some(())
    });
    // Nothing can be flushed: that is said, and not waited for.
    let said = pair.alice.refused(10, &["device", "detach", "r0"]);
    assert!(said.contains("has had no server for"), "{said}");
    pair.bob.ok(&["primary", "r0"]);
    while heard.try_recv().is_ok() {}
    for _ in 0..20 {
        heard.recv().expect("it goes on after the crash");
    }
    drop(stop);
    let count = writer.join().expect("no write has failed");
    let status = pair.alice.ok(&["device", "status", "r0"]);
    assert!(status.contains(text(&pair.bob.run_dir)), "{status}");
    order(&["umount", text(&folder)]).unwrap();
    pair.alice.ok(&["device", "detach", "r0"]);
    assert!(!alice_run.join("fuse-r0-0.device").exists());

    // On bob alone, through a new attach.
    let said = pair.alice.ok(&attach);
    let node = said.split(' ').nth(2).expect("a device").to_owned();
    let attached = Attached(&pair, &folder);
    order(&["e2fsck", "-fn", &node]).unwrap();
    order(&["mount", "-o", "ro", &node, text(&folder)]).unwrap();
    for number in 0..count {
        let data = fs::read(folder.join(number.to_string())).expect("a synced file");
        let byte = u8::try_from(number % 251).expect("small");
        assert!(data.len() == 20_000 && data.iter().all(|one| *one == byte), "{number}");
    }
    order(&["umount", text(&folder)]).unwrap();
    pair.alice.ok(&["device", "detach", "r0"]);
    drop(attached);
}
