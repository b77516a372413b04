//! The administrator's orders: one runs, the others wait.
//!
//! Invariants:
//! - An order that meets a handshake waits for its end, 30 s at most, then (-18).
//! - One that waits for requests or flushes does so for 30 s, and its refusal names who owes them;
//!   the end of the daemon does not wait so long for a peer ([`crate::resource::disk::hung_disk`]).
//! - Every order is answered exactly once.

use std::collections::BTreeMap;

use crate::meta::DeviceFlags;
use crate::resource::peer::connection::{Leaving, Stage};
use crate::resource::peer::tentative::Tentative;
pub(crate) use crate::resource::refusals::refuse;
use crate::resource::{
    Action, AdminResult, Command, ConnectionState, DiskOptions, LogLevel, Options, Resource, Role,
    Then, Time, VolumeNumber, WrittenOption,
};

/// The hint of (127).
pub const NO_VOLUME: &str = "No such volume here: `tandemadm status` lists what is up.";
/// The hint of (-18) for an order that meets a handshake.
pub(crate) const HANDSHAKE: &str =
    "A handshake does not end: `tandemadm why` says what it waits for.";
/// How long an order waits for its turn, ms.
pub(crate) const PATIENCE_MS: u64 = 30_000;
/// The number of an order that the core gave itself: nobody waits for its answer.
pub(crate) const OWN_ORDER: u64 = 0;

/// An order that waits.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) id: u64,
    pub(crate) command: Command,
    pub(crate) since: Time,
}

/// Where the running order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Attach: flush and superblock.
    Attach,
    /// Primary: the peer is asked.
    AskPeer,
    /// Primary: fence-peer is asked about peers that are away.
    Fence,
    /// Primary: disks that are forced are flushed.
    ForceFlush,
    /// Primary: superblocks.
    PromoteSave,
    /// Hand-over: the Primary is asked.
    AskHandOver,
    /// Hand-over, by the Primary: the daemon detaches devices.
    Devices,
    /// Hand-over, by the Primary: requests are awaited until nothing more comes.
    Hush,
    /// Hand-over, by the Primary: it stays what it is.
    TakeBack,
    /// Secondary: clients are given time to leave.
    Clients,
    /// Requests drain.
    Drain,
    /// Both disks are flushed.
    Flush,
    /// Bits become durable.
    Bits,
    /// Demotion becomes durable.
    DemoteSave,
    /// The connections are left in order.
    Leave,
    /// The disks' last flush; of a detach also the mark of a disk that the peer goes on without.
    DetachFlush,
    /// The disks' bits.
    DetachBits,
    /// Nothing may be under way on the disks.
    DetachIdle,
    /// A superblock, then done.
    Save,
    /// verify: the peer is asked.
    AskVerify,
    /// invalidate, invalidate-remote, verify --repair: the peer is asked.
    AskResync,
    /// new-current-uuid, outdate: a loss is being dealt with first.
    Settle,
    /// new-current-uuid --clear-bitmap: both disks are compared.
    Sample,
    /// resize: the own disk takes its room.
    Grow,
    /// resize: the peer's disk does.
    PeerGrows,
    /// resize: the handshake that agrees on the size.
    Resize,
    /// The peer takes the new current UUID.
    PeerClears,
    /// This node does.
    ClearSave,
}

impl Step {
    /// A change of the role becomes durable.
    pub(crate) fn changes_role(self) -> bool {
        matches!(self, Self::ForceFlush | Self::PromoteSave | Self::DemoteSave)
    }
}

/// The order that runs.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) id: u64,
    pub(crate) command: Command,
    pub(crate) step: Step,
    /// Volumes (or peers) that have not finished the step.
    pub(crate) waiting: u32,
    pub(crate) since: Time,
}

impl Running {
    /// It ends whatever the disk does.
    fn is_forced_detach(&self) -> bool {
        matches!(self.command, Command::Detach { force: true, .. })
    }

    /// Afterwards the peer is not connected.
    pub(crate) fn leaves(&self) -> bool {
        matches!(self.command, Command::Disconnect { .. } | Command::Down { .. })
    }
}

