//! Counts the instructions of the core, with valgrind: a figure that no other load changes.

use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use tools::core_pair::Pair;

/// Counts the instructions that both cores take for a replicated write of 4 KiB, and for a flush.
///
/// Exit code 0: within the bounds; 1: more; 2: it cannot run.
#[derive(Parser)]
struct Arguments {
    /// For the process under valgrind: so many writes.
    #[arg(long, hide = true)]
    writes: Option<u64>,
    /// And so many flushes.
    #[arg(long, hide = true, default_value_t = 0)]
    flushes: u64,
}

/// Of both cores, for one: a tenth more than they took when this was written.
const WRITE_MAX: u64 = 14_000;
const FLUSH_MAX: u64 = 11_300;
/// How many are counted.
const COUNT: u64 = 2000;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(writes) = arguments.writes {
        work(writes, arguments.flushes);
        return ExitCode::SUCCESS;
    }
    match count() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::from(2)
        }
    }
}

/// In sync, then so many of each.
fn work(writes: u64, flushes: u64) {
    let mut pair = Pair::in_sync();
    for write in 0..writes {
        pair.write(write * 7919 % 10_000);
    }
    for _ in 0..flushes {
        pair.flush();
    }
    assert_eq!(pair.replies, writes + flushes, "every request is answered");
}

fn count() -> Result<bool, String> {
    // Twice as many take so many more: the start is not counted.
    let one = instructions(COUNT, 0)?;
    let writes = instructions(2 * COUNT, 0)?.saturating_sub(one) / COUNT;
    let flushes = instructions(COUNT, COUNT)?.saturating_sub(one) / COUNT;
    println!("instructions of both cores for a write: {writes}, at most {WRITE_MAX}");
    println!("instructions of both cores for a flush: {flushes}, at most {FLUSH_MAX}");
    Ok(writes <= WRITE_MAX && flushes <= FLUSH_MAX)
}

/// Of this program under valgrind.
fn instructions(writes: u64, flushes: u64) -> Result<u64, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(own)
        .arg(format!("--writes={writes}"))
        .arg(format!("--flushes={flushes}"))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    collected(&text).filter(|_| output.status.success()).ok_or_else(|| text.into_owned())
}

/// The number behind "Collected :".
fn collected(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.split_once("Collected :"))?.1;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_valgrind_says_is_understood() {
        assert_eq!(collected("==1== \n==1== Collected : 12345\n==1==\n"), Some(12_345));
        assert_eq!(collected("valgrind: no such program"), None);
    }

    #[test]
    fn every_request_of_the_work_is_answered() {
        work(100, 10);
    }
}
