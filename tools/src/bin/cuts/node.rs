//! A pair of real daemons on loopback, and what they say.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nbd::client::{Address, Client, Mode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tools::programs::Place;

use crate::common::{Outcome, Said, at, folder, note, run, text, until};

const NAMES: [&str; 2] = ["alice", "bob"];

static BINARIES: OnceLock<PathBuf> = OnceLock::new();

/// The folder with tandemd and tandemadm.
pub(crate) fn binaries(folder: PathBuf) {
    BINARIES.get_or_init(|| folder);
}

fn binary(name: &str) -> PathBuf {
    BINARIES.get().map(|folder| folder.join(name)).unwrap_or_else(|| PathBuf::from(name))
}

/// A node: its files, and its daemon while one runs.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) dir: PathBuf,
    pub(crate) disk: PathBuf,
    config: PathBuf,
    daemon: Option<Child>,
}

/// The options of a pair.
pub(crate) struct Options {
    pub(crate) net: &'static str,
    pub(crate) disk: &'static str,
}

/// A busy machine is not taken for a peer that is gone.
pub(crate) const CALM: &str = "ping-int 5; ping-timeout 300; timeout 600; connect-int 1;";

/// Writes the config of two nodes in `dir`; nothing runs. Two more disks are for metadata.
pub(crate) fn pair(dir: &Path, disks: &[&Path], options: &Options) -> Outcome<[Node; 2]> {
    // A network of its own for each pair, so that no port is anyone else's.
    static PAIRS: AtomicU32 = AtomicU32::new(0);
    let pair = PAIRS.fetch_add(1, Ordering::Relaxed) % (120 * 250);
    let network = format!("127.{}.{}", 128 + pair / 250, 1 + pair % 250);
    let port = 20_000 + std::process::id() % 10_000;
    let config = dir.join("tandem.conf");
    let mut text = format!(
        "resource r0 {{\n    net {{ protocol C; {} }}\n    disk {{ {} }}\n",
        options.net, options.disk
    );
    for (id, (name, disk)) in NAMES.iter().zip(disks).enumerate() {
        let meta =
            disks.get(id + 2).map_or("internal".to_owned(), |disk| crate::common::text(disk));
        text.push_str(&format!(
            "    on {name} {{ node-id {id}; address {network}.{}:{port};\n        volume 0 {{ device \
             minor 0; disk {}; meta-disk {meta}; }}\n    }}\n",
            id + 1,
            disk.display()
        ));
    }
    text.push_str("}\n");
    folder(dir.to_owned())?;
    fs::write(&config, text).map_err(at(config.display()))?;
    let node = |index: usize| -> Outcome<Node> {
        let name = NAMES[index];
        let (dir, disk) = (folder(dir.join(name))?, disks[index].to_owned());
        Ok(Node { name, dir, disk, config: config.clone(), daemon: None })
    };
    Ok([node(0)?, node(1)?])
}

