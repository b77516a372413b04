//! `tandemadm -d`: what would be done, in the words of drbdsetup, a line a step; nothing where
//! nothing is to be done.

use std::fmt::Write;

use super::Report;
use super::arguments::Verb;
use super::target::Target;
use crate::config::{Definition, Host, MetaDisk, same_host};
use crate::resource::{ConnectionState, DiskState, Force, VolumeNumber};

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
                let _ = writeln!(self.out, "drbdsetup new-peer {name} {id} --_name={}", peer.name);
                for (local, remote) in self.own.addresses().zip(peer.addresses()) {
                    let family = if local.is_ipv4() { "ipv4" } else { "ipv6" };
                    let _ = writeln!(
                        self.out,
                        "drbdsetup new-path {name} {id} {family}:{local} {family}:{remote}"
                    );
                }
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
    let is_offline = matches!(verb, "create-md" | "wipe-md" | "restore-md");
    let program = if is_offline { "drbdmeta" } else { "drbdsetup" };
    format!("{program} {verb} {narrowed}{space}{options}\n")
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
        Verb::ForgetPeer { forced, targets } => {
            (format!("forget-peer{}", flag(forced.force, "--force")), &targets.targets)
        }
        Verb::WipeMd { forced, targets } => {
            (format!("wipe-md{}", flag(forced.force, "--force")), &targets.targets)
        }
        Verb::RestoreMd { forced, seed, file, target } => (
            format!(
                "restore-md {}{}{}",
                file.display(),
                flag(*seed, "--seed"),
                flag(forced.force, "--force")
            ),
            std::slice::from_ref(target),
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
        Verb::Disconnect { forced, for_seconds, targets } => {
            let time = for_seconds.map(|seconds| format!(" --for={seconds}")).unwrap_or_default();
            (format!("disconnect{}{time}", flag(forced.force, "--force")), &targets.targets)
        }
        Verb::Primary { hand_over: true, targets, .. } => {
            ("primary --hand-over".to_owned(), &targets.targets)
        }
        Verb::Primary { force, targets, .. } => {
            let force = Force::of(force.iter().filter_map(|word| word.danger()));
            let force = force.map(|force| format!(" {}", force.option())).unwrap_or_default();
            (format!("primary{force}"), &targets.targets)
        }
        Verb::Secondary { forced, wait, targets } => {
            let time = if *wait > 0 { format!(" --wait={wait}") } else { String::new() };
            (format!("secondary{}{time}", flag(forced.force, "--force")), &targets.targets)
        }
        Verb::Invalidate(targets) => ("invalidate".to_owned(), &targets.targets),
        Verb::InvalidateRemote(targets) => ("invalidate-remote".to_owned(), &targets.targets),
        Verb::Verify { start, stop, repair, from, targets } => {
            let bytes = |name: &str, bytes: &Option<u64>| {
                bytes.map_or_else(String::new, |bytes| format!(" --{name}={}", bytes / 512))
            };
            let from = from.as_ref().map_or_else(String::new, |node| format!(" --from={node}"));
            let repair = flag(*repair, "--repair");
            let (start, stop) = (bytes("start", start), bytes("stop", stop));
            (format!("verify{start}{stop}{repair}{from}"), &targets.targets)
        }
        Verb::Outdate(targets) => ("outdate".to_owned(), &targets.targets),
        Verb::UnfencePeer(targets) => ("unfence-peer".to_owned(), &targets.targets),
        Verb::PauseSync(targets) => ("pause-sync".to_owned(), &targets.targets),
        Verb::ResumeSync(targets) => ("resume-sync".to_owned(), &targets.targets),
        Verb::SuspendIo(targets) => ("suspend-io".to_owned(), &targets.targets),
        Verb::ResumeIo(targets) => ("resume-io".to_owned(), &targets.targets),
        Verb::Resize { size, assume_clean, targets } => {
            let size = size.map_or_else(String::new, |size| format!(" --size={}", size / 512));
            let clean = flag(*assume_clean, "--assume-clean");
            (format!("resize{size}{clean}"), &targets.targets)
        }
        Verb::NewCurrentUuid { clear_bitmap, targets } => {
            (format!("new-current-uuid{}", flag(*clear_bitmap, "--clear-bitmap")), &targets.targets)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{arguments, fixtures};
    use super::*;

    fn of(text: &str) -> String {
        let verb = arguments::parse(text.split_whitespace()).unwrap().verb;
        let (word, targets) = word(&verb).unwrap();
        targets.iter().map(|target| line(&word, target, "r0")).collect()
    }

    #[test]
    fn an_order_is_one_line_for_each_target() {
        let cases = [
            ("tandemadm down r0", "drbdsetup down r0\n"),
            ("tandemadm primary --force r0", "drbdsetup primary r0 --force\n"),
            ("tandemadm primary --hand-over r0", "drbdsetup primary r0 --hand-over\n"),
            ("tandemadm primary --force=blank all", "drbdsetup primary r0 --force=blank\n"),
            ("tandemadm forget-peer --force r0:bob", "drbdsetup forget-peer r0:bob --force\n"),
            ("tandemadm detach r0/1", "drbdsetup detach r0/1\n"),
            ("tandemadm disconnect --force r0:bob", "drbdsetup disconnect r0:bob --force\n"),
            ("tandemadm verify r0 --start 1M", "drbdsetup verify r0 --start=2048\n"),
            ("tandemadm verify --repair r0", "drbdsetup verify r0 --repair\n"),
            ("tandemadm create-md r0", "drbdmeta create-md r0 --max-peers=1\n"),
        ];
        for (words, expected) in cases {
            assert_eq!(of(words), expected);
        }
    }

    fn definition() -> Definition {
        let text = "resource r0 { \
            volume 0 { device minor 0; disk /dev/vg0/r0; meta-disk internal; } \
            on alice { node-id 0; address 10.0.0.1:7789; } \
            on bob { node-id 1; address 10.0.0.2:7789; } }";
        crate::config::load(&crate::config::OneFile(text), "r0.res").resources.pop().unwrap()
    }

    fn up(running: Option<&Report>) -> String {
        let definition = definition();
        let mut steps = Steps::new(&definition, &definition.hosts[0], running);
        steps.resource();
        steps.attach(None);
        steps.connect(None);
        steps.finish()
    }

    #[test]
    fn up_prints_only_the_steps_that_are_missing() {
        assert_eq!(
            up(None),
            "drbdsetup new-resource r0 0\n\
             drbdsetup new-minor r0 0 0\n\
             drbdsetup attach 0 /dev/vg0/r0 /dev/vg0/r0 internal\n\
             drbdsetup new-peer r0 1 --_name=bob\n\
             drbdsetup new-path r0 1 ipv4:10.0.0.1:7789 ipv4:10.0.0.2:7789\n\
             drbdsetup connect r0 1\n"
        );
        assert_eq!(up(Some(&fixtures::healthy())), "");
        let mut report = fixtures::healthy();
        report.status.devices[0].disk_state = DiskState::Diskless;
        report.status.connections[0].connection_state = ConnectionState::StandAlone;
        assert_eq!(
            up(Some(&report)),
            "drbdsetup attach 0 /dev/vg0/r0 /dev/vg0/r0 internal\ndrbdsetup connect r0 1\n"
        );
    }
}
