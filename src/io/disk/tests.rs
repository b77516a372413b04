//! What a disk has under way at each moment, one completion after the other.

use std::path::Path;
use std::time::Duration;

use nbd::constants::{NBD_STATE_HOLE, NBD_STATE_ZERO};
use nbd::reply::Extent;

use super::*;
use crate::io::backing::{
    CreateOptions, Identity, MetaDisk, OpenOptions, create_md, host_boot_id, open_disk,
};
use crate::io::ring::Completion;
use crate::meta::{BitmapPage, MetaOp, PAGE_WORDS};
use crate::resource::Time;

mod fuse;

const SAFE: Flushes = Flushes { disk: true, meta: true };

fn zeroes(no_hole: bool, written: bool, fua: bool) -> ZeroesAsked {
    ZeroesAsked { no_hole, written, fua }
}

struct Bench {
    io: Context,
    disks: Disks,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(dsync: bool, flushes: Flushes) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::File::create(&path).unwrap().set_len(300 << 20).unwrap();
        Self::made(&path, folder, dsync, flushes)
    }

    /// Of this file.
    fn made(path: &Path, folder: tempfile::TempDir, dsync: bool, flushes: Flushes) -> Self {
        let who = Identity { resource: "r0".to_owned(), node_id: 0, volume: 0 };
        let boot_id = host_boot_id().unwrap();
        let options = CreateOptions {
            force: false,
            max_peers: 1,
            preallocate: false,
            seed: 5,
            wall_clock: 1,
            boot_id,
            state_dir: folder.path().to_owned(),
            lock_wait: Duration::ZERO,
        };
        create_md(path, &MetaDisk::Internal, &who, &options).unwrap();
        let options = OpenOptions { lock_wait: Duration::ZERO, ..OpenOptions::default() };
        let mut open = open_disk(path, &MetaDisk::Internal, &who, boot_id, &options).unwrap();
        open.dsync = dsync;
        let mut io = Context::alone(Time(0));
        let mut disks = Disks::default();
        disks.attach(&mut io, 0, Box::new(open), flushes).unwrap();
        Self { io, disks, folder }
    }

    /// One completion; `pretend`: with this result.
    fn complete(&mut self, pretend: Option<i32>) -> DiskStep {
        loop {
            if let Some(Completion { purpose, memory, result }) = self.io.ring.next_completion() {
                let Purpose::Disk(number, step) = purpose else { panic!("{purpose:?}") };
                let result = pretend.unwrap_or(result);
                self.disks.completed(&mut self.io, number, step, memory, result);
                return step;
            }
            self.io.ring.submit_and_wait(Duration::from_secs(5)).unwrap();
        }
    }

    fn event(&mut self) -> Option<Event> {
        self.io.events.pop_front()
    }

    fn superblock(&self) -> MetaOp {
        let superblock = self.disks.disks[&0].open.attached.meta.superblock.clone();
        MetaOp::Superblock(Box::new(superblock))
    }

    fn write(&mut self, tag: Tag, fua: bool) {
        let payload = self.io.pool.take(Part::Client, 4096);
        self.disks.write(&mut self.io, tag, 0, 4096, payload, fua);
        self.io.release(payload);
    }

    fn end(mut self) {
        self.disks.close_all(&mut self.io);
        assert_eq!((self.io.ring.outstanding(), self.io.pool.live_buffers()), (0, 0));
        let closing = self.disks.next_closed().unwrap();
        assert!(closing.into_parts().is_ok(), "nobody else has the disk");
    }
}

fn data_done(tag: u64) -> Option<Event> {
    Some(Event::DiskDone { tag: Tag(tag), result: Ok(None) })
}

fn meta_done(tag: u64) -> Option<Event> {
    Some(Event::MetaDone { tag: Tag(tag), result: Ok(()) })
}

