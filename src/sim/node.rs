//! One simulated node: the core, its disks, its buffers, and what is under way.

use std::collections::{BTreeMap, VecDeque};

use crate::meta::{Geometry, Stage, Superblock};
use crate::resource::{
    ConnectionStatus, DeviceStatus, Event, PeerDeviceStatus, RequestId, Resource, SessionId,
    SocketId, Status, Tag, Time, VolumeNumber,
};
use crate::wire::Packet;

use super::admin::PendingOrder;
use super::disk::{Sector, SimDisk};
use super::pool::{Origin, Pool};
use super::space::Space;

/// What is on its way into a core. Buffers are taken when it gets there.
#[derive(Clone, Debug)]
pub enum Input {
    /// As it is.
    Event(Event),
    /// A packet from the peer.
    Packet {
        /// Where.
        socket: SocketId,
        /// `None`: its bytes are none.
        packet: Option<Packet>,
        /// Payload.
        contents: Vec<Sector>,
    },
    /// A disk read that went well.
    Read {
        /// Of the action.
        tag: Tag,
        /// What was read.
        contents: Vec<Sector>,
    },
    /// A client's write.
    Write {
        /// From this client.
        session: SessionId,
        /// Its number.
        request: RequestId,
        /// To this volume.
        volume: VolumeNumber,
        /// First sector.
        start: u64,
        /// What.
        contents: Vec<Sector>,
        /// Durable before the answer.
        fua: bool,
    },
}

/// A disk or metadata action under way.
#[derive(Clone, Debug)]
pub struct DiskOp {
    /// Which disk.
    pub volume: VolumeNumber,
    /// What.
    pub kind: DiskOpKind,
}

/// The kinds of them. Ranges in sectors.
#[derive(Clone, Debug)]
pub enum DiskOpKind {
    /// A read.
    Read {
        /// First sector.
        start: u64,
        /// Sectors.
        count: u64,
        /// Nothing but zeroes is told without a payload.
        find_zeroes: bool,
    },
    /// A look for a hole.
    Hole {
        /// First sector.
        start: u64,
        /// Sectors.
        count: u64,
    },
    /// A write, or zeroes.
    Write {
        /// First sector.
        start: u64,
        /// What.
        values: Vec<Sector>,
        /// Durable at completion.
        fua: bool,
        /// Whose.
        origin: Origin,
    },
    /// A flush, and the stamp that it covers.
    Flush(u64),
    /// The stages that are left, and the superblock that is written, if it is one.
    Meta(VecDeque<Stage>, Option<Box<Superblock>>),
    /// The stages that are left of taking more room, and where everything is then.
    Grow(VecDeque<Stage>, Box<Geometry>),
}

impl DiskOp {
    /// It writes metadata.
    #[must_use]
    pub fn is_meta(&self) -> bool {
        matches!(self.kind, DiskOpKind::Meta(..) | DiskOpKind::Grow(..))
    }

    /// The sectors that a write touches.
    #[must_use]
    pub fn written(&self) -> Option<(u64, u64)> {
        match &self.kind {
            DiskOpKind::Write { start, values, .. } => Some((*start, values.len() as u64)),
            _ => None,
        }
    }
}

/// A volume's disk on a node.
#[derive(Clone, Debug)]
pub struct SimVolume {
    /// The disk.
    pub disk: SimDisk,
    /// Where its metadata lies.
    pub geometry: Geometry,
    /// The core has it.
    pub attached: bool,
    /// An action on it has failed since it was attached.
    pub failed: bool,
    /// The last superblock that is known to be durable, for the checkers.
    pub durable: Option<Superblock>,
    /// Actions that a stalled disk keeps.
    pub stalled: Vec<Tag>,
    /// It was given up while it kept some: what it was to flush then it has not flushed.
    pub hung: bool,
    /// A copy of the superblock has gone bad at some time, or both have.
    pub bad_superblock: bool,
    /// It is the other node's.
    pub foreign: bool,
    /// An administrator has made it larger at some time.
    pub grown: bool,
    /// Its lack of space since it was attached.
    pub space: Space,
}

