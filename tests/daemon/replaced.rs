//! `daemon restart` under load: another program in the same process, and no client notices more than
//! a pause.

use crate::ledger::Ledger;
use crate::load::Load;
use crate::pair::Pair;

#[test]
fn the_secondary_is_restarted_under_load() {
    let pair = Pair::in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    let load = Load::start(alice.client(), Ledger::seeded(61));
    load.progress(200);
    println!("{}", bob.ok(&["daemon", "restart"]));
    load.progress(200);
    pair.wait_connected();
    pair.wait_synced();
    let (mut ledger, mut client) = load.stop();
    ledger.check(&mut client);
    client.flush().expect("a flush");
    pair.assert_equal_disks();
}

#[test]
fn the_primary_is_restarted_under_load() {
    let pair = Pair::in_sync();
    let (alice, bob) = (&pair.alice, &pair.bob);
    let load = Load::start(alice.client(), Ledger::seeded(62));
    load.progress(200);
    for _ in 0..3 {
        println!("{}", alice.ok(&["daemon", "restart"]));
        load.progress(200);
    }
    let (mut ledger, mut client) = load.stop();
    ledger.check(&mut client);
    client.flush().expect("a flush");
    assert_eq!(bob.full_syncs(), 1);
    pair.wait_synced();
    pair.assert_equal_disks();
}
