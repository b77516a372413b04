//! Checkers that look at the states of both nodes at once, which no node can.

use crate::meta::{DeviceFlags, Superblock};
use crate::resource::{
    Command, ConnectionState, DiskState, ReplicationState, Role, Status, Time, VolumeNumber,
};

use super::cluster::{Cluster, Happening};
use super::excuse::{Chosen, Pair};
use super::faults::Moment;
use super::history::{Excuse, Rests};

/// Bytes of buffers that a node may have handed out: the receive window, the pool beside it, and what
/// clients send.
const POOL_MAX: u64 = 64 << 20;

/// Actions that a node may have under way on its disks, and packets on their way to the other one:
/// what the buffers, and a resync of all of the largest disk, can make of them.
const QUEUE_MAX: usize = 4_096;

impl Cluster {
    /// Looks at a node after an event.
    pub(super) fn refresh(&mut self, node: usize) {
        let now = self.now;
        let n = &mut self.nodes[node];
        let Some(resource) = n.resource.as_ref() else { return };
        let version = resource.state_version();
        if version == n.version && n.status.is_some() {
            return;
        }
        n.version = version;
        let status = resource.status(now);
        let old = n.status.replace(status);
        if let Some(old) = old {
            if let Some(new) = n.status.as_ref() {
                self.coverage.status(&old, new);
            }
            self.hung_disks(node, &old);
            self.watch_space(node, &old);
            self.spoken_for(node, &old);
            self.watch_stale_promotion(node, &old);
            self.watch_forbidden(node);
            self.role_changed(node, &old);
            self.discard_lapses(node, &old);
            self.connections_changed(node, &old);
            self.moments(node, &old);
        }
    }

    /// Disks that are given up: while they answer nothing, or for an error that they have reported.
    fn hung_disks(&mut self, node: usize, old: &Status) {
        let Some(new) = &self.nodes[node].status else { return };
        let failed = |state| state == DiskState::Failed;
        let devices = new.devices.iter().zip(&old.devices);
        let given_up = devices.filter(|(d, old)| failed(d.disk_state) && !failed(old.disk_state));
        let given_up: Vec<VolumeNumber> = given_up.map(|(device, _)| device.volume).collect();
        for volume in given_up {
            // The verdict of a handshake may refuse one that is being attached.
            let asked = old.devices.iter().any(|device| {
                device.volume == volume && device.disk_state == DiskState::Negotiating
            });
            if !asked && !self.has_trouble(node, volume) {
                let name = self.nodes[node].name;
                self.violate(format!(
                    "{name} gives disk {volume} up, and nothing is wrong with it"
                ));
            }
            let v = &mut self.nodes[node].volumes[usize::from(volume)];
            v.hung |= !v.stalled.is_empty();
        }
    }

    /// The disk has failed, was full or did not answer in time, or somebody takes it away by force.
    fn has_trouble(&self, node: usize, volume: VolumeNumber) -> bool {
        let n = &self.nodes[node];
        let v = &n.volumes[usize::from(volume)];
        let limit = self.options.core.disk_timeout_ms;
        let slow = self.slow_until.max(n.stalled_until);
        // Nothing was slow yet at 0.
        let lately = slow > Time(0) && self.now <= slow.after_ms(limit);
        let late = limit > 0 && lately || v.disk.faults.stall.is_some();
        let forced = |order: &super::admin::PendingOrder| match order.command {
            Command::Detach { volume: of, force } => force && of == volume,
            Command::Down { .. } => true,
            _ => false,
        };
        v.failed
            || v.bad_superblock
            || v.space.first.is_some()
            || late
            || n.orders.values().any(forced)
    }

    /// Faults that have waited for what the node has just entered strike, each a little later.
    fn moments(&mut self, node: usize, old: &Status) {
        let Some(new) = self.nodes[node].status.as_ref().filter(|_| !self.waiting.is_empty())
        else {
            return;
        };
        let reached = |moment: Moment| {
            let is = |status: &Status| match moment {
                Moment::Role(role) => status.role == role,
                Moment::Disk(disk) => status.devices.iter().any(|d| d.disk_state == disk),
                Moment::Replication(state) => status
                    .connections
                    .iter()
                    .any(|c| c.peer_devices.iter().any(|p| p.replication_state == state)),
            };
            is(new) && !is(old)
        };
        let mut due = Vec::new();
        for index in &self.waiting {
            let wait = self.options.plan[*index].wait;
            if let Some(wait) = wait.filter(|w| w.node == node && reached(w.moment)) {
                due.push((*index, wait.more_us));
            }
        }
        for (index, more_us) in due {
            self.waiting.remove(&index);
            self.after(more_us * 1000, Happening::Awaited(index));
        }
    }

