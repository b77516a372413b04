//! Network namespaces that end with their test: as root by `unshare -n`, otherwise by `unshare -rn`
//! where the system lets anybody do that.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::pair::run;

/// A network namespace. It lives as long as a process that waits for the end of its input.
pub(crate) struct Namespace {
    holder: Child,
    /// It belongs to a user namespace of our own.
    own_user: bool,
}

impl Namespace {
    /// A namespace with nothing but a loopback interface that is up.
    ///
    /// # Errors
    /// Why this system has none for us.
    pub(crate) fn new() -> Result<Self, String> {
        let own_user = !nix::unistd::geteuid().is_root();
        Self::hold(&[], if own_user { "-rn" } else { "-n" }, own_user)
    }

    /// Another one, in the same user namespace: a veth can join the two.
    pub(crate) fn beside(&self) -> Result<Self, String> {
        Self::hold(&self.enter(), "-n", self.own_user)
    }

    fn hold(enter: &[String], how: &str, own_user: bool) -> Result<Self, String> {
        let mut words = enter.to_vec();
        let hold = "echo ready && exec cat";
        words.extend(["unshare", how, "sh", "-c", hold].map(str::to_owned));
        let mut holder = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a pipe");
        if line != "ready\n" {
            let output = holder.wait_with_output().expect("it is ours");
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(text.trim().to_owned());
        }
        let namespace = Self { holder, own_user };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The words in front of a command that is to run in it.
    pub(crate) fn enter(&self) -> Vec<String> {
        let mut words = vec!["nsenter".to_owned(), format!("--target={}", self.holder.id())];
        if self.own_user {
            words.extend(["--user", "--preserve-credentials"].map(str::to_owned));
        }
        words.extend(["--net", "--"].map(str::to_owned));
        words
    }

    /// The process whose namespace it is.
    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Runs a command in it.
    ///
    /// # Errors
    /// What it said on standard error.
    pub(crate) fn try_run(&self, words: &[&str]) -> Result<(), String> {
        let enter = self.enter();
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).args(words);
        let said = run(&mut command);
        match said.code {
            0 => Ok(()),
            code => Err(format!("{words:?} ended with {code}: {}", said.stderr.trim())),
        }
    }

    /// `ip` with these words.
    ///
    /// # Errors
    /// As for `try_run`.
    pub(crate) fn ip(&self, words: &str) -> Result<(), String> {
        let mut all = vec!["ip"];
        all.extend(words.split(' '));
        self.try_run(&all)
    }

    /// `nft` with this one command, which has to work.
    pub(crate) fn nft(&self, command: &str) {
        self.try_run(&["nft", command]).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Says on the terminal that a test did not run, in the words that `tools/test` counts.
pub(crate) fn skip(test: &str, why: &str) {
    say("SKIP", test, why);
}

/// The same of one that takes what only a person can give, and that is not counted.
pub(crate) fn not_run(test: &str, why: &str) {
    say("NOT RUN", test, why);
}

fn say(what: &str, test: &str, why: &str) {
    let why = why.lines().next().unwrap_or_default();
    // Past the harness, which keeps what a test prints while it goes well.
    // The harness may stand in the middle of a line.
    let line = format!("\n{what} {test}: {why}\n");
    let out = std::io::stderr();
    let _ = std::io::Write::write_all(&mut out.lock(), line.as_bytes());
}
