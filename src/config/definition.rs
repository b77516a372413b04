//! What a checked config is made of: plain data that `tandemadm` sends to the daemon as JSON.
//!
//! Invariants of a [`Definition`] that [`super::load`] returns, checked again by
//! [`Definition::check`] where one arrives from outside:
//! - exactly two hosts, sorted by node id, with distinct names, node ids and addresses;
//! - both hosts have the same volumes, at least one, and each volume has a disk on one of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::resource::{
    AfterSb0Pri, BLOCK_SIZE, DiskOptions, NodeId, Options, PeerConfig, ResourceConfig,
};
use crate::resource::{VolumeConfig, VolumeNumber};

use super::claims::plain_path;
use super::option_table;
use super::resync_after::ResyncAfter;
use crate::secret::Secrets;
use crate::wire::VOLUMES_MAX;

/// Longest resource name, bytes: what the peer protocol carries.
pub const NAME_MAX: usize = 127;
/// Longest host name, bytes.
const HOST_NAME_MAX: usize = 255;
/// Highest node id (DRBD: 32 nodes).
pub const NODE_ID_MAX: NodeId = 31;
/// Highest volume number (DRBD).
pub const VOLUME_MAX: VolumeNumber = 65_534;
/// Most paths between two hosts.
pub const PATHS_MAX: usize = 8;
/// Highest minor: minors have 20 bits.
pub const MINOR_MAX: u32 = (1 << 20) - 1;

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file, as it was opened.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Where the metadata of a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum MetaDisk {
    /// In the tail of the backing disk.
    Internal,
    /// On a device or file of its own.
    External {
        /// Its path.
        path: String,
    },
}

/// A volume on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostVolume {
    /// The NBD device to attach it as, where the config names one (`device /dev/nbd3 minor 7`).
    pub device_node: Option<String>,
    /// The printed minor, 0 to [`MINOR_MAX`]. Where the config gives none: the lowest that is free,
    /// in the order of the files.
    pub minor: u32,
    /// The backing disk; `None`: diskless on this host.
    pub disk: Option<String>,
    /// The metadata; means nothing without a disk.
    pub meta_disk: MetaDisk,
    /// `size`, bytes, a multiple of 4096: the volume's size, and the least that the disk must have.
    /// `None`: all that the disk has.
    #[serde(default)]
    pub size: Option<u64>,
    /// `resync-after`: its resync on this host waits for that of another volume.
    #[serde(default)]
    pub resync_after: Option<ResyncAfter>,
    /// `disk` options of its own; `None`: those of the resource.
    #[serde(default)]
    pub disk_options: Option<DiskOptions>,
}

impl HostVolume {
    /// Whether the disk and its metadata are written as the same paths, but for slashes and dots.
    #[must_use]
    pub fn names_same_disk(&self, other: &Self) -> bool {
        fn names(volume: &HostVolume) -> (Option<String>, Option<String>) {
            let meta = match &volume.meta_disk {
                MetaDisk::Internal => None,
                MetaDisk::External { path } => Some(plain_path(path)),
            };
            (volume.disk.as_deref().map(plain_path), meta)
        }
        names(self) == names(other)
    }

    /// The NBD device to attach the volume as: as written, else `/dev/nbdMINOR`.
    #[must_use]
    pub fn nbd_device(&self) -> String {
        self.device_node.clone().unwrap_or_else(|| nbd_device(self.minor))
    }
}

/// The NBD device of a minor.
#[must_use]
pub fn nbd_device(minor: u32) -> String {
    format!("/dev/nbd{minor}")
}

/// A host of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name, as written.
    pub name: String,
    /// Its node id, 0 to [`NODE_ID_MAX`].
    pub node_id: NodeId,
    /// Where it listens, and where its peers dial.
    pub address: SocketAddr,
    /// The same on further paths, in the order of the other host's.
    #[serde(default)]
    pub more_addresses: Vec<SocketAddr>,
    /// It is known by its address (`floating`), until [`Definition::settle`] finds it here.
    #[serde(default)]
    pub floating: bool,
    /// Its volumes.
    pub volumes: BTreeMap<VolumeNumber, HostVolume>,
}

impl Host {
    /// Its address on every path, the first path first.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        std::iter::once(self.address).chain(self.more_addresses.iter().copied())
    }
}

/// How to wait for peers: the options of the `startup` section, s, 0: for ever; `None`: not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waits {
    /// `wfc-timeout`.
    pub wfc_timeout: Option<u32>,
    /// `degr-wfc-timeout`: where this node had gone on alone; else `wfc-timeout`.
    pub degr_wfc_timeout: Option<u32>,
    /// `outdated-wfc-timeout`: where every peer is known to be Outdated; else `wfc-timeout`.
    pub outdated_wfc_timeout: Option<u32>,
    /// `wait-after-sb`: also for a connection that is StandAlone.
    pub wait_after_sb: Option<bool>,
}

