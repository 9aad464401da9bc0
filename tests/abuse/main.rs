//! What strangers can do to the relay, with real sockets and the real binary. Meanwhile ordinary
//! clients are served, and afterwards the relay is what it was: nobody in its books, no task that
//! panicked, and its memory and files given back.

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
#[path = "../support/mod.rs"]
mod support;
mod transport;
mod unread;
mod victim;

use std::time::Duration;

/// How much later than by its deadline something may happen on a busy machine.
const SLACK: Duration = Duration::from_secs(5);
