//! The loss of a peer, the loss of the own disk, and new current UUIDs.
//!
//! Invariants (model.md R2, R3, R4, R15):
//! - After a loss, in this order: what the transfer log and the air hold becomes bits; writes of the
//!   peer end; the own disk is flushed; SURVIVED is durable; only then replies that rest on it.
//! - The first reply that rests on one disk waits for a new current UUID, durable on that disk.
//! - A disk that failed takes no new request; it is closed when nothing is under way on it.

use crate::meta::DeviceFlags;
use crate::resource::data::peer_io::PEER_WRITE;
use crate::resource::disk::bitmap::Bitmap;
use crate::resource::disk::came_back::CameBack;
use crate::resource::disk::device::{CutOff, Loss, Progress};
use crate::resource::peer::connection::{SentKind, Side, Stage};
use crate::resource::{
    Action, ConnectionState, DiskError, DiskState, Handler, LogLevel, OnIoError, Reason,
    ReplicationState, Resource, Role, Then, VolumeNumber,
};
use crate::wire::{Packet, VolumeInfo};

impl Resource {
    /// The session with a peer is over, for whatever reason but an orderly leave.
    pub(crate) fn drop_connection(
        &mut self,
        c: usize,
        through: ConnectionState,
        reason: Reason,
        detail: String,
    ) {
        use crate::resource::peer::connection::Leaving;
        let own_leave = matches!(
            self.connections[c].leaving,
            Some(Leaving::Preparing { .. } | Leaving::Asked { .. })
        );
        if own_leave && self.leave_ended(c) {
            return;
        }
        if let Some(socket) = self.connections[c].active.take() {
            self.connections[c].sockets.remove(&socket);
            self.emit(Action::CloseSocket { socket, linger: false });
        }
        let was_open = self.connections[c].state == ConnectionState::Connected;
        self.connections[c].detail = detail;
        self.set_connection(c, through, reason);
        self.session_over(c, true);
        self.set_connection(c, ConnectionState::Unconnected, reason);
        if was_open {
            self.start_dialling(c);
        } else {
            // A handshake that fails again and again is not a reason to dial without a pause.
            self.set_connection(c, ConnectionState::Connecting, reason);
            self.dial_later(c);
        }
    }

    /// Everything that the session carried is settled. `lost`: not an orderly leave.
    pub(crate) fn session_over(&mut self, c: usize, lost: bool) {
        let connection = &mut self.connections[c];
        let was = connection.stage;
        connection.stage = Stage::Down;
        connection.stage_since = self.now;
        connection.leaving = None;
        connection.challenger = None;
        connection.challenger_handshake = None;
        connection.ping_sent = None;
        connection.in_flight = 0;
        connection.peer_handshake = None;
        let sent = std::mem::take(&mut connection.sent);
        self.set_peer_role(c, Role::Unknown);
        if self.connections[c]
            .peer_devices
            .values()
            .any(|peer| peer.replication != ReplicationState::Off)
        {
            self.tell(Handler::Disconnected, None, Some(c));
        }
        if lost {
            self.fence_lost_peer(c, was);
        }
        for volume in self.volumes() {
            self.volume_session_over(c, volume, was, lost);
        }
        for (_, sent) in sent.into_entries() {
            match sent.kind {
                SentKind::Write { key } => self.write_acked(c, sent, key, false),
                SentKind::Read { key } => self.peer_read_done(key, None),
                // As an edge that the disk could not read: it is looked for elsewhere.
                SentKind::Edge { key, head } => {
                    self.edge_done(key, head, Err(DiskError::Io(0)));
                }
                SentKind::Flush => self.peer_flush_lost(c, sent.volume, sent.epoch),
                SentKind::Resync
                | SentKind::Verify
                | SentKind::Sample
                | SentKind::NewUuid
                | SentKind::Parting => {}
                SentKind::VerifyStart => self.verify_unanswered(),
                SentKind::StartResync => self.resync_unanswered(c, sent.epoch),
                SentKind::Promote => self.promote_unanswered(),
                SentKind::HandOver => self.hand_over_unanswered(c, sent.epoch),
            }
        }
        self.order_lost_peer(c);
        self.sampling_lost(c);
        self.resize_lost(c);
        self.changed();
    }

