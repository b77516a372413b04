//! What a power loss leaves of a disk.
//!
//! Invariants:
//! - Everything that a flush of the log covers is there. Of the later writes any subset is, and each
//!   of them whole or torn between sectors of 512 bytes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tandem::sim::Prng;

use crate::common::{Outcome, at};
use tools::dmlog::{Kind, Log};

const ZEROES: [u8; 512] = [0; 512];

/// What becomes of writes that no flush has covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    /// All of them are kept: the daemon died, not its host.
    Kept,
    /// So many of a hundred are kept, and others torn.
    Lost(u64),
}

/// Makes the image of a disk of `size` bytes, after so many entries of its log, over what was on
/// it `before` the log began (nothing: a blank disk).
pub(crate) fn build(
    path: &Path,
    (size, before): (u64, Option<&Path>),
    (log, entries): (&Log, usize),
    cache: Cache,
    prng: &mut Prng,
) -> Outcome<()> {
    if let Some(before) = before {
        fs::copy(before, path).map_err(at(path.display()))?;
    }
    let file = File::options().write(true).create(true).truncate(before.is_none()).open(path);
    let file = file.map_err(at(path.display()))?;
    file.set_len(size).map_err(at(path.display()))?;
    let all = &log.entries[..entries];
    let flushed = all.iter().rposition(|entry| entry.kind == Kind::Flush);
    for (index, entry) in all.iter().enumerate() {
        let durable = flushed.is_some_and(|flush| index < flush)
            || matches!(entry.kind, Kind::Write { durable: true, .. });
        let (whole, torn) = match cache {
            Cache::Lost(percent) if !durable => (prng.percent(percent), prng.percent(25)),
            _ => (true, false),
        };
        for number in 0..entry.sectors {
            if !(if torn { prng.percent(50) } else { whole }) {
                continue;
            }
            let bytes = match entry.kind {
                Kind::Write { data, .. } => {
                    log.sector(data, usize::try_from(number).map_err(at("a sector"))?)
                }
                Kind::Discard => &ZEROES,
                Kind::Flush => break,
            };
            file.write_all_at(bytes, (entry.sector + number) * 512).map_err(at("an image"))?;
        }
    }
    Ok(())
}
