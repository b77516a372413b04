//! A draft to a definition: hosts and volumes are merged, and what is missing or double is found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::resource::VolumeNumber;

use super::address::BAD;
use super::claims::{Claims, Thing, plain_path};
use super::connection::ConnectionDraft;
use super::definition::{
    Definition, Host, HostVolume, MINOR_MAX, MetaDisk, PATHS_MAX, check_host, check_name, same_host,
};
use super::draft::{BAD_NODE_ID, Draft, HostDraft};
use super::finding::{Pos, Report, Scope};
use super::judge;
use super::resync_after::{ResyncAfter, Written};
use super::setting::Level;
use super::volume::{VolumeDraft, Volumes};
use crate::wire::VOLUMES_MAX;

/// What LINSTOR writes as the disk of every other host: it stands for no disk, and is nobody's. The
/// host that has it as its own is told at the attach that it is not there.
const NO_DISK: &str = "/dev/drbd/this/is/not/used";

/// What the resources of a config share.
pub(super) struct Shared<'a> {
    pub(super) common: &'a Level,
    pub(super) claims: Claims,
    /// Minors that are written somewhere.
    pub(super) minors: BTreeSet<u32>,
    /// No minor below it is free.
    pub(super) next_minor: u32,
    /// Every `resync-after` in force.
    pub(super) afters: Vec<Written>,
}

impl Shared<'_> {
    /// The lowest minor that is neither written nor given out.
    fn free_minor(&mut self) -> u32 {
        while self.minors.contains(&self.next_minor) {
            self.next_minor += 1;
        }
        // Past the end two volumes get the last one, and the claim of the second is an error.
        let minor = self.next_minor.min(MINOR_MAX);
        self.next_minor = (minor + 1).min(MINOR_MAX);
        minor
    }
}

/// Every minor that a draft names.
pub(super) fn written_minors(draft: &Draft) -> impl Iterator<Item = u32> {
    let volumes = draft.hosts.iter().map(|host| &host.volumes).chain([&draft.volumes]);
    volumes.flat_map(|volumes| {
        let devices = volumes.numbered.values().filter_map(|volume| volume.device.as_ref());
        devices.map(|(device, _)| device.minor)
    })
}

/// Checks a draft; the definition, if nothing that makes it up is missing. Whether it is refused
/// for another reason is in the report.
pub(super) fn define(
    draft: &Draft,
    shared: &mut Shared<'_>,
    report: &mut Report,
) -> Option<Definition> {
    let mut define = Define { draft, report };
    if let Err(why) = check_name(&draft.name) {
        let text = format!("{:?} cannot name a resource: {why}", draft.name);
        define.error(draft.at, text, "rename it");
    }
    let hosts = define.hosts();
    let connection = define.connection();
    let ids = define.node_ids(&hosts);
    let addresses = define.addresses(&hosts, connection);
    let more = define.more_addresses(&hosts, connection);
    let numbers = define.volume_numbers(&hosts, connection);
    let minors = define.minors(&hosts, &numbers, shared);
    let volumes: Vec<_> =
        hosts.iter().map(|host| define.volumes(host, &minors, shared.common)).collect();
    define.disks(&hosts, &volumes);
    let judged = judge::options(draft, shared.common, &hosts, &numbers, &ids, define.report);
    let secrets = judge::secrets(draft, shared.common, &hosts, &numbers, define.report);
    for ((host, address), volumes) in hosts.iter().zip(&addresses).zip(&volumes) {
        define.claim(host, *address, volumes, &mut shared.claims);
    }
    for (host, more) in hosts.iter().zip(&more) {
        for (address, at) in more {
            let (name, thing) = (draft.name.as_str(), Thing::Address(*address));
            shared.claims.claim(&host.name, thing, name, name, *at, define.report);
        }
    }
    let parts = hosts.iter().zip(ids).zip(addresses).zip(volumes).zip(more);
    let mut hosts = Vec::new();
    for ((((host, node_id), address), volumes), more) in parts {
        let own = |number| judge::disk_options(draft, shared.common, host, number, &judged.0);
        let volumes = volumes?.into_iter().map(|(number, (volume, _))| {
            let after = judge::resync_after(draft, shared.common, host, number);
            if let Some((after, at)) = after.clone() {
                let waits = ResyncAfter { resource: draft.name.clone(), volume: number };
                shared.afters.push(Written { host: host.name.clone(), waits, after, at });
            }
            let resync_after = after.map(|(after, _)| after);
            (number, HostVolume { disk_options: own(number), resync_after, ..volume })
        });
        let volumes = volumes.collect();
        hosts.push(Host {
            name: host.name.clone(),
            node_id: node_id?,
            address: address?.0,
            more_addresses: more.into_iter().map(|(address, _)| address).collect(),
            floating: host.floating,
            volumes,
        });
    }
    hosts.sort_by_key(|host| host.node_id);
    let (options, written) = judged;
    let source = define.report.place(draft.at);
    (hosts.len() == 2).then(|| Definition {
        name: draft.name.clone(),
        hosts,
        options,
        secrets,
        waits: judge::waits(draft, shared.common),
        source,
        written,
    })
}

