//! Findings about the own disk.

use super::unreachable::force_option;
use super::{Finding, View, age, connection, human, is_resync, name, sentence, severity};
use crate::control::ATTACH_FAILED;
use crate::meta::JUST_CREATED;
use crate::resource::{
    ConnectionState, ConnectionStatus, DeviceStatus, DiskState, Force, ONLY_A_NEW_CONNECTION, Role,
};

/// The own disk does not answer.
pub(super) fn hung(report: &View<'_>, device: &DeviceStatus) -> Option<Finding> {
    let seconds = device.hung_ms? / 1000;
    let status = &report.status;
    let (node, resource) = (&status.node_name, &status.name);
    let volume = name(status, device);
    let given_up = matches!(device.disk_state, DiskState::Failed);
    let state = format!(
        "{} is {}: its oldest operation does not end {} ({} ago); under way there: {}; requests of clients \
         that wait: {}.",
        device.backing_disk,
        device.disk_state,
        format_args!("since {}", report.at(report.taken_at.saturating_sub(seconds))),
        age(seconds),
        device.lower_pending,
        device.upper_pending,
    );
    let (data, next) = match given_up {
        true => (
            None,
            vec![format!(
                "it was given up; attach it again when the system has let go of it: `dmesg` on \
                 {node}, then `tandemadm attach {volume}`."
            )],
        ),
        false => (
            Some("nothing is lost; writes are not acknowledged before both disks have them."),
            vec![
                format!("1. see what holds it up: `dmesg`, cables, the pool under it, on {node}."),
                match good_peer(report, device) {
                    Some(peer) => format!(
                        "2. give it up, {peer}'s disk serves: `tandemadm detach --force {volume}` \
                         on {node}. `disk-timeout` in the configuration does it by itself."
                    ),
                    None => format!(
                        "2. no other copy is reachable: bring the peer back first (`tandemadm why \
                         {resource}` there)."
                    ),
                },
            ],
        ),
    };
    Some(Finding {
        severity: severity::SUSPENDED,
        headline: format!("{volume}: {node}'s disk does not answer"),
        state,
        open: Vec::new(),
        why: "the disk neither completes what it was asked for nor reports an error.".to_owned(),
        data: data.map(str::to_owned),
        next,
    })
}

/// The daemon could not attach the volume's device.
pub(super) fn not_a_device(report: &View<'_>, device: &DeviceStatus) -> Option<Finding> {
    let (_, why) = report.device_failed.iter().find(|(number, _)| *number == device.volume)?;
    let volume = name(&report.status, device);
    Some(Finding {
        severity: severity::DIFFERS,
        headline: format!("{volume}: its device is not attached (device-attach auto)"),
        state: format!(
            "this node is Primary and serves NBD; its /dev/nbd{} is not there.",
            device.minor
        ),
        open: Vec::new(),
        why: format!("{}.", why.trim_end_matches('.')),
        data: None,
        next: vec![format!(
            "put that right, then `tandemadm device attach {volume}`; or `tandemadm primary {}` once \
             more, which tries it again.",
            report.status.name
        )],
    })
}

/// The path leads somewhere else than to the disk in use.
pub(super) fn strayed(report: &View<'_>, device: &DeviceStatus) -> Option<Finding> {
    let (_, what) = report.path_differs.iter().find(|(number, _)| *number == device.volume)?;
    let status = &report.status;
    let (node, resource) = (&status.node_name, &status.name);
    let volume = name(status, device);
    let peer = good_peer(report, device);
    let mut next = vec![format!(
        "the file in use was renamed within its file system (never copied): move it back to its path on {node}, or \
         write its new path into the configuration and `tandemadm adjust {resource}`; nothing else is to be done."
    )];
    next.push(match peer {
        Some(peer) => format!(
            "it was replaced or removed, and {peer}'s copy goes on: `tandemadm detach {volume}`, put \
             an empty file of its size there, `tandemadm create-md --force {volume}`, `tandemadm \
             attach {volume}` on {node}. It is copied anew from {peer}."
        ),
        None => format!(
            "it was replaced or removed, and no other copy is reachable: do not stop tandemd, \
             `{resource}` or {node}. Bring the peer back, or copy what the NBD device shows first."
        ),
    });
    Some(Finding {
        severity: severity::DISK,
        headline: format!("{volume}: the disk in use is not what its path leads to"),
        state: format!("{} and in use; {what}.", device.disk_state),
        open: Vec::new(),
        why: "a file was moved over it, or it was renamed or removed. What is in use goes on and has \
              no name: it is gone when it is let go of (`down`, a reboot)."
            .to_owned(),
        data: Some(match peer {
            Some(peer) => format!("{node}'s copy is lost then; {peer} holds the other one."),
            None => format!("{node}'s copy is lost then, and no other one is reachable."),
        }),
        next,
    })
}

