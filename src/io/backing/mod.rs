//! Backing disks: opening, locking, reading and making their metadata. Needs no daemon.
//!
//! A backing disk is a block device or a regular file; its metadata is at its tail or on a file or
//! device of its own ([`MetaDisk`]).
//!
//! Invariants:
//! - Nothing is read of a disk before its lock is held, but for `dump-md` and `get-gi`, which say
//!   so.
//! - Locks are on the open file, so two paths of one file (hard links, symbolic links) are one
//!   lock. A loop device over a file is one more path to it.
//! - Before anything rests on loaded metadata, the disk is flushed and both copies of the
//!   superblock are equal and durable.
//! - Whether the system still has what an earlier process gave it is said by [`trust`] alone.
//! - create-md, wipe-md and restore-md never write outside of the metadata area, but zeroes into
//!   holes where create-md was asked to and over superblocks at older ends of the disk, and save the
//!   metadata that they overwrite.

mod create;
mod device;
mod error;
mod grow;
mod inspect;
mod lock;
mod older;
mod open;
mod preallocate;
mod record;
mod restore;
mod saved;
mod signatures;
mod trust;
mod under;

use std::path::{Path, PathBuf};

pub use create::{CreateOptions, Report, create_md};
pub use error::{CreateError, OpenError};
pub(crate) use grow::Home;
pub use inspect::{Inspected, Known, dump_md, inspect, probe, read_gi, sizes};
pub(crate) use open::Growing;
pub use open::{OpenDisk, OpenOptions, open_disk};
pub(crate) use record::file_safe;
pub use restore::{RestoreOptions, Restored, forget_peer, restore_md, wipe_md};
pub use saved::{Save, SavedBefore, SavedCopy, copy_advice, save_copy, size_before};
pub use signatures::Found;

use crate::resource::{NodeId, VolumeNumber};

#[cfg(test)]
mod tests;

/// Where the metadata of a disk is: `meta-disk` of drbd.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaDisk {
    /// At the tail of the backing disk.
    Internal,
    /// On a file or device of its own.
    External(PathBuf),
}

/// Whose disk it is. Metadata of anyone else is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The resource's name.
    pub resource: String,
    /// This node's id.
    pub node_id: NodeId,
    /// The volume's number.
    pub volume: VolumeNumber,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} of node {}", self.resource, self.volume, self.node_id)
    }
}

/// The boot id of this host: equal ids mean that the page cache has lived on.
///
/// # Errors
/// `/proc` is not mounted, or the file is not a UUID.
pub fn host_boot_id() -> std::io::Result<[u8; 16]> {
    let text = std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))?;
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).map(u128::to_be_bytes).map_err(std::io::Error::other)
}