/// What changes, for the log, and what of it acts later, for the answer. `section`: only of it.
fn changes(
    name: &str,
    before: &Options,
    after: &Options,
    section: &str,
) -> Vec<(String, Option<String>)> {
    let (before, after) = (before.written(), after.written());
    let pairs = before.iter().zip(&after).filter(|(old, new)| old != new);
    let pairs = pairs.filter(|(old, _)| section.is_empty() || old.section == section);
    let change = |(old, new): (&WrittenOption, &WrittenOption)| {
        let text = format!("{name}: {} changed from {} to {}", new.name, old.value, new.value);
        let later = new.takes_effect_later();
        (text, later.map(|when| format!("{} takes effect {when}", new.name)))
    };
    pairs.map(change).collect()
}

fn taken_down() -> crate::resource::Refusal {
    refuse(-18, "The resource was taken down meanwhile: `tandemadm up` first.")
}

impl Resource {
    pub(crate) fn order(&mut self, id: u64, command: Command) {
        if self.is_down {
            // Who was not told of it in time asks again.
            let is_done = matches!(command, Command::Down { .. });
            return self.reply(id, if is_done { Ok(String::new()) } else { Err(taken_down()) });
        }
        if self.orders.len() >= 256 {
            return self.reply(id, Err(refuse(-18, "Too many orders wait; try again later")));
        }
        if command == Command::AutoPromote && self.is_being_demoted() {
            return self
                .reply(id, Err(refuse(-18, "It is being demoted (`tandemadm secondary`).")));
        }
        // One that was made Primary again meanwhile serves at once.
        let waits = self.role != Role::Primary && self.has_just_handed_over();
        if command == Command::AutoPromote && waits {
            let hint = "It has just handed over (`tandemadm primary --hand-over`).";
            return self.reply(id, Err(refuse(-18, hint)));
        }
        let since = self.now;
        let order = Order { id, command, since };
        let at_once = matches!(
            order.command,
            Command::PauseSync { .. } | Command::SuspendIo { .. } | Command::DevicesDetached { .. }
        );
        if at_once {
            // It is a flag, and the order that runs may wait for just this.
            return self.start_order(order);
        }
        self.orders.push_back(order);
        self.pump_orders();
    }

    pub(crate) fn reply(&mut self, id: u64, result: AdminResult) {
        if id != OWN_ORDER {
            self.emit(Action::AdminReply { id, result });
        }
    }

    /// A handshake is under way somewhere.
    pub(crate) fn in_handshake(&self) -> bool {
        self.connections.iter().any(|c| {
            matches!(c.stage, Stage::Quiescing | Stage::Handshake | Stage::Opening)
                || c.leaving == Some(Leaving::PeerAsked)
        })
    }

    pub(crate) fn pump_orders(&mut self) {
        self.pump_running();
        self.refuse_late_orders();
        while self.running.is_none() {
            let Some(order) = self.orders.front() else { return };
            let waits = match order.command {
                Command::Connect { tentative: false, .. }
                | Command::Disconnect { .. }
                | Command::Down { .. } => false,
                // A client that may enter a Primary already.
                Command::AutoPromote => self.role != Role::Primary,
                _ => true,
            };
            if waits && self.in_handshake() {
                if self.now.ms_since(order.since) < PATIENCE_MS {
                    return;
                }
                let order = self.orders.pop_front().expect("just seen");
                self.reply(order.id, Err(refuse(-18, HANDSHAKE)));
                continue;
            }
            if self.leaves_a_negotiation(order)
                && self.now.ms_since(order.since) < self.config.options.timeout_ms
            {
                return;
            }
            let order = self.orders.pop_front().expect("just seen");
            self.start_order(order);
        }
    }

    /// The order leaves, without force, a peer whose session is being negotiated anew: it is over in a moment, and
    /// then both know whose disk is good, and the peer is left in order.
    fn leaves_a_negotiation(&self, order: &Order) -> bool {
        let left = |peer: u8| match order.command {
            Command::Disconnect { peer: left, force, .. } => !force && left == peer,
            Command::Down { shutdown } => !shutdown,
            _ => false,
        };
        self.peers().any(|c| self.is_renegotiating(c) && left(self.connections[c].peer))
    }

