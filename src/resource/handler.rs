//! Handlers: programs of the administrator that run when something happens. Plain data; who runs
//! what and when is in [`crate::resource::peer::handlers`] and [`crate::resource::peer::fencing`].
//!
//! Names, environment and exit codes are DRBD's (drbd.conf, `handlers`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{NodeId, VolumeNumber};
use super::state::ConnectionState;

/// The programs, by what they are called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Handler {
    /// Keep the peer from being promoted; the exit code says what it is now.
    FencePeer,
    /// It may be promoted again: it has all data.
    UnfencePeer,
    /// Before this node becomes Inconsistent in a resync. Anything but 0 forbids it.
    BeforeResyncTarget,
    /// This node has all data again.
    AfterResyncTarget,
    /// Before this node is the source of a resync. Anything but 0 and 3 forbids it.
    BeforeResyncSource,
    /// A split brain was found; it may be resolved by a policy yet.
    InitialSplitBrain,
    /// A split brain keeps the nodes apart.
    SplitBrain,
    /// The own disk has failed (`on-io-error call-local-io-error`).
    LocalIoError,
    /// A Primary would have to become a target (`rr-conflict call-pri-lost`).
    PriLost,
    /// A Primary has lost a split brain (`after-sb-1pri` or `-2pri call-pri-lost-after-sb`).
    PriLostAfterSb,
    /// A Primary can reach no good copy of its data any more.
    PriOnInconDegr,
    /// An online verify has found blocks that differ.
    OutOfSync,
    /// A connection has ended.
    Disconnected,
    /// What makes this node fit to be promoted has changed: its role, a disk or a connection. Run by
    /// whoever runs handlers; no event and no action of the state machine.
    PromotionScore,
}

impl Handler {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::FencePeer,
        Self::UnfencePeer,
        Self::BeforeResyncTarget,
        Self::AfterResyncTarget,
        Self::BeforeResyncSource,
        Self::InitialSplitBrain,
        Self::SplitBrain,
        Self::LocalIoError,
        Self::PriLost,
        Self::PriLostAfterSb,
        Self::PriOnInconDegr,
        Self::OutOfSync,
        Self::Disconnected,
        Self::PromotionScore,
    ];

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FencePeer => "fence-peer",
            Self::UnfencePeer => "unfence-peer",
            Self::BeforeResyncTarget => "before-resync-target",
            Self::AfterResyncTarget => "after-resync-target",
            Self::BeforeResyncSource => "before-resync-source",
            Self::InitialSplitBrain => "initial-split-brain",
            Self::SplitBrain => "split-brain",
            Self::LocalIoError => "local-io-error",
            Self::PriLost => "pri-lost",
            Self::PriLostAfterSb => "pri-lost-after-sb",
            Self::PriOnInconDegr => "pri-on-incon-degr",
            Self::OutOfSync => "out-of-sync",
            Self::Disconnected => "disconnected",
            Self::PromotionScore => "promotion-score",
        }
    }

    /// Something waits for its answer, or it must not run beside an earlier one: it is started at
    /// once. Of these the core has no two under way for one volume of a connection.
    #[must_use]
    pub fn is_awaited(self) -> bool {
        matches!(
            self,
            Self::FencePeer
                | Self::UnfencePeer
                | Self::BeforeResyncTarget
                | Self::BeforeResyncSource
        )
    }
}

impl std::fmt::Display for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The lines of a `handlers` section, each for `/bin/sh -c`.
pub type Handlers = BTreeMap<Handler, String>;

/// `fencing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fencing {
    /// Nobody is fenced.
    #[default]
    DontCare,
    /// fence-peer runs when a Primary loses its peer, and before a promotion without it.
    ResourceOnly,
    /// And I/O waits for its answer.
    ResourceAndStonith,
}

impl Fencing {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DontCare => "dont-care",
            Self::ResourceOnly => "resource-only",
            Self::ResourceAndStonith => "resource-and-stonith",
        }
    }
}

/// A handler that is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandlerCall {
    /// Which.
    pub handler: Handler,
    /// Its line, for `/bin/sh -c`.
    pub line: String,
    /// Of this volume; `None`: of the resource.
    pub volume: Option<VolumeNumber>,
    /// About this peer.
    pub peer: Option<NodeId>,
    /// How the connection to it is.
    pub connection_state: Option<ConnectionState>,
    /// The own node and the peers whose disks are UpToDate, a bit for each node id.
    pub up_to_date_nodes: u32,
    /// When it is killed, ms after its start.
    pub limit_ms: u64,
}

/// How a handler has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandlerOutcome {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal, which was not the shell's.
    Signalled(i32),
    /// It was killed at its limit.
    TimedOut,
    /// It could not be started; the errno, or 0 where too many wait already.
    NotStarted(i32),
}

impl std::fmt::Display for HandlerOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "returned {code}"),
            Self::Signalled(signal) => write!(f, "was ended by signal {signal}"),
            Self::TimedOut => write!(f, "did not end in time and was killed"),
            Self::NotStarted(0) => write!(f, "was not started: too many wait"),
            Self::NotStarted(errno) => write!(f, "could not be started: errno {errno}"),
        }
    }
}
