//! A disk that neither answers nor fails.
//!
//! Invariants:
//! - An operation that has not ended within `disk-timeout` fails its disk, as an I/O error does. Its
//!   buffers stay in use until the system gives them back, and so does the disk.
//! - A move of metadata (`resize`) is no single operation: it is called hung, and given up by order only.
//! - Nobody is kept for ever by a disk that hangs: an attach is refused, a `down` and the end of the
//!   daemon go on without it, and without a peer whose disk hangs.
//! - Time that this process did not run is not the disk's.

use crate::resource::disk::device::Device;
use crate::resource::orders::order::{Order, Step, refuse};
use crate::resource::peer::connection::Stage;
use crate::resource::{
    Command, DiskOptions, Gap, LogLevel, Pending, Refusal, Resource, Time, VolumeNumber,
};

/// From when on an operation is called hung, ms.
pub(crate) const HUNG_MS: u64 = 5_000;
/// How long the end of the daemon waits for a disk, ms: the unit gives it a minute for everything.
const SHUTDOWN_MS: u64 = 20_000;
/// How long any other order does.
const PATIENCE_MS: u64 = crate::resource::orders::order::PATIENCE_MS;
/// The start of what is no operation of a disk.
pub(crate) const NEVER: Time = Time(u64::MAX);

/// How long operations of a disk may take before somebody looks: shortest first.
fn limits(options: DiskOptions) -> [u64; 2] {
    let timeout = if options.disk_timeout_ms == 0 { u64::MAX } else { options.disk_timeout_ms };
    [HUNG_MS.min(timeout), HUNG_MS.max(timeout)]
}

impl Resource {
    /// An operation of a disk starts.
    pub(crate) fn disk_is_asked(&mut self) {
        if self.look_at_disks.is_none() {
            self.look_at_disks = Some(self.now.after_ms(self.shortest_limit()));
        }
    }

    /// Whatever begins from now on on any disk, nobody has to look before that, ms.
    fn shortest_limit(&self) -> u64 {
        let volumes = self.volume_numbers.iter();
        let first = volumes.map(|volume| limits(self.config.disk_options(*volume))[0]);
        first.min().unwrap_or(HUNG_MS)
    }

    /// One has ended.
    pub(crate) fn disk_has_answered(&mut self, volume: VolumeNumber) {
        if self.devices[&volume].hung_since.is_some() {
            self.look_at_disks = Some(self.now);
        }
    }

    /// The limits are others now.
    pub(crate) fn look_at_all_disks(&mut self) {
        self.look_at_disks = Some(self.now);
    }

    /// This process did not run: what is under way gets its whole time again.
    pub(crate) fn disks_start_anew(&mut self) {
        let now = self.now;
        for tag in self.tags.keys() {
            if let Some((_, since, _)) = self.tags.get_mut(tag).filter(|(_, s, _)| *s != NEVER) {
                *since = now;
            }
        }
        for device in self.devices.values_mut() {
            device.hung_since = None;
        }
        self.look_at_disks = Some(now);
    }

    /// Looks at the oldest operation of each disk, when one may have become too old.
    pub(crate) fn check_disks(&mut self) {
        let now = self.now;
        if self.look_at_disks.is_none_or(|at| at > now) {
            return;
        }
        self.look_at_disks = None;
        for volume in self.volumes() {
            // The move of metadata is many operations: `disk-timeout` is not for all of them.
            let (mut oldest, mut single) = (None::<Time>, None::<Time>);
            for (_, (of, since, pending)) in self.tags.iter() {
                if *of != volume || *since == NEVER {
                    continue;
                }
                let earlier = |other: Option<Time>| other.map_or(*since, |at| at.min(*since));
                oldest = Some(earlier(oldest));
                if !matches!(pending, Pending::Growing) {
                    single = Some(earlier(single));
                }
            }
            self.note_hung(volume, oldest);
            if let Some(at) = self.parting_ends(volume) {
                self.look_at_disks = Some(self.look_at_disks.map_or(at, |next| next.min(at)));
            }
            let Some(oldest) = oldest else { continue };
            let options = self.config.disk_options(volume);
            let waited = single.map_or(0, |since| now.ms_since(since));
            let timeout = options.disk_timeout_ms;
            if timeout > 0 && waited >= timeout && !self.devices[&volume].abandoned() {
                let seconds = format!("{}.{}", timeout / 1000, timeout % 1000 / 100);
                self.give_disk_up_as_hung(
                    volume,
                    format!("it did not answer for {seconds} s (disk-timeout)"),
                );
            }
            let ends =
                |since: Time| limits(options).map(|limit| Time(since.0.saturating_add(ns(limit))));
            let limits = [Some(oldest), single].into_iter().flatten().flat_map(ends);
            for at in limits.chain([now.after_ms(self.shortest_limit())]) {
                if at > now && at != NEVER {
                    self.look_at_disks = Some(self.look_at_disks.map_or(at, |next| next.min(at)));
                }
            }
        }
    }

