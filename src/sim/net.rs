//! A simulated network of stream sockets between two nodes.
//!
//! ```text
//! dial -> (latency) -> accepted there, connected here, or refused, or no answer in time
//! send -> queue of its direction, in order -> (latency; held while the direction is cut) -> arrives
//! close -> the end of the stream, behind what is queued or instead of it
//! ```
//!
//! Invariants:
//! - What arrives on a socket arrives in the order in which it was sent; a prefix may be all.
//! - After `SocketLost` nothing arrives on that socket.

use std::collections::VecDeque;

use crate::resource::{SocketError, SocketId, Time};
use crate::wire::{HEADER_SIZE, Packet, decode, decode_header, encode_header};

use super::disk::Sector;
use super::pool::Origin;
use super::prng::Prng;

/// Connection reset by peer.
const ECONNRESET: i32 = 104;

/// One thing in a stream.
#[derive(Clone, Debug)]
pub(super) enum Parcel {
    /// What is read of a packet's header and body, and the contents of its payload.
    Packet {
        /// `None`: it was damaged on its way.
        packet: Option<Packet>,
        /// Payload.
        contents: Vec<Sector>,
    },
    /// The stream ends.
    End(SocketError),
}

/// One end of a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// Whose.
    pub node: usize,
    /// In which life of the node.
    pub life: u64,
    /// Its name there.
    pub socket: SocketId,
    /// The node has not closed it and has not been told of its end.
    pub open: bool,
    /// The node has closed it, and its system still sends what is queued.
    pub lingers: bool,
}

/// A connection.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// The dialling end, then the accepting one.
    pub ends: [End; 2],
    /// What travels from each end to the other one, and when it is due.
    pub queues: [VecDeque<(Time, Parcel)>; 2],
    /// Not before this does the next one arrive.
    last: [Time; 2],
}

/// An attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    /// Who dials.
    pub node: usize,
    /// In which life.
    pub life: u64,
    /// The name of the socket there.
    pub socket: SocketId,
    /// Until when an answer must have come.
    pub deadline: Time,
}

/// The network between the two nodes.
#[derive(Clone, Debug)]
pub(super) struct SimNet {
    /// All links ever; the index names one.
    pub links: Vec<Link>,
    /// Attempts under way.
    pub attempts: Vec<Option<Attempt>>,
    /// Until when nothing that this node sends arrives.
    pub cut_until: [Time; 2],
    /// Until when packets are slow, and how slow, µs.
    pub slow: (Time, u64),
    /// Slowest packet otherwise, µs.
    pub latency_us: u64,
}

impl SimNet {
    /// A network with this latency.
    #[must_use]
    pub(super) fn new(latency_us: u64) -> Self {
        Self {
            links: Vec::new(),
            attempts: Vec::new(),
            cut_until: [Time(0); 2],
            slow: (Time(0), 0),
            latency_us,
        }
    }

    /// How long the next packet takes, ns.
    pub(super) fn latency(&self, now: Time, prng: &mut Prng) -> u64 {
        let slow = if now < self.slow.0 { self.slow.1 } else { 0 };
        (prng.skewed(20, self.latency_us) + prng.below(slow + 1)) * 1000
    }

    /// Nothing that the node sends arrives at present.
    #[must_use]
    pub(super) fn is_cut(&self, from: usize, now: Time) -> bool {
        now < self.cut_until[from]
    }

    /// A new connection. Returns its index.
    pub(super) fn connect(&mut self, dialler: End, acceptor: End, now: Time) -> usize {
        let queues = [VecDeque::new(), VecDeque::new()];
        self.links.push(Link { ends: [dialler, acceptor], queues, last: [now; 2] });
        self.links.len() - 1
    }

    /// The link and the side of a node's socket.
    #[must_use]
    pub(super) fn find(&self, node: usize, life: u64, socket: SocketId) -> Option<(usize, usize)> {
        let is = |end: &End| end.node == node && end.life == life && end.socket == socket;
        self.links
            .iter()
            .enumerate()
            .rev()
            .find_map(|(index, link)| link.ends.iter().position(is).map(|side| (index, side)))
    }

    /// Puts something into a stream. Returns when it is due.
    pub(super) fn put(
        &mut self,
        (index, side): (usize, usize),
        parcel: Parcel,
        now: Time,
        prng: &mut Prng,
    ) -> Time {
        let latency = self.latency(now, prng);
        let link = &mut self.links[index];
        let due = Time(now.0 + latency).max(Time(link.last[side].0 + 1));
        link.last[side] = due;
        link.queues[side].push_back((due, parcel));
        due
    }

    /// The node's end is gone at once, with what it had queued but for a prefix; the other end hears
    /// of it unless the host is `silent`. Returns when the other end hears.
    pub(super) fn abort(
        &mut self,
        (index, side): (usize, usize),
        silent: bool,
        now: Time,
        prng: &mut Prng,
    ) -> Option<Time> {
        let link = &mut self.links[index];
        link.ends[side].open = false;
        link.queues[1 - side].clear();
        let keep = if prng.percent(50) {
            link.queues[side].len()
        } else {
            prng.index(link.queues[side].len() + 1)
        };
        link.queues[side].truncate(keep);
        if silent || !link.ends[1 - side].open {
            return None;
        }
        let error =
            if prng.percent(50) { SocketError::Closed } else { SocketError::Io(ECONNRESET) };
        Some(self.put((index, side), Parcel::End(error), now, prng))
    }

