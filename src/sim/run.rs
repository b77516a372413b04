//! A whole run: both nodes come up and are in sync, faults strike, faults end, and then everything
//! must be well again within a bounded time, or end in a refusal that has a name.

use std::collections::{BTreeMap, VecDeque};

use crate::resource::{Command, ConnectionState, DiskState, Force, Reason, Role, VolumeNumber};

use super::admin::{ORDER_MS, Step};
use super::cluster::{Cluster, Happening, Violation};
use super::coverage::Coverage;
use super::faults::{Fault, Order};
use super::history::Excused;
use super::options::SimOptions;
use super::pacemaker::MarkCounts;

/// The longest that a resync and everything around it may take, ms.
const SETTLE_MS: u64 = 600_000;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In sync, without anybody's help.
    InSync,
    /// In sync after a person resolved this.
    Resolved(Reason),
    /// Refused for good.
    Refused(Reason),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InSync => f.write_str("in sync"),
            Self::Resolved(reason) => write!(f, "resolved {reason}"),
            Self::Refused(reason) => write!(f, "refused {reason}"),
        }
    }
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub end: End,
    /// Events that the cores handled.
    pub events: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Of them, with an error.
    pub errors: u64,
    /// Virtual time, ms.
    pub virtual_ms: u64,
    /// Losses that model.md section 1 allows.
    pub excused: Excused,
    /// Under Pacemaker: what was decided.
    pub marks: Option<MarkCounts>,
    /// What it has reached.
    pub coverage: Coverage,
}

/// A run that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The options, with the seed and the plan.
    pub options: SimOptions,
    /// What a checker found.
    pub violation: Violation,
    /// The last lines of what happened.
    pub transcript: String,
    /// Both nodes' states at the end.
    pub states: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.transcript)?;
        writeln!(f, "{}", self.states)?;
        writeln!(f, "plan:")?;
        for planned in &self.options.plan {
            write!(f, "  {:6} ms {:?}", planned.at_ms, planned.fault)?;
            if self.options.volumes > 1 {
                write!(f, ", {:?}", planned.struck)?;
            }
            match planned.wait {
                Some(wait) => writeln!(f, " after {wait:?}")?,
                None => writeln!(f)?,
            }
        }
        let seed = self.options.seed;
        writeln!(f, "seed {seed}: {}", self.violation.text)
    }
}

/// Runs a plan; keeps so many lines of what happens.
///
/// # Errors
/// A checker found something.
pub fn run(options: SimOptions, keep: usize) -> Result<Report, Box<Failure>> {
    let mut cluster = Cluster::new(options, keep);
    let end = phases(&mut cluster);
    if let Some(violation) = cluster.violation.take() {
        return Err(Box::new(Failure {
            states: cluster.states(),
            options: cluster.options,
            violation,
            transcript: cluster.transcript.text(),
        }));
    }
    Ok(Report {
        end,
        marks: cluster.marks(),
        events: cluster.events,
        answered: cluster.clients.answered,
        errors: cluster.clients.errors,
        virtual_ms: cluster.now.0 / 1_000_000,
        excused: cluster.history.excused,
        coverage: cluster.coverage,
    })
}

/// Everything that happens in a run, line by line.
#[must_use]
pub fn transcript_of(options: SimOptions) -> String {
    let mut cluster = Cluster::new(options, usize::MAX);
    phases(&mut cluster);
    cluster.transcript.text()
}

fn phases(c: &mut Cluster) -> End {
    c.come_up();
    if c.violation.is_some() {
        return End::InSync;
    }
    c.start_clients();
    c.faults_on = true;
    let start = c.now;
    for index in 0..c.options.plan.len() {
        let at = start.after_ms(c.options.plan[index].at_ms);
        c.at(at, Happening::Fault(index));
    }
    c.load_around_faults(start);
    let end = start.after_ms(c.options.length_ms);
    c.run_until(end, |_| false);
    if c.violation.is_some() {
        return End::InSync;
    }
    c.heal();
    c.resume_all();
    // What a slow disk has begun may still be the end of it.
    let slow_until = c.slow_until;
    c.run_until(slow_until, |_| false);
    c.clients.stopped = c.chance.admin.percent(50);
    let end = c.settle();
    if c.violation.is_none() && !matches!(end, End::Refused(_)) {
        c.finish();
    }
    end
}

