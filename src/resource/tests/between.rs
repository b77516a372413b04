//! Stories of an order that meets another one, a handshake, a gap or a disk that hangs.

use std::collections::BTreeMap;

use super::pair::{Pair, SIZE, config, superblock, synced_pair};
use crate::meta::{DeviceFlags, LoadedMeta, LoadedSlot, SetBlocks};
use crate::resource::*;

fn demote(wait_ms: u64) -> Command {
    Command::Secondary { force: false, wait_ms }
}

fn is_flush(action: &Action) -> bool {
    matches!(action, Action::DiskFlush { .. })
}

impl Pair {
    fn connection(&self, n: usize) -> ConnectionState {
        self.status(n).connections[0].connection_state
    }

    fn client_goes(&mut self, disconnect: bool) {
        self.event(0, Event::SessionClosed { session: SessionId(1), disconnect });
    }

    fn client_comes(&mut self) {
        let client = "test".to_owned();
        self.event(0, Event::SessionOpened { session: SessionId(1), volume: 0, client });
    }
}

#[test]
fn of_two_promotions_at_once_one_is_refused_and_told_of_the_other() {
    let mut pair = synced_pair();
    pair.client_goes(true);
    pair.admin(0, demote(0)).unwrap();
    for n in 0..2 {
        let command = Command::Primary { force: None };
        pair.event(n, Event::Admin { id: 900 + n as u64, command });
    }
    pair.run(50);
    let mut answers = [0, 1].map(|n| pair.nodes[n].admin.remove(&(900 + n as u64)).unwrap());
    answers.sort_by_key(Result::is_err);
    assert_eq!(answers[0], Ok(String::new()));
    let refusal = answers[1].as_ref().unwrap_err();
    assert_eq!(refusal.code, -10);
    assert!(refusal.hint.contains("is being promoted at the same moment"), "{}", refusal.hint);
    pair.synced();
}

#[test]
fn a_peer_that_comes_back_while_clients_are_waited_for_freezes_nobody() {
    let mut pair = synced_pair();
    pair.lose_link();
    let order = pair.order(0, demote(600_000));
    assert_eq!(pair.write(0, 9, 9), Ok(None));
    pair.link = true;
    pair.run(10_000);
    assert_eq!(pair.write(0, 10, 10), Ok(None), "it is served");
    pair.synced();
    assert_eq!(pair.nodes[0].admin.get(&order), None);
    pair.client_goes(true);
    pair.run(100);
    assert_eq!(pair.nodes[0].admin.remove(&order), Some(Ok(String::new())));
    assert_eq!(pair.status(0).role, Role::Secondary);
}

#[test]
fn a_disk_that_is_attached_while_clients_are_waited_for_freezes_nobody() {
    let mut pair = synced_pair();
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(pair.write(0, 9, 9), Ok(None));
    let order = pair.order(0, demote(600_000));
    pair.attach(1).unwrap();
    pair.run(5_000);
    assert_eq!(pair.write(0, 10, 10), Ok(None), "it is served");
    pair.synced();
    assert_eq!(pair.connection(0), ConnectionState::Connected);
    assert_eq!(pair.nodes[0].admin.get(&order), None);
}

#[test]
fn a_demotion_that_has_waited_for_clients_waits_for_a_handshake_too() {
    for goes in [true, false] {
        let mut pair = synced_pair();
        pair.lose_link();
        let order = pair.order(0, demote(20_000));
        assert_eq!(pair.write(0, 9, 9), Ok(None));
        pair.link = true;
        pair.nodes[1].stall = |action| matches!(action, Action::Meta { .. });
        pair.run(15_000);
        assert!(pair.core(0).in_handshake(), "the peer's disk does not answer");
        if goes {
            pair.client_goes(true);
        }
        pair.run(2_000);
        assert_eq!(pair.nodes[0].admin.get(&order), None);
        assert_eq!(pair.status(0).role, Role::Primary);
        if goes {
            pair.nodes[1].unstall();
            pair.run(1_000);
            assert_eq!(pair.nodes[0].admin.remove(&order), Some(Ok(String::new())));
            assert_eq!(pair.status(0).role, Role::Secondary);
        } else {
            pair.run(4_000);
            let refusal = pair.nodes[0].admin.remove(&order).expect("answered").unwrap_err();
            assert_eq!(refusal.code, -12);
            pair.nodes[1].unstall();
        }
        pair.synced();
    }
}

