//! What the history excuses, and what is next to it and must not be.

use super::{Excuse, History, Rests};
use crate::sim::disk::SimDisk;
use crate::sim::pool::Origin;
use crate::sim::prng::Prng;

const ALICE: usize = 0;
const BOB: usize = 1;

/// Bob serves a write; both disks have it, in their caches.
struct Pair {
    history: History,
    disks: [SimDisk; 2],
}

impl Pair {
    fn read(&mut self, value: u64) -> Result<(), String> {
        let rests = Rests { on: BOB, disks: [true, true] };
        let op = self.history.read_starts(1, 0, (3, 1), rests);
        self.history.read_answered(&op, &[value], rests, [&self.disks[0], &self.disks[1]])
    }

    fn new() -> Self {
        let mut history = History::default();
        history.session_opened(1);
        Self { history, disks: [SimDisk::new(8, Vec::new()), SimDisk::new(8, Vec::new())] }
    }

    /// A write reaches both disks; `meanwhile` happens before its client is told.
    fn write(&mut self, meanwhile: impl FnOnce(&mut Self)) {
        let op = self.history.write_starts(1, 0, (3, 1), false, None);
        for disk in &mut self.disks {
            disk.write(3, &[op.value], false);
        }
        meanwhile(self);
        let rests = Rests { on: BOB, disks: [true, true] };
        let disks = [&self.disks[0], &self.disks[1]];
        self.history.write_answered(&op, rests, false, disks).unwrap();
    }

    /// The power goes; the cache of the disk is `kept` by luck, or lost.
    fn lose_power(&mut self, node: usize, kept: bool) {
        let old = self.disks[node].clone();
        let held = old.read(3, 1)[0];
        let done = (0..100).any(|seed| {
            self.disks[node] = old.clone();
            self.disks[node].lose_power(&mut Prng::new(seed, 1), None);
            (self.disks[node].read(3, 1)[0] == held) == kept
        });
        assert!(done, "some power loss does this");
        self.history.power_lost(node, 0, &self.disks[node]).unwrap();
    }

    fn in_sync(&mut self) {
        let disks = [&self.disks[0], &self.disks[1]];
        self.history.in_sync(0, disks).unwrap();
    }

    /// Alice becomes the target of Bob.
    fn alice_adopts(&mut self) -> Result<u64, String> {
        let before = self.history.excused.both;
        self.history.adopted(ALICE, 0, &self.disks[BOB], Excuse::default())?;
        Ok(self.history.excused.both - before)
    }
}

#[test]
fn what_alice_kept_by_luck_may_go_when_bob_lost_it_too() {
    let mut pair = Pair::new();
    pair.write(|_| {});
    pair.lose_power(ALICE, true);
    pair.lose_power(BOB, false);
    assert_eq!(pair.alice_adopts(), Ok(1));
}

#[test]
fn the_same_when_alice_fell_before_the_answer_was_given() {
    let mut pair = Pair::new();
    pair.write(|pair| pair.lose_power(ALICE, true));
    pair.lose_power(BOB, false);
    assert_eq!(pair.alice_adopts(), Ok(1));
}

#[test]
fn one_lost_cache_is_no_excuse() {
    let mut pair = Pair::new();
    pair.write(|_| {});
    pair.lose_power(BOB, false);
    let error = pair.alice_adopts().unwrap_err();
    assert!(error.contains("acknowledged by both, unflushed"), "{error}");
}

#[test]
fn luck_is_no_excuse_for_a_source_that_had_its_cache() {
    let mut pair = Pair::new();
    pair.lose_power(BOB, true);
    pair.write(|_| {});
    pair.lose_power(ALICE, true);
    pair.disks[BOB].write(3, &[0], true);
    let error = pair.alice_adopts().unwrap_err();
    assert!(error.contains("overwrites acknowledged write"), "{error}");
}

#[test]
fn a_loss_that_was_dealt_with_is_no_excuse() {
    let mut pair = Pair::new();
    pair.write(|_| {});
    pair.lose_power(ALICE, true);
    pair.in_sync();
    pair.lose_power(BOB, false);
    let error = pair.alice_adopts().unwrap_err();
    assert!(error.contains("overwrites acknowledged write"), "{error}");
}

