//! The unit of a guard: what it does when it is stopped, and which signals a guard dies by.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::wait::until;

const UNIT: &str = include_str!("../../tools/debian/tandem-attach@.service");

/// What the unit says of a setting.
fn setting(name: &str) -> &'static str {
    let line = |line: &&str| line.split_once('=').is_some_and(|(one, _)| one == name);
    UNIT.lines().find(line).map_or("", |line| &line[name.len() + 1..])
}

/// A guard that waits for another attach of its volume, with the mask of its parent, in which these are
/// blocked.
fn guard(run_dir: &Path, blocked: &SigSet) -> Child {
    blocked.thread_block().expect("a mask");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem-attach"));
    command.args(["--servers=127.0.0.1:9", "--run-dir"]).arg(run_dir).arg("r0");
    let guard = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
    blocked.thread_unblock().expect("a mask");
    guard.expect("tandem-attach starts")
}

/// Signals of a process, by the name that `/proc` has for the set.
fn signals(pid: u32, set: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(set)).expect("a set");
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).expect("a set")
}

/// systemd calls the end by one of these clean, and `Restart=on-failure` is not for it.
const CLEAN: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGPIPE];

#[test]
fn a_guard_that_dies_by_a_signal_is_replaced_by_its_unit_and_no_signal_is_blocked() {
    assert_eq!(setting("Restart"), "on-failure");
    let forced: Vec<&str> = setting("RestartForceExitStatus").split(' ').collect();
    let folder = tempfile::tempdir().expect("a folder");
    let lock = File::create(folder.path().join("r0-0.attach")).expect("a file");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).expect("a lock");
    let blocked: SigSet = CLEAN.into_iter().collect();
    let mut dies_by = Vec::new();
    for signal in CLEAN {
        let mut guard = guard(folder.path(), &blocked);
        let pid = guard.id();
        until("none is blocked", || (signals(pid, "SigBlk") == 0).then_some(()));
        // Rust's programs ignore SIGPIPE.
        let ignored = signals(pid, "SigIgn") & 1 << (signal as u32 - 1) != 0;
        let process = Pid::from_raw(i32::try_from(pid).expect("a number"));
        kill(process, if ignored { Signal::SIGKILL } else { signal }).expect("it is ours");
        let status = guard.wait().expect("it is ours");
        if !ignored && status.signal() == Some(signal as i32) {
            dies_by.push(signal);
        }
    }
    assert!(dies_by.contains(&Signal::SIGTERM), "{dies_by:?}");
    for signal in dies_by {
        assert!(forced.contains(&signal.as_str()), "{signal} is not in {forced:?}");
    }
}

/// What stands in a unit, as systemd gives it to the shell, with programs of this folder.
fn stop(folder: &Path, main_pid: &str) -> (i32, String) {
    let own = folder.display();
    let line = setting("ExecStop").replace("$$", "$");
    let line = line
        .replace("/usr/sbin/", &format!("{own}/"))
        .replace("/bin/systemctl", &format!("{own}/systemctl"));
    let line = line.replace("%I", "r0/1").replace("%n", "tandem-attach@r0-1.service");
    let done =
        Command::new("sh").args(["-c", &line]).env("MAINPID", main_pid).output().expect("a shell");
    (done.status.code().expect("a code"), String::from_utf8_lossy(&done.stdout).into_owned())
}

#[test]
fn a_device_in_use_is_not_left_without_a_guard_by_an_order_to_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = |name: &str, code: i32| {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\necho {name} \"$@\"\nexit {code}\n")).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    };
    program("systemctl", 0);
    let detach = "tandemadm device detach r0/1\n";
    let start = "systemctl --no-block start tandem-attach@r0-1.service\n";
    for (answer, said) in [
        (0, detach.to_owned()),
        (11, format!("{detach}{start}")),
        // It is gone, or cannot be flushed.
        (10, detach.to_owned()),
    ] {
        program("tandemadm", answer);
        assert_eq!(stop(folder.path(), "77"), (answer, said));
    }
    // Where the guard has died, the device stays for the next one.
    assert_eq!(stop(folder.path(), ""), (0, String::new()));
    // While the system goes down systemd refuses.
    program("tandemadm", 11);
    program("systemctl", 1);
    assert_eq!(stop(folder.path(), "77").0, 11);
}
