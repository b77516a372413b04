//! Breaks one mechanism after the other on a copy of the source, and shows that the simulator sees
//! each one. What it needs is a checkout and cargo.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;

/// Breaks one mechanism after the other on a copy, and shows which seed of the simulator sees it.
#[derive(Parser)]
struct Arguments {
    /// Which ones; all if none is named.
    names: Vec<String>,
    /// Print the names and what each one breaks.
    #[arg(long)]
    list: bool,
    /// Seeds that a mutant may take to be seen.
    #[arg(long, default_value_t = 600)]
    seeds: u64,
    /// Print the rows of the table in docs/TESTING.md.
    #[arg(long)]
    table: bool,
    /// Where the copy is built (default: target/mutants of the checkout).
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// A small change that takes one mechanism out.
struct Mutant {
    name: &'static str,
    breaks: &'static str,
    file: &'static str,
    old: &'static str,
    new: &'static str,
}

const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "ack-before-disk",
        breaks: "promise 1: a peer's write is acknowledged as it starts",
        file: "src/resource/peer_io.rs",
        old: "        write.started = true;\n",
        new: "        write.started = true;\n        let (c, v, sequence) = (write.connection, write.volume, \
              write.sequence);\n        self.send(c, Packet::WriteAck { volume: v, sequence }, None);\n        \
              let write = self.peer_writes.get_mut(key).expect(\"just made\");\n",
    },
    Mutant {
        name: "flush-skips-peer",
        breaks: "promise 1: a flush flushes the own disk only",
        file: "src/resource/flush.rs",
        old: "if connection.stage > Stage::Down && connection.peer_devices[&volume].replicates() {",
        new: "if false && connection.stage > Stage::Down {",
    },
    Mutant {
        name: "no-survived",
        breaks: "promise 2: the survivor does not say so",
        file: "src/resource/loss.rs",
        old: "                backing.flags(DeviceFlags::SURVIVED, 0);\n",
        new: "",
    },
    Mutant {
        name: "survived-before-flush",
        breaks: "promise 2: SURVIVED without the flush after a loss",
        file: "src/resource/loss.rs",
        old: "        self.flush_disk(volume, Then::LossFlushed { round });",
        new: "        self.loss_flushed(volume, round);",
    },
    Mutant {
        name: "no-new-uuid-alone",
        breaks: "promise 3: writes alone go on under the shared current UUID",
        file: "src/resource/loss.rs",
        old: "        if missing.iter().all(recorded) {",
        new: "        if missing.iter().all(recorded) || !missing.is_empty() {",
    },
    Mutant {
        name: "no-bits-after-loss",
        breaks: "promise 4: what the transfer log holds sets no bits",
        file: "src/resource/loss.rs",
        old: "        for (first, count) in unflushed {\n            peer.bitmap.set(first, count);\n        }\n",
        new: "        drop(unflushed);\n",
    },
    Mutant {
        name: "no-dirty-extents",
        breaks: "promise 4: hot extents mean nothing at attach",
        file: "src/resource/attach.rs",
        old: "            if !clean {\n                for extent",
        new: "            if false {\n                for extent",
    },
    Mutant {
        name: "no-activity-log",
        breaks: "promise 4: a write starts in a cold extent",
        file: "src/resource/activity_log.rs",
        old: "        if !(first..=last).all(|extent| self.hot.contains_key(&extent)) {\n            return false;",
        new: "        if !(first..=last).all(|extent| self.hot.contains_key(&extent)) {\n            return true;",
    },
    Mutant {
        name: "log-forgets-unflushed",
        breaks: "promise 4: extents go cold while writes in them are unflushed",
        file: "src/resource/storage.rs",
        old: "            && (stamp <= self.flushed_epoch || !self.replicating)",
        new: "            && (stamp <= u64::MAX || self.replicating)",
    },
    Mutant {
        name: "flush-covers-later-writes",
        breaks: "promise 4: a flush empties the transfer log of later writes too",
        file: "src/resource/transfer_log.rs",
        old: "self.entries.front().is_some_and(|entry| entry.epoch <= epoch)",
        new: "self.entries.front().is_some_and(|_| epoch > 0)",
    },
    Mutant {
        name: "bits-cleared-unflushed",
        breaks: "promise 4: a target clears bits before its flush",
        file: "src/resource/resync_target.rs",
        old: "            self.flush_disk(volume, Then::TargetFlushed { c, socket, count });",
        new: "            let _ = socket;\n            self.target_flushed(c, volume, count);",
    },
    Mutant {
        name: "verdict-no-survivor",
        breaks: "promise 2: who crashed wins over who survived",
        file: "src/resource/generation.rs",
        old: "    if let Some(who) = only(own.survived(), peer.survived()) {\n        return found",
        new: "    if let Some(who) = only(own.survived(), peer.survived()).filter(|_| false) {\n        return found",
    },
    Mutant {
        name: "verdict-bits-are-nothing",
        breaks: "promise 5: equal identifiers are in sync, whatever the bits say",
        file: "src/resource/generation.rs",
        old: "    if !own_bits && !peer_bits {",
        new: "    if !own_bits || !peer_bits {",
    },
    Mutant {
        name: "split-brain-unseen",
        breaks: "promise 5: both went on, and one is overwritten",
        file: "src/resource/generation.rs",
        old: "        return found(Rule::BitmapBoth, Strategy::SplitBrain { auto: true, full: false });",
        new: "        return found(Rule::BitmapBoth, source_with_bits(if own.holds_tie(peer) { Who::Own } \
              else { Who::Peer }));",
    },
    Mutant {
        name: "target-stays-consistent",
        breaks: "promise 6: a target in mid-resync may be promoted",
        file: "src/resource/session.rs",
        old: "            DeviceFlags::CONSISTENT\n                | DeviceFlags::SURVIVED\n                | DeviceFlags::OUTDATED\n                | DeviceFlags::WAS_UP_TO_DATE",
        new: "            DeviceFlags::SURVIVED\n                | DeviceFlags::OUTDATED",
    },
    Mutant {
        name: "promote-unusable",
        breaks: "promise 6: any disk is good enough to be promoted",
        file: "src/resource/promote.rs",
        old: "        if device.disk == DiskState::UpToDate {\n            return Ok(());",
        new: "        if device.disk >= DiskState::Inconsistent {\n            return Ok(());",
    },
    Mutant {
        name: "failed-flush-believed",
        breaks: "promise 9: a flush that failed is taken for one that did not",
        file: "src/resource/storage.rs",
        old: "        if let Err(error) = result {\n            let full",
        new: "        let flush = matches!(pending, Pending::Flush { .. } | Pending::GroupFlush { .. } | \
              Pending::PeerFlush { .. });\n        let result = if flush { Ok(None) } else { result };\n        \
              if let Err(error) = result {\n            let full",
    },
    Mutant {
        name: "late-peer-writes",
        breaks: "promise 10: a new session opens while writes of the old one are on the disk",
        file: "src/resource/loss.rs",
        old: "        if busy {\n            return;",
        new: "        if busy && volume == u16::MAX {\n            return;",
    },
    Mutant {
        name: "overlap-ignored",
        breaks: "order: overlapping writes run together",
        file: "src/resource/interval.rs",
        old: "        let earlier = if blockers == 0 {",
        new: "        let blockers = blockers * 0;\n        let earlier = if blockers == 0 {",
    },
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for mutant in MUTANTS {
            println!("{} {}", mutant.name, mutant.breaks);
        }
        return ExitCode::SUCCESS;
    }
    let wanted =
        |m: &&Mutant| arguments.names.is_empty() || arguments.names.iter().any(|n| n == m.name);
    let chosen: Vec<&Mutant> = MUTANTS.iter().filter(wanted).collect();
    if chosen.is_empty() {
        eprintln!("mutants: no such name; see --list");
        return ExitCode::from(1);
    }
    let mut alive = 0u32;
    for mutant in chosen {
        let seen = try_mutant(mutant, &arguments);
        alive += u32::from(seen.is_err());
        match (seen, arguments.table) {
            (Ok(seen), true) => {
                println!("| {} | {} | {} |", mutant.name, mutant.breaks, seen.line);
            }
            (Ok(seen), false) => {
                println!("{:26} killed  {:4} s  {}", mutant.name, seen.seconds, seen.line);
            }
            (Err(line), _) => println!("{:26} ALIVE   {line}", mutant.name),
        }
    }
    ExitCode::from(u8::from(alive > 0))
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tools is a folder of the checkout")
}

