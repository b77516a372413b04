//! A volume as the kernel's block device `/dev/nbdN`: what is said to the driver, and the guard
//! that gives the device a new server when the old one has gone.
//!
//! The kernel speaks NBD by itself once it has a socket. What it cannot do is find another server:
//! it says that a link is dead, holds the requests for a while, and waits for a new socket. That
//! is the guard's work (`guard`), a state machine without I/O; its shell is `io::attach`.
//!
//! Invariants:
//! - Pure: no files, no sockets, no clock.
//! - A device is given a socket only under the identifier it was attached with (`backend`), and
//!   only one of an export that is no smaller and can do what the kernel was told (`terms`).

mod adoption;
mod arguments;
mod backend;
mod fuse_record;
mod guard;
mod message;
mod record;
mod server;
mod terms;

pub use adoption::Times;
pub use arguments::{AttachArguments, AttachOptions, Volume, command, parse};
pub use backend::Backend;
pub use fuse_record::FuseRecord;
pub use guard::{Action, DialError, Event, Guard, Keeper, Progress};
pub(crate) use message::GROUP;
pub use message::{Connect, Message};
#[cfg(test)]
pub(crate) use record::record as a_record;
pub use record::{AFTER_LET_GO, Guarded, Record};
pub use server::{DEFAULT_PORT, Server, primary_named};
pub use terms::{Terms, Unfit, discard_max};
