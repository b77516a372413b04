//! What is told of disks, and what leads out.

use super::*;

#[test]
fn an_up_that_stopped_at_a_disk_is_told_by_its_cause_and_ends_with_up() {
    let mut report = fixtures::peer_down();
    report.status.role = Role::Secondary;
    let device = &mut report.status.devices[0];
    device.disk_state = DiskState::Diskless;
    device.disk_note =
        format!("{}(119) No metadata of this volume.", crate::control::ATTACH_FAILED);
    let connection = &mut report.status.connections[0];
    connection.connection_state = ConnectionState::StandAlone;
    connection.reason = Reason::NeverConnected;
    let text = blocks(&report);
    assert!(text.contains("attach failed: (119) No metadata of this volume."), "{text}");
    assert!(text.contains("disk there, cause gone: `tandemadm up r0` on alice."), "{text}");
    assert!(text.contains("not dialled: `up` did not get so far."), "{text}");
    assert!(!text.contains("is r0 up on bob?"), "{text}");
    let first = report.status.devices[0].disk_note.clone();
    for (cure, order) in [
        ("Use `tandemadm create-md` to initialize it, if it is new.", "`tandemadm create-md r0/0`"),
        ("Run `tandemadm create-md --force` on it.", "`tandemadm create-md --force r0/0`"),
    ] {
        let note = &mut report.status.devices[0].disk_note;
        *note = format!("{}(119) {cure}", crate::control::ATTACH_FAILED);
        let text = blocks(&report);
        assert!(text.contains(&format!("{order}, `tandemadm up r0` on alice")), "{text}");
    }
    report.status.devices[0].disk_note = first;
    report.status.connections[0].connection_state = ConnectionState::Connected;
    report.status.connections[0].reason = Reason::None;
    report.status.connections[0].peer_devices[0].peer_disk_state = DiskState::UpToDate;
    assert!(blocks(&report).starts_with("r0/0: alice has no disk attached.\n"));
    assert!(!blocks(&report).contains("move r0 to bob"), "nobody uses it here");
    report.status.role = Role::Primary;
    assert!(blocks(&report).starts_with("r0/0: alice has no disk attached; reads"));
    assert!(blocks(&report).contains("3. new disk at the same path: `tandemadm create-md r0/0`"));
    report.status.devices[0].disk_note = format!(
        "{}(119) No valid meta-data of this resource found. Use `tandemadm create-md` to \
         initialize it.",
        crate::control::ATTACH_FAILED
    );
    let text = blocks(&report);
    assert!(text.contains("2. the disk there has no metadata; where it is a new one"), "{text}");
    assert!(text.contains("3. disk there, cause gone"), "{text}");
}

#[test]
fn a_disk_that_only_a_new_connection_takes_is_not_told_to_be_attached_again() {
    let mut report = fixtures::peer_down();
    report.status.devices[0].disk_state = DiskState::Diskless;
    report.status.devices[0].disk_note =
        format!("attach refused: which {}", crate::resource::ONLY_A_NEW_CONNECTION);
    let text = blocks(&report);
    let order = "`tandemadm disconnect r0`, `tandemadm attach r0/0`, `tandemadm connect r0`";
    assert!(text.contains(order) && !text.contains("cause gone"), "{text}");
}

#[test]
fn a_target_whose_source_has_lost_its_disk_is_not_told_to_wait_for_the_connection() {
    let mut report = fixtures::healthy();
    report.status.role = Role::Secondary;
    report.status.devices[0].disk_state = DiskState::Inconsistent;
    report.status.connections[0].peer_devices[0].peer_disk_state = DiskState::Diskless;
    let text = blocks(&report);
    assert!(text.contains("the disk of bob is Diskless: no good copy can be reached."), "{text}");
    assert!(text.contains("`tandemadm attach r0/0` on bob"), "{text}");
    assert!(
        text.contains(
            "2. bob's disk is gone for good: `tandemadm primary --force=inconsistent r0`"
        ),
        "{text}"
    );
    assert!(!text.contains("only good copy") && !text.contains("connection to bob back"), "{text}");
}

