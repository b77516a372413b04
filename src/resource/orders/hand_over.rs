//! `primary --hand-over`: the role moves to the node that is to have it, and no client sees an error.
//!
//! Invariants:
//! - Who hands over is durably Secondary, both disks are flushed, and its clients are closed, before
//!   it says so. Until then it can go back, and does: with its time over (`hand-over-timeout`), in a
//!   session or on disks that have changed, or when the other node asks no more.
//! - Who takes over is promoted as by `primary`, and asks the peer once more: there is never a moment
//!   with two Primaries, and one that is lost in the middle leaves at most none.
//! - What is under way is answered together, when nothing more comes: a client with an answer to each
//!   of its requests has nothing to send twice when its connection ends.
//! - A reply that was held back while the peer was lost is given when the loss has been dealt with, as
//!   any other that rests on one disk.

use crate::resource::disk::device::{CutOff, Loss};
use crate::resource::orders::order::{OWN_ORDER, Order, PATIENCE_MS, Step, refuse};
use crate::resource::peer::connection::{Connection, SentKind, Stage};
use crate::resource::{
    Action, Command, DiskState, Gap, LogLevel, Payload, Refusal, ReplyError, RequestId, Resource,
    Role, SocketId, Time, VolumeNumber,
};
use crate::wire::{HandOverOutcome, Packet};

/// No request for so long: nothing more comes, ms.
const QUIET_MS: u64 = 50;
/// How long that is waited for; then no request is admitted any more, ms.
const HUSH_MS: u64 = 300;
/// Data of reads that is held back with its replies, bytes at most.
const WITHHELD_MAX: u64 = 8 << 20;
/// After a hand-over no client promotes this node for so long (`auto-promote`): the other one is about
/// to be Primary, ms.
const AFTER_MS: u64 = 5_000;

/// This node hands over.
#[derive(Clone, Debug)]
pub(crate) struct HandingOver {
    c: usize,
    socket: SocketId,
    sequence: u64,
    /// Since when silence is waited for.
    hush_since: Time,
    /// When a client has sent something last.
    last_request: Time,
    /// The peer asks no more.
    cancelled: bool,
    /// Why it ends without having been done.
    outcome: HandOverOutcome,
}

/// A reply that is held back.
#[derive(Clone, Debug)]
pub(crate) struct Withheld {
    volume: VolumeNumber,
    request: RequestId,
    result: Result<Option<Payload>, ReplyError>,
    payload: Option<Payload>,
}

impl Resource {
    // ---- the node that takes over ----

    /// `Command::HandOver` of an administrator.
    pub(crate) fn hand_over(&mut self, id: u64) {
        let plain = Command::Primary { force: None };
        if self.role == Role::Primary {
            return self.primary(id, plain);
        }
        match self.may_take_over() {
            Err(refusal) => self.reply(id, Err(refusal)),
            // Nobody has to give anything up.
            Ok(None) => self.primary(id, plain),
            Ok(Some(c)) => {
                self.run(id, Command::HandOver, Step::AskHandOver);
                let step = self.order_step;
                let sequence = self.track(c, 0, SentKind::HandOver, 0, 0, 0, step);
                self.send(c, Packet::HandOver { sequence, cancel: false }, None);
            }
        }
    }

    /// The connection to the Primary, `None`: there is no Primary.
    fn may_take_over(&self) -> Result<Option<usize>, Refusal> {
        let name = &self.config.name;
        let open = |c: &usize| self.connections[*c].stage == Stage::Open;
        let primary = |c: &usize| self.connections[*c].peer_role == Role::Primary;
        if let Some(away) = self.peers().find(|c| !open(c)) {
            let peer = &self.connections[away].name;
            let hint = format!(
                "{peer} is not connected (`tandemadm why {name}`), and nobody can hand over. If it is \
                 down for certain: tandemadm primary {name}"
            );
            return Err(refuse(-15, &hint));
        }
        let Some(c) = self.peers().find(primary) else { return Ok(None) };
        let connection = &self.connections[c];
        let peer = &connection.name;
        let socket = connection.active.and_then(|socket| connection.sockets.get(&socket));
        if !socket.is_some_and(|socket| socket.hands_over) {
            let hint = format!(
                "tandemd on {peer} is older than this one and cannot hand over: `tandemadm secondary \
                 {name}` there, then `tandemadm primary {name}` here."
            );
            return Err(refuse(-10, &hint));
        }
        match self.may_move(c) {
            Ok(()) => Ok(Some(c)),
            Err(outcome) => Err(self.hand_over_refusal(c, outcome)),
        }
    }

