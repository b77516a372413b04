//! The cluster: two nodes, one clock, one queue of what happens next.
//!
//! Invariants:
//! - Everything follows from the seed and the plan: there is no other source of order or chance.
//! - A core is called with one event at a time, and drained before the next one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::resource::{
    Action, Event, Handler, PeerConfig, Resource, ResourceConfig, SocketId, Time, VolumeConfig,
    VolumeNumber,
};

use super::clients::Clients;
use super::coverage::Coverage;
use super::excuse::Pair;
use super::faults::node_id;
use super::history::{History, Rests};
use super::metadata::{boot_id, create};
use super::net::{SimNet, origin};
use super::node::{Input, Node, SimVolume};
use super::options::SimOptions;
use super::pool::Origin;
use super::prng::Prng;
use super::transcript::{Transcript, brief};
use crate::wire::Packet;

/// Actions of one drain: more is a loop.
const ACTIONS_MAX: usize = 100_000;
/// Happenings within a virtual second: more is a storm.
const STORM: u64 = 1_000_000;
/// Timeouts at one instant: more is a loop.
const TIMEOUTS_MAX: u32 = 100;

/// What a checker found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Time,
    /// What.
    pub text: String,
}

/// What happens at a point of time.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// Something reaches a core.
    Input { node: usize, life: u64, input: Input },
    /// A disk action, or a stage of one, ends.
    Disk { node: usize, life: u64, tag: crate::resource::Tag },
    /// Something reaches the end of a stream.
    Arrive { link: usize, side: usize },
    /// An attempt is answered, or not.
    Dialled { attempt: usize },
    /// The core's time-out.
    Timer { node: usize, generation: u64 },
    /// A client does something.
    Worker(usize),
    /// A client that has time does so many things more at once: a fault is near.
    Burst { worker: usize, left: u32 },
    /// Cluster software looks.
    Agent,
    /// A planned fault strikes, or begins to wait.
    Fault(usize),
    /// A fault has had its moment.
    Awaited(usize),
    /// A node comes back.
    Restart { node: usize },
    /// A node loses power in the middle of something.
    PowerLoss { node: usize },
    /// A frozen daemon runs again.
    Thaw { node: usize },
    /// A disk is well again.
    DiskWell { node: usize },
    /// A stalled disk goes on.
    Unstall { node: usize },
    /// The disks are where they belong again.
    SwapBack,
    /// A handler ends; `never`: it was killed at its limit.
    Handler { node: usize, life: u64, number: u64, handler: Handler, never: bool },
    /// The cluster software of `pacemaker` looks at the whole.
    Pacemaker,
    /// The checkers look at the whole.
    Check,
}

/// When something happens: of two things at one time, what was planned first; and its place.
type Scheduled = Reverse<(Time, u64, usize)>;

/// Streams of chance, one for each purpose.
#[derive(Clone, Debug)]
pub(super) struct Chance {
    pub(super) disk: Prng,
    pub(super) net: Prng,
    pub(super) clients: Prng,
    pub(super) admin: Prng,
    pub(super) seeds: Prng,
    pub(super) handlers: Prng,
    /// What is left of the last words of a socket that was closed.
    pub(super) last_words: Prng,
}

