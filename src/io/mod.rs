//! The shell.
pub mod control;
