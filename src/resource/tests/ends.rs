//! Stories of ends: what a session, an order or a disk leaves behind is right for what comes next.

use super::pair::{Disk, Pair, SIZE, config, passing_pair, superblock, synced_pair};
use crate::meta::{DeviceFlags, Superblock};
use crate::resource::*;
use crate::wire::{Packet, Refused};

fn is_write(action: &Action) -> bool {
    matches!(action, Action::DiskWrite { .. })
}

impl Pair {
    /// The stalled operation of node `n` ends without space.
    fn no_space(&mut self, n: usize) {
        let stalled = self.nodes[n].stalled.pop_front();
        let Some(Event::DiskDone { tag, .. }) = stalled else { panic!("{stalled:?}") };
        self.event(n, Event::DiskDone { tag, result: Err(DiskError::NoSpace) });
    }

    fn bits(&self, n: usize) -> u64 {
        self.core(n).connections[0].peer_devices[&0].bitmap.count()
    }
}

#[test]
fn a_write_that_only_the_lost_peer_has_and_has_flushed_is_out_of_sync() {
    let mut pair = passing_pair();
    pair.nodes[0].stall = is_write;
    pair.nodes[0].fail = is_write;
    let id = pair.start_write(0, 21, 9);
    assert_eq!(pair.nodes[1].disk.blocks.get(&21), Some(&9), "the peer has it");
    assert_eq!(pair.request(0, 5000, Op::Flush), Ok(None));
    pair.lose_link();
    pair.nodes[0].unstall();
    pair.run(100);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Err(ReplyError::Io)));
    pair.nodes[0].fail = |_| false;
    pair.link = true;
    pair.synced();
}

#[test]
fn a_write_that_waited_for_space_stays_before_those_that_came_after_it() {
    let mut pair = synced_pair();
    pair.lose_link();
    assert_eq!(pair.write(0, 21, 8), Ok(None));
    pair.nodes[0].stall = is_write;
    let first = pair.start_write(0, 21, 9);
    pair.no_space(0);
    let second = pair.start_write(0, 21, 10);
    pair.nodes[0].unstall();
    pair.link = true;
    pair.synced();
    for id in [first, second] {
        assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    }
    assert_eq!(pair.nodes[0].disk.blocks.get(&21), Some(&10));
}

#[test]
fn two_disks_that_are_full_at_the_same_write_are_not_both_let_go() {
    let mut pair = synced_pair();
    for n in 0..2 {
        pair.nodes[n].stall = is_write;
    }
    let id = pair.start_write(0, 21, 9);
    pair.no_space(0);
    assert_eq!(pair.disk(0), DiskState::UpToDate, "the peer may be as full");
    pair.no_space(1);
    pair.nodes[1].unstall();
    pair.settle();
    assert_eq!(pair.nodes[0].replies.get(&id), None, "it waits for space");
    pair.nodes[0].unstall();
    pair.run(2500);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks.get(&21), Some(&9));
}

#[test]
fn an_attach_that_fails_is_answered_when_the_disk_is_closed() {
    let mut pair = synced_pair();
    pair.kill(1);
    let mut core = Resource::new(config(1), 5, pair.now, 0);
    let command = pair.attach_command(1);
    core.handle(pair.now, Event::Admin { id: 1, command });
    let first = std::iter::from_fn(|| core.next_action()).find_map(|action| match action {
        Action::DiskFlush { tag, .. } => Some(tag),
        _ => None,
    });
    let tag = first.expect("a flush");
    core.handle(pair.now, Event::DiskDone { tag, result: Err(DiskError::Io(5)) });
    let actions: Vec<Action> = std::iter::from_fn(|| core.next_action()).collect();
    let place = |what: fn(&Action) -> bool| actions.iter().position(what);
    let closed = place(|action| matches!(action, Action::CloseDisk { .. })).expect("closed");
    let answered = place(|action| matches!(action, Action::AdminReply { result: Err(_), .. }));
    assert!(closed < answered.expect("answered"), "{actions:?}");
}

