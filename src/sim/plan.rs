//! What a seed plans: which faults and orders, and when.
//!
//! Invariants:
//! - A kind of fault that is added draws from a stream of its own: the rest of a plan stays.

use super::faults::{Fault, MetaPart, Moment, Order, Planned, Struck, Wait};
use super::prng::Prng;
use crate::resource::{DiskState, Force, ReplicationState, Role, VolumeNumber};

/// The kinds that a seed may switch off.
const KINDS: usize = 10;

/// The plan of a seed, for a phase of this length: what strikes hosts, networks and single requests,
/// and what orders are given.
pub(super) fn plan(p: &mut Prng, length_ms: u64) -> Vec<Planned> {
    let mut allowed: Vec<usize> = (0..KINDS).filter(|_| p.percent(50)).collect();
    if allowed.is_empty() {
        allowed.push(p.index(KINDS));
    }
    let count = p.skewed(1, 24);
    let mut plan: Vec<Planned> = (0..count)
        .map(|_| {
            let kind = *p.choose(&allowed);
            Planned::new(p.below(length_ms), None, fault(p, kind))
        })
        .collect();
    plan.sort_by_key(|planned| planned.at_ms);
    plan
}

fn fault(p: &mut Prng, kind: usize) -> Fault {
    let node = p.index(2);
    let off_ms = p.skewed(10, 8_000);
    let for_ms = p.skewed(10, 8_000);
    match kind {
        0 => Fault::PowerLoss { node, off_ms },
        1 if p.one_in(3) => Fault::PowerLossBoth { off_ms },
        1 => Fault::PowerLoss { node, off_ms },
        2 => Fault::Crash { node, off_ms },
        3 => Fault::Stop { node, off_ms },
        4 => Fault::Freeze { node, for_ms },
        5 if p.one_in(2) => Fault::Cut { for_ms },
        5 => Fault::CutOneWay { from: node, for_ms },
        6 if p.one_in(4) => Fault::Damage { to: node },
        6 => Fault::Reset,
        7 if p.one_in(2) => Fault::SlowNet { for_ms, latency_ms: p.skewed(1, 1_000) },
        7 => Fault::SlowDisk { node, for_ms, latency_ms: p.skewed(1, 3_000) },
        8 => disk_fault(p, node, for_ms),
        _ if p.one_in(5) => Fault::HangUp { worker: p.index(4), disconnect: p.percent(50) },
        _ => Fault::Order { node, order: order(p) },
    }
}

fn disk_fault(p: &mut Prng, node: usize, for_ms: u64) -> Fault {
    match p.below(6) {
        0 => Fault::DeadDisk { node },
        1 => Fault::WriteError { node },
        2 => Fault::ReadError { node },
        3 => Fault::FlushError { node },
        4 => Fault::MetaError { node },
        _ => Fault::Full { node, for_ms },
    }
}

fn order(p: &mut Prng) -> Order {
    let common = [
        Order::Primary,
        Order::Secondary,
        Order::SecondaryForce,
        Order::Disconnect,
        Order::Connect,
    ];
    let rare = [
        Order::Force(Force::Plain),
        Order::Force(Force::Outdated),
        Order::Force(Force::Inconsistent),
        Order::DisconnectForce,
        Order::ConnectDiscard,
        Order::Invalidate,
        Order::InvalidateRemote,
        Order::Outdate,
        Order::Detach,
        Order::DetachForce,
        Order::Attach,
        Order::NewCurrentUuid,
        Order::Down,
    ];
    if p.percent(60) { *p.choose(&common) } else { *p.choose(&rare) }
}

/// The kinds of [`rarer`] that a seed may switch off.
const RARER: usize = 8;

