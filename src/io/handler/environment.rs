//! The environment of a handler: DRBD's variables, and what tandemadm needs to find this daemon.
//!
//! Invariant: nothing of the daemon's own environment gets into it.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::io::PeerPath;
use crate::io::handle::Setup;
use crate::resource::{HandlerCall, NodeId, ResourceConfig, VolumeConfig};

/// Where a handler finds what it may ask.
#[derive(Clone, Debug, Default)]
pub struct HandlerPlaces {
    /// The configuration file.
    pub config: PathBuf,
    /// This node's name, as tandemadm takes it.
    pub node: String,
    /// The run folder of the daemon.
    pub run_dir: PathBuf,
}

/// What the environment is made of beside the definition and the call.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    places: HandlerPlaces,
    local: SocketAddr,
    peers: Vec<(NodeId, SocketAddr)>,
}

impl Origin {
    pub(super) fn of(setup: &Setup) -> Self {
        let (places, peers) = (setup.places.clone(), setup.peers.clone());
        Self { places, local: setup.local, peers }
    }

    /// Of several ways to a peer the first one counts.
    pub(super) fn set_paths(&mut self, paths: &[PeerPath]) {
        if let Some(first) = paths.first() {
            self.local = first.local;
        }
        for (peer, address) in &mut self.peers {
            if let Some(path) = paths.iter().find(|path| path.peer == *peer) {
                *address = path.remote;
            }
        }
    }
}

/// Names and values.
pub(super) fn environment(
    config: &ResourceConfig,
    origin: &Origin,
    call: &HandlerCall,
) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: String| all.push((name.to_owned(), value));
    set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    set("HOME", "/".to_owned());
    set("TERM", "linux".to_owned());
    let places = &origin.places;
    let path = |path: &PathBuf| path.display().to_string();
    set("TANDEM_CONFIG", path(&places.config));
    set("TANDEM_NODE", places.node.clone());
    set("TANDEM_RUN_DIR", path(&places.run_dir));
    set("DRBD_CONF", path(&places.config));
    set("DRBD_RESOURCE", config.name.clone());
    set("DRBD_MY_NODE_ID", config.node_id.to_string());
    set(&format!("DRBD_NODE_ID_{}", config.node_id), config.node_name.clone());
    for peer in &config.peers {
        set(&format!("DRBD_NODE_ID_{}", peer.node_id), peer.name.clone());
    }
    set("UP_TO_DATE_NODES", format!("0x{:x}", call.up_to_date_nodes));
    set("DRBD_MY_ADDRESS", origin.local.ip().to_string());
    set("DRBD_MY_AF", family(origin.local).to_owned());
    // Of all peers, where it is about none: two nodes have one.
    let about = |id: NodeId| call.peer.is_none_or(|peer| peer == id);
    let peers: Vec<_> = config.peers.iter().filter(|peer| about(peer.node_id)).collect();
    set("DRBD_PEERS", peers.iter().map(|peer| &*peer.name).collect::<Vec<_>>().join(" "));
    if let [peer] = peers[..] {
        set("DRBD_PEER", peer.name.clone());
        set("DRBD_PEER_NODE_ID", peer.node_id.to_string());
        if let Some((_, address)) = origin.peers.iter().find(|(id, _)| *id == peer.node_id) {
            set("DRBD_PEER_ADDRESS", address.ip().to_string());
            set("DRBD_PEER_AF", family(*address).to_owned());
        }
    }
    if let Some(state) = call.connection_state {
        set("DRBD_CSTATE", state.to_string());
    }
    // A handler of the resource is told of all its volumes.
    let about = |one: &&VolumeConfig| call.volume.is_none_or(|volume| volume == one.number);
    let volumes: Vec<_> = config.volumes.iter().filter(about).collect();
    let list = |value: fn(&VolumeConfig) -> String| {
        volumes.iter().map(|volume| value(volume)).collect::<Vec<_>>().join(" ")
    };
    set("DRBD_VOLUME", list(|volume| volume.number.to_string()));
    set("DRBD_MINOR", list(|volume| volume.minor.to_string()));
    set("DRBD_BACKING_DEV", list(|volume| volume.disk.clone()));
    set("DRBD_LL_DISK", list(|volume| volume.disk.clone()));
    all
}

fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}
