//! Orders that the peer carries out: a resync to its disk. They are answered when it has begun, so that
//! a `wait-sync` after them waits for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::registry::{Entry, refusal};
use crate::resource::{Command, ConnectionState, DiskState, NodeId, Refusal, Status, VolumeNumber};

/// How long the peer may take. It takes no such order while it carries another one out.
const LIMIT: Duration = Duration::from_secs(10);

/// What the peer is asked for, and every snapshot since then.
pub(super) struct AsksPeer {
    volume: VolumeNumber,
    peer: NodeId,
    /// Only what is out of sync is copied: it is over when nothing is.
    repairs: bool,
    snapshots: Receiver<Arc<Status>>,
}

impl AsksPeer {
    /// `None`: the order is another one. Call it before the order is given.
    pub(super) fn of(entry: &Entry, command: &Command) -> Option<Self> {
        let (volume, peer, repairs) = match *command {
            Command::InvalidateRemote { volume, peer } => (volume, peer, false),
            Command::Repair { volume, peer, from } if from != peer => (volume, peer, true),
            _ => return None,
        };
        Some(Self { volume, peer, repairs, snapshots: entry.thread.subscribe() })
    }

    /// Waits until the resync has begun, or the connection has ended: then it begins with the next.
    ///
    /// # Errors
    /// The peer does not begin.
    pub(super) async fn begun(mut self, entry: &Entry) -> Result<(), Refusal> {
        if self.is_begun(&entry.status()) {
            return Ok(());
        }
        let waits = async {
            loop {
                match self.snapshots.recv().await {
                    Ok(status) if self.is_begun(&status) => return,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) if self.is_begun(&entry.status()) => return,
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        };
        tokio::time::timeout(LIMIT, waits).await.map_err(|_| {
            let hint = "the peer does not begin: an order may run there; again when it has ended.";
            refusal(-18, "In transient state, retry after next state change", hint)
        })
    }

    fn is_begun(&self, status: &Status) -> bool {
        let one = status.connections.iter().find(|one| one.peer_node_id == self.peer);
        let Some(one) = one.filter(|one| one.connection_state == ConnectionState::Connected) else {
            return true;
        };
        one.peer_devices.iter().find(|peer| peer.volume == self.volume).is_none_or(|peer| {
            let usual = peer.replication_state.mirrors();
            let over = self.repairs && peer.out_of_sync == 0;
            !usual || peer.peer_disk_state != DiskState::UpToDate || over
        })
    }
}
