//! What is compared: pairs of Tandem, the quorum of QEMU's storage daemon, and servers of one copy.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Arguments;
use crate::jobs::Disk;

/// What Tandem's metadata takes behind the data, bytes, and more.
const META_ROOM: u64 = 4 << 20;
/// Bytes of the sparse exports.
pub(crate) const SPARSE: u64 = 8 << 30;
/// 7.5 % of their extents.
const SPARSE_HOT: u64 = SPARSE / (4 << 20) * 75 / 1000;
/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Tandem,
    /// Tandem with the option `busy-poll`.
    Spinning,
    Quorum,
    QemuNbd,
    Nbdkit,
    /// A raw file.
    Raw,
    /// Two raw files at once.
    Floor,
}

impl Who {
    pub(crate) const SERVERS: [Self; 5] =
        [Self::Tandem, Self::Spinning, Self::Quorum, Self::QemuNbd, Self::Nbdkit];
    pub(crate) const ALL: [Self; 7] = [
        Self::Tandem,
        Self::Spinning,
        Self::Quorum,
        Self::QemuNbd,
        Self::Nbdkit,
        Self::Raw,
        Self::Floor,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tandem => "tandem",
            Self::Spinning => "busy-poll",
            Self::Quorum => "quorum",
            Self::QemuNbd => "qemu-nbd",
            Self::Nbdkit => "nbdkit",
            Self::Raw => "raw",
            Self::Floor => "floor",
        }
    }
}

/// An export and the processes behind it, the Primary's first.
#[derive(Clone, Debug)]
pub(crate) struct Export {
    pub(crate) who: Who,
    pub(crate) socket: PathBuf,
    pub(crate) name: &'static str,
    pub(crate) pids: Vec<u32>,
}

/// A process that is killed at the end.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that runs, and its files.
#[derive(Debug)]
pub(crate) struct Servers {
    processes: Vec<Running>,
    /// On fully written files.
    pub(crate) full: Vec<Export>,
    /// On sparse files, of those that have two copies.
    sparse: Vec<Export>,
    /// The same, with the metadata of those that have any in a file of its own.
    apart: Vec<Export>,
    /// The raw files of fio.
    pub(crate) raw: [PathBuf; 2],
    /// What is left out, and why.
    pub(crate) skipped: Vec<String>,
    /// One line for each program.
    pub(crate) versions: Vec<String>,
}

impl Servers {
    /// Prepares the files in `folder` and starts everything.
    pub(crate) fn start(arguments: &Arguments, folder: &Path, size: u64) -> Result<Self, String> {
        let raw = ["fa", "fb"].map(|name| folder.join(name));
        let mut servers = Self {
            processes: Vec::new(),
            full: Vec::new(),
            sparse: Vec::new(),
            apart: Vec::new(),
            raw: raw.clone(),
            skipped: Vec::new(),
            versions: Vec::new(),
        };
        for file in &raw {
            fill(file, size)?;
        }
        servers.start_tandem(arguments, folder, size)?;
        servers.start_quorum(folder, size)?;
        servers.start_single(folder, size)?;
        Ok(servers)
    }

    /// The exports on such files.
    pub(crate) fn on(&self, disk: Disk) -> &[Export] {
        match disk {
            Disk::Full => &self.full,
            Disk::Sparse => &self.sparse,
            Disk::SparseApart => &self.apart,
        }
    }

    fn run(&mut self, folder: &Path, log: &str, command: &mut Command) -> Result<u32, String> {
        let file = File::create(folder.join(format!("{log}.log"))).map_err(|e| e.to_string())?;
        let output = file.try_clone().map_err(|e| e.to_string())?;
        command.stdin(Stdio::null()).stdout(output).stderr(file);
        let name = command.get_program().display().to_string();
        let child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        let pid = child.id();
        self.processes.push(Running(child));
        Ok(pid)
    }

    /// Whether the program is there; its version is noted, or that it is left out.
    fn has(&mut self, program: &str) -> bool {
        match said(Command::new(program).arg("--version")) {
            Ok(text) => {
                self.versions.push(text.lines().next().unwrap_or(program).trim().to_owned());
                true
            }
            Err(error) => {
                self.skipped.push(format!("{program}: {error}"));
                false
            }
        }
    }

