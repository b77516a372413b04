//! Disks that fail under load, drawn at random: EIO or ENOSPC, of reads, writes or flushes, of the
//! data or the metadata, once or for ever, on either node.
//!
//! No client sees an error while a good copy can be reached; a disk that met a fault is given up, is
//! said to be, and is whole again after an attach.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::{Value, json};
use tandem::sim::Prng;

use crate::common::{Outcome, at, folder, now, until};
use crate::load::{End, SLOT};
use crate::node::{pair, synced, tails};
use crate::point::{equal, probe};
use crate::record::blank;
use crate::rig::Rig;
use crate::stage::{OPTIONS, Stage, slots};

const SIZE: u64 = 24 << 20;
/// Behind the export there is only metadata, and nowhere else.
const META: u64 = 272 << 10;

/// Flushes that fail where all do.
const FLUSHES: usize = 30;

/// What fails.
#[derive(Clone, Copy, Debug)]
struct Fault {
    node: usize,
    what: What,
    errno: i32,
    once: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Reads,
    Writes,
    Flushes,
    MetadataReads,
    MetadataWrites,
}

impl Fault {
    fn draw(node: usize, prng: &mut Prng) -> Self {
        use What::{Flushes, MetadataReads, MetadataWrites, Reads, Writes};
        let all = [Writes, Flushes, MetadataWrites, Reads, MetadataReads];
        let what = all[usize::try_from(prng.below(5)).unwrap_or(0)];
        let reads = matches!(what, Reads | MetadataReads);
        let errno = if !reads && prng.percent(40) { libc::ENOSPC } else { libc::EIO };
        Self { node, what, errno, once: prng.percent(50) }
    }

    /// Rules of blkdebug. A rule has one sector, and meets what touches it.
    fn rules(self, slots: &[u64], prng: &mut Prng) -> Value {
        let rule = |kind: &str, sector: Option<u64>| {
            let (errno, once) = (self.errno, self.once);
            let mut rule = json!({"event": "none", "iotype": kind, "errno": errno, "once": once});
            if let (Some(sector), Some(rule)) = (sector, rule.as_object_mut()) {
                rule.insert("sector".to_owned(), json!(sector));
            }
            rule
        };
        let mut some = |sectors: Vec<u64>, kind: &str| -> Value {
            if self.once {
                let one = usize::try_from(prng.below(sectors.len() as u64)).unwrap_or(0);
                return json!([rule(kind, Some(sectors[one]))]);
            }
            sectors.into_iter().map(|sector| rule(kind, Some(sector))).collect()
        };
        let metadata: Vec<u64> = ((SIZE - META) / 512..SIZE / 512).collect();
        // The superblock is at both ends of the rest.
        let superblock = vec![(SIZE - 4096) / 512, (SIZE - (256 << 10)) / 512];
        match self.what {
            What::Reads => json!([rule("read", None)]),
            What::Flushes if self.once => json!([rule("flush", None)]),
            // To take a rule away is to flush: for ever would be longer than this run.
            What::Flushes => {
                let one = json!({"event": "none", "iotype": "flush", "errno": self.errno,
                    "once": true});
                vec![one; FLUSHES].into()
            }
            What::Writes if self.once => {
                some(slots.iter().map(|slot| slot + SLOT / 2).collect(), "write")
            }
            What::Writes => {
                some(slots.iter().flat_map(|slot| *slot..slot + SLOT).collect(), "write")
            }
            What::MetadataWrites if self.once => some(superblock, "write"),
            What::MetadataWrites => some(metadata, "write"),
            What::MetadataReads if self.once => some(superblock, "read"),
            What::MetadataReads => some(metadata, "read"),
        }
    }
}

/// Kinds of faults: how many were met, and how many there were.
pub(crate) type Met = BTreeMap<String, [u64; 2]>;