impl Waits {
    /// Each as it is here, or else as it is there.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            wfc_timeout: self.wfc_timeout.or(other.wfc_timeout),
            degr_wfc_timeout: self.degr_wfc_timeout.or(other.degr_wfc_timeout),
            outdated_wfc_timeout: self.outdated_wfc_timeout.or(other.outdated_wfc_timeout),
            wait_after_sb: self.wait_after_sb.or(other.wait_after_sb),
        }
    }
}

/// A resource as the config defines it, for all its hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Its hosts, by node id.
    pub hosts: Vec<Host>,
    /// The options in force: `common`, resource, connection and volume taken together.
    pub options: Options,
    /// What peers must prove before anything else; `None`: nothing.
    #[serde(default)]
    pub secrets: Option<Secrets>,
    /// How `wait-connect` and `wait-sync` wait if they are not told.
    #[serde(default)]
    pub waits: Waits,
    /// Where the resource is written.
    pub source: Place,
    /// Where each option in force is written, by its name; defaults are not in here.
    pub written: BTreeMap<String, Place>,
}

impl Definition {
    /// The host that `node` is: the same name, else the same in its short form (`alice` is
    /// `alice.example.com`).
    #[must_use]
    pub fn local(&self, node: &str) -> Option<&Host> {
        let exact = self.hosts.iter().find(|host| host.name == node);
        exact.or_else(|| self.hosts.iter().find(|host| same_host(&host.name, node)))
    }

    /// Gives the `floating` host that is here the name of this node: the one whose address
    /// `is_local`. Nothing changes where `node` is named already, or nothing floats.
    ///
    /// # Errors
    /// None of the addresses is here, or both are.
    pub fn settle(
        &mut self,
        node: &str,
        is_local: impl Fn(std::net::IpAddr) -> bool,
    ) -> Result<(), String> {
        if self.local(node).is_some() || !self.hosts.iter().any(|host| host.floating) {
            return Ok(());
        }
        let here = |host: &&mut Host| host.floating && host.addresses().any(|a| is_local(a.ip()));
        let mut own: Vec<&mut Host> = self.hosts.iter_mut().filter(here).collect();
        if let [own] = own.as_mut_slice() {
            node.clone_into(&mut own.name);
            return Ok(());
        }
        let found = if own.is_empty() { "none" } else { "more than one" };
        let all: Vec<String> = self.hosts.iter().map(|host| host.address.to_string()).collect();
        Err(format!(
            "{}: {found} of its addresses ({}) is on an interface of this node ({}): `floating` \
             means the host that has the address; give --node ADDRESS:PORT to choose",
            self.name,
            all.join(" and "),
            self.source
        ))
    }

    /// The hosts that `node` is not.
    pub fn peers(&self, node: &str) -> impl Iterator<Item = &Host> {
        let own = self.local(node).map(|host| host.node_id);
        self.hosts.iter().filter(move |host| Some(host.node_id) != own)
    }

    /// The definition as the core of `node` takes it.
    ///
    /// # Errors
    /// `node` is none of the hosts, or the definition (it may come from outside) is not sound.
    pub fn for_node(&self, node: &str) -> Result<ResourceConfig, String> {
        self.check()?;
        let own = self.local(node).ok_or_else(|| {
            let names: Vec<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
            format!(
                "{}: this node is {node}, the config ({}) has {}: rename an `on` section or \
                 give --node NAME",
                self.name,
                self.source,
                names.join(" and ")
            )
        })?;
        let volumes = own.volumes.iter().map(|(number, volume)| VolumeConfig {
            number: *number,
            minor: volume.minor,
            disk: volume.disk.clone().unwrap_or_else(|| "none".to_owned()),
            disk_options: volume.disk_options,
        });
        let peers = self.peers(node).map(|host| PeerConfig {
            node_id: host.node_id,
            name: host.name.clone(),
            address: host.address.to_string(),
        });
        Ok(ResourceConfig {
            name: self.name.clone(),
            node_id: own.node_id,
            node_name: own.name.clone(),
            peers: peers.collect(),
            volumes: volumes.collect(),
            options: self.options.clone(),
        })
    }

