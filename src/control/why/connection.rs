//! Findings about a connection.

use super::handshake::verdict;
use super::unreachable::unreachable;
use super::{
    Finding, View, human, is_resync, new_disk, out_of_sync, sentence, severity, since, size,
    split_brain, verify,
};
use crate::control::{age, percent};
use crate::resource::{
    ConnectionState, ConnectionStatus, DiskState, HandshakeStatus, PeerDeviceStatus, Reason,
    ReplicationState, ResyncSuspended, Role, Status,
};

/// What there is to say of one connection.
pub(super) fn finding(report: &View<'_>, connection: &ConnectionStatus) -> Option<Finding> {
    if connection.connection_state == ConnectionState::Connected {
        let running = connection.peer_devices.iter().find(|peer| is_resync(peer.replication_state));
        let without =
            || connection.peer_devices.iter().find(|peer| lacks(report, connection, peer));
        return running
            .map(|peer| resync(report, connection, peer))
            .or_else(|| without().map(|peer| only_copy(report, connection, peer)))
            .or_else(|| {
                let peer = verify::differing(connection)?;
                Some(verify::finding(report, connection, peer))
            });
    }
    Some(match connection.reason {
        Reason::SplitBrain => split_brain::finding(report, connection),
        Reason::RolledBack => rolled_back(report, connection),
        Reason::UnrelatedData
        | Reason::WrongNode
        | Reason::WrongResource
        | Reason::BadVersion
        | Reason::BadSecret
        | Reason::ConfigDiffers
        | Reason::ResyncRefused => refused(report, connection),
        Reason::StoppedByAdmin if connection.connection_state == ConnectionState::StandAlone => {
            stopped(report, connection)
        }
        Reason::StoppedByAdmin
        | Reason::None
        | Reason::NeverConnected
        | Reason::Timeout
        | Reason::Refused
        | Reason::NoRoute
        | Reason::Lost => away(report, connection),
    })
}

/// The peer is dialled, and not there; or there, and waits for a person.
fn away(report: &View<'_>, connection: &ConnectionStatus) -> Finding {
    // It answers, and hangs up.
    let answers = matches!(
        connection.reason,
        Reason::None | Reason::NeverConnected | Reason::Lost | Reason::StoppedByAdmin
    );
    if split_brain::unresolved(connection) {
        split_brain::finding(report, connection)
    } else if answers && refused_last(connection) {
        refused(report, connection)
    } else {
        unreachable(report, connection)
    }
}

/// The peer has ended the last handshake for what both had found, and waits for a person.
pub(super) fn refused_last(connection: &ConnectionStatus) -> bool {
    let name = Reason::ResyncRefused.name();
    connection.last_handshake.iter().any(|found| found.outcome == name)
}

/// The peer is there, and one of the two said no.
pub(super) fn is_refused(connection: &ConnectionStatus) -> bool {
    connection.connection_state == ConnectionState::StandAlone
        && match connection.reason {
            Reason::SplitBrain
            | Reason::RolledBack
            | Reason::UnrelatedData
            | Reason::WrongNode
            | Reason::WrongResource
            | Reason::BadVersion
            | Reason::BadSecret
            | Reason::ConfigDiffers
            | Reason::ResyncRefused => true,
            Reason::StoppedByAdmin
            | Reason::None
            | Reason::NeverConnected
            | Reason::Timeout
            | Reason::Refused
            | Reason::NoRoute
            | Reason::Lost => false,
        }
}

/// Nobody has told the resource to dial this peer.
pub(super) fn is_undialled(connection: &ConnectionStatus) -> bool {
    connection.connection_state == ConnectionState::StandAlone
        && matches!(connection.reason, Reason::NeverConnected | Reason::None)
}

/// Whether this node has a volume's good copy, and the peer should have one and has none.
fn lacks(report: &View<'_>, connection: &ConnectionStatus, peer: &PeerDeviceStatus) -> bool {
    let bad = match peer.peer_disk_state {
        DiskState::Diskless | DiskState::Failed | DiskState::Detaching => true,
        DiskState::Inconsistent | DiskState::Outdated => true,
        // Good, or about to say what it is.
        DiskState::UpToDate
        | DiskState::Consistent
        | DiskState::Attaching
        | DiskState::Negotiating
        | DiskState::DUnknown => false,
    };
    let mut own = report.status.devices.iter().filter(|device| device.volume == peer.volume);
    bad && !report.is_client(connection.peer_node_id, peer.volume)
        && own.any(|device| device.disk_state == DiskState::UpToDate)
}

