//! `primary --hand-over` under load: no error, nothing lost, and how long it takes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use nbd::client::{Address, Client, Mode};

use crate::ledger::{Burst, Ledger};
use crate::pair::Pair;
use crate::plan::Plan;
use crate::stage::Stage;
use crate::wait::PATIENCE;

/// An order, and the pause of a client that connects anew, where no disk is slow to flush.
const WITHIN: Duration = Duration::from_secs(1);

/// A client that goes to whichever node serves, until it is told to stop; what it knows, and the
/// writes that were not answered when a connection ended.
fn follow(
    addresses: [Address; 2],
    stop: &AtomicBool,
    answers: &mpsc::Sender<()>,
) -> (Ledger, usize) {
    let mut ledger = Ledger::seeded(8);
    let mut unanswered = 0;
    while !stop.load(Ordering::Relaxed) {
        let served = addresses
            .iter()
            .find_map(|address| Client::open(address, "r0", Mode::Structured, PATIENCE).ok());
        let Some(mut client) = served else {
            std::thread::yield_now();
            continue;
        };
        assert!(!ledger.write(&mut client, &Burst::UntilMoved(answers.clone())));
        unanswered += ledger.flying;
        println!("{} requests were left without an answer", ledger.flying);
    }
    (ledger, unanswered)
}

/// Waits for so many answers.
fn answered(answers: &mpsc::Receiver<()>, count: usize) {
    for _ in 0..count {
        answers.recv_timeout(PATIENCE).expect("writes are answered");
    }
}

#[test]
fn the_role_moves_under_load_and_no_client_sees_an_error() {
    let pair: Pair = Plan::new()
        // Disks of a busy machine may take long to flush.
        .sections("disk { c-min-rate 20M; } options { hand-over-timeout 250; }")
        .in_sync();
    let nodes = [&pair.alice, &pair.bob];
    let (tell, answers) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (addresses, stop) = (nodes.map(|node| node.nbd_address()), stop.clone());
        move || follow(addresses, &stop, &tell)
    });
    answered(&answers, 200);
    let mut times = Vec::new();
    for (from, to) in [(0, 1), (1, 0), (0, 1), (1, 0)] {
        let begun = Instant::now();
        nodes[to].ok(&["primary", "--hand-over", "r0"]);
        let ordered = begun.elapsed();
        // What was answered before it is no sign that it goes on.
        while answers.try_recv().is_ok() {}
        answered(&answers, 1);
        let paused = begun.elapsed();
        println!("moved in {ordered:?}; the client went on after {paused:?}");
        times.push(paused);
        answered(&answers, 200);
        assert_eq!(nodes[from].ok(&["role", "r0"]).trim(), "Secondary");
    }
    times.sort_unstable();
    assert!(times[1] < WITHIN, "{times:?}");
    // Both daemons are started anew, one after the other, and the client goes on.
    let mut stage = Stage::new(pair);
    let mut restarted = 0;
    stage.run_with("upgrade", |pair, command| {
        if command.contains("down") {
            let node = if restarted == 0 { &mut pair.bob } else { &mut pair.alice };
            assert!(node.terminate().success());
            node.start();
            restarted += 1;
        }
        while answers.try_recv().is_ok() {}
        answered(&answers, 20);
    });
    assert_eq!(restarted, 2);
    let pair = &stage.pair;
    assert_eq!(pair.alice.ok(&["role", "r0"]).trim(), "Primary");
    stop.store(true, Ordering::Relaxed);
    pair.alice.ok(&["secondary", "--force", "r0"]);
    let (mut ledger, unanswered) =
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    // The last connection was closed by force, with all that was under way. Who sends as answers
    // come in may have sent something that nobody reads any more; but not at each move.
    assert!(unanswered <= 4 * 16, "{unanswered} writes were left without an answer");
    pair.wait_synced();
    pair.bob.ok(&["primary", "r0"]);
    ledger.check(&mut pair.bob.client());
    pair.assert_equal_disks();
    assert!(pair.bob.log_text().contains("r0 alice: has handed over"));
}

#[test]
fn a_hand_over_is_refused_with_the_reason_and_the_next_step() {
    let pair: Pair = Plan::new().sections("options { hand-over-timeout 5; }").in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    alice.ok(&["suspend-io", "r0"]);
    let said = bob.refused(11, &["primary", "--hand-over", "r0"]);
    assert!(said.contains("frozen on alice: `tandemadm resume-io r0` there first"), "{said}");
    alice.ok(&["resume-io", "r0"]);
    alice.ok(&["resource-options", "--hand-over-timeout=0", "r0"]);
    let said = bob.refused(11, &["primary", "--hand-over", "r0"]);
    assert!(said.contains("`hand-over-timeout` is 0 on alice"), "{said}");
    bob.ok(&["detach", "r0"]);
    let said = bob.refused(17, &["primary", "--hand-over", "r0"]);
    assert!(said.contains("r0/0 is Diskless here and UpToDate on alice"), "{said}");
    bob.ok(&["attach", "r0"]);
    bob.ok(&["disconnect", "r0"]);
    let said = bob.refused(11, &["primary", "--hand-over", "r0"]);
    assert!(said.contains("alice is not connected"), "{said}");
    assert_eq!(alice.ok(&["role", "r0"]).trim(), "Primary", "as before");
    alice.ok(&["resource-options", "--hand-over-timeout=5", "r0"]);
    bob.ok(&["connect", "r0"]);
    pair.wait_synced();
    let mut stage = Stage::new(pair);
    stage.run("hand_over");
    assert_eq!(stage.pair.bob.ok(&["role", "r0"]).trim(), "Primary");
    // With devices of the daemons' own: one that has none to detach goes on, one that cannot attach
    // its is promoted, and says so.
    let (alice, bob) = (&stage.pair.alice, &stage.pair.bob);
    for node in [alice, bob] {
        node.ok(&["resource-options", "--device-attach=auto", "r0"]);
    }
    alice.ok(&["primary", "--hand-over", "r0"]);
    assert_eq!(alice.ok(&["role", "r0"]).trim(), "Primary");
    if !std::path::Path::new("/sys/module/nbd").exists() {
        assert!(
            alice.ok(&["why", "r0"]).contains("its device is not attached (device-attach auto)")
        );
        assert!(alice.ok(&["status", "r0"]).contains("device:failed"));
    }
    alice.ok(&["secondary", "r0"]);
    assert!(!alice.ok(&["status", "r0"]).contains("device:failed"));
}
