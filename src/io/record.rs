//! `--record DIR`: everything that goes into a resource and everything that comes out, a JSON
//! object a line. [`super::replay`] takes it through the core again, which must give the same actions.
//!
//! ```text
//! {"start":{"config":{...},"seed":7,"now":123,"wall_clock_ms":1764000000123}}
//! {"at":124,"event":{...}}
//! {"action":{...}}
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::resource::{Action, Event, ResourceConfig, Time};

/// One line of a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// The first line.
    Start {
        /// What the resource was made with.
        start: Start,
    },
    /// An event, and when it was handled.
    Event {
        /// The clock of the data thread, nanoseconds.
        at: Time,
        /// What happened.
        event: Event,
    },
    /// An action, in the order in which the core gave it.
    Action {
        /// What to do.
        action: Action,
    },
}

/// What a resource is made with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The definition.
    pub config: ResourceConfig,
    /// For the identifiers.
    pub seed: u64,
    /// The clock of the data thread.
    pub now: Time,
    /// The wall clock at `now`, ms since 1970.
    pub wall_clock_ms: u64,
}

/// Borrowed twin of [`Line`], so that nothing is copied for recording.
#[derive(Serialize)]
#[serde(untagged)]
enum LineRef<'a> {
    Start { start: &'a Start },
    Event { at: Time, event: &'a Event },
    Action { action: &'a Action },
}

/// Writes a recording. When it cannot be written any more, it says so once and stops.
#[derive(Debug)]
pub(crate) struct Recorder {
    file: Option<BufWriter<File>>,
    path: PathBuf,
}

impl Recorder {
    /// A new file; an old one is replaced.
    pub(crate) fn create(path: &Path, start: &Start) -> io::Result<Self> {
        let file = Some(BufWriter::new(File::create(path)?));
        let mut recorder = Self { file, path: path.to_owned() };
        recorder.write(&LineRef::Start { start });
        recorder.flush();
        Ok(recorder)
    }

    pub(crate) fn event(&mut self, at: Time, event: &Event) {
        self.write(&LineRef::Event { at, event });
    }

    pub(crate) fn action(&mut self, action: &Action) {
        self.write(&LineRef::Action { action });
    }

    /// Gives everything to the system: at the end of a turn.
    pub(crate) fn flush(&mut self) {
        let result = self.file.as_mut().map_or(Ok(()), BufWriter::flush);
        self.judge(result);
    }

    fn write(&mut self, line: &LineRef<'_>) {
        let Some(file) = &mut self.file else { return };
        let result = serde_json::to_writer(&mut *file, line)
            .map_err(io::Error::from)
            .and_then(|()| file.write_all(b"\n"));
        self.judge(result);
    }

    fn judge(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::error!(target: "tandem", "the recording {} ends here: {error}",
                self.path.display());
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Options, Payload, SocketId};
    use crate::wire::Packet;

    #[test]
    fn a_recording_reads_back_as_what_was_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r0.jsonl");
        let config = ResourceConfig {
            name: "r0".to_owned(),
            node_id: 0,
            node_name: "alice".to_owned(),
            peers: Vec::new(),
            volumes: Vec::new(),
            options: Options::default(),
        };
        let start = Start { config, seed: 7, now: Time(5), wall_clock_ms: 9 };
        let payload = Payload { slot: 1, generation: 2, offset: 0, length: 4096 };
        let event =
            Event::Packet { socket: SocketId(3), packet: Packet::Ping, payload: Some(payload) };
        let action = Action::Release(payload);
        let mut recorder = Recorder::create(&path, &start).unwrap();
        recorder.event(Time(6), &event);
        recorder.action(&action);
        recorder.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Line> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected =
            [Line::Start { start }, Line::Event { at: Time(6), event }, Line::Action { action }];
        assert_eq!(lines, expected);
    }
}
