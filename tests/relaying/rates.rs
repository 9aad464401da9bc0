//! Floods from one peer or one address are limited, and other clients are served as usual.

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
/// A burst of this, and next to nothing after it.
const BURST: u32 = 5;
const RATE: &str = "5+1/h";
/// The connections of a flood.
const FLOOD: u32 = 200;
const SECOND: u8 = 2;
const THIRD: u8 = 3;

/// A relay that can be asked, with these variables.
async fn start(variables: &[(&str, &str)]) -> Relay {
    let admin = [("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")];
    Relay::start(&[&admin, variables].concat()).await
}

/// Waits until exactly this many were counted for this reason.
async fn reaches(relay: &Relay, what: &str, reason: &str, wanted: u32) {
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

/// Connects so often from `from`, and gives how many got an answer.
async fn flood(from: Ipv4Addr, address: &Multiaddr) -> u32 {
    let target = socket(address);
    let mut open = Vec::new();
    for _ in 0..FLOOD {
        // A connection that is rejected at once may fail before it is established.
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
    // The address has had its share, whichever port it comes to.
    assert_eq!(flood(loopback(SECOND), &relay.tcp()).await, 0);
    ordinary_clients::assert_served(&relay.tcp()).await;
    reaches(
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
        // libp2p dials QUIC from the socket that it listens on, hence from this address.
        peer.listen(from(client)).await;
        let reserved = peer.reserve(&address).await;
        assert_eq!(reserved.is_ok(), is_served, "{client}: {reserved:?}");
        let _peer = peer.run();
    }
    reaches(&relay, REFUSED, "rate_connections_per_ip", 1).await;
    relay.stop().await;
}

/// A peer that the relay has no room for, and that does not stop asking.
#[tokio::test(flavor = "multi_thread")]
async fn reservations_of_one_peer() {
    let relay = start(&[
        ("RELAY_MAX_RESERVATIONS", "1"),
        ("RELAY_RATE_RESERVATIONS_PER_PEER", RATE),
    ])
    .await;
    let mut holder = Raw::new(&relay.tcp()).await;
    assert_status(&holder.reserve().await, Status::Ok);
    let key = Keypair::generate_ed25519();
    for address in [relay.tcp(), relay.quic()] {
        // Another connection is the same peer.
        let mut flooder = Raw::with_key(key.clone(), &address).await;
        for _ in 0..10 {
            assert_status(&flooder.reserve().await, Status::ReservationRefused);
        }
    }
    let mut other = Raw::new(&relay.tcp()).await;
    assert_status(&other.reserve().await, Status::ReservationRefused);
    reaches(&relay, DENIED, "rate_reservations_per_peer", 20 - BURST).await;
    reaches(&relay, DENIED, "max_reservations", BURST + 1).await;
    // Who holds one renews it as often as it likes.
    for _ in 0..2 * BURST {
        assert_status(&holder.reserve().await, Status::Ok);
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_from_one_address() {
    let relay = start(&[("RELAY_RATE_RESERVATIONS_PER_IP", RATE)]).await;
    let mut holders = Vec::new();
    for _ in 0..BURST {
        let mut holder = Raw::new(&relay.tcp()).await;
        assert_status(&holder.reserve().await, Status::Ok);
        holders.push(holder);
    }
    // Peer ids are free, addresses are not.
    for address in [relay.tcp(), relay.quic()] {
        let mut late = Raw::new(&address).await;
        assert_status(&late.reserve().await, Status::ReservationRefused);
    }
    let elsewhere = Forward::start(&relay.tcp(), loopback(SECOND), Vec::new()).await;
    let mut stranger = Raw::new(&elsewhere.address()).await;
    assert_status(&stranger.reserve().await, Status::Ok);
    for holder in &mut holders {
        assert_status(&holder.reserve().await, Status::Ok);
    }
    reaches(&relay, DENIED, "rate_reservations_per_ip", 2).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_of_one_peer_and_from_one_address() {
    let variables = [
        ("RELAY_RATE_CIRCUITS_PER_PEER", RATE),
        ("RELAY_RATE_CIRCUITS_PER_IP", "12+1/h"),
    ];
    let relay = start(&variables).await;
    let nobody = PeerId::random();
    let statuses = async |peer: &mut Raw, number: u32| {
        let mut none = 0;
        for _ in 0..number {
            let answer = peer.connect(nobody).await.0;
            match answer.status {
                Some(status) if status == i32::from(Status::NoReservation) => none += 1,
                _ => assert_status(&answer, Status::ResourceLimitExceeded),
            }
        }
        none
    };
    let mut flooder = Raw::new(&relay.tcp()).await;
    assert_eq!(statuses(&mut flooder, 20).await, BURST);
    reaches(&relay, DENIED, "rate_circuits_per_peer", 20 - BURST).await;
    // What exceeds the peer's own rate is not on its neighbours' account.
    let mut neighbour = Raw::new(&relay.quic()).await;
    assert_eq!(statuses(&mut neighbour, BURST).await, BURST);
    let mut third = Raw::new(&relay.tcp()).await;
    assert_eq!(statuses(&mut third, BURST).await, 2);
    reaches(&relay, DENIED, "rate_circuits_per_ip", BURST - 2).await;

    let elsewhere = Forward::start(&relay.tcp(), loopback(SECOND), Vec::new()).await;
    ordinary_clients::assert_served(&elsewhere.address()).await;
    relay.stop().await;
}

/// A flood of refusals is a few lines of the log, and no refusal is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_does_not_flood_the_log() {
    const REQUESTS: u32 = 1000;
    let mut relay = start(&[("RELAY_RATE_CIRCUITS_PER_PEER", "1+1/h")]).await;
    let mut flooder = Raw::new(&relay.tcp()).await;
    for _ in 0..=REQUESTS {
        flooder.connect(PeerId::random()).await;
    }
    reaches(&relay, DENIED, "rate_circuits_per_peer", REQUESTS).await;
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
