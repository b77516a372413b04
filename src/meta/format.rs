//! What create-md writes.

use super::block::{encode_al, encode_seen};
use super::geometry::Geometry;
use super::stages::{Stage, one_stage, stages};
use super::superblock::{FOUND_MAX, check};
use super::{AlBlock, DeviceFlags, HISTORY, JUST_CREATED, MetaError, MetaOp, PeerSlot, Superblock};
use crate::resource::{NodeId, VolumeNumber};

/// Whose disk it will be, and what was found on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDisk {
    /// The resource's name.
    pub resource: String,
    /// The volume's number.
    pub volume: VolumeNumber,
    /// This node's id.
    pub node_id: NodeId,
    /// Wall clock, seconds.
    pub created_time: u64,
    /// `blank`, or what was found: type and label. Cut to what fits.
    pub found: String,
    /// The data area was blank.
    pub blank: bool,
    /// Blocks are kept on trim and zeroes.
    pub preallocated: bool,
    /// Boot id of the host.
    pub boot_id: [u8; 16],
}

/// The first superblock of a disk and the writes that put it there. The data is Inconsistent, the
/// identifier is JUST_CREATED, and every slot is free with every bit set: a fresh disk may differ
/// anywhere from any peer. No bitmap page is written. The superblock comes last, so that a
/// create-md that was cut short leaves no metadata that looks whole.
///
/// # Errors
/// The name or the node id is outside of what the layout allows.
pub fn format_new(
    geometry: &Geometry,
    new: &NewDisk,
) -> Result<(Superblock, Vec<Stage>), MetaError> {
    let mut flags = DeviceFlags::CLEAN;
    if new.blank {
        flags |= DeviceFlags::CREATED_BLANK;
    }
    if new.preallocated {
        flags |= DeviceFlags::PREALLOCATED;
    }
    let slot = PeerSlot::free();
    let superblock = Superblock {
        sequence: 1,
        device_uuid: geometry.device_uuid,
        resource: new.resource.clone(),
        volume: new.volume,
        node_id: new.node_id,
        effective_size: 0,
        al_block_size: geometry.al_block_size,
        data_size: geometry.data_size,
        current_uuid: JUST_CREATED,
        history: [0; HISTORY],
        flags,
        number: 0,
        boot_id: new.boot_id,
        generation_time: new.created_time,
        generation_node: new.node_id,
        created_time: new.created_time,
        created_found: printable(&new.found, FOUND_MAX),
        clean_size: 0,
        clean_digest: 0,
        peers: vec![slot; usize::from(geometry.max_peers)],
    };
    check(&superblock).map_err(MetaError::Invalid)?;
    let mut all = one_stage(blank_blocks(geometry));
    all.extend(stages(geometry, &MetaOp::Superblock(Box::new(superblock.clone()))));
    Ok((superblock, all))
}

/// An activity log with nothing hot, and seen numbers of 0.
fn blank_blocks(geometry: &Geometry) -> Vec<(u64, bytes::Bytes)> {
    let words = geometry.extents_per_block() as usize / 64;
    let mut writes = Vec::new();
    for index in 0..geometry.al_blocks {
        let block = AlBlock { index, number: 0, words: vec![0; words] };
        writes.push((geometry.al_block_offset(index), encode_al(geometry, &block)));
    }
    for slot in 0..geometry.max_peers {
        for copy in 0..2 {
            let block = encode_seen(geometry, slot, copy, 0);
            writes.push((geometry.seen_offset(slot, copy), block));
        }
    }
    writes
}

/// A text from a disk, fit for a terminal: control characters become `?`, at most `limit` bytes.
#[must_use]
pub fn printable(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = if c.is_control() { '?' } else { c };
        if out.len() + c.len_utf8() > limit {
            break;
        }
        out.push(c);
    }
    out
}
