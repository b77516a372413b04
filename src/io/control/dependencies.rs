//! Holds resyncs back for others of this node: a resource's core knows no other resource.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::registry::{Entry, Registry, refusal};
use crate::config::{Definition, Dependencies, ResyncAfter, cycle};
use crate::control::resync_order::{Known, orders};
use crate::io::Order;
use crate::resource::{Refusal, VolumeNumber};

/// An order that a busy data thread did not take is given again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// Looks again at every change of any resource.
pub(super) async fn serve(registry: Rc<Registry>) {
    let mut changes = registry.subscribe();
    loop {
        registry.hold_resyncs();
        if let Ok(Err(RecvError::Closed)) = tokio::time::timeout(AGAIN, changes.recv()).await {
            return;
        }
        // What has changed meanwhile is looked at once.
        while let Ok(_) | Err(TryRecvError::Lagged(_)) = changes.try_recv() {}
    }
}

impl Registry {
    /// Tells each resource which of its resyncs stand still for another one.
    pub(super) fn hold_resyncs(&self) {
        let entries = self.chosen(None);
        let statuses: Vec<_> = entries.iter().map(|entry| entry.status()).collect();
        let known: Vec<Known<'_>> = entries
            .iter()
            .zip(&statuses)
            .map(|(entry, status)| Known { status, after: entry.resync_after() })
            .collect();
        for order in orders(&known, self.settings.max_parallel_resyncs as usize) {
            if let Some(entry) = self.entry(order.resource) {
                let (volume, peer, paused) = (order.volume, order.peer, order.paused);
                // Not taken: given again.
                let _ = entry.thread.send(Order::ResyncDependency { volume, peer, paused });
            }
        }
    }

    /// Refuses what would make volumes of this node wait for themselves.
    pub(super) fn no_cycle(&self, wanted: &Definition) -> Result<(), Refusal> {
        let mut all = Dependencies::new();
        for entry in self.chosen(None) {
            all.extend(edges(&entry.config.name, entry.resync_after()));
        }
        let own = wanted.local(&self.settings.node).map(of_host).unwrap_or_default();
        all.retain(|waits, _| waits.resource != wanted.name);
        all.extend(edges(&wanted.name, own.clone()));
        for volume in own.keys() {
            let waits = ResyncAfter { resource: wanted.name.clone(), volume: *volume };
            if let Some(way) = cycle(&all, &waits) {
                let hint = format!("{waits} would wait for itself: {way}.");
                return Err(refusal(133, "Cyclic resync-after dependency", hint));
            }
        }
        Ok(())
    }
}

impl Entry {
    /// Whom the resyncs of its volumes wait for here.
    fn resync_after(&self) -> BTreeMap<VolumeNumber, ResyncAfter> {
        let running = self.running.borrow();
        let own = running.hosts.iter().find(|host| host.node_id == self.config.node_id);
        own.map(of_host).unwrap_or_default()
    }
}

fn of_host(host: &crate::config::Host) -> BTreeMap<VolumeNumber, ResyncAfter> {
    let volumes = host.volumes.iter();
    volumes.filter_map(|(number, one)| Some((*number, one.resync_after.clone()?))).collect()
}

fn edges(
    resource: &str,
    after: BTreeMap<VolumeNumber, ResyncAfter>,
) -> impl Iterator<Item = (ResyncAfter, ResyncAfter)> + '_ {
    let waits = |volume| ResyncAfter { resource: resource.to_owned(), volume };
    after.into_iter().map(move |(volume, after)| (waits(volume), after))
}
