//! A volume's disk on this node: its metadata in memory, their writes, and what it does when the disk
//! hangs.

pub(in crate::resource) mod bitmap;
pub(in crate::resource) mod came_back;
pub(in crate::resource) mod device;
pub(in crate::resource) mod hung_disk;
pub(in crate::resource) mod number;
pub(crate) mod parting;
pub(in crate::resource) mod storage;
