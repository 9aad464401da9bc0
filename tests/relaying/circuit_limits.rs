//! Byte and time limits of a circuit. Expected: exactly the allowed bytes are delivered, and a cut
//! circuit does not look complete.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use circuit_relay::wire::Limit;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::Multiaddr;
use test_support::{
    process::Relay,
    raw::{Circuit, pattern, read_out},
};

/// Byte limit of a circuit in these tests.
const LIMIT: usize = 65_536;
const LIMITED: [(&str, &str); 1] = [("RELAY_MAX_CIRCUIT_BYTES", "65536")];

/// A transport, and how its readers observe a reset.
#[derive(Clone, Copy)]
enum Transport {
    /// The stock yamux client reports a reset as the end of the stream.
    Tcp,
    /// The stock QUIC client reports a reset as an error.
    Quic,
}

impl Transport {
    fn address(self, relay: &Relay) -> Multiaddr {
        match self {
            Self::Tcp => relay.tcp(),
            Self::Quic => relay.quic(),
        }
    }

    /// Asserts that `reader` receives the first `length` bytes of the [`pattern`], followed by a reset.
    async fn assert_cut_after(self, length: usize, reader: &mut (impl AsyncRead + Unpin)) {
        let (bytes, end) = read_out(reader).await;
        assert_eq!(bytes.len(), length);
        assert!(
            bytes == pattern(length),
            "received bytes differ from the sent ones"
        );
        if let Self::Quic = self {
            let end = end.expect_err("a circuit that is cut must not look complete");
            assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        }
    }
}

/// Sends the [`pattern`] until the stream ends.
async fn send(writer: &mut (impl AsyncWrite + Unpin), length: usize) {
    // The circuit may be cut while sending.
    let _ = writer.write_all(&pattern(length)).await;
    let _ = writer.flush().await;
}

