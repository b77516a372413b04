//! The control thread's side of a data thread: orders in, snapshots out.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::eventfd::EventFd;
use tokio::sync::{broadcast, oneshot};

use crate::io::backing::OpenDisk;
use crate::io::client::HeldClient;
use crate::resource::{AdminResult, Command, NodeId, ResourceConfig, Status, VolumeNumber};

use super::handler::HandlerPlaces;
use super::peer::SocketBuffers;
use crate::secret::Secrets;

/// Orders that may wait for a data thread.
pub(super) const ORDERS_MAX: usize = 64;
/// Snapshots that a slow subscriber may be behind.
const SNAPSHOTS_MAX: usize = 64;

/// What a data thread is made with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The checked definition of the resource, for this node.
    pub config: ResourceConfig,
    /// Where this node listens, and the source of its attempts.
    pub local: SocketAddr,
    /// The peers' addresses.
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// Sizes of the sockets' buffers.
    pub buffers: SocketBuffers,
    /// What peers must prove; `None`: nothing.
    pub secrets: Option<Secrets>,
    /// Where every event and action is recorded.
    pub record: Option<PathBuf>,
    /// From the system's random source, for the identifiers.
    pub seed: u64,
    /// Where handlers find the daemon.
    pub places: HandlerPlaces,
    /// Where what outlives a boot is kept.
    pub state_dir: PathBuf,
}

/// A way to a peer: an address here and one there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerPath {
    /// The peer.
    pub peer: NodeId,
    /// Where this node listens for it, and the source of the attempts.
    pub local: SocketAddr,
    /// Where it is dialled, and the only source that connections are taken from.
    pub remote: SocketAddr,
}

/// What a client is told of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Bytes.
    pub size: u64,
    /// The runs of systems whose caches hold all that was answered; empty: that cannot be told.
    pub keepers: Vec<[u8; 16]>,
}

/// An order for a data thread. An answer that never comes (the sender is dropped) means that the
/// thread has ended.
#[derive(Debug)]
pub enum Order {
    /// An administrator's order, but `Command::Attach`.
    Admin {
        /// What.
        command: Command,
        /// The answer.
        reply: oneshot::Sender<AdminResult>,
    },
    /// Take this disk over, and go through Attaching with it.
    Attach {
        /// Of this volume.
        volume: VolumeNumber,
        /// Open and locked. It is closed if the answer is a refusal.
        disk: Box<OpenDisk>,
        /// The answer.
        reply: oneshot::Sender<AdminResult>,
    },
    /// A client whose negotiation is over; nothing of its transmission phase was read.
    Client {
        /// Its socket.
        fd: OwnedFd,
        /// What it opened.
        volume: VolumeNumber,
        /// What was agreed.
        parameters: nbd::SessionParameters,
        /// For people.
        description: String,
    },
    /// Begin no request of any client, and let those under way be answered.
    HoldClients {
        /// Nothing of any client is under way; or, when they were told to go on: who was not quiet,
        /// and why.
        reply: oneshot::Sender<Vec<String>>,
    },
    /// Clients that were held go on.
    ReleaseClients,
    /// Hand out the clients, who are held and quiet. None is left.
    TakeClients {
        /// They; a core that does not know them any more.
        reply: oneshot::Sender<Vec<HeldClient>>,
    },
    /// Clients that were handed out, by this daemon or the one before.
    ReturnClients(Vec<HeldClient>),
    /// May a client open the volume, and how large is it?
    Export {
        /// Of this volume.
        volume: VolumeNumber,
        /// Who wants to open it; `None`: it only asks.
        client: Option<String>,
        /// The token of its device, if it is one.
        device: Option<u64>,
        /// What it is like, or the sentence for the client.
        reply: oneshot::Sender<Result<Exported, String>>,
    },
    /// The ways to the peers are these from now on, tried in turn. An established connection goes
    /// on; what has not shown a handshake on a way that is gone is closed.
    Paths {
        /// All of them, those of one peer in their order.
        paths: Vec<PeerPath>,
        /// A listener on each own address is open, or which one could not be opened.
        reply: oneshot::Sender<std::io::Result<()>>,
    },
    /// Whether a resync waits for another one of this node.
    ResyncDependency {
        /// Of this volume.
        volume: VolumeNumber,
        /// With this peer.
        peer: NodeId,
        /// It waits.
        paused: bool,
    },
    /// What peers must prove is this from the next connection on.
    Secrets {
        /// `None`: nothing.
        secrets: Option<Secrets>,
        /// It is in force.
        reply: oneshot::Sender<()>,
    },
    /// A fresh snapshot, counters included.
    Statistics {
        /// The snapshot.
        reply: oneshot::Sender<Status>,
    },
    /// End: close every socket and disk. `Command::Down` comes before, for an end in order.
    Stop {
        /// Everything is closed.
        reply: oneshot::Sender<()>,
    },
}

