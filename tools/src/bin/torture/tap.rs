//! A tap: a network interface whose frames a process reads and writes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

/// `struct ifreq`: the name, then a union whose first member here is the flags.
#[repr(C, align(8))]
struct Request {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// Whole Ethernet frames, with nothing in front of them: IFF_TAP and IFF_NO_PI.
const FLAGS: i16 = 0x0002 | 0x1000;

nix::ioctl_write_ptr_bad!(set_interface, nix::request_code_write!(b'T', 202, 4), Request);

/// Makes a tap of this name in the own network namespace. It lives as long as the file, also where
/// it is moved to another namespace.
///
/// # Errors
/// There is no `/dev/net/tun`, or this user may not.
pub(crate) fn tap(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = Request { name: [0; 16], flags: FLAGS, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one `struct ifreq` of 40 bytes,
    // which `request` is and outlives.
    unsafe { set_interface(file.as_raw_fd(), &raw const request) }?;
    Ok(file)
}
