//! What waits to be sent on one socket, gathered into messages for one sendmsg each.
//!
//! Invariants:
//! - At most one message of a socket is under way: two sends on a stream interleave.
//! - What was pushed goes out in order, except what was pushed with [`Outbox::push_first`], which
//!   goes before everything that is not under way yet, and with [`Outbox::push_behind`], which stays
//!   until [`Outbox::release_behind`].
//! - A message holds at most [`PAYLOAD_MAX`] bytes of payload, as many besides, and [`ITEMS_MAX`] items: what is
//!   pushed first does not wait for more than one message that is under way.

use std::collections::VecDeque;

use super::buffer::{Lease, Pool};
use super::ring::Message;

/// Payload of one sendmsg, bytes, unless a single item is larger.
const PAYLOAD_MAX: usize = 1 << 20;
/// Items of one sendmsg: at most twice as many vectors, below the kernel's 1,024.
const ITEMS_MAX: u32 = 256;
/// A message of at most so many bytes is first offered to the socket without waiting: it has room
/// for that unless the other side is slow.
const AT_ONCE_MAX: usize = 64 << 10;
/// Empty messages that are kept for the next use.
const SPARE_MAX: usize = 4;

#[derive(Debug)]
struct Gathering {
    message: Box<Message>,
    items: u32,
}

/// The queue of one socket.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    first: Option<Box<Message>>,
    begun: Option<Box<Message>>,
    queue: VecDeque<Gathering>,
    /// What must not go out yet.
    behind: VecDeque<Gathering>,
    #[allow(clippy::vec_box, reason = "the kernel has its address")]
    spare: Vec<Box<Message>>,
    under_way: bool,
    /// The socket did not take all that it was offered: the next send waits for room.
    full: bool,
    /// Bytes that were pushed and are not sent.
    bytes: usize,
    /// Bytes of payload in messages that are not gone.
    payload: usize,
}

/// How a send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// So many bytes went out; the notes of messages that are gone altogether.
    Some {
        /// The sum of the notes.
        note: u64,
    },
    /// The socket failed with this errno; EAGAIN: it had no room. The messages stay until
    /// [`Outbox::clear`].
    Failed(i32),
}

/// Adds an item to the last message, or to a new one. Returns its bytes.
#[allow(clippy::vec_box, reason = "the kernel has its address")]
fn gather(
    queue: &mut VecDeque<Gathering>,
    spare: &mut Vec<Box<Message>>,
    write: impl FnOnce(&mut Vec<u8>),
    payload: Option<Lease>,
    note: u64,
) -> usize {
    let length = payload.as_ref().map_or(0, Lease::length);
    let fits = queue.back().is_some_and(|last| {
        let payload = last.message.payload();
        last.items < ITEMS_MAX
            && (payload == 0 || payload + length <= PAYLOAD_MAX)
            && last.message.left() - payload < PAYLOAD_MAX
    });
    if !fits {
        let message = spare.pop().unwrap_or_default();
        queue.push_back(Gathering { message, items: 0 });
    }
    let Some(Gathering { message, items }) = queue.back_mut() else { return 0 };
    let before = message.left();
    *items += 1;
    message.push_bytes(write);
    message.note += note;
    if let Some(lease) = payload {
        message.push_payload(lease);
    }
    message.left() - before
}

