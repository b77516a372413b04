//! Stories of disks that hang: `disk-timeout`, an attach, a `down`, the end of the daemon.

use std::collections::BTreeMap;

use super::pair::{Pair, config, synced_pair};
use crate::resource::*;

impl Pair {
    fn disk_timeout(&mut self, n: usize, ms: u64) {
        let node = u8::try_from(n).unwrap();
        let options = Box::new(Options { disk_timeout_ms: ms, ..config(node).options });
        self.admin(n, Command::SetOptions { options, volumes: BTreeMap::new() }).unwrap();
    }

    /// A peer that does not answer stays connected.
    fn no_ko_count(&mut self) {
        for node in [0, 1] {
            let options = Box::new(Options { ko_count: 0, ..config(node).options });
            let command = Command::SetOptions { options, volumes: BTreeMap::new() };
            self.admin(usize::from(node), command).unwrap();
        }
    }

    fn hung_ms(&self, n: usize) -> Option<u64> {
        self.status(n).devices[0].hung_ms
    }

    fn lines(&self, n: usize, what: &str) -> usize {
        self.nodes[n].log.iter().filter(|line| line.contains(what)).count()
    }
}

fn is_disk(action: &Action) -> bool {
    matches!(
        action,
        Action::DiskRead { .. }
            | Action::DiskWrite { .. }
            | Action::DiskZeroes { .. }
            | Action::DiskFlush { .. }
            | Action::Meta { .. }
    )
}

fn leave(pair: &mut Pair) {
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
}

#[test]
fn a_disk_that_does_not_answer_within_disk_timeout_has_failed() {
    for n in [0, 1] {
        let mut pair = synced_pair();
        pair.disk_timeout(n, 3_000);
        pair.nodes[n].stall = is_disk;
        let write = pair.start_write(0, 21, 9);
        let flush = 5001;
        pair.request_later(0, flush, Op::Flush);
        pair.run(2_900);
        assert_eq!(pair.nodes[0].replies.get(&write), None, "node {n}");
        pair.run(200);
        assert_eq!(pair.nodes[0].replies.get(&write), Some(&Ok(None)), "node {n}");
        assert_eq!(pair.nodes[0].replies.get(&flush), Some(&Ok(None)), "node {n}");
        assert_eq!(pair.disk(n), DiskState::Failed, "something is under way on it");
        assert_eq!(pair.lines(n, "did not answer for 3.0 s (disk-timeout); given up"), 1);
        assert_eq!(pair.write(0, 22, 9), Ok(None));
        pair.run(60_000);
        pair.nodes[n].unstall();
        pair.run(100);
        assert_eq!(pair.disk(n), DiskState::Diskless);
        pair.attach(n).unwrap();
        pair.synced();
    }
}

#[test]
fn without_disk_timeout_a_disk_that_hangs_is_waited_for_and_said_once() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_disk;
    let write = pair.start_write(0, 21, 9);
    pair.run(4_900);
    assert_eq!(pair.hung_ms(0), None);
    pair.run(200);
    assert!(pair.hung_ms(0).is_some_and(|ms| ms >= 5_000));
    pair.run(300_000);
    assert_eq!(pair.nodes[0].replies.get(&write), None);
    assert_eq!(pair.disk(0), DiskState::UpToDate);
    assert_eq!(pair.lines(0, "does not answer"), 1);
    pair.nodes[0].unstall();
    pair.settle();
    assert_eq!(pair.hung_ms(0), None);
    assert_eq!(pair.lines(0, "answers again"), 1);
    assert_eq!(pair.nodes[0].replies.get(&write), Some(&Ok(None)));
    pair.synced();
}

#[test]
fn time_in_which_this_process_did_not_run_is_not_the_disks() {
    let mut pair = synced_pair();
    pair.disk_timeout(0, 3_000);
    pair.nodes[0].stall = is_disk;
    pair.start_write(0, 21, 9);
    pair.run(1_000);
    pair.now = pair.now.after_ms(60_000);
    pair.event(0, Event::ClockGap { gap_ms: 60_000 });
    pair.run(2_500);
    assert_eq!(pair.disk(0), DiskState::UpToDate);
    pair.run(1_000);
    assert_eq!(pair.disk(0), DiskState::Failed);
}

#[test]
fn a_disk_timeout_that_is_set_while_the_disk_hangs_acts_at_once() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_disk;
    let write = pair.start_write(0, 21, 9);
    pair.run(20_000);
    pair.disk_timeout(0, 3_000);
    assert_eq!(pair.disk(0), DiskState::Failed);
    assert_eq!(pair.nodes[0].replies.get(&write), Some(&Ok(None)));
}