    /// Both nodes have all the data, in a session that nothing changes.
    fn may_move(&self, c: usize) -> Result<(), HandOverOutcome> {
        let connection = &self.connections[c];
        for (volume, device) in &self.devices {
            let peer = &connection.peer_devices[volume];
            if peer.target.is_some() || peer.source.is_some() {
                return Err(HandOverOutcome::Resync);
            }
            if device.disk != DiskState::UpToDate || peer.peer_disk != DiskState::UpToDate {
                return Err(HandOverOutcome::Disks);
            }
            if !peer.replication.mirrors() {
                return Err(HandOverOutcome::Resync);
            }
        }
        match connection.stage == Stage::Open && connection.leaving.is_none() {
            true => Ok(()),
            false => Err(HandOverOutcome::Busy),
        }
    }

    /// What the person is told: the reason, and what to do.
    fn hand_over_refusal(&self, c: usize, outcome: HandOverOutcome) -> Refusal {
        let (name, peer) = (&self.config.name, &self.connections[c].name);
        let stays = format!("{peer} stays Primary.");
        let (code, hint) = match outcome {
            HandOverOutcome::Done | HandOverOutcome::NotPrimary => {
                (-10, format!("{peer} is Secondary: tandemadm primary {name}"))
            }
            HandOverOutcome::Busy => (
                -18,
                format!("Another order or a handshake runs on {peer}: try again in a moment."),
            ),
            HandOverOutcome::Disks => {
                let disks = self.devices.iter().map(|(volume, device)| {
                    let there = self.connections[c].peer_devices[volume].peer_disk;
                    format!("{name}/{volume} is {} here and {there} on {peer}", device.disk)
                });
                let disks = disks.collect::<Vec<_>>().join(", ");
                let rest = "All disks of both nodes must be UpToDate: attach or sync them first";
                (-2, format!("{rest} (`tandemadm why {name}`). {disks}. {stays}"))
            }
            HandOverOutcome::Resync => {
                let wait = format!("wait for its end (`tandemadm wait-sync {name}`), then again");
                (-2, format!("A resync is under way: {wait}. {stays}"))
            }
            HandOverOutcome::Suspended => {
                let resume = format!("`tandemadm resume-io {name}` there first");
                (-10, format!("Clients' I/O is frozen on {peer}: {resume}."))
            }
            HandOverOutcome::HungDisk => {
                let rest = format!("`tandemadm why {name}` there says which");
                (-10, format!("A disk on {peer} does not answer: {rest}. {stays}"))
            }
            HandOverOutcome::Forbidden => {
                let way = format!(
                    "`tandemadm secondary {name}` there, then `tandemadm primary {name}` here"
                );
                (-10, format!("`hand-over-timeout` is 0 on {peer}: it hands nothing over. {way}."))
            }
            HandOverOutcome::Late => {
                let rest = "Requests of its clients, or flushes, did not end within its \
                            `hand-over-timeout`";
                let next = format!("`tandemadm why {name}` there; then try again");
                (-23, format!("{rest}. {stays} Next: {next}."))
            }
            HandOverOutcome::Interrupted => {
                let rest = "The connection or a disk changed in the middle.";
                (-21, format!("{rest} {stays} Try again: tandemadm primary --hand-over {name}"))
            }
            HandOverOutcome::InUse => {
                let rest = format!("{peer} has it attached as a device (`device-attach auto`)");
                let next = "stop what uses it there first, or move that together with the role";
                (-12, format!("{rest}: {next}."))
            }
        };
        refuse(code, &hint)
    }

    /// `Packet::HandOverAnswer`.
    pub(crate) fn hand_over_answered(
        &mut self,
        c: usize,
        sequence: u64,
        outcome: HandOverOutcome,
    ) -> bool {
        let asked = |kind: &SentKind| matches!(kind, SentKind::HandOver);
        let Some(sent) = self.take_sent(c, 0, sequence, asked) else { return false };
        let asks = |step| step == Step::AskHandOver;
        let running = self.running.take_if(|r| asks(r.step) && sent.epoch == self.order_step);
        let gone = matches!(outcome, HandOverOutcome::Done | HandOverOutcome::NotPrimary);
        match running {
            Some(running) if gone => {
                let text = format!("{}has handed over", self.of_peer(c));
                self.log(LogLevel::Info, text);
                let (id, since) = (running.id, running.since);
                let command = Command::Primary { force: None };
                self.orders.push_front(Order { id, command, since });
            }
            Some(running) => {
                self.running = Some(running);
                let refusal = self.hand_over_refusal(c, outcome);
                self.finish(Err(refusal));
            }
            None if gone => {
                let name = &self.config.name;
                let text = format!(
                    "{}has handed over, but too late: the order has ended, and nobody is Primary; \
                     `tandemadm primary {name}`",
                    self.of_peer(c)
                );
                self.log(LogLevel::Warning, text);
            }
            None => {}
        }
        true
    }

