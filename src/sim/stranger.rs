//! A peer that says anything, and a disk whose metadata is anything: what the cores make of it.
//!
//! ```text
//! input: situation, steps, who ; then packets: steps, bytes 4..28 of the header, its body
//!        situation             ; then patches: flags, place (3 bytes), length, the bytes
//! ```
//!
//! Invariants:
//! - No input makes a core panic, act for ever, use a buffer or a disk against its contract with the
//!   shell, keep an order for longer than [`super::admin::ORDER_MS`], or stay when it is told to go
//!   down.
//! - Of the data nothing is asked: who is believed can spoil it.

use std::collections::HashSet;
use std::sync::OnceLock;

use crate::meta::Geometry;
use crate::resource::{Command, Force};
use crate::wire::{HEADER_SIZE, MAGIC, Packet, decode_header};

use super::cluster::Cluster;
use super::disk::{SECTOR, Sector};
use super::explore::{Blow, Move, Start, Turn, base};
use super::faults::Order;
use super::net::{encode, parse};
use super::node::Input;

/// Packets, or patches, of one input at most.
const PIECES_MAX: usize = 24;
/// Bytes of a header that an input gives: all but magic and CRC.
const GIVEN: std::ops::Range<usize> = 4..28;

/// What is at work when the stranger speaks: the turns before, and the turn in whose midst it is.
const SITUATIONS: &[(Start, &[Turn], Turn)] = &[
    (Start::InSync, &[], Turn::Write { node: 0, block: 0, fua: true }),
    (Start::InSync, &[], Turn::Flush { node: 0 }),
    (Start::InSync, &[], order(0, Order::Verify)),
    (Start::InSync, &[], order(0, Order::Secondary)),
    (Start::InSync, &[], order(1, Order::Primary)),
    (Start::InSync, &[], order(1, Order::Disconnect)),
    (Start::InSync, &[], order(1, Order::Invalidate)),
    (Start::InSync, &[], order(0, Order::InvalidateRemote)),
    (Start::InSync, &[], order(1, Order::Detach)),
    (Start::InSync, &[], order(0, Order::Detach)),
    (Start::InSync, &[], order(0, Order::Resize)),
    (Start::InSync, &[], order(1, Order::Down)),
    (Start::InSync, &[Turn::Part, Turn::Write { node: 0, block: 1, fua: false }], Turn::Join),
    (Start::InSync, &[order(1, Order::Disconnect), WRITE], order(1, Order::Connect)),
    (Start::InSync, &[order(1, Order::Down), WRITE], Turn::Start { node: 1 }),
    (Start::InSync, &[order(1, Order::Detach), WRITE], order(1, Order::Attach)),
    (Start::InSync, &[order(0, Order::Detach)], Turn::Read { node: 0 }),
    (Start::InSync, &[order(0, Order::Verify)], order(0, Order::Repair)),
    (Start::Fresh, &[], order(0, Order::ClearBitmap)),
    (Start::Fresh, &[], order(0, Order::Force(Force::Plain))),
    (Start::Fresh, &[order(1, Order::Disconnect)], order(1, Order::Connect)),
];

const WRITE: Turn = Turn::Write { node: 0, block: 1, fua: false };

const fn order(node: usize, order: Order) -> Turn {
    Turn::Order { node, order }
}

/// Packets as a peer may send them that has read the protocol and means no good, in the midst of
/// what two honest nodes do. Returns in a few words how it ended.
///
/// # Panics
/// A core did what no input may bring it to.
#[must_use]
pub fn hear(input: &[u8]) -> String {
    let [situation, steps, who, rest @ ..] = input else { return "short".to_owned() };
    let (mut cluster, last) = situation_of(*situation);
    let mut left = usize::from(*steps % 64);
    cluster.play_turn(last, |_, steps| steps < left);
    let (liar, victim) = (usize::from(who & 1), usize::from(1 - (who & 1)));
    let mut rest = rest;
    let mut said = String::new();
    for _ in 0..PIECES_MAX {
        let Some(Said { pause, packet, contents, rest: after }) = next_packet(rest) else { break };
        rest = after;
        let open = cluster.net.open_links(liar).into_iter().rev().find_map(|(link, side)| {
            let end = cluster.net.links[link].ends[1 - side];
            (end.open && end.node == victim).then_some(end.socket)
        });
        let Some(socket) = open else {
            said.push_str("closed ");
            break;
        };
        cluster.input(victim, Input::Packet { socket, packet, contents });
        left = usize::from(pause);
        let end = cluster.in_ms(2_000);
        while left > 0 && cluster.step(end).is_some() {
            left -= 1;
        }
    }
    said + &go_down(cluster)
}

