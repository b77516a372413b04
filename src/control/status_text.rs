//! `tandemadm status`: DRBD 9's layout, a paragraph per resource.
//!
//! ```text
//! r0 role:Primary
//!   disk:UpToDate open:yes
//!   bob role:Secondary
//!     replication:SyncSource peer-disk:Inconsistent done:61.20
//! ```
//! Without `--verbose` only what is not normal is said. Our own words (`reason:`,
//! `discard-my-data:pending`, `failed:`, `order:`, `hung:`, `path:`, `back-in:`, `out-of-sync:` of what a verify
//! has found) stand at the end of a line, while they apply.

use std::fmt::Write;

use super::{Report, kib, percent, waiting_order, yes_no};
use crate::resource::{
    ConnectionState, ConnectionStatus, DeviceStatus, DiskState, PeerDeviceStatus, ReplicationState,
    ResyncSuspended, Role, Status,
};

/// Columns of a line of a peer's volume.
const LINE_MAX: usize = 80;

/// What is asked for beyond the plain form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// Say also what is normal.
    pub verbose: bool,
    /// Add the counters.
    pub statistics: bool,
}

/// The reasons why I/O is suspended, `no` where it is not.
#[must_use]
pub(crate) fn suspended(status: &Status) -> String {
    let reasons = [
        (status.suspended_user, "user"),
        (status.suspended_fencing, "fencing"),
        (status.suspended_no_space, "no-space"),
        (status.suspended_gap, "gap"),
        (status.suspended_handshake, "handshake"),
    ];
    let named: Vec<&str> = reasons.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
    if named.is_empty() { "no".to_owned() } else { named.join(",") }
}

/// One resource, with a line break at the end.
#[must_use]
pub fn resource(report: &Report, detail: Detail) -> String {
    let status = &report.status;
    let mut out = status.name.clone();
    let suspended = suspended(status);
    if detail.verbose {
        let _ = write!(out, " node-id:{}", status.node_id);
    }
    let _ = write!(out, " role:{}", status.role);
    if detail.verbose || suspended != "no" {
        let _ = write!(out, " suspended:{suspended}");
    }
    if detail.verbose {
        let _ = write!(out, " force-io-failures:no");
    }
    if status.failed.is_some() {
        let _ = write!(out, " failed:yes");
    }
    if let Some(order) = waiting_order(status) {
        let _ = write!(out, " order:{}", order.verb);
    }
    if !report.config_differs.is_empty() {
        let _ = write!(out, " config:differs");
    }
    if detail.statistics {
        let _ = write!(out, "\n    write-ordering:flush");
    }
    out.push('\n');
    let numbered = detail.verbose || status.devices.len() > 1;
    for device in &status.devices {
        line_of_device(&mut out, (report, device), detail, numbered, suspended != "no");
    }
    for connection in &status.connections {
        line_of_connection(&mut out, connection, detail);
        for peer in &connection.peer_devices {
            line_of_peer_device(&mut out, report, connection, peer, detail, numbered);
        }
    }
    out
}

fn line_of_device(
    out: &mut String,
    (report, device): (&Report, &DeviceStatus),
    detail: Detail,
    numbered: bool,
    suspended: bool,
) {
    let mut words = Vec::new();
    if numbered {
        words.push(format!("volume:{} minor:{}", device.volume, device.minor));
    }
    words.push(format!("disk:{}", device.disk_state));
    if device.disk_state == DiskState::Diskless {
        words.push(format!("client:{}", yes_no(device.backing_disk == "none")));
    }
    if detail.verbose {
        words.push(format!("backing_dev:{} quorum:yes", device.backing_disk));
    }
    words.push(format!("open:{}", yes_no(!device.clients.is_empty())));
    if suspended {
        words.push("blocked:upper".to_owned());
    } else if detail.verbose {
        words.push("blocked:no".to_owned());
    }
    if device.hung_ms.is_some() {
        words.push("hung:yes".to_owned());
    }
    if report.path_differs.iter().any(|(volume, _)| *volume == device.volume) {
        words.push("path:differs".to_owned());
    }
    if report.device_failed.iter().any(|(volume, _)| *volume == device.volume) {
        words.push("device:failed".to_owned());
    }
    for (off, name) in
        [(device.no_disk_flushes, "disk-flushes"), (device.no_md_flushes, "md-flushes")]
    {
        if off {
            words.push(format!("{name}:no"));
        }
    }
    let _ = writeln!(out, "  {}", words.join(" "));
    if detail.statistics {
        let _ = writeln!(
            out,
            "      size:{} read:{} written:{} al-writes:{} bm-writes:{} upper-pending:{} \
             lower-pending:{}",
            kib(device.size),
            kib(device.read),
            kib(device.written),
            device.al_writes,
            device.bm_writes,
            device.upper_pending,
            device.lower_pending,
        );
    }
}

