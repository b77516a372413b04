//! The session with the peer: from dialling to the verdict, how it is carried out, and how it ends.

pub(in crate::resource) mod authenticate;
pub(in crate::resource) mod come_back;
pub(in crate::resource) mod connect;
pub(in crate::resource) mod connection;
pub(in crate::resource) mod fencing;
pub mod generation;
pub(in crate::resource) mod handlers;
pub(in crate::resource) mod handshake;
pub(in crate::resource) mod leave;
pub(in crate::resource) mod loss;
pub(in crate::resource) mod newer_peer;
pub(in crate::resource) mod session;
pub mod split_brain;
pub(in crate::resource) mod tentative;
pub(in crate::resource) mod verdict;