/// Adds what happens to disks behind Tandem's back, and orders that are rare; nothing at all in half
/// of the seeds.
pub(super) fn rarer(p: &mut Prng, length_ms: u64, plan: &mut Vec<Planned>) {
    if p.percent(50) {
        return;
    }
    let mut allowed: Vec<usize> = (0..RARER).filter(|_| p.percent(35)).collect();
    if allowed.is_empty() {
        allowed.push(p.index(RARER));
    }
    for _ in 0..p.skewed(1, 6) {
        let at_ms = p.below(length_ms);
        let kind = *p.choose(&allowed);
        if kind == ROLL_BACK {
            let image = Fault::Image { node: p.index(2) };
            plan.push(Planned::new(p.below(at_ms + 1), None, image));
        }
        let fault = rarer_fault(p, kind, length_ms);
        if let Fault::Seed { node, .. } = fault {
            let (began, copied) = (p.below(at_ms + 1), p.below(at_ms + 1));
            let order = Fault::Order { node: 1 - node, order: Order::Seed };
            let image = Fault::SeedImage { node: 1 - node };
            for (at_ms, fault) in [(began.min(copied), order), (began.max(copied), image)] {
                plan.push(Planned::new(at_ms, None, fault));
            }
        }
        plan.push(Planned::new(at_ms, None, fault));
    }
    // A rollback is seen by what these blocks say.
    let rolled = plan.iter().any(|planned| matches!(planned.fault, Fault::RollBack { .. }));
    plan.retain(|planned| {
        let numbers = matches!(
            planned.fault,
            Fault::CorruptMeta { part: MetaPart::ActivityLog | MetaPart::SeenNumber, .. }
        );
        !(rolled && numbers)
    });
    plan.sort_by_key(|planned| planned.at_ms);
}

/// A rollback wants an image before it.
const ROLL_BACK: usize = 2;
/// A seed wants an order and an image before it.
const SEED: usize = 6;

fn rarer_fault(p: &mut Prng, kind: usize, length_ms: u64) -> Fault {
    let node = p.index(2);
    let off_ms = p.skewed(10, 8_000);
    match kind {
        0 => {
            let for_ms = if p.one_in(4) { length_ms } else { p.skewed(100, 20_000) };
            Fault::StallDisk { node, for_ms, flushes: p.one_in(3) }
        }
        1 => Fault::CorruptMeta { node, part: meta_part(p), chance: p.next() },
        ROLL_BACK => Fault::RollBack { node, off_ms },
        3 => Fault::ReplaceDisk { node, off_ms },
        4 => Fault::SwapDisks { off_ms, for_ms: p.skewed(1_000, 10_000) },
        SEED => Fault::Seed { node, off_ms },
        5 => {
            let seconds = i64::try_from(p.skewed(1, 400_000_000)).expect("less than 2^63");
            Fault::ClockJump { node, by_s: if p.percent(50) { seconds } else { -seconds } }
        }
        _ => {
            let orders = [
                Order::Reattach,
                Order::ConnectTentative,
                Order::NewCurrentUuid,
                Order::ClearBitmap,
                Order::Resize,
                Order::Resize,
                Order::Resize,
                Order::ForgetPeer,
                Order::Seed,
                Order::Down,
                Order::Detach,
                Order::Attach,
                Order::AutoPromote,
                Order::AutoPromote,
                Order::SecondaryWait,
                Order::DisconnectFor,
            ];
            Fault::Order { node, order: *p.choose(&orders) }
        }
    }
}

fn meta_part(p: &mut Prng) -> MetaPart {
    match p.below(12) {
        0 => MetaPart::Superblocks,
        1 | 2 => MetaPart::SuperblockA,
        3 | 4 => MetaPart::SuperblockB,
        5..=7 => MetaPart::ActivityLog,
        8..=10 => MetaPart::Bitmap,
        _ => MetaPart::SeenNumber,
    }
}

/// Adds orders that hold a resync or clients' I/O back, and end that; nothing in two of three seeds.
/// What is still held back at the end is let go on when the faults are over.
pub(super) fn held_back(p: &mut Prng, length_ms: u64, plan: &mut Vec<Planned>) {
    if !p.one_in(3) {
        return;
    }
    for _ in 0..p.skewed(1, 8) {
        let node = p.index(2);
        let (hold, release) = *p.choose(&[
            (Order::PauseSync, Order::ResumeSync),
            (Order::SuspendIo, Order::ResumeIo),
            (Order::Dependency(true), Order::Dependency(false)),
        ]);
        let at_ms = p.below(length_ms);
        // A pause waits for a resync now and then: there it matters.
        let wait = p.percent(50).then(|| Wait {
            node,
            moment: Moment::Replication(*p.choose(&[
                ReplicationState::WFBitMapS,
                ReplicationState::SyncSource,
                ReplicationState::SyncTarget,
            ])),
            more_us: p.skewed(1, 30_000),
        });
        plan.push(Planned::new(at_ms, wait, Fault::Order { node, order: hold }));
        let until_ms = at_ms + p.skewed(10, 8_000);
        plan.push(Planned::new(until_ms, None, Fault::Order { node, order: release }));
    }
    plan.sort_by_key(|planned| planned.at_ms);
}

