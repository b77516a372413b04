//! Flushes of both disks, and the bound of the transfer log.
//!
//! Invariants:
//! - One flush of a volume runs and one waits; later ones join the waiting one.
//! - A flush is answered when the own disk and every replicating peer's disk have flushed (promise 1);
//!   if a peer is lost in between, when the loss sequence is over (model.md R2b).
//! - A flush covers only writes that had completed before it started.

use crate::resource::data::peer_io::PEER_WRITE;
use crate::resource::disk::device::{Flush, Loss, Progress, RequestKind};
use crate::resource::peer::connection::{SentKind, Stage};
use crate::resource::{
    Action, DiskError, Pending, ReplyError, Resource, Role, Then, VolumeNumber,
    data::activity_log::Next,
};
use crate::wire::Packet;

impl Resource {
    /// Flushes both disks: for a client's request, or with what follows.
    pub(crate) fn flush_for(
        &mut self,
        volume: VolumeNumber,
        request: Option<u64>,
        then: Option<Then>,
    ) {
        if let (Some(key), None) = (request, &then) {
            self.device(volume).cache.flush_begins();
            if self.nothing_to_flush(volume) {
                return self.answer(key, Ok(None));
            }
        }
        let device = self.device(volume);
        let spare = &mut device.spare_waiters;
        let waiting = device.next_flush.get_or_insert_with(|| spare.pop().unwrap_or_default());
        waiting.0.extend(request);
        waiting.1.extend(then);
        self.pump_flush(volume);
    }

    /// Every write that was answered is durable on every disk that has to have it.
    fn nothing_to_flush(&self, volume: VolumeNumber) -> bool {
        let device = &self.devices[&volume];
        device.cache.is_empty(self.version)
            && device.flush.is_none()
            && device.next_flush.is_none()
            && device.loss == Loss::None
            && !device.bumping
            && !self.io_frozen()
            && self.data_is_reachable(volume)
    }

    /// A write of the volume is on its way to a disk, or was: some disk may have it.
    fn writes_are_under_way(&self, volume: VolumeNumber) -> bool {
        self.requests.iter().any(|(_, request)| {
            let writes = matches!(request.kind, RequestKind::Write | RequestKind::Zeroes { .. });
            let started = request.begun || request.progress >= Progress::Started;
            request.volume == volume && writes && started
        })
    }

    /// Starts the waiting flush if none runs.
    pub(crate) fn pump_flush(&mut self, volume: VolumeNumber) {
        let device = self.device(volume);
        if device.flush.is_some() || device.loss != Loss::None {
            return;
        }
        let Some((requests, then)) = device.next_flush.take() else { return };
        let covers = (!self.writes_are_under_way(volume))
            .then(|| self.devices[&volume].cache.covered_now(self.version));
        let device = self.device(volume);
        let epoch = device.epoch;
        device.epoch += 1;
        let local = device.writable();
        device.flush =
            Some(Flush { epoch, local, peers: 0, failed: false, covers, requests, then });
        if local {
            if self.config.disk_options(volume).disk_flushes {
                let tag = self.disk_tag(volume, Pending::GroupFlush { epoch });
                self.emit(Action::DiskFlush { tag, volume });
            } else {
                self.device(volume).flush.as_mut().expect("just set").local = false;
            }
        }
        for c in self.peers() {
            let connection = &self.connections[c];
            if connection.stage > Stage::Down && connection.peer_devices[&volume].replicates() {
                let sequence = self.track(c, volume, SentKind::Flush, 0, 0, 0, epoch);
                self.send(c, Packet::Flush { volume, sequence }, None);
                self.device(volume).flush.as_mut().expect("just set").peers |= 1 << c;
            }
        }
        self.flush_completed(volume);
    }

    /// The own disk has flushed, or failed.
    pub(crate) fn group_flush_done(
        &mut self,
        volume: VolumeNumber,
        epoch: u64,
        result: Result<(), DiskError>,
    ) {
        if let Some(flush) = self.device(volume).flush.as_mut().filter(|f| f.epoch == epoch) {
            flush.local = false;
            flush.failed |= result.is_err();
            self.flush_completed(volume);
        }
    }

