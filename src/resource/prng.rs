//! The core's own random numbers: the whole stream follows from one seed.
//!
//! The core has no random source; the shell hands it a seed once (from the system's random source),
//! the simulator hands it the seed of the run. So a run can be replayed.
//!
//! Invariants:
//! - The same seed gives the same numbers, on every machine and in every release: recordings and
//!   simulation seeds depend on it.
//! - Not for secrets: whoever sees a few numbers can compute the rest.

/// xoshiro256++ (Blackman and Vigna), its state filled by splitmix64 as its authors advise.
#[derive(Clone, Debug)]
pub(crate) struct Prng {
    state: [u64; 4],
}

impl Prng {
    /// The stream of `seed`. Every seed is as good as any other, 0 included.
    pub(crate) fn new(seed: u64) -> Self {
        let mut mix = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut mix)) }
    }

    /// The next 64 bits, all values equally likely.
    pub(crate) fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number from 0 to `n - 1`, all equally likely. `n` is at least 1.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "there is no number below 0");
        // The values under 2^64 mod n are one too many for an even share: draw again.
        let uneven = n.wrapping_neg() % n;
        loop {
            let value = self.next_u64();
            if value >= uneven {
                return value % n;
            }
        }
    }

    /// `ms` milliseconds, moved by at most `percent` percent (0 to 100) in either direction, so
    /// that two nodes that began at the same instant do not go on in step.
    pub(crate) fn jitter(&mut self, ms: u64, percent: u64) -> u64 {
        let spread = u64::try_from(u128::from(ms) * u128::from(percent.min(100)) / 100)
            .expect("at most `ms`, for `percent` is at most 100");
        // `ms` is a time-out of hours at the most; a wilder one loses its spread, not its meaning.
        let Some(width) = spread.checked_mul(2).and_then(|width| width.checked_add(1)) else {
            return ms;
        };
        (ms - spread).saturating_add(self.below(width))
    }

    /// A new data generation identifier: never 0 (empty) nor [`crate::meta::JUST_CREATED`], the
    /// lowest bit clear (DRBD keeps the Primary flag there). A repeat is a matter of 2^31
    /// identifiers.
    pub(crate) fn uuid(&mut self) -> u64 {
        loop {
            let uuid = self.next_u64() & !1;
            if uuid != 0 && uuid != crate::meta::JUST_CREATED {
                return uuid;
            }
        }
    }
}

/// One step of splitmix64 (Steele, Lea and Flood): spreads a seed over 64 bits.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
#[path = "prng/tests.rs"] // Named, for benches/micro.rs takes this file in.
mod tests;
