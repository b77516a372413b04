//! What it takes to make a running resource what the config says: `adjust`, its `-d`, and
//! `config:differs` of `status`.
//!
//! Invariants:
//! - What differs and what is done about it come from one comparison.
//! - Where something differs that only `down` and `up` can change there is no step at all: what
//!   runs stays as it is.
//! - A step never takes away what is in use: disks are changed where they are named anew, and a
//!   connection that stands goes on until it ends by itself.

use std::fmt::Write;

use super::Report;
use crate::config::{Definition, Host, HostVolume, MetaDisk, same_host};
use crate::resource::{ConnectionState, DiskState, NodeId, Refusal, VolumeNumber};
use crate::secret::Secrets;

/// One step of `adjust`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the resource, attach its disks, dial.
    Up,
    /// Options changed.
    Options(Vec<Changed>),
    /// The addresses changed.
    Paths,
    /// The volume's disk is another one: let go of the old.
    Detach(VolumeNumber),
    /// The volume's disk is the one in use, by another path: nothing but its name changes.
    Rename(VolumeNumber),
    /// Attach the volume's disk.
    Attach(VolumeNumber),
    /// Which volumes have no disk by configuration (`disk none`), here and at the peers; their `size` here.
    Volumes,
    /// Dial the peer.
    Connect(NodeId),
}

/// An option with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    section: &'static str,
    name: &'static str,
    value: String,
    /// Of this volume: `disk` options are.
    volume: Option<VolumeNumber>,
}

/// How a running resource differs from the config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    options: Vec<Changed>,
    paths: bool,
    disks: Vec<VolumeNumber>,
    /// Volumes whose disk has another path, which leads to the disk in use.
    renamed: Vec<VolumeNumber>,
    /// Which volumes have no disk by configuration, or how large they are to be.
    volumes: bool,
    /// What only `down` and `up` can change.
    fixed: Vec<String>,
    /// Each of them in words.
    words: Vec<String>,
}

impl Difference {
    /// Between what runs and what is wanted, for the host that `own` is in what is wanted.
    #[must_use]
    pub fn new(running: &Definition, wanted: &Definition, own: &Host) -> Self {
        let mut found = Self::default();
        let here = counterpart(running, own);
        if !found.identity(running, wanted, here, own) {
            // What is here in one of them is there in the other: no more can be said.
            return found;
        }
        found.options(running, wanted, own);
        let addresses = |definition: &Definition| -> Vec<Vec<std::net::SocketAddr>> {
            definition.hosts.iter().map(|host| host.addresses().collect()).collect()
        };
        if addresses(running) != addresses(wanted) {
            found.paths = true;
            found.words.push("the addresses are others".to_owned());
        }
        for host in wanted.hosts.iter().filter(|host| host.node_id != own.node_id) {
            let old = running.hosts.iter().find(|one| one.node_id == host.node_id);
            for (number, volume) in &host.volumes {
                let Some(old) = old.and_then(|old| old.volumes.get(number)) else { continue };
                if old.disk.is_none() != volume.disk.is_none() {
                    let to_have = match volume.disk {
                        None => "is to have no disk for volume",
                        Some(_) => "is to have a disk for volume",
                    };
                    found.volumes = true;
                    found.words.push(format!("{} {to_have} {number}", host.name));
                }
            }
        }
        let Some(here) = here else { return found };
        for (number, volume) in &own.volumes {
            let Some(old) = here.volumes.get(number) else { continue };
            let is_other = !old.names_same_disk(volume);
            if is_other || old.size != volume.size {
                if is_other {
                    found.disks.push(*number);
                }
                found.words.push(format!(
                    "the disk of volume {number} is {}, not {}",
                    disk_words(old),
                    disk_words(volume)
                ));
                found.volumes |= volume.disk.is_none() || !is_other;
            }
        }
        found
    }

