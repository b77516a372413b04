//! I/O that is frozen until a lost peer is fenced.

use super::{Finding, View, ago, held, opened, severity};
use crate::control::age;
use crate::resource::{ConnectionStatus, FencingStatus};

/// Why nothing is answered, and what ends that.
pub(super) fn frozen(report: &View<'_>) -> Finding {
    let status = &report.status;
    let (node, name) = (&status.node_name, &status.name);
    let fenced = |c: &&ConnectionStatus| c.fencing.is_some();
    let connection = status.connections.iter().find(fenced);
    let peer = connection.map_or("the peer", |c| c.name.as_str());
    let fencing = connection.and_then(|c| c.fencing.as_ref());
    let handler = fencing.map_or_else(|| "the peer is lost".to_owned(), said);
    let log = format!("`journalctl -u tandemd -g fence-peer` on {node}");
    let first = match fencing {
        Some(fencing) if fencing.running => {
            format!("wait for the handler, or look at what it says: {log}.")
        }
        Some(fencing) if fencing.configured => {
            format!("see why the handler gave no answer: {log}.")
        }
        _ => format!("give {name} a handler fence-peer, and `tandemadm adjust {name}` on {node}."),
    };
    Finding {
        severity: severity::SUSPENDED,
        headline: format!(
            "{name}: I/O is frozen: {peer} is lost, and nobody has said yet that it is fenced or outdated"
        ),
        state: format!(
            "{}{}. fencing resource-and-stonith; {handler}.",
            report.past.frozen_ms.map_or(String::new(), |ms| format!("{}; ", ago(report, ms))),
            held(status)
        ),
        open: opened(report),
        why: format!(
            "{peer} could be promoted. Until it is fenced, a write that only {node} has could be lost."
        ),
        data: Some("nothing is lost; nothing is acknowledged.".to_owned()),
        next: vec![
            format!("{first} When {peer} comes back, I/O goes on by itself."),
            format!(
                "only if you have switched {peer} OFF by hand, or outdated it there (`tandemadm \
                 outdate {name}`): `tandemadm resume-io {name}` on {node}."
            ),
        ],
    }
}

/// What has become of the handler.
fn said(fencing: &FencingStatus) -> String {
    let since = age(fencing.for_ms / 1000);
    match fencing {
        FencingStatus { running: true, limit_ms, .. } => {
            let limit = age(limit_ms / 1000);
            format!("the handler fence-peer runs for {since}, and is killed after {limit}")
        }
        FencingStatus { configured: false, .. } => "there is no handler fence-peer".to_owned(),
        FencingStatus { outcome, .. } if outcome.is_empty() => {
            "the handler fence-peer is started when the own disk has flushed".to_owned()
        }
        FencingStatus { outcome, again_ms: Some(again), .. } => {
            let again = age(again / 1000);
            format!(
                "the handler fence-peer {outcome}, {since} ago: not an answer; it is asked again in {again}"
            )
        }
        FencingStatus { outcome, .. } => {
            format!("the handler fence-peer {outcome}, {since} ago: not an answer")
        }
    }
}
