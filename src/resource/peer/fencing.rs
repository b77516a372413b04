//! Fencing: a Primary that has lost its peer has it kept from being promoted, by the handler
//! fence-peer, and with `resource-and-stonith` nothing is answered before.
//!
//! Invariants (model.md R16):
//! - fence-peer is started only when every disk's loss sequence is over: the own copy is flushed and
//!   SURVIVED is durable.
//! - While I/O is frozen no request starts, none is answered that rests on this disk alone, and no
//!   new current UUID is made.
//! - An answer counts only if the peer has not been met since fence-peer was started; it lowers what
//!   is known of the peer's disk, and nothing else lifts the freeze but the peer itself, `resume-io`
//!   or the end of being Primary.
//! - fence-peer and unfence-peer of a peer never run at once.
//! - While I/O is frozen and the peer is away, a fence-peer that gave no answer is asked again and again, in
//!   pauses that grow to [`LONGEST_PAUSE_MS`]: the peer may have been fenced meanwhile.

use crate::resource::disk::device::{Loss, Progress};
use crate::resource::orders::order::{PATIENCE_MS, Step, refuse};
use crate::resource::peer::connection::{PeerDevice, Stage};
use crate::resource::peer::handlers::Called;
use crate::resource::{
    Command, DiskState, Fencing, FencingStatus, Gap, Handler, HandlerOutcome, LogLevel, NodeId,
    Refusal, ReplicationState, ReplyError, Resource, Role, Time, VolumeNumber,
};

/// From no answer of fence-peer to the next time it is asked: twice as long after each.
const FIRST_PAUSE_MS: u64 = 5_000;
const LONGEST_PAUSE_MS: u64 = 60_000;

/// How far fencing a peer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing is asked.
    #[default]
    Idle,
    /// fence-peer is to be started, as soon as the loss is dealt with.
    Due,
    /// Its answer is waited for.
    Asked,
    /// It has ended, and the peer may still be promoted.
    Unanswered,
}

/// Fencing, for one peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerFencing {
    pub(crate) phase: Phase,
    /// I/O waits for it, where the policy says so.
    pub(crate) holds: bool,
    /// fence-peer runs, also where its answer counts no more.
    pub(crate) running: Option<u64>,
    /// unfence-peer runs.
    pub(crate) unfencing: bool,
    /// The peer is to be unfenced once it has all data.
    pub(crate) unfence_due: bool,
    /// When unfence-peer is tried again, which has failed so often.
    pub(crate) unfence_again: Option<(Time, u32)>,
    /// fence-peer was started, and nothing has been unfenced since.
    pub(crate) called: bool,
    /// The peer was met since fence-peer was started.
    pub(crate) met: bool,
    /// Since when the phase holds.
    pub(crate) since: Time,
    /// How fence-peer ended, where that was no answer.
    pub(crate) outcome: Option<HandlerOutcome>,
    /// How often it was asked for nothing.
    pub(crate) unanswered: u32,
    /// An answer did not count, for the peer was met meanwhile, since a promotion has begun to wait for it.
    pub(crate) voided: bool,
    /// What is known of the peer's disks is what fence-peer has said.
    pub(crate) vouched: bool,
}

impl Resource {
    fn policy(&self) -> Fencing {
        self.config.options.fencing
    }

    /// I/O waits until the peer is fenced, is back, or somebody decides (`susp-fen`).
    pub(crate) fn io_frozen(&self) -> bool {
        self.policy() == Fencing::ResourceAndStonith
            && self.role == Role::Primary
            && self.connections.iter().any(|c| c.fencing.holds)
    }

    /// The peer's disks, as far as is known, allow it to be promoted.
    fn may_be_promoted_there(&self, c: usize) -> bool {
        self.connections[c].peer_devices.values().any(|peer| {
            peer.peer_disk > DiskState::Outdated
                // It may be UpToDate by now, and have said so to nobody.
                || peer.source.as_ref().is_some_and(|source| source.end_sent)
        })
    }

    /// The session of a peer has ended, and not in order: called before anything of it is settled.
    pub(crate) fn fence_lost_peer(&mut self, c: usize, was: Stage) {
        let met = was >= Stage::Opening || self.connections[c].peer_devices.values().any(is_on);
        if self.role == Role::Primary && met && self.may_be_promoted_there(c) {
            self.begin_fencing(c);
        }
    }

