//! Writes that go on beside a test, and are held to account when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nbd::client::Client;

use crate::ledger::{Burst, Ledger};
use crate::wait::until;

/// Writes between two looks at whether the load shall end.
const STEP: u64 = 64;

/// A client that writes until it is told to stop. No write of it may fail.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    writer: Option<JoinHandle<(Ledger, Client)>>,
}

impl Load {
    pub(crate) fn start(mut client: Client, mut ledger: Ledger) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let writer = std::thread::spawn({
            let (stop, answered) = (stop.clone(), answered.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    assert!(ledger.write(&mut client, &Burst::Count(STEP)), "a lost connection");
                    answered.fetch_add(STEP, Ordering::Relaxed);
                }
                (ledger, client)
            }
        });
        Self { stop, answered, writer: Some(writer) }
    }

    /// Waits until so many more writes have been answered.
    pub(crate) fn progress(&self, writes: u64) {
        let wanted = self.answered.load(Ordering::Relaxed) + writes;
        until("the load goes on", || {
            let writer = self.writer.as_ref().expect("it runs");
            assert!(!writer.is_finished(), "the load has failed");
            (self.answered.load(Ordering::Relaxed) >= wanted).then_some(())
        });
    }

    /// Ends it; every write of it was answered without an error.
    pub(crate) fn stop(mut self) -> (Ledger, Client) {
        self.stop.store(true, Ordering::Relaxed);
        let writer = self.writer.take().expect("it runs");
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
