//! The daemon as `tandemadm` sees it: a blocking connection to the admin socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::config::Definition;
use crate::control::protocol::LINE_MAX;
use crate::control::{Report, Request, Response};
use crate::resource::{AdminResult, Command, Refusal};

use super::super::startup::process_state;
use super::Failure;

/// The daemon carries out every order within this time, and what the order itself waits for, or it is stuck.
const ORDER_LIMIT: Duration = Duration::from_secs(180);
/// `handler-timeout` at most.
const HANDLER_LIMIT: Duration = Duration::from_secs(3600);
/// An answer may be longer than a request: it may hold the reports of all resources.
const ANSWER_MAX: u64 = 64 << 20;

/// A connection to the daemon.
pub(in crate::io::control) struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    run_dir: PathBuf,
    /// A daemon that does not even say its state in this time is stuck, or stopped.
    patience: Duration,
    /// It has answered once: whoever accepts is not always there.
    is_there: bool,
    /// The last request was answered, with whatever.
    has_answered: bool,
    /// The request of what is watched on, and whether something came since it was asked for.
    watched: Option<(Vec<u8>, bool)>,
}

impl Client {
    /// Connects. `patience`: how long the daemon may be silent.
    ///
    /// # Errors
    /// Exit 20: nobody answers there, or the caller is not allowed to.
    pub(in crate::io::control) fn connect(
        run_dir: &Path,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let path = run_dir.join("control.sock");
        let stream = dial(&path, patience).map_err(|error| silent(run_dir, &error))?;
        let stream = BufReader::new(stream);
        Ok(Self {
            stream,
            path,
            run_dir: run_dir.to_owned(),
            patience,
            is_there: false,
            has_answered: false,
            watched: None,
        })
    }

