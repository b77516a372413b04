//! Generation identifiers: 64 random bits, of which the lowest one is a remark.
//!
//! The lowest bit says that *this node* was Primary: in a current UUID, that it is (or was, when it
//! last saw its peer); in a bitmap UUID, that it was when the generation ended that both nodes had.
//! It is no part of the identifier: every comparison masks it. Only the policies
//! discard-younger-primary and discard-older-primary read it. As in DRBD.
//!
//! The rule for whoever keeps identifiers: while connected, the bit of the current UUID follows the
//! role ([`marked`]); a promotion while the peer is away leaves it alone. When the current UUID
//! becomes the bitmap UUID it is moved as it is, and the new current UUID comes from [`fresh`].

use crate::meta::JUST_CREATED;

/// The remark of a UUID.
const WAS_PRIMARY: u64 = 1;

/// Whether two UUIDs name the same generation. Empty ones are "same" too: ask [`is_real`] first
/// where that matters.
#[must_use]
pub fn same(a: u64, b: u64) -> bool {
    a & !WAS_PRIMARY == b & !WAS_PRIMARY
}

/// Whether a UUID is empty.
#[must_use]
pub fn is_empty(uuid: u64) -> bool {
    same(uuid, 0)
}

/// Whether a current UUID is that of a disk which has never held anything: an empty one counts as
/// such.
#[must_use]
pub fn is_just_created(uuid: u64) -> bool {
    is_empty(uuid) || same(uuid, JUST_CREATED)
}

/// Whether a UUID names a generation of data: it is neither empty nor JUST_CREATED, which all fresh
/// disks of the world share.
#[must_use]
pub fn is_real(uuid: u64) -> bool {
    !is_just_created(uuid)
}

/// A new UUID from a random number. Never empty, never JUST_CREATED.
#[must_use]
pub fn fresh(random: u64, primary: bool) -> u64 {
    let uuid = if is_real(random) { random } else { !random };
    marked(uuid, primary)
}

/// The same UUID with the remark that this node is Primary, or is not.
#[must_use]
pub fn marked(uuid: u64, primary: bool) -> u64 {
    uuid & !WAS_PRIMARY | u64::from(primary)
}

/// The remark.
#[must_use]
pub fn was_primary(uuid: u64) -> bool {
    uuid & WAS_PRIMARY != 0
}
