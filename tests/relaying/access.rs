//! Who may reserve, and who may connect to whom: the real relay, real clients, real files, and a
//! real endpoint.

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

/// A key, and the peer id that it gives, as text.
fn key() -> (Keypair, String) {
    let key = Keypair::generate_ed25519();
    let id = key.public().to_peer_id().to_string();
    (key, id)
}

/// `peer` is refused a reservation; gives what the log says of it.
async fn is_refused(relay: &mut Relay, peer: &mut Raw) -> Value {
    assert_status(&peer.reserve().await, Status::PermissionDenied);
    let denied = relay.event("request denied").await;
    assert_eq!(denied["request"], "reserve", "{denied}");
    assert_eq!(denied["status"], "PERMISSION_DENIED", "{denied}");
    assert_eq!(denied["level"], "INFO", "{denied}");
    denied
}

/// `source` is refused a circuit to `target`; gives what the log says of it.
async fn is_refused_to(relay: &mut Relay, source: &mut Raw, target: PeerId) -> Value {
    let (answer, _) = source.connect(target).await;
    assert_status(&answer, Status::PermissionDenied);
    let denied = relay.event("request denied").await;
    assert_eq!(denied["request"], "connect", "{denied}");
    denied
}

/// Asks until the series of this name and these labels has this value.
async fn has(relay: &Relay, name: &str, labels: &[(&str, &str)], value: f64) {
    let is_it = |sum: f64| (sum - value).abs() < 0.5;
    let has = |scrape: &Scrape| scrape.sum(name, labels).is_some_and(is_it);
    Scrape::find(relay, &format!("{value} of {name} {labels:?}"), has).await;
}
