//! The order of last use of numbered places: a list through a vector, so that nothing is allocated
//! while they are used.
//!
//! Invariants:
//! - A place is in the list once or not at all; the list goes from the one used longest ago to the
//!   last one, and back.

/// No place.
const NONE: usize = usize::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    before: usize,
    after: usize,
}

/// Places, the one that was used longest ago first.
#[derive(Clone, Debug)]
pub(crate) struct ByUse {
    links: Vec<Link>,
    first: usize,
    last: usize,
    len: usize,
}

impl Default for ByUse {
    fn default() -> Self {
        Self { links: Vec::new(), first: NONE, last: NONE, len: 0 }
    }
}

impl ByUse {
    /// Appends a place that is not in the list, as the one that was used last.
    pub(crate) fn push(&mut self, place: usize) {
        if place >= self.links.len() {
            self.links.resize(place + 1, Link { before: NONE, after: NONE });
        }
        self.links[place] = Link { before: self.last, after: NONE };
        match self.links.get_mut(self.last) {
            Some(last) => last.after = place,
            None => self.first = place,
        }
        self.last = place;
        self.len += 1;
    }

    /// Takes out a place that is in the list.
    pub(crate) fn remove(&mut self, place: usize) {
        let Link { before, after } = self.links[place];
        match self.links.get_mut(before) {
            Some(link) => link.after = after,
            None => self.first = after,
        }
        match self.links.get_mut(after) {
            Some(link) => link.before = before,
            None => self.last = before,
        }
        self.len -= 1;
    }

    /// How many are in the list.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All, the one that was used longest ago first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let first = Some(self.first).filter(|place| *place != NONE);
        std::iter::successors(first, |place| {
            Some(self.links[*place].after).filter(|place| *place != NONE)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_keeps_the_order_of_use(uses in prop::collection::vec(0..8_usize, 0..100)) {
            let (mut list, mut expected) = (ByUse::default(), Vec::new());
            for place in uses {
                if expected.contains(&place) {
                    list.remove(place);
                    expected.retain(|other| *other != place);
                } else {
                    list.push(place);
                    expected.push(place);
                }
                prop_assert_eq!(list.iter().collect::<Vec<_>>(), expected.clone());
                prop_assert_eq!(list.len(), expected.len());
            }
        }
    }
}
