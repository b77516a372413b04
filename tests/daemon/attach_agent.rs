//! The OCF agent ocf:tandem:attach: over FUSE on this machine, and with the kernel's driver in a guest.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::drbd_agent::file_of;
use crate::fuse::is_possible;
use crate::guest::{ADDRESSES, Guest, NBD_PORT, pair_for_guests, stage};
use crate::namespace::skip;
use crate::own_agent::of_the_tree;
use crate::pair::{Node, Pair, Said, run, text};
use crate::plan::Plan;
use crate::wait::until;

const NOT_RUNNING: i32 = 7;
const DEGRADED: i32 = 190;

type Parameters<'a> = &'a [(&'a str, &'a str)];
const FUSE: Parameters<'static> = &[("fuse", "true")];

struct Agent {
    /// Where `lib/heartbeat/ocf-shellfuncs` is.
    root: PathBuf,
    tools: tempfile::TempDir,
}

impl Agent {
    fn new() -> Result<Self, String> {
        let functions = file_of("resource-agents", "usr/lib/ocf/lib/heartbeat/ocf-shellfuncs");
        let functions = functions.ok_or("ocf-shellfuncs: the package resource-agents")?;
        let tools = tempfile::tempdir().expect("a folder");
        let tandemadm = tools.path().join("tandemadm");
        symlink(env!("CARGO_BIN_EXE_tandemadm"), tandemadm).expect("a link");
        Ok(Self { root: functions.ancestors().nth(3).expect("a folder").to_owned(), tools })
    }

    /// Runs one action as the cluster does.
    fn run(&self, node: &Node, action: &str, parameters: Parameters<'_>) -> Said {
        let mut command = Command::new("env");
        command.env_remove("TANDEM_SERVERS").args([
            &format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", text(self.tools.path())),
            &format!("OCF_ROOT={}", self.root.display()),
            &format!("OCF_RESKEY_config={}", node.config.display()),
            &format!("OCF_RESKEY_run_dir={}", node.run_dir.display()),
            &format!("OCF_RESKEY_node={}", node.name),
        ]);
        command.args(["HA_LOGD=no", "HA_debug=0", "OCF_RESOURCE_INSTANCE=attach"]);
        command.args(["OCF_RESKEY_volume=r0", "OCF_RESKEY_CRM_meta_interval=5000"]);
        command.arg("OCF_RESKEY_CRM_meta_timeout=20000");
        for (name, value) in parameters {
            let prefix = if name.starts_with("OCF_") { "" } else { "OCF_RESKEY_" };
            command.arg(format!("{prefix}{name}={value}"));
        }
        run(command.args(["timeout", "100"]).arg(of_the_tree("attach")).arg(action))
    }

    #[track_caller]
    fn is(&self, node: &Node, action: &str, parameters: Parameters<'_>, code: i32) -> Said {
        let said = self.run(node, action, parameters);
        assert_eq!(said.code, code, "{} {action} {parameters:?}: {said:?}", node.name);
        said
    }

    /// It is refused, and this is what the cluster is told of why.
    #[track_caller]
    fn refuses(&self, node: &Node, action: &str, parameters: Parameters<'_>, code: i32, why: &str) {
        let said = self.is(node, action, parameters, code);
        let reason = |line: &str| line.starts_with("ocf-exit-reason:") && line.contains(why);
        assert!(said.stderr.lines().any(reason), "{} {action}: {said:?}", node.name);
    }
}

/// With these parameters more.
fn and<'a>(some: Parameters<'a>, more: Parameters<'a>) -> Vec<(&'a str, &'a str)> {
    [some, more].concat()
}

fn device_of(node: &Node) -> Option<PathBuf> {
    fs::read_link(node.run_dir.join("attached/r0-0")).ok()
}

/// Writes some blocks, past every cache of this machine if `is_flushed`.
fn write(device: &Path, byte: u8, is_flushed: bool) {
    let mut file = OpenOptions::new().write(true).open(device).expect("a device");
    file.write_all(&[byte; 1 << 16]).expect("written");
    if is_flushed {
        file.sync_all().expect("flushed");
    }
}