    fn volume_session_over(&mut self, c: usize, volume: VolumeNumber, was: Stage, lost: bool) {
        self.drop_waiting_peer_writes(c, volume);
        self.forget_copies(c, volume);
        self.set_differing(c, volume, true);
        let peer = self.peer_device(c, volume);
        let replication = peer.replication;
        let opening = peer.opening;
        let ends = peer.target.as_ref().is_some_and(|target| target.finishing);
        let unflushed = peer.transfer_log.drain();
        // A target whose session opened by then holds bits of its own already.
        for (first, count) in unflushed {
            peer.bitmap.set(first, count);
        }
        peer.target = None;
        peer.source = None;
        peer.opening = Default::default();
        peer.sent_number = 0;
        peer.peer_flush = None;
        peer.starved.clear();
        (peer.full_since, peer.let_go) = (None, None);
        peer.samples = 0;
        peer.promised = None;
        peer.storing_uuid = false;
        peer.peer_flush_waiting.clear();
        let outdated = !lost && peer.peer_disk == DiskState::Outdated;
        self.set_replication(c, volume, ReplicationState::Off);
        self.peer_pauses(c, volume, false);
        if !outdated {
            self.set_peer_disk(c, volume, DiskState::DUnknown);
        }
        // Not before the peer counts as gone: who waited for these ranges starts now.
        self.verify_over(c, volume, Err("the connection is gone"));
        self.drop_resync_locks(c, volume);
        if self.device(volume).disk == DiskState::Negotiating {
            // Nobody has said whether this disk may be used: a Primary goes on without it.
            if self.role == Role::Primary {
                let note = "the peer was lost before it had said whether this disk may be used: \
                            connect it, and attach the disk again";
                self.give_disk_up(volume, note.to_owned(), "detached");
            } else {
                self.vouch_for_hung(volume);
                let state = self.device(volume).asked_state();
                self.set_disk(volume, state);
                self.save_superblock(volume, Then::Log);
            }
        }
        self.device(volume).peer_keeps_uuid = false;
        self.forget_peer_uuid(volume);
        let device = self.device(volume);
        if !lost || device.backing.is_none() {
            return;
        }
        // A node that was Established, or SyncSource, survives; one that opened the session durably
        // counts; a SyncTarget never does (R3), unless its end is already on the way to the disk.
        let ended = ends && self.role == Role::Secondary && self.is_whole_unsaid(volume);
        let device = self.device(volume);
        let established = match replication {
            ReplicationState::Established
            | ReplicationState::SyncSource
            | ReplicationState::PausedSyncS
            | ReplicationState::VerifyS
            | ReplicationState::VerifyT => true,
            _ => was == Stage::Opening && opening.own_open && opening.side != Side::Target,
        };
        // It had SURVIVED in doubt, and was to be the source again.
        let was_source = device.disk == DiskState::Consistent
            && device.backing.as_ref().is_some_and(|b| b.has(DeviceFlags::STANDS_IN));
        let established = established || was_source;
        let target = [ReplicationState::SyncTarget, ReplicationState::PausedSyncT];
        let touched = established || target.contains(&replication);
        if !touched {
            return;
        }
        device.survives |= established || ended;
        device.begin_loss();
        self.pump_loss(volume);
    }

    /// A resync has ended, and this is being stored: the disk still counts as in the middle.
    pub(crate) fn is_whole_unsaid(&self, volume: VolumeNumber) -> bool {
        let device = &self.devices[&volume];
        let whole = DeviceFlags::CONSISTENT | DeviceFlags::WAS_UP_TO_DATE;
        device.disk == DiskState::Inconsistent
            && device.backing.as_ref().is_some_and(|b| b.superblock.flags & whole == whole)
    }

