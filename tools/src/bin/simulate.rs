//! Hunts for seeds on which a simulated cluster breaks a promise.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use tandem::io::replay::{Replayed, replay};
use tandem::sim::{Coverage, Failure, Report, Row, SimOptions, run, shrink, transcript_of};

/// Lines of a transcript that are printed.
const LINES: usize = 400;

/// Runs simulated clusters with faults, and checks DESIGN's promises.
#[derive(Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    start: u64,
    /// Run this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: print everything that happens.
    #[arg(long)]
    verbose: bool,
    /// Run for so many minutes instead.
    #[arg(long)]
    minutes: Option<u64>,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
    /// Do not look for a shorter plan.
    #[arg(long)]
    no_shrink: bool,
    /// Print how often each transition, rule, refusal, packet and order was reached.
    #[arg(long)]
    coverage: bool,
    /// Replay what `tandemd --record` has written: the core must give the same actions.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

#[derive(Default)]
struct Totals {
    ends: BTreeMap<String, u64>,
    runs: u64,
    events: u64,
    answered: u64,
    errors: u64,
    virtual_ms: u64,
    lone: u64,
    both: u64,
    victim: u64,
    forced: u64,
    replaced: u64,
    set_back: u64,
    refused: u64,
    waited: u64,
    seeded: u64,
    coverage: Coverage,
    failures: BTreeMap<u64, String>,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        *self.ends.entry(report.end.to_string()).or_default() += 1;
        self.events += report.events;
        self.answered += report.answered;
        self.errors += report.errors;
        self.virtual_ms += report.virtual_ms;
        self.lone += report.excused.lone;
        self.both += report.excused.both;
        self.victim += report.excused.victim;
        self.forced += report.excused.forced;
        self.replaced += report.excused.replaced;
        self.set_back += report.excused.set_back;
        self.refused += report.excused.refused;
        self.waited += report.excused.waited;
        self.seeded += report.excused.seeded;
        self.coverage.add(&report.coverage);
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(path) = &arguments.replay {
        return again(path);
    }
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(seed) = arguments.seed {
        return one(seed, &arguments);
    }
    let totals = Mutex::new(Totals::default());
    let next = AtomicU64::new(arguments.start);
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let limit = arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let over = match limit {
                        Some(limit) => started.elapsed() > limit,
                        None => seed >= arguments.start + arguments.seeds,
                    };
                    if over || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    match run(SimOptions::of_seed(seed), 0) {
                        Ok(report) => lock(&totals).add(&report),
                        Err(failure) => {
                            if arguments.keep_going {
                                eprintln!("seed {seed}: {}", failure.violation.text);
                            }
                            lock(&totals).failures.insert(seed, failure.violation.text);
                            stop.fetch_or(!arguments.keep_going, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let totals = lock(&totals);
    print_totals(&totals, started.elapsed());
    print_coverage(&totals.coverage.rows(), arguments.coverage);
    for (seed, text) in &totals.failures {
        println!("seed {seed}: {text}");
    }
    let Some(seed) = totals.failures.keys().next() else { return ExitCode::SUCCESS };
    if !arguments.keep_going {
        return one(*seed, &arguments);
    }
    ExitCode::FAILURE
}

/// Replays a recording of a real daemon.
fn again(path: &Path) -> ExitCode {
    let file = File::open(path).map_err(|error| error.to_string());
    match file.and_then(|file| replay(BufReader::new(file))) {
        Ok(replayed) => {
            let Replayed { events, actions } = replayed;
            println!("{events} events, {actions} actions, all equal");
            ExitCode::SUCCESS
        }
        Err(text) => {
            println!("{}: {text}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn lock(totals: &Mutex<Totals>) -> std::sync::MutexGuard<'_, Totals> {
    totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn one(seed: u64, arguments: &Arguments) -> ExitCode {
    let keep = if arguments.verbose { usize::MAX } else { LINES };
    match run(SimOptions::of_seed(seed), keep) {
        Ok(report) => {
            if arguments.verbose {
                print!("{}", transcript_of(SimOptions::of_seed(seed)));
            }
            println!("seed {seed}: {report:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let shown: Box<Failure> =
                if arguments.no_shrink { failure } else { shrink(&failure, keep) };
            print!("{shown}");
            println!("again: simulate --seed {seed} --verbose");
            ExitCode::FAILURE
        }
    }
}

fn print_totals(totals: &Totals, elapsed: Duration) {
    println!(
        "{} runs, {} failed, {} events, {} answers ({} errors), {:.0} h of virtual time in {:.0} s",
        totals.runs + totals.failures.len() as u64,
        totals.failures.len(),
        totals.events,
        totals.answered,
        totals.errors,
        totals.virtual_ms as f64 / 3.6e6,
        elapsed.as_secs_f64()
    );
    let ends: Vec<String> = totals.ends.iter().map(|(end, n)| format!("{n} {end}")).collect();
    println!("ends: {}", ends.join(", "));
    println!(
        "allowed losses, sectors: {} alone and unflushed, {} both caches, {} on victims, {} forced, \
         {} on replaced disks, {} on disks set back",
        totals.lone, totals.both, totals.victim, totals.forced, totals.replaced, totals.set_back
    );
    println!(
        "{} attaches refused for bad superblocks, {} orders that waited for a stalled disk, {} \
         nodes seeded",
        totals.refused, totals.waited, totals.seeded
    );
}

/// The whole table, or only what the lists and the seeds do not agree on.
fn print_coverage(rows: &[Row], whole: bool) {
    let reached = rows.iter().filter(|row| row.count > 0).count();
    let missing: Vec<&Row> = rows.iter().filter(|row| row.is_missing()).collect();
    println!("coverage: {reached} rows reached, {} of what is reachable never", missing.len());
    for row in rows.iter().filter(|row| whole || row.is_surprise()) {
        println!("{row}");
    }
    for row in missing.iter().filter(|_| !whole) {
        println!("never: {} {}", row.table.name(), row.name);
    }
}
