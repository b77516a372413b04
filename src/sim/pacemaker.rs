//! Pacemaker as the argument for the mark on the stale node sees it: two members with a link of their own,
//! fencing, a configuration of which each has a copy, the agent that promotes, and crm-store-uuid.
//!
//! What is modelled are the steps of `tools/ocf`, with the moments between them; what the cluster software
//! does is what it may do at worst: it notices late, writes are lost or arrive late, fencing fails at first.
//!
//! Invariants, which the checkers of `fencing` hold it to:
//! - No two nodes go on alone from one generation.
//! - No node is promoted, alone and without force, whose disk the other one has gone on from.

use std::cmp::Ordering;

use crate::resource::{
    Command, ConnectionState, DiskState, Event, Handler, HandlerOutcome, Options, Role, Time,
    VolumeNumber,
};

use super::cluster::{Cluster, Happening};
use super::faults::{Fault, Order};
use super::node::Input;
use super::options::SimOptions;
use super::prng::Prng;

/// How often everything is looked at, ms: crm-store-uuid's own pause.
const TICK_MS: u64 = 100;
/// Corosync's token and consensus time.
const SETTLE_MS: u64 = 2_200;
/// Of the agent.
const MONITOR_MS: u64 = 4_000;

/// What was decided in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkCounts {
    /// fence-peer ended with 4: the peer has its mark.
    pub told: u64,
    /// fence-peer ended with 7: the peer is off.
    pub off: u64,
    /// fence-peer gave up.
    pub given_up: u64,
    /// A node was not promoted because it is marked.
    pub refused: u64,
    /// A write of an attribute that was lost, or did not reach the peer.
    pub lost: u64,
    /// Marks that went.
    pub removed: u64,
}

/// `alice:0=UUID,1=UUID`: who goes on alone, and from which generation of each volume.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    by: usize,
    from: Vec<u64>,
}

/// How new a configuration is: `admin_epoch`, which only the handler raises, and `epoch`.
type Version = (u64, u64);

/// A node's copy of the cluster's configuration.
#[derive(Clone, Debug, Default)]
struct Copy {
    version: Version,
    /// By node.
    marks: [Option<Mark>; 2],
}

/// A change on its way to the peer's copy.
#[derive(Clone, Debug)]
struct Message {
    from: usize,
    at: Time,
    version: Version,
    target: usize,
    mark: Option<Mark>,
}

/// The cluster software of a node.
#[derive(Clone, Copy, Debug, Default)]
struct Member {
    /// It runs; and since when the host has power, where it does not run yet.
    up: bool,
    starts_at: Option<Time>,
    /// The peer is a member of the same partition.
    sees: bool,
    /// The peer was fenced, and has not been a member since.
    knows_off: bool,
    /// It has seen the peer since it was started (`wait_for_all`).
    quorum: bool,
    fence_at: Option<Time>,
    monitor_at: Time,
    role: Option<Role>,
}

/// A fence-peer that runs.
#[derive(Clone, Debug)]
struct Call {
    life: u64,
    number: u64,
    role: Role,
    /// The peer has been a member since then.
    since: Time,
    /// Killed then.
    until: Time,
    /// The peer's copy was asked for this mark, and answers then.
    asked: Option<(Mark, Time)>,
    /// The peer is off, and its mark is made.
    marked: Option<Mark>,
}

/// The cluster software of both nodes.
#[derive(Clone, Debug)]
pub(super) struct Pacemaker {
    chance: Prng,
    copies: [Copy; 2],
    members: [Member; 2],
    calls: [Option<Call>; 2],
    messages: Vec<Message>,
    cut_until: Time,
    /// While the replication link is cut, and while it is not: one in so many looks finds the cluster's cut.
    cuts: [u64; 2],
    /// Since when they do not reach each other, or do.
    apart_since: Option<Time>,
    together_since: Option<Time>,
    marks: MarkCounts,
}

impl Pacemaker {
    fn new(seed: u64) -> Self {
        let mut chance = Prng::new(seed, 25);
        Self {
            cuts: [*chance.choose(&[10, 60, 400]), *chance.choose(&[100, 1_000])],
            chance,
            copies: Default::default(),
            members: [Member { up: true, sees: true, quorum: true, ..Member::default() }; 2],
            calls: [None, None],
            messages: Vec::new(),
            cut_until: Time(0),
            apart_since: None,
            together_since: None,
            marks: MarkCounts::default(),
        }
    }
}