    /// The peer has flushed (`ok`), its disk failed, or it is lost.
    pub(crate) fn peer_flush_done(&mut self, c: usize, volume: VolumeNumber, epoch: u64, ok: bool) {
        if ok {
            self.peer_device(c, volume).transfer_log.flushed(epoch);
        }
        if let Some(flush) = self.device(volume).flush.as_mut().filter(|f| f.epoch == epoch) {
            flush.peers &= !(1 << c);
            flush.failed |= !ok;
            self.flush_completed(volume);
        }
    }

    /// Everyone has answered: replies, unless a loss has to be dealt with first.
    pub(crate) fn flush_completed(&mut self, volume: VolumeNumber) {
        let device = self.device(volume);
        let Some(flush) = &device.flush else { return };
        if flush.local || flush.peers != 0 || device.loss != Loss::None || device.bumping {
            return;
        }
        if self.flush_is_frozen(volume) {
            return;
        }
        let mut flush = self.device(volume).flush.take().expect("just seen");
        let reachable = self.data_is_reachable(volume);
        let awaited = !flush.requests.is_empty() || !flush.then.is_empty();
        if flush.failed && reachable && awaited && self.role == Role::Primary {
            // One of the disks is gone. What was answered may now rest on one disk alone: that is
            // recorded before this flush is answered.
            if !self.alone_is_recorded(volume) {
                self.device(volume).flush = Some(flush);
                return;
            }
        }
        if !flush.failed {
            let device = self.device(volume);
            device.flushed_epoch = flush.epoch;
            device.cache.flushed(flush.covers);
        } else if reachable && awaited {
            // The disk that is left is flushed again: the failed flush may have been its own.
            let device = self.device(volume);
            let waiting = device.next_flush.get_or_insert_with(Default::default);
            waiting.0.extend(flush.requests);
            waiting.1.extend(flush.then);
            return self.pump_flush(volume);
        }
        let result = if reachable { Ok(None) } else { Err(ReplyError::Io) };
        for key in flush.requests.drain(..) {
            self.answer(key, result);
        }
        for then in flush.then.drain(..) {
            self.follow(volume, then);
        }
        self.device(volume).spare_waiters.push((flush.requests, flush.then));
        self.pump_log(volume);
        self.pump_flush(volume);
    }

    /// The transfer log is bounded: at its bound the peer is asked to flush.
    pub(crate) fn transfer_log_bound(&mut self, volume: VolumeNumber) {
        let bound = self.config.options.max_epoch_size;
        let full =
            self.connections.iter().any(|c| c.peer_devices[&volume].transfer_log.is_full(bound));
        let device = self.device(volume);
        if full && device.next_flush.is_none() && device.flush.is_none() {
            self.flush_for(volume, None, None);
        }
    }

    /// Extents for those who wait for the activity log: evicts clean ones, makes others clean.
    pub(crate) fn pump_log(&mut self, volume: VolumeNumber) {
        loop {
            let Some(backing) = self.device(volume).backing.as_mut() else { return };
            let Some(key) = backing.activity_log.ready() else { break };
            if key & PEER_WRITE == 0 {
                self.log_ready(key);
            } else {
                self.peer_write_ready(key);
            }
        }
        let device = &self.devices[&volume];
        let waits = device.backing.as_ref().is_some_and(|disk| disk.activity_log.has_waiters());
        if !waits || !device.writable() {
            return;
        }
        let clean = self.clean_extents(volume, false);
        let backing = self.device(volume).backing.as_mut().expect("seen above");
        let grows = clean.replicating;
        match backing.activity_log.next(grows, |extent, stamp| clean.is(extent, stamp)) {
            Next::Nothing | Next::Full => {}
            Next::Write(blocks) => self.write_log(volume, blocks),
            Next::Clean(extents) => self.clean_log(volume, &extents),
        }
    }
}
