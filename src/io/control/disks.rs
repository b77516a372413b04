//! Backing disks of resources that are up: attaching, and what a disk is before it is attached.
//!
//! Invariants:
//! - Opening a disk never blocks the control thread, and holds nobody up for ever: one that is opened
//!   after its time is closed again, and nobody opens it before.
//! - An attach is answered when it is known whether the disk may be used, also where a connected
//!   peer is asked first.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinError;
use tokio::time::Instant;
use tracing::{info, warn};

use super::data_thread::{DiskRequest, Seen, inspect_disk, open_disk};
use super::entry::ORDER_LIMIT;
use super::path_differs::{Files, LOOK_LIMIT};
use super::registry::{Entry, Registry, ended, not_up, refusal};
use crate::config::{Definition, HostVolume};
use crate::control::ATTACH_FAILED;
use crate::io::Order;
use crate::io::backing::OpenDisk;
use crate::resource::{AdminResult, DiskState, Refusal, ResourceConfig, Status, VolumeNumber};

/// How long an attach waits for the handshake that decides about the disk (DESIGN 8).
const VERDICT_LIMIT: Duration = Duration::from_secs(30);
/// How long a disk may take to be opened. Everything that concerns its resource waits for that.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// What a disk does that is not opened in time, and what to do: for a sentence.
const HANGS: &str = "it does not answer; see what holds it up (`dmesg`, cables, the pool under it), then attach it again";
/// How often it is asked whether somebody still looks at a disk.
const LOOK_POLL: Duration = Duration::from_millis(50);

impl Registry {
    /// Attaches one volume's disk.
    ///
    /// # Errors
    /// The resource is not up, the disk is attached, or it cannot be.
    pub(crate) async fn attach(
        self: &Rc<Self>,
        definition: &Definition,
        volume: VolumeNumber,
    ) -> AdminResult {
        let config = self.check(definition)?;
        let lock = self.lock(&config.name);
        let _guard = lock.lock().await;
        let entry = self.entry(&config.name).ok_or_else(|| not_up(&config.name))?;
        if entry.disk_state(volume) == DiskState::Failed {
            let hint = "the disk was given up, and the system still holds it: again when what is \
                        under way on it has ended.";
            let text = "Device is attached to a disk (use detach first)";
            return Err(refusal(124, text, hint));
        }
        if entry.disk_state(volume) != DiskState::Diskless {
            if self.is_renamed(&entry, definition, volume).await {
                return Ok(self.changed_since_up(&entry, definition));
            }
            let mut hint = format!("`tandemadm detach {}/{volume}` lets go of it.", config.name);
            // One that hangs is not waited for.
            let looker = entry.clone();
            let look = tokio_uring::spawn(async move { looker.look_at_paths().await });
            let _ = tokio::time::timeout(LOOK_LIMIT, look).await;
            let differing = entry.disks.differing(&entry.status());
            if let Some((_, what)) = differing.iter().find(|(number, _)| *number == volume) {
                hint =
                    format!("{what}, and is not the disk in use: `tandemadm why {}`.", config.name);
            }
            return Err(refusal(124, "Device is attached to a disk (use detach first)", hint));
        }
        self.same(&entry, definition)?;
        self.open_and_attach(&entry, definition, volume).await?;
        let before = entry.volume(volume);
        if let Some(new) =
            definition.local(&self.settings.node).and_then(|h| h.volumes.get(&volume))
        {
            entry.disk_is(new, volume);
        }
        let allowed = entry.verdict(volume).await;
        // A disk that was let go of is not what the resource runs with.
        if let (Err(_), Some(before), DiskState::Diskless) =
            (&allowed, before, entry.disk_state(volume))
        {
            entry.disk_is(&before, volume);
        }
        allowed?;
        Ok(self.changed_since_up(&entry, definition))
    }

    /// Whether the definition has another path to the disk in use, which is taken over.
    async fn is_renamed(
        &self,
        entry: &Rc<Entry>,
        definition: &Definition,
        volume: VolumeNumber,
    ) -> bool {
        if self.same(entry, definition).is_err() {
            return false;
        }
        let own = definition.local(&self.settings.node).and_then(|own| own.volumes.get(&volume));
        let (Some(own), Some(now)) = (own, entry.volume(volume)) else { return false };
        !own.names_same_disk(&now) && entry.take_name(volume, own).await
    }

