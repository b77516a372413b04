//! The sockets that others connect to, and who accepts there: opened, closed and opened again.
//!
//! Invariants:
//! - The listening sockets stay open from the start of the daemon to its end, and beyond a restart:
//!   whoever connects while the doors are closed waits in the backlog.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::accept::Acceptor;
use super::places::Places;
use super::registry::Registry;
use super::restart::Listener;
use super::{admin_socket, metrics_socket, nbd_socket};

/// How often it is looked whether clients still negotiate.
const LOOK: Duration = Duration::from_millis(2);

/// The listening sockets, bound and non-blocking.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) admin: UnixListener,
    pub(super) nbd: UnixListener,
    pub(super) tcp: Vec<(SocketAddr, TcpListener)>,
    pub(super) metrics: Vec<(SocketAddr, TcpListener)>,
}

impl Listeners {
    /// All of them, for a restart.
    pub(super) fn all(&self) -> Vec<(Listener, RawFd)> {
        let mut all =
            vec![(Listener::Admin, self.admin.as_raw_fd()), (Listener::Nbd, self.nbd.as_raw_fd())];
        let tcp = self.tcp.iter().map(|(at, one)| (Listener::NbdTcp(*at), one.as_raw_fd()));
        let metrics = self.metrics.iter();
        let metrics = metrics.map(|(at, one)| (Listener::Metrics(*at), one.as_raw_fd()));
        all.extend(tcp.chain(metrics));
        all
    }
}

/// The doors of the daemon.
pub(super) struct Doors {
    pub(super) listeners: Listeners,
    registry: Rc<Registry>,
    scrapes: metrics_socket::Scrapes,
    unix_places: Rc<Places>,
    tcp_places: Rc<Places>,
    accepting: Vec<tokio::task::JoinHandle<()>>,
}

impl Doors {
    /// They are closed.
    pub(super) fn new(registry: &Rc<Registry>, listeners: Listeners) -> Self {
        Self {
            listeners,
            registry: registry.clone(),
            scrapes: metrics_socket::Scrapes::new(registry.clone()),
            unix_places: Rc::default(),
            tcp_places: Rc::default(),
            accepting: Vec::new(),
        }
    }

    /// Says where they are, and what is open beyond this host.
    pub(super) fn announce(&self) {
        for (address, _) in &self.listeners.tcp {
            if !address.ip().is_loopback() {
                warn!("NBD on {address} is open to whoever reaches it (--nbd-insecure)");
            }
            info!("NBD clients: {address}");
        }
        for (address, listener) in &self.listeners.metrics {
            // Port 0 was any.
            let address = listener.local_addr().unwrap_or(*address);
            if !address.ip().is_loopback() {
                warn!(
                    "metrics on {address} can be read by whoever reaches it (--metrics-insecure)"
                );
            }
            info!("metrics: http://{address}/metrics");
        }
    }

    /// Accepts whoever waits and comes.
    ///
    /// # Errors
    /// The runtime cannot wait for a socket, or there is no descriptor left.
    pub(super) fn open(&mut self) -> std::io::Result<()> {
        let registry = || self.registry.clone();
        let mut tasks = Vec::new();
        let admin = Acceptor::orders(self.listeners.admin.try_clone()?, "admin socket")?;
        tasks.push(tokio_uring::spawn(admin_socket::serve(admin, registry())));
        let nbd = Acceptor::unix(self.listeners.nbd.try_clone()?, "NBD socket")?;
        let clients = nbd_socket::serve_unix(nbd, registry(), self.unix_places.clone());
        tasks.push(tokio_uring::spawn(clients));
        for (address, listener) in &self.listeners.tcp {
            let listener = Acceptor::tcp(listener.try_clone()?, &format!("NBD {address}"))?;
            let clients = nbd_socket::serve_tcp(listener, registry(), self.tcp_places.clone());
            tasks.push(tokio_uring::spawn(clients));
        }
        for (address, listener) in &self.listeners.metrics {
            let listener = Acceptor::tcp(listener.try_clone()?, &format!("metrics {address}"))?;
            let scrapes = self.scrapes.clone();
            tasks.push(tokio_uring::spawn(metrics_socket::serve(listener, scrapes)));
        }
        self.accepting = tasks;
        Ok(())
    }

    /// Nobody is accepted any more. Who is in goes on.
    pub(super) async fn close(&mut self) {
        for task in self.accepting.drain(..) {
            task.abort();
            // Ended by the abort.
            let _ = task.await;
        }
    }

    /// Waits until no client negotiates; those that are not done in `limit` do not enter.
    pub(super) async fn nobody_negotiates(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let empty = || self.unix_places.is_empty() && self.tcp_places.is_empty();
        while !empty() && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
    }
}
