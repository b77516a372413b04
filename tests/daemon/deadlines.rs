//! What must be noticed in time: a peer that is silent, one that is gone, and one that answers
//! everything but writes. Upper bounds have room for a busy machine; lower ones have none.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use tandem::wire::Kind;

use crate::pair::Node;
use crate::plan::Plan;
use crate::relay::Relay;
use crate::wait::until;

/// For a machine that does other things as well.
const SLACK: Duration = Duration::from_secs(3);

/// How long it took until alice is not Connected any more.
fn lost(alice: &Node) -> Duration {
    let begun = Instant::now();
    until("alice has lost bob", || {
        (alice.connection()["connection-state"] != "Connected").then_some(begun.elapsed())
    })
}

#[test]
fn a_silent_peer_is_noticed_in_ping_int_and_ping_timeout_and_a_dead_one_at_once() {
    // Long enough that only the pings can have noticed it.
    let pair = Plan::new().net("ping-int 2; ping-timeout 5; timeout 60; connect-int 10;");
    let mut pair = pair.in_sync();
    pair.bob.freeze();
    let took = lost(&pair.alice);
    let limit = Duration::from_millis(2500) + SLACK;
    assert!(took <= limit, "a frozen peer was noticed after {took:?}");
    assert!(pair.alice.log_text().contains("conn( Connected -> NetworkFailure )"));
    pair.bob.wake();
    pair.wait_connected();
    pair.wait_synced();
    pair.bob.kill();
    let took = lost(&pair.alice);
    assert!(took <= Duration::from_secs(1), "a dead peer was noticed after {took:?}");
    assert!(!pair.alice.log_text().contains("conn( Connected -> Timeout )"));
}

#[test]
fn a_peer_that_answers_pings_and_no_write_is_dropped_after_ko_count_times_timeout() {
    let pair = Plan::new().net("ping-int 1; ping-timeout 5; timeout 9; ko-count 3; connect-int 1;");
    let mut pair = pair.blank();
    let relay = Relay::new(pair.bob.port, |kind| kind == Kind::Data);
    let text = fs::read_to_string(&pair.alice.config).expect("the config is there");
    let address = |port: u16| format!("127.0.0.1:{port}");
    let (alice, bob) = (address(pair.alice.port), address(pair.bob.port));
    // alice meets bob behind the relay; bob finds alice nowhere, and is found.
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nowhere = address(closed.local_addr().expect("it is bound").port());
    let of_alice = text.replace(&bob, &address(relay.port));
    fs::write(&pair.alice.config, of_alice).expect("it is written");
    pair.bob.config = pair.bob.config.with_file_name("bob.conf");
    drop(closed);
    fs::write(&pair.bob.config, text.replace(&alice, &nowhere)).expect("it is written");
    let pair = pair.bring_up().sync_from_alice();
    let mut client = pair.alice.client();
    client.write(0, &[1; 4096], 0).expect("it is written");
    client.flush().expect("a flush of both");

    relay.swallow();
    let begun = Instant::now();
    client.write(4096, &[2; 4096], 0).expect("no error reaches the client");
    let took = begun.elapsed();
    let patience = Duration::from_millis(3 * 900);
    assert!(took >= patience, "bob was given up after {took:?} only");
    assert!(took <= patience + SLACK, "the write was answered after {took:?}");
    let log = pair.alice.log_text();
    assert!(log.contains("conn( Connected -> Timeout )"), "{log}");
    assert!(!log.contains("NetworkFailure"), "the pings were answered");
}

/// The pauses grow to connect-int and no further, and nobody is dialled without a pause.
#[test]
fn a_peer_that_hangs_up_is_dialled_every_connect_int() {
    let mut pair = Plan::new().net("connect-int 1;").blank();
    let hangs_up = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = hangs_up.local_addr().expect("it is bound").port();
    pair.edit(&format!("127.0.0.1:{}", pair.bob.port), &format!("127.0.0.1:{port}"));
    pair.alice.start();
    pair.alice.ok(&["create-md", "r0"]);
    pair.alice.ok(&["up", "r0"]);
    let mut last: Option<Instant> = None;
    for attempt in 0..6 {
        drop(hangs_up.accept().expect("alice dials"));
        if let Some(pause) = last.map(|last| last.elapsed()) {
            assert!(pause >= Duration::from_millis(300), "attempt {attempt} after {pause:?}");
            assert!(pause <= Duration::from_secs(1) + SLACK, "attempt {attempt} after {pause:?}");
        }
        last = Some(Instant::now());
    }
}