fn line_of_connection(out: &mut String, connection: &ConnectionStatus, detail: Detail) {
    let mut words = vec![connection.name.clone()];
    let connected = connection.connection_state == ConnectionState::Connected;
    if detail.verbose {
        words.push(format!("node-id:{}", connection.peer_node_id));
    }
    if detail.verbose || !connected {
        words.push(format!("connection:{}", connection.connection_state));
    }
    if detail.verbose || connection.peer_role != Role::Unknown {
        words.push(format!("role:{}", connection.peer_role));
    }
    if detail.verbose {
        words.push("tls:no".to_owned());
    }
    if detail.verbose || connection.congested {
        words.push(format!("congested:{}", yes_no(connection.congested)));
    }
    if !connected {
        words.push(format!("reason:{}", connection.reason));
    }
    if connection.discard_my_data_pending {
        words.push("discard-my-data:pending".to_owned());
    }
    if let Some(ms) = connection.back_in_ms {
        words.push(format!("back-in:{}", ms.div_ceil(1000)));
    }
    let _ = writeln!(out, "  {}", words.join(" "));
    if detail.statistics {
        let _ = writeln!(
            out,
            "      ap-in-flight:{} rs-in-flight:{}",
            kib(connection.ap_in_flight),
            kib(connection.rs_in_flight),
        );
    }
}

fn line_of_peer_device(
    out: &mut String,
    report: &Report,
    connection: &ConnectionStatus,
    peer: &PeerDeviceStatus,
    detail: Detail,
    numbered: bool,
) {
    let connected = connection.connection_state == ConnectionState::Connected;
    let known = peer.peer_disk_state != DiskState::DUnknown;
    if !(detail.verbose || detail.statistics || connected || known) {
        return;
    }
    let mut words = Vec::new();
    if numbered {
        words.push(format!("volume:{}", peer.volume));
    }
    let usual = [ReplicationState::Established, ReplicationState::Off];
    if detail.verbose || !usual.contains(&peer.replication_state) {
        words.push(format!("replication:{}", peer.replication_state));
    }
    words.push(format!("peer-disk:{}", peer.peer_disk_state));
    if detail.verbose || peer.peer_disk_state == DiskState::Diskless {
        let client = report.is_client(connection.peer_node_id, peer.volume);
        words.push(format!("peer-client:{}", yes_no(client)));
    }
    if detail.verbose {
        words.push(format!("resync-suspended:{}", peer.resync_suspended));
    }
    let verify = peer.verify.as_ref();
    if let Some(resync) = peer.resync.as_ref().or(verify.map(|verify| &verify.progress)) {
        words.push(format!("done:{}", percent(resync.done_hundredths)));
        if let (true, Some(seconds)) = (detail.verbose, resync.seconds_left) {
            words.push(format!("eta:{seconds}"));
        }
    }
    if let Some(verify) = verify.filter(|_| detail.verbose) {
        words.push(format!("ov-position:{}", verify.position / 512));
        words.push(format!("ov-out-of-sync:{}", kib(verify.found)));
    }
    if let Some(last) = peer.last_verify.as_ref().filter(|_| detail.verbose) {
        let (from, to) = (last.start / 512, last.position / 512);
        let how = if last.done { "done" } else { "stopped" };
        words.push(format!(
            "last-verify:{} {how}:{from}-{to} found:{}",
            super::stamp(last.time),
            kib(last.found)
        ));
    }
    if !detail.statistics && super::differs(peer) {
        words.push(format!("out-of-sync:{}", kib(peer.out_of_sync)));
    }
    let mut line = format!("    {}", words.join(" "));
    if !detail.verbose && peer.resync_suspended != ResyncSuspended::default() {
        let word = format!("resync-suspended:{}", peer.resync_suspended);
        // As DRBD breaks its lines.
        let room = line.len() + 1 + word.len() <= LINE_MAX;
        line += if room { " " } else { "\n        " };
        line += &word;
    }
    let _ = writeln!(out, "{line}");
    if detail.statistics {
        let _ = writeln!(
            out,
            "        received:{} sent:{} out-of-sync:{} pending:{} unacked:{}",
            kib(peer.received),
            kib(peer.sent),
            kib(peer.out_of_sync),
            peer.pending,
            peer.unacked,
        );
    }
}

