//! Stories of disks that grow.

use super::tests_pair::{Pair, SIZE, synced_pair};
use super::*;
use crate::meta::MetaOp;

const MORE: u64 = SIZE + (3 << 20);
const LAST: u64 = MORE / 4096 - 1;

fn resize(assume_clean: bool) -> Command {
    Command::Resize { volume: 0, size: None, assume_clean }
}

impl Pair {
    /// The administrators have made the disks larger; what is behind the old end differs.
    fn make_room(&mut self, rooms: [u64; 2]) {
        for (n, room) in rooms.into_iter().enumerate() {
            let was = self.nodes[n].disk.superblock.as_ref().unwrap().data_size;
            self.nodes[n].disk.room = room;
            let fill = 1000 + n as u64;
            self.nodes[n].disk.blocks.extend((was / 4096..room / 4096).map(|b| (b, fill)));
        }
    }

    fn one_event(&mut self) -> bool {
        let n = usize::from(self.nodes[0].done.is_empty());
        let Some(event) = self.nodes[n].done.pop_front() else { return false };
        self.event(n, event);
        true
    }

    fn size(&self, n: usize) -> u64 {
        self.status(n).devices[0].size
    }

    fn durable_size(&self, n: usize) -> u64 {
        self.nodes[n].disk.superblock.as_ref().unwrap().effective_size
    }
}

#[test]
fn a_volume_grows_with_both_disks_and_the_new_blocks_come_from_the_primary() {
    for by in [0, 1] {
        let mut pair = synced_pair();
        pair.make_room([MORE, MORE]);
        let text = pair.admin(by, resize(false)).unwrap();
        assert!(text.starts_with(&format!("{MORE} bytes")), "{text}");
        pair.synced();
        for n in 0..2 {
            assert_eq!((pair.size(n), pair.durable_size(n)), (MORE, MORE));
            assert_eq!(pair.nodes[n].disk.blocks[&LAST], 1000, "from the Primary");
        }
        let received = pair.status(1).connections[0].peer_devices[0].received;
        assert!(received <= SIZE + MORE - SIZE + 8192, "{received}");
        assert_eq!(pair.write(0, LAST, 7), Ok(None));
        assert_eq!(pair.write(0, LAST + 1, 7), Err(ReplyError::NoSpace));
        pair.synced();
        // It is there after both have crashed.
        for n in 0..2 {
            pair.kill(n);
        }
        pair.up(0);
        pair.up(1);
        pair.synced();
        assert_eq!([pair.size(0), pair.size(1)], [MORE; 2]);
        assert_eq!(pair.nodes[1].disk.blocks[&LAST], 7);
    }
}

#[test]
fn of_two_secondaries_the_one_with_the_order_is_the_source() {
    let mut pair = synced_pair();
    pair.event(0, Event::SessionClosed { session: SessionId(1), disconnect: true });
    pair.admin(0, Command::Secondary { force: false, wait_ms: 0 }).unwrap();
    pair.make_room([MORE, MORE]);
    pair.admin(1, resize(false)).unwrap();
    pair.synced();
    assert_eq!(pair.nodes[0].disk.blocks[&LAST], 1001);
}

#[test]
fn the_smaller_disk_decides_and_a_second_order_takes_the_rest() {
    let mut pair = synced_pair();
    pair.make_room([MORE, SIZE]);
    let text = pair.admin(0, resize(false)).unwrap();
    assert!(text.contains("the disk of bob has no more room"), "{text}");
    assert_eq!(pair.size(0), SIZE);
    pair.make_room([MORE, MORE - 4096]);
    pair.admin(1, resize(false)).unwrap();
    pair.synced();
    assert_eq!([pair.size(0), pair.size(1)], [MORE - 4096; 2]);
    pair.make_room([MORE, MORE]);
    let exact = Command::Resize { volume: 0, size: Some(MORE + 1), assume_clean: false };
    pair.admin(0, exact).unwrap();
    pair.synced();
    assert_eq!([pair.size(0), pair.size(1)], [MORE; 2]);
}