/// Adds faults that wait for a moment: the middle of a handshake, the first instant of a resync.
pub(super) fn at_the_worst_moment(p: &mut Prng, length_ms: u64, plan: &mut Vec<Planned>) {
    if p.percent(60) {
        return;
    }
    for _ in 0..p.skewed(1, 5) {
        let at_ms = p.below(length_ms);
        let wait = Wait { node: p.index(2), moment: moment(p), more_us: p.skewed(1, 30_000) };
        let kind = *p.choose(&[0, 0, 1, 2, 3, 4, 5, 6, 6, 8, 9, 9]);
        plan.push(Planned::new(at_ms, Some(wait), fault(p, kind)));
    }
    plan.sort_by_key(|planned| planned.at_ms);
}

/// Adds changes of the shared secret; none in most seeds.
pub(super) fn secrets(p: &mut Prng, length_ms: u64, plan: &mut Vec<Planned>) {
    if p.percent(75) {
        return;
    }
    for _ in 0..p.skewed(1, 8) {
        let (node, secret) = (p.index(2), u8::from(p.percent(70)));
        let fault = Fault::ChangeSecret { node, secret, keep_old: p.percent(60) };
        plan.push(Planned::new(p.below(length_ms), None, fault));
    }
    plan.sort_by_key(|planned| planned.at_ms);
}

/// Adds what takes orders on both nodes, one after the other, and orders that are seldom given;
/// nothing in four of five seeds.
pub(super) fn both_sides(p: &mut Prng, length_ms: u64, plan: &mut Vec<Planned>) {
    if !p.one_in(5) {
        return;
    }
    for _ in 0..p.skewed(1, 4) {
        let at_ms = p.below(length_ms);
        let (a, pause) = (p.index(2), p.skewed(100, 2_000));
        let b = 1 - a;
        let steps: Vec<(usize, Order)> = match p.below(11) {
            kind @ 0..=1 => {
                let give_up = if kind == 0 { Order::Outdate } else { Order::Invalidate };
                let demote = Order::SecondaryForce;
                vec![
                    (a, demote),
                    (b, demote),
                    (a, Order::Disconnect),
                    (a, give_up),
                    (b, give_up),
                    (a, Order::Connect),
                ]
            }
            2 => {
                // Who outlived the other is given up.
                let fault = Fault::Crash { node: b, off_ms: 8 * pause };
                plan.push(Planned::new(at_ms + 5 * pause / 2, None, fault));
                let demote = Order::SecondaryForce;
                let outdate = (a, Order::Outdate);
                vec![(a, demote), (a, demote), (b, Order::Primary), outdate, outdate, outdate]
            }
            3 => {
                let fault = Fault::Cut { for_ms: p.skewed(2_000, 20_000) };
                plan.push(Planned::new(at_ms, None, fault));
                vec![(a, Order::Primary), (b, Order::Primary), (a, Order::Force(Force::Plain))]
            }
            4 => {
                if p.percent(30) {
                    let fault = Fault::Cut { for_ms: 40_000 };
                    plan.push(Planned::new(at_ms + pause, None, fault));
                }
                let orders = [Order::Disconnect, Order::ConnectTentative, Order::Connect];
                vec![(a, Order::Disconnect), (a, Order::ConnectTentative), (a, *p.choose(&orders))]
            }
            10 => {
                vec![(a, Order::Resize), (b, Order::Resize), (b, Order::Resize), (a, Order::Resize)]
            }
            5 => vec![(a, Order::PauseSync), (a, Order::PauseSync), (a, Order::ResumeSync)],
            6 => {
                let alone = [Order::ConnectDiscard, Order::Detach, Order::NewCurrentUuid];
                vec![
                    (a, Order::Primary),
                    (a, Order::DisconnectForce),
                    (a, *p.choose(&alone)),
                    (a, *p.choose(&alone)),
                    (a, Order::Connect),
                ]
            }
            7 => {
                // Clients of a disk that does not answer, and its node is to be demoted.
                let for_ms = length_ms;
                let fault = Fault::StallDisk { node: a, for_ms, flushes: false };
                plan.push(Planned::new(at_ms + pause, None, fault));
                let orders = [Order::Secondary, Order::SecondaryForce, Order::Down];
                vec![(a, Order::Primary), (b, Order::Primary), (a, *p.choose(&orders))]
            }
            8 => {
                // The only disk of a Primary is replaced by a fresh one.
                let fault = Fault::ReplaceDisk { node: b, off_ms: 50 };
                plan.push(Planned::new(at_ms + 4 * pause, None, fault));
                let demote = (b, Order::SecondaryForce);
                vec![demote, (a, Order::Primary), (a, Order::Primary), (a, Order::Detach)]
            }
            _ => {
                let seldom = [
                    Order::Adjust,
                    Order::Misnamed,
                    Order::Misnamed,
                    Order::Force(Force::Blank),
                    Order::Repair,
                    Order::InvalidateRemote,
                    Order::ClearBitmap,
                    Order::Resize,
                    Order::AutoPromote,
                ];
                (0..4).map(|_| (p.index(2), *p.choose(&seldom))).collect()
            }
        };
        // Now and then all at once.
        let pause = if p.one_in(5) { 0 } else { pause };
        for (at_ms, (node, order)) in (at_ms..).step_by(pause.max(1) as usize).zip(steps) {
            plan.push(Planned::new(at_ms, None, Fault::Order { node, order }));
        }
    }
    plan.sort_by_key(|planned| planned.at_ms);
}

