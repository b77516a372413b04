//! Two daemons with their resources, on files of this program, and the orders to them.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use crate::link::Link;

/// How long a daemon may take to come up, or an order.
const PATIENCE: Duration = Duration::from_secs(60);
/// Room for the metadata beside so many bytes of data.
fn metadata(bytes: u64) -> u64 {
    (bytes >> 14) + (8 << 20)
}

/// Two nodes, alice and bob.
pub(crate) struct Pair {
    programs: PathBuf,
    folder: PathBuf,
    nodes: [Option<Child>; 2],
}

/// The names of the nodes.
pub(crate) const NODES: [&str; 2] = ["alice", "bob"];

impl Pair {
    /// `count` resources r0, r1, ... of `bytes` each; `filled`: every block is written.
    pub(crate) fn new(
        programs: &Path,
        folder: &Path,
        (count, bytes): (usize, u64),
        filled: bool,
    ) -> Result<Self, String> {
        Self::linked(programs, folder, (count, bytes), filled, None)
    }

    /// As [`Self::new`]; each node dials the other one through the link.
    pub(crate) fn linked(
        programs: &Path,
        folder: &Path,
        (count, bytes): (usize, u64),
        filled: bool,
        link: Option<&Arc<Link>>,
    ) -> Result<Self, String> {
        let mut configs = [String::new(), String::new()];
        let ports = free_ports(2 * count)?;
        let dir = folder.display();
        for number in 0..count {
            let begin = format!(
                "resource r{number} {{ volume 0 {{ device minor {number}; meta-disk internal; }}\n"
            );
            configs.iter_mut().for_each(|config| *config += &begin);
            for (id, node) in NODES.iter().enumerate() {
                let path = folder.join(format!("{node}-r{number}"));
                make(&path, bytes + metadata(bytes), filled)?;
                let own = ports[2 * number + id];
                let dialled = link.map_or(Ok(own), |link| link.before(own))?;
                for (reader, config) in configs.iter_mut().enumerate() {
                    let port = if reader == id { own } else { dialled };
                    *config += &format!(
                        "  on {node} {{ node-id {id}; address 127.0.0.1:{port}; \
                         volume 0 {{ disk {dir}/{node}-r{number}; }} }}\n"
                    );
                }
            }
            configs.iter_mut().for_each(|config| *config += "}\n");
        }
        for (node, config) in NODES.iter().zip(configs) {
            std::fs::write(folder.join(format!("{node}.conf")), config).map_err(text)?;
        }
        let mut pair =
            Self { programs: programs.to_owned(), folder: folder.to_owned(), nodes: [None, None] };
        for (node, name) in NODES.iter().enumerate() {
            std::fs::create_dir_all(folder.join(name)).map_err(text)?;
            pair.start(node)?;
            pair.order(node, &["create-md", "--force", "all"])?;
            pair.order(node, &["up", "all"])?;
        }
        pair.order(0, &["wait-connect", "--wfc-timeout", "60", "all"])?;
        Ok(pair)
    }

    fn call(&self, program: &str, node: usize) -> Command {
        let mut command = Command::new(self.programs.join(program));
        let config = self.folder.join(format!("{}.conf", NODES[node]));
        command.arg("-c").arg(config).args(["--node", NODES[node]]);
        command.arg("--run-dir").arg(self.folder.join(NODES[node]));
        command.stdin(Stdio::null());
        command
    }

