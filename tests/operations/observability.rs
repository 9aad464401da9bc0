//! Alert rules, dashboard and scrape configuration, validated by Prometheus and compared with the
//! exported metrics.
//!
//! Needs `prometheus` and `promtool` (Debian package `prometheus`).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod alerts;
mod dashboard;
mod names;
mod promql;
mod scraped;
mod server;

use std::{path::PathBuf, process::Command};

use test_support::tools;

/// A file of the project.
fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file of the project.
fn text(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap()
}

/// Whether Prometheus is installed; `None` skips the test.
fn prometheus() -> Option<()> {
    let installed = ["prometheus", "promtool"]
        .iter()
        .try_for_each(|tool| tools::run(Command::new(tool).arg("--version")));
    tools::or_skip("Prometheus", &installed).copied()
}
