//! `forget-peer`: of disks that are attached by the daemon, of others on the disk.

use crate::config::{Definition, Host, same_host};
use crate::control::target::Target;
use crate::control::{Report, human};
use crate::io::backing::{self, Identity, Save, SavedBefore};
use crate::resource::{Command, DiskState, NodeId};

use super::metadata::{LOCK_WAIT, chosen, not_done, wall_clock};
use super::orders::told;
use super::{Failure, Outcome, Session, complain, for_each, print, terminal};

impl Session {
    pub(super) fn forget_peer(&self, targets: &[Target], force: bool) -> Outcome {
        let configuration = self.configuration()?;
        let up = self.client().and_then(|mut client| client.reports(None)).unwrap_or_default();
        configuration.for_each(targets, |target, definition, own| {
            let (peer, name) = peer_of(target, definition, own)?;
            let report = up.iter().find(|report| report.status.name == definition.name);
            if !force {
                let what = format!(
                    "What {} remembers of {name} is lost: whoever is node {peer} next is synced in \
                     full ({}).",
                    own.name,
                    human(report.map_or(0, size)),
                );
                terminal::confirm(&what, "the node that is forgotten", &name)?;
            }
            if report.is_some() {
                let command = Command::ForgetPeer { peer };
                told(&definition.name, self.client()?.command(&definition.name, command)?)?;
            }
            let is_attached = |volume: u16| {
                report.is_some_and(|report| {
                    let mut devices = report.status.devices.iter();
                    let one = devices.find(|device| device.volume == volume);
                    one.is_some_and(|device| device.disk_state != DiskState::Diskless)
                })
            };
            let resource = Target::One {
                resource: definition.name.clone(),
                peer: None,
                volume: target.volume(),
            };
            let disks = chosen(&resource, definition, own)?.into_iter();
            for_each(disks.filter(|disk| !is_attached(disk.volume)), |disk| {
                let who = Identity {
                    resource: definition.name.clone(),
                    node_id: own.node_id,
                    volume: disk.volume,
                };
                let state_dir = self.globals.state_dir();
                let save = Save {
                    state_dir: &state_dir,
                    verb: SavedBefore::ForgetPeer,
                    wall_clock: wall_clock(),
                };
                let (path, meta_disk) = (disk.disk, &disk.meta_disk);
                let saved = backing::forget_peer(path, meta_disk, &who, peer, &save, LOCK_WAIT);
                match saved.map_err(|error| not_done(&disk, &error))? {
                    Some(saved) => {
                        let saved = saved.display();
                        complain(&format!("{}: the old metadata is saved in {saved}", disk.name));
                        Ok(())
                    }
                    None => print(&format!("{}: nothing is remembered of it here\n", disk.name)),
                }
            })
        })
    }
}

fn size(report: &Report) -> u64 {
    report.status.devices.iter().map(|device| device.size).sum()
}

/// The peer by its name, or by its number, which need not be in the configuration; without either
/// the only one.
fn peer_of(
    target: &Target,
    definition: &Definition,
    own: &Host,
) -> Result<(NodeId, String), Failure> {
    let mut peers = definition.hosts.iter().filter(|host| host.node_id != own.node_id);
    let unknown = |text: &str| Failure::new(10, format!("{target}: {text}"));
    let Some(word) = target.peer() else {
        return match (peers.next(), peers.next()) {
            (Some(peer), None) => Ok((peer.node_id, peer.name.clone())),
            _ => Err(unknown("say which peer, as in r0:bob")),
        };
    };
    if let Some(peer) = peers.find(|host| same_host(&host.name, word)) {
        return Ok((peer.node_id, peer.name.clone()));
    }
    match word.parse::<NodeId>() {
        Ok(id) if id == own.node_id => Err(unknown("that is this node")),
        Ok(id) if id <= 31 => Ok((id, word.to_owned())),
        _ => Err(unknown(
            "there is no such peer; one that is not in the configuration is named by \
                          its node id",
        )),
    }
}
