//! What a shell does with actions: sockets.

use crate::resource::{Event, Payload, SocketError, SocketId, Time};
use crate::wire::Packet;

use super::cluster::{Cluster, Happening};
use super::net::{Attempt, End, Parcel, encode};
use super::node::Input;

/// No route to the host.
const EHOSTUNREACH: i32 = 113;

impl Cluster {
    /// `Action::Connect`.
    pub(super) fn dial(&mut self, node: usize, socket: SocketId, timeout_ms: u64) {
        let deadline = self.in_ms(timeout_ms);
        let life = self.nodes[node].life;
        let attempt = self.net.attempts.len();
        self.net.attempts.push(Some(Attempt { node, life, socket, deadline }));
        let latency = self.net.latency(self.now, &mut self.chance.net);
        self.after(latency, Happening::Dialled { attempt });
    }

    /// The attempt reaches the other host, or does not.
    pub(super) fn dialled(&mut self, index: usize) {
        let Some(attempt) = self.net.attempts[index] else { return };
        let Attempt { node, life, socket, deadline } = attempt;
        let peer = 1 - node;
        if self.nodes[node].life != life || self.nodes[node].resource.is_none() {
            self.net.attempts[index] = None;
            return;
        }
        let cut = self.net.is_cut(node, self.now) || self.net.is_cut(peer, self.now);
        let fail = |error| Input::Event(Event::SocketLost { socket, error });
        if cut || !self.nodes[peer].host_up {
            if self.now < deadline {
                // A lost SYN is sent again.
                let again = Time(self.now.0 + 300_000_000).min(deadline);
                return self.at(again, Happening::Dialled { attempt: index });
            }
            self.net.attempts[index] = None;
            let error = if self.chance.net.one_in(4) {
                SocketError::Unreachable(EHOSTUNREACH)
            } else {
                SocketError::TimedOut
            };
            return self.input(node, fail(error));
        }
        self.net.attempts[index] = None;
        let latency = self.net.latency(self.now, &mut self.chance.net);
        if self.nodes[peer].resource.is_none() {
            return self.input_after(node, latency, fail(SocketError::Refused));
        }
        let accepted = SocketId(self.nodes[peer].next_accept);
        self.nodes[peer].next_accept += 2;
        let dialler = End { node, life, socket, open: true, lingers: false };
        let life = self.nodes[peer].life;
        let acceptor = End { node: peer, life, socket: accepted, open: true, lingers: false };
        let connected = Time(self.now.0 + latency);
        self.net.connect(dialler, acceptor, connected);
        self.input_after(node, latency, Input::Event(Event::Connected { socket }));
        let event = Event::Accepted { peer: super::faults::node_id(node), socket: accepted };
        self.input(peer, Input::Event(event));
    }

    /// `Action::Send`.
    pub(super) fn send(
        &mut self,
        node: usize,
        socket: SocketId,
        packet: &Packet,
        payload: Option<Payload>,
    ) {
        let name = self.nodes[node].name;
        let wanted = packet.payload_length();
        if payload.map_or(0, |p| p.length) != wanted {
            return self.misuse(format!("{name} sends {packet:?} with payload {payload:?}"));
        }
        let contents = match payload.map(|p| self.nodes[node].pool.read(p)) {
            None => Vec::new(),
            Some(Ok((_, contents))) => contents,
            Some(Err(text)) => return self.misuse(text),
        };
        if !crate::wire::check(packet) {
            return self.misuse(format!("{name} sends {packet:?}, a field is out of range"));
        }
        let bytes = encode(packet);
        // What arrives is what was read of the bytes, here already.
        let packet = match super::net::parse(&bytes) {
            Ok(read) if read == *packet => Some(read),
            read => return self.misuse(format!("{packet:?} is read back as {read:?}")),
        };
        let life = self.nodes[node].life;
        let Some((link, side)) = self.net.find(node, life, socket) else {
            return self.misuse(format!("{name} sends on {socket:?}, which is not connected"));
        };
        if !self.net.links[link].ends[side].open {
            // The loss is on its way to the core, or the core has closed it.
            return;
        }
        self.put((link, side), Parcel::Packet { packet, contents });
    }

    fn put(&mut self, place: (usize, usize), parcel: Parcel) {
        let due = self.net.put(place, parcel, self.now, &mut self.chance.net);
        self.at(due, Happening::Arrive { link: place.0, side: place.1 });
    }

    /// `Action::Authenticate`: the challenges and responses are not sent here, only their outcome.
    pub(super) fn authenticate(&mut self, node: usize, socket: SocketId) {
        let life = self.nodes[node].life;
        let Some(place) = self.net.find(node, life, socket) else { return };
        if !self.net.links[place.0].ends[place.1].open {
            return;
        }
        let (own, there) = (self.nodes[node].secrets, self.nodes[1 - node].secrets);
        if own.iter().any(|secret| there.contains(secret)) {
            return self.input(node, Input::Event(Event::Authenticated { socket }));
        }
        self.abort(place, false);
        let error = SocketError::Secret(crate::secret::SecretError::Wrong);
        self.input(node, Input::Event(Event::SocketLost { socket, error }));
    }

