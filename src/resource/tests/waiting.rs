//! Stories of orders that wait, or end by themselves: `disconnect --for`, `secondary --wait`.

use super::pair::{Pair, synced_pair};
use crate::resource::*;

fn disconnect(for_ms: Option<u64>) -> Command {
    Command::Disconnect { peer: 0, force: false, for_ms }
}

fn demote(force: bool, wait_ms: u64) -> Command {
    Command::Secondary { force, wait_ms }
}

impl Pair {
    fn standing(&self, n: usize) -> (ConnectionState, Reason, Option<u64>) {
        let status = self.status(n);
        let connection = &status.connections[0];
        (connection.connection_state, connection.reason, connection.back_in_ms)
    }

    fn client_leaves(&mut self) {
        self.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
    }
}

#[test]
fn a_connection_that_was_ended_for_a_while_comes_back_by_itself() {
    let mut pair = synced_pair();
    pair.admin(1, disconnect(Some(60_000))).unwrap();
    let (state, reason, back_in) = pair.standing(1);
    assert_eq!((state, reason), (ConnectionState::StandAlone, Reason::StoppedByAdmin));
    assert!(back_in.is_some_and(|ms| (59_000..=60_000).contains(&ms)), "{back_in:?}");
    assert_eq!(pair.write(0, 9, 9), Ok(None));
    pair.run(59_000);
    assert_eq!(pair.standing(1).0, ConnectionState::StandAlone);
    pair.run(3_000);
    assert_eq!(pair.standing(1), (ConnectionState::Connected, Reason::None, None));
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&9), Some(&9));
}

#[test]
fn the_time_is_void_after_a_connect_or_a_later_disconnect() {
    let mut pair = synced_pair();
    pair.admin(1, disconnect(Some(60_000))).unwrap();
    pair.admin(1, disconnect(None)).unwrap();
    assert_eq!(pair.standing(1).2, None);
    pair.run(120_000);
    assert_eq!(pair.standing(1).0, ConnectionState::StandAlone, "it was made to stay");
    // It can be set again, and `connect` ends it.
    pair.admin(1, disconnect(Some(60_000))).unwrap();
    assert!(pair.standing(1).2.is_some());
    pair.connect_both();
    pair.synced();
    assert_eq!(pair.standing(1).2, None);
    pair.admin(1, disconnect(None)).unwrap();
    pair.run(120_000);
    assert_eq!(pair.standing(1).0, ConnectionState::StandAlone);
}

#[test]
fn what_a_person_has_to_look_at_does_not_come_back_by_itself() {
    let mut pair = synced_pair();
    pair.lose_link();
    pair.primary(1, false);
    pair.write(0, 7, 1).unwrap();
    pair.write(1, 8, 2).unwrap();
    pair.link = true;
    pair.run(12_000);
    assert_eq!(pair.standing(1).1, Reason::SplitBrain);
    let refusal = pair.admin(1, disconnect(Some(1_000))).expect_err("a split brain");
    assert_eq!(refusal.code, 162);
    pair.run(60_000);
    assert_eq!(pair.standing(1).0, ConnectionState::StandAlone);
}

#[test]
fn clients_are_given_time_and_new_ones_are_refused() {
    let mut pair = synced_pair();
    let order = pair.order(0, demote(false, 60_000));
    pair.run(40_000);
    assert_eq!(pair.nodes[0].admin.get(&order), None);
    assert_eq!(pair.write(0, 9, 9), Ok(None), "the old ones are served");
    assert!(pair.core(0).export(0).unwrap_err().contains("being demoted"));
    let promote = pair.order(0, Command::AutoPromote);
    let refusal = pair.nodes[0].admin.remove(&promote).expect("answered").expect_err("not now");
    assert_eq!(refusal.code, -18);
    pair.client_leaves();
    pair.run(50);
    assert_eq!(pair.nodes[0].admin.remove(&order), Some(Ok(String::new())));
    assert_eq!(pair.status(0).role, Role::Secondary);
    pair.synced();
}

