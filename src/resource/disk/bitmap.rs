//! The quick-resync bitmap toward one peer: which blocks may differ, one bit per 4096 bytes.
//!
//! Invariants:
//! - Bits at or beyond `blocks` are never set: ranges are cut at the end.
//! - `count` and `page_counts` always equal the number of set bits, so that an empty stretch of a
//!   large disk is passed page by page and not bit by bit.
//! - A page (of [`PAGE_BITS`] bits, as on the disk) that has a bit set which its last image may
//!   lack is *unsaved*: what rests on that bit must wait until the page is durable. A page that has
//!   only lost bits since is *stale*: its image promises too much, which is safe and costs a longer
//!   resync. Nothing else is remembered of an image, so a page whose newly set bits were cleared
//!   again, or whose cleared bits were set again, counts as unsaved too: one page write too many,
//!   never one too few.
//!
//! ```text
//!  clean --set--> unsaved --take_page--> clean --clear--> stale --take_page--> clean
//!                                                            \---set--> unsaved
//! ```

use std::fmt;

use crate::meta::{BitmapPage, PAGE_BITS, PAGE_WORDS, Piece, SetBlocks};

/// Runs handed out for resync never cross a multiple of so many blocks (1 MiB).
const RUN_ALIGN_BLOCKS: u64 = 256;
/// Pages that have been used after which an empty bitmap gives its memory back: 1 MiB.
const TOUCHED_MAX: usize = 256;
/// Bits in one word.
const WORD_BITS: u64 = 64;

/// One bit per block, with the bookkeeping of what the disk knows of it.
#[derive(Clone)]
pub(crate) struct Bitmap {
    blocks: u64,
    count: u64,
    words: Vec<u64>,
    /// Set bits in each page.
    page_counts: Vec<u32>,
    /// How often a page has got its first bit, since the words are fresh.
    touched: usize,
    /// A bit per page: bits were set since the last image.
    unsaved: Vec<u64>,
    /// A bit per page: bits were set or cleared since the last image.
    changed: Vec<u64>,
    /// Bits are set that no verify has set.
    losses: bool,
}