/// Two nodes and what is between them.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The clock.
    pub now: Time,
    /// The nodes.
    pub nodes: [Node; 2],
    pub(super) options: SimOptions,
    pub(super) net: SimNet,
    pub(super) history: History,
    pub(super) clients: Clients,
    pub(super) chance: Chance,
    pub(super) transcript: Transcript,
    pub(super) coverage: Coverage,
    pub(super) pairs: BTreeMap<VolumeNumber, Pair>,
    /// Pieces of a verify, by the VerifyS and its sequence.
    pub(super) compared: BTreeMap<(usize, u64), super::verify::Compared>,
    /// Blocks of this volume were changed behind a daemon and are not repaired yet.
    pub(super) falsified: Option<VolumeNumber>,
    /// How many faults of the plan have struck.
    pub(super) strikes: u64,
    /// Faults of the plan that wait for their moment.
    pub(super) waiting: BTreeSet<usize>,
    /// When the last operation that a slow disk has begun will have ended.
    pub(super) slow_until: Time,
    /// Until when something has happened, or goes on, that may hold requests.
    pub(super) disturbed: Time,
    /// The plan's faults strike, and cluster software acts.
    pub(super) faults_on: bool,
    pub(super) fencing: super::fencing::FencingWorld,
    pub(super) pacemaker: Option<Box<super::pacemaker::Pacemaker>>,
    /// Where answers rest that a node gives as it hands over, or sends a handshake, and hangs up in one
    /// turn: they come first, when it is still connected. By volume.
    pub(super) rested: Option<Vec<Rests>>,
    pub(super) next_order: u64,
    /// Of what was under way or unflushed, so many percent outlive a crash; drawn where it is `None`.
    pub(super) keeps: Option<u64>,
    /// What has ended stays so until somebody starts it.
    pub(super) by_hand: bool,
    /// `connect --discard-my-data` waits on this node.
    pub(super) discard: [bool; 2],
    /// The volumes and generations of the split brain that was known when it was ordered: its own, and the peer's.
    pub(super) discard_for: [Vec<(VolumeNumber, u64, u64)>; 2],
    /// How often each order was refused or done: for the statistics.
    pub(super) violation: Option<Violation>,
    /// A node was told lies ([`super::stranger`]): what that does to the data is no violation.
    pub(super) lied_to: bool,
    heap: BinaryHeap<Scheduled>,
    /// What happens, by place, and the places that are free.
    happenings: Vec<Option<Happening>>,
    free: Vec<usize>,
    order: u64,
    /// Room for the actions of a drain.
    drained: Vec<Action>,
    /// Events handled.
    pub events: u64,
    timeouts: (Time, u32),
    storm: (u64, u64),
}

impl Cluster {
    /// Two nodes with fresh disks, not started. Records so many lines.
    ///
    /// # Panics
    /// The sizes do not hold the metadata, which is a mistake in the options.
    #[must_use]
    pub fn new(options: SimOptions, keep: usize) -> Self {
        let seed = options.seed;
        let node = |n: usize| {
            let volumes = (0..options.volumes).map(|volume| {
                let device = seed ^ (n as u64 + 1) << 32 ^ u64::from(volume) << 48 | 1;
                let (size, block) = (options.sizes[n], options.al_block_sizes[n]);
                let (disk, geometry) = create(node_id(n), volume, size, block, device, "blank")
                    .expect("a simulated disk has room for its metadata");
                SimVolume::new(disk, geometry)
            });
            Node::new(["alice", "bob"][n], volumes.collect())
        };
        Self {
            now: Time(1_000_000_000),
            nodes: [node(0), node(1)],
            net: SimNet::new(options.net_us),
            history: History::default(),
            clients: Clients::new(options.workers, options.volumes),
            chance: Chance {
                disk: Prng::new(seed, 2),
                net: Prng::new(seed, 3),
                clients: Prng::new(seed, 4),
                admin: Prng::new(seed, 5),
                seeds: Prng::new(seed, 6),
                handlers: Prng::new(seed, 23),
                last_words: Prng::new(seed, 33),
            },
            transcript: Transcript::new(keep),
            coverage: Coverage::default(),
            compared: BTreeMap::new(),
            falsified: None,
            pairs: (0..options.volumes).map(|volume| (volume, Pair::default())).collect(),
            strikes: 0,
            waiting: BTreeSet::new(),
            slow_until: Time(0),
            disturbed: Time(0),
            faults_on: false,
            fencing: super::fencing::FencingWorld::default(),
            pacemaker: None,
            rested: None,
            next_order: 1,
            keeps: None,
            by_hand: false,
            discard: [false; 2],
            discard_for: Default::default(),
            violation: None,
            lied_to: false,
            heap: BinaryHeap::new(),
            happenings: Vec::new(),
            free: Vec::new(),
            drained: Vec::new(),
            order: 0,
            events: 0,
            timeouts: (Time(0), 0),
            storm: (0, 0),
            options,
        }
    }

    /// What is to happen at a point of time.
    pub(super) fn at(&mut self, at: Time, what: Happening) {
        self.order += 1;
        let place = self.free.pop().unwrap_or(self.happenings.len());
        if place == self.happenings.len() {
            self.happenings.push(None);
        }
        self.happenings[place] = Some(what);
        self.heap.push(Reverse((at.max(self.now), self.order, place)));
    }

