//! Stories of disks: the wrong one, an empty one, an old one, a full one.

use super::tests_pair::{Pair, superblock};
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
