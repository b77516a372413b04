//! A block device whose writes and flushes are logged, and whose disk fails to order.
//!
//! A file behind qemu-storage-daemon (blklogwrites, and blkdebug while something is to fail),
//! exported by FUSE, with a loop device over it. A durable write to the loop device is a write and
//! a flush here; a durable write straight to the FUSE file would log no flush.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::{Outcome, at, done, folder, note, text, until};
use crate::dmlog::Log;

/// The device, and the process behind it.
pub(crate) struct Rig {
    pub(crate) device: PathBuf,
    pub(crate) log: PathBuf,
    daemon: Child,
    monitor: Option<(UnixStream, BufReader<UnixStream>)>,
    pub(crate) mount: PathBuf,
    /// Faults so far: each is a node of its own.
    faults: u32,
    below: String,
}

impl Rig {
    /// Over `raw`, a file of `size` bytes.
    pub(crate) fn new(dir: &Path, raw: &Path, size: u64) -> Outcome<Self> {
        let dir = folder(dir.to_owned())?;
        let [log, mount, socket, errors] =
            ["log", "fuse", "qmp", "stderr"].map(|name| dir.join(name));
        for file in [&log, &mount] {
            File::create(file).map_err(at(file.display()))?;
        }
        let nodes = [
            json!({"driver": "file", "node-name": "raw", "filename": text(raw),
                "discard": "unmap"}),
            json!({"driver": "file", "node-name": "log", "filename": text(&log)}),
            json!({"driver": "blklogwrites", "node-name": "good", "file": "raw", "log": "log",
                "discard": "unmap"}),
            top("good"),
        ];
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--object", "throttle-group,id=pace"]);
        for node in nodes {
            command.arg("--blockdev").arg(node.to_string());
        }
        let export = format!("fuse,id=out,node-name=top,mountpoint={},writable=on", text(&mount));
        command.arg("--export").arg(export);
        let chardev = format!("socket,id=qmp,path={},server=on,wait=off", text(&socket));
        command.args(["--chardev", &chardev, "--monitor", "chardev=qmp"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&errors).map_err(at(errors.display()))?);
        note(&format!("mount {}", text(&mount)));
        let daemon = command.spawn().map_err(at("qemu-storage-daemon"))?;
        note(&format!("pid {}", daemon.id()));
        let mut rig = Self {
            device: PathBuf::new(),
            log,
            daemon,
            monitor: None,
            mount,
            faults: 0,
            below: "good".to_owned(),
        };
        until("the FUSE file is there", || {
            if rig.daemon.try_wait().map_err(at("qemu-storage-daemon"))?.is_some() {
                return Err(fs::read_to_string(&errors).unwrap_or_default());
            }
            Ok(fs::metadata(&rig.mount).is_ok_and(|file| file.len() == size).then_some(()))
        })?;
        let stream = until("its monitor listens", || Ok(UnixStream::connect(&socket).ok()))?;
        let reader = BufReader::new(stream.try_clone().map_err(at("its monitor"))?);
        rig.monitor = Some((stream, reader));
        rig.line()?;
        rig.order("qmp_capabilities", &json!({}))?;
        let mut losetup = Command::new("losetup");
        let said = done(losetup.args(["-f", "--show", "--direct-io=off"]).arg(&rig.mount))?;
        note(&format!("loop {}", said.trim()));
        rig.device = PathBuf::from(said.trim());
        Ok(rig)
    }

    fn line(&mut self) -> Outcome<Value> {
        let mut line = String::new();
        let Some((_, reader)) = &mut self.monitor else { return Err("no monitor".to_owned()) };
        reader.read_line(&mut line).map_err(at("the monitor"))?;
        serde_json::from_str(&line).map_err(at("the monitor"))
    }

    fn order(&mut self, command: &str, arguments: &Value) -> Outcome<()> {
        let line = json!({"execute": command, "arguments": arguments}).to_string();
        let Some((stream, _)) = &mut self.monitor else { return Err("no monitor".to_owned()) };
        stream.write_all(line.as_bytes()).map_err(at("the monitor"))?;
        loop {
            let answer = self.line()?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if answer.get("event").is_none() {
                return Err(format!("{command}: {answer}"));
            }
        }
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
        self.order("blockdev-reopen", &json!({"options": [top(&below)]}))?;
        let before = std::mem::replace(&mut self.below, below);
        if before == "good" {
            return Ok(());
        }
        self.order("blockdev-del", &json!({"node-name": before}))
    }

    /// The disk becomes longer, as where an administrator extends it.
    pub(crate) fn grow(&self, size: u64) -> Outcome<()> {
        let file = File::options().write(true).open(&self.mount).map_err(at("the export"))?;
        file.set_len(size).map_err(at("the export grows"))?;
        done(Command::new("losetup").arg("-c").arg(&self.device)).map(drop)
    }

    /// What has reached the disk so far.
    pub(crate) fn logged(&self) -> Outcome<Log> {
        Log::parse(fs::read(&self.log).map_err(at(self.log.display()))?)
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
            let _ = done(Command::new("losetup").arg("-d").arg(&self.device));
            let pid = i32::try_from(self.daemon.id()).expect("a process id fits");
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.daemon.wait();
        // Where it was killed the mount is left.
        let _ = done(Command::new("umount").arg("-lq").arg(&self.mount));
    }
}
