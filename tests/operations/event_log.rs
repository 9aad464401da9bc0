//! The format of the event log, and data that it must not contain.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::process::Stdio;

use descord_relay::admin::client;
use libp2p::{Multiaddr, PeerId};
use test_support::{
    client::{Client, Security},
    ordinary_clients,
    process::{Relay, command, is},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

/// The log lines of a relay up to its readiness.
async fn start_up(format: &str) -> Vec<String> {
    let mut relay = command(&[
        ("RELAY_LISTEN_ADDRESSES", "/ip4/127.0.0.1/tcp/0"),
        ("RELAY_ADMIN_ADDRESS", ""),
        ("RELAY_LOG_FORMAT", format),
    ])
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let mut stdout = BufReader::new(relay.stdout.take().unwrap()).lines();
    let mut lines = Vec::new();
    let ready = timeout(test_support::PATIENCE, async {
        while let Some(line) = stdout.next_line().await.unwrap() {
            lines.push(line);
            if lines.last().unwrap().contains("relay ready") {
                return;
            }
        }
    });
    ready.await.unwrap();
    lines
}

#[tokio::test]
async fn text_format_is_readable() {
    let lines = start_up("text").await;
    let ready = lines.last().unwrap();
    for part in ["INFO", "relay ready", "peer_id=12D3KooW", "addresses="] {
        assert!(ready.contains(part), "{ready}");
    }
    assert!(
        !ready.contains('\x1b'),
        "no colours outside of a terminal: {ready:?}"
    );
}

#[tokio::test]
async fn json_lines_are_the_default_without_a_terminal() {
    for format in ["json", "auto"] {
        for line in start_up(format).await {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            for field in ["timestamp", "level", "message"] {
                assert!(event[field].is_string(), "{line}");
            }
        }
    }
}

/// Serves clients with another address than the relay's own, and refuses one of them. Returns the log,
/// the peer id of a reserved peer, and the relay's peer id.
async fn served(variables: &[(&str, &str)]) -> (String, PeerId, String) {
    // On Linux, connections to 127.0.0.2 have the source address 127.0.0.1.
    let mut all = vec![(
        "RELAY_LISTEN_ADDRESSES",
        "/ip4/127.0.0.2/tcp/0,/ip4/127.0.0.2/udp/0/quic-v1",
    )];
    all.extend(variables);
    let mut relay = Relay::start(&all).await;
    let relay_id = relay.peer_id.to_string();
    ordinary_clients::assert_served(&relay.quic()).await;
    let mut client = Client::new(Security::Tls).await;
    client.reserve(&relay.tcp()).await.unwrap();
    let result = client.connect(&relay.tcp(), PeerId::random()).await;
    assert!(result.is_err());
    relay.event("request denied").await;
    let peer_id = client.peer_id;
    drop(client);
    relay.event_where("reservation closed", |_| true).await;
    let events = relay.stop().await;
    for message in ["reservation accepted", "circuit accepted", "circuit closed"] {
        assert!(events.iter().any(|e| is(e, message)), "{message}");
    }
    let log = events.iter().map(ToString::to_string).collect::<String>();
    (log, peer_id, relay_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_address_or_peer_id_is_logged() {
    let (log, peer_id, relay_id) = served(&[]).await;
    assert!(!log.contains("127.0.0.1"), "{log}");
    assert!(!log.contains(&peer_id.to_string()), "{log}");
    // The relay's own peer id is the only one.
    assert!(log.contains(&relay_id));
    assert!(!log.replace(&relay_id, "").contains("12D3KooW"), "{log}");
    assert!(log.contains("\"p-"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_ids_are_logged_when_configured() {
    let (log, peer_id, _) = served(&[("RELAY_PEER_IDS", "full")]).await;
    assert!(!log.contains("127.0.0.1"), "{log}");
    assert!(log.contains(&peer_id.to_string()), "{log}");
    assert!(!log.contains("\"p-"), "{log}");
}

/// A peer has the same pseudonym on every relay of a fleet, and another one in other fleets.
#[tokio::test(flavor = "multi_thread")]
async fn pseudonyms_are_stable_within_a_fleet() {
    let mut client = Client::new(Security::Noise).await;
    let mut names = Vec::new();
    for (seed, instance) in [
        ("the seed of the first fleet", "a"),
        ("the seed of the first fleet", "b"),
        ("the seed of the second fleet", "a"),
    ] {
        let variables = [("RELAY_IDENTITY_SEED", seed), ("RELAY_INSTANCE", instance)];
        let mut relay = Relay::start(&variables).await;
        client.reserve(&relay.tcp()).await.unwrap();
        let accepted = relay.event("reservation accepted").await;
        names.push(accepted["peer"].as_str().unwrap().to_owned());
        relay.stop().await;
    }
    assert_eq!(names[0], names[1]);
    assert_ne!(names[0], names[2]);
}

/// While the log is not read, the relay works, and counts lost lines.
#[tokio::test(flavor = "multi_thread")]
async fn an_unread_log_does_not_block_the_relay() {
    let mut relay = command(&[
        ("RELAY_LISTEN_ADDRESSES", "/ip4/127.0.0.1/tcp/0"),
        ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"),
        ("RUST_LOG", "trace"),
        // Hundreds of clients are needed to fill the log queue.
        ("RELAY_RATE_CONNECTIONS_PER_IP", "0"),
        ("RELAY_RATE_RESERVATIONS_PER_IP", "0"),
        ("RELAY_RATE_CIRCUITS_PER_IP", "0"),
    ])
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let mut stdout = BufReader::new(relay.stdout.take().unwrap()).lines();
    let mut admin = None;
    let address: Multiaddr = loop {
        let line = stdout.next_line().await.unwrap().unwrap();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        if is(&event, "admin endpoints") {
            admin = Some(event["address"].as_str().unwrap().parse().unwrap());
        } else if is(&event, "relay ready") {
            break event["addresses"].as_str().unwrap().parse().unwrap();
        }
    };
    let lost = timeout(test_support::PATIENCE, async {
        loop {
            ordinary_clients::assert_served(&address).await;
            let (_, metrics) = client::get(admin.unwrap(), "/metrics").await.unwrap();
            let metrics = String::from_utf8(metrics.to_vec()).unwrap();
            let mut lines = metrics.lines();
            let lost =
                lines.find_map(|l| l.strip_prefix("relay_telemetry_lost_total{signal=\"logs\"} "));
            if lost.is_some_and(|lost| lost.parse::<f64>().unwrap() > 0.0) {
                return;
            }
        }
    });
    lost.await.unwrap();
}
