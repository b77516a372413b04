//! Tandem's own OCF agent, ocf:tandem:tandem, and its handler crm-store-uuid, on real daemons.
//!
//! The cluster is a script under the names of Pacemaker's tools: marks, scores, members and who is off
//! stand in files. `cut` there: the peer's copy of the configuration does not answer.

mod pushed;
mod stops;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::drbd_agent::file_of;
use crate::drbd_names::{down_pair, environment};
use crate::ledger::{Burst, Ledger};
use crate::namespace::skip;
use crate::pair::{Node, Pair, Said, run};
use crate::plan::Plan;
use crate::wait::until;

const NOT_RUNNING: i32 = 7;
const PROMOTED: i32 = 8;
const DEGRADED: i32 = 190;
const DEGRADED_PROMOTED: i32 = 191;

/// Pacemaker's tools, as far as the agent and its handler call them.
const TOOLS: &str = r#"#!/bin/sh
cluster=DIR
case ${0##*/} in
attrd_updater)
    case $2 in
    *-disk) echo "$4" >"$cluster/disk-$TANDEM_NODE" ;;
    *) echo "$*" >"$cluster/state-$TANDEM_NODE" ;;
    esac
    ;;
corosync-cmapctl)
    case $1 in
    nodelist.node) sed 's/^/nodelist.node.0.name (str) = /' "$cluster/nodes" ;;
    *) echo "$2 (u32) = 100" ;;
    esac
    ;;
crm_node)
    case $1 in
    --partition) grep -vxf "$cluster/off" "$cluster/members" | tr '\n' ' ' ;;
    --quorum) echo 1 ;;
    esac
    ;;
crm_mon)
    echo '<current_dc present="true" name="alice" with_quorum="true"/>'
    echo '<cluster_options stonith-enabled="true"/>'
    for node in alice bob $(cat "$cluster/third" 2>/dev/null); do
        online=true
        grep -qx $node "$cluster/off" && online=false
        pending=false
        grep -qx $node "$cluster/late" 2>/dev/null && pending=true
        echo "<node name=\"$node\" online=\"$online\" pending=\"$pending\" unclean=\"false\" type=\"member\"/>"
    done
    ;;
pgrep)
    # What takes a right that tandemd's unit does not leave: another user's namespaces.
    case $* in *--ns*) exit 1 ;; *tandemd*) exec /usr/bin/pgrep "$@" ;; esac
    cat "$cluster/pacemaker"
    ;;
cibadmin)
    epoch=$(cat "$cluster/admin-epoch" 2>/dev/null || echo 0)
    case $1 in
    --node)
        test ! -e "$cluster/cut" || exit 1
        echo "<nvpair id=\"x\" name=\"tandem-r0-stale\" value=\"$(cat "$cluster/mark-$2" 2>/dev/null || cat "$cluster/mark-bob")\"/>"
        echo "<nvpair id=\"y\" name=\"tandem-r0-outlasts\" value=\"$(cat "$cluster/outlasts")\"/>"
        ;;
    --query)
        case $* in *node_state*)
            if grep -qx "$(echo "$*" | cut -d"'" -f2)" "$cluster/left" 2>/dev/null; then
                # From Pacemaker 2.1.7 on: 0, and the times since when.
                gone=$(cat "$cluster/gone" 2>/dev/null || echo offline)
                echo "<node_state in_ccm=\"true\" crmd=\"$gone\" join=\"down\" expected=\"down\"/>"
            else
                echo '<node_state in_ccm="true" crmd="online" join="down" expected="down"/>'
            fi
            exit
            ;;
        esac
        echo "<cib epoch=\"3\" admin_epoch=\"$epoch\" num_updates=\"1\"/>"
        ;;
    --modify)
        echo "$3" | tr -dc 0-9 >"$cluster/admin-epoch"
        # Another resource's handler was quicker.
        test ! -e "$cluster/raced" || exit 103
        ;;
    *) exit 64 ;;
    esac
    ;;
