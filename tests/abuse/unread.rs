//! Peers that do not read, or do not respond to STOP. Expected: back-pressure instead of buffering,
//! requests time out, and other clients are served.

use std::time::{Duration, Instant};

use circuit_relay::{
    STOP_TIMEOUT,
    wire::{self, HopMessage, Status},
};
use futures::{AsyncWriteExt, future::join_all};
use test_support::raw::{Circuit, Raw, Streams, assert_status, connect};
use tokio::time::timeout;

use crate::{
    SLACK,
    dialler::{Security, line, negotiate, secured},
    target_relay::TargetRelay,
};

/// A write without progress for this long counts as blocked.
const BLOCKED: Duration = Duration::from_secs(2);
const MIB: usize = 1024 * 1024;

/// The source sends data that the target does not read. Back-pressure blocks the source, and the relay
/// buffers at most one window for each circuit.
#[tokio::test(flavor = "multi_thread")]
async fn unread_circuits() {
    const CIRCUITS: usize = 10;
    let target_relay = TargetRelay::start(&[]).await;
    let mut circuits = Vec::new();
    for streams in [Streams::Usual, Streams::SmallWindow(1000)] {
        let address = match streams {
            Streams::SmallWindow(_) => target_relay.relay.quic(),
            _ => target_relay.relay.tcp(),
        };
        for _ in 0..CIRCUITS {
            let target = Raw::with_streams(streams, &address).await;
            circuits.push(Circuit::between(Raw::new(&address).await, target).await);
        }
    }
    let chunk = vec![7; 64 * 1024];
    join_all(circuits.iter_mut().map(|circuit| async {
        while let Ok(written) = timeout(BLOCKED, circuit.near.write_all(&chunk)).await {
            written.unwrap();
        }
    }))
    .await;
    target_relay.assert_serves().await;
    // The receive windows of the circuits, and the same amount for other buffers.
    target_relay.assert_growth_at_most(2 * CIRCUITS * 2 * MIB);
    drop(circuits);
    target_relay.assert_recovers().await;
}

/// A peer that sends identify and ping requests without reading the responses. The relay stops reading
/// from the connection, or closes it.
#[tokio::test(flavor = "multi_thread")]
async fn unread_responses() {
    const OFFENDERS: usize = 20;
    const SYN: u8 = 1;
    let target_relay = TargetRelay::start(&[("RELAY_IDLE_TIMEOUT", "5s")]).await;
    let identify_request = [line("/multistream/1.0.0"), line("/ipfs/id/1.0.0")].concat();
    let mut offenders = Vec::new();
    for _ in 0..OFFENDERS {
        let mut offender = secured(&target_relay.relay, Security::Noise).await;
        negotiate(&mut offender, "/yamux/1.0.0").await;
        offenders.push(offender);
    }
    let flood = async |offender: &mut Box<dyn crate::dialler::Duplex>| {
        for stream in (1..20_000_u32).step_by(2) {
            let mut frames = vec![0, 0, 0, SYN];
            frames.extend(stream.to_be_bytes());
            frames.extend(u32::try_from(identify_request.len()).unwrap().to_be_bytes());
            frames.extend(&identify_request);
            frames.extend([0, 2, 0, SYN, 0, 0, 0, 0]);
            frames.extend(stream.to_be_bytes());
            let sent = async {
                offender.write_all(&frames).await?;
                offender.flush().await
            };
            match timeout(BLOCKED, sent).await {
                Ok(Ok(())) => {}
                // The connection is closed, or the write is blocked.
                _ => return true,
            }
        }
        false
    };
    let held_up = join_all(offenders.iter_mut().map(flood)).await;
    assert!(held_up.iter().all(|held_up| *held_up), "{held_up:?}");
    target_relay.assert_serves().await;
    target_relay.assert_growth_at_most(OFFENDERS * 2 * MIB);
    drop(offenders);
    target_relay.assert_recovers().await;
}

/// A target that never responds to STOP. Each source gets an error after the timeout; other clients are
/// not affected.
#[tokio::test(flavor = "multi_thread")]
async fn unanswered_stop_requests() {
    const SOURCES: usize = 10;
    const EACH: usize = 10;
    let target_relay = TargetRelay::start(&[("RELAY_MAX_CIRCUITS_PER_PEER", "0")]).await;
    let began = Instant::now();
    let mut waiting = Vec::new();
    let mut peers = Vec::new();
    for address in [target_relay.relay.tcp(), target_relay.relay.quic()] {
        let mut target = Raw::new(&address).await;
        assert_status(&target.reserve().await, Status::Ok);
        let request = connect(&target.peer_id.to_bytes());
        for _ in 0..SOURCES {
            let mut source = Raw::new(&address).await;
            for _ in 0..EACH {
                let mut stream = source.hop().await;
                stream.write_all(&request).await.unwrap();
                stream.flush().await.unwrap();
                waiting.push(stream);
            }
            peers.push(source);
        }
        peers.push(target);
    }
    target_relay.assert_serves().await;
    let answers = join_all(waiting.iter_mut().map(wire::read::<HopMessage, _>)).await;
    for answer in answers {
        assert_status(&answer.unwrap(), Status::ConnectionFailed);
    }
    assert!(began.elapsed() < STOP_TIMEOUT + 2 * SLACK);
    // A QUIC connection stays open as long as one of its streams.
    drop((waiting, peers));
    target_relay.assert_recovers().await;
}
