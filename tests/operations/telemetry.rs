//! Traces and metrics: what reaches a collector, what the variables do, and what becomes of the
//! relay when the collector is in trouble.

#![expect(
    unreachable_pub,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests fail loudly"
)]

mod circuit;
mod document;
mod secrets;
mod tls;
mod trouble;
mod variables;
mod wire;
