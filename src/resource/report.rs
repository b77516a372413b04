//! A snapshot of the resource for people and programs.

use super::peer::connection::Stage;
use super::{
    ConnectionStatus, DeviceStatus, PeerDeviceStatus, Resource, ResyncSuspended, Role, Status,
    Time, VolumeNumber,
};
use crate::meta::{JUST_CREATED, Superblock};

impl Resource {
    /// A snapshot.
    #[must_use]
    pub fn status(&self, now: Time) -> Status {
        Status {
            name: self.config.name.clone(),
            node_id: self.config.node_id,
            node_name: self.config.node_name.clone(),
            role: self.role,
            auto_promoted: self.role == Role::Primary && self.auto_promoted.is_some(),
            suspended_user: self.suspended,
            suspended_fencing: self.io_frozen(),
            suspended_no_space: self.volume_numbers.iter().any(|v| self.space_is_short(*v)),
            suspended_gap: self.gap != super::Gap::None,
            suspended_handshake: self
                .connections
                .iter()
                .any(|c| !matches!(c.stage, Stage::Down | Stage::Waiting | Stage::Open)),
            order: self.order_status(now),
            failed: None,
            devices: self.devices.keys().map(|volume| self.device_status(*volume, now)).collect(),
            connections: self.peers().map(|c| self.connection_status(c, now)).collect(),
        }
    }

    /// When this node began the current generation, 0 where another node did.
    pub(super) fn generation_time(&self, superblock: &Superblock) -> u64 {
        let own = superblock.generation_node == self.config.node_id;
        let real = superblock.current_uuid & !1 != JUST_CREATED;
        if own && real { superblock.generation_time } else { 0 }
    }

    fn device_status(&self, volume: VolumeNumber, now: Time) -> DeviceStatus {
        let device = &self.devices[&volume];
        let config = self.config.volumes.iter().find(|config| config.number == volume);
        let superblock = device.backing.as_ref().map(|backing| &backing.superblock);
        let waiting = self.requests.iter().filter(|(_, r)| r.volume == volume).count();
        let options = self.config.disk_options(volume);
        DeviceStatus {
            volume,
            minor: config.map_or(0, |config| config.minor),
            backing_disk: config.map_or_else(|| "none".to_owned(), |config| config.disk.clone()),
            disk_state: device.disk,
            clients: self.client_statuses(volume),
            size: device.size,
            read: device.counters.read,
            written: device.counters.written,
            al_writes: device.backing.as_ref().map_or(0, |b| b.activity_log.updates),
            bm_writes: device.counters.bm_writes,
            upper_pending: waiting as u64,
            lower_pending: device.backing.as_ref().map_or(0, |b| u64::from(b.outstanding)),
            current_uuid: superblock.map_or(device.exposed_uuid, |s| s.current_uuid),
            history: superblock
                .map(|s| s.history.iter().copied().filter(|uuid| *uuid != 0).collect())
                .unwrap_or_default(),
            flags: superblock.map_or(0, |s| s.flags),
            no_space: !device.starved.is_empty(),
            no_disk_flushes: !options.disk_flushes,
            no_md_flushes: !options.md_flushes,
            hung_ms: device.hung_since.map(|since| now.ms_since(since)),
            disk_note: device.note.clone(),
            generation_time: superblock.map_or(0, |s| self.generation_time(s)),
            alone_time: device.alone_time,
            metrics: device.counters.metrics,
        }
    }

    fn connection_status(&self, c: usize, now: Time) -> ConnectionStatus {
        let connection = &self.connections[c];
        let volumes = connection.peer_devices.keys();
        ConnectionStatus {
            peer_node_id: connection.peer,
            name: connection.name.clone(),
            connection_state: connection.state,
            socket: connection.active,
            remote: String::new(),
            reason: connection.reason,
            peer_role: connection.peer_role,
            fencing: self.fencing_status(c, now),
            discard_my_data_pending: connection.discard_my_data,
            back_in_ms: connection.back_at.map(|at| at.ms_since(now)),
            ap_in_flight: connection.in_flight,
            rs_in_flight: connection
                .peer_devices
                .values()
                .filter_map(|peer| peer.target.as_ref())
                .map(|target| target.in_flight)
                .sum(),
            congested: !self.window_waiting.is_empty(),
            since_ms: now.ms_since(connection.since),
            attempts: connection.attempts,
            sessions: connection.sessions,
            detail: connection.detail.clone(),
            last_peer_role: connection.last_role,
            last_handshake: connection.last_handshake.clone(),
            peer_devices: volumes.map(|volume| self.peer_device_status(c, *volume)).collect(),
        }
    }

    fn peer_device_status(&self, c: usize, volume: VolumeNumber) -> PeerDeviceStatus {
        let connection = &self.connections[c];
        let peer = &connection.peer_devices[&volume];
        let superblock = self.devices[&volume].backing.as_ref().map(|b| &b.superblock);
        let slot = peer.slot.and_then(|slot| superblock?.peers.get(slot as usize));
        PeerDeviceStatus {
            volume,
            replication_state: peer.replication,
            peer_disk_state: peer.peer_disk,
            received: peer.received,
            sent: peer.sent,
            no_space: !peer.starved.is_empty(),
            out_of_sync: peer.bitmap.count() * super::BLOCK_SIZE,
            pending: connection.sent.values().filter(|sent| sent.volume == volume).count() as u64,
            unacked: u64::from(peer.peer_writes),
            bitmap_uuid: slot.map_or(0, |slot| slot.bitmap_uuid),
            metrics: peer.metrics,
            resync_suspended: ResyncSuspended {
                user: peer.pause.user,
                peer: peer.pause.peer,
                dependency: peer.pause.dependency,
            },
            resync: self.resync_progress(c, volume),
            verify: self.verify_progress(c, volume),
            last_verify: peer.last_verify.clone(),
        }
    }
}
