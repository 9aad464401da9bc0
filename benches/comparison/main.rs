//! Our relay and libp2p's in turn, driven by the same clients: what a byte, a peer and a circuit
//! cost each.
//!
//! ```sh
//! cargo bench --bench comparison                                  # everything
//! cargo bench --bench comparison -- throughput --channel quic     # a part of it
//! cargo bench --bench comparison -- --write                       # docs/design/performance-results.md
//! ```
//!
//! The image has the feature `openssl`: `--features openssl` measures the relay as it is shipped.
//!
//! Each relay is a separate process, and its CPU time alone counts. `cargo test` runs everything
//! at its smallest, so that it keeps working; the figures mean nothing then.

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
    println!("skipped: needs Linux, to ask what another process uses");
}
