//! Stories of `primary --hand-over`.

use super::pair::{Pair, synced_pair};
use crate::meta::DeviceFlags;
use crate::resource::*;
use crate::wire::Packet;

fn is_write(action: &Action) -> bool {
    matches!(action, Action::DiskWrite { .. })
}

pub(super) fn is_superblock(action: &Action) -> bool {
    matches!(action, Action::Meta { op: crate::meta::MetaOp::Superblock(_), .. })
}

impl Pair {
    fn roles(&self) -> [Role; 2] {
        [0, 1].map(|n| self.status(n).role)
    }

    fn answer(&mut self, n: usize, id: u64) -> Option<AdminResult> {
        self.nodes[n].admin.remove(&id)
    }

    fn refused(&mut self, code: i32, part: &str) {
        let id = self.order(1, Command::HandOver);
        self.run(100);
        let refusal = self.answer(1, id).expect("answered at once").unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(refusal.hint.contains(part), "{refusal}");
        assert_eq!(self.roles(), [Role::Primary, Role::Secondary]);
    }

    fn options(&mut self, n: usize, change: fn(&mut Options)) {
        let mut options = Box::new(self.core(n).config.options.clone());
        change(&mut options);
        let volumes = std::collections::BTreeMap::new();
        self.admin(n, Command::SetOptions { options, volumes }).unwrap();
    }

    fn open(&mut self, n: usize) {
        let session = SessionId(n as u64 + 1);
        self.event(n, Event::SessionOpened { session, volume: 0, client: "test".into() });
    }

    /// Its disk says that it is Primary.
    fn is_marked(&self, n: usize) -> bool {
        let superblock = self.nodes[n].disk.superblock.as_ref().unwrap();
        superblock.flags & DeviceFlags::PRIMARY_IND != 0
    }

    fn said(&self, n: usize) -> String {
        self.nodes[n].log.join("\n")
    }
}

#[test]
fn the_role_moves_with_every_answer_given_and_both_disks_flushed() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_write;
    let under_way = pair.start_write(0, 21, 9);
    let id = pair.order(1, Command::HandOver);
    let read = 4_000;
    pair.request_later(0, read, Op::Read { offset: 5 * 4096, length: 4096 });
    pair.settle();
    assert_eq!(pair.nodes[0].replies.get(&read), None, "answers wait for each other");
    assert!(pair.core(0).export(0).is_err(), "nobody new comes in");
    pair.nodes[0].unstall();
    pair.run(100);
    assert_eq!(pair.answer(1, id), Some(Ok(String::new())), "{}", pair.said(0));
    assert_eq!(pair.roles(), [Role::Secondary, Role::Primary]);
    assert_eq!(pair.nodes[0].replies.get(&under_way), Some(&Ok(None)));
    assert_eq!(pair.nodes[0].replies.get(&read), Some(&Ok(Some(55))));
    assert!(pair.status(0).devices[0].clients.is_empty(), "its clients have been closed");
    let unflushed = pair.core(0).connections[0].peer_devices[&0].transfer_log.is_empty();
    assert!(unflushed, "nothing unflushed is left behind");
    assert!(!pair.is_marked(0));
    assert!(pair.is_marked(1));
    pair.open(1);
    assert_eq!(pair.write(1, 22, 10), Ok(None));
    pair.synced();
    // And back.
    let id = pair.order(0, Command::HandOver);
    pair.run(100);
    assert_eq!(pair.answer(0, id), Some(Ok(String::new())));
    assert_eq!(pair.roles(), [Role::Primary, Role::Secondary]);
    pair.synced();
}

