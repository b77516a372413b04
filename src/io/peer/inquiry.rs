//! Who only asks: `tandemadm ping` on the peer's host. It is answered here, and the core hears
//! nothing of it.
//!
//! Invariants:
//! - A socket is an inquiry from its Features to its end: nothing that it says reaches the core, and
//!   nothing of this node's state changes.
//! - Where there is a secret, it is proved first.
//! - At most [`INQUIRIES_MAX`] at a time, each for [`INQUIRY_MS`]; what waits to be sent to one is
//!   bounded.

use super::gate::{Stopped, Taken};
use super::system::Run;
use super::*;
use crate::resource::ResourceConfig;
use crate::secret::SecretError;
use crate::wire::{Description, FEATURE_INQUIRY, FEATURE_SECRET, VERSIONS};

/// Inquiries at a time.
const INQUIRIES_MAX: usize = 4;
/// How long one may last, ms.
const INQUIRY_MS: u64 = 30_000;
/// Bytes that may wait to be sent back.
const ECHO_MAX: usize = 1 << 20;

/// What is said of this node to who asks.
#[derive(Clone, Debug)]
pub(super) struct Own {
    node_id: NodeId,
    pub(super) run: Run,
    description: Description,
}

/// A socket that is an inquiry.
#[derive(Debug)]
pub(super) struct Inquiry {
    /// What it has said, until it is looked at.
    features: Option<Features>,
    /// When it ends at the latest.
    pub(super) until: Time,
}

impl Own {
    pub(super) fn new(config: &ResourceConfig, state_dir: &std::path::Path) -> Self {
        let description = Description {
            node: config.node_name.clone(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            must_equal: config.options.must_equal(),
            should_equal: config.options.should_equal(),
        };
        Self { node_id: config.node_id, run: Run::new(config, state_dir), description }
    }

    pub(super) fn set_options(&mut self, options: &Options) {
        self.description.must_equal = options.must_equal();
        self.description.should_equal = options.should_equal();
    }
}

impl Peers {
    /// An inquiry has said who it is: it is taken away from the core.
    pub(super) fn begin_inquiry(&mut self, io: &mut Context, id: SocketId) {
        let inquiries = self.sockets.values().filter(|socket| socket.inquiry.is_some()).count();
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let Some(features) = socket.inquiry.as_mut().and_then(|inquiry| inquiry.features.take())
        else {
            return;
        };
        io.forget_socket(id);
        io.events.push_back(Event::SocketLost { socket: id, error: SocketError::Closed });
        let sender = canonical(socket.remote.ip());
        let is_peer = |path: &PeerPath| {
            path.peer == features.node_id && canonical(path.remote.ip()) == sender
        };
        let fits = inquiries <= INQUIRIES_MAX
            && features.resource == io.name
            && features.peer_node_id == self.own.node_id
            && features.dialled
            && features.version_min <= *VERSIONS.end()
            && features.version_max >= *VERSIONS.start()
            && self.paths.iter().any(is_peer);
        let has_secret = features.features & FEATURE_SECRET != 0;
        let description = Packet::Description(Box::new(self.own.description.clone()));
        if !fits {
            // It compares our Features with its own, and tells.
            return self.stop(io, id, Stopped::Secret(SecretError::NoneThere));
        }
        match (&socket.gate, has_secret) {
            (Gate::Open, false) => {
                socket.outbox.push(|out| encode_header(&description, out), None, 0);
            }
            (Gate::Open, true) => self.stop(io, id, Stopped::Secret(SecretError::NoneHere)),
            (Gate::Closed { .. }, false) => {
                self.stop(io, id, Stopped::Secret(SecretError::NoneThere));
            }
            (Gate::Closed { .. } | Gate::Asking(_) | Gate::Shut, _) => {
                let (own, peer) = (self.own.node_id, features.node_id);
                self.authenticate(io, id, own, peer);
            }
        }
    }

    /// What an inquiry is told when it has proved the secret.
    pub(super) fn describe(&mut self, id: SocketId) {
        let description = Packet::Description(Box::new(self.own.description.clone()));
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.outbox.push(|out| encode_header(&description, out), None, 0);
        }
    }
}

impl Socket {
    /// It is an inquiry, and the core has been told that it is gone.
    pub(super) fn is_inquiry(&self) -> bool {
        self.inquiry.as_ref().is_some_and(|inquiry| inquiry.features.is_none())
    }

    /// Whether the packet makes it an inquiry.
    pub(super) fn asks_only(&mut self, now: Time, packet: &Packet) -> bool {
        match packet {
            Packet::Features(features)
                if features.features & FEATURE_INQUIRY != 0
                    && self.accepted
                    && self.greeting.is_none() =>
            {
                self.greeting = Some(features.features);
                let until = now.after_ms(INQUIRY_MS);
                self.inquiry = Some(Inquiry { features: Some(features.clone()), until });
                true
            }
            _ => false,
        }
    }

    /// A packet of an inquiry. `true`: it has proved the secret, and is to be told what this node is.
    pub(super) fn inquiry_says(&mut self, packet: Packet) -> Result<bool, Stopped> {
        let (answer, passed) = match self.gate.take(packet, true)? {
            Taken::NotMine(Packet::Echo { sequence, bytes }) if self.is_inquiry() => {
                if self.outbox.bytes() > ECHO_MAX {
                    return Err("an inquiry that does not read its answers".into());
                }
                (Some(Packet::EchoReply { sequence, bytes }), false)
            }
            Taken::NotMine(_) => return Err("a packet that an inquiry does not have".into()),
            Taken::Answered(answer) => (answer, false),
            Taken::Passed(answer) => (answer, true),
        };
        if let Some(packet) = answer {
            self.outbox.push(|out| encode_header(&packet, out), None, 0);
        }
        Ok(passed)
    }
}
