//! Requests on their way to a server: sent, sent again when the server has gone, answered once.
//!
//! Invariants:
//! - A request stays here until it is answered. A session that ends is aborted: what it had not sent is
//!   thrown away. Then all that is unanswered is sent over the next one, in its order.
//! - What an old session had sent does not land late: a server of ours begins nothing of it once the first
//!   request of the next session has come (`io/client/devices.rs`), and what it had begun goes first.
//! - At most `ROOM` requests are held; the next one waits in the kernel.
//! - Nothing is written or read under the lock.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nbd::constants::{NBD_REQUEST_MAGIC, NBD_SIMPLE_REPLY_MAGIC};
use nbd::request::Command;
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{Shutdown, shutdown};

use crate::io::attach::dial::abort;

/// Requests that are held at most.
pub(super) const ROOM: usize = 128;
/// A long range is zeroed in parts of so many bytes, so that each is answered in time.
const PART: u64 = 128 << 20;
/// What a server that is about to leave answers: the request is for the next one.
const LEAVES: u32 = 108;

/// Where the outcome goes: the data of a read, or the number of an error as Linux has it.
pub(super) type Answer = Box<dyn FnOnce(Result<Vec<u8>, i32>) + Send>;

/// A request to a server.
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) data: Vec<u8>,
    /// It is answered when what it wrote has been flushed: of a server that does not do FUA.
    pub(super) then_flush: bool,
    pub(super) answer: Answer,
}

struct Pending {
    request: Request,
    sent_at: Option<Instant>,
    /// The server has written it, and its flush is next. The next server knows of neither: a session that
    /// ends begins with the write again.
    is_flushing: bool,
}

impl Pending {
    fn part(&self) -> u64 {
        match self.request.command {
            Command::WriteZeroes => self.request.length.min(PART),
            _ => self.request.length,
        }
    }

