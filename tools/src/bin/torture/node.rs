//! A node: its files, its daemon, and what it says of itself.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nbd::client::Address;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tandem::meta::{self, DeviceFlags, Placement, Superblock};
use tools::programs::Place;

use crate::link::FOR_CLIENTS;

/// The two nodes' names.
pub(crate) const NAMES: [&str; 2] = ["alice", "bob"];
/// Bytes of each backing file.
pub(crate) const DISK: u64 = 64 << 20;
/// How long a question to a daemon may take.
pub(crate) const QUESTION: Duration = Duration::from_secs(5);

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    /// -1: it was ended, for it took too long.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end, and ends it after `limit`.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Said {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let stderr = format!("{}: {error}", command.get_program().display());
            return Said { code: 127, stdout: String::new(), stderr };
        }
    };
    let id = child.id();
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let output = ended.recv_timeout(limit).or_else(|_| {
        signal(id, Signal::SIGKILL);
        ended.recv()
    });
    match output {
        Ok(Ok(output)) => Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
        _ => Said { code: -1, stdout: String::new(), stderr: String::new() },
    }
}

fn signal(id: u32, signal: Signal) {
    if let Ok(id) = i32::try_from(id) {
        // It may have ended.
        let _ = kill(Pid::from_raw(id), signal);
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) role: String,
    pub(crate) disk: String,
    pub(crate) connection: String,
    pub(crate) reason: String,
    pub(crate) replication: String,
    pub(crate) peer_disk: String,
    /// KiB.
    pub(crate) out_of_sync: u64,
    /// It waits for a person or the peer after a gap.
    pub(crate) gap: bool,
    /// It has come to a state that it cannot go on from.
    pub(crate) failed: bool,
}

impl State {
    fn of(value: &Value) -> Option<Self> {
        let resource = value.get(0)?;
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let connection = &resource["connections"][0];
        let peer = &connection["peer_devices"][0];
        Some(Self {
            role: text(resource, "role"),
            disk: text(&resource["devices"][0], "disk-state"),
            connection: text(connection, "connection-state"),
            reason: text(connection, "reason"),
            replication: text(peer, "replication-state"),
            peer_disk: text(peer, "peer-disk-state"),
            out_of_sync: peer["out-of-sync"].as_u64().unwrap_or_default(),
            gap: resource["suspended-gap"] == true,
            failed: resource["failed"] == true,
        })
    }

    pub(crate) fn is_primary(&self) -> bool {
        self.role == "Primary"
    }

    /// Connected, and both copies are good.
    pub(crate) fn in_sync(&self) -> bool {
        self.connection == "Connected"
            && self.disk == "UpToDate"
            && self.peer_disk == "UpToDate"
            && matches!(&*self.replication, "Established" | "VerifyS" | "VerifyT")
    }

    /// The same, and nothing runs.
    pub(crate) fn at_rest(&self) -> bool {
        self.in_sync() && self.replication == "Established"
    }
}

/// The daemon's process.
pub(crate) struct Daemon {
    child: Child,
    /// Where it records, if it does.
    pub(crate) record: Option<PathBuf>,
}

/// A node's files and how to call its programs; they do not change.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) run_dir: PathBuf,
    pub(crate) disk: PathBuf,
    config: PathBuf,
    /// Where the programs of the version that it runs are.
    pub(crate) programs: PathBuf,
    enter: Vec<String>,
}

/// The port for clients on the third host.
const NBD_PORT: u16 = 10809;

impl Node {
    /// Where clients find it: by its socket, or over TCP.
    pub(crate) fn nbd(&self, far: bool) -> Address {
        match far {
            true => Address::Tcp(format!("{}:{NBD_PORT}", FOR_CLIENTS[self.index])),
            false => Address::Unix(self.run_dir.join("nbd.sock")),
        }
    }

    /// In this folder, with its daemon in a namespace.
    pub(crate) fn new(index: usize, folder: &Path, enter: Vec<String>) -> Self {
        let name = NAMES[index];
        Self {
            index,
            run_dir: folder.join(name),
            disk: folder.join(format!("{name}.img")),
            config: folder.join("tandem.conf"),
            programs: folder.join(format!("{name}-programs")),
            enter,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        NAMES[self.index]
    }

    fn place(&self) -> Place<'_> {
        Place { name: self.name(), run_dir: &self.run_dir, config: &self.config }
    }

