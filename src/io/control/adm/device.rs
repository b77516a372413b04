//! `device attach`, `device detach`, `device status`: volumes as the kernel's `/dev/nbdN`.
//!
//! The guard of a device is `tandem-attach`, a program of its own, for hosts without a daemon: attach
//! starts it and waits until it says that the device is there.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::attach::{AttachOptions, Volume};
use crate::control::arguments::DeviceVerb;
use crate::control::target::Target;
use crate::io::attach::fuse::{self, FuseListed};
use crate::io::attach::{Listed, Wanted, detach, list};

use super::{Failure, Outcome, Session, for_each, print};

impl Session {
    /// What is done with devices.
    pub(super) fn device(&self, verb: DeviceVerb) -> Outcome {
        match verb {
            DeviceVerb::Attach { options, foreground, volume } => {
                self.attach_device(options, foreground, &volume)
            }
            DeviceVerb::Detach { forced, targets } => {
                self.detach_devices(&targets.targets, forced.force)
            }
            DeviceVerb::Status { json, targets } => self.device_status(&targets.targets, json),
        }
    }

    fn attach_device(
        &self,
        mut options: AttachOptions,
        foreground: bool,
        volume: &Volume,
    ) -> Outcome {
        if !options.fuse && options.device.is_none() && options.servers.is_empty() {
            options.device = self.configured_device(volume);
        }
        let program = match std::env::current_exe() {
            Ok(own) => own.with_file_name("tandem-attach"),
            Err(error) => return Err(Failure::new(10, format!("/proc/self/exe: {error}"))),
        };
        let mut command = Command::new(&program);
        command.args(options.words()).arg("--run-dir").arg(&self.globals.run_dir);
        // What is not given is not to come from the environment a second time.
        command.env_remove("TANDEM_SERVERS").arg(volume.to_string());
        if self.globals.dry_run {
            return print(&format!("{command:?}\n").replace('"', ""));
        }
        let cannot = |error: std::io::Error| {
            Failure::new(10, format!("{volume}: {}: {error}", program.display()))
        };
        if foreground {
            // It comes back only if it fails.
            return Err(cannot(command.exec()));
        }
        let command = command.arg("--background").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut guard = command.spawn().map_err(cannot)?;
        let mut said = String::new();
        if let Some(mut stdout) = guard.stdout.take() {
            // It closes it when the device is there, or when it ends.
            std::io::Read::read_to_string(&mut stdout, &mut said).map_err(cannot)?;
        }
        if !said.is_empty() {
            return print(&said);
        }
        let status = guard.wait().map_err(cannot)?;
        // It has said why.
        Err(Failure::new(status.code().filter(|code| *code != 0).unwrap_or(10), ""))
    }

    /// The device that the configuration has for a volume of this node, as far as it can be read.
    fn configured_device(&self, volume: &Volume) -> Option<u32> {
        let configuration = self.configuration().ok()?;
        let target = Target::One {
            resource: volume.resource.clone(),
            peer: None,
            volume: Some(volume.number),
        };
        let mut device = None;
        let found = configuration.for_each(&[target], |_, _, own| {
            device = own.volumes.get(&volume.number).map(|one| one.nbd_device());
            Ok(())
        });
        found.ok()?;
        device?.strip_prefix("/dev/nbd")?.parse().ok()
    }

    fn detach_devices(&self, targets: &[Target], is_forced: bool) -> Outcome {
        let run_dir = &self.globals.run_dir;
        let (all, files) = (list(run_dir), fuse::list(run_dir));
        for_each(targets, |target| {
            let meant: Vec<&Listed> = all.iter().filter(|one| is_meant(target, one)).collect();
            let meant_files: Vec<&FuseListed> =
                files.iter().filter(|one| names(target, &one.volume)).collect();
            if meant.is_empty() && meant_files.is_empty() && *target != Target::All {
                return Err(not_attached(target));
            }
            for_each(meant_files, |file| {
                let volume = &file.volume;
                if self.globals.dry_run {
                    return print(&format!("detach {volume} from {}\n", file.record.device()));
                }
                fuse::detach(run_dir, file, is_forced).map_err(|trouble| {
                    Failure::new(trouble.exit_code, format!("{volume}: {}", trouble.text))
                })
            })?;
            for_each(meant, |device| {
                let volume = &device.backend.volume;
                if self.globals.dry_run {
                    return print(&format!("detach {volume} from /dev/nbd{}\n", device.index));
                }
                let told = |trouble: crate::io::attach::Trouble| {
                    Failure::new(trouble.exit_code, format!("{volume}: {}", trouble.text))
                };
                detach(run_dir, device, is_forced, &Wanted::default()).map_err(told)
            })
        })
    }

