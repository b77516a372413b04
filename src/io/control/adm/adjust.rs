//! `adjust`, the verbs that change options, and what differs between the file and what runs.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{Definition, Host, HostVolume, ResyncAfter, override_option, same_host};
use crate::control::adjust::{Difference, Step, lines};
use crate::control::arguments::OptionWords;
use crate::control::scope::Scope;
use crate::control::target::Target;
use crate::control::{Report, Request, dry_run};
use crate::resource::{
    AdminResult, Command, DiskOptions, DiskState, NodeId, Options, Refusal, VolumeNumber,
};

use super::super::path_differs::{are_same_files, leads_to, strays};
use super::client::Client;
use super::configuration::Configuration;
use super::orders::told;
use super::{
    Failure, Outcome, Session, complain, for_each, names_of_peers, no_such_peer, no_such_volume,
    print,
};

/// What of the `disk` options is of a volume toward a peer.
const OF_PEER_DEVICES: [&str; 3] = ["resync-rate", "c-max-rate", "c-min-rate"];
/// The refusal of an `attach` of what is attached.
const ATTACHED: i32 = 124;

/// What of a resource `adjust` leaves as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::io::control) struct Skip {
    /// Disks and their options.
    pub(in crate::io::control) disk: bool,
    /// Peers, addresses and `net` options.
    pub(in crate::io::control) net: bool,
}

impl Skip {
    /// What is wanted, with what is left out as it runs.
    fn wanted(self, running: &Definition, definition: &Definition, own: &Host) -> Definition {
        let mut wanted = definition.clone();
        if self.net {
            wanted.options.take_section("net", &running.options);
            wanted.secrets.clone_from(&running.secrets);
        }
        if self.disk {
            wanted.options.take_section("disk", &running.options);
            let here = running.local(&own.name);
            let is_own = |host: &&mut Host| host.node_id == own.node_id;
            for host in wanted.hosts.iter_mut().filter(is_own) {
                for (number, volume) in &mut host.volumes {
                    let Some(old) = here.and_then(|here| here.volumes.get(number)) else {
                        continue;
                    };
                    volume.disk_options = old.disk_options;
                    volume.resync_after.clone_from(&old.resync_after);
                }
            }
        }
        wanted
    }

    /// Whether a step is one of what is left out, or of a peer that is not meant.
    fn leaves_out(self, step: &Step, peer: Option<NodeId>) -> bool {
        match step {
            Step::Connect(id) => self.net || peer.is_some_and(|peer| peer != *id),
            Step::Paths => self.net,
            Step::Detach(_) | Step::Attach(_) | Step::Rename(_) | Step::Volumes => self.disk,
            Step::Up | Step::Options(_) => false,
        }
    }
}

impl Session {
    /// Makes what runs as the configuration says; with `-d` says how.
    pub(in crate::io::control) fn adjust(&self, targets: &[Target], skip: Skip) -> Outcome {
        let configuration = self.configuration()?;
        let mut client = match self.client() {
            Err(_) if self.globals.dry_run => None,
            other => Some(other?),
        };
        configuration.for_each(targets, |target, definition, own| {
            let name = &definition.name;
            let peer = peer_of(target, definition, own)?;
            let mut running = match &mut client {
                Some(client) => client.running(name)?,
                None => None,
            };
            let in_part = skip != Skip::default() || peer.is_some();
            if running.is_none()
                && in_part
                && !self.globals.dry_run
                && let Some(client) = &mut client
            {
                let definition = Box::new(definition.clone());
                told(name, client.order(&Request::NewResource { definition })?)?;
                running = client.running(name)?;
            }
            let (Some(running), Some(client)) = (running, &mut client) else {
                return match &mut client {
                    Some(client) if !self.globals.dry_run => up(client, definition),
                    _ => print(&up_lines(definition, own, skip)),
                };
            };
            let report = client.reports(Some(name))?.into_iter().next();
            let Some(report) = report else { return Ok(()) };
            let wanted = skip.wanted(&running, definition, own);
            let definition = &wanted;
            let own = definition.hosts.iter().find(|host| host.node_id == own.node_id).unwrap_or(own);
            let difference = Difference::new(&running, definition, own).without_renamed(
                &running,
                own,
                |volume, old, new| is_in_use(&report, volume, old, new),
            );
            if let Some(refusal) = difference.refusal(name) {
                return told(name, Err(refusal));
            }
            let mut steps = difference.steps(&report, own);
            steps.retain(|step| !skip.leaves_out(step, peer));
            let nameless = nameless(&steps, &report, running.local(&own.name));
            let stays = |volume: VolumeNumber| nameless.iter().any(|(number, _)| *number == volume);
            steps.retain(|step| match step {
                Step::Detach(volume) | Step::Attach(volume) => !stays(*volume),
                // One of them may be a volume that was to have none.
                Step::Volumes => nameless.is_empty(),
                _ => true,
            });
            for (volume, what) in &report.path_differs {
                // It was moved, and the file says where to; or more is said of it.
                if steps.contains(&Step::Rename(*volume)) || stays(*volume) {
                    continue;
                }
                complain(&format!(
                    "{name}/{volume}: {what}, and is not the disk in use; nothing is done about it: \
                     `tandemadm why {name}`."
                ));
            }
            let done = match self.globals.dry_run {
                true => print(&lines(&steps, definition, own)),
                false => {
                    let mut run = Run { client, running: &running, definition, own };
                    run.all(steps)
                }
            };
            let refused = |(volume, what): (VolumeNumber, String)| {
                let refusal = not_let_go(name, volume, &what);
                told(&format!("{name}/{volume}"), Err(refusal))
            };
            let kept = for_each(nameless, refused);
            for_each([done, kept], |one| one)
        })
    }

