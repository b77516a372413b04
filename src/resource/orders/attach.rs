//! Disks come and go by order; invalidation and the like.
//!
//! Invariants (model.md R6, R12, R15; DESIGN 4):
//! - No disk is taken whose metadata is another node's, volume's or resource's.
//! - Attach flushes first; then hot extents become bits, and that is durable before the disk has a
//!   state. The rollback number stays: a disk that was set back must not catch up by restarts.
//! - A disk that stood in for a Primary without one has survived the end of its node's process: the
//!   same system runs (`LoadedMeta::same_boot`), and the attach has flushed what it held.
//! - An ordered detach with an UpToDate peer makes the disk Outdated first, SURVIVED off, in any role.
//! - A disk attached in an open session is never source: a new handshake decides.

use crate::meta::{BitmapState, DeviceFlags, Superblock};
use crate::resource::data::activity_log::ActivityLog;
use crate::resource::disk::bitmap::Bitmap;
use crate::resource::disk::device::{Backing, Loss};
use crate::resource::disk::parting::Parting;
use crate::resource::orders::order::{NO_VOLUME, Step, refuse};
use crate::resource::peer::connection::{Connection, Save, Stage};
use crate::resource::peer::generation::same;
use crate::resource::{
    AttachedDisk, BLOCK_SIZE, Command, DiskState, EXTENT_SIZE, LogLevel, NodeId, Refusal,
    ReplicationState, Resource, Role, Then, VolumeNumber,
};

/// How far beyond the last known rollback number one that is not known may be.
const NUMBER_GAP: u64 = 1 << 32;

impl Resource {
    pub(crate) fn attach(&mut self, id: u64, volume: VolumeNumber, disk: AttachedDisk) {
        let Some(device) = self.devices.get(&volume) else {
            return self.reply(id, Err(refuse(127, NO_VOLUME)));
        };
        if device.disk != DiskState::Diskless {
            let hint =
                format!("Let go of it first: tandemadm detach {}/{volume}", self.config.name);
            return self.reply(id, Err(refuse(124, &hint)));
        }
        let superblock = &disk.meta.superblock;
        if let Some(refusal) = self.not_ours(volume, superblock) {
            return self.reply(id, Err(refusal));
        }
        let open = self.connections.iter().any(|c| c.stage == Stage::Open);
        let known = [device.exposed_uuid, device.asked_uuid];
        let exposed = known.into_iter().any(|known| same(superblock.current_uuid, known));
        if self.role == Role::Primary && !open && !exposed {
            return self.reply(id, Err(refuse(150, "Connect the peer first.")));
        }
        if superblock.effective_size > disk.data_size {
            return self.reply(
                id,
                Err(refuse(
                    170,
                    "The disk is smaller than the data it held: give it its size back.",
                )),
            );
        }
        if open && disk.data_size < device.size {
            let hint = format!(
                "The volume is in use with {} bytes, and this disk offers {}: give it at least {} more.",
                device.size,
                disk.data_size,
                device.size - disk.data_size
            );
            return self.reply(id, Err(refuse(111, &hint)));
        }
        let slots = &superblock.peers;
        let taken = |peer: NodeId| slots.iter().any(|slot| slot.node_id == Some(peer));
        let missing = self.connections.iter().filter(|c| !taken(c.peer)).count();
        if slots.iter().filter(|slot| slot.node_id.is_none()).count() < missing {
            let hint = "The metadata has no free slot for the peer's node-id: it was made for \
                        other peers. create-md makes it anew (a full sync follows).";
            return self.reply(id, Err(refuse(171, hint)));
        }
        for note in &disk.meta.notes {
            let text = format!("{}{note}", self.of_volume(volume));
            self.log(LogLevel::Warning, text);
        }
        if let Some(config) = self.config.volumes.iter_mut().find(|one| one.number == volume) {
            config.disk.clone_from(&disk.path);
        }
        self.take_disk(volume, disk);
        self.set_disk(volume, DiskState::Attaching);
        let command = Command::Detach { volume, force: false };
        self.run(id, command, Step::Attach);
        self.flush_disk(volume, Then::AttachFlushed { id });
    }

