//! Tasks of docs/OPERATIONS.md, run as they are printed there.
//!
//! A block of the document that begins with three backquotes and `console NAME` is a task: each line
//! `NODE# COMMAND` is a shell command on that node, which has to succeed. Only paths are put in the
//! place of others, and a test looks at what has become of it.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ledger::{Burst, Ledger};
use crate::pair::{DISK_SIZE, Node, Pair, Said, run, text};
use crate::plan::Plan;
use crate::wait::until;

/// The lines of a task: node and command.
fn task(name: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md");
    let document = fs::read_to_string(path).expect("the document");
    let fence = format!("```console {name}");
    let mut lines = document.lines().skip_while(|line| *line != fence).skip(1);
    let block: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
    assert!(!block.is_empty(), "docs/OPERATIONS.md has no task {name}");
    let line = |line: &&str| {
        let (node, command) = line.split_once('#').unwrap_or_else(|| panic!("{name}: {line}"));
        (node.trim().to_owned(), command.trim().to_owned())
    };
    block.iter().filter(|line| !line.is_empty()).map(line).collect()
}

/// A pair on which tasks are run.
struct Stage {
    pair: Pair,
    /// Where the task's files are.
    folder: PathBuf,
}

impl Stage {
    fn new(pair: Pair) -> Self {
        let folder = pair.dir.path().join("work");
        fs::create_dir_all(folder.join("truck")).expect("a folder");
        let stage = Self { pair, folder };
        for node in [&stage.pair.alice, &stage.pair.bob] {
            stage.wrap(node);
        }
        stage
    }

    /// `tandemadm` as it is installed on the node.
    fn wrap(&self, node: &Node) {
        let folder = self.folder.join(node.name);
        fs::create_dir_all(&folder).expect("a folder");
        let script = format!(
            "#!/bin/sh\nexec {} --node {} --run-dir {} -c {} \"$@\"\n",
            env!("CARGO_BIN_EXE_tandemadm"),
            node.name,
            node.run_dir.display(),
            node.config.display()
        );
        let file = folder.join("tandemadm");
        fs::write(&file, script).expect("a script");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }

    fn shell(&self, node: &Node, command: &str) -> Said {
        let command = command
            .replace("/var/lib/tandem/r0.img", text(&node.disk))
            .replace("/mnt/truck", text(&self.folder.join("truck")));
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).current_dir(&self.folder);
        // `run` puts more behind the path of this process, not before it.
        let path = format!("PATH={}:{path}", self.folder.join(node.name).display());
        let mut within = Command::new("env");
        within.arg(path).arg(shell.get_program()).args(shell.get_args());
        within.current_dir(&self.folder);
        run(&mut within)
    }

    /// Runs a task; `between` after each line, with its command.
    fn run_with(&mut self, name: &str, mut between: impl FnMut(&mut Pair, &str)) {
        for (who, command) in task(name) {
            for node in ["alice", "bob"] {
                if who != node && who != "both" {
                    continue;
                }
                let node = if node == "alice" { &self.pair.alice } else { &self.pair.bob };
                let said = self.shell(node, &command);
                assert_eq!(said.code, 0, "{name}: {who}# {command}: {said:?}");
            }
            between(&mut self.pair, &command);
        }
    }

    fn run(&mut self, name: &str) {
        self.run_with(name, |_, _| ());
    }

    fn why(&self, node: &Node, what: &str) {
        let why = node.ok(&["why", "r0"]);
        assert!(why.contains(what), "{what} in\n{why}");
    }
}

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
    stage.why(&stage.pair.bob, "the disk there has no metadata, so it is a new one");
    assert!(ledger.write(&mut client, &Burst::Count(100)), "alice goes on");
    stage.run("replace-disk");
    stage.pair.wait_synced();
    assert_eq!(stage.pair.bob.full_syncs(), 2, "of the first disk, and of this one");
    client.flush().expect("a flush of both");
    ledger.check(&mut client);
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
