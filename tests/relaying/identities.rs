//! Peers with identity keys of every type over every transport, and a relay with a secp256k1 key.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use circuit_relay::{VOUCHER_DOMAIN, VOUCHER_PAYLOAD_TYPE};
use libp2p::{Multiaddr, PeerId, core::SignedEnvelope, identity::Keypair};
use test_support::{
    client::{Client, Security, assert_echoed},
    peer_keys::{ForeignKey, every_type, rsa_2048, rsa_4096},
    process::{Relay, command, is, socket},
    prometheus::Scrape,
    raw::Raw,
};
use tokio::task::JoinSet;

const ADMIN: (&str, &str) = ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0");
const DENIED: &str = "relay_connection_denied_total";

/// A new secp256k1 key for `RELAY_IDENTITY_KEY`, and its peer id.
fn secp256k1() -> (String, PeerId) {
    let key = Keypair::generate_secp256k1();
    let text = STANDARD.encode(key.to_protobuf_encoding().unwrap());
    (text, key.public().to_peer_id())
}

/// Peers with keys of every type reserve at a relay with a secp256k1 key, and each is the target of a
/// circuit from a peer with the next key type.
async fn every_type_relays(security: Security, address: impl Fn(&Relay) -> Multiaddr) {
    let (key, id) = secp256k1();
    let relay = Relay::start(&[("RELAY_IDENTITY_KEY", &key)]).await;
    assert_eq!(relay.peer_id, id);
    let address = address(&relay);
    let mut targets = Vec::new();
    for (_, key) in every_type(rsa_2048()) {
        let id = key.public().to_peer_id();
        let mut target = Client::with_identity(security, key).await;
        target.reserve(&address).await.unwrap();
        targets.push(id);
        target.echo();
    }
    let mut sources = JoinSet::new();
    for (index, (name, key)) in every_type(rsa_4096()).into_iter().enumerate() {
        let target = targets[(index + 1) % targets.len()];
        let address = address.clone();
        sources.spawn(async move {
            let mut source = Client::with_identity(security, key).await;
            let connected = source.connect(&address, target).await;
            connected.unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut streams = source.streams.clone();
            source.run();
            assert_echoed(&mut streams, target, b"a message through the circuit").await;
        });
    }
    assert_eq!(sources.join_all().await.len(), targets.len());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_over_tcp_and_noise() {
    every_type_relays(Security::Noise, Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_over_tcp_and_tls() {
    every_type_relays(Security::Tls, Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_over_websocket() {
    every_type_relays(Security::Noise, Relay::websocket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_over_quic() {
    every_type_relays(Security::Noise, Relay::quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_with_a_secp256k1_key_signs_vouchers_and_is_probed() {
    let (key, id) = secp256k1();
    let variables = [("RELAY_IDENTITY_KEY", key.as_str())];
    let printed = command(&variables).arg("identity").output().await.unwrap();
    assert_eq!(
        String::from_utf8(printed.stdout).unwrap(),
        format!("{id}\n")
    );
    let relay = Relay::start(&variables).await;
    let mut peer = Raw::new(&relay.tcp()).await;
    let voucher = peer.reserve().await.reservation.unwrap().voucher.unwrap();
    let envelope = SignedEnvelope::from_protobuf_encoding(&voucher).unwrap();
    let (_, signer) = envelope
        .payload_and_signing_key(VOUCHER_DOMAIN.to_owned(), &VOUCHER_PAYLOAD_TYPE)
        .unwrap();
    assert_eq!(signer.to_peer_id(), id);
    for address in [relay.tcp(), relay.quic(), relay.websocket()] {
        let probed = command(&[])
            .args(["probe", "--bytes", "64KiB", &address.to_string()])
            .output()
            .await
            .unwrap();
        assert!(probed.status.success(), "{address}: {probed:?}");
    }
    relay.stop().await;
}

/// A client that runs until dropped.
fn connect(key: &Arc<ForeignKey>, relay: SocketAddr, quic: bool) -> JoinSet<()> {
    let key = Arc::clone(key);
    let mut client = JoinSet::new();
    client.spawn(async move {
        let connection = if quic {
            key.over_quic(relay).await
        } else {
            key.over_tls(relay).await
        };
        // The relay may close the connection in any way.
        drop(connection);
    });
    client
}

async fn handshakes(relay: &Relay, transport: &str, outcome: &str, number: u32) {
    let series = "relay_handshake_duration_seconds_count";
    let labels = [("transport", transport), ("outcome", outcome)];
    let enough = |scrape: &Scrape| scrape.sum(series, &labels) == Some(f64::from(number));
    Scrape::find(relay, &format!("{number} {transport} {outcome}"), enough).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn largest_rsa_key_is_accepted() {
    let relay = Relay::start(&[ADMIN]).await;
    let key = Arc::new(ForeignKey::rsa_8192());
    let tls = connect(&key, socket(&relay.tcp()), false);
    let quic = connect(&key, socket(&relay.quic()), true);
    handshakes(&relay, "tcp", "completed", 1).await;
    handshakes(&relay, "quic", "completed", 1).await;
    drop((tls, quic));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_keys_have_a_reason_in_metrics_and_log() {
    let relay = Relay::start(&[ADMIN]).await;
    let keys = [
        ("key_too_small", ForeignKey::forged_rsa(1024)),
        ("key_too_large", ForeignKey::forged_rsa(16384)),
        ("key_unsupported", ForeignKey::p384()),
        ("key_malformed", ForeignKey::malformed()),
    ];
    let mut reasons = Vec::new();
    for (reason, key) in keys {
        let key = Arc::new(key);
        connect(&key, socket(&relay.tcp()), false).join_all().await;
        connect(&key, socket(&relay.quic()), true).join_all().await;
        let both = |scrape: &Scrape| scrape.sum(DENIED, &[("reason", reason)]) == Some(2.0);
        Scrape::find(&relay, reason, both).await;
        reasons.push(reason);
    }
    handshakes(&relay, "tcp", "failed", 4).await;
    handshakes(&relay, "quic", "failed", 4).await;
    let events = relay.stop().await;
    for reason in reasons {
        let is_logged = |event| is(event, "connection refused") && event["reason"] == reason;
        let lines = events.iter().filter(|event| is_logged(event)).count();
        assert_eq!(lines, 2, "{reason}: {events:#?}");
    }
}

/// The connection rate limit of an address also bounds expensive key verifications: beyond it, the relay
/// verifies no key.
#[tokio::test(flavor = "multi_thread")]
async fn expensive_keys_are_within_the_rate_of_their_address() {
    const BURST: u32 = 2;
    const CLIENTS: u32 = 6;
    let relay = Relay::start(&[ADMIN, ("RELAY_RATE_CONNECTIONS_PER_IP", "2+1/h")]).await;
    let key = Arc::new(ForeignKey::rsa_8192());
    let address = socket(&relay.tcp());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| connect(&key, address, false))
        .collect();
    let refused = |scrape: &Scrape| {
        let reason = [("reason", "rate_connections_per_ip")];
        scrape.sum(DENIED, &reason) == Some(f64::from(CLIENTS - BURST))
    };
    Scrape::find(&relay, "refusals", refused).await;
    handshakes(&relay, "tcp", "completed", BURST).await;
    drop(clients);
    relay.stop().await;
}
