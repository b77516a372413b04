//! The administrator's orders, and their refusals with DRBD's numbers and texts
//! (`State change failed: (-N) text`, `Failure: (1xx) text`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{NodeId, VolumeNumber};
use super::options::{DiskOptions, Options};
use crate::meta::LoadedMeta;

/// A backing disk that the shell has opened, locked and read the metadata of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttachedDisk {
    /// Bytes of the data area (a multiple of 4096): what the disk offers, not what is exported.
    pub data_size: u64,
    /// 512 or 4096.
    pub logical_block_size: u32,
    /// The path, for people.
    pub path: String,
    /// What was read and checked.
    pub meta: LoadedMeta,
}

/// Which danger a `primary --force` accepts. It covers none that is not named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Force {
    /// `--force`: for a JUST_CREATED or a Consistent disk.
    Plain,
    /// `--force=inconsistent`.
    Inconsistent,
    /// `--force=outdated`.
    Outdated,
    /// `--force=blank`: this disk is blank, the peer's holds a file system.
    Blank,
    /// `--force=inconsistent,outdated`: the volumes have one each, and all are named.
    Several(Dangers),
}

/// Dangers that are named together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dangers {
    /// [`Force::Plain`].
    pub plain: bool,
    /// [`Force::Inconsistent`].
    pub inconsistent: bool,
    /// [`Force::Outdated`].
    pub outdated: bool,
    /// [`Force::Blank`].
    pub blank: bool,
}

impl Force {
    /// Each danger by itself, with its word after `--force=`.
    pub const WORDS: [(Self, &'static str); 4] = [
        (Self::Plain, "yes"),
        (Self::Inconsistent, "inconsistent"),
        (Self::Outdated, "outdated"),
        (Self::Blank, "blank"),
    ];

    /// Several dangers; `None`: not one.
    #[must_use]
    pub fn of(dangers: impl IntoIterator<Item = Self>) -> Option<Self> {
        dangers.into_iter().fold(None, |all, one| match all {
            None => Some(one),
            Some(all) if all == one => Some(all),
            Some(all) => Some(Self::Several(all.dangers().and(one.dangers()))),
        })
    }

    /// It names this danger.
    #[must_use]
    pub fn names(self, danger: Self) -> bool {
        let (own, other) = (self.dangers(), danger.dangers());
        own.and(other) == own
    }

    /// How it is given: `--force`, `--force=outdated`, `--force=yes,outdated`.
    #[must_use]
    pub fn option(self) -> String {
        if self == Self::Plain {
            return "--force".to_owned();
        }
        let named = Self::WORDS.iter().filter(|(danger, _)| self.names(*danger));
        let words: Vec<&str> = named.map(|(_, word)| *word).collect();
        format!("--force={}", words.join(","))
    }

    fn dangers(self) -> Dangers {
        let none = Dangers::default();
        match self {
            Self::Plain => Dangers { plain: true, ..none },
            Self::Inconsistent => Dangers { inconsistent: true, ..none },
            Self::Outdated => Dangers { outdated: true, ..none },
            Self::Blank => Dangers { blank: true, ..none },
            Self::Several(dangers) => dangers,
        }
    }
}

impl Dangers {
    fn and(self, other: Self) -> Self {
        Self {
            plain: self.plain || other.plain,
            inconsistent: self.inconsistent || other.inconsistent,
            outdated: self.outdated || other.outdated,
            blank: self.blank || other.blank,
        }
    }
}

/// An order of `tandemadm`, already checked for form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Command {
    /// The disk was opened; go through Attaching.
    Attach {
        /// Of this volume.
        volume: VolumeNumber,
        /// What was found.
        disk: Box<AttachedDisk>,
    },
    /// Let go of the disk in order.
    Detach {
        /// Of this volume.
        volume: VolumeNumber,
        /// Even if it holds the only good copy.
        force: bool,
    },
    /// Start dialling and answering.
    Connect {
        /// The peer.
        peer: NodeId,
        /// In a split brain, this node's changes are the ones to lose.
        discard_my_data: bool,
        /// Compare the disks, answer with the verdict, end StandAlone; the peer goes on dialling.
        tentative: bool,
    },
    /// End the connection and stay StandAlone.
    Disconnect {
        /// The peer.
        peer: NodeId,
        /// Without the orderly leave.
        force: bool,
        /// Dial again by itself after so long, ms.
        #[serde(default)]
        for_ms: Option<u64>,
    },
    /// Become Primary.
    Primary {
        /// The accepted danger.
        force: Option<Force>,
    },
    /// Become Primary for a client that connects (`auto-promote`), until the last one has gone.
    AutoPromote,
    /// Become Primary in the place of the connected peer, which hands over in order.
    HandOver,
    /// The daemon's word, in the course of a hand-over by this node: it has detached the devices that it
    /// has attached (`device-attach auto`), or one is in use.
    DevicesDetached {
        /// And stays attached.
        in_use: bool,
    },
    /// Become Secondary.
    Secondary {
        /// Close the clients' connections instead of refusing.
        force: bool,
        /// First wait so long for the clients to leave, ms; new ones are refused meanwhile.
        #[serde(default)]
        wait_ms: u64,
    },
    /// The own data is bad: full resync from the peer.
    Invalidate {
        /// Of this volume.
        volume: VolumeNumber,
    },
    /// The peer's data is bad: full resync to the peer.
    InvalidateRemote {
        /// Of this volume.
        volume: VolumeNumber,
        /// The peer.
        peer: NodeId,
    },
    /// Mark the own disk Outdated.
    Outdate {
        /// Of this volume.
        volume: VolumeNumber,
    },
    /// Compare both disks. A range that is given while a verify runs changes where it ends.
    Verify {
        /// Of this volume.
        volume: VolumeNumber,
        /// With this peer.
        peer: NodeId,
        /// The first byte; `None`: the beginning.
        start: Option<u64>,
        /// Behind the last byte; `None`: the end.
        stop: Option<u64>,
    },
    /// Copy the blocks that are out of sync from the node with the good data.
    Repair {
        /// Of this volume.
        volume: VolumeNumber,
        /// The peer.
        peer: NodeId,
        /// The node whose data is good: this one, or the peer.
        from: NodeId,
    },
    /// A new current UUID; with `clear_bitmap` both fresh disks are declared equal, or, where the
    /// peer has never connected, its slot is cleared for an image of this disk.
    NewCurrentUuid {
        /// Of this volume.
        volume: VolumeNumber,
        /// Compare samples, then skip the initial sync; or begin a seed.
        clear_bitmap: bool,
    },
    /// Take the room that the disks of both nodes have gained.
    Resize {
        /// Of this volume.
        volume: VolumeNumber,
        /// The exported size, bytes; `None`: all that both disks have.
        size: Option<u64>,
        /// The new blocks are equal on both disks: compare samples, and sync nothing.
        assume_clean: bool,
    },
    /// `size` of the configuration is this from now on.
    SetSize {
        /// Of this volume.
        volume: VolumeNumber,
        /// How much of the own disk's room is offered to a resize, bytes; `None`: all.
        size: Option<u64>,
    },
    /// Hold a resync back, or a later one, or no longer.
    PauseSync {
        /// Of this volume.
        volume: VolumeNumber,
        /// With this peer.
        peer: NodeId,
        /// False: `resume-sync`.
        pause: bool,
    },
    /// Hold clients' requests back, or no longer.
    SuspendIo {
        /// False: `resume-io`.
        suspend: bool,
    },
    /// Nothing is remembered of a peer any more: its slot is free, and whoever takes it is synced in
    /// full.
    ForgetPeer {
        /// The peer, which may be none of the configuration.
        peer: NodeId,
    },
    /// Run the handler unfence-peer, if all disks of both are UpToDate.
    UnfencePeer {
        /// The peer.
        peer: NodeId,
    },
    /// The options are these from now on, as far as they act at once.
    SetOptions {
        /// All of them, checked.
        options: Box<Options>,
        /// Volumes with `disk` options of their own.
        volumes: BTreeMap<VolumeNumber, DiskOptions>,
    },
    /// Demote, disconnect, detach: the resource can be removed when this is answered.
    Down {
        /// The daemon ends (SIGTERM): clients are told, not waited for.
        shutdown: bool,
    },
}

