//! Connection churn: 200 concurrent clients reserve, open circuits, transfer data and disconnect at
//! random times. Expected: every reservation and circuit ends, and no file descriptor leaks.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{sync::Arc, time::Duration};

use futures::AsyncWriteExt;
use libp2p::Multiaddr;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use test_support::{
    client::Security,
    event_audit::EventAudit,
    load::{Directory, Tally, connect_and_reserve, exchange_and_disconnect},
    process::{Relay, is},
    raw::{Raw, reserve},
};
use tokio::{sync::Barrier, task::JoinSet};

const CLIENTS: u64 = 200;
/// Upper bound of a client's transfer, in bytes.
const MAX_TRANSFER: usize = 50_000;

/// A client that disconnects and reconnects with a new identity.
async fn run_client(
    seed: u64,
    address: Multiaddr,
    directory: Directory,
    all: Arc<Barrier>,
) -> Tally {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    let client = connect_and_reserve(Security::Noise, &address, &directory, &mut tally).await;
    // All clients are connected before the first one proceeds.
    all.wait().await;
    exchange_and_disconnect(
        client,
        MAX_TRANSFER,
        &mut rng,
        &address,
        &directory,
        &mut tally,
    )
    .await;
    let client = connect_and_reserve(Security::Noise, &address, &directory, &mut tally).await;
    exchange_and_disconnect(
        client,
        MAX_TRANSFER,
        &mut rng,
        &address,
        &directory,
        &mut tally,
    )
    .await;
    tally
}

/// Runs the load with these limits and returns the totals. Asserts balanced log events and no leaked
/// files.
async fn run_load(limits: &[(&str, &str)]) -> (Tally, Vec<Value>) {
    let mut variables = vec![("RELAY_STATS_INTERVAL", "1s")];
    variables.extend(limits);
    let mut relay = Relay::start(&variables).await;
    let files = relay.open_files();
    let addresses = [relay.tcp(), relay.quic(), relay.websocket()];
    let directory = Directory::default();
    let all = Arc::new(Barrier::new(usize::try_from(CLIENTS).unwrap()));

    let mut clients = JoinSet::new();
    for (seed, address) in (0..CLIENTS).zip(addresses.iter().cycle()) {
        let (directory, all) = (Arc::clone(&directory), Arc::clone(&all));
        clients.spawn(run_client(seed, address.clone(), directory, all));
    }
    let mut total = Tally::default();
    while let Some(tally) = clients.join_next().await {
        total += tally.unwrap();
    }

    relay.wait_until_idle().await;
    while relay.open_files() > files {
        relay.event("statistics").await;
    }
    let events = relay.stop().await;
    assert_balanced(&events);
    (total, events)
}

/// Asserts that each reservation and circuit ended exactly once.
fn assert_balanced(events: &[Value]) {
    let mut audit = EventAudit::default();
    audit.record(events);
    audit.assert_balanced();
}

fn count(events: &[Value], message: &str) -> u64 {
    events.iter().map(|e| u64::from(is(e, message))).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn churn_without_limits() {
    let (tally, events) = run_load(&[
        ("RELAY_MAX_RESERVATIONS", "0"),
        ("RELAY_MAX_CIRCUITS", "0"),
        ("RELAY_MAX_CIRCUITS_PER_PEER", "0"),
    ])
    .await;
    assert_eq!((tally.reserved, tally.refused), (400, 0));
    assert_eq!(count(&events, "reservation accepted"), 400);
    assert!(tally.exchanged > 100, "{tally:?}");
    assert!(count(&events, "circuit accepted") >= tally.connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn churn_with_low_limits() {
    let (tally, events) = run_load(&[
        ("RELAY_MAX_RESERVATIONS", "40"),
        ("RELAY_MAX_CIRCUITS", "20"),
        ("RELAY_MAX_CIRCUITS_PER_PEER", "2"),
    ])
    .await;
    assert!(tally.reserved >= 40 && tally.refused > 0, "{tally:?}");
    assert!(tally.exchanged > 10 && tally.failed > 0, "{tally:?}");
    let reason = |wanted: &str| events.iter().any(|e| e["reason"] == wanted);
    assert!(reason("max_reservations"));
    assert!(reason("max_circuits") || reason("max_circuits_target"));
}

/// Clients that disconnect before, during or just after the acceptance of their reservation.
#[tokio::test(flavor = "multi_thread")]
async fn disconnect_around_the_reservation_response() {
    let mut relay = Relay::start(&[("RELAY_STATS_INTERVAL", "1s")]).await;
    let mut rng = StdRng::seed_from_u64(1);
    for address in [relay.tcp(), relay.quic()].iter().cycle().take(200) {
        let mut client = Raw::new(address).await;
        let mut stream = client.hop().await;
        stream.write_all(&reserve()).await.unwrap();
        stream.flush().await.unwrap();
        let wait = Duration::from_micros(rng.random_range(0..2000));
        tokio::time::sleep(wait).await;
    }
    relay.wait_until_idle().await;
    let events = relay.stop().await;
    let granted = count(&events, "reservation accepted");
    assert!(granted > 0);
    assert_balanced(&events);
}
