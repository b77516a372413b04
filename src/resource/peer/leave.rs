//! The orderly end of a connection, and of the resource.
//!
//! Invariants (model.md R3, R3b; promise 6):
//! - Requests drain and both disks are flushed before anyone says Leave; no bit is added.
//! - A Secondary that leaves a Primary marks itself Outdated only after the Primary has answered that
//!   both are flushed; a Secondary that a Primary leaves marks itself before it answers, also where both leave
//!   at once.
//! - Of two Secondaries both survive.
//! - Without the answer the leave is a loss; it is waited for as long as any order waits.

use crate::meta::DeviceFlags;
use crate::resource::orders::order::{PATIENCE_MS, Step, refuse};
use crate::resource::peer::connection::{Connection, Leaving, Mark, Stage};
use crate::resource::{
    Command, ConnectionState, DiskState, LogLevel, NodeId, Reason, Refusal, Resource, Role, Then,
    Time, VolumeNumber,
};
use crate::wire::Packet;

/// Of a Leave: the daemon ends, and nothing keeps it.
const ENDS: u8 = 2;

impl Resource {
    pub(crate) fn disconnect(&mut self, id: u64, peer: NodeId, force: bool, for_ms: Option<u64>) {
        let Some(c) = self.peers().find(|c| self.connections[*c].peer == peer) else {
            return self.reply(id, Err(refuse(127, "No such peer in this resource")));
        };
        if self.connections[c].state == ConnectionState::StandAlone {
            self.connections[c].discard_my_data = false;
            let result = self.disconnect_again(c, for_ms);
            return self.reply(id, result);
        }
        // Also while a new handshake runs.
        if let Some(refusal) = self.may_not_part(c).filter(|_| !force) {
            return self.reply(id, Err(refusal));
        }
        self.comes_back(c, for_ms);
        self.run(id, Command::Disconnect { peer, force, for_ms }, Step::Leave);
        self.start_leave(c, if force { None } else { Some(0) }, id);
        self.order_step_check();
    }

    /// One of the two lives on the other one's disk.
    fn may_not_part(&self, c: usize) -> Option<Refusal> {
        self.needs_the_peer(c).or_else(|| self.needed_by_a_peer(&self.volumes()))
    }

    /// This Primary has no good disk of its own, and lives on that peer's.
    fn needs_the_peer(&self, c: usize) -> Option<Refusal> {
        let connection = &self.connections[c];
        let only = self.role == Role::Primary
            && is_met(connection)
            && self.devices.iter().any(|(volume, device)| {
                let peer = &connection.peer_devices[volume];
                device.disk != DiskState::UpToDate && peer.peer_disk == DiskState::UpToDate
            });
        let hint = "This Primary reads from that peer; --force ends its data access.";
        only.then(|| refuse(-2, hint))
    }

    /// A Primary that has no good disk of its own lives on this one: only force takes it away.
    pub(crate) fn needed_by_a_peer(&self, volumes: &[VolumeNumber]) -> Option<Refusal> {
        let needs = |c: &&Connection| {
            is_met(c)
                && c.peer_role == Role::Primary
                && volumes.iter().any(|volume| {
                    self.devices[volume].disk == DiskState::UpToDate
                        && c.peer_devices[volume].peer_disk != DiskState::UpToDate
                })
        };
        let peer = &self.connections.iter().find(needs)?.name;
        let hint = format!(
            "{peer} is Primary without a good disk and reads from this one. Attach or sync its disk \
             first, or demote it; `disconnect --force` or `detach --force` here end its data access."
        );
        Some(refuse(-2, &hint))
    }

