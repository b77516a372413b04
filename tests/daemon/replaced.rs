//! `daemon restart` and `daemon stop`: another program in the same process, and no client notices more
//! than a pause.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nbd::client::{Address, Client, Mode};
use nbd::constants::*;
use nbd::request::Command as Nbd;

use crate::hung::HangingDisk;
use crate::ledger::{Burst, Ledger};
use crate::load::Load;
use crate::pair::{DISK_SIZE, Node, Pair, run};
use crate::plan::{Plan, free_ports};
use crate::wait::{PATIENCE, until};

/// Handlers that say so when the peer is fenced.
fn fenced(dir: &Path) -> String {
    let told = dir.join("fenced").display().to_string();
    format!("handlers {{ fence-peer \"echo $DRBD_PEER >> {told}; exit 7\"; }}")
}

/// A process that goes on until its test ends.
struct Follows(Child);

impl Drop for Follows {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says that it is over, also where a test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Restarts the daemon in its process, and says how long that took.
fn restart(node: &Node) {
    let pid = node.pid();
    let said = node.ok(&["daemon", "restart"]);
    println!("{}: {}", node.name, said.trim());
    assert!(said.contains("tandemd 0.1.0 was started anew"), "{said}");
    assert_eq!(node.pid(), pid);
    let lock = fs::read_to_string(node.run_dir.join("lock")).expect("a lock");
    assert_eq!(lock.trim(), pid.to_string());
}

#[test]
fn both_daemons_are_restarted_under_load_and_clients_stay_connected() {
    let told = tempfile::tempdir().expect("a folder");
    let mut pair = Plan::new()
        .net("fencing resource-and-stonith;")
        .sections(&fenced(told.path()))
        .resources(&[("r0", 1), ("r1", 2)])
        .blank();
    let address = format!("127.0.0.1:{}", free_ports(1)[0]);
    pair.alice.arguments = vec![format!("--nbd-listen={address}")];
    let pair = pair.bring_up().sync_from_alice();
    let (alice, bob) = (&pair.alice, &pair.bob);
    let tcp = |mode, export: &str| {
        Client::open(&Address::Tcp(address.clone()), export, mode, PATIENCE).expect("a client")
    };
    let loads = [
        Load::start(alice.client(), Ledger::within(1, 61)),
        Load::start(tcp(Mode::Extended, "r1/0"), Ledger::within(1, 62)),
        Load::start(tcp(Mode::Simple, "r1/1"), Ledger::within(1, 63)),
    ];
    let go_on = || loads.iter().for_each(|load| load.progress(64));
    let before = [alice, bob].map(Node::full_syncs);
    go_on();
    // It follows alice over all restarts, and sees nothing of hers.
    let heard = told.path().join("heard");
    let mut events = Follows(alice.adm_into(&["events2", "r0"], &heard));
    let heard = || fs::read_to_string(&heard).expect("it is there");
    until("it follows", || heard().contains("exists -").then_some(()));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // As the monitor of a cluster: it never sees anything but a Primary.
        let monitor = scope.spawn(|| {
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(alice.ok(&["role", "r0"]).trim(), "Primary");
                asked += 1;
            }
            asked
        });
        let end = Ends(&stop);
        for _ in 0..2 {
            restart(bob);
            go_on();
            pair.wait_connected();
            pair.wait_synced();
            for _ in 0..3 {
                restart(alice);
            }
            go_on();
        }
        drop(end);
        println!("asked {} times", monitor.join().expect("it saw no other role"));
    });
    let heard = heard();
    assert!(events.0.try_wait().expect("it is ours").is_none(), "it goes on: {heard}");
    assert_eq!(heard.matches("exists -").count(), 1, "{heard}");
    assert!(!heard.contains("destroy"), "{heard}");
    let own = |line: &&str| line.starts_with("change resource") && line.contains("role:");
    assert_eq!(heard.lines().filter(own).collect::<Vec<_>>(), Vec::<&str>::new());
    for (mut ledger, mut client) in loads.map(Load::stop) {
        ledger.check(&mut client);
        client.flush().expect("a flush");
    }
    assert_eq!(before, [alice, bob].map(Node::full_syncs), "what differed was known");
    assert!(!told.path().join("fenced").exists(), "an orderly end is no loss");
    assert_eq!(alice.ok(&["role", "r0"]).trim(), "Primary");
    pair.wait_synced();
    pair.assert_equal_disks();
    assert!(!bob.log_text().contains("rule=split-brain"), "{}", bob.log_text());
}

