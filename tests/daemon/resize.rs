//! Disks that grow: in use, in a killed daemon's hands, while they are away.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::ledger::{Burst, Ledger};
use crate::pair::{DISK_SIZE, Pair, assert_equal};
use crate::wait::until;

const MORE: u64 = 24 << 20;

fn lengthen(disk: &Path, size: u64) {
    let file = fs::OpenOptions::new().write(true).open(disk).expect("the disk");
    file.set_len(size).expect("a size");
}

/// The orders of a node of the pair, in the background.
fn ordered(pair: &Pair, arguments: &[&str]) -> std::process::Child {
    let node = &pair.alice;
    Command::new(env!("CARGO_BIN_EXE_tandemadm"))
        .args(["--node", node.name, "--run-dir"])
        .arg(&node.run_dir)
        .arg("-c")
        .arg(&node.config)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("tandemadm starts")
}

/// A new disk that is forced is exported whole, as DRBD's is: who has had less in use is told.
#[test]
fn a_new_larger_disk_that_is_forced_says_what_the_volume_had() {
    let pair = Pair::in_sync();
    let had = pair.alice.export_size();
    // What is attached from now on is known by its note, with metadata of which no copy can be made.
    for node in [&pair.bob, &pair.alice] {
        node.ok(&["down", "r0"]);
    }
    pair.bob.ok(&["up", "r0"]);
    pair.bob.ok(&["down", "r0"]);
    let forced_anew = || {
        let state = pair.bob.run_dir.join("state");
        for name in crate::operations::saved(&pair.bob) {
            fs::remove_file(state.join(name)).expect("it is there");
        }
        fs::write(&pair.bob.disk, []).expect("a blank disk");
        lengthen(&pair.bob.disk, DISK_SIZE + MORE);
        pair.bob.ok(&["create-md", "r0"]);
        pair.bob.ok(&["up", "r0"]);
        pair.bob.adm(&["primary", "--force", "r0"])
    };
    let cure = |had: u64| {
        let both = "in `disk { }` of the volume on both nodes, and `create-md --force r0/0`";
        format!("`size {}s` {both}", had / 512)
    };
    // Not whole, where the file says how large it is.
    let sized = |bytes: u64| format!("protocol C; }} disk {{ size {}s;", bytes / 512);
    let (before, had) = (had, had + 8192);
    pair.edit("protocol C;", &sized(had));
    let said = forced_anew().stderr;
    let line = format!("this new disk is exported with {had} bytes, and the volume had {before}: ");
    assert!(said.contains(&line) && said.contains(&cure(before)), "{said}");
    pair.bob.ok(&["secondary", "r0"]);
    pair.bob.ok(&["down", "r0"]);
    pair.edit(&sized(had), "protocol C;");
    pair.bob.ok(&["up", "r0"]);
    pair.bob.ok(&["down", "r0"]);
    let said = forced_anew();
    let has = pair.bob.export_size();
    assert!(has > had, "{has} {had}");
    let line = format!(
        "warning: r0/0: this new disk is exported whole, {has} bytes, and the volume had {had}: "
    );
    let told = |text: &str| {
        text.contains(line.trim_start_matches("warning: ")) && text.contains(&cure(had))
    };
    assert!(said.code == 0 && said.stderr.contains(&line) && told(&said.stderr), "{said:?}");
    // It is logged before there is no way back.
    let log = pair.bob.log_text();
    let at = log.find("exported whole").expect("it is logged");
    assert!(told(&log) && at < log.rfind("forced: current UUID").expect("so is this"), "{log}");
    // What it says is done: the size of before, from a copy this time.
    pair.bob.ok(&["secondary", "r0"]);
    pair.bob.ok(&["down", "r0"]);
    pair.edit("protocol C;", &sized(had));
    pair.bob.ok(&["create-md", "--force", "r0"]);
    pair.bob.ok(&["up", "r0"]);
    let said = pair.bob.adm(&["primary", "--force", "r0"]);
    assert!(said.code == 0 && !said.stderr.contains("exported whole"), "{said:?}");
    assert_eq!(pair.bob.export_size(), had);
}

#[test]
fn daemons_that_are_killed_in_a_resize_come_back_with_all_of_the_data_and_one_size() {
    let mut pair = Pair::in_sync();
    // Of what was hot in a crash all is synced, and is not to be the whole disk.
    let mut ledger = Ledger::within(3, 81);
    let mut size = DISK_SIZE;
    for victims in [[true, false], [false, true], [true, true]] {
        let mut client = pair.alice.client();
        assert!(ledger.write(&mut client, &Burst::Count(60)));
        client.flush().expect("a flush of both");
        drop(client);
        size += MORE;
        for node in [&pair.alice, &pair.bob] {
            lengthen(&node.disk, size);
        }
        let old = pair.alice.export_size();
        let mut order = ordered(&pair, &["resize", "r0"]);
        // As soon as one of the disks is at it.
        let metadata = pair.bob.disk.clone();
        until("bob's metadata moves", || {
            use std::os::unix::fs::FileExt as _;
            let mut magic = [0; 8];
            let file = fs::File::open(&metadata).expect("the disk");
            file.read_exact_at(&mut magic, size - (256 << 10)).expect("its end");
            (&magic == b"TANDEMSB").then_some(())
        });
        let [alice, bob] = victims;
        if alice {
            pair.alice.kill();
        }
        if bob {
            pair.bob.kill();
        }
        order.wait().expect("it is ours");
        if bob {
            pair.bob.start_up();
        }
        if alice {
            pair.alice.start_up();
        }
        pair.wait_connected();
        pair.wait_synced();
        assert!(
            [old, old + MORE]
                .iter()
                .any(|near| pair.alice.export_size().abs_diff(*near) < MORE / 2)
        );
        pair.alice.ok(&["primary", "r0"]);
        pair.alice.ok(&["resize", "r0"]);
        pair.wait_synced();
        let now = pair.alice.export_size();
        assert_eq!(now, pair.bob.export_size());
        assert!(now > size - (2 << 20), "{now} of {size}");
        let mut client = pair.alice.client();
        ledger.check(&mut client);
        assert_equal(&pair.alice.disk, &pair.bob.disk, now);
        assert_eq!(pair.bob.full_syncs() + pair.alice.full_syncs(), 0, "nothing whole");
    }
}
