//! `tandemadm -d`: what would be done, in the words of drbdsetup, a line a step; nothing where
//! nothing is to be done.

use std::fmt::Write;

use super::Report;
use super::arguments::{ForceWord, Verb};
use super::target::Target;
use crate::config::{Definition, Host, MetaDisk, same_host};
use crate::resource::{ConnectionState, DiskState, VolumeNumber};

/// The steps of up, attach and connect, of a resource that may be up.
pub struct Steps<'a> {
    definition: &'a Definition,
    own: &'a Host,
    running: Option<&'a Report>,
    out: String,
}

impl<'a> Steps<'a> {
    /// No step yet. `running`: the resource as it is up.
    #[must_use]
    pub fn new(definition: &'a Definition, own: &'a Host, running: Option<&'a Report>) -> Self {
        Self { definition, own, running, out: String::new() }
    }

    /// What makes the resource and its volumes.
    pub fn resource(&mut self) {
        if self.running.is_some() {
            return;
        }
        let name = &self.definition.name;
        let _ = writeln!(self.out, "drbdsetup new-resource {name} {}", self.own.node_id);
        for (number, volume) in &self.own.volumes {
            let _ = writeln!(self.out, "drbdsetup new-minor {name} {} {number}", volume.minor);
        }
    }

    /// What attaches the disks that are not attached.
    pub fn attach(&mut self, only: Option<VolumeNumber>) {
        for (number, volume) in &self.own.volumes {
            let Some(disk) = &volume.disk else { continue };
            let state = self.running.and_then(|report| {
                report.status.devices.iter().find(|device| device.volume == *number)
            });
            let attached = state.is_some_and(|device| device.disk_state != DiskState::Diskless);
            if attached || only.is_some_and(|only| only != *number) {
                continue;
            }
            let meta = match &volume.meta_disk {
                MetaDisk::Internal => format!("{disk} internal"),
                MetaDisk::External { path } => format!("{path} flexible"),
            };
            let _ = writeln!(self.out, "drbdsetup attach {} {disk} {meta}", volume.minor);
        }
    }

    /// What dials the peers that are not dialled.
    pub fn connect(&mut self, only: Option<&str>) {
        let name = &self.definition.name;
        for peer in self.definition.hosts.iter().filter(|host| host.node_id != self.own.node_id) {
            let state = self.running.and_then(|report| {
                let mut all = report.status.connections.iter();
                all.find(|one| one.peer_node_id == peer.node_id)
            });
            let dials =
                state.is_some_and(|one| one.connection_state != ConnectionState::StandAlone);
            if dials || only.is_some_and(|only| !same_host(&peer.name, only)) {
                continue;
            }
            let id = peer.node_id;
            if self.running.is_none() {
                let address = |host: &Host| match host.address.is_ipv4() {
                    true => format!("ipv4:{}", host.address),
                    false => format!("ipv6:{}", host.address),
                };
                let (local, remote) = (address(self.own), address(peer));
                let _ = writeln!(self.out, "drbdsetup new-peer {name} {id} --_name={}", peer.name);
                let _ = writeln!(self.out, "drbdsetup new-path {name} {id} {local} {remote}");
            }
            let _ = writeln!(self.out, "drbdsetup connect {name} {id}");
        }
    }

    /// All lines.
    #[must_use]
    pub fn finish(self) -> String {
        self.out
    }
}

/// The line of an order: `drbdsetup secondary r0 --force`.
#[must_use]
pub fn line(word: &str, target: &Target, resource: &str) -> String {
    let narrowed = match target {
        Target::All => resource.to_owned(),
        Target::One { .. } => target.to_string(),
    };
    let (verb, options) = word.split_once(' ').unwrap_or((word, ""));
    let space = if options.is_empty() { "" } else { " " };
    format!("drbdsetup {verb} {narrowed}{space}{options}\n")
}

/// The verb with its options, and its targets; `None` for verbs that change nothing.
#[must_use]
pub fn word(verb: &Verb) -> Option<(String, &[Target])> {
    let flag = |set: bool, option: &str| if set { format!(" {option}") } else { String::new() };
    Some(match verb {
        Verb::CreateMd { forced, max_peers, preallocate, targets } => (
            format!(
                "create-md --max-peers={max_peers}{}{}",
                flag(forced.force, "--force"),
                flag(*preallocate, "--preallocate")
            ),
            &targets.targets,
        ),
        Verb::Down(targets) => ("down".to_owned(), &targets.targets),
        Verb::Detach { forced, targets } => {
            (format!("detach{}", flag(forced.force, "--force")), &targets.targets)
        }
        Verb::Connect { discard_my_data, tentative, targets } => (
            format!(
                "connect{}{}",
                flag(*discard_my_data, "--discard-my-data"),
                flag(*tentative, "--tentative")
            ),
            &targets.targets,
        ),
        Verb::Disconnect { forced, targets } => {
            (format!("disconnect{}", flag(forced.force, "--force")), &targets.targets)
        }
        Verb::Primary { force, targets } => {
            let force = match force {
                None => "",
                Some(ForceWord::Plain) => " --force",
                Some(ForceWord::Inconsistent) => " --force=inconsistent",
                Some(ForceWord::Outdated) => " --force=outdated",
                Some(ForceWord::Blank) => " --force=blank",
            };
            (format!("primary{force}"), &targets.targets)
        }
        Verb::Secondary { forced, targets } => {
            (format!("secondary{}", flag(forced.force, "--force")), &targets.targets)
        }
        Verb::Invalidate(targets) => ("invalidate".to_owned(), &targets.targets),
        Verb::InvalidateRemote(targets) => ("invalidate-remote".to_owned(), &targets.targets),
        Verb::Outdate(targets) => ("outdate".to_owned(), &targets.targets),
        Verb::NewCurrentUuid { clear_bitmap, targets } => {
            (format!("new-current-uuid{}", flag(*clear_bitmap, "--clear-bitmap")), &targets.targets)
        }
        _ => return None,
    })
}
