//! The pieces of a read that have come and are not in the outbox: mostly one, for which nothing is
//! allocated.
//!
//! Invariants:
//! - `first` is the piece with the lowest offset; without it there is none.

use std::collections::BTreeMap;

use crate::io::buffer::Lease;

/// The data, and what is reserved for it.
type Data = (Lease, u64);

/// Pieces by their offset.
#[derive(Debug, Default)]
pub(super) struct Ready {
    first: Option<(u64, Data)>,
    more: BTreeMap<u64, Data>,
}

impl Ready {
    /// A piece has come.
    pub(super) fn insert(&mut self, offset: u64, data: Data) {
        let later = match self.first.take() {
            Some((first, earlier)) if first < offset => {
                self.first = Some((first, earlier));
                Some((offset, data))
            }
            later => {
                self.first = Some((offset, data));
                later
            }
        };
        self.more.extend(later);
    }

    /// Where the first piece begins.
    pub(super) fn first(&self) -> Option<u64> {
        self.first.as_ref().map(|(offset, _)| *offset)
    }

    /// Takes the first piece out.
    pub(super) fn pop_first(&mut self) -> Option<(u64, Data)> {
        let first = self.first.take();
        self.first = self.more.pop_first();
        first
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// All pieces, by ascending offset.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Data)> {
        let first = self.first.iter().map(|(offset, data)| (*offset, data));
        first.chain(self.more.iter().map(|(offset, data)| (*offset, data)))
    }

    /// What all pieces own.
    pub(super) fn into_data(self) -> impl Iterator<Item = Data> {
        self.first.map(|(_, data)| data).into_iter().chain(self.more.into_values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buffer::{Direction, Part, Pool};

    #[test]
    fn pieces_come_out_in_order_in_whatever_order_they_came() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]] {
            let mut pool = Pool::default();
            let payload = pool.take(Part::Client, 4096);
            let mut ready = Ready::default();
            for offset in order {
                let lease = pool.lease(payload, Direction::Source).unwrap();
                ready.insert(offset, (lease, 10 + offset));
            }
            assert_eq!(ready.first(), Some(0));
            let all: Vec<_> = ready.iter().map(|(offset, (_, bytes))| (offset, *bytes)).collect();
            assert_eq!(all, [(0, 10), (1, 11), (2, 12)]);
            let (offset, (lease, _)) = ready.pop_first().unwrap();
            assert_eq!((offset, ready.first(), ready.is_empty()), (0, Some(1), false));
            pool.end(lease);
            ready.into_data().for_each(|(lease, _)| pool.end(lease));
            pool.release(payload).unwrap();
            assert_eq!(pool.live_buffers(), 0);
        }
    }
}
