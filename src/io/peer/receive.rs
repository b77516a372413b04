//! The receiving half of a peer's socket: a byte stream into packets.

use super::gate::Stopped;
use super::*;
use crate::io::buffer::part_of;
use crate::wire::{HEADER_SIZE, Header, decode, decode_header};

/// The rest of a payload of at least so many bytes is received straight into its buffer.
const DIRECT_MIN: usize = 64 << 10;
/// After a large payload the next receive asks for a header and little more, so that the next
/// large payload does not have to be copied out of the staging.
const PEEK: usize = 4096;

/// What the next byte of the stream belongs to.
#[derive(Debug)]
pub(super) enum Reading {
    /// A packet's header.
    Header,
    /// The body of a packet.
    Body { header: Header, bytes: Vec<u8> },
    /// The payload of a packet.
    Payload { packet: Packet, payload: Payload, filled: usize },
    /// The peer has ended the stream.
    Ended,
}

impl Peers {
    /// A receive has ended.
    pub(crate) fn received(&mut self, io: &mut Context, id: SocketId, memory: Memory, result: i32) {
        io.reclaim(memory);
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let Some(direct) = socket.receiving.take() else { return };
        if matches!(socket.state, State::Lingering { .. }) {
            // What still comes is thrown away; it is read only so that the end is clean.
            if result <= 0 {
                socket.reading = Reading::Ended;
            }
            return;
        }
        if result <= 0 {
            let error = if result == 0 { SocketError::Closed } else { socket_error(-result) };
            return self.lose(io, id, error);
        }
        match &mut socket.reading {
            Reading::Payload { filled, .. } if direct => *filled += result as usize,
            _ => socket.end += result as usize,
        }
        match socket.advance(io) {
            Ok(_) if socket.inquiry.is_some() => {
                if std::mem::take(&mut socket.told) {
                    self.describe(id);
                } else {
                    self.begin_inquiry(io, id);
                }
            }
            Ok(0) => io.events.push_back(Event::Received { socket: id }),
            Ok(_) => {}
            Err(stopped) => self.stop(io, id, stopped),
        }
    }
}

impl Socket {
    fn staged(&self) -> usize {
        self.end - self.start
    }

    /// Takes from the staged bytes whatever is whole; returns how many packets that were.
    fn advance(&mut self, io: &mut Context) -> Result<usize, Stopped> {
        let mut packets = 0;
        loop {
            let goes_on = match &mut self.reading {
                Reading::Header => self.header(io)?,
                Reading::Body { .. } => self.body(io)?,
                Reading::Payload { .. } => self.payload(io)?,
                Reading::Ended => Step::Wait,
            };
            match goes_on {
                Step::Wait => return Ok(packets),
                Step::More => {}
                Step::Packet(packet, payload) => {
                    packets += 1;
                    self.known |=
                        matches!(self.gate, Gate::Open) && !matches!(packet, Packet::Features(_));
                    match payload {
                        None => self.pass_gate(io, packet)?,
                        Some(_) => {
                            let socket = self.id;
                            io.events.push_back(Event::Packet { socket, packet, payload });
                        }
                    }
                }
            }
        }
    }

