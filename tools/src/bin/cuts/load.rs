//! A client that writes, zeroes and flushes at random, and writes everything down.
//!
//! Invariants:
//! - A slot has one operation under way at most, so that its sectors are registers with one order.
//! - A write stands in the book before it is sent, and is answered there after its reply was read.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nbd::Command;
use nbd::client::{Client, ClientError};
use nbd::constants::{NBD_CMD_FLAG_FUA, NBD_CMD_FLAG_NO_HOLE};
use tandem::sim::Prng;

use crate::book::Book;
use crate::common::{Outcome, now};

/// Sectors of a slot.
pub(crate) const SLOT: u64 = 16;
/// Operations under way.
const DEPTH: usize = 6;

/// Where a client writes: first sectors of slots.
pub(crate) type Slots = Vec<u64>;

/// How a load goes on.
pub(crate) struct Load<'a> {
    pub(crate) book: &'a Mutex<Book>,
    pub(crate) slots: &'a Slots,
    /// One of so many is a flush, and of the writes one is durable; 0: none.
    pub(crate) flushes: u64,
    /// Through which node.
    pub(crate) node: usize,
    /// Set: no more operations are begun.
    pub(crate) stop: &'a AtomicBool,
    /// Operations that were answered.
    pub(crate) answered: &'a AtomicU64,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    /// The connection was lost, or the node has ended.
    Lost,
}

enum Flying {
    Write { index: usize, slot: usize },
    Flush { sent: u64 },
}

impl Load<'_> {
    /// At most `count` operations.
    ///
    /// # Errors
    /// One was answered with an error other than that the node ends.
    pub(crate) fn run(&self, client: &mut Client, count: u64, prng: &mut Prng) -> Outcome<End> {
        let mut flying: HashMap<u64, Flying> = HashMap::new();
        let mut busy = vec![false; self.slots.len()];
        let mut begun = 0;
        let mut ended = false;
        loop {
            let more = begun < count && !ended && !self.stop.load(Ordering::Relaxed);
            if more && flying.len() < DEPTH {
                begun += 1;
                match self.send(client, begun, &mut busy, prng)? {
                    Some((cookie, what)) => flying.insert(cookie, what),
                    None => return Ok(End::Lost),
                };
                continue;
            }
            if flying.is_empty() {
                return Ok(if ended { End::Lost } else { End::Done });
            }
            let reply = match client.read_reply() {
                Ok(reply) => reply,
                Err(ClientError::Io(_)) => return Ok(End::Lost),
                Err(error) => return Err(format!("an NBD reply: {error}")),
            };
            let at = now();
            let what = flying.remove(&reply.cookie).expect("the client checks cookies");
            if let Flying::Write { slot, .. } = what {
                busy[slot] = false;
            }
            if reply.code != 0 {
                // What a node that ends by order answers.
                if reply.code != nbd::Errno::ESHUTDOWN as u32 {
                    return Err(format!("a client saw error {}: {}", reply.code, reply.message));
                }
                ended = true;
                continue;
            }
            let mut book = self.book.lock().expect("nobody panicked");
            match what {
                Flying::Write { index, .. } => book.answered(index, at),
                Flying::Flush { sent } => book.flushed(self.node, sent, at),
            }
            drop(book);
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends one operation; `None`: the connection was lost.
    fn send(
        &self,
        client: &mut Client,
        number: u64,
        busy: &mut [bool],
        prng: &mut Prng,
    ) -> Outcome<Option<(u64, Flying)>> {
        if self.flushes > 0 && prng.one_in(self.flushes) {
            let sent = now();
            return match client.send_request(Command::Flush, 0, 0, 0, &[]) {
                Ok(cookie) => Ok(Some((cookie, Flying::Flush { sent }))),
                Err(ClientError::Io(_)) => Ok(None),
                Err(error) => Err(format!("an NBD request: {error}")),
            };
        }
        // Without flushes it is one slot after the other: so that the extent that was unused for the
        // longest time, too, has what nobody has flushed.
        let draw = if self.flushes == 0 { number } else { prng.below(busy.len() as u64) };
        let next = (draw..).map(|at| usize::try_from(at).expect("few slots") % busy.len());
        let slot = next.take(busy.len()).find(|slot| !busy[*slot]).expect("more slots than DEPTH");
        busy[slot] = true;
        let skipped = if prng.percent(50) { 0 } else { prng.below(SLOT) };
        let count = if prng.percent(50) { SLOT - skipped } else { 1 + prng.below(SLOT - skipped) };
        let range = (self.slots[slot] + skipped, count);
        let zeroes = prng.one_in(12);
        let fua = self.flushes > 0 && prng.one_in(self.flushes);
        let (index, bytes) = {
            let mut book = self.book.lock().expect("nobody panicked");
            book.sends(self.node, range, (zeroes, fua), now())
        };
        let mut flags = if fua { NBD_CMD_FLAG_FUA } else { 0 };
        let command = if zeroes { Command::WriteZeroes } else { Command::Write };
        if zeroes && prng.one_in(2) {
            flags |= NBD_CMD_FLAG_NO_HOLE;
        }
        match client.send_request(command, flags, range.0 * 512, range.1 * 512, &bytes) {
            Ok(cookie) => Ok(Some((cookie, Flying::Write { index, slot }))),
            Err(ClientError::Io(_)) => Ok(None),
            Err(error) => Err(format!("an NBD request: {error}")),
        }
    }
}