    fn role_changed(&mut self, node: usize, old: &Status) {
        let role = self.nodes[node].status.as_ref().map_or(Role::Secondary, |s| s.role);
        if role == old.role || role != Role::Primary {
            return;
        }
        self.discard[node] = false;
        let forcing = self.forcing(node).is_some();
        for volume in 0..self.options.volumes {
            let own = self.nodes[node].device(volume).map(|d| d.disk_state);
            // Of a disk that is UpToDate nothing is forced.
            let before = old.devices.iter().find(|d| d.volume == volume).map(|d| d.disk_state);
            let forced = forcing && before.is_some_and(|disk| disk != DiskState::UpToDate);
            let disk = &self.nodes[node].volumes[usize::from(volume)].disk;
            if forced {
                let step = self.history.forced(node, volume, disk);
                if let Some(pair) = self.pairs.get_mut(&volume) {
                    pair.forced[node] = step;
                }
            } else if own == Some(DiskState::UpToDate) {
                let durable = self.nodes[node].volumes[usize::from(volume)].durable.as_ref();
                if durable.is_some_and(|s| s.flags & DeviceFlags::OUTDATED != 0) {
                    // Left in order, or it failed while the other one went on.
                    let name = self.nodes[node].name;
                    self.violate(format!("{name} was promoted, and its disk says Outdated"));
                    continue;
                }
                let pair = self.pairs.get(&volume).copied().unwrap_or_default();
                // What the other one had by then was given up when this one was forced.
                let aside = pair.put_aside_for(node);
                let result = self.history.promoted(node, volume, disk, pair.behind[node], aside);
                self.judge(result);
            } else if !self.rests(node, volume).disks[1 - node]
                && !self.left_after_promotion(node, volume, old)
            {
                let name = self.nodes[node].name;
                self.violate(format!("{name} was promoted with a disk that is {own:?}"));
            }
        }
    }

    /// A node that was promoted on the other one's disk has left it in the same turn, by an order that
    /// waited for the end of the promotion: until then it had that disk.
    fn left_after_promotion(&self, node: usize, volume: VolumeNumber, old: &Status) -> bool {
        let had = old.connections.first().is_some_and(|connection| {
            connection.connection_state == ConnectionState::Connected
                && connection.peer_devices.iter().any(|peer| {
                    peer.volume == volume
                        && peer.replication_state == ReplicationState::Established
                        && peer.peer_disk_state == DiskState::UpToDate
                })
        });
        let now = self.nodes[node].connection().map(|connection| connection.connection_state);
        let theirs = self.nodes[1 - node].device(volume).map(|device| device.disk_state);
        let forced = |order: &super::admin::PendingOrder| {
            matches!(order.command, Command::Disconnect { force: true, .. })
        };
        // One more order may dial again already.
        had && now != Some(ConnectionState::Connected)
            && theirs == Some(DiskState::UpToDate)
            && !self.is_given_up(1 - node, volume)
            && self.nodes[node].orders.values().any(forced)
    }

    fn connections_changed(&mut self, node: usize, old: &Status) {
        let Some(connection) = self.nodes[node].connection() else { return };
        let connected = connection.connection_state == ConnectionState::Connected;
        let role = self.nodes[node].status.as_ref().map_or(Role::Secondary, |s| s.role);
        if connected && role == Role::Primary && connection.peer_role == Role::Primary {
            let name = self.nodes[node].name;
            return self.violate(format!("{name}: two Primaries are connected"));
        }
        let was = old.connections.first().map(|c| c.connection_state);
        let leaves = connection.connection_state == ConnectionState::Disconnecting;
        if was == Some(ConnectionState::Connected) && !connected && !leaves {
            // Lost before it was left.
            self.nodes[node].orders.values_mut().for_each(|order| order.leaves = None);
        }
        for volume in 0..self.options.volumes {
            let before = old
                .connections
                .first()
                .and_then(|c| c.peer_devices.iter().find(|p| p.volume == volume))
                .map_or(ReplicationState::Off, |p| p.replication_state);
            let after = self.nodes[node]
                .peer_device(volume)
                .map_or(ReplicationState::Off, |p| p.replication_state);
            if before != after && after == ReplicationState::Established {
                self.established(node, volume, before);
            }
        }
    }

