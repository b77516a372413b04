//! Runs handlers: `/bin/sh -c LINE`, each watched by a thread of its own.
//!
//! Invariants:
//! - Whoever asks is told of the end exactly once, whatever happens.
//! - A handler has a clean environment, no input, its own process group and no signal blocked; at its
//!   limit the whole group is killed.
//! - Handlers that only tell somebody run one after the other, and [`QUEUE_MAX`] wait at most; those
//!   that something waits for are started at once: the core has few of them under way.
//! - A process is signalled only while it is not reaped.
//! - The data thread waits for nothing here.

mod environment;
mod fitness;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use crate::resource::{
    Handler, HandlerCall, HandlerOutcome, Options, ResourceConfig, Status, VolumeNumber,
};

use super::PeerPath;
use super::handle::{Setup, Shared};

pub use environment::HandlerPlaces;

/// Calls that wait for the end of another one, at most.
const QUEUE_MAX: usize = 64;
/// How long the end of a process may go unnoticed whose output somebody else holds open.
const SLICE: Duration = Duration::from_millis(50);
/// Lines of one handler that are logged at most, and bytes of each.
const LINES_MAX: usize = 200;
const LINE_MAX: usize = 500;
/// How long a group that was killed may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(2);

type Ended = (u64, HandlerOutcome);
/// The processes that are not reaped, by number, and whether somebody waits for the answer.
type Processes = Arc<Mutex<BTreeMap<u64, (Pid, bool)>>>;

/// The handlers of one resource.
#[derive(Debug)]
pub(crate) struct HandlerRuns {
    config: ResourceConfig,
    setup: environment::Origin,
    shared: Arc<Shared>,
    ended: (Sender<Ended>, Receiver<Ended>),
    processes: Processes,
    /// What waits until the one that runs has ended.
    queue: VecDeque<(u64, Box<HandlerCall>)>,
    telling: Option<u64>,
    /// Beside the others: the cluster does not wait for a mail.
    fitness: fitness::Follower,
}

impl HandlerRuns {
    /// Of a resource that has just begun, with this state.
    pub(crate) fn new(setup: &Setup, shared: Arc<Shared>, status: &Status) -> Self {
        Self {
            fitness: fitness::Follower::new(&setup.config.options, status),
            config: setup.config.clone(),
            setup: environment::Origin::of(setup),
            shared,
            ended: channel(),
            processes: Processes::default(),
            queue: VecDeque::new(),
            telling: None,
        }
    }

    /// `Action::RunHandler`.
    pub(crate) fn run(&mut self, number: u64, call: Box<HandlerCall>) {
        if call.handler.is_awaited() {
            return self.start(number, *call);
        }
        if self.telling.is_some() {
            if self.queue.len() >= QUEUE_MAX {
                return self.tell(number, HandlerOutcome::NotStarted(0));
            }
            self.queue.push_back((number, call));
            return;
        }
        self.telling = Some(number);
        self.start(number, *call);
    }

    /// The options are these from now on.
    pub(crate) fn set_options(&mut self, options: &Options) {
        self.fitness.set_options(options);
    }

    /// The ways to the peers are these from now on, those of one peer in their order.
    pub(crate) fn set_paths(&mut self, paths: &[PeerPath]) {
        self.setup.set_paths(paths);
    }

    /// The volume has this disk now.
    pub(crate) fn set_disk(&mut self, volume: VolumeNumber, path: &str) {
        if let Some(own) = self.config.volumes.iter_mut().find(|own| own.number == volume) {
            path.clone_into(&mut own.disk);
        }
    }

    /// The resource's state has changed to this.
    pub(crate) fn state_changed(&mut self, status: &Status) {
        self.fitness.look(status);
        self.tell_fitness();
    }

    fn tell_fitness(&mut self) {
        if let Some((number, call)) = self.fitness.next() {
            self.start(number, call);
        }
    }