impl fmt::Debug for Bitmap {
    /// The numbers alone: the bits of a large disk are megabytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bitmap")
            .field("blocks", &self.blocks)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Bitmap {
    /// A bitmap of `blocks` blocks, all clear and all clean (the disk says "all clear").
    pub(crate) fn new(blocks: u64) -> Self {
        let pages = index(blocks.div_ceil(PAGE_BITS));
        Self {
            blocks,
            count: 0,
            words: vec![0; index(blocks.div_ceil(WORD_BITS))],
            page_counts: vec![0; pages],
            touched: 0,
            unsaved: vec![0; pages.div_ceil(64)],
            changed: vec![0; pages.div_ceil(64)],
            losses: false,
        }
    }

    /// How many blocks it covers.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// How many bits are set.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How many pages it has on the disk.
    #[cfg(test)]
    pub(crate) fn pages(&self) -> u32 {
        page_number(self.page_counts.len())
    }

    /// Sets `count` bits from `first` on. Returns how many were clear before.
    pub(crate) fn set(&mut self, first: u64, count: u64) -> u64 {
        let newly = self.mark(first, count);
        self.losses |= self.any(first, count);
        newly
    }

    /// As [`Self::set`], for blocks that differ although nothing was lost (an online verify).
    pub(crate) fn mark(&mut self, first: u64, count: u64) -> u64 {
        let (mut at, end) = self.cut(first, count);
        let before = self.count;
        while at < end {
            let page = page_of(at);
            let stop = end.min(page_end(page));
            let newly = stop - at - self.count_in_page(page, at, stop);
            if newly > 0 {
                fill_range(&mut self.words, at, stop);
                self.gained(page, newly);
            }
            at = stop;
        }
        self.count - before
    }

    /// Clears `count` bits from `first` on. Returns how many were set before.
    pub(crate) fn clear(&mut self, first: u64, count: u64) -> u64 {
        let (mut at, end) = self.cut(first, count);
        let before = self.count;
        while at < end {
            let page = page_of(at);
            let stop = end.min(page_end(page));
            let cleared = self.count_in_page(page, at, stop);
            if cleared > 0 {
                wipe_range(&mut self.words, at, stop);
                self.lost(page, cleared);
            }
            at = stop;
        }
        self.losses &= self.count > 0;
        if self.count == 0 && self.touched >= TOUCHED_MAX {
            // What a long resync has used is given back to the system.
            (self.words, self.touched) = (vec![0; self.words.len()], 0);
        }
        before - self.count
    }

    /// Bits are set that no verify has set.
    pub(crate) fn losses(&self) -> bool {
        self.losses
    }

    /// Says of the bits that are set whether there are some that no verify has set.
    pub(crate) fn set_losses(&mut self, losses: bool) {
        self.losses = losses && self.count > 0;
    }

    /// Whether the bit of `block` is set; no bit beyond the end is.
    #[cfg(test)]
    pub(crate) fn is_set(&self, block: u64) -> bool {
        block < self.blocks
            && self.words[index(block / WORD_BITS)] & (1 << (block % WORD_BITS)) != 0
    }

    /// Whether any of `count` bits from `first` on is set.
    pub(crate) fn any(&self, first: u64, count: u64) -> bool {
        let (first, end) = self.cut(first, count);
        self.next_set_before(first, end).is_some()
    }

    /// How many of `count` bits from `first` on are set.
    #[cfg(test)]
    pub(crate) fn count_in(&self, first: u64, count: u64) -> u64 {
        let (mut at, end) = self.cut(first, count);
        let mut total = 0;
        while at < end {
            let page = page_of(at);
            let stop = end.min(page_end(page));
            total += self.count_in_page(page, at, stop);
            at = stop;
        }
        total
    }

    /// The first set bit at or after `from`.
    pub(crate) fn next_set(&self, from: u64) -> Option<u64> {
        self.next_set_before(from, self.blocks)
    }

    /// The first run of set bits at or after `from` as (first, count): cut at `max` bits (at least
    /// 1), never crossing a multiple of 256 blocks. What is cut off is the next call's.
    pub(crate) fn next_run(&self, from: u64, max: u64) -> Option<(u64, u64)> {
        assert!(max > 0, "a run has at least one block");
        let first = self.next_set(from)?;
        let border = (first / RUN_ALIGN_BLOCKS + 1).saturating_mul(RUN_ALIGN_BLOCKS);
        let limit = border.min(first.saturating_add(max)).min(self.blocks);
        Some((first, self.next_clear_before(first, limit) - first))
    }

    /// [`Bitmap::next_run`] across those multiples.
    pub(crate) fn next_long_run(&self, from: u64, max: u64) -> Option<(u64, u64)> {
        let first = self.next_set(from)?;
        let limit = first.saturating_add(max.max(1)).min(self.blocks);
        Some((first, self.next_clear_before(first, limit) - first))
    }

    /// Every maximal run of set bits as (first, count), ascending.
    #[cfg(test)]
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let first = self.next_set(from)?;
            from = self.next_clear_before(first, self.blocks);
            Some((first, from - first))
        })
    }

    /// Sets these blocks, beside what is set already.
    pub(crate) fn set_blocks(&mut self, set: &SetBlocks) {
        for piece in set.pieces() {
            match piece {
                Piece::Run(first, count) => self.mark(*first, *count),
                Piece::Page(page, words) => self.unite_words(page * PAGE_BITS, words),
            };
        }
        self.losses |= set.runs().next().is_some_and(|(first, _)| first < self.blocks);
    }

    /// Sets every bit.
    pub(crate) fn set_all(&mut self) {
        self.set(0, self.blocks);
    }

    /// Clears every bit.
    pub(crate) fn clear_all(&mut self) {
        self.clear(0, self.blocks);
    }

    /// `n` words of bits from `first_block` on, a multiple of 64; bit 0 of the first word is
    /// `first_block`. Words beyond the end are 0.
    pub(crate) fn words(&self, first_block: u64, n: usize) -> Vec<u64> {
        let start = word_of(first_block).min(self.words.len());
        let end = start.saturating_add(n).min(self.words.len());
        let mut words = Vec::with_capacity(n);
        words.extend_from_slice(&self.words[start..end]);
        words.resize(n, 0);
        words
    }

    /// Sets every bit that is set in `words`, laid out as by [`Self::words`]; bits beyond the end
    /// are ignored. Returns how many were clear before.
    pub(crate) fn unite_words(&mut self, first_block: u64, words: &[u64]) -> u64 {
        let before = self.count;
        let start = word_of(first_block);
        for (at, &theirs) in (start..self.words.len()).zip(words) {
            let newly = theirs & self.valid_bits(at) & !self.words[at];
            if newly != 0 {
                self.words[at] |= newly;
                self.gained(at / PAGE_WORDS, u64::from(newly.count_ones()));
            }
        }
        self.count - before
    }

    /// Makes it cover `blocks` blocks. Blocks that appear are clear, and their pages stale: there
    /// is no image of them. Bits of blocks that vanish are gone; their page, if it stays, is stale.
    pub(crate) fn resize(&mut self, blocks: u64) {
        if blocks < self.blocks {
            self.clear(blocks, self.blocks - blocks);
        }
        let (old, pages) = (self.page_counts.len(), index(blocks.div_ceil(PAGE_BITS)));
        self.blocks = blocks;
        self.words.resize(index(blocks.div_ceil(WORD_BITS)), 0);
        self.page_counts.resize(pages, 0);
        for marks in [&mut self.unsaved, &mut self.changed] {
            marks.resize(pages.div_ceil(64), 0);
            // The marks of pages that vanished share a word with pages that stay.
            if pages % 64 != 0
                && let Some(last) = marks.last_mut()
            {
                *last &= !0 >> (64 - pages % 64);
            }
        }
        for page in old..pages {
            mark(&mut self.changed, page);
        }
    }

    /// Pages with blocks of this range that are unsaved, ascending.
    pub(crate) fn unsaved_pages_in(&self, first: u64, count: u64) -> Vec<u32> {
        let (first, end) = self.cut(first, count);
        if first == end {
            return Vec::new();
        }
        marked(&self.unsaved, page_of(first), page_of(end - 1) + 1)
    }

    /// Pages that are unsaved, ascending.
    pub(crate) fn unsaved_pages(&self) -> Vec<u32> {
        marked(&self.unsaved, 0, self.page_counts.len())
    }

    /// Pages whose image on the disk differs or may differ, ascending.
    pub(crate) fn stale_or_unsaved_pages(&self) -> Vec<u32> {
        marked(&self.changed, 0, self.page_counts.len())
    }

    /// The image of a page, to be written. The page counts as clean from here on: the caller waits
    /// for its durability, and marks all unsaved if the write fails.
    pub(crate) fn take_page(&mut self, page: u32) -> BitmapPage {
        let at = page as usize;
        assert!(at < self.page_counts.len(), "page {page} of {}", self.page_counts.len());
        self.unsaved[at / 64] &= !(1 << (at % 64));
        self.changed[at / 64] &= !(1 << (at % 64));
        let first_block = u64::from(page) * PAGE_BITS;
        BitmapPage { index: page, words: self.words(first_block, PAGE_WORDS) }
    }

    /// The disk holds exactly this, by its pages or by its "all clear" or "all set".
    pub(crate) fn mark_all_saved(&mut self) {
        self.unsaved.fill(0);
        self.changed.fill(0);
    }

    /// Nothing is known of the images on the disk: every page must be written.
    #[cfg(test)]
    pub(crate) fn mark_all_unsaved(&mut self) {
        for page in 0..self.page_counts.len() {
            mark(&mut self.unsaved, page);
            mark(&mut self.changed, page);
        }
    }

    /// The range as (first, end), cut at the end.
    fn cut(&self, first: u64, count: u64) -> (u64, u64) {
        let first = first.min(self.blocks);
        (first, first.saturating_add(count).min(self.blocks))
    }

    /// The bits of a word that belong to blocks.
    fn valid_bits(&self, word: usize) -> u64 {
        let left = self.blocks - word as u64 * WORD_BITS;
        if left >= WORD_BITS { !0 } else { !(!0 << left) }
    }

    /// Set bits of `at..stop`, a non-empty part of `page`: without a look at them where the page is
    /// empty, full, or asked for as a whole.
    fn count_in_page(&self, page: usize, at: u64, stop: u64) -> u64 {
        match u64::from(self.page_counts[page]) {
            0 => 0,
            PAGE_BITS => stop - at,
            count if stop - at == PAGE_BITS => count,
            _ => count_range(&self.words, at, stop),
        }
    }

    fn gained(&mut self, page: usize, bits: u64) {
        self.count += bits;
        self.touched += usize::from(self.page_counts[page] == 0);
        self.page_counts[page] += page_bits(bits);
        mark(&mut self.unsaved, page);
        mark(&mut self.changed, page);
    }

    fn lost(&mut self, page: usize, bits: u64) {
        self.count -= bits;
        self.page_counts[page] -= page_bits(bits);
        mark(&mut self.changed, page);
    }

    /// The first set bit in `from..end`.
    fn next_set_before(&self, from: u64, end: u64) -> Option<u64> {
        let mut at = from;
        while at < end {
            let page = page_of(at);
            let stop = end.min(page_end(page));
            if self.page_counts[page] > 0
                && let Some(found) = first_one(&self.words, at, stop, 0)
            {
                return Some(found);
            }
            at = stop;
        }
        None
    }

    /// The first clear bit in `from..end`, or `end`.
    fn next_clear_before(&self, from: u64, end: u64) -> u64 {
        let mut at = from;
        while at < end {
            let page = page_of(at);
            let stop = end.min(page_end(page));
            if u64::from(self.page_counts[page]) < PAGE_BITS
                && let Some(found) = first_one(&self.words, at, stop, !0)
            {
                return found;
            }
            at = stop;
        }
        end
    }
}