    /// The session of this node is one at the other end as well.
    fn is_heard(&self, node: usize) -> bool {
        let socket = self.nodes[node].connection().and_then(|one| one.socket);
        socket.is_some_and(|socket| self.net.is_connected(node, socket))
    }

    /// A node takes both disks for equal, without a resync that it took part in.
    fn established(&mut self, node: usize, volume: VolumeNumber, before: ReplicationState) {
        // The order holds for every volume, and another one may still be in its handshake.
        let asks = |volume| {
            use ReplicationState::{WFBitMapS, WFBitMapT, WFSyncUUID};
            let peer = self.nodes[node].peer_device(volume);
            peer.is_some_and(|p| [WFBitMapS, WFBitMapT, WFSyncUUID].contains(&p.replication_state))
        };
        if !(0..self.options.volumes).any(asks) {
            self.discard[node] = false;
        }
        if !self.is_heard(node) {
            // The other node has left meanwhile, and may have gone on: what arrives is the last word of a
            // session that is over. It may have dialled anew by then.
            return;
        }
        let synced = matches!(
            before,
            ReplicationState::SyncTarget
                | ReplicationState::SyncSource
                | ReplicationState::PausedSyncS
                | ReplicationState::PausedSyncT
                | ReplicationState::VerifyS
                | ReplicationState::VerifyT
        );
        let theirs = self.nodes[1 - node].peer_device(volume).map(|p| p.replication_state);
        if synced || theirs == Some(ReplicationState::Established) {
            return;
        }
        let index = usize::from(volume);
        let whole = |n: usize| {
            let v = &self.nodes[n].volumes[index];
            let flags = v.durable.as_ref().map_or(0, |s| s.flags);
            // One that was given up because it hangs is not used, but not closed yet.
            let used = self.nodes[n].device(volume).map(|one| one.disk_state);
            // One whose attach waits for the end of this handshake has no part in it.
            let unused = [DiskState::Failed, DiskState::Diskless, DiskState::Attaching];
            let used = used.is_none_or(|state| !unused.contains(&state));
            v.attached && used && flags & DeviceFlags::CONSISTENT != 0
        };
        if !(whole(0) && whole(1)) {
            return;
        }
        if self.differs_where_marked(volume) {
            return;
        }
        if let Some(sector) = self.first_difference(volume) {
            return self.violate(format!(
                "a session opens without a resync, but sector {sector} of volume {volume} differs"
            ));
        }
        self.in_sync(volume);
    }

    fn in_sync(&mut self, volume: VolumeNumber) {
        self.fencing_in_sync(volume);
        let index = usize::from(volume);
        let disks = [&self.nodes[0].volumes[index].disk, &self.nodes[1].volumes[index].disk];
        let result = self.history.in_sync(volume, disks);
        self.judge(result);
        if let Some(pair) = self.pairs.get_mut(&volume) {
            *pair = Pair { synced: true, ..Pair::default() };
        }
    }

    /// The disks differ in blocks that a verify has marked on both nodes, and in no other.
    fn differs_where_marked(&self, volume: VolumeNumber) -> bool {
        let index = usize::from(volume);
        let [a, b] = self.exported(volume);
        if a == b {
            return false;
        }
        let differing = a.chunks(8).zip(b.chunks(8)).filter(|(a, b)| a != b).count() as u64;
        let marked = |node: &super::node::Node| {
            let flags = node.volumes[index].durable.as_ref().map_or(0, |s| s.flags);
            let status = node.resource.as_ref().map(|resource| resource.status(self.now));
            let bytes = status.and_then(|status| {
                let peers = &status.connections.first()?.peer_devices;
                Some(peers.iter().find(|peer| peer.volume == volume)?.out_of_sync)
            });
            flags & DeviceFlags::VERIFY_MARKS != 0 && bytes == Some(differing * 4096)
        };
        differing > 0 && self.nodes.iter().all(marked)
    }

