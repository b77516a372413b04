//! The loop of a guard: what it waits for, and what it does of what `attach::Guard` wants.
//!
//! Invariants:
//! - It holds each connection that the kernel has, beside the kernel: a connection that the kernel
//!   has let go of hangs up, and this is how it is known.
//! - A connection that the kernel has let go of is aborted before another one is handed over: nothing of
//!   it is sent any more.
//! - Nothing here waits for a server, for a name service or for the log.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use nbd::client::Description;
use nix::fcntl::Flock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};

use crate::attach::{Action, Event, Guard, Message, Record, Server};

use super::dial::{Answer, Dialers, Link, abort, is_taken};
use super::netlink::{Driver, Events};
use super::{Trouble, numbers, system};

/// How often it is looked whether the device is still ours.
const LOOK: Duration = Duration::from_secs(2);

/// Until it is tried again to limit the discards of a device whose requests were not answered.
const LIMIT: Duration = Duration::from_secs(5);

/// Where the log goes.
pub(super) enum Log {
    /// Standard error, by a thread of its own.
    StandardError,
    /// syslog; without one nowhere.
    Syslog(Option<UnixDatagram>),
}

impl Log {
    /// Of a guard that is ready, which is told to who started it. In the background the log goes to
    /// syslog.
    pub(super) fn of_guard(background: bool, ready: &str) -> Self {
        crate::io::control::ready();
        if !background {
            return Self::start();
        }
        let _ = write!(std::io::stdout(), "{ready}");
        Self::leave_terminal()
    }

    pub(super) fn start() -> Self {
        crate::io::control::start_log();
        Self::StandardError
    }

    /// Leaves the terminal, or whatever standard input, output and error are.
    pub(super) fn leave_terminal() -> Self {
        let null = File::options().read(true).write(true).open("/dev/null");
        if let Ok(null) = null {
            let _ = nix::unistd::dup2_stdin(&null);
            let _ = nix::unistd::dup2_stdout(&null);
            let _ = nix::unistd::dup2_stderr(&null);
        }
        let _ = std::env::set_current_dir("/");
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.connect("/dev/log")?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Self::Syslog(socket.ok())
    }

    pub(super) fn say(&self, text: &str) {
        match self {
            Self::StandardError => tracing::info!("{text}"),
            Self::Syslog(None) => {}
            Self::Syslog(Some(socket)) => {
                // daemon.info; a syslog that is full or gone is no reason to wait.
                let line = format!("<30>tandem-attach[{}]: {text}", std::process::id());
                let _ = socket.send(line.as_bytes());
            }
        }
    }
}

/// An attached device and all that its guard has.
pub(super) struct Device {
    guard: Guard,
    driver: Driver,
    events: Events,
    dialers: Dialers,
    /// The connections that the kernel has, as far as they are known.
    sockets: Vec<Option<Link>>,
    /// Those that it has let go of, and that could not be aborted yet.
    parting: Vec<Link>,
    /// By server: what its last attempt has brought.
    dialled: Vec<Vec<Link>>,
    servers: Vec<Server>,
    record: Record,
    run_dir: PathBuf,
    has_ended: bool,
    ask_at: Duration,
    /// When its discards are limited, as far as they are not.
    limit_at: Option<Duration>,
    _lock: Flock<File>,
}

impl Device {
    #[expect(clippy::too_many_arguments, reason = "each is a part of it, and is given once")]
    pub(super) fn new(
        guard: Guard,
        driver: Driver,
        events: Events,
        dialers: Dialers,
        sockets: Vec<Option<Link>>,
        servers: Vec<Server>,
        record: Record,
        run_dir: PathBuf,
        lock: Flock<File>,
    ) -> Self {
        let dialled = servers.iter().map(|_| Vec::new()).collect();
        let has_ended = false;
        let ask_at = system::now() + guard.asks_every();
        let _lock = lock;
        Self {
            guard,
            driver,
            events,
            dialers,
            sockets,
            parting: Vec::new(),
            dialled,
            servers,
            record,
            run_dir,
            has_ended,
            ask_at,
            limit_at: None,
            _lock,
        }
    }

    /// The device's path.
    pub(super) fn node(&self) -> String {
        format!("/dev/nbd{}", self.record.index)
    }

    /// Limits its discards, now or later; why that is not done.
    pub(super) fn limit_discards(&mut self) -> Option<String> {
        let limited = system::limit_discards(self.record.index);
        self.limit_at = limited.is_none().then(|| system::now() + LIMIT);
        let why = limited?.err()?;
        Some(format!("warning: {}: {why}", self.record.volume))
    }

    /// The server, for the log.
    pub(super) fn detail(&self) -> String {
        format!(": {} bytes from {}", self.record.terms.size, self.record.server)
    }

