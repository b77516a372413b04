//! Connections to the servers: threads for each, so that a silent one holds up nobody.
//!
//! The threads are there from the start: while I/O waits, memory may be short, and a new thread
//! could have to wait for that very I/O.
//!
//! Invariants:
//! - Each connection says which device it is of, and which other ones of it live: a server that knows
//!   that word ends the others before it begins the first request (PROTOCOL.md, 6).
//! - At each server one attempt to connect and one look at its export are under way at most, neither waits
//!   for the other, and each has an answer within `LIMIT`, whatever the name service does (`resolve`).
//! - What a server has not acknowledged is thrown away before the kernel gives it to another connection:
//!   TCP's own time-out is shorter than that of a request.

mod resolve;

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nbd::client::{ClientError, Description, Handshake};
use nbd::constants::{NBD_INFO_BLOCK_SIZE, TANDEM_INFO_KEEPERS};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{Shutdown, getsockopt, setsockopt, shutdown, sockopt};

use crate::attach::{DialError, Server};

use super::{Trouble, system};
use resolve::{LookUp, Place};

/// An attempt, with all its connections, ends by then.
const LIMIT: Duration = Duration::from_secs(5);
/// Enough for a name to be looked up; the whole of it is locked in memory.
const STACK: usize = 256 << 10;

/// What is asked of an export.
const ASKED: &[u16] = &[NBD_INFO_BLOCK_SIZE, TANDEM_INFO_KEEPERS];

/// What a server is asked for.
enum Order {
    /// So many connections, beside those that live.
    Connect(usize, Vec<u64>),
    /// What the export is like.
    Describe,
}

/// What the connections of a device have in common.
pub(super) struct Dialling {
    /// The device's: only who knows it may end its connections.
    token: u64,
    /// Of the next connection. They begin at random, for the guards of a device come and go.
    next: AtomicU64,
    /// Of a request.
    timeout: Duration,
}

impl Dialling {
    pub(super) fn new(token: u64, timeout: Duration) -> Result<Self, Trouble> {
        let first = system::token().map_err(|error| Trouble::failed(error.to_string()))?;
        Ok(Self { token, next: AtomicU64::new(first), timeout })
    }

    /// One more connection, beside these.
    fn next(&self, siblings: &[u64]) -> nbd::Device {
        let connection = self.next.fetch_add(1, Ordering::Relaxed);
        nbd::Device { token: self.token, connection, siblings: siblings.to_vec() }
    }
}

/// A connection right after GO.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) socket: OwnedFd,
    /// What its server knows it by.
    pub(super) number: u64,
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether the kernel's driver has taken a connection, and not thrown it away: it limits how long a send
/// may take, and nobody else does.
pub(super) fn is_taken(socket: &impl AsFd) -> bool {
    getsockopt(&socket.as_fd(), sockopt::SendTimeout)
        .is_ok_and(|limit| limit.tv_sec() > 0 || limit.tv_usec() > 0)
}

/// Ends a connection, and throws away what it has not sent or what was not acknowledged: a shutdown alone
/// goes behind that. `false`: somebody is still in a call, and it is to be tried again.
pub(super) fn abort(socket: &impl AsFd) -> bool {
    use rustix::io::Errno;
    match rustix::net::connect_unspec(socket) {
        Ok(()) => true,
        Err(Errno::BUSY) => false,
        // Not TCP: there is no network that could keep something.
        Err(_) => {
            let _ = shutdown(socket.as_fd().as_raw_fd(), Shutdown::Both);
            true
        }
    }
}

/// The export, and connections to it right after GO.
pub(super) type Dialled = Result<(Description, Vec<Link>), DialError>;

/// What came of it.
pub(super) enum Answer {
    /// Of an attempt to connect: the server's number, and the outcome.
    Dialled(usize, Dialled),
    /// Of a server that has said what its export is like.
    Described(usize, Result<Description, DialError>),
}

/// The threads of each server.
pub(super) struct Dialers {
    connects: Vec<SyncSender<Order>>,
    describes: Vec<SyncSender<Order>>,
    /// By server: whether a look is under way.
    describing: RefCell<Vec<bool>>,
    answers: Receiver<Answer>,
    /// Readable when there are answers.
    pub(super) bell: Arc<EventFd>,
}

impl Dialers {
    pub(super) fn start(
        servers: &[Server],
        export: &str,
        dialling: Dialling,
    ) -> Result<Self, Trouble> {
        Self::start_with(servers, export, dialling, Arc::new(resolve::by_system))
    }

