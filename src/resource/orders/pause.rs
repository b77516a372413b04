//! What is held back by order: a resync by `pause-sync` or for another one, clients' I/O by
//! `suspend-io`.
//!
//! Invariants:
//! - A resync is paused while a flag of either side is set; only the target asks, so it alone stops.
//!   Writes of clients go on, and clear bits as in a running resync.
//! - The own flags outlive sessions, not the resource; the peer's end with the session.
//! - Requests that are held by `suspend-io` are not failed; what was admitted before goes on.

use crate::resource::orders::order::{NO_VOLUME, refuse};
use crate::resource::peer::connection::Stage;
use crate::resource::{
    AdminResult, LogLevel, NodeId, ReplicationState, Resource, Time, VolumeNumber,
};
use crate::wire::Packet;

/// Why a resync is held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pause {
    /// `pause-sync` here.
    pub(crate) user: bool,
    /// The peer holds it back.
    pub(crate) peer: bool,
    /// Another resync of this node goes first.
    pub(crate) dependency: bool,
}

impl Pause {
    /// This node holds it back: what the peer is told.
    pub(crate) fn own(self) -> bool {
        self.user || self.dependency
    }

    /// It stands still.
    pub(crate) fn any(self) -> bool {
        self.own() || self.peer
    }
}

/// How long a resync has stood still.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PauseClock {
    since: Option<Time>,
    before_ms: u64,
}

impl PauseClock {
    pub(crate) fn new(paused: bool, now: Time) -> Self {
        Self { since: paused.then_some(now), before_ms: 0 }
    }

    /// All pauses together, ms.
    pub(crate) fn total_ms(self, now: Time) -> u64 {
        self.before_ms + self.since.map_or(0, |since| now.ms_since(since))
    }

    fn set(&mut self, paused: bool, now: Time) {
        if paused == self.since.is_some() {
            return;
        }
        self.before_ms = self.total_ms(now);
        self.since = paused.then_some(now);
    }
}

impl Resource {
    /// `pause-sync` and `resume-sync`.
    pub(crate) fn pause_sync(&mut self, id: u64, volume: VolumeNumber, peer: NodeId, pause: bool) {
        let result = self.try_pause(volume, peer, pause);
        self.reply(id, result);
    }

    fn try_pause(&mut self, volume: VolumeNumber, peer: NodeId, pause: bool) -> AdminResult {
        let Some(c) = self.peers().find(|c| self.connections[*c].peer == peer) else {
            return Err(refuse(171, "No such peer in this resource."));
        };
        if !self.devices.contains_key(&volume) {
            return Err(refuse(127, NO_VOLUME));
        }
        let flags = self.peer_device(c, volume).pause;
        match (pause, flags) {
            (true, Pause { user: true, .. }) => {
                let hint = format!("`tandemadm resume-sync {}` lets it go on.", self.config.name);
                return Err(refuse(134, &hint));
            }
            (false, Pause { user: false, dependency: true, .. }) => {
                let hint = "Another resync of this node goes first: `tandemadm status` shows it.";
                return Err(refuse(156, hint));
            }
            (false, Pause { user: false, peer: true, .. }) => {
                let hint = format!(
                    "`tandemadm resume-sync {}` on {}: it was paused there.",
                    self.config.name, self.connections[c].name
                );
                return Err(refuse(157, &hint));
            }
            (false, Pause { user: false, .. }) => {
                return Err(refuse(135, "Nobody holds a resync back."));
            }
            _ => {}
        }
        self.set_pause(c, volume, Pause { user: pause, ..flags });
        Ok(String::new())
    }

    /// Another resync of this node goes first, or does no more.
    pub(crate) fn resync_dependency(&mut self, volume: VolumeNumber, peer: NodeId, paused: bool) {
        let c = self.peers().find(|c| self.connections[*c].peer == peer);
        let Some(c) = c.filter(|_| self.devices.contains_key(&volume)) else { return };
        let flags = self.peer_device(c, volume).pause;
        self.set_pause(c, volume, Pause { dependency: paused, ..flags });
    }

    /// The peer holds the resync back, or does no more.
    pub(crate) fn peer_pauses(&mut self, c: usize, volume: VolumeNumber, paused: bool) {
        let flags = self.peer_device(c, volume).pause;
        self.set_pause(c, volume, Pause { peer: paused, ..flags });
    }

    fn set_pause(&mut self, c: usize, volume: VolumeNumber, to: Pause) {
        let now = self.now;
        let peer = self.peer_device(c, volume);
        let old = std::mem::replace(&mut peer.pause, to);
        if old == to {
            return;
        }
        let state = peer.replication;
        if let Some(target) = peer.target.as_mut() {
            target.pauses.set(to.any(), now);
            if old.any() && !to.any() {
                target.rate.resumed(now);
            }
        }
        if let Some(source) = peer.source.as_mut() {
            source.pauses.set(to.any(), now);
        }
        let flags = [
            ("user", old.user, to.user),
            ("peer", old.peer, to.peer),
            ("dependency", old.dependency, to.dependency),
        ];
        let yes_no = |yes: bool| if yes { "yes" } else { "no" };
        for (name, old, to) in flags.into_iter().filter(|(_, old, to)| old != to) {
            let (old, to) = (yes_no(old), yes_no(to));
            let text = format!("{}resync-susp-{name}( {old} -> {to} )", self.of_both(volume, c));
            self.log(LogLevel::Info, text);
        }
        let shown = self.paused_or_not(c, volume, state);
        self.set_replication(c, volume, shown);
        self.changed();
        if old.own() != to.own() && self.connections[c].stage >= Stage::Opening {
            self.send_state_to(c, volume);
        }
    }

    /// A resync is called paused while it stands still.
    pub(crate) fn paused_or_not(
        &self,
        c: usize,
        volume: VolumeNumber,
        state: ReplicationState,
    ) -> ReplicationState {
        use ReplicationState::{PausedSyncS, PausedSyncT, SyncSource, SyncTarget};
        match (state, self.connections[c].peer_devices[&volume].pause.any()) {
            (SyncSource | PausedSyncS, true) => PausedSyncS,
            (SyncSource | PausedSyncS, false) => SyncSource,
            (SyncTarget | PausedSyncT, true) => PausedSyncT,
            (SyncTarget | PausedSyncT, false) => SyncTarget,
            (other, _) => other,
        }
    }

    /// Tells one peer the own role, disk and pause of a volume.
    pub(crate) fn send_state_to(&mut self, c: usize, volume: VolumeNumber) {
        let (role, disk) = (self.role, self.devices[&volume].disk);
        let paused = self.peer_device(c, volume).pause.own();
        self.send(c, Packet::State { volume, role, disk, paused }, None);
    }

    /// `suspend-io` and `resume-io`: no request of a client is admitted meanwhile.
    pub(crate) fn suspend_io(&mut self, id: u64, suspend: bool) {
        if self.suspended != suspend {
            self.suspended = suspend;
            let word = |yes: bool| if yes { "yes" } else { "no" };
            let (old, to) = (word(!suspend), word(suspend));
            let text = format!("{}: susp-user( {old} -> {to} )", self.config.name);
            self.log(LogLevel::Info, text);
            self.changed();
        }
        if !suspend {
            self.resume_frozen_io();
        }
        self.reply(id, Ok(String::new()));
    }
}
