//! Bandwidth limits of circuits: all bytes are delivered, not faster than the limit, and shares are fair.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "tests fail loudly"
)]

use std::time::{Duration, Instant};

use circuit_relay::wire::Status;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Multiaddr, Stream};
use test_support::{
    process::Relay,
    prometheus::Scrape,
    raw::{Circuit, Raw, Streams, assert_status, pattern, read_out},
};
use tokio::task::JoinSet;

/// Selects the relay address of a transport.
type Transport = fn(&Relay) -> Multiaddr;

const RATE: usize = 1_000_000;
const BURST: usize = 100_000;
/// Takes 1.5 s with the configured rate and burst.
const BYTES: usize = 1_600_000;
const AT_LEAST: Duration = Duration::from_millis(1500);

/// Opens a circuit from `source` to the reserved `target`. Returns both ends.
async fn open(source: &mut Raw, target: &mut Raw) -> (Stream, Stream) {
    let id = target.peer_id;
    let ((answer, near), (_, far)) = tokio::join!(source.connect(id), target.accept());
    assert_status(&answer, Status::Ok);
    (near, far)
}

/// Sends this many bytes of the pattern and closes the stream.
async fn send(stream: &mut Stream, length: usize) {
    stream.write_all(&pattern(length)).await.unwrap();
    stream.close().await.unwrap();
}

async fn receive(stream: &mut Stream, length: usize) {
    let (bytes, end) = read_out(stream).await;
    end.unwrap();
    assert!(bytes == pattern(length), "{} bytes received", bytes.len());
}

