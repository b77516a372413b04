//! Pacemaker as the argument for the mark on the stale node sees it: two members with a link of their own,
//! fencing, a configuration of which each has a copy, the agent that promotes, and crm-store-uuid.
//!
//! What is modelled are the steps of `tools/ocf`, with the moments between them; what the cluster software
//! does is what it may do at worst: it notices late, writes are lost or arrive late, fencing fails at first.
//!
//! Invariants, which the checkers of `fencing` hold it to:
//! - No two nodes go on alone from one generation.
//! - No node is promoted, alone and without force, whose disk the other one has gone on from.

mod handler;

use std::cmp::Ordering;

use crate::resource::{Command, Event, Handler, Options, Role, Time, VolumeNumber};

use super::cluster::{Cluster, Happening};
use super::faults::{Fault, Order};
use super::node::{Input, Node};
use super::options::SimOptions;
use super::prng::Prng;

use handler::Call;

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

/// A copy of the cluster's configuration.
#[derive(Clone, Debug, Default)]
struct Copy {
    version: Version,
    /// By node.
    marks: [Option<Mark>; 2],
    /// `tandem-RES-outlasts`, by node: the `admin_epoch` with which it wanted to go on last.
    outlasts: [u64; 2],
    /// `tandem-RES-left`, by node: it has left in order with disks that are UpToDate, and without the peer.
    left: [bool; 2],
}

/// A change of the configuration: each is one broadcast.
#[derive(Clone, Debug)]
enum Change {
    Mark { target: usize, mark: Option<Mark> },
    Raise(u64),
    Outlasts { node: usize, value: u64 },
    Left { node: usize, value: bool },
}

impl Copy {
    /// It has what this fence-peer has made.
    fn has(&self, node: usize, call: &Call) -> bool {
        self.marks[1 - node] == call.mark && self.outlasts[node] == call.raised
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Mark { target, mark } => self.marks[*target].clone_from(mark),
            // What is lower is refused.
            Change::Raise(to) => self.version.0 = self.version.0.max(*to),
            Change::Outlasts { node, value } => self.outlasts[*node] = *value,
            Change::Left { node, value } => self.left[*node] = *value,
        }
        self.version.1 += u64::from(!matches!(change, Change::Raise(_)));
    }
}

/// A change on its way to the peer's copy.
#[derive(Clone, Debug)]
struct Message {
    from: usize,
    at: Time,
    change: Change,
}

/// The cluster software of a node. Three things come up one after the other: Corosync with the host, Pacemaker,
/// and the join, in which the copies are merged.
#[derive(Clone, Copy, Debug, Default)]
struct Member {
    /// Of the host.
    boot: u64,
    corosync: bool,
    corosync_at: Option<Time>,
    /// It has seen the peer since it was started (`wait_for_all`): from then on it has a quorum, also alone.
    quorum: bool,
    /// The peer's Corosync is a member of the same partition.
    sees: bool,
    /// Pacemaker runs.
    up: bool,
    up_at: Option<Time>,
    /// It is told to stop, and does when nothing runs here; given up then.
    stopping: Option<Time>,
    /// The copies are merged; and have been since Pacemaker was started here.
    joined: bool,
    was_joined: bool,
    /// The peer was fenced, or its Pacemaker stopped in order, and it has not joined since.
    knows_off: bool,
    fence_at: Option<Time>,
    monitor_at: Time,
    role: Option<Role>,
    /// A demotion was ordered.
    demoted: bool,
    /// It says so before it stops.
    leaves: bool,
    /// `tandem-RES-disk`, a transient attribute: its disks are UpToDate. It goes with Pacemaker, not with the resource.
    is_up_to_date: bool,
}

impl Member {
    /// The peer's Corosync is there, and what its Pacemaker has is not known.
    fn is_pending(&self) -> bool {
        self.sees && !self.joined
    }

    /// `crm_mon`: the peer is neither online, nor unclean, nor pending.
    fn is_off(&self) -> bool {
        self.quorum && self.knows_off && !self.sees
    }
}

/// The cluster software of both nodes.
#[derive(Clone, Debug)]
pub(super) struct Pacemaker {
    chance: Prng,
    copies: [Copy; 2],
    /// What a power loss or a start of Pacemaker leaves of them; and when they are written.
    disks: [Copy; 2],
    write_at: [Option<Time>; 2],
    members: [Member; 2],
    calls: [Option<Call>; 2],
    messages: Vec<Message>,
    cut_until: Time,
    /// While the replication link is cut, and while it is not: one in so many looks finds the cluster's cut.
    cuts: [u64; 2],
    /// One in so many looks tells Pacemaker of a node to stop.
    stops: u64,
    /// Since when they do not reach each other, or do.
    apart_since: Option<Time>,
    together_since: Option<Time>,
    join_at: Option<Time>,
    marks: MarkCounts,
}

