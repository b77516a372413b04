//! Disks in use that are no longer what their path leads to: a file that was replaced (`mv`, rsync,
//! an editor) or removed. What is in use has no name then, and goes when it is let go of.
//!
//! Invariants:
//! - It is looked at rarely, on a thread that may block, never on a data thread. A path that does not
//!   answer holds up no other resource, and is not asked again meanwhile.
//! - Only what is certain is said: an error of the file system is no difference.
//! - Each change is one line in the log; `status`, `check`, `why` and the hourly line say the rest.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tracing::{info, warn};

use super::registry::{Entry, Registry};
use crate::config::{HostVolume, MetaDisk};
use crate::io::backing::{Home, OpenDisk};
use crate::resource::{DiskState, Status, VolumeNumber};

/// How often the paths are looked at.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long the path of a disk in use, or a note of it, is waited for.
pub(super) const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// A device by its number, a file by its place: names are many.
pub(super) fn identity(found: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    match found.file_type().is_block_device() {
        true => (u64::MAX, found.rdev()),
        false => (found.dev(), found.ino()),
    }
}

/// The files of a disk that was opened: by which path, and which they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Files(Vec<(PathBuf, (u64, u64))>);

/// The paths of a volume's disk: of its data, and of metadata elsewhere.
fn paths(volume: &HostVolume) -> impl Iterator<Item = &str> {
    let meta = match &volume.meta_disk {
        MetaDisk::Internal => None,
        MetaDisk::External { path } => Some(path.as_str()),
    };
    volume.disk.as_deref().into_iter().chain(meta)
}

/// Where the paths of a volume's disk lead; `None`: one of them nowhere. Blocks.
fn led_to(volume: &HostVolume) -> Option<Vec<(u64, u64)>> {
    paths(volume).map(|path| Some(identity(&std::fs::metadata(path).ok()?))).collect()
}

/// Whether the paths of a volume lead to these files, data and metadata, whatever became of the paths by which they
/// were opened. Blocks.
pub(super) fn leads_to(volume: &HostVolume, open: &[(u64, u64)]) -> bool {
    volume.disk.is_some() && led_to(volume).is_some_and(|there| there == open)
}

/// Whether the paths of one volume lead to where those of the other do, data and metadata. Blocks.
pub(super) fn are_same_files(one: &HostVolume, other: &HostVolume) -> bool {
    one.disk.is_some() && led_to(one).is_some_and(|one| led_to(other) == Some(one))
}

/// What is wrong with the paths of a volume by which these files are open; empty: each leads there. Blocks.
pub(super) fn strays(volume: &HostVolume, open: &[(u64, u64)]) -> String {
    Files(paths(volume).map(PathBuf::from).zip(open.iter().copied()).collect()).differ()
}

impl Files {
    /// The same files by the paths of `volume`; `None`: those lead elsewhere. Blocks.
    fn by(&self, volume: &HostVolume) -> Option<Self> {
        let open: Vec<(u64, u64)> = self.0.iter().map(|(_, open)| *open).collect();
        leads_to(volume, &open).then(|| Self(paths(volume).map(PathBuf::from).zip(open).collect()))
    }

    /// Whether a path of `volume` leads to one of them. Blocks.
    pub(super) fn has_one_of(&self, volume: &HostVolume) -> bool {
        let there = paths(volume).filter_map(|path| std::fs::metadata(path).ok());
        there.map(|found| identity(&found)).any(|one| self.0.iter().any(|(_, open)| *open == one))
    }

    /// Those of a volume, as it was opened.
    pub(super) fn of(volume: &HostVolume, disk: &OpenDisk) -> Self {
        let meta = match &volume.meta_disk {
            MetaDisk::Internal => None,
            MetaDisk::External { path } => Some(path.as_str()),
        };
        let one = |path: Option<&str>, file: Option<&File>| {
            Some((PathBuf::from(path?), identity(&file?.metadata().ok()?)))
        };
        let data = one(volume.disk.as_deref(), Some(&disk.data));
        Self(data.into_iter().chain(one(meta, disk.meta.as_ref())).collect())
    }

    /// What is wrong with the paths; empty: each leads where it led. Blocks.
    fn differ(&self) -> String {
        let wrong = self.0.iter().filter_map(|(path, open)| {
            let what = differs(path, *open)?;
            Some(format!("{} {what}", path.display()))
        });
        wrong.collect::<Vec<_>>().join("; ")
    }
}

fn differs(path: &Path, open: (u64, u64)) -> Option<&'static str> {
    match std::fs::metadata(path) {
        Ok(found) => (identity(&found) != open).then_some("is another file now"),
        Err(error) => {
            let gone =
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
            gone.then_some("is not there any more")
        }
    }
}

fn is_attached(status: &Status, volume: VolumeNumber) -> bool {
    let device = status.devices.iter().find(|device| device.volume == volume);
    device.is_some_and(|device| device.disk_state != DiskState::Diskless)
}

/// The disks of a resource, and what was seen of their paths last.
#[derive(Debug, Default)]
pub(super) struct Disks {
    files: RefCell<BTreeMap<VolumeNumber, Files>>,
    /// Where they are noted.
    homes: RefCell<BTreeMap<VolumeNumber, Home>>,
    differ: RefCell<BTreeMap<VolumeNumber, String>>,
    /// Somebody looks.
    busy: Cell<bool>,
}

