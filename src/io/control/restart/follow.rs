//! The second half of a restart, in the program that follows (or in the one that could not be
//! replaced): each resource as it was, and its clients back.
//!
//! Invariants:
//! - The clients of a node that is not Primary again are closed unread: what they had sent may be old.
//! - What was handed on is used whole or not at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::time::Instant;
use tracing::{error, info};

use super::record::{Left, Listener, Passenger, Record, Was};
use super::{again, clock_ns, pass};
use crate::control::Response;
use crate::io::control::registry::{But, Registry, refusal};
use crate::io::control::startup::Failure;
use crate::io::{HeldClient, Order};
use crate::resource::{AdminResult, Command, Refusal};

/// Whoever connects, and the one who waits for the outcome, waits no longer.
const BACK_LIMIT: Duration = Duration::from_secs(15);
/// How often it is looked whether processes have ended that the program before had started.
const REAP: Duration = Duration::from_secs(2);

/// What the program before has left.
#[derive(Debug)]
pub(in crate::io::control) struct Inherited {
    lock: Option<OwnedFd>,
    listeners: Vec<(Listener, OwnedFd)>,
    left: Vec<Left>,
    passengers: Vec<Passenger>,
    caller: Option<OwnedFd>,
    since_ns: u64,
    program: String,
}

/// Who waits for the outcome, and what it is.
pub(in crate::io::control) struct Waits {
    caller: Option<UnixStream>,
    result: AdminResult,
}

impl Waits {
    /// Tells it.
    pub(in crate::io::control) fn answer(self) {
        let response = match self.result {
            Ok(text) => Response::Done(text),
            Err(refusal) => Response::Refused(refusal),
        };
        let (Some(mut caller), Ok(mut line)) = (self.caller, serde_json::to_vec(&response)) else {
            return;
        };
        line.push(b'\n');
        // It may have gone; and it has room for a line.
        let _ = caller.set_nonblocking(true).and_then(|()| caller.write_all(&line));
    }
}

fn failure(text: String) -> Failure {
    Failure { text, exit_code: 10 }
}

fn is_listening(fd: &OwnedFd) -> bool {
    getsockopt(fd, sockopt::AcceptConn).is_ok_and(|is| is)
}

impl Inherited {
    /// Takes it, if there is something. Before other threads are there, that could have children.
    ///
    /// # Errors
    /// What is there cannot be used. Nothing of it is.
    pub(in crate::io::control) fn take() -> Result<Option<Self>, Failure> {
        if !pass::is_given() {
            return Ok(None);
        }
        let taken = pass::unpack(io::stdin().as_fd()).and_then(|(record, descriptors)| {
            pass::give_up_stdin()?;
            Self::of(record, descriptors)
        });
        taken.map(Some).map_err(|error| {
            failure(format!(
                "this tandemd cannot take over from the one before: {error}; its clients are closed, \
                 and the next start is as after a crash"
            ))
        })
    }

    fn of(record: Record, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(|| io::Error::other("too few descriptors"));
        let lock = Some(next()?);
        let mut listeners = Vec::new();
        for kind in record.listeners {
            let fd = next()?;
            if !is_listening(&fd) {
                return Err(io::Error::other(format!("{kind:?} is no socket that listens")));
            }
            listeners.push((kind, fd));
        }
        let mut passengers = Vec::new();
        for seat in record.seats {
            let fd = next()?;
            if getsockopt(&fd, sockopt::SockType) != Ok(nix::sys::socket::SockType::Stream)
                || is_listening(&fd)
            {
                return Err(io::Error::other(format!("{}: no socket", seat.description)));
            }
            let client = HeldClient {
                fd,
                volume: seat.volume,
                parameters: seat.parameters,
                description: seat.description,
                is_fresh: seat.is_fresh,
                unread: seat.unread,
            };
            passengers.push(Passenger { resource: seat.resource, client });
        }
        let caller = if record.caller { Some(next()?) } else { None };
        let (left, since_ns, program) = (record.left, record.since_ns, record.program);
        Ok(Self { lock, listeners, left, passengers, caller, since_ns, program })
    }

    /// The lock of the run folder.
    ///
    /// # Errors
    /// It was taken already.
    pub(in crate::io::control) fn lock(&mut self) -> Result<File, Failure> {
        let lock = self.lock.take().ok_or_else(|| failure("no lock was handed on".to_owned()))?;
        Ok(File::from(lock))
    }

    fn listener(&mut self, which: &Listener) -> Option<OwnedFd> {
        let at = self.listeners.iter().position(|(kind, _)| kind == which)?;
        Some(self.listeners.swap_remove(at).1)
    }

    /// The Unix socket of the run folder.
    ///
    /// # Errors
    /// What was handed on is not bound there.
    pub(in crate::io::control) fn unix(
        &mut self,
        which: &Listener,
        path: &Path,
    ) -> Result<UnixListener, Failure> {
        let other = || failure(format!("{}: not the socket that was handed on", path.display()));
        let listener = UnixListener::from(self.listener(which).ok_or_else(other)?);
        let bound = listener.local_addr().map_err(|_| other())?;
        if bound.as_pathname() != Some(path) {
            return Err(other());
        }
        let cannot = |error: io::Error| failure(format!("{}: {error}", path.display()));
        listener.set_nonblocking(true).map_err(cannot)?;
        Ok(listener)
    }

