//! What a shell does with actions: disks and buffers.
//!
//! Invariants:
//! - The actions of a drain start in order and end in any order: each has its own latency.
//! - Two writes to one sector are never under way at once on a disk, nor two metadata writes to one
//!   place; the core's locks see to it, and the shell checks it.

use std::collections::VecDeque;

use crate::meta::{MetaError, MetaOp, Superblock, stages};
use crate::resource::{Action, DiskError, Event, Payload, Tag, Time, VolumeNumber};

use super::cluster::{Cluster, Happening};
use super::disk::SECTOR;
use super::metadata::close_clean;
use super::node::{DiskOp, DiskOpKind, Input};
use super::pool::Origin;

const EIO: i32 = 5;

impl Cluster {
    /// Starts one action.
    pub(super) fn perform(&mut self, node: usize, action: Action) {
        match action {
            Action::DiskRead { tag, volume, offset, length, find_zeroes } => {
                if self.aligned(node, volume, offset, u64::from(length)) {
                    let (start, count) = (offset / 512, u64::from(length) / 512);
                    let kind = DiskOpKind::Read { start, count, find_zeroes };
                    self.start_op(node, tag, volume, kind);
                }
            }
            Action::DiskWrite { tag, volume, offset, payload, fua } => {
                self.start_write(node, tag, volume, offset, payload, fua);
            }
            Action::DiskZeroes { tag, volume, offset, length, written, fua, .. } => {
                if self.aligned(node, volume, offset, u64::from(length)) {
                    let values = vec![0; (length / SECTOR) as usize];
                    let start = offset / 512;
                    // Those of a request are marked as zeroes where a disk can do that.
                    let origin = if written { Origin::Resync } else { Origin::Client };
                    let kind = DiskOpKind::Write { start, values, fua, origin };
                    self.start_op(node, tag, volume, kind);
                }
            }
            Action::FindHole { tag, volume, offset, length } => {
                if self.aligned(node, volume, offset, u64::from(length)) {
                    let (start, count) = (offset / 512, u64::from(length) / 512);
                    self.start_op(node, tag, volume, DiskOpKind::Hole { start, count });
                }
            }
            Action::DiskFlush { tag, volume } => {
                let stamp = self.nodes[node].volumes[usize::from(volume)].disk.flush_begins();
                self.start_op(node, tag, volume, DiskOpKind::Flush(stamp));
            }
            Action::Meta { tag, volume, op } => self.start_meta(node, tag, volume, &op),
            Action::GrowDisk { tag, volume } => self.start_growing(node, tag, volume),
            Action::CloseDisk { volume, superblock } => {
                self.close_disk(node, volume, superblock.map(|s| *s));
            }
            Action::Connect { socket, timeout_ms, .. } => self.dial(node, socket, timeout_ms),
            Action::Send { socket, packet, payload } => {
                self.watch_verify(node, &packet);
                self.watch_question(node, &packet);
                self.send(node, socket, &packet, payload);
            }
            Action::Authenticate { socket, .. } => self.authenticate(node, socket),
            Action::CloseSocket { socket, linger } => self.close_socket(node, socket, linger),
            Action::Merge { into, from, head } => {
                let result = self.nodes[node].pool.merge(into, from, head);
                self.held(result);
            }
            Action::Digest { tag, payload } => match self.nodes[node].pool.read(payload) {
                Ok((_, sectors)) => {
                    let bytes: Vec<u8> = sectors.iter().flat_map(|s| s.to_be_bytes()).collect();
                    let digest = crc32fast::hash(&bytes);
                    self.input(node, Input::Event(Event::Digested { tag, digest }));
                }
                Err(error) => self.held(Err(error)),
            },
            Action::BlockDigests { tag, payload, alg } => {
                match self.nodes[node].pool.read(payload) {
                    Ok((_, sectors)) => {
                        let digests = super::metadata::digests(&sectors, alg);
                        self.input(node, Input::Event(Event::BlocksDigested { tag, digests }));
                    }
                    Err(error) => self.held(Err(error)),
                }
            }
            Action::Release(payload) => {
                let result = self.nodes[node].pool.release(payload);
                self.held(result);
            }
            Action::Reply { request, result } => self.replied(node, request, result),
            Action::CloseSessions { volume, lost } => self.close_sessions(node, volume, lost),
            Action::AdminReply { id, result } => self.order_answered(node, id, result),
            Action::RunHandler { number, call } => self.run_handler(node, number, *call),
            Action::Log { .. } => {}
        }
    }