impl Pacemaker {
    fn new(seed: u64) -> Self {
        let mut chance = Prng::new(seed, 25);
        let member =
            Member { corosync: true, up: true, sees: true, quorum: true, ..Member::default() };
        Self {
            cuts: [*chance.choose(&[10, 60, 400]), *chance.choose(&[100, 1_000])],
            stops: *chance.choose(&[100, 400, 4_000]),
            chance,
            copies: Default::default(),
            disks: Default::default(),
            write_at: [None; 2],
            members: [Member { joined: true, was_joined: true, ..member }; 2],
            calls: [None, None],
            messages: Vec::new(),
            cut_until: Time(0),
            apart_since: None,
            together_since: None,
            join_at: None,
            marks: MarkCounts::default(),
        }
    }

    fn change(&mut self, node: usize, change: &Change, now: Time) {
        self.copies[node].apply(change);
        // An `admin_epoch` alone is not written (2.1.5).
        if !matches!(change, Change::Raise(_)) {
            self.is_to_be_written(node, now);
        }
    }

    fn is_to_be_written(&mut self, node: usize, now: Time) {
        let wait = self.chance.skewed(1, 2_000);
        self.write_at[node].get_or_insert(now.after_ms(wait));
    }

    fn writes_disks(&mut self, now: Time) {
        for node in 0..2 {
            if self.write_at[node].is_some_and(|at| at <= now) {
                self.disks[node] = self.copies[node].clone();
                self.write_at[node] = None;
            }
        }
    }

    /// Pacemaker of a node runs no more: what it starts with is on the disk.
    fn ends(&mut self, node: usize) {
        self.copies[node] = self.disks[node].clone();
        self.write_at[node] = None;
        self.messages.clear();
        self.join_at = None;
    }

    fn loses_power(&mut self, node: usize, boot: u64) {
        self.members[node] = Member { boot, ..Member::default() };
        self.calls[node] = None;
        self.ends(node);
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
            options.plan.push(super::faults::Planned::new(at_ms, None, fault));
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
        let Some(mut world) = self.pacemaker.take() else {
            return;
        };
        world.writes_disks(self.now);
        let stops = self.members(&mut world);
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
        for (node, command) in stops {
            if self.nodes[node].is_awake() {
                self.command(node, command);
            }
        }
        self.after(TICK_MS * 1_000_000, Happening::Pacemaker);
    }

    /// It starts with the host, a little later, and ends with it; or is told to stop, and starts again. Returns
    /// what then stops the resource.
    fn members(&mut self, world: &mut Pacemaker) -> Vec<(usize, Command)> {
        let (mut stops, now) = (Vec::new(), self.now);
        for node in 0..2 {
            let boot = self.nodes[node].boot;
            if !self.nodes[node].host_up || world.members[node].boot != boot {
                world.loses_power(node, boot);
                continue;
            }
            let p = &mut world.chance;
            let member = &mut world.members[node];
            if !member.corosync {
                let wait = p.range(300, 3_000);
                member.corosync = *member.corosync_at.get_or_insert(now.after_ms(wait)) <= now;
            } else if !member.up {
                let at = match member.up_at {
                    Some(at) => at,
                    None => {
                        let at = now.after_ms(p.skewed(100, 20_000));
                        // The agent starts tandemd, or the host does.
                        if self.faults_on && p.percent(50) {
                            let late = at.after_ms(p.skewed(1, 6_000));
                            self.net.cut_until = self.net.cut_until.map(|until| until.max(late));
                        }
                        *member.up_at.insert(at)
                    }
                };
                member.up = at <= now || !self.faults_on;
                if member.up && member.quorum && !member.sees {
                    // Start-up fencing.
                    member.fence_at = Some(now.after_ms(p.range(500, 5_000)));
                }
            } else if let Some(until) = member.stopping {
                self.stops(world, node, until);
            } else if self.faults_on && p.one_in(world.stops) {
                member.stopping = Some(now.after_ms(20_000));
                member.leaves = self.is_up_to_date(node) && !self.is_in_sync(node);
                let secondary = Command::Secondary { force: true, wait_ms: 0 };
                let down = Command::Down { shutdown: false };
                stops.push((node, p.choose(&[secondary, down]).clone()));
                self.note(&format!("{}: Pacemaker is to stop", self.nodes[node].name));
            }
        }
        stops
    }

