//! What a snapshot does not say: since when the role and frozen I/O are what they are, and how often
//! a peer came back within the last hour.
//!
//! Invariants:
//! - Nothing grows: of a connection that flaps all day so many times are kept as are told apart.
//! - The clock is monotonic: one that is set changes no age.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::control::Past;
use crate::resource::{NodeId, Role, Status};

const HOUR: Duration = Duration::from_secs(3600);
/// Reconnects that are told apart; more are as bad.
const COUNTED_MAX: usize = 1000;

/// The past of one resource.
#[derive(Debug)]
pub(super) struct Memory(RefCell<Kept>);

#[derive(Debug)]
struct Kept {
    role: (Role, Instant),
    frozen: Option<Instant>,
    handshake: Option<Instant>,
    /// Sessions that were seen, and when those began that were not the first.
    sessions: BTreeMap<NodeId, (u64, VecDeque<Instant>)>,
}

impl Memory {
    pub(super) fn new() -> Self {
        let role = (Role::Secondary, Instant::now());
        Self(RefCell::new(Kept { role, frozen: None, handshake: None, sessions: BTreeMap::new() }))
    }

    /// Looks at a snapshot, and says what is known with it.
    pub(super) fn with(&self, status: &Status) -> Past {
        self.at(status, Instant::now())
    }

    fn at(&self, status: &Status, now: Instant) -> Past {
        let mut kept = self.0.borrow_mut();
        if kept.role.0 != status.role {
            kept.role = (status.role, now);
        }
        let frozen = status.suspended_user
            || status.suspended_fencing
            || status.suspended_no_space
            || status.suspended_gap;
        kept.frozen = frozen.then(|| kept.frozen.unwrap_or(now));
        kept.handshake = status.suspended_handshake.then(|| kept.handshake.unwrap_or(now));
        for one in &status.connections {
            let (seen, times) = kept.sessions.entry(one.peer_node_id).or_default();
            let first = u64::from(*seen == 0);
            let more = one.sessions.saturating_sub(*seen).saturating_sub(first);
            *seen = one.sessions;
            for _ in 0..more.min(COUNTED_MAX as u64) {
                times.push_back(now);
            }
            let old = |at: &Instant| now.saturating_duration_since(*at) >= HOUR;
            while times.len() > COUNTED_MAX || times.front().is_some_and(old) {
                times.pop_front();
            }
        }
        let ms = |at: Instant| {
            let age = now.saturating_duration_since(at).as_millis();
            u64::try_from(age).unwrap_or(u64::MAX)
        };
        Past {
            role_ms: ms(kept.role.1),
            frozen_ms: kept.frozen.map(ms),
            handshake_ms: kept.handshake.map(ms),
            reconnects_1h: kept
                .sessions
                .iter()
                .map(|(id, (_, at))| (*id, at.len() as u64))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures;

    #[test]
    fn reconnects_of_the_last_hour_are_counted_and_the_first_session_is_none() {
        let memory = Memory::new();
        let start = Instant::now();
        let mut status = fixtures::healthy().status;
        let mut count = |sessions, minutes: u64| {
            status.connections[0].sessions = sessions;
            let past = memory.at(&status, start + Duration::from_secs(60 * minutes));
            past.reconnects_1h[0].1
        };
        assert_eq!(count(1, 0), 0, "it connected");
        assert_eq!(count(2, 1), 1);
        assert_eq!(count(5, 30), 4);
        assert_eq!(count(5, 60), 4);
        assert_eq!(count(5, 61), 3, "the first was an hour ago");
        assert_eq!(count(5, 200), 0);
        assert_eq!(count(9_999_999, 201), 1000, "no more are told apart");
    }

    #[test]
    fn ages_begin_with_the_change() {
        let memory = Memory::new();
        let start = Instant::now() + Duration::from_secs(1);
        let mut status = fixtures::healthy().status;
        memory.at(&status, start);
        let past = memory.at(&status, start + Duration::from_secs(7));
        assert_eq!((past.role_ms, past.frozen_ms), (7000, None));
        status.suspended_user = true;
        memory.at(&status, start + Duration::from_secs(8));
        let past = memory.at(&status, start + Duration::from_secs(10));
        assert_eq!((past.role_ms, past.frozen_ms), (10_000, Some(2000)));
        status.suspended_user = false;
        assert_eq!(memory.at(&status, start + Duration::from_secs(11)).frozen_ms, None);
        status.suspended_handshake = true;
        memory.at(&status, start + Duration::from_secs(12));
        let past = memory.at(&status, start + Duration::from_secs(19));
        assert_eq!((past.frozen_ms, past.handshake_ms), (None, Some(7000)));
    }
}
