//! Fencing: what a Primary that has lost its peer may answer, and when; and promotions without it.

use super::crossing::is_flush;
use super::pair::{Pair, synced_pair};
use crate::meta::DeviceFlags;
use crate::resource::*;

use Fencing::{ResourceAndStonith, ResourceOnly};
use HandlerOutcome::Exited;

pub(super) fn fences(pair: &mut Pair, fencing: Fencing) {
    for node in &mut pair.nodes {
        if let Some(core) = node.core.as_mut() {
            core.config.options.fencing = fencing;
            let lines = [Handler::FencePeer, Handler::UnfencePeer];
            core.config.options.handlers = lines.map(|one| (one, format!("run {one}"))).into();
        }
    }
}

/// Node 0 is Primary of a pair in sync that fences; the link is cut, and time goes on.
fn lonely(fencing: Fencing) -> Pair {
    let mut pair = synced_pair();
    fences(&mut pair, fencing);
    assert_eq!(pair.write(0, 5, 50), Ok(None));
    assert_eq!(pair.request(0, 900, Op::Flush), Ok(None));
    pair.lose_link();
    pair
}

/// As [`lonely`], frozen, with a write under way, which the peer has.
fn lonely_in_a_write() -> (Pair, u64) {
    let mut pair = synced_pair();
    fences(&mut pair, ResourceAndStonith);
    pair.nodes[1].mute = true;
    let write = pair.write_later(0, 6, 60);
    pair.run(10);
    pair.lose_link();
    (pair, write)
}

impl Pair {
    /// The handler that runs, and nothing else does.
    fn only_call(&self, n: usize) -> (u64, HandlerCall) {
        let calls = &self.nodes[n].calls;
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls[0].clone()
    }

    fn calls(&self, n: usize) -> Vec<Handler> {
        self.nodes[n].calls.iter().map(|(_, call)| call.handler).collect()
    }

    fn answers(&mut self, n: usize, outcome: HandlerOutcome) {
        let (number, _) = self.nodes[n].calls.remove(0);
        self.event(n, Event::HandlerDone { number, outcome });
        self.run(50);
    }

    fn peer_disk(&self, n: usize) -> DiskState {
        self.status(n).connections[0].peer_devices[0].peer_disk_state
    }

    fn is_fenced_off(&self, n: usize) -> bool {
        self.status(n).suspended_fencing
    }

    fn uuid(&self, n: usize) -> u64 {
        self.nodes[n].disk.superblock.as_ref().unwrap().current_uuid
    }

    fn survived(&self, n: usize) -> bool {
        let superblock = self.nodes[n].disk.superblock.as_ref().unwrap();
        superblock.flags & DeviceFlags::SURVIVED != 0
    }

    fn says(&self, n: usize, text: &str) -> bool {
        self.nodes[n].log.iter().any(|line| line.contains(text))
    }
}

#[test]
fn a_frozen_primary_answers_nothing_before_its_handler_has_and_then_goes_on_alone() {
    for (code, peer) in [(3, "Inconsistent"), (4, "Outdated"), (5, "Outdated"), (7, "Outdated")] {
        let mut pair = lonely(ResourceAndStonith);
        let before = pair.uuid(0);
        let write = pair.write_later(0, 6, 60);
        pair.request_later(0, 901, Op::Read { offset: 0, length: 4096 });
        pair.run(5_000);
        let replied = |id: &u64| pair.nodes[0].replies.contains_key(id);
        assert!(pair.is_fenced_off(0) && ![write, 901].iter().any(replied));
        assert_eq!((pair.uuid(0), pair.survived(0)), (before, true));
        let (_, call) = pair.only_call(0);
        assert_eq!((call.handler, call.peer, call.volume), (Handler::FencePeer, Some(1), None));
        assert_eq!((call.up_to_date_nodes, call.limit_ms), (1, 300_000));
        pair.answers(0, Exited(code));
        assert_eq!(pair.nodes[0].replies[&write], Ok(None));
        assert_eq!(pair.nodes[0].replies[&901], Ok(Some(0)));
        assert_ne!(pair.uuid(0), before, "a lone write makes a generation");
        assert_eq!((pair.is_fenced_off(0), pair.peer_disk(0).to_string()), (false, peer.into()));
        assert!(pair.says(0, "susp-fen( no -> yes )") && pair.says(0, "susp-fen( yes -> no )"));
        pair.link = true;
        pair.synced();
        pair.run(1_000);
        assert_eq!(pair.calls(0), [Handler::UnfencePeer], "once the peer has all");
        assert!(pair.calls(1).is_empty());
    }
}

