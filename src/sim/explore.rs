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
//! ([`key`]), or by what a verdict can tell ([`essence`]): what was seen is not gone on from again.
//! Each new state, or one of so many, is also healed, and must end in sync or in a refusal that has a
//! name.
//!
//! Invariants:
//! - The same limits give the same states, in the same order, on every machine.
//! - The cores, the packets and the metadata are the real ones; the checkers are those of the
//!   simulator.

mod essence;
mod key;
mod path;
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
use path::Path;
pub(super) use turn::Start;
pub use turn::{Alphabet, Blow, Turn};

/// Blocks of each disk: a full sync is to have few steps.
const BLOCKS: u64 = 8;

/// States of a layer that a thread takes at once: they have most of their history in common.
const PIECE: usize = 16;

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
    /// What may be done; it says also when two states are one.
    pub alphabet: Alphabet,
    /// One of so many new states is healed.
    pub heal: u64,
}

impl Limits {
    fn key(&self, cluster: &Cluster) -> u128 {
        match self.alphabet {
            Alphabet::Whole => key::of(cluster),
            Alphabet::Metadata => essence::of(cluster),
        }
    }

    fn heals(&self, key: u128) -> bool {
        key.is_multiple_of(u128::from(self.heal.max(1)))
    }
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
    /// States at rest, each with what is left of the limits, by the turns that lead to them.
    pub states: Vec<usize>,
    /// Different states at rest.
    pub different: usize,
    /// Different pairs of metadata among them.
    pub pairs: usize,
    /// Turns that were played, with their blows.
    pub runs: u64,
    /// States that were not gone on from, for there were too many.
    pub left_out: usize,
    /// Nothing new can come: no history, however long, leads to another state.
    pub closed: bool,
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

impl Known {
    fn spent(&self) -> Spent {
        let blows = self.history.iter().filter(|one| one.blow.is_some()).count();
        let drastic = self.history.iter().filter(|one| one.turn.is_drastic()).count();
        Spent { drastic, blows }
    }
}

/// What a history has spent of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Spent {
    drastic: usize,
    blows: usize,
}

/// States that were reached. One that was reached by a history that spent less need not be looked at
/// again.
#[derive(Default)]
struct Seen {
    different: HashSet<u128>,
    spent: HashSet<(u128, Spent)>,
}

impl Seen {
    fn has(&self, key: u128, spent: Spent) -> bool {
        self.different.contains(&key)
            && (0..=spent.drastic).any(|drastic| {
                (0..=spent.blows).any(|blows| self.spent.contains(&(key, Spent { drastic, blows })))
            })
    }

    /// Returns whether it is worth a look.
    fn insert(&mut self, key: u128, known: &Known) -> bool {
        let spent = known.spent();
        if self.has(key, spent) {
            return false;
        }
        self.different.insert(key);
        self.spent.insert((key, spent))
    }
}

