//! The admin socket: JSON lines in, JSON lines out (`control::protocol`).
//!
//! Invariants:
//! - A line is at most `LINE_MAX` bytes; a longer one ends the connection after an error line.
//! - At most [`CONNECTIONS_MAX`] callers at once; the next waits in the backlog. Those that watch
//!   leave room for orders, and who neither asks nor watches is dropped in the end.
//! - No read is ever dropped: a connection's reads end by end of file or by `shutdown`.
//! - Who may call is decided by the mode and group of the socket.

use std::future::poll_fn;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio_uring::net::UnixStream;
use tracing::{debug, warn};

use super::accept::Acceptor;
use super::registry::{Change, Registry};
use super::restart;
use crate::control::protocol::{LINE_MAX, Request, Response};
use crate::resource::{Command, Status};

/// Callers at once.
const CONNECTIONS_MAX: usize = 256;
/// Of them, those that watch.
pub(super) const WATCHERS_MAX: usize = 192;
/// A caller that has begun a line has to end it in this time.
const LINE_LIMIT: Duration = Duration::from_secs(30);
/// A caller may be silent between two requests for so long: a person may be thinking.
const IDLE_LIMIT: Duration = Duration::from_secs(600);
/// How often counters and the progress of a resync are sent to a watcher while one runs.
const PROGRESS: Duration = Duration::from_secs(1);
/// A caller that takes nothing for so long is dropped.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether a restart is over.
const STILL: Duration = Duration::from_millis(5);
/// Bytes asked for in one read.
const CHUNK: usize = 16 << 10;