#[test]
fn an_answer_that_is_none_keeps_it_frozen_and_resume_io_ends_that() {
    let broken =
        [Exited(0), Exited(1), Exited(6), HandlerOutcome::TimedOut, HandlerOutcome::Signalled(9)];
    for outcome in broken {
        let mut pair = lonely(ResourceAndStonith);
        let write = pair.write_later(0, 6, 60);
        pair.run(100);
        pair.answers(0, outcome);
        pair.run(4_000);
        assert!(pair.is_fenced_off(0) && !pair.nodes[0].replies.contains_key(&write));
        assert_eq!((pair.disk(0), pair.peer_disk(0)), (DiskState::UpToDate, DiskState::DUnknown));
        assert!(pair.calls(0).is_empty(), "not at once");
        let fencing = pair.status(0).connections[0].fencing.clone().unwrap();
        assert!(!fencing.running && fencing.outcome == outcome.to_string(), "{fencing:?}");
        pair.admin(0, Command::SuspendIo { suspend: false }).unwrap();
        assert_eq!((pair.is_fenced_off(0), pair.nodes[0].replies[&write]), (false, Ok(None)));
        pair.run(200_000);
        assert!(pair.calls(0).is_empty(), "nothing waits for it any more");
        pair.link = true;
        pair.synced();
    }
}

#[test]
fn a_frozen_primary_asks_again_in_pauses_that_grow_until_there_is_an_answer() {
    let mut pair = lonely(ResourceAndStonith);
    let before = pair.uuid(0);
    let write = pair.write_later(0, 6, 60);
    for pause in [5_000, 10_000, 20_000, 40_000, 60_000, 60_000] {
        pair.answers(0, HandlerOutcome::TimedOut);
        let again = pair.status(0).connections[0].fencing.clone().unwrap().again_ms;
        assert_eq!(again, Some(pause - 50));
        pair.run(pause - 100);
        assert!(pair.calls(0).is_empty(), "it is early");
        pair.run(100);
        assert_eq!(pair.calls(0), [Handler::FencePeer], "after {pause} ms");
        assert!(pair.is_fenced_off(0) && !pair.nodes[0].replies.contains_key(&write));
        assert_eq!(pair.uuid(0), before);
    }
    // It is off by now.
    pair.answers(0, Exited(7));
    assert_eq!((pair.is_fenced_off(0), pair.nodes[0].replies[&write]), (false, Ok(None)));
    assert_ne!(pair.uuid(0), before);
    pair.link = true;
    pair.synced();
}

#[test]
fn an_order_unfences_a_peer_that_is_in_sync_and_no_other() {
    let mut pair = synced_pair();
    fences(&mut pair, Fencing::DontCare);
    pair.admin(0, Command::UnfencePeer { peer: 1 }).unwrap();
    assert_eq!(pair.calls(0), [Handler::UnfencePeer], "also where nothing is fenced by itself");
    pair.admin(0, Command::UnfencePeer { peer: 1 }).unwrap();
    assert_eq!(pair.calls(0), [Handler::UnfencePeer], "one after the other");
    pair.answers(0, Exited(1));
    assert_eq!(pair.calls(0), [Handler::UnfencePeer]);
    pair.answers(0, Exited(0));
    assert_eq!(pair.admin(0, Command::UnfencePeer { peer: 7 }).unwrap_err().code, 127);
    pair.lose_link();
    assert_eq!(pair.admin(0, Command::UnfencePeer { peer: 1 }).unwrap_err().code, -2);
    assert!(pair.calls(0).is_empty());
    let mut pair = synced_pair();
    let said = pair.admin(0, Command::UnfencePeer { peer: 1 }).unwrap();
    assert!(said.contains("no handler unfence-peer"), "{said}");
}

