//! The metadata of attached disks is saved before an order that throws something away.
//!
//! Invariants:
//! - Where the copy cannot be made, the order is refused and nothing has changed; but for
//!   `primary --force`, which ends an outage: it is carried out, and says that there is no copy.
//! - A disk that does not answer holds nobody up for longer than [`LIMIT`].

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

use super::adm::metadata::meta_disk;
use super::registry::{Entry, Registry, refusal};
use crate::io::backing::{self, Save, SavedBefore, SavedCopy};
use crate::resource::{AdminResult, Command, DiskState, Refusal, VolumeNumber};

/// How long a copy may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The order's verb, and of which volume (`None`: of all) a copy is made.
fn destroys(command: &Command) -> Option<(SavedBefore, Option<VolumeNumber>)> {
    Some(match command {
        Command::Primary { force: Some(_) } => (SavedBefore::Primary, None),
        Command::Invalidate { volume } => (SavedBefore::Invalidate, Some(*volume)),
        Command::Connect { discard_my_data: true, tentative: false, .. } => {
            (SavedBefore::Connect, None)
        }
        Command::NewCurrentUuid { volume, clear_bitmap: true } => {
            (SavedBefore::NewCurrentUuid, Some(*volume))
        }
        Command::ForgetPeer { .. } => (SavedBefore::ForgetPeer, None),
        _ => return None,
    })
}

impl Registry {
    /// Carries an order out, after a copy where it throws something away.
    ///
    /// # Errors
    /// The copy cannot be made, or the state machine refuses.
    pub(super) async fn order_saved(&self, entry: &Entry, command: Command) -> AdminResult {
        let mut command = command;
        if let Command::Resize { volume, size: size @ None, .. } = &mut command {
            *size = entry.volume(*volume).and_then(|own| own.size);
        }
        let Some((verb, volume)) = destroys(&command) else { return entry.order(command).await };
        let mut copies = Vec::new();
        let mut missing = String::new();
        for number in entry.config.volumes.iter().map(|one| one.number) {
            let attached = entry.disk_state(number) != DiskState::Diskless;
            if !attached || volume.is_some_and(|one| one != number) {
                continue;
            }
            match self.copy(entry, number, verb).await {
                Ok(copy) => copies.push(copy),
                Err(why) if verb == SavedBefore::Primary => {
                    let name = &entry.config.name;
                    warn!(resource = %name, "{name}/{number}: {}: the metadata was not saved: {why}", verb.verb());
                    missing = format!("warning: the metadata was not saved before: {why}");
                }
                Err(why) => {
                    copies.into_iter().for_each(SavedCopy::discard);
                    let hint = format!(
                        "the metadata of {}/{number} could not be saved before, so nothing was \
                         done: {why}. Make room there, or start tandemd with another --state-dir.",
                        entry.config.name
                    );
                    return Err(refusal(162, "Invalid configuration request", hint));
                }
            }
        }
        let mut text = match entry.order(command).await {
            Ok(text) => text,
            Err(refusal) => {
                copies.into_iter().for_each(SavedCopy::discard);
                return Err(refusal);
            }
        };
        for copy in copies {
            let name = &entry.config.name;
            info!(resource = %name, "{name}: {}: the metadata was saved in {}", verb.verb(), copy.keep().display());
        }
        if !missing.is_empty() && !text.is_empty() {
            text.push('\n');
        }
        Ok(text + &missing)
    }

    async fn copy(
        &self,
        entry: &Entry,
        volume: VolumeNumber,
        verb: SavedBefore,
    ) -> Result<SavedCopy, String> {
        let definition = entry.running.borrow().clone();
        let refused = |refusal: Refusal| refusal.hint;
        let (_, request) = self.disk_request(entry, &definition, volume).map_err(refused)?;
        let wall_clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let copied = tokio::task::spawn_blocking(move || {
            let save = Save { state_dir: &request.state_dir, verb, wall_clock };
            let (path, meta_disk) = (PathBuf::from(&request.disk), meta_disk(&request.meta_disk));
            backing::save_copy(&path, &meta_disk, &request.identity(), &save)
        });
        match tokio::time::timeout(LIMIT, copied).await {
            Ok(Ok(copied)) => copied.map_err(|error| error.to_string()),
            Ok(Err(_)) => Err("the copy has failed".to_owned()),
            Err(_) => Err(format!("the disk did not answer for {} s", LIMIT.as_secs())),
        }
    }
}