    /// Those of `Action::RunHandler` that have ended since the last time.
    pub(crate) fn ended(&mut self) -> Vec<Ended> {
        let all: Vec<Ended> = self.ended.1.try_iter().collect();
        let mut ended = Vec::with_capacity(all.len());
        for (number, outcome) in all {
            if self.fitness.ended(number) {
                self.fitness_told(outcome);
            } else {
                ended.push((number, outcome));
            }
        }
        for (number, _) in &ended {
            if self.telling == Some(*number) {
                self.telling = self.queue.pop_front().map(|(number, call)| {
                    self.start(number, *call);
                    number
                });
            }
        }
        ended
    }

    /// One that has failed is not tried again: the cluster's own look comes soon.
    fn fitness_told(&mut self, outcome: HandlerOutcome) {
        let (resource, handler) = (&self.config.name, Handler::PromotionScore);
        if outcome != HandlerOutcome::Exited(0) {
            tracing::warn!(target: "tandem", resource = %resource, "{resource}: {handler} helper {outcome}");
        }
        self.tell_fitness();
    }

    fn tell(&self, number: u64, outcome: HandlerOutcome) {
        // It is the own queue.
        let _ = self.ended.0.send((number, outcome));
        self.shared.wake();
    }

    fn start(&self, number: u64, call: HandlerCall) {
        let run = Run {
            number,
            environment: environment::environment(&self.config, &self.setup, &call),
            name: self.config.name.clone(),
            call,
            processes: Arc::clone(&self.processes),
        };
        let (ended, shared) = (self.ended.0.clone(), Arc::clone(&self.shared));
        let watch = move || {
            run.watch(|outcome| {
                // The data thread may have ended.
                let _ = ended.send((number, outcome));
                shared.wake();
            });
        };
        let thread = std::thread::Builder::new().name(format!("handler {number}"));
        if let Err(error) = thread.spawn(watch) {
            self.tell(number, HandlerOutcome::NotStarted(error.raw_os_error().unwrap_or(0)));
        }
    }

    /// The resource ends: nobody waits for an answer any more. What only tells somebody goes on.
    pub(crate) fn end(&mut self) {
        self.queue.clear();
        for (pid, awaited) in locked(&self.processes).values() {
            if *awaited {
                // It may be gone.
                let _ = killpg(*pid, Signal::SIGTERM);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One handler that runs.
struct Run {
    number: u64,
    name: String,
    call: HandlerCall,
    environment: Vec<(String, String)>,
    processes: Processes,
}

impl Run {
    /// Runs it; `tell` is called once.
    fn watch(&self, tell: impl FnOnce(HandlerOutcome)) {
        let started = Instant::now();
        let (output, pid) = match self.spawn() {
            Ok(spawned) => spawned,
            Err(errno) => return tell(HandlerOutcome::NotStarted(errno as i32)),
        };
        let limit = Duration::from_millis(self.call.limit_ms);
        let mut log = Output::new(&self.name, self.call.handler.name());
        let mut output = Some(output);
        loop {
            if let Some(outcome) = self.reap(pid) {
                if let Some(output) = output.as_mut() {
                    log.drain(output);
                }
                log.end();
                return tell(outcome);
            }
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                break;
            }
            let slice = left.min(SLICE);
            let open = output.as_mut().map(|pipe| log.wait(pipe, slice));
            match open {
                Some(true) => {}
                Some(false) => output = None,
                None => std::thread::sleep(slice.min(Duration::from_millis(5))),
            }
        }
        log.end();
        self.kill(pid, Signal::SIGKILL);
        let until = Instant::now() + KILL_LIMIT;
        while Instant::now() < until && self.reap(pid).is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        tell(HandlerOutcome::TimedOut);
        // One that hangs in the kernel is reaped when it comes back.
        while locked(&self.processes).contains_key(&self.number) && self.reap(pid).is_none() {
            std::thread::sleep(KILL_LIMIT);
        }
    }

    fn spawn(&self) -> Result<(std::fs::File, Pid), Errno> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        let mut actions = PosixSpawnFileActions::init()?;
        let nothing = std::fs::File::open("/dev/null");
        let nothing =
            nothing.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        actions.add_dup2(nothing.as_raw_fd(), 0)?;
        actions.add_dup2(theirs.as_raw_fd(), 1)?;
        actions.add_dup2(theirs.as_raw_fd(), 2)?;
        let mut attributes = PosixSpawnAttr::init()?;
        // The daemon has blocked signals of its own.
        attributes.set_sigmask(&SigSet::empty())?;
        attributes.set_sigdefault(&SigSet::all())?;
        attributes.set_pgroup(Pid::from_raw(0))?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
                | PosixSpawnFlags::POSIX_SPAWN_SETPGROUP,
        )?;
        let line = CString::new(self.call.line.as_str()).map_err(|_| Errno::EINVAL)?;
        let words: [&CStr; 3] = [c"sh", c"-c", &line];
        let variable = |(name, value): &(String, String)| CString::new(format!("{name}={value}"));
        let environment: Vec<CString> =
            self.environment.iter().filter_map(|one| variable(one).ok()).collect();
        let mut processes = locked(&self.processes);
        let pid = posix_spawn(c"/bin/sh", &actions, &attributes, &words, &environment)?;
        processes.insert(self.number, (pid, self.call.handler.is_awaited()));
        drop(processes);
        drop(theirs);
        Ok((std::fs::File::from(ours), pid))
    }

    /// How it has ended, if it has.
    fn reap(&self, pid: Pid) -> Option<HandlerOutcome> {
        let mut processes = locked(&self.processes);
        let outcome = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => HandlerOutcome::Exited(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => HandlerOutcome::Signalled(signal as i32),
            Ok(_) | Err(Errno::EINTR) => return None,
            Err(errno) => HandlerOutcome::NotStarted(errno as i32),
        };
        processes.remove(&self.number);
        Some(outcome)
    }

    fn kill(&self, pid: Pid, signal: Signal) {
        if locked(&self.processes).contains_key(&self.number) {
            // It may be gone.
            let _ = killpg(pid, signal);
        }
    }
}

/// What a handler says, line by line, bounded.
struct Output<'a> {
    resource: &'a str,
    handler: &'a str,
    line: Vec<u8>,
    lines: usize,
}

