//! What comes out of the state machine. Actions of one drain start in queue order and complete in
//! any order; only two sends on one socket keep their order.

use serde::{Deserialize, Serialize};

use super::command::{AdminResult, LogLevel};
use super::event::DiskError;
use super::handler::HandlerCall;
use super::ids::{NodeId, Payload, RequestId, SocketId, Tag, VolumeNumber};
use super::options::VerifyAlg;
use crate::meta::{MetaOp, Superblock};
use crate::wire::Packet;

/// Something for the shell to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// Read into a buffer that the shell takes from its pool; `offset` and `length` are multiples
    /// of 4096, `length` at most `PAYLOAD_MAX`. Completion: `DiskDone` with the payload; without
    /// one if zeroes were to be found, and it is nothing but zeroes.
    DiskRead {
        /// Of the completion.
        tag: Tag,
        /// Which disk.
        volume: VolumeNumber,
        /// Bytes.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Look whether it is nothing but zeroes.
        find_zeroes: bool,
    },
    /// Write the payload (its buffer offset, its length and `offset` are multiples of 4096).
    DiskWrite {
        /// Of the completion.
        tag: Tag,
        /// Which disk.
        volume: VolumeNumber,
        /// Bytes.
        offset: u64,
        /// The data.
        payload: Payload,
        /// Durable before completion.
        fua: bool,
    },
    /// Make the range read as zeroes; multiples of 4096.
    DiskZeroes {
        /// Of the completion.
        tag: Tag,
        /// Which disk.
        volume: VolumeNumber,
        /// Bytes.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Keep the blocks allocated. Otherwise a hole is punched, unless the disk was created with
        /// `--preallocate`.
        no_hole: bool,
        /// Where no hole is punched, zeroes are written. Otherwise blocks may be marked as zero:
        /// faster, but what is written later is flushed more slowly there.
        written: bool,
        /// Durable before completion.
        fua: bool,
    },
    /// Look how much of the range is a hole, from its start; multiples of 4096. Nothing is read.
    /// Completion: `HoleFound`.
    FindHole {
        /// Of the completion.
        tag: Tag,
        /// Which disk.
        volume: VolumeNumber,
        /// Bytes.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Everything that completed on this disk before is durable at completion. Never retried.
    DiskFlush {
        /// Of the completion.
        tag: Tag,
        /// Which disk.
        volume: VolumeNumber,
    },
    /// A durable update of the metadata. Completion: `MetaDone`. Two of them on the same blocks are
    /// never under way at once.
    Meta {
        /// Of the completion.
        tag: Tag,
        /// Which disk.
        volume: VolumeNumber,
        /// What to write.
        op: MetaOp,
    },
    /// Take the room that the disk has gained: move its metadata, or lay it out anew
    /// (docs/ON_DISK.md), at the exported size as it is. No metadata action is under way, and none
    /// follows before `DiskGrown`; data actions go on.
    GrowDisk {
        /// Of the completion.
        tag: Tag,
        /// Which disk.
        volume: VolumeNumber,
    },
    /// Nothing is under way on this disk for the core any more: close it and release its locks.
    CloseDisk {
        /// Which disk.
        volume: VolumeNumber,
        /// A clean end: fill in `clean_size` and `clean_digest` from the data area, write this
        /// superblock, then close. `None`: close at once (the disk failed).
        superblock: Option<Box<Superblock>>,
    },
    /// One attempt to connect to the peer, for `timeout_ms` at most. Outcome: `Connected` or
    /// `SocketLost`. `CloseSocket` cancels it.
    Connect {
        /// To whom (its configured address).
        peer: NodeId,
        /// The number for the connection.
        socket: SocketId,
        /// The limit of this attempt, ms.
        timeout_ms: u64,
    },
    /// Send a packet, with its payload if the packet has one.
    Send {
        /// Where.
        socket: SocketId,
        /// What.
        packet: Packet,
        /// The payload; the shell counts this use until the kernel is done with it.
        payload: Option<Payload>,
    },
    /// The peer's Features fit: challenge it, if there is a shared secret. Event: `Authenticated`,
    /// or `SocketLost` with `SocketError::Secret`. No other packet of the socket is an event before.
    Authenticate {
        /// Where.
        socket: SocketId,
        /// This node.
        own: NodeId,
        /// Whom it must be.
        peer: NodeId,
    },
    /// Close the socket; no event of it follows. `linger`: what is queued is sent first, within
    /// ping-timeout.
    CloseSocket {
        /// Which.
        socket: SocketId,
        /// Send what is queued first.
        linger: bool,
    },
    /// Copy, at once: the bytes of `into`'s buffer in front of `into.offset` (`head`) or behind
    /// `into.offset + into.length` (not `head`), up to the 4096 boundary, from the block in `from`
    /// (4096 bytes of the disk). This completes an unaligned write to whole blocks.
    Merge {
        /// The client's data, in its 4096-aligned buffer.
        into: Payload,
        /// The block of the disk that the edge lies in, 4096 bytes.
        from: Payload,
        /// Which edge.
        head: bool,
    },
    /// The CRC-32 (IEEE) of the payload, at once. Event: `Digested`.
    Digest {
        /// Of the event.
        tag: Tag,
        /// Whole.
        payload: Payload,
    },
    /// The digest of each block of 4096 bytes of the payload, which may be released at once; in
    /// portions, beside other work. Event: `BlocksDigested`.
    BlockDigests {
        /// Of the event.
        tag: Tag,
        /// Whole.
        payload: Payload,
        /// Which digest.
        alg: VerifyAlg,
    },
    /// The core will never name this payload again. Exactly once for each payload that an event
    /// brought.
    Release(Payload),
    /// The answer to one piece of a client's request. A read's payload is released right after.
    Reply {
        /// Which piece.
        request: RequestId,
        /// The payload of a read, or the error for the client.
        result: Result<Option<Payload>, ReplyError>,
    },
    /// Close every client connection of the volume (demotion by force, failure, gap).
    CloseSessions {
        /// Of this volume.
        volume: VolumeNumber,
        /// What its clients were answered and have not flushed may be gone: a device that was attached
        /// before shall not go on.
        lost: bool,
    },
    /// The answer to an administrator's order.
    AdminReply {
        /// Of the order.
        id: u64,
        /// Done, or why not.
        result: AdminResult,
    },
    /// Run a handler. Event: `HandlerDone`, exactly once, whatever becomes of it.
    RunHandler {
        /// Of the event.
        number: u64,
        /// What, and what it is told.
        call: Box<HandlerCall>,
    },
    /// A line for the log, without the time, with DRBD's prefix (`r0/0 bob: `).
    Log {
        /// How loud.
        level: LogLevel,
        /// What.
        text: String,
    },
}

/// What the client is told. The shell maps it to NBD's error numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyError {
    /// No copy of the data can be reached, or the only one failed.
    Io,
    /// Out of range for a read or trim, or otherwise invalid.
    Invalid,
    /// Out of range for a write.
    NoSpace,
    /// The volume is not writable here (demoted meanwhile).
    Shutdown,
}

impl From<DiskError> for ReplyError {
    fn from(_: DiskError) -> Self {
        Self::Io
    }
}
