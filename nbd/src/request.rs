//! Requests of the transmission phase: bytes into a [`Request`], and a request into what is
//! [`Checked`] or refused with the error that proto.md names.
//!
//! The caller reads [`header_length`] bytes, calls [`parse`], and whatever [`check`] then says it
//! must take [`Request::payload_length`] bytes of payload off the stream: into a buffer when the
//! request is good, into nothing when it is refused. A [`RequestError`] means that the stream
//! cannot be followed any more: close.

use std::fmt;

use crate::constants::*;
use crate::errno::Errno;
use crate::fields::Fields;
use crate::session::SessionParameters;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// `NBD_CMD_READ`.
    Read,
    /// `NBD_CMD_WRITE`.
    Write,
    /// `NBD_CMD_DISC`: finish what is in flight, send no reply, close.
    Disconnect,
    /// `NBD_CMD_FLUSH`.
    Flush,
    /// `NBD_CMD_TRIM`.
    Trim,
    /// `NBD_CMD_CACHE`.
    Cache,
    /// `NBD_CMD_WRITE_ZEROES`.
    WriteZeroes,
    /// `NBD_CMD_BLOCK_STATUS`.
    BlockStatus,
    /// A number that is not served; answered with EINVAL.
    Other(u16),
}

impl Command {
    /// The command of a number.
    pub fn from_code(code: u16) -> Command {
        match code {
            NBD_CMD_READ => Command::Read,
            NBD_CMD_WRITE => Command::Write,
            NBD_CMD_DISC => Command::Disconnect,
            NBD_CMD_FLUSH => Command::Flush,
            NBD_CMD_TRIM => Command::Trim,
            NBD_CMD_CACHE => Command::Cache,
            NBD_CMD_WRITE_ZEROES => Command::WriteZeroes,
            NBD_CMD_BLOCK_STATUS => Command::BlockStatus,
            other => Command::Other(other),
        }
    }

    /// The number on the wire.
    pub fn code(self) -> u16 {
        match self {
            Command::Read => NBD_CMD_READ,
            Command::Write => NBD_CMD_WRITE,
            Command::Disconnect => NBD_CMD_DISC,
            Command::Flush => NBD_CMD_FLUSH,
            Command::Trim => NBD_CMD_TRIM,
            Command::Cache => NBD_CMD_CACHE,
            Command::WriteZeroes => NBD_CMD_WRITE_ZEROES,
            Command::BlockStatus => NBD_CMD_BLOCK_STATUS,
            Command::Other(code) => code,
        }
    }
}

/// What ties a reply to its request. Keep it until the reply is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplyTo {
    /// The client's name for the request; opaque.
    pub cookie: u64,
    /// The request's offset: extended replies repeat it.
    pub offset: u64,
}

/// A request as it came; nothing about it is checked except that it can be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub command: Command,
    /// Command flags, `NBD_CMD_FLAG_*`.
    pub flags: u16,
    /// The client's name for the request.
    pub cookie: u64,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How far it reaches, in bytes.
    pub length: u64,
    /// Bytes that follow on the stream, at most [`DRAIN_LIMIT`], to be taken off it in any case.
    pub payload_length: u32,
}

