//! Export of traces and metrics: content, variables, and failures of the collector.

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