    /// The loss sequence goes on when the peer's writes on the own disk have ended.
    pub(crate) fn pump_loss(&mut self, volume: VolumeNumber) {
        let device = &self.devices[&volume];
        if device.loss != Loss::Draining {
            return;
        }
        // Those that wait for the activity log are on their way to no disk, and it waits for the end of this.
        let log = device.backing.as_ref().map(|backing| &backing.activity_log);
        let waiting = log.map_or(0, |log| log.waiting(|key| key & PEER_WRITE != 0));
        let writes = self.connections.iter().map(|c| c.peer_devices[&volume].peer_writes as usize);
        if writes.sum::<usize>() > waiting {
            return;
        }
        self.device(volume).loss = Loss::Flushing;
        let round = self.devices[&volume].loss_round;
        self.flush_disk(volume, Then::LossFlushed { round });
    }

    pub(crate) fn loss_flushed(&mut self, volume: VolumeNumber, round: u64) {
        let device = self.device(volume);
        if device.loss != Loss::Flushing || device.loss_round != round {
            return;
        }
        let whole = self.is_whole_unsaid(volume);
        let device = self.device(volume);
        device.loss = Loss::Marking;
        let survives = std::mem::take(&mut device.survives);
        if let Some(backing) = device.backing.as_mut() {
            // The doubt of a source is for the end of its process alone; one that has not come so far stays in doubt.
            let source = device.disk == DiskState::UpToDate && backing.has(DeviceFlags::STANDS_IN);
            let doubt = if source { 0 } else { backing.superblock.flags & DeviceFlags::IN_DOUBT };
            let usable = device.disk == DiskState::UpToDate
                || device.disk == DiskState::Consistent && doubt != 0;
            if survives && (usable || whole) {
                backing.flags(DeviceFlags::SURVIVED | doubt, 0);
            }
        }
        self.save_superblock(volume, Then::LossMarked { round });
    }

    pub(crate) fn loss_marked(&mut self, volume: VolumeNumber, round: u64) {
        let device = self.device(volume);
        if device.loss == Loss::Marking && device.loss_round == round {
            self.device(volume).loss = Loss::None;
            let frozen = self.io_frozen();
            if !frozen
                && std::mem::take(&mut self.device(volume).bump_due)
                && self.alone_is_recorded(volume)
            {
                self.device(volume).unheard = false;
            }
            self.after_alone(volume);
        }
    }

    /// Replies, flushes and the log go on after a loss or a new current UUID.
    pub(crate) fn after_alone(&mut self, volume: VolumeNumber) {
        self.answer_alone(volume);
        self.flush_completed(volume);
        self.pump_flush(volume);
        self.pump_log(volume);
    }

    /// Whether a reply that rests on one disk may be given; if not, what it needs is under way.
    pub(crate) fn may_answer_alone(&mut self, volume: VolumeNumber, key: u64) -> bool {
        let device = &self.devices[&volume];
        if device.loss != Loss::None || device.bumping {
            return false;
        }
        if self.requests.get(key).is_some_and(|request| request.local_done) {
            self.alone_is_recorded(volume)
        } else {
            self.peer_keeps_our_uuid(volume)
        }
    }

    /// The own disk carries a current UUID that the missing peers do not know; else one is made.
    pub(crate) fn alone_is_recorded(&mut self, volume: VolumeNumber) -> bool {
        if self.io_frozen() {
            return false;
        }
        if !self.device(volume).writable() {
            return self.peer_keeps_our_uuid(volume);
        }
        let missing: Vec<u8> = self
            .connections
            .iter()
            .filter(|c| !c.peer_devices[&volume].replicates())
            .filter_map(|c| c.peer_devices[&volume].slot)
            .collect();
        let primary = self.role == Role::Primary;
        let device = self.device(volume);
        if device.bumping || device.loss != Loss::None {
            return false;
        }
        let backing = device.backing.as_ref().expect("a writable disk");
        let recorded = |slot: &u8| backing.superblock.peers[*slot as usize].bitmap_uuid != 0;
        let anew = device.new_stint && primary && !missing.is_empty();
        if !anew && missing.iter().all(recorded) {
            return true;
        }
        self.device(volume).bumping = true;
        self.new_current_uuid(volume, &missing);
        self.save_superblock(volume, Then::Bumped);
        self.others_begin_too(volume);
        false
    }