    /// Pacemaker of a node stops, when the resource has.
    fn stops(&mut self, world: &mut Pacemaker, node: usize, until: Time) {
        let serves = self.role(node).is_some_and(|role| role != Role::Secondary);
        if serves || !self.nodes[node].orders.is_empty() || self.nodes[node].frozen.is_some() {
            if until <= self.now {
                world.members[node].stopping = None;
            }
            return;
        }
        if world.members[node].leaves && until > self.now {
            let said = self.write(world, node, Change::Left { node, value: true });
            world.members[node].leaves = said.is_err();
            return;
        }
        self.note(&format!("{}: Pacemaker has stopped", self.nodes[node].name));
        let peer = 1 - node;
        let told =
            self.are_linked(world) && world.members[node].joined && world.members[peer].joined;
        if told {
            // Corosync has one order for all that it delivers: what was said before comes first.
            for message in std::mem::take(&mut world.messages) {
                if message.from == node {
                    world.change(peer, &message.change, self.now);
                }
            }
            let member = &mut world.members[peer];
            (member.joined, member.knows_off) = (false, true);
        }
        let p = &mut world.chance;
        if p.percent(50) {
            world.disks[node] = world.copies[node].clone();
        }
        let old = world.members[node];
        world.members[node] = Member {
            boot: old.boot,
            corosync: true,
            quorum: old.quorum,
            sees: old.sees,
            up_at: Some(self.now.after_ms(p.skewed(500, 20_000))),
            ..Member::default()
        };
        // The worst moment: all links fail.
        if self.faults_on && p.one_in(3) {
            let until = self.now.after_ms(p.range(3_000, 20_000));
            world.cut_until = world.cut_until.max(until);
            self.net.cut_until = self.net.cut_until.map(|other| other.max(until));
        }
        world.ends(node);
    }

