//! A snapshot of a resource for people and programs: `status`, `events2`, `why` are made from it.
//! Sizes in bytes unless said otherwise; `control` prints KiB.

use serde::{Deserialize, Serialize};

use super::command::Force;
use super::ids::{NodeId, VolumeNumber};
use super::metrics::{DeviceMetrics, PeerDeviceMetrics};
use super::state::{ConnectionState, DiskState, Reason, ReplicationState, Role};
use crate::meta::JUST_CREATED;

/// What the note of a disk says that was refused as the source of an open session; `why` looks
/// for it.
pub const ONLY_A_NEW_CONNECTION: &str = "only a new connection decides";

/// The whole resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// This node's id.
    pub node_id: NodeId,
    /// This node's name.
    pub node_name: String,
    /// This node's role.
    pub role: Role,
    /// It is Primary for its clients, until the last has gone (`auto-promote`).
    #[serde(default)]
    pub auto_promoted: bool,
    /// `suspend-io`: I/O is frozen by order.
    #[serde(default)]
    pub suspended_user: bool,
    /// I/O is frozen until the lost peer is fenced or back.
    #[serde(default)]
    pub suspended_fencing: bool,
    /// I/O is frozen because the only disk is full.
    pub suspended_no_space: bool,
    /// I/O is frozen after a gap until the peer has answered.
    pub suspended_gap: bool,
    /// I/O waits for a handshake.
    pub suspended_handshake: bool,
    /// The order that runs.
    #[serde(default)]
    pub order: Option<OrderStatus>,
    /// A panic marked the resource failed; the message.
    pub failed: Option<String>,
    /// The volumes.
    pub devices: Vec<DeviceStatus>,
    /// The connections.
    pub connections: Vec<ConnectionStatus>,
}

impl Status {
    /// What is left of a resource whose thread has failed, with the message: it serves nobody, is connected to nobody,
    /// and its disks are not used any more.
    #[must_use]
    pub fn after_failure(mut self, message: &str) -> Self {
        self.failed = Some(message.to_owned());
        self.role = Role::Unknown;
        self.order = None;
        for device in &mut self.devices {
            if device.disk_state != DiskState::Diskless {
                device.disk_state = DiskState::Failed;
            }
            device.clients.clear();
        }
        for connection in &mut self.connections {
            connection.connection_state = ConnectionState::StandAlone;
            connection.peer_role = Role::Unknown;
            for peer in &mut connection.peer_devices {
                peer.replication_state = ReplicationState::Off;
                peer.peer_disk_state = DiskState::DUnknown;
            }
        }
        self
    }
}

impl Status {
    /// A peer that is connected and has an UpToDate disk of the volume.
    #[must_use]
    pub fn good_peer(&self, volume: VolumeNumber) -> Option<&ConnectionStatus> {
        let good = |one: &PeerDeviceStatus| {
            one.volume == volume && one.peer_disk_state == DiskState::UpToDate
        };
        self.connections.iter().find(|peer| peer.peer_devices.iter().any(good))
    }

    /// The own node and the peers of which every disk is UpToDate, a bit for each node id (DRBD's UP_TO_DATE_NODES).
    #[must_use]
    pub fn up_to_date_nodes(&self) -> u32 {
        let good = self.connections.iter().filter(|peer| {
            peer.peer_devices.iter().all(|one| one.peer_disk_state == DiskState::UpToDate)
        });
        let nodes = good.map(|peer| peer.peer_node_id).chain([self.node_id]);
        nodes.filter(|id| *id < 32).fold(0, |mask, id| mask | 1 << id)
    }
}

impl DeviceStatus {
    /// What a promotion with the disk as it is risks, as far as this node's own metadata says; `None`: nothing, or
    /// there is no disk.
    #[must_use]
    pub fn danger(&self) -> Option<Force> {
        match self.disk_state {
            DiskState::Inconsistent if self.current_uuid == JUST_CREATED => Some(Force::Plain),
            DiskState::Inconsistent => Some(Force::Inconsistent),
            DiskState::Outdated => Some(Force::Outdated),
            DiskState::Consistent => Some(Force::Plain),
            _ => None,
        }
    }
}

/// The order that runs: whoever gave it may have gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderStatus {
    /// Which, for people.
    pub verb: String,
    /// It has been running for so long, ms.
    pub for_ms: u64,
    /// After so long it is decided or refused, ms; `None`: it waits for what it needs.
    pub left_ms: Option<u64>,
    /// What it waits for.
    pub waits_for: String,
    /// Orders that wait for its end.
    pub behind: u32,
}