impl Request {
    /// What the reply needs.
    pub fn reply_to(&self) -> ReplyTo {
        ReplyTo { cookie: self.cookie, offset: self.offset }
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Why the stream of requests cannot be followed any more. The connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Fewer bytes were given than the header has: a defect of the caller.
    #[error("a request header of {wanted} bytes was cut to {given}")]
    Incomplete {
        /// Bytes of a header.
        wanted: usize,
        /// Bytes that were given.
        given: usize,
    },
    /// The request does not begin with the magic of this session.
    #[error("a request began with {found:#010x} instead of {wanted:#010x}")]
    BadMagic {
        /// The magic of this session.
        wanted: u32,
        /// What stood there.
        found: u32,
    },
    /// The payload is too large even to be thrown away.
    #[error("a payload of {0} bytes is above the limit; send at most 32 MiB in a request")]
    PayloadTooLarge(u64),
}

/// Bytes of a request's header: 28, or 32 with extended headers.
pub fn header_length(session: &SessionParameters) -> usize {
    if session.extended { EXTENDED_REQUEST_LENGTH } else { REQUEST_LENGTH }
}

/// Reads a request from the front of `bytes`, which hold at least [`header_length`].
pub fn parse(bytes: &[u8], session: &SessionParameters) -> Result<Request, RequestError> {
    let wanted = header_length(session);
    let incomplete = RequestError::Incomplete { wanted, given: bytes.len() };
    let header = bytes.get(..wanted).ok_or(incomplete)?;
    fields(header, session.extended).ok_or(incomplete)?.try_into_request(session)
}

/// The fields of a header, in the order of the wire.
struct Header {
    magic: u32,
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    length: u64,
}

fn fields(header: &[u8], extended: bool) -> Option<Header> {
    let mut fields = Fields::new(header);
    Some(Header {
        magic: fields.u32()?,
        flags: fields.u16()?,
        command: fields.u16()?,
        cookie: fields.u64()?,
        offset: fields.u64()?,
        length: if extended { fields.u64()? } else { u64::from(fields.u32()?) },
    })
}

impl Header {
    fn try_into_request(self, session: &SessionParameters) -> Result<Request, RequestError> {
        let magic = if session.extended { NBD_EXTENDED_REQUEST_MAGIC } else { NBD_REQUEST_MAGIC };
        if self.magic != magic {
            return Err(RequestError::BadMagic { wanted: magic, found: self.magic });
        }
        let command = Command::from_code(self.command);
        // A write has its payload also where the client forgot PAYLOAD_LEN, as every known
        // client and server has it; any other command only with that flag.
        let has_payload = command == Command::Write
            || session.extended && self.flags & NBD_CMD_FLAG_PAYLOAD_LEN != 0;
        let payload = if has_payload { self.length } else { 0 };
        let payload_length = u32::try_from(payload)
            .ok()
            .filter(|length| *length <= DRAIN_LIMIT)
            .ok_or(RequestError::PayloadTooLarge(payload))?;
        Ok(Request {
            command,
            flags: self.flags,
            cookie: self.cookie,
            offset: self.offset,
            length: self.length,
            payload_length,
        })
    }
}

/// A request that may be carried out: inside the export, within the limits, flags understood.
/// Offsets and lengths are bytes; a length may be 0 where the protocol leaves that open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Read a range.
    Read {
        /// First byte.
        offset: u64,
        /// At most the maximum block size.
        length: u32,
        /// The reply is one chunk (DF).
        whole: bool,
    },
    /// Write the payload.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes, equal to the payload.
        length: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// Finish what is in flight and close; no reply.
    Disconnect,
    /// Make every answered write durable.
    Flush,
    /// The range is not needed any more.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Durable before the reply.
        fua: bool,
    },
    /// The range will be read soon.
    Cache {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// The range shall read as zeroes.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Durable before the reply.
        fua: bool,
        /// The range must stay allocated (NO_HOLE).
        no_hole: bool,
        /// Answer ENOTSUP at once if it is not faster than writing (FAST_ZERO).
        fast: bool,
    },
    /// Describe the range by `base:allocation`.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Bytes, at least 1.
        length: u64,
        /// One extent, not beyond the range (REQ_ONE).
        one: bool,
    },
}

/// A refusal: what goes on the wire, and why, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The number that proto.md names.
    pub errno: Errno,
    /// A sentence for an error chunk or a log.
    pub why: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.errno, self.why)
    }
}

/// Checks a request against what was agreed; [`judge`] without the sentence.
pub fn check(request: &Request, session: &SessionParameters) -> Result<Checked, Errno> {
    judge(request, session).map_err(|refusal| refusal.errno)
}

