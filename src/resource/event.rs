//! What goes into the state machine. Plain data: printing it is the transcript, writing it is the
//! recording.

use serde::{Deserialize, Serialize};

use super::command::{Command, Refusal};
use super::handler::HandlerOutcome;
use super::ids::{NodeId, Payload, RequestId, SessionId, SocketId, Tag, VolumeNumber};
use crate::secret::SecretError;
use crate::wire::Packet;

/// A client's operation on one piece of its request. Offsets and lengths in bytes; the shell cuts
/// reads and writes into pieces of at most [`super::PAYLOAD_MAX`] that do not cross a multiple of
/// `PAYLOAD_MAX`, and trims and zeroes into pieces of at most [`super::ZEROES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Read; the reply carries a payload of `length` bytes.
    Read {
        /// Bytes from the start of the export.
        offset: u64,
        /// 1 to `PAYLOAD_MAX`.
        length: u32,
    },
    /// Write. The payload's buffer covers the 4096-aligned hull of the range: the handle's `offset`
    /// is `offset % 4096` and the buffer is at least `offset % 4096 + length` rounded up to 4096.
    Write {
        /// Bytes from the start of the export.
        offset: u64,
        /// The data; its length is the length of the write.
        payload: Payload,
        /// Durable on both disks before the reply.
        fua: bool,
    },
    /// Everything that was answered before is durable on both disks before the reply.
    Flush,
    /// NBD_CMD_TRIM, and NBD_CMD_WRITE_ZEROES. Both read as zeroes afterwards. The shell cuts off
    /// unaligned edges and sends them as writes of zeroes.
    Zeroes {
        /// Bytes from the start of the export, a multiple of 4096.
        offset: u64,
        /// 4096 to `ZEROES_MAX`, a multiple of 4096.
        length: u32,
        /// Keep the blocks allocated (NO_HOLE).
        no_hole: bool,
        /// Durable on both disks before the reply.
        fua: bool,
    },
}

/// Why a disk operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskError {
    /// The disk failed (EIO and everything not named otherwise); the errno.
    Io(i32),
    /// No space left on the file system of the backing file.
    NoSpace,
    /// The metadata was damaged where it was needed, or the write was refused by a lock.
    Metadata,
}

/// Why a socket ended, or an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketError {
    /// The peer closed in order.
    Closed,
    /// Reset, broken pipe and the like; the errno.
    Io(i32),
    /// Connection refused.
    Refused,
    /// No answer within the time of one attempt.
    TimedOut,
    /// No route, or the own address does not exist yet; the errno.
    Unreachable(i32),
    /// Bytes that are not our protocol: wrong magic, CRC, length, type.
    Protocol,
    /// The peer did not prove the shared secret, or does not take ours.
    Secret(SecretError),
}

/// Something that happened. Every event of a resource goes through one queue, in one order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A client connected to a volume (negotiation is over). `client` names it, for people.
    SessionOpened {
        /// The new session.
        session: SessionId,
        /// What it opened.
        volume: VolumeNumber,
        /// For example `nbd-client pid 2211 uid 0`, or `10.0.0.7:51234`.
        client: String,
    },
    /// The client is gone (`disconnect`: it sent NBD_CMD_DISC first). Requests of it that have not
    /// started are dropped; after DISC they are done.
    SessionClosed {
        /// Which session.
        session: SessionId,
        /// It said goodbye.
        disconnect: bool,
    },
    /// One piece of a client's request.
    Request {
        /// From this client.
        session: SessionId,
        /// The reply carries this number.
        request: RequestId,
        /// On this volume.
        volume: VolumeNumber,
        /// What to do.
        op: Op,
    },
    /// A disk action ended. A read that succeeded carries its payload.
    DiskDone {
        /// Of the action.
        tag: Tag,
        /// The payload of a read. `None`: no read, or one that found nothing but zeroes.
        result: Result<Option<Payload>, DiskError>,
    },
    /// A digest is known.
    Digested {
        /// Of the action.
        tag: Tag,
        /// CRC-32 (IEEE) of the payload.
        digest: u32,
    },
    /// The digests of the blocks of a payload are known.
    BlocksDigested {
        /// Of the action.
        tag: Tag,
        /// One after the other, as `VerifyAlg::digests` makes them.
        digests: Vec<u8>,
    },
    /// A metadata action ended; on success it is durable.
    MetaDone {
        /// Of the action.
        tag: Tag,
        /// Whether it is durable.
        result: Result<(), DiskError>,
    },
    /// The answer to `Action::FindHole`.
    HoleFound {
        /// Of the action.
        tag: Tag,
        /// Bytes from the start of the range that are a hole, at most all of it; 0 also where the
        /// disk cannot say.
        length: u32,
    },
    /// The answer to `Action::GrowDisk`.
    DiskGrown {
        /// Of the action.
        tag: Tag,
        /// Bytes of the data area now (as before, if the disk has not grown), or why nothing was
        /// changed; the outer error: the disk has failed.
        result: Result<Result<u64, Refusal>, DiskError>,
    },
    /// An attempt that the core asked for is a TCP connection now.
    Connected {
        /// The number that the core chose.
        socket: SocketId,
    },
    /// A connection from the configured address of `peer` was accepted.
    Accepted {
        /// Whose address it came from.
        peer: NodeId,
        /// An odd number of the shell's.
        socket: SocketId,
    },
    /// A packet arrived, checked by the codec. Data packets carry a payload from the pool.
    Packet {
        /// Where.
        socket: SocketId,
        /// What.
        packet: Packet,
        /// Present exactly if [`Packet::payload_length`] is not 0.
        payload: Option<Payload>,
    },
    /// The answer to `Action::Authenticate`: the peer has proved the shared secret, or neither side
    /// has one.
    Authenticated {
        /// Where.
        socket: SocketId,
    },
    /// Some bytes of a packet arrived (a sign of life), but not all of it yet.
    Received {
        /// Where.
        socket: SocketId,
    },
    /// The socket ended, or the attempt failed. No event of it follows.
    SocketLost {
        /// Which.
        socket: SocketId,
        /// Why.
        error: SocketError,
    },
    /// An administrator's order.
    Admin {
        /// The answer carries this number.
        id: u64,
        /// What.
        command: Command,
    },
    /// Whether a resync of the volume with the peer waits for another one of this node
    /// (`resync-after`, `--max-parallel-resyncs`): the core knows no other resource.
    ResyncDependency {
        /// Of this volume.
        volume: VolumeNumber,
        /// With this peer.
        peer: NodeId,
        /// It waits.
        paused: bool,
    },
    /// A handler has ended, or was not run.
    HandlerDone {
        /// Of the action.
        number: u64,
        /// How.
        outcome: HandlerOutcome,
    },
    /// `next_timeout` has passed.
    Timeout,
    /// The wall clock was set: what is shown with a time is stamped with this one from now on.
    WallClock {
        /// What it says now, ms since 1970.
        ms: u64,
    },
    /// The process did not run for longer than ping-timeout (SIGSTOP, suspend): DESIGN 7, "After a
    /// gap". The shell has closed every client socket unread.
    ClockGap {
        /// How long, ms.
        gap_ms: u64,
    },
}
