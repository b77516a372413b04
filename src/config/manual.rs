//! The options that act, for `tandem.conf(5)`: from the table that reads them, so that the manual
//! names no option, value or default that is not.

use crate::resource::Options;

use super::option_table::{AFTER_SB_0PRI, Effect, Kind, OPTIONS, Spec};

/// An option that acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManualOption {
    /// The section that it belongs into, for example `net`.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it takes, for example `1 to 600, in units of 0.1 s`.
    pub values: String,
    /// What is in force where it is not written, if that is a value.
    pub default: Option<String>,
    /// What it does, one or two sentences.
    pub what: &'static str,
}

/// All options that act, in the order of the table.
#[must_use]
pub fn manual() -> Vec<ManualOption> {
    let defaults = Options::default().written();
    let default = |name: &str| {
        let found = defaults.iter().find(|one| one.name == name);
        found.map(|one| one.value.clone()).filter(|value| !value.is_empty())
    };
    let entry = |spec: &Spec| {
        let acts = matches!(
            spec.effect,
            Effect::Acts(_) | Effect::PerVolume | Effect::Secret | Effect::Admin
        );
        (acts || spec.name == "protocol").then(|| ManualOption {
            section: spec.section.name(),
            name: spec.name,
            values: values(spec),
            default: default(spec.name),
            what: what(spec.name),
        })
    };
    OPTIONS.iter().filter_map(entry).collect()
}

fn values(spec: &Spec) -> String {
    match spec.kind {
        Kind::Number(unit, min, max) => format!("{min} to {max}{}", unit.name()),
        Kind::Bool => "yes or no".to_owned(),
        Kind::Choice(words) => words.join(", "),
        Kind::AfterSb0Pri => format!("{}, discard-node-HOST", AFTER_SB_0PRI.join(", ")),
        Kind::Votes => "off, majority, all, or a count".to_owned(),
        Kind::Text => "a text".to_owned(),
        Kind::Secret => "1 to 64 bytes".to_owned(),
        Kind::Algorithm => "sha256, sha512, sha1".to_owned(),
        Kind::Any => "any".to_owned(),
    }
}

