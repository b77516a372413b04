//! Disks that run full: who waits for room, and which full disk is let go of.
//!
//! Invariants (DESIGN 7):
//! - A write that finds no space stays where it is, on either node, with its range and its payload,
//!   and is tried again each second. The Primary hears of the peer's, and each time again: a peer
//!   that waits is no silent peer.
//! - Only the Primary decides, and only that the other disk goes on alone: that one is good, has
//!   every write that waits, and none waits there. So a lack of space never takes the last good
//!   copy.
//! - Before a disk is let go of there is a last try. A peer that was told to let go has answered
//!   for that write before anything else is decided.
//! - A full disk is given [`PATIENCE_MS`]: two disks of one size run full within moments, and where
//!   both do neither is let go of.
//! - A handshake, and an end in order, do not wait for space: the Primary holds its writes, takes
//!   back those that wait at the peer, and none of them is answered before it has started over.
//! - A write whose session is over is dropped, and says nothing of the disk.

use crate::resource::data::peer_io::PEER_WRITE;
use crate::resource::peer::connection::PeerDevice;
use crate::resource::{
    BLOCK_SIZE, DiskState, LogLevel, Resource, Role, Time, VolumeNumber, peer::connection::SentKind,
};
use crate::wire::Packet;

/// How long a full disk is waited for while the other copy could go on, ms.
const PATIENCE_MS: u64 = 2_000;
/// Between two tries, and two words to the peer, ms.
const RETRY_MS: u64 = 1_000;

impl Resource {
    /// A client's write has found the own disk full: whether it waits for space. A disk that is let
    /// go of already has nothing to wait for.
    pub(crate) fn wait_for_space(&mut self, key: u64) -> bool {
        let volume = self.requests.get(key).expect("a write under way").volume;
        let waits = self.devices[&volume].writable();
        if waits {
            self.starves(volume, key);
        }
        waits
    }

    /// A write of the peer has found the own disk full: it waits while its session lives.
    pub(crate) fn peer_write_waits(&mut self, key: u64) {
        let write = self.peer_writes.get(key).expect("a peer's write under way");
        let (c, socket, volume, sequence) =
            (write.connection, write.socket, write.volume, write.sequence);
        let (last_try, recalled) = (write.last_try, write.recalled);
        if !self.is_current(c, socket) || !self.devices[&volume].writable() {
            return self.peer_write_done(key, false);
        }
        if recalled {
            return self.drop_peer_write(key, true);
        }
        let good = self.connections[c].peer_devices[&volume].peer_disk == DiskState::UpToDate;
        if last_try && good {
            let note = "local WRITE of the peer failed: No space left on device".to_owned();
            self.let_go_of_full_disk(volume, note);
            return self.peer_write_done(key, false);
        }
        self.peer_writes.get_mut(key).expect("just seen").started = false;
        self.starves(volume, key | PEER_WRITE);
        self.send(c, Packet::NoSpace { volume, sequence }, None);
    }

    fn starves(&mut self, volume: VolumeNumber, key: u64) {
        let now = self.now;
        let prefix = self.of_volume(volume);
        let device = self.device(volume);
        if device.no_space.is_empty() {
            device.no_space_since = None;
        }
        device.no_space.push_back(key);
        device.starved.insert(key);
        if device.full_since.is_none() {
            device.full_since = Some(now);
            let text = format!("{prefix}No space left on device: writes wait for room");
            self.log(LogLevel::Warning, text);
            self.changed();
        }
    }

    /// The write waits for space no longer: it is on the disk (`wrote`), or it never will be.
    pub(crate) fn starves_no_more(&mut self, volume: VolumeNumber, key: u64, wrote: bool) {
        let device = self.device(volume);
        if device.starved.is_empty() || !device.starved.remove(&key) {
            return;
        }
        device.no_space.retain(|waiting| *waiting != key);
        if device.starved.is_empty() {
            (device.full_since, device.last_try) = (None, false);
            // The other disk is given its time from now on.
            let now = self.now;
            for connection in &mut self.connections {
                let peer = connection.peer_devices.get_mut(&volume).expect("each volume");
                peer.full_since = peer.full_since.map(|_| now);
            }
            if wrote {
                let text = format!("{}there is room again: writes go on", self.of_volume(volume));
                self.log(LogLevel::Info, text);
            }
            self.changed();
        }
    }

