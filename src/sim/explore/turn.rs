//! What may be done to a cluster at rest, and what may strike it in between.

use crate::resource::{ConnectionState, DiskState, Force, Reason, ReplicationState, Role, Time};

use super::super::clients::Asked;
use super::super::cluster::Cluster;
use super::super::faults::{Fault, Order, Planned};
use super::super::node::{DiskOp, DiskOpKind, Node};
use super::super::run::End;
use super::Move;

/// The longest that a turn may take to come to rest, ms.
const REST_MS: u64 = 20_000;
/// A time that no run reaches.
const NEVER: Time = Time(u64::MAX / 2);

/// Where histories begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Start {
    /// In sync, one of them Primary.
    InSync,
    /// Fresh disks that have met.
    Fresh,
}

impl Start {
    pub(in crate::sim) const ALL: [Self; 2] = [Self::InSync, Self::Fresh];
}

/// What a person, a client or the world does. Nodes by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A client writes a block.
    Write {
        /// At this node.
        node: usize,
        /// This block.
        block: u64,
        /// Durable before the answer.
        fua: bool,
    },
    /// A client flushes.
    Flush {
        /// At this node.
        node: usize,
    },
    /// A client reads what was written.
    Read {
        /// At this node.
        node: usize,
    },
    /// An order.
    Order {
        /// To this node.
        node: usize,
        /// Which.
        order: Order,
    },
    /// Nothing passes between the nodes.
    Part,
    /// Packets pass again.
    Join,
    /// A daemon is started, and comes up; so is its host.
    Start {
        /// This one.
        node: usize,
    },
    /// The disk of a node that is down is replaced by a blank one.
    Replace {
        /// This one.
        node: usize,
    },
    /// A blow while all is at rest.
    Blow(Blow),
}

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alphabet {
    /// Everything that is known here; blows in the midst of it.
    Whole,
    /// What changes the metadata, with one block to write: a history may be long.
    Metadata,
}

const ORDERS: [Order; 11] = [
    Order::Primary,
    Order::Secondary,
    Order::Disconnect,
    Order::Connect,
    Order::Down,
    Order::ClearBitmap,
    Order::Force(Force::Plain),
    Order::Force(Force::Outdated),
    Order::Force(Force::Inconsistent),
    Order::ConnectDiscard,
    Order::Invalidate,
];

impl Turn {
    /// All of them.
    pub(super) fn all(alphabet: Alphabet) -> Vec<Self> {
        match alphabet {
            Alphabet::Whole => Self::whole(),
            Alphabet::Metadata => Self::of_metadata(),
        }
    }

    /// One block is written, and a flush makes it durable; a blow takes all that was not.
    fn of_metadata() -> Vec<Self> {
        let mut all = vec![Self::Part, Self::Join, Self::Blow(Blow::PowerBoth { keeps: 0 })];
        for node in 0..2 {
            all.extend([Self::Write { node, block: 0, fua: false }, Self::Flush { node }]);
            all.extend(ORDERS.map(|order| Self::Order { node, order }));
            all.extend([Self::Start { node }, Self::Replace { node }]);
            all.push(Self::Blow(Blow::Crash { node, keeps: 0 }));
            all.push(Self::Blow(Blow::Power { node, keeps: 0 }));
        }
        all
    }

    fn whole() -> Vec<Self> {
        let mut all = vec![Self::Part, Self::Join];
        for node in 0..2 {
            all.push(Self::Write { node, block: 0, fua: false });
            all.push(Self::Write { node, block: 1, fua: false });
            all.push(Self::Write { node, block: 0, fua: true });
            all.extend([Self::Flush { node }, Self::Read { node }]);
            all.extend(ORDERS.map(|order| Self::Order { node, order }));
            // Of the metadata it is a demotion and a promotion.
            all.push(Self::Order { node, order: Order::HandOver });
            all.extend([Self::Start { node }, Self::Replace { node }]);
        }
        all
    }

    /// Somebody's data is given up.
    pub(super) fn is_drastic(self) -> bool {
        match self {
            Self::Replace { .. } => true,
            Self::Order { order, .. } => {
                matches!(order, Order::Force(_) | Order::ConnectDiscard | Order::Invalidate)
            }
            _ => false,
        }
    }
}

/// What strikes. Nodes by number; of what was under way or unflushed, so many percent stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// A daemon dies.
    Crash {
        /// This one.
        node: usize,
        /// Percent.
        keeps: u64,
    },
    /// A host loses power.
    Power {
        /// This one.
        node: usize,
        /// Percent.
        keeps: u64,
    },
    /// Both do.
    PowerBoth {
        /// Percent.
        keeps: u64,
    },
    /// Nothing passes between the nodes.
    Part,
}

