//! `events2` under DRBD's name: it goes on when the daemon ends and comes back, and never says that a
//! silent one is gone.
//!
//! ```text
//! watcher thread ── Heard::Daemon ──┐
//!                                   ├──> lines
//! standard input ── Heard::Poll ────┘     (--poll)
//! ```

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::super::adm::client::Client;
use super::super::adm::{Failure, Outcome, complain, print};
use super::presence::{PATIENCE, Presence, settle};
use crate::control::events::{END_OF_EXISTS, Follower, Form};
use crate::control::{Report, Response};

/// Between two looks for a daemon that is not there.
const PAUSE: Duration = Duration::from_millis(500);
/// Reports that may wait for the reader.
const AHEAD: usize = 64;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Events {
    pub(super) now: bool,
    /// A line on standard input asks for all objects anew; its end ends the program.
    pub(super) poll: bool,
    pub(super) timestamps: bool,
    pub(super) form: Form,
    /// One resource, or all.
    pub(super) resource: Option<String>,
}

/// What has happened.
enum Heard {
    /// A snapshot begins: of a daemon, or of none.
    Begin,
    /// A resource, in the first snapshot of a daemon or later.
    Report(Box<Report>),
    /// That snapshot is complete.
    Complete,
    /// A resource is down.
    Gone(String),
    /// A line on standard input.
    Poll,
    /// Its end.
    End,
    /// Nothing can be heard any more.
    Failed(Failure),
}

impl Events {
    pub(super) fn run(&self, run_dir: &Path) -> Outcome {
        let mut lines =
            Lines { timestamps: self.timestamps, follower: Follower::formed(self.form) };
        if self.now {
            for report in snapshot(run_dir)? {
                if self.is_wanted(&report.status.name) {
                    let text = lines.follower.exists(&report);
                    lines.say(&text)?;
                }
            }
            return lines.say(END_OF_EXISTS);
        }
        self.follow(run_dir, &mut lines)
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.resource.as_deref().is_none_or(|one| one == name)
    }

    fn follow(&self, run_dir: &Path, lines: &mut Lines) -> Outcome {
        let heard = self.listen(run_dir);
        let mut complete = false;
        // Since the snapshot began.
        let mut seen = BTreeSet::new();
        for what in heard {
            let text = match what {
                Heard::Begin => {
                    seen.clear();
                    String::new()
                }
                Heard::Report(report) if !self.is_wanted(&report.status.name) => String::new(),
                Heard::Report(report) => {
                    seen.insert(report.status.name.clone());
                    match complete {
                        true => lines.follower.update(&report),
                        false => lines.follower.exists(&report),
                    }
                }
                Heard::Complete => {
                    let gone =
                        lines.follower.names().into_iter().filter(|name| !seen.contains(name));
                    let gone: String = gone.map(|name| lines.follower.gone(&name)).collect();
                    match complete {
                        true => gone,
                        false => {
                            complete = true;
                            END_OF_EXISTS.to_owned()
                        }
                    }
                }
                Heard::Gone(name) => lines.follower.gone(&name),
                Heard::Poll => self.fresh(run_dir, lines)?,
                Heard::End => return Ok(()),
                Heard::Failed(failure) => return Err(failure),
            };
            lines.say(&text)?;
        }
        Ok(())
    }

    /// All objects with fresh counters.
    fn fresh(&self, run_dir: &Path, lines: &mut Lines) -> Result<String, Failure> {
        let known = lines.follower.names();
        let reports = snapshot(run_dir)?;
        // What is new, or gone, is the watcher's to tell.
        let known = reports.iter().filter(|report| known.contains(&report.status.name));
        Ok(known.map(|report| lines.follower.fresh(report)).collect())
    }

    /// Begins to listen to the daemon, and to standard input.
    fn listen(&self, run_dir: &Path) -> Receiver<Heard> {
        let (tell, heard) = sync_channel(AHEAD);
        if self.poll {
            let tell = tell.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(std::io::stdin()).lines() {
                    if line.is_err() || tell.send(Heard::Poll).is_err() {
                        break;
                    }
                }
                // Who has ended does not hear it.
                let _ = tell.send(Heard::End);
            });
        }
        let (run_dir, resource) = (run_dir.to_owned(), self.resource.clone());
        std::thread::spawn(move || watch(&run_dir, resource.as_deref(), &tell));
        heard
    }
}

/// Watches one daemon after the other, until nobody listens.
fn watch(run_dir: &Path, resource: Option<&str>, tell: &SyncSender<Heard>) {
    let mut was_absent = false;
    loop {
        let heard = match settle(run_dir, PATIENCE) {
            Ok(Some(Presence::There(client))) => {
                was_absent = false;
                match pass_on(client, resource, tell) {
                    Ok(()) => return,
                    // It has ended, or is silent: the next look tells which.
                    Err(_) => continue,
                }
            }
            Ok(Some(Presence::Absent)) if was_absent => None,
            Ok(Some(Presence::Absent)) => {
                was_absent = true;
                if tell.send(Heard::Begin).is_err() {
                    return;
                }
                Some(Heard::Complete)
            }
            Ok(None) => None,
            Err(failure) => Some(Heard::Failed(failure)),
        };
        if let Some(heard) = heard
            && tell.send(heard).is_err()
        {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Passes on what a daemon says, until it ends (an error), or nobody listens.
fn pass_on(
    mut client: Client,
    resource: Option<&str>,
    tell: &SyncSender<Heard>,
) -> Result<(), Failure> {
    client.watch(resource)?;
    if tell.send(Heard::Begin).is_err() {
        return Ok(());
    }
    while let Some(response) = client.next(None)? {
        let heard = match response {
            Response::Report(report) => Heard::Report(report),
            Response::Complete => Heard::Complete,
            Response::Gone(name) => Heard::Gone(name),
            Response::Done(_)
            | Response::Refused(_)
            | Response::Reports(_)
            | Response::Running(_)
            | Response::Error(_) => continue,
        };
        if tell.send(heard).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// What is up; nothing, where there is no daemon.
pub(super) fn snapshot(run_dir: &Path) -> Result<Vec<Report>, Failure> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let reports = match settle(run_dir, PATIENCE)? {
            Some(Presence::There(mut client)) => client.reports(None),
            Some(Presence::Absent) => return Ok(Vec::new()),
            None => Err(silent()),
        };
        match reports {
            Ok(reports) => return Ok(reports),
            Err(failure) if std::time::Instant::now() >= deadline => return Err(failure),
            // An error would be taken for a resource that is stopped.
            Err(failure) => {
                complain(&failure.text);
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Nothing was heard of the daemon for [`PATIENCE`].
pub(super) fn silent() -> Failure {
    let text = format!("tandemd holds its lock and has not answered for {} s", PATIENCE.as_secs());
    Failure::new(20, text)
}

/// What is printed.
struct Lines {
    timestamps: bool,
    follower: Follower,
}

impl Lines {
    fn say(&self, text: &str) -> Outcome {
        if text.is_empty() {
            return Ok(());
        }
        if !self.timestamps {
            return print(text);
        }
        let now = chrono::Local::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, false);
        print(&text.lines().map(|line| format!("{now} {line}\n")).collect::<String>())
    }
}
