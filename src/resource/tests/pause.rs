//! A resync that is paused, and clients' I/O that is frozen, by order.

use super::pair::{Pair, synced_pair};
use crate::resource::*;

fn pause(peer: u8, pause: bool) -> Command {
    Command::PauseSync { volume: 0, peer, pause }
}

fn suspend(suspend: bool) -> Command {
    Command::SuspendIo { suspend }
}

impl Pair {
    fn held(&self, n: usize) -> String {
        self.status(n).connections[0].peer_devices[0].resync_suspended.to_string()
    }

    fn state(&self, n: usize) -> ReplicationState {
        self.status(n).connections[0].peer_devices[0].replication_state
    }

    fn out_of_sync(&self, n: usize) -> u64 {
        self.status(n).connections[0].peer_devices[0].out_of_sync
    }

    /// Node 0 has written `blocks` alone; the link is cut.
    fn alone(blocks: u64) -> Self {
        let mut pair = synced_pair();
        assert_eq!(pair.request(0, 1001, Op::Flush), Ok(None));
        pair.lose_link();
        for block in 0..blocks {
            assert_eq!(pair.write(0, 100 + 2 * block, 1 + block), Ok(None));
        }
        pair
    }

    fn meet(&mut self) {
        self.link = true;
        self.run(20_000);
    }
}

use ReplicationState::{Established, PausedSyncS, PausedSyncT};

#[test]
fn a_pause_of_either_side_holds_the_resync_back_and_outlives_the_session() {
    for n in 0..2 {
        let mut pair = Pair::alone(20);
        let peer = 1 - u8::try_from(n).unwrap();
        pair.admin(n, pause(peer, true)).unwrap();
        for _ in 0..2 {
            pair.meet();
            let states = (pair.state(0), pair.state(1));
            assert_eq!(states, (PausedSyncS, PausedSyncT), "{n} {:?}", pair.nodes[1].log);
            assert_eq!((pair.held(n), pair.held(1 - n)), ("user".into(), "peer".into()));
            assert_eq!(pair.out_of_sync(0), 20 * 4096, "nothing is copied");
            assert_eq!(pair.disk(1), DiskState::Inconsistent);
            let resync = pair.status(1).connections[0].peer_devices[0].resync.clone().unwrap();
            assert!(resync.paused_ms >= 10_000 && resync.seconds_left.is_none(), "{resync:?}");
            pair.lose_link();
            assert_eq!(pair.held(1 - n), "no", "the peer's flag ends with the session");
        }
        pair.meet();
        pair.admin(n, pause(peer, false)).unwrap();
        pair.synced();
        assert_eq!((pair.held(0), pair.held(1)), ("no".into(), "no".into()));
    }
}

#[test]
fn writes_go_on_beside_a_paused_resync_and_end_it_where_they_cover_it() {
    let mut pair = Pair::alone(3);
    pair.admin(0, pause(1, true)).unwrap();
    pair.meet();
    assert_eq!(pair.write(0, 7, 70), Ok(None));
    assert_eq!(pair.write(0, 100, 71), Ok(None));
    assert_eq!(pair.nodes[1].disk.blocks.get(&100), Some(&71), "it is replicated");
    pair.run(5_000);
    assert_eq!(pair.out_of_sync(0), 2 * 4096, "its bit is cleared, the others are not");
    // Nothing is lost when the peer is lost meanwhile.
    pair.lose_link();
    assert_eq!(pair.write(0, 8, 80), Ok(None));
    pair.meet();
    assert_eq!(pair.state(1), PausedSyncT);
    for block in [7, 8, 100, 102, 104] {
        assert_eq!(pair.write(0, block, 90 + block), Ok(None));
    }
    pair.run(5_000);
    assert_eq!((pair.state(0), pair.state(1)), (Established, Established), "nothing is left");
    assert_eq!(pair.disk(1), DiskState::UpToDate);
    pair.synced();
}

#[test]
fn a_source_that_loses_its_paused_target_has_survived_and_the_target_has_not() {
    let mut pair = Pair::alone(3);
    pair.admin(1, pause(0, true)).unwrap();
    pair.meet();
    assert_eq!((pair.state(0), pair.state(1)), (PausedSyncS, PausedSyncT));
    pair.lose_link();
    pair.run(10_000);
    let survived = |pair: &Pair, n: usize| {
        let flags = pair.nodes[n].disk.superblock.as_ref().expect("a superblock").flags;
        flags & crate::meta::DeviceFlags::SURVIVED != 0
    };
    assert!(survived(&pair, 0), "it is durable before anything rests on it");
    assert!(!survived(&pair, 1));
    for n in 0..2 {
        pair.kill(n);
        pair.up(n);
    }
    assert_eq!((pair.disk(0), pair.disk(1)), (DiskState::UpToDate, DiskState::Inconsistent));
    assert_eq!(pair.held(1), "no", "a pause does not outlive the resource");
    pair.link = true;
    pair.synced();
}

#[test]
fn a_pause_in_the_middle_stops_it_there_and_resume_goes_on_there() {
    let mut pair = synced_pair();
    for n in 0..2 {
        pair.nodes[n].disk.blocks.extend((1000..9000).map(|block| (block, 7)));
    }
    pair.nodes[0].stall = |action| matches!(action, Action::DiskRead { .. });
    pair.admin(0, Command::InvalidateRemote { volume: 0, peer: 1 }).unwrap();
    pair.run(2_000);
    assert_eq!(pair.state(1), ReplicationState::SyncTarget);
    let all = pair.out_of_sync(0);
    pair.admin(1, pause(0, true)).unwrap();
    pair.nodes[0].unstall();
    pair.run(10_000);
    let left = pair.out_of_sync(0);
    assert!(0 < left && left < all, "what was asked for has come: {left} of {all}");
    pair.run(10_000);
    assert_eq!((pair.out_of_sync(0), pair.out_of_sync(1)), (left, left));
    let received = pair.status(1).connections[0].peer_devices[0].received;
    pair.admin(1, pause(0, false)).unwrap();
    pair.synced();
    let moved = pair.status(1).connections[0].peer_devices[0].received - received;
    assert!(moved <= left, "it goes on where it was: {moved} of {left}");
}

