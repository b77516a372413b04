//! The first half of a restart: whether it may be, the clients held, and each resource taken down in
//! order while it is remembered as up.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::info;

use super::record::{Left, Passenger, Was};
use super::transient;
use crate::io::control::registry::{Entry, Registry, refusal};
use crate::io::{HeldClient, Order, OrderError};
use crate::resource::{
    Command, ConnectionState, DeviceStatus, DiskState, Fencing, Refusal, ResyncSuspended, Role,
    Status,
};

/// How long an order that makes or changes a resource may take until it stands in the way.
const ORDER_LIMIT: Duration = Duration::from_secs(5);
/// Between two tries of an order that is not taken.
const AGAIN: Duration = Duration::from_millis(50);

/// Clients that have volumes open: `r0/0 by qemu pid 7 uid 0 (2 connections)`.
pub(in crate::io::control) fn open_by(statuses: &[Status]) -> String {
    let mut all = Vec::new();
    for status in statuses {
        for device in &status.devices {
            let mut clients: BTreeMap<&str, usize> = BTreeMap::new();
            for client in &device.clients {
                *clients.entry(&client.name).or_default() += 1;
            }
            for (name, count) in clients {
                let mut one = format!("{}/{} by {name}", status.name, device.volume);
                if count > 1 {
                    let _ = write!(one, " ({count} connections)");
                }
                all.push(one);
            }
        }
    }
    all.join(", ")
}

/// A peer that is Primary has no good disk of its own, and reads from this node.
fn needed_by(status: &Status) -> Option<String> {
    let good = |volume| {
        let own = status.devices.iter().find(|device| device.volume == volume);
        own.is_some_and(|own| own.disk_state == DiskState::UpToDate)
    };
    let needs = status.connections.iter().find(|peer| {
        let mut volumes = peer.peer_devices.iter();
        peer.connection_state == ConnectionState::Connected
            && peer.peer_role == Role::Primary
            && volumes
                .any(|there| good(there.volume) && there.peer_disk_state != DiskState::UpToDate)
    })?;
    Some(format!(
        "{}: {} is Primary without a good disk and reads from this node: attach or sync its disk first",
        status.name, needs.name
    ))
}

/// What would not be the same afterwards. `fences`: a peer that is away is fenced before a promotion.
fn in_the_way(fences: bool, status: &Status) -> Result<(), Refusal> {
    let name = &status.name;
    if let Some(hung) = status.devices.iter().find(|device| device.hung_ms.is_some()) {
        let hint = format!("the disk of {name}/{} does not answer: `tandemadm why`.", hung.volume);
        return Err(transient(hint));
    }
    if let Some(order) = &status.order {
        return Err(transient(format!("{name}: `{}` runs; wait for its end.", order.verb)));
    }
    if status.suspended_fencing || status.suspended_no_space || status.suspended_gap {
        let hint = format!("clients' I/O on {name} is frozen: `tandemadm why {name}`.");
        return Err(transient(hint));
    }
    let no_data = |hint: String| refusal(-2, "Need access to UpToDate data", hint);
    if let Some(hint) = needed_by(status) {
        return Err(no_data(format!("{hint}.")));
    }
    let away =
        status.connections.iter().find(|peer| peer.connection_state != ConnectionState::Connected);
    if let Some(peer) = away.filter(|_| fences && status.role == Role::Primary) {
        let hint = format!(
            "{name}: {0} is not connected, and this Primary would have to fence it once more before it \
             is Primary again: connect {0} first.",
            peer.name
        );
        return Err(refusal(-7, "Refusing to be Primary while peer is not outdated", hint));
    }
    let bad = status.devices.iter().find(|one| match one.disk_state {
        DiskState::UpToDate => false,
        DiskState::Diskless => status.good_peer(one.volume).is_none(),
        _ => true,
    });
    match bad.filter(|_| status.role == Role::Primary) {
        Some(device) => Err(no_data(format!(
            "{name}/{} is {}, and this Primary could not be Primary again: `tandemadm why {name}`, and \
             wait for the end of a resync.",
            device.volume, device.disk_state
        ))),
        None => Ok(()),
    }
}

impl Registry {
    async fn statuses(&self) -> Vec<(Rc<Entry>, Status)> {
        let mut all = Vec::new();
        for entry in self.chosen(None) {
            let status = self.fresh(&entry).await;
            all.push((entry, status));
        }
        all
    }

