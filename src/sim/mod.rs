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
//! | file | idea |
//! |---|---|
//! | `options`, `faults`, `plan`, `prng` | what a seed makes of a run |
//! | `disk`, `metadata`, `pool`, `net` | the simulated machinery |
//! | `cluster`, `node`, `shell`, `streams` | the shell around two cores |
//! | `strike`, `damage` | what goes wrong: with hosts and networks, with disks |
//! | `clients`, `admin` | those who use it |
//! | `history`, `watch`, `verify` | the checkers |
//! | `coverage`, `reachable` | what the seeds have reached, of what there is |
//! | `run`, `shrink`, `transcript` | a run, the shortest failing one, and its text |
//! | `scenario` | a story: commands, and what the cores make of them |
//!
//! Invariants:
//! - The same seed is the same run, bit for bit.
//! - Nothing of the core, the wire codec or the metadata layout is mocked.

mod admin;
mod clients;
mod cluster;
mod coverage;
mod damage;
mod disk;
mod faults;
mod history;
mod metadata;
mod net;
mod node;
mod options;
mod plan;
mod pool;
mod prng;
mod reachable;
mod run;
mod scenario;
mod shell;
mod shrink;
mod streams;
mod strike;
mod transcript;
mod truck;
mod verify;
mod watch;

pub use cluster::{Cluster, Violation};
pub use coverage::{Coverage, Reach, Row, Table};
pub use faults::{Fault, MetaPart, Moment, Order, Planned, Wait};
pub use history::Excused;
pub use options::SimOptions;
pub use run::{End, Failure, Report, run, transcript_of};
pub use scenario::play;
pub use shrink::shrink;
