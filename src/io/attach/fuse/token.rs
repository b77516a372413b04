//! The token of a volume's device over FUSE, by which its server knows the connections of one device.
//!
//! Invariants:
//! - The device ends with its guard, and a guard that was killed may leave a write on its way. So the next
//!   attach has the same token: its first request ends what the dead guard has left, and nothing lands late.
//! - A device that was detached, or let go of, has left nothing, and the next one is another one.
//! - A server that has lost what a device was answered tells so whoever comes with its token. A new attach
//!   was answered nothing, so it ends what is left there and takes another token.
//! - Whoever knows the token may end the device's connections: the file is its owner's alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nbd::constants::NBD_REQUEST_MAGIC;
use nbd::request::Command;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::io::attach::dial::Link;
use crate::io::attach::system;

/// How long a server may take to answer the one request of a device that goes.
const ANSWER: Duration = Duration::from_secs(5);

/// `DIR/fuse-RES-VOL.token`.
pub(super) struct Token(PathBuf);

impl Token {
    /// By the name of the device's files.
    pub(super) fn of(run_dir: &Path, name: &str) -> Self {
        Self(run_dir.join(format!("{name}.token")))
    }

    /// What a guard that was killed has left.
    pub(super) fn kept(&self) -> Option<u64> {
        let text = fs::read_to_string(&self.0).ok()?;
        u64::from_str_radix(text.trim(), 16).ok()
    }

    /// A new one, which is kept.
    ///
    /// # Errors
    /// There is no randomness, or it cannot be written down.
    pub(super) fn renew(&self) -> io::Result<u64> {
        let token = system::token()?;
        let new = self.0.with_extension("token.new");
        // What is there may be anybody's to read.
        self.remove(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        write!(file, "{token:016x}")?;
        fs::rename(&new, &self.0)?;
        Ok(token)
    }

    /// The device has left nothing.
    pub(super) fn forget(&self) {
        self.remove(&self.0);
    }

    fn remove(&self, path: &Path) {
        // That it is not there is as good.
        let _ = fs::remove_file(path);
    }
}

/// Ends what a device has left at a server, with a request on a new connection of it, and that one too.
///
/// # Errors
/// There is no answer.
pub(super) fn end_device(link: Link) -> io::Result<()> {
    let limit = TimeVal::new(i64::try_from(ANSWER.as_secs()).unwrap_or(i64::MAX), 0);
    setsockopt(&link.socket, sockopt::ReceiveTimeout, &limit)?;
    setsockopt(&link.socket, sockopt::SendTimeout, &limit)?;
    let mut flush = Vec::with_capacity(28);
    flush.extend(NBD_REQUEST_MAGIC.to_be_bytes());
    flush.extend([0; 2]);
    flush.extend(Command::Flush.code().to_be_bytes());
    flush.extend([0; 20]);
    let mut socket = File::from(link.socket);
    socket.write_all(&flush)?;
    // Whatever it answers: it has begun it.
    socket.read_exact(&mut [0; 16])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_kept_for_its_owner_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let token = Token::of(dir.path(), "fuse-r0-0");
        assert_eq!(token.kept(), None);
        fs::write(dir.path().join("fuse-r0-0.token.new"), "of a crash").unwrap();
        let first = token.renew().unwrap();
        assert_eq!(token.kept(), Some(first));
        let mode = fs::metadata(dir.path().join("fuse-r0-0.token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(token.renew().unwrap(), first);
        assert_ne!(token.kept(), Some(first));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        token.forget();
        token.forget();
        assert_eq!(token.kept(), None);
    }
}