    fn take<'a>(&mut self, io: &'a Context, length: usize) -> Result<&'a [u8], Stopped> {
        let staging = self.staging.ok_or("no staging")?;
        let bytes = io.pool.bytes(part_of(staging, self.start, length));
        self.start += length;
        Ok(bytes.map_err(|error| error.to_string())?)
    }

    fn header(&mut self, io: &mut Context) -> Result<Step, Stopped> {
        if self.staged() < HEADER_SIZE {
            return Ok(Step::Wait);
        }
        let bytes = self.take(io, HEADER_SIZE)?;
        let bytes = bytes.try_into().map_err(|_| "a header of another size")?;
        let header = decode_header(bytes).map_err(|error| error.to_string())?;
        if !self.gate.admits(header.kind()) {
            return Err("a packet before it has proved the shared-secret".into());
        }
        self.peek = false;
        let length = header.payload_length();
        if header.body_length() > 0 {
            let bytes = Vec::with_capacity(header.body_length() as usize);
            self.reading = Reading::Body { header, bytes };
            return Ok(Step::More);
        }
        let packet = decode(&header, &[]).map_err(|error| error.to_string())?;
        if length == 0 {
            return Ok(Step::Packet(packet, None));
        }
        if self.inquiry.is_some() {
            return Err("a packet that an inquiry does not have".into());
        }
        // The window counts what the peer sends by itself; the answers to our own requests are
        // bounded by those, of which each client has one beyond all bounds. Twice, as a buffer is
        // larger than what it holds.
        let taken = io.pool.charged(Part::Peer) + u64::from(length);
        if taken > 2 * io.window + CLIENT_BYTES + io.reads_reserved {
            return Err(format!("{taken} bytes are under way, above the receive window").into());
        }
        let payload = io.pool.take(Part::Peer, length as usize);
        self.reading = Reading::Payload { packet, payload, filled: 0 };
        Ok(Step::More)
    }

    fn body(&mut self, io: &mut Context) -> Result<Step, Stopped> {
        let Reading::Body { header, bytes } = &self.reading else { return Ok(Step::Wait) };
        let (header, missing) = (*header, header.body_length() as usize - bytes.len());
        let count = missing.min(self.staged());
        let taken = self.take(io, count)?;
        let Reading::Body { bytes, .. } = &mut self.reading else { return Ok(Step::Wait) };
        bytes.extend_from_slice(taken);
        if count < missing {
            return Ok(Step::Wait);
        }
        let packet = decode(&header, bytes).map_err(|error| error.to_string())?;
        self.reading = Reading::Header;
        Ok(Step::Packet(packet, None))
    }

    fn payload(&mut self, io: &mut Context) -> Result<Step, Stopped> {
        let staged = self.staged();
        let Reading::Payload { payload, filled, .. } = &mut self.reading else {
            return Ok(Step::Wait);
        };
        let (payload, length) = (*payload, payload.length as usize);
        let count = staged.min(length - *filled);
        if count > 0 {
            let staging = self.staging.ok_or("no staging")?;
            let from = part_of(staging, self.start, count);
            let into = part_of(payload, *filled, count);
            io.pool.copy(from, into).map_err(|error| error.to_string())?;
            self.start += count;
            *filled += count;
        }
        if *filled < length {
            return Ok(Step::Wait);
        }
        match std::mem::replace(&mut self.reading, Reading::Header) {
            Reading::Payload { packet, payload, .. } => {
                self.peek = length >= DIRECT_MIN;
                Ok(Step::Packet(packet, Some(payload)))
            }
            _ => Ok(Step::Wait),
        }
    }

    /// Arms a receive, if none is.
    pub(super) fn arm(&mut self, io: &mut Context) {
        if self.receiving.is_some() || matches!(self.reading, Reading::Ended) {
            return;
        }
        let direct = match &self.reading {
            Reading::Payload { payload, filled, .. } => {
                let left = payload.length as usize - filled;
                (left >= DIRECT_MIN).then(|| part_of(*payload, *filled, left))
            }
            _ => None,
        };
        let target = match direct {
            Some(target) => target,
            None => self.staging_target(io),
        };
        match io.pool.lease(target, Direction::Sink) {
            Ok(lease) => {
                // Never for the whole payload: every part of it is a sign of life.
                io.ring.receive(&self.fd, lease, false, Purpose::PeerReceive(self.id));
                self.receiving = Some(direct.is_some());
            }
            Err(error) => {
                tracing::error!(target: "tandem", resource = %io.name, "defect: {error}");
            }
        }
    }

    fn staging_target(&mut self, io: &mut Context) -> Payload {
        let staging = match self.staging {
            Some(staging) => staging,
            None => *self.staging.insert(io.pool.take(Part::Shell, STAGING)),
        };
        let staged = self.staged();
        if matches!(self.state, State::Lingering { .. }) {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            let range = self.start..self.end;
            if let Ok(bytes) = io.pool.bytes_mut(part_of(staging, 0, STAGING)) {
                bytes.copy_within(range, 0);
            }
            (self.start, self.end) = (0, staged);
        }
        let room = STAGING - self.end;
        let room = if self.peek { room.min(PEEK) } else { room };
        part_of(staging, self.end, room)
    }

    /// Throws away a packet that has not arrived whole.
    pub(super) fn drop_partial(&mut self, io: &mut Context) {
        let ended = matches!(self.reading, Reading::Ended);
        let next = if ended { Reading::Ended } else { Reading::Header };
        if let Reading::Payload { payload, .. } = std::mem::replace(&mut self.reading, next) {
            io.release(payload);
        }
    }
}

/// What one step of the parser came to.
enum Step {
    Wait,
    More,
    Packet(Packet, Option<Payload>),
}
