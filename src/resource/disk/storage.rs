//! Writes of the metadata: superblock, activity log, bitmap pages, seen numbers; and what follows.
//!
//! Invariants:
//! - Two writes of the same blocks are never under way at once.
//! - What follows a change runs only after a write that started with the change in it is durable.

use std::collections::BTreeSet;

use crate::meta::{AlBlock, BitmapPage, BitmapState, DeviceFlags, MetaOp, PAGE_BITS};
use crate::resource::disk::device::Loss;
use crate::resource::peer::connection::{Save, Saving};
use crate::resource::{
    Action, BLOCK_SIZE, DiskError, DiskState, EXTENT_SIZE, Payload, Pending, Resource, Tag, Then,
    VolumeNumber,
};

/// Linux's number for an operation that did not end in time.
const ETIMEDOUT: i32 = 110;
/// Most bitmap pages in one action.
const PAGES_MAX: usize = 64;

/// Such actions under way at once.
const OPERATIONS_MAX: usize = 4;

/// Which extents may leave the activity log now (model.md R10b).
pub(crate) struct CleanExtents {
    /// The loss sequence is under way, or there is nothing to go by.
    none: bool,
    flushed_epoch: u64,
    /// Some peer gets every write.
    pub(crate) replicating: bool,
    /// Extents with bits that are not durable.
    unsaved: BTreeSet<u32>,
}

impl CleanExtents {
    /// No write in it is unflushed on either side, or its bits are durable; and no bit of it is not.
    pub(crate) fn is(&self, extent: u32, stamp: u64) -> bool {
        !self.none
            && !self.unsaved.contains(&extent)
            && (stamp <= self.flushed_epoch || !self.replicating)
    }
}

impl Resource {
    /// What [`CleanExtents`] needs, gathered once.
    pub(crate) fn clean_extents(&self, volume: VolumeNumber, all: bool) -> CleanExtents {
        let device = &self.devices[&volume];
        let mut unsaved = BTreeSet::new();
        let mut replicating = false;
        let backing = device.backing.as_ref().expect("the caller has a disk");
        let busy = all || backing.activity_log.has_waiters();
        for connection in &self.connections {
            let peer = &connection.peer_devices[&volume];
            replicating |= peer.replicates();
            if !busy {
                continue;
            }
            for extent in backing.activity_log.hot_extents() {
                let first = u64::from(extent) * (EXTENT_SIZE / BLOCK_SIZE);
                let count =
                    (EXTENT_SIZE / BLOCK_SIZE).min(peer.bitmap.blocks().saturating_sub(first));
                if count > 0 && !peer.saved(first, count) {
                    unsaved.insert(extent);
                }
            }
        }
        CleanExtents {
            // Bits that count as saved may be so in a superblock only that is not durable yet.
            none: device.loss != Loss::None || backing.is_saving(),
            flushed_epoch: device.flushed_epoch,
            replicating,
            unsaved,
        }
    }

    /// Makes extents clean: their bits durable, and both disks flushed while a peer replicates.
    pub(crate) fn clean_log(&mut self, volume: VolumeNumber, extents: &[u32]) {
        let clean = self.clean_extents(volume, true);
        if clean.none {
            return;
        }
        if extents.iter().any(|extent| clean.unsaved.contains(extent)) {
            for c in self.peers() {
                let peer = &self.connections[c].peer_devices[&volume];
                if peer.saving.is_none() && peer.save_queue.is_empty() {
                    self.save_bitmap(c, volume, Save::Unsaved, Then::Log);
                }
            }
        }
        let device = self.device(volume);
        if clean.replicating && device.flush.is_none() && device.next_flush.is_none() {
            self.flush_for(volume, None, Some(Then::Log));
        }
    }

    /// Writes blocks of the activity log.
    pub(crate) fn write_log(&mut self, volume: VolumeNumber, blocks: Vec<AlBlock>) {
        let tag = self.disk_tag(volume, Pending::ActivityLog);
        self.write_meta(tag, volume, MetaOp::ActivityLog { blocks });
    }

