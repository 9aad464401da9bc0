//! Metrics of the real relay: every instrument changes, the number of series is bounded, and the
//! documentation lists all.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

mod bounded;
mod coverage;
mod document;

use test_support::{process::Relay, prometheus::Scrape};

/// A relay with admin endpoints and these variables.
async fn start(variables: &[(&str, &str)]) -> Relay {
    let admin = [("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")];
    Relay::start(&[&admin, variables].concat()).await
}

/// Waits until the series with this name and these labels add up to at least `value`.
async fn wait_for_sum(relay: &Relay, name: &str, labels: &[(&str, &str)], value: f64) -> Scrape {
    let has = |scrape: &Scrape| scrape.sum(name, labels).is_some_and(|sum| sum >= value);
    Scrape::find(relay, &format!("{value} of {name} {labels:?}"), has).await
}
