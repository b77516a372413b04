//! Two nodes on loopback: their folder, config, processes, and what they say of themselves.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nbd::client::{Address, Client, ClientError, Mode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::plan::Plan;
use crate::programs::Place;
use crate::wait::until;

/// Size of each backing file, bytes.
pub(crate) const DISK_SIZE: u64 = 64 << 20;

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A node: its files, and its daemon while one runs.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    /// The peer port.
    pub(crate) port: u16,
    pub(crate) run_dir: PathBuf,
    pub(crate) disk: PathBuf,
    pub(crate) config: PathBuf,
    /// What stands in front of the daemon's command line: the way into its namespace.
    pub(crate) enter: Vec<String>,
    /// More arguments of the daemon.
    pub(crate) arguments: Vec<String>,
    /// The daemon's program; `None`: the one that was built.
    pub(crate) program: Option<PathBuf>,
    pub(crate) daemon: Option<Child>,
}

/// Two nodes that share a config with the resource `r0`.
pub(crate) struct Pair {
    pub(crate) alice: Node,
    pub(crate) bob: Node,
    // Last: removed when both daemons have ended.
    pub(crate) dir: tempfile::TempDir,
    /// There is data where create-md looks for it.
    pub(crate) filled: bool,
}

impl Pair {
    /// Two blank disks and a config; nothing runs.
    pub(crate) fn blank() -> Self {
        Plan::new().blank()
    }

    /// Both daemons run, with new metadata and connected; nobody was promoted yet.
    pub(crate) fn connected() -> Self {
        Plan::new().connected()
    }

    /// alice is Primary, both disks are UpToDate.
    pub(crate) fn in_sync() -> Self {
        Plan::new().in_sync()
    }

    /// The same, and a silent peer is given up after 2.5 s.
    pub(crate) fn in_sync_and_impatient() -> Self {
        Plan::new().impatient().in_sync()
    }

    /// Starts both, with new metadata, and waits until they are connected.
    pub(crate) fn bring_up(mut self) -> Self {
        self.start_new();
        self.wait_connected();
        self
    }

    /// Starts both, with new metadata, and waits for nothing.
    pub(crate) fn start_new(&mut self) {
        for node in [&mut self.alice, &mut self.bob] {
            node.start();
            let force = format!("--force={}", if self.filled { "yes" } else { "no" });
            node.ok(&["create-md", &force, "all"]);
            node.ok(&["up", "all"]);
        }
    }

    /// Both daemons have ended: starts them again, bob first, and waits until all is well.
    pub(crate) fn start_again(&mut self) {
        for node in [&mut self.bob, &mut self.alice] {
            node.start_up();
        }
        self.wait_connected();
        self.wait_synced();
    }

    pub(crate) fn sync_from_alice(self) -> Self {
        self.alice.ok(&["primary", "--force", "all"]);
        self.wait_synced();
        self
    }

    /// alice is Primary, both disks are UpToDate, and nothing was copied: both were blank.
    pub(crate) fn sync_skipped(self) -> Self {
        self.alice.ok(&["new-current-uuid", "--clear-bitmap", "all"]);
        self.wait_synced();
        self.alice.ok(&["primary", "all"]);
        self
    }

    pub(crate) fn wait_connected(&self) {
        self.alice.ok(&["wait-connect", "--wfc-timeout", "60", "all"]);
        self.bob.ok(&["wait-connect", "--wfc-timeout", "60", "all"]);
    }

    /// Connected, nothing out of sync, both disks UpToDate on both nodes.
    pub(crate) fn wait_synced(&self) {
        for node in [&self.alice, &self.bob] {
            node.ok(&["wait-sync", "--wfc-timeout", "120", "all"]);
            until(&format!("{} sees both disks UpToDate", node.name), || {
                let states = node.ok(&["dstate", "all"]);
                states.lines().all(|state| state == "UpToDate/UpToDate").then_some(())
            });
        }
    }

    /// The export's bytes are the same in both backing files.
    pub(crate) fn assert_equal_disks(&self) {
        let size = self.alice.export_size();
        assert_eq!(size, self.bob.export_size(), "the exported sizes differ");
        assert!(size > DISK_SIZE - (2 << 20), "an export of {size} bytes");
        assert_equal(&self.alice.disk, &self.bob.disk, size);
    }
}