impl Cluster {
    /// Both nodes up, connected, and in sync; one of them Primary.
    pub fn come_up(&mut self) {
        let at = self.in_ms(500);
        self.at(at, Happening::Check);
        for node in 0..2 {
            self.start(node);
            self.up(node);
        }
        let connected = |c: &Self| {
            c.nodes.iter().all(|n| {
                n.connection().is_some_and(|c| c.connection_state == ConnectionState::Connected)
            })
        };
        self.run_until(self.in_ms(60_000), connected);
        if !connected(self) {
            return self.violate("two fresh nodes do not connect".to_owned());
        }
        let node = self.chance.admin.index(2);
        let mut steps = VecDeque::new();
        if self.options.initial_sync {
            steps.push_back(Step::Command(Command::Primary { force: Some(Force::Plain) }));
        } else {
            for volume in 0..self.options.volumes {
                let command = Command::NewCurrentUuid { volume, clear_bitmap: true };
                steps.push_back(Step::Command(command));
            }
            steps.push_back(Step::Command(Command::Primary { force: None }));
        }
        self.order(node, steps);
        let ready = move |c: &Self| {
            let role = c.nodes[node].status.as_ref().map(|s| s.role);
            c.all_established() && role == Some(Role::Primary)
        };
        self.run_until(self.in_ms(5_000), ready);
        if self.nodes[node].status.as_ref().is_some_and(|s| s.role != Role::Primary) {
            // Declaring fresh disks equal was refused.
            self.command(node, Command::Primary { force: Some(Force::Plain) });
        }
        self.run_until(self.in_ms(SETTLE_MS), ready);
        if self.violation.is_none() && !ready(self) {
            self.violate("the first sync does not end".to_owned());
        }
        self.fencing_begins();
        self.pacemaker_begins();
        self.note("both are in sync");
    }

    fn start_clients(&mut self) {
        for worker in 0..self.clients.count() {
            self.after(1_000_000 * worker as u64, Happening::Worker(worker));
        }
        self.after(1_000_000, Happening::Agent);
    }

    /// Faults are off: within a bounded time all must be well, with a person's help where a refusal
    /// asks for one.
    pub(super) fn settle(&mut self) -> End {
        let mut end = End::InSync;
        let (mut refusals, mut looks) = (0, 0);
        let deadline = self.in_ms(SETTLE_MS);
        while self.violation.is_none() && self.now < deadline {
            // An order that still runs may take a node down.
            let settled =
                |c: &Self| c.all_established() && c.nodes.iter().all(|n| n.orders.is_empty());
            let pause = self.in_ms(20_000);
            self.run_until(pause, |c| settled(c) || c.is_stuck());
            self.run_until(self.in_ms(500), |_| false);
            if settled(self) {
                return end;
            }
            if !self.is_stuck() {
                continue;
            }
            let reason = self.refusal();
            if reason != Reason::None {
                refusals += 1;
                end = End::Resolved(reason);
                if refusals > 6 {
                    return self.refused(reason);
                }
            }
            looks += 1;
            self.help(reason, refusals, looks);
        }
        if self.violation.is_none() {
            let ms = SETTLE_MS;
            self.violate(format!("not in sync {ms} ms after the last fault"));
        }
        end
    }

    /// Nothing will happen without a person.
    fn is_stuck(&self) -> bool {
        self.nodes.iter().any(|n| {
            let alone = n.connection().is_some_and(|c| {
                c.connection_state == ConnectionState::StandAlone && n.orders.is_empty()
            });
            let diskless = n
                .status
                .as_ref()
                .is_some_and(|s| s.devices.iter().any(|d| d.disk_state == DiskState::Diskless));
            alone || diskless && n.orders.is_empty()
        }) || self.both_bad()
    }

    /// Connected, and no disk is good enough to be a source.
    fn both_bad(&self) -> bool {
        (0..self.options.volumes).any(|volume| {
            self.nodes.iter().all(|n| {
                n.orders.is_empty()
                    && n.device(volume).is_some_and(|d| {
                        matches!(d.disk_state, DiskState::Inconsistent | DiskState::Outdated)
                    })
            })
        })
    }

    /// Of some volume no disk is good, and one is not attached.
    fn nothing_good(&self) -> bool {
        (0..self.options.volumes).any(|volume| {
            self.nodes.iter().all(|n| {
                n.device(volume).is_some_and(|d| {
                    matches!(
                        d.disk_state,
                        DiskState::Inconsistent | DiskState::Outdated | DiskState::Diskless
                    )
                })
            })
        })
    }

