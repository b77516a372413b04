//! A device that cannot have what it was answered any more is let go of: its I/O fails, and it is not revived.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::fuse::is_possible;
use crate::pair::{Node, Pair, text};
use crate::wait::until;

/// A device over FUSE, without a loop device.
struct Attached {
    path: String,
}

impl Attached {
    fn new(node: &Node, servers: &str) -> Self {
        let mut order = vec!["device", "attach", "--fuse", "--no-loop", "--timeout=2"];
        order.extend(servers.split_whitespace());
        order.push("r0");
        let said = node.ok(&order);
        Self { path: said.split(' ').nth(2).expect("a file").to_owned() }
    }

    fn write(&self, byte: u8) -> std::io::Result<()> {
        let file = File::options().write(true).open(&self.path)?;
        file.write_all_at(&[byte; 4096], 0)?;
        file.sync_all()
    }
}

/// Detaches it, also when the test fails.
struct Detaches(Command);

impl Detaches {
    fn from(node: &Node) -> Self {
        let program = env!("CARGO_BIN_EXE_tandemadm");
        let mut command = Command::new(program);
        command.args(["--node", node.name, "--run-dir"]).arg(&node.run_dir);
        command.arg("-c").arg(&node.config);
        command.args(["device", "detach", "--force", "r0"]);
        Self(command)
    }
}

impl Drop for Detaches {
    fn drop(&mut self) {
        let _ = self.0.output();
    }
}

/// How many nodes have all that was answered, as the guard was told.
fn keepers(node: &Node) -> usize {
    let record = fs::read(node.run_dir.join("fuse-r0-0.device")).unwrap_or_default();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
    record["keepers"].as_array().map_or(0, Vec::len)
}

/// alice alone has what the device was answered, and it knows that.
fn alone_with_a_device() -> (Pair, Attached, Detaches) {
    let mut pair = Pair::in_sync();
    let servers = format!("--servers=unix:{}", pair.alice.run_dir.join("nbd.sock").display());
    // Two names of one server: it is not the device of a node itself.
    let servers = format!("{servers},127.0.0.1:9");
    let device = Attached::new(&pair.alice, &servers);
    let detaches = Detaches::from(&pair.alice);
    device.write(1).expect("both have it");
    assert_eq!(keepers(&pair.alice), 2);
    pair.bob.kill();
    until("alice alone has it", || {
        device.write(2).expect("alice has it");
        (keepers(&pair.alice) == 1).then_some(())
    });
    (pair, device, detaches)
}

/// A verify takes nothing from either node: the other one is taken when the Primary's daemon is killed.
#[test]
fn a_device_goes_on_with_the_other_node_in_the_middle_of_a_verify() {
    if !is_possible("a_device_goes_on_with_the_other_node_in_the_middle_of_a_verify") {
        return;
    }
    let mut pair = Pair::in_sync();
    for node in [&pair.alice, &pair.bob] {
        node.ok(&["disk-options", "--c-max-rate=100k", "r0"]);
    }
    pair.alice.ok(&["verify", "r0"]);
    let socket = |node: &Node| node.run_dir.join("nbd.sock").display().to_string();
    let servers = format!("unix:{},unix:{}", socket(&pair.alice), socket(&pair.bob));
    let device = Attached::new(&pair.alice, &format!("--servers={servers}"));
    let detaches = Detaches::from(&pair.alice);
    let state =
        pair.alice.status()["connections"][0]["peer_devices"][0]["replication-state"].clone();
    assert_eq!((keepers(&pair.alice), state), (2, "VerifyS".into()));
    device.write(1).expect("both have it");
    pair.alice.kill();
    pair.bob.ok(&["primary", "r0"]);
    device.write(2).expect("it goes on with bob");
    drop(detaches);
}

/// alice's next daemon finds another boot id.
fn other_system(pair: &mut Pair) {
    let boot = pair.dir.path().join("boot_id");
    fs::write(&boot, "01234567-89ab-cdef-0123-456789abcdef\n").expect("a file");
    let script =
        format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$@\"", text(&boot));
    pair.alice.enter = ["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
}

