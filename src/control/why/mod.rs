//! `tandemadm why`: what is wrong, why, what is at risk, and what to type, worst first.
//!
//! Invariants:
//! - A block has State, Why, Next, and Data where data is at risk; a healthy resource has one
//!   block.
//! - Next names the node each command is typed on, safest first, and what it destroys.

mod connection;
mod disk;
mod fencing;
mod handshake;
mod new_disk;
mod order;
mod split_brain;
mod unreachable;
mod verify;

use super::{Report, Zone, age, human};
use crate::resource::{
    ClientStatus, ConnectionState, ConnectionStatus, DeviceStatus, DiskState, PeerDeviceStatus,
    Refusal, ReplicationState, Role, Status,
};

/// One thing that a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Lower is worse.
    severity: u8,
    headline: String,
    state: String,
    open: Vec<String>,
    why: String,
    data: Option<String>,
    next: Vec<String>,
}

/// Severities, worst first.
mod severity {
    pub(super) const FAILED: u8 = 0;
    pub(super) const SPLIT_BRAIN: u8 = 1;
    pub(super) const NO_COPY: u8 = 2;
    pub(super) const REFUSED: u8 = 3;
    pub(super) const DISK: u8 = 4;
    pub(super) const SUSPENDED: u8 = 5;
    pub(super) const PEER_DOWN: u8 = 6;
    pub(super) const RESYNC: u8 = 7;
    pub(super) const ORDER: u8 = 8;
    pub(super) const FRESH: u8 = 9;
    pub(super) const DIFFERS: u8 = 10;
    pub(super) const FINE: u8 = 11;
}

/// A report, and the zone that its times are printed in.
#[derive(Clone, Copy)]
struct View<'a> {
    report: &'a Report,
    zone: Zone,
}

impl std::ops::Deref for View<'_> {
    type Target = Report;

    fn deref(&self) -> &Report {
        self.report
    }
}

impl View<'_> {
    /// `2026-11-25 03:02:11`.
    fn at(&self, seconds: u64) -> String {
        self.zone.iso(seconds)
    }

    /// The same for a table: without the date of today, `-` for never.
    fn brief(&self, seconds: u64) -> String {
        if seconds == 0 {
            return "-".to_owned();
        }
        let (when, today) = (self.at(seconds), self.at(self.taken_at));
        match when.split_once(' ') {
            Some((date, time)) if today.starts_with(date) => time.to_owned(),
            _ => when,
        }
    }
}

/// What there is to say of a resource, worst first; never empty.
#[must_use]
pub fn findings(report: &Report, zone: Zone) -> Vec<Finding> {
    let report = &View { report, zone };
    let mut all = Vec::new();
    all.extend(failed(report));
    all.extend(suspended(report));
    for device in &report.status.devices {
        all.extend(disk::hung(report, device));
        all.extend(disk::strayed(report, device));
        all.extend(disk::not_a_device(report, device));
        all.extend(disk::finding(report, device));
    }
    for one in &report.status.connections {
        all.extend(connection::finding(report, one));
    }
    all.extend(order::finding(report));
    if all.is_empty() {
        all.push(healthy(report));
    }
    all.extend(differs(report));
    all.sort_by_key(|finding| finding.severity);
    all
}

/// A resource that the configuration has for this node, and that is down; `refused`: so would be its `up`.
#[must_use]
pub fn down(resource: &str, node: &str, refused: Option<&Refusal>) -> Finding {
    let why = match refused {
        Some(Refusal { code, text, .. }) => format!("`up` is refused: ({code}) {}", sentence(text)),
        None => "it was taken down, or not brought up since tandemd has started.".to_owned(),
    };
    let up = format!("`tandemadm up {resource}` on {node}.");
    let next = match refused {
        Some(Refusal { hint, .. }) => vec![format!("1. {}", sentence(hint)), format!("2. {up}")],
        None => vec![up],
    };
    Finding {
        severity: severity::ORDER,
        headline: format!("{resource} is not up on {node}"),
        state: format!(
            "the configuration has it for {node}; here nobody is served from it, and nothing replicated."
        ),
        open: Vec::new(),
        why,
        data: None,
        next,
    }
}

