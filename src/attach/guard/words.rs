//! What a guard is told, and what it says.

use std::time::Duration;

use nbd::client::Description;

/// Why an attempt at a server came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialError {
    /// It answers, and lets nobody in: its sentence.
    Refused(String),
    /// It does not answer, or not as it should.
    Failed(String),
}

impl DialError {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Refused(text) | Self::Failed(text) => text,
        }
    }
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// The kernel says that a connection of the device has ended.
    LinkDead,
    /// The connection in this place has hung up.
    Closed(usize),
    /// An attempt is over. Its connections are kept by the shell, under the server's number.
    Dialled {
        /// The server's number.
        server: usize,
        /// What it said of the export.
        result: Result<Description, DialError>,
    },
    /// A server was asked, while all is well, what its export is like.
    Described {
        /// The server's number.
        server: usize,
        /// What it said.
        export: Description,
    },
    /// The kernel has answered the last `Resize`.
    Resized(Result<(), String>),
    /// The kernel has answered the last hand-over: so many, the first ones, it took. It throws others away,
    /// for it has one there that lives.
    Handed(Result<usize, String>),
    /// The kernel has answered the last look: so many connections that lead nowhere it took.
    Looked(Result<usize, String>),
    /// Events of the kernel were lost.
    Missed,
    /// The device is not, or no longer, attached under our identifier.
    Gone(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask a server for so many connections. Answered by `Dialled`.
    Dial {
        /// The server's number.
        server: usize,
        /// Connections.
        connections: usize,
    },
    /// Close the connections of an attempt: they are not needed.
    Drop {
        /// The server's number.
        server: usize,
    },
    /// Shut down the connections that live. Each is answered by `Closed`.
    Close,
    /// Give the kernel the connections of an attempt, one for each place. Answered by `Handed`.
    HandOver {
        /// The server's number.
        server: usize,
        /// The places of the connections that they replace.
        places: Vec<usize>,
    },
    /// Give the kernel so many connections that lead nowhere, and end them at once: it takes one for each
    /// that is dead. Answered by `Looked`.
    Look(usize),
    /// Tell the kernel a new size, bytes. Answered by `Resized`.
    Resize(u64),
    /// A line for the log.
    Log(String),
    /// Let go of the device: its I/O fails from now on. Nothing is handed over any more.
    Fail,
    /// `progress` is another one.
    Changed,
    /// The device is no longer ours.
    End,
}

/// How a device is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The server that the kernel got last: its number. `None`: it is none of ours.
    pub server: Option<usize>,
    /// Since when there is no connection.
    pub lost_at: Option<Duration>,
    /// Bytes.
    pub size: u64,
    /// What each server said last that could not be used: number and sentence.
    pub refusals: Vec<(usize, String)>,
    /// Why the device was let go of.
    pub failed: Option<String>,
    /// The runs of systems whose caches held all that was answered when it was asked last.
    pub keepers: Vec<Keeper>,
}

/// What a server calls the run of a system.
pub type Keeper = [u8; 16];
