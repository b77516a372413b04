//! Stories in which a disk does not answer, cannot be read or has no room: nothing waits for ever.

use super::pair::{Disk, Pair, SIZE, frozen_pair, passing_pair, superblock, synced_pair};
use crate::meta::{JUST_CREATED, MetaOp, Superblock};
use crate::resource::*;

impl Pair {
    /// Blocks are written on node 0 while node 1 is away.
    fn diverge(&mut self, blocks: std::ops::Range<u64>) {
        self.link = false;
        self.cut();
        for block in blocks {
            self.write(0, block, 1000 + block).unwrap();
        }
    }

    fn replication(&self, n: usize) -> ReplicationState {
        self.status(n).connections[0].peer_devices[0].replication_state
    }

    fn logged(&self, n: usize, what: &str) -> usize {
        self.nodes[n].log.iter().filter(|line| line.contains(what)).count()
    }
}

/// Bob is to be synced, and his disk answers no write.
fn target_that_hangs() -> Pair {
    let mut pair = synced_pair();
    pair.diverge(20..24);
    pair.nodes[1].stall =
        |action| matches!(action, Action::DiskWrite { .. } | Action::DiskZeroes { .. });
    pair.link = true;
    pair
}

#[test]
fn blocks_that_cannot_be_read_are_tried_again_after_a_pause_and_copied_when_they_can() {
    let mut pair = passing_pair();
    pair.diverge(20..24);
    // One block of the source is bad.
    pair.nodes[0].fail = |action| {
        matches!(action, Action::DiskRead { offset, length, .. }
            if *offset <= 22 * 4096 && 22 * 4096 < offset + u64::from(*length))
    };
    pair.link = true;
    pair.run(60_000);
    assert_eq!(pair.replication(1), ReplicationState::SyncTarget);
    assert_eq!(pair.status(1).devices[0].disk_state, DiskState::Inconsistent);
    let tries = pair.logged(1, "the source cannot read");
    assert!((3..=12).contains(&tries), "{tries} tries in a minute");
    assert!(pair.logged(1, "tried again every 10 s") > 0);
    // Writes go on meanwhile.
    assert_eq!(pair.write(0, 30, 1), Ok(None));
    pair.nodes[0].fail = |_| false;
    pair.synced();
}

#[test]
fn a_target_whose_disk_hangs_is_dropped_after_ko_count_and_writes_go_on() {
    let mut pair = target_that_hangs();
    // The source holds the range for the target.
    pair.run(5_000);
    assert_eq!(pair.replication(0), ReplicationState::SyncSource);
    let id = pair.write_later(0, 21, 9);
    pair.run(50_000);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)), "{:?}", pair.nodes[0].log);
    assert!(pair.logged(0, "NetworkFailure") + pair.logged(0, "Timeout") > 0);
    pair.nodes[1].unstall();
    pair.synced();
}

#[test]
fn a_write_waits_for_what_a_source_that_lost_its_disk_has_sent_and_the_target_still_writes() {
    let mut pair = target_that_hangs();
    pair.run(2_000);
    assert_eq!(pair.replication(0), ReplicationState::SyncSource);
    // It waits for the range that the source holds, until that lets go of it.
    pair.start_write(0, 21, 9);
    pair.order(0, Command::Detach { volume: 0, force: true });
    pair.run(8_000);
    assert_eq!(pair.replication(1), ReplicationState::Established);
    let of_block = |(_, first, end): &&(_, u64, u64)| *first <= 21 * 4096 && 21 * 4096 < *end;
    let writes = pair.nodes[1].writing.iter().filter(of_block).count();
    assert_eq!(writes, 1, "{:?}", pair.nodes[1].writing);
    pair.nodes[1].unstall();
    pair.run(1_000);
    assert_eq!(pair.nodes[1].disk.blocks[&21], 9);
}

