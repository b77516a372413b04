//! A receive or a send of a client that is under way: it is asked how far it is, and a client that is
//! only slow is not ended.

use crate::io::context::{Context, Purpose};
use crate::io::ring::OperationId;
use crate::resource::Time;

/// How often a transfer that is under way is asked how far it is, in [`Limits::stall_ms`].
const LOOKS: u64 = 10;

/// A receive or a send that is under way.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) operation: OperationId,
    /// A receive: straight into the buffer of a piece, and for the whole of it.
    pub(super) direct: bool,
    /// When to ask how far it is: cancelled, it says so, and what is left is started again.
    pub(super) look_at: Time,
    pub(super) cancelled: bool,
}

impl UnderWay {
    pub(super) fn new(operation: OperationId, direct: bool, io: &Context) -> Self {
        let look_at = io.now.after_ms(io.limits.stall_ms / LOOKS);
        Self { operation, direct, look_at, cancelled: false }
    }

    /// Cancels it if it is time to ask how far it is.
    pub(super) fn look(&mut self, io: &mut Context) {
        if self.look_at <= io.now && !self.cancelled {
            self.cancelled = true;
            io.ring.cancel(self.operation, Purpose::Cancel);
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        Some(self.look_at).filter(|_| !self.cancelled)
    }
}