/// What one state leads to.
#[derive(Default)]
struct Grown {
    new: Vec<(u128, Known)>,
    pairs: Vec<u128>,
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
    let mut seen = Seen::default();
    let mut pairs = HashSet::new();
    let mut layer: Vec<Known> = Vec::new();
    for start in Start::ALL {
        let known = Known { start, history: Vec::new() };
        match Path::default().to(&known) {
            Ok(cluster) => {
                seen.insert(limits.key(cluster), &known);
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
            pairs.extend(one.pairs);
            explored.coverage.add(&one.coverage);
            for (end, count) in one.ends {
                *explored.ends.entry(end).or_default() += count;
            }
            if let (None, Some((known, text))) = (&explored.broken, one.broken) {
                explored.broken = Some(broken(&known, text));
            }
            for (key, known) in one.new {
                if seen.insert(key, &known) {
                    layer.push(known);
                }
            }
        }
        explored.states.push(layer.len());
        explored.different = seen.different.len();
        explored.pairs = pairs.len();
        said(turns, layer.len());
        if explored.broken.is_some() {
            return explored;
        }
        if layer.is_empty() {
            explored.closed = explored.left_out == 0;
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
    seen: &Seen,
    limits: Limits,
    on_all: &impl Fn(&(dyn Fn() + Sync)),
) -> Vec<Grown> {
    let next = AtomicUsize::new(0);
    let pieces = layer.len().div_ceil(PIECE);
    let stop = AtomicBool::new(false);
    // What this layer has led to already, on any thread.
    let healed = Mutex::new(HashSet::new());
    let done = Mutex::new(BTreeMap::new());
    on_all(&|| {
        let first = |key: u128, spent: Spent| {
            let fresh = || healed.lock().is_ok_and(|mut set| set.insert(key));
            if seen.has(key, spent) {
                None
            } else {
                Some(!seen.different.contains(&key) && fresh())
            }
        };
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                return;
            }
            let mut path = Path::default();
            let from = piece * PIECE;
            for (index, known) in layer.iter().enumerate().skip(from).take(PIECE) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let grown = grow(known, &mut path, limits, first);
                stop.fetch_or(grown.broken.is_some(), Ordering::Relaxed);
                if let Ok(mut done) = done.lock() {
                    done.insert(index, grown);
                }
            }
        }
    });
    done.into_inner().map(|done| done.into_values().collect()).unwrap_or_default()
}

/// Every turn from one state, and every blow at every step of each.
fn grow(
    known: &Known,
    path: &mut Path,
    limits: Limits,
    mut first: impl FnMut(u128, Spent) -> Option<bool>,
) -> Grown {
    let mut grown = Grown::default();
    let cluster = match path.to(known) {
        Ok(cluster) => cluster,
        Err(text) => {
            grown.broken = Some((known.clone(), text));
            return grown;
        }
    };
    let Spent { drastic, blows } = known.spent();
    for turn in Turn::all(limits.alphabet) {
        if !cluster.allows(turn) || turn.is_drastic() && drastic >= limits.drastic {
            continue;
        }
        let mut at_a_step = Vec::new();
        let mut whole = cluster.clone();
        let mut last = 0;
        let steps = whole.play_turn(turn, |cluster, steps| {
            if blows < limits.blows {
                // Between two reads nothing can be lost that was not there before.
                let key = limits.key(cluster);
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
        grown.take(known, Move { turn, blow: None }, whole, limits, &mut first);
        for (steps, cluster) in at_a_step {
            for blow in Blow::all(limits.alphabet) {
                if grown.broken.is_some() {
                    return grown;
                }
                if !cluster.suffers(blow) {
                    continue;
                }
                let mut cluster = cluster.clone();
                cluster.strike_blow(blow);
                cluster.come_to_rest(|_, _| true);
                let one = Move { turn, blow: Some((steps, blow)) };
                grown.take(known, one, cluster, limits, &mut first);
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
        limits: Limits,
        first: &mut impl FnMut(u128, Spent) -> Option<bool>,
    ) {
        self.runs += 1;
        let mut known = known.clone();
        known.history.push(one);
        if let Some(violation) = cluster.violation.take() {
            self.broken = Some((known, violation.text));
            return;
        }
        self.coverage.add(&std::mem::take(&mut cluster.coverage));
        let key = limits.key(&cluster);
        let Some(different) = first(key, known.spent()) else { return };
        let pair = if different { essence::of_metadata(&cluster) } else { 0 };
        if different && limits.heals(key) {
            let end = cluster.end();
            self.coverage.add(&std::mem::take(&mut cluster.coverage));
            if let Some(violation) = cluster.violation.take() {
                self.broken = Some((known, violation.text));
                return;
            }
            *self.ends.entry(end.to_string()).or_default() += 1;
        }
        if different {
            self.pairs.push(pair);
        }
        self.new.push((key, known));
    }
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
