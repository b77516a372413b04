//! Real processes: two tandemd on loopback, driven by tandemadm and an NBD client.
//!
//! Only what an administrator and a client can see is looked at: exit codes, printed states, NBD,
//! and the backing files.
//!
//! Invariants:
//! - Each pair has a temporary folder and two ports of its own, and ends with its test.
//! - Nothing sleeps: every wait is for a state, and has a deadline.

mod adjust;
mod clients;
mod damage;
mod disks;
mod failover;
mod frozen;
mod guest;
mod hostile;
mod ledger;
mod limits;
mod namespace;
mod network;
mod pair;
mod plan;
mod refusals;
mod restart;
mod split_brain;
mod strangers;
mod sync;
mod verify;
mod wait;
