//! Administrators and cluster software: orders, and what becomes of them.
//!
//! Invariants:
//! - Every order is answered within [`ORDER_MS`] of virtual time, unless its node dies; a promotion, which
//!   waits for fence-peer, and for an unfence-peer that runs before it, may take the time of both handlers.

use std::collections::VecDeque;

use crate::meta::{DeviceFlags, Geometry};
use crate::resource::{
    AdminResult, AttachedDisk, Command, ConnectionState, DiskState, Event, Force, Reason, Role,
    Time, VolumeNumber,
};

use super::cluster::{Cluster, Happening};
use super::excuse::GivesUp;
use super::faults::{Order, node_id};
use super::metadata;
use super::node::Input;

/// The longest that an order may take, ms (DESIGN 8: 30 s, then it is refused).
pub(super) const ORDER_MS: u64 = 40_000;

/// One step of an order.
#[derive(Clone, Debug)]
pub enum Step {
    /// Open the disk and attach it.
    Attach(VolumeNumber),
    /// As it is.
    Command(Command),
}

/// An order that is not answered.
#[derive(Clone, Debug)]
pub struct PendingOrder {
    /// What was sent.
    pub command: Command,
    /// When.
    pub at: Time,
    /// What comes next if it is done.
    pub then: VecDeque<Step>,
    /// It has waited for a stalled disk longer than an order may.
    pub excused: bool,
    /// It gives a disk up.
    pub(super) gives_up: Option<GivesUp>,
    /// A Primary with a good disk is left by it, or leaves: the other node's disk is old in the end. How many faults
    /// had struck by then.
    pub leaves: Option<u64>,
}

impl Cluster {
    /// Sends the first step of an order.
    pub(super) fn order(&mut self, node: usize, mut steps: VecDeque<Step>) {
        let command = loop {
            match steps.pop_front() {
                None => return,
                Some(Step::Command(command)) => break command,
                Some(Step::Attach(volume)) => {
                    if let Some(command) = self.open_disk(node, volume) {
                        break command;
                    }
                }
            }
        };
        if self.nodes[node].resource.is_none() || !self.pacemaker_allows(node, &command) {
            return;
        }
        let id = self.next_order;
        self.next_order += 1;
        let (name, at) = (self.nodes[node].name, self.now);
        self.note(&format!("order {id} to {name}: {}", super::transcript::brief(&command)));
        let gives_up = self.watch_order(node, &command);
        let leaves = matches!(command, Command::Disconnect { force: false, .. })
            .then_some(self.strikes)
            .filter(|_| self.leaves_a_good_primary());
        let (excused, then) = (false, steps);
        let pending =
            PendingOrder { command: command.clone(), at, then, excused, gives_up, leaves };
        self.nodes[node].orders.insert(id, pending);
        self.input(node, Input::Event(Event::Admin { id, command }));
    }

    fn lone_primary(&self) -> Option<usize> {
        let is_primary =
            [0, 1].map(|n| self.nodes[n].status.as_ref().is_some_and(|s| s.role == Role::Primary));
        (is_primary[0] != is_primary[1]).then(|| usize::from(is_primary[1]))
    }

    /// The nodes are connected, one is Primary, and its disks are good.
    fn leaves_a_good_primary(&self) -> bool {
        let connected = |node: &super::node::Node| {
            node.connection().is_some_and(|c| c.connection_state == ConnectionState::Connected)
        };
        let good = |primary: usize| {
            (0..self.options.volumes).all(|volume| {
                let device = self.nodes[primary].device(volume);
                device.is_some_and(|device| device.disk_state == DiskState::UpToDate)
            })
        };
        self.nodes.iter().all(connected) && self.lone_primary().is_some_and(good)
    }

    /// The order was done, and nothing else has happened: nobody takes the disk that was left for the newest, once
    /// the Primary goes on (promise 6).
    fn check_left(&mut self) {
        let Some(primary) = self.lone_primary() else { return };
        let left = 1 - primary;
        for volume in 0..self.options.volumes {
            let disk = |node: usize| self.nodes[node].device(volume).map(|d| d.disk_state);
            let v = &self.nodes[left].volumes[usize::from(volume)];
            let flags = v.durable.as_ref().map_or(0, |s| s.flags);
            let newest = flags & DeviceFlags::CONSISTENT != 0 && flags & DeviceFlags::OUTDATED == 0;
            // One that is being attached to the session has no part in it yet.
            let apart = [DiskState::Attaching, DiskState::Negotiating];
            let in_use =
                disk(left).is_some_and(|disk| disk > DiskState::Failed && !apart.contains(&disk));
            if newest && in_use && disk(primary) == Some(DiskState::UpToDate) {
                let name = self.nodes[left].name;
                self.violate(format!(
                    "{name} was left in order, and its disk {volume} is not Outdated"
                ));
            }
        }
    }