struct Define<'a> {
    draft: &'a Draft,
    report: &'a mut Report,
}

/// The volumes of one host with the places of their disks; `None`: one of them has no disk.
type HostVolumes = Option<BTreeMap<VolumeNumber, (HostVolume, Pos)>>;

impl<'a> Define<'a> {
    fn error(&mut self, at: Pos, text: impl Into<String>, hint: impl Into<String>) {
        self.report.error(at, Scope::Resource(&self.draft.name), text, hint);
    }

    /// The hosts, each once, two at most.
    fn hosts(&mut self) -> Vec<&'a HostDraft> {
        let mut hosts: Vec<&HostDraft> = Vec::new();
        for host in &self.draft.hosts {
            if let Err(why) = check_host(&host.name) {
                let text = format!("{:?} cannot name a host: {why}", host.name);
                self.error(host.at, text, "write the name that `uname -n` says there");
            }
            if let Some(first) = hosts.iter().find(|first| same_host(&first.name, &host.name)) {
                let place = self.report.place(first.at);
                let text = format!("a second `on` section for {} (the first: {place})", host.name);
                self.error(host.at, text, "keep one section for each host");
            } else if hosts.len() == 2 {
                let text = format!("a third host, {}: a resource has two hosts", host.name);
                self.error(host.at, text, "keep two `on` sections");
            } else {
                hosts.push(host);
            }
        }
        if hosts.len() < 2 && !self.draft.incomplete {
            let text = match hosts.first() {
                None => "no host: two `on` sections are needed".to_owned(),
                Some(host) => format!("one host, {}: two `on` sections are needed", host.name),
            };
            self.error(self.draft.at, text, "write: on HOSTNAME { address IP:PORT; }");
        }
        hosts
    }

    fn connection(&mut self) -> Option<&'a ConnectionDraft> {
        let draft = self.draft;
        for second in draft.connections.iter().skip(1) {
            let text = "a second connection: the two hosts have one";
            self.error(second.at, text, "keep one `connection` section");
        }
        if let Some(connection) = draft.connections.first() {
            let mut seen: Vec<&str> = Vec::new();
            for end in &connection.ends {
                let name = end.name.text.as_str();
                if !draft.hosts.iter().any(|host| same_host(&host.name, name)) && !draft.incomplete
                {
                    let text = format!("host {name} has no `on` section");
                    self.error(end.name.at, text, "write the name as in an `on` section");
                } else if seen.iter().any(|first| same_host(first, name)) {
                    self.error(end.name.at, format!("host {name} twice"), "name both hosts");
                }
                seen.push(name);
            }
        }
        draft.connections.first()
    }

    /// The node ids: as written, else 0 and 1 by sorted names.
    fn node_ids(&mut self, hosts: &[&HostDraft]) -> Vec<Option<u8>> {
        let mut names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        names.sort_unstable();
        if hosts.iter().all(|host| host.node_id.is_none()) {
            let place = |host: &&HostDraft| names.iter().position(|name| *name == host.name);
            return hosts.iter().map(|host| place(host).map(|id| id as u8)).collect();
        }
        let mut ids: Vec<Option<u8>> = Vec::new();
        for host in hosts {
            match host.node_id {
                Some((BAD_NODE_ID, _)) => ids.push(None),
                Some((id, at)) if ids.contains(&Some(id)) => {
                    let text = format!("node-id {id} is the other host's");
                    self.error(at, text, "give each host a node-id of its own");
                    ids.push(None);
                }
                Some((id, _)) => ids.push(Some(id)),
                None => {
                    let text = format!("{} has no node-id, and the other host has one", host.name);
                    self.error(host.at, text, "write node-id for both hosts, or for none");
                    ids.push(None);
                }
            }
        }
        ids
    }

    /// The addresses: of the connection, else of the host.
    fn addresses(
        &mut self,
        hosts: &[&HostDraft],
        connection: Option<&ConnectionDraft>,
    ) -> Vec<Option<(SocketAddr, Pos)>> {
        let mut addresses: Vec<Option<(SocketAddr, Pos)>> = Vec::new();
        for host in hosts {
            let end = connection.and_then(|connection| {
                connection.ends.iter().find(|end| same_host(&end.name.text, &host.name))
            });
            let mut address = end.and_then(|end| end.address).or(host.address);
            if let (Some((address, _)), Some(port)) = (&mut address, end.and_then(|end| end.port)) {
                address.set_port(port);
            }
            if address.is_none() && !self.draft.incomplete {
                let text = format!("{} has no address", host.name);
                self.error(host.at, text, "write in it: address IP:PORT;");
            }
            addresses.push(address.filter(|(address, _)| *address != BAD));
        }
        if let [Some((a, _)), Some((b, at))] = addresses.as_slice() {
            if a == b {
                let text = format!("{b} is the address of both hosts: a node would dial itself");
                self.error(*at, text, "give each host its own address");
            } else if a.is_ipv4() != b.is_ipv4() {
                let text = format!("{a} and {b} are of two address families");
                self.error(*at, text, "give both hosts IPv4 addresses, or both IPv6");
            }
        }
        addresses
    }

    /// The addresses on further paths, by host: as many for one as for the other.
    fn more_addresses(
        &mut self,
        hosts: &[&HostDraft],
        connection: Option<&ConnectionDraft>,
    ) -> Vec<Vec<(SocketAddr, Pos)>> {
        let mut all: Vec<Vec<(SocketAddr, Pos)>> = vec![Vec::new(); hosts.len()];
        for (at, ends) in connection.iter().flat_map(|connection| &connection.more_paths) {
            let end = |host: &&HostDraft| {
                let end = ends.iter().find(|end| same_host(&end.name.text, &host.name))?;
                let (mut address, at) = end.address?;
                if let Some(port) = end.port {
                    address.set_port(port);
                }
                (address != BAD).then_some((address, at))
            };
            let found: Vec<Option<(SocketAddr, Pos)>> = hosts.iter().map(end).collect();
            let (&[Some(a), Some(b)], 2) = (found.as_slice(), ends.len()) else {
                if !self.draft.incomplete {
                    let text = "a path needs the address of both hosts";
                    self.error(*at, text, "write: host A address IP:PORT; host B address IP:PORT;");
                }
                continue;
            };
            if a.0 == b.0 || a.0.is_ipv4() != b.0.is_ipv4() {
                let text = format!("{} and {} are no two ends of a path", a.0, b.0);
                self.error(b.1, text, "give both hosts an address of the same family");
            } else if all[0].len() + 2 > PATHS_MAX {
                let text = format!("more than {PATHS_MAX} paths");
                self.error(*at, text, "remove some");
            } else {
                all[0].push(a);
                all[1].push(b);
            }
        }
        all
    }

    /// The numbers of all volumes, once nothing speaks of a volume that is not there.
    fn volume_numbers(
        &mut self,
        hosts: &[&HostDraft],
        connection: Option<&ConnectionDraft>,
    ) -> BTreeSet<VolumeNumber> {
        let draft = self.draft;
        let explicit = |volumes: &Volumes| {
            volumes.numbered.len() > usize::from(volumes.implicit.is_some())
                || (volumes.implicit.is_none() && !volumes.numbered.is_empty())
        };
        let all = || hosts.iter().map(|host| &host.volumes).chain([&draft.volumes]);
        if all().any(explicit) {
            for at in all().filter_map(|volumes| volumes.implicit) {
                let text = "this stands outside the volume sections, and so means volume 0";
                self.error(at, text, "write it in a section: volume 0 { ... }");
            }
        }
        let numbers: BTreeSet<VolumeNumber> =
            all().flat_map(|volumes| volumes.numbered.keys().copied()).collect();
        if numbers.is_empty() && !draft.incomplete {
            let hint = "write: volume 0 { device minor 0; disk PATH; meta-disk internal; }";
            self.error(draft.at, "no volume: a disk is needed", hint);
        }
        if numbers.len() > VOLUMES_MAX {
            let text = format!("{} volumes: a resource has {VOLUMES_MAX} at most", numbers.len());
            self.error(draft.at, text, "put some into another resource");
        }
        for (number, (at, _)) in connection.iter().flat_map(|connection| &connection.volumes) {
            if !numbers.contains(number) && !draft.incomplete {
                let text = format!("there is no volume {number}");
                self.error(*at, text, "name a volume of the resource");
            }
        }
        numbers
    }

    /// The volumes of one host: what the host says, else what the resource says.
    fn volumes(
        &mut self,
        host: &HostDraft,
        minors: &BTreeMap<VolumeNumber, u32>,
        common: &Level,
    ) -> HostVolumes {
        let draft = self.draft;
        let nothing = VolumeDraft::default();
        let mut merged = Some(BTreeMap::new());
        for number in minors.keys() {
            let general = draft.volumes.numbered.get(number).unwrap_or(&nothing);
            let own = host.volumes.numbered.get(number).unwrap_or(&nothing);
            let device = own.device.as_ref().or(general.device.as_ref()).cloned();
            let minor = match &device {
                Some((device, _)) => device.minor,
                None => minors[number],
            };
            let meta_disk = own.meta_disk.as_ref().or(general.meta_disk.as_ref());
            let Some((disk, at)) = own.disk.as_ref().or(general.disk.as_ref()) else {
                merged = None;
                if !self.draft.incomplete {
                    let text = format!("volume {number} has no disk on {}", host.name);
                    self.error(host.at, text, "write: disk PATH;  or, without a copy: disk none;");
                }
                continue;
            };
            let volume = HostVolume {
                device_node: device.and_then(|(device, _)| device.node),
                minor,
                disk: disk.clone(),
                meta_disk: meta_disk.map_or(MetaDisk::Internal, |(meta, _)| meta.clone()),
                size: judge::size(draft, common, host, *number),
                resync_after: None,
                disk_options: None,
            };
            if let Some(merged) = &mut merged {
                merged.insert(*number, (volume, *at));
            }
        }
        merged
    }

    /// The minors of volumes that have none on some host: the other host's, else the lowest that
    /// is free.
    fn minors(
        &mut self,
        hosts: &[&HostDraft],
        numbers: &BTreeSet<VolumeNumber>,
        shared: &mut Shared<'_>,
    ) -> BTreeMap<VolumeNumber, u32> {
        let draft = self.draft;
        let all = || hosts.iter().map(|host| &host.volumes).chain([&draft.volumes]);
        let mut minors = BTreeMap::new();
        for number in numbers {
            let volumes = || all().filter_map(|volumes| volumes.numbered.get(number));
            let written = volumes().find_map(|volume| volume.device.as_ref());
            let minor = match written {
                Some((device, _)) => device.minor,
                None => shared.free_minor(),
            };
            let is_missing = written.is_none() && volumes().all(|volume| !volume.bad_device);
            if is_missing && !draft.incomplete {
                // DRBD refuses it.
                let disk = volumes().find_map(|volume| volume.disk.as_ref());
                let at = disk.map_or(draft.at, |(_, at)| *at);
                let text = format!(
                    "volume {number} has no device: it gets minor {minor}, and another one when a \
                     resource before it comes or goes"
                );
                let hint = format!("write: device minor {minor};");
                self.report.warning(at, Scope::Resource(&draft.name), text, hint);
            }
            minors.insert(*number, minor);
        }
        minors
    }

    /// Each volume needs a disk on one of the hosts.
    fn disks(&mut self, hosts: &[&HostDraft], volumes: &[HostVolumes]) {
        let [Some(a), Some(b)] = volumes else { return };
        for (number, (volume, at)) in a {
            if volume.disk.is_none() && b.get(number).is_some_and(|(other, _)| other.disk.is_none())
            {
                let names = format!("{} and {}", hosts[0].name, hosts[1].name);
                let text = format!("volume {number} is diskless on {names}: nobody has the data");
                self.error(*at, text, "write: disk PATH;  for one of them");
            }
        }
    }

    fn claim(
        &mut self,
        host: &HostDraft,
        address: Option<(SocketAddr, Pos)>,
        volumes: &HostVolumes,
        claims: &mut Claims,
    ) {
        let name = self.draft.name.as_str();
        if let Some((address, at)) = address {
            claims.claim(&host.name, Thing::Address(address), name, name, at, self.report);
        }
        for (number, (volume, at)) in volumes.iter().flatten() {
            let owner = format!("{name}/{number}");
            let mut things = vec![Thing::Minor(volume.minor)];
            things.extend(volume.device_node.clone().map(Thing::Node));
            if let Some(disk) = volume.disk.as_ref().filter(|disk| *disk != NO_DISK) {
                things.push(Thing::Disk(plain_path(disk)));
                if let MetaDisk::External { path } = &volume.meta_disk {
                    things.push(Thing::Disk(plain_path(path)));
                }
            }
            for thing in things {
                let at = self.place_of(host, *number, &thing).unwrap_or(*at);
                claims.claim(&host.name, thing, &owner, name, at, self.report);
            }
        }
    }

    /// Where a volume's disk, metadata or device is written.
    fn place_of(&self, host: &HostDraft, number: VolumeNumber, thing: &Thing) -> Option<Pos> {
        let volumes =
            [host.volumes.numbered.get(&number), self.draft.volumes.numbered.get(&number)];
        volumes.into_iter().flatten().find_map(|volume| match thing {
            Thing::Address(_) => None,
            Thing::Minor(_) | Thing::Node(_) => volume.device.as_ref().map(|(_, at)| *at),
            Thing::Disk(path) => {
                let disk = volume.disk.as_ref().map(|(disk, at)| (disk.as_deref(), *at));
                let meta = volume.meta_disk.as_ref().map(|(meta, at)| match meta {
                    MetaDisk::External { path } => (Some(path.as_str()), *at),
                    MetaDisk::Internal => (None, *at),
                });
                let places = [disk, meta].into_iter().flatten();
                let mut places = places.filter_map(|(path, at)| Some((plain_path(path?), at)));
                places.rfind(|(written, _)| written == path).map(|(_, at)| at)
            }
        })
    }
}