#[test]
fn nothing_starts_on_a_resource_that_went_down_meanwhile() {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.nodes[1].stall = |action| matches!(action, Action::DiskFlush { .. });
    let down = pair.order(1, Command::Down { shutdown: false });
    let command = pair.attach_command(1);
    let attach = pair.order(1, command);
    pair.nodes[1].unstall();
    pair.run(100);
    assert_eq!(pair.nodes[1].admin.remove(&down), Some(Ok(String::new())));
    let refusal = pair.nodes[1].admin.remove(&attach).expect("answered").expect_err("it is down");
    assert_eq!(refusal.code, -18);
    assert_eq!(pair.disk(1), DiskState::Diskless);
}

/// Seed 20044: the source is lost when the target has stored that it is whole, and has not said so.
#[test]
fn a_resync_that_has_ended_durably_has_ended_though_the_session_is_lost() {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.write(0, 7, 70).unwrap();
    pair.nodes[0].stall = |action| matches!(action, Action::DiskRead { .. });
    pair.link = true;
    pair.run(15_000);
    assert_eq!(pair.disk(1), DiskState::Inconsistent);
    pair.nodes[1].stall =
        |action| matches!(action, Action::Meta { op: crate::meta::MetaOp::Superblock(_), .. });
    pair.nodes[0].unstall();
    pair.run(1500);
    assert_eq!(pair.nodes[1].stalled.len(), 1, "the end is being stored");
    assert_eq!(pair.disk(1), DiskState::Inconsistent, "{}", pair.nodes[1].log.join("\n"));
    pair.lose_link();
    pair.kill(0);
    pair.nodes[1].unstall();
    pair.run(1000);
    assert_eq!(pair.disk(1), DiskState::UpToDate, "{}", pair.nodes[1].log.join("\n"));
    let flags = pair.nodes[1].disk.superblock.as_ref().unwrap().flags;
    assert_ne!(flags & DeviceFlags::SURVIVED, 0);
}

/// kill -9 of either side: at most what the last second has copied is copied again.
#[test]
fn what_a_resync_has_copied_when_either_side_crashes_is_not_copied_again_but_for_its_last_second() {
    for n in 0..2 {
        let mut pair = Pair::new();
        pair.run(2000);
        pair.nodes[0].disk.blocks.extend((0..SIZE / 4096).map(|block| (block, 7)));
        let options = Options { resync_rate: 4000, c_max_rate: 4000, ..config(1).options };
        let set = Command::SetOptions { options: Box::new(options), volumes: BTreeMap::new() };
        pair.admin(1, set).unwrap();
        pair.primary(0, true);
        pair.run(12_000);
        let left = [pair.bits(0), pair.bits(1)];
        assert!((1000..12_000).contains(&left[0]), "{left:?} when it ended");
        pair.link = false;
        pair.kill(n);
        pair.up(n);
        pair.run(100);
        // What it saves once a second, and what was not flushed: at most 1000 blocks a second.
        assert!(pair.bits(n) < left[n] + 1500, "{}, was {left:?}", pair.bits(n));
    }
}

#[test]
fn what_a_resync_has_copied_when_its_target_leaves_in_order_is_not_copied_again() {
    for end in [
        Command::Down { shutdown: true },
        Command::Disconnect { peer: 0, force: false, for_ms: None },
    ] {
        let mut pair = synced_pair();
        pair.lose_link();
        for block in 0..600 {
            pair.write(0, 100 + 2 * block, 7).unwrap();
        }
        let options = Options { c_max_rate: 200, ..config(1).options };
        let set = Command::SetOptions { options: Box::new(options), volumes: BTreeMap::new() };
        pair.admin(1, set).unwrap();
        pair.link = true;
        let copied = |pair: &Pair| {
            pair.nodes[1].disk.blocks.iter().filter(|(b, v)| **b >= 100 && **v == 7).count() as u64
        };
        for _ in 0..1000 {
            if copied(&pair) > 20 {
                break;
            }
            pair.run(20);
        }
        pair.admin(1, end).unwrap();
        let copied = copied(&pair);
        assert!((20..580).contains(&copied), "{copied} copied when it ended");
        assert_eq!(pair.bits(0), 600 - copied, "{}", pair.nodes[0].log.join("\n"));
    }
}