/// What saw a mutant.
struct Seen {
    seconds: u64,
    line: String,
}

/// `Ok`: what saw it.
fn try_mutant(mutant: &Mutant, arguments: &Arguments) -> Result<Seen, String> {
    let base = arguments.folder.clone().unwrap_or_else(|| checkout().join("target/mutants"));
    let tree = base.join("tree");
    copy_source(&tree)?;
    let text = mutated(mutant, &read(&tree.join(mutant.file))?)?;
    std::fs::write(tree.join(mutant.file), text).map_err(|e| e.to_string())?;
    let built = Command::new("cargo")
        .current_dir(&tree)
        .args(["build", "--quiet", "-p", "tools", "--bin", "simulate"])
        .args(["--config", "profile.dev.opt-level=1", "--config", "profile.dev.debug=false"])
        .arg("--target-dir")
        .arg(base.join("build"))
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    if !built.status.success() {
        let text = String::from_utf8_lossy(&built.stderr).into_owned();
        let first = text.lines().find(|l| l.starts_with("error")).unwrap_or("").to_owned();
        return Err(format!("does not build: {first}"));
    }
    let started = Instant::now();
    let out = Command::new(base.join("build/debug/simulate"))
        .args(["--no-shrink", "--seeds", &arguments.seeds.to_string()])
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let seen = text.lines().rfind(|l| l.starts_with("seed ")).map(|l| clip(l, 110));
    match seen {
        Some(line) if !out.status.success() => {
            Ok(Seen { seconds: started.elapsed().as_secs(), line })
        }
        _ => Err(format!("not seen in {} seeds", arguments.seeds)),
    }
}