#[test]
fn a_client_that_never_pauses_is_cut_off_without_an_error() {
    let mut pair = synced_pair();
    let id = pair.order(1, Command::HandOver);
    let mut sent = Vec::new();
    for turn in 0..90 {
        sent.push(pair.start_write(0, 30 + turn % 4, 100 + turn));
        pair.run(5);
    }
    assert_eq!(pair.answer(1, id), Some(Ok(String::new())), "{}", pair.said(0));
    assert_eq!(pair.roles(), [Role::Secondary, Role::Primary]);
    let late = Err(ReplyError::Shutdown);
    let replies = &pair.nodes[0].replies;
    let answered: Vec<_> = sent.iter().filter(|id| replies.get(id) == Some(&Ok(None))).collect();
    let first = sent.iter().position(|id| replies.get(id) == Some(&late));
    assert!(answered.len() > 30 && answered.len() < 90, "{}", answered.len());
    // What came before the connection was closed was answered well, or not at all.
    let closed = first.expect("some came when it was closed");
    assert!(sent[..closed].iter().all(|id| replies.get(id).is_none_or(Result::is_ok)));
    pair.run(100);
    pair.synced();
}

#[test]
fn what_cannot_hand_over_says_why_and_what_to_do() {
    let mut pair = synced_pair();
    assert_eq!(pair.admin(0, Command::HandOver), Ok(String::new()), "it is Primary");
    pair.admin(0, Command::SuspendIo { suspend: true }).unwrap();
    pair.refused(-10, "`tandemadm resume-io r0` there");
    pair.admin(0, Command::SuspendIo { suspend: false }).unwrap();
    pair.options(0, |options| options.hand_over_timeout_ms = 0);
    pair.refused(-10, "`hand-over-timeout` is 0 on alice");
    pair.options(0, |options| options.hand_over_timeout_ms = 1_000);
    pair.nodes[0].stall = is_write;
    pair.start_write(0, 3, 3);
    pair.run(5_500);
    pair.refused(-10, "A disk on alice does not answer");
    pair.nodes[0].unstall();
    pair.run(100);
    let wait = pair.order(0, Command::Secondary { force: false, wait_ms: 2_000 });
    pair.refused(-18, "Another order or a handshake runs on alice");
    pair.run(2_100);
    assert!(pair.answer(0, wait).unwrap().is_err(), "its client has not left");
    let socket = pair.core(1).connections[0].active.unwrap();
    let core = pair.nodes[1].core.as_mut().unwrap();
    core.connections[0].sockets.get_mut(&socket).unwrap().hands_over = false;
    pair.refused(-10, "is older than this one");
    let core = pair.nodes[1].core.as_mut().unwrap();
    core.connections[0].sockets.get_mut(&socket).unwrap().hands_over = true;
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    pair.refused(-2, "r0/0 is Diskless here and UpToDate on alice");
    pair.attach(1).unwrap();
    pair.synced();
    pair.lose_link();
    pair.refused(-15, "alice is not connected");
}

#[test]
fn with_nobody_primary_it_is_a_promotion() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    assert_eq!(pair.admin(1, Command::HandOver), Ok(String::new()));
    assert_eq!(pair.roles(), [Role::Secondary, Role::Primary]);
}

#[test]
fn a_drain_that_does_not_end_leaves_the_primary_as_it_was() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_write;
    let stuck = pair.start_write(0, 21, 9);
    let id = pair.order(1, Command::HandOver);
    pair.run(100);
    let read = 4_000;
    pair.request_later(0, read, Op::Read { offset: 5 * 4096, length: 4096 });
    pair.run(2_000);
    assert_eq!(pair.answer(1, id), None);
    assert_eq!(pair.status(0).order.unwrap().verb, "hand-over");
    pair.run(1_000);
    let refusal = pair.answer(1, id).expect("in its time").unwrap_err();
    assert_eq!(refusal.code, -23, "{refusal}");
    assert!(refusal.hint.contains("alice stays Primary"), "{refusal}");
    assert_eq!(pair.roles(), [Role::Primary, Role::Secondary]);
    assert_eq!(pair.nodes[0].replies.get(&read), Some(&Ok(Some(55))), "clients go on");
    pair.nodes[0].unstall();
    pair.run(100);
    assert_eq!(pair.nodes[0].replies.get(&stuck), Some(&Ok(None)));
    assert_eq!(pair.write(0, 22, 10), Ok(None));
    pair.synced();
}