impl SimVolume {
    /// A disk that is not attached.
    #[must_use]
    pub fn new(disk: SimDisk, geometry: Geometry) -> Self {
        Self {
            disk,
            geometry,
            attached: false,
            failed: false,
            durable: None,
            stalled: Vec::new(),
            hung: false,
            bad_superblock: false,
            foreign: false,
            grown: false,
            space: Space::default(),
        }
    }
}

/// A copy of a node's disks, data and metadata.
#[derive(Clone, Debug)]
pub struct Image {
    /// By volume number.
    pub volumes: Vec<(SimDisk, Geometry)>,
    /// The step of the history at which it was taken.
    pub taken: u64,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: &'static str,
    /// The core, while the daemon runs.
    pub resource: Option<Resource>,
    /// How often the daemon was started.
    pub life: u64,
    /// How often the host was started.
    pub boot: u64,
    /// The host has power.
    pub host_up: bool,
    /// Since when the daemon is frozen.
    pub frozen: Option<Time>,
    /// It was frozen for so long, in this life, that it was told.
    pub has_slept: bool,
    /// What came while it was frozen.
    pub inbox: VecDeque<Input>,
    /// The shared secret in force, and the old one that is taken as well (itself: none is).
    pub secrets: [u8; 2],
    /// Its disks, by volume number.
    pub volumes: Vec<SimVolume>,
    /// Its buffers.
    pub pool: Pool,
    /// Disk actions under way.
    pub ops: BTreeMap<Tag, DiskOp>,
    /// The last snapshot.
    pub status: Option<Status>,
    /// Its version.
    pub version: u64,
    /// When the core wants to be called.
    pub timer: Option<Time>,
    /// Timers that were set before are void.
    pub timer_generation: u64,
    /// The next number for an accepted socket.
    pub next_accept: u64,
    /// Where the last handshake was sent.
    pub handshake: Option<SocketId>,
    /// Orders that are not answered.
    pub orders: BTreeMap<u64, PendingOrder>,
    /// What somebody has copied.
    pub image: Option<Image>,
    /// Its disks as they were copied for the other node.
    pub seed_image: Option<Image>,
    /// The wall clock is wrong by so many seconds.
    pub wall_offset_s: i64,
    /// Until when a disk of it is, or was, stalled.
    pub stalled_until: Time,
}

impl Node {
    /// A node whose daemon does not run yet.
    #[must_use]
    pub fn new(name: &'static str, volumes: Vec<SimVolume>) -> Self {
        Self {
            name,
            resource: None,
            life: 0,
            boot: 0,
            host_up: true,
            frozen: None,
            has_slept: false,
            inbox: VecDeque::new(),
            secrets: [0; 2],
            volumes,
            pool: Pool::default(),
            ops: BTreeMap::new(),
            status: None,
            version: 0,
            timer: None,
            timer_generation: 0,
            next_accept: 1,
            handshake: None,
            orders: BTreeMap::new(),
            image: None,
            seed_image: None,
            wall_offset_s: 0,
            stalled_until: Time(0),
        }
    }

    /// The daemon runs and is not frozen.
    #[must_use]
    pub fn is_awake(&self) -> bool {
        self.resource.is_some() && self.frozen.is_none()
    }

    /// Its disks are the other node's.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.volumes.iter().any(|volume| volume.foreign)
    }

    /// Everything of a life is gone but the disks.
    pub fn forget_life(&mut self) {
        self.resource = None;
        self.frozen = None;
        self.has_slept = false;
        self.inbox.clear();
        self.pool = Pool::default();
        self.ops.clear();
        self.status = None;
        self.version = 0;
        self.timer = None;
        self.orders.clear();
        for volume in &mut self.volumes {
            volume.attached = false;
            volume.stalled.clear();
        }
    }

    /// The only connection.
    #[must_use]
    pub fn connection(&self) -> Option<&ConnectionStatus> {
        self.status.as_ref()?.connections.first()
    }

    /// A volume's own side.
    #[must_use]
    pub fn device(&self, volume: VolumeNumber) -> Option<&DeviceStatus> {
        self.status.as_ref()?.devices.iter().find(|d| d.volume == volume)
    }

    /// A volume's side toward the peer.
    #[must_use]
    pub fn peer_device(&self, volume: VolumeNumber) -> Option<&PeerDeviceStatus> {
        self.connection()?.peer_devices.iter().find(|d| d.volume == volume)
    }
}