    /// Changes the options of a section: those that are given, else all of it as in the file.
    pub(super) fn options(
        &self,
        section: &'static str,
        scope: Scope,
        words: &OptionWords,
    ) -> Outcome {
        let parts = words.parts().and_then(|(given, targets)| {
            scope.check(&targets)?;
            Ok((given, targets))
        });
        let (given, targets) = parts.map_err(|why| Failure::new(1, why))?;
        let foreign = |(name, _): &&(String, String)| !OF_PEER_DEVICES.contains(&name.as_str());
        if let (Scope::BOTH, Some((name, _))) = (scope, given.iter().find(foreign)) {
            let text = format!("{name}: peer-device-options are {}", OF_PEER_DEVICES.join(", "));
            return Err(Failure::new(10, text));
        }
        if scope == Scope::BOTH && given.is_empty() {
            // The section as in the file would be the whole disk section.
            let text = format!(
                "peer-device-options: say which, of {}; `tandemadm disk-options` puts all of the \
                 disk section in force",
                OF_PEER_DEVICES.join(", ")
            );
            return Err(Failure::new(1, text));
        }
        let whole = given.is_empty();
        let (after, given): (Vec<_>, Vec<_>) =
            given.into_iter().partition(|(name, _)| section == "disk" && name == "resync-after");
        let configuration = self.configuration()?;
        let after = after.last().map(|(_, value)| resync_after(value, &configuration));
        let after = after.transpose()?;
        let mut client = self.client()?;
        configuration.for_each(&targets, |target, definition, own| {
            let name = &definition.name;
            let mut peers = definition.hosts.iter().filter(|host| host.node_id != own.node_id);
            // With one peer its options are the resource's; but it must be that peer.
            if let Some(peer) = target.peer()
                && !peers.any(|host| same_host(&host.name, peer))
            {
                return Err(no_such_peer(target, names_of_peers(definition, own)));
            }
            if target.volume().is_some_and(|number| !own.volumes.contains_key(&number)) {
                return Err(no_such_volume(target, own.volumes.keys().copied()));
            }
            let running = client.running(name)?.ok_or_else(|| super::gone(name))?;
            let mut wanted = (*running).clone();
            let is_own = |host: &&mut Host| host.node_id == own.node_id;
            let refused = |why: String| Failure::new(10, format!("{name}: {why}"));
            let mut options: Options = running.options.clone();
            if whole && target.volume().is_none() {
                options.take_section(section, &definition.options);
                if section == "net" {
                    wanted.secrets.clone_from(&definition.secrets);
                }
            }
            // What a file would be warned about, once for all volumes.
            let mut warnings = BTreeSet::new();
            let mut put = |options: &mut Options| {
                for (option, value) in &given {
                    let warning = override_option(definition, options, section, option, value);
                    warnings.extend(warning.map_err(refused)?);
                }
                Ok::<_, Failure>(())
            };
            if target.volume().is_none() {
                put(&mut options)?;
            }
            for host in wanted.hosts.iter_mut().filter(is_own) {
                for (number, volume) in &mut host.volumes {
                    let is_meant = target.volume().is_none_or(|one| one == *number);
                    if section != "disk" || !is_meant {
                        continue;
                    }
                    let in_file = own.volumes.get(number);
                    if let Some(after) = &after {
                        volume.resync_after.clone_from(after);
                    } else if whole {
                        volume.resync_after = in_file.and_then(|one| one.resync_after.clone());
                    }
                    if whole {
                        let asked = in_file.and_then(|one| one.disk_options);
                        let asked = asked.unwrap_or_else(|| definition.options.disk());
                        volume.disk_options = Some(asked).filter(|one| *one != options.disk());
                        continue;
                    }
                    let before = volume.disk_options.unwrap_or_else(|| running.options.disk());
                    let mut changed = options.with_disk(before);
                    put(&mut changed)?;
                    let differs = changed.disk() != options.disk();
                    volume.disk_options = differs.then(|| changed.disk());
                }
            }
            wanted.options = options;
            for warning in &warnings {
                complain(&format!("{name}: warning: {warning}"));
            }
            let Some(own) = wanted.hosts.iter().find(|host| host.node_id == own.node_id) else {
                return Ok(());
            };
            let report = client.reports(Some(name))?.into_iter().next();
            let Some(report) = report else { return Ok(()) };
            let mut steps = Difference::new(&running, &wanted, own).steps(&report, own);
            steps.retain(|step| matches!(step, Step::Options(_)));
            match self.globals.dry_run {
                true => print(&lines(&steps, &wanted, own)),
                false => {
                    let (client, definition) = (&mut client, &wanted);
                    Run { client, running: &running, definition, own }.all(steps)
                }
            }
        })
    }