#[test]
fn the_second_copy_of_the_superblock_starts_when_the_first_one_is_durable() {
    let tag = Tag(1);
    for dsync in [true, false] {
        let mut bench = Bench::new(dsync, SAFE);
        let op = bench.superblock();
        bench.disks.meta(&mut bench.io, tag, 0, &op);
        for _ in 0..2 {
            assert_eq!((bench.io.ring.outstanding(), bench.event()), (1, None));
            assert_eq!(bench.complete(None), DiskStep::Meta(tag, 0));
            if !dsync {
                assert_eq!((bench.io.ring.outstanding(), bench.event()), (1, None));
                assert_eq!(bench.complete(None), DiskStep::SyncData);
            }
        }
        assert_eq!(bench.event(), meta_done(1));
        bench.end();
    }
}

#[test]
fn a_failed_stage_ends_the_update() {
    let mut bench = Bench::new(true, SAFE);
    let op = bench.superblock();
    bench.disks.meta(&mut bench.io, Tag(1), 0, &op);
    bench.complete(Some(-libc::EIO));
    let result = Err(DiskError::Io(libc::EIO));
    assert_eq!(bench.event(), Some(Event::MetaDone { tag: Tag(1), result }));
    bench.end();
}

/// The metadata is at its end: written again, it would leave a hole in front of it, where data was.
#[test]
fn a_file_that_was_made_shorter_is_neither_written_at_its_old_end_nor_vouched_for() {
    let mut bench = Bench::new(true, SAFE);
    bench.disks.flush(&mut bench.io, Tag(1), 0);
    bench.complete(None);
    assert_eq!(bench.event(), data_done(1));
    let path = bench.folder.path().join("disk");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(200 << 20).unwrap();
    let op = bench.superblock();
    bench.disks.meta(&mut bench.io, Tag(2), 0, &op);
    let result = Err(DiskError::Io(libc::EIO));
    assert_eq!(bench.event(), Some(Event::MetaDone { tag: Tag(2), result }));
    for tag in [3, 4] {
        bench.disks.flush(&mut bench.io, Tag(tag), 0);
        let result = Err(DiskError::Io(libc::EIO));
        assert_eq!(bench.event(), Some(Event::DiskDone { tag: Tag(tag), result }));
    }
    bench.end();
    assert_eq!(file.metadata().unwrap().len(), 200 << 20);
}

#[test]
fn many_pages_are_written_and_then_synced_once() {
    let mut bench = Bench::new(true, SAFE);
    let page = |index| BitmapPage { index, words: vec![0; PAGE_WORDS] };
    let pages = (0..3).map(page).collect();
    let op = MetaOp::Bitmap { slot: 0, epoch: 1, pages };
    bench.disks.meta(&mut bench.io, Tag(1), 0, &op);
    assert_eq!(bench.io.ring.outstanding(), 3);
    for _ in 0..3 {
        assert!(matches!(bench.complete(None), DiskStep::Meta(..)));
        assert_eq!(bench.event(), None);
    }
    assert_eq!(bench.complete(None), DiskStep::SyncData);
    assert_eq!(bench.event(), meta_done(1));
    bench.end();
}

#[test]
fn one_flush_runs_one_waits_and_a_failed_one_fails_all_that_joined_it() {
    let mut bench = Bench::new(true, SAFE);
    for tag in 1..=3 {
        bench.disks.flush(&mut bench.io, Tag(tag), 0);
        assert_eq!(bench.io.ring.outstanding(), 1);
    }
    assert_eq!(bench.complete(None), DiskStep::SyncData);
    assert_eq!((bench.event(), bench.event()), (data_done(1), None));
    assert_eq!(bench.complete(Some(-libc::EIO)), DiskStep::SyncData);
    let failed = |tag| {
        let result = Err(DiskError::Io(libc::EIO));
        Some(Event::DiskDone { tag: Tag(tag), result })
    };
    assert_eq!((bench.event(), bench.event(), bench.event()), (failed(2), failed(3), None));
    assert_eq!(bench.io.ring.outstanding(), 0, "nothing is tried again");
    bench.end();
}