    /// Why a connection was refused, if one was.
    fn refusal(&self) -> Reason {
        let of = |n: &super::node::Node| {
            n.connection()
                .filter(|c| c.connection_state == ConnectionState::StandAlone)
                .map_or(Reason::None, |c| c.reason)
        };
        // A secret is right again when the faults end: `connect` is enough.
        let ordinary = [
            Reason::None,
            Reason::StoppedByAdmin,
            Reason::NeverConnected,
            Reason::Lost,
            Reason::BadSecret,
        ];
        let mut reasons = self.nodes.iter().map(of).filter(|r| !ordinary.contains(r));
        reasons.next().unwrap_or(Reason::None)
    }

    /// What a person does about it, who has looked so often, and has seen a refusal so many `times`.
    fn help(&mut self, reason: Reason, times: u32, looks: u32) {
        self.note(&format!("a person looks at it: {reason}"));
        for node in 0..2 {
            self.attach_what_is_missing(node);
        }
        if reason == Reason::SplitBrain {
            return self.resolve_split_brain();
        }
        if reason == Reason::RolledBack {
            return self.give_up_what_was_set_back(times);
        }
        if reason == Reason::UnrelatedData && times > 2 {
            // Nothing but create-md helps.
            let victim = self.chance.admin.index(2);
            return self.make_anew(victim, (0..self.options.volumes).collect());
        }
        if reason == Reason::ResyncRefused && self.give_up_new_disks() {
            return self.connect_both();
        }
        // A Primary takes no new disk beside one that is no good: its clients go first.
        let nothing_good = looks > 5 && self.nothing_good();
        if reason != Reason::None || self.both_bad() || nothing_good {
            self.clients.stopped = true;
            self.hang_up_all();
            self.run_until(self.in_ms(2_000), |_| false);
            for node in 0..2 {
                self.command(node, Command::Secondary { force: true, wait_ms: 0 });
            }
            self.run_until(self.in_ms(2_000), |_| false);
            if times > 1 || self.both_bad() || nothing_good {
                // Also a disk that was refused to a Primary.
                (0..2).for_each(|node| self.attach_what_is_missing(node));
                self.keep_one();
            }
        }
        for node in 0..2 {
            let alone = self.nodes[node]
                .connection()
                .is_some_and(|c| c.connection_state == ConnectionState::StandAlone);
            if alone {
                let command = self.connect_command(node, false);
                self.command(node, command);
            }
        }
    }

    /// Attaches disks; one that the session refuses, because it would be the source, without it.
    fn attach_what_is_missing(&mut self, node: usize) {
        let diskless = |c: &Self| -> VecDeque<Step> {
            (0..c.options.volumes)
                .filter(|v| {
                    let state = c.nodes[node].device(*v).map(|d| d.disk_state);
                    state == Some(DiskState::Diskless)
                })
                .map(Step::Attach)
                .collect()
        };
        let steps = diskless(self);
        if steps.is_empty() {
            return;
        }
        self.order(node, steps);
        self.run_until(self.in_ms(5_000), |_| false);
        let mut steps = diskless(self);
        if !steps.is_empty() {
            let peer = super::faults::node_id(1 - node);
            steps.push_front(Step::Command(Command::Disconnect {
                peer,
                force: true,
                for_ms: None,
            }));
            steps.push_back(Step::Command(self.connect_command(node, false)));
            self.order(node, steps);
        }
        // A disk that went on alone, on a node that serves the other one's data: nothing but create-md
        // brings it back while that goes on.
        self.run_until(self.in_ms(5_000), |_| false);
        let refused: Vec<_> = diskless(self).into_iter().collect();
        let serves = self.nodes[node].status.as_ref().is_some_and(|s| s.role == Role::Primary);
        if serves && !refused.is_empty() {
            for step in &refused {
                if let Step::Attach(volume) = step {
                    self.replace_disk(node, *volume);
                }
            }
            self.order(node, refused.into());
        }
    }