/// A number of words or pages as an index. Tandem runs on 64-bit machines only.
fn index(n: u64) -> usize {
    usize::try_from(n).expect("a 64-bit machine")
}

fn page_of(block: u64) -> usize {
    index(block / PAGE_BITS)
}

/// The first block after a page.
fn page_end(page: usize) -> u64 {
    (page as u64 + 1) * PAGE_BITS
}

/// 2^32 pages would be a disk of 508 PiB, and a bitmap of 16 TiB that no memory holds.
fn page_number(page: usize) -> u32 {
    u32::try_from(page).expect("a bitmap in memory has less than 2^32 pages")
}

fn page_bits(bits: u64) -> u32 {
    u32::try_from(bits).expect("a page has 32512 bits")
}

fn word_of(first_block: u64) -> usize {
    assert!(first_block.is_multiple_of(WORD_BITS), "block {first_block} does not start a word");
    index(first_block / WORD_BITS)
}

fn mark(marks: &mut [u64], page: usize) {
    marks[page / 64] |= 1 << (page % 64);
}

/// The marked pages of `from..end`.
fn marked(marks: &[u64], from: usize, end: usize) -> Vec<u32> {
    let mut pages = Vec::new();
    let (mut at, end) = (from as u64, end as u64);
    while let Some(page) = first_one(marks, at, end, 0) {
        pages.push(page_number(index(page)));
        at = page + 1;
    }
    pages
}

