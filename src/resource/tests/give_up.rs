//! Orders that give a disk up, on both nodes at once, and cut off at every instant.

use super::pair::{Pair, synced_pair};
use crate::meta::DeviceFlags;
use crate::resource::*;

/// Nobody is Primary, and both disks are equal.
pub(super) fn idle_pair() -> Pair {
    let mut pair = synced_pair();
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
    pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    pair.synced();
    pair
}

fn peer_of(n: usize) -> u8 {
    u8::from(n == 0)
}

fn invalidate() -> Command {
    Command::Invalidate { volume: 0 }
}

fn remote(n: usize) -> Command {
    Command::InvalidateRemote { volume: 0, peer: peer_of(n) }
}

/// Every order of node `n` that gives a disk up.
fn orders(n: usize) -> [Command; 4] {
    let peer = peer_of(n);
    let repair = |from| Command::Repair { volume: 0, peer, from };
    [invalidate(), remote(n), repair(peer), repair(1 - peer)]
}

/// A pair in which a verify has marked a block, so that a repair has something to do.
fn marked_pair() -> Pair {
    let mut pair = idle_pair();
    pair.nodes[1].disk.blocks.insert(4321, 666);
    let verify = Command::Verify { volume: 0, peer: 1, start: None, stop: None };
    pair.admin(0, verify).unwrap();
    pair.run(20_000);
    assert_eq!(pair.status(1).connections[0].peer_devices[0].out_of_sync, 4096);
    pair
}

/// Both orders, before either node hears of the other one's.
fn cross(pair: &mut Pair, commands: [Command; 2]) -> [u64; 2] {
    let ids = [pair.next, pair.next + 1];
    pair.next += 2;
    for (n, command) in commands.into_iter().enumerate() {
        pair.event(n, Event::Admin { id: ids[n], command });
    }
    ids
}

/// So many events happen; whether there were as many.
fn steps(pair: &mut Pair, count: usize) -> bool {
    for at in 0..count {
        let n = (at..at + 2).map(|n| n % 2).find(|n| !pair.nodes[*n].done.is_empty());
        let Some(n) = n else { return false };
        let event = pair.nodes[n].done.pop_front().expect("just seen");
        pair.event(n, event);
    }
    true
}

#[test]
fn of_two_orders_at_once_one_is_refused_and_both_disks_end_good() {
    for (a, b) in (0..16).map(|i| (i / 4, i % 4)) {
        let mut pair = marked_pair();
        let ids = cross(&mut pair, [orders(0)[a].clone(), orders(1)[b].clone()]);
        pair.run(100);
        let results = [0, 1].map(|n| pair.nodes[n].admin.remove(&ids[n]).expect("answered"));
        let [first, second] = &results;
        assert_eq!(first, &Ok(String::new()), "{a} {b}: the lower node id has its way");
        let refusal = second.as_ref().expect_err("the other one does not");
        assert_eq!((refusal.code, refusal.exit_code()), (-10, 11), "{a} {b} {refusal:?}");
        assert!(refusal.hint.contains("at the same instant"), "{refusal:?}");
        pair.synced();
        for n in 0..2 {
            let targets = pair.nodes[n].log.iter().filter(|line| line.contains("as SyncTarget"));
            // Orders 0 and 2 give the own disk up.
            let loses = usize::from(n == usize::from(a % 2 == 1));
            assert_eq!(targets.count(), loses + usize::from(n == 1), "{a} {b}: {n}");
        }
    }
}

/// What ends the talk of two nodes.
#[derive(Clone, Copy, Debug)]
enum End {
    Cut,
    /// And whoever has the upper hand gives its own disk up as well.
    CutAndOrder(usize),
    Kill(usize),
    KillBoth,
}