crm_attribute)
    case $1 in -p) shift; echo "$TANDEM_NODE $*" >>"$cluster/scores"; exit ;; esac
    case $* in *master-r0*) echo "$4 -v $8" >>"$cluster/scores"; exit ;; esac
    # The cluster is slow with what it keeps.
    case $* in *tandem-r0-stale*) test ! -e "$cluster/slow" || exec sleep 60 ;; esac
    case $* in *stonith-enabled*) cat "$cluster/stonith"; exit ;; esac
    case $* in *tandem-r0-disk*) cat "$cluster/disk-$4" 2>/dev/null || echo none; exit ;; esac
    case $* in *tandem-r0-left*)
        case $7 in
        --query) cat "$cluster/behind-$4" 2>/dev/null || echo none ;;
        --update) echo "$8" >"$cluster/behind-$4" ;;
        --delete) rm -f "$cluster/behind-$4" ;;
        *) exit 64 ;;
        esac
        exit
        ;;
    esac
    case $* in *tandem-r0-outlasts*)
        echo "$8" >"$cluster/outlasts"
        # It is answered before it is on the disk.
        test -e "$cluster/full" && exit 0
        {
            echo "<cib epoch=\"3\" admin_epoch=\"$(cat "$cluster/admin-epoch")\">"
            echo "<nvpair id=\"y\" name=\"tandem-r0-outlasts\" value=\"$8\"/>"
            for mark in "$cluster"/mark-*; do
                echo "<nvpair id=\"x\" name=\"tandem-r0-stale\" value=\"$(cat "$mark")\"/>"
            done
        } >"$cluster/cib.xml"
        exit
        ;;
    esac
    shift 2
    mark=$cluster/mark-$2
    case $5 in
    --query) cat "$mark" 2>/dev/null || echo none ;;
    --update) echo "$6" >"$mark.new" && mv "$mark.new" "$mark" ;;
    --delete) rm -f "$mark" ;;
    *) exit 64 ;;
    esac
    ;;
esac
"#;

struct Agent {
    /// Where `lib/heartbeat/ocf-shellfuncs` is.
    root: PathBuf,
    cluster: tempfile::TempDir,
}

pub(crate) fn of_the_tree(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/ocf").join(name)
}

impl Agent {
    /// `None`: the test is skipped.
    fn or_skip(test: &str) -> Option<Self> {
        Self::new().inspect_err(|why| skip(test, why)).ok()
    }

