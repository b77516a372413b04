//! The shared secret: who has it is let in, who has not learns nothing and disturbs nobody.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tandem::secret::Algorithm;
use tandem::wire::{
    FEATURE_SECRET, FEATURES_BODY, Features, HEADER_SIZE, Packet, Refused, VERSIONS, decode,
    decode_header, encode_header,
};

use crate::ledger::{Burst, Ledger};
use crate::pair::{Node, Pair};
use crate::plan::Plan;

/// What no text of ours may have.
const SECRETS: [&str; 2] = ["FooFunFactory", "GuessMeNot"];
const FOO: &str = "shared-secret \"FooFunFactory\";";
const GUESS: &str = "shared-secret \"GuessMeNot\";";

/// A pair whose nodes have configs of their own, with these `net` options, and record everything.
fn pair(alice: &str, bob: &str) -> Pair {
    let mut pair = Plan::new().net("HERE;").blank();
    pair.bob.config = pair.dir.path().join("bob.conf");
    let text = fs::read_to_string(&pair.alice.config).expect("the config");
    let records = pair.dir.path().join("records");
    for (node, net) in [(&mut pair.alice, alice), (&mut pair.bob, bob)] {
        fs::write(&node.config, text.replace("HERE;", net)).expect("it is written");
        fs::set_permissions(&node.config, fs::Permissions::from_mode(0o600)).expect("ours");
        let folder = records.join(node.name).display().to_string();
        fs::create_dir_all(&folder).expect("a folder");
        node.arguments = vec!["--record".to_owned(), folder];
    }
    pair
}

/// Changes a node's `net` options, and `adjust`.
fn change(node: &Node, from: &str, to: &str) {
    let before = fs::read_to_string(&node.config).expect("the config");
    assert!(before.contains(from), "{from} in {before}");
    fs::write(&node.config, before.replace(from, to)).expect("it is written");
    assert!(node.ok(&["status", "r0"]).contains("config:differs"));
    let steps = node.ok(&["-d", "adjust", "r0"]);
    assert!(steps.contains(" --shared-secret"), "{steps}");
    assert_secret(&steps);
    node.ok(&["adjust", "r0"]);
    assert_eq!(node.ok(&["-d", "adjust", "r0"]), "");
}

