//! Resync, recovery and scale: what does not show in operations a second.
//!
//! ```text
//!  full resync | empty 1 TiB | scattered blocks | resync beside clients | survivor | 15 TiB | 200 resources
//!  slow links
//! ```
//!
//! Invariants:
//! - A rate is compared with the raw disk, or with Tandem's own writes, in the same run.
//! - What cannot be measured ends the program with 2, and is never counted as met.

mod link;
mod pair;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;

use link::Link;
use pair::Pair;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
/// Bytes a second.
const GIGABIT: u64 = 125_000_000;

/// Measures resync, recovery and scale of Tandem against their targets.
///
/// Exit code 0: measured; 1: with --strict, a target was missed; 2: it cannot run.
#[derive(Parser, Debug)]
struct Arguments {
    /// Data of the full resync, MiB.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    size: u64,
    /// Blocks of the quick resync.
    #[arg(long, default_value_t = 100_000)]
    blocks: u64,
    /// Idle resources in one daemon.
    #[arg(long, default_value_t = 200)]
    resources: usize,
    /// End with 1 where a target is missed.
    #[arg(long)]
    strict: bool,
    /// Where a folder for the files is made.
    #[arg(long, default_value = "target", value_name = "DIR")]
    folder: PathBuf,
    /// Where tandemd and tandemadm are [default: beside this program].
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// One line of the table.
struct Row {
    work: &'static str,
    value: String,
    target: &'static str,
    met: bool,
}

/// How one line is measured.
type Measure = fn(&Arguments, &Path, &Path, &mut Vec<Row>) -> Result<(), String>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(rows) => {
            let missed = rows.iter().filter(|row| !row.met).count();
            println!("{} of {} targets are met", rows.len() - missed, rows.len());
            ExitCode::from(u8::from(arguments.strict && missed > 0))
        }
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<Vec<Row>, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let beside = own.parent().map(Path::to_owned).unwrap_or_default();
    let programs = arguments.programs.clone().unwrap_or(beside);
    let measures: [Measure; 5] = [of_data, of_nothing, of_a_large_one, of_many, of_slow_links];
    let mut rows = Vec::new();
    println!("| work | measured | target | |\n|---|---|---|---|");
    for measure in measures {
        let folder = tempfile::Builder::new().prefix("scale.").tempdir_in(&arguments.folder);
        let folder = folder.map_err(|error| error.to_string())?;
        let path = folder.path().canonicalize().map_err(|error| error.to_string())?;
        let seen = rows.len();
        measure(arguments, &programs, &path, &mut rows)?;
        for row in &rows[seen..] {
            let met = if row.met { "met" } else { "MISSED" };
            println!("| {} | {} | {} | {met} |", row.work, row.value, row.target);
        }
    }
    Ok(rows)
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}

const WAIT: [&str; 4] = ["wait-sync", "--wfc-timeout", "600", "all"];

