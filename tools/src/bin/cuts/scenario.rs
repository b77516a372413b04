//! What is recorded: load, a resync, a failover, a partition, and all that Tandem writes down on the
//! way: new metadata, generations, roles, the activity log, bitmaps, a verify, disks that grow.

use crate::common::{Outcome, now, until};
use crate::load::End;
use crate::node::{Rest, rest_of, settle, synced};
use crate::stage::Stage;

/// Its name, the size of the disks in MiB, the slots of an extent, and what happens.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) mib: u64,
    pub(crate) slots: u64,
    /// Metadata has disks of its own: a flush of the one says nothing of the other.
    pub(crate) external: bool,
    pub(crate) play: fn(&mut Stage) -> Outcome<()>,
}

/// All of them.
pub(crate) const SCENARIOS: [Scenario; 11] = [
    narrow("load", load),
    narrow("resync", resync),
    narrow("failover", failover),
    narrow("partition", partition),
    narrow("first-sync", first_sync),
    wide("activity-log"),
    narrow("resize", resize),
    Scenario { external: true, ..narrow("external-resync", resync) },
    Scenario { external: true, ..narrow("external-failover", failover) },
    Scenario { external: true, ..wide("external-activity-log") },
    Scenario { external: true, ..narrow("external-resize", resize) },
];

const fn narrow(name: &'static str, play: fn(&mut Stage) -> Outcome<()>) -> Scenario {
    Scenario { name, mib: 24, slots: 16, external: false, play }
}

/// More extents than the smallest activity log has room for.
const fn wide(name: &'static str) -> Scenario {
    Scenario { name, mib: 300, slots: 2, external: false, play: activity_log }
}

fn load(stage: &mut Stage) -> Outcome<()> {
    stage.begin()?;
    stage.load(0, 200)?;
    stage.nodes[0].ok(&["secondary", "r0"])?;
    stage.nodes[1].ok(&["primary", "r0"])?;
    stage.load(1, 100)?;
    stage.meanwhile(1, End::Done, |nodes| nodes[0].ok(&["verify", "r0"]))?;
    // One leaves in order, and comes back.
    stage.parted();
    stage.meanwhile(1, End::Done, |nodes| nodes[0].ok(&["down", "r0"]))?;
    stage.load(1, 50)?;
    stage.meanwhile(1, End::Done, |nodes| {
        nodes[0].ok(&["up", "r0"])?;
        synced(nodes)
    })?;
    stage.together()?;
    stage.load(1, 100)
}

fn resync(stage: &mut Stage) -> Outcome<()> {
    stage.begin()?;
    stage.load(0, 80)?;
    for _ in 0..2 {
        stage.cut()?;
        stage.load(0, 60)?;
        stage.meanwhile(0, End::Done, |nodes| {
            Stage::heal(nodes)?;
            synced(nodes)
        })?;
        stage.together()?;
        stage.load(0, 40)?;
    }
    stage.parted();
    stage.meanwhile(0, End::Done, |nodes| {
        nodes[1].ok(&["invalidate", "r0"])?;
        synced(nodes)
    })?;
    stage.together()?;
    stage.load(0, 40)
}

fn failover(stage: &mut Stage) -> Outcome<()> {
    stage.begin()?;
    stage.load(0, 60)?;
    for from in [0, 1] {
        stage.fail_over(from)?;
        stage.meanwhile(1 - from, End::Done, |nodes| {
            nodes[from].start_up()?;
            synced(nodes)
        })?;
        stage.together()?;
        stage.load(1 - from, 60)?;
    }
    Ok(())
}

fn partition(stage: &mut Stage) -> Outcome<()> {
    stage.begin()?;
    stage.load(0, 80)?;
    // bob's line, which is given up, has slots of its own: each has one order of writes.
    let all = stage.slots.clone();
    let (main, branch) = all.split_at(all.len() - 12);
    stage.slots = main.to_vec();
    let from = now();
    stage.cut()?;
    stage.nodes[1].ok(&["primary", "r0"])?;
    for _ in 0..3 {
        stage.slots = branch.to_vec();
        stage.load(1, 30)?;
        stage.slots = main.to_vec();
        stage.load(0, 30)?;
    }
    stage.nodes[1].ok(&["secondary", "r0"])?;
    Stage::heal(&stage.nodes)?;
    match settle(&mut stage.nodes)? {
        Rest::Refused(reason) if reason == "split-brain" => {}
        other => return Err(format!("two lines of writes ended in {other:?}")),
    }
    stage.load(0, 30)?;
    stage.book.lock().expect("nobody panicked").void(1, from, now());
    stage.meanwhile(0, End::Done, |nodes| {
        nodes[1].ok(&["connect", "--discard-my-data", "r0"])?;
        nodes[0].ok(&["connect", "r0"])?;
        until("bob has given in", || Ok(rest_of(&nodes[1])?.is_err().then_some(())))?;
        synced(nodes)
    })?;
    stage.book.lock().expect("nobody panicked").split(from, now());
    stage.together()?;
    stage.slots = all;
    stage.load(0, 60)
}

fn first_sync(stage: &mut Stage) -> Outcome<()> {
    stage.create()?;
    stage.nodes[0].ok(&["primary", "--force", "r0"])?;
    stage.ready = now();
    stage.grown(0)?;
    stage.meanwhile(0, End::Done, synced)?;
    stage.together()?;
    stage.load(0, 60)
}

/// Disks and volume grow while a client writes: ordered by the Primary, by the other one, without a
/// resync, and after one disk has grown while its node was away.
fn resize(stage: &mut Stage) -> Outcome<()> {
    const MORE: u64 = 4 << 20;
    const SLOTS: u64 = 16;
    stage.begin()?;
    stage.load(0, 60)?;
    let orders: [(usize, &[&str]); 3] =
        [(0, &["resize", "r0"]), (1, &["resize", "r0"]), (0, &["resize", "--assume-clean", "r0"])];
    for (node, order) in orders {
        // Without a resync only what is equal will do.
        stage.longer(&[0, 1], MORE, order.len() == 2)?;
        stage.resize(node, order, SLOTS)?;
        stage.load(0, 40)?;
    }
    stage.parted();
    stage.meanwhile(0, End::Done, |nodes| nodes[1].ok(&["down", "r0"]))?;
    stage.longer(&[1], MORE, true)?;
    stage.load(0, 40)?;
    stage.meanwhile(0, End::Done, |nodes| {
        nodes[1].ok(&["up", "r0"])?;
        synced(nodes)
    })?;
    stage.together()?;
    stage.load(0, 40)?;
    stage.longer(&[0], MORE, true)?;
    stage.resize(0, &["resize", "r0"], SLOTS)?;
    stage.load(0, 60)
}

fn activity_log(stage: &mut Stage) -> Outcome<()> {
    stage.begin()?;
    stage.load(0, 60)?;
    // As many extents as the log has room for, written again and again without a flush: the next
    // other one takes the place of one that holds what nobody has flushed.
    let all = stage.slots.clone();
    let (main, others) = all.split_at(67 * 2);
    for _ in 0..3 {
        stage.flushes = 0;
        stage.slots = main.to_vec();
        stage.load(0, 300)?;
        stage.slots = others.to_vec();
        stage.load(0, 8)?;
    }
    stage.flushes = 10;
    stage.slots = all;
    stage.cut()?;
    stage.load(0, 100)?;
    stage.meanwhile(0, End::Done, |nodes| {
        Stage::heal(nodes)?;
        synced(nodes)
    })?;
    stage.together()?;
    stage.load(0, 50)
}
