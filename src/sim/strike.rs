//! Faults, as they strike, and the ends and starts of nodes.

use crate::resource::{Command, Event, Time};

use super::cluster::{Cluster, Happening};
use super::faults::{Fault, Planned};
use super::node::Input;

impl Cluster {
    /// A fault of the plan.
    pub(super) fn strike(&mut self, index: usize) {
        let Planned { fault, struck, .. } = self.options.plan[index].clone();
        self.strikes += 1;
        self.disturb();
        if self.options.volumes > 1 {
            self.note(&format!("fault {index}: {fault:?}, {struck:?}"));
        } else {
            self.note(&format!("fault {index}: {fault:?}"));
        }
        match fault {
            Fault::PowerLoss { node, off_ms } => self.lose_power(node, off_ms),
            Fault::PowerLossBoth { off_ms } => {
                self.lose_power(0, off_ms);
                self.lose_power(1, off_ms + 37);
            }
            Fault::Crash { node, off_ms } => self.crash(node, off_ms),
            Fault::Stop { node, .. } => {
                if self.nodes[node].is_awake() {
                    self.command(node, Command::Down { shutdown: true });
                }
            }
            Fault::Freeze { node, for_ms } => self.freeze(node, for_ms),
            Fault::Cut { for_ms } => {
                let until = self.in_ms(for_ms);
                self.net.cut_until = [until; 2];
            }
            Fault::CutOneWay { from, for_ms } => self.net.cut_until[from] = self.in_ms(for_ms),
            Fault::Reset => self.reset_all(),
            Fault::Damage { to } => self.damage(to),
            Fault::SlowNet { for_ms, latency_ms } => {
                self.net.slow = (self.in_ms(for_ms), latency_ms * 1000);
            }
            Fault::Order { node, order } => {
                if self.nodes[node].is_awake() {
                    self.give(node, order, struck.volume);
                }
            }
            Fault::HangUp { worker, disconnect } => {
                let worker = worker % self.clients.count();
                self.hang_up(worker, disconnect);
            }
            Fault::ClockJump { node, by_s } => {
                let clock = &mut self.nodes[node].wall_offset_s;
                *clock = clock.saturating_add(by_s);
                if self.nodes[node].is_awake() && self.nodes[node].resource.is_some() {
                    let ms = self.wall_clock_ms(node);
                    self.event(node, Event::WallClock { ms });
                }
            }
            Fault::ChangeSecret { node, secret, keep_old } => {
                let [before, _] = self.nodes[node].secrets;
                self.nodes[node].secrets = [secret, if keep_old { before } else { secret }];
            }
            fault => self.hurt_disk(&fault, struck),
        }
    }

    pub(super) fn lose_power(&mut self, node: usize, off_ms: u64) {
        if !self.nodes[node].host_up {
            return;
        }
        self.end_life(node, true);
        self.watch_fall(node);
        self.lose_caches(node);
        self.nodes[node].host_up = false;
        self.nodes[node].boot += 1;
        self.restart_in(node, off_ms);
    }

    /// Somebody starts what has ended after so many ms.
    pub(super) fn restart_in(&mut self, node: usize, ms: u64) {
        if !self.by_hand {
            let at = self.in_ms(ms);
            self.at(at, Happening::Restart { node });
        }
    }

    pub(super) fn crash(&mut self, node: usize, off_ms: u64) {
        if self.nodes[node].resource.is_none() {
            return;
        }
        self.end_life(node, false);
        self.watch_fall(node);
        for volume in 0..self.options.volumes {
            self.history.crashed(node, volume);
        }
        self.restart_in(node, off_ms);
    }

    /// The daemon is gone. `silent`: so is the host.
    pub(super) fn end_life(&mut self, node: usize, silent: bool) {
        self.disturb();
        self.note(&format!("{} is gone", self.nodes[node].name));
        for place in self.net.open_links(node) {
            self.abort(place, silent);
        }
        if silent {
            self.net.cut_last_words(Some(node), &mut self.chance.last_words);
        }
        self.drop_ops(node);
        self.drop_sessions(node);
        self.discard[node] = false;
        self.nodes[node].forget_life();
        self.nodes[node].life += 1;
    }

    /// The host has power again, and the daemon is started and told to come up.
    pub(super) fn restart(&mut self, node: usize) {
        self.nodes[node].host_up = true;
        if self.nodes[node].resource.is_some() {
            return;
        }
        self.start(node);
        self.up(node);
    }

    pub(super) fn freeze(&mut self, node: usize, for_ms: u64) {
        if self.nodes[node].is_awake() {
            self.nodes[node].frozen = Some(self.now);
            let at = self.in_ms(for_ms);
            self.at(at, Happening::Thaw { node });
        }
    }

    /// The daemon runs again: the first thing that it sees is the gap.
    pub(super) fn thaw(&mut self, node: usize) {
        let Some(since) = self.nodes[node].frozen.take() else { return };
        self.disturb();
        self.note(&format!("{} runs again", self.nodes[node].name));
        let gap_ms = self.now.ms_since(since);
        let mut inbox = std::mem::take(&mut self.nodes[node].inbox);
        if gap_ms > self.options.core.ping_timeout_ms {
            // Client sockets are closed unread.
            inbox.retain(|input| {
                !matches!(input, Input::Write { .. } | Input::Event(Event::Request { .. }))
            });
            let all = 0..self.clients.count();
            let here: Vec<_> = all.filter(|w| self.clients.is_connected(*w, node)).collect();
            let closed: Vec<_> = here.into_iter().map(|worker| self.cut_off(worker)).collect();
            self.nodes[node].has_slept = true;
            self.event(node, Event::ClockGap { gap_ms });
            closed.into_iter().for_each(|session| self.tell_of_end(session));
        }
        for input in inbox {
            self.input(node, input);
        }
        let timer = self.nodes[node].timer.take();
        self.nodes[node].timer_generation += 1;
        if timer.is_some() && self.nodes[node].resource.is_some() {
            self.event(node, Event::Timeout);
        }
    }

    /// The end of all faults: hosts have power, the network and the disks are well.
    pub(super) fn heal(&mut self) {
        self.note("faults end");
        self.faults_on = false;
        self.disturb();
        self.net.cut_until = [Time(0); 2];
        self.net.slow = (Time(0), 0);
        self.swap_back();
        for node in 0..2 {
            for volume in &mut self.nodes[node].volumes {
                volume.disk.faults = super::disk::DiskFaults::default();
            }
            self.unstall(node, true);
            self.nodes[node].secrets = [0; 2];
            if self.nodes[node].frozen.is_some() {
                self.thaw(node);
            }
            self.restart(node);
        }
        self.send_what_waits();
    }

    /// The network works again: what senders have kept goes on.
    pub(super) fn send_what_waits(&mut self) {
        for link in 0..self.net.links.len() {
            for side in 0..2 {
                if !self.net.links[link].queues[side].is_empty() {
                    self.after(1_000_000, Happening::Arrive { link, side });
                }
            }
        }
    }
}