    /// What waits for space is tried again.
    pub(crate) fn check_space(&mut self) {
        let now = self.now;
        let mut next = self.volume_after(None);
        while let Some(volume) = next {
            next = self.volume_after(Some(volume));
            let device = self.device(volume);
            if device.no_space.is_empty() {
                continue;
            }
            let since = *device.no_space_since.get_or_insert(now);
            if now.ms_since(since) < RETRY_MS {
                continue;
            }
            self.try_again(volume);
        }
    }

    fn try_again(&mut self, volume: VolumeNumber) {
        self.device(volume).no_space_since = None;
        for key in std::mem::take(&mut self.device(volume).no_space) {
            if key & PEER_WRITE == 0 {
                self.local_write(key);
            } else {
                self.start_peer_write(key & !PEER_WRITE);
            }
        }
    }

    /// `Packet::NoSpace`: what was asked of the peer waits for space. `false`: it was never asked.
    pub(crate) fn peer_starves(&mut self, c: usize, volume: VolumeNumber, sequence: u64) -> bool {
        let now = self.now;
        let connection = &mut self.connections[c];
        let Some(sent) = connection.sent.get_mut(&sequence).filter(|s| s.volume == volume) else {
            // Of a verify or a resync that has ended here meanwhile.
            return sequence < connection.next_sequence;
        };
        sent.heard = Some(now);
        if !matches!(sent.kind, SentKind::Write { .. }) {
            return matches!(sent.kind, SentKind::Resync | SentKind::Verify);
        }
        let peer = self.peer_device(c, volume);
        peer.starved.insert(sequence);
        if peer.full_since.is_none() {
            peer.full_since = Some(now);
            let text = format!(
                "{}No space left on the peer's disk: writes wait for room there",
                self.of_both(volume, c)
            );
            self.log(LogLevel::Warning, text);
            self.changed();
        }
        true
    }

    /// The peer has answered the write.
    pub(crate) fn peer_starves_no_more(&mut self, c: usize, volume: VolumeNumber, sequence: u64) {
        let peer = self.peer_device(c, volume);
        if peer.starved.is_empty() || !peer.starved.remove(&sequence) {
            return;
        }
        peer.let_go.take_if(|asked| *asked == sequence);
        if peer.starved.is_empty() {
            peer.full_since = None;
            let now = self.now;
            let device = self.device(volume);
            device.full_since = device.full_since.map(|_| now);
            self.changed();
        }
    }

    /// `Packet::LetGo`: the Primary goes on with its own copy. The write is tried once more, and
    /// then the disk goes, if the Primary's is still good. Of a write that is done by now it says
    /// nothing.
    pub(crate) fn let_go(&mut self, c: usize, volume: VolumeNumber, sequence: u64) {
        let Some((key, started)) = self.peer_write_of(c, volume, sequence) else { return };
        if !self.devices[&volume].starved.contains(&(key | PEER_WRITE)) {
            return;
        }
        self.peer_writes.get_mut(key).expect("just seen").last_try = true;
        if !started {
            self.device(volume).no_space.retain(|waiting| *waiting != key | PEER_WRITE);
            self.start_peer_write(key);
        }
    }

    /// A write of the peer that is not answered; whether it is under way on the disk.
    fn peer_write_of(&self, c: usize, volume: VolumeNumber, sequence: u64) -> Option<(u64, bool)> {
        let this = (c, volume, sequence);
        let mut writes = self.peer_writes.iter();
        let found = writes.find(|(_, w)| (w.connection, w.volume, w.sequence) == this);
        found.filter(|(_, w)| !w.disk_done).map(|(key, write)| (key, write.started))
    }

    /// `Packet::TakeBack`: the Primary wants a write that waits for space back. Of one that is done
    /// by now it says nothing.
    pub(crate) fn give_back(&mut self, c: usize, volume: VolumeNumber, sequence: u64) {
        match self.peer_write_of(c, volume, sequence) {
            Some((key, false)) => self.drop_peer_write(key, true),
            Some((key, true)) => {
                self.peer_writes.get_mut(key).expect("just seen").recalled = true;
            }
            None => {}
        }
    }