    /// Of the disks that have another path, some are the one in use by another name (a link): `same`
    /// says so of a volume as it runs and as it is wanted. Those are not let go of.
    #[must_use]
    pub fn without_renamed(
        mut self,
        running: &Definition,
        own: &Host,
        same: impl Fn(VolumeNumber, &HostVolume, &HostVolume) -> bool,
    ) -> Self {
        let Some(here) = counterpart(running, own) else { return self };
        let pair = |number| Some((here.volumes.get(&number)?, own.volumes.get(&number)?));
        let is_same =
            |number: &VolumeNumber| pair(*number).is_some_and(|(old, new)| same(*number, old, new));
        let (renamed, disks): (Vec<_>, _) = self.disks.into_iter().partition(is_same);
        // An attach would have taken the size over.
        let sizes = renamed.iter().filter_map(|number| pair(*number));
        self.volumes |= sizes.into_iter().any(|(old, new)| old.size != new.size);
        (self.renamed, self.disks) = (renamed, disks);
        self
    }

    fn options(&mut self, running: &Definition, wanted: &Definition, own: &Host) {
        let pairs = running.options.written().into_iter().zip(wanted.options.written());
        for (old, new) in pairs.filter(|(old, new)| old != new && new.section != "disk") {
            self.words.push(match new.section {
                "handlers" => format!("the handler {} is another one", new.name),
                _ => format!("{} is {}, not {}", new.name, shown(&old.value), shown(&new.value)),
            });
            let (section, name, value) = (new.section, new.name, new.value);
            self.options.push(Changed { section, name, value, volume: None });
        }
        self.secrets(running, wanted);
        let here = counterpart(running, own);
        for (number, volume) in &own.volumes {
            let Some(old) = here.and_then(|here| here.volumes.get(number)) else { continue };
            let place = match own.volumes.len() {
                1 => String::new(),
                _ => format!(" of volume {number}"),
            };
            let after = |volume: &HostVolume| match &volume.resync_after {
                Some(after) => after.to_string(),
                None => "-1".to_owned(),
            };
            if old.resync_after != volume.resync_after {
                let (name, value) = ("resync-after", after(volume));
                self.words.push(format!("{name}{place} is {}, not {value}", after(old)));
                let volume = Some(*number);
                self.options.push(Changed { section: "disk", name, value, volume });
            }
            let in_force = |definition: &Definition, volume: &HostVolume| {
                let disk = volume.disk_options.unwrap_or_else(|| definition.options.disk());
                definition.options.with_disk(disk).written()
            };
            let (before, after) = (in_force(running, old), in_force(wanted, volume));
            let pairs = before.into_iter().zip(after);
            for (old, new) in pairs.filter(|(old, new)| old != new && new.section == "disk") {
                let (is, wanted) = (shown(&old.value), shown(&new.value));
                self.words.push(format!("{}{place} is {is}, not {wanted}", new.name));
                let (section, name, value) = (new.section, new.name, new.value);
                self.options.push(Changed { section, name, value, volume: Some(*number) });
            }
        }
    }

    /// Secrets differ or do not: no word says more.
    fn secrets(&mut self, running: &Definition, wanted: &Definition) {
        let (old, new) = (running.secrets.as_ref(), wanted.secrets.as_ref());
        let mut changed = |name, value: &str, words: String| {
            self.words.push(words);
            let (section, value) = ("net", value.to_owned());
            self.options.push(Changed { section, name, value, volume: None });
        };
        let algorithm = |secrets: Option<&Secrets>| secrets.map_or("", |s| s.cram_hmac_alg.name());
        let (before, after) = (algorithm(old), algorithm(new));
        if before != after {
            let word = |name: &str| if name.is_empty() { "none" } else { name }.to_owned();
            let words = format!("cram-hmac-alg is {}, not {}", word(before), word(after));
            changed("cram-hmac-alg", after, words);
        }
        let pairs = [
            ("shared-secret", old.map(|s| &s.shared_secret), new.map(|s| &s.shared_secret)),
            (
                "shared-secret-old",
                old.and_then(|s| s.shared_secret_old.as_ref()),
                new.and_then(|s| s.shared_secret_old.as_ref()),
            ),
        ];
        for (name, before, after) in pairs.into_iter().filter(|(_, old, new)| old != new) {
            let words = match (before, after) {
                (None, _) => format!("{name} is not set"),
                (_, None) => format!("{name} is set"),
                (Some(_), Some(_)) => format!("{name} is another"),
            };
            changed(name, if after.is_some() { "..." } else { "" }, words);
        }
    }

