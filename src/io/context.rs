//! What clients, peers and disks of one data thread share: the ring, the pool, the events that wait
//! for the core, and the time of this turn.

use std::collections::{BTreeSet, VecDeque};

use crate::resource::{Event, Payload, SessionId, SocketId, Time, VolumeNumber};

use super::buffer::Pool;
use super::client::Limits;
use super::disk::DiskStep;
use super::ring::{Memory, Ring};

/// What an operation of the ring is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The eventfd that says that orders wait.
    Orders,
    /// A connection to the listener.
    Accept(u64),
    /// A cancellation; nobody waits for it.
    Cancel,
    /// Bytes of a client.
    ClientReceive(SessionId),
    /// Replies to a client.
    ClientSend(SessionId),
    /// An attempt to connect to a peer.
    PeerConnect(SocketId),
    /// Bytes of a peer.
    PeerReceive(SocketId),
    /// Packets to a peer.
    PeerSend(SocketId),
    /// A step of a disk; the first number is that of the attachment.
    Disk(u64, DiskStep),
}

/// Shared by all parts of one data thread.
#[derive(Debug)]
pub(crate) struct Context {
    /// The ring.
    pub(crate) ring: Ring<Purpose>,
    /// The buffers.
    pub(crate) pool: Pool,
    /// What happened and was not handled yet.
    pub(crate) events: VecDeque<Event>,
    /// The clock at the start of this turn.
    pub(crate) now: Time,
    /// The resource, for log lines.
    pub(crate) name: String,
    /// Bytes of buffers that reads of clients have reserved.
    pub(crate) reads_reserved: u64,
    /// Somebody waits for a buffer: the end of a send may give it.
    pub(crate) buffers_awaited: bool,
    /// Bytes that a peer may have under way to us (max-buffers).
    pub(crate) window: u64,
    /// What clients may take.
    pub(crate) limits: Limits,
    /// Volumes whose disk makes zeroes without writing them, as holes (`false`) or where the blocks
    /// must be kept (`true`).
    pub(crate) fast_zeroes: BTreeSet<(VolumeNumber, bool)>,
}

impl Context {
    /// One for tests of a part, at this time.
    #[cfg(test)]
    pub(crate) fn alone(now: Time) -> Self {
        Self {
            ring: Ring::new().unwrap(),
            pool: Pool::default(),
            events: VecDeque::new(),
            now,
            name: "r0".to_owned(),
            reads_reserved: 0,
            buffers_awaited: false,
            window: 1 << 20,
            limits: Limits::default(),
            fast_zeroes: BTreeSet::new(),
        }
    }

    /// Takes back what an operation owned, where nobody is left to look at it.
    pub(crate) fn reclaim(&mut self, memory: Memory) {
        match memory {
            Memory::Lease(lease) => self.pool.end(lease),
            Memory::Message(mut message) => {
                self.reads_reserved -= message.note;
                for lease in message.recycle() {
                    self.pool.end(lease);
                }
            }
            Memory::None
            | Memory::Bytes(_)
            | Memory::Address(_)
            | Memory::Counter(_)
            | Memory::Accept
            | Memory::Accepted(_) => {}
        }
    }

    /// Gives up a buffer that the shell itself holds.
    pub(crate) fn release(&mut self, payload: Payload) {
        if let Err(error) = self.pool.release(payload) {
            tracing::error!(target: "tandem", resource = %self.name, "defect: {error}");
            debug_assert!(false, "{error}");
        }
    }

    /// Drops the events of a socket that was closed: none may follow.
    pub(crate) fn forget_socket(&mut self, closed: SocketId) {
        let mut payloads = Vec::new();
        self.events.retain(|event| match event {
            Event::Packet { socket, payload, .. } if *socket == closed => {
                payloads.extend(*payload);
                false
            }
            Event::Connected { socket }
            | Event::Accepted { socket, .. }
            | Event::Authenticated { socket }
            | Event::Received { socket }
            | Event::SocketLost { socket, .. } => *socket != closed,
            Event::Packet { .. }
            | Event::SessionOpened { .. }
            | Event::SessionClosed { .. }
            | Event::Request { .. }
            | Event::DiskDone { .. }
            | Event::Digested { .. }
            | Event::BlocksDigested { .. }
            | Event::MetaDone { .. }
            | Event::HoleFound { .. }
            | Event::DiskGrown { .. }
            | Event::Admin { .. }
            | Event::ResyncDependency { .. }
            | Event::HandlerDone { .. }
            | Event::Timeout
            | Event::WallClock { .. }
            | Event::ClockGap { .. } => true,
        });
        payloads.into_iter().for_each(|payload| self.release(payload));
    }
}

/// At most one log line of a kind in [`RateLimit::INTERVAL_MS`]; says how many it swallowed.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    last: Option<Time>,
    swallowed: u64,
}

impl RateLimit {
    /// Between two lines, ms.
    pub(crate) const INTERVAL_MS: u64 = 5000;

    /// Whether to print now, and a note on what was swallowed.
    pub(crate) fn pass(&mut self, now: Time) -> Option<String> {
        if self.last.is_some_and(|last| now.ms_since(last) < Self::INTERVAL_MS) {
            self.swallowed += 1;
            return None;
        }
        self.last = Some(now);
        match std::mem::take(&mut self.swallowed) {
            0 => Some(String::new()),
            n => Some(format!(" ({n} more like this were not printed)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buffer::Part;
    use crate::resource::SocketError;
    use crate::wire::Packet;

    #[test]
    fn a_rate_limit_counts_what_it_swallows() {
        let mut limit = RateLimit::default();
        let at = |ms| Time(1).after_ms(ms);
        assert_eq!(limit.pass(at(0)).as_deref(), Some(""));
        assert_eq!(limit.pass(at(10)), None);
        assert_eq!(limit.pass(at(4999)), None);
        let line = limit.pass(at(5000)).unwrap();
        assert!(line.contains("2 more"), "{line}");
    }

    #[test]
    fn nothing_follows_of_a_socket_that_was_closed() {
        let mut io = Context::alone(Time(0));
        for socket in [SocketId(1), SocketId(3)] {
            let payload = Some(io.pool.take(Part::Peer, 4096));
            io.events.push_back(Event::Received { socket });
            io.events.push_back(Event::Packet { socket, packet: Packet::Ping, payload });
            io.events.push_back(Event::SocketLost { socket, error: SocketError::Closed });
        }
        io.forget_socket(SocketId(1));
        assert_eq!((io.events.len(), io.pool.live_buffers()), (3, 1));
        assert_eq!(io.events[0], Event::Received { socket: SocketId(3) });
    }
}
