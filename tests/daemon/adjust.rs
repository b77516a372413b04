//! A config that changes while a resource runs: options, addresses, disks, sizes and paths.

use std::fs::{self, File};

use crate::pair::{DISK_SIZE, Pair, text};
use crate::plan::Plan;

impl Pair {
    /// Writes the config anew, with one text for another.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let path = &self.alice.config;
        let before = fs::read_to_string(path).expect("the config is there");
        assert!(before.contains(from), "{from} in {before}");
        fs::write(path, before.replace(from, to)).expect("it is written");
    }
}

#[test]
fn changed_options_are_shown_and_adjusted() {
    let pair = Plan::new().net("timeout 60;").in_sync();
    let alice = &pair.alice;
    assert_eq!(alice.ok(&["-d", "adjust", "r0"]), "");
    assert!(!alice.ok(&["status", "r0"]).contains("config:"));
    pair.edit("timeout 60;", "timeout 50; ping-int 3;");
    assert!(alice.ok(&["status", "r0"]).starts_with("r0 role:Primary config:differs\n"));
    assert_eq!(alice.status()["config-differs"], true);
    let why = alice.ok(&["why", "r0"]);
    assert!(why.contains("timeout is 60, not 50; ping-int is 10, not 3."), "{why}");
    assert_eq!(
        alice.ok(&["-d", "adjust", "r0"]),
        "drbdsetup net-options r0 1 --timeout=50 --ping-int=3\n"
    );
    alice.ok(&["adjust", "r0"]);
    assert!(!alice.ok(&["status", "r0"]).contains("config:"));
    assert!(alice.log_text().contains("timeout changed from 60 to 50"));

    // At run time, beside the file.
    assert_eq!(
        alice.ok(&["-d", "disk-options", "--c-max-rate=50M", "r0"]),
        "drbdsetup disk-options 0 --c-max-rate=50M\n"
    );
}

#[test]
fn options_change_at_run_time_and_wrong_ones_are_refused() {
    let pair = Pair::in_sync();
    let alice = &pair.alice;
    alice.ok(&["disk-options", "--c-max-rate=50M", "r0"]);
    alice.ok(&["net-options", "--ping-int=3", "r0"]);
    alice.ok(&["resource-options", "--auto-promote=yes", "r0"]);
    assert_eq!(
        alice.ok(&["-d", "adjust", "r0"]),
        "drbdsetup resource-options r0 --auto-promote=no\n\
         drbdsetup net-options r0 1 --ping-int=10\n\
         drbdsetup disk-options 0 --c-max-rate=0\n"
    );
    for (verb, option, what) in [
        ("net-options", "--ping-int=0", "ping-int 0 is out of range"),
        ("net-options", "--al-extents=99", "al-extents has its place in disk"),
        ("disk-options", "--nonsense=1", "unknown option nonsense"),
        ("net-options", "--protocol=A", "only C exists; write: protocol C;"),
    ] {
        let said = alice.refused(10, &[verb, option, "r0"]);
        assert!(said.contains(what), "{said}");
    }
    alice.refused(1, &["net-options", "--ping-int", "r0"]);
    // What a file is warned about takes effect here, too.
    let said = alice.adm(&["disk-options", "--md-flushes=no", "r0"]).stderr;
    assert!(said.starts_with("r0: warning: md-flushes no: takes effect"), "{said}");
    assert_eq!(said.matches("warning").count(), 1, "{said}");
    alice.ok(&["adjust", "r0"]);
    assert_eq!(alice.ok(&["-d", "adjust", "r0"]), "");
    assert_eq!(alice.ok(&["cstate", "r0"]), "Connected\n", "nothing was dropped");
}

