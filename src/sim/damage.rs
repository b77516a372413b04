//! What goes wrong with disks: errors, stalls, metadata that goes bad, and disks that are not the
//! ones that they were.
//!
//! Invariants:
//! - What a disk has lost is forgotten by the checkers when it is lost, and counted; from then on
//!   they hold it to everything again.
//! - A disk is set back only to an image that its number gives away: docs/ON_DISK.md, "What this does
//!   not see".

use crate::meta::{Geometry, MetaError, load};
use crate::resource::VolumeNumber;

use super::cluster::{Cluster, Happening};
use super::disk::{DiskFaults, SimDisk, Stall};
use super::faults::{Fault, MetaPart, Struck, node_id};
use super::metadata::{create, meta_reader};
use super::node::{DiskOp, DiskOpKind, Image};
use super::prng::Prng;

impl Cluster {
    pub(super) fn hurt_disk(&mut self, fault: &Fault, struck: Struck) {
        match *fault {
            Fault::StallDisk { node, for_ms, flushes } => {
                self.stall(node, struck.volume, for_ms, flushes)
            }
            Fault::CorruptMeta { node, part, chance } => self.corrupt(node, part, chance),
            Fault::Image { node } => self.take_image(node),
            Fault::RollBack { node, off_ms } => {
                if self.may_roll_back(node, struck) {
                    self.lose_power(node, off_ms);
                    self.roll_back(node, struck);
                }
            }
            Fault::SeedImage { node } => {
                if !self.nodes[node].is_foreign() {
                    self.nodes[node].seed_image = Some(self.image_of(node));
                }
            }
            Fault::Seed { node, off_ms } => {
                let foreign = self.nodes[node].is_foreign();
                if self.nodes[node].host_up && !foreign && self.may_seed(node).is_some() {
                    self.lose_power(node, off_ms);
                    self.plant_seed(node);
                }
            }
            Fault::ReplaceDisk { node, off_ms } => {
                if self.nodes[node].host_up && !self.nodes[node].is_foreign() {
                    self.lose_power(node, off_ms);
                    for volume in struck.taken(self.options.volumes) {
                        self.replace_disk(node, volume);
                        self.fencing_forgets(node, volume);
                    }
                }
            }
            Fault::SwapDisks { off_ms, for_ms } => {
                if !self.nodes[0].is_foreign() {
                    self.lose_power(0, off_ms);
                    self.lose_power(1, off_ms + 37);
                    self.swap_disks(struck);
                    let at = self.in_ms(off_ms + for_ms);
                    self.at(at, Happening::SwapBack);
                }
            }
            Fault::FullBoth { for_ms, share } => {
                for (node, for_ms) in for_ms.into_iter().enumerate() {
                    self.faults_of(node, struck.volume).full = share;
                    let at = self.in_ms(for_ms);
                    self.at(at, Happening::DiskWell { node });
                }
            }
            _ => self.fail_disk(fault, struck.volume),
        }
    }

    fn faults_of(&mut self, node: usize, volume: VolumeNumber) -> &mut DiskFaults {
        &mut self.nodes[node].volumes[usize::from(volume)].disk.faults
    }

    /// Errors, and slowness.
    fn fail_disk(&mut self, fault: &Fault, volume: VolumeNumber) {
        let (Fault::SlowDisk { node, .. }
        | Fault::DeadDisk { node }
        | Fault::WriteError { node }
        | Fault::ReadError { node }
        | Fault::FlushError { node }
        | Fault::MetaError { node }
        | Fault::Flaky { node, .. }
        | Fault::Full { node, .. }) = *fault
        else {
            return;
        };
        let faults = self.faults_of(node, volume);
        match fault {
            Fault::DeadDisk { .. } => faults.dead = true,
            Fault::WriteError { .. } => faults.write_fails = true,
            Fault::ReadError { .. } => faults.read_fails = true,
            Fault::FlushError { .. } => faults.flush_fails = true,
            Fault::MetaError { .. } => faults.meta_fails = true,
            Fault::SlowDisk { for_ms, latency_ms, .. } => {
                faults.slow_ms = *latency_ms;
                let at = self.in_ms(*for_ms);
                self.at(at, Happening::DiskWell { node });
            }
            Fault::Flaky { for_ms, share, .. } => {
                faults.flaky = *share;
                let at = self.in_ms(*for_ms);
                self.at(at, Happening::DiskWell { node });
            }
            Fault::Full { for_ms, .. } => {
                faults.full = 100;
                let at = self.in_ms(*for_ms);
                self.at(at, Happening::DiskWell { node });
            }
            _ => {}
        }
    }

