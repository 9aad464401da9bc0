//! Slow senders: one byte every 300 ms during the handshake, on the muxer and in a hop request. Expected:
//! the relay ends each connection or stream at its timeout.

use std::time::{Duration, Instant};

use circuit_relay::REQUEST_TIMEOUT;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::PeerId;
use test_support::{
    process::socket,
    raw::{Raw, connect, read_out},
};
use tokio::{task::JoinSet, time::sleep};
use transports::HANDSHAKE_TIMEOUT;

use crate::{
    SLACK,
    dialler::{Security, dial, line, negotiate, secured},
    target_relay::TargetRelay,
};

/// Number of slow senders for each step.
const OFFENDERS: usize = 50;
/// Interval between two bytes.
const PAUSE: Duration = Duration::from_millis(300);

/// Sends `bytes` one at a time until the relay ends the stream. Returns the duration.
async fn send_slowly(stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Duration {
    let began = Instant::now();
    let (mut reader, mut writer) = stream.split();
    let send_slowly = async {
        for byte in bytes.iter().cycle() {
            let written = writer.write_all(&[*byte]).await;
            if written.and(writer.flush().await).is_err() {
                break;
            }
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = send_slowly => {}
        // Both a FIN and a reset are accepted.
        _ = read_out(&mut reader) => {}
    }
    began.elapsed()
}

/// Asserts that each stream ended within `most`.
async fn all_end_within(offenders: JoinSet<Duration>, most: Duration) {
    for lasted in offenders.join_all().await {
        assert!(lasted < most + SLACK, "{lasted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_handshake() {
    let target_relay = TargetRelay::start(&[]).await;
    let address = socket(&target_relay.relay.tcp());
    let mut offenders = JoinSet::new();
    // Length prefixes of a TLS record and a Noise message that are never completed.
    let incomplete = [22, 3, 1, 60, 0, 1, 0, 59, 252, 3, 3];
    for _ in 0..OFFENDERS {
        offenders.spawn(async move {
            let socket = dial(address).await;
            send_slowly(socket, &line("/multistream/1.0.0")).await
        });
        for (security, bytes) in [(Security::Noise, &[0; 11]), (Security::Tls, &incomplete)] {
            let bytes = *bytes;
            offenders.spawn(async move {
                let mut socket = dial(address).await;
                negotiate(&mut socket, security.protocol()).await;
                send_slowly(socket, &bytes).await
            });
        }
    }
    target_relay.assert_serves().await;
    all_end_within(offenders, HANDSHAKE_TIMEOUT).await;
    target_relay.assert_recovers().await;
}

/// The muxer has no timeout, but the idle timeout applies to a connection without streams.
#[tokio::test(flavor = "multi_thread")]
async fn slow_muxer_frames() {
    const IDLE: Duration = Duration::from_secs(5);
    // The relay's own streams, which this client never accepts, time out first.
    const STREAMS: Duration = Duration::from_secs(15);
    let target_relay = TargetRelay::start(&[("RELAY_IDLE_TIMEOUT", "5s")]).await;
    let mut offenders = JoinSet::new();
    for security in [Security::Noise, Security::Tls] {
        for _ in 0..OFFENDERS {
            let mut offender = secured(&target_relay.relay, security).await;
            negotiate(&mut offender, "/yamux/1.0.0").await;
            // Repeated pings, each of which takes several seconds to send.
            let ping = [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9];
            offenders.spawn(async move { send_slowly(offender, &ping).await });
        }
    }
    target_relay.assert_serves().await;
    all_end_within(offenders, IDLE + STREAMS).await;
    target_relay.assert_recovers().await;
}

/// The request timeout applies from the start of the stream, regardless of bytes received.
#[tokio::test(flavor = "multi_thread")]
async fn slow_request() {
    let target_relay = TargetRelay::start(&[]).await;
    let mut offenders = JoinSet::new();
    let mut peers = Vec::new();
    for address in [target_relay.relay.tcp(), target_relay.relay.quic()] {
        let mut offender = Raw::new(&address).await;
        for _ in 0..OFFENDERS {
            let stream = offender.hop().await;
            offenders.spawn(async move {
                let request = connect(&PeerId::random().to_bytes());
                // Sending the whole request takes longer than the timeout.
                assert!(PAUSE * u32::try_from(request.len()).unwrap() > REQUEST_TIMEOUT);
                send_slowly(stream, &request).await
            });
        }
        peers.push(offender);
    }
    target_relay.assert_serves().await;
    all_end_within(offenders, REQUEST_TIMEOUT).await;
    drop(peers);
    target_relay.assert_recovers().await;
}