#[test]
fn the_same_clear_bitmap_on_both_nodes_at_once_is_refused_and_the_session_stays() {
    let mut pair = Pair::new();
    pair.run(2_000);
    let clear = || Command::NewCurrentUuid { volume: 0, clear_bitmap: true };
    let orders = [0, 1].map(|n| {
        let id = pair.next;
        pair.next += 1;
        pair.event(n, Event::Admin { id, command: clear() });
        id
    });
    pair.run(5_000);
    for (n, id) in [0, 1].into_iter().zip(orders) {
        assert!(pair.nodes[n].admin.remove(&id).expect("answered").is_err());
        let log = pair.nodes[n].log.join("\n");
        assert!(!log.contains("ProtocolError"), "{log}");
    }
    // One alone is carried out.
    pair.admin(0, clear()).unwrap();
    pair.synced();
}

#[test]
fn a_promotion_between_hello_and_handshake_leaves_no_two_that_wait_for_each_other() {
    let mut pair = synced_pair();
    pair.lose_link();
    assert_eq!(pair.write(0, 7, 1), Ok(None));
    pair.nodes[0].mute = true;
    pair.link = true;
    pair.run(3_000);
    // Node 0 knows node 1 as a Secondary; node 1 has not heard of node 0.
    pair.primary(1, false);
    pair.nodes[0].mute = false;
    let air = std::mem::take(&mut pair.nodes[0].air);
    pair.nodes[1].done.extend(air);
    pair.run(5_000);
    for n in 0..2 {
        let connection = &pair.status(n).connections[0];
        let log = pair.nodes[n].log.join("\n");
        assert_eq!(connection.connection_state, ConnectionState::StandAlone, "{log}");
    }
}

#[test]
fn a_disk_that_was_set_back_does_not_catch_up_by_restarts() {
    let mut pair = synced_pair();
    let old = pair.nodes[1].disk.clone();
    for extent in 0..8 {
        pair.write(0, 100 + extent * 1024, 1).unwrap();
    }
    pair.kill(1);
    pair.nodes[1].disk = old;
    let number = |pair: &Pair| pair.nodes[1].disk.superblock.as_ref().unwrap().number;
    let before = number(&pair);
    pair.link = false;
    for _ in 0..20 {
        pair.up(1);
        pair.run(100);
        pair.kill(1);
    }
    assert_eq!(number(&pair), before);
}

#[test]
fn a_disk_that_was_set_back_does_not_catch_up_by_writes_without_its_peer() {
    let mut pair = synced_pair();
    let old = pair.nodes[1].disk.clone();
    pair.write(0, 5, 56).unwrap();
    // The session goes on, and its number grows here and there.
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.primary(1, false);
    pair.write(1, 5000, 1).unwrap();
    pair.kill(1);
    pair.nodes[1].disk = old;
    pair.link = false;
    pair.up(1);
    pair.run(100);
    pair.admin(1, Command::Primary { force: Some(Force::Plain) }).unwrap();
    let session = SessionId(2);
    pair.event(1, Event::SessionOpened { session, volume: 0, client: "test".into() });
    let number = pair.core(1).devices[&0].number();
    for extent in 0..8 {
        pair.write(1, 100 + extent * 1024, 1).unwrap();
    }
    assert_eq!(pair.core(1).devices[&0].number(), number);
}

#[test]
fn a_new_disk_is_not_taken_for_an_old_image_of_the_one_before_it() {
    let mut pair = Pair::new();
    // Node 0 sees higher and higher numbers of a fresh disk, which is then replaced.
    for _ in 0..8 {
        pair.run(3_000);
        pair.cut();
    }
    pair.kill(1);
    let fresh = Superblock { device_uuid: 300, ..superblock(1) };
    pair.nodes[1].disk = Disk { superblock: Some(fresh), ..Disk::default() };
    pair.up(1);
    pair.run(3_000);
    pair.primary(1, true);
    pair.synced();
    for n in 0..2 {
        pair.kill(n);
    }
    pair.up(0);
    pair.up(1);
    pair.synced();
}

