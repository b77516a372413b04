//! When the handler `promotion-score` runs: what makes a node fit to be promoted has changed.
//!
//! Invariants:
//! - One of a resource runs at a time. What changes meanwhile is told once, by the next one.
//! - It tells somebody, and decides nothing: the state machine knows nothing of it.

use crate::resource::{ConnectionState, DiskState, Handler, HandlerCall, Options, Role, Status};

/// What a cluster's score of this node can depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fitness {
    role: Role,
    is_frozen: bool,
    disks: Vec<DiskState>,
    /// Whether each peer is connected, and its disks. The steps of a connection are none of its.
    peers: Vec<(bool, Vec<DiskState>)>,
}

impl Fitness {
    fn of(status: &Status) -> Self {
        let peers = status.connections.iter().map(|connection| {
            let disks = connection.peer_devices.iter().map(|device| device.peer_disk_state);
            (connection.connection_state == ConnectionState::Connected, disks.collect())
        });
        Self {
            role: status.role,
            is_frozen: status.suspended_fencing,
            disks: status.devices.iter().map(|device| device.disk_state).collect(),
            peers: peers.collect(),
        }
    }
}

/// Follows the fitness of one resource.
#[derive(Debug)]
pub(super) struct Follower {
    line: Option<String>,
    limit_ms: u64,
    latest: Fitness,
    up_to_date_nodes: u32,
    /// As it was when the last one started.
    told: Fitness,
    /// The one that runs.
    running: Option<u64>,
    last: u64,
}

impl Follower {
    /// Of a resource that has just begun, of which nobody was told.
    pub(super) fn new(options: &Options, status: &Status) -> Self {
        let fitness = Fitness::of(status);
        let mut own = Self {
            line: None,
            limit_ms: 0,
            latest: fitness.clone(),
            up_to_date_nodes: 0,
            told: fitness,
            running: None,
            // The state machine counts its own from below.
            last: u64::MAX,
        };
        own.set_options(options);
        own
    }

    pub(super) fn set_options(&mut self, options: &Options) {
        self.line = options.handlers.get(&Handler::PromotionScore).cloned();
        self.limit_ms = options.handler_timeout_ms;
    }

    /// The state is this one now.
    pub(super) fn look(&mut self, status: &Status) {
        self.latest = Fitness::of(status);
        self.up_to_date_nodes = status.up_to_date_nodes();
    }

    /// The handler of that number has ended; false if it is none of these.
    pub(super) fn ended(&mut self, number: u64) -> bool {
        let own = self.running == Some(number);
        if own {
            self.running = None;
        }
        own
    }

    #[cfg(test)]
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The one that is to be started now. A resource without a line is told nothing, and what was is not
    /// told when it gets one.
    pub(super) fn next(&mut self) -> Option<(u64, HandlerCall)> {
        if self.running.is_some() || self.told == self.latest {
            return None;
        }
        self.told = self.latest.clone();
        let line = self.line.clone()?;
        self.last -= 1;
        self.running = Some(self.last);
        let call = HandlerCall {
            handler: Handler::PromotionScore,
            line,
            volume: None,
            peer: None,
            connection_state: None,
            up_to_date_nodes: self.up_to_date_nodes,
            limit_ms: self.limit_ms,
        };
        Some((self.last, call))
    }
}
