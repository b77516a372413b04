//! Refusals that say that the own disk is an old one: it stays known, also when the other node is gone.

use super::fencing::fences;
use super::pair::{Disk, Pair, SIZE, config, superblock, synced_pair};
use crate::meta::{COUNTER_MAX, DeviceFlags, HISTORY, Superblock};
use crate::resource::*;

/// Node 0 is Primary and its disk has more than `old`, which is node 1's as it was before.
fn with_an_older_image() -> (Pair, Disk) {
    let mut pair = synced_pair();
    let old = pair.nodes[1].disk.clone();
    for value in 100..104u64 {
        assert_eq!(pair.write(0, value, value), Ok(None));
        pair.kill(1);
        pair.up(1);
        pair.synced();
    }
    (pair, old)
}

impl Pair {
    /// Node 0 loses its power, and node 1 is told that it is fenced.
    fn promoted_beside_a_fenced_peer(&mut self) -> AdminResult {
        self.kill(0);
        fences(self, Fencing::ResourceAndStonith);
        let id = self.order(1, Command::Primary { force: None });
        self.run(50);
        if let Some((number, _)) = self.nodes[1].calls.pop() {
            self.event(1, Event::HandlerDone { number, outcome: HandlerOutcome::Exited(7) });
            self.run(50);
        }
        self.nodes[1].admin.remove(&id).expect("answered")
    }

    /// Node 0 does, alone, and node 1 follows.
    fn begins_a_generation(&mut self) {
        self.kill(1);
        self.admin(0, Command::NewCurrentUuid { volume: 0, clear_bitmap: false }).unwrap();
        self.up(1);
        self.synced();
    }

    /// Its disk is an old one, and it knows; also after it has started anew.
    fn stays_old(&mut self) {
        let refusal = self.promoted_beside_a_fenced_peer().unwrap_err();
        assert!(refusal.hint.contains("--force=outdated"), "{refusal:?}");
        self.kill(1);
        self.up(1);
        self.run(50);
        assert_eq!(self.disk(1), DiskState::Outdated);
        self.promoted_beside_a_fenced_peer().unwrap_err();
        self.admin(1, Command::Primary { force: Some(Force::Outdated) }).unwrap();
    }
}

/// Seed 842130.
#[test]
fn a_disk_that_was_set_back_and_refused_is_not_promoted_when_its_peer_is_fenced() {
    for survived in [0, DeviceFlags::SURVIVED] {
        let (mut pair, mut old) = with_an_older_image();
        old.superblock.as_mut().unwrap().flags |= survived;
        pair.kill(1);
        pair.nodes[1].disk = old;
        pair.up(1);
        pair.run(20_000);
        assert_eq!(pair.status(1).connections[0].reason, Reason::RolledBack, "{}", pair.told(1));
        assert_eq!(pair.disk(0), DiskState::UpToDate, "the other one is what it was");
        pair.stays_old();
    }
}

#[test]
fn a_disk_that_comes_back_in_the_place_of_another_one_stays_old() {
    let mut pair = synced_pair();
    let old = pair.nodes[1].disk.clone();
    pair.kill(1);
    let fresh = Superblock { device_uuid: 300, ..superblock(1) };
    pair.nodes[1].disk = Disk { superblock: Some(fresh), ..Disk::default() };
    pair.up(1);
    pair.synced();
    pair.kill(1);
    pair.nodes[1].disk = old;
    pair.up(1);
    pair.run(20_000);
    assert_eq!(pair.status(1).connections[0].reason, Reason::RolledBack, "{}", pair.told(1));
    pair.stays_old();
}

#[test]
fn a_disk_that_was_set_back_and_is_refused_in_an_open_session_stays_old() {
    let (mut pair, old) = with_an_older_image();
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    pair.nodes[1].disk = old;
    pair.attach_later(1);
    pair.run(2_000);
    assert!(pair.told(1).contains("rule rolled-back-self"), "{}", pair.told(1));
    assert_eq!(pair.disk(1), DiskState::Diskless);
    pair.kill(0);
    pair.attach(1).unwrap();
    assert_eq!(pair.disk(1), DiskState::Outdated);
    pair.stays_old();
}

