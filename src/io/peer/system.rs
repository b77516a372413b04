//! The name of the run of this system, as peers and devices are told of it: who is called so has what it has
//! acknowledged, in its caches or on its disk.
//!
//! Invariants:
//! - Another boot has another name; and so has a run after something that was in its caches may be gone.
//! - It outlives tandemd: a crash, an upgrade or a restart loses nothing that the system has, and
//!   brings nothing back.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::io::backing::host_boot_id;
use crate::resource::{NodeId, ResourceConfig};

/// Boots in which something was lost that are remembered: their disks may be attached yet.
const BOOTS_MAX: usize = 16;
/// A boot id, and what was drawn at the last loss in that boot.
const ENTRY: usize = 32;

/// One resource's.
#[derive(Clone, Debug)]
pub(super) struct Run {
    resource: String,
    node_id: NodeId,
    /// `None`: it cannot be told from any other.
    boot: Option<[u8; 16]>,
    /// Boots in which something may be gone, the newest last: since then each is another run.
    losses: Vec<[u8; ENTRY]>,
    place: PathBuf,
}

impl Run {
    /// Of this boot; `state_dir` outlives it.
    pub(super) fn new(config: &ResourceConfig, state_dir: &Path) -> Self {
        let place = state_dir.join(format!("{}.losses", config.name));
        let bytes = std::fs::read(&place).unwrap_or_default();
        let losses = bytes.as_chunks::<ENTRY>().0.to_vec();
        let boot = host_boot_id().ok();
        Self { resource: config.name.clone(), node_id: config.node_id, boot, losses, place }
    }

    /// Zeroes: not known.
    pub(super) fn name(&self) -> [u8; 16] {
        self.boot.map_or([0; 16], |boot| self.of_boot(boot))
    }

    /// How it was called at the end of a boot.
    pub(super) fn of_boot(&self, boot: [u8; 16]) -> [u8; 16] {
        let id = [&[self.node_id], self.resource.as_bytes()].concat();
        let mut bytes = [b"tandem system ", &boot[..], &id].concat();
        if let Some(loss) = self.losses.iter().find(|loss| loss[..16] == boot) {
            bytes.push(0);
            bytes.extend(&loss[16..]);
        }
        Sha256::digest(bytes).first_chunk().copied().unwrap_or_default()
    }

    /// What was acknowledged and not flushed may be gone.
    pub(super) fn loses(&mut self) {
        let Some(boot) = self.boot else { return };
        let mut loss = [0; ENTRY];
        loss[..16].copy_from_slice(&boot);
        let random = File::open("/dev/urandom");
        if random.and_then(|mut file| file.read_exact(&mut loss[16..])).is_err() {
            // No name is better than the old one.
            self.boot = None;
            return;
        }
        self.losses.retain(|one| one[..16] != boot);
        if self.losses.len() >= BOOTS_MAX {
            self.losses.remove(0);
        }
        self.losses.push(loss);
        let new = self.place.with_extension("losses.new");
        // A disk that is closed in order after this says that all is on it.
        let kept = (|| {
            let mut file = File::create(&new)?;
            file.write_all(self.losses.as_flattened())?;
            file.sync_all()?;
            std::fs::rename(&new, &self.place)?;
            self.place.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        })();
        if let Err(error) = kept {
            let error: std::io::Error = error;
            let (resource, place) = (&self.resource, self.place.display());
            tracing::error!(target: "tandem", resource = %resource, "{place}: {error}: when tandemd is started \
                anew, devices are not told that what they had not flushed may be gone");
        }
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
    fn a_run_that_has_lost_something_has_another_name_also_in_the_next_daemon_and_boot() {
        let dir = tempfile::tempdir().unwrap();
        let in_boot = |boot: u8| Run { boot: Some([boot; 16]), ..Run::new(&config(), dir.path()) };
        let mut run = in_boot(1);
        let first = run.name();
        assert_eq!(in_boot(1).name(), first);
        assert_eq!(in_boot(2).of_boot([1; 16]), first, "nothing was lost in that one");
        let mut names = vec![first, in_boot(2).name()];
        for _ in 0..3 {
            run.loses();
            assert!(!names.contains(&run.name()));
            names.push(run.name());
            assert_eq!(in_boot(1).name(), run.name());
            assert_eq!(in_boot(2).of_boot([1; 16]), run.name());
        }
        // Other boots' losses are their own.
        in_boot(2).loses();
        assert_eq!(in_boot(1).name(), run.name());
        assert!(!names.contains(&in_boot(2).name()));
        for boot in 3..40 {
            in_boot(boot).loses();
        }
        let kept = std::fs::metadata(dir.path().join("r0.losses")).unwrap().len();
        assert_eq!(kept, (BOOTS_MAX * ENTRY) as u64);
        let unknown = Run { boot: None, ..in_boot(1) };
        assert_eq!(unknown.name(), [0; 16]);
    }
}
