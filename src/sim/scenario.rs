//! Transcripts: commands, each with what both cores log and answer because of it.
//!
//! ```text
//! # a comment
//! > alice primary --force
//!   alice: order: done
//!   alice: r0: role( Secondary -> Primary )
//! ```
//!
//! Every command is given 200 ms of virtual time; `wait MS` gives more. Identifiers are named in the
//! order in which they appear: `<1>`, `<2>`.
//!
//! Invariants:
//! - The same commands give the same text.

use std::collections::VecDeque;

use crate::resource::{
    Command, Event, Force, Op, Options, RequestId, SessionId, Time, VolumeNumber,
};

use super::admin::Step;
use super::cluster::Cluster;
use super::disk::SimDisk;
use super::faults::{Order, node_id};
use super::node::Input;
use super::options::SimOptions;

/// What a command is given, ms.
const PAUSE_MS: u64 = 200;
const VOLUME: VolumeNumber = 0;
/// Bytes of each disk.
const SIZE: u64 = 8 << 20;

/// Plays the commands of a transcript, and writes it anew with what they lead to.
///
/// # Errors
/// A line is no command.
pub fn play(text: &str) -> Result<String, String> {
    let mut player = Player::new();
    let mut out = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        match line.strip_prefix("> ") {
            Some(command) => {
                out.push_str(line);
                out.push('\n');
                player.command(command).map_err(|e| format!("line {number}: {e}: {line}"))?;
                for line in player.heard() {
                    out.push_str(&format!("  {line}\n"));
                }
            }
            None if line.starts_with('#') || line.is_empty() => {
                out.push_str(line);
                out.push('\n');
            }
            None if line.starts_with("  ") => {}
            None => return Err(format!("line {number} is no command, comment or answer: {line}")),
        }
    }
    Ok(out)
}

struct Player {
    cluster: Cluster,
    /// The life of each node in which it has a client.
    sessions: [Option<u64>; 2],
    requests: u64,
    images: [Option<SimDisk>; 2],
    identifiers: Vec<String>,
}

impl Player {
    fn new() -> Self {
        let mut options = SimOptions::of_seed(1);
        options.volumes = 1;
        options.sizes = [SIZE; 2];
        options.al_block_sizes = [512; 2];
        options.core = Options { c_max_rate: 0, ..Options::default() };
        (options.disk_us, options.flush_us, options.net_us) = (100, 100, 100);
        options.plan = Vec::new();
        Self {
            cluster: Cluster::new(options, usize::MAX),
            sessions: [None; 2],
            requests: 0,
            images: [None, None],
            identifiers: Vec::new(),
        }
    }

    fn command(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let c = &mut self.cluster;
        match words[..] {
            ["wait", ms] => {
                let end = c.in_ms(number(ms)?);
                c.run_until(end, |_| false);
            }
            ["cut"] => {
                c.net.cut_until = [Time(u64::MAX >> 1); 2];
            }
            ["join"] => {
                c.net.cut_until = [Time(0); 2];
                c.reset_all();
            }
            ["status"] => return self.status(),
            [name, verb, ref rest @ ..] => {
                let node = match name {
                    "alice" => 0,
                    "bob" => 1,
                    _ => return Err("no such command or node".to_owned()),
                };
                self.of_node(node, verb, rest)?;
            }
            _ => return Err("no such command".to_owned()),
        }
        let end = self.cluster.in_ms(PAUSE_MS);
        self.cluster.run_until(end, |_| false);
        Ok(())
    }

