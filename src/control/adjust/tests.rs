//! What differs, and what is done about it.

use super::*;
use crate::control::fixtures;

const CONFIG: &str = "resource r0 { net { timeout 60; } disk { c-max-rate 50M; } \
    volume 0 { device minor 0; disk /dev/vg0/r0; meta-disk internal; } \
    on alice { node-id 0; address 10.0.0.1:7789; } on bob { node-id 1; address 10.0.0.2:7789; } }";

fn loaded(text: &str) -> Definition {
    crate::config::load(&crate::config::OneFile(text), "r0.res").resources.pop().unwrap()
}

/// Words and lines for a change of the config, while all is attached and connected.
fn changed(from: &str, to: &str) -> (Vec<String>, String) {
    let (running, wanted) = (loaded(CONFIG), loaded(&CONFIG.replace(from, to)));
    let own = wanted.local("alice").unwrap();
    let difference = Difference::new(&running, &wanted, own);
    let steps = difference.steps(&fixtures::healthy(), own);
    (difference.words().to_vec(), lines(&steps, &wanted, own))
}

#[test]
fn nothing_differs_nothing_is_done() {
    assert_eq!(changed("timeout 60", "timeout 60"), (Vec::new(), String::new()));
}

#[test]
fn options_go_to_their_objects() {
    let (words, lines) = changed("timeout 60", "timeout 50; ping-int 3");
    assert_eq!(words, ["timeout is 60, not 50", "ping-int is 10, not 3"]);
    assert_eq!(lines, "drbdsetup net-options r0 1 --timeout=50 --ping-int=3\n");
    let (_, lines) = changed("c-max-rate 50M", "c-max-rate 60M");
    assert_eq!(lines, "drbdsetup disk-options 0 --c-max-rate=60M\n");
    let (_, lines) = changed("net {", "options { auto-promote yes; } net {");
    assert_eq!(lines, "drbdsetup resource-options r0 --auto-promote=yes\n");
}

#[test]
fn an_address_is_a_path() {
    let (words, lines) = changed("10.0.0.2:7789", "10.0.0.3:7790");
    assert_eq!(words, ["the addresses are others"]);
    assert_eq!(
        lines,
        "drbdsetup del-path r0 1\n\
         drbdsetup new-path r0 1 ipv4:10.0.0.1:7789 ipv4:10.0.0.3:7790\n"
    );
}

#[test]
fn another_disk_is_detached_and_attached() {
    let (words, lines) = changed("/dev/vg0/r0", "/dev/vg1/r0");
    assert_eq!(words, ["the disk of volume 0 is /dev/vg0/r0, not /dev/vg1/r0"]);
    assert_eq!(lines, "drbdsetup detach 0\ndrbdsetup attach 0 /dev/vg1/r0 /dev/vg1/r0 internal\n");
}

#[test]
fn another_size_lets_go_of_no_disk() {
    let (words, lines) = changed("disk { c-max", "disk { size 64M; c-max");
    assert_eq!(words.len(), 1, "{words:?}");
    assert!(words[0].ends_with("not /dev/vg0/r0 of 67108864 bytes"), "{words:?}");
    assert_eq!(lines, "# disk none and size of r0\n");
}

#[test]
fn disk_none_is_put_in_force_here_and_of_the_peer() {
    let volume = |disk: &str| format!("volume 0 {{ disk {disk}; meta-disk internal; }} address");
    let text = |alice: &str, bob: &str| {
        CONFIG
            .replace("disk /dev/vg0/r0; meta-disk internal; ", "")
            .replace("node-id 0; address", &format!("node-id 0; {}", volume(alice)))
            .replace("node-id 1; address", &format!("node-id 1; {}", volume(bob)))
    };
    let difference = |from: &str, to: &str| {
        let (running, wanted) = (loaded(from), loaded(to));
        let own = wanted.local("alice").unwrap();
        let difference = Difference::new(&running, &wanted, own);
        (difference.words().to_vec(), difference.steps(&fixtures::healthy(), own))
    };
    let (words, steps) = difference(&text("/dev/a", "/dev/b"), &text("none", "/dev/b"));
    assert_eq!(words, ["the disk of volume 0 is /dev/a, not none"]);
    assert_eq!(steps, [Step::Detach(0), Step::Volumes]);
    let (words, steps) = difference(&text("/dev/a", "none"), &text("/dev/a", "/dev/b"));
    assert_eq!(words, ["bob is to have a disk for volume 0"]);
    assert_eq!(steps, [Step::Volumes]);
    // What a peer's disk is called is the peer's.
    assert_eq!(difference(&text("/dev/a", "/dev/b"), &text("/dev/a", "/dev/c")), (vec![], vec![]));
}

#[test]
fn what_is_down_is_brought_up() {
    let wanted = loaded(CONFIG);
    let own = wanted.local("alice").unwrap();
    let mut report = fixtures::healthy();
    report.status.devices[0].disk_state = DiskState::Diskless;
    report.status.connections[0].connection_state = ConnectionState::StandAlone;
    let steps = Difference::new(&wanted, &wanted, own).steps(&report, own);
    assert_eq!(steps, [Step::Attach(0), Step::Connect(1)]);
}

#[test]
fn identity_is_for_down_and_up() {
    let (running, wanted) = (loaded(CONFIG), loaded(&CONFIG.replace("minor 0", "minor 3")));
    let found = Difference::new(&running, &wanted, wanted.local("alice").unwrap());
    assert_eq!(found.fixed().len(), 1);
    assert_eq!(found.remedy("r0"), "`tandemadm down r0`, `tandemadm up r0`");
    assert!(Difference::new(&running, &running, &running.hosts[0]).fixed().is_empty());
}

