//! The buffer pool of one resource: 4096-aligned memory behind [`Payload`] handles.
//!
//! Invariants:
//! - A buffer has two counts: one *hold* (of the shell while it fills it, then of the core until
//!   `Release`), and *uses* (operations of the kernel that read or write it, queued ones included).
//!   It is free only when both are gone; so an ack that overtakes a send never frees what is sent.
//! - Every use of a buffer has its own generation; a handle of an earlier use is refused.
//! - Memory that the kernel may touch is owned by the [`Lease`] that the operation owns, so even a
//!   mistake in the counts can free nothing that is in use.
//! - Bytes are lent to the program only while the kernel does not write them.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::rc::Rc;

use crate::resource::Payload;

/// Alignment of every buffer, and the smallest class.
pub(crate) const PAGE: usize = 4096;
/// Classes are 4096 << 0 to 4096 << (CLASSES - 1): 4 KiB to 1 MiB.
const CLASSES: usize = 9;
/// The largest buffer, bytes.
pub(crate) const BUFFER_MAX: usize = PAGE << (CLASSES - 1);

/// On whose account a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A client's write.
    Client,
    /// A payload that a peer sends.
    Peer,
    /// A read from the disk that the core asked for.
    Read,
    /// The shell's own: staging, metadata, zeroes.
    Shell,
}
const PARTS: usize = 4;

/// A handle that cannot be served: a defect of whoever holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PoolError {
    /// The slot does not exist, or the handle is of an earlier use, or it was released already.
    #[error("buffer {slot} of generation {generation} is not held")]
    Stale {
        /// The slot of the handle.
        slot: u32,
        /// The generation of the handle.
        generation: u32,
    },
    /// The range of the handle reaches outside its buffer.
    #[error("buffer {slot} does not reach from {offset} over {length} bytes")]
    Range {
        /// The slot of the handle.
        slot: u32,
        /// The offset of the handle.
        offset: u32,
        /// The length of the handle.
        length: u32,
    },
    /// The kernel writes there, or reads what was to be changed.
    #[error("buffer {0} is in use by the kernel")]
    InUse(u32),
}

/// Whether the kernel reads or writes the memory of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The kernel reads: a disk write, a send.
    Source,
    /// The kernel writes: a disk read, a receive.
    Sink,
}

/// A huge page of the processor: the largest buffers come out of such ones, so that the kernel has
/// few pieces to look up, and a disk few to be told, for each of them.
const HUGE_PAGE: usize = 2 << 20;

/// Memory of the system, aligned and initialised once.
#[derive(Debug)]
struct Chunk {
    pointer: NonNull<u8>,
    size: usize,
}

impl Chunk {
    /// A huge page, or less with the alignment of a page.
    fn layout(size: usize) -> Layout {
        let align = if size == HUGE_PAGE { HUGE_PAGE } else { PAGE };
        Layout::from_size_align(size, align).expect("a class size and a page are a layout")
    }

    fn new(size: usize) -> Self {
        let layout = Self::layout(size);
        // SAFETY: every class is larger than 0 bytes.
        let pointer =
            unsafe { if size == HUGE_PAGE { alloc(layout) } else { alloc_zeroed(layout) } };
        let Some(pointer) = NonNull::new(pointer) else { handle_alloc_error(layout) };
        if size == HUGE_PAGE {
            // SAFETY: exactly the memory that was just allocated; the advice changes no content.
            // A kernel without huge pages refuses it, and nothing is lost.
            unsafe { libc::madvise(pointer.as_ptr().cast(), size, libc::MADV_HUGEPAGE) };
            // SAFETY: as long as the allocation. After the advice, so that it is one page.
            unsafe { pointer.as_ptr().write_bytes(0, size) };
        }
        Self { pointer, size }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the layout of the same size; the last owner is gone.
        unsafe { dealloc(self.pointer.as_ptr(), Self::layout(self.size)) }
    }
}

/// The memory of one buffer: a part of a chunk that no other region has.
#[derive(Debug)]
struct Region {
    /// Keeps the memory.
    _chunk: Rc<Chunk>,
    pointer: NonNull<u8>,
    size: usize,
}

impl Region {
    /// One region of this size, or all of a huge page.
    fn new(size: usize) -> impl Iterator<Item = Rc<Self>> {
        let huge = size == BUFFER_MAX;
        let chunk = Rc::new(Chunk::new(if huge { HUGE_PAGE } else { size }));
        (0..chunk.size / size).map(move |number| {
            let chunk = Rc::clone(&chunk);
            // SAFETY: the part lies inside the chunk, as there are `chunk.size / size` of them.
            let pointer = unsafe { chunk.pointer.add(number * size) };
            Rc::new(Self { _chunk: chunk, pointer, size })
        })
    }
}

