//! Real processes: two tandemd on loopback, driven by tandemadm and an NBD client.
//!
//! Only what an administrator and a client can see is looked at: exit codes, printed states, NBD,
//! and the backing files.
//!
//! Invariants:
//! - Each pair has a temporary folder and two ports of its own, and ends with its test.
//! - Nothing sleeps: every wait is for a state, and has a deadline.

#[path = "../../tools/src/dmlog.rs"]
#[allow(dead_code, unreachable_pub)]
mod dmlog;
#[path = "../../tools/src/logged_disk.rs"]
#[allow(dead_code, unreachable_pub)]
mod logged_disk;
#[path = "../../tools/src/programs.rs"]
#[allow(unreachable_pub)]
mod programs;

mod adjust;
mod administrators;
mod attach_agent;
mod attach_unit;
mod attached;
mod clients;
mod clones;
mod crashes;
mod damage;
mod deadlines;
mod disk_errors;
mod disks;
mod drbd_agent;
mod drbd_names;
mod durable;
mod failover;
mod fencing;
mod frozen;
mod fuse;
mod guest;
mod hand_over;
mod holes;
mod host;
mod hostile;
mod hung;
mod late;
mod ledger;
mod let_go;
mod limits;
mod load;
mod metadata;
mod metrics;
mod migration;
mod namespace;
mod nbd_commands;
mod nbd_many;
mod nbd_options;
mod network;
mod operations;
mod orders;
mod own_agent;
mod pair;
mod pause;
mod ping;
mod plan;
mod policies;
mod qsd;
mod reactor;
mod refusals;
mod relay;
mod removal;
mod replaced;
mod resize;
mod restart;
mod second_day;
mod secret;
mod split_brain;
mod stage;
mod strangers;
mod sync;
mod taken_over;
mod verify;
mod views;
mod wait;