    fn send(&mut self, request: &Request) -> Result<(), Failure> {
        self.has_answered = false;
        let line = line_of(request)?;
        let sent = self.stream.get_mut().write_all(&line);
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => silent(&self.run_dir, &no_answer(self.patience)),
            _ => silent(&self.run_dir, &error),
        })
    }

    /// A question that changes nothing. A daemon that was replaced meanwhile (`daemon restart`) has
    /// closed the connection, and the next one is asked once more.
    fn question(&mut self, request: &Request) -> Result<Option<Response>, Failure> {
        self.has_answered = false;
        let line = line_of(request)?;
        let mut anew = false;
        loop {
            let deadline = Some(Instant::now() + self.patience);
            let asked = self.stream.get_mut().write_all(&line).and_then(|()| self.line(deadline));
            match asked {
                Ok(Some(line)) => return self.response(&line).map(Some),
                Ok(None) => return Ok(None),
                Err(error) if has_ended(&error) && !anew => {
                    let stream = dial(&self.path, self.patience);
                    let stream = stream.map_err(|error| silent(&self.run_dir, &error))?;
                    (self.stream, anew) = (BufReader::new(stream), true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(silent(&self.run_dir, &no_answer(self.patience)));
                }
                Err(error) => return Err(silent(&self.run_dir, &error)),
            }
        }
    }

    /// The next line; `None` when `deadline` has passed.
    fn line(&mut self, deadline: Option<Instant>) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            self.stream.get_ref().set_read_timeout(left)?;
            let room = ANSWER_MAX.saturating_sub(line.len() as u64);
            match (&mut self.stream).take(room).read_until(b'\n', &mut line) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok(_) if line.ends_with(b"\n") => return Ok(Some(line)),
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next answer; `None` when `deadline` has passed.
    fn receive(&mut self, deadline: Option<Instant>) -> Result<Option<Response>, Failure> {
        match self.line(deadline).map_err(|error| silent(&self.run_dir, &error))? {
            Some(line) => self.response(&line).map(Some),
            None => Ok(None),
        }
    }

    /// The answer to an order that may take so long. A daemon that falls silent meanwhile is not waited for.
    fn answer(&mut self, limit: Duration) -> Result<Option<Response>, Failure> {
        let until = Instant::now() + limit;
        loop {
            let answer = self.receive(Some(until.min(Instant::now() + ORDER_LIMIT)))?;
            if answer.is_some() || Instant::now() >= until {
                return Ok(answer);
            }
            Self::connect(&self.run_dir, self.patience)?.knock()?;
        }
    }

    fn response(&mut self, line: &[u8]) -> Result<Response, Failure> {
        self.has_answered = true;
        let response = serde_json::from_slice(line).map_err(|error| {
            let path = self.path.display();
            Failure::new(20, format!("{path}: what answers is no tandemd of this version: {error}"))
        })?;
        self.is_there = true;
        Ok(response)
    }

    /// Asks for nothing, unless the daemon has answered before.
    fn knock(&mut self) -> Result<(), Failure> {
        match self.is_there {
            true => Ok(()),
            false => self.ask(&Request::Running { resource: String::new() }).map(|_| ()),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Exit 20: the daemon is gone, stuck, or does not understand.
    pub(in crate::io::control) fn ask(&mut self, request: &Request) -> Result<Response, Failure> {
        let (limit, response) = match request {
            Request::Status { .. } | Request::Running { .. } => {
                (self.patience, self.question(request)?)
            }
            _ => {
                self.knock()?;
                self.send(request)?;
                (limit_of(request), self.answer(limit_of(request))?)
            }
        };
        match response {
            Some(Response::Error(text)) => Err(Failure::new(20, format!("tandemd: {text}"))),
            Some(response) => Ok(response),
            None => Err(silent(&self.run_dir, &no_answer(limit))),
        }
    }

    /// Whether what was asked last was answered: a failure of it is what the daemon says, and no silence.
    pub(in crate::io::control) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// An order: done with a text, or refused.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(in crate::io::control) fn order(
        &mut self,
        request: &Request,
    ) -> Result<AdminResult, Failure> {
        match self.ask(request)? {
            Response::Done(text) => Ok(Ok(text)),
            Response::Refused(refusal) => Ok(Err(refusal)),
            other => Err(unexpected(&other)),
        }
    }

    /// An order after which the daemon may be gone: `None`, it is.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(in crate::io::control) fn last_order(
        &mut self,
        request: &Request,
    ) -> Result<Option<AdminResult>, Failure> {
        self.knock()?;
        self.send(request)?;
        let line = match self.line(Some(Instant::now() + ORDER_LIMIT)) {
            Ok(Some(line)) => line,
            Ok(None) => return Err(silent(&self.run_dir, &no_answer(ORDER_LIMIT))),
            Err(error) if has_ended(&error) => return Ok(None),
            Err(error) => return Err(silent(&self.run_dir, &error)),
        };
        match self.response(&line)? {
            Response::Done(text) => Ok(Some(Ok(text))),
            Response::Refused(refusal) => Ok(Some(Err(refusal))),
            Response::Error(text) => Err(Failure::new(20, format!("tandemd: {text}"))),
            other => Err(unexpected(&other)),
        }
    }

    /// The pid of the daemon; empty: its lock does not say.
    pub(in crate::io::control) fn pid(&self) -> String {
        holder_of(&self.run_dir)
    }

    /// The daemon has closed the connection without an answer. Whether that process lives all the same: it was
    /// replaced (`daemon restart`) by somebody else's order.
    pub(in crate::io::control) fn was_replaced(&mut self, pid: &str) -> bool {
        self.is_there = false;
        !pid.is_empty() && self.knock().is_ok() && self.pid() == pid
    }

    /// An order for the state machine.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(in crate::io::control) fn command(
        &mut self,
        resource: &str,
        command: Command,
    ) -> Result<Result<String, Refusal>, Failure> {
        self.order(&Request::Order { resource: resource.to_owned(), command })
    }

    /// What is up.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(in crate::io::control) fn reports(
        &mut self,
        resource: Option<&str>,
    ) -> Result<Vec<Report>, Failure> {
        match self.ask(&Request::Status { resource: resource.map(str::to_owned) })? {
            Response::Reports(reports) => Ok(reports),
            other => Err(unexpected(&other)),
        }
    }

    /// What a resource runs with; `None`: it is not up.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(in crate::io::control) fn running(
        &mut self,
        resource: &str,
    ) -> Result<Option<Box<Definition>>, Failure> {
        match self.ask(&Request::Running { resource: resource.to_owned() })? {
            Response::Running(definition) => Ok(definition),
            other => Err(unexpected(&other)),
        }
    }

    /// Begins to watch; [`Self::next`] brings what happens.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(in crate::io::control) fn watch(&mut self, resource: Option<&str>) -> Result<(), Failure> {
        self.knock()?;
        self.send(&Request::Watch { resource: resource.map(str::to_owned) })
    }

    /// The same, and a daemon that is replaced (`daemon restart`) is watched on: then everything that
    /// is up comes once more.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(in crate::io::control) fn watch_on(
        &mut self,
        resource: Option<&str>,
    ) -> Result<(), Failure> {
        self.watch(resource)?;
        let request = Request::Watch { resource: resource.map(str::to_owned) };
        self.watched = Some((line_of(&request)?, false));
        Ok(())
    }

    /// The next thing that a watch brings; `None` when `deadline` has passed.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(in crate::io::control) fn next(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<Response>, Failure> {
        let line = loop {
            match self.line(deadline) {
                Ok(Some(line)) => break line,
                Ok(None) => return Ok(None),
                Err(error) => {
                    let watched = self.watched.take_if(|(_, came)| *came && has_ended(&error));
                    let Some((line, _)) = watched else {
                        return Err(silent(&self.run_dir, &error));
                    };
                    let stream = dial(&self.path, self.patience);
                    let stream = stream.map_err(|error| silent(&self.run_dir, &error))?;
                    self.stream = BufReader::new(stream);
                    let sent = self.stream.get_mut().write_all(&line);
                    sent.map_err(|error| silent(&self.run_dir, &error))?;
                    self.watched = Some((line, false));
                }
            }
        };
        if let Some((_, came)) = &mut self.watched {
            *came = true;
        }
        match self.response(&line)? {
            Response::Error(text) => Err(Failure::new(20, format!("tandemd: {text}"))),
            next => Ok(Some(next)),
        }
    }
}