#[test]
fn cut_off_at_any_instant_one_disk_stays_good() {
    use End::*;
    for end in [Cut, CutAndOrder(0), CutAndOrder(1), Kill(0), Kill(1), KillBoth] {
        for both in [false, true] {
            let stride = if both && matches!(end, CutAndOrder(_)) { 2 } else { 6 };
            let mut count = 0;
            loop {
                let mut pair = idle_pair();
                let commands =
                    if both { [invalidate(), invalidate()] } else { [remote(0), remote(1)] };
                cross(&mut pair, commands);
                let more = steps(&mut pair, count);
                pair.link = false;
                match end {
                    Cut => pair.cut(),
                    CutAndOrder(n) => {
                        pair.cut();
                        let id = pair.next;
                        pair.next += 1;
                        pair.event(n, Event::Admin { id, command: invalidate() });
                    }
                    Kill(n) => pair.kill(n),
                    KillBoth => {
                        pair.kill(0);
                        pair.kill(1);
                    }
                }
                pair.run(1000);
                let whole = |n: usize| {
                    let flags = pair.nodes[n].disk.superblock.as_ref().unwrap().flags;
                    flags & DeviceFlags::WAS_UP_TO_DATE != 0
                };
                assert!(whole(0) || whole(1), "{end:?} {both} {count}");
                pair.link = true;
                for n in 0..2 {
                    if pair.nodes[n].core.is_none() {
                        pair.up(n);
                    }
                }
                pair.synced();
                if !more {
                    break;
                }
                count += stride;
            }
            assert!(count > 10, "{count}");
        }
    }
}

#[test]
fn disks_that_are_both_given_up_without_a_session_are_taken_back() {
    // Nobody has written; node 0 has the newer generation; node 1 has.
    for newer in [None, Some(0), Some(1)] {
        for kill_at in (0..60).step_by(4) {
            let mut pair = idle_pair();
            pair.lose_link();
            pair.run(1000);
            if let Some(n) = newer {
                pair.primary(n, false);
                assert_eq!(pair.write(n, 9, 99), Ok(None));
                let session = SessionId(n as u64 + 1);
                pair.event(n, Event::SessionClosed { session, disconnect: true });
                pair.admin(n, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
            }
            for n in 0..2 {
                assert_eq!(pair.admin(n, invalidate()), Ok(String::new()));
                assert_eq!(pair.disk(n), DiskState::Inconsistent);
            }
            pair.link = true;
            // Somewhere in the handshake that takes one back, both die.
            let until = pair.now.after_ms(3000);
            while pair.now < until && !pair.nodes.iter().any(|node| !node.sockets.is_empty()) {
                pair.run(50);
            }
            pair.kill(0);
            pair.kill(1);
            pair.up(0);
            pair.up(1);
            steps(&mut pair, kill_at);
            pair.kill(0);
            pair.kill(1);
            pair.up(0);
            pair.up(1);
            pair.synced();
            for n in 0..2 {
                let found = pair.nodes[n].disk.blocks.get(&9).copied().unwrap_or(0);
                assert_eq!(found, newer.map_or(0, |_| 99), "{newer:?} {kill_at}");
            }
        }
    }
}

#[test]
fn a_disk_that_was_given_up_is_taken_back_only_where_the_other_one_is_no_better() {
    let mut pair = idle_pair();
    pair.lose_link();
    pair.run(1000);
    pair.nodes[0].disk.blocks.insert(77, 7);
    assert_eq!(pair.admin(1, invalidate()), Ok(String::new()));
    pair.link = true;
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&77), Some(&7), "the order holds");
    assert!(pair.nodes[1].log.iter().any(|line| line.contains("rule=inconsistent-self")));
}

#[test]
fn a_target_in_mid_resync_goes_on_though_its_source_was_given_up() {
    let mut pair = idle_pair();
    pair.nodes[0].stall = |action| matches!(action, Action::FindHole { .. });
    pair.admin(1, invalidate()).unwrap();
    while pair.status(1).connections[0].peer_devices[0].replication_state
        != ReplicationState::SyncTarget
    {
        pair.run(1);
    }
    pair.lose_link();
    pair.nodes[0].unstall();
    assert_eq!(pair.admin(0, invalidate()), Ok(String::new()));
    assert_eq!([0, 1].map(|n| pair.disk(n)), [DiskState::Inconsistent; 2]);
    pair.link = true;
    pair.synced();
    let log = pair.nodes[0].log.join("\n");
    assert!(log.contains("source-set-bitmap: A disk that was invalidated is taken back"), "{log}");
}

