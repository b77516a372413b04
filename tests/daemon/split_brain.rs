//! Both nodes written alone: seen by both, merged by neither, ended by a person.

use std::process::Command;

use crate::ledger::{Burst, Ledger};
use crate::pair::{Node, Pair, run};
use crate::plan::Plan;

/// The time of day where the tests run, as `why` prints it: `14:05:33`.
fn now() -> String {
    run(Command::new("date").arg("+%H:%M:%S")).stdout.trim().to_owned()
}

/// `14:05:33`, whoever's clock it is.
fn is_time(cell: &str) -> bool {
    let bytes = cell.as_bytes();
    bytes.len() >= 8 && bytes[2] == b':' && bytes[5] == b':'
}

#[test]
fn nodes_that_were_written_apart_each_another_volume_are_a_split_brain() {
    let pair = Plan::new().resources(&[("r0", 2)]).in_sync();
    let write = |node: &Node, export: &str, byte: u8| {
        node.client_of(export).write(0, &[byte; 4096], 0).expect("a good copy");
    };
    for export in ["r0/0", "r0/1"] {
        write(&pair.alice, export, 1);
    }
    for node in [&pair.alice, &pair.bob] {
        node.ok(&["disconnect", "--force", "r0"]);
    }
    write(&pair.alice, "r0/0", 2);
    pair.alice.ok(&["secondary", "--wait=20", "r0"]);
    pair.bob.ok(&["primary", "r0"]);
    write(&pair.bob, "r0/1", 3);
    pair.bob.ok(&["secondary", "--wait=20", "r0"]);
    for node in [&pair.alice, &pair.bob] {
        node.ok(&["connect", "r0"]);
    }
    for node in [&pair.alice, &pair.bob] {
        node.wait_connection("StandAlone", "split-brain");
    }
    // The victim gives up both volumes, also the one that it alone has written.
    pair.alice.ok(&["connect", "--discard-my-data", "r0"]);
    pair.bob.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    pair.alice.ok(&["primary", "r0"]);
    for (export, byte) in [("r0/0", 1), ("r0/1", 3)] {
        let found = pair.alice.client_of(export).read(0, 4096).expect("a good copy");
        assert_eq!(found, [byte; 4096], "{export}");
    }
}

#[test]
fn a_split_brain_is_seen_by_both_and_a_person_chooses_the_victim() {
    let pair = Pair::in_sync();
    let mut kept = Ledger::seeded(9);
    assert!(kept.write(&mut pair.alice.client(), &Burst::Count(500)));

    // The link is cut: each node gives up the other without its answer.
    pair.alice.ok(&["disconnect", "--force", "r0"]);
    pair.bob.ok(&["disconnect", "--force", "r0"]);
    pair.bob.ok(&["primary", "r0"]);
    let mut lost = Ledger::seeded(10);
    let before_the_first = now();
    assert!(kept.write(&mut pair.alice.client(), &Burst::Count(400)));
    assert!(lost.write(&mut pair.bob.client(), &Burst::Count(300)));
    pair.bob.ok(&["secondary", "r0"]);
    let before = pair.bob.read_disk(pair.bob.export_size());

    pair.alice.ok(&["connect", "r0"]);
    pair.bob.ok(&["connect", "r0"]);
    for node in [&pair.alice, &pair.bob] {
        node.wait_connection("StandAlone", "split-brain");
        let why = node.ok(&["why", "r0"]);
        assert!(why.contains("SPLIT BRAIN"), "{why}");
        assert!(why.contains("--discard-my-data"), "{why}");
        assert!(why.contains("rule bitmap-both"), "{why}");
        // A line for each side, with what it wrote, since when, and its generation.
        let row = |name: &str| why.lines().find(|line| line.contains(&format!(" {name}  ")));
        for name in ["alice", "bob"] {
            let row = row(name).unwrap_or_else(|| panic!("no line of {name}: {why}"));
            assert!(row.contains(" in ") && row.contains("block"), "{row}");
            // Neither is shown to have written before it did.
            let times = row.split("  ").map(str::trim).filter(|cell| is_time(cell));
            let times: Vec<&str> = times.map(|cell| &cell[..8]).collect();
            assert_eq!(times.len(), 2, "{row}");
            if before_the_first <= now() {
                assert!(*before_the_first <= *times[0] && times[0] <= times[1], "{row}");
            }
        }
        assert!(why.contains("'s clock)"), "{why}");
        assert!(!why.contains("...."), "{why}");
        let check = node.adm(&["check", "r0"]);
        assert_eq!(check.code, 2, "{check:?}");
        assert!(check.stdout.starts_with("CRITICAL: r0 SPLIT BRAIN with "), "{check:?}");
        let said = node.adm(&["up", "r0"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.stderr.contains("stays StandAlone: `tandemadm why r0`"), "{said:?}");
        assert!(node.ok(&["status", "r0"]).contains("connection:StandAlone reason:split-brain"));
        let log = node.log_text();
        let found: Vec<&str> = log.lines().filter(|line| line.contains("Split-Brain")).collect();
        let [line] = found[..] else { panic!("{found:?}") };
        assert!(
            line.contains("unresolved, dropping connection! rule bitmap-both, self "),
            "{line}"
        );
        assert_eq!(
            (line.matches(" bits:").count(), line.matches(" peer ").count()),
            (2, 1),
            "{line}"
        );
    }
    assert!(before == pair.bob.read_disk(pair.bob.export_size()), "nothing was overwritten");
    lost.check_blocks(&before);

    pair.bob.ok(&["connect", "--discard-my-data", "r0"]);
    pair.alice.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    let mut client = pair.alice.client();
    kept.check(&mut client);
    client.flush().expect("a flush");
    pair.assert_equal_disks();
}
