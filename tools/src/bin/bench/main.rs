//! Tandem beside other servers of NBD, in turn, with ratios of slices that lie next to each other.
//!
//! ```text
//!  for each job, for each round:   tandem | busy-poll | quorum | qemu-nbd | nbdkit | raw | floor
//!                                  (the other way round in every second round)
//!  then, for some jobs:            io_uring_enter of each first process; fio as the client
//!  at the end:                     table, targets met or missed, JSON, SVG
//! ```
//!
//! Invariants:
//! - What is compared ran next to each other, on files of its own that were prepared alike.
//! - What could not be measured is named, and never counted as met.

mod cost;
mod fio;
mod jobs;
mod load;
mod plot;
mod results;
mod servers;
mod statistics;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use cost::{Counter, Used};
use jobs::{Disk, JOBS, Job, Order};
use load::Load;
use results::{Results, Sample};
use servers::{Export, SPARSE, Servers, Who};

/// Compares Tandem with QEMU's quorum of two copies, servers of one copy, and raw files.
///
/// Exit code 0: measured; 1: with --strict, a target was missed; 2: it cannot run.
#[derive(Parser, Debug)]
pub(crate) struct Arguments {
    /// Under 2 minutes: fewer and shorter slices on smaller files.
    #[arg(long)]
    quick: bool,
    /// Rounds of each job [default: 11, quick 5].
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of a slice, ms [default: 300, quick 100].
    #[arg(long, value_name = "MS")]
    slice: Option<u64>,
    /// Size of each fully written file, MiB [default: 512, quick 256].
    #[arg(long, value_name = "MIB")]
    size: Option<u64>,
    /// Only these jobs, separated by commas.
    #[arg(long, value_delimiter = ',')]
    jobs: Vec<String>,
    /// What busy-poll has where it is measured, us.
    #[arg(long, default_value_t = 50, value_name = "US")]
    busy_poll: u32,
    /// Leave out fio as a client.
    #[arg(long)]
    no_fio: bool,
    /// End with 1 where a target is missed or not measured.
    #[arg(long)]
    strict: bool,
    /// Where bench.json, bench.md and bench.svg are put.
    #[arg(long, default_value = "target/bench", value_name = "DIR")]
    out: PathBuf,
    /// Where a folder for the files is made.
    #[arg(long, default_value = "target", value_name = "DIR")]
    folder: PathBuf,
    /// Where tandemd and tandemadm are [default: beside this program].
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// The commit that is measured, for the record.
    #[arg(long, default_value = "unknown")]
    commit: String,
}

impl Arguments {
    fn programs(&self) -> Result<PathBuf, String> {
        if let Some(programs) = &self.programs {
            return Ok(programs.clone());
        }
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        Ok(own.parent().map(Path::to_owned).unwrap_or_default())
    }

    fn pick<T>(&self, given: Option<T>, full: T, quick: T) -> T {
        given.unwrap_or(if self.quick { quick } else { full })
    }
}

/// It was found out that it cannot run.
const CANNOT: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(all_met) => ExitCode::from(u8::from(arguments.strict && !all_met)),
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(CANNOT)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, String> {
    let begun = Instant::now();
    let wanted = |job: &&Job| {
        arguments.jobs.is_empty() || arguments.jobs.iter().any(|name| name == job.name)
    };
    let jobs: Vec<&Job> = JOBS.iter().filter(wanted).collect();
    let known = |name: &&String| !JOBS.iter().any(|job| job.name == **name);
    if let Some(name) = arguments.jobs.iter().find(known) {
        let names: Vec<_> = JOBS.iter().map(|job| job.name).collect();
        return Err(format!("there is no job {name}, but {}", names.join(", ")));
    }
    let folder = tempfile::Builder::new()
        .prefix("bench.")
        .tempdir_in(&arguments.folder)
        .map_err(|error| format!("{}: {error}", arguments.folder.display()))?;
    let folder_path = folder.path().canonicalize().map_err(|error| error.to_string())?;
    let size = arguments.pick(arguments.size, 512, 256) << 20;
    eprintln!("bench: files of {} MiB in {}", size >> 20, folder_path.display());
    let servers = Servers::start(arguments, &folder_path, size)?;
    for skipped in &servers.skipped {
        eprintln!("bench: SKIPPED {skipped}");
    }
    let mut bench = Bench {
        slice: Duration::from_millis(arguments.pick(arguments.slice, 300, 100).max(20)),
        rounds: arguments.pick(arguments.rounds, 11, 5).max(1),
        quick: arguments.quick,
        size,
        servers: &servers,
        folder: &folder_path,
        loads: BTreeMap::new(),
        results: Results::default(),
    };
    for job in &jobs {
        eprintln!("bench: {:<8} {}", job.name, job.about);
        bench.measure(job)?;
        bench.count(job)?;
    }
    if !arguments.no_fio {
        eprintln!("bench: fio as the client");
        bench.fio(&jobs)?;
    }
    let mut results = bench.results;
    results.versions.clone_from(&servers.versions);
    results.skipped.clone_from(&servers.skipped);
    results.commit.clone_from(&arguments.commit);
    results.setting = format!(
        "{} rounds of {} ms, {} MiB fully written, {} processors, {:.0} s in all",
        bench.rounds,
        bench.slice.as_millis(),
        size >> 20,
        std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        begun.elapsed().as_secs_f64(),
    );
    let verdicts = results.verdicts(&jobs);
    let text = table::text(&results, &jobs, &verdicts);
    println!("{text}");
    let json = table::json(&results, &jobs, &verdicts);
    let out = &arguments.out;
    let write = |name: &str, text: &str| {
        std::fs::write(out.join(name), text).map_err(|error| format!("{name}: {error}"))
    };
    std::fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
    write("bench.md", &text)?;
    write("bench.json", &json)?;
    write("bench.svg", &plot::svg(&results, &jobs))?;
    eprintln!("bench: bench.md, bench.json and bench.svg are in {}", out.display());
    Ok(verdicts.iter().all(|verdict| verdict.is_met == Some(true)))
}

