//! What a state folder says of the end of a disk: written by the daemon, durably, before its metadata
//! moves; and without it a disk that has grown cannot be found again.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{Outcome, at, folder, text};

/// Versions of the file, in the order in which they came; `None`: there was none.
pub(crate) type Versions = Vec<Option<Note>>;

/// The file: its name and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    name: String,
    bytes: Vec<u8>,
}

/// A state folder that is watched.
pub(crate) struct State {
    folder: PathBuf,
    path: Option<PathBuf>,
    /// Number and time of the file that was seen last: each version is a new file.
    last: Option<(u64, i64)>,
    versions: Versions,
}

impl State {
    /// Of a node whose run folder this is.
    pub(crate) fn new(run_dir: &Path) -> Self {
        let folder = run_dir.join("state");
        Self { folder, path: None, last: None, versions: vec![None] }
    }

    /// The number of the version that is there now.
    pub(crate) fn version(&mut self) -> usize {
        if self.path.is_none() {
            let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
            let named = |path: &PathBuf| {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                name.is_some_and(|name| name.starts_with("size-") && name.ends_with(".json"))
            };
            self.path = files.map(|file| file.path()).find(named);
        }
        let Some(path) = &self.path else { return 0 };
        let key = |file: &fs::Metadata| (file.ino(), file.mtime_nsec());
        let now = fs::metadata(path).ok().map(|file| key(&file));
        if now != self.last {
            let mut bytes = Vec::new();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            // What was opened stays what it is, whatever takes its name.
            let read = File::open(path).and_then(|mut file| {
                file.read_to_end(&mut bytes)?;
                file.metadata()
            });
            self.last = read.as_ref().ok().map(key);
            let file = read.ok().map(|_| Note { name: name.unwrap_or_default(), bytes });
            self.versions.push(file);
        }
        self.versions.len() - 1
    }

    /// All that were seen.
    pub(crate) fn into_versions(self) -> Versions {
        self.versions
    }
}

/// Gives a node what a state folder had, for a disk that has another path now.
pub(crate) fn restore(run_dir: &Path, file: Option<&Note>, disk: &Path) -> Outcome<()> {
    let Some(file) = file else { return Ok(()) };
    let mut value: Value = serde_json::from_slice(&file.bytes).map_err(at("a state file"))?;
    let known = value.as_object_mut().and_then(|all| all.insert("path".into(), json!(text(disk))));
    let stem = file.name.rsplit_once('-').map(|(stem, _)| stem);
    let (Some(_), Some(stem)) = (known, stem) else {
        return Err(format!("a state file of an unknown kind: {}", file.name));
    };
    let folder = folder(run_dir.join("state"))?;
    let name = format!("{stem}-{:08x}.json", crc32fast::hash(text(disk).as_bytes()));
    fs::write(folder.join(name), value.to_string()).map_err(at(folder.display()))
}
