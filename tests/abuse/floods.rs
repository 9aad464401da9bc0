//! Request floods with the default rate limits. Expected: ordinary clients are served, and memory is
//! released. Exact refusal counts are tested in `tests/relaying/rates.rs`.

use circuit_relay::wire::Status;
use futures::future::join_all;
use libp2p::{Multiaddr, PeerId};
use serde_json::Value;
use test_support::{
    forward::{Forward, loopback},
    process::is,
    raw::{Raw, connect, reserve},
};

use crate::target_relay::TargetRelay;

/// The default rate limits. Relays of other tests have none.
const RATES: [(&str, &str); 3] = [
    ("RELAY_RATE_CONNECTIONS_PER_IP", "500+20/s"),
    ("RELAY_RATE_RESERVATIONS_PER_IP", "500+10/s"),
    ("RELAY_RATE_CIRCUITS_PER_IP", "1000+20/s"),
];

/// Sends `requests` reservation requests and twice as many CONNECT requests. Returns the number of
/// responses by kind.
async fn flood(address: &Multiaddr, requests: usize) -> Tally {
    let mut offender = Raw::new(address).await;
    let mut tally = Tally::default();
    for _ in 0..requests {
        let unreserved = || connect(&PeerId::random().to_bytes());
        for request in [reserve(), unreserved(), unreserved()] {
            let (answer, _) = offender.request(&request).await;
            match answer.status.and_then(|s| Status::try_from(s).ok()) {
                Some(Status::Ok) => tally.granted += 1,
                Some(Status::NoReservation) => tally.answered += 1,
                Some(Status::ReservationRefused | Status::ResourceLimitExceeded) => {
                    tally.refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    tally
}

#[derive(Debug, Default)]
struct Tally {
    /// Accepted reservations, most of them renewals.
    granted: usize,
    /// CONNECT requests to unreserved peers that were not rate-limited.
    answered: usize,
    refused: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_peer() {
    // After a burst of 64, renewals are delayed to ten a second.
    const REQUESTS: usize = 150;
    let mut target_relay = TargetRelay::start(&RATES).await;
    for address in [target_relay.relay.tcp(), target_relay.relay.quic()] {
        let tally = flood(&address, REQUESTS).await;
        // Renewals are delayed, never refused.
        assert_eq!(tally.granted, REQUESTS, "{tally:?}");
        assert!(tally.refused > REQUESTS / 2, "{tally:?}");
    }
    target_relay.relay.wait_until_idle().await;
    let renewed = |event: &&Value| is(event, "reservation renewed");
    let lines = target_relay.relay.events.iter().filter(renewed).count();
    assert!(lines < REQUESTS / 10, "{lines} log lines for renewals");
    target_relay.assert_recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_many_peers_at_one_address() {
    const PEERS: usize = 40;
    let target_relay = TargetRelay::start(&RATES).await;
    let offenders = Forward::start(&target_relay.relay.tcp(), loopback(2), Vec::new()).await;
    let address = offenders.address();
    let tallies = join_all((0..PEERS).map(|_| flood(&address, 50)));
    let (tallies, ()) = tokio::join!(tallies, target_relay.assert_serves());
    let refused: usize = tallies.iter().map(|tally| tally.refused).sum();
    assert!(refused > 500, "{tallies:?}");
    drop(offenders);
    target_relay.assert_recovers().await;
}
