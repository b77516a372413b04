//! One power loss: the images that it leaves, and what real daemons make of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use nbd::client::Client;
use nix::unistd::{Whence, lseek};
use tandem::sim::Prng;

use crate::book::{Duty, Instant};
use crate::common::{Outcome, at, folder, text};
use crate::image::{Cache, build};
use crate::load::SLOT;
use crate::node::{Node, Rest, pair, settle, tails};
use crate::record::{META_SIZE, Recording};
use crate::sampler::Cut;
use crate::stage::OPTIONS;

/// Where nothing else is written, bytes: what a promoted node writes to begin a line of its own.
const PROBE: u64 = 64 * 1024;

/// What a point has come to, for the table.
pub(crate) struct Played {
    pub(crate) end: String,
    /// Sectors that had to hold something.
    pub(crate) owed: u64,
}

/// Plays one point in a folder of its own.
pub(crate) fn play(recording: &Recording, dir: &Path, seed: u64) -> Outcome<Played> {
    let prng = &mut Prng::new(seed, 2);
    // At any instant, where metadata was being written, or when the nodes had just lost each other.
    let kind = prng.below(3);
    let fits = |cut: &&Cut| kind == 1 && cut.tender || kind == 2 && cut.lost;
    let mut cuts: Vec<&Cut> = recording.cuts.iter().filter(fits).collect();
    if cuts.is_empty() {
        cuts = recording.cuts.iter().collect();
    }
    let cut = cuts[usize::try_from(prng.below(cuts.len() as u64)).unwrap_or(0)];
    folder(dir.to_owned())?;
    let names = ["alice.img", "bob.img", "alice-meta.img", "bob-meta.img"];
    let disks: Vec<_> =
        names.iter().take(recording.logs.len()).map(|name| dir.join(name)).collect();
    let mut caches = [Cache::Kept; 2];
    let who = prng.below(10);
    for (node, cache) in (0..).zip(&mut caches) {
        if who != node {
            let percents = [0, 10, 50, 90];
            *cache = Cache::Lost(percents[usize::try_from(prng.below(4)).unwrap_or(0)]);
        }
    }
    for (index, (disk, log)) in disks.iter().zip(&recording.logs).enumerate() {
        let size = if index < 2 { recording.size } else { META_SIZE };
        build(disk, (size, None), (log, cut.entries[index]), caches[index % 2], prng)?;
    }
    let mut nodes =
        pair(dir, &disks.iter().map(|disk| disk.as_path()).collect::<Vec<_>>(), &OPTIONS)?;
    let mut point = Point { recording, cut: cut.when, nodes: &mut nodes, prng, owed: 0 };
    let early = cut.when.from < recording.ready;
    let end = if early { point.early() } else { point.play() };
    let owed = point.owed;
    let end = end.map_err(|error| {
        format!(
            "{} cut at {:?} ({:?}), {caches:?}, seed {seed}, in {}: {error}\n{}",
            recording.name,
            cut.entries,
            cut.when,
            text(dir),
            tails(&nodes)
        )
    })?;
    for node in &mut nodes {
        node.kill();
        let log = node.log();
        if log.contains("panicked") {
            return Err(format!("{} panicked, in {}", node.name, text(dir)));
        }
    }
    Ok(Played { end, owed })
}

struct Point<'a> {
    recording: &'a Recording,
    cut: Instant,
    nodes: &'a mut [Node; 2],
    prng: &'a mut Prng,
    owed: u64,
}

