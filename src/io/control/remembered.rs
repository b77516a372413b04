//! What is up, in the run folder, so that a daemon that crashed brings it up again.
//!
//! Invariants:
//! - A file stands for a resource from `up` until it goes down in order (`down`, SIGTERM), and
//!   holds what the resource runs with, and which peers an administrator has disconnected: their
//!   disks may be kept apart on purpose, and a crash does not overwrite them.
//! - Only what was written within this boot is brought up: after a reboot an administrator, or the
//!   units, decide.
//! - What brings the daemon down at once does so [`TRIES`] times: then it stays down, and the
//!   daemon is there to be asked. Only an ordered `up`, or time ([`SETTLED`]), begins that count anew:
//!   not that it came up, and no change of what it runs with.
//! - Nothing rests on these files: one that cannot be written or read costs a `tandemadm up`. An
//!   old one never stays in its place: it would bring an old disk up again, or an old secret.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use crate::config::Definition;
use crate::control::protocol::LINE_MAX;
use crate::io::backing::{file_safe, host_boot_id};
use crate::resource::NodeId;

/// The folder in the run folder.
const FOLDER: &str = "up";
/// So often is a resource brought up after crashes, if the daemon does not run for [`SETTLED`]
/// between them.
const TRIES: u32 = 3;
/// What has run for so long does not bring the daemon down by coming up.
pub(super) const SETTLED: Duration = Duration::from_secs(600);

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    boot_id: [u8; 16],
    /// How often it was brought up after a crash, since it was last known to run well.
    tries: u32,
    definition: Definition,
    /// Peers that are not dialled, by order.
    apart: BTreeSet<NodeId>,
}

/// A resource that was up when the daemon crashed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WasUp {
    pub(super) definition: Definition,
    /// Peers that were not dialled, by order.
    pub(super) apart: BTreeSet<NodeId>,
    /// How often it has been brought up after a crash, this time included.
    pub(super) tries: u32,
}

/// The folder of what is up.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    folder: PathBuf,
}

impl Remembered {
    /// In this run folder, whose lock is held.
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self { folder: run_dir.join(FOLDER) }
    }

    /// The resource is up with this, apart from these peers by order, and was brought up so often after a
    /// crash.
    pub(super) fn keep(&self, definition: &Definition, apart: &BTreeSet<NodeId>, tries: u32) {
        if let Err(error) = self.write(definition, apart, tries) {
            let path = self.path(&definition.name);
            self.forget(&definition.name);
            warn!(
                "{}: {}: {error}: after a crash it will not come up by itself",
                definition.name,
                path.display()
            );
        }
    }

    /// The resource is down.
    pub(super) fn forget(&self, resource: &str) {
        let path = self.path(resource);
        match std::fs::remove_file(&path) {
            // A name that is too long for a file is none of ours.
            Err(error)
                if error.kind() != io::ErrorKind::NotFound
                    && error.raw_os_error() != Some(nix::libc::ENAMETOOLONG) =>
            {
                warn!("{resource}: {}: {error}", path.display());
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// What was up when the daemon crashed, in the order of names. Files that are of no use any
    /// more are removed.
    pub(super) fn after_a_crash(&self) -> Vec<WasUp> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let mut found = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            match read(&path) {
                Ok(Some(mut was_up)) if path == self.path(&was_up.definition.name) => {
                    let name = &was_up.definition.name;
                    if was_up.tries >= TRIES {
                        error!(
                            "{name}: tandemd crashed {} times soon after it was brought up: it \
                             stays down; when the cause is gone: `tandemadm up {name}`",
                            was_up.tries + 1
                        );
                    } else {
                        was_up.tries += 1;
                        self.keep(&was_up.definition, &was_up.apart, was_up.tries);
                        found.push(was_up);
                    }
                    continue;
                }
                Ok(Some(_)) => {
                    warn!("{}: not named after its resource, so not brought up", path.display())
                }
                Ok(None) => info!("{}: of an earlier boot, so not brought up", path.display()),
                Err(error) => warn!("{}: {error}; not brought up", path.display()),
            }
            // It would be found again at every start.
            let _ = std::fs::remove_file(&path);
        }
        found.sort_by(|a, b| a.definition.name.cmp(&b.definition.name));
        found
    }

    /// The names of what was up, of this boot.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let kept = entries.filter_map(|entry| read(&entry.path()).ok().flatten());
        let mut names: Vec<String> = kept.map(|was_up| was_up.definition.name).collect();
        names.sort();
        names
    }

    fn path(&self, resource: &str) -> PathBuf {
        self.folder.join(format!("{}.json", file_safe(resource)))
    }

    /// Whole or not at all; nobody else may read it, a definition can hold a secret.
    fn write(
        &self,
        definition: &Definition,
        apart: &BTreeSet<NodeId>,
        tries: u32,
    ) -> io::Result<()> {
        let (boot_id, definition) = (host_boot_id()?, definition.clone());
        let name = definition.name.clone();
        let text = serde_json::to_vec(&Kept { boot_id, tries, definition, apart: apart.clone() })?;
        std::fs::create_dir_all(&self.folder)?;
        let path = self.path(&name);
        let part = path.with_extension("part");
        let mut options = std::fs::File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        let written = file.write_all(&text).and_then(|()| std::fs::rename(&part, path));
        if written.is_err() {
            // A full file system gets its room back.
            let _ = std::fs::remove_file(&part);
        }
        written
    }
}

