//! The resources that are up, and the orders that concern more than the state machine.
//!
//! Invariants:
//! - Orders that make, change or end a resource (up, attach, connect, down) run one after the
//!   other for each resource; other orders go straight to its data thread.
//! - What a caller is told of a resource is never older than the answer to its own order.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Mutex, broadcast, mpsc};
use tracing::{error, info};

use super::data_thread::Shell;
use super::disks::Looks;
pub(crate) use super::entry::Entry;
use super::remembered::{Remembered, SETTLED, WasUp};
use crate::config::{Definition, HostVolume};
use crate::control::Report;
use crate::io::{HandlerPlaces, Order, Setup, SocketBuffers};
use crate::resource::{
    AdminResult, Command, ConnectionState, DiskState, NodeId, Refusal, ResourceConfig, Status,
    VolumeNumber,
};

/// Resources at most; each has a thread and a ring.
const RESOURCES_MAX: usize = 256;
/// How long fresh counters are waited for.
const STATISTICS_LIMIT: Duration = Duration::from_secs(2);
/// How long the end of one resource may take when the daemon ends.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether a disk that hung while it was opened answers.
const SLOW_DISK: Duration = Duration::from_secs(1);
/// Attempts to bring up what was up when tandemd crashed, where its disk hangs.
const SLOW_TRIES: u32 = 5;
/// Changes that a slow watcher may be behind before it is given whole snapshots instead.
const CHANGES: usize = 64;

/// What watchers are told.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// The resource was made, or its state has changed.
    Status(Rc<Entry>, Arc<Status>),
    /// It was taken down.
    Gone(String),
}

/// What the daemon was started with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// This node's name.
    pub(crate) node: String,
    /// Where recordings go, if anything is recorded.
    pub(crate) record: Option<PathBuf>,
    /// What is known of disks.
    pub(crate) state_dir: PathBuf,
    /// What is known of disks from this boot.
    pub(crate) run_dir: PathBuf,
    /// What was up when the daemon crashed.
    pub(crate) remembered: Remembered,
    /// The configuration file, for handlers.
    pub(crate) config: PathBuf,
    /// The NBD socket, for people.
    pub(crate) nbd_socket: PathBuf,
    /// So many resyncs may run at once; 0: all.
    pub(crate) max_parallel_resyncs: u32,
    /// What follows at a restart.
    pub(crate) program: PathBuf,
}

/// What is not done when a resource comes up.
#[derive(Clone, Debug, Default)]
pub(super) struct But {
    /// Peers that are not dialled, by order.
    pub(super) apart: BTreeSet<NodeId>,
    /// Peers that are dialled in so long, ms.
    pub(super) back_in_ms: BTreeMap<NodeId, u64>,
    /// Volumes whose disk is not attached.
    pub(super) diskless: BTreeSet<VolumeNumber>,
    /// How often it was brought up after a crash; 0: by order.
    pub(super) tries: u32,
}

/// All resources of this node.
pub(crate) struct Registry {
    pub(super) settings: Settings,
    pub(super) shell: Shell,
    entries: RefCell<BTreeMap<String, Rc<Entry>>>,
    locks: RefCell<BTreeMap<String, Rc<Mutex<()>>>>,
    /// Volumes whose disk is being opened for longer than anybody waits ([`super::disks`]), also of a
    /// resource that has gone down since.
    pub(super) opening: RefCell<BTreeSet<(String, VolumeNumber)>>,
    /// Disks that somebody looks at without taking them.
    pub(super) looks: Looks,
    changes: broadcast::Sender<Change>,
    pub(super) closing: Cell<bool>,
    /// Resources are on their way down and up again: nobody is told how it looks meanwhile.
    pub(super) stands_still: Cell<bool>,
    /// Orders for the daemon itself.
    pub(super) daemon: mpsc::Sender<super::restart::Asked>,
}

/// A refusal by the shell.
pub(super) fn refusal(code: i32, text: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal { code, text: text.into(), hint: hint.into() }
}

