//! Orders to the daemon: whom they are for, what is asked before, and what becomes of them.

use crate::config::{Host, HostVolume, nbd_device};
use crate::control::arguments::{ForceWord, Verb};
use crate::control::target::Target;
use crate::control::{Report, Request, age, human};
use crate::io::control::remembered::Remembered;
use crate::resource::{
    AdminResult, Command, ConnectionState, ConnectionStatus, DiskState, Force, Role,
};

use super::client::Client;
use super::{
    Failure, Outcome, Session, complain, connections, for_each, names_of_peers, no_such_peer,
    no_such_volume, print, terminal, volumes,
};

/// An order that names what is running.
#[derive(Clone, Copy)]
pub(super) enum Wide {
    /// Once for the resource.
    Resource,
    /// For each volume.
    Volume,
    /// For each peer.
    Peer,
    /// For each volume toward each peer.
    PeerDevice,
}

impl Session {
    pub(super) fn order(&self, verb: Verb) -> Outcome {
        match verb {
            Verb::Up(targets) => self.up(&targets.targets),
            Verb::Down(targets) => self.down(&targets.targets),
            Verb::Attach(targets) => self.attach(&targets.targets),
            Verb::Connect { discard_my_data, tentative, targets } => {
                self.connect(&targets.targets, discard_my_data, tentative)
            }
            Verb::Primary { hand_over: true, targets, .. } => {
                let (targets, command) =
                    (&targets.targets, |_: Option<_>, _: Option<_>| Command::HandOver);
                self.running(targets, Wide::Resource, |_, _, _| Ok(()), &command)
            }
            Verb::Primary { force, targets, .. } => self.primary(&targets.targets, &force),
            Verb::Invalidate(targets) => self.invalidate(&targets.targets),
            Verb::InvalidateRemote(targets) => self.invalidate_remote(&targets.targets),
            Verb::Verify { repair: true, from, targets, .. } => {
                self.repair(&targets.targets, from.as_deref())
            }
            other => match plain(&other) {
                Some((targets, wide, command)) => {
                    self.running(&targets, wide, |_, _, _| Ok(()), &*command)
                }
                None => Err(Failure::new(1, "nothing to order")),
            },
        }
    }

    fn up(&self, targets: &[Target]) -> Outcome {
        let configuration = self.configuration()?;
        let mut client = self.client()?;
        configuration.for_each(targets, |_, definition, _| {
            let request = Request::Up { definition: Box::new(definition.clone()) };
            told(&definition.name, client.order(&request)?)
        })
    }

    fn down(&self, targets: &[Target]) -> Outcome {
        let named = targets.iter().filter_map(Target::resource);
        let mut client = self.client().inspect_err(|_| {
            // A daemon that is started later does not bring them up, as it would after a crash.
            let remembered = Remembered::new(&self.globals.run_dir);
            named.for_each(|name| remembered.forget(name));
        })?;
        let mut names: Vec<String> = Vec::new();
        for target in targets {
            match target.resource() {
                Some(name) => names.push(name.to_owned()),
                None => names.extend(client.reports(None)?.into_iter().map(|one| one.status.name)),
            }
        }
        for_each(names, |name| {
            let is_up = !client.reports(Some(&name))?.is_empty();
            if !is_up {
                // Nothing to do is done; but a name that nobody knows is a slip.
                let configuration = self.configuration()?;
                if !configuration.names(&name) && !configuration.config().has_errors() {
                    return configuration.for_each(&[target_of(&name)?], |_, _, _| Ok(()));
                }
                // It may be on its way up after a crash.
            }
            told(&name, client.order(&Request::Down { resource: name.clone() })?)
        })
    }

    fn attach(&self, targets: &[Target]) -> Outcome {
        let configuration = self.configuration()?;
        let mut client = self.client()?;
        configuration.for_each(targets, |target, definition, own| {
            let is_meant = |number: &u16| target.volume().is_none_or(|one| one == *number);
            if !own.volumes.keys().any(is_meant) {
                return Err(no_such_volume(target, own.volumes.keys().copied()));
            }
            let with_disk = own.volumes.iter().filter(|(_, volume)| volume.disk.is_some());
            let meant: Vec<u16> = with_disk.map(|(number, _)| *number).filter(is_meant).collect();
            if meant.is_empty() {
                let text = format!("{target}: Failure: (138) Device does not have a disk-config");
                return Err(Failure::new(10, text));
            }
            for_each(meant, |volume| {
                let definition = Box::new(definition.clone());
                let name = format!("{}/{volume}", definition.name);
                told(&name, client.order(&Request::Attach { definition, volume })?)
            })
        })
    }

