//! A network namespace inside the cage. It lives as long as a process that waits for the end of its
//! input.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
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

    /// Where a thread enters it.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    /// Takes an interface of the cage's, which gets a name and an address here.
    ///
    /// # Errors
    /// What `ip` said.
    pub(crate) fn take(&self, interface: &str, name: &str, address: &str) -> Result<(), String> {
        let id = self.holder.id();
        plain(&format!("ip link set {interface} netns {id}"))?;
        self.run(&format!("ip link set {interface} name {name}"))?;
        self.run(&format!("ip address add {address}/24 dev {name}"))?;
        self.run(&format!("ip link set {name} up")).map(drop)
    }

    /// Packets that come in or go out by an interface, and fit a rule, are dropped from now on.
    ///
    /// # Errors
    /// What `nft` said.
    pub(crate) fn drop_where(&self, hook: &str, interface: &str, rule: &str) -> Result<(), String> {
        let side = if hook == "input" { "iifname" } else { "oifname" };
        self.nft("add table inet torture")?;
        self.nft(&format!(
            "add chain inet torture {hook} {{ type filter hook {hook} priority 0 ; }}"
        ))?;
        let rule = format!("{side} {interface} {rule} counter drop");
        self.nft(&format!("add rule inet torture {hook} {rule}")).map(drop)
    }

    /// Nothing is dropped any more; how many packets were.
    ///
    /// # Errors
    /// What `nft` said.
    pub(crate) fn clear_filters(&self) -> Result<u64, String> {
        let rules = self.nft("list ruleset")?;
        self.nft("flush ruleset")?;
        Ok(sum_after(&rules, "counter packets"))
    }

    /// The interface `link0` is as fast as ever; how many packets had to wait.
    ///
    /// # Errors
    /// What `tc` said.
    pub(crate) fn clear_rate(&self) -> Result<u64, String> {
        let said = self.run("tc -s qdisc show dev link0")?;
        self.run("tc qdisc del dev link0 root")?;
        Ok(sum_after(&said, "overlimits"))
    }

    /// Runs a command in it.
    ///
    /// # Errors
    /// What it said on standard error.
    pub(crate) fn run(&self, line: &str) -> Result<String, String> {
        let mut words = self.enter();
        words.extend(line.split(' ').map(str::to_owned));
        words_of(&words)
    }

    /// One command of `nft`.
    ///
    /// # Errors
    /// What it said on standard error.
    fn nft(&self, command: &str) -> Result<String, String> {
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
pub(crate) fn plain(line: &str) -> Result<String, String> {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    words_of(&words)
}

fn words_of(words: &[String]) -> Result<String, String> {
    let mut command = Command::new(&words[0]);
    let said = run(command.args(&words[1..]), Duration::from_secs(20));
    match said.code {
        0 => Ok(said.stdout),
        code => Err(format!("{words:?} ended with {code}: {}", said.stderr.trim())),
    }
}

/// The sum of the numbers that stand behind a word.
fn sum_after(text: &str, word: &str) -> u64 {
    let numbers = text.split(word).skip(1).filter_map(|rest| {
        let number = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
        number.parse::<u64>().ok()
    });
    numbers.sum()
}

#[cfg(test)]
mod tests {
    use super::sum_after;

    #[test]
    fn counters_are_added_up() {
        let rules =
            "iifname \"link0\" counter packets 12 bytes 900 drop\n counter packets 3 bytes 1";
        assert_eq!(sum_after(rules, "counter packets"), 15);
        assert_eq!(sum_after("(dropped 1, overlimits 77 requeues 0)", "overlimits"), 77);
        assert_eq!(sum_after("", "overlimits"), 0);
    }
}
