//! Per-thread buffers for bytes that are copied within one poll.
//!
//! With a buffer per connection, memory would grow with the number of connections; with an
//! allocation per copy, every copy would pay for the allocator. The buffers here belong to the
//! worker threads instead. They stay in the processor's cache, and an idle connection holds none.

use std::cell::RefCell;

/// The length of each buffer in bytes, and so the maximum that [`with`] provides: two Noise
/// messages of the maximum length, and the bytes that are gathered before them.
pub const MAX_BYTES: usize = 136 * 1024;

/// The number of bytes that the relay reads and writes in one step.
pub const STEP_BYTES: usize = 64 * 1024;

thread_local! {
    /// The buffers that are not in use. A thread has as many in total as calls of [`with`] were ever
    /// nested on it: one for each layer that a byte passes.
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with a buffer of `length` bytes, but no more than [`MAX_BYTES`]. The content is
/// unspecified: it is left over from previous calls.
pub fn with<R>(length: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    let spare = POOL.with_borrow_mut(Vec::pop);
    // The system backs zeroed memory with pages only when it is written to: allocating the full
    // length costs nothing for the part that is never used.
    let mut buffer = spare.unwrap_or_else(|| vec![0; MAX_BYTES]);
    let (bytes, _) = buffer.split_at_mut(length.min(MAX_BYTES));
    let result = work(bytes);
    POOL.with_borrow_mut(|pool| pool.push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_is_reused_and_nested_calls_get_another() {
        let address = |length| with(length, |bytes| (bytes.as_ptr(), bytes.len()));
        let (outer, inner) = with(10, |outer| (outer.as_ptr(), address(20)));
        assert_ne!(outer, inner.0);
        assert_eq!(inner.1, 20);
        assert_eq!(address(2 * MAX_BYTES), (outer, MAX_BYTES));
    }
}
