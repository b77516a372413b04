//! Orders that give a disk up for the other one: `invalidate`, `invalidate-remote`, and what they
//! share with `verify --repair`.
//!
//! Invariants:
//! - In a session the peer is asked first. Whose disk stays promises that it does, until the next
//!   handshake, or the end of the session; whose disk goes says so when that is durable.
//! - Of two nodes that ask at once the lower node id has its way, the other order is refused: so a
//!   session never gives both disks up. Each question is answered in the order of the connection,
//!   and who has asked first has not promised.
//! - A disk that is given up is still whole until it adopts, and the flags say so: where both are
//!   given up after all (orders without a session), the handshake takes one back
//!   (docs/GENERATIONS.md 4).
//! - The order ends in time: with the peer's answer, its loss, or after [`PATIENCE_MS`].

use crate::meta::{BitmapState, DeviceFlags};
use crate::resource::orders::order::{NO_VOLUME, PATIENCE_MS, Running, Step, refuse};
use crate::resource::peer::connection::{Connection, SentKind, Stage};
use crate::resource::{
    Command, DiskState, LogLevel, NodeId, Refusal, Resource, Role, SocketId, Then, VolumeNumber,
};
use crate::wire::Packet;

/// The answer to an answer: the order has ended, and the promise is void.
const VOID: i32 = -21;

impl Resource {
    pub(crate) fn invalidate(&mut self, id: u64, volume: VolumeNumber) {
        if let Err(refusal) = self.may_invalidate(volume) {
            return self.reply(id, Err(refusal));
        }
        self.run(id, Command::Invalidate { volume }, Step::AskResync);
        let open = |c: &usize| self.connections[*c].stage == Stage::Open;
        let asked: Vec<usize> = self.peers().filter(open).collect();
        if asked.is_empty() {
            return self.give_own_up(volume, false);
        }
        for c in asked {
            self.ask_resync(c, volume, false, false);
        }
    }

    pub(crate) fn invalidate_remote(&mut self, id: u64, volume: VolumeNumber, peer: NodeId) {
        let found = self.peers().find(|c| self.connections[*c].peer == peer);
        let Some(c) = found.filter(|c| self.connections[*c].stage == Stage::Open) else {
            return self.reply(id, Err(refuse(-15, "Connect the peer first.")));
        };
        let Some(device) = self.devices.get(&volume) else {
            return self.reply(id, Err(refuse(127, NO_VOLUME)));
        };
        let peer_device = &self.connections[c].peer_devices[&volume];
        let refusal = if device.disk != DiskState::UpToDate {
            Some(refuse(
                -4,
                "The own disk is not UpToDate, and nothing else is copied: sync it first.",
            ))
        } else if peer_device.target.is_some() || peer_device.source.is_some() {
            Some(refuse(-8, "Wait for its end: tandemadm wait-sync"))
        } else if peer_device.peer_disk < DiskState::Inconsistent {
            Some(refuse(-5, "The peer has no disk: attach one there first."))
        } else if self.connections[c].peer_role == Role::Primary {
            Some(refuse(-10, "The peer is Primary: demote it first."))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.reply(id, Err(refusal));
        }
        self.run(id, Command::InvalidateRemote { volume, peer }, Step::AskResync);
        self.ask_resync(c, volume, true, false);
    }

    /// Asks a peer. `source`: its disk is to go. The order runs already.
    pub(in crate::resource) fn ask_resync(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        source: bool,
        marked: bool,
    ) {
        let step = self.order_step;
        let sequence = self.track(c, volume, SentKind::StartResync, 0, 0, 0, step);
        self.send(c, Packet::StartResync { volume, sequence, source, marked }, None);
        self.step_waits(1);
    }

    pub(in crate::resource) fn may_invalidate(&self, volume: VolumeNumber) -> Result<(), Refusal> {
        let name = &self.config.name;
        let Some(device) = self.devices.get(&volume) else {
            return Err(refuse(127, NO_VOLUME));
        };
        if !device.writable() {
            return Err(refuse(-4, "Attach a disk first."));
        }
        if self.role == Role::Primary {
            let hint = format!("Demote first: tandemadm secondary {name}");
            return Err(refuse(-2, &hint));
        }
        for connection in &self.connections {
            let peer = &connection.peer_devices[&volume];
            if peer.target.is_some() || peer.source.is_some() {
                return Err(refuse(-8, "Wait for its end: tandemadm wait-sync"));
            }
            if peer.promised.is_some() {
                return Err(self.promised_to(&connection.name));
            }
            if connection.stage == Stage::Open && peer.peer_disk != DiskState::UpToDate {
                return Err(refuse(
                    -5,
                    "The peer has no UpToDate disk to copy from: `tandemadm why` there.",
                ));
            }
        }
        Ok(())
    }

