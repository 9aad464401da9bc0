//! What is shipped for operators, judged by Prometheus itself and held to what the relay exports.
//!
//! Needs `prometheus` and `promtool`, of Debian's package `prometheus`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod alerts;
mod dashboard;
#[expect(
    dead_code,
    unreachable_pub,
    clippy::incompatible_msrv,
    reason = "only a part of it is of use in here, and tests are run by the current toolchain"
)]
#[path = "../support/foreign.rs"]
mod foreign;
mod names;
mod promql;
mod scraped;
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::{path::PathBuf, process::Command};

/// A file of the project.
fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file of the project.
fn text(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap()
}

/// Whether Prometheus is there; `None` skips the test.
fn prometheus() -> Option<()> {
    let installed = ["prometheus", "promtool"]
        .iter()
        .try_for_each(|tool| foreign::run(Command::new(tool).arg("--version")));
    foreign::or_skip("Prometheus", &installed).copied()
}