    fn aligned(&mut self, node: usize, volume: VolumeNumber, offset: u64, length: u64) -> bool {
        let size = self.nodes[node].volumes[usize::from(volume)].geometry.data_size;
        let fits = offset.is_multiple_of(4096)
            && length.is_multiple_of(4096)
            && length > 0
            && offset + length <= size;
        if !fits {
            self.misuse(format!("disk action at {offset} of {length} bytes, on {size}"));
        }
        fits
    }

    fn start_write(
        &mut self,
        node: usize,
        tag: Tag,
        volume: VolumeNumber,
        offset: u64,
        payload: Payload,
        fua: bool,
    ) {
        if !self.aligned(node, volume, offset, u64::from(payload.length)) {
            return;
        }
        if !payload.offset.is_multiple_of(4096) {
            return self.misuse(format!("a write from {payload:?}, which is not aligned"));
        }
        match self.nodes[node].pool.read(payload) {
            Err(text) => self.misuse(text),
            Ok((origin, values)) => {
                let start = offset / 512;
                let kind = DiskOpKind::Write { start, values, fua, origin };
                self.start_op(node, tag, volume, kind);
            }
        }
    }

    fn start_growing(&mut self, node: usize, tag: Tag, volume: VolumeNumber) {
        if self.nodes[node].ops.values().any(|op| op.volume == volume && op.is_meta()) {
            return self.misuse("a disk takes room while its metadata is written".to_owned());
        }
        let v = &self.nodes[node].volumes[usize::from(volume)];
        match super::metadata::room(&v.disk, &v.geometry) {
            // Superblocks that have gone bad in use are not moved: the disk has failed, as for the
            // real shell.
            Err(MetaError::BothDamaged { .. } | MetaError::NoMetadata) if v.bad_superblock => {
                let event = Event::DiskGrown { tag, result: Err(DiskError::Metadata) };
                self.input_after(node, 1_000, Input::Event(event));
            }
            Err(text) => self.misuse(format!("a disk takes room: {text}")),
            Ok(room) => {
                let (stages, geometry) = room.unwrap_or((Vec::new(), v.geometry));
                let kind = DiskOpKind::Grow(stages.into(), Box::new(geometry));
                self.start_op(node, tag, volume, kind);
            }
        }
    }

    fn start_meta(&mut self, node: usize, tag: Tag, volume: VolumeNumber, op: &MetaOp) {
        let geometry = &self.nodes[node].volumes[usize::from(volume)].geometry;
        let stages: VecDeque<_> = stages(geometry, op).into();
        let place = |offset: u64, length: usize| offset..offset + length as u64;
        let new: Vec<_> = stages
            .iter()
            .flat_map(|stage| stage.writes.iter().map(|(o, b)| place(*o, b.len())))
            .collect();
        for other in self.nodes[node].ops.values().filter(|op| op.volume == volume) {
            if let DiskOpKind::Grow(..) = &other.kind {
                return self.misuse("metadata is written while its disk takes room".to_owned());
            }
            if let DiskOpKind::Meta(stages, _) = &other.kind {
                let old = stages.iter().flat_map(|stage| &stage.writes);
                for range in old.map(|(o, b)| place(*o, b.len())) {
                    if new.iter().any(|n| n.start < range.end && range.start < n.end) {
                        return self.misuse(format!("two metadata writes at {range:?} at once"));
                    }
                }
            }
        }
        let superblock = match op {
            MetaOp::Superblock(superblock) => Some(superblock.clone()),
            _ => None,
        };
        if let Some(superblock) = &superblock {
            self.superblock_written(node, volume, superblock);
        }
        self.start_op(node, tag, volume, DiskOpKind::Meta(stages, superblock));
    }

    fn start_op(&mut self, node: usize, tag: Tag, volume: VolumeNumber, kind: DiskOpKind) {
        let name = self.nodes[node].name;
        if !self.nodes[node].volumes[usize::from(volume)].attached {
            return self.misuse(format!("{name} uses disk {volume}, which is closed"));
        }
        let op = DiskOp { volume, kind };
        if let Some((start, count)) = op.written() {
            let overlaps = |other: &DiskOp| {
                other.volume == volume
                    && other.written().is_some_and(|(s, c)| s < start + count && start < s + c)
            };
            if self.nodes[node].ops.values().any(overlaps) {
                return self.misuse(format!(
                    "{name} writes sectors {start}+{count} while a write to them is under way"
                ));
            }
        }
        let latency = self.disk_latency(node, &op);
        if self.nodes[node].ops.insert(tag, op).is_some() {
            return self.misuse(format!("{name} uses {tag:?} twice"));
        }
        let life = self.nodes[node].life;
        self.after(latency, Happening::Disk { node, life, tag });
    }

