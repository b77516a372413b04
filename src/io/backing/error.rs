//! Why a disk cannot be opened or made, with DRBD's numbers (`drbdsetup`, "Failure: (1xx)").

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use thiserror::Error;

use super::signatures::Found;
use crate::control::clock::iso;
use crate::meta::MetaError;
use crate::resource::{DiskError, Refusal};

/// Which of the two disks of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The backing disk.
    Data,
    /// The external metadata.
    Meta,
}

/// Why a disk cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It cannot be opened or locked.
    #[error("{path}: {error}")]
    Open {
        /// The disk.
        path: PathBuf,
        /// Data or metadata.
        part: Part,
        /// What the system said.
        error: io::Error,
    },
    /// Neither a block device nor a regular file.
    #[error("{path} is neither a block device nor a regular file")]
    NotADisk {
        /// The disk.
        path: PathBuf,
        /// Data or metadata.
        part: Part,
    },
    /// Too small (or too large) for the metadata.
    #[error("{path}: {error}")]
    Size {
        /// The disk.
        path: PathBuf,
        /// Data or metadata.
        part: Part,
        /// How much is needed.
        error: MetaError,
    },
    /// Somebody else holds it.
    #[error("{path} is in use{}", by(holder.as_ref()))]
    Claimed {
        /// The disk.
        path: PathBuf,
        /// Data or metadata.
        part: Part,
        /// Who, where it can be found out.
        holder: Option<String>,
    },
    /// Reading, writing or flushing failed.
    #[error("{path}: {what}: {error}")]
    Io {
        /// The disk.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// There is no metadata, or it cannot be used.
    #[error("{path}: {error}")]
    Metadata {
        /// The disk.
        path: PathBuf,
        /// What is wrong.
        error: MetaError,
    },
    /// The metadata needs smaller writes than the disk takes. Bytes.
    #[error("{path}: made for logical blocks of {made} bytes, this disk has {has}")]
    BlockSize {
        /// The disk.
        path: PathBuf,
        /// The activity log's block size.
        made: u32,
        /// The logical block size.
        has: u32,
    },
    /// The metadata belongs to somebody else.
    #[error("{path} carries the metadata of {found}, not of {expected}")]
    Foreign {
        /// The disk.
        path: PathBuf,
        /// Whose it is.
        found: super::Identity,
        /// Whose it should be.
        expected: super::Identity,
    },
    /// The disk is smaller than it was. Bytes.
    #[error("{path} shrank from {recorded} to {actual} bytes")]
    Shrank {
        /// The disk.
        path: PathBuf,
        /// What it had.
        recorded: u64,
        /// What it has.
        actual: u64,
    },
    /// The disk is larger than it was, and its metadata is still at the old end. Bytes.
    #[error("{path} grew from {recorded} to {actual} bytes: metadata found at the old end")]
    Grew {
        /// The disk.
        path: PathBuf,
        /// What it had.
        recorded: u64,
        /// What it has.
        actual: u64,
    },
    /// Data and metadata are the same file or device.
    #[error("{path}: the disk cannot be its own external meta-disk")]
    SameDisk {
        /// The disk.
        path: PathBuf,
    },
}

