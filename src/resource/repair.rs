//! `verify --repair`: the blocks whose bits are set are copied from the node whose data is good, in
//! the running session.
//!
//! Invariants:
//! - The generations stay as they are. The target becomes durably Inconsistent, which makes it the
//!   target of the next handshake (rule D1), with the bits of both sides; all the rest is a resync.
//! - A Primary is never the target: what its clients have read stays true.

use super::connection::Stage;
use super::order::{Step, refuse};
use super::{Command, DiskState, NodeId, Refusal, Resource, Role, Then, VolumeNumber};
use crate::meta::DeviceFlags;
use crate::wire::Packet;

impl Resource {
    /// The order: `from` is the node id of the good data.
    pub(crate) fn repair(&mut self, id: u64, volume: VolumeNumber, peer: NodeId, from: NodeId) {
        let found = self.peers().find(|c| self.connections[*c].peer == peer);
        let own = from == self.config.node_id;
        let Some(c) = found.filter(|_| own || from == peer) else {
            return self.reply(id, Err(refuse(171, "--from names one of the two nodes.")));
        };
        if !self.devices.contains_key(&volume) {
            return self.reply(id, Err(refuse(127, super::order::NO_VOLUME)));
        }
        if let Err(refusal) = self.may_repair(c, volume, own) {
            return self.reply(id, Err(refusal));
        }
        if self.peer_device(c, volume).bitmap.count() == 0 {
            return self.reply(id, Ok("nothing is out of sync".to_owned()));
        }
        if own {
            self.send(c, Packet::StartResync { volume, source: true, marked: true }, None);
            return self.reply(id, Ok(String::new()));
        }
        self.run(id, Command::Outdate { volume }, Step::Save);
        self.step_waits(1);
        let then = self.then_order();
        self.mark_for_repair(volume, then);
        self.renegotiate();
    }

    /// `own`: from the own disk to the peer's.
    fn may_repair(&self, c: usize, volume: VolumeNumber, own: bool) -> Result<(), Refusal> {
        self.may_verify(c, volume)?;
        let (name, peer) = (&self.config.name, &self.connections[c].name);
        let node = &self.config.node_name;
        if own && self.connections[c].peer_role == Role::Primary {
            let hint = format!(
                "{peer} is Primary, and its clients have read its data: `--from {peer}`, or demote \
                 it first."
            );
            return Err(refuse(-10, &hint));
        }
        if !own && self.role == Role::Primary {
            let hint = format!(
                "{node} is Primary, and its clients have read its data: `--from {node}`, or demote \
                 it first: tandemadm secondary {name}"
            );
            return Err(refuse(-2, &hint));
        }
        Ok(())
    }

    /// The peer has the good data.
    pub(super) fn peer_repairs(&mut self, c: usize, volume: VolumeNumber) -> bool {
        let bits = self.peer_device(c, volume).bitmap.count();
        if self.connections[c].stage == Stage::Open
            && bits > 0
            && self.running.is_none()
            && self.may_repair(c, volume, false).is_ok()
        {
            self.mark_for_repair(volume, Then::Invalidated { c });
            self.renegotiate();
        }
        true
    }

    /// Inconsistent, durably; the bits stay.
    fn mark_for_repair(&mut self, volume: VolumeNumber, then: Then) {
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing
                .flags(0, DeviceFlags::CONSISTENT | DeviceFlags::SURVIVED | DeviceFlags::OUTDATED);
        }
        self.set_disk(volume, DiskState::Inconsistent);
        self.save_superblock(volume, then);
    }
}
