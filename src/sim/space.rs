//! What may become of disks that run full, where nothing else goes wrong.
//!
//! Invariants:
//! - A disk that runs full is given two seconds before it is let go of.
//! - It is not let go of while writes wait for space on the other one: that would be the last copy
//!   which can take them.

use crate::resource::{DiskState, Status, Time, VolumeNumber};

use super::cluster::Cluster;
use super::faults::Fault;
use super::node::SimVolume;

/// How long a full disk is waited for at least, ms.
const GIVEN_MS: u64 = 2_000;
/// Writes that have waited so long on a node are known to the other one, ms.
const KNOWN_MS: u64 = 1_000;

/// What is known of a disk's lack of space since it was attached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Space {
    /// When the first write found none.
    pub first: Option<Time>,
    /// Since when writes wait for some.
    pub waits: Option<Time>,
}

impl Cluster {
    /// The plan has nothing but a lack of space, and clients that hang up.
    pub(super) fn only_space(&self) -> bool {
        self.options.plan.iter().all(|planned| {
            planned.fault.fills_a_disk() || matches!(planned.fault, Fault::HangUp { .. })
        })
    }

    /// A node's status has changed.
    pub(super) fn watch_space(&mut self, node: usize, old: &Status) {
        if !self.faults_on || !self.only_space() {
            return;
        }
        let now = self.now;
        let Some(new) = &self.nodes[node].status else { return };
        let device = |d: &crate::resource::DeviceStatus| (d.volume, d.disk_state, d.no_space);
        let after: Vec<_> = new.devices.iter().map(device).collect();
        for (volume, disk, waits) in after {
            let before = old.devices.iter().find(|d| d.volume == volume).map(|d| d.disk_state);
            let gone = before.is_some_and(|before| before > DiskState::Failed);
            if gone && disk == DiskState::Failed {
                self.let_go(node, volume);
            }
            let space = &mut self.volume_of(node, volume).space;
            space.waits = waits.then(|| space.waits.unwrap_or(now));
        }
    }

    fn volume_of(&mut self, node: usize, volume: VolumeNumber) -> &mut SimVolume {
        &mut self.nodes[node].volumes[usize::from(volume)]
    }

    fn let_go(&mut self, node: usize, volume: VolumeNumber) {
        let now = self.now;
        let name = self.nodes[node].name;
        let first = self.volume_of(node, volume).space.first;
        let waited = first.map_or(0, |first| now.ms_since(first));
        if waited < GIVEN_MS {
            return self.violate(format!("{name} lets go of a disk that was full for {waited} ms"));
        }
        let other = self.volume_of(1 - node, volume).space.waits;
        if let Some(ms) = other.map(|since| now.ms_since(since)).filter(|ms| *ms >= KNOWN_MS) {
            self.violate(format!(
                "{name} lets go of a full disk, and writes have waited for space on the other one \
                 for {ms} ms"
            ));
        }
    }
}
