//! The options in force, in the units that the core uses. Names and defaults are DRBD's
//! (drbd.conf, `net`, `disk`, `options`).

use serde::{Deserialize, Serialize};

use super::handler::{Fencing, Handlers};
use super::ids::{BLOCK_SIZE, NodeId, VolumeNumber};

/// `after-sb-0pri`: nobody is Primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterSb0Pri {
    /// Stay apart.
    Disconnect,
    /// The one that became Primary later loses.
    DiscardYoungerPrimary,
    /// The one that became Primary earlier loses.
    DiscardOlderPrimary,
    /// If one side wrote nothing, it loses.
    DiscardZeroChanges,
    /// The side with fewer set bits loses.
    DiscardLeastChanges,
    /// This node loses.
    DiscardNode(NodeId),
}

/// `after-sb-1pri`: one is Primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterSb1Pri {
    /// Stay apart.
    Disconnect,
    /// The verdict of 0pri, if the loser is the Secondary.
    Consensus,
    /// The verdict of 0pri, whoever loses.
    ViolentlyAs0p,
    /// The Secondary loses.
    DiscardSecondary,
    /// As Consensus; on a Primary that would lose the handler pri-lost-after-sb runs.
    CallPriLostAfterSb,
}

/// `after-sb-2pri`: both are Primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterSb2Pri {
    /// Stay apart.
    Disconnect,
    /// The verdict of 0pri, whoever loses.
    ViolentlyAs0p,
    /// As Disconnect; on the one that would lose by 0pri the handler pri-lost-after-sb runs.
    CallPriLostAfterSb,
}

/// `rr-conflict`: the verdict makes a Primary the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RrConflict {
    /// Stay apart.
    Disconnect,
    /// Sync over the Primary.
    Violently,
    /// Drop the connection and try again.
    RetryConnect,
    /// As Disconnect, and the handler pri-lost runs on the Primary.
    CallPriLost,
    /// As Disconnect: the verdict itself lets what a crashed Primary wrote last go.
    AutoDiscard,
}

/// `on-io-error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnIoError {
    /// Drop the disk, go on with the peer's.
    Detach,
    /// As Detach, and the handler local-io-error runs.
    CallLocalIoError,
    /// Report to the client on the node where it happened; the block is marked out of sync.
    PassOn,
}

/// `csums-alg`: whether a resync compares blocks before it copies them, and by which digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CsumsAlg {
    /// Not said: by SHA-256 after a crash, where nearly all of what may differ is equal.
    #[default]
    Default,
    /// `none`: it never does.
    None,
    /// By this one, always or (`csums-after-crash-only`) after a crash.
    Digest(VerifyAlg),
}

impl CsumsAlg {
    /// Its name in the configuration; the default has none, as in DRBD.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::None => "none",
            Self::Digest(alg) => alg.name(),
        }
    }
}

/// `verify-alg`: the digest by which an online verify compares blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerifyAlg {
    /// SHA-256: no two blocks are known to share one.
    Sha256,
    /// SHA-512: the faster one on processors without instructions for SHA-256.
    Sha512,
    /// CRC-32C: the fastest; one of 2^32 differing blocks passes for equal.
    Crc32c,
}

impl VerifyAlg {
    /// Every digest, by its number on the wire.
    pub const ALL: &'static [Self] = &[Self::Sha256, Self::Sha512, Self::Crc32c];
    /// Bytes of the longest digest.
    pub const SIZE_MAX: usize = 64;

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Crc32c => "crc32c",
        }
    }

    /// Bytes of a digest.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Crc32c => 4,
        }
    }

    /// The digests of each block of 4096 bytes, one after the other.
    #[must_use]
    pub fn digests(self, bytes: &[u8]) -> Vec<u8> {
        use sha2::Digest;
        let blocks = bytes.chunks(BLOCK_SIZE as usize);
        let mut out = Vec::with_capacity(blocks.len() * self.size());
        for block in blocks {
            match self {
                Self::Sha256 => out.extend_from_slice(&sha2::Sha256::digest(block)),
                Self::Sha512 => out.extend_from_slice(&sha2::Sha512::digest(block)),
                Self::Crc32c => out.extend_from_slice(&crc32c::crc32c(block).to_be_bytes()),
            }
        }
        out
    }
}