#[test]
fn who_connects_in_the_middle_of_a_restart_waits_and_is_served() {
    let pair = Pair::in_sync();
    let alice = &pair.alice;
    alice.client().write(0, &[7; 4096], 0).expect("a write");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // One after the other, so that there is one at every moment.
        let comes = scope.spawn(|| {
            let mut came = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut client = alice.client();
                assert_eq!(client.read(0, 4096).expect("a read"), [7; 4096]);
                client.disconnect().expect("a clean end of the client");
                came += 1;
            }
            came
        });
        let end = Ends(&stop);
        for _ in 0..8 {
            restart(alice);
            pair.wait_connected();
        }
        drop(end);
        println!("{} clients came", comes.join().expect("each of them is served"));
    });
}

#[test]
fn a_resync_goes_on_where_it_was_when_either_node_is_restarted() {
    let slow = "disk { resync-rate 12M; c-max-rate 12M; c-min-rate 12M; }";
    let pair = Plan::new().sections(slow).filled().connected();
    let (alice, bob) = (&pair.alice, &pair.bob);
    alice.ok(&["primary", "--force", "r0"]);
    let load = Load::start(alice.client(), Ledger::within_a_mib(64));
    let left = || bob.peer_kib("out-of-sync");
    let mut before = bob.export_size() / 1024;
    for node in [alice, bob, alice] {
        before = until("something was copied", || (left() + (3 << 10) <= before).then(left));
        assert_eq!(bob.status()["devices"][0]["disk-state"], "Inconsistent");
        restart(node);
        pair.wait_connected();
        // What the client has written while bob was away is on top: 1 MiB at most.
        assert!(left() <= before + (1 << 10), "{} KiB are left, {before} were", left());
    }
    let (mut ledger, mut client) = load.stop();
    pair.wait_synced();
    assert_eq!(bob.full_syncs(), 1);
    ledger.check(&mut client);
    pair.assert_equal_disks();
}

#[test]
fn what_was_ordered_is_so_afterwards() {
    let pair = Plan::new().resources(&[("r0", 1), ("r1", 1)]).in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    alice.ok(&["secondary", "r1"]);
    alice.ok(&["suspend-io", "r0"]);
    alice.ok(&["pause-sync", "r0"]);
    alice.ok(&["net-options", "--ping-int=7", "r0"]);
    alice.ok(&["detach", "r1"]);
    alice.ok(&["disconnect", "r1"]);
    let mut client = alice.client();
    restart(alice);
    let status = alice.status();
    assert_eq!((&status["role"], &status["suspended-user"]), (&"Primary".into(), &true.into()));
    let paused = &status["connections"][0]["peer_devices"][0]["resync-suspended"];
    assert_eq!(paused, "user");
    assert_eq!(alice.ok(&["dstate", "r1"]).trim(), "Diskless/DUnknown");
    assert!(alice.ok(&["status", "r1"]).contains("connection:StandAlone reason:stopped-by-admin"));
    let differs = alice.ok(&["-d", "adjust", "r0"]);
    assert!(differs.contains("ping-int"), "{differs}");

    // Nobody is in the way of who is frozen but has not asked for anything; a request is.
    client.send_request(Nbd::Write, 0, 0, 4096, &[7; 4096]).expect("a request");
    until("it waits", || (alice.status()["devices"][0]["upper-pending"] == 1).then_some(()));
    let said = alice.refused(11, &["daemon", "restart", "--timeout", "1"]);
    assert!(said.contains("(-23)") && said.contains("1 request is not answered"), "{said}");
    assert!(said.contains("Nothing has changed"), "{said}");
    alice.ok(&["resume-io", "r0"]);
    client.read_reply().expect("a reply").ok().expect("no error");
    restart(alice);
    assert_eq!(client.read(0, 4096).expect("a read"), [7; 4096]);

    // A Primary for its clients is one for its clients: the last that goes demotes it.
    client.disconnect().expect("a clean end of the client");
    alice.ok(&["secondary", "r0"]);
    alice.ok(&["resource-options", "--auto-promote=yes", "r0"]);
    let mut client = alice.client();
    restart(alice);
    client.write(0, &[8; 4096], 0).expect("a write");
    client.disconnect().expect("a clean end of the client");
    until("alice is Secondary", || (alice.ok(&["role", "r0"]).trim() == "Secondary").then_some(()));
    // Nobody takes what another reads from away.
    bob.ok(&["primary", "r0"]);
    bob.ok(&["detach", "r0"]);
    for verb in ["restart", "stop"] {
        let said = alice.refused(17, &["daemon", verb]);
        assert!(said.contains("bob is Primary without a good disk"), "{said}");
    }
}

