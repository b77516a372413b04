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

/// A volume whose blank disk was forced before it met one with data, or whose disk nobody has said to be the newest
/// and that meets a new one with data.
pub(super) fn over_data(connection: &ConnectionStatus) -> Option<&HandshakeStatus> {
    let refused = ["forced-blank-", "unproven-"];
    let over = |rule: &str| refused.iter().any(|one| rule.starts_with(one));
    connection.last_handshake.iter().find(|one| over(&one.rule))
}

/// Headline, what is at risk, and the two ways out of [`over_data`].
pub(super) fn refusal(
    report: &View<'_>,
    connection: &ConnectionStatus,
    refused: &HandshakeStatus,
) -> (&'static str, Option<String>, Vec<String>) {
    let (node, other) = (&report.status.node_name, &connection.name);
    let (blank, full) = if refused.rule.ends_with("-self") { (node, other) } else { (other, node) };
    let was_forced = refused.rule.starts_with("forced-blank-");
    let resource = &report.status.name;
    // The others are as they are.
    let volume = format!("{resource}/{}", refused.volume);
    let bytes = refused.own.data_size.min(refused.peer.data_size);
    let has = match was_forced {
        true => format!("{blank} has what was written to it since it was forced."),
        false => format!(
            "{blank}'s is Consistent: it lacks what {full} wrote without it, if {full} was the last to \
             be Primary."
        ),
    };
    let data = format!(
        "a full sync would overwrite {full}'s disk ({}).{} {has}",
        human(bytes),
        found(report, connection)
    );
    let next = vec![
        format!(
            "what was on {full}'s disk is not needed: `tandemadm invalidate {volume}` on {full}, \
             then `tandemadm connect {resource}` on both nodes. It is overwritten; there is no undo."
        ),
        format!(
            "{full}'s disk holds the data: on {blank} stop what uses {resource}, `tandemadm down \
             {resource}`; on {full} `tandemadm primary --force {resource}`; on {blank} `tandemadm \
             create-md --force {volume}`, `tandemadm up {resource}`; on {full} `tandemadm connect \
             {resource}`. {blank}'s is overwritten."
        ),
    ];
    (
        match was_forced {
            true => "a disk that was forced while it was blank meets one on which there was data",
            false => "a disk that may not be the newest meets a new one on which there was data",
        },
        Some(data),
        next,
    )
}
