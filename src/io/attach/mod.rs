//! `tandem-attach`, and what `tandemadm device` does: the shell around `attach`.
//!
//! The kernel needs nobody once it has a socket. The guard waits beside it, and gives it another
//! one when the server has gone.

mod dial;
pub(crate) mod fuse;
mod guard;
mod netlink;
mod orders;
mod system;

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

use crate::attach::{
    AttachArguments, Backend, Connect, DialError, Guard, Guarded, Message, Record, Server, Terms,
    Times, parse,
};

use dial::{Dialers, Dialling, Link};
use guard::{Device, Log};
use netlink::{Driver, Events};

pub(crate) use orders::{Listed, Wanted, detach, list};
pub(crate) use system::{open_for_owner, resolved};

/// How long another attach of the same volume may take.
const ATTACH: Duration = Duration::from_secs(10);

/// Why something was not done, and the exit code that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// For people.
    pub(crate) text: String,
    /// As those of `tandemadm`.
    pub(crate) exit_code: i32,
}

impl Trouble {
    fn failed(text: impl Into<String>) -> Self {
        Self { text: text.into(), exit_code: 10 }
    }

    fn silent(text: impl Into<String>) -> Self {
        Self { text: text.into(), exit_code: 20 }
    }
}

/// Runs `tandem-attach`; returns the exit code.
#[must_use]
pub fn run<I, T>(words: I) -> i32
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    // Of a daemon as its parent it has the mask, in which the signals that end it are blocked.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
    let complain = |text: &str| {
        let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
    };
    let arguments = match parse(words) {
        Ok(arguments) => arguments,
        Err((text, 0)) => {
            let _ = write!(std::io::stdout(), "{text}");
            return 0;
        }
        Err((text, code)) => {
            complain(&text);
            return code;
        }
    };
    match attach_and_guard(&arguments) {
        Ok(()) => 0,
        Err(trouble) => {
            complain(&format!("{}: {}", arguments.volume, trouble.text));
            trouble.exit_code
        }
    }
}

fn attach_and_guard(arguments: &AttachArguments) -> Result<(), Trouble> {
    if arguments.background {
        // It fails for a leader of a group, who has no terminal to lose either.
        let _ = nix::unistd::setsid();
    }
    if arguments.options.fuse {
        return fuse::attach_and_serve(arguments);
    }
    let run_dir = &arguments.run_dir;
    let mut attaching = system::Attaching::begin(run_dir, &arguments.volume, ATTACH)?;
    if let Guarded::By(guard) = fuse::guard(run_dir, &arguments.volume) {
        return Err(Trouble::failed(format!(
            "attached already, as a file of FUSE: two caches over one volume would spoil it; its guard \
             is process {guard}"
        )));
    }
    let mut driver = Driver::open()?;
    // Before anything is attached: an event is sent once, and kept nowhere.
    let events = driver.events()?;
    let servers = arguments.servers();
    // Before there are threads.
    let missing = crate::io::memory::keep_guard();
    let found = system::device_of(&arguments.volume);
    let token = match &found {
        Some((_, backend)) => backend.token,
        None => system::token().map_err(|error| Trouble::failed(error.to_string()))?,
    };
    // Of one that is taken over: what it has, if no other one is asked for.
    let has = found.as_ref().and_then(|(index, _)| system::timeout(*index));
    let asked = arguments.options.timeout.map(|seconds| Duration::from_secs(u64::from(seconds)));
    let default = Duration::from_secs(u64::from(arguments.options.timeout()));
    let dialling = Dialling::new(token, asked.or(has).unwrap_or(default))?;
    let dialers = Dialers::start(&servers, &arguments.volume.to_string(), dialling)?;
    let (mut device, said, changed) = match found {
        Some((index, backend)) => {
            let (device, changed) =
                adopt(arguments, driver, events, dialers, index, &backend, has)?;
            (device, "taken over", changed)
        }
        None => {
            let attached = attach(arguments, &mut driver, &dialers, token, &mut attaching)?;
            (
                attached.into_device(arguments, driver, events, dialers)?,
                "attached",
                Changed::default(),
            )
        }
    };
    drop(attaching);
    // Whoever hears that it is there may discard at once.
    let unlimited = device.limit_discards();
    let ready = format!("{} is {} ({said})\n", arguments.volume, device.node());
    let log = Log::of_guard(arguments.background, &ready);
    log.say(&format!("{}{}", ready.trim_end(), device.detail()));
    let Changed { times, stays } = changed;
    for text in stays {
        log.say(&format!("{}: {text}", arguments.volume));
    }
    for (what, seconds) in
        [("--timeout", times.timeout), ("--dead-conn-timeout", times.dead_conn_timeout)]
    {
        if let Some(seconds) = seconds {
            log.say(&format!("{}: {what} is {seconds} s now", arguments.volume));
        }
    }
    if let Some(missing) = missing {
        log.say(&missing);
    }
    if let Some(unlimited) = unlimited {
        log.say(&unlimited);
    }
    device.watch(&log)
}

