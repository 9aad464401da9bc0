//! Reservation expiry at the same time as renewals and circuits. Expected: a reservation is not renewed
//! after its expiry, and each expires exactly once.

use std::time::Duration;

use circuit_relay::wire::{self, HopMessage, Status};
use futures::AsyncWriteExt;
use serde_json::Value;
use test_support::{
    PATIENCE,
    process::is,
    raw::{Raw, assert_status, connect, reserve},
};
use tokio::time::{Instant, sleep_until, timeout};

use crate::target_relay::TargetRelay;

/// The shortest TTL that can be configured.
const TTL: Duration = Duration::from_secs(30);

fn count(events: &[Value], messages: &[&str]) -> usize {
    let is_meant = |event: &&Value| messages.iter().any(|message| is(event, message));
    events.iter().filter(is_meant).count()
}

/// Stops the relay process from just before some reservations expire until after their expiry, like a
/// suspended machine. On resumption, expiry timers, renewals and circuits to the reserved peers are all
/// pending at once.
#[tokio::test(flavor = "multi_thread")]
async fn reservations_expire_during_suspension() {
    const PEERS: usize = 10;
    let mut target_relay = TargetRelay::start(&[("RELAY_RESERVATION_TTL", "30s")]).await;
    let address = target_relay.relay.tcp();
    let granted = Instant::now();
    let (mut reserved_peers, mut sources) = (Vec::new(), Vec::new());
    for _ in 0..PEERS {
        let mut reserved = Raw::new(&address).await;
        assert_status(&reserved.reserve().await, Status::Ok);
        reserved_peers.push(reserved);
        sources.push(Raw::new(&address).await);
    }
    let last = Instant::now();
    // Opens the streams in advance. The relay resets a stream without a request after 10 s.
    sleep_until(granted + TTL - Duration::from_secs(4)).await;
    let mut streams = Vec::new();
    for (reserved, source) in reserved_peers.iter_mut().zip(&mut sources) {
        let connect = connect(&reserved.peer_id.to_bytes());
        streams.push((source.hop().await, connect, Status::NoReservation));
        streams.push((reserved.hop().await, reserve(), Status::Ok));
    }
    target_relay.relay.suspend();
    sleep_until(last + TTL + Duration::from_millis(100)).await;
    for (stream, request, _) in &mut streams {
        stream.write_all(request).await.unwrap();
        stream.flush().await.unwrap();
    }
    target_relay.relay.resume();
    for (stream, _, status) in &mut streams {
        let answer = timeout(PATIENCE, wire::read::<HopMessage, _>(stream)).await;
        let answer = answer.unwrap().unwrap();
        // Renewed peers hold a reservation again, but do not accept circuits in this test.
        let may_be_expired = *status == Status::NoReservation;
        if !(may_be_expired && answer.status == Some(Status::ConnectionFailed.into())) {
            assert_status(&answer, *status);
        }
    }
    target_relay.assert_serves().await;
    drop((reserved_peers, sources));
    target_relay.relay.wait_until_idle().await;
    let events = &target_relay.relay.events;
    let began = count(events, &["reservation accepted"]);
    let ended = count(events, &["reservation expired", "reservation closed"]);
    assert_eq!(began, ended);
    // Each reservation expired once; none was renewed after its expiry.
    assert_eq!(count(events, &["reservation expired"]), PEERS);
    assert_eq!(count(events, &["reservation renewed"]), 0);
    target_relay.assert_recovers().await;
}