#[test]
fn a_connection_that_is_lost_while_requests_drain_leaves_the_primary() {
    let mut pair = synced_pair();
    let written = pair.start_write(0, 20, 8);
    assert_eq!(pair.nodes[0].replies.get(&written), Some(&Ok(None)));
    let id = pair.order(1, Command::HandOver);
    let held = pair.start_write(0, 21, 9);
    assert_eq!(pair.nodes[1].disk.blocks.get(&21), Some(&9), "both have it");
    assert_eq!(pair.nodes[0].replies.get(&held), None);
    // The loss is recorded before the answer that rests on one disk now is given.
    pair.nodes[0].stall = is_superblock;
    pair.lose_link();
    let refusal = pair.answer(1, id).unwrap().unwrap_err();
    assert_eq!(refusal.code, -15, "{refusal}");
    pair.run(20);
    assert_eq!(pair.nodes[0].replies.get(&held), None, "not before it is recorded");
    pair.nodes[0].unstall();
    pair.run(100);
    assert_eq!(pair.nodes[0].replies.get(&held), Some(&Ok(None)));
    assert_eq!(pair.roles(), [Role::Primary, Role::Secondary]);
    assert_eq!(pair.write(0, 22, 10), Ok(None));
    pair.link = true;
    pair.synced();
}

/// Seed 3284: the peer is gone, and then the own disk, before the answers are given.
#[test]
fn an_answer_that_was_held_back_until_no_copy_is_left_is_an_error() {
    let mut pair = synced_pair();
    let id = pair.order(1, Command::HandOver);
    let (held, read) = (pair.start_write(0, 21, 9), 4_000);
    pair.request_later(0, read, Op::Read { offset: 5 * 4096, length: 4096 });
    pair.settle();
    // The loss is not flushed before the disk is given up.
    pair.nodes[0].stall = |action| matches!(action, Action::DiskFlush { .. });
    pair.lose_link();
    assert!(pair.answer(1, id).unwrap().is_err());
    assert_eq!(pair.nodes[0].replies.get(&held), None);
    pair.nodes[0].fail = |action| matches!(action, Action::DiskFlush { .. });
    pair.nodes[0].unstall();
    let detach = pair.order(0, Command::Detach { volume: 0, force: true });
    pair.run(10_000);
    assert_eq!(pair.disk(0), DiskState::Diskless, "{:?} {}", pair.answer(0, detach), pair.said(0));
    assert_eq!(pair.nodes[0].replies.get(&held), Some(&Err(ReplyError::Io)));
    assert_eq!(pair.nodes[0].replies.get(&read), Some(&Ok(Some(55))), "it was there");
}

/// Seed 400007: a copy is there again, and its system has lost what it had not flushed.
#[test]
fn an_answer_that_was_held_back_is_an_error_where_the_copy_that_comes_back_may_lack_it() {
    let mut pair = synced_pair();
    pair.options(0, |options| {
        options.disk_timeout_ms = 2_000;
        options.fencing = Fencing::ResourceAndStonith;
    });
    pair.order(1, Command::HandOver);
    let held = pair.start_write(0, 21, 9);
    pair.settle();
    assert_eq!(pair.nodes[0].replies.get(&held), None);
    pair.nodes[0].stall = |action| matches!(action, Action::DiskFlush { .. });
    pair.lose_power(1);
    pair.up(1);
    pair.run(100);
    assert_eq!(pair.nodes[0].replies.get(&held), None, "the loss is not recorded");
    // The disk hangs, and is given up.
    pair.run(10_000);
    assert_eq!(pair.disk(1), DiskState::Consistent, "{}", pair.said(0));
    assert_eq!(pair.nodes[0].replies.get(&held), Some(&Err(ReplyError::Io)), "{}", pair.said(0));
}