/// Adds orders on both nodes that give a disk up, at the same instant, in the instant at which the
/// other node gives its own up, or in a moment in which the session ends; nothing in five of six
/// seeds.
pub(super) fn crossing(p: &mut Prng, length_ms: u64, plan: &mut Vec<Planned>) {
    if !p.one_in(6) {
        return;
    }
    let order = |at_ms, wait, node, order| Planned::new(at_ms, wait, Fault::Order { node, order });
    for _ in 0..p.skewed(1, 4) {
        let at_ms = p.below(length_ms);
        let a = p.index(2);
        for node in 0..2 {
            plan.push(order(at_ms, None, node, Order::SecondaryForce));
        }
        let give_up = |p: &mut Prng| {
            let orders =
                [Order::Invalidate, Order::Invalidate, Order::InvalidateRemote, Order::Repair];
            *p.choose(&orders)
        };
        let at_ms = at_ms + p.skewed(50, 2_000);
        let first = give_up(p);
        plan.push(order(at_ms, None, a, first));
        let wait = p.one_in(4).then(|| Wait {
            node: p.index(2),
            moment: Moment::Disk(DiskState::Inconsistent),
            more_us: p.skewed(1, 30_000),
        });
        let (later, second) = (*p.choose(&[0, 0, 0, 1, 5]), give_up(p));
        plan.push(order(at_ms + later, wait, 1 - a, second));
        if p.percent(60) {
            let kind = *p.choose(&[0, 1, 2, 2, 5, 5, 6]);
            let strike = Planned::new(at_ms + p.below(40), None, fault(p, kind));
            let again = order(strike.at_ms + p.below(20), None, p.index(2), Order::Invalidate);
            plan.push(strike);
            plan.push(again);
        }
    }
    plan.sort_by_key(|planned| planned.at_ms);
}