    /// The metadata is another node's, volume's or resource's: its generations and bits say nothing
    /// here, whoever opened the disk.
    fn not_ours(&self, volume: VolumeNumber, superblock: &Superblock) -> Option<Refusal> {
        let owner = (superblock.resource.as_str(), superblock.volume, superblock.node_id);
        let ours = (self.config.name.as_str(), volume, self.config.node_id);
        let hint = "It carries the metadata of another node, volume or resource. Put the right disk \
                    back, or correct the configuration.";
        (owner != ours).then(|| refuse(119, hint))
    }

    /// The metadata in memory, as it was read.
    fn take_disk(&mut self, volume: VolumeNumber, disk: AttachedDisk) {
        let capacity = self.config.disk_options(volume).al_extents;
        let meta = disk.meta;
        let superblock = meta.superblock;
        let effective = superblock.effective_size;
        let size = if effective == 0 { disk.data_size } else { effective };
        // One that is not known is beyond whatever it was: what is written from now on is no older.
        let number = meta
            .number
            .map_or(superblock.number + NUMBER_GAP, |number| number.max(superblock.number));
        let activity_log = ActivityLog::new(
            superblock.data_size,
            capacity,
            superblock.al_block_size,
            &meta.hot_extents,
            number,
        );
        let crashed = superblock.flags & DeviceFlags::PRIMARY_IND != 0;
        let mut backing = Backing {
            superblock,
            data_size: disk.data_size,
            logical_block_size: disk.logical_block_size,
            activity_log,
            number_known: meta.number.is_some(),
            crashed,
            saving: None,
            unsaved: None,
            outstanding: 0,
            meta_writes: 0,
            growing: None,
            parting: Parting::None,
            abandoned: false,
            only_hung: None,
        };
        let away = self.device(volume).came_back.take();
        backing.only_hung = away.and_then(|away| away.as_attached(&backing.superblock));
        if meta.written_behind {
            backing.flags(DeviceFlags::OUTDATED, DeviceFlags::SURVIVED);
        }
        let lacks = self.device(volume).sync_failed == Some(backing.superblock.device_uuid);
        let peers = self.connections.iter().map(|c| c.peer);
        // What has survived was flushed when the peer was lost; since then nothing was answered in this generation.
        let survived = backing.resting_state() == DiskState::UpToDate;
        if lacks && !survived && backing.shares_its_generation(peers) {
            // The peer has what this disk may have lost, and both call it by one name.
            backing.flags(DeviceFlags::OUTDATED, DeviceFlags::SURVIVED);
        }
        // A source that was Primary is a crashed Primary, which has a rule of its own (docs/GENERATIONS.md).
        if !meta.same_boot || backing.crashed && backing.has(DeviceFlags::IN_DOUBT) {
            backing.superblock.stands_in_for_nobody();
        }
        let clean = backing.has(DeviceFlags::CLEAN);
        backing.flags(0, DeviceFlags::CLEAN);
        for c in self.peers() {
            let slot = backing.slot(self.connections[c].peer);
            let state = slot.map(|slot| backing.superblock.peers[slot as usize].bitmap_state);
            let peer = self.peer_device(c, volume);
            peer.slot = slot;
            peer.bitmap = Bitmap::new(size / BLOCK_SIZE);
            let Some(index) = slot.map(usize::from) else { continue };
            match (state, meta.slots.get(index)) {
                (Some(BitmapState::AllSet), _) => peer.bitmap.set_all(),
                (Some(BitmapState::Pages), Some(loaded)) => peer.bitmap.set_blocks(&loaded.set),
                (Some(BitmapState::AllClear) | None, _) => {}
                (Some(BitmapState::Pages), None) => peer.bitmap.set_all(),
            }
            let damaged = meta.slots.get(index).is_some_and(|loaded| loaded.damaged_pages > 0);
            if peer.bitmap.count() == 0 {
                backing.flags(0, DeviceFlags::VERIFY_MARKS | DeviceFlags::LOSS_BITS);
            }
            let marks_only = backing.has(DeviceFlags::VERIFY_MARKS)
                && !backing.has(DeviceFlags::LOSS_BITS)
                && state == Some(BitmapState::Pages);
            peer.bitmap.set_losses(damaged || !marks_only);
            if !damaged {
                peer.bitmap.mark_all_saved();
            }
            let loaded = meta.slots.get(index);
            peer.seen_number = loaded.and_then(|loaded| loaded.seen_number);
            peer.seen_durable = peer.seen_number.unwrap_or(0);
            peer.seen_copy = loaded.map_or(0, |loaded| loaded.seen_copy);
            peer.seen_saving = false;
            if !clean {
                for extent in &meta.hot_extents {
                    let per_extent = EXTENT_SIZE / BLOCK_SIZE;
                    peer.bitmap.set(u64::from(*extent) * per_extent, per_extent);
                }
            }
            if meta.written_behind {
                peer.bitmap.set_all();
                peer.bitmap.mark_all_saved();
            }
        }
        // Nobody keeps count for a node that is none of the configuration.
        let known: Vec<_> = self.connections.iter().map(|c| c.peer).collect();
        backing.set_all_toward(|node| meta.written_behind || !known.contains(&node));
        let role = self.role;
        let outdated = lacks && backing.has(DeviceFlags::OUTDATED);
        let device = self.device(volume);
        device.note.clear();
        if outdated {
            device.note =
                "a sync of it has failed: what was acknowledged and in its cache may be gone"
                    .to_owned();
        }
        device.hot_at_attach = !clean && !meta.hot_extents.is_empty();
        if meta.written_behind {
            device.note = "it was written while it was not attached to Tandem: nothing on it is \
                           trusted until a full sync"
                .to_owned();
        }
        // What the clients of a Primary have read stays what it was: this disk may fail on its way, or be refused.
        if role != Role::Primary || device.exposed_uuid == 0 {
            device.exposed_uuid = backing.superblock.current_uuid;
        }
        if effective != 0 {
            device.size = effective;
        }
        device.backing = Some(backing);
        if meta.written_behind {
            let text = format!("{}{}", self.of_volume(volume), self.device(volume).note);
            self.log(LogLevel::Warning, text);
        }
    }

