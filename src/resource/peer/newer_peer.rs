//! What a handshake has said of the own disk is remembered, also where no session comes of it.
//!
//! Invariants:
//! - A disk of which this node was told that the peer's is newer is durably Outdated from then on: should the
//!   peer be fenced next, it is not promoted unasked with what it lacks.
//! - A Primary that serves from its disk keeps it as it is: its clients have seen it.

use crate::meta::DeviceFlags;
use crate::resource::peer::generation::{Rule, Side, Who, same, went_on_from};
use crate::resource::peer::split_brain::{Outcome, Resolution};
use crate::resource::{DiskState, Resource, Role, Then, VolumeNumber};
use crate::wire::VolumeInfo;

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
        match resolution.outcome {
            Outcome::Target { .. } if !attaching => self.note_newer_peer(volume, peer),
            Outcome::Refuse { .. } if is_older_image(own, peer, resolution.verdict.rule) => {
                self.outdate_disk(volume);
            }
            _ => {}
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
/// this one lacks. Unless the peer does not know the generation of this one: somebody has made it the data since.
fn is_older_image(own: &VolumeInfo, peer: &VolumeInfo, rule: Rule) -> bool {
    let older = matches!(
        rule,
        Rule::RolledBack(Who::Own)
            | Rule::RolledBackBoth
            | Rule::Replaced(Who::Own)
            | Rule::ReplacedBoth
    );
    let side = |info| Side { info, role: Role::Secondary, tie: 0 };
    let known = same(own.current_uuid, peer.current_uuid) || went_on_from(peer, own.current_uuid);
    older && side(peer).usable() && (known || !side(own).survived())
}
