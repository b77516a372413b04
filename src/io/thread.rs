//! The data thread of one resource: completions into events, actions into operations, in one loop.
//!
//! ```text
//! wait -> gap? -> every completion: events -> core -> actions -> operations
//!      -> what has expired -> the core's timeout -> who waited for buffers
//!      -> sends, receives -> wait
//! ```
//!
//! Invariants:
//! - The core is asked by this thread alone, one event at a time, and its actions are drained
//!   before the next event.
//! - Nothing is submitted inside the loop; one system call a turn submits everything and waits.
//! - The answer to an order that closes a disk is held back until it is closed: `down` and `detach` answer
//!   when the locks are given back. A disk that hangs then holds them up for a while, and no other order at all.
//! - After a panic the sockets are shut down, ring, pool and descriptors are leaked (the kernel may
//!   still write there; the locks stay), and orders are answered with the message.

mod actions;
mod beat;
mod clocks;
mod digests;
mod keepers;
mod orders;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;

use crate::resource::{Action, AdminResult, Event, Resource, Role, Status, Time, VolumeNumber};

use super::backing::OpenDisk;
use super::buffer::{PAGE, Pool};
use super::client::{Clients, Limits, STATUS_MAX};
use super::context::{Context, Purpose};
use super::disk::{Disks, Flushes};
use super::handle::{Handle, ORDERS_MAX, Order, Setup, Shared};
use super::handler::HandlerRuns;
use super::peer::Peers;
use super::record::{Recorder, Start};
use super::ring::{Completion, Descriptor, Ring};
use beat::Beat;
use clocks::{WallClock, Watch, clock, wall_clock_ms};
use digests::Digests;

/// How often idle buffers are looked at, ms.
const TRIM_MS: u64 = 10_000;
/// How long the end waits for operations that do not come back.
const END_MS: u64 = 30_000;
/// The same where a disk is known to hang.
const HUNG_END_MS: u64 = 1_000;

/// The state machine, as the data thread drives it.
pub(crate) trait Core {
    /// See [`Resource::handle`].
    fn handle(&mut self, now: Time, event: Event);
    /// See [`Resource::next_action`].
    fn next_action(&mut self) -> Option<Action>;
    /// See [`Resource::next_timeout`].
    fn next_timeout(&self) -> Option<Time>;
    /// See [`Resource::state_version`].
    fn state_version(&self) -> u64;
    /// See [`Resource::status`].
    fn status(&self, now: Time) -> Status;
    /// See [`Resource::export`].
    fn export(&self, volume: VolumeNumber) -> Result<u64, String>;
    /// See [`Resource::admits`].
    fn admits(&self, volume: VolumeNumber, client: &str) -> Result<(), String>;
    /// See [`Resource::reads_locally`].
    fn reads_locally(&self, volume: VolumeNumber) -> bool;
}

impl Core for Resource {
    fn handle(&mut self, now: Time, event: Event) {
        Self::handle(self, now, event);
    }
    fn next_action(&mut self) -> Option<Action> {
        Self::next_action(self)
    }
    fn next_timeout(&self) -> Option<Time> {
        Self::next_timeout(self)
    }
    fn state_version(&self) -> u64 {
        Self::state_version(self)
    }
    fn status(&self, now: Time) -> Status {
        Self::status(self, now)
    }
    fn export(&self, volume: VolumeNumber) -> Result<u64, String> {
        Self::export(self, volume)
    }
    fn admits(&self, volume: VolumeNumber, client: &str) -> Result<(), String> {
        Self::admits(self, volume, client)
    }
    fn reads_locally(&self, volume: VolumeNumber) -> bool {
        Self::reads_locally(self, volume)
    }
}

/// Starts the data thread of a resource.
///
/// # Errors
/// The ring, the recording or the thread cannot be made.
pub fn spawn(setup: Setup) -> std::io::Result<Handle> {
    spawn_core(setup, Limits::default(), |setup, now, wall_clock_ms| {
        Resource::new(setup.config.clone(), setup.seed, now, wall_clock_ms)
    })
}