struct Bench<'a> {
    slice: Duration,
    rounds: usize,
    quick: bool,
    size: u64,
    servers: &'a Servers,
    folder: &'a Path,
    /// Open connections, by server and kind of export.
    loads: BTreeMap<(Who, Disk), Load>,
    results: Results,
}

impl Bench<'_> {
    /// The export for a job.
    fn export(&self, who: Who, job: &Job) -> Option<&Export> {
        let exports = self.servers.on(job.disk);
        exports.iter().find(|export| export.who == who)
    }

    /// Who takes part in a job.
    fn candidates(&self, job: &Job) -> Vec<Who> {
        let part = |who: &Who| match who {
            Who::Raw => job.has_raw(),
            // Two copies are read as one is.
            Who::Floor => job.has_raw() && job.reads == 0,
            // One job shows what it gives, another what it costs.
            Who::Spinning => matches!(job.name, "w1" | "w32"),
            _ => self.export(*who, job).is_some(),
        };
        Who::ALL.into_iter().filter(part).collect()
    }

    fn slice(&mut self, who: Who, job: &Job, length: Duration) -> Result<Sample, String> {
        if matches!(who, Who::Raw | Who::Floor) {
            let count = if who == Who::Raw { 1 } else { 2 };
            let files: Vec<&Path> = self.servers.raw[..count].iter().map(|f| &**f).collect();
            return fio::raw(job, &files, self.size, length).map(Sample::from);
        }
        let export = self.export(who, job).ok_or("no such export")?.clone();
        let new = || Load::new(&export.socket, export.name);
        let load = self.loads.entry((who, job.disk)).or_insert_with(new);
        let span = if job.disk == Disk::Full { self.size } else { SPARSE };
        let before = Used::of(&export.pids);
        let slice = load.run(job, span, length).map_err(|e| format!("{}: {e}", who.name()))?;
        Ok(Sample::of(slice, Used::of(&export.pids).since(before)))
    }

    /// All rounds of a job.
    fn measure(&mut self, job: &Job) -> Result<(), String> {
        let mut candidates = self.candidates(job);
        // A first slice of each is thrown away: connections, hot extents, grown buffers.
        for who in &candidates {
            if !matches!(who, Who::Raw | Who::Floor) {
                self.slice(*who, job, self.slice / 2)?;
            }
        }
        for round in 0..self.rounds {
            for who in &candidates {
                // fio takes as long to start as a slice takes: not in every round of a quick run.
                if matches!(who, Who::Raw | Who::Floor) && self.quick && round % 3 != 0 {
                    continue;
                }
                let sample = self.slice(*who, job, self.slice)?;
                self.results.add(job, *who, round, sample);
            }
            candidates.reverse();
        }
        Ok(())
    }

    /// io_uring_enter an operation, beside the measured rounds: counting costs time.
    fn count(&mut self, job: &Job) -> Result<(), String> {
        if !matches!(job.name, "w1" | "w32") {
            return Ok(());
        }
        for who in Who::SERVERS.into_iter().filter(|who| *who != Who::Nbdkit) {
            let Some(pids) = self.export(who, job).map(|export| export.pids.clone()) else {
                continue;
            };
            for (index, pid) in pids.iter().enumerate() {
                let Some(counter) = Counter::start(*pid, self.folder) else { continue };
                let operations = self.slice(who, job, self.slice)?.operations;
                if let Some(calls) = counter.stop() {
                    self.results.counted(job, who, index, calls / operations);
                }
            }
        }
        Ok(())
    }

    /// fio as the client of the servers, one after the other.
    fn fio(&mut self, jobs: &[&Job]) -> Result<(), String> {
        let quick = ["w1", "w32"];
        let full = ["w1", "w32", "wf1", "r1", "r32", "s1m", "sr1m"];
        let names: &[&str] = if self.quick { &quick } else { &full };
        let (rounds, time) = if self.quick { (2, 500) } else { (5, 1000) };
        for job in jobs.iter().filter(|job| names.contains(&job.name)) {
            for round in 0..rounds {
                let mut exports = self.servers.full.clone();
                exports.retain(|export| export.who != Who::Spinning);
                if round % 2 == 1 {
                    exports.reverse();
                }
                for export in exports {
                    let run = fio::nbd(job, &export, self.size, Duration::from_millis(time))?;
                    self.results.add_fio(job, export.who, run);
                }
            }
        }
        Ok(())
    }
}

/// A rate as it is shown: MiB/s of a stream, else operations a second.
fn shown(job: &Job, rate: f64) -> f64 {
    match job.order {
        Order::Sequential => rate * job.size as f64 / f64::from(1 << 20),
        Order::Random => rate,
    }
}