impl Point<'_> {
    /// There may be no metadata yet, or half of it: it is refused, or taken; nobody falls over.
    fn early(&mut self) -> Outcome<String> {
        for node in &mut *self.nodes {
            node.start()?;
            let said = node.adm(&["up", "r0"])?;
            if !matches!(said.code, 0 | 10) {
                return Err(format!("up: {said:?}"));
            }
            node.lives()?;
        }
        Ok("before the pair existed".to_owned())
    }

    fn play(&mut self) -> Outcome<String> {
        for node in 0..2 {
            let file = File::open(&self.nodes[node].disk).map_err(at("an image"))?;
            self.check(Duty::Disk(node), |offset, bytes| {
                file.read_exact_at(bytes, offset).map_err(at("an image"))
            })
            .map_err(|error| format!("the image of {}: {error}", self.nodes[node].name))?;
        }
        let first = usize::from(self.prng.one_in(2));
        let mut alone = "";
        self.nodes[first].start_up()?;
        if self.prng.percent(60) {
            alone = self.alone(first)?;
        }
        self.nodes[1 - first].start_up()?;
        let again = if self.prng.one_in(4) { self.stumble()? } else { "" };
        let end = match settle(self.nodes)? {
            Rest::InSync => self.in_sync()?,
            Rest::Refused(reason) => self.refused(&reason, alone)?,
        };
        Ok(format!("{alone}{again}{end}"))
    }

    /// One daemon or both die while they recover, wherever they are by then.
    fn stumble(&mut self) -> Outcome<&'static str> {
        std::thread::sleep(Duration::from_millis(self.prng.below(60)));
        let victims = self.prng.range(1, 3);
        let died = |index: usize| victims & (1 << index) != 0;
        (0..2).filter(|index| died(*index)).for_each(|index| self.nodes[index].kill());
        for index in (0..2).filter(|index| died(*index)) {
            self.nodes[index].start_up()?;
        }
        Ok("killed and started again; ")
    }

    /// Promotes a node whose peer is away, if it may be, and lets it write sometimes.
    fn alone(&mut self, node: usize) -> Outcome<&'static str> {
        let said = self.nodes[node].adm(&["primary", "r0"])?;
        match said.code {
            0 => {}
            17 => return Ok("not promoted alone; "),
            _ => return Err(format!("primary: {said:?}")),
        }
        let mut client = self.nodes[node].client()?;
        let duties = [Duty::Disk(node), Duty::Survivor];
        self.through(&mut client, &duties).map_err(|error| format!("promoted alone: {error}"))?;
        if self.prng.one_in(2) {
            return Ok("promoted alone; ");
        }
        probe(&mut client)?;
        Ok("promoted alone, wrote; ")
    }

    fn in_sync(&mut self) -> Outcome<String> {
        let (mut node, mut is) = (usize::from(self.prng.one_in(2)), false);
        for index in 0..2 {
            if self.nodes[index].ok(&["role", "r0"])?.starts_with("Primary") {
                (node, is) = (index, true);
            }
        }
        if !is {
            self.nodes[node].ok(&["primary", "r0"])?;
        }
        let mut client = self.nodes[node].client()?;
        self.through(&mut client, &[Duty::Pair]).map_err(|error| format!("in sync: {error}"))?;
        probe(&mut client)?;
        let size = self.nodes[0].size()?;
        equal([&self.nodes[0].disk, &self.nodes[1].disk], size)?;
        Ok("in sync".to_owned())
    }

    fn refused(&mut self, reason: &str, alone: &str) -> Outcome<String> {
        let two_lines = self.recording.book.is_split(self.cut) || alone.starts_with("promoted");
        if !two_lines {
            return Err(format!("refused ({reason}), but there was one line of writes only"));
        }
        for node in 0..2 {
            if self.nodes[node].adm(&["primary", "r0"])?.code == 0 {
                let mut client = self.nodes[node].client()?;
                self.through(&mut client, &[Duty::Disk(node)])
                    .map_err(|error| format!("refused: {error}"))?;
            }
        }
        Ok(format!("refused: {reason}"))
    }

    fn through(&mut self, client: &mut Client, duties: &[Duty]) -> Outcome<()> {
        for duty in duties {
            self.check(*duty, |offset, bytes| {
                let length = u32::try_from(bytes.len()).map_err(at("a read"))?;
                bytes.copy_from_slice(&client.read(offset, length).map_err(at("a read"))?);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn check(
        &mut self,
        duty: Duty,
        mut read: impl FnMut(u64, &mut [u8]) -> Outcome<()>,
    ) -> Outcome<()> {
        let mut bytes = vec![0; usize::try_from(SLOT).unwrap_or(0) * 512];
        for slot in &self.recording.slots {
            read(slot * 512, &mut bytes)?;
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