#[test]
fn a_refusal_on_its_way_is_not_lost_to_a_connection_that_crosses() {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.write(0, 7, 1).unwrap();
    // What bob goes by.
    pair.nodes[1].mute = true;
    pair.link = true;
    let is_greeting =
        |event: &Event| matches!(event, Event::Packet { packet: Packet::Features(_), .. });
    let handshake = loop {
        pair.run(500);
        match pair.nodes[1].air.pop_front() {
            Some(Event::Packet { packet: packet @ Packet::Handshake(_), .. }) => break packet,
            Some(event) if is_greeting(&event) => pair.event(0, event),
            _ => {}
        }
    };
    pair.lose_link();
    pair.kill(1);
    let hello = super::newcomers::hello(true);
    let greet = |pair: &mut Pair, socket| {
        pair.event(0, Event::Accepted { peer: 1, socket });
        pair.event(0, Event::Packet { socket, packet: hello.clone(), payload: None });
        pair.settle();
    };
    let (first, second) = (SocketId(1001), SocketId(1003));
    greet(&mut pair, first);
    greet(&mut pair, second);
    let text = "Split-Brain detected but unresolved".to_owned();
    let refused = Refused { reason: Reason::SplitBrain, rule: "bitmap-both".into(), text };
    for packet in [handshake, Packet::Refused(Box::new(refused))] {
        pair.event(0, Event::Packet { socket: first, packet, payload: None });
    }
    let connection = &pair.status(0).connections[0];
    assert_eq!(connection.connection_state, ConnectionState::StandAlone);
    assert_eq!(connection.reason, Reason::SplitBrain, "{}", pair.nodes[0].log.join("\n"));
}

#[test]
fn a_frozen_primary_with_writes_under_way_becomes_the_target_of_its_promoted_peer() {
    let mut pair = synced_pair();
    pair.nodes[1].stall = is_write;
    for block in 20..30 {
        pair.start_write(0, block, 3);
    }
    // Node 0 is frozen: only node 1 sees the loss.
    pair.loss_is_seen_by(1);
    pair.nodes[1].unstall();
    pair.settle();
    pair.primary(1, false);
    assert_eq!(pair.write(1, 2, 2), Ok(None));
    pair.link = true;
    pair.event(0, Event::ClockGap { gap_ms: 3000 });
    pair.run(20_000);
    let connection = &pair.status(0).connections[0];
    assert_eq!(connection.reason, Reason::ResyncRefused, "{}", pair.nodes[0].log.join("\n"));
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.connect_both();
    pair.synced();
}

#[test]
fn a_resource_whose_given_up_disk_hangs_goes_down_and_says_so() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = |_| true;
    pair.start_write(0, 21, 9);
    pair.order(0, Command::Detach { volume: 0, force: true });
    pair.run(7_000);
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    let down = pair.order(0, Command::Down { shutdown: false });
    pair.run(1_000);
    let text = pair.nodes[0].admin.remove(&down).expect("answered").expect("down");
    assert!(text.contains("hangs"), "{text}");
}

#[test]
fn a_frozen_primary_that_serves_again_alone_has_recorded_what_it_wrote_before_it_is_read() {
    let mut pair = synced_pair();
    pair.nodes[1].stall = is_write;
    pair.start_write(0, 20, 3);
    let before = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
    pair.link = false;
    pair.event(0, Event::ClockGap { gap_ms: 3000 });
    pair.nodes[0].stall = |action| matches!(action, Action::Meta { .. });
    pair.kill(1);
    pair.run(1_000);
    let session = SessionId(1);
    pair.event(0, Event::SessionOpened { session, volume: 0, client: "test".into() });
    let read = Op::Read { offset: 20 * 4096, length: 4096 };
    pair.request_later(0, 5000, read);
    pair.run(1_000);
    assert_eq!(pair.nodes[0].replies.get(&5000), None, "it is not recorded");
    pair.nodes[0].unstall();
    pair.run(1_000);
    assert_eq!(pair.nodes[0].replies.get(&5000), Some(&Ok(Some(3))));
    let after = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
    assert_ne!(before & !1, after & !1);
}

