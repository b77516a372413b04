//! One resource that is up: what the registry knows of it, and what its data thread is asked.
//!
//! Invariants:
//! - What it runs with, and whom it does not dial, is on the disk before anybody is told of a change.
//! - Nobody waits for ever for an answer of the data thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::data_thread::DataThread;
use super::registry::{ended, refusal};
use super::remembered::Remembered;
use crate::config::{Definition, HostVolume};
use crate::io::{Order, OrderError, Untaken};
use crate::resource::{
    AdminResult, Command, ConnectionState, ConnectionStatus, DeviceStatus, DiskState, NodeId,
    Reason, Refusal, ResourceConfig, Status, VolumeNumber,
};

/// An order that the state machine does not answer in this time has been lost.
pub(super) const ORDER_LIMIT: Duration = Duration::from_secs(120);

/// How long an order that is not to be lost waits for room.
const ROOM_LIMIT: Duration = Duration::from_secs(10);
/// Between two tries of an order that finds no room.
const AGAIN: Duration = Duration::from_millis(20);

/// A resource that is up.
pub(crate) struct Entry {
    /// What it was made from.
    pub(crate) config: ResourceConfig,
    pub(super) thread: Rc<dyn DataThread>,
    /// What it runs with: as it was made, and as it was changed since. [`Entry::change`] changes it.
    pub(super) running: RefCell<Definition>,
    /// Why a volume's disk could not be attached last, for `why`.
    pub(super) attach_failed: RefCell<BTreeMap<VolumeNumber, String>>,
    /// What became of the devices (`device-attach auto`).
    pub(super) devices: super::devices::Devices,
    pub(super) past: super::past::Memory,
    /// The files in use.
    pub(super) disks: super::path_differs::Disks,
    /// Peers that are not dialled, by order: also after a crash.
    pub(super) apart: RefCell<BTreeSet<NodeId>>,
    /// How often it was brought up after a crash, since an `up` by order or since it was known to run well.
    pub(super) tries: Cell<u32>,
    /// It goes down, or has gone.
    pub(super) ends: Cell<bool>,
    /// Where what it runs with is kept for the time after a crash.
    pub(super) remembered: Remembered,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Entry {
    /// What it runs with becomes another, also for the time after a crash.
    pub(super) fn change(&self, how: impl FnOnce(&mut Definition)) {
        let mut running = self.running.borrow_mut();
        how(&mut running);
        self.remembered.keep(&running, &self.apart.borrow(), self.tries.get());
    }

    /// It was brought up so often after a crash, and no oftener.
    pub(super) fn tries_are(&self, tries: u32) {
        if tries < self.tries.get() {
            self.tries.set(tries);
            self.change(|_| {});
        }
    }

    /// The same of a volume as it is here.
    pub(super) fn change_volume(&self, volume: VolumeNumber, how: impl FnOnce(&mut HostVolume)) {
        let id = self.config.node_id;
        self.change(|running| {
            let own = running.hosts.iter_mut().find(|host| host.node_id == id);
            own.and_then(|own| own.volumes.get_mut(&volume)).map(how);
        });
    }

    /// Which peers are not dialled, by order, is kept for the time after a crash.
    pub(super) fn keep_apart(&self, status: &Status) {
        if status.failed.is_some() {
            // Its last word says nothing of what was ordered.
            return;
        }
        let mut apart = self.apart.borrow_mut();
        let stays = |peer: &&ConnectionStatus| match peer.reason {
            _ if peer.connection_state != ConnectionState::StandAlone => false,
            Reason::StoppedByAdmin => peer.back_in_ms.is_none(),
            // On its way up.
            Reason::NeverConnected => apart.contains(&peer.peer_node_id),
            _ => false,
        };
        let now = status.connections.iter().filter(stays).map(|peer| peer.peer_node_id).collect();
        // What goes down leaves its peers, too, and its file is gone for good.
        if *apart != now && !self.ends.get() {
            *apart = now;
            self.remembered.keep(&self.running.borrow(), &apart, self.tries.get());
        }
    }

    /// A volume that was resized beyond its `size`, by an order here or at the peer, runs with what it has.
    pub(super) fn keep_sizes(&self, status: &Status) {
        // Without a disk it is what the peer says.
        let has_disk = |device: &&DeviceStatus| device.disk_state > DiskState::Negotiating;
        for device in status.devices.iter().filter(has_disk) {
            let size = self.volume(device.volume).and_then(|own| own.size);
            if size.is_some_and(|size| size < device.size) && !self.ends.get() {
                self.change_volume(device.volume, |own| own.size = Some(device.size));
            }
        }
    }

    /// The newest snapshot.
    pub(crate) fn status(&self) -> Arc<Status> {
        self.thread.status()
    }

    /// Hands clients to the data thread, also where it has no room for the order just now.
    ///
    /// # Errors
    /// It had none for a while, or has ended: the order is dropped, and its clients are closed.
    pub(crate) async fn hand_over(&self, order: Order) -> Result<(), OrderError> {
        let put = tokio::time::timeout(ROOM_LIMIT, self.put(order));
        put.await.unwrap_or(Err(OrderError::Full))
    }

    /// Puts an order into the queue of the data thread when there is room.
    async fn put(&self, mut order: Order) -> Result<(), OrderError> {
        loop {
            match self.thread.offer(order) {
                Err(Untaken { why: OrderError::Full, order: same }) => order = *same,
                taken => return taken.map_err(|untaken| untaken.why),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Its data thread ends. Does not give up: a thread that was never told keeps its port and its disks.
    pub(super) async fn stop(&self) {
        let (reply, ended) = oneshot::channel();
        // Not taken: it has ended already.
        if self.put(Order::Stop { reply }).await.is_ok() {
            let _ = ended.await;
        }
    }

    /// Asks the data thread.
    pub(crate) async fn ask<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.thread.send(order(reply)).map_err(|error| self.not_taken(error))?;
        answer.await.map_err(|_| ended(&self.config.name))
    }

    fn not_taken(&self, error: OrderError) -> Refusal {
        match error {
            OrderError::Stopped => ended(&self.config.name),
            OrderError::Full => {
                let text = "In transient state, retry after next state change";
                refusal(-18, text, error.to_string())
            }
        }
    }

    /// An order for the state machine.
    pub(crate) async fn order(&self, command: Command) -> AdminResult {
        let limit = match command {
            Command::Secondary { wait_ms, .. } => ORDER_LIMIT + Duration::from_millis(wait_ms),
            // fence-peer may run first.
            Command::Primary { .. } | Command::AutoPromote => {
                let handler_ms = self.running.borrow().options.handler_timeout_ms;
                ORDER_LIMIT + Duration::from_millis(handler_ms)
            }
            _ => ORDER_LIMIT,
        };
        let answer = self.ask(|reply| Order::Admin { command, reply });
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer?,
            Err(_) => Err(self.not_answered()),
        }
    }

    /// An order has been lost.
    pub(super) fn not_answered(&self) -> Refusal {
        let hint = format!("`tandemadm why {}`, and tandemd's log.", self.config.name);
        refusal(-23, "Timeout in operation", hint)
    }

    pub(super) fn disk_state(&self, volume: VolumeNumber) -> DiskState {
        let status = self.thread.status();
        let device = status.devices.iter().find(|device| device.volume == volume);
        device.map_or(DiskState::Diskless, |device| device.disk_state)
    }

    /// A handshake was refused, and that needs a person.
    pub(super) fn is_refused(&self, peer: NodeId) -> bool {
        let status = self.thread.status();
        let one = status.connections.iter().find(|one| one.peer_node_id == peer);
        one.is_some_and(|one| {
            one.connection_state == ConnectionState::StandAlone && one.reason.is_refusal()
        })
    }

    pub(super) fn connection_state(&self, peer: NodeId) -> ConnectionState {
        let status = self.thread.status();
        let one = status.connections.iter().find(|one| one.peer_node_id == peer);
        one.map_or(ConnectionState::StandAlone, |one| one.connection_state)
    }
}
