//! What can be wrong with metadata as a whole. Damage of a log block or a bitmap page is no error:
//! it is taken as "everything that it covers may differ".

use thiserror::Error;

use crate::resource::DiskError;

/// What is wrong with one copy of the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CopyDamage {
    /// The magic is not there: blank, or something else.
    #[error("no magic")]
    Magic,
    /// The block's CRC is wrong (torn, or flipped bits).
    #[error("wrong checksum")]
    Checksum,
    /// Whole, but of a layout that this program does not know.
    #[error("layout version {0}")]
    Version(u32),
    /// Whole, but it is the other copy: a write went astray.
    #[error("it is the other copy")]
    Misplaced,
    /// Whole, but its contents cannot be.
    #[error("{0}")]
    Content(&'static str),
    /// It could not be read.
    #[error("read error ({0:?})")]
    Read(DiskError),
}

/// Why the metadata of a disk cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MetaError {
    /// Neither copy of the superblock is there.
    #[error("no valid metadata found")]
    NoMetadata,
    /// There was metadata, but both copies of the superblock are damaged.
    #[error("both copies of the superblock are damaged (A: {a}; B: {b})")]
    BothDamaged {
        /// The copy at the end of the disk.
        a: CopyDamage,
        /// The other one.
        b: CopyDamage,
    },
    /// Written by a newer program.
    #[error("the metadata has layout version {found}, this program knows {known}")]
    Version {
        /// On the disk.
        found: u32,
        /// Of this program.
        known: u32,
    },
    /// The disk cannot hold metadata and one block of data. Bytes.
    #[error("the disk has {have} bytes, {need} are needed at least")]
    TooSmall {
        /// The size of the disk that holds the metadata.
        have: u64,
        /// What is needed.
        need: u64,
    },
    /// Larger than the layout can describe.
    #[error("the disk has {have} bytes, more than the {max} that the metadata can describe")]
    TooLarge {
        /// The size of the disk.
        have: u64,
        /// The limit.
        max: u64,
    },
    /// The metadata is of a data area that this disk does not have. Bytes.
    #[error("the metadata is of a data area of {recorded} bytes, the disk gives {actual}")]
    DataSize {
        /// In the superblock.
        recorded: u64,
        /// From the size of the disk.
        actual: u64,
    },
    /// The disk has grown by less than what its metadata needs to move.
    #[error("the disk has grown by too little to move its metadata, {missing} bytes are missing")]
    LittleGrowth {
        /// By so many bytes.
        missing: u64,
    },
    /// An order over two disks' metadata was cut off after it had given both up.
    #[error(
        "an order that makes or restores metadata, over that of two disks, was cut off: nothing that stands on it counts"
    )]
    GivenUp,
    /// One disk's metadata is at the end, another one's where the disk ended before it grew.
    #[error(
        "the metadata of two disks stands on it: at its end, and where it ended when it had {older} bytes"
    )]
    TwoDisks {
        /// The size that it had.
        older: u64,
        /// When the metadata at the end was made, wall clock in seconds.
        created: u64,
        /// When that at the older end was.
        older_created: u64,
        /// The older end is noted of this disk, not of another one of the volume.
        is_noted: bool,
    },
    /// Metadata of this disk is at its end and where it ended before, and nothing tells which of them counts.
    #[error(
        "its metadata is at its end, and also where it ended when it had {older} bytes; nothing is noted of the disk by \
         this path"
    )]
    Unnoted {
        /// The size that it had.
        older: u64,
    },
    /// A value is outside of what the layout allows.
    #[error("{0}")]
    Invalid(&'static str),
    /// The metadata could not be read.
    #[error("read error in the metadata ({0:?})")]
    Read(DiskError),
}
