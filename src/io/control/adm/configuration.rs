//! The configuration of this node, and which of its resources a command means.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use nix::sys::socket::SockaddrStorage;

use crate::config::{self, Config, Definition, Finding, Host, Severity};
use crate::control::Report;
use crate::control::arguments::Globals;
use crate::control::check::Beside;
use crate::control::target::Target;
use crate::io::config_files::ConfigFiles;

use super::{Failure, Outcome, complain};

/// What was read, for this node.
pub(in crate::io::control) struct Configuration {
    config: Config,
    node: String,
    path: String,
    /// Why `floating` hosts of a resource could not be told apart, by the resource's name.
    unsettled: BTreeMap<String, String>,
    /// The findings that were told: each is, once, however many targets it concerns.
    told: RefCell<BTreeSet<usize>>,
}

/// The addresses of this host's interfaces.
fn own_addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| interface.address);
    let v4 = |address: &SockaddrStorage| address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    let v6 = |address: &SockaddrStorage| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
    addresses.filter_map(|address| v4(&address).or_else(|| v6(&address))).collect()
}

impl Configuration {
    /// Reads the files. What is wrong with them is told when a resource is chosen.
    ///
    /// # Errors
    /// Neither `--node` nor the host name names this node.
    pub(in crate::io::control) fn load(globals: &Globals) -> Result<Self, Failure> {
        let node = match &globals.node {
            Some(node) => node.clone(),
            None => super::super::daemon::host_name().map_err(|text| Failure::new(10, text))?,
        };
        Ok(Self::of(node, &globals.config))
    }

    /// Reads the files as this node.
    pub(in crate::io::control) fn of(node: String, path: &Path) -> Self {
        let path = path.display().to_string();
        let mut config = config::load(&ConfigFiles, &path);
        let mut unsettled = BTreeMap::new();
        if config.resources.iter().any(|one| one.hosts.iter().any(|host| host.floating)) {
            let own = own_addresses();
            for definition in &mut config.resources {
                if let Err(why) = definition.settle(&node, |address| own.contains(&address)) {
                    unsettled.insert(definition.name.clone(), why);
                }
            }
        }
        Self { config, node, path, unsettled, told: RefCell::default() }
    }

    /// All that was read.
    pub(in crate::io::control) fn config(&self) -> &Config {
        &self.config
    }

    /// This node's name.
    pub(in crate::io::control) fn node(&self) -> &str {
        &self.node
    }

    /// Whether the files name the resource, even if only to be refused.
    pub(in crate::io::control) fn names(&self, resource: &str) -> bool {
        self.config.resource(resource).is_some() || self.config.is_refused(resource)
    }

    /// The names of all resources that the files have.
    pub(in crate::io::control) fn all_names(&self) -> Vec<&str> {
        let defined = self.config.resources.iter().map(|one| one.name.as_str());
        defined.chain(self.config.refused.iter().map(String::as_str)).collect()
    }

    /// The names of the resources of this node, and of those that are refused: whose they are is not known.
    pub(in crate::io::control) fn own_names(&self) -> Vec<String> {
        let defined = self.config.resources.iter();
        let own = defined.filter(|one| one.local(&self.node).is_some()).map(|one| &one.name);
        own.chain(&self.config.refused).cloned().collect()
    }

    /// What `check` says beside what is up: what should be up here, and what is wrong with the files. `named`:
    /// as far as it concerns one of these resources.
    pub(in crate::io::control) fn beside(&self, up: &[Report], named: Option<&[&str]>) -> Beside {
        let is_meant = |name: &str| named.is_none_or(|named| named.contains(&name));
        let own = self.config.resources.iter().filter(|one| one.local(&self.node).is_some());
        let is_up = |name: &str| up.iter().any(|report| report.status.name == name);
        let down = own.map(|one| &one.name).filter(|name| is_meant(name) && !is_up(name));
        let errors = self.config.findings.iter().filter(|finding| {
            finding.severity == Severity::Error && finding.resource.as_deref().is_none_or(is_meant)
        });
        let mut wrong: Vec<String> = errors.map(Finding::in_short).collect();
        let unsettled = self.unsettled.iter().filter(|(name, _)| is_meant(name));
        wrong.extend(unsettled.map(|(name, why)| format!("{}: {name}: {why}", self.path)));
        let more = wrong.len().saturating_sub(1);
        let first = wrong.into_iter().next();
        let wrong = first.map(|first| match more {
            0 => first,
            more => format!("{first} (and {more} more)"),
        });
        Beside { down: down.cloned().collect(), wrong }
    }

    /// The file that was read first.
    pub(in crate::io::control) fn path(&self) -> &str {
        &self.path
    }

    /// Does something with each resource that the targets mean, and that this node is part of.
    /// Findings are told first; a resource that is refused is a failure with exit code 10.
    pub(in crate::io::control) fn for_each(
        &self,
        targets: &[Target],
        mut act: impl FnMut(&Target, &Definition, &Host) -> Outcome,
    ) -> Outcome {
        super::for_each(targets, |target| match target.resource() {
            None => self.for_all(target, &mut act),
            Some(name) => {
                self.tell(Some(name));
                let Some(definition) = self.config.resource(name) else {
                    return Err(self.missing(name));
                };
                let own = definition.for_node(&self.node).map(|_| definition.local(&self.node));
                match own {
                    Ok(Some(own)) => act(target, definition, own),
                    Ok(None) => Err(self.missing(name)),
                    Err(why) => {
                        let why = self.unsettled.get(name).unwrap_or(&why).clone();
                        Err(Failure::new(10, why))
                    }
                }
            }
        })
    }

    fn for_all(
        &self,
        target: &Target,
        act: &mut impl FnMut(&Target, &Definition, &Host) -> Outcome,
    ) -> Outcome {
        self.tell(None);
        let definitions = self.config.resources.iter();
        let own = definitions.filter_map(|one| Some((one, one.local(&self.node)?)));
        let done = super::for_each(own, |(definition, own)| act(target, definition, own));
        let done = done.and(super::for_each(self.unsettled.values(), |why| {
            Err(Failure::new(10, why.clone()))
        }));
        match self.config.has_errors() {
            true => done.and(Err(Failure::new(10, ""))),
            false => done,
        }
    }

    /// Tells the findings that concern a resource, or all, where they were not told before.
    fn tell(&self, resource: Option<&str>) {
        let findings = self.config.findings.iter().enumerate().filter(|(_, finding)| {
            resource.is_none()
                || finding.resource.is_none()
                || finding.resource.as_deref() == resource
        });
        for (number, finding) in findings {
            if self.told.borrow_mut().insert(number) {
                complain(&finding.to_string());
            }
        }
    }

    fn missing(&self, name: &str) -> Failure {
        if self.config.is_refused(name) {
            return Failure::new(10, format!("{name}: the configuration is not valid"));
        }
        let unread = self.config.resources.is_empty()
            && self.config.findings.iter().any(|finding| finding.severity == Severity::Error);
        let hint = match unread {
            true => format!("no resource could be read from {}", self.path),
            false => format!(
                "{} defines: {}",
                self.path,
                match self.config.resources.as_slice() {
                    [] => "nothing".to_owned(),
                    all => all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", "),
                }
            ),
        };
        Failure::new(10, format!("'{name}' not defined in your config (for this host).\n{hint}"))
    }
}
