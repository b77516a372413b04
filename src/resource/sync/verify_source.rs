//! The VerifyS: the node where the verify was ordered. It asks, and compares.
//!
//! Invariants:
//! - A piece is asked for only with its range held here, until it is compared.
//! - The own disk is read only after the peer's digests came: the peer holds the range then as well.

use crate::resource::data::interval::Kind;
use crate::resource::orders::order::{NO_VOLUME, Step, refuse};
use crate::resource::peer::connection::{Sent, SentKind};
use crate::resource::sync::resync_rate::REQUEST;
use crate::resource::sync::verify::{SECTOR, VerifyPiece, is_verify};
use crate::resource::{
    Action, BLOCK_SIZE, Command, NodeId, Pending, ReplicationState, Resource, SocketId, Then,
    VolumeNumber,
};
use crate::wire::Packet;

/// Bytes of one piece: what a write may have to wait for.
const PIECE: u64 = 128 << 10;

impl Resource {
    /// The order. `start` and `stop` in bytes.
    pub(crate) fn verify(
        &mut self,
        id: u64,
        volume: VolumeNumber,
        peer: NodeId,
        start: Option<u64>,
        stop: Option<u64>,
    ) {
        let found = self.peers().find(|c| self.connections[*c].peer == peer);
        let Some(c) = found else {
            return self.reply(id, Err(refuse(127, "No such peer in this resource")));
        };
        if !self.devices.contains_key(&volume) {
            return self.reply(id, Err(refuse(127, NO_VOLUME)));
        }
        let own = self.peer_device(c, volume).verify.as_mut().filter(|verify| verify.source);
        if let (Some(verify), Some(stop), None) = (own, stop, start) {
            // The running one ends there; what is under way is compared.
            let stop = stop.saturating_add(BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE;
            verify.stop = stop.clamp(verify.cursor, verify.stop);
            self.changed();
            return self.reply(id, Ok(String::new()));
        }
        if let Err(refusal) = self.may_verify(c, volume) {
            return self.reply(id, Err(refusal));
        }
        let size = self.devices[&volume].size;
        let offset = start.unwrap_or(0) / BLOCK_SIZE * BLOCK_SIZE;
        let end = stop.map_or(size, |stop| size.min(stop.saturating_add(BLOCK_SIZE - 1)));
        let end = end / BLOCK_SIZE * BLOCK_SIZE;
        if offset >= end {
            let hint = match stop {
                // The order that ends one.
                Some(0) => "No verify that was ordered here runs.".to_owned(),
                Some(_) if offset < size => "The stop has to be behind the start.".to_owned(),
                _ => format!("Nothing lies there: the volume has {} sectors.", size / SECTOR),
            };
            return self.reply(id, Err(refuse(162, &hint)));
        }
        let (alg, length) = (self.config.options.verify_alg, end - offset);
        self.run(id, Command::Verify { volume, peer, start, stop }, Step::AskVerify);
        let step = self.order_step;
        self.track(c, volume, SentKind::VerifyStart, offset, length, 0, step);
        self.send(c, Packet::VerifyStart { volume, offset, length, alg }, None);
    }

    /// The peer's answer to `VerifyStart`.
    pub(in crate::resource) fn verify_answered(
        &mut self,
        c: usize,
        volume: VolumeNumber,
        code: i32,
    ) -> bool {
        let asked =
            |sent: &Sent| sent.volume == volume && matches!(sent.kind, SentKind::VerifyStart);
        let sent = self.connections[c].sent.iter().find(|(_, sent)| asked(sent));
        let Some(sequence) = sent.map(|(sequence, _)| *sequence) else { return false };
        let sent = self.connections[c].sent.remove(&sequence).expect("just seen");
        let running = self.running.as_ref();
        let waits = running.is_some_and(|running| running.step == Step::AskVerify)
            && sent.epoch == self.order_step;
        let refusal = match code {
            0 => self.may_verify(c, volume).err(),
            code => {
                let peer = &self.connections[c].name;
                Some(refuse(code, &format!("{peer} says so; see `tandemadm why` there.")))
            }
        };
        match refusal {
            None => {
                let alg = self.config.options.verify_alg;
                self.verify_begins(c, volume, true, (sent.offset, sent.length), alg);
                if waits {
                    self.finish(Ok(String::new()));
                }
            }
            Some(refusal) => {
                if code == 0 {
                    let (position, done) = (sent.offset, false);
                    self.send(c, Packet::VerifyEnd { volume, position, done }, None);
                }
                if waits {
                    self.finish(Err(refusal));
                }
            }
        }
        true
    }

    /// The peer was lost while it was asked.
    pub(crate) fn verify_unanswered(&mut self) {
        if self.running.as_ref().is_some_and(|running| running.step == Step::AskVerify) {
            self.finish(Err(refuse(-15, "The peer was lost.")));
        }
    }

    pub(in crate::resource) fn verify_asks(&mut self, c: usize, volume: VolumeNumber) {
        let now = self.now;
        let window = self.window_for_resync().max(PIECE);
        let active = self.admitted > 0 || self.peer_writes.len() > 0;
        loop {
            let verify = self.peer_device(c, volume).verify.as_mut().expect("the caller has it");
            if verify.finishing || verify.cursor >= verify.stop || verify.in_flight >= window {
                return;
            }
            let allowance = verify.rate.allowance(now, active);
            // No crumbs, as in a resync: what the rate allows a little later goes in one piece.
            let wanted = (verify.stop - verify.cursor).min(PIECE - verify.cursor % PIECE);
            if allowance < wanted.min(REQUEST) {
                return;
            }
            let blocks = (allowance / BLOCK_SIZE).clamp(1, PIECE / BLOCK_SIZE);
            let offset = verify.cursor;
            // Pieces end at multiples of their size, as the blocks of a file system do.
            let border = (offset / PIECE + 1) * PIECE;
            let end = (offset + blocks * BLOCK_SIZE).min(border).min(verify.stop);
            let length = u32::try_from(end - offset).expect("at most 128 KiB");
            verify.cursor = end;
            verify.in_flight += u64::from(length);
            verify.rate.requested(u64::from(length));
            let lock = self.resync_lock();
            let piece = VerifyPiece {
                offset,
                length,
                lock,
                sequence: 0,
                sent_at: None,
                digests: Vec::new(),
            };
            let verify = self.peer_device(c, volume).verify.as_mut().expect("seen above");
            verify.pieces.insert(lock, piece);
            self.hold(c, volume, lock, offset..end, Kind::Shared);
        }
    }

    /// The peer's digests came: the own blocks are read now, with the range held on both nodes.
    pub(in crate::resource) fn verify_compares(
        &mut self,
        c: usize,
        socket: SocketId,
        volume: VolumeNumber,
        sequence: u64,
        digests: Vec<u8>,
    ) -> bool {
        let Some(sent) = self.take_sent(c, volume, sequence, is_verify) else { return true };
        let verify = self.peer_device(c, volume).verify.as_mut();
        let Some(verify) = verify.filter(|verify| verify.source) else { return true };
        let size = verify.alg.size();
        let Some(piece) = verify.pieces.get_mut(&sent.epoch) else { return true };
        let blocks = usize::try_from(sent.length / BLOCK_SIZE).expect("at most 32");
        if digests.len() != blocks * size {
            return false;
        }
        piece.digests = digests;
        let (offset, length) = (piece.offset, piece.length);
        let pending = Pending::VerifyRead { c, socket, key: sent.epoch };
        let tag = self.disk_tag(volume, pending);
        self.emit(Action::DiskRead { tag, volume, offset, length, find_zeroes: false });
        true
    }

    /// Everything was compared: the bits are saved, then it is said.
    pub(in crate::resource) fn verify_finishes(&mut self, c: usize, volume: VolumeNumber) {
        let Some(socket) = self.connections[c].active else { return };
        let verify = self.peer_device(c, volume).verify.as_mut().expect("the caller has it");
        if verify.finishing || verify.cursor < verify.stop || !verify.pieces.is_empty() {
            return;
        }
        verify.finishing = true;
        self.save_marks(c, volume, Then::VerifySaved { c, socket });
    }

    /// VerifyS: what was found is durable here.
    pub(crate) fn verify_saved(&mut self, c: usize, volume: VolumeNumber) {
        let verify = self.peer_device(c, volume).verify.as_ref();
        let Some(verify) = verify.filter(|verify| verify.finishing) else { return };
        let position = verify.position();
        self.send(c, Packet::VerifyEnd { volume, position, done: true }, None);
        self.verify_over(c, volume, Ok(position));
        self.set_replication(c, volume, ReplicationState::Established);
    }
}
