//! `--metrics-listen`: `/metrics`, `/health` and `/primary/RES` over HTTP.
//!
//! Invariants:
//! - At most [`CONNECTIONS_MAX`] callers at once; the next waits in the backlog. Each has
//!   [`REQUEST_LIMIT`] for its request, however it drips, and [`ANSWER_LIMIT`] for taking the answer.
//! - However often callers ask, the data threads are asked once in [`FRESH`].
//! - No read is ever dropped: it ends by end of file or by `shutdown`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio_uring::net::TcpStream;
use tracing::debug;

use super::accept::Acceptor;
use super::adm::configuration::Configuration;
use super::registry::Registry;
use crate::control::check::{self, Beside, Level};
use crate::control::http::{HEAD_MAX, Parsed, answer, parse};
use crate::control::{Report, metrics};
use crate::resource::Role;

/// Callers at once.
const CONNECTIONS_MAX: usize = 16;
/// For the request: callers that are in no hurry must not keep the check of a load balancer waiting.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);
/// For taking the answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Reports are asked for anew when they are older.
const FRESH: Duration = Duration::from_millis(500);
/// The configuration is read anew when it is older.
const CONFIGURATION_FRESH: Duration = Duration::from_secs(5);
/// How long that may take.
const CONFIGURATION_LIMIT: Duration = Duration::from_secs(2);
const PLAIN: &str = "text/plain; charset=utf-8";

/// Reports, and when they were made.
type Answered = (Instant, Rc<Vec<Report>>);

/// What all callers share.
#[derive(Clone)]
pub(super) struct Scrapes {
    registry: Rc<Registry>,
    room: Arc<Semaphore>,
    last: Rc<Mutex<Option<Answered>>>,
    files: Rc<Mutex<Files>>,
}

/// The configuration as `/health` knows it.
#[derive(Default)]
struct Files {
    /// And when it was read.
    read: Option<(Instant, Configuration)>,
    /// It is being read.
    reading: Option<tokio::task::JoinHandle<Configuration>>,
}

impl Scrapes {
    pub(super) fn new(registry: Rc<Registry>) -> Self {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { registry, room, last: Rc::default(), files: Rc::default() }
    }

    /// Reports that are fresh enough; who comes meanwhile waits for the same.
    async fn reports(&self) -> Rc<Vec<Report>> {
        let mut last = self.last.lock().await;
        if let Some((at, reports)) = &*last
            && at.elapsed() < FRESH
        {
            return reports.clone();
        }
        let reports = Rc::new(self.registry.reports(None).await);
        *last = Some((Instant::now(), reports.clone()));
        reports
    }

    /// What the configuration says beside what is up. The files are read again when what was read is old, and on
    /// a thread of their own: a file system that does not answer holds up nobody.
    async fn beside(&self, reports: &[Report]) -> Beside {
        let mut kept = self.files.lock().await;
        let is_old = kept.read.as_ref().is_none_or(|(at, _)| at.elapsed() >= CONFIGURATION_FRESH);
        if is_old {
            let settings = &self.registry.settings;
            let (node, path) = (settings.node.clone(), settings.config.clone());
            // One that hangs is the only one.
            let reading = kept.reading.get_or_insert_with(|| {
                tokio::task::spawn_blocking(move || Configuration::of(node, &path))
            });
            match tokio::time::timeout(CONFIGURATION_LIMIT, reading).await {
                Ok(read) => {
                    kept.reading = None;
                    kept.read = read.ok().map(|read| (Instant::now(), read));
                }
                Err(_) => kept.read = None,
            }
        }
        match &kept.read {
            Some((_, configuration)) => configuration.beside(reports, None),
            None => {
                let path = self.registry.settings.config.display();
                let wrong = Some(format!("{path}: it cannot be read in time"));
                Beside { down: Vec::new(), wrong }
            }
        }
    }

    /// The status, the content type and the text.
    async fn page(&self, path: &str) -> (u16, &'static str, String) {
        let reports = match path {
            "/metrics" | "/health" => self.reports().await,
            _ if path.starts_with("/primary/") => self.reports().await,
            _ => return (404, PLAIN, "try /metrics, /health or /primary/RESOURCE\n".to_owned()),
        };
        match path.strip_prefix("/primary/") {
            Some(resource) => {
                let (status, text) = primary(&reports, resource);
                (status, PLAIN, text.to_owned())
            }
            None if path == "/metrics" => (200, metrics::CONTENT_TYPE, metrics::text(&reports)),
            None => {
                let (line, level) = check::line(&reports, &self.beside(&reports).await);
                (if level == Level::Critical { 503 } else { 200 }, PLAIN, line)
            }
        }
    }
}

/// Whether clients are served here: what a load balancer asks.
fn primary(reports: &[Report], resource: &str) -> (u16, &'static str) {
    let Some(report) = reports.iter().find(|one| one.status.name == resource) else {
        return (404, "no such resource is up\n");
    };
    let status = &report.status;
    match status.role {
        Role::Primary if status.failed.is_none() => (200, "Primary\n"),
        Role::Primary => (503, "failed\n"),
        Role::Secondary | Role::Unknown => (503, "Secondary\n"),
    }
}

/// Answers callers until the task is dropped.
pub(super) async fn serve(listener: Acceptor<TcpListener>, scrapes: Scrapes) {
    loop {
        let Ok(permit) = scrapes.room.clone().acquire_owned().await else { return };
        let stream = Rc::new(TcpStream::from_std(listener.next().await.0));
        let scrapes = scrapes.clone();
        tokio_uring::spawn(async move {
            if let Err(error) = converse(&stream, &scrapes).await {
                debug!("metrics: {error}");
            }
            // Already gone is as good.
            let _ = stream.shutdown(std::net::Shutdown::Both);
            drop(permit);
        });
    }
}

/// Ends what is under way on the stream in so long, unless it is aborted before.
fn shut_down_late(stream: &Rc<TcpStream>, limit: Duration) -> tokio::task::JoinHandle<()> {
    let stream = stream.clone();
    tokio_uring::spawn(async move {
        tokio::time::sleep(limit).await;
        let _ = stream.shutdown(std::net::Shutdown::Both);
    })
}

/// One request and its answer.
async fn converse(stream: &Rc<TcpStream>, scrapes: &Scrapes) -> std::io::Result<()> {
    let mut head = Vec::new();
    let late = shut_down_late(stream, REQUEST_LIMIT);
    let parsed = loop {
        let (read, chunk) = stream.read(Vec::with_capacity(HEAD_MAX)).await;
        let read = match read {
            Ok(0) => break None,
            Ok(read) => read,
            Err(error) => {
                late.abort();
                return Err(error);
            }
        };
        head.extend_from_slice(&chunk[..read]);
        match parse(&head) {
            Parsed::More => {}
            done => break Some(done),
        }
    };
    late.abort();
    let bytes = match parsed {
        None | Some(Parsed::More) => return Ok(()),
        Some(Parsed::Refused(status)) => answer(status, PLAIN, "", false),
        Some(Parsed::Request(request)) => {
            let (status, kind, text) = scrapes.page(&request.path).await;
            answer(status, kind, &text, request.head_only)
        }
    };
    let late = shut_down_late(stream, ANSWER_LIMIT);
    let (written, _) = stream.write_all(bytes).await;
    late.abort();
    written
}