    fn message(&self, cookie: u64) -> Vec<u8> {
        let Request { command, flags, offset, data, .. } = &self.request;
        let flush = (&Command::Flush, &0, &0, 0, &Vec::new());
        let (command, flags, offset, length, data) = match self.is_flushing {
            true => flush,
            false => (command, flags, offset, self.part(), data),
        };
        let mut bytes = Vec::with_capacity(28 + data.len());
        bytes.extend(NBD_REQUEST_MAGIC.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.code().to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        // No request of FUSE, and no part, is longer.
        bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(data);
        bytes
    }
}

#[derive(Default)]
struct State {
    pending: BTreeMap<u64, Pending>,
    unsent: VecDeque<u64>,
    next: u64,
    session: Option<Arc<File>>,
    /// I/O fails, for there has been no server for too long.
    fails: bool,
}

/// The requests of one device.
pub(super) struct Engine {
    state: Mutex<State>,
    changed: Condvar,
    bell: Arc<EventFd>,
}

impl Engine {
    /// With its two threads. `bell` rings when a session has ended.
    pub(super) fn start(bell: Arc<EventFd>) -> io::Result<Arc<Self>> {
        let (state, changed) = Default::default();
        let engine = Arc::new(Self { state, changed, bell });
        let (sender, receiver) = (engine.clone(), engine.clone());
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("fuse-send").stack_size(256 << 10).spawn(move || sender.send())?;
        thread("fuse-receive").stack_size(256 << 10).spawn(move || receiver.receive())?;
        Ok(engine)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request in. Waits while there is no room.
    pub(super) fn submit(&self, request: Request) {
        let mut state = self.state();
        while state.pending.len() >= ROOM && !state.fails {
            state = self.sleep(state);
        }
        if state.fails {
            drop(state);
            return (request.answer)(Err(libc::EIO));
        }
        let cookie = state.next;
        state.next += 1;
        state.pending.insert(cookie, Pending { request, sent_at: None, is_flushing: false });
        state.unsent.push_back(cookie);
        self.changed.notify_all();
    }

    /// The next session: a connection right after GO. The one before has ended.
    pub(super) fn go_on(&self, socket: OwnedFd) {
        let mut state = self.state();
        state.session = Some(Arc::new(File::from(socket)));
        state.fails = false;
        self.changed.notify_all();
    }

    /// Whether there is a session.
    pub(super) fn is_connected(&self) -> bool {
        self.state().session.is_some()
    }

    /// Ends the session, if there is one: it is over when the bell rings.
    pub(super) fn close(&self) {
        if let Some(session) = &self.state().session {
            let _ = shutdown(session.as_raw_fd(), Shutdown::Both);
        }
    }

    /// Whether a request has waited longer than that for its answer.
    pub(super) fn is_late(&self, timeout: Duration) -> bool {
        let state = self.state();
        let mut sent = state.pending.values().filter_map(|one| one.sent_at);
        sent.any(|at| at.elapsed() > timeout)
    }

    /// There is no server, and nobody waits for one any longer.
    pub(super) fn fail(&self) {
        let mut state = self.state();
        if state.session.is_some() {
            return;
        }
        state.fails = true;
        state.unsent.clear();
        let all = std::mem::take(&mut state.pending);
        self.changed.notify_all();
        drop(state);
        for one in all.into_values() {
            (one.request.answer)(Err(libc::EIO));
        }
    }

    fn send(&self) {
        let mut state = self.state();
        loop {
            let Some(session) = state.session.clone() else {
                state = self.sleep(state);
                continue;
            };
            let Some(cookie) = state.unsent.pop_front() else {
                drop(session);
                state = self.sleep(state);
                continue;
            };
            let Some(one) = state.pending.get_mut(&cookie) else { continue };
            one.sent_at = Some(Instant::now());
            let message = one.message(cookie);
            drop(state);
            if (&*session).write_all(&message).is_err() {
                // Its reader sees the end.
                let _ = shutdown(session.as_raw_fd(), Shutdown::Both);
            }
            state = self.state();
        }
    }

    fn receive(&self) {
        let mut state = self.state();
        loop {
            let Some(session) = state.session.clone() else {
                state = self.sleep(state);
                continue;
            };
            drop(state);
            while self.reply(&session).is_ok() {}
            let _ = shutdown(session.as_raw_fd(), Shutdown::Both);
            // Whoever is in a call is told by the shutdown.
            while !abort(&*session) {
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(session);
            state = self.state();
            state.session = None;
            state.unsent = state.pending.keys().copied().collect();
            for one in state.pending.values_mut() {
                (one.sent_at, one.is_flushing) = (None, false);
            }
            let _ = self.bell.write(1);
        }
    }

    /// One reply. An error ends the session.
    fn reply(&self, session: &File) -> io::Result<()> {
        let mut session = session;
        let mut head = [0; 16];
        session.read_exact(&mut head)?;
        let number =
            |at: usize| head[at..at + 4].iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        if number(0) != NBD_SIMPLE_REPLY_MAGIC {
            return Err(malformed());
        }
        let (code, cookie) = (number(4), u64::from(number(8)) << 32 | u64::from(number(12)));
        if code == LEAVES {
            return Err(malformed());
        }
        let length = {
            let state = self.state();
            let one = state.pending.get(&cookie).filter(|one| one.sent_at.is_some());
            let one = one.ok_or_else(malformed)?;
            if one.request.command == Command::Read && code == 0 { one.request.length } else { 0 }
        };
        let mut data = vec![0; usize::try_from(length).map_err(|_| malformed())?];
        session.read_exact(&mut data)?;
        let mut state = self.state();
        let mut one = state.pending.remove(&cookie).ok_or_else(malformed)?;
        let part = one.part();
        let is_written = one.request.then_flush && !one.is_flushing;
        if code == 0 && (one.request.length > part || is_written) {
            match is_written {
                true => one.is_flushing = true,
                false => {
                    one.request.offset += part;
                    one.request.length -= part;
                }
            }
            one.sent_at = None;
            state.pending.insert(cookie, one);
            state.unsent.push_back(cookie);
            self.changed.notify_all();
            return Ok(());
        }
        self.changed.notify_all();
        drop(state);
        let known = [libc::EPERM, libc::EIO, libc::ENOMEM, libc::EINVAL, libc::ENOSPC];
        let error = known.into_iter().find(|one| u32::try_from(*one) == Ok(code));
        (one.request.answer)(match code {
            0 => Ok(data),
            95 => Err(libc::EOPNOTSUPP),
            _ => Err(error.unwrap_or(libc::EIO)),
        });
        Ok(())
    }
}
