//! `new-current-uuid --clear-bitmap`: two fresh disks with the same bytes skip the initial sync. (Of
//! a peer that has never connected: seed.rs.)
//!
//! Invariants (DRBD User's Guide, Skipping initial resynchronization; ours is asked to prove it):
//! - Both disks are JUST_CREATED and connected, and nobody is Primary; else it is refused.
//! - The first and the last MiB and [`SAMPLES`] blocks at random places have the same CRC-32 on both;
//!   a disk of at most 18 MiB has it everywhere.
//! - The peer takes the new current UUID durably first: a crash in between leaves one disk JUST_CREATED,
//!   and that one is synced in full.
//! - A peer that does not answer for [`PATIENCE_MS`] ends the order. If its disk takes the UUID after
//!   that, this node's is the target of a full sync, as after a crash.

use crate::meta::BitmapState;
use crate::resource::disk::device::Backing;
use crate::resource::disk::hung_disk::NEVER;
use crate::resource::orders::order::{NO_VOLUME, PATIENCE_MS, Step, refuse};
use crate::resource::peer::connection::{SentKind, Stage};
use crate::resource::peer::generation::is_just_created;
use crate::resource::{
    Action, BLOCK_SIZE, Command, DiskError, DiskState, Payload, Pending, Refusal, Resource, Role,
    SocketId, Tag, Then, Time, VolumeNumber,
};
use crate::wire::Packet;

/// Blocks that are compared beside both ends of the disk.
const SAMPLES: u64 = 4096;
/// Bytes of both ends that are compared.
const END: u64 = 1 << 20;
/// Samples under way at once, here and for the peer.
const AT_ONCE: u32 = 32;

/// A range in pieces of 64 KiB: first byte, bytes.
fn pieces(from: u64, to: u64) -> impl Iterator<Item = (u64, u32)> {
    const PIECE: u64 = 64 << 10;
    let starts = (from..to).step_by(usize::try_from(PIECE).expect("64 KiB"));
    starts.map(move |at| (at, u32::try_from(PIECE.min(to - at)).expect("64 KiB")))
}

/// What is compared of a range: both ends and random blocks, or all of it where that is no more.
fn sample_places(from: u64, to: u64, mut random: impl FnMut() -> u64) -> Vec<(u64, u32)> {
    if to - from <= 2 * END + SAMPLES * BLOCK_SIZE {
        return pieces(from, to).collect();
    }
    let block = u32::try_from(BLOCK_SIZE).expect("4096");
    let blocks = (to - from) / BLOCK_SIZE;
    let between = (0..SAMPLES).map(|_| (from + random() % blocks * BLOCK_SIZE, block));
    pieces(from, from + END).chain(pieces(to - END, to)).chain(between).collect()
}

/// A comparison that runs.
#[derive(Clone, Debug)]
pub(crate) struct Sampling {
    volume: VolumeNumber,
    /// With this connection.
    c: usize,
    socket: SocketId,
    /// Ranges to compare: first byte, bytes.
    todo: Vec<(u64, u32)>,
    under_way: u32,
    /// The new current UUID; of a resize, the number of the comparison.
    uuid: u64,
    /// When the own disk or the peer has answered last.
    since: Time,
    /// It is of a resize.
    resizes: bool,
}

