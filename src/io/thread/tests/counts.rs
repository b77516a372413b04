//! What a write costs: system calls of both data threads, with the real core and a real disk. Counts
//! hardly depend on how busy the machine is, times would.

use super::*;
use crate::resource::{ConnectionState, PeerConfig, VolumeConfig};
use std::sync::atomic::Ordering;

use nbd::constants::{
    NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_WRITE, NBD_REQUEST_MAGIC, NBD_SIMPLE_REPLY_MAGIC,
};

/// Requests that are counted.
const REQUESTS: u64 = 512;
/// Blocks that are written to.
const BLOCKS: u64 = 16384;

impl<C: Core> Shell<C> {
    /// A turn, whose allocations are counted.
    pub(in crate::io::thread) fn counted_turn(&mut self) -> std::io::Result<()> {
        let mut result = Ok(());
        let counted = allocation_counter::measure(|| result = self.turn());
        self.shared.allocations.fetch_add(counted.count_total, Ordering::Release);
        result
    }
}

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
        state_dir: "/nowhere".into(),
        places: Default::default(),
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

/// So far, or for one write.
#[derive(Clone, Copy, Debug)]
struct Costs<T> {
    /// io_uring_enter of each node.
    enters: [T; 2],
    /// Allocations of each node's data thread.
    allocations: [T; 2],
}

fn costs(nodes: &[Node; 2]) -> Costs<u64> {
    let shared = [0, 1].map(|n| &nodes[n].handle.shared);
    Costs {
        enters: shared.map(|shared| shared.enters.load(Ordering::Acquire)),
        allocations: shared.map(|shared| shared.allocations.load(Ordering::Acquire)),
    }
}

/// What one request costs each node, with so many under way: what one receive has answered is
/// followed by as many in one piece.
fn costs_of(kind: u16, nodes: &[Node; 2], client: &mut Client, depth: u64) -> Costs<f64> {
    let data = pattern(depth, PAGE);
    let reply = if kind == NBD_CMD_READ { 16 + PAGE } else { 16 };
    let (mut sent, mut replies, mut buffer) = (0_u64, Vec::<u8>::new(), vec![0; 64 * PAGE]);
    let before = costs(nodes);
    while replies.len() < REQUESTS as usize * reply {
        let answered = (replies.len() / reply) as u64;
        let mut requests = Vec::new();
        while sent < REQUESTS && sent - answered < depth {
            // All over the disk, no block twice.
            let block = sent * 7919 % (BLOCKS / REQUESTS) + sent * (BLOCKS / REQUESTS);
            // Behind two writes: a flush that has nothing to do asks nobody.
            let command = match kind {
                NBD_CMD_FLUSH if sent % 3 != 2 => NBD_CMD_WRITE,
                kind => kind,
            };
            let (offset, length) = match command {
                NBD_CMD_FLUSH => (0, 0),
                _ => (block * PAGE_U64, PAGE as u32),
            };
            requests.extend(NBD_REQUEST_MAGIC.to_be_bytes());
            requests.extend([0, 0]);
            requests.extend(command.to_be_bytes());
            requests.extend(sent.to_be_bytes());
            requests.extend(offset.to_be_bytes());
            requests.extend(length.to_be_bytes());
            if command == NBD_CMD_WRITE {
                requests.extend(&data);
            }
            sent += 1;
        }
        client.send_raw(&requests).unwrap();
        let received = client.receive(&mut buffer).unwrap();
        replies.extend(&buffer[..received]);
    }
    for reply in replies.chunks(reply) {
        assert_eq!(reply[..4], NBD_SIMPLE_REPLY_MAGIC.to_be_bytes());
        assert_eq!(reply[4..8], [0; 4], "no error");
    }
    let after = costs(nodes);
    let each = |after: [u64; 2], before: [u64; 2]| {
        [0, 1].map(|n| (after[n] - before[n]) as f64 / REQUESTS as f64)
    };
    Costs {
        enters: each(after.enters, before.enters),
        allocations: each(after.allocations, before.allocations),
    }
}

fn stop(nodes: [Node; 2], client: Client) {
    client.disconnect().unwrap();
    for node in nodes {
        node.order(Command::Down { shutdown: true }).ok();
        node.stop();
    }
}

#[test]
fn a_write_takes_few_system_calls_on_both_nodes() {
    let nodes = in_sync();
    let mut client = nodes[0].client(Mode::Simple);
    // Until the extents are hot.
    costs_of(NBD_CMD_WRITE, &nodes, &mut client, 32);
    let one = costs_of(NBD_CMD_WRITE, &nodes, &mut client, 1);
    // Request, disk, acknowledgement; packet, disk.
    assert!(one.enters[0] <= 3.5 && one.enters[1] <= 2.5, "at depth 1: {one:?}");
    // A disk that completes one write after the other costs a call each, and so do the
    // acknowledgements that follow from it; everything else is shared by many writes. So the best of
    // a few counts.
    let mut deep = Vec::new();
    let few = |costs: &Costs<f64>| costs.enters[0] <= 0.4 && costs.enters[1] <= 0.4;
    while deep.len() < 50 && !deep.last().is_some_and(few) {
        deep.push(costs_of(NBD_CMD_WRITE, &nodes, &mut client, 32));
    }
    println!("a write: {one:?} at depth 1, {deep:?} at depth 32");
    assert!(deep.last().is_some_and(few), "at depth 32: {deep:?}");
    stop(nodes, client);
}

#[test]
fn nothing_is_allocated_on_the_path_of_a_request() {
    let nodes = in_sync();
    let mut client = nodes[0].client(Mode::Simple);
    // Until the extents are hot, and everything that grows has its size: the transfer log with it.
    for _ in 0..5 {
        costs_of(NBD_CMD_WRITE, &nodes, &mut client, 32);
    }
    for kind in [NBD_CMD_WRITE, NBD_CMD_FLUSH, NBD_CMD_READ] {
        for depth in [32, 1] {
            // What grows has its size after a while, and a timer or a ping may fall into one count.
            let few = |costs: &Costs<f64>| costs.allocations.iter().all(|each| *each < 0.01);
            let mut counts = Vec::new();
            while counts.len() < 20 && !counts.last().is_some_and(few) {
                counts.push(costs_of(kind, &nodes, &mut client, depth));
            }
            println!("command {kind}, depth {depth}: {counts:?}");
            assert!(counts.last().is_some_and(few), "{kind} at depth {depth}: {counts:?}");
        }
    }
    stop(nodes, client);
}

#[test]
fn who_serves_clients_looks_before_it_sleeps_if_busy_poll_says_so() {
    let nodes = in_sync();
    let mut client = nodes[0].client(Mode::Simple);
    let once = |client: &mut Client| costs_of(NBD_CMD_WRITE, &nodes, client, 1).enters;
    once(&mut client);
    let plain = once(&mut client);
    for node in &nodes {
        let options = Options { busy_poll_us: 1000, ..real_config(node.node_id).options };
        let volumes = std::collections::BTreeMap::new();
        node.order(Command::SetOptions { options: Box::new(options), volumes }).unwrap();
    }
    let polling = once(&mut client);
    // One call hands over what is queued, another one takes what has come.
    assert!(polling[0] > plain[0] + 1.0, "{plain:?}, then {polling:?}");
    assert!(polling[1] < plain[1] + 0.5, "nobody is served there: {plain:?}, then {polling:?}");
    stop(nodes, client);
}