    /// Disks were set back to older images: a person gives them up, and makes them anew if that is not
    /// enough; where the other one is no better, that is the one.
    fn give_up_what_was_set_back(&mut self, times: u32) {
        let all = 0..self.options.volumes;
        let behind = |node: usize| -> Vec<VolumeNumber> {
            let of = |volume: &VolumeNumber| self.pairs.get(volume).is_some_and(|p| p.behind[node]);
            all.clone().filter(of).collect()
        };
        let mut given_up = [behind(0), behind(1)];
        if given_up.iter().all(Vec::is_empty) {
            given_up[0].extend(all);
        }
        if times > 1 {
            let mut anew = [Vec::new(), Vec::new()];
            for (node, volumes) in given_up.into_iter().enumerate() {
                for volume in volumes {
                    let other = self.nodes[1 - node].device(volume).map(|d| d.disk_state);
                    let good = matches!(other, Some(DiskState::Consistent | DiskState::UpToDate));
                    anew[if good { node } else { 1 - node }].push(volume);
                }
            }
            for (node, volumes) in anew.into_iter().enumerate().filter(|(_, v)| !v.is_empty()) {
                self.make_anew(node, volumes);
            }
            return;
        }
        self.clients.stopped = true;
        self.hang_up_all();
        self.run_until(self.in_ms(2_000), |_| false);
        for (node, volumes) in given_up.into_iter().enumerate().filter(|(_, v)| !v.is_empty()) {
            let mut steps =
                VecDeque::from([Step::Command(Command::Secondary { force: true, wait_ms: 0 })]);
            let give_up = |volume| Step::Command(Command::Invalidate { volume });
            steps.extend(volumes.into_iter().map(give_up));
            self.order(node, steps);
        }
        self.connect_both();
    }

    /// A new disk on which something was found, beside one that may be no better: `invalidate` says that nothing on
    /// the new one is wanted.
    fn give_up_new_disks(&mut self) -> bool {
        let mut given_up = false;
        for node in 0..2 {
            let rules = ["unproven-peer", "forced-blank-peer"];
            let connection = self.nodes[node].connection();
            let verdicts = connection.iter().flat_map(|one| &one.last_handshake);
            let refused = verdicts.filter(|one| rules.contains(&one.rule.as_str()));
            let volumes: Vec<_> = refused.map(|one| one.volume).collect();
            given_up |= !volumes.is_empty();
            for volume in volumes {
                self.command(node, Command::Invalidate { volume });
            }
        }
        given_up
    }

    /// The daemon of a node is ended, the metadata of these volumes is made anew, and it comes up again.
    fn make_anew(&mut self, node: usize, volumes: Vec<VolumeNumber>) {
        self.clients.stopped = true;
        self.hang_up_all();
        self.run_until(self.in_ms(2_000), |_| false);
        self.end_life(node, false);
        for volume in volumes {
            self.replace_disk(node, volume);
        }
        self.restart(node);
        self.connect_both();
    }

    fn connect_both(&mut self) {
        self.run_until(self.in_ms(5_000), |_| false);
        for node in 0..2 {
            let command = self.connect_command(node, false);
            self.command(node, command);
        }
    }

    /// No disk is good: a person forces the one to keep, and the other one loses its data.
    fn keep_one(&mut self) {
        let keep = self.chance.admin.index(2);
        let status = self.nodes[keep].status.iter();
        let dangers = status.flat_map(|status| &status.devices).filter_map(|one| one.danger());
        let force = Force::of(dangers).unwrap_or(Force::Plain);
        self.command(
            1 - keep,
            Command::Disconnect { peer: u8::from(keep == 1), force: true, for_ms: None },
        );
        self.run_until(self.in_ms(5_000), |_| false);
        self.command(keep, Command::Primary { force: Some(force) });
        self.run_until(self.in_ms(5_000), |_| false);
        let discard = self.connect_command(1 - keep, true);
        self.command(1 - keep, discard);
    }

    /// Refused again and again: it must be a refusal that this plan can cause.
    fn refused(&mut self, reason: Reason) -> End {
        let forced = self.options.has(|fault| {
            matches!(fault, Fault::Order { order, .. }
                if matches!(order, Order::Force(_) | Order::Outdate | Order::Invalidate
                    | Order::InvalidateRemote | Order::Detach | Order::DetachForce
                    | Order::NewCurrentUuid | Order::Repair))
        });
        let possible = match reason {
            Reason::UnrelatedData | Reason::ResyncRefused => forced || self.options.disk_errors(),
            _ => false,
        };
        if !possible {
            self.violate(format!("refused for good: {reason}"));
        }
        End::Refused(reason)
    }