impl Outbox {
    /// Appends an item: bytes that `write` pushes, then the payload. `note` comes back when the
    /// item is sent.
    pub(crate) fn push(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>),
        payload: Option<Lease>,
        note: u64,
    ) {
        self.payload += payload.as_ref().map_or(0, Lease::length);
        self.bytes += gather(&mut self.queue, &mut self.spare, write, payload, note);
    }

    /// As [`Outbox::push`], behind something that is still to be pushed.
    pub(crate) fn push_behind(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>),
        payload: Option<Lease>,
        note: u64,
    ) {
        self.payload += payload.as_ref().map_or(0, Lease::length);
        self.bytes += gather(&mut self.behind, &mut self.spare, write, payload, note);
    }

    /// What was pushed behind goes out now, in order.
    pub(crate) fn release_behind(&mut self) {
        self.queue.append(&mut self.behind);
    }

    /// Puts bytes before everything that is not under way.
    pub(crate) fn push_first(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let message = self.first.get_or_insert_with(|| self.spare.pop().unwrap_or_default());
        let before = message.left();
        message.push_bytes(write);
        self.bytes += message.left() - before;
    }

    /// Bytes that wait, those under way included: whoever pushes must bound them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of payload among them, as far as their messages are not gone altogether.
    pub(crate) fn payload(&self) -> usize {
        self.payload
    }

    /// The message to send now, if none is under way. `quiet`: nobody waits for its end.
    pub(crate) fn next(&mut self, quiet: bool) -> Option<Box<Message>> {
        if self.under_way {
            return None;
        }
        let mut message = (self.begun.take())
            .or_else(|| self.first.take())
            .or_else(|| self.queue.pop_front().map(|gathering| gathering.message))?;
        let last = !self.is_pending();
        message.at_once = quiet && last && !self.full && message.left() <= AT_ONCE_MAX;
        self.under_way = true;
        Some(message)
    }

    /// The message that [`Outbox::next`] gave has come back with this result.
    pub(crate) fn returned(
        &mut self,
        mut message: Box<Message>,
        result: i32,
        pool: &mut Pool,
    ) -> Sent {
        self.under_way = false;
        self.full = message.left() > usize::try_from(result).unwrap_or(0);
        if result <= 0 {
            self.begun = Some(message);
            return Sent::Failed(if result == 0 { libc::EPIPE } else { -result });
        }
        self.bytes -= message.left().min(result as usize);
        message.advance(result as usize);
        if message.left() > 0 {
            self.begun = Some(message);
            return Sent::Some { note: 0 };
        }
        Sent::Some { note: self.recycle(message, pool) }
    }

    /// Nothing is queued and nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        !self.under_way && !self.is_pending() && self.behind.is_empty()
    }

    /// Nothing is under way, and what is queued waits for what is still to be pushed before it.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.under_way && !self.is_pending()
    }

    fn is_pending(&self) -> bool {
        self.first.is_some() || self.begun.is_some() || !self.queue.is_empty()
    }

    /// Throws away what is queued; returns the sum of the notes.
    pub(crate) fn clear(&mut self, pool: &mut Pool) -> u64 {
        let messages: Vec<_> = (self.first.take().into_iter())
            .chain(self.begun.take())
            .chain(self.queue.drain(..).map(|gathering| gathering.message))
            .chain(self.behind.drain(..).map(|gathering| gathering.message))
            .collect();
        self.bytes -= messages.iter().map(|message| message.left()).sum::<usize>();
        messages.into_iter().map(|message| self.recycle(message, pool)).sum()
    }

    fn recycle(&mut self, mut message: Box<Message>, pool: &mut Pool) -> u64 {
        let note = message.note;
        self.payload -= message.payload();
        for lease in message.recycle() {
            pool.end(lease);
        }
        if self.spare.len() < SPARE_MAX {
            self.spare.push(message);
        }
        note
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buffer::{BUFFER_MAX, Direction, Part};

    fn lease(pool: &mut Pool, length: usize) -> Lease {
        let payload = pool.take(Part::Peer, length);
        let lease = pool.lease(payload, Direction::Source).unwrap();
        pool.release(payload).unwrap();
        lease
    }

    fn text(text: &'static [u8]) -> impl FnOnce(&mut Vec<u8>) {
        move |out| out.extend_from_slice(text)
    }

    #[test]
    fn small_items_share_a_message_and_payload_is_bounded() {
        let mut pool = Pool::default();
        let mut outbox = Outbox::default();
        for _ in 0..300 {
            outbox.push(text(b"ack"), None, 1);
        }
        assert_eq!(outbox.queue.len(), 2);
        for _ in 0..2 {
            let lease = lease(&mut pool, BUFFER_MAX);
            outbox.push(text(b"data"), Some(lease), 0);
        }
        let lengths: Vec<_> = outbox.queue.iter().map(|g| g.message.left()).collect();
        assert_eq!(lengths, [768, 132 + 4 + BUFFER_MAX, 4 + BUFFER_MAX]);
        assert_eq!(outbox.clear(&mut pool), 300);
        assert!(outbox.is_empty());
        assert_eq!((outbox.bytes(), outbox.payload()), (0, 0));
        assert_eq!(pool.live_buffers(), 0);
    }

    #[test]
    fn pings_go_before_what_waits_but_never_into_a_message_that_has_begun() {
        let mut pool = Pool::default();
        let mut outbox = Outbox::default();
        outbox.push(text(b"0123456789"), None, 7);
        let message = outbox.next(true).unwrap();
        outbox.push(text(b"later"), None, 0);
        outbox.push_first(text(b"ping"));
        assert!(outbox.next(true).is_none(), "one message at a time");
        assert_eq!(outbox.returned(message, 4, &mut pool), Sent::Some { note: 0 });
        assert_eq!(outbox.bytes(), 6 + 5 + 4);
        let rest = outbox.next(true).unwrap();
        assert_eq!(rest.left(), 6);
        assert_eq!(outbox.returned(rest, 6, &mut pool), Sent::Some { note: 7 });
        assert_eq!(outbox.next(true).unwrap().left(), 4);
        outbox.under_way = false;
        assert_eq!(outbox.next(true).unwrap().left(), 5);
    }

    /// A bitmap may be many megabytes of bodies.
    #[test]
    fn a_ping_waits_for_one_message_and_no_more_than_a_megabyte() {
        let mut outbox = Outbox::default();
        for _ in 0..200 {
            outbox.push(|out| out.resize(out.len() + (64 << 10), 0), None, 0);
        }
        let lengths = outbox.queue.iter().map(|gathering| gathering.message.left());
        assert!(lengths.clone().all(|length| length <= PAYLOAD_MAX), "{:?}", lengths.max());
    }

    #[test]
    fn what_is_behind_waits_and_then_goes_in_order() {
        let mut pool = Pool::default();
        let mut outbox = Outbox::default();
        outbox.push(text(b"ab"), None, 1);
        outbox.push_behind(text(b"later"), Some(lease(&mut pool, 4096)), 2);
        outbox.push(text(b"c"), None, 4);
        assert_eq!((outbox.bytes(), outbox.payload()), (8 + 4096, 4096));
        let message = outbox.next(false).unwrap();
        assert_eq!(message.left(), 3);
        assert_eq!(outbox.returned(message, 3, &mut pool), Sent::Some { note: 5 });
        assert!(outbox.next(false).is_none() && !outbox.is_empty());
        outbox.release_behind();
        let message = outbox.next(false).unwrap();
        assert_eq!(message.left(), 5 + 4096);
        outbox.returned(message, 5, &mut pool);
        outbox.push_behind(text(b"never"), None, 0);
        assert_eq!(outbox.clear(&mut pool), 2);
        assert!(outbox.is_empty());
        assert_eq!((outbox.bytes(), outbox.payload()), (0, 0));
    }

    #[test]
    fn a_failed_send_keeps_its_leases_until_cleared() {
        let mut pool = Pool::default();
        let mut outbox = Outbox::default();
        let lease = lease(&mut pool, 4096);
        outbox.push(text(b"x"), Some(lease), 5);
        let message = outbox.next(true).unwrap();
        let result = outbox.returned(message, -libc::EPIPE, &mut pool);
        assert_eq!(result, Sent::Failed(libc::EPIPE));
        assert_eq!(pool.live_buffers(), 1);
        assert_eq!(outbox.clear(&mut pool), 5);
        assert_eq!(pool.live_buffers(), 0);
    }
}
