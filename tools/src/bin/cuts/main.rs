//! Power losses of real daemons: recorded disks are cut, and daemons started on what is left.
//!
//! Each file has one idea: `rig` (a disk whose writes are logged: `tools::dmlog`), `sampler`
//! (instants), `book` (what must be held), `load` (the clients), `record` (what is recorded),
//! `image` (what a power loss leaves), `state` (what the state folder had), `point` (what daemons make
//! of it), `again` (a second loss in between).

mod again;
mod blackout;
mod book;
mod common;
mod fault;
mod image;
mod load;
mod node;
mod point;
mod record;
mod rig;
mod sampler;
mod scenario;
mod stage;
mod state;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use tandem::sim::Prng;

use common::{Outcome, at, now};
use record::{Recording, record};
use scenario::SCENARIOS;

/// Cuts the power of recorded pairs and starts real daemons on what is left.
#[derive(Parser)]
struct Arguments {
    /// Power losses, with those that the state file has.
    #[arg(long, default_value_t = 60)]
    points: u64,
    /// Power losses of a set of recordings; then new ones are made.
    #[arg(long, default_value_t = 120)]
    batch: u64,
    /// Draws everything but the speed of this machine.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Power losses of one node while the other one goes on.
    #[arg(long, default_value_t = 6)]
    blackouts: u64,
    /// Faults of disks, one after the other.
    #[arg(long, default_value_t = 8)]
    faults: u64,
    /// Only this scenario.
    #[arg(long)]
    only: Option<String>,
    /// A state file: goes on where an earlier run stopped.
    #[arg(long)]
    resume: Option<PathBuf>,
    /// Pairs at a time.
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// Recordings and images stay.
    #[arg(long)]
    keep: bool,
    /// A folder for disks and daemons.
    #[arg(long)]
    dir: PathBuf,
    /// Where tandemd and tandemadm are; the folder of this program otherwise.
    #[arg(long)]
    binaries: Option<PathBuf>,
}

/// What a run has come to: points by their ends.
type Table = BTreeMap<String, u64>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match cuts(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("VIOLATION: {error}");
            ExitCode::FAILURE
        }
    }
}

fn cuts(arguments: &Arguments) -> Outcome<()> {
    common::notes(arguments.dir.join("made"));
    let own = std::env::current_exe().map_err(at("this program"))?;
    let beside = own.parent().map(Path::to_owned).unwrap_or_default();
    node::binaries(arguments.binaries.clone().unwrap_or(beside));
    let mut done = 0;
    let mut table = Table::new();
    if let Some(file) = arguments.resume.as_deref().filter(|file| file.exists()) {
        (done, table) = load_state(file, arguments.seed)?;
    }
    let began = now();
    let twice =
        blackout::blackouts(&arguments.dir.join("blackout"), arguments.blackouts, arguments.seed)?;
    let (count, seconds) = (arguments.blackouts, (now() - began) / 1_000_000_000);
    println!("{count} power losses of one node, {twice} of them twice, {seconds} s");
    let began = now();
    let met = fault::faults(&arguments.dir.join("faults"), arguments.faults, arguments.seed)?;
    let (count, seconds) = (arguments.faults, (now() - began) / 1_000_000_000);
    println!("{count} faults of disks, {seconds} s");
    for (kind, [met, all]) in met {
        println!("{met:6} of {all} met: {kind}");
    }
    let began = now();
    while done < arguments.points {
        let count = arguments.batch.min(arguments.points - done);
        batch(arguments, (done, count), &mut table)?;
        done += count;
        if let Some(file) = &arguments.resume {
            save_state(file, arguments.seed, (done, &table))?;
        }
        println!("{done} cut points, {} s", (now() - began) / 1_000_000_000);
    }
    for (end, count) in &table {
        println!("{count:6} {end}");
    }
    Ok(())
}

/// Records every scenario anew, and plays so many points of each in turn.
fn batch(arguments: &Arguments, (first, count): (u64, u64), table: &mut Table) -> Outcome<()> {
    let seed = Prng::new(arguments.seed, first).next();
    let wanted = |name: &str| arguments.only.as_deref().is_none_or(|only| only == name);
    let mut recordings: Vec<Recording> = Vec::new();
    for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.name)) {
        let began = now();
        let dir = arguments.dir.join(format!("{first}-{}", scenario.name));
        let recording = record(scenario, &dir, seed)?;
        println!(
            "recorded {}: {} writes acknowledged, {:?} operations of the disks, {} instants, {} ms",
            recording.name,
            recording.book.acknowledged(),
            recording.logs.iter().map(|log| log.entries.len()).collect::<Vec<_>>(),
            recording.cuts.len(),
            (now() - began) / 1_000_000,
        );
        if !arguments.keep {
            fs::remove_dir_all(&dir).map_err(at(dir.display()))?;
        }
        recordings.push(recording);
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new((table, Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let failed = !results.lock().expect("nobody panicked").1.is_empty();
                    if index as u64 >= count || failed {
                        return;
                    }
                    let recording = &recordings[index % recordings.len()];
                    let number = first + index as u64;
                    let dir = arguments.dir.join(format!("point-{number}"));
                    let seed = Prng::new(arguments.seed, number).next();
                    let played = point::play(recording, &dir, seed);
                    let mut results = results.lock().expect("nobody panicked");
                    match played {
                        Ok(played) => {
                            let end = format!("{}: {}", recording.name, played.end);
                            *results.0.entry(end).or_default() += 1;
                            *results.0.entry("sectors compared".to_owned()).or_default() +=
                                played.owed;
                            for met in played.met {
                                *results.0.entry(met.to_owned()).or_default() += 1;
                            }
                            if !arguments.keep {
                                let _ = fs::remove_dir_all(&dir);
                            }
                        }
                        Err(error) => results.1.push(error),
                    }
                }
            });
        }
    });
    let (_, failed) = results.into_inner().expect("nobody panicked");
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

fn load_state(file: &Path, seed: u64) -> Outcome<(u64, Table)> {
    let text = fs::read_to_string(file).map_err(at(file.display()))?;
    let (of, done, table): (u64, u64, Table) =
        serde_json::from_str(&text).map_err(at(file.display()))?;
    if of != seed {
        return Err(format!("{} is of --seed {of}", file.display()));
    }
    Ok((done, table))
}

fn save_state(file: &Path, seed: u64, (done, table): (u64, &Table)) -> Outcome<()> {
    let text = serde_json::to_string(&(seed, done, table)).map_err(at(file.display()))?;
    let part = file.with_extension("part");
    fs::write(&part, text).and_then(|()| fs::rename(&part, file)).map_err(at(file.display()))
}
