//! A split brain: who wrote what since when, and the two ways out.

use super::handshake::{amount, meaning};
use super::unreachable::network;
use super::{Finding, View, counted, human, out_of_sync, severity, short, since};
use crate::resource::{ConnectionState, ConnectionStatus, DeviceStatus, HandshakeStatus};

/// Both nodes were written since they lost each other.
pub(super) fn finding(view: &View<'_>, connection: &ConnectionStatus) -> Finding {
    let status = &view.status;
    let (node, other, resource) = (&status.node_name, &connection.name, &status.name);
    Finding {
        severity: severity::SPLIT_BRAIN,
        headline: format!(
            "{resource}: SPLIT BRAIN. {node} and {other} have both been written since they lost \
             each other. Nothing is overwritten; they do not replicate"
        ),
        state: format!(
            "{} {}.{}{}",
            connection.connection_state,
            since(view, connection),
            half_way(view, connection),
            ancestor(connection)
        ),
        open: Vec::new(),
        why: why(view, connection),
        data: Some(format!(
            "{}\nThe victim loses what is in its line; a file system on the victim was used on \
             its own.",
            table(view, connection)
        )),
        next: next(view, connection),
    }
}

/// The last handshake ended as a split brain, and there was none since.
pub(super) fn unresolved(connection: &ConnectionStatus) -> bool {
    connection.last_handshake.iter().any(|found| found.outcome == "split-brain")
}

/// This node was told to connect, and the other one is not there.
fn half_way(view: &View<'_>, connection: &ConnectionStatus) -> String {
    if connection.connection_state == ConnectionState::StandAlone {
        return String::new();
    }
    format!(
        " {} was told to connect; {} stays StandAlone until it is told too. {}",
        view.status.node_name,
        connection.name,
        network(view, connection)
    )
}

/// The generation that both started from.
fn ancestor(connection: &ConnectionStatus) -> String {
    let common = connection.last_handshake.iter().find(|found| {
        let (own, peer) = (found.own.bitmap_uuid, found.peer.bitmap_uuid);
        own != 0 && own >> 1 == peer >> 1
    });
    common.map_or(String::new(), |found| {
        format!(" Last in sync: generation {}", short(found.own.bitmap_uuid))
    })
}

fn why(view: &View<'_>, connection: &ConnectionStatus) -> String {
    let decisive = connection.last_handshake.iter().find(|found| found.outcome == "split-brain");
    let Some(found) = decisive.or_else(|| connection.last_handshake.first()) else {
        return "the other node found it and has told it.".to_owned();
    };
    let primaries = [&found.own, &found.peer]
        .iter()
        .filter(|side| side.role == crate::resource::Role::Primary)
        .count();
    format!(
        "rule {} (handshake {}): {}\nPolicy that was asked: after-sb-{primaries}pri.",
        found.rule,
        view.at(found.time),
        meaning(view, connection, found)
    )
}

/// A line per node and volume, columns as wide as they must be.
fn table(view: &View<'_>, connection: &ConnectionStatus) -> String {
    let mut rows = vec![
        ["", "role", "open by", "written since the split", "first write", "last write", "UUID"]
            .map(str::to_owned),
    ];
    for device in &view.status.devices {
        let found = connection.last_handshake.iter().find(|one| one.volume == device.volume);
        rows.push(own_row(view, connection, device));
        rows.push(peer_row(view, connection, device, found));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

fn label(view: &View<'_>, node: &str, device: &DeviceStatus) -> String {
    match view.status.devices.len() {
        1 => node.to_owned(),
        _ => format!("{node}/{}", device.volume),
    }
}

fn own_row(view: &View<'_>, connection: &ConnectionStatus, device: &DeviceStatus) -> [String; 7] {
    let status = &view.status;
    let volume = connection.peer_devices.iter().find(|one| one.volume == device.volume);
    let open = match device.clients.as_slice() {
        [] => "-".to_owned(),
        clients => {
            let names: Vec<String> = counted(clients).into_iter().map(|(name, _)| name).collect();
            names.join(", ")
        }
    };
    [
        label(view, &status.node_name, device),
        status.role.to_string(),
        open,
        amount(volume.map_or(0, |volume| volume.out_of_sync)),
        view.brief(device.generation_time),
        view.brief(last_write(device.generation_time, device.alone_time)),
        short(device.current_uuid),
    ]
}

/// A write that came before the generation began, while clients were frozen, was written in it.
fn last_write(generation_time: u64, alone_time: u64) -> u64 {
    match alone_time {
        0 => 0,
        _ => alone_time.max(generation_time),
    }
}

/// As the peer described itself at the handshake; its clock, its role then.
fn peer_row(
    view: &View<'_>,
    connection: &ConnectionStatus,
    device: &DeviceStatus,
    found: Option<&HandshakeStatus>,
) -> [String; 7] {
    let name = label(view, &connection.name, device);
    let Some(found) = found else {
        let unknown = || "?".to_owned();
        let role = format!("{} when last seen", connection.last_peer_role);
        return [name, role, unknown(), unknown(), unknown(), unknown(), unknown()];
    };
    let time = |seconds: u64| match seconds {
        0 => "?".to_owned(),
        _ => format!("{} ({}'s clock)", view.brief(seconds), connection.name),
    };
    [
        name,
        format!("{} when last seen", found.peer.role),
        "?".to_owned(),
        amount(found.peer.out_of_sync),
        time(found.peer.generation_time),
        time(last_write(found.peer.generation_time, found.peer.alone_time)),
        short(found.peer.current_uuid),
    ]
}

fn next(view: &View<'_>, connection: &ConnectionStatus) -> Vec<String> {
    let status = &view.status;
    let (node, other, resource) = (&status.node_name, &connection.name, &status.name);
    let lost = human(out_of_sync(connection));
    let theirs: u64 = connection.last_handshake.iter().map(|one| one.peer.out_of_sync).sum();
    let theirs = match theirs {
        0 => "writes".to_owned(),
        bytes => human(bytes),
    };
    let give_up = |who: &str| {
        format!(
            "On {who}: stop what uses {resource}, `tandemadm secondary {resource}`, `tandemadm \
             connect --discard-my-data {resource}`."
        )
    };
    vec![
        format!(
            "A. Keep {node}, lose {other}'s {theirs}. {} On {node}: `tandemadm connect \
             {resource}`.",
            give_up(other)
        ),
        format!(
            "B. Keep {other}, lose {node}'s {lost}. {} On {other}: `tandemadm connect {resource}`.",
            give_up(node)
        ),
        "Before either: copy the victim's disk or snapshot it (lvcreate -s, zfs snapshot, cp \
         --reflink). There is no undo."
            .to_owned(),
    ]
}
