//! One node loses power while the other one goes on: with what it has in memory, as it is.
//!
//! A recording cannot show that, for a daemon cannot be started in the middle of its life. So here
//! the node is killed, its disk is replaced by what a power loss would have left of it, and it comes
//! back to a peer that was there all the time. No answered write may be lost, flushed or not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tandem::sim::Prng;

use crate::common::{Outcome, at, folder, now, until};
use crate::image::{Cache, build};
use crate::load::End;
use crate::node::{pair, rest_of, synced, tails};
use crate::point::{equal, probe};
use crate::record::blank;
use crate::rig::Rig;
use crate::stage::{OPTIONS, Stage, slots};

const SIZE: u64 = 24 << 20;
const NAMES: [&str; 2] = ["alice", "bob"];

/// A disk that is replaced at each power loss of its node.
struct Disk {
    rig: Rig,
    raw: PathBuf,
    /// What was on it when its log began.
    before: Option<PathBuf>,
    /// What stands in the config.
    link: PathBuf,
    losses: u32,
}

/// So many power losses of one node or the other; in how many of them it lost power again while it
/// came back.
pub(crate) fn blackouts(dir: &Path, count: u64, seed: u64) -> Outcome<u64> {
    if count == 0 {
        return Ok(0);
    }
    folder(dir.to_owned())?;
    let mut disks = [Disk::new(dir, NAMES[0])?, Disk::new(dir, NAMES[1])?];
    let nodes = pair(dir, &[&disks[0].link, &disks[1].link], &OPTIONS)?;
    let mut stage = Stage::new(nodes, slots(SIZE, 16), seed);
    let mut prng = Prng::new(seed, 3);
    let mut rounds = || {
        stage.begin()?;
        let (mut primary, mut twice) = (0, 0);
        for number in 1..=count {
            println!("power loss {number} of one node, at {} ms", now() / 1_000_000);
            let again = prng.one_in(2) || twice == 0;
            primary = round(&mut stage, &mut disks, (primary, again), &mut prng)?;
            twice += u64::from(again);
        }
        Ok(twice)
    };
    let done: Outcome<u64> = rounds();
    let twice =
        done.map_err(|error| format!("power loss of one node: {error}\n{}", tails(&stage.nodes)))?;
    drop(stage);
    drop(disks);
    fs::remove_dir_all(dir).map_err(at(dir.display()))?;
    Ok(twice)
}

/// One power loss; who is Primary afterwards.
fn round(
    stage: &mut Stage,
    disks: &mut [Disk; 2],
    (primary, again): (usize, bool),
    prng: &mut Prng,
) -> Outcome<usize> {
    let victim = usize::from(prng.one_in(2));
    let other = 1 - victim;
    let end = if victim == primary { End::Lost } else { End::Done };
    stage.load(primary, prng.below(40))?;
    stage.parted();
    stage.meanwhile(primary, end, |nodes| {
        nodes[victim].kill();
        Ok(())
    })?;
    if victim == primary {
        until("the survivor is promoted", || {
            let lost =
                rest_of(&stage.nodes[other])?.is_err_and(|now| now.starts_with("Connecting"));
            Ok((lost && stage.nodes[other].adm(&["primary", "r0"])?.code == 0).then_some(()))
        })?;
    }
    stage.nothing_is_lost(other).map_err(|error| format!("on the survivor: {error}"))?;
    stage.load(other, prng.below(60))?;
    disks[victim].lose_power(prng)?;
    // What a boot empties.
    let _ = fs::remove_dir_all(stage.nodes[victim].dir.join("trusted"));
    stage.meanwhile(other, End::Done, |nodes| {
        nodes[victim].start_up()?;
        if again {
            // Wherever it is by then: what it has of the other one's newer data is on no disk yet.
            std::thread::sleep(Duration::from_millis(prng.below(80)));
            nodes[victim].kill();
            disks[victim].lose_power(prng)?;
            let _ = fs::remove_dir_all(nodes[victim].dir.join("trusted"));
            nodes[victim].start_up()?;
        }
        synced(nodes)
    })?;
    stage.together()?;
    stage.nothing_is_lost(other).map_err(|error| format!("in sync: {error}"))?;
    probe(&mut stage.nodes[other].client()?)?;
    equal([&disks[0].raw, &disks[1].raw], stage.nodes[other].size()?)?;
    Ok(other)
}

impl Disk {
    fn new(dir: &Path, name: &str) -> Outcome<Self> {
        let rig = blank(dir, name, SIZE)?;
        let link = dir.join(format!("{name}.disk"));
        symlink(&rig.device, &link).map_err(at(link.display()))?;
        let raw = dir.join(format!("{name}.raw"));
        Ok(Self { rig, raw, before: None, link, losses: 0 })
    }

    /// Its daemon is dead: what is left of it is the disk from now on.
    fn lose_power(&mut self, prng: &mut Prng) -> Outcome<()> {
        self.losses += 1;
        let percents = [0, 10, 50, 90];
        let cache = Cache::Lost(percents[usize::try_from(prng.below(4)).unwrap_or(0)]);
        let log = self.rig.logged()?;
        let named = |what: &str| self.raw.with_extension(format!("{what}{}", self.losses));
        let (raw, before, dir) = (named("raw"), named("before"), named("rig"));
        let all = (&log, log.entries.len());
        build(&before, (SIZE, self.before.as_deref()), all, cache, prng)?;
        fs::copy(&before, &raw).map_err(at(raw.display()))?;
        self.rig = Rig::new(&dir, &raw, SIZE)?;
        fs::remove_file(&self.raw).map_err(at(self.raw.display()))?;
        if let Some(old) = self.before.replace(before) {
            fs::remove_file(&old).map_err(at(old.display()))?;
        }
        self.raw = raw;
        fs::remove_file(&self.link).map_err(at(self.link.display()))?;
        symlink(&self.rig.device, &self.link).map_err(at(self.link.display()))
    }
}
