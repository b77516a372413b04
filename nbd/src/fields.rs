//! Reading big-endian fields from a slice, each step checked.

use crate::constants::STRING_LIMIT;

/// The unread rest of a message. Every method takes from its front, or yields `None` and the
/// message is malformed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string with its 32-bit length in front.
    pub(crate) fn string(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.u32()?).ok()?;
        text(self.bytes(length)?)
    }
}

/// Bytes as a string of the protocol: UTF-8, no NUL, 4096 bytes at most. proto.md, "Conventions".
pub(crate) fn text(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > STRING_LIMIT || bytes.contains(&0) {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

/// A sentence made fit for the wire: cut at 4096 bytes on a character, and at the first NUL.
pub(crate) fn sentence(message: &str) -> &str {
    let message = message.split('\0').next().unwrap_or_default();
    let mut end = message.len().min(STRING_LIMIT);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.get(..end).unwrap_or_default()
}