#[test]
fn a_durable_write_is_told_after_its_sync_where_the_write_itself_is_not_durable() {
    let mut bench = Bench::new(false, SAFE);
    bench.write(Tag(1), true);
    assert_eq!(bench.complete(None), DiskStep::Write(Tag(1)));
    assert_eq!(bench.event(), None);
    assert_eq!(bench.complete(None), DiskStep::SyncData);
    assert_eq!(bench.event(), data_done(1));
    bench.write(Tag(2), false);
    bench.complete(None);
    assert_eq!(bench.event(), data_done(2));
    bench.disks.zero(&mut bench.io, Tag(3), 0, (0, 4096), zeroes(false, false, true));
    assert_eq!(bench.complete(None), DiskStep::Zeroes(Tag(3)));
    assert_eq!(bench.event(), None);
    assert_eq!(bench.complete(None), DiskStep::SyncData);
    assert_eq!(bench.event(), data_done(3));
    bench.end();
}

/// The system tells an error of what was acknowledged before once, and only once: not as a lack of space, which is
/// tried again.
/// A sync that has failed is not made again, by whatever it was asked for.
#[test]
fn a_durable_write_whose_sync_finds_no_space_is_a_failed_sync() {
    let mut bench = Bench::new(true, SAFE);
    bench.write(Tag(1), true);
    assert_eq!(bench.complete(Some(-libc::ENOSPC)), DiskStep::Write(Tag(1)));
    assert_eq!(bench.event(), None);
    assert_eq!(bench.complete(None), DiskStep::Write(Tag(1)));
    let result = Err(DiskError::Io(libc::ENOSPC));
    assert_eq!(bench.event(), Some(Event::DiskDone { tag: Tag(1), result }));
    bench.end();
    // It was cut short, and nothing was said of a sync: that one is made apart.
    for lost in [false, true] {
        let mut bench = Bench::new(true, SAFE);
        bench.write(Tag(1), true);
        assert_eq!(bench.complete(Some(0)), DiskStep::Write(Tag(1)));
        assert_eq!(bench.complete(None), DiskStep::Write(Tag(1)));
        assert_eq!(bench.event(), None, "it is not durable yet");
        assert_eq!(bench.complete(lost.then_some(-libc::ENOSPC)), DiskStep::SyncData);
        let result = if lost { Err(DiskError::Io(libc::ENOSPC)) } else { Ok(None) };
        assert_eq!(bench.event(), Some(Event::DiskDone { tag: Tag(1), result }));
        bench.end();
    }
    // It is full.
    let mut bench = Bench::new(true, SAFE);
    bench.write(Tag(1), true);
    bench.complete(Some(-libc::ENOSPC));
    bench.complete(Some(-libc::ENOSPC));
    let result = Err(DiskError::NoSpace);
    assert_eq!(bench.event(), Some(Event::DiskDone { tag: Tag(1), result }));
    bench.end();
}

#[test]
fn flushes_that_are_switched_off_are_not_done() {
    let mut bench = Bench::new(false, Flushes { disk: false, meta: false });
    bench.disks.flush(&mut bench.io, Tag(1), 0);
    assert_eq!(bench.event(), data_done(1));
    bench.write(Tag(2), true);
    bench.complete(None);
    assert_eq!(bench.event(), data_done(2));
    let op = bench.superblock();
    bench.disks.meta(&mut bench.io, Tag(3), 0, &op);
    bench.complete(None);
    bench.complete(None);
    assert_eq!(bench.event(), meta_done(3));
    bench.end();
}