#[test]
fn a_peer_with_a_new_address_is_met_again_without_an_outage() {
    let mut pair = Plan::new().impatient().in_sync();
    let mut client = pair.alice.client();
    client.write(0, &[7; 4096], 0).expect("it is written");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let new = port.local_addr().expect("bound").port();
    drop(port);
    pair.bob.terminate();
    pair.edit(&format!("127.0.0.1:{}", pair.bob.port), &format!("127.0.0.1:{new}"));
    client.write(4096, &[8; 4096], 0).expect("alice goes on alone");
    pair.bob.start_up();
    pair.alice.ok(&["connect", "r0"]);
    pair.wait_synced();
    client.write(8192, &[9; 4096], 0).expect("the client saw nothing");
    client.disconnect().expect("a clean end of the client");
    assert!(!pair.alice.ok(&["status", "r0"]).contains("config:"));
    let path = &pair.alice.connection()["paths"][0];
    assert_eq!(path["remote_host"]["port"], new);
    pair.assert_equal_disks();
}

#[test]
fn another_disk_is_attached_from_the_file() {
    let pair = Pair::in_sync();
    let (old, new) = (text(&pair.bob.disk).to_owned(), pair.dir.path().join("other.img"));
    File::create(&new).and_then(|file| file.set_len(DISK_SIZE)).expect("a disk");
    pair.edit(&old, text(&new));
    pair.bob.ok(&["create-md", "r0"]);
    assert_eq!(
        pair.bob.ok(&["-d", "adjust", "r0"]),
        format!("drbdsetup detach 0\ndrbdsetup attach 0 {0} {0} internal\n", text(&new))
    );
    pair.bob.ok(&["adjust", "r0"]);
    pair.wait_synced();
    assert!(!pair.bob.ok(&["status", "r0"]).contains("config:"));
    let size = pair.alice.export_size();
    crate::pair::assert_equal(&pair.alice.disk, &new, size);
}

#[test]
fn a_disk_that_cannot_be_attached_replaces_none() {
    let pair = Pair::in_sync();
    let (old, typo, new) = (
        text(&pair.bob.disk).to_owned(),
        pair.dir.path().join("bop.img"),
        pair.dir.path().join("other.img"),
    );
    File::create(&new).and_then(|file| file.set_len(DISK_SIZE)).expect("a disk");
    for (wrong, why) in [
        (&typo, "(104) Can not open backing device.\n"),
        (&new, "(119) No valid meta-data signature found.\n"),
        (&pair.alice.disk, "(119) No valid meta-data of this resource found.\n"),
    ] {
        // Other changes are put in force all the same.
        pair.edit(&format!("disk {old};"), &format!("disk {};", text(wrong)));
        pair.edit("protocol C;", "protocol C; ping-int 3;");
        let said = pair.bob.refused(10, &["adjust", "r0"]);
        assert!(said.starts_with(&format!("r0/0: Failure: {why}")), "{said}");
        assert!(said.ends_with("\nThe old disk stays attached.\n"), "{said}");
        assert!(!said.contains("adjust"), "{said}");
        assert_eq!(pair.bob.dstate(), "UpToDate/UpToDate");
        assert_eq!(pair.bob.ok(&["wait-sync", "--wfc-timeout", "5", "r0"]), "");
        pair.edit(&format!("disk {};", text(wrong)), &format!("disk {old};"));
        assert_eq!(pair.bob.ok(&["-d", "adjust", "r0"]), "");
        pair.edit("protocol C; ping-int 3;", "protocol C;");
        pair.bob.ok(&["adjust", "r0"]);
    }
    // The same file under another name is the same disk.
    let other_name = pair.dir.path().join("bob-again.img");
    fs::hard_link(&pair.bob.disk, &other_name).expect("a hard link");
    pair.edit(&format!("disk {old};"), &format!("disk {};", text(&other_name)));
    let left = |node: &crate::pair::Node| node.log_text().matches("Detaching").count();
    let before = left(&pair.bob);
    assert_eq!(pair.bob.adm(&["adjust", "r0"]).stderr, "");
    assert_eq!(left(&pair.bob), before, "it was never let go of");
    assert_eq!(pair.bob.status()["devices"][0]["backing-dev"], text(&other_name));
    assert_eq!(pair.bob.ok(&["-d", "adjust", "r0"]), "");
    // A disk that somebody else has.
    pair.edit(&format!("disk {};", text(&other_name)), &format!("disk {};", text(&new)));
    pair.bob.ok(&["create-md", "r0"]);
    let held = File::options().read(true).write(true).open(&new).expect("it is there");
    let lock = nix::fcntl::Flock::lock(held, nix::fcntl::FlockArg::LockExclusive).expect("free");
    let said = pair.bob.refused(10, &["adjust", "r0"]);
    assert!(said.contains("(114) Lower device is already claimed."), "{said}");
    assert_eq!(pair.bob.dstate(), "UpToDate/UpToDate");
    drop(lock);
    assert_eq!(pair.bob.adm(&["adjust", "r0"]).stderr, "");
    assert_ne!(left(&pair.bob), before, "that one was");
    pair.wait_synced();
}