    /// One of the two is Primary and has no good disk any more while this node leaves the other: it stays. A Primary that is
    /// left takes back what it knows of the leave by itself ([`Self::keeps_the_peer`]), and looks at none that comes late.
    pub(crate) fn stays_if_needed(&mut self, c: usize) {
        let connection = &self.connections[c];
        let order = self.running.as_ref().filter(|running| running.step == Step::Leave);
        let may_stay = order.is_some_and(|running| {
            matches!(
                running.command,
                Command::Disconnect { force: false, .. } | Command::Down { shutdown: false }
            )
        });
        // Once the answer is there, or a peer was asked that answers whatever it hears, it is too late; and a peer that
        // leaves as well keeps nobody.
        let leaves = match connection.leaving {
            Some(Leaving::Preparing { .. }) => !connection.peer_leaves_too,
            Some(Leaving::Asked { .. }) => {
                self.role != Role::Primary && connection.leave_marked.is_none()
            }
            Some(Leaving::PeerAsked) | None => false,
        };
        if !may_stay || !leaves {
            return;
        }
        let Some(refusal) = self.may_not_part(c) else { return };
        let connection = &mut self.connections[c];
        connection.leaving = None;
        connection.leave_step = 0;
        connection.leave_marked = None;
        self.comes_back(c, None);
        self.set_connection(c, ConnectionState::Connected, Reason::None);
        // What either has marked for the leave goes as a session opens.
        self.renegotiate_with(c);
        self.finish(Err(refusal));
    }

    /// The own disk has gone, and a peer that has asked to leave has the only good copy: it stays, as it hears of it
    /// before an answer.
    pub(crate) fn keeps_the_peer(&mut self) {
        for c in self.peers() {
            let connection = &self.connections[c];
            let answered = connection.leave_step == u32::MAX;
            if connection.leaving != Some(Leaving::PeerAsked) || connection.peer_ends || answered {
                continue;
            }
            if self.has_let_go_of_a_disk(c) {
                let connection = &mut self.connections[c];
                connection.leaving = None;
                connection.leave_step = 0;
                connection.leave_marked = None;
                self.changed();
            }
        }
    }

    /// Leaves a connection: in order where its session is open (`kind`), at once otherwise.
    fn start_leave(&mut self, c: usize, kind: Option<u8>, id: u64) {
        self.connections[c].discard_my_data = false;
        self.connections[c].left_unanswered = false;
        match kind {
            Some(kind) if self.connections[c].stage == Stage::Open => {
                let connection = &mut self.connections[c];
                // The peer that has asked gets its answer all the same.
                connection.peer_leaves_too = connection.leaving == Some(Leaving::PeerAsked)
                    && connection.leave_step != u32::MAX;
                self.connections[c].leaving = Some(Leaving::Preparing { id, kind });
                self.connections[c].stage_since = self.now;
                self.set_connection(c, ConnectionState::Disconnecting, Reason::StoppedByAdmin);
            }
            _ => self.leave_at_once(c),
        }
    }

    /// Without the peer's answer: a loss.
    pub(crate) fn leave_at_once(&mut self, c: usize) {
        self.close_sockets(c, true);
        self.session_over(c, true);
        self.set_connection(c, ConnectionState::StandAlone, Reason::StoppedByAdmin);
        // Nobody is left to be asked after a gap.
        self.gap_answered(false);
    }

    /// Until when the running order waits for the peers that it leaves. One that begins to leave late,
    /// for a disk was waited for first, waits for as long as a peer may take to be heard.
    pub(crate) fn leave_due(&self) -> Option<Time> {
        let running = self.running.as_ref().filter(|running| running.step == Step::Leave)?;
        let leaving = self.connections.iter().filter(|c| c.leaving.is_some());
        let began = leaving.map(|c| c.stage_since).max()?;
        let timeout = self.config.options.timeout_ms;
        Some(running.since.after_ms(PATIENCE_MS).max(began.after_ms(timeout)))
    }

    /// That time is over, and who is left has not answered, or a disk here holds the leave up: the
    /// order is carried out all the same, as `--force` does it.
    pub(crate) fn leave_is_late(&mut self) {
        let Some(running) = self.running.as_ref() else { return };
        let disconnects = matches!(running.command, Command::Disconnect { .. });
        let seconds = self.now.ms_since(running.since) / 1000;
        let waited = format!("it waited {seconds} s for {}", self.order_waits_for(self.now));
        for c in self.peers() {
            if self.connections[c].leaving.is_none() {
                continue;
            }
            let text = format!("{}left without its answer: {waited}", self.of_peer(c));
            self.log(LogLevel::Error, text);
            self.leave_at_once(c);
        }
        if disconnects {
            let text = format!("left without an answer, as after a lost connection: {waited}");
            return self.finish(Ok(text));
        }
        self.order_step_check();
    }