#[test]
fn an_order_to_discard_lapses_when_its_node_is_promoted() {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.admin(1, Command::Disconnect { peer: 0, force: true, for_ms: None }).unwrap();
    let discard = Command::Connect { peer: 0, discard_my_data: true, tentative: false };
    pair.admin(1, discard).unwrap();
    pair.primary(1, false);
    assert_eq!(pair.write(1, 8, 2), Ok(None));
    pair.admin(1, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    assert_eq!(pair.write(0, 7, 1), Ok(None));
    pair.link = true;
    pair.run(12_000);
    assert_eq!(pair.nodes[1].disk.blocks.get(&8), Some(&2), "{}", pair.nodes[1].log.join("\n"));
    assert_eq!(pair.status(0).connections[0].reason, Reason::SplitBrain);
}

#[test]
fn the_identifiers_tell_who_was_primary_when_the_common_generation_ended() {
    let mut pair = synced_pair();
    let current =
        |pair: &Pair, n: usize| pair.nodes[n].disk.superblock.clone().unwrap().current_uuid;
    assert_eq!((current(&pair, 0) & 1, current(&pair, 1) & 1), (1, 0));
    // The roles change while both are connected.
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.primary(1, false);
    assert_eq!((current(&pair, 0) & 1, current(&pair, 1) & 1), (0, 1));
    pair.lose_link();
    pair.primary(0, false);
    for n in 0..2 {
        assert_eq!(pair.write(n, 7, 1), Ok(None));
        let slot = pair.nodes[n].disk.superblock.clone().unwrap().peers[0].bitmap_uuid;
        assert_eq!(slot & 1, n as u64, "node 1 was Primary");
    }
}

#[test]
fn a_write_whose_client_goes_in_the_middle_of_a_loss_is_answered_all_the_same() {
    let mut pair = synced_pair();
    pair.nodes[1].stall = is_write;
    let id = pair.start_write(0, 20, 3);
    pair.nodes[0].stall = |action| matches!(action, Action::DiskFlush { .. });
    pair.lose_link();
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: false });
    pair.event(0, Event::ClockGap { gap_ms: 3000 });
    pair.nodes[0].unstall();
    pair.nodes[1].unstall();
    pair.settle();
    assert!(pair.nodes[0].replies.contains_key(&id));
    pair.link = true;
    pair.synced();
}

#[test]
fn a_secondary_that_gives_its_disk_up_makes_no_generation_for_the_primary() {
    let mut pair = synced_pair();
    pair.nodes[1].stall = |_| true;
    let id = pair.start_write(0, 20, 3);
    pair.order(1, Command::Detach { volume: 0, force: true });
    pair.run(10_000);
    assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    let current = pair.nodes[0].disk.superblock.clone().unwrap().current_uuid;
    let made = pair.nodes[0]
        .log
        .iter()
        .any(|line| line.contains(&format!("new current UUID {current:016X}")));
    assert!(made, "{}", pair.nodes[0].log.join("\n"));
    pair.nodes[1].unstall();
    pair.run(100);
    pair.attach(1).unwrap();
    pair.synced();
}

#[test]
fn who_has_the_device_open_is_named_once_with_the_number_of_connections() {
    let mut pair = synced_pair();
    for session in [SessionId(8), SessionId(9)] {
        pair.event(0, Event::SessionOpened { session, volume: 0, client: "fio".into() });
    }
    let refusal =
        pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).expect_err("it is open");
    assert_eq!(refusal.code, -12);
    assert_eq!(refusal.hint, "Open by fio (2 connections), test. Disconnect it first.");
}

