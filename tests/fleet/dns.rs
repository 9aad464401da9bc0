//! The fleet's DNS server: the real binary with real relays and clients.
//!
//! Needs `dig` (Debian package `dnsutils`).

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

/// The zone of these tests.
pub const ZONE: &str = "fleet.test";
/// The name of the fleet's TXT records.
pub const FLEET: &str = "_dnsaddr.fleet.test";
/// The identity seed of the fleet.
pub const SEED: &str = "the seed of the fleet of this test";
