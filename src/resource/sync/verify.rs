//! Online verify: both disks are compared while they are in use. Nothing is overwritten.
//!
//! Here is what both sides share; `verify_source` is the side where it was ordered (VerifyS),
//! `verify_target` the other one (VerifyT), `repair` copies what was found.
//!
//! ```text
//!  VerifyS                               VerifyT
//!  holds the range --VerifyRequest-----> holds the range, reads
//!  reads, compares <----VerifyDigests--- (still holds it)
//!  lets go         --VerifyResult------> sets the bits, lets go
//! ```
//!
//! Invariants:
//! - Both disks are read while both nodes hold the range against writes. A client's write holds its
//!   range on the Primary until both disks have it: so whichever node is Primary, then or a moment
//!   later, none is under way in the piece between the first read and the comparison.
//! - A bit is set here before the peer is told, and saved at once; "done" is said when it is durable.
//! - Before the first piece it is durable on both that bits may be marks: blocks that differ without
//!   a loss, of which nobody knows which is right (docs/GENERATIONS.md, `verify-marks`).
//! - It runs while the session is open and both disks are UpToDate; otherwise it ends, and says
//!   where it was.

use std::collections::{BTreeMap, VecDeque};

use crate::meta::DeviceFlags;
use crate::resource::orders::order::refuse;
use crate::resource::peer::connection::{Save, SentKind, Stage};
use crate::resource::sync::resync_rate::ResyncRate;
use crate::resource::{
    BLOCK_SIZE, DiskError, DiskState, Handler, LastVerify, LogLevel, Payload, Pending, Refusal,
    ReplicationState, Resource, SocketId, Tag, Then, Time, VerifyAlg, VerifyStatus, VolumeNumber,
};
use crate::wire::Packet;

/// Ranges that are logged for one verify; the rest is counted.
const LOGGED_MAX: u32 = 256;
/// Bytes of a sector, the unit of the orders and of the log.
pub(in crate::resource) const SECTOR: u64 = 512;

/// A piece that is being compared.
#[derive(Clone, Debug)]
pub(crate) struct VerifyPiece {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    /// Its lock; 0: not asked for yet.
    pub(crate) lock: u64,
    /// Of the request, once it was sent.
    pub(crate) sequence: u64,
    /// VerifyS: when the request went out. VerifyT: when the answer did, and the peer owes its own.
    pub(crate) sent_at: Option<Time>,
    /// VerifyS: the peer's digests.
    pub(crate) digests: Vec<u8>,
}

/// A running verify, on either side.
#[derive(Clone, Debug)]
pub(crate) struct Verify {
    /// This node is the VerifyS.
    pub(crate) source: bool,
    pub(crate) alg: VerifyAlg,
    /// VerifyS: how fast. On both sides: how far.
    pub(crate) rate: ResyncRate,
    /// First byte, and the first byte that is not compared any more.
    pub(crate) start: u64,
    pub(crate) stop: u64,
    /// Pieces below were asked for.
    pub(crate) cursor: u64,
    /// VerifyS: by lock. VerifyT: by sequence.
    pub(crate) pieces: BTreeMap<u64, VerifyPiece>,
    /// VerifyT: pieces that wait for room.
    pub(crate) waiting: VecDeque<u64>,
    /// Bytes of pieces that are under way here.
    pub(crate) in_flight: u64,
    /// Bytes of blocks that differ.
    pub(crate) found: u64,
    /// Bytes that could not be read on one side.
    pub(crate) skipped: u64,
    /// A range that differs and is not logged yet, as it may go on: first byte, bytes.
    run: Option<(u64, u64)>,
    logged: u32,
    /// The disk says durably that a verify has set bits: only then some are.
    pub(in crate::resource) flagged: bool,
    /// Everything was compared; the bits are being saved.
    pub(in crate::resource) finishing: bool,
}

impl Verify {
    /// Everything below was compared, bytes.
    pub(crate) fn position(&self) -> u64 {
        let open = self.pieces.values().map(|piece| piece.offset).min();
        open.unwrap_or(self.cursor).min(self.cursor).max(self.start)
    }

    /// What the pieces under way do not make up for: not compared yet, bytes.
    fn left(&self) -> u64 {
        let open: u64 = self.pieces.values().map(|piece| u64::from(piece.length)).sum();
        self.stop.saturating_sub(self.cursor) + open
    }
}

