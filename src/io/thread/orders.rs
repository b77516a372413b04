//! Orders of the control thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use tokio::sync::oneshot;

use super::keepers::Left;
use super::*;
use crate::io::Exported;
use crate::resource::{
    Command, DiskError, DiskOptions, DiskState, Options, Refusal, ResourceConfig, Tag,
};
/// DRBD's number for a request that cannot be carried out in this state of things.
const INVALID_REQUEST: i32 = 162;

/// Answers an order of a failed resource.
pub(super) fn refuse(reply: oneshot::Sender<AdminResult>, message: &str) {
    let refusal = Refusal {
        code: INVALID_REQUEST,
        text: "Invalid configuration request".to_owned(),
        hint: format!("the resource has failed ({message}): restart tandemd"),
    };
    // Nobody may wait.
    let _ = reply.send(Err(refusal));
}

/// All that is left of a failed resource.
pub(super) fn answer_for_failed(orders: &Receiver<Order>, shared: &Shared, message: &str) {
    while let Ok(order) = orders.recv() {
        match order {
            Order::Admin { reply, .. } => refuse(reply, message),
            Order::Attach { disk, reply, .. } => {
                drop(disk);
                refuse(reply, message);
            }
            Order::Client { fd, .. } => drop(fd),
            Order::ReturnClients(clients) => drop(clients),
            // It has none.
            Order::HoldClients { reply } => {
                let _ = reply.send(Vec::new());
            }
            Order::ReleaseClients => {}
            Order::TakeClients { reply } => {
                let _ = reply.send(Vec::new());
            }
            Order::Export { reply, .. } => {
                let _ = reply.send(Err(format!("the resource has failed: {message}")));
            }
            Order::ResyncDependency { .. } => {}
            // The sender is dropped: the thread has ended.
            Order::Paths { reply, .. } => drop(reply),
            Order::Secrets { reply, .. } => drop(reply),
            Order::Statistics { reply } => {
                let _ = reply.send((*shared.latest()).clone());
            }
            Order::Stop { reply } => {
                let _ = reply.send(());
                return;
            }
        }
    }
}

/// What durability means with these options.
fn flushes_of(options: DiskOptions) -> Flushes {
    Flushes { disk: options.disk_flushes, meta: options.md_flushes }
}

/// The same for every volume.
pub(super) fn flushes(config: &ResourceConfig) -> BTreeMap<VolumeNumber, Flushes> {
    let volumes = config.volumes.iter().map(|volume| volume.number);
    volumes.map(|volume| (volume, flushes_of(config.disk_options(volume)))).collect()
}

impl<C: Core> Shell<C> {
    /// Takes the orders that wait, and notices disks that were closed.
    pub(super) fn take_orders(&mut self) {
        while let Ok((volume, result)) = self.closed.1.try_recv() {
            self.is_closed(volume);
            if let Err(error) = result {
                tracing::error!(target: "tandem", resource = %self.io.name, volume,
                    "the disk was closed, but not marked clean: {error:?}");
            }
        }
        while let Ok((volume, tag, result)) = self.grown.1.try_recv() {
            self.disk_grown(volume, tag, result);
        }
        for (number, outcome) in self.handlers.ended() {
            self.io.events.push_back(Event::HandlerDone { number, outcome });
        }
        self.answer_held();
        // One more than may wait: that nobody is left is seen behind the last one.
        for _ in 0..=ORDERS_MAX {
            match self.orders.try_recv() {
                Ok(order) => self.take(order),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.stop_unasked(),
            }
            if self.stop.is_some() {
                break;
            }
        }
    }

