//! How a record and its descriptors get from one program to the next in the same process: they are
//! put into a socket, whose other end is standard input of the program that is executed.
//!
//! Invariants:
//! - No descriptor but standard input outlives the execution by itself: what the next program does
//!   not take out of the socket is closed with it. Numbers of descriptors mean nothing.
//! - Nothing is taken from a standard input that the own process has not been given that way.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use nix::unistd::dup2_stdin;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::record::{RECORD_MAX, Record};

/// Names the process that is given something. Its children see it, too, and are not meant.
pub(super) const VARIABLE: &str = "TANDEM_TAKE_OVER";
/// Descriptors in one message; the kernel takes 253.
const BATCH: usize = 128;

/// A socket that all is in: the end that becomes standard input, and the other one, which keeps it.
#[derive(Debug)]
pub(super) struct Parcel {
    out: OwnedFd,
    _into: OwnedFd,
}

/// Packs a record and the descriptors that belong to it.
///
/// # Errors
/// There is no room for them: more descriptors than may be under way, say.
pub(super) fn pack(record: &[u8], descriptors: &[RawFd]) -> io::Result<Parcel> {
    let mut file = File::from(memfd_create("tandem", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(record)?;
    file.rewind()?;
    let (out, into) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    )?;
    let send = |batch: &[RawFd]| {
        let rights = [ControlMessage::ScmRights(batch)];
        let (raw, byte) = (into.as_raw_fd(), [IoSlice::new(&[1])]);
        sendmsg::<()>(raw, &byte, &rights, MsgFlags::MSG_NOSIGNAL, None)
    };
    send(&[file.as_raw_fd()])?;
    for batch in descriptors.chunks(BATCH) {
        send(batch)?;
    }
    Ok(Parcel { out, _into: into })
}

impl Parcel {
    /// Puts it where the next program looks for it; what was standard input comes back.
    pub(super) fn place(&self) -> io::Result<OwnedFd> {
        let before = io::stdin().as_fd().try_clone_to_owned()?;
        dup2_stdin(&self.out)?;
        Ok(before)
    }
}

/// Whether this process is given something.
pub(super) fn is_given() -> bool {
    std::env::var(VARIABLE).is_ok_and(|pid| pid == std::process::id().to_string())
}

/// What another one would need, to be given something as process `pid`.
pub(super) fn variable(pid: u32) -> String {
    format!("{VARIABLE}={pid}")
}

/// Takes what is in the socket at `from`: the record, and its descriptors.
///
/// # Errors
/// There is no socket, or what it holds does not belong together.
pub(super) fn unpack(from: BorrowedFd<'_>) -> io::Result<(Record, Vec<OwnedFd>)> {
    let mut all = Vec::new();
    receive(from, &mut all)?;
    let mut all = all.into_iter();
    let file = all.next().ok_or_else(|| io::Error::other("no record came with it"))?;
    let mut bytes = Vec::new();
    File::from(file).take(RECORD_MAX as u64 + 1).read_to_end(&mut bytes)?;
    let record = Record::decode(&bytes).map_err(io::Error::other)?;
    let mut descriptors: Vec<OwnedFd> = all.collect();
    while descriptors.len() < record.descriptors() {
        let before = descriptors.len();
        receive(from, &mut descriptors)?;
        if descriptors.len() == before {
            break;
        }
    }
    if descriptors.len() != record.descriptors() {
        let (came, meant) = (descriptors.len(), record.descriptors());
        return Err(io::Error::other(format!("{came} descriptors came, {meant} belong to it")));
    }
    Ok((record, descriptors))
}

/// One message.
fn receive(from: BorrowedFd<'_>, into: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            into.extend(descriptors);
        }
    }
    Ok(())
}

/// Standard input is what it mostly is for a daemon again: nothing.
pub(super) fn give_up_stdin() -> io::Result<()> {
    Ok(dup2_stdin(File::open("/dev/null")?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::control::restart::record::Listener;

    fn record(listeners: usize) -> Record {
        let more = "127.0.0.1:10809".parse().unwrap();
        let mut all = vec![Listener::Admin, Listener::Nbd];
        all.resize(listeners, Listener::NbdTcp(more));
        Record {
            program: String::new(),
            since_ns: 0,
            listeners: all,
            left: Vec::new(),
            seats: Vec::new(),
            caller: false,
        }
    }

    #[test]
    fn descriptors_come_in_their_order_and_exactly_as_many_as_the_record_says() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<File> = (0..300)
            .map(|n| {
                let path = dir.path().join(n.to_string());
                std::fs::write(&path, n.to_string()).unwrap();
                File::open(path).unwrap()
            })
            .collect();
        let raw: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let bytes = record(299).encode().unwrap();
        let Parcel { out, .. } = pack(&bytes, &raw).unwrap();
        drop(files);
        let (found, came) = unpack(out.as_fd()).unwrap();
        assert_eq!((found.descriptors(), came.len()), (300, 300));
        for (n, fd) in came.into_iter().enumerate() {
            let mut text = String::new();
            File::from(fd).read_to_string(&mut text).unwrap();
            assert_eq!(text, n.to_string());
        }
        // It is empty now, and no socket that waits.
        assert!(unpack(out.as_fd()).is_err());
        for count in [298, 301] {
            let raw = vec![out.as_raw_fd(); count];
            let Parcel { out, .. } = pack(&bytes, &raw).unwrap();
            assert!(unpack(out.as_fd()).is_err(), "{count}");
        }
        let file = File::open("/dev/null").unwrap();
        assert!(unpack(file.as_fd()).is_err(), "no socket");
    }
}
