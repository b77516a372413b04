//! Replies of the transmission phase: headers only, payload is sent by the caller from its own
//! buffer right behind the header.
//!
//! [`Replies`] knows which of the three forms the session uses. Everything but a read is one
//! call; a read may come in pieces and is a [`ReadReply`].
//!
//! Invariants:
//! - With structured or extended replies every reply is chunks, and exactly the last chunk of a
//!   request is DONE.
//! - A simple reply to a read, or one with DF, begins when its first piece is there and then
//!   promises all of them, in order: from then on only closing the connection tells of an error.

use crate::constants::*;
use crate::errno::Errno;
use crate::fields::sentence;
use crate::request::ReplyTo;
use crate::session::SessionParameters;

/// The form of a session's replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Simple,
    Structured,
    Extended,
}

/// An extent of a block status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, not 0.
    pub length: u64,
    /// `NBD_STATE_HOLE`, `NBD_STATE_ZERO`, both or none.
    pub flags: u32,
}

/// A defect of the caller: this reply cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A block status without a single extent of at least one byte.
    #[error("a block status needs at least one extent")]
    NoExtent,
    /// A block status in a session without structured replies.
    #[error("a block status needs structured replies")]
    NotStructured,
    /// A piece that reaches outside the read, is empty, or that exceeds what is missing.
    #[error("a piece of {length} bytes at {offset} does not belong to what is missing of the read")]
    Stray {
        /// First byte of the piece.
        offset: u64,
        /// Bytes of the piece.
        length: u32,
    },
    /// A piece that came before its turn, where the pieces must be in order.
    #[error("a piece at {offset} came before the one at {expected}")]
    OutOfOrder {
        /// First byte of the piece.
        offset: u64,
        /// First byte of the piece whose turn it is.
        expected: u64,
    },
}

/// Encodes the replies of one session; small and `Copy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replies {
    form: Form,
}

impl Replies {
    /// The replies that this session agreed on.
    pub fn for_session(session: &SessionParameters) -> Replies {
        let form = match (session.extended, session.structured) {
            (true, _) => Form::Extended,
            (false, true) => Form::Structured,
            (false, false) => Form::Simple,
        };
        Replies { form }
    }

    /// Success, of any command but a read and a block status.
    pub fn ok(&self, out: &mut Vec<u8>, to: ReplyTo) {
        match self.form {
            Form::Simple => push_simple(out, 0, to),
            _ => self.chunk(out, to, true, NBD_REPLY_TYPE_NONE, 0),
        }
    }

    /// Failure of any command, a read included of which nothing was sent yet. The message is
    /// for people; a simple reply cannot carry it.
    pub fn error(&self, out: &mut Vec<u8>, to: ReplyTo, errno: Errno, message: &str) {
        match self.form {
            Form::Simple => push_simple(out, errno.code(), to),
            _ => self.error_chunk(out, to, errno, message, None),
        }
    }

    /// As [`error`](Self::error), and says at which offset it happened.
    pub fn error_at(
        &self,
        out: &mut Vec<u8>,
        to: ReplyTo,
        errno: Errno,
        offset: u64,
        message: &str,
    ) {
        match self.form {
            Form::Simple => push_simple(out, errno.code(), to),
            _ => self.error_chunk(out, to, errno, message, Some(offset)),
        }
    }