    /// Makes the superblock durable as it is now, then goes on.
    pub(crate) fn save_superblock(&mut self, volume: VolumeNumber, then: Then) {
        if self.devices[&volume].gone() {
            return self.follow_without_disk(volume, then);
        }
        let backing = self.device(volume).backing.as_mut().expect("a disk that is not gone");
        backing.unsaved.get_or_insert_with(Vec::new).push(then);
        self.pump_superblock(volume);
    }

    fn pump_superblock(&mut self, volume: VolumeNumber) {
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        if backing.saving.is_some() {
            return;
        }
        let Some(then) = backing.unsaved.take() else { return };
        self.note_losses(volume);
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        backing.superblock.sequence += 1;
        backing.superblock.number = backing.superblock.number.max(backing.activity_log.number);
        let op = MetaOp::Superblock(Box::new(backing.superblock.clone()));
        let tag = self.disk_tag(volume, Pending::Superblock);
        self.device(volume).backing.as_mut().expect("seen above").saving = Some((tag, then));
        self.write_meta(tag, volume, op);
    }

    /// Whether all bits are those of a verify, in the superblock in memory.
    pub(crate) fn note_losses(&mut self, volume: VolumeNumber) {
        let losses = self.connections.iter().any(|c| c.peer_devices[&volume].bitmap.losses());
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        let flag = DeviceFlags::LOSS_BITS;
        let among = losses && backing.has(DeviceFlags::VERIFY_MARKS);
        backing.flags(if among { flag } else { 0 }, flag);
    }

