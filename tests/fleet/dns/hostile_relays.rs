//! Hostile servers at the addresses of relays. Expected: invalid status responses do not change the zone,
//! and valid ones are bounded.

use std::net::SocketAddr;

use axum::{Router, routing::get};
use hickory_proto::rr::RecordType;
use libp2p::PeerId;
use serde_json::json;
use test_support::dns::texts;
use tokio::net::TcpListener;

use crate::dns::{
    FLEET,
    server::{DnsServer, relay},
};

/// A server with this `/status` response.
async fn hostile_server(body: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().route("/status", get(async move || body));
    tokio::task::spawn(async move { axum::serve(listener, routes).await });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_status_responses_do_not_change_the_zone() {
    let relay = relay("relay-0", &[]).await;
    let id = PeerId::random();
    let address = |port| format!("/ip4/192.0.2.1/tcp/{port}/p2p/{id}");
    let mut relays = vec![relay.admin()];
    for body in [
        "x".repeat(100 << 20),
        "{}".to_owned(),
        format!("{{\"peer_id\": \"{id}\", \"phase\": {}", "[".repeat(50_000)),
        json!({ "peer_id": "me", "phase": "ready", "addresses": [address(1)] }).to_string(),
    ] {
        relays.push(hostile_server(body).await);
    }
    // A plausible response gets as many records as a relay.
    let addresses: Vec<_> = (1..500).map(address).collect();
    let body = json!({
        "peer_id": id.to_string(),
        "instance": "ns",
        "phase": "ready",
        "addresses": addresses,
    });
    relays.push(hostile_server(body.to_string()).await);
    let relays: Vec<_> = relays.iter().map(SocketAddr::to_string).collect();
    let ns = [("RELAY_DNS_NS", "ns.fleet.test=192.0.2.53")];
    let mut server = DnsServer::start(&relays.join(","), &ns).await;
    server.wait_for_relay_count(2).await;

    let mut expected = vec![
        format!("dnsaddr=/dnsaddr/ns.fleet.test/p2p/{id}"),
        format!("dnsaddr=/dnsaddr/relay-0.fleet.test/p2p/{}", relay.peer_id),
    ];
    expected.sort();
    assert_eq!(server.texts().await, expected);
    let own = server
        .ask_tcp("_dnsaddr.ns.fleet.test", RecordType::TXT)
        .await;
    assert_eq!(texts(&own).len(), 16);
    // It cannot replace the name server's address or the zone's own records.
    let ns = server.ask("ns.fleet.test", RecordType::A).await;
    assert_eq!(ns.answers[0].data.to_string(), "192.0.2.53");
    assert_eq!(ns.answers.len(), 1);
    assert!(server.ask_tcp(FLEET, RecordType::TXT).await.authoritative);
    assert!(server.used_bytes() < 200 << 20);
}
