//! A client that flushes each of its writes, as the log of a database does.

use super::pair::{Pair, synced_pair};
use crate::resource::*;

impl Pair {
    /// What node 0 sends, and does on its disk, for this.
    fn seen(&mut self, op: Op) -> (Option<bool>, usize) {
        let id = self.next;
        self.next += 1;
        let (session, request) = (SessionId(1), RequestId(id));
        let now = self.now;
        let core = self.nodes[0].core.as_mut().unwrap();
        core.handle(now, Event::Request { session, request, volume: 0, op });
        let (mut sent, mut flushes) = (None, 0);
        while let Some(action) = self.nodes[0].core.as_mut().and_then(Resource::next_action) {
            match &action {
                Action::Send { packet: crate::wire::Packet::Data { fua, .. }, .. }
                | Action::DiskWrite { fua, .. } => {
                    assert!(sent.is_none_or(|before| before == *fua), "both disks alike");
                    sent = Some(*fua);
                }
                Action::Send { packet: crate::wire::Packet::Flush { .. }, .. }
                | Action::DiskFlush { .. } => flushes += 1,
                _ => {}
            }
            self.act(0, action);
        }
        self.run(10);
        (sent, flushes)
    }

    /// Whether a write was durable by itself.
    fn writes(&mut self, block: u64) -> bool {
        let payload = self.nodes[0].payload(4096, vec![3]);
        self.seen(Op::Write { offset: block * 4096, payload, fua: false }).0.unwrap()
    }

    /// How many disks were asked to flush.
    fn flushes(&mut self) -> usize {
        self.seen(Op::Flush).1
    }

    /// It flushes each write, and has for long enough.
    fn committing() -> Self {
        let mut pair = synced_pair();
        pair.write(0, 10, 1).unwrap();
        pair.flushes();
        for _ in 0..4 {
            assert!(!pair.writes(10));
            assert_eq!(pair.flushes(), 2);
        }
        assert!(pair.writes(10), "a flush is expected");
        assert_eq!(pair.flushes(), 0, "both disks have it durably");
        pair
    }
}

#[test]
fn a_write_that_is_about_to_be_flushed_is_durable_on_both_disks_and_its_flush_asks_nobody() {
    let mut pair = Pair::committing();
    for _ in 0..3 {
        assert!(pair.writes(10));
        assert_eq!(pair.flushes(), 0);
        assert_eq!(pair.flushes(), 0, "nothing was written since");
    }
    assert!(pair.writes(10));
    assert!(!pair.writes(11), "two writes: the habit has ended");
    assert_eq!(pair.flushes(), 2);
    assert!(!pair.writes(12));
    assert_eq!(pair.flushes(), 2);
    pair.synced();
}

#[test]
fn a_flush_behind_a_write_in_a_cache_or_beside_one_under_way_asks_both_disks() {
    let mut pair = Pair::committing();
    pair.seen(Op::Zeroes { offset: 0, length: 4096, no_hole: false, fua: false });
    assert_eq!(pair.flushes(), 2);
    assert_eq!(pair.flushes(), 0);
    // One that has begun before a flush, and ends behind it, is not covered.
    for n in 0..2 {
        pair.nodes[n].stall = |action| matches!(action, Action::DiskWrite { .. });
        pair.writes(19);
        assert!(!pair.writes(20));
        assert_eq!(pair.flushes(), 2);
        pair.nodes[n].unstall();
        pair.run(10);
        assert_eq!(pair.flushes(), 2);
        assert_eq!(pair.flushes(), 0);
    }
    pair.synced();
}

#[test]
fn after_every_change_of_the_state_the_disks_are_flushed_once() {
    let mut pair = Pair::committing();
    pair.lose_link();
    pair.run(100);
    assert_eq!(pair.flushes(), 1, "its own disk");
    pair.link = true;
    pair.synced();
    assert_eq!(pair.flushes(), 2);
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.primary(0, false);
    let (session, client) = (SessionId(1), "test".to_owned());
    pair.event(0, Event::SessionOpened { session, volume: 0, client });
    assert_eq!(pair.flushes(), 2);
    assert_eq!(pair.flushes(), 0);
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(pair.flushes(), 1, "its own disk");
    pair.attach(1).unwrap();
    pair.synced();
}

/// Where there is one disk, the own one or the peer's, what it has in its cache counts.
#[test]
fn with_one_disk_a_flush_behind_a_write_in_its_cache_asks_that_one() {
    for n in 0..2 {
        let mut pair = Pair::committing();
        pair.admin(n, Command::Detach { volume: 0, force: false }).unwrap();
        for _ in 0..2 {
            pair.writes(30);
            assert!(!pair.writes(31), "two writes");
            assert_eq!(pair.flushes(), 1);
            assert_eq!(pair.flushes(), 0);
        }
        pair.attach(n).unwrap();
        pair.synced();
    }
}

/// An error that is passed on is that of the write, and takes no disk.
#[test]
fn nothing_is_expected_where_errors_are_passed_on() {
    let mut pair = super::pair::passing_pair();
    for _ in 0..6 {
        assert!(!pair.writes(10));
        assert_eq!(pair.flushes(), 2);
    }
}

/// What was answered as flushed while it was not is so from then on.
#[test]
fn a_disk_is_flushed_when_disk_flushes_is_set() {
    let mut pair = Pair::committing();
    let mut set = |on: bool| {
        let options = Options { disk_flushes: on, ..super::pair::config(1).options };
        let volumes = std::collections::BTreeMap::new();
        let command = Command::SetOptions { options: Box::new(options), volumes };
        let id = pair.next;
        pair.next += 1;
        let core = pair.nodes[1].core.as_mut().unwrap();
        core.handle(pair.now, Event::Admin { id, command });
        let mut flushes = 0;
        while let Some(action) = pair.nodes[1].core.as_mut().and_then(Resource::next_action) {
            flushes += usize::from(matches!(action, Action::DiskFlush { .. }));
            pair.act(1, action);
        }
        flushes
    };
    assert_eq!(set(false), 0);
    assert_eq!(set(true), 1);
    assert_eq!(set(true), 0);
    pair.synced();
}