/// Full and quick resync of written disks, beside clients, and the survivor.
fn of_data(
    arguments: &Arguments,
    programs: &Path,
    folder: &Path,
    rows: &mut Vec<Row>,
) -> Result<(), String> {
    let bytes = arguments.size * MIB;
    let mut pair = Pair::new(programs, folder, (1, bytes), true)?;
    pair.order(0, &["new-current-uuid", "--clear-bitmap", "r0"])?;
    pair.order(0, &["primary", "r0"])?;
    // The second time, both files are where they will be.
    let mut full = Duration::MAX;
    for _ in 0..2 {
        let begun = Instant::now();
        pair.order(1, &["invalidate", "r0"])?;
        pair.order(1, &WAIT)?;
        full = full.min(begun.elapsed());
    }
    let raw = raw_copy(&pair.disk(0, "r0"), bytes)?;
    let ratio = raw.as_secs_f64() / full.as_secs_f64();
    rows.push(Row {
        work: "full resync, x raw read beside raw write",
        value: format!("{ratio:.2} ({} for {} MiB)", ms(full), arguments.size),
        target: ">= 0.8",
        met: ratio >= 0.8,
    });

    let uri = pair.uri(0, "r0");
    let alone = [fio(&uri, 1, 3, None)?, fio(&uri, 32, 3, None)?];
    let mut beside = Vec::new();
    for depth in [1, 32] {
        pair.order(1, &["invalidate", "r0"])?;
        beside.push(fio(&uri, depth, 3, None)?);
        pair.order(1, &WAIT)?;
    }
    for (index, work) in
        ["w1 beside a resync, p50, p99 x alone", "w32 beside a resync"].into_iter().enumerate()
    {
        let p50 = beside[index].p50_us / alone[index].p50_us;
        let p99 = beside[index].p99_us / alone[index].p99_us;
        rows.push(Row {
            work,
            value: format!("{p50:.2}, {p99:.2}"),
            target: "<= 1.5, <= 3",
            met: p50 <= 1.5 && p99 <= 3.0,
        });
    }

    pair.order(0, &["disconnect", "--force", "r0"])?;
    fio(&uri, 32, 600, Some(arguments.blocks))?;
    let blocks = out_of_sync(&pair, 0)? / 4096;
    let begun = Instant::now();
    pair.order(0, &["connect", "r0"])?;
    pair.order(1, &["connect", "r0"]).ok();
    pair.order(0, &WAIT)?;
    let took = begun.elapsed();
    let rate = blocks as f64 / took.as_secs_f64();
    let ratio = rate / alone[1].iops;
    rows.push(Row {
        work: "quick resync of scattered blocks, x w32",
        value: format!("{ratio:.2} ({blocks} blocks in {})", ms(took)),
        target: ">= 0.6",
        met: ratio >= 0.6,
    });

    // In the midst of writes; the client goes with its server.
    let load = std::thread::spawn(move || fio(&uri, 32, 3, None));
    std::thread::sleep(Duration::from_secs(1));
    pair.kill(0);
    let begun = Instant::now();
    while pair.say(1, &["cstate", "r0"])?.trim() == "Connected" {
        std::thread::sleep(Duration::from_millis(1));
    }
    let noticed = begun.elapsed();
    let took = pair.order(1, &["primary", "r0"])?;
    rows.push(Row {
        work: "a killed Primary is noticed; `primary` on the survivor",
        value: format!("{}; {}", ms(noticed), ms(took)),
        target: "at once; < 50 ms",
        met: noticed < Duration::from_millis(100) && took < Duration::from_millis(50),
    });

    drop(load.join());
    let begun = Instant::now();
    pair.start(0)?;
    pair.order(1, &WAIT)?;
    let took = begun.elapsed();
    let (covered, equal) = pair.resynced(0)?;
    let copied = covered.saturating_sub(equal) >> 20;
    rows.push(Row {
        work: "crash under w32: what the activity log covers; copied of it",
        value: format!("{} MiB; {copied} MiB, in {}", covered >> 20, ms(took)),
        target: "what was in flight: <= 64 MiB",
        met: copied <= 64,
    });
    Ok(())
}