fn only_copy(report: &View<'_>, connection: &ConnectionStatus, peer: &PeerDeviceStatus) -> Finding {
    let status = &report.status;
    let (node, other, resource) = (&status.node_name, &connection.name, &status.name);
    let (volume, disk) = (format!("{resource}/{}", peer.volume), peer.peer_disk_state);
    Finding {
        severity: severity::DISK,
        headline: format!("{volume}: {other} has no good copy; {node} holds the only one"),
        state: format!("{other} is Connected {}; its disk is {disk}.", since(report, connection)),
        open: Vec::new(),
        why: format!("`tandemadm why {resource}` on {other} says what happened to its disk."),
        data: Some(format!(
            "{node} holds the ONLY good copy. If its disk or {node} itself is lost, so is what was \
             written since."
        )),
        next: vec![
            format!(
                "1. disk there, cause gone: `tandemadm attach {volume}` on {other}; a new one: \
                 `tandemadm create-md {volume}` first."
            ),
            format!("2. until then do not reboot, stop or fence {node}."),
        ],
    }
}

fn resync(report: &View<'_>, connection: &ConnectionStatus, peer: &PeerDeviceStatus) -> Finding {
    use ReplicationState as R;
    let status = &report.status;
    let (node, other, resource) = (&status.node_name, &connection.name, &status.name);
    let is_target = matches!(
        peer.replication_state,
        R::SyncTarget | R::StartingSyncT | R::WFBitMapT | R::WFSyncUUID | R::PausedSyncT
    );
    let (source, target) = if is_target { (other, node) } else { (node, other) };
    let held = peer.resync_suspended;
    let paused = held != ResyncSuspended::default();
    let progress = match &peer.resync {
        None => "about to start".to_owned(),
        Some(resync) if paused => format!(
            "{} % done, {} of {} left, paused ({held})",
            percent(resync.done_hundredths),
            human(resync.left),
            human(resync.total),
        ),
        Some(resync) => format!(
            "{} % done, {} of {} left, {}/s, {}",
            percent(resync.done_hundredths),
            human(resync.left),
            human(resync.total),
            human(resync.rate),
            resync
                .seconds_left
                .map_or("time left unknown".to_owned(), |s| format!("about {}", age(s))),
        ),
    };
    Finding {
        severity: severity::RESYNC,
        headline: match is_target {
            true if report.status.role == Role::Primary => {
                format!("{resource}: the disk of {node} is being resynced from {other}")
            }
            true => format!("{resource}: {node} cannot be promoted while it is being resynced"),
            false => format!("{resource}: {other} is being resynced from {node}"),
        },
        state: format!(
            "volume {}: {} {} {other}, Connected {}: {progress}.",
            peer.volume,
            peer.replication_state,
            if is_target { "of" } else { "for" },
            since(report, connection),
        ),
        open: Vec::new(),
        why: verdict(report, connection),
        data: Some(format!(
            "until the resync is done, {source} holds the ONLY good copy. {target}'s disk is a mix \
             of old and new blocks (Inconsistent)."
        )),
        next: next_of_resync(held, resource, other)
            .into_iter()
            .chain([format!(
                "wait: `tandemadm wait-sync {resource}`. Do not reboot, stop or fence {source} now."
            )])
            .collect(),
    }
}

/// What lets a resync that is held back go on.
fn next_of_resync(held: ResyncSuspended, resource: &str, other: &str) -> Option<String> {
    if held.user {
        Some(format!("`tandemadm resume-sync {resource}` here lets it go on."))
    } else if held.peer {
        Some(format!("{other} holds it back: `tandemadm why {resource}` there."))
    } else if held.dependency {
        Some("another resync of this node goes first; it goes on by itself.".to_owned())
    } else {
        None
    }
}

