//! Faults and orders of administrators, planned before a run starts: a plan can be cut down to the
//! shortest one that still fails.

use crate::resource::{DiskState, Force, NodeId, ReplicationState, Role, VolumeNumber};

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
    /// So many percent of all operations fail for a while.
    Flaky {
        /// The node.
        node: usize,
        /// How long, ms.
        for_ms: u64,
        /// Percent.
        share: u64,
    },
    /// No space for a while.
    Full {
        /// The node.
        node: usize,
        /// How long, ms.
        for_ms: u64,
    },
    /// No space on either node, for other writes on each: so many percent of them.
    FullBoth {
        /// How long on each node, ms.
        for_ms: [u64; 2],
        /// Percent of the writes that find none.
        share: u64,
    },
    /// Operations of the disk do not end for a while.
    StallDisk {
        /// The node.
        node: usize,
        /// How long, ms; past the end of the phase: until all faults end.
        for_ms: u64,
        /// Only what is to be durable when it ends.
        flushes: bool,
    },
    /// A block of the metadata goes bad, and nobody notices before it is read.
    CorruptMeta {
        /// The node.
        node: usize,
        /// Which part of it.
        part: MetaPart,
        /// Which block, which bytes and how: any number.
        chance: u64,
    },
    /// A copy is made of the disks as they stand, data and metadata.
    Image {
        /// The node.
        node: usize,
    },
    /// The host loses power, and comes back with the disks as they were at the last [`Fault::Image`].
    RollBack {
        /// The node.
        node: usize,
        /// How long it is off, ms.
        off_ms: u64,
    },
    /// The host loses power, and comes back with blank disks and fresh metadata.
    ReplaceDisk {
        /// The node.
        node: usize,
        /// How long it is off, ms.
        off_ms: u64,
    },
    /// An image of the node's disks is taken, for the other node.
    SeedImage {
        /// The node.
        node: usize,
    },
    /// The host loses power, and comes back with the image of the other node's disks, and the
    /// metadata that `restore-md --seed` makes; nothing, where that would refuse.
    Seed {
        /// The node.
        node: usize,
        /// How long it is off, ms.
        off_ms: u64,
    },
    /// Both hosts lose power and come back with each other's disks; later once more.
    SwapDisks {
        /// How long they are off, ms.
        off_ms: u64,
        /// How long the disks are where they do not belong, ms.
        for_ms: u64,
    },
    /// The wall clock of a host is set; time-outs do not see it.
    ClockJump {
        /// The node.
        node: usize,
        /// By so many seconds.
        by_s: i64,
    },
    /// Another shared secret is put in force on one node: the other one has it already, or will, or
    /// never.
    ChangeSecret {
        /// The node.
        node: usize,
        /// The new one.
        secret: u8,
        /// The one before is taken as well.
        keep_old: bool,
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

/// A part of the metadata.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaPart {
    SuperblockA,
    SuperblockB,
    /// Both copies: no such disk can be attached.
    Superblocks,
    ActivityLog,
    Bitmap,
    SeenNumber,
}

/// What an administrator may order.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Primary,
    /// A client knocks, and perhaps enters.
    AutoPromote,
    Force(Force),
    Secondary,
    SecondaryForce,
    /// `primary --hand-over`.
    HandOver,
    /// `secondary --wait`: clients get a few seconds.
    SecondaryWait,
    Disconnect,
    DisconnectForce,
    /// `disconnect --for`: it comes back by itself.
    DisconnectFor,
    Connect,
    ConnectDiscard,
    ConnectTentative,
    Invalidate,
    InvalidateRemote,
    Outdate,
    Detach,
    DetachForce,
    Attach,
    /// Detach, and attach at once.
    Reattach,
    NewCurrentUuid,
    /// Disks are made larger, and `resize`.
    Resize,
    /// `new-current-uuid --clear-bitmap`: for fresh disks, and for a peer that was never met.
    ClearBitmap,
    /// `forget-peer`.
    ForgetPeer,
    /// `disconnect`, `forget-peer`, `new-current-uuid --clear-bitmap`: a seed begins.
    Seed,
    Verify,
    /// `verify --start --stop`.
    VerifyPart,
    /// `verify --stop 0`.
    VerifyStop,
    /// `adjust`: other options.
    Adjust,
    /// One of the orders, for a volume or a peer that is not there.
    Misnamed,
    /// `verify --repair`, from the Primary, else from this node.
    Repair,
    Down,
    PauseSync,
    ResumeSync,
    SuspendIo,
    ResumeIo,
    /// Not an order: another resync of the node goes first (true), or does no more.
    Dependency(bool),
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
                | Self::Flaky { .. }
                | Self::Full { .. }
                | Self::FullBoth { .. }
                | Self::CorruptMeta { .. }
                | Self::RollBack { .. }
                | Self::Seed { .. }
                | Self::ReplaceDisk { .. }
                | Self::SwapDisks { .. }
        )
    }
}

impl Fault {
    /// A lack of space, and nothing else of a disk.
    #[must_use]
    pub fn fills_a_disk(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::FullBoth { .. })
    }
}

/// What a node is seen to enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A replication state of any volume.
    Replication(ReplicationState),
    /// A state of a disk.
    Disk(DiskState),
    /// A role.
    Role(Role),
}

/// A fault waits for a moment, and a little longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Whose moment.
    pub node: usize,
    /// Which.
    pub moment: Moment,
    /// And then so long, µs.
    pub more_us: u64,
}

/// Which disks of a node something strikes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Struck {
    /// The one that fails, or that an order names.
    pub volume: VolumeNumber,
    /// What takes the disks of a node, takes this one and leaves the others.
    pub alone: bool,
}

impl Struck {
    /// This volume, and what takes the disks of a node takes all of them.
    #[must_use]
    pub fn of(volume: VolumeNumber) -> Self {
        Self { volume, alone: false }
    }

    /// What is taken, of a node that has so many.
    #[must_use]
    pub(super) fn taken(self, volumes: u16) -> std::ops::Range<VolumeNumber> {
        if self.alone { self.volume..self.volume + 1 } else { 0..volumes }
    }
}

/// A fault and when it strikes, ms from the start of the phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When; with `wait`: from when on it waits.
    pub at_ms: u64,
    /// The moment that it waits for.
    pub wait: Option<Wait>,
    /// What.
    pub fault: Fault,
    /// Which disks.
    pub struck: Struck,
}

impl Planned {
    /// What strikes the first disk; [`super::plan::strike_any`] draws another one.
    pub(super) fn new(at_ms: u64, wait: Option<Wait>, fault: Fault) -> Self {
        Self { at_ms, wait, fault, struck: Struck::default() }
    }
}

/// The node id of a node of the cluster.
#[must_use]
pub(super) fn node_id(node: usize) -> NodeId {
    u8::from(node == 1)
}