    /// Leaves go on when everything is quiet and flushed.
    pub(crate) fn pump_leaves(&mut self) {
        for c in self.peers() {
            let Some(leaving) = self.connections[c].leaving else { continue };
            let waits = matches!(leaving, Leaving::Preparing { .. } | Leaving::PeerAsked);
            if !waits || self.connections[c].leave_step != 0 {
                continue;
            }
            self.hold_no_space();
            self.take_back_from(c);
            if !self.is_idle() {
                continue;
            }
            if !self.target_is_quiet(c) {
                continue;
            }
            let Some(socket) = self.connections[c].active else { continue };
            let volumes = self.volumes();
            self.connections[c].leave_step = u32::try_from(volumes.len()).expect("few volumes");
            for volume in volumes {
                self.flush_for(volume, None, Some(Then::PeerLeave { c, socket }));
            }
        }
    }

    /// A volume was flushed, or marked, for a leave.
    pub(crate) fn peer_leave_step(&mut self, c: usize) {
        let connection = &mut self.connections[c];
        connection.leave_step = connection.leave_step.saturating_sub(1);
        if connection.leave_step > 0 {
            return;
        }
        let marked = connection.leave_marked;
        let (own, peer) = (self.role, self.connections[c].peer_role);
        match self.connections[c].leaving {
            // The leaver that stays valid marks itself first; one that becomes old asks first.
            Some(Leaving::Preparing { id, kind }) => {
                let first = own == Role::Primary || peer != Role::Primary;
                if first && marked.is_none() {
                    return self.mark(c, Mark::Survived);
                }
                if !first && marked == Some(Mark::Survived) {
                    // It was promoted meanwhile: what has SURVIVED would be promoted beside it.
                    return self.mark(c, Mark::Unsaid);
                }
                let old = !first && marked == Some(Mark::Outdated);
                if !first && !old && self.connections[c].peer_leaves_too {
                    // The Primary goes on with the answer: it says by its own Leave that both are flushed.
                    return self.mark(c, Mark::Outdated);
                }
                self.connections[c].leave_marked = old.then_some(Mark::Outdated);
                self.connections[c].leaving = Some(Leaving::Asked { id, kind });
                self.send(c, Packet::Leave { kind }, None);
                if std::mem::take(&mut self.connections[c].peer_leaves_too) {
                    // Both disks are flushed, and whoever stays valid is marked.
                    self.send(c, Packet::LeaveAnswer, None);
                }
            }
            Some(Leaving::PeerAsked) if marked.is_none() => {
                let mark = if peer == Role::Primary { Mark::Outdated } else { Mark::Survived };
                self.mark(c, mark);
            }
            Some(Leaving::PeerAsked) => {
                // The step stays taken: nothing more is flushed for this leave.
                self.connections[c].leave_step = u32::MAX;
                self.send(c, Packet::LeaveAnswer, None);
            }
            // Answered, and now durably Outdated: close.
            Some(Leaving::Asked { .. }) => {
                if std::mem::take(&mut self.connections[c].peer_leaves_too) {
                    self.send(c, Packet::LeaveAnswer, None);
                }
                self.leave_done(c);
            }
            None => {}
        }
    }

    /// Marks every disk durably; the step goes on then.
    fn mark(&mut self, c: usize, mark: Mark) {
        let Some(socket) = self.connections[c].active else { return };
        self.connections[c].leave_marked = Some(mark);
        let volumes = self.volumes();
        self.connections[c].leave_step = u32::try_from(volumes.len()).expect("few volumes");
        for volume in volumes {
            // What leaves a Primary without a good disk is no old copy: it is the only one.
            let good = self.connections[c].peer_devices[&volume].peer_disk == DiskState::UpToDate;
            let mark = if good { mark } else { Mark::Survived };
            self.mark_disk(volume, mark);
            self.save_superblock(volume, Then::PeerLeave { c, socket });
        }
    }

