//! Promotion for a client, and the demotion when the last one has gone (`auto-promote`).
//!
//! Invariants:
//! - A node that was promoted by order is demoted by order only.
//! - A demotion by itself is that of `secondary`: it drains, flushes both disks and is durable.
//! - A client that was told that it may enter is expected for a while: no other's leaving demotes
//!   the node under it.

use crate::resource::orders::order::{OWN_ORDER, Step};
use crate::resource::{Command, Gap, LogLevel, Resource, Role, Time};

/// How long a client that may enter is expected, ms.
const EXPECTED_MS: u64 = 5_000;
/// After a demotion that did not end: how long until the next one, ms.
const AGAIN_MS: u64 = 30_000;

/// This node was promoted for a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct AutoPromoted {
    /// Clients that may enter and have not.
    expected: u32,
    /// No demotion before.
    not_before: Option<Time>,
}

impl Resource {
    /// A client was told that it may enter; `promoted`: this node was promoted for it.
    pub(crate) fn expect_client(&mut self, promoted: bool) {
        if promoted {
            self.auto_promoted = Some(AutoPromoted::default());
        }
        let until = self.now.after_ms(EXPECTED_MS);
        if let Some(auto) = self.auto_promoted.as_mut() {
            auto.expected += 1;
            auto.not_before = Some(until);
        }
    }

    /// A client has entered.
    pub(crate) fn client_entered(&mut self) {
        if let Some(auto) = self.auto_promoted.as_mut() {
            auto.expected = auto.expected.saturating_sub(1);
            if auto.expected == 0 {
                auto.not_before = None;
            }
        }
    }

    /// Demotes this node where its last client has gone.
    pub(crate) fn pump_auto_demotion(&mut self) {
        let now = self.now;
        let Some(auto) = self.auto_promoted.as_mut() else { return };
        if auto.not_before.is_some_and(|at| at <= now) {
            *auto = AutoPromoted::default();
        }
        let waits = auto.not_before.is_some()
            || !self.config.options.auto_promote
            || self.role != Role::Primary
            || !self.sessions.is_empty()
            || !self.held.is_empty()
            || self.running.is_some()
            || !self.orders.is_empty()
            || self.gap == Gap::Asking
            || self.in_handshake();
        if waits {
            return;
        }
        let text = format!("{}: the last client has gone (auto-promote)", self.config.name);
        self.log(LogLevel::Info, text);
        self.draining = true;
        self.run(OWN_ORDER, Command::Secondary { force: false, wait_ms: 0 }, Step::Drain);
        self.pump_orders();
    }

    /// The demotion by itself was refused: a disk or the peer does not answer.
    pub(crate) fn auto_demotion_refused(&mut self, hint: &str) {
        let text = format!("{}: not demoted (auto-promote): {hint}", self.config.name);
        self.log(LogLevel::Warning, text);
        let again = self.now.after_ms(AGAIN_MS);
        if let Some(auto) = self.auto_promoted.as_mut() {
            auto.not_before = Some(again);
        }
    }

    pub(crate) fn auto_timeout(&self) -> Option<Time> {
        self.auto_promoted.as_ref()?.not_before
    }
}