    fn start_tandem(
        &mut self,
        arguments: &Arguments,
        folder: &Path,
        size: u64,
    ) -> Result<(), String> {
        let programs = arguments.programs()?;
        let config = folder.join("tandem.conf");
        let mut text = String::new();
        let resources = [("r0", size), ("r1", size), ("r2", SPARSE), ("r3", SPARSE)];
        for (minor, (name, bytes)) in resources.iter().enumerate() {
            for node in ["alice", "bob"] {
                let file = folder.join(format!("{node}-{name}"));
                match *name {
                    "r2" => sparse(&file, bytes + META_ROOM)?,
                    "r3" => {
                        sparse(&file, *bytes)?;
                        fill(&folder.join(format!("{node}-{name}.meta")), META_ROOM)?;
                    }
                    _ => fill(&file, bytes + META_ROOM)?,
                }
            }
            let more = match *name {
                "r1" => format!("    options {{ busy-poll {}; }}\n", arguments.busy_poll),
                _ => String::new(),
            };
            let hot = if *bytes == SPARSE { SPARSE_HOT } else { 1237 };
            let dir = folder.display();
            let meta = |node: &str| match *name {
                "r3" => format!("{dir}/{node}-{name}.meta"),
                _ => "internal".to_owned(),
            };
            let (near, far) = (meta("alice"), meta("bob"));
            let (alice, bob) = (free_port()?, free_port()?);
            text += &format!(
                "resource {name} {{\n{more}    disk {{ al-extents {hot}; }}\n    \
                 volume 0 {{ device minor {minor}; }}\n    \
                 on alice {{ node-id 0; address 127.0.0.1:{alice}; \
                 volume 0 {{ disk {dir}/alice-{name}; meta-disk {near}; }} }}\n    \
                 on bob {{ node-id 1; address 127.0.0.1:{bob}; \
                 volume 0 {{ disk {dir}/bob-{name}; meta-disk {far}; }} }}\n}}\n"
            );
        }
        fs::write(&config, text).map_err(|error| error.to_string())?;
        let call = |program: &str, node: &str| {
            let mut command = Command::new(programs.join(program));
            command.arg("-c").arg(&config).args(["--node", node]);
            command.arg("--run-dir").arg(folder.join(node));
            command
        };
        let order = |node: &str, words: &[&str]| said(call("tandemadm", node).args(words));
        let mut pids = Vec::new();
        for node in ["alice", "bob"] {
            fs::create_dir_all(folder.join(node)).map_err(|error| error.to_string())?;
            pids.push(self.run(folder, node, &mut call("tandemd", node))?);
        }
        for node in ["alice", "bob"] {
            appears(&folder.join(node).join("control.sock"))?;
            order(node, &["create-md", "--force", "all"])?;
            order(node, &["up", "all"])?;
        }
        for node in ["alice", "bob"] {
            order(node, &["wait-connect", "--wfc-timeout", "60", "all"])?;
        }
        // All files of a pair are equal already.
        order("alice", &["new-current-uuid", "--clear-bitmap", "all"])?;
        order("alice", &["primary", "all"])?;
        order("alice", &["wait-sync", "--wfc-timeout", "60", "all"])?;
        let socket = folder.join("alice").join("nbd.sock");
        let export = |who, name| Export { who, socket: socket.clone(), name, pids: pids.clone() };
        self.full.push(export(Who::Tandem, "r0"));
        self.full.push(export(Who::Spinning, "r1"));
        self.sparse.push(export(Who::Tandem, "r2"));
        self.apart.push(export(Who::Tandem, "r3"));
        let version = said(Command::new(programs.join("tandemd")).arg("--version"))?;
        self.versions.push(version.lines().next().unwrap_or_default().to_owned());
        Ok(())
    }