    pub(crate) fn attach_flushed(&mut self, volume: VolumeNumber, id: u64) {
        let prefix = self.of_volume(volume);
        if let Some(backing) = self.device(volume).backing.as_mut()
            && backing.has(DeviceFlags::STANDS_IN)
            && backing.resting_state() == DiskState::Consistent
        {
            // The process ended in a session, and only the process: what it had not flushed has been
            // flushed by now. So the loss sequence (R2) ends here that it did not come to.
            let doubt = backing.superblock.flags & DeviceFlags::IN_DOUBT;
            backing.flags(DeviceFlags::SURVIVED | doubt, 0);
            let what = match doubt {
                0 => "it stored the writes of a Primary without a disk",
                _ => "it was the source of a resync, and had every write,",
            };
            let text = format!(
                "{prefix}{what} when tandemd ended; the system has lost none of them since"
            );
            self.log(LogLevel::Info, text);
        }
        self.vouch_for_hung(volume);
        self.save_superblock(volume, Then::AttachSaved { id });
    }

    pub(crate) fn attach_saved(&mut self, volume: VolumeNumber, _id: u64) {
        let device = self.device(volume);
        let attached = device.backing.as_ref().map(|backing| backing.superblock.device_uuid);
        device.sync_failed = device.sync_failed.filter(|failed| Some(*failed) != attached);
        let Some(backing) = device.backing.as_ref() else { return };
        let state = backing.resting_state();
        let uuid = backing.superblock.current_uuid;
        let open = self
            .peers()
            .any(|c| self.connections[c].stage == Stage::Open || self.is_renegotiating(c));
        let bits: u64 =
            self.connections.iter().map(|c| c.peer_devices[&volume].bitmap.count()).sum();
        // While a session is open the peer is asked before anything is read from this disk.
        self.set_disk(volume, if open { DiskState::Negotiating } else { state });
        let text = format!(
            "{}attached to current UUID {uuid:016X}; {} KB ({bits} bits) marked out-of-sync",
            self.of_volume(volume),
            bits * BLOCK_SIZE / 1024
        );
        self.log(LogLevel::Info, text);
        self.finish(Ok(String::new()));
        if open {
            self.renegotiate();
        }
    }