impl Blow {
    /// All of them. Of metadata that is written in order, what is kept of one step is what was there
    /// before the next one.
    pub(super) fn all(alphabet: Alphabet) -> Vec<Self> {
        let mut all = vec![Self::Part];
        let shares: &[u64] = if alphabet == Alphabet::Metadata { &[0] } else { &[0, 100] };
        for keeps in shares.iter().copied() {
            for node in 0..2 {
                all.extend([Self::Crash { node, keeps }, Self::Power { node, keeps }]);
            }
            all.push(Self::PowerBoth { keeps });
        }
        all
    }
}

impl Cluster {
    /// Brings the nodes where histories begin.
    pub(super) fn begin(&mut self, start: Start) {
        match start {
            Start::InSync => self.come_up(),
            Start::Fresh => {
                self.clients.stopped = true;
                for node in 0..2 {
                    self.start(node);
                    self.up(node);
                }
            }
        }
        self.by_hand = true;
        self.come_to_rest(|_, _| true);
    }

    /// A turn that would change something.
    pub(super) fn allows(&self, turn: Turn) -> bool {
        let primary = |n: &Node| n.status.as_ref().is_some_and(|s| s.role == Role::Primary);
        let disk = |n: &Node| n.device(0).map(|d| d.disk_state);
        let alone = |n: &Node| {
            n.connection().is_some_and(|c| c.connection_state == ConnectionState::StandAlone)
        };
        match turn {
            Turn::Write { node, .. } => primary(&self.nodes[node]),
            Turn::Read { node } | Turn::Flush { node } => {
                primary(&self.nodes[node])
                    && self.nodes.iter().any(|n| n.volumes[0].disk.is_dirty())
            }
            Turn::Part => !self.is_parted() && self.nodes.iter().all(|n| n.resource.is_some()),
            Turn::Join => self.is_parted(),
            Turn::Start { node } => self.nodes[node].resource.is_none(),
            Turn::Replace { node } => self.nodes[node].resource.is_none(),
            Turn::Blow(blow) => self.suffers(blow),
            Turn::Order { node, order } => {
                let n = &self.nodes[node];
                let state = disk(n);
                n.resource.is_some()
                    && match order {
                        Order::Primary => !primary(n),
                        Order::Force(Force::Plain) => {
                            !primary(n)
                                && (state == Some(DiskState::Consistent)
                                    || n.device(0).is_some_and(|d| {
                                        d.current_uuid == crate::meta::JUST_CREATED
                                    }))
                        }
                        Order::Force(Force::Outdated) => {
                            !primary(n) && state == Some(DiskState::Outdated)
                        }
                        Order::Force(_) => !primary(n) && state == Some(DiskState::Inconsistent),
                        Order::HandOver => !primary(n) && !alone(n),
                        Order::Secondary => primary(n),
                        Order::Disconnect => !alone(n),
                        Order::Connect => alone(n),
                        Order::ConnectDiscard => {
                            alone(n)
                                && n.connection().is_some_and(|c| c.reason == Reason::SplitBrain)
                        }
                        Order::ClearBitmap => {
                            n.device(0).is_some_and(|d| d.current_uuid == crate::meta::JUST_CREATED)
                        }
                        Order::Invalidate => !primary(n),
                        _ => true,
                    }
            }
        }
    }

    /// A blow that would change something, and not the same as another one.
    pub(super) fn suffers(&self, blow: Blow) -> bool {
        let under_way = |n: &Node| !n.ops.is_empty();
        let open = |n: &Node| under_way(n) || n.volumes[0].disk.is_dirty();
        match blow {
            Blow::Part => !self.is_parted() && self.nodes.iter().all(|n| n.resource.is_some()),
            Blow::Crash { node, keeps } => {
                let n = &self.nodes[node];
                n.resource.is_some() && (keeps == 0 || under_way(n))
            }
            Blow::Power { node, keeps } => {
                let n = &self.nodes[node];
                n.host_up && (keeps == 0 || open(n))
            }
            Blow::PowerBoth { keeps } => {
                self.nodes.iter().all(|n| n.host_up) && (keeps == 0 || self.nodes.iter().any(open))
            }
        }
    }

    /// Nothing passes between the nodes.
    pub(in crate::sim) fn is_parted(&self) -> bool {
        self.net.cut_until[0] == NEVER
    }

    /// One move of a history.
    pub(in crate::sim) fn play(&mut self, one: &Move) {
        let Some((at, blow)) = one.blow else {
            self.play_turn(one.turn, |_, _| true);
            return;
        };
        let steps = self.play_turn(one.turn, |_, steps| steps < at);
        debug_assert!(steps <= at, "a move is played as it was found");
        self.strike_blow(blow);
        self.come_to_rest(|_, _| true);
    }