    /// Behind an order that does not end nobody waits for ever, and who wants to be rid of a hung
    /// disk waits for nobody.
    fn refuse_late_orders(&mut self) {
        if self.running.is_none() {
            return;
        }
        let patience = self.config.options.timeout_ms;
        let mut at = 0;
        while let Some(order) = self.orders.get(at) {
            let forced = match order.command {
                Command::Detach { volume, force: true } => Some(volume),
                _ => None,
            };
            let late = self.now.ms_since(order.since) >= patience;
            let hung = |volume: &VolumeNumber| {
                self.devices.get(volume).is_some_and(|device| device.hung_since.is_some())
            };
            let Some(volume) = forced.filter(|_| late).filter(hung) else {
                at += 1;
                continue;
            };
            let order = self.orders.remove(at).expect("just seen");
            let text = self.give_up_hung_disk(volume);
            self.reply(order.id, Ok(text));
        }
        while self.orders.front().is_some_and(|o| self.now.ms_since(o.since) >= PATIENCE_MS) {
            let order = self.orders.pop_front().expect("just seen");
            self.reply(
                order.id,
                Err(refuse(
                    -18,
                    "Another order does not end: `tandemadm why` says what it waits for.",
                )),
            );
        }
    }

    pub(crate) fn order_timeout(&self) -> Option<Time> {
        let waiting = self.orders.front().map(|order| {
            let leaves = order.since.after_ms(self.config.options.timeout_ms);
            match leaves > self.now && self.leaves_a_negotiation(order) {
                true => leaves,
                false => order.since.after_ms(PATIENCE_MS),
            }
        });
        let refused = self.running.as_ref().and_then(Self::refused_at);
        let oldest = waiting.into_iter().chain(refused).chain(self.leave_due()).min();
        let patience = self.config.options.timeout_ms;
        let forced = self.running.as_ref().filter(|order| order.is_forced_detach());
        let forced = forced.map(|order| order.since.after_ms(patience));
        let forces = |order: &&Order| matches!(order.command, Command::Detach { force: true, .. });
        let behind = self.orders.iter().filter(forces).map(|order| order.since.after_ms(patience));
        // One that has waited so long was looked at: its disk does not hang.
        let behind = behind.filter(|at| *at > self.now);
        oldest.into_iter().chain(forced).chain(behind).chain(self.sampling_timeout()).min()
    }

    /// When the order is refused if it is still in its step: nothing has changed by then that is not
    /// taken back. `None`: it waits for what it needs, and no time is set for it.
    pub(crate) fn refused_at(running: &Running) -> Option<Time> {
        let patience = match (running.step, &running.command) {
            (Step::Drain | Step::Settle | Step::AskResync | Step::PeerGrows, _)
            | (Step::AskHandOver, _) => PATIENCE_MS,
            (Step::Flush | Step::Bits, Command::Detach { force: true, .. }) => return None,
            // First it goes on without the own disk, if that is the one that hangs.
            (Step::Flush | Step::Bits, Command::Down { .. }) => 2 * PATIENCE_MS,
            (Step::Flush | Step::Bits, _) => PATIENCE_MS,
            _ => return None,
        };
        Some(running.since.after_ms(patience))
    }