    /// The shell's part of an attach: `None` if the disk is in use.
    fn open_disk(&mut self, node: usize, volume: VolumeNumber) -> Option<Command> {
        let boot = self.boot_id(node);
        let v = &mut self.nodes[node].volumes[usize::from(volume)];
        if v.attached {
            return None;
        }
        let slow = v.disk.faults;
        v.disk.faults = super::disk::DiskFaults {
            flaky: slow.flaky,
            full: slow.full,
            slow_ms: slow.slow_ms,
            stall: slow.stall,
            ..Default::default()
        };
        v.disk.drop_cache();
        match metadata::open(&mut v.disk, &mut v.geometry, boot) {
            Err(text) if v.bad_superblock && !v.foreign => {
                // Refused; somebody runs create-md there.
                self.note(&format!("attach of {volume} is refused: {text}"));
                self.history.excused.refused += 1;
                self.replace_disk(node, volume);
                self.open_disk(node, volume)
            }
            Err(_) if v.bad_superblock => None,
            Err(text) => {
                self.violate(format!("metadata of {volume} is lost: {text}"));
                None
            }
            Ok(mut meta) => {
                let whole = meta.superblock.flags & DeviceFlags::CONSISTENT != 0 && !v.foreign;
                v.attached = true;
                v.space = Default::default();
                let mut held = Ok(());
                // The real shell notes it beside the disk.
                meta.same_boot &= !v.failed && !v.foreign;
                if !v.foreign {
                    let failed = std::mem::take(&mut v.failed) | std::mem::take(&mut v.hung);
                    let before = v.durable.replace(meta.superblock.clone());
                    held = self.history.attached(node, volume, &v.disk, failed);
                    if whole && before.is_some_and(|s| s.flags & DeviceFlags::CONSISTENT == 0) {
                        // The write that said so has ended in an error, and one copy of it is there.
                        self.history.whole(node, volume, &v.disk);
                    }
                }
                let disk = Box::new(AttachedDisk {
                    data_size: v.geometry.data_size,
                    logical_block_size: v.geometry.al_block_size,
                    path: format!("/dev/sim{volume}"),
                    meta,
                });
                self.judge(held);
                if whole {
                    self.found_whole(node, volume);
                }
                Some(Command::Attach { volume, disk })
            }
        }
    }

    /// `Action::AdminReply`.
    pub(super) fn order_answered(&mut self, node: usize, id: u64, result: AdminResult) {
        let Some(order) = self.nodes[node].orders.remove(&id) else {
            return self.misuse(format!("order {id} was answered twice, or never given"));
        };
        self.coverage.answer(&order.command, &result);
        if let (Command::Attach { volume, .. }, Ok(_)) = (&order.command, &result)
            && self.nodes[node].volumes[usize::from(*volume)].foreign
        {
            let name = self.nodes[node].name;
            return self.violate(format!("{name} has taken the other node's disk {volume}"));
        }
        if let (Command::Attach { volume, .. }, Err(refusal)) = (&order.command, &result) {
            // The core has not taken the disk; or it has (118), and closes it.
            let device = self.nodes[node].device(*volume).map(|d| d.disk_state);
            // A disk that hangs is closed when it answers.
            let taken = refusal.code == 118;
            if !taken && device.is_none_or(|state| state == DiskState::Diskless) {
                self.nodes[node].volumes[usize::from(*volume)].attached = false;
            }
        }
        if let (Command::Resize { volume, .. }, Ok(_)) = (&order.command, &result) {
            self.tell_clients(*volume);
        }
        if order.leaves == Some(self.strikes) && result.as_ref().is_ok_and(String::is_empty) {
            self.check_left();
        }
        if let Some(given) = order.gives_up {
            self.give_up_answered(node, given, &result);
        }
        if let (Command::Connect { discard_my_data: true, .. }, Ok(_)) = (&order.command, &result) {
            self.discard[node] = true;
        }
        match result {
            Ok(_) if matches!(order.command, Command::Down { .. }) => self.went_down(node),
            Ok(_) => self.order(node, order.then),
            Err(_) => {}
        }
    }

    /// What `tandemadm up` does.
    pub(super) fn up(&mut self, node: usize) {
        let mut steps: VecDeque<_> = (0..self.options.volumes).map(Step::Attach).collect();
        steps.push_back(Step::Command(self.connect_command(node, false)));
        self.order(node, steps);
    }