async fn assert_limited(transport: Transport) {
    let mut relay = Relay::start(&[
        ("RELAY_MAX_BANDWIDTH_PER_CIRCUIT", "1MB"),
        ("RELAY_MAX_BURST_PER_CIRCUIT", "100KB"),
    ])
    .await;
    let mut one_way = Circuit::open(&transport(&relay)).await;
    let both_ways = Circuit::open(&transport(&relay)).await;
    let begun = Instant::now();
    one_way.far.close().await.unwrap();
    tokio::join!(
        async {
            tokio::join!(
                send(&mut one_way.near, BYTES),
                receive(&mut one_way.far, BYTES)
            );
            assert!(begun.elapsed() >= AT_LEAST, "{:?}", begun.elapsed());
        },
        async {
            let (near, far) = (both_ways.near, both_ways.far);
            let (mut from_near, mut to_near) = near.split();
            let (mut from_far, mut to_far) = far.split();
            let sent = pattern(BYTES / 2);
            let forth = async {
                to_near.write_all(&sent).await.unwrap();
                to_near.close().await.unwrap();
            };
            let back = async {
                to_far.write_all(&sent).await.unwrap();
                to_far.close().await.unwrap();
            };
            let ((), (), at_far, at_near) = tokio::join!(
                forth,
                back,
                read_out(&mut from_far),
                read_out(&mut from_near)
            );
            for (bytes, end) in [at_far, at_near] {
                end.unwrap();
                assert!(bytes == sent, "{} bytes received", bytes.len());
            }
            assert!(begun.elapsed() >= AT_LEAST, "{:?}", begun.elapsed());
        }
    );
    for _ in 0..2 {
        let closed = relay.event("circuit closed").await;
        assert_eq!(closed["reason"], "eof", "{closed}");
    }
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bandwidth_over_tcp_is_limited() {
    assert_limited(Relay::tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bandwidth_over_quic_is_limited() {
    assert_limited(Relay::quic).await;
}

/// Counts received bytes until the stream ends.
async fn count(mut stream: Stream) -> usize {
    let (mut chunk, mut total) = (vec![0; 64 * 1024], 0);
    while let Ok(bytes @ 1..) = stream.read(&mut chunk).await {
        total += bytes;
    }
    total
}

/// Sends chunks of this size until the stream ends.
async fn flood(mut stream: Stream, piece: usize) {
    let piece = pattern(piece);
    while stream.write_all(&piece).await.is_ok() {}
}

/// Two circuits of one peer; the second one starts later and sends small chunks in the opposite
/// direction. Both forward about the same number of bytes.
async fn assert_shared(variables: &[(&str, &str)]) {
    let limits = [
        ("RELAY_MAX_CIRCUIT_DURATION", "5s"),
        ("RELAY_MAX_CIRCUIT_BYTES", "0"),
    ];
    let mut relay = Relay::start(&[&limits, variables].concat()).await;
    let mut shared = Raw::new(&relay.tcp()).await;
    let mut first = Raw::new(&relay.tcp()).await;
    let mut second = Raw::new(&relay.quic()).await;
    assert_status(&shared.reserve().await, Status::Ok);
    assert_status(&second.reserve().await, Status::Ok);

    let begun = Instant::now();
    let (near, mut far) = open(&mut first, &mut shared).await;
    let mut senders = JoinSet::new();
    senders.spawn(flood(near, 50_000));
    // The burst is used up.
    let mut burst = vec![0; BURST];
    far.read_exact(&mut burst).await.unwrap();
    let before = Instant::now();
    let (near, far_second) = open(&mut shared, &mut second).await;
    senders.spawn(flood(far_second, 100));
    let (at_far, at_near) = tokio::join!(count(far), count(near));
    senders.join_all().await;
    let took = begun.elapsed().as_secs_f64();
    let allowed = took * RATE as f64 + BURST as f64;
    let total = BURST + at_far + at_near;
    assert!(total as f64 <= allowed, "{total} in {took} s");

    // Bytes forwarded before the second circuit started are not counted.
    let mut carried = Vec::new();
    for _ in 0..2 {
        let closed = relay.event("circuit closed").await;
        assert_eq!(closed["reason"], "max_duration", "{closed}");
        let bytes = |way: &str| closed[way].as_u64().unwrap();
        carried.push(bytes("bytes_to_target") + bytes("bytes_to_source"));
    }
    let alone = BURST as f64 + 2.0 * RATE as f64 * (before - begun).as_secs_f64();
    let (first, second) = (carried[0] as f64, carried[1] as f64);
    assert!(second >= (first - alone) * 0.6, "{carried:?}");
    assert!(second <= first * 1.6 + alone, "{carried:?}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_of_a_peer_share_its_bandwidth() {
    assert_shared(&[
        ("RELAY_MAX_BANDWIDTH_PER_PEER", "1MB"),
        ("RELAY_MAX_BURST_PER_PEER", "100KB"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_circuits_share_the_bandwidth_of_the_relay() {
    assert_shared(&[
        ("RELAY_MAX_BANDWIDTH", "1MB"),
        ("RELAY_MAX_BURST", "100KB"),
        ("RELAY_MAX_BANDWIDTH_PER_CIRCUIT", "100MB"),
    ])
    .await;
}

/// How a side of a circuit ends it.
#[derive(Clone, Copy, Debug)]
enum Termination {
    SourceResets,
    TargetResets,
    SourceDisconnects,
    TargetDisconnects,
}

/// A circuit with data for minutes in the queue ends as soon as one of its sides does.
async fn assert_ends_at_once(transport: Transport, termination: Termination) {
    let mut relay = Relay::start(&[
        ("RELAY_MAX_BANDWIDTH", "1KB"),
        ("RELAY_MAX_BURST", "1KB"),
        ("RELAY_MAX_CIRCUITS", "1"),
    ])
    .await;
    let address = transport(&relay);
    let source = Raw::with_streams(Streams::ReportsResets, &address).await;
    let target = Raw::with_streams(Streams::ReportsResets, &address).await;
    let Circuit {
        source,
        target,
        mut near,
        mut far,
        ..
    } = Circuit::between(source, target).await;
    near.write_all(&pattern(200_000)).await.unwrap();
    near.flush().await.unwrap();
    far.read_exact(&mut [0; 1000]).await.unwrap();
    match termination {
        Termination::SourceResets => drop(near),
        Termination::TargetResets => drop(far),
        Termination::SourceDisconnects => drop((source, near)),
        Termination::TargetDisconnects => drop((target, far)),
    }
    let closed = relay.event("circuit closed").await;
    assert!(
        closed["bytes_to_target"].as_u64().unwrap() < 100_000,
        "{closed}"
    );
    assert!(
        ["reset", "connection_lost"].contains(&closed["reason"].as_str().unwrap()),
        "{closed}"
    );
    // The only circuit slot is free again.
    Circuit::open(&address).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_by_a_limited_source_ends_the_circuit_at_once() {
    assert_ends_at_once(Relay::tcp, Termination::SourceResets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_by_the_target_ends_a_limited_circuit_at_once() {
    assert_ends_at_once(Relay::tcp, Termination::TargetResets).await;
    assert_ends_at_once(Relay::quic, Termination::TargetResets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_source_ends_a_limited_circuit_at_once() {
    assert_ends_at_once(Relay::tcp, Termination::SourceDisconnects).await;
    assert_ends_at_once(Relay::quic, Termination::SourceDisconnects).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_target_ends_a_limited_circuit_at_once() {
    assert_ends_at_once(Relay::tcp, Termination::TargetDisconnects).await;
    assert_ends_at_once(Relay::quic, Termination::TargetDisconnects).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unlimited_circuits_are_not_delayed() {
    let relay = Relay::start(&[("RELAY_ADMIN_ADDRESS", "127.0.0.1:0")]).await;
    let mut circuit = Circuit::open(&relay.tcp()).await;
    tokio::join!(
        send(&mut circuit.near, 20 * BYTES),
        receive(&mut circuit.far, 20 * BYTES)
    );
    let scrape = Scrape::of(&relay).await;
    for cause in ["circuit", "peer", "relay"] {
        let waits = scrape.sum("relay_throttle_waits_total", &[("cause", cause)]);
        assert_eq!(waits, None, "{cause}");
    }
    let limits = scrape.sum("relay_bandwidth_limit_bytes_per_second", &[]);
    assert_eq!(limits, None);
    relay.stop().await;
}
