//! A cluster of resources on simulated disks and networks: another shell for
//! [`crate::resource::Resource`], with a clock, a network and disks of its own.
//!
//! ```text
//! plan (seed) -> faults, orders, clients -> events -> Resource::handle -> actions
//!      ^                                                                    |
//!      |   latencies, losses, torn writes (seed)                            v
//!      +--------------- completions <---------- SimDisk, SimNet, Pool <-----+
//! ```
//!
//! Invariants:
//! - The same seed is the same run, bit for bit.
//! - Nothing of the core, the wire codec or the metadata layout is mocked.

mod admin;
mod answers;
mod area;
mod clients;
mod cluster;
mod coverage;
mod damage;
mod disk;
mod excuse;
mod explore;
mod faults;
mod fencing;
mod history;
mod marks;
mod metadata;
mod net;
mod node;
mod options;
mod pacemaker;
mod plan;
mod pool;
mod prng;
mod reachable;
mod run;
mod scenario;
mod shell;
mod shrink;
mod situations;
mod space;
mod stranger;
mod streams;
mod strike;
mod transcript;
mod truck;
mod verify;
mod watch;

pub use cluster::{Cluster, Violation};
pub use coverage::{Coverage, Reach, Row, Table};
pub use explore::{Alphabet, Blow, Broken, Explored, Limits, Move, Turn, explore};
pub use faults::{Fault, MetaPart, Moment, Order, Planned, Struck, Wait};
pub use history::{Book, Excused, Operation};
pub use options::SimOptions;
pub use pacemaker::MarkCounts;
pub use prng::Prng;
pub use run::{End, Failure, Report, run, transcript_of};
pub use scenario::play;
pub use shrink::shrink;
pub use stranger::{attach, attached, hear, heard, seal};
