//! `connect --tentative`: the two handshakes are compared, the verdict is told, nothing begins.
//!
//! Invariants:
//! - The order is answered exactly once: with the verdict; when the connection is ended before; when
//!   somebody else answers at the peer's address; or when no peer was met in [`PATIENCE_MS`].
//! - The node that asks judges, and ends StandAlone. The other one does not judge, and goes on
//!   dialling with the reason that it had, unless it has asked as well.
//! - No session opens, no disk is written, and nobody is refused.

use crate::resource::orders::order::refuse;
use crate::resource::peer::handshake::refusal;
use crate::resource::peer::verdict::Judgement;
use crate::resource::{ConnectionState, HandshakeStatus, LogLevel, Reason, Resource, Time};
use crate::wire::{Packet, Refused};

/// How long a peer is waited for, ms.
const PATIENCE_MS: u64 = 30_000;
/// The rule in the packet that tells the other node the verdict.
const RULE: &str = "tentative";

/// The order that waits for a verdict.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tentative {
    pub(crate) id: u64,
    pub(crate) since: Time,
}

/// The reason tells that somebody was met who is not the configured peer.
fn is_another(reason: Reason) -> bool {
    use Reason::{BadSecret, BadVersion, WrongNode, WrongResource};
    matches!(reason, WrongNode | WrongResource | BadVersion | BadSecret)
}

impl Resource {
    /// The peer asks: it judges, and `Refused` follows.
    pub(crate) fn is_tried_by_peer(&self, c: usize) -> bool {
        let connection = &self.connections[c];
        connection.tentative.is_none()
            && connection.peer_handshake.as_ref().is_some_and(|peer| peer.tentative)
    }

    /// What a volume's verdict would begin, for people.
    pub(crate) fn would(&self, c: usize, found: &HandshakeStatus, judgement: &Judgement) -> String {
        let (node, peer) = (&self.config.node_name, &self.connections[c].name);
        // The bits of both sides are united.
        let some =
            format!("at most {} KiB", (found.own.out_of_sync + found.peer.out_of_sync) / 1024);
        let whole = |size: u64| format!("all of it, {} KiB,", size / 1024);
        let what = match judgement {
            Judgement::Source { full: true } => {
                format!("SyncSource: {} of {peer} is overwritten", whole(found.own.data_size))
            }
            Judgement::Source { full: false } => {
                format!("SyncSource: {some} of {peer} is overwritten")
            }
            Judgement::Target { full: true } => {
                format!("SyncTarget: {} of {node} is overwritten", whole(found.peer.data_size))
            }
            Judgement::Target { full: false } => {
                format!("SyncTarget: {some} of {node} is overwritten")
            }
            _ => "Established: no resync".to_owned(),
        };
        format!("{}would become {what} (rule {})", self.of_volume(found.volume), found.rule)
    }

    /// The verdict is known: it is told here and to the peer, and that is all.
    pub(crate) fn tried(&mut self, c: usize, text: String) {
        let Some(Tentative { id, .. }) = self.connections[c].tentative.take() else { return };
        // A line a volume for the person; the peer and the log get one line.
        let one_line = text.replace('\n', "; ");
        let told: String = one_line.chars().take(255).collect();
        let packet = refusal(Reason::StoppedByAdmin, RULE, told);
        self.send(c, Packet::Refused(Box::new(packet)), None);
        let line = format!("{}tentative connect: {one_line}", self.of_peer(c));
        self.log(LogLevel::Info, line);
        self.connections[c].detail = format!("tentative connect: {one_line}");
        self.connections[c].discard_my_data = false;
        self.end_connection(c, Reason::StoppedByAdmin);
        self.reply(id, Ok(text));
    }

    /// The peer has tried, and this is what it found; `false`: it has refused for good.
    pub(crate) fn was_tried(&mut self, c: usize, refused: &Refused) -> bool {
        if refused.rule != RULE || !self.is_tried_by_peer(c) {
            return false;
        }
        let line = format!(
            "{}the peer has tried to connect (--tentative): {}",
            self.of_peer(c),
            refused.text
        );
        self.log(LogLevel::Info, line);
        let (reason, detail) = (self.connections[c].reason, self.connections[c].detail.clone());
        self.drop_connection(c, ConnectionState::Unconnected, reason, detail);
        true
    }

    /// The connection has ended before there was a verdict.
    pub(crate) fn tentative_ended(&mut self, c: usize) {
        if let Some(Tentative { id, .. }) = self.connections[c].tentative.take() {
            let hint = "The connection was ended before the disks were compared; try again.";
            self.reply(id, Err(refuse(-21, hint)));
        }
    }

    /// Nobody was met in time.
    pub(crate) fn check_tentative(&mut self, c: usize) {
        if self.tentative_timeout(c).is_none_or(|at| at > self.now) {
            return;
        }
        let connection = &self.connections[c];
        if is_another(connection.reason) {
            let found = connection.detail.clone();
            return self.tentative_met(c, &found);
        }
        let Some(Tentative { id, .. }) = self.connections[c].tentative.take() else { return };
        let (name, peer) = (&self.config.name, &self.connections[c].name);
        let hint = format!(
            "{peer} was not met in {} s. It must be Connecting: `tandemadm connect {name}` on \
             {peer}, then try again.",
            PATIENCE_MS / 1000
        );
        self.connections[c].detail = format!("tentative connect: {peer} was not met");
        self.connections[c].discard_my_data = false;
        self.end_connection(c, Reason::StoppedByAdmin);
        self.reply(id, Err(refuse(-23, &hint)));
    }

    /// Who answers is not the peer that is configured, and says so in `found`: no verdict follows.
    pub(crate) fn tentative_met(&mut self, c: usize, found: &str) {
        let Some(Tentative { id, .. }) = self.connections[c].tentative.take() else { return };
        let peer = &self.connections[c].name;
        let hint = format!(
            "{peer} answers, and no disk was compared: {found}. Both sides must agree on that: the \
             configuration of both nodes, and the version of tandemd. Then try again."
        );
        self.connections[c].detail = format!("tentative connect: {found}");
        self.connections[c].discard_my_data = false;
        self.end_connection(c, Reason::StoppedByAdmin);
        self.reply(id, Err(refuse(-21, &hint)));
    }

    pub(crate) fn tentative_timeout(&self, c: usize) -> Option<Time> {
        self.connections[c].tentative.map(|one| one.since.after_ms(PATIENCE_MS))
    }
}