    /// The peer is to be fenced.
    pub(crate) fn begin_fencing(&mut self, c: usize) {
        if self.policy() == Fencing::DontCare || self.connections[c].fencing.phase != Phase::Idle {
            return;
        }
        let frozen = self.io_frozen();
        self.set_phase(c, Phase::Due);
        self.connections[c].fencing.unanswered = 0;
        self.connections[c].fencing.holds = true;
        self.frozen_or_not(frozen);
    }

    fn set_phase(&mut self, c: usize, phase: Phase) {
        let now = self.now;
        let fencing = &mut self.connections[c].fencing;
        if fencing.phase != phase {
            fencing.phase = phase;
            fencing.since = now;
            self.changed();
        }
    }

    /// Says whether I/O is frozen now, where that has changed; if it goes on, it goes on.
    pub(crate) fn frozen_or_not(&mut self, was: bool) {
        let is = self.io_frozen();
        if was == is {
            return;
        }
        let word = |yes: bool| if yes { "yes" } else { "no" };
        let (old, to) = (word(was), word(is));
        self.log(LogLevel::Info, format!("{}: susp-fen( {old} -> {to} )", self.config.name));
        self.changed();
        if !is {
            self.thaw();
        }
    }

    /// Replies that waited for the answer rest on this disk alone: now that is recorded first.
    fn thaw(&mut self) {
        self.record_what_nobody_heard();
        for volume in self.volumes() {
            let device = self.device(volume);
            let due = device.loss == Loss::None && std::mem::take(&mut device.bump_due);
            if due && self.alone_is_recorded(volume) {
                self.device(volume).unheard = false;
            }
            self.after_alone(volume);
        }
    }

    /// Writes of clients that left while I/O was frozen can be read from now on, and rest on this disk
    /// alone. In a handshake it waits for its end: the peer may get them yet.
    fn record_what_nobody_heard(&mut self) {
        let alone = self.connections.iter().all(|c| c.stage <= Stage::Waiting);
        let primary = self.role == Role::Primary && self.gap == Gap::None;
        if alone && primary && !self.io_frozen() && self.devices.values().any(|d| d.unheard) {
            self.record_unheard();
        }
    }

    /// Nobody is asked about the peer any more: it is back, or this node is no Primary.
    pub(crate) fn end_fencing(&mut self, c: usize) {
        let frozen = self.io_frozen();
        self.connections[c].fencing.holds = false;
        self.connections[c].fencing.outcome = None;
        self.set_phase(c, Phase::Idle);
        self.frozen_or_not(frozen);
    }

    /// The session is open: what was to be fenced is connected.
    pub(crate) fn fencing_connected(&mut self, c: usize) {
        self.end_fencing(c);
        if self.gap == Gap::None {
            // The peer gets them: their bits are set.
            self.forget_unheard();
        }
        let fencing = &mut self.connections[c].fencing;
        fencing.met = true;
        fencing.vouched = false;
        fencing.unfence_due |= fencing.called;
    }

    /// A resync to the peer has ended.
    pub(crate) fn fencing_synced(&mut self, c: usize) {
        self.connections[c].fencing.unfence_due |= self.policy() != Fencing::DontCare;
    }

    /// This node is no Primary any more, or its promotion has ended.
    pub(crate) fn fence_nobody(&mut self) {
        for c in self.peers() {
            self.end_fencing(c);
        }
    }

    /// A Secondary knows nothing of its peer by fence-peer: the handler's work is undone with a demotion, or
    /// when the promotion that asked was refused. Who is promoted next asks anew.
    pub(crate) fn forget_what_was_fenced(&mut self) {
        for c in self.peers() {
            let vouched = std::mem::take(&mut self.connections[c].fencing.vouched);
            if !vouched || self.connections[c].stage == Stage::Open {
                continue;
            }
            for volume in self.volumes() {
                let known = self.connections[c].peer_devices[&volume].peer_disk;
                if matches!(known, DiskState::Inconsistent | DiskState::Outdated) {
                    self.set_peer_disk(c, volume, DiskState::DUnknown);
                }
            }
        }
    }

