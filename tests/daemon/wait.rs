//! Waiting for a state, with a deadline.

use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a state may take to come. Generous: it is reached only by a test that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `probe` again and again until it has an answer.
pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    // A channel that nobody writes to: the pause between two questions.
    let (_sender, pause) = mpsc::channel::<()>();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "still waiting after {PATIENCE:?}: {what}");
        let _ = pause.recv_timeout(Duration::from_millis(20));
    }
}