#[test]
fn requests_of_a_resync_whose_target_lost_its_disk_do_not_end_the_session() {
    let mut pair = synced_pair();
    pair.diverge(20..24);
    pair.nodes[1].fail =
        |action| matches!(action, Action::DiskWrite { .. } | Action::DiskZeroes { .. });
    // The source's reads hang: its answers come late or never.
    pair.nodes[0].stall = |action| matches!(action, Action::DiskRead { .. });
    pair.link = true;
    pair.run(2_000);
    assert_eq!(pair.replication(1), ReplicationState::SyncTarget);
    pair.write(0, 40, 4).unwrap();
    pair.run(100_000);
    assert_eq!(pair.status(1).devices[0].disk_state, DiskState::Diskless);
    let connection = &pair.status(1).connections[0];
    assert_eq!(connection.connection_state, ConnectionState::Connected);
    assert_eq!(pair.logged(1, "ko-count"), 0);
    pair.nodes[0].unstall();
    pair.nodes[1].fail = |_| false;
    pair.run(100);
    pair.attach(1).unwrap();
    pair.synced();
}

#[test]
fn a_demotion_that_waits_for_a_disk_is_refused_after_a_while_and_works_later() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = |action| matches!(action, Action::DiskWrite { .. });
    pair.write_later(0, 21, 9);
    pair.event(
        0,
        Event::Admin { id: 900, command: Command::Secondary { force: true, wait_ms: 0 } },
    );
    pair.run(29_000);
    assert_eq!(pair.nodes[0].admin.get(&900), None);
    pair.run(2_000);
    let refusal = pair.nodes[0].admin.remove(&900).expect("answered").expect_err("refused");
    assert_eq!(refusal.code, -23, "{refusal:?}");
    assert_eq!(pair.status(0).role, Role::Primary);
    pair.nodes[0].unstall();
    pair.run(100);
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.synced();
}

#[test]
fn a_disk_that_fails_in_the_flush_of_a_demotion_is_recorded_before_it_ends() {
    let mut pair = synced_pair();
    assert_eq!(pair.write(0, 7, 77), Ok(None));
    let before = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
    // The Secondary's disk fails in the flush: what was written rests on one disk.
    pair.nodes[1].fail = |action| matches!(action, Action::DiskFlush { .. });
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    let after = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
    assert_ne!(before & !1, after & !1, "{}", pair.nodes[0].log.join("\n"));
    pair.nodes[1].fail = |_| false;
    pair.run(100);
    pair.attach(1).unwrap();
    pair.synced();
}

#[test]
fn a_peer_that_never_sends_its_handshake_does_not_hold_the_writes_of_a_primary() {
    let mut pair = synced_pair();
    // Its disk hangs in a write of the lost session: it cannot say what it has.
    pair.nodes[1].stall = |action| matches!(action, Action::DiskWrite { .. });
    let id = pair.write_later(0, 21, 9);
    pair.settle();
    pair.cut();
    for second in 0..100 {
        pair.run(1000);
        assert_eq!(pair.write(0, 30, second), Ok(None), "after {second} s");
    }
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    pair.nodes[1].unstall();
    pair.synced();
}

#[test]
fn two_primaries_that_meet_find_the_split_brain_whoever_speaks_first() {
    let mut pair = synced_pair();
    pair.link = false;
    pair.cut();
    pair.primary(1, false);
    assert_eq!(pair.write(0, 7, 1), Ok(None));
    assert_eq!(pair.write(1, 8, 2), Ok(None));
    pair.link = true;
    pair.run(12_000);
    for n in 0..2 {
        let connection = &pair.status(n).connections[0];
        assert_eq!(connection.reason, Reason::SplitBrain, "{:?}", pair.nodes[n].log);
        assert_eq!(connection.connection_state, ConnectionState::StandAlone);
    }
}

// ---- who may be left, and who may be promoted ----

#[test]
fn the_only_copy_under_a_primary_without_a_disk_is_let_go_of_by_force_only() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    for command in [
        Command::Detach { volume: 0, force: false },
        Command::Disconnect { peer: 0, force: false, for_ms: None },
        Command::Down { shutdown: false },
    ] {
        let refusal = pair.admin(1, command).expect_err("the only copy");
        assert_eq!(refusal.code, -2, "{refusal:?}");
    }
    assert_eq!(pair.write(0, 9, 9), Ok(None));
    // The daemon ends: what it holds stays the newest.
    pair.admin(1, Command::Down { shutdown: true }).unwrap();
    pair.kill(1);
    pair.up(1);
    pair.run(5000);
    pair.attach(0).unwrap();
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks.get(&9), Some(&9));
}