    /// Plays a turn until all is at rest, or `on`, which hears of each step, says no. Returns the
    /// steps.
    pub(in crate::sim) fn play_turn(
        &mut self,
        turn: Turn,
        mut on: impl FnMut(&Self, usize) -> bool,
    ) -> usize {
        let fault = match turn {
            Turn::Order { node, order } => Some(Fault::Order { node, order }),
            Turn::Replace { node } => Some(Fault::ReplaceDisk { node, off_ms: 0 }),
            _ => None,
        };
        // The checkers ask what a plan may lead to.
        self.options.plan.extend(fault.map(|fault| Planned::new(0, None, fault)));
        match turn {
            Turn::Write { node, block, fua } => self.ask(node, Asked::Write { block, fua }),
            Turn::Flush { node } => self.ask(node, Asked::Flush),
            Turn::Read { node } => self.ask(node, Asked::Read { block: 0 }),
            Turn::Order { node, order } => {
                if order == Order::Secondary || order == Order::Down {
                    self.hang_up_all();
                }
                self.give(node, order, 0);
            }
            Turn::Part => self.net.cut_until = [NEVER; 2],
            Turn::Join => self.join(),
            Turn::Start { node } => self.restart(node),
            Turn::Replace { node } => self.replace_disk(node, 0),
            Turn::Blow(blow) => self.strike_blow(blow),
        }
        if !on(self, 0) {
            return 0;
        }
        self.come_to_rest(on)
    }

    /// A blow strikes.
    pub(in crate::sim) fn strike_blow(&mut self, blow: Blow) {
        self.note(&format!("blow: {blow:?}"));
        let (Blow::Crash { keeps, .. } | Blow::Power { keeps, .. } | Blow::PowerBoth { keeps }) =
            blow
        else {
            self.net.cut_until = [NEVER; 2];
            return;
        };
        self.keeps = Some(keeps);
        match blow {
            Blow::Crash { node, .. } => self.crash(node, 0),
            Blow::Power { node, .. } => self.lose_power(node, 0),
            _ => {
                self.lose_power(0, 0);
                self.lose_power(1, 0);
            }
        }
        self.keeps = None;
    }

    fn join(&mut self) {
        self.net.cut_until = [Time(0); 2];
        self.send_what_waits();
    }

    /// Lets both nodes go on until nothing moves any more, or `on` says no. Returns the steps.
    pub(in crate::sim) fn come_to_rest(
        &mut self,
        mut on: impl FnMut(&Self, usize) -> bool,
    ) -> usize {
        let end = self.in_ms(REST_MS);
        let mut steps = 0;
        while !self.is_at_rest() {
            match self.step(end) {
                None => break,
                Some(true) => {
                    steps += 1;
                    if !on(self, steps) {
                        break;
                    }
                }
                Some(false) => {}
            }
        }
        steps
    }

    /// Something is on its way to a disk.
    pub(super) fn is_writing(&self) -> bool {
        let reads = |op: &DiskOp| matches!(op.kind, DiskOpKind::Read { .. });
        self.nodes.iter().any(|n| n.ops.values().any(|op| !reads(op)))
    }

    /// Nothing is under way, and each node knows whether the other one is there.
    fn is_at_rest(&self) -> bool {
        let moving = |n: &Node| !n.ops.is_empty() || !n.orders.is_empty();
        if self.nodes.iter().any(moving) || !self.net.is_quiet() || self.clients.pending() > 0 {
            return false;
        }
        let state = |n: &Node| n.connection().map(|c| c.connection_state);
        let settled = |n: &Node| {
            n.device(0).is_none_or(|d| {
                !matches!(d.disk_state, DiskState::Attaching | DiskState::Negotiating)
            }) && n.peer_device(0).is_none_or(|p| {
                matches!(p.replication_state, ReplicationState::Off | ReplicationState::Established)
            })
        };
        let up = self.nodes.iter().filter(|n| n.resource.is_some()).count();
        let linked = up == 2 && !self.is_parted();
        let [a, b] = [0, 1].map(|n| state(&self.nodes[n]));
        let alone = |s| s == Some(ConnectionState::StandAlone);
        let agree = if linked && !alone(a) && !alone(b) {
            a == Some(ConnectionState::Connected) && b == a
        } else {
            [a, b].iter().all(|s| *s != Some(ConnectionState::Connected))
        };
        agree && self.nodes.iter().all(settled)
    }

    /// All faults end: both must be in sync in the end, or in a refusal that has a name.
    pub(super) fn end(&mut self) -> End {
        self.by_hand = false;
        self.heal();
        self.clients.stopped = true;
        let end = self.settle();
        if self.violation.is_none() && !matches!(end, End::Refused(_)) {
            self.finish();
        }
        end
    }
}