#[test]
fn a_peer_that_is_back_makes_a_later_answer_void_and_is_not_asked_about() {
    for while_it_runs in [true, false] {
        let mut pair = lonely(ResourceAndStonith);
        let before = pair.uuid(0);
        let write = pair.write_later(0, 6, 60);
        pair.answers(0, Exited(1));
        if while_it_runs {
            pair.run(6_000);
            assert_eq!(pair.calls(0), [Handler::FencePeer]);
        }
        pair.link = true;
        pair.run(20_000);
        assert_eq!(pair.nodes[0].replies[&write], Ok(None), "it goes on with both");
        if while_it_runs {
            pair.answers(0, Exited(7));
            assert!(pair.says(0, "Ignoring fence-peer exit code"));
        }
        pair.run(100_000);
        assert_eq!(pair.calls(0), [Handler::UnfencePeer]);
        assert_eq!((pair.uuid(0) & !1, pair.is_fenced_off(0)), (before & !1, false));
        assert_eq!(pair.peer_disk(0), DiskState::UpToDate);
        pair.synced();
    }
}

#[test]
fn a_primary_that_is_demoted_or_has_lost_its_disk_asks_no_more() {
    for detached in [true, false] {
        let mut pair = lonely(ResourceAndStonith);
        pair.answers(0, Exited(1));
        let command = match detached {
            true => Command::Detach { volume: 0, force: true },
            false => Command::Secondary { force: true, wait_ms: 0 },
        };
        pair.admin(0, command).unwrap();
        pair.run(200_000);
        assert!(pair.calls(0).is_empty());
        assert_eq!(pair.is_fenced_off(0), detached, "its disk may be back");
    }
}

#[test]
fn a_handler_that_was_killed_is_asked_again_after_the_next_loss() {
    let mut pair = lonely(ResourceAndStonith);
    pair.answers(0, HandlerOutcome::TimedOut);
    pair.link = true;
    pair.run(20_000);
    assert!(!pair.is_fenced_off(0));
    pair.answers(0, Exited(0)); // unfence-peer
    pair.lose_link();
    assert!(pair.is_fenced_off(0));
    assert_eq!(pair.calls(0), [Handler::FencePeer]);
}

#[test]
fn the_handler_waits_until_the_flush_and_survived_are_durable() {
    let mut pair = synced_pair();
    fences(&mut pair, ResourceAndStonith);
    assert_eq!(pair.write(0, 5, 50), Ok(None));
    pair.nodes[0].stall = |action| {
        matches!(action, Action::DiskFlush { .. })
            || matches!(action, Action::Meta { op: crate::meta::MetaOp::Superblock(_), .. })
    };
    pair.lose_link();
    pair.run(1_000);
    assert!(pair.calls(0).is_empty() && pair.is_fenced_off(0), "the flush is under way");
    let flushed = pair.nodes[0].stalled.pop_front().unwrap();
    pair.event(0, flushed);
    pair.run(1_000);
    assert!(pair.calls(0).is_empty(), "SURVIVED is under way");
    pair.nodes[0].unstall();
    pair.run(50);
    assert_eq!(pair.calls(0), [Handler::FencePeer]);
    assert!(pair.survived(0));
}