    /// Whether a disk could be attached in place of the one that the volume has.
    ///
    /// # Errors
    /// The resource is not up, or the disk is not there, without metadata of this volume, too small
    /// or somebody else's.
    pub(crate) async fn check_disk(
        &self,
        definition: &Definition,
        volume: VolumeNumber,
    ) -> AdminResult {
        let config = self.check(definition)?;
        let entry = self.entry(&config.name).ok_or_else(|| not_up(&config.name))?;
        self.same(&entry, definition)?;
        let (own, request) = self.disk_request(&entry.config, definition, volume)?;
        let attached = entry.disk_state(volume) != DiskState::Diskless;
        let in_use = entry.disks.files(volume).filter(|_| attached);
        let wanted = own.clone();
        let look = move || {
            let found = inspect_disk(&request)?;
            // Held by this daemon is what the volume has now, whatever it is called by now.
            let is_held = found.is_held && !in_use.is_some_and(|files| files.has_one_of(&wanted));
            Ok(Seen { is_held, ..found })
        };
        let looked = tokio::task::spawn_blocking(look).await.map_err(|_| ended(&config.name))?;
        fits(own, &looked?)?;
        Ok(String::new())
    }

    /// The volume as the definition has it here, and its disk as it is opened.
    pub(super) fn disk_request<'a>(
        &self,
        config: &ResourceConfig,
        definition: &'a Definition,
        volume: VolumeNumber,
    ) -> Result<(&'a HostVolume, DiskRequest), Refusal> {
        let own = definition.local(&self.settings.node).and_then(|own| own.volumes.get(&volume));
        let own = own.ok_or_else(|| {
            refusal(127, "Device minor not allocated", crate::resource::NO_VOLUME)
        })?;
        let Some(disk) = own.disk.clone() else {
            let hint = "the configuration says `disk none` for this node.";
            return Err(refusal(138, "Device does not have a disk-config", hint));
        };
        let request = DiskRequest {
            resource: config.name.clone(),
            volume,
            node_id: config.node_id,
            disk,
            meta_disk: own.meta_disk.clone(),
            state_dir: self.settings.state_dir.clone(),
            run_dir: self.settings.run_dir.clone(),
        };
        Ok((own, request))
    }

    /// Opens a volume's disk and hands it to the data thread. Why it failed is kept.
    ///
    /// # Errors
    /// It cannot be opened, or the state machine refuses it.
    pub(super) async fn open_and_attach(
        self: &Rc<Self>,
        entry: &Rc<Entry>,
        definition: &Definition,
        volume: VolumeNumber,
    ) -> AdminResult {
        let result = self.try_attach(entry, definition, volume).await;
        let mut failed = entry.attach_failed.borrow_mut();
        match &result {
            Ok(_) => failed.remove(&volume),
            Err(Refusal { code, text, hint }) => {
                failed.insert(volume, format!("{ATTACH_FAILED}({code}) {text} {hint}"))
            }
        };
        result
    }

    /// A disk of the resource is being opened for longer than anybody waits.
    pub(super) fn is_opening(&self, resource: &str) -> bool {
        self.opening.borrow().iter().any(|(name, _)| name == resource)
    }

    /// Opens a disk, or gives it up.
    async fn open(
        self: &Rc<Self>,
        entry: &Rc<Entry>,
        volume: VolumeNumber,
        request: DiskRequest,
    ) -> Result<Box<OpenDisk>, Refusal> {
        let (name, path) = (entry.config.name.clone(), request.disk.clone());
        let key = (name.clone(), volume);
        self.is_not_being_opened(&key, &path)?;
        let mut opening = tokio::task::spawn_blocking(move || open_disk(&request));
        if let Ok(opened) = tokio::time::timeout(OPEN_LIMIT, &mut opening).await {
            return opened.map_err(|_| ended(&name))?;
        }
        self.opening.borrow_mut().insert(key.clone());
        let (registry, entry) = (self.clone(), entry.clone());
        tokio_uring::spawn(async move {
            // It is closed as it is: what was noted of it at its opening holds. That may hang as well.
            let opened = opening.await;
            let _ = tokio::task::spawn_blocking(move || drop(opened)).await;
            registry.opening.borrow_mut().remove(&key);
            entry.attach_failed.borrow_mut().remove(&volume);
            info!(resource = %name, "{name}/{volume}: the disk that hung while it was opened answers");
        });
        Err(not_open(&path))
    }

    fn is_not_being_opened(&self, key: &(String, VolumeNumber), path: &str) -> Result<(), Refusal> {
        if !self.opening.borrow().contains(key) {
            return Ok(());
        }
        let hint = format!(
            "{path} is still being opened: {HANGS}. For another disk: `tandemadm daemon stop`, and start tandemd."
        );
        Err(refusal(-18, "In transient state, retry after next state change", hint))
    }

    /// Whether the disk of a volume that has none attached would be refused, as far as that is seen without taking it.
    pub(super) async fn would_open(
        &self,
        config: &ResourceConfig,
        definition: &Definition,
        volume: VolumeNumber,
    ) -> Result<(), Refusal> {
        let (own, request) = self.disk_request(config, definition, volume)?;
        let path = request.disk.clone();
        self.is_not_being_opened(&(config.name.clone(), volume), &path)?;
        let disk = request.clone();
        match self.looks.within(OPEN_LIMIT, request, move || inspect_disk(&disk)).await {
            Some(seen) => fits(own, &seen.map_err(|_| ended(&config.name))??),
            None => Err(not_open(&path)),
        }
    }

    async fn try_attach(
        self: &Rc<Self>,
        entry: &Rc<Entry>,
        definition: &Definition,
        volume: VolumeNumber,
    ) -> AdminResult {
        let (own, request) = self.disk_request(&entry.config, definition, volume)?;
        let name = &entry.config.name;
        let opened = self.open(entry, volume, request).await;
        let mut disk = opened.inspect_err(|refusal| {
            warn!(resource = %name, "{name}/{volume}: attach failed: ({}) {}", refusal.code, refusal.text);
        })?;
        // One that is refused is dropped: what was noted of it at its opening holds.
        large_enough(own, disk.attached.data_size, &disk.attached.path)?;
        not_smaller(own, disk.attached.meta.superblock.effective_size)?;
        if let Some(size) = own.size {
            disk.attached.data_size = size;
        }
        let durable = if disk.dsync { "RWF_DSYNC" } else { "a data sync after each write" };
        info!(resource = %name, "{name}/{volume}: {}: durable writes by {durable}", disk.attached.path);
        let (files, home) = (Files::of(own, &disk), disk.home());
        let asked = entry.clone();
        // It goes on beyond the limit: which files are in use is known all the same.
        let attaching = tokio_uring::spawn(async move {
            let attached = asked.ask(|reply| Order::Attach { volume, disk, reply }).await?;
            if attached.is_ok() {
                asked.disks.attached(volume, files, home);
            }
            attached
        });
        match tokio::time::timeout(ORDER_LIMIT, attaching).await {
            Ok(attached) => attached.map_err(|_| ended(name))?,
            Err(_) => Err(entry.not_answered()),
        }
    }
}

