//! What an administrator is shown while something happens: status, events2, identifiers, and the
//! line for nbd-client at a terminal.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use crate::pair::{Node, text};
use crate::plan::Plan;
use crate::wait::{PATIENCE, until};

/// `tandemadm` that runs on, and its lines.
struct Following {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Following {
    fn new(node: &Node, words: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandemadm"));
        command.args(["--node", node.name, "--run-dir"]).arg(&node.run_dir).arg("-c");
        command.arg(&node.config).args(words).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("tandemadm starts");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    /// The next line with all of these in it.
    fn wait(&self, parts: &[&str]) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no line with {parts:?}"));
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A word of a line of events2: `done:12.30`.
fn number(line: &str, key: &str) -> f64 {
    let word = line.split(' ').find_map(|word| word.strip_prefix(key));
    let word = word.unwrap_or_else(|| panic!("{key} in {line}"));
    word.parse().unwrap_or_else(|_| panic!("a number in {line}"))
}

#[test]
fn a_resync_is_followed_in_status_and_events2() {
    let pair = Plan::new().calm().sections("disk { c-max-rate 8M; }").filled().connected();
    let (alice, bob) = (&pair.alice, &pair.bob);
    let events = Following::new(bob, &["events2", "--statistics", "r0"]);
    events.wait(&["exists -"]);
    alice.ok(&["primary", "--force", "r0"]);
    let target = ["change peer-device name:r0 ", "replication:SyncTarget"];
    events.wait(&target);
    let some = events.wait(&["change peer-device", "done:", "received:"]);
    let progress = |node: &Node, words: &[&str], part: &str| {
        until(&format!("{words:?} of {} says {part}", node.name), || {
            let said = node.ok(words);
            said.contains(part).then_some(said)
        })
    };
    progress(bob, &["status", "r0"], "replication:SyncTarget peer-disk:UpToDate done:");
    let whole = progress(alice, &["status", "--verbose", "--statistics", "r0"], " eta:");
    for part in ["suspended:no", "role:Primary", "peer-disk:Inconsistent", "sent:", "out-of-sync:"]
    {
        assert!(whole.contains(part), "{part} in {whole}");
    }
    let later = events.wait(&["change peer-device", "done:", "eta:"]);
    assert!(number(&later, "done:") >= number(&some, "done:"), "{some} then {later}");
    for node in [alice, bob] {
        node.ok(&["disk-options", "--c-max-rate=1000M", "r0"]);
    }
    events.wait(&["change device name:r0 ", "disk:UpToDate"]);
    events.wait(&["change peer-device name:r0 ", "replication:Established"]);
    pair.wait_synced();
    let quiet = bob.ok(&["events2", "--now", "--statistics", "r0"]);
    assert!(quiet.ends_with("exists -\n") && quiet.contains(" received:"), "{quiet}");
    assert!(!quiet.contains("done:"), "{quiet}");
    bob.ok(&["down", "r0"]);
    events.wait(&["destroy resource name:r0"]);
}

#[test]
fn the_single_words_and_the_identifiers_of_an_attached_disk_are_as_in_drbd() {
    let pair = Plan::new().calm().in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    assert_eq!(alice.ok(&["role", "r0"]), "Primary\n");
    assert_eq!(bob.ok(&["role", "r0"]), "Secondary\n");
    let [one, two] = [alice, bob].map(|node| node.ok(&["get-gi", "r0"]));
    let current = |text: &str| text.split(':').next().map(|uuid| uuid[..15].to_owned());
    assert_eq!(current(&one), current(&two), "{one} {two}");
    assert!(alice.ok(&["show-gi", "r0"]).contains(one.split(':').next().expect("a UUID")));
    let usual = alice.ok(&["status", "r0"]);
    let verbose = alice.ok(&["status", "--verbose", "r0"]);
    let counted = alice.ok(&["status", "--statistics", "r0"]);
    for (part, text) in [("suspended:no", &verbose), ("size:", &counted), ("received:", &counted)] {
        assert!(text.contains(part) && !usual.contains(part), "{part}: {text}");
    }
}

/// At a terminal, where a person types this.
fn at_a_terminal(node: &Node, words: &str, typed: &str) -> (i32, String) {
    let line = format!(
        "{} --node {} --run-dir {} -c {} {words}",
        env!("CARGO_BIN_EXE_tandemadm"),
        node.name,
        text(&node.run_dir),
        text(&node.config),
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("script(1) is on every Debian");
    let mut input = child.stdin.take().expect("it is piped");
    // It stays open until the end: at its end script(1) would hang up.
    input.write_all(typed.as_bytes()).expect("it is typed");
    let output = child.wait_with_output().expect("it ends");
    drop(input);
    let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    (output.status.code().unwrap_or(-1), said)
}

#[test]
fn a_person_is_asked_before_data_is_lost_and_told_how_to_attach_the_device() {
    let pair = Plan::new().calm().connected();
    let alice = &pair.alice;
    let (code, said) = at_a_terminal(alice, "primary --force r0", "alice\n");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("all of bob's") && said.contains("Stopped; nothing was done."), "{said}");
    assert_eq!(alice.dstate(), "Inconsistent/Inconsistent");
    let (code, said) = at_a_terminal(alice, "primary --force r0", "bob\n");
    assert_eq!(code, 0, "{said}");
    let socket = alice.run_dir.join("nbd.sock");
    let line = format!(
        "block device: nbd-client -unix {} -N r0 -persist -timeout 300 /dev/nbd0\n",
        text(&socket)
    );
    assert!(said.contains(&line), "{said}");
    pair.wait_synced();
    // Nothing is asked where nothing is lost; and without a terminal there is no such line.
    alice.ok(&["secondary", "r0"]);
    let (code, said) = at_a_terminal(&pair.bob, "primary r0", "");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("nbd-client -unix") && !said.contains("Type the name"), "{said}");
    pair.bob.ok(&["secondary", "r0"]);
    let said = alice.adm(&["primary", "r0"]);
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (0, "", ""));
}
