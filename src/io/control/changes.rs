//! What changes on a resource that is up: its options, its addresses, which disk a volume has.
//!
//! Invariant: what a resource is said to run with is what its data thread was told.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

use tracing::info;

use super::data_thread::inspect_disk;
use super::disks::large_enough;
use super::registry::{Entry, Registry, ended, not_up, refusal};
use crate::config::{Definition, HostVolume, ResyncAfter};
use crate::control::Path;
use crate::control::adjust::Difference;
use crate::io::{Order, PeerPath};
use crate::resource::{
    AdminResult, Command, DiskOptions, DiskState, NodeId, Options, Refusal, Status, VolumeNumber,
};
use crate::secret::Secrets;

/// When what a connection is opened with takes effect.
const NEXT_CONNECTION: &str = "at the next connection";
/// How long the disk in use may take to be looked at.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

impl Registry {
    /// What a resource that is up runs with.
    pub(crate) fn running(&self, resource: &str) -> Option<Definition> {
        self.entry(resource).map(|entry| entry.running.borrow().clone())
    }

    /// How what runs differs from a definition.
    pub(super) fn difference(&self, entry: &Entry, definition: &Definition) -> Difference {
        match definition.local(&self.settings.node) {
            Some(own) => Difference::new(&entry.running.borrow(), definition, own),
            None => Difference::default(),
        }
    }

    /// Nothing of a definition is put in force that is of another resource than the one that runs.
    pub(super) fn same(&self, entry: &Entry, definition: &Definition) -> Result<(), Refusal> {
        self.difference(entry, definition).refusal(&definition.name).map_or(Ok(()), Err)
    }

    /// What is up already has nothing for an `up` to change.
    pub(super) fn is_up_as(&self, entry: &Entry, definition: &Definition) -> Result<(), Refusal> {
        let (difference, name) = (self.difference(entry, definition), &definition.name);
        if difference.words().is_empty() {
            return Ok(());
        }
        let hint = format!(
            "{name} is up with another configuration ({}): {}.",
            difference.words().join("; "),
            difference.remedy(name)
        );
        Err(refusal(174, "Already exists", hint))
    }

    /// What a person is told whose configuration is another one than what runs.
    pub(super) fn changed_since_up(&self, entry: &Entry, definition: &Definition) -> String {
        let difference = self.difference(entry, definition);
        match difference.words() {
            [] => String::new(),
            words => format!(
                "the configuration differs from what runs ({}): {}.",
                words.join("; "),
                difference.remedy(&definition.name)
            ),
        }
    }

    /// The ways to the peers, as they are tried.
    pub(super) fn paths_of(&self, entry: &Entry) -> Vec<Path> {
        let paths = paths(&entry.running.borrow(), &self.settings.node).into_iter();
        let path = |PeerPath { peer, local, remote }| Path { peer_node_id: peer, local, remote };
        paths.map(path).collect()
    }

    /// Puts other options in force.
    ///
    /// # Errors
    /// The resource is not up, or a value is out of its range.
    pub(crate) async fn set_options(
        &self,
        resource: &str,
        options: Options,
        volumes: BTreeMap<VolumeNumber, DiskOptions>,
        resync_after: BTreeMap<VolumeNumber, ResyncAfter>,
        secrets: Option<Secrets>,
    ) -> AdminResult {
        let lock = self.lock(resource);
        let _guard = lock.lock().await;
        let entry = self.entry(resource).ok_or_else(|| not_up(resource))?;
        let mut changed = entry.running.borrow().clone();
        changed.options = options;
        changed.secrets = secrets;
        let own = changed.hosts.iter_mut().find(|host| host.node_id == entry.config.node_id);
        for (number, volume) in own.into_iter().flat_map(|own| &mut own.volumes) {
            volume.disk_options = volumes.get(number).copied();
            volume.resync_after = resync_after.get(number).cloned();
        }
        changed.check().map_err(|why| refusal(162, "Invalid configuration request", why))?;
        self.no_cycle(&changed)?;
        let options = Box::new(changed.options.clone());
        let text = entry.order(Command::SetOptions { options, volumes }).await?;
        let mut later = each_once(&text);
        let differ =
            changed_secrets(entry.running.borrow().secrets.as_ref(), changed.secrets.as_ref());
        if !differ.is_empty() {
            later
                .extend(differ.iter().map(|name| format!("{name} takes effect {NEXT_CONNECTION}")));
            let secrets = changed.secrets.clone();
            entry.ask(|reply| Order::Secrets { secrets, reply }).await?;
            info!(resource = %resource, "{resource}: shared-secret and cram-hmac-alg act on the next connection");
        }
        entry.change(|running| *running = changed);
        self.hold_resyncs();
        Ok(later.join("; "))
    }