impl<'a> Output<'a> {
    fn new(resource: &'a str, handler: &'a str) -> Self {
        Self { resource, handler, line: Vec::new(), lines: 0 }
    }

    /// Waits for output, for so long at most; false at its end.
    fn wait(&mut self, pipe: &mut std::fs::File, limit: Duration) -> bool {
        let ms = u16::try_from(limit.as_millis()).unwrap_or(u16::MAX).max(1);
        let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::from(ms)) {
            Ok(0) | Err(_) => true,
            Ok(_) => self.read(pipe),
        }
    }

    /// What is there now.
    fn drain(&mut self, pipe: &mut std::fs::File) {
        for _ in 0..LINES_MAX {
            let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            let there = poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0);
            if !there || !self.read(pipe) {
                return;
            }
        }
    }

    fn read(&mut self, pipe: &mut std::fs::File) -> bool {
        let mut bytes = [0; 4096];
        let count = pipe.read(&mut bytes).unwrap_or(0);
        for byte in &bytes[..count] {
            match byte {
                b'\n' => self.print(),
                _ if self.line.len() < LINE_MAX => self.line.push(*byte),
                _ => {}
            }
        }
        count > 0
    }

    fn print(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.lines += 1;
        let (resource, handler) = (self.resource, self.handler);
        match self.lines.cmp(&(LINES_MAX + 1)) {
            std::cmp::Ordering::Less => {
                let printable = |c: char| if c.is_control() { ' ' } else { c };
                let text: String = String::from_utf8_lossy(&line).chars().map(printable).collect();
                tracing::info!(target: "tandem", resource, "{resource}: {handler}: {text}");
            }
            std::cmp::Ordering::Equal => {
                tracing::warn!(target: "tandem", resource,
                    "{resource}: {handler}: what it says after {LINES_MAX} lines is not logged");
            }
            std::cmp::Ordering::Greater => {}
        }
    }

    fn end(&mut self) {
        if !self.line.is_empty() {
            self.print();
        }
    }
}

#[cfg(test)]
mod tests;
