//! Recordings: a pair of real daemons on logged disks, in trouble, with clients that write it down.

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tandem::sim::Prng;

use crate::book::Book;
use crate::common::{Outcome, at, folder, now, until};
use crate::dmlog::{Kind, Log};
use crate::load::{End, Load, SLOT, Slots};
use crate::node::{CALM, Node, Options, pair, rest_of, settle, synced, tails};
use crate::node::Rest;
use crate::rig::Rig;
use crate::sampler::{Cut, cuts, watch};

/// What is recorded: its name, the size of the disks in MiB, the slots of an extent.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    mib: u64,
    slots: u64,
    play: fn(&mut Stage) -> Outcome<()>,
}

/// All of them.
pub(crate) const SCENARIOS: [Scenario; 6] = [
    Scenario { name: "load", mib: 24, slots: 16, play: load },
    Scenario { name: "resync", mib: 24, slots: 16, play: resync },
    Scenario { name: "failover", mib: 24, slots: 16, play: failover },
    Scenario { name: "partition", mib: 24, slots: 16, play: partition },
    Scenario { name: "first-sync", mib: 24, slots: 16, play: first_sync },
    // More extents than the smallest activity log has room for.
    Scenario { name: "activity-log", mib: 300, slots: 2, play: activity_log },
];

/// A recording, ready to be cut.
pub(crate) struct Recording {
    pub(crate) name: &'static str,
    /// Bytes of a disk.
    pub(crate) size: u64,
    pub(crate) logs: [Log; 2],
    pub(crate) cuts: Vec<Cut>,
    pub(crate) book: Book,
    pub(crate) slots: Slots,
    /// From then on a pair exists.
    pub(crate) ready: u64,
}

/// Where a recording is made.
pub(crate) struct Stage {
    nodes: [Node; 2],
    book: Mutex<Book>,
    slots: Slots,
    prng: Prng,
    /// Since when both are together.
    since: Option<u64>,
    ready: u64,
}

/// Where clients write on disks of this size.
pub(crate) fn slots(size: u64, of_an_extent: u64) -> Slots {
    let extent = (4 << 20) / 512;
    let room = (size - (1 << 20)) / 512;
    (0..size.div_ceil(4 << 20))
        .flat_map(|number| {
            (0..of_an_extent).map(move |slot| number * extent + slot * extent / of_an_extent)
        })
        .filter(|first| first + SLOT <= room)
        .collect()
}

/// Options of a pair that recovers as a pair of this size does.
pub(crate) const OPTIONS: Options = Options { net: CALM, disk: "al-extents 67; c-min-rate 100M; c-max-rate 400M;" };

/// Records one scenario in a folder.
pub(crate) fn record(scenario: &Scenario, dir: &Path, seed: u64) -> Outcome<Recording> {
    let size = scenario.mib << 20;
    folder(dir.to_owned())?;
    let rig = |name: &str| -> Outcome<Rig> {
        let raw = dir.join(format!("{name}.raw"));
        let file = File::create(&raw).map_err(at(raw.display()))?;
        file.set_len(size).map_err(at(raw.display()))?;
        Rig::new(&dir.join(format!("{name}.rig")), &raw, size)
    };
    let rigs = [rig("alice")?, rig("bob")?];
    let nodes = pair(dir, [&rigs[0].device, &rigs[1].device], &OPTIONS)?;
    let mut stage = Stage {
        nodes,
        book: Mutex::new(Book::default()),
        slots: slots(size, scenario.slots),
        prng: Prng::new(seed, 1),
        since: None,
        ready: u64::MAX,
    };
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch([&rigs[0].log, &rigs[1].log], &stop));
        let played = (scenario.play)(&mut stage);
        stage.parted();
        stop.store(true, Ordering::Relaxed);
        let seen = watcher.join().expect("it does not panic");
        played.map_err(|error| format!("{}: {error}\n{}", scenario.name, tails(&stage.nodes)))?;
        seen
    })?;
    if scenario.name == "load" {
        a_durable_write_logs_a_flush(&mut stage, &rigs)?;
    }
    drop(stage.nodes);
    let logs = [rigs[0].logged()?, rigs[1].logged()?];
    drop(rigs);
    let mut book = stage.book.into_inner().expect("nobody panicked");
    book.close();
    let cuts = cuts(&seen, [&logs[0], &logs[1]]);
    let (slots, ready) = (stage.slots, stage.ready);
    Ok(Recording { name: scenario.name, size, logs, cuts, book, slots, ready })
}

/// What everything else rests on: the kernel passes a durable write on as a write and a flush.
fn a_durable_write_logs_a_flush(stage: &mut Stage, rigs: &[Rig; 2]) -> Outcome<()> {
    let at = 8 * 512;
    let (_, primary) = stage.primary()?;
    let mut client = primary.client()?;
    let error = |error| format!("{error}");
    // Its extent is hot from here on: what follows is not made durable by the activity log.
    client.write(at, &[1; 4096], 0).map_err(error)?;
    client.flush().map_err(error)?;
    client.write(at, &[2; 4096], nbd::constants::NBD_CMD_FLAG_FUA).map_err(error)?;
    for rig in rigs {
        let log = rig.logged()?;
        let wrote = |entry: &crate::dmlog::Entry| {
            matches!(entry.kind, Kind::Write { data, .. } if log.sector(data, 0) == [2; 512])
        };
        let written = log.entries.iter().rposition(wrote);
        let after = written.map(|index| &log.entries[index..]);
        if !after.is_some_and(|after| after.iter().any(|entry| entry.kind == Kind::Flush)) {
            return Err(format!("{}: a durable write logged no flush", rig.device.display()));
        }
    }
    Ok(())
}