    fn connect(&self, targets: &[Target], discard_my_data: bool, tentative: bool) -> Outcome {
        let configuration = self.configuration()?;
        let mut client = self.client()?;
        configuration.for_each(targets, |target, definition, own| {
            let is_meant =
                |name: &str| target.peer().is_none_or(|peer| crate::config::same_host(name, peer));
            let peers: Vec<_> = definition
                .peers(configuration.node())
                .filter(|peer| is_meant(&peer.name))
                .collect();
            if peers.is_empty() {
                return Err(no_such_peer(target, names_of_peers(definition, own)));
            }
            if discard_my_data && !tentative {
                let report = client.reports(Some(&definition.name))?.into_iter().next();
                let lost = report.as_ref().map_or(0, |report| written_alone(report, None));
                let what = format!(
                    "This throws away what was written on {} since the split ({}); {}'s data \
                     replaces it.",
                    own.name,
                    human(lost),
                    peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>().join(", "),
                );
                terminal::confirm(&what, "the node whose data is lost", &own.name)?;
            }
            for_each(peers, |peer| {
                let request = Request::Connect {
                    definition: Box::new(definition.clone()),
                    peer: peer.node_id,
                    discard_my_data,
                    tentative,
                };
                match client.order(&request)? {
                    // The verdict is what was asked for.
                    Ok(verdict) if tentative => print(&format!("{verdict}\n")),
                    other => told(&definition.name, other),
                }
            })
        })
    }

    fn primary(&self, targets: &[Target], words: &[ForceWord]) -> Outcome {
        let ask = |report: &Report, _: Option<u16>, _: Option<&str>| {
            if let Some((what, other)) = perhaps_primary(report).filter(|_| words.is_empty()) {
                terminal::confirm(&what, "the node that you have made sure is OFF", &other)?;
            }
            words.iter().try_for_each(|word| ask_for_force(report, *word))
        };
        let force = Force::of(words.iter().filter_map(|word| word.danger()));
        let command = |_: Option<u16>, _: Option<u8>| Command::Primary { force };
        self.running(targets, Wide::Resource, ask, &command)?;
        if terminal::is_person() {
            let configuration = self.configuration().ok();
            for (_, report) in self.reports(targets)? {
                let all = configuration.as_ref();
                let definition = all.and_then(|all| all.config().resource(&report.status.name));
                let own = definition.and_then(|one| one.local(&report.status.node_name));
                complain(&attach_lines(&report, own));
            }
        }
        Ok(())
    }

    fn invalidate(&self, targets: &[Target]) -> Outcome {
        let ask = |report: &Report, volume: Option<u16>, _: Option<&str>| {
            confirm_loss(report, volume, &report.status.node_name, "the peer")
        };
        let command = |volume: Option<u16>, _: Option<u8>| Command::Invalidate {
            volume: volume.unwrap_or_default(),
        };
        self.running(targets, Wide::Volume, ask, &command)
    }

    fn invalidate_remote(&self, targets: &[Target]) -> Outcome {
        let ask = |report: &Report, volume: Option<u16>, peer: Option<&str>| {
            confirm_loss(report, volume, peer.unwrap_or_default(), "here")
        };
        let command = |volume: Option<u16>, peer: Option<u8>| Command::InvalidateRemote {
            volume: volume.unwrap_or_default(),
            peer: peer.unwrap_or_default(),
        };
        self.running(targets, Wide::PeerDevice, ask, &command)
    }

    /// Sends a command for all that the targets mean, of what is up.
    fn running(
        &self,
        targets: &[Target],
        wide: Wide,
        ask: impl Fn(&Report, Option<u16>, Option<&str>) -> Outcome,
        command: &dyn Fn(Option<u16>, Option<u8>) -> Command,
    ) -> Outcome {
        self.each_step(targets, wide, |client, report, (name, volume, peer)| {
            ask(report, volume, peer.map(|(_, name)| name))?;
            let command = command(volume, peer.map(|(id, _)| id));
            told(&name, client.command(&report.status.name, command)?)
        })
    }

