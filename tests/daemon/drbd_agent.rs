//! DRBD's own OCF agent, ocf:linbit:drbd of drbd-utils, not a byte changed, on real daemons.
//!
//! The agent is fetched by `tools/test`, or installed, or named by TANDEM_DRBD_OCF; the cluster is this
//! test, and what the agent tells it stands in a file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::drbd_names::{down_pair, environment, names};
use crate::ledger::{Burst, Ledger};
use crate::namespace::skip;
use crate::pair::{Node, Pair, Said, run};
use crate::plan::Plan;

const TEST: &str = "drbds_agent_runs_unchanged_through_its_cycle";
/// The agent says so of a resource that does not run, and of a Primary.
const NOT_RUNNING: i32 = 7;
const PROMOTED: i32 = 8;

/// What the agent needs of its host.
struct Agent {
    program: PathBuf,
    /// Where `lib/heartbeat/ocf-shellfuncs` is.
    root: PathBuf,
    tools: PathBuf,
    told: PathBuf,
}

/// A file of a Debian package, as `tools/test` has fetched it, or as it is installed.
pub(crate) fn file_of(package: &str, path: &str) -> Option<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fetched").join(package);
    [fetched, PathBuf::from("/")].iter().map(|root| root.join(path)).find(|file| file.exists())
}

impl Agent {
    fn new(pair: &Pair) -> Result<Self, String> {
        let named = std::env::var_os("TANDEM_DRBD_OCF").map(PathBuf::from);
        let program = named.or_else(|| file_of("drbd-utils", "usr/lib/ocf/resource.d/linbit/drbd"));
        let program = program.ok_or("there is no agent: the package drbd-utils")?;
        let functions = file_of("resource-agents", "usr/lib/ocf/lib/heartbeat/ocf-shellfuncs");
        let functions = functions.ok_or("its functions: the package resource-agents")?;
        if !nix::unistd::geteuid().is_root() {
            return Err("only root makes the device nodes that it tests for".to_owned());
        }
        let tools = names(pair);
        let told = pair.dir.path().join("told");
        for name in ["crm_master", "crm_attribute", "crm_resource"] {
            let file = tools.join(name);
            let script =
                format!("#!/bin/sh\necho \"$TANDEM_NODE {name} $*\" >>{}\n", told.display());
            fs::write(&file, script).expect("a script");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("ours");
        }
        let root = functions.ancestors().nth(3).expect("a folder").to_owned();
        Ok(Self { program, root, tools, told })
    }

    /// Runs one action as the cluster does; `more`: of its environment.
    fn run(&self, node: &Node, action: &str, more: &[(&str, &str)]) -> Said {
        let mut command = Command::new("env");
        command.envs(environment(node)).args([
            &format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", self.tools.display()),
            &format!("HA_SBIN_DIR={}", self.tools.display()),
            &format!("OCF_ROOT={}", self.root.display()),
            &format!("OCF_RESKEY_drbdconf={}", node.config.display()),
        ]);
        command.args([
            "HA_LOGD=no",
            "HA_debug=0",
            "OCF_RESOURCE_INSTANCE=drbd",
            "OCF_RESOURCE_TYPE=drbd",
            "OCF_RESOURCE_PROVIDER=linbit",
            "OCF_RESKEY_drbd_resource=r0",
            "OCF_RESKEY_CRM_meta_clone_max=2",
            "OCF_RESKEY_CRM_meta_clone_node_max=1",
            "OCF_RESKEY_CRM_meta_master_max=1",
            "OCF_RESKEY_CRM_meta_master_node_max=1",
            "OCF_RESKEY_CRM_meta_notify=true",
            "OCF_RESKEY_CRM_meta_timeout=20000",
            "OCF_RESKEY_crm_feature_set=3.16.2",
        ]);
        command.args(more.iter().map(|(name, value)| format!("{name}={value}")));
        // The cluster ends what takes longer than its limit.
        let limit =
            more.iter().find(|(name, _)| *name == "LIMIT").map_or("100", |(_, value)| value);
        run(command.args(["timeout", limit]).arg(&self.program).arg(action))
    }

    #[track_caller]
    fn is(&self, node: &Node, action: &str, code: i32) {
        let interval = [("OCF_RESKEY_CRM_meta_interval", "5000")];
        let said = self.run(node, action, if action == "monitor" { &interval } else { &[] });
        assert_eq!(said.code, code, "{} {action}: {said:?}", node.name);
    }

    fn probe(&self, node: &Node) -> i32 {
        self.run(node, "monitor", &[("OCF_RESKEY_CRM_meta_interval", "0")]).code
    }

    fn notify(&self, node: &Node, kind: &str, operation: &str) {
        let said = self.run(
            node,
            "notify",
            &[
                ("OCF_RESKEY_CRM_meta_notify_type", kind),
                ("OCF_RESKEY_CRM_meta_notify_operation", operation),
                ("OCF_RESKEY_CRM_meta_notify_start_uname", "bob"),
            ],
        );
        assert_eq!(said.code, 0, "{} {kind}-{operation}: {said:?}", node.name);
    }

    /// What the cluster was last told of a node's score; `None`: it has none.
    fn score(&self, node: &Node) -> Option<u32> {
        let told = fs::read_to_string(&self.told).unwrap_or_default();
        let own = format!("{} crm_master ", node.name);
        let last = told.lines().rev().find_map(|line| line.strip_prefix(&own))?;
        last.rsplit_once("-v ").map(|(_, score)| score.parse().expect("a number"))
    }
}

