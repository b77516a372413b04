//! `/dev/nbdN` with a guard, in a User-mode Linux guest: the device goes on when its server dies or
//! is moved, when the guard is killed, and what cannot be done is refused.

use std::time::{Duration, Instant};

use crate::guest::{ADDRESSES, Guest, NBD_PORT, assert_clean, pair_for_guests, real_files, stage};
use crate::namespace::skip;
use crate::pair::assert_equal;
use crate::wait::until;

const TEST: &str = "a_device_goes_on_through_crash_and_move";

/// Refused with this exit code and these words.
fn refused(guest: &mut Guest, order: &str, code: i32, words: &str) {
    let status = guest.step(order);
    let said = guest.read("said");
    assert!(status == code && said.contains(words), "guest# {order}\n{status}: {said}");
}

/// A discard is no longer than a slow disk does in a third of the time-out (2 s): the driver has no limit.
fn is_limited(guest: &mut Guest) {
    guest.ok("shown /sys/block/nbd0/queue/discard_max_bytes");
    assert_eq!(guest.read("said").trim(), (666 * 50_000 / 512 * 512).to_string());
}

/// Files are synced, more than there were, in this time.
fn goes_on(guest: &Guest, within: Duration) {
    let (begun, before) = (Instant::now(), guest.synced("during"));
    until("the copy goes on", || (guest.synced("during") > before + 3).then_some(()));
    assert!(begun.elapsed() < within, "it went on after {:?}", begun.elapsed());
}

