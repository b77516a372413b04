//! Instants at which it is known what all logs had.
//!
//! The lengths of two logs cannot be read at once. The first is read, the second, and the first
//! again: where it has not changed, both had these lengths at the instant of the second reading;
//! and so with four. Lengths that never stood together would be no power loss: one disk would have
//! what followed from something that another one had not done yet. What the state folders say of the
//! ends of disks is looked at in the same way: its version is one more length.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::book::Instant;
use crate::common::{Outcome, at, now};
use crate::state::{State, Versions};
use tools::dmlog::{Entry, Kind, Log};

/// Metadata at the end of a disk, bytes, and a little more.
const METADATA: u64 = 280 << 10;

/// Lengths of logs, and versions of state folders, that stood together, and when that was seen first
/// and last.
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
    /// What the state folders of both nodes had: numbers of [`Versions`].
    pub(crate) states: [usize; 2],
    /// One of the last operations was of the metadata: that is where the order of things matters.
    pub(crate) tender: bool,
    /// The nodes have just lost each other.
    pub(crate) lost: bool,
    /// A resize was under way.
    pub(crate) grows: bool,
}

/// Looks at the logs and the state folders of both nodes until it is told to stop.
pub(crate) fn watch(
    logs: &[&Path],
    folders: &[&Path; 2],
    stop: &AtomicBool,
) -> Outcome<(Vec<Seen>, [Versions; 2])> {
    let open = |path: &&Path| File::open(path).map_err(at(path.display()));
    let files = logs.iter().map(open).collect::<Outcome<Vec<File>>>()?;
    let length = |file: &File| file.metadata().map(|found| found.len()).map_err(at("a log"));
    let mut states = folders.map(State::new);
    let mut all: Vec<Seen> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let from = now();
        let mut look = || -> Outcome<Vec<u64>> {
            let versions = states.each_mut().map(State::version).map(|version| version as u64);
            let lengths = files.iter().map(length);
            versions.into_iter().map(Ok).chain(lengths).collect()
        };
        let mut lengths = look()?;
        let again = look()?;
        // The last one was good when it was read first: all had these lengths then.
        let (_, others) = lengths.split_last().ok_or("no log")?;
        if again[..others.len()] != *others {
            continue;
        }
        lengths.rotate_left(2);
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
    Ok((all, states.map(State::into_versions)))
}

/// Every cut that is known to be one. Where only one log has grown, each of its entries was the
/// last one at some instant in between. `sizes`: bytes of a disk with metadata at its end.
pub(crate) fn cuts(seen: &[Seen], logs: &[Log], sizes: &[u64]) -> Vec<Cut> {
    let mut cuts: Vec<Cut> = Vec::new();
    let entries = |lengths: &[u64]| -> Vec<usize> {
        logs.iter().zip(lengths).map(|(log, length)| log.entries_within(*length)).collect()
    };
    let mut before = vec![0; logs.len()];
    let mut add = |entries: Vec<usize>, states: &[u64], when: Instant| {
        // A disk for metadata alone stands behind the two for data.
        let moved = (2..logs.len()).any(|log| entries[log] > before[log]);
        let inside = logs.len() == 2
            && logs.iter().zip(&entries).any(|(log, end)| {
                let last = &log.entries[end.saturating_sub(2)..*end];
                let at_end = |entry: &Entry| {
                    let end = |size: &u64| (size - METADATA..*size).contains(&(entry.sector * 512));
                    sizes.iter().any(end)
                };
                last.iter().any(|entry| entry.kind != Kind::Flush && at_end(entry))
            });
        before.clone_from(&entries);
        let states = [0, 1].map(|node| usize::try_from(states[node]).unwrap_or(0));
        let tender = moved || inside;
        cuts.push(Cut { entries, when, states, tender, lost: false, grows: false });
    };
    for (index, one) in seen.iter().enumerate() {
        let has = entries(&one.lengths);
        let states = &one.lengths[logs.len()..];
        add(has.clone(), states, one.last);
        let Some(next) = seen.get(index + 1) else { continue };
        let will = entries(&next.lengths);
        // Which came first is not known.
        if *states != next.lengths[logs.len()..] {
            continue;
        }
        let when = Instant { from: one.last.from, to: next.first.to };
        for log in 0..logs.len() {
            if (0..logs.len()).any(|other| other != log && has[other] != will[other]) {
                continue;
            }
            for between in has[log] + 1..will[log] {
                let mut entries = has.clone();
                entries[log] = between;
                add(entries, states, when);
            }
        }
    }
    cuts
}