    /// Starts what may be started.
    pub(crate) fn pump_fencing(&mut self) {
        self.record_what_nobody_heard();
        for c in self.peers() {
            let fencing = &self.connections[c].fencing;
            if fencing.phase == Phase::Idle && !fencing.unfence_due {
                continue;
            }
            if self.ask_again_at(c).is_some_and(|at| at <= self.now) {
                self.set_phase(c, Phase::Due);
            }
            let fencing = &self.connections[c].fencing;
            if fencing.running.is_some() || fencing.unfencing {
                continue;
            }
            if fencing.phase == Phase::Due {
                self.may_ask_fence_peer(c);
            } else if fencing.phase == Phase::Idle && self.is_in_sync(c) {
                let again = fencing.unfence_again;
                if again.is_none_or(|(at, _)| at <= self.now) {
                    self.unfence(c);
                }
            }
        }
    }

    /// When fence-peer is asked again: I/O is frozen, and it gave no answer. Who has no good disk has nothing to go on with.
    pub(crate) fn ask_again_at(&self, c: usize) -> Option<Time> {
        let fencing = &self.connections[c].fencing;
        if fencing.phase != Phase::Unanswered || !fencing.holds {
            return None;
        }
        if !self.has_good_disk() || !self.io_frozen() || !self.has_handler(Handler::FencePeer) {
            return None;
        }
        Some(fencing.since.after_ms(pause_ms(fencing.unanswered)))
    }

    /// When unfence-peer is tried again: it has failed, and what fence-peer has left behind stays.
    pub(crate) fn unfence_again_at(&self, c: usize) -> Option<Time> {
        let fencing = &self.connections[c].fencing;
        let waits = fencing.unfence_due && !fencing.unfencing && fencing.phase == Phase::Idle;
        let again = fencing.unfence_again.filter(|_| waits && self.is_in_sync(c));
        again.map(|(at, _)| at).filter(|at| *at > self.now)
    }

    fn has_good_disk(&self) -> bool {
        self.devices.values().any(|device| device.disk >= DiskState::Consistent)
    }

    fn may_ask_fence_peer(&mut self, c: usize) {
        let away = matches!(self.connections[c].stage, Stage::Down | Stage::Waiting);
        let settled = self.devices.values().all(|device| device.loss == Loss::None);
        if !away || !settled || self.gap != Gap::None {
            return;
        }
        let waits = self.running.as_ref().filter(|order| order.step == Step::Fence);
        let late = waits.is_some_and(|order| self.now.ms_since(order.since) >= PATIENCE_MS);
        if late && self.connections[c].fencing.voided {
            let running = self.running.as_ref().map(|order| &order.command);
            if matches!(running, Some(Command::Primary { force: Some(_) })) {
                // It goes ahead without an answer.
                return self.set_phase(c, Phase::Unanswered);
            }
            // It comes and goes: a promotion does not wait for one handler after the other.
            let (peer, name) = (&self.connections[c].name, &self.config.name);
            let hint = format!(
                "{peer} was met while fence-peer ran, and is away again: its answer did not count. Try again, or \
                 see to the link first (`tandemadm why {name}`)."
            );
            return self.finish(Err(refuse(-18, &hint)));
        }
        if !self.has_good_disk() {
            let text =
                format!("{}Not fencing peer, I'm not even Consistent myself.", self.of_peer(c));
            self.log(LogLevel::Warning, text);
            return self.end_fencing(c);
        }
        let limit_ms = self.config.options.handler_timeout_ms;
        let called = Called::Fence { c };
        let number = self.call_handler(Handler::FencePeer, None, Some(c), called, limit_ms);
        let fencing = &mut self.connections[c].fencing;
        fencing.running = number;
        fencing.called |= number.is_some();
        fencing.met = false;
        fencing.outcome = None;
        if number.is_none() {
            let frozen = if self.io_frozen() { "; I/O stays frozen" } else { "" };
            let text = format!(
                "{}there is no handler fence-peer: nobody keeps the peer from being promoted{frozen}",
                self.of_peer(c)
            );
            self.log(LogLevel::Error, text);
        }
        let fencing = &mut self.connections[c].fencing;
        fencing.unanswered += u32::from(number.is_none());
        let phase = if number.is_some() { Phase::Asked } else { Phase::Unanswered };
        self.set_phase(c, phase);
    }

