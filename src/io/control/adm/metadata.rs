//! `create-md`, `dump-md`, `show-gi`, `get-gi`: the metadata on the disks of this node.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::{Definition, Host, HostVolume, MetaDisk};
use crate::control::Report;
use crate::control::generation::Generation;
use crate::control::target::Target;
use crate::io::backing::{self, CreateError, CreateOptions, Found, Identity};
use crate::resource::{DeviceStatus, DiskState, NodeId, VolumeNumber};

use super::{
    Failure, Outcome, Session, complain, connections, for_each, names_of_peers, no_such_peer,
    no_such_volume, print, terminal, volumes,
};

/// A lock that a killed daemon still holds is waited for so long.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(5);

/// A disk that a command is about.
pub(super) struct Chosen<'a> {
    /// `r0/0`.
    pub(super) name: String,
    pub(super) volume: VolumeNumber,
    pub(super) disk: &'a Path,
    pub(super) meta_disk: backing::MetaDisk,
}

/// The disks of a host that a target means; one that is diskless by configuration has none.
pub(super) fn chosen<'a>(
    target: &Target,
    definition: &Definition,
    own: &'a Host,
) -> Result<Vec<Chosen<'a>>, Failure> {
    let is_meant = |number: &VolumeNumber| target.volume().is_none_or(|one| one == *number);
    let meant: Vec<(&VolumeNumber, &HostVolume)> =
        own.volumes.iter().filter(|(number, _)| is_meant(number)).collect();
    if meant.is_empty() {
        return Err(no_such_volume(target, own.volumes.keys().copied()));
    }
    let disks: Vec<Chosen<'_>> = meant
        .into_iter()
        .filter_map(|(number, volume)| {
            Some(Chosen {
                name: format!("{}/{number}", definition.name),
                volume: *number,
                disk: Path::new(volume.disk.as_deref()?),
                meta_disk: meta_disk(&volume.meta_disk),
            })
        })
        .collect();
    match disks.is_empty() {
        true => {
            let text = format!("{target}: Failure: (138) Device does not have a disk-config");
            Err(Failure::new(10, text))
        }
        false => Ok(disks),
    }
}

/// The place of metadata as the disk room spells it.
pub(crate) fn meta_disk(meta_disk: &MetaDisk) -> backing::MetaDisk {
    match meta_disk {
        MetaDisk::Internal => backing::MetaDisk::Internal,
        MetaDisk::External { path } => backing::MetaDisk::External(PathBuf::from(path)),
    }
}

pub(super) fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Properties of a device for udev's `IMPORT{program}`; nothing, and exit 1, where it is none of
/// ours. With `raid` and a type of its own nobody mounts it or takes it for a physical volume.
pub(super) fn probe(device: &std::path::Path) -> Outcome {
    match backing::probe(device) {
        Ok(true) => print("ID_FS_USAGE=raid\nID_FS_TYPE=tandem_member\n"),
        Ok(false) => Err(Failure::new(1, String::new())),
        Err(error) => Err(Failure::new(1, error.to_string())),
    }
}

impl Session {
    pub(super) fn create_md(
        &self,
        targets: &[Target],
        force: bool,
        max_peers: u8,
        preallocate: bool,
    ) -> Outcome {
        let configuration = self.configuration()?;
        let failed =
            |what: &str, error: std::io::Error| Failure::new(10, format!("{what}: {error}"));
        let state_dir = self.globals.state_dir();
        std::fs::create_dir_all(&state_dir).map_err(|error| no_state_dir(&state_dir, &error))?;
        let boot_id = backing::host_boot_id().map_err(|error| failed("boot id", error))?;
        configuration.for_each(targets, |target, definition, own| {
            for_each(chosen(target, definition, own)?, |disk| {
                let seed = super::super::registry::seed()
                    .map_err(|error| failed("random numbers", error))?;
                let mut options = CreateOptions {
                    force: false,
                    max_peers,
                    preallocate,
                    seed,
                    wall_clock: wall_clock(),
                    boot_id,
                    state_dir: state_dir.clone(),
                    lock_wait: LOCK_WAIT,
                };
                let who = Identity {
                    resource: definition.name.clone(),
                    node_id: own.node_id,
                    volume: disk.volume,
                };
                create_one(&disk, &who, &mut options, force, &own.name)
            })
        })
    }