/// One side sends more than the limit, the other one nothing.
async fn assert_cut_at_limit(transport: Transport) {
    let mut relay = Relay::start(&LIMITED).await;
    let address = transport.address(&relay);

    let mut circuit = Circuit::open(&address).await;
    let (near, far) = (&mut circuit.near, &mut circuit.far);
    tokio::join!(
        send(near, LIMIT + 1),
        transport.assert_cut_after(LIMIT, far)
    );
    transport.assert_cut_after(0, near).await;
    let closed = relay.event("circuit closed").await;
    assert_eq!(closed["reason"], "max_bytes", "{closed}");
    assert_eq!(closed["bytes_to_target"], LIMIT, "{closed}");
    assert_eq!(closed["bytes_to_source"], 0, "{closed}");

    let mut circuit = Circuit::open(&address).await;
    let (near, far) = (&mut circuit.near, &mut circuit.far);
    tokio::join!(
        send(far, 3 * LIMIT),
        transport.assert_cut_after(LIMIT, near)
    );
    transport.assert_cut_after(0, far).await;
    let closed = relay.event("circuit closed").await;
    assert_eq!(closed["reason"], "max_bytes", "{closed}");
    assert_eq!(closed["bytes_to_target"], 0, "{closed}");
    assert_eq!(closed["bytes_to_source"], LIMIT, "{closed}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_over_tcp() {
    assert_cut_at_limit(Transport::Tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_over_quic() {
    assert_cut_at_limit(Transport::Quic).await;
}

/// Each direction has a separate limit. Data up to the limit is delivered completely.
async fn assert_complete_within_limit(transport: Transport) {
    let mut relay = Relay::start(&LIMITED).await;
    let Circuit {
        near,
        far,
        source: _source,
        target: _target,
        ..
    } = Circuit::open(&transport.address(&relay)).await;
    let one_side = async |stream: libp2p::Stream| {
        let (mut reader, mut writer) = stream.split();
        let write = async {
            writer.write_all(&pattern(LIMIT)).await.unwrap();
            writer.close().await.unwrap();
        };
        let ((), (bytes, end)) = tokio::join!(write, read_out(&mut reader));
        end.unwrap();
        assert!(bytes == pattern(LIMIT), "{} bytes received", bytes.len());
    };
    tokio::join!(one_side(near), one_side(far));
    let closed = relay.event("circuit closed").await;
    assert_eq!(closed["reason"], "eof", "{closed}");
    assert_eq!(closed["bytes_to_target"], LIMIT, "{closed}");
    assert_eq!(closed["bytes_to_source"], LIMIT, "{closed}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_up_to_the_limit_over_tcp() {
    assert_complete_within_limit(Transport::Tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_up_to_the_limit_over_quic() {
    assert_complete_within_limit(Transport::Quic).await;
}

/// The target exceeds the limit after the source has closed its direction.
async fn assert_half_closed_is_cut(transport: Transport) {
    let mut relay = Relay::start(&LIMITED).await;
    let mut circuit = Circuit::open(&transport.address(&relay)).await;
    let (near, far) = (&mut circuit.near, &mut circuit.far);
    near.write_all(&pattern(1000)).await.unwrap();
    near.close().await.unwrap();
    let (bytes, end) = read_out(far).await;
    end.unwrap();
    assert!(bytes == pattern(1000), "{} bytes received", bytes.len());
    tokio::join!(
        send(far, 2 * LIMIT),
        transport.assert_cut_after(LIMIT, near)
    );
    let closed = relay.event("circuit closed").await;
    assert_eq!(closed["reason"], "max_bytes", "{closed}");
    assert_eq!(closed["bytes_to_target"], 1000, "{closed}");
    assert_eq!(closed["bytes_to_source"], LIMIT, "{closed}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_over_tcp() {
    assert_half_closed_is_cut(Transport::Tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_over_quic() {
    assert_half_closed_is_cut(Transport::Quic).await;
}

/// Busy, idle and half-closed circuits all end after two seconds.
async fn assert_cut_after_duration(transport: Transport) {
    const DURATION: Duration = Duration::from_secs(2);
    let mut relay = Relay::start(&[
        ("RELAY_MAX_CIRCUIT_DURATION", "2s"),
        ("RELAY_MAX_CIRCUIT_BYTES", "0"),
    ])
    .await;
    let address = transport.address(&relay);
    let began = Instant::now();
    let mut busy = Circuit::open(&address).await;
    let mut idle = Circuit::open(&address).await;
    let mut half = Circuit::open(&address).await;
    half.near.close().await.unwrap();

    let chatter = async {
        let chunk = pattern(10_000);
        while busy.near.write_all(&chunk).await.is_ok() {}
    };
    let ((), (bytes, end), (), ()) = tokio::join!(
        chatter,
        read_out(&mut busy.far),
        transport.assert_cut_after(0, &mut idle.far),
        transport.assert_cut_after(0, &mut half.near),
    );
    assert!(bytes.len() > 10_000, "{} bytes received", bytes.len());
    if let Transport::Quic = transport {
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    for _ in 0..3 {
        let closed = relay.event("circuit closed").await;
        assert_eq!(closed["reason"], "max_duration", "{closed}");
        let duration = closed["duration_seconds"].as_f64().unwrap();
        let late = duration - DURATION.as_secs_f64();
        assert!((0.0..1.0).contains(&late), "{closed}");
    }
    assert!(began.elapsed() >= DURATION);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duration_over_tcp() {
    assert_cut_after_duration(Transport::Tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duration_over_quic() {
    assert_cut_after_duration(Transport::Quic).await;
}

/// Every response about a circuit contains the limits.
#[tokio::test(flavor = "multi_thread")]
async fn responses_contain_the_limits() {
    let relay = Relay::start(&[]).await;
    let limit = Limit {
        duration: Some(3600),
        data: Some(100_000_000),
    };
    let mut circuit = Circuit::open(&relay.tcp()).await;
    assert_eq!(circuit.answer.limit, Some(limit));
    assert_eq!(circuit.stop.limit, Some(limit));
    assert_eq!(circuit.target.reserve().await.limit, Some(limit));
    relay.stop().await;
}

/// With limits of 0, responses contain no limit, and more bytes than the default limit are forwarded.
#[tokio::test(flavor = "multi_thread")]
async fn zero_is_unlimited() {
    const LENGTH: usize = 101_000_000;
    let mut relay = Relay::start(&[
        ("RELAY_MAX_CIRCUIT_BYTES", "0"),
        ("RELAY_MAX_CIRCUIT_DURATION", "0"),
    ])
    .await;
    let mut circuit = Circuit::open(&relay.tcp()).await;
    assert_eq!(circuit.answer.limit, None);
    assert_eq!(circuit.stop.limit, None);
    assert_eq!(circuit.target.reserve().await.limit, None);

    let sent = pattern(LENGTH);
    let write = async {
        circuit.near.write_all(&sent).await.unwrap();
        circuit.near.close().await.unwrap();
    };
    let ((), (bytes, end)) = tokio::join!(write, read_out(&mut circuit.far));
    end.unwrap();
    assert!(bytes == sent, "{} bytes received", bytes.len());
    circuit.far.close().await.unwrap();
    let closed = relay.event("circuit closed").await;
    assert_eq!(closed["reason"], "eof", "{closed}");
    assert_eq!(closed["bytes_to_target"], LENGTH, "{closed}");
    relay.stop().await;
}