impl Resource {
    /// Whether a verify may begin.
    pub(crate) fn may_verify(&self, c: usize, volume: VolumeNumber) -> Result<(), Refusal> {
        let (device, connection) = (&self.devices[&volume], &self.connections[c]);
        let peer = &connection.peer_devices[&volume];
        let name = &self.config.name;
        if connection.stage != Stage::Open || connection.leaving.is_some() {
            let hint =
                format!("Connect the peer first; `tandemadm why {name}` says what is wrong.");
            return Err(refuse(-15, &hint));
        }
        if peer.target.is_some() || peer.source.is_some() {
            return Err(refuse(-8, "Wait for its end: tandemadm wait-sync"));
        }
        if let Some(verify) = &peer.verify {
            let at = if verify.source { &self.config.node_name } else { &connection.name };
            let hint = format!(
                "A verify runs. Wait for its end (`tandemadm wait-sync {name}`), or stop it on {at}: \
                 `tandemadm verify --stop 0 {name}/{volume}`."
            );
            return Err(refuse(-8, &hint));
        }
        if device.disk != DiskState::UpToDate {
            return Err(refuse(
                -4,
                "The own disk must be UpToDate: attach it, wait for its resync.",
            ));
        }
        if peer.peer_disk != DiskState::UpToDate {
            return Err(refuse(-5, "The peer's disk must be UpToDate: attach it there first."));
        }
        if peer.replication != ReplicationState::Established {
            return Err(refuse(-18, "Try again in a moment."));
        }
        Ok(())
    }