    /// Requests are to end, or to be held: what waits for space at the peer is asked back.
    pub(crate) fn take_back_from(&mut self, c: usize) {
        for volume in self.volumes() {
            for sequence in self.peer_device(c, volume).starved.clone() {
                let sent = self.connections[c].sent.get_mut(&sequence);
                let Some(sent) = sent.filter(|sent| !sent.recalled) else { continue };
                sent.recalled = true;
                self.send(c, Packet::TakeBack { volume, sequence }, None);
            }
        }
    }

    /// `Packet::TakenBack`. `false`: nobody has asked for it.
    pub(crate) fn taken_back(&mut self, c: usize, volume: VolumeNumber, sequence: u64) -> bool {
        if self.connections[c].sent.get(&sequence).is_none_or(|sent| !sent.recalled) {
            return false;
        }
        let write = |kind: &SentKind| matches!(kind, SentKind::Write { .. });
        let Some(sent) = self.take_sent(c, volume, sequence, write) else { return false };
        self.connections[c].in_flight -= u64::from(sent.bytes);
        self.peer_starves_no_more(c, volume, sequence);
        if let SentKind::Write { key } = sent.kind {
            if let Some(request) = self.requests.get_mut(key) {
                request.taken_back = true;
            }
            // With its bits: the peer may have a part of it.
            self.write_acked(c, sent, key, false);
        }
        true
    }

    /// Whether one of two disks goes on without the other one, which is full: before anything else,
    /// so that what is answered together with a decision does not rest on the disk that goes by it.
    pub(crate) fn pump_space(&mut self) {
        let mut next = self.volume_after(None);
        while let Some(volume) = next {
            self.decide_space(volume);
            next = self.volume_after(Some(volume));
        }
    }

    fn decide_space(&mut self, volume: VolumeNumber) {
        let device = &self.devices[&volume];
        let full = |peer: &PeerDevice| !peer.starved.is_empty();
        let elsewhere = self.connections.iter().any(|c| full(&c.peer_devices[&volume]));
        if device.starved.is_empty() && !elsewhere {
            return;
        }
        self.tell_who_waits(volume);
        if self.role != Role::Primary {
            return;
        }
        if !self.devices[&volume].starved.is_empty() {
            if elsewhere {
                self.device(volume).last_try = false;
            } else {
                self.let_go_of_own(volume);
            }
            return;
        }
        for c in self.peers() {
            self.have_peer_let_go(c, volume);
        }
    }

    fn is_full(&self, since: Option<Time>) -> bool {
        since.is_some_and(|since| self.now.ms_since(since) >= PATIENCE_MS)
    }

    /// The own disk is full, and no other one is known to be.
    fn let_go_of_own(&mut self, volume: VolumeNumber) {
        let device = &self.devices[&volume];
        let other = self.reading_peer(volume).filter(|_| self.is_full(device.full_since));
        let Some(c) = other else {
            self.device(volume).last_try = false;
            return;
        };
        let has = |key: &u64| {
            let request = self.requests.get(*key);
            request.is_some_and(|r| r.peers_pending == 0 && r.peers_done & 1 << c != 0)
        };
        let all_wait = device.no_space.len() == device.starved.len();
        if !all_wait || !device.starved.iter().all(has) {
            return;
        }
        if !std::mem::replace(&mut self.device(volume).last_try, true) {
            return self.try_again(volume);
        }
        // Whatever on-io-error says: an error of the client's it would be otherwise.
        let note = "local WRITE failed: No space left on device".to_owned();
        self.let_go_of_full_disk(volume, note);
    }

