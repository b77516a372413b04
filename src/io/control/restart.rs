//! `tandemadm daemon restart` and `stop`: the daemon is replaced by the program on disk, under its
//! clients.
//!
//! ```text
//! ask the program -> close the doors -> hold the clients, all is answered -> each resource goes down
//!   in order -> record and descriptors -> execute --- the same process, another program --->
//!   each resource up, connected, Primary again -> the clients go on -> open the doors
//! ```
//! Invariants:
//! - Until every client is quiet nothing has changed: what does not become quiet in time is named, the
//!   order is refused, and everything goes on.
//! - A resource goes down as by `down`: flushed on both nodes, left in order, marked clean. So a kill
//!   at any moment is a crash and nothing more, and the peer may be promoted.
//! - No request is begun between the last answer of the old program and the promotion in the new one;
//!   a client whose node is not Primary again is closed, unread.
//! - The lock of the run folder is held all the time.
//! - Where the program cannot be executed, this one does what the other would have done.

mod again;
mod follow;
mod leave;
mod pass;
mod program;
mod record;

use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::doors::Doors;
use super::registry::{Registry, refusal};
use super::{logging, startup};
use crate::control::protocol::DaemonOrder;
use crate::resource::{AdminResult, Refusal};

pub(super) use follow::Inherited;
pub(super) use leave::open_by;
pub(super) use program::{answer, path, specimen};
pub(super) use record::Listener;
use record::{Left, Passenger, Record, Seat};

/// Orders for the daemon that may wait.
pub(super) const ORDERS_MAX: usize = 4;
/// How long a thread may hold the execution up.
const THREADS_LIMIT: Duration = Duration::from_secs(2);
/// How long clients that negotiate may take to be done.
const NEGOTIATION_LIMIT: Duration = Duration::from_secs(1);

/// An order for the daemon, and who waits for the answer.
#[derive(Debug)]
pub(super) struct Asked {
    order: DaemonOrder,
    /// The caller's socket, open as long as `reply` is waited for.
    caller: RawFd,
    reply: oneshot::Sender<AdminResult>,
}

/// Gives the daemon an order. What is done as ordered is not answered here.
///
/// # Errors
/// It is refused.
pub(super) async fn ask(registry: &Registry, order: DaemonOrder, caller: RawFd) -> AdminResult {
    let (reply, answer) = oneshot::channel();
    let full = |_| transient("another order for the daemon runs; try again when it has ended.");
    registry.daemon.try_send(Asked { order, caller, reply }).map_err(full)?;
    answer.await.map_err(|_| transient("tandemd is about to end."))?
}

fn transient(hint: impl Into<String>) -> Refusal {
    refusal(-18, "In transient state, retry after next state change", hint)
}

/// CLOCK_BOOTTIME, ns.
fn clock_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Carries an order out. `Some`: the daemon is to end, and why. `ends`: whether that was ordered
/// meanwhile.
pub(super) async fn obey(
    registry: &Rc<Registry>,
    doors: &mut Doors,
    lock: RawFd,
    asked: Asked,
    ends: impl FnMut() -> Option<&'static str>,
) -> Option<&'static str> {
    let Asked { order, caller, reply } = asked;
    let refused = match order {
        DaemonOrder::Stop { force } => match registry.may_stop(force).await {
            // Not answered: the caller's connection ends with the daemon.
            Ok(()) => {
                std::mem::forget(reply);
                return Some("tandemadm daemon stop");
            }
            Err(refusal) => refusal,
        },
        DaemonOrder::Restart { timeout_ms } => {
            let timeout = Duration::from_millis(timeout_ms);
            let restart = Restart { registry, lock, caller, timeout };
            match restart.run(doors, ends).await {
                Ended::Signal(why) => return Some(why),
                Ended::Refused(refusal) => refusal,
            }
        }
    };
    let verb = match order {
        DaemonOrder::Restart { .. } => "restart",
        DaemonOrder::Stop { .. } => "stop",
    };
    warn!("daemon {verb}: refused: {}", refused.to_string().replace('\n', " "));
    // Nobody may wait any more.
    let _ = reply.send(Err(refused));
    None
}

/// How a restart ended that did not take place.
enum Ended {
    Signal(&'static str),
    Refused(Refusal),
}

struct Restart<'a> {
    registry: &'a Rc<Registry>,
    lock: RawFd,
    caller: RawFd,
    timeout: Duration,
}

