//! The way of a client's request and of a peer's, from its range to its reply; and what bounds it:
//! the activity log and the transfer log.

pub(in crate::resource) mod activity_log;
pub(in crate::resource) mod by_use;
pub(in crate::resource) mod cache;
pub(in crate::resource) mod clients;
pub(in crate::resource) mod flush;
pub(in crate::resource) mod interval;
pub(in crate::resource) mod peer_io;
pub(in crate::resource) mod request;
pub(in crate::resource) mod space;
pub(in crate::resource) mod transfer_log;
pub(in crate::resource) mod write;