#[test]
fn an_attach_whose_disk_hangs_is_refused_and_the_disk_is_the_systems() {
    let mut pair = synced_pair();
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    pair.nodes[1].stall = is_disk;
    let command = pair.attach_command(1);
    let attach = pair.order(1, command);
    pair.run(29_000);
    assert_eq!(pair.nodes[1].admin.get(&attach), None);
    pair.run(2_000);
    let refusal = pair.nodes[1].admin.remove(&attach).expect("answered").expect_err("it hangs");
    assert_eq!(refusal.code, 118);
    assert!(refusal.hint.contains("does not answer"), "{refusal:?}");
    assert_eq!(pair.disk(1), DiskState::Failed);
    assert_eq!(pair.write(0, 30, 3), Ok(None), "nobody waits for it");
    assert_eq!(pair.attach(1).expect_err("it is in use").code, 124);
    pair.nodes[1].unstall();
    pair.run(100);
    assert_eq!(pair.disk(1), DiskState::Diskless);
    pair.attach(1).unwrap();
    pair.synced();
}

#[test]
fn a_down_ends_without_a_disk_that_was_given_up() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_disk;
    pair.start_write(0, 21, 9);
    pair.order(0, Command::Detach { volume: 0, force: true });
    pair.run(7_000);
    leave(&mut pair);
    let text = pair.admin(0, Command::Down { shutdown: false }).expect("down");
    assert!(text.contains("The disk of r0/0 hangs"), "{text}");
    assert_eq!(pair.status(1).connections[0].connection_state, ConnectionState::Connecting);
}

#[test]
fn a_down_or_the_end_of_the_daemon_gives_a_disk_up_that_hangs() {
    for (shutdown, request, ends_ms) in
        [(true, true, 21_000), (true, false, 21_000), (false, false, 31_000)]
    {
        let mut pair = synced_pair();
        pair.write(0, 8, 8).unwrap();
        pair.nodes[0].stall = is_disk;
        if request {
            pair.start_write(0, 21, 9);
        }
        leave(&mut pair);
        let down = pair.order(0, Command::Down { shutdown });
        pair.run(ends_ms - 2_000);
        assert_eq!(pair.nodes[0].admin.get(&down), None, "{shutdown} {request}");
        pair.run(2_000);
        let answer = pair.nodes[0].admin.remove(&down).expect("it ends").expect("done");
        assert!(answer.contains("hangs and was given up"), "{shutdown} {request}: {answer}");
        // What is under way is the system's, and nothing that was acknowledged is lost.
        pair.kill(0);
        pair.nodes[0].stall = |_| false;
        pair.up(0);
        pair.synced();
        assert_eq!(pair.nodes[0].disk.blocks.get(&8), Some(&8));
    }
}

#[test]
fn a_down_whose_clients_wait_for_a_hung_disk_asks_the_administrator() {
    let mut pair = synced_pair();
    pair.nodes[0].stall = is_disk;
    pair.start_write(0, 21, 9);
    leave(&mut pair);
    let down = pair.order(0, Command::Down { shutdown: false });
    pair.run(31_000);
    let refusal = pair.nodes[0].admin.remove(&down).expect("answered").expect_err("it hangs");
    assert_eq!(refusal.code, -23);
    assert!(refusal.hint.contains("detach --force"), "{refusal:?}");
    pair.nodes[0].unstall();
    pair.synced();
}

#[test]
fn the_end_of_the_daemon_leaves_a_peer_whose_disk_hangs_and_keeps_what_was_acknowledged() {
    // The Primary ends, with a write under way or idle; the Secondary does.
    for (ends, request) in [(0, true), (0, false), (1, false)] {
        let mut pair = synced_pair();
        pair.write(0, 8, 8).unwrap();
        pair.nodes[1 - ends].stall = is_disk;
        if request {
            pair.start_write(0, 21, 9);
        }
        pair.run(100);
        if ends == 0 {
            leave(&mut pair);
        }
        let down = pair.order(ends, Command::Down { shutdown: true });
        pair.run(19_000);
        assert_eq!(pair.nodes[ends].admin.get(&down), None, "{ends} {request}");
        pair.run(2_000);
        let answer = pair.nodes[ends].admin.remove(&down).expect("it ends");
        assert_eq!(answer, Ok(String::new()), "{ends} {request}");
        assert_eq!(pair.lines(ends, "left without its answer"), 1, "{ends} {request}");
        assert_eq!(pair.nodes[ends].disk.blocks.get(&8), Some(&8));
        pair.nodes[1 - ends].unstall();
        pair.run(1_000);
        pair.kill(ends);
        pair.up(ends);
        pair.synced();
        assert_eq!(pair.nodes[ends].disk.blocks.get(&8), Some(&8));
    }
}

