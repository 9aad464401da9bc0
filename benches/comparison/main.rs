//! Compares descord-relay with libp2p's relay under the same clients, in alternating rounds: the cost of
//! a byte, of a peer and of a circuit.
//!
//! ```sh
//! cargo bench --bench comparison                                  # everything
//! cargo bench --bench comparison -- throughput --channel quic     # a part of it
//! cargo bench --bench comparison -- --write                       # docs/design/performance-results.md
//! ```
//!
//! The image is built with the feature `openssl`; `--features openssl` measures that configuration.
//!
//! Each relay is a separate process, and only its CPU time is measured. `cargo test` runs a minimal
//! version as a smoke test, whose figures are not meaningful.

#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a benchmark has no drain that waits for its tasks, and may fail loudly"
)]

#[cfg(target_os = "linux")]
#[path = "run.rs"]
mod run;

#[cfg(target_os = "linux")]
fn main() -> run::Result<()> {
    run::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("skipped: needs Linux to measure other processes");
}