    /// Watches over the device until it is detached.
    pub(super) fn watch(mut self, log: &Log) -> Result<(), Trouble> {
        self.write_record(log);
        if self.guard.progress().server.is_none() {
            let Record { volume, server, .. } = &self.record;
            log.say(&format!(
                "{volume}: its server {server} is none of those that were given: they are asked when the \
                 connection to it has ended"
            ));
        }
        self.feed(log, Event::Tick);
        while !self.has_ended {
            if let Err(error) = self.wait() {
                // Of an interrupted or impossible wait; the next one may go well.
                log.say(&format!("{}: waiting: {error}", self.record.volume));
                std::thread::sleep(Duration::from_secs(1));
            }
            let (dead, is_missed) = self.events.dead_links(self.record.index);
            for _ in 0..dead {
                self.feed(log, Event::LinkDead);
            }
            if is_missed {
                self.feed(log, Event::Missed);
            }
            for place in self.closed() {
                self.parting.extend(self.sockets[place].take());
                self.abort();
                self.feed(log, Event::Closed(place));
            }
            self.abort();
            while let Some(answer) = self.dialers.answer() {
                let event = match answer {
                    Answer::Dialled(server, outcome) => {
                        let keep = |(export, sockets)| self.keep(server, export, sockets);
                        Event::Dialled { server, result: outcome.map(keep) }
                    }
                    Answer::Described(server, Ok(export)) => Event::Described { server, export },
                    // If it has gone, that is seen by its connections.
                    Answer::Described(_, Err(_)) => continue,
                };
                self.feed(log, event);
            }
            self.ask();
            if self.limit_at.is_some_and(|at| at <= system::now())
                && let Some(unlimited) = self.limit_discards()
            {
                log.say(&unlimited);
            }
            self.look(log);
            self.feed(log, Event::Tick);
        }
        system::remove_record(&self.run_dir, self.record.index);
        match self.guard.progress().failed {
            // By order, if it was detached meanwhile.
            Some(why) if !self.is_let_go() => {
                Err(Trouble::failed(format!("{} is gone: {why}", self.node())))
            }
            _ => Ok(()),
        }
    }

    /// Asks now and then whether the volume has grown: a server has no word for that.
    fn ask(&mut self) {
        let progress = self.guard.progress();
        let now = system::now();
        if let (None, Some(server)) = (progress.lost_at, progress.server)
            && now >= self.ask_at
        {
            self.ask_at = now + self.guard.asks_every();
            self.dialers.describe(server);
        }
    }

    /// Aborts what the kernel has let go of.
    fn abort(&mut self) {
        self.parting.retain(|link| !abort(link));
    }

    /// What servers know those connections by that live, as far as they are known here.
    fn living(&self) -> Vec<u64> {
        self.sockets.iter().flatten().map(|link| link.number).collect()
    }

    fn keep(&mut self, server: usize, export: Description, sockets: Vec<Link>) -> Description {
        self.dialled[server] = sockets;
        export
    }

    /// Waits for an event, an attempt that is over, the end of a connection, or the next time-out.
    fn wait(&self) -> io::Result<()> {
        let mut descriptors = vec![
            PollFd::new(self.events.descriptor(), PollFlags::POLLIN),
            PollFd::new(self.dialers.bell.as_fd(), PollFlags::POLLIN),
        ];
        // A hang-up is told without being asked for.
        let known = self.sockets.iter().flatten();
        descriptors.extend(known.map(|socket| PollFd::new(socket.as_fd(), PollFlags::empty())));
        let next = self.guard.next_timeout().map(|at| at.saturating_sub(system::now()));
        // Rounded up, so that the time-out is over then.
        let wait = next.unwrap_or(LOOK).min(LOOK) + Duration::from_millis(1);
        let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
        match poll(&mut descriptors, wait) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let _ = self.dialers.bell.read();
        Ok(())
    }

    /// The places of known connections that the kernel has let go of.
    fn closed(&self) -> Vec<usize> {
        let places = self.sockets.iter().enumerate();
        let known = places.filter_map(|(place, socket)| Some((place, socket.as_ref()?)));
        known.filter(|(_, socket)| has_ended(socket)).map(|(place, _)| place).collect()
    }

    /// Looks whether the device is still attached under our identifier.
    fn look(&mut self, log: &Log) {
        let why = match system::backend(self.record.index) {
            Some(backend) if backend == self.record.backend => {
                let is_lost = self.guard.progress().lost_at.is_some();
                match is_lost && self.is_let_go() {
                    true => format!("{} is detached", self.node()),
                    false => return,
                }
            }
            Some(backend) if !backend.is_empty() => {
                format!("{} is now attached as '{backend}'", self.node())
            }
            _ => format!("{} is detached", self.node()),
        };
        self.feed(log, Event::Gone(why));
    }