    /// A disk that failed was closed. If it was being attached, the order is answered only now: who
    /// reads the answer may open the disk anew at once.
    pub(crate) fn attach_failed(&mut self, volume: VolumeNumber) {
        let attaching = self.running.as_ref().is_some_and(|running| running.step == Step::Attach);
        if attaching && self.order_volumes() == [volume] {
            let refusal = self.attach_refusal(volume);
            self.finish(Err(refusal));
        }
    }

    // ---- detach ----

    pub(crate) fn detach(&mut self, id: u64, volume: VolumeNumber, force: bool) {
        let Some(device) = self.devices.get(&volume) else {
            return self.reply(id, Err(refuse(127, NO_VOLUME)));
        };
        if device.disk == DiskState::Diskless {
            return self.reply(id, Ok(String::new()));
        }
        if self.role == Role::Primary && !force && !self.has_a_peer_that_stays(volume) {
            let hint = "This disk holds the only reachable copy, or the peer that has the other one is \
                        about to leave; --force ends the data access.";
            return self.reply(id, Err(refuse(-2, hint)));
        }
        let needed = self.needed_by_a_peer(&[volume]).or_else(|| self.has_promised(volume));
        let needed = needed.or_else(|| self.is_copied(volume));
        if let Some(refusal) = needed.filter(|_| !force) {
            return self.reply(id, Err(refusal));
        }
        self.draining = true;
        self.run(id, Command::Detach { volume, force }, Step::Drain);
    }

    /// A peer has a good copy, and is not about to leave with it.
    pub(in crate::resource) fn has_a_peer_that_stays(&self, volume: VolumeNumber) -> bool {
        self.reading_peer(volume).is_some_and(|c| self.connections[c].leaving.is_none())
    }

    /// Without this disk the copy on its way would stay a mix of old and new blocks.
    fn is_copied(&self, volume: VolumeNumber) -> Option<Refusal> {
        let copies = |c: &&Connection| c.peer_devices[&volume].source.is_some();
        let (peer, name) = (&self.connections.iter().find(copies)?.name, &self.config.name);
        let hint = format!(
            "{peer}'s disk is Inconsistent and is being copied from this one: wait for the end \
             (`tandemadm wait-sync {name}`). `detach --force` leaves {peer}'s as it is."
        );
        Some(refuse(-2, &hint))
    }

    /// A detach by force did not end, or did not begin, in time: the disk hangs. It is left as after
    /// an I/O error; what the running order waits for goes on without it.
    pub(crate) fn give_up_hung_disk(&mut self, volume: VolumeNumber) -> String {
        let ms = self.config.options.timeout_ms;
        let note = format!("detached by force; it did not answer for {ms} ms");
        self.give_disk_up_as_hung(volume, note);
        format!(
            "The disk did not answer for {ms} ms and was given up, as after an I/O error; it stays \
             open until the system lets go of what is under way on it"
        )
    }

    /// The running order is a detach by force, and its time is over.
    pub(crate) fn detach_gives_up(&mut self) {
        let Some(volume) = self.order_volumes().first().copied() else { return };
        let id = self.running.take().map(|running| running.id);
        self.draining = false;
        let text = self.give_up_hung_disk(volume);
        self.changed();
        if let Some(id) = id {
            self.reply(id, Ok(text));
        }
    }

    /// Requests have drained and both disks are flushed.
    pub(crate) fn detach_flushed(&mut self) {
        let force = self
            .running
            .as_ref()
            .is_some_and(|running| matches!(running.command, Command::Detach { force: true, .. }));
        let lone = self.order_volumes().into_iter().any(|v| !self.has_a_peer_that_stays(v));
        if self.role == Role::Primary && !force && lone {
            let hint = "The peer was lost: this disk holds the only reachable copy now.";
            return self.finish(Err(refuse(-2, hint)));
        }
        let needed = self.needed_by_a_peer(&self.order_volumes());
        if let Some(refusal) = needed.filter(|_| !force) {
            // The peer's disk has gone while requests drained here.
            return self.finish(Err(refusal));
        }
        let mut marked = Vec::new();
        for volume in self.order_volumes() {
            let peer = self.reading_peer(volume).is_some() && !self.devices[&volume].gone();
            if let Some(backing) = self.device(volume).backing.as_mut().filter(|_| peer)
                && backing.has(DeviceFlags::CONSISTENT)
                && !backing.is_just_created()
            {
                backing.flags(DeviceFlags::OUTDATED, DeviceFlags::SURVIVED);
                marked.push(volume);
            }
        }
        self.detach_volumes(&marked);
    }