fn assert_secret(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

/// Nothing that is written or printed shows a secret.
fn assert_nothing_shows_it(pair: &Pair) {
    for node in [&pair.alice, &pair.bob] {
        assert_secret(&node.log_text());
        for words in [
            &["status", "--verbose", "--statistics", "r0"][..],
            &["status", "--json", "r0"],
            &["why", "r0"],
            &["why", "--json", "r0"],
            &["check", "r0"],
            &["-d", "up", "r0"],
            &["-d", "adjust", "r0"],
            &["-d", "net-options", "r0"],
        ] {
            let said = node.adm(words);
            assert_secret(&said.stdout);
            assert_secret(&said.stderr);
        }
        let record = pair.dir.path().join("records").join(node.name).join("r0.record");
        let record = fs::read(record).expect("it is recorded");
        let record = String::from_utf8_lossy(&record);
        assert!(record.contains("Features"), "a recording");
        assert_secret(&record);
    }
}

fn wait_refused(node: &Node) {
    crate::wait::until(&format!("{} says why", node.name), || {
        (node.connection()["reason"] == "bad-secret").then_some(())
    });
}

fn losses(node: &Node) -> usize {
    node.log_text().matches("conn( Connected -> ").count()
}

#[test]
fn the_same_secret_connects_and_another_one_does_not() {
    let mut pair = pair(FOO, GUESS);
    pair.start_new();
    for node in [&pair.alice, &pair.bob] {
        wait_refused(node);
        let text = "alice and bob have different secrets for r0";
        let text = if node.name == "alice" { text } else { "bob and alice have different secrets" };
        let why = node.ok(&["why", "r0"]);
        assert!(why.contains(text) && why.contains("the shared secrets differ"), "{why}");
        assert!(node.ok(&["status", "r0"]).contains("reason:bad-secret"));
        assert!(node.log_text().contains("bad-secret"), "{}", node.log_text());
    }
    crate::wait::until("one of them stands alone", || {
        let stands = |node: &Node| {
            let alone = node.connection()["connection-state"] == "StandAlone";
            assert!(!alone || node.log_text().contains("handshake refused: bad-secret"));
            alone
        };
        (stands(&pair.alice) || stands(&pair.bob)).then_some(())
    });
    assert_nothing_shows_it(&pair);
    // The one that goes on dialling listens.
    let is_alone = pair.alice.connection()["connection-state"] == "StandAlone";
    let (asker, other) = if is_alone { (&pair.alice, &pair.bob) } else { (&pair.bob, &pair.alice) };
    if other.connection()["connection-state"] != "StandAlone" {
        let said = asker.refused(10, &["ping", "r0"]);
        assert!(said.contains("it has another shared-secret (bad-secret)"), "{said}");
        assert_secret(&said);
    }
    change(&pair.bob, GUESS, FOO);
    for node in [&pair.alice, &pair.bob] {
        node.ok(&["connect", "r0"]);
    }
    pair.wait_connected();
    let pair = pair.sync_from_alice();
    let said = pair.alice.ok(&["ping", "r0"]);
    assert!(said.contains("\n  secret:  proved by both, sha256\n"), "{said}");
    let said = pair.alice.refused(10, &["net-options", "--shared-secret=FooFunFactory", "r0"]);
    assert!(said.contains("in the config file"), "{said}");
    assert!(pair.alice.ok(&["dump", "r0"]).contains("\"FooFunFactory\";"), "as drbdadm does");
    assert_nothing_shows_it(&pair);
    // The file is for those who may know it.
    fs::set_permissions(&pair.alice.config, fs::Permissions::from_mode(0o644)).expect("ours");
    let said = pair.alice.adm(&["-d", "adjust", "r0"]);
    assert!(said.stderr.contains("everybody on this host can read the file"), "{said:?}");
    assert!(said.stderr.contains("chmod o-r"), "{said:?}");
}

#[test]
fn one_with_and_one_without_a_secret_are_both_named() {
    let mut pair = pair(FOO, "");
    pair.start_new();
    for node in [&pair.alice, &pair.bob] {
        wait_refused(node);
        let why = node.ok(&["why", "r0"]);
        assert!(why.contains("alice has a shared-secret for r0, bob has none"), "{why}");
    }
    assert_nothing_shows_it(&pair);
}

#[test]
fn a_secret_is_rotated_without_an_outage() {
    let pair = pair(FOO, FOO).bring_up().sync_from_alice();
    let mut ledger = Ledger::seeded(60);
    let mut client = pair.alice.client();
    let both = "shared-secret \"GuessMeNot\"; shared-secret-old \"FooFunFactory\";";
    let steps = [
        (&pair.alice, FOO, both),
        (&pair.bob, FOO, both),
        (&pair.alice, both, GUESS),
        (&pair.bob, both, GUESS),
    ];
    for (node, from, to) in steps {
        let before = [losses(&pair.alice), losses(&pair.bob)];
        change(node, from, to);
        assert!(ledger.write(&mut client, &Burst::Count(50)));
        assert_eq!([losses(&pair.alice), losses(&pair.bob)], before, "no outage");
        // And a connection that is made now is made.
        pair.bob.ok(&["disconnect", "r0"]);
        pair.bob.ok(&["connect", "r0"]);
        pair.wait_connected();
        pair.wait_synced();
    }
    assert_nothing_shows_it(&pair);
    client.flush().expect("a flush of both");
    ledger.check(&mut client);
    pair.assert_equal_disks();
}

/// What bob says first when he dials alice.
fn features(bits: u32) -> Packet {
    Packet::Features(Features {
        version_min: *VERSIONS.start(),
        version_max: *VERSIONS.end(),
        features: bits,
        node_id: 1,
        peer_node_id: 0,
        resource: "r0".to_owned(),
        dialled: true,
        primary: false,
        system: [0; 16],
    })
}

/// Says all this on the peer port, and returns what is answered until the connection is closed.
fn say(node: &Node, packets: &[Packet]) -> Vec<Packet> {
    let mut socket = TcpStream::connect(("127.0.0.1", node.port)).expect("it listens");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    let mut bytes = Vec::new();
    packets.iter().for_each(|packet| encode_header(packet, &mut bytes));
    socket.write_all(&bytes).expect("it is sent");
    let mut said = Vec::new();
    let end = socket.read_to_end(&mut said);
    assert!(end.is_ok_and(|_| true) || !said.is_empty(), "closed, and in time");
    let (mut rest, mut answers) = (&said[..], Vec::new());
    while let Some(header) = rest.first_chunk::<HEADER_SIZE>() {
        let header = decode_header(header).expect("ours");
        let body = &rest[HEADER_SIZE..HEADER_SIZE + header.body_length() as usize];
        answers.push(decode(&header, body).expect("ours"));
        rest = &rest[HEADER_SIZE + body.len()..];
    }
    answers
}

#[test]
fn a_stranger_without_the_secret_learns_nothing_and_disturbs_nobody() {
    let pair = pair(FOO, FOO).bring_up().sync_from_alice();
    let mut ledger = Ledger::seeded(61);
    let mut client = pair.alice.client();
    let challenge = Packet::Challenge { algorithm: Algorithm::Sha256, challenge: [7; 32] };
    let response = |size| Packet::Response { proofs: vec![7; size] };
    let refused = Refused {
        reason: tandem::resource::Reason::BadSecret,
        rule: "shared-secret".to_owned(),
        text: "go away".to_owned(),
    };
    let with = || features(FEATURE_SECRET);
    let attempts: [(&str, Vec<Packet>); 8] = [
        ("has none", vec![features(0)]),
        ("has another", vec![with(), challenge.clone(), response(32)]),
        ("has two others", vec![with(), challenge.clone(), response(64)]),
        (
            "another algorithm",
            vec![with(), Packet::Challenge { algorithm: Algorithm::Sha1, challenge: [7; 32] }],
        ),
        ("begins with the proof", vec![with(), response(32)]),
        ("does not prove", vec![with(), challenge.clone(), Packet::Leave { kind: 1 }]),
        ("says nothing first", vec![Packet::Ping]),
        ("refuses", vec![with(), challenge, Packet::Refused(Box::new(refused))]),
    ];
    for (what, packets) in attempts {
        let answers = say(&pair.alice, &packets);
        for answer in &answers {
            let known = match answer {
                Packet::Features(_) | Packet::Challenge { .. } => true,
                Packet::Refused(refused) => refused.text == "another secret",
                _ => false,
            };
            assert!(known, "{what}: {answer:?}");
        }
        assert_eq!(pair.alice.connection()["connection-state"], "Connected", "{what}");
        assert!(ledger.write(&mut client, &Burst::Count(20)), "{what}");
    }
    assert_eq!(HEADER_SIZE + FEATURES_BODY as usize, 192);
    client.flush().expect("a flush of both");
    assert_eq!([losses(&pair.alice), losses(&pair.bob)], [0, 0]);
    assert!(pair.alice.log_text().contains("bad-secret"), "{}", pair.alice.log_text());
    ledger.check(&mut client);
    assert_nothing_shows_it(&pair);
}
