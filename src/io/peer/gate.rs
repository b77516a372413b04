//! What stands between a socket's Features and everything else: the shared secret.
//!
//! Invariants:
//! - Where this node has a secret, the core hears nothing but Features of a socket that has not
//!   proved it, and no buffer is taken for what it sends.
//! - A socket goes by the secrets of the moment when it was made: changed ones are for the next.
//! - The challenge is fresh, from the system's random source; without one there is no connection.

use std::io::Read as _;
use std::sync::Arc;

use super::*;
use crate::resource::Reason;
use crate::secret::{CHALLENGE_SIZE, Exchange, Failure, Party, SecretError, Secrets};
use crate::wire::{FEATURE_SECRET, Kind, Refused};

/// Where a socket is with its proof.
#[derive(Debug)]
pub(super) enum Gate {
    /// Nothing is asked (there is no secret here), or it has proved it.
    Open,
    /// The core has not said yet that the Features fit; a peer that has is quicker.
    Closed { secrets: Arc<Secrets>, early: Option<Packet> },
    /// Challenges and responses are under way.
    Asking(Box<Exchange>),
    /// It did not prove it, and is told so.
    Shut,
}

/// What a packet that the gate has taken came to.
pub(super) enum Taken {
    /// It is the core's.
    NotMine(Packet),
    /// The socket waits for more; this is to be sent.
    Answered(Option<Packet>),
    /// It has proved the secret; this is to be sent first.
    Passed(Option<Packet>),
}

/// Why a socket ends at the gate.
pub(super) enum Stopped {
    /// Bytes that have no place here; a sentence.
    Nonsense(String),
    /// The secrets.
    Secret(SecretError),
}

impl From<String> for Stopped {
    fn from(why: String) -> Self {
        Self::Nonsense(why)
    }
}

impl From<&str> for Stopped {
    fn from(why: &str) -> Self {
        Self::Nonsense(why.to_owned())
    }
}

impl Gate {
    pub(super) fn new(secrets: Option<&Arc<Secrets>>) -> Self {
        match secrets {
            None => Self::Open,
            Some(secrets) => Self::Closed { secrets: Arc::clone(secrets), early: None },
        }
    }

    /// Whether a packet of this type may come now; nothing of another is read.
    pub(super) fn admits(&self, kind: Kind) -> bool {
        let first = matches!(kind, Kind::Features | Kind::Challenge | Kind::Response);
        matches!(self, Self::Open) || first || kind == Kind::Refused
    }

    /// A packet that has come; `greeted`: after the Features of its sender.
    pub(super) fn take(&mut self, packet: Packet, greeted: bool) -> Result<Taken, Stopped> {
        if matches!((&*self, &packet), (Self::Open, _) | (_, Packet::Features(_))) {
            return Ok(Taken::NotMine(packet));
        }
        if !greeted {
            return Err("a packet before it has said who it is".into());
        }
        if let Packet::Refused(refused) = &packet {
            // Only what it is for is believed, not its text: it has proved nothing.
            return Err(match refused.reason {
                Reason::BadSecret => Stopped::Secret(SecretError::Wrong),
                _ => "a refusal before it has proved the shared-secret".into(),
            });
        }
        match self {
            Self::Closed { early, .. } if early.is_none() => {
                *early = Some(packet);
                Ok(Taken::Answered(None))
            }
            Self::Asking(exchange) => match exchange.received(&packet) {
                Ok(next) if next.proved => {
                    *self = Self::Open;
                    Ok(Taken::Passed(next.send))
                }
                Ok(next) => Ok(Taken::Answered(next.send)),
                Err(Failure::Secret(error)) => Err(Stopped::Secret(error)),
                Err(Failure::Protocol) => Err("a packet out of its turn".into()),
            },
            Self::Open | Self::Closed { .. } | Self::Shut => Err("a packet too many".into()),
        }
    }
}