#[test]
fn a_flushed_write_is_never_excused() {
    let mut pair = Pair::new();
    pair.write(|_| {});
    let op = pair.history.flush_starts(1, 0);
    for disk in &mut pair.disks {
        let stamp = disk.flush_begins();
        disk.flush_ends(stamp);
    }
    let rests = Rests { on: BOB, disks: [true, true] };
    let disks = [&pair.disks[0], &pair.disks[1]];
    pair.history.flush_answered(&op, rests, disks).unwrap();
    pair.lose_power(ALICE, true);
    pair.lose_power(BOB, true);
    pair.disks[BOB].write(3, &[0], true);
    let error = pair.alice_adopts().unwrap_err();
    assert!(error.contains("acknowledged by both, flushed"), "{error}");
}

#[test]
fn what_was_adopted_from_a_source_that_was_set_back_meanwhile_is_excused_and_counted() {
    for set_back in [false, true] {
        let mut pair = Pair::new();
        pair.write(|_| {});
        pair.disks[BOB].write(3, &[0], true);
        let excuse = Excuse { set_back, ..Excuse::default() };
        let result = pair.history.adopted(ALICE, 0, &pair.disks[BOB], excuse);
        assert_eq!(result.is_ok(), set_back, "{result:?}");
        assert_eq!(pair.history.excused.set_back, u64::from(set_back));
    }
}

#[test]
fn a_disk_that_was_set_back_answers_for_nothing_that_was_answered_after_its_image_was_taken() {
    for late in [false, true] {
        let mut pair = Pair::new();
        // It fails, and is on Alice's disk only. Whether it is done once more is known later.
        let failed = pair.history.write_starts(1, 0, (3, 1), false, None);
        pair.disks[ALICE].write(3, &[failed.value], false);
        pair.history.write_failed(&failed);
        let (mut image, mut taken) = (pair.disks[ALICE].image(), pair.history.now());
        pair.history.session_opened(2);
        let op = pair.history.write_starts(2, 0, (3, 1), false, None);
        pair.disks[ALICE].write(3, &[op.value], false);
        let rests = Rests { on: ALICE, disks: [true, false] };
        let disks = [&pair.disks[0], &pair.disks[1]];
        pair.history.write_answered(&op, rests, false, disks).unwrap();
        if late {
            (image, taken) = (pair.disks[ALICE].image(), pair.history.now());
        }
        pair.disks[ALICE] = image;
        pair.history.rolled_back(ALICE, 0, &pair.disks[ALICE], taken);
        assert_eq!(pair.history.excused.set_back, u64::from(!late));
        // A resync with what Bob has: nothing.
        let held = [pair.disks[ALICE].read(3, 1)[0]];
        let landed = pair.history.landed(ALICE, 0, (3, &[0]), &held, Origin::Resync);
        assert_eq!(landed.is_err(), late, "{landed:?}");
    }
}

#[test]
fn zeroes_of_an_older_image_are_not_those_that_were_written_later() {
    let mut pair = Pair::new();
    let (image, taken) = (pair.disks[ALICE].image(), pair.history.now());
    let rests = Rests { on: ALICE, disks: [true, false] };
    let op = pair.history.write_starts(1, 0, (3, 1), false, None);
    pair.disks[BOB].write(3, &[op.value], false);
    let zeroes = pair.history.write_starts(1, 0, (3, 1), true, None);
    let disks = [&pair.disks[0], &pair.disks[1]];
    pair.history.write_answered(&zeroes, rests, false, disks).unwrap();
    pair.disks[ALICE] = image;
    pair.history.rolled_back(ALICE, 0, &pair.disks[ALICE], taken);
    assert_eq!(pair.history.duties(0, ALICE, 3).count(), 0);
    assert_eq!(pair.history.excused.set_back, 1);
}

#[test]
fn what_was_flushed_at_a_loss_must_stay_only_when_it_is_durable_that_its_node_survived() {
    for recorded in [false, true] {
        let mut pair = Pair::new();
        pair.write(|_| {});
        pair.lose_power(BOB, false);
        let stamp = pair.disks[ALICE].flush_begins();
        pair.disks[ALICE].flush_ends(stamp);
        pair.history.survives(ALICE, 0, &pair.disks[ALICE]).unwrap();
        if recorded {
            pair.history.survived(ALICE, 0, &pair.disks[ALICE]);
        }
        pair.lose_power(ALICE, true);
        assert_eq!(pair.alice_adopts().is_err(), recorded);
    }
}

