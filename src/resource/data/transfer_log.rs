//! The transfer log: writes that a peer has acknowledged, but not flushed.
//!
//! Invariants:
//! - An entry exists per write (model.md V9): a flush takes out only writes that the peer had
//!   acknowledged before the flush was sent.
//! - It is bounded: [`TransferLog::is_full`] makes the Primary ask the peer to flush.

use std::collections::VecDeque;

use crate::resource::ids::BLOCK_SIZE;

/// Bytes of unflushed writes after which a flush is asked for.
const BYTES_MAX: u64 = 64 << 20;

#[derive(Clone, Copy, Debug)]
struct Entry {
    epoch: u64,
    first: u64,
    count: u64,
}

/// Ranges of blocks by flush epoch, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct TransferLog {
    entries: VecDeque<Entry>,
    bytes: u64,
}

impl TransferLog {
    /// The peer acknowledged a write; it becomes durable there with the flush of `epoch`.
    pub(crate) fn push(&mut self, epoch: u64, first: u64, count: u64) {
        self.bytes += count * BLOCK_SIZE;
        if let Some(last) = self.entries.back_mut() {
            debug_assert!(last.epoch <= epoch, "epochs only grow");
            if last.epoch == epoch && last.first + last.count == first {
                last.count += count;
                return;
            }
        }
        self.entries.push_back(Entry { epoch, first, count });
    }

    /// The peer has flushed `epoch`: everything acknowledged before that flush is durable there.
    pub(crate) fn flushed(&mut self, epoch: u64) {
        while self.entries.front().is_some_and(|entry| entry.epoch <= epoch) {
            let entry = self.entries.pop_front().expect("just seen");
            self.bytes -= entry.count * BLOCK_SIZE;
        }
    }

    /// Takes everything out, as runs of blocks: what the peer may lose.
    pub(crate) fn drain(&mut self) -> Vec<(u64, u64)> {
        self.bytes = 0;
        self.entries.drain(..).map(|entry| (entry.first, entry.count)).collect()
    }

    /// Nothing is unflushed.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A flush is due.
    pub(crate) fn is_full(&self, max_epoch_size: u32) -> bool {
        self.entries.len() >= max_epoch_size as usize || self.bytes >= BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_covers_only_what_was_acknowledged_before_it() {
        let mut log = TransferLog::default();
        log.push(1, 0, 1);
        log.push(1, 1, 1);
        log.push(2, 0, 1);
        log.flushed(1);
        assert_eq!(log.drain(), vec![(0, 1)], "the overwrite of block 0 stays");
        assert!(log.is_empty());
    }

    #[test]
    fn it_asks_for_a_flush_at_its_bounds() {
        let mut log = TransferLog::default();
        for block in 0..4 {
            log.push(1, block * 2, 1);
        }
        assert!(log.is_full(4) && !log.is_full(5));
        log.push(1, 100, BYTES_MAX / BLOCK_SIZE);
        assert!(log.is_full(2048));
    }
}