#[test]
fn a_node_that_is_alone_is_primary_again_and_what_it_wrote_is_remembered() {
    let mut pair = Pair::in_sync();
    let load = Load::start(pair.alice.client(), Ledger::within(1, 66));
    load.progress(64);
    pair.bob.kill();
    load.progress(64);
    restart(&pair.alice);
    load.progress(64);
    pair.bob.start();
    pair.wait_connected();
    pair.wait_synced();
    let (mut ledger, mut client) = load.stop();
    ledger.check(&mut client);
    client.flush().expect("a flush");
    assert_eq!(pair.bob.full_syncs(), 1);
    pair.assert_equal_disks();
}

#[test]
fn a_primary_without_a_disk_is_one_again_where_nobody_else_was_meanwhile() {
    let pair = Pair::in_sync();
    let alice = &pair.alice;
    let mut client = alice.client();
    client.write(0, &[7; 4096], 0).expect("a write");
    alice.ok(&["detach", "r0"]);
    client.write(4096, &[8; 4096], 0).expect("a write at bob");
    for _ in 0..2 {
        restart(alice);
        assert_eq!(client.read(0, 4096).expect("a read"), [7; 4096]);
        client.write(4096, &[9; 4096], 0).expect("a write at bob");
    }
    assert_eq!(alice.ok(&["dstate", "r0"]).trim(), "Diskless/UpToDate");
    alice.ok(&["attach", "r0"]);
    pair.wait_synced();
    pair.assert_equal_disks();
}

