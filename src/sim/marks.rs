//! A set of sectors, as bits.
//!
//! Invariants:
//! - A simulated disk is small: there is a word for each 64 sectors up to the last marked one.

/// Bits of a word.
const WORD: usize = u64::BITS as usize;

/// Marked sectors.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    words: Vec<u64>,
}

impl Marks {
    /// Marks a sector.
    pub(super) fn set(&mut self, sector: usize) {
        let word = sector / WORD;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (sector % WORD);
    }

    /// Takes the mark of a sector away.
    pub(super) fn clear(&mut self, sector: usize) {
        if let Some(word) = self.words.get_mut(sector / WORD) {
            *word &= !(1 << (sector % WORD));
        }
    }

    /// No sector is marked.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The first marked sector from this one on.
    #[must_use]
    pub(super) fn next(&self, from: usize) -> Option<usize> {
        let first = from / WORD;
        let words = self.words.iter().enumerate().skip(first);
        words
            .map(|(at, word)| {
                (at, if at == first { word & u64::MAX << (from % WORD) } else { *word })
            })
            .find(|(_, word)| *word != 0)
            .map(|(at, word)| at * WORD + word.trailing_zeros() as usize)
    }

    /// The elements of `all` that stand at marked places, with their places, in order.
    pub(super) fn of<'a, T>(&'a self, all: &'a mut [T]) -> impl Iterator<Item = (u64, &'a mut T)> {
        let words = all.chunks_mut(WORD).zip(&self.words).enumerate();
        words.filter(|(_, (_, word))| **word != 0).flat_map(|(at, (chunk, word))| {
            let marked = chunk.iter_mut().enumerate().filter(move |(bit, _)| word >> bit & 1 == 1);
            marked.map(move |(bit, element)| ((at * WORD + bit) as u64, element))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Marks;

    #[test]
    fn marks_are_found_in_order_and_go_away() {
        let mut marks = Marks::default();
        assert!(marks.is_empty() && marks.next(0).is_none());
        for sector in [700, 3, 64, 63] {
            marks.set(sector);
        }
        marks.clear(64);
        marks.clear(9_999);
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(sector) = marks.next(from) {
            found.push(sector);
            from = sector + 1;
        }
        assert_eq!(found, [3, 63, 700]);
        let mut all: Vec<usize> = (0..1000).collect();
        let places: Vec<_> = marks.of(&mut all).map(|(at, element)| (at, *element)).collect();
        assert_eq!(places, [(3, 3), (63, 63), (700, 700)]);
        assert!(!marks.is_empty());
    }
}
