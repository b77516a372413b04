//! Breaks one mechanism after the other on a copy of the source, and shows that the simulator or a
//! test sees each one. What it needs is a checkout, cargo and `timeout`.
//!
//! Invariants:
//! - What sees a mutant passes on a copy in which nothing is changed: who fails anyway has seen nothing.

mod copy;
mod ends;
mod handlers;
mod list;
mod parts;
mod resync;
mod rules;
mod sight;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use copy::{Tree, checkout};
use list::Mutant;
use sight::{Control, Sight};

/// Breaks one mechanism after the other on a copy, and shows which seed or test sees it.
///
/// Exit code 0: every one named is seen; 1: one is not, or a name is on no list.
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
    /// Where the copies are built (default: target/mutants of the checkout).
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
    if let Some(name) = arguments.names.iter().find(|name| all().all(|m| m.name != **name)) {
        eprintln!("mutants: no mutant is named {name}; see --list");
        return ExitCode::from(1);
    }
    let base = arguments.folder.clone().unwrap_or_else(|| checkout().join("target/mutants"));
    let mut control = Control::new(base.join("control"));
    let wanted =
        |m: &&Mutant| arguments.names.is_empty() || arguments.names.iter().any(|n| n == m.name);
    let mut alive = 0u32;
    for mutant in all().filter(wanted) {
        let started = Instant::now();
        let seen = see(mutant, base.clone(), arguments.seeds, &mut control);
        alive += u32::from(seen.is_err());
        let seconds = started.elapsed().as_secs();
        match (seen, arguments.table) {
            (Ok(line), true) => println!("| {} | {} | {line} |", mutant.name, mutant.breaks),
            (Ok(line), false) => println!("{:26} killed  {seconds:4} s  {line}", mutant.name),
            (Err(line), _) => println!("{:26} ALIVE   {seconds:4} s  {line}", mutant.name),
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

/// `Ok`: what has seen it.
fn see(
    mutant: &Mutant,
    base: PathBuf,
    seeds: u64,
    control: &mut Control,
) -> Result<String, String> {
    let tree = Tree::of(base, Some(mutant))?;
    match sight::look(&mutant.by, &tree, seeds)? {
        Sight::Nothing(line) => Err(line),
        Sight::Something { line, again } => {
            control.passes(&mutant.by, &again)?;
            Ok(line)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::all;
    use super::copy::{checkout, mutated, read};

    #[test]
    fn every_mutant_still_fits_the_source() {
        for mutant in all() {
            let text = read(&checkout().join(mutant.file)).unwrap();
            assert!(mutated(mutant, &text).is_ok_and(|new| new != text), "{}", mutant.name);
        }
    }

    #[test]
    fn every_name_is_one_mutant_s() {
        let mut names: Vec<_> = all().map(|m| m.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
