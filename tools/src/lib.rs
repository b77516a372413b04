//! What the tools share, and `tests/daemon` with them.

pub mod core_pair;
pub mod dmlog;
pub mod logged_disk;
pub mod programs;
