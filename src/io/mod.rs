//! The shell: ring, sockets, files, clocks, threads.

mod buffer;
pub mod probe;
mod ring;
