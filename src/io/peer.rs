//! The sockets to the peers: the listener, the attempts to connect, and packets in both directions.
//!
//! Invariants:
//! - A connection is accepted only from the configured address of a peer; at most
//!   [`UNKNOWN_MAX`] accepted ones have not shown a handshake.
//! - Bytes are trusted one field after the other: a header only when its CRC fits, a length only
//!   when its type allows it, and no buffer is taken before. What is not our protocol ends the
//!   connection; it never panics, and reaches no disk.
//! - Packets go out in the order of the core's sends, only pings and their answers go first.
//! - After `CloseSocket` and `SocketLost` the core hears nothing of a socket any more.
//! - A receive is always armed: payload of peers has buffers that clients can never take.

mod gate;
mod inquiry;
mod listen;
mod receive;
mod system;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, getpeername,
    getsockname, getsockopt, setsockopt, socket, sockopt,
};

use crate::resource::{Event, NodeId, Options, PAYLOAD_MAX, Payload, SocketError, SocketId, Time};
use crate::secret::Secrets;
use crate::wire::{Features, Packet, encode_header};

use super::buffer::{Direction, Part};
use super::client::{CLIENT_BYTES, SESSIONS_MAX, shut_down};
use super::context::{Context, Purpose, RateLimit};
use super::handle::{PeerPath, Setup};
use super::number_map::NumberMap;
use super::outbox::{Outbox, Sent};
use super::ring::{Descriptor, Memory, OperationId};
use gate::Gate;
use inquiry::{Inquiry, Own};
use listen::Listener;
use receive::Reading;

/// Accepted connections that have not shown a handshake.
const UNKNOWN_MAX: usize = 16;
/// Packets are received into this many bytes.
const STAGING: usize = 128 << 10;
/// How long a closed socket waits for the peer to have read everything, ms, if ping-timeout is not
/// known to be longer.
const LINGER_MS: u64 = 500;

/// Sizes of the socket buffers, `None`: the system's (DRBD's sndbuf-size and rcvbuf-size).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketBuffers {
    /// `sndbuf-size`, bytes.
    pub send: Option<usize>,
    /// `rcvbuf-size`, bytes.
    pub receive: Option<usize>,
}

impl SocketBuffers {
    /// What the options say; 0 leaves it to the system.
    #[must_use]
    pub fn of(options: &Options) -> Self {
        let size = |bytes: u32| (bytes > 0).then_some(bytes as usize);
        Self { send: size(options.sndbuf_size), receive: size(options.rcvbuf_size) }
    }

    /// Sets them; an administrator's process may go above the limits of the system.
    fn set(self, fd: &OwnedFd) -> nix::Result<()> {
        if let Some(bytes) = self.send {
            let forced = setsockopt(fd, sockopt::SndBufForce, &bytes);
            forced.or_else(|_| setsockopt(fd, sockopt::SndBuf, &bytes))?;
        }
        if let Some(bytes) = self.receive {
            let forced = setsockopt(fd, sockopt::RcvBufForce, &bytes);
            forced.or_else(|_| setsockopt(fd, sockopt::RcvBuf, &bytes))?;
        }
        Ok(())
    }

    /// What the system did not give, for the administrator. It counts twice what it was asked for.
    fn missing(self, fd: &OwnedFd) -> Option<String> {
        let less = |wanted: Option<usize>, got: nix::Result<usize>| {
            wanted.zip(got.ok()).filter(|(wanted, got)| *got < 2 * wanted).map(|(_, got)| got / 2)
        };
        let send = less(self.send, getsockopt(fd, sockopt::SndBuf));
        let receive = less(self.receive, getsockopt(fd, sockopt::RcvBuf));
        let (option, got, limit) = match (send, receive) {
            (Some(got), _) => ("sndbuf-size", got, "net.core.wmem_max"),
            (None, Some(got)) => ("rcvbuf-size", got, "net.core.rmem_max"),
            (None, None) => return None,
        };
        Some(format!("{option}: the system gives {got} bytes only; raise the sysctl {limit}"))
    }
}

#[derive(Debug)]
enum State {
    /// Being connected.
    Dialling { operation: OperationId, until: Time },
    /// Packets in both directions.
    Open,
    /// Closed by the core: what is queued is sent, then the end of the stream is waited for.
    Lingering { until: Time, ended: bool },
}

