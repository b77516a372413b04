//! Accepting connections without ever giving up: out of descriptors is waited out.
//!
//! The last descriptors are kept for orders: clients that have taken all others lock no administrator
//! out. Who is accepted with one of them waits for a lower one, and nobody is accepted behind.
//!
//! tokio's listeners, since tokio-uring cannot take a Unix listener that std has bound, nor give a
//! descriptor away. What they accept is made blocking, as the ring wants it.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use tracing::warn;

/// After an error, the next attempt waits so long.
const PAUSE: Duration = Duration::from_millis(100);
/// One line in the log for so long.
const QUIET: Duration = Duration::from_secs(10);

/// Descriptors that are kept for orders, at most; with a low limit a sixteenth of it.
const KEPT_MAX: u64 = 16;

/// The lowest of the descriptors that are kept.
fn first_kept() -> RawFd {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    RawFd::try_from(limit - (limit / 16).min(KEPT_MAX)).unwrap_or(RawFd::MAX)
}

/// A listening socket that was bound with std, and is non-blocking.
pub(crate) struct Acceptor<L> {
    listener: L,
    /// Descriptors from here on are not for whom it accepts.
    first_kept: RawFd,
    name: String,
    logged: Cell<Option<Instant>>,
}

impl Acceptor<tokio::net::UnixListener> {
    /// Takes a non-blocking listener; `name` is for the log.
    ///
    /// # Errors
    /// The runtime cannot wait for it.
    pub(crate) fn unix(listener: std::os::unix::net::UnixListener, name: &str) -> io::Result<Self> {
        Ok(Self::new(tokio::net::UnixListener::from_std(listener)?, name))
    }

    /// As [`Acceptor::unix`], for those who may have every descriptor there is.
    ///
    /// # Errors
    /// The runtime cannot wait for it.
    pub(crate) fn orders(
        listener: std::os::unix::net::UnixListener,
        name: &str,
    ) -> io::Result<Self> {
        Ok(Self { first_kept: RawFd::MAX, ..Self::unix(listener, name)? })
    }

    /// The next connection.
    pub(crate) async fn next(&self) -> std::os::unix::net::UnixStream {
        loop {
            let accepted = self.listener.accept().await.and_then(|(stream, _)| stream.into_std());
            match accepted.and_then(|stream| stream.set_nonblocking(false).map(|()| stream)) {
                Ok(stream) => {
                    self.wait_for_room(stream.as_raw_fd()).await;
                    return stream;
                }
                Err(error) => self.wait_out(&error).await,
            }
        }
    }
}

impl Acceptor<tokio::net::TcpListener> {
    /// As [`Acceptor::unix`].
    ///
    /// # Errors
    /// The runtime cannot wait for it.
    pub(crate) fn tcp(listener: std::net::TcpListener, name: &str) -> io::Result<Self> {
        Ok(Self::new(tokio::net::TcpListener::from_std(listener)?, name))
    }

    /// The next connection, and where it comes from.
    pub(crate) async fn next(&self) -> (std::net::TcpStream, SocketAddr) {
        loop {
            let accepted = match self.listener.accept().await {
                Ok((stream, from)) => stream.into_std().map(|stream| (stream, from)),
                Err(error) => Err(error),
            };
            match accepted.and_then(|(stream, from)| {
                stream.set_nonblocking(false)?;
                Ok((stream, from))
            }) {
                Ok(connection) => {
                    self.wait_for_room(connection.0.as_raw_fd()).await;
                    return connection;
                }
                Err(error) => self.wait_out(&error).await,
            }
        }
    }
}

impl<L> Acceptor<L> {
    fn new(listener: L, name: &str) -> Self {
        let first_kept = first_kept();
        Self { listener, first_kept, name: name.to_owned(), logged: Cell::new(None) }
    }

    /// Waits until there is a descriptor below those that are kept, where `accepted` is one of them.
    async fn wait_for_room(&self, accepted: RawFd) {
        let mut lowest = accepted;
        while lowest >= self.first_kept {
            self.wait_out(&io::Error::from_raw_os_error(libc::EMFILE)).await;
            lowest = std::fs::File::open("/dev/null").map_or(RawFd::MAX, |file| file.as_raw_fd());
        }
    }

    /// The error of one connection, or a lack of descriptors.
    pub(crate) async fn wait_out(&self, error: &io::Error) {
        if self.logged.get().is_none_or(|at| at.elapsed() > QUIET) {
            warn!("{}: accept failed, going on: {error}", self.name);
            self.logged.set(Some(Instant::now()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
