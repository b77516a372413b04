//! A data thread that obeys: it has a status and changes it as it is told, without ring and disk.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::sync::broadcast;

use super::data_thread::{DataThread, Shell};
use super::devices::Hands;
use crate::attach::{Backend, Guarded, Record, Terms};
use crate::io::attach::{Listed, Trouble, Wanted};
use crate::io::{Exported, HeldClient, Order, OrderError, Setup, Untaken};
use crate::resource::{
    AdminResult, Command, ConnectionState, ConnectionStatus, DeviceStatus, DiskState,
    PeerDeviceStatus, Reason, Refusal, ReplicationState, Role, Status, VolumeNumber,
};

/// What the test is told of.
pub(super) enum Seen {
    /// A command, and whether it was done.
    Command(Command, bool),
    /// A client was moved here.
    Client(OwnedFd, String, nbd::SessionParameters),
    /// The thread was told to end.
    Stopped,
}

/// Where it does not obey.
#[derive(Default)]
pub(super) struct Moods {
    /// So many orders that bring a client or the end find no room.
    pub(super) full: AtomicUsize,
    /// `down` is refused.
    pub(super) stays: AtomicBool,
}

impl Moods {
    fn has_room(&self, order: &Order) -> bool {
        let counts =
            matches!(order, Order::Client { .. } | Order::ReturnClients(_) | Order::Stop { .. });
        let less = |full: usize| full.checked_sub(1);
        !counts || self.full.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_err()
    }
}

struct Fake {
    moods: Arc<Moods>,
    /// Copies of their sockets.
    clients: Mutex<Vec<HeldClient>>,
    status: Mutex<Arc<Status>>,
    changes: broadcast::Sender<Arc<Status>>,
    seen: mpsc::Sender<Seen>,
    /// Its backing disks stay open and locked.
    disks: Mutex<Vec<crate::io::backing::OpenDisk>>,
}

/// Devices without a kernel.
#[derive(Default)]
pub(super) struct FakeDevices {
    /// What is attached.
    pub(super) attached: Mutex<Vec<Listed>>,
    /// It is in use.
    pub(super) mounted: Mutex<Option<VolumeNumber>>,
    /// Its flush ends when the other end says so, and tells what became of the detach.
    pub(super) flushing: Mutex<Option<Flushing>>,
}

/// A flush that does not end by itself.
pub(super) struct Flushing {
    pub(super) ends: mpsc::Receiver<()>,
    pub(super) told: mpsc::Sender<Result<(), String>>,
}

/// A device; with `server` it is remembered, with that one.
pub(super) fn device(volume: &str, index: u32, server: Option<String>) -> Listed {
    let backend = Backend { volume: volume.parse().unwrap(), token: 7 };
    let record = server.map(|server| Record {
        volume: volume.to_owned(),
        index,
        backend: backend.to_string(),
        terms: Terms { size: 1 << 20, flags: 1, block: 512 },
        connections: 1,
        dead_conn_timeout: 300,
        server,
        lost_at: None,
        refusals: Vec::new(),
        failed: None,
        keepers: Vec::new(),
    });
    Listed { index, backend, guard: Guarded::By(1), record, is_let_go: false }
}

impl Hands for FakeDevices {
    fn list(&self, _run_dir: &Path) -> Vec<Listed> {
        self.attached.lock().unwrap().clone()
    }

    fn gentle_limit(&self) -> Duration {
        Duration::from_millis(100)
    }

    fn detach(
        &self,
        _run_dir: &Path,
        device: &Listed,
        force: bool,
        wanted: &Wanted,
    ) -> Result<(), Trouble> {
        if *self.mounted.lock().unwrap() == Some(device.backend.volume.number) {
            return Err(Trouble { text: "mounted".to_owned(), exit_code: 11 });
        }
        let flushing = self.flushing.lock().unwrap().take().filter(|_| !force);
        if let Some(flushing) = &flushing {
            let _ = flushing.ends.recv();
        }
        let begun = wanted.begin();
        if let Some(flushing) = flushing {
            let outcome = begun.as_ref().map(|_| ()).map_err(|trouble| trouble.text.clone());
            let _ = flushing.told.send(outcome);
        }
        let _begun = begun?;
        self.attached.lock().unwrap().retain(|one| one.backend != device.backend);
        Ok(())
    }

    fn attach(&self, run_dir: &Path, volume: &str, name: &str) -> Result<String, String> {
        let index = name.trim_start_matches("/dev/nbd").parse().unwrap();
        let server = format!("unix:{}", run_dir.join("nbd.sock").display());
        let mut attached = self.attached.lock().unwrap();
        attached.retain(|one| one.index != index);
        attached.push(device(volume, index, Some(server)));
        Ok(format!("{volume} is {name}"))
    }
}

