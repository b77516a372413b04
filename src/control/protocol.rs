//! The messages of the admin socket: JSON, one a line.
//!
//! A connection carries requests one after the other; each is answered by one line, except
//! [`Request::Watch`], whose answers go on until the caller hangs up.
//!
//! ```text
//! tandemadm ── {"up":{"definition":{...}}} ────> tandemd
//!           <── {"done":""} ─────────────────────
//!           ── {"watch":{"resource":"r0"}} ────>
//!           <── {"report":{...}}  "complete"  {"report":{...}}  {"gone":"r0"} ...
//! ```
//!
//! A daemon goes on while its package is upgraded. So a request with a field that it does not know
//! is refused: a new option, or a secret, is never taken and ignored. Answers may have new fields.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::{Definition, ResyncAfter};
use crate::resource::{
    Command, ConnectionState, DiskOptions, NodeId, Options, Refusal, Status, VolumeNumber,
};
use crate::secret::Secrets;

/// The longest line either side accepts, bytes.
pub const LINE_MAX: usize = 1 << 20;

/// What tandemadm asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Make the resource, attach its disks, begin to dial.
    Up {
        /// What the config says.
        definition: Box<Definition>,
    },
    /// Whether `Up` would be refused, as far as that is known without doing it.
    CheckUp {
        /// What the config says.
        definition: Box<Definition>,
    },
    /// Make the resource: no disk is attached, nobody is dialled. Done also where it is up.
    NewResource {
        /// What the config says.
        definition: Box<Definition>,
    },
    /// Attach one volume's disk.
    Attach {
        /// What the config says.
        definition: Box<Definition>,
        /// Which volume.
        volume: VolumeNumber,
    },
    /// Whether one volume's disk could be attached in place of the one it has.
    CheckDisk {
        /// What the config says.
        definition: Box<Definition>,
        /// Which volume.
        volume: VolumeNumber,
    },
    /// Begin to dial a peer.
    Connect {
        /// What the config says.
        definition: Box<Definition>,
        /// Which peer.
        peer: NodeId,
        /// In a split brain, this node's changes are the ones to lose.
        discard_my_data: bool,
        /// Report the verdict only.
        tentative: bool,
    },
    /// Take the resource down. Done also where it is not up.
    Down {
        /// Its name.
        resource: String,
    },
    /// An order for the state machine. `Attach` and `Down` are not taken this way.
    Order {
        /// The resource's name.
        resource: String,
        /// What.
        command: Command,
    },
    /// Other options for a resource that is up.
    Options {
        /// Its name.
        resource: String,
        /// All of them.
        options: Box<Options>,
        /// Volumes with `disk` options of their own.
        volumes: BTreeMap<VolumeNumber, DiskOptions>,
        /// `resync-after` of the volumes.
        #[serde(default)]
        resync_after: BTreeMap<VolumeNumber, ResyncAfter>,
        /// What peers must prove from the next connection on.
        #[serde(default)]
        secrets: Option<Secrets>,
    },
    /// The addresses of a resource that is up.
    Paths {
        /// What the config says.
        definition: Box<Definition>,
    },
    /// Which volumes of a resource that is up have no disk by configuration (`disk none`), here and at
    /// the peers; and their `size` here.
    Volumes {
        /// What the config says.
        definition: Box<Definition>,
    },
    /// What a resource that is up runs with.
    Running {
        /// Its name.
        resource: String,
    },
    /// An order for the daemon itself.
    Daemon {
        /// Which.
        order: DaemonOrder,
    },
    /// Snapshots of what is up.
    Status {
        /// One resource, or all.
        resource: Option<String>,
    },
    /// A snapshot now and after each change.
    Watch {
        /// One resource, or all.
        resource: Option<String>,
    },
}

/// What the daemon is to do with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DaemonOrder {
    /// Give everything to the program that stands where this one was started from. Its answer comes
    /// from that program.
    Restart {
        /// How long requests that are under way may take, ms; after that nothing is done.
        timeout_ms: u64,
    },
    /// End. Done, there is no answer: the connection ends with the daemon.
    Stop {
        /// Also with clients that are connected, or a peer that reads from here.
        force: bool,
    },
}