    /// `Action::CloseSocket`.
    pub(super) fn close_socket(&mut self, node: usize, socket: SocketId, linger: bool) {
        let life = self.nodes[node].life;
        let of = |a: &Option<Attempt>| {
            a.is_some_and(|a| a.node == node && a.life == life && a.socket == socket)
        };
        if let Some(index) = self.net.attempts.iter().position(of) {
            self.net.attempts[index] = None;
            return;
        }
        let Some((link, side)) = self.net.find(node, life, socket) else { return };
        if !self.net.links[link].ends[side].open {
            return;
        }
        if linger {
            let end = &mut self.net.links[link].ends[side];
            (end.open, end.lingers) = (false, true);
            self.put((link, side), Parcel::End(SocketError::Closed));
        } else {
            self.abort((link, side), false);
        }
    }

    /// A node's end of a link is gone.
    pub(super) fn abort(&mut self, place: (usize, usize), silent: bool) {
        if let Some(due) = self.net.abort(place, silent, self.now, &mut self.chance.net) {
            self.at(due, Happening::Arrive { link: place.0, side: place.1 });
        }
    }

    /// Something reaches the far end of a stream, if nothing holds it up.
    pub(super) fn arrive(&mut self, link: usize, side: usize) {
        let (from, to) = (self.net.links[link].ends[side], self.net.links[link].ends[1 - side]);
        let now = self.now;
        if self.net.is_cut(from.node, now) {
            // TCP sends it again, later and later.
            if !self.net.links[link].queues[side].is_empty() {
                let again = self.net.cut_until[from.node].0 + self.chance.net.below(400_000_000);
                self.at(Time(again), Happening::Arrive { link, side });
            }
            return;
        }
        loop {
            let due = self.net.links[link].queues[side].front().is_some_and(|(at, _)| *at <= now);
            if !due || self.violation.is_some() {
                return;
            }
            let Some((_, parcel)) = self.net.links[link].queues[side].pop_front() else { return };
            if !self.nodes[to.node].host_up {
                continue;
            }
            if !self.net.links[link].ends[1 - side].open || self.nodes[to.node].life != to.life {
                self.reject(link, side);
                continue;
            }
            self.accept_parcel(link, side, parcel);
        }
    }

    /// A stream that nobody reads: the sender is told.
    fn reject(&mut self, link: usize, side: usize) {
        let end = self.net.links[link].ends[side];
        if end.open && self.nodes[end.node].life == end.life {
            let backwards = (link, 1 - side);
            if self.net.links[link].queues[1 - side].is_empty() {
                self.put(backwards, Parcel::End(SocketError::Io(104)));
            }
        }
    }

    fn accept_parcel(&mut self, link: usize, side: usize, parcel: Parcel) {
        let to = self.net.links[link].ends[1 - side];
        match parcel {
            Parcel::End(error) => {
                self.net.links[link].ends[1 - side].open = false;
                let socket = to.socket;
                self.input(to.node, Input::Event(Event::SocketLost { socket, error }));
            }
            Parcel::Packet { packet, contents } => {
                let socket = to.socket;
                if !contents.is_empty() && self.chance.net.one_in(4) {
                    self.input(to.node, Input::Event(Event::Received { socket }));
                    if !self.net.links[link].ends[1 - side].open {
                        return;
                    }
                }
                self.input(to.node, Input::Packet { socket, packet, contents });
            }
        }
    }

    /// Every connection breaks, each end hears of it at its own time.
    pub(super) fn reset_all(&mut self) {
        for (link, side) in self.net.open_links(0) {
            if !self.net.links[link].ends[1 - side].open {
                continue;
            }
            for s in [side, 1 - side] {
                let keep = self.chance.net.index(self.net.links[link].queues[s].len() + 1);
                self.net.links[link].queues[s].truncate(keep);
                self.put((link, s), Parcel::End(SocketError::Io(104)));
            }
        }
        let chance = &mut self.chance.last_words;
        for place in self.net.cut_last_words(None, chance) {
            let reset = Parcel::End(SocketError::Io(104));
            let due = self.net.put(place, reset, self.now, &mut self.chance.last_words);
            self.at(due, Happening::Arrive { link: place.0, side: place.1 });
        }
    }

    /// The next packet toward a node arrives damaged.
    pub(super) fn damage(&mut self, to: usize) {
        for (link, side) in self.net.open_links(to) {
            if let Some((_, Parcel::Packet { packet, .. })) =
                self.net.links[link].queues[1 - side].front_mut()
            {
                let mut bytes = packet.as_ref().map(encode).unwrap_or_default();
                if let Some(byte) = bytes.get_mut(5) {
                    *byte ^= 0x40;
                }
                *packet = super::net::parse(&bytes).ok();
            }
        }
    }
}