impl SimOptions {
    /// The plan of a seed under Pacemaker: the orders of a person who knows it, and no disks that are
    /// exchanged or spoiled.
    #[must_use]
    pub fn under_pacemaker(seed: u64) -> Self {
        let mut options = Self::of_seed(seed);
        options.pacemaker = true;
        (options.failover, options.careless, options.resolve) = (true, false, false);
        let handlers = [Handler::FencePeer, Handler::UnfencePeer];
        options.core = Options {
            fencing: crate::resource::Fencing::ResourceAndStonith,
            handlers: handlers.iter().map(|one| (*one, format!("run {one}"))).collect(),
            handler_timeout_ms: 60_000,
            auto_promote: false,
            ..options.core
        };
        options.plan.retain(|planned| match &planned.fault {
            Fault::PowerLoss { .. }
            | Fault::PowerLossBoth { .. }
            | Fault::Crash { .. }
            | Fault::Stop { .. }
            | Fault::Freeze { .. }
            | Fault::Cut { .. }
            | Fault::CutOneWay { .. }
            | Fault::Reset
            | Fault::Damage { .. }
            | Fault::SlowNet { .. }
            | Fault::SlowDisk { .. }
            | Fault::HangUp { .. } => true,
            Fault::Order { order, .. } => matches!(
                order,
                Order::Primary
                    | Order::Secondary
                    | Order::SecondaryForce
                    | Order::SecondaryWait
                    | Order::Disconnect
                    | Order::DisconnectForce
                    | Order::DisconnectFor
                    | Order::Connect
                    | Order::Adjust
                    | Order::Down
            ),
            _ => false,
        });
        // Longer than Corosync's time, and than a host takes to come back.
        let p = &mut Prng::new(seed, 24);
        options.length_ms = 60_000;
        for _ in 0..p.range(3, 8) {
            let (node, at_ms) = (p.index(2), p.below(options.length_ms));
            let fault = match p.below(6) {
                0 => Fault::PowerLoss { node, off_ms: p.range(500, 9_000) },
                1 => Fault::Crash { node, off_ms: p.range(500, 9_000) },
                2 => Fault::Order { node, order: Order::SecondaryForce },
                _ => Fault::Cut { for_ms: p.range(3_000, 20_000) },
            };
            options.plan.push(super::faults::Planned { at_ms, wait: None, fault });
        }
        options.plan.sort_by_key(|planned| planned.at_ms);
        options
    }
}

impl Cluster {
    /// What was decided so far, under Pacemaker.
    pub(super) fn marks(&self) -> Option<MarkCounts> {
        self.pacemaker.as_ref().map(|world| world.marks)
    }

    pub(super) fn pacemaker_begins(&mut self) {
        if self.options.pacemaker {
            self.pacemaker = Some(Box::new(Pacemaker::new(self.options.seed)));
            self.after(TICK_MS * 1_000_000, Happening::Pacemaker);
        }
    }

    /// Everything that the cluster software does by and by.
    pub(super) fn pacemaker_looks(&mut self) {
        // Taken out for as long as it looks at the nodes.
        let Some(mut world) = self.pacemaker.take() else { return };
        self.members(&mut world);
        self.membership(&mut world);
        let victims = self.fencers(&mut world);
        self.messages(&mut world);
        for node in 0..2 {
            self.monitor(&mut world, node);
        }
        let ended = [0, 1].map(|node| self.call_goes_on(&mut world, node));
        self.pacemaker = Some(world);
        for (node, end) in ended.into_iter().enumerate() {
            if let Some((number, outcome)) = end {
                self.note(&format!("{}: fence-peer {outcome}", self.nodes[node].name));
                self.input(node, Input::Event(Event::HandlerDone { number, outcome }));
            }
        }
        for (victim, off_ms) in victims {
            self.note(&format!("{} is fenced", self.nodes[victim].name));
            self.lose_power(victim, off_ms);
        }
        self.after(TICK_MS * 1_000_000, Happening::Pacemaker);
    }

    /// It starts with the host, a little later, and ends with it.
    fn members(&self, world: &mut Pacemaker) {
        for node in 0..2 {
            let member = &mut world.members[node];
            if !self.nodes[node].host_up {
                *member = Member::default();
                world.calls[node] = None;
            } else if !member.up {
                let wait = world.chance.range(300, 3_000);
                let at = *member.starts_at.get_or_insert(self.now.after_ms(wait));
                member.up = at <= self.now;
            }
        }
    }