/// The process that attaches a volume of this node, or has attached it.
fn attacher(node: &Node) -> Option<String> {
    let is_one = |entry: &fs::DirEntry| {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        words[0].ends_with(b"tandem-attach") && words.contains(&text(&node.run_dir).as_bytes())
    };
    let entries = fs::read_dir("/proc").expect("it is there").flatten();
    entries.into_iter().find(is_one).map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// The same server, its port with zeros before it.
fn odd(server: &str) -> String {
    server.replace(':', ":00")
}

/// tandemadm on a host with the kernel's driver, as far as the agent asks it. It writes servers, devices and
/// folders in one way, whatever it was given; with a file `carol` the server is another one.
const KERNELS: &str = r#"#!/bin/sh
state=HERE/attached
server=unix:${TANDEM_RUN_DIR%/}/nbd.sock
case "$*" in *--servers=*) server=alice:10809 ;; esac
test ! -e HERE/carol || server=carol:10809
case "$*" in
--dry-run*) ;;
"device status"*)
    test -e "$state" || { echo "r0/0: it is not attached as a device here" >&2; exit 10; }
    cat "$state"
    ;;
"device attach"*) printf '%s\n' 'r0/0 /dev/nbd7 1048576 bytes' "  server: $server, 1 connection" '  guard: process 1' >"$state" ;;
"device detach"*) rm "$state" ;;
*) exit 1 ;;
esac
"#;

/// A program of the host, until it is removed.
fn instead(agent: &Agent, name: &str, script: &str) {
    let path = agent.tools.path().join(name);
    let _ = fs::remove_file(&path);
    fs::write(&path, script.replace("HERE", text(agent.tools.path()))).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
}

/// Detaches whatever is left when the test fails.
struct Remains<'a>(&'a Pair);

impl Drop for Remains<'_> {
    fn drop(&mut self) {
        if self.0.alice.runs() {
            self.0.alice.wake();
        }
        let _ = self.0.alice.adm(&["device", "detach", "--force", "r0"]);
    }
}

#[test]
fn what_an_agent_reads_stands_in_its_meta_data() {
    for name in ["attach", "tandem"] {
        let script = fs::read_to_string(of_the_tree(name)).expect("an agent");
        let mut read = Vec::new();
        for rest in script.split("OCF_RESKEY_").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            read.push(&rest[..end.expect("more follows")]);
        }
        read.retain(|parameter| !parameter.starts_with("CRM_meta_"));
        read.sort_unstable();
        read.dedup();
        let mut told: Vec<&str> = script
            .split("<parameter name=\"")
            .skip(1)
            .map(|rest| rest.split('"').next().expect("a name"))
            .collect();
        told.sort_unstable();
        assert_eq!(read, told, "ocf:tandem:{name}");
        // A default in the text is the one in the code.
        for parameter in script.split("<parameter name=\"").skip(1) {
            let name = parameter.split('"').next().expect("a name");
            let until_end = parameter.split("</parameter>").next().expect("an end");
            let Some(default) = until_end.split("default=\"").nth(1) else { continue };
            let default = default.split('"').next().expect("an end");
            let used = format!("{{OCF_RESKEY_{name}:-{default}}}");
            assert!(script.contains(&used), "{name}: {used} is not in the agent");
        }
    }
}

