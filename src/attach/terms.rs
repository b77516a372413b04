//! What the kernel is told of an export, and whether another server's export can take its place.
//!
//! The driver learns size, flags and block size once, at the attach, and compares nothing when it
//! gets a new socket. So it is compared here.

use std::time::Duration;

use nbd::client::Description;
use nbd::constants::{
    NBD_FLAG_CAN_MULTI_CONN, NBD_FLAG_HAS_FLAGS, NBD_FLAG_READ_ONLY, NBD_FLAG_ROTATIONAL,
    NBD_FLAG_SEND_FLUSH, NBD_FLAG_SEND_FUA, NBD_FLAG_SEND_TRIM, NBD_FLAG_SEND_WRITE_ZEROES,
};
use serde::{Deserialize, Serialize};

/// The flags that the kernel's driver makes something of. The others are about structured replies
/// and about commands that it does not send.
const KERNEL: u16 = NBD_FLAG_HAS_FLAGS
    | NBD_FLAG_READ_ONLY
    | NBD_FLAG_SEND_FLUSH
    | NBD_FLAG_SEND_FUA
    | NBD_FLAG_ROTATIONAL
    | NBD_FLAG_SEND_TRIM
    | NBD_FLAG_SEND_WRITE_ZEROES
    | NBD_FLAG_CAN_MULTI_CONN;

/// Flags whose loss would make the kernel send what the server does not do.
const PROMISES: [(u16, &str); 5] = [
    (NBD_FLAG_SEND_FLUSH, "flush"),
    (NBD_FLAG_SEND_FUA, "FUA"),
    (NBD_FLAG_SEND_TRIM, "trim"),
    (NBD_FLAG_SEND_WRITE_ZEROES, "write zeroes"),
    (NBD_FLAG_CAN_MULTI_CONN, "several connections"),
];

/// The smallest block of a block device, bytes.
const BLOCK_MIN: u32 = 512;
/// The largest that every kernel takes: its page, bytes.
const BLOCK_MAX: u32 = 4096;

/// What a slow disk zeroes in a millisecond, bytes.
const ZEROED_IN_MS: u64 = 50_000;
/// Bytes of a discard at most, and what they are limited to at least.
const DISCARD: (u64, u64) = (4 << 20, 64 << 20);

/// How many bytes one discard may have, so that a disk which zeroes slowly does it in a third of the time of
/// a request. The driver has no limit of its own: one of 2 GiB would end its connection, be sent again, and
/// so for ever. A multiple of the granularity, bytes.
#[must_use]
pub fn discard_max(timeout: Duration, granularity: u64) -> u64 {
    let third = u64::try_from(timeout.as_millis() / 3).unwrap_or(u64::MAX);
    let bytes = third.saturating_mul(ZEROED_IN_MS).clamp(DISCARD.0, DISCARD.1);
    let granularity = granularity.max(1);
    (bytes / granularity).max(1) * granularity
}

/// Why an export cannot be attached, or cannot take another one's place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Nothing to attach.
    #[error("the export has no size")]
    Empty,
    /// The driver sends requests of this size.
    #[error("its blocks have at least {0} bytes, and the device has blocks of {1}")]
    Block(u32, u32),
    /// The last block would be cut off.
    #[error("its size of {0} bytes is no multiple of the block size {1}")]
    Ragged(u64, u32),
    /// More than one connection, and the server does not keep them in step.
    #[error("its server does not take several connections of one client")]
    OneConnection,
    /// A file system reaches to the old end.
    #[error("it has {is} bytes, and the device has {was}: it is another volume, or has shrunk")]
    Shrunk {
        /// Bytes of the device.
        was: u64,
        /// Bytes of the export.
        is: u64,
    },
    /// The device was attached for writing.
    #[error("it is read-only, and the device is not")]
    ReadOnly,
    /// The kernel goes on to send such requests.
    #[error("its server does not do {0}, which the device was attached with")]
    Lost(&'static str),
}

/// What the kernel is told of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Bytes.
    pub size: u64,
    /// `NBD_FLAG_*`, those that the kernel uses.
    pub flags: u16,
    /// Bytes of a logical block of the device.
    pub block: u32,
}

impl Terms {
    /// The terms of an export. `block`: the logical block size that was asked for, bytes; without
    /// one it is 512, as with nbd-client and QEMU, so that a partition table or file system that
    /// was made there is found again, or the smallest that the server takes.
    ///
    /// # Errors
    /// The kernel cannot have it so.
    pub fn of(export: &Description, block: Option<u32>, connections: usize) -> Result<Self, Unfit> {
        let minimum = export.block.map_or(1, |(minimum, _, _)| minimum);
        let block = block.unwrap_or(minimum.max(BLOCK_MIN));
        if minimum > block || !(BLOCK_MIN..=BLOCK_MAX).contains(&block) {
            return Err(Unfit::Block(minimum, block.min(BLOCK_MAX)));
        }
        if export.size == 0 {
            return Err(Unfit::Empty);
        }
        if !export.size.is_multiple_of(u64::from(block)) {
            return Err(Unfit::Ragged(export.size, block));
        }
        let flags = export.flags & KERNEL;
        if connections > 1 && flags & NBD_FLAG_CAN_MULTI_CONN == 0 {
            return Err(Unfit::OneConnection);
        }
        Ok(Self { size: export.size, flags, block })
    }