/// A refusal in an order for all volumes: which one it is about, where there are several.
pub(super) fn of_volume(
    config: &ResourceConfig,
    volume: VolumeNumber,
    mut refusal: Refusal,
) -> Refusal {
    if config.volumes.len() > 1 {
        refusal.hint = format!("{}/{volume}: {}", config.name, refusal.hint);
    }
    refusal
}

pub(super) fn not_up(resource: &str) -> Refusal {
    refusal(158, "Unknown resource", format!("{resource} is not up: `tandemadm up {resource}`."))
}

pub(super) fn ended(resource: &str) -> Refusal {
    let hint = format!("the resource has stopped: `tandemadm why {resource}`, and tandemd's log.");
    refusal(-21, "Interrupted state change", hint)
}

impl Registry {
    /// Nothing is up.
    pub(crate) fn new(
        settings: Settings,
        shell: Shell,
        daemon: mpsc::Sender<super::restart::Asked>,
    ) -> Rc<Self> {
        Rc::new(Self {
            daemon,
            settings,
            shell,
            entries: RefCell::default(),
            locks: RefCell::default(),
            opening: RefCell::default(),
            looks: Looks::default(),
            changes: broadcast::channel(CHANGES).0,
            closing: Cell::new(false),
            stands_still: Cell::new(false),
        })
    }

    /// The daemon is about to end: nothing new is begun.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// A resource that is up.
    pub(crate) fn entry(&self, resource: &str) -> Option<Rc<Entry>> {
        self.entries.borrow().get(resource).cloned()
    }

    /// All that is up, or the one that is asked for, by name.
    pub(crate) fn chosen(&self, resource: Option<&str>) -> Vec<Rc<Entry>> {
        let entries = self.entries.borrow();
        let wanted = |name: &str| resource.is_none_or(|one| one == name);
        entries.iter().filter(|(name, _)| wanted(name)).map(|(_, entry)| entry.clone()).collect()
    }

