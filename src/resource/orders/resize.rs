//! `resize`: both disks have grown, and the volume follows.
//!
//! Invariants (docs/decisions/a-disk-grows-in-two-steps.md):
//! - A disk takes its room by itself, at the exported size as it is. While it does, metadata writes are
//!   held back; none is under way when it begins, and those that follow say what the disk is then.
//! - The exported size grows by a handshake and by nothing else, and only in an open session of two
//!   UpToDate disks without a bit.

use std::cmp::Ordering;

use crate::meta::{MOVE_SEQUENCES, MetaOp};
use crate::resource::disk::hung_disk::NEVER;
use crate::resource::orders::order::{NO_VOLUME, Step, refuse};
use crate::resource::{
    Action, AdminResult, BLOCK_SIZE, Command, DiskError, DiskState, LogLevel, Pending, Refusal,
    Resource, SocketId, Tag, Time, VolumeNumber,
};
use crate::wire::Packet;

/// Who has asked a disk to take its room.
#[derive(Clone, Copy, Debug)]
enum Asker {
    /// The running order, in this step.
    Order(u64),
    /// The peer.
    Peer(usize, SocketId),
}

/// A disk takes the room that it has gained.
#[derive(Clone, Debug)]
pub(crate) struct Growing {
    asker: Asker,
    /// The shell is at it.
    started: bool,
    /// Metadata writes that wait for its end.
    held: Vec<(Tag, MetaOp)>,
}

/// The order that runs.
#[derive(Clone, Debug)]
pub(crate) struct Resizing {
    volume: VolumeNumber,
    c: usize,
    /// In bytes; before the peer has answered: what was asked for, 0: all.
    size: u64,
    assume_clean: bool,
    /// The next handshake says it.
    agreed: bool,
}

fn no_shrinking(now: u64) -> Refusal {
    let hint = format!(
        "The volume has {now} bytes, and its clients use them. To shrink it: make the file system \
         smaller, take a dump (`tandemadm dump-md`), and copy what is kept to a new resource on \
         smaller disks."
    );
    refuse(170, &hint)
}

impl Resource {
    /// Why the volume cannot grow now, together with this peer's.
    fn may_resize(&self, c: usize, volume: VolumeNumber) -> Result<(), Refusal> {
        let name = &self.config.name;
        match self.may_verify(c, volume) {
            // A resync, a verify.
            Err(refusal) if refusal.code == -8 => return Err(refuse(130, &refusal.hint)),
            other => other?,
        }
        if self.connections[c].peer_devices[&volume].bitmap.count() > 0 {
            let hint = format!(
                "Blocks are out of sync, and a resize would copy them too: first `tandemadm verify \
                 --repair --from NODE {name}/{volume}`, with the node whose data is good."
            );
            return Err(refuse(130, &hint));
        }
        Ok(())
    }

    /// The order.
    pub(crate) fn resize(
        &mut self,
        id: u64,
        volume: VolumeNumber,
        size: Option<u64>,
        assume_clean: bool,
    ) {
        let Some(device) = self.devices.get(&volume) else {
            return self.reply(id, Err(refuse(127, NO_VOLUME)));
        };
        let now = device.size;
        let Some(c) = self.peers().next() else {
            return self.reply(id, Err(refuse(162, "There is no peer in the configuration.")));
        };
        if let Err(refusal) = self.may_resize(c, volume) {
            return self.reply(id, Err(refusal));
        }
        if self.devices[&volume].backing.as_ref().is_some_and(|b| b.growing.is_some()) {
            let hint = "The disk takes its room for an order of the peer.";
            return self.reply(id, Err(refuse(-18, hint)));
        }
        let size = size.map(|size| size / BLOCK_SIZE * BLOCK_SIZE);
        if size.is_some_and(|size| size < now) {
            return self.reply(id, Err(no_shrinking(now)));
        }
        let command = Command::Resize { volume, size, assume_clean };
        self.run(id, command, Step::Grow);
        let size = size.unwrap_or(0);
        self.resizing = Some(Resizing { volume, c, size, assume_clean, agreed: false });
        self.grow_disk(volume, Asker::Order(self.order_step));
    }

