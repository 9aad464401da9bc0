//! What the reservation table and the task of a circuit tell each other about it.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// The state of one circuit, shared by its entry in the table and the task that carries it.
#[derive(Debug, Default)]
pub struct CircuitState {
    used: AtomicBool,
    evicted: CancellationToken,
}

impl CircuitState {
    /// Whether the target has sent a byte. An unused circuit gives way to others.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// The target has sent its first byte.
    pub fn set_used(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// The circuit gives way to another one: its task ends it.
    pub fn evict(&self) {
        self.evicted.cancel();
    }

    /// Cancelled when the circuit gives way to another one.
    pub fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }
}
