//! A pair in trouble, with clients that write down what they are told.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tandem::sim::Prng;

use crate::book::{self, Book, Duty, Instant};
use crate::common::{Outcome, at, now, until};
use crate::load::{End, Load, SLOT, Slots};
use crate::node::{CALM, Node, Options, rest_of, synced};
use crate::record::Stop;
use crate::rig::Rig;

/// Where a recording is made.
pub(crate) struct Stage {
    pub(crate) nodes: [Node; 2],
    /// Of a recording: the disks, alice's and bob's first.
    pub(crate) rigs: Vec<Rig>,
    pub(crate) growth: Growth,
    pub(crate) book: Mutex<Book>,
    pub(crate) slots: Slots,
    pub(crate) prng: Prng,
    /// See [`Load`].
    pub(crate) flushes: u64,
    /// Since when both are together.
    since: Option<u64>,
    /// From then on a pair exists.
    pub(crate) ready: u64,
}

/// Sizes, in bytes, and when they changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Growth {
    /// Disks of both nodes, from the beginning on.
    pub(crate) disks: [Vec<(Instant, u64)>; 2],
    /// The volume: when a resize was ordered and when it was done.
    pub(crate) volume: Vec<(Instant, u64)>,
}

impl Growth {
    /// Bytes of a node's disk at an instant.
    pub(crate) fn disk(&self, node: usize, cut: Instant) -> u64 {
        let there = |(when, _): &&(Instant, u64)| when.from < cut.to;
        self.disks[node].iter().rfind(there).map_or(0, |(_, size)| *size)
    }

    /// The disks at the end, and at all times before.
    pub(crate) fn sizes(&self) -> Vec<u64> {
        self.disks.iter().flatten().map(|(_, size)| *size).collect()
    }

    /// The volume has no less and no more bytes than that in a pair that is in sync.
    pub(crate) fn bounds(&self, cut: Instant) -> (u64, u64) {
        let least = self.volume.iter().filter(|(when, _)| when.to < cut.from);
        let most = self.volume.iter().filter(|(when, _)| when.from < cut.to);
        let size = |(_, size): &(Instant, u64)| *size;
        (least.map(size).max().unwrap_or(0), most.map(size).max().unwrap_or(0))
    }

    /// A resize was under way.
    pub(crate) fn is_growing(&self, cut: Instant) -> bool {
        // The first one is how the volume began.
        self.volume.iter().skip(1).any(|(when, _)| when.from < cut.to && cut.from < when.to)
    }
}

/// Where clients write on disks of this size.
pub(crate) fn slots(size: u64, of_an_extent: u64) -> Slots {
    let extent = (4 << 20) / 512;
    let room = (size - (1 << 20)) / 512;
    (0..size.div_ceil(4 << 20))
        .flat_map(|number| {
            (0..of_an_extent).map(move |slot| number * extent + slot * extent / of_an_extent)
        })
        .filter(|first| first + SLOT <= room)
        .collect()
}

/// Options of a pair that recovers as a pair of this size does.
pub(crate) const OPTIONS: Options =
    Options { net: CALM, disk: "al-extents 67; c-min-rate 100M; c-max-rate 400M;" };

impl Stage {
    pub(crate) fn new(nodes: [Node; 2], slots: Slots, seed: u64) -> Self {
        let (book, prng) = (Mutex::new(Book::default()), Prng::new(seed, 1));
        let (rigs, growth) = (Vec::new(), Growth::default());
        Self { nodes, rigs, growth, book, slots, prng, flushes: 10, since: None, ready: u64::MAX }
    }

    /// New metadata, both up and connected.
    pub(crate) fn create(&mut self) -> Outcome<()> {
        for node in &mut self.nodes {
            node.start()?;
            node.ok(&["create-md", "--force=no", "r0"])?;
            node.ok(&["up", "r0"])?;
        }
        for node in &self.nodes {
            node.ok(&["wait-connect", "--wfc-timeout", "60", "r0"])?;
        }
        Ok(())
    }

    /// The usual beginning: alice is Primary, and both are together.
    pub(crate) fn begin(&mut self) -> Outcome<()> {
        self.create()?;
        self.nodes[0].ok(&["new-current-uuid", "--clear-bitmap", "r0"])?;
        synced(&mut self.nodes)?;
        self.nodes[0].ok(&["primary", "r0"])?;
        self.ready = now();
        self.grown(0)?;
        self.together()
    }

    pub(crate) fn together(&mut self) -> Outcome<()> {
        synced(&mut self.nodes)?;
        self.since = Some(now());
        Ok(())
    }

    /// Called before anything happens that ends it.
    pub(crate) fn parted(&mut self) {
        self.parted_at(now());
    }

    /// What ends it has happened, and began at that time.
    pub(crate) fn parted_at(&mut self, at: u64) {
        if let Some(since) = self.since.take() {
            self.book.lock().expect("nobody panicked").together(since, at);
        }
    }

    /// The disks of these nodes become longer. `stale`: what is new to them was used before, and
    /// differs.
    pub(crate) fn longer(&mut self, nodes: &[usize], more: u64, stale: bool) -> Outcome<()> {
        for node in nodes {
            let disk = &mut self.growth.disks[*node];
            let size = disk.last().map_or(0, |(_, size)| *size) + more;
            let from = now();
            self.rigs[*node].grow(size)?;
            disk.push((Instant { from, to: now() }, size));
            if stale {
                let bytes = book::stale(*node, (size - more) / 512, more / 512);
                let device = &self.rigs[*node].device;
                let file = File::options().write(true).open(device).map_err(at("a disk"))?;
                file.write_all_at(&bytes, size - more).map_err(at("a disk"))?;
                file.sync_data().map_err(at("a disk"))?;
            }
        }
        Ok(())
    }

