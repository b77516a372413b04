//! A backing file in a file system that asks somebody else: what the data thread asks it by itself.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite, Request,
    Session, WriteFlags,
};

use super::*;

const TTL: Duration = Duration::ZERO;
const SIZE: u64 = 300 << 20;

/// One file, and how often its attributes or those of the file system were asked for.
struct Volume {
    file: File,
    asked: Arc<AtomicUsize>,
}

fn attributes(ino: INodeNo) -> FileAttr {
    let is_file = ino != INodeNo::ROOT;
    FileAttr {
        ino,
        size: SIZE,
        blocks: SIZE / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if is_file { FileType::RegularFile } else { FileType::Directory },
        perm: 0o700,
        nlink: 1,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Volume {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == "disk" {
            true => reply.entry(&TTL, &attributes(INodeNo(2)), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        reply.attr(&TTL, &attributes(ino));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        reply.statfs(0, 0, 0, 0, 0, 512, 255, 0);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = SIZE.saturating_sub(offset).min(u64::from(size));
        let mut bytes = vec![0; left as usize];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.file.write_all_at(data, offset).unwrap();
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// One that hangs would have the thread wait for it, and with it everything that notices that a disk hangs.
#[test]
fn a_file_system_that_may_hang_is_asked_nothing_but_by_the_ring() {
    let folder = tempfile::tempdir().unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    let asked = Arc::<AtomicUsize>::default();
    let volume = Volume { file, asked: asked.clone() };
    let mounted = Session::new(volume, folder.path(), &Config::default()).and_then(Session::spawn);
    let session = match mounted {
        Ok(session) => session,
        Err(error) => return println!("skipped, FUSE does not mount: {error}"),
    };
    let state = tempfile::tempdir().unwrap();
    let mut bench = Bench::made(&folder.path().join("disk"), state, true, SAFE);
    let before = asked.load(Ordering::SeqCst);
    bench.disks.flush(&mut bench.io, Tag(1), 0);
    bench.complete(None);
    let op = bench.superblock();
    bench.disks.meta(&mut bench.io, Tag(2), 0, &op);
    while bench.io.ring.outstanding() > 0 {
        bench.complete(None);
    }
    assert_eq!((bench.event(), bench.event()), (data_done(1), meta_done(2)));
    assert_eq!(bench.disks.hole(Time(0), 0, 0, 8192), 0);
    assert_eq!(bench.disks.extents(Time(0), 0, 0, 8192), [Extent { length: 8192, flags: 0 }]);
    assert_eq!(asked.load(Ordering::SeqCst) - before, 0);
    bench.end();
    drop(session);
}