    /// The own disk stays: the peer gives its own up for it.
    pub(in crate::resource) fn promised_to(&self, peer: &str) -> Refusal {
        let name = &self.config.name;
        let hint = format!(
            "{peer} gives its own disk up just now, and will copy this one: `tandemadm status {name}` \
             shows it, `tandemadm wait-sync {name}` waits for its end."
        );
        refuse(-10, &hint)
    }

    /// A promise that a volume of this node stays as it is.
    pub(crate) fn has_promised(&self, volume: VolumeNumber) -> Option<Refusal> {
        let promised = |c: &&Connection| {
            c.peer_devices.get(&volume).is_some_and(|peer| peer.promised.is_some())
        };
        let connection = self.connections.iter().find(promised)?;
        Some(refuse(-18, &self.promised_to(&connection.name).hint))
    }

    /// Every peer has agreed, or there is no session: the own disk goes.
    fn give_own_up(&mut self, volume: VolumeNumber, marked: bool) {
        self.step(Step::Save);
        self.step_waits(1);
        let then = self.then_order();
        self.give_up(volume, marked, then);
    }

    /// Inconsistent, durably; without `marked` with every bit set. What else the flags say of the
    /// disk stays, for it is as it was until it adopts.
    fn give_up(&mut self, volume: VolumeNumber, marked: bool, then: Then) {
        if !marked {
            for c in self.peers() {
                self.slot_whole(c, volume, BitmapState::AllSet);
            }
        }
        if let Some(backing) = self.device(volume).backing.as_mut() {
            if marked {
                let gone = DeviceFlags::SURVIVED | DeviceFlags::OUTDATED;
                backing.flags(0, DeviceFlags::CONSISTENT | gone);
            } else {
                backing.flags(DeviceFlags::INVALIDATED, DeviceFlags::CONSISTENT);
            }
        }
        self.set_disk(volume, DiskState::Inconsistent);
        self.save_superblock(volume, then);
        self.renegotiate();
    }

    // ---- the peer that is asked ----

    /// `Packet::StartResync`.
    pub(crate) fn resync_ordered(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        sequence: u64,
        (source, marked): (bool, bool),
    ) -> bool {
        let Some(socket) = self.connections[c].active else { return false };
        // It speaks of its own disk and role, and the peer's: there they are the other way round.
        let code = match self.may_follow_order(c, volume, source, marked) {
            Ok(()) => 0,
            Err(refusal) => match refusal.code {
                -4 => -5,
                -5 => -4,
                -2 => -10,
                code => code,
            },
        };
        if code == 0 && source {
            self.give_up(volume, marked, Then::GivenUp { c, socket, sequence });
            return true;
        }
        if code == 0 {
            self.peer_device(c, volume).promised = Some(sequence);
        }
        self.send(c, Packet::StartResyncAnswer { volume, sequence, code }, None);
        true
    }

    fn may_follow_order(
        &self,
        c: usize,
        volume: VolumeNumber,
        source: bool,
        marked: bool,
    ) -> Result<(), Refusal> {
        let connection = &self.connections[c];
        if connection.stage != Stage::Open || connection.leaving.is_some() {
            return Err(refuse(-18, ""));
        }
        let first = self.config.node_id < connection.peer;
        match self.running.as_ref().map(|running| running.step) {
            // Of two orders at once the lower node id has its way.
            Some(Step::AskResync) if first && self.order_volumes().contains(&volume) => {
                return Err(refuse(-10, ""));
            }
            None | Some(Step::AskResync) => {}
            Some(_) => return Err(refuse(-18, "")),
        }
        if source && marked {
            return self.may_repair(c, volume, false);
        }
        if source {
            return self.may_invalidate(volume);
        }
        let peer = &connection.peer_devices[&volume];
        if peer.target.is_some() || peer.source.is_some() {
            return Err(refuse(-8, ""));
        }
        if self.devices[&volume].disk != DiskState::UpToDate {
            return Err(refuse(-4, ""));
        }
        Ok(())
    }

    /// The own disk is durably given up, as the peer has ordered (`code` 0), or failed before that.
    pub(crate) fn given_up(
        &mut self,
        c: usize,
        socket: SocketId,
        volume: VolumeNumber,
        (sequence, code): (u64, i32),
    ) {
        if self.is_current(c, socket) {
            self.send(c, Packet::StartResyncAnswer { volume, sequence, code }, None);
        }
    }