    /// The Primary was lost while it was asked.
    pub(crate) fn hand_over_unanswered(&mut self, c: usize, step: u64) {
        let asks = self.running.as_ref().is_some_and(|r| r.step == Step::AskHandOver);
        if asks && step == self.order_step {
            let (name, peer) = (&self.config.name, &self.connections[c].name);
            let hint = format!(
                "{peer} was lost before it answered. Where it goes on, it is Primary; this node is \
                 Secondary. `tandemadm role {name}` on {peer}; try again when it is connected."
            );
            self.finish(Err(refuse(-15, &hint)));
        }
    }

    /// The Primary has not answered for so long that its disk must hang: it may go on.
    pub(crate) fn hand_over_is_late(&mut self) {
        let mut asked = None;
        for c in self.peers() {
            let sent = self.connections[c].sent.iter();
            let mut sequences = sent.filter(|(_, s)| matches!(s.kind, SentKind::HandOver));
            if let Some((sequence, _)) = sequences.next_back() {
                asked = Some((c, *sequence));
            }
        }
        if let Some((c, sequence)) = asked {
            self.send(c, Packet::HandOver { sequence, cancel: true }, None);
        }
        let name = &self.config.name;
        let peer = asked.map_or("The peer", |(c, _)| self.connections[c].name.as_str());
        let seconds = PATIENCE_MS / 1000;
        let hint = format!(
            "{peer} has not answered for {seconds} s, its disk may hang: `tandemadm why {name}` there. \
             It was told to go on as Primary."
        );
        self.finish(Err(refuse(-23, &hint)));
    }

    // ---- the node that hands over ----

    /// `Packet::HandOver`.
    pub(crate) fn hand_over_asked(&mut self, c: usize, sequence: u64, cancel: bool) -> bool {
        if cancel {
            let this = |h: &&mut HandingOver| h.c == c && h.sequence == sequence;
            if let Some(handing) = self.handing_over.as_mut().filter(this) {
                handing.cancelled = true;
            }
            return true;
        }
        let Some(socket) = self.connections[c].active else { return false };
        if let Err(outcome) = self.may_hand_over(c) {
            self.send(c, Packet::HandOverAnswer { sequence, outcome }, None);
            return true;
        }
        let text = format!("{}is to be Primary: this node hands over", self.of_peer(c));
        self.log(LogLevel::Info, text);
        self.handing_over = Some(HandingOver {
            c,
            socket,
            sequence,
            hush_since: self.now,
            last_request: self.now,
            cancelled: false,
            outcome: HandOverOutcome::Late,
        });
        let attaches = self.config.options.device_attach_auto;
        let step = if attaches { Step::Devices } else { Step::Hush };
        self.run(OWN_ORDER, Command::HandOver, step);
        self.changed();
        true
    }

    /// `Command::DevicesDetached`.
    pub(crate) fn devices_detached(&mut self, id: u64, in_use: bool) {
        let waits = self.running.as_ref().is_some_and(|r| r.step == Step::Devices);
        match (waits, in_use) {
            (true, true) => self.hand_over_fails(HandOverOutcome::InUse),
            (true, false) => {
                let now = self.now;
                if let Some(handing) = self.handing_over.as_mut() {
                    (handing.hush_since, handing.last_request) = (now, now);
                }
                self.step(Step::Hush);
            }
            // Its time was over.
            (false, _) => {}
        }
        self.reply(id, Ok(String::new()));
    }

    fn may_hand_over(&self, c: usize) -> Result<(), HandOverOutcome> {
        if self.role != Role::Primary {
            return Err(HandOverOutcome::NotPrimary);
        }
        if self.config.options.hand_over_timeout_ms == 0 {
            return Err(HandOverOutcome::Forbidden);
        }
        let ordered = self.running.is_some() || !self.orders.is_empty();
        if ordered || self.gap != Gap::None || self.in_handshake() {
            return Err(HandOverOutcome::Busy);
        }
        if self.devices.values().any(|device| device.hung_since.is_some()) {
            return Err(HandOverOutcome::HungDisk);
        }
        if self.suspended {
            return Err(HandOverOutcome::Suspended);
        }
        self.may_move(c)
    }