/// Checks a request against what was agreed.
///
/// In this order: the command and its flags (EINVAL), a payload where none belongs or too large
/// (EINVAL), a change of a read-only export (EPERM), the end of the export (ENOSPC for what
/// would write data, EINVAL for the rest), too long a read (EOVERFLOW with DF, else EINVAL), and
/// alignment (EINVAL), the last only for a client that has asked for block sizes.
/// proto.md, "Request types" and "Error values".
pub fn judge(request: &Request, session: &SessionParameters) -> Result<Checked, Refusal> {
    if request.command != Command::Disconnect {
        // That has no reply that could tell of an error. proto.md, "NBD_CMD_DISC".
        check_flags(request, session)?;
        check_payload(request, session)?;
    }
    if !matches!(request.command, Command::Disconnect | Command::Flush) {
        check_range(request, session)?;
    }
    let Request { offset, length, .. } = *request;
    let fua = request.has(NBD_CMD_FLAG_FUA);
    match request.command {
        Command::Read => Ok(Checked::Read {
            offset,
            length: check_read_length(request, session)?,
            whole: request.has(NBD_CMD_FLAG_DF),
        }),
        Command::Write => Ok(Checked::Write { offset, length: request.payload_length, fua }),
        Command::Disconnect => Ok(Checked::Disconnect),
        Command::Flush if (offset, length) == (0, 0) => Ok(Checked::Flush),
        Command::Flush => Err(invalid("a flush has offset 0 and length 0")),
        Command::Trim => Ok(Checked::Trim { offset, length, fua }),
        Command::Cache => Ok(Checked::Cache { offset, length }),
        Command::WriteZeroes => Ok(Checked::WriteZeroes {
            offset,
            length,
            fua,
            no_hole: request.has(NBD_CMD_FLAG_NO_HOLE),
            fast: request.has(NBD_CMD_FLAG_FAST_ZERO),
        }),
        Command::BlockStatus if !session.base_allocation => {
            Err(invalid("no metadata context was selected for this export"))
        }
        Command::BlockStatus if length == 0 => Err(invalid("a block status of no bytes")),
        Command::BlockStatus => {
            Ok(Checked::BlockStatus { offset, length, one: request.has(NBD_CMD_FLAG_REQ_ONE) })
        }
        Command::Other(_) => Err(UNKNOWN_COMMAND),
    }
}

const UNKNOWN_COMMAND: Refusal = invalid("this server does not know the command");

const fn invalid(why: &'static str) -> Refusal {
    Refusal { errno: Errno::EINVAL, why }
}

/// The command is known, and each of its flags belongs to it. proto.md, "Command flags".
fn check_flags(request: &Request, session: &SessionParameters) -> Result<(), Refusal> {
    let own = match request.command {
        Command::Read if session.structured => NBD_CMD_FLAG_DF,
        Command::Write if session.extended => NBD_CMD_FLAG_PAYLOAD_LEN,
        Command::WriteZeroes => NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
        Command::BlockStatus => NBD_CMD_FLAG_REQ_ONE,
        Command::Other(_) => return Err(UNKNOWN_COMMAND),
        _ => 0,
    };
    // FUA goes with every command.
    if request.flags & !(own | NBD_CMD_FLAG_FUA) != 0 {
        return Err(invalid("a flag does not belong to this command in this session"));
    }
    Ok(())
}

fn check_payload(request: &Request, session: &SessionParameters) -> Result<(), Refusal> {
    if request.payload_length > session.block.maximum() {
        return Err(invalid("the payload is above the maximum block size"));
    }
    Ok(())
}

/// Read-only, end of the export, alignment.
fn check_range(request: &Request, session: &SessionParameters) -> Result<(), Refusal> {
    let Request { command, offset, length, .. } = *request;
    let changes = matches!(command, Command::Write | Command::Trim | Command::WriteZeroes);
    if changes && session.flags & NBD_FLAG_READ_ONLY != 0 {
        return Err(Refusal { errno: Errno::EPERM, why: "the export is read-only" });
    }
    if offset.checked_add(length).is_none_or(|end| end > session.size) {
        let writes = matches!(command, Command::Write | Command::WriteZeroes);
        let errno = if writes { Errno::ENOSPC } else { Errno::EINVAL };
        return Err(Refusal { errno, why: "the range reaches beyond the end of the export" });
    }
    let minimum = u64::from(session.block.minimum());
    let aligned = offset.is_multiple_of(minimum) && length.is_multiple_of(minimum);
    if session.client_asked_block_size && !aligned {
        return Err(invalid("the range is not a multiple of the minimum block size"));
    }
    Ok(())
}

fn check_read_length(request: &Request, session: &SessionParameters) -> Result<u32, Refusal> {
    let fits = u32::try_from(request.length).ok();
    fits.filter(|length| *length <= session.block.maximum()).ok_or({
        let errno = if request.has(NBD_CMD_FLAG_DF) { Errno::EOVERFLOW } else { Errno::EINVAL };
        Refusal { errno, why: "the read is above the maximum block size" }
    })
}

#[cfg(test)]
mod tests;
