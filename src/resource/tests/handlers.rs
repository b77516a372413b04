//! Handlers: when each runs, and what a resync waits for.

use super::pair::{Pair, synced_pair};
use crate::resource::*;

/// All handlers have lines on both nodes.
fn handled(pair: &mut Pair) {
    for node in &mut pair.nodes {
        if let Some(core) = node.core.as_mut() {
            let all = Handler::ALL.iter().map(|one| (*one, format!("run {one}")));
            core.config.options.handlers = all.collect();
        }
    }
}

impl Pair {
    /// The handlers that run, each ended by `outcome`; time goes on after each.
    fn end_all(&mut self, n: usize, outcome: HandlerOutcome) -> Vec<Handler> {
        let mut ended = Vec::new();
        while !self.nodes[n].calls.is_empty() {
            let (number, call) = self.nodes[n].calls.remove(0);
            ended.push(call.handler);
            self.event(n, Event::HandlerDone { number, outcome });
            self.run(20);
        }
        ended
    }
}

/// Node 0 has written alone; the nodes meet.
fn meets() -> Pair {
    let mut pair = synced_pair();
    handled(&mut pair);
    pair.lose_link();
    assert_eq!(pair.end_all(0, HandlerOutcome::Exited(0)), [Handler::Disconnected]);
    assert_eq!(pair.end_all(1, HandlerOutcome::Exited(0)), [Handler::Disconnected]);
    assert_eq!(pair.write(0, 6, 60), Ok(None));
    pair.link = true;
    pair.run(15_000);
    pair
}

#[test]
fn a_resync_waits_for_both_its_handlers_and_tells_of_its_end() {
    for first in 0..2 {
        let mut pair = meets();
        pair.run(5_000);
        for n in [first, 1 - first] {
            assert_eq!(pair.disk(1), DiskState::Outdated, "whole until both allow it");
            let (_, call) = pair.nodes[n].calls[0].clone();
            assert_eq!((call.volume, call.peer), (Some(0), Some(1 - n as u8)));
            assert!(call.limit_ms < 42_000, "the handshake does not wait for ever");
            let allowed = pair.end_all(n, HandlerOutcome::Exited(0));
            let expected = [Handler::BeforeResyncSource, Handler::BeforeResyncTarget][n];
            assert_eq!(allowed[0], expected);
        }
        pair.synced();
        pair.end_all(1, HandlerOutcome::Exited(0));
        assert!(
            pair.nodes[1]
                .log
                .iter()
                .any(|line| line.contains("helper command: after-resync-target"))
        );
        assert!(!pair.nodes[0].log.iter().any(|line| line.contains("after-resync-target")));
    }
}

#[test]
fn a_handler_that_forbids_a_resync_ends_the_connection_and_nothing_is_copied() {
    for outcome in [HandlerOutcome::Exited(1), HandlerOutcome::TimedOut] {
        for n in 0..2 {
            let mut pair = meets();
            let other = pair.end_all(1 - n, HandlerOutcome::Exited(0));
            assert_eq!(other.len(), 1);
            pair.end_all(n, outcome);
            pair.run(5_000);
            let connection = &pair.status(n).connections[0];
            assert_eq!(connection.connection_state, ConnectionState::StandAlone);
            assert_eq!(connection.reason, Reason::ResyncRefused);
            assert_eq!(pair.disk(1), DiskState::Outdated);
            assert_eq!(pair.nodes[1].disk.blocks.get(&6), None);
        }
    }
    // Of old tools: not for the target.
    let mut pair = meets();
    pair.end_all(0, HandlerOutcome::Exited(3));
    pair.end_all(1, HandlerOutcome::Exited(0));
    pair.synced();
}

/// Seed 9364: the source is lost while its handler runs, and is fenced.
#[test]
fn who_was_to_be_the_target_knows_it_after_the_source_was_lost_before_it_began() {
    let mut pair = meets();
    pair.lose_link();
    pair.kill(0);
    pair.kill(1);
    pair.up(1);
    handled(&mut pair);
    pair.run(5_000);
    assert_eq!(pair.disk(1), DiskState::Outdated);
    let refusal = pair.admin(1, Command::Primary { force: None }).unwrap_err();
    assert_eq!(refusal.code, -2, "{refusal}");
}

#[test]
fn a_handler_of_a_lost_session_is_waited_for_before_it_runs_again() {
    let mut pair = meets();
    pair.lose_link();
    pair.link = true;
    pair.run(15_000);
    let before = |pair: &Pair| {
        let calls = pair.nodes[1].calls.iter();
        calls.filter(|(_, call)| call.handler == Handler::BeforeResyncTarget).count()
    };
    assert_eq!(before(&pair), 1);
    pair.end_all(0, HandlerOutcome::Exited(0));
    let (number, _) = pair.nodes[1].calls.remove(0);
    pair.event(1, Event::HandlerDone { number, outcome: HandlerOutcome::Exited(0) });
    pair.run(50);
    assert_eq!(
        (before(&pair), pair.disk(1)),
        (1, DiskState::Outdated),
        "its answer was the old one's"
    );
    pair.end_all(1, HandlerOutcome::Exited(0));
    pair.end_all(0, HandlerOutcome::Exited(0));
    pair.synced();
}