#[test]
fn clients_that_are_waited_for_and_held_are_let_go_on_by_resume_io() {
    let mut pair = synced_pair();
    pair.admin(0, Command::SuspendIo { suspend: true }).unwrap();
    let order = pair.order(0, demote(600_000));
    let write = pair.write_later(0, 9, 9);
    pair.run(5_000);
    assert_eq!(pair.nodes[0].replies.get(&write), None, "held");
    let peer = 1;
    pair.admin(0, Command::PauseSync { volume: 0, peer, pause: true }).unwrap();
    pair.admin(0, Command::PauseSync { volume: 0, peer, pause: false }).unwrap();
    pair.admin(0, Command::SuspendIo { suspend: false }).unwrap();
    pair.run(50);
    assert_eq!(pair.nodes[0].replies.remove(&write), Some(Ok(None)));
    pair.client_goes(true);
    pair.run(50);
    assert_eq!(pair.nodes[0].admin.remove(&order), Some(Ok(String::new())));
    pair.synced();
}

#[test]
fn a_try_that_meets_nobody_after_a_gap_opens_the_exports_again() {
    let mut pair = synced_pair();
    // The peer's disk has not ended what it does: it says no handshake.
    pair.nodes[1].stall = |action| matches!(action, Action::DiskWrite { .. });
    let write = pair.start_write(0, 9, 9);
    pair.event(0, Event::ClockGap { gap_ms: 2_000 });
    let connect = Command::Connect { peer: 1, discard_my_data: false, tentative: true };
    let order = pair.order(0, connect);
    assert!(pair.core(0).export(0).is_err(), "the peer is asked first");
    pair.run(31_000);
    assert_eq!(pair.nodes[0].admin.remove(&order).expect("answered").unwrap_err().code, -23);
    assert_eq!(pair.connection(0), ConnectionState::StandAlone);
    assert_eq!(pair.core(0).export(0), Ok(SIZE), "nobody is left to be asked");
    assert!(pair.nodes[0].replies.contains_key(&write));
}

#[test]
fn a_try_does_not_keep_a_connection_apart_that_comes_back() {
    let mut pair = synced_pair();
    let leave = Command::Disconnect { peer: 1, force: false, for_ms: Some(60_000) };
    pair.admin(0, leave).unwrap();
    let connect = Command::Connect { peer: 1, discard_my_data: false, tentative: true };
    let order = pair.order(0, connect);
    pair.run(10_000);
    pair.nodes[0].admin.remove(&order).expect("answered").unwrap();
    assert_eq!(pair.connection(0), ConnectionState::StandAlone);
    pair.run(60_000);
    assert_eq!(pair.connection(0), ConnectionState::Connected);
    pair.synced();
}

#[test]
fn the_end_of_the_daemon_does_not_wait_behind_an_order_that_a_hung_disk_keeps() {
    for (shutdown, ends_ms) in [(true, 22_000), (false, 32_000)] {
        let mut pair = synced_pair();
        pair.write(0, 8, 8).unwrap();
        pair.nodes[0].stall = is_flush;
        pair.client_goes(true);
        let first = pair.order(0, demote(0));
        pair.run(1_000);
        let down = pair.order(0, Command::Down { shutdown });
        pair.run(ends_ms);
        assert!(pair.nodes[0].admin.contains_key(&first), "{shutdown}");
        let answer = pair.nodes[0].admin.remove(&down).expect("it ends").expect("done");
        assert!(answer.contains("hangs and was given up"), "{answer}");
        pair.kill(0);
        pair.nodes[0].stall = |_| false;
        pair.up(0);
        pair.synced();
        assert_eq!(pair.nodes[0].disk.blocks.get(&8), Some(&8));
    }
}

#[test]
fn nothing_starts_on_a_resource_that_was_taken_down() {
    let mut pair = synced_pair();
    pair.client_goes(true);
    pair.admin(0, demote(0)).unwrap();
    pair.admin(0, Command::Down { shutdown: false }).unwrap();
    // It comes before the shell has let go of the resource.
    let refusal = pair.attach(0).expect_err("it is down");
    assert_eq!(refusal.code, -18, "{refusal:?}");
    assert_eq!(pair.disk(0), DiskState::Diskless);
}

