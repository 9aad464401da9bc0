//! Room for bytes on their way from one place to another, which a thread has and not a connection.
//!
//! A relay with many connections would need buffers for each of them, or ask for one and return it
//! for every piece. These are there, are in the processor's cache, and belong to nobody while
//! nothing moves.

use std::cell::RefCell;

/// The most that is lent at once: two of the longest messages of Noise, and some more.
pub const MAX_BYTES: usize = 136 * 1024;

/// What the relay moves in one step.
pub const STEP_BYTES: usize = 64 * 1024;

thread_local! {
    /// As many as were ever lent at the same time: one for each layer that a byte passes.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `length` bytes, but no more than [`MAX_BYTES`]. They hold whatever was left there last.
pub fn with<R>(length: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    let spare = SPARE.with_borrow_mut(Vec::pop);
    // Memory of the system that is not written to is not there: nothing is lost by the full length.
    let mut buffer = spare.unwrap_or_else(|| vec![0; MAX_BYTES]);
    let (lent, _) = buffer.split_at_mut(length.min(MAX_BYTES));
    let result = work(lent);
    SPARE.with_borrow_mut(|spare| spare.push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_again_and_another_one_inside() {
        let address = |length| with(length, |bytes| (bytes.as_ptr(), bytes.len()));
        let (outer, inner) = with(10, |outer| (outer.as_ptr(), address(20)));
        assert_ne!(outer, inner.0);
        assert_eq!(inner.1, 20);
        assert_eq!(address(2 * MAX_BYTES), (outer, MAX_BYTES));
    }
}