/// What an option does. A test asks that none is without.
fn what(name: &str) -> &'static str {
    match name {
        "protocol" => "When a write is acknowledged. C: when both disks have it; only C exists.",
        "timeout" => {
            "How long the peer may leave a packet without an answer. With ko-count, and as the limit of the steps of a handshake."
        }
        "ping-int" => "After so much silence of the peer it is asked whether it is there.",
        "ping-timeout" => "How long the answer to that may take before the peer counts as lost.",
        "connect-int" => "The longest pause between two attempts to connect.",
        "ko-count" => {
            "A peer that answers pings but leaves a write undone for so many times timeout is dropped. 0: never."
        }
        "max-buffers" => {
            "Buffers for what the peer sends, in pages: what a sender may have under way."
        }
        "max-epoch-size" => {
            "Writes that the peer has and has not flushed; then it is asked to flush."
        }
        "sndbuf-size" => "The send buffer of the connection to the peer. 0: the system decides.",
        "rcvbuf-size" => "The receive buffer of the connection to the peer. 0: the system decides.",
        "after-sb-0pri" => {
            "Who loses his changes after a split brain with no Primary. Must be equal on both nodes, as the next four."
        }
        "after-sb-1pri" => {
            "The same with one Primary. call-pri-lost-after-sb: as consensus, and on a Primary that would lose the handler pri-lost-after-sb runs."
        }
        "after-sb-2pri" => {
            "The same with two Primaries. call-pri-lost-after-sb: as disconnect, and the handler pri-lost-after-sb runs on the one that would lose."
        }
        "always-asbp" => "The policies also choose where only the history of the two is common.",
        "rr-conflict" => {
            "What happens where a Primary would have to become the target of a resync. call-pri-lost: as disconnect, and the handler pri-lost runs on it."
        }
        "on-io-error" => {
            "What follows an error of the backing disk. detach: the disk is let go of, the peer's serves. pass_on: the client gets the error. call-local-io-error: as detach, and the handler local-io-error runs."
        }
        "fencing" => {
            "What a Primary that loses its peer does. dont-care: nothing. resource-only: the handler fence-peer runs, also before a promotion without the peer. resource-and-stonith: and I/O is frozen until its answer, or until the peer is back; where it gives none it is asked again, in pauses of 5 s that grow to 60 s."
        }
        "handler-timeout" => {
            "A handler that has not ended by then is killed, with all that it has started. Those before a resync have three quarters of ko-count x timeout at most: clients wait for them."
        }
        "fence-peer" => {
            "Keeps the peer from being promoted; its exit code says what it is now: 3 Inconsistent, 4 Outdated, 5 unreachable, 6 Primary, 7 killed."
        }
        "unfence-peer" => "Runs when a peer that was fenced has all data again.",
        "before-resync-target" => {
            "Runs before this node becomes Inconsistent; anything but 0 forbids the resync."
        }
        "after-resync-target" => "Runs when this node has all data again.",
        "before-resync-source" => {
            "Runs before this node is the source of a resync; anything but 0 and 3 forbids it."
        }
        "initial-split-brain" => "Runs when a split brain is found, resolved or not.",
        "split-brain" => "Runs when a split brain keeps the nodes apart.",
        "local-io-error" => {
            "Runs when the backing disk has failed, with on-io-error call-local-io-error."
        }
        "pri-lost" => {
            "Runs on a Primary that would have to become a target, with rr-conflict call-pri-lost."
        }
        "pri-lost-after-sb" => {
            "Runs on a Primary that has lost a split brain, with call-pri-lost-after-sb: the nodes stay apart until it is none."
        }
        "pri-on-incon-degr" => "Runs on a Primary that can reach no good copy any more.",
        "out-of-sync" => "Runs when an online verify has found blocks that differ.",
        "disconnected" => "Runs when a connection has ended.",
        "promotion-score" => {
            "Runs when what makes this node fit to be promoted has changed (its role, a disk, a connection): one at a time, and one more for all that has changed meanwhile. For a cluster that keeps a score of each node."
        }
        "al-extents" => {
            "Extents of 4 MiB that may be written without a write to the activity log: what is resynced after a crash, at most."
        }
        "resync-rate" => "The rate with which a resync starts.",
        "c-max-rate" => "The highest rate of a resync. 0: no limit.",
        "c-min-rate" => {
            "The rate that a resync keeps beside the load of clients: a floor, never a cap. 0: none."
        }
        "disk-flushes" => {
            "no: the backing disk is never flushed. This voids promises: only for disks whose cache survives a power loss."
        }
        "md-flushes" => "no: the metadata is never flushed. As disk-flushes.",
        "disk-timeout" => {
            "An operation of the backing disk that does not end within it fails the disk. 0: never."
        }
        "resync-after" => {
            "A resync of this volume waits while that volume, RES/VOL, resyncs. -1: none."
        }
        "shared-secret" => {
            "What both nodes prove when they connect, by challenge and response. Keep the file from others."
        }
        "shared-secret-old" => {
            "Taken and proved beside shared-secret while that is changed on one node after the other."
        }
        "cram-hmac-alg" => "The hash of the proof.",
        "verify-alg" => {
            "The digest of an online verify: sha256, sha512 or crc32c; any other name is taken for sha256."
        }
        "csums-alg" => {
            "Whether a resync compares blocks before it copies them, and by which digest: sha256, sha512 or none; any other name is taken for sha256. Not said: by sha256, after a crash only, where nearly all of what may differ is equal."
        }
        "csums-after-crash-only" => {
            "yes: by a csums-alg that is named a resync compares only where a node has crashed; a resync of all blocks never counts as one."
        }
        "nbd-clients" => {
            "exclusive: a second identity (process and user, or host) is not let in beside the one that has a volume open."
        }
        "device-attach" => {
            "auto: tandemd attaches each volume as its `device` (/dev/nbdN) when the node is promoted by order, and detaches it before it is demoted. manual: tandemadm device attach."
        }
        "hand-over-timeout" => {
            "How long this node, as the Primary, may take to hand over (primary --hand-over on the peer) before it goes on as it was. 0: it does not hand over."
        }
        "busy-poll" => {
            "While clients are connected, the data thread looks for what comes next for so long before it sleeps: a write at depth 1 gains, for twice the processor time. 0: it sleeps at once."
        }
        "auto-promote" => {
            "The first client that opens an export of a Secondary promotes it, the last that closes it demotes it again."
        }
        "size" => "The size of the volume, and the least that its disk must have.",
        "degr-wfc-timeout" => "The same where this node had gone on alone.",
        "outdated-wfc-timeout" => "The same where the peers are known to be Outdated.",
        "wait-after-sb" => "yes: a connection that is StandAlone is waited for too.",
        "wfc-timeout" => "The patience of wait-connect and wait-sync. 0: for ever.",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_that_acts_says_what_it_does_and_what_it_is_by_default() {
        for option in manual() {
            assert!(!option.what.is_empty(), "{} is not described", option.name);
            let by_hand = matches!(option.section, "startup" | "handlers")
                || option.name.starts_with("shared-secret");
            let by_nature = ["size", "resync-after", "cram-hmac-alg", "csums-alg"];
            let has_default = !by_hand && !by_nature.contains(&option.name);
            assert_eq!(option.default.is_some(), has_default, "{}", option.name);
        }
    }
}
