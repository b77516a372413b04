//! `tandemadm check`: one line for a monitoring plug-in, with performance data behind a `|`.
//!
//! Exit codes are those of the plug-in convention: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.

use super::{Report, age, differs, kib, percent};
use crate::resource::{
    ConnectionState, ConnectionStatus, DiskState, NodeId, Reason, Role, Status, VolumeNumber,
};

/// A handshake that holds the I/O of a Primary back for so long is none of those that end in a moment, ms.
const HANDSHAKE_MAX_MS: u64 = 5000;
/// So many reconnects within an hour are worth a look at the network.
const RECONNECTS_MAX: u64 = 5;

/// How bad it is; the number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is wrong.
    Ok = 0,
    /// Somebody should look, or it ends by itself.
    Warning = 1,
    /// Somebody must act: data is at risk, or not served.
    Critical = 2,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
        }
    }
}

/// What no report says, for the configuration alone has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Resources that should be up, and are not.
    pub down: Vec<String>,
    /// What is wrong with the configuration: the file, and what.
    pub wrong: Option<String>,
}

/// The line, with a line break, and its level.
#[must_use]
pub fn line(reports: &[Report], beside: &Beside) -> (String, Level) {
    let mut findings: Vec<(Level, String)> = reports.iter().flat_map(findings).collect();
    let down = &beside.down;
    findings.extend(down.iter().map(|name| (Level::Warning, format!("{name} is not up"))));
    // What stands in the file may be anything.
    let wrong = beside.wrong.iter().map(|text| (Level::Warning, one_line(text)));
    findings.extend(wrong);
    let level = findings.iter().map(|(level, _)| *level).max().unwrap_or(Level::Ok);
    let data = performance(reports);
    if level == Level::Ok {
        let what = match reports.len() {
            0 => "no resource is up".to_owned(),
            1 => "1 resource, all disks UpToDate".to_owned(),
            count => format!("{count} resources, all disks UpToDate"),
        };
        return (format!("OK: {what} | {data}\n"), level);
    }
    let worst: Vec<&str> =
        findings.iter().filter(|one| one.0 == level).map(|(_, text)| text.as_str()).collect();
    let mut extent = extent(reports, down.len());
    if beside.wrong.is_some() && level == Level::Warning {
        extent += "; not checked: what else should be up";
    }
    let text = format!("{}: {} ({extent})", level.name(), worst.join("; "));
    (format!("{text} | {data}\n"), level)
}

/// How many resources something is wrong with: of those that are up, and `down` that are not.
fn extent(reports: &[Report], down: usize) -> String {
    let touched = reports.iter().filter(|report| !findings(report).is_empty()).count() + down;
    match (touched, reports.len()) {
        (0, 0) => "no resource is up".to_owned(),
        (0, 1) => "1 resource is up and all right".to_owned(),
        (0, up) => format!("{up} resources are up and all right"),
        (touched, up) => format!("{touched} of {}", up + down),
    }
}

/// The line where the daemon does not answer; exit code 3.
#[must_use]
pub fn unknown(why: &str) -> String {
    format!("UNKNOWN: {} | -\n", one_line(why))
}

/// The first line, without the bar that begins the performance data.
fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().replace('|', "/")
}