fn challenge() -> std::io::Result<[u8; CHALLENGE_SIZE]> {
    let mut bytes = [0; CHALLENGE_SIZE];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Peers {
    /// Other secrets, for the sockets that are made from now on.
    pub(crate) fn set_secrets(&mut self, secrets: Option<Arc<Secrets>>) {
        self.secrets = secrets;
    }

    /// What Features say beside what the core has put into them.
    pub(super) fn features_sent(&self, id: SocketId, packet: &Packet) -> Option<Packet> {
        let socket = self.sockets.get(&id)?;
        match packet {
            Packet::Features(features) => {
                let secret = if matches!(socket.gate, Gate::Open) { 0 } else { FEATURE_SECRET };
                let (features, system) = (features.clone(), self.own.run.name());
                let bits = features.features | secret;
                Some(Packet::Features(Features { features: bits, system, ..features }))
            }
            _ => None,
        }
    }

    /// `Action::Authenticate`.
    pub(crate) fn authenticate(
        &mut self,
        io: &mut Context,
        id: SocketId,
        own: NodeId,
        peer: NodeId,
    ) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let there = socket.greeting.is_some_and(|features| features & FEATURE_SECRET != 0);
        match (&mut socket.gate, there) {
            // Before what has come behind the Features.
            (Gate::Open, false) => io.events.push_front(Event::Authenticated { socket: id }),
            (Gate::Open, true) => {
                self.stop(io, id, Stopped::Secret(SecretError::NoneHere));
            }
            (Gate::Closed { .. }, false) => {
                self.stop(io, id, Stopped::Secret(SecretError::NoneThere));
            }
            (Gate::Closed { secrets, early }, true) => {
                let challenge = match challenge() {
                    Ok(challenge) => challenge,
                    Err(error) => {
                        tracing::error!(target: "tandem", resource = %io.name,
                            "no random numbers, so no connection: {error}");
                        return self.lose(io, id, SocketError::Io(libc::EIO));
                    }
                };
                let early = early.take();
                let party =
                    Party { resource: io.name.clone(), own, peer, dialled: !socket.accepted };
                let exchange = Exchange::new(Arc::clone(secrets), party, challenge);
                let first = exchange.challenge();
                socket.outbox.push(|out| encode_header(&first, out), None, 0);
                socket.gate = Gate::Asking(Box::new(exchange));
                if let Some(packet) = early
                    && let Err(stopped) = socket.pass_gate(io, packet)
                {
                    self.stop(io, id, stopped);
                }
            }
            // The core asks once.
            (Gate::Asking(_) | Gate::Shut, _) => {}
        }
    }

    /// Ends a socket that says what it may not.
    pub(super) fn stop(&mut self, io: &mut Context, id: SocketId, stopped: Stopped) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        match stopped {
            Stopped::Nonsense(why) => {
                let remote = socket.remote;
                if let Some(more) = self.nonsense.pass(io.now) {
                    tracing::warn!(target: "tandem", resource = %io.name,
                        "the connection with {remote} was dropped: {why}{more}");
                }
                self.lose(io, id, SocketError::Protocol);
            }
            Stopped::Secret(error) => {
                if error == SecretError::Wrong && socket.accepted {
                    socket.tell_wrong_secret();
                }
                let until = io.now.after_ms(self.linger_ms);
                socket.gate = Gate::Shut;
                socket.state = State::Lingering { until, ended: false };
                socket.drop_partial(io);
                if socket.is_inquiry() {
                    return;
                }
                let error = SocketError::Secret(error);
                io.events.push_back(Event::SocketLost { socket: id, error });
            }
        }
    }
}

impl Socket {
    /// The peer may know that it is its secret: it has dialled, and waits for the answer.
    fn tell_wrong_secret(&mut self) {
        let rule = "shared-secret".to_owned();
        let text = "another secret".to_owned();
        let packet = Packet::Refused(Box::new(Refused { reason: Reason::BadSecret, rule, text }));
        self.outbox.push(|out| encode_header(&packet, out), None, 0);
    }

    /// A whole packet without payload: to the gate, and what it lets through to the core.
    pub(super) fn pass_gate(&mut self, io: &mut Context, packet: Packet) -> Result<(), Stopped> {
        let socket = self.id;
        if self.asks_only(io.now, &packet) {
            return Ok(());
        }
        if self.inquiry.is_some() {
            self.told |= self.inquiry_says(packet)?;
            return Ok(());
        }
        if let Packet::Features(features) = &packet {
            if self.greeting.is_none() {
                self.system = features.system;
            }
            self.greeting.get_or_insert(features.features);
        }
        let (answer, passed) = match self.gate.take(packet, self.greeting.is_some())? {
            Taken::NotMine(packet) => {
                io.events.push_back(Event::Packet { socket, packet, payload: None });
                return Ok(());
            }
            Taken::Answered(answer) => (answer, false),
            Taken::Passed(answer) => (answer, true),
        };
        if let Some(packet) = answer {
            self.outbox.push(|out| encode_header(&packet, out), None, 0);
        }
        if passed {
            io.events.push_back(Event::Authenticated { socket });
        }
        Ok(())
    }
}
