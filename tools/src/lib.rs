//! What the tools share.

pub mod core_pair;