    /// Down: every disk, as it stands.
    pub(crate) fn detach_all(&mut self) {
        self.detach_volumes(&[]);
    }

    /// `marked`: these have been marked Outdated, which is durable before the order is answered.
    fn detach_volumes(&mut self, marked: &[VolumeNumber]) {
        self.step(Step::DetachFlush);
        let volumes: Vec<_> = self
            .order_volumes()
            .into_iter()
            .filter(|volume| !self.devices[volume].gone())
            .collect();
        if volumes.is_empty() {
            return self.step(Step::DetachIdle);
        }
        let marked: Vec<_> = volumes.iter().copied().filter(|v| marked.contains(v)).collect();
        self.step_waits(u32::try_from(volumes.len() + marked.len()).expect("few volumes"));
        for volume in volumes {
            for c in self.peers() {
                self.peer_device(c, volume).target = None;
                self.peer_device(c, volume).source = None;
                self.drop_resync_locks(c, volume);
            }
            self.set_disk(volume, DiskState::Detaching);
            self.keeps_the_peer();
            self.refuse_waiting_peer_writes(volume);
            let then = self.then_order();
            self.flush_disk(volume, then);
        }
        for volume in marked {
            let then = self.then_order();
            self.save_superblock(volume, then);
        }
    }

    pub(crate) fn detach_bits(&mut self) {
        self.step(Step::DetachBits);
        let mut waits = Vec::new();
        for volume in self.order_volumes() {
            for c in self.peers() {
                if !self.devices[&volume].gone() {
                    waits.push((volume, c));
                }
            }
        }
        if waits.is_empty() {
            return self.step(Step::DetachIdle);
        }
        self.step_waits(u32::try_from(waits.len()).expect("few volumes"));
        for (volume, c) in waits {
            let then = self.then_order();
            self.save_bitmap(c, volume, Save::Stale, then);
        }
    }

    /// Closes the disks once nothing is under way on them.
    pub(crate) fn order_detach_idle(&mut self) {
        let volumes = self.order_volumes();
        let given_up = |volume: &VolumeNumber| self.devices[volume].abandoned();
        let (left, volumes): (Vec<_>, Vec<_>) = volumes.into_iter().partition(given_up);
        let idle = volumes.iter().all(|volume| {
            self.devices[volume].backing.as_ref().is_none_or(|backing| {
                let quiet = backing.saving.is_none() && backing.unsaved.is_none();
                backing.outstanding == 0 && quiet && !self.devices[volume].parts()
            })
        });
        if !idle {
            return;
        }
        for volume in volumes {
            if self.devices[&volume].disk == DiskState::Failed {
                self.pump_disk(volume);
                continue;
            }
            let durable = self.connections.iter().all(|c| {
                let peer = &c.peer_devices[&volume];
                peer.peer_writes == 0 && peer.bitmap.unsaved_pages().is_empty()
            });
            let Some(backing) = self.device(volume).backing.as_mut() else { continue };
            if durable {
                // Everything is flushed and every bit is durable: hot extents say nothing any more.
                backing.flags(DeviceFlags::CLEAN, 0);
            }
            self.note_losses(volume);
            let Some(backing) = self.device(volume).backing.as_mut() else { continue };
            backing.superblock.sequence += 1;
            backing.superblock.number = backing.superblock.number.max(backing.activity_log.number);
            let superblock = Box::new(backing.superblock.clone());
            self.close_disk(volume, Some(superblock));
            self.set_disk(volume, DiskState::Diskless);
            for c in self.peers() {
                self.peer_device(c, volume).target = None;
                self.peer_device(c, volume).source = None;
                self.drop_resync_locks(c, volume);
                if self.connections[c].stage == Stage::Open {
                    self.set_replication(c, volume, ReplicationState::Established);
                }
            }
            self.send_state(volume);
        }
        let name = &self.config.name;
        let left = left.iter().map(|volume| {
            format!(
                "The disk of {name}/{volume} hangs and was given up; it stays in use until the system \
                 lets go of what is under way on it"
            )
        });
        let text = left.collect::<Vec<_>>().join("\n");
        self.finish(Ok(text));
    }

