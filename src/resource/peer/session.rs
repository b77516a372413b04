//! Carrying out a verdict: bitmaps, adopting, opening.
//!
//! Invariants (model.md R5, R7, R8):
//! - No-sync: each node durably clears SURVIVED, its crash flag and its bitmap UUID, then says Opened.
//!   Bits are those that a verify has set, if there are any: before that, both have those of both.
//! - Target: the union of the bits is durable, then one durable step makes it Inconsistent with the
//!   source's identifiers, then it says Adopted.
//! - Source: on Adopted it flushes its own disk, puts its bitmap UUID into the history durably, and
//!   says Opened; no resync data before that.
//! - A write is replicated only after both sides of its volume are open.

use crate::meta::{BitmapState, COUNTER_BELIEVED, DeviceFlags};
use crate::resource::disk::device::Backing;
use crate::resource::peer::connection::{Opening, Save, Side, Stage};
use crate::resource::peer::generation::is_just_created;
use crate::resource::{
    BLOCK_SIZE, ConnectionState, DiskState, Reason, ReplicationState, Resource, Role, SocketId,
    Then, VolumeNumber,
};
use crate::wire::{BITMAP_WORDS_MAX, Packet};

impl Resource {
    fn socket(&self, c: usize) -> SocketId {
        self.connections[c].active.expect("an opening session has a socket")
    }

    /// Requests drain, for the own handshake.
    pub(crate) fn quiesce(&mut self, c: usize) {
        self.connections[c].stage = Stage::Quiescing;
        self.connections[c].stage_since = self.now;
        self.changed();
    }

    /// The first step of a volume whose verdict is known.
    pub(crate) fn begin_opening(&mut self, c: usize, volume: VolumeNumber) {
        self.agree_size(c, volume);
        self.meet_number(c, volume);
        let opening = self.peer_device(c, volume).opening;
        match opening.side {
            Side::NoSync if self.marks_stand(c, volume) => self.exchange_bitmaps(c, volume),
            Side::NoSync => self.open(c, volume),
            Side::Source | Side::Target => {
                let state = if opening.side == Side::Source {
                    ReplicationState::WFBitMapS
                } else {
                    ReplicationState::WFBitMapT
                };
                self.set_replication(c, volume, state);
                if !self.asks_before_resync(c, volume) {
                    self.begin_resync(c, volume);
                }
            }
        }
    }

    /// The bitmaps are exchanged: no handler is to be asked, or it has allowed the resync.
    pub(crate) fn begin_resync(&mut self, c: usize, volume: VolumeNumber) {
        if self.peer_device(c, volume).opening.side == Side::Target {
            return self.exchange_bitmaps(c, volume);
        }
        // Durable before the target has the bits, and can adopt.
        let socket = self.socket(c);
        self.raise_number(c, volume);
        self.take_back(volume);
        self.save_superblock(volume, Then::SourceRaised { c, socket });
    }

    /// An own disk that was invalidated is the source after all. The caller saves the superblock,
    /// durably before the target can adopt: at no time both are without a good disk.
    fn take_back(&mut self, volume: VolumeNumber) {
        let invalidated = |backing: &&mut Backing| {
            backing.has(DeviceFlags::INVALIDATED) && !backing.has(DeviceFlags::CONSISTENT)
        };
        let backing = self.device(volume).backing.as_mut().filter(invalidated);
        let Some(backing) = backing else { return };
        backing.flags(DeviceFlags::CONSISTENT, DeviceFlags::INVALIDATED);
        let state = backing.resting_state();
        self.set_disk(volume, state);
    }

    /// Nothing is synced, and a verify has set bits on either side.
    fn marks_stand(&self, c: usize, volume: VolumeNumber) -> bool {
        let (device, peer) = (&self.devices[&volume], &self.connections[c].peer_devices[&volume]);
        let (Some(own), Some(info)) = (&peer.own_info, &peer.peer_info) else { return false };
        let both = device.writable() && info.disk >= DiskState::Inconsistent;
        both && !is_just_created(own.current_uuid) && (own.bits != 0 || info.bits != 0)
    }

