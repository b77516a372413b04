//! The listener: from the configured addresses only, and tried again until it can be opened.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{Backlog, listen};

use super::*;

/// Between two attempts to open the listener, or to accept after an error, ms.
const RETRY_MS: u64 = 1000;

/// A listener on one own address.
#[derive(Debug)]
pub(super) struct Listener {
    id: u64,
    local: SocketAddr,
    fd: Option<Descriptor>,
    accept: Option<OperationId>,
    again: Option<Time>,
    complained: bool,
    closed: bool,
}

impl Listener {
    /// Not open yet. `id` is its own among all of the resource.
    pub(super) fn new(id: u64, local: SocketAddr) -> Self {
        Self { id, local, fd: None, accept: None, again: None, complained: false, closed: false }
    }

    /// When to try again.
    pub(super) fn again(&self) -> Option<Time> {
        self.again
    }

    pub(super) fn close(&mut self, io: &mut Context) {
        self.closed = true;
        self.again = None;
        self.shut_down();
        if let Some(operation) = self.accept {
            io.ring.cancel(operation, Purpose::Cancel);
        }
        self.fd = None;
    }

    pub(super) fn shut_down(&self) {
        if let Some(fd) = &self.fd {
            shut_down(fd);
        }
    }

    /// It is closed, and its last accept has ended.
    pub(super) fn is_over(&self) -> bool {
        self.closed && self.accept.is_none()
    }

    /// Opens it if it is due, and arms an accept.
    fn arm(&mut self, io: &mut Context, buffers: SocketBuffers) {
        if self.closed || self.accept.is_some() {
            return;
        }
        if self.again.is_some_and(|again| again > io.now) {
            return;
        }
        self.again = None;
        if self.fd.is_none() {
            match open(&self.local, buffers) {
                Ok(fd) => {
                    if self.complained {
                        tracing::info!(target: "tandem", resource = %io.name,
                            "listening on {} now", self.local);
                    }
                    self.complained = false;
                    if let Some(why) = buffers.missing(&fd) {
                        tracing::warn!(target: "tandem", resource = %io.name, "{why}");
                    }
                    self.fd = Some(Rc::new(fd));
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.complained, true) {
                        tracing::warn!(target: "tandem", resource = %io.name,
                            "cannot listen on {}: {error}; trying again every second until this \
                             host has the address and the port is free", self.local);
                    }
                    self.again = Some(io.now.after_ms(RETRY_MS));
                    return;
                }
            }
        }
        if let Some(fd) = &self.fd {
            self.accept = Some(io.ring.accept(fd, Purpose::Accept(self.id)));
        }
    }
}

/// No SO_REUSEPORT: a second daemon on the same port must fail, not share.
fn open(address: &SocketAddr, buffers: SocketBuffers) -> nix::Result<OwnedFd> {
    let fd = stream_socket(address, buffers)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(*address))?;
    listen(&fd, Backlog::new(UNKNOWN_MAX as i32)?)?;
    Ok(fd)
}

impl Peers {
    /// Opens the listeners that are due, and arms their accepts.
    pub(super) fn listen(&mut self, io: &mut Context) {
        for listener in &mut self.listeners {
            listener.arm(io, self.buffers);
        }
    }

    /// The ways to the peers are these from now on.
    ///
    /// # Errors
    /// The address that cannot be listened on; nothing has changed.
    pub(crate) fn set_paths(
        &mut self,
        io: &mut Context,
        paths: Vec<PeerPath>,
    ) -> std::io::Result<()> {
        let mut fresh: Vec<Listener> = Vec::new();
        for path in &paths {
            let is_there = |all: &[Listener]| all.iter().any(|one| one.local == path.local);
            let open_ones: Vec<&Listener> = self.listeners.iter().filter(|l| !l.closed).collect();
            if open_ones.iter().any(|one| one.local == path.local) || is_there(&fresh) {
                continue;
            }
            self.last_listener += 1;
            let mut listener = Listener::new(self.last_listener, path.local);
            match open(&path.local, self.buffers) {
                Ok(fd) => listener.fd = Some(Rc::new(fd)),
                // The address may come later, as at `up`.
                Err(nix::errno::Errno::EADDRNOTAVAIL) => {}
                Err(error) => {
                    let text = format!("{}: {error}", path.local);
                    return Err(std::io::Error::new(std::io::Error::from(error).kind(), text));
                }
            }
            fresh.push(listener);
        }
        for listener in &mut self.listeners {
            if !paths.iter().any(|path| path.local == listener.local) {
                listener.close(io);
            }
        }
        self.listeners.append(&mut fresh);
        let gone = |socket: &Socket| {
            let remote = canonical(socket.remote.ip());
            socket.accepted
                && !socket.known
                && !paths.iter().any(|path| canonical(path.remote.ip()) == remote)
        };
        let gone: Vec<SocketId> =
            self.sockets.values().filter(|socket| gone(socket)).map(|socket| socket.id).collect();
        for id in gone {
            self.lose(io, id, SocketError::Closed);
        }
        self.paths = paths;
        Ok(())
    }

    /// An accept of listener `id` has ended.
    pub(crate) fn accepted(&mut self, io: &mut Context, id: u64, memory: Memory, result: i32) {
        let Some(listener) = self.listeners.iter_mut().find(|one| one.id == id) else { return };
        listener.accept = None;
        let Memory::Accepted(fd) = memory else {
            if !listener.closed && !matches!(-result, libc::ECONNABORTED | libc::EINTR) {
                // Out of descriptors or memory: not at once again.
                listener.again = Some(io.now.after_ms(RETRY_MS));
                let error = std::io::Error::from_raw_os_error(-result);
                if let Some(more) = self.crowd.pass(io.now) {
                    tracing::warn!(target: "tandem", resource = %io.name,
                        "cannot accept connections on {}: {error}{more}", listener.local);
                }
            }
            return;
        };
        if listener.closed {
            return;
        }
        let remote = getpeername::<SockaddrStorage>(fd.as_raw_fd());
        let Some(remote) = remote.ok().and_then(|address| to_std(&address)) else { return };
        let sender = canonical(remote.ip());
        let path = self.paths.iter().find(|path| canonical(path.remote.ip()) == sender);
        let Some(PeerPath { peer, .. }) = path.copied() else {
            if let Some(more) = self.strangers.pass(io.now) {
                tracing::warn!(target: "tandem", resource = %io.name,
                    "a connection from {remote} was closed: it is no peer's address{more}");
            }
            return;
        };
        let unknown = self.sockets.values().filter(|s| s.accepted && !s.known).count();
        if unknown >= UNKNOWN_MAX {
            if let Some(more) = self.crowd.pass(io.now) {
                tracing::warn!(target: "tandem", resource = %io.name,
                    "a connection from {remote} was closed: {unknown} others have not said who \
                     they are{more}");
            }
            return;
        }
        if prepare(&fd, self.buffers).is_err() {
            return;
        }
        let id = SocketId(2 * self.last_accepted + 1);
        self.last_accepted += 1;
        let mut socket =
            Socket::new(id, remote, Rc::new(fd), State::Open, Gate::new(self.secrets.as_ref()));
        socket.accepted = true;
        self.sockets.insert(id, socket);
        io.events.push_back(Event::Accepted { peer, socket: id });
    }
}
