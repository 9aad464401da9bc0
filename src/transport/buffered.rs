//! The bytes that the layers below a muxer hold, and how the muxer learns of them.
//!
//! A muxer charges the account of its connection for every buffer of the connection. The security
//! channel and the WebSocket below it are behind types of libp2p, which give no access to them. So a
//! layer reports each change of what it holds to the thread while it is polled, and the muxer
//! [collects](collect_changes) the changes of one poll. What a layer holds before there is a muxer, during
//! the handshake, is reported at the first poll by the muxer.

use std::{cell::Cell, ops::Deref};

thread_local! {
    /// The changes that were reported since [`collect_changes`] began, in bytes; `None` outside of it.
    static CHANGE: Cell<Option<i64>> = const { Cell::new(None) };
}

/// Sets back what was there before, also after a panic.
struct Restore(Option<i64>);

impl Drop for Restore {
    fn drop(&mut self) {
        CHANGE.set(self.0);
    }
}

/// Runs `work`, and returns by how many bytes the buffers below have grown in it.
pub fn collect_changes<R>(work: impl FnOnce() -> R) -> (R, i64) {
    let _restore = Restore(CHANGE.replace(Some(0)));
    let result = work();
    (result, CHANGE.get().unwrap_or_default())
}

/// What one layer has reported.
#[derive(Debug, Default)]
pub struct ReportedBytes(usize);

impl ReportedBytes {
    /// The layer holds so many bytes now.
    pub fn update(&mut self, held: usize) {
        if held == self.0 {
            return;
        }
        let Some(change) = CHANGE.get() else { return };
        let signed = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let difference = signed(held).saturating_sub(signed(self.0));
        CHANGE.set(Some(change.saturating_add(difference)));
        self.0 = held;
    }
}

/// Bytes in order, in memory whose size is known. It grows with the bytes, by a quarter at a time.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// How many of the bytes are done with.
    start: usize,
}

/// What is shorter grows by doubling.
const SHORT_BYTES: usize = 1024;

impl Buffer {
    /// The memory that it occupies.
    pub fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Appends `more`. New memory is for no more than `most` bytes, unless there are more.
    pub fn append(&mut self, more: &[u8], most: usize) {
        let needed = self.len() + more.len();
        if self.bytes.capacity() < self.start + needed {
            self.bytes.drain(..self.start);
            self.start = 0;
            let spare = (needed / 4).max(needed.min(SHORT_BYTES));
            let room = (needed + spare).min(most).max(needed);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(more);
    }

    /// Replaces the content by what `write` puts into `length` bytes; it returns how much that is.
    pub fn fill(&mut self, length: usize, write: impl FnOnce(&mut [u8]) -> usize) {
        self.clear();
        self.bytes.reserve_exact(length);
        self.bytes.resize(length, 0);
        let written = write(&mut self.bytes);
        self.bytes.truncate(written);
    }

    /// The first `count` bytes are done with.
    pub fn advance(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
        if self.start == self.bytes.len() {
            self.clear();
        }
    }

    /// Moves bytes into `buffer`, as many as there are and as fit. Returns how many.
    pub fn take(&mut self, buffer: &mut [u8]) -> usize {
        let count = self.len().min(buffer.len());
        let (space, _) = buffer.split_at_mut(count);
        let (bytes, _) = self.split_at(count);
        space.copy_from_slice(bytes);
        self.advance(count);
        count
    }

    /// Removes the bytes, but keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Gives back memory that the bytes do not need: all of it if there are none, or what is more
    /// than twice as much.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        } else if self.bytes.capacity() > SHORT_BYTES.max(2 * self.len()) {
            self.bytes.drain(..self.start);
            self.start = 0;
            self.bytes.shrink_to_fit();
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn changes_outside_of_a_poll_are_not_lost() {
        let (mut one, mut other) = (ReportedBytes::default(), ReportedBytes::default());
        one.update(100);
        let ((), change) = collect_changes(|| {
            one.update(30);
            other.update(50);
            other.update(20);
            let ((), inner) = collect_changes(|| other.update(21));
            assert_eq!(inner, 1);
        });
        assert_eq!(change, 50, "what changed before counts as well");
        let ((), change) = collect_changes(|| {
            one.update(0);
            other.update(0);
        });
        assert_eq!(change, -51);
    }

    #[test]
    fn capacity_grows_with_the_bytes() {
        let mut buffer = Buffer::default();
        let mut most = 0;
        for _ in 0..60 {
            buffer.append(&[1; 1000], 60_000);
            most = most.max(buffer.held_bytes());
            assert!(buffer.held_bytes() <= (buffer.len() * 5 / 4).max(buffer.len() + 1024));
        }
        assert_eq!(most, 60_000);
        buffer.advance(59_000);
        assert_eq!(buffer.held_bytes(), 60_000);
        buffer.release();
        assert_eq!((buffer.len(), buffer.held_bytes()), (1000, 1000));
        buffer.advance(1000);
        buffer.release();
        assert_eq!(buffer.held_bytes(), 0);
    }

    proptest! {
        #[test]
        fn bytes_are_read_in_order(
            steps in prop::collection::vec((0..3_u8, 0..3000_usize), 0..50),
        ) {
            let mut buffer = Buffer::default();
            let mut expected = Vec::new();
            let mut next = 0_u8;
            for (step, length) in steps {
                match step {
                    0 => {
                        let more: Vec<u8> = (0..length).map(|_| { next = next.wrapping_add(7); next }).collect();
                        buffer.append(&more, usize::MAX);
                        expected.extend(more);
                    }
                    1 => {
                        let mut space = vec![0; length];
                        let taken = buffer.take(&mut space);
                        prop_assert_eq!(taken, length.min(expected.len()));
                        let rest = expected.split_off(taken);
                        prop_assert_eq!(&space[..taken], &expected[..]);
                        expected = rest;
                    }
                    _ => buffer.release(),
                }
                prop_assert_eq!(&buffer[..], &expected[..]);
                prop_assert!(buffer.held_bytes() >= buffer.len());
            }
        }
    }
}