    pub(crate) fn exchange_bitmaps(&mut self, c: usize, volume: VolumeNumber) {
        let Opening { full, bits_received, .. } = self.peer_device(c, volume).opening;
        self.send_bitmap(c, volume, full);
        if bits_received {
            self.bits_united(c, volume);
        }
    }

    /// The exported size: once used it stays, before it is the smaller of the two (DESIGN 5).
    fn agree_size(&mut self, c: usize, volume: VolumeNumber) {
        let info = self.peer_device(c, volume).peer_info.clone().expect("a verdict was made");
        let own = self.peer_device(c, volume).own_info.clone().expect("a verdict was made");
        // A refused size has ended the handshake before.
        let size = crate::resource::peer::generation::agree_size(&own, &info)
            .unwrap_or(own.effective_size);
        let growth =
            crate::resource::peer::generation::growth(&own, &info).filter(|growth| !growth.clean);
        let target = self.peer_device(c, volume).opening.side == Side::Target;
        if target && growth.is_some() {
            // The size follows when the bits are durable (`adopt`): where one node has it and the
            // other has not, the next handshake sees it.
            self.cover(volume, size / BLOCK_SIZE);
        } else {
            self.set_size(volume, size);
        }
        let Some(growth) = growth else { return };
        let (first, end) = (growth.from / BLOCK_SIZE, growth.to / BLOCK_SIZE);
        self.grow_bits(c, volume, first, end - first);
    }