impl OpenError {
    /// DRBD's number and text, and what to do.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let (code, text) = self.code();
        let hint = match (self, self.cure()) {
            (Self::Foreign { expected, .. }, _) => format!(
                "{self}. Are the disks of two nodes or volumes swapped? Then put the disks back. \
                 Is it the right disk? Then the node-id, the volume or the name of the resource \
                 is wrong in the configuration: correct it. Only if this one really is to be used here: `tandemadm create-md --force {}/{}`, \
                 and it is resynced in full.",
                expected.resource, expected.volume
            ),
            (
                Self::Metadata {
                    error: MetaError::TwoDisks { older, created, older_created, is_noted },
                    ..
                },
                _,
            ) => format!("{self}. {}", two_disks(*older, *created, *older_created, *is_noted)),
            (_, "") => format!("{self}."),
            (_, cure) => format!("{self}. {cure}"),
        };
        Refusal { code, text: text.to_owned(), hint }
    }

    /// [`Self::refusal`]; of a disk on which no metadata is whole with the copy of it that is in the state folder.
    #[must_use]
    pub fn refusal_of(&self, state_dir: &Path, who: &super::Identity) -> Refusal {
        let mut refusal = self.refusal();
        if let Self::Metadata {
            error: MetaError::NoMetadata | MetaError::BothDamaged { .. }, ..
        } = self
        {
            refusal.hint.push_str(&super::copy_advice(state_dir, who));
        }
        refusal
    }

    fn code(&self) -> (i32, &'static str) {
        match self {
            Self::Open { part: Part::Data, .. } => (104, "Can not open backing device."),
            Self::Open { part: Part::Meta, .. } => (105, "Can not open meta device."),
            Self::NotADisk { part: Part::Data, .. } => {
                (107, "Backing device is not a block device.")
            }
            Self::NotADisk { part: Part::Meta, .. } => (108, "Meta device is not a block device."),
            Self::Size { part: Part::Data, .. } => (111, "Backing device too small."),
            Self::Size { part: Part::Meta, .. } => (112, "Meta device too small."),
            Self::Claimed { part: Part::Data, .. } => (114, "Lower device is already claimed."),
            Self::Claimed { part: Part::Meta, .. } | Self::SameDisk { .. } => {
                (115, "Meta device is already claimed.")
            }
            Self::Io { .. } | Self::Metadata { error: MetaError::Read(_), .. } => {
                (118, "IO error(s) occurred during initial access to meta-data.")
            }
            Self::Shrank { .. } | Self::Metadata { error: MetaError::DataSize { .. }, .. } => {
                (170, "Implicit device shrinking not allowed.")
            }
            Self::Metadata { .. } | Self::BlockSize { .. } => {
                (119, "No valid meta-data signature found.")
            }
            Self::Grew { .. } => (119, "No valid meta-data signature found at the end."),
            Self::Foreign { .. } => (119, "No valid meta-data of this resource found."),
        }
    }

    fn cure(&self) -> &'static str {
        match self {
            Self::Open { error, .. } if error.kind() == io::ErrorKind::NotFound => {
                "Create it, or correct the path in the configuration."
            }
            Self::Open { .. } | Self::NotADisk { .. } => "Correct the path or its permissions.",
            Self::Size { error: MetaError::TooLarge { .. }, .. } => "Use a smaller disk.",
            Self::Size { .. } => "Use a larger one.",
            Self::Claimed { .. } => "Stop what uses it (unmount it, `down` its resource) first.",
            Self::Io { error, .. } if error.kind() == io::ErrorKind::StorageFull => {
                "Make room under the backing file, then attach again."
            }
            Self::Io { .. } => "See the kernel log, and replace the disk if it is failing.",
            Self::Metadata { error, .. } => match error {
                MetaError::NoMetadata => {
                    "Use `tandemadm create-md` to initialize it, if it is new. One that was in use and is longer \
                     now has its metadata at its old end: give it its old size, or its old path."
                }
                MetaError::BothDamaged { .. } => {
                    "Nothing tells how old it is. If the peer has everything that was written: \
                     `tandemadm create-md --force` on it, and it is resynced. If this node wrote last, \
                     without the peer, this is the only copy of that: OPERATIONS, \"Metadata that is \
                     damaged\"."
                }
                MetaError::Version { .. } => "Use the version of Tandem that wrote it.",
                MetaError::DataSize { .. } => "Give the disk its old size back.",
                MetaError::Read(_) => "See the kernel log, and replace the disk if it is failing.",
                MetaError::GivenUp => {
                    "Give that order again: `tandemadm create-md --force`, or `tandemadm restore-md --force` with the copy \
                     of the one that counted. The copies that were made of both are in the state folder."
                }
                // It names both.
                MetaError::TwoDisks { .. } => "",
                MetaError::Unnoted { .. } => {
                    "Attach it by the path by which it was attached last (a link of that name will do), by which it is \
                     known; the paths stand in the size-...json of the state folder. `adjust` takes it over by another \
                     path then."
                }
                MetaError::LittleGrowth { .. } => "Grow it by so much more.",
                MetaError::TooSmall { .. } | MetaError::TooLarge { .. } | MetaError::Invalid(_) => {
                    "Correct the configuration."
                }
            },
            Self::BlockSize { .. } => {
                "Put it back on a disk with smaller blocks, or create-md anew."
            }
            // It names the resource.
            Self::Foreign { .. } => "",
            Self::Shrank { .. } => "Give the disk its old size back.",
            Self::Grew { .. } => {
                "Do not run create-md. `tandemadm attach` moves the metadata to the new end."
            }
            Self::SameDisk { .. } => "Use `meta-disk internal`, or another file.",
        }
    }
}