/// Makes fake threads; what they see goes to `seen`.
pub(super) fn shell(seen: mpsc::Sender<Seen>, hands: Arc<FakeDevices>, moods: Arc<Moods>) -> Shell {
    let spawn = move |setup: Setup| {
        let fake: Rc<dyn DataThread> = Rc::new(Fake {
            moods: moods.clone(),
            clients: Mutex::default(),
            status: Mutex::new(Arc::new(status(&setup))),
            changes: broadcast::channel(16).0,
            seen: seen.clone(),
            disks: Mutex::default(),
        });
        Ok(fake)
    };
    Shell { spawn: Box::new(spawn), hands }
}

fn status(setup: &Setup) -> Status {
    let device = |volume: &crate::resource::VolumeConfig| DeviceStatus {
        volume: volume.number,
        minor: volume.minor,
        backing_disk: volume.disk.clone(),
        disk_state: DiskState::Diskless,
        clients: Vec::new(),
        size: 1 << 20,
        read: 0,
        written: 0,
        al_writes: 0,
        bm_writes: 0,
        upper_pending: 0,
        lower_pending: 0,
        no_space: false,
        no_disk_flushes: false,
        no_md_flushes: false,
        hung_ms: None,
        current_uuid: 4,
        history: Vec::new(),
        flags: 0,
        disk_note: String::new(),
        generation_time: 0,
        alone_time: 0,
        metrics: Default::default(),
    };
    let peer_device = |volume: &crate::resource::VolumeConfig| PeerDeviceStatus {
        replication_state: ReplicationState::Off,
        peer_disk_state: DiskState::DUnknown,
        sent: 0,
        ..crate::control::fixtures::peer_device(volume.number)
    };
    let config = &setup.config;
    Status {
        name: config.name.clone(),
        node_id: config.node_id,
        node_name: config.node_name.clone(),
        role: Role::Secondary,
        auto_promoted: false,
        suspended_user: false,
        suspended_fencing: false,
        suspended_no_space: false,
        suspended_gap: false,
        suspended_handshake: false,
        order: None,
        failed: None,
        devices: config.volumes.iter().map(device).collect(),
        connections: config
            .peers
            .iter()
            .map(|peer| ConnectionStatus {
                peer_node_id: peer.node_id,
                name: peer.name.clone(),
                connection_state: ConnectionState::StandAlone,
                socket: None,
                remote: String::new(),
                reason: Reason::NeverConnected,
                fencing: None,
                peer_role: Role::Unknown,
                discard_my_data_pending: false,
                back_in_ms: None,
                ap_in_flight: 0,
                rs_in_flight: 0,
                congested: false,
                since_ms: 0,
                attempts: 0,
                sessions: 0,
                detail: String::new(),
                last_peer_role: Role::Unknown,
                last_handshake: Vec::new(),
                peer_devices: config.volumes.iter().map(peer_device).collect(),
            })
            .collect(),
    }
}

impl Fake {
    fn change(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.lock().unwrap();
        change(Arc::make_mut(&mut status));
        let _ = self.changes.send(status.clone());
    }

