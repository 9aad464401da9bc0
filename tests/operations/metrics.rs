//! The metrics of the real relay: each one moves, none grows beyond what the catalogue allows, and
//! the documentation lists them all.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

mod bounded;
mod coverage;
mod document;

use test_support::{process::Relay, prometheus::Scrape};

/// A relay that can be asked, with these variables.
async fn start(variables: &[(&str, &str)]) -> Relay {
    let admin = [("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")];
    Relay::start(&[&admin, variables].concat()).await
}

/// Asks `relay` until the series of this name and these labels add up to `value` or more.
async fn reaches(relay: &Relay, name: &str, labels: &[(&str, &str)], value: f64) -> Scrape {
    let has = |scrape: &Scrape| scrape.sum(name, labels).is_some_and(|sum| sum >= value);
    Scrape::find(relay, &format!("{value} of {name} {labels:?}"), has).await
}