/// Why create-md, wipe-md or restore-md did nothing. The data area is untouched in every case.
#[derive(Debug, Error)]
pub enum CreateError {
    /// The disk cannot be used.
    #[error(transparent)]
    Disk(#[from] OpenError),
    /// Something is there.
    #[error("{path}: found {}. Nothing was written; --force does it all the same{}",
        list(found), cut_off(*cut))]
    Found {
        /// The disk.
        path: PathBuf,
        /// What.
        found: Vec<Found>,
        /// It reaches into the area that the metadata would take.
        cut: bool,
    },
    /// The name, node id, number of peers or size cannot be put on the disk.
    #[error(transparent)]
    Layout(MetaError),
    /// The dump is not one for this disk.
    #[error("{0}. Nothing was written")]
    Dump(String),
    /// Where the disk ends now could not be noted, durably: metadata at its old end would count again.
    #[error(
        "{folder}: where the metadata of the disk is to be could not be noted there: {error}. Nothing was made or wiped, \
         and what counted counts as before, unless the note was written and only its way to the disk failed: then nothing \
         at an old end of the disk counts, and of two disks' metadata neither. Make room there, or make it writable, and \
         give the order again"
    )]
    Note {
        /// The state folder.
        folder: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The same, after two disks' metadata was given up, of which nobody knows which one counted.
    #[error(
        "{folder}: where the metadata of the disk is to be could not be noted there: {error}. Of the two disks' metadata \
         on it neither counts any more, and the superblocks of that at its end were zeroed; what could be read of both is \
         saved in {}. Make room there, or make it writable, and give the order again",
        paths(copies)
    )]
    GivenUp {
        /// The state folder.
        folder: PathBuf,
        /// The copies.
        copies: Vec<PathBuf>,
        /// What the system said.
        error: io::Error,
    },
    /// The old metadata could not be saved, so it was not overwritten.
    #[error("{path}: cannot save the old metadata there: {error}; it was not overwritten")]
    Save {
        /// The file that could not be written.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// What to do where two disks' metadata stand. The note in the state folder may be older than what is at the end.
fn two_disks(older: u64, created: u64, older_created: u64, is_noted: bool) -> String {
    let (end, old) = (iso(created), iso(older_created));
    let of_this_one = match is_noted {
        true => format!(
            "Only if the disk was cut back to {older} bytes and has grown again since, the one at {older} bytes counts: \
             grow the disk by another MiB, so that its end is free, and attach it. Not if create-md ran after it had \
             grown: then"
        ),
        // Free of the end it would be attached with what another disk of the volume is noted for.
        false => "Nothing is noted of the disk by this path: attach it by the path by which it was attached last (a link \
                  of that name will do), by which it is known; the paths stand in the size-...json of the state \
                  folder. If create-md ran after it had grown,"
            .to_owned(),
    };
    format!(
        "That at the end is of {end}, that at {older} bytes of {old} (UTC). {of_this_one} the one at the end counts, and \
         `tandemadm create-md --force` on the disk saves both in the state folder, `tandemadm restore-md --force` puts \
         the copy of that one back."
    )
}

fn by(holder: Option<&String>) -> String {
    holder.map(|who| format!(" by {who}")).unwrap_or_default()
}

fn cut_off(cut: bool) -> &'static str {
    if cut { ", and what it has behind the new end of the data area is lost" } else { "" }
}

fn list(found: &[Found]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn paths(copies: &[PathBuf]) -> String {
    copies.iter().map(|copy| copy.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The core's word for an I/O error.
pub(super) fn disk_error(error: &io::Error) -> DiskError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => DiskError::NoSpace,
        Some(errno) => DiskError::Io(errno),
        None => DiskError::Io(Errno::EIO as i32),
    }
}