    /// Disks that have another size than when they were attached last: a line for each.
    pub(super) fn check_resize(&self, targets: &[Target]) -> Outcome {
        let state_dir = self.globals.state_dir();
        self.configuration()?.for_each(targets, |target, definition, own| {
            for_each(chosen(target, definition, own)?, |disk| {
                let who = identity(&disk, definition, own);
                let sizes = backing::sizes(disk.disk, &who, &state_dir);
                let (now, noted) = sizes.map_err(|error| refused(&disk, &error))?;
                match noted {
                    Some(noted) if now > noted => print(&format!(
                        "{}: the disk has grown from {noted} to {now} bytes: when that of the peer has \
                         too, `tandemadm resize {}`\n",
                        disk.name, disk.name
                    )),
                    Some(noted) if now < noted => print(&format!(
                        "{}: the disk had {noted} bytes and has {now}: give it its size back\n",
                        disk.name
                    )),
                    _ => Ok(()),
                }
            })
        })
    }

    pub(super) fn dump_md(&self, targets: &[Target], offline: bool) -> Outcome {
        self.configuration()?.for_each(targets, |target, definition, own| {
            for_each(chosen(target, definition, own)?, |disk| {
                let (path, meta_disk) = (disk.disk, &disk.meta_disk);
                let (state_dir, who) = (self.globals.state_dir(), identity(&disk, definition, own));
                let known = Some((state_dir.as_path(), &who));
                let text = backing::dump_md(path, meta_disk, known, wall_clock(), offline);
                print(&text.map_err(|error| refused(&disk, &error))?)
            })
        })
    }

    /// Of attached disks as the daemon knows them, of others from the disk.
    pub(super) fn generations(&self, targets: &[Target], pretty: bool) -> Outcome {
        let up = self.client().and_then(|mut client| client.reports(None)).unwrap_or_default();
        let report_of = |name: &str| up.iter().find(|report| report.status.name == name);
        for_each(targets, |target| {
            // What is all attached needs no configuration.
            let report = target.resource().and_then(report_of);
            if let Some(report) = report
                && volumes(report, target)?.iter().all(|device| is_attached(device))
            {
                return attached(report, target, pretty);
            }
            let one = std::slice::from_ref(target);
            let configuration = self.configuration()?;
            configuration.for_each(one, |target, definition, own| {
                for_each(chosen(target, definition, own)?, |disk| {
                    let narrowed = Target::One {
                        resource: definition.name.clone(),
                        peer: target.peer().map(str::to_owned),
                        volume: Some(disk.volume),
                    };
                    let report = report_of(&definition.name);
                    let device = report.and_then(|report| {
                        let mut devices = report.status.devices.iter();
                        devices.find(|device| device.volume == disk.volume && is_attached(device))
                    });
                    match report.filter(|_| device.is_some()) {
                        Some(report) => attached(report, &narrowed, pretty),
                        None => {
                            let state_dir = self.globals.state_dir();
                            detached(&disk, &narrowed, definition, own, (&state_dir, pretty))
                        }
                    }
                })
            })
        })
    }
}

/// Whose disk it is by the configuration.
fn identity(disk: &Chosen<'_>, definition: &Definition, own: &Host) -> Identity {
    Identity { resource: definition.name.clone(), node_id: own.node_id, volume: disk.volume }
}

fn is_attached(device: &DeviceStatus) -> bool {
    device.disk_state != DiskState::Diskless
}

/// What is on a disk that is not attached, a line for each peer that is meant.
fn detached(
    disk: &Chosen<'_>,
    target: &Target,
    definition: &Definition,
    own: &Host,
    (state_dir, pretty): (&Path, bool),
) -> Outcome {
    let peers = definition.hosts.iter().filter(|host| host.node_id != own.node_id);
    let meant: Vec<&Host> = peers
        .filter(|host| target.peer().is_none_or(|peer| crate::config::same_host(&host.name, peer)))
        .collect();
    if meant.is_empty() {
        return Err(no_such_peer(target, names_of_peers(definition, own)));
    }
    let who = identity(disk, definition, own);
    let found = backing::inspect(disk.disk, &disk.meta_disk, Some((state_dir, &who)))
        .map_err(|error| refused(disk, &error))?;
    if found.stale {
        complain(&format!("{}: attached; what is on the disk may be old", disk.name));
    }
    let slots = &found.meta.superblock.peers;
    let of = |id: Option<NodeId>| slots.iter().position(|slot| slot.node_id == id);
    for_each(meant, |peer| {
        // A peer that was never met has the first slot that is free.
        let slot = of(Some(peer.node_id)).or_else(|| of(None)).unwrap_or(usize::MAX);
        print(&match pretty {
            true => crate::meta::show_gi(&found.meta, slot),
            false => crate::meta::get_gi(&found.meta, slot) + "\n",
        })
    })
}

