//! What happens once, before the daemon serves: the ring is probed, the run folder is locked, the
//! sockets are bound.
//!
//! Invariants:
//! - One daemon per run folder: whoever has the lock owns the sockets, and may replace them.
//! - A socket is never open to more than its mode says, not even for a moment.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};

use crate::io::attach::open_for_owner;
use crate::io::probe;

/// A lock or a port of a process that was killed may be let go of late.
const TAKEN_LIMIT: Duration = Duration::from_secs(5);
/// How often it is tried meanwhile.
const TAKEN_PAUSE: Duration = Duration::from_millis(50);

/// The daemon cannot start: the sentence and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What is wrong and what to do.
    pub(crate) text: String,
    /// 20 where io_uring cannot be used, 10 otherwise.
    pub(crate) exit_code: i32,
}

/// Descriptors for the daemon itself, one resource, its peer and a client.
const OPEN_FILES_MIN: u64 = 32;

fn failure(text: String) -> Failure {
    Failure { text, exit_code: 10 }
}

/// Asks the kernel for what the data threads and this one need.
///
/// # Errors
/// The cause and its cure, exit code 20.
pub(crate) fn probe_ring() -> Result<(), Failure> {
    probe::check().map_err(|error| Failure { text: error.to_string(), exit_code: 20 })
}

/// Raises the limit of descriptors as far as it goes, and refuses one that is too low to work with.
///
/// # Errors
/// The cause and its cure, exit code 20.
pub(crate) fn descriptors() -> Result<(), Failure> {
    match probe::raise_open_files() {
        Ok(limit) if limit < OPEN_FILES_MIN => {
            let text = format!(
                "no more than {limit} files may be open, and this daemon needs {OPEN_FILES_MIN} at \
                 least: raise the hard limit (LimitNOFILE= of the unit, or ulimit -Hn)"
            );
            Err(Failure { text, exit_code: 20 })
        }
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!("the limit of descriptors stays as it is: {error}");
            Ok(())
        }
    }
}

/// Makes the run folder and takes its lock; it holds as long as the value lives.
///
/// # Errors
/// Another daemon has it (named by its pid), or the folder cannot be made.
pub(crate) fn lock(run_dir: &Path) -> Result<Flock<File>, Failure> {
    std::fs::create_dir_all(run_dir)
        .map_err(|error| failure(format!("{}: {error}", run_dir.display())))?;
    let path = run_dir.join("lock");
    let cannot = |error: io::Error| failure(format!("{}: {error}", path.display()));
    let begin = Instant::now();
    let mut file = open_for_owner(&path).map_err(cannot)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0).map_err(cannot)?;
                lock.rewind().map_err(cannot)?;
                writeln!(lock, "{}", std::process::id()).map_err(cannot)?;
                return Ok(lock);
            }
            Err((mut refused, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                refused.rewind().map_err(cannot)?;
                // A pid is short; the file may be anybody's.
                (&refused).take(32).read_to_string(&mut holder).map_err(cannot)?;
                let holder = holder.trim().to_owned();
                if begin.elapsed() > TAKEN_LIMIT || is_alive(&holder) {
                    return Err(failure(format!(
                        "another tandemd runs on {} (pid {holder}): stop it first, or give \
                         --run-dir another folder",
                        run_dir.display()
                    )));
                }
                std::thread::sleep(TAKEN_PAUSE);
                file = refused;
            }
            Err((_, error)) => return Err(cannot(error.into())),
        }
    }
}

/// Takes the lock that the program before has handed on: it was never let go of.
///
/// # Errors
/// It is not the lock of this run folder.
pub(crate) fn lock_again(file: File, run_dir: &Path) -> Result<Flock<File>, Failure> {
    use std::os::unix::fs::MetadataExt;
    let path = run_dir.join("lock");
    let cannot = |error: io::Error| failure(format!("{}: {error}", path.display()));
    let (own, there) =
        (file.metadata().map_err(cannot)?, std::fs::metadata(&path).map_err(cannot)?);
    if (own.dev(), own.ino()) != (there.dev(), there.ino()) {
        return Err(failure(format!("{}: not the lock that was handed on", path.display())));
    }
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| cannot(error.into()))
}

/// Whether a process with this pid runs. One that was killed and is still being cleared away does
/// not.
fn is_alive(pid: &str) -> bool {
    !matches!(process_state(pid), Some('Z' | 'X' | 'x') | None)
}

/// The state of a process, as `/proc` says it (`T`: stopped); `None`: none is there.
pub(super) fn process_state(pid: &str) -> Option<char> {
    if pid.is_empty() || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The state stands behind the name, which is in brackets and may hold anything.
    let stat = String::from_utf8_lossy(&stat);
    stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next())
}

