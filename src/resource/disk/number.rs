//! The rollback number grows while a session goes on: an image of a disk is given away by the
//! number of what was written later.
//!
//! Invariants (docs/decisions/a-rollback-number-grows-only-before-a-peer.md):
//! - Within `RAISE_MS` of the first write since the number grew last, it grows; on both nodes, each
//!   for its own disk. A disk that nobody writes to keeps its number: its images are what it is.
//! - Only in an open session, and only beside a peer with a disk, which has compared its own with the number:
//!   beside one without, a disk that was set back would catch up with what that one's disk has seen of it.
//! - Only what is durable here is shown.

use crate::resource::peer::connection::Stage;
use crate::resource::{Resource, Then, Time, VolumeNumber};

/// How long writes may go on under one number, ms. A raise costs a superblock here and a block of
/// metadata at the peer.
const RAISE_MS: u64 = 10_000;

impl Resource {
    /// So many bytes go to the own disk.
    pub(crate) fn count_written(&mut self, volume: VolumeNumber, bytes: u64) {
        let open = self.connections.iter().any(|c| c.stage == Stage::Open);
        let at = self.now.after_ms(RAISE_MS);
        let device = self.device(volume);
        device.counters.written += bytes;
        if open {
            device.raise_at.get_or_insert(at);
        }
    }

    /// Raises the numbers that are due. A session that opens, opened anew, raises its own.
    pub(crate) fn pump_numbers(&mut self) {
        let opening = |stage| matches!(stage, Stage::Handshake | Stage::Opening);
        let open = self.connections.iter().any(|c| c.stage == Stage::Open)
            && !self.connections.iter().any(|c| opening(c.stage));
        let mut next = self.volume_after(None);
        while let Some(volume) = next {
            next = self.volume_after(Some(volume));
            let now = self.now;
            let device = self.device(volume);
            if device.raise_at.is_none_or(|at| at > now) {
                continue;
            }
            device.raise_at = None;
            let raise = open && device.writable() && self.any_replicates(volume);
            let device = self.device(volume);
            if let Some(backing) = device.backing.as_mut().filter(|b| raise && b.number_known) {
                backing.activity_log.number += 1;
                self.save_superblock(volume, Then::NumberRaised);
            }
        }
    }

    fn any_replicates(&self, volume: VolumeNumber) -> bool {
        let mut devices = self.connections.iter().filter_map(|c| c.peer_devices.get(&volume));
        devices.any(|peer| peer.replicates())
    }

    /// It is durable: every peer in a session is shown it.
    pub(crate) fn number_raised(&mut self, volume: VolumeNumber) {
        for c in self.peers() {
            if self.connections[c].stage == Stage::Open {
                self.send_number(c, volume);
            }
        }
    }

    /// When the next number is due.
    pub(crate) fn number_timeout(&self) -> Option<Time> {
        self.devices.values().filter_map(|device| device.raise_at).min()
    }
}
