//! Dialling, accepting, crossing connections, keep-alive, and the loss of a socket.
//!
//! Invariants (DESIGN 6):
//! - At most one attempt of our own is under way; the first at once, then after 0.5 s doubling to
//!   connect-int and never above it, +-20 %.
//! - Of two crossing connections the one dialled by the lower node id stays, until a handshake was
//!   sent on the other; where each has one sent on it, too.
//! - Else, from the own handshake on a session is never touched by a newcomer: the old connection
//!   is pinged, and only its end, or its silence for ping-timeout, lets the newcomer in.
//! - Any byte received restarts the ping timer.

use crate::resource::peer::connection::{Socket, Stage};
use crate::resource::{
    Action, ConnectionState, LogLevel, NodeId, Payload, Reason, Resource, Role, SocketError,
    SocketId, Time,
};
use crate::wire::{FEATURE_DIGESTS, FEATURE_HAND_OVER, Features, Handshake, Packet, VERSIONS};

/// The first wait between two attempts, ms.
const BACKOFF_FIRST_MS: u64 = 500;
/// Sockets of one peer that have not finished the handshake.
const SOCKETS_MAX: usize = 8;

impl Resource {
    /// Dial at once, and then with growing pauses.
    pub(crate) fn start_dialling(&mut self, c: usize) {
        let reason = self.connections[c].reason;
        self.set_connection(c, ConnectionState::Connecting, reason);
        self.connections[c].backoff_ms = 0;
        self.connections[c].next_dial = Some(self.now);
    }

    pub(crate) fn is_connecting(&self, c: usize) -> bool {
        self.connections[c].state == ConnectionState::Connecting
    }

    fn dial(&mut self, c: usize) {
        let socket = SocketId(self.next_socket);
        self.next_socket += 2;
        let now = self.now;
        let timeout_ms = self.config.options.connect_int_ms.min(self.config.options.timeout_ms);
        let connection = &mut self.connections[c];
        connection.next_dial = None;
        connection.attempts += 1;
        let (peer, dialled) = (connection.peer, true);
        connection.sockets.insert(socket, Socket::new(dialled, now));
        self.emit(Action::Connect { peer, socket, timeout_ms });
    }

    /// The next attempt, after the pause that its turn has.
    pub(crate) fn dial_later(&mut self, c: usize) {
        let limit = self.config.options.connect_int_ms;
        let connection = &mut self.connections[c];
        let pause =
            if connection.backoff_ms == 0 { BACKOFF_FIRST_MS } else { connection.backoff_ms * 2 };
        connection.backoff_ms = pause.min(limit);
        let pause = self.prng.jitter(self.connections[c].backoff_ms, 20).min(limit);
        self.connections[c].next_dial = Some(self.now.after_ms(pause));
    }

    fn greet(&mut self, c: usize, socket: SocketId) {
        let connection = &self.connections[c];
        let features = Features {
            version_min: *VERSIONS.start(),
            version_max: *VERSIONS.end(),
            features: FEATURE_HAND_OVER | FEATURE_DIGESTS,
            node_id: self.config.node_id,
            peer_node_id: connection.peer,
            resource: self.config.name.clone(),
            dialled: connection.sockets[&socket].dialled,
            primary: self.role == Role::Primary,
            system: [0; 16],
        };
        self.emit(Action::Send { socket, packet: Packet::Features(features), payload: None });
    }

    /// The role changed: what sockets without a session were told of it is not true any more, and
    /// two Primaries might wait for each other. They are made anew.
    pub(crate) fn greet_anew(&mut self) {
        for c in self.peers() {
            let connection = &self.connections[c];
            let active = connection.active;
            let stale: Vec<SocketId> = connection
                .sockets
                .iter()
                .filter(|(id, entry)| entry.connected && active != Some(**id))
                .map(|(id, _)| *id)
                .collect();
            let any = !stale.is_empty();
            for socket in stale {
                if self.connections[c].challenger == Some(socket) {
                    self.connections[c].challenger = None;
                    self.connections[c].challenger_handshake = None;
                }
                self.close_socket(c, socket, false);
            }
            if any && active.is_none() && self.is_connecting(c) {
                self.connections[c].next_dial = Some(self.now);
            }
        }
    }