    pub(super) fn connect_command(&self, node: usize, discard_my_data: bool) -> Command {
        Command::Connect { peer: node_id(1 - node), discard_my_data, tentative: false }
    }

    pub(super) fn command(&mut self, node: usize, command: Command) {
        self.order(node, VecDeque::from([Step::Command(command)]));
    }

    /// An order of the plan; what names a volume names this one.
    pub(super) fn give(&mut self, node: usize, order: Order, volume: VolumeNumber) {
        let peer = node_id(1 - node);
        let command = match order {
            Order::Primary => Command::Primary { force: None },
            Order::AutoPromote => Command::AutoPromote,
            Order::Force(force) => Command::Primary { force: Some(force) },
            Order::HandOver => Command::HandOver,
            Order::Secondary => {
                // `umount` comes before `secondary`.
                if self.clients.connected_to(node) && self.chance.admin.percent(50) {
                    self.hang_up_all();
                }
                Command::Secondary { force: false, wait_ms: 0 }
            }
            Order::SecondaryForce => Command::Secondary { force: true, wait_ms: 0 },
            Order::Disconnect => Command::Disconnect { peer, force: false, for_ms: None },
            Order::DisconnectForce => Command::Disconnect { peer, force: true, for_ms: None },
            Order::SecondaryWait => Command::Secondary { force: false, wait_ms: 3_000 },
            Order::DisconnectFor => Command::Disconnect { peer, force: false, for_ms: Some(2_000) },
            Order::Connect => self.connect_command(node, false),
            Order::ConnectDiscard => self.connect_command(node, true),
            Order::ConnectTentative => {
                Command::Connect { peer, discard_my_data: false, tentative: true }
            }
            Order::Invalidate => Command::Invalidate { volume },
            Order::InvalidateRemote => Command::InvalidateRemote { volume, peer },
            Order::Outdate => Command::Outdate { volume },
            Order::Detach => Command::Detach { volume, force: false },
            Order::DetachForce => Command::Detach { volume, force: true },
            Order::Attach => return self.order(node, VecDeque::from([Step::Attach(volume)])),
            Order::Reattach => {
                let detach = Step::Command(Command::Detach { volume, force: false });
                return self.order(node, VecDeque::from([detach, Step::Attach(volume)]));
            }
            Order::NewCurrentUuid => Command::NewCurrentUuid { volume, clear_bitmap: false },
            Order::ClearBitmap => Command::NewCurrentUuid { volume, clear_bitmap: true },
            Order::ForgetPeer => Command::ForgetPeer { peer },
            Order::Seed => {
                let mut steps = VecDeque::from([
                    Step::Command(Command::Disconnect { peer, force: false, for_ms: None }),
                    Step::Command(Command::ForgetPeer { peer }),
                ]);
                let clear = |volume| Command::NewCurrentUuid { volume, clear_bitmap: true };
                steps.extend((0..self.options.volumes).map(|v| Step::Command(clear(v))));
                return self.order(node, steps);
            }
            Order::Resize => return self.resize(node, volume),
            Order::Verify => Command::Verify { volume, peer, start: None, stop: None },
            Order::VerifyPart => {
                let size = self.nodes[node].device(volume).map_or(0, |device| device.size);
                let start = self.chance.admin.below(size.max(1));
                let stop = start + self.chance.admin.below(size.max(1));
                Command::Verify { volume, peer, start: Some(start), stop: Some(stop) }
            }
            Order::VerifyStop => Command::Verify { volume, peer, start: None, stop: Some(0) },
            Order::Repair => {
                let there = self.nodes[1 - node].status.as_ref();
                let primary = there.is_some_and(|status| status.role == Role::Primary);
                let from = if primary { peer } else { node_id(node) };
                Command::Repair { volume, peer, from }
            }
            Order::Down => Command::Down { shutdown: false },
            Order::Adjust => self.adjust(),
            Order::Misnamed => self.misnamed(node, volume),
            Order::PauseSync => Command::PauseSync { volume, peer, pause: true },
            Order::ResumeSync => Command::PauseSync { volume, peer, pause: false },
            Order::SuspendIo => Command::SuspendIo { suspend: true },
            Order::ResumeIo => Command::SuspendIo { suspend: false },
            Order::Dependency(paused) => return self.depend(node, volume, paused),
        };
        self.command(node, command);
    }

