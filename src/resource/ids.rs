//! The small numbers that name things, each its own type so that none is taken for another.

use serde::{Deserialize, Serialize};

/// Bytes that one bit of the quick-resync bitmap covers.
pub const BLOCK_SIZE: u64 = 4096;
/// Bytes that one extent of the activity log covers.
pub const EXTENT_SIZE: u64 = 4 << 20;
/// The largest payload of one packet and of one disk request, bytes.
pub const PAYLOAD_MAX: u32 = 1 << 20;
/// The largest range of one trim or write-zeroes piece, bytes.
pub const ZEROES_MAX: u64 = 64 << 20;

/// The whole blocks of a range of bytes: the first one, and how many.
pub(crate) fn blocks_of(offset: u64, length: u64) -> (u64, u64) {
    (offset / BLOCK_SIZE, length / BLOCK_SIZE)
}

/// A point of the shell's monotonic clock that goes on during suspend (CLOCK_BOOTTIME), nanoseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Time(pub u64);

impl Time {
    /// This time plus `ms` milliseconds.
    #[must_use]
    pub fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }
    /// Milliseconds from `earlier` to this time, 0 if `earlier` is later.
    #[must_use]
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

/// A node of the resource: 0 to 31.
pub type NodeId = u8;
/// A volume of the resource: 0 to 65534.
pub type VolumeNumber = u16;

/// One submitted disk or metadata action; its completion carries the same tag. Never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Tag(pub u64);

/// One piece of a client's request, chosen by the shell. Unique while it is pending.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct RequestId(pub u64);

/// One NBD client connection. Never reused; a later connection has a larger number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SessionId(pub u64);

/// One TCP connection (or attempt) to a peer. Accepted ones are numbered by the shell with odd
/// numbers, dialled ones by the core with even numbers. Never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SocketId(pub u64);

/// A handle into the shell's buffer pool. The core never sees the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Payload {
    /// Which buffer.
    pub slot: u32,
    /// Which use of that buffer: a stale handle is a bug that the shell detects.
    pub generation: u32,
    /// Where the payload starts in the buffer, bytes.
    pub offset: u32,
    /// How long it is, bytes.
    pub length: u32,
}
