//! A peer that is not there: what the network says, and whether this node could go on without it.

use super::connection::is_undialled;
use super::handshake::last;
use super::{Finding, View, human, name, out_of_sync, sentence, severity, short, since};
use crate::control::{age, events};
use crate::meta::JUST_CREATED;
use crate::resource::{ConnectionStatus, DeviceStatus, DiskState, Force, Reason, Role, Status};

/// The first line of State: what the network says.
pub(super) fn network(report: &View<'_>, connection: &ConnectionStatus) -> String {
    let other = &connection.name;
    let (way, port) = match report.path(connection.peer_node_id) {
        Some(path) => (format!("{} -> {}", path.local.ip(), path.remote), path.remote.port()),
        None => (other.clone(), 0),
    };
    let resource = &report.status.name;
    match connection.reason {
        Reason::Refused => format!(
            "{way}: Connection refused: the host answers, no tandemd listens there for {resource}."
        ),
        Reason::Timeout => {
            format!("{way}: no answer (host down, or a firewall drops {port}/tcp).")
        }
        Reason::NoRoute => format!("{way}: No route to host, or no such address here yet."),
        _ if is_undialled(connection) => {
            format!("{way}: not dialled: `up` did not get so far.")
        }
        Reason::NeverConnected => {
            format!("{way}: never connected since `up`: is {resource} up on {other}?")
        }
        Reason::StoppedByAdmin => {
            format!("{way}: {other} has left in order; it is dialled until it is back.")
        }
        _ => format!("{way}: the connection was lost; it is tried again."),
    }
}

/// What the peer was when it was known last.
fn seen(connection: &ConnectionStatus) -> String {
    match connection.last_peer_role {
        Role::Unknown => String::new(),
        role => format!(" {} was {role} when last seen.", connection.name),
    }
}

/// The own generation, and since when it is another than the peer's.
fn generation(report: &View<'_>, connection: &ConnectionStatus) -> String {
    let Some(device) = report.status.devices.first() else { return String::new() };
    let volume = connection.peer_devices.iter().find(|peer| peer.volume == device.volume);
    let alone = volume.is_some_and(|volume| volume.bitmap_uuid != 0);
    match device.generation_time {
        time if alone && time != 0 => format!(
            "new current UUID {} at {}, before the first write alone was acknowledged.",
            short(device.current_uuid),
            report.at(time)
        ),
        _ => format!("current UUID {}", short(device.current_uuid)),
    }
}

fn attempts(count: u64) -> String {
    match count {
        1 => "1 attempt".to_owned(),
        count => format!("{count} attempts"),
    }
}

/// The peer is dialled, and not there.
pub(super) fn unreachable(report: &View<'_>, connection: &ConnectionStatus) -> Finding {
    let status = &report.status;
    let (node, other, resource) = (&status.node_name, &connection.name, &status.name);
    let is_primary = status.role == Role::Primary;
    // Of the other reasons the first line of State says the same, and more.
    let told = matches!(
        connection.reason,
        Reason::Lost | Reason::None | Reason::NeverConnected | Reason::StoppedByAdmin
    );
    let was = match connection.detail.as_str() {
        detail if told && !detail.is_empty() => format!("{}\n", sentence(detail)),
        _ => String::new(),
    };
    let missing = out_of_sync(connection);
    let data = if is_primary {
        match missing {
            0 if connection.last_peer_role == Role::Unknown => {
                format!("what {other} lacks is not known: it was not met since `up`.")
            }
            0 => format!("nothing was written yet that {other} does not have."),
            _ if connection.last_peer_role == Role::Unknown => format!(
                "{other} was not met since `up`: it may lack {}. Until it has it, {node} holds the \
                 only copy.",
                human(missing)
            ),
            _ => format!(
                "{} were written that {other} does not have. If {node} dies now, {other} is {} \
                 old.",
                human(missing),
                age(connection.since_ms / 1000)
            ),
        }
    } else {
        format!(
            "whatever {other} has written since then, if it still runs, is not here. Nothing on \
             this node can tell."
        )
    };
    let port = report.path(connection.peer_node_id).map_or(0, |path| path.remote.port());
    let blocked = blocked(report);
    let next = if is_undialled(connection) {
        vec![format!(
            "`tandemadm up {resource}` on {node}: it attaches what is not attached, and dials \
             {other}."
        )]
    } else if is_primary && connection.reason == Reason::StoppedByAdmin {
        vec![format!(
            "on {other}: `tandemadm connect {resource}`, or `tandemadm up {resource}` where it was \
             taken down; what {other} lacks is then copied by itself."
        )]
    } else if is_primary {
        vec![
            format!(
                "on {other}: `systemctl status tandemd`, `tandemadm up {resource}`. If it runs \
                 there: port {port}/tcp in both firewalls; `tandemadm status {resource}` on \
                 {other}."
            ),
            format!("Do NOT promote {other} while {node} is up: that is a split brain."),
        ]
    } else if !blocked.is_empty() {
        let back = format!(
            "bring {other} back: `systemctl status tandemd`, `tandemadm up {resource}` there; what \
             {node} lacks is then copied by itself."
        );
        let ways: Vec<String> = match together(report, &blocked, other) {
            Some(all) => vec![all],
            None => blocked.iter().map(|device| way_out(report, device, other)).collect(),
        };
        numbered(std::iter::once(back).chain(ways))
    } else {
        vec![
            format!("1. make sure {other} is OFF (power, IPMI), not only unreachable."),
            format!("2. `tandemadm primary {resource}` on {node}."),
        ]
    };
    Finding {
        severity: severity::PEER_DOWN,
        headline: match is_primary {
            true if status.suspended_fencing => {
                format!("{resource}: {other} is not reachable; {node} waits until it is fenced")
            }
            true if has_no_copy(status) => {
                format!("{resource}: {other} is not reachable, and {node} has no good copy")
            }
            true => format!("{resource}: {other} is not reachable; {node} goes on alone"),
            false if !blocked.is_empty() => {
                let state = |device: &&DeviceStatus| {
                    format!("{} is {}", name(status, device), device.disk_state)
                };
                let states: Vec<String> = blocked.iter().map(state).collect();
                format!(
                    "{resource}: {other} is not reachable, and {node} cannot be promoted as it \
                     is: {}",
                    states.join(", ")
                )
            }
            false => format!(
                "{resource}: {other} is not reachable. {node} may be promoted, but is perhaps not \
                 up to date"
            ),
        },
        state: format!(
            "{}, {} {}, reason:{}, {}.{}\n{}",
            status.role,
            connection.connection_state,
            since(report, connection),
            connection.reason,
            attempts(connection.attempts),
            seen(connection),
            network(report, connection),
        ),
        open: Vec::new(),
        why: format!("{was}{}\n{}", generation(report, connection), last(report, connection)),
        data: Some(data),
        next,
    }
}