#[test]
fn volumes_have_disk_options_of_their_own() {
    let two = CONFIG.replace("on alice", "volume 1 { device minor 1; disk /dev/vg0/r1; } on alice");
    let running = loaded(&two);
    let own_rate = "volume 1 { disk { c-max-rate 20M; } ";
    let wanted = loaded(&two.replace("volume 1 {", own_rate));
    let own = wanted.local("alice").unwrap();
    let difference = Difference::new(&running, &wanted, own);
    assert_eq!(difference.words(), ["c-max-rate of volume 1 is 50M, not 20M"]);
    let steps = difference.steps(&fixtures::two_volumes(), own);
    assert_eq!(lines(&steps, &wanted, own), "drbdsetup disk-options 1 --c-max-rate=20M\n");
}

#[test]
fn a_floating_peer_with_another_address_is_the_same_host() {
    let text = CONFIG
        .replace("on alice { node-id 0; address 10.0.0.1:7789; }", "floating 10.0.0.1:7789 { }")
        .replace("on bob { node-id 1; address 10.0.0.2:7789; }", "floating 10.0.0.2:7789 { }");
    let settled = |text: &str| {
        let mut definition = loaded(text);
        definition.settle("alice", |address| address.to_string() == "10.0.0.1").unwrap();
        definition
    };
    let (running, wanted) = (settled(&text), settled(&text.replace("10.0.0.2", "10.0.0.3")));
    let found = Difference::new(&running, &wanted, wanted.local("alice").unwrap());
    assert_eq!(found.fixed(), [""; 0]);
    assert_eq!(found.words(), ["the addresses are others"]);
}

#[test]
fn what_is_refused_has_no_step_and_is_not_mixed_up_with_the_peer() {
    let own = |name: &str| format!("volume 0 {{ disk /dev/{name}; meta-disk internal; }}");
    let own_disks = CONFIG
        .replace("disk /dev/vg0/r0; meta-disk internal; ", "")
        .replace("node-id 0;", &format!("node-id 0; {}", own("a")))
        .replace("node-id 1;", &format!("node-id 1; {}", own("b")));
    let exchanged = own_disks
        .replace("node-id 0", "node-id 9")
        .replace("node-id 1", "node-id 0")
        .replace("node-id 9", "node-id 1");
    let minor = own_disks.replace("minor 0", "minor 3").replace("timeout 60", "timeout 50");
    let running = loaded(&own_disks);
    for (text, words) in [
        (exchanged, vec!["the hosts or their node ids are others"]),
        (
            minor,
            vec!["the volumes, their minors or their devices are others", "timeout is 60, not 50"],
        ),
    ] {
        let wanted = loaded(&text);
        let own = wanted.local("alice").unwrap();
        let found = Difference::new(&running, &wanted, own);
        assert_eq!(found.words(), words);
        assert_eq!(found.steps(&fixtures::healthy(), own), []);
        assert_eq!(found.refusal("r0").map(|refusal| refusal.code), Some(162));
    }
}

#[test]
fn another_spelling_of_a_path_is_no_other_disk() {
    for path in ["//dev/vg0//r0", "/dev/./vg0/r0"] {
        assert_eq!(changed("/dev/vg0/r0", path), (vec![], String::new()));
    }
}

#[test]
fn a_path_to_the_disk_in_use_is_its_name_and_nothing_else() {
    let text = CONFIG.replace("/dev/vg0/r0;", "/dev/mapper/vg0-r0; disk { size 64M; }");
    let (running, wanted) = (loaded(CONFIG), loaded(&text));
    let own = wanted.local("alice").unwrap();
    let difference = |same: bool| {
        let found = Difference::new(&running, &wanted, own);
        found.without_renamed(&running, own, |volume, old, new| {
            assert_eq!((volume, old.disk.as_deref()), (0, Some("/dev/vg0/r0")));
            assert_eq!(new.disk.as_deref(), Some("/dev/mapper/vg0-r0"));
            same
        })
    };
    let mut report = fixtures::healthy();
    // The size is put in force beside the name.
    let steps = difference(true).steps(&report, own);
    assert_eq!(steps, [Step::Rename(0), Step::Volumes]);
    let said = "# the disk of r0/0 is /dev/mapper/vg0-r0 of 67108864 bytes by another path\n";
    assert!(lines(&steps, &wanted, own).starts_with(said), "{}", lines(&steps, &wanted, own));
    assert_eq!(difference(true).words().len(), 1);
    assert_eq!(difference(false).steps(&report, own), [Step::Detach(0), Step::Attach(0)]);
    // One that is not in use is attached.
    report.status.devices[0].disk_state = DiskState::Diskless;
    assert_eq!(difference(true).steps(&report, own), [Step::Attach(0), Step::Volumes]);
}

#[test]
fn a_host_by_its_long_name_is_the_same_host() {
    let nothing = (vec![], String::new());
    assert_eq!(changed("on bob", "on bob.example.com"), nothing);
    assert_eq!(changed("on alice", "on Alice.example.com"), nothing);
    let (words, lines) = changed("on bob", "on carol");
    assert_eq!(words, ["the peer with node id 1 is bob, not carol"]);
    assert_eq!(lines, "");
}