#[test]
fn a_connection_that_is_lost_as_the_marks_are_written_leaves_the_primary() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_superblock;
    let id = pair.order(1, Command::HandOver);
    pair.run(100);
    assert!(!pair.nodes[0].stalled.is_empty(), "the marks of a Secondary are on their way");
    pair.link = false;
    pair.cut();
    pair.settle();
    assert!(pair.answer(1, id).unwrap().is_err());
    pair.nodes[0].unstall();
    pair.run(200);
    assert_eq!(pair.roles(), [Role::Primary, Role::Secondary], "{}", pair.said(0));
    assert!(pair.is_marked(0));
    assert_eq!(pair.write(0, 22, 10), Ok(None), "its client is still there");
    pair.link = true;
    pair.synced();
}

#[test]
fn a_node_that_gives_up_asking_leaves_the_primary() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_superblock;
    let id = pair.order(1, Command::HandOver);
    pair.run(29_000);
    assert_eq!(pair.answer(1, id), None);
    pair.run(2_000);
    let refusal = pair.answer(1, id).unwrap().unwrap_err();
    assert_eq!(refusal.code, -23, "{refusal}");
    pair.nodes[0].unstall();
    pair.run(200);
    assert_eq!(pair.roles(), [Role::Primary, Role::Secondary], "{}", pair.said(0));
    assert_eq!(pair.write(0, 22, 10), Ok(None), "its client is still there");
    pair.synced();
}

#[test]
fn a_node_that_is_lost_when_the_other_has_handed_over_leaves_no_primary_and_no_order() {
    let mut pair = synced_pair();
    pair.nodes[0].mute = true;
    let id = pair.order(1, Command::HandOver);
    pair.run(100);
    assert_eq!(pair.roles(), [Role::Primary, Role::Secondary], "it cannot even flush there");
    pair.nodes[0].mute = false;
    pair.nodes[0].air.clear();
    pair.lose_link();
    pair.run(100);
    assert_eq!(pair.answer(1, id).unwrap().unwrap_err().code, -15);
    assert_eq!(pair.write(0, 22, 10), Ok(None));
    pair.link = true;
    pair.synced();
    // Now the word that it is done is lost.
    pair.nodes[1].stall = is_superblock;
    let id = pair.order(1, Command::HandOver);
    pair.run(100);
    assert_eq!(pair.roles(), [Role::Secondary, Role::Secondary], "this one is being promoted");
    pair.kill(1);
    pair.cut();
    pair.run(100);
    assert_eq!(pair.answer(1, id), None);
    assert_eq!(pair.status(0).role, Role::Secondary);
    pair.nodes[1].stall = |_| false;
    pair.primary(0, false);
    assert_eq!(pair.write(0, 23, 11), Ok(None));
    pair.up(1);
    pair.synced();
}

#[test]
fn a_disk_that_fails_in_the_middle_ends_it() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_write;
    let id = pair.order(1, Command::HandOver);
    let stuck = pair.start_write(0, 21, 9);
    pair.nodes[1].fail = is_write;
    let second = pair.start_write(0, 40, 9);
    pair.run(100);
    let refusal = pair.answer(1, id).unwrap().unwrap_err();
    assert_eq!(refusal.code, -2, "{refusal}");
    pair.nodes[0].unstall();
    pair.run(100);
    for id in [stuck, second] {
        assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    }
    assert_eq!(pair.roles(), [Role::Primary, Role::Secondary]);
}

#[test]
fn a_disk_that_hangs_on_the_marks_is_given_up_by_order_and_the_primary_goes_on_without_it() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_superblock;
    let id = pair.order(1, Command::HandOver);
    pair.run(6_000);
    let detach = pair.order(0, Command::Detach { volume: 0, force: true });
    pair.run(10_000);
    assert!(pair.answer(0, detach).expect("answered").is_ok(), "{}", pair.said(0));
    let refusal = pair.answer(1, id).expect("answered").unwrap_err();
    assert_eq!(refusal.code, -2, "{refusal}");
    assert_eq!(pair.roles(), [Role::Primary, Role::Secondary]);
    let write = pair.start_write(0, 21, 9);
    pair.run(100);
    assert_eq!(pair.nodes[0].replies.get(&write), Some(&Ok(None)), "on the peer's disk");
    assert_eq!(pair.nodes[1].disk.blocks.get(&21), Some(&9));
}

