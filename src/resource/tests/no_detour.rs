//! Stories in which an administrator's next order works, and needs no detour: what was refused once although
//! nothing spoke against it.

use super::give_up::idle_pair;
use super::pair::{Disk, Pair, synced_pair};
use crate::resource::*;

fn detach(force: bool) -> Command {
    Command::Detach { volume: 0, force }
}

impl Pair {
    /// Node 1 is Primary, writes, and is demoted.
    fn writes_and_goes(&mut self) {
        self.primary(1, false);
        assert_eq!(self.write(1, 7, 77), Ok(None));
        self.event(1, Event::SessionClosed { session: SessionId(2), disconnect: true });
        self.admin(1, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    }

    /// Node 1 comes back with an older disk, and clients of node 0 have read a newer one there.
    fn is_set_back_and_refused(&mut self, old: Disk) {
        self.kill(1);
        self.nodes[1].disk = old;
        self.up(1);
        self.run(20_000);
        let connection = &self.status(0).connections[0];
        let state = connection.connection_state;
        assert_eq!(state, ConnectionState::StandAlone, "{}", connection.detail);
        assert!(connection.detail.contains("exposed-data"), "{}", connection.detail);
    }

    fn set_after_sb_0pri(&mut self, n: usize, policy: AfterSb0Pri) {
        let mut options = Box::new(super::pair::config(u8::try_from(n).unwrap()).options);
        options.after_sb_0pri = policy;
        let command = Command::SetOptions { options, volumes: std::collections::BTreeMap::new() };
        self.admin(n, command).unwrap();
    }
}

/// Node 1 is in the middle of a resync when its source loses its disk.
fn target_without_a_source(mut pair: Pair) -> Pair {
    pair.nodes[1].stall = |action| matches!(action, Action::DiskWrite { .. });
    pair.admin(1, Command::Invalidate { volume: 0 }).unwrap();
    pair.run(2_000);
    pair.admin(0, detach(true)).unwrap();
    pair.nodes[1].unstall();
    pair.run(2_000);
    assert_eq!((pair.disk(0), pair.disk(1)), (DiskState::Diskless, DiskState::Inconsistent));
    pair
}

#[test]
fn the_only_good_disk_is_attached_again_beside_a_target_that_waits_for_it() {
    let mut pair = target_without_a_source(idle_pair());
    pair.attach(0).unwrap();
    pair.synced();
    assert_eq!((pair.disk(0), pair.disk(1)), (DiskState::UpToDate, DiskState::UpToDate));
    assert_eq!(pair.nodes[1].disk.blocks.get(&5), Some(&55));
}

#[test]
fn two_disks_that_were_detached_are_attached_in_either_order() {
    for first in 0..2 {
        let mut pair = idle_pair();
        pair.admin(0, detach(false)).unwrap();
        pair.admin(1, detach(false)).unwrap();
        pair.attach(first).unwrap();
        pair.attach(1 - first).unwrap();
        pair.synced();
        assert_eq!((pair.disk(0), pair.disk(1)), (DiskState::UpToDate, DiskState::UpToDate));
    }
}

#[test]
fn a_primary_without_a_disk_knows_the_generation_that_the_primary_before_it_began() {
    let mut pair = idle_pair();
    pair.admin(0, detach(false)).unwrap();
    let old = pair.nodes[1].disk.clone();
    pair.writes_and_goes();
    // In the same session, whose handshake was before the write.
    pair.primary(0, false);
    pair.run(1_000);
    let read = Op::Read { offset: 7 * 4096, length: 4096 };
    assert_eq!(pair.request(0, 1000, read), Ok(Some(77)));
    pair.is_set_back_and_refused(old);
}

/// Its generation is asked for then, and that is no moment to leave.
#[test]
fn a_primary_without_a_disk_does_not_leave_its_peer_right_after_its_promotion() {
    let mut pair = idle_pair();
    pair.admin(0, detach(false)).unwrap();
    pair.primary(1, false);
    pair.event(1, Event::SessionClosed { session: SessionId(2), disconnect: true });
    pair.admin(1, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    pair.event(0, Event::Admin { id: 9_001, command: Command::Primary { force: None } });
    while pair.core(0).role != Role::Primary {
        let mut nodes = pair.nodes.iter_mut().enumerate();
        let event = nodes.find_map(|(n, node)| Some((n, node.done.pop_front()?)));
        let (n, event) = event.expect("it is promoted");
        pair.event(n, event);
    }
    let leave = Command::Disconnect { peer: 1, force: false, for_ms: None };
    pair.event(0, Event::Admin { id: 9_002, command: leave });
    pair.run(1_000);
    assert_eq!(pair.nodes[0].admin.remove(&9_002).unwrap().unwrap_err().code, -2);
    let connection = &pair.status(0).connections[0];
    assert_eq!(connection.connection_state, ConnectionState::Connected, "{}", connection.detail);
}

#[test]
fn no_generation_is_begun_by_order_beside_a_primary_that_reads_here() {
    let mut pair = synced_pair();
    pair.admin(0, detach(false)).unwrap();
    let begin = Command::NewCurrentUuid { volume: 0, clear_bitmap: false };
    assert_eq!(pair.admin(1, begin).unwrap_err().code, 162);
    pair.cut();
    pair.run(20_000);
    assert_eq!(pair.status(0).connections[0].connection_state, ConnectionState::Connected);
    assert_eq!(pair.write(0, 7, 77), Ok(None));
}

/// Nothing was answered in it, and nobody has it.
#[test]
fn a_generation_that_its_disk_did_not_take_is_not_what_clients_have_read() {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.run(1_000);
    pair.nodes[0].fail =
        |action| matches!(action, Action::Meta { op: crate::meta::MetaOp::Superblock(_), .. });
    assert_eq!(pair.write(0, 7, 77), Err(ReplyError::Io));
    assert_eq!(pair.disk(0), DiskState::Diskless);
    pair.link = true;
    pair.run(20_000);
    let connection = &pair.status(0).connections[0];
    assert_eq!(connection.connection_state, ConnectionState::Connected, "{}", connection.detail);
    assert_eq!(pair.write(0, 7, 78), Ok(None));
}

#[test]
fn what_one_wrote_while_the_other_had_no_disk_is_copied_to_whoever_is_attached_first() {
    let mut pair = idle_pair();
    pair.admin(1, detach(false)).unwrap();
    pair.primary(0, false);
    assert_eq!(pair.write(0, 7, 77), Ok(None));
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
    pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    pair.admin(0, detach(true)).unwrap();
    pair.attach(1).unwrap();
    pair.run(1_000);
    assert_ne!(pair.disk(1), DiskState::UpToDate, "it lacks a write");
    pair.attach(0).unwrap();
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&7), Some(&77));
}

