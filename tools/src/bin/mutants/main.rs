//! Breaks one mechanism after the other on a copy of the source, and shows that the simulator or a
//! test sees each one. What it needs is a checkout, cargo and `timeout`.

mod ends;
mod handlers;
mod list;
mod parts;
mod resync;
mod rules;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;

use list::{By, Mutant};

/// The longest that the tests may take, seconds.
const TESTS_MAX: &str = "300";
/// What `timeout` ends with when it had to.
const TIMED_OUT: i32 = 124;

/// Breaks one mechanism after the other on a copy, and shows which seed or test sees it.
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for mutant in all() {
            println!("{} {}", mutant.name, mutant.breaks);
        }
        return ExitCode::SUCCESS;
    }
    let wanted =
        |m: &&Mutant| arguments.names.is_empty() || arguments.names.iter().any(|n| n == m.name);
    let chosen: Vec<&Mutant> = all().filter(wanted).collect();
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

fn all() -> impl Iterator<Item = &'static Mutant> {
    let files = [
        list::MUTANTS,
        handlers::MUTANTS,
        resync::MUTANTS,
        rules::MUTANTS,
        parts::MUTANTS,
        ends::MUTANTS,
    ];
    files.into_iter().flatten()
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
    match mutant.by {
        By::Seeds => seen_by_seeds(&tree, &base, arguments.seeds),
        By::Histories(limits) => seen_by_histories(&tree, &base, limits),
        By::Tests(which) => seen_by_tests(&tree, &base, which),
    }
}

/// Builds a tool of the copy.
fn built(tree: &Path, base: &Path, tool: &str) -> Result<Command, String> {
    let built = Command::new("cargo")
        .current_dir(tree)
        .args(["build", "--quiet", "-p", "tools", "--bin", tool])
        .args(["--config", "profile.dev.opt-level=1", "--config", "profile.dev.debug=false"])
        .arg("--target-dir")
        .arg(base.join("build"))
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    if !built.status.success() {
        return Err(does_not_build(&built.stderr));
    }
    Ok(Command::new(base.join("build/debug").join(tool)))
}

/// `tools/explore` with these arguments must find a history that breaks a promise.
fn seen_by_histories(tree: &Path, base: &Path, limits: &[&str]) -> Result<Seen, String> {
    let mut explore = built(tree, base, "explore")?;
    let started = Instant::now();
    let out = explore.args(limits).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let limits = limits.join(" ");
    match text.lines().rfind(|line| line.starts_with("broken: ")) {
        Some(line) if !out.status.success() => {
            let line = format!("`explore {limits}`: {}", clip(&line["broken: ".len()..], 110));
            Ok(Seen { seconds: started.elapsed().as_secs(), line })
        }
        _ => Err(format!("not seen by explore {limits}")),
    }
}

fn seen_by_seeds(tree: &Path, base: &Path, seeds: u64) -> Result<Seen, String> {
    let mut simulate = built(tree, base, "simulate")?;
    let started = Instant::now();
    let out = simulate
        .args(["--no-shrink", "--seeds", &seeds.to_string()])
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let seen = text.lines().rfind(|l| l.starts_with("seed ")).map(|l| clip(l, 110));
    match seen {
        Some(line) if !out.status.success() => {
            Ok(Seen { seconds: started.elapsed().as_secs(), line })
        }
        _ => Err(format!("not seen in {seeds} seeds")),
    }
}

/// A mutant may make a test go round for ever: then `timeout` ends it, and it is seen.
fn seen_by_tests(tree: &Path, base: &Path, which: &[&str]) -> Result<Seen, String> {
    let cargo = |limit: &str, more: &[&str]| {
        Command::new("timeout")
            .current_dir(tree)
            .env("RUST_BACKTRACE", "0")
            .args([limit, "cargo", "test", "-p", "tandem"])
            .args(["--config", "profile.dev.debug=false"])
            .arg("--target-dir")
            .arg(base.join("tests"))
            .args(which)
            .args(more)
            .output()
            .map_err(|e| format!("cargo: {e}"))
    };
    let built = cargo("1800", &["--no-run", "--quiet"])?;
    if !built.status.success() {
        return Err(does_not_build(&built.stderr));
    }
    let started = Instant::now();
    let out = cargo(TESTS_MAX, &[])?;
    let seconds = started.elapsed().as_secs();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let failed = text.lines().find_map(|line| line.strip_suffix(" ... FAILED"));
    match failed.and_then(|line| line.strip_prefix("test ")) {
        Some(name) => Ok(Seen { seconds, line: format!("`{name}`") }),
        None if out.status.code() == Some(TIMED_OUT) => {
            Ok(Seen { seconds, line: format!("`cargo test {}` does not end", which.join(" ")) })
        }
        None if !text.contains(" ... ok") => Err(format!("no test is named {}", which.join(" "))),
        None if !out.status.success() => {
            Ok(Seen { seconds, line: format!("`cargo test {}` breaks off", which.join(" ")) })
        }
        None => Err(format!("cargo test {} sees nothing", which.join(" "))),
    }
}

fn does_not_build(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr).into_owned();
    let first = text.lines().find(|l| l.starts_with("error")).unwrap_or("").to_owned();
    format!("does not build: {first}")
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
    for name in ["Cargo.toml", "Cargo.lock", "src", "nbd", "tools", "benches", "tests", "docs"] {
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
    use super::{all, checkout, mutated, read};

    #[test]
    fn every_mutant_still_fits_the_source() {
        for mutant in all() {
            let text = read(&checkout().join(mutant.file)).unwrap();
            assert!(mutated(mutant, &text).is_ok_and(|new| new != text), "{}", mutant.name);
        }
    }
}