#[test]
fn a_connection_that_returns_makes_the_answer_void() {
    let mut pair = lonely(ResourceAndStonith);
    let before = pair.uuid(0);
    let write = pair.write_later(0, 6, 60);
    let flush = 901;
    pair.request_later(0, flush, Op::Flush);
    pair.run(100);
    pair.link = true;
    pair.run(20_000);
    assert_eq!(pair.nodes[0].replies[&write], Ok(None), "it goes on with both");
    assert_eq!(pair.nodes[0].replies[&flush], Ok(None));
    assert_eq!(
        (pair.uuid(0) & !1, pair.is_fenced_off(0)),
        (before & !1, false),
        "no new generation"
    );
    assert_eq!(pair.nodes[1].disk.blocks.get(&6), Some(&60));
    pair.answers(0, Exited(4));
    assert_eq!(pair.peer_disk(0), DiskState::UpToDate);
    assert!(pair.says(0, "Ignoring fence-peer exit code"), "{:?}", pair.nodes[0].log);
    assert_eq!(pair.calls(0), [Handler::UnfencePeer], "after it, never beside it");
    pair.synced();
}

#[test]
fn a_loss_while_an_old_handler_runs_asks_anew_and_not_before_that_one_has_ended() {
    let mut pair = lonely(ResourceAndStonith);
    pair.link = true;
    pair.run(20_000);
    pair.lose_link();
    let write = pair.write_later(0, 6, 60);
    pair.run(100);
    let (old, _) = pair.only_call(0);
    pair.answers(0, Exited(4));
    assert!(
        pair.is_fenced_off(0) && !pair.nodes[0].replies.contains_key(&write),
        "it was about another"
    );
    assert_ne!(pair.only_call(0).0, old);
    pair.answers(0, Exited(4));
    assert_eq!(pair.nodes[0].replies[&write], Ok(None));
}

#[test]
fn what_was_under_way_when_the_peer_was_lost_waits_as_well() {
    let (mut pair, write) = lonely_in_a_write();
    let before = pair.uuid(0);
    pair.run(5_000);
    assert!(!pair.nodes[0].replies.contains_key(&write));
    assert_eq!(pair.uuid(0), before);
    pair.answers(0, Exited(7));
    assert_eq!(pair.nodes[0].replies[&write], Ok(None));
}

#[test]
fn resource_only_runs_the_handler_and_freezes_nothing() {
    let mut pair = lonely(ResourceOnly);
    assert_eq!(pair.write(0, 6, 60), Ok(None));
    assert_eq!((pair.is_fenced_off(0), pair.calls(0)), (false, vec![Handler::FencePeer]));
    pair.answers(0, Exited(4));
    assert_eq!(pair.peer_disk(0), DiskState::Outdated);
    let mut pair = lonely(Fencing::DontCare);
    assert_eq!(pair.write(0, 6, 60), Ok(None));
    assert!(pair.calls(0).is_empty());
}

#[test]
fn an_orderly_end_and_a_secondary_ask_nobody() {
    let mut pair = synced_pair();
    fences(&mut pair, ResourceAndStonith);
    pair.admin(1, Command::Disconnect { peer: 0, force: false, for_ms: None }).unwrap();
    assert_eq!(pair.peer_disk(0), DiskState::Outdated);
    assert_eq!(pair.write(0, 6, 60), Ok(None));
    assert!(pair.calls(0).is_empty() && pair.calls(1).is_empty());
    let mut pair = lonely(ResourceAndStonith);
    assert!(pair.calls(1).is_empty(), "{:?}", pair.calls(1));
    assert!(!pair.is_fenced_off(1));
    pair.link = true;
    pair.run(20_000);
}

#[test]
fn a_promotion_without_the_peer_asks_first() {
    let codes = [(3, None), (4, None), (5, None), (7, None), (6, Some(-2)), (1, Some(-7))];
    for (code, refusal) in codes {
        for fencing in [ResourceOnly, ResourceAndStonith] {
            let mut pair = lonely(fencing);
            pair.kill(0);
            pair.run(1_000);
            let id = pair.order(1, Command::Primary { force: None });
            pair.run(50);
            assert!(!pair.nodes[1].admin.contains_key(&id), "it waits for the answer");
            assert_eq!(pair.status(1).role, Role::Secondary);
            pair.answers(1, Exited(code));
            let answer = pair.nodes[1].admin.remove(&id).unwrap();
            assert_eq!(answer.as_ref().err().map(|refusal| refusal.code), refusal, "{answer:?}");
            assert_eq!(pair.status(1).role == Role::Primary, refusal.is_none());
            assert_eq!(pair.disk(1) == DiskState::Outdated, code == 6);
            assert!(!pair.is_fenced_off(1));
        }
    }
}