/// A device that was just attached.
struct Attached {
    record: Record,
    server: usize,
    sockets: Vec<Link>,
}

/// Finds a server that serves the volume, and gives the kernel its connections.
fn attach(
    arguments: &AttachArguments,
    driver: &mut Driver,
    dialers: &Dialers,
    token: u64,
    attaching: &mut system::Attaching,
) -> Result<Attached, Trouble> {
    let options = &arguments.options;
    if let Some(index) = options.device
        && let Some(holder) = system::holder(index)
    {
        return Err(busy(index, &holder));
    }
    let connections = usize::from(options.connections());
    let servers = arguments.servers();
    let (server, export, sockets) = first(&servers, dialers, connections)?;
    let unfit = |unfit| Trouble::failed(format!("{}: {unfit}", servers[server]));
    let terms = Terms::of(&export, options.block_size, connections).map_err(unfit)?;
    let backend = Backend { volume: arguments.volume.clone(), token };
    let mut record = Record {
        volume: arguments.volume.to_string(),
        index: options.device.unwrap_or(0),
        backend: backend.to_string(),
        terms,
        connections: sockets.len(),
        dead_conn_timeout: u64::from(options.dead_conn_timeout()),
        server: servers[server].to_string(),
        lost_at: None,
        refusals: Vec::new(),
        failed: None,
        keepers: export.keepers,
    };
    // Of a device that the kernel has and nobody remembers no guard could take care.
    attaching.remember(&record).map_err(|error| not_remembered(&arguments.run_dir, &error))?;
    let answers = driver.order(Message::connect(&Connect {
        index: options.device,
        terms,
        backend: &backend.to_string(),
        timeout: u64::from(options.timeout()),
        dead_conn_timeout: u64::from(options.dead_conn_timeout()),
        sockets: &numbers(&sockets),
    }));
    let answers = answers.map_err(|error| not_attached(&error, options.device))?;
    let index = options.device.or_else(|| answers.iter().find_map(Message::index));
    let Some(index) = index else {
        return Err(Trouble::failed("the kernel did not say which device it took"));
    };
    record.index = index;
    Ok(Attached { record, server, sockets })
}

fn not_remembered(run_dir: &std::path::Path, error: &std::io::Error) -> Trouble {
    Trouble::failed(format!(
        "{}: what is attached cannot be written down: {error}",
        run_dir.display()
    ))
}

/// The numbers of descriptors, as the driver takes them.
fn numbers<'a, T: AsFd + 'a>(links: impl IntoIterator<Item = &'a T>) -> Vec<u32> {
    // An open descriptor is never negative.
    let number = |link: &T| u32::try_from(link.as_fd().as_raw_fd()).ok();
    links.into_iter().filter_map(number).collect()
}

/// The first server that lets us in.
fn first(
    servers: &[Server],
    dialers: &Dialers,
    connections: usize,
) -> Result<(usize, nbd::client::Description, Vec<Link>), Trouble> {
    (0..servers.len()).for_each(|server| dialers.dial(server, connections, Vec::new()));
    let mut reasons = Vec::new();
    let mut is_there = false;
    for _ in servers {
        let Some((server, outcome)) = dialers.wait() else { break };
        let (text, answered) = match outcome {
            Ok((export, sockets)) => return Ok((server, export, sockets)),
            Err(DialError::Refused(text)) => (text, true),
            Err(DialError::Failed(text)) => (text, false),
        };
        is_there |= answered;
        reasons.push(format!("{}: {text}", servers[server]));
    }
    let told = |what| format!("none of the servers {what}\n{}", reasons.join("\n"));
    Err(match is_there {
        true => Trouble::failed(told("serves it")),
        false => Trouble::silent(told("answers")),
    })
}

fn busy(index: u32, holder: &str) -> Trouble {
    Trouble::failed(format!("/dev/nbd{index} is attached already, by {holder}"))
}

