//! Clients that stand still, and go over to the daemon that follows this one.
//!
//! Invariants:
//! - While they are held no request is begun; one that has begun is read to its end, and everything
//!   that was begun is answered as always.
//! - A client is handed on only when it is quiet: nothing of it is with the core, in the outbox or in
//!   the kernel's hands. What was read of it and not begun goes with it, byte for byte.
//! - Its socket is neither shut down nor written to meanwhile: the client notices nothing.

use std::os::fd::{AsFd, OwnedFd};

use nbd::SessionParameters;

use super::reading::Reading;
use super::{Client, Clients, STAGING};
use crate::io::buffer::part_of;
use crate::io::context::{Context, Purpose};
use crate::resource::{Event, SessionId, VolumeNumber};

/// A client between two daemons.
#[derive(Debug)]
pub struct HeldClient {
    /// Its socket.
    pub fd: OwnedFd,
    /// What it has open.
    pub volume: VolumeNumber,
    /// What was agreed with it.
    pub parameters: SessionParameters,
    /// For people.
    pub description: String,
    /// It has begun no request yet.
    pub is_fresh: bool,
    /// What was read of it and is not begun: at most [`HeldClient::UNREAD_MAX`] bytes.
    pub unread: Vec<u8>,
}

impl HeldClient {
    /// More is never read ahead of a client, bytes.
    pub const UNREAD_MAX: usize = STAGING;
}

impl Clients {
    /// No request is begun from now on.
    pub(crate) fn hold(&mut self, io: &mut Context) {
        self.desk.held = true;
        for client in self.sessions.values_mut() {
            let between = matches!(client.reading, Reading::Header);
            if let Some(receiving) = client.receiving.as_mut().filter(|_| between)
                && !receiving.cancelled
            {
                receiving.cancelled = true;
                io.ring.cancel(receiving.operation, Purpose::Cancel);
            }
        }
    }

    /// They go on.
    pub(crate) fn go_on(&mut self) {
        self.desk.held = false;
        // That nothing came was not their fault.
        self.sessions.values_mut().for_each(|client| client.mute = false);
    }

    /// They are held.
    pub(crate) fn are_held(&self) -> bool {
        self.desk.held
    }

    /// Who is not quiet yet, and why: for people.
    pub(crate) fn busy(&self) -> Vec<String> {
        let busy = |client: &Client| {
            let why = client.busy()?;
            Some(format!("{} (volume {}): {why}", client.description, client.volume))
        };
        self.sessions.values().filter_map(busy).collect()
    }

    /// Nothing of any client is under way.
    pub(crate) fn are_quiet(&self) -> bool {
        self.sessions.values().all(|client| client.busy().is_none())
    }

    /// Takes the clients out, all of which are quiet. The core hears that they have gone in order.
    pub(crate) fn take_all(&mut self, io: &mut Context) -> Vec<HeldClient> {
        let busy = |(id, client): (&SessionId, &Client)| client.busy().map(|_| *id);
        let busy: Vec<_> = self.sessions.iter().filter_map(busy).collect();
        // Told to go in the meantime.
        busy.into_iter().for_each(|session| self.remove(io, session));
        let mut taken = Vec::new();
        for (session, client) in std::mem::take(&mut self.sessions) {
            let staged = part_of(client.staging, client.start, client.end - client.start);
            let unread = io.pool.bytes(staged).map(<[u8]>::to_vec);
            io.release(client.staging);
            io.events.push_back(Event::SessionClosed { session, disconnect: true });
            match (client.fd.as_fd().try_clone_to_owned(), unread) {
                (Ok(fd), Ok(unread)) => taken.push(HeldClient {
                    fd,
                    volume: client.volume,
                    parameters: client.parameters,
                    description: client.description,
                    is_fresh: client.is_fresh,
                    unread,
                }),
                (fd, unread) => {
                    tracing::error!(target: "tandem", resource = %io.name,
                        "client {} cannot be taken along: {:?} {:?}", client.description,
                        fd.err(), unread.err());
                }
            }
        }
        taken
    }

    /// A client comes back as it went.
    pub(crate) fn reopen(&mut self, io: &mut Context, held: HeldClient) {
        let HeldClient { fd, volume, parameters, description, is_fresh, unread } = held;
        if self.is_left(volume, parameters.device.as_ref()) {
            tracing::info!(target: "tandem", resource = %io.name, volume,
                "client {description} ends: its device has gone on without it");
            return;
        }
        let before = self.last_session;
        self.open(io, fd, volume, parameters, description);
        if self.last_session == before {
            return;
        }
        let Some(client) = self.sessions.values_mut().next_back() else { return };
        client.is_fresh = is_fresh;
        client.has_come_back = true;
        // It may have given up while nobody read.
        client.paused = true;
        let into = part_of(client.staging, 0, unread.len().min(STAGING));
        match io.pool.bytes_mut(into) {
            Ok(bytes) if bytes.len() == unread.len() => {
                bytes.copy_from_slice(&unread);
                client.end = unread.len();
            }
            // The stream would go on in the middle of a request.
            _ => {
                tracing::error!(target: "tandem", resource = %io.name,
                    "client {}: {} bytes of it cannot be taken up", client.description, unread.len());
                let session = client.id;
                self.remove(io, session);
            }
        }
    }
}

impl Client {
    /// What of it is under way; `None`: nothing.
    fn busy(&self) -> Option<String> {
        if self.leaving.is_some() {
            return Some("it is on its way out".to_owned());
        }
        let requests = self.requests.len() + self.asked;
        match &self.reading {
            Reading::Header => {}
            Reading::Upload(_) | Reading::Skip { .. } if self.receiving.is_some() => {
                return Some("only a part of a request has come".to_owned());
            }
            _ => return Some("a request is being begun".to_owned()),
        }
        if requests > 0 {
            let s = if requests == 1 { " is" } else { "s are" };
            return Some(format!("{requests} request{s} not answered"));
        }
        if self.sending.is_some() || !self.outbox.is_empty() {
            return Some("it does not take its replies".to_owned());
        }
        self.receiving.is_some().then(|| "it is being read".to_owned())
    }
}
