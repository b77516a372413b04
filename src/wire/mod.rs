//! The peer protocol: packets and their bytes. No I/O.
//!
//! One TCP connection per pair of nodes and resource. A packet is a header of 32 bytes, big-endian,
//! then the body or payload that the type asks for. docs/PROTOCOL.md draws every byte:
//!
//! ```text
//!  0     4    5     6        8              16             24       28       32
//!  +-----+----+-----+--------+--------------+--------------+--------+--------+
//!  |magic|type|flags| volume |   sequence   |    offset    | length |  crc   |
//!  +-----+----+-----+--------+--------------+--------------+--------+--------+
//! ```
//!
//! Invariants:
//! - `crc` is the CRC-32 (IEEE) of the first 28 bytes; nothing of a header is used before it fits.
//! - `length` is checked against the packet's type before anything is reserved: a payload of at
//!   most 1 MiB for data packets, a body of at most [`BODY_MAX`] for those with a body, the length
//!   of the range for packets that only name one, 0 otherwise. [`Kind::shape`] is the table.
//! - A field that a type does not use is 0, and another value is an error: what was decoded encodes
//!   to the same bytes again.
//! - Both sides send [`Packet::Features`] first; it has the same size in every version.
//! - Everything decoded is a checked [`Packet`]; a field out of range is an error, never clipped.

mod body;
mod check;
mod codec;
mod kind;

pub use body::{Description, Features, Handshake, Refused, VolumeInfo};
pub use check::{OPTIONS_MAX, TEXT_MAX, VOLUMES_MAX, check, plain_text};
pub use codec::{FEATURES_BODY, Header, decode, decode_header, encode_header};
pub use kind::{Kind, Shape};

use serde::{Deserialize, Serialize};

use crate::resource::{BLOCK_SIZE, DiskState, PAYLOAD_MAX, Role};
use crate::resource::{VerifyAlg, VolumeNumber};
use crate::secret::{Algorithm, CHALLENGE_SIZE};

/// The magic of every packet.
pub const MAGIC: u32 = 0x5444_4d31;
/// Bytes of a header.
pub const HEADER_SIZE: usize = 32;
/// The largest body that is not payload, bytes.
pub const BODY_MAX: u32 = 256 * 1024;
/// Most blocks in one [`Packet::VerifyRequest`].
pub const VERIFY_BLOCKS_MAX: usize = PAYLOAD_MAX as usize / BLOCK_SIZE as usize;
/// Most bytes of digests in one [`Packet::VerifyDigests`].
pub const VERIFY_DIGESTS_MAX: usize = VERIFY_BLOCKS_MAX * VerifyAlg::SIZE_MAX;
/// Most words of bitmap in one [`Packet::Bitmap`].
pub const BITMAP_WORDS_MAX: usize = 8192;
/// The protocol versions that this build speaks.
pub const VERSIONS: std::ops::RangeInclusive<u16> = 5..=5;

/// Feature bit: the sender has a shared secret, and does not speak to who has none.
pub const FEATURE_SECRET: u32 = 1;

/// Feature bit: the sender only asks (`tandemadm ping`), and is no session.
pub const FEATURE_INQUIRY: u32 = 2;

/// Feature bit: the sender hands over when it is asked to ([`Packet::HandOver`]).
pub const FEATURE_HAND_OVER: u32 = 4;

/// Feature bit: the sender gives digests to a target that asks for them ([`Packet::DigestRequest`]).
pub const FEATURE_DIGESTS: u32 = 8;

/// What became of a hand-over, as the node says that was asked. The place in `ALL` is the number on
/// the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandOverOutcome {
    /// It is Secondary, its clients have gone, and both disks are flushed.
    Done,
    /// It has not been Primary.
    NotPrimary,
    /// Another order, a handshake or the end of the session is under way there.
    Busy,
    /// Not every disk on both nodes is UpToDate.
    Disks,
    /// A resync is under way.
    Resync,
    /// Clients' I/O is frozen there by order.
    Suspended,
    /// A disk does not answer there.
    HungDisk,
    /// Its `hand-over-timeout` is 0.
    Forbidden,
    /// Requests or flushes did not end within its `hand-over-timeout`.
    Late,
    /// It was cancelled, or the session changed in the middle.
    Interrupted,
    /// A device that the daemon there has attached is in use.
    InUse,
}