/// One volume here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its number.
    pub volume: VolumeNumber,
    /// The printed minor.
    pub minor: u32,
    /// The backing disk, or `none`.
    pub backing_disk: String,
    /// The own disk.
    pub disk_state: DiskState,
    /// Clients that have it open.
    pub clients: Vec<ClientStatus>,
    /// Exported size, bytes; 0 while not known.
    pub size: u64,
    /// Read from the own disk for clients, the peer and resync, bytes.
    pub read: u64,
    /// Written to the own disk, bytes.
    pub written: u64,
    /// Activity log updates.
    pub al_writes: u64,
    /// Bitmap pages written.
    pub bm_writes: u64,
    /// Client requests that are not answered yet.
    pub upper_pending: u64,
    /// Disk requests that are under way.
    pub lower_pending: u64,
    /// Current UUID.
    pub current_uuid: u64,
    /// History UUIDs, newest first, zeroes left out.
    pub history: Vec<u64>,
    /// Superblock flags, as [`crate::meta::DeviceFlags`].
    pub flags: u32,
    /// Writes wait for space on it.
    #[serde(default)]
    pub no_space: bool,
    /// `disk-flushes no`: what was flushed does not outlive a power loss.
    #[serde(default)]
    pub no_disk_flushes: bool,
    /// `md-flushes no`: after a power loss the metadata may be older than the data.
    #[serde(default)]
    pub no_md_flushes: bool,
    /// How long its oldest operation has not ended, ms, where that is too long: the disk hangs.
    pub hung_ms: Option<u64>,
    /// What happened to the disk last, for `why`; may be empty.
    pub disk_note: String,
    /// When this node began the current generation, s of its wall clock; 0: it did not, or unknown.
    pub generation_time: u64,
    /// The last write that a peer does not have, s of the wall clock; 0: none since the attach.
    pub alone_time: u64,
    /// Counters for monitoring.
    #[serde(default)]
    pub metrics: DeviceMetrics,
}

/// A connection of a client, which may have several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientStatus {
    /// Who: `nbd-client pid 2211 uid 0`, or its address.
    pub name: String,
    /// When it opened the volume, s of the wall clock.
    pub since: u64,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The peer.
    pub peer_node_id: NodeId,
    /// Its name.
    pub name: String,
    /// The state.
    pub connection_state: ConnectionState,
    /// The socket of the session, for the shell.
    pub socket: Option<super::SocketId>,
    /// The peer's address that the session is with, without the port; the shell fills it in.
    pub remote: String,
    /// Why it is not Connected.
    pub reason: Reason,
    /// The peer's role.
    pub peer_role: Role,
    /// It is being fenced, or could not be.
    #[serde(default)]
    pub fencing: Option<FencingStatus>,
    /// A `connect --discard-my-data` waits for the next handshake.
    pub discard_my_data_pending: bool,
    /// It comes back by itself in so long, ms (`disconnect --for`).
    pub back_in_ms: Option<u64>,
    /// Bytes of client writes that the peer has not acknowledged.
    pub ap_in_flight: u64,
    /// Bytes of resync under way.
    pub rs_in_flight: u64,
    /// The sender waits for the peer's receive window.
    pub congested: bool,
    /// When the state changed last: ms ago.
    pub since_ms: u64,
    /// Attempts since the last Connected.
    pub attempts: u64,
    /// Sessions that were opened since `up`.
    #[serde(default)]
    pub sessions: u64,
    /// What the last attempt or loss said, for `why`.
    pub detail: String,
    /// The peer's role when it was known last; Unknown: not met since `up`.
    pub last_peer_role: Role,
    /// What the last handshake compared and decided, for `why`, per volume.
    pub last_handshake: Vec<HandshakeStatus>,
    /// Per volume.
    pub peer_devices: Vec<PeerDeviceStatus>,
}

/// How far fencing a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencingStatus {
    /// fence-peer runs, and its answer is waited for.
    pub running: bool,
    /// For so long it has been like this, ms.
    pub for_ms: u64,
    /// How fence-peer ended, where that was no answer; else empty.
    pub outcome: String,
    /// There is a handler fence-peer.
    pub configured: bool,
    /// When it is killed, ms after its start.
    pub limit_ms: u64,
    /// It gave no answer, and is asked again in so long, ms.
    #[serde(default)]
    pub again_ms: Option<u64>,
}

