//! NBD clients: accept, negotiate, and move the connection to the data thread of its resource.
//!
//! Invariants:
//! - Exactly the bytes of the negotiation are read here; the next byte is the data thread's.
//! - A client negotiates for [`NEGOTIATION_LIMIT`] at most, in one of few [`Places`].
//! - No read is ever dropped: a deadline ends it by `shutdown`.

use std::net::{Shutdown, TcpStream as StdTcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;
use std::time::Duration;

use nbd::{BlockSizes, ExportInfo, ListedExport, LookupError, Negotiation, Step};
use nix::sys::socket::{getsockopt, sockopt};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, UnixListener};
use tokio_uring::net::{TcpStream, UnixStream};
use tracing::{debug, info, warn};

use super::accept::Acceptor;
use super::places::{Place, Places};
use super::registry::{Entry, Registry};
use crate::io::{Exported, Order};
use crate::resource::{Command, Role, Status, VolumeNumber};

/// A negotiation that takes longer is ended.
const NEGOTIATION_LIMIT: Duration = Duration::from_secs(30);

/// Serves clients of the Unix socket until the task is dropped.
pub(crate) async fn serve_unix(
    listener: Acceptor<UnixListener>,
    registry: Rc<Registry>,
    places: Rc<Places>,
) {
    loop {
        places.room().await;
        let stream = listener.next().await;
        let description = unix_client(&stream);
        match stream.try_clone() {
            Ok(copy) => {
                let socket = Socket::Unix(UnixStream::from_std(copy));
                start(&registry, &places, socket, stream.into(), description);
            }
            // Closed without a word: there is no descriptor left to talk with.
            Err(error) => listener.wait_out(&error).await,
        }
    }
}

/// Serves clients of a TCP address until the task is dropped.
pub(crate) async fn serve_tcp(
    listener: Acceptor<TcpListener>,
    registry: Rc<Registry>,
    places: Rc<Places>,
) {
    loop {
        places.room().await;
        let (stream, from) = listener.next().await;
        match prepare_tcp(&stream) {
            Ok(copy) => {
                let socket = Socket::Tcp(TcpStream::from_std(copy));
                start(&registry, &places, socket, stream.into(), from.to_string());
            }
            Err(error) => listener.wait_out(&error).await,
        }
    }
}

/// Starts a negotiation, in a place of its own.
fn start(
    registry: &Rc<Registry>,
    places: &Rc<Places>,
    socket: Socket,
    descriptor: OwnedFd,
    client: String,
) {
    let (registry, socket) = (registry.clone(), Rc::new(socket));
    let place = places.take(&client, {
        let socket = socket.clone();
        move || socket.shutdown()
    });
    tokio_uring::spawn(async move {
        negotiate(&registry, socket, descriptor, client, place).await;
    });
}

fn prepare_tcp(stream: &StdTcpStream) -> std::io::Result<StdTcpStream> {
    stream.set_nodelay(true)?;
    // A client whose host died is noticed in 40 s: its requests have long been answered, and it stands in the way of
    // others, and of its own next life.
    nix::sys::socket::setsockopt(stream, sockopt::KeepAlive, &true)?;
    nix::sys::socket::setsockopt(stream, sockopt::TcpKeepIdle, &20)?;
    nix::sys::socket::setsockopt(stream, sockopt::TcpKeepInterval, &5)?;
    nix::sys::socket::setsockopt(stream, sockopt::TcpKeepCount, &4)?;
    stream.try_clone()
}

/// `nbd-client pid 2211 uid 0`.
fn unix_client(stream: &StdUnixStream) -> String {
    let Ok(peer) = getsockopt(stream, sockopt::PeerCredentials) else {
        return "unknown client".to_owned();
    };
    let name = std::fs::read(format!("/proc/{}/comm", peer.pid())).unwrap_or_default();
    let name: String = String::from_utf8_lossy(&name)
        .trim_end()
        .chars()
        .map(|c| if c.is_control() || c.is_whitespace() { '_' } else { c })
        .collect();
    let name = if name.is_empty() { "client".to_owned() } else { name };
    format!("{name} pid {} uid {}", peer.pid(), peer.uid())
}

