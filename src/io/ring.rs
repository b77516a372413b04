//! The data thread's ring: operations in, completions out.
//!
//! Invariants:
//! - An operation owns everything that the kernel may touch (descriptor, buffers, vectors, address)
//!   from its submission until its completion is taken. A ring that is dropped with operations
//!   outstanding leaks that memory instead of freeing it.
//! - A completion carries the number of its operation and of that use of its slot; anything else
//!   is a defect, and ends the thread.
//! - Every operation completes exactly once: no multishot, no zero-copy notifications.
//! - A send *at once* either takes the whole message within the system call that submits it, and
//!   then wakes nobody (no completion entry: it is known to be done when that call has returned,
//!   and every entry of before has been seen), or it ends there with an entry that says how much it took.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

use super::buffer::{Direction, Lease};

/// Submission entries; the completion queue holds four times as many.
pub(crate) const ENTRIES: u32 = 256;
const COMPLETION_ENTRIES: u32 = 1024;

/// An open descriptor. An operation holds one more reference, so that none is closed, and its
/// number given to another file, while an operation names it.
pub(crate) type Descriptor = Rc<dyn Open>;

/// Anything that has a descriptor and can be shown.
pub(crate) trait Open: AsFd + std::fmt::Debug {}
impl<T: AsFd + std::fmt::Debug> Open for T {}

/// A message for one sendmsg: headers that lie end to end, and payload from the pool between them.
#[derive(Debug, Default)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    segments: Vec<Segment>,
    iovecs: Vec<Iovec>,
    header: MessageHeader,
    done: usize,
    length: usize,
    payload: usize,
    /// What the sender wants back when the message is gone; not the ring's business.
    pub(crate) note: u64,
    /// What the socket does not take at once comes back (EAGAIN: all of it), and nobody is woken if
    /// it takes everything.
    pub(crate) at_once: bool,
}

#[derive(Debug)]
enum Segment {
    Bytes { start: usize, length: usize },
    Payload(Lease),
}

/// `libc::iovec`, which has no `Debug`.
#[repr(transparent)]
struct Iovec(libc::iovec);

impl std::fmt::Debug for Iovec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Iovec({})", self.0.iov_len)
    }
}

#[repr(transparent)]
struct MessageHeader(libc::msghdr);

impl Default for MessageHeader {
    fn default() -> Self {
        // SAFETY: a msghdr of zeroes is valid: no name, no vectors, no control data.
        Self(unsafe { std::mem::zeroed() })
    }
}

impl std::fmt::Debug for MessageHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MessageHeader({} vectors)", self.0.msg_iovlen)
    }
}

impl Message {
    /// Appends bytes that `write` pushes.
    pub(crate) fn push_bytes(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        let added = self.bytes.len().saturating_sub(start);
        self.length += added;
        match self.segments.last_mut() {
            Some(Segment::Bytes { length, .. }) => *length += added,
            _ if added > 0 => self.segments.push(Segment::Bytes { start, length: added }),
            _ => {}
        }
    }

    /// Appends payload.
    pub(crate) fn push_payload(&mut self, lease: Lease) {
        debug_assert_eq!(lease.direction(), Direction::Source);
        self.length += lease.length();
        self.payload += lease.length();
        self.segments.push(Segment::Payload(lease));
    }

    /// Bytes of payload.
    pub(crate) fn payload(&self) -> usize {
        self.payload
    }

    /// Bytes that are not sent yet.
    pub(crate) fn left(&self) -> usize {
        self.length - self.done
    }

    /// So many more bytes were sent.
    pub(crate) fn advance(&mut self, sent: usize) {
        self.done = (self.done + sent).min(self.length);
    }

