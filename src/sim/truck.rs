//! A node whose disks come by truck: images of the other node's, with the metadata that
//! `restore-md --seed` makes of a dump.
//!
//! Invariants:
//! - What is planted is what the shell would write: a dump's text, parsed, made a seed, checked
//!   against the metadata of the image, and restored.

use crate::meta::{Dumped, Placement, dump, parse_dump, restore_stages};
use crate::resource::VolumeNumber;

use super::area::Area;
use super::cluster::Cluster;
use super::damage::read_meta;
use super::disk::{SECTOR, SimDisk};
use super::faults::node_id;
use super::metadata::write;

impl Cluster {
    /// The metadata of each volume of a node that is to be seeded; `None`: it would be refused.
    pub(super) fn may_seed(&self, node: usize) -> Option<Vec<Dumped>> {
        let source = &self.nodes[1 - node];
        let image = source.seed_image.as_ref().filter(|_| !source.is_foreign())?;
        let pairs = source.volumes.iter().zip(&image.volumes);
        let seeds = pairs.map(|(now, (image, geometry))| {
            let mut meta = read_meta(&now.disk, &now.geometry).ok()?;
            meta.notes.clear();
            let dumped = parse_dump(&dump(&meta, &now.geometry)).ok()?;
            let device = meta.superblock.device_uuid ^ self.now.0 | 1;
            let seed = dumped.seeded(node_id(node), device, 1, [0; 16]).ok()?;
            let came = read_meta(image, geometry).ok()?.superblock;
            let same = came.device_uuid == meta.superblock.device_uuid;
            (same && seed.starts_from(&came)).then_some(seed)
        });
        seeds.collect()
    }

    /// The daemon does not run.
    pub(super) fn plant_seed(&mut self, node: usize) {
        let (Some(seeds), Some(image)) =
            (self.may_seed(node), self.nodes[1 - node].seed_image.clone())
        else {
            return;
        };
        for (index, (mut seed, (image, _))) in seeds.into_iter().zip(image.volumes).enumerate() {
            let volume = VolumeNumber::try_from(index).expect("few volumes");
            let old = &self.nodes[node].volumes[index];
            let size = old.disk.sectors() * u64::from(SECTOR);
            let area = Area::new(old.disk.metadata().bytes());
            let placement = Placement::External { disk_size: size, meta_size: area.bytes() as u64 };
            let Ok(geometry) = seed.place(placement, self.options.al_block_sizes[node]) else {
                return self.note("the seed does not fit the disk");
            };
            let mut disk = SimDisk::new(size / u64::from(SECTOR), area);
            let sectors = disk.sectors().min(image.sectors());
            disk.write(0, image.read(0, sectors), true);
            for stage in restore_stages(&geometry, &seed) {
                write(&mut disk, &stage);
            }
            let v = &mut self.nodes[node].volumes[index];
            disk.faults.stall = v.disk.faults.stall;
            (v.disk, v.geometry, v.durable) = (disk, geometry, None);
            (v.failed, v.hung, v.bad_superblock) = (false, false, false);
            self.history.forgotten(node, volume);
            if let Some(pair) = self.pairs.get_mut(&volume) {
                pair.synced = false;
                pair.behind[node] = false;
                // The disk that was a source until now, perhaps, is gone.
                pair.taken[node] = true;
            }
        }
        self.history.excused.seeded += 1;
        self.note(&format!("{} has the image of the other node's disks", self.nodes[node].name));
    }
}
