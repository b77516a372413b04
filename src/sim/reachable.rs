//! What there is to be reached: the core's own lists of states, rules, reasons, refusals and
//! packets, the transitions that its code makes, and the results that its orders have.
//!
//! Invariants:
//! - A state, rule, reason, refusal or packet that is added to the core is a row at once.
//! - What two nodes in this simulator cannot reach has its reason here, in few words.

use crate::resource::generation::Rule;
use crate::resource::{ConnectionState, DiskState, REFUSALS, Reason, ReplicationState, Role};
use crate::wire::Kind;

use super::coverage::{LATER, Reach, Table};

/// Everything, table by table.
pub(super) fn all() -> Vec<(Table, String, Reach)> {
    let mut rows = Vec::new();
    states(&mut rows, Table::Connection, ConnectionState::ALL, CONNECTION);
    states(&mut rows, Table::Disk, DiskState::ALL, DISK);
    states(&mut rows, Table::Replication, ReplicationState::ALL, REPLICATION);
    states(&mut rows, Table::Role, Role::ALL, ROLE);
    let mut names = |table, names: Vec<String>, not: &[(&str, &'static str)]| {
        for name in names {
            let why = not.iter().find(|(one, _)| *one == name);
            let reach = why.map_or(Reach::Reachable, |(_, why)| Reach::Not(why));
            rows.push((table, name, reach));
        }
    };
    let mut rules: Vec<String> = Rule::ALL.iter().map(|rule| rule.name().to_owned()).collect();
    rules.dedup();
    names(Table::Rule, rules, NO_RULE);
    let reasons = Reason::ALL.iter().map(|reason| reason.name().to_owned());
    names(Table::Reason, reasons.collect(), NO_REASON);
    let codes = REFUSALS.iter().map(|(code, _)| code.to_string());
    names(Table::Refusal, codes.collect(), NO_REFUSAL);
    let kinds = Kind::ALL.iter().map(|kind| kind.name().to_owned());
    names(Table::Packet, kinds.collect(), NO_PACKET);
    let orders = ORDERS.iter().flat_map(|(order, results)| {
        results.iter().map(move |result| format!("{order} = {result}"))
    });
    names(Table::Order, orders.chain([LATER.to_owned()]).collect(), &[]);
    rows
}

/// The transitions of a table, and the states that no transition leads to.
fn states<S: Copy + PartialEq + std::fmt::Display>(
    rows: &mut Vec<(Table, String, Reach)>,
    table: Table,
    all: &[S],
    transitions: &[(S, &[S])],
) {
    for state in all {
        let entered = transitions.iter().any(|(_, to)| to.contains(state));
        let left = transitions.iter().any(|(from, _)| from == state);
        if !entered && !left {
            rows.push((table, format!("* -> {state}"), Reach::Not("no node is ever in it")));
        }
    }
    for (from, to) in transitions {
        let name = |to: &S| (table, format!("{from} -> {to}"), Reach::Reachable);
        rows.extend(to.iter().map(name));
    }
}

const CONNECTION: &[(ConnectionState, &[ConnectionState])] = {
    use ConnectionState::*;
    &[
        (StandAlone, &[Unconnected]),
        // Back, where the own disk fails meanwhile and this node needs the peer's.
        (Disconnecting, &[StandAlone, Connected]),
        (Unconnected, &[Connecting]),
        (Timeout, &[Unconnected]),
        // An order to disconnect had come.
        (BrokenPipe, &[StandAlone, Unconnected]),
        (NetworkFailure, &[Unconnected]),
        (ProtocolError, &[Unconnected]),
        (TearDown, &[Unconnected]),
        (
            Connecting,
            &[
                StandAlone,
                Unconnected,
                Timeout,
                BrokenPipe,
                NetworkFailure,
                ProtocolError,
                TearDown,
                Connected,
            ],
        ),
        (
            Connected,
            &[
                StandAlone,
                Disconnecting,
                Unconnected,
                Timeout,
                BrokenPipe,
                NetworkFailure,
                ProtocolError,
                TearDown,
            ],
        ),
    ]
};

const DISK: &[(DiskState, &[DiskState])] = {
    use DiskState::*;
    &[
        (Diskless, &[Attaching]),
        (Attaching, &[Failed, Negotiating, Inconsistent, Outdated, Consistent, UpToDate]),
        (Detaching, &[Failed, Diskless]),
        (Failed, &[Diskless]),
        (Negotiating, &[Failed, Inconsistent, Outdated, Consistent, UpToDate]),
        (Inconsistent, &[Detaching, Failed, Consistent, UpToDate]),
        (Outdated, &[Detaching, Failed, Inconsistent, UpToDate]),
        (Consistent, &[Detaching, Failed, Inconsistent, Outdated, UpToDate]),
        (UpToDate, &[Detaching, Failed, Inconsistent, Outdated, Consistent]),
    ]
};

const REPLICATION: &[(ReplicationState, &[ReplicationState])] = {
    use ReplicationState::*;
    &[
        (Off, &[Established, WFBitMapS, WFBitMapT]),
        (Established, &[Off, WFBitMapS, WFBitMapT, VerifyS, VerifyT]),
        (WFBitMapS, &[Off, WFSyncUUID]),
        (WFBitMapT, &[Off, WFSyncUUID]),
        (WFSyncUUID, &[Off, SyncSource, SyncTarget, PausedSyncS, PausedSyncT]),
        (SyncSource, &[Off, Established, WFBitMapS, PausedSyncS]),
        (SyncTarget, &[Off, Established, WFBitMapT, PausedSyncT]),
        (VerifyS, &[Off, Established]),
        (VerifyT, &[Off, Established]),
        (PausedSyncS, &[Off, Established, SyncSource]),
        (PausedSyncT, &[Off, Established, SyncTarget]),
    ]
};

/// `Unknown` is what a node says of its peer.
const ROLE: &[(Role, &[Role])] =
    &[(Role::Secondary, &[Role::Primary]), (Role::Primary, &[Role::Secondary])];

const NO_RULE: &[(&str, &str)] = &[
    (
        "clone",
        "a copy of the other node's disk is refused by attach, and a seed has its own identity",
    ),
    ("rolled-back-both", "a disk is set back only while the other one is not"),
    ("replaced-both", "a disk that was replaced does not come back"),
    ("replaced-self", "a disk that was replaced does not come back"),
    ("replaced-peer", "a disk that was replaced does not come back"),
    ("bitmap-crossed", "does not come about in order; the rule is a net"),
    (
        "inconsistent-both",
        "a disk that is given up is whole, and taken back; a source has no other source",
    ),
];

const NO_REASON: &[(&str, &str)] = &[
    ("wrong-node", "both nodes have the right configuration"),
    ("wrong-resource", "both nodes have the right configuration"),
    ("bad-version", "both nodes have one version"),
    ("config-differs", "both nodes have the same options"),
];

const NO_REFUSAL: &[(&str, &str)] = &[("124", "the shell does not open a disk that is attached")];

const NO_PACKET: &[(&str, &str)] = &[
    ("Challenge", "the shell's; here only the outcome is simulated"),
    ("Response", "the shell's; here only the outcome is simulated"),
    ("Echo", "the shell's: `tandemadm ping`"),
    ("EchoReply", "the shell's: `tandemadm ping`"),
    ("Description", "the shell's: `tandemadm ping`"),
];

/// The results of each order; (-18), try again later, is one row for all of them.
const ORDERS: &[(&str, &[&str])] = &[
    ("attach", &["ok", "111", "118", "119", "150"]),
    ("detach", &["ok", "-2", "-23", "127"]),
    ("detach --force", &["ok"]),
    ("connect", &["ok", "127"]),
    ("connect --discard-my-data", &["ok", "123", "125"]),
    ("connect --tentative", &["ok", "-21", "-23"]),
    ("disconnect", &["ok", "-2", "127"]),
    ("disconnect --force", &["ok"]),
    ("disconnect --for", &["ok", "-2", "162"]),
    ("primary", &["ok", "-1", "-2", "-7", "-10"]),
    ("primary --force", &["ok", "-1", "-2", "-10"]),
    ("primary --force=inconsistent", &["ok", "-1", "-2"]),
    ("primary --force=outdated", &["ok", "-1", "-2"]),
    ("primary --force=inconsistent,outdated", &["ok"]),
    ("primary --force=blank", &["ok", "-1", "-2"]),
    ("auto-promote", &["ok", "-1", "-2", "-7"]),
    ("primary --hand-over", &["ok", "-1", "-2", "-10", "-15", "-21", "-23"]),
    ("secondary", &["ok", "-12", "-23"]),
    ("secondary --force", &["ok", "-23"]),
    ("secondary --wait", &["ok", "-12"]),
    ("invalidate", &["ok", "-2", "-4", "-5", "-8", "-10", "-15", "118", "127"]),
    ("invalidate-remote", &["ok", "-4", "-5", "-8", "-10", "-15", "-23"]),
    ("outdate", &["ok", "-2", "-6", "-16", "118", "127"]),
    ("verify", &["ok", "-4", "-5", "-8", "-15", "162", "127"]),
    ("verify --repair", &["ok", "-2", "-4", "-5", "-8", "-10", "-15", "-23", "171"]),
    ("new-current-uuid", &["ok", "-2", "118", "162", "127"]),
    ("new-current-uuid --clear-bitmap", &["ok", "-10", "-15", "-23", "162"]),
    ("resize", &["ok", "-4", "-5", "-10", "-15", "111", "118", "127", "130", "170"]),
    ("resize --assume-clean", &["ok", "-4", "-5", "-10", "-15", "111", "118", "130", "162", "170"]),
    ("pause-sync", &["ok", "134", "127", "171"]),
    ("resume-sync", &["ok", "135", "156", "157"]),
    ("suspend-io", &["ok"]),
    ("resume-io", &["ok"]),
    ("forget-peer", &["ok", "118", "125"]),
    ("adjust", &["ok"]),
    ("down", &["ok", "-2", "-12", "-23"]),
    ("SIGTERM", &["ok", "-23"]),
];
