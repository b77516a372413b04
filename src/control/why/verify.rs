//! What an online verify has found.

use super::{Finding, View, human, severity};
use crate::control::differs;
use crate::resource::{ConnectionStatus, PeerDeviceStatus, Role};

/// The volume whose disks are both taken for good, and differ.
pub(super) fn differing(connection: &ConnectionStatus) -> Option<&PeerDeviceStatus> {
    connection.peer_devices.iter().find(|peer| differs(peer))
}

/// Both disks are UpToDate, and blocks of them differ.
pub(super) fn finding(
    report: &View<'_>,
    connection: &ConnectionStatus,
    peer: &PeerDeviceStatus,
) -> Finding {
    let status = &report.status;
    let (node, other, resource) = (&status.node_name, &connection.name, &status.name);
    let (volume, bytes) = (format!("{resource}/{}", peer.volume), human(peer.out_of_sync));
    let primary = match (status.role, connection.peer_role) {
        (Role::Primary, _) => Some(node),
        (_, Role::Primary) => Some(other),
        _ => None,
    };
    let next = match primary {
        Some(good) => vec![
            format!("1. `tandemadm verify --repair {volume}`: copies these blocks from {good}."),
            "2. If it comes back: check that disk, its controller, cables and memory.".to_owned(),
        ],
        None => vec![
            format!(
                "1. nobody is Primary: find out whose blocks are right, then `tandemadm verify \
                 --repair --from {node} {volume}`, or --from {other}. Until then the marks stay, also \
                 over a lost connection; who is promoted is the source of the next resync."
            ),
            "2. If it comes back: check the disks, their controllers, cables and memory."
                .to_owned(),
        ],
    };
    Finding {
        severity: severity::RESYNC,
        headline: format!("{volume}: {bytes} differ between {node} and {other}"),
        state: format!(
            "{} with {other}, both disks UpToDate; {bytes} are marked out of sync.",
            peer.replication_state
        ),
        open: Vec::new(),
        why: "an online verify has found them: a disk has lost or changed blocks by itself, or \
              somebody has written behind Tandem; the log has the ranges (\"Out of sync:\")."
            .to_owned(),
        data: Some(match primary {
            Some(good) => {
                format!("what clients read is {good}'s; after a failover it would differ.")
            }
            None => "nobody reads now; what is read next depends on who is promoted.".to_owned(),
        }),
        next,
    }
}
