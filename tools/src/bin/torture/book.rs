//! What all threads share: the one book of what clients did and saw, how the clients are to behave,
//! counts, and the first violation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tandem::sim::{Book, Operation};

use crate::tally::{Kind, Tally};

/// Bytes of a sector, the unit of the book.
pub(crate) const SECTOR: usize = 512;

/// The first thing that was wrong.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// Where, if it is about contents.
    pub(crate) sector: Option<u64>,
    pub(crate) text: String,
}

/// How the clients are to behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They read and write.
    Run,
    /// They end what is under way, and wait.
    Rest,
    /// They go.
    Stop,
}

/// Counts for the report.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) operations: AtomicU64,
    /// Answers with an error.
    pub(crate) errors: AtomicU64,
    pub(crate) sessions: AtomicU64,
    pub(crate) resent: AtomicU64,
    pub(crate) resyncs: AtomicU64,
    pub(crate) split_brains: AtomicU64,
    pub(crate) promotions: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) replayed: AtomicU64,
}

impl Counts {
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// Two by the Unix sockets of the nodes, and two on a third host, over TCP.
pub(crate) const CLIENTS: usize = 4;
/// From this one on they are on the third host.
pub(crate) const FIRST_FAR: usize = 2;

/// Shared by all threads.
#[derive(Debug)]
pub(crate) struct World {
    book: Mutex<Book>,
    mode: Mutex<Mode>,
    /// How far the requests under way of each client look back; 0: there are none.
    pub(crate) oldest: [AtomicU64; CLIENTS],
    /// Each client has nothing under way.
    pub(crate) resting: [AtomicBool; CLIENTS],
    /// Each client is to vanish.
    pub(crate) vanish: [AtomicBool; CLIENTS],
    /// Writes under way: of which client, and where.
    under_way: Mutex<HashMap<u64, (usize, u64, u64)>>,
    /// Invalidated without the peer: its disk may have been the newest, and is given up.
    pub(crate) given_up: [AtomicBool; 2],
    /// No fault is about: nobody may be told an error.
    pub(crate) calm: AtomicBool,
    pub(crate) counts: Counts,
    pub(crate) tally: Tally,
    violation: Mutex<Option<Violation>>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            book: Mutex::new(Book::default()),
            mode: Mutex::new(Mode::Rest),
            oldest: Default::default(),
            resting: Default::default(),
            vanish: Default::default(),
            under_way: Mutex::default(),
            given_up: Default::default(),
            calm: AtomicBool::new(false),
            counts: Counts::default(),
            tally: Tally::default(),
            violation: Mutex::new(None),
        }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn mode(&self) -> Mode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// Something is wrong. The first one is kept.
    pub(crate) fn violate(&self, sector: Option<u64>, text: String) {
        let mut violation = self.violation.lock().unwrap_or_else(PoisonError::into_inner);
        violation.get_or_insert(Violation { sector, text });
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.violation.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A client sends a write: counts it if another one has one under way there.
    pub(crate) fn sends(&self, client: usize, op: &Operation) {
        let mut all = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |(of, start, count): &&(usize, u64, u64)| {
            *of != client && *start < op.start + op.count && op.start < *start + *count
        };
        let overlaps = all.values().filter(over).count() as u64;
        if overlaps > 0 {
            self.tally.add(Kind::Overlapped, 1, overlaps);
        }
        all.insert(op.step, (client, op.start, op.count));
    }

    /// It is under way no more.
    pub(crate) fn sent(&self, op: &Operation) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&op.step);
    }

    /// The oldest step that a request under way looks back to.
    pub(crate) fn open(&self) -> Option<u64> {
        let steps = self.oldest.iter().map(|one| one.load(Ordering::SeqCst));
        steps.filter(|step| *step > 0).min()
    }
}

/// The bytes of a sector with this value: the value and the place, again and again.
pub(crate) fn fill(bytes: &mut [u8], sector: u64, value: u64) {
    for pair in bytes.chunks_exact_mut(16) {
        let (of_value, of_sector) = pair.split_at_mut(8);
        of_value.copy_from_slice(&value.to_be_bytes());
        of_sector.copy_from_slice(&sector.to_be_bytes());
    }
}

/// The value of a sector.
///
/// # Errors
/// It is torn, or of another place: nobody has written that.
pub(crate) fn value_of(bytes: &[u8], sector: u64) -> Result<u64, String> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[..8]);
    let value = u64::from_be_bytes(value);
    let mut expected = [0; SECTOR];
    fill(&mut expected, sector, value);
    if bytes == expected {
        return Ok(value);
    }
    Err(format!("sector {sector} is torn or foreign: {:02x?}", &bytes[..32.min(bytes.len())]))
}
