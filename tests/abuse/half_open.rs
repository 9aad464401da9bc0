//! Thousands of TCP connections without a security handshake. Expected: from one address, ordinary
//! clients are served; from many, established connections and memory are not affected.

use std::net::Ipv4Addr;

use circuit_relay::wire::Status;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use test_support::{
    forward::{connect, loopback},
    process::socket,
    raw::{Raw, assert_status},
};
use tokio::{net::TcpStream, task::JoinSet};

use crate::target_relay::TargetRelay;

/// Upper bound of the connections.
const MAX_CONNECTIONS: u64 = 10_000;
/// File descriptors that the test process itself needs.
const RESERVED_FILES: u64 = 500;
/// The relay's limit of concurrent handshakes, and a margin.
const MAX_HANDSHAKES: usize = 1024 + 100;
/// Bound of memory growth, in bytes: these connections and the process itself.
const MAX_GROWTH: usize = 64 * 1024 * 1024;

/// Opens as many connections as the file limit allows, from these addresses in rotation.
async fn flood(target_relay: &TargetRelay, from: &[Ipv4Addr]) -> Vec<TcpStream> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let number = usize::try_from(MAX_CONNECTIONS.min(hard.saturating_sub(RESERVED_FILES))).unwrap();
    let target = socket(&target_relay.relay.tcp());
    let mut parts = JoinSet::new();
    for part in 0..20 {
        let from: Vec<_> = from.to_vec();
        parts.spawn(async move {
            let mut open = Vec::new();
            for from in from
                .into_iter()
                .cycle()
                .take(number / 20 + usize::from(part == 0))
            {
                // The connection attempt itself may fail if the relay rejects it at once.
                open.extend(connect(from, target).await);
            }
            open
        });
    }
    parts.join_all().await.into_iter().flatten().collect()
}

/// One address cannot use up the capacity for concurrent handshakes.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_from_one_address() {
    // The default rate limit.
    let target_relay = TargetRelay::start(&[("RELAY_RATE_CONNECTIONS_PER_IP", "500+20/s")]).await;
    let offenders = flood(&target_relay, &[loopback(2)]).await;
    target_relay.assert_serves().await;
    target_relay.assert_growth_at_most(MAX_GROWTH);
    assert!(
        target_relay.files() < MAX_HANDSHAKES,
        "{} files",
        target_relay.files()
    );
    drop(offenders);
    target_relay.assert_recovers().await;
}

/// Many addresses can fill the capacity for concurrent handshakes until the handshake timeout.
/// Established connections are not affected.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_from_many_addresses() {
    let target_relay = TargetRelay::start(&[]).await;
    let address = target_relay.relay.tcp();
    let mut reserved = Raw::new(&address).await;
    let mut client = Raw::new(&address).await;
    assert_status(&reserved.reserve().await, Status::Ok);
    let many: Vec<_> = (2..100).map(loopback).collect();
    let offenders = flood(&target_relay, &many).await;
    assert_status(&reserved.reserve().await, Status::Ok);
    let target = reserved.peer_id;
    let ((answer, _near), (_, _far)) = tokio::join!(client.connect(target), reserved.accept());
    assert_status(&answer, Status::Ok);
    target_relay.assert_growth_at_most(MAX_GROWTH);
    assert!(
        target_relay.files() < MAX_HANDSHAKES,
        "{} files",
        target_relay.files()
    );
    drop((offenders, reserved, client));
    target_relay.assert_recovers().await;
}
