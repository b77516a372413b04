//! How often each thing has happened, and what it did: a fault without an effect proves nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// A kind of fault, or of what clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Cut,
    OneWay,
    Loss,
    HalfOpen,
    Rate,
    Delay,
    Reorder,
    Hole,
    Kill,
    KillBoth,
    Loop,
    Terminate,
    Freeze,
    LongFreeze,
    Failover,
    Race,
    Move,
    Disconnect,
    Verify,
    Invalidate,
    Detach,
    Restart,
    ClientCut,
    ClientLoss,
    ClientHalfOpen,
    Vanished,
    Followed,
    Overlapped,
    Tcp,
    Unix,
    Replay,
    Version,
}

/// Each kind, its name, and the unit of its effect.
const KINDS: [(Kind, &str, &str); 32] = [
    (Kind::Cut, "the cable cut", "frames lost"),
    (Kind::OneWay, "a node deaf", "packets dropped"),
    (Kind::Loss, "loss", "packets dropped"),
    (Kind::HalfOpen, "half-open connections", "FIN and RST dropped"),
    (Kind::Rate, "a low rate", "packets held back"),
    (Kind::Delay, "delay", "frames delayed"),
    (Kind::Reorder, "reordering", "frames overtaken"),
    (Kind::Hole, "a hole of MTU", "frames lost"),
    (Kind::Kill, "kill -9", "daemons killed"),
    (Kind::KillBoth, "kill -9 of both", "daemons killed"),
    (Kind::Loop, "restart loops", "daemons killed"),
    (Kind::Terminate, "SIGTERM", "daemons ended"),
    (Kind::Freeze, "SIGSTOP, short", "daemons frozen"),
    (Kind::LongFreeze, "SIGSTOP beyond the time-outs", "given up by the peer"),
    (Kind::Failover, "promotions of the other node", "promoted"),
    (Kind::Race, "orders at once to both", "orders done"),
    (Kind::Move, "changes of roles", "orders done"),
    (Kind::Disconnect, "disconnect", "done"),
    (Kind::Verify, "verify", "done"),
    (Kind::Invalidate, "invalidate", "done"),
    (Kind::Detach, "detach", "done"),
    (Kind::Restart, "daemon restart", "done"),
    (Kind::ClientCut, "the third host cut off", "packets dropped"),
    (Kind::ClientLoss, "loss for the third host", "packets dropped"),
    (Kind::ClientHalfOpen, "clients half-open", "FIN and RST dropped"),
    (Kind::Vanished, "clients that vanish", "requests under way"),
    (Kind::Followed, "clients that follow to the other node", "writes sent again"),
    (Kind::Overlapped, "writes over those of other clients", "under way there"),
    (Kind::Tcp, "sessions over TCP", "operations"),
    (Kind::Unix, "sessions over the Unix socket", "operations"),
    (Kind::Replay, "recordings replayed", "events with equal actions"),
    (Kind::Version, "versions drawn", "other than the peer's"),
];

/// Counts of all kinds: times, and effects.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<BTreeMap<Kind, [u64; 2]>>);

impl Tally {
    /// It has been begun `times` more, with so much more of an effect.
    pub(crate) fn add(&self, kind: Kind, times: u64, effect: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = all.entry(kind).or_default();
        *counts = [counts[0] + times, counts[1] + effect];
    }

    /// A line for each kind.
    pub(crate) fn lines(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |(kind, name, unit): &(Kind, &str, &str)| {
            let [times, effect] = all.get(kind).copied().unwrap_or_default();
            format!("{times:8} {name}: {effect} {unit}")
        };
        KINDS.iter().map(line).collect()
    }

    /// What never happened, or had no effect, but for what this run has not.
    pub(crate) fn missing(&self, without: &[Kind]) -> Vec<&'static str> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let none = |kind: &Kind| all.get(kind).is_none_or(|counts| counts.contains(&0));
        let wanted = KINDS.iter().filter(|(kind, ..)| !without.contains(kind));
        wanted.filter(|(kind, ..)| none(kind)).map(|(_, name, _)| *name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_in_vain_is_missing() {
        let tally = Tally::default();
        for (kind, ..) in KINDS {
            tally.add(kind, 1, u64::from(kind != Kind::Rate && kind != Kind::Replay));
        }
        assert_eq!(tally.missing(&[Kind::Replay]), ["a low rate"]);
        assert_eq!(tally.missing(&[]), ["a low rate", "recordings replayed"]);
        tally.add(Kind::Rate, 0, 7);
        assert!(tally.missing(&[Kind::Replay]).is_empty());
        assert_eq!(tally.lines().len(), KINDS.len());
        assert_eq!(tally.lines()[4], "       1 a low rate: 7 packets held back");
    }
}