    /// Clients go home; both disks must be equal, nothing out of sync, no buffer left; both nodes go
    /// down and come up again without a resync.
    pub(super) fn finish(&mut self) {
        self.note("clients go home");
        self.clients.stopped = true;
        let quiet = |c: &Self| (0..c.options.volumes).all(|v| c.is_idle(v));
        let quiet_enough = self.in_ms(60_000);
        self.run_until(quiet_enough, |c| c.clients.pending() == 0);
        if self.clients.pending() > 0 {
            let text = format!("{} requests are not answered", self.clients.pending());
            return self.violate(text);
        }
        self.hang_up_all();
        self.run_until(self.in_ms(500), |_| false);
        self.run_until(self.in_ms(60_000), |c| quiet(c) && c.out_of_sync() == 0);
        if self.violation.is_none() && !quiet(self) {
            return self.violate("nobody asks for anything, and something goes on".to_owned());
        }
        if self.options.sabotage {
            self.nodes[0].volumes[0].disk.write(0, &[super::disk::POISON], true);
        }
        self.check_equal();
        for node in 0..2 {
            let live = self.nodes[node].pool.live();
            if live > 0 && self.violation.is_none() {
                let name = self.nodes[node].name;
                self.violate(format!("{name} is idle and has kept {live} buffers"));
            }
        }
        self.falsify();
        self.check_equal();
        let first = self.chance.admin.index(2);
        for node in [first, 1 - first] {
            let life = self.nodes[node].life;
            self.command(node, Command::Secondary { force: false, wait_ms: 0 });
            self.run_until(self.in_ms(ORDER_MS), move |c| c.nodes[node].orders.is_empty());
            self.command(node, Command::Down { shutdown: false });
            self.run_until(self.in_ms(ORDER_MS), move |c| c.nodes[node].life != life);
        }
        self.run_until(self.in_ms(60_000), |c| {
            c.nodes.iter().all(|n| n.status.is_some()) && c.all_established()
        });
        if self.violation.is_none() && !self.all_established() {
            return self.violate("not in sync after an orderly restart".to_owned());
        }
        self.check_equal();
    }

    /// Bytes that either node counts as out of sync, now.
    fn out_of_sync(&self) -> u64 {
        let resources = self.nodes.iter().filter_map(|n| n.resource.as_ref());
        let connections = resources.flat_map(|r| r.status(self.now).connections);
        connections.flat_map(|c| c.peer_devices).map(|p| p.out_of_sync).sum()
    }

    fn check_equal(&mut self) {
        if self.violation.is_some() {
            return;
        }
        for volume in 0..self.options.volumes {
            if let Some(sector) = self.first_difference(volume) {
                return self.violate(format!(
                    "in sync at the end, but sector {sector} of volume {volume} differs"
                ));
            }
            for node in 0..2 {
                let disk = &self.nodes[node].volumes[usize::from(volume)].disk;
                let result = self.history.check(node, volume, disk);
                self.judge(result);
            }
        }
        let bytes = self.out_of_sync();
        if bytes > 0 {
            self.violate(format!("in sync at the end, but {bytes} bytes are out of sync"));
        }
    }

    /// Both nodes in a few lines.
    #[must_use]
    pub fn states(&self) -> String {
        let mut text = String::new();
        for n in &self.nodes {
            let Some(status) = &n.status else {
                text.push_str(&format!("{}: down\n", n.name));
                continue;
            };
            text.push_str(&format!("{}: {}", n.name, status.role));
            for d in &status.devices {
                text.push_str(&format!(
                    " disk {} ({:X}) pending {}/{}",
                    d.disk_state, d.current_uuid, d.upper_pending, d.lower_pending
                ));
            }
            for c in &status.connections {
                text.push_str(&format!(" {} ({})", c.connection_state, c.reason));
                for p in &c.peer_devices {
                    text.push_str(&format!(
                        " {} peer {} oos {}",
                        p.replication_state, p.peer_disk_state, p.out_of_sync
                    ));
                }
                for found in &c.last_handshake {
                    text.push_str(&format!("\n    {found:?}"));
                }
            }
            let orders: BTreeMap<_, _> =
                n.orders.iter().map(|(id, o)| (id, super::transcript::brief(&o.command))).collect();
            text.push_str(&format!("\n    orders {orders:?} buffers {}\n", n.pool.live()));
        }
        text
    }
}