#[test]
fn half_a_request_goes_over_or_stands_in_the_way_and_is_never_lost() {
    let pair = Pair::in_sync();
    let alice = &pair.alice;
    let address = alice.nbd_address();
    let mut client = Client::open(&address, "r0", Mode::Simple, PATIENCE).expect("a client");
    let mut request = NBD_REQUEST_MAGIC.to_be_bytes().to_vec();
    request.extend_from_slice(&0_u16.to_be_bytes());
    request.extend_from_slice(&NBD_CMD_WRITE.to_be_bytes());
    request.extend_from_slice(&5_u64.to_be_bytes());
    request.extend_from_slice(&0_u64.to_be_bytes());
    request.extend_from_slice(&4096_u32.to_be_bytes());
    let header = request.len();
    request.extend_from_slice(&[9; 4096]);
    client.send_raw(&request[..header - 5]).expect("most of a header");
    restart(alice);
    client.send_raw(&request[header - 5..header + 100]).expect("some of the payload");
    let said = alice.refused(11, &["daemon", "restart", "--timeout", "1"]);
    assert!(said.contains("only a part of a request has come"), "{said}");
    client.send_raw(&request[header + 100..]).expect("the rest");
    let reply = client.read_raw(16).expect("a reply");
    assert_eq!(reply[4..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    restart(alice);
    assert_eq!(client.read(0, 4096).expect("a read"), [9; 4096]);
}

#[test]
fn a_disk_that_hangs_stands_in_the_way_and_everything_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(disk) = HangingDisk::new("replaced_hung", dir.path()) else { return };
    let bob = dir.path().join("bob");
    fs::File::create(&bob).and_then(|file| file.set_len(DISK_SIZE)).expect("a file");
    let pair = Plan::new().disks(&disk.device, &bob).in_sync();
    let alice = &pair.alice;
    let mut client = alice.client();
    client.write(0, &[1; 4096], 0).expect("a write");
    let frozen = disk.freeze();
    let cookie = client.send_request(Nbd::Write, 0, 0, 4096, &[2; 4096]).expect("a request");
    let said = alice.refused(11, &["daemon", "restart", "--timeout", "1"]);
    assert!(said.contains("r0: daemon") || said.contains("does not answer"), "{said}");
    drop(frozen);
    client.wait(cookie).expect("a reply").ok().expect("no error");
    restart(alice);
    assert_eq!(client.read(0, 4096).expect("a read"), [2; 4096]);
    drop(client);
}

/// A program that answers that it can take over, and is no daemon.
fn program(path: &Path, does: &str) {
    fs::write(path, format!("#!/bin/sh\n{does}\n")).expect("a program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
}

#[test]
fn a_program_that_cannot_follow_costs_nothing_and_one_that_dies_is_a_crash() {
    let mut pair = Pair::blank();
    let built = Path::new(env!("CARGO_BIN_EXE_tandemd"));
    let own = pair.dir.path().join("tandemd");
    fs::hard_link(built, &own).or_else(|_| fs::copy(built, &own).map(|_| ())).expect("a program");
    pair.alice.program = Some(own.clone());
    let mut pair = pair.bring_up().sync_from_alice();
    let alice = &pair.alice;
    let load = Load::start(alice.client(), Ledger::seeded(65));
    load.progress(64);
    // As a package manager does it: the file that runs is not written to.
    let replace = |does: &str| {
        let new = own.with_extension("new");
        program(&new, does);
        fs::rename(&new, &own).expect("a new program");
    };
    let refused = |code, says: &str| {
        let said = alice.refused(code, &["daemon", "restart"]);
        assert!(said.contains(says), "{said}");
        load.progress(64);
    };
    fs::remove_file(&own).expect("it was there");
    refused(10, "cannot take over: No such file");
    replace("echo error: unexpected argument >&2; exit 1");
    refused(10, "cannot take over: error: unexpected argument. Nothing has changed.");
    // As one that lacks an option: it cannot read what it would be left.
    let part = own.with_extension("part");
    let (part, there) = (part.display(), built.display());
    replace(&format!("head -c 100 >{part}; exec {there} \"$@\" <{part}"));
    refused(10, "does not understand what would be left to it");
    // It goes away in the last moment: this program does what the other would have done.
    replace("rm $0");
    refused(11, "cannot be executed: No such file or directory. tandemd goes on as the program");
    fs::hard_link(built, &own).or_else(|_| fs::copy(built, &own).map(|_| ())).expect("a program");
    restart(alice);
    load.progress(64);
    let (mut ledger, mut client) = load.stop();

    // Killed right behind the execution, with all that was handed on.
    replace("case \"$*\" in *--can-take-over*) exit 0;; esac; kill -9 $$");
    assert!(ledger.write(&mut client, &Burst::Count(64)));
    let (tell, _answers) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| ledger.write(&mut client, &Burst::UntilLost(tell)));
        let said = alice.refused(20, &["daemon", "restart"]);
        assert!(said.contains("has ended in the middle of its restart"), "{said}");
        assert!(!writer.join().expect("it ends"));
    });
    drop(client);
    pair.alice.wait_ended();
    pair.bob.ok(&["primary", "r0"]);
    ledger.check(&mut pair.bob.client());
    pair.bob.ok(&["secondary", "r0"]);
    pair.alice.program = None;
    pair.alice.start();
    // As after any crash.
    pair.wait_connected();
    pair.wait_synced();
    pair.alice.ok(&["primary", "r0"]);
    ledger.check(&mut pair.alice.client());
    pair.assert_equal_disks();
}

#[test]
fn clients_of_a_node_that_another_has_gone_before_are_closed_unread() {
    for goes_back in [false, true] {
        let mut pair = Pair::blank();
        let (own, there) = (pair.dir.path().join("tandemd"), pair.dir.path().join("there"));
        let go = pair.dir.path().join("go");
        let built = env!("CARGO_BIN_EXE_tandemd");
        let waits = format!(
            "case \"$*\" in *--can-take-over*) exit 0;; esac\n\
             >{}; until test -e {}; do sleep 0.01; done; exec {built} \"$@\"",
            there.display(),
            go.display()
        );
        fs::copy(built, &own).expect("a program");
        pair.alice.program = Some(own.clone());
        let pair = pair.bring_up().sync_from_alice();
        let (alice, bob) = (&pair.alice, &pair.bob);
        let mut client = alice.client();
        client.write(0, &[1; 4096], 0).expect("a write");
        let new = own.with_extension("new");
        program(&new, &waits);
        fs::rename(&new, &own).expect("a new program");
        std::thread::scope(|scope| {
            let restart = scope.spawn(|| alice.refused(11, &["daemon", "restart"]));
            until("neither program serves", || there.exists().then_some(()));
            // It waits in the socket, and is old when alice is back.
            client.send_request(Nbd::Write, 0, 0, 4096, &[2; 4096]).expect("a request");
            bob.ok(&["primary", "r0"]);
            let mut newer = bob.client();
            newer.write(0, &[3; 4096], 0).expect("a write");
            newer.disconnect().expect("a clean end of the client");
            if goes_back {
                bob.ok(&["secondary", "r0"]);
            }
            fs::write(&go, "").expect("a file");
            let said = restart.join().expect("it ends");
            assert!(said.contains("r0: State change failed"), "{said}");
            assert!(said.contains("It stays Secondary, and 1 clients are closed."), "{said}");
        });
        assert!(client.read_reply().is_err());
        assert_eq!(alice.ok(&["role", "r0"]).trim(), "Secondary");
        pair.wait_synced();
        pair.assert_equal_disks();
        assert_eq!(alice.read_disk(4096), [3; 4096]);
    }
}