fn findings(report: &Report) -> Vec<(Level, String)> {
    let status = &report.status;
    let name = &status.name;
    let mut found = Vec::new();
    if status.failed.is_some() {
        found.push((Level::Critical, format!("{name} has failed, restart tandemd")));
    }
    let frozen = [
        (status.suspended_user, "user"),
        (status.suspended_fencing, "fencing"),
        (status.suspended_no_space, "no-space"),
        (status.suspended_gap, "gap"),
    ];
    for (is, why) in frozen {
        if is {
            let since = age(report.past.frozen_ms.unwrap_or_default() / 1000);
            found.push((Level::Critical, format!("{name} I/O frozen since {since} ({why})")));
        }
    }
    let held = report.past.handshake_ms.unwrap_or_default();
    if status.role == Role::Primary && status.suspended_handshake && held >= HANDSHAKE_MAX_MS {
        let since = age(held / 1000);
        found.push((Level::Critical, format!("{name} I/O frozen since {since} (handshake)")));
    }
    for device in &status.devices {
        if let Some(ms) = device.hung_ms {
            let since = age(ms / 1000);
            let text = format!("{name}/{} disk does not answer since {since}", device.volume);
            found.push((Level::Critical, text));
        }
        let disk = device.disk_state;
        let level = match disk {
            DiskState::UpToDate => continue,
            DiskState::Diskless if device.backing_disk == "none" => continue,
            DiskState::Diskless | DiskState::Failed => Level::Critical,
            // Its clients get errors.
            _ if status.role == Role::Primary && status.good_peer(device.volume).is_none() => {
                Level::Critical
            }
            // Seen below, with its progress.
            DiskState::Inconsistent if resyncs(status, device.volume) => continue,
            DiskState::Inconsistent
            | DiskState::Outdated
            | DiskState::Consistent
            | DiskState::Attaching
            | DiskState::Detaching
            | DiskState::Negotiating
            | DiskState::DUnknown => Level::Warning,
        };
        found.push((level, format!("{name}/{} {disk}", device.volume)));
    }
    found.extend(status.connections.iter().filter_map(|one| connection(report, one)));
    for (volume, what) in &report.path_differs {
        found.push((Level::Warning, format!("{name}/{volume} path differs: {what}")));
    }
    for (volume, why) in &report.device_failed {
        found.push((Level::Warning, format!("{name}/{volume} device not attached: {why}")));
    }
    if !report.config_differs.is_empty() {
        found.push((Level::Warning, format!("{name} runs with another configuration")));
    }
    found
}

fn resyncs(status: &Status, volume: VolumeNumber) -> bool {
    let mut peers = status.connections.iter().flat_map(|one| &one.peer_devices);
    peers.any(|peer| peer.volume == volume && peer.resync.is_some())
}

fn connection(report: &Report, one: &ConnectionStatus) -> Option<(Level, String)> {
    let (name, peer) = (&report.status.name, &one.name);
    let since = age(one.since_ms / 1000);
    match (one.connection_state, one.reason) {
        (ConnectionState::Connected, _) => {
            let syncs = one.peer_devices.iter().find(|device| device.resync.is_some());
            if let Some((device, resync)) = syncs.and_then(|d| Some((d, d.resync.as_ref()?))) {
                let held = Some(device.resync_suspended).filter(|h| *h != Default::default());
                let left = match resync.seconds_left {
                    _ if held.is_some() => format!("paused ({})", held.unwrap_or_default()),
                    Some(seconds) => format!("{} left", age(seconds)),
                    None => "time left unknown".to_owned(),
                };
                let done = percent(resync.done_hundredths);
                return Some((
                    Level::Warning,
                    format!("{name} resync with {peer} {done} %, {left}"),
                ));
            }
            if let Some(device) = one.peer_devices.iter().find(|device| differs(device)) {
                let (volume, kib) = (device.volume, kib(device.out_of_sync));
                let text = format!("{name}/{volume} {kib} KiB differ from {peer} (verify)");
                return Some((Level::Warning, text));
            }
            let bad = one.peer_devices.iter().find(|device| {
                device.peer_disk_state != DiskState::UpToDate
                    && !report.is_client(one.peer_node_id, device.volume)
            });
            if let Some(bad) = bad {
                let (volume, disk) = (bad.volume, bad.peer_disk_state);
                return Some((Level::Warning, format!("{name}/{volume} {disk} on {peer}")));
            }
            let count = reconnects(report, one.peer_node_id);
            let text = format!("{name} {peer} reconnected {count} times in the last hour");
            (count >= RECONNECTS_MAX).then_some((Level::Warning, text))
        }
        (_, Reason::SplitBrain) => {
            Some((Level::Critical, format!("{name} SPLIT BRAIN with {peer} since {since}")))
        }
        (ConnectionState::StandAlone, reason) => {
            Some((Level::Critical, format!("{name} StandAlone ({reason}) since {since}")))
        }
        (_, reason) => {
            let text = format!("{name} {peer} not connected ({reason}) since {since}");
            Some((Level::Warning, text))
        }
    }
}

fn reconnects(report: &Report, peer: NodeId) -> u64 {
    let counts = report.past.reconnects_1h.iter();
    counts.filter(|(id, _)| *id == peer).map(|(_, count)| count).sum()
}

