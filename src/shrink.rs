//! Tables that do not keep the room which they once needed.
//!
//! A hash table grows with what comes and never shrinks by itself, and a linked one keeps the nodes
//! of what has gone for what is to come. After twenty thousand peers that is megabytes, scattered
//! over the whole heap.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
};

use hashlink::LinkedHashMap;

/// Entries for which room is kept in any case: all that the standard library makes room for at once
/// when there are more than 14.
const KEPT: usize = 28;
/// With room for more than so many times as much as there is, a table is too large. It is a large
/// number, so that what shrinking takes is little beside what has come and gone in between.
const SPARSE: usize = 8;

/// A table that can be told that something has gone.
pub trait Shrink {
    /// Gives room back if there is much too much of it.
    fn shrink_when_sparse(&mut self);
}

fn is_sparse(capacity: usize, length: usize) -> bool {
    capacity > KEPT.max(length.saturating_mul(SPARSE))
}

impl<K: Eq + Hash, V, S: BuildHasher> Shrink for HashMap<K, V, S> {
    fn shrink_when_sparse(&mut self) {
        if is_sparse(self.capacity(), self.len()) {
            self.shrink_to(KEPT);
        }
    }
}

impl<K: Eq + Hash, V, S: BuildHasher> Shrink for LinkedHashMap<K, V, S> {
    fn shrink_when_sparse(&mut self) {
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
    fn room_is_given_back_when_most_have_gone() {
        let mut table: HashMap<usize, usize> = (0..MANY).map(|n| (n, n)).collect();
        let mut linked: LinkedHashMap<usize, usize> = (0..MANY).map(|n| (n, n)).collect();
        let most = table.capacity();
        for n in 0..MANY {
            table.remove(&n);
            table.shrink_when_sparse();
            linked.remove(&n);
            linked.shrink_when_sparse();
            let left = MANY - n - 1;
            assert!(table.len() == left && linked.len() == left);
            assert!(!is_sparse(table.capacity().max(linked.capacity()), left));
        }
        assert!(most >= MANY && table.capacity() <= KEPT && linked.capacity() <= KEPT);
    }

    #[test]
    fn room_for_a_few_stays() {
        let mut table: HashMap<usize, usize> = HashMap::with_capacity(KEPT);
        table.shrink_when_sparse();
        assert_eq!(table.capacity(), KEPT);
    }
}