    /// Starts the daemon; it answers when this returns.
    ///
    /// # Errors
    /// It does not start, or not in time.
    pub(crate) fn start(&self, record: Option<PathBuf>) -> Result<Daemon, String> {
        let mut words: Vec<OsString> = self.enter.iter().map(OsString::from).collect();
        words.push(self.programs.join("tandemd").into());
        words.extend(["--nbd-insecure", "--nbd-listen"].map(OsString::from));
        words.push(format!("{}:{NBD_PORT}", FOR_CLIENTS[self.index]).into());
        if let Some(folder) = &record {
            words.extend(["--record".into(), folder.into()]);
        }
        let mut command = self.place().daemon(&words).map_err(|error| error.to_string())?;
        let child = command.spawn().map_err(|error| format!("tandemd: {error}"))?;
        let mut daemon = Daemon { child, record };
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.adm(&["status"], QUESTION).code != 0 {
            if let Some(how) = daemon.has_ended() {
                return Err(format!("{}'s tandemd does not start: {how}", self.name()));
            }
            if Instant::now() > deadline {
                return Err(format!("{}'s tandemd does not answer", self.name()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }

    /// Runs tandemadm against this node.
    pub(crate) fn adm(&self, arguments: &[&str], limit: Duration) -> Said {
        run(&mut self.place().adm(&self.programs.join("tandemadm"), arguments), limit)
    }

    /// What it says of itself, if it answers.
    pub(crate) fn state(&self) -> Option<State> {
        let said = self.adm(&["status", "--json", "r0"], QUESTION);
        State::of(&serde_json::from_str(&said.stdout).ok()?)
    }

    /// The newer good copy of the superblock, read from the file.
    pub(crate) fn superblock(&self) -> Option<Superblock> {
        let file = File::open(&self.disk).ok()?;
        let offsets = Placement::Internal { disk_size: DISK }.superblock_offsets().ok()?;
        let copies = offsets.into_iter().zip(0..).filter_map(|(offset, copy)| {
            let mut block = [0; 4096];
            file.read_exact_at(&mut block, offset).ok()?;
            meta::decode_superblock(&block, copy).ok()
        });
        copies.max_by_key(|superblock| superblock.sequence)
    }

    /// The data area.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn data(&self) -> Result<Vec<u8>, String> {
        let size = self.superblock().map_or(0, |superblock| superblock.effective_size);
        let mut bytes = vec![0; usize::try_from(size.min(DISK)).unwrap_or(0)];
        let read = File::open(&self.disk).and_then(|file| file.read_exact_at(&mut bytes, 0));
        read.map_err(|error| format!("{}: {error}", self.disk.display()))?;
        Ok(bytes)
    }

    /// The last lines of the log.
    pub(crate) fn log_end(&self, lines: usize) -> String {
        let text = fs::read(self.run_dir.join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Both disks have the same current UUID, and `other` is whole: then whatever `dead` has answered is
/// on both, for a lone answer would have begun another generation (promise 3).
pub(crate) fn same_generation(dead: &Node, other: &Node) -> bool {
    let (Some(dead), Some(other)) = (dead.superblock(), other.superblock()) else { return false };
    let whole = other.flags & DeviceFlags::CONSISTENT != 0;
    whole && dead.current_uuid & !1 == other.current_uuid & !1
}

impl Daemon {
    /// How it has ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    pub(crate) fn freeze(&self) {
        signal(self.child.id(), Signal::SIGSTOP);
    }

    pub(crate) fn wake(&self) {
        signal(self.child.id(), Signal::SIGCONT);
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM.
    ///
    /// # Errors
    /// It does not end within 60 s, or ends in another way than it should.
    pub(crate) fn terminate(mut self) -> Result<(), String> {
        signal(self.child.id(), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("ended with {status} on SIGTERM")),
                _ if Instant::now() > deadline => {
                    self.kill();
                    return Err("does not end within 60 s of SIGTERM".to_owned());
                }
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}