    /// Notes what differs between the file and what runs. A file that cannot be read, or that
    /// refuses a resource, says nothing.
    pub(super) fn find_differences(&self, reports: &mut [Report]) {
        let (Ok(configuration), Ok(mut client)) = (self.configuration(), self.client()) else {
            return;
        };
        for report in reports {
            let definition = configuration.config().resource(&report.status.name);
            let own = definition.and_then(|one| Some((one, one.local(configuration.node())?)));
            let Some((definition, own)) = own else { continue };
            if let Ok(Some(running)) = client.running(&report.status.name) {
                report.config_differs = Difference::new(&running, definition, own).words().to_vec();
            }
        }
    }
}

/// Which files a disk in use is. A tandemd of before, which goes on after an upgrade until it is restarted, says it of
/// none.
fn files_of(report: &Report, volume: VolumeNumber) -> Option<&[(u64, u64)]> {
    let found = report.disk_files.iter().find(|(number, _)| *number == volume);
    found.map(|(_, files)| files.as_slice())
}

/// Whether the paths of `new` lead to the disk that the volume has in use by those of `old`. Blocks.
fn is_in_use(report: &Report, volume: VolumeNumber, old: &HostVolume, new: &HostVolume) -> bool {
    if let Some(open) = files_of(report, volume) {
        return leads_to(new, open);
    }
    let is_attached = report
        .status
        .devices
        .iter()
        .any(|device| device.volume == volume && device.disk_state != DiskState::Diskless);
    let differs = report.path_differs.iter().any(|(number, _)| *number == volume);
    is_attached && !differs && are_same_files(old, new)
}

/// Disks that would be let go of and have lost their name, with what is wrong with it: what is in use may be the only
/// copy of it, and what the new path leads to one that was made before.
fn nameless(steps: &[Step], report: &Report, here: Option<&Host>) -> Vec<(VolumeNumber, String)> {
    let detached = steps.iter().filter_map(|step| match step {
        Step::Detach(volume) => Some(*volume),
        _ => None,
    });
    let looked_at = detached.filter_map(|volume| {
        let what = match files_of(report, volume) {
            Some(open) => strays(here?.volumes.get(&volume)?, open),
            None => report.path_differs.iter().find(|(number, _)| *number == volume)?.1.clone(),
        };
        Some((volume, what))
    });
    looked_at.filter(|(_, what)| !what.is_empty()).collect()
}