    /// All that the targets mean, of what is up.
    pub(super) fn each_step(
        &self,
        targets: &[Target],
        wide: Wide,
        act: impl Fn(&mut Client, &Report, Step<'_>) -> Outcome,
    ) -> Outcome {
        let mut client = self.client()?;
        for_each(targets, |target| {
            let reports = client.reports(target.resource())?;
            if let (Some(name), []) = (target.resource(), reports.as_slice()) {
                return Err(self.not_up(name, &client.reports(None)?));
            }
            for_each(&reports, |report| {
                for_each(steps(report, target, wide)?, |step| act(&mut client, report, step))
            })
        })
    }

    /// A resource that is not up: known to the configuration, or a slip.
    pub(super) fn not_up(&self, name: &str, up: &[Report]) -> Failure {
        match self.is_defined(name) {
            true => Failure::new(
                10,
                format!(
                    "{name}: Failure: (158) Unknown resource\n{name} is not up: `tandemadm up \
                     {name}`."
                ),
            ),
            false => Failure::new(
                10,
                format!(
                    "'{name}' not defined in your config (for this host), and not up.\n{}",
                    self.existing(up)
                ),
            ),
        }
    }
}

/// A command for what its target means, without questions and without the configuration.
type Plain = (Vec<Target>, Wide, Box<dyn Fn(Option<u16>, Option<u8>) -> Command>);

fn plain(verb: &Verb) -> Option<Plain> {
    Some(match verb {
        Verb::Detach { forced, targets } => {
            let force = forced.force;
            let command = move |volume: Option<u16>, _: Option<u8>| Command::Detach {
                volume: volume.unwrap_or_default(),
                force,
            };
            (targets.targets.clone(), Wide::Volume, Box::new(command))
        }
        Verb::Disconnect { forced, for_seconds, targets } => {
            let force = forced.force;
            let for_ms = for_seconds.map(|seconds| u64::from(seconds) * 1000);
            let command = move |_: Option<u16>, peer: Option<u8>| Command::Disconnect {
                peer: peer.unwrap_or_default(),
                force,
                for_ms,
            };
            (targets.targets.clone(), Wide::Peer, Box::new(command))
        }
        Verb::Secondary { forced, wait, targets } => {
            let (force, wait_ms) = (forced.force, u64::from(*wait) * 1000);
            let command =
                move |_: Option<u16>, _: Option<u8>| Command::Secondary { force, wait_ms };
            (targets.targets.clone(), Wide::Resource, Box::new(command))
        }
        Verb::Outdate(targets) => {
            let command = |volume: Option<u16>, _: Option<u8>| Command::Outdate {
                volume: volume.unwrap_or_default(),
            };
            (targets.targets.clone(), Wide::Volume, Box::new(command))
        }
        Verb::UnfencePeer(targets) => {
            let command = |_: Option<u16>, peer: Option<u8>| Command::UnfencePeer {
                peer: peer.unwrap_or_default(),
            };
            (targets.targets.clone(), Wide::Peer, Box::new(command))
        }
        Verb::PauseSync(targets) | Verb::ResumeSync(targets) => {
            let pause = matches!(verb, Verb::PauseSync(_));
            let command = move |volume: Option<u16>, peer: Option<u8>| Command::PauseSync {
                volume: volume.unwrap_or_default(),
                peer: peer.unwrap_or_default(),
                pause,
            };
            (targets.targets.clone(), Wide::PeerDevice, Box::new(command))
        }
        Verb::SuspendIo(targets) | Verb::ResumeIo(targets) => {
            let suspend = matches!(verb, Verb::SuspendIo(_));
            let command = move |_: Option<u16>, _: Option<u8>| Command::SuspendIo { suspend };
            (targets.targets.clone(), Wide::Resource, Box::new(command))
        }
        Verb::Verify { start, stop, repair: false, targets, .. } => {
            let (start, stop) = (*start, *stop);
            let command = move |volume: Option<u16>, peer: Option<u8>| Command::Verify {
                volume: volume.unwrap_or_default(),
                peer: peer.unwrap_or_default(),
                start,
                stop,
            };
            (targets.targets.clone(), Wide::PeerDevice, Box::new(command))
        }
        Verb::Resize { size, assume_clean, targets } => {
            let (size, assume_clean) = (*size, *assume_clean);
            let command = move |volume: Option<u16>, _: Option<u8>| Command::Resize {
                volume: volume.unwrap_or_default(),
                size,
                assume_clean,
            };
            (targets.targets.clone(), Wide::Volume, Box::new(command))
        }
        Verb::NewCurrentUuid { clear_bitmap, targets } => {
            let clear_bitmap = *clear_bitmap;
            let command = move |volume: Option<u16>, _: Option<u8>| Command::NewCurrentUuid {
                volume: volume.unwrap_or_default(),
                clear_bitmap,
            };
            (targets.targets.clone(), Wide::Volume, Box::new(command))
        }
        _ => return None,
    })
}

pub(super) type Step<'a> = (String, Option<u16>, Option<(u8, &'a str)>);