impl Disks {
    /// A disk was attached.
    pub(super) fn attached(&self, volume: VolumeNumber, files: Files, home: Home) {
        self.homes.borrow_mut().insert(volume, home);
        self.called(volume, files);
    }

    /// By which paths a disk is known.
    fn called(&self, volume: VolumeNumber, files: Files) {
        self.files.borrow_mut().insert(volume, files);
        self.differ.borrow_mut().remove(&volume);
    }

    /// The files of a disk that was attached, which may have been let go of since.
    pub(super) fn files(&self, volume: VolumeNumber) -> Option<Files> {
        self.files.borrow().get(&volume).cloned()
    }

    /// Which files the disks in use are.
    pub(super) fn in_use(&self, status: &Status) -> Vec<(VolumeNumber, Vec<(u64, u64)>)> {
        let files = self.files.borrow();
        let in_use = files.iter().filter(|(volume, _)| is_attached(status, **volume));
        let open = |files: &Files| files.0.iter().map(|(_, open)| *open).collect();
        in_use.map(|(volume, files)| (*volume, open(files))).collect()
    }

    /// What a report says of it.
    pub(super) fn differing(&self, status: &Status) -> Vec<(VolumeNumber, String)> {
        let differ = self.differ.borrow();
        let said = differ.iter().filter(|(volume, _)| is_attached(status, **volume));
        said.map(|(volume, what)| (*volume, what.clone())).collect()
    }
}

impl Registry {
    /// Looks at the paths of all disks now and then, until the task is dropped.
    pub(super) async fn watch_paths(self: Rc<Self>) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            for entry in self.chosen(None) {
                tokio_uring::spawn(async move { entry.look_at_paths().await });
            }
        }
    }
}

impl Entry {
    /// Whether the paths of `wanted` lead to the disk in use: then they are its name from now on.
    pub(super) async fn take_name(
        self: &Rc<Self>,
        volume: VolumeNumber,
        wanted: &HostVolume,
    ) -> bool {
        let Some(files) = self.disks.files.borrow().get(&volume).cloned() else { return false };
        let (open, there) = (files.clone(), wanted.clone());
        let look = tokio::task::spawn_blocking(move || open.by(&there));
        // One that hangs is not waited for.
        let found = tokio::time::timeout(LOOK_LIMIT, look).await.ok().and_then(Result::ok);
        let stays = self.disks.files.borrow().get(&volume) == Some(&files)
            && self.disk_state(volume) != DiskState::Diskless;
        let Some(found) = found.flatten().filter(|_| stays) else { return false };
        self.disks.called(volume, found);
        self.change_volume(volume, |own| {
            own.disk.clone_from(&wanted.disk);
            own.meta_disk.clone_from(&wanted.meta_disk);
        });
        let (name, path) = (&self.config.name, wanted.disk.as_deref().unwrap_or_default());
        info!(resource = %name, "{name}/{volume}: the disk in use is called {path} now");
        // It is called so from now on, also where the state folder takes its time.
        let (entry, path) = (self.clone(), PathBuf::from(path));
        let noted = tokio_uring::spawn(async move { entry.take_note(volume, path).await });
        let _ = tokio::time::timeout(LOOK_LIMIT, noted).await;
        true
    }

    /// What is noted of a disk goes along with its name.
    async fn take_note(&self, volume: VolumeNumber, path: PathBuf) {
        let Some(home) = self.disks.homes.borrow().get(&volume).cloned() else { return };
        let named = path.display().to_string();
        let noted = tokio::task::spawn_blocking(move || home.call(&path)).await;
        if let Ok(Err(error)) = noted {
            let name = &self.config.name;
            warn!(
                resource = %name,
                "{name}/{volume}: what is noted of the disk could not be noted of {named}: {error}; if it grows while it \
                 is not in use, attach it by its old path"
            );
        }
    }

    /// Looks at the paths of the disks in use, once.
    pub(super) async fn look_at_paths(&self) {
        if self.disks.busy.replace(true) {
            return;
        }
        let looked_at = self.disks.files.borrow().clone();
        let files = looked_at.clone();
        let look = move || {
            let all = files.iter().map(|(volume, files)| (*volume, files.differ()));
            all.collect::<BTreeMap<VolumeNumber, String>>()
        };
        let seen = tokio::task::spawn_blocking(look).await;
        self.disks.busy.set(false);
        for (volume, what) in seen.unwrap_or_default() {
            // Detached, or attached anew meanwhile: what was seen is of another disk.
            let same = self.disks.files.borrow().get(&volume) == looked_at.get(&volume);
            if same && self.disk_state(volume) != DiskState::Diskless {
                self.path_seen(volume, what);
            }
        }
    }

    fn path_seen(&self, volume: VolumeNumber, what: String) {
        let name = &self.config.name;
        let mut differ = self.disks.differ.borrow_mut();
        let before = differ.get(&volume).map(String::as_str).unwrap_or_default();
        if before == what {
            return;
        }
        if what.is_empty() {
            info!(resource = %name, "{name}/{volume}: the path leads to the disk in use again");
            differ.remove(&volume);
            return;
        }
        warn!(
            resource = %name,
            "{name}/{volume}: {what}; the disk in use is the one that was attached, and is lost when it \
             is let go of; next: tandemadm why {name}"
        );
        differ.insert(volume, what);
    }
}