/// What stays wrong with a resource, a line each: the log says it every hour, and never at a retry.
#[must_use]
pub fn reminders(report: &Report, zone: Zone) -> Vec<String> {
    let name = &report.status.name;
    let all = findings(report, zone);
    let stays = all.iter().filter(|finding| finding.needs_a_person());
    stays.map(|finding| format!("{}; next: tandemadm why {name}", finding.headline)).collect()
}

fn differs(report: &View<'_>) -> Option<Finding> {
    let resource = &report.status.name;
    let words = report.config_differs.join("; ");
    (!words.is_empty()).then(|| Finding {
        severity: severity::DIFFERS,
        headline: format!("{resource}: what runs is not what the configuration file says"),
        state: sentence(&words),
        open: Vec::new(),
        why: "the file was changed since `up`, or an option was changed at run time.".to_owned(),
        data: None,
        next: vec![format!(
            "`tandemadm -d adjust {resource}` shows what the file would change; `tandemadm adjust \
             {resource}` puts it in force."
        )],
    })
}

/// The blocks as text, an empty line between two of them.
#[must_use]
pub fn text(findings: &[Finding]) -> String {
    findings.iter().map(Finding::text).collect::<Vec<_>>().join("\n")
}

/// The blocks as JSON: an array of objects with State, Why, Data and Next.
#[must_use]
pub fn json(findings: &[Finding]) -> String {
    let blocks: Vec<_> = findings
        .iter()
        .map(|finding| {
            serde_json::json!({
                "State": format!("{} {}", sentence(&finding.headline), finding.state),
                "Why": finding.why,
                "Data": finding.data,
                "Next": finding.next,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::Array(blocks))
}

impl Finding {
    /// A person should act on it; what ends by itself, or is as it should be, is none.
    fn needs_a_person(&self) -> bool {
        self.severity < severity::RESYNC
    }

    fn text(&self) -> String {
        let mut out = sentence(&self.headline) + "\n";
        let mut line = |label: &str, text: &str| {
            if !text.is_empty() {
                let text = text.replace('\n', "\n         ");
                out += &format!("  {label:<7}{text}\n");
            }
        };
        line("State:", &self.state);
        for open in &self.open {
            line("Open:", open);
        }
        line("Why:", &self.why);
        line("Data:", self.data.as_deref().unwrap_or(""));
        for (n, next) in self.next.iter().enumerate() {
            line(if n == 0 { "Next:" } else { "" }, next);
        }
        out
    }
}

/// `since 2026-11-25 03:02:11 (14 s ago)`.
fn since(view: &View<'_>, connection: &ConnectionStatus) -> String {
    ago(view, connection.since_ms)
}

/// `since 2026-11-25 03:02:11 (9 min ago)`.
fn ago(view: &View<'_>, ms: u64) -> String {
    let seconds = ms / 1000;
    let when = view.at(view.taken_at.saturating_sub(seconds));
    format!("since {when} ({} ago)", age(seconds))
}

/// A text from elsewhere as a sentence: with one full stop at its end.
fn sentence(text: &str) -> String {
    let text = text.trim_end();
    match text.ends_with(['.', '!', '?', ':']) {
        true => text.to_owned(),
        false => format!("{text}."),
    }
}

/// The first eight digits of an identifier, without the bit that is not part of it.
fn short(uuid: u64) -> String {
    format!("{:08X}...", uuid >> 32)
}

fn name(status: &Status, device: &DeviceStatus) -> String {
    format!("{}/{}", status.name, device.volume)
}

fn out_of_sync(connection: &ConnectionStatus) -> u64 {
    connection.peer_devices.iter().map(|peer| peer.out_of_sync).sum()
}

fn size(status: &Status) -> u64 {
    status.devices.iter().map(|device| device.size).sum()
}

fn failed(report: &View<'_>) -> Option<Finding> {
    let status = &report.status;
    let message = status.failed.as_ref()?;
    Some(Finding {
        severity: severity::FAILED,
        headline: format!("{}: Tandem itself has failed on {}", status.name, status.node_name),
        state: format!("the resource has stopped after an internal error: {}", sentence(message)),
        open: Vec::new(),
        why: "a defect of tandemd; the other resources run on.".to_owned(),
        data: Some("nothing was acknowledged after the error; the disk stays locked.".to_owned()),
        next: vec![
            format!("keep the log of {} (`journalctl -u tandemd`) for a report.", status.node_name),
            format!(
                "then restart tandemd on {} and `tandemadm up {}`.",
                status.node_name, status.name
            ),
        ],
    })
}

fn suspended(report: &View<'_>) -> Option<Finding> {
    let status = &report.status;
    let node = &status.node_name;
    let resume = format!("`tandemadm resume-io {}`.", status.name);
    let alone = |one: &ConnectionStatus| one.connection_state == ConnectionState::StandAlone;
    let went_on = status.connections.iter().any(alone);
    let secondary = format!(
        "the peer went on meanwhile: `tandemadm secondary --force {0}` on {node}, then what is said below of the \
         connection; clients are served by the peer.",
        status.name
    );
    let (headline, why, next) = if status.suspended_user {
        ("I/O is frozen by order", "`tandemadm suspend-io` on this node.", resume.as_str())
    } else if status.suspended_fencing {
        return Some(fencing::frozen(report));
    } else if status.suspended_no_space {
        return Some(full_disks(report));
    } else if status.suspended_gap {
        (
            "I/O is frozen: this process did not run for a while",
            "the peer may have been promoted meanwhile; it is asked first.",
            match went_on {
                // It has answered.
                true => &secondary,
                false => {
                    "wait: it ends with the peer's answer, or when one full attempt has failed."
                }
            },
        )
    } else if status.suspended_handshake {
        (
            "I/O waits for a handshake",
            "the peer has just connected, and the two disks are being compared.",
            "wait: it ends with the handshake.",
        )
    } else {
        return None;
    };
    Some(Finding {
        severity: severity::SUSPENDED,
        headline: format!("{}: {headline}", status.name),
        state: format!(
            "{}{}.",
            report.past.frozen_ms.map_or(String::new(), |ms| format!("{}; ", ago(report, ms))),
            held(status)
        ),
        open: opened(report),
        why: why.to_owned(),
        data: Some("nothing is lost; nothing is acknowledged.".to_owned()),
        next: vec![next.to_owned()],
    })
}

/// Disks that are full, and writes that wait for room on them.
fn full_disks(report: &View<'_>) -> Finding {
    let status = &report.status;
    let mut names = Vec::new();
    if status.devices.iter().any(|device| device.no_space) {
        names.push(status.node_name.as_str());
    }
    let full = |c: &&ConnectionStatus| c.peer_devices.iter().any(|peer| peer.no_space);
    names.extend(status.connections.iter().filter(full).map(|c| c.name.as_str()));
    let own = DiskState::UpToDate;
    // The other copy, where one of two is full.
    let good = match &names[..] {
        [one] if *one == status.node_name => status
            .connections
            .iter()
            .any(|c| c.peer_devices.iter().all(|peer| peer.peer_disk_state == own)),
        [_] => status.devices.iter().all(|device| device.disk_state == own),
        _ => false,
    };
    let disks = match &names[..] {
        [] => "the only disk is".to_owned(),
        [one] => format!("the disk of {one} is"),
        more => format!("the disks of {} are", more.join(" and ")),
    };
    let (headline, state) = if status.role == Role::Primary {
        (format!("I/O is frozen: {disks} full"), format!("{}.", held(status)))
    } else {
        let state = format!("writes of the Primary wait on {}.", status.node_name);
        (format!("{disks} full, and writes wait for it"), state)
    };
    let why = if good {
        "No space left on device. If that lasts, the Primary lets go of the full disk and goes on \
         with the other copy."
    } else {
        "No space left on device, and no other copy can take the writes."
    };
    let on = if names.is_empty() { String::new() } else { format!(" on {}", names.join(" and ")) };
    Finding {
        severity: severity::SUSPENDED,
        headline: format!("{}: {headline}", status.name),
        state,
        open: opened(report),
        why: why.to_owned(),
        data: Some("nothing is lost; nothing is acknowledged.".to_owned()),
        next: vec![format!(
            "free or add space under the backing file{on}; I/O then goes on by itself."
        )],
    }
}

/// `1 request`, `2 requests`.
fn plural(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// The requests that are held back, and whose they are.
fn held(status: &Status) -> String {
    let waiting: u64 = status.devices.iter().map(|device| device.upper_pending).sum();
    let clients: u64 = status.devices.iter().map(|device| device.clients.len() as u64).sum();
    let (requests, clients) = (plural(waiting, "request"), plural(clients, "client"));
    let wait = if waiting == 1 { "waits" } else { "wait" };
    format!("{requests} of {clients} {wait} on {}", status.node_name)
}

/// A line per client of a volume.
fn opened(report: &View<'_>) -> Vec<String> {
    let status = &report.status;
    let mut lines = Vec::new();
    for device in &status.devices {
        for client in counted(&device.clients) {
            let (client, since) = client;
            let since = report.at(since);
            lines.push(format!("{} by {client} since {since}.", name(status, device)));
        }
    }
    lines
}

/// Each client once, in the order of their coming, with how often it is connected, and when it came.
fn counted(clients: &[ClientStatus]) -> Vec<(String, u64)> {
    let mut found: Vec<(&ClientStatus, usize)> = Vec::new();
    for client in clients {
        match found.iter_mut().find(|(known, _)| known.name == client.name) {
            Some((_, count)) => *count += 1,
            None => found.push((client, 1)),
        }
    }
    let words = |(client, count): (&ClientStatus, usize)| match count {
        1 => (client.name.clone(), client.since),
        count => (format!("{} ({count} connections)", client.name), client.since),
    };
    found.into_iter().map(words).collect()
}

/// Requests of clients that are not answered yet, and on whom; how long is not known.
fn waiting(status: &Status) -> Option<String> {
    let sum = |of: fn(&DeviceStatus) -> u64| status.devices.iter().map(of).sum::<u64>();
    let (requests, disk) = (sum(|one| one.upper_pending), sum(|one| one.lower_pending));
    let unanswered =
        |one: &ConnectionStatus| -> u64 { one.peer_devices.iter().map(|peer| peer.pending).sum() };
    let peers = status.connections.iter().filter(|one| unanswered(one) > 0);
    let peers = peers.map(|one| format!("{} by {}", unanswered(one), one.name));
    let own = (disk > 0).then(|| format!("{disk} by the disk here"));
    let on: Vec<String> = own.into_iter().chain(peers).collect();
    let wait = if requests == 1 { "waits" } else { "wait" };
    let wait = format!("{} of clients {wait}", plural(requests, "request"));
    (requests > 0).then(|| match on.is_empty() {
        true => wait,
        false => format!(
            "{wait}; not answered yet: {}. The same again in some seconds, and no client goes on: a \
             disk hangs",
            on.join(", ")
        ),
    })
}

fn healthy(report: &View<'_>) -> Finding {
    let status = &report.status;
    let (node, resource) = (&status.node_name, &status.name);
    let mut state = vec![format!("{node} is {} {}", status.role, ago(report, report.past.role_ms))];
    for one in &status.connections {
        state.push(format!("{} is Connected {}", one.name, since(report, one)));
    }
    let new: Vec<&DeviceStatus> = status
        .devices
        .iter()
        .filter(|device| device.disk_state == DiskState::Inconsistent)
        .collect();
    let fresh = super::events::promotion_score(status) == 0 && !new.is_empty();
    let disks: Vec<String> =
        status.devices.iter().map(|device| device.disk_state.to_string()).collect();
    state.push(match status.connections.is_empty() {
        true => format!("the disks are {}", disks.join(", ")),
        false => format!("disks here: {}", disks.join(", ")),
    });
    state.extend(waiting(status));
    let mut peers = status.connections.iter().flat_map(|one| &one.peer_devices);
    if let Some(peer) = peers.find(|peer| peer.resync_suspended.user || peer.resync_suspended.peer)
    {
        let whose = match peer.resync_suspended.user {
            true => "here",
            false => "on the peer",
        };
        state.push(format!(
            "a resync would stand still: `pause-sync` is in force ({}); `tandemadm resume-sync \
             {resource}` {whose} ends that",
            peer.resync_suspended
        ));
    }
    let peer = status.connections.first().map_or("the peer", |one| one.name.as_str());
    let peer_is_primary = status.connections.iter().any(|one| one.peer_role == Role::Primary);
    let (severity, headline, data, next) = if fresh {
        let names: Vec<String> = new.iter().map(|device| name(status, device)).collect();
        let names = names.join(" ");
        let peers = || status.connections.iter().flat_map(|one| &one.peer_devices);
        let is_away = |one: &&PeerDeviceStatus| {
            let known = one.peer_disk_state > DiskState::Diskless
                && one.peer_disk_state != DiskState::DUnknown;
            !known && new.iter().any(|device| device.volume == one.volume)
        };
        let which = match new.len() == status.devices.len() {
            true => "the disks are new".to_owned(),
            false => format!("the disk of {names} is new"),
        };
        let mut next = vec![format!(
            "on the node with the data to keep: `tandemadm primary --force {resource}`."
        )];
        if peers().any(|one| is_away(&one)) {
            // It may be the one with the data.
            next.insert(
                0,
                format!(
                    "{peer} has the disk with the data: `tandemadm attach {names}` on {peer}; it is copied \
                     here then."
                ),
            );
        } else {
            next.push(format!(
                "both disks blank and equal: `tandemadm new-current-uuid --clear-bitmap {names}` on \
                 one node (no sync)."
            ));
        }
        (
            severity::FRESH,
            format!("{resource}: {which}; nobody has said whose data is the right one"),
            Some("the first `primary --force` decides: the other disk is overwritten.".to_owned()),
            next,
        )
    } else {
        let next = match status.role {
            Role::Primary => format!(
                "to move {resource} to {peer}: umount and detach here, `tandemadm secondary \
                 {resource}` here, `tandemadm primary {resource}` on {peer}."
            ),
            _ if peer_is_primary => format!(
                "to move {resource} to {node}: umount and `tandemadm secondary {resource}` on \
                 {peer}, then `tandemadm primary {resource}` here."
            ),
            _ => format!("to use {resource} here: `tandemadm primary {resource}`."),
        };
        (severity::FINE, format!("{resource}: nothing is wrong"), None, vec![next])
    };
    Finding {
        severity,
        headline,
        state: format!("{}.", state.join("; ")),
        open: opened(report),
        why: status
            .connections
            .iter()
            .map(|one| handshake::last(report, one))
            .collect::<Vec<_>>()
            .join("\n"),
        data,
        next,
    }
}

/// Whether the volume is being copied to or from this peer.
fn is_resync(state: ReplicationState) -> bool {
    use ReplicationState as R;
    match state {
        R::Off | R::Established | R::VerifyS | R::VerifyT | R::Ahead | R::Behind => false,
        R::StartingSyncS | R::WFBitMapS | R::SyncSource | R::PausedSyncS => true,
        R::StartingSyncT | R::WFBitMapT | R::WFSyncUUID | R::SyncTarget | R::PausedSyncT => true,
    }
}

#[cfg(test)]
mod tests;