    pub(super) fn stall(&mut self, node: usize, volume: VolumeNumber, for_ms: u64, flushes: bool) {
        let until = self.in_ms(for_ms);
        let stall = if flushes { Stall::Flushes } else { Stall::All };
        self.faults_of(node, volume).stall = Some(stall);
        self.nodes[node].stalled_until = until;
        self.at(until, Happening::Unstall { node });
    }

    /// The disk keeps this action to itself for now.
    pub(super) fn is_stalled(&self, node: usize, op: &DiskOp) -> bool {
        match self.nodes[node].volumes[usize::from(op.volume)].disk.faults.stall {
            None => false,
            Some(Stall::All) => true,
            Some(Stall::Flushes) => matches!(
                op.kind,
                DiskOpKind::Flush(_) | DiskOpKind::Meta(..) | DiskOpKind::Write { fua: true, .. }
            ),
        }
    }

    /// A stall is over, if no later one has begun; by `force` in any case.
    pub(super) fn unstall(&mut self, node: usize, force: bool) {
        let n = &mut self.nodes[node];
        if self.now < n.stalled_until && !force {
            return;
        }
        n.stalled_until = n.stalled_until.min(self.now);
        self.disturbed = self.disturbed.max(self.now);
        let life = n.life;
        let mut kept = Vec::new();
        for volume in &mut n.volumes {
            volume.disk.faults.stall = None;
            kept.append(&mut volume.stalled);
        }
        for tag in kept {
            let pause = self.chance.disk.range(20, 20_000) * 1000;
            self.after(pause, Happening::Disk { node, life, tag });
        }
    }

    fn corrupt(&mut self, node: usize, part: MetaPart, chance: u64) {
        let prng = &mut Prng::new(chance, 1);
        let index = prng.index(usize::from(self.options.volumes));
        let volume = &mut self.nodes[node].volumes[index];
        let g = &volume.geometry;
        let log = u64::from(g.al_block_size);
        let places = match part {
            MetaPart::SuperblockA => vec![(g.superblocks[0], 4096)],
            MetaPart::SuperblockB => vec![(g.superblocks[1], 4096)],
            MetaPart::Superblocks => g.superblocks.map(|at| (at, 4096)).to_vec(),
            MetaPart::ActivityLog => {
                let block = u32::try_from(prng.below(u64::from(g.al_blocks))).unwrap_or(0);
                vec![(g.al_block_offset(block), log)]
            }
            MetaPart::Bitmap => {
                let page = u32::try_from(prng.below(u64::from(g.bitmap_pages))).unwrap_or(0);
                vec![(g.bitmap_page_offset(0, page), 4096)]
            }
            MetaPart::SeenNumber => {
                vec![(g.seen_offset(0, u8::from(prng.percent(50))), log)]
            }
        };
        volume.bad_superblock |=
            matches!(part, MetaPart::SuperblockA | MetaPart::SuperblockB | MetaPart::Superblocks);
        for (offset, length) in places {
            go_bad(&mut volume.disk, prng, offset, length);
        }
    }

    fn take_image(&mut self, node: usize) {
        if self.nodes[node].is_foreign() {
            return;
        }
        self.nodes[node].image = Some(self.image_of(node));
    }

    pub(super) fn image_of(&self, node: usize) -> Image {
        let volumes = self.nodes[node].volumes.iter();
        let volumes = volumes.map(|v| (v.disk.image(), v.geometry)).collect();
        Image { volumes, taken: self.history.now() }
    }

    /// There is an image, and for each disk that is to be set back the other node remembers a higher number than the image
    /// carries; and it is not the other node that was set back.
    fn may_roll_back(&self, node: usize, struck: Struck) -> bool {
        let n = &self.nodes[node];
        let other = &self.nodes[1 - node];
        let Some(image) = n.image.as_ref().filter(|_| n.host_up && !n.is_foreign()) else {
            return false;
        };
        struck.taken(self.options.volumes).all(|volume| {
            let index = usize::from(volume);
            let (old, geometry) = &image.volumes[index];
            let theirs = &other.volumes[index];
            let known = self.pairs.get(&volume).is_some_and(|pair| !pair.behind[1 - node]);
            let seen = seen_number(&theirs.disk, &theirs.geometry, node, geometry.device_uuid);
            let same = geometry.device_uuid == n.volumes[index].geometry.device_uuid;
            let number = read_meta(old, geometry).ok().and_then(|meta| meta.number);
            same && known && number.zip(seen).is_some_and(|(number, seen)| number < seen)
        })
    }