fn stopped(report: &View<'_>, connection: &ConnectionStatus) -> Finding {
    let status = &report.status;
    let (other, resource) = (&connection.name, &status.name);
    Finding {
        severity: severity::PEER_DOWN,
        headline: format!("{resource}: the connection to {other} was ended by an administrator"),
        state: format!("{} {}.", connection.connection_state, since(report, connection)),
        open: Vec::new(),
        why: match connection.detail.as_str() {
            "" => format!("`tandemadm disconnect`, here or on {other}."),
            detail => sentence(detail),
        },
        data: Some(format!(
            "{} differ so far; what is written now is on one node only.",
            human(out_of_sync(connection))
        )),
        next: match connection.back_in_ms {
            Some(ms) => vec![
                format!("nothing: it comes back by itself in {}.", age(ms.div_ceil(1000))),
                format!(
                    "now: `tandemadm connect {resource}`; not at all: `tandemadm disconnect \
                     {resource}`."
                ),
            ],
            None => vec![format!("`tandemadm connect {resource}` on both nodes.")],
        },
    }
}

/// What a disk is set back to, and how that happens.
const EARLIER_IMAGE: &str =
    "an earlier image (VM snapshot, restore, dd, SAN rollback, an older disk in its place)";

/// Whose disk was set back, as the rule that refused says; two: both were; none: no handshake here has found it.
fn set_back<'a>(report: &'a View<'_>, connection: &'a ConnectionStatus) -> Vec<&'a str> {
    let status = &report.status;
    let says = |rule: &str| connection.last_handshake.iter().any(|met| met.rule == rule);
    let both = says("rolled-back-both") || says("replaced-both");
    let nodes = [
        (status.node_name.as_str(), both || says("rolled-back-self") || says("replaced-self")),
        (connection.name.as_str(), both || says("rolled-back-peer") || says("replaced-peer")),
    ];
    nodes.into_iter().filter(|(_, back)| *back).map(|(node, _)| node).collect()
}

fn rolled_back(report: &View<'_>, connection: &ConnectionStatus) -> Finding {
    let status = &report.status;
    let (node, resource) = (&status.node_name, &status.name);
    let victims = set_back(report, connection);
    let is_primary = |victim: &str| {
        let role = if victim == node { status.role } else { connection.peer_role };
        role == Role::Primary
    };
    let headline = match victims[..] {
        [victim] if is_primary(victim) => {
            format!("{resource}: {victim}'s disk is older than it was, and {victim} is Primary")
        }
        [victim] => format!(
            "{resource}: {victim}'s disk is older than it was: it was set back to {EARLIER_IMAGE}"
        ),
        [] => {
            format!("{resource}: one disk is older than it was: it was set back to {EARLIER_IMAGE}")
        }
        _ => format!(
            "{resource}: a disk of each node is older than it was: both were set back to \
             {EARLIER_IMAGE}"
        ),
    };
    // The last handshake's: the good copy that is left.
    let mixed = |victim: &str| {
        let found = connection
            .last_handshake
            .iter()
            .find(|met| met.rule.starts_with("rolled-back") || met.rule.starts_with("replaced"));
        let other =
            |met: &&HandshakeStatus| if victim == node { met.peer.disk } else { met.own.disk };
        found.filter(|met| other(met) == DiskState::Inconsistent)
    };
    let (data, usual) = match (&victims[..], victims.first().and_then(|one| mixed(one))) {
        ([victim], Some(met)) => {
            let volume = format!("{resource}/{}", met.volume);
            let other = if victim == node { &connection.name } else { node };
            (
                format!(
                    "no complete copy of the newest data is left: {other}'s disk is a mix, in the middle \
                     of a resync, and {victim}'s lacks what was written after its image was made. \
                     {victim}'s is the best there is: do not invalidate it."
                ),
                format!(
                    "1. usual: on {other} `tandemadm down {resource}`, `tandemadm create-md --force \
                     {volume}`, `tandemadm up {resource}`, `tandemadm invalidate {volume}`; then \
                     `tandemadm connect {resource}` on both. A backup may be newer than that."
                ),
            )
        }
        ([victim], None) => (
            format!(
                "{victim}'s disk lacks what was written in between; which blocks is not recorded, so \
                 a full sync ({}) is needed. The other one is complete.",
                human(size(status))
            ),
            format!(
                "1. usual: on {victim} `tandemadm invalidate {resource}`, then `tandemadm connect \
                 {resource}` on both."
            ),
        ),
        _ => (
            "each disk may lack what the other one has; which blocks is not recorded. Look at both \
             before one is thrown away."
                .to_owned(),
            format!(
                "1. usual: on the node whose data you give up `tandemadm invalidate {resource}`, on the \
                 other one, where it is Outdated, `tandemadm primary --force=outdated {resource}`, then \
                 `tandemadm connect {resource}` on both."
            ),
        ),
    };
    Finding {
        severity: severity::REFUSED,
        headline,
        state: format!(
            "{} {}; refused by both nodes.",
            connection.connection_state,
            since(report, connection)
        ),
        open: Vec::new(),
        why: verdict(report, connection),
        data: Some(data),
        next: vec![
            usual,
            "2. you restored it ON PURPOSE and want that state: stop everything and follow \
             docs/OPERATIONS \"Restore a backup\", step by step; it overwrites the other disk."
                .to_owned(),
        ],
    }
}

