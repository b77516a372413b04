//! The client's side of the transmission phase.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::{Address, ClientError, Description, Handshake, Mode, Socket};
use crate::constants::*;
use crate::fields::Fields;
use crate::reply::Extent;
use crate::request::Command;

/// The whole reply to one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The request's cookie.
    pub cookie: u64,
    /// 0, or the number of the error on the wire.
    pub code: u32,
    /// The server's sentence; empty with simple replies.
    pub message: String,
    /// Where it failed, if the server said so.
    pub error_offset: Option<u64>,
    /// The data of a read, holes filled with zeroes.
    pub data: Vec<u8>,
    /// Offset and length of the holes of a read, as sent.
    pub holes: Vec<(u64, u32)>,
    /// The extents of a block status, as sent.
    pub extents: Vec<Extent>,
    /// Chunks of the reply; 0 for a simple reply.
    pub chunks: u32,
}

impl Reply {
    /// The reply, or its error.
    pub fn ok(self) -> Result<Reply, ClientError> {
        match self.code {
            0 => Ok(self),
            code => Err(ClientError::Failed { code, message: self.message }),
        }
    }
}

/// For socket options.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A request without its reply.
#[derive(Debug)]
struct Pending {
    command: Command,
    offset: u64,
    length: u64,
    /// Bytes of a read that arrived.
    covered: u64,
    reply: Reply,
}

/// A connection in the transmission phase.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    mode: Mode,
    base_allocation: Option<u32>,
    description: Description,
    next_cookie: u64,
    pending: HashMap<u64, Pending>,
}

impl Client {
    pub(super) fn new(
        socket: Socket,
        mode: Mode,
        base_allocation: Option<u32>,
        description: Description,
    ) -> Client {
        let pending = HashMap::new();
        Client { socket, mode, base_allocation, description, next_cookie: 1, pending }
    }

    /// Connects and enters transmission with GO. Beyond [`Mode::Simple`] it also selects
    /// `base:allocation`, and it always asks for the block sizes.
    pub fn open(
        address: &Address,
        export: &str,
        mode: Mode,
        timeout: Duration,
    ) -> Result<Client, ClientError> {
        let mut handshake = Handshake::connect(address, timeout)?;
        match mode {
            Mode::Simple => {}
            Mode::Structured => handshake.structured_replies()?,
            Mode::Extended => handshake.extended_headers()?,
        }
        if mode != Mode::Simple {
            handshake.set_meta_context(export, &[BASE_ALLOCATION])?;
        }
        handshake.go(export, &[NBD_INFO_BLOCK_SIZE])
    }

    /// What the server said of the export.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Bytes of the export.
    pub fn size(&self) -> u64 {
        self.description.size
    }

    /// Transmission flags, `NBD_FLAG_*`.
    pub fn flags(&self) -> u16 {
        self.description.flags
    }