    /// Finds what only `down` and `up` can change; says whether the hosts are the same.
    fn identity(
        &mut self,
        running: &Definition,
        wanted: &Definition,
        here: Option<&Host>,
        own: &Host,
    ) -> bool {
        let mut fixed = Vec::new();
        let ids = |definition: &Definition| -> Vec<NodeId> {
            definition.hosts.iter().map(|host| host.node_id).collect()
        };
        // A floating host's name is its address, until it is found here.
        let is_same = |(old, new): &(&Host, &Host)| {
            old.floating == new.floating && (old.floating || same_host(&old.name, &new.name))
        };
        let pairs = running.hosts.iter().zip(&wanted.hosts);
        let others: Vec<(&Host, &Host)> = pairs.filter(|pair| !is_same(pair)).collect();
        let same_ids = ids(running) == ids(wanted);
        let same_hosts = same_ids && others.is_empty();
        match others.as_slice() {
            [(old, new)] if same_ids && old.node_id != own.node_id => {
                let id = old.node_id;
                fixed.push(format!("the peer with node id {id} is {}, not {}", old.name, new.name));
            }
            _ if !same_hosts => fixed.push("the hosts or their node ids are others".to_owned()),
            _ => {}
        }
        let volumes = |host: &Host| -> Vec<(VolumeNumber, u32, Option<String>)> {
            let volumes = host.volumes.iter();
            volumes.map(|(n, volume)| (*n, volume.minor, volume.device_node.clone())).collect()
        };
        if here.is_none_or(|here| volumes(here) != volumes(own)) {
            fixed.push("the volumes, their minors or their devices are others".to_owned());
        }
        self.words.extend(fixed.iter().cloned());
        self.fixed = fixed;
        same_hosts
    }

    /// In words, one for each thing that differs.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Whether the addresses are others.
    #[must_use]
    pub fn paths(&self) -> bool {
        self.paths
    }

    /// What can only be changed by `down` and `up`; empty where `adjust` can do it all.
    #[must_use]
    pub fn fixed(&self) -> &[String] {
        &self.fixed
    }

    /// What puts the definition of `resource` in force.
    #[must_use]
    pub fn remedy(&self, resource: &str) -> String {
        match self.fixed.as_slice() {
            [] => format!("`tandemadm adjust {resource}`"),
            _ => format!("`tandemadm down {resource}`, `tandemadm up {resource}`"),
        }
    }

    /// What is said to who wants it all the same; `None` where `adjust` can do it all.
    #[must_use]
    pub fn refusal(&self, resource: &str) -> Option<Refusal> {
        (!self.fixed.is_empty()).then(|| Refusal {
            code: 162,
            text: "Invalid configuration request".to_owned(),
            hint: format!(
                "{}: {}. Until then it runs on as it is.",
                self.fixed.join("; "),
                self.remedy(resource)
            ),
        })
    }

    /// The steps, in order; none where something is [`Self::fixed`].
    #[must_use]
    pub fn steps(&self, report: &Report, own: &Host) -> Vec<Step> {
        let mut steps = Vec::new();
        if !self.fixed.is_empty() {
            return steps;
        }
        if !self.options.is_empty() {
            steps.push(Step::Options(self.options.clone()));
        }
        if self.paths {
            steps.push(Step::Paths);
        }
        for device in &report.status.devices {
            let Some(volume) = own.volumes.get(&device.volume) else { continue };
            let attached = device.disk_state != DiskState::Diskless;
            let other = self.disks.contains(&device.volume);
            if attached && other {
                steps.push(Step::Detach(device.volume));
            }
            if attached && self.renamed.contains(&device.volume) {
                steps.push(Step::Rename(device.volume));
            }
            if volume.disk.is_some() && (other || !attached) {
                steps.push(Step::Attach(device.volume));
            }
        }
        if self.volumes {
            steps.push(Step::Volumes);
        }
        for connection in &report.status.connections {
            if connection.connection_state == ConnectionState::StandAlone {
                steps.push(Step::Connect(connection.peer_node_id));
            }
        }
        steps
    }
}