    /// Somebody makes both disks larger, or one, or none; and orders the resize, or forgets it.
    fn resize(&mut self, node: usize, volume: VolumeNumber) {
        for n in 0..2 {
            if self.chance.admin.percent(80) {
                self.grow_disk(n, volume);
            }
        }
        let p = &mut self.chance.admin;
        let size = self.nodes[node].device(volume).map_or(0, |device| device.size);
        let size = match p.below(10) {
            0 => Some(size + p.below(1 << 16)),
            1 => Some(size / 2),
            _ => None,
        };
        let assume_clean = p.percent(30);
        let (ordered, cut, both) = (p.percent(90), p.percent(40), p.one_in(3));
        let (victim, soon) = (p.index(2), p.skewed(1, 80));
        if ordered {
            self.command(node, Command::Resize { volume, size, assume_clean });
        }
        for victim in (0..2).filter(|n| cut && (both || *n == victim)) {
            let at = self.in_ms(soon);
            self.at(at, Happening::PowerLoss { node: victim });
        }
    }

    /// A disk is larger now. What is there is not what is there on the other node's, sometimes.
    fn grow_disk(&mut self, node: usize, volume: VolumeNumber) {
        const MAX: u64 = 4 * 2_600 * 8;
        let first = self.options.sizes[node] / 512;
        let more = self.chance.admin.skewed(1, 600) * 8;
        let value = if self.chance.admin.percent(70) { (1 << 50) + node as u64 } else { 0 };
        let name = self.nodes[node].name;
        let v = &mut self.nodes[node].volumes[usize::from(volume)];
        let sectors = v.disk.sectors() + more;
        if v.foreign || sectors > MAX.max(first + MAX / 4) {
            return;
        }
        let block = v.geometry.al_block_size;
        let Ok(bytes) = Geometry::external_bytes(sectors * 512, block, v.geometry.max_peers) else {
            return;
        };
        let was = v.disk.sectors();
        v.disk.grow(sectors, value, bytes);
        v.grown = true;
        self.history.grew(volume, (was, sectors), value);
        self.note(&format!("disk {volume} of {name} has {} bytes now", sectors * 512));
    }

    /// Other options, of those that a run does not rest on.
    fn adjust(&mut self) -> Command {
        let mut options = Box::new(self.options.core.clone());
        let p = &mut self.chance.admin;
        options.resync_rate = *p.choose(&[250, 4_096, 102_400]);
        options.c_max_rate = *p.choose(&[4_096, 102_400, 0]);
        options.ping_int_ms = *p.choose(&[500, 2_000, 10_000]);
        options.connect_int_ms = *p.choose(&[1_000, 3_000]);
        Command::SetOptions { options, volumes: Default::default() }
    }

    /// A typing error. `named` is there.
    fn misnamed(&mut self, node: usize, named: VolumeNumber) -> Command {
        const NONE: u8 = 9;
        let (peer, volume) = (node_id(1 - node), VolumeNumber::from(NONE));
        let orders = [
            Command::Connect { peer: NONE, discard_my_data: false, tentative: false },
            Command::Disconnect { peer: NONE, force: false, for_ms: None },
            Command::Detach { volume, force: false },
            Command::Invalidate { volume },
            Command::Outdate { volume },
            Command::Verify { volume: named, peer: NONE, start: None, stop: None },
            Command::Verify { volume, peer, start: None, stop: None },
            Command::Repair { volume: named, peer, from: NONE },
            Command::Repair { volume: named, peer, from: node_id(node) },
            Command::Repair { volume: named, peer, from: peer },
            Command::NewCurrentUuid { volume, clear_bitmap: false },
            Command::PauseSync { volume, peer, pause: true },
            Command::PauseSync { volume: named, peer: NONE, pause: true },
            Command::ForgetPeer { peer: NONE },
            Command::Resize { volume, size: None, assume_clean: false },
        ];
        self.chance.admin.choose(&orders).clone()
    }

    /// Another resource of the node resyncs first, or does no more.
    fn depend(&mut self, node: usize, volume: VolumeNumber, paused: bool) {
        if self.nodes[node].resource.is_some() {
            let event = Event::ResyncDependency { volume, peer: node_id(1 - node), paused };
            self.input(node, Input::Event(event));
        }
    }

    /// What was held back by order goes on.
    pub(super) fn resume_all(&mut self) {
        for node in 0..2 {
            for volume in 0..self.options.volumes {
                self.give(node, Order::ResumeSync, volume);
            }
            self.give(node, Order::ResumeIo, 0);
            for volume in 0..self.options.volumes {
                self.give(node, Order::Dependency(false), volume);
            }
        }
    }

