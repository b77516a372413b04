//! Stories of disks: the wrong one, an empty one, an old one, a full one.

use super::tests_pair::{Pair, SIZE, superblock};
use super::*;

#[test]
fn a_disk_of_another_node_volume_or_resource_is_refused_before_anything_is_done_with_it() {
    let mut pair = Pair::new();
    pair.run(2000);
    pair.admin(1, Command::Detach { volume: 0, force: false }).unwrap();
    let own = pair.nodes[1].disk.superblock.clone();
    let mut strangers = [superblock(0), superblock(1), superblock(1)];
    strangers[1].volume = 1;
    strangers[2].resource = "r1".into();
    for stranger in strangers {
        pair.nodes[1].disk.superblock = Some(stranger.clone());
        let refusal = pair.attach(1).expect_err("it is not ours");
        assert_eq!(refusal.code, 119, "{refusal:?}");
        assert_eq!(pair.disk(1), DiskState::Diskless);
        assert_eq!(pair.nodes[1].disk.superblock, Some(stranger), "nothing was written");
    }
    pair.nodes[1].disk.superblock = own;
    pair.attach(1).unwrap();
    pair.primary(0, true);
    pair.write(0, 5, 55).unwrap();
    pair.synced();
}

#[test]
fn pieces_of_nothing_but_zeroes_are_synced_without_a_payload_and_replace_what_the_target_had() {
    let mut pair = Pair::new();
    pair.run(2000);
    pair.nodes[0].disk.blocks.extend([(3, 33), (5000, 50)]);
    pair.nodes[1].disk.blocks.extend([(3, 1), (700, 70), (9000, 90)]);
    pair.primary(0, true);
    pair.synced();
    let received = pair.status(1).connections[0].peer_devices[0].received;
    assert!((8192..=2 << 20).contains(&received), "{received} bytes: two pieces have data");
    assert_eq!(pair.status(0).connections[0].peer_devices[0].sent, received);
    let zeroes = format!("{} KiB of them zeroes", (SIZE - received) >> 10);
    assert!(pair.nodes[1].log.iter().any(|line| line.contains(&zeroes)), "{zeroes}");
    // The target's disk has no room even for that: the blocks stay out of sync, as with data.
    pair.lose_link();
    pair.write(0, 5000, 0).unwrap();
    pair.nodes[1].fail =
        |action| matches!(action, Action::DiskZeroes { no_hole: false, written: true, .. });
    pair.link = true;
    pair.run(20_000);
    assert_eq!(pair.disk(1), DiskState::Diskless);
    assert_eq!(pair.nodes[1].disk.blocks.get(&5000), Some(&50));
}