/// Answers callers until the task is dropped.
pub(crate) async fn serve(listener: Acceptor<UnixListener>, registry: Rc<Registry>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let watchers = Arc::new(Semaphore::new(WATCHERS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let stream = Rc::new(UnixStream::from_std(listener.next().await));
        let (registry, watchers) = (registry.clone(), watchers.clone());
        tokio_uring::spawn(async move {
            if let Err(error) = Caller::new(stream, registry, watchers).run().await {
                debug!("admin socket: {error}");
            }
            drop(permit);
        });
    }
}

struct Caller {
    stream: Rc<UnixStream>,
    registry: Rc<Registry>,
    watchers: Arc<Semaphore>,
    /// What has arrived and is not used yet.
    buffer: Vec<u8>,
}

impl Caller {
    fn new(stream: Rc<UnixStream>, registry: Rc<Registry>, watchers: Arc<Semaphore>) -> Self {
        Self { stream, registry, watchers, buffer: Vec::new() }
    }

    async fn run(mut self) -> std::io::Result<()> {
        while let Some(line) = self.line().await? {
            let request = match serde_json::from_slice::<Request>(&line) {
                Ok(request) => request,
                Err(error) => {
                    let text = format!(
                        "not a request of tandemadm {}, as this tandemd: {error}",
                        crate::control::version::VERSION
                    );
                    send(&self.stream, &Response::Error(text)).await?;
                    continue;
                }
            };
            if let Request::Watch { resource } = request {
                let Ok(_place) = self.watchers.clone().try_acquire_owned() else {
                    let text = format!("{WATCHERS_MAX} callers watch already; end some of them");
                    return send(&self.stream, &Response::Error(text)).await;
                };
                return self.watch(resource).await;
            }
            // Who was let in before the doors were closed for a restart.
            while self.registry.stands_still.get() {
                tokio::time::sleep(STILL).await;
            }
            let response = match request {
                Request::Daemon { order } => {
                    let caller = self.stream.as_raw_fd();
                    match restart::ask(&self.registry, order, caller).await {
                        Ok(text) => Response::Done(text),
                        Err(refusal) => Response::Refused(refusal),
                    }
                }
                request => answer(&self.registry, request).await,
            };
            send(&self.stream, &response).await?;
        }
        Ok(())
    }

    /// Ends a read that is under way in so long, unless it is aborted before.
    fn shut_down_after(&self, limit: Duration) -> tokio::task::JoinHandle<()> {
        let stream = self.stream.clone();
        tokio_uring::spawn(async move {
            tokio::time::sleep(limit).await;
            // Already gone is as good.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        })
    }

    /// The next line without its line break, `None` at the end.
    async fn line(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        let mut begun = None;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(Some(line));
            }
            searched = self.buffer.len();
            if searched >= LINE_MAX {
                let text = format!("a request is a line of at most {LINE_MAX} bytes");
                send(&self.stream, &Response::Error(text)).await?;
                return Ok(None);
            }
            let limit = match searched {
                0 => IDLE_LIMIT,
                _ => LINE_LIMIT.saturating_sub(begun.get_or_insert_with(Instant::now).elapsed()),
            };
            let deadline = self.shut_down_after(limit);
            let (read, chunk) = self.stream.read(Vec::with_capacity(CHUNK)).await;
            deadline.abort();
            let read = read?;
            if read == 0 {
                return Ok(None);
            }
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }

    /// Snapshots until the caller hangs up, which is noticed within [`PROGRESS`].
    async fn watch(self, resource: Option<String>) -> std::io::Result<()> {
        let stream = self.stream.clone();
        let hung_up = Rc::new(Notify::new());
        let tells = hung_up.clone();
        let reader = tokio_uring::spawn(async move {
            while let (Ok(1..), _) = stream.read(Vec::with_capacity(512)).await {}
            tells.notify_one();
        });
        let result = self.report_changes(resource.as_deref(), &hung_up).await;
        // Ends the reader's read; it is never dropped under way.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let _ = reader.await;
        result
    }

    async fn report_changes(
        &self,
        resource: Option<&str>,
        hung_up: &Notify,
    ) -> std::io::Result<()> {
        let mut changes = self.registry.subscribe();
        self.snapshot(resource).await?;
        send(&self.stream, &Response::Complete).await?;
        let mut gone = pin!(hung_up.notified());
        loop {
            // Not operations of the ring: dropping them loses nothing. Who has hung up gives his
            // place back at once, so that hundreds of short looks do not use all of them.
            let mut next = pin!(tokio::time::timeout(PROGRESS, changes.recv()));
            let either = poll_fn(|context| match gone.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => next.as_mut().poll(context).map(Some),
            });
            let Some(next) = either.await else { return Ok(()) };
            if self.registry.stands_still.get() {
                // It will be as it was.
                continue;
            }
            let Ok(change) = next else {
                self.progress(resource).await?;
                continue;
            };
            match change {
                Ok(Change::Status(entry, status)) => {
                    if resource.is_none_or(|one| one == entry.config.name) {
                        let report = self.registry.report_of(&entry, (*status).clone());
                        send(&self.stream, &Response::Report(Box::new(report))).await?;
                    }
                }
                Ok(Change::Gone(name)) => {
                    if resource.is_none_or(|one| one == name) {
                        send(&self.stream, &Response::Gone(name)).await?;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => self.snapshot(resource).await?,
                Err(broadcast::error::RecvError::Closed) => break,
            }
        }
        Ok(())
    }

    async fn snapshot(&self, resource: Option<&str>) -> std::io::Result<()> {
        for report in self.registry.reports(resource).await {
            send(&self.stream, &Response::Report(Box::new(report))).await?;
        }
        Ok(())
    }

    /// Fresh figures of the resources that resync.
    async fn progress(&self, resource: Option<&str>) -> std::io::Result<()> {
        for entry in self.registry.chosen(resource) {
            if resyncs(&entry.status()) {
                let report = self.registry.report(&entry).await;
                send(&self.stream, &Response::Report(Box::new(report))).await?;
            }
        }
        Ok(())
    }
}

fn resyncs(status: &Status) -> bool {
    let mut peers = status.connections.iter().flat_map(|one| &one.peer_devices);
    peers.any(|peer| peer.resync.is_some())
}

async fn answer(registry: &Rc<Registry>, request: Request) -> Response {
    let result = match request {
        Request::Up { definition } => registry.up(&definition).await,
        Request::CheckUp { definition } => registry.check_up(&definition).await,
        Request::NewResource { definition } => registry.new_resource(&definition).await,
        Request::Attach { definition, volume } => registry.attach(&definition, volume).await,
        Request::CheckDisk { definition, volume } => registry.check_disk(&definition, volume).await,
        Request::Connect { definition, peer, discard_my_data, tentative } => {
            let command = Command::Connect { peer, discard_my_data, tentative };
            registry.connect(&definition, command).await
        }
        Request::Down { resource } => registry.down(&resource).await,
        Request::Order { command: Command::Attach { .. } | Command::Down { .. }, .. } => {
            return Response::Error("attach and down are requests of their own".to_owned());
        }
        Request::Order { command: Command::SetOptions { .. }, .. } => {
            return Response::Error("options are a request of their own".to_owned());
        }
        Request::Order { resource, command } => registry.order(&resource, command).await,
        Request::Options { resource, options, volumes, resync_after, secrets } => {
            registry.set_options(&resource, *options, volumes, resync_after, secrets).await
        }
        Request::Paths { definition } => registry.set_paths(&definition).await,
        Request::Volumes { definition } => registry.set_volumes(&definition).await,
        Request::Running { resource } => {
            return Response::Running(registry.running(&resource).map(Box::new));
        }
        Request::Status { resource } => {
            return Response::Reports(registry.reports(resource.as_deref()).await);
        }
        Request::Daemon { .. } | Request::Watch { .. } => {
            return Response::Error("a request of its own".to_owned());
        }
    };
    match result {
        Ok(text) => Response::Done(text),
        Err(refusal) => Response::Refused(refusal),
    }
}

async fn send(stream: &UnixStream, response: &Response) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(response).map_err(|error| {
        warn!("admin socket: an answer cannot be written as JSON: {error}");
        std::io::Error::other(error)
    })?;
    line.push(b'\n');
    // A write may be dropped, unlike a read: its buffer lives until the kernel is done with it, and
    // the connection is ended.
    match tokio::time::timeout(SEND_LIMIT, stream.write_all(line)).await {
        Ok((result, _)) => result,
        Err(_) => {
            stream.shutdown(std::net::Shutdown::Both)?;
            Err(std::io::Error::from(std::io::ErrorKind::TimedOut))
        }
    }
}