    /// It goes on as it was asked for.
    fn hand_over_stands(&self) -> Result<(), HandOverOutcome> {
        let Some(handing) = self.handing_over.as_ref() else { return Ok(()) };
        match self.may_move(handing.c) {
            _ if handing.cancelled => Err(HandOverOutcome::Interrupted),
            // The other node would let go on what is to stand still.
            _ if self.suspended => Err(HandOverOutcome::Suspended),
            _ if !self.is_current(handing.c, handing.socket) => Err(HandOverOutcome::Interrupted),
            Err(HandOverOutcome::Busy) => Err(HandOverOutcome::Interrupted),
            other => other,
        }
    }

    /// A client has sent something.
    pub(crate) fn hand_over_hears(&mut self) {
        let now = self.now;
        if let Some(handing) = self.handing_over.as_mut() {
            handing.last_request = now;
        }
    }

    /// The steps of the node that hands over, before it marks itself Secondary.
    pub(crate) fn pump_hand_over(&mut self) {
        let (Some(running), Some(handing)) = (self.running.as_ref(), self.handing_over.as_ref())
        else {
            return;
        };
        let step = running.step;
        if !matches!(step, Step::Devices | Step::Hush | Step::Drain | Step::Flush | Step::Bits) {
            return;
        }
        let waited = self.now.ms_since(running.since);
        let silent = self.sessions.is_empty()
            || self.held.is_empty() && self.now.ms_since(handing.last_request) >= QUIET_MS;
        if let Err(outcome) = self.hand_over_stands() {
            return self.hand_over_fails(outcome);
        }
        if waited >= self.config.options.hand_over_timeout_ms {
            return self.hand_over_fails(HandOverOutcome::Late);
        }
        let hushed = self.now.ms_since(handing.hush_since) >= self.hush_ms();
        if step == Step::Hush && (silent && self.is_idle() || hushed) {
            self.draining = true;
            self.step(Step::Drain);
        }
    }

    /// How long it is waited for silence, ms: something is left for what comes after it.
    fn hush_ms(&self) -> u64 {
        HUSH_MS.min(self.config.options.hand_over_timeout_ms / 2)
    }

    /// When [`Self::pump_hand_over`] has something to do.
    pub(crate) fn hand_over_timeout(&self) -> Option<Time> {
        let (running, handing) = (self.running.as_ref()?, self.handing_over.as_ref()?);
        let end = running.since.after_ms(self.config.options.hand_over_timeout_ms);
        let hush =
            [handing.hush_since.after_ms(self.hush_ms()), handing.last_request.after_ms(QUIET_MS)];
        let hush = hush.into_iter().filter(|_| running.step == Step::Hush);
        hush.chain([end]).filter(|at| *at > self.now).min()
    }

    fn hand_over_fails(&mut self, outcome: HandOverOutcome) {
        if let Some(handing) = self.handing_over.as_mut() {
            handing.outcome = outcome;
        }
        let waits = self.order_waits_for(self.now);
        let hint = match outcome {
            HandOverOutcome::Late => format!("its time was over (hand-over-timeout) with {waits}"),
            HandOverOutcome::Resync => "a resync has begun".to_owned(),
            HandOverOutcome::InUse => "its device is in use".to_owned(),
            HandOverOutcome::Disks => "a disk has failed or was detached".to_owned(),
            HandOverOutcome::Suspended => "clients' I/O was frozen (suspend-io)".to_owned(),
            _ => "the connection has changed, or the peer has given up".to_owned(),
        };
        self.finish(Err(refuse(-23, &hint)));
    }

    /// The marks of a Secondary are durable, and the hand-over does not stand any more: this node is
    /// marked as the Primary that it still is.
    pub(crate) fn hand_over_is_taken_back(&mut self) -> bool {
        let Err(outcome) = self.hand_over_stands() else { return false };
        if let Some(handing) = self.handing_over.as_mut() {
            handing.outcome = outcome;
        }
        self.step(Step::TakeBack);
        let volumes = self.volumes();
        let attached = volumes.into_iter().filter(|v| self.devices[v].backing.is_some());
        let attached: Vec<_> = attached.collect();
        if attached.is_empty() {
            self.hand_over_fails(outcome);
        }
        self.step_waits(u32::try_from(attached.len()).expect("few volumes"));
        for volume in attached {
            self.save_as_primary(volume);
        }
        true
    }

    /// It is, durably.
    pub(crate) fn hand_over_was_taken_back(&mut self) {
        let outcome = self.handing_over.as_ref().map(|handing| handing.outcome);
        self.hand_over_fails(outcome.unwrap_or(HandOverOutcome::Interrupted));
    }

