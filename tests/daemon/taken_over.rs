//! `/dev/nbdN` whose guard was killed, in a User-mode Linux guest: what the next guard changes and refuses, that it
//! asks no server while all is well, that nothing is lost that ended meanwhile; and a device that is let go of.

use std::fs;
use std::time::{Duration, Instant};

use crate::guest::{ADDRESSES, Guest, NBD_PORT, pair_for_guests, real_files, stage};
use crate::namespace::skip;
use crate::pair::{Pair, text};
use crate::wait::until;

const TEST: &str = "what_a_guard_finds_is_taken_over_and_what_may_be_lost_is_let_go_of";

fn refused(guest: &mut Guest, order: &str, words: &str) {
    let status = guest.step(order);
    let said = guest.read("said");
    assert!(status == 10 && said.contains(words), "guest# {order}\n{status}: {said}");
}

fn goes_on(guest: &Guest) {
    let before = guest.synced("during");
    until("the copy goes on", || (guest.synced("during") > before + 3).then_some(()));
}

fn guarded(guest: &mut Guest, what: &str) {
    until(what, || guest.read("guard").contains(what).then_some(()));
}

/// How many nodes have all that was answered, as the guard was told.
fn keepers(guest: &mut Guest) -> usize {
    guest.ok("shown /run/tandem/nbd0.device");
    let record: serde_json::Value = serde_json::from_str(&guest.read("said")).expect("a record");
    record["keepers"].as_array().map_or(0, Vec::len)
}

/// alice's system is another one from now on.
fn lose_power(pair: &mut Pair) {
    pair.alice.kill();
    let boot = pair.dir.path().join("boot_id");
    fs::write(&boot, "01234567-89ab-cdef-0123-456789abcdef\n").expect("a file");
    let bind = format!("mount --bind {} /proc/sys/kernel/random/boot_id", text(&boot));
    let script = format!("{bind} && exec \"$@\"");
    let own = ["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned);
    pair.alice.enter.extend(own);
    pair.alice.start_up();
}

#[test]
fn what_a_guard_finds_is_taken_over_and_what_may_be_lost_is_let_go_of() {
    let namespace = match stage() {
        Ok(namespace) => namespace,
        Err(why) => return skip(TEST, &why),
    };
    let mut pair = pair_for_guests(&namespace);
    let mut guest = Guest::boot(&pair.dir.path().join("guest"), &namespace);
    let files = real_files();
    let [alice, bob] = ADDRESSES.map(|address| format!("{address}:{NBD_PORT}"));
    let servers = format!("--servers {alice},{bob}");

    guest.ok(&format!("device attach {servers} --timeout 2 --connections 2 r0"));
    guest.ok("format");
    guest.ok("mounted");
    guest.ok(&format!("copying {} during", files.display()));
    goes_on(&guest);
    guest.ok("guard_killed");
    let other = format!("device attach {servers}");
    refused(
        &mut guest,
        &format!("{other} --connections 3 r0"),
        "2 connections, which --connections cannot",
    );
    refused(
        &mut guest,
        &format!("{other} --block-size 4096 r0"),
        "512 bytes, which --block-size cannot",
    );
    guest.ok("shown /sys/block/nbd0/queue/io_timeout");
    assert_eq!(guest.read("said").trim(), "2000");

    // Times are changed under the mounted file system, and no server is asked for a connection.
    let entered = |pair: &Pair| pair.alice.log_text().matches(" connected").count();
    let before = entered(&pair);
    guest.ok(&format!("guard {servers} --timeout 3 --dead-conn-timeout 50 r0"));
    guarded(&mut guest, "(taken over)");
    guarded(&mut guest, "--timeout is 3 s now");
    guarded(&mut guest, "--dead-conn-timeout is 50 s now");
    guest.ok("shown /sys/block/nbd0/queue/io_timeout");
    assert_eq!(guest.read("said").trim(), "3000");
    guest.ok("device status --json");
    assert!(guest.read("said").contains("\"dead-conn-timeout\":50"), "{}", guest.read("said"));
    let begun = Instant::now();
    until("two looks are over", || (begun.elapsed() > Duration::from_secs(11)).then_some(()));
    goes_on(&guest);
    assert_eq!(entered(&pair), before, "{}", pair.alice.log_text());
    assert!(!guest.read("guard").contains("has ended"), "{}", guest.read("guard"));

    // Both connections end at once, and go to bob together.
    pair.alice.kill();
    until("bob sees it", || {
        (pair.bob.connection()["connection-state"] == "Connecting").then_some(())
    });
    pair.bob.ok(&["primary", "r0"]);
    guarded(&mut guest, &format!("goes on with {bob}"));
    goes_on(&guest);
    guest.ok("device status");
    assert!(guest.read("said").contains(&format!("server: {bob}, 2 connections")));

    // They end while there is no guard, and the kernel tells nobody.
    pair.alice.start_up();
    pair.wait_synced();
    guest.ok("guard_killed");
    guest.wait_for("ended-guard");
    pair.alice.ok(&["primary", "--hand-over", "r0"]);
    guest.ok(&format!("guard {servers} r0"));
    guarded(&mut guest, &format!("goes on with {alice}"));
    goes_on(&guest);
    // What was not given has stayed.
    guest.ok("shown /sys/block/nbd0/queue/io_timeout");
    assert_eq!(guest.read("said").trim(), "3000");
    assert_eq!(guest.read("ended-during"), "", "the copy saw no error");
    guest.ok("stop_copying");
    guest.wait_for("ended-during");
    guest.ok("compare during");

    // alice alone has what was answered, and loses her power: the kernel lets go of the device.
    pair.bob.kill();
    until("alice alone has it", || (keepers(&mut guest) == 1).then_some(()));
    lose_power(&mut pair);
    let _ = pair.alice.adm(&["primary", "--force", "r0"]);
    assert_eq!(pair.alice.status()["role"], "Primary");
    until("it is let go of", || {
        guest.ok("device status r0");
        guest.read("said").contains("let go of, and I/O fails: ").then_some(())
    });
    assert!(
        guest.read("said").contains("not flushed: no system that had it"),
        "{}",
        guest.read("said")
    );
    assert_ne!(guest.step(&format!("copy {} late 1", files.display())), 0, "its I/O fails");
    let why = format!("device attach {servers} r0");
    refused(&mut guest, &why, "nbd0");
    // Closed, it is attached anew, and its journal is replayed.
    guest.step("unmounted");
    until("the kernel lets go of it", || {
        guest.ok("device status");
        (guest.read("said") == "# Nothing is attached.\n").then_some(())
    });
    guest.ok(&format!("device attach {servers} r0"));
    assert!(guest.step("check") <= 1);
    guest.ok("device detach r0");

    // A guard of the daemon has none of the signals blocked that the daemon has.
    guest.ok("node_here");
    guest.ok("here secondary here");
    guest.ok("here resource-options --device-attach=auto here");
    guest.ok("here primary here");
    guest.ok("guard_status /run/here/run");
    let status = guest.read("said");
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a set");
    let blocked = u64::from_str_radix(blocked.trim(), 16).expect("a set");
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        assert_eq!(blocked & 1 << (signal - 1), 0, "{status}");
    }
    guest.ok("here secondary here");
    guest.ok("daemon_here_ended");
    println!("{}", guest.end());
}