    /// The answer to a block status of `requested` bytes: the extents from its offset on.
    ///
    /// Neighbours of one kind are merged, what reaches beyond the request is cut off, and at
    /// most [`EXTENT_LIMIT`] extents (with `one`, a single one) are sent: the client asks again
    /// for the rest. Nothing is written on an error.
    pub fn block_status(
        &self,
        out: &mut Vec<u8>,
        to: ReplyTo,
        requested: u64,
        one: bool,
        extents: impl IntoIterator<Item = Extent>,
    ) -> Result<(), ReplyError> {
        let extents = merge(requested, if one { 1 } else { EXTENT_LIMIT }, extents);
        if extents.is_empty() {
            return Err(ReplyError::NoExtent);
        }
        // At most EXTENT_LIMIT, so the casts hold; a compact request and so each length is
        // below 2^32.
        let count = extents.len() as u32;
        match self.form {
            Form::Simple => return Err(ReplyError::NotStructured),
            Form::Structured => {
                self.chunk(out, to, true, NBD_REPLY_TYPE_BLOCK_STATUS, 4 + 8 * u64::from(count));
                out.extend_from_slice(&BASE_ALLOCATION_ID.to_be_bytes());
                for extent in extents {
                    let length = u32::try_from(extent.length).unwrap_or(u32::MAX);
                    out.extend_from_slice(&length.to_be_bytes());
                    out.extend_from_slice(&extent.flags.to_be_bytes());
                }
            }
            Form::Extended => {
                let length = 8 + 16 * u64::from(count);
                self.chunk(out, to, true, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, length);
                out.extend_from_slice(&BASE_ALLOCATION_ID.to_be_bytes());
                out.extend_from_slice(&count.to_be_bytes());
                for extent in extents {
                    out.extend_from_slice(&extent.length.to_be_bytes());
                    out.extend_from_slice(&u64::from(extent.flags).to_be_bytes());
                }
            }
        }
        Ok(())
    }

    /// Begins the answer to a read of `length` bytes; `whole` is its DF flag.
    pub fn read(&self, to: ReplyTo, length: u32, whole: bool) -> ReadReply {
        ReadReply {
            replies: *self,
            to,
            length,
            missing: length,
            in_order: whole || self.form == Form::Simple,
            ended: false,
        }
    }

    fn error_chunk(
        &self,
        out: &mut Vec<u8>,
        to: ReplyTo,
        errno: Errno,
        message: &str,
        offset: Option<u64>,
    ) {
        let message = sentence(message);
        let (kind, tail) = match offset {
            None => (NBD_REPLY_TYPE_ERROR, 0),
            Some(_) => (NBD_REPLY_TYPE_ERROR_OFFSET, 8),
        };
        self.chunk(out, to, true, kind, 6 + message.len() as u64 + tail);
        out.extend_from_slice(&errno.code().to_be_bytes());
        // A sentence has at most 4096 bytes.
        out.extend_from_slice(&(message.len() as u16).to_be_bytes());
        out.extend_from_slice(message.as_bytes());
        if let Some(offset) = offset {
            out.extend_from_slice(&offset.to_be_bytes());
        }
    }

    /// A chunk's header; `length` counts what follows it.
    fn chunk(&self, out: &mut Vec<u8>, to: ReplyTo, done: bool, kind: u16, length: u64) {
        let extended = self.form == Form::Extended;
        let magic = if extended { NBD_EXTENDED_REPLY_MAGIC } else { NBD_STRUCTURED_REPLY_MAGIC };
        let flags = if done { NBD_REPLY_FLAG_DONE } else { 0 };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&to.cookie.to_be_bytes());
        if extended {
            out.extend_from_slice(&to.offset.to_be_bytes());
            out.extend_from_slice(&length.to_be_bytes());
        } else {
            // At most 32 MiB and a few fields.
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

fn push_simple(out: &mut Vec<u8>, error: u32, to: ReplyTo) {
    out.extend_from_slice(&NBD_SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&error.to_be_bytes());
    out.extend_from_slice(&to.cookie.to_be_bytes());
}

fn merge(requested: u64, limit: usize, extents: impl IntoIterator<Item = Extent>) -> Vec<Extent> {
    let mut merged: Vec<Extent> = Vec::new();
    let mut missing = requested;
    for mut extent in extents {
        extent.length = extent.length.min(missing);
        if extent.length == 0 {
            continue;
        }
        let full = merged.len() == limit;
        match merged.last_mut() {
            Some(last) if last.flags == extent.flags => last.length += extent.length,
            _ if full => break,
            _ => merged.push(extent),
        }
        missing -= extent.length;
        if missing == 0 {
            break;
        }
    }
    merged
}

/// What the caller does after [`ReadReply::fail`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum ReadFailure {
    /// The error is in the buffer, and the reply is complete.
    Replied,
    /// The header has promised all of the data (a reply in order that has begun) and cannot be
    /// taken back: close the connection.
    Close,
}

/// The answer to one read, in as many pieces as the caller likes.
///
/// With structured or extended replies each piece is a chunk of its own, in any order. With
/// simple replies, and with DF, [`in_order`](Self::in_order) is true: the first piece brings the
/// header for all, the others bring none.
#[derive(Debug, Clone)]
pub struct ReadReply {
    replies: Replies,
    to: ReplyTo,
    length: u32,
    missing: u32,
    in_order: bool,
    ended: bool,
}

impl ReadReply {
    /// The pieces must come in order, from the first byte to the last.
    pub fn in_order(&self) -> bool {
        self.in_order
    }