    fn mark_disk(&mut self, volume: VolumeNumber, mark: Mark) {
        if self.device(volume).disk != DiskState::UpToDate {
            return;
        }
        if let Some(backing) = self.device(volume).backing.as_mut() {
            match mark {
                Mark::Survived => backing.flags(DeviceFlags::SURVIVED, 0),
                Mark::Outdated => backing.flags(DeviceFlags::OUTDATED, DeviceFlags::SURVIVED),
                Mark::Unsaid => backing.flags(0, DeviceFlags::SURVIVED),
            }
        }
        if mark == Mark::Outdated {
            self.set_disk(volume, DiskState::Outdated);
        }
    }

    pub(crate) fn peer_leaves(&mut self, c: usize, kind: u8) -> bool {
        if self.connections[c].stage == Stage::Down {
            return false;
        }
        if self.connections[c].stage != Stage::Open && !self.is_renegotiating(c) {
            // Nothing is open: nothing is to be flushed.
            self.send(c, Packet::LeaveAnswer, None);
            return true;
        }
        match self.connections[c].leaving {
            // Both leave at once: each answers the other, one that becomes old when it is durably so.
            Some(Leaving::Asked { .. }) if self.is_left_by_a_primary(c) => {
                self.connections[c].peer_leaves_too = true;
                self.mark_outdated_once(c);
            }
            Some(Leaving::Asked { .. }) => self.send(c, Packet::LeaveAnswer, None),
            Some(Leaving::Preparing { .. }) => self.connections[c].peer_leaves_too = true,
            Some(Leaving::PeerAsked) => {}
            None if kind != ENDS && self.has_let_go_of_a_disk(c) => {
                let text = format!(
                    "{}wants to leave, and has the only good copy: it hears that first",
                    self.of_peer(c)
                );
                self.log(LogLevel::Warning, text);
            }
            None => {
                self.connections[c].leaving = Some(Leaving::PeerAsked);
                self.connections[c].peer_ends = kind == ENDS;
                self.connections[c].stage_since = self.now;
                self.connections[c].leave_step = 0;
                self.connections[c].leave_marked = None;
                self.changed();
            }
        }
        true
    }

    /// This Primary has a volume whose good copy only this peer has, which it has not heard yet or is about to.
    fn has_let_go_of_a_disk(&self, c: usize) -> bool {
        self.role == Role::Primary
            && self.devices.iter().any(|(volume, device)| {
                let peer = &self.connections[c].peer_devices[volume];
                device.disk < DiskState::Inconsistent && peer.peer_disk == DiskState::UpToDate
            })
    }

    pub(crate) fn leave_answered(&mut self, c: usize) -> bool {
        if !matches!(self.connections[c].leaving, Some(Leaving::Asked { .. })) {
            return false;
        }
        if self.is_left_by_a_primary(c) {
            self.mark_outdated_once(c);
        } else {
            self.leave_done(c);
        }
        true
    }

    fn is_left_by_a_primary(&self, c: usize) -> bool {
        self.role == Role::Secondary && self.connections[c].peer_role == Role::Primary
    }

    /// Both are flushed, as the Primary has said by its answer or by a Leave of its own.
    fn mark_outdated_once(&mut self, c: usize) {
        if self.connections[c].leave_marked.is_none() {
            self.mark(c, Mark::Outdated);
        } else if self.connections[c].leave_step == 0 {
            self.peer_leave_step(c);
        }
    }

    fn leave_done(&mut self, c: usize) {
        if self.role == Role::Primary {
            for volume in self.volumes() {
                let own = self.devices[&volume].disk == DiskState::UpToDate;
                let peer = self.connections[c].peer_devices[&volume].peer_disk;
                if own && peer == DiskState::UpToDate {
                    self.set_peer_disk(c, volume, DiskState::Outdated);
                }
            }
        }
        self.close_sockets(c, true);
        self.session_over(c, false);
        self.set_connection(c, ConnectionState::StandAlone, Reason::StoppedByAdmin);
        self.order_step_check();
    }

