//! What a verb of drbdsetup is aimed at: resources by name, volumes by minor, peers by node id.

use crate::control::Report;
use crate::control::target::Target;
use crate::resource::{NodeId, VolumeNumber};

/// What stands behind a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// `RES`.
    Resource,
    /// `MINOR`: a volume.
    Volume,
    /// `MINOR`: the resource that has it.
    ResourceOfVolume,
    /// `RES ID`.
    Peer,
    /// `RES ID VOLUME`.
    PeerDevice,
}

/// The verbs of drbdsetup that are those of tandemadm, with another target. `None`: another verb.
#[must_use]
pub fn aim(verb: &str) -> Option<Aim> {
    Some(match verb {
        "primary" | "secondary" | "role" | "resource-options" => Aim::Resource,
        "wait-connect-resource" | "wait-sync-resource" => Aim::Resource,
        "detach" | "outdate" | "invalidate" | "disk-options" | "dstate" => Aim::Volume,
        "resize" | "check-resize" | "new-current-uuid" => Aim::Volume,
        "suspend-io" | "resume-io" => Aim::ResourceOfVolume,
        "disconnect" | "net-options" | "cstate" | "peer-role" | "forget-peer" => Aim::Peer,
        "wait-connect-connection" | "wait-sync-connection" => Aim::Peer,
        "invalidate-remote" | "pause-sync" | "resume-sync" | "verify" => Aim::PeerDevice,
        "show-gi" | "get-gi" | "peer-device-options" => Aim::PeerDevice,
        "wait-connect-volume" | "wait-sync-volume" => Aim::PeerDevice,
        _ => return None,
    })
}

impl Aim {
    /// How it is written.
    fn form(self) -> &'static str {
        match self {
            Self::Resource => "RES",
            Self::Volume | Self::ResourceOfVolume => "MINOR",
            Self::Peer => "RES ID",
            Self::PeerDevice => "RES ID VOLUME",
        }
    }
}

/// The target that the operands name, among what is up.
///
/// # Errors
/// The sentence, and the exit code: 20 for another form, 10 for what is not there.
pub fn resolve(aim: Aim, operands: &[String], up: &[Report]) -> Result<Target, (String, i32)> {
    let form = || (format!("expected {}", aim.form()), 20);
    let known = |name: &str| up.iter().find(|report| report.status.name == name);
    let unknown = |name: &str| (format!("{name}: Failure: (158) Unknown resource"), 10);
    let one = |name: &str, peer: Option<&str>, volume| Target::One {
        resource: name.to_owned(),
        peer: peer.map(str::to_owned),
        volume,
    };
    let peer = |name: &str, id: &str| {
        let report = known(name).ok_or_else(|| unknown(name))?;
        let id: NodeId = id.parse().map_err(|_| form())?;
        let mut all = report.status.connections.iter();
        let found = all.find(|connection| connection.peer_node_id == id);
        let missing = || (format!("{name}: there is no peer with node id {id}"), 10);
        found.map(|connection| connection.name.clone()).ok_or_else(missing)
    };
    match (aim, operands) {
        (Aim::Resource, [name]) => match known(name) {
            Some(_) => Ok(one(name, None, None)),
            None => Err(unknown(name)),
        },
        (Aim::Volume | Aim::ResourceOfVolume, [minor]) => {
            let minor: u32 = minor.parse().map_err(|_| form())?;
            let found = up.iter().find_map(|report| {
                let mut devices = report.status.devices.iter();
                let device = devices.find(|device| device.minor == minor)?;
                Some((report.status.name.as_str(), device.volume))
            });
            let missing = || (format!("{minor}: Failure: (127) Device minor not allocated"), 10);
            let (name, volume) = found.ok_or_else(missing)?;
            Ok(one(name, None, Some(volume).filter(|_| aim == Aim::Volume)))
        }
        (Aim::Peer, [name, id]) => Ok(one(name, Some(&peer(name, id)?), None)),
        (Aim::PeerDevice, [name, id, volume]) => {
            let volume: VolumeNumber = volume.parse().map_err(|_| form())?;
            Ok(one(name, Some(&peer(name, id)?), Some(volume)))
        }
        _ => Err(form()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures;

    fn target(verb: &str, operands: &str) -> Result<String, (String, i32)> {
        let words: Vec<String> = operands.split_whitespace().map(str::to_owned).collect();
        let up = [fixtures::healthy()];
        resolve(aim(verb).unwrap(), &words, &up).map(|target| target.to_string())
    }

    #[test]
    fn minors_and_node_ids_become_names() {
        for (verb, operands, expected) in [
            ("primary", "r0", "r0"),
            ("detach", "0", "r0/0"),
            ("suspend-io", "0", "r0"),
            ("disconnect", "r0 1", "r0:bob"),
            ("wait-sync-volume", "r0 1 0", "r0:bob/0"),
        ] {
            assert_eq!(target(verb, operands).as_deref(), Ok(expected), "{verb} {operands}");
        }
    }

    #[test]
    fn what_is_not_there_is_10_and_another_form_20() {
        for (verb, operands, code) in [
            ("primary", "r7", 10),
            ("detach", "7", 10),
            ("disconnect", "r0 7", 10),
            ("disconnect", "r7 1", 10),
            ("primary", "", 20),
            ("primary", "r0 1", 20),
            ("detach", "r0", 20),
            ("disconnect", "r0", 20),
            ("disconnect", "r0 bob", 20),
            ("wait-sync-volume", "r0 1 x", 20),
        ] {
            assert_eq!(target(verb, operands).unwrap_err().1, code, "{verb} {operands}");
        }
    }
}