    /// fence-peer has ended. What its code means is DRBD's.
    pub(crate) fn fence_answered(&mut self, c: usize, number: u64, outcome: HandlerOutcome) {
        let prefix = self.of_peer(c);
        let away = matches!(self.connections[c].stage, Stage::Down | Stage::Waiting);
        let fencing = &mut self.connections[c].fencing;
        if fencing.running == Some(number) {
            fencing.running = None;
        }
        self.changed();
        let fencing = &self.connections[c].fencing;
        if fencing.phase != Phase::Asked || fencing.met || !away {
            let text = format!(
                "{prefix}fence-peer helper {outcome}: Ignoring fence-peer exit code, the peer was met \
                 meanwhile or it was decided otherwise"
            );
            self.log(LogLevel::Info, text);
            if self.connections[c].fencing.phase == Phase::Asked {
                // It is asked again if the peer is lost before it is connected.
                self.connections[c].fencing.voided = true;
                self.set_phase(c, Phase::Due);
            }
            return;
        }
        let own = self.devices.values().map(|device| device.disk).max();
        let up_to_date = own == Some(DiskState::UpToDate);
        let (meaning, peer) = match outcome {
            HandlerOutcome::Exited(3) => {
                ("peer is inconsistent or worse", Some(DiskState::Inconsistent))
            }
            HandlerOutcome::Exited(4) => ("peer was fenced", Some(DiskState::Outdated)),
            HandlerOutcome::Exited(5) if up_to_date => {
                ("peer is unreachable, assumed to be dead", Some(DiskState::Outdated))
            }
            HandlerOutcome::Exited(5) => {
                ("peer unreachable, doing nothing since disk != UpToDate", None)
            }
            HandlerOutcome::Exited(6) => ("peer is active", None),
            HandlerOutcome::Exited(7) => ("peer was stonithed", Some(DiskState::Outdated)),
            _ => ("broken", None),
        };
        let level = if peer.is_some() { LogLevel::Info } else { LogLevel::Error };
        self.log(level, format!("{prefix}fence-peer helper {outcome} ({meaning})"));
        if outcome == HandlerOutcome::Exited(6) {
            self.peer_is_active(c);
        }
        for volume in self.volumes() {
            let known = self.connections[c].peer_devices[&volume].peer_disk;
            if let Some(disk) = peer.filter(|disk| *disk < known) {
                self.set_peer_disk(c, volume, disk);
                self.connections[c].fencing.vouched = true;
            }
        }
        if !self.may_be_promoted_there(c) {
            return self.end_fencing(c);
        }
        let fencing = &mut self.connections[c].fencing;
        fencing.outcome = Some(outcome);
        fencing.unanswered += 1;
        self.set_phase(c, Phase::Unanswered);
        if self.io_frozen() {
            let again = self.ask_again_at(c).map_or(String::new(), |at| {
                format!(", fence-peer is asked again in {} s", at.ms_since(self.now) / 1000)
            });
            let name = &self.config.name;
            let text = format!("{prefix}I/O stays frozen{again}; next: tandemadm why {name}");
            self.log(LogLevel::Error, text);
        }
    }

    /// Somebody else is Primary. A node that was to be promoted marks itself; a Primary keeps its
    /// disk as it is: its clients have seen it.
    fn peer_is_active(&mut self, c: usize) {
        if self.role == Role::Primary {
            return;
        }
        let text = format!("{}Peer is primary, outdating myself.", self.of_peer(c));
        self.log(LogLevel::Warning, text);
        for volume in self.volumes() {
            self.outdate_disk(volume);
        }
    }

    // ---- unfence ----

    /// Both sides of every volume are UpToDate.
    fn is_in_sync(&self, c: usize) -> bool {
        self.connections[c].stage == Stage::Open
            && self.devices.iter().all(|(volume, device)| {
                let peer = self.connections[c].peer_devices[volume].peer_disk;
                (device.disk, peer) == (DiskState::UpToDate, DiskState::UpToDate)
            })
    }

