//! Who may speak: between the peer's Features and anything else, the shell makes it prove the
//! shared secret.
//!
//! Invariants (DESIGN 5):
//! - A socket is the session's, or waits to be, only after `Event::Authenticated`; until then
//!   nothing that comes on it but Features is listened to.
//! - A wrong secret ends StandAlone only where this node has dialled; an accepted connection is
//!   dropped with one line in ten seconds. A connection that stands is not touched by either.

use crate::resource::peer::handshake::refusal;
use crate::resource::{Action, ConnectionState, Reason, Resource, SocketId};
use crate::secret::SecretError;
use crate::wire::{FEATURE_DIGESTS, FEATURE_HAND_OVER, Features};

/// The rule in the log and in `why`.
const RULE: &str = "shared-secret";

impl Resource {
    /// The peer's Features fit.
    pub(crate) fn authenticate(&mut self, c: usize, socket: SocketId, features: &Features) {
        let entry = self.connections[c].sockets.get_mut(&socket).expect("its owner has it");
        entry.asked = true;
        entry.peer_primary = features.primary;
        entry.hands_over = features.features & FEATURE_HAND_OVER != 0;
        entry.gives_digests = features.features & FEATURE_DIGESTS != 0;
        let (own, peer) = (self.config.node_id, self.connections[c].peer);
        self.emit(Action::Authenticate { socket, own, peer });
    }

    /// The peer may speak.
    pub(crate) fn authenticated(&mut self, socket: SocketId) {
        let Some(c) = self.owner_of(socket) else { return };
        let entry = self.connections[c].sockets.get_mut(&socket).expect("its owner has it");
        if entry.asked && !std::mem::replace(&mut entry.greeted, true) {
            self.choose_socket(c, socket);
        }
    }

    /// The peer may not speak, or will not: the socket is gone.
    pub(crate) fn not_authenticated(&mut self, c: usize, dialled: bool, error: SecretError) {
        let text = self.secret_text(c, error);
        let alone = self.is_connecting(c) && self.connections[c].active.is_none();
        if dialled && alone {
            return self.stand_alone(c, &refusal(Reason::BadSecret, RULE, text));
        }
        self.complain(c, &format!("{} ({})", text, Reason::BadSecret));
        if alone {
            self.connections[c].detail = format!("rule {RULE}: {text}");
            self.set_connection(c, ConnectionState::Connecting, Reason::BadSecret);
        }
        self.dial_if_idle(c);
    }

    fn secret_text(&self, c: usize, error: SecretError) -> String {
        let (own, peer) = (&self.config.node_name, &self.connections[c].name);
        let name = &self.config.name;
        match error {
            SecretError::Wrong => format!("{own} and {peer} have different secrets for {name}"),
            SecretError::NoneHere => {
                format!("{peer} has a shared-secret for {name}, {own} has none")
            }
            SecretError::NoneThere => {
                format!("{own} has a shared-secret for {name}, {peer} has none")
            }
            SecretError::Algorithm { here, there } => {
                format!("cram-hmac-alg: {} on {own}, {} on {peer}", here.name(), there.name())
            }
        }
    }
}
