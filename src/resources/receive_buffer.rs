//! What connections have received and nobody has read, as a part of the memory that there is.
//!
//! A stream of yamux begins with a window of 256 KiB, however many there are, so windows alone bound
//! nothing in a small container. What all connections hold together is counted instead. When it is
//! too much, those that hold more than a little of it lose streams, and nobody else does.

use super::{ConnectionMemory, Resources};

/// The part of one connection; given back when it is dropped.
#[derive(Debug)]
pub struct ReceiveBuffered {
    memory: ConnectionMemory,
    bytes: usize,
}

impl ReceiveBuffered {
    /// Nothing yet, of what `resources` has for it.
    pub fn of(resources: Resources) -> Self {
        Self {
            memory: ConnectionMemory::new(resources),
            bytes: 0,
        }
    }

    /// The account of the whole connection.
    pub fn memory(&self) -> &ConnectionMemory {
        &self.memory
    }

    /// What the connection holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the connection may hold so many bytes more, if it may hold `most` by itself.
    pub fn has_room(&self, more: usize, most: usize) -> bool {
        let then = self.bytes.saturating_add(more);
        then <= most && self.memory.has_room(more as u64, u64::MAX)
    }

    /// So many bytes have arrived.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.memory.charge(bytes as u64);
    }

    /// So many have been read, or thrown away.
    pub fn remove(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.memory.release(bytes as u64);
    }
}

impl Drop for ReceiveBuffered {
    fn drop(&mut self) {
        self.memory.release(self.bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: usize = crate::resources::GUARANTEED_BYTES as usize;
    use crate::resources::ResourceLimits;

    const ALL: usize = 1024 * 1024;

    fn resources() -> Resources {
        let limits = ResourceLimits::new(None, None, &crate::relay::Limits::default());
        Resources::new(
            ResourceLimits {
                buffered: Some(ALL as u64),
                ..limits
            },
            super::super::Shares::default(),
        )
    }

    #[test]
    fn whoever_holds_little_has_room_when_all_hold_too_much() {
        let resources = resources();
        let mut greedy = ReceiveBuffered::of(resources.clone());
        assert!(greedy.has_room(ALL, ALL));
        assert!(
            !greedy.has_room(ALL, ALL - 1),
            "too much for one connection"
        );
        greedy.add(ALL);
        assert!(!greedy.has_room(1, 2 * ALL));
        let mut modest = ReceiveBuffered::of(resources);
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
    fn without_limits_only_the_connection_has_a_bound() {
        let mut unread = ReceiveBuffered::of(Resources::unlimited());
        unread.add(1 << 40);
        assert!(unread.has_room(1, usize::MAX));
        assert!(!unread.has_room(1, 1 << 40));
    }
}