    /// The oldest operation of a disk is from then.
    fn note_hung(&mut self, volume: VolumeNumber, oldest: Option<Time>) {
        let now = self.now;
        let since = oldest.filter(|oldest| now.ms_since(*oldest) >= HUNG_MS);
        let before = std::mem::replace(&mut self.device(volume).hung_since, since);
        let prefix = self.of_volume(volume);
        match (before, since) {
            (None, Some(since)) => {
                let seconds = now.ms_since(since) / 1000;
                let text = format!("{prefix}the disk does not answer for {seconds} s");
                self.log(LogLevel::Error, text);
                self.changed();
            }
            (Some(before), None) => {
                let seconds = now.ms_since(before) / 1000;
                let text = format!("{prefix}the disk answers again, after {seconds} s");
                self.log(LogLevel::Warning, text);
                self.changed();
            }
            _ => {}
        }
    }

    /// The disk hangs, and is left as after an I/O error. What an order waits for goes on without
    /// it; an attach has failed.
    pub(crate) fn give_disk_up_as_hung(&mut self, volume: VolumeNumber, note: String) {
        let only_hung = self.only_hangs(volume);
        if !self.devices[&volume].gone() {
            self.give_disk_up(volume, note, "given up");
            self.drop_handshakes();
        }
        self.abandon_operations(volume);
        if let Some(backing) = self.device(volume).backing.as_mut() {
            backing.only_hung = only_hung;
        }
        self.attach_failed(volume);
    }

    /// Until when the running order waits for a disk that hangs; `None`: for ever. Where a `down`
    /// waits for its turn, not longer than that would.
    fn order_patience(&self) -> Option<Time> {
        let running = self.running.as_ref()?;
        let down = |order: &Order| match order.command {
            Command::Down { shutdown } => Some((order.since, shutdown)),
            _ => None,
        };
        let (since, patience) =
            match (&running.command, running.step, self.orders.iter().find_map(down)) {
                (_, Step::Attach, Some(_)) => (running.since, 0),
                (_, Step::Attach, None) => (running.since, PATIENCE_MS),
                (Command::Down { shutdown: true }, ..) => (running.since, SHUTDOWN_MS),
                // Its requests have drained, and both disks were flushed.
                (
                    Command::Detach { force: false, .. },
                    Step::DetachFlush | Step::DetachBits | Step::DetachIdle,
                    None,
                ) => (running.since, PATIENCE_MS),
                // No client writes yet, or any more; and the peer may not be promoted meanwhile.
                (
                    Command::Primary { .. } | Command::AutoPromote,
                    Step::ForceFlush | Step::PromoteSave,
                    None,
                )
                | (Command::Secondary { .. }, Step::DemoteSave, None) => {
                    (running.since, PATIENCE_MS)
                }
                (.., Some((since, true))) => (since, SHUTDOWN_MS),
                // Clients' requests wait: the administrator decides.
                (_, Step::Drain, _) => return None,
                (Command::Down { shutdown: false }, ..) => (running.since, PATIENCE_MS),
                // In time for its own turn, before it is refused.
                (.., Some((since, false))) => (since, SHUTDOWN_MS),
                _ => return None,
            };
        Some(since.after_ms(patience))
    }

