//! What connections have received and nobody has read, as a part of the memory that there is.
//!
//! A stream of yamux begins with a window of 256 KiB, however many there are, so windows alone bound
//! nothing in a small container. What all connections hold together is counted instead. When it is
//! too much, those that hold more than a little of it lose streams, and nobody else does.

use super::Budget;

/// What each connection may hold even when all together hold too much: the longest frame, in bytes,
/// that common implementations send.
const SHARE: usize = 64 * 1024;

/// The part of one connection; given back when it is dropped.
#[derive(Debug)]
pub struct Unread {
    budget: Budget,
    bytes: usize,
}

impl Unread {
    /// Nothing yet, of what `budget` has for it.
    pub fn of(budget: Budget) -> Self {
        Self { budget, bytes: 0 }
    }

    /// What the connection holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the connection may hold so many bytes more, if it may hold `most` by itself.
    pub fn has_room(&self, more: usize, most: usize) -> bool {
        let then = self.bytes.saturating_add(more);
        then <= most && (then <= SHARE || self.budget.has_room_for_unread(more))
    }

    /// So many bytes have arrived.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.budget.hold_unread(bytes);
    }

    /// So many have been read, or thrown away.
    pub fn remove(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.budget.release_unread(bytes);
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.budget.release_unread(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Plan;

    const ALL: usize = 1024 * 1024;

    fn budget() -> Budget {
        let plan = Plan::new(None, None, &crate::relay::Limits::default());
        Budget::new(Plan {
            unread: Some(ALL as u64),
            ..plan
        })
    }

    #[test]
    fn whoever_holds_little_has_room_when_all_hold_too_much() {
        let budget = budget();
        let mut greedy = Unread::of(budget.clone());
        assert!(greedy.has_room(ALL, ALL));
        assert!(
            !greedy.has_room(ALL, ALL - 1),
            "too much for one connection"
        );
        greedy.add(ALL);
        assert!(!greedy.has_room(1, 2 * ALL));
        let mut modest = Unread::of(budget);
        assert!(modest.has_room(SHARE, ALL));
        assert!(!modest.has_room(SHARE + 1, ALL));
        modest.add(SHARE);
        greedy.remove(2 * SHARE);
        assert!(modest.has_room(SHARE, ALL));
        assert!(!modest.has_room(SHARE + 1, ALL));
        drop(greedy);
        assert!(modest.has_room(ALL - SHARE, ALL));
    }

    #[test]
    fn without_a_budget_only_the_connection_has_a_bound() {
        let mut unread = Unread::of(Budget::unlimited());
        unread.add(1 << 40);
        assert!(unread.has_room(1, usize::MAX));
        assert!(!unread.has_room(1, 1 << 40));
    }
}