/// What a resource is made of and how it behaves: the checked definition, for one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceConfig {
    /// The resource's name.
    pub name: String,
    /// This node's id.
    pub node_id: NodeId,
    /// This node's name.
    pub node_name: String,
    /// The peers, by node id. Two nodes are the case of one.
    pub peers: Vec<PeerConfig>,
    /// The volumes, by number.
    pub volumes: Vec<VolumeConfig>,
    /// The options in force.
    pub options: Options,
}

/// A peer, as the core needs it. Addresses are the shell's business.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConfig {
    /// Its node id.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// `ADDRESS:PORT` for messages.
    pub address: String,
}

/// A volume, as the core needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeConfig {
    /// Its number.
    pub number: VolumeNumber,
    /// The printed minor.
    pub minor: u32,
    /// The backing disk on this node, for messages; `none` for a diskless volume.
    pub disk: String,
    /// Its own `disk` options; `None`: those of the resource.
    #[serde(default)]
    pub disk_options: Option<DiskOptions>,
}

/// The options of a `disk` section that act: a volume may have its own. Units as in [`Options`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskOptions {
    /// `on-io-error`.
    pub on_io_error: OnIoError,
    /// `al-extents`.
    pub al_extents: u32,
    /// `resync-rate`.
    pub resync_rate: u64,
    /// `c-max-rate`.
    pub c_max_rate: u64,
    /// `c-min-rate`.
    pub c_min_rate: u64,
    /// `disk-flushes`.
    pub disk_flushes: bool,
    /// `md-flushes`.
    pub md_flushes: bool,
    /// `disk-timeout`.
    #[serde(default)]
    pub disk_timeout_ms: u64,
}

/// The options that act in the core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// `timeout`, ms (DRBD's unit is 0.1 s). Default 6000.
    pub timeout_ms: u64,
    /// `ping-int`, ms. Default 10000.
    pub ping_int_ms: u64,
    /// `ping-timeout`, ms. Default 500.
    pub ping_timeout_ms: u64,
    /// `connect-int`, ms. Default 10000.
    pub connect_int_ms: u64,
    /// `ko-count`; 0: never. Default 7.
    pub ko_count: u32,
    /// `max-buffers`, in pages of 4096 bytes: the receive window. Default 2048.
    pub max_buffers: u32,
    /// `max-epoch-size`, writes. Default 2048.
    pub max_epoch_size: u32,
    /// `sndbuf-size`, bytes: what the system may buffer of what is sent to a peer. Default 0: the
    /// system decides.
    #[serde(default)]
    pub sndbuf_size: u32,
    /// `rcvbuf-size`, bytes: as `sndbuf_size`, of what a peer sends.
    #[serde(default)]
    pub rcvbuf_size: u32,
    /// `al-extents`. Default 1237.
    pub al_extents: u32,
    /// `resync-rate`, KiB/s: the rate to start with. Default 250 in DRBD; see docs/decisions.
    pub resync_rate: u64,
    /// `c-max-rate`, KiB/s. Default 102400; 0: no limit.
    pub c_max_rate: u64,
    /// `c-min-rate`, KiB/s: a floor beside application I/O, never a cap. Default 250.
    pub c_min_rate: u64,
    /// `after-sb-0pri`.
    pub after_sb_0pri: AfterSb0Pri,
    /// `after-sb-1pri`.
    pub after_sb_1pri: AfterSb1Pri,
    /// `after-sb-2pri`.
    pub after_sb_2pri: AfterSb2Pri,
    /// `always-asbp`.
    pub always_asbp: bool,
    /// `rr-conflict`.
    pub rr_conflict: RrConflict,
    /// `fencing`. Default dont-care.
    #[serde(default)]
    pub fencing: Fencing,
    /// `handlers`: those that are written.
    #[serde(default)]
    pub handlers: Handlers,
    /// `handler-timeout`, ms (the unit is 1 s): a handler that has not ended by then is killed.
    /// Default 300 s.
    #[serde(default = "default_handler_timeout_ms")]
    pub handler_timeout_ms: u64,
    /// `verify-alg`. Default sha256; DRBD has none, and refuses to verify without one.
    #[serde(default = "default_verify_alg")]
    pub verify_alg: VerifyAlg,
    /// `csums-alg`. Default: sha256, after a crash only; DRBD's is none.
    #[serde(default)]
    pub csums_alg: CsumsAlg,
    /// `csums-after-crash-only`: of a `csums-alg` that is named. Default no.
    #[serde(default)]
    pub csums_after_crash_only: bool,
    /// `on-io-error`.
    pub on_io_error: OnIoError,
    /// `auto-promote`. Default no.
    pub auto_promote: bool,
    /// `device-attach auto`: the daemon attaches the devices of a node that is promoted by order, and
    /// detaches them before it is demoted. Default manual.
    #[serde(default)]
    pub device_attach_auto: bool,
    /// `hand-over-timeout`, ms (DRBD has none; the unit is 0.1 s): how long this Primary may take to
    /// hand over before it goes on as it was. Default 3000; 0: it does not hand over.
    #[serde(default = "default_hand_over_timeout")]
    pub hand_over_timeout_ms: u64,
    /// `nbd-clients exclusive`: a second identity is refused. Default shared.
    #[serde(default)]
    pub nbd_clients_exclusive: bool,
    /// `busy-poll`, us: how long the data thread looks for what comes next before it sleeps, while
    /// clients are connected. Default 0: not at all.
    #[serde(default)]
    pub busy_poll_us: u32,
    /// `disk-flushes`: no voids promise 1 on this node.
    pub disk_flushes: bool,
    /// `md-flushes`: no voids promises 3, 4 and 8 on this node.
    pub md_flushes: bool,
    /// `disk-timeout`, ms (DRBD's unit is 0.1 s): an operation of the own disk that has not ended
    /// by then fails the disk. Default 0: never.
    #[serde(default)]
    pub disk_timeout_ms: u64,
}

