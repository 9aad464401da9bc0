//! libp2p's relay client with the real relay, over every transport.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use libp2p::Multiaddr;
use test_support::{
    client::{Client, Security, assert_echoed},
    process::Relay,
};

/// Reserves, connects, and echoes `length` bytes through a circuit.
async fn assert_relays(security: Security, address: impl Fn(&Relay) -> Multiaddr) {
    let mut relay = Relay::start(&[]).await;
    let address = address(&relay);
    let mut target = Client::new(security).await;
    target.reserve(&address).await.unwrap();
    let target_id = target.peer_id;
    relay.event("reservation accepted").await;
    let target = target.echo();

    let mut source = Client::new(security).await;
    source.connect(&address, target_id).await.unwrap();
    let accepted = relay.event("circuit accepted").await;
    let mut streams = source.streams.clone();
    let source = source.run();

    let sent: Vec<u8> = (0..3_000_000u32)
        .map(|n| u8::try_from(n * 7 % 251).unwrap())
        .collect();
    assert_echoed(&mut streams, target_id, &sent).await;

    source.abort();
    let closed = relay.event("circuit closed").await;
    for bytes in ["bytes_to_target", "bytes_to_source"] {
        assert!(closed[bytes].as_u64().unwrap() > 3_000_000, "{closed}");
    }
    assert_eq!(accepted["source_peer"], closed["source_peer"]);
    target.abort();
    relay.event("reservation closed").await;
    relay.signal(15);
    assert_eq!(relay.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_and_noise() {
    assert_relays(Security::Noise, Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_and_tls() {
    assert_relays(Security::Tls, Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_quic() {
    assert_relays(Security::Noise, Relay::quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_websocket() {
    assert_relays(Security::Noise, Relay::websocket).await;
}