    fn of_node(&mut self, node: usize, verb: &str, rest: &[&str]) -> Result<(), String> {
        let c = &mut self.cluster;
        let faults = &mut c.nodes[node].volumes[0].disk.faults;
        match (verb, rest) {
            ("up", []) => c.restart(node),
            ("power-loss", []) => c.lose_power(node, u64::MAX >> 24),
            ("kill", []) => c.end_life(node, false),
            ("freeze", []) => c.freeze(node, u64::MAX >> 24),
            ("thaw", []) => c.thaw(node),
            ("hang-up", []) => {
                if let Some(life) = self.sessions[node].take() {
                    let session = SessionId(life * 2 + node as u64);
                    c.event(node, Event::SessionClosed { session, disconnect: true });
                }
            }
            ("disk", ["full"]) => faults.full = 100,
            ("disk", ["slow", ms]) => faults.slow_ms = number(ms)?,
            ("disk", ["fails", "reads"]) => faults.read_fails = true,
            ("disk", ["fails", "writes"]) => faults.write_fails = true,
            ("disk", ["fails", "flushes"]) => faults.flush_fails = true,
            ("disk", ["well"]) => c.disk_well(node),
            ("disk", ["image"]) => {
                let disk = &c.nodes[node].volumes[0].disk;
                self.images[node] = Some(disk.clone());
            }
            ("disk", ["restore"]) => {
                let image = self.images[node].clone().ok_or("there is no image")?;
                c.nodes[node].volumes[0].disk = image;
                c.history.forgotten(node, VOLUME);
            }
            ("disk", ["clone"]) => {
                let theirs = c.nodes[1 - node].volumes[0].clone();
                let ours = &mut c.nodes[node].volumes[0];
                (ours.disk, ours.geometry) = (theirs.disk, theirs.geometry);
                c.history.forgotten(node, VOLUME);
            }
            ("disk", ["replace"]) => c.replace_disk(node, VOLUME),
            ("write", [block]) => {
                self.requests += 1;
                let contents = vec![self.requests; 8];
                let start = number(block)? * 8;
                let (session, request) = (self.session(node), RequestId(self.requests));
                let volume = VOLUME;
                let input = Input::Write { session, request, volume, start, contents, fua: false };
                self.cluster.input(node, input);
            }
            ("read", [block]) => {
                let offset = number(block)? * 4096;
                self.request(node, Op::Read { offset, length: 4096 });
            }
            ("flush", []) => self.request(node, Op::Flush),
            _ => {
                let order = order(node, verb, rest)?;
                match order {
                    Given::Plan(order) => c.give(node, order, VOLUME),
                    Given::Command(command) => {
                        c.order(node, VecDeque::from([Step::Command(command)]));
                    }
                }
            }
        }
        Ok(())
    }

    fn request(&mut self, node: usize, op: Op) {
        self.requests += 1;
        let (session, request) = (self.session(node), RequestId(self.requests));
        self.cluster.event(node, Event::Request { session, request, volume: VOLUME, op });
    }

    fn session(&mut self, node: usize) -> SessionId {
        let life = self.cluster.nodes[node].life;
        let session = SessionId(life * 2 + node as u64);
        if self.sessions[node] != Some(life) {
            self.sessions[node] = Some(life);
            let client = "client".to_owned();
            self.cluster.event(node, Event::SessionOpened { session, volume: VOLUME, client });
        }
        session
    }

    fn status(&mut self) -> Result<(), String> {
        let mut lines = Vec::new();
        for n in &self.cluster.nodes {
            let Some(status) = &n.status else {
                lines.push(format!("{}: down", n.name));
                continue;
            };
            let mut text = format!("{}: {}", n.name, status.role);
            for d in &status.devices {
                text.push_str(&format!(" {}", d.disk_state));
            }
            for c in &status.connections {
                text.push_str(&format!(" {}", c.connection_state));
                if c.reason != crate::resource::Reason::None {
                    text.push_str(&format!(" ({})", c.reason));
                }
                for p in &c.peer_devices {
                    text.push_str(&format!(
                        " {} peer {} out-of-sync {}",
                        p.replication_state, p.peer_disk_state, p.out_of_sync
                    ));
                }
            }
            lines.push(text);
        }
        for line in lines {
            self.cluster.note(&line);
        }
        Ok(())
    }

    /// What was logged and answered since the last command.
    fn heard(&mut self) -> Vec<String> {
        let mut heard: Vec<String> = Vec::new();
        let mut name = String::new();
        for line in self.cluster.transcript.take() {
            if let Some(action) = line.strip_prefix("    ") {
                let text =
                    action.strip_prefix("log ").map(str::to_owned).or_else(|| answer(action));
                heard.extend(text.map(|text| format!("{name}: {text}")));
            } else if let Some((_, note)) = line.split_once(" ---- ") {
                let ours = ["alice: ", "bob: ", "VIOLATION"].iter().any(|p| note.starts_with(p));
                heard.extend(ours.then(|| note.to_owned()));
            } else {
                name = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
            }
        }
        heard.into_iter().map(|line| self.named(&line)).collect()
    }