    /// What both disks hold of the exported size.
    fn exported(&self, volume: VolumeNumber) -> [&[super::disk::Sector]; 2] {
        let index = usize::from(volume);
        [0, 1].map(|n| {
            let v = &self.nodes[n].volumes[index];
            let size = v.durable.as_ref().map_or(0, |s| s.effective_size);
            let sectors = usize::try_from(size / 512).unwrap_or(usize::MAX);
            let all = v.disk.contents();
            if size == 0 { all } else { &all[..sectors.min(all.len())] }
        })
    }

    /// The first sector in which the disks differ.
    #[must_use]
    pub fn first_difference(&self, volume: VolumeNumber) -> Option<u64> {
        let [a, b] = self.exported(volume);
        let common = a.len().min(b.len());
        // Whole disks are compared faster than sector by sector.
        if a[..common] == b[..common] {
            return None;
        }
        let at = a.iter().zip(b).position(|(a, b)| a != b);
        at.map(|sector| sector as u64)
    }

    /// A superblock is about to be written.
    pub(super) fn superblock_written(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        new: &Superblock,
    ) {
        self.watch_lone_generation(node, volume, new);
        let index = usize::from(volume);
        let v = &self.nodes[node].volumes[index];
        let old = v.durable.as_ref().map_or(0, |s| s.flags);
        let set = new.flags & !old;
        let cleared = old & !new.flags;
        if set & DeviceFlags::SURVIVED != 0 {
            let result = self.history.survives(node, volume, &v.disk);
            self.judge(result);
        }
        // One that was set back into the middle of a resync is Inconsistent already when a person gives it up.
        let given_up = set & DeviceFlags::INVALIDATED != 0 && old & DeviceFlags::CONSISTENT == 0;
        if given_up || cleared & DeviceFlags::CONSISTENT != 0 {
            let pair = self.pairs.entry(volume).or_default();
            pair.synced = false;
            pair.resigned[node] = pair.given_up[node];
            let pair = *pair;
            // Whose peer was spoken for has nothing of its own to lose since then, and that one nothing at all.
            let forced = pair.forced[node].max(pair.spoken[1 - node]);
            let policy = self.chosen(node, volume);
            let chosen = pair.given_up[node] || policy != Chosen::No;
            let unchanged = !pair.given_up[node] && policy == Chosen::Unchanged;
            let other = pair.behind[1 - node] || pair.taken[1 - node];
            // The source of today has no part in it: the one that has spoken is gone.
            let theirs = self.nodes[1 - node].peer_device(volume).map(|p| p.replication_state);
            let absent = theirs.is_none_or(|state| state == ReplicationState::Off);
            let excuse = Excuse { chosen, unchanged, forced, set_back: other && absent };
            let source = &self.nodes[1 - node].volumes[index].disk;
            let result = self.history.adopted(node, volume, source, excuse);
            self.judge(result);
        }
    }

    /// A superblock is durable.
    pub(super) fn superblock_durable(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        new: Superblock,
    ) {
        let v = &mut self.nodes[node].volumes[usize::from(volume)];
        let old = v.durable.as_ref().map_or(0, |s| s.flags);
        let became = new.flags & !old & DeviceFlags::CONSISTENT != 0;
        if new.flags & !old & DeviceFlags::SURVIVED != 0 {
            self.history.survived(node, volume, &v.disk);
        }
        v.durable = Some(new);
        let target = self.nodes[node].peer_device(volume).is_some_and(|p| {
            let state = p.replication_state;
            [ReplicationState::SyncTarget, ReplicationState::PausedSyncT].contains(&state)
        });
        // A disk that is being detached takes no more writes meanwhile.
        let in_use = self.nodes[node].device(volume).is_some_and(|device| {
            ![DiskState::Detaching, DiskState::Failed].contains(&device.disk_state)
        });
        if became && let Some(pair) = self.pairs.get_mut(&volume).filter(|p| p.resigned[node]) {
            // It was taken back: it counts again, and nothing is excused any more.
            (pair.given_up[node], pair.resigned[node]) = (false, false);
        }
        let heard = self.is_heard(node);
        if became && target && in_use && heard {
            self.in_sync(volume);
        }
        // The end of a resync whose source, or its disk, was lost meanwhile, whether this node knows of it or not.
        let inconsistent = self.nodes[node]
            .device(volume)
            .is_some_and(|device| device.disk_state == DiskState::Inconsistent);
        if became && (!target || in_use && !heard) && inconsistent {
            let disk = &self.nodes[node].volumes[usize::from(volume)].disk;
            self.history.whole(node, volume, disk);
        }
    }

