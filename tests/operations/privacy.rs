//! Data about clients in the relay's output: all of it is collected and searched.

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

/// On Linux, connections to 127.0.0.2 come from 127.0.0.1. Nothing else of these tests is there.
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

/// A relay with all outputs enabled, some of them to the collector there.
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

/// Clients of all kinds, good and bad, come and go; gives all that was said, and who held a
/// reservation.
async fn said(variables: &[(&str, &str)]) -> (String, PeerId, PeerId) {
    let collector = Collector::start_at(([127, 0, 0, 3], 0).into(), None).await;
    let endpoint = collector.url();
    let mut relay = start(&endpoint, variables).await;
    let relay_id = relay.peer_id;

    for address in [relay.tcp(), relay.quic(), relay.websocket()] {
        ordinary_clients::assert_served(&address).await;
    }
    let mut holder = Client::new(Security::Tls).await;
    holder.reserve(&relay.tcp()).await.unwrap();
    assert!(
        holder
            .connect(&relay.tcp(), PeerId::random())
            .await
            .is_err()
    );
    let garbage = http::send(socket(&relay.tcp()), &[0xff; 64]).await;
    drop(garbage);
    // A circuit that is cut at the end.
    let source = Raw::new(&relay.quic()).await;
    let target = Raw::new(&relay.tcp()).await;
    let mut circuit = Circuit::between(source, target).await;
    futures::AsyncWriteExt::write_all(&mut circuit.near, &pattern(10_000))
        .await
        .unwrap();
    relay.event("statistics").await;

    let peer = holder.peer_id;
    let said = gather(relay, &collector).await;
    collector.look(|received| {
        assert!(received.spans().any(|span| span.name == "circuit"));
    });
    for kind in [
        "circuit accepted",
        "request denied",
        "relay_circuit_io_bytes_total",
        "hop.reserve",
    ] {
        assert!(said.contains(kind), "{kind}");
    }
    (said, peer, relay_id)
}

/// Ends the relay, and gives all that it has said anywhere.
async fn gather(relay: Relay, collector: &Collector) -> String {
    let mut said = String::new();
    let scrape = "GET /metrics HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\
                  Accept: application/openmetrics-text; version=1.0.0\r\n\r\n";
    let mut scrape = http::send(relay.admin(), scrape.as_bytes()).await;
    said.push_str(&http::until_closed(&mut scrape).await);
    for endpoint in ENDPOINTS {
        let (_, body) = http::get(&relay, endpoint).await;
        writeln!(said, "{body}").unwrap();
    }
    let events = relay.stop().await;
    for event in events {
        writeln!(said, "{event}").unwrap();
    }
    collector.look(|received| {
        assert!(!received.metrics.is_empty());
        writeln!(said, "{:?}{:?}", received.traces, received.metrics).unwrap();
    });
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_and_no_peer_id_of_a_client_is_anywhere() {
    let (said, peer, relay_id) = said(&[]).await;
    assert!(!said.contains(CLIENTS), "{}", around(&said, CLIENTS));
    let peer = peer.to_string();
    assert!(!said.contains(&peer), "{}", around(&said, &peer));
    // The relay's own id is the only one.
    let others = said.replace(&relay_id.to_string(), "");
    assert!(
        !others.contains("12D3KooW"),
        "{}",
        around(&others, "12D3KooW")
    );
    assert!(said.contains("p-"));
}

/// Peers are denied by a rule, or by the endpoint, which receives their ids.
#[tokio::test(flavor = "multi_thread")]
async fn peers_denied_by_access_control_are_named_nowhere() {
    let elsewhere = ([127, 0, 0, 3], 0).into();
    let collector = Collector::start_at(elsewhere, None).await;
    let auth_server = AuthServer::start_at(elsewhere, Mode::Rule("not-a-member"), None).await;
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
    let mut stranger = Raw::new(&relay.quic()).await;
    stranger.reserve().await;
    auth_server.set_mode(Mode::Text("12D3KooW 127.0.0.1"));
    Raw::new(&relay.tcp()).await.reserve().await;
    std::fs::write(&file, format!("{rules}deny {peer} {CLIENTS}\n")).unwrap();
    relay.event("RELAY_ACCESS_FILE has changed").await;
    let said = gather(relay, &collector).await;
    for told in [
        "RELAY_ACCESS_FILE, line 1",
        "RELAY_ACCESS_FILE, line 2",
        "RELAY_ACCESS_URL, not-a-member",
        "fail-closed",
        "line 3 ",
    ] {
        assert!(said.contains(told), "{told}");
    }
    let others = said.replace(&relay_id, "");
    for secret in [CLIENTS, "12D3KooW"] {
        assert!(!others.contains(secret), "{}", around(&others, secret));
    }
}

/// The search above would have found it.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_appear_in_the_debug_log() {
    let (said, _, _) = said(&[("RUST_LOG", "debug")]).await;
    assert!(said.contains(CLIENTS));
}

/// The search above would have found them.
#[tokio::test(flavor = "multi_thread")]
async fn peer_ids_appear_when_configured() {
    let (said, peer, _) = said(&[("RELAY_PEER_IDS", "full")]).await;
    assert!(!said.contains(CLIENTS), "{}", around(&said, CLIENTS));
    assert!(said.contains(&peer.to_string()));
}

/// What stands about the first place of `needle`.
fn around<'a>(text: &'a str, needle: &str) -> &'a str {
    let at = text.find(needle).unwrap_or_default();
    let (from, to) = (at.saturating_sub(200), (at + 200).min(text.len()));
    text.get(from..to).unwrap_or(text)
}
