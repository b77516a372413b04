//! The bitmap against a naive model.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// A bit a bool, and the last image of every page.
struct Model {
    bits: Vec<bool>,
    images: Vec<Vec<bool>>,
}

impl Model {
    fn new(blocks: u64) -> Self {
        let bits = vec![false; index(blocks)];
        let images = Self::cut_pages(&bits);
        Self { bits, images }
    }

    fn cut_pages(bits: &[bool]) -> Vec<Vec<bool>> {
        bits.chunks(index(PAGE_BITS)).map(<[bool]>::to_vec).collect()
    }

    fn range(&self, first: u64, count: u64) -> std::ops::Range<usize> {
        let first = first.min(self.bits.len() as u64);
        index(first)..index((first.saturating_add(count)).min(self.bits.len() as u64))
    }

    fn put(&mut self, first: u64, count: u64, value: bool) -> u64 {
        let range = self.range(first, count);
        let changed = self.bits[range.clone()].iter().filter(|&&bit| bit != value).count();
        self.bits[range].fill(value);
        changed as u64
    }

    fn count_in(&self, first: u64, count: u64) -> u64 {
        self.bits[self.range(first, count)].iter().filter(|&&bit| bit).count() as u64
    }

    fn next_set(&self, from: u64) -> Option<u64> {
        (from..self.bits.len() as u64).find(|&at| self.bits[index(at)])
    }

    fn next_run(&self, from: u64, max: u64) -> Option<(u64, u64)> {
        let first = self.next_set(from)?;
        let mut end = first + 1;
        while end < self.bits.len() as u64
            && self.bits[index(end)]
            && end % 256 != 0
            && end - first < max
        {
            end += 1;
        }
        Some((first, end - first))
    }

    fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for at in (0..self.bits.len() as u64).filter(|&at| self.bits[index(at)]) {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == at => *count += 1,
                _ => runs.push((at, 1)),
            }
        }
        runs
    }

    /// Pages whose memory has a bit that their image lacks; pages that differ at all.
    fn must_be_written(&self) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let (mut lacking, mut differing) = (BTreeSet::new(), BTreeSet::new());
        for (page, (now, image)) in
            (0..).zip(Self::cut_pages(&self.bits).into_iter().zip(&self.images))
        {
            if now.iter().zip(image).any(|(&now, &image)| now && !image) {
                lacking.insert(page);
            }
            if &now != image {
                differing.insert(page);
            }
        }
        (lacking, differing)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Set(u64, u64),
    Clear(u64, u64),
    Unite(u64, Vec<u64>),
    Take(u64),
    Saved,
    SetAll,
    ClearAll,
}

/// A little over two pages, no whole number of words.
const BLOCKS: u64 = 2 * PAGE_BITS + 1003;

fn range() -> impl Strategy<Value = (u64, u64)> {
    let near_page = (PAGE_BITS - 70..PAGE_BITS + 70, 0..140_u64);
    let near_end = (BLOCKS - 200..BLOCKS + 100, 0..300_u64);
    prop_oneof![
        near_page,
        near_end,
        (0..BLOCKS, 0..200_u64),
        (0..BLOCKS, 0..BLOCKS),
        (0..600_u64, Just(u64::MAX))
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => range().prop_map(|(first, count)| Op::Set(first, count)),
        5 => range().prop_map(|(first, count)| Op::Clear(first, count)),
        2 => (0..=BLOCKS / 64 + 2, prop::collection::vec(any::<u64>(), 0..9))
            .prop_map(|(word, words)| Op::Unite(word * 64, words)),
        3 => (0..3_u64).prop_map(Op::Take),
        1 => Just(Op::Saved),
        1 => Just(Op::SetAll),
        1 => Just(Op::ClearAll),
    ]
}

