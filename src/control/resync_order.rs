//! Which resyncs of this node stand still for another one: by `resync-after`, or because
//! `--max-parallel-resyncs` run already.
//!
//! Invariants:
//! - Places are given by the names of resources, then volume and peer: both nodes of a pair give
//!   them in one order, so that they never wait for each other.
//! - A resync that stands still for another reason takes no place.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::ResyncAfter;
use crate::resource::{NodeId, ReplicationState, Status};

/// What a node knows of one resource.
#[derive(Debug)]
pub struct Known<'a> {
    /// Its newest snapshot.
    pub status: &'a Status,
    /// `resync-after` of its volumes.
    pub after: BTreeMap<u16, ResyncAfter>,
}

/// A resync that is to stand still from now on, or to stand still no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<'a> {
    /// Of this resource.
    pub resource: &'a str,
    /// And volume.
    pub volume: u16,
    /// With this peer.
    pub peer: NodeId,
    /// It stands still.
    pub paused: bool,
}

fn resyncs(state: ReplicationState) -> bool {
    use ReplicationState as R;
    matches!(state, R::SyncSource | R::SyncTarget | R::PausedSyncS | R::PausedSyncT)
}

/// What is to change. `most`: so many may run at once; 0: all.
#[must_use]
pub fn orders<'a>(known: &'a [Known<'a>], most: usize) -> Vec<Order<'a>> {
    let mut syncing: BTreeSet<(&str, u16)> = BTreeSet::new();
    let mut after: BTreeMap<(&str, u16), (&str, u16)> = BTreeMap::new();
    for one in known {
        let name = one.status.name.as_str();
        let peers = one.status.connections.iter().flat_map(|one| &one.peer_devices);
        let running = peers.filter(|peer| resyncs(peer.replication_state));
        syncing.extend(running.map(|peer| (name, peer.volume)));
        let edges = one.after.iter();
        after.extend(edges.map(|(n, to)| ((name, *n), (to.resource.as_str(), to.volume))));
    }
    let mut all: Vec<_> = known
        .iter()
        .flat_map(|one| {
            let of = move |c: &'a crate::resource::ConnectionStatus| {
                let peers = c.peer_devices.iter();
                peers.map(move |peer| (one.status.name.as_str(), peer.volume, c.peer_node_id, peer))
            };
            one.status.connections.iter().flat_map(of)
        })
        .collect();
    all.sort_by_key(|(name, volume, peer, _)| (*name, *volume, *peer));
    let mut taken = 0;
    let mut orders = Vec::new();
    for (resource, volume, peer, device) in all {
        let held = device.resync_suspended;
        let behind = is_behind(&after, &syncing, (resource, volume));
        let wants = resyncs(device.replication_state) && !held.user && !behind;
        let full = wants && most > 0 && taken >= most;
        taken += usize::from(wants && !full && !held.peer);
        let paused = behind || full;
        if paused != held.dependency {
            orders.push(Order { resource, volume, peer, paused });
        }
    }
    orders
}

/// Whether a volume that goes before this one resyncs; over the whole chain.
fn is_behind<'a>(
    after: &BTreeMap<(&'a str, u16), (&'a str, u16)>,
    syncing: &BTreeSet<(&'a str, u16)>,
    start: (&'a str, u16),
) -> bool {
    let mut seen = BTreeSet::from([start]);
    let mut at = start;
    while let Some(next) = after.get(&at) {
        if !seen.insert(*next) {
            return false;
        }
        if syncing.contains(next) {
            return true;
        }
        at = *next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures;

    /// Resources in mid-resync, and after whom each goes.
    fn statuses(names: &[&str]) -> Vec<Status> {
        let status = |name: &&str| {
            let mut status = fixtures::resync_source().status;
            (*name).clone_into(&mut status.name);
            status
        };
        names.iter().map(status).collect()
    }

    fn known<'a>(statuses: &'a [Status], after: &[(&str, &str)]) -> Vec<Known<'a>> {
        let of = |status: &Status| {
            let edges = after.iter().filter(|(waits, _)| *waits == status.name);
            edges.map(|(_, to)| (0, to.parse().expect("a volume"))).collect()
        };
        statuses.iter().map(|status| Known { after: of(status), status }).collect()
    }

    /// The names of those that are to stand still.
    fn held(known: &[Known<'_>], most: usize) -> Vec<String> {
        let orders = orders(known, most);
        assert!(orders.iter().all(|order| order.paused));
        orders.into_iter().map(|order| order.resource.to_owned()).collect()
    }

    #[test]
    fn a_resync_waits_for_every_one_of_the_chain_before_it() {
        let mut all = statuses(&["a", "b", "c"]);
        let chain = [("a", "b"), ("b", "c")];
        assert_eq!(held(&known(&all, &chain), 0), ["a", "b"]);
        assert!(held(&known(&all, &[]), 0).is_empty());
        // The one between is done: the first still waits for the last.
        all[1].connections[0].peer_devices[0].replication_state = ReplicationState::Established;
        assert_eq!(held(&known(&all, &chain), 0), ["a", "b"], "a later resync of b would wait");
        all[2].connections[0].peer_devices[0].replication_state = ReplicationState::Established;
        assert!(held(&known(&all, &chain), 0).is_empty());
        // What is not up holds nobody back, and a loop that came from outside does not hang.
        assert!(held(&known(&all[..1], &chain), 0).is_empty());
        assert!(held(&known(&all, &[("b", "c"), ("c", "b")]), 0).is_empty());
    }

    #[test]
    fn places_are_given_by_name_and_only_to_those_that_run() {
        let mut all = statuses(&["c", "a", "b"]);
        assert_eq!(held(&known(&all, &[]), 1), ["b", "c"]);
        assert_eq!(held(&known(&all, &[]), 2), ["c"]);
        assert!(held(&known(&all, &[]), 3).is_empty());
        all[1].connections[0].peer_devices[0].resync_suspended.user = true;
        assert_eq!(held(&known(&all, &[]), 1), ["c"], "paused by a person: b has the place");
        // Who waits by resync-after takes no place from whom it waits for.
        assert_eq!(held(&known(&all[..2], &[("a", "c")]), 1), ["a"]);
        all[1].connections[0].peer_devices[0].resync_suspended.user = false;
        all[1].connections[0].peer_devices[0].resync_suspended.peer = true;
        assert_eq!(held(&known(&all, &[]), 1), ["c"], "the peer holds a back");
    }

    #[test]
    fn only_what_changes_is_ordered() {
        let mut all = statuses(&["a", "b"]);
        for one in &mut all {
            one.connections[0].peer_devices[0].resync_suspended.dependency = true;
        }
        let known = known(&all, &[]);
        let orders = orders(&known, 1);
        let expected = Order { resource: "a", volume: 0, peer: 1, paused: false };
        assert_eq!(orders, [expected]);
    }
}