#[test]
fn a_disk_that_was_moved_stays_in_use_by_its_new_path() {
    let pair = Pair::in_sync();
    let (old, new) = (text(&pair.bob.disk).to_owned(), pair.dir.path().join("moved.img"));
    fs::rename(&old, &new).expect("it is moved");
    pair.edit(&old, text(&new));
    // Before anybody has looked at the old path again: the daemon knows which file it has.
    let planned = pair.bob.ok(&["-d", "adjust", "r0"]);
    assert!(!planned.contains("detach"), "{planned}");
    let asked = pair.dir.path().join("asked-for.img");
    fs::rename(&new, &asked).expect("it is moved");
    pair.edit(text(&new), text(&asked));
    assert_eq!(pair.bob.adm(&["adjust", "r0"]).stderr, "");
    assert_eq!(pair.bob.ok(&["-d", "adjust", "r0"]), "");
    assert_eq!(pair.bob.status()["devices"][0]["backing-dev"], text(&asked));
    fs::rename(&asked, &new).expect("it is moved");
    pair.edit(text(&asked), text(&new));
    // What the daemon sees of the old path is seen now and then, and by an attach at once.
    let said = pair.bob.adm(&["attach", "r0"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert!(!pair.bob.ok(&["status", "r0"]).contains("config:"));
    // Moved on, and looked at meanwhile.
    let newer = pair.dir.path().join("moved-on.img");
    fs::rename(&new, &newer).expect("it is moved");
    let why = pair.bob.refused(10, &["attach", "r0"]);
    assert!(why.contains("moved.img is not there any more"), "{why}");
    pair.edit(text(&new), text(&newer));
    assert_eq!(pair.bob.adm(&["adjust", "r0"]).stderr, "");
    assert_eq!(pair.bob.status()["devices"][0]["backing-dev"], text(&newer));
    // Where its metadata ends is noted of that name alone.
    let state = fs::read_dir(pair.bob.run_dir.join("state")).expect("a folder");
    let notes = state.map(|entry| entry.expect("an entry").path());
    let is_note = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "json");
    let notes: Vec<String> =
        notes.filter(is_note).map(|path| fs::read_to_string(path).expect("a note")).collect();
    assert!(notes.len() == 1 && notes[0].contains(text(&newer)), "{notes:?}");
    assert!(!pair.bob.log_text().contains("Detaching"));
    assert_eq!(pair.bob.dstate(), "UpToDate/UpToDate");
}

/// `mv` to another file system copies a file and removes it: what is in use is the current data, and has no name.
#[test]
fn a_disk_without_a_name_is_not_let_go_of_for_a_copy_of_it() {
    let pair = Pair::in_sync();
    let (old, copy) = (text(&pair.bob.disk).to_owned(), pair.dir.path().join("copied.img"));
    fs::copy(&old, &copy).expect("it is copied");
    fs::remove_file(&old).expect("it is there");
    pair.edit(&format!("disk {old};"), &format!("disk {};", text(&copy)));
    pair.edit("protocol C;", "protocol C; ping-int 3;");
    let stays =
        format!("r0/0: Failure: (162) Invalid configuration request\n{old} is not there any more");
    let said = pair.bob.refused(10, &["-d", "adjust", "r0"]);
    assert!(said.contains(&stays), "{said}");
    let said = pair.bob.refused(10, &["adjust", "r0"]);
    assert!(said.contains(&stays) && said.contains("The old disk stays attached"), "{said}");
    assert!(said.contains("`tandemadm why r0`"), "{said}");
    // It looks at the path now.
    pair.bob.refused(10, &["attach", "r0"]);
    let why = pair.bob.ok(&["why", "r0"]);
    let flat = why.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("renamed within its file system (never copied)"), "{why}");
    // Not for none either; other changes are put in force all the same.
    pair.edit(&format!("disk {};", text(&copy)), "disk none;");
    let said = pair.bob.refused(10, &["adjust", "r0"]);
    assert!(said.contains(&stays), "{said}");
    assert!(!pair.bob.log_text().contains("Detaching"));
    assert_eq!(pair.bob.dstate(), "UpToDate/UpToDate");
    assert!(!pair.bob.adm(&["-d", "adjust", "r0"]).stdout.contains("ping-int"));
}

