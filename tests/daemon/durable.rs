//! What has reached the disks when a reply arrives, as a log of each disk's operations tells it.

use std::path::Path;

use nbd::client::Client;
use nbd::constants::NBD_CMD_FLAG_FUA;

use crate::pair::Pair;
use crate::plan::Plan;
use crate::qsd::{Logged, Rig};

fn rigs(test: &str, dir: &Path) -> Option<[Rig; 2]> {
    Some([Rig::new(test, dir, "alice")?, Rig::new(test, dir, "bob")?])
}

fn pair_on(rigs: &[Rig; 2], sections: &str) -> Pair {
    let plan = Plan::new().disks(&rigs[0].device, &rigs[1].device).sections(sections);
    plan.connected().sync_skipped()
}

/// The block was written, and a flush came after it.
fn is_durable(rig: &Rig, offset: u64) -> bool {
    let all = rig.logged();
    let covers = |one: &Logged| matches!(one, Logged::Write(at, length) if (*at..*at + *length).contains(&offset));
    let written = all.iter().rposition(covers).expect("it was written");
    all[written..].contains(&Logged::Flush)
}

#[test]
fn fua_and_flush_are_durable_on_both_disks_also_for_other_connections() {
    const TEST: &str = "fua_and_flush_are_durable_on_both_disks";
    let dir = tempfile::tempdir().expect("a folder");
    let Some(rigs) = rigs(TEST, dir.path()) else { return };
    let pair = pair_on(&rigs, "");
    let mut clients: Vec<Client> = (0..8).map(|_| pair.alice.client()).collect();
    let offset = |number: usize| (20 << 20) + number as u64 * 4096;
    // Its extent is hot from here on: what follows is not made durable by the activity log.
    clients[0].write(offset(900), &[1; 4096], 0).expect("a write");
    clients[0].flush().expect("a flush");
    for (number, client) in clients.iter_mut().enumerate() {
        client.write(offset(number), &[7; 4096], 0).expect("a write");
    }
    for rig in &rigs {
        assert!(!(0..8).all(|number| is_durable(rig, offset(number))), "nobody asked for it");
    }
    clients[7].flush().expect("a flush");
    for (number, rig) in (0..8).flat_map(|number| rigs.iter().map(move |rig| (number, rig))) {
        assert!(is_durable(rig, offset(number)), "a flush covers what others had answered");
    }
    for (round, client) in clients.iter_mut().enumerate().take(4) {
        let at = offset(100 + round);
        client.write(at, &[8; 4096], NBD_CMD_FLAG_FUA).expect("a durable write");
        assert!(rigs.iter().all(|rig| is_durable(rig, at)), "a durable write");
        let zeroes = offset(200 + 16 * round);
        client.write_zeroes(zeroes, 65536, NBD_CMD_FLAG_FUA).expect("durable zeroes");
        assert!(rigs.iter().all(|rig| is_durable(rig, zeroes)), "durable zeroes");
    }
}

#[test]
fn flushes_that_are_switched_off_are_warned_of_and_never_reach_the_disks() {
    const TEST: &str = "flushes_that_are_switched_off";
    let dir = tempfile::tempdir().expect("a folder");
    let Some(rigs) = rigs(TEST, dir.path()) else { return };
    let pair = pair_on(&rigs, "disk { disk-flushes no; md-flushes no; }");
    let said = pair.alice.adm(&["adjust", "r0"]);
    assert_eq!(said.code, 0, "{said:?}");
    for option in ["disk-flushes", "md-flushes"] {
        assert!(said.stderr.contains(option), "{said:?}");
    }
    let flushes = |rig: &Rig| rig.logged().iter().filter(|one| **one == Logged::Flush).count();
    let before = rigs.each_ref().map(flushes);
    let mut client = pair.alice.client();
    for extent in 0..8 {
        // Each needs an update of the metadata.
        client.write(extent << 22, &[7; 4096], NBD_CMD_FLAG_FUA).expect("a write");
        client.flush().expect("a flush");
    }
    assert_eq!(rigs.each_ref().map(flushes), before, "nothing was flushed");
}

#[test]
fn metadata_alone_is_flushed_where_only_the_data_need_not_be() {
    const TEST: &str = "metadata_alone_is_flushed";
    let dir = tempfile::tempdir().expect("a folder");
    let Some(rigs) = rigs(TEST, dir.path()) else { return };
    let pair = pair_on(&rigs, "disk { disk-flushes no; }");
    let mut client = pair.alice.client();
    client.write(20 << 20, &[7; 4096], 0).expect("a write");
    for rig in &rigs {
        let all = rig.logged();
        // The extent is durably hot before the data is written.
        let data = Logged::Write(20 << 20, 4096);
        let written = all.iter().rposition(|one| *one == data).expect("it was written");
        assert!(all[..written].contains(&Logged::Flush));
    }
    let flushes = |rig: &Rig| rig.logged().iter().filter(|one| **one == Logged::Flush).count();
    let before = rigs.each_ref().map(flushes);
    client.write((20 << 20) + 4096, &[7; 4096], NBD_CMD_FLAG_FUA).expect("a write");
    client.flush().expect("a flush");
    assert_eq!(rigs.each_ref().map(flushes), before, "no data was flushed");
}