#[test]
fn what_was_read_from_a_disk_that_was_replaced_meanwhile_binds_nobody_and_is_counted() {
    for replaced in [true, false] {
        let mut pair = Pair::new();
        let write = pair.history.write_starts(1, 0, (3, 1), false, None);
        pair.disks[ALICE].write(3, &[write.value], false);
        let rests = Rests { on: ALICE, disks: [true, false] };
        let read = pair.history.read_starts(1, 0, (3, 1), rests);
        if replaced {
            pair.disks[ALICE] = SimDisk::new(8, Vec::new());
            pair.history.forgotten(ALICE, 0);
        }
        let disks = [&pair.disks[0], &pair.disks[1]];
        pair.history.read_answered(&read, &[write.value], rests, disks).unwrap();
        // A resync with what Bob has: nothing.
        let landed = pair.history.landed(ALICE, 0, (3, &[0]), &[write.value], Origin::Resync);
        assert_eq!(landed.is_ok(), replaced, "{landed:?}");
        assert_eq!(pair.history.excused.replaced, u64::from(replaced));
    }
}

#[test]
fn what_a_disk_was_found_with_is_read_until_somebody_writes_there() {
    const FOUND: u64 = 1 << 50;
    let mut pair = Pair::new();
    assert!(pair.read(FOUND).is_err(), "nobody has gained anything");
    pair.history.grew(0, (3, 8), FOUND);
    assert_eq!(pair.read(FOUND), Ok(()));
    assert!(pair.read(FOUND + 1).is_err(), "that was not there");
    pair.write(|_| {});
    assert!(pair.read(FOUND).is_err(), "it was overwritten");
    assert_eq!(pair.history.beyond(BOB, 0, 3), Some(3));
    assert_eq!(pair.history.beyond(BOB, 0, 4), None);
}

#[test]
fn a_write_that_is_sent_again_may_be_done_twice_and_ends_with_its_answer() {
    let mut pair = Pair::new();
    let mut op = pair.history.write_starts(1, 0, (3, 1), false, None);
    pair.history.kept(&op);
    pair.history.session_closed(1);
    pair.history.session_opened(1);
    assert_eq!(pair.read(op.value), Ok(()), "it was done before its session ended");
    pair.write(|_| {});
    pair.history.sent_again(&mut op, 1);
    for disk in &mut pair.disks {
        disk.write(3, &[op.value], false);
    }
    assert_eq!(pair.read(op.value), Ok(()), "and once more");
    let rests = Rests { on: BOB, disks: [true, true] };
    pair.history.write_answered(&op, rests, false, [&pair.disks[0], &pair.disks[1]]).unwrap();
    pair.write(|_| {});
    assert!(pair.read(op.value).is_err(), "a newer one was answered");
}

#[test]
fn what_a_read_may_still_return_is_not_forgotten_while_many_write_there() {
    let mut pair = Pair::new();
    pair.write(|_| {});
    let rests = Rests { on: BOB, disks: [true, true] };
    let old = pair.disks[BOB].read(3, 1)[0];
    let read = pair.history.read_starts(1, 0, (3, 1), rests);
    assert_eq!(read.horizon, old, "what it may return began there");
    for _ in 0..100 {
        let op = pair.history.write_starts(1, 0, (3, 1), false, Some(read.horizon));
        pair.disks.iter_mut().for_each(|disk| disk.write(3, &[op.value], false));
        let disks = [&pair.disks[0], &pair.disks[1]];
        pair.history.write_answered(&op, rests, false, disks).unwrap();
    }
    let disks = [&pair.disks[0], &pair.disks[1]];
    assert_eq!(pair.history.read_answered(&read, &[old], rests, disks), Ok(()));
}

/// Zeroes and a write that overlap in time are both answered, and the write was held back behind the zeroes.
#[test]
fn zeroes_that_have_ended_do_not_land_over_a_write_that_was_held_back_for_them() {
    let rests = Rests { on: BOB, disks: [true, true] };
    for (ended, origin) in [
        (true, Origin::Client),
        (false, Origin::Client),
        // A resync makes zeroes of what the source holds.
        (true, Origin::Resync),
    ] {
        let mut pair = Pair::new();
        let zeroes = pair.history.write_starts(1, 0, (3, 1), true, None);
        let op = pair.history.write_starts(1, 0, (3, 1), false, None);
        let disks = [&pair.disks[0], &pair.disks[1]];
        if ended {
            pair.history.write_answered(&zeroes, rests, false, disks).unwrap();
        }
        pair.disks.iter_mut().for_each(|disk| disk.write(3, &[op.value], false));
        let disks = [&pair.disks[0], &pair.disks[1]];
        pair.history.write_answered(&op, rests, false, disks).unwrap();
        let landed = pair.history.landed(ALICE, 0, (3, &[0]), &[op.value], origin);
        assert_eq!(landed.is_err(), ended && origin == Origin::Client, "{ended} {landed:?}");
    }
}