    /// `daemon stop`: nobody loses anything by it.
    ///
    /// # Errors
    /// Clients are connected, or a peer reads from here; both are named.
    pub(super) async fn may_stop(&self, force: bool) -> Result<(), Refusal> {
        if force {
            return Ok(());
        }
        let statuses: Vec<Status> = self.statuses().await.into_iter().map(|(_, s)| s).collect();
        let open = open_by(&statuses);
        if !open.is_empty() {
            let hint = format!(
                "open: {open}. Disconnect them first; `tandemadm daemon stop --force` ends their \
                 connections."
            );
            return Err(refusal(-12, "Device is held open by someone", hint));
        }
        match statuses.iter().find_map(needed_by) {
            None => Ok(()),
            Some(hint) => {
                let hint = format!("{hint}; `tandemadm daemon stop --force` ends its data access.");
                Err(refusal(-2, "Need access to UpToDate data", hint))
            }
        }
    }

    /// `daemon restart`: everything can be as it is afterwards.
    ///
    /// # Errors
    /// What stands in the way.
    pub(super) async fn may_restart(&self) -> Result<(), Refusal> {
        let until = Instant::now() + ORDER_LIMIT;
        for entry in self.chosen(None) {
            let lock = self.lock(&entry.config.name);
            let left = until.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, lock.lock()).await.is_err() {
                let hint = format!("{}: an order runs; wait for its end.", entry.config.name);
                return Err(transient(hint));
            }
        }
        let statuses = self.statuses().await;
        // One that has failed is brought up anew.
        let mut work = statuses.iter().filter(|(_, status)| status.failed.is_none());
        work.try_for_each(|(entry, status)| {
            let fences = entry.running.borrow().options.fencing != Fencing::DontCare;
            in_the_way(fences, status)
        })
    }

    /// No client's request is begun any more, and every one that was is answered.
    ///
    /// # Errors
    /// Not in this time: they go on, and those that were busy are named.
    pub(super) async fn hold_clients(&self, limit: Duration) -> Result<(), Refusal> {
        let entries = self.chosen(None);
        let asked = entries.iter().map(|entry| {
            let (reply, quiet) = tokio::sync::oneshot::channel();
            // One that has stopped has no clients; one that takes no order is busy.
            let taken = entry.thread.send(Order::HoldClients { reply });
            (entry.clone(), taken, Some(quiet))
        });
        let mut asked: Vec<_> = asked.collect();
        let until = tokio::time::Instant::now() + limit;
        let mut late = false;
        for (_, taken, asked) in &mut asked {
            late |= *taken == Err(OrderError::Full);
            let Some(quiet) = asked.as_mut().filter(|_| taken.is_ok()) else { continue };
            match tokio::time::timeout_at(until, quiet).await {
                Ok(_) => *asked = None,
                Err(_) => late = true,
            }
        }
        if !late {
            return Ok(());
        }
        let mut busy = Vec::new();
        for (entry, taken, quiet) in asked {
            let name = &entry.config.name;
            let released = go_on(&entry);
            if taken.is_err() || !released {
                busy.push(format!("{name}: its orders wait"));
                continue;
            }
            let Some(quiet) = quiet else { continue };
            if let Ok(Ok(clients)) = tokio::time::timeout(ORDER_LIMIT, quiet).await {
                busy.extend(clients.into_iter().map(|client| format!("{name}: {client}")));
            }
        }
        let hint = format!(
            "not quiet after {} s: {}. Nothing has changed, and clients go on: `tandemadm why`.",
            limit.as_secs_f32(),
            busy.join("; ")
        );
        Err(refusal(-23, "Timeout in operation", hint))
    }

    /// Takes every resource down, whose clients are held and quiet. What did not go down has its
    /// clients again, and is the reason to come back.
    pub(super) async fn leave_all(self: &Rc<Self>) -> (Vec<Left>, Vec<Passenger>, Option<Refusal>) {
        self.closing.set(true);
        let leave = |entry: Rc<Entry>| {
            let registry = self.clone();
            tokio_uring::spawn(async move { registry.leave(&entry).await })
        };
        let leaving: Vec<_> = self.chosen(None).into_iter().map(leave).collect();
        let (mut left, mut passengers, mut refused) = (Vec::new(), Vec::new(), None);
        for one in leaving {
            match one.await {
                Ok(Ok(gone)) => {
                    if let Some((one, clients)) = gone {
                        left.push(one);
                        passengers.extend(clients);
                    }
                }
                Ok(Err(refusal)) => refused = Some(refusal),
                Err(_) => refused = Some(transient("the end of a resource has failed.")),
            }
        }
        self.closing.set(false);
        (left, passengers, refused)
    }

    /// `None`: it was taken down meanwhile.
    async fn leave(&self, entry: &Rc<Entry>) -> Result<Option<(Left, Vec<Passenger>)>, Refusal> {
        let name = &entry.config.name;
        let lock = self.lock(name);
        let Ok(_guard) = tokio::time::timeout(ORDER_LIMIT, lock.lock()).await else {
            go_on(entry);
            return Err(transient(format!("{name}: an order for it (attach, up) is under way.")));
        };
        if !self.entry(name).is_some_and(|up| Rc::ptr_eq(&up, entry)) {
            return Ok(None);
        }
        let status = self.fresh(entry).await;
        let mut left = Left::of(entry, &status);
        let clients = entry.ask(|reply| Order::TakeClients { reply }).await.unwrap_or_default();
        entry.ends.set(true);
        let down = entry.order(Command::Down { shutdown: false }).await;
        if let Err(mut refusal) = down
            && status.failed.is_none()
        {
            entry.ends.set(false);
            let returned = give_back(entry, left.was, clients).await;
            // Those that could not be taken are held as yet.
            go_on(entry);
            refusal.hint = format!("{name}: {}", refusal.hint);
            if let Err(closed) = returned {
                let _ = write!(refusal.hint, "\n{name}: {closed}");
            }
            return Err(refusal);
        }
        // A write that was under way at a peer has begun another generation there until its end.
        for device in &entry.status().devices {
            if let Some(read) = left.exposed.get_mut(&device.volume).filter(|_| data(device) != 0) {
                *read = data(device);
            }
        }
        self.end(entry).await;
        info!(resource = %name, "{name}: down for a restart, with {} clients", clients.len());
        let passenger = |client| Passenger { resource: name.clone(), client };
        Ok(Some((left, clients.into_iter().map(passenger).collect())))
    }

    async fn fresh(&self, entry: &Entry) -> Status {
        let fresh = entry.ask(|reply| Order::Statistics { reply });
        match tokio::time::timeout(ORDER_LIMIT, fresh).await {
            Ok(Ok(status)) => status,
            Ok(Err(_)) | Err(_) => (*entry.status()).clone(),
        }
    }
}