    /// Puts other addresses in force; a connection that stands goes on.
    ///
    /// # Errors
    /// The resource is not up, or an own address cannot be listened on.
    pub(crate) async fn set_paths(&self, definition: &Definition) -> AdminResult {
        let config = self.check(definition)?;
        let lock = self.lock(&config.name);
        let _guard = lock.lock().await;
        let entry = self.entry(&config.name).ok_or_else(|| not_up(&config.name))?;
        self.same(&entry, definition)?;
        self.tell_paths(&entry, definition).await
    }

    /// Volumes have no disk from now on, or are to have one, by configuration; and the own ones this size.
    ///
    /// # Errors
    /// The resource is not up, a disk that is to be none is attached, or a volume would shrink.
    pub(crate) async fn set_volumes(&self, definition: &Definition) -> AdminResult {
        let config = self.check(definition)?;
        let lock = self.lock(&config.name);
        let _guard = lock.lock().await;
        let entry = self.entry(&config.name).ok_or_else(|| not_up(&config.name))?;
        self.same(&entry, definition)?;
        let name = &config.name;
        for volume in config.volumes.iter().filter(|volume| volume.disk == "none") {
            let number = volume.number;
            if entry.disk_state(number) != DiskState::Diskless {
                let text = "Device is attached to a disk (use detach first)";
                return Err(refusal(124, text, format!("`tandemadm detach {name}/{number}`.")));
            }
        }
        let own = definition.hosts.iter().find(|one| one.node_id == config.node_id);
        for (number, new) in own.into_iter().flat_map(|own| &own.volumes) {
            let (volume, size) = (*number, new.size);
            if entry.volume(volume).is_some_and(|old| old.size != size) {
                if entry.disk_state(volume) != DiskState::Diskless && size.is_some() {
                    self.has_room(&entry, definition, volume).await?;
                }
                entry.order(Command::SetSize { volume, size }).await?;
            }
        }
        entry.change(|running| {
            for host in &mut running.hosts {
                let Some(new) = definition.hosts.iter().find(|one| one.node_id == host.node_id)
                else {
                    continue;
                };
                for (number, volume) in &mut host.volumes {
                    let Some(new) = new.volumes.get(number) else { continue };
                    volume.size = new.size;
                    // The own disk is named when it is attached.
                    if host.node_id != config.node_id || new.disk.is_none() {
                        volume.disk.clone_from(&new.disk);
                        volume.meta_disk.clone_from(&new.meta_disk);
                    }
                }
            }
        });
        info!("{name}: which volumes have no disk, and their size, is as the configuration says");
        Ok(String::new())
    }

    /// Whether the disk in use has the room that `size` asks for: the next attach would be refused.
    async fn has_room(
        &self,
        entry: &Entry,
        definition: &Definition,
        volume: VolumeNumber,
    ) -> Result<(), Refusal> {
        let (own, request) = self.disk_request(&entry.config, definition, volume)?;
        let looked = tokio::task::spawn_blocking(move || inspect_disk(&request));
        let path = own.disk.as_deref().unwrap_or_default();
        match tokio::time::timeout(LOOK_LIMIT, looked).await {
            Ok(seen) => large_enough(own, seen.map_err(|_| ended(&entry.config.name))??.room, path),
            Err(_) => {
                let text = "IO error(s) occurred during initial access to meta-data.";
                let hint =
                    format!("{path} does not answer: `tandemadm why {}`.", entry.config.name);
                Err(refusal(118, text, hint))
            }
        }
    }