    /// An answer that rests on one disk: the disks must not share their current UUID (promise 3).
    pub(super) fn check_alone(
        &mut self,
        node: usize,
        volume: VolumeNumber,
        rests: Rests,
    ) -> Result<(), String> {
        let repl = self.nodes[node].peer_device(volume).map(|p| p.replication_state);
        // A write replicated into a running resync is on both, though one of them is not usable yet.
        let resync = [
            ReplicationState::SyncSource,
            ReplicationState::SyncTarget,
            ReplicationState::PausedSyncS,
            ReplicationState::PausedSyncT,
        ];
        if rests.disks == [true, true] || repl.is_some_and(|repl| resync.contains(&repl)) {
            return Ok(());
        }
        // A disk that was set back takes the other one for missing, until they meet. One that a
        // person gives up counts no more, though its superblock may not be durable yet.
        // And what it had said before it was set back may be on its way yet.
        let pair = self.pairs.get(&volume);
        let behind = pair.is_some_and(|pair| pair.behind[node]);
        let was_set_back = pair.is_some_and(|pair| pair.behind[1 - node]);
        if behind || was_set_back && rests.disks[1 - node] || self.is_given_up(1 - node, volume) {
            return Ok(());
        }
        let index = usize::from(volume);
        // A disk in mid-resync that has adopted it is a target whatever comes (D1).
        let current = |n: usize| {
            let durable = self.nodes[n].volumes[index].durable.as_ref();
            let whole = durable.filter(|s| s.flags & DeviceFlags::CONSISTENT != 0);
            whole.map(|s| s.current_uuid & !1)
        };
        match (current(0), current(1)) {
            (Some(a), Some(b)) if a == b => Err(format!(
                "{} acknowledges a write that rests on {rests:?} under the shared current UUID {a:X}",
                self.nodes[node].name
            )),
            _ => Ok(()),
        }
    }

    /// The periodic look at everything.
    pub(super) fn check_all(&mut self) {
        let at = self.in_ms(500);
        self.at(at, Happening::Check);
        self.check_orders();
        self.check_answers();
        for node in 0..2 {
            let bytes = self.nodes[node].pool.bytes();
            if bytes > POOL_MAX {
                let name = self.nodes[node].name;
                return self.misuse(format!("{name} has {bytes} bytes of buffers in use"));
            }
        }
        let packets = self.net.links.iter().flat_map(|link| &link.queues).map(|queue| queue.len());
        let longest = packets.chain(self.nodes.iter().map(|node| node.ops.len())).max();
        if longest.is_some_and(|longest| longest > QUEUE_MAX) {
            return self.misuse(format!("a queue has {longest:?} entries"));
        }
        for volume in 0..self.options.volumes {
            if let Some(text) = self.not_mirrored(volume) {
                return self.violate(text);
            }
            if let Some(text) = self.no_copy_left(volume) {
                return self.violate(text);
            }
            // What was falsified is only marked until it is repaired.
            if self.falsified != Some(volume)
                && self.is_idle(volume)
                && self.is_established(volume)
                && let Some(sector) = self.first_difference(volume)
            {
                return self.violate(format!(
                    "Established and idle, but sector {sector} of volume {volume} differs"
                ));
            }
        }
    }

    /// Two nodes in one session that have not decided alike at its last handshake.
    fn not_mirrored(&self, volume: VolumeNumber) -> Option<String> {
        use ReplicationState::{Established, SyncSource, SyncTarget};
        let states = [0, 1].map(|n| self.nodes[n].peer_device(volume).map(|p| p.replication_state));
        let settled =
            [(Established, Established), (SyncSource, SyncTarget), (SyncTarget, SyncSource)];
        let [Some(a), Some(b)] = states else { return None };
        let still = self.nodes.iter().all(|n| n.is_awake() && n.inbox.is_empty());
        if !settled.contains(&(a, b)) || !still || !self.net.is_quiet() {
            return None;
        }
        let last = |n: usize| {
            let all = &self.nodes[n].connection()?.last_handshake;
            let found = all.iter().find(|h| h.volume == volume)?;
            Some((found.rule.clone(), found.outcome.clone()))
        };
        let (alice, bob) = (last(0)?, last(1)?);
        let mirrored = |text: &str| {
            let swapped =
                |one: &str, other: &str| text.contains(one).then(|| text.replace(one, other));
            let pairs = [
                ("-self", "-peer"),
                ("-peer", "-self"),
                ("source", "target"),
                ("target", "source"),
            ];
            pairs.iter().find_map(|(one, other)| swapped(one, other)).unwrap_or(text.to_owned())
        };
        let alike = alice.0 == mirrored(&bob.0) && alice.1 == mirrored(&bob.1);
        (!alike).then(|| format!("alice has decided {alice:?}, and bob {bob:?}"))
    }