    fn command(&self, command: &Command) -> AdminResult {
        if let Some(message) = self.status().failed.clone() {
            let text = "Invalid configuration request".to_owned();
            return Err(Refusal { code: 162, text, hint: message });
        }
        match command {
            // Stands for a defect.
            Command::Resize { .. } => {
                self.change(|status| *status = status.clone().after_failure("as the test wishes"));
            }
            Command::Primary { .. } | Command::AutoPromote | Command::HandOver => {
                if self.status().devices.iter().any(|one| one.disk_state == DiskState::Diskless) {
                    return Err(Refusal {
                        code: -2,
                        text: "Need access to UpToDate data".to_owned(),
                        hint: "attach a disk.".to_owned(),
                    });
                }
                let auto = *command == Command::AutoPromote;
                self.change(|status| {
                    status.auto_promoted =
                        auto && (status.auto_promoted || status.role != Role::Primary);
                    status.role = Role::Primary;
                });
            }
            Command::SuspendIo { suspend } => {
                self.change(|status| status.suspended_user = *suspend);
            }
            Command::Secondary { .. } => self.change(|status| status.role = Role::Secondary),
            Command::Connect { peer, discard_my_data, .. } => self.change(|status| {
                for one in status.connections.iter_mut().filter(|one| one.peer_node_id == *peer) {
                    one.connection_state = ConnectionState::Connecting;
                    one.discard_my_data_pending = *discard_my_data;
                }
            }),
            Command::Disconnect { .. } => self.change(|status| {
                for one in &mut status.connections {
                    one.connection_state = ConnectionState::StandAlone;
                    one.reason = Reason::StoppedByAdmin;
                }
            }),
            // Stands for the peer's answer.
            Command::Outdate { .. } => self.change(|status| {
                for one in &mut status.connections {
                    one.connection_state = ConnectionState::Connected;
                    one.reason = Reason::None;
                    one.peer_role = Role::Secondary;
                    for peer in &mut one.peer_devices {
                        peer.replication_state = ReplicationState::Established;
                    }
                }
            }),
            Command::Down { .. } if self.moods.stays.load(Ordering::SeqCst) => {
                return Err(Refusal {
                    code: -23,
                    text: "Timeout in operation".to_owned(),
                    hint: "as the test wishes".to_owned(),
                });
            }
            Command::Down { .. } => self.disks.lock().unwrap().clear(),
            Command::SetOptions { .. }
            | Command::SetSize { .. }
            | Command::Attach { .. }
            | Command::Detach { .. }
            | Command::Invalidate { .. }
            | Command::InvalidateRemote { .. }
            | Command::PauseSync { .. }
            | Command::Verify { .. }
            | Command::Repair { .. }
            | Command::NewCurrentUuid { .. }
            | Command::DevicesDetached { .. }
            | Command::UnfencePeer { .. }
            | Command::ForgetPeer { .. } => {}
        }
        Ok(String::new())
    }
}

impl DataThread for Fake {
    fn offer(&self, order: Order) -> Result<(), Untaken> {
        if !self.moods.has_room(&order) {
            return Err(Untaken { why: OrderError::Full, order: Box::new(order) });
        }
        match order {
            Order::Admin { command, reply } => {
                let result = self.command(&command);
                let _ = self.seen.send(Seen::Command(command, result.is_ok()));
                let _ = reply.send(result);
            }
            Order::Attach { volume, disk, reply } => {
                self.disks.lock().unwrap().push(*disk);
                self.change(|status| {
                    let mut devices = status.devices.iter_mut();
                    if let Some(device) = devices.find(|device| device.volume == volume) {
                        device.disk_state = DiskState::UpToDate;
                    }
                });
                let _ = reply.send(Ok(String::new()));
            }
            Order::Client { fd, description, parameters, volume } => {
                let client = HeldClient {
                    fd: fd.try_clone().unwrap(),
                    volume,
                    parameters: parameters.clone(),
                    description: description.clone(),
                    is_fresh: true,
                    unread: Vec::new(),
                };
                self.clients.lock().unwrap().push(client);
                let _ = self.seen.send(Seen::Client(fd, description, parameters));
            }
            Order::HoldClients { reply } => {
                let _ = reply.send(Vec::new());
            }
            Order::ReleaseClients => {}
            Order::TakeClients { reply } => {
                let taken = std::mem::take(&mut *self.clients.lock().unwrap());
                if self.status().auto_promoted && !taken.is_empty() {
                    // As the state machine does when the last one has gone.
                    self.change(|status| {
                        status.role = Role::Secondary;
                        status.auto_promoted = false;
                    });
                }
                let _ = reply.send(taken);
            }
            Order::ReturnClients(clients) => {
                let serves = self.status().role == Role::Primary;
                for client in clients.into_iter().filter(|_| serves) {
                    let seen = Seen::Client(client.fd, client.description, client.parameters);
                    let _ = self.seen.send(seen);
                }
            }
            Order::Export { reply, .. } => {
                let _ = reply.send(match self.status().role {
                    Role::Primary => Ok(Exported { size: 1 << 20, keepers: Vec::new() }),
                    Role::Secondary | Role::Unknown => Err("not Primary".to_owned()),
                });
            }
            Order::Secrets { reply, .. } => {
                let _ = reply.send(());
            }
            Order::Paths { reply, .. } => {
                let _ = reply.send(Ok(()));
            }
            Order::ResyncDependency { .. } => {}
            Order::Statistics { reply } => {
                let _ = reply.send((*self.status()).clone());
            }
            Order::Stop { reply } => {
                let _ = self.seen.send(Seen::Stopped);
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    fn status(&self) -> Arc<Status> {
        self.status.lock().unwrap().clone()
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Status>> {
        self.changes.subscribe()
    }
}