/// What there is to say of one volume's own disk.
pub(super) fn finding(report: &View<'_>, device: &DeviceStatus) -> Option<Finding> {
    match device.disk_state {
        DiskState::Diskless | DiskState::Failed | DiskState::Detaching
            if device.backing_disk != "none" =>
        {
            Some(without_disk(report, device))
        }
        DiskState::Outdated | DiskState::Inconsistent
            if report.status.role == Role::Primary && good_peer(report, device).is_none() =>
        {
            Some(without_copy(report, device))
        }
        DiskState::Consistent => Some(undecided(report, device)),
        DiskState::Outdated => Some(outdated(report, device)),
        DiskState::Inconsistent if is_stuck(report, device) => Some(inconsistent(report, device)),
        DiskState::Diskless
        | DiskState::Failed
        | DiskState::Detaching
        | DiskState::Attaching
        | DiskState::Negotiating
        | DiskState::Inconsistent
        | DiskState::DUnknown
        | DiskState::UpToDate => None,
    }
}

/// A peer that is connected and UpToDate for this volume.
fn good_peer<'a>(report: &'a View<'_>, device: &DeviceStatus) -> Option<&'a str> {
    report.status.good_peer(device.volume).map(|connection| connection.name.as_str())
}

/// A peer that is connected, and whose disk is not attached.
fn without_its_disk<'a>(report: &'a View<'_>, device: &DeviceStatus) -> Option<&'a str> {
    let connected = |one: &&ConnectionStatus| one.connection_state == ConnectionState::Connected;
    let found = report.status.connections.iter().filter(connected).find(|one| {
        one.peer_devices
            .iter()
            .any(|d| d.volume == device.volume && d.peer_disk_state == DiskState::Diskless)
    });
    found.map(|one| one.name.as_str())
}

/// Nobody who can be asked has the data: `next` leads out.
fn no_copy(report: &View<'_>, device: &DeviceStatus, state: String, next: Vec<String>) -> Finding {
    let volume = name(&report.status, device);
    let primary = match report.status.role {
        Role::Primary => Some("clients".to_owned()),
        _ => {
            let mut peers = report.status.connections.iter();
            let primary = peers.find(|one| one.peer_role == Role::Primary);
            primary.map(|one| format!("{}'s clients", one.name))
        }
    };
    Finding {
        severity: severity::NO_COPY,
        headline: format!("{volume}: NO COPY IS REACHABLE on {}", report.status.node_name),
        state,
        open: Vec::new(),
        why: "neither the own disk nor a connected peer holds UpToDate data.".to_owned(),
        data: Some(match primary {
            Some(whose) => format!("reads and writes of {whose} fail until one of them is back."),
            None => "nobody is served, and neither node can be promoted until one of them is back."
                .to_owned(),
        }),
        next,
    }
}

/// The own disk of a Primary is not the newest, as far as is known, and nobody else's is there.
fn without_copy(report: &View<'_>, device: &DeviceStatus) -> Finding {
    let note = match device.disk_note.as_str() {
        "" => String::new(),
        note => format!(" {}", sentence(note)),
    };
    let state = format!("{} ({}).{note}", device.disk_state, device.backing_disk);
    no_copy(report, device, state, for_a_primary(report, device, None))
}

/// The peer has what clients have written there; `own`: how the own disk is attached, where it is not.
fn for_a_primary(report: &View<'_>, device: &DeviceStatus, own: Option<&str>) -> Vec<String> {
    let (node, resource) = (&report.status.node_name, &report.status.name);
    let volume = name(&report.status, device);
    let danger = match device.disk_state {
        DiskState::Inconsistent => "inconsistent",
        _ => "outdated",
    };
    let refusing = report.status.connections.iter().find(|one| connection::refused_last(one));
    vec![
        match refusing {
            _ if let Some(peer) = without_its_disk(report, device) => format!(
                "1. {peer}'s disk may be the newest, and is not attached: stop what uses {resource} on {node}, \
                 `tandemadm secondary --force {resource}` on {node}, `tandemadm attach {volume}` on {peer}."
            ),
            // It is there, and is not what clients here have read.
            Some(peer) => format!(
                "1. go on with what {0} has: stop what uses {resource} on {node}, `tandemadm secondary --force \
                 {resource}` on {node}, `tandemadm connect {resource}` on both nodes.",
                peer.name
            ),
            None => format!(
                "1. bring the peer back (`tandemadm why {resource}` there): what clients have written since may be \
                 there alone."
            ),
        },
        match own {
            Some(own) => format!(
                "2. {own} Where {node}'s disk is not UpToDate then, its clients have to go: `tandemadm secondary \
                 --force {resource}`, `tandemadm primary --force={danger} {resource}`; what only the peer has is lost."
            ),
            None => format!(
                "2. the peer is gone for good: {node}'s clients have to go, `tandemadm secondary --force {resource}`, \
                 `tandemadm primary --force={danger} {resource}`; what only the peer has is lost."
            ),
        },
    ]
}