    /// The connection that this socket belongs to, if it was not closed meanwhile.
    pub(crate) fn owner_of(&self, socket: SocketId) -> Option<usize> {
        self.peers().find(|c| self.connections[*c].sockets.contains_key(&socket))
    }

    pub(crate) fn socket_connected(&mut self, socket: SocketId) {
        let Some(c) = self.owner_of(socket) else {
            return self.emit(Action::CloseSocket { socket, linger: false });
        };
        let now = self.now;
        let entry = self.connections[c].sockets.get_mut(&socket).expect("its owner has it");
        entry.connected = true;
        entry.since = now;
        self.greet(c, socket);
    }

    pub(crate) fn socket_accepted(&mut self, peer: NodeId, socket: SocketId) {
        let found = self.peers().find(|c| self.connections[*c].peer == peer);
        let Some(c) = found.filter(|c| {
            let connection = &self.connections[*c];
            matches!(connection.state, ConnectionState::Connecting | ConnectionState::Connected)
                && connection.sockets.len() < SOCKETS_MAX
        }) else {
            return self.emit(Action::CloseSocket { socket, linger: false });
        };
        let entry = Socket { connected: true, ..Socket::new(false, self.now) };
        self.connections[c].sockets.insert(socket, entry);
        self.greet(c, socket);
    }

    pub(crate) fn bytes_received(&mut self, socket: SocketId) {
        let now = self.now;
        if let Some(c) = self.peers().find(|c| self.connections[*c].active == Some(socket)) {
            self.connections[c].last_received = now;
            self.connections[c].ping_sent = None;
            if let Some(challenger) = self.connections[c].challenger.take() {
                // The old connection lives.
                self.connections[c].challenger_handshake = None;
                self.close_socket(c, challenger, false);
            }
        }
    }

    pub(crate) fn packet_received(
        &mut self,
        socket: SocketId,
        packet: Packet,
        payload: Option<Payload>,
    ) {
        let Some(c) = self.owner_of(socket) else { return self.release(payload) };
        self.bytes_received(socket);
        let Socket { asked, greeted, .. } = self.connections[c].sockets[&socket];
        if let Packet::Features(features) = packet {
            self.release(payload);
            if asked {
                return self.protocol_error(c, socket, "a second Features packet");
            }
            return self.features_received(c, socket, &features);
        }
        if !greeted || self.connections[c].active != Some(socket) {
            self.release(payload);
            if !greeted {
                self.protocol_error(c, socket, "a packet before it has said who it is");
            } else if let Packet::Handshake(handshake) = packet
                && self.connections[c].challenger == Some(socket)
            {
                self.connections[c].challenger_handshake = Some(handshake);
                self.end_crossing(c);
            }
            return;
        }
        match packet {
            Packet::Ping => self.send(c, Packet::PingAck, None),
            Packet::PingAck => self.bitmap_goes_on(c),
            packet => self.peer_packet(c, socket, packet, payload),
        }
    }

    fn features_received(&mut self, c: usize, socket: SocketId, features: &Features) {
        let connection = &self.connections[c];
        let wrong = if features.resource != self.config.name {
            let text = format!("the peer calls the resource {:?}", features.resource);
            Some((Reason::WrongResource, text))
        } else if features.node_id != connection.peer
            || features.peer_node_id != self.config.node_id
        {
            let text = format!(
                "the peer says it is node-id {} and takes us for {}; here it is {} and {}",
                features.node_id, features.peer_node_id, connection.peer, self.config.node_id
            );
            Some((Reason::WrongNode, text))
        } else if features.version_min > *VERSIONS.end() || features.version_max < *VERSIONS.start()
        {
            let text = format!(
                "the peer speaks protocol {} to {}, this node {} to {}",
                features.version_min,
                features.version_max,
                VERSIONS.start(),
                VERSIONS.end()
            );
            Some((Reason::BadVersion, text))
        } else if features.dialled == connection.sockets[&socket].dialled {
            Some((Reason::WrongNode, "both ends say who dialled, and disagree".to_owned()))
        } else {
            None
        };
        if let Some((reason, text)) = wrong {
            self.complain(c, &text);
            if self.is_connecting(c) && self.connections[c].active.is_none() {
                self.connections[c].detail.clone_from(&text);
                self.set_connection(c, ConnectionState::Connecting, reason);
            }
            let dialled = self.connections[c].sockets.get(&socket).is_some_and(|one| one.dialled);
            self.forget_socket(c, socket);
            if dialled {
                // At the address of the peer: it does not become another one by waiting.
                self.tentative_met(c, &text);
            }
            return;
        }
        self.authenticate(c, socket, features);
    }

