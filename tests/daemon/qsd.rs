//! A block device whose disk fails, slows down or is watched, to order.
//!
//! See `tools/src/logged_disk.rs`, with blkdebug for what fails: this kernel has no device mapper.
//!
//! Declare it before the pair that uses it: it has to end after the daemons.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::dmlog::{Entry, Kind, Log};
use crate::logged_disk::LoggedDisk;
use crate::namespace::skip;
use crate::pair::DISK_SIZE;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Every read: EIO.
    Reads,
    /// Every write: EIO.
    Writes,
    /// Every write: ENOSPC.
    Full,
    /// The next flush, and only that one: EIO. A flush that failed and is tried again succeeds.
    OneFlush,
    /// Writes behind the export, in the metadata: EIO.
    MetadataWrites,
}

const FAULTS: [Fault; 5] =
    [Fault::Reads, Fault::Writes, Fault::Full, Fault::OneFlush, Fault::MetadataWrites];

impl Fault {
    fn node(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    fn rules(self) -> Value {
        let every =
            |kind: &str, errno: i32| json!({"event": "none", "iotype": kind, "errno": errno});
        match self {
            Self::Reads => json!([every("read", libc::EIO)]),
            Self::Writes => json!([every("write", libc::EIO)]),
            Self::Full => json!([every("write", libc::ENOSPC)]),
            Self::OneFlush => {
                json!([{"event": "none", "iotype": "flush", "errno": libc::EIO, "once": true}])
            }
            Self::MetadataWrites => {
                // A rule has one sector; metadata is written in blocks of 4096 bytes.
                let sectors = ((DISK_SIZE - META_SIZE) / 512..DISK_SIZE / 512).step_by(8);
                let rule = |sector| {
                    json!({"event": "none", "iotype": "write", "errno": libc::EIO,
                        "sector": sector})
                };
                sectors.map(rule).collect()
            }
        }
    }
}

/// The metadata of a disk of the usual size is no larger, bytes: the export ends before that.
const META_SIZE: u64 = 1 << 20;

/// One operation of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logged {
    /// Bytes at an offset.
    Write(u64, u64),
    Flush,
}

/// While this lives the disk answers nothing.
pub(crate) struct StandsStill(Pid);

impl Drop for StandsStill {
    fn drop(&mut self) {
        // It may have ended.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// The device, and the processes behind it.
pub(crate) struct Rig {
    pub(crate) device: PathBuf,
    disk: LoggedDisk,
}

impl Rig {
    /// `None`, said aloud, where this system or user cannot have one.
    pub(crate) fn new(test: &str, dir: &Path, name: &str) -> Option<Self> {
        Self::build(&dir.join(name)).map_err(|why| skip(test, &why)).ok()
    }

    fn build(dir: &Path) -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("loop devices need root".to_owned());
        }
        fs::create_dir(dir).expect("a folder");
        let raw = dir.join("raw");
        File::create(&raw).and_then(|file| file.set_len(DISK_SIZE)).expect("a file");
        let faulty = |fault: Fault| {
            json!({"driver": "blkdebug", "node-name": fault.node(), "image": "good",
                "inject-error": fault.rules(), "discard": "unmap"})
        };
        let disk = LoggedDisk::new(dir, (&raw, DISK_SIZE), FAULTS.map(faulty).to_vec(), |_| {})?;
        Ok(Self { device: disk.device.clone(), disk })
    }

    /// From now on it fails like this.
    pub(crate) fn fail(&mut self, fault: Fault) {
        self.disk.put_over(&fault.node()).expect("it fails");
    }

    /// From now on nothing ends, until this is dropped.
    pub(crate) fn stand_still(&self) -> StandsStill {
        let pid = Pid::from_raw(i32::try_from(self.disk.pid()).expect("a pid"));
        kill(pid, Signal::SIGSTOP).expect("it is ours");
        StandsStill(pid)
    }

    /// From now on nothing fails.
    pub(crate) fn heal(&mut self) {
        self.disk.put_over("good").expect("it is healed");
    }

    /// So many bytes a second at most; 0 for no bound.
    pub(crate) fn pace(&mut self, bytes: u64) {
        let limits = json!({"bps-write": bytes});
        let order = json!({"path": "pace", "property": "limits", "value": limits});
        self.disk.order("qom-set", &order).expect("a pace");
    }

    /// What has reached the disk so far, in order.
    pub(crate) fn logged(&self) -> Vec<Logged> {
        let log = self.disk.log_bytes().and_then(Log::parse).expect("a log");
        let one = |entry: &Entry| match entry.kind {
            // Zeroes that may make holes are a discard for the storage daemon of QEMU 7.2.
            Kind::Write { .. } | Kind::Discard => {
                Some(Logged::Write(entry.sector * 512, entry.sectors * 512))
            }
            Kind::Flush => Some(Logged::Flush),
        };
        log.entries.iter().filter_map(one).collect()
    }
}
