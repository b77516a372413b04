//! A network namespace inside the cage. It lives as long as a process that waits for the end of its
//! input.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::node::run;

/// A namespace with an address.
pub(crate) struct Namespace {
    holder: Child,
}

impl Namespace {
    /// With nothing but a loopback interface that is up.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn new() -> Result<Self, String> {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut line = String::new();
        if let Some(stdout) = holder.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        let namespace = Self { holder };
        if line != "ready\n" {
            return Err("unshare --net does not work here".to_owned());
        }
        namespace.run("ip link set lo up")?;
        Ok(namespace)
    }

    /// The words in front of a command that is to run in it.
    pub(crate) fn enter(&self) -> Vec<String> {
        let target = format!("--target={}", self.holder.id());
        ["nsenter", &target, "--net", "--"].map(str::to_owned).to_vec()
    }

    /// Takes an interface of the cage's, which becomes `link0` with an address.
    ///
    /// # Errors
    /// What `ip` said.
    pub(crate) fn take(&self, interface: &str, address: &str) -> Result<(), String> {
        let id = self.holder.id();
        plain(&format!("ip link set {interface} netns {id}"))?;
        self.run(&format!("ip link set {interface} name link0"))?;
        self.run(&format!("ip address add {address}/24 dev link0"))?;
        self.run("ip link set link0 up")
    }

    /// Runs a command in it.
    ///
    /// # Errors
    /// What it said on standard error.
    pub(crate) fn run(&self, line: &str) -> Result<(), String> {
        let mut words = self.enter();
        words.extend(line.split(' ').map(str::to_owned));
        words_of(&words)
    }

    /// One command of `nft`.
    ///
    /// # Errors
    /// What it said on standard error.
    pub(crate) fn nft(&self, command: &str) -> Result<(), String> {
        let mut words = self.enter();
        words.extend(["nft", command].map(str::to_owned));
        words_of(&words)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Runs a command in the cage itself.
pub(crate) fn plain(line: &str) -> Result<(), String> {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    words_of(&words)
}

fn words_of(words: &[String]) -> Result<(), String> {
    let mut command = Command::new(&words[0]);
    let said = run(command.args(&words[1..]), Duration::from_secs(20));
    match said.code {
        0 => Ok(()),
        code => Err(format!("{words:?} ended with {code}: {}", said.stderr.trim())),
    }
}
