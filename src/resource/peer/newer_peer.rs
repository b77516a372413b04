//! What a handshake has said of the own disk is remembered, also where no session comes of it.
//!
//! Invariants:
//! - A disk of which this node was told that the peer's is newer is durably Outdated from then on: should the
//!   peer be fenced next, it is not promoted unasked with what it lacks.
//! - A Primary that serves from its disk keeps it as it is: its clients have seen it.

use crate::meta::DeviceFlags;
use crate::resource::peer::generation::{Rule, Side, Strategy, Who, past, same, went_on_from};
use crate::resource::peer::split_brain::{Outcome, Resolution};
use crate::resource::{DiskState, Resource, Role, Then, VolumeNumber};
use crate::wire::{Handshake, VolumeInfo};

impl Resource {
    /// The peer has gone on from the generation of this disk: should the session end before the resync
    /// has begun (a handler is asked first, say), this disk does not pass for the newest.
    pub(crate) fn note_newer_peer(&mut self, volume: VolumeNumber, peer: &VolumeInfo) {
        let device = self.device(volume);
        let Some(backing) = device.backing.as_ref() else { return };
        if went_on_from(peer, backing.superblock.current_uuid) {
            self.outdate_disk(volume);
        }
    }

    /// The connection is refused, or the attach: what was found of this volume stays true.
    pub(crate) fn note_refused(
        &mut self,
        volume: VolumeNumber,
        own: &VolumeInfo,
        peer: &VolumeInfo,
        resolution: Resolution,
    ) {
        let attaching = self.device(volume).disk == DiskState::Negotiating;
        if self.role == Role::Primary && !attaching {
            return;
        }
        // The victim of a split brain is nobody's past.
        let split = matches!(resolution.verdict.strategy, Strategy::SplitBrain { .. });
        match resolution.outcome {
            Outcome::Target { .. } if !attaching && !split => self.note_newer_peer(volume, peer),
            Outcome::Refuse { .. } if is_older_image(own, peer, resolution.verdict.rule) => {
                self.outdate_disk(volume);
            }
            _ => {}
        }
    }

    /// The connection is refused before any volume is looked at: what the generations say is noted all the same.
    pub(super) fn note_generations(&mut self, c: usize, peer: &Handshake) {
        if self.connections[c].tentative.is_some() {
            return;
        }
        for info in &peer.volumes {
            let known = self.connections[c].peer_devices.get(&info.volume);
            let Some(own) = known.and_then(|one| one.own_info.clone()) else { continue };
            let resolution = self.decide_volume(c, &own, info, peer, false).resolution;
            self.note_refused(info.volume, &own, info, resolution);
        }
    }

    /// The disk is marked Outdated; whether it has survived stays as it is.
    pub(crate) fn outdate_disk(&mut self, volume: VolumeNumber) {
        let state = self.device(volume).disk;
        let good = [DiskState::Negotiating, DiskState::Consistent, DiskState::UpToDate];
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        if !good.contains(&state) {
            return;
        }
        backing.flags(DeviceFlags::OUTDATED, 0);
        if state != DiskState::Negotiating {
            self.set_disk(volume, DiskState::Outdated);
        }
        self.save_superblock(volume, Then::Log);
    }
}

/// The own disk was set back, or comes back in the place of another one, and the peer's is whole: it has all that
/// this one lacks. Unless somebody has made this one the data since: it has survived, and of its generations the
/// peer knows the past, and not the present.
fn is_older_image(own: &VolumeInfo, peer: &VolumeInfo, rule: Rule) -> bool {
    // Which of two that come back is older is not known.
    let older = matches!(
        rule,
        Rule::RolledBack(Who::Own) | Rule::RolledBackBoth | Rule::Replaced(Who::Own)
    );
    let side = |info| Side { info, role: Role::Secondary, tie: 0 };
    let known = |uuid| same(uuid, peer.current_uuid) || went_on_from(peer, uuid);
    let mut before = past(own).peekable();
    let forced = side(own).survived()
        && !known(own.current_uuid)
        && (before.peek().is_none() || before.any(known));
    older && side(peer).usable() && !forced
}
