//! What makes two disks equal, or finds out whether they are: resync and verify.

pub(in crate::resource) mod csums;
pub(in crate::resource) mod holes;
pub(in crate::resource) mod repair;
pub(in crate::resource) mod resync;
pub(in crate::resource) mod resync_rate;
pub(in crate::resource) mod resync_source;
pub(in crate::resource) mod resync_target;
pub(in crate::resource) mod verify;
pub(in crate::resource) mod verify_source;
pub(in crate::resource) mod verify_target;