    /// The bits are copied now, whoever has set them: they are those of a resync.
    pub(crate) fn marks_are_copied(&mut self, c: usize, volume: VolumeNumber) {
        self.peer_device(c, volume).bitmap.set_losses(true);
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.flags(0, DeviceFlags::VERIFY_MARKS | DeviceFlags::LOSS_BITS);
        }
    }

    /// Makes bits of a peer's slot durable, then goes on.
    pub(crate) fn save_bitmap(&mut self, c: usize, volume: VolumeNumber, save: Save, then: Then) {
        if self.devices[&volume].gone() {
            return self.follow_without_disk(volume, then);
        }
        let before = self.devices[&volume].backing.as_ref().map(|b| b.superblock.flags);
        self.note_losses(volume);
        if before != self.devices[&volume].backing.as_ref().map(|b| b.superblock.flags) {
            // Not pages of a loss that pass for those of a verify.
            self.save_superblock(volume, Then::Log);
        }
        self.peer_device(c, volume).save_queue.push_back((save, vec![then]));
        self.pump_bitmap(c, volume);
    }

    pub(crate) fn pump_bitmap(&mut self, c: usize, volume: VolumeNumber) {
        loop {
            let peer = self.peer_device(c, volume);
            if peer.saving.is_some() {
                return;
            }
            let Some((save, then)) = peer.save_queue.pop_front() else { return };
            let slot = peer.slot.expect("a disk with a slot for every peer");
            let wanted = match save {
                Save::Unsaved => peer.bitmap.unsaved_pages(),
                Save::Stale => peer.bitmap.stale_or_unsaved_pages(),
            };
            let (state, epoch) = self.slot_state(volume, slot);
            let all = self.peer_device(c, volume).bitmap.blocks().div_ceil(PAGE_BITS);
            let all = u32::try_from(all).expect("at most 1 PiB");
            let (pages, new_epoch) = if wanted.is_empty() {
                (Vec::new(), None)
            } else if state == BitmapState::Pages {
                (wanted, None)
            } else {
                ((0..all).collect(), Some(epoch.wrapping_add(1)))
            };
            if pages.is_empty() {
                for then in then {
                    self.follow(volume, then);
                }
                continue;
            }
            let write_epoch = new_epoch.unwrap_or(epoch);
            let saving =
                Saving { operations: 0, pages, begun: 0, epoch: write_epoch, new_epoch, then };
            self.peer_device(c, volume).saving = Some(saving);
            return self.write_pages(c, volume);
        }
    }

    /// Gives the next pages to the disk: never so many at once that a large bitmap is in memory
    /// twice.
    fn write_pages(&mut self, c: usize, volume: VolumeNumber) {
        loop {
            let peer = self.peer_device(c, volume);
            let (Some(saving), Some(slot)) = (peer.saving.as_mut(), peer.slot) else { return };
            if saving.operations == OPERATIONS_MAX || saving.begun == saving.pages.len() {
                return;
            }
            let end = saving.pages.len().min(saving.begun + PAGES_MAX);
            let next = &saving.pages[saving.begun..end];
            let pages: Vec<BitmapPage> =
                next.iter().map(|index| peer.bitmap.take_page(*index)).collect();
            saving.begun = end;
            saving.operations += 1;
            let epoch = saving.epoch;
            self.device(volume).counters.bm_writes += pages.len() as u64;
            let tag = self.disk_tag(volume, Pending::Bitmap { c });
            self.write_meta(tag, volume, MetaOp::Bitmap { slot, epoch, pages });
        }
    }

    fn slot_state(&self, volume: VolumeNumber, slot: u8) -> (BitmapState, u32) {
        let backing = self.devices[&volume].backing.as_ref().expect("the caller has a disk");
        let slot = &backing.superblock.peers[slot as usize];
        (slot.bitmap_state, slot.bitmap_epoch)
    }

    /// Declares the whole bitmap of a slot clear or set, in the superblock alone; the caller saves
    /// the superblock.
    pub(crate) fn slot_whole(&mut self, c: usize, volume: VolumeNumber, state: BitmapState) {
        let peer = self.peer_device(c, volume);
        match state {
            BitmapState::AllClear => peer.bitmap.clear_all(),
            BitmapState::AllSet => peer.bitmap.set_all(),
            BitmapState::Pages => unreachable!("pages are written, not declared"),
        }
        peer.bitmap.mark_all_saved();
        // Pages under way say nothing any more, and neither does the epoch that they carry. Those that have not begun
        // would take bits along that are set from here on, and count them as saved.
        if let Some(saving) = peer.saving.as_mut() {
            saving.new_epoch = None;
            saving.pages.truncate(saving.begun);
        }
        let slot = peer.slot;
        self.marks_are_copied(c, volume);
        if let (Some(slot), Some(backing)) = (slot, self.device(volume).backing.as_mut()) {
            let slot = &mut backing.superblock.peers[slot as usize];
            slot.bitmap_state = state;
            slot.bitmap_epoch = slot.bitmap_epoch.wrapping_add(2);
        }
    }

    fn bitmap_written(&mut self, c: usize, volume: VolumeNumber) {
        let peer = self.peer_device(c, volume);
        let Some(saving) = peer.saving.as_mut() else { return };
        saving.operations -= 1;
        if saving.operations > 0 || saving.begun < saving.pages.len() {
            return self.write_pages(c, volume);
        }
        if let Some(epoch) = saving.new_epoch {
            let slot = peer.slot.expect("a disk with a slot for every peer");
            if let Some(backing) = self.device(volume).backing.as_mut() {
                let slot = &mut backing.superblock.peers[slot as usize];
                slot.bitmap_state = BitmapState::Pages;
                slot.bitmap_epoch = epoch;
            }
            return self.save_superblock(volume, Then::BitmapMapped { c });
        }
        self.bitmap_saved(c, volume);
    }

    /// The pages (and the slot's state) are durable.
    pub(crate) fn bitmap_saved(&mut self, c: usize, volume: VolumeNumber) {
        if let Some(saving) = self.peer_device(c, volume).saving.take() {
            for then in saving.then {
                self.follow(volume, then);
            }
        }
        self.pump_bitmap(c, volume);
    }

    /// Remembers durably the highest number that the peer has shown.
    pub(crate) fn save_seen(&mut self, c: usize, volume: VolumeNumber) {
        if self.devices[&volume].backing.is_none() {
            return;
        }
        let peer = self.peer_device(c, volume);
        let Some(number) = peer.seen_number else { return };
        if peer.seen_saving || peer.seen_durable >= number {
            return;
        }
        peer.seen_saving = true;
        peer.seen_copy ^= 1;
        let (slot, copy) = (peer.slot.expect("a disk with a slot for every peer"), peer.seen_copy);
        let tag = self.disk_tag(volume, Pending::Seen { c, number });
        self.write_meta(tag, volume, MetaOp::SeenNumber { slot, copy, number });
    }

    /// A metadata action ended.
    pub(crate) fn meta_done(&mut self, tag: Tag, result: Result<(), DiskError>) {
        let Some((volume, _, pending)) = self.tags.remove(tag.0) else { return };
        self.disk_has_answered(volume);
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        backing.outstanding -= 1;
        backing.meta_writes -= 1;
        self.pump_growing(volume);
        if matches!(pending, Pending::LastMark) {
            return self.last_mark_done(volume, result);
        }
        if let Err(error) = result {
            // Metadata write errors always detach (DRBD does the same).
            return self.disk_failed(volume, error, "metadata write");
        }
        if self.device(volume).disk == DiskState::Failed {
            return;
        }
        match pending {
            Pending::Superblock => {
                let backing = self.device(volume).backing.as_mut().expect("seen above");
                let (_, then) = backing.saving.take().expect("a superblock write was under way");
                backing.activity_log.number_is_durable(backing.superblock.number);
                for then in then {
                    self.follow(volume, then);
                }
                self.pump_superblock(volume);
                // It may have waited for this ([`CleanExtents`]).
                self.pump_log(volume);
            }
            Pending::ActivityLog => {
                let backing = self.device(volume).backing.as_mut().expect("seen above");
                backing.activity_log.written();
                self.pump_log(volume);
            }
            Pending::Bitmap { c } => self.bitmap_written(c, volume),
            Pending::Seen { c, number } => {
                let peer = self.peer_device(c, volume);
                peer.seen_saving = false;
                peer.seen_durable = peer.seen_durable.max(number);
                self.save_seen(c, volume);
                self.acks_after_number(c, volume);
            }
            other => unreachable!("{other:?} is no metadata action"),
        }
    }

    /// A disk action ended.
    pub(crate) fn disk_done(&mut self, tag: Tag, result: Result<Option<Payload>, DiskError>) {
        let Some((volume, _, pending)) = self.tags.remove(tag.0) else {
            return self.release(result.ok().flatten());
        };
        self.disk_has_answered(volume);
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.outstanding -= 1;
        }
        self.disk_answered(volume, pending, result);
    }

    /// `Event::HoleFound`.
    pub(crate) fn hole_found(&mut self, tag: Tag, length: u32) {
        let Some((volume, _, pending)) = self.tags.remove(tag.0) else { return };
        self.disk_has_answered(volume);
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.outstanding -= 1;
        }
        if let Pending::SourceHole { c, socket, sequence } = pending {
            self.source_hole_found(c, socket, volume, sequence, length);
        }
    }

    /// The disk was given up, and does not answer: what is under way on it counts as failed. The disk
    /// is closed when the last operation has ended; its outcome is of no account then.
    pub(crate) fn abandon_operations(&mut self, volume: VolumeNumber) {
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.abandoned = true;
        }
        for tag in self.tags.keys() {
            let Some((of, _, pending)) = self.tags.get_mut(tag) else { continue };
            if *of != volume || pending.is_metadata() {
                continue;
            }
            let pending = std::mem::replace(pending, Pending::Abandoned);
            self.disk_answered(volume, pending, Err(DiskError::Io(ETIMEDOUT)));
        }
    }

    fn disk_answered(
        &mut self,
        volume: VolumeNumber,
        pending: Pending,
        result: Result<Option<Payload>, DiskError>,
    ) {
        if matches!(pending, Pending::Abandoned) {
            if result.is_err() {
                self.has_not_only_hung(volume);
            }
            return self.release(result.ok().flatten());
        }
        if let Err(error) = result {
            let full = error == DiskError::NoSpace;
            match &pending {
                Pending::Write { key } if full && self.wait_for_space(*key) => return,
                Pending::PeerWrite { key } if full => return self.peer_write_waits(*key),
                Pending::TargetWrite { c, .. } if full => self.note_full_target(*c, volume),
                // A failed sync may have been told of other writes as well, and is told once only.
                Pending::Write { .. } | Pending::PeerWrite { .. }
                    if self.was_durable(volume, &pending) =>
                {
                    self.sync_failed(volume, error, "durable WRITE");
                }
                // An error can be passed on to a client here only. This disk lacks a write that will
                // be acknowledged without it, and more that follow.
                Pending::PeerWrite { .. } => self.disk_failed(volume, error, "WRITE of the peer"),
                Pending::Read { .. }
                | Pending::Edge { .. }
                | Pending::PeerRead { .. }
                | Pending::SourceRead { .. }
                | Pending::SourceHole { .. }
                | Pending::VerifyRead { .. }
                | Pending::OwnSample { .. }
                | Pending::PeerSample { .. } => self.disk_error(volume, error, "READ"),
                Pending::Write { .. } | Pending::TargetWrite { .. } => {
                    self.disk_error(volume, error, "WRITE");
                }
                // It is to be overwritten, which may mend it.
                Pending::TargetRead { .. } => {}
                _ => self.sync_failed(volume, error, "flush"),
            }
        }
        match pending {
            Pending::Write { key } => self.write_done(key, result.is_ok()),
            Pending::Read { key } => self.read_done(key, result),
            Pending::Edge { key, head } => self.edge_done(key, head, result),
            Pending::PeerWrite { key } => self.peer_write_done(key, result.is_ok()),
            Pending::PeerRead { c, socket, sequence } => {
                self.peer_read_served(c, socket, volume, sequence, result);
            }
            Pending::SourceRead { c, socket, sequence } => {
                self.source_read_done(c, socket, volume, sequence, result);
            }
            Pending::SourceHole { c, socket, sequence } => {
                self.source_hole_found(c, socket, volume, sequence, 0);
            }
            Pending::TargetRead { c, socket, piece } => {
                self.target_read_done(c, socket, volume, piece, result);
            }
            Pending::TargetWrite { c, socket, piece, payload } => {
                self.release(payload);
                self.target_write_done(c, socket, volume, piece, result.is_ok());
            }
            Pending::GroupFlush { epoch } => {
                self.group_flush_done(volume, epoch, result.map(|_| ()));
            }
            Pending::PeerFlush { c, socket } => {
                self.peer_flush_served(c, socket, volume, result.is_ok());
            }
            Pending::OwnSample { .. } | Pending::PeerSample { .. } => {
                self.sample_read(volume, pending, result);
            }
            Pending::VerifyRead { .. } => self.verify_read(volume, pending, result),
            Pending::Flush { then } if result.is_ok() => self.follow(volume, then),
            Pending::Flush { then } => self.follow_without_disk(volume, then),
            other => unreachable!("{other:?} is no disk action"),
        }
    }

    /// The write was to be durable when it ended.
    fn was_durable(&self, volume: VolumeNumber, pending: &Pending) -> bool {
        let fua = match pending {
            Pending::Write { key } => self.requests.get(*key).is_some_and(|r| r.fua),
            Pending::PeerWrite { key } => self.peer_writes.get(*key).is_some_and(|w| w.fua),
            _ => false,
        };
        fua && self.config.disk_options(volume).disk_flushes
    }

    /// Flushes the own disk, then goes on.
    pub(crate) fn flush_disk(&mut self, volume: VolumeNumber, then: Then) {
        if self.devices[&volume].gone() {
            return self.follow_without_disk(volume, then);
        }
        if !self.config.disk_options(volume).disk_flushes {
            return self.follow(volume, then);
        }
        let tag = self.disk_tag(volume, Pending::Flush { then });
        self.emit(Action::DiskFlush { tag, volume });
    }

    /// Something became durable: what follows.
    pub(crate) fn follow(&mut self, volume: VolumeNumber, then: Then) {
        match then {
            Then::AttachFlushed { id } => self.attach_flushed(volume, id),
            Then::AttachSaved { id } => self.attach_saved(volume, id),
            Then::LossFlushed { round } => self.loss_flushed(volume, round),
            Then::LossMarked { round } => self.loss_marked(volume, round),
            Then::Bumped => self.bumped(volume),
            Then::OpenSaved { c, socket } if self.is_current(c, socket) => self.opened(c, volume),
            Then::MarksSaved { c, socket } if self.is_current(c, socket) => self.open(c, volume),
            Then::AdoptBitsSaved { c, socket } if self.is_current(c, socket) => {
                self.adopt(c, volume);
            }
            Then::AdoptSaved { c, socket } if self.is_current(c, socket) => self.adopted(c, volume),
            Then::SourceRaised { c, socket } if self.is_current(c, socket) => {
                self.exchange_bitmaps(c, volume);
            }
            Then::SourceFlushed { c, socket } if self.is_current(c, socket) => {
                self.source_flushed(c, volume);
            }
            Then::SourceSaved { c, socket } if self.is_current(c, socket) => {
                self.source_ready(c, volume);
            }
            Then::TargetFlushed { c, socket, round, count } if self.is_current(c, socket) => {
                self.target_flushed(c, volume, round, count);
            }
            Then::EndFlushed { c, socket, round } if self.is_current(c, socket) => {
                self.target_end_flushed(c, volume, round);
            }
            Then::EndSaved { c, socket, round } if self.is_current(c, socket) => {
                self.target_end_saved(c, volume, round);
            }
            Then::EndSaved { .. } => self.target_end_saved_alone(volume),
            Then::PeerUuidFlushed { c, socket, uuid } if self.is_current(c, socket) => {
                self.peer_uuid_flushed(c, volume, uuid);
            }
            Then::PeerUuidSaved { c, socket, uuid } if self.is_current(c, socket) => {
                self.peer_uuid_saved(c, volume, uuid);
            }
            Then::VerifyFlagged { c, socket } if self.is_current(c, socket) => {
                self.verify_flagged(c, volume);
            }
            Then::VerifySaved { c, socket } if self.is_current(c, socket) => {
                self.verify_saved(c, volume);
            }
            Then::PeerLeave { c, socket } if self.is_current(c, socket) => {
                self.peer_leave_step(c);
            }
            Then::ClearSaved { c, socket, uuid } if self.is_current(c, socket) => {
                self.clear_saved(c, volume, uuid);
            }
            Then::ClearSaved { .. } => self.cleared_disk(volume),
            Then::OpenSaved { .. }
            | Then::MarksSaved { .. }
            | Then::AdoptBitsSaved { .. }
            | Then::AdoptSaved { .. }
            | Then::SourceRaised { .. }
            | Then::SourceFlushed { .. }
            | Then::SourceSaved { .. }
            | Then::TargetFlushed { .. }
            | Then::EndFlushed { .. }
            | Then::PeerUuidFlushed { .. }
            | Then::PeerUuidSaved { .. }
            | Then::VerifyFlagged { .. }
            | Then::VerifySaved { .. }
            | Then::PeerLeave { .. } => {}
            Then::BitmapMapped { c } => self.bitmap_saved(c, volume),
            Then::Order { step } => self.order_step_done(step),
            Then::Log => self.pump_log(volume),
            Then::NumberRaised => self.number_raised(volume),
            Then::GivenUp { c, socket, sequence } => {
                self.given_up(c, socket, volume, (sequence, 0))
            }
        }
    }

    /// There is no disk (any more): what waited for it is void, or goes on without.
    fn follow_without_disk(&mut self, volume: VolumeNumber, then: Then) {
        match then {
            Then::Order { step } => self.order_step_without_disk(step),
            Then::OpenSaved { .. }
            | Then::LossFlushed { .. }
            | Then::LossMarked { .. }
            | Then::PeerLeave { .. } => self.follow(volume, then),
            Then::ClearSaved { c, socket, .. } if self.is_current(c, socket) => {
                self.clear_refused(c, volume);
            }
            Then::GivenUp { c, socket, sequence } => {
                self.given_up(c, socket, volume, (sequence, -5));
            }
            _ => {}
        }
    }

    /// The disk failed: what waited for its metadata goes on without, or is void.
    pub(crate) fn void_followers(&mut self, volume: VolumeNumber) {
        let mut followers = Vec::new();
        if let Some(backing) = self.device(volume).backing.as_mut() {
            followers.extend(backing.saving.take().map(|(_, then)| then).unwrap_or_default());
            followers.extend(backing.unsaved.take().unwrap_or_default());
        }
        for c in self.peers() {
            let peer = self.peer_device(c, volume);
            followers.extend(peer.saving.take().map(|saving| saving.then).unwrap_or_default());
            followers.extend(std::mem::take(&mut peer.save_queue).into_iter().flat_map(|q| q.1));
            peer.seen_saving = false;
        }
        for then in followers {
            self.follow_without_disk(volume, then);
        }
    }
}