/// What a target means, piece by piece, with the name that messages begin with.
fn steps<'a>(report: &'a Report, target: &Target, wide: Wide) -> Result<Vec<Step<'a>>, Failure> {
    let name = &report.status.name;
    Ok(match wide {
        Wide::Resource => vec![(name.clone(), None, None)],
        Wide::Volume => volumes(report, target)?
            .into_iter()
            .map(|device| (format!("{name}/{}", device.volume), Some(device.volume), None))
            .collect(),
        Wide::Peer => connections(report, target)?
            .into_iter()
            .map(|one| (name.clone(), None, Some((one.peer_node_id, one.name.as_str()))))
            .collect(),
        Wide::PeerDevice => {
            let (devices, peers) = (volumes(report, target)?, connections(report, target)?);
            let pair = |volume: u16| {
                peers.iter().map(move |one| {
                    let peer = (one.peer_node_id, one.name.as_str());
                    (format!("{name}/{volume}"), Some(volume), Some(peer))
                })
            };
            devices.iter().flat_map(|device| pair(device.volume)).collect()
        }
    })
}

/// What the daemon said.
pub(in crate::io::control) fn told(name: &str, result: AdminResult) -> Outcome {
    match result {
        Ok(text) => {
            if !text.is_empty() {
                complain(&format!("{name}: {text}"));
            }
            Ok(())
        }
        Err(refusal) => Err(Failure::refused(name, &refusal)),
    }
}

fn target_of(name: &str) -> Result<Target, Failure> {
    name.parse().map_err(|text: String| Failure::new(1, text))
}

/// Asks before a node's copy is thrown away; it comes anew from there.
fn confirm_loss(report: &Report, volume: Option<u16>, node: &str, from: &str) -> Outcome {
    let what = format!(
        "This throws away {node}'s copy of {} ({}); it is copied anew from {from}.",
        report.status.name,
        human(size(report, volume)),
    );
    terminal::confirm(&what, "the node whose data is lost", node)
}

fn size(report: &Report, volume: Option<u16>) -> u64 {
    let devices = report.status.devices.iter();
    devices.filter(|one| volume.is_none_or(|v| v == one.volume)).map(|one| one.size).sum()
}

fn written_alone(report: &Report, peer: Option<u8>) -> u64 {
    let connections = report.status.connections.iter();
    connections
        .filter(|one| peer.is_none_or(|id| id == one.peer_node_id))
        .flat_map(|one| &one.peer_devices)
        .map(|peer| peer.out_of_sync)
        .sum()
}

/// What a promotion rests on where the peer was Primary when it was seen last, and its name.
fn perhaps_primary(report: &Report) -> Option<(String, String)> {
    let gone = |one: &&ConnectionStatus| {
        one.connection_state != ConnectionState::Connected && one.last_peer_role == Role::Primary
    };
    let status = &report.status;
    let peer = status.connections.iter().find(gone).filter(|_| status.role != Role::Primary)?;
    let (node, other) = (&status.node_name, &peer.name);
    let what = format!(
        "{other} was Primary when it was last seen, {} ago, and nobody has said that it is off.\n\
         If it still runs, its writes since then and those on {node} from now on cannot be \
         merged: one side will be thrown away.",
        age(peer.since_ms / 1000)
    );
    Some((what, other.clone()))
}