    // ---- the answer ----

    /// `Packet::StartResyncAnswer`.
    pub(crate) fn resync_order_answered(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        sequence: u64,
        code: i32,
    ) -> bool {
        if code == VOID {
            self.peer_device(c, volume).promised.take_if(|promised| *promised == sequence);
            return true;
        }
        let asked = |kind: &SentKind| matches!(kind, SentKind::StartResync);
        let Some(sent) = self.take_sent(c, volume, sequence, asked) else { return false };
        let running = self.running.as_ref().filter(|running| running.step == Step::AskResync);
        let command = running.filter(|_| sent.epoch == self.order_step).map(|r| r.command.clone());
        let refusal = match &command {
            _ if code != 0 => Some(self.order_refused(c, code)),
            Some(Command::Invalidate { volume }) => self.may_invalidate(*volume).err(),
            Some(Command::Repair { from, .. }) if *from != self.config.node_id => {
                self.may_repair(c, volume, false).err()
            }
            _ => None,
        };
        match (command, refusal) {
            (Some(command), None) => self.order_granted(c, volume, &command),
            (command, refusal) => {
                // A promise that was given is not used; to a disk that has gone this says nothing.
                if code == 0 {
                    let packet = Packet::StartResyncAnswer { volume, sequence, code: VOID };
                    self.send(c, packet, None);
                }
                if let (Some(_), Some(refusal)) = (command, refusal) {
                    self.finish(Err(refusal));
                }
            }
        }
        true
    }

    fn order_granted(&mut self, c: usize, volume: VolumeNumber, command: &Command) {
        let marked = matches!(command, Command::Repair { .. });
        let own = match command {
            Command::Repair { from, .. } => *from != self.config.node_id,
            command => matches!(command, Command::Invalidate { .. }),
        };
        if !own {
            if self.peer_device(c, volume).peer_disk == DiskState::UpToDate {
                self.set_peer_disk(c, volume, DiskState::Inconsistent);
            }
            return self.finish(Ok(String::new()));
        }
        let Some(running) = self.running.as_mut() else { return };
        running.waiting = running.waiting.saturating_sub(1);
        if running.waiting == 0 {
            self.give_own_up(volume, marked);
        }
    }

    /// What the person is told whose order the peer has refused.
    fn order_refused(&self, c: usize, code: i32) -> Refusal {
        let (name, peer) = (&self.config.name, &self.connections[c].name);
        let next = match code {
            -4 => "the disk here is not UpToDate: sync it first.".to_owned(),
            -5 => "it has no good disk: `tandemadm why` there says what is wrong.".to_owned(),
            -8 => format!(
                "a resync or a verify runs: wait for its end (`tandemadm wait-sync {name}`)."
            ),
            -10 => format!(
                "it is Primary (then demote it first), or such an order was given there at the same \
                 instant, and goes first: `tandemadm status {name}` shows which disk is copied."
            ),
            -18 => "another order or a handshake runs there: try again in a moment.".to_owned(),
            _ => format!("`tandemadm why {name}` there says why."),
        };
        refuse(code, &format!("{peer} refuses: {next} Nothing has changed here."))
    }

    /// The peer was lost while it was asked.
    pub(crate) fn resync_unanswered(&mut self, c: usize, step: u64) {
        let asks = |running: &Running| running.step == Step::AskResync;
        let Some(running) = self.running.as_ref().filter(|r| asks(r) && step == self.order_step)
        else {
            return;
        };
        let peer = &self.connections[c].name;
        let hint = match running.command {
            Command::Invalidate { .. } => format!(
                "{peer} was lost while it was asked. Nothing has changed here; given again now, the \
                 order is carried out without it."
            ),
            _ => format!(
                "{peer} was lost before it answered. Nothing has changed here; whether its disk is \
                 given up is seen when it is back."
            ),
        };
        self.finish(Err(refuse(-15, &hint)));
    }

    /// The peer has not answered in time: its disk may hang.
    pub(crate) fn resync_order_late(&mut self) {
        let seconds = PATIENCE_MS / 1000;
        let hint = format!(
            "The peer has not answered for {seconds} s, its disk may hang (`tandemadm status` there). \
             Nothing has changed here; if its disk answers later, the order may be carried out."
        );
        self.log(
            LogLevel::Warning,
            format!("{}: an order to give a disk up ends", self.config.name),
        );
        self.finish(Err(refuse(-23, &hint)));
    }
}
