//! Accounting of the buffers in the layers below a muxer.
//!
//! A muxer charges all buffers of its connection to the connection's memory account. The security layer
//! and the WebSocket below it are wrapped in types of libp2p that give no access to them. So each layer
//! reports changes of its buffers to a thread-local counter while it is polled, and the muxer
//! [collects](collect_changes) the changes of one poll. Buffers from the time before there is a muxer,
//! during the handshake, are reported at the muxer's first poll.

use std::{cell::Cell, ops::Deref};

thread_local! {
    /// The sum of the changes since the start of [`collect_changes`], in bytes; `None` outside of it.
    static CHANGE: Cell<Option<i64>> = const { Cell::new(None) };
}

/// Restores the value of an outer call, also after a panic.
struct Restore(Option<i64>);

impl Drop for Restore {
    fn drop(&mut self) {
        CHANGE.set(self.0);
    }
}

/// Runs `work`. Returns its result, and the number of bytes by which the buffers of lower layers have grown
/// meanwhile. Changes in a nested call are not included.
pub fn collect_changes<R>(work: impl FnOnce() -> R) -> (R, i64) {
    let _restore = Restore(CHANGE.replace(Some(0)));
    let result = work();
    (result, CHANGE.get().unwrap_or_default())
}

/// The number of bytes that a layer has reported.
#[derive(Debug, Default)]
pub struct ReportedBytes(usize);

impl ReportedBytes {
    /// Reports that the layer holds `held` bytes now.
    pub fn update(&mut self, held: usize) {
        if held == self.0 {
            return;
        }
        // Outside of a poll by the muxer nothing is stored, so the change is reported later.
        let Some(change) = CHANGE.get() else { return };
        let signed = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        let difference = signed(held).saturating_sub(signed(self.0));
        CHANGE.set(Some(change.saturating_add(difference)));
        self.0 = held;
    }
}

/// A byte queue in contiguous memory, whose capacity grows by a quarter at a time.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// The number of bytes at the start that were removed.
    start: usize,
}

/// Shorter buffers grow by doubling.
const SHORT_BYTES: usize = 1024;

impl Buffer {
    /// The capacity in bytes.
    pub fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Appends `more`. If memory is allocated, its capacity does not exceed `max`, unless there are more
    /// bytes than that.
    pub fn append(&mut self, more: &[u8], max: usize) {
        let needed = self.len() + more.len();
        if self.bytes.capacity() < self.start + needed {
            self.bytes.drain(..self.start);
            self.start = 0;
            let spare = (needed / 4).max(needed.min(SHORT_BYTES));
            let capacity = (needed + spare).min(max).max(needed);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(more);
    }

    /// Replaces the content by the bytes that `write` stores in a buffer of `length` bytes. `write`
    /// returns their number.
    pub fn fill(&mut self, length: usize, write: impl FnOnce(&mut [u8]) -> usize) {
        self.clear();
        self.bytes.reserve_exact(length);
        self.bytes.resize(length, 0);
        let written = write(&mut self.bytes);
        self.bytes.truncate(written);
    }

    /// Removes the first `count` bytes.
    pub fn advance(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
        if self.start == self.bytes.len() {
            self.clear();
        }
    }

    /// Moves as many bytes into `buffer` as there are and as fit, and returns their number.
    pub fn take(&mut self, buffer: &mut [u8]) -> usize {
        let count = self.len().min(buffer.len());
        let (space, _) = buffer.split_at_mut(count);
        let (bytes, _) = self.split_at(count);
        space.copy_from_slice(bytes);
        self.advance(count);
        count
    }

    /// Removes all bytes, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Releases unused memory: all of it if the buffer is empty, or the excess if the capacity is more
    /// than twice the length.
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
        assert_eq!(change, 50, "earlier changes count as well");
        let ((), change) = collect_changes(|| {
            one.update(0);
            other.update(0);
        });
        assert_eq!(change, -51);
    }

    #[test]
    fn capacity_grows_with_the_bytes() {
        let mut buffer = Buffer::default();
        let mut peak = 0;
        for _ in 0..60 {
            buffer.append(&[1; 1000], 60_000);
            peak = peak.max(buffer.held_bytes());
            assert!(buffer.held_bytes() <= (buffer.len() * 5 / 4).max(buffer.len() + 1024));
        }
        assert_eq!(peak, 60_000);
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