    /// A greeted socket: it becomes the session's, or not.
    pub(crate) fn choose_socket(&mut self, c: usize, socket: SocketId) {
        let lower_is_us = self.config.node_id < self.connections[c].peer;
        let preferred = |entry: &Socket| entry.dialled == lower_is_us;
        let connection = &self.connections[c];
        if connection.leaving.is_some() {
            // It would take the leave's place, and connect again what was just told to end.
            return self.close_socket(c, socket, false);
        }
        match connection.active {
            None => self.activate(c, socket),
            Some(_) if connection.stage >= Stage::Handshake || self.is_renegotiating(c) => {
                // Ping the old one at once; its silence decides. With the own handshake sent, the
                // peer's verdict may be on its way in it, and comes once only.
                if connection.challenger.is_none() {
                    self.connections[c].challenger = Some(socket);
                    self.ping(c);
                } else {
                    self.close_socket(c, socket, false);
                }
            }
            Some(old) => {
                let (new, old_entry) = (connection.sockets[&socket], connection.sockets[&old]);
                // As preferred as the old one: the peer has dialled again, and given that up.
                if preferred(&new) || !preferred(&old_entry) {
                    self.connections[c].active = None;
                    self.close_socket(c, old, false);
                    self.session_over(c, true);
                    self.activate(c, socket);
                } else {
                    self.close_socket(c, socket, false);
                }
            }
        }
    }

    fn activate(&mut self, c: usize, socket: SocketId) {
        let now = self.now;
        let first = self.config.node_id < self.connections[c].peer;
        let primary = self.role == Role::Primary;
        let connection = &mut self.connections[c];
        let waits = primary && !(connection.sockets[&socket].peer_primary && first);
        connection.active = Some(socket);
        connection.last_received = now;
        connection.ping_sent = None;
        connection.next_dial = None;
        connection.stage = if waits { Stage::Waiting } else { Stage::Quiescing };
        connection.stage_since = now;
        let attempts: Vec<SocketId> = connection
            .sockets
            .iter()
            .filter(|(id, entry)| **id != socket && entry.dialled && !entry.connected)
            .map(|(id, _)| *id)
            .collect();
        for attempt in attempts {
            self.close_socket(c, attempt, false);
        }
        self.changed();
    }

    /// Two connections have crossed, and each node has sent its handshake on the one that it dialled:
    /// that of the lower node id stays. Without this both would wait for a ping on their own, and
    /// both give it up.
    fn end_crossing(&mut self, c: usize) {
        let lower_is_us = self.config.node_id < self.connections[c].peer;
        let connection = &self.connections[c];
        let preferred = |socket: SocketId| {
            connection.sockets.get(&socket).is_some_and(|entry| entry.dialled == lower_is_us)
        };
        let (Some(old), Some(new)) = (connection.active, connection.challenger) else { return };
        let waits = connection.stage == Stage::Handshake && !self.is_renegotiating(c);
        if !waits || preferred(old) || !preferred(new) {
            return;
        }
        let challenger = self.take_challenger(c);
        self.connections[c].active = None;
        self.close_socket(c, old, false);
        self.session_over(c, true);
        self.challenger_takes_over(c, challenger);
    }

    /// The newcomer that waits for the end of the session, with what its peer has said meanwhile.
    fn take_challenger(&mut self, c: usize) -> Option<(SocketId, Option<Box<Handshake>>)> {
        let connection = &mut self.connections[c];
        let handshake = connection.challenger_handshake.take();
        connection.challenger.take().map(|socket| (socket, handshake))
    }

    /// The old session is over: the newcomer takes its place, and nothing that it said is lost.
    fn challenger_takes_over(
        &mut self,
        c: usize,
        challenger: Option<(SocketId, Option<Box<Handshake>>)>,
    ) {
        let Some((socket, handshake)) = challenger else { return };
        if !self.is_connecting(c) || !self.connections[c].sockets.contains_key(&socket) {
            return;
        }
        self.activate(c, socket);
        if let Some(handshake) = handshake {
            self.peer_packet(c, socket, Packet::Handshake(handshake), None);
        }
    }