    /// The socket ended while a leave was under way; whether that was its orderly end.
    pub(crate) fn leave_ended(&mut self, c: usize) -> bool {
        match self.connections[c].leaving {
            // An own order to leave may have come after the answer.
            Some(own @ (Leaving::PeerAsked | Leaving::Preparing { .. }))
                if self.connections[c].leave_step == u32::MAX =>
            {
                for volume in self.volumes() {
                    let peer = &self.connections[c].peer_devices[&volume];
                    let own = self.devices[&volume].disk == DiskState::UpToDate;
                    if self.role == Role::Primary && own && peer.peer_disk == DiskState::UpToDate {
                        self.set_peer_disk(c, volume, DiskState::Outdated);
                    }
                }
                self.close_sockets(c, false);
                self.session_over(c, false);
                if own != Leaving::PeerAsked {
                    self.set_connection(c, ConnectionState::StandAlone, Reason::StoppedByAdmin);
                    self.order_step_check();
                    return true;
                }
                self.set_connection(c, ConnectionState::TearDown, Reason::StoppedByAdmin);
                self.set_connection(c, ConnectionState::Unconnected, Reason::StoppedByAdmin);
                self.start_dialling(c);
                true
            }
            Some(Leaving::Preparing { .. } | Leaving::Asked { .. }) => {
                self.connections[c].left_unanswered = true;
                self.close_sockets(c, false);
                self.session_over(c, true);
                self.set_connection(c, ConnectionState::StandAlone, Reason::StoppedByAdmin);
                self.order_step_check();
                true
            }
            _ => false,
        }
    }

    /// A peer went away while an order was running.
    pub(crate) fn order_lost_peer(&mut self, c: usize) {
        self.connections[c].peer_leaves_too = false;
        self.connections[c].leave_step = 0;
        self.connections[c].leave_marked = None;
    }

    /// A session opened.
    pub(crate) fn order_connected(&mut self, c: usize) {
        self.connections[c].leave_step = 0;
        self.pump_orders();
    }

    // ---- down ----

    pub(crate) fn down(&mut self, id: u64, shutdown: bool) {
        if self.role == Role::Primary
            && let Err(refusal) = self.close_clients(shutdown)
        {
            return self.reply(id, Err(refusal));
        }
        if let Some(refusal) = self.needed_by_a_peer(&self.volumes()).filter(|_| !shutdown) {
            return self.reply(id, Err(refusal));
        }
        self.draining = true;
        self.run(id, Command::Down { shutdown }, Step::Drain);
    }

    /// The resource is Secondary now: every connection is left.
    pub(crate) fn leave_all(&mut self, shutdown: bool) {
        let needed = self.needed_by_a_peer(&self.volumes());
        if let Some(refusal) = needed.filter(|_| !shutdown) {
            // The peer's disk has gone while this resource came to rest.
            return self.finish(Err(refusal));
        }
        self.step(Step::Leave);
        let id = self.running.as_ref().map_or(0, |running| running.id);
        for c in self.peers() {
            self.start_leave(c, Some(if shutdown { ENDS } else { 1 }), id);
        }
        self.order_step_check();
    }

    /// Every connection was left.
    pub(crate) fn left_all(&mut self) {
        match self.running.as_ref().map(|running| &running.command) {
            Some(Command::Down { .. }) => self.detach_all(),
            // Its disk does not know that it is old, say.
            Some(Command::Disconnect { peer, .. })
                if self.connections.iter().any(|c| c.peer == *peer && c.left_unanswered) =>
            {
                let text =
                    "left without an answer, as after a lost connection: it was lost meanwhile";
                self.finish(Ok(text.to_owned()));
            }
            _ => self.finish(Ok(String::new())),
        }
    }
}

/// The session is open, or is being negotiated anew.
fn is_met(connection: &Connection) -> bool {
    connection.stage == Stage::Open || connection.state == ConnectionState::Connected
}