    /// The disks, or one, are as they were when the image was taken. The daemon does not run.
    fn roll_back(&mut self, node: usize, struck: Struck) {
        let Some(image) = self.nodes[node].image.clone() else { return };
        let taken = struck.taken(self.options.volumes);
        for (volume, (disk, geometry)) in (0..).zip(image.volumes) {
            if !taken.contains(&volume) {
                continue;
            }
            let v = &mut self.nodes[node].volumes[usize::from(volume)];
            v.durable = read_meta(&disk, &geometry).ok().map(|meta| meta.superblock);
            let mut disk = disk;
            super::metadata::keep_size(&mut disk, &v.disk);
            (v.disk, v.geometry) = (disk, geometry);
            (v.failed, v.hung) = (false, false);
            self.history.rolled_back(node, volume, &v.disk, image.taken);
            self.fencing_is_set_back(node, volume);
            if let Some(pair) = self.pairs.get_mut(&volume) {
                pair.synced = false;
                pair.behind[node] = true;
            }
        }
        self.note(&format!("{}'s disks are set back", self.nodes[node].name));
    }

    /// The disk is another one, with fresh metadata. It is not attached.
    pub(super) fn replace_disk(&mut self, node: usize, volume: VolumeNumber) {
        let device = self.chance.seeds.next() | 1;
        let was = &self.nodes[node].volumes[usize::from(volume)].disk;
        let size = self.options.sizes[node].max(was.sectors() * 512);
        let block = self.options.al_block_sizes[node];
        // A used disk, or a new one.
        let found = if device & 2 == 0 { "blank" } else { "ext4 \"old\"" };
        let (mut disk, geometry) = create(node_id(node), volume, size, block, device, found)
            .expect("a simulated disk has room for its metadata");
        let old = &mut self.nodes[node].volumes[usize::from(volume)];
        disk.faults = DiskFaults { stall: old.disk.faults.stall, ..DiskFaults::default() };
        (old.disk, old.geometry, old.durable) = (disk, geometry, None);
        (old.failed, old.bad_superblock) = (false, false);
        self.history.forgotten(node, volume);
        if let Some(pair) = self.pairs.get_mut(&volume) {
            pair.synced = false;
            pair.behind[node] = false;
            pair.taken[node] = true;
        }
        self.note(&format!("{}'s disk {volume} is a new one", self.nodes[node].name));
    }

    /// Each node has the other one's disks, all or one. No daemon runs.
    fn swap_disks(&mut self, struck: Struck) {
        let taken = struck.taken(self.options.volumes);
        let [a, b] = &mut self.nodes;
        for (volume, (a, b)) in (0..).zip(a.volumes.iter_mut().zip(&mut b.volumes)) {
            if !taken.contains(&volume) {
                continue;
            }
            std::mem::swap(a, b);
            for volume in [a, b] {
                volume.foreign = !volume.foreign;
                volume.disk.faults = DiskFaults::default();
            }
        }
        self.note("the disks of both nodes are exchanged");
    }

    /// The disks are put back where they belong, if they are not there.
    pub(super) fn swap_back(&mut self) {
        if !self.nodes[0].is_foreign() {
            return;
        }
        for node in 0..2 {
            self.lose_power(node, 1_000);
        }
        for volume in 0..self.options.volumes {
            if self.nodes[0].volumes[usize::from(volume)].foreign {
                self.swap_disks(Struck { volume, alone: true });
            }
        }
    }
}

/// A block goes bad: a bit flips, or a sector is lost, or all of it.
fn go_bad(disk: &mut SimDisk, prng: &mut Prng, offset: u64, length: u64) {
    let start = usize::try_from(offset).expect("a simulated disk is small");
    let length = usize::try_from(length).expect("a block");
    let mut block = disk.metadata().read(start, length);
    match prng.below(3) {
        0 => block[prng.index(length)] ^= 1 << prng.below(8),
        1 => {
            let first = prng.index(length / 512) * 512;
            block[first..first + 512].fill_with(|| prng.next().to_le_bytes()[0]);
        }
        _ => block.fill(0),
    }
    disk.write_metadata(offset, &block);
}

pub(super) fn read_meta(
    disk: &SimDisk,
    geometry: &Geometry,
) -> Result<crate::meta::LoadedMeta, MetaError> {
    load(geometry, &mut meta_reader(disk), [0; 16])
}

