//! `connect --tentative`: the verdict is told, and nothing begins.

use super::pair::{Pair, synced_pair};
use crate::resource::*;

const TRY: Command = Command::Connect { peer: 1, discard_my_data: false, tentative: true };

/// alice wrote one block alone and is StandAlone, bob dials.
fn parted() -> Pair {
    let mut pair = synced_pair();
    pair.admin(0, Command::Disconnect { peer: 1, force: true, for_ms: None }).unwrap();
    pair.run(1000);
    assert_eq!(pair.write(0, 9, 99), Ok(None));
    pair
}

/// alice tries; what she is told within `ms`.
fn tried(pair: &mut Pair, ms: u64) -> Option<AdminResult> {
    pair.event(0, Event::Admin { id: 7000, command: TRY });
    pair.run(ms);
    pair.nodes[0].admin.remove(&7000)
}

fn state(pair: &Pair, n: usize) -> (ConnectionState, Reason) {
    let connection = &pair.status(n).connections[0];
    (connection.connection_state, connection.reason)
}

#[test]
fn a_try_tells_the_verdict_and_leaves_both_nodes_as_they_were() {
    let mut pair = parted();
    let reason = state(&pair, 1).1;
    let uuids = |pair: &Pair| [0, 1].map(|n| pair.nodes[n].disk.superblock.clone().unwrap());
    let before = uuids(&pair);
    let told = tried(&mut pair, 10_000).expect("a verdict").unwrap();
    assert!(told.starts_with("r0/0: would become SyncSource: at most 8 KiB of bob"), "{told}");
    assert!(told.contains("(rule bitmap-self)"), "{told}");
    assert_eq!(state(&pair, 0), (ConnectionState::StandAlone, Reason::StoppedByAdmin));
    assert_eq!(uuids(&pair).map(|s| s.current_uuid), before.map(|s| s.current_uuid));
    pair.run(10_000);
    assert_eq!(state(&pair, 1).0, ConnectionState::Connecting, "it goes on dialling");
    assert!([reason, Reason::Lost].contains(&state(&pair, 1).1), "{:?}", state(&pair, 1));
    assert_ne!(pair.nodes[1].disk.blocks.get(&9), Some(&99), "nothing was copied");
    pair.admin(0, Command::Connect { peer: 1, discard_my_data: false, tentative: false }).unwrap();
    pair.synced();
    assert_eq!(pair.nodes[1].disk.blocks.get(&9), Some(&99));
    assert_eq!(pair.admin(0, TRY).unwrap(), "already connected to bob");
}

#[test]
fn a_split_brain_that_is_tried_leaves_the_other_node_dialling() {
    let mut pair = parted();
    pair.primary(1, false);
    assert_eq!(pair.write(1, 8, 88), Ok(None));
    let told = tried(&mut pair, 10_000).expect("a verdict").unwrap();
    assert!(told.starts_with("r0 bob: would be refused: split-brain (rule bitmap-both)"), "{told}");
    assert_eq!(state(&pair, 0), (ConnectionState::StandAlone, Reason::StoppedByAdmin));
    pair.run(10_000);
    assert_eq!(state(&pair, 1).0, ConnectionState::Connecting);
}

#[test]
fn a_try_without_a_peer_ends_and_can_be_ended() {
    let mut pair = parted();
    pair.nodes[1].core = None;
    pair.link = false;
    let refusal = tried(&mut pair, 31_000).expect("an end").unwrap_err();
    assert_eq!(refusal.code, -23);
    assert!(refusal.hint.contains("`tandemadm connect r0` on bob"), "{}", refusal.hint);
    assert_eq!(state(&pair, 0), (ConnectionState::StandAlone, Reason::StoppedByAdmin));

    assert!(tried(&mut pair, 1000).is_none());
    let connect = Command::Connect { peer: 1, discard_my_data: false, tentative: false };
    assert_eq!(pair.admin(0, connect).unwrap_err().code, -18);
    pair.admin(0, Command::Disconnect { peer: 1, force: false, for_ms: None }).unwrap();
    let answer = pair.nodes[0].admin.remove(&7000).expect("it is answered");
    assert_eq!(answer.unwrap_err().code, -21);
}

#[test]
fn a_try_that_meets_another_resource_says_at_once_what_it_met() {
    let mut pair = parted();
    pair.rename(1, "r9");
    let refusal = tried(&mut pair, 5_000).expect("an end").unwrap_err();
    assert_eq!(refusal.code, -21);
    assert!(refusal.hint.contains("the peer calls the resource \"r9\""), "{}", refusal.hint);
    assert_eq!(state(&pair, 0), (ConnectionState::StandAlone, Reason::StoppedByAdmin));
}
