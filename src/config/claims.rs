//! What only one volume or resource of a host can have: addresses, disks, minors, NBD devices.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::definition::same_host;
use super::finding::{Pos, Report, Scope};

/// A thing that one host has once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thing {
    Address(SocketAddr),
    /// A backing disk, or a device or file for metadata.
    Disk(String),
    Minor(u32),
    Node(String),
}

struct Claim {
    host: String,
    owner: String,
    at: Pos,
}

/// Who has what, over all resources.
#[derive(Default)]
pub(super) struct Claims {
    /// By the host's short name; hosts of one short name are compared in full.
    taken: BTreeMap<(String, Thing), Vec<Claim>>,
}

impl Claims {
    /// Claims `thing` on `host` for `owner` (`r0` or `r0/1`); a second claim is an error of
    /// `resource`.
    pub(super) fn claim(
        &mut self,
        host: &str,
        thing: Thing,
        owner: &str,
        resource: &str,
        at: Pos,
        report: &mut Report,
    ) {
        let short = host.split('.').next().unwrap_or(host).to_ascii_lowercase();
        let claims = self.taken.entry((short, thing.clone())).or_default();
        if let Some(first) = claims.iter().find(|claim| same_host(&claim.host, host)) {
            let (what, hint) = match thing {
                Thing::Address(address) => {
                    (format!("address {address}"), "give each resource a port of its own")
                }
                Thing::Disk(path) => (format!("disk {path}"), "give each volume a disk of its own"),
                Thing::Minor(minor) => {
                    (format!("minor {minor}"), "give each volume a minor of its own")
                }
                Thing::Node(node) => (node, "give each volume a device of its own"),
            };
            let place = report.place(first.at);
            let text = format!("{owner}: {what} belongs to {} already ({place})", first.owner);
            report.error(at, Scope::Resource(resource), text, hint);
            return;
        }
        claims.push(Claim { host: host.to_owned(), owner: owner.to_owned(), at });
    }
}

/// A path without doubled slashes and `.` components, for comparing.
pub(super) fn plain_path(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let root = if path.starts_with('/') { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}