/// Applies `op` to both and compares what it returned.
fn apply(bitmap: &mut Bitmap, model: &mut Model, op: &Op) {
    match op {
        Op::Set(first, count) => {
            assert_eq!(bitmap.set(*first, *count), model.put(*first, *count, true));
        }
        Op::Clear(first, count) => {
            assert_eq!(bitmap.clear(*first, *count), model.put(*first, *count, false));
        }
        Op::Unite(first, words) => {
            let bits = (*first..).zip(words.iter().flat_map(|w| (0..64).map(move |b| w >> b & 1)));
            let newly: u64 =
                bits.filter(|&(_, bit)| bit == 1).map(|(at, _)| model.put(at, 1, true)).sum();
            assert_eq!(bitmap.unite_words(*first, words), newly);
            let expected: Vec<u64> = (0..words.len() as u64)
                .map(|word| {
                    let set = |bit: &u64| bitmap.is_set(first + word * 64 + bit);
                    (0..64).filter(set).map(|bit| 1 << bit).sum()
                })
                .collect();
            assert_eq!(bitmap.words(*first, words.len()), expected);
        }
        Op::Take(page) => {
            let image = bitmap.take_page(u32::try_from(*page).unwrap());
            assert_eq!(image.words.len(), PAGE_WORDS);
            let ones: u64 = image.words.iter().map(|word| u64::from(word.count_ones())).sum();
            assert_eq!(ones, model.count_in(page * PAGE_BITS, PAGE_BITS));
            model.images[index(*page)] = Model::cut_pages(&model.bits)[index(*page)].clone();
        }
        Op::Saved => {
            bitmap.mark_all_saved();
            model.images = Model::cut_pages(&model.bits);
        }
        Op::SetAll => {
            bitmap.set_all();
            model.put(0, BLOCKS, true);
        }
        Op::ClearAll => {
            bitmap.clear_all();
            model.put(0, BLOCKS, false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn it_agrees_with_an_array_of_bools(
        ops in prop::collection::vec(op(), 1..24),
        questions in prop::collection::vec((range(), 1..600_u64), 1..8),
    ) {
        let (mut bitmap, mut model) = (Bitmap::new(BLOCKS), Model::new(BLOCKS));
        for op in &ops {
            apply(&mut bitmap, &mut model, op);
            prop_assert_eq!(bitmap.count(), model.count_in(0, BLOCKS));
            // No page that must be written may be forgotten; only what was touched may be named.
            let (lacking, differing) = model.must_be_written();
            let unsaved: BTreeSet<u32> = bitmap.unsaved_pages().into_iter().collect();
            let changed: BTreeSet<u32> = bitmap.stale_or_unsaved_pages().into_iter().collect();
            prop_assert!(unsaved.is_superset(&lacking), "{:?} {:?}", unsaved, lacking);
            prop_assert!(changed.is_superset(&differing), "{:?} {:?}", changed, differing);
            prop_assert!(changed.is_superset(&unsaved));
        }
        for ((first, count), max) in questions {
            prop_assert_eq!(bitmap.count_in(first, count), model.count_in(first, count));
            prop_assert_eq!(bitmap.any(first, count), model.count_in(first, count) > 0);
            prop_assert_eq!(bitmap.next_set(first), model.next_set(first));
            prop_assert_eq!(bitmap.next_run(first, max), model.next_run(first, max));
            let long = model.runs().into_iter().find(|(at, count)| at + count > first);
            let long = long.map(|(at, count)| (at.max(first), (at + count - at.max(first)).min(max)));
            prop_assert_eq!(bitmap.next_long_run(first, max), long);
            prop_assert_eq!(bitmap.is_set(first), model.count_in(first, 1) > 0);
        }
        prop_assert_eq!(bitmap.runs().collect::<Vec<_>>(), model.runs());
        let mut copy = Bitmap::new(BLOCKS);
        copy.set_blocks(&model.runs().into_iter().collect());
        prop_assert_eq!(&copy.words, &bitmap.words);
        prop_assert_eq!(&copy.page_counts, &bitmap.page_counts);
    }

    #[test]
    fn resizing_keeps_what_stays_and_forgets_what_goes(
        runs in prop::collection::vec(range(), 0..8),
        sizes in prop::collection::vec(prop_oneof![0..BLOCKS + 900, Just(PAGE_BITS), Just(64)], 1..5),
    ) {
        let mut bitmap = Bitmap::new(BLOCKS);
        for (first, count) in runs {
            bitmap.set(first, count);
        }
        for size in sizes {
            let kept: Vec<u64> = (0..size).filter(|&block| bitmap.is_set(block)).collect();
            bitmap.resize(size);
            prop_assert_eq!(bitmap.blocks(), size);
            prop_assert_eq!(bitmap.count(), kept.len() as u64);
            prop_assert!(kept.iter().all(|&block| bitmap.is_set(block)));
            let pages = bitmap.pages();
            prop_assert!(bitmap.stale_or_unsaved_pages().iter().all(|&page| page < pages));
            prop_assert!(bitmap.unsaved_pages().iter().all(|&page| page < pages));
        }
    }
}

#[test]
fn a_new_bitmap_is_clear_and_clean() {
    let bitmap = Bitmap::new(PAGE_BITS + 1);
    assert_eq!((bitmap.blocks(), bitmap.count(), bitmap.pages()), (PAGE_BITS + 1, 0, 2));
    assert_eq!(bitmap.next_set(0), None);
    assert!(bitmap.stale_or_unsaved_pages().is_empty());
    assert_eq!(format!("{bitmap:?}"), "Bitmap { blocks: 32513, count: 0, .. }");
}

#[test]
fn a_bitmap_of_nothing_takes_every_question() {
    let mut bitmap = Bitmap::new(0);
    bitmap.set_all();
    assert_eq!(bitmap.set(0, 9), 0);
    assert_eq!(bitmap.unite_words(0, &[!0]), 0);
    assert_eq!((bitmap.count(), bitmap.next_run(0, 1), bitmap.runs().count()), (0, None, 0));
    assert!(bitmap.unsaved_pages_in(0, 9).is_empty());
    bitmap.mark_all_unsaved();
    assert!(bitmap.unsaved_pages().is_empty());
}

#[test]
fn a_page_is_unsaved_by_a_set_bit_and_stale_by_a_cleared_one() {
    let mut bitmap = Bitmap::new(3 * PAGE_BITS);
    bitmap.set(PAGE_BITS - 1, 2);
    assert_eq!(bitmap.unsaved_pages(), [0, 1]);
    assert_eq!(bitmap.unsaved_pages_in(0, PAGE_BITS), [0]);
    assert_eq!(bitmap.unsaved_pages_in(PAGE_BITS, u64::MAX), [1]);
    assert!(bitmap.unsaved_pages_in(2 * PAGE_BITS, 5).is_empty());
    assert!(bitmap.unsaved_pages_in(0, 0).is_empty());

    let page = bitmap.take_page(1);
    assert_eq!((page.index, page.words[0], page.words[1]), (1, 1, 0));
    assert_eq!(bitmap.unsaved_pages(), [0]);

    bitmap.clear(PAGE_BITS, 1);
    assert_eq!(bitmap.unsaved_pages(), [0]);
    assert_eq!(bitmap.stale_or_unsaved_pages(), [0, 1]);
    // Its image still has the bit, but that is not remembered: rather once too often.
    bitmap.set(PAGE_BITS, 1);
    assert_eq!(bitmap.unsaved_pages(), [0, 1]);
}

#[test]
fn what_changes_nothing_makes_no_page_unsaved() {
    let mut bitmap = Bitmap::new(PAGE_BITS);
    bitmap.set(10, 10);
    bitmap.mark_all_saved();
    assert_eq!((bitmap.set(12, 3), bitmap.unite_words(0, &[1 << 11])), (0, 0));
    assert_eq!(bitmap.clear(100, 100), 0);
    assert!(bitmap.stale_or_unsaved_pages().is_empty());
}

#[test]
fn runs_for_resync_end_at_a_mebibyte_and_at_their_maximum() {
    let mut bitmap = Bitmap::new(1000);
    bitmap.set(250, 300);
    assert_eq!(bitmap.next_run(0, 512), Some((250, 6)));
    assert_eq!(bitmap.next_run(256, 512), Some((256, 256)));
    assert_eq!(bitmap.next_run(256, 32), Some((256, 32)));
    assert_eq!(bitmap.next_run(512, u64::MAX), Some((512, 38)));
    assert_eq!(bitmap.next_run(550, 1), None);
    assert_eq!(bitmap.runs().collect::<Vec<_>>(), [(250, 300)]);
}

#[test]
fn words_from_a_peer_beyond_the_end_are_ignored() {
    let mut bitmap = Bitmap::new(70);
    assert_eq!(bitmap.unite_words(64, &[!0, !0]), 6);
    assert_eq!(bitmap.unite_words(640, &[!0]), 0);
    assert_eq!(bitmap.unite_words(u64::MAX - 63, &[!0]), 0);
    assert_eq!(bitmap.words(0, 3), [0, 0x3f, 0]);
    assert_eq!(bitmap.count(), 6);
}

#[test]
fn a_page_that_appears_by_growth_is_stale_and_one_that_vanishes_is_forgotten() {
    let mut bitmap = Bitmap::new(PAGE_BITS);
    bitmap.resize(2 * PAGE_BITS);
    assert_eq!(bitmap.stale_or_unsaved_pages(), [1]);
    bitmap.set(PAGE_BITS, 1);
    bitmap.resize(PAGE_BITS);
    assert_eq!((bitmap.count(), bitmap.pages()), (0, 1));
    assert!(bitmap.unsaved_pages().is_empty());
    bitmap.resize(2 * PAGE_BITS);
    assert!(bitmap.unsaved_pages().is_empty());
}

#[test]
fn unknown_images_must_all_be_written() {
    let mut bitmap = Bitmap::new(65 * PAGE_BITS);
    bitmap.mark_all_unsaved();
    assert_eq!(bitmap.unsaved_pages(), (0..65).collect::<Vec<_>>());
    for page in 0..65 {
        bitmap.take_page(page);
    }
    assert!(bitmap.stale_or_unsaved_pages().is_empty());
}

#[test]
fn what_a_verify_has_marked_is_no_loss() {
    let mut bitmap = Bitmap::new(2 * PAGE_BITS);
    bitmap.mark(0, 2);
    assert!(!bitmap.losses());
    bitmap.set(1, 1);
    assert!(bitmap.losses(), "set again by a loss");
    bitmap.clear(0, 1);
    assert!(bitmap.losses(), "perhaps the one that is left");
    bitmap.clear(1, 1);
    assert!(!bitmap.losses(), "nothing is left");
    bitmap.set_losses(true);
    assert!(!bitmap.losses(), "nothing is set");
    bitmap.mark(5, 1);
    bitmap.set_losses(true);
    assert!(bitmap.losses());
    bitmap.set_losses(false);
    assert!(!bitmap.losses());
}

#[test]
fn pages_that_stay_are_still_unsaved_after_a_cut() {
    let mut bitmap = Bitmap::new(3 * PAGE_BITS);
    bitmap.set_all();
    bitmap.resize(2 * PAGE_BITS);
    assert_eq!(bitmap.unsaved_pages(), [0, 1]);
    bitmap.resize(3 * PAGE_BITS);
    assert_eq!(bitmap.unsaved_pages(), [0, 1]);
    assert_eq!(bitmap.stale_or_unsaved_pages(), [0, 1, 2]);
    // Pages that fill their word of marks.
    bitmap.resize(64 * PAGE_BITS);
    assert_eq!(bitmap.unsaved_pages(), [0, 1]);
}

#[test]
fn a_part_of_a_page_is_counted_for_itself() {
    let mut bitmap = Bitmap::new(PAGE_BITS);
    bitmap.set(0, 1);
    assert_eq!(bitmap.count_in(10, PAGE_BITS - 20), 0);
    assert_eq!(bitmap.set(10, PAGE_BITS - 20), PAGE_BITS - 20);
}

#[test]
fn the_bit_behind_a_range_is_not_its_own() {
    let mut bitmap = Bitmap::new(PAGE_BITS);
    bitmap.set(100, 1);
    assert!(!bitmap.any(70, 30) && bitmap.any(70, 31));
}