    /// Whether `export` can take the place of the one that the device was attached with. The new
    /// size, if it has grown.
    ///
    /// # Errors
    /// Why not.
    pub fn replace(&self, export: &Description) -> Result<Option<u64>, Unfit> {
        let minimum = export.block.map_or(1, |(minimum, _, _)| minimum);
        if minimum > self.block {
            return Err(Unfit::Block(minimum, self.block));
        }
        if export.size < self.size {
            return Err(Unfit::Shrunk { was: self.size, is: export.size });
        }
        if !export.size.is_multiple_of(u64::from(self.block)) {
            return Err(Unfit::Ragged(export.size, self.block));
        }
        if export.flags & NBD_FLAG_READ_ONLY != 0 && self.flags & NBD_FLAG_READ_ONLY == 0 {
            return Err(Unfit::ReadOnly);
        }
        let lost = self.flags & !export.flags;
        match PROMISES.iter().find(|(flag, _)| lost & flag != 0) {
            Some((_, what)) => Err(Unfit::Lost(what)),
            None => Ok((export.size > self.size).then_some(export.size)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u16 = !NBD_FLAG_READ_ONLY;

    fn export(size: u64, flags: u16, minimum: u32) -> Description {
        Description { size, flags, block: Some((minimum, 4096, 1 << 25)), ..Default::default() }
    }

    #[test]
    fn a_discard_is_no_longer_than_a_slow_disk_needs_for_it() {
        for (millis, granularity, bytes) in [
            (1000, 512, 16_650_000 / 512 * 512),
            (2000, 4096, 33_300_000 / 4096 * 4096),
            (5000, 512, 64 << 20),
            (3_600_000, 512, 64 << 20),
            (1, 512, 4 << 20),
            (0, 0, 4 << 20),
            (1000, 3 << 20, 15 << 20),
            // Less than one is none at all.
            (5000, 100 << 20, 100 << 20),
        ] {
            let max = discard_max(Duration::from_millis(millis), granularity);
            assert_eq!(max, bytes, "{millis} ms, {granularity}");
        }
    }

    #[test]
    fn the_kernel_is_told_what_it_can_use() {
        let terms = Terms::of(&export(1 << 20, ALL, 1), None, 1).unwrap();
        assert_eq!(terms, Terms { size: 1 << 20, flags: 0b1_0111_1101, block: 512 });
        assert_eq!(Terms::of(&export(1 << 20, ALL, 4096), None, 1).unwrap().block, 4096);
        assert_eq!(Terms::of(&export(1 << 20, ALL, 1), Some(2048), 4).unwrap().block, 2048);
        let silent = Description { size: 512, flags: 1, ..Default::default() };
        assert_eq!(Terms::of(&silent, None, 1), Ok(Terms { size: 512, flags: 1, block: 512 }));
    }

    #[test]
    fn what_the_kernel_cannot_have_is_refused() {
        let one = ALL & !NBD_FLAG_CAN_MULTI_CONN;
        for (export, block, connections, why) in [
            (export(0, ALL, 1), None, 1, Unfit::Empty),
            (export(1 << 20, ALL, 4096), Some(512), 1, Unfit::Block(4096, 512)),
            (export(1 << 20, ALL, 65536), None, 1, Unfit::Block(65536, 4096)),
            (export(1000, ALL, 1), None, 1, Unfit::Ragged(1000, 512)),
            (export(1 << 20, one, 1), None, 2, Unfit::OneConnection),
        ] {
            assert_eq!(Terms::of(&export, block, connections), Err(why));
        }
    }

    #[test]
    fn only_an_export_that_can_do_as_much_takes_the_place() {
        let terms = Terms::of(&export(1 << 20, ALL, 1), None, 2).unwrap();
        assert_eq!(terms.replace(&export(1 << 20, ALL, 1)), Ok(None));
        assert_eq!(terms.replace(&export(2 << 20, ALL, 512)), Ok(Some(2 << 20)));
        let rotational = ALL & !NBD_FLAG_ROTATIONAL;
        assert_eq!(terms.replace(&export(1 << 20, rotational, 1)), Ok(None));
        for (export, why) in [
            (export((1 << 20) - 512, ALL, 1), Unfit::Shrunk { was: 1 << 20, is: (1 << 20) - 512 }),
            (export((1 << 20) + 1, ALL, 1), Unfit::Ragged((1 << 20) + 1, 512)),
            (export(1 << 20, ALL, 1024), Unfit::Block(1024, 512)),
            (export(1 << 20, u16::MAX, 1), Unfit::ReadOnly),
            (export(1 << 20, ALL & !NBD_FLAG_SEND_FLUSH, 1), Unfit::Lost("flush")),
            (export(1 << 20, ALL & !NBD_FLAG_SEND_FUA, 1), Unfit::Lost("FUA")),
            (export(1 << 20, ALL & !NBD_FLAG_SEND_TRIM, 1), Unfit::Lost("trim")),
            (
                export(1 << 20, ALL & !NBD_FLAG_CAN_MULTI_CONN, 1),
                Unfit::Lost("several connections"),
            ),
        ] {
            assert_eq!(terms.replace(&export), Err(why));
        }
        let read_only = Terms::of(&export(512, u16::MAX, 1), None, 1).unwrap();
        assert_eq!(read_only.replace(&export(512, u16::MAX, 1)), Ok(None));
    }
}