/// Binds a Unix socket with mode 0660, in place of one that a killed daemon left. Call it with the
/// run folder locked, and before there are threads: the umask is the process's.
///
/// # Errors
/// The path is too long, or not writable; the group cannot be given.
pub(crate) fn bind_unix(path: &Path, group: Option<u32>) -> Result<UnixListener, Failure> {
    let cannot = |error: io::Error| failure(format!("{}: {error}", path.display()));
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
        Ok(()) | Err(_) => {}
    }
    // Until the group is given, nobody but the owner.
    let first = if group.is_some() { 0o177 } else { 0o117 };
    let before = umask(Mode::from_bits_truncate(first));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.map_err(cannot)?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(cannot)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o660);
        std::fs::set_permissions(path, mode).map_err(cannot)?;
    }
    listener.set_nonblocking(true).map_err(cannot)?;
    Ok(listener)
}

/// Binds a TCP address for NBD clients; an address that is taken is tried for 5 s.
///
/// # Errors
/// It is taken, or not this host's; it is beyond loopback and `insecure` was not said.
pub(crate) fn bind_tcp(address: SocketAddr, insecure: bool) -> Result<TcpListener, Failure> {
    if !address.ip().is_loopback() && !insecure {
        return Err(failure(format!(
            "--nbd-listen {address}: NBD is not encrypted and knows no passwords, whoever reaches \
             this address can read and write every volume; say --nbd-insecure if that is meant"
        )));
    }
    bind("--nbd-listen", address)
}

/// Binds a TCP address for `/metrics`; as [`bind_tcp`].
///
/// # Errors
/// It is taken, or not this host's; it is beyond loopback and `insecure` was not said.
pub(crate) fn bind_metrics(address: SocketAddr, insecure: bool) -> Result<TcpListener, Failure> {
    if !address.ip().is_loopback() && !insecure {
        return Err(failure(format!(
            "--metrics-listen {address}: whoever reaches this address can read the names and \
             states of every resource; say --metrics-insecure if that is meant"
        )));
    }
    bind("--metrics-listen", address)
}

fn bind(option: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    let cannot = |error: io::Error| failure(format!("{option} {address}: {error}"));
    let begin = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => {
                listener.set_nonblocking(true).map_err(cannot)?;
                return Ok(listener);
            }
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && begin.elapsed() < TAKEN_LIMIT =>
            {
                std::thread::sleep(TAKEN_PAUSE);
            }
            Err(error) => return Err(cannot(error)),
        }
    }
}

/// Tells systemd a state such as `READY=1`, where it listens.
pub(crate) fn notify(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        use std::os::unix::ffi::OsStrExt;
        match path.as_bytes().strip_prefix(b"@") {
            Some(name) => {
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(state.as_bytes(), &address)
            }
            None => socket.send_to(state.as_bytes(), &path),
        }
    });
    if let Err(error) = sent {
        tracing::warn!("systemd was not told {state}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_daemon_is_told_who_has_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let refused = lock(dir.path()).unwrap_err();
        assert!(refused.text.contains(&format!("(pid {})", std::process::id())), "{refused:?}");
        drop(held);
        // Who may read it could lock it. One of an older version is no one else's from now on, either.
        let (path, mode) = (dir.path().join("lock"), std::os::unix::fs::PermissionsExt::from_mode);
        std::fs::set_permissions(&path, mode(0o644)).unwrap();
        let _held = lock(dir.path()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions(), mode(0o100_600));
    }

    #[test]
    fn a_stale_socket_is_replaced_with_mode_0660() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        for _ in 0..2 {
            drop(bind_unix(&path, None).unwrap());
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        }
    }

    #[test]
    fn addresses_beyond_loopback_need_a_word() {
        let refused = bind_tcp("0.0.0.0:0".parse().unwrap(), false).unwrap_err();
        assert!(refused.text.contains("--nbd-insecure"));
        bind_tcp("0.0.0.0:0".parse().unwrap(), true).unwrap();
        bind_tcp("[::1]:0".parse().unwrap(), false).unwrap();
        let refused = bind_metrics("0.0.0.0:0".parse().unwrap(), false).unwrap_err();
        assert!(refused.text.contains("--metrics-insecure"));
        bind_metrics("0.0.0.0:0".parse().unwrap(), true).unwrap();
    }

    #[test]
    fn a_dead_process_holds_nothing() {
        assert!(is_alive(&std::process::id().to_string()));
        assert!(!is_alive(""));
        assert!(!is_alive("4194305"));
        assert!(!is_alive("1/../1"));
    }
}
