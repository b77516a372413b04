//! The listener: from the configured addresses only, and tried again until it can be opened.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{Backlog, listen};

use super::*;

/// Between two attempts to open the listener, or to accept after an error, ms.
const RETRY_MS: u64 = 1000;

/// The listener of one resource.
#[derive(Debug, Default)]
pub(super) struct Listener {
    fd: Option<Descriptor>,
    accept: Option<OperationId>,
    again: Option<Time>,
    complained: bool,
    closed: bool,
}

impl Listener {
    /// When to try again.
    pub(super) fn again(&self) -> Option<Time> {
        self.again
    }

    pub(super) fn close(&mut self, io: &mut Context) {
        self.closed = true;
        self.again = None;
        self.shut_down();
        if let Some(operation) = self.accept.take() {
            io.ring.cancel(operation, Purpose::Cancel);
        }
        self.fd = None;
    }

    pub(super) fn shut_down(&self) {
        if let Some(fd) = &self.fd {
            shut_down(fd);
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
    /// Opens the listener if it is due, and arms an accept.
    pub(super) fn listen(&mut self, io: &mut Context) {
        let listener = &mut self.listener;
        if listener.closed || listener.accept.is_some() {
            return;
        }
        if listener.again.is_some_and(|again| again > io.now) {
            return;
        }
        listener.again = None;
        if listener.fd.is_none() {
            match open(&self.local, self.buffers) {
                Ok(fd) => {
                    if listener.complained {
                        tracing::info!(target: "tandem", resource = %io.name,
                            "listening on {} now", self.local);
                    }
                    listener.complained = false;
                    if let Some(why) = self.buffers.missing(&fd) {
                        tracing::warn!(target: "tandem", resource = %io.name, "{why}");
                    }
                    listener.fd = Some(Rc::new(fd));
                }
                Err(error) => {
                    if !std::mem::replace(&mut listener.complained, true) {
                        tracing::warn!(target: "tandem", resource = %io.name,
                            "cannot listen on {}: {error}; trying again every second until this \
                             host has the address and the port is free", self.local);
                    }
                    listener.again = Some(io.now.after_ms(RETRY_MS));
                    return;
                }
            }
        }
        if let Some(fd) = &listener.fd {
            listener.accept = Some(io.ring.accept(fd, Purpose::Accept));
        }
    }

    /// An accept has ended.
    pub(crate) fn accepted(&mut self, io: &mut Context, memory: Memory, result: i32) {
        self.listener.accept = None;
        let Memory::Accepted(fd) = memory else {
            if !self.listener.closed && !matches!(-result, libc::ECONNABORTED | libc::EINTR) {
                // Out of descriptors or memory: not at once again.
                self.listener.again = Some(io.now.after_ms(RETRY_MS));
                let error = std::io::Error::from_raw_os_error(-result);
                if let Some(more) = self.crowd.pass(io.now) {
                    tracing::warn!(target: "tandem", resource = %io.name,
                        "cannot accept connections on {}: {error}{more}", self.local);
                }
            }
            return;
        };
        if self.listener.closed {
            return;
        }
        let remote = getpeername::<SockaddrStorage>(fd.as_raw_fd());
        let Some(remote) = remote.ok().and_then(|address| to_std(&address)) else { return };
        let sender = canonical(remote.ip());
        let peer = self.addresses.iter().find(|(_, address)| canonical(address.ip()) == sender);
        let Some((peer, _)) = peer.copied() else {
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
        let mut socket = Socket::new(id, remote, Rc::new(fd), State::Open);
        socket.accepted = true;
        self.sockets.insert(id, socket);
        io.events.push_back(Event::Accepted { peer, socket: id });
    }
}