#[test]
fn a_primary_without_a_copy_whose_peer_has_refused_it_is_led_to_the_peers_copy() {
    let mut report = fixtures::peer_down();
    report.status.role = Role::Primary;
    report.status.devices[0].disk_state = DiskState::Diskless;
    let mut met = fixtures::handshake();
    (met.volume, met.rule, met.outcome) =
        (0, "exposed-data".to_owned(), "resync-refused".to_owned());
    (met.own.role, met.own.disk) = (Role::Primary, DiskState::Diskless);
    (met.peer.role, met.peer.disk) = (Role::Secondary, DiskState::UpToDate);
    let connection = &mut report.status.connections[0];
    connection.connection_state = ConnectionState::Connecting;
    connection.last_handshake = vec![met];
    // Dialled by order, and nobody has answered yet.
    connection.reason = Reason::StoppedByAdmin;
    assert!(blocks(&report).contains("bob stays StandAlone until it is told to connect."));
    report.status.connections[0].reason = Reason::NeverConnected;
    let text = blocks(&report);
    assert!(text.contains("1. go on with what bob has: stop what uses r0 on alice, `tandemadm secondary --force r0`"), "{text}");
    assert!(text.contains("bob stays StandAlone until it is told to connect."), "{text}");
    assert!(
        !text.contains("is r0 up on bob?") && !text.contains("the source is Outdated"),
        "{text}"
    );
    // A Primary with an old disk is what would be overwritten, and no source.
    let connection = &mut report.status.connections[0];
    connection.connection_state = ConnectionState::StandAlone;
    connection.reason = Reason::ResyncRefused;
    connection.last_handshake[0].own.disk = DiskState::Outdated;
    let text = blocks(&report);
    assert!(text.contains("a Primary would be overwritten"), "{text}");
    assert!(!text.contains("the source is Outdated"), "{text}");
    // One that does not answer any more is another matter.
    let connection = &mut report.status.connections[0];
    connection.connection_state = ConnectionState::Connecting;
    connection.reason = Reason::Timeout;
    assert!(blocks(&report).contains("no answer (host down"));
}

#[test]
fn an_outdated_disk_beside_a_peer_without_its_disk_is_led_to_that_disk() {
    for role in [Role::Secondary, Role::Primary] {
        let mut report = fixtures::healthy();
        report.status.role = role;
        report.status.devices[0].disk_state = DiskState::Outdated;
        report.status.connections[0].peer_devices[0].peer_disk_state = DiskState::Diskless;
        let text = blocks(&report);
        assert!(text.contains("`tandemadm attach r0/0` on bob"), "{text}");
        assert!(!text.contains("connect to bob"), "{text}");
        assert_eq!(
            text.contains("`tandemadm secondary --force r0`"),
            role == Role::Primary,
            "{text}"
        );
    }
}

#[test]
fn a_secondary_without_its_disk_knows_nothing_of_the_copy_of_a_peer_that_is_not_there() {
    let mut report = fixtures::mirrored(fixtures::peer_down());
    report.status.devices[0].disk_state = DiskState::Diskless;
    let text = blocks(&report);
    assert!(!text.contains("NO COPY IS REACHABLE"), "{text}");
    let headline = "r0/0: bob has no disk attached, and alice is not connected.\n";
    assert!(text.starts_with(headline), "{text}");
    let known = "whether alice serves r0 is not known here: it was Primary when last seen.";
    assert!(text.contains(known), "{text}");
    assert!(text.contains("  Data:  nobody is served from bob; it cannot take over"), "{text}");
    assert!(!text.contains("reads and writes of clients fail"), "{text}");
    assert!(text.contains("`tandemadm attach r0/0` on bob"), "{text}");
    report.status.devices[0].disk_note = "write of 4 KiB at 0 failed".to_owned();
    report.status.connections[0].last_peer_role = Role::Unknown;
    let text = blocks(&report);
    assert!(
        text.starts_with("r0/0: bob has lost its disk, and alice is not connected.\n"),
        "{text}"
    );
    assert!(text.contains("not known here: it was not met since `up`."), "{text}");
}

#[test]
fn a_secondary_without_its_disk_is_calm_beside_a_primary_that_has_one() {
    let mut report = fixtures::mirrored(fixtures::healthy());
    for disk in [DiskState::Diskless, DiskState::Failed] {
        report.status.devices[0].disk_state = disk;
        let text = blocks(&report);
        assert!(text.starts_with("r0/0: bob has no disk attached.\n"), "{text}");
        assert!(
            text.contains("alice holds the ONLY copy. bob cannot take over from it."),
            "{text}"
        );
    }
    // The Primary has lost its own, too: its clients get errors, and nobody's here.
    let peer = &mut report.status.connections[0].peer_devices[0];
    peer.peer_disk_state = DiskState::Diskless;
    let text = blocks(&report);
    assert!(text.contains("r0/0: NO COPY IS REACHABLE on bob.\n"), "{text}");
    assert!(text.contains("reads and writes of alice's clients fail until"), "{text}");
    report.status.connections[0].peer_role = Role::Secondary;
    let text = blocks(&report);
    assert!(text.contains("nobody is served, and neither node can be promoted until"), "{text}");
}