/// [`spawn`] with another state machine and other limits.
pub(crate) fn spawn_core<C: Core>(
    setup: Setup,
    limits: Limits,
    make: impl FnOnce(&Setup, Time, u64) -> C + Send + 'static,
) -> std::io::Result<Handle> {
    let (orders, waiting) = sync_channel(ORDERS_MAX);
    let (tell, told) = channel();
    let name = setup.config.name.clone();
    std::thread::Builder::new().name(format!("data {name}")).spawn(move || {
        let mut shell = match Shell::new(&setup, limits, make, waiting) {
            Ok(shell) => shell,
            Err(error) => {
                // The one who waits has gone: nobody to tell.
                let _ = tell.send(Err(error));
                return;
            }
        };
        if tell.send(Ok(Arc::clone(&shell.shared))).is_err() {
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| shell.run()));
        let failure = match outcome {
            Ok(Ok(())) => return shell.end(),
            Ok(Err(error)) => format!("the ring failed: {error}"),
            Err(panic) => panic_message(panic.as_ref()),
        };
        shell.fail(&failure);
    })?;
    let shared = told.recv().map_err(|_| std::io::Error::other("the data thread has ended"))??;
    Ok(Handle::new(orders, shared))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// The eventfd of the orders, as a descriptor of the ring.
#[derive(Debug)]
struct Wake(Arc<Shared>);

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }
}

/// Who waits for the answer to an order.
struct Waiter {
    reply: oneshot::Sender<AdminResult>,
    attach: Option<Attach>,
    /// Changed options, that the shell takes over with the core's answer.
    options: Option<ChangedOptions>,
    /// The disks that it closes.
    closes: Closes,
}

/// Which disks are closed before an order is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closes {
    None,
    One(VolumeNumber),
    All,
}

/// An answer that waits for a disk to be closed, until then at most.
struct Held {
    id: u64,
    result: AdminResult,
    closes: Closes,
    until: Time,
}

/// Options, and what durability means with them on each volume.
type ChangedOptions = (Box<crate::resource::Options>, BTreeMap<VolumeNumber, Flushes>);

/// What an order to attach brought.
enum Attach {
    /// The disk is in its place.
    Placed(VolumeNumber, keepers::Left),
    /// There is another disk; this one is closed with the answer.
    Refused(Box<OpenDisk>),
}

/// Where everything is on a disk that has taken its room, or why it has not.
type Room =
    Result<Result<crate::meta::Geometry, crate::resource::Refusal>, crate::resource::DiskError>;
/// A disk has taken its room, or not.
type Grown = (VolumeNumber, crate::resource::Tag, Room);

/// A disk was closed.
type Closed = (VolumeNumber, Result<(), crate::resource::DiskError>);

struct Shell<C> {
    core: C,
    io: Context,
    clients: Clients,
    peers: Peers,
    disks: Disks,
    digests: Digests,
    orders: Receiver<Order>,
    shared: Arc<Shared>,
    wake: Descriptor,
    waiters: HashMap<u64, Waiter>,
    /// Who waits until the clients that are held are quiet.
    holding: Option<oneshot::Sender<Vec<String>>>,
    last_order: u64,
    /// Answers that wait for a disk to be closed.
    held: Vec<Held>,
    /// Volumes whose disks are being closed by helper threads.
    closing: Vec<VolumeNumber>,
    closed: (Sender<Closed>, Receiver<Closed>),
    /// What has become of disks that take room on a helper thread.
    grown: (Sender<Grown>, Receiver<Grown>),
    handlers: HandlerRuns,
    recorder: Option<Recorder>,
    /// How the system was called before, of each volume that has lost nothing since.
    former: BTreeMap<VolumeNumber, Vec<[u8; 16]>>,
    version: u64,
    flushes: BTreeMap<VolumeNumber, Flushes>,
    watch: Watch,
    beat: Option<&'static Beat>,
    /// What was told of a freeze was told then, of all that had begun.
    gap_told: Time,
    /// As the core has it.
    role: Role,
    /// `busy-poll`.
    busy_poll: Duration,
    /// The last turn had something to do.
    was_busy: bool,
    trim_at: Time,
    /// As the core has it.
    wall_clock: WallClock,
    stop: Option<oneshot::Sender<()>>,
}

