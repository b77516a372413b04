//! The set bits of a bitmap as they are read from a disk or a dump: small where there are few of them or
//! where they lie together, and hardly larger than the bitmap itself anywhere.
//!
//! Invariants:
//! - Runs ascend, and two that touch are one. A page with more than [`RUNS_MAX`] runs stands as its words.
//! - There is one form for one set: equal sets are equal.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{PAGE_BITS, PAGE_WORDS};

/// Runs of a page that take no more room than its words do.
const RUNS_MAX: usize = PAGE_WORDS * size_of::<u64>() / size_of::<Piece>();

/// Blocks whose bits are set, ascending.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetBlocks {
    pieces: Vec<Piece>,
    /// Runs of the page that is not complete yet, none of them crossing its end.
    open: Vec<(u64, u64)>,
}

/// A part of the set; no two have a block in common.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Piece {
    /// First block and count.
    Run(u64, u64),
    /// The bits of one page, from its number on; bit 0 of word 0 is its first block.
    Page(u64, Box<[u64]>),
}

impl SetBlocks {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One run; `count` 0: none.
    #[must_use]
    pub fn run(first: u64, count: u64) -> Self {
        let pieces = if count == 0 { Vec::new() } else { vec![Piece::Run(first, count)] };
        Self { pieces, open: Vec::new() }
    }

    /// Puts `count` blocks from `first` on behind what is there. Blocks must ascend; the sum must fit.
    pub(super) fn push(&mut self, mut first: u64, mut count: u64) {
        debug_assert!(count == 0 || first >= self.end(), "{first} is behind what is there");
        while count > 0 {
            let page = first / PAGE_BITS;
            if self.open.first().is_some_and(|(open, _)| open / PAGE_BITS != page) {
                self.close();
            }
            let length = count.min((page + 1) * PAGE_BITS - first);
            match self.open.last_mut() {
                Some((start, before)) if *start + *before == first => *before += length,
                _ => self.open.push((first, length)),
            }
            (first, count) = (first + length, count - length);
        }
    }

    /// Puts the bits of words behind what is there, up to the block `end`; bit 0 of word 0 is `base`.
    pub(super) fn push_words(&mut self, base: u64, words: &[u64], end: u64) {
        let page = base / PAGE_BITS;
        let whole =
            words.len() == PAGE_WORDS && page * PAGE_BITS == base && base + PAGE_BITS <= end;
        if whole && count_runs(words) > RUNS_MAX {
            self.close();
            self.pieces.push(Piece::Page(page, words.into()));
            return;
        }
        for (first, count) in runs_of(base, words) {
            self.push(first, count.min(end.saturating_sub(first)));
        }
    }

    /// Behind the last block.
    fn end(&self) -> u64 {
        let piece = |piece: &Piece| match piece {
            Piece::Run(first, count) => first + count,
            Piece::Page(page, _) => (page + 1) * PAGE_BITS,
        };
        let open = self.open.last().map(|(first, count)| first + count);
        open.or_else(|| self.pieces.last().map(piece)).unwrap_or(0)
    }

    /// The page is complete.
    fn close(&mut self) {
        if self.open.len() > RUNS_MAX {
            let page = self.open[0].0 / PAGE_BITS;
            let words = words_of(page, &self.open);
            self.pieces.push(Piece::Page(page, words));
            self.open.clear();
            return;
        }
        for (first, count) in self.open.drain(..) {
            match self.pieces.last_mut() {
                Some(Piece::Run(start, before)) if *start + *before == first => *before += count,
                _ => self.pieces.push(Piece::Run(first, count)),
            }
        }
    }

    /// Nothing comes behind it any more.
    pub(super) fn closed(mut self) -> Self {
        self.close();
        self.open.shrink_to_fit();
        self.pieces.shrink_to_fit();
        self
    }

    /// The parts of the set.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        debug_assert!(self.open.is_empty(), "it is closed");
        self.pieces.iter()
    }

    /// Every run as (first, count), ascending; no two touch.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let all = self.pieces().flat_map(|piece| -> Box<dyn Iterator<Item = (u64, u64)> + '_> {
            match piece {
                Piece::Run(first, count) => Box::new(std::iter::once((*first, *count))),
                Piece::Page(page, words) => Box::new(runs_of(page * PAGE_BITS, words)),
            }
        });
        let mut all = all.peekable();
        std::iter::from_fn(move || {
            let (first, mut count) = all.next()?;
            while let Some((_, more)) = all.next_if(|(next, _)| *next == first + count) {
                count += more;
            }
            Some((first, count))
        })
    }

    /// No block is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.open.is_empty()
    }

    /// The words of one page, by its number.
    pub(super) fn page(&self, page: u64) -> Box<[u64]> {
        let (from, end) = (page * PAGE_BITS, (page + 1) * PAGE_BITS);
        let behind = |piece: &Piece| match piece {
            Piece::Run(first, count) => first + count <= from,
            Piece::Page(number, _) => *number < page,
        };
        debug_assert!(self.open.is_empty(), "it is closed");
        let mut runs = Vec::new();
        for piece in &self.pieces[self.pieces.partition_point(behind)..] {
            match piece {
                Piece::Page(number, words) if *number == page => return words.clone(),
                Piece::Run(first, count) if *first < end => {
                    let (first, last) = (*first.max(&from), (first + count).min(end));
                    runs.push((first, last - first));
                }
                _ => break,
            }
        }
        words_of(page, &runs)
    }
}

