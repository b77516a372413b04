//! Disks that fail under a daemon: EIO and ENOSPC of reads, writes, flushes and metadata, on either
//! node, under load. No client sees an error while one good copy can be reached.

use std::path::Path;

use nbd::Errno;

use crate::ledger::{Burst, Ledger};
use crate::load::Load;
use crate::pair::{Node, Pair};
use crate::plan::Plan;
use crate::qsd::{Fault, Rig};
use crate::wait::until;

/// A pair of which one node has a disk that fails to order.
fn pair_with(test: &str, dir: &Path, who: usize) -> Option<(Rig, Pair)> {
    let rig = Rig::new(test, dir, "rig")?;
    let (mut alice, mut bob) = (dir.join("alice.img"), dir.join("bob.img"));
    *[&mut alice, &mut bob][who] = rig.device.clone();
    let pair = Plan::new().disks(&alice, &bob).connected().sync_skipped();
    Some((rig, pair))
}

fn wait_dstate(node: &Node, wanted: &str) {
    until(&format!("{} is {wanted}", node.name), || (node.dstate() == wanted).then_some(()));
}

/// One fault after the other on the disk of one node, healed and attached again in between.
fn faults_under_load(test: &str, who: usize, faults: &[Fault]) {
    let dir = tempfile::tempdir().expect("a folder");
    let Some((mut rig, pair)) = pair_with(test, dir.path(), who) else { return };
    let nodes = [&pair.alice, &pair.bob];
    let (failing, other) = (nodes[who], nodes[1 - who]);
    let mut reader = pair.alice.client();
    let mut ledger = Ledger::within(1, 60);
    let mut client = pair.alice.client();
    let mut extent = 0;
    assert!(ledger.write(&mut client, &Burst::Count(300)));
    for fault in faults {
        let mut load = Load::start(client, ledger);
        load.progress(64);
        if *fault == Fault::OneFlush {
            // Of a FLUSH, and not of a durable write, which is a flush here, too.
            (ledger, client) = load.stop();
            let mut write = || reader.write(8 << 20, &[8; 4096], 0).expect("no error");
            // Its extent is hot then: the next one changes no metadata.
            write();
            rig.fail(*fault);
            write();
            reader.flush().expect("no error reaches the client");
            load = Load::start(client, ledger);
        } else {
            rig.fail(*fault);
        }
        until(&format!("{}'s disk is given up: {fault:?}", failing.name), || {
            // What makes it meet the fault, beside the load.
            reader.read(40 << 20, 4096).expect("no error reaches the client");
            if *fault == Fault::MetadataWrites {
                // A new extent of the activity log.
                extent += 1;
                let offset = (12 << 20) + (extent << 22);
                reader.write(offset, &[9; 4096], 0).expect("no error reaches the client");
            }
            reader.flush().expect("no error reaches the client");
            (failing.dstate() == "Diskless/UpToDate").then_some(())
        });
        wait_dstate(other, "UpToDate/Diskless");
        load.progress(100);
        (ledger, client) = load.stop();
        client.flush().expect("a flush of the good copy");
        assert_eq!(pair.alice.connection()["connection-state"], "Connected");
        // It says what happened, and to which disk.
        assert!(failing.log_text().contains("error"), "{fault:?} is in the log");

        rig.heal();
        let before = failing.peer_kib("received");
        failing.ok(&["attach", "r0"]);
        assert!(ledger.write(&mut client, &Burst::Count(100)), "while it is a target");
        pair.wait_synced();
        let moved = failing.peer_kib("received") - before;
        assert!(moved < 32 << 10, "{fault:?}: {moved} KiB moved: a quick resync");
        client.flush().expect("a flush of both");
        ledger.check(&mut client);
        pair.assert_equal_disks();
    }
    ledger.check_blocks(&pair.bob.read_disk(pair.bob.export_size()));
}

#[test]
fn a_failing_disk_of_the_primary_is_given_up_and_no_client_sees_an_error() {
    let faults = [Fault::Writes, Fault::Reads, Fault::OneFlush, Fault::MetadataWrites, Fault::Full];
    faults_under_load("a_failing_disk_of_the_primary", 0, &faults);
}

#[test]
fn a_failing_disk_of_the_secondary_is_given_up_and_no_client_sees_an_error() {
    // Nothing reads the disk of a Secondary.
    let faults = [Fault::Writes, Fault::OneFlush, Fault::MetadataWrites, Fault::Full];
    faults_under_load("a_failing_disk_of_the_secondary", 1, &faults);
}

#[test]
fn a_disk_that_fails_with_no_other_copy_is_an_error_at_once_and_nothing_is_lost() {
    const TEST: &str = "a_disk_that_fails_with_no_other_copy";
    let dir = tempfile::tempdir().expect("a folder");
    let Some((mut rig, pair)) = pair_with(TEST, dir.path(), 0) else { return };
    let mut client = pair.alice.client();
    let mut ledger = Ledger::within(3, 61);
    assert!(ledger.write(&mut client, &Burst::Count(300)));
    pair.alice.ok(&["disconnect", "r0"]);
    assert!(ledger.write(&mut client, &Burst::Count(300)), "alone");
    client.flush().expect("a flush");

    rig.fail(Fault::Writes);
    let error = client.write(30 << 20, &[1; 4096], 0).expect_err("no copy is left");
    assert_eq!(error.errno(), Some(Errno::EIO), "{error}");
    let error = client.read(0, 4096).expect_err("no copy is left");
    assert_eq!(error.errno(), Some(Errno::EIO), "{error}");
    assert!(pair.alice.dstate().starts_with("Diskless/"), "{}", pair.alice.dstate());

    rig.heal();
    pair.alice.ok(&["attach", "r0"]);
    let mut client = pair.alice.client();
    ledger.check(&mut client);
    assert!(ledger.write(&mut client, &Burst::Count(100)));
    pair.alice.ok(&["connect", "r0"]);
    pair.bob.ok(&["connect", "r0"]);
    pair.wait_connected();
    pair.wait_synced();
    client.flush().expect("a flush of both");
    ledger.check(&mut client);
    pair.assert_equal_disks();
}