#[test]
fn what_waits_behind_the_order_that_takes_a_resource_down_is_refused() {
    let mut pair = synced_pair();
    pair.client_goes(true);
    pair.admin(0, demote(0)).unwrap();
    pair.nodes[0].stall = is_flush;
    let down = pair.order(0, Command::Down { shutdown: false });
    let attach = pair.attach_command(0);
    let attach = pair.order(0, attach);
    assert!(pair.nodes[0].admin.is_empty(), "it goes down");
    pair.nodes[0].unstall();
    pair.run(50);
    assert_eq!(pair.nodes[0].admin.remove(&down), Some(Ok(String::new())));
    let refusal = pair.nodes[0].admin.remove(&attach).expect("answered").unwrap_err();
    assert_eq!(refusal.code, -18, "{refusal:?}");
    assert_eq!(pair.disk(0), DiskState::Diskless, "or the shell lets go of a disk in use");
}

#[test]
fn a_disk_that_answers_is_not_given_up_for_a_detach_that_waits_for_its_turn() {
    let mut pair = synced_pair();
    pair.order(0, demote(60_000));
    let detach = pair.order(0, Command::Detach { volume: 0, force: true });
    pair.run(10_000);
    // The client goes on.
    for block in 10..20 {
        pair.start_write(0, block, 1);
        pair.run(20);
    }
    assert_eq!(pair.disk(0), DiskState::UpToDate, "{:?}", pair.nodes[0].admin.get(&detach));
}

#[test]
fn a_client_that_enters_too_late_is_closed_and_stands_in_nobodys_way() {
    let mut pair = synced_pair();
    pair.client_goes(true);
    pair.admin(0, demote(0)).unwrap();
    // It was told that it may enter before that.
    pair.client_comes();
    assert!(pair.status(0).devices[0].clients.is_empty());
    pair.admin(0, Command::Primary { force: None }).unwrap();
    let write = pair.write(0, 9, 9);
    assert_eq!(write, Err(ReplyError::Shutdown), "what it knew may be old");
    pair.admin(0, demote(0)).unwrap();
    // The same while the demotion drains.
    pair.primary(0, false);
    pair.client_goes(true);
    pair.nodes[0].stall = is_flush;
    let order = pair.order(0, demote(0));
    pair.client_comes();
    pair.nodes[0].unstall();
    pair.run(50);
    assert_eq!(pair.nodes[0].admin.remove(&order), Some(Ok(String::new())));
    assert!(pair.status(0).devices[0].clients.is_empty());
}

#[test]
fn a_volume_whose_disk_is_detached_is_served_on_and_a_demotion_is_named() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_flush;
    let detach = pair.order(0, Command::Detach { volume: 0, force: false });
    assert_eq!(pair.nodes[0].admin.get(&detach), None, "it flushes");
    assert_eq!(pair.core(0).export(0), Ok(SIZE), "the peer serves");
    pair.nodes[0].unstall();
    pair.run(50);
    pair.nodes[0].admin.remove(&detach).expect("answered").unwrap();
    pair.attach(0).unwrap();
    pair.client_goes(true);
    pair.nodes[0].stall = is_flush;
    pair.order(0, demote(0));
    let why = pair.core(0).export(0).unwrap_err();
    assert!(why.contains("is being demoted"), "{why}");
    pair.nodes[0].unstall();
    pair.synced();
}

