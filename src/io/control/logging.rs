//! The log: lines on standard error, or with fields to the journal where that is the journal
//! (`journal`), with a priority in front where it takes no fields.
//!
//! Invariants:
//! - A line is written by a thread of its own: a standard error that is closed, full or stopped
//!   never holds up a data thread. Lines that do not fit into the queue are counted, and the
//!   number is said when there is room again.
//! - Nothing about the log can end the daemon.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::journal::{self, Entry, Journal};

/// Lines that wait to be written.
const QUEUE: usize = 4096;

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

#[derive(Clone)]
struct Queue {
    lines: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

static LOG: OnceLock<Queue> = OnceLock::new();

/// Starts the log. What is logged is `info` and worse, or what `TANDEM_LOG` says.
pub(crate) fn start() {
    let (lines, messages) = sync_channel(QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    let queue = Queue { lines, lost: lost.clone() };
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let journal = journal::is_stream(&stream, std::io::stderr());
    let fields = Journal::open(&stream, std::io::stderr(), Path::new(journal::SOCKET));
    let writer = std::thread::Builder::new().name("log".to_owned());
    if writer.spawn(move || write_lines(&messages, &lost, journal, fields.as_ref())).is_err()
        || LOG.set(queue.clone()).is_err()
    {
        return;
    }
    let filter = EnvFilter::try_from_env("TANDEM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Set already: a test's. The log then goes there.
    let _ = tracing::subscriber::set_global_default(
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .log_internal_errors(false)
            .event_format(Lines { journal })
            .with_writer(queue)
            .finish(),
    );
}

/// Returns when everything that was logged before is written, after 2 s at the latest.
pub(crate) fn flush() {
    let Some(queue) = LOG.get() else { return };
    let (done, written) = sync_channel(1);
    if queue.lines.try_send(Message::Flush(done)).is_ok() {
        let _ = written.recv_timeout(Duration::from_secs(2));
    }
}

fn write_lines(
    messages: &Receiver<Message>,
    lost: &AtomicU64,
    journal: bool,
    fields: Option<&Journal>,
) {
    let warning = if journal { "<4>" } else { "warning: " };
    let mut stderr = std::io::stderr();
    while let Ok(message) = messages.recv() {
        // A standard error that is gone is no reason to stop.
        let _ = match message {
            Message::Line(line) if journal => {
                let entry = entry(&line);
                // A journal that is gone is still told what standard error takes.
                match fields.map(|fields| fields.send(&entry)) {
                    Some(Ok(())) => Ok(()),
                    Some(Err(_)) | None => stderr.write_all(entry.prefixed().as_bytes()),
                }
            }
            Message::Line(line) => stderr.write_all(&line),
            Message::Flush(done) => done.try_send(()).map_err(std::io::Error::other),
        };
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0 {
            let _ = writeln!(stderr, "{warning}{count} lines of the log were lost");
        }
    }
}

/// What [`Lines`] has written for the journal: priority, resource and text, a zero between them.
fn entry(line: &[u8]) -> Entry {
    let line = String::from_utf8_lossy(line);
    let mut parts = line.trim_end_matches('\n').splitn(3, '\0');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (priority, resource, text) = (next().parse().unwrap_or(6), next(), next());
    Entry { priority, resource, text }
}

impl Write for Queue {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.lines.try_send(Message::Line(bytes.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Parts for the journal, `2026-11-25 03:02:11.123 text` elsewhere, with the level where it is
/// not the usual one.
struct Lines {
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (priority, word) = match *event.metadata().level() {
            Level::ERROR => (3, "error: "),
            Level::WARN => (4, "warning: "),
            Level::INFO => (6, ""),
            Level::DEBUG | Level::TRACE => (7, "debug: "),
        };
        let mut words = Words::default();
        event.record(&mut words);
        // A line is one line, whatever a name from outside holds.
        let text = words.line().replace(['\n', '\r', '\0'], "; ");
        if self.journal {
            write!(writer, "{priority}\0{}\0", words.resource)?;
        } else {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let time = crate::control::iso(now.as_secs());
            write!(writer, "{time}.{:03} {word}", now.subsec_millis())?;
        }
        writeln!(writer, "{text}")
    }
}

/// The parts of a line: `r0: text key=value`.
#[derive(Default)]
struct Words {
    resource: String,
    message: String,
    rest: String,
}

impl Words {
    fn line(&self) -> String {
        let prefixed = self.resource.is_empty() || self.message.starts_with(&self.resource);
        let (resource, colon) = if prefixed { ("", "") } else { (&*self.resource, ": ") };
        format!("{resource}{colon}{}{}", self.message, self.rest)
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "resource" => self.resource = format!("{value:?}"),
            name => self.rest += &format!(" {name}={value:?}"),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::{Words, entry};

    #[test]
    fn a_line_for_the_journal_is_read_as_it_was_written() {
        let read = entry(b"4\0r0\0r0/0: a: b\n");
        assert_eq!((read.priority, &*read.resource, &*read.text), (4, "r0", "r0/0: a: b"));
        assert_eq!(entry(b"6\0\0ended\n").prefixed(), "<6>ended\n");
    }

    #[test]
    fn the_resource_stands_in_front_once() {
        let line = |resource: &str, message: &str| {
            let words =
                Words { resource: resource.into(), message: message.into(), ..Words::default() };
            words.line()
        };
        assert_eq!(line("r0", "up"), "r0: up");
        assert_eq!(line("r0", "r0/0 bob: up"), "r0/0 bob: up");
        assert_eq!(line("", "ended"), "ended");
    }
}
