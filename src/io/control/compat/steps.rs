//! The finer steps that agents take one by one: `new-resource`, `new-minor`, parts of `adjust`,
//! `connect` to one peer; and `show`, what came of them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::super::adm::adjust::Skip;
use super::super::adm::client::Client;
use super::super::adm::orders::told;
use super::super::adm::{Failure, Outcome, Session, for_each, print};
use super::presence::{PATIENCE, Presence, settle};
use super::{Compat, Need, not_up, silent, snapshot};
use crate::compat::{Aim, Tool, resolve, show_json, show_text};
use crate::config::{Definition, Host, same_host};
use crate::control::{Request, status_text};

/// How long the daemon may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

impl Compat {
    /// Has the system start the daemon, and waits until it answers.
    pub(super) fn start_daemon(&self) -> Outcome {
        let failure = |why: &str| Failure::new(20, format!("tandemd does not run, and {why}"));
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(failure("there is no systemd here that could start it"));
        }
        let started = Command::new("systemctl").args(["start", "tandemd.service"]).status();
        if !started.is_ok_and(|status| status.success()) {
            return Err(failure("`systemctl start tandemd` has failed: its log says why"));
        }
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline {
            match settle(self.run_dir(), START_LIMIT)? {
                Some(Presence::There(_)) => return Ok(()),
                Some(Presence::Absent) => std::thread::sleep(Duration::from_millis(100)),
                None => break,
            }
        }
        Err(failure("it was started and does not answer"))
    }

    /// The daemon; it is started where it is not there.
    fn begin(&self) -> Result<Client, Failure> {
        for _ in 0..2 {
            match settle(self.run_dir(), PATIENCE)? {
                Some(Presence::There(client)) => return Ok(client),
                Some(Presence::Absent) => self.start_daemon()?,
                None => break,
            }
        }
        Err(silent())
    }

    /// `new-resource`: there, without disks and peers. drbdsetup gives the node id, too.
    pub(super) fn new_resource(&mut self) -> Outcome {
        let mut node_id = None;
        if self.tool() == Tool::Drbdsetup {
            self.line.end(2..=2)?;
            node_id = self.line.operands.pop();
        }
        self.line.end(1..=usize::MAX)?;
        if self.line.dry_run {
            return self.configuration()?.for_each(&self.targets()?, |_, definition, own| {
                print(&format!("drbdsetup new-resource {} {}\n", definition.name, own.node_id))
            });
        }
        let targets = self.targets()?;
        let configuration = self.configuration()?;
        // A wrong name needs no daemon.
        configuration.for_each(&targets, |_, _, _| Ok(()))?;
        let mut client = self.begin()?;
        configuration.for_each(&targets, |_, definition, own| {
            if node_id.as_ref().is_some_and(|id| *id != own.node_id.to_string()) {
                let text = format!(
                    "{}: Failure: (162) Invalid configuration request\nThe node id of {} is {}.",
                    definition.name, own.name, own.node_id
                );
                return Err(Failure::new(10, text));
            }
            let request = Request::NewResource { definition: Box::new(definition.clone()) };
            told(&definition.name, client.order(&request)?)
        })
    }

    /// `new-minor`: the volumes came with the resource; whether they did is looked up.
    pub(super) fn new_minor(&mut self) -> Outcome {
        if self.tool() == Tool::Drbdsetup {
            self.line.end(3..=3)?;
            let volume = self.line.operands.pop().unwrap_or_default();
            let minor = self.line.operands.pop().unwrap_or_default();
            let name = self.line.operands.first().cloned().unwrap_or_default();
            let up = snapshot(self.run_dir())?;
            let report = up.iter().find(|report| report.status.name == name);
            let report = report.ok_or_else(|| not_up(Some(&name)))?;
            let is_meant = |device: &crate::resource::DeviceStatus| {
                device.volume.to_string() == volume && device.minor.to_string() == minor
            };
            return match report.status.devices.iter().any(is_meant) {
                true => Ok(()),
                false => Err(no_volume(&name, &volume, &minor)),
            };
        }
        self.line.end(1..=usize::MAX)?;
        let targets = self.targets()?;
        let dry_run = self.line.dry_run;
        let up = if dry_run { Vec::new() } else { snapshot(self.run_dir())? };
        self.configuration()?.for_each(&targets, |target, definition, own| {
            let name = &definition.name;
            let wanted = own.volumes.iter();
            let wanted =
                wanted.filter(|(number, _)| target.volume().is_none_or(|one| one == **number));
            for (number, volume) in wanted {
                let minor = volume.minor;
                if dry_run {
                    print(&format!("drbdsetup new-minor {name} {minor} {number}\n"))?;
                    continue;
                }
                let report = up.iter().find(|report| report.status.name == *name);
                let report = report.ok_or_else(|| not_up(Some(name)))?;
                let mut devices = report.status.devices.iter();
                if !devices.any(|device| (device.volume, device.minor) == (*number, minor)) {
                    return Err(no_volume(name, &number.to_string(), &minor.to_string()));
                }
            }
            Ok(())
        })
    }

    /// `adjust [--skip-net|--skip-disk] RES[:PEER]`.
    pub(super) fn adjust(&mut self) -> Outcome {
        let skip = Skip { net: self.line.take("--skip-net"), disk: self.line.take("--skip-disk") };
        self.line.end(1..=usize::MAX)?;
        let targets = self.targets()?;
        if let Some(target) = targets.iter().find(|target| target.volume().is_some()) {
            let text = format!("'{target}': adjust operates on whole resources");
            return Err(Failure::new(1, text));
        }
        let mut globals = self.session.globals.clone();
        if self.line.dry_run || self.line.verbose {
            globals.dry_run = true;
            let shown = Session::new(globals.clone()).adjust(&targets, skip);
            if self.line.dry_run {
                return shown;
            }
            globals.dry_run = false;
        }
        let session = Session::new(globals);
        // A wrong name needs no daemon.
        session.configuration()?.for_each(&targets, |_, _, _| Ok(()))?;
        self.persistently(Need::Begins, None, || session.adjust(&targets, skip))
    }

    /// `-d connect`: a line for each peer, whatever runs; the agent makes a wait of it.
    pub(super) fn connect_steps(&self) -> Outcome {
        let options: String = self.line.options.iter().map(|option| format!(" {option}")).collect();
        self.configuration()?.for_each(&self.targets()?, |target, definition, own| {
            let is_meant = |host: &&Host| {
                host.node_id != own.node_id
                    && target.peer().is_none_or(|peer| same_host(&host.name, peer))
            };
            let meant: Vec<&Host> = definition.hosts.iter().filter(is_meant).collect();
            if meant.is_empty() {
                return Err(Failure::new(10, format!("{target}: there is no such peer")));
            }
            for_each(meant, |host| {
                print(&format!("drbdsetup connect {} {}{options}\n", definition.name, host.node_id))
            })
        })
    }

    /// `drbdsetup connect RES ID`, with what runs.
    pub(super) fn connect_by_id(&mut self) -> Outcome {
        let line = &mut self.line;
        let is_set = |line: &mut crate::compat::Line, name: &str| {
            line.take(&format!("--{name}")) | line.take(&format!("--{name}=yes"))
        };
        let discard_my_data = is_set(line, "discard-my-data");
        let tentative = is_set(line, "tentative");
        line.end(2..=2)?;
        let up = snapshot(self.run_dir())?;
        let target = resolve(Aim::Peer, &self.line.operands, &up);
        let target = target.map_err(|(why, code)| Failure::new(code, why))?;
        let name = target.resource().unwrap_or_default().to_owned();
        let report = up.iter().find(|report| report.status.name == name);
        let mut peers = report.iter().flat_map(|report| &report.status.connections);
        let peer = peers.find(|one| target.peer() == Some(one.name.as_str()));
        let Some(peer) = peer.map(|one| one.peer_node_id) else { return Err(not_up(Some(&name))) };
        self.persistently(Need::Up, Some(&name), || {
            let mut client = self.session.client()?;
            let definition = client.running(&name)?.ok_or_else(|| not_up(Some(&name)))?;
            let request = Request::Connect { definition, peer, discard_my_data, tentative };
            told(&name, client.order(&request)?)
        })
    }

    /// `show [--json] [--show-defaults] [RES]`: what runs.
    pub(super) fn show(&mut self) -> Outcome {
        let json = self.line.take("--json") | self.line.take("-j");
        let defaults = self.line.take("--show-defaults") | self.line.take("-D");
        self.line.end(0..=1)?;
        let named = self.line.operands.first().filter(|name| *name != "all");
        let up = snapshot(self.run_dir())?;
        let chosen = up.iter().filter(|one| named.is_none_or(|name| *name == one.status.name));
        let mut all: Vec<(Box<Definition>, String)> = Vec::new();
        for report in chosen {
            if let Some(Presence::There(mut client)) = settle(self.run_dir(), PATIENCE)? {
                let node = report.status.node_name.clone();
                all.extend(client.running(&report.status.name)?.map(|running| (running, node)));
            }
        }
        if let (Some(name), true) = (named, all.is_empty()) {
            return Err(Failure::new(10, format!("{name}: No such resource")));
        }
        let local = |(definition, node): &'_ (Box<Definition>, String)| {
            definition.local(node).map(|own| own.node_id)
        };
        let mut shown: Vec<(&Definition, &Host)> = Vec::new();
        for one in &all {
            let id = local(one);
            let own = one.0.hosts.iter().find(|host| Some(host.node_id) == id);
            shown.extend(own.map(|own| (&*one.0, own)));
        }
        match (json, shown.is_empty()) {
            (true, _) => print(&show_json(&shown, defaults)),
            (false, true) => print(status_text::NOTHING),
            (false, false) => {
                for_each(shown, |(definition, own)| print(&show_text(definition, own, defaults)))
            }
        }
    }
}

fn no_volume(name: &str, volume: &str, minor: &str) -> Failure {
    let text = format!(
        "{name}: Failure: (162) Invalid configuration request\n{name} is up without a volume {volume} \
         of minor {minor}: `drbdadm down {name}`, `drbdadm up {name}`."
    );
    Failure::new(10, text)
}