    /// Tells the data thread the addresses.
    pub(super) async fn tell_paths(&self, entry: &Entry, definition: &Definition) -> AdminResult {
        let paths = paths(definition, &self.settings.node);
        entry.ask(|reply| Order::Paths { paths, reply }).await?.map_err(|error| {
            match error.kind() {
                ErrorKind::AddrInUse => {
                    refusal(102, "Local address(port) already in use.", error.to_string())
                }
                _ => refusal(162, "Invalid configuration request", error.to_string()),
            }
        })?;
        entry.change(|running| {
            for host in &mut running.hosts {
                if let Some(new) = definition.hosts.iter().find(|one| one.node_id == host.node_id) {
                    host.address = new.address;
                    host.more_addresses.clone_from(&new.more_addresses);
                }
            }
        });
        info!("{}: its addresses are those of the configuration", definition.name);
        Ok(String::new())
    }
}

impl Entry {
    /// `auto-promote` is in force.
    pub(crate) fn auto_promote(&self) -> bool {
        self.running.borrow().options.auto_promote
    }

    /// Peers, and volumes of theirs, that have no disk by configuration.
    pub(super) fn peer_clients(&self) -> Vec<(NodeId, VolumeNumber)> {
        let running = self.running.borrow();
        let peers = running.hosts.iter().filter(|host| host.node_id != self.config.node_id);
        let without = peers.flat_map(|host| {
            let volumes = host.volumes.iter().filter(|(_, volume)| volume.disk.is_none());
            volumes.map(|(number, _)| (host.node_id, *number))
        });
        without.collect()
    }

    /// The volume as it is here by what the resource runs with.
    pub(super) fn volume(&self, volume: VolumeNumber) -> Option<HostVolume> {
        let running = self.running.borrow();
        let own = running.hosts.iter().find(|host| host.node_id == self.config.node_id)?;
        own.volumes.get(&volume).cloned()
    }

    /// In a snapshot: what disks are called, and which volumes have none here, by what the resource runs with.
    pub(super) fn note_clients(&self, status: &mut Status) {
        for device in &mut status.devices {
            let Some(volume) = self.volume(device.volume) else { continue };
            match (volume.disk, device.disk_state == DiskState::Diskless) {
                (None, true) => "none".clone_into(&mut device.backing_disk),
                // By the path that it has now.
                (Some(disk), false) => device.backing_disk = disk,
                _ => {}
            }
        }
    }

    /// The volume has this disk now.
    pub(super) fn disk_is(&self, new: &HostVolume, volume: VolumeNumber) {
        self.change_volume(volume, |old| {
            old.disk.clone_from(&new.disk);
            old.meta_disk.clone_from(&new.meta_disk);
            old.size = new.size;
        });
    }
}

/// The sentences of an answer, each once: every volume says the same of its own options.
pub(super) fn each_once(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for sentence in text.split("; ").filter(|sentence| !sentence.is_empty()) {
        if !all.iter().any(|said| said == sentence) {
            all.push(sentence.to_owned());
        }
    }
    all
}

/// What of the secret is another than before, by name.
fn changed_secrets(before: Option<&Secrets>, after: Option<&Secrets>) -> Vec<&'static str> {
    let algorithm = |secrets: Option<&Secrets>| secrets.map(|one| one.cram_hmac_alg);
    let secret = |secrets: Option<&Secrets>| secrets.map(|one| one.shared_secret.clone());
    let old = |secrets: Option<&Secrets>| secrets.and_then(|one| one.shared_secret_old.clone());
    let all = [
        ("cram-hmac-alg", algorithm(before) != algorithm(after)),
        ("shared-secret", secret(before) != secret(after)),
        ("shared-secret-old", old(before) != old(after)),
    ];
    all.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// The ways from `node` to its peers.
fn paths(definition: &Definition, node: &str) -> Vec<PeerPath> {
    let Some(own) = definition.local(node) else { return Vec::new() };
    let peers = definition.peers(node);
    let all = peers.flat_map(|peer| {
        let pairs = own.addresses().zip(peer.addresses());
        pairs.map(|(local, remote)| PeerPath { peer: peer.node_id, local, remote })
    });
    all.collect()
}