    fn are_linked(&self, world: &Pacemaker) -> bool {
        world.members.iter().all(|member| member.up) && world.cut_until <= self.now
    }

    fn membership(&mut self, world: &mut Pacemaker) {
        let now = self.now;
        let p = &mut world.chance;
        // The link fails by itself; or with the replication link, or soon after it, or before.
        let replication = self.net.cut_until.iter().any(|until| *until > now);
        let often = world.cuts[usize::from(!replication)];
        if self.faults_on && world.cut_until <= now && p.one_in(often) {
            world.cut_until = now.after_ms(p.skewed(200, 12_000));
            self.note("the cluster's link is cut");
        }
        if !self.faults_on {
            world.cut_until = now;
        }
        if !self.are_linked(world) {
            world.together_since = None;
            let since = *world.apart_since.get_or_insert(now);
            for member in world.members.iter_mut().filter(|member| member.up && member.sees) {
                let late = world.chance.below(300);
                if now.ms_since(since) >= SETTLE_MS - 150 + late {
                    member.sees = false;
                    let wait = world.chance.range(50, 1_500);
                    member.fence_at = member.quorum.then(|| now.after_ms(wait));
                }
            }
            return;
        }
        world.apart_since = None;
        if world.members.iter().all(|member| member.sees) {
            return;
        }
        if now.ms_since(*world.together_since.get_or_insert(now)) < 800 {
            return;
        }
        // The configuration that has changed more often is everybody's, a fenced node's as well.
        let [zero, one] = [0, 1].map(|node| world.copies[node].version);
        let newest = match one.cmp(&zero) {
            Ordering::Less => 0,
            Ordering::Equal => world.chance.index(2),
            Ordering::Greater => 1,
        };
        let [taken, left] = [&world.copies[newest], &world.copies[1 - newest]];
        if taken.marks != left.marks {
            self.note(&format!("the cluster takes {taken:X?}, not {left:X?}"));
        }
        world.copies[1 - newest] = world.copies[newest].clone();
        world.messages.clear();
        for member in &mut world.members {
            (member.sees, member.quorum) = (true, true);
            (member.knows_off, member.fence_at) = (false, None);
        }
    }

    /// Who fences whom just now: the first one wins.
    fn fencers(&self, world: &mut Pacemaker) -> Vec<(usize, u64)> {
        for node in 0..2 {
            let member = world.members[node];
            let due = member.fence_at.is_some_and(|at| at <= self.now);
            if !(member.up && due && self.faults_on) {
                continue;
            }
            if world.chance.one_in(6) {
                let wait = world.chance.range(500, 4_000);
                world.members[node].fence_at = Some(self.now.after_ms(wait));
                continue;
            }
            world.members[1 - node] = Member::default();
            world.calls[1 - node] = None;
            let off_ms = world.chance.range(300, 6_000);
            let member = &mut world.members[node];
            (member.knows_off, member.fence_at) = (true, None);
            return vec![(1 - node, off_ms)];
        }
        Vec::new()
    }

    /// Within a partition a change arrives, late perhaps; with the partition it is lost.
    fn messages(&self, world: &mut Pacemaker) {
        let linked = self.are_linked(world);
        let mut all = std::mem::take(&mut world.messages);
        all.retain(|message| {
            let to = 1 - message.from;
            if !(world.members[message.from].sees && world.members[to].sees) {
                world.marks.lost += 1;
                return false;
            }
            if !linked || message.at > self.now {
                return true;
            }
            let copy = &mut world.copies[to];
            copy.marks[message.target] = message.mark.clone();
            copy.version = copy.version.max(message.version);
            false
        });
        world.messages = all;
    }

    /// `crm_attribute` on a node. Returns whether it says that it is done.
    fn write(
        &mut self,
        world: &mut Pacemaker,
        node: usize,
        target: usize,
        mark: Option<Mark>,
    ) -> bool {
        if world.chance.one_in(8) {
            world.marks.lost += 1;
            return false;
        }
        world.marks.removed += u64::from(mark.is_none());
        let [who, whom] = [node, target].map(|one| self.nodes[one].name);
        self.note(&format!("{who}: the mark of {whom} is {mark:X?}"));
        let copy = &mut world.copies[node];
        copy.version.1 += 1;
        copy.marks[target].clone_from(&mark);
        let version = copy.version;
        if world.members[node].sees {
            // The worst moment: the link fails with the change on its way.
            if self.faults_on && world.chance.one_in(5) {
                let cut_ms = world.chance.range(1_000, 12_000);
                world.cut_until = world.cut_until.max(self.now.after_ms(cut_ms));
            }
            // In the order in which they were sent.
            let wait = world.chance.skewed(1, 1_500);
            let before = world.messages.iter().filter(|m| m.from == node).map(|m| m.at).max();
            let at = self.now.after_ms(wait).max(before.unwrap_or(self.now));
            world.messages.push(Message { from: node, at, version, target, mark });
        }
        true
    }