fn refused(report: &View<'_>, connection: &ConnectionStatus) -> Finding {
    let status = &report.status;
    let (node, other, resource) = (&status.node_name, &connection.name, &status.name);
    let (what, data, next) = refusal(report, connection);
    // These two refuse before a handshake; an older one says nothing of them.
    let detail = match connection.reason {
        Reason::BadSecret if !connection.detail.is_empty() => connection.detail.clone(),
        Reason::BadSecret => format!(
            "one of the two has another secret, another cram-hmac-alg or none: `tandemadm ping \
             {resource}` says which."
        ),
        Reason::BadVersion => "nothing else was compared.".to_owned(),
        _ => verdict(report, connection),
    };
    Finding {
        severity: severity::REFUSED,
        headline: format!("{resource}: {node} and {other} do not replicate: {what}"),
        state: format!(
            "{} {}, reason:{}.{}",
            connection.connection_state,
            since(report, connection),
            connection.reason,
            match is_refused(connection) {
                true => String::new(),
                false => format!(" {other} stays StandAlone until it is told to connect."),
            },
        ),
        open: Vec::new(),
        why: detail,
        data,
        next,
    }
}

/// The volumes whose disks are no copies of each other, as an order names them: those of the others stay.
fn unrelated(status: &Status, connection: &ConnectionStatus) -> String {
    let all = &connection.last_handshake;
    let met = all.iter().filter(|met| met.outcome == Reason::UnrelatedData.name());
    let volumes: Vec<String> = met.map(|met| format!("{}/{}", status.name, met.volume)).collect();
    match volumes.is_empty() || volumes.len() == all.len() {
        true => status.name.clone(),
        false => volumes.join(" "),
    }
}

/// What was refused, what is at risk, and what to do.
fn refusal(
    report: &View<'_>,
    connection: &ConnectionStatus,
) -> (&'static str, Option<String>, Vec<String>) {
    let status = &report.status;
    let (node, other, resource) = (&status.node_name, &connection.name, &status.name);
    let both = human(size(status));
    let connect = format!("then `tandemadm connect {resource}` on both nodes.");
    let forced = new_disk::over_data(connection);
    if let Some(forced) = forced.filter(|_| connection.reason == Reason::ResyncRefused) {
        return new_disk::refusal(report, connection, forced);
    }
    match connection.reason {
        Reason::UnrelatedData => (
            "the two disks have no generation in common: never copies of each other, or one was \
             forced alone",
            Some(format!(
                "a full sync overwrites one of the disks ({both}).{}",
                new_disk::found(report, connection)
            )),
            vec![
                format!(
                    "if {node} is the new or wrong disk, on {node}: `tandemadm down {resource}`, \
                     `tandemadm create-md --force {0}` (what is on that disk is then lost), \
                     `tandemadm up {resource}`; if it is {other}, the same there. Where the disk that \
                     stays is only Consistent, `why` asks once more.",
                    unrelated(status, connection)
                ),
                "If you are not sure, stop here: nothing is overwritten while the nodes are \
                 StandAlone."
                    .to_owned(),
            ],
        ),
        Reason::WrongNode => (
            "it is not the configured node, or its disk is a copy of ours",
            None,
            vec![format!(
                "compare node-id in both configs; if a disk was cloned: `tandemadm create-md \
                 {resource}` on the copy; {connect}"
            )],
        ),
        Reason::WrongResource => (
            "its resource has another name",
            None,
            vec![format!("two ports are swapped in one of the configs: correct it; {connect}")],
        ),
        Reason::BadVersion => (
            "no common protocol version",
            None,
            vec![format!("upgrade the older of the two nodes; {connect}")],
        ),
        Reason::BadSecret => (
            "the shared secrets differ, no data was exchanged",
            None,
            vec![format!(
                "make shared-secret and cram-hmac-alg equal in both configs, `tandemadm adjust \
                 {resource}` on the node where they were wrong; {connect}"
            )],
        ),
        Reason::ConfigDiffers => (
            "options that must be equal are not",
            None,
            vec![format!(
                "make them equal in both configs, `tandemadm adjust {resource}` where it was \
                 changed; {connect}"
            )],
        ),
        _ if small(connection).is_some() => too_small(report, connection),
        _ => (
            "the resync that is needed is refused",
            Some(match out_of_sync(connection) {
                0 => "which blocks differ is not known; nothing is overwritten.".to_owned(),
                differ => format!("{} differ.", human(differ)),
            }),
            resync_refused(report, connection),
        ),
    }
}

