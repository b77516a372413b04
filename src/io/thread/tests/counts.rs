//! What a write costs: system calls of both data threads, with the real core and a real disk. Counts
//! hardly depend on how busy the machine is, times would.

use super::*;
use crate::resource::{ConnectionState, PeerConfig, VolumeConfig};
use nbd::constants::{NBD_REQUEST_MAGIC, NBD_SIMPLE_REPLY_MAGIC};

/// Writes that are counted.
const WRITES: u64 = 256;

fn real_config(node_id: NodeId) -> ResourceConfig {
    let peer = 1 - node_id;
    let disk = "disk".to_owned();
    ResourceConfig {
        peers: vec![PeerConfig { node_id: peer, name: format!("node{peer}"), address: "x".into() }],
        volumes: vec![VolumeConfig { number: 0, minor: 0, disk, disk_options: None }],
        ..config("r0", node_id)
    }
}

/// A node with the real core and a disk.
fn node(node_id: NodeId, local: SocketAddr, peer: SocketAddr) -> Node {
    let setup = Setup {
        config: real_config(node_id),
        local,
        peers: vec![(1 - node_id, peer)],
        buffers: SocketBuffers::default(),
        secrets: None,
        record: None,
        seed: u64::from(node_id) + 1,
    };
    let folder = tempfile::tempdir().unwrap();
    let handle = spawn(setup).unwrap();
    let script = Shared::default();
    let mut node = Node { node_id, handle, script, folder, address: local, size: 0 };
    node.attach(&MetaDisk::Internal);
    node
}

/// Two nodes in sync, the first one Primary.
fn in_sync() -> [Node; 2] {
    let addresses = [free_address("127.0.0.1"), free_address("127.0.0.2")];
    let nodes = [node(0, addresses[0], addresses[1]), node(1, addresses[1], addresses[0])];
    for (node, peer) in nodes.iter().zip([1, 0]) {
        let connect = Command::Connect { peer, discard_my_data: false, tentative: false };
        node.order(connect).unwrap();
    }
    for node in &nodes {
        let mut updates = node.handle.subscribe();
        let mut status = node.handle.status();
        while status.connections[0].connection_state != ConnectionState::Connected {
            status = updates.blocking_recv().unwrap();
        }
    }
    nodes[0].order(Command::NewCurrentUuid { volume: 0, clear_bitmap: true }).unwrap();
    nodes[0].order(Command::Primary { force: None }).unwrap();
    nodes
}

fn enters(nodes: &[Node; 2]) -> [u64; 2] {
    [0, 1].map(|n| nodes[n].handle.shared.enters.load(std::sync::atomic::Ordering::Acquire))
}

/// Calls of each node for one write, at this depth. The requests of a round are sent in one piece:
/// how a client cuts its stream is not measured.
fn calls(nodes: &[Node; 2], client: &mut Client, depth: u64) -> [f64; 2] {
    let data = pattern(depth, PAGE);
    let before = enters(nodes);
    for round in 0..WRITES / depth {
        let mut requests = Vec::new();
        for number in round * depth..(round + 1) * depth {
            requests.extend(NBD_REQUEST_MAGIC.to_be_bytes());
            requests.extend([0, 0, 0, 1]);
            requests.extend(number.to_be_bytes());
            requests.extend((number * PAGE_U64).to_be_bytes());
            requests.extend((PAGE as u32).to_be_bytes());
            requests.extend(&data);
        }
        client.send_raw(&requests).unwrap();
        for reply in client.read_raw(16 * depth as usize).unwrap().chunks(16) {
            assert_eq!(reply[..4], NBD_SIMPLE_REPLY_MAGIC.to_be_bytes());
            assert_eq!(reply[4..8], [0; 4], "no error");
        }
    }
    let after = enters(nodes);
    [0, 1].map(|n| (after[n] - before[n]) as f64 / WRITES as f64)
}

#[test]
fn a_write_takes_few_system_calls_on_both_nodes() {
    let nodes = in_sync();
    let mut client = nodes[0].client(Mode::Simple);
    // Once, so that the extents are hot.
    calls(&nodes, &mut client, 32);
    let one = calls(&nodes, &mut client, 1);
    // Request, disk, acknowledgement; packet, disk.
    assert!(one[0] <= 3.5 && one[1] <= 2.5, "at depth 1: {one:?}");
    let deep = calls(&nodes, &mut client, 32);
    println!("io_uring_enter a write: {one:?} at depth 1, {deep:?} at depth 32");
    // A disk that completes one write after the other costs a call each, and so do the
    // acknowledgements that follow from it; everything else is shared by many writes.
    assert!(deep[0] <= 2.4 && deep[1] <= 1.4, "at depth 32: {deep:?}");
    client.disconnect().unwrap();
    for node in nodes {
        node.order(Command::Down { shutdown: true }).ok();
        node.stop();
    }
}