#[test]
fn short_reads_and_writes_are_finished() {
    let mut bench = Bench::new(true, SAFE);
    bench.write(Tag(1), false);
    bench.complete(Some(512));
    assert_eq!((bench.io.ring.outstanding(), bench.event()), (1, None));
    bench.complete(Some(3584));
    assert_eq!(bench.event(), data_done(1));
    let image: Vec<u8> = (0..8192u32).map(|at| (at / 100) as u8).collect();
    let file = std::fs::File::options().write(true).open(bench.folder.path().join("disk")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &image, 0).unwrap();
    bench.disks.read(&mut bench.io, Tag(2), 0, (0, 8192), false);
    bench.complete(Some(4096));
    assert_eq!((bench.io.ring.outstanding(), bench.event()), (1, None));
    bench.complete(Some(4096));
    let Some(Event::DiskDone { result: Ok(Some(payload)), .. }) = bench.event() else {
        panic!("no payload");
    };
    assert!(bench.io.pool.bytes(payload).unwrap() == image, "the rest goes behind what is there");
    bench.io.release(payload);
    bench.disks.read(&mut bench.io, Tag(3), 0, (0, 4096), false);
    bench.complete(Some(0));
    let result = Err(DiskError::Io(libc::EIO));
    assert_eq!(bench.event(), Some(Event::DiskDone { tag: Tag(3), result }));
    bench.end();
}

#[test]
fn zeroes_are_made_another_way_where_holes_are_refused_and_that_is_remembered() {
    let mut bench = Bench::new(true, SAFE);
    let refused = Some(-libc::EOPNOTSUPP);
    assert!(bench.io.fast_zeroes.contains(&(0, false)));
    bench.disks.zero(&mut bench.io, Tag(1), 0, (0, 3 << 20), zeroes(false, false, false));
    bench.complete(refused);
    assert!(!bench.io.fast_zeroes.contains(&(0, false)));
    assert!(bench.io.fast_zeroes.contains(&(0, true)), "blocks can be kept, for all we know");
    bench.complete(refused);
    assert!(bench.io.fast_zeroes.is_empty());
    for _ in 0..3 {
        assert_eq!(bench.event(), None);
        bench.complete(Some(1 << 20));
    }
    assert_eq!(bench.event(), data_done(1));
    bench.disks.zero(&mut bench.io, Tag(2), 0, (0, 4096), zeroes(true, false, false));
    bench.complete(None);
    assert_eq!(bench.event(), data_done(2), "written at once");
    bench.disks.zero(&mut bench.io, Tag(3), 0, (0, 4096), zeroes(true, false, false));
    bench.complete(Some(-libc::ENOSPC));
    let result = Err(DiskError::NoSpace);
    assert_eq!(bench.event(), Some(Event::DiskDone { tag: Tag(3), result }));
    bench.end();
}

#[test]
fn zeroes_that_are_to_be_written_are_written_where_blocks_are_kept_and_punched_elsewhere() {
    let mut bench = Bench::new(true, SAFE);
    let refused = Some(-libc::EOPNOTSUPP);
    bench.disks.disks.get_mut(&0).unwrap().zero_ways.punch = false;
    bench.disks.zero(&mut bench.io, Tag(1), 0, (0, 2 << 20), zeroes(false, true, false));
    bench.complete(Some(1 << 20));
    assert_eq!(bench.event(), None, "a part of a write");
    bench.complete(None);
    assert_eq!(bench.event(), data_done(1));
    bench.disks.disks.get_mut(&0).unwrap().zero_ways.punch = true;
    bench.disks.zero(&mut bench.io, Tag(2), 0, (0, 1 << 20), zeroes(false, true, false));
    bench.complete(refused);
    assert_eq!(bench.event(), None, "no hole there: it is written");
    bench.complete(Some(1 << 20));
    assert_eq!(bench.event(), data_done(2));
    assert!(bench.disks.disks[&0].zero_ways.keep, "marking was not tried");
    bench.end();
}