/// The causes that a resync is refused for, the one that fits first.
fn resync_refused(report: &View<'_>, connection: &ConnectionStatus) -> Vec<String> {
    let resource = &report.status.name;
    let connect = format!("then `tandemadm connect {resource}` on both nodes.");
    let sides = || connection.last_handshake.iter().flat_map(|found| [&found.own, &found.peer]);
    let primary = format!(
        "a Primary would be overwritten: stop its users, `tandemadm secondary {resource}` there; \
         {connect}"
    );
    // A force begins a history of its own: the next refusal is likely, and says more.
    let source = format!(
        "the source is Outdated or Inconsistent: `tandemadm primary --force=outdated|inconsistent \
         {resource}` on the disk to keep; {connect} If that ends as a split brain or unrelated \
         data, `tandemadm why {resource}` says how the other disk is overwritten (--discard-my-data \
         or create-md there)."
    );
    let primaries = sides().filter(|side| side.role == Role::Primary).count();
    let bad = |disk| matches!(disk, DiskState::Outdated | DiskState::Inconsistent);
    if primaries > 0 && primaries == 2 * connection.last_handshake.len() {
        return vec![two_primaries(report, connection, &connect)];
    }
    // Who is Primary is the one to be overwritten.
    match (primaries > 0, sides().any(|side| side.role != Role::Primary && bad(side.disk))) {
        // A source that is no better than the target is the cause that is left.
        (false, _) => vec![source],
        (true, true) => vec![primary, source],
        (true, false) => vec![primary],
    }
}

/// Each was Primary when they met.
fn two_primaries(report: &View<'_>, connection: &ConnectionStatus, connect: &str) -> String {
    let (node, other, resource) = (&report.status.node_name, &connection.name, &report.status.name);
    match report.status.suspended_gap {
        true => format!(
            "{other} was promoted while {node} stood still: stop what uses {resource} on {node}, \
             `tandemadm secondary {resource}` on {node}; {connect}"
        ),
        false => format!(
            "both are Primary: stop what uses {resource} on one of them, `tandemadm secondary \
             {resource}` there; {connect}"
        ),
    }
}

/// The handshake that a size has refused.
fn small(connection: &ConnectionStatus) -> Option<&HandshakeStatus> {
    connection.last_handshake.iter().find(|found| found.rule == "size")
}

/// A disk has not the room that the volume is in use with.
fn too_small(
    report: &View<'_>,
    connection: &ConnectionStatus,
) -> (&'static str, Option<String>, Vec<String>) {
    let (node, other) = (&report.status.node_name, &connection.name);
    let resource = &report.status.name;
    let (own, peer) = small(connection).map_or((0, 0), |f| (f.own.data_size, f.peer.data_size));
    let (smaller, larger) = if own < peer { (node, other) } else { (other, node) };
    let data = format!(
        "nothing is overwritten. {node}'s disk has room for {} ({own} bytes), {other}'s for {} \
         ({peer} bytes).",
        human(own),
        human(peer)
    );
    let next = format!(
        "give {smaller} a larger disk, as long as {larger} holds the data. On {smaller}: \
         `tandemadm down {resource}`, grow or replace the disk, `tandemadm create-md --force \
         {resource}` ({smaller}'s copy is made anew from {larger}'s), `tandemadm up {resource}`. \
         On {larger}: `tandemadm connect {resource}`. Where {larger}'s is only Consistent, `why` asks \
         once more."
    );
    ("a disk is too small for what the volume is in use with", Some(data), vec![next])
}
