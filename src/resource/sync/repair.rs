//! `verify --repair`: the blocks whose bits are set are copied from the node whose data is good, in
//! the running session.
//!
//! Invariants:
//! - The generations stay as they are. The target becomes durably Inconsistent, which makes it the
//!   target of the next handshake (rule D1), with the bits of both sides; all the rest is a resync.
//! - A Primary is never the target: what its clients have read stays true.

use crate::resource::orders::order::{NO_VOLUME, Step, refuse};
use crate::resource::{Command, NodeId, Refusal, Resource, Role, VolumeNumber};

impl Resource {
    /// The order: `from` is the node id of the good data.
    pub(crate) fn repair(&mut self, id: u64, volume: VolumeNumber, peer: NodeId, from: NodeId) {
        let found = self.peers().find(|c| self.connections[*c].peer == peer);
        let own = from == self.config.node_id;
        let Some(c) = found.filter(|_| own || from == peer) else {
            return self.reply(id, Err(refuse(171, "--from names one of the two nodes.")));
        };
        if !self.devices.contains_key(&volume) {
            return self.reply(id, Err(refuse(127, NO_VOLUME)));
        }
        if let Err(refusal) = self.may_repair(c, volume, own) {
            return self.reply(id, Err(refusal));
        }
        if self.peer_device(c, volume).bitmap.count() == 0 {
            return self.reply(id, Ok("nothing is out of sync".to_owned()));
        }
        self.run(id, Command::Repair { volume, peer, from }, Step::AskResync);
        self.ask_resync(c, volume, own, true);
    }

    /// `own`: from the own disk to the peer's.
    pub(in crate::resource) fn may_repair(
        &self,
        c: usize,
        volume: VolumeNumber,
        own: bool,
    ) -> Result<(), Refusal> {
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
        if !own && self.connections[c].peer_devices[&volume].promised.is_some() {
            return Err(self.promised_to(peer));
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
}
