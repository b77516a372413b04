//! Recordings: a pair of real daemons on logged disks, and what was on both at each instant.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::book::{Book, Instant};
use crate::common::{Outcome, at, folder};
use crate::load::Slots;
use crate::node::{pair, tails};
use crate::rig::Rig;
use crate::sampler::{Cut, cuts, watch};
use crate::scenario::Scenario;
use crate::stage::{Growth, OPTIONS, Stage, slots};
use crate::state::Versions;
use tools::dmlog::{Entry, Kind, Log};

/// A recording, ready to be cut.
pub(crate) struct Recording {
    pub(crate) name: &'static str,
    /// Of disks and volume.
    pub(crate) growth: Growth,
    /// What the state folders had.
    pub(crate) states: [Versions; 2],
    /// Of alice's and bob's data; of their metadata, where that has disks of its own.
    pub(crate) logs: Vec<Log>,
    pub(crate) cuts: Vec<Cut>,
    pub(crate) book: Book,
    pub(crate) slots: Slots,
    /// From then on a pair exists.
    pub(crate) ready: u64,
}

/// Bytes of a disk for metadata alone.
pub(crate) const META_SIZE: u64 = 1 << 20;

/// So many instants after a loss are looked at more closely.
const AFTER_A_LOSS: usize = 80;

/// Records one scenario in a folder.
pub(crate) fn record(scenario: &Scenario, dir: &Path, seed: u64) -> Outcome<Recording> {
    let size = scenario.mib << 20;
    folder(dir.to_owned())?;
    let mut rigs = vec![blank(dir, "alice", size)?, blank(dir, "bob", size)?];
    if scenario.external {
        rigs.push(blank(dir, "alice-meta", META_SIZE)?);
        rigs.push(blank(dir, "bob-meta", META_SIZE)?);
    }
    let devices: Vec<&Path> = rigs.iter().map(|rig| rig.device.as_path()).collect();
    let nodes = pair(dir, &devices, &OPTIONS)?;
    let logs: Vec<PathBuf> = rigs.iter().map(|rig| rig.log.clone()).collect();
    let logs: Vec<&Path> = logs.iter().map(PathBuf::as_path).collect();
    let folders = [nodes[0].dir.clone(), nodes[1].dir.clone()];
    let mut stage = Stage::new(nodes, slots(size, scenario.slots), seed);
    stage.rigs = rigs;
    let always = Instant { from: 0, to: 0 };
    stage.growth.disks.iter_mut().for_each(|disk| disk.push((always, size)));
    let stop = AtomicBool::new(false);
    let (seen, states) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&logs, &[&folders[0], &folders[1]], &stop));
        // Also where it panics.
        let end = Stop(&stop);
        let played = (scenario.play)(&mut stage);
        stage.parted();
        drop(end);
        let seen = watcher.join().expect("it does not panic");
        played.map_err(|error| format!("{}: {error}\n{}", scenario.name, tails(&stage.nodes)))?;
        seen
    })?;
    if scenario.name == "load" || scenario.external {
        a_durable_write_logs_a_flush(&mut stage)?;
    }
    drop(stage.nodes);
    let logs = stage.rigs.iter().map(Rig::logged).collect::<Outcome<Vec<Log>>>()?;
    drop(stage.rigs);
    let mut book = stage.book.into_inner().expect("nobody panicked");
    book.close();
    let growth = stage.growth;
    let mut cuts = cuts(&seen, &logs, &growth.sizes());
    for end in book.ends() {
        let first = cuts.partition_point(|cut| cut.when.from < end);
        cuts[first..].iter_mut().take(AFTER_A_LOSS).for_each(|cut| cut.lost = true);
    }
    cuts.iter_mut().for_each(|cut| cut.grows = growth.is_growing(cut.when));
    let (name, slots, ready) = (scenario.name, stage.slots, stage.ready);
    Ok(Recording { name, growth, states, logs, cuts, book, slots, ready })
}

/// Ends who watches.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A logged disk that was never written.
pub(crate) fn blank(dir: &Path, name: &str, size: u64) -> Outcome<Rig> {
    let raw = dir.join(format!("{name}.raw"));
    let file = File::create(&raw).map_err(at(raw.display()))?;
    file.set_len(size).map_err(at(raw.display()))?;
    Rig::new(&dir.join(format!("{name}.rig")), &raw, size)
}

/// What everything else rests on: the kernel passes a durable write on as a write and a flush.
fn a_durable_write_logs_a_flush(stage: &mut Stage) -> Outcome<()> {
    let at = 8 * 512;
    let (_, primary) = stage.primary()?;
    let mut client = primary.client()?;
    let error = |error| format!("{error}");
    // Its extent is hot from here on: what follows is not made durable by the activity log.
    client.write(at, &[1; 4096], 0).map_err(error)?;
    client.flush().map_err(error)?;
    client.write(at, &[2; 4096], nbd::constants::NBD_CMD_FLAG_FUA).map_err(error)?;
    for rig in &stage.rigs[..2] {
        let log = rig.logged()?;
        let wrote = |entry: &Entry| matches!(entry.kind, Kind::Write { data, .. } if log.sector(data, 0) == [2; 512]);
        let written = log.entries.iter().rposition(wrote);
        let after = written.map(|index| &log.entries[index..]);
        if !after.is_some_and(|after| after.iter().any(|entry| entry.kind == Kind::Flush)) {
            return Err(format!("{}: a durable write logged no flush", rig.device.display()));
        }
    }
    Ok(())
}
