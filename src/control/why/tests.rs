//! Golden texts of `why`.

use super::super::fixtures;
use super::*;
use crate::resource::{ConnectionState, Reason};

const UTC: Zone = Zone::Fixed(0);

fn blocks(report: &Report) -> String {
    text(&findings(report, UTC))
}

#[test]
fn a_target_names_the_only_good_copy() {
    let text = blocks(&fixtures::resync_target());
    assert!(text.starts_with("r0: bob cannot be promoted while it is being resynced.\n"), "{text}");
    assert!(text.contains("SyncTarget of alice"), "{text}");
    assert!(text.contains("61.20 % done, 8.1 GiB of 20.9 GiB left, 104 MiB/s, about 1 min 20 s."));
    assert!(text.contains("alice holds the ONLY good copy. bob's disk is a mix"), "{text}");
    assert!(
        text.contains("`tandemadm wait-sync r0`. Do not reboot, stop or fence alice"),
        "{text}"
    );
    let source = blocks(&fixtures::resync_source());
    assert!(source.starts_with("r0: bob is being resynced from alice.\n"), "{source}");
}

#[test]
fn a_lost_peer_is_told_with_what_it_lacks() {
    let text = blocks(&fixtures::peer_down());
    assert!(text.starts_with("r0: bob is not reachable; alice goes on alone.\n"), "{text}");
    assert!(text.contains("10.0.0.1 -> 10.0.0.2:7789: Connection refused: the host answers"));
    assert!(text.contains("  Data:  812 MiB were written that bob does not have."), "{text}");
    assert!(text.contains("Do NOT promote bob while alice is up"), "{text}");
    let other = blocks(&fixtures::mirrored(fixtures::peer_down()));
    assert!(other.starts_with("r0: alice is not reachable. bob may be promoted"), "{other}");
    assert!(other.contains("1. make sure alice is OFF"), "{other}");
}

#[test]
fn only_a_disk_that_would_be_promoted_may_be() {
    let cases = [
        (DiskState::Inconsistent, 0x5435_911C_ABE7_ED03, "primary --force=inconsistent r0`"),
        (DiskState::Inconsistent, crate::meta::JUST_CREATED, "primary --force r0`"),
        (DiskState::Outdated, 0x5435_911C_ABE7_ED03, "primary --force=outdated r0`"),
        (DiskState::Consistent, 0x5435_911C_ABE7_ED03, "primary --force r0`"),
        (DiskState::Diskless, 0x5435_911C_ABE7_ED03, "`tandemadm attach r0/0` on bob"),
    ];
    for (disk, uuid, way_out) in cases {
        let mut report = fixtures::mirrored(fixtures::peer_down());
        report.status.devices[0].disk_state = disk;
        report.status.devices[0].current_uuid = uuid;
        let found = findings(&report, UTC);
        let told = found.iter().find(|one| one.headline.contains("alice is not reachable"));
        let told = told.unwrap().text();
        let headline = format!("bob cannot be promoted as it is: r0/0 is {disk}.\n");
        assert!(told.contains(&headline), "{told}");
        assert!(!blocks(&report).contains("may be promoted"), "{told}");
        assert!(told.contains("1. bring alice back") && told.contains(way_out), "{told}");
        assert!(!told.contains("`tandemadm primary r0`"), "{told}");
    }
}

#[test]
fn every_refusal_has_its_own_words() {
    let cases = [
        (Reason::SplitBrain, "SPLIT BRAIN", "--discard-my-data r0`"),
        (Reason::UnrelatedData, "no generation in common", "`tandemadm create-md r0`"),
        (Reason::RolledBack, "is older than it was", "`tandemadm invalidate r0`"),
        (Reason::WrongNode, "not the configured node", "node-id"),
        (Reason::WrongResource, "another name", "swapped"),
        (Reason::BadVersion, "no common protocol version", "upgrade"),
        (Reason::BadSecret, "secrets differ", "shared-secret"),
        (Reason::ConfigDiffers, "must be equal", "make them equal"),
        (Reason::ResyncRefused, "is refused", "--force=outdated|inconsistent r0`"),
        (Reason::StoppedByAdmin, "ended by an administrator", "`tandemadm connect r0` on both"),
    ];
    for (reason, headline, next) in cases {
        let found = findings(&fixtures::refused(reason), UTC);
        assert_eq!(found.len(), 1, "{reason}");
        assert!(found[0].headline.contains(headline), "{}", found[0].headline);
        let text = text(&found);
        assert!(text.contains(next), "{text}");
    }
}