/// A volume has no good copy here.
fn has_no_copy(status: &Status) -> bool {
    status.devices.iter().any(|device| device.disk_state != DiskState::UpToDate)
}

/// The volumes for which a Secondary without its peer is refused as Primary.
fn blocked<'a>(report: &'a View<'_>) -> Vec<&'a DeviceStatus> {
    if events::promotion_score(&report.status) > 0 {
        return Vec::new();
    }
    let devices = report.status.devices.iter();
    devices.filter(|device| device.disk_state != DiskState::UpToDate).collect()
}

/// `--force` for this danger, and those of the other volumes: or they would refuse it.
pub(super) fn force_option(report: &View<'_>, own: Force) -> String {
    let others = report.status.devices.iter().filter_map(DeviceStatus::danger);
    Force::of(std::iter::once(own).chain(others)).unwrap_or(own).option()
}

/// The order that names the dangers of several volumes, where that is what it takes.
fn together(report: &View<'_>, blocked: &[&DeviceStatus], other: &str) -> Option<String> {
    let dangers: Vec<Force> = blocked.iter().map(|one| one.danger()).collect::<Option<_>>()?;
    let all = Force::of(dangers.iter().copied())?;
    if dangers.contains(&all) {
        return None;
    }
    let (node, resource) = (&report.status.node_name, &report.status.name);
    let disks: Vec<String> = blocked
        .iter()
        .map(|device| format!("{} is {}", name(&report.status, device), device.disk_state))
        .collect();
    Some(format!(
        "{other} is gone for good: `tandemadm primary {} {resource}` on {node}; {}: what {other} has written since \
         is lost, and a disk that is Inconsistent is a mix of old and new blocks.",
        all.option(),
        disks.join(", ")
    ))
}

/// How to go on without the peer, and what that costs.
fn way_out(report: &View<'_>, device: &DeviceStatus, other: &str) -> String {
    let (node, resource) = (&report.status.node_name, &report.status.name);
    let volume = name(&report.status, device);
    let force = |word: &str, danger: &str| {
        format!(
            "{other} is gone for good: `tandemadm primary {word} {resource}` on {node}; {danger}."
        )
    };
    match device.disk_state {
        DiskState::Inconsistent if device.current_uuid == JUST_CREATED => force(
            "--force",
            &format!("the disk of {volume} is new, and what is on it becomes the data"),
        ),
        DiskState::Inconsistent => force(
            "--force=inconsistent",
            &format!(
                "the disk of {volume} is a mix of old and new blocks: its file system may be broken"
            ),
        ),
        DiskState::Outdated => force(
            "--force=outdated",
            &format!("what {other} has written since {node} left it is lost"),
        ),
        DiskState::Consistent => force(
            "--force",
            &format!("if {other} was written alone, one side's writes will be thrown away"),
        ),
        DiskState::Diskless | DiskState::Failed | DiskState::Detaching => {
            format!("`tandemadm attach {volume}` on {node}, if its disk is there.")
        }
        DiskState::Attaching
        | DiskState::Negotiating
        | DiskState::DUnknown
        | DiskState::UpToDate => format!("wait until {volume} has a state: `tandemadm status`."),
    }
}

fn numbered(lines: impl Iterator<Item = String>) -> Vec<String> {
    lines.zip(1..).map(|(line, n)| format!("{n}. {line}")).collect()
}
