//! From Primary to Secondary, and what an order waits for before it: clients, replies, flushes.
//!
//! Invariants (model.md R4):
//! - A demotion waits for replies, both flushes, and a pending new current UUID.

use std::collections::BTreeMap;

use crate::meta::DeviceFlags;
use crate::resource::orders::order::{HANDSHAKE, OWN_ORDER, PATIENCE_MS, Step, refuse};
use crate::resource::peer::connection::{Save, Stage};
use crate::resource::{
    Action, Command, DiskState, Gap, Refusal, ReplyError, Resource, Role, Time, VolumeNumber,
};

impl Resource {
    pub(crate) fn secondary(&mut self, id: u64, force: bool, wait_ms: u64) {
        if self.role != Role::Primary {
            self.gap = Gap::None;
            self.forget_unheard();
            return self.reply(id, Ok(String::new()));
        }
        let command = Command::Secondary { force, wait_ms };
        if wait_ms > 0 && !self.sessions.is_empty() {
            return self.run(id, command, Step::Clients);
        }
        if let Err(refusal) = self.close_clients(force) {
            return self.reply(id, Err(refusal));
        }
        self.draining = true;
        self.run(id, command, Step::Drain);
    }

    /// `secondary --wait`: the clients have left, or their time is over.
    pub(crate) fn clients_may_have_left(&mut self) {
        let Some(running) = self.running.as_ref() else { return };
        let Command::Secondary { force, wait_ms } = running.command else { return };
        if self.a_later_order_demotes() {
            return self.finish(Err(refuse(-18, "A later order ends the wait for clients")));
        }
        let waited = self.now.ms_since(running.since);
        if !self.sessions.is_empty() && (waited < wait_ms || !force) {
            if waited >= wait_ms
                && let Err(refusal) = self.close_clients(false)
            {
                self.finish(Err(refusal));
            }
            return;
        }
        if self.in_handshake() {
            // It has said that this node is Primary.
            if waited >= wait_ms.saturating_add(PATIENCE_MS) {
                self.finish(Err(refuse(-18, HANDSHAKE)));
            }
            return;
        }
        if let Err(refusal) = self.close_clients(force) {
            return self.finish(Err(refusal));
        }
        let now = self.now;
        if let Some(running) = self.running.as_mut() {
            // What it waits for from here on has its own patience.
            running.since = now;
        }
        self.draining = true;
        self.step(Step::Drain);
        self.order_step_check();
    }

    /// When the clients' time is over, or that of a handshake which it meets then.
    pub(crate) fn clients_timeout(&self) -> Option<Time> {
        let running = self.running.as_ref().filter(|order| order.step == Step::Clients)?;
        let Command::Secondary { wait_ms, .. } = running.command else { return None };
        let clients = running.since.after_ms(wait_ms);
        let met = clients <= self.now;
        Some(if met { clients.after_ms(PATIENCE_MS) } else { clients })
    }

    /// An order to demote this node runs: no client may enter.
    pub(crate) fn is_being_demoted(&self) -> bool {
        self.handing_over.is_some()
            || self.running.as_ref().is_some_and(|order| {
                order.id != OWN_ORDER && matches!(order.command, Command::Secondary { .. })
            })
    }

