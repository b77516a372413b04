//! One connection's challenge and response: a state machine of two or three packets each way.
//!
//! ```text
//!   dialler                                   acceptor
//!   |--- Challenge ------------------------------>|   both at once
//!   |<------------------------------ Challenge ---|
//!   |--- Response: a proof for each secret ------>|   one of them must be of a secret here
//!   |<--- Response: one proof, of that secret ----|   the acceptor lets the dialler in
//!   |                                             |   the dialler lets the acceptor in
//! ```
//!
//! Invariants:
//! - The dialler proves first, so that nobody learns anything by dialling.
//! - A proof covers who makes it and for whom, the resource, who dialled, and both challenges. So
//!   no proof answers a challenge of the node that made it, of another resource, or of another
//!   connection.
//! - Each side challenges: whoever has recorded the other's half of an earlier exchange is not let
//!   in by it.

use std::sync::Arc;

use super::{Secret, SecretError, Secrets};
use crate::resource::NodeId;
use crate::wire::Packet;

/// Bytes of a challenge, from the system's random source.
pub const CHALLENGE_SIZE: usize = 32;
/// Most proofs in a response: of the secret, and of the old one.
pub const PROOFS_MAX: usize = 2;
/// What a proof begins with.
const LABEL: &[u8; 16] = b"tandem secret 1\0";

/// Whose exchange it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The resource.
    pub resource: String,
    /// This node.
    pub own: NodeId,
    /// The node that the other end has said it is, and should be.
    pub peer: NodeId,
    /// This node has dialled.
    pub dialled: bool,
}

/// What follows from a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// Send this.
    pub send: Option<Packet>,
    /// The other end has proved that it has a secret: it may speak.
    pub proved: bool,
}

/// Why an exchange has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The other end may not speak.
    Secret(SecretError),
    /// It has sent what has no place here.
    Protocol,
}

/// An exchange under way.
#[derive(Clone, Debug)]
pub struct Exchange {
    secrets: Arc<Secrets>,
    party: Party,
    own: [u8; CHALLENGE_SIZE],
    peer: Option<[u8; CHALLENGE_SIZE]>,
    done: bool,
}

impl Exchange {
    /// Begins with this node's challenge: fresh, from the system's random source.
    #[must_use]
    pub fn new(secrets: Arc<Secrets>, party: Party, challenge: [u8; CHALLENGE_SIZE]) -> Self {
        Self { secrets, party, own: challenge, peer: None, done: false }
    }

    /// The first packet to send.
    #[must_use]
    pub fn challenge(&self) -> Packet {
        Packet::Challenge { algorithm: self.secrets.cram_hmac_alg, challenge: self.own }
    }

    /// A packet of the other end.
    ///
    /// # Errors
    /// It may not speak: the connection ends.
    pub fn received(&mut self, packet: &Packet) -> Result<Next, Failure> {
        match packet {
            Packet::Challenge { algorithm, challenge } if self.peer.is_none() => {
                let (here, there) = (self.secrets.cram_hmac_alg, *algorithm);
                if here != there {
                    return Err(Failure::Secret(SecretError::Algorithm { here, there }));
                }
                self.peer = Some(*challenge);
                let send = self.party.dialled.then(|| self.proofs(self.secrets.all(), challenge));
                Ok(Next { send, proved: false })
            }
            Packet::Response { proofs } if !self.done => {
                let challenge = self.peer.ok_or(Failure::Protocol)?;
                let wrong = Failure::Secret(SecretError::Wrong);
                let secret = self.proved_by(proofs, &challenge).cloned().ok_or(wrong)?;
                self.done = true;
                let answers = !self.party.dialled;
                let send = answers.then(|| self.proofs(std::iter::once(&secret), &challenge));
                Ok(Next { send, proved: true })
            }
            _ => Err(Failure::Protocol),
        }
    }

    fn proofs<'a>(
        &self,
        secrets: impl Iterator<Item = &'a Secret>,
        peer: &[u8; CHALLENGE_SIZE],
    ) -> Packet {
        let text = self.text(true, peer);
        let one = |secret| self.secrets.cram_hmac_alg.proof(secret, &text);
        Packet::Response { proofs: secrets.flat_map(one).collect() }
    }

    /// The secret here that one of the proofs is of.
    fn proved_by(&self, proofs: &[u8], peer: &[u8; CHALLENGE_SIZE]) -> Option<&Secret> {
        let algorithm = self.secrets.cram_hmac_alg;
        let most = if self.party.dialled { 1 } else { PROOFS_MAX };
        if !proofs.len().is_multiple_of(algorithm.size()) || proofs.len() > most * algorithm.size()
        {
            return None;
        }
        let text = self.text(false, peer);
        let is_of = |secret: &&Secret| {
            let mut each = proofs.chunks(algorithm.size());
            each.any(|proof| algorithm.verifies(secret, &text, proof))
        };
        self.secrets.all().find(is_of)
    }

    /// What a proof is made over: `mine`, the one of this node, else the one of the other end.
    fn text(&self, mine: bool, peer: &[u8; CHALLENGE_SIZE]) -> Vec<u8> {
        let Party { resource, own, peer: other, dialled } = &self.party;
        let (prover, verifier) = if mine { (*own, *other) } else { (*other, *own) };
        let (of_dialler, of_acceptor) =
            if *dialled { (&self.own, peer) } else { (peer, &self.own) };
        let name = resource.as_bytes();
        let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let prover_dialled = u8::from(mine == *dialled);
        let mut text = Vec::with_capacity(LABEL.len() + 5 + name.len() + 2 * CHALLENGE_SIZE);
        text.extend_from_slice(LABEL);
        let algorithm = self.secrets.cram_hmac_alg as u8;
        text.extend_from_slice(&[algorithm, prover_dialled, prover, verifier, length]);
        text.extend_from_slice(name);
        text.extend_from_slice(of_dialler);
        text.extend_from_slice(of_acceptor);
        text
    }
}

#[cfg(test)]
mod tests;