    /// Closes a socket that is not the session's.
    pub(crate) fn close_socket(&mut self, c: usize, socket: SocketId, linger: bool) {
        if self.connections[c].sockets.remove(&socket).is_some() {
            self.emit(Action::CloseSocket { socket, linger });
        }
    }

    /// Closes every socket of the connection.
    pub(crate) fn close_sockets(&mut self, c: usize, linger: bool) {
        self.connections[c].active = None;
        self.connections[c].next_dial = None;
        for socket in self.connections[c].sockets.keys().copied().collect::<Vec<_>>() {
            self.close_socket(c, socket, linger);
        }
    }

    fn forget_socket(&mut self, c: usize, socket: SocketId) {
        self.close_socket(c, socket, false);
        self.dial_if_idle(c);
    }

    pub(crate) fn dial_if_idle(&mut self, c: usize) {
        let connection = &self.connections[c];
        let dialling = connection.sockets.values().any(|entry| entry.dialled);
        if self.is_connecting(c)
            && connection.active.is_none()
            && !dialling
            && connection.next_dial.is_none()
        {
            self.dial_later(c);
        }
    }

    pub(crate) fn protocol_error(&mut self, c: usize, socket: SocketId, what: &str) {
        self.complain(c, what);
        if self.connections[c].active == Some(socket) {
            let detail = format!("the peer sent {what}");
            self.drop_connection(c, ConnectionState::ProtocolError, Reason::Lost, detail);
        } else {
            self.forget_socket(c, socket);
        }
    }

    /// One log line in ten seconds for a peer that misbehaves.
    pub(crate) fn complain(&mut self, c: usize, what: &str) {
        self.connections[c].complaints += 1;
        let last = self.connections[c].last_complaint;
        if last.is_some_and(|last| self.now.ms_since(last) < 10_000) {
            return;
        }
        self.connections[c].last_complaint = Some(self.now);
        let text = format!(
            "{}connection dropped: {what} ({} so far)",
            self.of_peer(c),
            self.connections[c].complaints
        );
        self.log(LogLevel::Warning, text);
    }

    pub(crate) fn socket_lost(&mut self, socket: SocketId, error: SocketError) {
        let Some(c) = self.owner_of(socket) else { return };
        let entry = self.connections[c].sockets.remove(&socket).expect("its owner has it");
        if self.connections[c].challenger == Some(socket) {
            self.connections[c].challenger = None;
            self.connections[c].challenger_handshake = None;
        }
        if let SocketError::Secret(error) = error
            && !entry.greeted
        {
            return self.not_authenticated(c, entry.dialled, error);
        }
        let (through, reason, detail) = describe(error);
        if self.connections[c].active == Some(socket) {
            self.connections[c].active = None;
            if self.leave_ended(c) {
                return;
            }
            let was_open = self.connections[c].stage == Stage::Open;
            let reason = if was_open { Reason::Lost } else { self.connections[c].reason };
            let challenger = self.take_challenger(c);
            self.drop_connection(c, through, reason, detail);
            return self.challenger_takes_over(c, challenger);
        }
        if entry.dialled && self.is_connecting(c) {
            if self.connections[c].active.is_none() {
                let known = matches!(
                    self.connections[c].reason,
                    Reason::WrongNode
                        | Reason::WrongResource
                        | Reason::BadVersion
                        | Reason::BadSecret
                );
                if !known {
                    let (reason, detail) = match (error, self.connections[c].reason) {
                        // It was not connected: nothing is lost by that.
                        (
                            SocketError::Closed,
                            old @ (Reason::NeverConnected | Reason::StoppedByAdmin),
                        ) => (old, HUNG_UP.to_owned()),
                        _ => (reason, detail),
                    };
                    self.connections[c].detail = detail;
                    self.set_connection(c, ConnectionState::Connecting, reason);
                }
                self.gap_answered(false);
            }
            self.dial_if_idle(c);
        }
    }

