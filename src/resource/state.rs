//! Roles and states, spelled as DRBD prints them.

use serde::{Deserialize, Serialize};

macro_rules! states {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
            bincode::Encode, bincode::Decode)]
        pub enum $name { $($(#[$vmeta])* $variant),* }
        impl $name {
            /// Every state, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// The word that DRBD prints.
            #[must_use]
            pub fn name(self) -> &'static str { match self { $(Self::$variant => stringify!($variant)),* } }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.pad(self.name()) }
        }
        impl std::str::FromStr for $name {
            type Err = ();
            fn from_str(s: &str) -> Result<Self, ()> {
                match s { $(stringify!($variant) => Ok(Self::$variant),)* _ => Err(()) }
            }
        }
    };
}

states! {
    /// The role of a node.
    Role {
        /// Not known: the peer is not connected.
        Unknown,
        /// Does not serve.
        Secondary,
        /// Serves the export.
        Primary,
    }
}

states! {
    /// The state of a disk, worst first.
    DiskState {
        /// No disk is attached.
        Diskless,
        /// Metadata is being read and the disk flushed.
        Attaching,
        /// Being let go of in order.
        Detaching,
        /// Failed; nothing new is started on it.
        Failed,
        /// Attached while connected; the peer is being asked.
        Negotiating,
        /// A mix of old and new blocks.
        Inconsistent,
        /// Consistent, and known to be old.
        Outdated,
        /// Not known: the peer is not connected.
        DUnknown,
        /// Consistent; whether it is the newest is not known yet.
        Consistent,
        /// Consistent and the newest.
        UpToDate,
    }
}

states! {
    /// The state of a connection.
    ConnectionState {
        /// No attempt is made: by order, or after a refusal.
        StandAlone,
        /// Being ended in order.
        Disconnecting,
        /// Between two attempts, just after a loss.
        Unconnected,
        /// The peer did not answer in time.
        Timeout,
        /// The socket broke.
        BrokenPipe,
        /// The network failed.
        NetworkFailure,
        /// The peer sent what it must not.
        ProtocolError,
        /// The peer is ending the connection.
        TearDown,
        /// Dialling and listening.
        Connecting,
        /// The handshake is done.
        Connected,
    }
}

states! {
    /// The state of replication with a peer, for one volume.
    ReplicationState {
        /// Not connected.
        Off,
        /// Every write goes to both.
        Established,
        /// A full sync by order is about to start; this is the source.
        StartingSyncS,
        /// A full sync by order is about to start; this is the target.
        StartingSyncT,
        /// The bitmaps are being exchanged; this will be the source.
        WFBitMapS,
        /// The bitmaps are being exchanged; this will be the target.
        WFBitMapT,
        /// Waiting for the peer to adopt.
        WFSyncUUID,
        /// Resync, this is the source.
        SyncSource,
        /// Resync, this is the target.
        SyncTarget,
        /// Online verify, source.
        VerifyS,
        /// Online verify, target.
        VerifyT,
        /// Resync paused, source.
        PausedSyncS,
        /// Resync paused, target.
        PausedSyncT,
        /// Not replicating, congested.
        Ahead,
        /// The peer is Ahead.
        Behind,
    }
}

impl ReplicationState {
    /// Every write goes to both, and neither disk waits for data of the other one. A verify may run.
    #[must_use]
    pub fn mirrors(self) -> bool {
        matches!(self, Self::Established | Self::VerifyS | Self::VerifyT)
    }
}

/// Why a connection is not Connected (outputs.md R1).
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    bincode::Encode,
    bincode::Decode,
)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing is wrong.
    None,
    /// Never since `up`.
    NeverConnected,
    /// No answer.
    Timeout,
    /// Connection refused: the host answers, nobody listens.
    Refused,
    /// No route, or no such address yet.
    NoRoute,
    /// Was connected, then lost.
    Lost,
    /// `disconnect`, here or on the peer.
    StoppedByAdmin,
    /// Both went on alone.
    SplitBrain,
    /// Never copies of each other.
    UnrelatedData,
    /// One disk was set back to an older image.
    RolledBack,
    /// Its node id is not the configured one, or its disk is a clone of ours.
    WrongNode,
    /// Its resource has another name.
    WrongResource,
    /// No common protocol version.
    BadVersion,
    /// It does not know the shared secret.
    BadSecret,
    /// Options that must be equal are not.
    ConfigDiffers,
    /// The resync that is needed is refused (source not usable, Primary would be the target, size).
    ResyncRefused,
}

impl Reason {
    /// Every reason, in order.
    pub const ALL: &'static [Self] = &[
        Self::None,
        Self::NeverConnected,
        Self::Timeout,
        Self::Refused,
        Self::NoRoute,
        Self::Lost,
        Self::StoppedByAdmin,
        Self::SplitBrain,
        Self::UnrelatedData,
        Self::RolledBack,
        Self::WrongNode,
        Self::WrongResource,
        Self::BadVersion,
        Self::BadSecret,
        Self::ConfigDiffers,
        Self::ResyncRefused,
    ];

    /// A handshake ended StandAlone: another one ends alike until a person has done something.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::SplitBrain
                | Self::UnrelatedData
                | Self::RolledBack
                | Self::WrongNode
                | Self::WrongResource
                | Self::BadVersion
                | Self::BadSecret
                | Self::ConfigDiffers
                | Self::ResyncRefused
        )
    }

    /// The word that `status` prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NeverConnected => "never-connected",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::NoRoute => "no-route",
            Self::Lost => "lost",
            Self::StoppedByAdmin => "stopped-by-admin",
            Self::SplitBrain => "split-brain",
            Self::UnrelatedData => "unrelated-data",
            Self::RolledBack => "rolled-back",
            Self::WrongNode => "wrong-node",
            Self::WrongResource => "wrong-resource",
            Self::BadVersion => "bad-version",
            Self::BadSecret => "bad-secret",
            Self::ConfigDiffers => "config-differs",
            Self::ResyncRefused => "resync-refused",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