#[test]
fn a_refused_file_touches_nothing_and_the_right_one_is_taken_afterwards() {
    let pair = Pair::in_sync();
    let alice = &pair.alice;
    let mut client = alice.client();
    client.write(0, &[7; 4096], 0).expect("it is written");
    let good = fs::read_to_string(&alice.config).expect("the config is there");
    let exchanged = good
        .replace("node-id 0", "node-id 9")
        .replace("node-id 1", "node-id 0")
        .replace("node-id 9", "node-id 1");
    let other_minor = good.replace("minor 0", "minor 3");
    let renamed = good.replace("on bob", "on carol");
    for bad in [exchanged, other_minor, renamed] {
        assert_ne!(bad, good);
        fs::write(&alice.config, &bad).expect("it is written");
        for words in [&["-d", "adjust", "r0"][..], &["adjust", "r0"]] {
            let said = alice.refused(10, words);
            let begun = "r0: Failure: (162) Invalid configuration request\n";
            assert!(said.starts_with(begun), "{said}");
            assert!(said.contains("`tandemadm down r0`, `tandemadm up r0`"), "{said}");
        }
        assert_eq!(alice.dstate(), "UpToDate/UpToDate");
        assert!(alice.ok(&["status", "r0"]).contains("config:differs"));
        fs::write(&alice.config, &good).expect("it is written");
        assert_eq!(alice.ok(&["-d", "adjust", "r0"]), "");
        assert_eq!(alice.adm(&["adjust", "r0"]).stderr, "");
        assert!(!alice.ok(&["status", "r0"]).contains("config:"));
    }
    assert!(!alice.log_text().contains("Detaching"));
    client.write(4096, &[8; 4096], 0).expect("the client saw nothing");
    client.disconnect().expect("a clean end of the client");
}

#[test]
fn size_is_the_size_of_the_volume_and_the_least_that_its_disk_has() {
    let pair = Plan::new().sections("disk { size 32M; }").in_sync();
    assert_eq!(pair.alice.export_size(), 32 << 20);
    assert_eq!(pair.bob.export_size(), 32 << 20);
    pair.bob.ok(&["detach", "r0"]);
    pair.edit("size 32M", "size 640M");
    let said = pair.bob.refused(10, &["attach", "r0"]);
    assert!(said.contains("(111) Low.dev. smaller than requested DRBD-dev. size."), "{said}");
    pair.edit("size 640M", "size 16M");
    let said = pair.bob.refused(10, &["attach", "r0"]);
    assert!(said.contains("smaller than the data it held"), "{said}");
    pair.edit("size 16M", "size 32M");
    pair.bob.ok(&["attach", "r0"]);
    pair.wait_synced();
}

