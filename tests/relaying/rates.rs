//! Request floods of one peer or one address. Expected: they are rate-limited, and other clients are
//! served.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{net::Ipv4Addr, time::Duration};

use circuit_relay::wire::Status;
use futures::future::join_all;
use libp2p::{Multiaddr, PeerId, identity::Keypair};
use test_support::{
    PATIENCE,
    client::{Client, Security},
    forward::{Forward, connect, loopback},
    ordinary_clients,
    process::{Relay, is, socket},
    prometheus::Scrape,
    raw::{Raw, assert_status},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

/// The first bytes of every TCP connection, in both directions.
const MULTISTREAM: &[u8] = b"\x13/multistream/1.0.0\n";
/// The burst in these tests; the sustained rate is close to zero.
const BURST: u32 = 5;
const RATE: &str = "5+1/h";
/// Number of connections of a flood.
const FLOOD: u32 = 200;
const SECOND: u8 = 2;
const THIRD: u8 = 3;

/// A relay with admin endpoints and these variables.
async fn start(variables: &[(&str, &str)]) -> Relay {
    let admin = [("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")];
    Relay::start(&[&admin, variables].concat()).await
}

/// Waits until exactly this many events are counted for this reason.
async fn wait_for_count(relay: &Relay, what: &str, reason: &str, wanted: u32) {
    let mut last = None;
    let reached = timeout(PATIENCE, async {
        while last != Some(f64::from(wanted)) {
            sleep(Duration::from_millis(20)).await;
            last = Scrape::of(relay).await.sum(what, &[("reason", reason)]);
        }
    });
    let reached = reached.await;
    assert!(reached.is_ok(), "{what} {reason}: {last:?}, not {wanted}");
}

const REFUSED: &str = "relay_connection_denied_total";
const DENIED: &str = "relay_hop_requests_total";

/// Opens connections from `from` and returns how many the relay accepted.
async fn flood(from: Ipv4Addr, address: &Multiaddr) -> u32 {
    let target = socket(address);
    let mut open = Vec::new();
    for _ in 0..FLOOD {
        // The connection attempt itself may fail if the relay rejects it at once.
        open.extend(connect(from, target).await);
    }
    let answers = open.iter_mut().map(|stream| async {
        let mut answer = [0; MULTISTREAM.len()];
        let spoken = async {
            stream.write_all(MULTISTREAM).await?;
            stream.read_exact(&mut answer).await
        };
        u32::from(timeout(PATIENCE, spoken).await.unwrap().is_ok())
    });
    join_all(answers).await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_from_one_address() {
    let relay = start(&[("RELAY_RATE_CONNECTIONS_PER_IP", RATE)]).await;
    assert_eq!(flood(loopback(SECOND), &relay.tcp()).await, BURST);
    // The limit of the address applies to all ports.
    assert_eq!(flood(loopback(SECOND), &relay.tcp()).await, 0);
    ordinary_clients::assert_served(&relay.tcp()).await;
    wait_for_count(
        &relay,
        REFUSED,
        "rate_connections_per_ip",
        2 * FLOOD - BURST,
    )
    .await;
    let events = relay.stop().await;
    let lines = events
        .iter()
        .filter(|event| is(event, "connection refused"));
    let lines: Vec<_> = lines.collect();
    assert!((100..200).contains(&lines.len()), "{}", lines.len());
    assert_eq!(lines[0]["reason"], "rate_connections_per_ip");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_quic() {
    let relay = start(&[("RELAY_RATE_CONNECTIONS_PER_IP", "2+1/h")]).await;
    let address = relay.quic();
    let from = |number| {
        format!("/ip4/127.0.0.{number}/udp/0/quic-v1")
            .parse()
            .unwrap()
    };
    for (client, is_served) in [
        (SECOND, true),
        (SECOND, true),
        (SECOND, false),
        (THIRD, true),
    ] {
        let mut peer = Client::new(Security::Noise).await;
        // libp2p dials QUIC from its listening socket, which determines the source address.
        peer.listen(from(client)).await;
        let reserved = peer.reserve(&address).await;
        assert_eq!(reserved.is_ok(), is_served, "{client}: {reserved:?}");
        let _peer = peer.run();
    }
    wait_for_count(&relay, REFUSED, "rate_connections_per_ip", 1).await;
    relay.stop().await;
}

/// A peer without a reservation that repeats its request at a full relay.
#[tokio::test(flavor = "multi_thread")]
async fn reservations_of_one_peer() {
    let relay = start(&[
        ("RELAY_MAX_RESERVATIONS", "1"),
        ("RELAY_RATE_RESERVATIONS_PER_PEER", RATE),
    ])
    .await;
    let mut reserved = Raw::new(&relay.tcp()).await;
    assert_status(&reserved.reserve().await, Status::Ok);
    let key = Keypair::generate_ed25519();
    for address in [relay.tcp(), relay.quic()] {
        // The limit applies to the peer, so to its other connections too.
        let mut flooder = Raw::with_key(key.clone(), &address).await;
        for _ in 0..10 {
            assert_status(&flooder.reserve().await, Status::ReservationRefused);
        }
    }
    let mut other = Raw::new(&relay.tcp()).await;
    assert_status(&other.reserve().await, Status::ReservationRefused);
    wait_for_count(&relay, DENIED, "rate_reservations_per_peer", 20 - BURST).await;
    wait_for_count(&relay, DENIED, "max_reservations", BURST + 1).await;
    // Renewals are not limited.
    for _ in 0..2 * BURST {
        assert_status(&reserved.reserve().await, Status::Ok);
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_from_one_address() {
    let relay = start(&[("RELAY_RATE_RESERVATIONS_PER_IP", RATE)]).await;
    let mut reserved_peers = Vec::new();
    for _ in 0..BURST {
        let mut reserved = Raw::new(&relay.tcp()).await;
        assert_status(&reserved.reserve().await, Status::Ok);
        reserved_peers.push(reserved);
    }
    // The limit applies to the address, whatever the peer id.
    for address in [relay.tcp(), relay.quic()] {
        let mut late = Raw::new(&address).await;
        assert_status(&late.reserve().await, Status::ReservationRefused);
    }
    let other_address = Forward::start(&relay.tcp(), loopback(SECOND), Vec::new()).await;
    let mut other_client = Raw::new(&other_address.address()).await;
    assert_status(&other_client.reserve().await, Status::Ok);
    for reserved in &mut reserved_peers {
        assert_status(&reserved.reserve().await, Status::Ok);
    }
    wait_for_count(&relay, DENIED, "rate_reservations_per_ip", 2).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_of_one_peer_and_from_one_address() {
    let variables = [
        ("RELAY_RATE_CIRCUITS_PER_PEER", RATE),
        ("RELAY_RATE_CIRCUITS_PER_IP", "12+1/h"),
    ];
    let relay = start(&variables).await;
    let target = PeerId::random();
    let statuses = async |peer: &mut Raw, number: u32| {
        let mut none = 0;
        for _ in 0..number {
            let answer = peer.connect(target).await.0;
            match answer.status {
                Some(status) if status == i32::from(Status::NoReservation) => none += 1,
                _ => assert_status(&answer, Status::ResourceLimitExceeded),
            }
        }
        none
    };
    let mut flooder = Raw::new(&relay.tcp()).await;
    assert_eq!(statuses(&mut flooder, 20).await, BURST);
    wait_for_count(&relay, DENIED, "rate_circuits_per_peer", 20 - BURST).await;
    // Requests beyond a peer's limit do not count towards the limit of its address.
    let mut same_address = Raw::new(&relay.quic()).await;
    assert_eq!(statuses(&mut same_address, BURST).await, BURST);
    let mut third = Raw::new(&relay.tcp()).await;
    assert_eq!(statuses(&mut third, BURST).await, 2);
    wait_for_count(&relay, DENIED, "rate_circuits_per_ip", BURST - 2).await;

    let other_address = Forward::start(&relay.tcp(), loopback(SECOND), Vec::new()).await;
    ordinary_clients::assert_served(&other_address.address()).await;
    relay.stop().await;
}

/// A flood of refusals results in a few log lines, and the suppressed ones are counted.
#[tokio::test(flavor = "multi_thread")]
async fn refusal_flood_results_in_few_log_lines() {
    const REQUESTS: u32 = 1000;
    let mut relay = start(&[("RELAY_RATE_CIRCUITS_PER_PEER", "1+1/h")]).await;
    let mut flooder = Raw::new(&relay.tcp()).await;
    for _ in 0..=REQUESTS {
        flooder.connect(PeerId::random()).await;
    }
    wait_for_count(&relay, DENIED, "rate_circuits_per_peer", REQUESTS).await;
    let reason = "rate_circuits_per_peer";
    let more = relay.event_where("suppressed refusals", |e| e["reason"] == reason);
    let more = more.await;
    assert_eq!(more["refused"], "request");
    let of_flood =
        |event: &&serde_json::Value| is(event, "request denied") && event["reason"] == reason;
    let lines = relay.events.iter().filter(of_flood).count() as u64;
    assert!((100..u64::from(REQUESTS)).contains(&lines), "{lines} lines");
    let number = more["number"].as_u64().unwrap();
    assert_eq!(lines + number, u64::from(REQUESTS));
    relay.stop().await;
}
