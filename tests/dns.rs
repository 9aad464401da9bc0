//! The directory of a fleet: the real binary, with real relays behind it and real clients before
//! it.
//!
//! Needs `dig` (Debian: dnsutils) for the queries of other people's tools.

#![allow(
    unreachable_pub,
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::incompatible_msrv,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests fail loudly, and are run by the current toolchain"
)]

#[path = "dns/answerer.rs"]
mod answerer;
#[path = "dns/clients.rs"]
mod clients;
#[path = "dns/dig.rs"]
mod dig;
#[path = "dns/follows.rs"]
mod follows;
#[expect(dead_code, reason = "only a part of it is of use in here")]
#[path = "support/foreign.rs"]
mod foreign;
#[path = "dns/hostile.rs"]
mod hostile;
#[path = "dns/hostile_relays.rs"]
mod hostile_relays;
#[path = "dns/process.rs"]
mod process;
#[path = "dns/queries.rs"]
mod queries;
#[path = "dns/records.rs"]
mod records;
mod support;

/// The zone of all these tests.
pub const ZONE: &str = "fleet.test";
/// The name of the fleet's own records.
pub const FLEET: &str = "_dnsaddr.fleet.test";
/// The seed of the fleet.
pub const SEED: &str = "the seed of the fleet of this test";
