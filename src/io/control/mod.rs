//! The control thread of `tandemd`, and `tandemadm`: everything between the administrator, the NBD
//! clients at their door, and the data threads.
//!
//! ```text
//! tandemadm ── control.sock ──> admin_socket ─┐
//!                                             ├──> registry ──> data thread (one per resource)
//! NBD client ─ nbd.sock, TCP ─> nbd_socket ───┘        the descriptor moves there in the end
//! ```
//! Invariants:
//! - One thread, tokio-uring's. Nothing here is on the data path, and nothing here blocks on a disk
//!   or a peer: that is done by threads of their own.
//! - tokio-uring is named in this folder only.

mod accept;
pub mod adm;
mod admin_socket;
mod begun;
mod changes;
mod check_up;
pub mod compat;
pub mod daemon;
mod data_thread;
mod dependencies;
mod devices;
mod disks;
mod doors;
mod entry;
mod journal;
mod logging;
mod metrics_socket;
mod nbd_socket;
mod past;
mod path_differs;
mod places;
mod registry;
mod remembered;
mod restart;
mod saved;
mod startup;

pub(crate) use logging::start as start_log;

/// Tells systemd that a program is ready, where it listens.
pub(crate) fn ready() {
    startup::notify("READY=1");
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