    /// Nobody is left who could give an order: its port and its disks would be taken for ever. As a stop
    /// without `down` before it, and so never worse than kill -9: no disk is marked clean.
    fn stop_unasked(&mut self) {
        tracing::error!(target: "tandem", resource = %self.io.name,
            "nobody is left who could give it an order: the data thread ends");
        let (nobody_waits, _) = oneshot::channel();
        self.stop = Some(nobody_waits);
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Admin { command, reply } => self.admin(command, reply, None),
            Order::Attach { volume, disk, reply } => self.attach(volume, disk, reply),
            Order::Client { fd, volume, parameters, description } => {
                // Another one may have come since it asked.
                if let Err(why) = self.core.admits(volume, &description) {
                    tracing::warn!(target: "tandem", resource = %self.io.name,
                        "{description} was disconnected: {why}");
                    return drop(fd);
                }
                self.clients.open(&mut self.io, fd, volume, parameters, description);
            }
            Order::HoldClients { reply } => {
                self.clients.hold(&mut self.io);
                self.holding = Some(reply);
            }
            Order::ReleaseClients => {
                let busy = self.clients.busy();
                if let Some(holding) = self.holding.take() {
                    let _ = holding.send(busy);
                }
                self.clients.go_on();
            }
            Order::TakeClients { reply } => {
                let taken = self.clients.take_all(&mut self.io);
                self.clients.go_on();
                let _ = reply.send(taken);
            }
            Order::ReturnClients(clients) => {
                clients.into_iter().for_each(|one| self.clients.reopen(&mut self.io, one));
            }
            Order::Export { volume, client, device, reply } => {
                let admitted = client.map_or(Ok(()), |client| self.core.admits(volume, &client));
                let size = self.core.export(volume);
                // Nobody may wait, here and below.
                let exported = size.map(|size| {
                    let keepers = self.keepers_for(volume, device);
                    Exported { size, keepers }
                });
                let _ = reply.send(exported.and_then(|exported| admitted.map(|()| exported)));
            }
            Order::Paths { paths, reply } => {
                let known = paths.clone();
                let set = self.peers.set_paths(&mut self.io, paths);
                if set.is_ok() {
                    self.handlers.set_paths(&known);
                }
                let _ = reply.send(set);
            }
            Order::ResyncDependency { volume, peer, paused } => {
                self.io.events.push_back(Event::ResyncDependency { volume, peer, paused });
            }
            Order::Secrets { secrets, reply } => {
                self.peers.set_secrets(secrets.map(Arc::new));
                let _ = reply.send(());
            }
            Order::Statistics { reply } => {
                let _ = reply.send(self.status());
            }
            Order::Stop { reply } => self.stop = Some(reply),
        }
        self.pump();
    }

    /// The core's snapshot, and the address that each session is with.
    pub(super) fn status(&self) -> Status {
        let mut status = self.core.status(self.io.now);
        for connection in &mut status.connections {
            if let Some(remote) = connection.socket.and_then(|id| self.peers.remote(id)) {
                connection.remote = remote.to_string();
            }
        }
        status
    }

    fn admin(
        &mut self,
        command: Command,
        reply: oneshot::Sender<AdminResult>,
        attach: Option<Attach>,
    ) {
        self.last_order += 1;
        let id = self.last_order;
        let options = match &command {
            Command::SetOptions { options, volumes } => {
                let new = |volume: &VolumeNumber| {
                    flushes_of(volumes.get(volume).copied().unwrap_or_else(|| options.disk()))
                };
                let all: BTreeMap<VolumeNumber, Flushes> =
                    self.flushes.keys().map(|volume| (*volume, new(volume))).collect();
                Some((options.clone(), all))
            }
            _ => None,
        };
        if let Some((_, new)) = &options {
            // Until the core has them, the stricter of the two holds.
            for (volume, new) in new {
                let old = self.flushes_of(*volume);
                let strict = Flushes { disk: old.disk || new.disk, meta: old.meta || new.meta };
                self.disks.set_flushes(*volume, strict);
            }
        }
        let closes = match &command {
            Command::Down { .. } => Closes::All,
            Command::Detach { volume, .. } => Closes::One(*volume),
            _ => Closes::None,
        };
        self.waiters.insert(id, Waiter { reply, attach, options, closes });
        self.io.events.push_back(Event::Admin { id, command });
    }

    fn attach(
        &mut self,
        volume: VolumeNumber,
        disk: Box<OpenDisk>,
        reply: oneshot::Sender<AdminResult>,
    ) {
        let (attached, left) = (Box::new(disk.attached.clone()), Left::of(&disk));
        let flushes = self.flushes_of(volume);
        let attach = match self.disks.attach(&mut self.io, volume, disk, flushes) {
            Ok(()) => {
                if left == Left::Unclean {
                    // Before anything of it is durable: the next tandemd finds a disk that is trusted.
                    self.keeps_with(volume, left);
                }
                Attach::Placed(volume, left)
            }
            // The core will refuse; it has the words.
            Err(disk) => Attach::Refused(disk),
        };
        self.admin(Command::Attach { volume, disk: attached }, reply, Some(attach));
    }

    fn flushes_of(&self, volume: VolumeNumber) -> Flushes {
        let strict = Flushes { disk: true, meta: true };
        self.flushes.get(&volume).copied().unwrap_or(strict)
    }

    /// The shell's part of changed options.
    fn set_options(&mut self, options: &Options) {
        self.watch = Watch::new(options);
        self.busy_poll = Duration::from_micros(u64::from(options.busy_poll_us));
        self.peers.set_options(options);
        self.handlers.set_options(options);
        // Never smaller: a peer may still have as much under way as it was promised.
        let window = u64::from(options.max_buffers) * PAGE as u64;
        self.io.window = self.io.window.max(window);
    }

    /// `Action::AdminReply`.
    pub(super) fn admin_reply(&mut self, id: u64, result: AdminResult) {
        let placed = match self.waiters.get(&id) {
            Some(Waiter { attach: Some(Attach::Placed(volume, left)), .. }) => {
                Some((*volume, *left))
            }
            _ => None,
        };
        if let (Ok(_), Some((volume, left))) = (&result, placed) {
            if left != Left::Unclean {
                self.keeps_with(volume, left);
            }
            let status = self.core.status(self.io.now);
            if let Some(device) = status.devices.iter().find(|one| one.volume == volume) {
                self.handlers.set_disk(volume, &device.backing_disk);
            }
        }
        if let (Err(_), Some((volume, _))) = (&result, placed) {
            // The core has not taken it; or it has closed it already. A disk that hangs is the core's:
            // it is closed when the system has let go of it.
            if self.is_diskless(volume) {
                self.disks.close(&mut self.io, volume, None);
            }
        }
        let changed = self.waiters.get_mut(&id).and_then(|waiter| waiter.options.take());
        if let Some((options, flushes)) = changed {
            if result.is_ok() {
                self.flushes = flushes;
                self.set_options(&options);
            }
            for (volume, flushes) in &self.flushes {
                self.disks.set_flushes(*volume, *flushes);
            }
        }
        let closes = match (&result, placed) {
            (Err(_), Some((volume, _))) => Closes::One(volume),
            _ => self.waiters.get(&id).map_or(Closes::None, |waiter| waiter.closes),
        };
        let until = self.io.now.after_ms(self.io.limits.close_ms);
        self.held.push(Held { id, result, closes, until });
        self.close_disks();
    }

    /// A helper thread has closed a disk of this volume.
    fn is_closed(&mut self, volume: VolumeNumber) {
        if let Some(index) = self.closing.iter().position(|one| *one == volume) {
            self.closing.swap_remove(index);
        }
    }

    /// The volumes whose disks are not closed yet, of those that an order closes.
    fn still_closing(&self, closes: Closes) -> Vec<VolumeNumber> {
        let is_meant = |volume: &VolumeNumber| match closes {
            Closes::None => false,
            Closes::One(one) => *volume == one,
            Closes::All => true,
        };
        let closing = self.closing.iter().copied().chain(self.disks.closing());
        closing.filter(is_meant).collect()
    }

    fn is_diskless(&self, volume: VolumeNumber) -> bool {
        let status = self.core.status(self.io.now);
        let mut devices = status.devices.iter();
        !devices.any(|one| one.volume == volume && one.disk_state != DiskState::Diskless)
    }

    /// Sends the answers, but for those that wait for a disk to be closed.
    fn answer_held(&mut self) {
        for held in std::mem::take(&mut self.held) {
            let closing = self.still_closing(held.closes);
            if !closing.is_empty() && self.io.now < held.until {
                self.held.push(held);
                continue;
            }
            let Some(waiter) = self.waiters.remove(&held.id) else { continue };
            if let Some(Attach::Refused(disk)) = waiter.attach {
                disk.close();
            }
            // The order itself is carried out: whoever gave it may go on, but not with that disk.
            let late = closing.into_iter().map(|volume| self.not_closed(volume));
            let result = held.result.map(|text| {
                let lines = Some(text).filter(|text| !text.is_empty()).into_iter();
                lines.chain(late).collect::<Vec<_>>().join("\n")
            });
            let _ = waiter.reply.send(result);
        }
    }

    fn not_closed(&self, volume: VolumeNumber) -> String {
        let (name, s) = (&self.io.name, self.io.limits.close_ms / 1000);
        let text = format!(
            "{name}/{volume}: the disk is still being closed after {s} s, and stays locked until the system \
             lets go of it: see what holds it up (`dmesg`, cables, the pool under it) before it is attached again"
        );
        tracing::warn!(target: "tandem", resource = %name, volume, "{text}");
        text
    }

    /// `Action::GrowDisk`, on a thread of its own: it writes and flushes.
    pub(super) fn grow_disk(&mut self, tag: Tag, volume: VolumeNumber) {
        let Some(growing) = self.disks.grow(volume) else {
            let result = Err(DiskError::Io(libc::ENODEV));
            self.io.events.push_back(Event::DiskGrown { tag, result });
            return;
        };
        let (grown, shared) = (self.grown.0.clone(), Arc::clone(&self.shared));
        let run = move || {
            let result = growing.run();
            // The data thread may have ended.
            let _ = grown.send((volume, tag, result));
            shared.wake();
        };
        let name = format!("grow {volume}");
        if let Err(error) = std::thread::Builder::new().name(name).spawn(run) {
            let refusal = Refusal {
                code: 122,
                text: "No memory".to_owned(),
                hint: format!("no thread can be started: {error}"),
            };
            self.disk_grown(volume, tag, Ok(Err(refusal)));
        }
    }

    fn disk_grown(&mut self, volume: VolumeNumber, tag: Tag, result: Room) {
        let geometry = result.as_ref().ok().and_then(|room| room.as_ref().ok()).copied();
        self.disks.grown(volume, geometry);
        let result = result.map(|room| room.map(|geometry| geometry.data_size));
        self.io.events.push_back(Event::DiskGrown { tag, result });
        self.close_disks();
    }

    /// Closes the disks that nothing is under way on, on a thread of its own: it reads, writes and
    /// flushes, and the peers must be answered meanwhile.
    pub(super) fn close_disks(&mut self) {
        while let Some(closing) = self.disks.next_closed() {
            let volume = closing.volume;
            let Ok((disk, superblock)) = closing.into_parts() else {
                tracing::error!(target: "tandem", resource = %self.io.name, volume,
                    "defect: a disk is closed while it is in use");
                continue;
            };
            let (closed, shared) = (self.closed.0.clone(), Arc::clone(&self.shared));
            self.closing.push(volume);
            let run = move || {
                #[cfg(test)]
                let _may = shared.may_close.lock();
                let result = crate::io::disk::close(disk, superblock);
                // The data thread may have ended.
                let _ = closed.send((volume, result));
                shared.wake();
            };
            let name = format!("close {volume}");
            if let Err(error) = std::thread::Builder::new().name(name).spawn(run) {
                // The closure is gone and the disk with it: closed, and not clean.
                self.is_closed(volume);
                tracing::error!(target: "tandem", resource = %self.io.name, volume,
                    "the disk was closed, but not marked clean: {error}");
            }
        }
        self.answer_held();
    }
}
