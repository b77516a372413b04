//! What the packets of the handshake carry, beside their header: docs/PROTOCOL.md, section 3.

use serde::{Deserialize, Serialize};

use crate::meta::HISTORY;
use crate::resource::{DiskState, NodeId, Reason, Role, VolumeNumber};

/// The first packet of both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Lowest version spoken.
    pub version_min: u16,
    /// Highest version spoken.
    pub version_max: u16,
    /// Feature bits; unknown ones are ignored, what both have is in force.
    pub features: u32,
    /// The sender's node id.
    pub node_id: NodeId,
    /// The receiver's node id, as the sender's config has it.
    pub peer_node_id: NodeId,
    /// The resource's name, 1 to 127 bytes, UTF-8.
    pub resource: String,
    /// The sender dialled this connection.
    pub dialled: bool,
    /// The sender is Primary at this moment: tells who sends its handshake first. A hint only; the
    /// handshake has the role that counts.
    pub primary: bool,
    /// What the sender's shell calls the run of its system; zeroes: not told. The next one has another
    /// name, and an empty cache.
    #[serde(default)]
    pub system: [u8; 16],
}

/// What the handshake says about the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct Handshake {
    /// The sender's role.
    pub role: Role,
    /// Payload bytes that may be under way to the sender.
    pub window: u32,
    /// A random number of this handshake; the larger one holds the tie bit.
    pub tie: u64,
    /// `connect --tentative`.
    pub tentative: bool,
    /// Options that must be equal, as `name=value`.
    pub must_equal: Vec<(String, String)>,
    /// Options that should be equal, as `name=value`.
    pub should_equal: Vec<(String, String)>,
    /// Software version, for people.
    pub software: String,
    /// Every volume of the sender, by number.
    pub volumes: Vec<VolumeInfo>,
}

/// What the handshake says about one volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct VolumeInfo {
    /// Its number.
    pub volume: VolumeNumber,
    /// The sender's disk; Diskless: the other fields are 0 but `current_uuid` (the exposed one).
    pub disk: DiskState,
    /// Bytes that the disk offers.
    pub data_size: u64,
    /// Exported size, 0: never agreed.
    pub effective_size: u64,
    /// The effective size was exported or synced once.
    pub size_used: bool,
    /// 512 or 4096.
    pub logical_block_size: u32,
    /// Identity of the metadata.
    pub device_uuid: u64,
    /// The identity that the sender remembers of the receiver's disk, 0: none.
    pub peer_device_uuid: u64,
    /// Current UUID.
    pub current_uuid: u64,
    /// Bitmap UUID toward the receiver; without a disk: the current UUID that was asked for (`Packet::NewUuid`) and
    /// not answered.
    pub bitmap_uuid: u64,
    /// History.
    pub history: [u64; HISTORY],
    /// [`crate::meta::DeviceFlags`] in memory (crash flag: PRIMARY_IND from before this attach).
    pub flags: u32,
    /// The sender was a Primary and crashed, and has not been in a session since.
    pub crashed_primary: bool,
    /// Set bits toward the receiver (activity log included), in blocks of 4 KiB.
    pub bits: u64,
    /// Rollback number, `None`: unknown (damage).
    pub number: Option<u64>,
    /// The highest number that the receiver has shown to the sender, `None`: unknown.
    pub seen_number: Option<u64>,
    /// What create-md found, for people: `blank`, or type and label.
    pub created_found: String,
    /// When the sender began its current generation, s of its wall clock (display only); 0: it did
    /// not, or unknown.
    pub generation_time: u64,
    /// The sender's last write that the receiver does not have, s of its wall clock (display only);
    /// 0: none since the attach.
    pub alone_time: u64,
    /// `connect --discard-my-data` waits, for a receiver whose current UUID is this one; 0: any.
    pub discard_my_data_for: Option<u64>,
    /// `resize`: the exported size is to grow to so many bytes; 0: no such order.
    pub resize_to: u64,
    /// With it: both disks have the same bytes behind the exported size.
    pub assume_clean: bool,
}

/// What a node says of itself to who only asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct Description {
    /// Its name.
    pub node: String,
    /// Software version, for people.
    pub software: String,
    /// Options that must be equal, as `name=value`.
    pub must_equal: Vec<(String, String)>,
    /// Options that should be equal, as `name=value`.
    pub should_equal: Vec<(String, String)>,
}

/// Why a connection was refused; the receiver logs it too and both end StandAlone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct Refused {
    /// The class.
    pub reason: Reason,
    /// The rule's name, for people and tests.
    pub rule: String,
    /// A sentence.
    pub text: String,
}
