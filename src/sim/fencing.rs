//! Handlers of the simulated nodes, and the cluster software behind fence-peer.
//!
//! The truth is kept: one of the two nodes may be banned from promotion, which is what the cluster's
//! own memory holds (a location constraint, say). A fence-peer that says that it has fenced the peer
//! has banned it, and one that says 7 has taken its power; one that finds itself banned, or the peer
//! Primary, never says so. How it reaches the peer is no matter of the replication link.
//!
//! Invariant: with honest handlers and `resource-and-stonith` no two nodes make a generation of
//! their own out of one, unless somebody has vouched for it.

use std::collections::BTreeMap;

use crate::meta::{DeviceFlags, Superblock};
use crate::resource::{
    Command, ConnectionState, DiskState, Event, Fencing, Handler, HandlerCall, HandlerOutcome,
    Options, Reason, Role, Status, VolumeNumber,
};

use super::cluster::{Cluster, Happening};
use super::node::Input;
use super::prng::Prng;

/// What the cluster software knows, and what the checker does.
#[derive(Clone, Debug, Default)]
pub(super) struct FencingWorld {
    /// Who may not be promoted.
    banned: Option<usize>,
    /// Who went on alone from a generation of a volume.
    alone: BTreeMap<(VolumeNumber, u64), Alone>,
    /// A handler has forbidden a resync: the nodes are apart for that, until they are connected again.
    forbidden: bool,
    /// A node has lost its power or its process since both were connected last.
    fallen: [bool; 2],
    /// Somebody has vouched for the peer, or given an identifier by hand: nothing is to be said of
    /// the run any more.
    vouched: bool,
}

/// A node that went on alone.
#[derive(Clone, Copy, Debug)]
struct Alone {
    node: usize,
    /// The peer was connected, and had no disk: nobody was fenced.
    beside: bool,
}

/// In some seeds handlers run, and most of these fence.
pub(super) fn handlers(p: &mut Prng, core: &mut Options) {
    if !p.one_in(5) {
        return;
    }
    core.fencing = match p.below(8) {
        0 => Fencing::DontCare,
        1 | 2 => Fencing::ResourceOnly,
        _ => Fencing::ResourceAndStonith,
    };
    core.handler_timeout_ms = *p.choose(&[1_000, 4_000, 12_000]);
    let fences = [Handler::FencePeer, Handler::UnfencePeer];
    let others = Handler::ALL.iter().copied().filter(|one| !fences.contains(one));
    let others: Vec<Handler> = others.filter(|_| p.one_in(3)).collect();
    core.handlers =
        others.into_iter().chain(fences).map(|one| (one, format!("run {one}"))).collect();
}

impl Cluster {
    /// The two nodes begin in sync: what was ordered to get there says nothing.
    pub(super) fn fencing_begins(&mut self) {
        self.fencing = FencingWorld::default();
    }

    /// Both disks of a volume are equal: whoever had gone on alone before has brought that to the other
    /// one, or somebody has given it up, and the older generation is the data of both again.
    pub(super) fn fencing_in_sync(&mut self, volume: VolumeNumber) {
        self.fencing.alone.retain(|(of, _), _| *of != volume);
    }

    /// The disk of a node was taken away, and with it what it had gone on to alone.
    pub(super) fn fencing_forgets(&mut self, node: usize, volume: VolumeNumber) {
        self.fencing.alone.retain(|(of, _), who| *of != volume || who.node != node);
    }

    /// The disk of a node was set back: what it had been told of the other one's going on is gone. Pacemaker
    /// remembers it outside of the disks.
    pub(super) fn fencing_is_set_back(&mut self, node: usize, volume: VolumeNumber) {
        if self.pacemaker.is_none() {
            self.fencing.alone.retain(|(of, _), who| *of != volume || who.node == node);
        }
    }

    /// `Action::RunHandler`: it takes its time, and now and then all of it.
    pub(super) fn run_handler(&mut self, node: usize, number: u64, call: HandlerCall) {
        self.disturb_for(call.limit_ms);
        if self.pacemaker.is_some() && call.handler == Handler::FencePeer {
            return self.fence_peer_begins(node, number, call.limit_ms);
        }
        let p = &mut self.chance.handlers;
        let never = self.faults_on && p.one_in(12);
        let ms = if never { call.limit_ms } else { p.skewed(1, call.limit_ms.max(2)) };
        let life = self.nodes[node].life;
        let handler = call.handler;
        self.after(ms * 1_000_000, Happening::Handler { node, life, number, handler, never });
    }