impl Stage {
    /// New metadata, both up and connected.
    fn create(&mut self) -> Outcome<()> {
        for node in &mut self.nodes {
            node.start()?;
            node.ok(&["create-md", "--force=no", "r0"])?;
            node.ok(&["up", "r0"])?;
        }
        for node in &self.nodes {
            node.ok(&["wait-connect", "--wfc-timeout", "60", "r0"])?;
        }
        Ok(())
    }

    /// The usual beginning: alice is Primary, and both are together.
    fn begin(&mut self) -> Outcome<()> {
        self.create()?;
        self.nodes[0].ok(&["new-current-uuid", "--clear-bitmap", "r0"])?;
        synced(&mut self.nodes)?;
        self.nodes[0].ok(&["primary", "r0"])?;
        self.ready = now();
        self.together()
    }

    fn together(&mut self) -> Outcome<()> {
        synced(&mut self.nodes)?;
        self.since = Some(now());
        Ok(())
    }

    /// Called before anything happens that ends it.
    fn parted(&mut self) {
        if let Some(since) = self.since.take() {
            self.book.lock().expect("nobody panicked").together(since, now());
        }
    }

    fn primary(&self) -> Outcome<(usize, &Node)> {
        for (index, node) in self.nodes.iter().enumerate() {
            if node.runs() && node.ok(&["role", "r0"])?.starts_with("Primary") {
                return Ok((index, node));
            }
        }
        Err("nobody is Primary".to_owned())
    }

    /// So many operations through a node.
    fn load(&mut self, node: usize, count: u64) -> Outcome<()> {
        let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        let load = Load {
            book: &self.book,
            slots: &self.slots,
            node,
            stop: &stop,
            answered: &answered,
        };
        match load.run(&mut self.nodes[node].client()?, count, &mut self.prng)? {
            End::Done => Ok(()),
            End::Lost => Err("a client lost its connection".to_owned()),
        }
    }

    /// Does something while a client writes through a node; `end`: what becomes of the client.
    fn meanwhile<T>(
        &mut self,
        node: usize,
        end: End,
        what: impl FnOnce(&mut [Node; 2]) -> Outcome<T>,
    ) -> Outcome<T> {
        let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut client = self.nodes[node].client()?;
        let (book, slots, prng) = (&self.book, &self.slots, &mut self.prng);
        let nodes = &mut self.nodes;
        let load = Load { book, slots, node, stop: &stop, answered: &answered };
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| load.run(&mut client, u64::MAX, prng));
            let more = |count: u64| {
                let wanted = answered.load(Ordering::Relaxed) + count;
                until("the load goes on", || {
                    let there = answered.load(Ordering::Relaxed) >= wanted;
                    Ok((there || writer.is_finished()).then_some(()))
                })
            };
            let did = more(40).and_then(|()| what(nodes));
            let went_on = if end == End::Done { more(40) } else { Ok(()) };
            stop.store(true, Ordering::Relaxed);
            let ended = writer.join().expect("it does not panic")?;
            went_on?;
            let did = did?;
            if ended == end { Ok(did) } else { Err(format!("the client: {ended:?}")) }
        })
    }

    /// Both nodes give the connection up, as if the network had failed.
    fn cut(nodes: &[Node; 2]) -> Outcome<()> {
        for node in nodes {
            node.ok(&["disconnect", "--force", "r0"])?;
        }
        Ok(())
    }

    fn heal(nodes: &[Node; 2]) -> Outcome<()> {
        for node in nodes {
            node.ok(&["connect", "r0"])?;
        }
        Ok(())
    }

    /// kill -9 of a Primary under load; the other one takes over as soon as it may.
    fn fail_over(&mut self, from: usize) -> Outcome<()> {
        self.parted();
        self.meanwhile(from, End::Lost, |nodes| {
            nodes[from].kill();
            Ok(())
        })?;
        let other = 1 - from;
        until("the other one is promoted", || {
            let lost = rest_of(&self.nodes[other])?.is_err_and(|now| now.starts_with("Connecting"));
            Ok((lost && self.nodes[other].adm(&["primary", "r0"])?.code == 0).then_some(()))
        })?;
        self.load(other, 100)
    }
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
        stage.parted();
        stage.meanwhile(0, End::Done, |nodes| Stage::cut(nodes))?;
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
    stage.parted();
    stage.meanwhile(0, End::Done, |nodes| Stage::cut(nodes))?;
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
    stage.meanwhile(0, End::Done, synced)?;
    stage.together()?;
    stage.load(0, 60)
}

fn activity_log(stage: &mut Stage) -> Outcome<()> {
    stage.begin()?;
    stage.load(0, 250)?;
    stage.parted();
    stage.meanwhile(0, End::Done, |nodes| Stage::cut(nodes))?;
    stage.load(0, 100)?;
    stage.meanwhile(0, End::Done, |nodes| {
        Stage::heal(nodes)?;
        synced(nodes)
    })?;
    stage.together()?;
    stage.load(0, 150)
}