#[test]
fn a_promise_binds_until_the_session_ends() {
    let mut pair = idle_pair();
    // Node 0 promises, and its answer does not arrive.
    pair.nodes[0].mute = true;
    let id = pair.order(1, invalidate());
    assert_eq!(pair.nodes[1].admin.get(&id), None, "it waits for the answer");
    assert_eq!(pair.disk(1), DiskState::UpToDate, "and nothing has changed before");
    let refusal = pair.admin(0, invalidate()).unwrap_err();
    assert_eq!(refusal.code, -10, "{refusal:?}");
    assert!(refusal.hint.contains("wait-sync"), "{refusal:?}");
    let detach = Command::Detach { volume: 0, force: false };
    assert_eq!(pair.admin(0, detach).unwrap_err().code, -18);
    pair.nodes[0].mute = false;
    pair.nodes[0].air.clear();
    pair.lose_link();
    let refusal = pair.nodes[1].admin.remove(&id).expect("answered").unwrap_err();
    assert_eq!((refusal.code, refusal.exit_code()), (-15, 11));
    assert_eq!(pair.disk(1), DiskState::UpToDate);
    assert_eq!(pair.admin(0, invalidate()), Ok(String::new()), "the promise is void");
    pair.link = true;
    pair.synced();
}

#[test]
fn a_disk_that_was_promised_and_is_detached_by_force_is_no_old_copy() {
    for late in [false, true] {
        let mut pair = idle_pair();
        pair.nodes[0].mute = true;
        let id = pair.order(1, invalidate());
        if !late {
            pair.nodes[0].mute = false;
            let air: Vec<Event> = pair.nodes[0].air.drain(..).collect();
            for event in air {
                pair.event(1, event);
            }
        }
        let force = pair.order(0, Command::Detach { volume: 0, force: true });
        pair.nodes[0].mute = false;
        let air: Vec<Event> = pair.nodes[0].air.drain(..).collect();
        for event in air {
            pair.event(1, event);
        }
        pair.run(60_000);
        assert_eq!(pair.nodes[0].admin.remove(&force), Some(Ok(String::new())), "{late}");
        pair.nodes[1].admin.remove(&id).expect("answered").unwrap();
        let flags = pair.nodes[0].disk.superblock.as_ref().unwrap().flags;
        assert_eq!(flags & DeviceFlags::OUTDATED, 0, "{late}: the only good copy");
        // In the session it could only be the source, which a new connection decides.
        pair.lose_link();
        pair.attach(0).unwrap();
        pair.link = true;
        pair.synced();
    }
}

#[test]
fn the_source_of_a_resync_is_detached_by_force_only_with_nobody_primary_too() {
    let mut pair = idle_pair();
    pair.nodes[1].stall = |action| matches!(action, Action::DiskWrite { .. });
    pair.admin(1, invalidate()).unwrap();
    pair.run(2_000);
    let state = pair.status(0).connections[0].peer_devices[0].replication_state;
    assert_eq!(state, ReplicationState::SyncSource);
    let detach = |force| Command::Detach { volume: 0, force };
    let refusal = pair.admin(0, detach(false)).expect_err("bob's is a mix");
    assert_eq!(refusal.code, -2);
    assert!(refusal.hint.contains("wait-sync"), "{refusal:?}");
    assert_eq!(pair.disk(0), DiskState::UpToDate);
    pair.nodes[1].unstall();
    pair.synced();
    assert_eq!(pair.admin(0, detach(false)), Ok(String::new()));
}

#[test]
fn a_promise_that_comes_too_late_is_given_back() {
    let mut pair = idle_pair();
    pair.nodes[0].mute = true;
    let id = pair.order(1, invalidate());
    pair.nodes[0].mute = false;
    let promise = pair.nodes[0].air.pop_back().expect("the answer");
    pair.nodes[0].air.clear();
    let promised = |pair: &Pair| pair.core(0).connections[0].peer_devices[&0].promised;
    assert!(promised(&pair).is_some());
    pair.run(31_000);
    let refusal = pair.nodes[1].admin.remove(&id).expect("answered").unwrap_err();
    assert_eq!((refusal.code, refusal.exit_code()), (-23, 11), "{refusal:?}");
    pair.event(1, promise);
    pair.run(50);
    assert_eq!(promised(&pair), None);
    pair.synced();
    assert_eq!(pair.admin(0, invalidate()), Ok(String::new()));
    pair.synced();
}