/// A Secondary without its disk, whose peer is not there to be asked: what that one does is not known, and may be
/// all that it should.
fn unasked(
    report: &View<'_>,
    device: &DeviceStatus,
    peer: &ConnectionStatus,
    state: String,
    next: Vec<String>,
) -> Finding {
    let (node, resource) = (&report.status.node_name, &report.status.name);
    let (volume, peer_name) = (name(&report.status, device), &peer.name);
    let last = match peer.last_peer_role {
        Role::Unknown => "it was not met since `up`".to_owned(),
        role => format!("it was {role} when last seen"),
    };
    Finding {
        severity: severity::DISK,
        headline: format!(
            "{volume}: {node} {}, and {peer_name} is not connected",
            what_became(device)
        ),
        state,
        open: Vec::new(),
        why: format!("whether {peer_name} serves {resource} is not known here: {last}."),
        data: Some(format!(
            "nobody is served from {node}; it cannot take over before its disk is attached, or {peer_name} is \
             connected and its disk UpToDate."
        )),
        next,
    }
}

/// What has become of a disk that is not there.
fn what_became(device: &DeviceStatus) -> &'static str {
    match device.disk_note.as_str() {
        "" => "has no disk attached",
        note if note.starts_with(ATTACH_FAILED) => "has no disk attached",
        _ => "has lost its disk",
    }
}

fn without_disk(report: &View<'_>, device: &DeviceStatus) -> Finding {
    let status = &report.status;
    let (node, resource) = (&status.node_name, &status.name);
    let volume = name(status, device);
    let note = match device.disk_note.as_str() {
        "" => "The disk is not attached".to_owned(),
        note => note.to_owned(),
    };
    let state = format!("{} ({}). {}", device.disk_state, device.backing_disk, sentence(&note));
    // `up` has stopped here: it dials no peer before its disks are attached.
    let undialled = status.connections.iter().any(connection::is_undialled);
    let again = if undialled {
        format!("disk there, cause gone: `tandemadm up {resource}` on {node}.")
    } else if note.contains("rule outdated-both") {
        format!(
            "this disk is the one to keep: `tandemadm disconnect {resource}`, `tandemadm attach {volume}`, `tandemadm \
             primary --force=outdated {resource}` on {node}; on the other one `tandemadm down {resource}`, `create-md \
             --force`, `up`; then `tandemadm connect {resource}` on {node}."
        )
    } else if note.contains("(rule rolled-back-") {
        format!("the right disk in its place: `tandemadm attach {volume}` on {node}.")
    } else if note.contains(ONLY_A_NEW_CONNECTION) {
        format!(
            "the disk is the newer one: `tandemadm disconnect {resource}`, `tandemadm attach \
             {volume}`, `tandemadm connect {resource}` on {node}."
        )
    } else {
        format!("disk there, cause gone: `tandemadm attach {volume}` on {node}.")
    };
    // What the refusal of a disk without metadata says.
    let says = |cure: &str| note.starts_with(ATTACH_FAILED) && note.contains(cure);
    let is_damaged = says("`tandemadm create-md --force`");
    let is_new = is_damaged || says("`tandemadm create-md`");
    let (which, force) = match (is_new, is_damaged) {
        (true, true) => {
            ("its metadata is damaged; where the other disk has everything", " --force")
        }
        (true, false) => ("the disk there has no metadata; where it is a new one", ""),
        (false, _) => ("new disk at the same path", ""),
    };
    let then = match undialled {
        true => format!("up {resource}"),
        false => format!("attach {volume}"),
    };
    let new = format!(
        "{which}: `tandemadm create-md{force} {volume}`, `tandemadm {then}` on {node}: {} to copy.",
        match device.size {
            0 => "all of it".to_owned(),
            size => human(size),
        }
    );
    let only = format!(
        "{node} wrote last, without the other node: this is the only copy of that. OPERATIONS, \
         \"Metadata that is damaged\"."
    );
    let Some(peer) = good_peer(report, device) else {
        // The clients of a Primary may have gone on on the peer's since.
        let next = match status.role {
            Role::Primary => for_a_primary(report, device, Some(&again)),
            _ if is_damaged => vec![format!("1. {new}"), format!("or {only}")],
            _ if is_new => vec![format!("1. {new}"), format!("2. {again}")],
            _ => vec![again, format!("or bring the peer back: `tandemadm why {resource}` there.")],
        };
        let away = |one: &&ConnectionStatus| one.connection_state != ConnectionState::Connected;
        return match status.connections.iter().find(away) {
            Some(peer) if status.role != Role::Primary => {
                unasked(report, device, peer, state, next)
            }
            _ => no_copy(report, device, state, next),
        };
    };
    let wrong = what_became(device);
    let (first, second) = if is_new { (new, again) } else { (again, new) };
    if status.role != Role::Primary {
        // Nobody uses it here.
        return Finding {
            severity: severity::DISK,
            headline: format!("{volume}: {node} {wrong}"),
            state,
            open: Vec::new(),
            why: String::new(),
            data: Some(format!("{peer} holds the ONLY copy. {node} cannot take over from it.")),
            next: vec![format!("1. {first}"), format!("2. {second}")],
        };
    }
    Finding {
        severity: severity::DISK,
        headline: format!("{volume}: {node} {wrong}; reads and writes go to {peer}"),
        state,
        open: Vec::new(),
        why: String::new(),
        data: Some(format!(
            "{peer} holds the ONLY copy. If {peer} or the link is lost, the clients of {node} get \
             I/O errors (on-no-data-accessible io-error)."
        )),
        next: vec![
            format!(
                "1. safest: move {resource} to {peer} now (umount, `tandemadm secondary \
                 {resource}`; on {peer} `tandemadm primary {resource}`)."
            ),
            format!("2. {first}"),
            format!("3. {second}"),
        ],
    }
}

