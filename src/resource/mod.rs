//! A resource as a pure state machine: events in, actions out.
//!
//! No file system, network, clock, thread, random source or `unsafe` in this room. After each
//! [`Resource::handle`] the shell drains [`Resource::next_action`] to the end before the next event.

mod action;
mod command;
mod event;
pub mod generation;
mod ids;
mod options;
pub mod split_brain;
mod state;
mod status;

pub use action::*;
pub use command::*;
pub use event::*;
pub use ids::*;
pub use options::*;
pub use state::*;
pub use status::*;

/// A resource on one node.
#[derive(Debug)]
pub struct Resource {
    config: ResourceConfig,
}

impl Resource {
    /// A resource with nothing attached and no connection. `seed` feeds the identifiers (from the
    /// system's random source), `wall_clock` is the wall clock in seconds at `now` (display only).
    #[must_use]
    pub fn new(config: ResourceConfig, seed: u64, now: Time, wall_clock: u64) -> Self {
        let _ = (seed, now, wall_clock);
        Self { config }
    }

    /// One event. Drain `next_action` afterwards.
    pub fn handle(&mut self, now: Time, event: Event) {
        let _ = (now, event, &self.config);
    }

    /// The next action of the last event, in order.
    pub fn next_action(&mut self) -> Option<Action> {
        None
    }

    /// When `Event::Timeout` is due, if nothing else happens before.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        None
    }

    /// Grows whenever something that `status` shows (other than counters) has changed.
    #[must_use]
    pub fn state_version(&self) -> u64 {
        0
    }

    /// A snapshot.
    #[must_use]
    pub fn status(&self, now: Time) -> Status {
        let _ = now;
        Status {
            name: self.config.name.clone(),
            node_id: self.config.node_id,
            node_name: self.config.node_name.clone(),
            role: Role::Secondary,
            suspended_no_space: false,
            suspended_gap: false,
            suspended_handshake: false,
            failed: None,
            devices: Vec::new(),
            connections: Vec::new(),
        }
    }

    /// Whether a read or write of the volume may be served now, and its size: what NBD negotiation
    /// asks. `Err`: the sentence for the client (who is Primary, or why not).
    ///
    /// # Errors
    /// The volume is unknown, this node is not Primary, or the size is not known yet.
    pub fn export(&self, volume: VolumeNumber) -> Result<u64, String> {
        Err(format!("volume {volume} is not served"))
    }

    /// Whether the own disk alone answers reads of the volume (BLOCK_STATUS may look at its holes).
    #[must_use]
    pub fn reads_locally(&self, volume: VolumeNumber) -> bool {
        let _ = volume;
        false
    }
}