/// Metadata that something has changed, whole blocks of it with a checksum that fits: attached by a
/// daemon whose peer is honest. Returns in a few words how it ended.
///
/// # Panics
/// A core did what no input may bring it to.
#[must_use]
pub fn attach(input: &[u8]) -> String {
    let Some((situation, mut rest)) = input.split_first() else { return "short".to_owned() };
    let (mut cluster, last) = situation_of(*situation);
    cluster.play_turn(last, |_, _| true);
    cluster.strike_blow(Blow::Power { node: 0, keeps: u64::from(situation >> 7) * 100 });
    cluster.come_to_rest(|_, _| true);
    let volume = &mut cluster.nodes[0].volumes[0];
    let geometry = volume.geometry;
    let mut area = volume.disk.metadata().read(0, volume.disk.metadata().bytes());
    for _ in 0..PIECES_MAX {
        let [flags, a, b, c, length, after @ ..] = rest else { break };
        let at = u32::from_be_bytes([0, *a, *b, *c]) as usize % area.len();
        let length = usize::from(*length).min(after.len()).min(area.len() - at);
        area[at..at + length].copy_from_slice(&after[..length]);
        if flags & 1 == 1 {
            seal(&mut area, at, &geometry);
        }
        rest = &after[length..];
    }
    volume.disk.write_metadata(0, &area);
    cluster.play(&Move { turn: Turn::Start { node: 0 }, blow: None });
    go_down(cluster)
}

/// Inputs for [`hear`] to begin with: in each situation, at some of its steps, what the honest peer
/// sent last is said once more.
#[must_use]
pub fn heard() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for situation in 0..SITUATIONS.len() as u8 {
        let (mut cluster, last) = situation_of(situation);
        let mut known = HashSet::new();
        cluster.play_turn(last, |cluster, steps| {
            for (sender, packet) in cluster.net.under_way() {
                let bytes = encode(packet);
                let Ok(steps) = u8::try_from(steps) else { return false };
                if known.insert(bytes.clone()) {
                    let mut input = vec![situation, steps, u8::try_from(sender).unwrap_or(0), 4];
                    input.extend_from_slice(&bytes[GIVEN]);
                    input.extend_from_slice(&bytes[HEADER_SIZE..]);
                    inputs.push(input);
                }
            }
            true
        });
    }
    inputs
}

/// Inputs for [`attach`] to begin with: each field of the metadata, as it is.
#[must_use]
pub fn attached() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for situation in 0..SITUATIONS.len() as u8 {
        let volume = &situation_of(situation).0.nodes[0].volumes[0];
        let (geometry, area) = (volume.geometry, volume.disk.metadata());
        let places = [
            geometry.superblocks[0],
            geometry.superblocks[1],
            geometry.al_block_offset(0),
            geometry.bitmap_page_offset(0, 0),
            geometry.seen_offset(0, 0),
        ];
        for (place, field) in places.into_iter().flat_map(|place| (0..32).map(move |f| (place, f)))
        {
            let at = (place + field * 8) as usize;
            let [_, a, b, c] = u32::try_from(at).unwrap_or(0).to_be_bytes();
            let mut input = vec![situation, 1, a, b, c, 8];
            input.extend_from_slice(&area.read(at, 8));
            if !inputs.iter().any(|known: &Vec<u8>| known[1..] == input[1..]) {
                inputs.push(input);
            }
        }
    }
    inputs
}