/// The sizes do not fit, whatever the generations say: they have said that the peer has gone on.
#[test]
fn a_disk_that_is_refused_for_its_size_and_is_behind_stays_old() {
    let mut pair = synced_pair();
    pair.kill(1);
    assert_eq!(pair.write(0, 6, 66), Ok(None));
    pair.run(1_000);
    pair.kill(0);
    let superblock = pair.nodes[0].disk.superblock.as_mut().unwrap();
    (superblock.data_size, superblock.effective_size) = (2 * SIZE, 2 * SIZE);
    pair.up(0);
    pair.up(1);
    pair.run(20_000);
    assert!(pair.status(1).connections[0].detail.contains("rule size"), "{}", pair.told(1));
    pair.stays_old();
}

/// Somebody has made the old image the data, by force, and it has gone on from there: no refusal takes that back.
#[test]
fn a_disk_that_was_set_back_and_forced_is_still_the_data_after_a_refusal() {
    let (mut pair, old) = with_an_older_image();
    pair.kill(1);
    pair.nodes[1].disk = old;
    pair.link = false;
    pair.up(1);
    pair.admin(1, Command::Primary { force: Some(Force::Plain) }).unwrap();
    pair.admin(1, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    pair.link = true;
    pair.run(20_000);
    assert_eq!(pair.status(1).connections[0].reason, Reason::RolledBack, "{}", pair.told(1));
    assert_eq!(pair.disk(1), DiskState::UpToDate);
}

/// Neither is whole, and neither is promoted unasked. A person says which one is to be the data.
#[test]
fn of_two_disks_that_were_set_back_one_becomes_the_data_by_the_advice() {
    let (mut pair, old) = with_an_older_image();
    for n in 0..2 {
        pair.kill(n);
    }
    pair.nodes[1].disk = old;
    pair.nodes[1].disk.seen = [COUNTER_MAX / 2; 2];
    for n in 0..2 {
        pair.up(n);
    }
    pair.run(20_000);
    assert!(pair.status(1).connections[0].detail.contains("rolled-back-both"), "{}", pair.told(1));
    assert_eq!([pair.disk(0), pair.disk(1)], [DiskState::Outdated; 2]);
    pair.promoted_beside_a_fenced_peer().unwrap_err();
    pair.up(0);
    pair.run(20_000);
    pair.admin(0, Command::Invalidate { volume: 0 }).unwrap();
    pair.admin(1, Command::Primary { force: Some(Force::Outdated) }).unwrap();
    pair.connect_both();
    pair.synced();
    assert_eq!([0, 1].map(|n| pair.disk(n)), [DiskState::UpToDate; 2], "{}", pair.told(1));
    assert_eq!(pair.block(0, 103), pair.block(1, 103));
}

/// As a disk that this node had before, and that has gone on since.
#[test]
fn an_image_that_is_too_old_for_the_history_of_its_peer_stays_old() {
    for survived in [0, DeviceFlags::SURVIVED] {
        let mut pair = synced_pair();
        pair.begins_a_generation();
        let mut old = pair.nodes[1].disk.clone();
        old.superblock.as_mut().unwrap().flags |= survived;
        for _ in 0..HISTORY + 2 {
            pair.begins_a_generation();
        }
        pair.kill(1);
        pair.nodes[1].disk = old;
        pair.up(1);
        pair.run(20_000);
        assert_eq!(pair.status(1).connections[0].reason, Reason::RolledBack, "{}", pair.told(1));
        pair.stays_old();
    }
}

/// The configurations differ, whatever the generations say: they have said that the peer has gone on.
#[test]
fn a_disk_that_is_refused_for_an_option_and_is_behind_stays_old() {
    let mut pair = synced_pair();
    pair.kill(1);
    assert_eq!(pair.write(0, 6, 66), Ok(None));
    pair.link = false;
    pair.up(1);
    let mut options = Box::new(config(1).options);
    options.after_sb_0pri = AfterSb0Pri::DiscardZeroChanges;
    let command = Command::SetOptions { options, volumes: std::collections::BTreeMap::new() };
    pair.admin(1, command).unwrap();
    pair.link = true;
    pair.run(20_000);
    assert_eq!(pair.status(1).connections[0].reason, Reason::ConfigDiffers, "{}", pair.told(1));
    pair.stays_old();
}
