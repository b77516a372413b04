//! A disk or a peer that is lost while a write waits for a range, or while an open session drains.

use super::pair::{Pair, synced_pair};
use crate::meta::{DeviceFlags, MetaOp};
use crate::resource::peer::connection::Stage;
use crate::resource::*;

/// In an extent that nobody has written to.
const COLD: u64 = 5000;

fn verify(n: usize) -> Command {
    let peer = u8::try_from(1 - n).unwrap();
    Command::Verify { volume: 0, peer, start: Some(COLD * 4096), stop: None }
}

/// What was written while the disk of node 0 was lost is there when it is back.
fn comes_back_with(pair: &mut Pair, id: u64) {
    pair.nodes[0].fail = |_| false;
    pair.run(1_000);
    assert_eq!(pair.nodes[0].replies.remove(&id), Some(Ok(None)), "{}", pair.story());
    assert_eq!(pair.disk(0), DiskState::Diskless, "{}", pair.story());
    pair.attach(0).unwrap();
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks.get(&COLD), Some(&5), "{}", pair.story());
}

#[test]
fn what_waited_for_a_verify_is_known_to_be_the_peers_alone_where_the_own_disk_fails() {
    for n in 0..2 {
        let mut pair = synced_pair();
        pair.nodes[0].fail = |action| matches!(action, Action::DiskRead { .. });
        pair.nodes[0].stall = pair.nodes[0].fail;
        assert_eq!(pair.admin(n, verify(n)), Ok(String::new()));
        pair.run(100);
        let id = pair.start_write(0, COLD, 5);
        assert_eq!(pair.nodes[0].replies.get(&id), None, "it waits for the range");
        pair.nodes[0].unstall();
        comes_back_with(&mut pair, id);
    }
}

#[test]
fn a_disk_that_fails_while_an_open_session_drains_is_told_and_heard() {
    for n in 0..2 {
        let mut pair = synced_pair();
        pair.nodes[0].fail =
            |action| matches!(action, Action::Meta { op: MetaOp::ActivityLog { .. }, .. });
        pair.nodes[0].stall = pair.nodes[0].fail;
        let id = pair.start_write(0, COLD, 5);
        pair.nodes[n].core.as_mut().unwrap().renegotiate();
        pair.event(n, Event::Timeout);
        pair.settle();
        assert_eq!(pair.core(0).connections[0].stage, Stage::Quiescing, "{}", pair.story());
        pair.nodes[0].unstall();
        comes_back_with(&mut pair, id);
    }
}

#[test]
fn what_waited_for_a_verify_goes_on_where_the_peer_is_lost() {
    for n in 0..2 {
        let mut pair = synced_pair();
        // The extent is hot by then.
        pair.write(0, COLD + 50, 4).unwrap();
        pair.nodes[1].stall = |action| matches!(action, Action::DiskRead { .. });
        assert_eq!(pair.admin(n, verify(n)), Ok(String::new()));
        pair.run(100);
        let id = pair.start_write(0, COLD, 5);
        assert_eq!(pair.nodes[0].replies.get(&id), None, "it waits for the range");
        pair.link = false;
        pair.kill(1);
        // Nobody is dialled yet.
        pair.settle();
        assert_eq!(pair.nodes[0].replies.remove(&id), Some(Ok(None)), "{}", pair.story());
        pair.nodes[1].stall = |_| false;
        pair.link = true;
        pair.up(1);
        pair.synced();
        assert_eq!(pair.nodes[1].disk.blocks.get(&COLD), Some(&5), "{}", pair.story());
    }
}

/// Three clients, one behind the other; the one in the middle hangs up.
#[test]
fn who_waited_behind_a_request_that_is_taken_back_goes_on() {
    let mut pair = synced_pair();
    let session = |n: u64| SessionId(70 + n);
    for n in 0..3 {
        let client = format!("client {n}");
        pair.event(0, Event::SessionOpened { session: session(n), volume: 0, client });
    }
    pair.nodes[1].stall = |action| matches!(action, Action::DiskWrite { .. });
    for (n, block, blocks) in [(0, 10, 1), (1, 10, 2), (2, 11, 1)] {
        let length = blocks * 4096;
        let values = vec![7 + n; usize::try_from(blocks).unwrap()];
        let payload = pair.nodes[0].payload(length, values);
        let op = Op::Write { offset: block * 4096, payload, fua: false };
        let request = RequestId(900 + n);
        pair.event(0, Event::Request { session: session(n), request, volume: 0, op });
    }
    pair.run(10);
    pair.event(0, Event::SessionClosed { session: session(1), disconnect: false });
    pair.nodes[1].stall = |_| false;
    pair.run(10);
    assert_eq!(pair.nodes[0].replies.get(&902), Some(&Ok(None)), "{}", pair.story());
    assert_eq!(pair.nodes[0].replies.get(&900), None, "the first one is under way");
    pair.nodes[1].unstall();
    pair.synced();
}

/// The peer that comes back has an older copy: it vouches for nothing that the own disk may have lost (simulator seed
/// 2000649).
#[test]
fn clients_of_an_only_copy_that_failed_are_cut_off_when_it_becomes_the_source() {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.run(1_000);
    assert_eq!(pair.write(0, 10, 1), Ok(None));
    pair.nodes[0].fail = |action| matches!(action, Action::DiskFlush { .. });
    assert_eq!(pair.request(0, 1, Op::Flush), Err(ReplyError::Io));
    pair.nodes[0].fail = |_| false;
    pair.run(100);
    assert_eq!(pair.disk(0), DiskState::Diskless, "{}", pair.story());
    pair.nodes[0].cache_is_lost();
    // As after a promotion that fence-peer has allowed.
    pair.nodes[0].disk.superblock.as_mut().unwrap().flags &= !DeviceFlags::SURVIVED;
    pair.attach(0).unwrap();
    assert_eq!(pair.disk(0), DiskState::Consistent, "{}", pair.story());
    assert_eq!(pair.disk(1), DiskState::UpToDate, "older, and it does not know");
    assert_eq!(pair.nodes[0].lost_caches, 0, "nothing can be read");
    pair.link = true;
    pair.synced();
    assert_eq!(pair.nodes[0].lost_caches, 1, "{}", pair.story());
}
