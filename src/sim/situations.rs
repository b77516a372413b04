//! Plans that build a situation which chance makes too seldom: a refusal or a rule that wants several
//! things at once, and nothing else that goes wrong.
//!
//! Invariant: a seed that has one draws it from a stream of its own; every other plan stays.

use super::faults::{Fault, Moment, Order, Planned, Wait};
use super::prng::Prng;
use crate::resource::ReplicationState;

/// Longer than any order waits, ms.
const LONG_MS: u64 = 45_000;

/// In one of ten seeds the plan is a situation. Returns whether it is so.
pub(super) fn situation(p: &mut Prng, plan: &mut Vec<Planned>) -> bool {
    if !p.one_in(10) {
        return false;
    }
    plan.clear();
    let (a, start_ms) = (p.index(2), p.range(500, 2_000));
    let b = 1 - a;
    let mut all = Situation { plan, now_ms: start_ms };
    // Node a is Primary.
    all.order(0, b, Order::SecondaryForce);
    all.order(500, a, Order::Primary);
    all.order(400, a, Order::Primary);
    all.wait(p.range(600, 2_000));
    match p.below(7) {
        0 => all.needed_by_the_peer(p, a),
        1 => all.fails_in_a_handshake(p, b),
        2 => all.marks_and_losses(p, a),
        3 => all.silent_while_cleared(p, a),
        4 => all.ends_with_requests_under_way(p, a),
        5 => all.ends_without_space(p, a),
        _ => all.left_while_its_disk_hangs(p, a),
    }
    plan.sort_by_key(|planned| planned.at_ms);
    true
}

/// A plan as it is made, in the order of time.
struct Situation<'a> {
    plan: &'a mut Vec<Planned>,
    now_ms: u64,
}

impl Situation<'_> {
    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    fn strike(&mut self, fault: Fault) {
        self.plan.push(Planned::new(self.now_ms, None, fault));
    }

    /// After so many ms.
    fn order(&mut self, ms: u64, node: usize, order: Order) {
        self.wait(ms);
        self.strike(Fault::Order { node, order });
    }

    fn hang_up(&mut self) {
        for worker in 0..4 {
            self.strike(Fault::HangUp { worker, disconnect: true });
        }
    }

    /// A Primary has lost its disk, and lives on this one.
    fn needed_by_the_peer(&mut self, p: &mut Prng, a: usize) {
        self.order(0, a, Order::Detach);
        for _ in 0..3 {
            let orders = [Order::Down, Order::Down, Order::Disconnect, Order::Detach];
            self.order(p.range(50, 300), 1 - a, *p.choose(&orders));
        }
    }

    /// The own disk fails in the new handshake of a session that stands.
    fn fails_in_a_handshake(&mut self, p: &mut Prng, b: usize) {
        let moments = [
            ReplicationState::WFBitMapT,
            ReplicationState::WFBitMapS,
            ReplicationState::WFSyncUUID,
        ];
        let node = p.index(2);
        let moment = Moment::Replication(*p.choose(&moments));
        let wait = Some(Wait { node, moment, more_us: p.skewed(1, 5_000) });
        let fault =
            if p.percent(70) { Fault::MetaError { node } } else { Fault::DeadDisk { node } };
        self.plan.push(Planned::new(self.now_ms, wait, fault));
        let orders = [Order::Invalidate, Order::Reattach];
        for _ in 0..3 {
            self.order(p.range(20, 3_000), b, *p.choose(&orders));
        }
    }

    /// A verify runs, and writes that were answered are not flushed, when the connection is lost; then
    /// nobody is Primary.
    fn marks_and_losses(&mut self, p: &mut Prng, a: usize) {
        self.order(0, p.index(2), Order::Verify);
        self.order(p.range(1, 400), a, Order::SuspendIo);
        self.wait(p.range(50, 500));
        self.strike(Fault::Cut { for_ms: 16_000 });
        // The loss is seen by then.
        self.order(p.range(11_000, 15_900), a, Order::SecondaryForce);
        self.order(12_000, a, Order::ResumeIo);
    }

    /// Fresh disks are to be declared equal, and one does not answer.
    fn silent_while_cleared(&mut self, p: &mut Prng, a: usize) {
        for node in [a, 1 - a] {
            self.strike(Fault::ReplaceDisk { node, off_ms: 100 });
        }
        self.wait(12_000);
        self.strike(Fault::StallDisk { node: 1 - a, for_ms: LONG_MS, flushes: p.percent(60) });
        self.order(p.range(1, 20), a, Order::ClearBitmap);
    }

    /// Clients have gone, and what they have sent waits for a disk that does not answer.
    fn ends_with_requests_under_way(&mut self, p: &mut Prng, a: usize) {
        self.strike(Fault::StallDisk { node: p.index(2), for_ms: LONG_MS, flushes: false });
        if p.one_in(3) {
            self.order(p.skewed(1, 100), a, Order::SuspendIo);
        }
        self.wait(p.skewed(10, 300));
        self.hang_up();
        self.end(p, a);
    }

    /// So it is, and both disks are full.
    fn ends_without_space(&mut self, p: &mut Prng, a: usize) {
        let for_ms = [LONG_MS, if p.percent(80) { LONG_MS } else { p.range(1_000, 20_000) }];
        self.strike(Fault::FullBoth { for_ms, share: *p.choose(&[70, 100, 100]) });
        self.wait(p.skewed(10, 5_000));
        self.hang_up();
        self.end(p, a);
    }

    fn end(&mut self, p: &mut Prng, node: usize) {
        self.wait(2);
        match p.below(5) {
            0 | 1 => self.strike(Fault::Stop { node, off_ms: 100 }),
            2 | 3 => self.order(0, node, Order::Down),
            _ => self.order(0, node, Order::Detach),
        }
    }

    /// A peer is left whose disk does not answer; or the own one does not.
    fn left_while_its_disk_hangs(&mut self, p: &mut Prng, a: usize) {
        let flushes = p.percent(50);
        self.strike(Fault::StallDisk { node: p.index(2), for_ms: LONG_MS, flushes });
        let node = p.index(2);
        if node == a {
            self.wait(p.skewed(10, 300));
            self.hang_up();
        }
        let orders = [Order::Disconnect, Order::DisconnectFor, Order::Down, Order::Down];
        self.order(2, node, *p.choose(&orders));
    }
}
