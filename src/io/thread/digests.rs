//! Digests of blocks, for an online verify and a resync that compares: work for the processor, in portions, so that clients do
//! not wait for it. A window full of pieces takes 8 ms with instructions for SHA-256, and 40 ms
//! without.
//!
//! Invariants:
//! - A turn of the loop computes [`PORTION`] bytes at most, or one payload; what is left is for the
//!   next one, which does not sleep.
//! - What waits is leased: its buffer goes to nobody else, whoever releases it meanwhile.

use std::collections::VecDeque;

use crate::io::buffer::{Direction, Lease, PoolError};
use crate::io::context::Context;
use crate::resource::{Event, Payload, Tag, VerifyAlg};

/// Bytes in one turn: a tenth of a millisecond, or half of one.
const PORTION: usize = 128 << 10;

/// What is still to be computed, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Digests {
    waiting: VecDeque<(Tag, Payload, VerifyAlg, Lease)>,
}

impl Digests {
    /// `Action::BlockDigests`.
    pub(super) fn ask(
        &mut self,
        io: &mut Context,
        tag: Tag,
        payload: Payload,
        alg: VerifyAlg,
    ) -> Result<(), PoolError> {
        let lease = io.pool.lease(payload, Direction::Source)?;
        self.waiting.push_back((tag, payload, alg, lease));
        Ok(())
    }

    /// The next turn has something to do.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A portion of it.
    pub(super) fn compute(&mut self, io: &mut Context) -> Result<(), PoolError> {
        let mut done = 0;
        while let Some((_, payload, ..)) = self.waiting.front() {
            done += payload.length as usize;
            if done > PORTION && done > payload.length as usize {
                break;
            }
            let Some((tag, payload, alg, lease)) = self.waiting.pop_front() else { break };
            let digests = io.pool.bytes(payload).map(|bytes| alg.digests(bytes));
            io.pool.end(lease);
            io.events.push_back(Event::BlocksDigested { tag, digests: digests? });
        }
        Ok(())
    }

    /// Gives the buffers back (the end of the thread).
    pub(super) fn drop_all(&mut self, io: &mut Context) {
        self.waiting.drain(..).for_each(|(.., lease)| io.pool.end(lease));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buffer::{Part, Pool};
    use crate::io::client::Limits;
    use crate::io::ring::Ring;
    use crate::resource::Time;

    fn context() -> Context {
        Context {
            ring: Ring::new().unwrap(),
            pool: Pool::default(),
            events: VecDeque::new(),
            now: Time(0),
            name: "r0".to_owned(),
            reads_reserved: 0,
            buffers_awaited: false,
            window: 1 << 20,
            limits: Limits::default(),
            fast_zeroes: std::collections::BTreeSet::new(),
        }
    }

    #[test]
    fn a_window_of_pieces_is_computed_in_portions_and_each_buffer_is_kept_for_it() {
        let (mut io, mut digests) = (context(), Digests::default());
        let alg = VerifyAlg::Sha256;
        for (number, length) in
            [1 << 20, PORTION, PORTION / 2, PORTION / 2, 4096].iter().enumerate()
        {
            let payload = io.pool.take(Part::Read, *length);
            io.pool.bytes_mut(payload).unwrap().fill(number as u8);
            digests.ask(&mut io, Tag(number as u64), payload, alg).unwrap();
            // The core lets go of it at once.
            io.release(payload);
        }
        assert_eq!(io.pool.live_buffers(), 5);
        for wanted in [&[0][..], &[1], &[2, 3], &[4]] {
            assert!(digests.is_waiting());
            digests.compute(&mut io).unwrap();
            let mut done = Vec::new();
            for event in io.events.drain(..) {
                let Event::BlocksDigested { tag, digests } = event else { panic!("{event:?}") };
                assert_eq!(digests[..32], alg.digests(&[tag.0 as u8; 4096]));
                done.push(tag.0);
            }
            assert_eq!(done, wanted);
        }
        assert!(!digests.is_waiting());
        assert_eq!(io.pool.live_buffers(), 0);
        let payload = io.pool.take(Part::Read, 4096);
        digests.ask(&mut io, Tag(9), payload, alg).unwrap();
        io.release(payload);
        digests.drop_all(&mut io);
        assert_eq!(io.pool.live_buffers(), 0);
    }
}