    /// Nobody may have the device open; by force their connections are closed.
    pub(crate) fn close_clients(&mut self, force: bool) -> Result<(), Refusal> {
        let mut open: BTreeMap<&str, usize> = BTreeMap::new();
        for client in self.devices.values().flat_map(|device| &device.clients) {
            *open.entry(&client.name).or_default() += 1;
        }
        if open.is_empty() {
            return Ok(());
        }
        if !force {
            let of = |(name, count): (&&str, &usize)| match count {
                1 => (*name).to_owned(),
                count => format!("{name} ({count} connections)"),
            };
            let open: Vec<String> = open.iter().map(of).collect();
            let hint = format!("Open by {}. Disconnect it first.", open.join(", "));
            return Err(refuse(-12, &hint));
        }
        for volume in self.volumes() {
            if !self.devices[&volume].clients.is_empty() {
                self.emit(Action::CloseSessions { volume, lost: false });
            }
        }
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.session_closed(session, false);
        }
        Ok(())
    }

    /// Requests have drained: both disks are flushed.
    pub(crate) fn order_drained(&mut self) {
        self.step(Step::Flush);
        let volumes = self.order_volumes();
        self.step_waits(u32::try_from(volumes.len()).expect("few volumes"));
        for volume in volumes {
            let then = self.then_order();
            self.flush_for(volume, None, Some(then));
        }
    }

    pub(crate) fn order_flushed(&mut self) {
        match self.running.as_ref().map(|running| &running.command) {
            Some(Command::Detach { .. }) => return self.detach_flushed(),
            Some(Command::NewCurrentUuid { .. }) => return self.seed_flushed(),
            _ => {}
        }
        if self.role != Role::Primary {
            return self.demoted();
        }
        self.step(Step::Bits);
        let mut waits = Vec::new();
        for volume in self.volumes() {
            for c in self.peers() {
                if self.devices[&volume].backing.is_some() {
                    waits.push((volume, c));
                }
            }
        }
        self.step_waits(u32::try_from(waits.len()).expect("few volumes"));
        if waits.is_empty() {
            return self.demote_save();
        }
        for (volume, c) in waits {
            let then = self.then_order();
            self.save_bitmap(c, volume, Save::Unsaved, then);
        }
    }

    pub(crate) fn demote_save(&mut self) {
        self.step(Step::DemoteSave);
        let volumes: Vec<_> =
            self.volumes().into_iter().filter(|v| self.devices[v].backing.is_some()).collect();
        self.step_waits(u32::try_from(volumes.len()).expect("few volumes"));
        if volumes.is_empty() {
            return self.demoted();
        }
        for volume in volumes {
            self.empty_log(volume);
            // Or it has what the peer may lack, and no identifier says so: nobody has read it. Where both
            // are in sync again there is nothing to doubt.
            let together = self.connections.iter().any(|c| c.peer_devices[&volume].is_in_sync());
            if !together && (self.gap == Gap::Closed || self.devices[&volume].unheard) {
                self.doubt(volume);
            }
            let connected = self.connections.iter().any(|c| c.stage == Stage::Open);
            if let Some(backing) = self.device(volume).backing.as_mut() {
                if !backing.crashed {
                    backing.flags(0, DeviceFlags::PRIMARY_IND);
                }
                if connected {
                    backing.mark_role(Role::Secondary);
                }
            }
            let then = self.then_order();
            self.save_superblock(volume, then);
        }
    }

    /// The peer may have gone on without this disk: until both have met it is promoted by force only. If the
    /// peer has not, then because it died, and what both have acknowledged may be here only: it has survived, or
    /// will have at the end of the loss.
    pub(crate) fn doubt(&mut self, volume: VolumeNumber) {
        if self.device(volume).disk != DiskState::UpToDate {
            return;
        }
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.flags(DeviceFlags::IN_DOUBT, DeviceFlags::STANDS_IN);
        }
        self.set_disk(volume, DiskState::Consistent);
    }

    pub(crate) fn demoted(&mut self) {
        if self.hand_over_is_taken_back() {
            return;
        }
        self.gap = Gap::None;
        // Before the freeze ends: nobody has seen those writes, and no generation is to tell of them.
        self.forget_unheard();
        self.fence_nobody();
        self.set_role(Role::Secondary);
        self.part_from_clients();
        for key in std::mem::take(&mut self.held) {
            if let Some(request) = self.requests.remove(key) {
                if request.begun {
                    self.dropped_begun(request.volume, request.hull());
                }
                let result = Err(ReplyError::Shutdown);
                self.emit(Action::Reply { request: request.request, result });
                self.release(request.payload);
            }
        }
        for volume in self.volumes() {
            self.send_state(volume);
        }
        match self.running.as_ref().map(|running| running.command.clone()) {
            Some(Command::Down { shutdown }) => self.leave_all(shutdown),
            Some(Command::HandOver) => self.handed_over(),
            _ => self.finish(Ok(String::new())),
        }
    }
}
