//! A block device whose writes and flushes are logged: a file behind qemu-storage-daemon
//! (blklogwrites, and what is put above that), exported by FUSE, with a loop device over it.
//!
//! A durable write to the loop device is a write and a flush here; a durable write straight to the
//! FUSE file would log no flush. Errors pass through as they come. `tools/cuts` and `tests/daemon`
//! use it, the latter by including this file.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long each step of the way up may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The device, and the process behind it.
pub struct LoggedDisk {
    /// The loop device.
    pub device: PathBuf,
    /// The exported file.
    pub mount: PathBuf,
    /// The log, see `dmlog`.
    pub log: PathBuf,
    daemon: Child,
    monitor: Option<(UnixStream, BufReader<UnixStream>)>,
}

impl LoggedDisk {
    /// Over `raw`, a file of `size` bytes, with its own things in `dir`, a folder. `more`: block
    /// nodes over the node `good`. `made`: told what exists now outside of this process, as
    /// `pid 12`, `mount PATH` or `loop DEVICE`.
    ///
    /// # Errors
    /// What this system or user lacks.
    pub fn new(
        dir: &Path,
        (raw, size): (&Path, u64),
        more: Vec<Value>,
        made: impl Fn(&str),
    ) -> Result<Self, String> {
        let [log, mount, socket, errors] =
            ["log", "fuse", "qmp", "stderr"].map(|name| dir.join(name));
        for file in [&log, &mount] {
            File::create(file).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        let file = |name: &str, path: &Path| {
            json!({"driver": "file", "node-name": name, "filename": path.display().to_string(),
                "discard": "unmap"})
        };
        let mut nodes = vec![
            file("raw", raw),
            file("log", &log),
            json!({"driver": "blklogwrites", "node-name": "good", "file": "raw", "log": "log",
                "discard": "unmap"}),
        ];
        nodes.extend(more);
        nodes.push(top("good"));
        let mut command = Command::new("qemu-storage-daemon");
        // The monitor first: one that is connected to while it is made greets twice, and forgets what it was told.
        let chardev = format!("socket,id=qmp,path={},server=on,wait=off", socket.display());
        command.args(["--chardev", &chardev, "--monitor", "chardev=qmp"]);
        command.args(["--object", "throttle-group,id=pace"]);
        for node in nodes {
            command.arg("--blockdev").arg(node.to_string());
        }
        let place = mount.display();
        let export = format!("fuse,id=out,node-name=top,mountpoint={place},writable=on");
        command.arg("--export").arg(export);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&errors).map_err(|error| error.to_string())?);
        made(&format!("mount {place}"));
        let daemon = command.spawn().map_err(|error| format!("qemu-storage-daemon: {error}"))?;
        made(&format!("pid {}", daemon.id()));
        let mut disk = Self { device: PathBuf::new(), mount, log, daemon, monitor: None };
        soon("the FUSE file", || {
            if !matches!(disk.daemon.try_wait(), Ok(None)) {
                return Err(fs::read_to_string(&errors).unwrap_or_default());
            }
            Ok(fs::metadata(&disk.mount).is_ok_and(|file| file.len() == size).then_some(()))
        })?;
        let stream = soon("the monitor", || Ok(UnixStream::connect(&socket).ok()))?;
        let limited = stream.set_read_timeout(Some(PATIENCE));
        let limited = limited.and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        limited.map_err(|error| format!("the monitor: {error}"))?;
        let reader = BufReader::new(stream.try_clone().map_err(|error| error.to_string())?);
        disk.monitor = Some((stream, reader));
        disk.line()?;
        disk.order("qmp_capabilities", &json!({}))?;
        let mut losetup = losetup();
        losetup.args(["-f", "--show", "--direct-io=off"]).arg(&disk.mount);
        let device = said_by("losetup", losetup)?;
        made(&format!("loop {device}"));
        disk.device = device.into();
        Ok(disk)
    }

    fn line(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        let Some((_, reader)) = &mut self.monitor else { return Err("no monitor".to_owned()) };
        reader.read_line(&mut line).map_err(|error| format!("the monitor: {error}"))?;
        serde_json::from_str(&line).map_err(|error| format!("the monitor: {error}"))
    }

    /// One order to qemu-storage-daemon.
    ///
    /// # Errors
    /// Its answer.
    pub fn order(&mut self, command: &str, arguments: &Value) -> Result<(), String> {
        let line = json!({"execute": command, "arguments": arguments}).to_string();
        let Some((stream, _)) = &mut self.monitor else { return Err("no monitor".to_owned()) };
        stream.write_all(line.as_bytes()).map_err(|error| format!("the monitor: {error}"))?;
        loop {
            let answer = self.line()?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            let other = ["event", "QMP"].iter().any(|what| answer.get(what).is_some());
            if !other {
                return Err(format!("{command}: {answer}"));
            }
        }
    }

    /// The process that serves the disk.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// From now on what is exported is over this node.
    ///
    /// # Errors
    /// What qemu-storage-daemon said.
    pub fn put_over(&mut self, below: &str) -> Result<(), String> {
        self.order("blockdev-reopen", &json!({"options": [top(below)]}))
    }

    /// The disk becomes longer, as where an administrator extends it.
    ///
    /// # Errors
    /// What the export or `losetup` said.
    pub fn grow(&self, size: u64) -> Result<(), String> {
        let file = File::options().write(true).open(&self.mount);
        let longer = file.and_then(|file| file.set_len(size));
        longer.map_err(|error| format!("{}: {error}", self.mount.display()))?;
        let mut losetup = losetup();
        losetup.arg("-c").arg(&self.device);
        said_by("losetup -c", losetup).map(drop)
    }

    /// All that has reached the disk so far, as the file has it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn log_bytes(&self) -> Result<Vec<u8>, String> {
        fs::read(&self.log).map_err(|error| format!("{}: {error}", self.log.display()))
    }
}