/// Why an order was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Too many orders wait already: try again later.
    #[error("{ORDERS_MAX} orders wait for the resource already, try again later")]
    Full,
    /// The data thread has ended.
    #[error("the resource is down")]
    Stopped,
}

/// An order that was not taken.
#[derive(Debug)]
pub struct Untaken {
    /// Why.
    pub why: OrderError,
    /// As it was, with its reply.
    pub order: Box<Order>,
}

/// What both threads see.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) wake: EventFd,
    status: Mutex<Arc<Status>>,
    buffers_left: AtomicUsize,
    /// System calls of the ring so far.
    #[cfg(test)]
    pub(super) enters: std::sync::atomic::AtomicU64,
    /// Allocations of the data thread's turns so far.
    #[cfg(test)]
    pub(super) allocations: std::sync::atomic::AtomicU64,
    /// Disks are closed by who has this.
    #[cfg(test)]
    pub(super) may_close: Mutex<()>,
    updates: broadcast::Sender<Arc<Status>>,
}

impl Shared {
    pub(super) fn new(wake: EventFd, status: Status) -> Self {
        let (updates, _) = broadcast::channel(SNAPSHOTS_MAX);
        Self {
            wake,
            status: Mutex::new(Arc::new(status)),
            buffers_left: AtomicUsize::new(0),
            #[cfg(test)]
            enters: std::sync::atomic::AtomicU64::new(0),
            #[cfg(test)]
            allocations: std::sync::atomic::AtomicU64::new(0),
            #[cfg(test)]
            may_close: Mutex::new(()),
            updates,
        }
    }

    /// Makes a snapshot the latest one.
    pub(super) fn publish(&self, status: Status) {
        let status = Arc::new(status);
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&status);
        // Nobody may be subscribed.
        let _ = self.updates.send(status);
    }

    pub(super) fn latest(&self) -> Arc<Status> {
        Arc::clone(&self.status.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The thread has ended, and so many buffers were still held or used: 0 after an end in order.
    pub(super) fn ended_with(&self, buffers: usize) {
        self.buffers_left.store(buffers, Ordering::Release);
        if buffers > 0 {
            tracing::debug!(target: "tandem", "{buffers} buffers were in use at the end");
        }
    }

    /// What [`Shared::ended_with`] was told.
    #[cfg(test)]
    pub(super) fn buffers_left(&self) -> usize {
        self.buffers_left.load(Ordering::Acquire)
    }

    /// Wakes the data thread.
    pub(super) fn wake(&self) {
        // It fails only when 2^64 - 2 wakes wait, and then it is awake.
        let _ = self.wake.write(1);
    }
}

/// A data thread, as the control thread has it.
#[derive(Clone, Debug)]
pub struct Handle {
    orders: SyncSender<Order>,
    pub(super) shared: Arc<Shared>,
    /// Dropped after `orders`, as it is declared behind them.
    _gone: Gone,
}

/// Wakes the data thread: the last one who could give it orders may have gone, and then it ends.
#[derive(Clone, Debug)]
struct Gone(Arc<Shared>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.wake();
    }
}

impl Handle {
    pub(super) fn new(orders: SyncSender<Order>, shared: Arc<Shared>) -> Self {
        let gone = Gone(Arc::clone(&shared));
        Self { orders, shared, _gone: gone }
    }

    /// Gives an order. Does not block.
    ///
    /// # Errors
    /// Too many wait, or the thread has ended; the order, and with it its reply, is dropped.
    pub fn send(&self, order: Order) -> Result<(), OrderError> {
        self.offer(order).map_err(|untaken| untaken.why)
    }

    /// The same, for an order that is not to be lost.
    ///
    /// # Errors
    /// Too many wait, or the thread has ended: the order is given back.
    pub fn offer(&self, order: Order) -> Result<(), Untaken> {
        self.orders.try_send(order).map_err(|error| {
            let (why, order) = match error {
                TrySendError::Full(order) => (OrderError::Full, order),
                TrySendError::Disconnected(order) => (OrderError::Stopped, order),
            };
            Untaken { why, order: Box::new(order) }
        })?;
        self.shared.wake();
        Ok(())
    }

    /// The latest snapshot; its counters are of the moment when something else changed.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        self.shared.latest()
    }

    /// Every snapshot from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Status>> {
        self.shared.updates.subscribe()
    }
}