#[test]
fn pauses_are_refused_as_drbd_refuses_them() {
    let mut pair = synced_pair();
    let code = |result: AdminResult| result.unwrap_err().code;
    assert_eq!(code(pair.admin(0, pause(1, false))), 135);
    pair.admin(0, pause(1, true)).unwrap();
    assert_eq!((pair.held(0), pair.held(1)), ("user".into(), "peer".into()));
    assert_eq!((pair.state(0), pair.state(1)), (Established, Established));
    assert_eq!(code(pair.admin(0, pause(1, true))), 134);
    assert_eq!(code(pair.admin(1, pause(0, false))), 157);
    assert_eq!(code(pair.admin(0, pause(7, true))), 171);
    pair.admin(0, pause(1, false)).unwrap();
    pair.event(0, Event::ResyncDependency { volume: 0, peer: 1, paused: true });
    pair.run(10);
    assert_eq!(code(pair.admin(0, pause(1, false))), 156);
    assert_eq!((pair.held(0), pair.held(1)), ("dependency".into(), "peer".into()));
}

#[test]
fn a_resync_waits_for_another_one_and_for_nobody_else() {
    let mut pair = Pair::alone(3);
    pair.event(1, Event::ResyncDependency { volume: 0, peer: 0, paused: true });
    pair.meet();
    assert_eq!((pair.state(0), pair.state(1)), (PausedSyncS, PausedSyncT));
    pair.admin(1, pause(0, true)).unwrap();
    assert_eq!(pair.held(1), "user,dependency");
    pair.event(1, Event::ResyncDependency { volume: 0, peer: 0, paused: false });
    pair.run(1_000);
    assert_eq!(pair.state(1), PausedSyncT, "the other reason holds it still");
    pair.admin(1, pause(0, false)).unwrap();
    pair.synced();
    pair.event(1, Event::ResyncDependency { volume: 9, peer: 0, paused: true });
    pair.event(1, Event::ResyncDependency { volume: 0, peer: 9, paused: true });
    assert_eq!(pair.held(1), "no");
}

#[test]
fn an_ordered_full_sync_is_paused_like_any_other() {
    let mut pair = synced_pair();
    pair.admin(0, pause(1, true)).unwrap();
    pair.admin(0, Command::InvalidateRemote { volume: 0, peer: 1 }).unwrap();
    pair.run(5_000);
    assert_eq!((pair.state(0), pair.state(1)), (PausedSyncS, PausedSyncT));
    assert!(pair.admin(1, Command::Primary { force: None }).is_err());
    // It can leave in order meanwhile.
    pair.admin(1, Command::Disconnect { peer: 0, force: false, for_ms: None }).unwrap();
    pair.connect_both();
    pair.run(5_000);
    assert_eq!(pair.state(1), PausedSyncT);
    pair.admin(0, pause(1, false)).unwrap();
    pair.synced();
}

#[test]
fn suspended_requests_wait_whatever_happens_and_all_are_answered() {
    let mut pair = synced_pair();
    pair.admin(0, suspend(true)).unwrap();
    pair.admin(0, suspend(true)).unwrap();
    assert!(pair.status(0).suspended_user);
    let writes: Vec<u64> = (0..5).map(|block| pair.write_later(0, block, 10 + block)).collect();
    pair.request_later(0, 9000, Op::Read { offset: 0, length: 4096 });
    pair.request_later(0, 9001, Op::Flush);
    pair.run(100_000);
    assert!(pair.nodes[0].replies.is_empty(), "held, not failed");
    pair.lose_link();
    pair.run(10_000);
    pair.link = true;
    pair.run(30_000);
    assert!(pair.nodes[0].replies.is_empty());
    assert_eq!(pair.nodes[0].disk.blocks.get(&1), None, "nothing was begun");
    assert_eq!(pair.status(0).devices[0].upper_pending, 7);
    pair.admin(0, suspend(false)).unwrap();
    pair.run(100);
    for id in writes {
        assert_eq!(pair.nodes[0].replies.remove(&id), Some(Ok(None)));
    }
    assert_eq!(pair.nodes[0].replies.remove(&9000), Some(Ok(Some(10))), "behind the write");
    assert_eq!(pair.nodes[0].replies.remove(&9001), Some(Ok(None)));
    pair.synced();
}

#[test]
fn a_suspended_primary_is_demoted_and_taken_down_as_drbd_does() {
    let mut pair = synced_pair();
    pair.admin(0, suspend(true)).unwrap();
    let id = pair.write_later(0, 5, 50);
    let refusal = pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap_err();
    assert_eq!(refusal.code, -12);
    assert_eq!(pair.admin(0, Command::Down { shutdown: false }).unwrap_err().code, -12);
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: false });
    pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    assert!(pair.status(0).suspended_user, "until resume-io");
    assert_eq!(pair.nodes[0].replies.get(&id), None, "its client is gone");
    pair.admin(0, Command::Primary { force: None }).unwrap();
    pair.event(0, Event::SessionOpened { session: SessionId(1), volume: 0, client: "c".into() });
    let id = pair.write_later(0, 5, 51);
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    assert_eq!(pair.nodes[0].replies.get(&id), None);
    assert!(pair.nodes[0].values.is_empty(), "its buffer is free");
    pair.admin(0, Command::Down { shutdown: false }).unwrap();
}