    /// With another name service.
    pub(super) fn start_with(
        servers: &[Server],
        export: &str,
        dialling: Dialling,
        look_up: Arc<LookUp>,
    ) -> Result<Self, Trouble> {
        let dialling = Arc::new(dialling);
        let cannot = |error: io::Error| Trouble::failed(format!("threads: {error}"));
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let bell = EventFd::from_flags(flags).map_err(|error| cannot(error.into()))?;
        let bell = Arc::new(bell);
        // One of each thread.
        let (sender, answers) = sync_channel(2 * servers.len());
        let (mut connects, mut describes) = (Vec::new(), Vec::new());
        for (number, server) in servers.iter().enumerate() {
            let place = Place::of(server, &look_up).map_err(cannot)?;
            for (orders, what) in [(&mut connects, "dial"), (&mut describes, "look")] {
                let (order, ordered) = sync_channel::<Order>(1);
                let (place, export) = (place.clone(), export.to_owned());
                let (sender, bell, dialling) = (sender.clone(), bell.clone(), dialling.clone());
                let work = move || {
                    for order in ordered {
                        let answer = match order {
                            Order::Connect(connections, siblings) => {
                                let made = dial(&place, &export, connections, siblings, &dialling);
                                Answer::Dialled(number, made)
                            }
                            Order::Describe => Answer::Described(number, describe(&place, &export)),
                        };
                        if sender.send(answer).is_err() {
                            return;
                        }
                        // A bell that cannot take another ring is ringing.
                        let _ = bell.write(1);
                    }
                };
                let thread = std::thread::Builder::new().name(format!("{what}-{number}"));
                thread.stack_size(STACK).spawn(work).map_err(cannot)?;
                orders.push(order);
            }
        }
        let describing = RefCell::new(vec![false; servers.len()]);
        Ok(Self { connects, describes, describing, answers, bell })
    }

    /// Begins an attempt; there is none under way at that server. `siblings`: the device's connections that
    /// live.
    pub(super) fn dial(&self, server: usize, connections: usize, siblings: Vec<u64>) {
        // So there is room, and the thread lives as long as its sender.
        let _ = self.connects[server].try_send(Order::Connect(connections, siblings));
    }

    /// Asks what the export is like, if it is not being asked. That promotes nobody.
    pub(super) fn describe(&self, server: usize) {
        if !std::mem::replace(&mut self.describing.borrow_mut()[server], true) {
            let _ = self.describes[server].try_send(Order::Describe);
        }
    }

    /// An attempt that is over, if there is one.
    pub(super) fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok().inspect(|answer| self.heard(answer))
    }

    /// The next attempt that is over: the server's number, and the outcome.
    pub(super) fn wait(&self) -> Option<(usize, Dialled)> {
        loop {
            let answer = self.answers.recv().ok()?;
            self.heard(&answer);
            if let Answer::Dialled(server, outcome) = answer {
                return Some((server, outcome));
            }
        }
    }

    fn heard(&self, answer: &Answer) {
        if let Answer::Described(server, _) = answer {
            self.describing.borrow_mut()[*server] = false;
        }
    }
}

/// A connection in negotiation, which ends with its attempt.
fn connect(place: &Place, deadline: Instant) -> Result<Handshake, ClientError> {
    let address = place.address(deadline)?;
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        false => Handshake::connect_within(&address, left),
    }
}

fn describe(place: &Place, export: &str) -> Result<Description, DialError> {
    let described = connect(place, Instant::now() + LIMIT).and_then(|mut handshake| {
        let description = handshake.info(export, ASKED)?;
        handshake.abort()?;
        Ok(description)
    });
    described.map_err(|error| sorted(&error))
}

fn dial(
    place: &Place,
    export: &str,
    connections: usize,
    siblings: Vec<u64>,
    dialling: &Dialling,
) -> Dialled {
    let deadline = Instant::now() + LIMIT;
    let mut first: Option<Description> = None;
    let mut sockets = Vec::new();
    // Those of one attempt live together, whichever is used first.
    let mut devices: Vec<_> = (0..connections).map(|_| dialling.next(&siblings)).collect();
    let together: Vec<u64> = devices.iter().map(|device| device.connection).collect();
    devices.iter_mut().for_each(|device| device.siblings.extend(&together));
    for device in devices {
        let client = connect(place, deadline)
            .and_then(|mut handshake| {
                // A server that does not know the word lets old connections go by themselves.
                handshake.device(&device)?;
                handshake.go(export, ASKED)
            })
            .map_err(|error| sorted(&error))?;
        let description = client.description().clone();
        match &first {
            Some(first) if (first.size, first.flags) != (description.size, description.flags) => {
                return Err(DialError::Failed("its export has changed just now".to_owned()));
            }
            Some(_) => {}
            None => first = Some(description),
        }
        let socket = client.into_descriptor().map_err(|error| sorted(&error))?;
        let limit = u32::try_from(dialling.timeout.as_millis() * 4 / 5).unwrap_or(u32::MAX);
        // Not a TCP socket: nothing to set.
        let _ = setsockopt(&socket, sockopt::TcpUserTimeout, &limit);
        sockets.push(Link { socket, number: device.connection });
    }
    let description = first.ok_or_else(|| DialError::Failed("nothing was asked for".to_owned()))?;
    Ok((description, sockets))
}

fn sorted(error: &ClientError) -> DialError {
    match error {
        ClientError::Refused { message, .. } => {
            let clean = message.chars().filter(|c| !c.is_control()).take(400).collect::<String>();
            match clean.is_empty() {
                true => DialError::Refused(error.to_string()),
                false => DialError::Refused(clean),
            }
        }
        ClientError::Io(io)
            if matches!(io.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
        {
            DialError::Failed("it does not answer".to_owned())
        }
        ClientError::Io(io) => DialError::Failed(io.to_string()),
        other => DialError::Failed(other.to_string()),
    }
}