#[test]
fn another_size_is_for_the_next_resize_and_lets_go_of_no_disk() {
    let mut pair = Plan::new().sections("disk { size 32M; }").in_sync();
    pair.edit("size 32M", "size 40M");
    for node in [&pair.alice, &pair.bob] {
        node.ok(&["adjust", "r0"]);
        assert!(!node.log_text().contains("Detaching"), "{}", node.name);
        assert_eq!(node.adm(&["-d", "adjust", "r0"]).stdout, "");
    }
    assert_eq!(pair.alice.export_size(), 32 << 20, "nobody has ordered it");
    // More than there is would stand in the way of the next attach.
    pair.edit("size 40M", "size 640M");
    let said = pair.alice.refused(10, &["adjust", "r0"]);
    assert!(said.contains("(111)"), "{said}");
    pair.edit("size 640M", "size 40M");
    pair.alice.ok(&["resize", "r0"]);
    assert_eq!(pair.bob.export_size(), 40 << 20);
    pair.wait_synced();
    // An order goes further, where it is given on the node that stands in its way.
    let said = pair.alice.refused(10, &["resize", "--size=48M", "r0"]);
    assert!(said.contains("bob has room for 41943040 bytes"), "{said}");
    pair.bob.ok(&["resize", "--size=48M", "r0"]);
    assert_eq!(pair.alice.export_size(), 48 << 20);
    // What they come back with is what they had.
    pair.alice.ok(&["daemon", "restart"]);
    assert_eq!(pair.alice.dstate(), "UpToDate/UpToDate");
    pair.bob.kill();
    pair.bob.start();
    pair.wait_synced();
    assert_eq!(pair.bob.export_size(), 48 << 20);
    // The file says less: that is told, and nothing is cut off.
    let said = pair.alice.refused(10, &["adjust", "r0"]);
    assert!(said.contains("(170)"), "{said}");
    assert_eq!(pair.alice.export_size(), 48 << 20);
}

#[test]
fn disk_none_is_put_in_force_and_is_no_lost_disk() {
    let pair = Plan::new().in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    let disk = format!("disk {};", bob.disk.display());
    pair.edit(&disk, "disk none;");
    for node in [bob, alice] {
        node.ok(&["adjust", "r0"]);
        assert_eq!(node.adm(&["-d", "adjust", "r0"]).stdout, "");
    }
    assert_eq!(alice.dstate(), "UpToDate/Diskless");
    assert!(alice.ok(&["status", "r0"]).contains("peer-disk:Diskless peer-client:yes\n"));
    assert!(bob.ok(&["status", "r0"]).contains("  disk:Diskless client:yes open:no\n"));
    // It is meant: nothing is missing there, nobody is alarmed, and `up` attaches nothing.
    let mut client = alice.client();
    client.write(0, &[7; 8192], 0).expect("a write");
    client.disconnect().expect("a clean end");
    assert_eq!(alice.peer_kib("out-of-sync"), 0);
    assert_eq!(alice.status()["connections"][0]["peer_devices"][0]["percent-in-sync"], 100.0);
    for node in [bob, alice] {
        assert_eq!(node.adm(&["check"]).code, 0, "{:?}", node.adm(&["check"]));
        node.ok(&["wait-sync", "--wfc-timeout", "20", "r0"]);
    }
    bob.ok(&["up", "r0"]);
    assert_eq!(bob.dstate(), "Diskless/UpToDate");
    // Now it is to have one again, and lacks it.
    pair.edit("disk none;", &disk);
    alice.ok(&["adjust", "r0"]);
    assert_ne!(alice.adm(&["check"]).code, 0);
    assert_ne!(alice.peer_kib("out-of-sync"), 0);
    bob.ok(&["adjust", "r0"]);
    pair.wait_synced();
    assert_eq!(alice.adm(&["check"]).code, 0);
}

