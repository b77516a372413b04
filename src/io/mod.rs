//! The shell: ring, sockets, files, clocks, threads.

pub mod config_files;