/// A client and its device: `10.0.0.7:51234 device 0123456789abcdef`. What stands there is made of the
/// token, and tells it to nobody.
fn of_device(client: &str, device: Option<&nbd::Device>) -> String {
    let Some(device) = device else { return client.to_owned() };
    let digest = Sha256::digest([b"tandem device ", &device.token.to_be_bytes()[..]].concat());
    let name: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{client} device {name}")
}

/// The ring's end of a connection. The descriptor that moves on is a second one of the same socket.
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    async fn read(&self, buffer: Vec<u8>) -> (std::io::Result<usize>, Vec<u8>) {
        match self {
            Self::Tcp(stream) => stream.read(buffer).await,
            Self::Unix(stream) => stream.read(buffer).await,
        }
    }

    async fn write_all(&self, bytes: Vec<u8>) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await.0,
            Self::Unix(stream) => stream.write_all(bytes).await.0,
        }
    }

    fn shutdown(&self) {
        // Already gone is as good.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

/// What a negotiation has led to.
struct Entered {
    entry: Rc<Entry>,
    volume: VolumeNumber,
    session: nbd::SessionParameters,
}

async fn negotiate(
    registry: &Rc<Registry>,
    socket: Rc<Socket>,
    descriptor: OwnedFd,
    client: String,
    place: Place,
) {
    let deadline = tokio_uring::spawn({
        let socket = socket.clone();
        async move {
            tokio::time::sleep(NEGOTIATION_LIMIT).await;
            socket.shutdown();
        }
    });
    let entered = drive(registry, &socket, &client, &place).await;
    deadline.abort();
    // After the abort has taken effect nothing can shut the socket down behind the data thread.
    let in_time = deadline.await.is_err() && place.is_held();
    match entered {
        Ok(Some(Entered { entry, volume, session })) if in_time => {
            let client = of_device(&client, session.device.as_ref());
            info!(resource = %entry.config.name, "{}/{volume}: {client} connected", entry.config.name);
            let order = Order::Client {
                fd: descriptor,
                volume,
                parameters: session,
                description: client.clone(),
            };
            if let Err(why) = entry.hand_over(order).await {
                warn!(resource = %entry.config.name,
                    "{}/{volume}: {client} is closed unserved: {why}", entry.config.name);
            }
            // Until now a restart waits for it; nobody else gets the place of one that enters.
            drop(place);
        }
        Ok(Some(_)) | Ok(None) => socket.shutdown(),
        Err(error) => {
            debug!("NBD: {client}: {error}");
            socket.shutdown();
        }
    }
}

async fn drive(
    registry: &Rc<Registry>,
    socket: &Socket,
    client: &str,
    place: &Place,
) -> std::io::Result<Option<Entered>> {
    let mut negotiation = Negotiation::with_descriptions(listed(registry));
    socket.write_all(Negotiation::greeting().to_vec()).await?;
    let mut found = None;
    let mut step = Step::Continue { send: Vec::new() };
    loop {
        step = match step {
            Step::Continue { send } => {
                if !send.is_empty() {
                    socket.write_all(send).await?;
                }
                let (read, bytes) = socket.read(Vec::with_capacity(negotiation.wants())).await;
                let read = read?;
                if read == 0 {
                    return Ok(None);
                }
                negotiation.feed(&bytes[..read])
            }
            Step::Lookup { name, go } => {
                place.enters(go);
                let client = of_device(client, negotiation.device());
                let device = negotiation.device().map(|device| device.token);
                let asked = look_up(registry, &name, go, &client, device);
                // A data thread that hangs keeps no place: the others' clients need them.
                let answer = tokio::time::timeout(NEGOTIATION_LIMIT, asked).await;
                let answer = answer.unwrap_or_else(|_| {
                    Err(LookupError::Policy("it does not answer: see tandemadm why".to_owned()))
                });
                // Refused, it negotiates on.
                place.enters(answer.is_ok() && go);
                found = answer.as_ref().ok().map(|(entry, volume, _)| (entry.clone(), *volume));
                negotiation.answer(answer.map(|(_, _, info)| info))
            }
            Step::Enter { send, session } => {
                if !send.is_empty() {
                    socket.write_all(send).await?;
                }
                return Ok(found.map(|(entry, volume)| Entered { entry, volume, session }));
            }
            Step::Close { send, reason } => {
                if !send.is_empty() {
                    socket.write_all(send).await?;
                }
                debug!("NBD: {client}: {reason}");
                return Ok(None);
            }
        };
    }
}

/// All exports: `r0/0`, and `r0` where it has one volume.
fn listed(registry: &Registry) -> Vec<ListedExport> {
    let mut exports = Vec::new();
    for entry in registry.chosen(None) {
        let status = entry.status();
        let name = &entry.config.name;
        let mut list = |name: String, volume| {
            exports.push(ListedExport { name, description: describe(&entry, &status, volume) });
        };
        for volume in &entry.config.volumes {
            list(format!("{name}/{}", volume.number), volume.number);
        }
        if let [only] = entry.config.volumes.as_slice() {
            list(name.clone(), only.number);
        }
    }
    exports
}

fn describe(entry: &Entry, status: &Status, volume: VolumeNumber) -> String {
    let serves = match status.role {
        Role::Primary => "Primary, served here".to_owned(),
        Role::Secondary | Role::Unknown => not_served(entry, status),
    };
    format!("{}/{volume} on {}: {serves}", status.name, status.node_name)
}

/// Who is Primary, and what to do.
fn not_served(entry: &Entry, status: &Status) -> String {
    let resource = &status.name;
    let primary = status.connections.iter().find(|one| one.peer_role == Role::Primary);
    match primary {
        Some(peer) => format!("{} is Primary; connect there", peer.name),
        None if entry.auto_promote() => "Secondary; promoted when a client connects".to_owned(),
        None => format!("Secondary; `tandemadm primary {resource}` serves it here"),
    }
}

/// Finds the volume that an export's name means.
fn resolve(registry: &Registry, name: &str) -> Option<(Rc<Entry>, VolumeNumber)> {
    let only_volume = |entry: Rc<Entry>| match entry.config.volumes.as_slice() {
        [only] => Some((entry.clone(), only.number)),
        _ => None,
    };
    if name.is_empty() {
        // The default export: where there is no choice.
        let mut all = registry.chosen(None);
        let entry = all.pop()?;
        return if all.is_empty() { only_volume(entry) } else { None };
    }
    match name.split_once('/') {
        None => only_volume(registry.entry(name)?),
        Some((resource, number)) => {
            let entry = registry.entry(resource)?;
            // Only the spelling that is listed: no signs, no leading zeroes.
            let volume = entry.config.volumes.iter().find(|v| v.number.to_string() == number)?;
            let number = volume.number;
            Some((entry, number))
        }
    }
}

async fn look_up(
    registry: &Rc<Registry>,
    name: &str,
    go: bool,
    client: &str,
    device: Option<u64>,
) -> Result<(Rc<Entry>, VolumeNumber, ExportInfo), LookupError> {
    let (entry, volume) = resolve(registry, name).ok_or(LookupError::Unknown)?;
    if registry.is_closing() {
        return Err(LookupError::Shutdown("this server is about to end".to_owned()));
    }
    let status = entry.status();
    if go && entry.auto_promote() {
        // Also of a Primary: it may be about to be demoted, for its last client has gone.
        entry
            .order(Command::AutoPromote)
            .await
            .map_err(|refusal| LookupError::Policy(refusal.to_string().replace('\n', "; ")))?;
        if status.role != Role::Primary {
            info!(resource = %entry.config.name, "{}: promoted for {client} (auto-promote)", entry.config.name);
        }
    }
    let opener = go.then(|| client.to_owned());
    let served = entry.ask(|reply| Order::Export { volume, client: opener, device, reply }).await;
    let status = entry.status();
    let Exported { size, keepers } = match served.unwrap_or_else(|refusal| Err(refusal.hint)) {
        Ok(exported) => exported,
        // A question is answered also where the export is not served: tools that list stop at the
        // first refusal.
        Err(_) if !go => {
            let device = status.devices.iter().find(|device| device.volume == volume);
            Exported { size: device.map_or(0, |device| device.size), keepers: Vec::new() }
        }
        Err(why) if status.role == Role::Primary => return Err(LookupError::Policy(why)),
        Err(_) => {
            let why = format!("{}: {}", entry.config.name, not_served(&entry, &status));
            return Err(LookupError::Policy(why));
        }
    };
    let description = describe(&entry, &status, volume);
    let block = BlockSizes::default();
    Ok((entry, volume, ExportInfo { size, read_only: false, description, block, keepers }))
}
