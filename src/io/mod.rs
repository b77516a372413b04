//! The shell: ring, sockets, files, clocks, threads.