    /// Blocks that a disk has not had in use before may differ from the peer's.
    fn grow_bits(&mut self, c: usize, volume: VolumeNumber, first: u64, count: u64) {
        if self.devices[&volume].gone() {
            return;
        }
        let peer = self.peer_device(c, volume);
        peer.bitmap.set(first, count);
        let disk = peer.peer_info.as_ref().map(|info| info.disk);
        if disk == Some(DiskState::Diskless) {
            // Nothing is exchanged that would make the bits durable: with the size, in one step.
            self.slot_whole(c, volume, BitmapState::AllSet);
        }
        // A node that is none of the configuration any more is synced in full when it comes back.
        let known: Vec<_> = self.connections.iter().map(|c| c.peer).collect();
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.set_all_toward(|node| !known.contains(&node));
        }
    }

    /// The bitmaps cover so many blocks.
    fn cover(&mut self, volume: VolumeNumber, blocks: u64) {
        if self.devices[&volume].backing.is_none() {
            return;
        }
        for c in self.peers() {
            let peer = self.peer_device(c, volume);
            if peer.bitmap.blocks() != blocks {
                peer.bitmap.resize(blocks);
            }
        }
    }

    /// Sets the exported size, and the bitmaps with it.
    pub(crate) fn set_size(&mut self, volume: VolumeNumber, size: u64) {
        let device = self.device(volume);
        if device.size != size {
            device.size = size;
            self.changed();
        }
        let device = self.device(volume);
        let blocks = device.blocks();
        if let Some(backing) = device.backing.as_mut() {
            backing.superblock.effective_size = size;
            if !backing.is_just_created() {
                backing.flags(DeviceFlags::SIZE_USED, 0);
            }
        }
        self.cover(volume, blocks);
    }

    /// Remembers the peer's rollback number and identity as the handshake showed them.
    fn meet_number(&mut self, c: usize, volume: VolumeNumber) {
        let peer = self.peer_device(c, volume);
        let info = peer.peer_info.as_ref().expect("a verdict was made");
        // What no disk reaches would not be read again.
        let (number, uuid) = (info.number.map(|n| n.min(COUNTER_BELIEVED)), info.device_uuid);
        // It is never lowered: a rolled-back or replaced disk raises its own (`raise_number`).
        if let Some(number) = number.filter(|number| peer.seen_number.is_none_or(|s| s < *number)) {
            peer.seen_number = Some(number);
        }
        let (slot, seen) = (peer.slot, peer.seen_number.unwrap_or(0));
        let node_id = self.connections[c].peer;
        if let (Some(slot), Some(backing)) = (slot, self.device(volume).backing.as_mut()) {
            let slot = &mut backing.superblock.peers[slot as usize];
            // It may have been forgotten.
            slot.node_id = Some(node_id);
            // A disk in the place of another one is known once it has raised its number and, where
            // it is copied in full, the target has that on its disk (`meet_disk`, `adopt`). Until
            // then what was seen was seen of the other one, and so were the bits: a session that is
            // cut off before that begins in full again.
            if uuid != 0 && slot.device_uuid == 0 {
                slot.device_uuid = uuid;
            }
            slot.seen_number = slot.seen_number.max(seen);
        }
    }

    /// The peer's side is durably open or adopted: its disk's number is above all that was seen here.
    fn meet_disk(&mut self, c: usize, volume: VolumeNumber) {
        let peer = self.peer_device(c, volume);
        let uuid = peer.peer_info.as_ref().map_or(0, |info| info.device_uuid);
        let slot = peer.slot;
        if let (Some(slot), Some(backing)) = (slot, self.device(volume).backing.as_mut())
            && uuid != 0
        {
            let slot = &mut backing.superblock.peers[slot as usize];
            if slot.device_uuid != uuid {
                slot.device_uuid = uuid;
                self.save_superblock(volume, Then::Log);
            }
        }
    }

    /// The superblock that was just written holds the peer's number as the handshake showed it.
    fn seen_is_durable(&mut self, c: usize, volume: VolumeNumber) {
        let Some(slot) = self.peer_device(c, volume).slot else { return };
        let Some(backing) = &self.devices[&volume].backing else { return };
        let number = backing.superblock.peers[slot as usize].seen_number;
        let peer = self.peer_device(c, volume);
        peer.seen_durable = peer.seen_durable.max(number);
    }

    /// R5: the session of a volume opens without a resync.
    pub(crate) fn open(&mut self, c: usize, volume: VolumeNumber) {
        let socket = self.socket(c);
        let role = self.role;
        let primary = role == Role::Primary;
        let slot = self.peer_device(c, volume).slot;
        let info = self.peer_device(c, volume).peer_info.clone().expect("a verdict was made");
        let device = self.device(volume);
        let both = device.writable() && info.disk >= DiskState::Inconsistent;
        let repair_is_void = both && device.disk == DiskState::Inconsistent;
        let blank = device.backing.as_ref().is_some_and(Backing::is_just_created);
        if let Some(backing) = device.backing.as_mut().filter(|_| both && !blank) {
            backing.flags(0, DeviceFlags::SURVIVED | DeviceFlags::FORCED_BLANK);
            backing.mark_role(role);
            backing.crashed = false;
            if !primary {
                backing.flags(0, DeviceFlags::PRIMARY_IND);
            }
            let slot = &mut backing.superblock.peers[slot.expect("a slot") as usize];
            let old = std::mem::take(&mut slot.bitmap_uuid);
            backing.remember(old);
            backing.flags(DeviceFlags::WAS_UP_TO_DATE, 0);
            if repair_is_void {
                // Both were to be the target: nothing is copied, and each has what it had.
                backing.flags(DeviceFlags::CONSISTENT, 0);
                self.set_disk(volume, DiskState::Consistent);
            }
        }
        // What a verify has marked stays: nothing was copied.
        let marks = self.peer_device(c, volume).bitmap.count() > 0;
        if both && !blank && !marks {
            self.slot_whole(c, volume, BitmapState::AllClear);
        }
        self.raise_number(c, volume);
        self.save_superblock(volume, Then::OpenSaved { c, socket });
    }

    /// The rollback number grows with every session, above all that the peer has seen: also of this
    /// disk's future or of the disk before it. So the peer never has to forget a number, and no crash
    /// falls between the two (model.md V13).
    fn raise_number(&mut self, c: usize, volume: VolumeNumber) {
        let info = self.peer_device(c, volume).peer_info.as_ref();
        // A peer without a disk has nothing to compare with, and notes nothing.
        let Some(seen) = info.and_then(|info| info.seen_number) else { return };
        // What no disk reaches is not believed: this one's own number would be one that nobody reads.
        let seen = seen.min(COUNTER_BELIEVED / 2);
        if let Some(backing) = self.device(volume).backing.as_mut() {
            let number = &mut backing.activity_log.number;
            *number = (*number).max(seen) + 1;
        }
    }

    /// The own side is durably open.
    pub(crate) fn opened(&mut self, c: usize, volume: VolumeNumber) {
        let peer = self.peer_device(c, volume);
        if peer.opening.own_open {
            return;
        }
        peer.opening.own_open = true;
        let peer_disk = peer.peer_disk;
        self.seen_is_durable(c, volume);
        if self.device(volume).disk == DiskState::Consistent && peer_disk >= DiskState::Inconsistent
        {
            self.set_disk(volume, DiskState::UpToDate);
        }
        self.send_number(c, volume);
        self.send(c, Packet::Opened { volume }, None);
        self.both_open(c, volume);
    }

    fn both_open(&mut self, c: usize, volume: VolumeNumber) {
        let Opening { side, own_open, peer_open, .. } = self.peer_device(c, volume).opening;
        if !own_open || !peer_open {
            return;
        }
        match side {
            Side::NoSync => {
                self.set_replication(c, volume, ReplicationState::Established);
                // As `opened` does there. A node without a disk has not said of a Consistent one that it is the newest.
                let own = self.device(volume).disk;
                let peer = self.peer_device(c, volume);
                if peer.peer_disk == DiskState::Consistent && own >= DiskState::Inconsistent {
                    self.set_peer_disk(c, volume, DiskState::UpToDate);
                }
            }
            Side::Source => self.start_source(c, volume),
            Side::Target => self.start_target(c, volume),
        }
        self.maybe_connected(c);
    }

    /// Connected is shown when every volume's replication state is known.
    fn maybe_connected(&mut self, c: usize) {
        let connection = &self.connections[c];
        let all = connection
            .peer_devices
            .values()
            .all(|peer| peer.opening.own_open && peer.opening.peer_open);
        if connection.stage != Stage::Opening || !all {
            return;
        }
        self.others_may_go_on();
        let connection = &mut self.connections[c];
        connection.stage = Stage::Open;
        connection.attempts = 0;
        connection.backoff_ms = 0;
        connection.detail.clear();
        connection.discard_my_data = false;
        connection.peer_devices.values_mut().for_each(|peer| peer.split_pair = None);
        // Not a new handshake of a session that stands.
        connection.sessions += u64::from(connection.state != ConnectionState::Connected);
        self.set_connection(c, ConnectionState::Connected, Reason::None);
        self.changed();
        for volume in self.volumes() {
            self.send_state(volume);
            if self.role == Role::Secondary {
                self.empty_log(volume);
            }
        }
        self.fencing_connected(c);
        self.order_connected(c);
        self.resize_opened(c);
    }

    /// Drops what the activity log of a Secondary still holds, where it is clean.
    pub(crate) fn empty_log(&mut self, volume: VolumeNumber) {
        if !self.devices[&volume].writable() {
            return;
        }
        let clean = self.clean_extents(volume, true);
        let backing = self.device(volume).backing.as_mut().expect("a writable disk");
        let blocks = backing.activity_log.evict_all(|extent, stamp| clean.is(extent, stamp));
        if !blocks.is_empty() {
            self.write_log(volume, blocks);
        }
    }

    /// Bitmaps go both ways: the bits in use are the union (model.md R6). Before a full sync both set
    /// every bit by themselves.
    fn send_bitmap(&mut self, c: usize, volume: VolumeNumber, full: bool) {
        let peer = self.peer_device(c, volume);
        let bits = peer.bitmap.count();
        let mut packets = Vec::new();
        let mut block = if full { peer.bitmap.blocks() } else { 0 };
        while let Some(next) = peer.bitmap.next_set(block) {
            let first_block = next / 64 * 64;
            let left = peer.bitmap.blocks() - first_block;
            let words = usize::try_from(left.div_ceil(64)).unwrap_or(usize::MAX);
            let mut words = peer.bitmap.words(first_block, words.min(BITMAP_WORDS_MAX));
            let end = first_block + 64 * words.len() as u64;
            while words.last() == Some(&0) {
                words.pop();
            }
            packets.push(Packet::Bitmap { volume, first_block, words });
            block = end;
            if block >= peer.bitmap.blocks() {
                break;
            }
        }
        self.connections[c].bitmap_packets += packets.len();
        for packet in packets {
            self.send(c, packet, None);
        }
        self.send(c, Packet::BitmapEnd { volume, bits }, None);
    }

    /// Packets of an opening session.
    pub(crate) fn opening_packet(&mut self, c: usize, packet: Packet) -> bool {
        if self.connections[c].stage != Stage::Opening {
            return false;
        }
        match packet {
            Packet::Bitmap { volume, first_block, words } => {
                let peer = self.peer_device(c, volume);
                let end = first_block.saturating_add(64 * words.len() as u64);
                // In order, each block once.
                if first_block % 64 != 0
                    || end > peer.bitmap.blocks().next_multiple_of(64)
                    || peer.opening.bits_received
                    || first_block < peer.opening.bits_to
                {
                    return false;
                }
                peer.opening.bits_to = end;
                peer.opening.bits +=
                    words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
                peer.bitmap.unite_words(first_block, &words);
                // A sign of life, and of progress: there may be megabytes of it on a slow link.
                self.connections[c].stage_since = self.now;
                self.send(c, Packet::PingAck, None);
                true
            }
            Packet::BitmapEnd { volume, bits } => {
                let opening = &mut self.peer_device(c, volume).opening;
                let came = opening.full || opening.bits == bits;
                if std::mem::replace(&mut opening.bits_received, true) || !came {
                    return false;
                }
                if self.connections[c].stage == Stage::Opening {
                    self.bits_united(c, volume);
                }
                true
            }
            Packet::Adopted { volume } => {
                let side = self.peer_device(c, volume).opening.side;
                // Once only, and after the bits.
                let opening = &mut self.peer_device(c, volume).opening;
                if side != Side::Source
                    || !opening.bits_received
                    || std::mem::replace(&mut opening.peer_open, true)
                {
                    return false;
                }
                let socket = self.socket(c);
                self.meet_disk(c, volume);
                self.flush_disk(volume, Then::SourceFlushed { c, socket });
                true
            }
            Packet::Opened { volume } => {
                let opening = &mut self.peer_device(c, volume).opening;
                if std::mem::replace(&mut opening.peer_open, true) {
                    return false;
                }
                self.meet_disk(c, volume);
                if self.connections[c].stage == Stage::Opening {
                    self.both_open(c, volume);
                }
                true
            }
            _ => false,
        }
    }

    /// The peer has taken a packet of the own bitmap: the session opens as fast as the link lets it.
    pub(crate) fn bitmap_goes_on(&mut self, c: usize) {
        let connection = &mut self.connections[c];
        if connection.stage == Stage::Opening && connection.bitmap_packets > 0 {
            connection.bitmap_packets -= 1;
            connection.stage_since = self.now;
        }
    }

    /// Both bitmaps are known here.
    fn bits_united(&mut self, c: usize, volume: VolumeNumber) {
        let socket = self.socket(c);
        let Opening { side, full, asks, .. } = self.peer_device(c, volume).opening;
        if asks {
            return;
        }
        match side {
            Side::NoSync if !self.marks_stand(c, volume) => {}
            Side::NoSync => {
                // Also where they were found only there.
                if let Some(backing) = self.device(volume).backing.as_mut() {
                    backing.flags(DeviceFlags::VERIFY_MARKS, 0);
                }
                self.save_superblock(volume, Then::Log);
                self.save_bitmap(c, volume, Save::Unsaved, Then::MarksSaved { c, socket });
            }
            Side::Source => {
                if full {
                    self.slot_whole(c, volume, BitmapState::AllSet);
                    // The bits count as saved: no extent of the log gets cold before this is durable.
                    self.save_superblock(volume, Then::Log);
                }
                self.set_replication(c, volume, ReplicationState::WFSyncUUID);
            }
            Side::Target if full => self.adopt(c, volume),
            Side::Target => {
                self.save_bitmap(c, volume, Save::Unsaved, Then::AdoptBitsSaved { c, socket });
            }
        }
    }

    /// R7: one durable step.
    pub(crate) fn adopt(&mut self, c: usize, volume: VolumeNumber) {
        let socket = self.socket(c);
        let full = self.peer_device(c, volume).opening.full;
        let info = self.peer_device(c, volume).peer_info.clone().expect("a verdict was made");
        let Some(slot) = self.peer_device(c, volume).slot else { return };
        let own = self.peer_device(c, volume).own_info.clone();
        if full {
            self.slot_whole(c, volume, BitmapState::AllSet);
        }
        self.set_disk(volume, DiskState::Inconsistent);
        let role = self.role;
        let primary = role == Role::Primary;
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        let old = backing.superblock.current_uuid;
        if info.device_uuid != 0 {
            backing.superblock.peers[slot as usize].device_uuid = info.device_uuid;
        }
        let bitmap = std::mem::take(&mut backing.superblock.peers[slot as usize].bitmap_uuid);
        for uuid in info.history.iter().rev() {
            backing.remember(*uuid);
        }
        for uuid in [info.bitmap_uuid, bitmap, old] {
            if uuid & !1 != info.current_uuid & !1 {
                backing.remember(uuid);
            }
        }
        backing.superblock.current_uuid = info.current_uuid;
        backing.mark_role(role);
        backing.flags(
            0,
            DeviceFlags::CONSISTENT
                | DeviceFlags::SURVIVED
                | DeviceFlags::OUTDATED
                | DeviceFlags::WAS_UP_TO_DATE
                | DeviceFlags::INVALIDATED
                | DeviceFlags::FORCED_BLANK,
        );
        if !primary {
            backing.flags(0, DeviceFlags::PRIMARY_IND);
        }
        backing.crashed = false;
        if let Some(own) = own {
            let size = crate::resource::peer::generation::agree_size(&own, &info)
                .unwrap_or(own.effective_size);
            self.set_size(volume, size);
        }
        self.marks_are_copied(c, volume);
        self.raise_number(c, volume);
        self.device(volume).exposed_uuid = info.current_uuid;
        self.save_superblock(volume, Then::AdoptSaved { c, socket });
    }

    pub(crate) fn adopted(&mut self, c: usize, volume: VolumeNumber) {
        self.set_replication(c, volume, ReplicationState::WFSyncUUID);
        self.seen_is_durable(c, volume);
        self.peer_device(c, volume).opening.own_open = true;
        self.send_number(c, volume);
        self.send(c, Packet::Adopted { volume }, None);
        self.both_open(c, volume);
    }

    /// R8: the source's bitmap UUID goes into the history before any data is sent.
    pub(crate) fn source_flushed(&mut self, c: usize, volume: VolumeNumber) {
        let socket = self.socket(c);
        let Some(slot) = self.peer_device(c, volume).slot else { return };
        let role = self.role;
        let primary = role == Role::Primary;
        let seen = self.peer_device(c, volume).seen_number.unwrap_or(0);
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        let entry = &mut backing.superblock.peers[slot as usize];
        entry.seen_number = seen;
        let old = std::mem::take(&mut entry.bitmap_uuid);
        backing.remember(old);
        backing.mark_role(role);
        // Its target may be a Primary, and goes on where this process alone ends and comes back.
        backing.flags(
            DeviceFlags::CONSISTENT
                | DeviceFlags::WAS_UP_TO_DATE
                | DeviceFlags::STANDS_IN
                | DeviceFlags::IN_DOUBT,
            DeviceFlags::SURVIVED | DeviceFlags::OUTDATED | DeviceFlags::FORCED_BLANK,
        );
        if !primary {
            backing.flags(0, DeviceFlags::PRIMARY_IND);
        }
        backing.crashed = false;
        self.marks_are_copied(c, volume);
        self.save_seen(c, volume);
        self.save_superblock(volume, Then::SourceSaved { c, socket });
    }

    pub(crate) fn source_ready(&mut self, c: usize, volume: VolumeNumber) {
        self.set_disk(volume, DiskState::UpToDate);
        self.seen_is_durable(c, volume);
        let peer = self.peer_device(c, volume);
        peer.opening.own_open = true;
        peer.opening.peer_open = true;
        self.set_peer_disk(c, volume, DiskState::Inconsistent);
        self.send_number(c, volume);
        if self.peer_device(c, volume).pause.own() {
            // Before the target asks for its first piece.
            self.send_state_to(c, volume);
        }
        self.send(c, Packet::Opened { volume }, None);
        self.both_open(c, volume);
    }
}
