//! Every verb, with right and wrong words, in every state, from several administrators at once, while
//! the config changes under them and where nothing can be written: a clean answer each time, and a
//! pair that can be set right afterwards.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::disks::SmallRoom;
use crate::namespace::skip;
use crate::pair::{Node, Pair, Said, run, text};

/// What is typed: a verb with each kind of target, and with what it does not take.
const ORDERS: &[&str] = &[
    "up r0",
    "down r0",
    "adjust r0",
    "attach r0",
    "attach r0/0",
    "attach r0/7",
    "detach r0",
    "detach --force r0/0",
    "connect r0",
    "connect --discard-my-data r0:bob",
    "connect --tentative r0",
    "connect r0:carol",
    "disconnect r0",
    "disconnect --force r0:alice",
    "disconnect --for 1s r0",
    "disconnect --for soon r0",
    "primary r0",
    "primary --force r0",
    "primary --force=inconsistent r0",
    "primary --force=outdated r0",
    "primary --force=blank r0",
    "primary --force=please r0",
    "secondary r0",
    "secondary --force r0",
    "secondary --wait 1 r0",
    "invalidate r0",
    "invalidate r0:bob/0",
    "invalidate-remote r0",
    "invalidate-remote r0:alice/0",
    "outdate r0",
    "verify r0",
    "verify --stop 0 r0",
    "verify --start 99999999999999999999 r0",
    "verify --repair r0",
    "verify --repair --from carol r0",
    "pause-sync r0",
    "resume-sync r0",
    "suspend-io r0",
    "resume-io r0",
    "new-current-uuid r0",
    "new-current-uuid --clear-bitmap r0",
    "net-options --ping-int=3 r0",
    "net-options --ping-int=0 r0",
    "net-options r0",
    "disk-options --c-max-rate=50M r0",
    "disk-options --nonsense=1 r0",
    "resource-options --auto-promote=no r0",
    "peer-device-options --c-min-rate=1M r0",
    "create-md r0",
    "create-md --force r0/0",
    "dump-md r0",
    "dump-md --offline r0",
    "wipe-md --force r0",
    "restore-md /dev/null r0",
    "forget-peer --force r0:bob",
    "forget-peer --force r0:7",
    "wait-connect --wfc-timeout 1 r0",
    "wait-sync-volume --wfc-timeout 1 r0/0",
    "wait-connect-resource --wfc-timeout=never r0",
    "status r0",
    "status --json",
    "status r0/0",
    "events2 --now r0",
    "role r0",
    "peer-role r0:bob",
    "cstate r0",
    "dstate r0:carol",
    "show-gi r0",
    "get-gi r0",
    "dump r0",
    "dump-xml r0",
    "why r0",
    "check",
    "ping r0",
    "set-gi r0",
    "no-such-verb r0",
    "up r7",
    "up r0 r7",
    "down",
    "",
];

fn typed(node: &Node, order: &str) -> Said {
    node.adm(&order.split_whitespace().collect::<Vec<_>>())
}

/// The exit code is one of those in OPERATIONS, that of the number which is printed, and nothing
/// is refused without a word. (That it ends at all within its time is `run`'s to say.)
fn assert_clean(node: &Node, order: &str, said: &Said) {
    let what = || format!("{}# tandemadm {order}: {said:?}", node.name);
    assert!(!said.stderr.contains("panicked"), "{}", what());
    if order.starts_with("check") {
        return assert!((0..=3).contains(&said.code), "{}", what());
    }
    assert!([0, 1, 5, 10, 11, 16, 17, 20].contains(&said.code), "{}", what());
    assert!(said.code == 0 || !said.stderr.trim().is_empty(), "{}", what());
    let numbers: Vec<i32> = said
        .stderr
        .split(": (")
        .skip(1)
        .filter_map(|rest| rest.split_once(')')?.0.parse().ok())
        .collect();
    let code_of = |number: &i32| match number {
        -16 => 5,
        -4 => 16,
        -2 => 17,
        100.. => 10,
        _ => 11,
    };
    let first = numbers.first().map(code_of);
    assert!(first.is_none_or(|code| said.code == code || said.code == 0), "{}", what());
}

#[test]
fn every_verb_has_a_clean_answer_without_a_daemon_and_with_nothing_up() {
    let mut pair = Pair::blank();
    for order in ORDERS {
        let said = typed(&pair.alice, order);
        assert_clean(&pair.alice, order, &said);
        // What is on the disks can be worked on without it.
        let alone = ["create-md", "dump-md", "wipe-md", "restore-md", "get-gi", "show-gi"];
        let verb = order.split(' ').next().unwrap_or_default();
        if !alone.contains(&verb) && !["dump", "dump-xml", "ping", "forget-peer"].contains(&verb) {
            assert_ne!(said.code, 0, "without a daemon: {order}: {said:?}");
        }
    }
    pair.alice.start();
    // Not those that bring it up.
    for order in ORDERS.iter().filter(|order| !order.starts_with("up") && **order != "adjust r0") {
        assert_clean(&pair.alice, order, &typed(&pair.alice, order));
    }
    assert!(pair.alice.terminate().success());
}

/// Each administrator types everything, in an order of its own, for as long as there is one more.
fn type_all(node: &Node, seed: usize) {
    for step in 0..ORDERS.len() {
        // Coprime with the number of orders, or nearly so: each comes once or twice.
        let order = ORDERS[(seed * 13 + step * (2 * seed + 7)) % ORDERS.len()];
        assert_clean(node, order, &typed(node, order));
    }
}