impl Command {
    /// The verb of `tandemadm` that gives it; `shutdown` where tandemd ends.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Attach { .. } => "attach",
            Self::Detach { .. } => "detach",
            Self::Connect { .. } => "connect",
            Self::Disconnect { .. } => "disconnect",
            Self::Primary { .. } => "primary",
            Self::AutoPromote => "auto-promote",
            Self::HandOver => "primary --hand-over",
            Self::DevicesDetached { .. } => "devices-detached",
            Self::Secondary { .. } => "secondary",
            Self::Invalidate { .. } => "invalidate",
            Self::InvalidateRemote { .. } => "invalidate-remote",
            Self::Outdate { .. } => "outdate",
            Self::Verify { .. } => "verify",
            Self::Repair { .. } => "verify",
            Self::NewCurrentUuid { .. } => "new-current-uuid",
            Self::Resize { .. } => "resize",
            Self::PauseSync { pause: true, .. } => "pause-sync",
            Self::PauseSync { pause: false, .. } => "resume-sync",
            Self::SuspendIo { suspend: true } => "suspend-io",
            Self::SuspendIo { suspend: false } => "resume-io",
            Self::ForgetPeer { .. } => "forget-peer",
            Self::UnfencePeer { .. } => "unfence-peer",
            Self::SetOptions { .. } | Self::SetSize { .. } => "adjust",
            Self::Down { shutdown: false } => "down",
            Self::Down { shutdown: true } => "shutdown",
        }
    }
}

/// Why an order was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// DRBD's number: negative for a state change, 100 and above for a failure.
    pub code: i32,
    /// DRBD's text for the number.
    pub text: String,
    /// What to do next; may be empty.
    pub hint: String,
}

impl Refusal {
    /// The exit code of `tandemadm` (DESIGN 8): (1xx) 10, (-2) 17, (-4) 16, (-16) 5, other (-N) 11.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self.code {
            -2 => 17,
            -4 => 16,
            -16 => 5,
            n if n < 0 => 11,
            _ => 10,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.code < 0 {
            write!(f, "State change failed: ({}) {}", self.code, self.text)?;
        } else {
            write!(f, "Failure: ({}) {}", self.code, self.text)?;
        }
        if !self.hint.is_empty() {
            write!(f, "\n{}", self.hint)?;
        }
        Ok(())
    }
}

/// The outcome of an order; a text for people where there is something to say.
pub type AdminResult = Result<String, Refusal>;

/// How loud a log line is: sd-daemon priorities 3, 4, 6, 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogLevel {
    /// A person must act.
    Error,
    /// A person should look.
    Warning,
    /// A transition.
    Info,
    /// For developers.
    Debug,
}
