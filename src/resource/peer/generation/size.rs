//! The size that two disks agree on, and their common logical block.

use super::{Side, is_just_created};
use crate::resource::{DiskState, Reason, Role};
use crate::wire::{Refused, VolumeInfo};

/// The effective size of the volume after a handshake, bytes, a multiple of 4096; 0: neither side
/// has a disk and no size was ever agreed on.
///
/// A size that was exported or synced once never shrinks by a handshake. It grows where either side
/// says so (`resize`), as far as both disks have room. Before its first use it is the smaller of the two disks. Both sides come to the same
/// answer, or to the same refusal.
///
/// # Errors
/// A disk is smaller than what the volume is in use with, or offers not a single block.
pub fn agree_size(own: &VolumeInfo, peer: &VolumeInfo) -> Result<u64, Refused> {
    let sides = [own, peer];
    let used = sides.iter().filter(|v| is_used(v)).map(|v| v.effective_size).max().unwrap_or(0);
    let offered = sides
        .iter()
        .filter(|v| v.disk != DiskState::Diskless)
        .map(|v| v.data_size / 4096 * 4096)
        .min();
    let Some(offered) = offered else {
        return Ok(own.effective_size.max(peer.effective_size));
    };
    if used != 0 && offered >= used {
        let wanted = own.resize_to.max(peer.resize_to);
        return Ok(used.max(wanted.min(offered)));
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

/// Its size was exported or synced: also by a node that has become a target, or was declared equal, as
/// a fresh disk.
fn is_used(info: &VolumeInfo) -> bool {
    info.size_used || (info.effective_size != 0 && !is_just_created(info.current_uuid))
}

/// Blocks that one of the disks has not had in use and that both will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The first byte.
    pub from: u64,
    /// Behind the last byte.
    pub to: u64,
    /// Both disks have the same bytes there: they were compared.
    pub clean: bool,
}

/// What the agreed size adds to what a disk was in use with. Also where no `resize` is ordered: one
/// was cut off between the nodes.
#[must_use]
pub fn growth(own: &VolumeInfo, peer: &VolumeInfo) -> Option<Growth> {
    let to = agree_size(own, peer).ok()?;
    let disks = [own, peer].into_iter().filter(|v| v.disk != DiskState::Diskless);
    let from = disks.filter(|v| is_used(v)).map(|v| v.effective_size).min()?;
    // Sizes that differ are of an order that was cut off: what it had compared is of the past.
    let even = own.effective_size == peer.effective_size;
    let clean = even && (own.assume_clean || peer.assume_clean);
    (from < to).then_some(Growth { from, to, clean })
}

/// Whether the blocks of a [`Growth`] are copied from the own disk, where nothing else is copied. A
/// disk that is being attached in an open session is never the source; clients have seen the data of
/// a Primary; a larger disk may have shown them too.
#[must_use]
pub fn grows_from_own(own: (&Side<'_>, bool), peer: (&Side<'_>, bool)) -> bool {
    let ((own, attaching_own), (peer, attaching_peer)) = (own, peer);
    let primary = |side: &Side<'_>| side.role == Role::Primary;
    let ordered = |side: &Side<'_>| side.info.resize_to != 0;
    let differs = |a: bool, b: bool| (a != b).then_some(a);
    differs(attaching_peer, attaching_own)
        .or_else(|| differs(primary(own), primary(peer)))
        .or_else(|| {
            let (a, b) = (own.info.effective_size, peer.info.effective_size);
            (a != b).then_some(a > b)
        })
        .or_else(|| differs(ordered(own), ordered(peer)))
        .unwrap_or_else(|| own.holds_tie(peer))
}

/// The unit that writes are replicated in: the larger logical block of the two disks, bytes.
#[must_use]
pub fn agree_block(own: &VolumeInfo, peer: &VolumeInfo) -> u32 {
    own.logical_block_size.max(peer.logical_block_size).max(512)
}
