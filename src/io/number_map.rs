//! Maps by numbers that this program has chosen itself: counters, tags, slots.
//!
//! The hash of the standard library withstands keys that an adversary picks, at a price that the
//! data path pays several times a write; nobody picks these. Never for a number from outside.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by an own number.
pub(crate) type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Spreads a number over all bits of the hash: the map looks at the lowest and at the highest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio; the fold brings the well mixed high half down.
        let product = u128::from(self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn counters_and_slots_are_spread_over_both_ends_of_the_hash() {
        let hash = |number: u64| {
            let mut hasher = NumberHasher::default();
            hasher.write_u64(number);
            hasher.finish()
        };
        // Counters, and keys of a slab: a generation above an index.
        let counters = (0..1024).map(hash).collect::<Vec<_>>();
        let slots = (0..1024).map(|n| hash(((n / 32 + 1) << 32) | (n % 32))).collect::<Vec<_>>();
        for hashes in [counters, slots] {
            let low: HashSet<u64> = hashes.iter().map(|hash| hash & 1023).collect();
            let high: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            assert!(low.len() > 512 && high.len() > 100, "{} {}", low.len(), high.len());
        }
    }
}