#[test]
fn a_device_goes_on_through_crash_and_move() {
    let namespace = match stage() {
        Ok(namespace) => namespace,
        Err(why) => return skip(TEST, &why),
    };
    let mut pair = pair_for_guests(&namespace);
    let mut guest = Guest::boot(&pair.dir.path().join("guest"), &namespace);
    let files = real_files();
    let [alice, bob] = ADDRESSES.map(|address| format!("{address}:{NBD_PORT}"));
    let servers = format!("--servers {alice},{bob} --timeout 2 --dead-conn-timeout 60");

    // Nobody there; a Secondary, which names the Primary.
    refused(&mut guest, "device attach --servers 10.77.0.1:9 r0", 20, "10.77.0.1:9: Connection");
    refused(&mut guest, &format!("device attach --servers {bob} r0"), 10, "alice is Primary");
    refused(
        &mut guest,
        &format!("device attach {servers} r7"),
        10,
        "r7/0: none of the servers serves it",
    );
    refused(&mut guest, "device status r0", 10, "not attached as a device");
    // A device that another program has.
    guest.ok(&format!("attach {} {NBD_PORT} r0", ADDRESSES[0]));
    let same = format!("device attach {servers} --device /dev/nbd0 r0");
    refused(&mut guest, &same, 10, "/dev/nbd0 is attached already, by ");
    guest.ok("detach");

    guest.ok(&format!("device attach {servers} r0"));
    assert_eq!(guest.read("said"), "r0/0 is /dev/nbd0 (attached)\n");
    is_limited(&mut guest);
    refused(&mut guest, &format!("device attach {servers} r0"), 10, "its guard is process");
    guest.ok("device status");
    assert!(guest.read("said").contains(&format!("server: {alice}, 1 connection\n")));

    guest.ok("format");
    guest.ok("mounted");
    refused(&mut guest, "device detach r0", 11, "mounted on /run/mnt");
    guest.ok(&format!("copying {} during", files.display()));
    goes_on(&guest, Duration::from_secs(60));

    // The guard is killed, and one that a unit starts takes over.
    guest.ok("guard_killed");
    until("it is told that there is no guard", || {
        guest.ok("device status");
        guest.read("said").contains("guard: none").then_some(())
    });
    guest.ok(&format!("guard {servers} r0"));
    until("it is taken over", || guest.read("guard").contains("(taken over)").then_some(()));
    goes_on(&guest, Duration::from_secs(60));

    // The Primary dies while requests are under way. I/O waits for the promotion, and goes on.
    pair.alice.kill();
    until("bob sees it", || {
        (pair.bob.connection()["connection-state"] == "Connecting").then_some(())
    });
    until("it is said that there is no server", || {
        guest.ok("device status");
        guest.read("said").contains("server: none for").then_some(())
    });
    pair.bob.ok(&["primary", "r0"]);
    goes_on(&guest, Duration::from_secs(20));
    until("it is bob", || {
        guest.read("guard").contains(&format!("goes on with {bob}")).then_some(())
    });

    // A move by order, back to alice.
    pair.alice.start_up();
    pair.wait_synced();
    let mut fastest = Duration::MAX;
    for node in [&pair.alice, &pair.bob, &pair.alice] {
        let (begun, before) = (Instant::now(), guest.synced("during"));
        node.ok(&["primary", "--hand-over", "r0"]);
        let ordered = begun.elapsed();
        until("a file is synced", || (guest.synced("during") > before).then_some(()));
        println!("handed over in {ordered:?}; a file was synced after {:?}", begun.elapsed());
        fastest = fastest.min(begun.elapsed());
        goes_on(&guest, Duration::from_secs(20));
    }
    // A request that was left without an answer waits for its time, two seconds; where the machine has
    // others to serve, that happens.
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
    goes_on(&guest, Duration::from_secs(20));
    until("it is alice", || {
        guest.read("guard").contains(&format!("goes on with {alice}")).then_some(())
    });

    // Its daemon is replaced under the device: neither the kernel nor the guard notices.
    let said = guest.read("guard").lines().count();
    for _ in 0..3 {
        let (begun, before) = (Instant::now(), guest.synced("during"));
        println!("{}", pair.alice.ok(&["daemon", "restart"]));
        until("a file is synced", || (guest.synced("during") > before).then_some(()));
        println!("a file was synced after {:?}", begun.elapsed());
    }
    goes_on(&guest, Duration::from_secs(20));
    assert_eq!(guest.read("guard").lines().count(), said, "{}", guest.read("guard"));

    // The volume grows, and the device and its file system with it.
    for node in [&pair.alice, &pair.bob] {
        let disk = std::fs::File::options().write(true).open(&node.disk).expect("a disk");
        let size = disk.metadata().expect("a disk").len();
        disk.set_len(size + (32 << 20)).expect("room");
    }
    pair.alice.ok(&["resize", "r0"]);
    let size = pair.alice.export_size();
    until("the device has grown", || {
        guest.read("guard").contains(&format!("grown to {size} bytes")).then_some(())
    });
    guest.ok("grown");
    is_limited(&mut guest);
    pair.wait_synced();
    assert_eq!(guest.read("ended-during"), "", "the copy saw no error");

    guest.ok("stop_copying");
    guest.wait_for("ended-during");
    guest.ok("compare during");
    guest.ok("unmounted");
    guest.ok("check");
    guest.ok("device detach r0");
    guest.wait_for("ended-guard");
    let guest_log = guest.read("guard");
    assert_eq!(guest.read("ended-guard"), "0\n", "{}", guest.read("guard"));
    guest.ok("device status");
    assert_eq!(guest.read("said"), "# Nothing is attached.\n");

    // Several connections, and everything lost for longer than I/O waits.
    let short = format!("--servers {alice},{bob} --timeout 1 --dead-conn-timeout 2");
    guest.ok(&format!("device attach {short} --connections 3 --block-size 4096 r0"));
    guest.ok("device status");
    assert!(guest.read("said").contains(&format!("server: {alice}, 3 connections\n")));
    guest.ok("check");
    pair.alice.ok(&["secondary", "--force", "r0"]);
    assert_ne!(guest.step("check"), 0, "without a server I/O fails in the end");
    guest.ok("device status");
    assert!(guest.read("said").contains("I/O fails"), "{}", guest.read("said"));
    pair.alice.ok(&["primary", "r0"]);
    until("it has a server again", || {
        guest.ok("device status");
        guest.read("said").contains("3 connections\n").then_some(())
    });
    guest.ok("check");
    guest.ok("device detach r0");

    // The local way: from a daemon of the same system, which is killed while the device is mounted.
    guest.ok("node_here");
    guest.ok("here device attach --timeout 2 here/3");
    assert_eq!(guest.read("said"), "here/3 is /dev/nbd0 (attached)\n");
    guest.ok("format");
    guest.ok("mounted");
    guest.ok(&format!("copy {} local 5", files.display()));
    guest.ok("daemon_here_killed");
    until("it is said what to do", || {
        guest.ok("here device status");
        guest
            .read("said")
            .contains("Secondary; `tandemadm primary here` serves it here")
            .then_some(())
    });
    guest.ok("here primary --force here");
    guest.ok(&format!("copy {} again 5", files.display()));
    guest.ok("compare local");
    guest.ok("unmounted");
    guest.ok("held");
    refused(&mut guest, "here device detach here", 11, "/dev/nbd0 is open in sleep (process ");
    guest.ok("released");
    guest.ok("here device detach here");
    guest.ok("here secondary here");

    // By the daemon itself, as the node is promoted and demoted.
    guest.ok("here resource-options --device-attach=auto here");
    guest.ok("here primary here");
    guest.ok("here device status");
    assert!(guest.read("said").contains("here/3 /dev/nbd0 "), "{}", guest.read("said"));
    guest.ok("mounted");
    guest.ok("compare again");
    refused(&mut guest, "here secondary here", 11, "/dev/nbd0 is mounted on /run/mnt");
    refused(&mut guest, "here down here", 11, "/dev/nbd0 is mounted on /run/mnt");
    guest.ok("compare again");
    // The daemon is replaced under it, and is the one that detaches it in the end.
    guest.ok("here daemon restart");
    assert!(guest.read("said").contains("1 client waited"), "{}", guest.read("said"));
    guest.ok("unmounted");
    guest.ok("mounted");
    guest.ok("compare again");
    guest.ok("unmounted");
    guest.ok("here secondary here");
    guest.ok("here device status");
    assert_eq!(guest.read("said"), "# Nothing is attached.\n");
    // By force its I/O fails, and nothing is written late.
    guest.ok("here primary here");
    guest.ok("mounted");
    guest.ok("here secondary --force here");
    assert_ne!(guest.step(&format!("copy {} late 1", files.display())), 0);
    guest.step("unmounted");
    until("the kernel lets go of it", || {
        guest.ok("here device status");
        (guest.read("said") == "# Nothing is attached.\n").then_some(())
    });
    guest.ok("here primary here");
    // The journal is replayed.
    assert!(guest.step("check") <= 1);
    guest.ok("mounted");
    guest.ok("compare again");
    guest.ok("unmounted");
    guest.ok("here secondary here");

    // What the system lacks is named.
    let as_nobody = format!("device_as_nobody attach {servers} r0");
    refused(&mut guest, &as_nobody, 10, "CAP_SYS_ADMIN and CAP_NET_ADMIN");
    guest.ok("driver_unloaded");
    refused(&mut guest, &format!("device attach {servers} r0"), 10, "`modprobe nbd`");
    guest.ok("here primary here");
    assert!(guest.read("said").contains("here/3 is not attached as a device: "));
    guest.ok("here why here");
    assert!(guest.read("said").contains("`modprobe nbd`"), "{}", guest.read("said"));
    guest.ok("here secondary here");
    guest.ok("daemon_here_ended");

    pair.alice.ok(&["secondary", "r0"]);
    let console = guest.end();
    assert_equal(&pair.alice.disk, &pair.bob.disk, pair.bob.export_size());
    for node in [&pair.alice, &pair.bob] {
        assert_clean(node);
    }
    println!("{console}\nThe guard:\n{}", guest_log);
}