    // ---- outdate and new-current-uuid ----

    pub(crate) fn outdate(&mut self, id: u64, volume: VolumeNumber) {
        let Some(device) = self.devices.get(&volume) else {
            return self.reply(id, Err(refuse(127, NO_VOLUME)));
        };
        let open = self.connections.iter().any(|c| c.stage == Stage::Open);
        let refusal = match device.disk {
            DiskState::Outdated => return self.reply(id, Ok(String::new())),
            DiskState::Consistent | DiskState::UpToDate => None,
            DiskState::Inconsistent => {
                let hint = "This disk is Inconsistent, so it is not promoted as it is: nothing has \
                            to be done. A sync makes it good: connect the peer.";
                Some(refuse(-16, hint))
            }
            state => {
                let name = &self.config.name;
                let hint = format!(
                    "The disk is {state}, and there is nothing to mark. Attach it first: tandemadm \
                     attach {name}/{volume}"
                );
                Some(refuse(-16, &hint))
            }
        };
        let refusal = refusal.or_else(|| {
            if open {
                Some(refuse(-6, "Disconnect first."))
            } else if self.role == Role::Primary {
                Some(refuse(-2, "A Primary needs its data: demote first."))
            } else {
                None
            }
        });
        if let Some(refusal) = refusal {
            return self.reply(id, Err(refusal));
        }
        if self.device(volume).loss != Loss::None {
            // Not before it is durable whether it has survived its peer: outdated or not, it may
            // be the only one that has what was acknowledged.
            return self.run(id, Command::Outdate { volume }, Step::Settle);
        }
        self.run(id, Command::Outdate { volume }, Step::Save);
        self.step_waits(1);
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.flags(DeviceFlags::OUTDATED, 0);
        }
        self.set_disk(volume, DiskState::Outdated);
        let then = self.then_order();
        self.save_superblock(volume, then);
    }

    pub(crate) fn new_uuid_by_order(&mut self, id: u64, volume: VolumeNumber, clear: bool) {
        if clear {
            return self.clear_bitmap(id, volume);
        }
        let Some(device) = self.devices.get(&volume) else {
            return self.reply(id, Err(refuse(127, NO_VOLUME)));
        };
        if device.disk != DiskState::UpToDate {
            let hint = "Only data that is the newest begins a generation: connect the peer first.";
            return self.reply(id, Err(refuse(-2, hint)));
        }
        if self.connections.iter().any(|c| c.peer_devices[&volume].replicates()) {
            let hint =
                "The peer is connected and has the same data: there is nothing to tell apart.";
            return self.reply(id, Err(refuse(162, hint)));
        }
        if let Some(c) = self.connections.iter().find(|c| c.peer_role == Role::Primary) {
            let hint = format!(
                "{} is Primary without a disk, and has this one begin a generation when it writes: there is \
                 nothing to tell apart.",
                c.name
            );
            return self.reply(id, Err(refuse(162, &hint)));
        }
        let command = Command::NewCurrentUuid { volume, clear_bitmap: false };
        if device.loss != Loss::None || device.bumping {
            // Not before SURVIVED is durable (model.md R2): the order begins anew then.
            return self.run(id, command, Step::Settle);
        }
        self.run(id, command, Step::Save);
        self.step_waits(1);
        let missing: Vec<u8> =
            self.connections.iter().filter_map(|c| c.peer_devices[&volume].slot).collect();
        // What rests on this disk is answered when the identifier is durable, not before.
        self.device(volume).bumping = true;
        self.new_current_uuid(volume, &missing);
        self.save_superblock(volume, Then::Bumped);
        let then = self.then_order();
        self.save_superblock(volume, then);
    }

    /// The loss, or the new current UUID, that the order waited for is over.
    pub(crate) fn settled(&mut self) {
        let Some(volume) = self.order_volumes().first().copied() else { return };
        let device = &self.devices[&volume];
        if device.loss == Loss::None
            && !device.bumping
            && let Some(running) = self.running.take()
        {
            match running.command {
                Command::Outdate { .. } => self.outdate(running.id, volume),
                _ => self.new_uuid_by_order(running.id, volume, false),
            }
        }
    }
}
