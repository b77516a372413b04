//! One power loss: the images that it leaves, and what real daemons make of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nbd::client::Client;
use nix::unistd::{Whence, lseek};
use tandem::sim::Prng;

use crate::book::{Duty, Instant};
use crate::common::{Outcome, at, folder, text};
use crate::image::{Cache, build};
use crate::load::SLOT;
use crate::node::{Node, Rest, pair, settle, synced, tails};
use crate::record::{META_SIZE, Recording};
use crate::sampler::Cut;
use crate::stage::OPTIONS;
use crate::state::{Note, restore};

/// Images by their names.
const IMAGES: [&str; 4] = ["alice.img", "bob.img", "alice-meta.img", "bob-meta.img"];

/// Where nothing else is written, bytes: what a promoted node writes to begin a line of its own.
const PROBE: u64 = 64 * 1024;

/// What a point has come to, for the table.
pub(crate) struct Played {
    pub(crate) end: String,
    /// Sectors that had to hold something.
    pub(crate) owed: u64,
    /// What else happened: for counts.
    pub(crate) met: Vec<&'static str>,
}

/// Plays one point in a folder of its own.
pub(crate) fn play(recording: &Recording, dir: &Path, seed: u64) -> Outcome<Played> {
    let prng = &mut Prng::new(seed, 2);
    // At any instant, where metadata was being written, when the nodes had just lost each other, or
    // while the volume grew.
    let kind = prng.below(4);
    let fits =
        |cut: &&Cut| kind == 1 && cut.tender || kind == 2 && cut.lost || kind == 3 && cut.grows;
    let mut cuts: Vec<&Cut> = recording.cuts.iter().filter(fits).collect();
    if cuts.is_empty() {
        cuts = recording.cuts.iter().collect();
    }
    let cut = cuts[usize::try_from(prng.below(cuts.len() as u64)).unwrap_or(0)];
    folder(dir.to_owned())?;
    let caches = draw_caches(prng);
    let states = [0, 1].map(|node: usize| recording.states[node][cut.states[node]].clone());
    let mut met = Vec::new();
    let mut left = Left { disks: Vec::new(), sizes: Vec::new(), states };
    for (index, log) in recording.logs.iter().enumerate() {
        let disk = dir.join(IMAGES[index]);
        let mut size = if index < 2 { recording.growth.disk(index, cut.when) } else { META_SIZE };
        build(&disk, (size, None), (log, cut.entries[index]), caches[index % 2], prng)?;
        if index < 2 && left.states[index].is_some() && prng.one_in(6) {
            // It was made longer while everything was dark.
            met.push("disks longer than before");
            size += 8 << 20;
            let file = File::options().write(true).open(&disk).map_err(at("an image"))?;
            file.set_len(size).map_err(at("an image"))?;
        }
        left.disks.push(disk);
        left.sizes.push(size);
    }
    if cut.grows {
        met.push("cuts of a resize");
    }
    let early = cut.when.from < recording.ready;
    let mut point = Point { recording, cut: cut.when, prng, owed: 0, alone: "", probed: false };
    let mut label = "";
    if !early && point.prng.one_in(3) {
        point.images(&left)?;
        label = "twice; ";
        met.push("second power losses");
        left = point.again(dir, left).map_err(|error| {
            format!("{} cut at {:?}, seed {seed}, recovery: {error}", recording.name, cut.entries)
        })?;
    }
    let mut nodes = left.pair(&dir.join("last"))?;
    let end = if early { early_end(&mut nodes) } else { point.play(&mut nodes, &left) };
    let (owed, alone) = (point.owed, point.alone);
    let end = end.map_err(|error| {
        format!(
            "{} cut at {:?} ({:?}), {caches:?}, {label}{alone}seed {seed}, in {}: {error}\n{}",
            recording.name,
            cut.entries,
            cut.when,
            text(dir),
            tails(&nodes)
        )
    })?;
    the_end(&mut nodes)?;
    Ok(Played { end: format!("{label}{end}"), owed, met })
}

/// Both daemons end, and never panicked.
pub(crate) fn the_end(nodes: &mut [Node; 2]) -> Outcome<()> {
    for node in nodes {
        node.kill();
        if node.log().contains("panicked") {
            return Err(format!("{} panicked, in {}", node.name, text(&node.dir)));
        }
    }
    Ok(())
}

/// What becomes of the caches of both nodes: of one of five, it was the daemon only that died.
pub(crate) fn draw_caches(prng: &mut Prng) -> [Cache; 2] {
    let mut caches = [Cache::Kept; 2];
    let who = prng.below(10);
    for (node, cache) in (0..).zip(&mut caches) {
        if who != node {
            let percents = [0, 10, 50, 90];
            *cache = Cache::Lost(percents[usize::try_from(prng.below(4)).unwrap_or(0)]);
        }
    }
    caches
}

/// What a power loss has left.
pub(crate) struct Left {
    /// Of alice's and bob's data; of their metadata, where that has disks of its own.
    pub(crate) disks: Vec<PathBuf>,
    /// Of each, bytes.
    pub(crate) sizes: Vec<u64>,
    /// What the state folders have.
    pub(crate) states: [Option<Note>; 2],
}

