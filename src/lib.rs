//! Tandem: DRBD in userspace. Two machines keep one block device.
//!
//! | room | what it is | pure |
//! |---|---|---|
//! | [`config`] | DRBD's `.res` grammar to checked definitions | yes |
//! | [`resource`] | a resource as a state machine: events in, actions out | yes |
//! | [`wire`] | the peer protocol: packets and their bytes | yes |
//! | [`secret`] | the shared secret: challenge and response | yes |
//! | [`meta`] | the layout of the metadata on disk | yes |
//! | [`sim`] | a cluster of resources on simulated disks and networks | yes |
//! | [`attach`] | a volume as the kernel's `/dev/nbdN`, and the guard that replaces its server | yes |
//! | [`compat`] | DRBD's tools on Tandem: `drbdadm` and `drbdsetup` | yes |
//! | [`control`] | status, events2, why, metrics, the command line | yes |
//! | [`io`] | the shell: ring, sockets, files, clocks, threads | no |
//!
//! docs/ARCHITECTURE.md has every file. The path of a write (protocol C, two nodes):
//!
//! ```text
//! NBD_CMD_WRITE -> role and disk allow it? -> range free of overlapping requests and resync? else wait
//!   -> extents hot in the activity log? else one durable log write for all that wait
//!   -> DiskWrite and Send(Data) at once
//!   -> local completion, WriteAck from the peer -> Reply -> kept in the transfer log until the peer has flushed
//! ```

pub mod attach;
pub mod compat;
pub mod config;
pub mod control;
pub mod io;
pub mod meta;
pub mod resource;
pub mod secret;
pub mod sim;
pub mod wire;
