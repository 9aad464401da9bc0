//! Client addresses and peer ids in the relay's output. All output is collected and searched.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::fmt::Write as _;

use libp2p::{PeerId, identity::Keypair};
use test_support::{
    auth_server::{AuthServer, Mode},
    client::{Client, Security},
    collector::Collector,
    http, ordinary_clients,
    process::{Relay, socket},
    raw::{Circuit, Raw, pattern},
};

/// On Linux, connections to 127.0.0.2 have the source address 127.0.0.1. Nothing else in these tests uses
/// it.
const CLIENTS: &str = "127.0.0.1";
const ENDPOINTS: [&str; 8] = [
    "/livez",
    "/readyz",
    "/drainz",
    "/status",
    "/metrics",
    "/log-filter",
    "/peers",
    "/peers?by=total&limit=100",
];

/// A relay with all outputs enabled, including the collector at this endpoint.
async fn start(endpoint: &str, variables: &[(&str, &str)]) -> Relay {
    let mut all = vec![
        (
            "RELAY_LISTEN_ADDRESSES",
            "/ip4/127.0.0.2/tcp/0,/ip4/127.0.0.2/udp/0/quic-v1,/ip4/127.0.0.2/tcp/0/ws",
        ),
        ("RELAY_ADMIN_ADDRESS", "127.0.0.2:0"),
        ("RELAY_STATS_INTERVAL", "1s"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
    ];
    all.extend(variables);
    Relay::start(&all).await
}

/// Runs clients of all kinds, including misbehaving ones. Returns all output, and the peer ids of a
/// reserved peer and of the relay.
async fn collect_output(variables: &[(&str, &str)]) -> (String, PeerId, PeerId) {
    let collector = Collector::start_at(([127, 0, 0, 3], 0).into(), None).await;
    let endpoint = collector.url();
    let mut relay = start(&endpoint, variables).await;
    let relay_id = relay.peer_id;

    for address in [relay.tcp(), relay.quic(), relay.websocket()] {
        ordinary_clients::assert_served(&address).await;
    }
    let mut reserved = Client::new(Security::Tls).await;
    reserved.reserve(&relay.tcp()).await.unwrap();
    assert!(
        reserved
            .connect(&relay.tcp(), PeerId::random())
            .await
            .is_err()
    );
    let garbage = http::send(socket(&relay.tcp()), &[0xff; 64]).await;
    drop(garbage);
    // This circuit is open until the relay stops.
    let source = Raw::new(&relay.quic()).await;
    let target = Raw::new(&relay.tcp()).await;
    let mut circuit = Circuit::between(source, target).await;
    futures::AsyncWriteExt::write_all(&mut circuit.near, &pattern(10_000))
        .await
        .unwrap();
    relay.event("statistics").await;

    let peer = reserved.peer_id;
    let output = gather(relay, &collector).await;
    collector.look(|received| {
        assert!(received.spans().any(|span| span.name == "circuit"));
    });
    for kind in [
        "circuit accepted",
        "request denied",
        "relay_circuit_io_bytes_total",
        "hop.reserve",
    ] {
        assert!(output.contains(kind), "{kind}");
    }
    (output, peer, relay_id)
}

/// Stops the relay and returns all of its output.
async fn gather(relay: Relay, collector: &Collector) -> String {
    let mut output = String::new();
    let scrape = "GET /metrics HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\
                  Accept: application/openmetrics-text; version=1.0.0\r\n\r\n";
    let mut scrape = http::send(relay.admin(), scrape.as_bytes()).await;
    output.push_str(&http::until_closed(&mut scrape).await);
    for endpoint in ENDPOINTS {
        let (_, body) = http::get(&relay, endpoint).await;
        writeln!(output, "{body}").unwrap();
    }
    let events = relay.stop().await;
    for event in events {
        writeln!(output, "{event}").unwrap();
    }
    collector.look(|received| {
        assert!(!received.metrics.is_empty());
        writeln!(output, "{:?}{:?}", received.traces, received.metrics).unwrap();
    });
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_address_or_peer_id_is_disclosed() {
    let (output, peer, relay_id) = collect_output(&[]).await;
    assert!(!output.contains(CLIENTS), "{}", around(&output, CLIENTS));
    let peer = peer.to_string();
    assert!(!output.contains(&peer), "{}", around(&output, &peer));
    // The relay's own peer id is the only one.
    let others = output.replace(&relay_id.to_string(), "");
    assert!(
        !others.contains("12D3KooW"),
        "{}",
        around(&others, "12D3KooW")
    );
    assert!(output.contains("p-"));
}

/// Peers are denied by a rule, and by the endpoint, which receives their ids.
#[tokio::test(flavor = "multi_thread")]
async fn peers_denied_by_access_control_are_not_disclosed() {
    let other_address = ([127, 0, 0, 3], 0).into();
    let collector = Collector::start_at(other_address, None).await;
    let auth_server = AuthServer::start_at(other_address, Mode::Rule("not-a-member"), None).await;
    let key = Keypair::generate_ed25519();
    let peer = key.public().to_peer_id().to_string();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.rules");
    let rules = format!("deny reserve {peer}\ndeny connect {CLIENTS}\n");
    std::fs::write(&file, &rules).unwrap();
    let variables = [
        ("RELAY_ACCESS_FILE", file.to_str().unwrap()),
        ("RELAY_ACCESS_URL", &auth_server.url()),
    ];
    let mut relay = start(&collector.url(), &variables).await;
    let relay_id = relay.peer_id.to_string();
    let mut denied = Raw::with_key(key, &relay.tcp()).await;
    denied.reserve().await;
    denied.connect(PeerId::random()).await;
    let mut unlisted = Raw::new(&relay.quic()).await;
    unlisted.reserve().await;
    auth_server.set_mode(Mode::Text("12D3KooW 127.0.0.1"));
    Raw::new(&relay.tcp()).await.reserve().await;
    std::fs::write(&file, format!("{rules}deny {peer} {CLIENTS}\n")).unwrap();
    relay.event("RELAY_ACCESS_FILE has changed").await;
    let output = gather(relay, &collector).await;
    for expected in [
        "RELAY_ACCESS_FILE, line 1",
        "RELAY_ACCESS_FILE, line 2",
        "RELAY_ACCESS_URL, not-a-member",
        "fail-closed",
        "line 3 ",
    ] {
        assert!(output.contains(expected), "{expected}");
    }
    let others = output.replace(&relay_id, "");
    for secret in [CLIENTS, "12D3KooW"] {
        assert!(!others.contains(secret), "{}", around(&others, secret));
    }
}

/// Verifies that the search can find addresses.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_appear_in_the_debug_log() {
    let (output, _, _) = collect_output(&[("RUST_LOG", "debug")]).await;
    assert!(output.contains(CLIENTS));
}

/// Verifies that the search can find peer ids.
#[tokio::test(flavor = "multi_thread")]
async fn peer_ids_appear_when_configured() {
    let (output, peer, _) = collect_output(&[("RELAY_PEER_IDS", "full")]).await;
    assert!(!output.contains(CLIENTS), "{}", around(&output, CLIENTS));
    assert!(output.contains(&peer.to_string()));
}

/// The text around the first occurrence of `needle`.
fn around<'a>(text: &'a str, needle: &str) -> &'a str {
    let at = text.find(needle).unwrap_or_default();
    let (from, to) = (at.saturating_sub(200), (at + 200).min(text.len()));
    text.get(from..to).unwrap_or(text)
}
