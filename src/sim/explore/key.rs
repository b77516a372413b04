//! Two states are the same if nothing but names and numbers tells them apart.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::resource::{ConnectionState, Reason};

use super::super::cluster::Cluster;
use super::super::damage::read_meta;

/// Entries of the history of generations that are looked at.
const HISTORY: usize = 4;

/// Two hashes of what is left of a state without its names: a pair that is equal by chance would hide
/// a state.
pub(super) fn of(cluster: &Cluster) -> u128 {
    let text = describe(cluster);
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &text).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// Names in the order of their first appearance.
#[derive(Default)]
struct Names(BTreeMap<u64, usize>);

impl Names {
    /// The name of an identifier; its lowest bit is no part of it, and stays.
    fn of(&mut self, uuid: u64) -> String {
        if uuid == 0 || uuid == crate::meta::JUST_CREATED {
            return uuid.to_string();
        }
        let next = self.0.len();
        let name = *self.0.entry(uuid & !1).or_insert(next);
        format!("u{name}{}", if uuid & 1 == 1 { "p" } else { "" })
    }
}

fn describe(cluster: &Cluster) -> String {
    let mut text = format!("parted {} ", cluster.is_parted());
    let mut names = Names::default();
    let sectors = cluster.history.written(0);
    let ranks: Vec<Vec<u64>> = sectors.iter().map(|sector| values(cluster, *sector)).collect();
    for (index, n) in cluster.nodes.iter().enumerate() {
        text.push_str(&format!("node {index} {} ", n.host_up));
        if let Some(status) = &n.status {
            text.push_str(&format!("{:?} ", status.role));
            for d in &status.devices {
                text.push_str(&format!("{:?} {:x} ", d.disk_state, d.flags));
                text.push_str(&names.of(d.current_uuid));
            }
            for c in &status.connections {
                let state = match c.connection_state {
                    ConnectionState::Connected => "Connected",
                    ConnectionState::StandAlone => "StandAlone",
                    _ => "on its way",
                };
                let reason = if state == "StandAlone" { c.reason } else { Reason::None };
                text.push_str(&format!("{state} {reason:?} {:?} ", c.peer_role));
                for p in &c.peer_devices {
                    text.push_str(&format!(
                        "{:?} {:?} oos {} ",
                        p.replication_state, p.peer_disk_state, p.out_of_sync
                    ));
                    text.push_str(&names.of(p.bitmap_uuid));
                }
            }
        }
        let v = &n.volumes[0];
        if let Ok(meta) = read_meta(&v.disk, &v.geometry) {
            let s = &meta.superblock;
            let same_boot = s.boot_id == cluster.boot_id(index);
            text.push_str(&format!("meta {:x} {same_boot} ", s.flags));
            text.push_str(&names.of(s.current_uuid));
            for old in &s.history[..HISTORY] {
                text.push_str(&names.of(*old));
            }
            for (peer, slot) in s.peers.iter().zip(&meta.slots) {
                text.push_str(&names.of(peer.bitmap_uuid));
                text.push_str(&format!(
                    "{:?} {:?} {} ",
                    peer.bitmap_state,
                    slot.set,
                    peer.node_id.is_some()
                ));
                // Counters by order only: what is remembered of the other disk, against what it has.
                let other = &cluster.nodes[1 - index].volumes[0];
                let theirs = read_meta(&other.disk, &other.geometry).ok();
                let same = theirs
                    .as_ref()
                    .is_some_and(|theirs| theirs.superblock.device_uuid == peer.device_uuid);
                let number = theirs.and_then(|theirs| theirs.number);
                text.push_str(&format!("{same} {:?} ", number.cmp(&slot.seen_number)));
            }
            text.push_str(&format!("hot {:?} ", meta.hot_extents));
        }
        for (sector, ranks) in sectors.iter().zip(&ranks) {
            let rank = |value: u64| ranks.binary_search(&value).unwrap_or(usize::MAX);
            let held = rank(v.disk.read(*sector, 1)[0]);
            let may: Vec<_> = v.disk.possible(*sector).map(rank).collect();
            let duties = cluster.history.duties(0, index, *sector);
            let duties: Vec<_> = duties.map(|(value, flags)| (rank(value), flags)).collect();
            text.push_str(&format!("{sector}: {held} {may:?} {duties:?} "));
        }
    }
    let mut pair = cluster.pairs.get(&0).copied().unwrap_or_default();
    // Not when, but that: what was answered since then is known by its own step.
    pair.forced = pair.forced.map(|step| step.min(1));
    pair.spoken = pair.spoken.map(|step| step.min(1));
    text.push_str(&format!("{pair:?} {:?}", cluster.discard));
    text
}

/// The values of a sector that any disk holds, may hold or must hold, in order.
fn values(cluster: &Cluster, sector: u64) -> Vec<u64> {
    let mut values = BTreeSet::new();
    for (index, n) in cluster.nodes.iter().enumerate() {
        let disk = &n.volumes[0].disk;
        values.extend(disk.possible(sector));
        values.extend(disk.read(sector, 1));
        values.extend(cluster.history.duties(0, index, sector).map(|(value, _)| value));
    }
    values.into_iter().collect()
}
