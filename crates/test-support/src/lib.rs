//! Shared support for tests and benchmarks: the relay binary as a process, libp2p clients, test networks,
//! and servers that the relay connects to.

#![allow(
    missing_docs,
    clippy::allow_attributes,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::incompatible_msrv,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly, their names are their documentation, and tests are run by the \
              current toolchain"
)]

use std::time::Duration;

pub mod auth_server;
pub mod autonat;
pub mod client;
pub mod collector;
pub mod dns;
pub mod event_audit;
pub mod fleet;
pub mod forward;
pub mod generated_page;
pub mod go;
pub mod http;
#[cfg(target_os = "linux")]
pub mod internet;
pub mod js;
pub mod load;
#[cfg(target_os = "linux")]
pub mod namespace;
pub mod ordinary_clients;
pub mod other_implementations;
pub mod peer_keys;
pub mod pki;
pub mod process;
pub mod prometheus;
pub mod raw;
pub mod tools;

/// Timeout for anything that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);
