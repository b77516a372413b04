//! The shell: ring, sockets, files, clocks, threads.

pub mod attach;
pub mod backing;
mod buffer;
mod client;
pub mod config_files;
mod context;
pub mod control;
mod disk;
mod handle;
mod handler;
pub(crate) mod memory;
mod number_map;
mod outbox;
mod peer;
pub mod probe;
pub mod record;
pub mod replay;
mod ring;
mod thread;

pub use client::HeldClient;
pub use handle::{Exported, Handle, Order, OrderError, PeerPath, Setup, Untaken};
pub use handler::HandlerPlaces;
pub use peer::SocketBuffers;
pub use thread::spawn;
