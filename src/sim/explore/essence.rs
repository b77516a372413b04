//! What is left of a state when everything is gone that no verdict can tell: two states with the same
//! essence have the same future, but for chance and for what only memory holds.
//!
//! More is gone than in [`super::key`], so that a search comes to an end:
//! - The nodes have no names: a state and its mirror image are one.
//! - Of the history of generations only this counts: whether the other node's current or bitmap UUID
//!   is in it, and whether both histories have anything else in common. What is in one history
//!   only can never again be the other node's: a generation in a history is nobody's current one.
//! - The remark in the lowest bit of a UUID is read by policies only, and none is set here.
//! - Of the values of a sector between the durable one and the last one none counts, for the blows
//!   of this search keep all or nothing.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::meta::LoadedMeta;
use crate::resource::generation::{is_real, same};
use crate::resource::{ConnectionState, Reason};

use super::super::cluster::Cluster;
use super::super::damage::read_meta;

/// Two hashes of the essence.
pub(super) fn of(cluster: &Cluster) -> u128 {
    let metas = metas(cluster);
    of_both(|order| describe(cluster, &metas, order))
}

/// Of the metadata of both disks alone: what a handshake would go by, were both nodes started now.
pub(super) fn of_metadata(cluster: &Cluster) -> u128 {
    let metas = metas(cluster);
    of_both(|order| {
        let (mut text, mut names) = (Vec::new(), Names::default());
        for index in order {
            metadata(cluster, &metas, index, &mut names, &mut text);
        }
        histories(&metas, order, &names, &mut text);
        text
    })
}

/// The metadata of both disks, as it would be read.
fn metas(cluster: &Cluster) -> [Option<LoadedMeta>; 2] {
    [0, 1].map(|node| {
        let v = &cluster.nodes[node].volumes[0];
        read_meta(&v.disk, &v.geometry).ok()
    })
}

/// The same for a state and its mirror image.
fn of_both(describe: impl Fn([usize; 2]) -> Vec<u8>) -> u128 {
    let text = describe([0, 1]).min(describe([1, 0]));
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &text).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// Identifiers in the order of their first appearance.
#[derive(Default)]
struct Names(Vec<u64>);

impl Names {
    /// 0: none; 1: that of fresh disks.
    fn of(&mut self, uuid: u64) -> u8 {
        if !is_real(uuid) {
            return u8::from(uuid & !1 != 0);
        }
        let known = self.0.iter().position(|old| same(*old, uuid));
        let at = known.unwrap_or_else(|| {
            self.0.push(uuid);
            self.0.len() - 1
        });
        u8::try_from(at + 2).unwrap_or(u8::MAX)
    }
}

fn describe(cluster: &Cluster, metas: &[Option<LoadedMeta>; 2], order: [usize; 2]) -> Vec<u8> {
    let mut text = Vec::with_capacity(256);
    let mut names = Names::default();
    text.push(u8::from(cluster.is_parted()));
    for index in order {
        state(cluster, index, &mut names, &mut text);
        metadata(cluster, metas, index, &mut names, &mut text);
    }
    histories(metas, order, &names, &mut text);
    for sector in cluster.history.written(0) {
        data(cluster, sector, order, &mut text);
    }
    if let Some(pair) = cluster.pairs.get(&0) {
        text.push(u8::from(pair.synced));
        for index in order {
            let forced = pair.forced.map(|step| step > 0);
            let of_node =
                [forced, pair.given_up, pair.behind, pair.taken].map(|nodes| nodes[index]);
            text.extend(of_node.map(u8::from));
            text.push(u8::from(cluster.discard[index]));
        }
    }
    text
}

/// What a node says of itself.
fn state(cluster: &Cluster, index: usize, names: &mut Names, text: &mut Vec<u8>) {
    let n = &cluster.nodes[index];
    text.push(u8::from(n.host_up));
    let Some(status) = &n.status else { return text.push(u8::MAX) };
    text.push(status.role as u8);
    for d in &status.devices {
        text.push(d.disk_state as u8);
        text.extend(d.flags.to_le_bytes());
        text.push(names.of(d.current_uuid));
    }
    for c in &status.connections {
        // Why it stands alone matters to a person only; a split brain is what one decides.
        let state = match c.connection_state {
            ConnectionState::Connected => 0,
            ConnectionState::StandAlone if c.reason == Reason::SplitBrain => 1,
            ConnectionState::StandAlone => 2,
            _ => 3,
        };
        text.extend([state, c.peer_role as u8]);
        for p in &c.peer_devices {
            text.extend([p.replication_state as u8, p.peer_disk_state as u8]);
            text.extend(p.out_of_sync.to_le_bytes());
            text.push(names.of(p.bitmap_uuid));
        }
    }
}

