//! What an `up` would be refused with, before it is given: for `-d up` and `why`.
//!
//! Invariant: nothing is changed, neither here nor on a disk.

use super::registry::{Registry, of_volume};
use crate::config::Definition;
use crate::resource::{AdminResult, DiskState};

impl Registry {
    /// Whether an `up` would be refused. What the state machine, or the peer, has against a disk is not known before it
    /// is attached.
    ///
    /// # Errors
    /// Those of `up`.
    pub(crate) async fn check_up(&self, definition: &Definition) -> AdminResult {
        let config = self.check(definition)?;
        let entry = self.entry(&config.name);
        match &entry {
            Some(entry) => self.is_up_as(entry, definition)?,
            None => {
                self.minors_are_free(definition, &config)?;
                self.no_cycle(definition)?;
            }
        }
        let is_attached =
            |volume| entry.as_ref().is_some_and(|up| up.disk_state(volume) != DiskState::Diskless);
        let with_disk = config.volumes.iter().filter(|volume| volume.disk != "none");
        for volume in with_disk.map(|volume| volume.number).filter(|one| !is_attached(*one)) {
            let opened = self.would_open(&config, definition, volume).await;
            opened.map_err(|refusal| of_volume(&config, volume, refusal))?;
        }
        Ok(String::new())
    }
}
