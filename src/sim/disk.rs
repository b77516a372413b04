//! A simulated backing disk: a data area with a volatile cache, and a metadata area of real bytes.
//!
//! A sector of data holds one number: the identifier of the write that made it, 0 for zeroes.
//!
//! ```text
//! cache      what a read returns; survives the crash of a process
//! dirty      per sector, where it is marked: the durable value, then every value since, oldest first
//! power loss picks any of them, sector by sector
//! flush      what had landed when it started is durable when it ends
//! ```
//!
//! Invariants:
//! - A failed flush leaves values that are readable until the cache is dropped, and that no later
//!   flush makes durable.
//! - Metadata is durable when its write ends; a write cut short lands in any subset of its sectors.

use smallvec::SmallVec;

use super::area::Area;
use super::marks::Marks;
use super::prng::Prng;

/// Bytes of a sector.
pub(super) const SECTOR: u32 = 512;
/// What memory holds that nobody wrote: it must never reach a disk or a client.
pub(super) const POISON: Sector = u64::MAX;

/// The contents of a sector.
pub(super) type Sector = u64;

/// One value of a sector that is not (only) durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    stamp: u64,
    value: Sector,
    /// False after a failed flush: the kernel has dropped the dirty mark.
    flushable: bool,
}

/// A sector whose cache and durable copy differ, or differed; without versions it is clean.
#[derive(Clone, Debug, Default)]
struct Dirty {
    durable: Sector,
    versions: SmallVec<[Version; 1]>,
}

impl Dirty {
    fn can_flush(&self) -> bool {
        self.versions.last().is_none_or(|version| version.flushable)
    }
}

/// What the disk does wrong at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// Everything fails with EIO.
    pub dead: bool,
    /// The next flush fails.
    pub flush_fails: bool,
    /// The next write fails.
    pub write_fails: bool,
    /// The next read fails.
    pub read_fails: bool,
    /// The next metadata write fails.
    pub meta_fails: bool,
    /// So many percent of all operations fail with EIO.
    pub flaky: u64,
    /// So many percent of the writes fail with ENOSPC.
    pub full: u64,
    /// Every operation takes longer, ms.
    pub slow_ms: u64,
    /// Operations do not end.
    pub stall: Option<Stall>,
}

/// Which operations do not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// All.
    All,
    /// What is to be durable when it ends.
    Flushes,
}

/// The data area and the metadata area of one volume on one node.
#[derive(Clone, Debug)]
pub struct SimDisk {
    cache: Vec<Sector>,
    dirty: Vec<Dirty>,
    marks: Marks,
    stamp: u64,
    metadata: Area,
    /// What it does wrong.
    pub faults: DiskFaults,
}

impl SimDisk {
    /// A disk of `sectors` zeroes, with the given metadata.
    #[must_use]
    pub fn new(sectors: u64, metadata: impl Into<Area>) -> Self {
        let sectors = usize::try_from(sectors).expect("a simulated disk is small");
        Self {
            cache: vec![0; sectors],
            dirty: vec![Dirty::default(); sectors],
            marks: Marks::default(),
            stamp: 1,
            metadata: metadata.into(),
            faults: DiskFaults::default(),
        }
    }