impl Left {
    /// A pair on the images.
    fn pair(&self, dir: &Path) -> Outcome<[Node; 2]> {
        let disks: Vec<&Path> = self.disks.iter().map(PathBuf::as_path).collect();
        self.pair_on(dir, &disks)
    }

    /// A pair on disks that hold what the images hold.
    pub(crate) fn pair_on(&self, dir: &Path, disks: &[&Path]) -> Outcome<[Node; 2]> {
        let nodes = pair(dir, disks, &OPTIONS)?;
        for (node, state) in nodes.iter().zip(&self.states) {
            restore(&node.dir, state.as_ref(), &node.disk)?;
        }
        Ok(nodes)
    }
}

/// There may be no metadata yet, or half of it: it is refused, or taken; nobody falls over.
fn early_end(nodes: &mut [Node; 2]) -> Outcome<String> {
    for node in nodes {
        node.start()?;
        let said = node.adm(&["up", "r0"])?;
        if !matches!(said.code, 0 | 10) {
            return Err(format!("up: {said:?}"));
        }
        node.lives()?;
    }
    Ok("before the pair existed".to_owned())
}

/// A point that is played.
pub(crate) struct Point<'a> {
    pub(crate) recording: &'a Recording,
    pub(crate) cut: Instant,
    pub(crate) prng: &'a mut Prng,
    owed: u64,
    /// A node was promoted without its peer, and what it did.
    pub(crate) alone: &'static str,
    /// It wrote, durably.
    pub(crate) probed: bool,
}