    pub(in crate::resource) fn verify_begins(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        source: bool,
        (start, length): (u64, u64),
        alg: VerifyAlg,
    ) {
        let rate = ResyncRate::new(&self.config.disk_options(volume), self.now, length);
        self.peer_device(c, volume).verify = Some(Verify {
            source,
            alg,
            rate,
            start,
            stop: start + length,
            cursor: start,
            pieces: BTreeMap::new(),
            waiting: VecDeque::new(),
            in_flight: 0,
            found: 0,
            skipped: 0,
            run: None,
            logged: 0,
            flagged: false,
            finishing: false,
        });
        let state = if source { ReplicationState::VerifyS } else { ReplicationState::VerifyT };
        self.set_replication(c, volume, state);
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.flags(DeviceFlags::VERIFY_MARKS, 0);
        }
        if let Some(socket) = self.connections[c].active {
            self.save_superblock(volume, Then::VerifyFlagged { c, socket });
        }
        let text = format!(
            "{}Starting Online Verify from sector {} (to sector {}, {})",
            self.of_both(volume, c),
            start / SECTOR,
            (start + length) / SECTOR,
            alg.name()
        );
        self.log(LogLevel::Info, text);
    }

    /// Bits of a verify can be told from others, whatever happens.
    pub(crate) fn verify_flagged(&mut self, c: usize, volume: VolumeNumber) {
        if let Some(verify) = self.peer_device(c, volume).verify.as_mut() {
            verify.flagged = true;
            self.pump_verify(c, volume);
        }
    }

    /// What a verify may do now, on both sides.
    pub(in crate::resource) fn pump_verify(&mut self, c: usize, volume: VolumeNumber) {
        let Some(verify) = &self.connections[c].peer_devices[&volume].verify else { return };
        let source = verify.source;
        let connection = &self.connections[c];
        let peer = &connection.peer_devices[&volume];
        let why = if connection.stage != Stage::Open {
            "a new handshake"
        } else if connection.leaving.is_some() {
            "the connection ends"
        } else if self.devices[&volume].disk != DiskState::UpToDate {
            "the own disk"
        } else if peer.peer_disk != DiskState::UpToDate {
            "the peer's disk"
        } else if !verify.flagged {
            return;
        } else if source {
            self.verify_asks(c, volume);
            return self.verify_finishes(c, volume);
        } else {
            return self.verify_target_reads(c, volume);
        };
        self.verify_stops(c, volume, why);
    }

    /// A range is held here. Whether it is one of a verify.
    pub(in crate::resource) fn verify_range_granted(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        id: u64,
    ) -> bool {
        let now = self.now;
        let Some(verify) = self.peer_device(c, volume).verify.as_ref() else { return false };
        if !verify.source {
            return self.verify_target_granted(c, volume, id);
        }
        let Some(piece) = verify.pieces.get(&id) else { return false };
        let (offset, length) = (piece.offset, piece.length);
        let kind = SentKind::Verify;
        let sequence = self.track(c, volume, kind, offset, u64::from(length), 0, id);
        let verify = self.peer_device(c, volume).verify.as_mut().expect("just seen");
        let piece = verify.pieces.get_mut(&id).expect("just seen");
        (piece.sequence, piece.sent_at) = (sequence, Some(now));
        self.send(c, Packet::VerifyRequest { volume, sequence, offset, length }, None);
        true
    }

    /// Packets of a verify. `false`: the peer must not send this now. What belongs to a verify that
    /// has ended here meanwhile is let pass.
    pub(crate) fn verify_packet(&mut self, c: usize, socket: SocketId, packet: Packet) -> bool {
        match packet {
            Packet::VerifyStart { volume, offset, length, alg } => {
                self.peer_verifies(c, volume, offset, length, alg)
            }
            Packet::VerifyAnswer { volume, code } => self.verify_answered(c, volume, code),
            Packet::VerifyRequest { volume, sequence, offset, length } => {
                self.verify_target_asked(c, volume, sequence, offset, length)
            }
            Packet::VerifyDigests { volume, sequence, digests } => {
                self.verify_compares(c, socket, volume, sequence, digests)
            }
            Packet::VerifyError { volume, sequence } => {
                let verify = self.peer_device(c, volume).verify.as_ref();
                if verify.is_some_and(|verify| !verify.source) {
                    self.verify_piece_ends(c, volume, sequence, true);
                } else if let Some(sent) = self.take_sent(c, volume, sequence, is_verify) {
                    self.verify_piece_ends(c, volume, sent.epoch, true);
                }
                true
            }
            Packet::VerifyResult { volume, sequence, differing } => {
                self.verify_target_told(c, volume, sequence, &differing)
            }
            Packet::VerifyEnd { volume, position, done } => {
                self.verify_ended_by_peer(c, volume, position, done);
                true
            }
            _ => false,
        }
    }

    /// A piece was read on the own disk, for either side.
    pub(crate) fn verify_read(
        &mut self,
        volume: VolumeNumber,
        pending: Pending,
        result: Result<Option<Payload>, DiskError>,
    ) {
        let Pending::VerifyRead { c, socket, key } = pending else { return };
        let payload = result.ok().flatten();
        let current = self.is_current(c, socket);
        let verify = self.peer_device(c, volume).verify.as_ref().filter(|_| current);
        let of = verify.and_then(|v| v.pieces.get(&key).map(|piece| (v.alg, piece.sequence)));
        let Some((alg, sequence)) = of else { return self.release(payload) };
        match payload {
            Some(payload) => {
                self.device(volume).counters.read += u64::from(payload.length);
                self.take_digests(volume, pending, payload, alg);
            }
            None => {
                self.send(c, Packet::VerifyError { volume, sequence }, None);
                self.verify_piece_ends(c, volume, key, true);
            }
        }
    }

    /// `Event::BlocksDigested`.
    pub(crate) fn blocks_digested(&mut self, tag: Tag, digests: Vec<u8>) {
        let Some((volume, _, pending)) = self.tags.remove(tag.0) else { return };
        let (c, socket, key) = match pending {
            Pending::VerifyRead { c, socket, key } => (c, socket, key),
            Pending::SourceRead { c, socket, sequence } if self.is_current(c, socket) => {
                return self.source_digested(c, volume, sequence, digests);
            }
            Pending::TargetRead { c, socket, piece } if self.is_current(c, socket) => {
                return self.target_compared(c, volume, piece, Some(digests));
            }
            _ => return,
        };
        let current = self.is_current(c, socket);
        let Some(verify) = self.peer_device(c, volume).verify.as_ref().filter(|_| current) else {
            return;
        };
        let Some(piece) = verify.pieces.get(&key) else { return };
        let (sequence, source) = (piece.sequence, verify.source);
        if !source {
            return self.verify_target_answers(c, volume, key, digests);
        }
        let size = verify.alg.size();
        let blocks = piece.digests.chunks(size).zip(digests.chunks(size));
        let mut differing = vec![0; usize::try_from(piece.length / 4096).unwrap_or(1).div_ceil(64)];
        for (block, (theirs, own)) in blocks.enumerate() {
            differing[block / 64] |= u64::from(theirs != own) << (block % 64);
        }
        self.verify_marks(c, volume, key, &differing);
        self.send(c, Packet::VerifyResult { volume, sequence, differing }, None);
        self.verify_piece_ends(c, volume, key, false);
    }

    /// Sets the bits of the blocks of a piece that differ, and counts and logs them.
    pub(in crate::resource) fn verify_marks(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        key: u64,
        differing: &[u64],
    ) {
        let Some(verify) = self.peer_device(c, volume).verify.as_ref() else { return };
        let Some(piece) = verify.pieces.get(&key) else { return };
        let (offset, blocks) = (piece.offset, u64::from(piece.length) / BLOCK_SIZE);
        let differs = |block: u64| {
            let word = usize::try_from(block / 64).ok().and_then(|word| differing.get(word));
            word.is_some_and(|word| word >> (block % 64) & 1 == 1)
        };
        let found: Vec<u64> = (0..blocks).filter(|block| differs(*block)).collect();
        for block in &found {
            let at = offset + block * BLOCK_SIZE;
            let peer = self.peer_device(c, volume);
            peer.bitmap.mark(at / BLOCK_SIZE, 1);
            let verify = peer.verify.as_mut().expect("seen above");
            verify.found += BLOCK_SIZE;
            match verify.run.as_mut() {
                Some(run) if run.0 + run.1 == at => run.1 += BLOCK_SIZE,
                _ => {
                    self.log_out_of_sync(c, volume);
                    let verify = self.peer_device(c, volume).verify.as_mut().expect("seen above");
                    verify.run = Some((at, BLOCK_SIZE));
                }
            }
        }
        if !found.is_empty() {
            self.save_marks(c, volume, Then::Log);
            self.changed();
        }
    }

    /// The last range that was found, in DRBD's form.
    fn log_out_of_sync(&mut self, c: usize, volume: VolumeNumber) {
        let prefix = self.of_both(volume, c);
        let Some(verify) = self.peer_device(c, volume).verify.as_mut() else { return };
        let Some((start, length)) = verify.run.take() else { return };
        verify.logged += 1;
        let text = match verify.logged {
            ..LOGGED_MAX => format!(
                "{prefix}Out of sync: start={}, size={} (sectors)",
                start / SECTOR,
                length / SECTOR
            ),
            LOGGED_MAX => format!("{prefix}Out of sync: more ranges, which are only counted"),
            _ => return,
        };
        self.log(LogLevel::Error, text);
    }

    /// Makes the bits durable, where nobody does so already.
    pub(in crate::resource) fn save_marks(&mut self, c: usize, volume: VolumeNumber, then: Then) {
        let waits = !self.peer_device(c, volume).save_queue.is_empty();
        if !waits || !matches!(then, Then::Log) {
            self.save_bitmap(c, volume, Save::Unsaved, then);
        }
    }

    /// A piece is over, compared or not (`skipped`): its range is free.
    pub(in crate::resource) fn verify_piece_ends(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        key: u64,
        skipped: bool,
    ) {
        let now = self.now;
        let prefix = self.of_both(volume, c);
        let Some(verify) = self.peer_device(c, volume).verify.as_mut() else { return };
        let Some(piece) = verify.pieces.remove(&key) else { return };
        let bytes = u64::from(piece.length);
        if piece.lock == 0 {
            verify.waiting.retain(|waiting| *waiting != key);
        } else {
            verify.in_flight -= bytes;
        }
        if skipped {
            verify.skipped += bytes;
            verify.rate.failed(bytes);
        } else {
            let latency = piece.sent_at.map_or(0, |at| now.ms_since(at));
            verify.rate.completed(now, bytes, latency);
        }
        if skipped {
            let text = format!(
                "{prefix}a disk cannot read {bytes} bytes at {}: they are not compared",
                piece.offset
            );
            self.log(LogLevel::Error, text);
        }
        self.unlock_resync(c, volume, piece.lock);
    }

    /// It cannot go on in this session; the peer is told.
    pub(in crate::resource) fn verify_stops(&mut self, c: usize, volume: VolumeNumber, why: &str) {
        let Some(verify) = self.peer_device(c, volume).verify.as_ref() else { return };
        let position = verify.position();
        self.send(c, Packet::VerifyEnd { volume, position, done: false }, None);
        self.verify_over(c, volume, Err(why));
        self.set_replication(c, volume, ReplicationState::Established);
    }

    fn verify_ended_by_peer(&mut self, c: usize, volume: VolumeNumber, position: u64, done: bool) {
        let Some(verify) = self.peer_device(c, volume).verify.as_ref() else { return };
        let done = done && !verify.source && (verify.start..=verify.stop).contains(&position);
        self.save_marks(c, volume, Then::Log);
        self.verify_over(c, volume, if done { Ok(position) } else { Err("the peer has ended it") });
        if self.connections[c].stage == Stage::Open {
            self.set_replication(c, volume, ReplicationState::Established);
        }
    }

    /// A verify is over, at its end (`Ok`, up to where), or before it, for the reason that `Err`
    /// tells: it is logged and remembered, and its ranges are let go of. The caller sets the
    /// replication state.
    pub(crate) fn verify_over(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        outcome: Result<u64, &str>,
    ) {
        self.log_out_of_sync(c, volume);
        let Some(verify) = self.peer_device(c, volume).verify.take() else { return };
        let prefix = self.of_both(volume, c);
        let position = outcome.unwrap_or_else(|_| verify.position());
        let (at, found) = (position / SECTOR, verify.found);
        let text = match outcome {
            Ok(_) => {
                let progress = verify.rate.progress(self.now, 0);
                let kib = (position - verify.start) / 1024;
                format!(
                    "{prefix}Online verify done (total {} sec; paused 0 sec; {} K/sec), to sector {at}",
                    progress.elapsed_ms / 1000,
                    kib.saturating_mul(1000) / progress.elapsed_ms.max(1),
                )
            }
            Err(why) => format!(
                "{prefix}Online verify reached sector {at} and ends ({why}); `tandemadm verify \
                 --start {at} {}/{volume}` goes on there",
                self.config.name
            ),
        };
        self.log(LogLevel::Info, text);
        if found > 0 {
            if outcome.is_ok() {
                self.tell(Handler::OutOfSync, Some(volume), Some(c));
            }
            let text =
                format!("{prefix}Online verify found {} 4k block out of sync!", found / BLOCK_SIZE);
            self.log(LogLevel::Error, text);
        }
        let time = self.wall();
        self.connections[c].sent.retain(|_, sent| sent.volume != volume || !is_verify(&sent.kind));
        let peer = self.peer_device(c, volume);
        peer.last_verify = Some(LastVerify {
            time,
            start: verify.start,
            position,
            done: outcome.is_ok(),
            found,
            skipped: verify.skipped,
        });
        let marks = peer.bitmap.count() > 0;
        if let Some(backing) = self.device(volume).backing.as_mut().filter(|_| !marks) {
            // Written with the next change: without bits it says nothing.
            backing.flags(0, DeviceFlags::VERIFY_MARKS);
        }
        self.drop_resync_locks(c, volume);
        self.changed();
    }

    /// When a verify has something to do.
    pub(in crate::resource) fn verify_timeout(
        &self,
        c: usize,
        volume: VolumeNumber,
    ) -> Option<Time> {
        let connection = &self.connections[c];
        let verify = connection.peer_devices[&volume].verify.as_ref()?;
        let asks = verify.source && verify.cursor < verify.stop && connection.stage == Stage::Open;
        if asks { verify.rate.next_time(self.now) } else { None }
    }

    /// Progress of a verify, for people.
    pub(crate) fn verify_progress(&self, c: usize, volume: VolumeNumber) -> Option<VerifyStatus> {
        let verify = self.connections[c].peer_devices[&volume].verify.as_ref()?;
        Some(VerifyStatus {
            start: verify.start,
            stop: verify.stop,
            position: verify.position(),
            found: verify.found,
            skipped: verify.skipped,
            progress: verify.rate.progress(self.now, verify.left()),
        })
    }
}

pub(in crate::resource) fn is_verify(kind: &SentKind) -> bool {
    matches!(kind, SentKind::Verify)
}
