//! `tandemadm`: reads the configuration, asks the daemon, prints.
//!
//! Invariants:
//! - What runs can always be asked, demoted, disconnected and taken down, whatever the
//!   configuration says: only up, attach, connect and the metadata verbs read it first.
//! - Of several targets each is tried; the exit code is that of the first that failed.
//! - A standard output that is closed ends the program quietly.

pub(super) mod adjust;
pub(super) mod client;
pub(super) mod configuration;
mod daemon;
mod device;
mod dry_run;
mod forget;
pub(super) mod metadata;
pub(super) mod orders;
mod ping;
mod repair;
mod restore;
mod show;
mod terminal;
mod wait;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use crate::config::{Definition, Host};
use crate::control::Report;
use crate::control::arguments::{self, Globals, Verb};
use crate::control::scope::{Scope, check_scope};
use crate::control::target::Target;
use crate::resource::{ConnectionStatus, DeviceStatus, Refusal, VolumeNumber};

use client::Client;
use configuration::Configuration;

/// A failure that has been told, or is to be told: the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// What stands on standard error; may be empty.
    pub(super) text: String,
    pub(super) exit_code: i32,
}

impl Failure {
    pub(super) fn new(exit_code: i32, text: impl Into<String>) -> Self {
        Self { text: text.into(), exit_code }
    }

    /// `r0: State change failed: (-2) Need access to UpToDate data`, and what to do.
    fn refused(target: &str, refusal: &Refusal) -> Self {
        Self::new(refusal.exit_code(), format!("{target}: {refusal}"))
    }
}

pub(super) type Outcome = Result<(), Failure>;

/// Runs `tandemadm`; returns the exit code.
#[must_use]
pub fn run<I, T>(words: I) -> i32
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
    let invocation = match arguments::parse(words.clone()) {
        Ok(invocation) => invocation,
        Err(answer) => {
            match answer.is_error {
                true if arguments::is_check(&words) => {
                    complain(answer.text.trim_end());
                    let text = answer.text.trim_start_matches("error: ");
                    return show::unknown(Path::new(""), &Failure::new(1, text)).exit_code;
                }
                true => complain(answer.text.trim_end()),
                false => {
                    let _ = print(&answer.text);
                }
            }
            return answer.exit_code;
        }
    };
    let session = Session::new(invocation.globals);
    // For people alone: programs, and DRBD's tools, have what they know.
    let shown = match &invocation.verb {
        Verb::Status { json: false, targets, .. } => Some(targets.targets.clone()),
        _ => None,
    };
    match session.run(invocation.verb) {
        Ok(()) => {
            shown.iter().for_each(|targets| session.warn_of_configuration(targets));
            0
        }
        Err(failure) => {
            complain(&failure.text);
            failure.exit_code
        }
    }
}

/// One run of the program.
pub(super) struct Session {
    pub(super) globals: Globals,
}

impl Session {
    pub(super) fn new(globals: Globals) -> Self {
        Self { globals }
    }