fn default_hand_over_timeout() -> u64 {
    3_000
}

fn default_handler_timeout_ms() -> u64 {
    300_000
}

fn default_verify_alg() -> VerifyAlg {
    VerifyAlg::Sha256
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout_ms: 6000,
            ping_int_ms: 10_000,
            ping_timeout_ms: 500,
            connect_int_ms: 10_000,
            ko_count: 7,
            max_buffers: 2048,
            max_epoch_size: 2048,
            sndbuf_size: 0,
            rcvbuf_size: 0,
            al_extents: 1237,
            resync_rate: 250,
            c_max_rate: 0,
            c_min_rate: 250,
            after_sb_0pri: AfterSb0Pri::Disconnect,
            after_sb_1pri: AfterSb1Pri::Disconnect,
            after_sb_2pri: AfterSb2Pri::Disconnect,
            always_asbp: false,
            rr_conflict: RrConflict::Disconnect,
            fencing: Fencing::DontCare,
            handlers: Handlers::new(),
            handler_timeout_ms: default_handler_timeout_ms(),
            verify_alg: default_verify_alg(),
            csums_alg: CsumsAlg::Default,
            csums_after_crash_only: false,
            on_io_error: OnIoError::Detach,
            auto_promote: false,
            device_attach_auto: false,
            hand_over_timeout_ms: default_hand_over_timeout(),
            nbd_clients_exclusive: false,
            busy_poll_us: 0,
            disk_flushes: true,
            md_flushes: true,
            disk_timeout_ms: 0,
        }
    }
}

impl Options {
    /// The `disk` options of the resource.
    #[must_use]
    pub fn disk(&self) -> DiskOptions {
        DiskOptions {
            on_io_error: self.on_io_error,
            al_extents: self.al_extents,
            resync_rate: self.resync_rate,
            c_max_rate: self.c_max_rate,
            c_min_rate: self.c_min_rate,
            disk_flushes: self.disk_flushes,
            md_flushes: self.md_flushes,
            disk_timeout_ms: self.disk_timeout_ms,
        }
    }

    /// The same options with other `disk` options.
    #[must_use]
    pub fn with_disk(&self, disk: DiskOptions) -> Self {
        Self {
            on_io_error: disk.on_io_error,
            al_extents: disk.al_extents,
            resync_rate: disk.resync_rate,
            c_max_rate: disk.c_max_rate,
            c_min_rate: disk.c_min_rate,
            disk_flushes: disk.disk_flushes,
            md_flushes: disk.md_flushes,
            disk_timeout_ms: disk.disk_timeout_ms,
            ..self.clone()
        }
    }
}

impl ResourceConfig {
    /// The `disk` options in force for a volume.
    #[must_use]
    pub fn disk_options(&self, volume: VolumeNumber) -> DiskOptions {
        let own = self.volumes.iter().find(|config| config.number == volume);
        own.and_then(|config| config.disk_options).unwrap_or_else(|| self.options.disk())
    }
}
