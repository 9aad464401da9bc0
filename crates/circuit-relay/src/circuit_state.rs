//! State of a circuit that its task and the reservation table share.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// The state of one circuit that is open or being opened.
///
/// A circuit is *unused* until its target has sent a byte after accepting STOP. An unused circuit
/// can be evicted when another circuit needs its slot.
#[derive(Debug, Default)]
pub struct CircuitState {
    used: AtomicBool,
    evicted: CancellationToken,
}

impl CircuitState {
    /// Whether the target has sent a byte.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// Records that the target has sent a byte.
    pub fn mark_used(&self) {
        self.used.store(true, Ordering::Release);
    }

    /// Ends the circuit, even while it is being opened.
    pub fn evict(&self) {
        self.evicted.cancel();
    }

    /// Cancelled when the circuit is evicted.
    pub fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }
}
