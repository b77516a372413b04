//! `sh-dev`: a device node for each volume, which agents test for.
//!
//! Invariant: a node that is made here can never be opened as a device of somebody else: its number
//! is one that the kernel's NBD driver does not give out.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::config::{HostVolume, MINOR_MAX};
use crate::resource::VolumeNumber;

/// The major number of the kernel's NBD driver.
const NBD_MAJOR: u64 = 43;

/// The node of a volume: `/dev/nbdN` where the driver is loaded, else one in the run folder that stands
/// for it, with what is wrong where that cannot be made.
pub(super) fn node(
    run_dir: &Path,
    resource: &str,
    number: VolumeNumber,
    volume: &HostVolume,
) -> (PathBuf, Option<String>) {
    let device = PathBuf::from(volume.nbd_device());
    if is_block(&device) {
        return (device, None);
    }
    let folder = run_dir.join("dev");
    let path = folder.join(format!("{resource}-{number}"));
    if is_block(&path) {
        return (path, None);
    }
    let made = fs::create_dir_all(&folder).and_then(|()| {
        let device = makedev(NBD_MAJOR, u64::from(MINOR_MAX - volume.minor));
        mknod(&path, SFlag::S_IFBLK, Mode::from_bits_truncate(0o600), device)?;
        Ok(())
    });
    let wrong = made.err().map(|error| {
        let (device, path) = (device.display(), path.display());
        format!("{path}: {error}; {device} is not there either: `modprobe nbd`")
    });
    // Somebody else may have been quicker.
    let wrong = wrong.filter(|_| !is_block(&path));
    (path, wrong)
}

fn is_block(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}
