//! A resource as a pure state machine: events in, actions out.
//!
//! No file system, network, clock, thread, random source or `unsafe` in this room. After each
//! [`Resource::handle`] the shell drains [`Resource::next_action`] to the end before the next event.
//!
//! Invariants:
//! - What depends on durability is emitted only by the handler of the completion.
//! - A reply that rests on one disk alone is emitted only when that disk has been flushed since the
//!   loss, SURVIVED is durable, and a new current UUID is durable (model.md R2, R4).
//! - A block that may differ between the disks is covered by a set bit that is durable, a durable
//!   hot extent, or a transfer log entry (DESIGN 1, promise 4).
//! - Every payload that an event brought is released exactly once.
//!
//! docs/ARCHITECTURE.md says what each file is about.

mod action;
mod command;
mod data;
mod disk;
mod event;
mod handler;
mod ids;
mod metrics;
mod option_names;
mod options;
mod orders;
mod peer;
mod prng;
mod refusals;
mod report;
mod slab;
mod sorted;
mod state;
mod status;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

pub use action::*;
pub use command::*;
pub use event::*;
pub use handler::*;
pub use ids::*;
pub use metrics::*;
pub use option_names::WrittenOption;
pub use options::*;
pub use orders::order::NO_VOLUME;
pub use orders::waits::DETACHES;
pub use refusals::REFUSALS;
pub use state::*;
pub use status::*;

use disk::device::{CutOff, Device, Request};
use orders::order::{Order, Running};
use peer::connection::Connection;
use peer::connection::PeerWrite;
pub use peer::{generation, split_brain};
use prng::Prng;
use slab::Slab;

/// What follows when something of a volume has become durable. `socket` names the session that it
/// was for: it is void if that session has ended meanwhile.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    /// Attach: the disk was flushed.
    AttachFlushed { id: u64 },
    /// Attach: the superblock is durable.
    AttachSaved { id: u64 },
    /// Loss: the own disk was flushed.
    LossFlushed { round: u64 },
    /// Loss: SURVIVED is durable.
    LossMarked { round: u64 },
    /// A new current UUID is durable.
    Bumped,
    /// new-current-uuid --clear-bitmap: the new current UUID is durable, as the peer asked.
    ClearSaved { c: usize, socket: SocketId, uuid: u64 },
    /// No-sync: the session of the volume is durably open here.
    OpenSaved { c: usize, socket: SocketId },
    /// Source: the rollback number is above all that the peer has seen, durably.
    SourceRaised { c: usize, socket: SocketId },
    /// Target: the union of the bits is durable.
    AdoptBitsSaved { c: usize, socket: SocketId },
    /// Target: Inconsistent with the source's identifiers, durably.
    AdoptSaved { c: usize, socket: SocketId },
    /// Source: the own disk was flushed.
    SourceFlushed { c: usize, socket: SocketId },
    /// Source: its bitmap UUID is durably in the history.
    SourceSaved { c: usize, socket: SocketId },
    /// Target: the first `count` unflushed ranges are durable.
    TargetFlushed { c: usize, socket: SocketId, round: u64, count: usize },
    /// Target: the last flush.
    EndFlushed { c: usize, socket: SocketId, round: u64 },
    /// Target: UpToDate, durably.
    EndSaved { c: usize, socket: SocketId, round: u64 },
    /// The peer's disk is gone: flushed, before its new UUID is stored (R15).
    PeerUuidFlushed { c: usize, socket: SocketId, uuid: u64 },
    /// The peer's new UUID is stored.
    PeerUuidSaved { c: usize, socket: SocketId, uuid: u64 },
    /// The bitmap's pages are durable: the slot changes to Pages.
    BitmapMapped { c: usize },
    /// No-sync: what a verify has marked on either side is durable.
    MarksSaved { c: usize, socket: SocketId },
    /// Verify: that bits are its own can be told from the disk.
    VerifyFlagged { c: usize, socket: SocketId },
    /// VerifyS: the bits of what was found are durable.
    VerifySaved { c: usize, socket: SocketId },
    /// A step of the running order.
    Order { step: u64 },
    /// Look at those who wait for the activity log again.
    Log,
    /// A peer leaves: a step of that.
    PeerLeave { c: usize, socket: SocketId },
    /// The own rollback number has grown, durably, in the middle of a session.
    NumberRaised,
    /// The own disk is durably given up, as the peer has asked with this sequence.
    GivenUp { c: usize, socket: SocketId, sequence: u64 },
}

