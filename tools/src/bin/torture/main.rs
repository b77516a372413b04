//! Real daemons over a link that misbehaves, killed, frozen and ordered about by a seed, while
//! clients write and read, two here and two on a third host; every answer and both disks are held against one book.
//!
//! ```text
//!  cage ── a namespace of processes, mounts and network of its own: all of it ends with it
//!   ├─ alice's namespace: tandemd ── tap ─┐ nftables: loss, one-way cuts; tbf: rate
//!   │                              relay ─┤ delay, reordering, holes of MTU, cuts
//!   ├─ bob's namespace:   tandemd ── tap ─┘
//!   ├─ the third host: two clients ── veth, TCP ──> whoever serves: cuts, loss, half-open
//!   ├─ two clients ── Unix sockets ──> whoever serves    book: what each node must hold
//!   └─ the driver: faults by the seed, then everything is mended, and both disks are compared
//! ```
//!
//! Invariants:
//! - Nothing outside the cage is touched but its own folder of files.
//! - Faults and loads are drawn from the seed alone; the moments are the machine's.

mod book;
mod cage;
mod client;
mod driver;
mod faults;
mod link;
mod mend;
mod namespace;
mod node;
mod orders;
mod relay;
mod report;
mod strike;
mod tally;
mod tap;
mod versions;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Tortures a pair of real daemons, and checks that nothing acknowledged is lost.
///
/// Exit code 0: no violation; 1: a violation; 2: it cannot run.
#[derive(Parser, Clone)]
struct Arguments {
    /// How long, minutes; fractions are allowed.
    #[arg(long)]
    minutes: f64,
    /// What everything is drawn from [default: another one each time].
    #[arg(long)]
    seed: Option<u64>,
    /// Where tandemd and tandemadm are [default: beside this program].
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Where those of another version are: each daemon is of the one or the other, drawn when it starts or
    /// is replaced. Nothing is recorded then.
    #[arg(long, value_name = "DIR")]
    other_programs: Option<PathBuf>,
    /// Where a folder for everything is made [default: the system's for temporary files].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Keep the folder also where nothing was wrong.
    #[arg(long)]
    keep: bool,
    /// Neither record nor replay what the daemons do.
    #[arg(long)]
    no_record: bool,
    /// For the process inside the cage: its folder.
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
}

/// It was found out that it cannot run: the exit code for usage.
const CANNOT: u8 = 2;

fn main() -> ExitCode {
    let mut arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { CANNOT } else { 0 });
        }
    };
    if !(arguments.minutes > 0.0 && arguments.minutes < 1e6) {
        eprintln!("torture: --minutes takes a number above 0");
        return ExitCode::from(CANNOT);
    }
    let seed = arguments.seed.unwrap_or_else(cage::any_seed);
    arguments.seed = Some(seed);
    let code = match arguments.inside.clone() {
        Some(folder) => driver::run(&arguments, seed, &folder),
        None => cage::run(&arguments),
    };
    match code {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("torture: {why}");
            ExitCode::from(CANNOT)
        }
    }
}
