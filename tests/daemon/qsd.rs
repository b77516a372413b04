//! A block device whose disk fails, slows down or is watched, to order.
//!
//! A file behind qemu-storage-daemon (blkdebug, throttle, blklogwrites), exported by FUSE, with a
//! loop device over it: this kernel has no device mapper. Errors pass through the loop device as
//! they come, and so do flushes; a durable write to the loop device is a write and a flush here.
//!
//! Declare it before the pair that uses it: it has to end after the daemons.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::namespace::skip;
use crate::pair::{DISK_SIZE, run, text};
use crate::wait::until;

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

/// The device, and the processes behind it.
pub(crate) struct Rig {
    pub(crate) device: PathBuf,
    daemon: Child,
    monitor: (UnixStream, BufReader<UnixStream>),
    mount: PathBuf,
    log: PathBuf,
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
        let [raw, log, mount, socket] = ["raw", "log", "fuse", "qmp"].map(|name| dir.join(name));
        for (file, size) in [(&raw, DISK_SIZE), (&log, 0), (&mount, 0)] {
            File::create(file).and_then(|file| file.set_len(size)).expect("a file");
        }
        let mut nodes = vec![
            json!({"driver": "file", "node-name": "raw", "filename": text(&raw),
                "discard": "unmap"}),
            json!({"driver": "file", "node-name": "log", "filename": text(&log)}),
            json!({"driver": "blklogwrites", "node-name": "good", "file": "raw", "log": "log",
                "discard": "unmap"}),
        ];
        for fault in FAULTS {
            nodes.push(json!({"driver": "blkdebug", "node-name": fault.node(), "image": "good",
                "inject-error": fault.rules(), "discard": "unmap"}));
        }
        nodes.push(top("good"));
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--object", "throttle-group,id=pace"]);
        for node in nodes {
            command.arg("--blockdev").arg(node.to_string());
        }
        let export = format!("fuse,id=out,node-name=top,mountpoint={},writable=on", text(&mount));
        command.arg("--export").arg(export);
        let chardev = format!("socket,id=qmp,path={},server=on,wait=off", text(&socket));
        command.args(["--chardev", &chardev, "--monitor", "chardev=qmp"]);
        let errors = dir.join("stderr");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&errors).expect("a file"));
        let mut daemon =
            command.spawn().map_err(|error| format!("qemu-storage-daemon: {error}"))?;
        let up = until("the FUSE file is there", || {
            if daemon.try_wait().expect("it is ours").is_some() {
                return Some(false);
            }
            fs::metadata(&mount).is_ok_and(|file| file.len() == DISK_SIZE).then_some(true)
        });
        if !up {
            return Err(fs::read_to_string(&errors).unwrap_or_default());
        }
        let stream = until("its monitor listens", || UnixStream::connect(&socket).ok());
        let reader = BufReader::new(stream.try_clone().expect("a descriptor"));
        let (device, monitor) = (PathBuf::new(), (stream, reader));
        let mut rig = Self { device, daemon, monitor, mount, log };
        rig.line();
        rig.order("qmp_capabilities", &json!({}));
        let mut losetup = Command::new("losetup");
        let said = run(losetup.args(["-f", "--show", "--direct-io=off", text(&rig.mount)]));
        if said.code != 0 {
            return Err(format!("no loop device: {}", said.stderr.trim()));
        }
        rig.device = PathBuf::from(said.stdout.trim());
        Ok(rig)
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.monitor.1.read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).expect("its answers are JSON")
    }

    fn order(&mut self, command: &str, arguments: &Value) {
        let line = json!({"execute": command, "arguments": arguments}).to_string();
        self.monitor.0.write_all(line.as_bytes()).expect("it listens");
        loop {
            let answer = self.line();
            if answer.get("event").is_none() {
                assert!(answer.get("return").is_some(), "{command}: {answer}");
                return;
            }
        }
    }

    /// From now on it fails like this.
    pub(crate) fn fail(&mut self, fault: Fault) {
        self.order("blockdev-reopen", &json!({"options": [top(&fault.node())]}));
    }

    /// From now on nothing fails.
    pub(crate) fn heal(&mut self) {
        self.order("blockdev-reopen", &json!({"options": [top("good")]}));
    }

    /// So many bytes a second at most; 0 for no bound.
    pub(crate) fn pace(&mut self, bytes: u64) {
        let limits = json!({"bps-write": bytes});
        self.order("qom-set", &json!({"path": "pace", "property": "limits", "value": limits}));
    }

    /// What has reached the disk so far, in order.
    pub(crate) fn logged(&self) -> Vec<Logged> {
        // The layout of dm-log-writes: a sector that describes the log, then entries, each a
        // sector with four numbers and then its data. Little endian.
        let bytes = fs::read(&self.log).expect("the log is there");
        let number = |at: usize| {
            bytes
                .get(at..at + 8)
                .map(|eight| u64::from_le_bytes(eight.try_into().expect("8 bytes")))
        };
        let mut at = 512;
        let mut all = Vec::new();
        while let (Some(sector), Some(sectors), Some(flags)) =
            (number(at), number(at + 8), number(at + 16))
        {
            at += 512;
            // 1 is a flush, 4 a discard; neither has data.
            match flags & 5 {
                0 => {
                    all.push(Logged::Write(sector * 512, sectors * 512));
                    at += usize::try_from(sectors * 512).expect("small");
                }
                1 => all.push(Logged::Flush),
                _ => {}
            }
        }
        all
    }
}

/// The node that is exported, over another one.
fn top(below: &str) -> Value {
    json!({"driver": "throttle", "node-name": "top", "throttle-group": "pace", "file": below,
        "discard": "unmap"})
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.device.as_os_str().is_empty() {
            let _ = self.daemon.kill();
        } else {
            run(Command::new("losetup").args(["-d", text(&self.device)]));
            let pid = i32::try_from(self.daemon.id()).expect("a process id fits");
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.daemon.wait();
        // Where it was killed the mount is left.
        run(Command::new("umount").args(["-l", text(&self.mount)]));
    }
}
