//! Clocks: reservations that run out in the moment in which they are wanted.

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

/// The shortest that there is.
const TTL: Duration = Duration::from_secs(30);

fn count(events: &[Value], messages: &[&str]) -> usize {
    let is_meant = |event: &&Value| messages.iter().any(|message| is(event, message));
    events.iter().filter(is_meant).count()
}

/// The relay stands still from just before some reservations run out until after that, as on a
/// machine that is suspended. When it goes on, it finds at once that it is late, that some holders
/// want to renew, and that others want circuits to them.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_machine_skips_the_end_of_reservations() {
    const PEERS: usize = 10;
    let mut target_relay = TargetRelay::start(&[("RELAY_RESERVATION_TTL", "30s")]).await;
    let address = target_relay.relay.tcp();
    let granted = Instant::now();
    let (mut holders, mut sources) = (Vec::new(), Vec::new());
    for _ in 0..PEERS {
        let mut holder = Raw::new(&address).await;
        assert_status(&holder.reserve().await, Status::Ok);
        holders.push(holder);
        sources.push(Raw::new(&address).await);
    }
    let last = Instant::now();
    // Streams that are ready for their request; a silent one does not live longer than 10 s.
    sleep_until(granted + TTL - Duration::from_secs(4)).await;
    let mut streams = Vec::new();
    for (holder, source) in holders.iter_mut().zip(&mut sources) {
        let connect = connect(&holder.peer_id.to_bytes());
        streams.push((source.hop().await, connect, Status::NoReservation));
        streams.push((holder.hop().await, reserve(), Status::Ok));
    }
    target_relay.relay.freeze();
    sleep_until(last + TTL + Duration::from_millis(100)).await;
    for (stream, request, _) in &mut streams {
        stream.write_all(request).await.unwrap();
        stream.flush().await.unwrap();
    }
    target_relay.relay.thaw();
    for (stream, _, status) in &mut streams {
        let answer = timeout(PATIENCE, wire::read::<HopMessage, _>(stream)).await;
        let answer = answer.unwrap().unwrap();
        // The first peers to renew are reserved again, and do not accept circuits in this test.
        let may_be_late = *status == Status::NoReservation;
        if !(may_be_late && answer.status == Some(Status::ConnectionFailed.into())) {
            assert_status(&answer, *status);
        }
    }
    target_relay.assert_serves().await;
    drop((holders, sources));
    target_relay.relay.is_idle().await;
    let events = &target_relay.relay.events;
    let began = count(events, &["reservation accepted"]);
    let ended = count(events, &["reservation expired", "reservation closed"]);
    assert_eq!(began, ended);
    // Each has expired once: none was renewed after its end.
    assert_eq!(count(events, &["reservation expired"]), PEERS);
    assert_eq!(count(events, &["reservation renewed"]), 0);
    target_relay.assert_recovers().await;
}