    fn start_order(&mut self, order: Order) {
        let Order { id, command, .. } = order;
        match command {
            Command::Attach { volume, disk } => self.attach(id, volume, *disk),
            Command::Detach { volume, force } => self.detach(id, volume, force),
            Command::Connect { peer, discard_my_data, tentative } => {
                self.connect(id, peer, discard_my_data, tentative);
            }
            Command::Disconnect { peer, force, for_ms } => self.disconnect(id, peer, force, for_ms),
            Command::Primary { .. } | Command::AutoPromote => self.primary(id, command),
            Command::HandOver => self.hand_over(id),
            Command::DevicesDetached { in_use } => self.devices_detached(id, in_use),
            Command::Secondary { force, wait_ms } => self.secondary(id, force, wait_ms),
            Command::Invalidate { volume } => self.invalidate(id, volume),
            Command::InvalidateRemote { volume, peer } => self.invalidate_remote(id, volume, peer),
            Command::Outdate { volume } => self.outdate(id, volume),
            Command::Verify { volume, peer, start, stop } => {
                self.verify(id, volume, peer, start, stop);
            }
            Command::Repair { volume, peer, from } => self.repair(id, volume, peer, from),
            Command::NewCurrentUuid { volume, clear_bitmap } => {
                self.new_uuid_by_order(id, volume, clear_bitmap);
            }
            Command::Resize { volume, size, assume_clean } => {
                self.resize(id, volume, size, assume_clean);
            }
            Command::SetSize { volume, size } => self.set_size_option(id, volume, size),
            Command::PauseSync { volume, peer, pause } => {
                self.pause_sync(id, volume, peer, pause);
            }
            Command::SuspendIo { suspend } => self.suspend_io(id, suspend),
            Command::ForgetPeer { peer } => self.forget_peer(id, peer),
            Command::UnfencePeer { peer } => self.unfence_by_order(id, peer),
            Command::SetOptions { options, volumes } => {
                self.set_options(id, *options, &volumes);
            }
            Command::Down { shutdown } => self.down(id, shutdown),
        }
    }

    /// Changed options are in force; the answer names those that act later.
    fn set_options(
        &mut self,
        id: u64,
        options: Options,
        own: &BTreeMap<VolumeNumber, DiskOptions>,
    ) {
        let old = self.config.clone();
        let frozen = self.io_frozen();
        self.config.options = options;
        for config in &mut self.config.volumes {
            config.disk_options = own.get(&config.number).copied();
        }
        let mut changes = changes(&old.name, &old.options, &self.config.options, "");
        for volume in self.volumes() {
            let after = self.config.disk_options(volume);
            let before = old.options.with_disk(old.disk_options(volume));
            let name = self.of_volume(volume);
            let name = name.trim_end_matches([':', ' ']);
            if self.config.options.disk() != after || old.options.disk() != before.disk() {
                let after = self.config.options.with_disk(after);
                changes.extend(self::changes(name, &before, &after, "disk"));
            }
            for connection in &mut self.connections {
                let peer = connection.peer_devices.get_mut(&volume);
                let Some(peer) = peer else { continue };
                let rates = peer.target.as_mut().map(|target| &mut target.rate).into_iter();
                let verify = peer.verify.as_mut().map(|verify| &mut verify.rate);
                rates.chain(verify).for_each(|rate| rate.set_options(&after));
            }
        }
        for volume in self.volumes() {
            let flushed = old.options.with_disk(old.disk_options(volume)).disk_flushes;
            if self.config.disk_options(volume).disk_flushes && !flushed {
                // What was answered as flushed is, from here on: a Primary asks for that once.
                self.flush_disk(volume, Then::Log);
            }
        }
        let mut later = Vec::new();
        for (text, when) in changes {
            self.log(LogLevel::Info, text);
            later.extend(when);
        }
        self.look_at_all_disks();
        self.frozen_or_not(frozen);
        self.changed();
        self.reply(id, Ok(later.join("; ")));
    }

    /// An order of several steps begins.
    pub(crate) fn run(&mut self, id: u64, command: Command, step: Step) {
        let since = self.now;
        self.order_step += 1;
        self.running = Some(Running { id, command, step, waiting: 0, since });
    }

    /// What follows when one volume has finished the step that runs now.
    pub(crate) fn then_order(&self) -> Then {
        Then::Order { step: self.order_step }
    }

    pub(crate) fn step(&mut self, step: Step) {
        self.order_step += 1;
        let now = self.now;
        if let Some(running) = self.running.as_mut() {
            running.step = step;
            running.waiting = 0;
            if step.changes_role() {
                // A disk has its own patience, whatever was waited for before.
                running.since = now;
            }
        }
    }

    pub(crate) fn step_waits(&mut self, count: u32) {
        if let Some(running) = self.running.as_mut() {
            running.waiting += count;
        }
    }

