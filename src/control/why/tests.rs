//! Golden texts of `why`.

mod disks;

use super::super::fixtures;
use super::*;
use crate::resource::{ClientStatus, ConnectionState, FencingStatus, OrderStatus, Reason};

const UTC: Zone = Zone::Fixed(0);

fn blocks(report: &Report) -> String {
    text(&findings(report, UTC))
}

#[test]
fn the_first_attempt_is_one() {
    let mut report = fixtures::peer_down();
    report.status.connections[0].attempts = 1;
    assert!(blocks(&report).contains("reason:refused, 1 attempt. bob"));
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
fn a_primary_that_has_nothing_to_read_is_not_told_to_go_on_alone() {
    for disk in [DiskState::Diskless, DiskState::Outdated] {
        let mut report = fixtures::peer_down();
        report.status.devices[0].disk_state = disk;
        let text = blocks(&report);
        assert!(text.starts_with("r0/0: NO COPY IS REACHABLE on alice.\n"), "{text}");
        assert!(!text.contains("goes on alone"), "{text}");
        assert!(text.contains("1. bring the peer back"), "{text}");
        let order = "`tandemadm secondary --force r0`, `tandemadm primary --force=outdated r0`";
        assert!(text.contains(order), "{text}");
    }
}

#[test]
fn volumes_with_a_danger_each_are_forced_by_one_order_that_names_both() {
    let mut report = fixtures::mirrored(fixtures::peer_down());
    report.status.role = Role::Secondary;
    let mut second = report.status.devices[0].clone();
    second.volume = 1;
    report.status.devices.push(second);
    for connection in &mut report.status.connections {
        let mut peer = connection.peer_devices[0].clone();
        peer.volume = 1;
        connection.peer_devices.push(peer);
        connection.connection_state = ConnectionState::Connecting;
    }
    report.status.devices[0].disk_state = DiskState::Outdated;
    report.status.devices[1].disk_state = DiskState::Inconsistent;
    report.status.devices[1].current_uuid = 0x1234_5678;
    let text = blocks(&report);
    assert!(text.contains("`tandemadm primary --force=inconsistent,outdated r0`"), "{text}");
    assert!(!text.contains("--force=outdated r0"), "{text}");
}

#[test]
fn a_new_disk_beside_one_that_is_not_attached_is_not_declared_to_be_the_data() {
    let mut report = fixtures::healthy();
    report.status.role = Role::Secondary;
    let mut second = report.status.devices[0].clone();
    (second.volume, second.disk_state) = (1, DiskState::Inconsistent);
    second.current_uuid = crate::meta::JUST_CREATED;
    report.status.devices.push(second);
    let connection = &mut report.status.connections[0];
    connection.peer_role = Role::Secondary;
    let mut peer = connection.peer_devices[0].clone();
    (peer.volume, peer.peer_disk_state) = (1, DiskState::Diskless);
    connection.peer_devices.push(peer);
    let text = blocks(&report);
    assert!(text.contains("r0: the disk of r0/1 is new"), "{text}");
    assert!(text.contains("`tandemadm attach r0/1` on bob"), "{text}");
    assert!(!text.contains("--clear-bitmap"), "{text}");
}

#[test]
fn after_a_gap_in_which_the_peer_went_on_nobody_waits() {
    let mut report = fixtures::healthy();
    report.status.suspended_gap = true;
    assert!(blocks(&report).contains("wait: it ends with the peer's answer"));
    report.status.connections[0].connection_state = ConnectionState::StandAlone;
    let text = blocks(&report);
    assert!(text.contains("`tandemadm secondary --force r0` on alice"), "{text}");
}

#[test]
fn only_the_volumes_that_are_unrelated_are_made_anew() {
    let mut report = fixtures::healthy();
    let mut met = fixtures::handshake();
    (met.volume, met.outcome) = (0, "source-use-bitmap".to_owned());
    let mut other = met.clone();
    (other.volume, other.outcome) = (1, Reason::UnrelatedData.name().to_owned());
    let connection = &mut report.status.connections[0];
    connection.last_handshake = vec![met, other];
    (connection.connection_state, connection.reason) =
        (ConnectionState::StandAlone, Reason::UnrelatedData);
    let text = blocks(&report);
    assert!(text.contains("`tandemadm create-md --force r0/1`"), "{text}");
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
        (Reason::UnrelatedData, "no generation in common", "`tandemadm create-md --force r0`"),
        (Reason::RolledBack, "is older than it was", "`tandemadm invalidate r0`"),
        (Reason::WrongNode, "not the configured node", "node-id"),
        (Reason::WrongResource, "another name", "swapped"),
        (Reason::BadVersion, "no common protocol version", "upgrade"),
        (Reason::BadSecret, "secrets differ", "shared-secret"),
        (Reason::ConfigDiffers, "must be equal", "make them equal"),
        (Reason::ResyncRefused, "is refused", "--force=outdated|inconsistent r0`"),
        (Reason::ResyncRefused, "is refused", "(--discard-my-data or create-md there)"),
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
fn requests_that_wait_are_counted_where_they_wait() {
    let mut report = fixtures::healthy();
    assert!(!blocks(&report).contains("wait"));
    report.status.devices[0].upper_pending = 48;
    report.status.devices[0].lower_pending = 31;
    report.status.connections[0].peer_devices[0].pending = 17;
    let text = blocks(&report);
    let said = "48 requests of clients wait; not answered yet: 31 by the disk here, 17 by bob.";
    assert!(text.contains(said), "{text}");
}

#[test]
fn one_request_that_waits_is_one() {
    let mut report = fixtures::healthy();
    report.status.devices[0].upper_pending = 1;
    assert!(blocks(&report).contains("1 request of clients waits"), "{}", blocks(&report));
    report.status.devices[0].lower_pending = 1;
    assert!(
        blocks(&report).contains("1 request of clients waits; not answered yet: 1 by the disk")
    );
    report.status.suspended_user = true;
    assert!(blocks(&report).contains("1 request of 1 client waits on alice."));
    report.status.devices[0].clients.clear();
    report.status.devices[0].upper_pending = 2;
    assert!(blocks(&report).contains("2 requests of 0 clients wait on alice."));
    report.status.suspended_user = false;
    report.status.devices[0].upper_pending = 1;
    report.status.suspended_no_space = true;
    assert!(blocks(&report).contains("1 request of 0 clients waits on alice."));
    report.status.suspended_no_space = false;
    report.status.suspended_fencing = true;
    assert!(blocks(&report).contains("1 request of 0 clients waits on alice. fencing"));
}

#[test]
fn a_client_is_listed_once_with_its_connections() {
    let since = fixtures::NOW - 60;
    let clients = ["a pid 1", "b pid 2", "a pid 1", "a pid 1"]
        .map(|name| ClientStatus { name: name.to_owned(), since });
    let named = [("a pid 1 (3 connections)", since), ("b pid 2", since)];
    assert_eq!(counted(&clients), named.map(|(name, since)| (name.to_owned(), since)));
    let mut report = fixtures::healthy();
    report.status.devices[0].clients = clients.to_vec();
    let text = blocks(&report);
    assert!(text.contains("  Open:  r0/0 by a pid 1 (3 connections) since 2026"), "{text}");
}

#[test]
fn a_pause_without_a_resync_is_told() {
    let mut report = fixtures::healthy();
    assert!(!blocks(&report).contains("pause-sync"));
    report.status.connections[0].peer_devices[0].resync_suspended.peer = true;
    let text = blocks(&report);
    assert!(text.contains("in force (peer); `tandemadm resume-sync r0` on the peer"), "{text}");
    report.status.connections[0].peer_devices[0].resync_suspended.user = true;
    let text = blocks(&report);
    assert!(text.contains("in force (user,peer); `tandemadm resume-sync r0` here"), "{text}");
}

#[test]
fn different_secrets_are_not_explained_by_an_older_handshake() {
    let mut report = fixtures::peer_down();
    let connection = &mut report.status.connections[0];
    connection.connection_state = ConnectionState::StandAlone;
    connection.detail = String::new();
    for (reason, rule) in [(Reason::BadSecret, false), (Reason::ResyncRefused, true)] {
        report.status.connections[0].reason = reason;
        let text = blocks(&report);
        assert_eq!(text.contains("`tandemadm ping r0` says which"), !rule, "{text}");
        assert_eq!(text.contains("last handshake"), rule, "{text}");
    }
}

#[test]
fn what_a_peer_lacks_that_was_never_met_is_not_known() {
    let mut report = fixtures::peer_down();
    let connection = &mut report.status.connections[0];
    connection.peer_devices[0].out_of_sync = 0;
    assert!(blocks(&report).contains("nothing was written yet that bob does not have"));
    report.status.connections[0].last_peer_role = Role::Unknown;
    let text = blocks(&report);
    assert!(text.contains("what bob lacks is not known: it was not met since `up`."), "{text}");
}

#[test]
fn a_refused_resync_names_the_cause_that_fits() {
    let mut report = fixtures::refused(Reason::ResyncRefused);
    report.status.connections[0].peer_devices[0].out_of_sync = 0;
    let found = &mut report.status.connections[0].last_handshake[0];
    (found.own.role, found.peer.role) = (Role::Secondary, Role::Secondary);
    (found.own.disk, found.peer.disk) = (DiskState::Outdated, DiskState::Inconsistent);
    let text = blocks(&report);
    assert!(text.contains("  Next:  the source is Outdated or Inconsistent"), "{text}");
    assert!(!text.contains("would be overwritten") && !text.contains("0 B"), "{text}");
    report.status.connections[0].last_handshake[0].own.role = Role::Primary;
    let text = blocks(&report);
    assert!(text.contains("  Next:  a Primary would be overwritten"), "{text}");
    assert!(text.contains("--force=outdated"), "{text}");
    let found = &mut report.status.connections[0].last_handshake[0];
    (found.own.disk, found.peer.disk) = (DiskState::UpToDate, DiskState::UpToDate);
    assert!(!blocks(&report).contains("--force="), "no disk is bad");
}

#[test]
fn two_primaries_that_met_are_told_whom_to_demote_and_nothing_of_force() {
    let mut report = fixtures::refused(Reason::ResyncRefused);
    let found = &mut report.status.connections[0].last_handshake[0];
    (found.own.role, found.peer.role) = (Role::Primary, Role::Primary);
    let text = blocks(&report);
    assert!(text.contains("  Next:  both are Primary: stop what uses r0 on one"), "{text}");
    assert!(!text.contains("--force="), "{text}");
    report.status.suspended_gap = true;
    let text = blocks(&report);
    assert!(text.contains("bob was promoted while alice stood still"), "{text}");
}

#[test]
fn a_blank_disk_that_was_forced_has_both_ways_out() {
    let mut report = fixtures::refused(Reason::ResyncRefused);
    let found = &mut report.status.connections[0].last_handshake[0];
    found.rule = "forced-blank-self".to_owned();
    found.peer.created_found = "ext4 \"pgdata\"".to_owned();
    let text = blocks(&report);
    assert!(text.contains("on alice's disk: blank; on bob's: ext4 \"pgdata\"."), "{text}");
    assert!(text.contains("`tandemadm invalidate r0/0` on bob"), "{text}");
    assert!(text.contains("on bob `tandemadm primary --force r0`"), "{text}");
    report.status.connections[0].last_handshake[0].rule = "forced-blank-peer".to_owned();
    assert!(blocks(&report).contains("`tandemadm invalidate r0/0` on alice"));
    report.status.connections[0].last_handshake[0].rule = "unproven-peer".to_owned();
    let text = blocks(&report);
    assert!(text.contains("bob's is Consistent: it lacks what alice wrote without it"), "{text}");
    assert!(text.contains("`tandemadm invalidate r0/0` on alice"), "{text}");
}

#[test]
fn a_disk_that_is_too_small_is_named_with_both_sizes() {
    let mut report = fixtures::refused(Reason::ResyncRefused);
    let found = &mut report.status.connections[0].last_handshake[0];
    found.rule = "size".to_owned();
    found.meaning = "the volume is in use with 50061312 bytes".to_owned();
    found.own.role = Role::Primary;
    (found.own.data_size, found.peer.data_size) = (50_061_312, 33_284_096);
    for (report, node) in [(fixtures::mirrored(report.clone()), "bob"), (report, "alice")] {
        let text = blocks(&report);
        assert!(text.contains("  Why:   rule size: the volume is in use with 50061312"), "{text}");
        assert!(text.contains("50061312 bytes") && text.contains("33284096 bytes"), "{text}");
        assert!(text.contains("  Next:  give bob a larger disk"), "{node}: {text}");
        assert!(!text.contains("would be overwritten") && !text.contains("--force="), "{text}");
    }
}

#[test]
fn a_peer_that_was_refused_is_not_brought_back() {
    let mut report = fixtures::refused(Reason::UnrelatedData);
    report.status.devices[0].disk_state = DiskState::Consistent;
    let text = blocks(&report);
    assert!(!text.contains("bring bob back"), "{text}");
    assert!(text.contains("the handshake with bob was refused"), "{text}");
}

#[test]
fn a_disk_that_was_written_behind_is_told_from_one_that_was_left() {
    let mut report = fixtures::healthy();
    report.status.devices[0].disk_state = DiskState::Outdated;
    let text = blocks(&report);
    assert!(text.contains("alice left bob in order"), "{text}");
    report.status.devices[0].disk_note = "it was written while it was not attached".to_owned();
    let text = blocks(&report);
    assert!(text.contains("r0/0 is Outdated: it was written while it was not attached."), "{text}");
    assert!(!text.contains("in order") && text.contains("a full sync is needed"), "{text}");
}

#[test]
fn the_last_write_of_a_split_is_never_shown_before_the_first() {
    let mut report = fixtures::split_brain();
    let device = &mut report.status.devices[0];
    (device.generation_time, device.alone_time) = (fixtures::NOW - 40, fixtures::NOW - 50);
    let text = blocks(&report);
    let row = text.lines().find(|line| line.contains("alice  Primary")).expect("a row of alice");
    let times: Vec<&str> = row.split_whitespace().filter(|word| word.contains(':')).collect();
    assert_eq!(times[0], times[1], "{row}");
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
    let mut both_full = full.clone();
    both_full.status.devices[0].no_space = true;
    both_full.status.connections[0].peer_devices[0].no_space = true;
    let mut peer_full = full.clone();
    peer_full.status.connections[0].peer_devices[0].no_space = true;
    let mut secondary_full = fixtures::mirrored(fixtures::healthy());
    secondary_full.status.suspended_no_space = true;
    secondary_full.status.devices[0].no_space = true;
    let mut diskless = fixtures::healthy();
    diskless.status.devices[0].disk_state = DiskState::Diskless;
    diskless.status.devices[0].disk_note = "write of 4 KiB at 747515904 failed.".to_owned();
    let mut other = fixtures::healthy();
    let mut strayed = fixtures::healthy();
    strayed.path_differs.push((0, "/dev/vg0/r0 is another file now".to_owned()));
    other.config_differs.push("timeout is 60, not 50".to_owned());
    let mut alone = fixtures::peer_down();
    alone.status.devices[0].generation_time = fixtures::NOW - 2399;
    let mut lost = fixtures::mirrored(fixtures::peer_down());
    lost.status.connections[0].reason = Reason::Lost;
    let mut stranded = fixtures::mirrored(fixtures::peer_down());
    stranded.status.devices[0].disk_state = DiskState::Inconsistent;
    let mut frozen = fixtures::healthy();
    frozen.status.suspended_user = true;
    frozen.status.devices[0].upper_pending = 2;
    let mut fencing = fixtures::peer_down();
    fencing.status.suspended_fencing = true;
    fencing.status.devices[0].upper_pending = 14;
    fencing.status.connections[0].fencing = Some(FencingStatus {
        running: true,
        for_ms: 22_000,
        outcome: String::new(),
        configured: true,
        limit_ms: 300_000,
        again_ms: None,
    });
    let mut unfenced = fencing.clone();
    unfenced.status.connections[0].fencing = Some(FencingStatus {
        running: false,
        for_ms: 75_000,
        outcome: "did not end in time and was killed".to_owned(),
        configured: true,
        limit_ms: 300_000,
        again_ms: Some(25_000),
    });
    let mut paused = fixtures::resync_target();
    let peer = &mut paused.status.connections[0].peer_devices[0];
    peer.replication_state = ReplicationState::PausedSyncT;
    peer.resync_suspended.user = true;
    let mut waits = fixtures::healthy();
    waits.status.order = Some(OrderStatus {
        verb: "secondary".to_owned(),
        for_ms: 12_000,
        left_ms: Some(18_000),
        waits_for: "the disk of r0/0, which has not answered for 17 s".to_owned(),
        behind: 1,
    });
    let mut clients = fixtures::healthy();
    clients.status.order = Some(OrderStatus {
        verb: "secondary".to_owned(),
        for_ms: 65_000,
        left_ms: Some(535_000),
        waits_for: "clients to leave; new ones are refused".to_owned(),
        behind: 0,
    });
    let mut beside_none = fixtures::mirrored(fixtures::healthy());
    beside_none.status.devices[0].disk_state = DiskState::Consistent;
    beside_none.status.connections[0].peer_devices[0].peer_disk_state = DiskState::Diskless;
    let mut no_device = fixtures::healthy();
    no_device.device_failed.push((0, "the kernel has no NBD driver loaded: `modprobe nbd`".into()));
    let mut half_way = fixtures::split_brain();
    half_way.status.connections[0].connection_state = ConnectionState::Connecting;
    half_way.status.connections[0].reason = Reason::Lost;
    let cases = [
        ("no_device", no_device),
        ("healthy", fixtures::healthy()),
        ("two volumes", fixtures::two_volumes()),
        ("resync target", fixtures::resync_target()),
        ("resync source", fixtures::resync_source()),
        ("peer down, seen by the Primary", alone),
        ("peer lost, seen by the Secondary", lost),
        ("peer lost in mid-resync", stranded),
        ("split brain", fixtures::split_brain()),
        ("split brain, connected here and not there", half_way),
        ("unrelated data", fixtures::refused(Reason::UnrelatedData)),
        ("rolled back", fixtures::refused(Reason::RolledBack)),
        ("disk failed", diskless),
        ("disk full", full),
        ("both disks full", both_full),
        ("the peer's disk full", peer_full),
        ("the Secondary's disk full, seen there", secondary_full),
        ("frozen by order", frozen),
        ("frozen until the handler answers", fencing),
        ("frozen, and the handler gave no answer", unfenced),
        ("resync paused", paused),
        ("config differs", other),
        ("the path differs", strayed),
        ("an order waits for a hung disk", waits),
        ("an order waits for clients", clients),
        ("the only disk has lost power", beside_none),
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

/// Which disk is Outdated says nothing of that.
#[test]
fn of_a_disk_that_was_set_back_the_rule_says_whose_it_is() {
    for (rule, told) in [
        ("rolled-back-self", "on alice `tandemadm invalidate r0`"),
        ("rolled-back-peer", "on bob `tandemadm invalidate r0`"),
        ("rolled-back-both", "both were set back"),
        ("replaced-self", "on alice `tandemadm invalidate r0`"),
        ("replaced-peer", "on bob `tandemadm invalidate r0`"),
        ("replaced-both", "both were set back"),
    ] {
        for state in [DiskState::Outdated, DiskState::Consistent] {
            let mut report = fixtures::refused(Reason::RolledBack);
            report.status.devices[0].disk_state = state;
            report.status.connections[0].last_handshake[0].rule = rule.to_owned();
            let text = blocks(&report);
            assert!(text.contains(told), "{rule} {state}: {text}");
        }
    }
}

/// The other disk is a mix of old and new blocks: the one that was set back is the best that is left.
#[test]
fn a_disk_that_was_set_back_is_not_given_up_where_the_other_one_is_a_mix() {
    let mut report = fixtures::refused(Reason::RolledBack);
    let met = &mut report.status.connections[0].last_handshake[0];
    met.rule = "rolled-back-self".to_owned();
    (met.volume, met.peer.disk) = (1, DiskState::Inconsistent);
    let text = blocks(&report);
    assert!(text.contains("alice's is the best there is: do not invalidate it"), "{text}");
    assert!(
        text.contains("on bob `tandemadm down r0`, `tandemadm create-md --force r0/1`"),
        "{text}"
    );
    assert!(!text.contains("on alice `tandemadm invalidate"), "{text}");
}

#[test]
fn a_text_from_elsewhere_gets_one_full_stop() {
    assert_eq!(sentence("it broke"), "it broke.");
    assert_eq!(sentence("it broke. "), "it broke.");
    assert_eq!(sentence("did it?"), "did it?");
}

#[test]
fn the_log_is_reminded_of_what_stays_wrong_and_of_nothing_else() {
    let lines = |report: &Report| reminders(report, UTC);
    for fine in [fixtures::healthy(), fixtures::resync_source(), fixtures::resync_target()] {
        assert_eq!(lines(&fine), [""; 0]);
    }
    let with = |change: &dyn Fn(&mut Report)| {
        let mut report = fixtures::healthy();
        change(&mut report);
        report
    };
    let disk = |state| with(&|report| report.status.devices[0].disk_state = state);
    let wrong = [
        (fixtures::split_brain(), "SPLIT BRAIN"),
        (fixtures::refused(Reason::StoppedByAdmin), "was ended by an administrator"),
        (fixtures::refused(Reason::UnrelatedData), "r0"),
        (fixtures::peer_down(), "bob is not reachable"),
        (disk(DiskState::Diskless), "has no disk attached"),
        (disk(DiskState::Outdated), "r0/0"),
        (disk(DiskState::Inconsistent), "a mix of old and new blocks"),
        (with(&|report| report.status.suspended_no_space = true), "I/O is frozen"),
        (with(&|report| report.status.devices[0].hung_ms = Some(9000)), "does not answer"),
    ];
    for (report, said) in &wrong {
        let all = lines(report);
        assert_eq!(all.iter().filter(|line| line.contains(said)).count(), 1, "{said}: {all:?}");
        assert!(all.iter().all(|line| line.ends_with("; next: tandemadm why r0")), "{all:?}");
    }
}

#[test]
fn a_peer_that_left_in_order_is_not_told_as_lost() {
    let mut report = fixtures::peer_down();
    report.status.connections[0].reason = Reason::StoppedByAdmin;
    let text = blocks(&report);
    assert!(text.contains("bob has left in order; it is dialled until it is back"), "{text}");
    assert!(text.contains("on bob: `tandemadm connect r0`, or `tandemadm up r0`"), "{text}");
    assert!(!text.contains("was lost"), "{text}");
}

#[test]
fn a_connection_that_comes_back_by_itself_needs_nothing() {
    let mut report = fixtures::refused(Reason::StoppedByAdmin);
    report.status.connections[0].back_in_ms = Some(90_500);
    let text = blocks(&report);
    assert!(text.contains("nothing: it comes back by itself in 1 min 31 s."), "{text}");
    assert!(text.contains("not at all: `tandemadm disconnect r0`"), "{text}");
}

#[test]
fn what_a_verify_has_found_is_said_with_the_way_to_mend_it() {
    let mut report = fixtures::healthy();
    report.status.connections[0].peer_devices[0].out_of_sync = 8192;
    let text = blocks(&report);
    assert!(text.contains("KiB differ between alice and bob"), "{text}");
    assert!(text.contains("`tandemadm verify --repair r0/0`: copies these blocks from alice"));
    report.status.role = Role::Secondary;
    let text = blocks(&report);
    assert!(text.contains("--repair --from alice r0/0`, or --from bob"), "{text}");
    let (line, _) = crate::control::check::line(&[report], &Default::default());
    assert!(line.starts_with("WARNING: r0/0 8 KiB differ from bob (verify)"), "{line}");
}
