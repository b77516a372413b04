//! Stories of the pieces of a resync: how many there are at once, and whose they are when it ends.

use std::collections::BTreeMap;

use super::pair::*;
use crate::meta::MetaOp;
use crate::resource::*;
use crate::wire::Packet;

/// Blocks without a gap in between.
const DENSE: u64 = 2048;

fn connection(pair: &Pair, n: usize) -> ConnectionState {
    pair.status(n).connections[0].connection_state
}

/// Of scattered blocks a window of many MiB is very many pieces: more than a source takes, and than a slow disk reads
/// before the peer has lost its patience.
#[test]
fn scattered_blocks_are_asked_for_a_few_hundred_at_a_time() {
    let mut pair = synced_pair();
    let rates = Options { max_buffers: 131_072, resync_rate: 4_000_000, ..config(1).options };
    for n in 0..2 {
        let set =
            Command::SetOptions { options: Box::new(rates.clone()), volumes: BTreeMap::new() };
        pair.admin(n, set).unwrap();
    }
    pair.lose_link();
    // The rate learns from a dense part what the disks can do.
    for block in (0..DENSE).chain((DENSE..SIZE / BLOCK_SIZE).step_by(2)) {
        pair.write(0, block, 7).unwrap();
    }
    pair.nodes[0].stall =
        |action| matches!(action, Action::DiskRead { offset, .. } if *offset >= DENSE * BLOCK_SIZE);
    pair.link = true;
    pair.run(15_000);
    let asked = pair.nodes[0].stalled.len();
    assert_eq!(asked, 256, "{}", pair.nodes[0].log.join("\n"));
    assert_eq!(connection(&pair, 0), ConnectionState::Connected);
    pair.nodes[0].unstall();
    pair.synced();
    let sessions = pair.nodes[0].log.iter().filter(|line| line.contains("conn( Connected"));
    assert_eq!(sessions.count(), 1, "{}", pair.nodes[0].log.join("\n"));
}

/// A peer that says that it is done, and has asked for a piece that it does not acknowledge: neither that nor what
/// comes of it later ends this node.
#[test]
fn a_target_is_not_done_while_it_owes_a_piece() {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.write(0, 9, 99).unwrap();
    pair.nodes[0].stall = |action| matches!(action, Action::DiskRead { .. });
    pair.link = true;
    pair.run(15_000);
    assert_eq!(pair.disk(1), DiskState::Inconsistent);
    // The end of the resync is being stored there.
    pair.nodes[1].stall = |action| matches!(action, Action::Meta { op: MetaOp::Superblock(_), .. });
    pair.nodes[0].unstall();
    pair.run(1_500);
    assert_eq!(pair.nodes[1].stalled.len(), 1, "{}", pair.nodes[1].log.join("\n"));
    pair.nodes[1].mute = true;
    let write = pair.write_later(0, 9, 98);
    pair.settle();
    assert_eq!(pair.nodes[0].replies.get(&write), None);
    let sequence = 1 << 40;
    let socket = pair.core(0).connections[0].active.expect("a session");
    for packet in [
        Packet::ResyncRequest { volume: 0, sequence, offset: 9 * 4096, length: 4096 },
        Packet::ResyncDone { volume: 0 },
    ] {
        pair.event(0, Event::Packet { socket, packet, payload: None });
    }
    pair.nodes[1].mute = false;
    while let Some(event) = pair.nodes[1].air.pop_front() {
        pair.event(0, event);
    }
    pair.run(100);
    pair.cut();
    pair.nodes[1].unstall();
    pair.synced();
    assert_eq!(pair.nodes[0].replies.remove(&write), Some(Ok(None)));
}
