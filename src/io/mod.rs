//! The shell: ring, sockets, files, clocks, threads.

pub mod backing;
pub mod control;
