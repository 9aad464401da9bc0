//! The directory of a fleet: the real binary, with real relays behind it and real clients before
//! it.
//!
//! Needs `dig` (Debian: dnsutils) for the queries of other people's tools.

#![allow(
    unreachable_pub,
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests fail loudly"
)]

mod clients;
mod dig;
mod hostile;
mod hostile_relays;
mod process;
mod queries;
mod readiness;
mod records;
mod server;

/// The zone of all these tests.
pub const ZONE: &str = "fleet.test";
/// The name of the fleet's own records.
pub const FLEET: &str = "_dnsaddr.fleet.test";
/// The seed of the fleet.
pub const SEED: &str = "the seed of the fleet of this test";