    fn disk_latency(&mut self, node: usize, op: &DiskOp) -> u64 {
        let flush = matches!(op.kind, DiskOpKind::Flush(_)) || op.is_meta();
        let limit = if flush { self.options.flush_us } else { self.options.disk_us };
        let slow = self.nodes[node].volumes[usize::from(op.volume)].disk.faults.slow_ms;
        let prng = &mut self.chance.disk;
        let latency = (prng.skewed(20, limit) + prng.below(slow * 1000 + 1)) * 1000;
        if slow > 0 {
            self.slow_until = self.slow_until.max(Time(self.now.0 + latency));
        }
        latency
    }

    /// A disk action, or a stage of one, has ended.
    pub(super) fn disk_done(&mut self, node: usize, tag: Tag) {
        let Some(op) = self.nodes[node].ops.remove(&tag) else { return };
        if self.is_stalled(node, &op) {
            self.nodes[node].volumes[usize::from(op.volume)].stalled.push(tag);
            self.nodes[node].ops.insert(tag, op);
            return;
        }
        let error = self.disk_error(node, &op);
        if op.is_meta() {
            return self.meta_done(node, tag, op, error);
        }
        let input = match error {
            Some(error) => {
                self.fail_op(node, &op);
                Input::Event(Event::DiskDone { tag, result: Err(error) })
            }
            None => self.land(node, tag, op),
        };
        self.input(node, input);
    }

    /// A stage of a metadata write has ended.
    fn meta_done(&mut self, node: usize, tag: Tag, mut op: DiskOp, error: Option<DiskError>) {
        let volume = op.volume;
        if let Some(error) = error {
            self.land_partly(node, &op);
            let event = match op.kind {
                DiskOpKind::Grow(..) => Event::DiskGrown { tag, result: Err(error) },
                _ => Event::MetaDone { tag, result: Err(error) },
            };
            return self.input(node, Input::Event(event));
        }
        let (DiskOpKind::Meta(stages, _) | DiskOpKind::Grow(stages, _)) = &mut op.kind else {
            return;
        };
        let disk = &mut self.nodes[node].volumes[usize::from(volume)].disk;
        if let Some(stage) = stages.pop_front() {
            super::metadata::write(disk, &stage);
        }
        if !stages.is_empty() {
            let latency = self.disk_latency(node, &op);
            let life = self.nodes[node].life;
            self.nodes[node].ops.insert(tag, op);
            return self.after(latency, Happening::Disk { node, life, tag });
        }
        let event = match op.kind {
            DiskOpKind::Grow(_, geometry) => {
                let size = geometry.data_size;
                self.nodes[node].volumes[usize::from(volume)].geometry = *geometry;
                Event::DiskGrown { tag, result: Ok(Ok(size)) }
            }
            DiskOpKind::Meta(_, Some(superblock)) => {
                self.superblock_durable(node, volume, *superblock);
                Event::MetaDone { tag, result: Ok(()) }
            }
            _ => Event::MetaDone { tag, result: Ok(()) },
        };
        self.input(node, Input::Event(event));
    }

    /// The action takes effect.
    fn land(&mut self, node: usize, tag: Tag, op: DiskOp) -> Input {
        let disk = &mut self.nodes[node].volumes[usize::from(op.volume)].disk;
        match op.kind {
            DiskOpKind::Read { start, count, find_zeroes } => {
                let contents = disk.read(start, count);
                if !find_zeroes || contents.iter().any(|sector| *sector != 0) {
                    return Input::Read { tag, contents: contents.to_vec() };
                }
            }
            DiskOpKind::Hole { start, count } => {
                let contents = disk.read(start, count);
                let blocks = contents.chunks(8).take_while(|block| block.iter().all(|s| *s == 0));
                let length = blocks.count() as u32 * 4096;
                return Input::Event(Event::HoleFound { tag, length });
            }
            DiskOpKind::Write { start, values, fua, origin } => {
                let before = disk.read(start, values.len() as u64);
                let new = (start, &values[..]);
                let result = self.history.landed(node, op.volume, new, before, origin);
                disk.write(start, &values, fua);
                self.judge(result);
            }
            DiskOpKind::Flush(stamp) => disk.flush_ends(stamp),
            DiskOpKind::Meta(..) | DiskOpKind::Grow(..) => {}
        }
        Input::Event(Event::DiskDone { tag, result: Ok(None) })
    }

    fn fail_op(&mut self, node: usize, op: &DiskOp) {
        if let DiskOpKind::Flush(stamp) = op.kind {
            let disk = &mut self.nodes[node].volumes[usize::from(op.volume)].disk;
            disk.flush_fails(&mut self.chance.disk, stamp);
        }
        self.land_partly(node, op);
    }

