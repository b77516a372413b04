//! What a server says of an export, and what client and server have agreed on.

use crate::constants::*;
use crate::fields::Fields;

/// Block sizes of an export, in bytes: always a lawful triple. proto.md, "Block size constraints".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    minimum: u32,
    preferred: u32,
    maximum: u32,
}

/// Why three numbers are not lawful block sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockSizesError {
    /// The minimum breaks its rule.
    #[error("minimum block size {0} is not a power of two between 1 and 65536")]
    Minimum(u32),
    /// The preferred size breaks its rule.
    #[error("preferred block size {0} is not a power of two of at least 512 and the minimum")]
    Preferred(u32),
    /// The maximum breaks its rule.
    #[error("maximum block size {0} is not a multiple of the minimum from 1 MiB to 32 MiB")]
    Maximum(u32),
}

impl BlockSizes {
    /// Checks the rules of proto.md; our maximum never passes [`PAYLOAD_LIMIT`].
    pub fn new(minimum: u32, preferred: u32, maximum: u32) -> Result<Self, BlockSizesError> {
        if !minimum.is_power_of_two() || minimum > 65536 {
            return Err(BlockSizesError::Minimum(minimum));
        }
        if !preferred.is_power_of_two() || preferred < minimum.max(512) {
            return Err(BlockSizesError::Preferred(preferred));
        }
        let lawful = (1 << 20..=PAYLOAD_LIMIT).contains(&maximum) && maximum >= preferred;
        if !lawful || !maximum.is_multiple_of(minimum) {
            return Err(BlockSizesError::Maximum(maximum));
        }
        Ok(BlockSizes { minimum, preferred, maximum })
    }

    /// Every offset and length is a multiple of this.
    pub fn minimum(&self) -> u32 {
        self.minimum
    }

    /// What is fast.
    pub fn preferred(&self) -> u32 {
        self.preferred
    }

    /// The largest payload.
    pub fn maximum(&self) -> u32 {
        self.maximum
    }
}

impl Default for BlockSizes {
    /// 1, 4096 and 32 MiB: what proto.md lets a client assume that never asked.
    fn default() -> Self {
        BlockSizes { minimum: 1, preferred: 4096, maximum: PAYLOAD_LIMIT }
    }
}

/// An export as the server answers a lookup with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// Bytes.
    pub size: u64,
    /// Writes are refused with EPERM.
    pub read_only: bool,
    /// A sentence for people; empty for none. Cut at 4096 bytes.
    pub description: String,
    /// Block sizes; `BlockSizes::default()` is 1, 4096 and 32 MiB.
    pub block: BlockSizes,
    /// The runs of systems whose caches hold all that was answered. Empty: nothing is said of them.
    pub keepers: Vec<[u8; 16]>,
}

impl ExportInfo {
    /// The transmission flags of this export. DF is offered with structured replies only.
    pub fn transmission_flags(&self, structured: bool) -> u16 {
        let mut flags = NBD_FLAG_HAS_FLAGS
            | NBD_FLAG_SEND_FLUSH
            | NBD_FLAG_SEND_FUA
            | NBD_FLAG_CAN_MULTI_CONN
            | NBD_FLAG_SEND_CACHE;
        if self.read_only {
            flags |= NBD_FLAG_READ_ONLY;
        } else {
            flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
        }
        if structured {
            flags |= NBD_FLAG_SEND_DF;
        }
        flags
    }
}

/// The device that a connection is of: data of [`TANDEM_OPT_DEVICE`]. With its first request all other
/// connections of the device end that are not among its siblings.
#[derive(Clone, PartialEq, Eq)]
pub struct Device {
    /// Of the device: who knows it may end its connections.
    pub token: u64,
    /// Of this connection, never used twice.
    pub connection: u64,
    /// The device's other connections that live, at most [`SIBLINGS_LIMIT`].
    pub siblings: Vec<u64>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is nobody else's.
        write!(f, "Device {{ {:x}, {:x?} }}", self.connection, self.siblings)
    }
}

impl Device {
    /// As data of the option.
    pub fn encode(&self) -> Vec<u8> {
        let siblings = &self.siblings[..self.siblings.len().min(SIBLINGS_LIMIT)];
        let mut data = [self.token.to_be_bytes(), self.connection.to_be_bytes()].concat();
        data.extend_from_slice(&(siblings.len() as u16).to_be_bytes());
        siblings.iter().for_each(|one| data.extend_from_slice(&one.to_be_bytes()));
        data
    }

    /// `None` if the data is anything else.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(data);
        let (token, connection) = (fields.u64()?, fields.u64()?);
        let count = usize::from(fields.u16()?);
        if count > SIBLINGS_LIMIT || fields.rest().len() != count * 8 {
            return None;
        }
        let siblings = std::iter::from_fn(|| fields.u64()).collect();
        Some(Self { token, connection, siblings })
    }
}

/// What the negotiation has settled; fixed for the life of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionParameters {
    /// The export, as the client spelled it.
    pub export: String,
    /// Replies are chunks. True whenever `extended` is.
    pub structured: bool,
    /// Requests and replies have 32-byte headers with 64-bit lengths.
    pub extended: bool,
    /// The client selected `base:allocation` for this export; its identifier is
    /// [`BASE_ALLOCATION_ID`].
    pub base_allocation: bool,
    /// The transmission flags that the client was told.
    pub flags: u16,
    /// Bytes of the export.
    pub size: u64,
    /// The client asked for block sizes with GO, and so has agreed to keep them. proto.md lets
    /// a server refuse unaligned requests only then.
    pub client_asked_block_size: bool,
    /// The block sizes of the export.
    pub block: BlockSizes,
    /// The device that the connection is of, if it said so.
    pub device: Option<Device>,
}
