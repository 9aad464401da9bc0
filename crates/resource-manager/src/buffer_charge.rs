//! The charge of one kind of buffer on a connection's account.
//!
//! Every yamux stream starts with a window of 256 KiB, so windows alone do not bound the memory of
//! a small container. The total of all buffers is limited instead.

use super::ConnectionMemory;

/// Bytes charged to a connection. Dropping it releases them.
#[derive(Debug)]
pub struct BufferCharge {
    memory: ConnectionMemory,
    bytes: usize,
}

impl BufferCharge {
    /// Creates an empty charge on the account `memory`.
    pub fn new(memory: ConnectionMemory) -> Self {
        Self { memory, bytes: 0 }
    }

    /// Charged bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `more` bytes may be buffered, if these buffers may hold at most `most`.
    pub fn has_room(&self, more: usize, most: usize) -> bool {
        let then = self.bytes.saturating_add(more);
        then <= most && self.memory.has_room(more as u64, u64::MAX)
    }

    /// Sets the bytes in the buffers.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.memory.charge((bytes - self.bytes) as u64);
        } else {
            self.memory.release((self.bytes - bytes) as u64);
        }
        self.bytes = bytes;
    }

    /// Updates one part of the buffers from `before` to `after` bytes.
    pub fn replace(&mut self, before: usize, after: usize) {
        if before != after {
            self.set((self.bytes + after).saturating_sub(before));
        }
    }

    /// Changes the bytes in the buffers by `difference`.
    pub fn change(&mut self, difference: i64) {
        let magnitude = usize::try_from(difference.unsigned_abs()).unwrap_or(usize::MAX);
        self.set(if difference < 0 {
            self.bytes.saturating_sub(magnitude)
        } else {
            self.bytes.saturating_add(magnitude)
        });
    }
}

impl Drop for BufferCharge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CircuitLimits, GUARANTEED_BYTES, ResourceLimits, Resources, Shares};

    const GUARANTEED: usize = 64 * 1024;
    const _: () = assert!(GUARANTEED as u64 == GUARANTEED_BYTES);
    const ALL: usize = 1024 * 1024;

    fn resources() -> Resources {
        let limits = ResourceLimits {
            buffered: Some(ALL as u64),
            ..ResourceLimits::new(None, None, &CircuitLimits::default())
        };
        Resources::new(limits, Shares::default())
    }

    fn charge(resources: &Resources) -> BufferCharge {
        BufferCharge::new(ConnectionMemory::new(resources.clone()))
    }

    #[test]
    fn connection_has_its_guarantee_at_the_total_limit() {
        let resources = resources();
        let mut greedy = charge(&resources);
        assert!(greedy.has_room(ALL + GUARANTEED, 2 * ALL));
        assert!(!greedy.has_room(ALL, ALL - 1), "limit of these buffers");
        greedy.set(ALL + GUARANTEED);
        assert!(!greedy.has_room(1, 2 * ALL));
        let mut modest = charge(&resources);
        assert!(modest.has_room(GUARANTEED, ALL));
        assert!(!modest.has_room(GUARANTEED + 1, ALL));
        modest.change(GUARANTEED_BYTES.cast_signed());
        assert!(!modest.has_room(1, ALL));
        greedy.replace(GUARANTEED, 0);
        assert!(modest.has_room(GUARANTEED, ALL));
        assert!(!modest.has_room(GUARANTEED + 1, ALL));
        drop(greedy);
        assert!(modest.has_room(ALL, 2 * ALL));
        modest.change(-GUARANTEED_BYTES.cast_signed());
        assert_eq!(resources.buffered_bytes(), 0);
    }

    #[test]
    fn kinds_of_buffers_share_the_account_of_their_connection() {
        let resources = resources();
        let memory = ConnectionMemory::new(resources.clone());
        let [mut received, mut queued] = [(); 2].map(|()| BufferCharge::new(memory.clone()));
        received.set(300);
        queued.set(200);
        queued.replace(150, 50);
        assert_eq!((memory.held(), resources.buffered_bytes()), (400, 400));
        drop(received);
        assert_eq!(memory.held(), 100);
        drop(queued);
        assert_eq!(resources.buffered_bytes(), 0);
    }

    #[test]
    fn without_a_total_limit_the_limit_of_the_connection_applies() {
        let mut received = charge(&Resources::unlimited());
        received.set(1 << 40);
        assert!(received.has_room(1, usize::MAX));
        assert!(!received.has_room(1, 1 << 40));
    }
}
