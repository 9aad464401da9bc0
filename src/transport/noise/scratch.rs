//! Room for ciphertext, one piece for each thread, as nobody needs it for longer than a poll.

use std::cell::Cell;

use super::{MAX_FRAME_BYTES, outgoing};

/// Enough for the largest read and for the largest write.
pub(super) const SCRATCH_BYTES: usize = outgoing::MAX_BURST_BYTES;

const _: () = assert!(MAX_FRAME_BYTES <= SCRATCH_BYTES);

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends the scratch to `work`, with whatever was left in it. A channel within a channel gets
/// another one.
pub(super) fn with<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = SPARE.take();
    scratch.resize(SCRATCH_BYTES, 0);
    let done = work(&mut scratch);
    SPARE.set(scratch);
    done
}
