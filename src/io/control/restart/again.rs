//! A node that was Primary before a restart is Primary again.
//!
//! Invariants:
//! - It is so by the rules of `primary`, and only where no peer was Primary meanwhile: none is seen as
//!   one, each disk that was attached has the current UUID that it had, and of a volume without one every
//!   peer's disk has that of what was read there.
//! - Peers that were connected are waited for, but not for long: without them the rules for a node
//!   that is alone hold.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::{self, error::TryRecvError};
use tokio::time::Instant;
use tracing::warn;

use super::leave::data;
use super::record::{Left, Was};
use crate::io::control::registry::{Entry, refusal};
use crate::resource::{
    Command, ConnectionState, DiskState, NodeId, Reason, Refusal, Role, Status, VolumeNumber,
};

/// Peers that were connected are waited for so long.
const PEERS_LIMIT: Duration = Duration::from_secs(5);
/// One whose host refuses has no daemon any more, unless it starts anew just now.
const REFUSED_LIMIT: Duration = Duration::from_secs(1);
/// A promotion that meets a handshake is tried again for so long.
const PROMOTION_LIMIT: Duration = Duration::from_secs(10);
/// And so often.
const AGAIN: Duration = Duration::from_millis(20);

/// Waits for the peers that were there, and promotes this node.
///
/// # Errors
/// It may not be Primary.
pub(super) async fn primary_again(entry: &Entry, left: &Left) -> Result<(), Refusal> {
    Watched { entry, left, snapshots: entry.thread.subscribe() }.primary_again().await
}

/// What the data thread has said since the resource came up.
struct Watched<'a> {
    entry: &'a Entry,
    left: &'a Left,
    snapshots: broadcast::Receiver<Arc<Status>>,
}

