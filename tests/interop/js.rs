//! js-libp2p's relay client with the real relay. Expected: it reserves, and can be reached through the
//! relay by other js-libp2p nodes and by rust-libp2p.
//!
//! Needs npm, which installs everything else on the first run, into `tests/js/node_modules`.

#![allow(
    unreachable_pub,
    clippy::allow_attributes,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests fail loudly"
)]

mod documented_client;
mod identities;
mod limits;
mod private_network;
mod relocation;

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use libp2p::PeerId;
use serde_json::{Value, json};
use test_support::{
    client::{Client, Security, assert_echoed},
    js::{self, Peer, text},
    process::Relay,
};
use tokio_util::task::AbortOnDropHandle;

const MIB: u64 = 1024 * 1024;

fn address(relay: &Relay, transport: &str) -> String {
    let address = match transport {
        "quic" => relay.quic(),
        "websocket" => relay.websocket(),
        _ => relay.tcp(),
    };
    address.to_string()
}

fn through(relay: &str, peer: &str) -> String {
    format!("{relay}/p2p-circuit/p2p/{peer}")
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(text).collect()
}

/// A reserved js-libp2p node, a dialer connected to it through the relay, and the dialled address.
struct Pair {
    listener: Peer,
    dialer: Peer,
    path: String,
    /// The connection as the dialer reports it.
    connection: Value,
}

impl Pair {
    async fn start(node: &Path, relay: &Relay, transport: &str, encrypter: &str) -> Self {
        let relay = address(relay, transport);
        let mut listener = Peer::start(node, transport, encrypter).await;
        listener.ask("reserve", json!({ "relay": relay })).await;
        let mut dialer = Peer::start(node, transport, encrypter).await;
        let path = through(&relay, &listener.id);
        let connection = dialer.ask("dial", json!({ "address": path })).await;
        Self {
            listener,
            dialer,
            path,
            connection,
        }
    }

    /// Sends this many bytes from the dialer to be echoed. Returns the outcome.
    async fn echo(&mut self, bytes: u64) -> Value {
        self.dialer
            .ask("echo", json!({ "address": self.path, "bytes": bytes }))
            .await
    }
}

/// The outcome of a complete echo.
fn whole(bytes: u64) -> Value {
    json!({ "sent": bytes, "received": bytes, "matches": true, "end": "clean" })
}

/// A js-libp2p node connects to another one, and exactly 1 MiB is exchanged in each direction.
async fn js_reaches_js(transport: &str, encrypter: &str) {
    let Some(node) = js::node() else { return };
    let relay = Relay::start(&[]).await;
    let mut pair = Pair::start(node, &relay, transport, encrypter).await;
    assert_eq!(pair.connection["peer"], pair.listener.id);
    assert_eq!(pair.connection["address"], pair.path);
    assert_eq!(pair.echo(MIB).await, whole(MIB));

    let stream = pair.listener.event("stream accepted").await;
    assert_eq!(stream["peer"], pair.dialer.id);
    assert!(
        text(&stream["address"]).contains("/p2p-circuit/"),
        "{stream}"
    );
    ended_clean(&mut pair.listener).await;
}

async fn ended_clean(listener: &mut Peer) {
    let end = listener.event("stream ended").await;
    assert_eq!(
        end,
        json!({ "event": "stream ended", "received": MIB, "end": "clean" })
    );
}

#[tokio::test]
async fn js_reaches_js_over_tcp_and_noise() {
    js_reaches_js("tcp", "noise").await;
}

#[tokio::test]
async fn js_reaches_js_over_tcp_and_tls() {
    js_reaches_js("tcp", "tls").await;
}

#[tokio::test]
async fn js_reaches_js_over_websocket() {
    js_reaches_js("websocket", "noise").await;
}

#[tokio::test]
async fn js_reaches_js_over_quic() {
    js_reaches_js("quic", "noise").await;
}

#[tokio::test]
async fn rust_reaches_js() {
    let Some(node) = js::node() else { return };
    let relay = Relay::start(&[]).await;
    let mut listener = Peer::start(node, "tcp", "noise").await;
    listener
        .ask("reserve", json!({ "relay": address(&relay, "tcp") }))
        .await;
    let target: PeerId = listener.id.parse().unwrap();

    for relay in [relay.tcp(), relay.quic(), relay.websocket()] {
        let mut dialer = Client::new(Security::Noise).await;
        dialer.connect(&relay, target).await.unwrap();
        let mut control = dialer.streams.clone();
        let _running = AbortOnDropHandle::new(dialer.run());

        let data: Vec<u8> = (0..MIB).map(|byte| (byte % 251) as u8).collect();
        assert_echoed(&mut control, target, &data).await;
        ended_clean(&mut listener).await;
    }
}

