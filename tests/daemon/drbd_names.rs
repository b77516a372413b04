//! `drbdadm` and `drbdsetup` on real daemons: the steps that agents take, what is printed, and that a
//! silent daemon is never taken for one that is not there.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use crate::pair::{Node, Pair, Said, run};
use crate::plan::Plan;
use crate::wait::{PATIENCE, until};

/// The program under its two names.
pub(crate) fn names(pair: &Pair) -> PathBuf {
    let folder = pair.dir.path().join("names");
    std::fs::create_dir_all(&folder).expect("a folder");
    for name in ["drbdadm", "drbdsetup"] {
        // A test may ask for them twice.
        let _ = symlink(env!("CARGO_BIN_EXE_tandem-drbd-compat"), folder.join(name));
    }
    folder
}

/// What the program has in its environment.
pub(crate) fn environment(node: &Node) -> [(&'static str, String); 3] {
    [
        ("TANDEM_NODE", node.name.to_owned()),
        ("TANDEM_RUN_DIR", node.run_dir.display().to_string()),
        ("TANDEM_CONFIG", node.config.display().to_string()),
    ]
}

/// Runs a line of one of the tools on a node; `env NAME=VALUE ...` may stand before it, or
/// `timeout SECONDS`.
fn tool(pair: &Pair, node: &Node, line: &str) -> Said {
    let folder = names(pair);
    let mut command = Command::new("env");
    command.envs(environment(node));
    for word in line.split(' ') {
        match word {
            "drbdadm" | "drbdsetup" => command.arg(folder.join(word)),
            _ => command.arg(word),
        };
    }
    run(&mut command)
}

fn ok(pair: &Pair, node: &Node, line: &str) -> String {
    let said = tool(pair, node, line);
    assert_eq!(said.code, 0, "{}# {line}: {said:?}", node.name);
    said.stdout
}

fn refused(pair: &Pair, node: &Node, code: i32, line: &str) -> String {
    let said = tool(pair, node, line);
    assert_eq!(said.code, code, "{}# {line}: {said:?}", node.name);
    said.stderr
}

/// `events2` as it goes on.
struct Following {
    child: Child,
    lines: Receiver<String>,
    input: Option<ChildStdin>,
}

impl Following {
    fn start(pair: &Pair, node: &Node, words: &[&str]) -> Self {
        let mut child = Command::new(names(pair).join("drbdsetup"))
            .arg("events2")
            .args(words)
            .envs(environment(node))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let (tell, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let input = child.stdin.take();
        Self { child, lines, input }
    }

    /// The next line with this in it.
    fn line(&self, what: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no line with {what}"));
            if line.contains(what) {
                return line;
            }
        }
    }

    fn ask(&mut self) {
        self.input.as_mut().expect("it is open").write_all(b"n\n").expect("it reads");
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both daemons run, with new metadata; nothing is up.
pub(crate) fn down_pair(plan: Plan) -> Pair {
    let mut pair = plan.blank();
    for node in [&mut pair.alice, &mut pair.bob] {
        node.start();
        node.ok(&["create-md", "r0"]);
    }
    pair
}

#[test]
fn the_steps_of_an_agent_are_separate_and_repeatable() {
    let pair = down_pair(Plan::new());
    let alice = &pair.alice;
    assert_eq!(ok(&pair, alice, "drbdsetup events2 --now r0"), "exists -\n");
    assert_eq!(ok(&pair, alice, "drbdadm sh-resources"), "r0\n");
    assert_eq!(ok(&pair, alice, "drbdadm sh-minor r0"), "0\n");
    assert_eq!(ok(&pair, alice, "drbdadm sh-ll-dev r0"), format!("{}\n", alice.disk.display()));
    assert_eq!(ok(&pair, alice, "drbdadm down r0"), "");
    refused(&pair, alice, 10, "drbdadm sh-dev nope");
    refused(&pair, alice, 10, "drbdadm --stacked sh-dev r0");
    refused(&pair, alice, 10, "drbdadm new-minor r0");
    refused(&pair, alice, 10, "drbdadm new-resource nope");
    refused(&pair, alice, 10, "drbdadm role r0");
    let events = |node: &Node| ok(&pair, node, "drbdsetup events2 --now r0");
    for _ in 0..2 {
        ok(&pair, alice, "drbdadm new-resource r0");
        ok(&pair, alice, "drbdadm new-minor r0");
        ok(&pair, alice, "drbdsetup new-minor r0 0 0");
    }
    let text = events(alice);
    assert!(text.contains("role:Secondary") && text.contains(" disk:Diskless "), "{text}");
    for _ in 0..2 {
        ok(&pair, alice, "drbdadm adjust --skip-net r0");
        let text = events(alice);
        assert!(text.contains(" disk:Inconsistent "), "{text}");
        assert!(text.contains(" connection:StandAlone ") && text.contains("DUnknown"), "{text}");
    }
    let bob = &pair.bob;
    ok(&pair, bob, "drbdadm adjust --skip-disk r0");
    let text = events(bob);
    assert!(text.contains(" disk:Diskless ") && !text.contains("StandAlone"), "{text}");
    assert_eq!(ok(&pair, alice, "drbdadm -d connect r0:bob"), "drbdsetup connect r0 1\n");
    refused(&pair, alice, 10, "drbdadm adjust r0:carol");
    ok(&pair, alice, "drbdadm adjust r0:bob");
    ok(&pair, alice, "drbdsetup wait-connect-connection r0 1 --wfc-timeout=60");
    assert_eq!(ok(&pair, alice, "drbdadm -d connect r0:bob"), "drbdsetup connect r0 1\n");
    ok(&pair, bob, "drbdadm up r0");
    ok(&pair, bob, "drbdsetup wait-connect-resource r0 --wfc-timeout 60");
    assert_eq!(ok(&pair, bob, "drbdadm -d adjust all"), "");

    // What reactor and people ask.
    ok(&pair, alice, "drbdadm new-current-uuid --clear-bitmap r0");
    assert!(events(alice).contains("may_promote:yes promotion_score:10102"), "{}", events(alice));
    ok(&pair, alice, "drbdsetup primary r0");
    assert!(events(alice).contains("may_promote:no promotion_score:10102"), "{}", events(alice));
    assert!(refused(&pair, bob, 11, "drbdadm primary r0").contains("(-1) Multiple primaries"));
    assert_eq!(ok(&pair, alice, "drbdadm role r0"), "Primary\n");
    assert_eq!(ok(&pair, alice, "drbdsetup cstate r0 1"), "Connected\n");
    assert_eq!(ok(&pair, alice, "drbdadm dstate r0"), "UpToDate/UpToDate\n");
    let json = |line: &str| -> Value {
        serde_json::from_str(&ok(&pair, alice, line)).expect("it is JSON")
    };
    let status = json("drbdsetup status --json r0");
    assert_eq!(status[0]["connections"][0]["peer-role"], "Secondary");
    let shown = json("drbdsetup show --show-defaults --json r0");
    assert_eq!(shown[0]["connections"][0]["net"]["fencing"], "dont-care");
    for (code, line) in [
        (10, "drbdsetup show nope"),
        (10, "drbdsetup status nope"),
        (10, "drbdsetup events2 --diff"),
        (10, "drbdadm --peer=bob up r0"),
        (10, "drbdadm new-peer r0"),
        (1, "drbdadm frob r0"),
        (20, "drbdsetup primary"),
        (10, "drbdsetup primary nope"),
    ] {
        assert!(!refused(&pair, alice, code, line).is_empty(), "{line}");
    }
    ok(&pair, alice, "drbdsetup suspend-io 0");
    assert!(events(alice).contains(" suspended:user "), "{}", events(alice));
    ok(&pair, alice, "drbdadm resume-io r0");
    assert!(events(alice).contains(" suspended:no "), "{}", events(alice));
    ok(&pair, alice, "drbdsetup resource-options --auto-promote=yes r0");
    assert_eq!(json("drbdsetup show --json --show-defaults")[0]["options"]["auto-promote"], true);
    let changed = serde_json::json!({ "auto-promote": true });
    assert_eq!(json("drbdsetup show --json")[0]["options"], changed);
    let verbose = ok(&pair, alice, "drbdadm -v adjust r0");
    assert_eq!(verbose, "drbdsetup resource-options r0 --auto-promote=no\n");
    ok(&pair, alice, "drbdsetup secondary r0");
    assert!(refused(&pair, alice, 11, "drbdsetup outdate 0").contains("(-6)"));
    ok(&pair, alice, "drbdsetup disconnect r0 1");
    assert_eq!(ok(&pair, alice, "drbdsetup cstate r0 1"), "StandAlone\n");
    ok(&pair, alice, "drbdsetup outdate 0");
    assert!(events(alice).contains(" disk:Outdated "), "{}", events(alice));
    ok(&pair, alice, "drbdsetup connect r0 1");
    ok(&pair, alice, "drbdadm down r0");
    ok(&pair, alice, "drbdsetup down r0");
}

#[test]
fn events2_goes_on_when_the_daemon_ends_and_comes_back() {
    let mut pair = Plan::new().calm().connected();
    let mut following = Following::start(&pair, &pair.alice, &["--full", "--poll"]);
    following.line("exists resource name:r0 role:Secondary");
    following.line("exists -");
    following.ask();
    let line = following.line("change device");
    assert!(line.contains(" size:") && line.contains(" al-suspended:no"), "{line}");
    let stamped = Following::start(&pair, &pair.alice, &["--timestamps", "r0"]);
    assert!(stamped.line("exists resource").starts_with("20"), "a time is the first word");
    // All that there is has been told: who is cut off before that ends.
    stamped.line("exists -");
    pair.alice.kill();
    following.line("destroy peer-device name:r0");
    following.line("destroy resource name:r0");
    // Who has not looked by then sees the new daemon only, and nothing that has changed.
    stamped.line("destroy resource name:r0");
    // It brings up what was up.
    pair.alice.start();
    following.line("create resource name:r0");
    following.line("connection name:r0 peer-node-id:1 conn-name:bob connection:Connected");
    stamped.line("create resource name:r0");
    drop(following.input.take());
    let ended = until("it ends with its input", || following.child.try_wait().expect("ours"));
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_silent_daemon_is_waited_for_and_killed_by_an_order_to_leave() {
    let mut pair = Pair::in_sync();
    pair.alice.freeze();
    // 124: `timeout` has ended it. Nothing was said that could be taken for an answer.
    for line in ["drbdsetup events2 --now r0", "drbdsetup status r0", "drbdadm role r0"] {
        let said = tool(&pair, &pair.alice, &format!("timeout 2 {line}"));
        assert_eq!((said.code, said.stdout.as_str()), (124, ""), "{line}: {said:?}");
    }
    pair.alice.refused(20, &["--cmd-timeout", "1", "role", "r0"]);
    pair.alice.wake();
    let events = ok(&pair, &pair.alice, "drbdsetup events2 --now r0");
    assert!(events.contains("role:Primary"), "{events}");

    pair.alice.freeze();
    let agent = "OCF_RESKEY_drbd_resource=r0 OCF_RESKEY_CRM_meta_timeout=2000";
    let said = tool(&pair, &pair.alice, &format!("{agent} drbdadm secondary r0"));
    assert!(said.code == 0 && said.stderr.contains("it is killed"), "{said:?}");
    let daemon = pair.alice.daemon.take().expect("it ran").wait().expect("ours");
    assert!(!daemon.success(), "{daemon}");
    // Now it is certain, and the answer.
    assert_eq!(ok(&pair, &pair.alice, "drbdsetup events2 --now r0"), "exists -\n");
    refused(&pair, &pair.alice, 10, "drbdadm secondary r0");
    refused(&pair, &pair.alice, 10, "drbdadm primary r0");
    ok(&pair, &pair.alice, "drbdadm down r0");
    pair.alice.refused(20, &["status"]);
    // What was taken down does not come up with the next daemon.
    pair.alice.start();
    assert_eq!(ok(&pair, &pair.alice, "drbdsetup events2 --now"), "exists -\n");
    assert_eq!(pair.bob.ok(&["role", "r0"]), "Secondary\n");

    pair.bob.freeze();
    let said = tool(&pair, &pair.bob, &format!("{agent} drbdsetup down all"));
    assert!(said.code == 0 && said.stderr.contains("it is killed"), "{said:?}");
    pair.bob.daemon.take().expect("it ran").wait().expect("ours");
}

#[test]
fn the_agents_demotion_gives_clients_time_and_then_closes_them() {
    let pair = Pair::in_sync();
    let mut client = pair.alice.client();
    client.write(0, &[7; 4096], 0).expect("a write");
    // As DRBD's tool a person is refused.
    assert!(refused(&pair, &pair.alice, 11, "drbdadm secondary r0").contains("(-12)"));
    let begun = std::time::Instant::now();
    assert!(refused(&pair, &pair.alice, 11, "drbdadm secondary --wait=1 r0").contains("(-12)"));
    assert!(begun.elapsed().as_secs() >= 1, "the client was given its time");
    let agent = "OCF_RESKEY_drbd_resource=r0 OCF_RESKEY_CRM_meta_timeout=3000";
    ok(&pair, &pair.alice, &format!("{agent} drbdadm secondary r0"));
    assert_eq!(ok(&pair, &pair.alice, "drbdadm role r0"), "Secondary\n");
    assert!(client.read(0, 4096).is_err(), "it was closed");
    pair.assert_equal_disks();
}