#[test]
fn a_read_that_is_to_find_zeroes_brings_a_payload_only_if_there_is_another_byte() {
    let mut bench = Bench::new(true, SAFE);
    let file = std::fs::File::options().write(true).open(bench.folder.path().join("disk")).unwrap();
    bench.disks.read(&mut bench.io, Tag(1), 0, (0, 1 << 20), true);
    bench.complete(None);
    assert_eq!(bench.event(), data_done(1), "no payload to be released");
    assert_eq!(bench.io.pool.charged(Part::Read), 0);
    for (tag, at) in [(2, 0), (3, 4096), (4, (1 << 20) - 1)] {
        std::os::unix::fs::FileExt::write_all_at(&file, &[1], at).unwrap();
        bench.disks.read(&mut bench.io, Tag(tag), 0, (0, 1 << 20), true);
        bench.complete(None);
        let Some(Event::DiskDone { result: Ok(Some(payload)), .. }) = bench.event() else {
            panic!("byte {at} is not zero");
        };
        bench.io.release(payload);
        std::os::unix::fs::FileExt::write_all_at(&file, &[0], at).unwrap();
    }
    bench.disks.read(&mut bench.io, Tag(5), 0, (0, 4096), false);
    bench.complete(None);
    let Some(Event::DiskDone { result: Ok(Some(payload)), .. }) = bench.event() else {
        panic!("nobody asked for zeroes");
    };
    bench.io.release(payload);
    bench.end();
}

#[test]
fn core_reads_wait_while_the_window_is_taken() {
    let mut bench = Bench::new(true, SAFE);
    for tag in 1..=3 {
        bench.disks.read(&mut bench.io, Tag(tag), 0, (0, 1 << 20), false);
    }
    assert_eq!(bench.io.ring.outstanding(), 1);
    // A client has reserved a buffer for a read of its own.
    bench.io.reads_reserved = 1 << 20;
    bench.disks.resume(&mut bench.io);
    assert_eq!(bench.io.ring.outstanding(), 2);
    bench.io.reads_reserved = 2 << 20;
    bench.disks.resume(&mut bench.io);
    while bench.io.ring.outstanding() > 0 {
        bench.complete(None);
    }
    assert!(bench.disks.waiting.is_empty());
}

/// Whoever asks for holes may have to wait for the disk in the system, and so all of this thread.
#[test]
fn holes_are_not_asked_for_while_an_operation_of_the_disk_is_old() {
    let mut bench = Bench::new(true, SAFE);
    let begun = Time(0).after_ms(5_000);
    bench.io.now = begun;
    let says = |bench: &Bench, ms| {
        let now = begun.after_ms(ms);
        let hole = bench.disks.hole(now, 0, 0, 8192) == 8192;
        let extents = bench.disks.extents(now, 0, 0, 8192);
        let flags = NBD_STATE_HOLE | NBD_STATE_ZERO;
        assert_eq!(hole, extents == [Extent { length: 8192, flags }]);
        assert_eq!(extents.len(), 1);
        hole
    };
    assert!(says(&bench, 60_000), "nothing is under way");
    let begin: [fn(&mut Bench); 4] = [
        |bench| bench.disks.read(&mut bench.io, Tag(1), 0, (1 << 20, 4096), true),
        |bench| bench.disks.flush(&mut bench.io, Tag(1), 0),
        |bench| {
            let op = bench.superblock();
            bench.disks.meta(&mut bench.io, Tag(1), 0, &op);
        },
        |bench| {
            let payload = bench.io.pool.take(Part::Client, 4096);
            bench.disks.write(&mut bench.io, Tag(1), 0, 1 << 20, payload, false);
            bench.io.release(payload);
        },
    ];
    for begin in begin {
        begin(&mut bench);
        assert!(says(&bench, 1_000), "it is young");
        assert!(!says(&bench, 1_001), "it is old");
        while bench.io.ring.outstanding() > 0 {
            bench.complete(None);
        }
        assert!(says(&bench, 1_001), "it has ended");
    }
    // One that waits for another one of its kind has not begun.
    for tag in [1, 2] {
        bench.disks.flush(&mut bench.io, Tag(tag), 0);
    }
    bench.io.now = begun.after_ms(900);
    bench.complete(None);
    assert!(says(&bench, 1_900), "the second one begins now");
    assert!(!says(&bench, 1_901));
    bench.complete(None);
    bench.io.events.clear();
    bench.end();
}
