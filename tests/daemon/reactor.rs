//! drbd-reactor on real daemons, where TANDEM_REACTOR names the program: Debian 12 has no package of it.
//! Its promoter has the shell runner; `systemctl`, which it asks even then, is a stand-in.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::drbd_names::{environment, names};
use crate::ledger::{Burst, Ledger};
use crate::namespace::not_run;
use crate::pair::{Node, Pair};
use crate::plan::Plan;
use crate::wait::until;

const SYSTEMCTL: &str = r#"#!/bin/sh
case $1 in show) test "$(drbdadm role r0)" = Primary && echo ActiveState=active || echo ActiveState=inactive ;; esac
exit 0
"#;

/// One of a node; it ends with this.
struct Reactor(Child);

impl Reactor {
    fn start(program: &Path, pair: &Pair, node: &Node) -> Self {
        let tools = names(pair);
        let systemctl = tools.join("systemctl");
        fs::write(&systemctl, SYSTEMCTL).expect("a script");
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).expect("ours");
        let config = pair.dir.path().join(format!("reactor-{}.toml", node.name));
        let snippets = pair.dir.path().join("no-snippets");
        fs::create_dir_all(&snippets).expect("a folder");
        let text = format!(
            "snippets = \"{}\"\n[[promoter]]\n[promoter.resources.r0]\nrunner = \"shell\"\n\
             start = [\"drbdadm primary r0\"]\nstop = [\"drbdadm secondary r0\"]\n\
             adjust-resource-on-start = false\n",
            snippets.display()
        );
        fs::write(&config, text).expect("a file");
        let log = pair.dir.path().join(format!("reactor-{}.log", node.name));
        let log = File::create(log).expect("a file");
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display());
        let child = Command::new(program)
            .arg("-c")
            .arg(&config)
            .envs(environment(node))
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn();
        Self(child.expect("drbd-reactor"))
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn reactors_promoter_promotes_one_node_and_the_other_one_when_that_is_gone() {
    let Some(program) = std::env::var_os("TANDEM_REACTOR") else {
        return not_run(
            "reactors_promoter_promotes_one_node_and_the_other_one_when_that_is_gone",
            "TANDEM_REACTOR names no drbd-reactor",
        );
    };
    // A resource that is neither fenced nor has a quorum its promoter leaves alone.
    let plan = Plan::new().impatient().net("fencing resource-only;");
    let mut pair = plan.sections("handlers { fence-peer \"exit 7\"; }").in_sync();
    pair.alice.ok(&["secondary", "r0"]);
    let program = Path::new(&program);
    let mut reactors =
        [&pair.alice, &pair.bob].map(|node| Some(Reactor::start(program, &pair, node)));
    let is_primary = |node: &Node| node.ok(&["role", "r0"]).trim() == "Primary";
    let first = until("one of them is Primary", || {
        [&pair.alice, &pair.bob].iter().position(|node| is_primary(node))
    });
    let (one, other) = match first {
        0 => (&mut pair.alice, &mut pair.bob),
        _ => (&mut pair.bob, &mut pair.alice),
    };
    let mut client = one.client();
    let mut ledger = Ledger::seeded(91);
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    client.flush().expect("a flush of both");
    drop(client);
    reactors[first] = None;
    one.kill();
    until("the other one is Primary", || is_primary(other).then_some(()));
    ledger.check(&mut other.client());
}
