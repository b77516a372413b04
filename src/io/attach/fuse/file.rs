//! The file system of one file that the kernel sees: each request becomes one of NBD's.
//!
//! Invariants:
//! - Nothing is cached by the kernel: the file is opened for direct I/O, without a writeback cache.
//! - A write that is to be durable (O_DSYNC) is answered when the server has it durable.
//! - Who reads `/dev/fuse` waits for no server; the engine answers.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nbd::constants::{
    NBD_CMD_FLAG_FUA, NBD_CMD_FLAG_NO_HOLE, NBD_FLAG_READ_ONLY, NBD_FLAG_SEND_FLUSH,
    NBD_FLAG_SEND_FUA, NBD_FLAG_SEND_WRITE_ZEROES,
};
use nbd::request::Command;

use super::engine::{Engine, ROOM, Request as Order};

/// The file's name.
pub(super) const NAME: &str = "volume";
const FILE: INodeNo = INodeNo(2);
/// Attributes are asked for each time: the size may grow.
const TTL: Duration = Duration::ZERO;
/// Bytes of a request.
const MAX: u32 = 1 << 20;

/// The file and its folder.
pub(super) struct Volume {
    pub(super) engine: Arc<Engine>,
    /// Bytes.
    pub(super) size: Arc<AtomicU64>,
    /// `NBD_FLAG_*`.
    pub(super) flags: u16,
}

impl Volume {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let size = self.size.load(Ordering::Acquire);
        let is_file = ino == FILE;
        FileAttr {
            ino,
            size: if is_file { size } else { 0 },
            blocks: if is_file { size / 512 } else { 0 },
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: if is_file { 0o600 } else { 0o700 },
            nlink: if is_file { 1 } else { 2 },
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    fn synced(&self, reply: ReplyEmpty) {
        if !self.has(NBD_FLAG_SEND_FLUSH) {
            // Such a server has nothing that a flush would write.
            return reply.ok();
        }
        self.empty(Command::Flush, 0, (0, 0), reply);
    }

    fn empty(&self, command: Command, flags: u16, (offset, length): (u64, u64), reply: ReplyEmpty) {
        let answer = Box::new(move |outcome: Result<Vec<u8>, i32>| match outcome {
            Ok(_) => reply.ok(),
            Err(error) => reply.error(Errno::from_i32(error)),
        });
        let (data, then_flush) = (Vec::new(), false);
        self.engine.submit(Order { command, flags, offset, length, data, then_flush, answer });
    }
}

impl Filesystem for Volume {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let refused = |what: &str| io::Error::other(format!("FUSE takes no {what}"));
        config.set_max_write(MAX).map_err(|_| refused("writes of 1 MiB"))?;
        let room = u16::try_from(ROOM / 2).unwrap_or(u16::MAX);
        config.set_max_background(room).map_err(|_| refused("requests in the background"))?;
        // Only faster; an old kernel does without.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match parent == INodeNo::ROOT && name == NAME {
            true => reply.entry(&TTL, &self.attributes(FILE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(ino));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Times are not kept. The size is the volume's.
        match size.is_some_and(|size| size != self.size.load(Ordering::Acquire)) {
            true => reply.error(Errno::EPERM),
            false => reply.attr(&TTL, &self.attributes(ino)),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writes = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
        match writes && self.has(NBD_FLAG_READ_ONLY) {
            true => reply.error(Errno::EROFS),
            false => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
        }
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
        let left = self.size.load(Ordering::Acquire).saturating_sub(offset);
        let length = u64::from(size).min(left);
        if length == 0 {
            return reply.data(&[]);
        }
        let answer = Box::new(move |outcome: Result<Vec<u8>, i32>| match outcome {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(Errno::from_i32(error)),
        });
        let (command, data, then_flush) = (Command::Read, Vec::new(), false);
        self.engine.submit(Order { command, flags: 0, offset, length, data, then_flush, answer });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The kernel sends no more than it was told to.
        let written = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let end = offset.checked_add(u64::from(written));
        if end.is_none_or(|end| end > self.size.load(Ordering::Acquire)) {
            return reply.error(Errno::ENOSPC);
        }
        let answer = Box::new(move |outcome: Result<Vec<u8>, i32>| match outcome {
            Ok(_) => reply.written(written),
            Err(error) => reply.error(Errno::from_i32(error)),
        });
        // O_SYNC and RWF_DSYNC have this bit too. With direct I/O the kernel sends no fsync behind it.
        let is_durable = flags.0 & libc::O_DSYNC != 0;
        let has_fua = self.has(NBD_FLAG_SEND_FUA);
        self.engine.submit(Order {
            command: Command::Write,
            flags: if is_durable && has_fua { NBD_CMD_FLAG_FUA } else { 0 },
            offset,
            length: u64::from(written),
            data: data.to_vec(),
            // Of a server that has neither there is nothing that a flush would write.
            then_flush: is_durable && !has_fua && self.has(NBD_FLAG_SEND_FLUSH),
            answer,
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Of a close, which promises nothing.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.synced(reply);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // The kernel's loop device means "zeroes from now on" with both, so trim is not enough.
        let flags = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            libc::FALLOC_FL_PUNCH_HOLE => 0,
            libc::FALLOC_FL_ZERO_RANGE => NBD_CMD_FLAG_NO_HOLE,
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        if !self.has(NBD_FLAG_SEND_WRITE_ZEROES) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let end = offset.checked_add(length);
        if end.is_none_or(|end| end > self.size.load(Ordering::Acquire)) {
            return reply.error(Errno::ENOSPC);
        }
        self.empty(Command::WriteZeroes, flags, (offset, length), reply);
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (FILE, FileType::RegularFile, NAME),
        ];
        for (at, (ino, kind, name)) in (1..).zip(entries).skip_while(|(at, _)| *at <= offset) {
            if reply.add(ino, at, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
