//! The simulator's random numbers: one stream for each purpose, so that taking one fault out of a
//! run does not change the latencies of the rest more than it must.
//!
//! Invariants:
//! - The same seed and purpose give the same numbers on every machine and in every release.

/// A stream of numbers (splitmix64 of Steele, Lea and Flood).
#[derive(Clone, Debug)]
pub struct Prng {
    state: u64,
}

impl Prng {
    /// The stream of a seed for one purpose.
    #[must_use]
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut prng = Self { state: seed ^ purpose.wrapping_mul(0xd1b5_4a32_d192_ed03) };
        prng.state = prng.next();
        prng
    }

    /// 64 bits, all values equally likely.
    #[expect(clippy::should_implement_trait, reason = "it has no end, and is no sequence to map")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `n - 1`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(n);
        u64::try_from(wide >> 64).expect("a product of two 64-bit numbers, shifted by 64")
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// True in one of `n` cases.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of the elements; `slice` is not empty.
    pub fn choose<'a, T>(&mut self, slice: &'a [T]) -> &'a T {
        &slice[self.index(slice.len())]
    }

    /// An index below `n`.
    pub fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).expect("below a usize")
    }

    /// A number between `low` and `high`, in proportion to size: half of the octaves are small.
    pub fn skewed(&mut self, low: u64, high: u64) -> u64 {
        let span = high.saturating_sub(low).max(1);
        let octaves = u64::from(64 - span.leading_zeros());
        let octave = self.below(octaves + 1);
        let limit = span.min(1u64.checked_shl(u32::try_from(octave).unwrap_or(63)).unwrap_or(span));
        low + self.below(limit + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Prng;

    #[test]
    fn a_seed_and_a_purpose_name_one_stream() {
        let mut a = Prng::new(7, 1);
        let mut b = Prng::new(7, 1);
        let mut c = Prng::new(7, 2);
        assert_eq!(a.next(), b.next());
        assert_ne!(a.next(), c.next());
    }

    #[test]
    fn numbers_stay_in_their_range() {
        let mut prng = Prng::new(1, 1);
        for _ in 0..1000 {
            assert!((3..=9).contains(&prng.range(3, 9)));
            assert!((3..=900).contains(&prng.skewed(3, 900)));
            assert!(prng.below(5) < 5);
        }
    }
}