#[derive(Debug)]
struct Socket {
    id: SocketId,
    remote: SocketAddr,
    fd: Descriptor,
    state: State,
    accepted: bool,
    known: bool,
    gate: Gate,
    /// The feature bits of the peer's Features, once they came.
    greeting: Option<u32>,
    /// The run of the peer's system; zeroes: not told.
    system: [u8; 16],
    /// It only asks.
    inquiry: Option<Inquiry>,
    /// It is to be told what this node is.
    told: bool,
    staging: Option<Payload>,
    start: usize,
    end: usize,
    reading: Reading,
    /// The next receive asks for little.
    peek: bool,
    receiving: Option<bool>,
    outbox: Outbox,
    /// Bytes of bitmaps that were sent.
    bitmaps: u64,
}

/// The sockets of one resource.
#[derive(Debug)]
pub(crate) struct Peers {
    paths: Vec<PeerPath>,
    /// Attempts so far: each takes the peer's next path.
    attempts: usize,
    buffers: SocketBuffers,
    /// What sockets must prove that are made from now on.
    secrets: Option<Arc<Secrets>>,
    /// What is said of this node to who only asks.
    own: Own,
    linger_ms: u64,
    listeners: Vec<Listener>,
    last_listener: u64,
    sockets: NumberMap<SocketId, Socket>,
    last_accepted: u64,
    strangers: RateLimit,
    crowd: RateLimit,
    nonsense: RateLimit,
}

/// The event for an errno.
fn socket_error(errno: i32) -> SocketError {
    match errno {
        libc::ECONNREFUSED => SocketError::Refused,
        libc::ETIMEDOUT => SocketError::TimedOut,
        libc::ENETUNREACH
        | libc::EHOSTUNREACH
        | libc::ENETDOWN
        | libc::EHOSTDOWN
        | libc::EADDRNOTAVAIL
        // A loopback source and a destination that is elsewhere.
        | libc::EINVAL => SocketError::Unreachable(errno),
        errno => SocketError::Io(errno),
    }
}