/// An empty file of 1 TiB.
fn of_nothing(
    _: &Arguments,
    programs: &Path,
    folder: &Path,
    rows: &mut Vec<Row>,
) -> Result<(), String> {
    let pair = Pair::new(programs, folder, (1, TIB), false)?;
    let before = pair.resident(1)?;
    let begun = Instant::now();
    pair.order(0, &["primary", "--force", "r0"])?;
    pair.order(1, &WAIT)?;
    let took = begun.elapsed();
    let (allocated, clean) = (pair.allocated(1, "r0")?, pair.resident(1)?);
    rows.push(Row {
        work: "full resync of an empty file of 1 TiB",
        value: format!("{}, the target's file takes {} MiB", ms(took), allocated / MIB),
        target: "< 20 s, stays sparse",
        met: took < Duration::from_secs(20) && allocated < 64 * MIB,
    });
    // Every bit is set while nobody may copy.
    pair.order(0, &["pause-sync", "r0"])?;
    pair.order(1, &["invalidate", "r0"])?;
    let end = Instant::now() + Duration::from_secs(60);
    while out_of_sync(&pair, 1)? < TIB - (1 << 30) {
        if Instant::now() > end {
            return Err("bob's bits do not get set".to_owned());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // What the handshake has used is given back a little later.
    std::thread::sleep(Duration::from_secs(2));
    let dirty = pair.resident(1)?;
    let (used, left) = (dirty.saturating_sub(before), clean.saturating_sub(before));
    rows.push(Row {
        work: "memory of a bitmap of 1 TiB, all set; after a resync",
        value: format!("{} MiB; {} MiB", used / MIB, left / MIB),
        target: "<= 32 MiB; far less",
        met: used <= 33 * MIB && left <= 8 * MIB,
    });
    Ok(())
}

/// A file of 15 TiB is attached, clean and after a crash.
fn of_a_large_one(
    _: &Arguments,
    programs: &Path,
    folder: &Path,
    rows: &mut Vec<Row>,
) -> Result<(), String> {
    let mut pair = Pair::new(programs, folder, (1, 15 * TIB), false)?;
    pair.order(0, &["primary", "--force", "r0"])?;
    pair.order(1, &WAIT)?;
    pair.order(0, &["secondary", "r0"])?;
    pair.order(0, &["down", "r0"])?;
    let clean = pair.order(0, &["up", "r0"])?;
    pair.order(0, &WAIT)?;
    pair.order(0, &["primary", "r0"])?;
    fio(&pair.uri(0, "r0"), 32, 2, None)?;
    pair.kill(0);
    pair.start(0)?;
    let crashed = pair.order(0, &["up", "r0"])?;
    rows.push(Row {
        work: "attach of a sparse file of 15 TiB: clean; after a crash",
        value: format!("{}; {}", ms(clean), ms(crashed)),
        target: "< 1 s; < 3 s",
        met: clean < Duration::from_secs(1) && crashed < Duration::from_secs(3),
    });
    Ok(())
}

/// Many resources that nobody uses.
fn of_many(
    arguments: &Arguments,
    programs: &Path,
    folder: &Path,
    rows: &mut Vec<Row>,
) -> Result<(), String> {
    let count = arguments.resources;
    let pair = Pair::new(programs, folder, (count, 16 * MIB), false)?;
    pair.order(0, &["primary", "--force", "all"])?;
    let end = Instant::now() + Duration::from_secs(60);
    while pair.say(1, &["status", "all"])?.matches("UpToDate").count() < 2 * count {
        if Instant::now() > end {
            return Err("they do not get in sync".to_owned());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let idle = Duration::from_secs(10);
    let before = pair.processor(0)?;
    std::thread::sleep(idle);
    let used = (pair.processor(0)? - before).as_secs_f64() / idle.as_secs_f64() * 100.0;
    let each = pair.resident(0)? as f64 / MIB as f64 / count as f64;
    let mut looks: Vec<Duration> =
        (0..5).map(|_| pair.order(0, &["status", "all"])).collect::<Result<_, _>>()?;
    looks.sort_unstable();
    rows.push(Row {
        work: "many idle resources: CPU; memory of each; status of all",
        value: format!("{count}: {used:.1} %; {each:.1} MiB; {}", ms(looks[2])),
        target: "200: < 1 %; < 4 MiB; < 100 ms",
        met: used < 1.0 && each < 4.0 && looks[2] < Duration::from_millis(100),
    });
    Ok(())
}

/// A link of some milliseconds, and one of 1 Gbit/s.
fn of_slow_links(
    _: &Arguments,
    programs: &Path,
    folder: &Path,
    rows: &mut Vec<Row>,
) -> Result<(), String> {
    let link = Arc::new(Link::default());
    let pair = Pair::linked(programs, folder, (1, 256 * MIB), true, Some(&link))?;
    pair.order(0, &["new-current-uuid", "--clear-bitmap", "r0"])?;
    pair.order(0, &["primary", "r0"])?;
    let uri = pair.uri(0, "r0");
    // What is not the link, with the relay's own time, which is in every round trip.
    let local = fio(&uri, 1, 2, None)?.p50_us - micros(link.round_trip(4096)?);
    let (mut worst, mut said) = (0.0_f64, Vec::new());
    for ms in [1, 5, 20] {
        link.set(Duration::from_micros(ms * 500), 0);
        let ratio = fio(&uri, 1, 3, None)?.p50_us / (local + micros(link.round_trip(4096)?));
        worst = worst.max(ratio);
        said.push(format!("{ratio:.2}"));
    }
    rows.push(Row {
        work: "w1 over a link of 1, 5, 20 ms, x local + round trip",
        value: said.join(", "),
        target: "<= 1.15",
        met: worst <= 1.15,
    });
    let (mut worst, mut said) = (f64::MAX, Vec::new());
    for ms in [0, 5, 20] {
        link.set(Duration::from_micros(ms * 500), GIGABIT);
        let ratio = stream(&uri, 4)? / GIGABIT as f64;
        worst = worst.min(ratio);
        said.push(format!("{ratio:.2}"));
    }
    rows.push(Row {
        work: "s1m over 1 Gbit/s with 0, 5, 20 ms, x link",
        value: said.join(", "),
        target: ">= 0.9",
        met: worst >= 0.9,
    });
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Bytes that a node takes for out of sync.
fn out_of_sync(pair: &Pair, node: usize) -> Result<u64, String> {
    let text = pair.say(node, &["status", "--json", "r0"])?;
    let status: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let pointer = "/0/connections/0/peer_devices/0/out-of-sync";
    let kib = status.pointer(pointer).and_then(serde_json::Value::as_u64);
    Ok(kib.ok_or("status says no out-of-sync")? << 10)
}

/// A file is read and another one is written, both from end to end, at the same time.
fn raw_copy(file: &Path, bytes: u64) -> Result<Duration, String> {
    let other = file.with_extension("raw");
    std::fs::copy(file, &other).map_err(|error| error.to_string())?;
    let call = |name: &str, path: &Path| {
        let mut command = Command::new("fio");
        command.args(["--name=raw", "--bs=1M", "--iodepth=8", "--direct=1", "--ioengine=io_uring"]);
        command.arg(format!("--rw={name}")).arg(format!("--filename={}", path.display()));
        command.arg(format!("--size={bytes}")).arg("--end_fsync=1");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map_err(|error| format!("fio: {error}"))
    };
    let mut best = Duration::MAX;
    for _ in 0..2 {
        let begun = Instant::now();
        let (mut reads, mut writes) = (call("read", file)?, call("write", &other)?);
        let (one, two) = (reads.wait(), writes.wait());
        if !one.is_ok_and(|status| status.success()) || !two.is_ok_and(|status| status.success()) {
            return Err("fio failed on raw files".to_owned());
        }
        best = best.min(begun.elapsed());
    }
    std::fs::remove_file(&other).map_err(|error| error.to_string())?;
    Ok(best)
}

/// What fio saw of random writes of 4 KiB.
struct Seen {
    iops: f64,
    p50_us: f64,
    p99_us: f64,
}

fn fio(uri: &str, depth: u32, seconds: u64, blocks: Option<u64>) -> Result<Seen, String> {
    let mut words = vec!["--rw=randwrite".into(), "--bs=4k".into()];
    words.extend([format!("--iodepth={depth}"), format!("--runtime={seconds}")]);
    words.push(match blocks {
        Some(blocks) => format!("--number_ios={blocks}"),
        None => "--time_based".to_owned(),
    });
    let write = fio_write(uri, &words)?;
    let percentile = |name: &str| {
        let ns = write.pointer("/clat_ns/percentile").and_then(|all| all.get(name));
        ns.and_then(serde_json::Value::as_f64).map(|ns| ns / 1000.0)
    };
    let (p50, p99) = (percentile("50.000000"), percentile("99.000000"));
    match (number(&write, "iops"), p50, p99) {
        (Some(iops), Some(p50_us), Some(p99_us)) => Ok(Seen { iops, p50_us, p99_us }),
        _ => Err(format!("fio wrote nothing: {write}")),
    }
}

/// Bytes a second of 1 MiB writes one behind the other, 8 under way.
fn stream(uri: &str, seconds: u64) -> Result<f64, String> {
    let words = ["--rw=write", "--bs=1M", "--iodepth=8", "--time_based"].map(str::to_owned);
    let words = [words.to_vec(), vec![format!("--runtime={seconds}")]].concat();
    let write = fio_write(uri, &words)?;
    number(&write, "bw_bytes").ok_or_else(|| format!("fio wrote nothing: {write}"))
}

fn number(write: &serde_json::Value, name: &str) -> Option<f64> {
    write.get(name).and_then(serde_json::Value::as_f64)
}

/// What fio says of its writes.
fn fio_write(uri: &str, words: &[String]) -> Result<serde_json::Value, String> {
    let mut command = Command::new("fio");
    command.args(["--name=w", "--ioengine=nbd", "--output-format=json"]);
    command.arg(format!("--uri={uri}")).args(words);
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("fio: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = || format!("fio: {}", String::from_utf8_lossy(&output.stderr));
    let from = text.find('{').ok_or_else(complaint)?;
    let json: serde_json::Value =
        serde_json::from_str(&text[from..]).map_err(|error| format!("fio: {error}"))?;
    json.pointer("/jobs/0/write").cloned().ok_or_else(complaint)
}