#[test]
fn a_volume_is_attached_over_fuse_by_the_agent_and_stopped_is_a_fact() {
    const TEST: &str = "a_volume_is_attached_over_fuse_by_the_agent_and_stopped_is_a_fact";
    if !is_possible(TEST) {
        return;
    }
    let agent = match Agent::new() {
        Ok(agent) => agent,
        Err(why) => return skip(TEST, &why),
    };
    let pair = Pair::in_sync();
    let alice = &pair.alice;
    let remains = Remains(&pair);

    // What cannot be is refused, and says why.
    for (parameters, code, why) in [
        (&[("volume", "")][..], 6, "the parameter volume is missing"),
        (&[("volume", "r0:bob")], 6, "has to be r0 or r0/1"),
        (&[("link", "here")], 6, "an absolute path"),
        (&[("fuse", "true"), ("device", "/dev/nbd0")], 2, "cannot be used with"),
        (&[("fuse", "true"), ("connections", "2")], 2, "cannot be used with"),
        (&[("timeout", "0")], 2, "1..=3600"),
        (&[("fuse", "true"), ("volume", "r7")], 1, "r7"),
    ] {
        agent.refuses(alice, "start", parameters, code, why);
    }
    // No answer of a busy machine is a fault of the configuration.
    let program = agent.tools.path().join("tandemadm");
    fs::remove_file(&program).expect("it is there");
    fs::write(&program, "#!/bin/sh\nexec sleep 60\n").expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("ours");
    agent.refuses(alice, "validate-all", FUSE, 1, "no answer in 10 s");
    fs::remove_file(&program).expect("it is there");
    symlink(env!("CARGO_BIN_EXE_tandemadm"), &program).expect("a link");
    agent.refuses(&pair.bob, "start", FUSE, 1, "alice is Primary");
    agent.is(alice, "promote", FUSE, 3);
    agent.is(alice, "validate-all", FUSE, 0);
    agent.is(alice, "monitor", FUSE, NOT_RUNNING);
    agent.is(alice, "stop", FUSE, 0);

    // The cycle, each twice.
    for _ in 0..2 {
        agent.is(alice, "start", FUSE, 0);
        agent.is(alice, "monitor", FUSE, 0);
    }
    agent.is(alice, "monitor", &and(FUSE, &[("CRM_meta_interval", "0")]), 0);
    agent.is(alice, "monitor", &and(FUSE, &[("OCF_CHECK_LEVEL", "10")]), 0);
    let device = device_of(alice).expect("a link");
    assert!(text(&device).starts_with("/dev/loop"), "{device:?}");
    // The link that is gone comes back; another file is not overwritten.
    let link = alice.run_dir.join("attached/r0-0");
    fs::remove_file(&link).expect("it is there");
    agent.is(alice, "monitor", FUSE, 0);
    assert_eq!(device_of(alice).as_ref(), Some(&device));
    fs::remove_file(&link).expect("it is there");
    fs::write(&link, "mine").expect("a file");
    agent.refuses(alice, "monitor", FUSE, 1, "no symbolic link");
    fs::remove_file(&link).expect("it is there");

    // What is attached in another way, or from others, is another's: refused, and left alone.
    let other = format!("unix:{}", pair.bob.run_dir.join("nbd.sock").display());
    let others = [("fuse", "true"), ("servers", other.as_str())];
    for (parameters, why) in [(&[][..], "over a file of FUSE"), (&others, "none of the servers")] {
        let parameters = and(parameters, &[("OCF_RESOURCE_INSTANCE", "other")]);
        agent.refuses(alice, "start", &parameters, 1, why);
        agent.refuses(alice, "monitor", &parameters, NOT_RUNNING, why);
        agent.is(alice, "stop", &parameters, 0);
    }
    // From this one among others it is ours.
    let own = format!("{other},unix:{}", alice.run_dir.join("nbd.sock").display());
    let both = [("fuse", "true"), ("servers", own.as_str())];
    agent.is(alice, "start", &both, 0);
    agent.is(alice, "monitor", &both, 0);

    // Stopped, it is flushed, gone, and on both disks.
    write(&device, 0x11, false);
    agent.is(alice, "stop", FUSE, 0);
    assert_eq!(device_of(alice), None);
    agent.is(alice, "monitor", FUSE, NOT_RUNNING);
    agent.is(alice, "stop", FUSE, 0);
    assert_eq!(pair.bob.read_disk(1 << 16), [0x11; 1 << 16]);

    // Somebody has it open, and stays: by force its I/O fails, but it is not stopped.
    agent.is(alice, "start", FUSE, 0);
    let device = device_of(alice).expect("a link");
    let held = File::open(&device).expect("a device");
    let short = and(FUSE, &[("client_wait", "0"), ("CRM_meta_timeout", "4000")]);
    agent.refuses(alice, "stop", &short, 1, "still in use");
    agent.refuses(alice, "monitor", FUSE, 1, "all of its I/O fails");
    drop(held);
    agent.is(alice, "stop", FUSE, 0);

    // Who serves it is killed: a failure, and the next start is a new device.
    agent.is(alice, "start", FUSE, 0);
    let guard = fs::read_to_string(alice.run_dir.join("fuse-r0-0.guard")).expect("a guard");
    run(Command::new("kill").args(["-KILL", guard.trim()]));
    until("it is seen", || (agent.run(alice, "monitor", FUSE).code == 1).then_some(()));
    agent.is(alice, "start", &and(FUSE, &[("dead_conn_timeout", "600")]), 0);
    agent.is(alice, "monitor", FUSE, 0);

    // Its server is gone, and a write is under way: degraded, and the stop ends in time.
    let device = device_of(alice).expect("a link");
    alice.ok(&["secondary", "--force=yes", "r0"]);
    let degraded = and(FUSE, &[("degraded", "true")]);
    until("it is seen", || {
        let said = agent.run(alice, "monitor", &degraded);
        (said.code == DEGRADED && said.stderr.contains("I/O waits")).then_some(())
    });
    agent.is(alice, "monitor", FUSE, 0);
    let waits = std::thread::spawn({
        let device = device.clone();
        move || {
            let mut file = OpenOptions::new().write(true).open(device).expect("a device");
            file.write_all(&[0x22; 1 << 16]).expect("into memory");
            file.sync_all().is_err()
        }
    });
    until("the device is open", || {
        let name = device.file_name()?.to_str()?.to_owned();
        let flight = fs::read_to_string(format!("/sys/block/{name}/inflight")).ok()?;
        flight.split_whitespace().any(|count| count != "0").then_some(())
    });
    let begun = Instant::now();
    agent.is(alice, "stop", FUSE, 0);
    assert!(begun.elapsed() < Duration::from_secs(16), "{:?}", begun.elapsed());
    assert!(waits.join().expect("it ends"), "a flush that reached nobody went well");
    let status = alice.ok(&["device", "status"]);
    assert_eq!(status, "# Nothing is attached.\n");

    // Its time is up before anything is attached. After a stop nothing comes of it any more.
    alice.ok(&["primary", "r0"]);
    alice.freeze();
    let short = and(FUSE, &[("CRM_meta_timeout", "3000")]);
    agent.refuses(alice, "start", &short, 1, "no answer in time");
    let pid = attacher(alice).expect("it is still at it");
    run(Command::new("kill").args(["-STOP", &pid]));
    let said = agent.is(alice, "stop", FUSE, 0);
    assert!(said.stderr.contains("was about to attach r0/0"), "{said:?}");
    assert_eq!(attacher(alice), None);
    alice.wake();
    agent.is(alice, "monitor", FUSE, NOT_RUNNING);

    // tandemd stands still, and then closes its clients, just as the loop device is laid over the file: the
    // kernel's flush is answered over the next connection.
    let losetup = agent.tools.path().join("losetup");
    let script = format!(
        "#!/bin/sh\nkill -STOP {0}\n(sleep 2; kill -CONT {0}) >/dev/null 2>&1 &\nPATH=/usr/sbin:/sbin exec losetup \"$@\"\n",
        alice.pid()
    );
    fs::write(&losetup, script).expect("a script");
    fs::set_permissions(&losetup, fs::Permissions::from_mode(0o755)).expect("ours");
    agent.is(alice, "start", FUSE, 0);
    fs::remove_file(&losetup).expect("it is there");
    agent.is(alice, "stop", FUSE, 0);
    drop(remains);
}

