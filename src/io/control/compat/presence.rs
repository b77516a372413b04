//! Whether there is a daemon: one that is silent is never taken for one that is not there.
//!
//! Invariants:
//! - Not there means: nobody listens, and nobody holds the lock of the run folder. Whatever else is wrong, the daemon may
//!   be serving clients, and it is waited for.
//! - Only the process that has the lock open is ever killed, and only by who was told to demote or
//!   take down; afterwards the lock is free.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{AccessFlags, Pid, access};

use super::super::adm::client::Client;
use super::super::adm::{Failure, complain};
use crate::control::{Request, Response};

/// How long a silent daemon is waited for: longer than a cluster waits for its agent, so that the
/// agent runs into its time limit and the node is fenced, instead of being told something.
pub(super) const PATIENCE: Duration = Duration::from_secs(3600);
/// How long it may be silent before a person is told what is waited for.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// What its process is called.
const DAEMONS: &[&str] = &["tandemd"];
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// The daemon, as it was found.
pub(super) enum Presence {
    /// Nobody has the lock.
    Absent,
    /// It has answered.
    There(Client),
}

/// Waits until the daemon answers, or is not there; `None`: it has been silent for so long.
///
/// # Errors
/// Exit 20: the caller may not ask it.
pub(super) fn settle(run_dir: &Path, limit: Duration) -> Result<Option<Presence>, Failure> {
    let deadline = Instant::now() + limit;
    let mut told = false;
    loop {
        may_ask(run_dir)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = if told { left } else { left.min(TOLD_AFTER) };
        let patience = patience.max(PAUSE);
        let asked = match Client::connect(run_dir, patience) {
            Err(_) if !is_held(run_dir) => return Ok(Some(Presence::Absent)),
            Err(failure) => Err(failure),
            // Somebody listens, whatever has become of the lock's file. A connection that is waiting
            // is answered as soon as the daemon goes on.
            Ok(client) => answered(client),
        };
        match asked {
            Ok(client) => return Ok(Some(Presence::There(client))),
            Err(_) if Instant::now() >= deadline => return Ok(None),
            Err(failure) => {
                // One that starts, or ends, is soon through with it.
                if !told && patience >= TOLD_AFTER {
                    complain(&format!("{}\nIt holds its lock, and is waited for.", failure.text));
                    told = true;
                }
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// The daemon, if it answers.
fn answered(mut client: Client) -> Result<Client, Failure> {
    match client.ask(&Request::Running { resource: String::new() })? {
        Response::Running(_) => Ok(client),
        _ => Err(Failure::new(20, "tandemd: an answer to another question")),
    }
}

/// Whether the socket may be asked, where there is one.
fn may_ask(run_dir: &Path) -> Result<(), Failure> {
    let socket = run_dir.join("control.sock");
    match access(&socket, AccessFlags::R_OK | AccessFlags::W_OK) {
        Err(Errno::EACCES) => {
            let text = format!(
                "tandemd cannot be asked on {}: Permission denied\nBe root, or in the group that \
                 tandemd was started with (--socket-group).",
                socket.display()
            );
            Err(Failure::new(20, text))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether somebody holds the daemon's lock. What cannot be found out counts as held.
pub(super) fn is_held(run_dir: &Path) -> bool {
    let file = match File::open(run_dir.join("lock")) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return unlinked_holder(run_dir, DAEMONS).is_some();
        }
        Err(_) => return true,
    };
    // Shared, and only for a moment: a daemon that starts just now tries again.
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
}

/// Kills who holds the lock, and returns when it is free; `false`: it is not known who it is, or it
/// does not end.
pub(super) fn kill_holder(run_dir: &Path, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let Some(pid) = holder(run_dir) else { return !is_held(run_dir) };
    complain(&format!("tandemd (pid {pid}) is silent: it is killed"));
    if kill(pid, Signal::SIGKILL).is_err() {
        return !is_held(run_dir);
    }
    while is_held(run_dir) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    true
}

/// The tandemd whose lock was removed under it, with all of the folder: it has it open as before, and serves whom it
/// served.
fn unlinked_holder(run_dir: &Path, names: &[&str]) -> Option<Pid> {
    let folder = fs::canonicalize(run_dir).unwrap_or_else(|_| run_dir.to_path_buf());
    let mut gone = folder.join("lock").into_os_string();
    gone.push(" (deleted)");
    let is_ours = |pid: &i32| {
        let process = Path::new("/proc").join(pid.to_string());
        let comm = fs::read_to_string(process.join("comm"));
        let open = || fs::read_dir(process.join("fd")).ok();
        comm.is_ok_and(|name| names.contains(&name.trim_end()))
            && open().is_some_and(|mut open| {
                open.any(|fd| {
                    fd.is_ok_and(|fd| fs::read_link(fd.path()).is_ok_and(|file| file == *gone))
                })
            })
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    pids.find(is_ours).map(Pid::from_raw)
}

/// The process that has the lock, as the lock names it and if it has it open.
fn holder(run_dir: &Path) -> Option<Pid> {
    let path = run_dir.join("lock");
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return unlinked_holder(run_dir, DAEMONS);
        }
        file => file.ok()?,
    };
    let lock = file.metadata().ok()?;
    let mut text = String::new();
    // A pid is short; the file may be anybody's.
    (&mut file).take(32).read_to_string(&mut text).ok()?;
    let pid: i32 = text.trim().parse().ok().filter(|pid| *pid > 1)?;
    drop(file);
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let is_lock = |entry: fs::DirEntry| {
        fs::metadata(entry.path())
            .is_ok_and(|file| (file.dev(), file.ino()) == (lock.dev(), lock.ino()))
    };
    open.flatten().any(is_lock).then(|| Pid::from_raw(pid))
}

#[cfg(test)]
mod tests {
    use super::super::super::startup;
    use super::*;

    #[test]
    fn a_free_lock_is_nobody_and_a_held_one_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let short = Duration::from_millis(300);
        let absent = |limit| matches!(settle(dir.path(), limit), Ok(Some(Presence::Absent)));
        assert!(absent(short), "there is no lock");
        let lock = startup::lock(dir.path()).unwrap();
        assert!(is_held(dir.path()));
        assert!(matches!(settle(dir.path(), short), Ok(None)), "it is held, and nobody answers");
        assert_eq!(holder(dir.path()), Some(Pid::this()));
        // Its file is removed under it.
        fs::remove_file(dir.path().join("lock")).unwrap();
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(unlinked_holder(dir.path(), &[comm.trim_end()]), Some(Pid::this()));
        assert!(!is_held(dir.path()), "but by no tandemd");
        drop(lock);
        assert_eq!(unlinked_holder(dir.path(), &[comm.trim_end()]), None);
        let listener = startup::bind_unix(&dir.path().join("control.sock"), None).unwrap();
        assert!(matches!(settle(dir.path(), short), Ok(None)), "somebody listens");
        drop(listener);
        assert!(absent(short), "the file is there, and nobody holds it");
        assert_eq!(holder(dir.path()), None, "this process has it open no more");
    }

    #[test]
    fn a_pid_in_the_file_alone_is_nobodys_death() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["1\n", "-1\n", "0\n", "x", "", "99999999999"] {
            fs::write(dir.path().join("lock"), text).unwrap();
            assert_eq!(holder(dir.path()), None, "{text}");
        }
        fs::write(dir.path().join("lock"), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(holder(dir.path()), None, "it runs, and does not have the lock open");
        assert!(kill_holder(dir.path(), Duration::ZERO), "nobody holds it");
    }
}