impl<C: Core> Shell<C> {
    fn new(
        setup: &Setup,
        limits: Limits,
        make: impl FnOnce(&Setup, Time, u64) -> C,
        orders: Receiver<Order>,
    ) -> std::io::Result<Self> {
        let ring = Ring::new()?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        let (now, wall_clock_ms) = (clock(), wall_clock_ms());
        let config = &setup.config;
        let start = Start { config: config.clone(), seed: setup.seed, now, wall_clock_ms };
        let record = setup.record.as_deref();
        let recorder = record.map(|path| Recorder::create(path, &start)).transpose()?;
        let core = make(setup, now, wall_clock_ms);
        let status = core.status(now);
        let role = status.role;
        let shared = Arc::new(Shared::new(wake, status));
        let handlers = HandlerRuns::new(setup, Arc::clone(&shared), &shared.latest());
        let options = &config.options;
        let mut peers = Peers::new(setup);
        peers.set_secrets(setup.secrets.clone().map(Arc::new));
        Ok(Self {
            version: core.state_version(),
            core,
            io: Context {
                ring,
                pool: Pool::default(),
                events: std::collections::VecDeque::new(),
                now,
                name: config.name.clone(),
                reads_reserved: 0,
                buffers_awaited: false,
                window: u64::from(options.max_buffers) * PAGE as u64,
                limits,
                fast_zeroes: std::collections::BTreeSet::new(),
            },
            clients: Clients::default(),
            peers,
            disks: Disks::default(),
            digests: Digests::default(),
            orders,
            wake: Rc::new(Wake(Arc::clone(&shared))),
            handlers,
            shared,
            waiters: HashMap::new(),
            holding: None,
            last_order: 0,
            held: Vec::new(),
            closing: Vec::new(),
            closed: channel(),
            grown: channel(),
            recorder,
            former: BTreeMap::new(),
            flushes: orders::flushes(config),
            watch: Watch::new(options),
            beat: Beat::of_process(),
            gap_told: Time(0),
            role,
            busy_poll: Duration::from_micros(u64::from(options.busy_poll_us)),
            was_busy: false,
            trim_at: now.after_ms(TRIM_MS),
            wall_clock: WallClock::new(now, wall_clock_ms),
            stop: None,
        })
    }

    /// Runs until the order to stop, or until nobody is left who could give it.
    fn run(&mut self) -> std::io::Result<()> {
        self.arm_wake();
        self.start();
        while self.stop.is_none() {
            self.counted_turn()?;
        }
        Ok(())
    }

    #[cfg(not(test))]
    fn counted_turn(&mut self) -> std::io::Result<()> {
        self.turn()
    }

    fn arm_wake(&mut self) {
        self.io.ring.read_counter(&self.wake, Purpose::Orders);
    }

    /// One turn of the loop.
    fn turn(&mut self) -> std::io::Result<()> {
        let before = self.io.now;
        let mut wait = self.wait(clock());
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        if self.was_busy && !self.busy_poll.is_zero() && !self.clients.is_empty() {
            let time = self.busy_poll.min(wait);
            self.io.ring.poll(time)?;
            wait -= time;
        }
        self.io.ring.submit_and_wait(wait)?;
        #[cfg(test)]
        self.shared.enters.store(self.io.ring.enters(), std::sync::atomic::Ordering::Release);
        self.io.now = clock();
        let gap_ms = self.watch.gap(wait_ms, self.io.now.ms_since(before));
        if let Some(gap_ms) = gap_ms.or_else(|| self.frozen_ms(wait_ms, before)) {
            self.gap(gap_ms);
        }
        let set = self.wall_clock.was_set(self.io.now, clocks::wall_clock_ms);
        self.io.events.extend(set);
        self.was_busy = false;
        while let Some(completion) = self.io.ring.next_completion() {
            self.was_busy = true;
            self.dispatch(completion);
            self.pump();
        }
        self.clients.expire(&mut self.io);
        self.peers.expire(&mut self.io);
        self.pump();
        if self.core.next_timeout().is_some_and(|due| due <= self.io.now) {
            self.io.events.push_back(Event::Timeout);
        }
        let computed = self.digests.compute(&mut self.io);
        self.report(computed);
        self.settle();
        if self.io.now >= self.trim_at {
            self.io.pool.trim();
            self.trim_at = self.io.now.after_ms(TRIM_MS);
        }
        self.start();
        if let Some(recorder) = &mut self.recorder {
            recorder.flush();
        }
        Ok(())
    }