    fn unfence(&mut self, c: usize) {
        let limit_ms = self.config.options.handler_timeout_ms;
        let called = Called::Unfence { c };
        let number = self.call_handler(Handler::UnfencePeer, None, Some(c), called, limit_ms);
        let fencing = &mut self.connections[c].fencing;
        fencing.unfencing = number.is_some();
        (fencing.unfence_due, fencing.called) = (false, false);
    }

    /// `unfence-peer`: what a handler left behind that failed, DRBD's agent has removed so.
    pub(crate) fn unfence_by_order(&mut self, id: u64, peer: NodeId) {
        let name = self.config.name.clone();
        let Some(c) = self.peers().find(|c| self.connections[*c].peer == peer) else {
            return self.reply(id, Err(refuse(127, "No such peer in this resource")));
        };
        if !self.has_handler(Handler::UnfencePeer) {
            return self.reply(id, Ok(format!("{name} has no handler unfence-peer")));
        }
        if !self.is_in_sync(c) {
            let hint = format!(
                "Not every disk of both nodes is UpToDate and connected: it stays fenced. When the resync \
                 has ended the handler runs by itself (`tandemadm status {name}`)."
            );
            return self.reply(id, Err(refuse(-2, &hint)));
        }
        let fencing = &mut self.connections[c].fencing;
        (fencing.unfence_due, fencing.unfence_again) = (true, None);
        self.reply(id, Ok(String::new()));
    }

    pub(crate) fn unfence_answered(&mut self, c: usize, outcome: HandlerOutcome) {
        let now = self.now;
        let fencing = &mut self.connections[c].fencing;
        fencing.unfencing = false;
        let (level, again) = match outcome {
            HandlerOutcome::Exited(0) => {
                fencing.unfence_again = None;
                (LogLevel::Info, String::new())
            }
            // It was ordered meanwhile, or is due again.
            _ if fencing.unfence_due => (LogLevel::Error, String::new()),
            _ => {
                // What is left behind would keep the peer from being promoted.
                let failed = fencing.unfence_again.map_or(0, |(_, failed)| failed) + 1;
                let pause = pause_ms(failed);
                fencing.unfence_again = Some((now.after_ms(pause), failed));
                fencing.unfence_due = true;
                (LogLevel::Error, format!(", it is tried again in {} s", pause / 1000))
            }
        };
        let text = format!("{}unfence-peer helper {outcome}{again}", self.of_peer(c));
        self.log(level, text);
        self.changed();
    }

    // ---- requests that are under way while I/O is frozen ----

    /// The peer is back: what waits for an answer starts over once the session is open. Its bits
    /// stay set.
    pub(crate) fn hold_frozen(&mut self) {
        if !self.io_frozen() {
            return;
        }
        for volume in self.volumes() {
            let waiting = std::mem::take(&mut self.device(volume).waiting_alone);
            for key in waiting.into_iter().rev() {
                self.hold_started(volume, key);
            }
            let flush = self.device(volume).flush.as_mut();
            let done = flush.filter(|flush| !flush.local && flush.peers == 0);
            for key in done.map(|flush| std::mem::take(&mut flush.requests)).into_iter().flatten() {
                self.hold_flush(key);
            }
            self.flush_completed(volume);
        }
    }

    fn hold_flush(&mut self, key: u64) {
        if let Some(request) = self.requests.get_mut(key) {
            request.progress = Progress::Held;
            self.admitted -= 1;
            self.held.push_front(key);
        }
    }

    /// A flush of clients is not answered while I/O is frozen. Whether it waits; who has gone
    /// meanwhile is let go.
    pub(crate) fn flush_is_frozen(&mut self, volume: VolumeNumber) -> bool {
        if !self.io_frozen() {
            return false;
        }
        let Some(flush) = self.device(volume).flush.as_mut() else { return false };
        let requests = std::mem::take(&mut flush.requests);
        let here = |key: &u64| {
            let request = self.requests.get(*key);
            request.is_some_and(|request| self.sessions.contains_key(&request.session))
        };
        let (stay, gone): (Vec<u64>, Vec<u64>) = requests.into_iter().partition(here);
        let waits = !stay.is_empty();
        if let Some(flush) = self.device(volume).flush.as_mut() {
            flush.requests = stay;
        }
        for key in gone {
            self.answer(key, Err(ReplyError::Shutdown));
        }
        waits
    }