/// The words of the non-empty range `first..end`: index of the first and of the last, and which
/// bits of these two belong to it.
fn span(first: u64, end: u64) -> (usize, usize, u64, u64) {
    let last = end - 1;
    let head = !0 << (first % WORD_BITS);
    let tail = !0 >> (WORD_BITS - 1 - last % WORD_BITS);
    (index(first / WORD_BITS), index(last / WORD_BITS), head, tail)
}

/// Set bits in the non-empty range `first..end`.
fn count_range(words: &[u64], first: u64, end: u64) -> u64 {
    let (from, to, head, tail) = span(first, end);
    if from == to {
        return u64::from((words[from] & head & tail).count_ones());
    }
    let inner: u64 = words[from + 1..to].iter().map(|word| u64::from(word.count_ones())).sum();
    inner
        + u64::from((words[from] & head).count_ones())
        + u64::from((words[to] & tail).count_ones())
}

/// Sets the non-empty range `first..end`.
fn fill_range(words: &mut [u64], first: u64, end: u64) {
    let (from, to, head, tail) = span(first, end);
    if from == to {
        words[from] |= head & tail;
        return;
    }
    words[from] |= head;
    words[from + 1..to].fill(!0);
    words[to] |= tail;
}

/// Clears the non-empty range `first..end`.
fn wipe_range(words: &mut [u64], first: u64, end: u64) {
    let (from, to, head, tail) = span(first, end);
    if from == to {
        words[from] &= !(head & tail);
        return;
    }
    words[from] &= !head;
    words[from + 1..to].fill(0);
    words[to] &= !tail;
}

/// The first bit of `first..end` that is set after each word was XORed with `flip`: 0 looks for a
/// set bit, all ones for a clear one.
fn first_one(words: &[u64], first: u64, end: u64, flip: u64) -> Option<u64> {
    if first >= end {
        return None;
    }
    let (from, to, head, _) = span(first, end);
    let mut mask = head;
    for (at, word) in (from..=to).zip(&words[from..=to]) {
        let bits = (word ^ flip) & mask;
        if bits != 0 {
            let found = at as u64 * WORD_BITS + u64::from(bits.trailing_zeros());
            return (found < end).then_some(found);
        }
        mask = !0;
    }
    None
}

#[cfg(test)]
#[path = "bitmap/tests.rs"] // Named, for benches/micro.rs takes this file in.
mod tests;