#[test]
fn after_a_power_loss_of_the_only_copy_no_flush_succeeds() {
    if !is_possible("after_a_power_loss_of_the_only_copy_no_flush_succeeds") {
        return;
    }
    let (mut pair, device, detaches) = alone_with_a_device();

    // Its daemon is killed, and what it had in the cache is still there.
    pair.alice.kill();
    pair.alice.start_up();
    pair.alice.ok(&["primary", "r0"]);
    device.write(3).expect("it goes on");

    // Now its system is another one.
    pair.alice.kill();
    other_system(&mut pair);
    pair.alice.start_up();
    let _ = pair.alice.adm(&["primary", "--force", "r0"]);
    assert_eq!(pair.alice.status()["role"], "Primary");
    device.write(4).expect_err("what it had answered may be gone");
    let status = pair.alice.ok(&["device", "status", "r0"]);
    assert!(status.contains("let go of, and I/O fails: "), "{status}");
    assert!(status.contains("not flushed: no system that had it"), "{status}");
    drop(detaches);
}

#[test]
fn what_a_failed_disk_may_have_lost_is_lost_also_for_the_next_daemon_and_boot() {
    let test = "what_a_failed_disk_may_have_lost_is_lost_also_for_the_next_daemon_and_boot";
    for reboots in [false, true] {
        if is_possible(test) {
            after_a_failed_disk(reboots);
        }
    }
}

fn after_a_failed_disk(reboots: bool) {
    let (mut pair, device, detaches) = alone_with_a_device();
    pair.alice.kill();
    // As where its disk had failed before.
    fs::remove_dir_all(pair.alice.run_dir.join("trusted")).expect("it is trusted");
    pair.alice.start_up();
    if reboots {
        // In order, before the device has asked.
        assert!(pair.alice.terminate().success());
        other_system(&mut pair);
        pair.alice.start_up();
    }
    let _ = pair.alice.adm(&["primary", "--force", "r0"]);
    assert_eq!(pair.alice.status()["role"], "Primary");
    device.write(3).expect_err("what it had answered may be gone");
    drop(detaches);
}

#[test]
fn an_orderly_reboot_of_the_only_copy_loses_nothing_and_the_device_goes_on() {
    if !is_possible("an_orderly_reboot_of_the_only_copy_loses_nothing_and_the_device_goes_on") {
        return;
    }
    let (mut pair, device, detaches) = alone_with_a_device();
    assert!(pair.alice.terminate().success());
    other_system(&mut pair);
    pair.alice.start_up();
    pair.alice.ok(&["primary", "r0"]);
    device.write(3).expect("it goes on");
    drop(detaches);
}

#[test]
fn the_device_of_a_node_is_let_go_of_when_another_node_is_primary() {
    if !is_possible("the_device_of_a_node_is_let_go_of_when_another_node_is_primary") {
        return;
    }
    let pair = Pair::in_sync();
    let device = Attached::new(&pair.alice, "");
    let detaches = Detaches::from(&pair.alice);
    device.write(1).expect("both have it");
    pair.alice.ok(&["secondary", "--force", "r0"]);
    pair.bob.ok(&["primary", "r0"]);
    let mut client = pair.bob.client();
    client.write(0, &[2; 4096], 0).expect("both have it");
    client.disconnect().expect("a goodbye");
    let status = until("it is let go of", || {
        let status = pair.alice.ok(&["device", "status", "r0"]);
        status.contains("let go of").then_some(status)
    });
    assert!(status.contains("bob is Primary, and may have written since"), "{status}");
    pair.bob.ok(&["secondary", "r0"]);
    pair.alice.ok(&["primary", "r0"]);
    device.write(3).expect_err("it is not revived");
    assert_eq!(pair.alice.client().read(0, 4096).expect("it is served"), vec![2; 4096]);
    drop(detaches);
}
