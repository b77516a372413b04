//! Connections of one device: those that it has left begin nothing any more.
//!
//! Invariants:
//! - A connection ends for the sake of another one only if both have named the same device, by its
//!   token, on the same volume.
//! - That another one has come ends nothing: it may be thrown away, or only look. Its first request
//!   shows that the device uses it, and ends older ones only: it cannot know those that came later.
//! - What is remembered of devices is bounded.

use std::collections::VecDeque;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Client, Clients, End};
use crate::io::context::Context;
use crate::io::ring::Descriptor;
use crate::resource::{SessionId, VolumeNumber};

/// Devices that are remembered.
const DEVICES_MAX: usize = 256;

/// The connections that a device has had last.
#[derive(Debug)]
struct Last {
    volume: VolumeNumber,
    token: u64,
    /// Of the newest one.
    age: Age,
    connections: Vec<u64>,
}

/// Which of two connections is older: who comes back from a restart is older than all that are new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Age(bool, SessionId);

/// What devices have had, the newest last: a client may come back from a restart after its device has
/// gone on without it.
#[derive(Debug, Default)]
pub(super) struct Swept(VecDeque<Last>);

impl Swept {
    fn remember(&mut self, last: Last) {
        let is_same = |one: &Last| (one.volume, one.token) == (last.volume, last.token);
        if self.0.iter().any(|one| is_same(one) && one.age > last.age) {
            return;
        }
        self.0.retain(|one| !is_same(one));
        if self.0.len() >= DEVICES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(last);
    }
}

/// Devices that have had a volume open, and whether what they were answered may be gone.
#[derive(Debug, Default)]
pub(super) struct Known(VecDeque<(VolumeNumber, u64, bool)>);

impl Clients {
    /// A device comes.
    pub(super) fn remember(&mut self, client: &Client) {
        let Some(device) = &client.parameters.device else { return };
        let (volume, token, known) = (client.volume, device.token, &mut self.known.0);
        if known.iter().all(|one| (one.0, one.1) != (volume, token)) {
            if known.len() >= DEVICES_MAX {
                known.pop_front();
            }
            known.push_back((volume, token, false));
        }
    }

    /// What the clients of a volume have not flushed may be gone.
    pub(crate) fn lose_cache(&mut self, volume: VolumeNumber) {
        let of_volume = self.known.0.iter_mut().filter(|one| one.0 == volume);
        of_volume.for_each(|one| one.2 = true);
    }

    /// Whether this device was there when that happened.
    pub(crate) fn has_lost(&self, volume: VolumeNumber, token: u64) -> bool {
        self.known.0.contains(&(volume, token, true))
    }

    /// A client is about to begin its first request: the connections that its device has left end.
    pub(super) fn sweep(&mut self, io: &mut Context, session: SessionId) {
        let Some(client) = self.sessions.get_mut(&session) else { return };
        if !client.is_fresh || client.staged() == 0 || client.leaving.is_some() {
            return;
        }
        client.is_fresh = false;
        let Some(device) = &client.parameters.device else { return };
        let (volume, token, age) = (client.volume, device.token, client.age());
        let mut connections = device.siblings.clone();
        connections.push(device.connection);
        let is_left = |one: &Client| {
            let of = one.parameters.device.as_ref().filter(|of| of.token == token);
            one.volume == volume
                && one.age() < age
                && of.is_some_and(|of| !connections.contains(&of.connection))
        };
        let left: Vec<_> =
            self.sessions.values().filter(|one| is_left(one)).map(|one| one.id).collect();
        let by = client_name(&self.sessions, session);
        for session in left {
            tracing::info!(target: "tandem", resource = %io.name, volume,
                "client {} ends: its device goes on with {by}", client_name(&self.sessions, session));
            self.remove(io, session);
        }
        self.swept.remember(Last { volume, token, age, connections });
    }

    /// Whether a client that comes back is one that its device has left.
    pub(super) fn is_left(&self, volume: VolumeNumber, device: Option<&nbd::Device>) -> bool {
        device.is_some_and(|device| {
            let of = |one: &&Last| (one.volume, one.token) == (volume, device.token);
            let last = self.swept.0.iter().find(of);
            last.is_some_and(|last| !last.connections.contains(&device.connection))
        })
    }
}

impl Client {
    fn age(&self) -> Age {
        Age(!self.has_come_back, self.id)
    }
}

fn client_name(
    sessions: &std::collections::BTreeMap<SessionId, Client>,
    session: SessionId,
) -> String {
    sessions.get(&session).map_or_else(String::new, |one| one.description.clone())
}

/// What has waited to be begun is begun only if its client is there: it may have sent it again elsewhere,
/// and written something newer since. Whoever begins is not `paused` any more.
pub(super) fn still_there(paused: &mut bool, fd: &Descriptor) -> Result<(), End> {
    match std::mem::take(paused) && has_hung_up(fd) {
        true => Err(End::Lost("it closed the connection".to_owned())),
        false => Ok(()),
    }
}

/// Whether the other side has closed the connection, whatever there is still to be read.
fn has_hung_up(fd: &Descriptor) -> bool {
    // Each of the three says that it sends no more.
    let ended = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut one = [PollFd::new(fd, PollFlags::RDHUP)];
    poll(&mut one, Some(&Timespec::default())).is_ok() && one[0].revents().intersects(ended)
}