/// Disks that are looked at, each on one thread, and until when that is waited for: whoever asks again and again of one
/// that hangs, and gives up by himself, takes no further thread.
#[derive(Clone, Default)]
pub(super) struct Looks(Rc<RefCell<Vec<(DiskRequest, Instant)>>>);

impl Looks {
    /// What `look` sees of a disk. `None`: not in time; at once, where an earlier look has not ended in its time.
    async fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        disk: DiskRequest,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Result<T, JoinError>> {
        while let Some(until) = self.looked_at_until(&disk) {
            if until <= Instant::now() {
                return None;
            }
            tokio::time::sleep(LOOK_POLL).await;
        }
        let until = Instant::now() + limit;
        self.0.borrow_mut().push((disk.clone(), until));
        let looked = tokio::task::spawn_blocking(look);
        let (tell, told) = oneshot::channel();
        let looks = self.clone();
        // Also where nobody waits any more.
        tokio_uring::spawn(async move {
            let seen = looked.await;
            looks.0.borrow_mut().retain(|(one, _)| *one != disk);
            let _ = tell.send(seen);
        });
        tokio::time::timeout_at(until, told).await.ok()?.ok()
    }

    fn looked_at_until(&self, disk: &DiskRequest) -> Option<Instant> {
        self.0.borrow().iter().find(|(one, _)| one == disk).map(|(_, until)| *until)
    }
}

impl Entry {
    /// Adds to a snapshot why a disk is not attached, where that is all there is to say of it.
    pub(super) fn note_failures(&self, status: &mut Status) {
        let failed = self.attach_failed.borrow();
        for device in &mut status.devices {
            if let (DiskState::Diskless, Some(why)) =
                (device.disk_state, failed.get(&device.volume))
            {
                device.disk_note.clone_from(why);
            }
        }
    }