/// The number that a disk remembers of the other node's disk, this one.
fn seen_number(disk: &SimDisk, geometry: &Geometry, of: usize, device: u64) -> Option<u64> {
    let meta = read_meta(disk, geometry).ok()?;
    let is = |slot: &crate::meta::PeerSlot| {
        slot.node_id == Some(node_id(of)) && slot.device_uuid == device
    };
    let at = meta.superblock.peers.iter().position(is)?;
    meta.slots[at].seen_number
}

#[cfg(test)]
mod tests {
    use super::{Struck, go_bad, read_meta, seen_number};
    use crate::sim::admin::PendingOrder;
    use crate::sim::cluster::Cluster;
    use crate::sim::faults::{Fault, Order};
    use crate::sim::metadata::create;
    use crate::sim::options::SimOptions;
    use crate::sim::prng::Prng;

    fn two_volumes() -> Cluster {
        let mut options = SimOptions::of_seed(1);
        (options.volumes, options.plan) = (2, Vec::new());
        let mut c = Cluster::new(options, 0);
        c.come_up();
        assert!(c.violation.is_none(), "{:?}", c.violation);
        c
    }

    #[test]
    fn errors_stalls_and_orders_strike_the_volume_that_was_drawn() {
        for volume in [0, 1] {
            let mut c = two_volumes();
            let is_struck = |c: &Cluster, what: fn(&super::DiskFaults) -> bool| {
                [0, 1].map(|v: usize| what(&c.nodes[0].volumes[v].disk.faults))
            };
            let only = [volume == 0, volume == 1];
            c.hurt_disk(&Fault::DeadDisk { node: 0 }, Struck::of(volume));
            assert_eq!(is_struck(&c, |faults| faults.dead), only);
            let stall = Fault::StallDisk { node: 0, for_ms: 1, flushes: false };
            c.hurt_disk(&stall, Struck::of(volume));
            assert_eq!(is_struck(&c, |faults| faults.stall.is_some()), only);
            c.hurt_disk(&Fault::FullBoth { for_ms: [1, 1], share: 5 }, Struck::of(volume));
            assert_eq!(is_struck(&c, |faults| faults.full == 5), only);
            c.give(1, Order::Detach, volume);
            let name = format!("volume: {volume}");
            let named = |order: &PendingOrder| format!("{:?}", order.command).contains(&name);
            assert!(c.nodes[1].orders.values().any(named), "{:?}", c.nodes[1].orders);
        }
    }

    #[test]
    fn what_takes_the_disks_of_a_node_takes_all_or_one() {
        let devices = |c: &Cluster, node: usize| {
            [0, 1].map(|v: usize| c.nodes[node].volumes[v].geometry.device_uuid)
        };
        let same = |a: [u64; 2], b: [u64; 2]| [a[0] == b[0], a[1] == b[1]];
        for (struck, kept) in [
            (Struck::of(1), [false, false]),
            (Struck { volume: 0, alone: true }, [false, true]),
            (Struck { volume: 1, alone: true }, [true, false]),
        ] {
            let mut c = two_volumes();
            let before = [0, 1].map(|node| devices(&c, node));
            c.hurt_disk(&Fault::SwapDisks { off_ms: 10, for_ms: 10 }, struck);
            assert_eq!(same(devices(&c, 0), before[0]), kept);
            assert_eq!(same(devices(&c, 0), before[1]), kept.map(|kept| !kept));
            c.swap_back();
            assert_eq!([0, 1].map(|node| devices(&c, node)), before);
            c.restart(0);
            c.hurt_disk(&Fault::ReplaceDisk { node: 0, off_ms: 10 }, struck);
            assert_eq!(same(devices(&c, 0), before[0]), kept);
        }
    }

    #[test]
    fn a_block_that_goes_bad_is_not_read_as_whole() {
        for seed in 0..50 {
            let (mut disk, geometry) = create(1, 0, 8 << 20, 512, 77, "blank").unwrap();
            let prng = &mut Prng::new(seed, 1);
            go_bad(&mut disk, prng, geometry.al_block_offset(0), 512);
            assert_eq!(read_meta(&disk, &geometry).unwrap().number, None, "seed {seed}");
            for copy in geometry.superblocks {
                assert!(read_meta(&disk, &geometry).is_ok());
                go_bad(&mut disk, prng, copy, 4096);
            }
            assert!(read_meta(&disk, &geometry).is_err(), "seed {seed}");
        }
    }

    #[test]
    fn a_fresh_disk_remembers_no_number() {
        let (disk, geometry) = create(1, 0, 8 << 20, 512, 77, "blank").unwrap();
        assert_eq!(seen_number(&disk, &geometry, 0, 78), None);
    }
}