    fn new() -> Result<Self, String> {
        let functions = file_of("resource-agents", "usr/lib/ocf/lib/heartbeat/ocf-shellfuncs");
        let functions = functions.ok_or("ocf-shellfuncs: the package resource-agents")?;
        for program in ["/bin/bash", "/usr/bin/flock"] {
            if !Path::new(program).exists() {
                return Err(format!("{program} is not there"));
            }
        }
        let cluster = tempfile::tempdir().expect("a folder");
        let tools = cluster.path().join("tools");
        fs::create_dir(&tools).expect("a folder");
        let text = TOOLS.replace("DIR", cluster.path().to_str().expect("text"));
        let names = ["crm_attribute", "crm_node", "crm_mon", "cibadmin", "corosync-cmapctl"];
        for name in names.iter().chain(&["attrd_updater", "pgrep"]) {
            fs::write(tools.join(name), &text).expect("a script");
            fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o755)).expect("ours");
        }
        symlink(env!("CARGO_BIN_EXE_tandemadm"), tools.join("tandemadm")).expect("a link");
        fs::write(cluster.path().join("members"), "alice\nbob\n").expect("a file");
        fs::write(cluster.path().join("off"), "").expect("a file");
        fs::write(cluster.path().join("nodes"), "alice\nbob\n").expect("a file");
        fs::write(cluster.path().join("stonith"), "true\n").expect("a file");
        let own = std::process::id().to_string();
        fs::write(cluster.path().join("pacemaker"), own).expect("a file");
        let root = functions.ancestors().nth(3).expect("a folder").to_owned();
        Ok(Self { root, cluster })
    }

    fn tools(&self) -> String {
        self.cluster.path().join("tools").display().to_string()
    }

    /// What the configuration has to have for it.
    fn plan(&self) -> Plan {
        self.handled(Plan::new().impatient())
    }

    fn handled(&self, plan: Plan) -> Plan {
        plan.net("fencing resource-and-stonith;").sections(&format!(
            "handlers {{ fence-peer \"{}\"; unfence-peer \"{}\"; }}",
            self.handler("fence"),
            self.handler("unfence"),
        ))
    }

    /// The line of a handler that is crm-store-uuid.
    fn handler(&self, verb: &str) -> String {
        let stored = self.cluster.path().join("cib.xml").display().to_string();
        let environment = format!("PATH={}:$PATH TANDEM_CIB={stored}", self.tools());
        format!("{environment} exec {} {verb}", of_the_tree("crm-store-uuid").display())
    }

    /// Runs one action as the cluster does; `more`: of its environment.
    fn run(&self, node: &Node, action: &str, more: &[(&str, &str)]) -> Said {
        let mut command = Command::new("env");
        command.envs(environment(node)).args([
            &format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", self.tools()),
            &format!("HA_SBIN_DIR={}", self.tools()),
            &format!("OCF_ROOT={}", self.root.display()),
            &format!("OCF_RESKEY_config={}", node.config.display()),
            &format!("OCF_RESKEY_run_dir={}", node.run_dir.display()),
            &format!("OCF_RESKEY_CRM_meta_on_node={}", node.name),
            &format!("OCF_RESKEY_marks={}", of_the_tree("crm-store-uuid").display()),
        ]);
        command.args([
            "HA_LOGD=no",
            "HA_debug=0",
            "OCF_RESOURCE_INSTANCE=r0",
            "OCF_RESOURCE_TYPE=tandem",
            "OCF_RESOURCE_PROVIDER=tandem",
            "OCF_RESKEY_resource=r0",
            "OCF_RESKEY_wait_connect=1",
            "OCF_RESKEY_degraded=true",
            "OCF_RESKEY_CRM_meta_clone_max=2",
            "OCF_RESKEY_CRM_meta_interval=5000",
            "OCF_RESKEY_CRM_meta_timeout=30000",
            "OCF_RESKEY_crm_feature_set=3.16.2",
        ]);
        command.args(more.iter().map(|(name, value)| format!("{name}={value}")));
        run(command.args(["timeout", "100"]).arg(of_the_tree("tandem")).arg(action))
    }

    #[track_caller]
    fn is(&self, node: &Node, action: &str, code: i32) -> Said {
        let said = self.run(node, action, &[]);
        assert_eq!(said.code, code, "{} {action}: {said:?}", node.name);
        said
    }

    /// It is refused, and this is what the cluster is told of why.
    #[track_caller]
    fn refuses(&self, node: &Node, action: &str, more: &[(&str, &str)], code: i32, why: &str) {
        let said = self.run(node, action, more);
        let reason = |line: &str| line.starts_with("ocf-exit-reason:") && line.contains(why);
        let told = said.stderr.lines().any(reason);
        assert!(said.code == code && told, "{} {action}: {said:?}", node.name);
    }

    fn probe(&self, node: &Node) -> i32 {
        self.run(node, "monitor", &[("OCF_RESKEY_CRM_meta_interval", "0")]).code
    }

    /// What the cluster was last told of a node's score; `None`: it has none.
    fn score(&self, node: &Node) -> Option<u32> {
        let told = fs::read_to_string(self.cluster.path().join("scores")).unwrap_or_default();
        let own = format!("{} ", node.name);
        let last = told.lines().rev().find_map(|line| line.strip_prefix(&own))?;
        last.strip_prefix("-v ").map(|score| score.parse().expect("a number"))
    }

    fn mark(&self, node: &Node) -> Option<String> {
        fs::read_to_string(self.cluster.path().join(format!("mark-{}", node.name))).ok()
    }

    fn put(&self, file: &str, text: &str) {
        fs::write(self.cluster.path().join(file), text).expect("a file");
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.cluster.path().join(file)).expect("it is there");
    }

    /// Both are started, in sync, and alice is promoted.
    fn promoted_pair(&self) -> Pair {
        self.promoted(self.plan())
    }

    fn promoted(&self, plan: Plan) -> Pair {
        let pair = down_pair(plan);
        for node in [&pair.alice, &pair.bob] {
            self.is(node, "start", 0);
        }
        pair.wait_connected();
        pair.alice.ok(&["new-current-uuid", "--clear-bitmap", "r0"]);
        pair.wait_synced();
        self.is(&pair.alice, "promote", 0);
        pair
    }
}

