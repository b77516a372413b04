//! Instants at which it is known what both logs had.
//!
//! The lengths of two logs cannot be read at once. The first is read, the second, and the first
//! again: where it has not changed, both had these lengths at the instant of the second reading. A
//! pair of lengths that never stood together would be no power loss: one disk would have what
//! followed from something that the other one had not done yet.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::book::Instant;
use crate::common::{Outcome, at, now};
use crate::dmlog::{Kind, Log};

/// Metadata at the end of a disk, bytes, and a little more.
const METADATA: u64 = 280 << 10;

/// Lengths that stood together, and when that was seen first and last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    lengths: [u64; 2],
    first: Instant,
    last: Instant,
}

/// A power loss: entries that each log has, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) entries: [usize; 2],
    pub(crate) when: Instant,
    /// One of the last operations was of the metadata: that is where the order of things matters.
    pub(crate) tender: bool,
}

/// Looks at both logs until it is told to stop.
pub(crate) fn watch(logs: [&Path; 2], stop: &AtomicBool) -> Outcome<Vec<Seen>> {
    let open = |path: &Path| File::open(path).map_err(at(path.display()));
    let files = [open(logs[0])?, open(logs[1])?];
    let length = |file: &File| file.metadata().map(|found| found.len()).map_err(at("a log"));
    let mut all: Vec<Seen> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let from = now();
        let lengths = [length(&files[0])?, length(&files[1])?];
        if length(&files[0])? != lengths[0] {
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
/// last one at some instant in between.
pub(crate) fn cuts(seen: &[Seen], logs: [&Log; 2], size: u64) -> Vec<Cut> {
    let mut cuts: Vec<Cut> = Vec::new();
    let tender = |entries: [usize; 2]| {
        (0..2).any(|node: usize| {
            let end = entries[node];
            logs[node].entries[end.saturating_sub(2)..end]
                .iter()
                .any(|entry| entry.kind != Kind::Flush && entry.sector * 512 >= size - METADATA)
        })
    };
    let entries =
        |lengths: [u64; 2]| [0, 1].map(|node: usize| logs[node].entries_within(lengths[node]));
    for (index, one) in seen.iter().enumerate() {
        let has = entries(one.lengths);
        cuts.push(Cut { entries: has, when: one.last, tender: tender(has) });
        let Some(next) = seen.get(index + 1) else { continue };
        let will = entries(next.lengths);
        let when = Instant { from: one.last.from, to: next.first.to };
        for node in 0..2 {
            if has[1 - node] != will[1 - node] {
                continue;
            }
            for between in has[node] + 1..will[node] {
                let mut entries = has;
                entries[node] = between;
                cuts.push(Cut { entries, when, tender: tender(entries) });
            }
        }
    }
    cuts
}
