//! Stories of the source of a resync whose process ends, and of its target, which is Primary.

use super::pair::{Pair, synced_pair};
use crate::meta::{DeviceFlags, MetaOp};
use crate::resource::peer::connection::Stage;
use crate::resource::*;

/// Node 0 is Primary, and the target of a resync that waits for its source's disk.
pub(super) fn primary_that_is_target() -> Pair {
    let mut pair = synced_pair();
    pair.admin(0, Command::Detach { volume: 0, force: false }).unwrap();
    for block in 20..24 {
        pair.write(0, block, block).unwrap();
    }
    pair.nodes[1].stall = |action| matches!(action, Action::DiskRead { find_zeroes: true, .. });
    pair.attach(0).unwrap();
    pair.run(3_000);
    assert_eq!(pair.disk(0), DiskState::Inconsistent, "{}", pair.story());
    pair
}

fn read(pair: &mut Pair, id: u64, block: u64) -> Result<Option<u64>, ReplyError> {
    pair.request(0, id, Op::Read { offset: block * 4096, length: 4096 })
}

#[test]
fn a_primary_that_is_a_target_goes_on_where_its_source_merely_lost_its_process() {
    let mut pair = primary_that_is_target();
    pair.write(0, 5000, 9).unwrap();
    for round in 0..3 {
        pair.kill(1);
        pair.run(100);
        assert_eq!(
            read(&mut pair, 6000 + round, 5000),
            Err(ReplyError::Io),
            "{round} {}",
            pair.story()
        );
        pair.up(1);
        pair.run(1_000);
        let peer = &pair.status(0).connections[0].peer_devices[0];
        assert_eq!(peer.replication_state, ReplicationState::SyncTarget, "{}", pair.story());
        assert_eq!(pair.disk(1), DiskState::UpToDate, "{}", pair.story());
    }
    pair.write(0, 7000, 100).unwrap();
    pair.nodes[1].unstall();
    pair.run(100);
    assert_eq!(read(&mut pair, 6010, 5000), Ok(Some(9)), "{}", pair.story());
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks.get(&7000), Some(&100));
    assert_eq!(pair.flags(1) & (DeviceFlags::STANDS_IN | DeviceFlags::IN_DOUBT), 0);
}

#[test]
fn a_source_that_lost_its_cache_is_not_taken_for_what_it_was() {
    let mut pair = primary_that_is_target();
    pair.write(0, 5000, 9).unwrap();
    pair.lose_power(1);
    pair.run(100);
    pair.up(1);
    pair.run(10_000);
    assert_eq!(pair.disk(1), DiskState::Consistent, "{}", pair.story());
    assert_eq!(pair.status(0).connections[0].connection_state, ConnectionState::StandAlone);
    assert_eq!(read(&mut pair, 6000, 5000), Err(ReplyError::Io), "{}", pair.story());
    // What was given up then is not taken up by the next restart.
    assert_eq!(pair.flags(1) & (DeviceFlags::STANDS_IN | DeviceFlags::IN_DOUBT), 0);
    pair.kill(1);
    pair.up(1);
    pair.run(1_000);
    assert!(!pair.has(1, DeviceFlags::SURVIVED));
}

/// Its target is whole by then, and goes on: nobody promotes the source in its place unasked.
#[test]
fn a_source_that_did_not_hear_of_the_end_is_in_doubt() {
    let mut pair = primary_that_is_target();
    pair.write(0, 5000, 9).unwrap();
    pair.nodes[0].stall = |action| {
        matches!(action, Action::Meta { op: MetaOp::Superblock(s), .. }
            if s.flags & DeviceFlags::CONSISTENT != 0)
    };
    pair.nodes[1].unstall();
    pair.run(500);
    assert_eq!(pair.disk(0), DiskState::Inconsistent, "{}", pair.story());
    // The last word of the target does not arrive.
    pair.nodes[0].mute = true;
    pair.nodes[0].unstall();
    pair.run(100);
    assert_eq!(pair.disk(0), DiskState::UpToDate, "{}", pair.story());
    pair.kill(1);
    pair.nodes[0].air.clear();
    pair.nodes[0].mute = false;
    pair.write(0, 22, 7).unwrap();
    pair.link = false;
    pair.up(1);
    pair.run(1_000);
    assert_eq!(pair.disk(1), DiskState::Consistent, "{}", pair.story());
    assert!(pair.admin(1, Command::Primary { force: None }).is_err());
    pair.link = true;
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&22), Some(&7));
}

/// The link is lost in the instant in which it is made the source again.
#[test]
fn a_source_that_was_on_its_way_back_has_survived_still() {
    let mut pair = primary_that_is_target();
    pair.write(0, 5000, 9).unwrap();
    pair.kill(1);
    pair.run(100);
    pair.nodes[1].stall = |action| {
        matches!(action, Action::Meta { op: MetaOp::Superblock(s), .. }
            if s.flags & DeviceFlags::STANDS_IN != 0)
    };
    pair.up(1);
    pair.run(1_000);
    assert!(!pair.nodes[1].stalled.is_empty(), "{}", pair.story());
    pair.lose_link();
    pair.run(100);
    pair.nodes[1].unstall();
    pair.run(100);
    assert_eq!(pair.disk(1), DiskState::Consistent, "{}", pair.story());
    pair.link = true;
    pair.synced();
    assert_eq!(read(&mut pair, 6000, 5000), Ok(Some(9)), "{}", pair.story());
}

