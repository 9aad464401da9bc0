//! What a circuit and the reservation table share about the circuit.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// The state of one circuit that is open or being opened.
///
/// A circuit is *unused* until its target has sent a byte after it accepted STOP. When another
/// circuit needs its slot, an unused circuit can be evicted.
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

    /// The target has sent a byte.
    pub fn mark_used(&self) {
        self.used.store(true, Ordering::Release);
    }

    /// Ends the circuit, also while it is being opened.
    pub fn evict(&self) {
        self.evicted.cancel();
    }

    /// Cancelled when the circuit has to end.
    pub fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }
}