    /// A write that was cut short.
    pub(super) fn land_partly(&mut self, node: usize, op: &DiskOp) {
        let (prng, keeps) = (&mut self.chance.disk, self.keeps);
        let disk = &mut self.nodes[node].volumes[usize::from(op.volume)].disk;
        match &op.kind {
            DiskOpKind::Write { start, values, .. } => {
                disk.write_partly(prng, keeps, *start, values)
            }
            DiskOpKind::Meta(stages, _) | DiskOpKind::Grow(stages, _) => {
                for (offset, bytes) in stages.front().into_iter().flat_map(|s| &s.writes) {
                    disk.write_metadata_partly(prng, keeps, *offset, bytes);
                }
            }
            DiskOpKind::Read { .. } | DiskOpKind::Hole { .. } | DiskOpKind::Flush(_) => {}
        }
    }

    fn disk_error(&mut self, node: usize, op: &DiskOp) -> Option<DiskError> {
        let error = self.fault_of(node, op);
        let failed = matches!(error, Some(DiskError::Io(_)));
        let volume = &mut self.nodes[node].volumes[usize::from(op.volume)];
        volume.failed |= failed;
        if error == Some(DiskError::NoSpace) {
            volume.space.first.get_or_insert(self.now);
        }
        error
    }

    fn fault_of(&mut self, node: usize, op: &DiskOp) -> Option<DiskError> {
        if matches!(op.kind, DiskOpKind::Hole { .. }) {
            // The file system knows, and never asks the disk.
            return None;
        }
        let faults = &mut self.nodes[node].volumes[usize::from(op.volume)].disk.faults;
        if faults.dead || faults.flaky > 0 && self.chance.disk.percent(faults.flaky) {
            return Some(DiskError::Io(EIO));
        }
        let (once, error) = match &op.kind {
            DiskOpKind::Read { .. } | DiskOpKind::Hole { .. } => {
                (&mut faults.read_fails, DiskError::Io(EIO))
            }
            DiskOpKind::Write { .. }
                if faults.full >= 100
                    || faults.full > 0 && self.chance.disk.percent(faults.full) =>
            {
                return Some(DiskError::NoSpace);
            }
            DiskOpKind::Write { .. } => (&mut faults.write_fails, DiskError::Io(EIO)),
            DiskOpKind::Flush(_) => (&mut faults.flush_fails, DiskError::Io(EIO)),
            DiskOpKind::Meta(..) | DiskOpKind::Grow(..) => {
                (&mut faults.meta_fails, DiskError::Io(EIO))
            }
        };
        std::mem::take(once).then_some(error)
    }

    fn close_disk(&mut self, node: usize, volume: VolumeNumber, superblock: Option<Superblock>) {
        let name = self.nodes[node].name;
        if self.nodes[node].ops.values().any(|op| op.volume == volume) {
            return self.misuse(format!("{name} closes disk {volume} while it is in use"));
        }
        let v = &mut self.nodes[node].volumes[usize::from(volume)];
        if !v.attached {
            return self.misuse(format!("{name} closes disk {volume} twice"));
        }
        v.attached = false;
        if let Some(superblock) = superblock.filter(|_| !v.disk.faults.dead) {
            close_clean(&mut v.disk, &v.geometry, superblock.clone());
            v.durable = Some(superblock);
        }
    }

    /// What was under way on the disks of a node whose daemon died.
    pub(super) fn drop_ops(&mut self, node: usize) {
        for op in std::mem::take(&mut self.nodes[node].ops).into_values() {
            self.land_partly(node, &op);
        }
    }

    /// The host is without power: caches are gone.
    pub(super) fn lose_caches(&mut self, node: usize) {
        for number in 0..self.options.volumes {
            let disk = &mut self.nodes[node].volumes[usize::from(number)].disk;
            disk.lose_power(&mut self.chance.disk, self.keeps);
            let volume = &self.nodes[node].volumes[usize::from(number)];
            if volume.foreign {
                continue;
            }
            let result = self.history.power_lost(node, number, &volume.disk);
            self.judge(result);
        }
    }

    /// A disk has been repaired or has space again.
    pub(super) fn disk_well(&mut self, node: usize) {
        for volume in &mut self.nodes[node].volumes {
            volume.disk.faults.slow_ms = 0;
            volume.disk.faults.full = 0;
            volume.disk.faults.flaky = 0;
        }
        self.note(&format!("{}'s disks have space and are fast", self.nodes[node].name));
    }

    /// ms from now.
    pub(super) fn in_ms(&self, ms: u64) -> Time {
        self.now.after_ms(ms)
    }
}