    // --- what tandemd says ------------------------------------------------------------------------------

    fn role(&self, node: usize) -> Option<Role> {
        let n = &self.nodes[node];
        n.is_awake().then(|| n.status.as_ref().map(|status| status.role))?
    }

    fn is_connected(&self, node: usize) -> bool {
        let connection = self.nodes[node].connection();
        connection.is_some_and(|c| c.connection_state == ConnectionState::Connected)
    }

    fn is_in_sync(&self, node: usize) -> bool {
        self.is_connected(node)
            && (0..self.options.volumes).all(|volume| {
                let n = &self.nodes[node];
                let own = n.device(volume).map(|device| device.disk_state);
                let peers = n.peer_device(volume).map(|peer| peer.peer_disk_state);
                own == Some(DiskState::UpToDate) && peers == Some(DiskState::UpToDate)
            })
    }

    /// Current, bitmap and two of the history, without the lowest bit.
    fn generations(&self, node: usize, volume: VolumeNumber) -> Option<[u64; 4]> {
        let block = self.nodes[node].volumes[usize::from(volume)].durable.as_ref()?;
        let bitmap = block.peers.first().map_or(0, |slot| slot.bitmap_uuid);
        Some([block.current_uuid, bitmap, block.history[0], block.history[1]].map(|one| one & !1))
    }

    // --- crm-store-uuid ------------------------------------------------------------------------------

    /// `stale`: whether the node's own copy says so of its disk; where tandemd does not answer, yes.
    fn is_stale(&self, world: &Pacemaker, node: usize) -> bool {
        let Some(mark) = &world.copies[node].marks[node] else { return false };
        if self.role(node).is_none() {
            return true;
        }
        let behind = |(volume, from): (VolumeNumber, &u64)| {
            self.generations(node, volume)
                .is_none_or(|[current, _, one, two]| current == *from || ![one, two].contains(from))
        };
        !self.is_in_sync(node) && (0..).zip(&mark.from).any(behind)
    }

    fn claim(&self, node: usize) -> Option<Mark> {
        let from = |volume| {
            let [current, bitmap, ..] = self.generations(node, volume)?;
            Some(if bitmap == 0 { current } else { bitmap })
        };
        let from = (0..self.options.volumes).map(from).collect::<Option<_>>()?;
        Some(Mark { by: node, from })
    }

    /// `Action::RunHandler` of fence-peer.
    pub(super) fn fence_peer_begins(&mut self, node: usize, number: u64, limit_ms: u64) {
        let Some(mut world) = self.pacemaker.take() else { return };
        let stale = self.is_stale(&world, node);
        world.calls[node] = Some(Call {
            life: self.nodes[node].life,
            number,
            role: self.role(node).unwrap_or(Role::Unknown),
            since: self.now,
            // What it found at its start it says at the next look.
            until: if stale { self.now } else { self.now.after_ms(limit_ms) },
            asked: None,
            marked: None,
        });
        world.marks.refused += u64::from(stale);
        self.pacemaker = Some(world);
    }

