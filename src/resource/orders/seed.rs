//! Slots by order: `new-current-uuid --clear-bitmap` for a peer that has never connected (the seed:
//! its disk will be an image of this one), and `forget-peer`.
//!
//! Invariants:
//! - A slot is cleared only if no disk was ever met there, so that no bit is lost that says how a
//!   disk differs which exists. From the order on each write sets its bit, and an image that is begun
//!   after it lacks no other.
//! - What was written before is flushed first, with requests held: an image never has what a power
//!   loss takes from this disk without a bit or a hot extent that says so.
//! - The seed's generation is new: no disk but an image of this one can know it.
//! - A forgotten peer is synced in full, whatever its disk knows.

use crate::meta::BitmapState;
use crate::resource::disk::device::Loss;
use crate::resource::orders::order::{Step, refuse};
use crate::resource::peer::connection::Stage;
use crate::resource::{
    Command, ConnectionState, DiskState, LogLevel, NodeId, Reason, Resource, Then, VolumeNumber,
};

impl Resource {
    /// This disk is the newest, and no peer of it was ever met, nor is met just now.
    pub(crate) fn may_seed(&self, volume: VolumeNumber) -> bool {
        let Some(device) = self.devices.get(&volume) else { return false };
        let Some(backing) = device.backing.as_ref() else { return false };
        let unmet = |c: usize| {
            let connection = &self.connections[c];
            let slot = connection.peer_devices[&volume].slot;
            let slot = slot.and_then(|slot| backing.superblock.peers.get(slot as usize));
            connection.stage < Stage::Quiescing && slot.is_some_and(|slot| slot.device_uuid == 0)
        };
        device.disk == DiskState::UpToDate && self.peers().count() > 0 && self.peers().all(unmet)
    }

    /// The order: requests drain and the disk is flushed.
    pub(crate) fn seed(&mut self, id: u64, volume: VolumeNumber) {
        self.draining = true;
        self.run(id, Command::NewCurrentUuid { volume, clear_bitmap: true }, Step::Drain);
    }

    /// Everything that was answered is durable, and nothing is under way.
    pub(crate) fn seed_flushed(&mut self) {
        let Some(volume) = self.order_volumes().first().copied() else { return };
        if !self.may_seed(volume) {
            let hint = "The peer has connected meanwhile, or the disk has failed.";
            return self.finish(Err(refuse(-10, hint)));
        }
        let device = self.device(volume);
        if device.loss != Loss::None || device.bumping {
            return self.finish(Err(refuse(-18, "A loss is being dealt with.")));
        }
        for c in self.peers() {
            self.slot_whole(c, volume, BitmapState::AllClear);
            let (peer, slot) = (self.connections[c].peer, self.peer_device(c, volume).slot);
            if let (Some(slot), Some(backing)) = (slot, self.device(volume).backing.as_mut()) {
                let slot = &mut backing.superblock.peers[slot as usize];
                slot.node_id = Some(peer);
                let base = std::mem::take(&mut slot.bitmap_uuid);
                backing.remember(base);
            }
        }
        self.step(Step::Save);
        self.step_waits(1);
        // What rests on this disk is answered when the identifier is durable, not before.
        self.device(volume).bumping = true;
        self.new_current_uuid(volume, &[]);
        let text = format!(
            "{}the slot is clear: from here on an image of this disk can be the peer's",
            self.of_volume(volume)
        );
        self.log(LogLevel::Info, text);
        self.save_superblock(volume, Then::Bumped);
        let then = self.then_order();
        self.save_superblock(volume, then);
    }

    /// `forget-peer`, of every volume that has a disk.
    /// What the last handshake found, and what it was refused for, is not true of who comes next.
    fn forget_handshake(&mut self, c: usize) {
        let connection = &mut self.connections[c];
        connection.last_handshake.clear();
        connection.detail.clear();
        if connection.reason.is_refusal() {
            connection.reason = match connection.state {
                ConnectionState::StandAlone => Reason::StoppedByAdmin,
                _ => Reason::NeverConnected,
            };
        }
        self.changed();
    }

    pub(crate) fn forget_peer(&mut self, id: u64, peer: NodeId) {
        let c = self.peers().find(|c| self.connections[*c].peer == peer);
        let open = |c: &usize| self.connections[*c].stage >= Stage::Quiescing;
        if c.as_ref().is_some_and(open) {
            let hint = format!("Disconnect it first: tandemadm disconnect {}", self.config.name);
            return self.reply(id, Err(refuse(125, &hint)));
        }
        let slot_of = |resource: &Self, volume: &VolumeNumber| {
            let peers = &resource.devices[volume].backing.as_ref()?.superblock.peers;
            peers.iter().position(|slot| slot.node_id == Some(peer))
        };
        let found: Vec<(VolumeNumber, usize)> = self
            .volumes()
            .into_iter()
            .filter(|volume| self.devices[volume].writable())
            .filter_map(|volume| Some((volume, slot_of(self, &volume)?)))
            .collect();
        if let Some(c) = c {
            self.forget_handshake(c);
        }
        if found.is_empty() {
            return self.reply(id, Ok("nothing is remembered of it here".to_owned()));
        }
        self.run(id, Command::ForgetPeer { peer }, Step::Save);
        self.step_waits(u32::try_from(found.len()).expect("few volumes"));
        for (volume, slot) in found {
            if let Some(c) = c {
                self.slot_whole(c, volume, BitmapState::AllSet);
                self.peer_device(c, volume).peer_info = None;
            }
            if let Some(backing) = self.device(volume).backing.as_mut() {
                backing.superblock.forget_slot(slot);
            }
            let text = format!("{}node {peer} is forgotten", self.of_volume(volume));
            self.log(LogLevel::Warning, text);
            let then = self.then_order();
            self.save_superblock(volume, then);
        }
        self.changed();
    }
}
