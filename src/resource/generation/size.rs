//! The size that two disks agree on, and their common logical block.

use crate::resource::{DiskState, Reason};
use crate::wire::{Refused, VolumeInfo};

/// The effective size of the volume after a handshake, bytes, a multiple of 4096; 0: neither side
/// has a disk and no size was ever agreed on.
///
/// A size that was exported or synced once never shrinks by a handshake, nor does it grow: that is
/// `resize`. Before its first use it is the smaller of the two disks. Both sides come to the same
/// answer, or to the same refusal.
///
/// # Errors
/// A disk is smaller than what the volume is in use with, or offers not a single block.
pub fn agree_size(own: &VolumeInfo, peer: &VolumeInfo) -> Result<u64, Refused> {
    let sides = [own, peer];
    let used = sides.iter().filter(|v| v.size_used).map(|v| v.effective_size).max().unwrap_or(0);
    let offered = sides
        .iter()
        .filter(|v| v.disk != DiskState::Diskless)
        .map(|v| v.data_size / 4096 * 4096)
        .min();
    let Some(offered) = offered else {
        return Ok(own.effective_size.max(peer.effective_size));
    };
    if used != 0 && offered >= used {
        return Ok(used);
    }
    if used == 0 && offered != 0 {
        return Ok(offered);
    }
    let text = if used == 0 {
        "a disk is smaller than one block of 4096 bytes: give it a larger one".to_owned()
    } else {
        format!(
            "the volume is in use with {used} bytes, and the smaller of the two disks has \
             {offered}: grow that disk by at least {} bytes, then connect",
            used - offered
        )
    };
    Err(Refused { reason: Reason::ResyncRefused, rule: "size".to_owned(), text })
}

/// The unit that writes are replicated in: the larger logical block of the two disks, bytes.
#[must_use]
pub fn agree_block(own: &VolumeInfo, peer: &VolumeInfo) -> u32 {
    own.logical_block_size.max(peer.logical_block_size).max(512)
}