    /// Both disks are a mix of blocks, or were given up and no handshake has taken one back; where no
    /// disk was hurt, no order can do that.
    fn no_copy_left(&self, volume: VolumeNumber) -> Option<String> {
        let index = usize::from(volume);
        let durable = |n: &super::node::Node| n.volumes[index].durable.clone();
        let [a, b] = [0, 1].map(|n| durable(&self.nodes[n]));
        let (a, b) = (a?, b?);
        let fresh = |s: &Superblock| s.current_uuid == crate::meta::JUST_CREATED;
        if self.options.disk_errors() || fresh(&a) || fresh(&b) {
            return None;
        }
        let has = |s: &Superblock, flag| s.flags & flag != 0;
        let consistent = |s: &Superblock| has(s, DeviceFlags::CONSISTENT);
        let whole = |s: &Superblock| consistent(s) || has(s, DeviceFlags::WAS_UP_TO_DATE);
        if !whole(&a) && !whole(&b) {
            return Some(format!("no whole copy of volume {volume} is left"));
        }
        let refused = |n: &super::node::Node| {
            let connection =
                n.connection().filter(|c| c.connection_state == ConnectionState::StandAlone);
            connection.is_some_and(|c| {
                let of = |h: &&crate::resource::HandshakeStatus| h.volume == volume;
                c.last_handshake.iter().find(of).is_some_and(|h| h.rule == "inconsistent-both")
            })
        };
        let bad = !consistent(&a) && !consistent(&b) && self.nodes.iter().all(refused);
        bad.then(|| format!("both disks of volume {volume} were given up, and both are refused"))
    }

    /// Nothing is under way for a volume.
    #[must_use]
    pub fn is_idle(&self, volume: VolumeNumber) -> bool {
        self.clients.pending_of(volume) == 0
            && self.net.is_quiet()
            && self.nodes.iter().all(|n| {
                // A write that waits for space is under way nowhere at the moment.
                let waits = n.device(volume).is_some_and(|device| device.no_space);
                let under_way = n.ops.values().any(|op| op.volume == volume);
                n.is_awake() && n.inbox.is_empty() && !under_way && !waits
            })
    }

    /// Both say Established and UpToDate of a volume.
    #[must_use]
    pub fn is_established(&self, volume: VolumeNumber) -> bool {
        self.nodes.iter().all(|n| {
            n.device(volume).is_some_and(|d| d.disk_state == DiskState::UpToDate)
                && n.peer_device(volume).is_some_and(|p| {
                    p.replication_state == ReplicationState::Established
                        && p.peer_disk_state == DiskState::UpToDate
                })
        })
    }

    /// Every volume is established.
    #[must_use]
    pub fn all_established(&self) -> bool {
        (0..self.options.volumes).all(|volume| self.is_established(volume))
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::SimOptions;
    use super::*;

    #[test]
    fn no_disk_is_given_up_that_works() {
        for trouble in 0..5 {
            let mut options = SimOptions::of_seed(1);
            options.plan.clear();
            options.core.disk_timeout_ms = 5_000;
            let mut c = Cluster::new(options, 0);
            c.come_up();
            let old = c.nodes[0].status.clone().expect("it runs");
            match trouble {
                1 => c.nodes[0].volumes[0].failed = true,
                2 => c.nodes[0].stalled_until = c.now,
                3 => c.nodes[0].volumes[0].space.first = Some(c.now),
                4 => c.command(0, Command::Down { shutdown: false }),
                _ => {}
            }
            if let Some(status) = c.nodes[0].status.as_mut() {
                status.devices[0].disk_state = DiskState::Failed;
            }
            c.hung_disks(0, &old);
            let found = c.violation.map(|violation| violation.text).unwrap_or_default();
            assert_eq!(found.contains("nothing is wrong with it"), trouble == 0, "{found}");
        }
    }
}
