//! The log of a disk's writes and flushes, in the layout of Linux's dm-log-writes, which QEMU's
//! blklogwrites writes as well.
//!
//! A sector that describes the log, then entries: each a sector with four numbers (first sector,
//! sectors, flags, bytes of a mark), and then the data of a write. Little endian.
//!
//! Invariants:
//! - Entries are in the order in which the disk did them. An operation is answered when its entry
//!   is in the log, so a log that has a certain length has all that was answered by then.
//! - An entry that is not whole is not there.

const SECTOR: usize = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its data is in the log from this byte on.
    Write {
        /// Where.
        data: usize,
        /// It was on the disk when it was answered.
        durable: bool,
    },
    /// What was there is zeroes now.
    Discard,
    /// All before it is on the disk.
    Flush,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it did.
    pub kind: Kind,
    /// First sector of 512 bytes.
    pub sector: u64,
    /// How many.
    pub sectors: u64,
    /// Length of the log with this entry, bytes.
    end: u64,
}

/// A log in memory.
#[derive(Debug)]
pub struct Log {
    bytes: Vec<u8>,
    /// In order.
    pub entries: Vec<Entry>,
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let eight = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(eight.try_into().ok()?))
}

impl Log {
    /// Reads a log; what stands behind the last whole entry is left out.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, String> {
        let sector_size = bytes.get(24..28).map(|b| [b[0], b[1], b[2], b[3]]);
        let head = (number(&bytes, 0), number(&bytes, 8), sector_size.map(u32::from_le_bytes));
        // It is written with the first flush.
        let blank = bytes.iter().take(SECTOR).all(|byte| *byte == 0);
        if !blank && head != (Some(MAGIC), Some(1), Some(512)) {
            return Err(format!("no log of writes: it begins with {head:x?}"));
        }
        let mut entries = Vec::new();
        let mut at = SECTOR;
        while let Some(entry) = entry(&bytes, at) {
            at = usize::try_from(entry.end).map_err(|e| e.to_string())?;
            entries.push(entry);
        }
        Ok(Self { bytes, entries })
    }

    /// How many entries a log of this length has.
    pub fn entries_within(&self, length: u64) -> usize {
        self.entries.partition_point(|entry| entry.end <= length)
    }

    /// The data of a sector of a write.
    pub fn sector(&self, data: usize, number: usize) -> &[u8] {
        let start = data + number * SECTOR;
        &self.bytes[start..start + SECTOR]
    }
}

fn entry(bytes: &[u8], at: usize) -> Option<Entry> {
    let [sector, sectors, flags] =
        [number(bytes, at)?, number(bytes, at + 8)?, number(bytes, at + 16)?];
    let data = at + SECTOR;
    let length = usize::try_from(sectors).ok()?.checked_mul(SECTOR)?;
    let (kind, end) = match flags {
        _ if flags & MARK != 0 => return None,
        _ if flags & DISCARD != 0 => (Kind::Discard, data),
        _ if sectors > 0 => {
            (Kind::Write { data, durable: flags & FUA != 0 }, data.checked_add(length)?)
        }
        _ if flags & FLUSH != 0 => (Kind::Flush, data),
        // Not yet written.
        _ => return None,
    };
    (end <= bytes.len()).then_some(Entry { kind, sector, sectors, end: end as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Vec<u8> {
        let mut bytes = vec![0; SECTOR];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8] = 1;
        bytes[24..28].copy_from_slice(&512_u32.to_le_bytes());
        bytes
    }

    fn add(bytes: &mut Vec<u8>, numbers: [u64; 3], data: usize) {
        let start = bytes.len();
        bytes.resize(start + SECTOR + data, 7);
        for (number, at) in numbers.iter().zip([0, 8, 16]) {
            bytes[start + at..start + at + 8].copy_from_slice(&number.to_le_bytes());
        }
    }

    #[test]
    fn entries_are_read_in_order_and_half_of_one_is_none() {
        let mut bytes = head();
        add(&mut bytes, [8, 2, 0], 1024);
        add(&mut bytes, [0, 0, FLUSH], 0);
        add(&mut bytes, [4, 1, DISCARD], 0);
        let whole = bytes.len() as u64;
        add(&mut bytes, [8, 2, FUA], 1023);
        let log = Log::parse(bytes).unwrap();
        let kinds: Vec<Kind> = log.entries.iter().map(|entry| entry.kind).collect();
        let write = Kind::Write { data: 1024, durable: false };
        assert_eq!(kinds, [write, Kind::Flush, Kind::Discard]);
        assert_eq!((log.entries[0].sector, log.entries[0].sectors), (8, 2));
        assert_eq!(log.sector(1024, 1), [7; 512]);
        let counts = [512, 2047, 2048, whole].map(|length| log.entries_within(length));
        assert_eq!(counts, [0, 0, 1, 3]);
    }

    #[test]
    fn before_the_first_flush_there_are_entries_and_no_head() {
        assert!(Log::parse(Vec::new()).unwrap().entries.is_empty());
        let mut bytes = vec![0; SECTOR];
        assert!(Log::parse(bytes.clone()).unwrap().entries.is_empty());
        add(&mut bytes, [8, 2, 0], 1024);
        assert_eq!(Log::parse(bytes).unwrap().entries.len(), 1);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        assert!(Log::parse(vec![7; 4096]).is_err());
        assert!(Log::parse(vec![7; 100]).is_err());
    }
}
