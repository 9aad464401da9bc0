//! Attacks by single clients on the real binary over real sockets. Expected: ordinary clients are served
//! during the attack. After it, no reservation, circuit or connection is left, no task has panicked, and
//! memory and files are released.

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

/// Tolerance after a deadline, for a busy machine.
const SLACK: Duration = Duration::from_secs(5);
