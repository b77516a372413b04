//! A disk that was given up only because it hung, or was full, and comes back to the same process.
//!
//! It has every write that this node has acknowledged: in a cache that has not lost its power, or the
//! process would not be the same. Its peer may have lost them with its own, and that this disk was slow is
//! no reason to overwrite them: at its attach it has SURVIVED.
//!
//! Invariants:
//! - Nothing has failed on it: what was under way has ended without an error before it was closed, and
//!   the attach has flushed it. A flush that failed may have cost what the next one does not tell.
//! - It is the same disk as it was when it was closed (identity and sequence of its superblock).
//! - It says so beside no Primary: one that lives knows best, and reads its own disk. If that is lost before it
//!   has said what becomes of this one, it says so then, in doubt.
//! - It is in doubt, and promoted alone by force only, unless the loss of the peer had begun before, and
//!   no session with the peer has opened since: the peer may have gone on without this disk. If it
//!   has, its identifier says so, and decides before SURVIVED does (docs/GENERATIONS.md).

use crate::meta::{DeviceFlags, Superblock};
use crate::resource::disk::device::{Backing, Loss};
use crate::resource::peer::connection::Stage;
use crate::resource::{DiskState, LogLevel, Resource, Role, VolumeNumber};

/// A disk on which nothing has failed since it was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnlyHung {
    /// The peer may have gone on without it.
    doubt: bool,
}

/// Such a disk, closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CameBack {
    device_uuid: u64,
    sequence: u64,
    hung: OnlyHung,
}

impl CameBack {
    /// What is closed now, if nothing has failed on it.
    pub(crate) fn of(backing: &Backing) -> Option<Self> {
        let hung = backing.only_hung?;
        let Superblock { device_uuid, sequence, .. } = backing.superblock;
        Some(Self { device_uuid, sequence, hung })
    }

    /// What is attached now, if it is that disk.
    pub(crate) fn as_attached(self, superblock: &Superblock) -> Option<OnlyHung> {
        let same =
            (self.device_uuid, self.sequence) == (superblock.device_uuid, superblock.sequence);
        same.then_some(self.hung)
    }
}

impl Resource {
    /// What there is to say of the disk if it is given up now, as it hangs.
    pub(crate) fn only_hangs(&self, volume: VolumeNumber) -> Option<OnlyHung> {
        let device = &self.devices[&volume];
        let backing = device.backing.as_ref().filter(|backing| backing.growing.is_none())?;
        match device.disk {
            DiskState::Attaching | DiskState::Failed => backing.only_hung,
            DiskState::UpToDate => {
                let lost = device.loss != Loss::None && device.survives;
                Some(OnlyHung { doubt: !lost && !backing.has(DeviceFlags::SURVIVED) })
            }
            // It is in doubt, and the end of the loss was to say that it has survived.
            DiskState::Consistent if backing.has(DeviceFlags::IN_DOUBT) => {
                Some(OnlyHung { doubt: true })
            }
            _ => None,
        }
    }

    /// An operation has failed on it, before it was given up or late.
    pub(crate) fn has_not_only_hung(&mut self, volume: VolumeNumber) {
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.only_hung = None;
        }
    }

    /// A session with a peer opens: from here on it may go on without the disk that is away.
    pub(crate) fn others_may_go_on(&mut self) {
        for device in self.devices.values_mut() {
            let away = device.came_back.as_mut().map(|away| &mut away.hung);
            // Given up, and not closed yet.
            let hangs = device.backing.as_mut().and_then(|backing| backing.only_hung.as_mut());
            for hung in away.into_iter().chain(hangs) {
                hung.doubt = true;
            }
        }
    }

    /// The attach has flushed the disk: it has survived, if it only hung.
    pub(crate) fn vouch_for_hung(&mut self, volume: VolumeNumber) {
        // Also in a session that waits for a new handshake.
        let met =
            |c: &usize| self.connections[*c].stage == Stage::Open || self.is_renegotiating(*c);
        let met: Vec<usize> = self.peers().filter(met).collect();
        let theirs = met.iter().any(|c| self.connections[*c].peer_role == Role::Primary);
        let beside = !met.is_empty();
        let primary = beside && (theirs || self.role == Role::Primary);
        let prefix = self.of_volume(volume);
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        let Some(hung) = backing.only_hung.take() else { return };
        if backing.resting_state() != DiskState::Consistent {
            return;
        }
        if primary {
            // As long as the new handshake runs.
            backing.only_hung = Some(OnlyHung { doubt: true });
            return;
        }
        let doubt = if hung.doubt || beside { DeviceFlags::IN_DOUBT } else { 0 };
        backing.flags(DeviceFlags::SURVIVED | doubt, 0);
        let text = format!(
            "{prefix}it only hung, or was full: all that was acknowledged is on it, and flushed"
        );
        self.log(LogLevel::Info, text);
    }
}