impl HandOverOutcome {
    /// Every outcome, by number.
    pub const ALL: &'static [Self] = &[
        Self::Done,
        Self::NotPrimary,
        Self::Busy,
        Self::Disks,
        Self::Resync,
        Self::Suspended,
        Self::HungDisk,
        Self::Forbidden,
        Self::Late,
        Self::Interrupted,
        Self::InUse,
    ];
}

/// How zeroes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ZeroMode {
    /// Punch a hole (unless the disk was preallocated).
    Hole,
    /// Keep the blocks.
    NoHole,
}

/// One packet. `sequence` numbers are the sender's; answers repeat them. Offsets and lengths in
/// bytes, multiples of 4096 on data packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Packet {
    /// First packet, fixed size.
    Features(Features),
    /// Everything that the decision needs.
    Handshake(Box<Handshake>),
    /// The sender refuses the connection, for a reason that needs a person, and ends it.
    Refused(Box<Refused>),
    /// Prove that you have the shared secret (after Features, where both sides have one).
    Challenge {
        /// The sender's `cram-hmac-alg`.
        algorithm: Algorithm,
        /// Random bytes of this connection.
        challenge: [u8; CHALLENGE_SIZE],
    },
    /// Proofs of the sender's secrets, the current one first.
    Response {
        /// One after the other, each as long as the algorithm has it.
        proofs: Vec<u8>,
    },
    /// A run of the sender's bitmap; the receiver unites it with its own.
    Bitmap {
        /// Volume.
        volume: VolumeNumber,
        /// First block (a multiple of 64).
        first_block: u64,
        /// Bits, at most `BITMAP_WORDS_MAX` words.
        words: Vec<u64>,
    },
    /// The sender's whole bitmap of the volume was sent. `offset`: its number of set bits.
    BitmapEnd {
        /// Volume.
        volume: VolumeNumber,
        /// Set bits that were sent.
        bits: u64,
    },
    /// The target is durably Inconsistent with the source's identifiers (R7).
    Adopted {
        /// Volume.
        volume: VolumeNumber,
    },
    /// The session of the volume is open on the sender, durably (R5, R8).
    Opened {
        /// Volume.
        volume: VolumeNumber,
    },
    /// The rollback number of the sender's disk; durable on the receiver before it acknowledges
    /// anything that follows (R14).
    Number {
        /// Volume.
        volume: VolumeNumber,
        /// The number.
        number: u64,
    },
    /// A write. Payload.
    Data {
        /// Volume.
        volume: VolumeNumber,
        /// Repeated by the ack.
        sequence: u64,
        /// Where.
        offset: u64,
        /// Bytes of payload.
        length: u32,
        /// Durable before the ack.
        fua: bool,
    },
    /// Make a range zero.
    Zeroes {
        /// Volume.
        volume: VolumeNumber,
        /// Repeated by the ack.
        sequence: u64,
        /// Where.
        offset: u64,
        /// Bytes.
        length: u32,
        /// How.
        mode: ZeroMode,
        /// Durable before the ack.
        fua: bool,
    },
    /// The write (Data, Zeroes) is on the sender's disk.
    WriteAck {
        /// Volume.
        volume: VolumeNumber,
        /// Of the write.
        sequence: u64,
    },
    /// The write failed on the sender's disk.
    NegAck {
        /// Volume.
        volume: VolumeNumber,
        /// Of the write.
        sequence: u64,
    },
    /// What was asked (a write; or a piece whose range a write holds) waits for space on a disk; its
    /// answer comes later. Said again while it waits.
    NoSpace {
        /// Volume.
        volume: VolumeNumber,
        /// Of what was asked.
        sequence: u64,
    },
    /// The sender goes on with its own copy: do not wait for space for this write, let go of the disk.
    LetGo {
        /// Volume.
        volume: VolumeNumber,
        /// Of the write.
        sequence: u64,
    },
    /// Give the write back, if it waits for space: it will be sent anew.
    TakeBack {
        /// Volume.
        volume: VolumeNumber,
        /// Of the write.
        sequence: u64,
    },
    /// The write is given back: it waited for space, and is not done.
    TakenBack {
        /// Volume.
        volume: VolumeNumber,
        /// Of the write.
        sequence: u64,
    },
    /// Flush what was acknowledged.
    Flush {
        /// Volume.
        volume: VolumeNumber,
        /// Repeated by the answer.
        sequence: u64,
    },
    /// Flushed.
    FlushAck {
        /// Volume.
        volume: VolumeNumber,
        /// Of the Flush.
        sequence: u64,
        /// False: the flush failed, and with it the disk.
        ok: bool,
    },
    /// Read for a client of the sender.
    ReadRequest {
        /// Volume.
        volume: VolumeNumber,
        /// Repeated by the reply.
        sequence: u64,
        /// Where.
        offset: u64,
        /// Bytes, at most 1 MiB.
        length: u32,
    },
    /// The data. Payload.
    ReadReply {
        /// Volume.
        volume: VolumeNumber,
        /// Of the request.
        sequence: u64,
        /// Bytes of payload.
        length: u32,
    },
    /// The read failed on the sender's disk.
    ReadError {
        /// Volume.
        volume: VolumeNumber,
        /// Of the request.
        sequence: u64,
    },
    /// The target asks for blocks.
    ResyncRequest {
        /// Volume.
        volume: VolumeNumber,
        /// Repeated by everything about this piece.
        sequence: u64,
        /// Where.
        offset: u64,
        /// Bytes, at most 1 MiB.
        length: u32,
    },
    /// The source's blocks. Payload.
    ResyncData {
        /// Volume.
        volume: VolumeNumber,
        /// Of the request.
        sequence: u64,
        /// Bytes of payload.
        length: u32,
    },
    /// The source's blocks are all zero (a hole).
    ResyncZeroes {
        /// Volume.
        volume: VolumeNumber,
        /// Of the request.
        sequence: u64,
    },
    /// The target asks how much of a long range is a hole of the source, from its start.
    HoleRequest {
        /// Volume.
        volume: VolumeNumber,
        /// Repeated by everything about this piece.
        sequence: u64,
        /// Where.
        offset: u64,
        /// Bytes, at most 64 MiB.
        length: u32,
    },
    /// So much of it is: the target makes it one as well, and answers with `ResyncAck`. Of none
    /// nothing follows.
    HoleAnswer {
        /// Volume.
        volume: VolumeNumber,
        /// Of the request.
        sequence: u64,
        /// Bytes from the start of the range, whole blocks, at most its length.
        length: u32,
    },
    /// The target asks for a digest of each block of a piece, and holds the range.
    DigestRequest {
        /// Volume.
        volume: VolumeNumber,
        /// Repeated by everything about this piece.
        sequence: u64,
        /// Where.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Of every block.
        alg: VerifyAlg,
    },
    /// The digests of a piece's blocks, in order. The source holds the range until the target has
    /// compared its own, and says so with `ResyncAck`.
    DigestAnswer {
        /// Volume.
        volume: VolumeNumber,
        /// Of the request.
        sequence: u64,
        /// At most [`VERIFY_DIGESTS_MAX`] bytes.
        digests: Vec<u8>,
    },
    /// The source cannot read the blocks.
    ResyncError {
        /// Volume.
        volume: VolumeNumber,
        /// Of the request.
        sequence: u64,
    },
    /// The target has written the piece (not flushed): the source may let writes to it go on.
    ResyncAck {
        /// Volume.
        volume: VolumeNumber,
        /// Of the request.
        sequence: u64,
    },
    /// The target has flushed the range and cleared its bits (R9).
    InSync {
        /// Volume.
        volume: VolumeNumber,
        /// Where.
        offset: u64,
        /// Bytes (may span more than 1 MiB).
        length: u64,
    },
    /// The source has no bits and nothing under way: the target may finish (R10).
    ResyncEnd {
        /// Volume.
        volume: VolumeNumber,
    },
    /// The target is durably UpToDate.
    ResyncDone {
        /// Volume.
        volume: VolumeNumber,
    },
    /// May the sender verify this range? It is the VerifyS then, the receiver the VerifyT.
    VerifyStart {
        /// Volume.
        volume: VolumeNumber,
        /// Where.
        offset: u64,
        /// Bytes (may span more than 1 MiB).
        length: u64,
        /// Of every block.
        alg: VerifyAlg,
    },
    /// The answer; `code` 0: yes, otherwise DRBD's number, negative.
    VerifyAnswer {
        /// Volume.
        volume: VolumeNumber,
        /// 0, or -4, -8, -15, -18.
        code: i32,
    },
    /// The VerifyS holds the range: hold it too, and send its digests.
    VerifyRequest {
        /// Volume.
        volume: VolumeNumber,
        /// Repeated by everything about this piece.
        sequence: u64,
        /// Where.
        offset: u64,
        /// Bytes, at most 1 MiB.
        length: u32,
    },
    /// The digest of each block of the piece, one after the other. The range stays held.
    VerifyDigests {
        /// Volume.
        volume: VolumeNumber,
        /// Of the request.
        sequence: u64,
        /// At most [`VERIFY_DIGESTS_MAX`] bytes.
        digests: Vec<u8>,
    },
    /// The VerifyT cannot read the piece, or verifies no more. Its range is not held.
    VerifyError {
        /// Volume.
        volume: VolumeNumber,
        /// Of the request.
        sequence: u64,
    },
    /// The VerifyS has compared the piece: the range is free, and these blocks are out of sync.
    VerifyResult {
        /// Volume.
        volume: VolumeNumber,
        /// Of the request.
        sequence: u64,
        /// A bit per block of the piece, bit 0 of the first word is the first block; a word per 64.
        differing: Vec<u64>,
    },
    /// The verify is over on the sender.
    VerifyEnd {
        /// Volume.
        volume: VolumeNumber,
        /// Everything up to here was compared, bytes.
        position: u64,
        /// It came to its end; else it was stopped.
        done: bool,
    },
    /// The sender's role and disk, or whether it holds a resync back, changed.
    State {
        /// Volume.
        volume: VolumeNumber,
        /// The sender's role.
        role: Role,
        /// The sender's disk.
        disk: DiskState,
        /// The sender holds a resync with the receiver back.
        paused: bool,
    },
    /// May the sender become Primary? (R11: a peer that answers.)
    PromoteRequest {
        /// Repeated by the answer.
        sequence: u64,
    },
    /// The answer; `code` 0: yes, otherwise DRBD's number, negative.
    PromoteAnswer {
        /// Of the request.
        sequence: u64,
        /// 0, or -1, -10, -18.
        code: i32,
    },
    /// The sender wants to leave in order: everything is flushed on both, then `LeaveAnswer` (R3b).
    Leave {
        /// The sender's order: 0 disconnect, 1 down, 2 daemon ends.
        kind: u8,
    },
    /// Flushed here, SURVIVED durable: the leaver may mark itself Outdated and close.
    LeaveAnswer,
    /// The sender's disk is gone in the session; the receiver stores the new current UUID in the
    /// sender's place, durably, and keeps the activity log for it (R15). Repeated as an answer.
    NewUuid {
        /// Volume.
        volume: VolumeNumber,
        /// The new current UUID.
        uuid: u64,
    },
    /// The new current UUID of a `NewUuid` is durable on the sender.
    NewUuidAck {
        /// Volume.
        volume: VolumeNumber,
        /// Which.
        uuid: u64,
    },
    /// By order: may one disk be given up for the other one, and be its target? `source`: it is the
    /// receiver's, which gives it up. Else it is the sender's, and the receiver keeps its own.
    StartResync {
        /// Volume.
        volume: VolumeNumber,
        /// Repeated by the answer.
        sequence: u64,
        /// The sender is the source.
        source: bool,
        /// Of the blocks whose bits are set, not of all (verify --repair).
        marked: bool,
    },
    /// The answer; 0: the receiver's disk is durably given up, or it keeps its own until the next
    /// handshake. From who has asked: the answer is not needed any more.
    StartResyncAnswer {
        /// Volume.
        volume: VolumeNumber,
        /// Of the StartResync.
        sequence: u64,
        /// 0, or DRBD's number, negative.
        code: i32,
    },
    /// Compare a sample: CRC-32 of the range on the sender's disk (new-current-uuid
    /// --clear-bitmap).
    Sample {
        /// Volume.
        volume: VolumeNumber,
        /// Repeated by the answer.
        sequence: u64,
        /// Where.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Of the sender's bytes.
        digest: u32,
    },
    /// Whether the receiver's bytes have the digest.
    SampleAnswer {
        /// Volume.
        volume: VolumeNumber,
        /// Of the Sample.
        sequence: u64,
        /// Equal.
        equal: bool,
    },
    /// Both fresh disks are declared equal with this current UUID (new-current-uuid
    /// --clear-bitmap). Sent back as the answer once it is durable.
    ClearBitmap {
        /// Volume.
        volume: VolumeNumber,
        /// The current UUID of both.
        uuid: u64,
    },
    /// The volume is to grow: take the room that the receiver's disk has, and say how much it is.
    Resize {
        /// Volume.
        volume: VolumeNumber,
    },
    /// The answer.
    ResizeAnswer {
        /// Volume.
        volume: VolumeNumber,
        /// Bytes that the disk offers.
        size: u64,
        /// 0, or DRBD's number why not: negative, or 100 and above.
        code: i32,
    },
    /// The sender wants to be Primary in the receiver's place; `cancel`: no more.
    HandOver {
        /// Repeated by the answer.
        sequence: u64,
        /// The order has ended; what was begun is taken back as long as that can be.
        cancel: bool,
    },
    /// What became of it.
    HandOverAnswer {
        /// Of the HandOver.
        sequence: u64,
        /// Whether the sender is Secondary now, or why not.
        outcome: HandOverOutcome,
    },
    /// Are you there?
    Ping,
    /// Yes.
    PingAck,
    /// Send these bytes back (to who answers with a Description).
    Echo {
        /// Repeated by the answer.
        sequence: u64,
        /// 1 to `BODY_MAX`.
        bytes: Vec<u8>,
    },
    /// The bytes of an Echo.
    EchoReply {
        /// Of the Echo.
        sequence: u64,
        /// The same.
        bytes: Vec<u8>,
    },
    /// What the sender is, to who only asks.
    Description(Box<Description>),
}

impl Packet {
    /// The volume that the packet is about, `None`: the whole connection.
    #[must_use]
    pub fn volume(&self) -> Option<VolumeNumber> {
        check::volume(self)
    }

    /// Bytes of payload from the pool that follow the packet; 0: none.
    #[must_use]
    pub fn payload_length(&self) -> u32 {
        match self {
            Self::Data { length, .. }
            | Self::ReadReply { length, .. }
            | Self::ResyncData { length, .. } => *length,
            _ => 0,
        }
    }
}

/// Bytes that are not our protocol. The connection is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The magic is another one.
    #[error("wrong magic {0:#010x}")]
    Magic(u32),
    /// The header's CRC does not fit.
    #[error("wrong header CRC")]
    Crc,
    /// The type is not known.
    #[error("unknown packet type {0}")]
    Type(u8),
    /// The length is not possible for the type.
    #[error("length {length} is not possible for packet type {kind}")]
    Length {
        /// The type.
        kind: u8,
        /// The length.
        length: u32,
    },
    /// A field is out of range, or the body does not decode.
    #[error("bad field in packet type {0}")]
    Field(u8),
}