fn performance(reports: &[Report]) -> String {
    let connections = || reports.iter().flat_map(|report| &report.status.connections);
    let oos: u64 =
        connections().flat_map(|one| &one.peer_devices).map(|peer| kib(peer.out_of_sync)).sum();
    let standalone =
        connections().filter(|one| one.connection_state == ConnectionState::StandAlone).count();
    let devices = reports.iter().flat_map(|report| &report.status.devices);
    let diskless = devices
        .filter(|device| device.disk_state == DiskState::Diskless && device.backing_disk != "none")
        .count();
    let reconnects: u64 =
        reports.iter().flat_map(|report| &report.past.reconnects_1h).map(|(_, count)| count).sum();
    let frozen = reports.iter().filter_map(|report| report.past.frozen_ms).max();
    let frozen = frozen.map_or(String::new(), |ms| format!(" frozen_s={}", ms / 1000));
    format!(
        "oos_kib={oos} standalone={standalone} diskless={diskless} reconnects_1h={reconnects}{frozen}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;

    fn of(reports: &[Report]) -> String {
        line(reports, &Beside::default()).0
    }

    #[test]
    fn what_is_defined_and_not_up_is_a_warning() {
        let down = vec!["mail".to_owned()];
        let (text, level) = line(&[fixtures::healthy()], &Beside { down, wrong: None });
        assert_eq!(level, Level::Warning);
        assert!(text.starts_with("WARNING: mail is not up (1 of 2) | oos_kib=0"), "{text}");
    }

    #[test]
    fn a_configuration_that_is_not_valid_is_a_warning() {
        let beside =
            Beside { wrong: Some("/etc/tandem.conf:3: a|b\nmore".to_owned()), ..Beside::default() };
        let told = |reports: &[Report], beside: &Beside| {
            let (text, level) = line(reports, beside);
            assert_eq!(level, Level::Warning);
            let text = text.split(" | oos").next().unwrap().to_owned();
            text.strip_prefix("WARNING: ").unwrap().to_owned()
        };
        let wrong = "/etc/tandem.conf:3: a/b";
        let unseen = "not checked: what else should be up)";
        let healthy = fixtures::healthy();
        assert_eq!(
            told(std::slice::from_ref(&healthy), &beside),
            format!("{wrong} (1 resource is up and all right; {unseen}")
        );
        assert_eq!(
            told(&[healthy.clone(), healthy.clone()], &beside),
            format!("{wrong} (2 resources are up and all right; {unseen}")
        );
        assert_eq!(told(&[], &beside), format!("{wrong} (no resource is up; {unseen}"));
        let mut client = healthy.clone();
        client.status.connections[0].peer_devices[0].peer_disk_state = DiskState::Diskless;
        assert_eq!(
            told(&[client, healthy], &beside),
            format!("r0/0 Diskless on bob; {wrong} (1 of 2; {unseen}")
        );
        let beside = Beside { down: vec!["mail".to_owned()], ..beside };
        assert_eq!(told(&[], &beside), format!("mail is not up; {wrong} (1 of 1; {unseen}"));
        // A worse one is told alone.
        let (text, _) = line(&[fixtures::split_brain()], &beside);
        assert!(
            text.starts_with("CRITICAL: r0 SPLIT BRAIN") && text.contains(" (2 of 2) | "),
            "{text}"
        );
    }

    #[test]
    fn a_peer_without_a_disk_is_wrong_unless_it_has_none_by_configuration() {
        let mut report = fixtures::healthy();
        report.status.connections[0].peer_devices[0].peer_disk_state = DiskState::Diskless;
        let text = of(std::slice::from_ref(&report));
        assert!(text.starts_with("WARNING: r0/0 Diskless on bob (1 of 1) | "), "{text}");
        report.peer_clients.push((1, 0));
        assert!(of(&[report]).starts_with("OK: "));
    }

    #[test]
    fn a_primary_without_a_good_copy_is_critical() {
        let mut report = fixtures::peer_down();
        assert!(report.status.role == Role::Primary);
        report.status.devices[0].disk_state = DiskState::Outdated;
        assert!(of(&[report]).starts_with("CRITICAL: r0/0 Outdated"));
    }

    #[test]
    fn each_state_has_its_level_and_line() {
        assert_eq!(
            line(&[fixtures::healthy()], &Beside::default()),
            (
                "OK: 1 resource, all disks UpToDate | oos_kib=0 standalone=0 diskless=0 reconnects_1h=0\n"
                    .to_owned(),
                Level::Ok
            )
        );
        assert_eq!(
            of(&[]),
            "OK: no resource is up | oos_kib=0 standalone=0 diskless=0 reconnects_1h=0\n"
        );
        assert_eq!(
            line(&[fixtures::healthy(), fixtures::resync_target()], &Beside::default()),
            (
                "WARNING: r0 resync with alice 61.20 %, 1 min 20 s left (1 of 2) | \
                 oos_kib=8493466 standalone=0 diskless=0 reconnects_1h=0\n"
                    .to_owned(),
                Level::Warning
            )
        );
        assert_eq!(
            line(&[fixtures::split_brain(), fixtures::peer_down()], &Beside::default()),
            (
                "CRITICAL: r0 SPLIT BRAIN with bob since 9 min (2 of 2) | oos_kib=958464 \
                 standalone=1 diskless=0 reconnects_1h=0\n"
                    .to_owned(),
                Level::Critical
            )
        );
    }

    #[test]
    fn a_resync_of_one_volume_does_not_hide_another_one_that_has_none() {
        let mut report = fixtures::resync_target();
        let mut other = report.status.devices[0].clone();
        other.volume = 1;
        report.status.devices.push(other);
        let text = of(&[report]);
        assert!(text.starts_with("WARNING: r0/1 Inconsistent; r0 resync with alice"), "{text}");
    }

    #[test]
    fn what_is_not_served_is_critical() {
        let mut full = fixtures::healthy();
        full.status.suspended_no_space = true;
        full.past.frozen_ms = Some(23_500);
        let text = of(std::slice::from_ref(&full));
        assert!(text.ends_with(" reconnects_1h=0 frozen_s=23\n"), "{text}");
        assert!(
            of(&[full]).starts_with("CRITICAL: r0 I/O frozen since 23 s (no-space) (1 of 1) | ")
        );
        let mut hung = fixtures::healthy();
        let mut flaps = fixtures::healthy();
        flaps.past.reconnects_1h = vec![(1, 4)];
        assert!(of(std::slice::from_ref(&flaps)).starts_with("OK: "));
        flaps.past.reconnects_1h = vec![(1, 14)];
        let text = of(&[flaps]);
        let wanted = "WARNING: r0 bob reconnected 14 times in the last hour (1 of 1) | ";
        assert!(text.starts_with(wanted) && text.contains("reconnects_1h=14"), "{text}");
        let mut strayed = fixtures::healthy();
        strayed.path_differs.push((0, "/d is another file now".to_owned()));
        let text = of(&[strayed]);
        assert!(
            text.starts_with("WARNING: r0/0 path differs: /d is another file now (1"),
            "{text}"
        );
        hung.status.devices[0].hung_ms = Some(12_000);
        let text = of(&[hung]);
        assert!(
            text.starts_with("CRITICAL: r0/0 disk does not answer since 12 s (1 of 1)"),
            "{text}"
        );
        let mut lost = fixtures::healthy();
        lost.status.devices[0].disk_state = DiskState::Diskless;
        assert!(of(&[lost]).starts_with("CRITICAL: r0/0 Diskless (1 of 1) | "));
        let stopped = of(&[fixtures::refused(Reason::StoppedByAdmin)]);
        assert!(
            stopped.starts_with("CRITICAL: r0 StandAlone (stopped-by-admin) since"),
            "{stopped}"
        );
    }

    #[test]
    fn a_handshake_that_does_not_end_freezes_a_primary() {
        let mut report = fixtures::healthy();
        report.status.suspended_handshake = true;
        report.past.handshake_ms = Some(4999);
        assert!(of(std::slice::from_ref(&report)).starts_with("OK: "));
        report.past.handshake_ms = Some(42_000);
        let text = of(std::slice::from_ref(&report));
        assert!(text.starts_with("CRITICAL: r0 I/O frozen since 42 s (handshake) (1 "), "{text}");
        report.status.role = Role::Secondary;
        assert!(of(&[report]).starts_with("OK: "), "nobody waits there");
    }

    #[test]
    fn a_silent_daemon_is_one_line_without_a_bar() {
        assert_eq!(unknown("no | answer\nStart it."), "UNKNOWN: no / answer | -\n");
    }
}