#[test]
fn a_primary_whose_peer_has_no_good_disk_may_leave_it() {
    let mut pair = target_without_a_source(synced_pair());
    // Nothing is read there: its disk is a mix of old and new.
    pair.admin(0, Command::Disconnect { peer: 1, force: false, for_ms: None }).unwrap();
    pair.attach(0).unwrap();
    pair.connect_both();
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&5), Some(&55));
}

#[test]
fn a_primary_that_has_just_died_stands_in_the_way_of_a_promotion_for_a_ping_only() {
    let mut pair = synced_pair();
    pair.nodes[0].mute = true;
    let id = pair.order(1, Command::Primary { force: None });
    pair.run(1_000);
    assert_eq!(pair.nodes[1].admin.remove(&id), Some(Ok(String::new())));
    assert_eq!(pair.status(1).role, Role::Primary);
}

#[test]
fn a_client_that_knocks_and_a_force_make_no_loss_of_a_silent_moment() {
    for command in [Command::AutoPromote, Command::Primary { force: Some(Force::Plain) }] {
        let mut pair = synced_pair();
        pair.nodes[0].mute = true;
        let id = pair.order(1, command.clone());
        let refusal = pair.nodes[1].admin.remove(&id).expect("at once").unwrap_err();
        assert_eq!(refusal.code, -1, "{command:?}");
        pair.run(600);
        assert_eq!(pair.status(1).role, Role::Secondary, "{command:?}");
        let state = pair.status(1).connections[0].connection_state;
        assert_eq!(state, ConnectionState::Connected, "{command:?}");
    }
}