    /// How long to wait: until the next deadline, and never so long that a freeze could hide in it. A
    /// Primary may get its first client right behind one.
    fn wait(&self, now: Time) -> Duration {
        let deadlines = [
            self.core.next_timeout(),
            self.clients.deadline(&self.io),
            self.peers.deadline(),
            self.held.iter().map(|held| held.until).min(),
        ];
        if self.clients.is_asking() || self.digests.is_waiting() {
            return Duration::ZERO;
        }
        let rests = self.role != Role::Primary || self.beat().is_some();
        let idle = self.clients.is_empty() && rests;
        // The end of a small send wakes nobody, and a hold waits for just that.
        let longest = if self.holding.is_some() { 1 } else { self.watch.longest_ms(idle) };
        let longest = now.after_ms(longest);
        let next = deadlines.into_iter().flatten().min().map_or(longest, |t| t.min(longest));
        Duration::from_nanos(next.0.saturating_sub(now.0))
    }

    /// What looks at the clock for a Primary that nobody uses.
    fn beat(&self) -> Option<&'static Beat> {
        self.beat.filter(|_| self.watch.ping_timeout_ms >= beat::SHORTEST_MS)
    }

    /// For how long a Primary stood still in a long wait, with the whole process, if that counts.
    fn frozen_ms(&self, wait_ms: u64, since: Time) -> Option<u64> {
        let beat = self.beat().filter(|_| self.watch.is_long(wait_ms))?;
        let frozen_ms = beat.longest_ms(since, self.gap_told, self.io.now);
        let counts = self.role == Role::Primary && frozen_ms > self.watch.ping_timeout_ms;
        counts.then_some(frozen_ms)
    }

    /// The process did not run: what waits in the clients' sockets is not executed any more.
    fn gap(&mut self, gap_ms: u64) {
        self.gap_told = self.io.now;
        tracing::warn!(target: "tandem", resource = %self.io.name,
            "this process did not run for {gap_ms} ms");
        // First: any other event would have the core take the gap for the silence of peers and disks.
        self.io.events.push_back(Event::ClockGap { gap_ms });
        self.clients.drop_all(&mut self.io);
        self.pump();
    }

    fn dispatch(&mut self, completion: Completion<Purpose>) {
        let Completion { purpose, memory, result } = completion;
        let io = &mut self.io;
        match purpose {
            Purpose::Orders => {
                self.take_orders();
                if self.stop.is_none() {
                    self.arm_wake();
                }
            }
            Purpose::Cancel => {}
            Purpose::Accept(listener) => self.peers.accepted(io, listener, memory, result),
            Purpose::ClientReceive(id) => self.clients.received(io, id, memory, result),
            Purpose::ClientSend(id) => self.clients.sent(io, id, memory, result),
            Purpose::PeerConnect(id) => self.peers.connected(io, id, result),
            Purpose::PeerReceive(id) => self.peers.received(io, id, memory, result),
            Purpose::PeerSend(id) => self.peers.sent(io, id, memory, result),
            Purpose::Disk(number, step) => self.disks.completed(io, number, step, memory, result),
        }
    }

    /// Gives every event to the core and carries its actions out.
    fn pump(&mut self) {
        while let Some(event) = self.io.events.pop_front() {
            if let Some(recorder) = &mut self.recorder {
                recorder.event(self.io.now, &event);
            }
            self.core.handle(self.io.now, event);
            // Before the actions: who has the answer to an order sees what it has changed.
            let version = self.core.state_version();
            if version != self.version {
                self.version = version;
                let status = self.status();
                self.role = status.role;
                for device in status.devices.iter().filter(|device| device.hung_ms.is_some()) {
                    self.disks.distrust(device.volume);
                }
                for device in &status.devices {
                    self.clients.grow(device.volume, device.size);
                }
                self.handlers.state_changed(&status);
                self.shared.publish(status);
            }
            while let Some(action) = self.core.next_action() {
                if let Some(recorder) = &mut self.recorder {
                    recorder.action(&action);
                }
                self.perform(action);
            }
        }
    }

    /// Goes on with everything that waited for buffers, disks or answers, until nothing moves.
    fn settle(&mut self) {
        loop {
            self.pump();
            self.clients.resume(&mut self.io);
            let mut answered = false;
            for _ in 0..STATUS_MAX {
                let Some(asked) = self.clients.next_asked() else { break };
                answered = true;
                let (volume, offset, length) = (asked.volume, asked.offset, asked.length);
                let extents = if self.core.reads_locally(volume) {
                    self.disks.extents(self.io.now, volume, offset, length)
                } else {
                    vec![nbd::reply::Extent { length, flags: 0 }]
                };
                self.clients.answer_status(&asked, extents);
            }
            if answered {
                // Who had as many under way as may be takes the next ones that it has sent.
                self.clients.resume(&mut self.io);
            }
            self.disks.resume(&mut self.io);
            self.close_disks();
            if self.io.events.is_empty() {
                return;
            }
        }
    }

    fn start(&mut self) {
        self.io.buffers_awaited = self.clients.is_waiting() || self.disks.is_waiting();
        self.clients.start(&mut self.io);
        self.peers.start(&mut self.io);
        // A client that has left says so now.
        self.pump();
        if self.clients.are_held()
            && self.clients.are_quiet()
            && let Some(holding) = self.holding.take()
        {
            // Nobody may wait any more.
            let _ = holding.send(Vec::new());
        }
    }

    /// The end in order: nothing is started any more, and everything comes back before a close.
    fn end(mut self) {
        self.clients.drop_all(&mut self.io);
        self.peers.drop_all(&mut self.io);
        self.disks.close_all(&mut self.io);
        self.digests.drop_all(&mut self.io);
        self.handlers.end();
        let hangs = self.core.status(self.io.now).devices.iter().any(|one| one.hung_ms.is_some());
        let limit = if hangs { HUNG_END_MS } else { END_MS };
        let until = clock().after_ms(limit);
        while self.io.ring.outstanding() > 0 && clock() < until {
            if self.io.ring.submit_and_wait(Duration::from_millis(100)).is_err() {
                break;
            }
            while let Some(Completion { purpose, memory, result }) = self.io.ring.next_completion()
            {
                match purpose {
                    Purpose::Disk(number, step) => {
                        self.disks.completed(&mut self.io, number, step, memory, result);
                    }
                    _ => self.io.reclaim(memory),
                }
            }
        }
        self.close_disks();
        let closing = Duration::from_millis(limit);
        while !self.closing.is_empty() && self.closed.1.recv_timeout(closing).is_ok() {
            self.closing.pop();
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.flush();
        }
        let stop = self.stop.take();
        let outstanding = self.io.ring.outstanding();
        debug_assert!(outstanding > 0 || self.io.reads_reserved == 0, "a reservation leaked");
        self.shared.ended_with(self.io.pool.live_buffers());
        if outstanding > 0 || self.disks.is_closing() {
            tracing::error!(target: "tandem", resource = %self.io.name,
                "{outstanding} operations did not come back in {} s: their memory and the disk's lock \
                 are kept until tandemd ends", limit / 1000);
            // The kernel may still read and write there.
            let Self { io, clients, peers, disks, .. } = self;
            std::mem::forget((io, clients, peers, disks));
        } else {
            drop(self);
        }
        if let Some(reply) = stop {
            // Nobody may wait.
            let _ = reply.send(());
        }
    }
}

impl<C> Shell<C> {
    /// After a panic, or when the ring does not work: nothing of the kernel's is touched again.
    fn fail(self, message: &str) {
        tracing::error!(target: "tandem", resource = %self.io.name,
            "the resource has failed: {message}; restart tandemd to bring it up again");
        self.clients.shut_down_sockets();
        self.peers.shut_down_sockets();
        let Self { shared, orders, mut waiters, held, stop, io, clients, peers, disks, .. } = self;
        let status = (*shared.latest()).clone().after_failure(message);
        shared.publish(status);
        drop(held);
        waiters.drain().for_each(|(_, waiter)| {
            if let Some(attach) = waiter.attach {
                std::mem::forget(attach);
            }
            orders::refuse(waiter.reply, message);
        });
        std::mem::forget((io, clients, peers, disks));
        if let Some(reply) = stop {
            // Nobody may wait.
            let _ = reply.send(());
            return;
        }
        orders::answer_for_failed(&orders, &shared, message);
    }
}

#[cfg(test)]
mod tests;
