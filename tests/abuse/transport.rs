//! Bad input below libp2p's streams: sockets that say nothing, nonsense, or stop half way.

use futures::{AsyncReadExt, AsyncWriteExt, future::join_all};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use test_support::{
    ordinary_clients,
    process::{Relay, socket},
};
use tokio::net::UdpSocket;

use crate::dialler::{Security, dial, is_closed, line, negotiate, noise, secured};

async fn start() -> Relay {
    Relay::start(&[("RELAY_STATS_INTERVAL", "1s")]).await
}

/// The relay closes a connection to the TCP or the WebSocket port on which these bytes are sent.
async fn is_hung_up_on(bytes: &[u8]) {
    let relay = start().await;
    let mut offenders = Vec::new();
    for address in [relay.tcp(), relay.websocket()] {
        let mut offender = dial(socket(&address)).await;
        offender.write_all(bytes).await.unwrap();
        ordinary_clients::assert_served(&address).await;
        offenders.push(offender);
    }
    join_all(offenders.iter_mut().map(is_closed)).await;
    relay.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage() {
    is_hung_up_on(&noise(100_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol() {
    is_hung_up_on(b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_after_multistream() {
    is_hung_up_on(&line("/multistream/1.0.0")).await;
}

/// The header of a WebSocket frame of 200 MB, and nothing more: no memory is reserved for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_giant_websocket_frame() {
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
    // The frame does not come within the time of a handshake.
    join_all(offenders.iter_mut().map(is_closed)).await;
    relay.assert_unharmed().await;
}

/// A security that was agreed on, and then nonsense instead of its handshake.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_within_the_handshake() {
    let relay = start().await;
    for security in [Security::Noise, Security::Tls] {
        let mut offender = dial(socket(&relay.tcp())).await;
        negotiate(&mut offender, security.protocol()).await;
        // It may be closed before all of it is written.
        let _ = offender.write_all(&noise(100_000)).await;
        ordinary_clients::assert_served(&relay.tcp()).await;
        is_closed(&mut offender).await;
    }
    relay.assert_unharmed().await;
}

/// Authenticated, and then nonsense instead of a muxer, or nonsense spoken to the muxer.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_after_the_handshake() {
    let relay = start().await;
    for security in [Security::Noise, Security::Tls] {
        for muxer in [None, Some("/yamux/1.0.0")] {
            let mut offender = secured(&relay, security).await;
            if let Some(muxer) = muxer {
                negotiate(&mut offender, muxer).await;
            }
            // It may be closed before all of it is written.
            let _ = offender.write_all(&noise(100_000)).await;
            let _ = offender.flush().await;
            ordinary_clients::assert_served(&relay.tcp()).await;
            is_closed(&mut offender).await;
        }
    }
    relay.assert_unharmed().await;
}

/// Datagrams of every size, and ones that look like QUIC at first sight.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_datagrams() {
    let relay = start().await;
    let offender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    offender.connect(socket(&relay.quic())).await.unwrap();
    let mut rng = StdRng::seed_from_u64(9);
    for number in 0..3000_usize {
        let mut datagram = noise(rng.random_range(0..1400));
        if number % 2 == 0 && datagram.len() >= 7 {
            // The start of an Initial packet of version 1 with a connection id.
            let start = [0xc0 | rng.random_range(0..16), 0, 0, 0, 1, 8];
            datagram.splice(..start.len(), start);
        }
        // An answer that nobody is there to read can come back as an error of the next one.
        let _ = offender.send(&datagram).await;
    }
    ordinary_clients::assert_served(&relay.quic()).await;
    ordinary_clients::assert_served(&relay.tcp()).await;
    relay.assert_unharmed().await;
}