#[test]
fn what_is_written_in_another_way_is_the_same_and_what_was_attached_here_is_let_go_of() {
    const TEST: &str =
        "what_is_written_in_another_way_is_the_same_and_what_was_attached_here_is_let_go_of";
    let agent = match Agent::new() {
        Ok(agent) => agent,
        Err(why) => return skip(TEST, &why),
    };
    let pair = Plan::new().blank();
    let alice = &pair.alice;
    instead(&agent, "tandemadm", KERNELS);
    instead(&agent, "dd", "#!/bin/sh\n");
    let state = agent.tools.path().join("attached");
    let slash = format!("{}//", text(&alice.run_dir));
    for (name, value) in [
        ("device", "nbd7"),
        ("device", "/dev/nbd007"),
        ("run_dir", slash.as_str()),
        ("servers", "bob, alice:0010809"),
        ("servers", "[alice]:10809"),
        ("volume", "r0/00"),
    ] {
        let parameters = [(name, value)];
        agent.is(alice, "start", &parameters, 0);
        agent.is(alice, "monitor", &parameters, 0);
        agent.is(alice, "stop", &parameters, 0);
        assert!(!state.exists(), "{name}={value}: it is attached after a stop");
    }

    // What this start has attached is not what its parameters say: refused, and the stop lets go of it.
    let carol = agent.tools.path().join("carol");
    fs::write(&carol, "").expect("a file");
    agent.refuses(alice, "start", &[], 1, "none of the servers");
    assert!(state.exists());
    agent.is(alice, "stop", &[("OCF_RESOURCE_INSTANCE", "other")], 0);
    assert!(state.exists(), "another resource's stop has detached it");
    agent.is(alice, "stop", &[], 0);
    assert!(!state.exists(), "stopped, and attached");
    // Attached by an administrator since: it is nobody's here.
    fs::write(&state, "r0/0 /dev/nbd7 1 bytes\n  server: carol:10809, 1 connection\n")
        .expect("a file");
    agent.is(alice, "stop", &[], 0);
    assert!(state.exists(), "a stop has let go of another's");
}

