//! Instants at which it is known what all logs had.
//!
//! The lengths of two logs cannot be read at once. The first is read, the second, and the first
//! again: where it has not changed, both had these lengths at the instant of the second reading;
//! and so with four. Lengths that never stood together would be no power loss: one disk would have
//! what followed from something that another one had not done yet.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::book::Instant;
use crate::common::{Outcome, at, now};
use crate::dmlog::{Entry, Kind, Log};

/// Metadata at the end of a disk, bytes, and a little more.
const METADATA: u64 = 280 << 10;

/// Lengths that stood together, and when that was seen first and last.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    lengths: Vec<u64>,
    first: Instant,
    last: Instant,
}

/// A power loss: entries that each log has, and when.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    pub(crate) entries: Vec<usize>,
    pub(crate) when: Instant,
    /// One of the last operations was of the metadata: that is where the order of things matters.
    pub(crate) tender: bool,
    /// The nodes have just lost each other.
    pub(crate) lost: bool,
}

/// Looks at the logs until it is told to stop.
pub(crate) fn watch(logs: &[&Path], stop: &AtomicBool) -> Outcome<Vec<Seen>> {
    let open = |path: &&Path| File::open(path).map_err(at(path.display()));
    let files = logs.iter().map(open).collect::<Outcome<Vec<File>>>()?;
    let length = |file: &File| file.metadata().map(|found| found.len()).map_err(at("a log"));
    let mut all: Vec<Seen> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let from = now();
        let lengths = files.iter().map(length).collect::<Outcome<Vec<u64>>>()?;
        // The last one was read once only: all had these lengths then.
        let (_, others) = files.split_last().ok_or("no log")?;
        let again = others.iter().map(length).collect::<Outcome<Vec<u64>>>()?;
        if again[..] != lengths[..others.len()] {
            continue;
        }
        let when = Instant { from, to: now() };
        match all.last_mut().filter(|seen| seen.lengths == lengths) {
            Some(seen) => {
                seen.last = when;
                // Nothing moves: leave the processor to those who do something.
                std::thread::sleep(std::time::Duration::from_micros(10));
            }
            None => all.push(Seen { lengths, first: when, last: when }),
        }
    }
    Ok(all)
}

/// Every cut that is known to be one. Where only one log has grown, each of its entries was the
/// last one at some instant in between. `size`: bytes of a disk with metadata at its end.
pub(crate) fn cuts(seen: &[Seen], logs: &[Log], size: u64) -> Vec<Cut> {
    let mut cuts: Vec<Cut> = Vec::new();
    let entries = |lengths: &[u64]| -> Vec<usize> {
        logs.iter().zip(lengths).map(|(log, length)| log.entries_within(*length)).collect()
    };
    let mut before = vec![0; logs.len()];
    let mut add = |entries: Vec<usize>, when: Instant| {
        // A disk for metadata alone stands behind the two for data.
        let moved = (2..logs.len()).any(|log| entries[log] > before[log]);
        let inside = logs.len() == 2
            && logs.iter().zip(&entries).any(|(log, end)| {
                let last = &log.entries[end.saturating_sub(2)..*end];
                let at_end = |entry: &Entry| entry.sector * 512 >= size - METADATA;
                last.iter().any(|entry| entry.kind != Kind::Flush && at_end(entry))
            });
        before.clone_from(&entries);
        cuts.push(Cut { entries, when, tender: moved || inside, lost: false });
    };
    for (index, one) in seen.iter().enumerate() {
        let has = entries(&one.lengths);
        add(has.clone(), one.last);
        let Some(next) = seen.get(index + 1) else { continue };
        let will = entries(&next.lengths);
        let when = Instant { from: one.last.from, to: next.first.to };
        for log in 0..logs.len() {
            if (0..logs.len()).any(|other| other != log && has[other] != will[other]) {
                continue;
            }
            for between in has[log] + 1..will[log] {
                let mut entries = has.clone();
                entries[log] = between;
                add(entries, when);
            }
        }
    }
    cuts
}