    /// What it has acknowledged it has: if the peer's cache loses that, this one is not to be overwritten, as a
    /// disk that only hung.
    fn let_go_of_full_disk(&mut self, volume: VolumeNumber, note: String) {
        let only_hung = self.only_hangs(volume);
        self.give_disk_up(volume, note, "let go of, for the peer's has room");
        self.drop_handshakes();
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.only_hung = only_hung;
        }
    }

    /// The peer's disk is full, and the own one is not.
    fn have_peer_let_go(&mut self, c: usize, volume: VolumeNumber) {
        let connection = &self.connections[c];
        let peer = &connection.peer_devices[&volume];
        let own = self.devices[&volume].disk == DiskState::UpToDate;
        let here = |sequence: &u64| match connection.sent.get(sequence).map(|sent| sent.kind) {
            Some(SentKind::Write { key }) => self.requests.get(key).is_some_and(|r| r.local_done),
            _ => false,
        };
        let ready = own && peer.let_go.is_none() && self.is_full(peer.full_since);
        let Some(sequence) = peer.starved.first().copied().filter(|_| ready) else { return };
        if peer.starved.iter().all(here) {
            self.peer_device(c, volume).let_go = Some(sequence);
            self.send(c, Packet::LetGo { volume, sequence }, None);
        }
    }

    /// Pieces of a resync or a verify that the peer has asked for may wait behind a write that
    /// waits, and its writes for the activity log: it hears so, and does not take this node for a
    /// silent one.
    fn tell_who_waits(&mut self, volume: VolumeNumber) {
        let now = self.now;
        let told = self.devices[&volume].space_told;
        if told.is_some_and(|told| now.ms_since(told) < RETRY_MS) {
            return;
        }
        self.device(volume).space_told = Some(now);
        for c in self.peers() {
            let peer = &self.connections[c].peer_devices[&volume];
            let mut waiting = Vec::new();
            if let Some(source) = &peer.source {
                waiting.extend(source.pieces.iter().filter(|(_, p)| !p.held).map(|(s, _)| *s));
            }
            if let Some(verify) = peer.verify.as_ref().filter(|verify| !verify.source) {
                let waits = |key: &&u64| {
                    let lock = verify.pieces[*key].lock;
                    peer.resync_locks.get(&lock).is_none_or(|held| !held)
                };
                waiting.extend(verify.pieces.keys().filter(waits));
            }
            let no_space = &self.devices[&volume].starved;
            let log = self.peer_writes.iter().filter(|(key, write)| {
                let this = write.connection == c && write.volume == volume && !write.started;
                this && !no_space.contains(&(key | PEER_WRITE))
            });
            waiting.extend(log.map(|(_, write)| write.sequence));
            for sequence in waiting {
                self.send(c, Packet::NoSpace { volume, sequence }, None);
            }
        }
    }

    /// When something is tried again, or may be decided.
    pub(crate) fn space_timeout(&self) -> Option<Time> {
        let mut next: Option<Time> = None;
        let mut sooner = |at: Time| next = Some(next.map_or(at, |next| next.min(at)));
        let later = |since: Time| Some(since.after_ms(PATIENCE_MS)).filter(|at| *at > self.now);
        for (volume, device) in &self.devices {
            if !device.no_space.is_empty() {
                sooner(device.no_space_since.unwrap_or(self.now).after_ms(RETRY_MS));
            }
            device.full_since.and_then(later).into_iter().for_each(&mut sooner);
            for connection in &self.connections {
                let since = connection.peer_devices[volume].full_since;
                since.and_then(later).into_iter().for_each(&mut sooner);
            }
        }
        next
    }

    /// Somebody waits for space on a disk of the volume: the own one, a peer's.
    pub(crate) fn space_is_short(&self, volume: VolumeNumber) -> bool {
        let peers = self.connections.iter().map(|c| &c.peer_devices[&volume]);
        !self.devices[&volume].starved.is_empty()
            || peers.into_iter().any(|p| !p.starved.is_empty())
    }

    /// A piece of a resync has found no space here: it stays out of sync, and is tried again.
    pub(crate) fn note_full_target(&mut self, c: usize, volume: VolumeNumber) {
        let target = self.connections[c].peer_devices[&volume].target.as_ref();
        if target.is_some_and(|target| target.failed == 0) {
            let text = format!(
                "{}local WRITE of a resync failed: No space left on device; what it cannot take is \
                 tried again ({} KiB are out of sync)",
                self.of_volume(volume),
                self.connections[c].peer_devices[&volume].bitmap.count() * BLOCK_SIZE / 1024
            );
            self.log(LogLevel::Error, text);
        }
    }
}