    /// Identifiers of 16 digits, as the how-manyeth of this transcript they are.
    fn named(&mut self, line: &str) -> String {
        let mut out = String::new();
        let mut rest = line;
        while let Some(at) = rest.find(|c: char| c.is_ascii_hexdigit()) {
            let digits = rest[at..].find(|c: char| !c.is_ascii_hexdigit());
            let end = at + digits.unwrap_or(rest.len() - at);
            out.push_str(&rest[..at]);
            let word = &rest[at..end];
            match u64::from_str_radix(word, 16) {
                Ok(uuid) if word.len() == 16 && uuid > 0xff => {
                    let key = format!("{:x}", uuid & !1);
                    let known = self.identifiers.iter().position(|k| *k == key);
                    let index = known.unwrap_or_else(|| {
                        self.identifiers.push(key);
                        self.identifiers.len() - 1
                    });
                    out.push_str(&format!("<{}>", index + 1));
                }
                _ => out.push_str(word),
            }
            rest = &rest[end..];
        }
        out + rest
    }
}

enum Given {
    Plan(Order),
    Command(Command),
}

fn order(node: usize, verb: &str, rest: &[&str]) -> Result<Given, String> {
    let peer = node_id(1 - node);
    Ok(Given::Plan(match (verb, rest) {
        ("primary", []) => Order::Primary,
        ("primary", ["--hand-over"]) => Order::HandOver,
        ("auto-promote", []) => Order::AutoPromote,
        ("primary", ["--force"]) => Order::Force(Force::Plain),
        ("primary", ["--force=inconsistent"]) => Order::Force(Force::Inconsistent),
        ("primary", ["--force=outdated"]) => Order::Force(Force::Outdated),
        ("secondary", []) => {
            return Ok(Given::Command(Command::Secondary { force: false, wait_ms: 0 }));
        }
        ("secondary", ["--force"]) => Order::SecondaryForce,
        ("disconnect", []) => Order::Disconnect,
        ("disconnect", ["--force"]) => Order::DisconnectForce,
        ("connect", []) => Order::Connect,
        ("connect", ["--discard-my-data"]) => Order::ConnectDiscard,
        ("invalidate", []) => Order::Invalidate,
        ("invalidate-remote", []) => {
            return Ok(Given::Command(Command::InvalidateRemote { volume: VOLUME, peer }));
        }
        ("outdate", []) => Order::Outdate,
        ("pause-sync", []) => Order::PauseSync,
        ("resume-sync", []) => Order::ResumeSync,
        ("suspend-io", []) => Order::SuspendIo,
        ("resume-io", []) => Order::ResumeIo,
        ("attach", []) => Order::Attach,
        ("detach", []) => Order::Detach,
        ("detach", ["--force"]) => Order::DetachForce,
        ("new-current-uuid", []) => Order::NewCurrentUuid,
        ("new-current-uuid", ["--clear-bitmap"]) => {
            let command = Command::NewCurrentUuid { volume: VOLUME, clear_bitmap: true };
            return Ok(Given::Command(command));
        }
        ("forget-peer", []) => Order::ForgetPeer,
        ("verify", []) => Order::Verify,
        ("verify", ["--stop", "0"]) => Order::VerifyStop,
        ("verify", ["--repair"]) => Order::Repair,
        ("down", []) => return Ok(Given::Command(Command::Down { shutdown: false })),
        _ => return Err("no such verb".to_owned()),
    }))
}

/// What an action says to an administrator or a client.
fn answer(action: &str) -> Option<String> {
    let action = action.strip_prefix("-> ")?;
    if let Some(rest) = action.strip_prefix("Reply { request: RequestId(") {
        let (request, result) = rest.split_once("), result: ")?;
        let result = result.strip_suffix(" }")?;
        let text = match result {
            "Ok(None)" => "done".to_owned(),
            _ if result.starts_with("Ok(") => "data".to_owned(),
            error => format!("error {}", error.trim_start_matches("Err(").trim_end_matches(')')),
        };
        return Some(format!("request {request}: {text}"));
    }
    let rest = action.strip_prefix("AdminReply { id: ")?;
    let (_, result) = rest.split_once(", result: ")?;
    let result = result.strip_suffix(" }")?;
    Some(if result.starts_with("Ok(") {
        "order: done".to_owned()
    } else {
        format!("order: {result}")
    })
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}