    /// The other volumes begin a generation as well: the resource goes on alone as one. So two nodes
    /// that were written apart, each another volume, find a split brain in every volume, and not in
    /// each a source of its own. Nobody waits for it: a disk that hangs holds up its own volume only.
    fn others_begin_too(&mut self, volume: VolumeNumber) {
        if self.role != Role::Primary {
            return;
        }
        for other in self.volumes() {
            let device = self.device(other);
            if other == volume || device.disk != DiskState::UpToDate {
                continue;
            }
            if device.loss == Loss::None {
                self.alone_is_recorded(other);
            } else {
                device.bump_due = true;
            }
        }
    }

    /// R4 in memory: the bitmap UUID toward the missing peers is the old current UUID.
    pub(crate) fn new_current_uuid(&mut self, volume: VolumeNumber, missing: &[u8]) {
        let uuid = self.prng.uuid() | u64::from(self.role == Role::Primary);
        let (wall, node) = (self.wall(), self.config.node_id);
        let prefix = self.of_volume(volume);
        let device = self.device(volume);
        let backing = device.backing.as_mut().expect("the caller has a disk");
        let old = backing.superblock.current_uuid;
        let mut kept = false;
        for slot in missing {
            let slot = &mut backing.superblock.peers[*slot as usize];
            if slot.bitmap_uuid == 0 {
                slot.bitmap_uuid = old;
                kept = true;
            }
        }
        if !kept {
            backing.remember(old);
        }
        backing.superblock.current_uuid = uuid;
        backing.superblock.generation_time = wall;
        backing.superblock.generation_node = node;
        // Clients read nothing of it before it is durable (`bumped`), and it may never be.
        device.asked_uuid = uuid;
        device.new_stint = false;
        self.log(LogLevel::Info, format!("{prefix}new current UUID {uuid:016X}, was {old:016X}"));
        self.changed();
    }

    pub(crate) fn bumped(&mut self, volume: VolumeNumber) {
        let device = self.device(volume);
        device.bumping = false;
        (device.unheard, device.doubtful) = (false, false);
        if let Some(backing) = device.backing.as_ref().filter(|_| device.writable()) {
            (device.exposed_uuid, device.asked_uuid) = (backing.superblock.current_uuid, 0);
        }
        self.after_alone(volume);
    }

    /// Without an own disk: the peer stores the new current UUID in our place, once a session.
    fn peer_keeps_our_uuid(&mut self, volume: VolumeNumber) -> bool {
        if self.device(volume).peer_keeps_uuid {
            return true;
        }
        if self.device(volume).bumping {
            return false;
        }
        let Some(c) = self.reading_peer(volume) else { return true };
        let uuid = self.prng.uuid() | u64::from(self.role == Role::Primary);
        let device = self.device(volume);
        (device.bumping, device.asked_uuid) = (true, uuid);
        self.track(c, volume, SentKind::NewUuid, 0, 0, 0, uuid);
        self.send(c, Packet::NewUuid { volume, uuid }, None);
        false
    }

    /// Clients would read, at a peer, what a write without an answer has left there: of the same generation
    /// as the own disk, which may lack it and could be the source one day.
    pub(crate) fn reads_in_doubt(&self) -> bool {
        self.devices.keys().any(|volume| self.is_read_in_doubt(*volume))
    }

    fn is_read_in_doubt(&self, volume: VolumeNumber) -> bool {
        let device = &self.devices[&volume];
        device.doubtful
            && !device.writable()
            && !device.peer_keeps_uuid
            && self.reading_peer(volume).is_some()
    }

