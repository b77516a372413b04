//! A cluster of resources on simulated disks and networks.