#[test]
fn zeroes_land_over_no_newer_write_whoever_has_written_zeroes_there_or_nobody() {
    let rests = Rests { on: BOB, disks: [true, true] };
    for older in [true, false] {
        let mut pair = Pair::new();
        if older {
            let zeroes = pair.history.write_starts(1, 0, (3, 1), true, None);
            let disks = [&pair.disks[0], &pair.disks[1]];
            pair.history.write_answered(&zeroes, rests, false, disks).unwrap();
        }
        pair.write(|_| {});
        let held = [pair.disks[ALICE].read(3, 1)[0]];
        for origin in [Origin::Client, Origin::Resync] {
            let landed = pair.history.landed(ALICE, 0, (3, &[0]), &held, origin);
            assert!(landed.is_err(), "{older} {origin:?}");
        }
    }
}

#[test]
fn what_was_answered_after_a_force_is_not_put_aside_by_it() {
    for late in [false, true] {
        let mut pair = Pair::new();
        pair.write(|_| {});
        let mut forced = pair.history.forced(ALICE, 0, &pair.disks[ALICE]);
        if late {
            pair.write(|_| {});
        }
        pair.disks[BOB].write(3, &[0], true);
        let excuse = |forced| Excuse { forced, ..Excuse::default() };
        let adopts = |forced| {
            let mut history = pair.history.clone();
            history.adopted(ALICE, 0, &pair.disks[BOB], excuse(forced)).is_ok()
        };
        assert!(!adopts(0), "nothing was forced");
        assert_eq!(adopts(forced), !late);
        forced = pair.history.forced(ALICE, 0, &pair.disks[ALICE]);
        pair.disks[ALICE].write(3, &[0], true);
        let mut promoted =
            |aside| pair.history.promoted(ALICE, 0, &pair.disks[ALICE], false, aside);
        assert!(promoted(0).is_err());
        assert_eq!(promoted(forced), Ok(()));
        pair.write(|_| {});
        pair.disks[ALICE].write(3, &[0], true);
        let disk = &pair.disks[ALICE];
        let result = pair.history.promoted(ALICE, 0, disk, false, forced);
        assert!(result.is_err(), "Bob was answered for it after that");
    }
}

#[test]
fn a_victim_that_is_said_to_have_changed_nothing_has_changed_nothing() {
    for alone in [false, true] {
        for unchanged in [false, true] {
            let mut pair = Pair::new();
            let op = pair.history.write_starts(1, 0, (3, 1), false, None);
            pair.disks[ALICE].write(3, &[op.value], false);
            pair.disks[BOB].write(3, &[if alone { 0 } else { op.value }], false);
            let rests = Rests { on: ALICE, disks: [true, !alone] };
            let disks = [&pair.disks[0], &pair.disks[1]];
            pair.history.write_answered(&op, rests, false, disks).unwrap();
            let excuse = Excuse { chosen: true, unchanged, ..Excuse::default() };
            let result = pair.history.adopted(ALICE, 0, &pair.disks[BOB], excuse);
            assert_eq!(result.is_err(), alone && unchanged, "{result:?}");
        }
    }
}

#[test]
fn what_is_durable_is_not_held_by_luck_after_an_error_of_its_disk() {
    for flushed in [false, true] {
        let mut pair = Pair::new();
        pair.write(|_| {});
        if flushed {
            let stamp = pair.disks[ALICE].flush_begins();
            pair.disks[ALICE].flush_ends(stamp);
            pair.history.survived(ALICE, 0, &pair.disks[ALICE]);
        }
        pair.history.attached(ALICE, 0, &pair.disks[ALICE], true).unwrap();
        pair.lose_power(BOB, false);
        assert_eq!(pair.alice_adopts().is_err(), flushed);
    }
}
