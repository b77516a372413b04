//! The memory of a process that I/O waits for: a database's writes wait for `tandemd` and for the guard of
//! a device, and what frees memory may be just these writes.
//!
//! Invariants:
//! - Nothing of such a process is swapped out or has to be read again.
//! - An allocation in it starts no I/O, so it waits for no write that waits for this process
//!   (`PR_SET_IO_FLUSHER`, prctl(2)).
//! - Where the rights are missing nothing is half done: a lock that a limit cuts off would have later
//!   allocations fail.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::thread::{CapabilitySet, capabilities};

/// Does both, for this thread and all that it will make. Returns what was not possible, for the log.
pub(crate) fn keep() -> Option<String> {
    let unlimited =
        getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
    // Only what is used: the stacks of threads are large, and stay empty.
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    let may = capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::IPC_LOCK));
    let locked = match unlimited || may {
        true => mlockall(all).map_err(|error| format!("memory is not locked ({error})")),
        false => Err("memory is not locked (the limit `ulimit -l` is in the way)".to_owned()),
    };
    let flushes = rustix::process::configure_io_flusher_behavior(true)
        .map_err(|error| format!("its allocations may start I/O ({error}, PR_SET_IO_FLUSHER)"));
    let missing: Vec<String> = [locked.err(), flushes.err()].into_iter().flatten().collect();
    (!missing.is_empty()).then(|| {
        format!(
            "{}: where memory is short, I/O may hang; it takes CAP_IPC_LOCK and CAP_SYS_RESOURCE",
            missing.join(", ")
        )
    })
}

/// [`keep`] for a guard: it is also the last one that the kernel kills where memory is short, as all I/O of its device
/// would fail or hang with it. Nobody may have started it by a unit that says so (`OOMScoreAdjust`).
pub(crate) fn keep_guard() -> Option<String> {
    let last = std::fs::write("/proc/self/oom_score_adj", "-1000").map_err(|error| {
        format!(
            "where memory is short, the kernel may kill it ({error}, oom_score_adj): it takes CAP_SYS_RESOURCE"
        )
    });
    [keep(), last.err()].into_iter().flatten().reduce(|one, other| format!("{one}; {other}"))
}