/// What tandemd answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Done; a text for people where there is something to say.
    Done(String),
    /// Refused, with DRBD's number.
    Refused(Refusal),
    /// The answer to [`Request::Running`]; `None`: it is not up.
    Running(Option<Box<Definition>>),
    /// The answer to [`Request::Status`].
    Reports(Vec<Report>),
    /// A resource was made or has changed ([`Request::Watch`]).
    Report(Box<Report>),
    /// Every resource that was up has been reported ([`Request::Watch`]).
    Complete,
    /// A resource was taken down ([`Request::Watch`]).
    Gone(String),
    /// The request was not understood, or cannot be answered now.
    Error(String),
}

/// A resource as tandemd knows it: the state machine's snapshot, and what only the shell knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The snapshot.
    pub status: Status,
    /// The configured addresses, a path per peer.
    pub paths: Vec<Path>,
    /// Peers, and volumes of theirs, that have no disk by configuration.
    #[serde(default)]
    pub peer_clients: Vec<(NodeId, VolumeNumber)>,
    /// `auto-promote` is in force.
    pub auto_promote: bool,
    /// The path of the NBD socket, for people.
    pub nbd_socket: String,
    /// Wall clock when the snapshot was taken, seconds since 1970 (display only).
    pub taken_at: u64,
    /// What differs between the config file and what runs; tandemadm finds it, where it can read
    /// the file.
    #[serde(default)]
    pub config_differs: Vec<String>,
    /// Volumes whose path does not lead to the disk in use, and what is so (`PATH is another file
    /// now`).
    #[serde(default)]
    pub path_differs: Vec<(VolumeNumber, String)>,
    /// Which files or devices the disks in use are, data and then metadata elsewhere: file system and number of the
    /// file, or the highest number and that of the device.
    #[serde(default)]
    pub disk_files: Vec<(VolumeNumber, Vec<(u64, u64)>)>,
    /// Volumes whose device the daemon could not attach (`device-attach auto`), and why.
    #[serde(default)]
    pub device_failed: Vec<(VolumeNumber, String)>,
    /// What the snapshot does not say.
    #[serde(default)]
    pub past: Past,
}

/// Ages and counts of a resource that is up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// How long the role is what it is, ms.
    pub role_ms: u64,
    /// How long I/O has been suspended (but for a handshake), ms.
    pub frozen_ms: Option<u64>,
    /// How long it has been suspended for a handshake, ms.
    #[serde(default)]
    pub handshake_ms: Option<u64>,
    /// How often each peer was connected anew within the last hour.
    pub reconnects_1h: Vec<(NodeId, u64)>,
}

/// A way to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// The peer.
    pub peer_node_id: NodeId,
    /// The own address.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
}

impl Report {
    /// Whether the connection that stands is on this path.
    #[must_use]
    pub fn is_established(&self, path: &Path) -> bool {
        let connections = &self.status.connections;
        let one = connections.iter().find(|one| one.peer_node_id == path.peer_node_id);
        one.is_some_and(|one| {
            one.connection_state == ConnectionState::Connected
                && (one.remote.is_empty() || one.remote == path.remote.ip().to_string())
        })
    }

    /// Whether the peer has no disk for the volume by configuration.
    #[must_use]
    pub fn is_client(&self, peer: NodeId, volume: VolumeNumber) -> bool {
        self.peer_clients.contains(&(peer, volume))
    }

    /// A peer that has no disk by configuration lacks nothing: what the bitmap says of it is said of no copy.
    #[must_use]
    pub fn without_bits_of_clients(mut self) -> Self {
        for (id, volume) in &self.peer_clients {
            let peer = self.status.connections.iter_mut().find(|one| one.peer_node_id == *id);
            let devices = peer.into_iter().flat_map(|peer| &mut peer.peer_devices);
            devices
                .filter(|device| device.volume == *volume)
                .for_each(|device| device.out_of_sync = 0);
        }
        self
    }

    /// The first path to a peer.
    #[must_use]
    pub fn path(&self, peer: NodeId) -> Option<&Path> {
        self.paths_to(peer).next()
    }

    /// All paths to a peer, in the order in which they are tried.
    pub fn paths_to(&self, peer: NodeId) -> impl Iterator<Item = &Path> {
        self.paths.iter().filter(move |path| path.peer_node_id == peer)
    }
}