/// Adds hand-overs: from node to node and back, crossing each other and other orders, with something
/// that strikes in the middle; nothing in four of five seeds.
pub(super) fn hand_overs(p: &mut Prng, length_ms: u64, plan: &mut Vec<Planned>) {
    if !p.one_in(5) {
        return;
    }
    for _ in 0..p.skewed(1, 6) {
        let (a, at_ms) = (p.index(2), p.below(length_ms));
        let mut at = |at_ms, wait, fault| plan.push(Planned::new(at_ms, wait, fault));
        let order = |node, order| Fault::Order { node, order };
        if p.one_in(8) {
            // The old Primary's disk keeps a request, a flush or the marks of a Secondary for long.
            let for_ms = *p.choose(&[500, 4_000, 20_000]);
            at(at_ms, None, Fault::StallDisk { node: p.index(2), for_ms, flushes: p.percent(50) });
        }
        at(at_ms + p.below(5), None, order(a, Order::HandOver));
        if p.one_in(3) {
            let back = *p.choose(&[0, 1, 20, 60, 500]);
            at(at_ms + back, None, order(1 - a, Order::HandOver));
        }
        if p.one_in(4) {
            let others = [
                Order::Primary,
                Order::AutoPromote,
                Order::Secondary,
                Order::SecondaryForce,
                Order::Disconnect,
                Order::SuspendIo,
                Order::Detach,
                Order::Down,
            ];
            at(at_ms + p.below(80), None, order(p.index(2), *p.choose(&others)));
        }
        if p.percent(50) {
            let kind = *p.choose(&[0, 2, 2, 3, 4, 5, 5, 6, 6, 7, 8]);
            let strike = fault(p, kind);
            // As a role changes, or anywhere in the course of it.
            let wait = p.percent(40).then(|| Wait {
                node: p.index(2),
                moment: Moment::Role(*p.choose(&[Role::Primary, Role::Secondary])),
                more_us: p.skewed(1, 8_000),
            });
            at(at_ms + p.below(60), wait, strike);
        }
    }
    plan.sort_by_key(|planned| planned.at_ms);
}

/// Adds disks of both nodes that run full at once, for a while; nothing in seven of eight seeds. In
/// half of the others nothing else happens: there no client may see an error.
pub(super) fn both_full(p: &mut Prng, length_ms: u64, plan: &mut Vec<Planned>) {
    if !p.one_in(8) {
        return;
    }
    if p.percent(50) {
        plan.retain(|planned| {
            planned.fault.fills_a_disk() || matches!(planned.fault, Fault::HangUp { .. })
        });
    }
    for _ in 0..p.skewed(1, 6) {
        // Past the end of the phase: until all faults end.
        let mut for_ms = || if p.one_in(8) { length_ms } else { p.skewed(10, 20_000) };
        let for_ms = [for_ms(), for_ms()];
        let fault = Fault::FullBoth { for_ms, share: *p.choose(&[5, 30, 70, 100]) };
        plan.push(Planned::new(p.below(length_ms), None, fault));
    }
    plan.sort_by_key(|planned| planned.at_ms);
}

/// Adds disks that fail now and then for a while; nothing in nine of ten seeds.
pub(super) fn flaky(p: &mut Prng, length_ms: u64, plan: &mut Vec<Planned>) {
    // Where nothing but space is short, it stays so.
    let only_space = !plan.is_empty() && plan.iter().all(|planned| planned.fault.fills_a_disk());
    if !p.one_in(10) || only_space {
        return;
    }
    for _ in 0..p.skewed(1, 4) {
        let (node, for_ms) = (p.index(2), p.skewed(100, 20_000));
        let fault = Fault::Flaky { node, for_ms, share: *p.choose(&[1, 5, 30, 100]) };
        plan.push(Planned::new(p.below(length_ms), None, fault));
    }
    plan.sort_by_key(|planned| planned.at_ms);
}

