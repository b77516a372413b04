//! The metadata of attached disks is saved before an order that throws something away.
//!
//! Invariants:
//! - Where the copy cannot be made, the order is refused and nothing has changed; but for
//!   `primary --force`, which ends an outage: it is carried out, and says that there is no copy.
//! - A disk that does not answer holds nobody up for longer than [`LIMIT`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tracing::{info, warn};

use super::adm::metadata::meta_disk;
use super::data_thread::inspect_disk;
use super::registry::{Entry, Registry, refusal};
use crate::io::backing::{self, Save, SavedBefore, SavedCopy};
use crate::meta::JUST_CREATED;
use crate::resource::{AdminResult, Command, DeviceStatus, DiskState, Refusal, VolumeNumber};

/// How long the disk may take for a copy, and for what it is asked besides.
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
        // Of each disk, for all that is asked of it.
        let mut deadlines = BTreeMap::new();
        for number in entry.config.volumes.iter().map(|one| one.number) {
            let attached = entry.disk_state(number) != DiskState::Diskless;
            if !attached || volume.is_some_and(|one| one != number) {
                continue;
            }
            let deadline = Instant::now() + LIMIT;
            deadlines.insert(number, deadline);
            match self.copy(entry, number, verb, deadline).await {
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
        let larger = match verb {
            SavedBefore::Primary => self.larger_than_before(entry, &deadlines).await,
            _ => Vec::new(),
        };
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
        for line in larger.into_iter().chain(Some(missing).filter(|line| !line.is_empty())) {
            if !text.is_empty() {
                text.push('\n');
            }
            text += &line;
        }
        Ok(text)
    }

    /// New disks that would export more than their volumes had: a line each, which is logged before the order that
    /// makes the size the volume's. What is not known of a size is no reason to say anything.
    async fn larger_than_before(
        &self,
        entry: &Entry,
        deadlines: &BTreeMap<VolumeNumber, Instant>,
    ) -> Vec<String> {
        let definition = entry.running.borrow().clone();
        let name = &entry.config.name;
        let mut lines = Vec::new();
        let status = entry.thread.status();
        let is_new = |device: &&DeviceStatus| {
            device.disk_state != DiskState::Diskless && device.current_uuid & !1 == JUST_CREATED
        };
        for device in status.devices.iter().filter(is_new) {
            let volume = device.volume;
            let Some(deadline) = deadlines.get(&volume).copied() else { continue };
            let Ok((own, request)) = self.disk_request(&entry.config, &definition, volume) else {
                continue;
            };
            // Agreed with the peer, or as the file has it.
            let bound = Some(device.size).filter(|size| *size != 0).or(own.size);
            let looked = tokio::task::spawn_blocking(move || {
                let before = backing::size_before(&request.state_dir, &request.identity())?;
                let room = inspect_disk(&request).ok()?.room;
                Some((before, bound.unwrap_or(room)))
            });
            let Ok(Ok(Some((before, now)))) = tokio::time::timeout_at(deadline, looked).await
            else {
                continue;
            };
            if now <= before {
                continue;
            }
            let exported = match bound {
                Some(_) => format!("with {now} bytes"),
                None => format!("whole, {now} bytes"),
            };
            let line = format!(
                "warning: {name}/{volume}: this new disk is exported {exported}, and the volume had {before}: a \
                 peer's disk of the old size is too small for it. If that is not meant, before anything is \
                 written: `tandemadm down {name}`, `size {}s` in `disk {{ }}` of the volume on both \
                 nodes, and `create-md --force {name}/{volume}`, `up`, `primary --force` once more.",
                before / 512
            );
            warn!(resource = %name, "{}", line.trim_start_matches("warning: "));
            lines.push(line);
        }
        lines
    }

    async fn copy(
        &self,
        entry: &Entry,
        volume: VolumeNumber,
        verb: SavedBefore,
        deadline: Instant,
    ) -> Result<SavedCopy, String> {
        let definition = entry.running.borrow().clone();
        let refused = |refusal: Refusal| refusal.hint;
        let (_, request) =
            self.disk_request(&entry.config, &definition, volume).map_err(refused)?;
        let wall_clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let copied = tokio::task::spawn_blocking(move || {
            let save = Save { state_dir: &request.state_dir, verb, wall_clock };
            let (path, meta_disk) = (PathBuf::from(&request.disk), meta_disk(&request.meta_disk));
            backing::save_copy(&path, &meta_disk, &request.identity(), &save)
        });
        match tokio::time::timeout_at(deadline, copied).await {
            Ok(Ok(copied)) => copied.map_err(|error| error.to_string()),
            Ok(Err(_)) => Err("the copy has failed".to_owned()),
            Err(_) => Err(format!("the disk did not answer for {} s", LIMIT.as_secs())),
        }
    }
}