/// One use of a range of a buffer by the kernel. It owns the memory: the operation keeps it until
/// its completion, then it goes back with [`Pool::end`].
#[derive(Debug)]
pub(crate) struct Lease {
    region: Rc<Region>,
    slot: u32,
    generation: u32,
    offset: usize,
    length: usize,
    direction: Direction,
}

impl Lease {
    /// Where the range starts; valid for [`Lease::length`] bytes while the lease lives.
    pub(crate) fn pointer(&self) -> *mut u8 {
        debug_assert!(self.offset + self.length <= self.region.size);
        self.region.pointer.as_ptr().wrapping_add(self.offset)
    }

    /// Bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Whether the kernel may write there.
    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }
}

#[derive(Debug)]
struct Slot {
    region: Option<Rc<Region>>,
    generation: u32,
    held: bool,
    sources: u32,
    sinks: u32,
    part: Part,
}

/// The pool.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    idle: [Vec<Rc<Region>>; CLASSES],
    /// The fewest idle buffers of a class since the last trim: nobody needed those.
    low: [usize; CLASSES],
    charged: [u64; PARTS],
    memory: u64,
}

fn class_of(length: usize) -> usize {
    let pages = length.max(1).div_ceil(PAGE).next_power_of_two();
    (pages.trailing_zeros() as usize).min(CLASSES - 1)
}

/// The size of the buffer that [`Pool::take`] gives for `length` bytes.
pub(crate) fn class_size(length: usize) -> usize {
    PAGE << class_of(length)
}

