//! What of a range is a hole: for NBD_CMD_BLOCK_STATUS, and for a resync.

use nbd::constants::{NBD_STATE_HOLE, NBD_STATE_ZERO};
use nbd::reply::Extent;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::{Disk, Disks};
use crate::resource::{BLOCK_SIZE, Time, VolumeNumber};

/// Extents of one answer: each is two system calls on the data thread. The client asks again.
const EXTENTS_MAX: usize = 256;

/// While an operation is under way for longer, ms, holes are not asked for: a disk that hangs would keep whoever asks
/// in the system, and so everything that notices it. A healthy disk seldom needs a second; where one does, holes
/// are only copied as zeroes for a while.
const OLD_MS: u64 = 1_000;

impl Disk {
    fn is_slow(&self, now: Time) -> bool {
        let reads = self.reads.values().map(|read| read.begun);
        let writes = self.writes.values().map(super::write::Write::begun);
        let updates = self.updates.values().map(super::meta::Update::begun);
        let syncs = [&self.data_syncs, &self.meta_syncs];
        let syncs = syncs.into_iter().filter_map(super::sync::Syncs::begun);
        let mut all = reads.chain(writes).chain(updates).chain(syncs);
        all.any(|begun| now.ms_since(begun) > OLD_MS)
    }

    /// Whether its holes up to there are asked for. Not while something is made one: the system has whoever
    /// asks wait for the end of that, and so this thread. Nor while the disk may hang: see [`OLD_MS`].
    fn can_say(&self, now: Time, end: u64) -> bool {
        let file = self.file();
        // What somebody has cut off is no hole: the read of it fails.
        let is_whole = || file.metadata().is_ok_and(|file| file.len() >= end);
        self.zeroes.is_empty() && !self.is_slow(now) && self.open.knows_holes && is_whole()
    }
}

impl Disks {
    /// `Action::FindHole`: bytes from the start of the range that are a hole, whole blocks. 0 where the
    /// disk is not here, or cannot say: a block device has none.
    pub(crate) fn hole(&self, now: Time, volume: VolumeNumber, offset: u64, length: u32) -> u32 {
        let Some(disk) = self.disks.get(&volume) else { return 0 };
        let (file, end) = (disk.file(), offset.saturating_add(u64::from(length)));
        let (true, Ok(at)) = (disk.can_say(now, end), i64::try_from(offset)) else { return 0 };
        let found = match lseek(file, at, Whence::SeekData) {
            Ok(data) => u64::try_from(data).unwrap_or(0).saturating_sub(offset),
            // Nothing but a hole from here on.
            Err(Errno::ENXIO) => u64::from(length),
            Err(_) => 0,
        };
        let found = u32::try_from(found).unwrap_or(u32::MAX).min(length);
        found / BLOCK_SIZE as u32 * BLOCK_SIZE as u32
    }

    /// Data and holes of the range, from its start; perhaps not to its end. A disk that is not
    /// here, or cannot say, is one extent of data.
    pub(crate) fn extents(
        &self,
        now: Time,
        volume: VolumeNumber,
        offset: u64,
        length: u64,
    ) -> Vec<Extent> {
        let all = vec![Extent { length, flags: 0 }];
        let end = offset.saturating_add(length);
        let Some(disk) = self.disks.get(&volume).filter(|disk| disk.can_say(now, end)) else {
            return all;
        };
        let seek = |at: u64, whence| -> Option<u64> {
            let at = i64::try_from(at).ok()?;
            match lseek(disk.file(), at, whence) {
                Ok(found) => u64::try_from(found).ok().map(|found| found.min(end)),
                // Nothing but a hole from here on.
                Err(Errno::ENXIO) => Some(end),
                Err(_) => None,
            }
        };
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end && extents.len() < EXTENTS_MAX {
            let Some(data) = seek(at, Whence::SeekData) else { return all };
            if data > at {
                let flags = NBD_STATE_HOLE | NBD_STATE_ZERO;
                extents.push(Extent { length: data - at, flags });
                at = data;
                continue;
            }
            let Some(hole) = seek(at, Whence::SeekHole) else { return all };
            if hole <= at {
                return all;
            }
            extents.push(Extent { length: hole - at, flags: 0 });
            at = hole;
        }
        if extents.is_empty() { all } else { extents }
    }
}
