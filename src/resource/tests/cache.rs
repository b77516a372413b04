//! What the disks of a pair have in their caches, and lose with the power.
//!
//! - A write is in the cache of its disk until a flush that began behind it has ended, or it was FUA.
//! - Metadata is durable when its write has ended; what is under way then is not there.
//! - The end of a process loses neither: the system goes on.

use std::collections::BTreeMap;

use super::pair::{Disk, Node, Pair};
use crate::meta::{MetaOp, Superblock};
use crate::resource::Tag;

/// What the metadata of a disk was before a write that is under way.
pub(super) enum Before {
    Superblock(Option<Box<Superblock>>),
    Log(Vec<(u32, Option<Vec<u64>>)>),
    Pages(Vec<(u32, Option<Vec<u64>>)>),
    Seen([u64; 2]),
}

/// What is under way on a disk, and what of its data only the cache has.
#[derive(Default)]
pub(crate) struct UnderWay {
    /// Flushes, with the blocks that they cover, as they were.
    flushes: Vec<(Tag, BTreeMap<u64, u64>)>,
    metadata: Vec<(Tag, Before)>,
}

impl Pair {
    /// The host of the node is off at once: what its disk had in its cache is gone, and it comes back
    /// under another system.
    pub(crate) fn lose_power(&mut self, n: usize) {
        self.nodes[n].power_lost = true;
        self.nodes[n].core = None;
        self.nodes[n].cache_is_lost();
        self.kill(n);
    }
}

impl Disk {
    /// A block is written; `below`: what was there.
    fn cached(&mut self, block: u64, below: u64, fua: bool) {
        if fua {
            self.cache.remove(&block);
        } else {
            self.cache.entry(block).or_insert(below);
        }
    }

    pub(super) fn put(&mut self, block: u64, value: u64, fua: bool) {
        let below = self.blocks.insert(block, value).unwrap_or(0);
        self.cached(block, below, fua);
    }

    pub(super) fn zero(&mut self, block: u64, fua: bool) {
        let below = self.blocks.remove(&block).unwrap_or(0);
        self.cached(block, below, fua);
    }
}

impl Node {
    pub(super) fn flush_begins(&mut self, tag: Tag) {
        let now = |block: &u64| self.disk.blocks.get(block).copied().unwrap_or(0);
        let covered = self.disk.cache.keys().map(|block| (*block, now(block))).collect();
        self.under_way.flushes.push((tag, covered));
    }

    /// A metadata action is about to be carried out.
    pub(super) fn metadata_begins(&mut self, tag: Tag, op: &MetaOp) {
        let disk = &self.disk;
        let before = match op {
            MetaOp::Superblock(_) => Before::Superblock(disk.superblock.clone().map(Box::new)),
            MetaOp::ActivityLog { blocks } => {
                let all = blocks.iter().map(|block| block.index);
                Before::Log(all.map(|at| (at, disk.hot.get(&at).cloned())).collect())
            }
            MetaOp::Bitmap { pages, .. } => {
                let all = pages.iter().map(|page| page.index);
                Before::Pages(all.map(|at| (at, disk.pages.get(&at).cloned())).collect())
            }
            MetaOp::SeenNumber { .. } => Before::Seen(disk.seen),
        };
        self.under_way.metadata.push((tag, before));
    }

    /// The core hears that an action on the disk has ended; `ok`: and well.
    pub(super) fn has_ended(&mut self, tag: Tag, ok: bool) {
        self.under_way.metadata.retain(|(of, _)| *of != tag);
        let Some(at) = self.under_way.flushes.iter().position(|(of, _)| *of == tag) else { return };
        let (_, covered) = self.under_way.flushes.remove(at);
        for (block, value) in covered.into_iter().filter(|_| ok) {
            let now = self.disk.blocks.get(&block).copied().unwrap_or(0);
            if now == value {
                self.disk.cache.remove(&block);
            } else if let Some(below) = self.disk.cache.get_mut(&block) {
                *below = value;
            }
        }
    }

    /// The process has ended: nobody hears of what is under way.
    pub(super) fn nobody_hears(&mut self) {
        self.under_way = UnderWay::default();
    }

    /// The power is gone, and with it all that was not durable.
    pub(in crate::resource::tests) fn cache_is_lost(&mut self) {
        let disk = &mut self.disk;
        for (_, before) in self.under_way.metadata.drain(..).rev() {
            match before {
                Before::Superblock(old) => disk.superblock = old.map(|old| *old),
                Before::Log(old) => put_back(&mut disk.hot, old),
                Before::Pages(old) => put_back(&mut disk.pages, old),
                Before::Seen(old) => disk.seen = old,
            }
        }
        for (block, below) in std::mem::take(&mut disk.cache) {
            match below {
                0 => disk.blocks.remove(&block),
                below => disk.blocks.insert(block, below),
            };
        }
    }
}

fn put_back(blocks: &mut BTreeMap<u32, Vec<u64>>, old: Vec<(u32, Option<Vec<u64>>)>) {
    for (at, old) in old {
        match old {
            Some(old) => blocks.insert(at, old),
            None => blocks.remove(&at),
        };
    }
}