/// What a disk or metadata action was for.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    /// A client's write on the own disk.
    Write { key: u64 },
    /// A client's read on the own disk.
    Read { key: u64 },
    /// An edge of an unaligned write.
    Edge { key: u64, head: bool },
    /// A peer's write.
    PeerWrite { key: u64 },
    /// A read for the peer's client.
    PeerRead { c: usize, socket: SocketId, sequence: u64 },
    /// Resync: the source reads.
    SourceRead { c: usize, socket: SocketId, sequence: u64 },
    /// Resync: the source looks for a hole.
    SourceHole { c: usize, socket: SocketId, sequence: u64 },
    /// Resync: the target reads, to compare.
    TargetRead { c: usize, socket: SocketId, piece: u64 },
    /// Resync: the target writes.
    TargetWrite { c: usize, socket: SocketId, piece: u64, payload: Option<Payload> },
    /// The own part of a flush of both disks.
    GroupFlush { epoch: u64 },
    /// A flush for the peer.
    PeerFlush { c: usize, socket: SocketId },
    /// A flush with what follows.
    Flush { then: Then },
    /// The superblock.
    Superblock,
    /// The superblock of a disk that has failed, marked Outdated.
    LastMark,
    /// The activity log.
    ActivityLog,
    /// Pages of a bitmap.
    Bitmap { c: usize },
    /// The number that a peer has shown.
    Seen { c: usize, number: u64 },
    /// A range that is compared with the peer's disk.
    OwnSample { run: u64, offset: u64, length: u32 },
    /// The same for the peer, which has this CRC-32.
    PeerSample { c: usize, socket: SocketId, sequence: u64, expected: u32 },
    /// A piece of an online verify, on either side; `key` as in its list.
    VerifyRead { c: usize, socket: SocketId, key: u64 },
    /// More room on the disk.
    Growing,
    /// Something on a disk that was given up meanwhile, and has been dealt with.
    Abandoned,
}

impl Pending {
    /// A write of the metadata.
    fn is_metadata(&self) -> bool {
        matches!(
            self,
            Self::Superblock
                | Self::LastMark
                | Self::ActivityLog
                | Self::Bitmap { .. }
                | Self::Seen { .. }
                | Self::Growing
        )
    }
}

/// After the process did not run for longer than ping-timeout while Primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// Nothing is in question.
    None,
    /// The peer is asked first.
    Asking,
    /// The peer is Primary or newer: closed until `secondary`.
    Closed,
}

/// A resource on one node.
#[derive(Clone, Debug)]
pub struct Resource {
    config: ResourceConfig,
    prng: Prng,
    now: Time,
    started: Time,
    wall_clock_ms: u64,
    actions: VecDeque<Action>,
    role: Role,
    /// The keys of `devices`, ascending: walked after every event.
    volume_numbers: Vec<VolumeNumber>,
    devices: BTreeMap<VolumeNumber, Device>,
    connections: Vec<Connection>,
    requests: Slab<Request>,
    peer_writes: Slab<PeerWrite>,
    /// What is under way on the disks, with its start.
    tags: Slab<(VolumeNumber, Time, Pending)>,
    /// When the oldest of it may have become too old.
    look_at_disks: Option<Time>,
    sessions: BTreeMap<SessionId, VolumeNumber>,
    /// Requests that have not been admitted: a handshake or a freeze.
    held: VecDeque<u64>,
    /// Requests that wait for room in a peer's window.
    window_waiting: VecDeque<u64>,
    /// Requests that have been admitted and not answered.
    admitted: u64,
    next_socket: u64,
    next_lock: u64,
    orders: VecDeque<Order>,
    running: Option<Running>,
    /// Counts the steps of orders: what an earlier step waited for ends nothing of a later one.
    order_step: u64,
    sampling: Option<orders::clear_bitmap::Sampling>,
    resizing: Option<orders::resize::Resizing>,
    /// After a gap: nothing runs until a peer has answered or one attempt has failed.
    gap: Gap,
    /// New requests are not admitted: a demotion, detach or leave drains.
    draining: bool,
    /// It was taken down: the shell lets go of it, and no order starts anything.
    is_down: bool,
    /// This node was promoted for a client, and by no order.
    auto_promoted: Option<orders::auto_promote::AutoPromoted>,
    /// A peer takes the role over.
    handing_over: Option<orders::hand_over::HandingOver>,
    /// Replies that are held back for it.
    withheld: Vec<orders::hand_over::Withheld>,
    /// When one did last.
    handed_over: Option<Time>,
    /// `suspend-io`: requests are held until `resume-io`.
    suspended: bool,
    /// What the handlers that run are for, by their numbers.
    handlers: BTreeMap<u64, peer::handlers::Called>,
    next_handler: u64,
    version: u64,
}