#[test]
fn a_promotion_waits_for_an_unfence_peer_that_runs_and_says_so() {
    let mut pair = lonely(ResourceAndStonith);
    pair.answers(0, Exited(4));
    pair.link = true;
    pair.synced();
    assert_eq!(pair.calls(0), [Handler::UnfencePeer], "and it takes its time");
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.kill(1);
    pair.run(1_000);
    let id = pair.order(0, Command::Primary { force: None });
    pair.run(35_000);
    assert_eq!(pair.calls(0), [Handler::UnfencePeer], "the two never run at once");
    let shown = pair.status(0).order.expect("it waits");
    assert!(shown.waits_for.starts_with("the handler unfence-peer"), "{}", shown.waits_for);
    pair.answers(0, HandlerOutcome::TimedOut);
    assert_eq!(pair.calls(0), [Handler::FencePeer]);
    let shown = pair.status(0).order.expect("it waits");
    assert_eq!(shown.waits_for, "the handler fence-peer");
    pair.answers(0, Exited(7));
    assert_eq!(pair.nodes[0].admin.remove(&id).unwrap(), Ok(String::new()));
    assert_eq!(pair.status(0).role, Role::Primary);
}

#[test]
fn a_demotion_ends_a_promotion_that_waits_for_fence_peer() {
    let later =
        [Command::Secondary { force: false, wait_ms: 0 }, Command::Down { shutdown: false }];
    for later in later {
        let mut pair = lonely(ResourceAndStonith);
        pair.kill(0);
        pair.run(1_000);
        let promotion = pair.order(1, Command::Primary { force: None });
        pair.run(5_000);
        pair.admin(1, later).expect("it waits for no handler");
        let refusal = pair.nodes[1].admin.remove(&promotion).unwrap().unwrap_err();
        assert_eq!(refusal.code, -18, "{refusal:?}");
        // What the handler says now is of no promotion.
        pair.answers(1, Exited(7));
        assert_eq!(pair.status(1).role, Role::Secondary);
        assert!(pair.says(1, "Ignoring fence-peer exit code"), "{:?}", pair.nodes[1].log);
    }
}

#[test]
fn force_goes_over_a_peer_that_is_not_fenced() {
    let mut pair = lonely(ResourceAndStonith);
    pair.kill(0);
    pair.run(1_000);
    let id = pair.order(1, Command::Primary { force: Some(Force::Plain) });
    pair.run(50);
    pair.answers(1, Exited(1));
    assert_eq!(pair.nodes[1].admin[&id], Ok(String::new()));
    assert!(pair.says(1, "forced into a split brain situation"));
    let session = SessionId(2);
    pair.event(1, Event::SessionOpened { session, volume: 0, client: "test".into() });
    assert_eq!(pair.write(1, 6, 60), Ok(None), "and does not freeze then");
}

#[test]
fn a_fencing_answer_makes_a_consistent_disk_the_newest() {
    for (code, promoted) in [(7, true), (4, true), (5, false), (1, false)] {
        let mut pair = lonely(ResourceOnly);
        pair.answers(0, Exited(4));
        pair.lose_power(0);
        pair.lose_power(1);
        pair.up(1);
        fences(&mut pair, ResourceOnly);
        // Nobody has survived the other by its own flags: the superblock says Consistent.
        let superblock = pair.nodes[1].disk.superblock.as_mut().unwrap();
        superblock.flags &= !DeviceFlags::SURVIVED;
        pair.kill(1);
        pair.up(1);
        fences(&mut pair, ResourceOnly);
        assert_eq!(pair.disk(1), DiskState::Consistent);
        let id = pair.order(1, Command::Primary { force: None });
        pair.run(50);
        pair.answers(1, Exited(code));
        let answer = pair.nodes[1].admin.remove(&id).unwrap();
        assert_eq!(answer.is_ok(), promoted, "{answer:?}");
        if let Err(refusal) = answer {
            assert_eq!(refusal.code, -2);
        }
    }
}