    /// Corosync of both reaches the other one.
    fn are_linked(&self, world: &Pacemaker) -> bool {
        world.members.iter().all(|member| member.corosync) && world.cut_until <= self.now
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
            for member in world.members.iter_mut().filter(|member| member.corosync && member.sees) {
                let late = world.chance.below(300);
                if now.ms_since(since) >= SETTLE_MS - 150 + late {
                    (member.sees, member.joined) = (false, false);
                    let wait = world.chance.range(50, 1_500);
                    let fences = member.up && member.quorum && !member.knows_off;
                    member.fence_at = fences.then(|| now.after_ms(wait));
                }
            }
            return;
        }
        world.apart_since = None;
        if !world.members.iter().all(|member| member.sees) {
            world.join_at = None;
            if now.ms_since(*world.together_since.get_or_insert(now)) < 800 {
                return;
            }
            for member in &mut world.members {
                (member.sees, member.quorum, member.joined) = (true, true, false);
                member.fence_at = None;
            }
        }
        for node in 0..2 {
            let up = world.members[1 - node].up;
            let member = &mut world.members[node];
            if member.joined && !up {
                // It ended without a word.
                member.joined = false;
                member.fence_at = Some(now.after_ms(world.chance.range(50, 1_500)));
            }
        }
        self.pacemakers_join(world);
    }

    /// The copies are merged, some time after both can; a promotion that is under way comes first.
    fn pacemakers_join(&mut self, world: &mut Pacemaker) {
        let promotes = self.nodes.iter().any(promotes);
        let can = world.members.iter().all(|member| member.up);
        if !can || world.members.iter().all(|member| member.joined) {
            world.join_at = None;
            return;
        }
        let wait = world.chance.skewed(300, 20_000);
        if *world.join_at.get_or_insert(self.now.after_ms(wait)) > self.now || promotes {
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
        world.is_to_be_written(1 - newest, self.now);
        world.messages.clear();
        world.join_at = None;
        for member in &mut world.members {
            (member.joined, member.was_joined) = (true, true);
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
            let boot = self.nodes[1 - node].boot;
            world.loses_power(1 - node, boot);
            let off_ms = world.chance.range(300, 6_000);
            let member = &mut world.members[node];
            (member.knows_off, member.fence_at, member.joined) = (true, None, false);
            return vec![(1 - node, off_ms)];
        }
        Vec::new()
    }

    /// Within a partition a change arrives, late perhaps, merged or not; with the partition it is lost.
    fn messages(&self, world: &mut Pacemaker) {
        let linked = self.are_linked(world);
        for message in std::mem::take(&mut world.messages) {
            let (sender, to) = (world.members[message.from], 1 - message.from);
            if !(sender.sees && world.members[to].sees && world.members[to].up) {
                world.marks.lost += 1;
            } else if !linked || message.at > self.now {
                world.messages.push(message);
            } else {
                world.change(to, &message.change, self.now);
            }
        }
    }

    /// `crm_attribute` or `cibadmin` on a node: whether it says that it is done.
    fn write(&mut self, world: &mut Pacemaker, node: usize, change: Change) -> Result<(), ()> {
        if !world.members[node].up || world.chance.one_in(8) {
            world.marks.lost += 1;
            return Err(());
        }
        self.note(&format!("{}: {change:X?}", self.nodes[node].name));
        if matches!(change, Change::Mark { mark: None, .. }) {
            world.marks.removed += 1;
        }
        world.change(node, &change, self.now);
        if world.members[node].sees && world.members[1 - node].up {
            // The worst moment: the link fails with the change on its way.
            if self.faults_on && world.chance.one_in(8) {
                let cut_ms = world.chance.range(1_000, 12_000);
                world.cut_until = world.cut_until.max(self.now.after_ms(cut_ms));
            }
            // In the order in which they were sent.
            let wait = world.chance.skewed(1, 1_500);
            let before = world.messages.iter().filter(|m| m.from == node).map(|m| m.at).max();
            let at = self.now.after_ms(wait).max(before.unwrap_or(self.now));
            world.messages.push(Message { from: node, at, change });
        }
        // Now and then it is done, and nobody hears of it.
        if world.chance.one_in(24) { Err(()) } else { Ok(()) }
    }

    // --- the agent -----------------------------------------------------------------------------------

    /// What a demotion and the monitor see to: `demoted` and `keep`.
    fn monitor(&mut self, world: &mut Pacemaker, node: usize) {
        let peer = 1 - node;
        let Some(role) = self.role(node).filter(|_| world.members[node].up) else {
            return;
        };
        let before = world.members[node].role.replace(role);
        if before.is_none() || world.members[node].monitor_at <= self.now {
            world.members[node].is_up_to_date = self.is_up_to_date(node);
        }
        let demoted = std::mem::take(&mut world.members[node].demoted);
        let own = world.copies[node].marks[peer].clone().filter(|mark| mark.by == node);
        if (before == Some(Role::Primary) || demoted) && role == Role::Secondary {
            let unchanged = |(volume, from): (VolumeNumber, &u64)| {
                let generations = self.generations(node, volume);
                generations.is_some_and(|[current, bitmap, ..]| bitmap == 0 && current == *from)
                    && !self.has_more(node, volume)
            };
            if own.is_some_and(|mark| (0..).zip(&mark.from).all(unchanged)) {
                // The next look finds what was not done.
                self.write(world, node, Change::Mark { target: peer, mark: None }).ok();
            }
            return;
        }
        if world.members[node].monitor_at > self.now {
            return;
        }
        world.members[node].monitor_at = self.now.after_ms(MONITOR_MS);
        if world.copies[node].left[node] && world.members[node].stopping.is_none() {
            // The next look finds what was not done.
            self.write(world, node, Change::Left { node, value: false }).ok();
        }
        if role == Role::Primary && world.copies[node].marks[node].is_some() {
            // The next look finds what was not done.
            self.write(world, node, Change::Mark { target: node, mark: None }).ok();
        }
        if self.forget(world, node) || role != Role::Primary || own.is_some() {
            return;
        }
        let frozen = self.nodes[node].status.as_ref().is_some_and(|s| s.suspended_fencing);
        if !frozen && !self.is_connected(node) && self.is_alone(node) {
            let mark = self.claim(node);
            // The next look finds what was not done.
            self.write(world, node, Change::Mark { target: peer, mark }).ok();
        }
    }

    /// Whether an order is given at all: under Pacemaker only the cluster promotes, one node, which is not
    /// marked, and only where the other one is known to be off, or not to be Primary.
    pub(super) fn pacemaker_allows(&mut self, node: usize, command: &Command) -> bool {
        let Some(mut world) = self.pacemaker.take() else {
            return true;
        };
        let allowed = match command {
            Command::Primary { force: None } => self.may_promote(&mut world, node),
            Command::Secondary { .. } => {
                world.members[node].demoted = true;
                world.calls[node].iter_mut().for_each(|call| call.demoted = true);
                true
            }
            _ => true,
        };
        self.pacemaker = Some(world);
        allowed
    }

    fn may_promote(&self, world: &mut Pacemaker, node: usize) -> bool {
        let (own, peer) = (world.members[node], &self.nodes[1 - node]);
        let serves = peer.resource.is_some()
            && peer.status.as_ref().is_some_and(|status| status.role == Role::Primary);
        // Where the peer's Pacemaker does not run nothing of the cluster's does.
        let known = own.joined || own.sees && !world.members[1 - node].up;
        let free = own.knows_off || known && !serves && !promotes(peer);
        let stale = self.is_stale(world, node);
        world.marks.refused += u64::from(stale && free);
        own.up && own.stopping.is_none() && own.quorum && free && !stale
    }
}

/// A promotion is under way.
fn promotes(node: &Node) -> bool {
    node.orders.values().any(|order| matches!(order.command, Command::Primary { .. }))
}
