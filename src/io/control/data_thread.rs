//! The control thread's view of a resource's data thread, and how one is made.
//!
//! Behind a trait, so that the daemon can be tested without rings and disks.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::broadcast;

use super::devices::Hands;
use crate::config::MetaDisk;
use crate::io::backing::{self, Identity, OpenDisk, OpenError, OpenOptions};
use crate::io::{Handle, Order, OrderError, Setup, Untaken};
use crate::resource::{NodeId, Refusal, Status, VolumeNumber};

/// A running data thread.
pub(crate) trait DataThread {
    /// Puts an order into the thread's queue.
    ///
    /// # Errors
    /// Too many wait, or the thread has ended.
    fn send(&self, order: Order) -> Result<(), OrderError> {
        self.offer(order).map_err(|untaken| untaken.why)
    }
    /// The same, for an order that is not to be lost.
    ///
    /// # Errors
    /// Too many wait, or the thread has ended: the order is given back.
    fn offer(&self, order: Order) -> Result<(), Untaken>;
    /// The newest snapshot. Its counters are as old as it is.
    fn status(&self) -> Arc<Status>;
    /// Every later snapshot.
    fn subscribe(&self) -> broadcast::Receiver<Arc<Status>>;
}

impl DataThread for Handle {
    fn offer(&self, order: Order) -> Result<(), Untaken> {
        Self::offer(self, order)
    }

    fn status(&self) -> Arc<Status> {
        Self::status(self)
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Status>> {
        Self::subscribe(self)
    }
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
    /// The backing disk.
    pub(crate) disk: String,
    /// Its metadata.
    pub(crate) meta_disk: MetaDisk,
    /// What is known of disks from earlier.
    pub(crate) state_dir: PathBuf,
    /// What is known of disks from this boot.
    pub(crate) run_dir: PathBuf,
}

impl DiskRequest {
    pub(super) fn identity(&self) -> Identity {
        Identity { resource: self.resource.clone(), node_id: self.node_id, volume: self.volume }
    }
}

type Spawn = dyn Fn(Setup) -> io::Result<Rc<dyn DataThread>>;

/// How data threads are made, and who has devices.
pub(crate) struct Shell {
    /// Starts a data thread.
    pub(crate) spawn: Box<Spawn>,
    /// For `device-attach auto`.
    pub(super) hands: Arc<dyn Hands>,
}

impl Shell {
    /// Real threads, and the kernel's devices.
    pub(crate) fn real() -> Self {
        let spawn = |setup| Ok(Rc::new(crate::io::spawn(setup)?) as Rc<dyn DataThread>);
        Self { spawn: Box::new(spawn), hands: Arc::new(super::devices::Kernel) }
    }
}

/// Opens, locks and reads a disk; one that is taken is tried for 5 s. Blocks.
///
/// # Errors
/// DRBD's number, and what to do.
pub(crate) fn open_disk(request: &DiskRequest) -> Result<Box<OpenDisk>, Refusal> {
    let boot_id = backing::host_boot_id().map_err(|error| Refusal {
        code: 104,
        text: "Can not open backing device.".to_owned(),
        hint: format!("the boot id cannot be read: {error}."),
    })?;
    let identity = request.identity();
    let meta_disk = super::adm::metadata::meta_disk(&request.meta_disk);
    let folder = |folder: &PathBuf| Some(folder.clone());
    let (state_dir, run_dir) = (folder(&request.state_dir), folder(&request.run_dir));
    let options = OpenOptions { state_dir, run_dir, ..OpenOptions::default() };
    let path = std::path::Path::new(&request.disk);
    let opened = backing::open_disk(path, &meta_disk, &identity, boot_id, &options);
    opened.map(Box::new).map_err(|error| error.refusal_of(&request.state_dir, &identity))
}

/// What is known of a disk that was only looked at.
pub(crate) struct Seen {
    /// Bytes of its data area, when it is attached.
    pub(crate) room: u64,
    /// Bytes of the data that it held when it was attached last; 0: it was never.
    pub(crate) held: u64,
    /// Somebody has it: the volume itself under another name, or somebody else.
    pub(crate) is_held: bool,
}

/// Looks at a disk without taking it. Blocks.
///
/// # Errors
/// It cannot be read, or has no metadata of this volume.
pub(crate) fn inspect_disk(request: &DiskRequest) -> Result<Seen, Refusal> {
    let meta_disk = super::adm::metadata::meta_disk(&request.meta_disk);
    let path = std::path::Path::new(&request.disk);
    let expected = request.identity();
    let known = Some((request.state_dir.as_path(), &expected));
    let found = backing::inspect(path, &meta_disk, known)
        .map_err(|error| error.refusal_of(&request.state_dir, &expected))?;
    let superblock = &found.meta.superblock;
    let owner = Identity {
        resource: superblock.resource.clone(),
        node_id: superblock.node_id,
        volume: superblock.volume,
    };
    if owner != expected {
        let error = OpenError::Foreign { path: path.to_owned(), found: owner, expected };
        return Err(error.refusal());
    }
    Ok(Seen { room: found.room, held: superblock.effective_size, is_held: found.stale })
}
