//! The shell: ring, sockets, files, clocks, threads.

pub mod backing;