    /// What is to happen after so many ns.
    pub(super) fn after(&mut self, ns: u64, what: Happening) {
        self.at(Time(self.now.0 + ns), what);
    }

    /// Something for a core, after so many ns.
    pub(super) fn input_after(&mut self, node: usize, ns: u64, input: Input) {
        let life = self.nodes[node].life;
        self.after(ns, Happening::Input { node, life, input });
    }

    /// An event for a core, now.
    pub(super) fn event(&mut self, node: usize, event: Event) {
        self.input(node, Input::Event(event));
    }

    /// A promise about data, orders or states is broken.
    pub(super) fn violate(&mut self, text: String) {
        if !self.lied_to {
            self.misuse(text);
        }
    }

    /// A core breaks its contract with the shell, whatever it was told.
    pub(super) fn misuse(&mut self, text: String) {
        if self.violation.is_none() {
            self.note(&format!("VIOLATION: {text}"));
            self.violation = Some(Violation { at: self.now, text });
        }
    }

    /// As [`Self::misuse`].
    pub(super) fn held(&mut self, result: Result<(), String>) {
        if let Err(text) = result {
            self.misuse(text);
        }
    }

    pub(super) fn judge(&mut self, result: Result<(), String>) {
        if let Err(text) = result {
            self.violate(text);
        }
    }

    /// A line of the transcript that belongs to no node.
    pub(super) fn note(&mut self, text: &str) {
        if self.transcript.is_on() {
            let line = format!("{} ---- {text}", self.clock());
            self.transcript.push(line);
        }
    }

    pub(super) fn clock(&self) -> String {
        let us = self.now.0 / 1000;
        format!("t={}.{:06}", us / 1_000_000, us % 1_000_000)
    }

    /// Runs until the clock shows this time, or a checker finds something, or `enough`.
    pub fn run_until(&mut self, end: Time, mut enough: impl FnMut(&Self) -> bool) {
        while self.violation.is_none() {
            let Some(Reverse((at, ..))) = self.heap.peek() else { break };
            if *at > end {
                break;
            }
            let moved = *at > self.now;
            self.now = *at;
            if moved && enough(self) {
                return;
            }
            if let Some(what) = self.take_next() {
                self.count_happening();
                self.happen(what);
            }
        }
        self.now = self.now.max(end);
    }

    /// Lets one thing happen, if it is due before this time. Returns whether a core may have seen it,
    /// or `None` at the end of the time or of the run.
    pub(super) fn step(&mut self, end: Time) -> Option<bool> {
        let late = self.heap.peek().is_none_or(|Reverse((at, ..))| *at > end);
        if self.violation.is_some() || late {
            self.now = self.now.max(end);
            return None;
        }
        let what = self.take_next()?;
        self.count_happening();
        let before = self.events;
        let timer = matches!(what, Happening::Timer { .. });
        self.happen(what);
        Some(!timer && self.events > before)
    }