/// In one of twelve seeds nothing goes wrong but this: an order meets a disk or a peer that does not
/// answer for longer than orders have patience, or two orders of fresh disks meet. Returns whether it
/// is so.
pub(super) fn out_of_patience(p: &mut Prng, plan: &mut Vec<Planned>) -> bool {
    /// Longer than any order waits.
    const LONG_MS: u64 = 45_000;
    if !p.one_in(12) {
        return false;
    }
    plan.clear();
    let mut at = |at_ms, fault| plan.push(Planned::new(at_ms, None, fault));
    let order = |node, order| Fault::Order { node, order };
    let (a, start_ms) = (p.index(2), p.range(500, 2_000));
    let b = 1 - a;
    for (later, node, what) in
        [(0, b, Order::SecondaryForce), (500, a, Order::Primary), (900, a, Order::Primary)]
    {
        at(start_ms + later, order(node, what));
    }
    let strike_ms = start_ms + p.range(1_500, 3_000);
    let soon_ms = strike_ms + p.skewed(10, 300);
    let holds_up = *p.choose(&[a, b]);
    let mut stall = |node, flushes| {
        at(strike_ms, Fault::StallDisk { node, for_ms: LONG_MS, flushes });
    };
    match p.below(9) {
        0 => {
            stall(holds_up, false);
            for worker in 0..4 {
                at(soon_ms, Fault::HangUp { worker, disconnect: true });
            }
            at(soon_ms + 2, order(a, Order::Secondary));
        }
        1 => {
            stall(holds_up, false);
            at(soon_ms, order(a, *p.choose(&[Order::SecondaryForce, Order::Down])));
        }
        2 => {
            stall(holds_up, false);
            at(soon_ms, Fault::Stop { node: a, off_ms: 100 });
        }
        3 | 4 => {
            // Who is asked for a resync cannot give the disk up, or take part in it.
            let (node, flushes) = (p.index(2), p.percent(50));
            stall(1 - node, flushes);
            let orders = [Order::Invalidate, Order::InvalidateRemote, Order::Repair];
            at(soon_ms, order(node, *p.choose(&orders)));
        }
        5 => {
            stall(a, false);
            at(soon_ms, order(b, Order::Down));
            at(soon_ms, order(a, Order::Seed));
        }
        6 => {
            at(strike_ms, order(a, Order::Disconnect));
            at(soon_ms, Fault::Cut { for_ms: LONG_MS });
            at(soon_ms + 1_000, order(a, Order::ConnectTentative));
        }
        7 => {
            // The disk fails as it takes its room.
            at(strike_ms, Fault::MetaError { node: a });
            at(strike_ms, order(a, Order::Resize));
        }
        _ => {
            for node in [a, b] {
                at(strike_ms, Fault::ReplaceDisk { node, off_ms: 100 });
            }
            for node in [a, b] {
                at(strike_ms + 4_000, order(node, Order::ClearBitmap));
            }
            if p.percent(50) {
                at(strike_ms + 4_000 + p.below(3), Fault::Reset);
            }
        }
    }
    true
}

/// Draws which disks each part of the plan strikes, where a node has several. In half of the seeds it is
/// one volume's for all: what the plan does one after the other meets there.
pub(super) fn strike_any(p: &mut Prng, volumes: u16, plan: &mut [Planned]) {
    if volumes == 1 {
        return;
    }
    let draw = |p: &mut Prng| -> VolumeNumber {
        u16::try_from(p.below(u64::from(volumes))).expect("below the number of volumes")
    };
    let one = p.percent(50).then(|| draw(p));
    for planned in plan {
        let volume = one.unwrap_or_else(|| draw(p));
        planned.struck = Struck { volume, alone: p.percent(50) };
    }
}

fn moment(p: &mut Prng) -> Moment {
    let replication = [
        ReplicationState::WFBitMapS,
        ReplicationState::WFBitMapT,
        ReplicationState::WFSyncUUID,
        ReplicationState::SyncSource,
        ReplicationState::SyncTarget,
        ReplicationState::Established,
        ReplicationState::Off,
    ];
    let disks = [
        DiskState::Attaching,
        DiskState::Negotiating,
        DiskState::UpToDate,
        DiskState::Inconsistent,
        DiskState::Outdated,
        DiskState::Failed,
        DiskState::Detaching,
    ];
    match p.below(10) {
        0..=5 => Moment::Replication(*p.choose(&replication)),
        6..=8 => Moment::Disk(*p.choose(&disks)),
        _ => Moment::Role(*p.choose(&[Role::Primary, Role::Secondary])),
    }
}

#[cfg(test)]
mod tests {
    use crate::sim::{SimOptions, Struck};

    #[test]
    fn every_volume_of_a_seed_is_struck_and_a_lone_one_costs_no_draw() {
        let mut struck = [[0; 2]; 2];
        for seed in 0..200 {
            let options = SimOptions::of_seed(seed);
            for planned in &options.plan {
                let Struck { volume, alone } = planned.struck;
                if options.volumes == 1 {
                    assert_eq!(planned.struck, Struck::default());
                } else {
                    struck[usize::from(volume)][usize::from(alone)] += 1;
                }
            }
        }
        assert!(struck.iter().flatten().all(|count| *count > 50), "{struck:?}");
    }
}