    /// Sectors of the data area.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.cache.len() as u64
    }

    /// The cached contents of the whole data area.
    #[must_use]
    pub fn contents(&self) -> &[Sector] {
        &self.cache
    }

    /// The cached contents of a range.
    #[must_use]
    pub fn read(&self, start: u64, count: u64) -> &[Sector] {
        &self.cache[index(start)..index(start + count)]
    }

    /// A write lands in the cache; with `durable` it is durable at once.
    pub fn write(&mut self, start: u64, values: &[Sector], durable: bool) {
        for (sector, value) in (start..).zip(values) {
            self.write_sector(sector, *value, durable);
        }
    }

    /// A write that a crash cut short: any subset of its sectors lands, or so many percent.
    pub fn write_partly(
        &mut self,
        prng: &mut Prng,
        keeps: Option<u64>,
        start: u64,
        values: &[Sector],
    ) {
        let share = keeps.unwrap_or_else(|| *prng.choose(&[0, 50, 100]));
        for (sector, value) in (start..).zip(values) {
            if prng.percent(share) {
                self.write_sector(sector, *value, false);
            }
        }
    }

    fn write_sector(&mut self, sector: u64, value: Sector, durable: bool) {
        let at = index(sector);
        let old = std::mem::replace(&mut self.cache[at], value);
        let dirty = &mut self.dirty[at];
        if durable {
            dirty.versions.clear();
            self.marks.clear(at);
            return;
        }
        self.stamp += 1;
        if dirty.versions.is_empty() {
            dirty.durable = old;
            self.marks.set(at);
        }
        dirty.versions.push(Version { stamp: self.stamp, value, flushable: true });
    }

    /// The stamp that a flush starting now covers.
    #[must_use]
    pub fn flush_begins(&self) -> u64 {
        self.stamp
    }

    /// The flush ended well.
    pub fn flush_ends(&mut self, stamp: u64) {
        let mut from = 0;
        while let Some(at) = self.marks.next(from) {
            let dirty = &mut self.dirty[at];
            let covered = |v: &Version| v.stamp <= stamp && v.flushable;
            if let Some(last) = dirty.versions.iter().rposition(covered) {
                dirty.durable = dirty.versions[last].value;
                dirty.versions.drain(..=last);
            }
            if dirty.versions.is_empty() {
                self.marks.clear(at);
            }
            from = at + 1;
        }
    }

    /// The flush failed: some of what it covered is lost, though reads still return it.
    pub fn flush_fails(&mut self, prng: &mut Prng, stamp: u64) {
        for (_, dirty) in self.marks.of(&mut self.dirty) {
            if prng.percent(50) {
                for version in dirty.versions.iter_mut().filter(|v| v.stamp <= stamp) {
                    version.flushable = false;
                }
            }
        }
    }

    /// The page cache is dropped, as by an attach: of what a failed flush has left there, which no
    /// later one would write, the durable copy is read from now on.
    pub fn drop_cache(&mut self) {
        let mut from = 0;
        while let Some(at) = self.marks.next(from) {
            let dirty = &mut self.dirty[at];
            if !dirty.can_flush() {
                dirty.versions.clear();
                self.cache[at] = dirty.durable;
                self.marks.clear(at);
            }
            from = at + 1;
        }
    }

    /// Power loss: of each sector that was not flushed, any value since the last flush stays; or so
    /// many percent of them stay as they were written last.
    pub fn lose_power(&mut self, prng: &mut Prng, keeps: Option<u64>) {
        let bias = keeps.unwrap_or_else(|| *prng.choose(&[0, 50, 100]));
        for (sector, dirty) in self.marks.of(&mut self.dirty) {
            let kept: Vec<Sector> =
                dirty.versions.iter().filter(|v| v.flushable).map(|v| v.value).collect();
            dirty.versions.clear();
            let lost = kept.is_empty() || !prng.percent(bias);
            let value = match kept.last() {
                Some(last) if !lost && keeps.is_some() => *last,
                Some(_) if !lost => *prng.choose(&kept),
                _ => dirty.durable,
            };
            self.cache[index(sector)] = value;
        }
        self.marks = Marks::default();
    }

    /// Something is not durable.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.marks.is_empty()
    }

    /// A flush would make what a read returns durable.
    #[must_use]
    pub fn can_flush(&self, sector: u64) -> bool {
        self.dirty[index(sector)].can_flush()
    }

    /// Every value that a power loss may leave in the sector.
    pub fn possible(&self, sector: u64) -> impl Iterator<Item = Sector> + Clone {
        let at = index(sector);
        let dirty = &self.dirty[at];
        let first = if dirty.versions.is_empty() { self.cache[at] } else { dirty.durable };
        let later = dirty.versions.iter().filter(|v| v.flushable).map(|v| v.value);
        std::iter::once(first).chain(later)
    }

    /// The metadata area.
    #[must_use]
    pub fn metadata(&self) -> &Area {
        &self.metadata
    }

    /// A metadata write that ended: durable.
    pub fn write_metadata(&mut self, offset: u64, bytes: &[u8]) {
        self.metadata.write(index(offset), bytes);
    }

    /// A metadata write that a crash cut short: any subset of its sectors lands, each whole, or so
    /// many percent.
    pub fn write_metadata_partly(
        &mut self,
        prng: &mut Prng,
        keeps: Option<u64>,
        offset: u64,
        bytes: &[u8],
    ) {
        let share = keeps.unwrap_or_else(|| *prng.choose(&[0, 50, 100]));
        let sector = SECTOR as usize;
        for (number, piece) in bytes.chunks(sector).enumerate() {
            if prng.percent(share) {
                self.write_metadata(offset + (number * sector) as u64, piece);
            }
        }
    }

    /// A copy of the disk: what a read returns now is durable on it.
    #[must_use]
    pub fn image(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            stamp: self.stamp,
            metadata: self.metadata.clone(),
            dirty: vec![Dirty::default(); self.cache.len()],
            marks: Marks::default(),
            faults: DiskFaults::default(),
        }
    }

    /// The administrator has made the disk larger; every new sector holds `value`. So much
    /// metadata has room then.
    pub fn grow(&mut self, sectors: u64, value: Sector, meta_bytes: u64) {
        let sectors = index(sectors).max(self.cache.len());
        self.cache.resize(sectors, value);
        self.dirty.resize_with(sectors, Dirty::default);
        self.metadata.grow(index(meta_bytes));
    }

    /// Replaces the metadata area (create-md).
    pub fn format(&mut self, metadata: impl Into<Area>) {
        self.metadata = metadata.into();
    }
}