    fn device_status(&self, targets: &[Target], as_json: bool) -> Outcome {
        let all = list(&self.globals.run_dir);
        let files = fuse::list(&self.globals.run_dir);
        let is_named = |device: &Listed| {
            targets.is_empty() || targets.iter().any(|target| is_meant(target, device))
        };
        let meant: Vec<&Listed> = all.iter().filter(|device| is_named(device)).collect();
        let meant_files: Vec<&FuseListed> = files
            .iter()
            .filter(|one| {
                targets.is_empty() || targets.iter().any(|target| names(target, &one.volume))
            })
            .collect();
        let missing = targets.iter().find(|target| {
            **target != Target::All
                && !all.iter().any(|device| is_meant(target, device))
                && !files.iter().any(|file| names(target, &file.volume))
        });
        if let Some(target) = missing {
            return Err(not_attached(target));
        }
        match as_json {
            true => {
                let mut all: Vec<serde_json::Value> = meant.into_iter().map(as_value).collect();
                all.extend(meant_files.into_iter().map(file_as_value));
                print(&format!("{}\n", serde_json::Value::Array(all)))
            }
            false if meant.is_empty() && meant_files.is_empty() => {
                print("# Nothing is attached.\n")
            }
            false => {
                let devices = meant.into_iter().map(Listed::lines);
                print(
                    &devices
                        .chain(meant_files.into_iter().map(FuseListed::lines))
                        .collect::<String>(),
                )
            }
        }
    }
}

/// No volume of a target has a device here.
fn not_attached(target: &Target) -> Failure {
    let text = format!("{target}: it is not attached as a device here");
    Failure::new(10, format!("{text}\n`tandemadm device status` lists those that are."))
}

/// Whether a target names the volume of a device.
fn is_meant(target: &Target, device: &Listed) -> bool {
    names(target, &device.backend.volume)
}

fn names(target: &Target, volume: &Volume) -> bool {
    target.resource().is_none_or(|resource| resource == volume.resource)
        && target.volume().is_none_or(|number| number == volume.number)
}

fn as_value(device: &Listed) -> serde_json::Value {
    let record = device.record.as_ref();
    json!({
        "volume": device.backend.volume.to_string(),
        "device": format!("/dev/nbd{}", device.index),
        "backend": device.backend.to_string(),
        "guard": device.guard,
        "server": record.map(|record| &record.server),
        "connections": record.map(|record| record.connections),
        "size": record.map(|record| record.terms.size),
        "block-size": record.map(|record| record.terms.block),
        "dead-conn-timeout": record.map(|record| record.dead_conn_timeout),
        "lost-seconds": device.lost_for(),
        "refusals": record.map(|record| &record.refusals),
        "failed": record.and_then(|record| record.failed.as_ref()),
        "let-go-of": device.is_let_go.then(|| device.why_let_go()),
    })
}

fn file_as_value(file: &FuseListed) -> serde_json::Value {
    let record = &file.record;
    json!({
        "volume": record.volume,
        "device": record.device(),
        "file": record.file,
        "guard": file.guard,
        "server": record.server,
        "connections": 1,
        "size": record.size,
        "dead-conn-timeout": record.dead_conn_timeout,
        "lost-seconds": file.lost_for(),
        "refusals": record.refusals,
        "failed": record.failed,
        "let-go-of": record.failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::control::fake::device;

    #[test]
    fn programs_are_told_of_a_device_that_was_let_go_of_as_people_are() {
        let mut device = device("r0/0", 1_000_000, Some("alice:10809".to_owned()));
        assert_eq!(as_value(&device)["let-go-of"], serde_json::Value::Null);
        device.is_let_go = true;
        let value = as_value(&device);
        let why = value["let-go-of"].as_str().expect("it is told");
        assert!(why.contains("was detached by force and is still in use"), "{why}");
        assert!(device.lines().contains(why), "{}", device.lines());
        let record = device.record.as_mut().expect("it has one");
        record.failed = Some("bob is Primary".to_owned());
        let value = as_value(&device);
        assert_eq!(value["failed"], "bob is Primary");
        assert!(value["let-go-of"].as_str().expect("it is told").contains("bob is Primary"));
    }
}