    /// The peer's generation is made a new one where requests wait for that.
    pub(crate) fn end_doubt(&mut self) {
        for volume in self.volumes() {
            if self.is_read_in_doubt(volume) {
                self.peer_keeps_our_uuid(volume);
            }
        }
    }

    /// Nobody stores a new UUID for us any more: those who wait for it are answered.
    pub(crate) fn forget_peer_uuid(&mut self, volume: VolumeNumber) {
        self.uuid_is_answered(volume, |_| true);
        if self.device(volume).bumping && !self.device(volume).writable() {
            self.device(volume).bumping = false;
            self.after_alone(volume);
        }
    }

    /// A peer was asked to store a new current UUID for us, and has not answered yet.
    fn awaits_uuid(&self, volume: VolumeNumber) -> bool {
        let mut sent = self.connections.iter().flat_map(|connection| connection.sent.values());
        sent.any(|sent| matches!(sent.kind, SentKind::NewUuid) && sent.volume == volume)
    }

    /// An answer to NewUuid came, or none will: ko-count waits for it no longer.
    fn uuid_is_answered(&mut self, volume: VolumeNumber, which: impl Fn(u64) -> bool) {
        for connection in &mut self.connections {
            connection.sent.retain(|_, sent| {
                let this = matches!(sent.kind, SentKind::NewUuid) && sent.volume == volume;
                !(this && which(sent.epoch))
            });
        }
    }

    /// The peer has stored our new current UUID.
    pub(crate) fn new_uuid_acked(&mut self, volume: VolumeNumber, uuid: u64) {
        self.uuid_is_answered(volume, |sent| sent == uuid);
        let device = self.device(volume);
        if device.writable() || !device.bumping {
            return;
        }
        device.peer_keeps_uuid = true;
        (device.exposed_uuid, device.asked_uuid) = (uuid, 0);
        for connection in &mut self.connections {
            let infos = connection.peer_handshake.iter_mut().flat_map(|h| h.volumes.iter_mut());
            infos.filter(|info| info.volume == volume).for_each(|info| follows(info, uuid));
            let peer = connection.peer_devices.get_mut(&volume);
            if let Some(info) = peer.and_then(|peer| peer.peer_info.as_mut()) {
                follows(info, uuid);
            }
        }
        self.bumped(volume);
    }

    /// The peer's disk is gone and ours is the only one: flush, then R4 in its place (R15).
    pub(crate) fn peer_uuid_wanted(&mut self, c: usize, volume: VolumeNumber, uuid: u64) {
        let Some(socket) = self.connections[c].active else { return };
        if !self.device(volume).writable() {
            return;
        }
        self.set_peer_disk(c, volume, DiskState::Diskless);
        self.peer_device(c, volume).storing_uuid = true;
        self.flush_disk(volume, Then::PeerUuidFlushed { c, socket, uuid });
    }

    pub(crate) fn peer_uuid_flushed(&mut self, c: usize, volume: VolumeNumber, uuid: u64) {
        let role = self.role;
        let Some(socket) = self.connections[c].active else { return };
        let slot = self.peer_device(c, volume).slot;
        // From here on it takes writes that nobody has flushed: it has not survived them. The end of
        // this process alone loses none of them, and the next one goes on from there.
        self.device(volume).survives = false;
        let good = self.device(volume).disk == DiskState::UpToDate;
        let Some(backing) = self.device(volume).backing.as_mut() else { return };
        let Some(slot) = slot else { return };
        backing.flags(if good { DeviceFlags::STANDS_IN } else { 0 }, DeviceFlags::SURVIVED);
        let old = backing.superblock.current_uuid;
        let slot = &mut backing.superblock.peers[slot as usize];
        if slot.bitmap_uuid == 0 {
            slot.bitmap_uuid = old;
        } else {
            backing.remember(old);
        }
        backing.superblock.current_uuid = uuid;
        backing.mark_role(role);
        self.save_superblock(volume, Then::PeerUuidSaved { c, socket, uuid });
    }