#[test]
fn a_secondary_that_slept_while_its_primary_went_on_is_not_promoted_without_force() {
    let mut pair = synced_pair();
    pair.link = false;
    pair.now = pair.now.after_ms(16_000);
    pair.event(1, Event::ClockGap { gap_ms: 16_000 });
    pair.cut();
    pair.run(100);
    assert_eq!(pair.write(0, 9, 9), Ok(None));
    pair.kill(0);
    pair.run(1000);
    let refusal = pair.admin(1, Command::Primary { force: None }).expect_err("it slept");
    assert_eq!(refusal.code, -2, "{refusal:?}");
    pair.link = true;
    pair.up(0);
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&9), Some(&9));
}

/// The Primary has no other copy, and waits for its answer as it does for a slow one.
#[test]
fn a_secondary_that_stood_still_for_a_moment_keeps_its_connections() {
    for silent_ms in [1_600, 5_900] {
        let mut pair = synced_pair();
        pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
        pair.write(0, 9, 8).unwrap();
        let before = pair.status(1).connections[0].sessions;
        // It had just asked whether the Primary is there, say.
        pair.nodes[1].core.as_mut().unwrap().ping(0);
        pair.nodes[1].stall = |_| true;
        let id = pair.start_write(0, 9, 9);
        pair.now = pair.now.after_ms(silent_ms);
        pair.event(1, Event::ClockGap { gap_ms: silent_ms });
        pair.nodes[1].unstall();
        pair.run(100);
        assert_eq!(pair.nodes[0].replies.remove(&id), Some(Ok(None)), "{}", pair.story());
        let after = pair.status(1).connections[0].sessions;
        assert_eq!(before, after, "{}", pair.story());
    }
}

#[test]
fn a_frozen_primary_serves_again_when_its_data_was_chosen_and_not_before() {
    let mut pair = frozen_pair();
    pair.event(0, Event::ClockGap { gap_ms: 3000 });
    pair.link = true;
    pair.run(20_000);
    let refusal = pair.admin(0, Command::Primary { force: None }).expect_err("the peer went on");
    assert_eq!(refusal.code, -2, "{refusal:?}");
    // Demoted, it is not promoted over newer data.
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.admin(0, Command::Primary { force: None }).expect_err("the peer went on");
    pair.connect_both();
    pair.synced();
}

#[test]
fn a_primary_without_a_disk_drops_a_peer_that_never_stores_its_uuid() {
    let mut pair = synced_pair();
    pair.nodes[0].fail = |action| matches!(action, Action::DiskRead { .. });
    pair.request(0, 5000, Op::Read { offset: 7 * 4096, length: 4096 }).unwrap();
    pair.nodes[0].fail = |_| false;
    assert_eq!(pair.disk(0), DiskState::Diskless);
    pair.nodes[1].stall = |action| matches!(action, Action::Meta { op: MetaOp::Superblock(_), .. });
    let id = pair.start_write(0, 20, 1);
    pair.run(50_000);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Err(ReplyError::Io)), "no copy is left");
    assert!(pair.logged(0, "Timeout") > 0, "{}", pair.nodes[0].log.join("\n"));
    pair.nodes[1].unstall();
    pair.run(10_000);
    assert_eq!(pair.write(0, 21, 1), Ok(None));
}

