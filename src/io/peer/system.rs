//! The name of the run of this system, as peers and devices are told of it: who is called so has what it has
//! acknowledged, in its caches or on its disk.
//!
//! Invariants:
//! - Another boot has another name; so has a run after something that was in its caches may be gone.
//! - It outlives tandemd: a crash, an upgrade or a restart loses nothing that the system has, and
//!   brings nothing back.

use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::io::backing::host_boot_id;
use crate::resource::{NodeId, ResourceConfig};

/// One resource's.
#[derive(Clone, Debug)]
pub(super) struct Run {
    resource: String,
    node_id: NodeId,
    /// `None`: it cannot be told from any other.
    boot: Option<[u8; 16]>,
    /// Something may be gone: since then it is another run.
    epoch: Option<[u8; 16]>,
    place: PathBuf,
}

impl Run {
    /// Of this boot; `run_dir` is gone with it.
    pub(super) fn new(config: &ResourceConfig, run_dir: &Path) -> Self {
        let place = run_dir.join(format!("{}.epoch", config.name));
        let epoch = std::fs::read(&place).ok().and_then(|bytes| bytes.try_into().ok());
        let boot = host_boot_id().ok();
        Self { resource: config.name.clone(), node_id: config.node_id, boot, epoch, place }
    }

    /// Zeroes: not known.
    pub(super) fn name(&self) -> [u8; 16] {
        let Some(boot) = self.boot else { return [0; 16] };
        self.digest(boot, self.epoch)
    }

    /// How it was called in an earlier boot, if nothing was gone in that one.
    pub(super) fn of_boot(&self, boot: [u8; 16]) -> [u8; 16] {
        self.digest(boot, None)
    }

    /// What was acknowledged and not flushed may be gone.
    pub(super) fn loses(&mut self) {
        let mut epoch = [0; 16];
        let drawn =
            std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut epoch));
        if drawn.is_err() {
            // No name is better than the old one.
            self.boot = None;
        }
        self.epoch = Some(epoch);
        let new = self.place.with_extension("epoch.new");
        let kept = std::fs::write(&new, epoch).and_then(|()| std::fs::rename(&new, &self.place));
        if let Err(error) = kept {
            let (resource, place) = (&self.resource, self.place.display());
            tracing::error!(target: "tandem", resource = %resource, "{place}: {error}: when tandemd is started \
                anew before the next boot, devices are not told that what they had not flushed may be gone");
        }
    }

    fn digest(&self, boot: [u8; 16], epoch: Option<[u8; 16]>) -> [u8; 16] {
        let mut bytes =
            [b"tandem system ", &boot[..], &[self.node_id], self.resource.as_bytes()].concat();
        if let Some(epoch) = epoch {
            bytes.push(0);
            bytes.extend(epoch);
        }
        Sha256::digest(bytes).first_chunk().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Options, PeerConfig};

    fn config() -> ResourceConfig {
        let peers = vec![PeerConfig { node_id: 1, name: "bob".into(), address: "x".into() }];
        ResourceConfig {
            name: "r0".into(),
            node_id: 0,
            node_name: "alice".into(),
            peers,
            volumes: Vec::new(),
            options: Options::default(),
        }
    }

    #[test]
    fn a_run_that_has_lost_something_has_another_name_also_for_the_next_tandemd() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run::new(&config(), dir.path());
        let first = run.name();
        assert_eq!(Run::new(&config(), dir.path()).name(), first);
        assert_eq!(run.of_boot(host_boot_id().unwrap()), first);
        let mut names = vec![first];
        for _ in 0..3 {
            run.loses();
            assert!(!names.contains(&run.name()));
            names.push(run.name());
            assert_eq!(Run::new(&config(), dir.path()).name(), run.name());
        }
        // In the next boot the folder is empty.
        std::fs::remove_file(dir.path().join("r0.epoch")).unwrap();
        assert_eq!(Run::new(&config(), dir.path()).name(), first);
    }
}