    /// Takes the payload out, and empties the message for another use.
    pub(crate) fn recycle(&mut self) -> impl Iterator<Item = Lease> + '_ {
        self.bytes.clear();
        self.iovecs.clear();
        self.done = 0;
        self.length = 0;
        self.payload = 0;
        self.note = 0;
        self.at_once = false;
        self.segments.drain(..).filter_map(|segment| match segment {
            Segment::Payload(lease) => Some(lease),
            Segment::Bytes { .. } => None,
        })
    }

    /// Offers what is left to the socket at once, past the ring: bytes taken, or minus the errno. What a
    /// stream takes waits for more, or for its end, to share a segment with it.
    pub(crate) fn send_now(&mut self, fd: &Descriptor) -> i32 {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_MORE;
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: the header's vectors point into `self`, and into leases that it holds, until the
        // call returns; a send only reads them.
        let sent = unsafe { libc::sendmsg(fd, self.aim(), flags) };
        let errno = || std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        i32::try_from(sent).ok().filter(|sent| *sent >= 0).unwrap_or_else(|| -errno())
    }

    /// Points the vectors at what is left. The message must be boxed and must not change until the
    /// operation is complete.
    fn aim(&mut self) -> *const libc::msghdr {
        self.iovecs.clear();
        let mut skip = self.done;
        for segment in &self.segments {
            let (pointer, length) = match segment {
                Segment::Bytes { start, length } => {
                    (self.bytes.as_ptr().wrapping_add(*start).cast_mut(), *length)
                }
                Segment::Payload(lease) => (lease.pointer(), lease.length()),
            };
            if skip >= length {
                skip -= length;
                continue;
            }
            self.iovecs.push(Iovec(libc::iovec {
                iov_base: pointer.wrapping_add(skip).cast(),
                iov_len: length - skip,
            }));
            skip = 0;
        }
        self.header.0.msg_iov = self.iovecs.as_mut_ptr().cast();
        self.header.0.msg_iovlen = self.iovecs.len();
        &raw const self.header.0
    }
}

