//! A block device whose writes and flushes are logged (see `tools::logged_disk`), and whose disk fails
//! to order: blkdebug, while something is to fail.

use std::ops::{Deref, DerefMut};
use std::path::Path;

use serde_json::{Value, json};
use tools::dmlog::Log;
use tools::logged_disk::LoggedDisk;

use crate::common::{Outcome, folder, note};

/// The device, and the process behind it.
pub(crate) struct Rig {
    disk: LoggedDisk,
    /// Faults so far: each is a node of its own.
    faults: u32,
    below: String,
}

impl Rig {
    /// Over `raw`, a file of `size` bytes.
    pub(crate) fn new(dir: &Path, raw: &Path, size: u64) -> Outcome<Self> {
        let dir = folder(dir.to_owned())?;
        let disk = LoggedDisk::new(&dir, (raw, size), Vec::new(), note)?;
        Ok(Self { disk, faults: 0, below: "good".to_owned() })
    }

    /// From now on these rules of blkdebug hold.
    pub(crate) fn fail(&mut self, rules: &Value) -> Outcome<()> {
        self.faults += 1;
        let name = format!("bad{}", self.faults);
        self.order(
            "blockdev-add",
            &json!({"driver": "blkdebug", "node-name": name, "image": "good",
                "inject-error": rules, "discard": "unmap"}),
        )?;
        self.reopen(name)
    }

    /// From now on nothing fails.
    pub(crate) fn heal(&mut self) -> Outcome<()> {
        // What is above is flushed first, and meets what is left of a fault of flushes.
        let mut tries = 0;
        loop {
            tries += 1;
            match self.reopen("good".to_owned()) {
                Err(error) if tries < 100 && error.contains("flushing") => {}
                done => return done,
            }
        }
    }

    fn reopen(&mut self, below: String) -> Outcome<()> {
        self.put_over(&below)?;
        let before = std::mem::replace(&mut self.below, below);
        if before == "good" {
            return Ok(());
        }
        self.order("blockdev-del", &json!({"node-name": before}))
    }

    /// What has reached the disk so far.
    pub(crate) fn logged(&self) -> Outcome<Log> {
        Log::parse(self.log_bytes()?)
    }
}

impl Deref for Rig {
    type Target = LoggedDisk;

    fn deref(&self) -> &LoggedDisk {
        &self.disk
    }
}

impl DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut LoggedDisk {
        &mut self.disk
    }
}
