//! The buffer pool of a simulated shell, which counts.
//!
//! Invariants:
//! - A buffer is handed out with an event and taken back by `Release`, exactly once. A second
//!   release, or the use of a released buffer, is a violation; so is a buffer left over at the end.
//! - Contents are kept by sectors of 512 bytes, each an identifier of who wrote it.

use crate::resource::Payload;

use super::disk::{POISON, SECTOR, Sector};

/// Where the contents of a buffer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client's write.
    Client,
    /// A write of the peer.
    Replica,
    /// A block of a resync.
    Resync,
    /// The own disk, or a read from the peer.
    Read,
}

#[derive(Clone, Debug)]
struct Buffer {
    origin: Origin,
    sectors: Vec<Sector>,
}

/// The buffers of one life of a node.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    slots: Vec<(u32, Option<Buffer>)>,
    free: Vec<u32>,
    live: usize,
    bytes: u64,
}

impl Pool {
    /// A buffer for `sectors`, named from its `skip`th sector on for `length` bytes. What is not
    /// named holds garbage.
    pub fn take(&mut self, origin: Origin, skip: u32, mut sectors: Vec<Sector>) -> Payload {
        let named = u32::try_from(sectors.len()).expect("at most a MiB") * SECTOR;
        let offset = skip * SECTOR;
        let whole = (offset + named).next_multiple_of(4096) / SECTOR;
        if skip > 0 {
            sectors.splice(0..0, std::iter::repeat_n(POISON, skip as usize));
        }
        sectors.resize(whole as usize, POISON);
        self.bytes += u64::from(whole * SECTOR);
        self.live += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).expect("few buffers")
        });
        let entry = &mut self.slots[slot as usize];
        entry.0 += 1;
        entry.1 = Some(Buffer { origin, sectors });
        Payload { slot, generation: entry.0, offset, length: named }
    }

    /// The contents that a handle names.
    ///
    /// # Errors
    /// The handle is stale, or names bytes outside of its buffer.
    pub fn read(&self, payload: Payload) -> Result<(Origin, Vec<Sector>), String> {
        let buffer = self.buffer(payload)?;
        let range = Self::range(payload, buffer)?;
        Ok((buffer.origin, buffer.sectors[range].to_vec()))
    }

    /// Takes the buffer back.
    ///
    /// # Errors
    /// The handle is stale: it was released before.
    pub fn release(&mut self, payload: Payload) -> Result<(), String> {
        let size = self.buffer(payload)?.sectors.len() as u64 * u64::from(SECTOR);
        self.slots[payload.slot as usize].1 = None;
        self.free.push(payload.slot);
        self.live -= 1;
        self.bytes -= size;
        Ok(())
    }

    /// `Action::Merge`: the sectors before (`head`) or behind the named ones come from a block.
    ///
    /// # Errors
    /// A handle is stale or does not have the form that the action demands.
    pub fn merge(&mut self, into: Payload, from: Payload, head: bool) -> Result<(), String> {
        let (_, block) = self.read(from)?;
        if block.len() != 8 || from.length != 4096 {
            return Err(format!("a merge from {from:?}, which is not one block"));
        }
        let range = Self::range(into, self.buffer(into)?)?;
        let buffer = self.slots[into.slot as usize].1.as_mut().expect("checked above");
        let edge = if head {
            range.start / 8 * 8..range.start
        } else {
            range.end..range.end.next_multiple_of(8)
        };
        for sector in edge {
            buffer.sectors[sector] = block[sector % 8];
        }
        Ok(())
    }

    /// Buffers that are handed out.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live
    }

    /// Bytes that are handed out.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn buffer(&self, payload: Payload) -> Result<&Buffer, String> {
        match self.slots.get(payload.slot as usize) {
            Some((generation, Some(buffer))) if *generation == payload.generation => Ok(buffer),
            _ => Err(format!("{payload:?} was released before")),
        }
    }

    fn range(payload: Payload, buffer: &Buffer) -> Result<std::ops::Range<usize>, String> {
        let (start, end) = (payload.offset, payload.offset.saturating_add(payload.length));
        if start % SECTOR != 0 || end % SECTOR != 0 || payload.length == 0 {
            return Err(format!("{payload:?} is not made of sectors"));
        }
        let range = (start / SECTOR) as usize..(end / SECTOR) as usize;
        if range.end > buffer.sectors.len() {
            return Err(format!("{payload:?} names bytes outside of its buffer"));
        }
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use super::{Origin, Pool};
    use crate::sim::disk::POISON;

    #[test]
    fn a_buffer_is_released_once() {
        let mut pool = Pool::default();
        let payload = pool.take(Origin::Client, 1, vec![5, 6]);
        assert_eq!((payload.offset, payload.length, pool.bytes()), (512, 1024, 4096));
        assert_eq!(pool.read(payload).unwrap().1, [5, 6]);
        pool.release(payload).unwrap();
        assert!(pool.release(payload).is_err());
        assert!(pool.read(payload).is_err());
        assert_eq!((pool.live(), pool.bytes()), (0, 0));
    }

    #[test]
    fn a_merge_completes_the_edges_only() {
        let mut pool = Pool::default();
        let into = pool.take(Origin::Client, 1, vec![5, 6]);
        let from = pool.take(Origin::Read, 0, (10..18).collect());
        pool.merge(into, from, true).unwrap();
        let whole = crate::resource::Payload { offset: 0, length: 4096, ..into };
        assert_eq!(pool.read(whole).unwrap().1[..4], [10, 5, 6, POISON]);
        pool.merge(into, from, false).unwrap();
        assert_eq!(pool.read(whole).unwrap().1, [10, 5, 6, 13, 14, 15, 16, 17]);
    }
}