#[test]
fn a_frozen_primary_that_is_demoted_with_what_nobody_heard_is_not_promoted_before_it_has_met_its_peer()
 {
    let mut pair = synced_pair();
    pair.nodes[1].stall = |action| matches!(action, Action::DiskWrite { .. });
    pair.start_write(0, 9, 9);
    pair.event(0, Event::ClockGap { gap_ms: 2_000 });
    pair.run(100);
    assert!(pair.core(0).export(0).unwrap_err().contains("frozen"), "the peer is asked");
    pair.admin(0, demote(0)).unwrap();
    let disk = pair.nodes[1].disk.clone();
    pair.link = false;
    pair.kill(1);
    pair.run(1_000);
    // Its disk has a write that nobody was told of, and no identifier says so: who reads it here
    // may find the older value at the peer later.
    for restarts in [false, true] {
        if restarts {
            pair.kill(0);
            pair.up(0);
        }
        assert_eq!(pair.disk(0), DiskState::Consistent, "{restarts}");
        assert_eq!(pair.admin(0, Command::Primary { force: None }).unwrap_err().code, -2);
    }
    pair.nodes[1].stalled.clear();
    pair.nodes[1].stall = |_| false;
    pair.nodes[1].disk = disk;
    pair.link = true;
    pair.up(1);
    pair.synced();
}

#[test]
fn time_in_which_this_process_did_not_run_is_no_order_s() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_flush;
    let detach = pair.order(0, Command::Detach { volume: 0, force: true });
    let outdate = pair.order(0, Command::Outdate { volume: 0 });
    pair.run(5_500);
    pair.now = pair.now.after_ms(60_000);
    pair.event(0, Event::ClockGap { gap_ms: 60_000 });
    assert_eq!(pair.disk(0), DiskState::UpToDate, "it has had no time to answer");
    assert!(pair.status(0).devices[0].hung_ms.is_none());
    let said = pair.nodes[0].log.join("\n");
    assert!(!said.contains("answers again"), "it has not: {said}");
    assert_eq!(pair.nodes[0].admin.get(&outdate), None, "its turn may come");
    pair.nodes[0].unstall();
    pair.run(50);
    assert_eq!(pair.nodes[0].admin.remove(&detach), Some(Ok(String::new())));
    assert_eq!(pair.disk(0), DiskState::Diskless);
}

/// One node with two volumes, and nobody else; `met`: the peer has been there once. It is Primary.
fn two_volumes(met: bool) -> Resource {
    let mut core = two_resting_volumes(met, [0; 2]);
    core.handle(
        Time(1),
        Event::Admin { id: 3, command: Command::Primary { force: Some(Force::Plain) } },
    );
    answer_all(&mut core, |_| true);
    core
}

/// As [`two_volumes`], Secondary; `but`: flags that each disk has beside, or lacks.
fn two_resting_volumes(met: bool, but: [u32; 2]) -> Resource {
    let mut config = config(0);
    let mut second = config.volumes[0].clone();
    second.number = 1;
    config.volumes.push(second);
    let mut core = Resource::new(config, 7, Time(1), 0);
    for volume in 0..2 {
        let mut superblock = superblock(0);
        superblock.volume = volume;
        if met {
            superblock.peers[0].node_id = Some(1);
            superblock.peers[0].device_uuid = 101;
            (superblock.current_uuid, superblock.effective_size) = (0x1000, SIZE);
            superblock.flags = DeviceFlags::CONSISTENT | DeviceFlags::WAS_UP_TO_DATE;
            superblock.flags ^= but[usize::from(volume)];
        }
        let slot =
            LoadedSlot { set: SetBlocks::new(), damaged_pages: 0, seen_number: None, seen_copy: 0 };
        let meta = LoadedMeta {
            superblock,
            hot_extents: Vec::new(),
            number: Some(1),
            slots: vec![slot],
            written_behind: false,
            same_boot: true,
            notes: Vec::new(),
        };
        let disk =
            AttachedDisk { data_size: SIZE, logical_block_size: 512, path: "d".into(), meta };
        let command = Command::Attach { volume, disk: Box::new(disk) };
        core.handle(Time(1), Event::Admin { id: 1 + u64::from(volume), command });
        answer_all(&mut core, |_| true);
    }
    core
}