    /// How much of the disk's room a resize may take from now on; the size of now stays.
    pub(crate) fn set_size_option(&mut self, id: u64, volume: VolumeNumber, size: Option<u64>) {
        let Some(device) = self.devices.get(&volume) else {
            return self.reply(id, Err(refuse(127, NO_VOLUME)));
        };
        let now = device.size;
        let size = size.map(|size| size / BLOCK_SIZE * BLOCK_SIZE);
        if size.is_some_and(|size| size < now) {
            return self.reply(id, Err(no_shrinking(now)));
        }
        if let Some(backing) = self.device(volume).backing.as_mut() {
            let room = backing.superblock.data_size;
            backing.data_size = size.map_or(room, |size| size.min(room));
        }
        self.reply(id, Ok(String::new()));
    }

    // ---- the own disk ----

    /// Asks the disk for the room that it has gained.
    fn grow_disk(&mut self, volume: VolumeNumber, asker: Asker) {
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.growing = Some(Growing { asker, started: false, held: Vec::new() });
        }
        self.pump_growing(volume);
    }

    /// A metadata write, or one that waits.
    pub(crate) fn write_meta(&mut self, tag: Tag, volume: VolumeNumber, op: MetaOp) {
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        if let Some(growing) = backing.growing.as_mut() {
            growing.held.push((tag, op));
            // It is not the disk that keeps it.
            return self.begins(tag, NEVER);
        }
        backing.meta_writes += 1;
        self.emit(Action::Meta { tag, volume, op });
    }

    /// It begins when no metadata write is under way.
    pub(crate) fn pump_growing(&mut self, volume: VolumeNumber) {
        let failed = self.device(volume).disk == DiskState::Failed;
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        let idle = backing.meta_writes == 0;
        if failed && idle && backing.growing.as_ref().is_some_and(|growing| !growing.started) {
            let growing = backing.growing.take();
            return self.drop_held(volume, growing);
        }
        let Some(growing) = backing.growing.as_mut().filter(|growing| idle && !growing.started)
        else {
            return;
        };
        growing.started = true;
        // The disk counts on by itself.
        backing.superblock.sequence += MOVE_SEQUENCES;
        let tag = self.disk_tag(volume, Pending::Growing);
        self.emit(Action::GrowDisk { tag, volume });
    }

    /// `Event::DiskGrown`.
    pub(crate) fn disk_grown(&mut self, tag: Tag, result: Result<Result<u64, Refusal>, DiskError>) {
        let Some((volume, _, _)) = self.tags.remove(tag.0) else { return };
        self.disk_has_answered(volume);
        let failed = self.device(volume).disk == DiskState::Failed;
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        backing.outstanding -= 1;
        let Some(growing) = backing.growing.take() else { return };
        if failed || result.is_err() {
            let asker = growing.asker;
            self.drop_held(volume, Some(growing));
            if let Err(error) = result {
                self.disk_failed(volume, error, "metadata move");
            }
            return self.grown_for(volume, asker, Err(refuse(118, "The disk has failed.")));
        }
        let answer = result.unwrap_or_else(|_| unreachable!("seen above"));
        let backing = self.device(volume).backing.as_mut().expect("seen above");
        if let Ok(size) = answer {
            // `size` in the configuration may have it smaller.
            if backing.data_size == backing.superblock.data_size {
                backing.data_size = size;
            }
            backing.superblock.data_size = size;
            backing.activity_log.grow(size);
        }
        let (size, sequence) = (backing.superblock.data_size, backing.superblock.sequence);
        for (tag, mut op) in growing.held {
            if let MetaOp::Superblock(superblock) = &mut op {
                superblock.data_size = size;
                superblock.sequence = sequence;
            }
            self.begins(tag, self.now);
            self.write_meta(tag, volume, op);
        }
        if let Err(refusal) = &answer {
            let text = format!("{}the disk cannot grow: {refusal}", self.of_volume(volume));
            self.log(LogLevel::Warning, text);
        }
        self.grown_for(volume, growing.asker, answer);
    }

    /// A metadata write is under way since then, for who looks at disks that hang.
    fn begins(&mut self, tag: Tag, at: Time) {
        if let Some((_, since, _)) = self.tags.get_mut(tag.0) {
            *since = at;
        }
    }

    /// The disk has failed: what waited is never written.
    fn drop_held(&mut self, volume: VolumeNumber, growing: Option<Growing>) {
        for (tag, _) in growing.into_iter().flat_map(|growing| growing.held) {
            self.tags.remove(tag.0);
            if let Some(backing) = self.device(volume).backing.as_mut() {
                backing.outstanding -= 1;
            }
        }
    }

    fn grown_for(&mut self, volume: VolumeNumber, asker: Asker, answer: Result<u64, Refusal>) {
        match asker {
            Asker::Order(step) if step == self.order_step => self.resize_own_grown(answer),
            Asker::Peer(c, socket) if self.is_current(c, socket) => {
                let (size, code) = match &answer {
                    Ok(_) => (self.offers(volume), 0),
                    Err(refusal) => (0, refusal.code),
                };
                self.send(c, Packet::ResizeAnswer { volume, size, code }, None);
            }
            _ => {}
        }
    }

    /// Bytes that the own disk has room for.
    fn offers(&self, volume: VolumeNumber) -> u64 {
        let backing = self.devices[&volume].backing.as_ref();
        backing.map_or(0, |backing| backing.data_size / BLOCK_SIZE * BLOCK_SIZE)
    }

    // ---- the order, step by step ----

    fn resize_own_grown(&mut self, answer: Result<u64, Refusal>) {
        let Some(resizing) = self.resizing.as_ref() else { return };
        let (c, volume, wanted) = (resizing.c, resizing.volume, resizing.size);
        let size = match answer {
            Ok(size) => size,
            Err(refusal) => return self.resize_ends(Err(refusal)),
        };
        // The order says how much; what `size` in the configuration said at the attach is past.
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.data_size = size;
        }
        if wanted > size {
            let hint = format!(
                "The disk here has room for {size} bytes of data: make it larger, then try again."
            );
            return self.resize_ends(Err(refuse(111, &hint)));
        }
        let now = self.now;
        if let Some(running) = self.running.as_mut() {
            // The peer has its own patience, however long the own disk has taken.
            running.since = now;
        }
        self.step(Step::PeerGrows);
        self.send(c, Packet::Resize { volume }, None);
    }

    /// The peer's order. `false`: it must not send this now.
    pub(crate) fn peer_resizes(
        &mut self,
        c: usize,
        socket: SocketId,
        volume: VolumeNumber,
    ) -> bool {
        self.resize_yields(c, volume);
        let busy = self.running.is_some()
            || self.devices[&volume].backing.as_ref().is_some_and(|b| b.growing.is_some());
        let refusal = match self.may_resize(c, volume) {
            _ if busy => Some(-18),
            Err(refusal) => Some(refusal.code),
            Ok(()) => None,
        };
        if let Some(code) = refusal {
            self.send(c, Packet::ResizeAnswer { volume, size: 0, code }, None);
            return true;
        }
        self.grow_disk(volume, Asker::Peer(c, socket));
        true
    }

    /// Of two orders at once the lower node id has its way: the own one, which waits for the peer's disk, ends.
    fn resize_yields(&mut self, c: usize, volume: VolumeNumber) {
        let waits = self.running.as_ref().is_some_and(|r| r.step == Step::PeerGrows)
            && self.resizing.as_ref().is_some_and(|r| r.volume == volume && r.c == c);
        let connection = &self.connections[c];
        if waits && connection.peer < self.config.node_id {
            let hint = format!(
                "{} was told to resize it at the same moment, and does: `tandemadm status {}` has \
                 the size.",
                connection.name, self.config.name
            );
            self.resize_ends(Err(refuse(-10, &hint)));
        }
    }

    /// The peer's disk has its room.
    pub(crate) fn resize_answered(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        offered: u64,
        code: i32,
    ) -> bool {
        let asked = self.running.as_ref().is_some_and(|r| r.step == Step::PeerGrows);
        let wanted = match self.resizing.as_ref().filter(|r| r.volume == volume && r.c == c) {
            Some(resizing) if asked => resizing.size,
            // An answer that nobody waits for any more.
            _ => return true,
        };
        let (own, now) = (self.offers(volume), self.devices[&volume].size);
        let peer = self.connections[c].name.clone();
        if code != 0 {
            let hint =
                format!("{peer} answers ({code}) {}; its log says more.", refuse(code, "").text);
            self.resize_ends(Err(refuse(-10, &hint)));
            return true;
        }
        if wanted > offered {
            let hint = format!(
                "The disk of {peer} has room for {offered} bytes of data: make it larger, or correct \
                 `size` in its configuration and order the resize there."
            );
            self.resize_ends(Err(refuse(111, &hint)));
            return true;
        }
        let target = own.min(offered);
        let target = if wanted == 0 { target } else { target.min(wanted) };
        if target <= now {
            let node = &self.config.node_name;
            let text = match offered.cmp(&own) {
                Ordering::Less => format!("the disk of {peer} has"),
                Ordering::Greater => format!("the disk of {node} has"),
                Ordering::Equal => "both disks have".to_owned(),
            };
            let text = format!(
                "the size stays {now} bytes: {text} no more room ({own} bytes here, {offered} on \
                 {peer})"
            );
            self.resize_ends(Ok(text));
            return true;
        }
        let Some(resizing) = self.resizing.as_mut() else { return true };
        resizing.size = target;
        match resizing.assume_clean {
            true => self.compare_growth(c, volume, now, target),
            false => self.resize_agrees(),
        }
        true
    }

    /// Whether the peer may compare a range that both disks are to gain.
    pub(crate) fn may_compare_growth(
        &self,
        c: usize,
        volume: VolumeNumber,
        offset: u64,
        end: u64,
    ) -> bool {
        let unused = offset >= self.devices[&volume].size && end <= self.offers(volume);
        unused && self.may_resize(c, volume).is_ok()
    }

    /// Both have the room: a new handshake.
    pub(crate) fn resize_agrees(&mut self) {
        let Some(resizing) = self.resizing.as_mut() else { return };
        resizing.agreed = true;
        self.step(Step::Resize);
        self.renegotiate();
    }

    /// What the handshake says: the size, and whether the new blocks are equal.
    pub(crate) fn resize_asks(&self, c: usize, volume: VolumeNumber) -> (u64, bool) {
        let asks = self.resizing.as_ref().filter(|r| r.agreed && r.c == c && r.volume == volume);
        asks.map_or((0, false), |resizing| (resizing.size, resizing.assume_clean))
    }

    /// The session is open again.
    pub(crate) fn resize_opened(&mut self, c: usize) {
        let Some(resizing) = self.resizing.as_ref().filter(|r| r.agreed && r.c == c) else {
            return;
        };
        let (volume, wanted) = (resizing.volume, resizing.size);
        let size = self.devices[&volume].size;
        if size < wanted {
            let hint = format!(
                "The volume has {size} bytes now; the peer's disk, or its role, has changed meanwhile."
            );
            return self.resize_ends(Err(refuse(-10, &hint)));
        }
        let text = format!("{}resized to {size} bytes", self.of_volume(volume));
        self.log(LogLevel::Info, text);
        self.resize_ends(Ok(format!(
            "{size} bytes; clients that are connected see the old size until they connect again"
        )));
    }

    pub(crate) fn resize_ends(&mut self, result: AdminResult) {
        if self.resizing.take().is_some() {
            self.finish(result);
        }
    }

    /// The session is over.
    pub(crate) fn resize_lost(&mut self, c: usize) {
        if self.resizing.as_ref().is_some_and(|resizing| resizing.c == c) {
            let hint = "The peer was lost. The size is what both agree on when they meet again: order \
                        the resize anew then, if it is the old one.";
            self.resize_ends(Err(refuse(-15, hint)));
        }
    }

    /// The own disk is not used any more.
    pub(crate) fn resize_without_disk(&mut self, volume: VolumeNumber) {
        if self.resizing.as_ref().is_some_and(|resizing| resizing.volume == volume) {
            self.sampling = None;
            self.resize_ends(Err(refuse(118, "The disk has failed.")));
        }
    }
}