#[test]
fn what_cannot_be_is_refused_with_drbds_number() {
    let mut pair = synced_pair();
    let to = |size| Command::Resize { volume: 0, size: Some(size), assume_clean: false };
    let code = |result: AdminResult| result.unwrap_err().code;
    assert_eq!(
        code(pair.admin(0, Command::Resize { volume: 9, size: None, assume_clean: false })),
        127
    );
    assert_eq!(code(pair.admin(0, to(SIZE - 4096))), 170);
    assert_eq!(code(pair.admin(0, to(MORE))), 111, "no room here");
    pair.make_room([MORE, SIZE]);
    assert_eq!(code(pair.admin(0, to(MORE))), 111, "no room there");
    // Blocks that a verify has marked would be copied with the rest.
    pair.nodes[1].disk.blocks.insert(9, 4711);
    let verify = Command::Verify { volume: 0, peer: 1, start: None, stop: None };
    pair.admin(0, verify).unwrap();
    pair.run(10_000);
    assert_eq!(code(pair.admin(0, resize(false))), 130);
    assert_eq!(code(pair.admin(1, resize(false))), 130);
    pair.lose_link();
    assert_eq!(code(pair.admin(0, resize(false))), -15);
    pair.admin(0, Command::Detach { volume: 0, force: true }).unwrap();
    assert_eq!(pair.size(0), SIZE);
}

#[test]
fn assume_clean_compares_what_both_gain_and_syncs_nothing() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    let refusal = pair.admin(0, resize(true)).unwrap_err();
    assert_eq!(refusal.code, 162, "{refusal}");
    assert!(refusal.hint.contains("without --assume-clean"), "{refusal}");
    assert_eq!([pair.size(0), pair.size(1)], [SIZE; 2]);
    for n in 0..2 {
        pair.nodes[n].disk.blocks.retain(|block, _| *block < SIZE / 4096);
    }
    let before = pair.status(1).connections[0].peer_devices[0].received;
    pair.admin(0, resize(true)).unwrap();
    pair.synced();
    assert_eq!([pair.size(0), pair.size(1)], [MORE; 2]);
    let after = pair.status(1).connections[0].peer_devices[0].received;
    assert_eq!(after, before);
    assert_eq!(pair.write(0, LAST, 7), Ok(None));
    pair.synced();
}

#[test]
fn metadata_that_is_due_while_a_disk_takes_its_room_is_written_after_it() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    for n in 0..2 {
        pair.nodes[n].stall = |action| matches!(action, Action::GrowDisk { .. });
    }
    let id = pair.order(0, resize(false));
    // Cold extents, here and later there.
    let writes: Vec<u64> = (0..3).map(|i| pair.start_write(0, 1024 * (i + 2), 9)).collect();
    assert!(writes.iter().all(|write| !pair.nodes[0].replies.contains_key(write)));
    pair.nodes[0].unstall();
    pair.run(50);
    assert_eq!(pair.size(0), SIZE, "bob's disk has its room first");
    pair.nodes[1].unstall();
    pair.run(50);
    assert!(writes.iter().all(|write| pair.nodes[0].replies.contains_key(write)));
    assert!(pair.nodes[0].admin[&id].is_ok());
    pair.synced();
    assert_eq!([pair.size(0), pair.size(1)], [MORE; 2]);
}

#[test]
fn a_disk_that_fails_in_its_move_ends_the_order_and_not_the_service() {
    for broken in 0..2 {
        let mut pair = synced_pair();
        pair.make_room([MORE, MORE]);
        pair.nodes[broken].fail = |action| matches!(action, Action::GrowDisk { .. });
        assert!(pair.admin(0, resize(false)).is_err());
        assert_eq!(pair.disk(broken), DiskState::Diskless);
        assert_eq!(pair.write(0, 3, 3), Ok(None));
        pair.nodes[broken].fail = |_| false;
        pair.attach(broken).unwrap();
        pair.run(20_000);
        assert_eq!([pair.size(0), pair.size(1)], [SIZE; 2]);
        pair.admin(0, resize(false)).unwrap();
        pair.synced();
        assert_eq!([pair.size(0), pair.size(1)], [MORE; 2]);
    }
}

