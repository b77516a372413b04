//! What processes have used: CPU time, switches, system calls.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Used so far by some processes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Used {
    /// CPU time, ns.
    pub(crate) cpu_ns: f64,
    /// Context switches, of both kinds.
    pub(crate) switches: f64,
}

impl Used {
    /// By these processes. Threads that have ended are not in it.
    pub(crate) fn of(pids: &[u32]) -> Self {
        let mut used = Self::default();
        for pid in pids {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"));
            for task in tasks.into_iter().flatten().flatten() {
                let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
                used.cpu_ns += first_number(&read("schedstat"));
                let status = read("status");
                let lines = status.lines().filter(|line| line.contains("ctxt_switches:"));
                used.switches += lines.map(first_number).sum::<f64>();
            }
        }
        used
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { cpu_ns: self.cpu_ns - before.cpu_ns, switches: self.switches - before.switches }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self { cpu_ns: self.cpu_ns + other.cpu_ns, switches: self.switches + other.switches }
    }
}

/// The first word that is a number; 0 without one.
fn first_number(text: &str) -> f64 {
    text.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_default()
}

/// Counts io_uring_enter of a process, with perf, or strace where perf cannot.
pub(crate) struct Counter {
    program: Child,
    perf: bool,
    output: std::path::PathBuf,
}

impl Counter {
    /// Counts from now on. `None`: neither program works here.
    pub(crate) fn start(pid: u32, folder: &Path) -> Option<Self> {
        let output = folder.join("enters");
        for perf in [true, false] {
            // It may not be there.
            let _ = fs::remove_file(&output);
            let mut command = Command::new(if perf { "perf" } else { "strace" });
            if perf {
                command.args(["stat", "-x", ",", "-e", "syscalls:sys_enter_io_uring_enter"]);
            } else {
                command.args(["-f", "-c", "-e", "trace=io_uring_enter"]);
            }
            command.arg("-p").arg(pid.to_string()).arg("-o").arg(&output);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let Ok(mut program) = command.spawn() else { continue };
            // Neither says when it has begun; one that cannot work ends at once.
            std::thread::sleep(Duration::from_millis(700));
            if matches!(program.try_wait(), Ok(None)) {
                return Some(Self { program, perf, output });
            }
        }
        None
    }

    /// Calls since the start.
    pub(crate) fn stop(mut self) -> Option<f64> {
        let pid = i32::try_from(self.program.id()).ok()?;
        kill(Pid::from_raw(pid), Signal::SIGINT).ok()?;
        self.program.wait().ok()?;
        let text = fs::read_to_string(&self.output).ok()?;
        let line = text.lines().find(|line| line.contains("io_uring_enter"))?;
        if self.perf {
            return line.split(',').next()?.parse().ok();
        }
        // % time, seconds, usecs/call, calls, errors, name
        line.split_whitespace().nth(3)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let before = Used::of(&[std::process::id()]);
        assert!(before.cpu_ns > 0.0 && before.switches >= 0.0);
        let used = Used::of(&[std::process::id()]).since(before);
        assert!(used.cpu_ns >= 0.0);
        assert_eq!(first_number("voluntary_ctxt_switches:\t12"), 12.0);
        assert_eq!(first_number(""), 0.0);
    }
}