    pub(super) fn run(&self, verb: Verb) -> Outcome {
        let scope = check_scope(&verb).map_err(|why| Failure::new(1, why));
        scope.map_err(|failure| match verb {
            Verb::Check(_) => show::unknown(&self.globals.run_dir, &failure),
            _ => failure,
        })?;
        match &verb {
            Verb::Adjust(targets) => return self.adjust(&targets.targets, adjust::Skip::default()),
            Verb::NetOptions(words) => return self.options("net", Scope::PEER, words),
            Verb::DiskOptions(words) => return self.options("disk", Scope::VOLUME, words),
            Verb::PeerDeviceOptions(words) => return self.options("disk", Scope::BOTH, words),
            Verb::ResourceOptions(words) => {
                return self.options("options", Scope::RESOURCE, words);
            }
            Verb::Device { .. } | Verb::Daemon { .. } => {}
            _ if self.globals.dry_run => return self.dry_run(verb),
            _ => {}
        }
        match verb {
            Verb::CreateMd { forced, max_peers, preallocate, targets } => {
                self.create_md(&targets.targets, forced.force, max_peers, preallocate)
            }
            Verb::DumpMd { offline, targets } => self.dump_md(&targets.targets, offline),
            Verb::CheckResize(targets) => self.check_resize(&targets.targets),
            Verb::WipeMd { forced, targets } => self.wipe_md(&targets.targets, forced.force),
            Verb::ForgetPeer { forced, targets } => {
                self.forget_peer(&targets.targets, forced.force)
            }
            Verb::RestoreMd { forced, seed, file, target } => {
                self.restore_md(&target, &file, seed, forced.force)
            }
            Verb::ShowGi(targets) => self.generations(&targets.targets, true),
            Verb::GetGi(targets) => self.generations(&targets.targets, false),
            Verb::DumpXml(targets) => self.dump_xml(&targets.targets),
            Verb::Dump(targets) => self.dump(&targets.targets),
            Verb::Status { verbose, statistics, json, color, targets } => {
                let detail = crate::control::status_text::Detail { verbose, statistics };
                self.status(&targets.targets, detail, json, color)
            }
            Verb::Role(targets) => self.role(&targets.targets),
            Verb::PeerRole(targets) => self.peer_role(&targets.targets),
            Verb::Cstate(targets) => self.cstate(&targets.targets),
            Verb::Dstate(targets) => self.dstate(&targets.targets),
            Verb::Why { json, targets } => self.why(&targets.targets, json),
            Verb::Check(targets) => self.check(&targets.targets),
            Verb::Device { verb } => self.device(verb),
            Verb::Daemon { verb } => self.daemon(&verb),
            Verb::Probe { device } => metadata::probe(&device),
            Verb::Ping(targets) => self.ping(&targets.targets),
            Verb::Events2 { now, statistics, targets } => {
                self.events2(&targets.targets, now, statistics)
            }
            Verb::WaitConnect { patience, targets } => {
                self.wait(&targets.targets, wait::Until::Connected, patience.waits())
            }
            Verb::WaitSync { patience, targets } => {
                self.wait(&targets.targets, wait::Until::InSync, patience.waits())
            }
            other => self.order(other),
        }
    }

    /// Speaks to the daemon.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Client::connect(&self.globals.run_dir, self.globals.cmd_timeout())
    }

    /// The configuration as this node reads it.
    pub(super) fn configuration(&self) -> Result<Configuration, Failure> {
        Configuration::load(&self.globals)
    }

    /// The reports that targets mean, in the order of the targets. No target is `all`.
    ///
    /// # Errors
    /// The daemon is silent, or a named resource is not up.
    fn reports(&self, targets: &[Target]) -> Result<Vec<(Target, Report)>, Failure> {
        let mut client = self.client()?;
        let up = client.reports(None)?;
        let mut chosen = Vec::new();
        let all = [Target::All];
        for target in if targets.is_empty() { &all } else { targets } {
            match target.resource() {
                None => {
                    chosen.extend(up.iter().map(|report| (Target::All, report.clone())));
                }
                Some(name) => {
                    let report = up.iter().find(|report| report.status.name == name);
                    let report = report.ok_or_else(|| self.no_such_resource(name, &up))?;
                    chosen.push((target.clone(), report.clone()));
                }
            }
        }
        Ok(chosen)
    }

    /// A name of which nothing is up: one to bring up, or a slip.
    fn no_such_resource(&self, name: &str, up: &[Report]) -> Failure {
        match self.is_defined(name) {
            true => gone(name),
            false => Failure::new(10, format!("{name}: No such resource\n{}", self.existing(up))),
        }
    }

    /// Whether the configuration has a resource of this name, even if only to be refused.
    fn is_defined(&self, name: &str) -> bool {
        self.configuration().is_ok_and(|configuration| configuration.names(name))
    }

    /// What could have been meant.
    fn existing(&self, up: &[Report]) -> String {
        let list = |names: Vec<&str>| match names.as_slice() {
            [] => "nothing".to_owned(),
            names => names.join(", "),
        };
        let up = list(up.iter().map(|report| report.status.name.as_str()).collect());
        match self.configuration() {
            Ok(all) => format!("Up is {up}; {} defines {}.", all.path(), list(all.all_names())),
            Err(_) => format!("Up is {up}."),
        }
    }
}

