//! Every request of a client ends, while faults are on as well: what is lost in a node, or held for something
//! that is over, would else be seen only by a client who has not hung up, and whose node has not ended, until
//! the very end.
//!
//! What may hold a request, for as long as it lasts: a disk that stalls, is slow or has no space, a node that
//! does not run, packets that do not pass, a person's `suspend-io`, a lost peer that is not fenced, a handler
//! that runs (before a resync), and an order that does (a hand-over, clients that are waited for). From the end of that and of every fault on,
//! what is left has its limit in the options: a silent peer is given up, a handshake ends, or is given up.
//!
//! Invariants:
//! - Who serves goes on to serve: no Primary shows a client the door, unless it is ordered to leave off, has slept,
//!   was promoted by a client's coming, or may have lost what was answered.
//! - A request that was sent, and after which nothing of this was so, is answered within [`ANSWER_MS`].

use crate::resource::{Command, Role, Time};

use super::admin::PendingOrder;
use super::cluster::Cluster;
use super::node::Node;

/// The longest that a request may take where nothing holds it, ms: a peer that says nothing is noticed after
/// `ping-int` and `ping-timeout`, at most 10.5 s here; then a flush, the identifier of a new generation, and
/// what waits before this request.
const ANSWER_MS: u64 = 20_000;

impl Cluster {
    /// Something may hold requests, or has until now.
    pub(super) fn disturb(&mut self) {
        self.disturb_for(0);
    }

    /// And goes on to do so for so many ms.
    pub(super) fn disturb_for(&mut self, ms: u64) {
        self.disturbed = self.disturbed.max(self.in_ms(ms));
    }

    /// Requests that take too long.
    pub(super) fn check_answers(&mut self) {
        if self.nodes.iter().any(holds) || self.now < self.held_until() {
            return self.disturb();
        }
        let calm = self.disturbed.max(self.held_until());
        let late = |since: Time| self.now.ms_since(since.max(calm)) > ANSWER_MS;
        let oldest = self.clients.oldest().filter(|(since, ..)| late(*since));
        if let Some((_, request, node)) = oldest {
            let name = self.nodes[node].name;
            self.violate(format!("{name} does not answer {request:?}, and nothing holds it"));
        }
    }

    /// A client that is there is turned away by a node that is Primary, and stays it.
    pub(super) fn watch_turned_away(&mut self, node: usize, what: &str) {
        let n = &self.nodes[node];
        // That a client's coming has promoted ends when the last one goes, and the next one may be too late.
        let serves = n.status.as_ref().is_some_and(|s| s.role == Role::Primary && !s.auto_promoted);
        let leaves_off = |order: &PendingOrder| {
            use Command::{Down, HandOver, Secondary};
            matches!(order.command, Secondary { .. } | Down { .. } | HandOver)
        };
        let ordered = self.nodes.iter().flat_map(|n| n.orders.values()).any(leaves_off);
        if serves && !ordered && !n.has_slept {
            let name = n.name;
            self.violate(format!("{name} is Primary, and {what}"));
        }
    }

    /// Until when packets and slow disks are on their way.
    fn held_until(&self) -> Time {
        let [a, b] = self.net.cut_until;
        a.max(b).max(self.net.slow.0).max(self.slow_until)
    }
}

/// The node may keep a request.
fn holds(node: &Node) -> bool {
    let status = node.status.as_ref();
    let suspended = status.is_none_or(|status| {
        status.suspended_user
            || status.suspended_fencing
            || status.suspended_no_space
            || status.devices.iter().any(|device| device.no_space)
    });
    let disk = node.volumes.iter().any(|volume| {
        let faults = &volume.disk.faults;
        faults.stall.is_some() || faults.slow_ms > 0 || faults.full > 0
    });
    !node.is_awake() || suspended || disk || !node.orders.is_empty()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::clients::Asked;
    use super::super::options::SimOptions;
    use super::Cluster;
    use crate::resource::{Command, Role};

    /// Two nodes, and the one that serves.
    pub(in crate::sim) fn in_sync() -> (Cluster, usize) {
        let mut options = SimOptions::of_seed(1);
        options.plan.clear();
        let mut c = Cluster::new(options, 0);
        c.come_up();
        let primary = c.nodes[1].status.as_ref().map(|s| s.role) == Some(Role::Primary);
        (c, usize::from(primary))
    }

    #[test]
    fn who_serves_turns_no_client_away_unless_by_order_or_after_a_sleep() {
        for reason in 0..4 {
            let (mut c, node) = in_sync();
            c.ask(node, Asked::Write { block: 0, fua: false });
            let node = if reason == 1 { 1 - node } else { node };
            match reason {
                2 => c.nodes[node].has_slept = true,
                3 => c.command(node, Command::Secondary { force: false, wait_ms: 3_000 }),
                _ => {}
            }
            c.watch_turned_away(node, "shuts the door");
            assert_eq!(c.violation.is_some(), reason == 0, "{reason}: {:?}", c.violation);
        }
    }

    #[test]
    fn a_request_that_is_lost_is_missed_unless_a_disk_may_still_have_it() {
        for stalled in [false, true] {
            let mut options = SimOptions::of_seed(1);
            options.plan.clear();
            options.core.disk_timeout_ms = 0;
            let mut c = Cluster::new(options, 0);
            c.come_up();
            let is_primary =
                |node: usize| c.nodes[node].status.as_ref().map(|s| s.role) == Some(Role::Primary);
            let node = usize::from(is_primary(1));
            c.ask(node, Asked::Write { block: 0, fua: false });
            assert_eq!(c.clients.pending(), 1);
            // What the disk was given never ends.
            c.nodes[node].ops.clear();
            if stalled {
                c.stall(node, 0, 60_000, false);
            }
            c.run_until(c.in_ms(30_000), |_| false);
            let found = c.violation.map(|violation| violation.text).unwrap_or_default();
            assert_eq!(found.contains("and nothing holds it"), !stalled, "{found}");
        }
    }
}
