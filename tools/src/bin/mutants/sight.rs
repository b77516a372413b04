//! Who sees a mutant: seeds, histories or tests, and what they say of a copy.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

use super::copy::Tree;
use super::list::By;

/// The longest that the tests may take, seconds.
const TESTS_MAX: &str = "300";
/// What `timeout` ends with when it had to.
const TIMED_OUT: i32 = 124;

/// What was seen in a copy.
pub(crate) enum Sight {
    /// Nothing: the seeds, histories or tests all pass; in words.
    Nothing(String),
    /// Something; and what sees it again.
    Something { line: String, again: Again },
}

/// What has to be run to see it again.
pub(crate) enum Again {
    /// One seed of the simulator.
    Seed(String),
    /// The same histories, or tests.
    All,
}

/// Looks for something wrong in a copy.
///
/// # Errors
/// It does not build, or there is no such test.
pub(crate) fn look(by: &By, tree: &Tree, seeds: u64) -> Result<Sight, String> {
    match by {
        By::Seeds => {
            let simulate = tree.tool("simulate")?;
            with_seeds(simulate, &["--no-shrink", "--seeds", &seeds.to_string()])
        }
        By::Histories(limits) => with_histories(tree.tool("explore")?, limits),
        By::Tests(which) => {
            tree.build_tests(which)?;
            with_tests(tree, which)
        }
    }
}

/// The copy in which nothing is changed.
pub(crate) struct Control {
    base: PathBuf,
    tree: Option<Tree>,
    /// Histories and tests that were run on it, and what was seen.
    known: HashMap<String, Option<String>>,
}

impl Control {
    /// It is made when it is asked for the first time.
    pub(crate) fn new(base: PathBuf) -> Self {
        Self { base, tree: None, known: HashMap::new() }
    }

    /// What has seen a mutant passes here.
    ///
    /// # Errors
    /// It does not, or it does not build.
    pub(crate) fn passes(&mut self, by: &By, again: &Again) -> Result<(), String> {
        let tree = match &mut self.tree {
            Some(tree) => tree,
            none => none.insert(Tree::of(self.base.clone(), None)?),
        };
        let sight = match (by, again) {
            (By::Seeds, Again::Seed(seed)) => {
                with_seeds(tree.tool("simulate")?, &["--no-shrink", "--seed", seed])?
            }
            _ => {
                let key = format!("{by:?}");
                if let Some(seen) = self.known.get(&key) {
                    return failing(seen.as_deref());
                }
                let sight = look(by, tree, 0)?;
                let seen = match &sight {
                    Sight::Nothing(_) => None,
                    Sight::Something { line, .. } => Some(line.clone()),
                };
                self.known.insert(key, seen);
                sight
            }
        };
        match sight {
            Sight::Nothing(_) => Ok(()),
            Sight::Something { line, .. } => failing(Some(&line)),
        }
    }
}

fn failing(seen: Option<&str>) -> Result<(), String> {
    seen.map_or(Ok(()), |line| Err(format!("fails where nothing is changed: {line}")))
}

fn with_seeds(mut simulate: Command, arguments: &[&str]) -> Result<Sight, String> {
    let out = simulate.args(arguments).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let seen = text.lines().rfind(|l| l.starts_with("seed "));
    Ok(match seen {
        Some(line) if !out.status.success() => {
            let number = line["seed ".len()..].chars().take_while(char::is_ascii_digit).collect();
            Sight::Something { line: clip(line, 110), again: Again::Seed(number) }
        }
        _ => Sight::Nothing(format!("not seen by simulate {}", arguments.join(" "))),
    })
}

/// `tools/explore` with these arguments finds a history that breaks a promise, or none.
fn with_histories(mut explore: Command, limits: &[&str]) -> Result<Sight, String> {
    let out = explore.args(limits).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let limits = limits.join(" ");
    Ok(match text.lines().rfind(|line| line.starts_with("broken: ")) {
        Some(line) if !out.status.success() => {
            let line = format!("`explore {limits}`: {}", clip(&line["broken: ".len()..], 110));
            Sight::Something { line, again: Again::All }
        }
        _ => Sight::Nothing(format!("not seen by explore {limits}")),
    })
}

/// A mutant may make a test go round for ever: then `timeout` ends it, and it is seen.
fn with_tests(tree: &Tree, which: &[&str]) -> Result<Sight, String> {
    let out = tree.cargo_test(TESTS_MAX, which, &[])?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let failed = text.lines().find_map(|line| line.strip_suffix(" ... FAILED"));
    let which = which.join(" ");
    let line = match failed.and_then(|line| line.strip_prefix("test ")) {
        Some(name) => format!("`{name}`"),
        None if out.status.code() == Some(TIMED_OUT) => {
            format!("`cargo test {which}` does not end")
        }
        None if !text.contains(" ... ok") => return Err(format!("no test is named {which}")),
        None if !out.status.success() => format!("`cargo test {which}` breaks off"),
        None => return Ok(Sight::Nothing(format!("cargo test {which} sees nothing"))),
    };
    Ok(Sight::Something { line, again: Again::All })
}

fn clip(line: &str, length: usize) -> String {
    line.chars().take(length).collect()
}
