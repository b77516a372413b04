//! Real handlers: a Primary that waits for one while its client does, and one that hangs.

use std::fs;
use std::path::Path;

use crate::pair::{Node, Pair};
use crate::plan::Plan;
use crate::wait::until;

/// A pair that fences; what each handler was told is appended to `DIR/calls`.
fn fenced(dir: &Path, fence_peer: &str) -> Pair {
    let dir = dir.display();
    let told = format!(
        "ls -l /proc/self/fd > {dir}/open; \
         echo $DRBD_RESOURCE $DRBD_PEER $UP_TO_DATE_NODES >> {dir}/calls"
    );
    Plan::new()
        .net("fencing resource-and-stonith;")
        .sections("options { handler-timeout 10; }")
        .sections(&format!("handlers {{ fence-peer \"{told}; {fence_peer}\";"))
        .sections(&format!("unfence-peer \"echo unfenced >> {dir}/calls\"; }}"))
        .in_sync()
}

fn pending(node: &Node) -> Option<u64> {
    node.status()["devices"][0]["upper-pending"].as_u64()
}

#[test]
fn a_client_waits_until_the_handler_has_answered_and_the_admin_socket_does_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let go = dir.path().join("go");
    let wait = format!("until test -e {}; do sleep 0.02; done; exit 7", go.display());
    let mut pair = fenced(dir.path(), &wait);
    let calls = || fs::read_to_string(dir.path().join("calls")).unwrap_or_default();
    until("the first resync has ended", || calls().contains("unfenced").then_some(()));
    let mut client = pair.alice.client();
    client.write(0, &[1; 4096], 0).expect("a write");
    pair.bob.kill();
    until("I/O is frozen", || (pair.alice.status()["suspended-fencing"] == true).then_some(()));
    let waits = std::thread::spawn(move || {
        client.write(4096, &[2; 4096], 0).expect("a write that waited");
        client.flush().expect("a flush");
        client.read(0, 8192).expect("a read")
    });
    until("the write waits", || (pending(&pair.alice) == Some(1)).then_some(()));
    until("the handler runs", || calls().contains("r0 bob 0x1").then_some(()));
    // A client's socket that a handler holds would stay open when tandemd closes it.
    let open = fs::read_to_string(dir.path().join("open")).expect("it was listed");
    for of_the_daemon in ["socket:", "anon_inode", ".img", "/lock"] {
        assert!(!open.contains(of_the_daemon), "{open}");
    }
    let status = pair.alice.ok(&["status", "r0"]);
    assert!(status.starts_with("r0 role:Primary suspended:fencing\n"), "{status}");
    let why = pair.alice.ok(&["why", "r0"]);
    assert!(why.contains("the handler fence-peer runs for"), "{why}");
    let check = pair.alice.adm(&["check", "r0"]);
    assert!(check.code == 2 && check.stdout.contains("(fencing)"), "{check:?}");
    assert_eq!(pending(&pair.alice), Some(1), "nothing is answered");
    fs::write(&go, "").expect("a file");
    let read = waits.join().expect("the client ends well");
    assert!(read[..4096] == [1; 4096] && read[4096..] == [2; 4096]);
    assert_eq!(pair.alice.status()["suspended-fencing"], false);
    assert!(pair.alice.log_text().contains("fence-peer helper returned 7 (peer was stonithed)"));
    fs::remove_file(dir.path().join("calls")).expect("it is there");
    pair.bob.start_up();
    pair.wait_synced();
    until("bob is unfenced", || calls().contains("unfenced").then_some(()));
    // By hand, as DRBD's agent does for a constraint that was left behind.
    fs::remove_file(dir.path().join("calls")).expect("it is there");
    pair.alice.ok(&["unfence-peer", "r0"]);
    until("bob is unfenced again", || calls().contains("unfenced").then_some(()));
    pair.assert_equal_disks();
}

#[test]
fn a_handler_that_hangs_is_killed_at_its_limit_and_io_stays_frozen_until_somebody_decides() {
    let dir = tempfile::tempdir().expect("a folder");
    let pid = dir.path().join("pid");
    let hang = format!("echo it hangs >&2; sleep 1000 & echo $! > {}; wait", pid.display());
    let mut pair = fenced(dir.path(), &hang);
    pair.alice.ok(&["resource-options", "--handler-timeout=1", "r0"]);
    let mut client = pair.alice.client();
    client.write(0, &[1; 4096], 0).expect("a write");
    pair.bob.kill();
    until("I/O is frozen", || (pair.alice.status()["suspended-fencing"] == true).then_some(()));
    let waits = std::thread::spawn(move || {
        client.write(4096, &[2; 4096], 0).expect("a write that waited");
    });
    until("the handler was killed", || {
        let why = pair.alice.ok(&["why", "r0"]);
        why.contains("did not end in time and was killed").then_some(())
    });
    let child = fs::read_to_string(&pid).expect("it was started");
    let stat = format!("/proc/{}/stat", child.trim());
    until("its child is gone as well", || {
        fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")).then_some(())
    });
    let log = pair.alice.log_text();
    assert!(log.contains("r0: fence-peer: it hangs"), "{log}");
    assert_eq!(pending(&pair.alice), Some(1), "frozen as before");
    let status = pair.alice.ok(&["status", "r0"]);
    assert!(status.starts_with("r0 role:Primary suspended:fencing "), "{status}");
    pair.alice.ok(&["resume-io", "r0"]);
    waits.join().expect("the client ends well");
}
