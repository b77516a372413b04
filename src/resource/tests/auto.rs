//! Stories of `auto-promote`: promoted for a client, demoted when the last one has gone.

use super::pair::{Pair, config, synced_pair};
use crate::meta::DeviceFlags;
use crate::resource::*;

impl Pair {
    fn enter(&mut self, n: usize, session: u64) {
        let (session, client) = (SessionId(session), "test".to_owned());
        self.event(n, Event::SessionOpened { session, volume: 0, client });
    }

    fn leave(&mut self, n: usize, session: u64) {
        let session = SessionId(session);
        self.event(n, Event::SessionClosed { session, disconnect: true });
        self.run(50);
    }

    fn role(&self, n: usize) -> Role {
        self.status(n).role
    }
}

/// A synced pair of two Secondaries, with `auto-promote` on node 0.
fn resting_pair() -> Pair {
    let mut pair = synced_pair();
    pair.leave(0, 1);
    pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    let options = Box::new(Options { auto_promote: true, ..config(0).options });
    let command = Command::SetOptions { options, volumes: std::collections::BTreeMap::new() };
    pair.admin(0, command).unwrap();
    pair
}

#[test]
fn the_last_client_that_goes_demotes_the_node_that_was_promoted_for_the_first() {
    let mut pair = resting_pair();
    pair.admin(0, Command::AutoPromote).unwrap();
    assert_eq!(pair.role(0), Role::Primary);
    pair.enter(0, 1);
    pair.admin(0, Command::AutoPromote).unwrap();
    pair.enter(0, 2);
    assert_eq!(pair.write(0, 9, 9), Ok(None));
    pair.leave(0, 2);
    pair.run(60_000);
    assert_eq!(pair.role(0), Role::Primary, "another one has it open");
    pair.leave(0, 1);
    assert_eq!(pair.role(0), Role::Secondary, "{}", pair.nodes[0].log.join("\n"));
    let superblock = pair.nodes[0].disk.superblock.as_ref().unwrap();
    assert_eq!(superblock.flags & DeviceFlags::PRIMARY_IND, 0, "durably");
    // The other node may serve now.
    pair.primary(1, false);
    assert_eq!(pair.write(1, 10, 10), Ok(None));
    pair.synced();
}

#[test]
fn who_was_promoted_by_order_stays_primary() {
    let mut pair = resting_pair();
    pair.primary(0, false);
    pair.admin(0, Command::AutoPromote).unwrap();
    pair.leave(0, 1);
    pair.run(60_000);
    assert_eq!(pair.role(0), Role::Primary);
    // An order makes of one promotion the other.
    pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    pair.admin(0, Command::AutoPromote).unwrap();
    pair.enter(0, 1);
    pair.admin(0, Command::Primary { force: None }).unwrap();
    pair.leave(0, 1);
    pair.run(60_000);
    assert_eq!(pair.role(0), Role::Primary);
}

#[test]
fn a_client_that_may_enter_is_expected_for_five_seconds() {
    let mut pair = resting_pair();
    pair.admin(0, Command::AutoPromote).unwrap();
    pair.enter(0, 1);
    pair.admin(0, Command::AutoPromote).unwrap();
    pair.leave(0, 1);
    pair.run(4_000);
    assert_eq!(pair.role(0), Role::Primary, "the second is on its way");
    pair.enter(0, 2);
    assert_eq!(pair.request_of(0, 2, 7000), Ok(Some(55)));
    pair.leave(0, 2);
    assert_eq!(pair.role(0), Role::Secondary);
    // One that never comes.
    pair.admin(0, Command::AutoPromote).unwrap();
    pair.run(4_000);
    assert_eq!(pair.role(0), Role::Primary);
    pair.run(1_500);
    assert_eq!(pair.role(0), Role::Secondary);
}

#[test]
fn a_client_that_comes_during_the_demotion_waits_and_promotes_again() {
    let mut pair = resting_pair();
    pair.admin(0, Command::AutoPromote).unwrap();
    pair.enter(0, 1);
    assert_eq!(pair.write(0, 9, 9), Ok(None));
    pair.nodes[0].stall = |action| matches!(action, Action::DiskFlush { .. });
    pair.leave(0, 1);
    let order = pair.order(0, Command::AutoPromote);
    pair.run(2_000);
    assert_eq!(pair.nodes[0].admin.get(&order), None, "the demotion flushes");
    pair.nodes[0].unstall();
    pair.run(50);
    assert_eq!(pair.nodes[0].admin.get(&order), Some(&Ok(String::new())));
    assert_eq!(pair.role(0), Role::Primary);
    let demoted = pair.nodes[0].log.iter().filter(|l| l.contains("Primary -> Secondary")).count();
    assert_eq!(demoted, 2, "once by order, once by itself");
    pair.enter(0, 2);
    pair.leave(0, 2);
    assert_eq!(pair.role(0), Role::Secondary);
}

impl Pair {
    /// A read of block 5 by this session.
    fn request_of(&mut self, n: usize, session: u64, id: u64) -> Result<Option<u64>, ReplyError> {
        let (session, request) = (SessionId(session), RequestId(id));
        let op = Op::Read { offset: 5 * 4096, length: 4096 };
        self.event(n, Event::Request { session, request, volume: 0, op });
        self.run(20);
        self.nodes[n].replies.remove(&id).expect("replied")
    }
}