#[test]
fn what_the_peer_refuses_is_told() {
    let mut pair = marked_pair();
    // Node 1 is busy: it becomes Primary, and its disk takes its time.
    pair.nodes[1].stall = |action| matches!(action, Action::Meta { .. });
    let promote = pair.order(1, Command::Primary { force: None });
    for command in [remote(0), invalidate(), orders(0)[3].clone()] {
        let refusal = pair.admin(0, command).unwrap_err();
        assert_eq!((refusal.code, refusal.exit_code()), (-18, 11), "{refusal:?}");
        assert!(refusal.hint.starts_with("bob refuses: "), "{refusal:?}");
    }
    assert_eq!(pair.disk(0), DiskState::UpToDate);
    pair.nodes[1].unstall();
    pair.run(100);
    assert_eq!(pair.nodes[1].admin.remove(&promote), Some(Ok(String::new())));
    pair.admin(1, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    // Its disk fails as it is marked.
    pair.nodes[1].fail = |action| matches!(action, Action::Meta { .. });
    let refusal = pair.admin(0, remote(0)).unwrap_err();
    assert_eq!(refusal.code, -5, "{refusal:?}");
}

#[test]
fn a_peer_whose_disk_hangs_keeps_nobody() {
    let mut pair = idle_pair();
    pair.nodes[1].stall = |action| matches!(action, Action::Meta { .. });
    let id = pair.order(0, remote(0));
    pair.run(29_000);
    assert_eq!(pair.nodes[0].admin.get(&id), None);
    pair.run(2_000);
    let refusal = pair.nodes[0].admin.remove(&id).expect("answered").unwrap_err();
    assert_eq!((refusal.code, refusal.exit_code()), (-23, 11), "{refusal:?}");
    let connection = pair.status(0).connections[0].connection_state;
    assert_eq!(connection, ConnectionState::Connected, "the session stands");
    // The peer has not given up the order, and this node must not give its own disk up now.
    assert_eq!(pair.admin(0, invalidate()).unwrap_err().code, -18);
    pair.nodes[1].unstall();
    pair.synced();
    assert!(pair.nodes[1].log.iter().any(|line| line.contains("as SyncTarget")));
}

/// The disk that was to stay fails: the one that goes is no copy for what is acknowledged then.
#[test]
fn a_write_that_only_the_disk_that_goes_has_is_not_acknowledged() {
    for command in [remote(0), invalidate(), Command::Repair { volume: 0, peer: 0, from: 0 }] {
        let by = usize::from(command != remote(0));
        for first in [false, true] {
            for count in 0..6 {
                let mut pair = synced_pair();
                if by == 1 && command != invalidate() {
                    pair.nodes[1].disk.blocks.insert(4321, 666);
                    let verify = Command::Verify { volume: 0, peer: 1, start: None, stop: None };
                    pair.admin(0, verify).unwrap();
                    pair.run(20_000);
                }
                pair.nodes[0].stall = |action| matches!(action, Action::DiskWrite { .. });
                pair.nodes[0].fail = |action| matches!(action, Action::DiskWrite { .. });
                let early = first.then(|| pair.write_later(0, 30, 77));
                let id = pair.next;
                pair.next += 1;
                pair.event(by, Event::Admin { id, command: command.clone() });
                steps(&mut pair, count);
                let write = early.unwrap_or_else(|| pair.write_later(0, 30, 77));
                steps(&mut pair, 6);
                pair.nodes[0].unstall();
                pair.run(3_000);
                let story =
                    format!("{command:?} {first} {count}\n{}", pair.nodes[0].log.join("\n"));
                let reply = pair.nodes[0].replies.remove(&write).expect("answered");
                let read = Op::Read { offset: 30 * 4096, length: 4096 };
                let read = pair.request(0, 7000, read);
                assert!(reply.is_err() || read == Ok(Some(77)), "{read:?} {story}");
            }
        }
    }
}

#[test]
fn an_order_whose_disk_fails_before_it_is_durable_is_not_done() {
    let orders = [
        invalidate(),
        Command::Outdate { volume: 0 },
        Command::NewCurrentUuid { volume: 0, clear_bitmap: false },
        Command::ForgetPeer { peer: 1 },
    ];
    for command in orders {
        let mut pair = idle_pair();
        pair.admin(0, Command::Disconnect { peer: 1, force: false, for_ms: None }).unwrap();
        pair.run(100);
        pair.nodes[0].fail = |action| matches!(action, Action::Meta { .. });
        let refusal = pair.admin(0, command.clone()).expect_err("nothing of it is durable");
        assert_eq!(refusal.code, 118, "{command:?}: {refusal:?}");
        assert_eq!(pair.disk(0), DiskState::Diskless);
        pair.nodes[0].fail = |_| false;
        pair.attach(0).unwrap();
        assert!(pair.disk(0) >= DiskState::Consistent, "{command:?}: as it was");
    }
}
