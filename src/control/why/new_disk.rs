//! What create-md found on the two disks, where a full sync in the wrong direction loses it.

use super::{View, human};
use crate::resource::{ConnectionStatus, HandshakeStatus};

/// `create-md found on alice's disk: blank; on bob's: ext4 "pgdata".`, empty where nothing is known.
pub(super) fn found(report: &View<'_>, connection: &ConnectionStatus) -> String {
    let known = |one: &&HandshakeStatus| {
        !one.own.created_found.is_empty() && !one.peer.created_found.is_empty()
    };
    let Some(one) = connection.last_handshake.iter().find(known) else { return String::new() };
    format!(
        " create-md found on {}'s disk: {}; on {}'s: {}.",
        report.status.node_name, one.own.created_found, connection.name, one.peer.created_found
    )
}

/// A volume whose blank disk was forced before it met one with data.
pub(super) fn forced_blank(connection: &ConnectionStatus) -> Option<&HandshakeStatus> {
    connection.last_handshake.iter().find(|one| one.rule.starts_with("forced-blank-"))
}

/// Headline, what is at risk, and the two ways out of [`forced_blank`].
pub(super) fn refusal(
    report: &View<'_>,
    connection: &ConnectionStatus,
    forced: &HandshakeStatus,
) -> (&'static str, Option<String>, Vec<String>) {
    let (node, other) = (&report.status.node_name, &connection.name);
    let (blank, full) =
        if forced.rule == "forced-blank-self" { (node, other) } else { (other, node) };
    let resource = &report.status.name;
    let bytes = forced.own.data_size.min(forced.peer.data_size);
    let data = format!(
        "a full sync would overwrite {full}'s disk ({}).{} {blank} has what was written to it since \
         it was forced.",
        human(bytes),
        found(report, connection)
    );
    let next = vec![
        format!(
            "what was on {full}'s disk is not needed: `tandemadm invalidate {resource}` on {full}, \
             then `tandemadm connect {resource}` on both nodes. It is overwritten; there is no undo."
        ),
        format!(
            "{full}'s disk holds the data: on {blank} stop what uses {resource}, `tandemadm down \
             {resource}`; on {full} `tandemadm primary --force {resource}`; on {blank} `tandemadm \
             create-md --force {resource}`, `tandemadm up {resource}`; on {full} `tandemadm connect \
             {resource}`. {blank}'s is overwritten."
        ),
    ];
    (
        "a disk that was forced while it was blank meets one on which there was data",
        Some(data),
        next,
    )
}