    /// One turn of fence-peer; its end.
    fn call_goes_on(
        &mut self,
        world: &mut Pacemaker,
        node: usize,
    ) -> Option<(u64, HandlerOutcome)> {
        let peer = 1 - node;
        let mut call = world.calls[node].take()?;
        if self.nodes[node].life != call.life || !world.members[node].up {
            // With the host it ends; with tandemd it finds out, and nobody hears of it.
            return None;
        }
        let end = |code| Some((call.number, HandlerOutcome::Exited(code)));
        if self.nodes[node].frozen.is_some() {
            world.calls[node] = Some(call);
            return None;
        }
        if self.is_connected(node) || self.role(node) != Some(call.role) || call.until <= self.now {
            world.marks.given_up += 1;
            return end(1);
        }
        if let Some((mark, at)) = &call.asked {
            // Its answer is waited for.
            if *at <= self.now {
                let there = world.copies[peer].marks[peer].as_ref() == Some(mark);
                if self.are_linked(world) && there {
                    world.marks.told += 1;
                    return end(4);
                }
                (call.asked, call.since) = (None, self.now);
            }
        } else if world.members[node].knows_off {
            if let Some(mark) = call.marked.take() {
                // Whatever the peer has changed while it was apart: this configuration is newer.
                let copy = &mut world.copies[node];
                copy.version.0 += 1;
                if copy.marks[peer].as_ref() == Some(&mark) {
                    world.marks.off += 1;
                    return end(7);
                }
            } else {
                let Some(mark) = self.claim(node) else { return end(1) };
                call.marked = self.write(world, node, peer, Some(mark.clone())).then_some(mark);
            }
        } else if !world.members[node].sees {
            call.since = self.now;
        } else if self.now.ms_since(call.since) >= SETTLE_MS && world.members[node].quorum {
            let Some(mark) = self.claim(node) else { return end(1) };
            if self.write(world, node, peer, Some(mark.clone())) {
                let wait = world.chance.skewed(20, 1_000);
                call.asked = Some((mark, self.now.after_ms(wait)));
            } else {
                call.since = self.now;
            }
        }
        world.calls[node] = Some(call);
        None
    }

    /// unfence-peer.
    pub(super) fn unfence_peer(&mut self, node: usize) {
        let Some(mut world) = self.pacemaker.take() else { return };
        self.forget(&mut world, node);
        self.pacemaker = Some(world);
    }

    /// In sync, what this node has marked is marked no more. Returns whether it is in sync.
    fn forget(&mut self, world: &mut Pacemaker, node: usize) -> bool {
        let peer = 1 - node;
        let own = world.copies[node].marks[peer].as_ref().is_some_and(|mark| mark.by == node);
        let in_sync = self.role(node).is_some() && self.is_in_sync(node);
        if in_sync && own {
            self.write(world, node, peer, None);
        }
        in_sync
    }

    // --- the agent -----------------------------------------------------------------------------------

    /// What a demotion and the monitor see to: `demoted` and `keep`.
    fn monitor(&mut self, world: &mut Pacemaker, node: usize) {
        let peer = 1 - node;
        let Some(role) = self.role(node).filter(|_| world.members[node].up) else { return };
        let before = world.members[node].role.replace(role);
        let own = world.copies[node].marks[peer].clone().filter(|mark| mark.by == node);
        if before == Some(Role::Primary) && role == Role::Secondary {
            let unchanged = |(volume, from): (VolumeNumber, &u64)| {
                let generations = self.generations(node, volume);
                generations.is_some_and(|[current, bitmap, ..]| bitmap == 0 && current == *from)
            };
            if own.is_some_and(|mark| (0..).zip(&mark.from).all(unchanged)) {
                self.write(world, node, peer, None);
            }
            return;
        }
        if world.members[node].monitor_at > self.now {
            return;
        }
        world.members[node].monitor_at = self.now.after_ms(MONITOR_MS);
        if role == Role::Primary && world.copies[node].marks[node].is_some() {
            self.write(world, node, node, None);
        }
        if self.forget(world, node) || role != Role::Primary || own.is_some() {
            return;
        }
        let frozen = self.nodes[node].status.as_ref().is_some_and(|s| s.suspended_fencing);
        let alone = |volume| self.generations(node, volume).is_some_and(|[_, one, ..]| one != 0);
        if !frozen && !self.is_connected(node) && (0..self.options.volumes).any(alone) {
            let mark = self.claim(node);
            self.write(world, node, peer, mark);
        }
    }

    /// Whether an order is given at all: under Pacemaker only the cluster promotes, one node, which is not
    /// marked, and only where the other one is known to be off, or not to be Primary.
    pub(super) fn pacemaker_allows(&mut self, node: usize, command: &Command) -> bool {
        if !matches!(command, Command::Primary { force: None }) {
            return true;
        }
        let Some(mut world) = self.pacemaker.take() else { return true };
        let (own, peer) = (world.members[node], &self.nodes[1 - node]);
        let serves = peer.resource.is_some()
            && peer.status.as_ref().is_some_and(|status| status.role == Role::Primary);
        let promotes =
            |order: &super::admin::PendingOrder| matches!(order.command, Command::Primary { .. });
        let free = own.knows_off || own.sees && !serves && !peer.orders.values().any(promotes);
        let stale = self.is_stale(&world, node);
        world.marks.refused += u64::from(stale && free);
        self.pacemaker = Some(world);
        own.up && own.quorum && free && !stale
    }
}
