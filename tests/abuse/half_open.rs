//! Thousands of TCP connections on which nobody says a word.

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

/// As many as there may be.
const MOST: u64 = 10_000;
/// The files that the test itself needs.
const OTHERS: u64 = 500;
/// How many handshakes the relay has under way at once, and a margin.
const UNDER_WAY: usize = 1024 + 100;
/// What each of these connections may take, and what the process may grow by besides.
const GROWN: usize = 64 * 1024 * 1024;

/// Connects as often as this process may, by turns from each of these addresses.
async fn flood(target_relay: &TargetRelay, from: &[Ipv4Addr]) -> Vec<TcpStream> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let number = usize::try_from(MOST.min(hard.saturating_sub(OTHERS))).unwrap();
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
                // A connection that is rejected at once may fail before it is established.
                open.extend(connect(from, target).await);
            }
            open
        });
    }
    parts.join_all().await.into_iter().flatten().collect()
}

/// One address cannot take the room of all others.
#[tokio::test(flavor = "multi_thread")]
async fn from_one_address() {
    // The rate is the usual one.
    let target_relay = TargetRelay::start(&[("RELAY_RATE_CONNECTIONS_PER_IP", "500+20/s")]).await;
    let offenders = flood(&target_relay, &[loopback(2)]).await;
    target_relay.assert_serves().await;
    target_relay.assert_growth_at_most(GROWN);
    assert!(
        target_relay.files() < UNDER_WAY,
        "{} files",
        target_relay.files()
    );
    drop(offenders);
    target_relay.assert_recovers().await;
}

/// Many together take the room of new connections, for as long as a handshake may take; but nothing from
/// those who are there.
#[tokio::test(flavor = "multi_thread")]
async fn from_many_addresses() {
    let target_relay = TargetRelay::start(&[]).await;
    let address = target_relay.relay.tcp();
    let mut holder = Raw::new(&address).await;
    let mut guest = Raw::new(&address).await;
    assert_status(&holder.reserve().await, Status::Ok);
    let many: Vec<_> = (2..100).map(loopback).collect();
    let offenders = flood(&target_relay, &many).await;
    assert_status(&holder.reserve().await, Status::Ok);
    let target = holder.peer_id;
    let ((answer, _near), (_, _far)) = tokio::join!(guest.connect(target), holder.accept());
    assert_status(&answer, Status::Ok);
    target_relay.assert_growth_at_most(GROWN);
    assert!(
        target_relay.files() < UNDER_WAY,
        "{} files",
        target_relay.files()
    );
    drop((offenders, holder, guest));
    target_relay.assert_recovers().await;
}