#[test]
fn a_peer_that_comes_while_a_promotion_asks_is_asked_itself() {
    let mut pair = lonely(ResourceOnly);
    pair.kill(0);
    pair.run(1_000);
    let id = pair.order(1, Command::Primary { force: None });
    pair.run(50);
    pair.up(0);
    pair.link = true;
    pair.run(20_000);
    // Its crashed Primary is copied from first: the handshake has decided, and no handler.
    let answer = pair.nodes[1].admin.remove(&id).expect("it does not wait for the handler");
    assert_eq!(answer.unwrap_err().code, -2);
    assert_eq!(pair.status(1).connections[0].connection_state, ConnectionState::Connected);
    pair.answers(1, Exited(4));
    assert_eq!(pair.peer_disk(1), DiskState::UpToDate, "void");
}

/// One handler after the other would make an order that nobody answers.
#[test]
fn a_promotion_whose_peer_comes_and_goes_is_refused_after_a_while() {
    let mut pair = lonely(ResourceOnly);
    pair.kill(0);
    pair.run(1_000);
    pair.nodes[1].core.as_mut().unwrap().config.options.handler_timeout_ms = 300_000;
    let id = pair.order(1, Command::Primary { force: None });
    pair.run(40_000);
    assert!(!pair.nodes[1].admin.contains_key(&id), "the handler runs");
    // A handshake has begun, and does not come to its end.
    pair.nodes[1].stall = |action| matches!(action, Action::Meta { .. });
    pair.up(0);
    pair.link = true;
    pair.run(3_000);
    assert!(pair.core(1).in_handshake(), "{}", pair.told(1));
    pair.answers(1, Exited(4));
    pair.kill(0);
    pair.nodes[1].unstall();
    pair.run(30_000);
    let refusal = pair.nodes[1].admin.remove(&id).expect("answered").unwrap_err();
    assert_eq!(refusal.code, -18, "{refusal:?}");
    assert!(refusal.hint.contains("is away again"), "{refusal:?}");
}

#[test]
fn a_frozen_primary_is_demoted_and_its_clients_are_let_go() {
    let mut pair = lonely(ResourceAndStonith);
    let write = pair.write_later(0, 6, 60);
    pair.request_later(0, 901, Op::Flush);
    pair.request_later(0, 902, Op::Read { offset: 0, length: 4096 });
    pair.run(100);
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    assert_eq!(pair.status(0).role, Role::Secondary);
    assert!(!pair.is_fenced_off(0));
    assert_ne!(
        pair.nodes[0].replies.get(&write),
        Some(&Ok(None)),
        "nobody was told that it is done"
    );
    pair.answers(0, Exited(4));
    assert_eq!(pair.peer_disk(0), DiskState::DUnknown, "the answer is void");
    pair.link = true;
    pair.run(20_000);
    assert_eq!(pair.status(0).connections[0].connection_state, ConnectionState::Connected);
}

