//! Attacks by single clients, with real sockets and the real binary. Ordinary clients are served
//! meanwhile. Afterwards no reservation, circuit or connection is left, no task has panicked, and memory
//! and files are released.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod churn;
mod dialler;
mod expiry;
mod floods;
mod half_open;
mod hop;
mod identify;
mod loops;
mod memory;
mod slow;
mod soak;
mod storms;
mod target_relay;
mod transport;
mod unread;

use std::time::Duration;

/// How much later than by its deadline something may happen on a busy machine.
const SLACK: Duration = Duration::from_secs(5);