    /// Under load, a node is ordered to make the volume as large as the disks are.
    pub(crate) fn resize(&mut self, from: usize, order: &[&str], slots_of: u64) -> Outcome<()> {
        self.parted();
        let begun = now();
        self.meanwhile(0, End::Done, |nodes| {
            nodes[from].ok(order)?;
            synced(nodes)
        })?;
        self.grown(begun)?;
        let disk = self.growth.disks.iter().filter_map(|disk| disk.last().map(|(_, size)| *size));
        self.slots = slots(disk.min().unwrap_or(0), slots_of);
        self.together()
    }

    /// The volume has the size that it has since an order that was given then.
    pub(crate) fn grown(&mut self, begun: u64) -> Outcome<()> {
        let sizes = [self.nodes[0].size()?, self.nodes[1].size()?];
        let before = self.growth.volume.last().map_or(0, |(_, size)| *size);
        if sizes[0] != sizes[1] || sizes[0] <= before {
            return Err(format!("the volume had {before} bytes, and has {sizes:?}"));
        }
        self.growth.volume.push((Instant { from: begun, to: now() }, sizes[0]));
        Ok(())
    }

    pub(crate) fn primary(&self) -> Outcome<(usize, &Node)> {
        for (index, node) in self.nodes.iter().enumerate() {
            if node.runs() && node.ok(&["role", "r0"])?.starts_with("Primary") {
                return Ok((index, node));
            }
        }
        Err("nobody is Primary".to_owned())
    }

    /// So many operations through a node.
    pub(crate) fn load(&mut self, node: usize, count: u64) -> Outcome<()> {
        let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        let load = Load {
            book: &self.book,
            slots: &self.slots,
            flushes: self.flushes,
            node,
            stop: &stop,
            answered: &answered,
        };
        match load.run(&mut self.nodes[node].client()?, count, &mut self.prng)? {
            End::Done => Ok(()),
            End::Lost => Err("a client lost its connection".to_owned()),
        }
    }

    /// Does something while a client writes through a node; `end`: what becomes of the client.
    pub(crate) fn meanwhile<T>(
        &mut self,
        node: usize,
        end: End,
        what: impl FnOnce(&mut [Node; 2]) -> Outcome<T>,
    ) -> Outcome<T> {
        let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut client = self.nodes[node].client()?;
        let (book, slots, prng) = (&self.book, &self.slots, &mut self.prng);
        let nodes = &mut self.nodes;
        let flushes = self.flushes;
        let load = Load { book, slots, flushes, node, stop: &stop, answered: &answered };
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| load.run(&mut client, u64::MAX, prng));
            // Also where it panics.
            let end_of_load = Stop(&stop);
            let more = |count: u64| {
                let wanted = answered.load(Ordering::Relaxed) + count;
                until("the load goes on", || {
                    let there = answered.load(Ordering::Relaxed) >= wanted;
                    Ok((there || writer.is_finished()).then_some(()))
                })
            };
            let did = more(40).and_then(|()| what(nodes));
            let went_on = if end == End::Done { more(40) } else { Ok(()) };
            drop(end_of_load);
            let ended = writer.join().expect("it does not panic")?;
            went_on?;
            let did = did?;
            if ended == end { Ok(did) } else { Err(format!("the client: {ended:?}")) }
        })
    }

    /// Both nodes give the connection up under load, as if the network had failed.
    pub(crate) fn cut(&mut self) -> Outcome<()> {
        let at = self.meanwhile(0, End::Done, |nodes| {
            let at = now();
            for node in nodes {
                node.ok(&["disconnect", "--force", "r0"])?;
            }
            Ok(at)
        })?;
        self.parted_at(at);
        Ok(())
    }

    pub(crate) fn heal(nodes: &[Node; 2]) -> Outcome<()> {
        for node in nodes {
            node.ok(&["connect", "r0"])?;
        }
        Ok(())
    }

    /// kill -9 of a Primary under load; the other one takes over as soon as it may.
    pub(crate) fn fail_over(&mut self, from: usize) -> Outcome<()> {
        let at = self.meanwhile(from, End::Lost, |nodes| {
            let at = now();
            nodes[from].kill();
            Ok(at)
        })?;
        self.parted_at(at);
        let other = 1 - from;
        until("the other one is promoted", || {
            let lost = rest_of(&self.nodes[other])?.is_err_and(|now| now.starts_with("Connecting"));
            Ok((lost && self.nodes[other].adm(&["primary", "r0"])?.code == 0).then_some(()))
        })?;
        // A while without a flush: what it had from the other one must be durable all the same.
        let flushes = std::mem::take(&mut self.flushes);
        self.load(other, 40)?;
        self.flushes = flushes;
        self.load(other, 60)
    }

    /// Every answered write is there, read through this node.
    pub(crate) fn nothing_is_lost(&mut self, node: usize) -> Outcome<()> {
        let mut client = self.nodes[node].client()?;
        let book = self.book.lock().expect("nobody panicked");
        let now = now();
        for slot in &self.slots {
            let bytes = client.read(slot * 512, SLOT as u32 * 512).map_err(at("a read"))?;
            book.check(*slot, &bytes, (Duty::Answered, Instant { from: now, to: now }))?;
        }
        Ok(())
    }
}
