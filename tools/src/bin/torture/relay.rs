//! The cable: frames go from one tap to the other, late, out of order, or not at all.
//!
//! Invariants:
//! - What happens to a frame is drawn from the seed and the weather of the moment.
//! - At most [`FRAMES_MAX`] frames wait; more are dropped, as a switch does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tandem::sim::Prng;

/// Frames that wait at once, of both directions.
const FRAMES_MAX: usize = 4096;
/// The longest frame.
const FRAME: usize = 2048;

/// What the cable does to frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cable {
    /// Nothing passes.
    pub(crate) cut: bool,
    /// Each frame takes so long, ms.
    pub(crate) delay_ms: u64,
    /// And up to so much longer, ms; their order stays.
    pub(crate) jitter_ms: u64,
    /// So many of 100 are overtaken by later ones.
    pub(crate) reorder: u64,
    /// Longer frames vanish without a word; 0: none.
    pub(crate) hole: usize,
}

/// A frame under way: when it arrives, its number, where it goes, its bytes.
type Frame = (Instant, u64, usize, Vec<u8>);

struct Waiting {
    frames: BinaryHeap<Reverse<Frame>>,
    cable: Cable,
    chance: Prng,
    /// When the last frame of a direction arrives.
    last: [Instant; 2],
    number: u64,
    /// The highest number that was passed on in a direction.
    passed: [u64; 2],
    /// Frames since the cable is as it is that were lost, delayed or overtaken.
    touched: u64,
}

/// The two ends, and what is between.
#[derive(Clone)]
pub(crate) struct Relay {
    waiting: Arc<(Mutex<Waiting>, Condvar)>,
}

impl Relay {
    /// Begins to pass frames between two taps.
    ///
    /// # Errors
    /// A descriptor cannot be doubled.
    pub(crate) fn new(taps: [File; 2], seed: u64) -> std::io::Result<Self> {
        let now = Instant::now();
        let waiting = Waiting {
            frames: BinaryHeap::new(),
            cable: Cable::default(),
            chance: Prng::new(seed, 11),
            last: [now; 2],
            number: 0,
            passed: [0; 2],
            touched: 0,
        };
        let relay = Self { waiting: Arc::new((Mutex::new(waiting), Condvar::new())) };
        let outlets = [taps[1].try_clone()?, taps[0].try_clone()?];
        for (direction, mut from) in taps.into_iter().enumerate() {
            let relay = relay.clone();
            std::thread::spawn(move || {
                let mut frame = [0; FRAME];
                loop {
                    match from.read(&mut frame) {
                        Ok(length) => relay.arrived(direction, &frame[..length]),
                        // The interface is not up yet.
                        Err(_) => std::thread::sleep(Duration::from_millis(20)),
                    }
                }
            });
        }
        let passing = relay.clone();
        std::thread::spawn(move || passing.deliver(&outlets));
        Ok(relay)
    }

    /// Another weather; how many frames the one before has touched.
    pub(crate) fn set(&self, cable: Cable) -> u64 {
        let mut waiting = self.lock();
        waiting.cable = cable;
        std::mem::take(&mut waiting.touched)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(&self, direction: usize, frame: &[u8]) {
        let mut waiting = self.lock();
        let Waiting { cable, chance, last, .. } = &mut *waiting;
        let lost = cable.cut || cable.hole > 0 && frame.len() > cable.hole;
        let ms = cable.delay_ms + chance.below(cable.jitter_ms + 1);
        let mut due = Instant::now() + Duration::from_millis(ms);
        if chance.percent(cable.reorder) {
            // Later ones overtake it.
            due += Duration::from_millis(chance.range(1, 20));
        } else {
            due = due.max(last[direction]);
            last[direction] = due;
        }
        waiting.touched += u64::from(lost || ms > 0);
        if lost || waiting.frames.len() >= FRAMES_MAX {
            return;
        }
        waiting.number += 1;
        let number = waiting.number;
        waiting.frames.push(Reverse((due, number, direction, frame.to_vec())));
        drop(waiting);
        self.waiting.1.notify_one();
    }

    fn deliver(&self, outlets: &[File; 2]) {
        let mut waiting = self.lock();
        loop {
            let now = Instant::now();
            let wait = match waiting.frames.peek() {
                None => Duration::from_secs(1),
                Some(Reverse((due, ..))) if *due > now => *due - now,
                Some(_) => {
                    let Some(Reverse((_, number, direction, frame))) = waiting.frames.pop() else {
                        continue;
                    };
                    let lost = waiting.cable.cut;
                    let overtaken = number < waiting.passed[direction];
                    waiting.passed[direction] = number.max(waiting.passed[direction]);
                    waiting.touched += u64::from(lost || overtaken);
                    drop(waiting);
                    if !lost {
                        // An interface that is down takes nothing: as with a real one.
                        let _ = (&outlets[direction]).write_all(&frame);
                    }
                    waiting = self.lock();
                    continue;
                }
            };
            let slept = self.waiting.1.wait_timeout(waiting, wait);
            waiting = slept.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
