//! A byte now and then, at every step on the way to a circuit.

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

/// Offenders at each step.
const OFFENDERS: usize = 50;
/// The time between two bytes.
const PAUSE: Duration = Duration::from_millis(300);

/// Says `bytes` one by one, for as long as the relay listens; gives how long that was.
async fn drip(stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Duration {
    let began = Instant::now();
    let (mut reader, mut writer) = stream.split();
    let drip = async {
        for byte in bytes.iter().cycle() {
            let written = writer.write_all(&[*byte]).await;
            if written.and(writer.flush().await).is_err() {
                break;
            }
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = drip => {}
        // An end and a reset will both do.
        _ = read_out(&mut reader) => {}
    }
    began.elapsed()
}

/// Nobody was listened to for longer than this.
async fn all_end_within(offenders: JoinSet<Duration>, most: Duration) {
    for lasted in offenders.join_all().await {
        assert!(lasted < most + SLACK, "{lasted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_handshake() {
    let target_relay = TargetRelay::start(&[]).await;
    let address = socket(&target_relay.relay.tcp());
    let mut offenders = JoinSet::new();
    // A record of TLS and a message of Noise begin with their length; so much will never come.
    let never = [22, 3, 1, 60, 0, 1, 0, 59, 252, 3, 3];
    for _ in 0..OFFENDERS {
        offenders.spawn(async move {
            let socket = dial(address).await;
            drip(socket, &line("/multistream/1.0.0")).await
        });
        for (security, bytes) in [(Security::Noise, &[0; 11]), (Security::Tls, &never)] {
            let bytes = *bytes;
            offenders.spawn(async move {
                let mut socket = dial(address).await;
                negotiate(&mut socket, security.protocol()).await;
                drip(socket, &bytes).await
            });
        }
    }
    target_relay.assert_serves().await;
    all_end_within(offenders, HANDSHAKE_TIMEOUT).await;
    target_relay.assert_recovers().await;
}

/// The muxer has no timeout, but a connection without a stream is idle.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_muxer() {
    const IDLE: Duration = Duration::from_secs(5);
    // The relay's own streams, which nobody accepts here, have their time first.
    const STREAMS: Duration = Duration::from_secs(15);
    let target_relay = TargetRelay::start(&[("RELAY_IDLE_TIMEOUT", "5s")]).await;
    let mut offenders = JoinSet::new();
    for security in [Security::Noise, Security::Tls] {
        for _ in 0..OFFENDERS {
            let mut offender = secured(&target_relay.relay, security).await;
            negotiate(&mut offender, "/yamux/1.0.0").await;
            // Ping after ping, each of which takes some seconds.
            let ping = [0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9];
            offenders.spawn(async move { drip(offender, &ping).await });
        }
    }
    target_relay.assert_serves().await;
    all_end_within(offenders, IDLE + STREAMS).await;
    target_relay.assert_recovers().await;
}

/// A stream has its time for its request, however many bytes come meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_request() {
    let target_relay = TargetRelay::start(&[]).await;
    let mut offenders = JoinSet::new();
    let mut peers = Vec::new();
    for address in [target_relay.relay.tcp(), target_relay.relay.quic()] {
        let mut offender = Raw::new(&address).await;
        for _ in 0..OFFENDERS {
            let stream = offender.hop().await;
            offenders.spawn(async move {
                let request = connect(&PeerId::random().to_bytes());
                // The last bytes would come after the end.
                assert!(PAUSE * u32::try_from(request.len()).unwrap() > REQUEST_TIMEOUT);
                drip(stream, &request).await
            });
        }
        peers.push(offender);
    }
    target_relay.assert_serves().await;
    all_end_within(offenders, REQUEST_TIMEOUT).await;
    drop(peers);
    target_relay.assert_recovers().await;
}