#[test]
fn who_leaves_a_peer_whose_disk_hangs_is_gone_in_30_s_and_is_told_of_it() {
    let disconnect = Command::Disconnect { peer: 1, force: false, for_ms: None };
    let down = Command::Down { shutdown: false };
    for (command, ko_count) in
        [(&disconnect, true), (&disconnect, false), (&down, true), (&down, false)]
    {
        // With a write under way no client is left for whom a `down` could decide: it is refused.
        for request in [false, true] {
            let story = format!("{command:?} ko-count {ko_count} {request}");
            let mut pair = synced_pair();
            if !ko_count {
                pair.no_ko_count();
            }
            pair.write(0, 8, 8).unwrap();
            pair.nodes[1].stall = is_disk;
            let write = request.then(|| pair.start_write(0, 21, 9));
            if *command == down {
                leave(&mut pair);
            }
            let order = pair.order(0, command.clone());
            pair.run(29_000);
            assert_eq!(pair.nodes[0].admin.get(&order), None, "{story}");
            pair.run(2_000);
            let answer = pair.nodes[0].admin.remove(&order).expect("in time");
            if request && *command == down {
                let refusal = answer.expect_err("a write is under way");
                assert_eq!(refusal.code, -23, "{story}");
                assert!(refusal.hint.contains("bob, which has not"), "{story}: {}", refusal.hint);
                continue;
            }
            let text = answer.unwrap_or_else(|refusal| panic!("{story}: {refusal:?}"));
            assert_eq!(pair.lines(0, "left without its answer"), 1, "{story}");
            if *command == disconnect {
                assert!(text.contains("bob, which has not answered for"), "{story}: {text}");
                let state = pair.status(0).connections[0].connection_state;
                assert_eq!(state, ConnectionState::StandAlone, "{story}");
                assert_eq!(pair.status(0).role, Role::Primary, "{story}");
            }
            if let Some(write) = write {
                assert_eq!(pair.nodes[0].replies.get(&write), Some(&Ok(None)), "{story}");
            }
            assert_eq!(pair.nodes[0].disk.blocks.get(&8), Some(&8), "{story}");
        }
    }
}

#[test]
fn who_leaves_while_the_own_disk_hangs_is_gone_in_30_s_and_loses_nothing() {
    for n in [0, 1] {
        let mut pair = synced_pair();
        pair.nodes[n].stall = is_disk;
        let write = pair.start_write(0, 21, 9);
        let peer = u8::from(n == 0);
        let order = pair.order(n, Command::Disconnect { peer, force: false, for_ms: None });
        pair.run(31_000);
        let text = pair.nodes[n].admin.remove(&order).expect("in time").expect("done");
        assert!(text.contains("the disk of r0/0, which has not"), "node {n}: {text}");
        let state = pair.status(n).connections[0].connection_state;
        assert_eq!(state, ConnectionState::StandAlone, "node {n}");
        pair.nodes[n].unstall();
        pair.run(1_000);
        assert_eq!(pair.nodes[0].replies.get(&write), Some(&Ok(None)), "node {n}");
        pair.admin(n, Command::Connect { peer, discard_my_data: false, tentative: false }).unwrap();
        pair.synced();
        assert_eq!(pair.nodes[1].disk.blocks.get(&21), Some(&9), "node {n}");
    }
}

#[test]
fn an_order_that_waits_for_a_hung_disk_says_for_which_and_is_refused_in_time() {
    let detach = Command::Detach { volume: 0, force: false };
    let demote = Command::Secondary { force: false, wait_ms: 0 };
    for command in [detach, demote] {
        for (hangs, request) in [(0, true), (0, false), (1, true), (1, false)] {
            let mut pair = synced_pair();
            pair.no_ko_count();
            pair.write(0, 8, 8).unwrap();
            pair.nodes[hangs].stall = is_disk;
            if request {
                pair.start_write(0, 21, 9);
            }
            leave(&mut pair);
            let story = format!("{command:?} {hangs} {request}");
            let order = pair.order(0, command.clone());
            pair.run(10_000);
            let shown = pair.status(0).order.expect("it runs");
            let named = if hangs == 0 { "the disk of r0/0" } else { "bob, which has not answered" };
            assert_eq!((shown.verb.as_str(), shown.behind), (command.verb(), 0), "{story}");
            assert!(shown.waits_for.contains(named), "{story}: {}", shown.waits_for);
            assert!((9_000..=10_000).contains(&shown.for_ms), "{story}");
            assert!(shown.left_ms.is_some_and(|ms| (20_000..=21_000).contains(&ms)), "{story}");
            pair.run(21_000);
            let answer = pair.nodes[0].admin.remove(&order).expect("answered");
            let refusal = answer.expect_err("it hangs");
            assert_eq!(refusal.code, -23, "{story}");
            assert!(refusal.hint.contains(named), "{story}: {}", refusal.hint);
            let next = if hangs == 0 { "detach --force r0/0" } else { "disconnect --force r0" };
            assert!(refusal.hint.contains(next), "{story}: {}", refusal.hint);
            assert_eq!(pair.status(0).order, None, "{story}");
            assert_eq!(pair.status(0).role, Role::Primary, "{story}");
            assert_eq!(pair.disk(0), DiskState::UpToDate, "{story}");
            pair.nodes[hangs].unstall();
            pair.synced();
            assert_eq!(pair.admin(0, command.clone()), Ok(String::new()), "{story}");
        }
    }
}