/// The processes that read from a device and wait.
fn readers(device: &Path) -> usize {
    let word = format!("if={}", device.display());
    let is_one = |entry: &fs::DirEntry| {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|one| one == word.as_bytes())
    };
    fs::read_dir("/proc").expect("it is there").flatten().filter(is_one).count()
}

#[test]
fn frozen_io_is_no_failure_of_the_device_and_an_error_is_one() {
    const TEST: &str = "frozen_io_is_no_failure_of_the_device_and_an_error_is_one";
    if !is_possible(TEST) {
        return;
    }
    let agent = match Agent::new() {
        Ok(agent) => agent,
        Err(why) => return skip(TEST, &why),
    };
    let pair = Pair::in_sync();
    let alice = &pair.alice;
    let remains = Remains(&pair);
    let deep = and(FUSE, &[("OCF_CHECK_LEVEL", "10"), ("CRM_meta_timeout", "3000")]);
    agent.is(alice, "start", FUSE, 0);
    agent.is(alice, "monitor", &deep, 0);
    let device = device_of(alice).expect("a link");

    alice.ok(&["suspend-io", "r0"]);
    let said = agent.is(alice, "monitor", &deep, 0);
    assert!(said.stderr.contains("a read is not answered"), "{said:?}");
    // The read cannot be ended. There are no more of them with every monitor.
    assert_eq!(readers(&device), 1);
    let said = agent.is(alice, "monitor", &deep, 0);
    assert!(said.stderr.contains("a read is not answered"), "{said:?}");
    let degraded = and(&deep, &[("degraded", "true")]);
    agent.refuses(alice, "monitor", &degraded, DEGRADED, "a read is not answered");
    assert_eq!(readers(&device), 1);
    alice.ok(&["resume-io", "r0"]);
    until("it is read", || (readers(&device) == 0).then_some(()));
    agent.is(alice, "monitor", &degraded, 0);

    instead(&agent, "dd", "#!/bin/sh\necho Input/output error >&2\nexit 1\n");
    agent.refuses(alice, "monitor", &deep, 1, "cannot be read: Input/output error");
    agent.is(alice, "stop", FUSE, 0);
    drop(remains);
}

