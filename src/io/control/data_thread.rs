//! The control thread's view of a resource's data thread, and how one is made.
//!
//! Behind a trait, so that the daemon can be tested without rings and disks.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{broadcast, oneshot};

use crate::resource::{AdminResult, Command, NodeId, Refusal, ResourceConfig, Status, VolumeNumber};

pub(crate) struct OpenDisk;
pub(crate) struct Setup {
    pub(crate) config: ResourceConfig,
    pub(crate) local: SocketAddr,
    pub(crate) peers: Vec<(NodeId, SocketAddr)>,
    pub(crate) record: Option<PathBuf>,
    pub(crate) seed: u64,
}
pub(crate) enum Order {
    Admin { command: Command, reply: oneshot::Sender<AdminResult> },
    Attach { volume: VolumeNumber, disk: Box<OpenDisk>, reply: oneshot::Sender<AdminResult> },
    Client { fd: OwnedFd, volume: VolumeNumber, parameters: nbd::SessionParameters, description: String },
    Export { volume: VolumeNumber, reply: oneshot::Sender<Result<u64, String>> },
    Statistics { reply: oneshot::Sender<Status> },
    Stop { reply: oneshot::Sender<()> },
}

/// The data thread has ended: it was stopped, or it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended;

/// A running data thread.
pub(crate) trait DataThread {
    /// Puts an order into the thread's queue.
    fn send(&self, order: Order) -> Result<(), Ended>;
    /// The newest snapshot. Its counters are as old as it is.
    fn status(&self) -> Arc<Status>;
    /// Every later snapshot.
    fn subscribe(&self) -> broadcast::Receiver<Arc<Status>>;
}

/// What is to be opened as a backing disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskRequest {
    /// The resource.
    pub(crate) resource: String,
    /// The volume.
    pub(crate) volume: VolumeNumber,
    /// This node.
    pub(crate) node_id: NodeId,
    /// The peers, for the slots of the metadata.
    pub(crate) peers: Vec<NodeId>,
    /// The backing disk.
    pub(crate) disk: String,
    /// The metadata, `None`: internal.
    pub(crate) meta_disk: Option<String>,
    /// What is known of disks from earlier.
    pub(crate) state_dir: PathBuf,
}

type Spawn = dyn Fn(Setup) -> io::Result<Rc<dyn DataThread>>;
type Open = dyn Fn(DiskRequest) -> Result<Box<OpenDisk>, Refusal> + Send + Sync;

/// How data threads are made and disks are opened.
pub(crate) struct Shell {
    /// Starts a data thread.
    pub(crate) spawn: Box<Spawn>,
    /// Opens, locks and reads a disk. Blocks; called on a thread of its own.
    pub(crate) open: Arc<Open>,
}

impl Shell { pub(crate) fn real() -> Self { Self { spawn: Box::new(|_| Err(io::ErrorKind::Other.into())), open: Arc::new(|_| Ok(Box::new(OpenDisk))) } } }