    /// This node is Secondary: its clients get what they were answered, and go.
    pub(crate) fn part_from_clients(&mut self) {
        if self.handing_over.is_none() {
            return;
        }
        for volume in self.volumes() {
            self.give_withheld(volume, true);
            if !self.devices[&volume].clients.is_empty() {
                self.emit(Action::CloseSessions { volume, lost: false });
            }
        }
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.session_closed(session, false);
        }
    }

    /// The peer may be Primary.
    pub(crate) fn handed_over(&mut self) {
        if let Some(HandingOver { c, sequence, .. }) = self.handing_over.take() {
            let outcome = HandOverOutcome::Done;
            self.send(c, Packet::HandOverAnswer { sequence, outcome }, None);
            let ms = self.running.as_ref().map_or(0, |running| self.now.ms_since(running.since));
            let text = format!("{}handed over after {ms} ms", self.of_peer(c));
            self.log(LogLevel::Info, text);
            self.handed_over = Some(self.now);
        }
        self.finish(Ok(String::new()));
    }

    /// The order of this node to itself has ended, and it is still Primary.
    pub(crate) fn hand_over_ended(&mut self, why: &str) {
        let Some(handing) = self.handing_over.take() else { return };
        let HandingOver { c, socket, sequence, outcome, .. } = handing;
        let text = format!("{}not handed over: {why}", self.of_peer(c));
        self.log(LogLevel::Warning, text);
        if self.is_current(c, socket) {
            self.send(c, Packet::HandOverAnswer { sequence, outcome }, None);
        }
        self.pump_withheld();
    }

    /// The peer that took over is about to be Primary: no client promotes this node meanwhile.
    pub(crate) fn has_just_handed_over(&self) -> bool {
        self.handed_over.is_some_and(|at| self.now.ms_since(at) < AFTER_MS)
    }

    // ---- replies ----

    /// A reply goes out, or waits for those of all others.
    pub(crate) fn give_reply(
        &mut self,
        volume: VolumeNumber,
        request: RequestId,
        result: Result<Option<Payload>, ReplyError>,
        payload: Option<Payload>,
    ) {
        if self.handing_over.is_none() || !self.withholds() {
            self.emit(Action::Reply { request, result });
            return self.release(payload);
        }
        let (data, rest) =
            if matches!(result, Ok(Some(_))) { (payload, None) } else { (None, payload) };
        self.release(rest);
        self.withheld.push(Withheld { volume, request, result, payload: data });
    }

    /// A device that is being detached is flushed first: it waits for its answers.
    fn withholds(&self) -> bool {
        let detaches = self.running.as_ref().is_some_and(|r| r.step == Step::Devices);
        let data = |one: &Withheld| one.payload.map_or(0, |payload| u64::from(payload.length));
        !detaches && self.withheld.iter().map(data).sum::<u64>() < WITHHELD_MAX
    }

    /// `rests`: there is a copy that this node reaches. Without one, nothing that was written is
    /// said to be kept: it may be gone since.
    fn give_withheld(&mut self, volume: VolumeNumber, rests: bool) {
        let (given, kept) = std::mem::take(&mut self.withheld)
            .into_iter()
            .partition::<Vec<_>, _>(|withheld| withheld.volume == volume);
        self.withheld = kept;
        for Withheld { request, mut result, payload, .. } in given {
            if result == Ok(None) && !rests {
                result = Err(ReplyError::Io);
            }
            self.emit(Action::Reply { request, result });
            self.release(payload);
        }
    }

    /// Replies that were held back for a hand-over that came to nothing. A disk that hangs holds up
    /// those of its own volume only.
    pub(crate) fn pump_withheld(&mut self) {
        if self.withheld.is_empty() || self.handing_over.is_some() {
            return;
        }
        for volume in self.volumes() {
            let device = &self.devices[&volume];
            let lacks = |c: &Connection| !c.peer_devices[&volume].replicates();
            let alone = !device.writable() || self.connections.iter().any(lacks);
            // Who has gone does not wait.
            let waits = !device.clients.is_empty() && (alone || device.loss != Loss::None);
            let any = self.withheld.iter().any(|withheld| withheld.volume == volume);
            // Nor does a copy count that may have lost what the only one had.
            let rests = device.cut_off == CutOff::No
                && (device.writable() || !self.connections.iter().all(lacks));
            if any && !(waits && (device.loss != Loss::None || !self.alone_is_recorded(volume))) {
                self.give_withheld(volume, rests);
            }
        }
    }
}