    /// The disk is marked as that of a Primary; the order goes on when that is durable.
    pub(crate) fn save_as_primary(&mut self, volume: VolumeNumber) {
        let connected = self.connections.iter().any(|c| c.stage == Stage::Open);
        if let Some(backing) = self.device(volume).backing.as_mut() {
            if connected {
                backing.mark_role(Role::Primary);
            }
            backing.flags(DeviceFlags::PRIMARY_IND, 0);
        }
        let then = self.then_order();
        self.save_superblock(volume, then);
    }

    /// The running order is done.
    pub(crate) fn finish(&mut self, result: AdminResult) {
        if let Some(running) = self.running.take() {
            self.draining = false;
            if self.role != Role::Primary {
                self.fence_nobody();
                self.forget_what_was_fenced();
            }
            self.changed();
            match (running.id, &running.command, &result) {
                (OWN_ORDER, Command::HandOver, Err(refusal)) => self.hand_over_ended(&refusal.hint),
                (OWN_ORDER, _, Err(refusal)) => self.auto_demotion_refused(&refusal.hint),
                _ => {}
            }
            self.is_down = result.is_ok() && matches!(running.command, Command::Down { .. });
            // Nothing starts on a resource that is down, and no disk is left with it.
            let behind = self.is_down.then(|| std::mem::take(&mut self.orders));
            for order in behind.into_iter().flatten() {
                self.reply(order.id, Err(taken_down()));
            }
            self.reply(running.id, result);
        }
    }

    /// One volume has finished this step.
    pub(crate) fn order_step_done(&mut self, step: u64) {
        if step != self.order_step {
            return;
        }
        let Some(running) = self.running.as_mut() else { return };
        running.waiting = running.waiting.saturating_sub(1);
        if running.waiting == 0 {
            self.next_step();
        }
    }

    /// The disk of one volume has failed in this step. Of an order that is nothing but what it makes
    /// durable, nobody may hear that it is done: the disk may come back as it was.
    pub(crate) fn order_step_without_disk(&mut self, step: u64) {
        let saves = self.running.as_ref().is_some_and(|running| {
            let detaches = matches!(running.command, Command::Detach { force: false, .. });
            running.step == Step::Save || running.step == Step::DetachFlush && detaches
        });
        if !saves || step != self.order_step {
            return self.order_step_done(step);
        }
        let hint = "The disk failed before that was durable: attached again, it may be as it was before \
                    the order. `tandemadm why` and the log name the error; give the order again then.";
        self.finish(Err(refuse(118, hint)));
    }

    /// All volumes have finished the step.
    pub(crate) fn next_step(&mut self) {
        let Some(running) = self.running.as_ref() else { return };
        match running.step {
            Step::ForceFlush => self.promote_save(),
            Step::PromoteSave => self.promoted(),
            Step::Flush => self.order_flushed(),
            Step::Bits => self.demote_save(),
            Step::DemoteSave => self.demoted(),
            Step::DetachFlush => self.detach_bits(),
            Step::DetachBits => self.step(Step::DetachIdle),
            Step::Save => self.finish(Ok(String::new())),
            Step::ClearSave => self.cleared(),
            Step::TakeBack => self.hand_over_was_taken_back(),
            Step::Sample
            | Step::Grow
            | Step::PeerGrows
            | Step::Resize
            | Step::PeerClears
            | Step::Attach
            | Step::AskPeer
            | Step::AskHandOver
            | Step::Hush
            | Step::Devices
            | Step::Fence
            | Step::Clients
            | Step::AskVerify
            | Step::AskResync
            | Step::Drain
            | Step::Settle
            | Step::Leave
            | Step::DetachIdle => {}
        }
    }