/// How long the daemon may take for an order.
fn limit_of(request: &Request) -> Duration {
    let more = match request {
        Request::Order { command: Command::Secondary { wait_ms, .. }, .. } => {
            Duration::from_millis(*wait_ms)
        }
        // fence-peer may run first, for as long as `handler-timeout` lets it.
        Request::Order { command: Command::Primary { .. }, .. } => HANDLER_LIMIT,
        _ => Duration::ZERO,
    };
    ORDER_LIMIT + more
}

/// A request as it is sent.
fn line_of(request: &Request) -> Result<Vec<u8>, Failure> {
    let mut line = serde_json::to_vec(request)
        .map_err(|error| Failure::new(20, format!("the request cannot be written: {error}")))?;
    if line.len() >= LINE_MAX {
        return Err(Failure::new(10, "the definition of the resource is too long"));
    }
    line.push(b'\n');
    Ok(line)
}

/// The daemon has closed the connection, as it does when it ends.
fn has_ended(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Connects, and gives up when nobody has taken the connection for so long: the backlog of a daemon
/// that stands still may be full.
fn dial(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let stream = UnixStream::from(socket);
    stream.set_write_timeout(Some(patience))?;
    match connect(stream.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => Ok(stream),
        Err(Errno::EAGAIN) => Err(no_answer(patience)),
        Err(error) => Err(error.into()),
    }
}

fn no_answer(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {} s", limit.as_secs()))
}

fn unexpected(response: &Response) -> Failure {
    Failure::new(20, format!("tandemd: an answer to another question: {response:?}"))
}

fn silent(run_dir: &Path, error: &io::Error) -> Failure {
    let path = run_dir.join("control.sock");
    let path = path.display();
    if error.kind() == io::ErrorKind::PermissionDenied {
        let text = format!(
            "tandemd cannot be asked on {path}: Permission denied\nBe root, or in the group that \
             tandemd was started with (--socket-group)."
        );
        return Failure::new(20, text);
    }
    if error.raw_os_error() == Some(Errno::ENAMETOOLONG as i32) {
        let text = format!(
            "tandemd cannot be asked on {path}: {error}\nA socket's path has 107 bytes at most: \
             give --run-dir a shorter one, to tandemd too."
        );
        return Failure::new(20, text);
    }
    let holder = holder_of(run_dir);
    let lock = std::fs::File::open(run_dir.join("lock"));
    let hint = match process_state(&holder) {
        None if lock.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) => {
            "Only root may know whether it runs: look with `systemctl status tandemd`.".to_owned()
        }
        None | Some('Z' | 'X' | 'x') => "Start it: `systemctl start tandemd`.".to_owned(),
        Some('T' | 't') => format!("Its process {holder} is stopped: `kill -CONT {holder}`."),
        Some(_) => format!("It should run as pid {holder}: look at its log."),
    };
    Failure::new(20, format!("tandemd does not answer on {path}: {error}\n{hint}"))
}

/// The process that should answer: it is named by the lock, and runs, or stands still.
pub(super) fn holder(run_dir: &Path) -> Option<String> {
    let holder = holder_of(run_dir);
    let state = process_state(&holder);
    (!matches!(state, None | Some('Z' | 'X' | 'x'))).then_some(holder)
}

/// The pid of the daemon of a run folder, as its lock says; empty: none.
fn holder_of(run_dir: &Path) -> String {
    let mut holder = String::new();
    // A pid is short; the file may be anybody's.
    if let Ok(lock) = std::fs::File::open(run_dir.join("lock")) {
        let _ = lock.take(32).read_to_string(&mut holder);
    }
    holder.trim().to_owned()
}

#[cfg(test)]
mod tests;
