//! Handlers: when each runs, and what follows from how it ended.
//!
//! Invariants:
//! - Every handler that was started is in `handlers` until its end was told, whatever has become of
//!   what it was for.
//! - A resync that a handler has to allow first begins after its answer 0 only (a source also after
//!   3, as in DRBD); no block is copied and the target is not Inconsistent before.
//! - What only tells somebody holds nothing up.

use crate::resource::peer::connection::{Side, Stage};
use crate::resource::peer::generation::Strategy;
use crate::resource::peer::split_brain::{Because, Resolution};
use crate::resource::peer::verdict::Judgement;
use crate::resource::{
    Action, Handler, HandlerCall, HandlerOutcome, LogLevel, Reason, Resource, Role, RrConflict,
    SocketId, VolumeNumber,
};

/// What a handler that runs is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Called {
    /// fence-peer, for the peer of this connection.
    Fence { c: usize },
    /// unfence-peer.
    Unfence { c: usize },
    /// before-resync-target or before-resync-source, in this session.
    BeforeResync { c: usize, socket: SocketId, volume: VolumeNumber, handler: Handler },
    /// Somebody is told.
    Told { handler: Handler },
}

impl Resource {
    /// It has a line in the configuration.
    pub(crate) fn has_handler(&self, handler: Handler) -> bool {
        self.config.options.handlers.contains_key(&handler)
    }

    /// Starts a handler that has a line, for `limit_ms` at most; its number.
    pub(crate) fn call_handler(
        &mut self,
        handler: Handler,
        volume: Option<VolumeNumber>,
        c: Option<usize>,
        called: Called,
        limit_ms: u64,
    ) -> Option<u64> {
        let line = self.config.options.handlers.get(&handler)?.clone();
        let number = self.next_handler;
        self.next_handler += 1;
        self.handlers.insert(number, called);
        let call = Box::new(HandlerCall {
            handler,
            line,
            volume,
            peer: c.map(|c| self.connections[c].peer),
            connection_state: c.map(|c| self.connections[c].state),
            up_to_date_nodes: self.status(self.now).up_to_date_nodes(),
            limit_ms,
        });
        let prefix = match (volume, c) {
            (Some(volume), Some(c)) => self.of_both(volume, c),
            (Some(volume), None) => self.of_volume(volume),
            (None, Some(c)) => self.of_peer(c),
            (None, None) => format!("{}: ", self.config.name),
        };
        self.log(LogLevel::Info, format!("{prefix}helper command: {handler}"));
        self.emit(Action::RunHandler { number, call });
        Some(number)
    }

    /// Runs a handler that only tells somebody, if it has a line.
    pub(crate) fn tell(
        &mut self,
        handler: Handler,
        volume: Option<VolumeNumber>,
        c: Option<usize>,
    ) {
        let limit_ms = self.config.options.handler_timeout_ms;
        self.call_handler(handler, volume, c, Called::Told { handler }, limit_ms);
    }

    /// A handler has ended.
    pub(crate) fn handler_done(&mut self, number: u64, outcome: HandlerOutcome) {
        match self.handlers.remove(&number) {
            Some(Called::Fence { c }) => self.fence_answered(c, number, outcome),
            Some(Called::Unfence { c }) => self.unfence_answered(c, outcome),
            Some(Called::BeforeResync { c, socket, volume, handler }) => {
                self.before_resync_answered(c, socket, volume, (handler, outcome));
            }
            Some(Called::Told { handler }) => {
                let level = match outcome {
                    HandlerOutcome::Exited(0) => LogLevel::Info,
                    _ => LogLevel::Warning,
                };
                let name = &self.config.name;
                self.log(level, format!("{name}: {handler} helper {outcome}"));
            }
            None => {}
        }
    }

    /// A resync is about to begin: whether a handler has to allow it first. If so, it is asked.
    pub(crate) fn asks_before_resync(&mut self, c: usize, volume: VolumeNumber) -> bool {
        let handler = match self.peer_device(c, volume).opening.side {
            Side::Target => Handler::BeforeResyncTarget,
            Side::Source => Handler::BeforeResyncSource,
            Side::NoSync => return false,
        };
        if !self.has_handler(handler) {
            return false;
        }
        self.peer_device(c, volume).opening.asks = true;
        let earlier = |called: &Called| matches!(called, Called::BeforeResync { c: of, volume: v, .. } if (*of, *v) == (c, volume));
        if self.handlers.values().any(earlier) {
            // Of a session that has ended; it is waited for.
            return true;
        }
        let Some(socket) = self.connections[c].active else { return true };
        // The peer waits for as long as a handshake may take, and clients with it.
        let patience = self.patience_ms() / 4 * 3;
        let limit_ms = self.config.options.handler_timeout_ms.min(patience);
        let called = Called::BeforeResync { c, socket, volume, handler };
        self.call_handler(handler, Some(volume), Some(c), called, limit_ms);
        true
    }

    fn before_resync_answered(
        &mut self,
        c: usize,
        socket: SocketId,
        volume: VolumeNumber,
        (handler, outcome): (Handler, HandlerOutcome),
    ) {
        let opening = self.connections[c].stage == Stage::Opening;
        let asks = opening && self.peer_device(c, volume).opening.asks;
        if !self.is_current(c, socket) {
            if asks {
                self.asks_before_resync(c, volume);
            }
            return;
        }
        if !asks {
            return;
        }
        let prefix = self.of_both(volume, c);
        let allowed = match outcome {
            HandlerOutcome::Exited(0) => true,
            HandlerOutcome::Exited(3) => handler == Handler::BeforeResyncSource,
            _ => false,
        };
        if allowed {
            self.log(LogLevel::Info, format!("{prefix}{handler} helper {outcome}"));
            self.peer_device(c, volume).opening.asks = false;
            return self.begin_resync(c, volume);
        }
        let text = format!(
            "{prefix}{handler} helper {outcome}, dropping connection: nothing was copied; next: see \
             what it has logged, then tandemadm connect {}",
            self.config.name
        );
        self.log(LogLevel::Error, text);
        self.connections[c].detail = format!("the handler {handler} {outcome}");
        self.end_connection(c, Reason::ResyncRefused);
    }

    /// What a handshake has found of a volume, where somebody is to be told.
    pub(crate) fn tell_of_verdict(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        resolution: Resolution,
        judgement: &Judgement,
    ) {
        if matches!(resolution.verdict.strategy, Strategy::SplitBrain { .. }) {
            self.tell(Handler::InitialSplitBrain, Some(volume), Some(c));
        }
        let lost = self.role == Role::Primary
            && matches!(judgement, Judgement::Refuse(_))
            && resolution.because == Because::TargetIsPrimary;
        if lost && self.config.options.rr_conflict == RrConflict::CallPriLost {
            self.tell(Handler::PriLost, Some(volume), Some(c));
        }
    }

    /// A Primary has just lost the last good copy that it could reach.
    pub(crate) fn check_degraded(&mut self, volume: VolumeNumber) {
        let degraded = self.role == Role::Primary && !self.data_is_reachable(volume);
        // The session stands, and it is being found out again whose disk is good.
        if degraded && self.peers().any(|c| self.is_renegotiating(c)) {
            return;
        }
        let was = std::mem::replace(&mut self.device(volume).degraded, degraded);
        if degraded && !was {
            self.tell(Handler::PriOnInconDegr, Some(volume), None);
        }
    }
}