fn not_let_go(resource: &str, volume: VolumeNumber, what: &str) -> Refusal {
    Refusal {
        code: 162,
        text: "Invalid configuration request".to_owned(),
        hint: format!(
            "{what}: the disk in use has no name, and is gone when it is let go of; a copy of it is older. The old disk \
             stays attached. If it was renamed within its file system, write that path; if not, `tandemadm why \
             {resource}` says what to do, and `tandemadm detach {resource}/{volume}` before `adjust` gives it up."
        ),
    }
}

/// The node id of the peer that a target names.
fn peer_of(
    target: &Target,
    definition: &Definition,
    own: &Host,
) -> Result<Option<NodeId>, Failure> {
    let Some(peer) = target.peer() else { return Ok(None) };
    let mut others = definition.hosts.iter().filter(|host| host.node_id != own.node_id);
    let found = others.find(|host| same_host(&host.name, peer)).map(|host| host.node_id);
    found.map(Some).ok_or_else(|| no_such_peer(target, names_of_peers(definition, own)))
}

/// The `disk` options that the volumes of a host have of their own.
fn own_options(own: &Host) -> BTreeMap<VolumeNumber, DiskOptions> {
    let volumes = own.volumes.iter();
    volumes.filter_map(|(number, volume)| Some((*number, volume.disk_options?))).collect()
}

/// `resync-after` of the volumes of a host.
fn own_after(own: &Host) -> BTreeMap<VolumeNumber, ResyncAfter> {
    let volumes = own.volumes.iter();
    volumes.filter_map(|(number, volume)| Some((*number, volume.resync_after.clone()?))).collect()
}

/// `--resync-after=RES/VOL`, as the configuration knows the volume.
fn resync_after(
    value: &str,
    configuration: &Configuration,
) -> Result<Option<ResyncAfter>, Failure> {
    let after = ResyncAfter::of_option(value).map_err(|why| Failure::new(10, why))?;
    let Some(one) = &after else { return Ok(None) };
    let definition = configuration.config().resource(&one.resource);
    let known = |definition: &Definition| {
        definition.hosts.iter().any(|host| host.volumes.contains_key(&one.volume))
    };
    match definition.is_some_and(known) {
        true => Ok(after),
        false => {
            let text =
                format!("Failure: (132) The resync-after volume is invalid\n{one} is not there.");
            Err(Failure::new(10, text))
        }
    }
}

/// The steps of one resource being carried out.
struct Run<'a> {
    client: &'a mut Client,
    /// What it runs with before the first step.
    running: &'a Definition,
    definition: &'a Definition,
    own: &'a Host,
}