impl Restart<'_> {
    async fn run(&self, doors: &mut Doors, ends: impl FnMut() -> Option<&'static str>) -> Ended {
        if let Err(refusal) = self.registry.may_restart().await {
            return Ended::Refused(refusal);
        }
        let program = self.registry.settings.program.clone();
        let (shown, asked) = (program.display().to_string(), program.clone());
        let entries = self.registry.chosen(None);
        let definitions = entries.iter().map(|entry| entry.running.borrow().clone());
        let specimen = Record::specimen(definitions.collect());
        let able = move || program::can_take_over(&asked, &specimen);
        let able = tokio::task::spawn_blocking(able).await;
        let able = able.unwrap_or_else(|_| Err("it cannot be asked".to_owned()));
        if let Err(why) = able {
            let hint = format!("{shown} cannot take over: {why}. Nothing has changed.");
            return Ended::Refused(refusal(162, "Invalid configuration request", hint));
        }
        info!("restart: {shown} takes over");
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        startup::notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
        doors.close().await;
        doors.nobody_negotiates(NEGOTIATION_LIMIT).await;
        let ended = self.go(doors, ends).await;
        if let Err(error) = doors.open() {
            error!("nobody can connect any more, for no descriptor is left: {error}");
        }
        startup::notify("READY=1");
        ended
    }

    /// With the doors closed.
    async fn go(&self, doors: &Doors, mut ends: impl FnMut() -> Option<&'static str>) -> Ended {
        let registry = self.registry;
        let since_ns = clock_ns();
        if let Err(refusal) = registry.hold_clients(self.timeout).await {
            return Ended::Refused(refusal);
        }
        registry.stands_still.set(true);
        let (left, passengers, refused) = registry.leave_all().await;
        let quiet = match refused {
            Some(refusal) => Err(refusal),
            None => {
                let quiet = program::nothing_holds_up(THREADS_LIMIT).await;
                quiet.map_err(|why| self.not_executed(&why))
            }
        };
        // As late as it can be known: the next program does not hear of it.
        if let Some(why) = ends() {
            registry.stands_still.set(false);
            // They went down in order.
            left.iter().for_each(|one| registry.settings.remembered.forget(one.name()));
            return Ended::Signal(why);
        }
        let (passengers, refused) = match quiet {
            Ok(()) => self.execute(doors, since_ns, &left, passengers),
            Err(refusal) => (passengers, refusal),
        };
        let troubles = registry.come_back(left, passengers, since_ns).await;
        registry.stands_still.set(false);
        let hint = std::iter::once(refused.hint).chain(troubles).collect::<Vec<_>>().join("\n");
        Ended::Refused(Refusal { hint, ..refused })
    }

    /// Does not return but with the clients, and why.
    fn execute(
        &self,
        doors: &Doors,
        since_ns: u64,
        left: &[Left],
        passengers: Vec<Passenger>,
    ) -> (Vec<Passenger>, Refusal) {
        let program = &self.registry.settings.program;
        let record = Record {
            program: crate::control::version::VERSION.to_owned(),
            since_ns,
            listeners: doors.listeners.all().into_iter().map(|(kind, _)| kind).collect(),
            left: left.to_vec(),
            seats: passengers.iter().map(Seat::of).collect(),
            caller: true,
        };
        let mut descriptors = vec![self.lock];
        descriptors.extend(doors.listeners.all().into_iter().map(|(_, fd)| fd));
        descriptors.extend(passengers.iter().map(|one| one.client.fd.as_raw_fd()));
        descriptors.push(self.caller);
        let why = match record.encode().map_err(|error| error.to_string()) {
            Err(why) => why,
            Ok(bytes) => match pass::pack(&bytes, &descriptors) {
                Err(error) => error.to_string(),
                Ok(parcel) => match parcel.place() {
                    Err(error) => error.to_string(),
                    Ok(before) => {
                        logging::flush();
                        let errno = program::execute(program);
                        if let Err(error) = nix::unistd::dup2_stdin(&before) {
                            warn!("standard input is gone: {error}");
                        }
                        errno.desc().to_owned()
                    }
                },
            },
        };
        (passengers, self.not_executed(&why))
    }

    fn not_executed(&self, why: &str) -> Refusal {
        let program = self.registry.settings.program.display();
        let hint = format!(
            "{program} cannot be executed: {why}. tandemd goes on as the program that it was."
        );
        error!("restart: {hint}");
        refusal(-21, "Interrupted state change", hint)
    }
}
