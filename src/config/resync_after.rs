//! `resync-after`: a volume whose resync goes before that of another one on the same node.
//!
//! Invariant: in what is put in force nobody waits for himself, over however many volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::definition::{VOLUME_MAX, check_name};
use super::draft::Draft;
use super::finding::{Pos, Report, Scope};
use crate::resource::VolumeNumber;

/// A volume of a resource, written `RES/VOL`; `RES` is its volume 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResyncAfter {
    /// The resource.
    pub resource: String,
    /// Its volume.
    pub volume: VolumeNumber,
}

impl ResyncAfter {
    /// What the value of the option means: `-1` is nobody.
    ///
    /// # Errors
    /// It is neither `-1` nor a volume of a resource.
    pub fn of_option(value: &str) -> Result<Option<Self>, String> {
        if value == "-1" { Ok(None) } else { value.parse().map(Some) }
    }

    /// Whether it can be named.
    ///
    /// # Errors
    /// Why it cannot: it may have come from outside.
    pub(super) fn check(&self) -> Result<(), String> {
        let name = &self.resource;
        check_name(name).map_err(|why| format!("resync-after {name:?}: {why}"))?;
        match self.volume <= VOLUME_MAX {
            true => Ok(()),
            false => Err(format!("resync-after {self}: volume out of range")),
        }
    }
}

impl fmt::Display for ResyncAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.resource, self.volume)
    }
}

impl FromStr for ResyncAfter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (resource, volume) = text.split_once('/').unwrap_or((text, "0"));
        let digits = !volume.is_empty() && volume.bytes().all(|b| b.is_ascii_digit());
        let volume = volume.parse().ok().filter(|_| digits);
        let volume = volume.ok_or_else(|| format!("`{text}` is no RESOURCE/VOLUME"))?;
        let found = Self { resource: resource.to_owned(), volume };
        found.check().map(|()| found)
    }
}

/// Whom each volume of a node waits for.
pub type Dependencies = BTreeMap<ResyncAfter, ResyncAfter>;

/// The way from `start` back to itself, in words; `None`: it ends.
#[must_use]
pub fn cycle(of: &Dependencies, start: &ResyncAfter) -> Option<String> {
    let mut way = start.to_string();
    let mut seen = BTreeSet::from([start]);
    let mut next = of.get(start)?;
    loop {
        way += &format!(" after {next}");
        if next == start {
            return Some(way);
        }
        if !seen.insert(next) {
            // A loop that it leads to, and is no part of.
            return None;
        }
        next = of.get(next)?;
    }
}

/// A `resync-after` in force for a volume on a host, and where it is written.
pub(super) struct Written {
    pub(super) host: String,
    pub(super) waits: ResyncAfter,
    pub(super) after: ResyncAfter,
    pub(super) at: Pos,
}

/// Refuses who waits for himself, or for what is not there.
pub(super) fn check(drafts: &[Draft], written: &[Written], report: &mut Report) {
    let is_there = |one: &ResyncAfter| {
        drafts.iter().filter(|draft| draft.name == one.resource).any(|draft| {
            let volumes = draft.hosts.iter().map(|host| &host.volumes).chain([&draft.volumes]);
            draft.incomplete || volumes.into_iter().any(|v| v.numbered.contains_key(&one.volume))
        })
    };
    // As in the claims: a host is known by its short name.
    let short = |host: &str| host.split('.').next().unwrap_or(host).to_owned();
    let mut hosts: BTreeMap<String, Dependencies> = BTreeMap::new();
    for one in written {
        let of = hosts.entry(short(&one.host)).or_default();
        of.insert(one.waits.clone(), one.after.clone());
    }
    let mut told = BTreeSet::new();
    for one in written {
        let scope = Scope::Resource(&one.waits.resource);
        if !is_there(&one.after) {
            if told.insert((one.at, one.after.clone())) {
                let text = format!("resync-after {}: there is no such volume", one.after);
                report.error(one.at, scope, text, "write: resync-after RESOURCE/VOLUME;");
            }
        } else if let Some(way) = cycle(&hosts[&short(&one.host)], &one.waits)
            && told.insert((one.at, one.waits.clone()))
        {
            let text = format!("{} would wait for itself: {way}", one.waits);
            report.error(one.at, scope, text, "remove one of them: a resync-after ends somewhere");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> ResyncAfter {
        text.parse().expect("a volume")
    }

    #[test]
    fn a_volume_is_named_and_minus_one_is_nobody() {
        assert_eq!(one("r0").to_string(), "r0/0");
        assert_eq!(one("r0/17").volume, 17);
        assert_eq!(ResyncAfter::of_option("-1"), Ok(None));
        for bad in ["", "/", "r0/", "r0/x", "r0/-1", "r0/+1", "r0/70000", "all/0", "a b/0", "-2"] {
            assert!(ResyncAfter::of_option(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_waits_for_himself_is_found_and_who_only_leads_there_is_not() {
        let of: Dependencies = [("a", "b"), ("b", "c"), ("c", "b"), ("d", "d"), ("e", "f")]
            .map(|(waits, after)| (one(waits), one(after)))
            .into();
        assert_eq!(cycle(&of, &one("a")), None);
        assert_eq!(cycle(&of, &one("b")).as_deref(), Some("b/0 after c/0 after b/0"));
        assert_eq!(cycle(&of, &one("d")).as_deref(), Some("d/0 after d/0"));
        assert_eq!(cycle(&of, &one("e")), None);
    }
}
