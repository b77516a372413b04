//! Every short history of two nodes: what people, clients and faults may do, one after the other, in
//! every order, each with a fault at each of its steps.
//!
//! ```text
//! state at rest --turn--> steps of both cores --> state at rest
//!                          |   |   |   |
//!                          +---+---+---+-- a blow after each step --> another state at rest
//! ```
//!
//! States are compared with identifiers renamed by first appearance and counters kept by order only
//! ([`key`]): what was seen is not gone on from again. Each new state is also healed, and must end
//! in sync or in a refusal that has a name.
//!
//! Invariants:
//! - The same limits give the same states, in the same order, on every machine.
//! - The cores, the packets and the metadata are the real ones; the checkers are those of the
//!   simulator.

mod key;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::resource::{AfterSb0Pri, OnIoError, Options};

use super::cluster::Cluster;
use super::coverage::Coverage;
use super::options::SimOptions;
pub(super) use turn::Start;
pub use turn::{Blow, Turn};

/// Blocks of each disk: a full sync is to have few steps.
const BLOCKS: u64 = 8;

/// One turn of a history, and the blow that strikes after so many of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// What is done.
    pub turn: Turn,
    /// What goes wrong, and after how many steps.
    pub blow: Option<(usize, Blow)>,
}

impl std::fmt::Display for Move {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.turn)?;
        match self.blow {
            Some((steps, blow)) => write!(f, ", after {steps} steps {blow:?}"),
            None => Ok(()),
        }
    }
}

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Turns of a history.
    pub turns: usize,
    /// Blows among them.
    pub blows: usize,
    /// Orders among them that give data up: force, discard-my-data, invalidate, a new disk.
    pub drastic: usize,
    /// States that are gone on from, at most; what is left out is counted.
    pub states: usize,
}

/// A history that breaks a promise.
#[derive(Clone, Debug)]
pub struct Broken {
    /// What led to it.
    pub history: Vec<Move>,
    /// What a checker found.
    pub text: String,
    /// What happened, line by line.
    pub transcript: String,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Explored {
    /// Different states at rest, by the turns that lead to them.
    pub states: Vec<usize>,
    /// Turns that were played, with their blows.
    pub runs: u64,
    /// States that were not gone on from, for there were too many.
    pub left_out: usize,
    /// How the states end when all faults do.
    pub ends: BTreeMap<String, u64>,
    /// What was reached.
    pub coverage: Coverage,
    /// The first history that breaks a promise, if one does.
    pub broken: Option<Broken>,
}

/// A history, and what is left of the limits.
#[derive(Clone, Debug)]
struct Known {
    start: Start,
    history: Vec<Move>,
}

/// What one state leads to.
#[derive(Default)]
struct Grown {
    new: Vec<(u128, Known)>,
    runs: u64,
    ends: BTreeMap<String, u64>,
    coverage: Coverage,
    broken: Option<(Known, String)>,
}

/// Goes through all histories within the limits. `on_all` runs what it gets on each thread that there
/// is for this, and waits for all of them; `said` hears of each layer: its turns, its states.
pub fn explore(
    limits: Limits,
    on_all: impl Fn(&(dyn Fn() + Sync)),
    mut said: impl FnMut(usize, usize),
) -> Explored {
    let mut explored = Explored::default();
    let mut seen = HashSet::new();
    let mut layer: Vec<Known> = Vec::new();
    for start in Start::ALL {
        let known = Known { start, history: Vec::new() };
        match replay(&known, 0) {
            Ok(cluster) => {
                seen.insert(key::of(&cluster));
                layer.push(known);
            }
            Err(text) => {
                explored.broken = Some(broken(&known, text));
                return explored;
            }
        }
    }
    explored.states.push(layer.len());
    for turns in 1..=limits.turns {
        let left_out = layer.len().saturating_sub(limits.states);
        explored.left_out += left_out;
        layer.truncate(limits.states);
        let grown = grow_all(&layer, &seen, limits, &on_all);
        layer = Vec::new();
        for one in grown {
            explored.runs += one.runs;
            explored.coverage.add(&one.coverage);
            for (end, count) in one.ends {
                *explored.ends.entry(end).or_default() += count;
            }
            if let (None, Some((known, text))) = (&explored.broken, one.broken) {
                explored.broken = Some(broken(&known, text));
            }
            for (key, known) in one.new {
                if seen.insert(key) {
                    layer.push(known);
                }
            }
        }
        explored.states.push(layer.len());
        said(turns, layer.len());
        if explored.broken.is_some() {
            return explored;
        }
    }
    explored
}

fn broken(known: &Known, text: String) -> Broken {
    let mut transcript = String::new();
    if let Ok(mut cluster) = base(known.start, usize::MAX) {
        for one in &known.history {
            cluster.note(&format!("==== {one}"));
            cluster.play(one);
        }
        if cluster.violation.is_none() {
            cluster.end();
        }
        transcript = cluster.transcript.text() + &cluster.states();
    }
    Broken { history: known.history.clone(), text, transcript }
}

/// Every state of a layer, in the order of the layer, whoever is first.
fn grow_all(
    layer: &[Known],
    seen: &HashSet<u128>,
    limits: Limits,
    on_all: &impl Fn(&(dyn Fn() + Sync)),
) -> Vec<Grown> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    // Keys of this layer that some thread has healed already.
    let healed = Mutex::new(HashSet::new());
    let done = Mutex::new(BTreeMap::new());
    on_all(&|| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(known) = layer.get(index) else { return };
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let first = |key: u128| {
                !seen.contains(&key) && healed.lock().is_ok_and(|mut set| set.insert(key))
            };
            let grown = grow(known, limits, first);
            stop.fetch_or(grown.broken.is_some(), Ordering::Relaxed);
            if let Ok(mut done) = done.lock() {
                done.insert(index, grown);
            }
        }
    });
    done.into_inner().map(|done| done.into_values().collect()).unwrap_or_default()
}

