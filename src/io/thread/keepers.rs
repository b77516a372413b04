//! Who has all that a device was answered (docs/PROTOCOL.md, 6): by that it knows the servers that it may go on with.
//!
//! Invariant: whoever is named has it on the disk, or in the caches of a system that has lost nothing since.

use nbd::constants::NOBODY;

use super::*;
use crate::meta::DeviceFlags;
use crate::resource::{DeviceStatus, DiskState, PeerDeviceStatus};

/// Names that a system had before, of a volume.
const NAMES_MAX: usize = 8;

impl<C: Core> Shell<C> {
    /// For an export that is asked for: by this device, if one asks.
    pub(super) fn keepers_for(&self, volume: VolumeNumber, device: Option<u64>) -> Vec<[u8; 16]> {
        match device.filter(|token| self.clients.has_lost(volume, *token)) {
            Some(_) => vec![NOBODY],
            None => self.keepers(volume),
        }
    }

    /// The runs of systems that have all that was answered, on their disks or in their caches: this one
    /// and its peers, where the disk is UpToDate. Empty: that cannot be told.
    fn keepers(&self, volume: VolumeNumber) -> Vec<[u8; 16]> {
        let status = self.core.status(self.io.now);
        let is_good =
            |one: &&DeviceStatus| one.volume == volume && one.disk_state == DiskState::UpToDate;
        let own = status.devices.iter().find(is_good).map(|_| self.peers.own_system());
        let in_sync = |one: &PeerDeviceStatus| {
            one.volume == volume
                && one.peer_disk_state == DiskState::UpToDate
                && one.replication_state.mirrors()
        };
        let peers = status.connections.iter().filter(|one| one.peer_devices.iter().any(in_sync));
        let peers = peers.filter_map(|one| Some(self.peers.system(one.socket?)));
        let mut all: Vec<_> = own.into_iter().chain(peers).collect();
        // One whose name is not known could be any.
        if all.contains(&[0; 16]) {
            return Vec::new();
        }
        if own.is_some() {
            all.extend(self.former.get(&volume).into_iter().flatten());
        }
        all
    }

    /// A disk is attached: what the system that has had it last had in its caches is on it, or may be gone.
    pub(super) fn keeps_with(&mut self, volume: VolumeNumber, left: Left) {
        let has_other = self.core.status(self.io.now).good_peer(volume).is_some();
        match left {
            Left::Clean { by } => {
                let name = self.peers.system_of(by);
                self.is_also(volume, name);
            }
            Left::Cached => {}
            Left::Unclean if has_other => drop(self.former.remove(&volume)),
            Left::Unclean => self.loses_all(volume),
        }
    }

    /// What the clients of a volume have not flushed may be gone.
    pub(super) fn loses_cache(&mut self, volume: VolumeNumber) {
        self.clients.lose_cache(volume);
        self.loses_all(volume);
    }

    /// The system has another name from now on, and for the other volumes also the one that it had.
    fn loses_all(&mut self, volume: VolumeNumber) {
        let name = self.peers.own_system();
        self.peers.loses();
        self.former.remove(&volume);
        let status = self.core.status(self.io.now);
        for device in status.devices.iter().filter(|device| device.volume != volume) {
            self.is_also(device.volume, name);
        }
    }

    /// The system had all that is on the volume under this name, too.
    fn is_also(&mut self, volume: VolumeNumber, name: [u8; 16]) {
        let names = self.former.entry(volume).or_default();
        if name == self.peers.own_system() || names.contains(&name) {
            return;
        }
        if names.len() >= NAMES_MAX {
            names.remove(0);
        }
        names.push(name);
    }
}

/// How a disk was left, by the system that has had it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// All is on it.
    Clean {
        /// Which boot's.
        by: [u8; 16],
    },
    /// All is on it or in this system's caches.
    Cached,
    /// Something may be gone.
    Unclean,
}

impl Left {
    pub(super) fn of(disk: &OpenDisk) -> Self {
        let meta = &disk.attached.meta;
        let is_clean = meta.superblock.flags & DeviceFlags::CLEAN != 0 && !meta.written_behind;
        match (is_clean, meta.same_boot) {
            (true, _) => Self::Clean { by: disk.left_by },
            (false, true) => Self::Cached,
            (false, false) => Self::Unclean,
        }
    }
}