/// What did not go down has its clients again.
///
/// # Errors
/// They are closed, and why.
async fn give_back(entry: &Entry, was: Was, clients: Vec<HeldClient>) -> Result<(), String> {
    let count = clients.len();
    if was == Was::AutoPromoted && count > 0 {
        // Its last client had gone for it, and it may have demoted itself before it was to go down.
        let promoted = entry.order(Command::AutoPromote).await;
        promoted.map_err(|refusal| {
            let why = refusal.to_string().replace('\n', " ");
            format!("its {count} clients are closed, as it is not Primary any more: {why}")
        })?;
    }
    let returned = entry.hand_over(Order::ReturnClients(clients)).await;
    returned.map_err(|why| format!("its {count} clients are closed: {why}"))
}

/// Clients that were held go on; false: later, when the resource's thread takes orders again.
fn go_on(entry: &Rc<Entry>) -> bool {
    let taken = entry.thread.send(Order::ReleaseClients);
    if taken == Err(OrderError::Full) {
        let entry = entry.clone();
        tokio_uring::spawn(async move {
            while entry.thread.send(Order::ReleaseClients) == Err(OrderError::Full) {
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
    taken.is_ok()
}

/// The current UUID without its lowest bit, which only says whether the node is Primary.
pub(super) fn data(device: &DeviceStatus) -> u64 {
    device.current_uuid & !1
}

impl Left {
    fn of(entry: &Entry, status: &Status) -> Self {
        let was = match (status.role, status.auto_promoted) {
            _ if status.failed.is_some() => Was::Secondary,
            (Role::Primary, false) => Was::Primary,
            (Role::Primary, true) => Was::AutoPromoted,
            (Role::Secondary | Role::Unknown, _) => Was::Secondary,
        };
        let peers = &status.connections;
        let connected =
            peers.iter().filter(|peer| peer.connection_state == ConnectionState::Connected);
        let back = |peer: &crate::resource::ConnectionStatus| {
            peer.back_in_ms.map(|ms| (peer.peer_node_id, ms))
        };
        let attached = |device: &&DeviceStatus| {
            status.failed.is_some() || device.disk_state != DiskState::Diskless
        };
        let (attached, diskless): (Vec<_>, Vec<_>) = status.devices.iter().partition(attached);
        let primary = status.role == Role::Primary;
        let read = diskless.into_iter().filter(|device| primary && data(device) != 0);
        let paused = peers.iter().flat_map(|peer| {
            let by_order = peer
                .peer_devices
                .iter()
                .filter(|one| matches!(one.resync_suspended, ResyncSuspended { user: true, .. }));
            by_order.map(|one| (one.volume, peer.peer_node_id))
        });
        Self {
            definition: entry.running.borrow().clone(),
            apart: entry.apart.borrow().clone(),
            back_in_ms: peers.iter().filter_map(back).collect(),
            connected: connected.map(|peer| peer.peer_node_id).collect(),
            attached: attached.into_iter().map(|device| (device.volume, data(device))).collect(),
            exposed: read.map(|device| (device.volume, data(device))).collect(),
            was,
            suspended: status.suspended_user,
            paused: paused.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures;

    fn way(change: impl FnOnce(&mut Status), fences: bool) -> Option<(i32, String)> {
        let mut status = fixtures::healthy().status;
        change(&mut status);
        in_the_way(fences, &status).err().map(|refusal| (refusal.code, refusal.hint))
    }

    #[test]
    fn what_could_not_come_back_as_it_was_stands_in_the_way() {
        let stands = |change: fn(&mut Status), code: i32, says: &str| {
            let (found, hint) = way(change, false).expect(says);
            assert!(found == code && hint.contains(says), "{found} {hint}");
        };
        assert_eq!(way(|_| {}, true), None);
        stands(|s| s.devices[0].hung_ms = Some(900), -18, "does not answer");
        stands(|s| s.suspended_fencing = true, -18, "is frozen");
        stands(|s| s.suspended_no_space = true, -18, "is frozen");
        stands(|s| s.devices[0].disk_state = DiskState::Inconsistent, -2, "could not be Primary");
        let diskless = |s: &mut Status| s.devices[0].disk_state = DiskState::Diskless;
        assert_eq!(way(diskless, false), None, "the peer has it");
        stands(
            |s| {
                s.devices[0].disk_state = DiskState::Diskless;
                s.connections[0].peer_devices[0].peer_disk_state = DiskState::Inconsistent;
            },
            -2,
            "r0/0 is Diskless",
        );
        stands(
            |s| {
                s.role = Role::Secondary;
                s.connections[0].peer_role = Role::Primary;
                s.connections[0].peer_devices[0].peer_disk_state = DiskState::Diskless;
            },
            -2,
            "bob is Primary without a good disk",
        );
        // By order it is suspended, and will be.
        assert_eq!(way(|s| s.suspended_user = true, true), None);
        // Alone: it would have to fence the other once more.
        let alone = |s: &mut Status| {
            s.connections[0].connection_state = ConnectionState::Connecting;
        };
        assert_eq!(way(alone, false), None);
        assert_eq!(way(alone, true).map(|(code, _)| code), Some(-7));
        let secondary = |s: &mut Status| {
            alone(s);
            s.role = Role::Secondary;
        };
        assert_eq!(way(secondary, true), None);
    }

    #[test]
    fn clients_are_named_once_with_their_connections() {
        let mut status = fixtures::healthy().status;
        let client = status.devices[0].clients[0].clone();
        assert_eq!(open_by(&[status.clone()]), "r0/0 by nbd-client pid 2211 uid 0");
        status.devices[0].clients.push(client);
        let twice = "r0/0 by nbd-client pid 2211 uid 0 (2 connections)";
        assert_eq!(open_by(&[status]), twice);
        assert_eq!(open_by(&[]), "");
    }
}