#[test]
fn a_volume_is_attached_by_the_kernels_driver_and_the_agent() {
    const TEST: &str = "a_volume_is_attached_by_the_kernels_driver_and_the_agent";
    let (agent, namespace) = match Agent::new().and_then(|agent| Ok((agent, stage()?))) {
        Ok(both) => both,
        Err(why) => return skip(TEST, &why),
    };
    let pair = pair_for_guests(&namespace);
    let mut guest = Guest::boot(&pair.dir.path().join("guest"), &namespace);
    let [alice, bob] = ADDRESSES.map(|address| format!("{address}:{NBD_PORT}"));
    let servers = format!("servers={alice},{bob}");
    guest.ok(&format!("agent_is {}", agent.root.display()));
    let is = |guest: &mut Guest, order: &str, code: i32, words: &str| {
        let status = guest.step(&format!("agent {order}"));
        let said = guest.read("said");
        assert!(status == code && said.contains(words), "guest# {order}\n{status}: {said}");
    };
    let both = format!("{servers} degraded=true");

    // As an administrator may write it.
    let odd = format!("servers={},{} device=nbd07 run_dir=/run/tandem/", odd(&alice), odd(&bob));
    is(&mut guest, &format!("start {odd}"), 0, "");
    is(&mut guest, &format!("monitor {odd}"), 0, "");
    is(&mut guest, &format!("stop {odd}"), 0, "");
    guest.ok("device status");
    assert!(guest.read("said").contains("Nothing is attached"), "{}", guest.read("said"));

    // A third host: it finds the Primary, and keeps its device when the guard is killed.
    is(&mut guest, &format!("start {both} device=/dev/nbd7"), 0, "");
    is(&mut guest, &format!("stop {both}"), 0, "");
    is(&mut guest, &format!("start {both}"), 0, "");
    is(&mut guest, &format!("monitor {both} OCF_CHECK_LEVEL=10"), 0, "");
    is(&mut guest, &format!("start {both}"), 0, "");
    is(&mut guest, &format!("start servers={bob}"), 1, "which is none of the servers");
    is(&mut guest, "start fuse=true", 1, "by the kernel's driver");
    is(&mut guest, &format!("start {both} device=/dev/nbd3"), 1, "as /dev/nbd0 and not as");
    is(&mut guest, &format!("stop servers={bob} OCF_RESOURCE_INSTANCE=other"), 0, "");
    is(&mut guest, &format!("monitor {both}"), 0, "");
    guest.ok("guard_killed");
    is(&mut guest, &format!("monitor {both} CRM_meta_interval=0"), 0, "");
    is(&mut guest, &format!("monitor {both}"), 0, "the guard of /dev/nbd0 was gone");
    guest.ok("device status");
    assert!(guest.read("said").contains("guard: process"), "{}", guest.read("said"));
    // Who would replace the server is gone, and cannot be started: degraded.
    guest.ok("guard_killed");
    is(&mut guest, &format!("monitor {both} block_size=7"), DEGRADED, "has no guard");

    // Mounted, it is not stopped; unmounted, it is. What is attached from elsewhere stays.
    guest.ok("format");
    guest.ok("mounted");
    is(&mut guest, &format!("stop {both} client_wait=0 CRM_meta_timeout=4000"), 1, "mounted on");
    guest.step("unmounted");
    is(&mut guest, &format!("stop {both}"), 0, "");
    guest.ok(&format!("attach {} {NBD_PORT} r0", ADDRESSES[0]));
    is(&mut guest, &format!("start {both} device=/dev/nbd0"), 1, "attached already, by ");
    is(&mut guest, &format!("stop {both} device=/dev/nbd0"), 0, "");
    // Its I/O failed while it was mounted.
    assert!(guest.step("check") <= 1);
    guest.ok("detach");
    guest.end();
}