/// What is printed where nothing is up; for scripts it is a comment.
pub const NOTHING: &str = "# No currently configured DRBD found.\n";

/// `role`: the own role.
#[must_use]
pub fn role(report: &Report) -> String {
    format!("{}\n", report.status.role)
}

/// `cstate`: a line per chosen connection.
#[must_use]
pub fn cstate(connections: &[&ConnectionStatus]) -> String {
    connections.iter().map(|connection| format!("{}\n", connection.connection_state)).collect()
}

/// `dstate`: a line per chosen volume, the own disk and then each chosen peer's.
#[must_use]
pub fn dstate(devices: &[&DeviceStatus], connections: &[&ConnectionStatus]) -> String {
    let mut out = String::new();
    for device in devices {
        let _ = write!(out, "{}", device.disk_state);
        for connection in connections {
            let peer = connection.peer_devices.iter().find(|peer| peer.volume == device.volume);
            let state = peer.map_or(DiskState::DUnknown, |peer| peer.peer_disk_state);
            let _ = write!(out, "/{state}");
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;
    use crate::resource::Reason;

    fn plain(report: &Report) -> String {
        resource(report, Detail::default())
    }

    #[test]
    fn a_healthy_pair_says_only_what_drbd_says() {
        assert_eq!(
            plain(&fixtures::healthy()),
            "r0 role:Primary\n  disk:UpToDate open:yes\n  bob role:Secondary\n    \
             peer-disk:UpToDate\n"
        );
    }

    #[test]
    fn what_a_verify_has_found_is_said_once() {
        let mut report = fixtures::healthy();
        report.status.connections[0].peer_devices[0].out_of_sync = 8192;
        assert!(plain(&report).ends_with("    peer-disk:UpToDate out-of-sync:8\n"));
        let all = resource(&report, Detail { verbose: true, statistics: true });
        assert_eq!(all.matches(" out-of-sync:8").count(), 1, "{all}");
    }

    #[test]
    fn a_config_that_is_not_what_runs_is_said() {
        let mut report = fixtures::healthy();
        report.config_differs.push("timeout is 60, not 50".to_owned());
        assert!(plain(&report).starts_with("r0 role:Primary config:differs\n"));
        report.path_differs.push((0, "/d is another file now".to_owned()));
        assert!(plain(&report).contains(" open:yes path:differs\n"), "{}", plain(&report));
        report.device_failed.push((0, "no driver".to_owned()));
        assert!(plain(&report).contains(" path:differs device:failed\n"), "{}", plain(&report));
    }

    #[test]
    fn an_option_that_voids_a_promise_is_said() {
        let mut report = fixtures::healthy();
        report.status.devices[0].no_disk_flushes = true;
        assert!(plain(&report).contains(" open:yes disk-flushes:no\n"), "{}", plain(&report));
        report.status.devices[0].no_md_flushes = true;
        assert!(plain(&report).contains(" disk-flushes:no md-flushes:no\n"), "{}", plain(&report));
    }

    #[test]
    fn a_disk_that_is_not_there_is_said_to_be_meant_or_lost() {
        let mut report = fixtures::healthy();
        report.status.devices[0].disk_state = DiskState::Diskless;
        report.status.connections[0].peer_devices[0].peer_disk_state = DiskState::Diskless;
        let text = plain(&report);
        assert!(text.contains("  disk:Diskless client:no open:yes\n"), "{text}");
        assert!(text.ends_with("    peer-disk:Diskless peer-client:no\n"), "{text}");
        "none".clone_into(&mut report.status.devices[0].backing_disk);
        report.peer_clients.push((1, 0));
        let text = plain(&report);
        assert!(text.contains("  disk:Diskless client:yes open:yes\n"), "{text}");
        assert!(text.ends_with("    peer-disk:Diskless peer-client:yes\n"), "{text}");
    }

    #[test]
    fn several_volumes_are_numbered() {
        assert_eq!(
            plain(&fixtures::two_volumes()),
            "r0 role:Primary\n  volume:0 minor:0 disk:UpToDate open:no\n  \
             volume:1 minor:1 disk:UpToDate open:no\n  bob role:Secondary\n    \
             volume:0 peer-disk:UpToDate\n    volume:1 peer-disk:UpToDate\n"
        );
    }

    #[test]
    fn a_resync_shows_its_progress_at_the_end_of_the_line() {
        assert_eq!(
            plain(&fixtures::resync_source()),
            "r0 role:Primary\n  disk:UpToDate open:yes\n  bob role:Secondary\n    \
             replication:SyncSource peer-disk:Inconsistent done:61.20\n"
        );
    }

    #[test]
    fn a_lost_peer_has_a_reason_and_no_lines_of_its_volumes() {
        assert_eq!(
            plain(&fixtures::peer_down()),
            "r0 role:Primary\n  disk:UpToDate open:yes\n  \
             bob connection:Connecting reason:refused\n"
        );
        let split = fixtures::refused(Reason::SplitBrain);
        assert!(plain(&split).ends_with("  bob connection:StandAlone reason:split-brain\n"));
    }

    #[test]
    fn a_pending_discard_stands_at_the_end() {
        let mut report = fixtures::peer_down();
        report.status.connections[0].discard_my_data_pending = true;
        assert!(plain(&report).ends_with("Connecting reason:refused discard-my-data:pending\n"));
    }

    #[test]
    fn suspended_io_is_said_with_its_reason() {
        let mut report = fixtures::peer_down();
        report.status.suspended_no_space = true;
        assert!(plain(&report).starts_with(
            "r0 role:Primary suspended:no-space\n  disk:UpToDate open:yes blocked:upper\n"
        ));
    }

    #[test]
    fn an_order_that_does_not_end_at_once_is_said() {
        let mut report = fixtures::healthy();
        let mut order = crate::resource::OrderStatus {
            verb: "secondary".to_owned(),
            for_ms: 999,
            left_ms: None,
            waits_for: "clients to leave".to_owned(),
            behind: 0,
        };
        report.status.order = Some(order.clone());
        assert!(plain(&report).starts_with("r0 role:Primary\n"));
        order.for_ms = 1000;
        report.status.order = Some(order);
        assert!(plain(&report).starts_with("r0 role:Primary order:secondary\n"));
    }

    #[test]
    fn verbose_says_the_normal_too() {
        let detail = Detail { verbose: true, statistics: false };
        assert_eq!(
            resource(&fixtures::healthy(), detail),
            "r0 node-id:0 role:Primary suspended:no force-io-failures:no\n  \
             volume:0 minor:0 disk:UpToDate backing_dev:/dev/vg0/r0 quorum:yes open:yes \
             blocked:no\n  bob node-id:1 connection:Connected role:Secondary tls:no \
             congested:no\n    volume:0 replication:Established peer-disk:UpToDate \
             peer-client:no resync-suspended:no\n"
        );
    }

    #[test]
    fn statistics_are_kib_on_their_own_lines() {
        let detail = Detail { verbose: false, statistics: true };
        assert_eq!(
            resource(&fixtures::peer_down(), detail),
            "r0 role:Primary\n    write-ordering:flush\n  disk:UpToDate open:yes\n      \
             size:104857600 read:1024 written:2048 al-writes:3 bm-writes:4 upper-pending:0 \
             lower-pending:0\n  bob connection:Connecting reason:refused\n      \
             ap-in-flight:0 rs-in-flight:0\n    peer-disk:DUnknown\n        received:0 \
             sent:2048 out-of-sync:831488 pending:0 unacked:0\n"
        );
    }

    #[test]
    fn the_single_words_follow_drbd_9() {
        let report = fixtures::resync_source();
        assert_eq!(role(&report), "Primary\n");
        let connections: Vec<_> = report.status.connections.iter().collect();
        let devices: Vec<_> = report.status.devices.iter().collect();
        assert_eq!(cstate(&connections), "Connected\n");
        assert_eq!(dstate(&devices, &connections), "UpToDate/Inconsistent\n");
    }
}
