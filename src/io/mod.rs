//! The shell: ring, sockets, files, clocks, threads.

pub mod backing;
pub mod config_files;
pub mod control;
