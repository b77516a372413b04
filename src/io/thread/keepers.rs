//! Who has all that a device was answered (docs/PROTOCOL.md, 6): by that it knows the servers that it may go on with.
//!
//! Invariant: whoever is named has it on the disk, or in the caches of a system that has lost nothing since.

use nbd::constants::NOBODY;

use super::*;
use crate::meta::{DeviceFlags, LoadedMeta};
use crate::resource::{DeviceStatus, DiskState, PeerDeviceStatus, ReplicationState};

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
                && one.replication_state == ReplicationState::Established
        };
        let peers = status.connections.iter().filter(|one| one.peer_devices.iter().any(in_sync));
        let peers = peers.filter_map(|one| Some(self.peers.system(one.socket?)));
        let mut all: Vec<_> = own.into_iter().chain(peers).collect();
        // One whose name is not known could be any.
        if all.contains(&[0; 16]) {
            return Vec::new();
        }
        if own.is_some() {
            all.extend(self.former.get(&volume));
        }
        all
    }

    /// A disk is attached: what the system that has had it last had in its caches is on it, or may be gone.
    pub(super) fn keeps_with(
        &mut self,
        volume: VolumeNumber,
        meta: &LoadedMeta,
        left_by: [u8; 16],
    ) {
        let is_clean = meta.superblock.flags & DeviceFlags::CLEAN != 0 && !meta.written_behind;
        self.former.remove(&volume);
        if is_clean {
            if left_by != meta.superblock.boot_id {
                self.former.insert(volume, self.peers.system_of(left_by));
            }
            return;
        }
        let has_other = self.core.status(self.io.now).good_peer(volume).is_some();
        if !meta.same_boot && !has_other {
            self.peers.loses();
        }
    }

    /// What the clients of a volume have not flushed may be gone.
    pub(super) fn loses_cache(&mut self, volume: VolumeNumber) {
        self.clients.lose_cache(volume);
        self.former.remove(&volume);
        self.peers.loses();
    }
}