#[test]
fn the_own_agent_goes_through_its_cycle_and_a_silent_daemon_is_not_a_stopped_one() {
    let agent = match Agent::new() {
        Ok(agent) => agent,
        Err(why) => {
            return skip(
                "the_own_agent_goes_through_its_cycle_and_a_silent_daemon_is_not_a_stopped_one",
                &why,
            );
        }
    };
    let mut pair = down_pair(agent.plan());
    for node in [&pair.alice, &pair.bob] {
        assert_eq!(agent.probe(node), NOT_RUNNING);
    }
    agent.is(&pair.alice, "meta-data", 0);
    agent.is(&pair.alice, "validate-all", 0);
    let nope = [("OCF_RESKEY_resource", "nope")];
    agent.refuses(&pair.alice, "start", &nope, 2, "nope");
    // The cluster's names are those of the configuration, and it fences.
    let long = [("OCF_RESKEY_CRM_meta_on_node", "alice.example.org")];
    agent.refuses(&pair.alice, "start", &long, 2, "no section \"on alice.example.org\"");
    agent.put("nodes", "alice\nrobert\n");
    agent.refuses(&pair.alice, "start", &[], 2, "\"on bob\" of r0 is no node of the cluster");
    agent.put("nodes", "");
    agent.put("stonith", "false\n");
    agent.refuses(&pair.alice, "validate-all", &[], 2, "stonith-enabled is false");
    let own_risk = [("OCF_RESKEY_require_fencing", "false")];
    assert_eq!(agent.run(&pair.alice, "validate-all", &own_risk).code, 0);
    agent.put("stonith", "true\n");
    let program = agent.cluster.path().join("tools/cibadmin");
    let aside = agent.cluster.path().join("cibadmin");
    fs::rename(&program, &aside).expect("it is there");
    if !Path::new("/usr/sbin/cibadmin").exists() {
        agent.refuses(&pair.alice, "start", &[], 5, "there is no cibadmin");
    }
    fs::rename(&aside, &program).expect("it is there");
    // The peer is not there yet: it goes on without it.
    agent.is(&pair.alice, "start", 0);
    // bob's Pacemaker was met: there may be no monitor before that is what counts.
    assert!(pair.alice.run_dir.join("crm-r0.met").exists());
    agent.is(&pair.alice, "monitor", DEGRADED);
    assert_eq!(agent.score(&pair.alice), None, "both disks are new");
    agent.refuses(&pair.alice, "promote", &[], 1, "Need access to UpToDate data");
    agent.is(&pair.bob, "start", 0);
    pair.wait_connected();
    pair.alice.ok(&["new-current-uuid", "--clear-bitmap", "r0"]);
    pair.wait_synced();
    for node in [&pair.alice, &pair.bob] {
        agent.is(node, "monitor", 0);
        assert_eq!(agent.score(node), Some(10_000), "{}", node.name);
    }
    agent.is(&pair.alice, "promote", 0);
    agent.is(&pair.alice, "promote", 0);
    // A handler that is at it for long does not hold the monitor up.
    let lock = fs::File::create(pair.alice.run_dir.join("crm-r0.lock")).expect("a file");
    lock.lock().expect("nobody has it");
    let begun = std::time::Instant::now();
    agent.is(&pair.alice, "monitor", PROMOTED);
    assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{:?}", begun.elapsed());
    drop(lock);
    agent.is(&pair.alice, "monitor", PROMOTED);
    agent.is(&pair.bob, "monitor", 0);
    agent.refuses(&pair.bob, "promote", &[], 1, "r0 is not promoted on bob");

    // A client holds on: it is closed, and what it was answered is on both.
    let mut client = pair.alice.client();
    let mut ledger = Ledger::seeded(91);
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    let said = agent.run(&pair.alice, "demote", &[("OCF_RESKEY_client_wait", "0")]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(client.flush().is_err(), "the client is closed");
    agent.is(&pair.alice, "monitor", 0);
    agent.is(&pair.bob, "promote", 0);
    ledger.check(&mut pair.bob.client());

    // Stopped in order, the Primary goes on without it.
    agent.is(&pair.alice, "stop", 0);
    assert_eq!(agent.score(&pair.alice), None);
    assert_eq!(agent.probe(&pair.alice), NOT_RUNNING);
    agent.is(&pair.alice, "stop", 0);
    agent.is(&pair.bob, "monitor", DEGRADED_PROMOTED);
    let plain = [("OCF_RESKEY_degraded", "false")];
    assert_eq!(agent.run(&pair.bob, "monitor", &plain).code, PROMOTED);
    let state = fs::read_to_string(agent.cluster.path().join("state-bob")).expect("it was told");
    assert_eq!(state, "-n tandem-r0-state -U alice: Connecting, its disk: Outdated\n");
    agent.is(&pair.alice, "start", 0);
    pair.wait_synced();

    // The Primary's daemon is silent. Only when it is gone is it stopped.
    pair.bob.freeze();
    let short = [("OCF_RESKEY_CRM_meta_timeout", "4000")];
    agent.refuses(&pair.bob, "monitor", &short, 1, "does not answer");
    agent.refuses(&pair.bob, "demote", &short, 1, "does not answer");
    let said = agent.run(&pair.bob, "stop", &[("OCF_RESKEY_CRM_meta_timeout", "8000")]);
    assert!(said.code == 0 && said.stderr.contains("it is killed"), "{said:?}");
    pair.bob.kill();
    assert_eq!(agent.probe(&pair.bob), NOT_RUNNING);
    agent.is(&pair.bob, "monitor", NOT_RUNNING);
    agent.is(&pair.bob, "stop", 0);
    let kept = fs::read_dir(pair.bob.run_dir.join("up")).expect("a folder").count();
    assert_eq!(kept, 0, "a daemon that is started now brings up what the cluster has stopped");
    agent.refuses(&pair.bob, "start", &short, 1, "tandemd does not run");

    // alice is promoted as soon as bob is off: until then its fence-peer waits.
    let soon = [("OCF_RESKEY_CRM_meta_timeout", "3000")];
    agent.put("members", "alice\n");
    agent.refuses(&pair.alice, "promote", &soon, 1, "fence-peer had no answer in time");
    // The cluster demotes it then: neither the promotion nor its fence-peer goes on behind its back.
    agent.is(&pair.alice, "demote", 0);
    until("the promotion's fence-peer ends", || {
        pair.alice.log_text().contains("alice was demoted since").then_some(())
    });
    assert_eq!(pair.alice.ok(&["role", "r0"]).trim(), "Secondary");
    // A Pacemaker that was started since has not heard what bob's may know; and while bob's is about to join, the
    // promotion makes way.
    let later = [("OCF_RESKEY_CRM_meta_timeout", "12000")];
    agent.put("off", "bob\n");
    agent.put("pacemaker", "1\n");
    agent.refuses(&pair.alice, "promote", &later, 1, "fence-peer returned 1");
    let log = pair.alice.log_text();
    assert!(log.contains("has not met bob's since it was started"), "{log}");
    // Nor where bob's has left in order and its Corosync still runs.
    agent.put("off", "");
    agent.put("members", "alice\nbob\n");
    agent.put("late", "bob\n");
    agent.put("left", "bob\n");
    agent.refuses(&pair.alice, "promote", &later, 1, "fence-peer returned 1");
    let log = pair.alice.log_text();
    assert!(log.contains("Pacemaker on bob has not joined"), "{log}");
    agent.put("pacemaker", &std::process::id().to_string());
    agent.remove("left");
    agent.refuses(&pair.alice, "promote", &later, 1, "fence-peer returned 1");
    // But where it was met since, also where another resource raises the epoch at the same moment: nobody there has decided anything, or confirms anything.
    agent.put("left", "bob\n");
    agent.put("cut", "");
    agent.put("raced", "");
    // And until the mark is on the disk, in a configuration that no change of bob's can outdo.
    agent.put("full", "");
    agent.refuses(&pair.alice, "promote", &soon, 1, "fence-peer had no answer in time");
    agent.remove("full");
    agent.put("gone", "0");
    agent.is(&pair.alice, "promote", 0);
    agent.remove("cut");
    let stored = fs::read_to_string(agent.cluster.path().join("cib.xml")).expect("it is written");
    assert!(!stored.contains("admin_epoch=\"0\"") && stored.contains("alice:0="), "{stored}");
    agent.is(&pair.alice, "monitor", DEGRADED_PROMOTED);
    assert!(agent.mark(&pair.bob).is_some_and(|mark| mark.starts_with("alice:0=")));
    ledger.check(&mut pair.alice.client());
    agent.is(&pair.alice, "stop", 0);
}

#[test]
fn a_stale_secondary_is_never_promoted_and_no_mark_is_left_behind() {
    let Some(agent) =
        Agent::or_skip("a_stale_secondary_is_never_promoted_and_no_mark_is_left_behind")
    else {
        return;
    };
    let mut pair = agent.promoted_pair();
    let mut client = pair.alice.client();
    let mut ledger = Ledger::seeded(92);
    assert!(ledger.write(&mut client, &Burst::Count(100)));

    // The peer is lost, and does not say that it has the mark: nothing is answered. Which Pacemaker runs here does
    // not matter where the peer is a member.
    agent.put("cut", "");
    agent.remove("pacemaker");
    pair.bob.kill();
    until("bob is marked", || agent.mark(&pair.bob));
    let said = agent.is(&pair.alice, "monitor", DEGRADED_PROMOTED);
    assert!(said.stderr.contains("I/O is suspended (fencing)"), "{said:?}");
    // Frozen is said also where the exit code is the usual one.
    let plain = [("OCF_RESKEY_degraded", "false")];
    agent.refuses(&pair.alice, "monitor", &plain, PROMOTED, "I/O is suspended (fencing)");
    let waits = std::thread::spawn(move || {
        assert!(ledger.write(&mut client, &Burst::Count(100)));
        (client, ledger)
    });
    until("the write waits", || {
        let pending = pair.alice.status()["devices"][0]["upper-pending"].as_u64();
        (pending > Some(0)).then_some(())
    });
    assert!(!waits.is_finished());
    agent.remove("cut");
    let (mut client, mut ledger) = waits.join().expect("the client ends well");
    let log = pair.alice.log_text();
    assert!(log.contains("fence-peer helper returned 4"), "{log}");
    client.flush().expect("a flush alone");
    drop(client);

    agent.put("pacemaker", &std::process::id().to_string());

    // The Primary is lost as well, for sure. bob's disk is consistent, and lacks what was answered.
    pair.alice.kill();
    agent.put("off", "alice\n");
    pair.bob.start();
    agent.is(&pair.bob, "start", 0);
    agent.refuses(&pair.bob, "monitor", &[], DEGRADED, "alice went on without bob");
    assert_eq!(agent.score(&pair.bob), None);
    agent.refuses(&pair.bob, "promote", &[], 1, "alice went on without bob");
    let refused = pair.bob.adm(&["primary", "r0"]);
    assert_ne!(refused.code, 0, "nor without the agent: its fence-peer knows as well");
    assert_eq!(pair.bob.ok(&["role", "r0"]).trim(), "Secondary");
    assert_eq!(agent.mark(&pair.alice), None, "nobody but alice has gone on");

    // alice is back, and what it has is what counts; in sync, both may be promoted.
    agent.put("off", "");
    pair.alice.start();
    agent.is(&pair.alice, "start", 0);
    pair.wait_synced();
    agent.is(&pair.alice, "promote", 0);
    ledger.check(&mut pair.alice.client());
    agent.is(&pair.alice, "monitor", PROMOTED);
    until("no mark is left", || agent.mark(&pair.bob).is_none().then_some(()));
    // Before its next monitor.
    until("bob may be promoted", || (agent.score(&pair.bob) == Some(10_000)).then_some(()));
    agent.is(&pair.bob, "monitor", 0);
    assert_eq!(agent.score(&pair.bob), Some(10_000));

    // So bob takes over when alice is lost again, and now alice is the one that is left behind.
    pair.alice.kill();
    agent.put("off", "alice\n");
    agent.is(&pair.bob, "promote", 0);
    let mut client = pair.bob.client();
    ledger.check(&mut client);
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    assert!(agent.mark(&pair.alice).is_some_and(|mark| mark.starts_with("bob:0=")));
    assert_eq!(agent.mark(&pair.bob), None);
}

/// What both have acknowledged and the lost node had not flushed is in no generation.
#[test]
fn who_may_have_lost_what_both_had_is_not_promoted_beside_who_has_it() {
    let Some(agent) =
        Agent::or_skip("who_may_have_lost_what_both_had_is_not_promoted_beside_who_has_it")
    else {
        return;
    };
    let mut pair = agent.promoted_pair();
    let mut client = pair.alice.client();
    let mut ledger = Ledger::seeded(93);
    agent.is(&pair.bob, "monitor", 0);

    // bob is lost before anything is flushed, and nothing is written from then on.
    assert!(ledger.write(&mut client, &Burst::Count(20)));
    pair.bob.kill();
    until("alice goes on", || {
        let log = pair.alice.log_text();
        log.contains("fence-peer helper returned 4").then_some(())
    });
    drop(client);
    until("nobody uses it", || {
        let open = pair.alice.status()["devices"][0]["open"].as_bool();
        (open == Some(false)).then_some(())
    });
    agent.is(&pair.alice, "demote", 0);
    assert!(agent.mark(&pair.bob).is_some(), "bob lacks it, perhaps");

    // bob is back while the two do not reach each other; the cluster does.
    pair.alice.ok(&["disconnect", "r0"]);
    pair.bob.start();
    agent.is(&pair.bob, "start", 0);
    agent.refuses(&pair.bob, "promote", &[], 1, "alice went on without bob");

    // Nor where no mark says so, as long as alice's disk is UpToDate.
    agent.remove("mark-bob");
    assert_eq!(pair.bob.status()["devices"][0]["disk-state"], "Consistent");
    agent.put("disk-alice", "UpToDate\n");
    // What it marked itself before it crashed, and nothing has followed, keeps nobody from being promoted.
    let generations = pair.bob.ok(&["get-gi", "r0/0"]);
    let current = u64::from_str_radix(&generations[..16], 16).expect("a UUID") & !1;
    for (marked, stays) in [(current ^ 0x100, true), (current, false)] {
        agent.put("mark-alice", &format!("bob:0={marked:016X}\n"));
        agent.refuses(&pair.bob, "promote", &[], 1, "");
        assert_eq!(agent.mark(&pair.alice).is_some(), stays);
    }
    let log = pair.bob.log_text();
    assert!(
        log.contains("the disk of alice is UpToDate, and this one may lack what it has"),
        "{log}"
    );
    assert_eq!(pair.bob.ok(&["role", "r0"]).trim(), "Secondary");

    // Nor where alice has left in order, without bob, and with all of it.
    agent.is(&pair.alice, "stop", 0);
    agent.put("off", "alice\n");
    agent.refuses(&pair.bob, "promote", &[], 1, "");
    let log = pair.bob.log_text();
    assert!(log.contains("-n tandem-r0-left -D"), "{log}");

    agent.put("off", "");
    agent.is(&pair.alice, "start", 0);
    assert!(!agent.cluster.path().join("behind-alice").exists(), "it is here again");
    pair.wait_synced();
    // In sync, nobody has more than the other.
    agent.is(&pair.alice, "stop", 0);
    assert!(!agent.cluster.path().join("behind-alice").exists());
    agent.is(&pair.alice, "start", 0);
    pair.wait_synced();
    agent.is(&pair.bob, "promote", 0);
    ledger.check(&mut pair.bob.client());
}

/// With a ping every 10 s, and no configuration that says otherwise: fencing is quicker.
#[test]
fn a_promotion_beside_a_primary_that_was_just_fenced_does_not_fail_first() {
    let Some(agent) =
        Agent::or_skip("a_promotion_beside_a_primary_that_was_just_fenced_does_not_fail_first")
    else {
        return;
    };
    let mut pair = agent.promoted(agent.handled(Plan::new()));
    agent.is(&pair.bob, "monitor", 0);
    // Its connection stands, and nobody answers there any more.
    pair.alice.freeze();
    agent.put("off", "alice\n");
    assert_eq!(pair.bob.status()["connections"][0]["peer-role"], "Primary");
    let limit = [("OCF_RESKEY_CRM_meta_timeout", "8000")];
    let said = agent.run(&pair.bob, "promote", &limit);
    assert_eq!(said.code, 0, "{said:?}");
    pair.alice.kill();
}

/// Who has left in order, and only its Corosync still runs, confirms nothing: with three nodes that counts for
/// nothing where a majority has joined, and for a node that is not there yet where none has.
#[test]
fn a_third_node_that_has_left_hides_nobody_and_vouches_for_nobody() {
    let Some(agent) =
        Agent::or_skip("a_third_node_that_has_left_hides_nobody_and_vouches_for_nobody")
    else {
        return;
    };
    let mut pair = agent.promoted_pair();
    agent.put("third", "carol");
    agent.put("members", "alice\nbob\ncarol\n");
    for file in ["late", "left"] {
        agent.put(file, "carol\n");
    }
    // bob is a member: with alice the majority.
    pair.bob.kill();
    until("bob has his mark", || {
        let log = pair.alice.log_text();
        log.contains("fence-peer helper returned 4").then_some(())
    });
    pair.bob.start();
    agent.is(&pair.bob, "start", 0);
    pair.wait_synced();
    agent.is(&pair.alice, "monitor", PROMOTED);

    // And now alice is alone, with Corosync's quorum by carol's.
    agent.put("off", "bob\n");
    pair.bob.kill();
    until("alice waits for carol", || {
        let log = pair.alice.log_text();
        log.contains("Pacemaker on carol has not joined").then_some(())
    });
    assert!(!pair.alice.log_text().contains("fence-peer helper returned 7"));
    for file in ["late", "left"] {
        agent.remove(file);
    }
    until("bob is off", || {
        let log = pair.alice.log_text();
        log.contains("fence-peer helper returned 7").then_some(())
    });
    assert!(agent.mark(&pair.bob).is_some_and(|mark| mark.starts_with("alice:0=")));
}
