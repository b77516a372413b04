//! Accepting connections without ever giving up: out of descriptors is waited out.
//!
//! tokio's listeners, since tokio-uring cannot take a Unix listener that std has bound, nor give a
//! descriptor away. What they accept is made blocking, as the ring wants it.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::warn;

/// After an error, the next attempt waits so long.
const PAUSE: Duration = Duration::from_millis(100);
/// One line in the log for so long.
const QUIET: Duration = Duration::from_secs(10);

/// A listening socket that was bound with std, and is non-blocking.
pub(crate) struct Acceptor<L> {
    listener: L,
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

    /// The next connection.
    pub(crate) async fn next(&self) -> std::os::unix::net::UnixStream {
        loop {
            let accepted = self.listener.accept().await.and_then(|(stream, _)| stream.into_std());
            match accepted.and_then(|stream| stream.set_nonblocking(false).map(|()| stream)) {
                Ok(stream) => return stream,
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
                Ok(connection) => return connection,
                Err(error) => self.wait_out(&error).await,
            }
        }
    }
}

impl<L> Acceptor<L> {
    fn new(listener: L, name: &str) -> Self {
        Self { listener, name: name.to_owned(), logged: Cell::new(None) }
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