    /// Everything that time does.
    pub(crate) fn check_timers(&mut self) {
        for c in self.peers() {
            self.check_connection(c);
        }
        self.check_disks();
        self.pump_numbers();
        self.check_space();
    }

    /// What was begun before says nothing of the peer as it is now: sockets without a session are made anew.
    pub(crate) fn attempts_start_anew(&mut self, c: usize) {
        let connection = &mut self.connections[c];
        (connection.challenger, connection.challenger_handshake) = (None, None);
        let active = connection.active;
        let sockets: Vec<_> = connection.sockets.keys().copied().collect();
        for socket in sockets.into_iter().filter(|one| active != Some(*one)) {
            self.close_socket(c, socket, false);
        }
        // After a pause: the network may not be there yet, and an attempt that fails counts.
        self.dial_if_idle(c);
    }

    /// This process did not run for a moment: no peer has been silent meanwhile.
    pub(crate) fn connections_start_anew(&mut self) {
        let now = self.now;
        for connection in &mut self.connections {
            connection.ping_sent = None;
            (connection.last_received, connection.stage_since) = (now, now);
        }
    }

    /// The peer has to say within ping-timeout that it is there.
    pub(crate) fn ping(&mut self, c: usize) {
        if self.connections[c].ping_sent.is_none() {
            self.connections[c].ping_sent = Some(self.now);
            self.send(c, Packet::Ping, None);
        }
    }

    fn check_connection(&mut self, c: usize) {
        self.check_tentative(c);
        self.check_come_back(c);
        if self.connections[c].next_dial.is_some_and(|at| at <= self.now) {
            self.dial(c);
        }
        let options = &self.config.options;
        let (ping_int, ping_timeout) = (options.ping_int_ms, options.ping_timeout_ms);
        let now = self.now;
        // The session's is almost always the only one.
        if self.connections[c].sockets.len() > usize::from(self.connections[c].active.is_some()) {
            self.forget_late_sockets(c);
        }
        let connection = &self.connections[c];
        if connection.active.is_none() {
            return;
        }
        match connection.ping_sent {
            Some(at) if now.ms_since(at) >= ping_timeout => {
                let detail = "PingAck did not arrive in time".to_owned();
                let challenger = self.take_challenger(c);
                self.drop_connection(c, ConnectionState::NetworkFailure, Reason::Lost, detail);
                return self.challenger_takes_over(c, challenger);
            }
            None if now.ms_since(connection.last_received) >= ping_int => {
                self.connections[c].ping_sent = Some(now);
                self.send(c, Packet::Ping, None);
            }
            _ => {}
        }
        let connection = &self.connections[c];
        if self.answer_due(c).is_some_and(|due| now >= due) {
            let patience = self.patience_ms();
            let detail = format!("the peer did not answer a request for {patience} ms (ko-count)");
            return self.drop_connection(c, ConnectionState::Timeout, Reason::Lost, detail);
        }
        let waiting = self.stage_ends(c) || connection.leaving.is_some();
        if waiting && now.ms_since(connection.stage_since) >= self.patience_ms() {
            let detail = "the handshake (or the leave) did not end in time".to_owned();
            self.drop_connection(c, ConnectionState::Timeout, Reason::Timeout, detail);
            // The attempt has failed.
            self.gap_answered(false);
        }
    }

    /// Sockets that have no session in time.
    fn forget_late_sockets(&mut self, c: usize) {
        let (now, timeout) = (self.now, self.config.options.timeout_ms);
        let late: Vec<(SocketId, bool)> = self.connections[c]
            .sockets
            .iter()
            .filter(|(id, entry)| {
                self.connections[c].active != Some(**id)
                    && self.connections[c].challenger != Some(**id)
                    && entry.connected
                    && now.ms_since(entry.since) >= timeout
            })
            .map(|(id, entry)| (*id, entry.dialled))
            .collect();
        for (socket, dialled) in late {
            self.forget_socket(c, socket);
            // An own attempt has failed. Who has dialled here and says nothing has answered nothing.
            if dialled && self.connections[c].active.is_none() {
                self.gap_answered(false);
            }
        }
    }

    /// The stage must end in time. Requests are held in it: also while an open session waits for
    /// its new handshake.
    fn stage_ends(&self, c: usize) -> bool {
        let stage = self.connections[c].stage;
        matches!(stage, Stage::Waiting | Stage::Handshake | Stage::Opening)
            || stage == Stage::Quiescing && self.is_renegotiating(c)
    }

