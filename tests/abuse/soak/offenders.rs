//! What those do who do wrong, each time another thing.

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

use super::{Doors, Tally};
use crate::dialler::{Security, dial, negotiate, noise};

/// How long nothing has to move until somebody is stuck.
const STUCK: Duration = Duration::from_secs(1);
/// The time between two offences.
const PAUSE: Duration = Duration::from_millis(500);
/// Longer than a reservation lasts that is not renewed.
const OUTLASTS: Duration = Duration::from_secs(33);

/// Offends until then.
pub(super) async fn offend(mut rng: StdRng, doors: Doors, until: Instant) -> Tally {
    while Instant::now() < until {
        let address = if rng.random_bool(0.5) {
            &doors.tcp
        } else {
            &doors.quic
        };
        match rng.random_range(0..10) {
            0 => resets(&doors.tcp).await,
            1 => garbage(&doors.tcp, None).await,
            2 => garbage(&doors.tcp, Some(Security::Noise)).await,
            3 => garbage(&doors.tcp, Some(Security::Tls)).await,
            4 => silent_streams(address).await,
            5 => nonsense(address).await,
            6 => flood(address).await,
            7 => unread(address).await,
            8 => unanswered(address).await,
            _ => overstay(address, until).await,
        }
        sleep(PAUSE).await;
    }
    Tally::default()
}

/// Sockets that are reset as soon as they are open.
async fn resets(address: &Multiaddr) {
    for _ in 0..20 {
        let socket = dial(socket(address)).await.into_inner();
        let linger = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        linger.unwrap();
    }
}

/// Random bytes on a socket, or instead of a handshake; the relay ends it.
async fn garbage(address: &Multiaddr, security: Option<Security>) {
    let mut socket = dial(socket(address)).await;
    if let Some(security) = security {
        negotiate(&mut socket, security.protocol()).await;
    }
    // The relay may have gone already.
    let _ = socket.write_all(&noise(4096)).await;
    let _ = read_out(&mut socket).await;
}

/// Hop streams without a byte, on a connection that is gone at once.
async fn silent_streams(address: &Multiaddr) {
    let mut offender = Raw::new(address).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(offender.hop().await);
    }
}

/// Requests that are none.
async fn nonsense(address: &Multiaddr) {
    let mut offender = Raw::new(address).await;
    for bytes in [b"\x08garbage!".as_slice(), &[0], &[0xff; 64]] {
        offender.request(bytes).await;
    }
}

/// Requests as fast as they are answered.
async fn flood(address: &Multiaddr) {
    let mut offender = Raw::new(address).await;
    for _ in 0..50 {
        offender.request(&reserve()).await;
        let nobody = connect(&PeerId::random().to_bytes());
        offender.request(&nobody).await;
    }
}

/// A circuit whose target does not read, until its source is stuck.
async fn unread(address: &Multiaddr) {
    let mut circuit = Circuit::open(address).await;
    let chunk = vec![7; 64 * 1024];
    // Or until it has carried all that it may.
    while let Ok(Ok(())) = timeout(STUCK, circuit.near.write_all(&chunk)).await {}
}

/// A source that does not wait until its target, who never answers STOP, has had its time.
async fn unanswered(address: &Multiaddr) {
    let mut target = Raw::new(address).await;
    let mut source = Raw::new(address).await;
    target.reserve().await;
    let _ = timeout(STUCK, source.connect(target.peer_id)).await;
}

/// A holder who does not renew, and stays.
async fn overstay(address: &Multiaddr, until: Instant) {
    let mut holder = Raw::new(address).await;
    holder.reserve().await;
    let left = until.saturating_duration_since(Instant::now());
    sleep(left.min(OUTLASTS)).await;
}
