//! A table with keys that are never mistaken: each key carries the generation of its place.

/// Values by key; a key of a removed value finds nothing.
#[derive(Clone, Debug)]
pub(crate) struct Slab<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    /// Keeps the value and returns its key.
    pub(crate) fn insert(&mut self, value: T) -> u64 {
        self.len += 1;
        if let Some(index) = self.free.pop() {
            let place = &mut self.places[index as usize];
            place.1 = Some(value);
            return u64::from(place.0) << 32 | u64::from(index);
        }
        let index = u32::try_from(self.places.len()).expect("fewer than 2^32 values at once");
        self.places.push((1, Some(value)));
        1 << 32 | u64::from(index)
    }

    fn index(&self, key: u64) -> Option<usize> {
        let index = usize::try_from(key & 0xffff_ffff).ok()?;
        let place = self.places.get(index)?;
        (u64::from(place.0) == key >> 32).then_some(index)
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: u64) -> Option<&T> {
        self.places[self.index(key)?].1.as_ref()
    }

    /// The value of a key.
    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let index = self.index(key)?;
        self.places[index].1.as_mut()
    }

    /// Takes the value out; the key finds nothing from now on.
    pub(crate) fn remove(&mut self, key: u64) -> Option<T> {
        let index = self.index(key)?;
        let place = &mut self.places[index];
        let value = place.1.take()?;
        place.0 = place.0.wrapping_add(1).max(1);
        self.free.push(u32::try_from(index).expect("an index of this table"));
        self.len -= 1;
        Some(value)
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Keys and values, in the order of the places.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.places.iter().enumerate().filter_map(|(index, (generation, value))| {
            value.as_ref().map(|value| (u64::from(*generation) << 32 | index as u64, value))
        })
    }

    /// Every key, in the order of the places.
    pub(crate) fn keys(&self) -> Vec<u64> {
        self.iter().map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_key_finds_nothing_even_when_its_place_is_used_again() {
        let mut slab = Slab::default();
        let a = slab.insert('a');
        assert_eq!(slab.remove(a), Some('a'));
        let b = slab.insert('b');
        assert_ne!(a, b);
        assert_eq!(slab.get(a), None);
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.get(b), Some(&'b'));
        assert_eq!(slab.len(), 1);
    }
}