#[test]
fn devices_of_the_daemon_are_detached_first_and_one_in_use_is_in_the_way() {
    let mut pair = synced_pair();
    pair.options(0, |options| options.device_attach_auto = true);
    for (in_use, after) in [(true, Role::Primary), (false, Role::Secondary)] {
        let id = pair.order(1, Command::HandOver);
        pair.run(500);
        assert_eq!(pair.answer(1, id), None);
        assert_eq!(pair.status(0).order.unwrap().waits_for, DETACHES);
        let write = pair.start_write(0, 21, 9);
        assert_eq!(pair.nodes[0].replies.get(&write), Some(&Ok(None)), "a device can be flushed");
        pair.admin(0, Command::DevicesDetached { in_use }).unwrap();
        pair.run(200);
        let code = pair.answer(1, id).unwrap().map_err(|refusal| refusal.code);
        assert_eq!(code.err(), in_use.then_some(-12));
        assert_eq!(pair.status(0).role, after);
    }
    // Nobody waits for it.
    pair.admin(0, Command::DevicesDetached { in_use: true }).unwrap();
}

#[test]
fn an_answer_that_rests_on_the_peer_alone_waits_until_that_is_recorded() {
    let mut pair = synced_pair();
    let id = pair.order(1, Command::HandOver);
    let held = pair.start_write(0, 21, 9);
    assert_eq!(pair.nodes[0].replies.get(&held), None);
    pair.nodes[0].fail = is_write;
    pair.nodes[1].stall = is_superblock;
    let second = pair.start_write(0, 40, 9);
    pair.run(20);
    assert_eq!(pair.answer(1, id).unwrap().unwrap_err().code, -2);
    for id in [held, second] {
        assert_eq!(pair.nodes[0].replies.get(&id), None, "the peer has not stored the new UUID");
    }
    pair.nodes[1].unstall();
    pair.run(100);
    for id in [held, second] {
        assert_eq!(pair.nodes[0].replies.get(&id), Some(&Ok(None)));
    }
    assert_eq!(pair.roles(), [Role::Primary, Role::Secondary]);
}

#[test]
fn a_client_that_knocks_does_not_take_the_role_back() {
    let mut pair = synced_pair();
    for n in 0..2 {
        pair.options(n, |options| options.auto_promote = true);
    }
    pair.nodes[1].stall = is_superblock;
    let id = pair.order(1, Command::HandOver);
    pair.run(100);
    assert_eq!(pair.roles(), [Role::Secondary, Role::Secondary]);
    let refusal = pair.admin(0, Command::AutoPromote).unwrap_err();
    assert!(refusal.hint.contains("just handed over"), "{refusal}");
    pair.nodes[1].unstall();
    pair.run(100);
    assert_eq!(pair.answer(1, id), Some(Ok(String::new())));
    assert_eq!(pair.roles(), [Role::Secondary, Role::Primary]);
    // Made Primary again by order, it serves whoever comes.
    let back = pair.order(0, Command::HandOver);
    pair.run(1_000);
    assert_eq!(pair.answer(0, back), Some(Ok(String::new())));
    pair.admin(0, Command::AutoPromote).unwrap();
}

#[test]
fn a_second_question_and_one_that_is_taken_back_change_nothing() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_write;
    let stuck = pair.start_write(0, 21, 9);
    let id = pair.order(1, Command::HandOver);
    let socket = pair.core(0).connections[0].active.unwrap();
    let ask = |sequence, cancel| Packet::HandOver { sequence, cancel };
    for (sequence, cancel) in [(900, false), (901, true)] {
        pair.event(0, Event::Packet { socket, packet: ask(sequence, cancel), payload: None });
    }
    assert_eq!(pair.status(0).order.unwrap().verb, "hand-over", "it goes on");
    // The answer to a question that was never asked is a fault of the peer.
    pair.settle();
    pair.run(100);
    assert!(pair.answer(1, id).unwrap().is_err());
    pair.nodes[0].unstall();
    pair.run(100);
    assert_eq!(pair.nodes[0].replies.get(&stuck), Some(&Ok(None)));
    assert_eq!(pair.roles(), [Role::Primary, Role::Secondary]);
    pair.synced();
}