    /// How long a peer may keep an answer, ms; where ko-count is off, a handshake or a leave.
    pub(crate) fn patience_ms(&self) -> u64 {
        let options = &self.config.options;
        match options.ko_count {
            0 => options.timeout_ms * 7,
            ko_count => options.timeout_ms * u64::from(ko_count),
        }
    }

    /// When the peer must have answered what it was asked first. Where ko-count is off it may take any
    /// time, but for who is about to leave it.
    fn answer_due(&self, c: usize) -> Option<Time> {
        let at = self.connections[c].oldest_unanswered()?;
        if self.config.options.ko_count > 0 {
            return Some(at.after_ms(self.patience_ms()));
        }
        let order = self.running.as_ref().filter(|order| order.leaves())?;
        Some(at.max(order.since).after_ms(self.patience_ms()))
    }

    /// When `Event::Timeout` is due, if nothing else happens before.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        let others = [
            self.auto_timeout(),
            self.disk_check_timeout(),
            self.hung_order_timeout(),
            self.come_back_timeout(),
            self.clients_timeout(),
            self.hand_over_timeout(),
        ];
        let others = others.into_iter().flatten();
        let mut next: Option<Time> = others.chain(self.order_timeout()).min();
        let mut sooner = |at: Time| next = Some(next.map_or(at, |next| next.min(at)));
        let options = &self.config.options;
        for (c, connection) in self.connections.iter().enumerate() {
            connection.next_dial.into_iter().for_each(&mut sooner);
            self.tentative_timeout(c).into_iter().for_each(&mut sooner);
            self.ask_again_at(c).into_iter().for_each(&mut sooner);
            self.unfence_again_at(c).into_iter().for_each(&mut sooner);
            for (id, entry) in &connection.sockets {
                // As `check_connection` does.
                let waits = [connection.active, connection.challenger].contains(&Some(*id));
                if !waits && entry.connected {
                    sooner(entry.since.after_ms(options.timeout_ms));
                }
            }
            if connection.active.is_none() {
                continue;
            }
            match connection.ping_sent {
                Some(at) => sooner(at.after_ms(options.ping_timeout_ms)),
                None => sooner(connection.last_received.after_ms(options.ping_int_ms)),
            }
            self.answer_due(c).into_iter().for_each(&mut sooner);
            if self.stage_ends(c) || connection.leaving.is_some() {
                sooner(connection.stage_since.after_ms(self.patience_ms()));
            }
        }
        self.resync_timeouts().into_iter().for_each(&mut sooner);
        self.number_timeout().into_iter().for_each(&mut sooner);
        self.space_timeout().into_iter().for_each(&mut sooner);
        next
    }
}

/// Who was dialled and is not of a mind to be met.
const HUNG_UP: &str =
    "the host answers and hangs up: the resource is not up there, or it is StandAlone";

/// State, reason and sentence of a socket's end.
fn describe(error: SocketError) -> (ConnectionState, Reason, String) {
    match error {
        SocketError::Closed => {
            (ConnectionState::TearDown, Reason::Lost, "the peer closed the connection".to_owned())
        }
        SocketError::Io(errno) => (
            ConnectionState::BrokenPipe,
            Reason::Lost,
            format!("the connection broke, errno {errno}"),
        ),
        SocketError::Refused => (
            ConnectionState::Unconnected,
            Reason::Refused,
            "Connection refused: the host answers, no tandemd listens there".to_owned(),
        ),
        SocketError::TimedOut => (
            ConnectionState::Timeout,
            Reason::Timeout,
            "no answer (host down, or a firewall drops the packets)".to_owned(),
        ),
        SocketError::Unreachable(errno) => (
            ConnectionState::Unconnected,
            Reason::NoRoute,
            format!("no route, or the own address does not exist yet, errno {errno}"),
        ),
        // Both by who comes from the peer's address; `not_authenticated` tells the second.
        SocketError::Protocol | SocketError::Secret(_) => (
            ConnectionState::ProtocolError,
            Reason::Lost,
            "the peer sent what is not our protocol".to_owned(),
        ),
    }
}