impl Point<'_> {
    fn play(&mut self, nodes: &mut [Node; 2], left: &Left) -> Outcome<String> {
        self.images(left)?;
        let first = usize::from(self.prng.one_in(2));
        let mut alone = "";
        nodes[first].start_up()?;
        // Two that are promoted alone, one after the other, are a split brain by order.
        if self.prng.percent(60) && !self.alone.starts_with("promoted") {
            alone = self.alone(&nodes[first])?;
        }
        nodes[1 - first].start_up()?;
        let again = if self.prng.one_in(4) { self.stumble(nodes)? } else { "" };
        let end = match settle(nodes)? {
            Rest::InSync => self.in_sync(nodes, left)?,
            Rest::Refused(reason) => self.refused(nodes, &reason)?,
        };
        Ok(format!("{alone}{again}{end}"))
    }

    /// What the disks must hold, whoever looks.
    pub(crate) fn images(&mut self, left: &Left) -> Outcome<()> {
        for (node, name) in ["alice", "bob"].iter().enumerate() {
            let file = File::open(&left.disks[node]).map_err(at("an image"))?;
            // Behind the volume there may be metadata, and nobody has written.
            let (size, _) = self.recording.growth.bounds(self.cut);
            self.check(Duty::Disk(node), size, |offset, bytes| {
                file.read_exact_at(bytes, offset).map_err(at("an image"))
            })
            .map_err(|error| format!("the image of {name}: {error}"))?;
        }
        Ok(())
    }

    /// One daemon or both die while they recover, wherever they are by then.
    fn stumble(&mut self, nodes: &mut [Node; 2]) -> Outcome<&'static str> {
        std::thread::sleep(Duration::from_millis(self.prng.below(60)));
        let victims = self.prng.range(1, 3);
        let died = |index: usize| victims & (1 << index) != 0;
        (0..2).filter(|index| died(*index)).for_each(|index| nodes[index].kill());
        for index in (0..2).filter(|index| died(*index)) {
            nodes[index].start_up()?;
        }
        Ok("killed and started again; ")
    }

    /// Promotes a node whose peer is away, if it may be, and lets it write sometimes.
    pub(crate) fn alone(&mut self, node: &Node) -> Outcome<&'static str> {
        let said = node.adm(&["primary", "r0"])?;
        self.alone = match said.code {
            0 => "promoted alone; ",
            17 => "not promoted alone; ",
            _ => return Err(format!("primary: {said:?}")),
        };
        if said.code == 17 {
            return Ok(self.alone);
        }
        let own = usize::from(node.name == "bob");
        let duties = [Duty::Disk(own), Duty::Survivor];
        self.through(node, &duties).map_err(|error| format!("promoted alone: {error}"))?;
        if self.prng.one_in(2) {
            return Ok(self.alone);
        }
        probe(&mut node.client()?)?;
        self.probed = true;
        self.alone = "promoted alone, wrote; ";
        Ok(self.alone)
    }

    fn in_sync(&mut self, nodes: &mut [Node; 2], left: &Left) -> Outcome<String> {
        let mut primary = None;
        for (index, node) in nodes.iter().enumerate() {
            if node.ok(&["role", "r0"])?.starts_with("Primary") {
                primary = Some(index);
            }
        }
        let node = primary.unwrap_or(usize::from(self.prng.one_in(2)));
        if primary.is_none() {
            nodes[node].ok(&["primary", "r0"])?;
        }
        self.through(&nodes[node], &[Duty::Pair]).map_err(|error| format!("in sync: {error}"))?;
        let mut client = nodes[node].client()?;
        if self.probed && client.read(PROBE, 4096).map_err(at("a read"))? != [0x77; 4096] {
            return Err("in sync: a durable write of who was promoted alone is gone".to_owned());
        }
        probe(&mut client)?;
        drop(client);
        self.sizes(nodes)?;
        equal([&left.disks[0], &left.disks[1]], nodes[0].size()?)?;
        if self.recording.growth.volume.len() < 2 {
            return Ok("in sync".to_owned());
        }
        // Wherever the growth was cut off, it can be ordered anew.
        nodes[node].ok(&["resize", "r0"])?;
        synced(nodes)?;
        let (size, other) = (nodes[0].size()?, nodes[1].size()?);
        let room = left.sizes[0].min(left.sizes[1]) - (2 << 20);
        if size != other || size < room {
            return Err(format!("resized: {size} and {other} bytes, with room for {room}"));
        }
        self.through(&nodes[node], &[Duty::Pair]).map_err(|error| format!("resized: {error}"))?;
        probe(&mut nodes[node].client()?)?;
        equal([&left.disks[0], &left.disks[1]], size)?;
        Ok("in sync, resized".to_owned())
    }

    /// Both have one size, which is not less than what the last resize has answered.
    fn sizes(&self, nodes: &[Node; 2]) -> Outcome<()> {
        let sizes = [nodes[0].size()?, nodes[1].size()?];
        let (least, most) = self.recording.growth.bounds(self.cut);
        if sizes[0] != sizes[1] || !(least..=most).contains(&sizes[0]) {
            return Err(format!("volumes of {sizes:?} bytes, not of {least} to {most}"));
        }
        Ok(())
    }

    fn refused(&mut self, nodes: &[Node; 2], reason: &str) -> Outcome<String> {
        let split = self.recording.book.is_split(self.cut);
        if !split && !self.alone.starts_with("promoted") {
            return Err(format!("refused ({reason}), but there was one line of writes only"));
        }
        for (index, node) in nodes.iter().enumerate() {
            if node.adm(&["primary", "r0"])?.code == 0 {
                self.through(node, &[Duty::Disk(index)])
                    .map_err(|error| format!("refused: {error}"))?;
            }
        }
        Ok(format!("refused: {reason}"))
    }

    fn through(&mut self, node: &Node, duties: &[Duty]) -> Outcome<()> {
        let (mut client, size) = (node.client()?, node.size()?);
        for duty in duties {
            self.check(*duty, size, |offset, bytes| {
                let length = u32::try_from(bytes.len()).map_err(at("a read"))?;
                bytes.copy_from_slice(&client.read(offset, length).map_err(at("a read"))?);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// `size`: behind it there is nothing, and nothing must be there.
    fn check(
        &mut self,
        duty: Duty,
        size: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Outcome<()>,
    ) -> Outcome<()> {
        let mut bytes = vec![0; usize::try_from(SLOT).unwrap_or(0) * 512];
        for slot in &self.recording.slots {
            if (slot + SLOT) * 512 <= size {
                read(slot * 512, &mut bytes)?;
            } else {
                bytes.fill(0);
            }
            self.owed += self.recording.book.check(*slot, &bytes, (duty, self.cut))?;
        }
        Ok(())
    }
}

/// A write of its own, durable.
pub(crate) fn probe(client: &mut Client) -> Outcome<()> {
    client.write(PROBE, &[0x77; 4096], 0).map_err(at("a write"))?;
    client.flush().map_err(at("a flush"))
}

/// The first `size` bytes of two files are the same.
pub(crate) fn equal(disks: [&Path; 2], size: u64) -> Outcome<()> {
    const CHUNK: u64 = 1 << 20;
    let open = |path: &Path| File::open(path).map_err(at(path.display()));
    let files = [open(disks[0])?, open(disks[1])?];
    // Whether there is anything but a hole.
    let has = |file: &File, from: u64| {
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        match lseek(file, from, Whence::SeekData) {
            Ok(data) => data < from.saturating_add(CHUNK.cast_signed()),
            Err(error) => error != nix::Error::ENXIO,
        }
    };
    for from in (0..size).step_by(1 << 20) {
        if !files.iter().any(|file| has(file, from)) {
            continue;
        }
        let length = usize::try_from(CHUNK.min(size - from)).unwrap_or(0);
        let mut bytes = [vec![0; length], vec![0; length]];
        for (file, bytes) in files.iter().zip(&mut bytes) {
            file.read_exact_at(bytes, from).map_err(at("a disk"))?;
        }
        let blocks = bytes[0].chunks(4096).zip(bytes[1].chunks(4096));
        if let Some(bad) = blocks.enumerate().find(|(_, (a, b))| a != b) {
            return Err(format!("in sync, but block {} differs", from / 4096 + bad.0 as u64));
        }
    }
    Ok(())
}
