//! Hunts for seeds on which a simulated cluster breaks a promise.

mod totals;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use tandem::io::replay::{Replayed, replay};
use tandem::sim::{Row, SimOptions, run, shrink, transcript_of};

use totals::Totals;

/// Lines of a transcript that are printed.
const LINES: usize = 400;
/// How often it is said how far a run is, and how often that is saved.
const PROGRESS: Duration = Duration::from_secs(10);

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
    /// Under Pacemaker with ocf:tandem:tandem: partitions of the cluster, fencing, and the mark on the stale
    /// node.
    #[arg(long, conflicts_with = "resume")]
    pacemaker: bool,
    /// Replay what `tandemd --record` has written: the core must give the same actions.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Save in this file how far it is, and go on from what it holds: --seeds counts from --start on, in
    /// all pieces together.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    resume: Option<PathBuf>,
}

impl Arguments {
    fn options(&self, seed: u64) -> SimOptions {
        match self.pacemaker {
            true => SimOptions::under_pacemaker(seed),
            false => SimOptions::of_seed(seed),
        }
    }
}

/// A run of many seeds, and where each thread finds its next one.
struct Hunt<'a> {
    arguments: &'a Arguments,
    totals: Mutex<Totals>,
    next: AtomicU64,
    stop: AtomicBool,
    started: Instant,
    limit: Option<Duration>,
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
    let totals = match begin(&arguments) {
        Ok(totals) => totals,
        Err(text) => {
            eprintln!("simulate: {text}");
            return ExitCode::from(2);
        }
    };
    let hunt = Hunt {
        arguments: &arguments,
        next: AtomicU64::new(totals.next),
        totals: Mutex::new(totals),
        stop: AtomicBool::new(false),
        started: Instant::now(),
        limit: arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes)),
    };
    let saved = std::thread::scope(|scope| {
        let (alive, done) = mpsc::channel();
        for _ in 0..arguments.threads.max(1) {
            let (hunt, alive) = (&hunt, alive.clone());
            scope.spawn(move || hunt.take_seeds(alive));
        }
        drop(alive);
        let saved = hunt.report_until(&done);
        hunt.stop.fetch_or(saved.is_err(), Ordering::Relaxed);
        saved
    });
    let totals = hunt.totals();
    if let Err(text) = saved.and_then(|()| save(&totals, arguments.resume.as_deref())) {
        eprintln!("simulate: {text}");
        return ExitCode::from(2);
    }
    print_totals(&totals, hunt.started.elapsed());
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

/// The totals of earlier pieces, or none.
fn begin(arguments: &Arguments) -> Result<Totals, String> {
    let fresh = || Ok(Totals::new(arguments.start.max(1)));
    let Some(file) = &arguments.resume else { return fresh() };
    let totals = match std::fs::read_to_string(file) {
        Ok(text) => Totals::parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return fresh(),
        Err(error) => Err(error.to_string()),
    };
    let totals = totals.map_err(|text| format!("{}: {text}", file.display()))?;
    if totals.first != arguments.start {
        let (file, first) = (file.display(), totals.first);
        return Err(format!("{file} is of seeds from {first} on: --start {first}"));
    }
    Ok(totals)
}

fn save(totals: &Totals, file: Option<&Path>) -> Result<(), String> {
    let Some(file) = file else { return Ok(()) };
    totals.save(file).map_err(|error| format!("{}: {error}", file.display()))
}

impl Hunt<'_> {
    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thread: seed after seed. It is done when `_alive` is gone.
    fn take_seeds(&self, _alive: Sender<()>) {
        let keep_going = self.arguments.keep_going;
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            let over = match self.limit {
                Some(limit) => self.started.elapsed() > limit,
                None => seed >= self.arguments.start + self.arguments.seeds,
            };
            if over || self.stop.load(Ordering::Relaxed) {
                return;
            }
            let result = run(self.arguments.options(seed), 0);
            let result = result.map_err(|failure| failure.violation.text);
            if let Err(text) = &result {
                eprintln!("seed {seed}: {text}");
                self.stop.fetch_or(!keep_going, Ordering::Relaxed);
            }
            self.totals().add(seed, result);
        }
    }

    /// Says on standard error how far it is, and saves it, until the threads are done.
    fn report_until(&self, done: &Receiver<()>) -> Result<(), String> {
        let first = self.totals().next;
        while done.recv_timeout(PROGRESS) == Err(RecvTimeoutError::Timeout) {
            let totals = self.totals();
            self.say(&totals, totals.next - first);
            save(&totals, self.arguments.resume.as_deref())?;
        }
        Ok(())
    }

    /// How many seeds, how fast, and how long it takes from here.
    fn say(&self, totals: &Totals, since: u64) {
        let elapsed = self.started.elapsed();
        let rate = since as f64 / elapsed.as_secs_f64();
        let done = totals.next - totals.first;
        let left = match self.limit {
            Some(limit) => limit.saturating_sub(elapsed).as_secs_f64(),
            None => (self.arguments.seeds.saturating_sub(done)) as f64 / rate.max(0.01),
        };
        let failed = totals.failures.len();
        eprintln!(
            "{done} seeds, {failed} failed, {rate:.1} a second, {:.0} min {:02.0} s left",
            (left / 60.0).floor(),
            left % 60.0
        );
    }
}

fn one(seed: u64, arguments: &Arguments) -> ExitCode {
    let keep = if arguments.verbose { usize::MAX } else { LINES };
    // Nothing is recorded first: that costs more than the run.
    match run(arguments.options(seed), 0) {
        Ok(report) => {
            if arguments.verbose {
                print!("{}", transcript_of(arguments.options(seed)));
            }
            println!("seed {seed}: {report:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let again = || run(arguments.options(seed), keep).err();
            let shown = if arguments.no_shrink { again() } else { Some(shrink(&failure, keep)) };
            print!("{}", shown.unwrap_or(failure));
            let how = if arguments.pacemaker { "--pacemaker " } else { "" };
            println!("again: simulate {how}--seed {seed} --verbose");
            ExitCode::FAILURE
        }
    }
}

fn print_totals(totals: &Totals, elapsed: Duration) {
    let count = |name| totals.count(name);
    println!(
        "{} runs, {} failed, {} events, {} answers ({} errors), {:.0} h of virtual time in {:.0} s",
        count("runs"),
        totals.failures.len(),
        count("events"),
        count("answers"),
        count("errors"),
        count("virtual-ms") as f64 / 3.6e6,
        elapsed.as_secs_f64()
    );
    let ends: Vec<String> = totals.ends.iter().map(|(end, n)| format!("{n} {end}")).collect();
    println!("ends: {}", ends.join(", "));
    println!(
        "allowed losses, sectors: {} alone and unflushed, {} both caches, {} on victims, {} forced, \
         {} on replaced disks, {} on disks set back",
        count("alone"),
        count("both-caches"),
        count("victims"),
        count("forced"),
        count("replaced"),
        count("set-back")
    );
    println!(
        "{} attaches refused for bad superblocks, {} orders that waited for a stalled disk, {} \
         nodes seeded",
        count("refused"),
        count("waited"),
        count("seeded")
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