    /// A handler ends: what it does it does just now.
    pub(super) fn handler_ends(&mut self, node: usize, number: u64, handler: Handler, never: bool) {
        let broken = self.faults_on && self.chance.handlers.one_in(10);
        let outcome = match handler {
            _ if never => HandlerOutcome::TimedOut,
            _ if broken => {
                let outcomes = [
                    HandlerOutcome::Exited(1),
                    HandlerOutcome::Signalled(9),
                    HandlerOutcome::NotStarted(11),
                ];
                *self.chance.handlers.choose(&outcomes)
            }
            Handler::FencePeer => HandlerOutcome::Exited(self.fence(node)),
            Handler::UnfencePeer if self.pacemaker.is_some() => {
                self.unfence_peer(node);
                HandlerOutcome::Exited(0)
            }
            Handler::UnfencePeer => {
                self.fencing.banned = self.fencing.banned.filter(|banned| *banned == node);
                HandlerOutcome::Exited(0)
            }
            _ => HandlerOutcome::Exited(0),
        };
        self.note(&format!("{}: {handler} {outcome}", self.nodes[node].name));
        self.input(node, Input::Event(Event::HandlerDone { number, outcome }));
    }

    /// fence-peer on a node: its exit code.
    fn fence(&mut self, node: usize) -> i32 {
        let peer = 1 - node;
        let is_primary = |n: &super::node::Node| {
            n.resource.is_some() && n.status.as_ref().is_some_and(|s| s.role == Role::Primary)
        };
        let (own, theirs) = (is_primary(&self.nodes[node]), is_primary(&self.nodes[peer]));
        if self.fencing.banned == Some(node) {
            return if theirs { 6 } else { 1 };
        }
        // At the end of a run every node is there.
        let kills = self.faults_on && self.chance.handlers.one_in(3);
        if theirs && !own && !kills {
            return 6;
        }
        if theirs && !kills {
            return 1;
        }
        self.fencing.banned = Some(peer);
        if kills {
            let off_ms = self.chance.handlers.range(50, 4_000);
            self.lose_power(peer, off_ms);
            return 7;
        }
        if self.nodes[peer].resource.is_none() {
            return *self.chance.handlers.choose(&[4, 5]);
        }
        let volumes = 0..self.options.volumes;
        let mixed = |volume: VolumeNumber| {
            let durable = self.nodes[peer].volumes[usize::from(volume)].durable.as_ref();
            durable.is_some_and(|s| s.flags & DeviceFlags::CONSISTENT == 0)
        };
        if volumes.clone().all(mixed) {
            return 3;
        }
        if self.nodes[peer].is_awake() && self.chance.handlers.percent(50) {
            for volume in volumes {
                self.command(peer, Command::Outdate { volume });
            }
        }
        4
    }

    /// A disk that nobody had spoken for is UpToDate because a handler says that the peer is fenced:
    /// as a force, for the checkers.
    pub(super) fn spoken_for(&mut self, node: usize, old: &Status) {
        let Some(new) = &self.nodes[node].status else { return };
        // Under Pacemaker only where both have failed: who has all is waited for otherwise.
        if self.pacemaker.is_some() && self.fencing.fallen != [true; 2] {
            return;
        }
        let away = new.connections.iter().all(|c| c.peer_role == Role::Unknown);
        let promotes = self.options.core.fencing != Fencing::DontCare
            && self.nodes[node].orders.values().any(|order| {
                matches!(order.command, Command::Primary { .. } | Command::AutoPromote)
            });
        let volumes = new.devices.iter().zip(&old.devices);
        let spoken: Vec<VolumeNumber> = volumes
            .filter(|(new, old)| {
                old.disk_state == DiskState::Consistent && new.disk_state == DiskState::UpToDate
            })
            .map(|(new, _)| new.volume)
            .collect();
        for volume in spoken.into_iter().filter(|_| away && promotes) {
            let disk = &self.nodes[node].volumes[usize::from(volume)].disk;
            let step = self.history.forced(node, volume, disk);
            if let Some(pair) = self.pairs.get_mut(&volume) {
                pair.spoken[node] = step;
            }
        }
    }

    /// Under Pacemaker: a node is Primary now, alone, and the other one has gone on from what its disk has.
    pub(super) fn watch_stale_promotion(&mut self, node: usize, old: &Status) {
        let Some(new) = &self.nodes[node].status else { return };
        let promoted = old.role != Role::Primary && new.role == Role::Primary;
        let away = new.connections.iter().all(|c| c.connection_state != ConnectionState::Connected);
        if !(self.pacemaker.is_some() && promoted && away) || self.fencing.vouched {
            return;
        }
        for ((volume, parent), who) in self.fencing.alone.clone() {
            let current = self.nodes[node].volumes[usize::from(volume)].durable.as_ref();
            let stale = current.is_some_and(|block| block.current_uuid & !1 == parent);
            if stale && who.node != node && !who.beside && !self.is_given_up(who.node, volume) {
                self.violate(format!(
                    "{} is promoted with a stale disk: the other one has gone on from generation \
                     {parent:X} of volume {volume}",
                    self.nodes[node].name
                ));
            }
        }
    }