    pub(crate) fn peer_uuid_saved(&mut self, c: usize, volume: VolumeNumber, uuid: u64) {
        self.peer_device(c, volume).storing_uuid = false;
        if self.connections[c].stage == Stage::Handshake {
            // The own handshake was on its way: both sides know what it does not say.
            if let Some(info) = self.peer_device(c, volume).own_info.as_mut() {
                follows(info, uuid);
            }
        }
        self.send(c, Packet::NewUuidAck { volume, uuid }, None);
    }

    /// A read or write of the own disk for a client here, or of a resync, failed.
    pub(crate) fn disk_error(&mut self, volume: VolumeNumber, error: DiskError, what: &str) {
        if self.config.disk_options(volume).on_io_error == OnIoError::PassOn {
            let text =
                format!("{}local {what} failed: {error:?}; passed on", self.of_volume(volume));
            self.log(LogLevel::Error, text);
            return;
        }
        self.disk_failed(volume, error, what);
    }

    /// The disk is not used any more: what it had not made durable may be gone, of writes that were answered long
    /// ago as well.
    pub(crate) fn sync_failed(&mut self, volume: VolumeNumber, error: DiskError, what: &str) {
        let whole = self.connections.iter().any(|c| c.peer_devices[&volume].was_whole);
        let device = self.device(volume);
        if device.disk == DiskState::UpToDate && whole {
            device.sync_failed = device.backing.as_ref().map(|b| b.superblock.device_uuid);
        }
        self.disk_failed(volume, error, what);
    }

    /// The disk is not used any more (on-io-error detach; a failed fsync is a failed disk).
    pub(crate) fn disk_failed(&mut self, volume: VolumeNumber, error: DiskError, what: &str) {
        self.has_not_only_hung(volume);
        if matches!(self.device(volume).disk, DiskState::Failed | DiskState::Diskless) {
            return;
        }
        let cause = match error {
            DiskError::Io(errno) => format!("errno {errno}"),
            DiskError::NoSpace => "No space left on device".to_owned(),
            DiskError::Metadata => "metadata damaged".to_owned(),
        };
        let policy = self.config.disk_options(volume).on_io_error;
        let (calls, does) = match policy {
            OnIoError::CallLocalIoError => (true, "on-io-error call-local-io-error"),
            OnIoError::Detach | OnIoError::PassOn => (false, "on-io-error detach"),
        };
        self.give_disk_up(volume, format!("local {what} failed: {cause}"), does);
        if calls {
            self.tell(Handler::LocalIoError, Some(volume), None);
        }
        self.drop_handshakes();
    }

    /// The disk is not used any more, for the reason that `note` tells.
    pub(crate) fn give_disk_up(&mut self, volume: VolumeNumber, note: String, what: &str) {
        let text = format!("{}{note}; {what}", self.of_volume(volume));
        self.log(LogLevel::Error, text);
        let only_copy = self.role == Role::Primary && self.reading_peer(volume).is_none();
        let goes_on = self.peer_goes_on(volume);
        let device = self.device(volume);
        device.note = note;
        if only_copy {
            device.cut_off = CutOff::Perhaps;
        }
        self.set_disk(volume, DiskState::Failed);
        self.leave_disk(volume);
        self.part(volume, goes_on);
    }

    /// What the own handshakes said of a disk that failed does not hold any more.
    pub(crate) fn drop_handshakes(&mut self) {
        for c in self.peers() {
            if matches!(self.connections[c].stage, Stage::Handshake | Stage::Opening) {
                let detail = "the own disk failed during the handshake".to_owned();
                self.drop_connection(c, ConnectionState::Unconnected, Reason::Lost, detail);
            }
        }
    }