    /// The links of a node's life that it has open.
    #[must_use]
    pub(super) fn open_links(&self, node: usize) -> Vec<(usize, usize)> {
        let mut open = Vec::new();
        for (index, link) in self.links.iter().enumerate() {
            for side in 0..2 {
                if link.ends[side].node == node && link.ends[side].open {
                    open.push((index, side));
                }
            }
        }
        open
    }

    /// The system of this node, or of any, sends no more of what is queued on sockets that were closed: a
    /// prefix has been sent. Returns the links and sides that were cut short.
    pub(super) fn cut_last_words(
        &mut self,
        of: Option<usize>,
        prng: &mut Prng,
    ) -> Vec<(usize, usize)> {
        let mut cut = Vec::new();
        for (index, link) in self.links.iter_mut().enumerate() {
            for side in 0..2 {
                let (end, there) = (link.ends[side], link.ends[1 - side]);
                let ours = of.is_none_or(|node| node == end.node);
                if !(end.lingers && there.open && ours) || link.queues[side].is_empty() {
                    continue;
                }
                link.queues[side].truncate(prng.index(link.queues[side].len() + 1));
                cut.push((index, side));
            }
        }
        cut
    }

    /// Who has sent it, and what it is, of each packet under way.
    pub(super) fn under_way(&self) -> impl Iterator<Item = (usize, &Packet)> {
        let queues = self.links.iter().flat_map(|link| link.ends.iter().zip(&link.queues));
        queues.flat_map(|(end, queue)| {
            queue.iter().filter_map(|(_, parcel)| match parcel {
                Parcel::Packet { packet, .. } => Some((end.node, packet.as_ref()?)),
                Parcel::End(_) => None,
            })
        })
    }

    /// This socket of the node, and the one at the other end, are open.
    #[must_use]
    pub(super) fn is_connected(&self, node: usize, socket: SocketId) -> bool {
        let is_it = |end: &End| (end.node, end.socket) == (node, socket);
        let mut open = self.links.iter().filter(|link| link.ends.iter().all(|end| end.open));
        open.any(|link| link.ends.iter().any(is_it))
    }

    /// Nothing is under way on any link between two open ends.
    #[must_use]
    pub(super) fn is_quiet(&self) -> bool {
        self.links.iter().all(|link| {
            !link.ends.iter().all(|end| end.open) || link.queues.iter().all(VecDeque::is_empty)
        })
    }
}

/// The bytes of a packet, as they go over the wire.
#[must_use]
pub(super) fn encode(packet: &Packet) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_header(packet, &mut bytes);
    bytes
}

/// The packet of these bytes.
///
/// # Errors
/// They are not a packet.
pub(super) fn parse(bytes: &[u8]) -> Result<Packet, String> {
    let (head, body) = bytes.split_at_checked(HEADER_SIZE).ok_or("too short")?;
    let head: &[u8; HEADER_SIZE] = head.try_into().map_err(|_| "too short")?;
    let header = decode_header(head).map_err(|error| error.to_string())?;
    if body.len() != header.body_length() as usize {
        return Err(format!("a body of {} bytes, not {}", body.len(), header.body_length()));
    }
    decode(&header, body).map_err(|error| error.to_string())
}

/// Where the payload of a packet comes from.
#[must_use]
pub(super) fn origin(packet: &Packet) -> Origin {
    match packet {
        Packet::Data { .. } => Origin::Replica,
        Packet::ResyncData { .. } => Origin::Resync,
        _ => Origin::Read,
    }
}

#[cfg(test)]
mod tests {
    use super::{End, Parcel, SimNet};
    use crate::resource::{SocketError, SocketId, Time};
    use crate::sim::prng::Prng;

    #[test]
    fn last_words_may_be_cut_short_and_nothing_else_is() {
        let mut seen = [false; 4];
        for seed in 0..50 {
            let mut net = SimNet::new(100);
            let end = |node, open| End { node, life: 1, socket: SocketId(1), open, lingers: !open };
            let prng = &mut Prng::new(seed, 1);
            for open in [[true, true], [true, false], [false, false]] {
                let [a, b] = [0, 1].map(|node| end(node, open[node]));
                let link = net.connect(a, b, Time(0));
                for side in [0, 1] {
                    for _ in 0..3 {
                        let parcel = Parcel::End(SocketError::Closed);
                        net.put((link, side), parcel, Time(0), prng);
                    }
                }
            }
            assert_eq!(net.cut_last_words(Some(0), prng), []);
            let of = if seed % 2 == 0 { Some(1) } else { None };
            assert_eq!(net.cut_last_words(of, prng), [(1, 1)]);
            let left = |link: usize| [0, 1].map(|side: usize| net.links[link].queues[side].len());
            assert_eq!((left(0), left(2)), ([3, 3], [3, 3]));
            assert_eq!(left(1)[0], 3);
            seen[left(1)[1]] = true;
        }
        assert_eq!(seen, [true; 4], "nothing, all, or some of it has been sent");
    }
}