    /// Cluster software looks at the whole.
    pub(super) fn agent(&mut self) {
        let pause = self.chance.admin.range(300, 1_500);
        let at = self.in_ms(pause);
        self.at(at, Happening::Agent);
        if !self.faults_on {
            return;
        }
        for node in 0..2 {
            if self.nodes[node].is_awake() && self.nodes[node].orders.is_empty() {
                self.tend(node);
            }
        }
        if self.options.failover {
            self.find_a_primary();
        }
    }

    /// Puts right what an order or a failed disk has left.
    fn tend(&mut self, node: usize) {
        if !self.chance.admin.one_in(4) {
            return;
        }
        for volume in 0..self.options.volumes {
            let state = self.nodes[node].device(volume).map(|d| d.disk_state);
            if state == Some(DiskState::Diskless) {
                return self.order(node, VecDeque::from([Step::Attach(volume)]));
            }
        }
        let Some(connection) = self.nodes[node].connection() else { return };
        if connection.connection_state != ConnectionState::StandAlone {
            return;
        }
        let split = connection.reason == Reason::SplitBrain;
        if split && self.options.resolve {
            return self.resolve_split_brain();
        }
        let command = self.connect_command(node, false);
        self.command(node, command);
    }

    /// A person chooses a victim.
    pub(super) fn resolve_split_brain(&mut self) {
        let victim = self.chance.admin.index(2);
        if !(self.nodes[0].is_awake() && self.nodes[1].is_awake()) {
            return;
        }
        let discard = self.connect_command(victim, true);
        let mut steps = VecDeque::new();
        if self.nodes[victim].status.as_ref().is_some_and(|s| s.role == Role::Primary) {
            steps.push_back(Step::Command(Command::Secondary { force: true, wait_ms: 0 }));
        }
        steps.push_back(Step::Command(discard));
        self.order(victim, steps);
        let command = self.connect_command(1 - victim, false);
        self.command(1 - victim, command);
    }

    /// Somebody must serve: where nobody is Primary, one is promoted without force.
    fn find_a_primary(&mut self) {
        let primary = |n: &super::node::Node| {
            n.status.as_ref().is_some_and(|status| status.role == Role::Primary)
        };
        let careless = self.options.careless;
        let serves =
            |n: &super::node::Node| if careless { n.is_awake() && primary(n) } else { primary(n) };
        if self.nodes.iter().any(serves) {
            return;
        }
        let first = self.chance.admin.index(2);
        for node in [first, 1 - first] {
            if self.nodes[node].is_awake() && self.nodes[node].orders.is_empty() {
                return self.command(node, Command::Primary { force: None });
            }
        }
    }

    /// A resource that is down again.
    fn went_down(&mut self, node: usize) {
        let n = &self.nodes[node];
        let name = n.name;
        let given_up = n.status.as_ref().is_some_and(|status| {
            status.devices.iter().any(|one| one.disk_state == DiskState::Failed)
        });
        if given_up {
            // A disk that hangs is kept until the daemon ends; it does.
        } else if n.pool.live() > 0 {
            self.misuse(format!("{name} is down and has kept {} buffers", n.pool.live()));
        } else if !n.ops.is_empty() {
            self.misuse(format!("{name} is down with disk actions under way: {:?}", n.ops));
        } else if n.volumes.iter().any(|v| v.attached) {
            self.misuse(format!("{name} is down and has not closed its disk"));
        }
        self.end_life(node, false);
        let pause = self.chance.admin.range(100, 3_000);
        self.restart_in(node, pause);
    }

    /// Orders that take too long: a stalled disk of the node may keep one that needs it.
    pub(super) fn check_orders(&mut self) {
        for node in 0..2 {
            let n = &mut self.nodes[node];
            if n.frozen.is_some() {
                continue;
            }
            let handlers = 2 * self.options.core.handler_timeout_ms;
            for (id, order) in &mut n.orders {
                let limit = match order.command {
                    Command::Primary { .. } => ORDER_MS.max(handlers),
                    _ => ORDER_MS,
                };
                if self.now.ms_since(order.at) <= limit {
                    continue;
                }
                if self.now.ms_since(order.at.max(n.stalled_until)) > limit {
                    let text = format!("order {id} {:?} is not answered", order.command);
                    let text = format!("{}: {text}", n.name);
                    return self.misuse(text);
                }
                self.history.excused.waited += u64::from(!order.excused);
                order.excused = true;
            }
        }
    }

    /// A force that is under way on this node.
    pub(super) fn forcing(&self, node: usize) -> Option<Force> {
        self.nodes[node].orders.values().find_map(|order| match order.command {
            Command::Primary { force } => force,
            _ => None,
        })
    }
}
