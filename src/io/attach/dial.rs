//! Connections to the servers: one thread each, so that a silent one holds up nobody.
//!
//! The threads are there from the start: while I/O waits, memory may be short, and a new thread
//! could have to wait for that very I/O.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use nbd::client::{ClientError, Description, Handshake};
use nbd::constants::NBD_INFO_BLOCK_SIZE;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::attach::{DialError, Server};

use super::Trouble;

/// An attempt, with all its connections, ends by then.
const LIMIT: Duration = Duration::from_secs(5);
/// Enough for a name to be looked up; the whole of it is locked in memory.
const STACK: usize = 256 << 10;

/// What a server is asked for.
enum Order {
    /// So many connections.
    Connect(usize),
    /// What the export is like.
    Describe,
}

/// The export, and connections to it right after GO.
pub(super) type Dialled = Result<(Description, Vec<OwnedFd>), DialError>;

/// What came of it.
pub(super) enum Answer {
    /// Of an attempt to connect: the server's number, and the outcome.
    Dialled(usize, Dialled),
    /// Of a server that has said what its export is like.
    Described(usize, Description),
}

/// A thread for each server.
pub(super) struct Dialers {
    orders: Vec<Sender<Order>>,
    answers: Receiver<Answer>,
    /// Readable when there are answers.
    pub(super) bell: Arc<EventFd>,
}

impl Dialers {
    pub(super) fn start(servers: &[Server], export: &str) -> Result<Self, Trouble> {
        let cannot = |error: io::Error| Trouble::failed(format!("threads: {error}"));
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let bell = EventFd::from_flags(flags).map_err(|error| cannot(error.into()))?;
        let bell = Arc::new(bell);
        let (sender, answers) = channel();
        let mut orders = Vec::new();
        for (number, server) in servers.iter().enumerate() {
            let (order, ordered) = channel::<Order>();
            let (server, export) = (server.clone(), export.to_owned());
            let (sender, bell) = (sender.clone(), bell.clone());
            let thread = std::thread::Builder::new().name(format!("dial-{number}"));
            let work = move || {
                for order in ordered {
                    let answer = match order {
                        Order::Connect(connections) => {
                            Answer::Dialled(number, dial(&server, &export, connections))
                        }
                        Order::Describe => match describe(&server, &export) {
                            Ok(export) => Answer::Described(number, export),
                            // If it has gone, that is seen by its connections.
                            Err(_) => continue,
                        },
                    };
                    if sender.send(answer).is_err() {
                        return;
                    }
                    // A bell that cannot take another ring is ringing.
                    let _ = bell.write(1);
                }
            };
            thread.stack_size(STACK).spawn(work).map_err(cannot)?;
            orders.push(order);
        }
        Ok(Self { orders, answers, bell })
    }

    /// Begins an attempt.
    pub(super) fn dial(&self, server: usize, connections: usize) {
        // The thread lives as long as its sender.
        let _ = self.orders[server].send(Order::Connect(connections));
    }

    /// Asks what the export is like. That promotes nobody.
    pub(super) fn describe(&self, server: usize) {
        let _ = self.orders[server].send(Order::Describe);
    }

    /// An attempt that is over, if there is one.
    pub(super) fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }

    /// The next attempt that is over: the server's number, and the outcome.
    pub(super) fn wait(&self) -> Option<(usize, Dialled)> {
        loop {
            if let Answer::Dialled(server, outcome) = self.answers.recv().ok()? {
                return Some((server, outcome));
            }
        }
    }
}

fn describe(server: &Server, export: &str) -> Result<Description, ClientError> {
    let mut handshake = Handshake::connect_within(&server.address(), LIMIT)?;
    let description = handshake.info(export, &[NBD_INFO_BLOCK_SIZE])?;
    handshake.abort()?;
    Ok(description)
}

fn dial(server: &Server, export: &str, connections: usize) -> Dialled {
    let address = server.address();
    let mut first: Option<Description> = None;
    let mut sockets = Vec::new();
    for _ in 0..connections {
        let client = Handshake::connect_within(&address, LIMIT)
            .and_then(|handshake| handshake.go(export, &[NBD_INFO_BLOCK_SIZE]))
            .map_err(|error| sorted(&error))?;
        let description = client.description().clone();
        match &first {
            Some(first) if (first.size, first.flags) != (description.size, description.flags) => {
                return Err(DialError::Failed("its export has changed just now".to_owned()));
            }
            Some(_) => {}
            None => first = Some(description),
        }
        sockets.push(client.into_descriptor().map_err(|error| sorted(&error))?);
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