#[test]
fn a_down_that_waits_for_a_read_of_the_peer_asks_for_no_time_that_has_passed() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    pair.nodes[1].stall = |action| matches!(action, Action::DiskRead { .. });
    pair.request_later(0, 5000, Op::Read { offset: 5 * 4096, length: 4096 });
    pair.settle();
    let down = pair.order(1, Command::Down { shutdown: true });
    pair.lose_link();
    pair.run(1_000);
    let no_timer_has_passed = |pair: &Pair| {
        let next = pair.core(1).next_timeout();
        assert!(next.is_none_or(|at| at > pair.now), "a timer that has passed runs for ever");
    };
    pair.now = pair.now.after_ms(17_000);
    pair.event(1, Event::Timeout);
    assert_eq!(pair.nodes[1].admin.get(&down), None, "the read is under way");
    no_timer_has_passed(&pair);
    pair.now = pair.now.after_ms(20_000);
    pair.event(1, Event::Timeout);
    assert!(pair.nodes[1].admin.contains_key(&down), "the disk is given up");
    no_timer_has_passed(&pair);
}

#[test]
fn clients_of_an_only_disk_that_failed_are_disconnected_when_it_is_back() {
    let mut pair = synced_pair();
    let clients = |pair: &Pair| pair.status(0).devices[0].clients.len();
    let fails_and_is_back = |pair: &mut Pair| {
        pair.nodes[0].fail = is_write;
        let answer = pair.write(0, 2, 2);
        pair.nodes[0].fail = |_| false;
        pair.attach(0).unwrap();
        pair.run(1000);
        answer
    };
    // The peer has all that was answered, and goes on.
    assert_eq!(fails_and_is_back(&mut pair), Ok(None));
    assert_eq!((clients(&pair), pair.nodes[0].lost_caches), (1, 0));
    pair.synced();
    // Alone: what was not flushed may be gone, and a flush must not be answered.
    pair.lose_link();
    assert_eq!(pair.write(0, 1, 1), Ok(None));
    assert_eq!(fails_and_is_back(&mut pair), Err(ReplyError::Io));
    assert_eq!((clients(&pair), pair.nodes[0].lost_caches), (0, 1));
    let log = pair.nodes[0].log.join("\n");
    assert!(log.contains("its clients are disconnected"), "{log}");
}

#[test]
fn a_disk_that_failed_is_not_taken_back_where_the_copy_that_served_clients_was_lost() {
    let mut pair = synced_pair();
    assert_eq!(pair.write(0, 1, 1), Ok(None));
    pair.nodes[0].fail = |action| matches!(action, Action::DiskFlush { .. });
    assert_eq!(pair.request(0, 1001, Op::Flush), Ok(None), "the peer has flushed");
    assert_eq!(pair.disk(0), DiskState::Diskless);
    pair.nodes[0].fail = |_| false;
    pair.lose_link();
    // So no flush is answered for what the failed one may lack, and clients need not be disconnected.
    assert_eq!(pair.attach(0).unwrap_err().code, 150);
    assert_eq!(pair.status(0).devices[0].clients.len(), 1);
}

/// Seed 860669. The other node has lost its power, and with it what it had not flushed: the disk that has survived
/// is the only one that has it all, and what fails on it before anything was answered takes nothing of that away.
#[test]
fn a_survivor_whose_first_write_alone_fails_still_has_what_was_acknowledged() {
    let mut pair = synced_pair();
    assert_eq!(pair.write(0, 6, 66), Ok(None));
    pair.lose_power(0);
    assert_ne!(pair.block(0, 6), 66);
    pair.primary(1, false);
    pair.nodes[1].fail = |action| matches!(action, Action::DiskWrite { fua: true, .. });
    let payload = pair.nodes[1].payload(4096, vec![77]);
    let write = pair.request(1, 900, Op::Write { offset: 7 * 4096, payload, fua: true });
    assert_eq!(write, Err(ReplyError::Io));
    assert_eq!(pair.disk(1), DiskState::Diskless);
    pair.nodes[1].fail = |_| false;
    pair.attach(1).unwrap();
    assert_eq!(pair.disk(1), DiskState::UpToDate, "{}", pair.told(1));
    pair.up(0);
    pair.synced();
    assert_eq!([0, 1].map(|n| pair.block(n, 6)), [66, 66], "{}", pair.told(0));
}