/// Nobody uses the pair, and the disk of one node has died unnoticed.
#[test]
fn a_promotion_or_demotion_that_meets_a_hung_disk_ends_in_time_without_it() {
    let mut pair = synced_pair();
    leave(&mut pair);
    pair.nodes[0].stall =
        |action| matches!(action, Action::Meta { op: crate::meta::MetaOp::Superblock(_), .. });
    let down = pair.order(0, Command::Secondary { force: false, wait_ms: 0 });
    pair.run(40_000);
    assert_eq!(pair.nodes[0].admin.get(&down), Some(&Ok(String::new())), "{}", pair.story());
    assert_eq!(pair.disk(0), DiskState::Failed, "{}", pair.story());
    pair.nodes[0].unstall();
    pair.run(1_000);
    pair.attach(0).unwrap();
    pair.synced();

    pair.nodes[1].stall = is_disk;
    let first = pair.order(1, Command::Primary { force: None });
    pair.run(20_000);
    let refusal = pair.admin(0, Command::Primary { force: None }).expect_err("it waits");
    assert_eq!(refusal.code, -10, "{refusal:?}");
    pair.run(20_000);
    assert_eq!(pair.nodes[1].admin.get(&first), Some(&Ok(String::new())), "{}", pair.story());
    assert_eq!(pair.disk(1), DiskState::Failed, "{}", pair.story());
    pair.nodes[1].unstall();
    pair.run(1_000);
    pair.admin(1, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    pair.primary(0, false);
    pair.attach(1).unwrap();
    pair.synced();
}

/// Clients of the other volumes would stand still for most of the time, while their disks are well.
#[test]
fn a_peer_that_comes_back_while_a_disk_hangs_is_met_when_it_answers_and_holds_nothing_up() {
    let mut pair = synced_pair();
    pair.kill(1);
    pair.run(1_000);
    pair.nodes[0].stall = is_disk;
    pair.start_write(0, 30, 3);
    pair.run(10_000);
    assert!(pair.hung_ms(0).is_some(), "{}", pair.story());
    pair.up(1);
    for _ in 0..20 {
        pair.run(5_000);
        assert!(pair.core(0).gate_is_open(), "{}", pair.story());
    }
    pair.nodes[0].unstall();
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&30), Some(&3));
}

/// Beside a lost peer its disk is the only copy: it is waited for.
#[test]
fn a_promotion_gives_up_no_disk_that_is_the_only_copy() {
    let mut pair = synced_pair();
    leave(&mut pair);
    pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    pair.kill(0);
    pair.run(1_000);
    pair.nodes[1].stall = is_disk;
    let id = pair.order(1, Command::Primary { force: None });
    pair.run(60_000);
    assert_eq!(pair.nodes[1].admin.get(&id), None, "{}", pair.story());
    pair.nodes[1].unstall();
    pair.run(1_000);
    assert_eq!(pair.nodes[1].admin.get(&id), Some(&Ok(String::new())), "{}", pair.story());
    assert_eq!(pair.disk(1), DiskState::UpToDate);
}

/// The peer has said what became of it: that counts before a frozen Primary serves anything.
#[test]
fn a_primary_that_was_frozen_hears_its_peer_also_while_a_disk_hangs() {
    let mut pair = synced_pair();
    pair.kill(1);
    pair.run(1_000);
    pair.nodes[0].stall = is_disk;
    pair.start_write(0, 30, 3);
    pair.link = false;
    pair.event(0, Event::ClockGap { gap_ms: 20_000 });
    pair.run(10_000);
    let core = pair.nodes[0].core.as_mut().unwrap();
    core.gap = Gap::Asking;
    pair.link = true;
    pair.up(1);
    pair.run(20_000);
    let stage = pair.core(0).connections[0].stage;
    assert_ne!(stage, crate::resource::peer::connection::Stage::Waiting, "{}", pair.story());
    pair.nodes[0].unstall();
    pair.synced();
}
