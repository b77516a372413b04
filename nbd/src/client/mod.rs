//! A small blocking client, for tools, tests and the kernel's driver: the one room of this crate that does I/O.
//!
//! It is strict: what a server may not send is an error. Every read and write has a time-out,
//! so that a test against a silent server fails and does not hang. It never sets up more than
//! [`CHUNK_LIMIT`] bytes for a length that the server announced.
//!
//! [`Handshake`] is the negotiation, step by step; [`Client`] the transmission phase, request
//! by request or pipelined. [`Client::open`] does the usual negotiation in one call;
//! [`Client::into_descriptor`] hands the connection to somebody else, such as the kernel's driver.

mod handshake;
mod transmission;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::constants::*;
use crate::errno::Errno;

pub use handshake::{Description, Handshake, OptionReply};
pub use transmission::{Client, Reply};

/// Largest chunk or option reply that is taken from a server, in bytes.
pub const CHUNK_LIMIT: u32 = PAYLOAD_LIMIT + 4096;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix stream socket.
    Unix(PathBuf),
    /// `host:port`. The name is looked up at each connect, and that has no limit of ours.
    Tcp(String),
    /// The addresses of a host, looked up before; the first one that answers.
    Resolved(Vec<SocketAddr>),
}

/// The headers and replies to negotiate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Simple replies.
    Simple,
    /// Structured replies.
    Structured,
    /// Extended headers.
    Extended,
}

/// Why a call of the client failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket failed, timed out (`WouldBlock`), or was closed (`UnexpectedEof`).
    #[error("connection to the server: {0}")]
    Io(#[from] io::Error),
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    /// The server refused an option.
    #[error("the server refused option {option} with {kind:#x}: {message}")]
    Refused {
        /// The option, `NBD_OPT_*`.
        option: u32,
        /// The error, `NBD_REP_ERR_*`.
        kind: u32,
        /// The server's sentence.
        message: String,
    },
    /// The server answered a request with an error.
    #[error("the server answered error {code}: {message}")]
    Failed {
        /// The number on the wire; [`Errno::from_code`] names it.
        code: u32,
        /// The server's sentence; empty with simple replies.
        message: String,
    },
}

impl ClientError {
    /// The error number, if a server answered a request with one that proto.md names.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            ClientError::Failed { code, .. } => Errno::from_code(*code),
            _ => None,
        }
    }
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A connected stream of either kind.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    /// When everything has to be over, however briskly the server sends.
    deadline: Option<Instant>,
}

impl Socket {
    fn connect(
        address: &Address,
        timeout: Duration,
        deadline: Option<Instant>,
    ) -> io::Result<Socket> {
        let stream = match address {
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
            Address::Tcp(host) => {
                let addresses: Vec<SocketAddr> = host.to_socket_addrs()?.collect();
                Stream::Tcp(connect_tcp(&addresses, timeout, deadline)?)
            }
            Address::Resolved(addresses) => Stream::Tcp(connect_tcp(addresses, timeout, deadline)?),
        };
        let socket = Socket { stream, deadline };
        socket.set_timeout(timeout)?;
        Ok(socket)
    }

    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.wait_at_most(Some(timeout))
    }

    /// `None`: for ever.
    fn wait_at_most(&self, timeout: Option<Duration>) -> io::Result<()> {
        match &self.stream {
            Stream::Unix(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
            Stream::Tcp(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
        }
    }

    /// The next read or write ends at the deadline.
    fn mind_deadline(&self) -> io::Result<()> {
        let Some(deadline) = self.deadline else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.set_timeout(left)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }

    /// The descriptor, without a time-out.
    fn into_descriptor(self) -> io::Result<OwnedFd> {
        self.wait_at_most(None)?;
        Ok(match self.stream {
            Stream::Unix(stream) => stream.into(),
            Stream::Tcp(stream) => stream.into(),
        })
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The payload of a chunk or option reply.
    fn payload(&mut self, length: u64) -> Result<Vec<u8>, ClientError> {
        if length > u64::from(CHUNK_LIMIT) {
            return Err(ClientError::Protocol("a payload above 32 MiB"));
        }
        let mut bytes = vec![0; length as usize];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// Each address gets the time-out; with a deadline its share of what is left.
fn connect_tcp(
    addresses: &[SocketAddr],
    timeout: Duration,
    deadline: Option<Instant>,
) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for (number, address) in addresses.iter().enumerate() {
        let share = deadline.map(|deadline| {
            let others = u32::try_from(addresses.len() - number).unwrap_or(u32::MAX);
            deadline.saturating_duration_since(Instant::now()) / others
        });
        let timeout = share.map_or(timeout, |share| share.min(timeout));
        if timeout.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(address, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.mind_deadline()?;
        match &mut self.stream {
            Stream::Unix(stream) => stream.read(buffer),
            Stream::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.mind_deadline()?;
        match &mut self.stream {
            Stream::Unix(stream) => stream.write(buffer),
            Stream::Tcp(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