    /// The clock shows the time of the next thing.
    fn take_next(&mut self) -> Option<Happening> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.now = at;
        self.free.push(place);
        self.happenings[place].take()
    }

    fn count_happening(&mut self) {
        let second = self.now.0 / 1_000_000_000;
        self.storm = if self.storm.0 == second { (second, self.storm.1 + 1) } else { (second, 0) };
        if self.storm.1 > STORM {
            self.misuse("too much happens: this goes round in a circle".to_owned());
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Input { node, life, input } => {
                if self.nodes[node].life == life {
                    self.input(node, input);
                }
            }
            Happening::Disk { node, life, tag } => {
                if self.nodes[node].life == life {
                    self.disk_done(node, tag);
                }
            }
            Happening::Arrive { link, side } => self.arrive(link, side),
            Happening::Dialled { attempt } => self.dialled(attempt),
            Happening::Timer { node, generation } => self.timer(node, generation),
            Happening::Worker(worker) => self.work(worker),
            Happening::Burst { worker, left } => self.burst(worker, left),
            Happening::Agent => self.agent(),
            Happening::Fault(index) => {
                if !self.faults_on {
                    return;
                }
                match self.options.plan[index].wait {
                    Some(_) => {
                        self.waiting.insert(index);
                    }
                    None => self.strike(index),
                }
            }
            Happening::Awaited(index) => {
                if self.faults_on {
                    self.strike(index);
                }
            }
            Happening::PowerLoss { node } => {
                if self.faults_on {
                    self.lose_power(node, 2_000);
                }
            }
            Happening::Restart { node } => self.restart(node),
            Happening::Thaw { node } => self.thaw(node),
            Happening::DiskWell { node } => self.disk_well(node),
            Happening::Unstall { node } => self.unstall(node, false),
            Happening::SwapBack => self.swap_back(),
            Happening::Handler { node, life, number, handler, never } => {
                if self.nodes[node].life == life {
                    self.handler_ends(node, number, handler, never);
                }
            }
            Happening::Pacemaker => self.pacemaker_looks(),
            Happening::Check => self.check_all(),
        }
    }

    fn timer(&mut self, node: usize, generation: u64) {
        let n = &mut self.nodes[node];
        if n.timer_generation != generation || !n.is_awake() {
            return;
        }
        n.timer = None;
        if self.timeouts.0 == self.now {
            self.timeouts.1 += 1;
            if self.timeouts.1 > TIMEOUTS_MAX {
                let name = self.nodes[node].name;
                return self.misuse(format!("{name} asks for a time-out that is over, for ever"));
            }
        } else {
            self.timeouts = (self.now, 0);
        }
        self.event(node, Event::Timeout);
    }

    /// Starts the daemon of a node.
    pub(super) fn start(&mut self, node: usize) {
        let config = self.config(node);
        let seed = self.chance.seeds.next();
        let now = self.now;
        let wall = self.wall_clock_ms(node);
        self.disturb();
        let n = &mut self.nodes[node];
        n.life += 1;
        n.handshake = None;
        n.resource = Some(Resource::new(config, seed, now, wall));
        n.version = 0;
        self.refresh(node);
        self.note(&format!("{} starts", self.nodes[node].name));
    }

    /// What the wall clock of a node shows, ms; one that shows a time before 1970 shows 1970.
    pub(super) fn wall_clock_ms(&self, node: usize) -> u64 {
        let offset_ms = self.nodes[node].wall_offset_s.saturating_mul(1000);
        (self.now.0 / 1_000_000).saturating_add_signed(offset_ms)
    }

    fn config(&self, node: usize) -> ResourceConfig {
        let peer = 1 - node;
        let volumes = (0..self.options.volumes).map(|number| VolumeConfig {
            number,
            minor: u32::from(number),
            disk: format!("/dev/sim{number}"),
            disk_options: None,
        });
        ResourceConfig {
            name: "r0".to_owned(),
            node_id: node_id(node),
            node_name: self.nodes[node].name.to_owned(),
            peers: vec![PeerConfig {
                node_id: node_id(peer),
                name: self.nodes[peer].name.to_owned(),
                address: format!("10.0.0.{}:7789", peer + 1),
            }],
            volumes: volumes.collect(),
            options: self.options.core.clone(),
        }
    }

    /// The boot id of a node's host.
    pub(super) fn boot_id(&self, node: usize) -> [u8; 16] {
        boot_id(node_id(node), self.nodes[node].boot)
    }

    /// Something reaches a core: at once, or when it is no longer frozen.
    pub(super) fn input(&mut self, node: usize, input: Input) {
        let n = &mut self.nodes[node];
        if n.resource.is_none() {
            return;
        }
        if n.frozen.is_some() {
            n.inbox.push_back(input);
            return;
        }
        if let Some(event) = self.make_event(node, input) {
            self.handle(node, event);
        }
    }

    /// Takes the buffers that an event needs.
    fn make_event(&mut self, node: usize, input: Input) -> Option<Event> {
        let pool = &mut self.nodes[node].pool;
        Some(match input {
            Input::Event(event) => event,
            Input::Read { tag, contents } => {
                let payload = pool.take(Origin::Read, 0, contents);
                Event::DiskDone { tag, result: Ok(Some(payload)) }
            }
            Input::Write { session, request, volume, start, contents, fua } => {
                let skip = u32::try_from(start % 8).expect("below 8");
                let payload = pool.take(Origin::Client, skip, contents);
                let op = crate::resource::Op::Write { offset: start * 512, payload, fua };
                Event::Request { session, request, volume, op }
            }
            Input::Packet { socket, packet, contents } => {
                let Some(packet) = packet else {
                    self.protocol_error(node, socket);
                    return None;
                };
                let payload =
                    (!contents.is_empty()).then(|| pool.take(origin(&packet), 0, contents));
                Event::Packet { socket, packet, payload }
            }
        })
    }

    /// One event and everything that follows at once.
    fn handle(&mut self, node: usize, event: Event) {
        self.events += 1;
        let now = self.now;
        let recorded = self.transcript.is_on().then(|| brief(&event));
        let n = &mut self.nodes[node];
        let Some(resource) = n.resource.as_mut() else { return };
        let mut actions = std::mem::take(&mut self.drained);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            resource.handle(now, event);
            while let Some(action) = resource.next_action() {
                actions.push(action);
                if actions.len() > ACTIONS_MAX {
                    break;
                }
            }
        }));
        if let Some(event) = recorded {
            self.record(node, &event, &actions);
        }
        if let Err(panic) = outcome {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            self.nodes[node].resource = None;
            return self.misuse(format!("{} panicked: {text}", self.nodes[node].name));
        }
        if actions.len() > ACTIONS_MAX {
            return self.misuse(format!("{} emits actions for ever", self.nodes[node].name));
        }
        let session = self.nodes[node].handshake;
        let answers_first = |action: &Action| answers_first(action, session);
        let parts = actions.iter().any(answers_first) && actions.iter().any(hangs_up);
        let handshake = actions.iter().rev().find_map(handshake_over);
        self.nodes[node].handshake = handshake.or(session);
        self.rested = parts.then(|| {
            let volumes = 0..self.options.volumes;
            volumes.map(|volume| self.rests(node, volume)).collect()
        });
        self.refresh(node);
        actions.iter().for_each(|action| self.coverage.action(action));
        let life = self.nodes[node].life;
        for action in actions.drain(..) {
            if self.violation.is_some() || self.nodes[node].life != life {
                return;
            }
            if hangs_up(&action) {
                self.rested = None;
            }
            self.perform(node, action);
        }
        self.rested = None;
        self.drained = actions;
        self.set_timer(node);
    }

    fn set_timer(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        let wanted = n.resource.as_ref().and_then(Resource::next_timeout);
        if wanted == n.timer {
            return;
        }
        n.timer = wanted;
        n.timer_generation += 1;
        let generation = n.timer_generation;
        if let Some(at) = wanted {
            self.at(at, Happening::Timer { node, generation });
        }
    }

    fn record(&mut self, node: usize, event: &str, actions: &[Action]) {
        let line = format!("{} {:5} {event}", self.clock(), self.nodes[node].name);
        self.transcript.push(line);
        for action in actions {
            let text = match action {
                Action::Log { text, .. } => format!("    log {text}"),
                action => format!("    -> {}", brief(action)),
            };
            self.transcript.push(text);
        }
    }

    /// Bytes that are not our protocol: the shell drops the connection.
    fn protocol_error(&mut self, node: usize, socket: SocketId) {
        let life = self.nodes[node].life;
        if let Some(place) = self.net.find(node, life, socket)
            && self.net.links[place.0].ends[place.1].open
        {
            self.abort(place, false);
            let error = crate::resource::SocketError::Protocol;
            self.event(node, Event::SocketLost { socket, error });
        }
    }
}

/// The peer's order to hand over has ended, with it or with nothing, and what was held back for it is answered; or
/// what was under way has, and the handshake that waited for it is sent: another one in a session, over the socket that
/// the last one went over.
fn answers_first(action: &Action, session: Option<SocketId>) -> bool {
    let Action::Send { socket, packet, .. } = action else { return false };
    match packet {
        Packet::HandOverAnswer { .. } => true,
        Packet::Handshake(_) => session == Some(*socket),
        _ => false,
    }
}

fn handshake_over(action: &Action) -> Option<SocketId> {
    match action {
        Action::Send { socket, packet: Packet::Handshake(_), .. } => Some(*socket),
        _ => None,
    }
}

fn hangs_up(action: &Action) -> bool {
    matches!(action, Action::CloseSocket { .. })
}