impl Watched<'_> {
    fn judge(&self, status: &Status) -> Result<(), Refusal> {
        judge(self.left, status)
    }

    /// All that was said until now.
    fn judge_all(&mut self) -> Result<(), Refusal> {
        judge_waiting(self.left, &mut self.snapshots)?;
        self.judge(&self.entry.status())
    }

    /// How long a peer that was connected, and is on its way, is waited for; `None`: there is none.
    fn waits(&self) -> Option<Duration> {
        let status = self.entry.status();
        let away =
            |state| !matches!(state, ConnectionState::Connected | ConnectionState::StandAlone);
        let was = |peer: NodeId| self.left.connected.contains(&peer);
        let peers = status.connections.iter();
        let peers = peers.filter(|one| was(one.peer_node_id) && away(one.connection_state));
        let limit = |reason| if reason == Reason::Refused { REFUSED_LIMIT } else { PEERS_LIMIT };
        peers.map(|one| limit(one.reason)).max()
    }

    async fn primary_again(mut self) -> Result<(), Refusal> {
        let begun = Instant::now();
        while let Some(limit) = self.waits() {
            self.judge_all()?;
            match tokio::time::timeout_at(begun + limit, self.snapshots.recv()).await {
                Ok(Ok(status)) => self.judge(&status)?,
                Ok(Err(_)) => {}
                Err(_) => {
                    let (name, s) = (&self.entry.config.name, limit.as_secs());
                    warn!(
                        resource = %name,
                        "{name}: a peer that was connected is not back in {s} s: Primary without it, if \
                         that may be"
                    );
                    break;
                }
            }
        }
        loop {
            self.judge_all()?;
            let command = match self.left.was {
                Was::AutoPromoted => Command::AutoPromote,
                Was::Primary | Was::Secondary => Command::Primary { force: None },
            };
            match self.entry.order(command).await {
                Ok(_) => {
                    // What came between the last look and the order.
                    let judged = self.judge_all();
                    if judged.is_err() {
                        let back = Command::Secondary { force: true, wait_ms: 0 };
                        // It has no client.
                        let _ = self.entry.order(back).await;
                    }
                    return judged;
                }
                Err(refusal) if refusal.code == -18 && begun.elapsed() < PROMOTION_LIMIT => {}
                Err(refusal) => return Err(refusal),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// All snapshots that wait. Of those that were too many the last ones are here still.
fn judge_waiting(
    left: &Left,
    snapshots: &mut broadcast::Receiver<Arc<Status>>,
) -> Result<(), Refusal> {
    loop {
        match snapshots.try_recv() {
            Ok(status) => judge(left, &status)?,
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(()),
        }
    }
}

/// Somebody else was Primary meanwhile, as far as is known: what clients had sent before may be older
/// than what was written there.
fn judge(left: &Left, status: &Status) -> Result<(), Refusal> {
    let name = left.name();
    if let Some(peer) = status.connections.iter().find(|one| one.peer_role == Role::Primary) {
        let hint = format!("{} was promoted meanwhile.", peer.name);
        return Err(refusal(-1, "Multiple primaries not allowed by config", hint));
    }
    // On its way up a disk has none; that of another volume may have one by now.
    let mut known =
        status.devices.iter().filter(|device| device.disk_state > DiskState::Negotiating);
    let other = known.find(|device| {
        let was = left.attached.get(&device.volume);
        was.is_some_and(|was| *was != data(device))
    });
    let written = |volume: VolumeNumber| {
        let hint = format!("{name}/{volume} was written to on a peer meanwhile.");
        Err(refusal(-2, "Need access to UpToDate data", hint))
    };
    let peers = || status.connections.iter().flat_map(|one| &one.last_handshake);
    let written_elsewhere = left.exposed.iter().find(|(volume, was)| {
        // One that is not whole is nobody's to read; one that is Consistent may become UpToDate.
        let copies =
            peers().filter(|met| met.volume == **volume && met.peer.disk >= DiskState::Consistent);
        copies.map(|met| met.peer.current_uuid & !1).any(|uuid| uuid != **was)
    });
    if let Some((volume, _)) = written_elsewhere {
        return written(*volume);
    }
    match other {
        None => Ok(()),
        Some(device) => written(device.volume),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures;
    use crate::io::control::restart::record::tests::left;

    #[test]
    fn who_was_gone_before_is_not_primary_again() {
        let mut status = fixtures::healthy().status;
        let mut left = left("r0", Was::Primary);
        left.attached = [(0, status.devices[0].current_uuid & !1)].into();
        assert_eq!(judge(&left, &status), Ok(()));
        // Only the mark of a Primary.
        status.devices[0].current_uuid |= 1;
        assert_eq!(judge(&left, &status), Ok(()));
        let mut there = status.clone();
        there.connections[0].peer_role = Role::Primary;
        assert_eq!(judge(&left, &there).unwrap_err().code, -1);
        // It was, wrote alone, and has handed back since: the data here is as new as there.
        status.devices[0].current_uuid ^= 0x100;
        assert_eq!(judge(&left, &status).unwrap_err().code, -2);
        // Nothing is known of a disk that is on its way.
        status.devices[0].disk_state = DiskState::Attaching;
        assert_eq!(judge(&left, &status), Ok(()));
        status.devices[0].disk_state = DiskState::UpToDate;
        left.attached.clear();
        assert_eq!(judge(&left, &status), Ok(()));
    }

    #[test]
    fn a_volume_on_its_way_up_does_not_hide_another_that_was_written_to() {
        let mut status = fixtures::healthy().status;
        let mut second = status.devices[0].clone();
        second.volume = 1;
        status.devices.push(second);
        let mut left = left("r0", Was::Primary);
        left.attached =
            status.devices.iter().map(|one| (one.volume, one.current_uuid & !1)).collect();
        (status.devices[0].disk_state, status.devices[0].current_uuid) = (DiskState::Attaching, 0);
        assert_eq!(judge(&left, &status), Ok(()));
        status.devices[1].current_uuid ^= 0x100;
        let refused = judge(&left, &status).unwrap_err();
        assert_eq!(refused.code, -2);
        assert!(refused.hint.contains("r0/1"), "{}", refused.hint);
    }

    #[test]
    fn who_was_seen_as_primary_is_seen_behind_more_snapshots_than_are_kept() {
        let fine = Arc::new(fixtures::healthy().status);
        let mut there = (*fine).clone();
        there.connections[0].peer_role = Role::Primary;
        let mut left = left("r0", Was::Primary);
        left.attached.clear();
        let (tell, mut snapshots) = broadcast::channel(4);
        for status in [&fine, &fine, &fine, &Arc::new(there), &fine] {
            tell.send(status.clone()).unwrap();
        }
        assert_eq!(judge_waiting(&left, &mut snapshots).unwrap_err().code, -1);
        assert_eq!(judge_waiting(&left, &mut snapshots), Ok(()));
    }

    #[test]
    fn what_a_node_without_a_disk_has_read_is_what_its_peers_have_still() {
        let mut status = fixtures::healthy().status;
        status.devices[0].disk_state = DiskState::Diskless;
        let mut met = fixtures::handshake();
        (met.volume, met.peer.disk, met.peer.current_uuid) = (0, DiskState::UpToDate, 0x1235);
        status.connections[0].last_handshake = vec![met];
        let mut left = left("r0", Was::Primary);
        left.attached.clear();
        left.exposed = [(0, 0x1234)].into();
        assert_eq!(judge(&left, &status), Ok(()), "only the mark of a Primary");
        // Somebody was promoted there, wrote, and has gone.
        status.connections[0].last_handshake[0].peer.current_uuid = 0x5555;
        assert_eq!(judge(&left, &status).unwrap_err().code, -2);
        // A copy that is not whole is nobody's to read.
        status.connections[0].last_handshake[0].peer.disk = DiskState::Inconsistent;
        assert_eq!(judge(&left, &status), Ok(()));
    }
}
