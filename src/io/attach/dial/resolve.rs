//! The addresses of a server, from the name service, which may be silent for as long as it likes.
//!
//! Invariants:
//! - Nobody waits for a name longer than is said here. One look-up of a name is under way at most.
//! - The addresses of the last look-up that went well are kept: where the name service is gone, or slow,
//!   they are the answer. They are asked for anew each time.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nbd::client::Address;

use crate::attach::Server;

use super::STACK;

/// How long a look-up may take where there are addresses of an earlier one.
const PATIENCE: Duration = Duration::from_millis(300);

/// Looks a name up, and takes as long as it takes.
pub(crate) type LookUp = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// By the system's name service.
pub(super) fn by_system(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(name.to_socket_addrs()?.collect())
}

#[derive(Default)]
struct State {
    is_wanted: bool,
    /// Look-ups that have ended.
    ended: u64,
    /// Why the last one went wrong.
    error: Option<String>,
    /// Of the last one that went well.
    addresses: Vec<SocketAddr>,
}

/// A name and what is known of it.
pub(super) struct Name {
    state: Mutex<State>,
    changed: Condvar,
}

impl Name {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_up(&self, name: &str, look_up: &LookUp) {
        let mut state = self.state();
        loop {
            while !state.is_wanted {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            let found = look_up(name);
            state = self.state();
            state.is_wanted = false;
            state.ended += 1;
            match found {
                Ok(addresses) if addresses.is_empty() => {
                    state.error = Some("the host name has no address".to_owned());
                }
                Ok(addresses) => (state.error, state.addresses) = (None, addresses),
                Err(error) => state.error = Some(error.to_string()),
            }
            self.changed.notify_all();
        }
    }
}

/// Where a server is.
#[derive(Clone)]
pub(super) enum Place {
    /// It needs no name service.
    Known(Address),
    Named(Arc<Name>),
}

impl Place {
    /// With a thread for a server that has a name, from the start, as those of `dial`.
    pub(super) fn of(server: &Server, look_up: &Arc<LookUp>) -> io::Result<Self> {
        let written = match server.address() {
            Address::Tcp(written) => written,
            other => return Ok(Self::Known(other)),
        };
        if let Ok(address) = written.parse() {
            return Ok(Self::Known(Address::Resolved(vec![address])));
        }
        let name = Arc::new(Name { state: Mutex::default(), changed: Condvar::new() });
        let (of_thread, look_up) = (name.clone(), look_up.clone());
        let thread = std::thread::Builder::new().name("resolve".to_owned()).stack_size(STACK);
        thread.spawn(move || of_thread.look_up(&written, &*look_up))?;
        Ok(Self::Named(name))
    }

    /// The address for a client. A name that was never found is waited for until `deadline`.
    pub(super) fn address(&self, deadline: Instant) -> io::Result<Address> {
        let name = match self {
            Self::Known(address) => return Ok(address.clone()),
            Self::Named(name) => name,
        };
        let mut state = name.state();
        // One that is under way has begun before: it is as good.
        state.is_wanted = true;
        name.changed.notify_all();
        let (before, begun) = (state.ended, Instant::now());
        loop {
            let limit = match state.addresses.is_empty() {
                true => deadline,
                false => deadline.min(begun + PATIENCE),
            };
            let left = limit.saturating_duration_since(Instant::now());
            if state.ended != before || left.is_zero() {
                break;
            }
            state =
                name.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if !state.addresses.is_empty() {
            return Ok(Address::Resolved(state.addresses.clone()));
        }
        let why = match &state.error {
            Some(error) if state.ended != before => error.clone(),
            _ => "the name service does not answer".to_owned(),
        };
        Err(io::Error::other(why))
    }
}