    /// Steps that wait for a state.
    fn pump_running(&mut self) {
        self.order_meets_hung_disks();
        self.pump_hand_over();
        let Some(running) = self.running.as_ref() else { return };
        let waited = self.now.ms_since(running.since);
        if running.is_forced_detach() && waited >= self.config.options.timeout_ms {
            return self.detach_gives_up();
        }
        match running.step {
            Step::AskResync if waited >= PATIENCE_MS => self.resync_order_late(),
            Step::AskHandOver if waited >= PATIENCE_MS => self.hand_over_is_late(),
            Step::PeerGrows if waited >= PATIENCE_MS => {
                let hint = "The peer's disk does not answer: `tandemadm why` there.";
                self.resize_ends(Err(refuse(-23, hint)));
            }
            Step::Sample | Step::PeerClears => self.sampling_may_be_late(),
            Step::Clients => self.clients_may_have_left(),
            Step::Drain if self.is_idle() => self.order_drained(),
            Step::Fence if self.a_later_order_demotes() => {
                let hint = "A later order ends the wait for the handler fence-peer";
                self.fence_nobody();
                self.finish(Err(refuse(-18, hint)));
            }
            Step::Fence if self.promotion_is_fenced() => self.promote_fenced(),
            _ if Self::refused_at(running).is_some_and(|at| at <= self.now) => {
                let hint = self.late_refusal();
                self.finish(Err(refuse(-23, &hint)));
            }
            Step::Settle => self.settled(),
            Step::DetachIdle => self.order_detach_idle(),
            Step::Leave if self.leave_due().is_some_and(|at| at <= self.now) => {
                self.leave_is_late()
            }
            Step::Leave if self.connections.iter().all(|c| c.leaving.is_none()) => {
                // A leave that ended as a loss: this node says durably that it survived, before it
                // lets go of its disks (model.md R3).
                let down = matches!(running.command, Command::Down { .. });
                if !down || self.is_idle() {
                    self.left_all();
                }
            }
            _ => {}
        }
    }

    pub(crate) fn order_step_check(&mut self) {
        self.pump_running();
    }

    /// This process did not run: nobody has waited meanwhile.
    pub(crate) fn orders_start_anew(&mut self) {
        let now = self.now;
        self.sampling_starts_anew();
        let waiting = self.orders.iter_mut().map(|order| &mut order.since);
        let running = self.running.iter_mut().map(|order| &mut order.since);
        let tried = self.connections.iter_mut().filter_map(|c| c.tentative.as_mut());
        let tried = tried.map(|one| &mut one.since);
        waiting.chain(running).chain(tried).for_each(|since| *since = now);
    }

    /// The disks that the running order is about.
    pub(crate) fn order_volumes(&self) -> Vec<VolumeNumber> {
        match self.running.as_ref().map(|running| &running.command) {
            Some(
                Command::Detach { volume, .. }
                | Command::Outdate { volume }
                | Command::Invalidate { volume }
                | Command::InvalidateRemote { volume, .. }
                | Command::Repair { volume, .. }
                | Command::NewCurrentUuid { volume, .. }
                | Command::Resize { volume, .. },
            ) => vec![*volume],
            _ => self.volumes(),
        }
    }

    // ---- connect ----

    fn connect(&mut self, id: u64, peer: u8, discard_my_data: bool, tentative: bool) {
        let Some(c) = self.peers().find(|c| self.connections[*c].peer == peer) else {
            return self.reply(id, Err(refuse(127, "No such peer in this resource")));
        };
        match self.connections[c].state {
            ConnectionState::Connected if discard_my_data => {
                let hint = "Already connected: there is nothing to discard.";
                return self.reply(id, Err(refuse(125, hint)));
            }
            ConnectionState::Connected if tentative => {
                let text = format!("already connected to {}", self.connections[c].name);
                return self.reply(id, Ok(text));
            }
            ConnectionState::Connected => return self.reply(id, Ok(String::new())),
            _ => {}
        }
        if self.connections[c].tentative.is_some() {
            let hint = "`connect --tentative` waits for the peer; `tandemadm disconnect` ends it.";
            return self.reply(id, Err(refuse(-18, hint)));
        }
        if discard_my_data && self.role == Role::Primary {
            let hint = format!("Demote first: tandemadm secondary {}", self.config.name);
            return self.reply(id, Err(refuse(123, &hint)));
        }
        if !tentative {
            self.comes_back(c, None);
        }
        self.connections[c].discard_my_data |= discard_my_data;
        let since = self.now;
        self.connections[c].tentative = tentative.then_some(Tentative { id, since });
        if self.connections[c].state == ConnectionState::StandAlone {
            self.dials_by_order(c);
        }
        self.changed();
        if !tentative {
            self.reply(id, Ok(String::new()));
        }
    }
}