/// A resource that is not up, or no longer.
fn gone(name: &str) -> Failure {
    Failure::new(10, format!("{name}: No such resource\n{name} is not up: `tandemadm up {name}`."))
}

/// A volume that the resource does not have; `known`: those that it has.
fn no_such_volume(target: &Target, known: impl Iterator<Item = VolumeNumber>) -> Failure {
    let known: Vec<String> = known.map(|volume| volume.to_string()).collect();
    let resource = target.resource().unwrap_or("all");
    let text = format!(
        "{target}: Failure: (127) Device minor not allocated\n{resource} has volume {}.",
        known.join(", ")
    );
    Failure::new(10, text)
}

/// A peer that the resource does not have; `known`: those that it has.
fn no_such_peer<'a>(target: &Target, known: impl Iterator<Item = &'a str>) -> Failure {
    let known: Vec<&str> = known.collect();
    let resource = target.resource().unwrap_or("all");
    let text =
        format!("{target}: there is no such peer\n{resource} has the peer {}.", known.join(", "));
    Failure::new(10, text)
}

/// The other hosts of a resource.
fn names_of_peers<'a>(definition: &'a Definition, own: &'a Host) -> impl Iterator<Item = &'a str> {
    let others = definition.hosts.iter().filter(|host| host.node_id != own.node_id);
    others.map(|host| host.name.as_str())
}

/// The volumes of a report that a target means.
///
/// # Errors
/// It has no such volume.
fn volumes<'a>(report: &'a Report, target: &Target) -> Result<Vec<&'a DeviceStatus>, Failure> {
    let devices = &report.status.devices;
    match target.volume() {
        None => Ok(devices.iter().collect()),
        Some(volume) => match devices.iter().find(|device| device.volume == volume) {
            Some(device) => Ok(vec![device]),
            None => Err(no_such_volume(target, devices.iter().map(|device| device.volume))),
        },
    }
}

/// The connections of a report that a target means.
///
/// # Errors
/// It has no such peer.
fn connections<'a>(
    report: &'a Report,
    target: &Target,
) -> Result<Vec<&'a ConnectionStatus>, Failure> {
    let all = &report.status.connections;
    let Some(peer) = target.peer() else { return Ok(all.iter().collect()) };
    match all.iter().find(|one| crate::config::same_host(&one.name, peer)) {
        Some(one) => Ok(vec![one]),
        None => Err(no_such_peer(target, all.iter().map(|one| one.name.as_str()))),
    }
}

/// Does something for each, and remembers the first failure while it goes on.
pub(super) fn for_each<T>(
    items: impl IntoIterator<Item = T>,
    mut act: impl FnMut(T) -> Outcome,
) -> Outcome {
    let mut first: Option<Failure> = None;
    for item in items {
        if let Err(failure) = act(item) {
            match &mut first {
                None => first = Some(failure),
                Some(first) => {
                    // In the order in which they came.
                    complain(&std::mem::take(&mut first.text));
                    complain(&failure.text);
                }
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// Prints to standard output.
///
/// # Errors
/// It is closed; there is nobody to tell, so nothing is said.
pub(super) fn print(text: &str) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|_| Failure::new(1, ""))
}

/// Prints to standard error; nobody there is no reason to fail.
pub(super) fn complain(text: &str) {
    if !text.is_empty() {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first one is told before the others, and its exit code is that of all.
    #[test]
    fn of_several_that_fail_the_first_is_told_first_and_its_code_stays() {
        let fails = |(code, text): (i32, &str)| Err(Failure::new(code, text));
        let one = for_each([(11, "first")], fails).unwrap_err();
        assert_eq!((one.exit_code, one.text.as_str()), (11, "first"));
        let two = for_each([(11, "first"), (10, "second")], fails).unwrap_err();
        assert_eq!((two.exit_code, two.text.as_str()), (11, ""), "both are told already");
    }
}