    /// Waits until the peer has been asked about a disk that was attached while it is connected.
    ///
    /// # Errors
    /// The disk was refused and let go of, or the handshake does not end.
    async fn verdict(&self, volume: VolumeNumber) -> Result<(), Refusal> {
        let mut snapshots = self.thread.subscribe();
        let asked = async {
            // Each snapshot is newer; the newest counts. Attaching: the answer to the order was here
            // before its snapshot. Failed: it is being let go of.
            let is_open = |disk| {
                matches!(disk, DiskState::Attaching | DiskState::Negotiating | DiskState::Failed)
            };
            while is_open(self.disk_state(volume)) {
                if let Err(tokio::sync::broadcast::error::RecvError::Closed) =
                    snapshots.recv().await
                {
                    return;
                }
            }
        };
        let name = &self.config.name;
        if tokio::time::timeout(VERDICT_LIMIT, asked).await.is_err() {
            let text = "In transient state, retry after next state change";
            let hint = format!("the handshake does not end: `tandemadm why {name}`.");
            return Err(refusal(-18, text, hint));
        }
        let status = self.thread.status();
        let device = status.devices.iter().find(|device| device.volume == volume);
        match device {
            Some(device) if device.disk_state == DiskState::Diskless => {
                let text = "State change was refused by peer node";
                Err(refusal(-10, text, format!("{}.", device.disk_note)))
            }
            _ => Ok(()),
        }
    }
}

/// A disk that hangs while it is opened.
fn not_open(path: &str) -> Refusal {
    let text = "IO error(s) occurred during initial access to meta-data.";
    refusal(118, text, format!("{path} was not open after {} s: {HANGS}.", OPEN_LIMIT.as_secs()))
}

/// Whether a disk that was looked at could be attached.
fn fits(own: &HostVolume, seen: &Seen) -> Result<(), Refusal> {
    let path = own.disk.as_deref().unwrap_or_default();
    large_enough(own, seen.room, path)?;
    not_smaller(own, seen.held)?;
    if seen.is_held {
        let hint = format!("{path} is in use. Stop what uses it first.");
        return Err(refusal(114, "Lower device is already claimed.", hint));
    }
    Ok(())
}

/// Whether `size` leaves room for what the disk has held.
fn not_smaller(own: &HostVolume, held: u64) -> Result<(), Refusal> {
    let Some(size) = own.size.filter(|size| *size < held) else { return Ok(()) };
    let hint = format!(
        "`size` in the configuration says {size} bytes, which is smaller than the data it held ({held} bytes): \
         write at least that, or none."
    );
    Err(refusal(170, "Implicit device shrinking not allowed.", hint))
}

/// Whether a disk has the room that `size` asks for.
pub(super) fn large_enough(own: &HostVolume, found: u64, path: &str) -> Result<(), Refusal> {
    let Some(size) = own.size.filter(|size| found < *size) else { return Ok(()) };
    let hint = format!(
        "{path} has room for {found} bytes of data, `size` asks for {size}: grow the disk, or \
         write a smaller size."
    );
    Err(refusal(111, "Low.dev. smaller than requested DRBD-dev. size.", hint))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn nobody_looks() {
        panic!("a second look");
    }

    #[test]
    fn a_disk_that_hangs_while_it_is_looked_at_has_one_thread_however_often_it_is_asked_for() {
        let disk = |path: &str| DiskRequest {
            resource: "r0".to_owned(),
            volume: 0,
            node_id: 0,
            disk: path.to_owned(),
            meta_disk: crate::config::MetaDisk::Internal,
            state_dir: "/state".into(),
            run_dir: "/run".into(),
        };
        let limit = Duration::from_millis(20);
        tokio_uring::start(async {
            let looks = Looks::default();
            let (answer, answers) = mpsc::channel::<()>();
            let hang = move || {
                let _ = answers.recv();
            };
            let asked = looks.within(limit, disk("/hangs"), hang);
            let gives_up = tokio::time::timeout(limit / 4, asked).await;
            assert!(gives_up.is_err(), "whoever asked is gone before his time is up");
            for _ in 0..3 {
                assert!(looks.within(limit, disk("/hangs"), nobody_looks).await.is_none());
            }
            let other = looks.within(Duration::from_secs(20), disk("/other"), || 7).await;
            assert_eq!(other.map(Result::unwrap), Some(7));
            // It answers at last.
            answer.send(()).unwrap();
            while !looks.0.borrow().is_empty() {
                tokio::time::sleep(limit).await;
            }
            let again = looks.within(Duration::from_secs(20), disk("/hangs"), || 8).await;
            assert_eq!(again.map(Result::unwrap), Some(8));
        });
    }
}
