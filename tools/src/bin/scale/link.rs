//! A link between the nodes that takes its time: it delays and slows what goes through it.
//!
//! Invariants:
//! - Each direction is a pipe of its own: bytes leave in order, none sooner than its delay after it
//!   came, and no faster than the rate.
//! - What is under way is bounded: who sends more waits, as before the buffer of a switch.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Bytes that are passed on as one: at 1 Gbit/s they take 0.13 ms.
const PIECE: usize = 16 << 10;
/// Pieces under way in one direction: 16 MiB, more than 20 ms of 1 Gbit/s.
const UNDER_WAY: usize = 1024;

/// What all connections through it share.
#[derive(Default)]
pub(crate) struct Link {
    /// One way, microseconds.
    delay: AtomicU64,
    /// Bytes a second; 0: as fast as it goes.
    rate: AtomicU64,
}

impl Link {
    /// From now on.
    pub(crate) fn set(&self, delay: Duration, rate: u64) {
        self.delay.store(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
        self.rate.store(rate, Ordering::SeqCst);
    }

    /// A port of its own, whose connections end at `port`.
    pub(crate) fn before(self: &Arc<Self>, port: u16) -> Result<u16, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let own = listener.local_addr().map_err(|error| error.to_string())?.port();
        let link = self.clone();
        // The threads end with their sockets, or with the program.
        std::thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                let Ok(to) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (Ok(back), Ok(forth)) = (to.try_clone(), from.try_clone()) else { continue };
                link.pipe(from, to);
                link.pipe(back, forth);
            }
        });
        Ok(own)
    }

    fn pipe(self: &Arc<Self>, from: TcpStream, to: TcpStream) {
        let (sender, receiver) = sync_channel(UNDER_WAY);
        let link = self.clone();
        let _ = to.set_nodelay(true);
        std::thread::spawn(move || link.takes(from, &sender));
        std::thread::spawn(move || gives(to, &receiver));
    }

    /// Reads what comes, and says when it is due at the other end.
    fn takes(&self, mut from: TcpStream, pieces: &SyncSender<(Instant, Vec<u8>)>) {
        let mut buffer = vec![0; PIECE];
        let mut busy = Instant::now();
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let rate = self.rate.load(Ordering::SeqCst);
            busy = busy.max(Instant::now());
            if rate > 0 {
                busy += Duration::from_secs_f64(length as f64 / rate as f64);
            }
            let due = busy + Duration::from_micros(self.delay.load(Ordering::SeqCst));
            if pieces.send((due, buffer[..length].to_vec())).is_err() {
                break;
            }
        }
    }

    /// What a message of `bytes` there and a short one back takes through it: the median.
    pub(crate) fn round_trip(self: &Arc<Self>, bytes: usize) -> Result<Duration, String> {
        let text = |error: std::io::Error| error.to_string();
        let echo = TcpListener::bind("127.0.0.1:0").map_err(text)?;
        let port = self.before(echo.local_addr().map_err(text)?.port())?;
        let mut near = TcpStream::connect(("127.0.0.1", port)).map_err(text)?;
        near.set_nodelay(true).map_err(text)?;
        let (mut far, _) = echo.accept().map_err(text)?;
        far.set_nodelay(true).map_err(text)?;
        std::thread::spawn(move || {
            let mut message = vec![0; bytes];
            while far.read_exact(&mut message).is_ok() && far.write_all(&[1]).is_ok() {}
        });
        let mut times = Vec::new();
        let message = vec![0; bytes];
        for _ in 0..101 {
            let begun = Instant::now();
            near.write_all(&message).map_err(text)?;
            near.read_exact(&mut [0]).map_err(text)?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }
}

/// Writes each piece when it is due, until one side ends; then the other one does.
fn gives(mut to: TcpStream, pieces: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, piece)) = pieces.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