fn family(address: &SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// A stream socket that blocks (the ring waits by itself) and is closed on exec.
fn stream_socket(address: &SocketAddr, buffers: SocketBuffers) -> nix::Result<OwnedFd> {
    let fd = socket(family(address), SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    prepare(&fd, buffers)?;
    Ok(fd)
}

fn prepare(fd: &OwnedFd, buffers: SocketBuffers) -> nix::Result<()> {
    setsockopt(fd, sockopt::TcpNoDelay, &true)?;
    buffers.set(fd)
}

/// An IPv4 address in either of its spellings.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|a| SocketAddr::from((a.ip(), a.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| SocketAddr::from((a.ip(), a.port()))))
}

impl Peers {
    /// No socket yet; [`Peers::start`] opens the listener.
    pub(crate) fn new(setup: &Setup) -> Self {
        let Setup { config, local, peers, buffers, state_dir, .. } = setup;
        let (local, addresses, buffers) = (*local, peers.clone(), *buffers);
        let ping_timeout_ms = config.options.ping_timeout_ms;
        let path = |(peer, remote)| PeerPath { peer, local, remote };
        Self {
            paths: addresses.into_iter().map(path).collect(),
            attempts: 0,
            buffers,
            secrets: None,
            own: Own::new(config, state_dir),
            linger_ms: ping_timeout_ms.max(LINGER_MS),
            listeners: vec![Listener::new(0, local)],
            last_listener: 0,
            sockets: NumberMap::default(),
            last_accepted: 0,
            strangers: RateLimit::default(),
            crowd: RateLimit::default(),
            nonsense: RateLimit::default(),
        }
    }

    /// The peer's address that a socket is with.
    pub(crate) fn remote(&self, id: SocketId) -> Option<IpAddr> {
        self.sockets.get(&id).map(|socket| canonical(socket.remote.ip()))
    }

    /// What this node calls the run of its system; zeroes: it does not know.
    pub(crate) fn own_system(&self) -> [u8; 16] {
        self.own.run.name()
    }

    /// How it was called in an earlier boot.
    pub(crate) fn system_of(&self, boot: [u8; 16]) -> [u8; 16] {
        self.own.run.of_boot(boot)
    }

    /// What was acknowledged and not flushed may be gone: it is another run from now on. Peers that are
    /// connected learn of it when they connect anew.
    pub(crate) fn loses(&mut self) {
        self.own.run.loses();
    }

    /// What the peer calls the run of its system; zeroes: it has not said.
    pub(crate) fn system(&self, id: SocketId) -> [u8; 16] {
        self.sockets.get(&id).map_or([0; 16], |socket| socket.system)
    }

    /// Options have changed; sizes of socket buffers are for the sockets that are made from now on.
    pub(crate) fn set_options(&mut self, options: &Options) {
        self.linger_ms = options.ping_timeout_ms.max(LINGER_MS);
        self.buffers = SocketBuffers::of(options);
        self.own.set_options(options);
    }

    /// `Action::Connect`.
    pub(crate) fn connect(
        &mut self,
        io: &mut Context,
        peer: NodeId,
        id: SocketId,
        timeout_ms: u64,
    ) {
        let paths: Vec<PeerPath> =
            self.paths.iter().filter(|path| path.peer == peer).copied().collect();
        let next = self.attempts.checked_rem(paths.len()).and_then(|next| paths.get(next));
        self.attempts = self.attempts.wrapping_add(1);
        let Some(PeerPath { local, remote, .. }) = next.copied() else {
            let error = SocketError::Unreachable(libc::EDESTADDRREQ);
            io.events.push_back(Event::SocketLost { socket: id, error });
            return;
        };
        let fd = match self.outgoing(local, &remote) {
            Ok(fd) => fd,
            Err(errno) => {
                let error = socket_error(errno as i32);
                io.events.push_back(Event::SocketLost { socket: id, error });
                return;
            }
        };
        let fd: Descriptor = Rc::new(fd);
        let operation = io.ring.connect(&fd, remote, Purpose::PeerConnect(id));
        let state = State::Dialling { operation, until: io.now.after_ms(timeout_ms) };
        let gate = Gate::new(self.secrets.as_ref());
        self.sockets.insert(id, Socket::new(id, remote, fd, state, gate));
    }

    /// A socket that comes from the own address, as the peer accepts no other.
    fn outgoing(&self, local: SocketAddr, remote: &SocketAddr) -> nix::Result<OwnedFd> {
        let fd = stream_socket(remote, self.buffers)?;
        let mut source = local;
        source.set_port(0);
        if source.is_ipv4() == remote.is_ipv4() && !source.ip().is_unspecified() {
            bind(fd.as_raw_fd(), &SockaddrStorage::from(source))?;
        }
        Ok(fd)
    }

    /// A connect has ended.
    pub(crate) fn connected(&mut self, io: &mut Context, id: SocketId, result: i32) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let State::Dialling { until, .. } = socket.state else { return };
        let error = match result {
            0 if socket.is_own() => SocketError::Refused,
            0 => {
                socket.state = State::Open;
                io.events.push_back(Event::Connected { socket: id });
                return;
            }
            n if -n == libc::ECANCELED && until <= io.now => SocketError::TimedOut,
            n => socket_error(-n),
        };
        self.lose(io, id, error);
    }

    /// `Action::Send`.
    pub(crate) fn send(
        &mut self,
        io: &mut Context,
        id: SocketId,
        packet: &Packet,
        payload: Option<Payload>,
    ) {
        let features = self.features_sent(id, packet);
        let packet = features.as_ref().unwrap_or(packet);
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        if !matches!(socket.state, State::Open) {
            return;
        }
        let lease = match payload.map(|p| io.pool.lease(p, Direction::Source)).transpose() {
            Ok(lease) => lease,
            Err(error) => {
                tracing::error!(target: "tandem", resource = %io.name, "defect: {error}");
                return self.lose(io, id, SocketError::Io(libc::EFAULT));
            }
        };
        match packet {
            Packet::Ping | Packet::PingAck => {
                socket.outbox.push_first(|out| encode_header(packet, out));
            }
            _ => socket.outbox.push(|out| encode_header(packet, out), lease, 0),
        }
        // The bits of a handshake go out in one piece, however large the disk: as much again as they
        // take in memory anyway.
        if let Packet::Bitmap { words, .. } = packet {
            socket.bitmaps += 8 * words.len() as u64;
        }
        // What the clients have under way, however large the peer's window is, and the own window bound what is
        // queued besides; beyond that the peer asks and does not read.
        let clients = CLIENT_BYTES + SESSIONS_MAX as u64 * u64::from(PAYLOAD_MAX);
        let limit = 2 * io.window + CLIENT_BYTES + clients + socket.bitmaps;
        if socket.outbox.bytes() as u64 > limit {
            let remote = socket.remote;
            tracing::warn!(target: "tandem", resource = %io.name,
                "the connection with {remote} was dropped: {limit} bytes wait to be sent");
            self.lose(io, id, SocketError::TimedOut);
        }
    }

    /// `Action::CloseSocket`.
    pub(crate) fn close(&mut self, io: &mut Context, id: SocketId, linger: bool) {
        io.forget_socket(id);
        let until = io.now.after_ms(self.linger_ms);
        match self.sockets.get_mut(&id) {
            Some(socket) if linger && matches!(socket.state, State::Open) => {
                socket.state = State::Lingering { until, ended: false };
                socket.drop_partial(io);
            }
            Some(_) => self.remove(io, id),
            None => {}
        }
    }

    /// A send has ended.
    pub(crate) fn sent(&mut self, io: &mut Context, id: SocketId, memory: Memory, result: i32) {
        let Some(socket) = self.sockets.get_mut(&id) else { return io.reclaim(memory) };
        let Memory::Message(message) = memory else { return };
        match socket.outbox.returned(message, result, &mut io.pool) {
            // Without room it goes on, and waits for it.
            Sent::Some { .. } | Sent::Failed(libc::EAGAIN) => {}
            Sent::Failed(errno) => self.lose(io, id, socket_error(errno)),
        }
    }

    /// Arms receives and starts sends; ends what has lingered.
    pub(crate) fn start(&mut self, io: &mut Context) {
        self.listen(io);
        self.listeners.retain(|listener| !listener.is_over());
        let mut done = Vec::new();
        for socket in self.sockets.values_mut() {
            if matches!(socket.state, State::Dialling { .. }) {
                continue;
            }
            let quiet = !io.buffers_awaited && matches!(socket.state, State::Open);
            if let Some(message) = socket.outbox.next(quiet) {
                io.ring.send(&socket.fd, message, Purpose::PeerSend(socket.id));
            }
            socket.end_stream();
            if socket.is_over() {
                done.push(socket.id);
                continue;
            }
            socket.arm(io);
        }
        done.into_iter().for_each(|id| self.remove(io, id));
    }

    /// When an attempt or a linger ends, or the listener is tried again.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let sockets = self.sockets.values().filter_map(|socket| match socket.state {
            State::Dialling { until, .. } | State::Lingering { until, .. } => Some(until),
            State::Open => socket.inquiry.as_ref().map(|inquiry| inquiry.until),
        });
        sockets.chain(self.listeners.iter().filter_map(Listener::again)).min()
    }

    /// Ends what has expired.
    pub(crate) fn expire(&mut self, io: &mut Context) {
        let mut late = Vec::new();
        for socket in self.sockets.values_mut() {
            match &mut socket.state {
                State::Dialling { operation, until } if *until <= io.now => {
                    late.push((socket.id, true));
                    io.ring.cancel(*operation, Purpose::Cancel);
                }
                State::Lingering { until, .. } if *until <= io.now => {
                    late.push((socket.id, false));
                }
                State::Open if socket.inquiry.as_ref().is_some_and(|p| p.until <= io.now) => {
                    late.push((socket.id, false));
                }
                _ => {}
            }
        }
        for (id, dialling) in late {
            if dialling {
                self.lose(io, id, SocketError::TimedOut);
            } else {
                self.remove(io, id);
            }
        }
    }

    /// Ends a socket and tells the core, unless the core has closed it.
    fn lose(&mut self, io: &mut Context, id: SocketId, error: SocketError) {
        let told = self
            .sockets
            .get(&id)
            .map(|s| matches!(s.state, State::Lingering { .. }) || s.is_inquiry());
        self.remove(io, id);
        if told == Some(false) {
            io.events.push_back(Event::SocketLost { socket: id, error });
        }
    }

    /// Closes the socket and gives back what is the shell's; what the kernel still has comes back
    /// with its completions.
    fn remove(&mut self, io: &mut Context, id: SocketId) {
        let Some(mut socket) = self.sockets.remove(&id) else { return };
        if let State::Dialling { operation, .. } = socket.state {
            io.ring.cancel(operation, Purpose::Cancel);
        }
        shut_down(&socket.fd);
        socket.drop_partial(io);
        socket.outbox.clear(&mut io.pool);
        if let Some(staging) = socket.staging.take() {
            io.release(staging);
        }
    }

    /// Ends everything (the end of the thread).
    pub(crate) fn drop_all(&mut self, io: &mut Context) {
        let all: Vec<_> = self.sockets.keys().copied().collect();
        all.into_iter().for_each(|id| self.remove(io, id));
        self.listeners.iter_mut().for_each(|listener| listener.close(io));
    }

    /// Shuts the sockets down and touches nothing else: after a panic.
    pub(crate) fn shut_down_sockets(&self) {
        self.sockets.values().for_each(|socket| shut_down(&socket.fd));
        self.listeners.iter().for_each(Listener::shut_down);
    }
}