/// The peer goes on in its place. What the frozen one had from clients was answered to nobody: no generation
/// tells of it, and it is copied over.
#[test]
fn a_frozen_primary_that_is_demoted_has_begun_no_generation() {
    let (mut pair, write) = lonely_in_a_write();
    let before = pair.uuid(0);
    pair.nodes[1].mute = false;
    pair.run(100);
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    assert_eq!(pair.nodes[0].replies[&write], Err(ReplyError::Shutdown));
    assert_eq!(pair.uuid(0) & !1, before & !1, "{}", pair.told(0));
    let id = pair.order(1, Command::Primary { force: None });
    pair.run(50);
    pair.answers(1, Exited(7));
    assert_eq!(pair.nodes[1].admin.remove(&id), Some(Ok(String::new())));
    let session = SessionId(2);
    pair.event(1, Event::SessionOpened { session, volume: 0, client: "test".into() });
    assert_eq!(pair.write(1, 7, 70), Ok(None));
    pair.link = true;
    pair.run(20_000);
    assert_eq!([0, 1].map(|n| pair.disk(n)), [DiskState::UpToDate; 2], "{}", pair.told(0));
    assert_eq!([0, 1].map(|n| pair.block(n, 7)), [70, 70], "{}", pair.told(0));
    assert_eq!(pair.block(0, 6), pair.block(1, 6));
}

/// The handler's work is undone with the demotion: the peer may be promoted from then on.
#[test]
fn what_fence_peer_has_said_holds_until_the_demotion() {
    for (code, fencing) in [(3, ResourceOnly), (4, ResourceOnly), (7, ResourceAndStonith)] {
        let mut pair = lonely(fencing);
        pair.answers(0, Exited(code));
        assert!(pair.peer_disk(0) <= DiskState::Outdated);
        pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
        pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
        assert_eq!(pair.peer_disk(0), DiskState::DUnknown);
        let id = pair.order(0, Command::Primary { force: None });
        pair.run(50);
        assert_eq!(pair.only_call(0).1.handler, Handler::FencePeer, "{}", pair.told(0));
        assert_eq!(pair.status(0).role, Role::Secondary, "before it has answered");
        pair.answers(0, Exited(code));
        assert_eq!(pair.nodes[0].admin.remove(&id), Some(Ok(String::new())));
    }
}

#[test]
fn what_a_peer_has_said_itself_holds_beyond_the_demotion() {
    let mut pair = lonely(ResourceOnly);
    pair.answers(0, Exited(4));
    pair.link = true;
    pair.synced();
    pair.answers(0, Exited(0));
    pair.admin(1, Command::Disconnect { peer: 0, force: false, for_ms: None }).unwrap();
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
    pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    assert_eq!(pair.peer_disk(0), DiskState::Outdated, "{}", pair.told(0));
    pair.admin(0, Command::Primary { force: None }).unwrap();
}

/// The peer has lost its power, and with it what it had not flushed. What both had acknowledged is on the disk that
/// is in doubt, and nowhere else.
#[test]
fn a_primary_that_is_demoted_while_it_loses_its_peer_has_still_survived() {
    // Each session draws who has the tie.
    for (p, sessions) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
        let mut pair = synced_pair();
        for _ in 0..sessions {
            pair.lose_link();
            pair.link = true;
            pair.synced();
        }
        fences(&mut pair, ResourceAndStonith);
        pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
        pair.primary(p, false);
        pair.write(p, 5, 50).unwrap();
        pair.nodes[1 - p].stall = |_| true;
        let write = pair.start_write(p, 6, 60);
        let id = pair.order(p, Command::Secondary { force: true, wait_ms: 0 });
        pair.run(100);
        assert!(!pair.nodes[p].admin.contains_key(&id), "the peer's answer is waited for");
        // It is back, and a session begins, before the demotion has come to its end: no new current UUID
        // tells the two apart.
        pair.nodes[p].stall = is_flush;
        pair.lose_power(1 - p);
        pair.nodes[1 - p].stall = |_| false;
        // An extent of it is hot: it has bits too, and the tie may be its own.
        let mut words = vec![0; 61];
        words[0] = 1;
        words[60] = pair.nodes[1 - p].disk.superblock.as_ref().unwrap().number;
        pair.nodes[1 - p].disk.hot.insert(0, words);
        pair.up(1 - p);
        pair.run(3_000);
        pair.nodes[p].unstall();
        pair.run(200);
        assert_eq!(pair.nodes[p].admin.remove(&id), Some(Ok(String::new())));
        assert_ne!(pair.nodes[p].replies.get(&write), Some(&Ok(None)));
        pair.both_return();
        assert_eq!([0, 1].map(|n| pair.block(n, 5)), [50, 50], "{}", pair.told(p));
    }
}