/// The first bytes of two files or devices are the same.
pub(crate) fn assert_equal(one: &Path, other: &Path, size: u64) {
    let (left, right) = (read_start(one, size), read_start(other, size));
    let differing: Vec<usize> = left
        .chunks(4096)
        .zip(right.chunks(4096))
        .enumerate()
        .filter_map(|(block, (a, b))| (a != b).then_some(block))
        .collect();
    assert!(differing.is_empty(), "{} blocks differ: {differing:?}", differing.len());
}

impl Node {
    fn place(&self) -> Place<'_> {
        Place { name: self.name, run_dir: &self.run_dir, config: &self.config }
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&mut self) {
        assert!(self.daemon.is_none(), "{} runs already", self.name);
        let mut words = self.enter.clone();
        let built = Path::new(env!("CARGO_BIN_EXE_tandemd"));
        words.push(text(self.program.as_deref().unwrap_or(built)).to_owned());
        words.extend(self.arguments.iter().cloned());
        let mut command = self.place().daemon(&words).expect("a log");
        // A program that a test has just written is busy while the child of another test has inherited its descriptor.
        let mut child = None;
        until(&format!("{}'s program is not being written", self.name), || {
            child = match command.spawn() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    return None;
                }
                spawned => Some(spawned.expect("tandemd starts")),
            };
            Some(())
        });
        self.daemon = child;
        until(&format!("{}'s daemon answers", self.name), || {
            if let Some(status) = self.daemon_ended() {
                panic!("{}'s daemon ended with {status}:\n{}", self.name, self.log_text());
            }
            (self.adm(&["status"]).code == 0).then_some(())
        });
    }

    /// Starts the daemon, and `r0` with it.
    pub(crate) fn start_up(&mut self) {
        self.start();
        self.ok(&["up", "r0"]);
    }

    /// A daemon was started and not ended.
    pub(crate) fn runs(&self) -> bool {
        self.daemon.is_some()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").id()
    }

    /// It ends by itself, or by an order: how.
    pub(crate) fn wait_ended(&mut self) -> ExitStatus {
        let status = until(&format!("{}'s daemon ends", self.name), || self.daemon_ended());
        self.daemon = None;
        status
    }

    fn daemon_ended(&mut self) -> Option<ExitStatus> {
        self.daemon.as_mut().expect("it runs").try_wait().expect("it is ours")
    }

    fn signal(&self, signal: Signal) {
        let id = self.daemon.as_ref().expect("it runs").id();
        let pid = Pid::from_raw(i32::try_from(id).expect("a process id fits"));
        kill(pid, signal).expect("it is ours");
    }

    /// SIGSTOP: when this returns, no thread of the daemon runs.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let id = self.daemon.as_ref().expect("it runs").id();
        until(&format!("{} stands still", self.name), || {
            let tasks = fs::read_dir(format!("/proc/{id}/task")).expect("it is there");
            let stopped = |task: std::io::Result<fs::DirEntry>| {
                let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
                // The state stands behind the name, which is in parentheses.
                Some(stat.rsplit_once(") ")?.1.starts_with('T'))
            };
            tasks.map(stopped).all(|one| one == Some(true)).then_some(())
        });
    }

    /// SIGCONT.
    pub(crate) fn wake(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.daemon.take().expect("it runs").wait().expect("it is ours");
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_ended()
    }

    /// Runs tandemadm against this node.
    pub(crate) fn adm(&self, arguments: &[&str]) -> Said {
        run(&mut self.place().adm(Path::new(env!("CARGO_BIN_EXE_tandemadm")), arguments))
    }

    /// Starts tandemadm, which writes what it says into a file.
    pub(crate) fn adm_into(&self, arguments: &[&str], file: &Path) -> Child {
        let mut command = self.place().adm(Path::new(env!("CARGO_BIN_EXE_tandemadm")), arguments);
        let file = File::create(file).expect("a file");
        command.stdin(Stdio::null()).stdout(file).spawn().expect("tandemadm starts")
    }

    /// Runs tandemadm, which has to do it.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let said = self.adm(arguments);
        assert_eq!(said.code, 0, "{}# tandemadm {arguments:?}: {said:?}", self.name);
        said.stdout
    }

    /// Runs tandemadm, which has to refuse with this exit code; what it says on standard error.
    pub(crate) fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let said = self.adm(arguments);
        assert_eq!(said.code, code, "{}# tandemadm {arguments:?}: {said:?}", self.name);
        assert!(!said.stderr.trim().is_empty(), "a refusal without a word: {arguments:?}");
        said.stderr
    }

    /// `r0` as `status --json` tells it.
    pub(crate) fn status(&self) -> Value {
        let text = self.ok(&["status", "--json", "r0"]);
        let mut all: Value = serde_json::from_str(&text).expect("status --json is JSON");
        all[0].take()
    }

    /// The own disk and the peer's, as `dstate` prints them.
    pub(crate) fn dstate(&self) -> String {
        self.ok(&["dstate", "r0"]).trim().to_owned()
    }

    pub(crate) fn connection(&self) -> Value {
        self.status()["connections"][0].take()
    }

    pub(crate) fn wait_connection(&self, state: &str, reason: &str) {
        until(&format!("{} is {state} with reason {reason}", self.name), || {
            let now = self.connection();
            (now["connection-state"] == state && now["reason"] == reason).then_some(())
        });
    }

    /// A number of the only peer-device, KiB.
    pub(crate) fn peer_kib(&self, key: &str) -> u64 {
        self.connection()["peer_devices"][0][key].as_u64().expect("a number")
    }

    /// How often its disk has begun to be synced whole. (Zeroes are not sent, so that what was
    /// received does not tell.)
    pub(crate) fn full_syncs(&self) -> usize {
        let whole = format!("as SyncTarget (will sync {} KB ", self.export_size() / 1024);
        self.log_text().matches(&whole).count()
    }

    /// Bytes of the export.
    pub(crate) fn export_size(&self) -> u64 {
        self.status()["devices"][0]["size"].as_u64().expect("a number") * 1024
    }

    /// The first bytes of the backing file.
    pub(crate) fn read_disk(&self, length: u64) -> Vec<u8> {
        read_start(&self.disk, length)
    }

    /// Where its exports are.
    pub(crate) fn nbd_address(&self) -> Address {
        Address::Unix(self.run_dir.join("nbd.sock"))
    }

    /// Opens the export as an NBD client.
    pub(crate) fn try_client(&self) -> Result<Client, ClientError> {
        self.try_client_of("r0")
    }

    /// Opens an export by its name.
    pub(crate) fn try_client_of(&self, export: &str) -> Result<Client, ClientError> {
        Client::open(&self.nbd_address(), export, Mode::Structured, Duration::from_secs(30))
    }

    /// Opens the export as an NBD client, which has to work.
    pub(crate) fn client(&self) -> Client {
        self.try_client().unwrap_or_else(|error| panic!("{}'s export: {error}", self.name))
    }

    /// Opens an export, which has to work.
    pub(crate) fn client_of(&self, export: &str) -> Client {
        self.try_client_of(export).unwrap_or_else(|error| panic!("{} {export}: {error}", self.name))
    }

    fn log(&self) -> PathBuf {
        self.run_dir.join("log")
    }

    /// Everything that the daemons of this node have logged.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = self.log_text();
            let tail: Vec<&str> = text.lines().rev().take(60).collect();
            eprintln!("---- {}'s log, the end", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn read_start(path: &Path, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).expect("it fits")];
    let file = File::open(path).expect("the disk is there");
    file.read_exact_at(&mut bytes, 0).expect("the disk is long enough");
    bytes
}

/// Runs a command to its end, a minute or two at most.
pub(crate) fn run(command: &mut Command) -> Said {
    let what = format!("{command:?}");
    // mke2fs, losetup, ip: a user's path may lack where they are.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
    let reader = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).expect("a pipe");
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = reader(Box::new(child.stdout.take().expect("it is piped")));
    let stderr = reader(Box::new(child.stderr.take().expect("it is piped")));
    let deadline = std::time::Instant::now() + Duration::from_secs(150);
    let status = until(&what, || {
        if std::time::Instant::now() > deadline {
            let _ = child.kill();
        }
        child.try_wait().expect("it is ours")
    });
    Said {
        code: status.code().unwrap_or(-1),
        stdout: stdout.join().expect("it reads"),
        stderr: stderr.join().expect("it reads"),
    }
}

/// The path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("the paths of tests are text")
}