#[test]
fn after_the_time_the_demotion_is_refused_or_forced_or_ended_by_a_down() {
    let mut pair = synced_pair();
    let order = pair.order(0, demote(false, 60_000));
    pair.run(61_000);
    let refusal = pair.nodes[0].admin.remove(&order).expect("answered").expect_err("it is open");
    assert_eq!(refusal.code, -12);
    assert!(pair.core(0).export(0).is_ok(), "it serves on");
    assert_eq!(pair.write(0, 9, 9), Ok(None));

    // A later order that demotes does not wait behind it.
    let first = pair.order(0, demote(false, 600_000));
    let refusal = pair.admin(0, demote(false, 0)).expect_err("it is open");
    assert_eq!(refusal.code, -12);
    let ended = pair.nodes[0].admin.remove(&first).expect("answered").expect_err("ended");
    assert_eq!(ended.code, -18);
    let first = pair.order(0, demote(false, 600_000));
    pair.admin(0, Command::Down { shutdown: true }).unwrap();
    pair.nodes[0].admin.remove(&first).expect("answered").expect_err("ended");

    let mut pair = synced_pair();
    let order = pair.order(0, demote(true, 10_000));
    pair.run(9_000);
    assert_eq!(pair.status(0).role, Role::Primary);
    pair.run(1_500);
    assert_eq!(pair.nodes[0].admin.remove(&order), Some(Ok(String::new())));
    assert_eq!(pair.status(0).role, Role::Secondary);
    pair.synced();
}

#[test]
fn a_down_that_is_refused_leaves_the_time_as_it_is() {
    let mut pair = synced_pair();
    pair.admin(0, Command::Disconnect { peer: 1, force: false, for_ms: Some(60_000) }).unwrap();
    pair.nodes[0].stall = |action| matches!(action, Action::DiskWrite { .. });
    pair.start_write(0, 9, 9);
    pair.client_leaves();
    let down = pair.order(0, Command::Down { shutdown: false });
    pair.run(31_000);
    let refusal = pair.nodes[0].admin.remove(&down).expect("answered").expect_err("it hangs");
    assert_eq!(refusal.code, -23);
    assert!(pair.standing(0).2.is_some_and(|ms| ms < 30_000), "{:?}", pair.standing(0));
    // Nobody is dialled while one runs, though the time is over; then it is.
    let down = pair.order(0, Command::Down { shutdown: false });
    pair.run(29_500);
    assert_eq!(pair.nodes[0].admin.get(&down), None);
    assert_eq!(pair.standing(0).0, ConnectionState::StandAlone);
    pair.run(1_000);
    pair.nodes[0].admin.remove(&down).expect("answered").expect_err("it hangs");
    pair.nodes[0].unstall();
    pair.run(5_000);
    assert_eq!(pair.standing(0).0, ConnectionState::Connected);
    pair.synced();
}

#[test]
fn a_demotion_that_waits_for_clients_is_seen_by_everybody() {
    let mut pair = synced_pair();
    assert_eq!(pair.status(0).order, None);
    pair.order(0, demote(false, 60_000));
    pair.run(20_000);
    let shown = pair.status(0).order.expect("it runs, whoever has given it");
    assert_eq!(shown.verb, "secondary");
    assert!(shown.waits_for.starts_with("clients to leave"), "{}", shown.waits_for);
    assert!(shown.left_ms.is_some_and(|ms| (39_000..=40_000).contains(&ms)), "{shown:?}");
    pair.admin(0, demote(false, 0)).expect_err("it ends the wait, and is refused");
    assert_eq!(pair.status(0).order, None);
}

#[test]
fn who_was_connected_since_up_is_not_said_to_have_never_been() {
    // What is said before the peer has answered.
    let dialled = |pair: &mut Pair, id: u64| {
        let command = Command::Connect { peer: 0, discard_my_data: false, tentative: false };
        pair.event(1, Event::Admin { id, command });
        (pair.standing(1).0, pair.standing(1).1)
    };
    let mut pair = synced_pair();
    pair.kill(0);
    pair.kill(1);
    pair.up(1);
    pair.admin(1, disconnect(None)).unwrap();
    assert_eq!(dialled(&mut pair, 9000), (ConnectionState::Connecting, Reason::NeverConnected));
    pair.up(0);
    pair.run(10_000);
    assert_eq!(pair.standing(1).0, ConnectionState::Connected);
    pair.admin(1, disconnect(None)).unwrap();
    assert_eq!(dialled(&mut pair, 9001), (ConnectionState::Connecting, Reason::StoppedByAdmin));
    pair.run(3_000);
    assert_eq!(pair.standing(1).0, ConnectionState::Connected);
    // The same where it comes back by itself.
    pair.admin(1, disconnect(Some(1_000))).unwrap();
    pair.cut();
    pair.run(1_500);
    let (state, reason, _) = pair.standing(1);
    assert_ne!((state, reason), (ConnectionState::Connecting, Reason::NeverConnected));
}