/// A word covers nothing that it does not name, and the refusal names all that there is.
#[test]
fn volumes_with_a_danger_each_are_forced_by_naming_all() {
    let mut core = two_resting_volumes(true, [DeviceFlags::CONSISTENT, DeviceFlags::OUTDATED]);
    let mut primary = |force: Option<Force>| {
        core.handle(Time(1), Event::Admin { id: 9, command: Command::Primary { force } });
        let mut answer = None;
        while let Some(action) = core.next_action() {
            match action {
                Action::AdminReply { result, .. } => answer = Some(result),
                Action::DiskFlush { tag, .. } => {
                    core.handle(Time(1), Event::DiskDone { tag, result: Ok(None) });
                }
                Action::Meta { tag, .. } => {
                    core.handle(Time(1), Event::MetaDone { tag, result: Ok(()) });
                }
                _ => {}
            }
        }
        answer.expect("an answer")
    };
    let both = Force::of([Force::Outdated, Force::Inconsistent]).unwrap();
    assert_eq!(both.option(), "--force=inconsistent,outdated");
    for force in [None, Some(Force::Plain), Some(Force::Inconsistent), Some(Force::Outdated)] {
        let hint = primary(force).unwrap_err().hint;
        assert!(hint.contains("tandemadm primary --force=inconsistent,outdated r0"), "{hint}");
    }
    assert!(primary(Some(both)).is_ok());
}

/// The disks of the volumes that `of` names answer at once.
fn answer_all(core: &mut Resource, of: fn(VolumeNumber) -> bool) {
    while let Some(action) = core.next_action() {
        let now = core.now;
        match action {
            Action::DiskFlush { tag, volume } | Action::DiskWrite { tag, volume, .. }
                if of(volume) =>
            {
                core.handle(now, Event::DiskDone { tag, result: Ok(None) });
            }
            Action::Meta { tag, volume, .. } if of(volume) => {
                core.handle(now, Event::MetaDone { tag, result: Ok(()) });
            }
            _ => {}
        }
    }
}

#[test]
fn the_disk_timeout_of_one_volume_acts_beside_a_disk_with_a_longer_one() {
    let mut core = two_volumes(false);
    let second = DiskOptions { disk_timeout_ms: 1_000, ..config(0).options.disk() };
    let volumes = BTreeMap::from([(1, second)]);
    let options = Box::new(config(0).options);
    core.handle(Time(2), Event::Admin { id: 4, command: Command::SetOptions { options, volumes } });
    for volume in 0..2 {
        let (session, client) = (SessionId(1 + u64::from(volume)), "c".to_owned());
        core.handle(Time(2), Event::SessionOpened { session, volume, client });
        let (request, op) = (RequestId(1), Op::Read { offset: 0, length: 4096 });
        core.handle(Time(2), Event::Request { session, request, volume, op });
    }
    answer_all(&mut core, |_| false);
    let due = core.next_timeout().expect("a disk is waited for");
    assert!(due <= Time(2).after_ms(1_000), "{due:?}");
    core.handle(Time(2).after_ms(1_001), Event::Timeout);
    let status = core.status(Time(2).after_ms(1_001));
    assert_eq!(status.devices[1].disk_state, DiskState::Failed);
    assert_eq!(status.devices[0].disk_state, DiskState::UpToDate);
}

#[test]
fn who_writes_one_volume_alone_begins_a_generation_in_every_volume() {
    let mut core = two_volumes(true);
    let uuids = |core: &Resource| {
        let devices = core.status(Time(2)).devices;
        [devices[0].current_uuid, devices[1].current_uuid]
    };
    let before = uuids(&core);
    let (session, volume) = (SessionId(1), 0);
    core.handle(Time(2), Event::SessionOpened { session, volume, client: "c".to_owned() });
    let payload = Payload { slot: 0, generation: 1, offset: 0, length: 4096 };
    let (request, op) = (RequestId(1), Op::Write { offset: 0, payload, fua: false });
    core.handle(Time(2), Event::Request { session, request, volume, op });
    answer_all(&mut core, |_| true);
    let after = uuids(&core);
    assert_ne!(before[0], after[0], "it rests on one disk");
    assert_ne!(before[1], after[1], "the resource goes on alone as one");
}

#[test]
fn nobody_looks_at_the_holes_of_a_disk_that_reads_wait_for() {
    let mut pair = synced_pair();
    assert!(pair.core(0).reads_locally(0));
    assert!(pair.core(1).reads_locally(0), "it is as good, and has no clients");
    pair.admin(0, Command::SuspendIo { suspend: true }).unwrap();
    assert!(!pair.core(0).reads_locally(0));
    pair.admin(0, Command::SuspendIo { suspend: false }).unwrap();
    assert!(pair.core(0).reads_locally(0));
}