    /// A TCP socket; `None`: the program before had none there.
    ///
    /// # Errors
    /// It is no such socket.
    pub(in crate::io::control) fn tcp(
        &mut self,
        which: &Listener,
    ) -> Result<Option<TcpListener>, Failure> {
        let Some(fd) = self.listener(which) else { return Ok(None) };
        let listener = TcpListener::from(fd);
        let usable = listener.local_addr().and_then(|_| listener.set_nonblocking(true));
        usable.map_err(|error| failure(format!("{which:?}: {error}")))?;
        Ok(Some(listener))
    }

    /// Brings up what was up, and gives the clients back.
    pub(in crate::io::control) async fn follow(self, registry: &Rc<Registry>) -> Waits {
        let own = crate::control::version::VERSION;
        info!("follows tandemd {} in the same process", self.program);
        reap_children();
        let clients = self.passengers.len();
        let troubles = registry.come_back(self.left, self.passengers, self.since_ns).await;
        let ms = clock_ns().saturating_sub(self.since_ns) / 1_000_000;
        let said = match self.program == own {
            true => format!("tandemd {own} was started anew"),
            false => format!("tandemd {own} follows {}", self.program),
        };
        let said = match clients {
            0 => format!("{said} in {ms} ms"),
            1 => format!("{said}; 1 client waited {ms} ms"),
            more => format!("{said}; {more} clients waited {ms} ms"),
        };
        info!("{said}");
        let result = match troubles.is_empty() {
            true => Ok(said),
            false => {
                let hint = format!("{said}, but:\n{}", troubles.join("\n"));
                Err(refusal(-21, "Interrupted state change", hint))
            }
        };
        Waits { caller: self.caller.map(UnixStream::from), result }
    }
}

/// Guards and handlers that the program before has started are this process's children, and somebody
/// has to learn that they have ended.
fn reap_children() {
    let mut children: Vec<Pid> =
        std::fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id()))
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
            .collect();
    tokio_uring::spawn(async move {
        while !children.is_empty() {
            let runs = |pid: &Pid| {
                let state = waitpid(*pid, Some(WaitPidFlag::WNOHANG));
                matches!(state, Ok(nix::sys::wait::WaitStatus::StillAlive))
            };
            children.retain(runs);
            tokio::time::sleep(REAP).await;
        }
    });
}

impl Registry {
    /// Brings up what went down for a restart. What did not come up as it was, for people.
    pub(super) async fn come_back(
        self: &Rc<Self>,
        left: Vec<Left>,
        passengers: Vec<Passenger>,
        since_ns: u64,
    ) -> Vec<String> {
        let mut clients: BTreeMap<String, Vec<HeldClient>> = BTreeMap::new();
        for Passenger { resource, client } in passengers {
            clients.entry(resource).or_default().push(client);
        }
        let until = Instant::now() + BACK_LIMIT;
        let mut coming = Vec::new();
        for one in left {
            let name = one.name().to_owned();
            let clients = clients.remove(&name).unwrap_or_default();
            let registry = self.clone();
            let task = tokio_uring::spawn(async move {
                let begun = clients.len();
                let result = registry.bring_back(&one, clients).await;
                let ms = clock_ns().saturating_sub(since_ns) / 1_000_000;
                let name = one.name();
                match &result {
                    Ok(()) => info!(
                        resource = %name,
                        "{name}: as it was before the restart; {begun} clients waited {ms} ms"
                    ),
                    Err(why) => error!(resource = %name, "{why}"),
                }
                result
            });
            coming.push((name, task));
        }
        let mut troubles = Vec::new();
        for (name, task) in coming {
            match tokio::time::timeout_at(until, task).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(why))) => troubles.push(why),
                Ok(Err(_)) => troubles.push(format!("{name}: did not come up")),
                Err(_) => troubles.push(format!("{name}: is still on its way up")),
            }
        }
        troubles
    }

    /// One resource. Its clients are closed where it is not Primary again.
    async fn bring_back(
        self: &Rc<Self>,
        left: &Left,
        clients: Vec<HeldClient>,
    ) -> Result<(), String> {
        let name = left.name();
        let said = |refusal: Refusal| format!("{name}: {refusal}").replace('\n', " ");
        let config = self.check(&left.definition).map_err(said)?;
        let volumes = config.volumes.iter().map(|volume| volume.number);
        let but = But {
            apart: left.apart.clone(),
            back_in_ms: left.back_in_ms.clone(),
            diskless: volumes.filter(|volume| !left.attached.contains_key(volume)).collect(),
            // It was ordered.
            tries: 0,
        };
        self.up_but(&left.definition, &but).await.map_err(said)?;
        let entry = self.entry(name).ok_or_else(|| format!("{name}: was taken down"))?;
        if left.suspended {
            entry.order(Command::SuspendIo { suspend: true }).await.map_err(said)?;
        }
        for (volume, peer) in left.paused.iter().copied() {
            entry.order(Command::PauseSync { volume, peer, pause: true }).await.map_err(said)?;
        }
        if left.was == Was::Secondary {
            return Ok(());
        }
        if let Err(refusal) = again::primary_again(&entry, left).await {
            let count = clients.len();
            let why = said(refusal);
            return Err(format!("{why} It stays Secondary, and {count} clients are closed."));
        }
        let count = clients.len();
        let returned = entry.hand_over(Order::ReturnClients(clients)).await;
        returned.map_err(|why| format!("{name}: its {count} clients are closed: {why}"))?;
        if left.was == Was::Primary {
            // They are there; one whose guard died meanwhile gets another one.
            let registry = self.clone();
            tokio_uring::spawn(async move { registry.attach_devices(&entry).await });
        }
        Ok(())
    }
}