impl Resource {
    /// A resource with nothing attached and no connection. `seed` feeds the identifiers (from the
    /// system's random source), `wall_clock_ms` is the wall clock at `now`, in ms since 1970 (display
    /// only).
    #[must_use]
    pub fn new(config: ResourceConfig, seed: u64, now: Time, wall_clock_ms: u64) -> Self {
        let numbers: Vec<VolumeNumber> = config.volumes.iter().map(|v| v.number).collect();
        let devices: BTreeMap<VolumeNumber, Device> =
            numbers.iter().map(|number| (*number, Device::new())).collect();
        let mut connections: Vec<Connection> =
            config.peers.iter().map(|peer| Connection::new(peer, &numbers)).collect();
        for connection in &mut connections {
            connection.since = now;
        }
        Self {
            prng: Prng::new(seed),
            now,
            started: now,
            wall_clock_ms,
            actions: VecDeque::new(),
            role: Role::Secondary,
            volume_numbers: devices.keys().copied().collect(),
            devices,
            connections,
            requests: Slab::default(),
            peer_writes: Slab::default(),
            tags: Slab::default(),
            look_at_disks: None,
            sessions: BTreeMap::new(),
            held: VecDeque::new(),
            window_waiting: VecDeque::new(),
            admitted: 0,
            next_socket: 2,
            next_lock: 0,
            orders: VecDeque::new(),
            running: None,
            order_step: 0,
            sampling: None,
            resizing: None,
            gap: Gap::None,
            draining: false,
            is_down: false,
            auto_promoted: None,
            handing_over: None,
            withheld: Vec::new(),
            handed_over: None,
            suspended: false,
            handlers: BTreeMap::new(),
            next_handler: 1,
            version: 1,
            config,
        }
    }

    /// One event. Drain `next_action` afterwards.
    pub fn handle(&mut self, now: Time, event: Event) {
        self.now = self.now.max(now);
        self.pump_space();
        match event {
            Event::SessionOpened { session, volume, client } => {
                self.session_opened(session, volume, client);
            }
            Event::SessionClosed { session, disconnect } => {
                self.session_closed(session, disconnect);
            }
            Event::Request { session, request, volume, op } => {
                self.client_request(session, request, volume, op);
            }
            Event::DiskDone { tag, result } => self.disk_done(tag, result),
            Event::Digested { tag, digest } => self.digested(tag, digest),
            Event::BlocksDigested { tag, digests } => self.blocks_digested(tag, digests),
            Event::MetaDone { tag, result } => self.meta_done(tag, result),
            Event::HoleFound { tag, length } => self.hole_found(tag, length),
            Event::DiskGrown { tag, result } => self.disk_grown(tag, result),
            Event::Connected { socket } => self.socket_connected(socket),
            Event::Accepted { peer, socket } => self.socket_accepted(peer, socket),
            Event::Packet { socket, packet, payload } => {
                self.packet_received(socket, packet, payload);
            }
            Event::Authenticated { socket } => self.authenticated(socket),
            Event::Received { socket } => self.bytes_received(socket),
            Event::SocketLost { socket, error } => self.socket_lost(socket, error),
            Event::Admin { id, command } => self.order(id, command),
            Event::ResyncDependency { volume, peer, paused } => {
                self.resync_dependency(volume, peer, paused);
            }
            Event::HandlerDone { number, outcome } => self.handler_done(number, outcome),
            Event::Timeout => {}
            Event::WallClock { ms } => (self.wall_clock_ms, self.started) = (ms, self.now),
            Event::ClockGap { gap_ms } => self.clock_gap(gap_ms),
        }
        self.settle();
    }