#[test]
fn a_disk_that_takes_its_room_for_the_peer_does_not_begin_anew_for_an_order_here() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    pair.nodes[1].stall = |action| matches!(action, Action::GrowDisk { .. });
    let id = pair.order(0, resize(false));
    let refusal = pair.admin(1, resize(false)).unwrap_err();
    assert_eq!(refusal.code, -18, "{refusal}");
    pair.nodes[1].unstall();
    pair.run(50);
    assert!(pair.nodes[0].admin[&id].is_ok());
    pair.synced();
}

#[test]
fn two_orders_that_cross_end_and_one_after_the_other_is_done() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    let ids: Vec<u64> = (0..2)
        .map(|n| {
            let id = pair.next;
            pair.next += 1;
            pair.event(n, Event::Admin { id, command: resize(false) });
            id
        })
        .collect();
    pair.run(60_000);
    assert!((0..2).all(|n| pair.nodes[n].admin.contains_key(&ids[n])));
    pair.admin(1, resize(false)).unwrap();
    pair.synced();
    assert_eq!([pair.size(0), pair.size(1)], [MORE; 2]);
}

/// After each event of a resize: the link is cut, or a node, or both, crash. They meet again, agree,
/// and hold the same.
#[test]
fn a_cut_after_any_step_leaves_one_size_and_equal_disks() {
    for assume_clean in [false, true] {
        let crashes = [&[][..], &[0], &[1], &[0, 1]];
        for crash in &crashes[if assume_clean { 3 } else { 0 }..] {
            let mut step = 0;
            let mut sizes = std::collections::BTreeSet::new();
            loop {
                let mut pair = synced_pair();
                pair.make_room([MORE, MORE]);
                if assume_clean {
                    for n in 0..2 {
                        pair.nodes[n].disk.blocks.retain(|block, _| *block < SIZE / 4096);
                    }
                }
                let id = pair.next;
                pair.next += 1;
                pair.event(0, Event::Admin { id, command: resize(assume_clean) });
                // The comparison changes nothing, and is long.
                while assume_clean && !pair.core(0).is_renegotiating(0) {
                    assert!(pair.one_event());
                }
                let ended = (0..step).any(|_| !pair.one_event());
                for n in *crash {
                    pair.kill(*n);
                }
                pair.cut();
                for n in *crash {
                    pair.up(*n);
                }
                pair.run(10_000);
                pair.synced();
                assert_eq!(pair.size(0), pair.size(1), "step {step} {crash:?}");
                assert_eq!(pair.durable_size(0), pair.durable_size(1), "step {step} {crash:?}");
                sizes.insert(pair.size(0));
                if pair.status(0).role == Role::Primary {
                    assert_eq!(pair.write(0, pair.size(0) / 4096 - 1, 8), Ok(None));
                }
                // Alone, it has the size that both had.
                let size = pair.size(0);
                pair.kill(0);
                pair.admin(1, Command::Primary { force: None }).unwrap();
                assert_eq!(pair.size(1), size);
                if ended {
                    break;
                }
                step += 1;
            }
            assert_eq!(sizes.len(), 2, "{step} steps, and the sizes {sizes:?}");
        }
    }
}

#[test]
fn the_target_takes_the_size_when_its_bits_are_durable_and_not_before() {
    let mut pair = synced_pair();
    pair.make_room([MORE, MORE]);
    pair.nodes[1].stall = |action| matches!(action, Action::Meta { op: MetaOp::Bitmap { .. }, .. });
    pair.order(0, resize(false));
    assert_eq!([pair.durable_size(0), pair.durable_size(1)], [MORE, SIZE]);
    assert_eq!([pair.size(0), pair.size(1)], [MORE, SIZE]);
    pair.nodes[1].unstall();
    pair.synced();
    assert_eq!([pair.durable_size(0), pair.durable_size(1)], [MORE, MORE]);
}