/// Puts one text after the other in the place of the config, whole, until it is over.
fn change_the_config(pair: &Pair, good: &str, over: &AtomicBool) {
    let other = good.replace("protocol C;", "protocol C; timeout 50; ping-int 4;");
    let renamed = good.replace("resource r0", "resource r1");
    let texts = [good, &other, "resource r0 {", "", &renamed, good];
    let new = pair.dir.path().join("tandem.conf.new");
    let (_sender, pause) = mpsc::channel::<()>();
    for text in texts.iter().cycle() {
        fs::write(&new, text).expect("it is written");
        fs::rename(&new, &pair.alice.config).expect("it is put in place");
        let _ = pause.recv_timeout(Duration::from_millis(30));
        if over.load(Ordering::Relaxed) {
            break;
        }
    }
}

#[test]
fn many_administrators_at_once_get_clean_answers_and_break_nothing() {
    let pair = Pair::in_sync();
    let good = fs::read_to_string(&pair.alice.config).expect("the config");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| change_the_config(&pair, &good, &over));
        let admins: Vec<_> = [(&pair.alice, 1), (&pair.alice, 2), (&pair.bob, 3), (&pair.bob, 4)]
            .map(|(node, seed)| scope.spawn(move || type_all(node, seed)))
            .into();
        let ended: Vec<_> = admins.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        for one in ended {
            if let Err(panic) = one {
                std::panic::resume_unwind(panic);
            }
        }
    });
    fs::write(&pair.alice.config, &good).expect("the config");

    // Both daemons are alive and well, and the pair is set right by what is documented for a new one.
    for node in [&pair.alice, &pair.bob] {
        let log = node.log_text();
        assert!(!log.contains("panicked"), "{log}");
        assert!(!node.adm(&["status"]).stdout.contains("failed:"), "{log}");
        let said = node.adm(&["secondary", "--force", "r0"]);
        assert_clean(node, "secondary --force r0", &said);
        node.ok(&["down", "r0"]);
        // Somebody may have wiped one disk: found blank, it would not be forced over the other.
        let said = node.adm(&["wipe-md", "--force", "r0"]);
        assert_clean(node, "wipe-md --force r0", &said);
        node.ok(&["create-md", "--force", "r0"]);
        node.ok(&["up", "r0"]);
    }
    pair.wait_connected();
    let mut pair = pair.sync_from_alice();
    pair.assert_equal_disks();
    assert!(pair.alice.terminate().success());
    assert!(pair.bob.terminate().success());
}

#[test]
fn a_full_state_and_run_folder_stop_what_must_be_saved_and_nothing_else() {
    let test = "a_full_state_and_run_folder";
    let mut pair = Pair::blank();
    let place = pair.dir.path().join("small");
    let Some(room) = SmallRoom::new(test, &place, "256k") else { return };
    if run(Command::new("id").arg("-u")).stdout.trim() != "0" {
        return skip(test, "root fills its own file systems only");
    }
    let run_dir = room.0.join("run");
    fs::create_dir(&run_dir).expect("a folder");
    pair.alice.run_dir = run_dir;
    let pair = &mut pair.bring_up().sync_from_alice();
    let full = room.0.join("full");
    let fill = || {
        let zeroes = "cat /dev/zero >>\"$1\"";
        let filled = run(Command::new("sh").args(["-c", zeroes, "sh", text(&full)]));
        assert_ne!(filled.code, 0, "it was never full");
    };
    fill();

    // Replication, losses, promotions and demotions go on.
    let mut client = pair.alice.client();
    client.write(0, &[7; 65536], 0).expect("a write");
    client.flush().expect("a flush");
    pair.bob.kill();
    client.write(65536, &[8; 65536], 0).expect("alone");
    client.disconnect().expect("a goodbye");
    pair.bob.start_up();
    pair.wait_synced();
    pair.alice.ok(&["secondary", "r0"]);
    // What would throw something away is not begun.
    let generations = |node: &Node| {
        let text = node.ok(&["get-gi", "r0"]);
        text.split(':').take(4).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = generations(&pair.alice);
    for order in ["invalidate r0", "connect --discard-my-data r0"] {
        if order.starts_with("connect") {
            pair.alice.ok(&["disconnect", "r0"]);
        }
        // A note that could not be written anew has made room.
        fill();
        let said = typed(&pair.alice, order);
        assert_clean(&pair.alice, order, &said);
        assert!(said.code == 10 && said.stderr.contains("No space"), "{order}: {said:?}");
    }
    assert_eq!(generations(&pair.alice), before);
    pair.alice.ok(&["connect", "r0"]);
    pair.wait_synced();
    pair.alice.ok(&["down", "r0"]);
    // What a running resource had noted is gone, and its place is free.
    fill();
    let said = pair.alice.refused(10, &["create-md", "--force", "r0"]);
    assert!(said.contains("No space"), "{said}");
    pair.alice.ok(&["up", "r0"]);
    pair.wait_synced();
    // What ends an outage is done all the same.
    pair.bob.kill();
    let said = pair.alice.adm(&["primary", "--force", "r0"]);
    assert_eq!(said.code, 0, "{said:?}");
    pair.bob.start_up();
    pair.wait_synced();
    pair.assert_equal_disks();

    // A daemon that starts here, too.
    assert!(pair.alice.terminate().success());
    pair.alice.start_up();
    pair.wait_synced();
    fs::remove_file(&full).expect("room");
    pair.bob.ok(&["invalidate", "r0"]);
    pair.wait_synced();
    assert!(pair.alice.terminate().success());
    drop(room);
}