#[test]
fn what_is_no_record_is_refused_and_nothing_is_touched() {
    let pair = Pair::in_sync();
    let mut client = pair.alice.client();
    let mut other = Command::new("sh");
    let line = format!(
        "TANDEM_TAKE_OVER=$$ exec {} --node alice --run-dir {} -c {}",
        env!("CARGO_BIN_EXE_tandemd"),
        pair.alice.run_dir.display(),
        pair.alice.config.display()
    );
    let said = run(other.args(["-c", &line]).stdin(Stdio::null()));
    assert_eq!(said.code, 10, "{said:?}");
    assert!(said.stderr.contains("cannot take over from the one before"), "{said:?}");
    client.write(0, &[1; 4096], 0).expect("a write");
    restart(&pair.alice);
}

#[test]
fn stop_names_the_clients_and_ends_in_order() {
    let mut pair = Pair::in_sync();
    let mut client = pair.alice.client();
    client.write(0, &[1; 4096], 0).expect("a write");
    let said = pair.alice.refused(11, &["daemon", "stop"]);
    let own = format!("pid {} uid {}", std::process::id(), nix::unistd::getuid());
    assert!(said.contains("(-12)") && said.contains(&own), "{said}");
    client.write(0, &[2; 4096], 0).expect("a write");
    let said = pair.alice.ok(&["daemon", "stop", "--force"]);
    assert!(said.starts_with("is closed: r0/0 by "), "{said}");
    assert!(pair.alice.wait_ended().success());
    assert!(client.read(0, 4096).is_err());
    assert_eq!(pair.alice.adm(&["daemon", "stop"]).code, 20, "nobody is there");
    pair.alice.start_up();
    pair.wait_connected();
    assert_eq!(pair.alice.peer_kib("received"), 0, "it ended in order");
    assert_eq!(pair.alice.ok(&["daemon", "stop"]), "");
    assert!(pair.alice.wait_ended().success());
    until("bob waits for alice", || {
        (pair.bob.connection()["connection-state"] == "Connecting").then_some(())
    });
}

#[test]
fn of_restarts_at_once_each_is_done() {
    let pair = Pair::in_sync();
    let (alice, pid) = (&pair.alice, pair.alice.pid());
    let _client = alice.client();
    let ends: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..4).map(|_| scope.spawn(|| alice.adm(&["daemon", "restart"]))).collect();
        all.into_iter().map(|one| one.join().expect("it ends")).collect()
    });
    for said in &ends {
        assert_eq!(said.code, 0, "{said:?}");
    }
    assert_eq!(alice.pid(), pid);
    pair.wait_synced();
}

#[test]
fn a_stop_beside_a_restart_has_stopped_or_says_that_it_has_not() {
    let mut pair = Pair::in_sync();
    let alice = &pair.alice;
    let (restarted, stopped) = std::thread::scope(|scope| {
        let restart = scope.spawn(|| alice.adm(&["daemon", "restart"]));
        let stop = scope.spawn(|| alice.adm(&["daemon", "stop"]));
        (restart.join().expect("it ends"), stop.join().expect("it ends"))
    });
    match stopped.code {
        0 => assert!(pair.alice.wait_ended().success(), "{restarted:?}"),
        code => {
            assert!(code == 11 && stopped.stderr.contains("try again"), "{stopped:?}");
            assert_eq!(restarted.code, 0, "{restarted:?}");
            pair.wait_synced();
        }
    }
}
