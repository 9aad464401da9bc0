//! A relay at its limits. Expected: new requests are refused; existing reservations and circuits are
//! kept.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::time::{Duration, Instant};

use circuit_relay::wire::Status;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Multiaddr, identity::Keypair};
use serde_json::{Value, json};
use test_support::{
    PATIENCE,
    client::{Client, Security},
    http,
    process::{Relay, is},
    prometheus::Scrape,
    raw::{Circuit, Raw, assert_status},
};
use tokio_util::task::AbortOnDropHandle;

/// Asserts the error of libp2p's client and the reason in the log.
async fn assert_refused(
    relay: &mut Relay,
    result: Result<impl Sized, String>,
    words: &str,
    reason: &str,
) {
    let error = result.err().expect("it is refused");
    assert!(error.contains(words), "{error}");
    let denied = relay.event("request denied").await;
    assert_eq!(denied["reason"], reason, "{denied}");
}

/// A client with a reservation.
async fn reserved_client(address: &Multiaddr) -> Client {
    let mut client = Client::new(Security::Noise).await;
    client.reserve(address).await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn max_circuits() {
    let mut relay = Relay::start(&[("RELAY_MAX_CIRCUITS", "1")]).await;
    let address = relay.tcp();
    let targets = [
        reserved_client(&address).await,
        reserved_client(&address).await,
    ];
    let [first, second] = targets.each_ref().map(|t| t.peer_id);
    let _targets = targets.map(Client::run);
    let mut source = Client::new(Security::Noise).await;
    let circuit = source.connect(&address, first).await.unwrap();

    let mut late = Client::new(Security::Noise).await;
    let result = late.connect(&address, second).await;
    assert_refused(
        &mut relay,
        result,
        "resource limit exceeded",
        "max_circuits",
    )
    .await;

    source.swarm.close_connection(circuit);
    let _source = source.run();
    relay.event("circuit closed").await;
    late.connect(&address, second).await.unwrap();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn max_circuits_per_peer() {
    let mut relay = Relay::start(&[("RELAY_MAX_CIRCUITS_PER_PEER", "1")]).await;
    let address = relay.quic();
    let targets = [
        reserved_client(&address).await,
        reserved_client(&address).await,
    ];
    let [first, second] = targets.each_ref().map(|t| t.peer_id);
    let _targets = targets.map(Client::run);
    let mut source = Client::new(Security::Noise).await;
    source.connect(&address, first).await.unwrap();

    let words = "resource limit exceeded";
    let result = source.connect(&address, second).await;
    assert_refused(&mut relay, result, words, "max_circuits_source").await;
    let mut late = Client::new(Security::Noise).await;
    let result = late.connect(&address, first).await;
    assert_refused(&mut relay, result, words, "max_circuits_target").await;
    late.connect(&address, second).await.unwrap();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn max_reservations() {
    let mut relay = Relay::start(&[("RELAY_MAX_RESERVATIONS", "1")]).await;
    let address = relay.tcp();
    let first = reserved_client(&address).await.run();
    let mut late = Client::new(Security::Noise).await;
    let result = late.reserve(&address).await;
    assert_refused(&mut relay, result, "refused", "max_reservations").await;

    first.abort();
    relay.event("reservation closed").await;
    late.reserve(&address).await.unwrap();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn max_reservations_per_ip() {
    let mut relay = Relay::start(&[("RELAY_MAX_RESERVATIONS_PER_IP", "1")]).await;
    let address = relay.quic();
    let _first = reserved_client(&address).await.run();
    let mut same_address = Client::new(Security::Noise).await;
    let result = same_address.reserve(&address).await;
    assert_refused(&mut relay, result, "refused", "max_reservations_per_ip").await;

    // libp2p dials QUIC from its listening socket, which determines the source address.
    let mut other_address = Client::new(Security::Noise).await;
    let other_listen = "/ip4/127.0.0.7/udp/0/quic-v1".parse().unwrap();
    other_address.listen(other_listen).await;
    other_address.reserve(&address).await.unwrap();
    relay.stop().await;
}

/// Renewals are never refused, on the same connection or on a new one.
#[tokio::test(flavor = "multi_thread")]
async fn full_relay_accepts_renewals() {
    // Such early renewals are logged at level debug.
    let variables = [
        ("RELAY_MAX_RESERVATIONS", "1"),
        ("RUST_LOG", "descord_relay=debug"),
    ];
    let mut relay = Relay::start(&variables).await;
    let address = relay.tcp();
    let key = Keypair::generate_ed25519();
    let mut reserved_client = Raw::with_key(key.clone(), &address).await;
    let mut other = Raw::new(&address).await;
    assert_status(&reserved_client.reserve().await, Status::Ok);
    assert_status(&other.reserve().await, Status::ReservationRefused);
    assert_status(&reserved_client.reserve().await, Status::Ok);
    relay.event("reservation renewed").await;

    let mut again = Raw::with_key(key, &relay.quic()).await;
    assert_status(&again.reserve().await, Status::Ok);
    relay.event("reservation renewed").await;
    drop(reserved_client);
    assert_status(&other.reserve().await, Status::ReservationRefused);
    assert_status(&again.reserve().await, Status::Ok);

    // The reservation only ends with the last connection of the peer.
    drop(again);
    relay.event("reservation closed").await;
    assert_status(&other.reserve().await, Status::Ok);
    relay.stop().await;
}

/// Only connections without reservation, circuit and identify are closed by the idle timeout. A peer that
/// uses identify needs its observed address for as long as it is connected.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_end() {
    let relay = Relay::start(&[
        ("RELAY_IDLE_TIMEOUT", "5s"),
        ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"),
    ])
    .await;
    let mut circuit = Circuit::open(&relay.tcp()).await;
    let mut reserved_client = Raw::new(&relay.quic()).await;
    assert_status(&reserved_client.reserve().await, Status::Ok);
    let mut identified = Client::new(Security::Noise).await;
    identified.dial(&relay.tcp()).await;
    let _identified = AbortOnDropHandle::new(identified.run());
    let begun = Instant::now();
    let _idle = [Raw::new(&relay.tcp()).await, Raw::new(&relay.quic()).await];
    let connections = async || {
        let scrape = Scrape::of(&relay).await;
        scrape.sum("relay_connection_active", &[]).unwrap()
    };
    assert!((connections().await - 6.0).abs() < 0.5);
    while connections().await > 4.5 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(5));
    // Longer than the idle timeout of the other connections.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!((connections().await - 4.0).abs() < 0.5);
    // This client was idle for longer.
    assert_status(&reserved_client.reserve().await, Status::Ok);
    circuit.near.write_all(b"still here").await.unwrap();
    circuit.near.flush().await.unwrap();
    circuit.far.read_exact(&mut [0; 10]).await.unwrap();
    relay.stop().await;
}

/// Many systems set a low soft limit and a higher hard limit of open files.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_limit_of_open_files_is_raised() {
    let mut command = tokio::process::Command::new("sh");
    let binary = env!("CARGO_BIN_EXE_descord-relay");
    command.args(["-c", r#"ulimit -S -n 256 && exec "$0""#, binary]);
    command.env_clear();
    let relay = Relay::start_as(command).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", relay.id())).unwrap();
    let limit = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = limit.unwrap().split_whitespace().collect();
    assert_ne!(words[3], "256");
    assert_eq!(words[3], words[4], "the soft limit equals the hard limit");
}

/// The default prefix shares. Other tests disable them, because all clients have the same address.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_limited_to_its_share_when_reservations_are_scarce() {
    const RESERVATIONS: usize = 12;
    let mut relay = Relay::start(&[
        ("RELAY_MAX_RESERVATIONS", &RESERVATIONS.to_string()),
        ("RELAY_PREFIX_SHARES", ""),
        ("RELAY_ADMIN_ADDRESS", "127.0.0.1:0"),
    ])
    .await;
    let mut clients = Vec::new();
    for _ in 0..RESERVATIONS / 4 * 3 {
        let mut client = Raw::new(&relay.tcp()).await;
        assert_status(&client.reserve().await, Status::Ok);
        clients.push(client);
    }
    let mut late = Raw::new(&relay.tcp()).await;
    assert_status(&late.reserve().await, Status::ReservationRefused);
    let denied = relay.event("request denied").await;
    assert_eq!(denied["reason"], "reservation_share");
    assert_status(&clients[0].reserve().await, Status::Ok);

    let status = http::json(&relay, "/status").await;
    let reservations = &status["resources"]["reservations"];
    let prefix = reservations["largest_prefix"]["prefix"].as_str().unwrap();
    assert!(prefix.starts_with("n-"), "{prefix}");
    let expected = json!({
        "used": clients.len(),
        "limit": RESERVATIONS,
        "is_scarce": true,
        "largest_prefix": { "prefix": prefix, "used": clients.len(), "is_private": true },
    });
    assert_eq!(*reservations, expected);
    assert_eq!(
        status["resources"]["connections"]["used"],
        clients.len() + 1
    );

    // The log event contains the same address prefix, and a warning that limits apply to all these
    // clients.
    let scarce = relay.event("resource is scarce").await;
    assert_eq!(scarce["resource"], "reservations");
    assert_eq!(scarce["largest_prefix"], prefix);
    let one = "more than half of the clients come from one private or proxy address";
    let majority = |event: &Value| is(event, one);
    if !relay.events.iter().any(majority) {
        relay.event(one).await;
    }
    let majority = relay.events.iter().find(|event| majority(event)).unwrap();
    assert_eq!(majority["prefix"], prefix);

    clients.truncate(RESERVATIONS / 2);
    relay.event("resource is no longer scarce").await;
    assert_status(&late.reserve().await, Status::Ok);
    relay.stop().await;
}