    /// Checks what the type alone does not promise: a definition may arrive as JSON.
    ///
    /// # Errors
    /// The first thing that is not as [`super::load`] would have made it.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.name;
        check_name(name).map_err(|why| format!("resource name {name:?}: {why}"))?;
        let [a, b] = self.hosts.as_slice() else {
            return Err(format!("{name}: {} hosts, two are needed", self.hosts.len()));
        };
        if a.node_id >= b.node_id || b.node_id > NODE_ID_MAX {
            return Err(format!(
                "{name}: node ids {} and {}: they must rise, 31 at most",
                a.node_id, b.node_id
            ));
        }
        if same_host(&a.name, &b.name) || a.addresses().any(|one| b.addresses().any(|o| o == one)) {
            return Err(format!("{name}: both hosts have one name or one address"));
        }
        if a.more_addresses.len() != b.more_addresses.len() || a.more_addresses.len() >= PATHS_MAX {
            return Err(format!("{name}: the hosts must have the same paths, {PATHS_MAX} at most"));
        }
        for host in &self.hosts {
            check_host(&host.name).map_err(|why| format!("{name}: host {:?}: {why}", host.name))?;
        }
        if a.volumes.len() > VOLUMES_MAX {
            return Err(format!("{name}: more than {VOLUMES_MAX} volumes"));
        }
        if a.volumes.is_empty() || !a.volumes.keys().eq(b.volumes.keys()) {
            return Err(format!("{name}: the hosts must have the same volumes, at least one"));
        }
        for (number, volume) in a.volumes.iter().chain(&b.volumes) {
            let odd = |size: u64| size == 0 || !size.is_multiple_of(BLOCK_SIZE);
            if volume.size.is_some_and(odd) {
                return Err(format!("{name}/{number}: the size is not a multiple of 4096"));
            }
            if let Some(after) = &volume.resync_after {
                after.check().map_err(|why| format!("{name}/{number}: {why}"))?;
            }
            if let Some(own) = volume.disk_options {
                option_table::check_ranges(&self.options.with_disk(own))
                    .map_err(|why| format!("{name}/{number}: {why}"))?;
            }
            let external = match &volume.meta_disk {
                MetaDisk::Internal => None,
                MetaDisk::External { path } => Some(path),
            };
            if volume.disk.iter().chain(external).any(|path| !path.starts_with('/')) {
                return Err(format!("{name}/{number}: a disk whose path does not begin with `/`"));
            }
            if *number > VOLUME_MAX || volume.minor > MINOR_MAX {
                return Err(format!("{name}/{number}: volume or minor out of range"));
            }
            if a.volumes[number].disk.is_none() && b.volumes[number].disk.is_none() {
                return Err(format!("{name}/{number}: no host has a disk"));
            }
        }
        if let AfterSb0Pri::DiscardNode(id) = self.options.after_sb_0pri
            && !self.hosts.iter().any(|host| host.node_id == id)
        {
            return Err(format!("{name}: after-sb-0pri discard-node: no host has node id {id}"));
        }
        if let Some(secrets) = &self.secrets {
            secrets.check().map_err(|why| format!("{name}: {why}"))?;
        }
        option_table::check_ranges(&self.options).map_err(|why| format!("{name}: {why}"))
    }
}

/// Whether two host names mean one host: equal, or one is the short form of the other. As in DRBD,
/// and as for every name of a host, upper and lower case are one.
#[must_use]
pub fn same_host(a: &str, b: &str) -> bool {
    let short_of = |short: &str, full: &str| {
        let (begin, rest) = full.as_bytes().split_at(short.len().min(full.len()));
        !short.is_empty()
            && !short.contains('.')
            && begin.eq_ignore_ascii_case(short.as_bytes())
            && rest.starts_with(b".")
    };
    a.eq_ignore_ascii_case(b) || short_of(a, b) || short_of(b, a)
}

/// Whether `name` can be a host's name in targets, messages and events.
pub(super) fn check_host(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("it is empty")
    } else if name.len() > HOST_NAME_MAX {
        Err("it is longer than 255 bytes")
    } else if name.contains(|c: char| c.is_control() || c.is_whitespace() || c == '"' || c == '/') {
        Err("no blanks, slashes, quotes or control characters")
    } else {
        Ok(())
    }
}

/// Whether `name` can be a resource's name in files, targets (`r0:bob/0`) and exports.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("it is empty")
    } else if name.len() > NAME_MAX {
        Err("it is longer than 127 bytes")
    } else if name == "all" {
        Err("`all` means every resource")
    } else if name.starts_with('-') {
        Err("it would be read as an option")
    } else if name.contains(['/', ':']) {
        Err("`/` and `:` separate volume and peer in a target")
    } else if name.contains(|c: char| c.is_control() || c.is_whitespace() || c == '"') {
        Err("no blanks, quotes or control characters")
    } else {
        Ok(())
    }
}