/// Ascending runs.
impl FromIterator<(u64, u64)> for SetBlocks {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(runs: I) -> Self {
        let mut set = Self::new();
        runs.into_iter().for_each(|(first, count)| set.push(first, count));
        set.closed()
    }
}

impl fmt::Debug for SetBlocks {
    /// The runs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs()).finish()
    }
}

/// The words of a page with these runs, all within it.
fn words_of(page: u64, runs: &[(u64, u64)]) -> Box<[u64]> {
    let mut words = vec![0; PAGE_WORDS].into_boxed_slice();
    for (first, count) in runs {
        fill(&mut words, first - page * PAGE_BITS, *count);
    }
    words
}

/// Sets `count` bits from `at` on, all within the words.
pub(super) fn fill(words: &mut [u64], mut at: u64, count: u64) {
    let end = at + count;
    while at < end {
        let length = (end - at).min(64 - at % 64);
        let word = usize::try_from(at / 64).expect("an index");
        words[word] |= (!0 >> (64 - length)) << (at % 64);
        at += length;
    }
}

/// How many runs of set bits there are.
fn count_runs(words: &[u64]) -> usize {
    let mut before = 0;
    let begun = words.iter().map(|word| {
        let begun = word & !(word << 1 | before);
        before = word >> 63;
        begun.count_ones() as usize
    });
    begun.sum()
}

/// Runs of set bits, cut at the ends of words.
fn runs_of(base: u64, words: &[u64]) -> impl Iterator<Item = (u64, u64)> + '_ {
    words.iter().zip((base..).step_by(64)).flat_map(|(word, first)| {
        let (mut rest, mut at) = (*word, 0);
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            at += rest.trailing_zeros();
            rest >>= rest.trailing_zeros();
            let length = rest.trailing_ones();
            let run = (first + u64::from(at), u64::from(length));
            rest = rest.checked_shr(length).unwrap_or(0);
            at += length;
            Some(run)
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every second block of `pages` pages.
    fn scattered(pages: u64) -> SetBlocks {
        (0..pages * PAGE_BITS).step_by(2).map(|first| (first, 1)).collect()
    }

    /// 1 TiB whose every second block has its bit set: with runs of 16 bytes it would take 2 GiB.
    #[test]
    fn a_fragmented_bitmap_takes_the_room_of_its_words() {
        let set = scattered(3);
        assert!(set.pieces().all(|piece| matches!(piece, Piece::Page(..))));
        assert_eq!((set.pieces().count(), set.runs().count() as u64), (3, 3 * PAGE_BITS / 2));
        assert_eq!(&*set.page(1), [0x5555_5555_5555_5555; PAGE_WORDS]);
        assert!(set.page(3).iter().all(|word| *word == 0));
        // A large disk that is all set is one run, and costs nothing.
        let all = SetBlocks::run(0, 1 << 32);
        assert_eq!((all.pieces().count(), all.runs().collect::<Vec<_>>()), (1, vec![(0, 1 << 32)]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_set_is_what_was_put_into_it_in_whatever_pieces(
            ranges in proptest::collection::vec((0..3 * PAGE_BITS, 1..PAGE_BITS), 0..5),
            dense in proptest::collection::vec(any::<u64>(), PAGE_WORDS),
            at in 0u64..4, cut in 1u64..700,
        ) {
            let mut model = vec![0u64; 4 * PAGE_WORDS];
            let mut mark = |block: u64| model[block as usize / 64] |= 1 << (block % 64);
            ranges.iter().for_each(|(first, count)| (*first..first + count).for_each(&mut mark));
            let start = at as usize * PAGE_WORDS;
            model[start..start + PAGE_WORDS].iter_mut().zip(&dense).for_each(|(a, b)| *a ^= *b);
            let is_set = |block: u64| model[block as usize / 64] >> (block % 64) & 1 == 1;
            let mut runs: Vec<(u64, u64)> = Vec::new();
            for block in (0..4 * PAGE_BITS).filter(|block| is_set(*block)) {
                match runs.last_mut() {
                    Some((first, count)) if *first + *count == block => *count += 1,
                    _ => runs.push((block, 1)),
                }
            }
            let set: SetBlocks = runs.iter().copied().collect();
            prop_assert_eq!(set.runs().collect::<Vec<_>>(), runs.clone());
            prop_assert_eq!(set.is_empty(), runs.is_empty());
            for (page, words) in (0..).zip(model.chunks(PAGE_WORDS)) {
                prop_assert_eq!(&*set.page(page), words);
            }
            // In other pieces: the same, and equal.
            let mut words = SetBlocks::new();
            words.push_words(0, &model, 4 * PAGE_BITS);
            prop_assert_eq!(&words.closed(), &set);
            let pieces = runs.iter().flat_map(|(first, count)| {
                (0..*count).step_by(cut as usize).map(move |at| (first + at, cut.min(count - at)))
            });
            prop_assert_eq!(&pieces.collect::<SetBlocks>(), &set);
            // Cut off at an end.
            let end = at * PAGE_BITS + cut;
            let mut cut_off = SetBlocks::new();
            cut_off.push_words(0, &model, end);
            let kept = runs.iter().filter(|(first, _)| *first < end);
            let kept: SetBlocks = kept.map(|(first, n)| (*first, (*n).min(end - first))).collect();
            prop_assert_eq!(cut_off.closed(), kept);
        }
    }
}