    /// A peer that has come back has sent its handshake: requests drain for the own one, but not while a disk hangs.
    /// Nothing would come to rest, and the volumes of other disks would stand still meanwhile.
    pub(crate) fn waits_no_more(&mut self, c: usize) {
        let connection = &self.connections[c];
        let waits = connection.stage == Stage::Waiting && connection.peer_handshake.is_some();
        let hangs = |device: &Device| device.hung_since.is_some() && !device.abandoned();
        // After a gap nobody is served before the peer was heard.
        let serves = self.gap == Gap::None;
        if waits && !(serves && self.devices.values().any(hangs)) {
            self.quiesce(c);
        }
    }

    /// The running order waits for a disk that hangs, and its time is over.
    pub(crate) fn order_meets_hung_disks(&mut self) {
        if self.order_patience().is_none_or(|until| self.now < until) {
            return;
        }
        // The only copy that can be reached is not given up for a change of the role.
        let changes_role = self.running.as_ref().is_some_and(|running| running.step.changes_role());
        let hangs = |volume: &VolumeNumber| {
            let device = &self.devices[volume];
            let other = !changes_role || self.reading_peer(*volume).is_some();
            device.hung_since.is_some() && !device.abandoned() && other
        };
        let hung: Vec<_> = self.order_volumes().into_iter().filter(hangs).collect();
        for volume in hung {
            let since = self.devices[&volume].hung_since.unwrap_or(self.now);
            let seconds = self.now.ms_since(since) / 1000;
            self.give_disk_up_as_hung(volume, format!("it did not answer for {seconds} s"));
        }
        self.end_without_silent_peers();
    }

    /// The daemon or the resource ends, and its time is over: a peer that owes an answer, as its disk
    /// hangs, is left at once. That is a loss, which this node outlives with all that was acknowledged.
    fn end_without_silent_peers(&mut self) {
        let Some(running) = self.running.as_ref() else { return };
        let (shutdown, ms, ends) = match (&running.command, running.step) {
            (Command::Down { shutdown: true }, Step::Drain | Step::Flush | Step::Leave) => {
                (true, SHUTDOWN_MS, "tandemd ends")
            }
            // What leaves in order has its own time ([`crate::resource::peer::leave`]).
            (Command::Down { shutdown: false }, Step::Flush | Step::Bits) => {
                (false, PATIENCE_MS, "the resource goes down")
            }
            _ => return,
        };
        let now = self.now;
        for c in self.peers() {
            let connection = &self.connections[c];
            let owed = connection.oldest_unanswered().map(|since| now.ms_since(since));
            let owes = if shutdown {
                connection.leaving.is_some() || owed.is_some()
            } else {
                owed.is_some_and(|ms| ms >= HUNG_MS)
            };
            if connection.stage != Stage::Down && owes {
                let text = format!(
                    "{}it did not answer for {} s, and {ends}: left without its answer",
                    self.of_peer(c),
                    ms / 1000
                );
                self.log(LogLevel::Error, text);
                self.leave_at_once(c);
            }
        }
    }

    /// When [`Self::order_meets_hung_disks`] has something to do.
    pub(crate) fn hung_order_timeout(&self) -> Option<Time> {
        // Later it is the disk's becoming hung that is waited for.
        self.order_patience().filter(|at| *at > self.now)
    }

    pub(crate) fn disk_check_timeout(&self) -> Option<Time> {
        self.look_at_disks
    }

    /// What an attach is refused with whose disk failed, or hung.
    pub(crate) fn attach_refusal(&self, volume: VolumeNumber) -> Refusal {
        match self.devices[&volume].abandoned() {
            true => refuse(
                118,
                "The disk does not answer: it was given up, and stays in use until the system lets \
                 go of what is under way on it.",
            ),
            false => refuse(
                118,
                "The disk failed while it was attached. `tandemadm why` and the log name the error; \
                 make room or replace the disk, then attach again.",
            ),
        }
    }
}

fn ns(ms: u64) -> u64 {
    ms.saturating_mul(1_000_000)
}