impl Node {
    fn place(&self) -> Place<'_> {
        Place { name: self.name, run_dir: &self.dir, config: &self.config }
    }

    /// Starts the daemon and waits until it listens.
    pub(crate) fn start(&mut self) -> Outcome<()> {
        let mut command = self.place().daemon(&[binary("tandemd")]).map_err(at("a log"))?;
        let child = command.spawn().map_err(at("tandemd"))?;
        note(&format!("pid {}", child.id()));
        self.daemon = Some(child);
        let socket = self.dir.join("control.sock");
        until(format!("{} answers", self.name), || {
            self.lives()?;
            Ok(UnixStream::connect(&socket).ok().map(drop))
        })
    }

    /// Starts the daemon, and `r0` with it.
    pub(crate) fn start_up(&mut self) -> Outcome<()> {
        self.start()?;
        self.ok(&["up", "r0"]).map(drop)
    }

    /// Whether a daemon was started and has not been ended.
    pub(crate) fn runs(&self) -> bool {
        self.daemon.is_some()
    }

    /// # Errors
    /// The daemon has ended by itself.
    pub(crate) fn lives(&mut self) -> Outcome<()> {
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        match daemon.try_wait().map_err(at("tandemd"))? {
            None => Ok(()),
            Some(status) => Err(format!("{}'s daemon ended with {status}", self.name)),
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(daemon) = &self.daemon {
            let pid = i32::try_from(daemon.id()).expect("a process id fits");
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let Some(mut daemon) = self.daemon.take() else { return };
        // Where the kernel does not let go of it, the disk below hangs: whoever needs it says so.
        let ended =
            until(format!("{} is dead", self.name), || Ok(daemon.try_wait().ok().flatten()));
        if let Err(error) = ended {
            eprintln!("{error}");
        }
    }

    /// Runs tandemadm against this node.
    pub(crate) fn adm(&self, arguments: &[&str]) -> Outcome<Said> {
        run(&mut self.place().adm(&binary("tandemadm"), arguments))
    }

    /// Runs tandemadm, which has to do it.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Outcome<String> {
        let said = self.adm(arguments)?;
        if said.code == 0 {
            return Ok(said.stdout);
        }
        Err(format!("{}# tandemadm {arguments:?}: {said:?}", self.name))
    }

    /// `r0` as `status --json` tells it.
    pub(crate) fn status(&self) -> Outcome<Value> {
        let text = self.ok(&["status", "--json", "r0"])?;
        let mut all: Value = serde_json::from_str(&text).map_err(at("status --json"))?;
        Ok(all[0].take())
    }

    /// Opens the export as an NBD client.
    pub(crate) fn client(&self) -> Outcome<Client> {
        let address = Address::Unix(self.dir.join("nbd.sock"));
        let opened = Client::open(&address, "r0", Mode::Structured, Duration::from_secs(60));
        opened.map_err(at(format!("{}'s export", self.name)))
    }

    /// Everything that the daemons of this node have logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Bytes of the export.
    pub(crate) fn size(&self) -> Outcome<u64> {
        let kib = self.status()?["devices"][0]["size"].as_u64();
        Ok(kib.ok_or("no size in status")? * 1024)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a pair has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Connected, both disks UpToDate, nothing out of sync.
    InSync,
    /// This node refuses the other, with its reason.
    Refused(String),
}

/// What a node says: in sync, refused, or something on the way.
pub(crate) fn rest_of(node: &Node) -> Outcome<Result<Rest, String>> {
    let now = node.status()?;
    let connection = &now["connections"][0];
    let peer = &connection["peer_devices"][0];
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let state = text(&connection["connection-state"]);
    let reason = text(&connection["reason"]);
    let disk = text(&now["devices"][0]["disk-state"]);
    let other = text(&peer["peer-disk-state"]);
    let replication = text(&peer["replication-state"]);
    let out = peer["out-of-sync"].as_u64();
    let all = format!("{state} {reason} {replication} {disk}/{other} {out:?}");
    let synced = state == "Connected"
        && replication == "Established"
        && disk == "UpToDate"
        && other == "UpToDate"
        && out == Some(0);
    Ok(if synced {
        Ok(Rest::InSync)
    } else if state == "StandAlone" {
        Ok(Rest::Refused(reason))
    } else {
        Err(all)
    })
}

/// Waits until both are in sync, or refuse each other.
pub(crate) fn settle(nodes: &mut [Node; 2]) -> Outcome<Rest> {
    let mut last = [String::new(), String::new()];
    let settled = until("the pair settles", || {
        let mut found = Vec::new();
        for (node, last) in nodes.iter_mut().zip(&mut last) {
            node.lives()?;
            let rest = rest_of(node)?;
            *last = rest.clone().err().unwrap_or_default();
            found.push(rest);
        }
        // A refusal is known to both, unless one has died since: then that one dials in vain. While
        // one still is in sync it is on its way.
        Ok(match (&found[0], &found[1]) {
            (Ok(one), Ok(other)) if one == other => Some(one.clone()),
            (Ok(Rest::Refused(reason)), Err(now)) | (Err(now), Ok(Rest::Refused(reason)))
                if now.starts_with("Connecting") =>
            {
                Some(Rest::Refused(reason.clone()))
            }
            _ => None,
        })
    });
    settled.map_err(|error| format!("{error}: {last:?}"))
}

/// Waits until both are in sync.
pub(crate) fn synced(nodes: &mut [Node; 2]) -> Outcome<()> {
    match settle(nodes)? {
        Rest::InSync => Ok(()),
        Rest::Refused(reason) => Err(format!("refused: {reason}")),
    }
}

/// The end of both logs, for a person.
pub(crate) fn tails(nodes: &[Node; 2]) -> String {
    let tail = |node: &Node| {
        let log = node.log();
        let lines: Vec<&str> = log.lines().rev().take(40).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("---- {}'s log in {}, the end\n{}\n", node.name, text(&node.dir), lines.join("\n"))
    };
    nodes.iter().map(tail).collect()
}