impl Run<'_> {
    /// Each step is tried, but none that takes a disk away which cannot be replaced.
    fn all(&mut self, steps: Vec<Step>) -> Outcome {
        let mut kept = Vec::new();
        let replaced = |steps: &[Step], volume| steps.contains(&Step::Attach(volume));
        for_each(steps.clone(), |step| match step {
            Step::Detach(volume) => {
                let checked = match replaced(&steps, volume) {
                    true => self.check_disk(volume),
                    false => Ok(()),
                };
                let done = checked.and_then(|()| self.step(Step::Detach(volume)));
                if done.is_err() {
                    kept.push(volume);
                }
                done
            }
            Step::Attach(volume) if kept.contains(&volume) => Ok(()),
            // One of them may be a volume that was to have none.
            Step::Volumes if !kept.is_empty() => Ok(()),
            Step::Attach(volume) if steps.contains(&Step::Detach(volume)) => {
                self.step(Step::Attach(volume)).map_err(|failure| self.restore(volume, failure))
            }
            Step::Attach(volume) => match self.order(Step::Attach(volume))? {
                // Somebody was quicker: a daemon that was started anew brings up what was up.
                Err(refusal) if refusal.code == ATTACHED => Ok(()),
                answer => told(&self.definition.name, answer),
            },
            step => self.step(step),
        })
    }

    fn step(&mut self, step: Step) -> Outcome {
        let answer = self.order(step)?;
        told(&self.definition.name, answer)
    }

    fn order(&mut self, step: Step) -> Result<AdminResult, Failure> {
        let name = self.definition.name.clone();
        let definition = Box::new(self.definition.clone());
        // What still differs is for the next step, and no news.
        let quiet = matches!(step, Step::Attach(_) | Step::Rename(_) | Step::Connect(_));
        let request = match step {
            Step::Up => Request::Up { definition },
            Step::Options(_) => Request::Options {
                resource: name,
                options: Box::new(definition.options.clone()),
                volumes: own_options(self.own),
                resync_after: own_after(self.own),
                secrets: definition.secrets.clone(),
            },
            Step::Paths => Request::Paths { definition },
            Step::Volumes => Request::Volumes { definition },
            Step::Detach(volume) => {
                Request::Order { resource: name, command: Command::Detach { volume, force: false } }
            }
            // Of what is attached an attach only takes the name.
            Step::Attach(volume) | Step::Rename(volume) => Request::Attach { definition, volume },
            Step::Connect(peer) => {
                Request::Connect { definition, peer, discard_my_data: false, tentative: false }
            }
        };
        let answer = self.client.order(&request)?;
        Ok(if quiet { answer.map(|_| String::new()) } else { answer })
    }

    /// Whether the disk that the configuration names could be attached. The old one is still there.
    fn check_disk(&mut self, volume: VolumeNumber) -> Outcome {
        let name = format!("{}/{volume}", self.definition.name);
        let definition = Box::new(self.definition.clone());
        let answer = self.client.order(&Request::CheckDisk { definition, volume })?;
        told(&name, answer).map_err(|mut failure| {
            failure.text += "\nThe old disk stays attached.";
            failure
        })
    }

    /// The new disk was refused after all: the old one is taken back.
    fn restore(&mut self, volume: VolumeNumber, mut failure: Failure) -> Failure {
        let definition = Box::new(self.running.clone());
        let again = self.client.order(&Request::Attach { definition, volume });
        failure.text += &match again {
            Ok(Ok(_)) => "\nThe old disk is attached again.".to_owned(),
            _ => format!(
                "\nThe old disk is not attached: when the cause is gone, `tandemadm adjust {}`.",
                self.definition.name
            ),
        };
        failure
    }
}

fn up(client: &mut Client, definition: &Definition) -> Outcome {
    let request = Request::Up { definition: Box::new(definition.clone()) };
    told(&definition.name, client.order(&request)?)
}

fn up_lines(definition: &Definition, own: &Host, skip: Skip) -> String {
    let mut steps = dry_run::Steps::new(definition, own, None);
    steps.resource();
    if !skip.disk {
        steps.attach(None);
    }
    if !skip.net {
        steps.connect(None);
    }
    steps.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MetaDisk;
    use crate::control::fixtures::healthy;

    fn volume(disk: &std::path::Path) -> HostVolume {
        HostVolume {
            device_node: None,
            minor: 0,
            disk: Some(disk.display().to_string()),
            meta_disk: MetaDisk::Internal,
            size: None,
            resync_after: None,
            disk_options: None,
        }
    }

    /// It does not say which files its disks are, but whether they have lost their names.
    #[test]
    fn with_a_tandemd_of_before_a_disk_that_is_renamed_stays_and_so_does_one_without_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let [disk, link, other] = ["disk", "link", "other"].map(|name| folder.path().join(name));
        std::fs::write(&disk, "disk").unwrap();
        std::fs::write(&other, "other").unwrap();
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        let mut report = healthy();
        let in_use = |report: &Report, new| is_in_use(report, 0, &volume(&disk), &volume(new));
        assert!(in_use(&report, &link) && !in_use(&report, &other));
        let steps = [Step::Detach(0), Step::Attach(0)];
        assert!(nameless(&steps, &report, None).is_empty());
        let what = "/dev/vg0/r0 is another file now".to_owned();
        report.path_differs = vec![(0, what.clone())];
        assert!(!in_use(&report, &link), "the old path leads to another file");
        assert_eq!(nameless(&steps, &report, None), [(0, what)]);
        assert!(nameless(&[Step::Attach(0)], &report, None).is_empty());
        report.path_differs.clear();
        report.status.devices[0].disk_state = DiskState::Diskless;
        assert!(!in_use(&report, &link));
        // Of one that says it only that counts.
        report.disk_files = vec![(0, vec![(1, 1)])];
        assert!(!in_use(&report, &link));
    }
}