    /// The own disk is out of the game: the peer is told, what waited for its log goes on without.
    pub(crate) fn leave_disk(&mut self, volume: VolumeNumber) {
        // What the own disk was to store is void; a peer that stores it for us answers yet.
        let awaited = self.awaits_uuid(volume);
        let device = self.device(volume);
        device.loss = Loss::None;
        device.bump_due = false;
        device.unheard = false;
        device.bumping = awaited;
        device.peer_keeps_uuid = false;
        // First: who waited for the ranges of a resync or a verify writes at the peer alone now.
        self.send_state(volume);
        for c in self.peers() {
            let peer = self.peer_device(c, volume);
            peer.target = None;
            peer.source = None;
            peer.storing_uuid = false;
            self.verify_over(c, volume, Err("the own disk"));
            self.drop_resync_locks(c, volume);
            if self.connections[c].stage == Stage::Open {
                self.set_replication(c, volume, ReplicationState::Established);
            }
        }
        self.keeps_the_peer();
        self.peers().for_each(|c| self.stays_if_needed(c));
        self.void_followers(volume);
        self.resize_without_disk(volume);
        self.sampling_without_disk(volume);
        let waiting: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, r)| r.volume == volume && r.progress == Progress::Log)
            .map(|(key, _)| key)
            .collect();
        for request in self.requests.keys().into_iter() {
            if let Some(request) = self.requests.get_mut(request).filter(|r| r.volume == volume) {
                request.hot = false;
            }
        }
        for key in waiting {
            if let Some(backing) = self.device(volume).backing.as_mut() {
                backing.activity_log.cancel(key);
            }
            self.enter_window(key);
        }
        self.fail_waiting_peer_writes(volume);
        for key in std::mem::take(&mut self.device(volume).no_space) {
            self.write_done(key, false);
        }
        // The others are being tried again, and fail.
        self.device(volume).starved.clear();
        let device = self.device(volume);
        (device.full_since, device.last_try) = (None, false);
        self.after_alone(volume);
    }

    /// A failed disk is closed when nothing is under way on it.
    pub(crate) fn pump_disk(&mut self, volume: VolumeNumber) {
        self.check_degraded(volume);
        let device = &self.devices[&volume];
        let idle = device.backing.as_ref().is_some_and(|backing| backing.outstanding == 0);
        if device.disk == DiskState::Failed && idle && self.has_parted(volume) {
            self.close_disk(volume, None);
            self.set_disk(volume, DiskState::Diskless);
            self.send_state(volume);
            self.attach_failed(volume);
            self.order_step_check();
        }
    }

    /// Forgets the disk and has it closed.
    pub(crate) fn close_disk(
        &mut self,
        volume: VolumeNumber,
        superblock: Option<Box<crate::meta::Superblock>>,
    ) {
        let device = self.device(volume);
        device.came_back = device.backing.take().as_ref().and_then(CameBack::of);
        device.raise_at = None;
        // The next time without a disk makes a new current UUID of its own.
        self.device(volume).peer_keeps_uuid = false;
        for key in self.requests.keys() {
            if let Some(request) = self.requests.get_mut(key).filter(|r| r.volume == volume) {
                request.hot = false;
            }
        }
        for c in self.peers() {
            let peer = self.peer_device(c, volume);
            peer.slot = None;
            peer.storing_uuid = false;
            peer.bitmap = Bitmap::new(0);
        }
        self.emit(Action::CloseDisk { volume, superblock });
    }

    fn peer_flush_lost(&mut self, c: usize, volume: VolumeNumber, epoch: u64) {
        // The loss sequence decides when the flush is answered; the peer's part is void.
        if let Some(flush) = self.device(volume).flush.as_mut().filter(|f| f.epoch == epoch) {
            flush.peers &= !(1 << c);
        }
        self.flush_completed(volume);
    }
}

/// A handshake that was sent before its node stored this new current UUID for a Primary without a
/// disk, as if it had been sent after.
fn follows(info: &mut VolumeInfo, uuid: u64) {
    if info.bitmap_uuid == 0 {
        info.bitmap_uuid = info.current_uuid;
    }
    info.current_uuid = uuid;
}