/// The node that is exported, over another one.
fn top(below: &str) -> Value {
    json!({"driver": "throttle", "node-name": "top", "throttle-group": "pace", "file": below,
        "discard": "unmap"})
}

/// A user's path may lack where it is.
fn losetup() -> Command {
    let mut command = Command::new("losetup");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(Stdio::null());
    command
}

/// What a command has said and how it ended; it is killed where it has not ended by then.
///
/// # Errors
/// It cannot be started, or has not ended.
pub fn output_within(command: &mut Command, limit: Duration) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    told.recv_timeout(limit).unwrap_or_else(|_| {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("it has not ended after {limit:?}")))
    })
}

/// What a command said. It hangs where what is below the device does: then it is given up.
fn said_by(what: &str, mut command: Command) -> Result<String, String> {
    let output =
        output_within(&mut command, PATIENCE).map_err(|error| format!("{what}: {error}"))?;
    let done = output.status.success();
    let said = String::from_utf8_lossy(if done { &output.stdout } else { &output.stderr });
    let said = said.trim().to_owned();
    if done { Ok(said) } else { Err(format!("{what}: {said}")) }
}

/// Asks again and again.
fn soon<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>, String>) -> Result<T, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(format!("still no sign of {what}"));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

impl Drop for LoggedDisk {
    fn drop(&mut self) {
        if self.device.as_os_str().is_empty() {
            let _ = self.daemon.kill();
        } else {
            let mut losetup = losetup();
            losetup.arg("-d").arg(&self.device);
            let _ = said_by("losetup -d", losetup);
            // It may get the signal just before it goes to sleep, and then sleeps on: until the next one.
            let ended = soon("its end", || {
                if let Ok(pid) = i32::try_from(self.daemon.id()) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
                std::thread::sleep(Duration::from_millis(50));
                Ok(self.daemon.try_wait().ok().flatten())
            });
            if ended.is_err() {
                let _ = self.daemon.kill();
            }
        }
        let _ = soon("its end", || Ok(self.daemon.try_wait().ok().flatten()));
        // Where it was killed the mount is left.
        let mut umount = Command::new("umount");
        umount.arg("-lq").arg(&self.mount);
        let _ = said_by("umount", umount);
    }
}