impl Socket {
    fn new(id: SocketId, remote: SocketAddr, fd: Descriptor, state: State, gate: Gate) -> Self {
        Self {
            id,
            remote,
            fd,
            state,
            accepted: false,
            known: false,
            gate,
            greeting: None,
            system: [0; 16],
            inquiry: None,
            told: false,
            staging: None,
            start: 0,
            end: 0,
            reading: Reading::Header,
            peek: false,
            receiving: None,
            outbox: Outbox::default(),
            bitmaps: 0,
        }
    }

    /// On a loopback an attempt can meet itself, if the port that is dialled is given out as its
    /// own source port.
    fn is_own(&self) -> bool {
        use std::os::fd::AsFd as _;
        let fd = self.fd.as_fd().as_raw_fd();
        let own = getsockname::<SockaddrStorage>(fd).ok().and_then(|address| to_std(&address));
        own == Some(self.remote)
    }

    /// A lingering socket whose queue is empty says that nothing follows.
    fn end_stream(&mut self) {
        use nix::sys::socket::{Shutdown, shutdown};
        use std::os::fd::AsFd as _;
        if let State::Lingering { ended, .. } = &mut self.state
            && !*ended
            && self.outbox.is_empty()
        {
            *ended = true;
            // Closed by the peer already: then the receive ends too.
            let _ = shutdown(self.fd.as_fd().as_raw_fd(), Shutdown::Write);
        }
    }

