//! Online verify: when it is ordered, what it says of each block, and blocks that are falsified.
//!
//! Invariants:
//! - A block is said to differ exactly if it does: the VerifyT's contents when it sends its digests
//!   are compared with the VerifyS's when it sends its result, and no write is under way there.
//! - The same of a resync that compares: no write is under way where the source has answered with
//!   digests, nor where the target has compared, and neither disk has changed between the two.
//! - After a verify over a falsified block both nodes have marked it, and nothing else, also when two
//!   Secondaries have lost and found each other; a repair makes the disks equal.

use crate::resource::{Command, ReplicationState, Role, VolumeNumber};
use crate::wire::Packet;

use super::admin::ORDER_MS;
use super::cluster::Cluster;
use super::disk::Sector;
use super::faults::{Fault, Order, Planned, node_id};
use super::prng::Prng;

/// Sectors of a block.
const BLOCK: u64 = 8;

/// A piece that is being compared.
#[derive(Clone, Debug)]
pub(super) struct Compared {
    volume: VolumeNumber,
    /// First sector and count.
    start: u64,
    count: u64,
    /// What the VerifyT, or the source of a resync, had when it sent its digests.
    theirs: Vec<Sector>,
}

/// Adds orders to verify; none in half of the seeds.
pub(super) fn verifies(p: &mut Prng, length_ms: u64, plan: &mut Vec<Planned>) {
    if p.percent(50) {
        return;
    }
    for _ in 0..p.skewed(1, 8) {
        let order = match p.below(8) {
            0 => Order::VerifyStop,
            1 => Order::Repair,
            2 => Order::VerifyPart,
            _ => Order::Verify,
        };
        let fault = Fault::Order { node: p.index(2), order };
        plan.push(Planned::new(p.below(length_ms), None, fault));
    }
    plan.sort_by_key(|planned| planned.at_ms);
}

impl Cluster {
    /// A packet leaves a node.
    pub(super) fn watch_verify(&mut self, node: usize, packet: &Packet) {
        match packet {
            Packet::VerifyRequest { volume, sequence, offset, length }
            | Packet::DigestRequest { volume, sequence, offset, length, .. } => {
                let (start, count) = (offset / 512, u64::from(*length) / 512);
                let piece = Compared { volume: *volume, start, count, theirs: Vec::new() };
                self.compared.insert((node, *sequence), piece);
            }
            Packet::VerifyDigests { volume, sequence, .. }
            | Packet::DigestAnswer { volume, sequence, .. } => {
                let Some(mut piece) = self.compared.remove(&(1 - node, *sequence)) else { return };
                self.check_no_write(node, &piece);
                let disk = &self.nodes[node].volumes[usize::from(*volume)].disk;
                piece.theirs = disk.read(piece.start, piece.count).to_vec();
                self.compared.insert((1 - node, *sequence), piece);
            }
            Packet::VerifyResult { sequence, differing, .. } => {
                let Some(piece) = self.compared.remove(&(node, *sequence)) else { return };
                self.check_no_write(node, &piece);
                self.check_result(node, &piece, differing);
            }
            // What is copied is not compared: the number may be one of an earlier session.
            Packet::ResyncRequest { sequence, .. } | Packet::HoleRequest { sequence, .. } => {
                self.compared.remove(&(node, *sequence));
            }
            Packet::ResyncAck { sequence, .. } => {
                let Some(piece) = self.compared.remove(&(node, *sequence)) else { return };
                // Whose session is over on the source has its writes in the bits of that one.
                let source = self.nodes[1 - node].peer_device(piece.volume);
                let sources = [ReplicationState::SyncSource, ReplicationState::PausedSyncS];
                let is_source = source.is_some_and(|p| sources.contains(&p.replication_state));
                if piece.theirs.is_empty() || !is_source {
                    return;
                }
                for n in 0..2 {
                    self.check_no_write(n, &piece);
                }
                let source = &self.nodes[1 - node].volumes[usize::from(piece.volume)].disk;
                if source.read(piece.start, piece.count) != piece.theirs.as_slice() {
                    let name = self.nodes[1 - node].name;
                    self.violate(format!(
                        "{name} writes sectors from {} while they are compared",
                        piece.start
                    ));
                }
            }
            _ => {}
        }
    }

    fn check_no_write(&mut self, node: usize, piece: &Compared) {
        let end = piece.start + piece.count;
        let overlaps = |op: &super::node::DiskOp| {
            op.volume == piece.volume
                && op.written().is_some_and(|(s, count)| s < end && piece.start < s + count)
        };
        if self.nodes[node].ops.values().any(overlaps) {
            let name = self.nodes[node].name;
            self.violate(format!("{name} compares sectors from {} under a write", piece.start));
        }
    }