/// So many faults, one after the other.
pub(crate) fn faults(dir: &Path, count: u64, seed: u64) -> Outcome<Met> {
    let mut met = Met::new();
    if count == 0 {
        return Ok(met);
    }
    folder(dir.to_owned())?;
    let mut rigs = [blank(dir, "alice", SIZE)?, blank(dir, "bob", SIZE)?];
    let nodes = pair(dir, &[&rigs[0].device, &rigs[1].device], &OPTIONS)?;
    // The load has its own part of the disk; the rest is for what makes a node meet the fault.
    let own: Vec<u64> = slots(SIZE, 16).into_iter().filter(|slot| slot * 512 < 12 << 20).collect();
    let mut stage = Stage::new(nodes, own, seed);
    let mut prng = Prng::new(seed, 4);
    let mut rounds = || {
        stage.begin()?;
        for number in 0..count {
            // Both nodes in turn, so that a short run has both.
            let fault = Fault::draw(usize::from(number % 2 == 1), &mut prng);
            println!("fault {}, {fault:?}, at {} ms", number + 1, now() / 1_000_000);
            let was = round(&mut stage, &mut rigs, fault, &mut prng);
            let was = was.map_err(|error| format!("{fault:?}: {error}"))?;
            let kind = format!("{:?} {}", fault.what, if fault.once { "once" } else { "for ever" });
            let counts = met.entry(kind).or_default();
            *counts = [counts[0] + u64::from(was), counts[1] + 1];
        }
        Ok(())
    };
    let done: Outcome<()> = rounds();
    done.map_err(|error| format!("a faulty disk: {error}\n{}", tails(&stage.nodes)))?;
    drop(stage);
    drop(rigs);
    fs::remove_dir_all(dir).map_err(at(dir.display()))?;
    Ok(met)
}

/// One fault; whether it was met.
fn round(stage: &mut Stage, rigs: &mut [Rig; 2], fault: Fault, prng: &mut Prng) -> Outcome<bool> {
    let (failing, rig) = (fault.node, &mut rigs[fault.node]);
    let rules = fault.rules(&stage.slots, prng);
    let before = stage.nodes[failing].log().matches("error:").count();
    stage.parted();
    let mut reader = stage.nodes[0].client()?;
    let mut extent = 0;
    if fault.what == What::MetadataReads {
        // It is read at an attach, and the kernel must not know it any longer.
        stage.nodes[failing].ok(&["detach", "r0"])?;
    }
    let met = stage.meanwhile(0, End::Done, |nodes| {
        rig.fail(&rules)?;
        rig.forget()?;
        if fault.what == What::MetadataReads {
            let said = nodes[failing].adm(&["attach", "r0"])?;
            return Ok(said.code != 0);
        }
        let mut tries = 0;
        until("the fault is met", || {
            let error = |error| format!("a client saw it: {error}");
            tries += 1;
            reader.read((13 << 20) + tries * 4096, 4096).map_err(error)?;
            if fault.what == What::MetadataWrites && extent < 2 {
                // A new extent of the activity log.
                extent += 1;
                reader.write((12 << 20) + extent * (4 << 20), &[9; 4096], 0).map_err(error)?;
            }
            reader.flush().map_err(error)?;
            let state = nodes[failing].ok(&["dstate", "r0"])?;
            let given_up = state.trim() == "Diskless/UpToDate";
            Ok((given_up || tries > 30).then_some(given_up))
        })
    })?;
    stage.nothing_is_lost(0).map_err(|error| format!("with one disk: {error}"))?;
    if met && fault.what != What::MetadataReads {
        let said = stage.nodes[1 - failing].ok(&["dstate", "r0"])?;
        if said.trim() != "UpToDate/Diskless" {
            return Err(format!("the other node says {said:?}"));
        }
        if stage.nodes[failing].log().matches("error:").count() == before {
            return Err("the log says nothing of it".to_owned());
        }
        let why = stage.nodes[failing].ok(&["why", "r0"])?;
        if !why.contains("Diskless") {
            return Err(format!("why says nothing of it: {why}"));
        }
    }
    rigs[failing].heal()?;
    if stage.nodes[failing].ok(&["dstate", "r0"])?.starts_with("Diskless") {
        stage.meanwhile(0, End::Done, |nodes| {
            nodes[failing].ok(&["attach", "r0"])?;
            synced(nodes)
        })?;
    }
    stage.together()?;
    stage.nothing_is_lost(0).map_err(|error| format!("healed: {error}"))?;
    probe(&mut stage.nodes[0].client()?)?;
    let raw = ["alice.raw", "bob.raw"].map(|name| dir_of(&rigs[failing]).join(name));
    equal([&raw[0], &raw[1]], stage.nodes[0].size()?)?;
    Ok(met)
}

/// The folder that both disks are in.
fn dir_of(rig: &Rig) -> std::path::PathBuf {
    let folders = rig.log.ancestors().nth(2);
    folders.map(Path::to_owned).unwrap_or_default()
}

impl Rig {
    /// The kernel forgets what it has of the disk.
    fn forget(&self) -> Outcome<()> {
        let file = File::open(&self.mount).map_err(at(self.mount.display()))?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(at("fadvise"))
    }
}