#[test]
fn a_disk_that_hangs_is_left_by_force_and_its_clients_go_on_with_the_peer() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = |_| true;
    let write = pair.start_write(0, 21, 9);
    let read = 5000;
    pair.request_later(0, read, Op::Read { offset: 5 * 4096, length: 4096 });
    let flush = 5001;
    pair.request_later(0, flush, Op::Flush);
    let command = |force| Command::Detach { volume: 0, force };
    let detach = pair.order(0, command(true));
    pair.run(4_000);
    assert_eq!(pair.nodes[0].admin.get(&detach), None, "it may end in order yet");
    pair.run(3_000);
    let answer = pair.nodes[0].admin.remove(&detach).expect("answered").expect("done");
    assert!(answer.contains("given up"), "{answer}");
    assert_eq!(pair.nodes[0].replies.get(&write), Some(&Ok(None)));
    assert_eq!(pair.nodes[0].replies.get(&read), Some(&Ok(Some(55))));
    assert_eq!(pair.nodes[0].replies.get(&flush), Some(&Ok(None)));
    assert_eq!(pair.disk(0), DiskState::Failed, "something is under way on it");
    assert_eq!(pair.write(0, 22, 9), Ok(None));
    pair.nodes[0].unstall();
    pair.run(100);
    assert_eq!(pair.disk(0), DiskState::Diskless);
    pair.attach(0).unwrap();
    pair.synced();
}

#[test]
fn a_blank_disk_is_forced_over_a_file_system_by_that_word_only() {
    let mut pair = Pair::new();
    for n in 0..2 {
        pair.kill(n);
    }
    pair.nodes[1].disk.superblock.as_mut().unwrap().created_found = "ext4 \"data\"".into();
    pair.up(0);
    pair.up(1);
    pair.run(3_000);
    let force = |force| Command::Primary { force: Some(force) };
    let refusal = pair.admin(0, force(Force::Plain)).expect_err("it would overwrite ext4");
    assert!(refusal.hint.contains("ext4") && refusal.hint.contains("--force=blank"), "{refusal:?}");
    // The other way round nothing is lost.
    pair.primary(1, true);
    pair.synced();
}

/// A new pair that has not met, alice's disk blank, ext4 on bob's; alice is forced.
fn forced_alone(force: Force) -> (Pair, String) {
    let mut pair = Pair::new();
    pair.link = false;
    for n in 0..2 {
        pair.kill(n);
    }
    pair.nodes[1].disk.superblock.as_mut().unwrap().created_found = "ext4 \"data\"".into();
    pair.up(0);
    pair.up(1);
    pair.run(3_000);
    let told = pair.admin(0, Command::Primary { force: Some(force) }).expect("nobody is there");
    assert!(told.contains("bob is not connected"), "{told}");
    let opened = Event::SessionOpened { session: SessionId(1), volume: 0, client: "test".into() };
    pair.event(0, opened);
    assert_eq!(pair.write(0, 3, 33), Ok(None));
    pair.link = true;
    pair.run(30_000);
    (pair, told)
}

#[test]
fn a_blank_disk_that_was_forced_alone_overwrites_no_file_system_when_it_meets_one() {
    let (mut pair, told) = forced_alone(Force::Plain);
    assert!(told.contains("but not one on which"), "{told}");
    for n in 0..2 {
        let connection = &pair.status(n).connections[0];
        assert_eq!(connection.reason, Reason::ResyncRefused, "{}", pair.nodes[n].log.join("\n"));
    }
    let log = pair.nodes[1].log.join("\n");
    assert!(log.contains("forced-blank-peer"), "{log}");
    assert_eq!(pair.nodes[1].disk.superblock.as_ref().unwrap().current_uuid, JUST_CREATED);
    assert_eq!(pair.write(0, 4, 44), Ok(None), "alice goes on");
    // It is given up by a person.
    pair.admin(1, Command::Invalidate { volume: 0 }).unwrap();
    pair.connect_both();
    pair.synced();
    // That was the one question: a used disk in the place of bob's is copied to at once.
    pair.kill(1);
    pair.nodes[1].disk = Disk { superblock: Some(superblock(1)), ..Disk::default() };
    let used = pair.nodes[1].disk.superblock.as_mut().unwrap();
    (used.created_found, used.device_uuid) = ("ext4 \"data\"".into(), 777);
    pair.up(1);
    pair.synced();
}