    fn feed(&mut self, log: &Log, event: Event) {
        self.guard.handle(system::now(), event);
        while let Some(action) = self.guard.next_action() {
            match action {
                Action::Dial { server, connections } => {
                    self.dialers.dial(server, connections, self.living());
                }
                Action::Drop { server } => self.dialled[server].clear(),
                Action::Close => {
                    for socket in self.sockets.iter().flatten() {
                        // One that has ended by itself is as good.
                        let _ = shutdown(socket.socket.as_raw_fd(), Shutdown::Both);
                    }
                }
                Action::HandOver { server, places } => {
                    let event = self.hand_over(server, &places);
                    self.guard.handle(system::now(), event);
                }
                Action::Look(connections) => {
                    let event = self.look_at_kernel(connections);
                    self.guard.handle(system::now(), event);
                }
                Action::Resize(size) => {
                    let Record { index, backend, .. } = &self.record;
                    // It waits for the requests under way, and takes no other server meanwhile.
                    let told = match system::is_answered(*index) {
                        true => self.driver.order(Message::resize(*index, backend, size)),
                        false => Err(io::Error::other("requests get no answer just now")),
                    };
                    let told = told.map(drop).map_err(|error| error.to_string());
                    // Some kernels forget it with a new size.
                    if told.is_ok()
                        && let Some(unlimited) = self.limit_discards()
                    {
                        log.say(&unlimited);
                    }
                    self.guard.handle(system::now(), Event::Resized(told));
                }
                Action::Log(text) => log.say(&format!("{}: {text}", self.record.volume)),
                Action::Fail if self.is_anothers() => self.has_ended = true,
                Action::Fail => {
                    if let Err(error) = self.driver.order(Message::disconnect(self.record.index)) {
                        log.say(&format!("{}: the kernel does not let go: {error}", self.node()));
                    }
                }
                Action::Changed => self.write_record(log),
                Action::End => self.has_ended = true,
            }
        }
    }

    fn is_anothers(&self) -> bool {
        system::backend(self.record.index).is_some_and(|backend| backend != self.record.backend)
    }

    fn is_let_go(&self) -> bool {
        system::is_detached(&self.run_dir, self.record.index, &self.record.backend)
    }

    fn hand_over(&mut self, server: usize, places: &[usize]) -> Event {
        self.abort();
        let mut sockets = std::mem::take(&mut self.dialled[server]);
        sockets.truncate(places.len());
        if let Some(event) = self.give(&numbers(&sockets), Event::Handed) {
            return event;
        }
        // In their order, as long as it has a place for one.
        let taken = sockets.into_iter().take_while(is_taken);
        let mut count = 0;
        for (place, socket) in places.iter().zip(taken) {
            self.sockets[*place] = Some(socket);
            count += 1;
        }
        Event::Handed(Ok(count))
    }

    /// How many of these connections that lead nowhere the kernel takes. They end with this.
    fn look_at_kernel(&mut self, connections: usize) -> Event {
        if self.is_let_go() {
            // That is another one's work, and comes to its end or not.
            return Event::Looked(Ok(0));
        }
        let pairs = (0..connections).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>();
        let pairs = match pairs {
            Ok(pairs) => pairs,
            Err(error) => return Event::Looked(Err(error.to_string())),
        };
        let given = self.give(&numbers(pairs.iter().map(|(one, _)| one)), Event::Looked);
        given.unwrap_or_else(|| {
            Event::Looked(Ok(pairs.iter().take_while(|(one, _)| is_taken(one)).count()))
        })
    }

    /// Gives the kernel connections, unless the device was let go of; what the guard hears if it does not
    /// take them.
    fn give(
        &mut self,
        numbers: &[u32],
        answer: fn(Result<usize, String>) -> Event,
    ) -> Option<Event> {
        if self.is_let_go() {
            return Some(Event::Gone(format!("{} is detached", self.node())));
        }
        let message = Message::reconfigure(self.record.index, &self.record.backend, numbers);
        self.driver.order(message).err().map(|error| answer(Err(error.to_string())))
    }

    fn write_record(&mut self, log: &Log) {
        let progress = self.guard.progress();
        let name = |server: usize| self.servers[server].to_string();
        // One that is none of ours stays what it was.
        self.record.server = progress.server.map_or_else(|| self.record.server.clone(), name);
        self.record.lost_at = progress.lost_at.map(|lost_at| lost_at.as_secs());
        self.record.terms.size = progress.size;
        self.record.failed = progress.failed;
        self.record.keepers = progress.keepers;
        self.record.refusals =
            progress.refusals.into_iter().map(|(server, text)| (name(server), text)).collect();
        if let Err(error) = system::write_record(&self.run_dir, &self.record) {
            log.say(&format!("{}: {}: {error}", self.record.volume, self.run_dir.display()));
        }
    }
}

/// Whether the kernel has let go of a connection.
fn has_ended(link: &Link) -> bool {
    let mut one = [PollFd::new(link.as_fd(), PollFlags::empty())];
    let ended = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    poll(&mut one, PollTimeout::ZERO).is_ok()
        && one[0].revents().is_some_and(|events| events.intersects(ended))
}
