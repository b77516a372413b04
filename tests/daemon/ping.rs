//! `ping`: what it says with and without a connection, and that it changes nothing.

use std::fs;

use tandem::wire::VERSIONS;

use crate::ledger::{Burst, Ledger};
use crate::pair::Pair;
use crate::plan::Plan;

#[test]
fn a_ping_beside_the_connection_says_everything_and_disturbs_nothing() {
    let pair = Pair::in_sync();
    let mut ledger = Ledger::seeded(70);
    let mut client = pair.alice.client();
    assert!(ledger.write(&mut client, &Burst::Count(20)));
    let before = [pair.alice.log_text(), pair.bob.log_text()];
    for (node, peer, id, role) in
        [(&pair.alice, &pair.bob, 1, "Secondary"), (&pair.bob, &pair.alice, 0, "Primary")]
    {
        for _ in 0..3 {
            let said = node.ok(&["ping", "r0"]);
            let first = format!("r0 {}: 127.0.0.1:{} from 127.0.0.1, ", peer.name, peer.port);
            assert!(said.starts_with(&first), "{said}");
            assert!(said.contains("beside the connection, which goes on"), "{said}");
            for text in [
                "\n  tcp:     connected in ",
                "\n  rtt:     min/avg/max ",
                "\n  large:   1 MiB there and back in ",
                &format!("\n  node:    {}, node-id {id}, {role}, tandem ", peer.name),
                &format!(", protocol {} to {}\n", VERSIONS.start(), VERSIONS.end()),
                "\n  secret:  none",
                "\n  config:  the same options\n",
            ] {
                assert!(said.contains(text), "{text} in {said}");
            }
            assert!(ledger.write(&mut client, &Burst::Count(20)));
        }
    }
    assert_eq!(pair.alice.connection()["connection-state"], "Connected");
    assert_eq!([pair.alice.log_text(), pair.bob.log_text()], before, "no state has changed");
    // More than may be answered at a time, and none of them for ever.
    let asked: Vec<_> = (0..3).map(|_| pair.alice.adm(&["ping", "r0:bob"]).code).collect();
    assert_eq!(asked, [0, 0, 0]);
    let said = pair.alice.refused(10, &["ping", "r0:carol"]);
    assert!(said.contains("no such peer"), "{said}");
    pair.alice.refused(10, &["ping", "r9"]);
    pair.alice.refused(1, &["ping", "r0/0"]);
    client.flush().expect("a flush of both");
    ledger.check(&mut client);
    pair.assert_equal_disks();
}

#[test]
fn a_ping_names_what_differs_and_what_is_wrong() {
    let mut pair = Plan::new().impatient().connected();
    pair.bob.ok(&["net-options", "--max-buffers=4000", "r0"]);
    let said = pair.alice.ok(&["ping", "r0"]);
    assert!(said.contains("  config:  max-buffers is 2048 here, 4000 on bob\n"), "{said}");
    // They will not connect again like this.
    pair.bob.ok(&["net-options", "--rr-conflict=retry-connect", "r0"]);
    let said = pair.alice.refused(10, &["ping", "r0"]);
    assert!(said.contains("Make these options equal"), "{said}");

    // One side StandAlone: the other answers all the same.
    pair.alice.ok(&["disconnect", "r0"]);
    let said = pair.alice.adm(&["ping", "r0"]);
    assert!(said.stdout.contains(", not connected\n"), "{said:?}");
    assert!(said.stdout.contains("rr-conflict is disconnect here, retry-connect on bob: must be"));
    let said = pair.bob.refused(10, &["ping", "r0"]);
    assert!(said.contains("is the resource StandAlone there"), "{said}");
    assert_eq!(pair.alice.ok(&["cstate", "r0"]), "StandAlone\n");
    assert_eq!(pair.bob.ok(&["cstate", "r0"]), "Connecting\n");

    // Silent, and gone.
    pair.bob.freeze();
    let said = pair.alice.refused(5, &["ping", "r0"]);
    assert!(said.contains("waited 5 s"), "{said}");
    pair.bob.wake();
    pair.bob.terminate();
    let said = pair.alice.refused(10, &["ping", "r0"]);
    assert!(said.contains("connection refused") && said.contains("tandemadm up r0"), "{said}");

    // Without a daemon here, by the file alone; and a name that the peer does not have.
    pair.bob.start_up();
    pair.alice.terminate();
    assert!(pair.alice.ok(&["ping", "r0"]).contains("  config:  the same options\n"));
    let other =
        fs::read_to_string(&pair.alice.config).expect("it is there").replace(" r0 ", " r1 ");
    pair.alice.config = pair.dir.path().join("other.conf");
    fs::write(&pair.alice.config, other).expect("it is written");
    let said = pair.alice.refused(10, &["ping", "r1"]);
    assert!(said.contains("wrong-resource"), "{said}");
    assert_eq!(pair.bob.ok(&["cstate", "r0"]), "Connecting\n");
}