#[test]
fn the_file_system_that_a_forced_blank_disk_was_refused_for_can_be_the_one_that_is_kept() {
    let (mut pair, _) = forced_alone(Force::Plain);
    pair.nodes[1].disk.blocks.insert(9, 99);
    pair.admin(1, Command::Primary { force: Some(Force::Plain) }).expect("alice is StandAlone");
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.kill(0);
    pair.nodes[0].disk = Disk { superblock: Some(superblock(0)), ..Disk::default() };
    pair.nodes[0].disk.superblock.as_mut().unwrap().device_uuid = 778;
    pair.up(0);
    pair.connect_both();
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks.get(&9), Some(&99));
}

/// Both copies of its superblock are bad, and create-md is the way out; what it wrote alone is on its disk still.
#[test]
fn who_may_lack_what_a_new_disk_holds_does_not_overwrite_it_unasked() {
    for found in ["ext4 \"data\"", "blank"] {
        let mut pair = synced_pair();
        pair.kill(1);
        assert_eq!(pair.write(0, 9, 99), Ok(None));
        pair.kill(0);
        let blocks = pair.nodes[0].disk.blocks.clone();
        pair.nodes[0].disk = Disk { superblock: Some(superblock(0)), blocks, ..Disk::default() };
        let new = pair.nodes[0].disk.superblock.as_mut().unwrap();
        (new.created_found, new.device_uuid) = (found.into(), 779);
        pair.up(1);
        assert_eq!(pair.disk(1), DiskState::Consistent);
        assert_eq!(pair.admin(1, Command::Primary { force: None }).unwrap_err().code, -2);
        pair.up(0);
        pair.run(30_000);
        if found == "blank" {
            // Nothing is lost by that.
            pair.synced();
            continue;
        }
        assert_eq!(pair.nodes[0].disk.blocks.get(&9), Some(&99));
        for n in 0..2 {
            let reason = pair.status(n).connections[0].reason;
            assert_eq!(reason, Reason::ResyncRefused, "{}", pair.story());
        }
        assert!(pair.nodes[1].log.join("\n").contains("rule=unproven-self"), "{}", pair.story());
        // A person says that it is not needed.
        pair.admin(0, Command::Invalidate { volume: 0 }).unwrap();
        pair.connect_both();
        pair.synced();
        assert_eq!(pair.disk(1), DiskState::UpToDate);
    }
}

#[test]
fn a_blank_disk_is_forced_over_what_is_not_there_yet_by_its_word() {
    let (mut pair, told) = forced_alone(Force::Blank);
    assert!(!told.contains("but not one on which"), "{told}");
    pair.synced();
}

#[test]
fn a_secondary_that_slept_keeps_what_its_primary_lost_with_its_cache() {
    for restarts in [false, true] {
        let mut pair = synced_pair();
        assert_eq!(pair.write(0, 9, 9), Ok(None));
        pair.link = false;
        // Nobody tells the one that sleeps.
        pair.nodes[1].sockets.clear();
        pair.lose_power(0);
        pair.nodes[0].disk.blocks.remove(&9);
        pair.now = pair.now.after_ms(16_000);
        pair.event(1, Event::ClockGap { gap_ms: 16_000 });
        pair.run(1000);
        if restarts {
            pair.kill(1);
            pair.up(1);
            pair.run(1000);
        }
        let refusal = pair.admin(1, Command::Primary { force: None }).expect_err("it slept");
        assert_eq!(refusal.code, -2, "{refusal:?}");
        pair.link = true;
        pair.up(0);
        pair.synced();
        assert_eq!(pair.nodes[0].disk.blocks.get(&9), Some(&9), "restarts: {restarts}");
        let doubt = crate::meta::DeviceFlags::IN_DOUBT;
        assert!(pair.flags(1) & doubt == 0, "it has met its peer");
    }
}