    /// Requests without a complete reply.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Another time-out for each later read and write.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<(), ClientError> {
        Ok(self.socket.set_timeout(timeout)?)
    }

    /// Gives the connection away to whoever speaks on it from now on, such as the kernel's driver,
    /// which knows only simple replies. No byte of it has been read ahead, and the time-outs are
    /// taken off: the driver would take one for a dead link.
    ///
    /// # Errors
    /// Other replies were negotiated, or some are still to come.
    pub fn into_descriptor(self) -> Result<OwnedFd, ClientError> {
        if self.mode != Mode::Simple || !self.pending.is_empty() {
            return Err(ClientError::Protocol("the connection is not as it was after GO"));
        }
        Ok(self.socket.into_descriptor()?)
    }

    /// Sends bytes as they are: for tests of a server's patience.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        Ok(self.socket.write_all(bytes)?)
    }

    /// Reads so many bytes as they are.
    pub fn read_raw(&mut self, length: usize) -> Result<Vec<u8>, ClientError> {
        self.socket.payload(length as u64)
    }

    /// Reads what has come as it is, at least a byte.
    pub fn receive(&mut self, into: &mut [u8]) -> Result<usize, ClientError> {
        match self.socket.read(into)? {
            0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            received => Ok(received),
        }
    }

    /// Whether the server has closed the connection; waits for a byte or the end.
    pub fn at_end(&mut self) -> Result<bool, ClientError> {
        Ok(self.socket.read(&mut [0; 1])? == 0)
    }

    /// Sends a request, with its payload if it is a write, and returns its cookie. With extended
    /// headers PAYLOAD_LEN is added to a write.
    pub fn send_request(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> Result<u64, ClientError> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let extended = self.mode == Mode::Extended;
        let mut message = Vec::with_capacity(EXTENDED_REQUEST_LENGTH + payload.len());
        let (magic, added) = match (extended, command) {
            (true, Command::Write) => (NBD_EXTENDED_REQUEST_MAGIC, NBD_CMD_FLAG_PAYLOAD_LEN),
            (true, _) => (NBD_EXTENDED_REQUEST_MAGIC, 0),
            (false, _) => (NBD_REQUEST_MAGIC, 0),
        };
        message.extend_from_slice(&magic.to_be_bytes());
        message.extend_from_slice(&(flags | added).to_be_bytes());
        message.extend_from_slice(&command.code().to_be_bytes());
        message.extend_from_slice(&cookie.to_be_bytes());
        message.extend_from_slice(&offset.to_be_bytes());
        if extended {
            message.extend_from_slice(&length.to_be_bytes());
        } else {
            let length = u32::try_from(length).map_err(|_| {
                ClientError::Protocol("a length above 4 GiB without extended headers")
            })?;
            message.extend_from_slice(&length.to_be_bytes());
        }
        message.extend_from_slice(payload);
        if command != Command::Disconnect {
            let reply = Reply { cookie, ..Reply::default() };
            let pending = Pending { command, offset, length, covered: 0, reply };
            self.pending.insert(cookie, pending);
        }
        self.socket.write_all(&message)?;
        Ok(cookie)
    }

    /// Reads until some request is answered completely, and returns that reply.
    pub fn read_reply(&mut self) -> Result<Reply, ClientError> {
        loop {
            let magic = u32::from_be_bytes(self.socket.array()?);
            let done = match (self.mode, magic) {
                (Mode::Extended, NBD_EXTENDED_REPLY_MAGIC) => self.read_chunk()?,
                (Mode::Structured, NBD_STRUCTURED_REPLY_MAGIC) => self.read_chunk()?,
                (Mode::Simple | Mode::Structured, NBD_SIMPLE_REPLY_MAGIC) => self.read_simple()?,
                _ => return Err(ClientError::Protocol("a reply without its magic")),
            };
            if let Some(cookie) = done {
                return self.finish(cookie);
            }
        }
    }

    /// Reads until this request is answered. Replies to others on the way are an error: use
    /// [`read_reply`](Self::read_reply) when several are in flight.
    pub fn wait(&mut self, cookie: u64) -> Result<Reply, ClientError> {
        let reply = self.read_reply()?;
        if reply.cookie != cookie {
            return Err(ClientError::Protocol("a reply to another request"));
        }
        Ok(reply)
    }

    fn finish(&mut self, cookie: u64) -> Result<Reply, ClientError> {
        let pending =
            self.pending.remove(&cookie).ok_or(ClientError::Protocol("an unknown cookie"))?;
        let whole = pending.covered == pending.length || pending.reply.code != 0;
        if pending.command == Command::Read && !whole {
            return Err(ClientError::Protocol("a read that does not cover its range"));
        }
        if pending.command == Command::BlockStatus
            && pending.reply.code == 0
            && pending.reply.extents.is_empty()
        {
            return Err(ClientError::Protocol("a block status without extents"));
        }
        Ok(pending.reply)
    }

    fn read_simple(&mut self) -> Result<Option<u64>, ClientError> {
        let code = u32::from_be_bytes(self.socket.array()?);
        let cookie = u64::from_be_bytes(self.socket.array()?);
        let structured = self.mode != Mode::Simple;
        let pending =
            self.pending.get_mut(&cookie).ok_or(ClientError::Protocol("an unknown cookie"))?;
        pending.reply.code = code;
        if pending.command == Command::Read {
            if structured {
                return Err(ClientError::Protocol("a simple reply to a structured read"));
            }
            if code == 0 {
                pending.reply.data = self.socket.payload(pending.length)?;
                pending.covered = pending.length;
            }
        }
        Ok(Some(cookie))
    }

    fn read_chunk(&mut self) -> Result<Option<u64>, ClientError> {
        let flags = u16::from_be_bytes(self.socket.array()?);
        let kind = u16::from_be_bytes(self.socket.array()?);
        let cookie = u64::from_be_bytes(self.socket.array()?);
        let extended = self.mode == Mode::Extended;
        let offset = if extended { Some(u64::from_be_bytes(self.socket.array()?)) } else { None };
        let length = if extended {
            u64::from_be_bytes(self.socket.array()?)
        } else {
            u64::from(u32::from_be_bytes(self.socket.array()?))
        };
        let payload = self.socket.payload(length)?;
        let pending =
            self.pending.get_mut(&cookie).ok_or(ClientError::Protocol("an unknown cookie"))?;
        if offset.is_some_and(|offset| offset != pending.offset) {
            return Err(ClientError::Protocol("an extended reply with another offset"));
        }
        pending.reply.chunks += 1;
        pending
            .take_chunk(kind, &payload, self.base_allocation)
            .ok_or(ClientError::Protocol("a chunk that does not answer its request"))?;
        Ok((flags & NBD_REPLY_FLAG_DONE != 0).then_some(cookie))
    }

    /// Reads a range.
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, ClientError> {
        let reply = self.call(Command::Read, 0, offset, u64::from(length), &[])?;
        Ok(reply.data)
    }

    /// Writes; `flags` may hold `NBD_CMD_FLAG_FUA`.
    pub fn write(&mut self, offset: u64, data: &[u8], flags: u16) -> Result<(), ClientError> {
        self.call(Command::Write, flags, offset, data.len() as u64, data).map(drop)
    }

    /// Makes every answered write durable.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.call(Command::Flush, 0, 0, 0, &[]).map(drop)
    }

    /// Gives up a range; `flags` may hold `NBD_CMD_FLAG_FUA`.
    pub fn trim(&mut self, offset: u64, length: u64, flags: u16) -> Result<(), ClientError> {
        self.call(Command::Trim, flags, offset, length, &[]).map(drop)
    }

    /// Announces that a range will be read.
    pub fn cache(&mut self, offset: u64, length: u64) -> Result<(), ClientError> {
        self.call(Command::Cache, 0, offset, length, &[]).map(drop)
    }

    /// Writes zeroes; `flags` may hold FUA, NO_HOLE and FAST_ZERO.
    pub fn write_zeroes(
        &mut self,
        offset: u64,
        length: u64,
        flags: u16,
    ) -> Result<(), ClientError> {
        self.call(Command::WriteZeroes, flags, offset, length, &[]).map(drop)
    }

    /// The extents of `base:allocation`; `flags` may hold REQ_ONE.
    pub fn block_status(
        &mut self,
        offset: u64,
        length: u64,
        flags: u16,
    ) -> Result<Vec<Extent>, ClientError> {
        let reply = self.call(Command::BlockStatus, flags, offset, length, &[])?;
        Ok(reply.extents)
    }

    /// Says goodbye, and waits until the server has closed. Replies still in flight must have
    /// been read.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        self.send_request(Command::Disconnect, 0, 0, 0, &[])?;
        if self.at_end()? {
            return Ok(());
        }
        Err(ClientError::Protocol("bytes after the disconnect"))
    }

    /// Sends one request and waits for its reply.
    pub fn call(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> Result<Reply, ClientError> {
        let cookie = self.send_request(command, flags, offset, length, payload)?;
        self.wait(cookie)?.ok()
    }
}

