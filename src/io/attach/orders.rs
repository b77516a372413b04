//! `tandemadm device detach` and `device status`.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use crate::attach::{Backend, Guarded, Message, Record};

use super::netlink::Driver;
use super::{Trouble, system};

/// How long the kernel and the guard may take to let go of a device.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long somebody may look into a device without being in the way.
pub(super) const GLANCE: Duration = Duration::from_secs(2);

/// A device that is attached under an identifier of ours.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// N of `/dev/nbdN`.
    pub(crate) index: u32,
    /// The identifier.
    pub(crate) backend: Backend,
    /// Its guard.
    pub(crate) guard: Guarded,
    /// What its guard wrote down, if it is of this attach.
    pub(crate) record: Option<Record>,
    /// It was detached by force, or let go of by its guard, and is not closed yet: its I/O fails.
    pub(crate) is_let_go: bool,
}

impl Listed {
    /// For people.
    pub(crate) fn lines(&self) -> String {
        let mut text = match &self.record {
            Some(record) => record.lines(system::now().as_secs(), self.guard),
            None => format!(
                "{} /dev/nbd{}\n  guard: none, and nothing is remembered of it: detach it\n",
                self.backend.volume, self.index
            ),
        };
        // Else the record says it.
        if self.is_let_go && self.failed().is_none() {
            text += &format!("  {}\n", self.why_let_go());
        }
        text
    }

    /// Why one that was let go of is not attached again.
    pub(crate) fn why_let_go(&self) -> String {
        self.failed().map_or_else(
            || system::still_in_use(self.index),
            |why| system::has_failed(self.index, why),
        )
    }

    /// Why its guard has let go of it.
    fn failed(&self) -> Option<&str> {
        self.record.as_ref()?.failed.as_deref()
    }

    /// Seconds without a server.
    pub(crate) fn lost_for(&self) -> Option<u64> {
        let lost_at = self.record.as_ref()?.lost_at?;
        Some(system::now().as_secs().saturating_sub(lost_at))
    }
}

/// The devices that are attached, by number.
pub(crate) fn list(run_dir: &Path) -> Vec<Listed> {
    let of_device = |(index, backend): (u32, Backend)| {
        let record = system::record_of(run_dir, index, &backend);
        let has_failed = record.as_ref().is_some_and(|record| record.failed.is_some());
        let is_let_go = has_failed || system::is_detached(run_dir, index, &backend.to_string());
        Listed { index, guard: system::guard(run_dir, index), record, backend, is_let_go }
    };
    system::attached().into_iter().map(of_device).collect()
}

/// Whether a device is still to be detached once it has been flushed: a flush that waits for its server
/// cannot be called off, but who gave the order can be told that it came to nothing.
#[derive(Debug, Default)]
pub(crate) struct Wanted(Mutex<bool>);

impl Wanted {
    /// From now on no device is let go of. `false`: one is just now, which takes a moment.
    pub(crate) fn give_up(&self) -> bool {
        match self.0.try_lock() {
            Ok(mut given_up) => {
                *given_up = true;
                true
            }
            Err(TryLockError::WouldBlock) => false,
            // Who held it has ended.
            Err(TryLockError::Poisoned(_)) => true,
        }
    }

    /// A device is let go of, while this is held.
    ///
    /// # Errors
    /// That was given up.
    pub(crate) fn begin(&self) -> Result<MutexGuard<'_, bool>, Trouble> {
        let given_up = || Trouble::failed("was given up meanwhile: nothing was detached");
        let lock = self.0.lock().map_err(|_| given_up())?;
        if *lock { Err(given_up()) } else { Ok(lock) }
    }
}

/// Lets go of a device: flushed, and used by nobody, unless it is forced.
///
/// # Errors
/// It is in use, cannot be flushed, the kernel refuses, or nobody wants it any more.
pub(crate) fn detach(
    run_dir: &Path,
    device: &Listed,
    is_forced: bool,
    wanted: &Wanted,
) -> Result<(), Trouble> {
    let index = device.index;
    let node = format!("/dev/nbd{index}");
    if let Some(seconds) = device.lost_for().filter(|_| !is_forced) {
        return Err(no_server(&node, seconds));
    }
    let mut driver = Driver::open()?;
    // Held to the end, so that nobody mounts it meanwhile.
    let _held = match is_forced {
        true => None,
        false => {
            let in_use = || Trouble {
                text: format!(
                    "{node} is {}; --force fails its I/O from now on",
                    system::users(index)
                ),
                exit_code: 11,
            };
            let mut options = OpenOptions::new();
            let file = options.read(true).custom_flags(libc::O_EXCL).open(&node);
            let file = file.map_err(|error| match error.raw_os_error() {
                Some(libc::EBUSY) => in_use(),
                _ => Trouble::failed(format!("{node}: {error}")),
            })?;
            // udev looks into a device for a moment when it has changed.
            let deadline = system::now() + GLANCE;
            while !system::openers(index).is_empty() {
                if system::now() > deadline {
                    return Err(in_use());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            file.sync_all().map_err(|error| {
                Trouble::failed(format!(
                    "{node}: what was written cannot be flushed: {error}; --force lets go of it all \
                     the same"
                ))
            })?;
            Some(file)
        }
    };
    let _begun = wanted.begin()?;
    // Before it: a guard that sees the connections end is not to give the kernel others, which some kernels
    // take for a device that was let go of.
    let backend = device.backend.to_string();
    if system::backend(index).is_none_or(|now| now != backend) {
        // It was listed a while ago: whoever has it now keeps it.
        return Err(Trouble::failed(format!("{node} is no device of {backend} any more")));
    }
    system::mark_detached(run_dir, index, &backend)
        .map_err(|error| Trouble::failed(format!("{}: {error}", run_dir.display())))?;
    driver.order(Message::disconnect(index)).map_err(|error| {
        system::unmark_detached(run_dir, index);
        not_detached(&node, &error)
    })?;
    drop(_held);
    let deadline = system::now() + PATIENCE;
    let is_ours = || system::backend(index).is_some_and(|one| one == backend);
    while system::now() < deadline
        && (is_ours() || system::guard(run_dir, index) != Guarded::Nobody)
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    match is_ours() {
        true => Err(Trouble::failed(format!(
            "{node} is {}: the kernel lets go of it when it is closed; its I/O fails",
            system::users(index)
        ))),
        false => {
            system::unmark_detached(run_dir, index);
            if system::guard(run_dir, index) == Guarded::Nobody {
                system::remove_record(run_dir, index);
            }
            Ok(())
        }
    }
}

/// A flush would wait for a server, for as long as the kernel waits for one, and nothing could end it.
pub(super) fn no_server(what: &str, seconds: u64) -> Trouble {
    Trouble::failed(format!(
        "{what} has had no server for {seconds} s: what was written cannot be flushed. Promote a node \
         first (tandemadm primary), or --force lets go of it all the same"
    ))
}

fn not_detached(node: &str, error: &io::Error) -> Trouble {
    Trouble::failed(match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "the kernel lets only root detach devices (CAP_SYS_ADMIN and CAP_NET_ADMIN)".to_owned()
        }
        _ => format!("{node}: the kernel refuses: {error}"),
    })
}