/// In the middle of a resync that does not run although the peers are there; a new disk is none. A
/// peer that is not there is told of with what that means for this disk.
fn is_stuck(report: &View<'_>, device: &DeviceStatus) -> bool {
    let mut peers = report.status.connections.iter().flat_map(|one| &one.peer_devices);
    let runs = peers.any(|peer| {
        peer.volume == device.volume && (peer.resync.is_some() || is_resync(peer.replication_state))
    });
    let connected = |one: &ConnectionStatus| one.connection_state == ConnectionState::Connected;
    let all = report.status.connections.iter().all(connected);
    !runs && all && device.current_uuid & !1 != JUST_CREATED
}

fn inconsistent(report: &View<'_>, device: &DeviceStatus) -> Finding {
    let status = &report.status;
    let (node, resource) = (&status.node_name, &status.name);
    let volume = name(status, device);
    let connection = status.connections.first();
    let peer = connection.map_or("the peer", |one| one.name.as_str());
    let theirs = connection
        .and_then(|one| one.peer_devices.iter().find(|peer| peer.volume == device.volume))
        .map_or(DiskState::DUnknown, |peer| peer.peer_disk_state);
    let force =
        format!("`tandemadm primary {} {resource}`", force_option(report, Force::Inconsistent));
    let (data, next) = match theirs {
        DiskState::Diskless | DiskState::Failed | DiskState::Detaching => (
            format!("the disk of {peer} is {theirs}: no good copy can be reached."),
            vec![
                format!(
                    "1. {peer}'s disk is there, cause gone: `tandemadm attach {volume}` on {peer} (`tandemadm why \
                     {resource}` there). The resync goes on by itself."
                ),
                format!(
                    "2. {peer}'s disk is gone for good: {force} on {node} takes the mix as it is; check the data \
                     (fsck), or restore it, first of all."
                ),
            ],
        ),
        DiskState::Inconsistent => (
            format!("{peer}'s disk is Inconsistent, too: no copy is good."),
            vec![format!(
                "on the node whose disk is to be kept: {force}; check the data (fsck), or restore it, \
                 first of all."
            )],
        ),
        _ => (
            format!("{peer} holds the only good copy; {node} cannot be promoted."),
            vec![format!(
                "bring the connection to {peer} back: the resync goes on by itself (`tandemadm status \
                 {resource}` on both nodes)."
            )],
        ),
    };
    Finding {
        severity: severity::DISK,
        headline: format!("{volume}: {node}'s disk is a mix of old and new blocks"),
        state: format!("{volume} is Inconsistent, and no resync runs."),
        open: Vec::new(),
        why: format!("a resync from {peer} was interrupted, or `tandemadm invalidate` was given."),
        data: Some(data),
        next,
    }
}