#[test]
fn io_that_is_frozen_in_the_middle_stays_frozen_here() {
    for marks in [false, true] {
        let mut pair = synced_pair();
        pair.nodes[0].stall = if marks { is_superblock } else { is_write };
        let under_way = pair.start_write(0, 21, 9);
        let id = pair.order(1, Command::HandOver);
        pair.run(100);
        // Who makes a copy of the disk now has been told that nothing changes it.
        assert_eq!(pair.admin(0, Command::SuspendIo { suspend: true }), Ok(String::new()));
        let frozen = pair.start_write(0, 22, 10);
        pair.nodes[0].unstall();
        pair.run(500);
        let refusal = pair.answer(1, id).expect("answered").unwrap_err();
        assert!(refusal.hint.contains("`tandemadm resume-io r0` there"), "{refusal}");
        assert_eq!(pair.roles(), [Role::Primary, Role::Secondary], "{}", pair.said(0));
        assert!(pair.is_marked(0));
        assert_eq!(pair.nodes[0].replies.get(&under_way), Some(&Ok(None)));
        assert_eq!(pair.nodes[0].replies.get(&frozen), None);
        pair.admin(0, Command::SuspendIo { suspend: false }).unwrap();
        pair.run(100);
        assert_eq!(pair.nodes[0].replies.get(&frozen), Some(&Ok(None)));
        pair.synced();
    }
}

#[test]
fn a_node_that_is_frozen_at_any_step_asks_its_peer_before_it_serves_again() {
    type Stall = fn(&Action) -> bool;
    let steps: [(usize, Stall); 5] = [
        (0, is_write),
        (0, |action| matches!(action, Action::DiskFlush { .. })),
        (1, |action| matches!(action, Action::DiskFlush { .. })),
        (0, is_superblock),
        (1, is_superblock),
    ];
    for (step, (n, stall)) in steps.into_iter().enumerate() {
        for goes_on in [false, true] {
            let mut pair = synced_pair();
            let mut acknowledged = Vec::new();
            pair.nodes[n].stall = stall;
            let id = pair.order(1, Command::HandOver);
            let write = pair.start_write(0, 21, 9);
            pair.run(400);
            acknowledged.extend(pair.nodes[0].replies.get(&write).copied());
            let handed = pair.status(0).role == Role::Secondary;
            assert_eq!(handed, step == 4);
            // It stands still, and the other one gives it up.
            pair.nodes[0].sockets.clear();
            pair.loss_is_seen_by(1);
            pair.nodes[1].unstall();
            let asked = std::mem::take(&mut pair.nodes[0].done);
            pair.settle();
            let answer = pair.answer(1, id).expect("answered");
            assert_eq!(answer.is_ok(), handed, "step {step}: {answer:?}");
            if goes_on && !handed {
                pair.admin(1, Command::Primary { force: None }).unwrap();
            }
            let moved = pair.status(1).role == Role::Primary;
            if moved {
                pair.open(1);
                assert_eq!(pair.write(1, 40, 11), Ok(None));
            }
            pair.link = true;
            pair.event(0, Event::ClockGap { gap_ms: 3_000 });
            assert!(pair.core(0).export(0).is_err(), "step {step}: it asks first");
            pair.nodes[0].done.extend(asked);
            pair.nodes[0].unstall();
            pair.run(20_000);
            assert_eq!(
                pair.core(0).export(0).is_err(),
                moved,
                "step {step}: {}\n{}",
                pair.said(0),
                pair.said(1)
            );
            if pair.status(0).role == Role::Primary && moved {
                pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
                pair.connect_both();
            }
            pair.synced();
            if acknowledged == [Ok(None)] {
                assert_eq!(pair.nodes[1].disk.blocks.get(&21), Some(&9));
            }
        }
    }
}