#[test]
fn a_split_brain_is_told_on_both_nodes() {
    let mut pair = synced_pair();
    handled(&mut pair);
    pair.lose_link();
    pair.primary(1, false);
    for n in 0..2 {
        assert_eq!(pair.write(n, 6, 60 + n as u64), Ok(None));
        pair.end_all(n, HandlerOutcome::Exited(0));
    }
    pair.link = true;
    pair.run(15_000);
    for n in 0..2 {
        let told = pair.end_all(n, HandlerOutcome::Exited(1));
        assert!(told.contains(&Handler::SplitBrain), "{n} {told:?}");
    }
}

#[test]
fn a_failed_disk_and_the_last_copy_are_told() {
    let mut pair = synced_pair();
    handled(&mut pair);
    let core = pair.nodes[0].core.as_mut().unwrap();
    core.config.options.on_io_error = OnIoError::CallLocalIoError;
    pair.nodes[0].fail = |action| matches!(action, Action::DiskWrite { .. });
    assert_eq!(pair.write(0, 6, 60), Ok(None), "the peer has it");
    assert_eq!(pair.disk(0), DiskState::Diskless);
    assert_eq!(pair.end_all(0, HandlerOutcome::Exited(0)), [Handler::LocalIoError]);
    // A disk that comes back is negotiated: the peer's is in reach all the while.
    pair.nodes[0].fail = |_| false;
    pair.attach_later(0);
    let mut told = Vec::new();
    for n in [0, 1, 0, 1, 0, 1] {
        pair.run(100);
        told.extend(pair.end_all(n, HandlerOutcome::Exited(0)));
    }
    pair.synced();
    assert!(!told.contains(&Handler::PriOnInconDegr), "{told:?}");
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    pair.lose_link();
    let told = pair.end_all(0, HandlerOutcome::Exited(0));
    assert_eq!(told, [Handler::Disconnected, Handler::PriOnInconDegr]);
}

/// Nothing is wrong with the disk: nobody has said whether it may be used.
#[test]
fn a_disk_that_is_attached_as_the_peer_is_lost_has_not_failed() {
    let mut pair = synced_pair();
    handled(&mut pair);
    pair.nodes[0].core.as_mut().unwrap().config.options.on_io_error = OnIoError::CallLocalIoError;
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    pair.attach_later(0);
    while pair.disk(0) != DiskState::Negotiating {
        let event = pair.nodes[0].done.pop_front().expect("it comes so far");
        pair.event(0, event);
    }
    pair.lose_link();
    pair.run(100);
    assert_eq!(pair.disk(0), DiskState::Diskless);
    let told = pair.end_all(0, HandlerOutcome::Exited(0));
    assert!(!told.contains(&Handler::LocalIoError), "{told:?}");
    let note = &pair.status(0).devices[0].disk_note;
    assert!(note.contains("the peer was lost before"), "{note}");
}

#[test]
fn who_finds_differing_blocks_is_told() {
    let mut pair = synced_pair();
    handled(&mut pair);
    pair.nodes[1].disk.blocks.insert(9, 77);
    pair.admin(0, Command::Verify { volume: 0, peer: 1, start: None, stop: None }).unwrap();
    pair.run(60_000);
    assert!(pair.end_all(0, HandlerOutcome::Exited(0)).contains(&Handler::OutOfSync));
}

#[test]
fn a_primary_that_would_be_the_target_is_told() {
    let mut pair = synced_pair();
    handled(&mut pair);
    for node in &mut pair.nodes {
        node.core.as_mut().unwrap().config.options.rr_conflict = RrConflict::CallPriLost;
    }
    pair.lose_link();
    pair.primary(1, false);
    assert_eq!(pair.write(1, 6, 61), Ok(None));
    pair.admin(1, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    for n in 0..2 {
        pair.end_all(n, HandlerOutcome::Exited(0));
    }
    pair.link = true;
    pair.run(15_000);
    assert!(pair.end_all(0, HandlerOutcome::Exited(0)).contains(&Handler::PriLost));
    assert!(!pair.end_all(1, HandlerOutcome::Exited(0)).contains(&Handler::PriLost));
}

#[test]
fn a_primary_that_has_lost_a_split_brain_is_told_and_the_nodes_stay_apart() {
    for victim in 0..2 {
        let mut pair = synced_pair();
        handled(&mut pair);
        for node in &mut pair.nodes {
            let options = &mut node.core.as_mut().unwrap().config.options;
            options.after_sb_0pri = AfterSb0Pri::DiscardNode(victim);
            options.after_sb_1pri = AfterSb1Pri::CallPriLostAfterSb;
        }
        pair.lose_link();
        pair.primary(1, false);
        for n in 0..2 {
            assert_eq!(pair.write(n, 6, 60 + n as u64), Ok(None));
        }
        pair.admin(1, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
        for n in 0..2 {
            pair.end_all(n, HandlerOutcome::Exited(0));
        }
        pair.link = true;
        pair.run(15_000);
        let lost = [0, 1]
            .map(|n| pair.end_all(n, HandlerOutcome::Exited(0)).contains(&Handler::PriLostAfterSb));
        assert_eq!(lost, [victim == 0, false], "a Secondary that loses is synced");
        let state = pair.status(0).connections[0].connection_state;
        assert_eq!(state == ConnectionState::StandAlone, victim == 0, "{state}");
    }
}

#[test]
fn a_handler_without_a_line_is_not_called() {
    let mut pair = synced_pair();
    pair.lose_link();
    assert_eq!(pair.write(0, 6, 60), Ok(None));
    pair.link = true;
    pair.synced();
    assert!(pair.nodes[0].calls.is_empty() && pair.nodes[1].calls.is_empty());
}