    // ---- promotion ----

    /// Peers that are away and may have been promoted, or may yet.
    pub(crate) fn unfenced(&self) -> Vec<usize> {
        let asks = self.policy() != Fencing::DontCare;
        let away = |c: &usize| self.connections[*c].stage != Stage::Open;
        self.peers().filter(|c| asks && away(c) && self.may_be_promoted_there(*c)).collect()
    }

    /// The disk is only not promoted because nobody has said that it is the newest: a fenced peer
    /// says so (DESIGN 5).
    pub(crate) fn fencing_would_do(&self, volume: VolumeNumber) -> bool {
        let device = &self.devices[&volume];
        let created = device.backing.as_ref().is_some_and(|backing| backing.is_just_created());
        device.disk == DiskState::Consistent && device.writable() && !created
    }

    /// A promotion waits for fence-peer: whether every answer is there.
    pub(crate) fn promotion_is_fenced(&self) -> bool {
        let waits = |phase| matches!(phase, Phase::Due | Phase::Asked);
        !self.in_handshake() && !self.connections.iter().any(|c| waits(c.fencing.phase))
    }

    /// Asks fence-peer about every peer that is away.
    pub(crate) fn fence_for_promotion(&mut self, peers: Vec<usize>) {
        self.step(Step::Fence);
        for c in peers {
            self.connections[c].fencing.outcome = None;
            self.connections[c].fencing.voided = false;
            self.set_phase(c, Phase::Due);
        }
        self.pump_fencing();
    }

    /// Every answer is there: Consistent disks are the newest if nobody else can be promoted.
    pub(crate) fn fenced_for_promotion(&mut self) -> Result<(), Refusal> {
        let unfenced = self.unfenced();
        if unfenced.is_empty() && self.connections.iter().all(|c| c.stage != Stage::Open) {
            for volume in self.volumes() {
                if self.fencing_would_do(volume) {
                    self.set_disk(volume, DiskState::UpToDate);
                }
            }
        }
        let Some(c) = unfenced.first().copied() else { return Ok(()) };
        let (peer, name) = (&self.connections[c].name, &self.config.name);
        let outcome = match self.connections[c].fencing.outcome {
            Some(outcome) => format!("the handler fence-peer {outcome}"),
            None if self.has_handler(Handler::FencePeer) => "fence-peer gave no answer".to_owned(),
            None => "there is no handler fence-peer".to_owned(),
        };
        let hint = format!(
            "{peer} is not connected and may be Primary, or become it: {outcome}. Connect it, or outdate \
             it there (`tandemadm outdate {name}`) and see why the handler does not; `tandemadm primary \
             --force {name}` goes ahead all the same."
        );
        Err(refuse(-7, &hint))
    }

    // ---- orders ----

    /// `resume-io` also ends a freeze for fencing: whoever gives it vouches for the peer.
    pub(crate) fn resume_frozen_io(&mut self) {
        let frozen = self.io_frozen();
        for connection in &mut self.connections {
            connection.fencing.holds = false;
        }
        self.frozen_or_not(frozen);
    }

    /// For people.
    pub(crate) fn fencing_status(&self, c: usize, now: Time) -> Option<FencingStatus> {
        let fencing = &self.connections[c].fencing;
        if fencing.phase == Phase::Idle {
            return None;
        }
        Some(FencingStatus {
            running: fencing.phase == Phase::Asked,
            for_ms: now.ms_since(fencing.since),
            outcome: fencing.outcome.map(|outcome| outcome.to_string()).unwrap_or_default(),
            configured: self.has_handler(Handler::FencePeer),
            limit_ms: self.config.options.handler_timeout_ms,
            again_ms: self.ask_again_at(c).map(|at| at.ms_since(now)),
        })
    }
}

/// From one time to the next, after so many in vain, ms.
fn pause_ms(in_vain: u32) -> u64 {
    (FIRST_PAUSE_MS << in_vain.saturating_sub(1).min(8)).min(LONGEST_PAUSE_MS)
}

fn is_on(peer: &PeerDevice) -> bool {
    peer.replication != ReplicationState::Off
}