    fn check_result(&mut self, node: usize, piece: &Compared, differing: &[u64]) {
        let disk = &self.nodes[node].volumes[usize::from(piece.volume)].disk;
        let own = disk.read(piece.start, piece.count);
        let blocks = own.chunks(BLOCK as usize).zip(piece.theirs.chunks(BLOCK as usize));
        let wrong = (0..).zip(blocks).find(|(block, (own, theirs))| {
            let said = differing[block / 64] >> (block % 64) & 1 == 1;
            said != (own != theirs)
        });
        if let Some((block, (own, theirs))) = wrong {
            let what = if own == theirs { "equal: a false alarm" } else { "different: missed" };
            let sector = piece.start + block as u64 * BLOCK;
            self.violate(format!("verify is wrong: sector {sector} is {what}"));
        }
        self.history.excused.compared += piece.count / BLOCK;
    }

    /// Nobody is Primary, the link is lost and comes back: the marks stay, and nothing is copied.
    fn part_and_meet(&mut self, node: usize) {
        for node in 0..2 {
            self.command(node, Command::Secondary { force: false, wait_ms: 0 });
        }
        let over = |c: &Self| c.nodes.iter().all(|node| node.orders.is_empty());
        self.run_until(self.in_ms(ORDER_MS), over);
        for place in self.net.open_links(node) {
            self.abort(place, false);
        }
        self.run_until(self.in_ms(500), |_| false);
        self.run_until(self.in_ms(60_000), Self::all_established);
    }

    /// Falsifies blocks behind a daemon's back, in some seeds: verify finds them, repair mends them.
    pub(super) fn falsify(&mut self) {
        let p = &mut Prng::new(self.options.seed, 11);
        if self.violation.is_some() || p.percent(50) {
            return;
        }
        let role = |n: usize| self.nodes[n].status.as_ref().map(|status| status.role);
        let bad = match (role(0), role(1)) {
            (Some(Role::Primary), _) => 1,
            (_, Some(Role::Primary)) => 0,
            _ => p.index(2),
        };
        let volumes = usize::from(self.options.volumes);
        let index = Prng::new(self.options.seed, 31).index(volumes);
        let volume = VolumeNumber::try_from(index).expect("few volumes");
        let blocks = self.nodes[0].device(volume).map_or(1, |device| device.size / 4096);
        let count = p.skewed(1, 40);
        let first = p.below(blocks - count.min(blocks - 1));
        let disk = &mut self.nodes[bad].volumes[index].disk;
        for block in first..first + count {
            let sector = block * BLOCK + p.below(BLOCK);
            let value = disk.read(sector, 1)[0] ^ 1 << p.below(60);
            disk.write(sector, &[value], true);
            self.history.falsified(bad, volume, sector);
        }
        self.falsified = Some(volume);
        let name = self.nodes[bad].name;
        self.note(&format!("{count} blocks of {name} are falsified"));
        let node = p.index(2);
        let peer = node_id(1 - node);
        self.command(node, Command::Verify { volume, peer, start: None, stop: None });
        let over = move |c: &Self| {
            c.nodes[node].orders.is_empty()
                && c.nodes.iter().all(|n| {
                    n.peer_device(volume).is_some_and(|peer| {
                        peer.replication_state == ReplicationState::Established
                            && peer
                                .last_verify
                                .as_ref()
                                .is_some_and(|last| last.found == count * 4096 && last.done)
                    })
                })
        };
        self.run_until(self.in_ms(600_000), over);
        if self.violation.is_none() && !over(self) {
            return self.violate("a verify does not find what was falsified".to_owned());
        }
        if p.percent(50) {
            self.part_and_meet(p.index(2));
        }
        let marked = move |c: &Self, n: usize| {
            let status = c.nodes[n].resource.as_ref().map(|resource| resource.status(c.now));
            status.map_or(0, |status| status.connections[0].peer_devices[index].out_of_sync)
        };
        for n in 0..2 {
            if self.violation.is_none() && marked(self, n) != count * 4096 {
                let name = self.nodes[n].name;
                let text = format!("{name} has marked {} bytes of {count} blocks", marked(self, n));
                return self.violate(text);
            }
        }
        let (node, from) = (p.index(2), node_id(1 - bad));
        let peer = node_id(1 - node);
        let repair = Command::Repair { volume, peer, from };
        let mended = move |c: &Self| c.all_established() && marked(c, 0) + marked(c, 1) == 0;
        if self.options.core.disk_timeout_ms == 0 && Prng::new(self.options.seed, 19).one_in(8) {
            // The disk that is to go does not answer in time; the order is carried out later, or anew.
            self.stall(bad, volume, ORDER_MS + 5_000, true);
            self.command(node, repair.clone());
            self.run_until(self.in_ms(ORDER_MS + 10_000), |_| false);
            self.run_until(self.in_ms(60_000), |c| c.is_established(volume) || mended(c));
        }
        if !mended(self) {
            self.command(node, repair);
        }
        self.run_until(self.in_ms(ORDER_MS), move |c| c.nodes[node].orders.is_empty());
        self.run_until(self.in_ms(600_000), mended);
        if self.violation.is_none() && !mended(self) {
            self.violate("a repair does not end".to_owned());
        }
        self.falsified = None;
    }
}
