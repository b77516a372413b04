//! A relay between alice and bob that understands packets, and may swallow some of them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tandem::wire::{HEADER_SIZE, Kind, decode_header};

/// Listens on a port of its own and passes alice's connections on to bob.
pub(crate) struct Relay {
    pub(crate) port: u16,
    swallows: Arc<AtomicBool>,
}

impl Relay {
    /// To bob's port. `swallowed`: which packets of alice are dropped once it is asked for.
    pub(crate) fn new(bob: u16, swallowed: fn(Kind) -> bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let swallows = Arc::new(AtomicBool::new(false));
        let asked = swallows.clone();
        // The threads end with their sockets, or with the test.
        std::thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                let Ok(to) = TcpStream::connect(("127.0.0.1", bob)) else { continue };
                let (Ok(back), Ok(forth)) = (to.try_clone(), from.try_clone()) else { continue };
                let asked = asked.clone();
                std::thread::spawn(move || {
                    pass(from, to, |kind| swallowed(kind) && asked.load(Ordering::SeqCst))
                });
                std::thread::spawn(move || pass(back, forth, |_| false));
            }
        });
        Self { port, swallows }
    }

    /// From now on.
    pub(crate) fn swallow(&self) {
        self.swallows.store(true, Ordering::SeqCst);
    }
}

/// Passes packets on, whole, until one side ends; then both do.
fn pass(mut from: TcpStream, mut to: TcpStream, swallows: impl Fn(Kind) -> bool) {
    let mut one = || -> std::io::Result<()> {
        let mut packet = vec![0; HEADER_SIZE];
        from.read_exact(&mut packet)?;
        let head: &[u8; HEADER_SIZE] = packet[..].try_into().expect("its length");
        let header = decode_header(head).map_err(std::io::Error::other)?;
        let rest = header.body_length() + header.payload_length();
        packet.resize(HEADER_SIZE + rest as usize, 0);
        from.read_exact(&mut packet[HEADER_SIZE..])?;
        if swallows(header.kind()) { Ok(()) } else { to.write_all(&packet) }
    };
    while one().is_ok() {}
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}