/// Every turn from one state, and every blow at every step of each.
fn grow(known: &Known, limits: Limits, mut first: impl FnMut(u128) -> bool) -> Grown {
    let mut grown = Grown::default();
    let mut cluster = match replay(known, 0) {
        Ok(cluster) => cluster,
        Err(text) => {
            grown.broken = Some((known.clone(), text));
            return grown;
        }
    };
    cluster.coverage = Coverage::default();
    let blows = known.history.iter().filter(|one| one.blow.is_some()).count();
    let drastic = known.history.iter().filter(|one| one.turn.is_drastic()).count();
    for turn in Turn::all() {
        if !cluster.allows(turn) || turn.is_drastic() && drastic >= limits.drastic {
            continue;
        }
        let mut at_a_step = Vec::new();
        let mut whole = cluster.clone();
        let mut last = 0;
        let steps = whole.play_turn(turn, |cluster, steps| {
            if blows < limits.blows {
                // Between two reads nothing can be lost that was not there before.
                let key = key::of(cluster);
                if key != last || cluster.is_writing() {
                    at_a_step.push((steps, cluster.clone()));
                }
                last = key;
            }
            true
        });
        if blows < limits.blows {
            at_a_step.push((steps, whole.clone()));
        }
        grown.take(known, Move { turn, blow: None }, whole, &mut first);
        for (steps, cluster) in at_a_step {
            for blow in Blow::all() {
                if grown.broken.is_some() {
                    return grown;
                }
                if !cluster.suffers(blow) {
                    continue;
                }
                let mut cluster = cluster.clone();
                cluster.strike_blow(blow);
                cluster.come_to_rest(|_, _| true);
                grown.take(known, Move { turn, blow: Some((steps, blow)) }, cluster, &mut first);
            }
        }
        if grown.broken.is_some() {
            break;
        }
    }
    grown
}

impl Grown {
    /// A state at rest that one more move has led to.
    fn take(
        &mut self,
        known: &Known,
        one: Move,
        mut cluster: Cluster,
        first: &mut impl FnMut(u128) -> bool,
    ) {
        self.runs += 1;
        let mut known = known.clone();
        known.history.push(one);
        if let Some(violation) = cluster.violation.take() {
            self.broken = Some((known, violation.text));
            return;
        }
        self.coverage.add(&std::mem::take(&mut cluster.coverage));
        let key = key::of(&cluster);
        if !first(key) {
            return;
        }
        let end = cluster.end();
        self.coverage.add(&std::mem::take(&mut cluster.coverage));
        if let Some(violation) = cluster.violation.take() {
            self.broken = Some((known, violation.text));
            return;
        }
        *self.ends.entry(end.to_string()).or_default() += 1;
        self.new.push((key, known));
    }
}

/// The cluster after a history. Keeps so many lines.
fn replay(known: &Known, keep: usize) -> Result<Cluster, String> {
    let mut cluster = base(known.start, keep)?;
    for one in &known.history {
        cluster.play(one);
        if let Some(violation) = &cluster.violation {
            return Err(violation.text.clone());
        }
    }
    Ok(cluster)
}

/// Where histories begin.
pub(super) fn base(start: Start, keep: usize) -> Result<Cluster, String> {
    let mut cluster = Cluster::new(options(), keep);
    cluster.begin(start);
    match cluster.violation.take() {
        Some(violation) => Err(violation.text),
        None => Ok(cluster),
    }
}

/// One small volume; a person decides in a split brain; latencies that hardly differ.
fn options() -> SimOptions {
    let mut options = SimOptions::of_seed(1);
    options.volumes = 1;
    options.sizes = [BLOCKS * crate::resource::BLOCK_SIZE; 2];
    options.al_block_sizes = [512; 2];
    options.initial_sync = false;
    options.workers = 1;
    (options.disk_us, options.flush_us, options.net_us) = (20, 20, 20);
    options.plan = Vec::new();
    options.sabotage = false;
    options.core = Options {
        timeout_ms: 1_500,
        ping_int_ms: 500,
        ping_timeout_ms: 200,
        connect_int_ms: 1_000,
        on_io_error: OnIoError::Detach,
        after_sb_0pri: AfterSb0Pri::Disconnect,
        ..Options::default()
    };
    options
}