/// What could not be copied for want of room clients have written since; that the source says the end takes a while.
#[test]
fn a_pass_that_is_due_asks_for_no_time_where_nothing_is_left_to_copy() {
    let mut pair = primary_that_is_target();
    pair.nodes[0].full = |action| matches!(action, Action::DiskWrite { .. });
    pair.nodes[1].unstall();
    pair.run(2_000);
    pair.nodes[0].full = |_| false;
    pair.nodes[0].stall = |action| matches!(action, Action::DiskFlush { .. });
    for block in 20..24 {
        pair.write(0, block, 9).unwrap();
    }
    pair.nodes[1].mute = true;
    pair.nodes[0].unstall();
    pair.run(2_000);
    let left = |pair: &Pair| {
        let peer = &pair.core(0).connections[0].peer_devices[&0];
        (peer.bitmap.count(), peer.target.as_ref().and_then(|target| target.retry_at))
    };
    let (0, Some(due)) = left(&pair) else { panic!("{:?} {}", left(&pair), pair.story()) };
    assert!(due > pair.now, "{}", pair.story());
    pair.now = due.after_ms(1);
    pair.event(0, Event::Timeout);
    assert_eq!(left(&pair).0, 0, "{}", pair.story());
    assert!(pair.core(0).next_timeout().is_some_and(|at| at > pair.now), "{}", pair.story());
    pair.nodes[1].mute = false;
    let held = std::mem::take(&mut pair.nodes[1].air);
    pair.nodes[0].done.extend(held);
    pair.synced();
}

/// It has told what differs and hears nothing, and what the Primary writes comes in (simulator seed 2000689).
#[test]
fn a_target_that_waits_for_a_handshake_asks_for_no_time_that_has_passed() {
    let mut pair = synced_pair();
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    for block in 20..24 {
        pair.write(0, block, block).unwrap();
    }
    pair.admin(0, Command::PauseSync { volume: 0, peer: 1, pause: true }).unwrap();
    pair.attach(1).unwrap();
    pair.run(3_000);
    pair.nodes[1].mute = true;
    pair.nodes[1].core.as_mut().unwrap().renegotiate();
    pair.event(1, Event::Timeout);
    pair.start_write(0, 21, 9);
    let unflushed = |pair: &Pair| {
        let connection = &pair.core(1).connections[0];
        assert_eq!(connection.stage, Stage::Handshake, "{}", pair.story());
        connection.peer_devices[&0].target.as_ref().is_some_and(|t| !t.unflushed.is_empty())
    };
    assert!(unflushed(&pair), "{}", pair.story());
    pair.now = pair.now.after_ms(1_500);
    pair.event(1, Event::Timeout);
    assert!(unflushed(&pair), "{}", pair.story());
    assert!(pair.core(1).next_timeout().is_some_and(|at| at > pair.now), "{}", pair.story());
    pair.nodes[1].mute = false;
    let held = std::mem::take(&mut pair.nodes[1].air);
    pair.nodes[0].done.extend(held);
    pair.admin(0, Command::PauseSync { volume: 0, peer: 1, pause: false }).unwrap();
    pair.synced();
}

/// It has said what it is in a new handshake by then, and is that until the session opens.
#[test]
fn an_end_that_comes_behind_the_own_handshake_ends_nothing() {
    let mut pair = synced_pair();
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    pair.write(0, 20, 20).unwrap();
    pair.nodes[0].stall = |action| matches!(action, Action::DiskRead { find_zeroes: true, .. });
    pair.attach(1).unwrap();
    pair.run(1_000);
    // It hears that all is copied, and its answer is on the way.
    pair.nodes[0].unstall();
    let ends = |event: &Event| {
        matches!(event, Event::Packet { packet: crate::wire::Packet::ResyncEnd { .. }, .. })
    };
    for _ in 0..2_000 {
        if let Some(at) = pair.nodes[1].done.iter().position(ends) {
            let end = pair.nodes[1].done.remove(at).unwrap();
            pair.nodes[1].mute = true;
            pair.nodes[1].core.as_mut().unwrap().renegotiate();
            pair.event(1, Event::Timeout);
            let connection = &pair.core(1).connections[0];
            assert_eq!(connection.stage, Stage::Handshake, "{}", pair.story());
            pair.event(1, end);
            let connection = &pair.core(1).connections[0];
            let target = connection.peer_devices[&0].target.as_ref().expect("until it opens");
            assert!(target.end_received && !target.finishing, "{}", pair.story());
            pair.nodes[1].mute = false;
            let held = std::mem::take(&mut pair.nodes[1].air);
            pair.nodes[0].done.extend(held);
            return pair.synced();
        }
        // What comes to the target is looked at before it is heard.
        for n in [1, 0] {
            if let Some(event) = pair.nodes[n].done.pop_front() {
                pair.event(n, event);
            }
        }
        pair.now = pair.now.after_ms(10);
        pair.event(0, Event::Timeout);
        let heard = pair.nodes[1].done.iter().any(ends);
        if !heard {
            pair.event(1, Event::Timeout);
        }
    }
    panic!("it never ended {}", pair.story());
}