    /// The daemon of a node, until its admin socket answers.
    pub(crate) fn start(&mut self, node: usize) -> Result<(), String> {
        let log = File::create(self.folder.join(format!("{}.log", NODES[node]))).map_err(text)?;
        let copy = log.try_clone().map_err(text)?;
        let mut command = self.call("tandemd", node);
        let child = command.stdout(copy).stderr(log).spawn();
        self.nodes[node] = Some(child.map_err(|error| format!("tandemd: {error}"))?);
        let socket = self.folder.join(NODES[node]).join("control.sock");
        let end = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if Instant::now() > end {
                return Err(format!("{} does not come up", NODES[node]));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// An order, and how long it took.
    pub(crate) fn order(&self, node: usize, words: &[&str]) -> Result<Duration, String> {
        let begun = Instant::now();
        self.say(node, words)?;
        Ok(begun.elapsed())
    }

    /// An order, and what it said.
    pub(crate) fn say(&self, node: usize, words: &[&str]) -> Result<String, String> {
        let output = self.call("tandemadm", node).args(words).output().map_err(text)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}: tandemadm {}: {complaint}", NODES[node], words.join(" ")))
    }

    /// Bytes that were out of sync when the last resync to this node began, and how many of them were equal.
    pub(crate) fn resynced(&self, node: usize) -> Result<(u64, u64), String> {
        let path = self.folder.join(format!("{}.log", NODES[node]));
        let log = std::fs::read_to_string(&path).map_err(text)?;
        let kib = |begin: &str, end: &str| {
            let line = log.lines().rfind(|line| line.contains(begin) && line.contains(end))?;
            line.split(end).next()?.rsplit([' ', ',']).find(|word| !word.is_empty())?.parse().ok()
        };
        let covered: Option<u64> = kib("Began resync as SyncTarget", " KB [");
        let equal: Option<u64> = kib("Resync done", " KiB equal");
        let found = covered.zip(equal).map(|(covered, equal)| (covered << 10, equal << 10));
        found.ok_or_else(|| format!("{}: no resync has ended", path.display()))
    }

    /// The daemon is gone at once.
    pub(crate) fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The URI of an export of a node, for fio.
    pub(crate) fn uri(&self, node: usize, resource: &str) -> String {
        let socket = self.folder.join(NODES[node]).join("nbd.sock");
        format!("nbd+unix:///{resource}?socket={}", socket.display())
    }

    /// The backing file of a node.
    pub(crate) fn disk(&self, node: usize, resource: &str) -> PathBuf {
        self.folder.join(format!("{}-{resource}", NODES[node]))
    }

    /// Bytes that a backing file takes.
    pub(crate) fn allocated(&self, node: usize, resource: &str) -> Result<u64, String> {
        Ok(std::fs::metadata(self.disk(node, resource)).map_err(text)?.blocks() * 512)
    }

    /// Resident memory of a daemon, bytes.
    pub(crate) fn resident(&self, node: usize) -> Result<u64, String> {
        let status = self.proc(node, "status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.ok_or("no VmRSS")? << 10)
    }

    /// Processor time of a daemon so far, of all its threads. By its own clock: the ticks in /proc are samples, and
    /// threads that wake up by timers are met by more of them than they use.
    pub(crate) fn processor(&self, node: usize) -> Result<Duration, String> {
        let id = self.nodes[node].as_ref().map(Child::id).ok_or("it does not run")?;
        let pid = Pid::from_raw(i32::try_from(id).map_err(|error| error.to_string())?);
        let clock = clock_getcpuclockid(pid).map_err(|error| error.to_string())?;
        clock.now().map(Duration::from).map_err(|error| error.to_string())
    }

    fn proc(&self, node: usize, file: &str) -> Result<String, String> {
        let id = self.nodes[node].as_ref().map(Child::id).ok_or("it does not run")?;
        std::fs::read_to_string(format!("/proc/{id}/{file}")).map_err(text)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.kill(0);
        self.kill(1);
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

/// So many ports that nobody has, all different.
fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let bind = |_| std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(text);
    let listeners: Vec<_> = (0..count).map(bind).collect::<Result<_, _>>()?;
    listeners.iter().map(|one| Ok(one.local_addr().map_err(text)?.port())).collect()
}

fn make(path: &Path, bytes: u64, filled: bool) -> Result<(), String> {
    use std::io::Write;
    let mut file = File::create(path).map_err(text)?;
    if !filled {
        return file.set_len(bytes).map_err(text);
    }
    let mut word = 0x1234_5678_9abc_def1_u64;
    let piece: Vec<u8> = (0..1 << 20)
        .map(|_| {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (word >> 56) as u8
        })
        .collect();
    let mut left = bytes;
    while left > 0 {
        let now = left.min(piece.len() as u64);
        file.write_all(&piece[..now as usize]).map_err(text)?;
        left -= now;
    }
    file.sync_all().map_err(text)
}
