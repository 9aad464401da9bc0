//! Hash maps that release memory after a peak.
//!
//! A `HashMap` grows with its entries and never shrinks by itself, and a `LinkedHashMap` keeps the
//! nodes of removed entries for later insertions. After a peak of twenty thousand peers these are
//! megabytes, scattered over the whole heap.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
};

use hashlink::LinkedHashMap;

/// The capacity in entries that a map always keeps: the first size of the standard library's table
/// beyond 14 entries.
const MIN_CAPACITY: usize = 28;
/// A map is sparse if its capacity exceeds this multiple of its length. The factor is large so that
/// the cost of shrinking is small compared to the insertions and removals since the last time.
const SPARSE_FACTOR: usize = 8;

/// A map that can release unused capacity; to be called after a removal.
pub trait ShrinkIfSparse {
    /// Releases capacity if the map has more than eight times as much as it has entries.
    fn shrink_if_sparse(&mut self);
}

fn is_sparse(capacity: usize, length: usize) -> bool {
    capacity > MIN_CAPACITY.max(length.saturating_mul(SPARSE_FACTOR))
}

impl<K: Eq + Hash, V, S: BuildHasher> ShrinkIfSparse for HashMap<K, V, S> {
    fn shrink_if_sparse(&mut self) {
        if is_sparse(self.capacity(), self.len()) {
            self.shrink_to(MIN_CAPACITY);
        }
    }
}

impl<K: Eq + Hash, V, S: BuildHasher> ShrinkIfSparse for LinkedHashMap<K, V, S> {
    fn shrink_if_sparse(&mut self) {
        if is_sparse(self.capacity(), self.len()) {
            self.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 10_000;

    #[test]
    fn map_releases_memory_after_most_removals() {
        let mut map: HashMap<usize, usize> = (0..MANY).map(|n| (n, n)).collect();
        let mut linked: LinkedHashMap<usize, usize> = (0..MANY).map(|n| (n, n)).collect();
        let peak = map.capacity();
        for n in 0..MANY {
            map.remove(&n);
            map.shrink_if_sparse();
            linked.remove(&n);
            linked.shrink_if_sparse();
            let left = MANY - n - 1;
            assert!(map.len() == left && linked.len() == left);
            assert!(!is_sparse(map.capacity().max(linked.capacity()), left));
        }
        assert!(peak >= MANY);
        assert!(map.capacity() <= MIN_CAPACITY && linked.capacity() <= MIN_CAPACITY);
    }

    #[test]
    fn map_keeps_the_minimum_capacity() {
        let mut map: HashMap<usize, usize> = HashMap::with_capacity(MIN_CAPACITY);
        map.shrink_if_sparse();
        assert_eq!(map.capacity(), MIN_CAPACITY);
    }
}