#[test]
fn a_failed_disk_is_told_from_no_copy_at_all() {
    let mut report = fixtures::healthy();
    report.status.devices[0].disk_state = DiskState::Diskless;
    report.status.devices[0].disk_note =
        "/dev/vg0/r0: write of 4 KiB at 747515904 failed: Input/output error".to_owned();
    let text = blocks(&report);
    assert!(text.starts_with("r0/0: alice has lost its disk; reads and writes go to bob.\n"));
    assert!(text.contains("bob holds the ONLY copy"), "{text}");
    assert!(text.contains("3. new disk at the same path: `tandemadm create-md r0/0`"), "{text}");
    report.status.connections[0].connection_state = ConnectionState::Connecting;
    report.status.connections[0].reason = Reason::Timeout;
    report.status.connections[0].peer_devices[0].peer_disk_state = DiskState::DUnknown;
    let found = findings(&report, UTC);
    assert_eq!(found.len(), 2);
    assert!(found[0].headline.starts_with("r0/0: NO COPY IS REACHABLE"), "{}", found[0].headline);
}

#[test]
fn a_connected_peer_without_its_disk_is_not_fine() {
    let mut report = fixtures::healthy();
    for disk in [DiskState::Diskless, DiskState::Outdated, DiskState::Inconsistent] {
        report.status.connections[0].peer_devices[0].peer_disk_state = disk;
        let text = blocks(&report);
        let headline = "r0/0: bob has no good copy; alice holds the only one.\n";
        assert!(text.starts_with(headline), "{text}");
        assert!(text.contains(&format!("its disk is {disk}.")), "{text}");
    }
    report.peer_clients.push((1, 0));
    assert!(blocks(&report).starts_with("r0: nothing is wrong.\n"), "it has none by configuration");
}

#[test]
fn the_worst_stands_first() {
    let mut report = fixtures::refused(Reason::SplitBrain);
    report.status.devices[0].disk_state = DiskState::Consistent;
    let found = findings(&report, UTC);
    assert!(found[0].headline.contains("SPLIT BRAIN"));
    assert!(found[1].headline.contains("is not known"));
}

#[test]
fn json_has_the_same_four_keys() {
    let text = json(&findings(&fixtures::peer_down(), UTC));
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut keys: Vec<&String> = parsed[0].as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["Data", "Next", "State", "Why"]);
}

#[test]
fn only_what_does_not_end_by_itself_needs_a_person() {
    let needs = |report: &Report| findings(report, UTC).iter().any(Finding::needs_a_person);
    assert!(needs(&fixtures::peer_down()));
    assert!(needs(&fixtures::refused(Reason::SplitBrain)));
    assert!(!needs(&fixtures::healthy()));
    assert!(!needs(&fixtures::resync_target()));
}

/// What every state says, as it is printed. `UPDATE=1` writes the file anew.
#[test]
fn every_text_is_as_written() {
    let mut full = fixtures::healthy();
    full.status.suspended_no_space = true;
    full.status.devices[0].upper_pending = 14;
    let mut diskless = fixtures::healthy();
    diskless.status.devices[0].disk_state = DiskState::Diskless;
    diskless.status.devices[0].disk_note = "write of 4 KiB at 747515904 failed.".to_owned();
    let mut other = fixtures::healthy();
    other.config_differs.push("timeout is 60, not 50".to_owned());
    let mut alone = fixtures::peer_down();
    alone.status.devices[0].generation_time = fixtures::NOW - 2399;
    let mut lost = fixtures::mirrored(fixtures::peer_down());
    lost.status.connections[0].reason = Reason::Lost;
    let mut stranded = fixtures::mirrored(fixtures::peer_down());
    stranded.status.devices[0].disk_state = DiskState::Inconsistent;
    let cases = [
        ("healthy", fixtures::healthy()),
        ("two volumes", fixtures::two_volumes()),
        ("resync target", fixtures::resync_target()),
        ("resync source", fixtures::resync_source()),
        ("peer down, seen by the Primary", alone),
        ("peer lost, seen by the Secondary", lost),
        ("peer lost in mid-resync", stranded),
        ("split brain", fixtures::split_brain()),
        ("unrelated data", fixtures::refused(Reason::UnrelatedData)),
        ("rolled back", fixtures::refused(Reason::RolledBack)),
        ("disk failed", diskless),
        ("disk full", full),
        ("config differs", other),
    ];
    let mut all = String::new();
    for (name, report) in cases {
        all += &format!("==== {name} ====\n{}\n", blocks(&report));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/control/why/golden.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &all).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert!(all == golden, "{path} says otherwise:\n{all}");
}

#[test]
fn a_text_from_elsewhere_gets_one_full_stop() {
    assert_eq!(sentence("it broke"), "it broke.");
    assert_eq!(sentence("it broke. "), "it broke.");
    assert_eq!(sentence("did it?"), "did it?");
}