#[test]
fn paths_are_tried_in_turn_and_the_one_in_use_is_said() {
    let mut pair = Plan::new().impatient().blank();
    let (a, b) = (pair.alice.port, pair.bob.port);
    // The first path is one that no host has (TEST-NET-1).
    let path = |alice: &str, bob: &str| {
        format!("path {{ host alice address {alice}:{a}; host bob address {bob}:{b}; }}")
    };
    let connection = format!(
        "connection {{ {} {} }} on alice {{",
        path("192.0.2.1", "192.0.2.2"),
        path("127.0.0.4", "127.0.0.5")
    );
    pair.edit("on alice {", &connection);
    for node in [&mut pair.alice, &mut pair.bob] {
        node.start();
        node.ok(&["create-md", "all"]);
        node.ok(&["up", "r0"]);
    }
    pair.wait_connected();
    let paths = pair.alice.connection()["paths"].clone();
    let used: Vec<(&str, bool)> = paths
        .as_array()
        .expect("a list")
        .iter()
        .map(|path| {
            let address = path["remote_host"]["address"].as_str().expect("an address");
            (address, path["established"].as_bool().expect("yes or no"))
        })
        .collect();
    assert_eq!(used, [("192.0.2.2", false), ("127.0.0.5", true)]);
}

#[test]
fn a_resource_that_cannot_listen_on_all_its_paths_is_not_up() {
    let mut pair = Plan::new().blank();
    let (a, b) = (pair.alice.port, pair.bob.port);
    let path = |alice: &str, bob: &str| {
        format!("path {{ host alice address {alice}:{a}; host bob address {bob}:{b}; }}")
    };
    let (first, second) = (path("127.0.0.1", "127.0.0.1"), path("127.0.0.4", "127.0.0.5"));
    pair.edit("on alice {", &format!("connection {{ {first} {second} }} on alice {{"));
    pair.alice.start();
    pair.alice.ok(&["create-md", "r0"]);
    let taken = std::net::TcpListener::bind(("127.0.0.4", a)).expect("nobody has it");
    let said = pair.alice.refused(10, &["up", "r0"]);
    assert!(said.contains("(102) Local address(port) already in use."), "{said}");
    pair.alice.refused(10, &["status", "r0"]);
    drop(taken);
    pair.alice.ok(&["up", "r0"]);
    assert_eq!(pair.alice.dstate(), "Inconsistent/DUnknown");
}

#[test]
fn one_volume_has_its_own_disk_options() {
    let pair = Plan::new().resources(&[("r0", 2)]).in_sync();
    let alice = &pair.alice;
    alice.ok(&["disk-options", "--c-max-rate=20M", "r0/1"]);
    assert_eq!(alice.ok(&["-d", "adjust", "r0"]), "drbdsetup disk-options 1 --c-max-rate=0\n");
    let why = alice.ok(&["why", "r0"]);
    assert!(why.contains("c-max-rate of volume 1 is 20M, not 0."), "{why}");
    // One volume is put back as in the file, and the other stays as it is.
    alice.ok(&["disk-options", "--c-max-rate=30M", "r0/0"]);
    alice.ok(&["disk-options", "r0/1"]);
    assert_eq!(alice.ok(&["-d", "adjust", "r0"]), "drbdsetup disk-options 0 --c-max-rate=0\n");
    alice.ok(&["disk-options", "r0"]);
    assert_eq!(alice.ok(&["-d", "adjust", "r0"]), "");
    for (words, code) in [
        (&["disk-options", "r0/7"][..], 10),
        (&["disk-options", "r0:bob"][..], 1),
        (&["net-options", "--timeout=50", "r0/1"][..], 1),
        (&["net-options", "--timeout=50", "r0:carol"][..], 10),
        (&["peer-device-options", "--al-extents=99", "r0:bob"][..], 10),
    ] {
        alice.refused(code, words);
    }
    assert_eq!(alice.ok(&["-d", "net-options", "--timeout=50", "r0:bob"]).lines().count(), 1);
}