fn attached(report: &Report, target: &Target, pretty: bool) -> Outcome {
    for device in volumes(report, target)? {
        for connection in connections(report, target)? {
            let peer = connection.peer_devices.iter().find(|peer| peer.volume == device.volume);
            let line =
                Generation::attached(device, report.status.role, connection.connection_state, peer);
            print(&if pretty { line.pretty() } else { line.raw() })?;
        }
    }
    Ok(())
}

/// Tried without force first: so a person is asked only where something is overwritten.
fn create_one(
    disk: &Chosen<'_>,
    who: &Identity,
    options: &mut CreateOptions,
    force: bool,
    node: &str,
) -> Outcome {
    let mut created = backing::create_md(disk.disk, &disk.meta_disk, who, options);
    let copy = match &created {
        Err(CreateError::Found { found, .. }) if !found.iter().any(Found::is_whole_metadata) => {
            backing::copy_advice(&options.state_dir, who)
        }
        _ => String::new(),
    };
    if let Err(CreateError::Found { .. }) = &created
        && force
    {
        let what = created.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let what =
            format!("{what}.{copy}\ncreate-md --force makes {} forget it.", disk.disk.display());
        terminal::confirm(&what, "the node whose disk this is", node)?;
        options.force = true;
        created = backing::create_md(disk.disk, &disk.meta_disk, who, options);
    }
    let report = created.map_err(|error| not_created(disk, &error, &copy))?;
    if let Some(saved) = &report.saved {
        complain(&format!("{}: the old metadata is saved in {}", disk.name, saved.display()));
    }
    for warning in &report.warnings {
        complain(&format!("{}: warning: {warning}", disk.name));
    }
    print("New drbd meta data block successfully created.\n")
}

/// `copy`: what is to be said of the newest copy, where something was found.
fn not_created(disk: &Chosen<'_>, error: &CreateError, copy: &str) -> Failure {
    match error {
        CreateError::Found { .. } if !copy.is_empty() => {
            Failure::new(10, format!("{}: {error}.{copy}", disk.name))
        }
        error => not_done(disk, error),
    }
}

pub(super) fn not_done(disk: &Chosen<'_>, error: &CreateError) -> Failure {
    match error {
        CreateError::Disk(open) => refused(disk, open),
        other => Failure::new(10, format!("{}: {other}", disk.name)),
    }
}

pub(super) fn refused(disk: &Chosen<'_>, error: &backing::OpenError) -> Failure {
    Failure::refused(&disk.name, &error.refusal())
}

/// Without the state folder nothing is overwritten, as old metadata could not be saved.
pub(super) fn no_state_dir(folder: &std::path::Path, error: &std::io::Error) -> Failure {
    let text = format!(
        "the state folder {} is no folder that can be used: {error}. Nothing was written. Make it \
         one, or name another with --state-dir.",
        folder.display()
    );
    Failure::new(10, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::backing::OpenError;

    #[test]
    fn the_newest_copy_is_named_with_what_was_found_and_with_no_other_error() {
        let (name, path) = ("r0/0".to_owned(), PathBuf::from("/dev/sdb"));
        let meta_disk = backing::MetaDisk::Internal;
        let disk = Chosen { name, volume: 0, disk: &path, meta_disk };
        let copy = " The newest copy";
        let (found, cut) = (Vec::new(), false);
        let error = CreateError::Found { path: path.clone(), found, cut };
        let text = not_created(&disk, &error, copy).text;
        assert!(text.ends_with(copy), "{text}");
        let error = std::io::Error::from_raw_os_error(28);
        let error = OpenError::Io { path: path.clone(), what: "reserving space", error }.into();
        let text = not_created(&disk, &error, copy).text;
        assert!(
            text.contains("(118)") && text.contains("Make room") && !text.contains(copy),
            "{text}"
        );
    }
}
