//! Bad input below libp2p's streams: sockets without a byte, random bytes, incomplete messages. Expected:
//! the relay closes the connection within the handshake timeout; other clients are served.

use futures::{AsyncReadExt, AsyncWriteExt, future::join_all};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use test_support::{
    ordinary_clients,
    process::{Relay, socket},
};
use tokio::net::UdpSocket;

use crate::dialler::{Security, assert_closed, dial, line, negotiate, noise, secured};

async fn start() -> Relay {
    Relay::start(&[("RELAY_STATS_INTERVAL", "1s")]).await
}

/// Asserts that the relay closes TCP and WebSocket connections that send these bytes.
async fn assert_connection_closed(bytes: &[u8]) {
    let relay = start().await;
    let mut offenders = Vec::new();
    for address in [relay.tcp(), relay.websocket()] {
        let mut offender = dial(socket(&address)).await;
        offender.write_all(bytes).await.unwrap();
        ordinary_clients::assert_served(&address).await;
        offenders.push(offender);
    }
    join_all(offenders.iter_mut().map(assert_closed)).await;
    relay.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes() {
    assert_connection_closed(&noise(100_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_request() {
    assert_connection_closed(b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn multistream_header_only() {
    assert_connection_closed(&line("/multistream/1.0.0")).await;
}

/// Only the header of a WebSocket frame of 200 MB. The relay does not allocate the announced length.
#[tokio::test(flavor = "multi_thread")]
async fn oversized_websocket_frame() {
    let relay = start().await;
    let before = relay.used_bytes();
    let mut offenders = Vec::new();
    for _ in 0..8 {
        let mut offender = dial(socket(&relay.websocket())).await;
        let upgrade = b"GET / HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        offender.write_all(upgrade).await.unwrap();
        let mut switching = [0; 12];
        offender.read_exact(&mut switching).await.unwrap();
        assert_eq!(&switching, b"HTTP/1.1 101");
        let mut header = vec![0x82, 0x80 | 127];
        header.extend(200_000_000u64.to_be_bytes());
        header.extend([0; 4]);
        offender.write_all(&header).await.unwrap();
        offenders.push(offender);
    }
    ordinary_clients::assert_served(&relay.websocket()).await;
    let grown = relay.used_bytes().saturating_sub(before);
    assert!(grown < 50_000_000, "grown by {grown} bytes");
    // The frame is not completed within the handshake timeout.
    join_all(offenders.iter_mut().map(assert_closed)).await;
    relay.assert_unharmed().await;
}

/// Random bytes instead of the handshake of the negotiated security protocol.
#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_in_the_handshake() {
    let relay = start().await;
    for security in [Security::Noise, Security::Tls] {
        let mut offender = dial(socket(&relay.tcp())).await;
        negotiate(&mut offender, security.protocol()).await;
        // The relay may close the connection before all bytes are written.
        let _ = offender.write_all(&noise(100_000)).await;
        ordinary_clients::assert_served(&relay.tcp()).await;
        assert_closed(&mut offender).await;
    }
    relay.assert_unharmed().await;
}

/// Random bytes after the security handshake, both before and after muxer negotiation.
#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_after_the_handshake() {
    let relay = start().await;
    for security in [Security::Noise, Security::Tls] {
        for muxer in [None, Some("/yamux/1.0.0")] {
            let mut offender = secured(&relay, security).await;
            if let Some(muxer) = muxer {
                negotiate(&mut offender, muxer).await;
            }
            // The relay may close the connection before all bytes are written.
            let _ = offender.write_all(&noise(100_000)).await;
            let _ = offender.flush().await;
            ordinary_clients::assert_served(&relay.tcp()).await;
            assert_closed(&mut offender).await;
        }
    }
    relay.assert_unharmed().await;
}

/// Random datagrams of various sizes, some with a valid QUIC header prefix.
#[tokio::test(flavor = "multi_thread")]
async fn random_datagrams() {
    let relay = start().await;
    let offender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    offender.connect(socket(&relay.quic())).await.unwrap();
    let mut rng = StdRng::seed_from_u64(9);
    for number in 0..3000_usize {
        let mut datagram = noise(rng.random_range(0..1400));
        if number % 2 == 0 && datagram.len() >= 7 {
            // The prefix of a QUIC version 1 Initial packet with a connection id.
            let start = [0xc0 | rng.random_range(0..16), 0, 0, 0, 1, 8];
            datagram.splice(..start.len(), start);
        }
        // An ICMP error for an earlier datagram may be reported here.
        let _ = offender.send(&datagram).await;
    }
    ordinary_clients::assert_served(&relay.quic()).await;
    ordinary_clients::assert_served(&relay.tcp()).await;
    relay.assert_unharmed().await;
}
