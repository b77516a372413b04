//! A connection that was ended for a while (`disconnect --for`) comes back by itself.
//!
//! Invariants:
//! - Only what an order has ended comes back: a refusal or a split brain waits for a person.
//! - `connect` and a later `disconnect` make the time void; `connect --tentative` does not, nor does
//!   a `down` that is refused. While a `down` runs nobody is dialled.

use crate::resource::{AdminResult, Command, ConnectionState, LogLevel, Reason, Resource, Time};

impl Resource {
    /// The connection ends by order, for so long; `None`: until `connect`.
    pub(crate) fn comes_back(&mut self, c: usize, for_ms: Option<u64>) {
        let at = for_ms.map(|ms| self.now.after_ms(ms));
        let connection = &mut self.connections[c];
        if connection.back_at != at {
            connection.back_at = at;
            self.changed();
        }
    }

    /// `disconnect` of a connection that is StandAlone already.
    pub(crate) fn disconnect_again(&mut self, c: usize, for_ms: Option<u64>) -> AdminResult {
        let reason = self.connections[c].reason;
        if for_ms.is_some() && reason != Reason::StoppedByAdmin {
            let hint = format!(
                "The connection is StandAlone ({reason}): it does not come back by itself."
            );
            return Err(crate::resource::orders::order::refuse(162, &hint));
        }
        if reason == Reason::NeverConnected {
            // By order from now on, and not for want of one.
            self.connections[c].reason = Reason::StoppedByAdmin;
            self.changed();
        }
        self.comes_back(c, for_ms);
        Ok(String::new())
    }

    /// Dials again when the time is over.
    pub(crate) fn check_come_back(&mut self, c: usize) {
        let connection = &self.connections[c];
        let due = connection.back_at.is_some_and(|at| at <= self.now);
        if !due || connection.state != ConnectionState::StandAlone || self.is_going_down() {
            return;
        }
        let by_order = connection.reason == Reason::StoppedByAdmin;
        self.comes_back(c, None);
        if by_order {
            let text = format!("{}the time of `disconnect --for` is over", self.of_peer(c));
            self.log(LogLevel::Info, text);
            self.dials_by_order(c);
        }
    }

    /// A connection that is StandAlone is dialled. Until the first attempt is answered the reason is the last one;
    /// a refusal is no state of what is only being dialled.
    pub(crate) fn dials_by_order(&mut self, c: usize) {
        let connection = &self.connections[c];
        let reason = match connection.reason {
            _ if connection.sessions == 0 => Reason::NeverConnected,
            reason if reason.is_refusal() => Reason::Lost,
            reason => reason,
        };
        self.set_connection(c, ConnectionState::Unconnected, reason);
        self.start_dialling(c);
    }

    fn is_going_down(&self) -> bool {
        self.running.as_ref().is_some_and(|order| matches!(order.command, Command::Down { .. }))
    }

    /// When a connection comes back.
    pub(crate) fn come_back_timeout(&self) -> Option<Time> {
        if self.is_going_down() {
            return None;
        }
        let ended = self.connections.iter().filter(|c| c.state == ConnectionState::StandAlone);
        ended.filter_map(|c| c.back_at).min()
    }
}