#[test]
fn a_primary_that_lives_refuses_at_once() {
    let mut pair = synced_pair();
    let refusal = pair.admin(1, Command::Primary { force: None }).unwrap_err();
    assert_eq!(refusal.code, -1);
    assert!(refusal.hint.contains("Demote it first"), "{refusal:?}");
    assert_eq!(pair.status(1).connections[0].connection_state, ConnectionState::Connected);
}

#[test]
fn an_option_that_is_changed_on_one_node_first_ends_no_session() {
    let mut pair = synced_pair();
    pair.set_after_sb_0pri(0, AfterSb0Pri::DiscardZeroChanges);
    pair.admin(1, Command::Invalidate { volume: 0 }).unwrap();
    pair.run(200);
    let connection = &pair.status(0).connections[0];
    assert_eq!(connection.connection_state, ConnectionState::Connected, "{}", connection.detail);
    pair.synced();
    assert!(
        pair.nodes[1]
            .log
            .iter()
            .any(|line| line.contains("after-sb-0pri") && line.contains("next connection"))
    );
    // The next connection is another matter.
    pair.cut();
    pair.run(1_000);
    let connection = &pair.status(0).connections[0];
    assert_eq!(connection.connection_state, ConnectionState::StandAlone);
    assert_eq!(connection.reason, Reason::ConfigDiffers);
}

#[test]
fn a_primary_that_has_seen_more_takes_no_older_disk_back_in_an_open_session() {
    let mut pair = synced_pair();
    pair.admin(0, detach(false)).unwrap();
    assert_eq!(pair.write(0, 7, 77), Ok(None));
    // The only disk that has the write is let go of, and the older one comes back.
    pair.admin(1, detach(true)).unwrap();
    pair.attach(0).unwrap();
    pair.run(1_000);
    assert_eq!(pair.disk(0), DiskState::Outdated);
    assert_eq!(
        pair.request(0, 1000, Op::Read { offset: 7 * 4096, length: 4096 }),
        Err(ReplyError::Io)
    );
    // Nothing is copied under the clients of a Primary: they are sent away first.
    assert!(pair.attach(1).is_err() || pair.disk(1) == DiskState::Diskless);
    pair.admin(0, Command::Secondary { force: true, wait_ms: 0 }).unwrap();
    pair.attach(1).unwrap();
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks.get(&7), Some(&77));
}

#[test]
fn a_primary_without_a_disk_that_has_only_read_takes_no_older_disk_for_the_peer_s() {
    let mut pair = idle_pair();
    let old = pair.nodes[1].disk.clone();
    pair.admin(0, detach(false)).unwrap();
    pair.writes_and_goes();
    pair.cut();
    pair.run(20_000);
    pair.primary(0, false);
    let read = Op::Read { offset: 7 * 4096, length: 4096 };
    assert_eq!(pair.request(0, 1000, read), Ok(Some(77)));
    pair.is_set_back_and_refused(old);
}

/// It was answered with an error, and its reader has seen that it has come about: the own disk, which lacks
/// it, does not come back alone, and is no source.
#[test]
fn a_write_without_an_answer_that_a_primary_without_a_disk_has_read_is_not_taken_back() {
    let mut pair = synced_pair();
    pair.admin(0, detach(false)).unwrap();
    pair.nodes[1].stall = |action| matches!(action, Action::DiskWrite { .. });
    let id = pair.start_write(0, 7, 77);
    pair.cut();
    assert_eq!(pair.nodes[0].replies.remove(&id), Some(Err(ReplyError::Io)));
    pair.nodes[1].unstall();
    pair.run(20_000);
    let read = Op::Read { offset: 7 * 4096, length: 4096 };
    assert_eq!(pair.request(0, 1000, read), Ok(Some(77)));
    pair.lose_link();
    assert_eq!(
        pair.attach(0).unwrap_err().code,
        150,
        "the generation that was read is another one"
    );
    pair.link = true;
    pair.run(20_000);
    pair.attach(0).unwrap();
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks.get(&7), Some(&77));
}