/// What an operation owns beside its descriptor.
#[derive(Debug)]
pub(crate) enum Memory {
    /// Nothing.
    None,
    /// A range of a buffer of the pool.
    Lease(Lease),
    /// Bytes that are written.
    Bytes(Bytes),
    /// A message that is sent.
    Message(Box<Message>),
    /// The address of a connect.
    Address(#[allow(dead_code, reason = "held for the kernel")] Box<SockaddrStorage>),
    /// The counter of an eventfd.
    Counter(#[allow(dead_code, reason = "held for the kernel")] Box<u64>),
    /// An accept that is under way or failed.
    Accept,
    /// What an accept brought.
    Accepted(OwnedFd),
}

/// The number of an operation that is under way, for cancelling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OperationId(u64);

/// An operation that has ended.
#[derive(Debug)]
pub(crate) struct Completion<T> {
    /// What it was for.
    pub(crate) purpose: T,
    /// What it owned.
    pub(crate) memory: Memory,
    /// Bytes or a descriptor, or the errno, negative.
    pub(crate) result: i32,
}

struct InFlight<T> {
    purpose: T,
    memory: Memory,
    _descriptor: Option<Descriptor>,
}

struct Slot<T> {
    generation: u32,
    in_flight: Option<InFlight<T>>,
}

/// The ring, with the operations that are under way. `T` says what an operation is for.
pub(crate) struct Ring<T> {
    ring: IoUring,
    slots: Vec<Slot<T>>,
    vacant: Vec<u32>,
    backlog: VecDeque<squeue::Entry>,
    taken: VecDeque<(u64, i32)>,
    outstanding: usize,
    /// Sends at once that may not have been submitted.
    at_once: Vec<u64>,
    /// Kernel 6.1 or later: what a transfer of a whole had moved is told when it is cancelled (before, it was
    /// lost), and completions come only when they are asked for.
    exact: bool,
    enters: u64,
}

/// Creates a ring with the best flags that this kernel takes; and whether those are the ones of kernel 6.1.
pub(crate) fn create(entries: u32, completion_entries: u32) -> io::Result<(IoUring, bool)> {
    let base = || {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(completion_entries).dontfork();
        builder
    };
    let attempts: [&dyn Fn() -> io::Result<IoUring>; 3] = [
        &|| {
            let mut builder = base();
            builder.setup_submit_all().setup_single_issuer();
            builder.setup_defer_taskrun().setup_taskrun_flag();
            builder.build(entries)
        },
        &|| {
            let mut builder = base();
            builder.setup_submit_all().setup_single_issuer();
            builder.setup_coop_taskrun().setup_taskrun_flag();
            builder.build(entries)
        },
        &|| base().build(entries),
    ];
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for (at, attempt) in attempts.iter().enumerate() {
        match attempt() {
            Ok(ring) => return Ok((ring, at == 0)),
            // An older kernel does not know the flags; anything else would fail again.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

impl<T> Ring<T> {
    /// A ring for the calling thread, which alone may use it.
    ///
    /// # Errors
    /// What io_uring_setup says; [`super::probe`] explains it.
    pub(crate) fn new() -> io::Result<Self> {
        let (ring, exact) = create(ENTRIES, COMPLETION_ENTRIES)?;
        Ok(Self {
            ring,
            slots: Vec::new(),
            vacant: Vec::new(),
            backlog: VecDeque::new(),
            taken: VecDeque::new(),
            outstanding: 0,
            at_once: Vec::new(),
            exact,
            enters: 0,
        })
    }

    /// Operations that have not completed.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// As on a kernel before 6.1.
    #[cfg(test)]
    pub(crate) fn is_inexact(&mut self) {
        self.exact = false;
    }

    /// System calls that were made for submitting and waiting.
    #[cfg(test)]
    pub(crate) fn enters(&self) -> u64 {
        self.enters
    }

    /// Receives at most the lease's length; `whole`: not less either, but at the end of the stream,
    /// an error, or a cancellation (which then tells how much had come), and where the kernel is an old one.
    pub(crate) fn receive(
        &mut self,
        fd: &Descriptor,
        into: Lease,
        whole: bool,
        purpose: T,
    ) -> OperationId {
        let flags = if whole && self.exact { libc::MSG_WAITALL } else { 0 };
        let entry =
            opcode::Recv::new(raw(fd), into.pointer(), length_of(&into)).flags(flags).build();
        self.start(entry, Some(fd), Memory::Lease(into), purpose)
    }

    /// Sends what is left of the message, before everything else that is queued: while the other
    /// side is being woken, the disk is told.
    pub(crate) fn send(
        &mut self,
        fd: &Descriptor,
        mut message: Box<Message>,
        purpose: T,
    ) -> OperationId {
        let at_once = message.at_once && self.exact;
        let wait = if at_once { libc::MSG_DONTWAIT } else { 0 };
        let whole = if self.exact { libc::MSG_WAITALL } else { 0 };
        let flags = (libc::MSG_NOSIGNAL | whole | wait) as u32;
        let entry = opcode::SendMsg::new(raw(fd), message.aim()).flags(flags).build();
        let quiet = if at_once { squeue::Flags::SKIP_SUCCESS } else { squeue::Flags::empty() };
        let memory = Memory::Message(message);
        let (number, entry) = self.enlist(entry.flags(quiet), Some(fd), memory, purpose);
        if at_once {
            self.at_once.push(number);
        }
        self.backlog.push_front(entry);
        OperationId(number)
    }

    /// Reads the lease's length at `offset`.
    pub(crate) fn read(
        &mut self,
        fd: &Descriptor,
        into: Lease,
        offset: u64,
        purpose: T,
    ) -> OperationId {
        let entry =
            opcode::Read::new(raw(fd), into.pointer(), length_of(&into)).offset(offset).build();
        self.start(entry, Some(fd), Memory::Lease(into), purpose)
    }

    /// Writes a lease or bytes at `offset`, the first `skip` bytes left out; `durable`: RWF_DSYNC.
    pub(crate) fn write(
        &mut self,
        fd: &Descriptor,
        from: Memory,
        skip: usize,
        offset: u64,
        durable: bool,
        purpose: T,
    ) -> OperationId {
        let (pointer, length) = match &from {
            Memory::Lease(lease) => (lease.pointer().cast_const(), lease.length()),
            Memory::Bytes(bytes) => (bytes.as_ptr(), bytes.len()),
            _ => (std::ptr::null(), 0),
        };
        let skip = skip.min(length);
        let entry = opcode::Write::new(raw(fd), pointer.wrapping_add(skip), (length - skip) as u32)
            .offset(offset + skip as u64)
            .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
            .build();
        self.start(entry, Some(fd), from, purpose)
    }

    /// fdatasync.
    pub(crate) fn data_sync(&mut self, fd: &Descriptor, purpose: T) -> OperationId {
        let entry = opcode::Fsync::new(raw(fd)).flags(FsyncFlags::DATASYNC).build();
        self.start(entry, Some(fd), Memory::None, purpose)
    }

    /// fallocate with `FALLOC_FL_*`.
    pub(crate) fn allocate(
        &mut self,
        fd: &Descriptor,
        mode: i32,
        offset: u64,
        length: u64,
        purpose: T,
    ) -> OperationId {
        let entry = opcode::Fallocate::new(raw(fd), length).offset(offset).mode(mode).build();
        self.start(entry, Some(fd), Memory::None, purpose)
    }

    /// Accepts one connection, close-on-exec; the completion brings [`Memory::Accepted`].
    pub(crate) fn accept(&mut self, fd: &Descriptor, purpose: T) -> OperationId {
        let null = std::ptr::null_mut();
        let entry =
            opcode::Accept::new(raw(fd), null, null.cast()).flags(libc::SOCK_CLOEXEC).build();
        self.start(entry, Some(fd), Memory::Accept, purpose)
    }

    /// Connects.
    pub(crate) fn connect(&mut self, fd: &Descriptor, to: SocketAddr, purpose: T) -> OperationId {
        let address = Box::new(SockaddrStorage::from(to));
        let entry = opcode::Connect::new(raw(fd), address.as_ptr(), address.len()).build();
        self.start(entry, Some(fd), Memory::Address(address), purpose)
    }

    /// Reads an eventfd.
    pub(crate) fn read_counter(&mut self, fd: &Descriptor, purpose: T) -> OperationId {
        let mut counter = Box::new(0u64);
        let entry = opcode::Read::new(raw(fd), (&raw mut *counter).cast(), 8).build();
        self.start(entry, Some(fd), Memory::Counter(counter), purpose)
    }

    /// Asks for an operation to end early; it completes by itself, with what it had done or with
    /// ECANCELED. The request completes too, as `purpose`.
    pub(crate) fn cancel(&mut self, operation: OperationId, purpose: T) {
        let entry = opcode::AsyncCancel::new(operation.0).build();
        self.start(entry, None, Memory::None, purpose);
    }

    fn start(
        &mut self,
        entry: squeue::Entry,
        descriptor: Option<&Descriptor>,
        memory: Memory,
        purpose: T,
    ) -> OperationId {
        let (number, entry) = self.enlist(entry, descriptor, memory, purpose);
        self.backlog.push_back(entry);
        OperationId(number)
    }

    fn enlist(
        &mut self,
        entry: squeue::Entry,
        descriptor: Option<&Descriptor>,
        memory: Memory,
        purpose: T,
    ) -> (u64, squeue::Entry) {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, in_flight: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let number = u64::from(slot.generation) << 32 | u64::from(index);
        slot.in_flight = Some(InFlight { purpose, memory, _descriptor: descriptor.map(Rc::clone) });
        self.outstanding += 1;
        (number, entry.user_data(number))
    }

    /// Moves what fits from the backlog into the submission queue.
    fn fill(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: everything that the entry points at is owned by its slot until the
            // completion is taken (`start`, `Drop`), and the kernel has no other limit on it.
            if unsafe { queue.push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Submits everything and looks for a completion for `time`, without sleeping. None is taken: that
    /// is for [`Ring::submit_and_wait`], which does not sleep then.
    ///
    /// # Errors
    /// The ring does not work any more.
    pub(crate) fn poll(&mut self, time: Duration) -> io::Result<()> {
        self.fill();
        // Sends at once bring nothing, and what did not fit is for the next call.
        let nothing_else = self.outstanding == self.at_once.len();
        if nothing_else || !self.taken.is_empty() || !self.backlog.is_empty() {
            return Ok(());
        }
        if !self.ring.submission().is_empty() {
            self.enters += 1;
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let begun = Instant::now();
        // The kernel puts completions into the queue when it is asked to, and says that it could.
        while !self.ring.submission().taskrun()
            && self.ring.completion().is_empty()
            && begun.elapsed() < time
        {
            std::hint::spin_loop();
        }
        Ok(())
    }

    /// Submits everything and waits for a completion, for `wait` at most.
    ///
    /// # Errors
    /// The ring does not work any more.
    pub(crate) fn submit_and_wait(&mut self, wait: Duration) -> io::Result<()> {
        self.fill();
        while !self.backlog.is_empty() {
            self.enters += 1;
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if passing(&error) => {}
                Err(error) => return Err(error),
            }
            self.drain();
            self.fill();
        }
        let nothing_else = self.outstanding == self.at_once.len() && self.outstanding > 0;
        let wait = if self.taken.is_empty() && !nothing_else { wait } else { Duration::ZERO };
        let timeout = Timespec::from(wait);
        let arguments = SubmitArgs::new().timespec(&timeout);
        self.enters += 1;
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => {}
            Err(error) if passing(&error) => {}
            Err(error) => return Err(error),
        }
        self.end_at_once();
        Ok(())
    }

    /// Completes the sends at once that were submitted and brought no completion entry.
    fn end_at_once(&mut self) {
        if self.at_once.is_empty() || !self.ring.submission().is_empty() {
            return;
        }
        // What the queue had no room for comes in order: an entry of theirs may be behind it.
        if self.ring.submission().cq_overflow() {
            return;
        }
        self.drain();
        for number in self.at_once.drain(..) {
            let (slot, mut seen) = (&self.slots[number as u32 as usize], self.taken.iter());
            let Some(InFlight { memory: Memory::Message(message), .. }) = &slot.in_flight else {
                continue;
            };
            let under_way = slot.generation == (number >> 32) as u32;
            if under_way && !seen.any(|(other, _)| *other == number) {
                // At most a few MiB.
                self.taken.push_back((number, message.left() as i32));
            }
        }
    }

    fn drain(&mut self) {
        let queue = self.ring.completion();
        for entry in queue {
            self.taken.push_back((entry.user_data(), entry.result()));
        }
    }

    /// The next operation that has ended.
    ///
    /// # Panics
    /// If the kernel names an operation that is not under way: memory could not be trusted then.
    pub(crate) fn next_completion(&mut self) -> Option<Completion<T>> {
        if self.taken.is_empty() {
            self.drain();
        }
        let (number, result) = self.taken.pop_front()?;
        let index = number as u32;
        let slot = self.slots.get_mut(index as usize);
        let in_flight = slot
            .filter(|slot| slot.generation == (number >> 32) as u32)
            .and_then(|slot| slot.in_flight.take());
        let InFlight { purpose, memory, .. } =
            in_flight.unwrap_or_else(|| panic!("the ring completed {number:#x}, not under way"));
        self.vacant.push(index);
        self.outstanding -= 1;
        let memory = match memory {
            Memory::Accept if result >= 0 => {
                // SAFETY: a successful accept returns a new descriptor, and this completion, taken
                // once, is the only one that names it.
                Memory::Accepted(unsafe { OwnedFd::from_raw_fd(result) })
            }
            memory => memory,
        };
        Some(Completion { purpose, memory, result })
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        if self.outstanding > 0 {
            // The kernel may still write there, also after the ring's descriptor is closed.
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

impl<T> std::fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("outstanding", &self.outstanding).finish_non_exhaustive()
    }
}

/// Interrupted, timed out, or the completion queue must be drained first.
fn passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

fn raw(fd: &Descriptor) -> Fd {
    Fd(fd.as_fd().as_raw_fd())
}

fn length_of(lease: &Lease) -> u32 {
    // At most the largest buffer.
    lease.length() as u32
}

#[cfg(test)]
mod tests;
