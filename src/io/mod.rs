//! The shell: ring, sockets, files, clocks, threads.

pub mod backing;
mod buffer;
mod client;
mod context;
mod disk;
mod outbox;
mod peer;
pub mod probe;
mod record;
mod ring;
mod thread;

pub use thread::{Handle, Order, OrderError, Setup, spawn};
