//! Faults and orders of administrators, planned before a run starts: a plan can be cut down to the
//! shortest one that still fails.

use crate::resource::{Force, NodeId};

use super::prng::Prng;

/// One thing that goes wrong, or that somebody orders. Durations in ms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The host loses power, with its caches, and is back later.
    PowerLoss {
        /// The node.
        node: usize,
        /// How long it is off, ms.
        off_ms: u64,
    },
    /// Both hosts lose power at once.
    PowerLossBoth {
        /// How long it is off, ms.
        off_ms: u64,
    },
    /// The daemon dies; the host and its page cache live.
    Crash {
        /// The node.
        node: usize,
        /// How long it is off, ms.
        off_ms: u64,
    },
    /// The daemon is told to end, and is started again.
    Stop {
        /// The node.
        node: usize,
        /// How long it is off, ms.
        off_ms: u64,
    },
    /// The daemon does not run for a while (SIGSTOP).
    Freeze {
        /// The node.
        node: usize,
        /// How long, ms.
        for_ms: u64,
    },
    /// No packet passes.
    Cut {
        /// How long, ms.
        for_ms: u64,
    },
    /// No packet of this node arrives; the other direction works.
    CutOneWay {
        /// The node that is not heard.
        from: usize,
        /// How long, ms.
        for_ms: u64,
    },
    /// Every connection is reset in the middle of what it carries.
    Reset,
    /// A packet arrives damaged.
    Damage {
        /// The node that it arrives at.
        to: usize,
    },
    /// Packets take this long.
    SlowNet {
        /// How long, ms.
        for_ms: u64,
        /// How long each takes, ms.
        latency_ms: u64,
    },
    /// Disk operations take this long.
    SlowDisk {
        /// The node.
        node: usize,
        /// How long, ms.
        for_ms: u64,
        /// How long each takes, ms.
        latency_ms: u64,
    },
    /// The disk answers everything with EIO until it is attached again.
    DeadDisk {
        /// The node.
        node: usize,
    },
    /// The next write fails.
    WriteError {
        /// The node.
        node: usize,
    },
    /// The next read fails.
    ReadError {
        /// The node.
        node: usize,
    },
    /// The next flush fails.
    FlushError {
        /// The node.
        node: usize,
    },
    /// The next metadata write fails.
    MetaError {
        /// The node.
        node: usize,
    },
    /// No space for a while.
    Full {
        /// The node.
        node: usize,
        /// How long, ms.
        for_ms: u64,
    },
    /// An order.
    Order {
        /// The node.
        node: usize,
        /// The order.
        order: Order,
    },
    /// A client closes its connection, with or without goodbye.
    HangUp {
        /// The client.
        worker: usize,
        /// With a goodbye.
        disconnect: bool,
    },
}

/// What an administrator may order.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Primary,
    Force(Force),
    Secondary,
    SecondaryForce,
    Disconnect,
    DisconnectForce,
    Connect,
    ConnectDiscard,
    Invalidate,
    InvalidateRemote,
    Outdate,
    Detach,
    DetachForce,
    Attach,
    NewCurrentUuid,
    Down,
}

impl Fault {
    /// Disk errors come of it.
    #[must_use]
    pub fn hurts_a_disk(&self) -> bool {
        matches!(
            self,
            Self::DeadDisk { .. }
                | Self::WriteError { .. }
                | Self::ReadError { .. }
                | Self::FlushError { .. }
                | Self::MetaError { .. }
                | Self::Full { .. }
        )
    }
}

/// A fault and when it strikes, ms from the start of the phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

/// The kinds that a seed may switch off.
const KINDS: usize = 10;

/// The plan of a seed, for a phase of this length.
pub(super) fn plan(p: &mut Prng, length_ms: u64) -> Vec<Planned> {
    let mut allowed: Vec<usize> = (0..KINDS).filter(|_| p.percent(50)).collect();
    if allowed.is_empty() {
        allowed.push(p.index(KINDS));
    }
    let count = p.skewed(1, 24);
    let mut plan: Vec<Planned> = (0..count)
        .map(|_| {
            let kind = *p.choose(&allowed);
            Planned { at_ms: p.below(length_ms), fault: fault(p, kind) }
        })
        .collect();
    plan.sort_by_key(|planned| planned.at_ms);
    plan
}

fn fault(p: &mut Prng, kind: usize) -> Fault {
    let node = p.index(2);
    let off_ms = p.skewed(10, 8_000);
    let for_ms = p.skewed(10, 8_000);
    match kind {
        0 => Fault::PowerLoss { node, off_ms },
        1 if p.one_in(3) => Fault::PowerLossBoth { off_ms },
        1 => Fault::PowerLoss { node, off_ms },
        2 => Fault::Crash { node, off_ms },
        3 => Fault::Stop { node, off_ms },
        4 => Fault::Freeze { node, for_ms },
        5 if p.one_in(2) => Fault::Cut { for_ms },
        5 => Fault::CutOneWay { from: node, for_ms },
        6 if p.one_in(4) => Fault::Damage { to: node },
        6 => Fault::Reset,
        7 if p.one_in(2) => Fault::SlowNet { for_ms, latency_ms: p.skewed(1, 1_000) },
        7 => Fault::SlowDisk { node, for_ms, latency_ms: p.skewed(1, 3_000) },
        8 => disk_fault(p, node, for_ms),
        _ if p.one_in(5) => Fault::HangUp { worker: p.index(4), disconnect: p.percent(50) },
        _ => Fault::Order { node, order: order(p) },
    }
}

fn disk_fault(p: &mut Prng, node: usize, for_ms: u64) -> Fault {
    match p.below(6) {
        0 => Fault::DeadDisk { node },
        1 => Fault::WriteError { node },
        2 => Fault::ReadError { node },
        3 => Fault::FlushError { node },
        4 => Fault::MetaError { node },
        _ => Fault::Full { node, for_ms },
    }
}

fn order(p: &mut Prng) -> Order {
    let common = [
        Order::Primary,
        Order::Secondary,
        Order::SecondaryForce,
        Order::Disconnect,
        Order::Connect,
    ];
    let rare = [
        Order::Force(Force::Plain),
        Order::Force(Force::Outdated),
        Order::Force(Force::Inconsistent),
        Order::DisconnectForce,
        Order::ConnectDiscard,
        Order::Invalidate,
        Order::InvalidateRemote,
        Order::Outdate,
        Order::Detach,
        Order::DetachForce,
        Order::Attach,
        Order::NewCurrentUuid,
        Order::Down,
    ];
    if p.percent(60) { *p.choose(&common) } else { *p.choose(&rare) }
}

/// The node id of a node of the cluster.
#[must_use]
pub(super) fn node_id(node: usize) -> NodeId {
    u8::from(node == 1)
}
