//! A copy of the source, changed or not, and what is built of it.
//!
//! Invariants:
//! - A file that has not changed keeps its time, so that cargo builds no more than it must.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::list::Mutant;

/// What the build needs.
const SOURCE: [&str; 8] =
    ["Cargo.toml", "Cargo.lock", "src", "nbd", "tools", "benches", "tests", "docs"];
/// The longest that a build may take, seconds.
const BUILD_MAX: &str = "1800";

/// A copy.
pub(crate) struct Tree {
    /// Where the source and the targets of its builds are.
    base: PathBuf,
}

impl Tree {
    /// Copies the checkout into a folder, with one change or none.
    ///
    /// # Errors
    /// A file cannot be read or written, or the change does not fit.
    pub(crate) fn of(base: PathBuf, mutant: Option<&Mutant>) -> Result<Self, String> {
        let copy = Self { base };
        let source = copy.source();
        std::fs::create_dir_all(&source).map_err(|e| format!("{}: {e}", source.display()))?;
        for name in SOURCE {
            copy_all(&checkout().join(name), &source.join(name))
                .map_err(|e| format!("{name}: {e}"))?;
        }
        if let Some(mutant) = mutant {
            let path = source.join(mutant.file);
            let text = mutated(mutant, &read(&path)?)?;
            std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(copy)
    }

    fn source(&self) -> PathBuf {
        self.base.join("tree")
    }

    /// Builds a tool of the copy.
    ///
    /// # Errors
    /// It does not build.
    pub(crate) fn tool(&self, tool: &str) -> Result<Command, String> {
        let built = Command::new("cargo")
            .current_dir(self.source())
            .args(["build", "--quiet", "-p", "tools", "--bin", tool])
            .args(["--config", "profile.dev.opt-level=1", "--config", "profile.dev.debug=false"])
            .arg("--target-dir")
            .arg(self.base.join("build"))
            .output()
            .map_err(|e| format!("cargo: {e}"))?;
        if !built.status.success() {
            return Err(does_not_build(&built.stderr));
        }
        Ok(Command::new(self.base.join("build/debug").join(tool)))
    }

    /// Builds tests of the copy.
    ///
    /// # Errors
    /// They do not build.
    pub(crate) fn build_tests(&self, which: &[&str]) -> Result<(), String> {
        let built = self.cargo_test(BUILD_MAX, which, &["--no-run", "--quiet"])?;
        if built.status.success() { Ok(()) } else { Err(does_not_build(&built.stderr)) }
    }

    /// Runs tests of the copy, at most `limit` seconds.
    ///
    /// # Errors
    /// There is no cargo.
    pub(crate) fn cargo_test(
        &self,
        limit: &str,
        which: &[&str],
        more: &[&str],
    ) -> Result<Output, String> {
        Command::new("timeout")
            .current_dir(self.source())
            .env("RUST_BACKTRACE", "0")
            .args([limit, "cargo", "test", "-p", "tandem"])
            .args(["--config", "profile.dev.debug=false"])
            .arg("--target-dir")
            .arg(self.base.join("tests"))
            .args(which)
            .args(more)
            .output()
            .map_err(|e| format!("cargo: {e}"))
    }
}

/// The checkout that is copied.
pub(crate) fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tools is a folder of the checkout")
}

pub(crate) fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// The text of a file with the change.
///
/// # Errors
/// What is to be changed is not there exactly once.
pub(crate) fn mutated(mutant: &Mutant, text: &str) -> Result<String, String> {
    match text.matches(mutant.old).count() {
        1 => Ok(text.replacen(mutant.old, mutant.new, 1)),
        n => Err(format!("{} has what is to be changed {n} times", mutant.file)),
    }
}

fn does_not_build(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr).into_owned();
    let first = text.lines().find(|l| l.starts_with("error")).unwrap_or("").to_owned();
    format!("does not build: {first}")
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    if from.is_dir() {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            copy_all(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    let new = std::fs::read(from)?;
    if std::fs::read(to).ok().as_ref() == Some(&new) {
        return Ok(());
    }
    std::fs::write(to, new)
}