    /// Everything that may go on now goes on: the invariants that hold between events.
    fn settle(&mut self) {
        for _ in 0..64 {
            let before = self.standing();
            self.check_timers();
            self.pump_orders();
            self.pump_auto_demotion();
            self.pump_withheld();
            self.pump_differing();
            self.pump_handshakes();
            self.pump_leaves();
            self.admit_held();
            self.pump_windows();
            let mut next = self.volume_after(None);
            while let Some(volume) = next {
                self.pump_loss(volume);
                self.pump_log(volume);
                self.pump_flush(volume);
                self.pump_disk(volume);
                next = self.volume_after(Some(volume));
            }
            self.pump_fencing();
            self.pump_resync();
            if before == self.standing() {
                break;
            }
        }
    }

    /// Differs when a pass of [`Self::settle`] has moved something that another pass may build on.
    fn standing(&self) -> impl PartialEq + use<> {
        let order = self.running.as_ref().map(|order| (order.id, order.step, order.waiting));
        let waiting = (self.held.len(), self.admitted, self.orders.len());
        (self.actions.len(), self.version, waiting, order)
    }

    /// The next action of the last event, in order.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Grows whenever something that `status` shows (other than counters) has changed.
    #[must_use]
    pub fn state_version(&self) -> u64 {
        self.version
    }

    /// Whether a read or write of the volume may be served now, and its size: what NBD negotiation
    /// asks. `Err`: the sentence for the client (who is Primary, or why not).
    ///
    /// # Errors
    /// The volume is unknown, this node is not Primary, or the size is not known yet.
    pub fn export(&self, volume: VolumeNumber) -> Result<u64, String> {
        let name = &self.config.name;
        let Some(device) = self.devices.get(&volume) else {
            return Err(format!("{name} has no volume {volume}"));
        };
        if self.gap != Gap::None {
            return Err(format!("{name} was frozen and asks its peer before it serves again"));
        }
        if self.role != Role::Primary {
            let primary = self.connections.iter().find(|c| c.peer_role == Role::Primary);
            return Err(match primary {
                Some(peer) => format!("{name} is Secondary here; {} is Primary", peer.name),
                None => format!(
                    "{name} is Secondary here and no Primary is connected; tandemadm primary {name}"
                ),
            });
        }
        if self.is_being_demoted() || self.lets_nobody_in() {
            return Err(format!("{name} is being demoted: no client may enter"));
        }
        if device.size == 0 {
            return Err(format!("the size of {name}/{volume} is not known yet"));
        }
        Ok(device.size)
    }

    /// Whether the own disk alone answers reads of the volume, and would now: BLOCK_STATUS may look at its
    /// holes. While reads wait somebody else may be writing what is a hole here.
    #[must_use]
    pub fn reads_locally(&self, volume: VolumeNumber) -> bool {
        let device = self.devices.get(&volume);
        self.gate_is_open() && device.is_some_and(|d| d.writable() && d.disk == DiskState::UpToDate)
    }

    // ---- what every file of this room uses ----

