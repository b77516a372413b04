//! The NBD protocol, without I/O: what a server says and hears, as plain functions over bytes.
//!
//! The rules are those of the NBD project's `doc/proto.md`, its `EXTENDED_HEADERS` extension
//! included. Nothing here knows what stands behind an export. Only [`client`], a small blocking
//! client for tests and tools, opens sockets.
//!
//! A server's connection goes through three rooms:
//!
//! ```text
//! Negotiation::greeting ──> bytes to the client
//!    loop: read exactly Negotiation::wants() bytes ──> Negotiation::feed
//!          Step::Lookup ──> the server decides ──> Negotiation::answer
//!    Step::Enter { session }
//! request::header_length, request::parse, request::check ──> what to do
//! reply::Replies::for_session, reply::ReadReply ──> headers; payload is the caller's own buffer
//! ```
//!
//! Invariants:
//! - Every byte from outside is hostile: it ends in a reply or a clean close, never in a panic.
//! - Memory is bounded by constants of this crate, never by a length that the client announced.
//! - The negotiation never asks for a byte beyond the message at hand, so a socket can change
//!   hands between the two phases with nothing left in a buffer.

#![forbid(unsafe_code)]

pub mod client;
pub mod constants;
mod errno;
mod fields;
mod negotiation;
pub mod reply;
pub mod request;
mod session;

pub use errno::Errno;
pub use negotiation::{CloseReason, ListedExport, LookupError, Negotiation, Step};
pub use reply::{ReadReply, Replies};
pub use request::{Checked, Command, Request, RequestError};
pub use session::{BlockSizes, BlockSizesError, Device, ExportInfo, SessionParameters};
