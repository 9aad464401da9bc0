//! Circuits that form a loop. Expected: each circuit ends at its byte limit, and other clients are served
//! meanwhile.

use circuit_relay::wire::Status;
use futures::{AsyncReadExt, AsyncWriteExt, io::copy};
use test_support::raw::{Circuit, Raw, assert_status, pattern};
use tokio::task::JoinSet;

use crate::target_relay::TargetRelay;

/// The relay is not a valid circuit target: it holds no reservation, and never dials itself.
#[tokio::test(flavor = "multi_thread")]
async fn circuit_to_the_relay() {
    let target_relay = TargetRelay::start(&[]).await;
    for address in [target_relay.relay.tcp(), target_relay.relay.quic()] {
        let mut source = Raw::new(&address).await;
        assert_status(&source.reserve().await, Status::Ok);
        let (answer, _) = source.connect(target_relay.relay.peer_id).await;
        assert_status(&answer, Status::NoReservation);
        let (answer, _) = source.connect(source.peer_id).await;
        assert_status(&answer, Status::PermissionDenied);
    }
    target_relay.assert_recovers().await;
}

/// Peers that forward the bytes of each circuit to the next one, in a ring. The bytes pass the relay
/// repeatedly until the circuits reach their byte limits.
#[tokio::test(flavor = "multi_thread")]
async fn ring_of_circuits() {
    const CIRCUITS: usize = 4;
    let mut target_relay = TargetRelay::start(&[("RELAY_MAX_CIRCUIT_BYTES", "50000000")]).await;
    let address = target_relay.relay.tcp();
    let mut peers = Vec::new();
    let (mut nears, mut fars) = (Vec::new(), Vec::new());
    for _ in 0..CIRCUITS {
        let Circuit {
            source,
            target,
            near,
            far,
            ..
        } = Circuit::open(&address).await;
        peers.push((source, target));
        nears.push(near);
        fars.push(far);
    }
    nears[0].write_all(&pattern(50_000)).await.unwrap();
    nears[0].flush().await.unwrap();
    // The output of each circuit is the input of the next; the last one feeds the first.
    nears.rotate_left(1);
    let mut links = JoinSet::new();
    for (far, near) in fars.into_iter().zip(nears) {
        links.spawn(async move {
            let (reader, _far) = far.split();
            let (_near, mut writer) = near.split();
            // The copy ends when its circuits end.
            let _ = copy(reader, &mut writer).await;
        });
    }
    target_relay.assert_serves().await;
    let cut = target_relay
        .relay
        .event_where("circuit closed", |event| event["reason"] == "max_bytes");
    cut.await;
    drop(peers);
    while links.join_next().await.transpose().unwrap().is_some() {}
    target_relay.assert_recovers().await;
}
