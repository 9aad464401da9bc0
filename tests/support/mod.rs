//! What the integration tests share: the real binary as a process, and real libp2p clients.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "each test file uses a part of it, and helpers of tests may fail loudly"
)]

use std::time::Duration;

pub mod books;
pub mod bystander;
pub mod client;
pub mod crowd;
pub mod dns;
pub mod fleet;
pub mod forward;
pub mod http;
pub mod process;
pub mod prometheus;
pub mod raw;

/// Longer than anything that a test waits for; what takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