impl Pool {
    /// A buffer of at least `length` bytes (at most [`BUFFER_MAX`]), held by the caller. The handle
    /// is the range of exactly `length` bytes from the start.
    ///
    /// # Panics
    /// If `length` is above [`BUFFER_MAX`]: every caller has checked its length before.
    pub(crate) fn take(&mut self, part: Part, length: usize) -> Payload {
        assert!(length <= BUFFER_MAX, "a buffer of {length} bytes");
        let class = class_of(length);
        if self.idle[class].is_empty() {
            self.idle[class].extend(Region::new(PAGE << class));
            self.memory += (self.idle[class].len() * (PAGE << class)) as u64;
        }
        let region = self.idle[class].pop().expect("just filled");
        self.low[class] = self.low[class].min(self.idle[class].len());
        self.charged[part as usize] += (PAGE << class) as u64;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                region: None,
                generation: 0,
                held: false,
                sources: 0,
                sinks: 0,
                part,
            });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.region = Some(region);
        entry.generation = entry.generation.wrapping_add(1);
        entry.held = true;
        entry.part = part;
        Payload { slot, generation: entry.generation, offset: 0, length: length as u32 }
    }

    /// Ends the hold: exactly once for each [`Pool::take`]. The buffer is free when no use is left.
    ///
    /// # Errors
    /// The handle is not held (a double release).
    pub(crate) fn release(&mut self, payload: Payload) -> Result<(), PoolError> {
        let slot = self.live(payload)?;
        if !slot.held {
            return Err(stale(payload));
        }
        slot.held = false;
        self.free_if_unused(payload.slot);
        Ok(())
    }

    /// Begins a use of the handle's range by the kernel.
    ///
    /// # Errors
    /// The handle is stale or reaches outside; or the kernel uses it the other way round.
    pub(crate) fn lease(
        &mut self,
        payload: Payload,
        direction: Direction,
    ) -> Result<Lease, PoolError> {
        let slot = self.live(payload)?;
        let region = Rc::clone(slot.region.as_ref().ok_or(stale(payload))?);
        check_range(payload, region.size)?;
        match direction {
            Direction::Source if slot.sinks > 0 => return Err(PoolError::InUse(payload.slot)),
            Direction::Source => slot.sources += 1,
            Direction::Sink if slot.sinks + slot.sources > 0 => {
                return Err(PoolError::InUse(payload.slot));
            }
            Direction::Sink => slot.sinks += 1,
        }
        Ok(Lease {
            region,
            slot: payload.slot,
            generation: payload.generation,
            offset: payload.offset as usize,
            length: payload.length as usize,
            direction,
        })
    }

    /// Ends a use: the kernel is done with it, or never saw it.
    pub(crate) fn end(&mut self, lease: Lease) {
        let Lease { region, slot, generation, direction, .. } = lease;
        drop(region);
        let entry = &mut self.slots[slot as usize];
        debug_assert_eq!(entry.generation, generation, "a buffer was freed under a lease");
        match direction {
            Direction::Source => entry.sources -= 1,
            Direction::Sink => entry.sinks -= 1,
        }
        self.free_if_unused(slot);
    }

    /// The bytes of a handle, for reading.
    ///
    /// # Errors
    /// The handle is stale or reaches outside, or the kernel writes there.
    pub(crate) fn bytes(&self, payload: Payload) -> Result<&[u8], PoolError> {
        let slot = self.slots.get(payload.slot as usize).ok_or(stale(payload))?;
        if slot.generation != payload.generation {
            return Err(stale(payload));
        }
        if slot.sinks > 0 {
            return Err(PoolError::InUse(payload.slot));
        }
        let region = slot.region.as_ref().ok_or(stale(payload))?;
        check_range(payload, region.size)?;
        // SAFETY: the range lies in the region, which is initialised and lives while the slot has
        // it; no operation of the kernel writes there (no sink), and the program writes only
        // through `bytes_mut`, which borrows the pool mutably.
        Ok(unsafe {
            std::slice::from_raw_parts(
                region.pointer.as_ptr().add(payload.offset as usize),
                payload.length as usize,
            )
        })
    }

    /// The bytes of a handle, for writing.
    ///
    /// # Errors
    /// As [`Pool::bytes`], and also while the kernel reads them.
    pub(crate) fn bytes_mut(&mut self, payload: Payload) -> Result<&mut [u8], PoolError> {
        let slot = self.live(payload)?;
        if slot.sinks + slot.sources > 0 {
            return Err(PoolError::InUse(payload.slot));
        }
        let region = slot.region.as_ref().ok_or(stale(payload))?;
        check_range(payload, region.size)?;
        let start = region.pointer.as_ptr().wrapping_add(payload.offset as usize);
        // SAFETY: as in `bytes`; nobody in the kernel uses the buffer at all, and the pool is
        // borrowed mutably for as long as the slice lives.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, payload.length as usize) })
    }

    /// Copies `from`'s bytes to the start of `into`'s range: both in the pool, different buffers.
    ///
    /// # Errors
    /// As [`Pool::bytes`] and [`Pool::bytes_mut`]; `Range` if the lengths differ or the buffers
    /// are the same.
    pub(crate) fn copy(&mut self, from: Payload, into: Payload) -> Result<(), PoolError> {
        if from.slot == into.slot || from.length != into.length {
            let Payload { slot, offset, length, .. } = into;
            return Err(PoolError::Range { slot, offset, length });
        }
        let source = self.bytes(from)?.as_ptr();
        let target = self.bytes_mut(into)?;
        // SAFETY: `source` was checked to be readable for `from.length` bytes, which is the length
        // of `target`; the buffers differ, so they do not overlap, and nothing was freed between.
        unsafe { std::ptr::copy_nonoverlapping(source, target.as_mut_ptr(), target.len()) };
        Ok(())
    }

    /// Bytes of the buffers on this account that are not free yet.
    pub(crate) fn charged(&self, part: Part) -> u64 {
        self.charged[part as usize]
    }

    /// Buffers that are not free: 0 when nothing is under way and nothing leaked.
    pub(crate) fn live_buffers(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    /// Bytes of memory, idle buffers included.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    /// Returns the idle buffers that nobody has needed since the last trim.
    pub(crate) fn trim(&mut self) {
        for class in 0..CLASSES {
            let idle = &mut self.idle[class];
            let spare = self.low[class].min(idle.len());
            // The front is the coldest end: buffers are taken from the back.
            idle.drain(..spare);
            self.memory -= (spare * (PAGE << class)) as u64;
            self.low[class] = idle.len();
        }
    }

    fn live(&mut self, payload: Payload) -> Result<&mut Slot, PoolError> {
        match self.slots.get_mut(payload.slot as usize) {
            Some(slot) if slot.generation == payload.generation && slot.region.is_some() => {
                Ok(slot)
            }
            _ => Err(stale(payload)),
        }
    }

    fn free_if_unused(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.held || slot.sources + slot.sinks > 0 {
            return;
        }
        let Some(region) = slot.region.take() else { return };
        self.charged[slot.part as usize] -= region.size as u64;
        self.vacant.push(index);
        self.idle[class_of(region.size)].push(region);
    }
}

fn stale(payload: Payload) -> PoolError {
    PoolError::Stale { slot: payload.slot, generation: payload.generation }
}

fn check_range(payload: Payload, size: usize) -> Result<(), PoolError> {
    let Payload { slot, offset, length, .. } = payload;
    match offset.checked_add(length) {
        Some(end) if end as usize <= size => Ok(()),
        _ => Err(PoolError::Range { slot, offset, length }),
    }
}

/// A part of a handle's range: `length` bytes from `start` bytes behind its own start.
pub(crate) fn part_of(payload: Payload, start: usize, length: usize) -> Payload {
    Payload { offset: payload.offset + start as u32, length: length as u32, ..payload }
}

#[cfg(test)]
mod tests;