impl Pending {
    fn take_chunk(&mut self, kind: u16, payload: &[u8], context: Option<u32>) -> Option<()> {
        let mut fields = Fields::new(payload);
        match kind {
            NBD_REPLY_TYPE_NONE => {}
            NBD_REPLY_TYPE_OFFSET_DATA => {
                let offset = fields.u64()?;
                let data = fields.bytes(fields.rest().len())?;
                self.place(offset, data.len())?.copy_from_slice(data);
            }
            NBD_REPLY_TYPE_OFFSET_HOLE => {
                let (offset, length) = (fields.u64()?, fields.u32()?);
                self.place(offset, length as usize)?.fill(0);
                self.reply.holes.push((offset, length));
            }
            NBD_REPLY_TYPE_BLOCK_STATUS if self.command == Command::BlockStatus => {
                (Some(fields.u32()?) == context).then_some(())?;
                while !fields.is_empty() {
                    let length = u64::from(fields.u32()?);
                    self.reply.extents.push(Extent { length, flags: fields.u32()? });
                }
            }
            NBD_REPLY_TYPE_BLOCK_STATUS_EXT if self.command == Command::BlockStatus => {
                (Some(fields.u32()?) == context).then_some(())?;
                for _ in 0..fields.u32()? {
                    let (length, flags) = (fields.u64()?, u32::try_from(fields.u64()?).ok()?);
                    self.reply.extents.push(Extent { length, flags });
                }
            }
            kind if kind & NBD_REPLY_TYPE_ERROR_BIT != 0 => {
                self.reply.code = fields.u32().filter(|code| *code != 0)?;
                let length = usize::from(fields.u16()?);
                let message = fields.bytes(length)?;
                self.reply.message = String::from_utf8_lossy(message).into_owned();
                if kind == NBD_REPLY_TYPE_ERROR_OFFSET {
                    self.reply.error_offset = Some(fields.u64()?);
                }
                if !matches!(kind, NBD_REPLY_TYPE_ERROR | NBD_REPLY_TYPE_ERROR_OFFSET) {
                    return Some(());
                }
            }
            _ => return None,
        }
        fields.is_empty().then_some(())
    }

    /// The place of a piece in the data of a read.
    fn place(&mut self, offset: u64, length: usize) -> Option<&mut [u8]> {
        if self.command != Command::Read {
            return None;
        }
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        // Our own request's length, not one that the server announced.
        self.reply.data.resize(usize::try_from(self.length).ok()?, 0);
        self.covered += length as u64;
        self.reply.data.get_mut(start..start.checked_add(length)?)
    }
}