    /// Every later change of any resource.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    pub(super) fn lock(&self, resource: &str) -> Rc<Mutex<()>> {
        let mut locks = self.locks.borrow_mut();
        let entries = self.entries.borrow();
        locks.retain(|name, lock| entries.contains_key(name) || Rc::strong_count(lock) > 1);
        locks.entry(resource.to_owned()).or_default().clone()
    }

    pub(super) fn check(&self, definition: &Definition) -> Result<ResourceConfig, Refusal> {
        definition
            .for_node(&self.settings.node)
            .map_err(|why| refusal(162, "Invalid configuration request", why))
    }

    /// Makes the resource if it is not there, attaches what is not attached, dials.
    ///
    /// # Errors
    /// The definition does not fit, a port is taken, or a disk cannot be attached: then the
    /// resource is up, Diskless and unconnected.
    pub(crate) async fn up(self: &Rc<Self>, definition: &Definition) -> AdminResult {
        if self.entry(&definition.name).is_none() {
            self.minors_are_free(definition, &self.check(definition)?)?;
        }
        self.up_but(definition, &But::default()).await
    }

    /// As `up`, with exceptions.
    pub(super) async fn up_but(self: &Rc<Self>, definition: &Definition, but: &But) -> AdminResult {
        let config = self.check(definition)?;
        let lock = self.lock(&config.name);
        let _guard = lock.lock().await;
        let entry = match self.entry(&config.name) {
            Some(entry) => {
                self.is_up_as(&entry, definition)?;
                entry.tries_are(but.tries);
                entry
            }
            None => self.new_entry(definition, config, but).await?,
        };
        let meant = |volume: VolumeNumber| !but.diskless.contains(&volume);
        let volumes = entry.config.volumes.iter().map(|volume| volume.number);
        let has_disk =
            |volume: VolumeNumber| entry.volume(volume).is_some_and(|volume| volume.disk.is_some());
        for volume in volumes.filter(|volume| has_disk(*volume) && meant(*volume)) {
            if entry.disk_state(volume) == DiskState::Diskless {
                let attached = self.open_and_attach(&entry, definition, volume).await;
                attached.map_err(|refusal| of_volume(&entry.config, volume, refusal))?;
            }
        }
        let mut left = Vec::new();
        for (peer, peer_name) in entry.config.peers.iter().map(|one| (one.node_id, &one.name)) {
            if entry.is_refused(peer) {
                // Another handshake ends as the last one did; only `connect` asks for it.
                left.push(format!(
                    "the connection to {peer_name} stays StandAlone: `tandemadm why {}`",
                    entry.config.name
                ));
            } else if entry.connection_state(peer) == ConnectionState::StandAlone {
                let for_ms = but.back_in_ms.get(&peer).copied();
                let command = match but.apart.contains(&peer) || for_ms.is_some() {
                    true => Command::Disconnect { peer, force: false, for_ms },
                    false => Command::Connect { peer, discard_my_data: false, tentative: false },
                };
                entry.order(command).await?;
            }
        }
        Ok(left.join("\n"))
    }

    /// Makes the resource if it is not there: it has no disks, and dials nobody.
    ///
    /// # Errors
    /// The definition does not fit, or a port is taken.
    pub(crate) async fn new_resource(self: &Rc<Self>, definition: &Definition) -> AdminResult {
        let config = self.check(definition)?;
        let lock = self.lock(&config.name);
        let _guard = lock.lock().await;
        if self.entry(&config.name).is_none() {
            self.minors_are_free(definition, &config)?;
            let apart = config.peers.iter().map(|peer| peer.node_id).collect();
            self.new_entry(definition, config, &But { apart, ..But::default() }).await?;
        }
        Ok(String::new())
    }

    /// A resource that was not there.
    async fn new_entry(
        self: &Rc<Self>,
        definition: &Definition,
        config: ResourceConfig,
        but: &But,
    ) -> Result<Rc<Entry>, Refusal> {
        self.no_cycle(definition)?;
        let entry = self.make(definition, config, but)?;
        let several = definition.hosts.iter().any(|host| !host.more_addresses.is_empty());
        if several && let Err(refusal) = self.tell_paths(&entry, definition).await {
            // Up without some of its paths it would never be given them.
            self.remove(&entry).await;
            return Err(refusal);
        }
        Ok(entry)
    }

    /// Brings up what was up when the daemon crashed, as Secondary, each resource by itself.
    pub(crate) fn up_after_a_crash(self: &Rc<Self>) {
        for WasUp { definition, apart, tries } in self.settings.remembered.after_a_crash() {
            let registry = self.clone();
            tokio_uring::spawn(async move {
                let name = &definition.name;
                info!(resource = %name, "{name}: was up when tandemd crashed, and comes up again");
                if !apart.is_empty() {
                    info!(resource = %name, "{name}: was disconnected by order: `tandemadm connect {name}` dials");
                }
                let mut but = But { apart, tries, ..But::default() };
                let mut attempts = SLOW_TRIES;
                while let Err(refusal) = registry.up_but(&definition, &but).await {
                    let (code, text, hint) = (refusal.code, refusal.text, refusal.hint);
                    error!(resource = %name, "{name}: up after a crash: ({code}) {text}: {hint}");
                    let Some(entry) = registry.entry(name) else { break };
                    attempts -= 1;
                    if !registry.is_opening(name) || attempts == 0 {
                        break;
                    }
                    // A disk that is slow just now, and nobody there who waits for it.
                    while registry.is_opening(name) {
                        tokio::time::sleep(SLOW_DISK).await;
                    }
                    let stays = registry.entry(name).is_some_and(|now| Rc::ptr_eq(&now, &entry));
                    if !stays || registry.is_closing() {
                        break;
                    }
                    // Who was disconnected by order meanwhile stays so.
                    but.apart = entry.apart.borrow().clone();
                }
            });
        }
    }

    /// What came up after a crash and has run since has not brought the daemon down.
    pub(super) async fn settle(self: Rc<Self>) {
        tokio::time::sleep(SETTLED).await;
        for entry in self.chosen(None) {
            entry.tries.set(0);
            entry.change(|_| {});
        }
    }

    /// Nothing that is up has the minors or devices of a resource that is not. Those of one
    /// configuration differ; but what is up may be of an older one. Asked where a person gives the order: what was up
    /// before a restart or a crash comes up again.
    pub(super) fn minors_are_free(
        &self,
        definition: &Definition,
        config: &ResourceConfig,
    ) -> Result<(), Refusal> {
        let own = definition.hosts.iter().find(|host| host.node_id == config.node_id);
        for entry in self.entries.borrow().values() {
            let running = entry.running.borrow();
            let here = running.hosts.iter().find(|host| host.node_id == entry.config.node_id);
            let taken = || here.into_iter().flat_map(|host| &host.volumes);
            for (number, volume) in own.into_iter().flat_map(|own| &own.volumes) {
                let is_same = |other: &HostVolume| {
                    let node = volume.device_node.is_some();
                    other.minor == volume.minor || node && other.device_node == volume.device_node
                };
                let Some((of, other)) = taken().find(|(_, other)| is_same(other)) else { continue };
                let what = match other.minor == volume.minor {
                    true => format!("minor {}", volume.minor),
                    false => volume.nbd_device(),
                };
                let hint = format!(
                    "{0}/{number}: {what} is that of {1}/{of}, which is up. Write another `device` for {0}, \
                     or `tandemadm down {1}` first.",
                    config.name, running.name
                );
                let text = "Minor or volume exists already (delete it first)";
                return Err(refusal(161, text, hint));
            }
        }
        Ok(())
    }

    fn make(
        self: &Rc<Self>,
        definition: &Definition,
        config: ResourceConfig,
        but: &But,
    ) -> Result<Rc<Entry>, Refusal> {
        if self.closing.get() {
            return Err(refusal(-21, "Interrupted state change", "tandemd is about to end."));
        }
        if self.entries.borrow().len() >= RESOURCES_MAX {
            let hint = format!("this tandemd runs {RESOURCES_MAX} resources already.");
            return Err(refusal(122, "Out of memory", hint));
        }
        let name = config.name.clone();
        let invalid = || refusal(162, "Invalid configuration request", "the own host is missing");
        let local = definition.local(&self.settings.node).ok_or_else(invalid)?.address;
        let peers: Vec<(NodeId, std::net::SocketAddr)> = definition
            .peers(&self.settings.node)
            .map(|host| (host.node_id, host.address))
            .collect();
        let setup = Setup {
            config: config.clone(),
            local,
            peers,
            buffers: SocketBuffers::of(&config.options),
            secrets: definition.secrets.clone(),
            record: self.settings.record.as_ref().map(|dir| dir.join(format!("{name}.record"))),
            seed: seed().map_err(|error| {
                refusal(122, "Out of memory", format!("no random numbers: {error}"))
            })?,
            state_dir: self.settings.state_dir.clone(),
            places: HandlerPlaces {
                config: self.settings.config.clone(),
                node: self.settings.node.clone(),
                run_dir: self.settings.run_dir.clone(),
            },
        };
        let thread = (self.shell.spawn)(setup).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                refusal(102, "Local address(port) already in use.", format!("{local}: {error}"))
            }
            _ => refusal(122, "Out of memory", format!("the data thread did not start: {error}")),
        })?;
        let running = RefCell::new(definition.clone());
        let (attach_failed, disks) = (RefCell::default(), Default::default());
        let past = super::past::Memory::new();
        let remembered = self.settings.remembered.clone();
        remembered.keep(definition, &but.apart, but.tries);
        let (apart, ends) = (RefCell::new(but.apart.clone()), Cell::new(false));
        let entry = Rc::new(Entry {
            config,
            thread,
            running,
            attach_failed,
            devices: Default::default(),
            past,
            disks,
            apart,
            tries: Cell::new(but.tries),
            ends,
            remembered,
        });
        self.entries.borrow_mut().insert(name.clone(), entry.clone());
        info!(resource = %name, "{name}: up at {local}");
        self.forward(&entry);
        Ok(entry)
    }

    /// Passes the resource's snapshots on to all watchers, until its thread ends.
    fn forward(self: &Rc<Self>, entry: &Rc<Entry>) {
        let (changes, entry, registry) = (self.changes.clone(), entry.clone(), self.clone());
        let mut snapshots = entry.thread.subscribe();
        // No watcher is no error: a send to nobody fails and is meant to.
        let _ = changes.send(Change::Status(entry.clone(), entry.thread.status()));
        tokio_uring::spawn(async move {
            loop {
                let status = match snapshots.recv().await {
                    Ok(status) => status,
                    Err(broadcast::error::RecvError::Lagged(_)) => entry.thread.status(),
                    Err(broadcast::error::RecvError::Closed) => break,
                };
                entry.keep_apart(&status);
                entry.keep_sizes(&status);
                registry.devices_may_hand_over(&entry, &status);
                entry.past.with(&status);
                let _ = changes.send(Change::Status(entry.clone(), status));
            }
        });
    }

    /// Dials a peer.
    ///
    /// # Errors
    /// The resource is not up, or the state machine refuses.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        definition: &Definition,
        command: Command,
    ) -> AdminResult {
        let config = self.check(definition)?;
        let lock = self.lock(&config.name);
        let guard = lock.lock().await;
        let entry = self.entry(&config.name).ok_or_else(|| not_up(&config.name))?;
        let difference = self.difference(&entry, definition);
        // A peer that the resource does not have: the file is about other hosts.
        let has = |id: NodeId| entry.config.peers.iter().any(|peer| peer.node_id == id);
        if let Command::Connect { peer, .. } = command
            && !has(peer)
        {
            difference.refusal(&config.name).map_or(Ok(()), Err)?;
        }
        if difference.paths() {
            self.tell_paths(&entry, definition).await?;
        }
        if matches!(command, Command::Connect { tentative: true, .. }) {
            // It waits for the peer; whatever ends that may be ordered meanwhile.
            drop(guard);
        }
        let mut text = self.order_saved(&entry, command).await?;
        let changed = self.changed_since_up(&entry, definition);
        if !changed.is_empty() && !text.is_empty() {
            text.push('\n');
        }
        Ok(text + &changed)
    }

    /// Takes a resource down; nothing to do is done.
    ///
    /// # Errors
    /// The state machine refuses: a client is connected, or this is the only good copy.
    pub(crate) async fn down(self: &Rc<Self>, resource: &str) -> AdminResult {
        let lock = self.lock(resource);
        let _guard = lock.lock().await;
        let Some(entry) = self.entry(resource) else {
            // It may be one that could not be brought up after a crash.
            self.settings.remembered.forget(resource);
            return Ok(String::new());
        };
        if entry.status().failed.is_some() {
            // Nobody is left there who could refuse, or say goodbye. Its disks stay locked until tandemd ends.
            self.remove(&entry).await;
            return Ok(format!(
                "{resource} had failed: restart tandemd before it is brought up again"
            ));
        }
        self.devices_before(&entry, &Command::Down { shutdown: false }).await?;
        entry.ends.set(true);
        let text = match entry.order(Command::Down { shutdown: false }).await {
            Ok(text) => text,
            // It has failed just now: it can be removed all the same.
            Err(refusal) if entry.status().failed.is_some() => refusal.hint,
            Err(refusal) => {
                entry.ends.set(false);
                let after = super::devices::After::Attach;
                return self.devices_after(&entry, after, Err(refusal)).await;
            }
        };
        self.remove(&entry).await;
        Ok(text)
    }

    async fn remove(&self, entry: &Rc<Entry>) {
        self.end(entry).await;
        let name = &entry.config.name;
        entry.remembered.forget(name);
        let _ = self.changes.send(Change::Gone(name.clone()));
        info!(resource = %name, "{name}: down");
    }

    /// Its thread ends, and it is up no more; but for the time after a crash it still is.
    pub(super) async fn end(&self, entry: &Rc<Entry>) {
        let name = &entry.config.name;
        entry.ends.set(true);
        let stopping = entry.clone();
        // It goes on beyond the limit, where the thread has no room for the order.
        let stopped = tokio_uring::spawn(async move { stopping.stop().await });
        if tokio::time::timeout(SHUTDOWN_LIMIT, stopped).await.is_err() {
            error!(
                resource = %name,
                "{name}: the data thread did not end in {} s; its port and its disks stay taken until it \
                 ends, or tandemd",
                SHUTDOWN_LIMIT.as_secs()
            );
        }
        self.entries.borrow_mut().remove(name);
    }

    /// An order for the state machine of a resource that is up.
    ///
    /// # Errors
    /// The resource is not up, or the state machine refuses.
    pub(crate) async fn order(&self, resource: &str, command: Command) -> AdminResult {
        let entry = self.entry(resource).ok_or_else(|| not_up(resource))?;
        let asks_peer = super::begun::AsksPeer::of(&entry, &command);
        let begun = Instant::now();
        self.devices_before(&entry, &command).await?;
        // Devices and clients have one wait together.
        let mut command = command;
        if let Command::Secondary { wait_ms, .. } = &mut command {
            let spent = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            *wait_ms = wait_ms.saturating_sub(spent);
        }
        let after = super::devices::After::of(&command);
        let result = self.order_saved(&entry, command).await;
        let text = self.devices_after(&entry, after, result).await?;
        if let Some(asked) = asks_peer {
            asked.begun(&entry).await?;
        }
        Ok(text)
    }

    /// Reports of what is up, or of the one that is asked for. A data thread that does not answer
    /// holds up none of the others.
    pub(crate) async fn reports(self: &Rc<Self>, resource: Option<&str>) -> Vec<Report> {
        let report = |entry: Rc<Entry>| {
            let registry = self.clone();
            tokio_uring::spawn(async move { registry.report(&entry).await })
        };
        let asked: Vec<_> = self.chosen(resource).into_iter().map(report).collect();
        let mut reports = Vec::new();
        for one in asked {
            reports.extend(one.await);
        }
        reports
    }

    /// A report with fresh counters.
    pub(crate) async fn report(&self, entry: &Entry) -> Report {
        let fresh = entry.ask(|reply| Order::Statistics { reply });
        match tokio::time::timeout(STATISTICS_LIMIT, fresh).await {
            Ok(Ok(status)) => self.report_of(entry, status),
            Ok(Err(_)) | Err(_) => self.report_of(entry, (*entry.thread.status()).clone()),
        }
    }

    /// A report of this snapshot.
    pub(crate) fn report_of(&self, entry: &Entry, mut status: Status) -> Report {
        entry.note_failures(&mut status);
        entry.note_clients(&mut status);
        let report = Report {
            path_differs: entry.disks.differing(&status),
            disk_files: entry.disks.in_use(&status),
            device_failed: entry.devices.failures(&status),
            past: entry.past.with(&status),
            status,
            paths: self.paths_of(entry),
            peer_clients: entry.peer_clients(),
            auto_promote: entry.auto_promote(),
            config_differs: Vec::new(),
            nbd_socket: self.settings.nbd_socket.display().to_string(),
            taken_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        };
        report.without_bits_of_clients()
    }

    /// Ends every resource in order, all at once, each in bounded time.
    pub(crate) async fn shut_down(self: &Rc<Self>) {
        self.closing.set(true);
        let ends: Vec<_> = self
            .chosen(None)
            .into_iter()
            .map(|entry| {
                let registry = self.clone();
                entry.ends.set(true);
                tokio_uring::spawn(async move {
                    let name = entry.config.name.clone();
                    let down = entry.order(Command::Down { shutdown: true });
                    match tokio::time::timeout(SHUTDOWN_LIMIT, down).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(refusal)) => error!(
                            resource = %name,
                            "{name}: not taken down in order: {refusal}"
                        ),
                        Err(_) => error!(
                            resource = %name,
                            "{name}: not taken down in {} s: the next attach recovers",
                            SHUTDOWN_LIMIT.as_secs()
                        ),
                    }
                    registry.remove(&entry).await;
                })
            })
            .collect();
        for end in ends {
            if end.await.is_err() {
                error!("the end of a resource failed");
            }
        }
    }
}

/// A number from the system's random source.
pub(super) fn seed() -> std::io::Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}
