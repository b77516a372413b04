//! The error numbers that may appear on the wire. proto.md, "Error values".

use std::fmt;

/// An error of the transmission phase, named as in proto.md without `NBD_`.
/// No other number is ever sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Errno {
    /// The export is read-only.
    EPERM = 1,
    /// The medium failed.
    EIO = 5,
    /// No memory. The Linux client turns it into an I/O error: avoid it.
    ENOMEM = 12,
    /// The request is malformed, unknown, or a read or trim beyond the end.
    EINVAL = 22,
    /// A write or zeroes beyond the end, or no space behind the export.
    ENOSPC = 28,
    /// A read in one chunk that is too large for one chunk.
    EOVERFLOW = 75,
    /// Fast zeroing was asked for, and zeroing is not fast.
    ENOTSUP = 95,
    /// The server is about to stop serving.
    ESHUTDOWN = 108,
}

impl Errno {
    /// All of them, by number.
    pub const ALL: [Errno; 8] = [
        Errno::EPERM,
        Errno::EIO,
        Errno::ENOMEM,
        Errno::EINVAL,
        Errno::ENOSPC,
        Errno::EOVERFLOW,
        Errno::ENOTSUP,
        Errno::ESHUTDOWN,
    ];

    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The error of a number, if proto.md names it.
    pub fn from_code(code: u32) -> Option<Errno> {
        Errno::ALL.into_iter().find(|errno| errno.code() == code)
    }

    /// The error on the wire for an error number of the operating system, which are more than
    /// NBD has: a full disk is ENOSPC in any of its spellings, everything unnamed is EIO.
    pub fn from_os(raw: i32) -> Errno {
        match raw {
            1 | 13 | 30 => Errno::EPERM, // EPERM, EACCES, EROFS
            12 => Errno::ENOMEM,
            22 => Errno::EINVAL,
            27 | 28 | 122 => Errno::ENOSPC, // EFBIG, ENOSPC, EDQUOT
            75 => Errno::EOVERFLOW,
            95 => Errno::ENOTSUP,
            108 => Errno::ESHUTDOWN,
            _ => Errno::EIO,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} ({})", self.code())
    }
}