#[tokio::test]
async fn js_reaches_rust() {
    let Some(node) = js::node() else { return };
    let relay = Relay::start(&[]).await;
    let mut dialer = Peer::start(node, "tcp", "noise").await;

    for listens_on in [relay.tcp(), relay.quic(), relay.websocket()] {
        let mut listener = Client::new(Security::Noise).await;
        listener.reserve(&listens_on).await.unwrap();
        let path = through(&address(&relay, "tcp"), &listener.peer_id.to_string());
        let _running = AbortOnDropHandle::new(listener.echo());

        dialer.ask("dial", json!({ "address": path })).await;
        let result = dialer
            .ask("echo", json!({ "address": path, "bytes": MIB }))
            .await;
        assert_eq!(result, whole(MIB));
    }
}

#[tokio::test]
async fn voucher_is_valid_for_the_client() {
    let Some(node) = js::node() else { return };
    let relay = Relay::start(&[("RELAY_RESERVATION_TTL", "20m")]).await;
    let relay_id = relay.peer_id.to_string();
    let mut peer = Peer::start(node, "tcp", "noise").await;
    let reservation = peer
        .ask("reserve", json!({ "relay": address(&relay, "tcp") }))
        .await;

    let expire = reservation["expire"].as_u64().unwrap();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(
        (now + 19 * 60..=now + 20 * 60).contains(&expire),
        "{expire} at {now}"
    );
    let voucher = json!({
        "signer": relay_id,
        "payload_type": "0302",
        "relay": relay_id,
        "peer": peer.id,
        "expiration": expire,
        "same_bytes": true,
    });
    assert_eq!(reservation["voucher"], voucher);
}

/// The client advertises the addresses in the relay's response.
#[tokio::test]
async fn reserved_client_announces_relay_addresses() {
    let Some(node) = js::node() else { return };
    let relay = Relay::start(&[]).await;
    let mut peer = Peer::start(node, "tcp", "noise").await;
    let reservation = peer
        .ask("reserve", json!({ "relay": address(&relay, "tcp") }))
        .await;

    let mut listening = strings(&reservation["listening"]);
    let mut expected = ["tcp", "quic", "websocket"]
        .map(|transport| through(&address(&relay, transport), &peer.id));
    listening.sort();
    expected.sort();
    assert_eq!(listening, expected);
}

#[tokio::test]
async fn identify_lists_hop_and_the_relays_addresses() {
    let Some(node) = js::node() else { return };
    let relay = Relay::start(&[]).await;
    let mut peer = Peer::start(node, "tcp", "noise").await;
    let relay_address = json!({ "address": address(&relay, "tcp") });
    peer.ask("dial", relay_address.clone()).await;
    let identified = peer.ask("identify", relay_address).await;

    let protocols = strings(&identified["protocols"]);
    assert!(
        protocols.contains(&"/libp2p/circuit/relay/0.2.0/hop".to_owned()),
        "{protocols:?}"
    );
    assert!(
        !protocols.contains(&"/libp2p/circuit/relay/0.2.0/stop".to_owned()),
        "{protocols:?}"
    );
    let addresses = strings(&identified["addresses"]);
    for address in ["tcp", "quic", "websocket"].map(|transport| address(&relay, transport)) {
        let (announced, _) = address.split_once("/p2p/").unwrap();
        let is_announced = |address: &String| address.split("/p2p/").next() == Some(announced);
        assert!(
            addresses.iter().any(is_announced),
            "{announced} in {addresses:?}"
        );
    }
}

/// At a relay with a limit of one reservation, the reserved peer can renew, and others are refused.
#[tokio::test]
async fn full_relay_accepts_renewals() {
    let Some(node) = js::node() else { return };
    // js-libp2p does not renew reservations that are valid for more than ten minutes.
    let variables = [
        ("RELAY_MAX_RESERVATIONS", "1"),
        ("RELAY_RESERVATION_TTL", "5m"),
        // Such early renewals are logged at level debug.
        ("RUST_LOG", "descord_relay=debug"),
    ];
    let mut relay = Relay::start(&variables).await;
    let arguments = json!({ "relay": address(&relay, "tcp") });
    let mut reserved = Peer::start(node, "tcp", "noise").await;
    let first = reserved.ask("reserve", arguments.clone()).await;

    let mut other = Peer::start(node, "tcp", "noise").await;
    let refusal = other.call("reserve", arguments.clone()).await.unwrap_err();
    assert!(refusal.contains("RESERVATION_REFUSED"), "{refusal}");

    let second = reserved.ask("renew", arguments).await;
    relay.event("reservation renewed").await;
    assert!(
        second["expire"].as_u64() >= first["expire"].as_u64(),
        "{first} {second}"
    );
    assert_eq!(second["voucher"]["expiration"], second["expire"]);

    // The renewed reservation accepts circuits.
    let path = through(&address(&relay, "tcp"), &reserved.id);
    other.ask("dial", json!({ "address": path })).await;
}