/// What fence-peer has left behind would keep a peer that has everything from being promoted.
#[test]
fn an_unfence_peer_that_fails_is_tried_again() {
    let mut pair = lonely(ResourceAndStonith);
    pair.run(100);
    pair.answers(0, Exited(4));
    pair.link = true;
    pair.run(20_000);
    for _ in 0..3 {
        assert_eq!(pair.calls(0), [Handler::UnfencePeer]);
        pair.answers(0, Exited(1));
        assert!(pair.calls(0).is_empty(), "not at once");
        pair.run(60_000);
    }
    pair.answers(0, Exited(0));
    pair.run(300_000);
    assert!(pair.calls(0).is_empty(), "it is done");
}

#[test]
fn a_policy_that_does_not_freeze_any_more_lets_go() {
    let mut pair = lonely(ResourceAndStonith);
    let write = pair.write_later(0, 6, 60);
    pair.run(100);
    let mut options = pair.core(0).config.options.clone();
    options.fencing = ResourceOnly;
    let volumes = std::collections::BTreeMap::new();
    pair.admin(0, Command::SetOptions { options: Box::new(options), volumes }).unwrap();
    assert_eq!((pair.is_fenced_off(0), pair.nodes[0].replies[&write]), (false, Ok(None)));
}

#[test]
fn without_a_handler_it_freezes_and_says_so() {
    let mut pair = synced_pair();
    fences(&mut pair, ResourceAndStonith);
    pair.nodes[0].core.as_mut().unwrap().config.options.handlers.clear();
    pair.lose_link();
    pair.run(1_000);
    assert!(pair.is_fenced_off(0) && pair.says(0, "there is no handler fence-peer"));
    assert!(!pair.status(0).connections[0].fencing.as_ref().unwrap().configured);
    pair.link = true;
    pair.synced();
    assert!(!pair.is_fenced_off(0));
}

#[test]
fn a_client_that_leaves_a_frozen_primary_leaves_nothing_behind_that_stops_the_next() {
    for back in [true, false] {
        let mut pair = synced_pair();
        fences(&mut pair, ResourceAndStonith);
        let before = pair.uuid(0);
        pair.nodes[1].mute = true;
        let write = pair.write_later(0, 6, 60);
        pair.run(10);
        pair.lose_link();
        pair.nodes[1].mute = false;
        pair.run(100);
        pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: false });
        assert_eq!(pair.nodes[0].replies[&write], Err(ReplyError::Shutdown));
        let session = SessionId(1);
        pair.event(0, Event::SessionOpened { session, volume: 0, client: "next".into() });
        let next = pair.write_later(0, 7, 70);
        pair.run(100);
        assert!(!pair.nodes[0].replies.contains_key(&next));
        if back {
            pair.link = true;
            pair.run(20_000);
            assert_eq!(pair.nodes[1].disk.blocks.get(&6), Some(&60), "its bit was set");
            assert_eq!(pair.uuid(0) & !1, before & !1);
        } else {
            pair.answers(0, Exited(7));
            assert_ne!(pair.uuid(0) & !1, before & !1, "it can be read, and is recorded");
        }
        assert_eq!(pair.nodes[0].replies[&next], Ok(None), "{back}");
    }
}

#[test]
fn no_answer_of_a_handler_makes_a_disk_that_was_detached_the_newest() {
    let mut pair = synced_pair();
    fences(&mut pair, ResourceOnly);
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(pair.write(0, 6, 60), Ok(None));
    pair.lose_power(0);
    pair.run(1_000);
    pair.attach(1).unwrap();
    let id = pair.order(1, Command::Primary { force: None });
    pair.run(50);
    assert!(pair.nodes[1].calls.is_empty(), "it would be promoted without the peer's writes");
    assert_eq!(pair.nodes[1].admin.remove(&id).unwrap().unwrap_err().code, -2);
}
