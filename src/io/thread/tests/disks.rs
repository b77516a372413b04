//! Disks: order and durability of what the core asks for.

use super::*;
use crate::meta::MetaOp;

fn superblock(disk: &OpenDisk) -> crate::meta::Superblock {
    disk.attached.meta.superblock.clone()
}

fn done(node: &Node, wanted: Tag) -> Result<(), DiskError> {
    node.wait_event("the action ends", |event| match event {
        Event::DiskDone { tag, result } if *tag == wanted => Some(result.map(|_| ())),
        Event::MetaDone { tag, result } if *tag == wanted => Some(*result),
        _ => None,
    })
}

#[test]
fn a_detach_is_answered_when_the_lock_is_free_and_metadata_is_there_after_it() {
    for external in [false, true] {
        let mut node = Node::start(config("r0", 0), Vec::new());
        let meta_disk = if external {
            MetaDisk::External(node.folder.path().join("meta"))
        } else {
            MetaDisk::Internal
        };
        node.attach(&meta_disk);
        // Changed, closed clean by the core's word, and opened again at once.
        let disk = {
            node.order(Command::Detach { volume: 0, force: false }).unwrap();
            node.open(&meta_disk)
        };
        let mut changed = superblock(&disk);
        changed.sequence += 1;
        changed.current_uuid = 0xabcd;
        let (reply, answer) = oneshot::channel();
        node.handle.send(Order::Attach { volume: 0, disk, reply }).unwrap();
        answer.blocking_recv().unwrap().unwrap();
        let op = MetaOp::Superblock(Box::new(changed.clone()));
        node.inject([Action::Meta { tag: Tag(1), volume: 0, op }]);
        assert_eq!(done(&node, Tag(1)), Ok(()));
        changed.sequence += 1;
        changed.current_uuid = 0xabce;
        let superblock = Some(Box::new(changed));
        let close = Action::CloseDisk { volume: 0, superblock };
        node.script.0.lock().unwrap().inject.push_back(close);
        node.order(Command::Detach { volume: 0, force: false }).unwrap();
        let disk = node.open(&meta_disk);
        assert_eq!(self::superblock(&disk).current_uuid, 0xabce);
        drop(disk);
        node.stop();
    }
}

#[test]
fn a_second_disk_for_a_volume_is_closed_and_the_first_one_stays() {
    let node = Node::with_disk(Limits::default());
    let other = Node::with_disk(Limits::default());
    other.order(Command::Detach { volume: 0, force: false }).unwrap();
    let disk = other.open(&MetaDisk::Internal);
    let (reply, answer) = oneshot::channel();
    node.handle.send(Order::Attach { volume: 0, disk, reply }).unwrap();
    answer.blocking_recv().unwrap().unwrap();
    drop(other.open(&MetaDisk::Internal));
    let mut client = node.client(Mode::Simple);
    client.write(0, b"first", 0).unwrap();
    assert_eq!(&std::fs::read(node.path()).unwrap()[..5], b"first");
    node.stop();
    other.stop();
}

#[test]
fn actions_on_a_volume_without_a_disk_fail_and_nothing_is_lost() {
    let node = Node::start(config("r0", 0), Vec::new());
    let (volume, offset, length) = (7, 0, 4096);
    node.inject([
        Action::DiskRead { tag: Tag(1), volume, offset, length, find_zeroes: false },
        Action::DiskFlush { tag: Tag(2), volume },
        Action::DiskZeroes {
            tag: Tag(3),
            volume,
            offset,
            length,
            no_hole: false,
            written: false,
            fua: true,
        },
        Action::Meta { tag: Tag(4), volume, op: MetaOp::ActivityLog { blocks: Vec::new() } },
        Action::CloseDisk { volume, superblock: None },
    ]);
    for tag in 1..=4 {
        assert_eq!(done(&node, Tag(tag)), Err(DiskError::Io(libc::ENODEV)));
    }
    node.stop();
}

#[test]
fn core_reads_wait_for_buffers_and_all_end() {
    let node = Node::with_disk(Limits::default());
    let count = 40;
    node.inject((1..=count).map(|number| Action::DiskRead {
        tag: Tag(number),
        volume: 0,
        offset: (number - 1) << 20,
        length: 1 << 20,
        find_zeroes: false,
    }));
    for number in 1..=count {
        assert_eq!(done(&node, Tag(number)), Ok(()));
    }
    node.stop();
}

#[test]
fn flushes_and_updates_of_many_pages_end() {
    let node = Node::with_disk(Limits::default());
    let pages = (0..1)
        .map(|index| crate::meta::BitmapPage { index, words: vec![0; crate::meta::PAGE_WORDS] })
        .collect();
    let op = MetaOp::Bitmap { slot: 0, epoch: 1, pages };
    let flush = |number| Action::DiskFlush { tag: Tag(number), volume: 0 };
    node.inject([flush(1), flush(2), Action::Meta { tag: Tag(9), volume: 0, op }, flush(3)]);
    for number in [1, 2, 3, 9] {
        assert_eq!(done(&node, Tag(number)), Ok(()));
    }
    node.stop();
}