    /// Both directions have ended.
    fn is_over(&self) -> bool {
        matches!(self.state, State::Lingering { ended: true, .. })
            && matches!(self.reading, Reading::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(fd: &OwnedFd) -> [usize; 2] {
        [getsockopt(fd, sockopt::SndBuf).unwrap(), getsockopt(fd, sockopt::RcvBuf).unwrap()]
    }

    #[test]
    fn socket_buffers_are_what_the_options_say_and_the_systems_where_they_are_0() {
        let address = "127.0.0.1:0".parse().unwrap();
        let open = |options: &Options| stream_socket(&address, SocketBuffers::of(options)).unwrap();
        let unset = sizes(&open(&Options::default()));
        let sndbuf = Options { sndbuf_size: 70_000, ..Options::default() };
        assert_eq!(sizes(&open(&sndbuf)), [140_000, unset[1]]);
        let rcvbuf = Options { rcvbuf_size: 80_000, ..Options::default() };
        let fd = open(&rcvbuf);
        assert_eq!(sizes(&fd), [unset[0], 160_000]);
        assert_eq!(SocketBuffers::of(&rcvbuf).missing(&fd), None);
        let told = SocketBuffers { send: Some(1 << 30), receive: None }.missing(&fd).unwrap();
        assert!(told.starts_with("sndbuf-size: ") && told.ends_with("net.core.wmem_max"), "{told}");
    }
}