#[test]
fn drbds_agent_runs_unchanged_through_its_cycle() {
    let mut pair = down_pair(Plan::new().impatient());
    let agent = match Agent::new(&pair) {
        Ok(agent) => agent,
        Err(why) => return skip(TEST, &why),
    };
    for node in [&pair.alice, &pair.bob] {
        assert_eq!(agent.probe(node), NOT_RUNNING);
    }
    agent.is(&pair.alice, "meta-data", 0);
    agent.is(&pair.alice, "validate-all", 0);
    // The peer is not there yet: it waits for it, and goes on.
    let said = agent.run(&pair.alice, "start", &[("OCF_RESKEY_wfc_timeout", "1")]);
    assert_eq!(said.code, 0, "{said:?}");
    agent.is(&pair.alice, "monitor", 0);
    assert_eq!(agent.score(&pair.alice), None, "both disks are new");
    agent.is(&pair.bob, "start", 0);
    pair.alice.ok(&["new-current-uuid", "--clear-bitmap", "r0"]);
    for node in [&pair.alice, &pair.bob] {
        agent.notify(node, "post", "start");
        agent.is(node, "monitor", 0);
        assert_eq!(agent.score(node), Some(10_000), "{}", node.name);
    }
    agent.notify(&pair.bob, "pre", "promote");
    agent.is(&pair.alice, "promote", 0);
    agent.notify(&pair.bob, "post", "promote");
    agent.is(&pair.alice, "monitor", PROMOTED);
    agent.is(&pair.bob, "monitor", 0);
    let mut client = pair.alice.client();
    let mut ledger = Ledger::seeded(90);
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    client.flush().expect("a flush of both");
    agent.is(&pair.alice, "reload", 0);

    // A planned move: what has the device is stopped first.
    drop(client);
    agent.is(&pair.alice, "demote", 0);
    agent.is(&pair.alice, "stop", 0);
    assert_eq!(agent.score(&pair.alice), None);
    assert_eq!(agent.probe(&pair.alice), NOT_RUNNING);
    agent.is(&pair.alice, "stop", 0);
    agent.notify(&pair.bob, "post", "stop");
    assert_eq!(agent.score(&pair.bob), Some(1000), "nothing is known of alice's disk");
    agent.is(&pair.bob, "promote", 0);
    agent.is(&pair.bob, "monitor", PROMOTED);
    agent.is(&pair.alice, "start", 0);
    pair.wait_synced();
    let mut client = pair.bob.client();
    ledger.check(&mut client);
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    client.flush().expect("a flush of both");

    // The Primary's daemon is silent: neither monitor nor stop comes to an end.
    pair.bob.freeze();
    for action in ["monitor", "stop"] {
        let said = agent.run(&pair.bob, action, &[("LIMIT", "2")]);
        assert_eq!(said.code, 124, "{action}: {said:?}");
    }
    assert_eq!(agent.score(&pair.bob), Some(10_000), "it was not withdrawn");
    pair.bob.wake();
    agent.is(&pair.bob, "monitor", PROMOTED);

    // It is killed: what does not run is said not to run, and the other one takes over.
    pair.bob.kill();
    agent.is(&pair.bob, "monitor", NOT_RUNNING);
    agent.is(&pair.bob, "stop", 0);
    pair.alice.wait_connection("Connecting", "refused");
    agent.notify(&pair.alice, "post", "stop");
    assert_eq!(agent.score(&pair.alice), Some(1000));
    agent.is(&pair.alice, "promote", 0);
    let mut client = pair.alice.client();
    ledger.check(&mut client);
    assert!(ledger.write(&mut client, &Burst::Count(100)));

    // Rejoined; without its daemon a start fails.
    let said = agent.run(&pair.bob, "start", &[]);
    assert!(said.code == 1 && said.stderr.contains("tandemd does not run"), "{said:?}");
    pair.bob.start();
    agent.is(&pair.bob, "start", 0);
    pair.wait_synced();
    agent.is(&pair.bob, "monitor", 0);
    assert_eq!(agent.score(&pair.bob), Some(10_000));
    client.flush().expect("a flush of both");
    drop(client);
    for (node, action) in [(&pair.alice, "stop"), (&pair.bob, "stop")] {
        agent.is(node, action, 0);
    }
    assert_eq!(agent.probe(&pair.alice), NOT_RUNNING);
}

/// Where the resource, or the file, is not known.
#[test]
fn drbds_agent_names_what_is_not_configured() {
    let pair = Plan::new().blank();
    let agent = match Agent::new(&pair) {
        Ok(agent) => agent,
        Err(why) => return skip("drbds_agent_names_what_is_not_configured", &why),
    };
    let nope = [("OCF_RESKEY_drbd_resource", "nope"), ("OCF_RESKEY_CRM_meta_interval", "0")];
    assert_eq!(agent.run(&pair.alice, "monitor", &nope).code, NOT_RUNNING);
    let said = agent.run(&pair.alice, "start", &nope);
    assert!(said.code == 5 && said.stderr.contains("not found in configuration file"), "{said:?}");
    // Nothing of it runs, so that the node need not be fenced.
    let said = agent.run(&pair.alice, "stop", &nope);
    assert!(said.code == 0 && said.stderr.contains("FIX YOUR SETUP"), "{said:?}");
    let two = [("OCF_RESKEY_CRM_meta_master_max", "2")];
    let said = agent.run(&pair.alice, "start", &two);
    assert!(said.code == 6 && said.stderr.contains("allow-two-primaries"), "{said:?}");
}