fn clip(line: &str, length: usize) -> String {
    line.chars().take(length).collect()
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn mutated(mutant: &Mutant, text: &str) -> Result<String, String> {
    match text.matches(mutant.old).count() {
        1 => Ok(text.replacen(mutant.old, mutant.new, 1)),
        n => Err(format!("{} has what is to be changed {n} times", mutant.file)),
    }
}

/// Copies what the build needs; a file that has not changed keeps its time, so that cargo builds no
/// more than it must.
fn copy_source(tree: &Path) -> Result<(), String> {
    std::fs::create_dir_all(tree).map_err(|e| format!("{}: {e}", tree.display()))?;
    for name in ["Cargo.toml", "Cargo.lock", "src", "nbd", "tools", "benches"] {
        copy(&checkout().join(name), &tree.join(name)).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    if from.is_dir() {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    let new = std::fs::read(from)?;
    if std::fs::read(to).ok().as_ref() == Some(&new) {
        return Ok(());
    }
    std::fs::write(to, new)
}

#[cfg(test)]
mod tests {
    use super::{MUTANTS, checkout, mutated, read};

    #[test]
    fn every_mutant_still_fits_the_source() {
        for mutant in MUTANTS {
            let text = read(&checkout().join(mutant.file)).unwrap();
            assert!(mutated(mutant, &text).is_ok_and(|new| new != text), "{}", mutant.name);
        }
    }
}