/// What an error of the attach means.
fn not_attached(error: &std::io::Error, index: Option<u32>) -> Trouble {
    let device = index.map_or("a device".to_owned(), |index| format!("/dev/nbd{index}"));
    let holder = index.and_then(system::holder);
    Trouble::failed(match (error.raw_os_error(), index, holder) {
        (Some(libc::EPERM | libc::EACCES), ..) => {
            "the kernel lets only root attach devices: the capabilities CAP_SYS_ADMIN and \
             CAP_NET_ADMIN of the first user namespace"
                .to_owned()
        }
        (Some(libc::EBUSY), Some(index), Some(holder)) => return busy(index, &holder),
        (Some(libc::EBUSY), ..) => format!("{device} is in use"),
        _ => format!("the kernel refuses {device}: {error} (`dmesg` says why)"),
    })
}

impl Attached {
    /// Becomes the guard of it.
    fn into_device(
        self,
        arguments: &AttachArguments,
        mut driver: Driver,
        events: Events,
        dialers: Dialers,
    ) -> Result<Device, Trouble> {
        let (run_dir, record) = (&arguments.run_dir, self.record);
        let lock = system::become_guard(run_dir, record.index).and_then(|lock| {
            let written = system::write_record(run_dir, &record);
            written.map(|()| lock).map_err(|error| not_remembered(run_dir, &error))
        });
        let lock = lock.inspect_err(|_| {
            // Without a guard there shall be no device.
            let _ = driver.order(Message::disconnect(record.index));
        })?;
        let servers = arguments.servers();
        let guard = Guard::attached(
            servers.clone(),
            self.server,
            record.terms,
            self.sockets.len(),
            Duration::from_secs(record.dead_conn_timeout),
        )
        .kept_by(record.keepers.clone());
        let run_dir = arguments.run_dir.clone();
        let sockets = self.sockets.into_iter().map(Some).collect();
        Ok(Device::new(guard, driver, events, dialers, sockets, servers, record, run_dir, lock))
    }
}

/// What becomes of the options of a device that is taken over.
#[derive(Default)]
struct Changed {
    times: Times,
    /// What cannot be changed, as it is to be said.
    stays: Vec<String>,
}

/// Takes over what another guard has left; the times that are other ones now. `timeout`: of its requests.
fn adopt(
    arguments: &AttachArguments,
    mut driver: Driver,
    events: Events,
    dialers: Dialers,
    index: u32,
    backend: &Backend,
    timeout: Option<Duration>,
) -> Result<(Device, Changed), Trouble> {
    let run_dir = &arguments.run_dir;
    if let Guarded::By(guard) = system::guard(run_dir, index) {
        return Err(Trouble::failed(format!(
            "attached already, as /dev/nbd{index}; its guard is process {guard}"
        )));
    }
    if system::is_detached(run_dir, index, &backend.to_string()) {
        return Err(Trouble::failed(system::still_in_use(index)));
    }
    if arguments.options.device.is_some_and(|wanted| wanted != index) {
        return Err(Trouble::failed(format!(
            "attached already, as /dev/nbd{index}: detach it first"
        )));
    }
    let Some(mut record) = system::record_of(run_dir, index, backend) else {
        return Err(Trouble::failed(format!(
            "/dev/nbd{index} is attached as '{backend}', of which nothing is remembered in {}: \
             it is another one's, or that folder was emptied. `tandemadm device detach {}` lets go \
             of it",
            run_dir.display(),
            arguments.volume
        )));
    };
    if let Some(why) = &record.failed {
        return Err(Trouble::failed(system::has_failed(index, why)));
    }
    let (times, stays) = arguments.options.changes(&record, timeout);
    // Whoever waits for the answer gives other words. The guard of a unit has nobody to ask.
    if let Some(first) = stays.first().filter(|_| arguments.background) {
        return Err(Trouble::failed(first.clone()));
    }
    let lock = system::become_guard(run_dir, index)?;
    if !times.is_empty() {
        let told = driver.order(Message::times(index, &record.backend, times));
        told.map_err(|error| {
            Trouble::failed(format!("/dev/nbd{index}: the kernel takes no other times: {error}"))
        })?;
        record.dead_conn_timeout = times.dead_conn_timeout.unwrap_or(record.dead_conn_timeout);
    }
    let servers = arguments.servers();
    let current = servers.iter().position(|server| server.to_string() == record.server);
    let guard = Guard::adopted(
        servers.clone(),
        current,
        record.terms,
        record.connections,
        Duration::from_secs(record.dead_conn_timeout),
        record.lost_at.map(Duration::from_secs),
    )
    .kept_by(record.keepers.clone());
    let sockets = (0..record.connections).map(|_| None).collect();
    let run_dir = run_dir.clone();
    let device =
        Device::new(guard, driver, events, dialers, sockets, servers, record, run_dir, lock);
    Ok((device, Changed { times, stays }))
}

#[cfg(test)]
mod tests;
