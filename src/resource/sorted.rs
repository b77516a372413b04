//! A map for the few things that are under way: sorted by key, in one piece of memory.
//!
//! A tree allocates and frees its nodes while entries come and go; this allocates only when there are
//! more of them than ever before. An entry costs moving the shorter side: nothing at the ends, where
//! numbers that are counted up come and mostly go.
//!
//! Invariants:
//! - Keys ascend, and none is there twice.

use std::collections::VecDeque;
use std::ops::Range;

/// Values by key, ascending.
#[derive(Clone, Debug)]
pub(crate) struct Sorted<K, V> {
    entries: VecDeque<(K, V)>,
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self { entries: VecDeque::new() }
    }
}

impl<K: Copy + Ord, V> Sorted<K, V> {
    /// Where the key is, or where it would be.
    fn place(&self, key: &K) -> Result<usize, usize> {
        match self.entries.back() {
            None => Err(0),
            Some((last, _)) if last < key => Err(self.entries.len()),
            Some(_) => self.entries.binary_search_by(|(other, _)| other.cmp(key)),
        }
    }

    /// Keeps the value, and returns the one that was there.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.place(&key) {
            Ok(index) => Some(std::mem::replace(&mut self.entries[index].1, value)),
            Err(index) => {
                self.entries.insert(index, (key, value));
                None
            }
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.place(key).ok().map(|index| &self.entries[index].1)
    }

    /// The value of a key.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.place(key).ok().map(|index| &mut self.entries[index].1)
    }

    /// Takes the value out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let index = self.place(key).ok()?;
        self.entries.remove(index).map(|(_, value)| value)
    }

    /// Nothing is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many values there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Keys, ascending.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.entries.iter().map(|(key, _)| key)
    }

    /// Keys and values, ascending.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// Values, by ascending key.
    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// Keys and values of a range of keys, ascending.
    pub(crate) fn range(
        &self,
        keys: Range<K>,
    ) -> impl DoubleEndedIterator<Item = (&K, &V)> + use<'_, K, V> {
        let at = |key: &K| self.place(key).unwrap_or_else(|index| index);
        let (start, end) = (at(&keys.start), at(&keys.end));
        self.entries.range(start..end.max(start)).map(|(key, value)| (key, value))
    }

    /// Drops what `keep` does not want.
    pub(crate) fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) {
        self.entries.retain(|(key, value)| keep(key, value));
    }

    /// Keys and values, ascending; the map ends.
    pub(crate) fn into_entries(self) -> impl Iterator<Item = (K, V)> {
        self.entries.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_a_tree_does(steps in prop::collection::vec((0..6_u8, 0..24_u64), 0..200)) {
            let (mut tree, mut sorted) = (BTreeMap::new(), Sorted::default());
            for (value, (step, key)) in steps.into_iter().enumerate() {
                match step {
                    0..3 => prop_assert_eq!(sorted.insert(key, value), tree.insert(key, value)),
                    3 => prop_assert_eq!(sorted.remove(&key), tree.remove(&key)),
                    4 => {
                        let of_sorted = sorted.range(key..key + 5).rev().collect::<Vec<_>>();
                        prop_assert_eq!(of_sorted, tree.range(key..key + 5).rev().collect::<Vec<_>>());
                    }
                    _ => {
                        sorted.retain(|other, _| other % 5 != key % 5);
                        tree.retain(|other, _| other % 5 != key % 5);
                    }
                }
                prop_assert_eq!(sorted.get(&key), tree.get(&key));
                prop_assert_eq!(sorted.get_mut(&key), tree.get_mut(&key));
                prop_assert_eq!((sorted.len(), sorted.is_empty()), (tree.len(), tree.is_empty()));
            }
            prop_assert!(sorted.iter().eq(tree.iter()) && sorted.values().eq(tree.values()));
            prop_assert!(sorted.into_entries().eq(tree));
        }
    }
}