fn undecided(report: &View<'_>, device: &DeviceStatus) -> Finding {
    let status = &report.status;
    let (node, resource) = (&status.node_name, &status.name);
    let volume = name(status, device);
    let peer = status.connections.first().map_or("the peer", |one| one.name.as_str());
    let has_none = status.connections.iter().any(|one| {
        let mut peers = one.peer_devices.iter();
        one.connection_state == ConnectionState::Connected
            && peers.any(|peer| {
                peer.volume == device.volume && peer.peer_disk_state == DiskState::Diskless
            })
    });
    if has_none {
        return undecided_beside_none(report, device, peer);
    }
    let is_refused = status.connections.iter().any(connection::is_refused);
    let (met, first) = match is_refused {
        true => (
            format!("the handshake with {peer} was refused"),
            format!("1. safest: see why {peer} was refused, in the other part of this answer."),
        ),
        false => (
            format!("it has not met {peer} since it was attached"),
            format!("1. safest: bring {peer} back; the handshake decides by itself."),
        ),
    };
    Finding {
        severity: severity::DISK,
        headline: format!("{volume}: whether {node}'s data is the newest is not known"),
        state: format!("{volume} is Consistent: {met}."),
        open: Vec::new(),
        why: format!(
            "{node} did not record that it outlived {peer}: {peer} may have gone on alone."
        ),
        data: Some(format!(
            "if {peer} was written alone, a forced promotion here makes a split brain, and one \
             side's writes will be thrown away."
        )),
        next: vec![
            first,
            format!(
                "2. {peer} is gone for good, or you have made sure that it was not used alone: \
                 `tandemadm primary {} {resource}` on {node}.",
                force_option(report, Force::Plain)
            ),
        ],
    }
}

/// The only disk of a connected pair, and it may have lost what was not flushed.
fn undecided_beside_none(report: &View<'_>, device: &DeviceStatus, peer: &str) -> Finding {
    let status = &report.status;
    let (node, resource) = (&status.node_name, &status.name);
    let volume = name(status, device);
    Finding {
        severity: severity::DISK,
        headline: format!("{volume}: whether {node} still has all of its data is not known"),
        state: format!("{volume} is Consistent: {peer} is connected, and has no disk to compare."),
        open: Vec::new(),
        why: format!(
            "{node} lost power, or its disk failed or hung, before it had flushed what it was given \
             last. (After a mere crash of tandemd it would have gone on by itself.)"
        ),
        data: Some(format!(
            "writes that were acknowledged and not flushed may be gone; reads and writes of {peer} \
             fail until this is decided."
        )),
        next: vec![
            format!(
                "1. {peer} has its own disk at hand: `tandemadm attach {volume}` on {peer}; the \
                 handshake decides by itself."
            ),
            format!(
                "2. take what {node} has: `tandemadm secondary --force {resource}` on {peer}, \
                 `tandemadm primary --force {resource}` on {node}; check the data (fsck) first of all."
            ),
        ],
    }
}

fn outdated(report: &View<'_>, device: &DeviceStatus) -> Finding {
    let status = &report.status;
    let (node, resource) = (&status.node_name, &status.name);
    let volume = name(status, device);
    let peer = status.connections.first().map_or("the peer", |one| one.name.as_str());
    let (state, why, data) = match device.disk_note.as_str() {
        "" => (
            format!("{volume} is Outdated: consistent, but {peer} had newer data."),
            format!("{node} left {peer} in order, or was told that {peer} went on."),
            format!("what {peer} has written since then is not on {node}."),
        ),
        note => (
            format!("{volume} is Outdated: {}", sentence(note)),
            format!("what {node}'s metadata says of the disk does not hold any more."),
            format!("which blocks differ from {peer}'s is not known: a full sync is needed."),
        ),
    };
    Finding {
        severity: severity::DISK,
        headline: format!("{volume}: {node}'s data is old"),
        state,
        open: Vec::new(),
        why,
        data: Some(data),
        next: vec![
            match without_its_disk(report, device) {
                Some(peer) => format!(
                    "1. usual: `tandemadm attach {volume}` on {peer}; {node} is brought up to date by itself."
                ),
                None => {
                    format!("1. usual: connect to {peer}; {node} is brought up to date by itself.")
                }
            },
            format!(
                "2. {peer} is lost for good and you accept the loss: `tandemadm primary {} {resource}` on \
                 {node}.",
                force_option(report, Force::Outdated)
            ),
        ],
    }
}