    fn emit(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn release(&mut self, payload: Option<Payload>) {
        if let Some(payload) = payload {
            self.emit(Action::Release(payload));
        }
    }

    fn log(&mut self, level: LogLevel, text: String) {
        self.emit(Action::Log { level, text });
    }

    /// `r0/0: `
    fn of_volume(&self, volume: VolumeNumber) -> String {
        format!("{}/{volume}: ", self.config.name)
    }

    /// `r0 bob: `
    fn of_peer(&self, c: usize) -> String {
        format!("{} {}: ", self.config.name, self.connections[c].name)
    }

    /// `r0/0 bob: `
    fn of_both(&self, volume: VolumeNumber, c: usize) -> String {
        format!("{}/{volume} {}: ", self.config.name, self.connections[c].name)
    }

    fn changed(&mut self) {
        self.version += 1;
    }

    fn device(&mut self, volume: VolumeNumber) -> &mut Device {
        self.devices.get_mut(&volume).expect("volumes never leave a resource")
    }

    fn peer_device(&mut self, c: usize, volume: VolumeNumber) -> &mut peer::connection::PeerDevice {
        self.connections[c]
            .peer_devices
            .get_mut(&volume)
            .expect("every connection has every volume")
    }

    fn volumes(&self) -> Vec<VolumeNumber> {
        self.devices.keys().copied().collect()
    }

    /// The volumes one after the other, where a list would be allocated for each event.
    fn volume_after(&self, last: Option<VolumeNumber>) -> Option<VolumeNumber> {
        let next = last.map_or(0, |last| self.volume_numbers.partition_point(|n| *n <= last));
        self.volume_numbers.get(next).copied()
    }

    fn peers(&self) -> std::ops::Range<usize> {
        0..self.connections.len()
    }

    /// The session that `socket` names is still the one of the connection.
    fn is_current(&self, c: usize, socket: SocketId) -> bool {
        self.connections[c].active == Some(socket)
    }

    fn send(&mut self, c: usize, packet: crate::wire::Packet, payload: Option<Payload>) {
        if let Some(socket) = self.connections[c].active {
            self.emit(Action::Send { socket, packet, payload });
        }
    }

    fn set_disk(&mut self, volume: VolumeNumber, disk: DiskState) {
        let old = self.device(volume).disk;
        if old == disk {
            return;
        }
        if disk == DiskState::UpToDate {
            self.there_is_a_copy(volume);
            self.device(volume).note.clear();
        }
        self.device(volume).disk = disk;
        let text = format!("{}disk( {old} -> {disk} )", self.of_volume(volume));
        self.log(LogLevel::Info, text);
        self.changed();
    }

    fn set_replication(&mut self, c: usize, volume: VolumeNumber, to: ReplicationState) {
        let old = self.peer_device(c, volume).replication;
        if old == to {
            return;
        }
        self.peer_device(c, volume).replication = to;
        let text = format!("{}repl( {old} -> {to} )", self.of_both(volume, c));
        self.log(LogLevel::Info, text);
        self.changed();
    }

    fn set_peer_disk(&mut self, c: usize, volume: VolumeNumber, to: DiskState) {
        let old = self.peer_device(c, volume).peer_disk;
        if old == to {
            return;
        }
        let peer = self.peer_device(c, volume);
        peer.peer_disk = to;
        let lost = [DiskState::Failed, DiskState::Diskless, DiskState::DUnknown].contains(&to);
        peer.was_whole = to == DiskState::UpToDate || lost && peer.was_whole;
        if to == DiskState::UpToDate {
            self.there_is_a_copy(volume);
        } else if old == DiskState::UpToDate {
            self.a_copy_is_lost(volume);
        }
        let text = format!("{}pdsk( {old} -> {to} )", self.of_both(volume, c));
        self.log(LogLevel::Info, text);
        self.changed();
    }

    fn set_connection(&mut self, c: usize, to: ConnectionState, reason: Reason) {
        let connection = &mut self.connections[c];
        let old = connection.state;
        if old == to && connection.reason == reason {
            return;
        }
        connection.reason = reason;
        connection.state = to;
        self.changed();
        if to == ConnectionState::StandAlone {
            self.tentative_ended(c);
        }
        if old != to {
            self.connections[c].since = self.now;
            let text = format!("{}conn( {old} -> {to} )", self.of_peer(c));
            self.log(LogLevel::Info, text);
        }
    }

    fn set_role(&mut self, role: Role) {
        if self.role != role {
            let text = format!("{}: role( {} -> {role} )", self.config.name, self.role);
            self.role = role;
            self.auto_promoted = None;
            if role == Role::Primary {
                // Clients write from now on: an order to throw the own data away has lapsed.
                self.connections.iter_mut().for_each(|c| c.discard_my_data = false);
                // Nothing was answered since it is Primary.
                self.devices.values_mut().for_each(|device| device.cut_off = CutOff::No);
            }
            self.greet_anew();
            self.log(LogLevel::Info, text);
            self.changed();
        }
    }

    fn set_peer_role(&mut self, c: usize, role: Role) {
        let old = self.connections[c].peer_role;
        if old != role {
            self.connections[c].peer_role = role;
            if role != Role::Unknown {
                self.connections[c].last_role = role;
            }
            self.connections[c].was_primary |= role == Role::Primary;
            let text = format!("{}peer( {old} -> {role} )", self.of_peer(c));
            self.log(LogLevel::Info, text);
            self.changed();
        }
    }

    /// Tells every open session the own role and disk of a volume, also while it drains for a new handshake: what is
    /// written until then the peer must know to be on its disk alone.
    fn send_state(&mut self, volume: VolumeNumber) {
        for c in self.peers() {
            if self.connections[c].stage >= peer::connection::Stage::Opening
                || self.is_renegotiating(c)
            {
                self.send_state_to(c, volume);
            }
        }
    }

    /// The wall clock, seconds (display only).
    fn wall(&self) -> u64 {
        (self.wall_clock_ms + self.now.ms_since(self.started)) / 1000
    }
}