/// The host of a running resource that `own` is: by its name, as node ids may be exchanged.
fn counterpart<'a>(running: &'a Definition, own: &Host) -> Option<&'a Host> {
    let by_id = || running.hosts.iter().find(|host| host.node_id == own.node_id);
    running.local(&own.name).or_else(by_id)
}

fn disk_words(volume: &HostVolume) -> String {
    let mut words = volume.disk.clone().unwrap_or_else(|| "none".to_owned());
    if let MetaDisk::External { path } = &volume.meta_disk {
        words += &format!(" with metadata on {path}");
    }
    if let Some(size) = volume.size {
        words += &format!(" of {size} bytes");
    }
    words
}

/// The steps as drbdsetup lines.
#[must_use]
pub fn lines(steps: &[Step], definition: &Definition, own: &Host) -> String {
    let name = &definition.name;
    let peers: Vec<&Host> =
        definition.hosts.iter().filter(|host| host.node_id != own.node_id).collect();
    let minor = |volume: &VolumeNumber| own.volumes.get(volume).map_or(0, |volume| volume.minor);
    let mut out = String::new();
    for step in steps {
        match step {
            // The caller prints the steps of `up`.
            Step::Up => {}
            Step::Options(changed) => {
                let words = |section: &str, volume: Option<VolumeNumber>| -> String {
                    let of = changed.iter();
                    let of = of.filter(|one| one.section == section && one.volume == volume);
                    of.map(|one| format!(" --{}={}", one.name, one.value)).collect()
                };
                let (general, net) = (words("options", None), words("net", None));
                if !general.is_empty() {
                    let _ = writeln!(out, "drbdsetup resource-options {name}{general}");
                }
                for peer in peers.iter().filter(|_| !net.is_empty()) {
                    let _ = writeln!(out, "drbdsetup net-options {name} {}{net}", peer.node_id);
                }
                if changed.iter().any(|one| one.section == "handlers") {
                    // DRBD's kernel knows none of them: there is no such command.
                    let _ = writeln!(out, "# handlers of {name}");
                }
                for (number, volume) in &own.volumes {
                    let words = words("disk", Some(*number));
                    if !words.is_empty() {
                        let _ = writeln!(out, "drbdsetup disk-options {}{words}", volume.minor);
                    }
                }
            }
            Step::Paths => {
                for peer in &peers {
                    let id = peer.node_id;
                    let _ = writeln!(out, "drbdsetup del-path {name} {id}");
                    for (local, remote) in own.addresses().zip(peer.addresses()) {
                        let family = if local.is_ipv4() { "ipv4" } else { "ipv6" };
                        let _ = writeln!(
                            out,
                            "drbdsetup new-path {name} {id} {family}:{local} {family}:{remote}"
                        );
                    }
                }
            }
            Step::Detach(volume) => {
                let _ = writeln!(out, "drbdsetup detach {}", minor(volume));
            }
            // DRBD knows a disk by its number.
            Step::Rename(volume) => {
                let disk = own.volumes.get(volume).map(disk_words).unwrap_or_default();
                let _ = writeln!(out, "# the disk of {name}/{volume} is {disk} by another path");
            }
            Step::Attach(volume) => {
                let Some(host) = own.volumes.get(volume) else { continue };
                let disk = host.disk.as_deref().unwrap_or("none");
                let (meta, index) = match &host.meta_disk {
                    MetaDisk::Internal => (disk, "internal"),
                    MetaDisk::External { path } => (path.as_str(), "flexible"),
                };
                let _ = writeln!(out, "drbdsetup attach {} {disk} {meta} {index}", minor(volume));
            }
            // In DRBD a flag of the device and the peer device, and an option of an attach or a resize.
            Step::Volumes => {
                let _ = writeln!(out, "# disk none and size of {name}");
            }
            Step::Connect(peer) => {
                let _ = writeln!(out, "drbdsetup connect {name} {peer}");
            }
        }
    }
    out
}

/// A value as words: of an option that has no name for what it is by default, that.
fn shown(value: &str) -> &str {
    if value.is_empty() { "as by default" } else { value }
}

#[cfg(test)]
mod tests;
