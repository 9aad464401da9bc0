//! The misbehaving clients of the soak test, which select a random kind of attack for each iteration.

use std::time::Duration;

use futures::AsyncWriteExt;
use libp2p::{Multiaddr, PeerId};
use rand::{RngExt, rngs::StdRng};
use socket2::SockRef;
use test_support::{
    process::socket,
    raw::{Circuit, Raw, connect, read_out, reserve},
};
use tokio::time::{Instant, sleep, timeout};

use super::{RelayAddresses, Tally};
use crate::dialler::{Security, dial, negotiate, noise};

/// A write without progress for this long counts as blocked.
const BLOCKED: Duration = Duration::from_secs(1);
/// Interval between two attacks.
const PAUSE: Duration = Duration::from_millis(500);
/// Longer than the reservation TTL.
const AFTER_EXPIRY: Duration = Duration::from_secs(33);

/// Attacks until the deadline.
pub(super) async fn misbehave(mut rng: StdRng, addresses: RelayAddresses, until: Instant) -> Tally {
    while Instant::now() < until {
        let address = if rng.random_bool(0.5) {
            &addresses.tcp
        } else {
            &addresses.quic
        };
        match rng.random_range(0..10) {
            0 => resets(&addresses.tcp).await,
            1 => random_bytes(&addresses.tcp, None).await,
            2 => random_bytes(&addresses.tcp, Some(Security::Noise)).await,
            3 => random_bytes(&addresses.tcp, Some(Security::Tls)).await,
            4 => streams_without_request(address).await,
            5 => undecodable_requests(address).await,
            6 => request_flood(address).await,
            7 => unread_circuit(address).await,
            8 => unanswered_stop(address).await,
            _ => expired_reservation(address, until).await,
        }
        sleep(PAUSE).await;
    }
    Tally::default()
}

/// TCP connections that are reset right after they are established.
async fn resets(address: &Multiaddr) {
    for _ in 0..20 {
        let socket = dial(socket(address)).await.into_inner();
        let linger = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        linger.unwrap();
    }
}

/// Random bytes instead of multistream-select or a security handshake, until the relay closes the
/// connection.
async fn random_bytes(address: &Multiaddr, security: Option<Security>) {
    let mut socket = dial(socket(address)).await;
    if let Some(security) = security {
        negotiate(&mut socket, security.protocol()).await;
    }
    // The relay may already have closed the connection.
    let _ = socket.write_all(&noise(4096)).await;
    let _ = read_out(&mut socket).await;
}

/// Hop streams without a request, on a connection that is closed at once.
async fn streams_without_request(address: &Multiaddr) {
    let mut offender = Raw::new(address).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(offender.hop().await);
    }
}

/// Undecodable requests.
async fn undecodable_requests(address: &Multiaddr) {
    let mut offender = Raw::new(address).await;
    for bytes in [b"\x08garbage!".as_slice(), &[0], &[0xff; 64]] {
        offender.request(bytes).await;
    }
}

/// Requests without a pause between response and next request.
async fn request_flood(address: &Multiaddr) {
    let mut offender = Raw::new(address).await;
    for _ in 0..50 {
        offender.request(&reserve()).await;
        let unreserved = connect(&PeerId::random().to_bytes());
        offender.request(&unreserved).await;
    }
}

/// A circuit whose target does not read, until the source is blocked.
async fn unread_circuit(address: &Multiaddr) {
    let mut circuit = Circuit::open(address).await;
    let chunk = vec![7; 64 * 1024];
    // The loop also ends when the circuit reaches its byte limit.
    while let Ok(Ok(())) = timeout(BLOCKED, circuit.near.write_all(&chunk)).await {}
}

/// A circuit to a target that never responds to STOP; the source disconnects before the timeout.
async fn unanswered_stop(address: &Multiaddr) {
    let mut target = Raw::new(address).await;
    let mut source = Raw::new(address).await;
    target.reserve().await;
    let _ = timeout(BLOCKED, source.connect(target.peer_id)).await;
}

/// A reserved peer that does not renew and stays connected.
async fn expired_reservation(address: &Multiaddr, until: Instant) {
    let mut peer = Raw::new(address).await;
    peer.reserve().await;
    let left = until.saturating_duration_since(Instant::now());
    sleep(left.min(AFTER_EXPIRY)).await;
}