/// What is on its disk.
fn metadata(
    cluster: &Cluster,
    metas: &[Option<LoadedMeta>; 2],
    index: usize,
    names: &mut Names,
    text: &mut Vec<u8>,
) {
    let Some(meta) = &metas[index] else { return text.push(u8::MAX) };
    let theirs = metas[1 - index].as_ref();
    let s = &meta.superblock;
    text.extend(s.flags.to_le_bytes());
    text.push(u8::from(s.boot_id == cluster.boot_id(index)));
    text.push(u8::from(s.created_found == crate::meta::BLANK));
    text.push(names.of(s.current_uuid));
    for (peer, slot) in s.peers.iter().zip(&meta.slots) {
        text.push(names.of(peer.bitmap_uuid));
        text.push(u8::from(peer.node_id.is_some()));
        text.push(peer.bitmap_state as u8);
        for run in slot.set.runs() {
            text.extend(format!("{run:?}").bytes());
        }
        // Counters by order only: what is remembered of the other disk, against what it has.
        let known = theirs.is_some_and(|theirs| theirs.superblock.device_uuid == peer.device_uuid);
        let number = theirs.and_then(|theirs| theirs.number);
        text.extend([u8::from(known), number.cmp(&slot.seen_number) as u8]);
    }
    for extent in &meta.hot_extents {
        text.extend(extent.to_le_bytes());
    }
    text.push(u8::MAX);
}

fn histories(
    metas: &[Option<LoadedMeta>; 2],
    order: [usize; 2],
    names: &Names,
    text: &mut Vec<u8>,
) {
    let past = |index: usize| {
        let history = metas[index].as_ref().map(|meta| meta.superblock.history);
        let real = history.into_iter().flatten().filter(|uuid| is_real(*uuid));
        real.map(|uuid| uuid & !1).collect::<BTreeSet<u64>>()
    };
    let [a, b] = order.map(past);
    let named = |uuid: &u64| names.0.iter().position(|name| same(*name, *uuid));
    for history in [&a, &b] {
        let mut known: Vec<usize> = history.iter().filter_map(named).collect();
        known.sort_unstable();
        text.extend(known.iter().map(|at| u8::try_from(*at).unwrap_or(u8::MAX)));
        text.push(u8::MAX);
    }
    text.push(u8::from(a.intersection(&b).any(|uuid| named(uuid).is_none())));
}

/// What both disks hold and must hold of a sector: values by their order.
fn data(cluster: &Cluster, sector: u64, order: [usize; 2], text: &mut Vec<u8>) {
    let held = |index: usize| {
        let disk = &cluster.nodes[index].volumes[0].disk;
        let durable = disk.possible(sector).next().unwrap_or(0);
        let last = disk.possible(sector).last().unwrap_or(0);
        [disk.read(sector, 1)[0], durable, last]
    };
    let mut values: Vec<u64> = order.iter().flat_map(|index| held(*index)).collect();
    for index in order {
        values.extend(cluster.history.duties(0, index, sector).map(|(value, _)| value));
    }
    values.sort_unstable();
    values.dedup();
    let rank = |value: u64| {
        values.binary_search(&value).ok().and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
    };
    for index in order {
        text.extend(held(index).map(rank));
        let mut duties: Vec<_> = cluster.history.duties(0, index, sector).collect();
        duties.sort_unstable();
        for (value, flags) in duties {
            text.push(rank(value));
            text.extend(flags.map(u8::from));
            text.push(u8::from(cluster.history.lost_power_since(1 - index, value)));
        }
        text.push(u8::MAX);
    }
    text.extend(values.iter().map(|value| u8::from(cluster.history.has_ended(0, sector, *value))));
}
