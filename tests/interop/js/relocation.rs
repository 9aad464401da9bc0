//! js-libp2p's relay client during a drain. Expected: it moves to another relay.

use std::time::Duration;

use serde_json::json;
use test_support::{
    client::{Client, Security},
    js::{self, Peer},
    process::Relay,
};
use tokio::time::{Instant, timeout};

use super::{address, strings, through};

/// Time limit until the client has reserved on the other relay.
const MOVE_TIMEOUT: Duration = Duration::from_secs(15);

/// The client listens on `/p2p-circuit`, that is, on any relay that it discovers, and knows two.
///
/// It searches for another relay when its connection ends. A client that listens on the
/// `/p2p-circuit` address of one relay is bound to that relay, and js-libp2p does not replace it.
async fn a_client_moves_to_the_next_relay(transport: &str) {
    let Some(node) = js::node() else { return };
    let window = [("RELAY_DRAIN_WINDOW", "1s"), ("RELAY_DRAIN_TIMEOUT", "1m")];
    let mut old = Relay::start(&window).await;
    let mut new = Relay::start(&[]).await;
    let mut peer = Peer::start(node, transport, "noise").await;
    peer.ask("discover", json!({})).await;
    let old_address = json!({ "address": address(&old, transport) });
    peer.ask("dial", old_address).await;
    let reserved = peer.event("reserved").await;
    assert_eq!(reserved["relay"], old.peer_id.to_string());
    // The client knows the other relay, but does not reserve there while it has one.
    let new_address = json!({ "address": address(&new, transport) });
    peer.ask("dial", new_address.clone()).await;
    peer.ask("identify", new_address).await;

    old.signal(15);
    old.event("draining").await;
    let begun = Instant::now();
    let moved = timeout(MOVE_TIMEOUT, peer.event("reserved")).await.unwrap();
    println!("moved {:?} after the signal", begun.elapsed());
    assert_eq!(moved["relay"], new.peer_id.to_string());
    new.event("reservation accepted").await;
    assert_eq!(old.exit_code().await, Some(0));

    // It advertises the new relay, and can be reached there.
    let listening = strings(&peer.ask("listening", json!({})).await["addresses"]);
    let by_new = through(&address(&new, transport), &peer.id);
    assert!(listening.contains(&by_new), "{listening:?}");
    let old_id = old.peer_id.to_string();
    assert!(
        listening.iter().all(|address| !address.contains(&old_id)),
        "{listening:?}"
    );
    let mut dialer = Client::new(Security::Noise).await;
    let target = peer.id.parse().unwrap();
    dialer.connect(&new.tcp(), target).await.unwrap();
}

#[tokio::test]
async fn a_client_moves_to_the_next_relay_over_tcp() {
    a_client_moves_to_the_next_relay("tcp").await;
}

#[tokio::test]
async fn a_client_moves_to_the_next_relay_over_quic() {
    a_client_moves_to_the_next_relay("quic").await;
}

#[tokio::test]
async fn a_client_moves_to_the_next_relay_over_websocket() {
    a_client_moves_to_the_next_relay("websocket").await;
}