#[test]
fn a_clear_bitmap_whose_peer_s_disk_hangs_ends_and_a_late_answer_is_a_full_sync() {
    for late in [false, true] {
        let mut pair = Pair::new();
        pair.run(2000);
        pair.nodes[1].stall = |action| matches!(action, Action::Meta { .. });
        let id = pair.order(0, Command::NewCurrentUuid { volume: 0, clear_bitmap: true });
        pair.run(29_000);
        assert_eq!(pair.nodes[0].admin.get(&id), None, "disks may be slow");
        pair.run(2_000);
        let refusal = pair.nodes[0].admin.remove(&id).expect("answered").unwrap_err();
        assert_eq!((refusal.code, refusal.exit_code()), (-23, 11), "{refusal:?}");
        assert_eq!(pair.disk(0), DiskState::Inconsistent, "nothing has changed here");
        if late {
            pair.nodes[1].unstall();
        } else {
            // It never gets to the disk.
            pair.nodes[1].stall = |_| false;
            pair.nodes[1].disk.superblock = Some(super::pair::superblock(1));
            pair.kill(1);
            pair.up(1);
            pair.run(20_000);
            pair.primary(0, true);
        }
        pair.synced();
        let full = pair.nodes[0].log.iter().any(|line| line.contains("just-created-self"));
        assert_eq!(full, late, "its disk is ahead, and is copied");
    }
}

#[test]
fn a_clear_bitmap_ends_where_a_disk_hangs_as_it_is_compared() {
    for n in 0..2 {
        let mut pair = Pair::new();
        pair.run(2000);
        pair.nodes[n].stall = |action| matches!(action, Action::DiskRead { .. });
        let id = pair.order(0, Command::NewCurrentUuid { volume: 0, clear_bitmap: true });
        pair.run(31_000);
        let refusal = pair.nodes[0].admin.remove(&id).expect("answered").unwrap_err();
        assert_eq!(refusal.code, -23, "{refusal:?}");
        pair.nodes[n].unstall();
        let again = Command::NewCurrentUuid { volume: 0, clear_bitmap: true };
        pair.run(1000);
        assert_eq!(pair.admin(0, again), Ok(String::new()), "{n}");
        pair.synced();
    }
}

/// A force begins a history of its own, which nothing but new metadata on the other side follows.
#[test]
fn of_two_outdated_disks_one_is_forced_and_the_other_one_is_made_anew() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    for (n, peer) in [(0, 1), (1, 0)] {
        pair.admin(n, Command::Disconnect { peer, force: true, for_ms: None }).unwrap();
        pair.admin(n, Command::Outdate { volume: 0 }).unwrap();
    }
    pair.connect_both();
    pair.run(20_000);
    let said = &pair.status(0).connections[0].last_handshake[0];
    assert_eq!((&*said.rule, said.meaning.contains("discard")), ("outdated-both", false));
    pair.admin(0, Command::Primary { force: Some(Force::Outdated) }).unwrap();
    pair.kill(1);
    pair.nodes[1].disk = Disk { superblock: Some(superblock(1)), ..Disk::default() };
    let new = pair.nodes[1].disk.superblock.as_mut().unwrap();
    (new.created_found, new.device_uuid) = ("ext4 \"data\"".into(), 780);
    pair.up(1);
    pair.connect_both();
    pair.synced();
}

/// The volume is as large as the disk that it had before, or as its peer's, and the new one is smaller, or larger.
#[test]
fn a_new_disk_that_is_forced_has_a_size_that_fits_it_and_remembers_it() {
    for room in [SIZE - (1 << 20), SIZE, SIZE + (1 << 20)] {
        let mut pair = synced_pair();
        pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
        pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
        pair.lose_link();
        pair.run(1_000);
        pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
        let fresh = Superblock { device_uuid: 300, data_size: room, ..superblock(0) };
        assert_eq!(fresh.effective_size, 0, "it has none yet");
        pair.nodes[0].disk = Disk { superblock: Some(fresh), ..Disk::default() };
        pair.attach(0).unwrap();
        pair.primary(0, true);
        let size = room.min(SIZE);
        assert_eq!(pair.core(0).export(0), Ok(size), "{}", pair.story());
        let kept = pair.nodes[0].disk.superblock.clone().unwrap();
        assert_eq!(kept.effective_size, size, "{}", pair.story());
    }
}
