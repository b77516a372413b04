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
//! - A request that was sent, and after which nothing of this was so, is answered within [`ANSWER_MS`].

use crate::resource::Time;

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
mod tests {
    use super::super::clients::Asked;
    use super::super::options::SimOptions;
    use super::Cluster;
    use crate::resource::Role;

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