    fn start_quorum(&mut self, folder: &Path, size: u64) -> Result<(), String> {
        if !self.has("qemu-storage-daemon") {
            return Ok(());
        }
        let exports = [("r0", size, 0), ("r2", SPARSE, 2), ("r3", SPARSE, 3)];
        let port = free_port()?;
        let socket = folder.join("quorum.sock");
        let dir = folder.display();
        let (mut near, mut far) = (Vec::new(), Vec::new());
        let file = |node: &str, name: &str| {
            format!(
                "driver=file,node-name={node}{name},filename={dir}/{node}-{name},\
                 cache.direct=on,aio=io_uring,discard=unmap"
            )
        };
        let option = |list: &mut Vec<String>, name: &str, value: String| {
            list.extend([format!("--{name}"), value]);
        };
        for (name, bytes, _) in exports {
            for node in ["near", "far"] {
                let path = folder.join(format!("{node}-{name}"));
                if bytes == SPARSE { sparse(&path, bytes)? } else { fill(&path, bytes)? }
            }
            option(&mut far, "blockdev", file("far", name));
            option(&mut near, "blockdev", file("near", name));
            let remote = format!(
                "driver=nbd,node-name=remote{name},server.type=inet,server.host=127.0.0.1,\
                 server.port={port},export={name}"
            );
            option(&mut near, "blockdev", remote);
            let quorum = format!(
                "driver=quorum,node-name=quorum{name},children.0=near{name},\
                 children.1=remote{name},vote-threshold=2,read-pattern=fifo"
            );
            option(&mut near, "blockdev", quorum);
        }
        let listen = format!("addr.type=inet,addr.host=127.0.0.1,addr.port={port}");
        option(&mut far, "nbd-server", listen);
        let listen = format!("addr.type=unix,addr.path={}", socket.display());
        option(&mut near, "nbd-server", listen);
        for (name, _, id) in exports {
            let export = |node: &str| {
                format!("type=nbd,id=e{id},node-name={node}{name},name={name},writable=on")
            };
            option(&mut far, "export", export("far"));
            option(&mut near, "export", export("quorum"));
        }
        let program = "qemu-storage-daemon";
        let far = self.run(folder, "quorum-far", Command::new(program).args(far))?;
        listens(port)?;
        let near = self.run(folder, "quorum-near", Command::new(program).args(near))?;
        appears(&socket)?;
        let who = Who::Quorum;
        let pids = vec![near, far];
        let export = |name| Export { who, socket: socket.clone(), name, pids: pids.clone() };
        self.full.push(export("r0"));
        self.sparse.push(export("r2"));
        self.apart.push(export("r3"));
        Ok(())
    }

    fn start_single(&mut self, folder: &Path, size: u64) -> Result<(), String> {
        for (who, program) in [(Who::QemuNbd, "qemu-nbd"), (Who::Nbdkit, "nbdkit")] {
            if !self.has(program) {
                continue;
            }
            let (file, socket) = (folder.join(program), folder.join(format!("{program}.sock")));
            fill(&file, size)?;
            let mut command = Command::new(program);
            if who == Who::QemuNbd {
                command.args(["--format=raw", "--persistent", "--shared=8", "--discard=unmap"]);
                command.args(["--cache=none", "--aio=io_uring", "--export-name=r0"]);
                command.arg(format!("--socket={}", socket.display())).arg(&file);
            } else {
                command.args(["--foreground", "--threads=16", "--unix"]).arg(&socket);
                command.args(["-e", "r0", "file"]).arg(format!("file={}", file.display()));
            }
            let pid = self.run(folder, program, &mut command)?;
            appears(&socket)?;
            self.full.push(Export { who, socket, name: "r0", pids: vec![pid] });
        }
        Ok(())
    }
}

/// What a program printed; an error says what it complained of.
fn said(command: &mut Command) -> Result<String, String> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{} {}: {complaint}", name.display(), words.join(" ")))
}

/// Tries until it works.
fn until(what: &str, works: impl Fn() -> bool) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    while !works() {
        if Instant::now() > end {
            return Err(format!("{what} does not come up"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn appears(socket: &Path) -> Result<(), String> {
    let name = socket.display().to_string();
    until(&name, || std::os::unix::net::UnixStream::connect(socket).is_ok())
}

fn listens(port: u16) -> Result<(), String> {
    let address = ("127.0.0.1", port);
    until(&format!("port {port}"), || std::net::TcpStream::connect(address).is_ok())
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
    Ok(listener.local_addr().map_err(|error| error.to_string())?.port())
}

/// A file whose every block is written, all of them with the same bytes.
fn fill(path: &Path, bytes: u64) -> Result<(), String> {
    let write = || {
        let mut file = File::create(path)?;
        let mut piece = vec![0_u8; 1 << 20];
        let mut word = 0x1234_5678_9abc_def1_u64;
        for byte in &mut piece {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            *byte = (word >> 56) as u8;
        }
        let mut left = bytes;
        while left > 0 {
            let now = left.min(piece.len() as u64);
            file.write_all(&piece[..now as usize])?;
            left -= now;
        }
        file.sync_all()
    };
    write().map_err(|error: std::io::Error| format!("{}: {error}", path.display()))
}

fn sparse(path: &Path, bytes: u64) -> Result<(), String> {
    let file = File::create(path).and_then(|file| file.set_len(bytes));
    file.map_err(|error| format!("{}: {error}", path.display()))
}