/// `None`: of an earlier boot.
fn read(path: &Path) -> io::Result<Option<WasUp>> {
    let mut text = Vec::new();
    let limit = u64::try_from(LINE_MAX).unwrap_or(u64::MAX);
    std::fs::File::open(path)?.take(limit).read_to_end(&mut text)?;
    let kept: Kept = serde_json::from_slice(&text)?;
    kept.definition.check().map_err(io::Error::other)?;
    let was_up = WasUp { definition: kept.definition, apart: kept.apart, tries: kept.tries };
    Ok((kept.boot_id == host_boot_id()?).then_some(was_up))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(dir: &Path, name: &str) -> Definition {
        let text = format!(
            "resource {name} {{ volume 0 {{ device minor 0; disk /dev/x; meta-disk internal; }} \
             on alice {{ node-id 0; address 127.0.0.1:7789; }} \
             on bob {{ node-id 1; address 127.0.0.2:7789; }} }}"
        );
        let file = dir.join("one.res");
        std::fs::write(&file, text).unwrap();
        let files = crate::io::config_files::ConfigFiles;
        let config = crate::config::load(&files, &file.display().to_string());
        config.resources[0].clone()
    }

    #[test]
    fn what_was_kept_in_this_boot_comes_back_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let remembered = Remembered::new(dir.path());
        assert_eq!(remembered.after_a_crash(), []);
        let (a, b) = (definition(dir.path(), "a.%"), definition(dir.path(), "b"));
        let none = BTreeSet::new();
        for (one, apart) in [(&b, &none), (&a, &BTreeSet::from([1]))] {
            remembered.keep(one, apart, 0);
        }
        let a = WasUp { definition: a, apart: BTreeSet::from([1]), tries: 1 };
        let was_b = WasUp { definition: b.clone(), apart: none.clone(), tries: 1 };
        assert_eq!(remembered.after_a_crash(), [a.clone(), was_b]);
        remembered.forget("b");
        assert_eq!(remembered.after_a_crash(), [WasUp { tries: 2, ..a }]);

        let (boot_id, apart) = (host_boot_id().unwrap(), BTreeSet::new());
        let mut kept = Kept { boot_id, tries: 0, definition: b, apart };
        kept.boot_id[0] ^= 1;
        std::fs::write(remembered.path("b"), serde_json::to_vec(&kept).unwrap()).unwrap();
        // Another resource's, half a file, no file.
        kept.boot_id[0] ^= 1;
        std::fs::write(remembered.path("c"), serde_json::to_vec(&kept).unwrap()).unwrap();
        std::fs::write(remembered.path("d"), b"{\"boot_id\":[1,").unwrap();
        std::fs::create_dir(remembered.path("e")).unwrap();
        let names: Vec<String> =
            remembered.after_a_crash().into_iter().map(|one| one.definition.name).collect();
        assert_eq!(names, ["a.%"]);
        assert!(!remembered.path("b").exists() && !remembered.path("d").exists());
    }

    #[test]
    fn what_cannot_be_kept_leaves_nothing_old_behind() {
        let dir = tempfile::tempdir().unwrap();
        let remembered = Remembered::new(dir.path());
        let definition = definition(dir.path(), "r0");
        let one = WasUp { definition, apart: BTreeSet::new(), tries: 1 };
        remembered.keep(&one.definition, &one.apart, 0);
        assert_eq!(remembered.after_a_crash(), std::slice::from_ref(&one));
        // The new one cannot be written.
        std::fs::create_dir(remembered.path("r0").with_extension("part")).unwrap();
        remembered.keep(&one.definition, &one.apart, 0);
        assert!(!remembered.path("r0").exists());
        assert_eq!(remembered.after_a_crash(), []);
    }

    #[test]
    fn what_brings_the_daemon_down_again_and_again_stays_down_until_it_is_ordered_up() {
        let dir = tempfile::tempdir().unwrap();
        let remembered = Remembered::new(dir.path());
        let (definition, apart) = (definition(dir.path(), "r0"), BTreeSet::new());
        for _ in 0..2 {
            remembered.keep(&definition, &apart, 0);
            for tries in 1..=TRIES {
                let (definition, apart) = (definition.clone(), apart.clone());
                assert_eq!(remembered.after_a_crash(), [WasUp { definition, apart, tries }]);
            }
            for _ in 0..2 {
                assert_eq!(remembered.after_a_crash(), []);
            }
        }
        remembered.forget("r0");
        assert_eq!(remembered.after_a_crash(), []);
    }

    #[test]
    fn nobody_else_reads_what_may_hold_a_secret() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let remembered = Remembered::new(dir.path());
        remembered.keep(&definition(dir.path(), "r0"), &BTreeSet::new(), 0);
        let mode = std::fs::metadata(remembered.path("r0")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
