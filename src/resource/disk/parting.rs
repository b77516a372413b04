//! The last that is written to a disk that has failed: that the peer's goes on without it.
//!
//! Without it a disk that comes back and meets nobody would pass for as good as it was when it failed.
//!
//! Invariants:
//! - It is tried once, when nothing else is under way on the disk, and nothing waits for it but the
//!   close of the disk; that does for [`HUNG_MS`] at most, or until the peer is lost.
//! - It is written only if the peer's disk is UpToDate, connected, and goes on: the peer has flushed it
//!   after it was told that this disk has failed, and has not said that its own has. Of two disks
//!   that fail at once neither is marked.
//! - Whatever becomes of it, the disk is closed, and stays failed.

use crate::meta::{DeviceFlags, MetaOp};
use crate::resource::disk::hung_disk::HUNG_MS;
use crate::resource::peer::connection::SentKind;
use crate::resource::{DiskError, DiskState, LogLevel, Pending, Resource, Time, VolumeNumber};
use crate::wire::Packet;

/// How far a disk that has failed is with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Parting {
    /// There is nothing to say, or it was said, or could not be.
    #[default]
    None,
    /// The peer was told that this disk has failed, and asked for a flush after that; since when.
    Asked { c: usize, sequence: u64, answered: bool, since: Time },
    /// The mark is being written.
    Writing { since: Time },
}

impl Parting {
    /// The disk is not closed yet for it.
    pub(crate) fn is_under_way(self) -> bool {
        self != Self::None
    }
}

impl Resource {
    /// The peer whose disk goes on when the own one, which is whole, is given up now.
    pub(crate) fn peer_goes_on(&self, volume: VolumeNumber) -> Option<usize> {
        let device = &self.devices[&volume];
        let whole = matches!(device.disk, DiskState::UpToDate | DiskState::Consistent);
        let backing = device.backing.as_ref().filter(|_| whole)?;
        let known = backing.has(DeviceFlags::CONSISTENT) && !backing.is_just_created();
        let stays = backing.growing.is_some() || self.has_promised(volume).is_some();
        self.reading_peer(volume).filter(|_| known && !stays)
    }

    /// The disk has failed, and the peer was told.
    pub(crate) fn part(&mut self, volume: VolumeNumber, goes_on: Option<usize>) {
        let Some(c) = goes_on else { return };
        // Its answer comes behind all that the peer had to say of its disk before.
        let sequence = self.track(c, volume, SentKind::Parting, 0, 0, 0, 0);
        self.send(c, Packet::Flush { volume, sequence }, None);
        let since = self.now;
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.parting = Parting::Asked { c, sequence, answered: false, since };
            self.look_at_all_disks();
        }
    }

    /// Nothing is under way on the failed disk: it may be closed. If not, the mark comes first.
    pub(crate) fn has_parted(&mut self, volume: VolumeNumber) -> bool {
        let Some(backing) = self.devices[&volume].backing.as_ref() else { return true };
        let Parting::Asked { c, answered, since, .. } = backing.parting else { return true };
        let late = self.now.ms_since(since) >= HUNG_MS || backing.abandoned;
        if late || self.reading_peer(volume) != Some(c) {
            self.device(volume).backing.as_mut().expect("seen above").parting = Parting::None;
            return true;
        }
        if !answered {
            return false;
        }
        let since = self.now;
        let backing = self.device(volume).backing.as_mut().expect("seen above");
        backing.parting = Parting::Writing { since };
        backing.flags(DeviceFlags::OUTDATED, DeviceFlags::SURVIVED);
        backing.superblock.sequence += 1;
        backing.superblock.number = backing.superblock.number.max(backing.activity_log.number);
        let op = MetaOp::Superblock(Box::new(backing.superblock.clone()));
        let tag = self.disk_tag(volume, Pending::LastMark);
        self.write_meta(tag, volume, op);
        false
    }

    /// The peer has flushed (`ok`), or its disk has failed in it: that one does not go on, and whatever
    /// is attached there later is not what was asked.
    pub(crate) fn parting_answered(&mut self, volume: VolumeNumber, of: u64, ok: bool) {
        if let Some(backing) = self.device(volume).backing.as_mut()
            && let Parting::Asked { sequence, answered, .. } = &mut backing.parting
            && *sequence == of
        {
            match ok {
                true => *answered = true,
                false => backing.parting = Parting::None,
            }
        }
    }

    pub(crate) fn last_mark_done(&mut self, volume: VolumeNumber, result: Result<(), DiskError>) {
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.parting = Parting::None;
        }
        let prefix = self.of_volume(volume);
        match result {
            Ok(()) => self.log(
                LogLevel::Info,
                format!("{prefix}the failed disk is marked Outdated: the peer's goes on"),
            ),
            Err(_) => self.log(
                LogLevel::Warning,
                format!(
                    "{prefix}the failed disk could not be marked Outdated: do not promote it before \
                     it has met the peer's"
                ),
            ),
        }
    }

    /// Until when somebody waits for the mark. One that is late is waited for no longer.
    pub(crate) fn parting_ends(&mut self, volume: VolumeNumber) -> Option<Time> {
        let backing = self.devices[&volume].backing.as_ref()?;
        let (Parting::Asked { since, .. } | Parting::Writing { since }) = backing.parting else {
            return None;
        };
        let ends = since.after_ms(HUNG_MS);
        if self.now < ends {
            return Some(ends);
        }
        if matches!(backing.parting, Parting::Writing { .. }) && !backing.abandoned {
            self.abandon_operations(volume);
            self.attach_failed(volume);
        }
        None
    }
}
