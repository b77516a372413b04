//! `adjust`, the verbs that change options, and what differs between the file and what runs.

use std::collections::BTreeMap;

use crate::config::{Definition, Host, override_option};
use crate::control::adjust::{Difference, Step, lines};
use crate::control::arguments::OptionWords;
use crate::control::target::Target;
use crate::control::{Report, Request, dry_run};
use crate::resource::{Command, DiskOptions, Options, VolumeNumber};

use super::client::Client;
use super::orders::told;
use super::{Failure, Outcome, Session, for_each, print};

impl Session {
    /// Makes what runs as the configuration says; with `-d` says how.
    pub(super) fn adjust(&self, targets: &[Target]) -> Outcome {
        let configuration = self.configuration()?;
        let mut client = match self.client() {
            Err(_) if self.globals.dry_run => None,
            other => Some(other?),
        };
        configuration.for_each(targets, |_, definition, own| {
            let name = &definition.name;
            let running = match &mut client {
                Some(client) => client.running(name)?,
                None => None,
            };
            let (Some(running), Some(client)) = (running, &mut client) else {
                return match &mut client {
                    Some(client) if !self.globals.dry_run => up(client, definition),
                    _ => print(&up_lines(definition, own)),
                };
            };
            let report = client.reports(Some(name))?.into_iter().next();
            let Some(report) = report else { return Ok(()) };
            let difference = Difference::new(&running, definition, own);
            let steps = difference.steps(&report, own);
            let done = match self.globals.dry_run {
                true => print(&lines(&steps, definition, own)),
                false => for_each(steps, |step| step_of(client, definition, own, step)),
            };
            done.and(match difference.fixed() {
                [] => Ok(()),
                fixed => Err(Failure::new(
                    10,
                    format!(
                        "{name}: Failure: (162) Invalid configuration request\n{}: `tandemadm down \
                         {name}`, `tandemadm up {name}`.",
                        fixed.join("; ")
                    ),
                )),
            })
        })
    }

    /// Changes the options of a section: those that are given, else all of it as in the file.
    pub(super) fn options(&self, section: &'static str, words: &OptionWords) -> Outcome {
        let (given, targets) = words.parts().map_err(|why| Failure::new(1, why))?;
        let configuration = self.configuration()?;
        let mut client = self.client()?;
        configuration.for_each(&targets, |target, definition, own| {
            let name = &definition.name;
            let running = client.running(name)?.ok_or_else(|| super::no_such_resource(name))?;
            let mut wanted = (*running).clone();
            let is_own = |host: &&mut Host| host.node_id == own.node_id;
            let refused = |why: String| Failure::new(10, format!("{name}: {why}"));
            let mut options: Options = running.options.clone();
            if given.is_empty() {
                options.take_section(section, &definition.options);
            }
            if target.volume().is_none() {
                for (option, value) in &given {
                    override_option(definition, &mut options, section, option, value)
                        .map_err(refused)?;
                }
            }
            for host in wanted.hosts.iter_mut().filter(is_own) {
                for (number, volume) in &mut host.volumes {
                    let is_meant = target.volume().is_none_or(|one| one == *number);
                    if section != "disk" || !is_meant {
                        continue;
                    }
                    if given.is_empty() {
                        volume.disk_options =
                            own.volumes.get(number).and_then(|volume| volume.disk_options);
                        continue;
                    }
                    let before = volume.disk_options.unwrap_or_else(|| running.options.disk());
                    let mut changed = options.with_disk(before);
                    for (option, value) in &given {
                        override_option(definition, &mut changed, section, option, value)
                            .map_err(refused)?;
                    }
                    let differs = changed.disk() != options.disk();
                    volume.disk_options = differs.then(|| changed.disk());
                }
            }
            wanted.options = options;
            let Some(own) = wanted.hosts.iter().find(|host| host.node_id == own.node_id) else {
                return Ok(());
            };
            let report = client.reports(Some(name))?.into_iter().next();
            let Some(report) = report else { return Ok(()) };
            let mut steps = Difference::new(&running, &wanted, own).steps(&report, own);
            steps.retain(|step| matches!(step, Step::Options(_)));
            match self.globals.dry_run {
                true => print(&lines(&steps, &wanted, own)),
                false => for_each(steps, |step| step_of(&mut client, &wanted, own, step)),
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

/// The `disk` options that the volumes of a host have of their own.
fn own_options(own: &Host) -> BTreeMap<VolumeNumber, DiskOptions> {
    let volumes = own.volumes.iter();
    volumes.filter_map(|(number, volume)| Some((*number, volume.disk_options?))).collect()
}

fn step_of(client: &mut Client, definition: &Definition, own: &Host, step: Step) -> Outcome {
    let name = definition.name.clone();
    let boxed = || Box::new(definition.clone());
    let request = match step {
        Step::Up => return up(client, definition),
        Step::Options(_) => Request::Options {
            resource: name.clone(),
            options: Box::new(definition.options.clone()),
            volumes: own_options(own),
        },
        Step::Paths => Request::Paths { definition: boxed() },
        Step::Detach(volume) => Request::Order {
            resource: name.clone(),
            command: Command::Detach { volume, force: false },
        },
        Step::Attach(volume) => Request::Attach { definition: boxed(), volume },
        Step::Connect(peer) => {
            Request::Connect { definition: boxed(), peer, discard_my_data: false, tentative: false }
        }
    };
    told(&name, client.order(&request)?)
}

fn up(client: &mut Client, definition: &Definition) -> Outcome {
    let request = Request::Up { definition: Box::new(definition.clone()) };
    told(&definition.name, client.order(&request)?)
}

fn up_lines(definition: &Definition, own: &Host) -> String {
    let mut steps = dry_run::Steps::new(definition, own, None);
    steps.resource();
    steps.attach(None);
    steps.connect(None);
    steps.finish()
}