    /// Bytes that are still missing.
    pub fn missing(&self) -> u32 {
        self.missing
    }

    /// The last chunk is written: the reply is complete once its payload is sent.
    pub fn is_done(&self) -> bool {
        self.ended
    }

    /// A read of no bytes is answered with this; else it does nothing.
    pub fn empty(&mut self, out: &mut Vec<u8>) {
        if self.length == 0 && !self.ended {
            self.replies.ok(out, self.to);
            self.ended = true;
        }
    }

    /// The header of a piece of data: write it, then send exactly `length` bytes of payload.
    /// It may be empty (a later piece of a reply in order).
    pub fn data(&mut self, out: &mut Vec<u8>, offset: u64, length: u32) -> Result<(), ReplyError> {
        self.claim(offset, length)?;
        let first = self.missing == self.length;
        self.missing -= length;
        self.ended = self.missing == 0;
        match (self.replies.form, self.in_order, first) {
            (Form::Simple, _, true) => push_simple(out, 0, self.to),
            (_, true, false) => {}
            (_, true, true) => self.data_chunk(out, offset, self.length, true),
            (_, false, _) => self.data_chunk(out, offset, length, self.ended),
        }
        Ok(())
    }

    /// A piece that reads as zeroes. Returns the zero bytes that must be sent behind what was
    /// written: 0 where the hole itself can be sent, `length` where it cannot (a reply in order).
    pub fn hole(&mut self, out: &mut Vec<u8>, offset: u64, length: u32) -> Result<u32, ReplyError> {
        self.claim(offset, length)?;
        let simple = self.replies.form == Form::Simple;
        // With DF one hole may still be the one chunk.
        if simple || self.in_order && length < self.length {
            self.data(out, offset, length)?;
            return Ok(length);
        }
        self.missing -= length;
        self.ended = self.missing == 0;
        self.replies.chunk(out, self.to, self.ended, NBD_REPLY_TYPE_OFFSET_HOLE, 12);
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        Ok(0)
    }

    /// The read failed at `offset`. Ends the reply with the error, if that is still possible.
    pub fn fail(
        &mut self,
        out: &mut Vec<u8>,
        errno: Errno,
        offset: u64,
        message: &str,
    ) -> ReadFailure {
        let begun = self.missing < self.length;
        if self.ended || self.in_order && begun {
            return ReadFailure::Close;
        }
        self.replies.error_at(out, self.to, errno, offset, message);
        self.ended = true;
        ReadFailure::Replied
    }

    fn data_chunk(&self, out: &mut Vec<u8>, offset: u64, length: u32, done: bool) {
        let payload = 8 + u64::from(length);
        self.replies.chunk(out, self.to, done, NBD_REPLY_TYPE_OFFSET_DATA, payload);
        out.extend_from_slice(&offset.to_be_bytes());
    }

    /// The piece belongs to what is missing, and it is its turn.
    fn claim(&self, offset: u64, length: u32) -> Result<(), ReplyError> {
        let start = offset.checked_sub(self.to.offset);
        let end = start.and_then(|start| start.checked_add(u64::from(length)));
        let inside = end.is_some_and(|end| end <= u64::from(self.length));
        if !inside || length == 0 || length > self.missing || self.ended {
            return Err(ReplyError::Stray { offset, length });
        }
        let expected = self.to.offset + u64::from(self.length - self.missing);
        if self.in_order && offset != expected {
            return Err(ReplyError::OutOfOrder { offset, expected });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
