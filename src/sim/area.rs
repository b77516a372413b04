//! Bytes of which copies share what neither has written since.
//!
//! Invariants:
//! - A copy costs no more than the pages that are written afterwards: the search of
//!   [`super::explore`] copies a cluster at every step, and its metadata is most of it.

use std::sync::Arc;

/// Bytes of a page.
const PAGE: usize = 4096;

/// So many bytes; what was never written is zero.
#[derive(Clone, Debug)]
pub struct Area {
    pages: Vec<Arc<[u8; PAGE]>>,
    bytes: usize,
}

impl Area {
    /// So many zeroes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let mut area = Self { pages: Vec::new(), bytes: 0 };
        area.grow(bytes);
        area
    }

    /// How many bytes there are.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes it at least so large. New pages are one page of zeroes, shared.
    pub fn grow(&mut self, bytes: usize) {
        self.bytes = self.bytes.max(bytes);
        self.pages.resize(self.bytes.div_ceil(PAGE), Arc::new([0; PAGE]));
    }

    /// A range of it.
    ///
    /// # Panics
    /// There is no such range.
    #[must_use]
    pub fn read(&self, start: usize, length: usize) -> Vec<u8> {
        assert!(start + length <= self.bytes, "{start}+{length} of {} bytes", self.bytes);
        let mut read = Vec::with_capacity(length);
        while read.len() < length {
            let at = start + read.len();
            let end = (at % PAGE + length - read.len()).min(PAGE);
            read.extend_from_slice(&self.pages[at / PAGE][at % PAGE..end]);
        }
        read
    }

    /// Writes a range of it.
    ///
    /// # Panics
    /// There is no such range.
    pub fn write(&mut self, start: usize, bytes: &[u8]) {
        assert!(start + bytes.len() <= self.bytes, "{start}+{} bytes", bytes.len());
        let mut done = 0;
        while done < bytes.len() {
            let at = start + done;
            let count = (PAGE - at % PAGE).min(bytes.len() - done);
            let page = Arc::make_mut(&mut self.pages[at / PAGE]);
            page[at % PAGE..at % PAGE + count].copy_from_slice(&bytes[done..done + count]);
            done += count;
        }
    }
}

impl From<Vec<u8>> for Area {
    fn from(bytes: Vec<u8>) -> Self {
        let mut area = Self::new(bytes.len());
        area.write(0, &bytes);
        area
    }
}

#[cfg(test)]
mod tests {
    use super::{Area, PAGE};

    #[test]
    fn a_copy_keeps_what_it_had_and_ranges_cross_pages() {
        let mut area = Area::new(2 * PAGE + 10);
        area.write(PAGE - 2, &[1, 2, 3, 4]);
        let copy = area.clone();
        area.write(PAGE, &[9]);
        assert_eq!(area.read(PAGE - 3, 6), [0, 1, 2, 9, 4, 0]);
        assert_eq!(copy.read(PAGE - 3, 6), [0, 1, 2, 3, 4, 0]);
        area.grow(3 * PAGE);
        assert_eq!((area.bytes(), area.read(2 * PAGE + 8, 4)), (3 * PAGE, vec![0; 4]));
        assert_eq!(Area::from(vec![7; PAGE + 1]).read(PAGE - 1, 2), [7, 7]);
    }
}