fn ask_for_force(report: &Report, word: ForceWord) -> Outcome {
    let status = &report.status;
    let Some(peer) = status.connections.first() else { return Ok(()) };
    let (node, other, resource) = (&status.node_name, &peer.name, &status.name);
    let all = human(size(report, None));
    let connected = peer.connection_state == ConnectionState::Connected;
    let fresh = status.devices.iter().all(|one| one.disk_state == DiskState::Inconsistent);
    let danger = match word {
        ForceWord::Plain if fresh => {
            format!(
                "{node}'s new disk becomes the good copy of {resource}; all of {other}'s ({all}) \
                     is overwritten by the first sync."
            )
        }
        ForceWord::Plain => format!(
            "Whether {node} has the newest data of {resource} is not known. If {other} was written \
             alone, this makes a split brain: one side's writes will be thrown away."
        ),
        ForceWord::Inconsistent => format!(
            "{node}'s disk of {resource} is a mix of old and new blocks: what is on it cannot be \
             trusted, and {other}'s good copy ({all}) will be given up for it."
        ),
        ForceWord::Outdated => format!(
            "{node}'s data of {resource} is old: what {other} has written since then will be \
             thrown away, or make a split brain."
        ),
        ForceWord::Blank if !connected => format!(
            "{node}'s disk of {resource} is blank; whatever {other}'s new disk ({all}) turns out to \
             hold is overwritten with nothing at the first connection."
        ),
        ForceWord::Blank => format!(
            "{node}'s disk of {resource} is blank, {other}'s holds a file system: {other}'s data \
             ({all}) is overwritten with nothing."
        ),
        ForceWord::Not => return Ok(()),
    };
    let since = match connected {
        true => String::new(),
        false => format!(" {other} has not been connected for {}.", age(peer.since_ms / 1000)),
    };
    terminal::confirm(&format!("{danger}{since}"), "the node whose data is lost", other)
}

/// How the volumes become block devices: those that the configuration names, where it can be read.
fn attach_lines(report: &Report, own: Option<&Host>) -> String {
    let single = report.status.devices.len() == 1;
    let lines: Vec<String> = report
        .status
        .devices
        .iter()
        .map(|device| {
            let export = match single {
                true => report.status.name.clone(),
                false => format!("{}/{}", report.status.name, device.volume),
            };
            let volume = own.and_then(|own| own.volumes.get(&device.volume));
            let node = volume.map_or_else(|| nbd_device(device.minor), HostVolume::nbd_device);
            format!(
                "block device: nbd-client -unix {} -N {export} -persist -timeout 300 {node}",
                report.nbd_socket
            )
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures;

    #[test]
    fn the_device_is_the_one_of_the_configuration() {
        let report = fixtures::healthy();
        let line = |own: Option<&Host>| attach_lines(&report, own);
        let text = "resource r0 { \
            volume 0 { device /dev/nbd3 minor 7; disk /dev/vg0/r0; meta-disk internal; } \
            on alice { node-id 0; address 10.0.0.1:7789; } \
            on bob { node-id 1; address 10.0.0.2:7789; } }";
        let config = crate::config::load(&crate::config::OneFile(text), "r0.res");
        assert!(line(config.resources[0].local("alice")).ends_with(" -timeout 300 /dev/nbd3"));
        assert!(line(None).ends_with(" /dev/nbd0"));
    }

    #[test]
    fn a_promotion_beside_a_peer_that_was_primary_is_asked_for() {
        let mut report = fixtures::mirrored(fixtures::peer_down());
        let (what, other) = perhaps_primary(&report).unwrap();
        assert_eq!(other, "alice");
        assert!(what.starts_with("alice was Primary when it was last seen, 40 min ago"), "{what}");
        report.status.connections[0].last_peer_role = Role::Secondary;
        assert!(perhaps_primary(&report).is_none());
        assert!(perhaps_primary(&fixtures::mirrored(fixtures::healthy())).is_none());
        assert!(perhaps_primary(&fixtures::peer_down()).is_none());
    }
}
