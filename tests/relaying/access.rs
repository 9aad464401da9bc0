//! Access control of reservations and circuits, by lists, a file and an HTTP endpoint, on the real relay.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod endpoint;
mod file;
mod lists;
mod tls;
mod trouble;

use std::time::Duration;

use circuit_relay::wire::Status;
use libp2p::{PeerId, identity::Keypair};
use serde_json::Value;
use test_support::{
    PATIENCE,
    process::Relay,
    prometheus::Scrape,
    raw::{Raw, assert_status},
};

/// A new key, and its peer id as text.
fn key() -> (Keypair, String) {
    let key = Keypair::generate_ed25519();
    let id = key.public().to_peer_id().to_string();
    (key, id)
}

/// Asserts that `peer` is refused a reservation. Returns the log event.
async fn assert_refused(relay: &mut Relay, peer: &mut Raw) -> Value {
    assert_status(&peer.reserve().await, Status::PermissionDenied);
    let denied = relay.event("request denied").await;
    assert_eq!(denied["request"], "reserve", "{denied}");
    assert_eq!(denied["status"], "PERMISSION_DENIED", "{denied}");
    assert_eq!(denied["level"], "INFO", "{denied}");
    denied
}

/// Asserts that `source` is refused a circuit to `target`. Returns the log event.
async fn assert_circuit_refused(relay: &mut Relay, source: &mut Raw, target: PeerId) -> Value {
    let (answer, _) = source.connect(target).await;
    assert_status(&answer, Status::PermissionDenied);
    let denied = relay.event("request denied").await;
    assert_eq!(denied["request"], "connect", "{denied}");
    denied
}

/// Waits until the series with this name and these labels has this value.
async fn wait_for_metric(relay: &Relay, name: &str, labels: &[(&str, &str)], value: f64) {
    let is_it = |sum: f64| (sum - value).abs() < 0.5;
    let has = |scrape: &Scrape| scrape.sum(name, labels).is_some_and(is_it);
    Scrape::find(relay, &format!("{value} of {name} {labels:?}"), has).await;
}