fn index(sector: u64) -> usize {
    usize::try_from(sector).expect("a simulated disk is small")
}

#[cfg(test)]
mod tests {
    use super::SimDisk;
    use crate::sim::prng::Prng;

    #[test]
    fn a_flush_covers_what_had_landed_when_it_started() {
        let mut disk = SimDisk::new(8, vec![0; 1024]);
        disk.write(0, &[1, 2], false);
        let stamp = disk.flush_begins();
        disk.write(1, &[3], false);
        disk.flush_ends(stamp);
        assert!(disk.possible(0).eq([1]));
        assert!(disk.possible(1).eq([2, 3]));
        for seed in 0..20 {
            let mut copy = disk.clone();
            copy.lose_power(&mut Prng::new(seed, 1), None);
            assert_eq!(copy.read(0, 1), [1]);
            assert!([2, 3].contains(&copy.read(1, 1)[0]));
        }
    }

    #[test]
    fn what_a_failed_flush_dropped_stays_lost() {
        let mut prng = Prng::new(1, 1);
        let mut lost = false;
        for _ in 0..20 {
            let mut disk = SimDisk::new(8, vec![0; 1024]);
            disk.write(0, &[1], false);
            let stamp = disk.flush_begins();
            disk.flush_fails(&mut prng, stamp);
            let stamp = disk.flush_begins();
            disk.flush_ends(stamp);
            assert_eq!(disk.read(0, 1), [1]);
            disk.lose_power(&mut prng, None);
            lost |= disk.read(0, 1) == [0];
        }
        assert!(lost);
    }

    #[test]
    fn a_write_through_is_durable_at_once() {
        let mut disk = SimDisk::new(8, vec![0; 1024]);
        disk.write(0, &[1], false);
        disk.write(0, &[2], true);
        disk.lose_power(&mut Prng::new(3, 1), None);
        assert_eq!(disk.read(0, 1), [2]);
    }
}