/// What a handshake found of one volume, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandshakeStatus {
    /// The volume.
    pub volume: VolumeNumber,
    /// When, s of the wall clock.
    pub time: u64,
    /// The rule that decided, as the log names it.
    pub rule: String,
    /// What the rule means: a sentence.
    pub meaning: String,
    /// What was done.
    pub outcome: String,
    /// What lay between rule and outcome, for example a policy: a sentence, or empty.
    pub because: String,
    /// This node, as it took part.
    pub own: SideStatus,
    /// The peer, as it described itself.
    pub peer: SideStatus,
}

/// One side of a handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideStatus {
    /// Its role then.
    pub role: Role,
    /// Its disk then.
    pub disk: DiskState,
    /// Current UUID.
    pub current_uuid: u64,
    /// Bitmap UUID toward the other side.
    pub bitmap_uuid: u64,
    /// Set bits toward the other side, bytes.
    pub out_of_sync: u64,
    /// Bytes that its disk offers.
    pub data_size: u64,
    /// When it began its current generation, s of its own wall clock; 0: it did not, or unknown.
    pub generation_time: u64,
    /// Its last write that the other side does not have, s of its own wall clock; 0: unknown.
    pub alone_time: u64,
    /// What create-md found on its disk.
    pub created_found: String,
}

/// One volume toward one peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerDeviceStatus {
    /// The volume.
    pub volume: VolumeNumber,
    /// The replication state.
    pub replication_state: ReplicationState,
    /// The peer's disk.
    pub peer_disk_state: DiskState,
    /// Payload received since `up`, bytes.
    pub received: u64,
    /// Payload sent since `up`, bytes.
    pub sent: u64,
    /// Writes wait for space on the peer's disk.
    #[serde(default)]
    pub no_space: bool,
    /// Set bits, bytes.
    pub out_of_sync: u64,
    /// Requests sent to the peer and not answered.
    pub pending: u64,
    /// Requests of the peer that we have not answered.
    pub unacked: u64,
    /// The bitmap UUID toward this peer.
    pub bitmap_uuid: u64,
    /// Counters for monitoring.
    #[serde(default)]
    pub metrics: PeerDeviceMetrics,
    /// Why a resync is held back, or would be.
    #[serde(default)]
    pub resync_suspended: ResyncSuspended,
    /// A resync that is running.
    pub resync: Option<ResyncStatus>,
    /// An online verify that is running.
    #[serde(default)]
    pub verify: Option<VerifyStatus>,
    /// The online verify that ended last, since `up`.
    #[serde(default)]
    pub last_verify: Option<LastVerify>,
}

/// A running online verify. In bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyStatus {
    /// Where it began.
    pub start: u64,
    /// Where it will end.
    pub stop: u64,
    /// Everything from the start to here was compared.
    pub position: u64,
    /// Blocks that differ.
    pub found: u64,
    /// Blocks that could not be read on one side.
    pub skipped: u64,
    /// Rate and time left; `total` and `left` are what is to be compared.
    pub progress: ResyncStatus,
}

/// An online verify that has ended. In bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastVerify {
    /// When it ended, s of the wall clock.
    pub time: u64,
    /// Where it began.
    pub start: u64,
    /// Everything from the start to here was compared.
    pub position: u64,
    /// It came to its end; else it was stopped or lost at `position`.
    pub done: bool,
    /// Blocks that differed.
    pub found: u64,
    /// Blocks that could not be read on one side.
    pub skipped: u64,
}

/// Why a resync is held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncSuspended {
    /// `pause-sync` here.
    pub user: bool,
    /// By the peer.
    pub peer: bool,
    /// Another resync of this node goes first.
    pub dependency: bool,
}

impl std::fmt::Display for ResyncSuspended {
    /// The reasons as DRBD prints them, `no` where there is none.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = [(self.user, "user"), (self.peer, "peer"), (self.dependency, "dependency")];
        let named: Vec<&str> = all.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
        f.pad(&if named.is_empty() { "no".to_owned() } else { named.join(",") })
    }
}

/// A running resync.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResyncStatus {
    /// Bytes out of sync when it started.
    pub total: u64,
    /// Bytes left.
    pub left: u64,
    /// Since it started, ms.
    pub elapsed_ms: u64,
    /// Of that it stood still by order, ms.
    #[serde(default)]
    pub paused_ms: u64,
    /// Bytes a second over the last seconds.
    pub rate: u64,
    /// `done:` in hundredths of a percent, 0 to 10000.
    pub done_hundredths: u32,
    /// Estimated, s; `None` while no rate is known.
    pub seconds_left: Option<u64>,
    /// Blocks that could not be read or written, bytes.
    pub failed: u64,
}