impl Resource {
    /// Whether this node's disk may be declared equal to the peer's.
    fn may_clear(&self, c: usize, volume: VolumeNumber) -> Result<(), &'static str> {
        let (device, connection) = (&self.devices[&volume], &self.connections[c]);
        let peer = &connection.peer_devices[&volume];
        let fresh = device.backing.as_ref().is_some_and(Backing::is_just_created);
        let peer_fresh =
            peer.peer_info.as_ref().is_some_and(|info| is_just_created(info.current_uuid));
        if connection.stage != Stage::Open {
            Err(
                "The peer must be connected: both disks are compared first. (For a seed it must never \
                 have been connected, or be forgotten: forget-peer.)",
            )
        } else if self.role == Role::Primary || connection.peer_role == Role::Primary {
            Err("Demote first: nobody may write while the disks are compared.")
        } else if !fresh
            || device.disk != DiskState::Inconsistent
            || !peer_fresh
            || peer.peer_disk != DiskState::Inconsistent
        {
            Err("Both disks must be fresh from create-md: these have data of their own already.")
        } else {
            Ok(())
        }
    }

    /// The order.
    pub(crate) fn clear_bitmap(&mut self, id: u64, volume: VolumeNumber) {
        if !self.devices.contains_key(&volume) {
            return self.reply(id, Err(refuse(127, NO_VOLUME)));
        }
        let Some(c) = self.peers().next() else {
            return self.reply(id, Err(refuse(162, "There is no peer in the configuration.")));
        };
        if self.may_seed(volume) {
            return self.seed(id, volume);
        }
        if let Err(hint) = self.may_clear(c, volume) {
            return self.reply(id, Err(refuse(162, hint)));
        }
        let socket = self.connections[c].active.expect("an open session");
        let todo = sample_places(0, self.devices[&volume].size, || self.prng.next_u64());
        let uuid = self.prng.uuid();
        let since = self.now;
        self.sampling =
            Some(Sampling { volume, c, socket, todo, under_way: 0, uuid, since, resizes: false });
        self.run(id, Command::NewCurrentUuid { volume, clear_bitmap: true }, Step::Sample);
        self.sample_more();
    }

    /// resize --assume-clean: the bytes that both disks are to gain are compared.
    pub(crate) fn compare_growth(&mut self, c: usize, volume: VolumeNumber, from: u64, to: u64) {
        let Some(socket) = self.connections[c].active else { return };
        let todo = sample_places(from, to, || self.prng.next_u64());
        let uuid = self.prng.uuid();
        let since = self.now;
        self.sampling =
            Some(Sampling { volume, c, socket, todo, under_way: 0, uuid, since, resizes: true });
        self.step(Step::Sample);
        self.sample_more();
    }

    /// Reads on, or asks the peer to take the new UUID when everything was equal.
    fn sample_more(&mut self) {
        let now = self.now;
        let Some(sampling) = self.sampling.as_mut() else { return };
        sampling.since = now;
        let volume = sampling.volume;
        let mut reads = Vec::new();
        while sampling.under_way < AT_ONCE {
            let Some(place) = sampling.todo.pop() else { break };
            sampling.under_way += 1;
            reads.push(place);
        }
        let (c, uuid, done) = (sampling.c, sampling.uuid, sampling.under_way == 0);
        for (offset, length) in reads {
            let run = uuid;
            let tag = self.disk_tag(volume, Pending::OwnSample { run, offset, length });
            self.emit(Action::DiskRead { tag, volume, offset, length, find_zeroes: false });
        }
        if done && self.sampling.as_ref().is_some_and(|sampling| sampling.resizes) {
            self.sampling = None;
            self.resize_agrees();
        } else if done {
            self.step(Step::PeerClears);
            self.send(c, Packet::ClearBitmap { volume, uuid }, None);
        }
    }

    /// A range of the own disk was read, for the own comparison or the peer's.
    pub(crate) fn sample_read(
        &mut self,
        volume: VolumeNumber,
        pending: Pending,
        result: Result<Option<Payload>, DiskError>,
    ) {
        match result.ok().flatten() {
            Some(payload) => {
                let tag = Tag(self.tags.insert((volume, NEVER, pending)));
                self.emit(Action::Digest { tag, payload });
                self.release(Some(payload));
            }
            None => self.digested_here(volume, pending, None),
        }
    }

    /// `Event::Digested`.
    pub(crate) fn digested(&mut self, tag: Tag, digest: u32) {
        if let Some((volume, _, pending)) = self.tags.remove(tag.0) {
            self.digested_here(volume, pending, Some(digest));
        }
    }

    fn digested_here(&mut self, volume: VolumeNumber, pending: Pending, digest: Option<u32>) {
        match (pending, digest) {
            (Pending::Abandoned, _) => {}
            // Of a comparison that has ended meanwhile.
            (Pending::OwnSample { run, .. }, _) if !self.samples(run) => {}
            (Pending::OwnSample { run, offset, length }, Some(digest)) => {
                let Some(sampling) = &self.sampling else { return };
                let (c, socket) = (sampling.c, sampling.socket);
                if !self.is_current(c, socket) {
                    return;
                }
                let kind = SentKind::Sample;
                let sequence = self.track(c, volume, kind, offset, u64::from(length), 0, run);
                self.send(c, Packet::Sample { volume, sequence, offset, length, digest }, None);
            }
            (Pending::OwnSample { .. }, None) => {
                self.sampling_ends(refuse(
                    118,
                    "The own disk cannot be read: replace it, then create-md.",
                ));
            }
            (Pending::PeerSample { c, socket, sequence, expected }, digest) => {
                if self.is_current(c, socket) {
                    let peer = self.peer_device(c, volume);
                    peer.samples = peer.samples.saturating_sub(1);
                    let equal = digest == Some(expected);
                    self.send(c, Packet::SampleAnswer { volume, sequence, equal }, None);
                }
            }
            (other, _) => unreachable!("{other:?} is no sample"),
        }
    }

    /// The comparison that runs is this one.
    fn samples(&self, run: u64) -> bool {
        self.sampling.as_ref().is_some_and(|sampling| sampling.uuid == run)
    }

    fn sampling_ends(&mut self, refusal: Refusal) {
        if self.sampling.take().is_some() {
            self.resizing = None;
            self.finish(Err(refusal));
        }
    }

    /// Nobody has answered for long: a disk hangs, here or there.
    pub(crate) fn sampling_may_be_late(&mut self) {
        if self.sampling_timeout().is_none_or(|at| self.now < at) {
            return;
        }
        let seconds = PATIENCE_MS / 1000;
        let asked = self.running.as_ref().is_some_and(|order| order.step == Step::PeerClears);
        let rest = if asked {
            "If its disk takes the new identifier after all, this one is synced in full from it."
        } else {
            "Nothing has changed."
        };
        let hint = format!(
            "A disk has not answered for {seconds} s, here or at the peer (`tandemadm status`). {rest}"
        );
        self.sampling_ends(refuse(-23, &hint));
    }

    pub(crate) fn sampling_timeout(&self) -> Option<Time> {
        self.sampling.as_ref().map(|sampling| sampling.since.after_ms(PATIENCE_MS))
    }

    /// This process did not run: nobody has waited meanwhile.
    pub(crate) fn sampling_starts_anew(&mut self) {
        let now = self.now;
        self.sampling.iter_mut().for_each(|sampling| sampling.since = now);
    }

    /// The own disk is not used any more.
    pub(crate) fn sampling_without_disk(&mut self, volume: VolumeNumber) {
        if self.sampling.as_ref().is_some_and(|sampling| sampling.volume == volume) {
            self.sampling_ends(refuse(118, "The disk has failed."));
        }
    }

    /// The session that the comparison runs in is over.
    pub(crate) fn sampling_lost(&mut self, c: usize) {
        if self.sampling.as_ref().is_some_and(|sampling| sampling.c == c) {
            let hint = "The peer was lost; nothing has changed here.";
            self.sampling_ends(refuse(-15, hint));
        }
    }

    /// Packets of a comparison. `false`: the peer must not send this now.
    pub(crate) fn sample_packet(&mut self, c: usize, socket: SocketId, packet: &Packet) -> bool {
        match *packet {
            Packet::Sample { volume, sequence, offset, length, digest } => {
                let end = offset + u64::from(length);
                let peer = self.peer_device(c, volume);
                if peer.samples >= AT_ONCE {
                    return false;
                }
                let of_fresh =
                    self.may_clear(c, volume).is_ok() && end <= self.devices[&volume].size;
                if !of_fresh && !self.may_compare_growth(c, volume, offset, end) {
                    self.send(c, Packet::SampleAnswer { volume, sequence, equal: false }, None);
                    return true;
                }
                self.peer_device(c, volume).samples += 1;
                let pending = Pending::PeerSample { c, socket, sequence, expected: digest };
                let tag = self.disk_tag(volume, pending);
                self.emit(Action::DiskRead { tag, volume, offset, length, find_zeroes: false });
                true
            }
            Packet::SampleAnswer { volume, sequence, equal } => {
                let sample = |kind: &SentKind| matches!(kind, SentKind::Sample);
                let Some(sent) = self.take_sent(c, volume, sequence, sample) else { return false };
                if !self.samples(sent.epoch) {
                    return true;
                }
                let sampling = self.sampling.as_mut().expect("just seen");
                sampling.under_way = sampling.under_way.saturating_sub(1);
                if equal {
                    self.sample_more();
                } else {
                    let way = match sampling.resizes {
                        true => "without --assume-clean the new blocks are synced.".to_owned(),
                        false => format!(
                            "they need a full sync, `tandemadm primary --force {}` on the node \
                             with the data.",
                            self.config.name
                        ),
                    };
                    let hint = format!(
                        "The disks differ at byte {} (or one cannot be read): {way}",
                        sent.offset
                    );
                    self.sampling_ends(refuse(162, &hint));
                }
                true
            }
            Packet::ClearBitmap { volume, uuid } => self.clear_received(c, volume, uuid),
            _ => false,
        }
    }

    /// The peer wants this node to take the UUID, or answers that it has, or that it will not.
    fn clear_received(&mut self, c: usize, volume: VolumeNumber, uuid: u64) -> bool {
        let asked = self.running.as_ref().is_some_and(|r| r.step == Step::PeerClears)
            && self.sampling.as_ref().is_some_and(|s| s.c == c && s.volume == volume);
        if uuid & 1 == 1 {
            if asked {
                let hint = "The peer's disk, or its role, has changed meanwhile, or the same order \
                            runs there.";
                self.sampling_ends(refuse(-10, hint));
            }
            // That nobody waits for: an answer would go back and forth for ever.
            return true;
        }
        if asked && self.samples(uuid) {
            self.sampling = None;
            self.step(Step::ClearSave);
            self.step_waits(1);
            self.start_generation(volume, uuid, BitmapState::AllClear);
            let then = self.then_order();
            self.save_superblock(volume, then);
            return true;
        }
        let device = &self.devices[&volume];
        let fresh = device.backing.as_ref().is_some_and(Backing::is_just_created);
        let ahead = self.connections[c].peer_devices[&volume].peer_disk == DiskState::UpToDate;
        if fresh && ahead && self.connections[c].stage == Stage::Open {
            // It has taken what nobody waits for any more. A new handshake copies its disk.
            self.renegotiate();
            return true;
        }
        let busy = self.running.is_some();
        if busy || self.may_clear(c, volume).is_err() {
            self.clear_refused(c, volume);
            return true;
        }
        let Some(socket) = self.connections[c].active else { return false };
        self.start_generation(volume, uuid, BitmapState::AllClear);
        self.save_superblock(volume, Then::ClearSaved { c, socket, uuid });
        true
    }

    /// The peer waits for an answer: an odd UUID, as no Secondary makes one, is the refusal.
    pub(crate) fn clear_refused(&mut self, c: usize, volume: VolumeNumber) {
        self.send(c, Packet::ClearBitmap { volume, uuid: 1 }, None);
    }

    /// This node has taken it durably, as it was asked to.
    pub(crate) fn clear_saved(&mut self, c: usize, volume: VolumeNumber, uuid: u64) {
        self.cleared_disk(volume);
        self.send(c, Packet::ClearBitmap { volume, uuid }, None);
    }

    /// Both have.
    pub(crate) fn cleared(&mut self) {
        if let Some(Command::NewCurrentUuid { volume, .. }) =
            self.running.as_ref().map(|running| running.command.clone())
        {
            self.cleared_disk(volume);
        }
        self.finish(Ok(String::new()));
    }

    pub(crate) fn cleared_disk(&mut self, volume: VolumeNumber) {
        if self.devices[&volume].disk != DiskState::Inconsistent {
            return;
        }
        self.set_disk(volume, DiskState::UpToDate);
        self.send_state(volume);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 18 << 20;

    #[test]
    fn a_small_disk_is_compared_everywhere() {
        for (from, to) in [(0, BLOCK_SIZE), (0, LIMIT), (8 << 20, (9 << 20) + BLOCK_SIZE), (0, 0)] {
            let mut at = from;
            for (start, length) in sample_places(from, to, || unreachable!("nothing by chance")) {
                assert_eq!(start, at);
                at += u64::from(length);
            }
            assert_eq!(at, to);
        }
    }

    #[test]
    fn a_large_disk_is_compared_at_both_ends_and_at_random_blocks_within() {
        let (from, to) = (4 << 20, (4 << 20) + LIMIT + BLOCK_SIZE);
        let mut random = 0_u64;
        let places = sample_places(from, to, || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            random
        });
        let ends = 2 * usize::try_from(END >> 16).unwrap();
        assert_eq!(places.len(), ends + usize::try_from(SAMPLES).unwrap());
        assert_eq!(places[0], (from, 1 << 16));
        assert_eq!(places[ends - 1], (to - (1 << 16), 1 << 16));
        let within = |&(at, length): &(u64, u32)| at >= from && at + u64::from(length) <= to;
        assert!(places.iter().all(within), "{places:?}");
        assert!(places[ends..].iter().all(|(at, _)| at % BLOCK_SIZE == 0));
    }
}