/// Makes the checksum fit of the block of metadata that holds the byte at `at`.
pub fn seal(area: &mut [u8], at: usize, geometry: &Geometry) {
    let byte = at as u64;
    let superblock =
        geometry.superblocks.iter().any(|start| (*start..start + 4096).contains(&byte));
    let log = geometry.al_block_offset(0);
    let block = u64::from(geometry.al_block_size);
    let in_log = (log..log + u64::from(geometry.al_blocks) * block).contains(&byte);
    let (size, crc) = match (superblock, in_log) {
        (true, _) => (4096, 16),
        (_, true) => (geometry.al_block_size as usize, 4),
        _ => (4096, 4),
    };
    let start = at / size * size;
    let Some(block) = area.get_mut(start..start + size) else { return };
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&block[..crc]);
    hasher.update(&block[crc + 4..]);
    let sum = hasher.finalize();
    block[crc..crc + 4].copy_from_slice(&sum.to_be_bytes());
}

/// The cluster before the last turn of a situation, and that turn.
fn situation_of(number: u8) -> (Cluster, Turn) {
    static READY: OnceLock<Vec<Cluster>> = OnceLock::new();
    let all = READY.get_or_init(|| {
        let bases = Start::ALL.map(|s| base(s, 0).expect("where histories begin is sound"));
        let ready = |(start, turns, _): &(Start, &[Turn], Turn)| {
            let mut cluster = bases[usize::from(*start == Start::Fresh)].clone();
            for turn in *turns {
                cluster.play(&Move { turn: *turn, blow: None });
            }
            cluster
        };
        SITUATIONS.iter().map(ready).collect()
    });
    let index = usize::from(number & 0x7F) % SITUATIONS.len();
    let mut cluster = all[index].clone();
    cluster.lied_to = true;
    (cluster, SITUATIONS[index].2)
}

/// A packet of an input.
struct Said<'a> {
    /// So many steps happen before the next one.
    pause: u8,
    /// `None`: its bytes are none.
    packet: Option<Packet>,
    /// Its payload.
    contents: Vec<Sector>,
    /// What follows.
    rest: &'a [u8],
}

fn next_packet(input: &[u8]) -> Option<Said<'_>> {
    let (pause, rest) = input.split_first()?;
    let (given, rest) = rest.split_at_checked(GIVEN.len())?;
    let mut bytes = MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(given);
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    let header: &[u8; HEADER_SIZE] = bytes.as_slice().try_into().ok()?;
    let Ok(header) = decode_header(header) else {
        return Some(Said { pause: *pause, packet: None, contents: Vec::new(), rest });
    };
    let (length, payload) = (header.body_length() as usize, header.payload_length());
    let (body, rest) = rest.split_at(rest.len().min(length));
    bytes.extend_from_slice(body);
    bytes.resize(HEADER_SIZE + length, 0);
    let contents = vec![7; (payload / SECTOR) as usize];
    Some(Said { pause: *pause, packet: parse(&bytes).ok(), contents, rest })
}

/// Lets the cores go on for a while, and takes both down.
fn go_down(mut cluster: Cluster) -> String {
    let end = cluster.in_ms(3_000);
    cluster.run_until(end, |_| false);
    let states: Vec<String> = cluster.nodes.iter().map(said).collect();
    if cluster.is_parted() {
        cluster.play(&Move { turn: Turn::Join, blow: None });
    }
    cluster.hang_up_all();
    for _ in 0..3 {
        for node in 0..2 {
            if cluster.nodes[node].resource.is_some() && cluster.nodes[node].orders.is_empty() {
                cluster.command(node, Command::Secondary { force: true, wait_ms: 0 });
                cluster.command(node, Command::Down { shutdown: true });
            }
        }
        let end = cluster.in_ms(2 * super::admin::ORDER_MS);
        cluster.run_until(end, |c| c.nodes.iter().all(|n| n.resource.is_none()));
        cluster.check_orders();
    }
    for node in &cluster.nodes {
        let broken = cluster.violation.as_ref().map(|violation| &violation.text);
        assert!(broken.is_none(), "{broken:?}\n{}", cluster.states());
        assert!(node.resource.is_none(), "{} stays\n{}", node.name, cluster.states());
    }
    states.join(" | ")
}

/// What became of a node, without numbers.
fn said(node: &super::node::Node) -> String {
    let connection = node.connection();
    format!(
        "{:?} {:?} {:?} {:?}",
        connection.map(|c| c.connection_state),
        connection.map(|c| c.reason),
        node.device(0).map(|d| d.disk_state),
        node.peer_device(0).map(|p| p.replication_state),
    )
}