    /// A node has failed.
    pub(super) fn watch_fall(&mut self, node: usize) {
        self.fencing.fallen[node] = true;
    }

    /// A node's connection has changed.
    pub(super) fn watch_forbidden(&mut self, node: usize) {
        let Some(connection) = self.nodes[node].connection() else { return };
        self.fencing.forbidden |= connection.reason == Reason::ResyncRefused;
        let connected = |n: &super::node::Node| {
            n.connection().is_some_and(|c| c.connection_state == ConnectionState::Connected)
        };
        if self.nodes.iter().all(connected) {
            self.fencing.forbidden = false;
            self.fencing.fallen = [false; 2];
        }
    }

    /// A handler that a resync waits for keeps the nodes apart just now.
    pub(super) fn resync_was_forbidden(&self) -> bool {
        let handlers = &self.options.core.handlers;
        let forbids = [Handler::BeforeResyncSource, Handler::BeforeResyncTarget];
        // The answers of a session that ends come before what the node says of its end.
        let just_now = self.nodes.iter().filter_map(|n| n.resource.as_ref()).any(|resource| {
            let status = resource.status(self.now);
            status.connections.iter().any(|c| c.reason == Reason::ResyncRefused)
        });
        handlers.keys().any(|handler| forbids.contains(handler))
            && (self.fencing.forbidden || just_now)
    }

    /// An order that says of the peer what no handler has said, or makes a generation itself.
    pub(super) fn watch_vouching(&mut self, node: usize, command: &Command) {
        let status = self.nodes[node].status.as_ref();
        let frozen = status.is_some_and(|status| status.suspended_fencing);
        self.fencing.vouched |= match command {
            Command::SuspendIo { suspend } => !suspend && frozen,
            Command::Primary { force } => force.is_some(),
            Command::NewCurrentUuid { .. } => true,
            _ => false,
        };
    }

    /// A superblock is about to be written: a node that goes on alone has made a generation.
    pub(super) fn watch_lone_generation(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        new: &Superblock,
    ) {
        let fences = self.options.core.fencing == Fencing::ResourceAndStonith;
        let primary = self.nodes[node].status.as_ref().is_some_and(|s| s.role == Role::Primary);
        let index = usize::from(volume);
        let Some(old) = self.nodes[node].volumes[index].durable.as_ref() else { return };
        let parent = old.current_uuid & !1;
        let bitmap = new.peers.first().map_or(0, |slot| slot.bitmap_uuid & !1);
        let begins = new.current_uuid & !1 != parent && bitmap == parent;
        let fresh = old.current_uuid == crate::meta::JUST_CREATED;
        if !fences || !primary || !begins || fresh || self.fencing.vouched {
            return;
        }
        // Beside a peer without a disk nobody is fenced. When that disk comes back it learns what it
        // lacks; if it meets nobody, the handler's word on the peer is all there is, as with DRBD:
        // that disk alone may go on from there too, unless it has been told (Outdated).
        let connection = self.nodes[node].connection().map(|c| c.connection_state);
        let beside = connection == Some(ConnectionState::Connected);
        let theirs = self.nodes[node].peer_device(volume).map(|peer| peer.peer_disk_state);
        if beside && theirs.is_some_and(|disk| disk >= DiskState::Inconsistent) {
            let name = self.nodes[node].name;
            return self.violate(format!(
                "{name} goes on alone with volume {volume}, connected, and the peer's disk is {theirs:?}"
            ));
        }
        let outdated = old.flags & DeviceFlags::OUTDATED != 0;
        let first = *self.fencing.alone.entry((volume, parent)).or_insert(Alone { node, beside });
        if first.node == node {
            return;
        }
        // Who is connected to the one that went on, and finds it without a disk, has nobody to learn it
        // from: that disk is gone, with what it had.
        let unknown = beside || first.beside && !outdated;
        // A person has given up what that one had: to be inconsistent is fenced enough (3).
        if !unknown && !self.is_given_up(first.node, volume) {
            self.violate(format!(
                "both nodes went on alone from generation {parent:X} of volume {volume}, and each was \
                 told that the other is fenced"
            ));
        }
    }
}
