//! Clients behind a slow network. Expected: they receive all bytes of a circuit before the relay exits.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures::AsyncWriteExt;
use libp2p::{Multiaddr, PeerId};
use test_support::{
    process::{Relay, socket},
    raw::{Circuit, Raw, pattern, read_out},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, UdpSocket},
    task::JoinSet,
    time::Instant,
};

const BYTES_PER_SECOND: f64 = 100_000.0;
/// Takes longer than common timeouts for closing a connection.
const BYTES: usize = 700_000;

const MAX_PACKET_BYTES: usize = 2048;

/// Limits the throughput of the emulated network.
struct Throttle {
    free_at: Instant,
}

impl Throttle {
    fn new() -> Self {
        Self {
            free_at: Instant::now(),
        }
    }

    /// Waits until this many bytes have passed.
    async fn carry(&mut self, bytes: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a packet is small")]
        let takes = Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND);
        self.free_at = self.free_at.max(Instant::now()) + takes;
        tokio::time::sleep_until(self.free_at).await;
    }
}

/// A TCP forwarder that limits the direction from the relay to the client.
async fn slow_tcp(relay: SocketAddr, peer_id: PeerId, tasks: &mut JoinSet<()>) -> Multiaddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let upstream = TcpSocket::new_v4().unwrap();
        // Keeps undelivered data in the relay's socket buffers, not in the forwarder's.
        upstream.set_recv_buffer_size(16 * 1024).unwrap();
        let upstream = upstream.connect(relay).await.unwrap();
        let (mut from_relay, mut to_relay) = upstream.into_split();
        let (mut from_client, mut to_client) = client.into_split();
        let there = async {
            let _ = tokio::io::copy(&mut from_client, &mut to_relay).await;
            let _ = to_relay.shutdown().await;
        };
        let here = async {
            let mut pace = Throttle::new();
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = from_relay.read(&mut chunk).await {
                pace.carry(n).await;
                to_client.write_all(&chunk[..n]).await.unwrap();
            }
            let _ = to_client.shutdown().await;
        };
        tokio::join!(there, here);
    });
    format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id}")
        .parse()
        .unwrap()
}

/// The same for QUIC. Packets beyond the socket buffer are lost.
async fn slow_udp(relay: SocketAddr, peer_id: PeerId, tasks: &mut JoinSet<()>) -> Multiaddr {
    let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    outside.connect(relay).await.unwrap();
    let port = inside.local_addr().unwrap().port();
    tasks.spawn(async move {
        let mut packet = [0; MAX_PACKET_BYTES];
        let (n, client) = inside.recv_from(&mut packet).await.unwrap();
        outside.send(&packet[..n]).await.unwrap();
        let there = async {
            loop {
                let (n, _) = inside.recv_from(&mut packet).await.unwrap();
                // The relay may have exited.
                let _ = outside.send(&packet[..n]).await;
            }
        };
        let here = async {
            let mut pace = Throttle::new();
            let mut packet = [0; MAX_PACKET_BYTES];
            while let Ok(n) = outside.recv(&mut packet).await {
                pace.carry(n).await;
                inside.send_to(&packet[..n], client).await.unwrap();
            }
        };
        tokio::join!(there, here);
    });
    format!("/ip4/127.0.0.1/udp/{port}/quic-v1/p2p/{peer_id}")
        .parse()
        .unwrap()
}

async fn assert_all_received(mut relay: Relay, slow: Multiaddr) {
    let source = Raw::new(&relay.tcp()).await;
    let target = Raw::new(&slow).await;
    let mut circuit = Circuit::between(source, target).await;
    relay.signal(15);
    relay.event("no new connections are accepted").await;
    circuit.far.close().await.unwrap();
    let data = pattern(BYTES);
    let sending = async {
        circuit.near.write_all(&data).await.unwrap();
        circuit.near.close().await.unwrap();
    };
    let ((), (received, end)) = tokio::join!(sending, read_out(&mut circuit.far));
    let received_bytes = received.len();
    end.unwrap_or_else(|error| panic!("{error} after {received_bytes} bytes of {BYTES}"));
    assert!(received == data, "{received_bytes} bytes of {BYTES}");
    let summary = relay.event("drained").await;
    assert_eq!(summary["circuits_finished"], 1, "{summary}");
    assert_eq!(relay.exit_code().await, Some(0));
}

async fn start() -> Relay {
    Relay::start(&[("RELAY_DRAIN_WINDOW", "0"), ("RELAY_DRAIN_TIMEOUT", "1h")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_bytes_are_received_over_tcp() {
    let (relay, mut tasks) = (start().await, JoinSet::new());
    let slow = slow_tcp(socket(&relay.tcp()), relay.peer_id, &mut tasks).await;
    assert_all_received(relay, slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_bytes_are_received_over_quic() {
    let (relay, mut tasks) = (start().await, JoinSet::new());
    let slow = slow_udp(socket(&relay.quic()), relay.peer_id, &mut tasks).await;
    assert_all_received(relay, slow).await;
}
